//! `reconvene artifact`: takes networks out of the coordinator, and brings trained weights back.

use std::path::PathBuf;

use proto::v1::export_artifact_response::Part as Incoming;
use proto::v1::import_weights_request::Part as Outgoing;
use proto::{ArtifactRef, v1};
use tonic::Request;

use super::Context;
use super::destination::Destination;
use super::error::CliError;
use super::figures::{bytes, count, percent};
use super::resource::columns::shape;
use super::upload;

/// What to do with artifacts.
#[derive(Debug, clap::Args)]
pub(crate) struct ArtifactArgs {
    #[command(subcommand)]
    verb: ArtifactVerb,
}

#[derive(Debug, clap::Subcommand)]
enum ArtifactVerb {
    /// Write a network to a file: one that waits to be trained elsewhere, or an artifact
    Export(ExportArgs),
    /// Hand the coordinator the weights of a network that was trained elsewhere
    ImportWeights(ImportArgs),
}

/// Which network, and where to.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene artifact export 3f9a2b71c04d --out pruned.onnx
  reconvene artifact export 3f9a2b71c04d --format safetensors --out pruned.safetensors

Where a deployment says `training: {trainer: external}`, `reconvene describe deployment NAME` names the networks that
wait: pruned, initialised, not trained. Tensors have the same names in both formats. An artifact is given out as devices
get it: trained, its batch norms folded.")]
struct ExportArgs {
    /// The beginning of its digest, 4 characters at least
    name: String,
    /// Graph and weights, or the weights alone
    #[arg(long, value_enum, default_value = "onnx")]
    format: ExportFormat,
    /// Where to write it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ExportFormat {
    Onnx,
    Safetensors,
}

/// Which network, and its weights.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene artifact import-weights 3f9a2b71c04d trained.safetensors

The file must hold every tensor of the exported network under its name, of its shape, f32 and finite. The coordinator
measures the accuracy, packs the network and rolls it out as if it had trained it.")]
struct ImportArgs {
    /// The beginning of its digest, 4 characters at least
    name: String,
    /// A safetensors file
    file: PathBuf,
}

pub(crate) async fn run(args: &ArtifactArgs, context: &Context) -> Result<(), CliError> {
    match &args.verb {
        ArtifactVerb::Export(args) => export(args, context).await,
        ArtifactVerb::ImportWeights(args) => import(args, context).await,
    }
}

async fn export(args: &ExportArgs, context: &Context) -> Result<(), CliError> {
    let destination = Destination::check(&args.out)?;
    let format = match args.format {
        ExportFormat::Onnx => "onnx",
        ExportFormat::Safetensors => "safetensors",
    };
    let request = v1::ExportArtifactRequest { name: args.name.clone(), format: format.to_owned() };
    let mut client = context.server.connect().await?;
    let refuse = |status| context.server.refusal(status);
    let mut parts = client.export_artifact(request).await.map_err(refuse)?.into_inner();
    let first = parts.message().await.map_err(refuse)?.and_then(|first| first.part);
    let Some(Incoming::Header(header)) = first else {
        return Err(CliError::Failed("the coordinator sent no header; is it of another version?".to_owned()));
    };
    let announced = header.file.clone().unwrap_or_default();
    let announced = ArtifactRef::try_from(announced).map_err(|e| CliError::Failed(e.to_string()))?;
    let mut file = Vec::new();
    while let Some(part) = parts.message().await.map_err(refuse)? {
        if let Some(Incoming::Chunk(chunk)) = part.part {
            file.extend_from_slice(&chunk);
        }
    }
    if upload::announce(&file) != announced {
        let problem =
            "the file that arrived is not the one that was announced; nothing was written; try again";
        return Err(CliError::Failed(problem.to_owned()));
    }
    destination.write(&file)?;
    let state = if header.trained { "trained" } else { "pruned, not trained" };
    context.terminal.say(&format!(
        "{}: {} of {}, {state}; it reads {} images, (pixel / 255 - mean) / std with mean {:?} and std {:?}",
        args.out.display(),
        bytes(announced.size.0),
        header.network,
        shape(&header.input_shape),
        header.mean,
        header.std,
    ));
    context.terminal.data(&header.name)
}

async fn import(args: &ImportArgs, context: &Context) -> Result<(), CliError> {
    let file = upload::read(&args.file)?;
    let header =
        v1::ImportWeightsHeader { name: args.name.clone(), file: Some(upload::announce(&file).into()) };
    let parts = upload::parts(Outgoing::Header(header), file, Outgoing::Chunk);
    let parts = parts.map(|part| v1::ImportWeightsRequest { part: Some(part) });
    let mut client = context.server.connect().await?;
    let answer = client.import_weights(Request::new(tokio_stream::iter(parts))).await;
    let answer = answer.map_err(|status| context.server.refusal(status))?.into_inner();
    let v1::ImportWeightsResponse { digest, test_accuracy, test_images, classes } = answer;
    if test_accuracy < GUESSING / f64::from(classes.max(1)) {
        context.terminal.say(&format!(
            "{} is hardly better than guessing: were images normalised as the export says, and the statistics of \
             batch norms written as well?",
            percent(test_accuracy)
        ));
    }
    context.terminal.data(&format!(
        "{digest} imported: accuracy {} on {} test images",
        percent(test_accuracy),
        count(test_images.into()),
    ))
}

/// So many times the accuracy of guessing is suspicious.
const GUESSING: f64 = 1.5;
