//! Learning-rate schedules, as pure functions of the tokens trained on.

use serde::{Deserialize, Serialize};

/// The shape of a schedule after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// `lr` to the end.
    Constant,
    /// A straight line from `lr` to `min_lr`.
    Linear,
    /// Half a cosine from `lr` to `min_lr` (GPT-3, arXiv 2005.14165, appendix B; nanoGPT's
    /// `get_lr`).
    #[default]
    Cosine,
    /// Warm-up, stable, decay: `lr`, then a straight line to `min_lr` over the last
    /// `decay_tokens` (arXiv 2404.06395, with the linear decay of arXiv 2405.18392).
    Wsd,
}

/// A learning-rate schedule over a stage or a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Shape after the warm-up.
    pub shape: Shape,
    /// Peak learning rate.
    pub lr: f64,
    /// Final learning rate.
    pub min_lr: f64,
    /// Tokens of linear warm-up.
    pub warmup_tokens: u64,
    /// Tokens of decay at the end; of [`Shape::Wsd`] alone.
    pub decay_tokens: u64,
    /// Tokens in all.
    pub total_tokens: u64,
}

impl Schedule {
    /// The learning rate of the step of `batch_tokens` that follows `tokens`. The first step of
    /// a warm-up is not 0.
    pub fn at(&self, tokens: u64, batch_tokens: u64) -> f64 {
        let warmup = self.warmup_tokens;
        if tokens < warmup {
            return self.lr * (tokens + batch_tokens) as f64 / (warmup + batch_tokens) as f64;
        }
        let share = |from: u64| {
            let span = self.total_tokens.saturating_sub(from).max(1) as f64;
            (tokens.saturating_sub(from) as f64 / span).min(1.0)
        };
        let kept = match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => 1.0 - share(warmup),
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share(warmup)).cos()),
            Shape::Wsd => {
                let decay_from = self.total_tokens.saturating_sub(self.decay_tokens);
                1.0 - share(decay_from.max(warmup))
            }
        };
        kept * self.lr + (1.0 - kept) * self.min_lr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(shape: Shape) -> Schedule {
        Schedule {
            shape,
            lr: 1.0,
            min_lr: 0.1,
            warmup_tokens: 90,
            decay_tokens: 200,
            total_tokens: 1090,
        }
    }

    fn at(shape: Shape, tokens: u64) -> f64 {
        schedule(shape).at(tokens, 10)
    }

    #[test]
    fn every_shape_warms_up_alike() {
        for shape in [Shape::Constant, Shape::Linear, Shape::Cosine, Shape::Wsd] {
            assert!((at(shape, 0) - 0.1).abs() < 1e-12);
            assert!((at(shape, 40) - 0.5).abs() < 1e-12);
            assert!((at(shape, 90) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn shapes_have_their_middles_and_ends() {
        for (shape, middle, late, end) in [
            (Shape::Constant, 1.0, 1.0, 1.0),
            (Shape::Linear, 0.55, 0.19, 0.1),
            (Shape::Cosine, 0.55, 0.122, 0.1),
            (Shape::Wsd, 1.0, 0.55, 0.1),
        ] {
            let near = |tokens: u64, expected: f64| {
                let found = at(shape, tokens);
                assert!(
                    (found - expected).abs() < 5e-4,
                    "{shape:?} at {tokens}: {found}"
                );
            };
            near(590, middle);
            near(990, late);
            near(1090, end);
            near(100_000, end);
        }
    }

    /// Without a warm-up of its own, a decay as long as the schedule starts at once.
    #[test]
    fn a_decay_longer_than_the_schedule_starts_after_the_warm_up() {
        let all = Schedule {
            decay_tokens: 5000,
            ..schedule(Shape::Wsd)
        };
        assert!((all.at(590, 10) - 0.55).abs() < 1e-12);
    }
}
