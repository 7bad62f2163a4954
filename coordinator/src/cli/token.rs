//! `reconvene token`: what devices join with.

use std::time::Duration;

use proto::v1;

use super::Context;
use super::arguments::{name_of, parse_label};
use super::connect::soon;
use super::error::CliError;
use super::get;

/// What to do with tokens.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene token create --uses 50 --expires 7d --label site=berlin > join
  reconvene token create --uses 50 --approve > join
  reconvene token list
  reconvene token revoke 3f9a2b71

Put the file on each device as /etc/reconvene/join.d/token and start its agent.")]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Debug, clap::Subcommand)]
enum TokenVerb {
    /// Print the file that devices join with; it is not kept here and cannot be printed again
    #[command(
        after_help = "Example:\n  reconvene token create --uses 50 --expires 7d --label site=berlin > join"
    )]
    Create(CreateArgs),
    /// List tokens, without their secrets, as `get tokens` does
    #[command(after_help = "\
USED counts the devices that have joined by it, of those that may; EXPIRES is the time that is left. \
Tokens that are of no use any more stay in the list.

Examples:
  reconvene token list
  reconvene token list 3f9a2b71 -o wide    also who used it, and whether each has to be approved of
  reconvene token list -o json")]
    List(get::ListArgs),
    /// Have nobody join by a token any more; who has joined stays
    #[command(after_help = "Example:\n  reconvene token revoke 3f9a2b71")]
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// How many devices may join by it
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// How long it may be used; at most 366d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// What its devices are labelled, whatever they say themselves; may be given again
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Let none of its devices in before `reconvene device approve` named its key
    #[arg(long)]
    approve: bool,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The token's name: what its line in the list begins with
    #[arg(value_parser = name_of("token"))]
    id: String,
}

pub(crate) async fn run(args: &TokenArgs, context: &Context) -> Result<(), CliError> {
    match &args.verb {
        TokenVerb::Create(args) => create(args, context).await,
        TokenVerb::List(args) => get::show::<v1::Token>(args, context).await,
        TokenVerb::Revoke(args) => {
            let mut client = context.server.connect().await?;
            let request = soon(v1::RevokeTokenRequest { id: args.id.clone() });
            let revoked = client.revoke_token(request).await;
            revoked.map_err(|status| context.server.refusal(status))?;
            context.terminal.data(&format!("token/{} revoked", args.id))
        }
    }
}

async fn create(args: &CreateArgs, context: &Context) -> Result<(), CliError> {
    let mut client = context.server.connect().await?;
    let request = v1::CreateTokenRequest {
        uses: args.uses,
        lifetime_ms: u64::try_from(args.expires.as_millis()).unwrap_or(u64::MAX),
        labels: args.label.iter().cloned().collect(),
        approval: args.approve,
    };
    let created = client.create_token(soon(request)).await;
    let created = created.map_err(|status| context.server.refusal(status))?.into_inner();
    let id = created.token.map(|token| token.id).unwrap_or_default();
    let devices = if args.uses == 1 { "1 device".to_owned() } else { format!("{} devices", args.uses) };
    let lasts = humantime::format_duration(args.expires);
    context.terminal.say(&format!("token/{id} created: for {devices}, for {lasts}"));
    context.terminal.data(created.join_file.trim_end())
}
