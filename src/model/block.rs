//! One transformer block, as in `GPT2Block`.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::attention::Attention;
use super::cache::LayerCache;
use super::layers::{Conv1d, LayerNorm};
use crate::checkpoint::Gpt2Config;
use crate::checkpoint::config::Activation;
use crate::kernels::{self, Piece};

/// x + attn(ln_1(x)), then x + mlp(ln_2(x)).
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub ln_1: LayerNorm,
    /// Attention.
    pub attn: Attention,
    /// Before the feed-forward.
    pub ln_2: LayerNorm,
    /// Feed-forward.
    pub mlp: Mlp,
}

impl Block {
    /// A block of zeros.
    pub fn zeros(config: &Gpt2Config, device: &Device) -> Self {
        Self {
            ln_1: LayerNorm::zeros(config, device),
            attn: Attention::zeros(config, device),
            ln_2: LayerNorm::zeros(config, device),
            mlp: Mlp::zeros(config, device),
        }
    }

    /// `[B, T, D] -> [B, T, D]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let mixed = self.attn.mix(self.ln_1.forward(x.clone()));
        self.feed_forward(self.attn.c_proj.onto(x, mixed))
    }

    /// For a pack of sequences; where `rows` are given, only they go on after attention.
    /// `[1, N, D] -> [1, N or rows, D]`
    pub fn forward_packed(
        &self,
        x: Tensor<3>,
        pieces: &Arc<[Piece]>,
        rows: Option<Tensor<1, Int>>,
    ) -> Tensor<3> {
        let mut mixed = self.attn.mix_packed(self.ln_1.forward(x.clone()), pieces);
        let mut x = x;
        if let Some(rows) = rows {
            mixed = mixed.select(0, rows.clone());
            x = x.select(1, rows);
        }
        self.feed_forward(self.attn.c_proj.onto(x, mixed.unsqueeze()))
    }

    /// For tokens that follow those in `cache`.
    pub fn forward_cached(&self, x: Tensor<3>, cache: &mut LayerCache) -> Tensor<3> {
        let mixed = self.attn.mix_cached(self.ln_1.forward(x.clone()), cache);
        self.feed_forward(self.attn.c_proj.onto(x, mixed))
    }

    /// The block's second half.
    fn feed_forward(&self, x: Tensor<3>) -> Tensor<3> {
        let inner = self.mlp.inner(self.ln_2.forward(x.clone()));
        self.mlp.c_proj.onto(x, inner)
    }
}

/// c_proj(activation(c_fc(x))).
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[D, F]`.
    pub c_fc: Conv1d,
    /// `[F, D]`, writes to the residual stream.
    pub c_proj: Conv1d,
    /// The nonlinearity.
    #[module(skip)]
    pub activation: Activation,
}

impl Mlp {
    fn zeros(config: &Gpt2Config, device: &Device) -> Self {
        let (d, f) = (config.n_embd, config.n_inner);
        Self {
            c_fc: Conv1d::zeros(d, f, device),
            c_proj: Conv1d::zeros(f, d, device),
            activation: config.activation,
        }
    }

    /// Before the output projection. `[B, T, D] -> [B, T, F]`
    fn inner(&self, x: Tensor<3>) -> Tensor<3> {
        match self.activation {
            Activation::GeluNew => self.c_fc.gelu(x),
            Activation::Gelu => kernels::gelu_erf(self.c_fc.forward(x)),
            Activation::Relu => burn::tensor::activation::relu(self.c_fc.forward(x)),
            Activation::Silu => burn::tensor::activation::silu(self.c_fc.forward(x)),
        }
    }
}
