//! What a model has done since it was loaded, as the Open Inference Protocol counts it. Owns the counts; they live as
//! long as the model does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Counts of one model.
#[derive(Debug)]
pub struct Statistics {
    success: Total,
    fail: Total,
    queue: Total,
    compute: Total,
    images: AtomicU64,
    last_unix_ms: AtomicU64,
    latency: Histogram,
    late_above: Option<Duration>,
    answers: AtomicU64,
    late: AtomicU64,
    failed: AtomicU64,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            late_above: None,
            answers: AtomicU64::default(),
            late: AtomicU64::default(),
            failed: AtomicU64::default(),
            success: Total::default(),
            fail: Total::default(),
            queue: Total::default(),
            compute: Total::default(),
            images: AtomicU64::default(),
            last_unix_ms: AtomicU64::default(),
            // 0.125 ms to 2 s: from a small network on a large core to a large one on a small core.
            latency: Histogram::new(exponential_buckets(0.000_125, 2.0, 15)),
        }
    }
}

/// How often, and how long in all.
#[derive(Debug, Default)]
struct Total {
    count: AtomicU64,
    ns: AtomicU64,
}

/// How often, and how long in all, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// How often.
    pub count: u64,
    /// How long in all, nanoseconds.
    pub ns: u64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were answered, from their arrival to their answer.
    pub success: Span,
    /// Requests that failed.
    pub fail: Span,
    /// Requests, and how long they waited for their turn.
    pub queue: Span,
    /// Runs of the engine, one per image.
    pub compute: Span,
    /// Images that were answered.
    pub images: u64,
    /// The last request, milliseconds since 1970; 0 where there was none.
    pub last_unix_ms: u64,
}

/// What became of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answers {
    /// All of them.
    pub images: u64,
    /// Those that took the engine too long.
    pub late: u64,
    /// Those that it failed on.
    pub failed: u64,
}

impl Answers {
    /// What came after `before`.
    pub fn since(self, before: Self) -> Self {
        let less = |now: u64, before: u64| now.saturating_sub(before);
        Self {
            images: less(self.images, before.images),
            late: less(self.late, before.late),
            failed: less(self.failed, before.failed),
        }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            images: self.images + other.images,
            late: self.late + other.late,
            failed: self.failed + other.failed,
        }
    }
}

/// One request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Served {
    pub(super) queued: Duration,
    pub(super) computed: Duration,
    /// Runs of the engine.
    pub(super) runs: u64,
}

impl Total {
    fn add(&self, count: u64, time: Duration) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn now(&self) -> Span {
        Span { count: self.count.load(Ordering::Relaxed), ns: self.ns.load(Ordering::Relaxed) }
    }
}

impl Statistics {
    pub(super) fn record(&self, served: Served, is_answered: bool) {
        let Served { queued, computed, runs } = served;
        self.queue.add(1, queued);
        self.compute.add(runs, computed);
        let whole = queued + computed;
        if is_answered {
            self.success.add(1, whole);
            self.images.fetch_add(runs, Ordering::Relaxed);
        } else {
            self.fail.add(1, whole);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.last_unix_ms.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts of nothing yet; an answer that takes longer than `late_above` is late.
    pub(super) fn with_limit(late_above: Option<Duration>) -> Self {
        Self { late_above, ..Self::default() }
    }

    /// One image.
    pub(super) fn observe(&self, elapsed: Duration, is_answered: bool) {
        self.latency.observe(elapsed.as_secs_f64());
        if !is_answered {
            self.failed.fetch_add(1, Ordering::Relaxed);
        } else if self.late_above.is_some_and(|limit| elapsed > limit) {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// What became of the images so far.
    pub fn answers(&self) -> Answers {
        let images = self.answers.load(Ordering::Relaxed);
        let (late, failed) = (self.late.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        Answers { images, late, failed }
    }

    /// Seconds of the engine on each image, in buckets; shared with these counts.
    pub fn latency(&self) -> Histogram {
        self.latency.clone()
    }

    /// The counts now.
    pub fn now(&self) -> Counts {
        Counts {
            success: self.success.now(),
            fail: self.fail.now(),
            queue: self.queue.now(),
            compute: self.compute.now(),
            images: self.images.load(Ordering::Relaxed),
            last_unix_ms: self.last_unix_ms.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_images_are_counted_apart() {
        let ms = Duration::from_millis;
        let statistics = Statistics::default();
        statistics.record(Served { queued: ms(1), computed: ms(6), runs: 3 }, true);
        statistics.record(Served { queued: ms(2), computed: ms(4), runs: 1 }, false);
        let counts = statistics.now();
        let span = |count, millis: u64| Span { count, ns: millis * 1_000_000 };
        assert_eq!((counts.success, counts.fail), (span(1, 7), span(1, 6)));
        assert_eq!((counts.queue, counts.compute), (span(2, 3), span(4, 10)));
        assert_eq!(counts.images, 3);
        assert!(counts.last_unix_ms > 1_700_000_000_000);
    }

    #[test]
    fn an_answer_is_bad_when_it_is_late_or_none() {
        let ms = Duration::from_millis;
        let observed = |late_above| {
            let statistics = Statistics::with_limit(late_above);
            for (elapsed, is_answered) in [(ms(1), true), (ms(3), true), (ms(1), false), (ms(9), false)] {
                statistics.observe(elapsed, is_answered);
            }
            statistics.answers()
        };
        assert_eq!(observed(Some(ms(2))), Answers { images: 4, late: 1, failed: 2 });
        assert_eq!(observed(None), Answers { images: 4, late: 0, failed: 2 });
        let before = Answers { images: 1, late: 0, failed: 1 };
        assert_eq!(observed(None).since(before), Answers { images: 3, late: 0, failed: 1 });
    }
}
