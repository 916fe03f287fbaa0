//! One transformer block, as in `GPT2Block`.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::attention::Attention;
use super::cache::LayerCache;
use super::layers::{Conv1d, LayerNorm};
use crate::checkpoint::Gpt2Config;
use crate::checkpoint::config::Activation;
use crate::kernels;

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
        let x = x.clone() + self.attn.forward(self.ln_1.forward(x));
        x.clone() + self.mlp.forward(self.ln_2.forward(x))
    }

    /// For tokens that follow those in `cache`.
    pub fn forward_cached(&self, x: Tensor<3>, cache: &mut LayerCache) -> Tensor<3> {
        let x = x.clone() + self.attn.forward_cached(self.ln_1.forward(x), cache);
        x.clone() + self.mlp.forward(self.ln_2.forward(x))
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

    /// `[B, T, D] -> [B, T, D]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let inner = self.c_fc.forward(x); // [B, T, F]
        let inner = match self.activation {
            Activation::GeluNew => kernels::gelu_new(inner),
            Activation::Gelu => kernels::gelu_erf(inner),
            Activation::Relu => burn::tensor::activation::relu(inner),
            Activation::Silu => burn::tensor::activation::silu(inner),
        };
        self.c_proj.forward(inner)
    }
}
