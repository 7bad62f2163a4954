//! The formats of data on standard output: tables for people, JSON and YAML for programs, names for pipes.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::error::CliError;
use super::resource::{Resource, Width, table};
use super::terminal::Terminal;
use coordinator::manifest::API_VERSION;

/// What `get` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ListFormat {
    /// Aligned columns.
    Table,
    /// The same with more columns.
    Wide,
    /// One object, or one list of objects.
    Json,
    /// The same as YAML.
    Yaml,
    /// `kind/name`, one a line.
    Name,
}

/// How a verb prints what it found out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReportFormat {
    /// For people.
    Table,
    /// Everything, for programs.
    Json,
}

/// Whether a table begins with its titles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    Shown,
    Left,
}

/// A format for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notation {
    Json,
    Yaml,
}

/// Prints several things.
pub(crate) fn print_list<T: Resource>(
    terminal: &Terminal,
    items: &[T],
    format: ListFormat,
    header: Header,
) -> Result<(), CliError> {
    match format {
        ListFormat::Table => print_table(terminal, items, Width::Usual, header),
        ListFormat::Wide => print_table(terminal, items, Width::Wide, header),
        ListFormat::Json => terminal.data(&write(&list(items)?, Notation::Json)?),
        ListFormat::Yaml => terminal.data(&write(&list(items)?, Notation::Yaml)?),
        ListFormat::Name => print_names(terminal, items),
    }
}

/// Prints one thing: as itself for programs, as a list of one for people.
pub(crate) fn print_one<T: Resource>(
    terminal: &Terminal,
    item: &T,
    format: ListFormat,
    header: Header,
) -> Result<(), CliError> {
    match format {
        ListFormat::Json => terminal.data(&write(&item.document()?, Notation::Json)?),
        ListFormat::Yaml => terminal.data(&write(&item.document()?, Notation::Yaml)?),
        ListFormat::Table | ListFormat::Wide | ListFormat::Name => {
            print_list(terminal, std::slice::from_ref(item), format, header)
        }
    }
}

/// `item` with `apiVersion` and `kind`.
pub(crate) fn object(kind: &str, item: &impl Serialize) -> Result<Value, CliError> {
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), API_VERSION.into());
    object.insert("kind".to_owned(), kind.into());
    match serde_json::to_value(item) {
        Ok(Value::Object(fields)) => object.extend(fields),
        Ok(other) => return Err(CliError::Failed(format!("a {kind} is not an object: {other}"))),
        Err(error) => return Err(CliError::Failed(format!("cannot write a {kind} as JSON: {error}"))),
    }
    Ok(Value::Object(object))
}

/// A value as text. Keys are in alphabetical order, so that two outputs can be compared.
pub(crate) fn write(value: &Value, notation: Notation) -> Result<String, CliError> {
    match notation {
        Notation::Json => serde_json::to_string_pretty(value)
            .map_err(|error| CliError::Failed(format!("cannot write JSON: {error}"))),
        Notation::Yaml => serde_saphyr::to_string(value)
            .map_err(|error| CliError::Failed(format!("cannot write YAML: {error}"))),
    }
}

fn list<T: Resource>(items: &[T]) -> Result<Value, CliError> {
    let items = items.iter().map(T::item).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "apiVersion": API_VERSION, "kind": T::LIST, "items": items }))
}

fn print_table<T: Resource>(
    terminal: &Terminal,
    items: &[T],
    width: Width,
    header: Header,
) -> Result<(), CliError> {
    if items.is_empty() {
        terminal.say(&format!("no {} found", T::PLURAL));
        return Ok(());
    }
    let table = table(items, width);
    let table = match header {
        Header::Shown => table,
        Header::Left => table.without_header(),
    };
    terminal.data(&table.render(terminal.colors))
}

fn print_names<T: Resource>(terminal: &Terminal, items: &[T]) -> Result<(), CliError> {
    let kind = T::KIND.to_lowercase();
    items.iter().try_for_each(|item| terminal.data(&format!("{kind}/{}", item.name())))
}
