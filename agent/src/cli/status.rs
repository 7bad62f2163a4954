//! `status`: what is installed, from the state directory, and whether it serves, from the agent's own API.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use proto::{ByteSize, Digest, Generation};
use serde::Serialize;

use super::{CliError, Format, serving_address, table};
use crate::causes::describe;
use crate::config::{self, Config};
use crate::runner::choose::{Comparison, Contender};
use crate::slot::{Installed, Slot, Slots};
use crate::spool::Spool;
use crate::state::{FileError, StateDir};
use crate::systemd;
use crate::trust::Trust;
use crate::update::{is_on_probation, why_given_up};

mod records;
pub(super) mod running;

/// What mends most damage.
const MENDED: &str = " (remove what is damaged while the agent is stopped: it makes a record anew; a model comes from the coordinator again, and a \
     key needs a new join file)";

#[derive(Debug, Serialize)]
struct Status {
    device_id: String,
    coordinator: String,
    state_dir: String,
    /// Why updates will fail, whatever serves: nothing can be written there.
    takes_no_writes_because: Option<String>,
    /// Whether an agent answers, or at least has the state directory for itself.
    running: bool,
    /// Whether it does answer.
    answers: bool,
    ready: bool,
    /// Whether the coordinator is connected; `None` where no agent answers.
    connected: Option<bool>,
    /// Why it is not.
    not_connected_because: Option<String>,
    serving_address: Option<String>,
    /// Unix sockets where the API is, too.
    sockets: Vec<String>,
    active: Option<Model>,
    /// What may run the active model, and how fast it did.
    engines: Vec<Contender>,
    /// Whether the active model is new, and watched.
    on_probation: bool,
    previous: Option<Model>,
    /// What lies in a slot and cannot serve, files that mean nothing, and why.
    damaged: Vec<String>,
    telemetry_waiting: usize,
}

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    deployment: String,
    generation: Generation,
    digest: Digest,
    size: ByteSize,
    /// Why it does not serve.
    given_up: Option<String>,
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
    let mut slots = Slots::read(&state);
    if let Some(refused) = slots.take_refused() {
        return Err(refused.into());
    }
    let model = |slot: Slot| slots.installed(slot).map(|installed| Model::of(installed, &state));
    let mut damage = Damage(slots.damage().to_vec());
    for error in records::damage(&state)? {
        damage.of(Err::<(), _>(error))?;
    }
    let written = damage.of(serving_address(&state))?.flatten();
    if damage.of(Trust::open(&config.coordinator_keys, &state))?.is_none() {
        damage.add(crate::trust::LOST);
    }
    let running = running::find(&config.device_id, written, &config.serve);
    Ok(Status {
        device_id: config.device_id.to_string(),
        coordinator: config.coordinator.clone(),
        state_dir: config.state_dir.display().to_string(),
        // Whoever asks may be another user than the agent is.
        takes_no_writes_because: match &running {
            Some(running) => running.no_writes.clone(),
            None => state.refuses_its_owner(),
        },
        running: running.is_some() || running::holds(state.root()),
        answers: running.is_some(),
        ready: running.as_ref().is_some_and(|running| running.ready),
        connected: running.as_ref().map(|running| running.connected),
        not_connected_because: running.as_ref().and_then(|running| running.why_not.clone()),
        serving_address: running.and_then(|running| running.address).map(|address| address.to_string()),
        sockets: sockets(config.serve.socket.as_deref()),
        active: slots.active_slot().and_then(model),
        engines: damage.of(engines(&slots))?.unwrap_or_default(),
        on_probation: slots.active().is_some_and(|active| is_on_probation(&state, active)),
        previous: slots
            .candidates()
            .into_iter()
            .find(|&slot| slots.active_slot() != Some(slot))
            .and_then(model),
        telemetry_waiting: damage.of(Spool::count_waiting(&state.spool()))?.unwrap_or_default(),
        damaged: damage.0,
    })
}

/// What is found damaged, a line each.
struct Damage(Vec<String>);

