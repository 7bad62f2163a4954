//! Softmax cross-entropy, its gradient, and how many images are classified rightly.

/// The loss of a batch, and room for its gradient.
#[derive(Debug)]
pub(super) struct CrossEntropy {
    classes: usize,
    smoothing: f64,
    gradient: Vec<f32>,
}

impl CrossEntropy {
    /// With `smoothing` of the target spread evenly over all classes.
    pub(super) fn new(classes: usize, smoothing: f32) -> Self {
        Self { classes, smoothing: f64::from(smoothing), gradient: Vec::new() }
    }

    /// Mean loss of a batch of logits, and the number of images whose label has the highest logit.
    pub(super) fn measure(&mut self, logits: &[f32], labels: &[u8]) -> (f64, usize) {
        self.gradient.resize(logits.len(), 0.0);
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
                let log_probability = f64::from(logit) - log_sum;
                // At smoothing 0 only the label's class counts; 0 times an infinity would be no number.
                if target > 0.0 {
                    loss -= target * log_probability * share;
                }
                *gradient = ((log_probability.exp() - target) * share) as f32;
            }
        }
        (loss, correct)
    }

    /// The gradient of the last measured loss by its logits.
    pub(super) fn gradient(&self) -> &[f32] {
        &self.gradient
    }
}

/// log(sum(exp(x))), without overflow.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, &logit| largest.max(logit));
    let largest = f64::from(largest);
    largest + logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum::<f64>().ln()
}

/// The first place of the largest number.
fn argmax(logits: &[f32]) -> usize {
    let better = |best: usize, class: usize| if logits[class] > logits[best] { class } else { best };
    (1..logits.len()).fold(0, better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_classes_by_hand() {
        let mut loss = CrossEntropy::new(2, 0.0);
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
        let mut loss = CrossEntropy::new(3, 0.1);
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
        let mut loss = CrossEntropy::new(2, 0.0);
        assert_eq!(loss.measure(&[1e30, 0.0], &[0]), (0.0, 1));
        assert!(loss.measure(&[f32::NAN, 0.0], &[0]).0.is_nan());
    }
}
