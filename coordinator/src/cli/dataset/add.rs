//! Datasets by name: what the coordinator knows of them is asked of it.

use std::path::PathBuf;

use proto::v1;
use pruner_core::dataset::{Format, TestShare};
use tonic::Request;

use crate::cli::Context;
use crate::cli::arguments::{one_of, parse_test_share};
use crate::cli::error::CliError;
use crate::cli::figures::count;
use crate::cli::resource::columns::shape;

/// Which folder, and what to call it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene dataset add fashion --path /usr/share/datasets/fashion-mnist
  reconvene dataset add leaves --path /data/leaves --test-share 20%

Deployments then say `dataset: { name: fashion }`. A dataset never moves under its name, and its files must stay as
they are: derived models are kept by where the files are, not by what is in them.")]
pub(super) struct AddArgs {
    /// What deployments call it
    name: String,
    /// Its folder, on the coordinator's host; from the root
    #[arg(long, value_name = "DIR")]
    path: PathBuf,
    /// How its files are laid out; detected, if not given
    #[arg(long, value_parser = one_of::<Format>(Format::NAMES))]
    format: Option<Format>,
    /// The share of each class to test on, where there is no test folder: 0.2, 20% or 1/5
    #[arg(long, value_name = "SHARE", value_parser = parse_test_share)]
    test_share: Option<TestShare>,
}

pub(super) async fn add(args: &AddArgs, context: &Context) -> Result<(), CliError> {
    let path = args.path.to_str().ok_or_else(|| {
        CliError::Usage(format!("{} is not UTF-8, so it cannot be sent", args.path.display()))
    })?;
    let request = v1::AddDatasetRequest {
        name: args.name.clone(),
        path: path.to_owned(),
        format: args.format.map(|format| format.name().to_owned()).unwrap_or_default(),
        test_share: args.test_share.map(f64::from),
    };
    let mut client = context.server.connect().await?;
    // Reading many images takes long: it is waited for without a limit, as an upload is.
    let answer = client.add_dataset(Request::new(request)).await;
    let answer = answer.map_err(|status| context.server.refusal(status))?.into_inner();
    let dataset = answer.dataset.unwrap_or_default();
    context.terminal.data(&format!(
        "{} {}: {}, {} images, {} classes, {} to train on, {} to test on",
        dataset.name,
        if answer.unchanged { "unchanged" } else { "added" },
        dataset.format,
        shape(&dataset.input_shape),
        dataset.classes,
        count(dataset.train_images),
        count(dataset.test_images),
    ))
}
