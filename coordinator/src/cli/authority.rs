//! `reconvene authority`: the fleet's certificate authority, and its exchange for the next one.

use proto::v1;

use super::Context;
use super::connect::soon;
use super::error::CliError;
use super::get;

/// What to do with authorities.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exchange, from one authority to the next:
  reconvene authority prepare    devices and operators learn of the next one with their next certificate
  reconvene authority activate   it issues from now on; what the one before issued is still taken
  reconvene operator renew       each operator gets a certificate of the new one
  reconvene authority list       how many devices have a certificate of which
  reconvene authority retire     what the one before issued is refused; by an admin who has renewed

A device is renewed after half of its certificate's life (12 h); wait so long between the steps, and no session is
dropped. One that was away through up to six exchanges finds its way back by itself.")]
pub(crate) struct AuthorityArgs {
    #[command(subcommand)]
    verb: AuthorityVerb,
}

#[derive(Debug, clap::Subcommand)]
enum AuthorityVerb {
    /// List them, with how many devices have a certificate of each
    #[command(after_help = "Example:\n  reconvene authority list -o wide")]
    List(get::ListArgs),
    /// Make the next one, and make it known
    #[command(after_help = "Example:\n  reconvene authority prepare")]
    Prepare,
    /// Have the prepared one issue
    #[command(after_help = "Example:\n  reconvene authority activate")]
    Activate,
    /// Refuse what those before it issued; devices come back by their keys, operators who did not renew do not
    #[command(after_help = "Example:\n  reconvene authority retire")]
    Retire,
}

pub(crate) async fn run(args: &AuthorityArgs, context: &Context) -> Result<(), CliError> {
    let (verb, next) = match &args.verb {
        AuthorityVerb::List(args) => return get::show::<v1::Authority>(args, context).await,
        AuthorityVerb::Prepare => (
            "prepare",
            "once devices were renewed (half of their certificates' life): reconvene authority activate",
        ),
        AuthorityVerb::Activate => (
            "activate",
            "each operator: reconvene operator renew; once devices were renewed: reconvene authority retire",
        ),
        AuthorityVerb::Retire => ("retire", ""),
    };
    let mut client = context.server.connect().await?;
    let request = soon(v1::ControlAuthorityRequest { verb: verb.to_owned() });
    let reply = client.control_authority(request).await.map_err(|status| context.server.refusal(status))?;
    let v1::Authority { name, phase, .. } = reply.into_inner();
    context.terminal.data(&format!("authority/{name} {phase}"))?;
    if !next.is_empty() {
        context.terminal.say(&format!("next: {next}"));
    }
    Ok(())
}
