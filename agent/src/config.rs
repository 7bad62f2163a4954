//! Configuration: TOML and environment in, a checked value out. The only place that reads the environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use proto::{DeviceId, VerifyingKey};
use serde::Deserialize;

use crate::runner::engines::{Engines, LibraryConfig};
use crate::state;

mod environment;

/// What the library makes a configuration of.
type Builder = config::ConfigBuilder<config::builder::DefaultState>;

/// Where packages put the configuration file.
pub const USUAL_PATH: &str = "/etc/reconvene/agent.toml";

/// The agent's configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// This device's name in the fleet.
    pub device_id: DeviceId,
    /// Where the coordinator listens: `http://host:port`, or `https://host:port`.
    pub coordinator: String,
    /// What this device joins an encrypted coordinator with, the first time.
    pub join_file: Option<PathBuf>,
    /// Whose assignments count; empty: those of the first coordinator.
    pub coordinator_keys: Vec<VerifyingKey>,
    /// Where models, telemetry and timings are kept.
    pub state_dir: PathBuf,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// The inference engine.
    pub engine: EngineConfig,
    /// The local inference API.
    pub serve: ServeConfig,
}

/// The inference engines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Threads that one inference may use, at least 1; `None`: as many as the device gives.
    pub threads: Option<usize>,
    /// Which onnxruntime may be used.
    pub onnxruntime: LibraryConfig,
}

impl EngineConfig {
    /// The engines that may be used.
    pub fn engines(&self) -> Engines {
        Engines::new(self.threads, &self.onnxruntime)
    }
}

/// The local inference API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where it listens; port 0: any free one.
    pub listen: SocketAddr,
    /// A Unix socket where it listens as well.
    pub socket: Option<PathBuf>,
}

/// Why a configuration was refused; one line that names the key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No such file.
    #[error("config file {} does not exist; give --config the path of an agent.toml", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The text is no configuration.
    #[error("{}: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong, on one line.
        problem: String,
    },
    /// A variable names no key, or has a value of the wrong kind.
    #[error("{variable}: {problem}")]
    Environment {
        /// Which.
        variable: String,
        /// What is wrong, on one line.
        problem: String,
    },
    /// A value makes no sense.
    #[error("{origin}: {key}: {problem}")]
    Value {
        /// The file, or the variable that has its way over it.
        origin: String,
        /// The key.
        key: &'static str,
        /// What is wrong and what to set.
        problem: String,
    },
}

/// As written: every key optional, unknown ones refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    device_id: Option<String>,
    coordinator: Option<String>,
    coordinator_keys: Vec<String>,
    join_file: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    labels: BTreeMap<String, String>,
    engine: EngineFile,
    serve: ServeFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EngineFile {
    threads: Option<i64>,
    onnxruntime: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ServeFile {
    listen: Option<String>,
    socket: Option<PathBuf>,
}

/// More threads than this in one inference is a typing error.
const THREADS_LIMIT: i64 = 1024;

/// The configuration in `path`, overridden by the process's environment.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    load_with(path, std::env::vars_os())
}

/// The log filter that the environment asks for, `RUST_LOG`; `info` without it.
pub fn log_filter() -> String {
    // What HTTP/2 says of a stranger's frames, it says once for each.
    std::env::var("RUST_LOG").unwrap_or_else(|_| "info,h2=error".to_owned())
}

