//! `reconvene device`: who may come.

use proto::v1;

use super::Context;
use super::connect::soon;
use super::error::CliError;

/// What to do about a device.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene device ban cam-7
  reconvene device unban cam-7
  reconvene device forget cam-7")]
pub(crate) struct DeviceArgs {
    #[command(subcommand)]
    verb: DeviceVerb,
}

#[derive(Debug, clap::Subcommand)]
enum DeviceVerb {
    /// End its session and let it in no more, whatever it shows
    #[command(after_help = "Example:\n  reconvene device ban cam-7")]
    Ban(Target),
    /// Let it in again
    #[command(after_help = "Example:\n  reconvene device unban cam-7")]
    Unban(Target),
    /// Forget its key: another machine may enroll by its name, with a token
    #[command(after_help = "Example:\n  reconvene device forget cam-7")]
    Forget(Target),
}

#[derive(Debug, clap::Args)]
struct Target {
    /// The device's name
    name: String,
}

pub(crate) async fn run(args: &DeviceArgs, context: &Context) -> Result<(), CliError> {
    let (verb, Target { name }) = match &args.verb {
        DeviceVerb::Ban(target) => ("ban", target),
        DeviceVerb::Unban(target) => ("unban", target),
        DeviceVerb::Forget(target) => ("forget", target),
    };
    let mut client = context.server.connect().await?;
    let request = v1::ControlDeviceRequest { name: name.clone(), verb: verb.to_owned() };
    let reply = client.control_device(soon(request)).await.map_err(|status| match status.code() {
        tonic::Code::NotFound => CliError::NotFound { kind: "device", name: name.clone() },
        _ => context.server.refusal(status),
    })?;
    context.terminal.data(&format!("device/{name} {}", reply.into_inner().result))
}
