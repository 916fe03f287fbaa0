//! The training loop: one model, one stream of batches, one schedule.
//!
//! The unit is the optimizer step of `batch_tokens` tokens. Everything a step does is a
//! function of the recipe, the seed and the step's number, so that a run that was stopped and
//! resumed is the run that was not.

pub mod optimizer;
pub mod schedule;
pub mod state;

use std::time::Instant;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use self::optimizer::{AdamW, Optimizer, global_norm};
use self::schedule::Cosine;
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::Gpt2;

/// Bounds that keep every product of counts within 64 bits.
const MAX_TOKENS: u64 = 1_000_000_000_000_000;
const MAX_BATCH_TOKENS: u64 = 1 << 32;
/// Bound on the tokens of one forward pass.
const MAX_PASS_TOKENS: u64 = 1 << 24;

/// The `[train]` table of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Tokens to train on, rounded up to whole steps.
    pub tokens: u64,
    /// Tokens per optimizer step: a multiple of `micro_batch` · `context`.
    pub batch_tokens: u64,
    /// Tokens per sequence, at most `n_positions`.
    pub context: usize,
    /// Sequences per forward pass; only memory and speed depend on it.
    pub micro_batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Final learning rate; a tenth of `lr` unless given.
    pub min_lr: Option<f64>,
    /// Tokens of linear warm-up.
    #[serde(default)]
    pub warmup_tokens: u64,
    /// Largest global norm of the gradient; 0 turns clipping off.
    #[serde(default = "one")]
    pub grad_clip: f64,
    /// λ of AdamW, on matrices only.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// β₁ of AdamW.
    #[serde(default = "default_beta1")]
    pub beta1: f64,
    /// β₂ of AdamW.
    #[serde(default = "default_beta2")]
    pub beta2: f64,
    /// Tokens between validation losses; none unless given.
    pub eval_every_tokens: Option<u64>,
    /// Tokens between checkpoints; only the last unless given.
    pub save_every_tokens: Option<u64>,
    /// Checkpoints kept, at least 1.
    #[serde(default = "two")]
    pub keep: usize,
}

fn one() -> f64 {
    1.0
}

fn two() -> usize {
    2
}

fn default_weight_decay() -> f64 {
    AdamW::default().weight_decay
}

fn default_beta1() -> f64 {
    AdamW::default().beta1
}

fn default_beta2() -> f64 {
    AdamW::default().beta2
}

impl TrainConfig {
    /// Checks the numbers against each other and the model.
    ///
    /// # Errors
    /// Says which key is wrong, and what would be right.
    pub fn check(&self, n_positions: usize) -> Result<(), String> {
        let sequence_tokens = self.micro_batch.saturating_mul(self.context) as u64;
        let positive = [
            ("tokens", self.tokens),
            ("batch_tokens", self.batch_tokens),
            ("context", self.context as u64),
            ("micro_batch", self.micro_batch as u64),
            ("keep", self.keep as u64),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("train.{key} must be at least 1"));
        }
        if sequence_tokens > MAX_PASS_TOKENS {
            return Err(format!(
                "train.micro_batch * context = {sequence_tokens} is more than {MAX_PASS_TOKENS} tokens in one pass"
            ));
        }
        let largest = [
            ("tokens", self.tokens, MAX_TOKENS),
            ("batch_tokens", self.batch_tokens, MAX_BATCH_TOKENS),
        ];
        if let Some((key, value, max)) = largest.iter().find(|(_, value, max)| value > max) {
            return Err(format!("train.{key} = {value} is more than {max}"));
        }
        if self.context > n_positions {
            return Err(format!(
                "train.context = {} exceeds the model's n_positions = {n_positions}",
                self.context
            ));
        }
        if !self.batch_tokens.is_multiple_of(sequence_tokens) {
            return Err(format!(
                "train.batch_tokens = {} is not a multiple of micro_batch * context = {sequence_tokens}",
                self.batch_tokens
            ));
        }
        let rates = [
            ("lr", self.lr),
            ("min_lr", self.min_lr()),
            ("grad_clip", self.grad_clip),
            ("weight_decay", self.weight_decay),
        ];
        if let Some((key, value)) = rates
            .iter()
            .find(|(_, value)| !value.is_finite() || *value < 0.0)
        {
            return Err(format!("train.{key} = {value} must be a number from 0"));
        }
        if let Some((key, value)) = [("beta1", self.beta1), ("beta2", self.beta2)]
            .iter()
            .find(|(_, value)| !(0.0..1.0).contains(value))
        {
            return Err(format!(
                "train.{key} = {value} must be at least 0 and below 1"
            ));
        }
        Ok(())
    }

    /// Optimizer steps in all.
    pub fn steps(&self) -> u64 {
        self.tokens.div_ceil(self.batch_tokens)
    }

    /// Forward passes per step.
    pub fn grad_accum(&self) -> u64 {
        self.batch_tokens / (self.micro_batch * self.context) as u64
    }

    fn min_lr(&self) -> f64 {
        self.min_lr.unwrap_or(self.lr / 10.0)
    }

    /// The learning-rate schedule.
    pub fn schedule(&self) -> Cosine {
        Cosine {
            lr: self.lr,
            min_lr: self.min_lr(),
            warmup_steps: self.warmup_tokens.div_ceil(self.batch_tokens),
            total_steps: self.steps(),
        }
    }

    /// The constants of the optimizer.
    pub fn adamw(&self) -> AdamW {
        AdamW {
            beta1: self.beta1,
            beta2: self.beta2,
            weight_decay: self.weight_decay,
            ..AdamW::default()
        }
    }

    /// Whether a thing done every `every` tokens is due after `step` steps.
    pub fn is_due(&self, every: Option<u64>, step: u64) -> bool {
        every.is_some_and(|every| {
            step * self.batch_tokens / every.max(1) > (step - 1) * self.batch_tokens / every.max(1)
        })
    }
}