impl Damage {
    /// What was read; `None` where it cannot be.
    ///
    /// # Errors
    /// Where this user may not read it: that is no damage.
    fn of<T>(&mut self, read: Result<T, FileError>) -> Result<Option<T>, FileError> {
        match read {
            Err(error) if error.is_refusal() => Err(error),
            Err(error) => {
                self.add(&describe(&error));
                Ok(None)
            }
            Ok(read) => Ok(Some(read)),
        }
    }

    /// One file may be read in several ways.
    fn add(&mut self, line: &str) {
        if !self.0.iter().any(|known| known == line) {
            self.0.push(line.to_owned());
        }
    }
}

/// The Unix sockets that are there: the configured one, and the service manager's, which is not asked, for that would start
/// an agent.
fn sockets(configured: Option<&Path>) -> Vec<String> {
    let is_socket = |path: &&Path| path.metadata().is_ok_and(|found| found.file_type().is_socket());
    let paths = configured.into_iter().chain([Path::new(systemd::SOCKET)]);
    paths.filter(is_socket).map(|path| path.display().to_string()).collect()
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
    fn of(installed: &Installed, state: &StateDir) -> Self {
        Self {
            name: installed.model.name.clone(),
            deployment: installed.deployment.clone(),
            generation: installed.generation,
            digest: installed.digest(),
            size: installed.model.artifact.size,
            given_up: why_given_up(state, installed),
        }
    }
}

fn as_table(status: &Status) -> String {
    let is_empty = status.active.is_none() && status.previous.is_none() && status.damaged.is_empty();
    let state = match (status.running, status.answers, status.ready) {
        (true, true, true) => "serving",
        (true, true, false) if is_empty => "running, no model yet",
        (true, true, false) => "running, no model serves",
        (true, false, _) => "running, but does not answer",
        (false, ..) => "not running",
    };
    let coordinator = match (status.connected, &status.not_connected_because) {
        (Some(true), _) => ", connected".to_owned(),
        (Some(false), None) => ", not connected".to_owned(),
        (Some(false), Some(why)) => format!(", not connected: {why}"),
        (None, _) => String::new(),
    };
    let words =
        |words: &[String], none: &str| if words.is_empty() { none.to_owned() } else { words.join("; ") };
    let mut table = table();
    for (name, value) in [
        ("Device", status.device_id.clone()),
        ("Agent", state.to_owned()),
        ("Listens on", status.serving_address.clone().unwrap_or_else(|| "-".to_owned())),
        ("Socket", words(&status.sockets, "-")),
        ("Active", model(&status.active) + active_note(status)),
        ("Engine", engines_line(&status.engines)),
        ("Previous", model(&status.previous)),
        ("Damaged", words(&status.damaged, "none") + if status.damaged.is_empty() { "" } else { MENDED }),
        ("Telemetry waiting", format!("{} intervals", status.telemetry_waiting)),
        ("Coordinator", status.coordinator.clone() + &coordinator),
        ("State", state_line(status)),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    table.trim_fmt()
}

fn model(model: &Option<Model>) -> String {
    let Some(Model { name, generation, digest, size, given_up, .. }) = model else {
        return "none".to_owned();
    };
    let why = given_up.as_ref().map(|reason| format!(", given up: {reason}")).unwrap_or_default();
    format!("{name}, generation {generation}, {} ({size}){why}", digest.short())
}

/// What is to be known of the active model beside what it is.
fn active_note(status: &Status) -> &'static str {
    let is_given_up = status.active.as_ref().is_some_and(|model| model.given_up.is_some());
    match (status.on_probation, is_given_up && status.answers && !status.ready) {
        (_, true) => "; it is tried again once nothing has served for ten minutes",
        (true, false) => ", new: on probation",
        (false, false) => "",
    }
}

fn state_line(status: &Status) -> String {
    let no_writes = status.takes_no_writes_because.as_ref();
    let no_writes = no_writes.map(|why| format!(", takes no writes, so that updates will fail: {why}"));
    status.state_dir.clone() + &no_writes.unwrap_or_default()
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
