//! What the run tells while it works: bars on a terminal, a line for each change elsewhere. Decides nothing.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::v1;
use tokio::time::timeout;

use super::DEPLOYMENT;
use super::fleet::Fleet;
use crate::operator::describe;

/// Standard error, shared by lines and bars.
#[derive(Debug)]
pub(super) struct Talk {
    bars: MultiProgress,
}

impl Talk {
    pub(super) fn new() -> Self {
        let target =
            if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target) }
    }

    /// One line above the bars.
    #[expect(clippy::print_stderr, reason = "the demonstration talks to the person who runs it")]
    pub(super) fn say(&self, line: impl Display) {
        self.bars.suspend(|| eprintln!("{line}"));
    }

    /// A bar that counts to `length`.
    pub(super) fn bar(&self, name: &str, length: u64) -> ProgressBar {
        let style = ProgressStyle::with_template("  {prefix:26} {bar:30} {pos:>6}/{len:6} {msg}")
            .expect("the template is a constant");
        self.bars.add(ProgressBar::new(length).with_style(style).with_prefix(name.to_owned()))
    }
}

/// Shows a generation's progress until it is complete, and returns it.
pub(super) async fn follow(
    talk: &Talk,
    fleet: &mut Fleet,
    generation: u64,
    limit: Duration,
) -> Result<v1::Deployment> {
    let mut events = fleet.operator.watch(DEPLOYMENT, generation).await?;
    let mut show = Show::new(talk);
    let watching = async {
        while let Some(event) = events.message().await.context("the coordinator stopped telling")? {
            show.event(&event);
        }
        Ok::<_, anyhow::Error>(())
    };
    let watched = timeout(limit, watching).await;
    fleet.ensure_running()?;
    match watched {
        Ok(ended) => ended?,
        Err(_) => bail!("generation {generation} is not complete after {} s: {}", limit.as_secs(), show.last),
    }
    fleet.operator.completed(DEPLOYMENT, generation, Duration::from_secs(5)).await
}

/// What was shown last, so that only changes are.
struct Show<'a> {
    talk: &'a Talk,
    rollout: ProgressBar,
    jobs: BTreeMap<String, ProgressBar>,
    phase: String,
    states: BTreeMap<String, String>,
    last: String,
}

impl<'a> Show<'a> {
    fn new(talk: &'a Talk) -> Self {
        let rollout = talk.bar("rollout", 0);
        let (jobs, states) = (BTreeMap::new(), BTreeMap::new());
        Self { talk, rollout, jobs, phase: String::new(), states, last: "nothing was heard".to_owned() }
    }

    fn event(&mut self, event: &v1::DeploymentEvent) {
        for job in &event.jobs {
            self.job(job);
        }
        if let Some(deployment) = &event.deployment {
            self.deployment(deployment);
        }
    }

    fn job(&mut self, job: &v1::JobProgress) {
        let talk = self.talk;
        let bar = self.jobs.entry(job.job.clone()).or_insert_with(|| talk.bar(&job.job, job.total));
        if bar.is_finished() {
            return;
        }
        bar.set_length(job.total);
        bar.set_position(job.done);
        bar.set_message(job.message.clone());
        if job.finished {
            bar.finish_and_clear();
            self.talk.say(format!("  {}: {} of {}, {}", job.job, job.done, job.total, job.message));
        }
    }

    fn deployment(&mut self, deployment: &v1::Deployment) {
        self.rollout.set_length(u64::from(deployment.matched));
        self.rollout.set_position(u64::from(deployment.active + deployment.no_fit + deployment.failed));
        self.rollout.set_message(deployment.phase.clone());
        if self.phase != deployment.phase {
            self.phase.clone_from(&deployment.phase);
            self.talk.say(format!("  {} {}", deployment.phase, deployment.message).trim_end());
        }
        for device in &deployment.devices {
            let state = format!("{} {}", device.state, device.reason);
            if self.states.get(&device.device_id) != Some(&state) {
                self.talk.say(format!("  {}: {}", device.device_id, state.trim_end()));
                self.states.insert(device.device_id.clone(), state);
            }
        }
        self.last = describe(deployment);
    }
}

impl Drop for Show<'_> {
    fn drop(&mut self) {
        self.jobs.values().for_each(ProgressBar::finish_and_clear);
        self.rollout.finish_and_clear();
    }
}
