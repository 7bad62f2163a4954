//! The learning rate over the steps: a linear rise, then half a cosine down to zero.

use std::f64::consts::PI;

use super::Recipe;

/// Rates for a known number of steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    highest: f64,
    warmup: usize,
    steps: usize,
}

impl Schedule {
    /// For a recipe whose epochs have `per_epoch` steps. The warm-up never takes more than all but the last step.
    pub(super) fn new(recipe: &Recipe, per_epoch: usize) -> Self {
        let steps = recipe.epochs * per_epoch;
        let warmup = (f64::from(recipe.warmup_epochs) * per_epoch as f64).round() as usize;
        Self { highest: f64::from(recipe.learning_rate), warmup: warmup.min(steps.saturating_sub(1)), steps }
    }

    /// Steps in all.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// The rate of a step, counted from 0.
    pub(super) fn learning_rate(&self, step: usize) -> f32 {
        let rate = if step < self.warmup {
            self.highest * (step + 1) as f64 / (self.warmup + 1) as f64
        } else {
            let done = (step - self.warmup) as f64 / (self.steps - self.warmup) as f64;
            self.highest * 0.5 * (1.0 + (PI * done).cos())
        };
        rate as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_almost_zero() {
        let recipe = Recipe { epochs: 3, warmup_epochs: 1.0, learning_rate: 1.0, ..Recipe::default() };
        let schedule = Schedule::new(&recipe, 4);
        let rates: Vec<f32> = (0..schedule.steps()).map(|step| schedule.learning_rate(step)).collect();
        assert_eq!(rates.len(), 12);
        assert_eq!(rates[..5], [0.2, 0.4, 0.6, 0.8, 1.0]);
        assert!((rates[8] - 0.5).abs() < 1e-6);
        assert!(rates[4..].is_sorted_by(|a, b| a > b) && rates[11] < 0.05 && rates[11] > 0.0);
    }

    #[test]
    fn a_warmup_longer_than_training_is_cut() {
        let recipe = Recipe { epochs: 1, warmup_epochs: 9.0, learning_rate: 1.0, ..Recipe::default() };
        let schedule = Schedule::new(&recipe, 2);
        assert_eq!([schedule.learning_rate(0), schedule.learning_rate(1)], [0.5, 1.0]);
    }
}
