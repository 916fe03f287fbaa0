//! The true account: floating-point operations per token.
//!
//! Counted are matrix products, a multiplication and an addition as two operations:
//!
//! - x·W with W `[in, out]`: 2·in·out forward; as much again for the gradient in x, and for
//!   the gradient in W.
//! - attention, both its products: each token sees (T + 1) / 2 keys on average, so
//!   2 · 2·D·(T + 1) / 2 forward and twice that backward, for both factors of both products.
//!   Exactly causal: a kernel that computes the masked half does more than it is credited with.
//! - the head: 2·D·V.
//!
//! A gradient in x is counted only where something below x trains, a gradient in W only where
//! W trains: a frozen prefix costs its forward pass, and one trained embedding makes the
//! gradient run through every block. Left out, since they are not matrix products: LayerNorm,
//! the nonlinearity, softmax, residual sums, biases, looking up embeddings and adding up their
//! gradients, the loss, and the optimizer.

use super::Trains;
use crate::checkpoint::Gpt2Config;
use crate::checkpoint::layout::{LM_HEAD, WPE, WTE};

/// Floating-point operations per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flops {
    /// Of the forward pass.
    pub forward: u64,
    /// Of the gradients in what flows through the model.
    pub input_gradients: u64,
    /// Of the gradients in parameters.
    pub weight_gradients: u64,
}

impl Flops {
    /// Forward and backward.
    pub fn total(&self) -> u64 {
        self.forward + self.input_gradients + self.weight_gradients
    }

    /// Operations for `tokens` tokens, which may exceed 64 bits.
    pub fn over(&self, tokens: u64) -> f64 {
        self.total() as f64 * tokens as f64
    }
}

/// Operations per token of training what `trains` names, on sequences of `context` tokens.
pub fn per_token(config: &Gpt2Config, context: usize, trains: &Trains) -> Flops {
    Pass::of(config, context, trains).flops
}

/// What the head costs forward, in blocks: 2·D·V over a block's forward pass.
pub fn layer_equivalents_of_head(config: &Gpt2Config, context: usize) -> f64 {
    let block = Pass::blocks(config, context, &|_| false, 1).flops.forward;
    let head = Pass::of(&config.with_n_layer(1), context, &|_| false)
        .flops
        .forward
        - block;
    head as f64 / block as f64
}

/// Model FLOPs utilization: what share of the hardware's `peak`, in operations per second, the
/// achieved `flops_per_s` are (PaLM, arXiv 2204.02311, appendix B). Recomputation is not
/// credited, since the account holds none.
pub fn mfu(flops_per_s: f64, peak: f64) -> f64 {
    flops_per_s / peak
}

/// One token on its way through the model: what it costs and what must be kept of it.
pub(super) struct Pass<'a> {
    config: &'a Gpt2Config,
    context: u64,
    trains: &'a Trains<'a>,
    /// Operations so far.
    pub(super) flops: Flops,
    /// Values kept for the backward pass so far, without the head's and those of the next field.
    pub(super) held: u64,
    /// Values of the residual stream kept besides, which are f32 in any precision.
    pub(super) held_wide: u64,
    /// Attention weights kept besides, where attention is not fused.
    pub(super) held_by_attention: u64,
    /// Blocks that keep anything.
    pub(super) held_by_blocks: u64,
    /// Whether what flows here depends on a trained parameter, so that a gradient is needed.
    pub(super) live: bool,
}

impl<'a> Pass<'a> {
    /// Through everything.
    pub(super) fn of(config: &'a Gpt2Config, context: usize, trains: &'a Trains<'a>) -> Self {
        let mut pass = Self::blocks(config, context, trains, config.n_layer);
        pass.layer_norm("ln_f");
        pass.product(head_name(config), config.n_embd, config.vocab_size);
        pass
    }

    /// Through the embeddings and the lowest `n_layer` blocks.
    fn blocks(
        config: &'a Gpt2Config,
        context: usize,
        trains: &'a Trains<'a>,
        n_layer: usize,
    ) -> Self {
        let mut pass = Self {
            config,
            context: context as u64,
            trains,
            flops: Flops::default(),
            held: 0,
            held_wide: 0,
            held_by_attention: 0,
            held_by_blocks: 0,
            live: trains(WTE) || trains(WPE),
        };
        (0..n_layer).for_each(|layer| pass.block(layer));
        pass
    }

    /// x + f(x), twice. The sum needs a gradient where f(x) does, since f(x) does where x does:
    /// following the branch alone is enough.
    fn block(&mut self, layer: usize) {
        let (d, inner) = (self.config.n_embd, self.config.n_inner);
        let name = |part: &str| format!("h.{layer}.{part}");
        self.layer_norm(&name("ln_1"));
        self.conv1d(&name("attn.c_attn"), d, 3 * d);
        self.attention();
        self.conv1d(&name("attn.c_proj"), d, d);
        self.layer_norm(&name("ln_2"));
        self.conv1d(&name("mlp.c_fc"), d, inner);
        self.activation();
        self.conv1d(&name("mlp.c_proj"), inner, d);
        self.held_by_blocks += u64::from(self.live);
    }

    /// Keeps its input; mean and deviation are cheaper made again.
    fn layer_norm(&mut self, name: &str) {
        self.live |= self.trains(name, "weight") || self.trains(name, "bias");
        if self.live {
            self.held_wide += self.config.n_embd as u64;
        }
    }

    /// x·W + b.
    fn conv1d(&mut self, name: &str, rows: usize, columns: usize) {
        if self.product(&format!("{name}.weight"), rows, columns) {
            self.held += rows as u64;
        }
        self.live |= self.trains(name, "weight") || self.trains(name, "bias");
    }

    /// x·W; says whether W trains, for which x must be kept.
    fn product(&mut self, weight: &str, rows: usize, columns: usize) -> bool {
        let flops = 2 * rows as u64 * columns as u64;
        let trained = (self.trains)(weight);
        self.flops.forward += flops;
        self.flops.input_gradients += if self.live { flops } else { 0 };
        self.flops.weight_gradients += if trained { flops } else { 0 };
        trained
    }

    /// Q·Kᵀ and weights·V over all heads. Keeps Q, K, V, and a row of weights per head.
    fn attention(&mut self) {
        let d = self.config.n_embd as u64;
        let flops = 2 * d * (self.context + 1);
        self.flops.forward += flops;
        if self.live {
            self.flops.input_gradients += 2 * flops;
            self.held += 3 * d;
            self.held_by_attention += self.config.n_head as u64 * self.context;
        }
    }

    /// Keeps its input.
    fn activation(&mut self) {
        if self.live {
            self.held += self.config.n_inner as u64;
        }
    }

    fn trains(&self, layer: &str, part: &str) -> bool {
        (self.trains)(&format!("{layer}.{part}"))
    }
}

/// The parameter that the head multiplies with.
pub(super) fn head_name(config: &Gpt2Config) -> &'static str {
    if config.tie_word_embeddings {
        WTE
    } else {
        LM_HEAD
    }
}
