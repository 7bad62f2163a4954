//! The operator's command line: arguments in, one verb run, one error out. Data goes to standard output, talk to
//! standard error; nothing here keeps state.

mod apply;
mod arguments;
mod artifact;
mod audit;
mod authority;
mod backup;
mod completion;
mod connect;
mod dataset;
mod delete;
mod describe;
mod destination;
mod device;
mod diff;
mod error;
mod explain;
mod figures;
mod follow;
mod get;
mod help;
mod job;
mod layers;
mod manifest_file;
mod model;
mod operator;
mod outcome;
mod output;
mod plan;
mod progress;
mod prune;
mod resource;
mod rollout;
mod serve;
mod sheet;
mod source;
mod table;
mod terminal;
mod token;
mod train;
mod upload;
mod watch;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use connect::Server;
use error::CliError;
use resource::Resource;
use terminal::{ColorChoice, Terminal};

/// Fits convolutional networks to a fleet of devices: each gets its own pruned model, within its own budget.
#[derive(Debug, Parser)]
#[command(name = "reconvene", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Exit codes:
   0  done                 4  no fit: the budget cannot be met    69  coordinator unreachable
   1  failure             64  bad configuration file              71  address in use
   2  wrong usage         65  bad input: manifest, dataset        73  cannot write
   3  not found

Examples:
  reconvene prune --network resnet20 --budget params=1/16.21 --out m.onnx
  reconvene train --onnx pruned.onnx --dataset /data/fashion-mnist --out trained.onnx
  reconvene get devices
  reconvene plan -f deployment.yaml
  reconvene apply -f deployment.yaml --wait")]
pub(crate) struct Cli {
    /// The coordinator's address: https://HOST:PORT, or unix:///PATH on its host. Default: the packaged coordinator's socket
    /// where this user may use it, else http://127.0.0.1:7370
    #[arg(long, global = true, env = "RECONVENE_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The folder with the operator's certificate, for https: ca.pem, cert.pem, key.pem
    #[arg(long, global = true, env = "RECONVENE_IDENTITY", value_name = "DIR")]
    identity: Option<std::path::PathBuf>,
    /// When to colour
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List devices, models, datasets, deployments, jobs, workers, artifacts, tokens, operators or telemetry
    Get(get::GetArgs),
    /// Tell everything about one thing
    Describe(describe::DescribeArgs),
    /// Create or change a deployment
    Apply(apply::ApplyArgs),
    /// Forget a deployment; its devices keep what they serve
    Delete(delete::DeleteArgs),
    /// Tell what applying a manifest would change
    Diff(diff::DiffArgs),
    /// Tell what each device would get from a deployment, and why
    Plan(plan::PlanArgs),
    /// Follow a deployment until it has ended
    Watch(watch::WatchArgs),
    /// Pause, resume, approve, abort, retry or undo a rollout
    Rollout(rollout::RolloutArgs),
    /// Tell in sentences why a device has what it has
    Explain(explain::ExplainArgs),
    /// Tell what became of a device, a deployment or another thing
    History(audit::HistoryArgs),
    /// Look into the log of who did what, and check that it is whole
    Audit(audit::AuditArgs),
    /// Make, list and revoke the tokens that devices join with
    Token(token::TokenArgs),
    /// Keep a device out, or let it in again
    Device(device::DeviceArgs),
    /// List the fleet's certificate authorities, and exchange the present one for the next
    Authority(authority::AuthorityArgs),
    /// Make operators' certificates, list them, renew them and take them back
    Operator(operator::OperatorArgs),
    /// Stop a job that scores or trains
    Job(job::JobArgs),
    /// Print what a worker said of a job
    Logs(job::LogsArgs),
    /// Write the coordinator's whole state to a file
    Backup(backup::BackupArgs),
    /// Make a state folder of a backup, where the coordinator is stopped
    Restore(backup::RestoreArgs),
    /// Run the coordinator
    Serve(serve::ServeArgs),
    /// Score and train for a coordinator
    Worker(worker::WorkerArgs),
    /// Prune a network to a budget, without a coordinator
    Prune(prune::PruneArgs),
    /// Train a network on this machine, without a coordinator
    Train(train::TrainArgs),
    /// Bring networks of one's own
    Model(model::ModelArgs),
    /// Take networks out to train them elsewhere, and bring their weights back
    Artifact(artifact::ArtifactArgs),
    /// Look into folders of labelled images, and give them names
    Dataset(dataset::DatasetArgs),
    /// Write a completion script for a shell
    Completion(completion::CompletionArgs),
}

/// What every verb may use.
pub(crate) struct Context {
    terminal: Terminal,
    server: Server,
}

impl Context {
    /// Those of a kind that `name` selects; all, where it is empty.
    async fn list<T: Resource>(&self, name: &str) -> Result<Vec<T>, CliError> {
        let mut client = self.server.connect().await?;
        T::list(&mut client, name).await.map_err(|status| match status.code() {
            tonic::Code::NotFound => CliError::NotFound { kind: T::NOUN, name: name.to_owned() },
            _ => self.server.refusal(status),
        })
    }
}

/// Runs the verb that the process's arguments name.
pub(crate) async fn run() -> ExitCode {
    let arguments = help::flowing(Cli::command()).get_matches();
    let cli =
        Cli::from_arg_matches(&arguments).unwrap_or_else(|error| error.format(&mut Cli::command()).exit());
    let context = Context {
        terminal: Terminal::new(cli.color),
        server: Server::new(cli.server.as_deref(), cli.identity.as_deref()),
    };
    let outcome = match &cli.verb {
        Verb::Get(args) => get::run(args, &context).await,
        Verb::Describe(args) => describe::run(args, &context).await,
        Verb::Apply(args) => apply::run(args, &context).await,
        Verb::Delete(args) => delete::run(args, &context).await,
        Verb::Diff(args) => diff::run(args, &context).await,
        Verb::Plan(args) => plan::run(args, &context).await,
        Verb::Watch(args) => watch::run(args, &context).await,
        Verb::Rollout(args) => rollout::run(args, &context).await,
        Verb::Explain(args) => explain::run(args, &context).await,
        Verb::History(args) => audit::history(args, &context).await,
        Verb::Audit(args) => audit::run(args, &context).await,
        Verb::Token(args) => token::run(args, &context).await,
        Verb::Device(args) => device::run(args, &context).await,
        Verb::Authority(args) => authority::run(args, &context).await,
        Verb::Operator(args) => operator::run(args, &context).await,
        Verb::Job(args) => job::run(args, &context).await,
        Verb::Logs(args) => job::logs(args, &context).await,
        Verb::Backup(args) => backup::backup(args, &context).await,
        Verb::Restore(args) => backup::restore(args, &context).await,
        Verb::Serve(args) => serve::run(args).await,
        Verb::Worker(args) => worker::run(args, &context).await,
        Verb::Prune(args) => prune::run(args, &context),
        Verb::Train(args) => train::run(args, &context),
        Verb::Model(args) => model::run(args, &context).await,
        Verb::Artifact(args) => artifact::run(args, &context).await,
        Verb::Dataset(args) => dataset::run(args, &context).await,
        Verb::Completion(args) => completion::run(args, &context),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(line) = error.line() {
                context.terminal.complain(&line);
            }
            error.exit_code()
        }
    }
}
