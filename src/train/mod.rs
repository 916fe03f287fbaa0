//! The training loop: one model, one stream of batches, one stage.
//!
//! The unit is the optimizer step of `batch_tokens` tokens. Everything a step does is a
//! function of the recipe, the seed and the step's number, so that a run that was stopped and
//! resumed is the run that was not.

mod config;
pub mod optimizer;
pub mod probe;
mod recompute;
pub mod schedule;
pub mod select;
pub mod state;
pub mod wakeup;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use burn::module::{Module, ParamGroup};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

pub(crate) use self::config::{MAX_TOKENS, check_rate};
pub use self::config::{NonFinite, ScheduleOver, TrainConfig};
use self::optimizer::{Optimizer, global_norm};
use self::schedule::Schedule;
use self::wakeup::WakeUp;
use crate::data::Batches;
use crate::device::{is_cpu, read_scalar};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::kernels;
use crate::model::Gpt2;

/// Steps in a row that may be skipped before a run is given up.
const MAX_SKIPPED: u64 = 10;

/// A stretch of steps with one schedule and one set of trainable parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Number in the run, from 0.
    pub index: usize,
    /// Steps done before it.
    pub first_step: u64,
    /// Its own steps.
    pub steps: u64,
    /// Learning rate.
    pub schedule: Schedule,
    /// Tokens of the run that the schedule does not count.
    pub schedule_from: u64,
    /// Parameters that are trained.
    pub trainable: BTreeSet<String>,
    /// From this many steps done on, all are.
    pub unfreeze_at: Option<u64>,
    /// Factors on the learning rate; 1 for parameters that are not named.
    pub lr_scale: BTreeMap<String, f64>,
    /// Steps at its start that the wake-up check watches.
    pub wakeup_steps: u64,
}

impl Stage {
    /// Steps done when it ends.
    pub fn end(&self) -> u64 {
        self.first_step + self.steps
    }

    /// Steps done before its last one.
    pub fn last(&self) -> u64 {
        self.end() - 1
    }

    /// The learning rate of the step that follows `step` steps.
    pub fn lr(&self, step: u64, batch_tokens: u64) -> f64 {
        let tokens = (step * batch_tokens).saturating_sub(self.schedule_from);
        self.schedule.at(tokens, batch_tokens)
    }

    /// Whether the step after `step` steps trains the parameter.
    pub fn trains(&self, name: &str, step: u64) -> bool {
        self.is_unfrozen(step) || self.trainable.contains(name)
    }

    fn is_unfrozen(&self, step: u64) -> bool {
        self.unfreeze_at.is_some_and(|at| step >= at)
    }

    fn watches(&self, step: u64) -> bool {
        step < self.first_step + self.wakeup_steps
    }
}

/// What one optimizer step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Number of the stage, from 1.
    pub stage: usize,
    /// Mean training loss over the step's batch, before the update.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Whether the update was left out because something was not finite.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// The wake-up check, in the first steps after a growth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wakeup: Option<WakeUp>,
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
    /// Sequences to a pass, where memory did not hold what the recipe asks for.
    pub micro_batch: Option<usize>,
    /// Steps whose update is left out, counted from 0: they diverged, and the run was rolled
    /// back to before them.
    pub left_out: BTreeSet<u64>,
}

/// Somebody who watches a run, and saves and evaluates it.
pub trait Observer {
    /// A step was given up for want of memory, and is taken again with fewer sequences to a
    /// pass; so are all that follow.
    fn fewer_sequences(&mut self, step: u64, micro_batch: usize) -> Result<()>;

    /// After every step.
    fn after_step(&mut self, report: &StepReport, trainee: &Trainee) -> Result<()>;

    /// After a signal: saves, and says so in the error that ends the run.
    fn stop(&mut self, trainee: &Trainee) -> Error;
}

