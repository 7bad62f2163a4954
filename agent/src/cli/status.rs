//! `status`: what is installed, from the state directory, and whether it serves, from the agent's own API.

use std::path::Path;

use proto::{ByteSize, Digest, Generation};
use serde::Serialize;

use super::api::Api;
use super::{CliError, Format, serving_address, table};
use crate::config::{self, Config};
use crate::runner::choose::{Comparison, Contender};
use crate::slot::{Installed, Slot, Slots};
use crate::spool::Spool;
use crate::state::{FileError, StateDir};
use crate::update::is_on_probation;

#[derive(Debug, Serialize)]
struct Status {
    device_id: String,
    coordinator: String,
    state_dir: String,
    running: bool,
    ready: bool,
    serving_address: Option<String>,
    active: Option<Model>,
    /// What may run the active model, and how fast it did.
    engines: Vec<Contender>,
    /// Whether the active model is new, and watched.
    on_probation: bool,
    previous: Option<Model>,
    telemetry_waiting: usize,
}

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    deployment: String,
    generation: Generation,
    digest: Digest,
    size: ByteSize,
}

/// The status as text.
pub fn answer(path: &Path, format: Format) -> Result<String, CliError> {
    let config = config::load(path)?;
    let status = read(&config)?;
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(&status).expect("a status is plain data"),
        Format::Table => as_table(&status),
    })
}

fn read(config: &Config) -> Result<Status, CliError> {
    if !config.state_dir.is_dir() {
        return Err(CliError::NoState { path: config.state_dir.clone() });
    }
    let state = StateDir::existing(&config.state_dir);
    let slots = Slots::read(&state);
    let model = |slot: Slot| slots.installed(slot).map(Model::of);
    let address = serving_address(&state)?;
    let api = address.map(|address| Api::new(&address.to_string()));
    let is_ok = |path| api.as_ref().is_some_and(|api| api.get(path).is_ok());
    let running = is_ok("/v2/health/live");
    Ok(Status {
        device_id: config.device_id.to_string(),
        coordinator: config.coordinator.clone(),
        state_dir: config.state_dir.display().to_string(),
        running,
        ready: running && is_ok("/v2/health/ready"),
        serving_address: address.filter(|_| running).map(|address| address.to_string()),
        active: slots.active_slot().and_then(model),
        engines: engines(&slots)?,
        on_probation: slots.active().is_some_and(|active| is_on_probation(&state, active)),
        previous: model(slots.inactive_slot()),
        telemetry_waiting: Spool::count_waiting(&state.spool())?,
    })
}

/// The comparison of engines on the active model, the one that runs it first.
fn engines(slots: &Slots) -> Result<Vec<Contender>, FileError> {
    let Some(slot) = slots.active_slot() else { return Ok(Vec::new()) };
    let Some(comparison) = Comparison::read(&slots.comparison(slot))? else { return Ok(Vec::new()) };
    let best = comparison.best().map(|best| best.choice);
    let mut contenders = comparison.contenders;
    contenders.sort_by_key(|contender| Some(contender.choice) != best);
    Ok(contenders)
}

impl Model {
    fn of(installed: &Installed) -> Self {
        Self {
            name: installed.model.name.clone(),
            deployment: installed.deployment.clone(),
            generation: installed.generation,
            digest: installed.digest(),
            size: installed.model.artifact.size,
        }
    }
}

fn as_table(status: &Status) -> String {
    let state = match (status.running, status.ready) {
        (true, true) => "serving",
        (true, false) => "running, no model yet",
        (false, _) => "not running",
    };
    let model = |model: &Option<Model>| match model {
        Some(m) => format!("{}, generation {}, {} ({})", m.name, m.generation, m.digest.short(), m.size),
        None => "none".to_owned(),
    };
    let mut table = table();
    for (name, value) in [
        ("Device", status.device_id.clone()),
        ("Agent", state.to_owned()),
        ("Listens on", status.serving_address.clone().unwrap_or_else(|| "-".to_owned())),
        ("Active", model(&status.active) + if status.on_probation { ", new: on probation" } else { "" }),
        ("Engine", engines_line(&status.engines)),
        ("Previous", model(&status.previous)),
        ("Telemetry waiting", format!("{} intervals", status.telemetry_waiting)),
        ("Coordinator", status.coordinator.clone()),
        ("State", status.state_dir.clone()),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    table.trim_fmt()
}

/// The engine that runs the active model, and those that are slower.
fn engines_line(engines: &[Contender]) -> String {
    let time = |contender: &Contender| format!("{}: p50 {:.3} ms", contender.choice, contender.p50_ms);
    match engines {
        [] => "-".to_owned(),
        [only] => time(only),
        [best, others @ ..] => {
            let others: Vec<String> = others.iter().map(time).collect();
            format!("{} (of {})", time(best), others.join("; "))
        }
    }
}
