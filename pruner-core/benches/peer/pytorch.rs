//! PyTorch as the peer of benches: whether it is there, and what a script of `tests/peers` prints.

use std::process::Command;

/// A Python with PyTorch, where there is one.
pub(crate) fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let import = Command::new(python).args(["-c", "import torch"]).output();
        import.is_ok_and(|output| output.status.success())
    })
}

/// The numbers that the script prints, or what it complained of.
pub(crate) fn numbers(python: &str, script: &str, arguments: &[&str]) -> Result<Vec<f64>, String> {
    let path = format!("{}/../tests/peers/{script}", env!("CARGO_MANIFEST_DIR"));
    let output =
        Command::new(python).arg(path).args(arguments).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>();
    match numbers {
        Ok(numbers) if output.status.success() && !numbers.is_empty() => Ok(numbers),
        _ => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
