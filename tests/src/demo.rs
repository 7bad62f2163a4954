//! The main job in one run: a coordinator and three unlike agents as processes, the dense network on each, its times,
//! then a model for each device's budget, and its times. Every figure it shows was measured in that run.

mod budget;
mod fleet;
mod load;
mod measure;
mod plot;
mod progress;
mod report;
mod row;

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result};
use proto::v1;

pub use report::Report;
pub use row::{Outcome, Row};

use crate::binaries::{Binaries, target_folder};
use crate::dataset;
use fleet::Fleet;
use measure::{Measurement, TestImages};
use progress::Talk;

/// The deployment's name.
const DEPLOYMENT: &str = "fashion";

/// How much is learned and measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Enough to see the whole loop in less than three minutes.
    Quick,
    /// Enough for accuracies that mean something, in less than fifteen.
    Full,
}

impl Scale {
    /// Training images.
    fn images(self) -> usize {
        match self {
            Self::Quick => 3_000,
            Self::Full => 12_000,
        }
    }

    /// Passes over them.
    fn epochs(self) -> u32 {
        match self {
            Self::Quick => 2,
            Self::Full => 6,
        }
    }

    /// Images that each device is asked about, one at a time.
    fn requests(self) -> usize {
        match self {
            Self::Quick => 500,
            Self::Full => 1_000,
        }
    }

    /// How long one generation may take.
    fn limit(self) -> Duration {
        match self {
            Self::Quick => Duration::from_secs(300),
            Self::Full => Duration::from_secs(1_200),
        }
    }
}

/// One deployment's end, and what each device then measured.
#[derive(Debug)]
struct Generation {
    deployment: v1::Deployment,
    artifacts: Vec<v1::Artifact>,
    measurements: Vec<Measurement>,
}

/// Runs the demonstration and writes `table.json` and `demo.svg` into `target/demo`.
///
/// # Errors
/// When a step fails; the logs lie in `target/demo`.
pub async fn run(scale: Scale) -> Result<Report> {
    let folder = target_folder()?.join("demo");
    demonstrate(scale, &folder).await.with_context(|| {
        format!(
            "the demonstration stopped; the configuration and logs of its processes lie in {}",
            folder.display()
        )
    })
}

async fn demonstrate(scale: Scale, folder: &Path) -> Result<Report> {
    let talk = Talk::new();
    let mut clock = Stopwatch::default();
    talk.say("building reconvene and reconvene-agent (release)");
    let binaries = clock.time("build", tokio::task::spawn_blocking(Binaries::build)).await??;
    let cache = target_folder()?.join("datasets");
    let find = tokio::task::spawn_blocking(move || dataset::fashion_mnist(&cache));
    let images_folder = clock.time("data set", find).await??;
    talk.say(format!("Fashion-MNIST: {}", images_folder.display()));
    say_scale(&talk, scale);
    let images = TestImages::read(&images_folder, scale.requests())?;
    empty(folder)?;

    let starting = Fleet::start(&talk, &binaries, folder);
    let mut fleet = clock.time("profiles", starting).await?;
    let manifest = budget::dense(&images_folder, scale);
    let dense = generation(&talk, &mut clock, &mut fleet, &images, (&manifest, scale)).await?;
    let manifest = budget::fitted(&manifest, &dense)?;
    let fitted = generation(&talk, &mut clock, &mut fleet, &images, (&manifest, scale)).await?;

    let report = Report {
        rows: row::rows(&fleet, &dense, &fitted)?,
        scale,
        seconds: clock.laps,
        folder: folder.into(),
    };
    report.write()?;
    Ok(report)
}

/// Applies a manifest, follows it to its end, and lets each device answer for itself, one after the other.
async fn generation(
    talk: &Talk,
    clock: &mut Stopwatch,
    fleet: &mut Fleet,
    images: &TestImages,
    (manifest, scale): (&coordinator::manifest::DeploymentManifest, Scale),
) -> Result<Generation> {
    let text = serde_saphyr::to_string(manifest).context("the manifest cannot be written as YAML")?;
    let applied = fleet.operator.apply(&text).await?;
    let file = fleet.folder.join(format!("fashion-{}.yaml", applied.generation));
    fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    talk.say(format!("applied {} as generation {} of {}", file.display(), applied.generation, applied.name));

    let following = progress::follow(talk, fleet, applied.generation, scale.limit());
    let deployment = clock.time(&format!("generation {}", applied.generation), following).await?;
    let mut artifacts = Vec::new();
    for outcome in deployment.devices.iter().filter(|outcome| !outcome.digest.is_empty()) {
        artifacts.push(fleet.operator.artifact(&outcome.digest).await?);
    }
    let measuring = measure::all(talk, fleet, &deployment, images);
    let measurements = clock.time(&format!("measurements {}", applied.generation), measuring).await?;
    Ok(Generation { deployment, artifacts, measurements })
}

fn say_scale(talk: &Talk, scale: Scale) {
    let (images, epochs, requests) = (scale.images(), scale.epochs(), scale.requests());
    let how = match scale {
        Scale::Quick => "quick: few images and epochs, so accuracies stay low; `cargo demo` trains longer",
        Scale::Full => "full",
    };
    talk.say(format!(
        "{how}: {images} training images, {epochs} epochs, accuracy on the 10,000 test images, \
         {requests} images timed on each device"
    ));
}

/// Makes an empty folder: nothing of an earlier run is shown again.
fn empty(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", folder.display()));
        }
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

impl Generation {
    fn outcome(&self, device: &str) -> Result<&v1::DeviceOutcome> {
        let mut outcomes = self.deployment.devices.iter();
        outcomes.find(|outcome| outcome.device_id == device).with_context(|| {
            format!("generation {} of the deployment has no {device}", self.deployment.generation)
        })
    }

    fn artifact(&self, digest: &str) -> Option<&v1::Artifact> {
        self.artifacts.iter().find(|artifact| artifact.digest == digest)
    }

    fn measurement(&self, device: &str) -> Option<&Measurement> {
        self.measurements.iter().find(|measurement| measurement.device == device)
    }
}

/// Seconds by stage.
#[derive(Debug, Default)]
struct Stopwatch {
    laps: Vec<(String, f64)>,
}

impl Stopwatch {
    async fn time<T>(&mut self, stage: &str, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = work.await;
        self.laps.push((stage.to_owned(), start.elapsed().as_secs_f64()));
        result
    }
}
