//! `reconvene train`: one network on this machine, with no coordinator. Read `run` top to bottom.

mod log;
mod recipe;
mod report;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use coordinator::causes::chain;
use pruner_core::Network;
use pruner_core::dataset::{Dataset, Format, TestShare};
use pruner_core::graph::onnx::{self, BatchNorms};
use pruner_core::graph::weights;
use pruner_core::train::{self, Checkpoint, TrainError, Trainer};

use self::log::Log;
use self::recipe::RecipeArgs;
use self::report::Report;
use super::Context;
use super::arguments::{one_of, parse_test_share};
use super::dataset;
use super::destination::Destination;
use super::error::CliError;
use super::output::ReportFormat;
use super::progress::{Job, Progress, Stage};
use super::source::Source;

/// Which network, on which images.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene train --onnx pruned.onnx --dataset /data/fashion-mnist --epochs 10 --out trained.onnx
  reconvene train --network resnet20 --dataset /data/cifar-10-batches-bin --schedule one-cycle --out dense.onnx
  reconvene train --onnx pruned.onnx --dataset /data/leaves --test-share 20% --checkpoint run.ckpt --log run.jsonl --out m.onnx

The file's weights are what training starts from. With --checkpoint, a training that was cut off goes on from its last
whole epoch when the same command is given again, and ends with the same weights; the file is removed at the end.
--log gets one JSON object a line: one for each epoch, and one for the test.")]
pub(crate) struct TrainArgs {
    /// A network of the zoo, dense, from fresh weights; an unknown name lists them all
    #[arg(long, required_unless_present = "onnx")]
    network: Option<String>,
    /// The network as an ONNX file, opset 9 to 21: `reconvene artifact export` writes such, or PyTorch
    #[arg(long, value_name = "FILE", conflicts_with = "network")]
    onnx: Option<PathBuf>,
    /// A folder of labelled images, as `reconvene dataset describe` reads it
    #[arg(long, value_name = "DIR")]
    dataset: PathBuf,
    /// How its files are laid out; detected, if not given
    #[arg(long, value_name = "FORMAT", value_parser = one_of::<Format>(Format::NAMES))]
    dataset_format: Option<Format>,
    /// The share of each class to test on, where there is no test folder: 0.2, 20% or 1/5
    #[arg(long, value_name = "SHARE", value_parser = parse_test_share)]
    test_share: Option<TestShare>,
    /// Use only the first so many training images
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    images: Option<u32>,
    /// Where to write the trained network: ONNX, batch norms folded; or, if it ends in .safetensors, its weights by name
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where to write how far it is after each epoch, and where to go on from
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Where to write figures of each epoch, as JSON lines
    #[arg(long, value_name = "FILE.jsonl")]
    log: Option<PathBuf>,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Threads that compute; 0: one for each core. The result is the same with any number
    #[arg(long, default_value_t = 0)]
    threads: u16,
    /// How to print the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: ReportFormat,
}

pub(crate) fn run(args: &TrainArgs, context: &Context) -> Result<(), CliError> {
    args.refuse_equal_paths()?;
    let (_, mut dataset) = dataset::read(&args.dataset, args.dataset_format, args.test_share)?;
    if let Some(images) = args.images {
        dataset = dataset.with_train(images as usize);
    }
    let network = args.network(&dataset, context)?;
    let out = Destination::check(&args.out)?;
    let checkpoint = args.checkpoint.as_deref().map(Destination::check).transpose()?;
    let log = Log::open(args.log.as_deref())?;
    let threads = rayon::ThreadPoolBuilder::new().num_threads(args.threads.into()).build();
    let threads = threads.map_err(|e| CliError::Failed(format!("cannot start threads: {e}")))?;
    let report =
        threads.install(|| train(args, (network, &dataset), (&out, checkpoint.as_ref()), log, context))?;
    report.print(args.output, &context.terminal)
}

