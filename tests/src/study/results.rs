//! What the study found, a line for each finding; on the disk before the next arm begins. Never decides what to run.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::arm::Arm;

/// One finding.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Finding {
    Trained(Trained),
    Timed(Timed),
}

/// What one arm gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Trained {
    pub(super) arm: Arm,
    /// Share of the test images, 0 to 1.
    pub(super) accuracy: f64,
    pub(super) test_images: usize,
    /// Learnt numbers that are not held at 0.
    pub(super) params: u64,
    /// Of the dense network.
    pub(super) dense_params: u64,
    pub(super) macs: u64,
    pub(super) onnx_bytes: u64,
    /// Processor time of all threads, as are those of training.
    pub(super) seconds_to_prune: f64,
    pub(super) seconds_to_train: f64,
    /// What trained it: processor and threads.
    #[serde(default)]
    pub(super) machine: String,
    #[serde(default)]
    pub(super) command: String,
}

/// How fast the shapes of an arm run, one image at a time on one thread.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Timed {
    pub(super) arm: Arm,
    /// Median, milliseconds.
    pub(super) rten_ms: f64,
    pub(super) dense_rten_ms: f64,
    /// `None` where it is not installed.
    pub(super) onnxruntime_ms: Option<f64>,
    pub(super) dense_onnxruntime_ms: Option<f64>,
}

/// All findings so far, and their file.
pub(super) struct Results {
    path: PathBuf,
    findings: Vec<Finding>,
}

impl Results {
    /// Those in `path`; none where there is no such file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let text = if path.exists() {
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
        } else {
            String::new()
        };
        let parse = |(index, line): (usize, &str)| {
            serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), index + 1))
        };
        let findings = text.lines().enumerate().map(parse).collect::<Result<_>>()?;
        Ok(Self { path: path.to_owned(), findings })
    }

    pub(super) fn has(&self, arm: &Arm) -> bool {
        self.trained().any(|trained| trained.arm == *arm)
    }

    pub(super) fn trained(&self) -> impl Iterator<Item = &Trained> {
        self.findings.iter().filter_map(|finding| match finding {
            Finding::Trained(trained) => Some(trained),
            Finding::Timed(_) => None,
        })
    }

    /// The timing that serves an arm.
    pub(super) fn timed(&self, arm: &Arm) -> Option<&Timed> {
        self.findings.iter().find_map(|finding| match finding {
            Finding::Timed(timed) if timed.arm.is_shaped_like(arm) => Some(timed),
            Finding::Timed(_) | Finding::Trained(_) => None,
        })
    }

    pub(super) fn add(&mut self, trained: Trained, command: &str) -> Result<()> {
        let machine = format!("{}, {} threads", cpu_model(), rayon::current_num_threads());
        self.push(Finding::Trained(Trained { machine, command: command.to_owned(), ..trained }))
    }

    pub(super) fn add_timed(&mut self, timed: Timed) -> Result<()> {
        self.push(Finding::Timed(timed))
    }

    fn push(&mut self, finding: Finding) -> Result<()> {
        let write = || -> Result<()> {
            let mut file: File = OpenOptions::new().create(true).append(true).open(&self.path)?;
            file.write_all(format!("{}\n", serde_json::to_string(&finding)?).as_bytes())?;
            file.sync_all()?;
            Ok(())
        };
        write().with_context(|| format!("writing {}", self.path.display()))?;
        self.findings.push(finding);
        Ok(())
    }
}

/// As the kernel names it.
fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("an unknown processor", |(_, model)| model).to_owned()
}
