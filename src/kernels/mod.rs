//! The model's costly operations.
//!
//! Each operation has its plain-tensor version in [`plain`], which runs on every backend and
//! is the oracle of the tests. Fused versions take its place through burn's backend extension:
//! on the CPU backend, whose element-wise operations run on one core and with scalar `exp` and
//! `tanh`, one threaded, vectorised pass forward and one backward; on GPUs, CubeCL kernels. The
//! model calls the functions here and knows no backend.
//!
//! Where the type of elements is 16 bits wide, products read and write it and sum in f32;
//! everything between is computed in f32.

mod attention;
mod autodiff;
mod cpu;
mod gemm;
#[cfg(feature = "gpu")]
mod gpu;
mod math;
mod packed;
pub mod plain;
mod update;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, FloatDType, Int, Tensor};

use crate::device::Precision;

pub use packed::{PackedOps, Piece, packed_attention, target_nll};
pub use update::{AdamWStep, Slot, UpdateOps, accumulate, adamw, square_sum, square_sums};

/// Rows of logits held at a time by the cross-entropy: bounds memory at rows · V.
pub const LOGIT_ROWS: usize = 512;
/// The same on a GPU, which wants more work at a time.
pub const GPU_LOGIT_ROWS: usize = 4096;

/// Fused operations, forward. Their gradients are in `autodiff`.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
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

    /// tanh-GELU of [`Self::fused_linear`].
    fn fused_linear_gelu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// LayerNorm over the last axis: x `[.., D]`, weight and bias `[D]`; in `dtype`.
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
        dtype: FloatDType,
    ) -> FloatTensor<Self>;

    /// stream `[.., out]` in f32 + [`Self::fused_linear`], in f32.
    fn fused_linear_onto(
        stream: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

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
    if !is_fused(&wte) {
        return plain::embed(wte, wpe, ids, start);
    }
    Tensor::from_dispatch(Dispatch::fused_embed(
        wte.into_dispatch(),
        wpe.into_dispatch(),
        ids.into_dispatch(),
        start,
    ))
}

/// x `[B, T, in]` · weight `[in, out]` + bias `[out]`, in the type of x.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    if !is_fused(&x) {
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
    if !attention_is_fused(&qkv, n_head) {
        return plain::causal_attention(qkv, n_head);
    }
    Tensor::from_dispatch(Dispatch::fused_causal_attention(
        qkv.into_dispatch(),
        n_head,
    ))
}

/// GELU by the error function, x · Φ(x), of `[B, T, F]`. Composed, since burn's own has an approximate
/// gradient.
pub fn gelu_erf(x: Tensor<3>) -> Tensor<3> {
    plain::in_f32(x, plain::gelu_erf)
}

/// The tanh approximation of GELU of [`linear`]. `[B, T, in] -> [B, T, out]`
pub fn linear_gelu(x: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    if !is_fused(&x) {
        return plain::linear_gelu(x, weight, bias);
    }
    Tensor::from_dispatch(Dispatch::fused_linear_gelu(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// The residual stream `[B, T, out]`, in f32, plus [`linear`] of x `[B, T, in]`, of any type.
pub fn linear_onto(
    stream: Tensor<3>,
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> Tensor<3> {
    if !is_fused(&x) {
        return plain::linear_onto(stream, x, weight, bias);
    }
    Tensor::from_dispatch(Dispatch::fused_linear_onto(
        stream.into_dispatch(),
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// LayerNorm over the last axis of x `[B, T, D]`, which is f32, with weight and bias `[D]`:
/// computed in f32 and given in `dtype`.
pub fn layer_norm(
    x: Tensor<3>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
    dtype: FloatDType,
) -> Tensor<3> {
    if !is_fused(&x) || is_cpu(&x) && dtype != FloatDType::F32 {
        return plain::layer_norm(x, weight, bias, epsilon).cast(dtype);
    }
    Tensor::from_dispatch(Dispatch::fused_layer_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        epsilon,
        dtype,
    ))
}

/// Mean cross-entropy `[1]` of hidden `[N, D]` times head `[V, D]` transposed, against `[N]`.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    if !is_fused(&hidden) {
        return plain::chunked_linear_cross_entropy(hidden, head, targets);
    }
    Tensor::from_dispatch(Dispatch::fused_linear_cross_entropy(
        hidden.into_dispatch(),
        head.into_dispatch(),
        targets.into_dispatch(),
    ))
}

/// Negative log-likelihood `[N]` of every target, a piece of the rows at a time; no gradient.
pub fn token_nll(hidden: Tensor<2>, head: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let n = hidden.dims()[0];
    if is_fused(&hidden) && !is_cpu(&hidden) {
        let rows = Tensor::arange(0..n as i64, &hidden.device());
        let scores = packed::fused_target_nll(hidden, head, rows, targets); // [N, 2]
        return scores.slice([0..n, 0..1]).reshape([n]);
    }
    let head = head.cast(hidden.dtype()).transpose(); // [D, V]
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

/// Whether the operations are fused on a processor, and how many rows of logits exist there at a
/// time; of a GPU as builds for it have it.
pub fn fused_on(cpu: bool, precision: Precision) -> (bool, usize) {
    match (cpu, precision) {
        (true, Precision::F32) => (true, LOGIT_ROWS),
        (true, Precision::Bf16) => (false, plain::PIECE_ROWS),
        (false, _) => (true, GPU_LOGIT_ROWS),
    }
}

fn is_cpu<const D: usize>(x: &Tensor<D>) -> bool {
    crate::device::is_cpu(&x.device())
}

/// Whether a fused version of the operations takes `x`.
fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    if is_cpu(x) {
        x.dtype() == DType::F32
    } else {
        cfg!(feature = "gpu")
    }
}

/// [`is_fused`], for attention of Q, K and V side by side: tiles of heads have to fit.
fn attention_is_fused<const D: usize>(qkv: &Tensor<D>, n_head: usize) -> bool {
    #[cfg(feature = "gpu")]
    if !is_cpu(qkv) {
        let width = qkv.dims()[D - 1];
        return gpu::attention_fits(&qkv.device(), qkv.dtype(), width / 3 / n_head);
    }
    let _ = n_head;
    is_fused(qkv)
}
