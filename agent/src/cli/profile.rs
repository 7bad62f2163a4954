//! `profile`: what this device measures of itself, with the times of probes that are known already. Where an agent has told its
//! coordinator, that is shown: a shell has another quota, and other cores, than a service.

use std::io::Write as _;
use std::path::Path;

use proto::{ByteSize, EngineTiming, HardwareProfile};

use super::{CliError, Format, table};
use crate::config::{self, Config};
use crate::probe::published::Published;
use crate::probe::{self, timings::Timings};
use crate::runner::engine::EngineKind;
use crate::runner::engines::{Engines, LibraryConfig};
use crate::state::StateDir;

/// The profile as text.
pub fn answer(config: Option<&Path>, format: Format) -> Result<String, CliError> {
    let (profile, engines) = match config {
        None => {
            let engines = Engines::new(None, &LibraryConfig::Auto);
            (probe::profile(&engines, None, Vec::new()), engines)
        }
        Some(path) => {
            let config = config::load(path)?;
            let engines = config.engine.engines();
            let profile = profile(&config, &engines)?;
            (profile, engines)
        }
    };
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(&profile).expect("a profile is plain data"),
        Format::Table => as_table(&profile, &engines),
    })
}

/// The one that the agent published last, or else one of this process.
fn profile(config: &Config, engines: &Engines) -> Result<HardwareProfile, CliError> {
    let state = StateDir::existing(&config.state_dir);
    let published = Published::load(&state)?;
    let revision = published.revision;
    if let Some(profile) = published.profile() {
        return Ok(profile);
    }
    let timings = Timings::load(&state, engines)?;
    // Whoever cannot hear it still gets the answer.
    drop(writeln!(
        std::io::stderr(),
        "reconvene-agent: the agent has published no profile yet; this is what this process may have, which need not be what the \
         agent may"
    ));
    let profile = probe::profile(engines, Some(&config.state_dir), timings.all().to_vec());
    Ok(HardwareProfile { revision, ..profile })
}

fn as_table(profile: &HardwareProfile, engines: &Engines) -> String {
    let unknown = || "unknown".to_owned();
    let unlimited = || "none".to_owned();
    let size = |size: ByteSize| size.to_string();
    let caches = profile.caches.iter().map(|cache| format!("L{} {} {}", cache.level, cache.kind, cache.size));
    let rows = [
        ("Architecture", profile.arch.clone()),
        ("System", format!("{} {}", profile.os, profile.kernel.clone().unwrap_or_else(unknown))),
        ("Processor", profile.cpu_model.clone().unwrap_or_else(unknown)),
        ("Instruction sets", profile.instruction_sets.join(" ")),
        ("Cores", profile.logical_cores.to_string()),
        ("Caches", caches.collect::<Vec<_>>().join(", ")),
        ("Memory", profile.memory_total.map_or_else(unknown, size)),
        ("Swap", profile.swap_total.map_or_else(unknown, size)),
        ("Memory limit", profile.memory_limit.map_or_else(unlimited, size)),
        ("CPU quota", profile.cpu_quota_cores.map_or_else(unlimited, |cores| format!("{cores} cores"))),
        ("Clock", clock(profile)),
        ("Thermal zone", profile.thermal_zone.clone().unwrap_or_else(unknown)),
        ("Disk free, about", profile.disk_free.map_or_else(unknown, size)),
        ("Engines", versions(engines)),
        ("Inference threads", profile.inference_threads.to_string()),
    ];
    let revision = (profile.revision > 0).then(|| ("Revision", profile.revision.to_string()));
    let mut table = table();
    for (name, value) in rows.into_iter().chain(revision) {
        table.add_row([name.to_owned(), value]);
    }
    for probe in &profile.probes {
        let times = format!("p50 {:.3} ms, p95 {:.3} ms ({} runs)", probe.p50_ms, probe.p95_ms, probe.runs);
        table.add_row([format!("Probe {}", probe.digest.short()), times]);
        for EngineTiming { engine, threads, p50_ms, p95_ms } in &probe.engines {
            let times = format!("p50 {p50_ms:.3} ms, p95 {p95_ms:.3} ms");
            let plural = if *threads == 1 { "" } else { "s" };
            table.add_row([format!("  {engine}, {threads} thread{plural}"), times]);
        }
    }
    table.trim_fmt()
}

/// What may run models here.
fn versions(engines: &Engines) -> String {
    let kinds = [EngineKind::Onnxruntime, EngineKind::Rten].into_iter();
    let known = kinds.filter_map(|kind| engines.version(kind).map(|version| format!("{kind} {version}")));
    known.collect::<Vec<_>>().join(", ")
}

/// What the kernel lets the first core do.
fn clock(profile: &HardwareProfile) -> String {
    let most = profile.cpu_max_mhz.map(|mhz| format!("at most {mhz} MHz"));
    let governor = profile.cpu_governor.as_ref().map(|name| format!("governor {name}"));
    let known: Vec<String> = [most, governor].into_iter().flatten().collect();
    if known.is_empty() { "unknown".to_owned() } else { known.join(", ") }
}
