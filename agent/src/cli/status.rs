//! `status`: what is installed, from the state directory, and whether it serves, from the agent's own API.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use proto::{ByteSize, Digest, Generation};
use serde::Serialize;

use super::{CliError, Format, table};
use crate::config::{self, Config};
use crate::slot::{Installed, Slot, Slots};
use crate::spool::Spool;
use crate::state::{self, FileError, StateDir};

/// The local API answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Status {
    device_id: String,
    coordinator: String,
    state_dir: String,
    running: bool,
    ready: bool,
    serving_address: Option<String>,
    active: Option<Model>,
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
    let slots = Slots::read(&state)?;
    let model = |slot: Slot| slots.installed(slot).map(Model::of);
    let address = serving_address(&state)?;
    let is_ok = |path| address.is_some_and(|address| answers_ok(address, path));
    let running = is_ok("/v2/health/live");
    Ok(Status {
        device_id: config.device_id.to_string(),
        coordinator: config.coordinator.clone(),
        state_dir: config.state_dir.display().to_string(),
        running,
        ready: running && is_ok("/v2/health/ready"),
        serving_address: address.filter(|_| running).map(|address| address.to_string()),
        active: slots.active_slot().and_then(model),
        previous: model(slots.inactive_slot()),
        telemetry_waiting: Spool::count_waiting(&state.spool())?,
    })
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

fn serving_address(state: &StateDir) -> Result<Option<SocketAddr>, FileError> {
    let text = state::read(&state.serving_address())?;
    Ok(text.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok()))
}

/// Whether a GET of `path` is answered with 200.
fn answers_ok(address: SocketAddr, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
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
        ("Active", model(&status.active)),
        ("Previous", model(&status.previous)),
        ("Telemetry waiting", format!("{} intervals", status.telemetry_waiting)),
        ("Coordinator", status.coordinator.clone()),
        ("State", status.state_dir.clone()),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    table.trim_fmt()
}
