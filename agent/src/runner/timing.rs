//! The time of one model: warm, one image at a time, spaced as requests are. Owns the measurement; what serves takes turns
//! with it.

use std::time::{Duration, Instant};

use super::Runner;
use super::engine::{Engine, EngineError};

/// How long a model is timed.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Runs that are not counted: caches, branch predictors and clock rates settle.
    pub warm_up: Duration,
    /// At least so long,
    pub shortest: Duration,
    /// and at least so many runs,
    pub fewest: usize,
    /// and no longer than this, however slow the model.
    pub longest: Duration,
}

/// Between two runs: requests come one at a time, and what serves one sleeps before it. Run back to back instead, with
/// caches hot and threads awake, a small network answers by up to a third sooner than any client will see.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// Percentiles of the times of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// How many were counted.
    pub runs: u32,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
}

/// Times a model; requests to the one that serves take turns with it.
pub fn time(engine: &Engine, effort: &Effort, runner: &Runner) -> Result<Times, EngineError> {
    engine.enter(|| time_within(engine, effort, runner))
}

fn time_within(engine: &Engine, effort: &Effort, runner: &Runner) -> Result<Times, EngineError> {
    let image = image(engine.numel());
    let run = || {
        pause();
        let exclusive = runner.turn();
        let started = Instant::now();
        let result = engine.run(&image);
        let elapsed = started.elapsed();
        drop(exclusive);
        result.map(|_| elapsed)
    };
    let warm_from = Instant::now();
    while warm_from.elapsed() < effort.warm_up {
        run()?;
    }
    let mut times = Vec::new();
    let from = Instant::now();
    while !effort.is_enough(times.len(), from.elapsed()) {
        times.push(run()?);
    }
    times.sort_unstable();
    let (p50_ms, p95_ms) = (percentile_ms(&times, 50), percentile_ms(&times, 95));
    Ok(Times { runs: times.len() as u32, p50_ms, p95_ms })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a blocking thread of its own, and the pause is what is measured"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

impl Effort {
    fn is_enough(&self, runs: usize, elapsed: Duration) -> bool {
        runs > 0 && (elapsed >= self.longest || (elapsed >= self.shortest && runs >= self.fewest))
    }
}

/// The nearest-rank percentile of sorted times, milliseconds.
fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1].as_secs_f64() * 1e3
}

/// Numbers in -1..1 without a pattern; the time of a dense network does not depend on them.
pub(crate) fn image(length: usize) -> Vec<f32> {
    let mix = |index: u32| index.wrapping_mul(2_654_435_761) ^ index.rotate_left(13);
    (0..length).map(|index| mix(index as u32) as f32 / u32::MAX as f32 * 2.0 - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!((percentile_ms(&times, 50), percentile_ms(&times, 95)), (50.0, 95.0));
        assert_eq!(percentile_ms(&times[..1], 95), 1.0);
        assert_eq!(percentile_ms(&times[..3], 50), 2.0);
    }

    #[test]
    fn timing_ends_by_runs_and_time() {
        let ms = Duration::from_millis;
        let effort = Effort { warm_up: ms(0), shortest: ms(1000), fewest: 100, longest: ms(3000) };
        for (runs, elapsed, enough) in [
            (0, ms(9000), false),
            (99, ms(1500), false),
            (100, ms(999), false),
            (100, ms(1000), true),
            (1, ms(3000), true),
        ] {
            assert_eq!(effort.is_enough(runs, elapsed), enough, "{runs} {elapsed:?}");
        }
    }
}
