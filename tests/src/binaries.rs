//! Where the two binaries lie. Builds them with cargo; never falls back to one found elsewhere on the machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// The paths of `reconvene` and `reconvene-agent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// `reconvene`.
    pub coordinator: PathBuf,
    /// `reconvene-agent`.
    pub agent: PathBuf,
}

impl Binaries {
    /// The binaries beside the running executable, as they are.
    ///
    /// # Errors
    /// When one is missing.
    pub fn locate() -> Result<Self> {
        let folder = profile_folder()?;
        let binaries = Self { coordinator: folder.join("reconvene"), agent: folder.join("reconvene-agent") };
        for path in [&binaries.coordinator, &binaries.agent] {
            ensure!(path.is_file(), "{} is missing: run `cargo build --bins` first", path.display());
        }
        Ok(binaries)
    }

    /// Builds both in the profile of the running executable, then locates them. `cargo test` by itself builds no binary
    /// of another package, so the tests ask for them here; once per process.
    ///
    /// # Errors
    /// When cargo fails; its own messages are on standard error.
    pub fn build() -> Result<Self> {
        static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
        BUILT
            .get_or_init(|| build().map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(anyhow::Error::msg)
    }
}

fn build() -> Result<Binaries> {
    let folder = profile_folder()?;
    let name = folder.file_name().and_then(|name| name.to_str()).context("the target folder has no name")?;
    let profile = if name == "debug" { "dev" } else { name };
    let target = folder.parent().context("the target folder has no parent")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo told this test of its own package. ring's build looks at it, and would have a third of the workspace built anew.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let status = command
        // The whole workspace: another selection would unify other features and compile the large crates once more.
        .args(["build", "--locked", "--quiet", "--workspace", "--bins", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .arg("--manifest-path")
        .arg(workspace_root().join("Cargo.toml"))
        .stdin(Stdio::null())
        .status()
        .context("cargo cannot be started; it is needed to build `reconvene` and `reconvene-agent`")?;
    if !status.success() {
        bail!("cargo could not build `reconvene` and `reconvene-agent`: {status}");
    }
    Binaries::locate()
}

/// The workspace's root folder.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace's root")
}

/// `target/debug` or `target/release`: where cargo put the running executable, less its `deps` folder.
fn profile_folder() -> Result<PathBuf> {
    let executable = env::current_exe().context("the running executable's path is unknown")?;
    let mut folder = executable.parent().context("the running executable has no folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("the deps folder has no parent")?;
    }
    Ok(folder.to_owned())
}

/// The folder that cargo builds into.
///
/// # Errors
/// When the running executable does not lie in one.
pub fn target_folder() -> Result<PathBuf> {
    Ok(profile_folder()?.parent().context("the target folder has no parent")?.to_owned())
}
