//! `reconvene job` and `reconvene logs`: what workers do, and what they said of it.

use proto::v1;
use tonic::Status;

use super::connect::{Client, soon};
use super::error::CliError;
use super::resource::Resource;
use super::{Context, follow};

/// Stop a job that scores or trains
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene get jobs
  reconvene job cancel train-3f9a2b71c04d     its deployment fails, if nobody has paused it; `rollout retry` begins anew")]
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
  reconvene logs job/train-3f9a2b71c04d -f    go on until it has ended, though the coordinator restarts meanwhile")]
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
    let name = plain(&args.job);
    let mut client = context.server.connect().await?;
    let mut request = v1::ReadJobLogRequest { name: name.to_owned(), follow: args.follow, offset: 0 };
    loop {
        match print(&mut client, &mut request, context).await {
            Ok(()) if !args.follow || has_ended(&mut client, name).await => return Ok(()),
            Ok(()) => {}
            Err(Broken::Call(status)) if args.follow && follow::is_passing(&status) => {}
            Err(Broken::Call(status)) => return Err(context.server.refusal(status)),
            Err(Broken::Output(error)) => return Err(error),
        }
        context.terminal.say(follow::GONE);
        client = follow::connected_again(context).await?;
    }
}

/// Why a log was not read to its end.
enum Broken {
    Call(Status),
    Output(CliError),
}

/// Prints what there is from the request's offset on, and moves that.
async fn print(
    client: &mut Client,
    request: &mut v1::ReadJobLogRequest,
    context: &Context,
) -> Result<(), Broken> {
    let mut parts = client.read_job_log(request.clone()).await.map_err(Broken::Call)?.into_inner();
    while let Some(part) = parts.message().await.map_err(Broken::Call)? {
        context.terminal.data(&part.text).map_err(Broken::Output)?;
        request.offset = part.end;
    }
    Ok(())
}

/// Whether nothing more will be said of the job. A coordinator that stops ends the log as the job's own end does.
async fn has_ended(client: &mut Client, name: &str) -> bool {
    let jobs = v1::Job::list(client, name).await;
    jobs.is_ok_and(|jobs| {
        !jobs.iter().any(|job| matches!(job.state.as_str(), "Queued" | "Running" | "Stalled"))
    })
}

fn plain(name: &str) -> &str {
    name.strip_prefix("job/").unwrap_or(name)
}