fn load_with(
    path: &Path,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let environment: BTreeMap<OsString, OsString> = environment.collect();
    let credentials = environment.get(OsStr::new("CREDENTIALS_DIRECTORY")).map(PathBuf::from);
    let overrides = environment::overrides(environment)?;
    let origin = |key: &str| {
        let variable = overrides.iter().find(|known| known.key == key).map(|known| known.variable.clone());
        variable.unwrap_or_else(|| path.display().to_string())
    };
    let toml = |text: &str| config::File::from_str(text, config::FileFormat::Toml);
    let mut all = config::Config::builder();
    let main = (path.to_owned(), read(path, "; give --config the path of an agent.toml")?);
    let mut parts = vec![main];
    for path in drop_ins(path)? {
        let text = read(&path, "; remove it, or put a file there")?;
        parts.push((path, text));
    }
    for (path, text) in parts {
        // Each by itself, so that what is wrong is looked for in the right file.
        let alone = config::Config::builder().add_source(toml(&text)).build();
        let refuse = |problem| ConfigError::Unreadable { path: path.clone(), problem };
        let alone = alone.map_err(|error| refuse(one_line(&error)))?;
        let coerced = in_another_kind("", &alone.cache);
        alone.try_deserialize::<ConfigFile>().map_err(|error| refuse(one_line(&error)))?;
        coerced.map_or(Ok(()), |problem| Err(refuse(problem)))?;
        all = all.add_source(toml(&text));
    }
    for variable in &overrides {
        let alone = variable.add_to(config::Config::builder())?;
        understood(alone).map_err(|error| variable.refused(&error))?;
        all = variable.add_to(all)?;
    }
    // Every part was sound by itself.
    let refuse = |error| ConfigError::Unreadable { path: path.to_owned(), problem: one_line(&error) };
    let file = understood(all).map_err(refuse)?;
    let config = file.check(&origin)?;
    let join_file = config.join_file.clone().or_else(|| credential(credentials.as_deref()?));
    Ok(Config { join_file, ..config })
}

fn understood(all: Builder) -> Result<ConfigFile, config::ConfigError> {
    all.build()?.try_deserialize()
}

/// A file's text, of no more than any sound one has; `next` mends what is no file.
fn read(path: &Path, next: &str) -> Result<String, ConfigError> {
    let refuse = |problem: String| ConfigError::Unreadable { path: path.to_owned(), problem };
    let bytes = match state::read(path, state::RECORD) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(ConfigError::Missing { path: path.to_owned() }),
        Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(refuse(error.source.to_string()));
        }
        Err(error) => return Err(refuse(format!("{}{next}", error.source))),
    };
    String::from_utf8(bytes).map_err(|_| refuse(format!("it is no text{next}")))
}

/// A value that is read as another kind than it is written in, `threads = "2"`, with its key. The environment knows nothing but
/// text, so that the library reads numbers in it; in a file that is a mistake, and of `device_id = 1.10` half is lost. Labels are
/// text to whoever reads them, and may be numbers to whoever writes them.
fn in_another_kind(key: &str, value: &config::Value) -> Option<String> {
    use config::ValueKind::{Array, I64, I128, Nil, String, Table, U64, U128};
    let is_number = key == "engine.threads";
    match &value.kind {
        Table(_) if key == "labels" => None,
        Table(table) => {
            let prefix = if key.is_empty() { key.to_owned() } else { format!("{key}.") };
            table.iter().find_map(|(name, value)| in_another_kind(&format!("{prefix}{name}"), value))
        }
        Array(values) => values.iter().find_map(|value| in_another_kind(key, value)),
        I64(_) | I128(_) | U64(_) | U128(_) if is_number => None,
        Nil => None,
        String(_) if !is_number => None,
        _ if is_number => Some(format!("{key}: it is to be a whole number, without quotes")),
        _ => Some(format!("{key}: it is to be text, in quotes")),
    }
}

/// The join file that systemd hands over: `join`, or the first of a folder of them, `join_NAME`.
fn credential(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let is_join = |name: &str| name == "join" || name.starts_with("join_");
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_join)).min()
}

/// The drop-ins of `agent.toml`: every `agent.d/*.toml`, in the order of their names; a later one has its way. Hidden ones are
/// what editors leave behind.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = path.with_extension("d");
    let unreadable =
        |error: std::io::Error| ConfigError::Unreadable { path: folder.clone(), problem: error.to_string() };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(unreadable)?;
    let is_hidden =
        |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && !is_hidden(path));
    paths.sort();
    Ok(paths)
}

fn one_line(error: &config::ConfigError) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

