//! The house rules that a machine can check: sizes, headers, names, where engines and wire may occur, and the arrows
//! between the crates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fleet_tests::binaries::workspace_root;

const CRATES: [&str; 5] = ["proto", "pruner-core", "coordinator", "agent", "tests"];

/// No file is longer, in lines; a file of nothing but tests may be.
const LONGEST: usize = 600;

/// A source file of ours.
struct Source {
    /// Relative to the workspace.
    path: String,
    text: String,
}

impl Source {
    fn is_tests(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
            || self.path.starts_with("tests/it/")
    }

    /// The text before its module of tests.
    fn product(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
    }
}

/// Every Rust file of the five crates.
fn sources() -> Vec<Source> {
    let mut folders: Vec<PathBuf> = CRATES.iter().map(|name| workspace_root().join(name)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(workspace_root()).unwrap().to_str().unwrap().to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    sources
}

/// Fails with one line for each offence.
#[track_caller]
fn forbid(rule: &str, offences: impl IntoIterator<Item = String>) {
    let mut offences: Vec<String> = offences.into_iter().collect();
    offences.sort();
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let sources = sources();
    let long = sources.iter().filter(|s| !s.is_tests() && s.product().lines().count() > LONGEST);
    forbid("longer than 600 lines; split it", long.map(|s| s.path.clone()));
    let silent = sources.iter().filter(|s| !s.text.starts_with("//!"));
    forbid("does not open with //! on what it owns", silent.map(|s| s.path.clone()));
}

#[test]
fn names_say_what_a_thing_is() {
    let sources = sources();
    let files = ["mod.rs", "util.rs", "utils.rs", "common.rs", "helpers.rs", "misc.rs", "types.rs"];
    let vague = sources.iter().filter(|s| files.contains(&s.path.rsplit('/').next().unwrap_or_default()));
    forbid("a file name that says nothing", vague.map(|s| s.path.clone()));
    let endings = ["Manager", "Helper", "Helpers", "Util", "Utils", "Handler2"];
    let declared = sources.iter().flat_map(|source| {
        source.text.lines().filter_map(|line| Some((source, declaration(line)?))).collect::<Vec<_>>()
    });
    let vague = declared.filter(|(_, name)| endings.iter().any(|ending| name.ends_with(ending)));
    forbid("a type name that says nothing", vague.map(|(source, name)| format!("{}: {name}", source.path)));
}

/// The name that a line declares a type by.
fn declaration(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
    let rest = ["struct ", "enum ", "trait ", "type "].iter().find_map(|word| line.strip_prefix(word))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

#[test]
fn nothing_is_left_undone() {
    // Spelled in pieces, so that this file does not offend itself.
    let words = ["to", "do!("].concat();
    let ignored = ["#[ig", "nore"].concat();
    let marks =
        [words, ["unimplem", "ented!("].concat(), ["TO", "DO"].concat(), ["FIX", "ME"].concat(), ignored];
    let found = sources().into_iter().flat_map(|source| {
        let found = marks.iter().filter(|mark| source.text.contains(*mark));
        found.map(|mark| format!("{}: {mark}", source.path)).collect::<Vec<_>>()
    });
    forbid("left undone", found);
}

#[test]
fn engines_and_wire_stay_behind_their_borders() {
    let rules: [(&str, &[&str]); 4] = [
        ("sled::", &["coordinator/src/store"]),
        (
            "tonic::",
            &[
                "proto/",
                "coordinator/src/rpc",
                "coordinator/src/app.rs",
                // Connections themselves.
                "coordinator/src/listener/door.rs",
                // The worker's end of them.
                "coordinator/src/worker.rs",
                "coordinator/src/worker/client.rs",
                "coordinator/src/worker/local.rs",
                "agent/src/identity",
                "coordinator/src/cli",
                "agent/src/session",
                "agent/src/fetch",
                "agent/src/serve",
                "agent/benches/",
                // The channel is handed through these.
                "agent/src/app.rs",
                "agent/src/config.rs",
                "agent/src/probe/task.rs",
                "agent/src/update.rs",
                "tests/",
            ],
        ),
        // The example measures what the latency model predicts, the study what networks take, the bench what serving adds.
        (
            "rten::",
            &[
                "agent/src/runner/engine",
                "agent/benches/",
                "pruner-core/examples/",
                "tests/src/study/timing.rs",
            ],
        ),
        ("ort::", &["agent/src/runner/engine/onnxruntime.rs"]),
    ];
    for (word, allowed) in rules {
        let strays = sources().into_iter().filter(|source| {
            !source.is_tests()
                && !allowed.iter().any(|place| source.path.starts_with(place))
                && source.text.lines().any(|line| names(line, word))
        });
        forbid(&format!("`{word}` outside its place"), strays.map(|source| source.path));
    }
}

/// Whether a line of code, not of comment, has `word` as a path of its own.
fn names(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '"')
    })
}

#[test]
fn a_word_is_found_only_as_a_path_of_its_own() {
    assert!(names("use sled::Db;", "sled::"));
    assert!(!names("use crate::store::sled::Db;", "sled::"));
    assert!(!names("let a = 1; // sled::Db", "sled::"));
    assert!(!names("unsled::x", "sled::"));
    assert_eq!(declaration("pub(crate) struct FooManager<T> {"), Some("FooManager"));
    assert_eq!(declaration("    let kind = 1;"), None);
}

#[test]
fn arrows_point_one_way() {
    let rules: [(&str, &[&str]); 4] = [
        ("proto", &["pruner-core", "coordinator", "agent", "sled", "candle-core", "rten"]),
        ("pruner-core", &["proto", "tokio", "tonic", "sled", "hyper", "coordinator", "agent", "rten"]),
        ("agent", &["pruner-core", "candle-core", "sled", "coordinator", "fleet-tests"]),
        ("coordinator", &["agent", "rten", "fleet-tests"]),
    ];
    for (name, forbidden) in rules {
        let tree = dependencies(name);
        let found = forbidden.iter().filter(|package| tree.iter().any(|dependency| dependency == *package));
        forbid(&format!("{name} depends on what it must not"), found.map(|package| (*package).to_owned()));
    }
}

/// Everything that a crate is built from, less what only its tests or build scripts need.
fn dependencies(name: &str) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "-p", name, "-e", "normal", "--prefix", "none"])
        .current_dir(workspace_root())
        .output()
        .unwrap();
    let (tree, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let names: Vec<String> =
        tree.lines().skip(1).filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(!names.is_empty(), "{name} depends on nothing");
    names
}

#[test]
fn nothing_of_one_machine_is_committed() {
    let homes = ["/ro", "/ho"].map(|start| [start, if start == "/ro" { "ot/" } else { "me/" }].concat());
    let found = sources().into_iter().filter(|source| homes.iter().any(|home| source.text.contains(home)));
    forbid("names a folder of one machine", found.map(|source| source.path));
    assert!(Path::new(workspace_root()).join("LICENSE").is_file());
}
