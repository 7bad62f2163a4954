//! Variables that override keys: `RECONVENE_AGENT__SERVE__LISTEN` sets `serve.listen`. Owns their names and what is said of one that is
//! refused.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::{Builder, ConfigError, one_line};

const PREFIX: &str = "RECONVENE_AGENT__";

/// One variable.
pub(super) struct Override {
    pub(super) variable: String,
    /// `section.key`.
    pub(super) key: String,
    value: String,
}

/// Those of the environment that are ours.
pub(super) fn overrides(environment: BTreeMap<OsString, OsString>) -> Result<Vec<Override>, ConfigError> {
    let mut overrides = Vec::new();
    for (variable, value) in environment {
        let Ok(variable) = variable.into_string() else { continue };
        let upper = variable.to_uppercase();
        let Some(key) = upper.strip_prefix(PREFIX) else { continue };
        let key = key.to_lowercase().replace("__", ".");
        let Ok(value) = value.into_string() else {
            return Err(ConfigError::Environment { variable, problem: "its value is no text".to_owned() });
        };
        overrides.push(Override { variable, key, value });
    }
    Ok(overrides)
}

impl Override {
    /// Adds it, which has its way over files.
    pub(super) fn add_to(&self, all: Builder) -> Result<Builder, ConfigError> {
        let added = match self.key.as_str() {
            // The library takes `true` for 1.
            "engine.threads" if self.value.parse::<i64>().is_err() => return Err(self.no_number()),
            "coordinator_keys" => {
                let keys: Vec<&str> = self.value.split(',').map(str::trim).collect();
                all.set_override(&self.key, keys)
            }
            key => all.set_override(key, self.value.as_str()),
        };
        let problem = format!("it names no key; {PREFIX}SERVE__LISTEN, for one, names serve.listen");
        added.map_err(|_| ConfigError::Environment { variable: self.variable.clone(), problem })
    }

    /// Why it does not fit.
    pub(super) fn refused(&self, error: &config::ConfigError) -> ConfigError {
        let Self { variable, key, .. } = self;
        let section = |of: &str| format!("{key} is a section; set a key in it, such as {PREFIX}{of}");
        let problem = match key.as_str() {
            "engine" => section("ENGINE__THREADS"),
            "labels" => section("LABELS__SITE"),
            "serve" => section("SERVE__LISTEN"),
            _ => one_line(error),
        };
        ConfigError::Environment { variable: variable.clone(), problem }
    }

    fn no_number(&self) -> ConfigError {
        let problem = format!("'{}' is no whole number", self.value);
        ConfigError::Environment { variable: self.variable.clone(), problem }
    }
}