impl ConfigFile {
    /// `origin`: where a key's value comes from.
    fn check(self, origin: &dyn Fn(&str) -> String) -> Result<Config, ConfigError> {
        let refuse = |key, problem: String| ConfigError::Value { origin: origin(key), key, problem };
        let device_id = match self.device_id {
            Some(id) => id.parse().map_err(|error: proto::Invalid| refuse("device_id", error.problem))?,
            None => default_device_id().map_err(|problem| refuse("device_id", problem))?,
        };
        let coordinator = self.coordinator.unwrap_or_else(|| "http://127.0.0.1:7370".to_owned());
        check_coordinator(&coordinator).map_err(|problem| refuse("coordinator", problem))?;
        let keys = self.coordinator_keys.iter().map(|key| key.parse::<VerifyingKey>());
        let coordinator_keys = keys.collect::<Result<_, _>>();
        let coordinator_keys = coordinator_keys.map_err(|error| refuse("coordinator_keys", error.problem))?;
        let threads = match self.engine.threads {
            Some(threads @ 1..=THREADS_LIMIT) => Some(threads as usize),
            Some(threads) => {
                let problem = format!("{threads} is not a number of threads; set 1 to {THREADS_LIMIT}");
                return Err(refuse("engine.threads", problem));
            }
            None => None,
        };
        let onnxruntime = match self.engine.onnxruntime.as_deref() {
            None | Some("auto") => LibraryConfig::Auto,
            Some("off") => LibraryConfig::Off,
            Some(path) if path.starts_with('/') => LibraryConfig::At(PathBuf::from(path)),
            Some(other) => {
                let problem = format!("'{other}' is not auto, off or the path of a libonnxruntime.so");
                return Err(refuse("engine.onnxruntime", problem));
            }
        };
        let listen = self.serve.listen.as_deref().unwrap_or("127.0.0.1:7380");
        let listen = listen.parse().map_err(|_| {
            refuse("serve.listen", format!("'{listen}' is not an address such as 127.0.0.1:7380"))
        })?;
        let socket = self.serve.socket;
        if let Some(path) = socket.as_deref().filter(|path| !path.is_absolute()) {
            let path = path.display();
            return Err(refuse("serve.socket", format!("'{path}' is not a path that begins with /")));
        }
        let is_empty =
            |path: &Option<PathBuf>| path.as_deref().is_some_and(|path| path.as_os_str().is_empty());
        if is_empty(&self.state_dir) {
            let problem = "it is empty; name a folder, such as /var/lib/reconvene-agent";
            return Err(refuse("state_dir", problem.to_owned()));
        }
        if is_empty(&self.join_file) {
            let problem =
                "it is empty; name the file that `reconvene token create` printed, or leave the key out";
            return Err(refuse("join_file", problem.to_owned()));
        }
        Ok(Config {
            device_id,
            coordinator,
            join_file: self.join_file,
            coordinator_keys,
            state_dir: self.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/reconvene-agent")),
            labels: self.labels,
            engine: EngineConfig { threads, onnxruntime },
            serve: ServeConfig { listen, socket },
        })
    }
}

fn default_device_id() -> Result<DeviceId, String> {
    let uname = rustix::system::uname();
    let hostname = uname.nodename().to_string_lossy();
    sanitise(&hostname).parse().map_err(|_| {
        format!("the hostname '{hostname}' is no device name; set device_id, such as \"gateway-7\"")
    })
}

/// The hostname in the alphabet of device names.
fn sanitise(hostname: &str) -> String {
    let plain: String = hostname
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
        .take(63)
        .collect();
    plain.trim_matches(['-', '.']).to_owned()
}

fn check_coordinator(address: &str) -> Result<(), String> {
    let refuse = || format!("'{address}' is not an address such as http://127.0.0.1:7370");
    let uri: tonic::codegen::http::Uri = address.parse().map_err(|_| refuse())?;
    let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(refuse());
    };
    // The library takes a port that is none for no port at all.
    let written = authority.as_str().rsplit('@').next().and_then(|text| text.strip_prefix(authority.host()));
    match (authority.host(), written, authority.port_u16()) {
        ("", ..) => Err(refuse()),
        (_, Some(""), _) | (_, _, Some(1..)) => Ok(()),
        _ => Err(format!("'{address}' has a port that cannot be; a port is 1 to 65535")),
    }
}

#[cfg(test)]
mod tests;
