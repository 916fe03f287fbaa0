//! The `[train]` table of a recipe.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::optimizer::{AdamW, OptimizerPolicy};
use super::schedule::Shape;
use crate::device::{DeviceSpec, Precision};

/// Bounds that keep every product of counts within 64 bits.
pub(crate) const MAX_TOKENS: u64 = 1_000_000_000_000_000;
const MAX_BATCH_TOKENS: u64 = 1 << 32;
/// Bound on the tokens of one forward pass.
const MAX_PASS_TOKENS: u64 = 1 << 24;
/// Tokens of a forward pass where the recipe leaves the micro-batch open.
const PASS_TOKENS: usize = 4096;
/// The same on a GPU, where it halves if memory does not hold it.
const GPU_PASS_TOKENS: usize = 16_384;

/// What happens when a loss or a gradient is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NonFinite {
    /// The run stops; its last checkpoint stays.
    #[default]
    Stop,
    /// The step's update is left out.
    Skip,
    /// The run goes back to its last checkpoint, and leaves the step out when it comes again.
    RollBack,
}

/// What a learning-rate schedule spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleOver {
    /// Every stage has a schedule of its own, warm-up included.
    #[default]
    Stage,
    /// One schedule runs through all stages.
    Run,
}

/// The `[train]` table: what holds for the whole run, and what stages take where they say
/// nothing themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Tokens to train on, rounded up to whole steps. Not with `[[stage]]`, which say it each.
    pub tokens: Option<u64>,
    /// Tokens per optimizer step: a multiple of `context`.
    pub batch_tokens: u64,
    /// Tokens per sequence, at most `n_positions`.
    pub context: usize,
    /// Sequences per forward pass at most; only memory, speed and rounding depend on it.
    pub micro_batch: Option<usize>,
    /// What matrix products and attention compute in: `f32` or `bf16`. Weights, moments and
    /// gradients are f32. `bf16` on CUDA and `f32` elsewhere, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Whether the backward pass runs every block again, instead of keeping its activations:
    /// less memory, about a third more time, the same gradients.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// Peak learning rate.
    pub lr: f64,
    /// Final learning rate; a tenth of `lr` unless given.
    pub min_lr: Option<f64>,
    /// Shape of the schedule: `constant`, `linear`, `cosine` or `wsd`.
    #[serde(default)]
    pub schedule: Shape,
    /// Whether a schedule spans a stage or the run.
    #[serde(default)]
    pub schedule_over: ScheduleOver,
    /// Tokens of linear warm-up.
    #[serde(default)]
    pub warmup_tokens: u64,
    /// Tokens of decay at the end of `wsd`; a tenth of the stage unless given.
    pub decay_tokens: Option<u64>,
    /// Factors on the learning rate by selector, as in `{ new = 0.5 }`.
    #[serde(default)]
    pub lr_scale: BTreeMap<String, f64>,
    /// What is trained: see [`select`](super::select).
    #[serde(default = "all")]
    pub trainable: Vec<String>,
    /// From this many tokens of a stage on, everything is trained.
    pub unfreeze_at_tokens: Option<u64>,
    /// What becomes of the optimizer's moments at a growth; `zero-new` unless given, and
    /// `fresh` at the start of the run.
    pub optimizer: Option<OptimizerPolicy>,
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
    /// `stop`, `skip` or `roll-back`.
    #[serde(default)]
    pub on_non_finite: NonFinite,
    /// Steps after a growth that the wake-up check watches.
    #[serde(default = "ten")]
    pub wakeup_steps: u64,
    /// Tokens between validation losses; none unless given.
    pub eval_every_tokens: Option<u64>,
    /// Tokens between checkpoints; only the last of a stage unless given.
    pub save_every_tokens: Option<u64>,
    /// Checkpoints kept, at least 1.
    #[serde(default = "two")]
    pub keep: usize,
}

fn all() -> Vec<String> {
    vec!["all".to_owned()]
}

fn one() -> f64 {
    1.0
}

fn two() -> usize {
    2
}

fn ten() -> u64 {
    10
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

/// Refuses a rate or factor that is not 0 or more.
pub(crate) fn check_rate(key: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(format!("{key} = {value} must be 0 or more"))
    }
}

