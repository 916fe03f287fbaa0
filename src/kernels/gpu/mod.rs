//! The fused operations on GPUs, through CubeCL: one source for CUDA and Vulkan.
//!
//! Products of large matrices are burn's, tuned on the device; what stands between them is
//! here. No kernel adds atomically, so that each gives the same bits every time; which of burn's
//! products is chosen, and so the order of its sums, depends on shapes and timings.

mod attention;
mod elementwise;
mod embed;
mod launch;
mod loss;
mod norm;
mod reduce;
mod update;

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{DispatchDevice, TensorMetadata};
use burn::tensor::{DType, Device, FloatDType, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::matmul::{self as products, MatmulStrategy};
use burn_cubecl::tensor::CubeTensor;
use cubecl::bytes::Bytes;

use super::autodiff::FusedGrads;
use super::{FusedOps, PackedOps, Piece};

pub(super) use update::{Slot, adamw, square_sum};

/// Whether attention's kernels can hold tiles of heads of width `s`.
pub(super) fn attention_fits(device: &Device, dtype: DType, s: usize) -> bool {
    match device.clone().inner().as_dispatch() {
        DispatchDevice::Cube(device) => attention::fits(&device.client(), dtype, s),
        _ => false,
    }
}

/// The tensor as CubeCL holds it.
pub(super) fn lowered<const D: usize>(x: Tensor<D>) -> CubeTensor {
    x.try_into_primitive::<CubeBackend>()
        .expect("a tensor without gradients on a GPU")
}

/// The tensor as the model holds it.
pub(super) fn raised<const D: usize>(x: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<CubeBackend>(x)
}

/// lhs `[M, K]` · rhs `[K, N]` in `dtype`, summed in f32; contiguous.
fn matmul(lhs: CubeTensor, rhs: CubeTensor, dtype: DType) -> CubeTensor {
    // Left to itself burn gives rows a pitch, which our kernels do not read.
    let out = launch::empty(&lhs, [lhs.shape()[0], rhs.shape()[1]], dtype);
    products::matmul(lhs, rhs, Some(out), MatmulStrategy::default(), dtype)
        .expect("one of burn's kernels fits every product")
}

fn transposed(x: CubeTensor) -> CubeTensor {
    CubeBackend::float_transpose(x)
}

fn reshaped(x: CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    CubeBackend::float_reshape(x, shape.into())
}

/// `[.., D] -> [N, D]`
fn flat_rows(x: CubeTensor) -> CubeTensor {
    let x = launch::contiguous(x);
    let [n, d] = launch::rows(&x);
    reshaped(x, [n, d])
}

/// The shape of `x`, but for its last axis.
fn with_last(x: &CubeTensor, last: usize) -> Shape {
    let mut shape = x.shape();
    let axis = shape.num_dims() - 1;
    shape[axis] = last;
    shape
}

/// Numbers beside `like`.
fn uploaded(like: &CubeTensor, values: &[u32]) -> CubeTensor {
    let bytes = Bytes::from_elems(values.to_vec());
    let handle = like.client.create(bytes);
    let (client, device) = (like.client.clone(), like.device.clone());
    CubeTensor::new_contiguous(client, device, [values.len()].into(), handle, DType::U32)
}

/// x `[.., in]` · weight `[in, out]`, in the type of x.
fn product(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
    let dtype = x.dtype;
    let shape = with_last(&x, weight.shape()[1]);
    reshaped(matmul(flat_rows(x), cast(weight, dtype), dtype), shape)
}

impl FusedOps for CubeBackend {
    fn fused_linear(x: CubeTensor, weight: CubeTensor, bias: CubeTensor) -> CubeTensor {
        elementwise::add_row(product(x, weight), bias)
    }

    fn fused_embed(wte: CubeTensor, wpe: CubeTensor, ids: CubeTensor, start: usize) -> CubeTensor {
        embed::embed(wte, wpe, ids, start)
    }

    fn fused_causal_attention(qkv: CubeTensor, n_head: usize) -> CubeTensor {
        let [mixed, _] = Self::causal_attention_with_log_sums(qkv, n_head);
        mixed
    }

    fn fused_linear_gelu(x: CubeTensor, weight: CubeTensor, bias: CubeTensor) -> CubeTensor {
        elementwise::gelu(product(x, weight), bias)
    }

    fn fused_layer_norm(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        epsilon: f64,
        dtype: FloatDType,
    ) -> CubeTensor {
        norm::layer_norm(x, weight, bias, epsilon, dtype.into())
    }

    fn fused_linear_onto(
        stream: CubeTensor,
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
    ) -> CubeTensor {
        elementwise::residual(stream, product(x, weight), bias)
    }

    fn fused_linear_cross_entropy(
        hidden: CubeTensor,
        head: CubeTensor,
        targets: CubeTensor,
    ) -> CubeTensor {
        let (loss, _) = loss::linear_cross_entropy(hidden, head, targets, [false; 2]);
        loss
    }
}

impl FusedGrads for CubeBackend {
    fn linear_x_grad(weight: CubeTensor, grad: CubeTensor) -> CubeTensor {
        let dtype = grad.dtype;
        let shape = with_last(&grad, weight.shape()[0]);
        let dx = matmul(flat_rows(grad), transposed(cast(weight, dtype)), dtype);
        reshaped(dx, shape)
    }

    fn linear_weight_grad(x: CubeTensor, grad: CubeTensor) -> CubeTensor {
        matmul(transposed(flat_rows(x)), flat_rows(grad), DType::F32)
    }

    fn row_sum(grad: CubeTensor) -> CubeTensor {
        norm::row_sum(grad)
    }

    fn add_token_grads(sum: CubeTensor, ids: CubeTensor, grad: CubeTensor) -> CubeTensor {
        embed::add_token_grads(sum, ids, grad)
    }

    fn add_position_grads(sum: CubeTensor, grad: CubeTensor, start: usize) -> CubeTensor {
        embed::add_position_grads(sum, grad, start)
    }

    fn causal_attention_with_log_sums(qkv: CubeTensor, n_head: usize) -> [CubeTensor; 2] {
        let [b, t, width] = qkv.shape().dims();
        let pieces: Vec<_> = (0..b)
            .map(|i| Piece {
                prefix: 0..0,
                own: i * t..(i + 1) * t,
            })
            .collect();
        let [mixed, log_sums] = attention::forward(qkv, n_head, &pieces);
        [reshaped(mixed, [b, t, width / 3]), log_sums]
    }

    fn causal_attention_grad(
        qkv: CubeTensor,
        mixed: CubeTensor,
        log_sums: CubeTensor,
        grad: CubeTensor,
        n_head: usize,
    ) -> CubeTensor {
        attention::backward(qkv, mixed, log_sums, grad, n_head)
    }

    fn linear_gelu(x: CubeTensor, weight: CubeTensor, bias: CubeTensor) -> [CubeTensor; 2] {
        let inner = product(x, weight);
        let out = elementwise::gelu(inner.clone(), bias);
        [inner, out]
    }

    fn gelu_grad(inner: CubeTensor, bias: CubeTensor, grad: CubeTensor) -> CubeTensor {
        elementwise::gelu_grad(inner, bias, grad)
    }

    fn layer_norm_grads(
        x: CubeTensor,
        weight: CubeTensor,
        grad: CubeTensor,
        epsilon: f64,
        wanted: [bool; 2],
    ) -> (Option<CubeTensor>, Option<[CubeTensor; 2]>) {
        let (dx, weights) = norm::layer_norm_grads(x, weight, grad, epsilon, wanted[1]);
        (Some(dx), weights)
    }

    fn linear_cross_entropy_with_grad(
        hidden: CubeTensor,
        head: CubeTensor,
        targets: CubeTensor,
        wanted: [bool; 2],
    ) -> (CubeTensor, [Option<CubeTensor>; 2]) {
        loss::linear_cross_entropy(hidden, head, targets, wanted)
    }

    fn scaled(x: CubeTensor, factor: CubeTensor) -> CubeTensor {
        elementwise::scaled(x, factor)
    }
}

impl PackedOps for CubeBackend {
    fn fused_packed_attention(qkv: CubeTensor, n_head: usize, pieces: Arc<[Piece]>) -> CubeTensor {
        let [mixed, _] = attention::forward(qkv, n_head, &pieces);
        mixed
    }

    fn fused_target_nll(
        hidden: CubeTensor,
        head: CubeTensor,
        rows: CubeTensor,
        targets: CubeTensor,
    ) -> CubeTensor {
        loss::target_scores(Self::float_select(hidden, 0, rows), head, targets)
    }
}
