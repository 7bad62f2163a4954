//! How long to wait before the next attempt: doubled each time, capped first, then jittered over the whole range, so
//! that a fleet that lost its coordinator does not come back in step.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const CEILING: Duration = Duration::from_secs(30);

/// The attempts since the last success.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// After a success the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The next wait, anywhere between nothing and the present bound.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let bound = bound(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(rand::random::<f64>())
    }
}

fn bound(attempts: u32) -> Duration {
    let factor = 2u32.checked_pow(attempts).unwrap_or(u32::MAX);
    FIRST.saturating_mul(factor).min(CEILING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_ceiling() {
        for (attempts, millis) in [(0, 200), (1, 400), (7, 25_600), (8, 30_000), (40, 30_000)] {
            assert_eq!(bound(attempts), Duration::from_millis(millis));
        }
    }

    #[test]
    fn waits_at_the_ceiling_are_still_spread() {
        let mut backoff = Backoff { attempts: 20 };
        let waits: Vec<Duration> = (0..200).map(|_| backoff.next_delay()).collect();
        assert!(waits.iter().all(|wait| *wait <= CEILING));
        assert!(waits.iter().any(|wait| *wait < CEILING / 2) && waits.iter().any(|wait| *wait > CEILING / 2));
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }
}