/// Trains from `trainee.step` to the end of the stage.
///
/// Where the device's memory does not hold a micro-batch, it is halved until it does.
///
/// # Errors
/// [`Error::Diverged`] if a loss or gradient is not finite and is not to be skipped: the model
/// is as it was before that step. [`Error::Interrupted`] after a signal: the step under way is
/// given up, and what was reached before it is saved.
pub fn train(
    mut trainee: Trainee,
    stage: &Stage,
    batches: &Batches,
    config: &TrainConfig,
    device: &Device,
    observer: &mut dyn Observer,
) -> Result<Trainee> {
    let mut skipped_in_a_row = 0;
    let mut micro_batch = trainee.micro_batch.unwrap_or(config.micro_batch());
    let model = trainee.model.with_precision(config.precision());
    trainee.model = set_trainable(model, stage, trainee.step);
    trainee.optimizer.make_room(&trainee.model)?;
    tune_head(&trainee.model, config, device)?;
    while trainee.step < stage.end() {
        let started = Instant::now();
        if stage.unfreeze_at == Some(trainee.step) {
            trainee.model = set_trainable(trainee.model, stage, trainee.step);
            trainee.optimizer.make_room(&trainee.model)?;
        }
        let passes = |micro_batch| gradient(&trainee, batches, config, micro_batch, device);
        let found = fitting(&mut micro_batch, passes, |fewer| {
            device.memory_cleanup();
            observer.fewer_sequences(trainee.step, fewer)
        })?;
        let Some(gradient) = found else {
            return Err(observer.stop(&trainee));
        };
        trainee.micro_batch = (micro_batch < config.micro_batch()).then_some(micro_batch);
        let lr = stage.lr(trainee.step, config.batch_tokens);
        let (loss, grad_norm) = (gradient.loss, gradient.norm);
        let skipped = !gradient.is_finite() || trainee.left_out.contains(&trainee.step);
        skipped_in_a_row = if skipped { skipped_in_a_row + 1 } else { 0 };
        if !gradient.is_finite() && !may_skip(config, &trainee, skipped_in_a_row) {
            return Err(gradient.diverged(trainee.step));
        }
        let mut wakeup = None;
        if !skipped {
            let updated = update(trainee, gradient, stage, config, lr);
            (trainee, wakeup) = updated.map_err(|error| match error {
                Error::OutOfMemory { .. } => error.with_hint(
                    "a smaller train.micro_batch needs less, and so does train.wakeup_steps = 0",
                ),
                error => error,
            })?;
        }
        trainee.step += 1;
        observer.after_step(
            &StepReport {
                step: trainee.step,
                tokens: trainee.step * config.batch_tokens,
                stage: stage.index + 1,
                loss,
                grad_norm,
                lr,
                skipped,
                wakeup,
                elapsed_s: started.elapsed().as_secs_f64(),
            },
            &trainee,
        )?;
    }
    Ok(trainee)
}

/// Runs the head's products once, on a GPU, while there is memory for all of their variants.
///
/// They have the same shape for every micro-batch, and a shape that is met for the first time
/// when memory has run out is left with a slow variant for good.
fn tune_head(model: &Gpt2, config: &TrainConfig, device: &Device) -> Result<()> {
    if is_cpu(device) {
        return Ok(());
    }
    let tokens = config.micro_batch() * config.context;
    let [rows, d] = [
        tokens.min(kernels::GPU_LOGIT_ROWS),
        model.wte.weight.dims()[1],
    ];
    let hidden: Tensor<2> = Tensor::zeros([rows, d], device).require_grad();
    let hidden = hidden.cast(config.precision().dtype());
    let loss = kernels::linear_cross_entropy(hidden, model.head(), Tensor::zeros([rows], device));
    let found = loss.clone().inner();
    drop(loss.backward());
    read_scalar(found).map(drop)
}

/// Calls `passes`, with half as many sequences each time that memory did not suffice; `halved`
/// hears of it.
///
/// # Errors
/// Those of both; [`Error::OutOfMemory`] if even one sequence is too many.
fn fitting<T>(
    micro_batch: &mut usize,
    passes: impl Fn(usize) -> Result<T>,
    mut halved: impl FnMut(usize) -> Result<()>,
) -> Result<T> {
    loop {
        match passes(*micro_batch) {
            Err(Error::OutOfMemory { .. }) if *micro_batch > 1 => {
                *micro_batch = micro_batch.div_ceil(2);
                halved(*micro_batch)?;
            }
            Err(error @ Error::OutOfMemory { .. }) => {
                return Err(error.with_hint(
                    "one sequence is too much: gradient_checkpointing = true, precision = \"bf16\" or a smaller context needs less",
                ));
            }
            done => return done,
        }
    }
}

/// Whether a step that is not finite is passed over.
fn may_skip(config: &TrainConfig, trainee: &Trainee, in_a_row: u64) -> bool {
    let wanted = match config.on_non_finite {
        NonFinite::Stop => false,
        NonFinite::Skip => true,
        NonFinite::RollBack => trainee.left_out.contains(&trainee.step),
    };
    wanted && in_a_row <= MAX_SKIPPED
}

/// Takes one step of the optimizer, watched where the stage asks for it.
fn update(
    trainee: Trainee,
    gradient: Gradient,
    stage: &Stage,
    config: &TrainConfig,
    lr: f64,
) -> Result<(Trainee, Option<WakeUp>)> {
    let before = || -> Result<_> {
        let seen = WakeUp::before(&trainee.model, &gradient.grads, gradient.inputs.clone())?;
        Ok((seen, trainee.model.clone()))
    };
    let watched = stage.watches(trainee.step).then(before).transpose()?;
    let scale = clip_scale(config.grad_clip, gradient.norm);
    let Trainee {
        model,
        mut optimizer,
        ..
    } = trainee;
    let model = optimizer.step(model, gradient.grads, lr, scale, &stage.lr_scale);
    let wakeup = watched.map(|(seen, before)| seen.after(&before, &model));
    let wakeup = wakeup.transpose()?;
    let trainee = Trainee {
        model,
        optimizer,
        ..trainee
    };
    Ok((trainee, wakeup))
}

