//! A deployment under way, shown until it has ended. Survives a coordinator that restarts meanwhile.

use std::time::Duration;

use proto::v1;
use tonic::{Code, Status};

use super::Context;
use super::connect::Client;
use super::error::CliError;
use super::outcome;
use super::progress::{Job, Progress, Stage};

/// Before asking a coordinator again that has just gone.
const PAUSE: Duration = Duration::from_secs(1);

/// Which deployment, and for how long.
pub(crate) struct Followed<'a> {
    pub(crate) name: &'a str,
    /// 0: the newest.
    pub(crate) generation: u64,
    /// `None`: as long as it takes.
    pub(crate) timeout: Option<Duration>,
}

/// Shows progress until the deployment has ended, and returns its last state.
pub(crate) async fn until_ended(
    context: &Context,
    followed: &Followed<'_>,
) -> Result<v1::Deployment, CliError> {
    let mut progress = Progress::new(&context.terminal);
    let ended = follow(context, followed, &mut progress);
    let outcome = match followed.timeout {
        None => ended.await,
        Some(limit) => tokio::time::timeout(limit, ended).await.unwrap_or_else(|_| {
            Err(CliError::Failed(format!(
                "deployment '{name}' has not ended after {limit}; it goes on: `reconvene watch deployment {name}`",
                name = followed.name,
                limit = humantime::format_duration(limit),
            )))
        }),
    };
    progress.finish();
    outcome
}

/// Prints the table of an ended deployment and judges it.
pub(crate) fn conclude(context: &Context, deployment: &v1::Deployment) -> Result<(), CliError> {
    let devices = outcome::by_device(&deployment.devices);
    let table = outcome::table("DEVICE", &devices);
    if table.is_empty() {
        context.terminal.say("no device matches the selector");
    } else {
        context.terminal.data(&table.render(context.terminal.colors))?;
    }
    for (device, outcome) in devices.iter().filter(|(_, outcome)| !outcome.reason.is_empty()) {
        context.terminal.say(&format!("{device}: {}", outcome.reason));
    }
    outcome::verdict(deployment)
}

async fn follow(
    context: &Context,
    followed: &Followed<'_>,
    progress: &mut Progress,
) -> Result<v1::Deployment, CliError> {
    let mut client = context.server.connect().await?;
    loop {
        match watch(&mut client, followed, progress).await {
            Ok(Some(deployment)) => return superseded(followed, deployment),
            Ok(None) => {}
            Err(status) if is_passing(&status) => {}
            Err(status) => return Err(context.server.refusal(status)),
        }
        progress.note(GONE);
        client = connected_again(context).await?;
    }
}

/// What is said once a coordinator has gone that was followed.
pub(super) const GONE: &str = "the coordinator has gone; asking again until it is back";

/// A connection to a coordinator that had gone, once it is back.
pub(super) async fn connected_again(context: &Context) -> Result<Client, CliError> {
    loop {
        tokio::time::sleep(PAUSE).await;
        match context.server.connect().await {
            Ok(client) => return Ok(client),
            Err(CliError::Unreachable { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// One stream of events; `None` where it stopped before the deployment had ended.
async fn watch(
    client: &mut Client,
    followed: &Followed<'_>,
    progress: &mut Progress,
) -> Result<Option<v1::Deployment>, Status> {
    let request =
        v1::WatchDeploymentRequest { name: followed.name.to_owned(), generation: followed.generation };
    let mut events = client.watch_deployment(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        for job in &event.jobs {
            progress.job(&Job {
                name: &job.job,
                done: job.done,
                total: job.total,
                message: &job.message,
                stage: if job.finished { Stage::Finished } else { Stage::Running },
            });
        }
        let Some(deployment) = event.deployment else { continue };
        progress.headline(&headline(&deployment));
        let replaced = followed.generation != 0 && deployment.generation != followed.generation;
        if replaced || matches!(deployment.phase.as_str(), "Complete" | "Failed") {
            return Ok(Some(deployment));
        }
    }
    Ok(None)
}

fn headline(deployment: &v1::Deployment) -> String {
    let message =
        if deployment.message.is_empty() { String::new() } else { format!("; {}", deployment.message) };
    format!("{} {}: {}{message}", deployment.name, deployment.phase, outcome::counts(deployment))
}

fn superseded(followed: &Followed<'_>, deployment: v1::Deployment) -> Result<v1::Deployment, CliError> {
    if followed.generation != 0 && deployment.generation != followed.generation {
        return Err(CliError::Failed(format!(
            "deployment '{}' was applied again: generation {} replaced {}",
            deployment.name, deployment.generation, followed.generation
        )));
    }
    Ok(deployment)
}

/// Whether a broken stream is worth another try: the connection broke, the request was not refused.
pub(super) fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        // A connection that breaks in mid-stream arrives as one of these, with the transport's error as its source.
        Code::Unknown | Code::Internal | Code::Cancelled => std::error::Error::source(status).is_some(),
        _ => false,
    }
}
