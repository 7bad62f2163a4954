//! `reconvene dataset`: folders of labelled images, read and checked on this machine with no coordinator, or given a
//! name at one.

mod add;
mod report;

use std::path::{Path, PathBuf};

use coordinator::causes::chain;
use proto::v1;
use pruner_core::dataset::{self, Dataset, Format, TestShare};

use self::report::Report;
use super::Context;
use super::arguments::{one_of, parse_test_share};
use super::error::CliError;
use super::get;
use super::output::ReportFormat;

/// What to do with datasets.
#[derive(Debug, clap::Args)]
pub(crate) struct DatasetArgs {
    #[command(subcommand)]
    verb: DatasetVerb,
}

#[derive(Debug, clap::Subcommand)]
enum DatasetVerb {
    /// Read and check a dataset wholly, and tell what is in it
    Describe(DescribeArgs),
    /// Have the coordinator read and check a dataset on its host, so that deployments can name it
    Add(add::AddArgs),
    /// List the datasets that were given a name
    Get(get::ListArgs),
}

/// Where it is, and how it is laid out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene dataset describe /usr/share/datasets/fashion-mnist
  reconvene dataset describe /data/cifar-10-batches-bin -o json
  reconvene dataset describe /data/leaves --test-share 20%

Formats:
  idx       the four IDX files of the MNIST family, each plain or as .gz
  cifar10   CIFAR-10, binary version: data_batch_1.bin to data_batch_5.bin, test_batch.bin
  cifar100  CIFAR-100, binary version: train.bin, test.bin; its 100 fine labels
  folder    PNG or JPEG images of one size as train/CLASS/NAME and test/CLASS/NAME; without `test`,
            --test-share of each class is tested on and not trained on, always the same images

Exit code 65 if a file is not as it should be; the line names it, and the byte where that is known.")]
struct DescribeArgs {
    /// The dataset's folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// How its files are laid out; detected, if not given
    #[arg(long, value_parser = one_of::<Format>(Format::NAMES))]
    format: Option<Format>,
    /// The share of each class to test on, where there is no test folder: 0.2, 20% or 1/5
    #[arg(long, value_name = "SHARE", value_parser = parse_test_share)]
    test_share: Option<TestShare>,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: ReportFormat,
}

pub(crate) async fn run(args: &DatasetArgs, context: &Context) -> Result<(), CliError> {
    match &args.verb {
        DatasetVerb::Describe(args) => describe(args, context),
        DatasetVerb::Add(args) => add::add(args, context).await,
        DatasetVerb::Get(args) => get::show::<v1::Dataset>(args, context).await,
    }
}

fn describe(args: &DescribeArgs, context: &Context) -> Result<(), CliError> {
    let (format, dataset) = read(&args.dir, args.format, args.test_share)?;
    Report::new(&dataset, &args.dir, format, args.test_share)?.print(args.output, &context.terminal)
}

/// The dataset in `dir`, and the format that it was given or found to be in.
pub(crate) fn read(
    dir: &Path,
    format: Option<Format>,
    test_share: Option<TestShare>,
) -> Result<(Format, Dataset), CliError> {
    let format = format.map_or_else(|| dataset::detect(dir), Ok);
    let read = format.and_then(|format| Ok((format, dataset::read(dir, format, test_share)?)));
    read.map_err(|error| CliError::BadInput(chain(&error)))
}
