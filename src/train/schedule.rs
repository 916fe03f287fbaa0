//! Learning-rate schedules, as pure functions of the step.

use serde::{Deserialize, Serialize};

/// Linear warm-up, then half a cosine from `lr` down to `min_lr` (the schedule of GPT-3's
/// appendix B, as nanoGPT's `get_lr` has it).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cosine {
    /// Peak learning rate.
    pub lr: f64,
    /// Final learning rate.
    pub min_lr: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// Steps in all.
    pub total_steps: u64,
}

impl Cosine {
    /// The learning rate of `step`, counted from 0. The first step of a warm-up is not 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.lr * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / span).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.min_lr + cosine * (self.lr - self.min_lr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_warms_up_peaks_and_decays() {
        let schedule = Cosine {
            lr: 1.0,
            min_lr: 0.1,
            warmup_steps: 9,
            total_steps: 109,
        };
        assert!((schedule.at(0) - 0.1).abs() < 1e-12);
        assert!((schedule.at(9) - 1.0).abs() < 1e-12);
        assert!((schedule.at(59) - 0.55).abs() < 1e-12);
        assert!((schedule.at(109) - 0.1).abs() < 1e-12);
        assert!((schedule.at(1000) - 0.1).abs() < 1e-12);
    }
}
