//! A few passes on random tokens, timed: what the steps of a stage will take, and where a step's
//! time goes.

use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Int, Tensor};
use serde::Serialize;

use super::optimizer::{Optimizer, global_norm};
use super::{Stage, TrainConfig, loss_and_gradients, set_trainable};
use crate::checkpoint::Gpt2Config;
use crate::device::sync;
use crate::error::Result;
use crate::interrupt;
use crate::model::{Gpt2, weights};

/// Timed passes, after one that warms up.
pub const PASSES: u32 = 3;

/// Seconds that the parts of a training step take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Forward and backward pass of a token.
    pub token_s: f64,
    /// Update of all trained parameters, with the norm of their gradient.
    pub update_s: f64,
}

/// Times the last step of a stage on a random model of its shape, `sequences` of them in a pass;
/// `progress` is called after every pass.
///
/// # Errors
/// The device fails, or a signal arrived.
pub fn probe(
    config: &Gpt2Config,
    stage: &Stage,
    train: &TrainConfig,
    sequences: usize,
    device: &Device,
    progress: &dyn Fn(),
) -> Result<Probe> {
    let mut bench = Bench::new(config, train, sequences, device)?;
    bench.model = bench
        .model
        .map(|model| set_trainable(model, stage, stage.last()));
    let (mut passes, mut updates) = (0.0, 0.0);
    for pass in 0..=PASSES {
        interrupt::check("stopped while timing")?;
        let parts = bench.step(&stage.lr_scale, Clock::Parts)?;
        if pass > 0 {
            passes += parts.forward + parts.backward;
            updates += parts.clip + parts.optimizer;
        }
        progress();
    }
    let tokens = (sequences * train.context) as f64 * f64::from(PASSES);
    Ok(Probe {
        token_s: passes / tokens,
        update_s: updates / f64::from(PASSES),
    })
}

/// Seconds of the parts of a training step of one micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    /// Tokens brought to the device.
    pub data: f64,
    /// Forward pass and loss; with activations made again, in `backward`.
    pub forward: f64,
    /// Backward pass.
    pub backward: f64,
    /// Global norm of the gradient.
    pub clip: f64,
    /// AdamW.
    pub optimizer: f64,
}

impl Parts {
    /// The step.
    pub fn total(&self) -> f64 {
        self.data + self.forward + self.backward + self.clip + self.optimizer
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The device after every part, so that each has its own time: on a GPU this costs some.
    Parts,
    /// The device at the end of a step; all its time is in `optimizer`.
    Steps,
}

/// A random model in training on random tokens.
pub struct Bench {
    /// There but within a step, which updates it in place.
    model: Option<Gpt2>,
    optimizer: Optimizer,
    train: TrainConfig,
    config: Gpt2Config,
    shape: [usize; 2],
    device: Device,
}

impl Bench {
    /// A model of a shape on a device with gradients, `sequences` of the recipe's context in a
    /// micro-batch.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(
        config: &Gpt2Config,
        train: &TrainConfig,
        sequences: usize,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            model: Some(
                weights::init(config, config.n_layer, 0, device)?.with_precision(train.precision()),
            ),
            optimizer: Optimizer::new(train.adamw()),
            train: train.clone(),
            config: config.clone(),
            shape: [sequences, train.context],
            device: device.clone(),
        })
    }

    /// A step of training.
    ///
    /// # Errors
    /// The device fails.
    pub fn step(
        &mut self,
        lr_scale: &std::collections::BTreeMap<String, f64>,
        clock: Clock,
    ) -> Result<Parts> {
        let mut parts = Parts::default();
        let device = self.device.clone();
        sync(&device)?;
        let mut started = Instant::now();
        let mut lap = |part: &mut f64, last: bool| -> Result<()> {
            if last || clock == Clock::Parts {
                sync(&device)?;
                *part = started.elapsed().as_secs_f64();
                started = Instant::now();
            }
            Ok(())
        };
        let model = self.model.take().expect("it is put back after every step");
        let (inputs, targets) = (self.ids(), self.ids());
        lap(&mut parts.data, false)?;
        let grads = if self.train.gradient_checkpointing {
            let (_, grads) = loss_and_gradients(&model, inputs, targets, 1.0, &self.train);
            grads
        } else {
            let loss = model.loss(inputs, targets);
            lap(&mut parts.forward, false)?;
            GradientsParams::from_grads(loss.backward(), &model)
        };
        lap(&mut parts.backward, false)?;
        let norm = global_norm(&model, &grads)?;
        lap(&mut parts.clip, false)?;
        let scale = (1.0 / (norm + 1e-6)).min(1.0);
        let model = self.optimizer.step(model, grads, 0.0, scale, lr_scale);
        self.model = Some(model);
        lap(&mut parts.optimizer, true)?;
        Ok(parts)
    }

    /// Random tokens. [B, T]
    fn ids(&self) -> Tensor<2, Int> {
        let vocabulary = Distribution::Uniform(0.0, self.config.vocab_size as f64);
        Tensor::<2>::random(self.shape, vocabulary, &self.device).int()
    }
}
