//! `reconvene prune`: one network to one budget on this machine, with no coordinator. Read `prune` top to bottom.

mod arguments;
mod destination;
mod report;
mod source;

use coordinator::causes::chain;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use pruner_core::graph::cost::cost;
use pruner_core::graph::onnx::{self, BatchNorms};
use pruner_core::plan::{PlanError, Planner, WidthPolicy};
use pruner_core::saliency::{self, Criterion, ScoreRecipe, Scores};
use pruner_core::sensitivity::density;
use pruner_core::{Shape, rectify, surgery};

use self::arguments::{CeilingArg, parse_shape, parse_share};
use self::destination::Destination;
use self::report::{Report, ReportFormat};
use self::source::Source;
use super::Context;
use super::error::CliError;
use super::progress::{Job, Progress, Stage};

/// What to prune, and how far.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene prune --network resnet20 --budget params=1/16.21 --out m.onnx
  reconvene prune --network vgg16-bn --budget macs=25%,size=2Mi --round-to 8 --out m.onnx
  reconvene prune --network resnet20 --budget memory=256Ki --input 1x28x28 --out m.onnx -o json
  reconvene prune --onnx gate.onnx --budget macs=1/4 --out gate-small.onnx --report gate-small.svg

A ceiling is a figure (90k, 40M, 200Ki) or a share of what the dense network has (1/16.21, 25%).
Exit code 4 if no network meets the budget; nothing is written then.")]
pub(crate) struct PruneArgs {
    /// The dense network, such as resnet20, vgg16-bn or resnet18-cifar; an unknown name lists them all
    #[arg(long, required_unless_present = "onnx")]
    network: Option<String>,
    /// The dense network as an ONNX file of your own, opset 9 to 21
    #[arg(long, value_name = "FILE", conflicts_with_all = ["network", "classes"])]
    onnx: Option<PathBuf>,
    /// Ceilings: params=, macs=, size= (of the ONNX file) or memory= (at batch 1), separated by commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "CEILING")]
    budget: Vec<CeilingArg>,
    /// Where to write a picture of the layers' widths and sensitivities
    #[arg(long, value_name = "FILE.svg")]
    report: Option<PathBuf>,
    /// Where to write the ONNX file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Channels, height and width of an image; 3x32x32, or what the file says
    #[arg(long, value_name = "CxHxW", value_parser = parse_shape)]
    input: Option<Shape>,
    /// Classes to tell apart; 10, or what the file says
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    classes: Option<u16>,
    /// Seed of the weights
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of scoring
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
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

pub(crate) fn run(args: &PruneArgs, context: &Context) -> Result<(), CliError> {
    let source = match (&args.network, &args.onnx) {
        (Some(name), _) => Source::zoo(name, args.input, args.classes, args.seed)?,
        (None, Some(file)) => Source::file(file, args.input, args.seed)?,
        (None, None) => return Err(CliError::Usage("give --network or --onnx".to_owned())),
    };
    for note in &source.notes {
        context.terminal.say(note);
    }
    let destination = Destination::check(&args.out)?;
    let picture = args.report.as_deref().map(Destination::check).transpose()?;
    let report = prune(args, &source, &destination, context)?;
    if let Some(picture) = picture {
        picture.write(report.figures.to_svg().map_err(|e| CliError::Failed(chain(&e)))?.as_bytes())?;
    }
    context.terminal.say(&format!(
        "{} is untrained: {}; train it before it serves",
        args.out.display(),
        source.weights
    ));
    report.print(args.output, &context.terminal)
}

/// Score, plan, surgery, fresh weights, ONNX.
fn prune(
    args: &PruneArgs,
    source: &Source,
    destination: &Destination,
    context: &Context,
) -> Result<Report, CliError> {
    let network = &source.network;
    let budget = arguments::budget(&args.budget, &cost(&network.graph))?;

    let began = Instant::now();
    let scores = score(args, source, context)?;
    let scored = Instant::now();

    let policy = WidthPolicy { min_channels: args.min_channels.into(), ..WidthPolicy::default() };
    let planner = Planner::new(&network.graph, &scores, density(&scores), policy);
    let plan = planner.plan(&budget, None, args.round_to.into()).map_err(refuse)?;
    let pruned = surgery::apply(network, &plan.keep).map_err(|e| CliError::Failed(chain(&e)))?;
    let pruned = rectify::reinit(pruned, &network.graph, args.seed);
    let file = onnx::encode(&pruned, BatchNorms::Folded).map_err(|e| CliError::Failed(chain(&e)))?;
    destination.write(&file)?;

    Ok(Report {
        network: source.name.clone(),
        file: args.out.display().to_string(),
        digest: proto::Digest::of(&file).to_string(),
        figures: pruner_core::report::Report::new(&network.graph, &plan, &pruned.graph, None),
        seconds_to_score: (scored - began).as_secs_f64(),
        seconds_to_prune: scored.elapsed().as_secs_f64(),
    })
}

fn score(args: &PruneArgs, source: &Source, context: &Context) -> Result<Scores, CliError> {
    let recipe = ScoreRecipe {
        criterion: Criterion::SynFlow,
        rounds: args.rounds,
        density: args.density,
        seed: args.seed,
    };
    let name = format!("score {}", source.name);
    let mut progress = Progress::new(&context.terminal);
    let scores = saliency::score(&source.network, &recipe, &mut |done, total| {
        let stage = if done == total { Stage::Finished } else { Stage::Running };
        progress.job(&Job { name: &name, done: done.into(), total: total.into(), message: "", stage });
        ControlFlow::Continue(())
    });
    progress.finish();
    scores.map_err(|error| CliError::Failed(chain(&error)))
}

fn refuse(error: PlanError) -> CliError {
    match error {
        PlanError::NoFit { .. } => CliError::NoFit(format!("{error}; nothing was written")),
        PlanError::NoLatencyModel => CliError::Failed(error.to_string()),
    }
}
