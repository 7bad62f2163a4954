//! `reconvene operator`: certificates for people, made on the coordinator's host by whoever may read its state, and taken back
//! from anywhere.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use coordinator::Config;
use coordinator::audit::COORDINATOR;
use coordinator::causes::chain;
use coordinator::durable;
use coordinator::identity::Role;
use coordinator::identity::authorities::Authorities;
use coordinator::identity::authority::Credentials;
use coordinator::identity::issued::Issued;
use coordinator::jobs::queue::OWN;
use coordinator::local::USER;
use proto::{DeviceId, v1};
use rcgen::{CertificateParams, KeyPair};

use super::arguments::name_of;
use super::connect::soon;
use super::error::CliError;
use super::{Context, get};

/// What to do about operators.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene operator create alice --role admin --out alice
  reconvene operator list
  reconvene --identity alice operator renew
  reconvene operator revoke bob
  reconvene --server https://fleet.example.org:7370 --identity alice get devices")]
pub(crate) struct OperatorArgs {
    #[command(subcommand)]
    verb: OperatorVerb,
}

#[derive(Debug, clap::Subcommand)]
enum OperatorVerb {
    /// Make a certificate, on the coordinator's host
    #[command(after_help = "Example:\n  reconvene operator create alice --role admin --out alice")]
    Create(CreateArgs),
    /// List the newest certificate of each name and role, until when it is valid, and whether that name was revoked
    #[command(after_help = "Example:\n  reconvene operator list -o wide")]
    List(get::ListArgs),
    /// Get a new certificate for the one that --identity names, with the same key, before it expires or its authority retires
    #[command(
        after_help = "Example:\n  reconvene --server https://fleet.example.org:7370 --identity alice operator renew"
    )]
    Renew,
    /// Have all certificates of that name refused, at once
    #[command(after_help = "Example:\n  reconvene operator revoke alice")]
    Revoke(Target),
    /// Let them count again
    #[command(after_help = "Example:\n  reconvene operator reinstate alice")]
    Reinstate(Target),
}

#[derive(Debug, clap::Args)]
struct Target {
    /// The operator's name
    #[arg(value_parser = name_of("operator"))]
    name: String,
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Who: 1 to 63 of a-z 0-9 - .
    name: String,
    /// viewer looks; operator deploys; admin lets devices in and keeps them out; worker scores and trains, and sees nothing else
    #[arg(long, default_value = "viewer", value_parser = |text: &str| text.parse::<Role>())]
    role: Role,
    /// The coordinator's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/reconvene/coordinator.toml")]
    config: PathBuf,
    /// The folder that is made, with ca.pem, cert.pem and key.pem
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) async fn run(args: &OperatorArgs, context: &Context) -> Result<(), CliError> {
    let (verb, Target { name }) = match &args.verb {
        OperatorVerb::Create(args) => return create(args, context).await,
        OperatorVerb::List(args) => return get::show::<v1::Operator>(args, context).await,
        OperatorVerb::Renew => return renew(context).await,
        OperatorVerb::Revoke(target) => ("revoke", target),
        OperatorVerb::Reinstate(target) => ("reinstate", target),
    };
    let mut client = context.server.connect().await?;
    let request = v1::ControlOperatorRequest { name: name.clone(), verb: verb.to_owned() };
    let reply = client.control_operator(soon(request)).await;
    let reply = reply.map_err(|status| context.server.refusal(status))?;
    let v1::ControlOperatorResponse { result, unknown } = reply.into_inner();
    if unknown {
        context.terminal.say(&format!(
            "warning: no certificate of '{name}' is known, only those made by an early version can be missing; if the name is \
             wrong: `reconvene operator reinstate {name}`, and `reconvene operator list`"
        ));
    }
    context.terminal.data(&format!("operator/{name} {result}"))
}

