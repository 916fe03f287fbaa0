//! Causal multi-head self-attention, as in `GPT2Attention`.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::cache::LayerCache;
use super::layers::Conv1d;
use crate::checkpoint::Gpt2Config;
use crate::kernels::{self, Piece};

/// softmax(mask(Q·Kᵀ / √S)) · V with a joint projection for Q, K and V.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[D, 3D]`: Q, K and V side by side.
    pub c_attn: Conv1d,
    /// `[D, D]`, writes to the residual stream.
    pub c_proj: Conv1d,
    /// H.
    pub n_head: usize,
}

impl Attention {
    pub(super) fn zeros(config: &Gpt2Config, device: &Device) -> Self {
        let d = config.n_embd;
        Self {
            c_attn: Conv1d::zeros(d, 3 * d, device),
            c_proj: Conv1d::zeros(d, d, device),
            n_head: config.n_head,
        }
    }

    /// What heads mix, before the output projection. `[B, T, D] -> [B, T, D]`
    pub(super) fn mix(&self, x: Tensor<3>) -> Tensor<3> {
        let qkv = self.c_attn.forward(x); // [B, T, 3D]
        kernels::causal_attention(qkv, self.n_head)
    }

    /// The same in a pack of sequences.
    /// `[1, N, D] -> [N, D]`
    pub(super) fn mix_packed(&self, x: Tensor<3>, pieces: &Arc<[Piece]>) -> Tensor<2> {
        let qkv = self.c_attn.forward(x); // [1, N, 3D]
        kernels::packed_attention(qkv.squeeze_dim(0), self.n_head, pieces)
    }

    /// The same for tokens that follow those in `cache`, which grows by their keys and values.
    pub(super) fn mix_cached(&self, x: Tensor<3>, cache: &mut LayerCache) -> Tensor<3> {
        let [q, k, v] = self.heads(x);
        let (k, v) = cache.append(k, v); // [B, H, past + T, S]
        attend(q, k, v)
    }

    /// Q, K and V by head. `[B, T, D] -> 3 x [B, H, T, S]`
    fn heads(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let [b, t, d] = x.dims();
        let (h, s) = (self.n_head, d / self.n_head);
        let qkv = self.c_attn.forward(x); // [B, T, 3D]
        [0, 1, 2].map(|i| {
            qkv.clone()
                .slice([0..b, 0..t, i * d..(i + 1) * d])
                .reshape([b, t, h, s])
                .swap_dims(1, 2)
        })
    }
}

/// `[B, H, T, S]` against keys and values of length U ≥ T: `[B, T, D]`.
fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<3> {
    let [b, h, t, s] = q.dims();
    let scores = q.matmul(k.swap_dims(2, 3)); // [B, H, T, U]
    let weights = kernels::plain::causal_softmax(scores, 1.0 / (s as f64).sqrt()); // [B, H, T, U]
    let mixed = weights.matmul(v); // [B, H, T, S]
    mixed.swap_dims(1, 2).reshape([b, t, h * s])
}
