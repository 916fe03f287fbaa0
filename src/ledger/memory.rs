//! Memory of training.

use serde::Serialize;

use super::Trains;
use super::flops::{Pass, head_name};
use crate::checkpoint::Gpt2Config;
use crate::checkpoint::layout;

/// Bytes of an f32.
const F32: u64 = 4;

/// What one forward and backward pass takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    /// B, sequences.
    pub sequences: usize,
    /// T, tokens per sequence.
    pub context: usize,
    /// Rows of logits that exist at a time.
    pub logit_rows: usize,
    /// Whether gradients of several passes are summed.
    pub accumulates: bool,
    /// Whether fused kernels run, which keep no attention weights, and one copy of the logits.
    pub fused: bool,
    /// Bytes of a value between layers: 4, or 2 in bf16.
    pub value_bytes: u64,
    /// Whether activations are made again, block by block, in the backward pass.
    pub recompute: bool,
}

/// Bytes, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Every parameter.
    pub weights: u64,
    /// Gradients of trained parameters in one pass.
    pub gradients: u64,
    /// Their sum over the passes of a step, if there are several.
    pub gradient_sum: u64,
    /// AdamW's two moments of trained parameters.
    pub moments: u64,
    /// What the blocks and the last LayerNorm keep for the backward pass.
    pub activations: u64,
    /// Hidden states, logits and their gradients around the loss.
    pub head: u64,
}

impl Memory {
    /// The most that exists at a time: activations go as gradients come.
    pub fn peak(&self) -> u64 {
        let pass = self
            .gradients
            .max(self.activations.saturating_add(self.head));
        [self.weights, self.gradient_sum, self.moments, pass]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// An estimate of the bytes that training needs, from below: allocators round up, kernels use
/// scratch space, the optimizer makes temporaries. What does not fit 64 bits is `u64::MAX`.
///
/// With N = B·T rows, P parameters of which P′ train:
///
/// - weights 4P, gradients 4P′, moments 8P′;
/// - activations 4N · (8D + 2F + H·T) for a block that trains throughout: inputs of both
///   LayerNorms, of the four projections and of the nonlinearity, Q, K, V, and the weights of
///   attention. That is "Reducing activation recomputation" (arXiv 2205.05198, section 4.1)
///   without dropout and in f32; in bf16 all but the inputs of LayerNorm are half as wide. Less
///   where a projection or everything below is frozen, and fused kernels make the weights of
///   attention again. Where activations are made again: 4N · D for every block, and what one of
///   them keeps;
/// - head, in bf16 half of it but for the head's gradient: 4 · (2RV + N·D, and N·D for the gradient of hidden states, and V·D for the head's
///   where they are needed), R = min(`logit_rows`, N); fused kernels keep RV.
pub fn memory_estimate(config: &Gpt2Config, batch: &MicroBatch, trains: &Trains) -> Memory {
    let trained: u64 = layout::params(config)
        .iter()
        .filter(|p| trains(&p.name))
        .map(|p| p.numel() as u64)
        .sum();
    let pass = Pass::of(config, batch.context, trains);
    let rows = (batch.sequences as u64).saturating_mul(batch.context as u64);
    let attention = if batch.fused {
        0
    } else {
        pass.held_by_attention
    };
    let mut held = F32 * pass.held_wide + batch.value_bytes * (pass.held + attention);
    if batch.recompute {
        let every = F32 * (config.n_layer as u64 + 1) * config.n_embd as u64;
        held = held / pass.held_by_blocks.max(1) + every;
    }
    Memory {
        weights: F32 * layout::parameter_count(config),
        gradients: F32 * trained,
        gradient_sum: if batch.accumulates { F32 * trained } else { 0 },
        moments: F32 * 2 * trained,
        activations: rows.saturating_mul(held),
        head: head_bytes(config, batch, rows, pass.live, trains(head_name(config))),
    }
}

/// What exists around the loss.
fn head_bytes(
    config: &Gpt2Config,
    batch: &MicroBatch,
    rows: u64,
    live: bool,
    head_trains: bool,
) -> u64 {
    let (d, v) = (config.n_embd as u64, config.vocab_size as u64);
    let hidden = rows.saturating_mul(d * if live { 2 } else { 1 });
    let head = if head_trains { v * d } else { 0 };
    let copies = if batch.fused { 1 } else { 2 };
    let logits = rows.min(batch.logit_rows as u64).saturating_mul(copies * v);
    let values = logits.saturating_add(hidden);
    let bytes = values.saturating_mul(batch.value_bytes);
    bytes.saturating_add(head.saturating_mul(F32))
}
