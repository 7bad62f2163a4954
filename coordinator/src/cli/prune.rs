//! `reconvene prune`: one network to one budget on this machine, with no coordinator. Read `prune` top to bottom.

mod arguments;
mod latency;
mod report;

use coordinator::causes::chain;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use pruner_core::Shape;
use pruner_core::dataset::{Format, LabelledImages, TestShare};
use pruner_core::graph::cost::cost;
use pruner_core::graph::onnx::{self, BatchNorms};
use pruner_core::latency::{HeldOut, LatencyModel};
use pruner_core::plan::{Coupled, PlanError, Planner, WidthPolicy};
use pruner_core::pruning::{IMAGES_PER_CLASS, Pruning};
use pruner_core::rectify::Reinit;
use pruner_core::report::Change;
use pruner_core::saliency::Criterion;
use pruner_core::sensitivity::Measure;

use self::arguments::{CeilingArg, parse_exponent, parse_shape};
use self::report::Report;
use super::Context;
use super::arguments::{one_of, parse_share, parse_test_share};
use super::dataset;
use super::destination::Destination;
use super::error::CliError;
use super::output::ReportFormat;
use super::progress::{Job, Progress, Stage};
use super::source::Source;

/// What to prune, and how far.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene prune --network resnet20 --budget params=1/16.21 --out m.onnx
  reconvene prune --network vgg16-bn --budget macs=25%,size=2Mi --round-to 8 --out m.onnx
  reconvene prune --network resnet20 --budget memory=256Ki --input 1x28x28 --out m.onnx -o json
  reconvene prune --onnx gate.onnx --budget macs=1/4 --out gate-small.onnx --report gate-small.svg
  reconvene prune --network resnet20 --input 1x28x28 --budget params=1/16.21 --batch-norms kept --out to-train.onnx
  reconvene prune --network resnet20 --profile gw-a.json --budget latencyP95=0.8ms --out m.onnx
  reconvene prune --network resnet20 --criterion snip --dataset /data/fashion-mnist --budget params=1/4 --out m.onnx

A profile is what `reconvene-agent profile --config FILE -o json` prints on a device whose agent has timed the probes.

A ceiling is a figure (90k, 40M, 200Ki) or a share of what the dense network has (1/16.21, 25%).
Exit code 4 if no network meets the budget; nothing is written then.")]
pub(crate) struct PruneArgs {
    /// The dense network, such as resnet20, vgg16-bn or resnet18-cifar; an unknown name lists them all
    #[arg(long, required_unless_present = "onnx")]
    network: Option<String>,
    /// The dense network as an ONNX file of your own, opset 9 to 21
    #[arg(long, value_name = "FILE", conflicts_with_all = ["network", "classes"])]
    onnx: Option<PathBuf>,
    /// Ceilings, separated by commas: params=, macs=, size= (of the ONNX file), memory= and activations= (at batch 1),
    /// latencyP50= and latencyP95= (with --profile)
    #[arg(long, required = true, value_delimiter = ',', value_name = "CEILING")]
    budget: Vec<CeilingArg>,
    /// A device's profile, for latency ceilings and predicted times
    #[arg(long, value_name = "FILE.json")]
    profile: Option<PathBuf>,
    /// Where to write a picture of the layers' widths and sensitivities
    #[arg(long, value_name = "FILE.svg")]
    report: Option<PathBuf>,
    /// Where to write the ONNX file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Whether batch norms melt into the layers before them, as on a device, or stay, to be trained
    #[arg(long, value_enum, default_value = "folded")]
    batch_norms: BatchNormsArg,
    /// What weights are scored by; snip and grasp look at images of --dataset
    #[arg(long, default_value = "synflow", value_parser = one_of::<Criterion>(Criterion::NAMES))]
    criterion: Criterion,
    /// What a layer's sensitivity is taken from; probe looks at images of --dataset
    #[arg(long, default_value = "density", value_parser = one_of::<Measure>(Measure::NAMES))]
    measure: Measure,
    /// How strongly widths follow sensitivities, 0 to 4; 0: all layers alike
    #[arg(long, default_value_t = 0.25, value_parser = parse_exponent)]
    exponent: f64,
    /// Whether channels that additions couple are pruned as a whole, or skipped
    #[arg(long, default_value = "prune", value_parser = one_of::<Coupled>(Coupled::NAMES))]
    coupled: Coupled,
    /// What the pruned network starts from
    #[arg(long, default_value = "touched", value_parser = one_of::<Reinit>(Reinit::NAMES))]
    reinit: Reinit,
    /// A folder of labelled images, as `reconvene dataset describe` reads it: the network reads such images
    #[arg(long, value_name = "DIR", conflicts_with_all = ["input", "classes"])]
    dataset: Option<PathBuf>,
    /// How the files of --dataset are laid out; detected, if not given
    #[arg(long, value_name = "FORMAT", requires = "dataset", value_parser = one_of::<Format>(Format::NAMES))]
    dataset_format: Option<Format>,
    /// The share of each class that is not looked at, where --dataset has no test folder of its own: 0.2, 20% or 1/5
    #[arg(long, value_name = "SHARE", requires = "dataset", value_parser = parse_test_share)]
    test_share: Option<TestShare>,
    /// Channels, height and width of an image; 3x32x32, or what the file says
    #[arg(long, value_name = "CxHxW", value_parser = parse_shape)]
    input: Option<Shape>,
    /// Classes to tell apart; 10, or what the file says
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    classes: Option<u16>,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of scoring and masking; 100 for synflow, 1 for the others (magnitude and random never need more)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Share of the weights that the last round keeps
    #[arg(long, default_value = "1/16.21", value_parser = parse_share)]
    density: f64,
    /// No layer is left with fewer channels
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    min_channels: u16,
    /// Make widths multiples of this
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    round_to: u16,
    /// How to print the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: ReportFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum BatchNormsArg {
    Folded,
    Kept,
}

