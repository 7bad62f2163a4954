//! Where Fashion-MNIST lies on this machine, or how it gets there. Reads no image; the product's own reader does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

pub mod patterns;

const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];

/// Where Debian's package `dataset-fashion-mnist` puts its files.
const INSTALLED: &str = "usr/share/datasets/fashion-mnist";
const PACKAGE: &str = "dataset-fashion-mnist";

/// The folder with the four files of Fashion-MNIST: the installed package's, or one under `cache`, fetched there as
/// Debian's package, without root, if need be.
///
/// # Errors
/// When it is nowhere and cannot be fetched; the message says where to put the files.
pub fn fashion_mnist(cache: &Path) -> Result<PathBuf> {
    let by_hand = cache.join("fashion-mnist");
    let fetched = cache.join(INSTALLED);
    for folder in [&Path::new("/").join(INSTALLED), &by_hand, &fetched] {
        if is_complete(folder) {
            return Ok(folder.clone());
        }
    }
    let fetch = fetch(cache);
    if fetch.is_ok() && is_complete(&fetched) {
        return Ok(fetched);
    }
    let reason = fetch.err().map_or("the package lacks one of them".to_owned(), |error| format!("{error:#}"));
    bail!(
        "Fashion-MNIST is not on this machine and could not be fetched ({reason}). Install Debian's {PACKAGE}, or put \
         {} (each may end in .gz) into {}",
        FILES.join(", "),
        by_hand.display()
    )
}

/// Whether all four files are there, compressed or not.
fn is_complete(folder: &Path) -> bool {
    FILES.iter().all(|file| folder.join(file).is_file() || folder.join(format!("{file}.gz")).is_file())
}

fn fetch(cache: &Path) -> Result<()> {
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    if let Err(error) = run(cache, "apt-get", &["download", PACKAGE]) {
        if !rustix::process::geteuid().is_root() {
            return Err(error.context("`sudo apt-get update` may help"));
        }
        run(cache, "apt-get", &["update"])?;
        run(cache, "apt-get", &["download", PACKAGE])?;
    }
    let package = fs::read_dir(cache)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with(PACKAGE) && name.ends_with(".deb"))
        .context("apt-get left no package")?;
    run(cache, "dpkg-deb", &["-x", &package, "."])
}

/// Runs a program in `folder`; its output is only told when it fails.
fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("no message");
        bail!("`{program} {}` failed: {last}", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_complete_with_all_four_files() {
        let folder = tempfile::tempdir().unwrap();
        for (index, file) in FILES.iter().enumerate() {
            assert!(!is_complete(folder.path()));
            let suffix = if index % 2 == 0 { "" } else { ".gz" };
            fs::write(folder.path().join(format!("{file}{suffix}")), "").unwrap();
        }
        assert!(is_complete(folder.path()));
    }

    #[test]
    fn a_failed_command_tells_its_last_word() {
        let folder = tempfile::tempdir().unwrap();
        let error = run(folder.path(), "sh", &["-c", "echo first >&2; echo no such package >&2; exit 3"]);
        assert!(error.unwrap_err().to_string().ends_with("failed: no such package"));
    }
}
