//! Work under way, on standard error: redrawn bars on a terminal, otherwise a plain line now and then.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::terminal::Terminal;

/// One piece of work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) name: &'a str,
    pub(crate) done: u64,
    pub(crate) total: u64,
    /// What else there is to say: loss, accuracy, images per second.
    pub(crate) message: &'a str,
    pub(crate) stage: Stage,
}

/// Whether a job goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Running,
    Finished,
}

/// Shows jobs and one headline.
pub(crate) enum Progress {
    /// Redrawn in place.
    Bars(Bars),
    /// Line by line.
    Lines(Lines, Terminal),
}

impl Progress {
    pub(crate) fn new(terminal: &Terminal) -> Self {
        if terminal.redraws {
            Self::Bars(Bars::new(terminal))
        } else {
            Self::Lines(Lines::default(), *terminal)
        }
    }

    /// How far a job is.
    pub(crate) fn job(&mut self, job: &Job) {
        match self {
            Self::Bars(bars) => bars.job(job),
            Self::Lines(lines, terminal) => {
                if let Some(line) = lines.job(job, Instant::now()) {
                    terminal.say(&line);
                }
            }
        }
    }

    /// What the whole is doing.
    pub(crate) fn headline(&mut self, text: &str) {
        match self {
            Self::Bars(bars) => bars.headline(text),
            Self::Lines(lines, terminal) => {
                if lines.headline != text {
                    text.clone_into(&mut lines.headline);
                    terminal.say(text);
                }
            }
        }
    }

    /// A line that stays.
    pub(crate) fn note(&mut self, text: &str) {
        match self {
            Self::Bars(bars) => bars.multi.suspend(|| bars.terminal.say(text)),
            Self::Lines(_, terminal) => terminal.say(text),
        }
    }

    /// Takes bars off the screen; a line for each stays.
    pub(crate) fn finish(self) {
        match self {
            Self::Bars(bars) => bars.finish(),
            Self::Lines(..) => {}
        }
    }
}

/// Bars, one per job, and the headline below them.
pub(crate) struct Bars {
    terminal: Terminal,
    multi: MultiProgress,
    headline: Option<ProgressBar>,
    jobs: BTreeMap<String, ProgressBar>,
}

impl Bars {
    fn new(terminal: &Terminal) -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { terminal: *terminal, multi, headline: None, jobs: BTreeMap::new() }
    }

    fn job(&mut self, job: &Job) {
        let below = self.jobs.len();
        let bar = self.jobs.entry(job.name.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix:20} {bar:24} {pos}/{len} {msg}  ETA {eta}")
                .expect("the template is a constant and well-formed")
                .progress_chars("█▓░");
            self.multi
                .insert(below, ProgressBar::new(job.total).with_style(style).with_prefix(job.name.to_owned()))
        });
        bar.set_length(job.total);
        bar.set_position(job.done);
        bar.set_message(job.message.to_owned());
        if job.stage == Stage::Finished && !bar.is_finished() {
            bar.finish();
        }
    }

    fn headline(&mut self, text: &str) {
        let headline = self.headline.get_or_insert_with(|| {
            let headline = self.multi.add(ProgressBar::new_spinner());
            headline.enable_steady_tick(Duration::from_millis(120));
            headline
        });
        headline.set_message(text.to_owned());
    }

    fn finish(self) {
        if let Some(headline) = &self.headline {
            headline.finish_and_clear();
        }
        // Where the screen cannot be cleared there is no screen to be tidy on.
        let _ = self.multi.clear();
        for (name, bar) in &self.jobs {
            let stage = if bar.is_finished() { Stage::Finished } else { Stage::Running };
            let (done, total, message) = (bar.position(), bar.length().unwrap_or(0), bar.message());
            self.terminal.say(&line(&Job { name, done, total, message: &message, stage }, None));
        }
    }
}

/// Decides which lines are worth printing.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    headline: String,
    jobs: BTreeMap<String, Printed>,
}

#[derive(Debug)]
struct Printed {
    began: Instant,
    began_at: u64,
    last: Instant,
    stage: Stage,
}

/// Between two lines of one job.
const PAUSE: Duration = Duration::from_secs(10);

impl Lines {
    /// The line to print now, if any: a job's first, its last, and one every ten seconds between.
    fn job(&mut self, job: &Job, now: Instant) -> Option<String> {
        let Some(printed) = self.jobs.get_mut(job.name) else {
            let printed = Printed { began: now, began_at: job.done, last: now, stage: job.stage };
            self.jobs.insert(job.name.to_owned(), printed);
            return Some(line(job, None));
        };
        let finishes = printed.stage == Stage::Running && job.stage == Stage::Finished;
        let is_due = job.stage == Stage::Running && now.duration_since(printed.last) >= PAUSE;
        if !finishes && !is_due {
            return None;
        }
        printed.last = now;
        printed.stage = job.stage;
        let eta = remaining(job, printed.began_at, now.duration_since(printed.began));
        Some(line(job, eta))
    }
}

fn line(job: &Job, eta: Option<Duration>) -> String {
    let Job { name, done, total, message, stage } = job;
    let message = if message.is_empty() { String::new() } else { format!(", {message}") };
    let end = match (stage, eta) {
        (Stage::Finished, _) if done < total => ", stopped".to_owned(),
        (Stage::Finished, _) => ", finished".to_owned(),
        (Stage::Running, Some(eta)) => format!(", {}s left", eta.as_secs()),
        (Stage::Running, None) => String::new(),
    };
    format!("{name}: {done}/{total}{message}{end}")
}

/// The time left at the mean speed so far.
fn remaining(job: &Job, began_at: u64, elapsed: Duration) -> Option<Duration> {
    let advanced = job.done.checked_sub(began_at).filter(|&steps| steps > 0)?;
    let left = job.total.saturating_sub(job.done);
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * left as f64 / advanced as f64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(done: u64, stage: Stage) -> Job<'static> {
        Job { name: "train", done, total: 100, message: "loss 0.9", stage }
    }

    #[test]
    fn plain_lines_are_few() {
        let (mut lines, start) = (Lines::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lines.job(&job(0, Stage::Running), at(0)).unwrap(), "train: 0/100, loss 0.9");
        assert_eq!(lines.job(&job(10, Stage::Running), at(5)), None);
        assert_eq!(lines.job(&job(20, Stage::Running), at(10)).unwrap(), "train: 20/100, loss 0.9, 40s left");
        assert_eq!(
            lines.job(&job(100, Stage::Finished), at(11)).unwrap(),
            "train: 100/100, loss 0.9, finished"
        );
        assert_eq!(lines.job(&job(100, Stage::Finished), at(60)), None, "said once");
        assert_eq!(line(&job(7, Stage::Finished), None), "train: 7/100, loss 0.9, stopped");
    }
}
