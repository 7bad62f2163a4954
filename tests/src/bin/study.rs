//! `study`: trains the arms of the study that have no result yet, and writes its page.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use fleet_tests::binaries::{target_folder, workspace_root};
use fleet_tests::study::{self, Arm, Effort, Plan, Series};

/// Trains dense, unstructured and structured arms with equal budgets, and writes docs/study.md from the results.
#[derive(Debug, Parser)]
#[command(
    name = "study",
    after_help = "\
Examples:
  study --series ablation --network resnet20 --seeds 1,2
  study --series headline --network vgg16-bn --epochs 5
  study --seeds 1,2 --only dense,unstructured
  study --pages-only

Results are kept in docs/study.jsonl as they come; an arm that has one is not trained again."
)]
struct Arguments {
    /// Which arms
    #[arg(long, value_enum, default_values = ["headline"], value_delimiter = ',')]
    series: Vec<Series>,
    /// Networks of the zoo
    #[arg(long, default_value = "resnet20", value_delimiter = ',')]
    network: Vec<String>,
    /// Of weights, pruning and training
    #[arg(long, default_value = "1", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Training images, the first so many
    #[arg(long, default_value_t = 10_000)]
    images: usize,
    /// Passes over them
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// Images of one step
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Threads that train
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only arms whose title contains one of these
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// Train nothing; write the page from the results that are there
    #[arg(long)]
    pages_only: bool,
    /// Where the page and its results lie
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
}

#[expect(clippy::print_stderr, reason = "it talks to the person who runs it")]
fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("study: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { series, network, seeds, threads, only, pages_only, docs, .. } = arguments;
    let effort = Effort { images: arguments.images, epochs: arguments.epochs, batch: arguments.batch };
    let arms = network
        .iter()
        .flat_map(|network| series.iter().flat_map(|&series| Arm::series(series, network, seeds, effort)));
    let arms = arms.filter(|arm| only.is_empty() || only.iter().any(|text| arm.title().contains(text)));
    let docs = docs.clone().unwrap_or_else(|| workspace_root().join("docs"));
    std::fs::create_dir_all(&docs)?;
    let typed = typed(std::env::args().skip(1));
    let plan = Plan {
        arms: if *pages_only { Vec::new() } else { arms.collect() },
        results: docs.join("study.jsonl"),
        page: docs.join("study.md"),
        cache: target_folder()?.join("datasets"),
        command: format!("cargo run --release -p fleet-tests --bin study -- {}", typed.join(" ")),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(*threads).build()?;
    pool.install(|| study::run(&plan))
}

/// The command line as the page gives it: where a page lies on this machine is nobody's business.
fn typed(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut typed = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--docs" => _ = arguments.next(),
            same if same.starts_with("--docs=") => {}
            _ => typed.push(argument),
        }
    }
    typed
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_folder_of_the_page_is_not_in_the_page() {
        let line = "--seeds 1 --docs /a/b --batch 64 --docs=/c";
        let typed = super::typed(line.split(' ').map(str::to_owned));
        assert_eq!(typed.join(" "), "--seeds 1 --batch 64");
    }
}
