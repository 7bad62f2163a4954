//! `reconvene job` and `reconvene logs`: what workers do, and what they said of it.

use proto::v1;

use super::Context;
use super::connect::soon;
use super::error::CliError;

/// Stop a job that scores or trains
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene get jobs
  reconvene job cancel train-3f9a2b71c04d     its deployment is told; applying it again begins anew")]
pub(crate) struct JobArgs {
    #[command(subcommand)]
    verb: JobVerb,
}

#[derive(Debug, clap::Subcommand)]
enum JobVerb {
    /// Stop a job; the devices that wait for its network fail
    Cancel {
        /// As `reconvene get jobs` lists it
        name: String,
    },
}

/// Print what a worker said of a job
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene logs job/train-3f9a2b71c04d
  reconvene logs job/train-3f9a2b71c04d -f    go on until it has ended")]
pub(crate) struct LogsArgs {
    /// Which job, as in job/NAME; `reconvene get jobs` lists them
    #[arg(value_name = "job/NAME")]
    job: String,
    /// Go on printing until the job has ended
    #[arg(short, long)]
    follow: bool,
}

pub(crate) async fn run(args: &JobArgs, context: &Context) -> Result<(), CliError> {
    let JobVerb::Cancel { name } = &args.verb;
    let name = plain(name).to_owned();
    let mut client = context.server.connect().await?;
    let request = v1::ControlJobRequest { name: name.clone(), verb: "cancel".to_owned() };
    let answer = client.control_job(soon(request)).await;
    let result = answer.map_err(|status| context.server.refusal(status))?.into_inner().result;
    context.terminal.data(&format!("job/{name} {result}\n"))
}

pub(crate) async fn logs(args: &LogsArgs, context: &Context) -> Result<(), CliError> {
    let name = plain(&args.job).to_owned();
    let mut client = context.server.connect().await?;
    let request = v1::ReadJobLogRequest { name, follow: args.follow };
    let answer = client.read_job_log(request).await;
    let mut parts = answer.map_err(|status| context.server.refusal(status))?.into_inner();
    while let Some(part) = parts.message().await.map_err(|status| context.server.refusal(status))? {
        context.terminal.data(&part.text)?;
    }
    Ok(())
}

fn plain(name: &str) -> &str {
    name.strip_prefix("job/").unwrap_or(name)
}
