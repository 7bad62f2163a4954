//! `reconvene rollout`: an operator's hand on a rollout under way.

use proto::v1;

use super::Context;
use super::arguments::name_of;
use super::connect::soon;
use super::error::CliError;
use super::follow::{self, Followed};

/// What to do to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene rollout status fashion
  reconvene rollout pause fashion
  reconvene rollout approve fashion
  reconvene rollout undo fashion")]
pub(crate) struct RolloutArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Follow it until it has ended, as `reconvene watch` does
    #[command(after_help = "Example:\n  reconvene rollout status fashion")]
    Status(Target),
    /// Tell no more devices until it is resumed; those told go on
    #[command(after_help = "Example:\n  reconvene rollout pause fashion")]
    Pause(Target),
    /// Go on where it was paused
    #[command(after_help = "Example:\n  reconvene rollout resume fashion")]
    Resume(Target),
    /// Tell the next wave once this one's `bake` is over, whatever it has shown: its gate, or `approval` in the manifest, holds it up
    #[command(after_help = "Example:\n  reconvene rollout approve fashion")]
    Approve(Target),
    /// Tell no more devices for good; each keeps what it serves
    #[command(after_help = "Example:\n  reconvene rollout abort fashion")]
    Abort(Target),
    /// Begin again one that failed, was aborted or undone
    #[command(after_help = "Example:\n  reconvene rollout retry fashion")]
    Retry(Target),
    /// Give each device what it had by the manifest that was complete before, all at once; nothing is fitted again
    #[command(after_help = "Example:\n  reconvene rollout undo fashion")]
    Undo(Target),
}

#[derive(Debug, clap::Args)]
struct Target {
    /// The deployment's name
    #[arg(value_parser = name_of("deployment"))]
    name: String,
}

pub(crate) async fn run(args: &RolloutArgs, context: &Context) -> Result<(), CliError> {
    let (verb, Target { name }) = match &args.action {
        Action::Status(target) => {
            let followed = Followed { name: &target.name, generation: 0, timeout: None };
            return follow::conclude(context, &follow::until_ended(context, &followed).await?);
        }
        Action::Pause(target) => ("pause", target),
        Action::Resume(target) => ("resume", target),
        Action::Approve(target) => ("approve", target),
        Action::Abort(target) => ("abort", target),
        Action::Retry(target) => ("retry", target),
        Action::Undo(target) => ("undo", target),
    };
    let mut client = context.server.connect().await?;
    let request = v1::ControlRolloutRequest { name: name.clone(), verb: verb.to_owned() };
    let reply = client.control_rollout(soon(request)).await;
    let v1::ControlRolloutResponse { generation, result } = reply
        .map_err(|status| match status.code() {
            tonic::Code::NotFound => CliError::NotFound { kind: "deployment", name: name.clone() },
            _ => context.server.refusal(status),
        })?
        .into_inner();
    context.terminal.data(&format!("deployment/{name} {result} (generation {generation})"))
}
