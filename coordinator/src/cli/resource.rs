//! The kinds of things an operator can list: their names, and the columns of their tables.

pub(crate) mod columns;
mod deployment;

use proto::v1;
use serde::Serialize;
use serde_json::Value;
use tonic::Status;

use super::connect::{Client, soon};
use super::error::CliError;
use super::output::object;
use super::table::{Entry, Table};

/// A kind, as it is spelt on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Devices that ever introduced themselves.
    #[value(aliases = ["device", "dev"])]
    Devices,
    /// Dense networks that can be pruned.
    #[value(alias = "model")]
    Models,
    /// Datasets that were given a name.
    #[value(alias = "dataset")]
    Datasets,
    /// Deployments and how far they are.
    #[value(aliases = ["deployment", "deploy"])]
    Deployments,
    /// What workers do.
    #[value(alias = "job")]
    Jobs,
    /// Those who score and train.
    #[value(alias = "worker")]
    Workers,
    /// Derived models, named by their digest.
    #[value(aliases = ["artifact", "art"])]
    Artifacts,
    /// What devices join with.
    #[value(alias = "token")]
    Tokens,
    /// Those who hold operators' and workers' certificates.
    #[value(alias = "operator")]
    Operators,
    /// Latencies that devices measured.
    #[value(alias = "tel")]
    Telemetry,
}

/// How many columns a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Usual,
    Wide,
}

/// One column of the table of `T`s.
pub(crate) struct Column<T> {
    title: &'static str,
    width: Width,
    entry: fn(&T) -> Entry,
}

/// What a name selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// At most one thing has the name.
    Exact,
    /// The beginning of a name is enough where only one begins so.
    Prefix,
    /// The name is another thing's; any number belong to it.
    Owner,
}

/// A message that can be listed.
pub(crate) trait Resource: Serialize + Sized + 'static {
    /// As in `kind:`, singular.
    const KIND: &'static str;
    /// For sentences, singular, lower case.
    const NOUN: &'static str;
    /// The same for several.
    const PLURAL: &'static str;
    const NAMING: Naming;
    const COLUMNS: &'static [Column<Self>];

    /// The `kind` of several of them.
    const LIST: &'static str;

    fn name(&self) -> &str;

    /// As it is printed alone.
    fn document(&self) -> Result<Value, CliError> {
        object(Self::KIND, self)
    }

    /// As it is printed in a list.
    fn item(&self) -> Result<Value, CliError> {
        let written = serde_json::to_value(self);
        written.map_err(|error| CliError::Failed(format!("cannot write {} as JSON: {error}", Self::PLURAL)))
    }

    /// Asks for those that `name` selects; for all where it is empty.
    async fn list(client: &mut Client, name: &str) -> Result<Vec<Self>, Status>;
}

/// A table of `items`.
pub(crate) fn table<T: Resource>(items: &[T], width: Width) -> Table {
    let columns = || T::COLUMNS.iter().filter(|column| width == Width::Wide || column.width == Width::Usual);
    let mut table = Table::new(columns().map(|column| column.title));
    for item in items {
        table.row(columns().map(|column| (column.entry)(item)));
    }
    table
}

/// The one thing that `name` names.
pub(crate) fn only<T: Resource>(mut items: Vec<T>, name: &str) -> Result<T, CliError> {
    if T::NAMING == Naming::Prefix && items.len() > 1 {
        let names: Vec<_> =
            items.iter().map(|item| item.name().chars().take(16).collect::<String>()).collect();
        return Err(CliError::Usage(format!(
            "'{name}' is the beginning of {} {}s: {}; give more digits",
            items.len(),
            T::NOUN,
            names.join(", ")
        )));
    }
    let not_found = || CliError::NotFound { kind: T::NOUN, name: name.to_owned() };
    let is_named = |item: &T| match T::NAMING {
        Naming::Exact => item.name() == name,
        Naming::Prefix => item.name().starts_with(name),
        Naming::Owner => true,
    };
    items.retain(is_named);
    items.into_iter().next().ok_or_else(not_found)
}

macro_rules! resource {
    ($message:ident, $noun:literal, $plural:literal, $naming:ident, $columns:ident, $name:ident, $list:ident -> $items:ident) => {
        impl Resource for v1::$message {
            const KIND: &'static str = stringify!($message);
            const NOUN: &'static str = $noun;
            const PLURAL: &'static str = $plural;
            const NAMING: Naming = Naming::$naming;
            const COLUMNS: &'static [Column<Self>] = columns::$columns;
            const LIST: &'static str = concat!(stringify!($message), "List");

            fn name(&self) -> &str {
                &self.$name
            }

            async fn list(client: &mut Client, name: &str) -> Result<Vec<Self>, Status> {
                let request = soon(v1::ListRequest { name: name.to_owned() });
                Ok(client.$list(request).await?.into_inner().$items)
            }
        }
    };
}

resource!(Device, "device", "devices", Exact, DEVICES, id, list_devices -> devices);
resource!(Model, "model", "models", Exact, MODELS, name, list_models -> models);
resource!(Dataset, "dataset", "datasets", Exact, DATASETS, name, list_datasets -> datasets);
resource!(Job, "job", "jobs", Exact, JOBS, name, list_jobs -> jobs);
resource!(Worker, "worker", "workers", Exact, WORKERS, name, list_workers -> workers);
resource!(Operator, "operator", "operators", Exact, OPERATORS, name, list_operators -> operators);
resource!(Artifact, "artifact", "artifacts", Prefix, ARTIFACTS, digest, list_artifacts -> artifacts);
resource!(Token, "token", "tokens", Exact, TOKENS, id, list_tokens -> tokens);
resource!(PendingDevice, "pending device", "pending devices", Exact, PENDING, id, list_pending -> devices);
resource!(Authority, "authority", "authorities", Exact, AUTHORITIES, name, list_authorities -> authorities);
resource!(TelemetrySummary, "device", "telemetry", Owner, TELEMETRY, device_id, list_telemetry -> telemetry);
