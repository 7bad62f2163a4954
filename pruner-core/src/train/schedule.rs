//! The learning rate of every step: a linear rise, then what the schedule says.

use std::f64::consts::PI;

use super::recipe::{Recipe, Schedule};

/// Share of a one-cycle's steps in which the rate rises, what it rises from, and what it falls to.
const RISE: f64 = 0.3;
const RISES_FROM: f64 = 1.0 / 25.0;
const FALLS_TO: f64 = 1.0 / 250_000.0;

/// Rates for a known number of steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    schedule: Schedule,
    highest: f64,
    warmup: usize,
    steps: usize,
}

impl Rates {
    /// For a recipe whose epochs have `per_epoch` steps. The warm-up never takes more than all but the last step.
    pub(super) fn new(recipe: &Recipe, per_epoch: usize) -> Self {
        let steps = recipe.epochs * per_epoch;
        let warmup = match recipe.schedule {
            Schedule::Cosine | Schedule::Step => {
                (f64::from(recipe.warmup_epochs) * per_epoch as f64).round() as usize
            }
            Schedule::OneCycle => 0,
        };
        let highest = f64::from(recipe.learning_rate);
        Self { schedule: recipe.schedule, highest, warmup: warmup.min(steps.saturating_sub(1)), steps }
    }

    /// Steps in all.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }

    /// The rate of a step, counted from 0.
    pub(super) fn rate(&self, step: usize) -> f32 {
        let share =
            if step < self.warmup { (step + 1) as f64 / (self.warmup + 1) as f64 } else { self.share(step) };
        (self.highest * share) as f32
    }

    /// What share of the highest rate a step has that is not of the warm-up.
    fn share(&self, step: usize) -> f64 {
        let of_all = step as f64 / self.steps as f64;
        match self.schedule {
            Schedule::Cosine => {
                let done = (step - self.warmup) as f64 / (self.steps - self.warmup) as f64;
                between(1.0, 0.0, done)
            }
            Schedule::Step => match of_all {
                done if done < 0.5 => 1.0,
                done if done < 0.75 => 0.1,
                _ => 0.01,
            },
            Schedule::OneCycle => {
                // PyTorch counts from step 0 to the last: both ends are reached.
                let last = (self.steps - 1).max(1) as f64;
                let top = (RISE * self.steps as f64 - 1.0).max(0.0);
                let at = step as f64;
                if at <= top {
                    between(RISES_FROM, 1.0, if top > 0.0 { at / top } else { 1.0 })
                } else {
                    between(1.0, FALLS_TO, (at - top) / (last - top))
                }
            }
        }
    }
}

/// Half a cosine from `start` to `end`.
fn between(start: f64, end: f64, done: f64) -> f64 {
    end + (start - end) * 0.5 * (1.0 + (PI * done).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(recipe: &Recipe, per_epoch: usize) -> Vec<f32> {
        let rates = Rates::new(recipe, per_epoch);
        (0..rates.steps()).map(|step| rates.rate(step)).collect()
    }

    fn recipe(schedule: Schedule, epochs: usize, warmup_epochs: f32) -> Recipe {
        Recipe { schedule, epochs, warmup_epochs, learning_rate: 1.0, ..Recipe::default() }
    }

    #[test]
    fn rises_then_falls_to_almost_zero() {
        let rates = rates(&recipe(Schedule::Cosine, 3, 1.0), 4);
        assert_eq!(rates.len(), 12);
        assert_eq!(rates[..5], [0.2, 0.4, 0.6, 0.8, 1.0]);
        assert!((rates[8] - 0.5).abs() < 1e-6);
        assert!(rates[4..].is_sorted_by(|a, b| a > b) && rates[11] < 0.05 && rates[11] > 0.0);
    }

    #[test]
    fn a_warmup_longer_than_training_is_cut() {
        assert_eq!(rates(&recipe(Schedule::Cosine, 1, 9.0), 2), [0.5, 1.0]);
    }

    #[test]
    fn steps_fall_tenfold_at_a_half_and_at_three_quarters() {
        let rates = rates(&recipe(Schedule::Step, 8, 0.0), 1);
        assert_eq!(rates, [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]);
    }

    #[test]
    fn one_cycle_is_pytorchs() {
        // What OneCycleLR(max_lr=1, total_steps=10, cycle_momentum=False) of PyTorch 1.13 gave.
        let rates = rates(&recipe(Schedule::OneCycle, 10, 3.0), 1);
        let by_hand = [0.04, 0.52, 1.0, 0.950_485, 0.811_746, 0.611_262, 0.388_742, 0.188_258, 0.049_519];
        for (rate, expected) in rates.iter().zip(by_hand) {
            assert!((rate - expected).abs() < 1e-5, "{rates:?}");
        }
        assert!((rates[9] - 4e-6).abs() < 1e-9, "{rates:?}");
        assert_eq!(rates.len(), 10);
        assert_eq!(super::tests::rates(&recipe(Schedule::OneCycle, 1, 0.0), 1), [1.0]);
    }
}
