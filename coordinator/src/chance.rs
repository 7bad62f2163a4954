//! What chance alone does to a count: the one statistical rule by which measured times and errors are judged. Pure.

/// Standard deviations of the binomial distribution above its mean: beyond them chance comes once in about seven hundred times.
const DEVIATIONS: f64 = 3.0;

/// The most of `n` requests that a true share of `share` shows by chance.
pub(crate) fn most(n: u64, share: f64) -> f64 {
    let n = n as f64;
    n * share + DEVIATIONS * (n * share * (1.0 - share)).sqrt()
}

/// The least of `n` requests that a true share of `share` shows by chance.
pub(crate) fn least(n: u64, share: f64) -> f64 {
    2.0 * n as f64 * share - most(n, share)
}

/// The same as [`most`] where the limit that splits them was itself measured, on `known` others, as their quantile.
pub(crate) fn most_by_sample(n: u64, share: f64, known: u64) -> f64 {
    let spread = (1.0 + n as f64 / known.max(1) as f64).sqrt();
    let mean = n as f64 * share;
    mean + (most(n, share) - mean) * spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_requests_leave_chance_less_room() {
        assert!((most(1000, 0.05) - 70.68).abs() < 0.01);
        assert!((most(100_000, 0.05) / 100_000.0 - 0.052).abs() < 1e-4);
        assert!((least(1000, 0.05) - 29.32).abs() < 0.01);
        assert!(least(100, 0.05) < 0.0, "of few requests, none late is chance too");
        assert_eq!((most(1000, 0.0), most(0, 0.5)), (0.0, 0.0));
        // As many known as judged: sqrt(2) times as much; of few known, however many are judged, the share stays uncertain.
        assert!((most_by_sample(1000, 0.05, 1000) - 79.24).abs() < 0.01);
        assert!((most_by_sample(100_000, 0.05, 400) / 100_000.0 - 0.0828).abs() < 1e-4);
    }
}
