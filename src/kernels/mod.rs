//! The model's costly operations.
//!
//! Each operation has its plain-tensor version in [`plain`], which runs on every backend and
//! is the oracle of the tests. On the CPU backend, whose element-wise operations run on one
//! core and with scalar `exp` and `tanh`, fused versions take its place through burn's backend
//! extension: one threaded, vectorised pass forward and one backward. The model calls the
//! functions here and knows no backend.

mod attention;
mod autodiff;
mod cpu;
mod gemm;
mod math;
mod packed;
pub mod plain;
mod update;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Int, Tensor};

pub use packed::{PackedOps, Piece, packed_attention, target_nll};
pub use update::{AdamWStep, UpdateOps, accumulate, adamw, square_sum};

/// Rows of logits held at a time by the cross-entropy: bounds memory at rows · V.
pub const LOGIT_ROWS: usize = 512;

/// Fused operations, forward. Their gradients are in `autodiff`.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    /// x `[.., in]` · weight `[in, out]` + bias `[out]`.
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Rows of wte `[V, D]` plus those of wpe `[P, D]` from `start`, for ids `[B, T]`.
    fn fused_embed(
        wte: FloatTensor<Self>,
        wpe: FloatTensor<Self>,
        ids: IntTensor<Self>,
        start: usize,
    ) -> FloatTensor<Self>;

    /// Causal attention of Q, K and V side by side. `[B, T, 3D] -> [B, T, D]`
    fn fused_causal_attention(qkv: FloatTensor<Self>, n_head: usize) -> FloatTensor<Self>;

    /// tanh-GELU of any shape.
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// LayerNorm over the last axis: x `[.., D]`, weight and bias `[D]`.
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;

    /// Softmax over the last axis of `scale` · scores `[B, H, T, U]`, causal: row t sees the
    /// first U − T + t + 1 columns.
    fn fused_causal_softmax(scores: FloatTensor<Self>, scale: f64) -> FloatTensor<Self>;

    /// Mean cross-entropy of hidden `[N, D]` · headᵀ `[D, V]` against targets `[N]`; `[1]`.
    fn fused_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// Rows of `wte` `[V, D]` plus those of `wpe` `[P, D]` from `start`, for ids `[B, T]`:
/// `[B, T, D]`.
pub fn embed(wte: Tensor<2>, wpe: Tensor<2>, ids: Tensor<2, Int>, start: usize) -> Tensor<3> {
    if !on_cpu(&wte) {
        return plain::embed(wte, wpe, ids, start);
    }
    Tensor::from_dispatch(Dispatch::fused_embed(
        wte.into_dispatch(),
        wpe.into_dispatch(),
        ids.into_dispatch(),
        start,
    ))
}

/// x `[B, T, in]` · weight `[in, out]` + bias `[out]`.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    if !on_cpu(&x) {
        return plain::linear(x, weight, bias);
    }
    Tensor::from_dispatch(Dispatch::fused_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// Causal attention of Q, K and V side by side. `[B, T, 3D] -> [B, T, D]`
pub fn causal_attention(qkv: Tensor<3>, n_head: usize) -> Tensor<3> {
    if !on_cpu(&qkv) {
        return plain::causal_attention(qkv, n_head);
    }
    Tensor::from_dispatch(Dispatch::fused_causal_attention(
        qkv.into_dispatch(),
        n_head,
    ))
}

/// GELU by the error function, x · Φ(x). Composed, since burn's own has an approximate
/// gradient.
pub fn gelu_erf(x: Tensor<3>) -> Tensor<3> {
    plain::gelu_erf(x)
}

/// tanh approximation of GELU.
pub fn gelu_new(x: Tensor<3>) -> Tensor<3> {
    if !on_cpu(&x) {
        return plain::gelu_new(x);
    }
    Tensor::from_dispatch(Dispatch::fused_gelu(x.into_dispatch()))
}

/// LayerNorm over the last axis.
pub fn layer_norm(x: Tensor<3>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<3> {
    if !on_cpu(&x) {
        return plain::layer_norm(x, weight, bias, epsilon);
    }
    Tensor::from_dispatch(Dispatch::fused_layer_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        epsilon,
    ))
}

/// Causal softmax of scaled scores `[B, H, T, U]`, U ≥ T.
pub fn causal_softmax(scores: Tensor<4>, scale: f64) -> Tensor<4> {
    if !on_cpu(&scores) {
        return plain::causal_softmax(scores, scale);
    }
    Tensor::from_dispatch(Dispatch::fused_causal_softmax(
        scores.into_dispatch(),
        scale,
    ))
}

/// Mean cross-entropy `[1]` of hidden `[N, D]` times head `[V, D]` transposed, against `[N]`.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    if !on_cpu(&hidden) {
        return plain::chunked_linear_cross_entropy(hidden, head, targets);
    }
    Tensor::from_dispatch(Dispatch::fused_linear_cross_entropy(
        hidden.into_dispatch(),
        head.into_dispatch(),
        targets.into_dispatch(),
    ))
}

/// Negative log-likelihood `[N]` of every target, [`LOGIT_ROWS`] rows at a time; no gradient.
pub fn token_nll(hidden: Tensor<2>, head: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let n = hidden.dims()[0];
    let head = head.transpose(); // [D, V]
    let pieces = (0..n)
        .step_by(LOGIT_ROWS)
        .map(|start| {
            let rows = start..(start + LOGIT_ROWS).min(n);
            let logits = hidden
                .clone()
                .slice_dim(0, rows.clone())
                .matmul(head.clone());
            plain::nll(logits, targets.clone().slice_dim(0, rows))
        })
        .collect();
    Tensor::cat(pieces, 0)
}

/// Whether the operations are fused there, and how many rows of logits exist at a time.
pub fn fused_on(cpu: bool) -> (bool, usize) {
    if cpu {
        (true, LOGIT_ROWS)
    } else {
        (false, plain::PIECE_ROWS)
    }
}

/// Whether the fused CPU versions apply.
fn on_cpu<const D: usize>(x: &Tensor<D>) -> bool {
    crate::device::is_cpu(&x.device())
}
