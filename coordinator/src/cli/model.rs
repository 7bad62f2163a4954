//! `reconvene model import`: hands a network of one's own to the coordinator.

use std::path::{Path, PathBuf};

use proto::v1;
use proto::v1::import_model_request::Part;
use tonic::Request;

use super::Context;
use super::error::CliError;
use super::figures::{bytes, count, macs};
use super::resource::columns::shape;
use super::upload;

/// What to do with networks.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    #[command(subcommand)]
    verb: ModelVerb,
}

#[derive(Debug, clap::Subcommand)]
enum ModelVerb {
    /// Hand an ONNX file to the coordinator, so that deployments can name it
    Import(ImportArgs),
}

/// Which file, and what to call it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene model import gate.onnx                 deployments then say `network: gate`
  reconvene model import out/final.onnx --name gate-2
  reconvene get models

The file must read one image of a fixed size and give one vector. Operators that are not known are carried through
unchanged; what they touch is not pruned, and the answer says so. A network never changes under its name.")]
struct ImportArgs {
    /// The ONNX file, opset 9 to 21
    file: PathBuf,
    /// What deployments call it; the file's name without its ending, if not given
    #[arg(long)]
    name: Option<String>,
}

pub(crate) async fn run(args: &ModelArgs, context: &Context) -> Result<(), CliError> {
    match &args.verb {
        ModelVerb::Import(args) => import(args, context).await,
    }
}

async fn import(args: &ImportArgs, context: &Context) -> Result<(), CliError> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => stem(&args.file)?,
    };
    let file = upload::read(&args.file)?;
    let header = v1::ImportModelHeader { name, file: Some(upload::announce(&file).into()) };
    let parts = upload::parts(Part::Header(header), file, Part::Chunk);
    let parts = parts.map(|part| v1::ImportModelRequest { part: Some(part) });
    let mut client = context.server.connect().await?;
    let answer = client.import_model(Request::new(tokio_stream::iter(parts))).await;
    let answer = answer.map_err(|status| context.server.refusal(status))?.into_inner();
    let model = answer.model.unwrap_or_default();
    for note in &model.notes {
        context.terminal.say(note);
    }
    context.terminal.data(&format!(
        "{} {}: {} images, {} classes, {} parameters, {} MACs, {}",
        model.name,
        if answer.unchanged { "unchanged" } else { "imported" },
        shape(&model.input_shape),
        model.classes,
        count(model.params),
        macs(model.macs),
        bytes(model.bytes),
    ))
}

fn stem(path: &Path) -> Result<String, CliError> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
    stem.ok_or_else(|| {
        CliError::Usage(format!("{} has no name to go by; give one with --name", path.display()))
    })
}
