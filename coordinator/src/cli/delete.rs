//! `reconvene delete`: forgets a deployment.

use proto::v1;

use super::Context;
use super::arguments::{Named, named};
use super::connect::soon;
use super::error::CliError;

/// A kind that can be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    #[value(aliases = ["deployments", "deploy"])]
    Deployment,
}

/// What to delete.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Its devices are told nothing: each keeps what it serves, also across restarts, until another deployment that selects it gives
it something else. Models and telemetry stay. One under way is refused; abort it first, or use --force: devices that were told
already still change over.

Examples:
  reconvene delete deployment fashion
  reconvene delete deploy fashion --force")]
pub(crate) struct DeleteArgs {
    /// deployment (deploy), or which, as in deployment/fashion
    #[arg(value_parser = named::<Subject>(), hide_possible_values = true)]
    kind: Named<Subject>,
    /// Its name
    name: Option<String>,
    /// Also while its devices are fitted or told
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(args: &DeleteArgs, context: &Context) -> Result<(), CliError> {
    let DeleteArgs { kind, name, force } = args;
    let (Subject::Deployment, name) = (kind.kind, kind.one_name(name.as_deref())?);
    let mut client = context.server.connect().await?;
    let request = v1::DeleteDeploymentRequest { name: name.to_owned(), force: *force };
    let reply = client.delete_deployment(soon(request)).await.map_err(|status| match status.code() {
        tonic::Code::NotFound => CliError::NotFound { kind: "deployment", name: name.to_owned() },
        _ => context.server.refusal(status),
    })?;
    let v1::DeleteDeploymentResponse { generation, serving } = reply.into_inner();
    if !serving.is_empty() {
        context.terminal.say(&format!("they go on with what they serve: {}", serving.join(", ")));
    }
    context.terminal.data(&format!("deployment/{name} deleted (generation {generation})"))
}