impl TrainConfig {
    /// Steps of one micro-batch, with everything else as where nothing is given.
    pub fn for_batch(micro_batch: usize, context: usize) -> Self {
        let tokens = micro_batch.saturating_mul(context) as u64;
        let text = format!("tokens = 1\nbatch_tokens = {tokens}\ncontext = {context}\nlr = 1e-4");
        let config: Self = toml::from_str(&text).expect("a sound table");
        Self {
            micro_batch: Some(micro_batch),
            ..config
        }
    }

    /// Checks the numbers against each other and the model.
    ///
    /// # Errors
    /// Says which key is wrong, and what would be right.
    pub fn check(&self, n_positions: usize) -> Result<(), String> {
        let positive = [
            ("tokens", self.tokens.unwrap_or(1)),
            ("batch_tokens", self.batch_tokens),
            ("context", self.context as u64),
            ("micro_batch", self.micro_batch.unwrap_or(1) as u64),
            ("keep", self.keep as u64),
            ("eval_every_tokens", self.eval_every_tokens.unwrap_or(1)),
            ("save_every_tokens", self.save_every_tokens.unwrap_or(1)),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("train.{key} must be at least 1"));
        }
        let pass_tokens = (self.micro_batch.unwrap_or(1)).saturating_mul(self.context) as u64;
        if pass_tokens > MAX_PASS_TOKENS {
            return Err(format!(
                "train.micro_batch * context = {pass_tokens} is more than {MAX_PASS_TOKENS} tokens in one pass"
            ));
        }
        let largest = [
            ("tokens", self.tokens.unwrap_or(1), MAX_TOKENS),
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
        if !self.batch_tokens.is_multiple_of(self.context as u64) {
            return Err(format!(
                "train.batch_tokens = {} is not a multiple of context = {}",
                self.batch_tokens, self.context
            ));
        }
        self.check_numbers()
    }

    fn check_numbers(&self) -> Result<(), String> {
        let rates = [
            ("lr", self.lr),
            ("min_lr", self.min_lr.unwrap_or(0.0)),
            ("grad_clip", self.grad_clip),
            ("weight_decay", self.weight_decay),
        ];
        for (key, value) in rates {
            check_rate(key, value).map_err(|message| format!("train.{message}"))?;
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

    /// Sequences per optimizer step.
    pub fn sequences(&self) -> usize {
        usize::try_from(self.batch_tokens / self.context as u64).expect("checked against a bound")
    }

    /// Sequences per forward pass.
    pub fn micro_batch(&self) -> usize {
        let most = self.micro_batch.unwrap_or(PASS_TOKENS / self.context);
        most.clamp(1, self.sequences())
    }

    /// With what the device decides where nothing is given: the precision, and on a GPU larger
    /// micro-batches. Also of a config that was not checked.
    pub fn on(&self, device: DeviceSpec) -> Self {
        let tokens = if device.is_cpu() {
            PASS_TOKENS
        } else {
            GPU_PASS_TOKENS
        };
        Self {
            precision: Some(self.precision.unwrap_or(device.precision())),
            micro_batch: self
                .micro_batch
                .or(Some((tokens / self.context.max(1)).max(1))),
            ..self.clone()
        }
    }

    /// What is computed in.
    pub fn precision(&self) -> Precision {
        self.precision.unwrap_or_default()
    }

    /// Forward passes per step.
    pub fn grad_accum(&self) -> usize {
        self.sequences().div_ceil(self.micro_batch())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainConfig {
        toml::from_str("tokens = 1000\nbatch_tokens = 64\ncontext = 8\nmicro_batch = 3\nlr = 1e-3")
            .unwrap()
    }

    #[test]
    fn accumulation_follows_from_tokens() {
        let config = config();
        assert_eq!(config.check(8), Ok(()));
        assert_eq!(
            (
                config.sequences(),
                config.micro_batch(),
                config.grad_accum()
            ),
            (8, 3, 3)
        );
        let open = TrainConfig {
            micro_batch: None,
            ..config
        };
        assert_eq!((open.micro_batch(), open.grad_accum()), (8, 1));
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
        assert!(bad(|c| c.micro_batch = Some(0)).contains("micro_batch"));
        assert!(bad(|c| c.tokens = Some(u64::MAX)).contains("train.tokens"));
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
