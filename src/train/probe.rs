//! A few passes on random tokens, timed: what the steps of a stage will take.

use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor};

use super::optimizer::{Optimizer, global_norm};
use super::{Stage, TrainConfig, set_trainable};
use crate::checkpoint::Gpt2Config;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::weights;

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
    let model = weights::init(config, config.n_layer, 0, device)?;
    let mut model = set_trainable(model, stage, stage.last());
    let mut optimizer = Optimizer::new(train.adamw());
    let (mut passes, mut updates) = (0.0, 0.0);
    for pass in 0..=PASSES {
        interrupt::check("stopped while timing")?;
        let ids = || {
            let vocabulary = Distribution::Uniform(0.0, config.vocab_size as f64);
            Tensor::<2>::random([sequences, train.context], vocabulary, device).int() // [B, T]
        };
        let (inputs, targets) = (ids(), ids());
        sync(device)?;
        let started = Instant::now();
        let loss = model.loss(inputs, targets);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        sync(device)?;
        let passed = started.elapsed().as_secs_f64();
        let _ = global_norm(&model, &grads);
        model = optimizer.step(model, grads, 0.0, 1.0, &stage.lr_scale);
        sync(device)?;
        if pass > 0 {
            passes += passed;
            updates += started.elapsed().as_secs_f64() - passed;
        }
        progress();
    }
    let tokens = (sequences * train.context) as f64 * f64::from(PASSES);
    Ok(Probe {
        token_s: passes / tokens,
        update_s: updates / f64::from(PASSES),
    })
}

fn sync(device: &Device) -> Result<()> {
    device.sync().map_err(|e| Error::Device {
        message: format!("the device failed: {e}"),
        hint: None,
    })
}