/// Trains, tests, writes.
fn train(
    args: &TrainArgs,
    (network, dataset): (Network, &Dataset),
    (out, checkpoint): (&Destination, Option<&Destination>),
    mut log: Log,
    context: &Context,
) -> Result<Report, CliError> {
    let failed = |error: TrainError| CliError::Failed(chain(&error));
    let recipe = args.recipe.recipe();
    let mut trainer = Trainer::new(network.clone(), dataset, &recipe).map_err(refuse)?;
    if let Some((destination, found)) = checkpoint.map(found).transpose()?.flatten() {
        trainer = trainer.resumed(&found).map_err(|error| unusable(destination, &error))?;
        context.terminal.say(&format!("going on after epoch {} of {}", trainer.epochs(), recipe.epochs));
    }
    let began = Instant::now();
    let mut progress = Progress::new(&context.terminal);
    while !trainer.is_done() {
        let mut last = None;
        trainer
            .epoch(&mut |step| {
                progress.job(&Job {
                    name: "train",
                    done: step.step as u64,
                    total: step.steps as u64,
                    message: &step.to_string(),
                    stage: if step.step == step.steps { Stage::Finished } else { Stage::Running },
                });
                last = Some(step.clone());
                ControlFlow::Continue(())
            })
            .map_err(failed)?;
        if let Some(step) = last {
            log.epoch(&step, began.elapsed())?;
        }
        if let Some(destination) = checkpoint {
            destination.write(&trainer.checkpoint().and_then(|at| at.encode()).map_err(failed)?)?;
        }
    }
    progress.finish();
    let epochs = trainer.epochs();
    let trained = trainer.finish().map_err(failed)?;
    let seconds = began.elapsed().as_secs_f64();
    let tested =
        train::evaluate(&trained, dataset, &dataset.test).map_err(|e| CliError::Failed(chain(&e)))?;
    log.test(&tested)?;
    out.write(&args.encode(&trained)?)?;
    if let Some(destination) = checkpoint {
        destination.remove()?;
    }
    Ok(Report::new(&args.out, &trained, dataset, (epochs, seconds), &tested))
}

/// Where an earlier run of the same command stood.
fn found(destination: &Destination) -> Result<Option<(&Destination, Checkpoint)>, CliError> {
    let Some(file) = destination.read()? else { return Ok(None) };
    let found = Checkpoint::decode(&file).map_err(|error| unusable(destination, &error))?;
    Ok(Some((destination, found)))
}

/// A checkpoint that is of no use is the user's to remove: there may be hours in it.
fn unusable(destination: &Destination, error: &TrainError) -> CliError {
    let path = destination.path().display();
    CliError::BadInput(format!("{path}: {}; give another file, or remove this one", chain(error)))
}

/// Settings and images that do not go together are the user's to change.
fn refuse(error: TrainError) -> CliError {
    CliError::Usage(chain(&error))
}

impl TrainArgs {
    /// One file cannot be two.
    fn refuse_equal_paths(&self) -> Result<(), CliError> {
        let (checkpoint, log) = (self.checkpoint.as_ref(), self.log.as_ref());
        let named = [("--out", Some(&self.out)), ("--checkpoint", checkpoint), ("--log", log)];
        let mut seen = BTreeMap::new();
        for (argument, path) in named.into_iter().filter_map(|(argument, path)| Some((argument, path?))) {
            // Those that cannot be made absolute are refused where they are opened.
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            if let Some(other) = seen.insert(whole, argument) {
                let path = path.display();
                return Err(CliError::Usage(format!("{other} and {argument} name the same file, {path}")));
            }
        }
        Ok(())
    }

    fn network(&self, dataset: &Dataset, context: &Context) -> Result<Network, CliError> {
        let (shape, classes) = (dataset.shape, dataset.classes);
        let source = match (&self.network, &self.onnx) {
            (Some(name), _) => Source::zoo(name, Some(shape), Some(classes as u16), self.recipe.seed())?,
            (None, Some(file)) => Source::file(file, Some(shape), self.recipe.seed())?,
            (None, None) => return Err(CliError::Usage("give --network or --onnx".to_owned())),
        };
        for note in &source.notes {
            context.terminal.say(note);
        }
        let outputs = source.network.graph.shape(source.network.graph.output()).numel();
        if outputs != classes {
            let name = &source.name;
            return Err(CliError::BadInput(format!(
                "{name} tells {outputs} classes apart, but {} has {classes}",
                self.dataset.display()
            )));
        }
        Ok(source.network)
    }

    fn encode(&self, trained: &Network) -> Result<Vec<u8>, CliError> {
        let is_weights = self.out.extension().is_some_and(|end| end == "safetensors");
        if is_weights {
            return weights::encode(&trained.weights).map_err(|e| CliError::Failed(chain(&e)));
        }
        onnx::encode(trained, BatchNorms::Folded).map_err(|e| CliError::Failed(chain(&e)))
    }
}