/// What one optimizer step did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Mean training loss over the step's batch, before the update.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Wall time of the step in seconds.
    pub elapsed_s: f64,
}

/// Everything training changes.
#[derive(Debug)]
pub struct Trainee {
    /// The model, on a device with autodiff.
    pub model: Gpt2,
    /// Its optimizer.
    pub optimizer: Optimizer,
    /// Steps done.
    pub step: u64,
}

/// Somebody who watches a run, and saves and evaluates it.
pub trait Observer {
    /// After every step.
    fn after_step(&mut self, report: &StepReport, trainee: &Trainee) -> Result<()>;

    /// When the run ends, or is about to stop for a signal.
    fn save(&mut self, trainee: &Trainee) -> Result<()>;
}

/// Trains from `trainee.step` to the end of the config.
///
/// # Errors
/// [`Error::Diverged`] if a loss or gradient is not finite: the model is as it was before that
/// step. [`Error::Interrupted`] after a signal: the step under way is given up, and what was
/// reached before it is saved.
pub fn train(
    mut trainee: Trainee,
    batches: &mut Batches,
    config: &TrainConfig,
    device: &Device,
    observer: &mut dyn Observer,
) -> Result<Trainee> {
    let schedule = config.schedule();
    while trainee.step < config.steps() {
        let started = Instant::now();
        let lr = schedule.at(trainee.step);
        let Some((loss, grads)) = gradients(&trainee, batches, config, device)? else {
            observer.save(&trainee)?;
            let message = format!("saved at step {} of {}", trainee.step, config.steps());
            let hint = Some("the same command goes on from there".into());
            return Err(Error::Interrupted { message, hint });
        };
        let grad_norm = global_norm(&trainee.model, &grads);
        if !grad_norm.is_finite() {
            let message = format!("the gradient's norm is {grad_norm}");
            return Err(Error::Diverged {
                step: trainee.step,
                message,
            });
        }
        let clip = config.grad_clip / (grad_norm + 1e-6);
        let scale = if config.grad_clip > 0.0 {
            clip.min(1.0)
        } else {
            1.0
        };
        trainee.model = trainee.optimizer.step(trainee.model, grads, lr, scale);
        trainee.step += 1;
        let tokens = trainee.step * config.batch_tokens;
        let elapsed_s = started.elapsed().as_secs_f64();
        observer.after_step(
            &StepReport {
                step: trainee.step,
                tokens,
                loss,
                grad_norm,
                lr,
                elapsed_s,
            },
            &trainee,
        )?;
    }
    observer.save(&trainee)?;
    Ok(trainee)
}

/// Mean loss and gradient over the micro-batches of the next step; none if a signal arrived.
fn gradients(
    trainee: &Trainee,
    batches: &mut Batches,
    config: &TrainConfig,
    device: &Device,
) -> Result<Option<(f64, GradientsParams)>> {
    let accum = config.grad_accum();
    let mut sum = GradientsAccumulator::new();
    let mut losses = Vec::new();
    for micro_step in 0..accum {
        if interrupt::requested() {
            return Ok(None);
        }
        let first = (trainee.step * accum + micro_step) * config.micro_batch as u64;
        let (inputs, targets) = batches.get(first, config.micro_batch, device);
        let loss = trainee.model.loss(inputs, targets);
        losses.push(loss.clone().inner());
        // `accumulate` adds, so every micro-batch brings its share of the mean.
        let grads = (loss / accum as f64).backward();
        sum.accumulate(
            &trainee.model,
            GradientsParams::from_grads(grads, &trainee.model),
        );
    }
    let losses = losses
        .into_iter()
        .map(|loss| f64::from(loss.into_scalar::<f32>()));
    let loss = losses.sum::<f64>() / accum as f64;
    if !loss.is_finite() {
        return Err(Error::Diverged {
            step: trainee.step,
            message: format!("the loss is {loss}"),
        });
    }
    Ok(Some((loss, sum.grads())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainConfig {
        toml::from_str("tokens = 1000\nbatch_tokens = 64\ncontext = 8\nmicro_batch = 2\nlr = 1e-3\nwarmup_tokens = 100").unwrap()
    }

    #[test]
    fn steps_and_accumulation_follow_from_tokens() {
        let config = config();
        assert_eq!(
            (
                config.steps(),
                config.grad_accum(),
                config.schedule().warmup_steps
            ),
            (16, 4, 2)
        );
        assert_eq!(config.check(8), Ok(()));
    }

    #[test]
    fn inconsistent_numbers_are_named() {
        let bad = |change: fn(&mut TrainConfig)| {
            let mut config = config();
            change(&mut config);
            config.check(8).unwrap_err()
        };
        assert!(bad(|c| c.batch_tokens = 65).contains("batch_tokens"));
        assert!(bad(|c| c.context = 9).contains("n_positions"));
        assert!(bad(|c| c.lr = f64::NAN).contains("train.lr"));
        assert!(bad(|c| c.micro_batch = 0).contains("micro_batch"));
        assert!(bad(|c| c.tokens = u64::MAX).contains("train.tokens"));
        assert!(bad(|c| c.batch_tokens = u64::MAX - 63).contains("batch_tokens"));
        assert!(bad(|c| c.beta2 = 1.0).contains("beta2"));
    }

    #[test]
    fn periodic_work_is_due_when_a_multiple_is_passed() {
        let config = config();
        let due: Vec<u64> = (1..=8)
            .filter(|&step| config.is_due(Some(200), step))
            .collect();
        assert_eq!(due, [4, 7]);
        assert!(!config.is_due(None, 5));
    }
}
