//! `reconvene device`: who may come.

use proto::v1;

use super::Context;
use super::arguments::name_of;
use super::connect::soon;
use super::error::CliError;
use super::get;

/// What to do about a device.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene device pending
  reconvene device approve cam-7 3f9a2b71c0de55aa01b2c3d4
  reconvene device ban cam-7
  reconvene device unban cam-7
  reconvene device forget cam-7")]
pub(crate) struct DeviceArgs {
    #[command(subcommand)]
    verb: DeviceVerb,
}

#[derive(Debug, clap::Subcommand)]
enum DeviceVerb {
    /// List devices that came by a join token and have not opened a session yet, with their keys
    #[command(after_help = "Example:\n  reconvene device pending -o wide")]
    Pending(get::ListArgs),
    /// Let in one that came by a token made with --approve, once its key is known to be the right one
    #[command(
        after_help = "Example:\n  reconvene device approve cam-7 3f9a2b71c0de55aa01b2c3d4\n\nThe device's own log says its key."
    )]
    Approve(Approval),
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
struct Approval {
    /// The device's name
    name: String,
    /// The beginning of its key's SHA-256: at least 24 digits, as the device's log has it
    key: String,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// The device's name
    #[arg(value_parser = name_of("device"))]
    name: String,
}

pub(crate) async fn run(args: &DeviceArgs, context: &Context) -> Result<(), CliError> {
    let (verb, Target { name }) = match &args.verb {
        DeviceVerb::Pending(args) => return get::show::<v1::PendingDevice>(args, context).await,
        DeviceVerb::Approve(approval) => return approve(approval, context).await,
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

async fn approve(Approval { name, key }: &Approval, context: &Context) -> Result<(), CliError> {
    let mut client = context.server.connect().await?;
    let request = soon(v1::ApproveDeviceRequest { name: name.clone(), key: key.clone() });
    let reply = client.approve_device(request).await.map_err(|status| context.server.refusal(status))?;
    let v1::ApproveDeviceResponse { already, pending } = reply.into_inner();
    context.terminal.data(&match (already, pending) {
        (false, _) => format!("device/{name} approved; it comes at its next try, within half a minute"),
        (true, false) => format!("device/{name} is in already, with this key; nothing was changed"),
        (true, true) => format!(
            "device/{name} may come in with this key, and has not opened a session yet; nothing was changed"
        ),
    })
}
