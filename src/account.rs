//! What a run has cost after any of its steps, in both accounts: a pure function of its stages.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Gpt2Config;
use crate::ledger::{self, LayerPasses};
use crate::stages::PlannedStage;
use crate::train::TrainConfig;

/// A cost in two accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Floating-point operations of forward and backward pass: see [`ledger`].
    pub flops: f64,
    /// The account of arXiv 2411.18700: passes of one token through one block.
    pub layer_passes: f64,
}

/// Tokens at one price.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    stage: usize,
    tokens: u64,
    price: Cost,
}

/// The costs of a run.
#[derive(Clone, Debug)]
pub struct Account {
    stretches: Vec<Stretch>,
    batch_tokens: u64,
    steps: u64,
}

impl Account {
    /// The account of `stages` on models like `config`, whatever its own depth.
    pub fn new(stages: &[PlannedStage], config: &Gpt2Config, train: &TrainConfig) -> Self {
        let mut stretches = Vec::new();
        for planned in stages {
            let stage = &planned.stage;
            let unfreeze = stage.unfreeze_at.unwrap_or(stage.end());
            let split = unfreeze.clamp(stage.first_step, stage.end());
            for (from, to) in [(stage.first_step, split), (split, stage.end())] {
                stretches.push(Stretch {
                    stage: stage.index,
                    tokens: (to - from) * train.batch_tokens,
                    price: price(planned, from, config, train.context),
                });
            }
        }
        Self {
            stretches,
            batch_tokens: train.batch_tokens,
            steps: stages.last().map_or(0, |last| last.stage.end()),
        }
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What the first `step` steps cost.
    pub fn at(&self, step: u64) -> Cost {
        let mut left = step * self.batch_tokens;
        let mut sum = Cost::default();
        for stretch in &self.stretches {
            let tokens = stretch.tokens.min(left);
            left -= tokens;
            sum = sum.plus(stretch.price, tokens);
        }
        sum
    }

    /// FLOPs of the step that follows `step` steps.
    pub fn flops_of_step(&self, step: u64) -> f64 {
        self.at(step + 1).flops - self.at(step).flops
    }

    /// What the stage of number `index` costs.
    pub fn of_stage(&self, index: usize) -> Cost {
        let own = self.stretches.iter().filter(|s| s.stage == index);
        own.fold(Cost::default(), |sum, s| sum.plus(s.price, s.tokens))
    }

    /// What the run costs.
    pub fn total(&self) -> Cost {
        self.at(self.steps)
    }
}

impl Cost {
    fn plus(self, price: Self, tokens: u64) -> Self {
        Self {
            flops: self.flops + price.flops * tokens as f64,
            layer_passes: self.layer_passes + price.layer_passes * tokens as f64,
        }
    }
}

/// The cost of a token in the step after `step` steps.
fn price(planned: &PlannedStage, step: u64, config: &Gpt2Config, context: usize) -> Cost {
    let config = config.with_n_layer(planned.n_layer);
    let trains = |name: &str| planned.stage.trains(name, step);
    Cost {
        flops: ledger::per_token(&config, context, &trains).total() as f64,
        layer_passes: LayerPasses::per_token(&config, &trains).total() as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::paper;
    use crate::stages::planned_from;

    fn account(text: &str) -> (Account, usize) {
        let (train, config, planned) = planned_from(3, text);
        let stages = planned.unwrap();
        (Account::new(&stages, &config, &train), stages.len())
    }

    /// The paper's closed form, C = T·L·(3S + 5)/(4S), from the stages of its recipe.
    #[test]
    fn incremental_training_costs_what_the_paper_says() {
        let (account, stages) = account(
            r#"
            [[stage]]
            depths = [3, 6, 9, 12]
            tokens = 1000
            trainable = ["new", "embeddings", "ln_f", "head"]
            grow = { placement = "top", init = "random" }
            [[stage]]
            depths = [3, 6, 9, 12]
            tokens = 1000
            "#,
        );
        let expected = paper::incremental(8000.0, 12, 4);
        assert!((account.total().layer_passes - expected).abs() < 1e-6);
        let of_stages: f64 = (0..stages).map(|i| account.of_stage(i).flops).sum();
        assert_eq!(of_stages, account.total().flops);
    }

    #[test]
    fn unfreezing_changes_the_price() {
        let frozen = "train.trainable = [\"h.2.*\"]\n";
        let (all, _) = account("train.tokens = 1000\n");
        let (part, _) = account(&format!(
            "train.tokens = 1000\n{frozen}train.unfreeze_at_tokens = 400\n"
        ));
        let (before, after) = (part.at(4), part.at(10));
        assert!(before.flops < all.at(4).flops);
        let rest = after.flops - before.flops;
        assert_eq!(rest, all.at(6).flops);
        assert_eq!(
            (before.layer_passes, all.at(4).layer_passes),
            (4.0 * 400.0, 6.0 * 400.0)
        );
    }
}