/// `torch.nn.utils.clip_grad_norm_`'s factor.
fn clip_scale(grad_clip: f64, norm: f64) -> f64 {
    if grad_clip > 0.0 {
        (grad_clip / (norm + 1e-6)).min(1.0)
    } else {
        1.0
    }
}

/// Mean loss and gradient over the batch of one step.
struct Gradient {
    loss: f64,
    norm: f64,
    grads: GradientsParams,
    /// Inputs of the first micro-batch `[b, T]`.
    inputs: Tensor<2, Int>,
}

impl Gradient {
    fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.norm.is_finite()
    }

    fn diverged(&self, step: u64) -> Error {
        let message = if self.loss.is_finite() {
            format!("the gradient's norm is {}", self.norm)
        } else {
            format!("the loss is {}", self.loss)
        };
        Error::Diverged { step, message }
    }
}

/// The gradient of the next step, `micro_batch` sequences at a time; none if a signal arrived.
fn gradient(
    trainee: &Trainee,
    batches: &Batches,
    config: &TrainConfig,
    micro_batch: usize,
    device: &Device,
) -> Result<Option<Gradient>> {
    let sequences = config.sequences();
    let first = trainee.step * sequences as u64;
    let mut sum = None;
    let (mut losses, mut inputs_of_first) = (Vec::new(), None);
    for start in (0..sequences).step_by(micro_batch) {
        if interrupt::requested() {
            return Ok(None);
        }
        let count = micro_batch.min(sequences - start);
        let (inputs, targets) = batches.get(first + start as u64, count, device)?;
        inputs_of_first.get_or_insert_with(|| inputs.clone());
        // Gradients are added up, so every micro-batch brings its share of the mean.
        let share = count as f64 / sequences as f64;
        let (loss, grads) = loss_and_gradients(&trainee.model, inputs, targets, share, config);
        losses.push((loss, share));
        sum = Some(match sum {
            None => grads,
            Some(sum) => optimizer::accumulate(&trainee.model, sum, grads),
        });
    }
    let mut loss = 0.0;
    for (part, share) in losses {
        loss += share * read_scalar(part)?;
    }
    let grads = sum.expect("a batch has a sequence");
    Ok(Some(Gradient {
        loss,
        norm: global_norm(&trainee.model, &grads)?,
        grads,
        inputs: inputs_of_first.expect("a batch has a sequence"),
    }))
}

/// The mean loss of a micro-batch and the gradients of its `share` of the step's.
fn loss_and_gradients(
    model: &Gpt2,
    inputs: Tensor<2, Int>,
    targets: Tensor<2, Int>,
    share: f64,
    config: &TrainConfig,
) -> (Tensor<1>, GradientsParams) {
    if config.gradient_checkpointing {
        return recompute::loss_and_gradients(model, inputs, targets, share);
    }
    let loss = model.loss(inputs, targets);
    let found = loss.clone().inner();
    let grads = if share == 1.0 { loss } else { loss * share }.backward();
    (found, GradientsParams::from_grads(grads, model))
}

/// Marks which parameters get gradients in the step after `step` steps.
fn set_trainable(model: Gpt2, stage: &Stage, step: u64) -> Gpt2 {
    if stage.is_unfrozen(step) {
        return model.set_require_grad(true);
    }
    let trainable = ParamGroup::from_paths(stage.trainable.iter().collect());
    model
        .set_require_grad(false)
        .set_require_grad_group(trainable, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that holds `room` sequences.
    fn pass(room: usize) -> impl Fn(usize) -> Result<usize> {
        move |sequences| {
            if sequences > room {
                return Err(Error::OutOfMemory {
                    message: String::new(),
                    hint: None,
                });
            }
            Ok(sequences)
        }
    }

    #[test]
    fn a_micro_batch_halves_until_it_fits() {
        let (mut micro_batch, mut heard) = (12, Vec::new());
        let done = fitting(&mut micro_batch, pass(2), |fewer| {
            heard.push(fewer);
            Ok(())
        });
        assert_eq!((done.unwrap(), micro_batch, heard), (2, 2, vec![6, 3, 2]));
    }

    #[test]
    fn one_sequence_too_many_is_an_error_that_says_what_to_do() {
        let error = fitting(&mut 4, pass(0), |_| Ok(())).unwrap_err();
        assert_eq!(error.exit_code(), 6);
        assert!(error.hint().unwrap().contains("gradient_checkpointing"));
    }

    #[test]
    fn other_errors_are_not_retried() {
        let wrong = |_| Err::<(), _>(Error::usage("no"));
        assert!(matches!(
            fitting(&mut 4, wrong, |_| Ok(())),
            Err(Error::Usage { .. })
        ));
    }
}