pub(crate) fn run(args: &PruneArgs, context: &Context) -> Result<(), CliError> {
    let images = args.images()?;
    let (input, classes) = match &images {
        Some(images) => (Some(images.shape()), Some(images.classes() as u16)),
        None => (args.input, args.classes),
    };
    let source = match (&args.network, &args.onnx) {
        (Some(name), _) => Source::zoo(name, input, classes, args.seed)?,
        (None, Some(file)) => Source::file(file, input, args.seed)?,
        (None, None) => return Err(CliError::Usage("give --network or --onnx".to_owned())),
    };
    for note in &source.notes {
        context.terminal.say(note);
    }
    let latency = args.profile.as_deref().map(latency::model).transpose()?;
    let destination = Destination::check(&args.out)?;
    let picture = args.report.as_deref().map(Destination::check).transpose()?;
    let report = prune(args, (&source, images.as_ref(), latency), &destination, context)?;
    if let Some(picture) = picture {
        picture.write(report.figures.to_svg().map_err(|e| CliError::Failed(chain(&e)))?.as_bytes())?;
    }
    context.terminal.say(&format!(
        "{} is not trained as it is now: {}; train it before it serves",
        args.out.display(),
        source.weights(args.reinit)
    ));
    report.print(args.output, &context.terminal)
}

/// Score, plan, surgery, fresh weights, ONNX.
fn prune(
    args: &PruneArgs,
    (source, images, latency): (&Source, Option<&LabelledImages>, Option<(LatencyModel, HeldOut)>),
    destination: &Destination,
    context: &Context,
) -> Result<Report, CliError> {
    let network = &source.network;
    let (latency, held_out) = latency.unzip();
    let latency = latency.as_ref();
    let dense = latency.map(|model| model.predict(&network.graph));
    let budget = arguments::budget(&args.budget, &cost(&network.graph), dense)?;

    let began = Instant::now();
    let planner = score(args, source, images, context)?;
    let scored = Instant::now();

    let plan = planner.plan(&budget, latency, args.round_to.into()).map_err(refuse)?;
    let pruned = args.pruning().carry_out(network, &plan).map_err(|e| CliError::Failed(chain(&e)))?;
    let norms = match args.batch_norms {
        BatchNormsArg::Folded => BatchNorms::Folded,
        BatchNormsArg::Kept => BatchNorms::Kept,
    };
    let file = onnx::encode(&pruned, norms).map_err(|e| CliError::Failed(chain(&e)))?;
    destination.write(&file)?;

    Ok(Report {
        network: source.name.clone(),
        file: args.out.display().to_string(),
        digest: proto::Digest::of(&file).to_string(),
        figures: pruner_core::report::Report::new(&network.graph, &plan, &pruned.graph, latency),
        held_out,
        predicted: dense.zip(plan.predicted).map(|(before, after)| Change { before, after }),
        seconds_to_score: (scored - began).as_secs_f64(),
        seconds_to_prune: scored.elapsed().as_secs_f64(),
    })
}

fn score(
    args: &PruneArgs,
    source: &Source,
    images: Option<&LabelledImages>,
    context: &Context,
) -> Result<Planner, CliError> {
    let name = format!("score {}", source.name);
    let mut progress = Progress::new(&context.terminal);
    let planner = args.pruning().planner(&source.network, images, &mut |done, total| {
        let stage = if done == total { Stage::Finished } else { Stage::Running };
        progress.job(&Job { name: &name, done: done.into(), total: total.into(), message: "", stage });
        ControlFlow::Continue(())
    });
    progress.finish();
    planner.map_err(|error| CliError::Failed(chain(&error)))
}

impl PruneArgs {
    fn pruning(&self) -> Pruning {
        let rounds = self.rounds.unwrap_or(if self.criterion == Criterion::SynFlow { 100 } else { 1 });
        let Self { criterion, density, measure, exponent, coupled, reinit, seed, .. } = *self;
        let widths = WidthPolicy { exponent, min_channels: self.min_channels.into(), coupled };
        Pruning { criterion, rounds, density, measure, widths, reinit, seed }
    }

    /// What criteria and measures look at; also says what images the network reads.
    fn images(&self) -> Result<Option<LabelledImages>, CliError> {
        let Some(folder) = &self.dataset else {
            if !self.pruning().needs_images() {
                return Ok(None);
            }
            let wants =
                if self.criterion.needs_images() { self.criterion.name() } else { self.measure.name() };
            return Err(CliError::Usage(format!("{wants} looks at labelled images: give --dataset")));
        };
        let (_, dataset) = dataset::read(folder, self.dataset_format, self.test_share)?;
        Ok(Some(dataset.sample(IMAGES_PER_CLASS)))
    }
}

fn refuse(error: PlanError) -> CliError {
    match error {
        PlanError::NoFit { .. } => CliError::NoFit(format!("{error}; nothing was written")),
        PlanError::NoLatencyModel => CliError::Failed(error.to_string()),
    }
}