async fn create(args: &CreateArgs, context: &Context) -> Result<(), CliError> {
    let name: DeviceId =
        args.name.parse().map_err(|invalid: proto::Invalid| CliError::Usage(invalid.problem))?;
    if args.name.starts_with(USER) {
        return Err(CliError::Usage(format!("names that begin with '{USER}' are those of the host's users")));
    }
    if args.name == COORDINATOR {
        return Err(CliError::Usage(format!(
            "'{COORDINATOR}' is what the audit log calls the coordinator itself"
        )));
    }
    if args.name == OWN {
        return Err(CliError::Usage(format!("'{OWN}' is the coordinator's own worker")));
    }
    let config = Config::read(&args.config).map_err(CliError::Config).map_err(|source| {
        if args.config.exists() {
            return source;
        }
        let title = format!(
            "--config names the coordinator's configuration, as in `reconvene operator create {name} --config coordinator.toml --out \
             {}`",
            args.out.display()
        );
        CliError::Within { title, source: Box::new(source) }
    })?;
    let failed = |error| CliError::Failed(chain(&error));
    let folder = coordinator::app::authority_folder(&config.state_dir);
    if !Authorities::are_in(&folder) {
        // Made here, it would be this user's and not the coordinator's.
        let none =
            format!("{} has no authority; start the coordinator with encryption first", folder.display());
        return Err(CliError::Failed(none));
    }
    let now = Authorities::open(&folder).map_err(failed)?.now();
    let Credentials { key, certificate } = now.active.operator(&name, args.role).map_err(failed)?;
    fs::create_dir(&args.out).map_err(|source| CliError::Unwritable { path: args.out.clone(), source })?;
    for (file, text) in
        [("ca.pem", now.succession.told().as_str()), ("cert.pem", &certificate), ("key.pem", &key)]
    {
        let path = args.out.join(file);
        write(&path, text).map_err(|source| CliError::Unwritable { path, source })?;
    }
    let noted = Issued::of(&name, args.role, &certificate).map(|issued| issued.note(&config.state_dir));
    if let Some(Err(error)) = noted {
        context.terminal.say(&format!("warning: `reconvene operator list` does not show it: {error}"));
    }
    if is_revoked(&args.name, context).await {
        context.terminal.say(&format!(
            "warning: operator/{name} was revoked, so the coordinator refuses this certificate too; `reconvene operator reinstate \
             {name}` lets all of that name count again"
        ));
    }
    context.terminal.data(&format!("operator/{name} ({}) in {}", args.role, args.out.display()))
}

/// Whether certificates of that name are refused, as far as the coordinator can be asked: it may be stopped.
async fn is_revoked(name: &str, context: &Context) -> bool {
    if !context.server.is_named() {
        return false;
    }
    let operators = context.list::<v1::Operator>(name).await.unwrap_or_default();
    operators.iter().any(|operator| operator.name == *name && operator.revoked)
}

async fn renew(context: &Context) -> Result<(), CliError> {
    let Some(folder) = context.server.identity() else {
        return Err(CliError::Usage("--identity says whose certificate is renewed".to_owned()));
    };
    let path = folder.join("key.pem");
    let unreadable =
        |problem: &dyn std::fmt::Display| CliError::BadInput(format!("{}: {problem}", path.display()));
    let key = fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
    let key = KeyPair::from_pem(&key).map_err(|error| unreadable(&error))?;
    let request = CertificateParams::default().serialize_request(&key);
    let request = request.map_err(|error| unreadable(&error))?.der().to_vec();
    let mut client = context.server.connect().await?;
    let reply = client.renew_operator(soon(v1::RenewOperatorRequest { request })).await;
    let v1::RenewOperatorResponse { certificate, authorities } =
        reply.map_err(|status| context.server.refusal(status))?.into_inner();
    // Of the two the coordinator is found by either; whoever has the new certificate needs nothing of the old one.
    for (file, text) in [("ca.pem", &authorities), ("cert.pem", &certificate)] {
        let path = folder.join(file);
        let replaced = durable::replace(folder, &path, text.as_bytes());
        replaced.map_err(|source| CliError::Unwritable { path, source })?;
    }
    context.terminal.data(&format!("certificate in {} renewed, for a year", folder.display()))
}

/// For its owner alone.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}
