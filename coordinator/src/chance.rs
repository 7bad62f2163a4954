//! What chance alone does to a count: the one statistical rule by which measured times and errors are judged. Pure.

/// Standard deviations of the binomial distribution above its mean: beyond them chance comes once in about seven hundred times.
const DEVIATIONS: f64 = 3.0;

/// The most of `n` requests that a true share of `share` shows by chance.
pub(crate) fn most(n: u64, share: f64) -> f64 {
    let n = n as f64;
    n * share + DEVIATIONS * (n * share * (1.0 - share)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_requests_leave_chance_less_room() {
        assert!((most(1000, 0.05) - 70.68).abs() < 0.01);
        assert!((most(100_000, 0.05) / 100_000.0 - 0.052).abs() < 1e-4);
        assert_eq!((most(1000, 0.0), most(0, 0.5)), (0.0, 0.0));
    }
}
