//! The small layers: embedding matrices, LayerNorm and Conv1D.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::zero_param;
use crate::checkpoint::Gpt2Config;
use crate::device::Precision;
use crate::kernels;

/// A bare matrix, as in `wte.weight`.
#[derive(Module, Debug)]
pub struct Weight {
    /// The matrix.
    pub weight: Param<Tensor<2>>,
}

impl Weight {
    pub(super) fn zeros(shape: [usize; 2], device: &Device) -> Self {
        Self {
            weight: zero_param(shape, device),
        }
    }
}

/// LayerNorm over the last axis: (x − mean) / √(var + ε) · weight + bias, var biased.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Gain `[D]`.
    pub weight: Param<Tensor<1>>,
    /// Offset `[D]`.
    pub bias: Param<Tensor<1>>,
    /// ε under the root.
    pub epsilon: f64,
    /// What the layers that read this one compute in; the norm itself is made in f32.
    #[module(skip)]
    pub precision: Precision,
}

impl LayerNorm {
    pub(super) fn zeros(config: &Gpt2Config, device: &Device) -> Self {
        let d = config.n_embd;
        Self {
            weight: zero_param([d], device),
            bias: zero_param([d], device),
            epsilon: config.layer_norm_epsilon,
            precision: Precision::F32,
        }
    }

    /// `[B, T, D]` in f32 -> `[B, T, D]` in the layer's precision
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let dtype = self.precision.dtype();
        kernels::layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon, dtype)
    }
}

/// `transformers`' `Conv1D`: y = x · weight + bias with weight `[in, out]`.
#[derive(Module, Debug)]
pub struct Conv1d {
    /// `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Conv1d {
    pub(super) fn zeros(d_in: usize, d_out: usize, device: &Device) -> Self {
        Self {
            weight: zero_param([d_in, d_out], device),
            bias: zero_param([d_out], device),
        }
    }

    /// `[B, T, in] -> [B, T, out]`, in the type of x.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::linear(x, self.weight.val(), self.bias.val())
    }

    /// The tanh-GELU of [`Self::forward`].
    pub fn gelu(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::linear_gelu(x, self.weight.val(), self.bias.val())
    }

    /// The residual stream `[B, T, out]`, in f32, plus [`Self::forward`].
    pub fn onto(&self, stream: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        kernels::linear_onto(stream, x, self.weight.val(), self.bias.val())
    }
}
