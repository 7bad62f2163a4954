//! The agent killed, or refused by its disk, at every call of an update that changes the disk: strace injects the signal or
//! the error into the real process. Whatever happened, the next start serves a whole model, and what it reports is true.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::cli::Format;
use proto::session::{AgentMessage, Phase};
use proto::{Digest, Generation};
use serde_json::Value;

use crate::device::{Device, call};
use crate::fake::{Fake, File};
use crate::model::Model;
use crate::poll::within;

mod rehearsal;

/// A file or folder of the state directory, and a call on it.
#[derive(Debug, Clone)]
struct Step {
    path: String,
    call: &'static str,
}

/// What happens at the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Kill,
    Error(&'static str),
}

/// What an agent is started into.
#[derive(Debug, Clone, Copy)]
enum Fate<'a> {
    Spared,
    Struck(&'a Step, Blow),
    /// Its state directory takes no writes.
    ReadOnly,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Times {
    Once,
    /// At every start, so many in a row.
    Always(usize),
}

/// Every call that a start of a device with one model, and then an update, make to change its disk.
fn steps(next: Digest) -> Vec<Step> {
    const REPLACED: [&str; 4] = ["openat", "write", "fsync", "rename"];
    let files: [(String, &[&'static str]); 16] = [
        ("serving.new".to_owned(), &REPLACED),
        (format!("staging/{next}.new"), &REPLACED),
        (format!("staging/{next}.part"), &["openat", "write", "fdatasync", "rename"]),
        (format!("staging/{next}.pieces"), &["unlink"]),
        ("checking.new".to_owned(), &REPLACED),
        ("checking.json".to_owned(), &["unlink"]),
        ("comparing.new".to_owned(), &REPLACED),
        ("comparing.json".to_owned(), &["unlink"]),
        ("slots/b/manifest.new".to_owned(), &REPLACED),
        (format!("staging/{next}"), &["rename"]),
        ("slots/b/comparison.new".to_owned(), &REPLACED),
        ("probation.new".to_owned(), &REPLACED),
        ("active.new".to_owned(), &REPLACED),
        ("serving.json".to_owned(), &["unlink"]),
        ("staging".to_owned(), &["fsync"]),
        ("slots/b".to_owned(), &["fsync"]),
    ];
    let of = |(path, calls): (String, &'static [&'static str])| {
        calls.iter().map(move |&call| Step { path: path.clone(), call })
    };
    files.into_iter().flat_map(of).collect()
}

/// Every call that changes the disk when a start gives a model up that killed the agent too often, in order.
fn steps_back() -> Vec<Step> {
    let files: [(&str, &[&'static str]); 4] = [
        ("given-up.new", &["openat", "write", "fsync", "rename"]),
        ("probation.json", &["unlink"]),
        ("active.new", &["openat", "write", "fsync", "rename"]),
        ("serving.new", &["openat", "write", "fsync", "rename"]),
    ];
    let of = |(path, calls): (&str, &'static [&'static str])| {
        let path = path.to_owned();
        calls.iter().map(move |&call| Step { path: path.clone(), call })
    };
    files.into_iter().flat_map(of).collect()
}

/// Whether strace may trace here. `RECONVENE_TESTS_NEED_STRACE` says that it has to, as in continuous integration.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn may_trace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let may = traced.is_ok_and(|status| status.success());
    if !may {
        assert!(std::env::var_os("RECONVENE_TESTS_NEED_STRACE").is_none(), "strace cannot trace here");
        eprintln!("skipped: strace is missing, or may not trace");
    }
    may
}

/// Makes the folder `$0` one that takes no writes.
const READ_ONLY: &str = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0""#;

/// The same, with a disk of its own that has no room left.
const FULL: &str = r#"mount -t tmpfs -o size=64k full "$0" && ! head -c 1M /dev/zero 2>/dev/null >"$0/zero""#;

/// The agent, once `mount` was done to the folder `state`, which no other process sees.
fn mounted(mount: &str, state: &Path) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &format!(r#"{mount} && exec "$@""#)]).arg(state);
    unshare.arg(env!("CARGO_BIN_EXE_reconvene-agent"));
    unshare
}

/// An agent as a process of its own, with its tracer; both are killed when it goes out of scope.
struct Process {
    child: Child,
    state: PathBuf,
}

impl Process {
    fn start(folder: &Path, fate: Fate<'_>) -> Self {
        let state = folder.join("state");
        drop(fs::remove_file(state.join("serving-address")));
        let agent = env!("CARGO_BIN_EXE_reconvene-agent");
        let mut command = match fate {
            Fate::Spared => Command::new(agent),
            Fate::Struck(Step { path, call }, blow) => {
                let injected = match blow {
                    Blow::Kill => "signal=KILL".to_owned(),
                    Blow::Error(errno) => format!("error={errno}"),
                };
                let mut strace = Command::new("strace");
                strace.args(["-f", "-qq", "-o"]).arg(folder.join("trace")).arg("-P").arg(state.join(path));
                strace.args(["-e", &format!("inject={call}:{injected}"), agent]);
                strace
            }
            Fate::ReadOnly => mounted(READ_ONLY, &state),
        };
        command.args(["run", "--config"]).arg(folder.join("agent.toml")).process_group(0);
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
        Self { child: command.stderr(log).spawn().unwrap(), state }
    }

    /// Stops it as the service manager does.
    async fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        within("it stops", async || self.has_died().then_some(())).await;
    }

    /// Waits until its API is there; says whether a model serves.
    async fn serves(&self) -> bool {
        within("it answers", async || self.get("/v2/health/ready").await).await.0 == 200
    }

    fn has_died(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The answer of its API, once it has one.
    async fn get(&self, path: &str) -> Option<(u16, Value)> {
        let address = fs::read_to_string(self.state.join("serving-address")).ok()?.parse().ok()?;
        Some(call(address, path.to_owned(), None).await)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        // It may have ended by itself.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        drop(self.child.wait());
        // The tracer has ended; the agent that it traced may hold its state directory for a moment longer.
        let Ok(lock) = fs::File::open(self.state.join("lock")) else { return };
        let deadline = Instant::now() + Duration::from_secs(30);
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        while rustix::fs::flock(&lock, exclusive).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// One device for each cell: it has `old` from generation 1, and is assigned `new` as generation 2.
struct Cell {
    folder: tempfile::TempDir,
    fake: Fake,
    old: Model,
    new: Model,
}

impl Cell {
    async fn new(before: &Path, old: &Model, new: &Model) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let copied = Command::new("cp").arg("-r").arg(before).arg(&state).status().unwrap();
        assert!(copied.success());
        let fake = Fake::start().await;
        fake.serve_file(new.digest(), File::whole(&new.bytes));
        fake.assign(new.assignment(2)).await;
        let text = format!(
            "device_id = 'gw-1'\ncoordinator = 'http://{}'\nstate_dir = '{}'\n\
             [engine]\nthreads = 1\nonnxruntime = 'off'\n[serve]\nlisten = '127.0.0.1:0'\n",
            fake.address,
            state.display()
        );
        fs::write(folder.path().join("agent.toml"), text).unwrap();
        Self { folder, fake, old: old.clone(), new: new.clone() }
    }

    /// How generation 2 ended, as the agent said last.
    async fn ending(&mut self, case: &str) -> Result<(), String> {
        let what = format!("{case}: the end of generation 2");
        let heard = self.fake.hear(&what, |message| match message {
            AgentMessage::Progress(progress) if progress.generation == Generation(2) => {
                match &progress.phase {
                    Phase::Active => Some(Ok(())),
                    Phase::Failed { reason } => Some(Err(reason.clone())),
                    Phase::Downloading { .. } | Phase::Verifying => None,
                }
            }
            _ => None,
        });
        heard.await
    }

    /// Starts the agent without any blow: it serves at once, and what it says of generation 2 is what it serves.
    async fn recovers(&mut self, case: &str) {
        let agent = Process::start(self.folder.path(), Fate::Spared);
        self.fake.forget();
        within(&format!("{case}: it serves at once"), async || {
            agent.get("/v2/health/ready").await.filter(|(status, _)| *status == 200)
        })
        .await;
        let ended = self.ending(case).await;
        let expected = if ended.is_ok() { &self.new } else { &self.old };
        let metadata = agent.get("/v2/models/fashion").await.unwrap().1;
        let serves = metadata["parameters"]["digest"].as_str().unwrap();
        assert_eq!(serves, expected.digest().to_string(), "{case}: {ended:?}");
        let address = fs::read_to_string(agent.state.join("serving-address")).unwrap().parse().unwrap();
        let body = crate::session::request(expected, 1);
        let (status, answer) = call(address, "/v2/models/fashion/infer".to_owned(), Some(body)).await;
        assert_eq!(status, 200, "{case}: {answer}");
        if let Err(reason) = ended {
            assert!(reason.contains("died 3 times"), "{case}: {reason}");
        }
    }

    async fn killed(mut self, step: Step, times: Times) {
        let case = format!("{} of {} {times:?}", step.call, step.path);
        let starts = match times {
            Times::Once => 1,
            Times::Always(starts) => starts,
        };
        for start in 0..starts {
            self.fake.forget();
            let mut agent = Process::start(self.folder.path(), Fate::Struck(&step, Blow::Kill));
            let what = format!("{case}: start {start} ends");
            let died = within(&what, async || match (agent.has_died(), self.fake.has_ended(Generation(2))) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            })
            .await;
            assert!(died || start > 0, "{case}: the step was never taken");
        }
        self.recovers(&case).await;
    }

    async fn refused(mut self, step: Step, errno: &'static str) {
        let case = format!("{errno} at {} of {}", step.call, step.path);
        let mut agent = Process::start(self.folder.path(), Fate::Struck(&step, Blow::Error(errno)));
        let ended = self.ending(&case).await;
        assert!(!agent.has_died(), "{case}: it died");
        let metadata = agent.get("/v2/models/fashion").await.unwrap().1;
        let serves = metadata["parameters"]["digest"].as_str().unwrap().to_owned();
        let (old, new) = (self.old.digest().to_string(), self.new.digest().to_string());
        match ended {
            Ok(()) => assert_eq!(serves, new, "{case}"),
            Err(reason) => {
                assert_eq!(serves, old, "{case}");
                assert!(reason.contains("cannot "), "{case}: {reason}");
            }
        }
        let left = agent.state.join(&step.path);
        within(&format!("{case}: nothing is left of it"), async || {
            (!step.path.ends_with(".new") || !left.exists()).then_some(())
        })
        .await;
        drop(agent);
        self.recovers(&case).await;
    }
}

/// What every cell begins with: the state directory of a device that serves `old`, and the model that it is to have.
struct Before {
    old: Model,
    new: Model,
    dir: tempfile::TempDir,
}

impl Before {
    async fn new() -> Self {
        let (old, new, dir) = (Model::of_seed(1), Model::of_seed(2), tempfile::tempdir().unwrap());
        installed(&old, dir.path()).await;
        // It has stood its probation.
        fs::remove_file(dir.path().join("probation.json")).unwrap();
        Self { old, new, dir }
    }
}

/// Makes the state directory of a device that serves `model` from generation 1.
async fn installed(model: &Model, folder: &Path) {
    let fake = Fake::start().await;
    fake.serve_file(model.digest(), File::whole(&model.bytes));
    fake.assign(model.assignment(1)).await;
    let device = Device::start(folder.to_owned(), fake.address).await;
    device.ready().await;
    within("the comparison is on the disk", async || {
        folder.join("slots/a/comparison.json").exists().then_some(())
    })
    .await;
    device.stop().await;
}

/// Runs cells a few at a time: most of each is waiting.
async fn all(mut cells: Vec<impl Future<Output = ()>>) {
    let mut lane = |share: usize| {
        let own = cells.split_off(cells.len() - cells.len() / share);
        async {
            for cell in own {
                cell.await;
            }
        }
    };
    let (a, b, c, d) = (lane(4), lane(3), lane(2), lane(1));
    tokio::join!(a, b, c, d);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_once_or_again_it_serves_and_tells_the_truth() {
    if !may_trace() {
        return;
    }
    let Before { old, new, dir } = Before::new().await;
    let mut cells = Vec::new();
    for step in steps(new.digest()) {
        for times in [Times::Once, Times::Always(4)] {
            let (cell, step) = (Cell::new(dir.path(), &old, &new).await, step.clone());
            cells.push(cell.killed(step, times));
        }
    }
    assert_eq!(cells.len(), 2 * 43, "docs/agent.md has the number of steps");
    all(cells).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_takes_the_agent_down_is_left_and_the_way_back_stands_kills_too() {
    if !may_trace() {
        return;
    }
    let Before { old, new, dir } = Before::new().await;
    let mut cell = Cell::new(dir.path(), &old, &new).await;
    for start in 0..3 {
        cell.fake.forget();
        let _killed = Process::start(cell.folder.path(), Fate::Spared);
        assert_eq!(cell.ending(&format!("start {start}")).await, Ok(()), "it is given three chances");
    }
    // What three deaths have left is what each cell begins with.
    let deadly = cell.folder.path().join("state");
    let mut cells = Vec::new();
    for step in steps_back() {
        for times in [Times::Once, Times::Always(3)] {
            cells.push(Cell::new(&deadly, &old, &new).await.killed(step.clone(), times));
        }
    }
    all(cells).await;
    cell.recovers("three deaths").await;
    let given_up = fs::read_to_string(deadly.join("given-up.json")).unwrap();
    assert!(given_up.contains("died 3 times while this model was on probation"), "{given_up}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_model_in_a_crash_loop_serves_no_more_and_the_agent_takes_another() {
    let Before { old, new, dir } = Before::new().await;
    let mut cell = Cell::new(dir.path(), &old, &new).await;
    cell.fake.assign(old.assignment(1)).await;
    for _ in 0..3 {
        let agent = Process::start(cell.folder.path(), Fate::Spared);
        assert!(agent.serves().await);
        agent.stop().await;
    }
    for start in 0..3 {
        let killed = Process::start(cell.folder.path(), Fate::Spared);
        assert!(killed.serves().await, "start {start}: stops were no deaths");
    }
    let mut agent = Process::start(cell.folder.path(), Fate::Spared);
    assert!(!agent.serves().await);
    let (_, refused) = agent.get("/v2/health/ready").await.unwrap();
    let expected =
        "no model serves on this device (generation 1: the agent died 3 times within an hour while";
    assert!(refused["error"].as_str().unwrap().starts_with(expected), "{refused}");
    // Until now it was said to be active.
    let failed = cell.fake.hear("the end of the crash loop", |message| match message {
        AgentMessage::Progress(progress) => match &progress.phase {
            Phase::Failed { reason } => Some((progress.generation, reason.clone())),
            Phase::Active | Phase::Downloading { .. } | Phase::Verifying => None,
        },
        _ => None,
    });
    let (generation, reason) = failed.await;
    assert_eq!(generation, Generation(1));
    assert!(reason.contains("died 3 times within an hour while this model served"), "{reason}");
    agent.stop().await;
    agent = Process::start(cell.folder.path(), Fate::Spared);
    assert!(!agent.serves().await);
    let (_, refused) = agent.get("/v2/models/fashion").await.unwrap();
    assert!(
        refused["error"].as_str().unwrap().contains("(generation 1: it was given up: the agent died"),
        "{refused}"
    );
    // As the service manager hears it.
    let log = fs::read_to_string(cell.folder.path().join("log")).unwrap();
    assert!(
        log.contains("no model serves; waiting for an assignment, and what is installed is tried again every ten minutes ("),
        "{log}"
    );
    cell.fake.assign(new.assignment(2)).await;
    assert_eq!(cell.ending("the next one").await, Ok(()));
    assert!(!agent.has_died() && agent.serves().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_or_broken_costs_an_update_and_nothing_else() {
    if !may_trace() {
        return;
    }
    let Before { old, new, dir } = Before::new().await;
    let mut cells = Vec::new();
    for step in steps(new.digest()) {
        let errno = if step.call == "write" || step.call == "openat" { "ENOSPC" } else { "EIO" };
        cells.push(Cell::new(dir.path(), &old, &new).await.refused(step, errno));
    }
    all(cells).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_state_directory_is_served_from_and_updates_fail_with_their_reason() {
    if !may_trace() {
        return;
    }
    let Before { old, new, dir } = Before::new().await;
    let mut cell = Cell::new(dir.path(), &old, &new).await;
    // Nobody can read the address from a file that cannot be written.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = cell.folder.path().join("agent.toml");
    let text = fs::read_to_string(&config).unwrap().replace("127.0.0.1:0", &port.to_string());
    fs::write(&config, text).unwrap();
    let agent = Process::start(cell.folder.path(), Fate::ReadOnly);
    let reason = cell.ending("read-only").await.unwrap_err();
    assert!(reason.contains("Read-only file system"), "{reason}");
    let body = crate::session::request(&old, 1);
    let (status, answer) = call(port, "/v2/models/fashion/infer".to_owned(), Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    cell.fake
        .hear("telemetry all the same", |m| matches!(m, AgentMessage::Telemetry(..)).then_some(()))
        .await;
    // Whoever asks may write there, in another name space, and believes the agent.
    let said = crate::status::status(&config, Format::Table).await;
    assert!(
        said.contains(", takes no writes, so that updates will fail: its file system is read-only; "),
        "{said}"
    );
    drop(agent);
    let state = cell.folder.path().join("state");
    for (mount, why) in
        [(READ_ONLY, "its file system is read-only; "), (FULL, "its disk is full; make room there")]
    {
        let asked =
            mounted(mount, &state).args(["status", "-o", "json", "--config"]).arg(&config).output().unwrap();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        let said: Value = serde_json::from_slice(&asked.stdout).unwrap();
        assert_eq!(said["running"], false);
        assert!(said["takes_no_writes_because"].as_str().unwrap().starts_with(why), "{said}");
    }
    let said: Value = serde_json::from_str(&crate::status::status(&config, Format::Json).await).unwrap();
    assert_eq!(said["takes_no_writes_because"], Value::Null);
    cell.recovers("writable again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_pointer_is_no_damaged_slot_and_is_mended() {
    let Before { old, new, dir } = Before::new().await;
    let cell = Cell::new(dir.path(), &old, &new).await;
    cell.fake.assign(old.assignment(1)).await;
    let pointer = cell.folder.path().join("state/active");
    for damaged in ["", "c"] {
        fs::write(&pointer, damaged).unwrap();
        let agent = Process::start(cell.folder.path(), Fate::Spared);
        assert!(agent.serves().await);
        agent.stop().await;
        assert_eq!(fs::read_to_string(&pointer).unwrap(), "a");
    }
    let log = fs::read_to_string(cell.folder.path().join("log")).unwrap();
    let said = "the pointer to the active slot is damaged; the newest that is whole counts";
    assert_eq!(log.matches(said).count(), 2, "{log}");
    assert!(!log.contains("the active slot cannot serve"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_telemetry_loses_none_of_it() {
    if !may_trace() {
        return;
    }
    let Before { old, new, dir } = Before::new().await;
    let mut cell = Cell::new(dir.path(), &old, &new).await;
    let flush = Step { path: "telemetry.spool".to_owned(), call: "fdatasync" };
    let agent = Process::start(cell.folder.path(), Fate::Struck(&flush, Blow::Error("ENOSPC")));
    assert_eq!(cell.ending("a disk without room for telemetry").await, Ok(()));
    let address = fs::read_to_string(agent.state.join("serving-address")).unwrap().parse().unwrap();
    for answered in 1..=12 {
        let body = crate::session::request(&new, 1);
        let (status, answer) = call(address, "/v2/models/fashion/infer".to_owned(), Some(body)).await;
        assert_eq!(status, 200, "{answer}");
        // One interval each, or thereabouts: the disk refuses every one of them.
        let what = format!("{answered} images are stored");
        within(&what, async || (crate::session::stored_images(&cell.fake) == answered).then_some(())).await;
    }
    let log = fs::read_to_string(cell.folder.path().join("log")).unwrap();
    assert!(log.contains("kept in memory until the disk takes them"), "{log}");
}
