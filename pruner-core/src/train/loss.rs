//! Softmax cross-entropy, its gradient, and how many images are classified rightly. Knows no network.

use crate::exec::Scalar;

/// The loss of a batch, and room for its gradient.
#[derive(Debug)]
pub(crate) struct CrossEntropy<T> {
    classes: usize,
    smoothing: f64,
    gradient: Vec<T>,
}

impl<T: Scalar> CrossEntropy<T> {
    /// With `smoothing` of the target spread evenly over all classes.
    pub(crate) fn new(classes: usize, smoothing: f32) -> Self {
        Self { classes, smoothing: f64::from(smoothing), gradient: Vec::new() }
    }

    /// Mean loss of a batch of logits, and the number of images whose label has the highest logit.
    pub(crate) fn measure(&mut self, logits: &[T], labels: &[u8]) -> (f64, usize) {
        self.gradient.resize(logits.len(), T::ZERO);
        let (mut loss, mut correct) = (0.0, 0);
        let share = 1.0 / labels.len() as f64;
        let rows = logits.chunks_exact(self.classes).zip(self.gradient.chunks_exact_mut(self.classes));
        for ((logits, gradient), &label) in rows.zip(labels) {
            let label = usize::from(label);
            let log_sum = log_sum_exp(logits);
            correct += usize::from(argmax(logits) == label);
            for (class, (gradient, &logit)) in gradient.iter_mut().zip(logits).enumerate() {
                let even = self.smoothing / self.classes as f64;
                let target = if class == label { 1.0 - self.smoothing + even } else { even };
                let log_probability = logit.to_f64() - log_sum;
                // At smoothing 0 only the label's class counts; 0 times an infinity would be no number.
                if target > 0.0 {
                    loss -= target * log_probability * share;
                }
                *gradient = T::from_f64((log_probability.exp() - target) * share);
            }
        }
        (loss, correct)
    }

    /// The gradient of the last measured loss by its logits.
    pub(crate) fn gradient(&self) -> &[T] {
        &self.gradient
    }
}

/// log(sum(exp(x))), without overflow.
fn log_sum_exp<T: Scalar>(logits: &[T]) -> f64 {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, &logit| largest.max(logit.to_f64()));
    largest + logits.iter().map(|&logit| (logit.to_f64() - largest).exp()).sum::<f64>().ln()
}

/// The first place of the largest number.
fn argmax<T: Scalar>(logits: &[T]) -> usize {
    let better = |best: usize, class: usize| if logits[class] > logits[best] { class } else { best };
    (1..logits.len()).fold(0, better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_classes_by_hand() {
        let mut loss = CrossEntropy::<f32>::new(2, 0.0);
        let (value, correct) = loss.measure(&[0.0, 3f32.ln(), 2.0, 2.0], &[1, 1]);
        // Probabilities 3/4 and, on a tie that the first class wins, 1/2.
        assert!((value - (-(0.75f64.ln()) - 0.5f64.ln()) / 2.0).abs() < 1e-7);
        assert_eq!(correct, 1);
        for (got, expected) in loss.gradient().iter().zip([0.125, -0.125, 0.25, -0.25]) {
            assert!((got - expected).abs() < 1e-7);
        }
    }

    #[test]
    fn gradient_agrees_with_differences() {
        let (logits, labels) = ([0.3, -1.2, 2.0, 0.1, 0.4, -0.5], [2, 0]);
        let mut loss = CrossEntropy::<f32>::new(3, 0.1);
        loss.measure(&logits, &labels);
        let gradient = loss.gradient().to_vec();
        for at in 0..logits.len() {
            let mut moved = |step: f32| {
                let mut logits = logits;
                logits[at] += step;
                (f64::from(logits[at]), loss.measure(&logits, &labels).0)
            };
            let ((high, above), (low, below)) = (moved(1e-2), moved(-1e-2));
            assert!(((above - below) / (high - low) - f64::from(gradient[at])).abs() < 1e-5);
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let mut loss = CrossEntropy::<f32>::new(2, 0.0);
        assert_eq!(loss.measure(&[1e30, 0.0], &[0]), (0.0, 1));
        assert!(loss.measure(&[f32::NAN, 0.0], &[0]).0.is_nan());
    }
}
