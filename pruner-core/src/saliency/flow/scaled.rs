//! Numbers that are never negative, times a power of two that all of a tensor share: f32 that cannot overflow, however
//! deep the network is. Scaling by a power of two is exact, so only f32's rounding tells this from f64.

use crate::exec::vectorised;

/// The exponent of a tensor of zeros: below any other, and far enough from the type's end to be summed.
const NOTHING: i32 = -(1 << 24);

/// `values * 2^exponent`; once normalised the largest value is at least 1 and below 2, or all are 0.
#[derive(Debug, Clone, Default)]
pub(super) struct Scaled {
    pub(super) values: Vec<f32>,
    pub(super) exponent: i32,
}

impl Scaled {
    /// Zeros.
    pub(super) fn zeros(len: usize) -> Self {
        Self { values: vec![0.0; len], exponent: NOTHING }
    }

    /// The nearest f32 to each number; none is negative and all are finite.
    pub(super) fn from_f64(numbers: &[f64]) -> Self {
        let largest = numbers.iter().fold(0.0, |largest: f64, &number| largest.max(number));
        if largest == 0.0 {
            return Self::zeros(numbers.len());
        }
        let exponent = largest.log2().floor() as i32;
        // Halved twice over, because 2^1074 and its inverse are not both f64.
        let (half, rest) = (exponent / 2, exponent - exponent / 2);
        let scaled = |number: &f64| (number * 2f64.powi(-half) * 2f64.powi(-rest)) as f32;
        let mut tensor = Self { values: numbers.iter().map(scaled).collect(), exponent };
        tensor.normalise();
        tensor
    }

    /// Moves the power of two of the largest value into the exponent.
    pub(super) fn normalise(&mut self) {
        let largest = vectorised!(self.values.iter().fold(0, |bits: u32, value| bits.max(value.to_bits())));
        if largest == 0 {
            self.exponent = NOTHING;
            return;
        }
        let shift = exponent_of(f32::from_bits(largest));
        if shift != 0 {
            let [first, second] = powers(-shift);
            vectorised!(self.values.iter_mut().for_each(|value| *value = *value * first * second));
            self.exponent += shift;
        }
    }

    /// Adds `term`; both lie in f32's range however their exponents differ.
    pub(super) fn add(&mut self, term: &Self) {
        let (exponent, [own, other]) = align(self.exponent, term.exponent);
        vectorised!({
            self.values.iter_mut().zip(&term.values).for_each(|(sum, x)| *sum = *sum * own + *x * other);
        });
        self.exponent = exponent;
    }
}

/// The exponent of two tensors' sum, and what each is multiplied by to have it.
pub(super) fn align(a: i32, b: i32) -> (i32, [f32; 2]) {
    let exponent = a.max(b);
    (exponent, [power(a - exponent), power(b - exponent)])
}

/// 2^exponent: 0 where f32 has nothing so small.
pub(super) fn power(exponent: i32) -> f32 {
    2f64.powi(exponent.clamp(-1000, 1000)) as f32
}

/// Two factors whose product is 2^exponent, for exponents that one f32 cannot hold.
pub(super) fn powers(exponent: i32) -> [f32; 2] {
    [power(exponent / 2), power(exponent - exponent / 2)]
}

/// The largest e with 2^e <= value; `value` is positive and finite.
fn exponent_of(value: f32) -> i32 {
    // As f64 every positive f32 is a normal number.
    ((f64::from(value).to_bits() >> 52) & 0x7ff) as i32 - 1023
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_of_two_moves_into_the_exponent() {
        let mut tensor = Scaled { values: vec![0.0, 3e38, 1e38], exponent: 5 };
        tensor.normalise();
        assert_eq!(tensor.exponent, 5 + 127);
        assert_eq!(tensor.values, [0.0, 3e38 / 2f32.powi(127), 1e38 / 2f32.powi(127)]);
        let mut least = Scaled { values: vec![f32::from_bits(1)], exponent: 0 };
        least.normalise();
        assert_eq!((least.values[0], least.exponent), (1.0, -149));
        let mut nothing = Scaled { values: vec![0.0], exponent: 7 };
        nothing.normalise();
        nothing.add(&least);
        assert_eq!((nothing.values[0], nothing.exponent), (1.0, -149));
        assert_eq!(Scaled::from_f64(&[1e-300, 3e-300]).values.len(), 2);
    }

    #[test]
    fn sums_are_those_of_f64() {
        let numbers = |scale: f64| Scaled::from_f64(&[scale, 0.0, 0.75 * scale]);
        let value = |tensor: &Scaled, at: usize| f64::from(tensor.values[at]) * 2f64.powi(tensor.exponent);
        for (a, b) in [(1.0, 1024.0), (1024.0, 1.0), (1e200, 1e-200), (2f64.powi(130), 1.0)] {
            let mut sum = numbers(a);
            sum.add(&numbers(b));
            for (at, share) in [1.0, 0.0, 0.75].into_iter().enumerate() {
                let expected = share * (a + b);
                assert!((value(&sum, at) - expected).abs() <= 1e-7 * expected, "{a} {b}");
            }
        }
    }
}
