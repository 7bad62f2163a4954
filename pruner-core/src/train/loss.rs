//! Softmax cross-entropy, its gradient, and how many images are classified rightly. Knows no network.

use super::Distillation;
use crate::exec::Scalar;

/// The loss of a batch, and room for its gradient.
#[derive(Debug)]
pub(crate) struct CrossEntropy<T> {
    classes: usize,
    smoothing: f64,
    distillation: Option<Distillation>,
    gradient: Vec<T>,
}

impl<T: Scalar> CrossEntropy<T> {
    /// With `smoothing` of the target spread evenly over all classes.
    pub(crate) fn new(classes: usize, smoothing: f32) -> Self {
        Self { classes, smoothing: f64::from(smoothing), distillation: None, gradient: Vec::new() }
    }

    /// The same, which also learns from a teacher's logits.
    pub(super) fn distilled(self, distillation: Distillation) -> Self {
        Self { distillation: Some(distillation), ..self }
    }

    /// Adds the divergence from `teacher`, a teacher's logits for the same images, to what was measured last: the whole loss.
    pub(super) fn learn_from(&mut self, loss: f64, logits: &[T], teacher: &[T]) -> f64 {
        let Some(Distillation { weight, temperature }) = self.distillation else { return loss };
        let (weight, temperature) = (f64::from(weight), f64::from(temperature));
        let share = self.classes as f64 / logits.len() as f64;
        let soft =
            |logits: &[T]| logits.iter().map(|x| T::from_f64(x.to_f64() / temperature)).collect::<Vec<T>>();
        let rows = logits.chunks_exact(self.classes).zip(teacher.chunks_exact(self.classes));
        let mut divergence = 0.0;
        for ((own, teacher), gradient) in rows.zip(self.gradient.chunks_exact_mut(self.classes)) {
            let (own, teacher) = (soft(own), soft(teacher));
            let (own_sum, teacher_sum) = (log_sum_exp(&own), log_sum_exp(&teacher));
            for ((own, teacher), gradient) in own.iter().zip(&teacher).zip(gradient) {
                let (own, teacher) = (own.to_f64() - own_sum, teacher.to_f64() - teacher_sum);
                divergence += teacher.exp() * (teacher - own) * share;
                let softened = (own.exp() - teacher.exp()) * temperature * share;
                *gradient = T::from_f64((1.0 - weight) * gradient.to_f64() + weight * softened);
            }
        }
        (1.0 - weight) * loss + weight * temperature * temperature * divergence
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
    fn distilled_gradient_agrees_with_differences() {
        let (logits, labels, teacher) =
            ([0.3, -1.2, 2.0, 0.1, 0.4, -0.5], [2, 0], [1.0, 0.2, 0.1, -2.0, 0.5, 0.9]);
        let distillation = Distillation { weight: 0.7, temperature: 3.0 };
        let mut loss = CrossEntropy::<f32>::new(3, 0.1).distilled(distillation);
        let mut whole = |logits: &[f32]| {
            let (plain, _) = loss.measure(logits, &labels);
            (loss.learn_from(plain, logits, &teacher), loss.gradient().to_vec())
        };
        let (_, gradient) = whole(&logits);
        for at in 0..logits.len() {
            let mut moved = |step: f32| {
                let mut logits = logits;
                logits[at] += step;
                (f64::from(logits[at]), whole(&logits).0)
            };
            let ((high, above), (low, below)) = (moved(1e-2), moved(-1e-2));
            assert!(((above - below) / (high - low) - f64::from(gradient[at])).abs() < 1e-5);
        }
        let mut alone =
            CrossEntropy::<f32>::new(3, 0.0).distilled(Distillation { weight: 1.0, temperature: 2.0 });
        let (plain, _) = alone.measure(&teacher, &labels);
        assert!(
            alone.learn_from(plain, &teacher, &teacher).abs() < 1e-12,
            "the teacher itself has nothing to learn"
        );
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let mut loss = CrossEntropy::<f32>::new(2, 0.0);
        assert_eq!(loss.measure(&[1e30, 0.0], &[0]), (0.0, 1));
        assert!(loss.measure(&[f32::NAN, 0.0], &[0]).0.is_nan());
    }
}
