//! GPT-2 in burn, with the names of `transformers`.
//!
//! A parameter's path in the module tree is its name in the checkpoint, so weights load and
//! save by walking the tree. Shapes are written with B sequences, T tokens, D = `n_embd`,
//! H = `n_head`, S = D / H, F = `n_inner`, V = `vocab_size`. Dropout is not modelled: growth
//! and continued training here use none, and exact resume forbids hidden random state.

mod attention;
mod block;
mod cache;
mod layers;
pub mod weights;

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Int, Tensor};

pub use attention::Attention;
pub use block::{Block, Mlp};
pub use cache::{KvCache, LayerCache};
pub use layers::{Conv1d, LayerNorm, Weight};

use crate::checkpoint::Gpt2Config;
use crate::device::{Precision, read_scalar};
use crate::error::Result;
use crate::kernels::{self, Piece};

/// The language model.
#[derive(Module, Debug)]
pub struct Gpt2 {
    /// Token embedding `[V, D]`, and the head where tied.
    pub wte: Weight,
    /// Position embedding `[n_positions, D]`.
    pub wpe: Weight,
    /// The blocks.
    pub h: Vec<Block>,
    /// The last LayerNorm.
    pub ln_f: LayerNorm,
    /// A head of its own `[V, D]`, where not tied.
    pub lm_head: Option<Weight>,
}

impl Gpt2 {
    /// A model of zeros, to be filled by [`weights::load`] or [`weights::init`].
    ///
    /// Every parameter gets an identity of its own here. Cloning a block instead would share
    /// the donor's, and the optimizer, which keys by identity, would train only one of them.
    pub fn zeros(config: &Gpt2Config, device: &Device) -> Self {
        let d = config.n_embd;
        Self {
            wte: Weight::zeros([config.vocab_size, d], device),
            wpe: Weight::zeros([config.n_positions, d], device),
            h: (0..config.n_layer)
                .map(|_| Block::zeros(config, device))
                .collect(),
            ln_f: LayerNorm::zeros(config, device),
            lm_head: (!config.tie_word_embeddings)
                .then(|| Weight::zeros([config.vocab_size, d], device)),
        }
    }

    /// What matrix products and attention compute in. Weights, the residual stream, LayerNorm,
    /// softmax and losses stay in f32.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        for block in &mut self.h {
            block.ln_1.precision = precision;
            block.ln_2.precision = precision;
        }
        self.ln_f.precision = precision;
        self
    }

    /// Final hidden states of `ids`.
    ///
    /// # Shapes
    /// - ids `[B, T]`, T ≤ `n_positions`
    /// - output `[B, T, D]`, after `ln_f`
    pub fn hidden(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let mut x = self.embed(ids, 0); // [B, T, D]
        for block in &self.h {
            x = block.forward(x);
        }
        self.ln_f.forward(x)
    }

    /// Root mean square of the residual stream after every block. `[B, T] -> n_layer`
    ///
    /// # Errors
    /// The device failed.
    pub fn residual_rms(&self, ids: Tensor<2, Int>) -> Result<Vec<f64>> {
        let mut x = self.embed(ids, 0); // [B, T, D]
        let mut after = |block: &Block| {
            x = block.forward(x.clone());
            Ok(read_scalar(x.clone().mul(x.clone()).mean())?.sqrt())
        };
        self.h.iter().map(&mut after).collect()
    }

    /// Like [`Self::hidden`], for tokens that follow those in `cache`, which grows by them.
    pub fn hidden_cached(&self, ids: Tensor<2, Int>, cache: &mut KvCache) -> Tensor<3> {
        let mut x = self.embed(ids, cache.len()); // [B, T, D]
        for (block, layer) in self.h.iter().zip(cache.layers_mut()) {
            x = block.forward_cached(x, layer);
        }
        self.ln_f.forward(x)
    }

    /// Final hidden states of some tokens of a pack of sequences.
    ///
    /// # Shapes
    /// - ids, positions `[N]`: tokens of all pieces end to end, and where each stands in its
    ///   sequence
    /// - rows `[R]`: the tokens whose states are wanted
    /// - output `[R, D]`, after `ln_f`
    pub fn hidden_packed(
        &self,
        ids: Tensor<1, Int>,
        positions: Tensor<1, Int>,
        pieces: &Arc<[Piece]>,
        rows: Tensor<1, Int>,
    ) -> Tensor<2> {
        let tokens = self.wte.weight.val().select(0, ids); // [N, D]
        let x = tokens + self.wpe.weight.val().select(0, positions);
        let mut x: Tensor<3> = x.unsqueeze(); // [1, N, D]
        for (layer, block) in self.h.iter().enumerate() {
            // The last block's states are wanted of some tokens only.
            let rows = (layer + 1 == self.h.len()).then(|| rows.clone());
            x = block.forward_packed(x, pieces, rows);
        }
        self.ln_f.forward(x).squeeze_dim(0)
    }

    /// Token plus position embeddings, positions counted from `start`. `[B, T] -> [B, T, D]`
    pub fn embed(&self, ids: Tensor<2, Int>, start: usize) -> Tensor<3> {
        kernels::embed(self.wte.weight.val(), self.wpe.weight.val(), ids, start)
    }

    /// The head's matrix `[V, D]`.
    pub fn head(&self) -> Tensor<2> {
        self.lm_head
            .as_ref()
            .map_or_else(|| self.wte.weight.val(), |head| head.weight.val())
    }

    /// Logits of `ids`. `[B, T] -> [B, T, V]`
    pub fn logits(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.head_logits(self.hidden(ids))
    }

    /// Logits of hidden states. `[B, T, D] -> [B, T, V]`
    pub fn head_logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = hidden.dims();
        let (head, dtype) = (self.head(), hidden.dtype());
        let v = head.dims()[0];
        hidden
            .reshape([b * t, d])
            .matmul(head.cast(dtype).transpose())
            .cast(FloatDType::F32)
            .reshape([b, t, v])
    }

    /// Mean cross-entropy of predicting `targets`, in nats per token.
    ///
    /// # Shapes
    /// - ids, targets `[B, T]`
    /// - output `[1]`
    pub fn loss(&self, ids: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        let mut x = self.embed(ids, 0); // [B, T, D]
        for block in &self.h {
            x = block.forward(x);
        }
        self.head_loss(x, targets)
    }

    /// [`Self::loss`], from what the last block gives.
    ///
    /// # Shapes
    /// - x `[B, T, D]`, targets `[B, T]`
    /// - output `[1]`
    pub fn head_loss(&self, x: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<1> {
        let [b, t, d] = x.dims();
        let hidden = self.ln_f.forward(x);
        kernels::linear_cross_entropy(
            hidden.reshape([b * t, d]),
            self.head(),
            targets.reshape([b * t]),
        )
    }

    /// Negative log-likelihood of every target, in nats; no gradient.
    ///
    /// # Shapes
    /// - ids, targets `[B, T]`
    /// - output `[B, T]`
    pub fn token_nll(&self, ids: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<2> {
        let [b, t] = ids.dims();
        let hidden = self.hidden(ids);
        let d = hidden.dims()[2];
        kernels::token_nll(
            hidden.reshape([b * t, d]),
            self.head(),
            targets.reshape([b * t]),
        )
        .reshape([b, t])
    }
}

/// A parameter of zeros with a fresh identity.
fn zero_param<const N: usize>(shape: [usize; N], device: &Device) -> Param<Tensor<N>> {
    Param::from_tensor(Tensor::zeros(shape, device))
}
