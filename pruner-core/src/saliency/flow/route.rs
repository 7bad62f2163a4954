//! What only moves or repeats features: joins, slices, shuffles, borders, other sizes, and sums of unlike shapes. Each is
//! a list of where a number comes from, where it goes and what share of it arrives.

use super::scaled::{Scaled, align, power};

/// From one of the inputs to the output.
pub(super) type Path = (u32, u32, f32);

/// The paths from each input.
#[derive(Debug)]
pub(super) struct Route {
    inputs: Vec<Vec<Path>>,
}

impl Route {
    pub(super) fn new(inputs: Vec<Vec<Path>>) -> Self {
        Self { inputs }
    }

    /// The sum of all that arrives; `x` in the order of the inputs.
    pub(super) fn forward<'a>(&self, x: impl Iterator<Item = &'a Scaled> + Clone, y: &mut Scaled) {
        y.values.fill(0.0);
        let largest = x.clone().map(|x| x.exponent).max().unwrap_or(y.exponent);
        for (x, paths) in x.zip(&self.inputs) {
            let factor = power(x.exponent - largest);
            for &(from, to, share) in paths {
                y.values[to as usize] += x.values[from as usize] * share * factor;
            }
        }
        y.exponent = largest;
        y.normalise();
    }

    /// The gradient of one input.
    pub(super) fn backward(&self, input: usize, dy: &Scaled, dx: &mut Scaled) {
        dx.values.fill(0.0);
        for &(from, to, share) in &self.inputs[input] {
            dx.values[from as usize] += dy.values[to as usize] * share;
        }
        dx.exponent = dy.exponent;
        dx.normalise();
    }
}

/// An operator that nobody knows: all that comes in goes out, alike through every output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread;

impl Spread {
    pub(super) fn forward<'a>(x: impl Iterator<Item = &'a Scaled>, y: &mut Scaled) {
        let (mut sum, mut exponent) = (0.0_f32, i32::MIN / 2);
        for x in x {
            let total: f64 = x.values.iter().map(|&value| f64::from(value)).sum();
            let (common, [own, other]) = align(exponent, x.exponent);
            (sum, exponent) = (sum * own + total as f32 * other, common);
        }
        let share = sum / y.values.len() as f32;
        y.values.fill(share);
        y.exponent = exponent;
        y.normalise();
    }

    pub(super) fn backward(dy: &Scaled, dx: &mut Scaled) {
        let total: f64 = dy.values.iter().map(|&value| f64::from(value)).sum();
        dx.values.fill((total / dy.values.len() as f64) as f32);
        dx.exponent = dy.exponent;
        dx.normalise();
    }
}
