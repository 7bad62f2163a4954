//! Many played devices at one real coordinator: how long until all of them serve, how long one takes that comes later, and
//! what that costs the coordinator. The devices share the machine with it.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::binaries::Binaries;
use crate::coordinator::{CoordinatorConfig, CoordinatorProcess};
use crate::dataset::patterns::Patterns;
use crate::operator::Operator;
use crate::poll::{Answer, wait_until};
use crate::simulated::{SimulatedDevice, SimulatedMeans};

/// Devices that come when all others serve, one after the other.
const LATE: usize = 5;
/// The coordinator's processor time in rest is counted for so long.
const REST: Duration = Duration::from_secs(20);
/// Between two looks at the list of all devices, which costs the coordinator something.
const LOOK: Duration = Duration::from_secs(1);
/// For any one step.
const LIMIT: Duration = Duration::from_secs(1800);

/// The kernel's count of processor time, per second: USER_HZ on every architecture that this is built for.
const TICKS: u64 = 100;

/// What was measured.
#[derive(Debug)]
pub struct Report {
    devices: usize,
    joined: Duration,
    told: Duration,
    rollout_cpu: Duration,
    late: Vec<Duration>,
    idle_share: f64,
    rss_bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let late: Vec<String> = self.late.iter().map(|late| format!("{:.2}", late.as_secs_f64())).collect();
        writeln!(
            f,
            "| devices | all known | first to last that serves | coordinator's processor time meanwhile | each of {LATE} that come later | processor in rest | memory |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        write!(
            f,
            "| {} | {:.1} s | {:.1} s | {:.1} s | {} s | {:.1} % of a core | {} MB |",
            self.devices,
            self.joined.as_secs_f64(),
            self.told.as_secs_f64(),
            self.rollout_cpu.as_secs_f64(),
            late.join(", "),
            100.0 * self.idle_share,
            self.rss_bytes / 1_000_000
        )
    }
}

/// Has `devices` of them join, deploys to them, and has five more join. A device says that it is there every `beat`.
///
/// # Errors
/// When the coordinator fails, or a step takes longer than half an hour.
pub async fn run(devices: usize, beat: Duration) -> Result<Report> {
    let binaries = tokio::task::spawn_blocking(Binaries::build).await??;
    let folder = tempfile::tempdir()?;
    let images = folder.path().join("images");
    Patterns { side: 12, train: 256, test: 100, seed: 5 }.write(&images)?;
    let config = CoordinatorConfig { offline_after: 10 * beat, ..CoordinatorConfig::default() };
    let coordinator =
        CoordinatorProcess::start(&binaries, &folder.path().join("coordinator"), config).await?;
    let operator = coordinator.operator()?;
    let means = |name: String| SimulatedMeans { requests: 0, beat, ..SimulatedMeans::new(&name) };

    let begun = Instant::now();
    let start =
        |index| SimulatedDevice::start_lasting(means(format!("sim-{index:05}")), coordinator.address());
    let mut crowd: Vec<_> = (0..devices).map(start).collect();
    known(&operator, devices).await?;
    let joined = begun.elapsed();

    let cpu_before = cpu_time(coordinator.pid())?;
    let manifest = format!(
        "apiVersion: reconvene/v1\nkind: Deployment\nmetadata: {{ name: crowd }}\nspec:\n  network: resnet20\n  \
         dataset: {{ format: idx, path: {images:?} }}\n  pruning: {{ rounds: 4 }}\n  \
         training: {{ epochs: 1, batch: 32, learningRate: 0.05 }}\n  budgets:\n    - params: 50%\n"
    );
    operator.apply(&manifest).await?;
    let mut served = Vec::with_capacity(devices);
    for device in &mut crowd {
        served.push(tokio::time::timeout(LIMIT, device.served()).await.context("no model came")??);
    }
    let rollout_cpu = cpu_time(coordinator.pid())? - cpu_before;
    let first = served.iter().min().context("there are no devices")?;
    let told = served.iter().max().context("there are no devices")?.duration_since(*first);

    let mut late = Vec::new();
    for index in 0..LATE {
        let begun = Instant::now();
        let mut device = SimulatedDevice::start(means(format!("late-{index}")), coordinator.address());
        let served = tokio::time::timeout(LIMIT, device.served()).await.context("no model came")??;
        late.push(served.duration_since(begun));
        crowd.push(device);
    }
    let cpu_before = cpu_time(coordinator.pid())?;
    tokio::time::sleep(REST).await;
    let idle = cpu_time(coordinator.pid())? - cpu_before;
    Ok(Report {
        devices,
        joined,
        told,
        rollout_cpu,
        late,
        idle_share: idle.as_secs_f64() / REST.as_secs_f64(),
        rss_bytes: rss(coordinator.pid())?,
    })
}

/// Waits until so many devices have sent what their probes took.
async fn known(operator: &Operator, count: usize) -> Result<()> {
    wait_until("every device to be known", LIMIT, async || {
        let devices = operator.devices().await?;
        let known = devices.iter().filter(|device| !device.probes.is_empty()).count();
        if known == count {
            return Ok(Answer::Ready(()));
        }
        tokio::time::sleep(LOOK).await;
        Ok(Answer::NotYet(format!("{known} are")))
    })
    .await
}

/// A process's processor time, its own and not its children's.
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().context("a process has a name")?;
    let ticks = |index: usize| -> Result<u64> {
        Ok(after_name.split_whitespace().nth(index).context("a process has times")?.parse()?)
    };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS))
}

fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    let kilobytes: u64 = line.split_whitespace().next().context("it has a size")?.parse()?;
    Ok(kilobytes * 1024)
}
