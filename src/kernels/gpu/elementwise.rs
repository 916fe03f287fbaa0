//! One value in, one value out, and what layers' biases are added along with.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{Operand, contiguous, elem, empty, f32s, grid, len, owned, rows, vector};

/// √(2/π).
const ROOT_2_OVER_PI: f32 = 0.797_884_6;
/// The cubic term's weight in the tanh-GELU.
const CUBIC: f32 = 0.044_715;

#[cube]
fn gelu_tanh<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    ((x + x * x * x * Vector::new(CUBIC)) * Vector::new(ROOT_2_OVER_PI)).tanh()
}

/// GELU of x + row, for every row of x.
#[cube(launch)]
fn gelu_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    row: &[Vector<f32, N>],
    out: &mut [Vector<E, N>],
    #[define(E)] _elem: ElemType,
) {
    if ABSOLUTE_POS < out.len() {
        let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]) + row[ABSOLUTE_POS % row.len()];
        let one = Vector::new(1.0f32);
        let y = x * Vector::new(0.5f32) * (one + gelu_tanh::<N>(x));
        out[ABSOLUTE_POS] = Vector::cast_from(y);
    }
}

#[cube(launch)]
fn gelu_grad_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    row: &[Vector<f32, N>],
    grad: &[Vector<E, N>],
    out: &mut [Vector<E, N>],
    #[define(E)] _elem: ElemType,
) {
    if ABSOLUTE_POS < out.len() {
        let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]) + row[ABSOLUTE_POS % row.len()];
        let grad = Vector::<f32, N>::cast_from(grad[ABSOLUTE_POS]);
        let (one, half) = (Vector::new(1.0f32), Vector::new(0.5f32));
        let t = gelu_tanh::<N>(x);
        let inner = (one + x * x * Vector::new(3.0f32 * CUBIC)) * Vector::new(ROOT_2_OVER_PI);
        let slope = half * (one + t) + half * x * (one - t * t) * inner;
        out[ABSOLUTE_POS] = Vector::cast_from(grad * slope);
    }
}

/// x + row, for every row of x.
#[cube(launch)]
fn add_row_kernel<E: Float, N: Size>(
    x: &mut [Vector<E, N>],
    row: &[Vector<f32, N>],
    #[define(E)] _elem: ElemType,
) {
    if ABSOLUTE_POS < x.len() {
        let sum = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]) + row[ABSOLUTE_POS % row.len()];
        x[ABSOLUTE_POS] = Vector::cast_from(sum);
    }
}

/// x in f32, plus y in a type of its own, plus row for every row.
#[cube(launch)]
fn residual_kernel<E: Float, N: Size>(
    x: &[Vector<f32, N>],
    y: &[Vector<E, N>],
    row: &[Vector<f32, N>],
    out: &mut [Vector<f32, N>],
    #[define(E)] _elem: ElemType,
) {
    if ABSOLUTE_POS < out.len() {
        let y = Vector::<f32, N>::cast_from(y[ABSOLUTE_POS]) + row[ABSOLUTE_POS % row.len()];
        out[ABSOLUTE_POS] = x[ABSOLUTE_POS] + y;
    }
}

#[cube(launch)]
fn scaled_kernel<E: Float, N: Size>(
    x: &mut [Vector<E, N>],
    factor: &[f32],
    #[define(E)] _elem: ElemType,
) {
    if ABSOLUTE_POS < x.len() {
        let scaled = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]) * Vector::new(factor[0]);
        x[ABSOLUTE_POS] = Vector::cast_from(scaled);
    }
}

/// GELU of x `[.., D]` + row `[D]`.
pub(super) fn gelu(x: CubeTensor, row: CubeTensor) -> CubeTensor {
    let (x, row) = (contiguous(x), f32s(row));
    let out = empty(&x, x.meta.shape().clone(), x.dtype);
    let n = vector(rows(&x)[1]);
    let (count, dim) = grid(&x.client, len(&x) / n);
    let (client, elem) = (x.client.clone(), elem(&x));
    let [x, row, result] = [x, row, out.clone()].map(Operand::operand);
    gelu_kernel::launch(&client, count, dim, n, x, row, result, elem);
    out
}

/// Gradient of x, from that of [`gelu`].
pub(super) fn gelu_grad(x: CubeTensor, row: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let ([x, grad], row) = ([x, grad].map(contiguous), f32s(row));
    let out = empty(&x, x.meta.shape().clone(), x.dtype);
    let n = vector(rows(&x)[1]);
    let (count, dim) = grid(&x.client, len(&x) / n);
    let (client, elem) = (x.client.clone(), elem(&x));
    let [x, row, grad, result] = [x, row, grad, out.clone()].map(Operand::operand);
    gelu_grad_kernel::launch(&client, count, dim, n, x, row, grad, result, elem);
    out
}

/// Adds `row` `[D]` to every row of x `[.., D]`, in place.
pub(super) fn add_row(x: CubeTensor, row: CubeTensor) -> CubeTensor {
    let (x, row) = (owned(x), f32s(row));
    let n = vector(rows(&x)[1]);
    let (count, dim) = grid(&x.client, len(&x) / n);
    let (client, elem) = (x.client.clone(), elem(&x));
    let (sums, row) = (x.clone().operand(), row.operand());
    add_row_kernel::launch(&client, count, dim, n, sums, row, elem);
    x
}

/// x `[.., D]` + y `[.., D]` + row `[D]`, in f32.
pub(super) fn residual(x: CubeTensor, y: CubeTensor, row: CubeTensor) -> CubeTensor {
    let ([x, row], y) = ([x, row].map(f32s), contiguous(y));
    let out = empty(&x, x.meta.shape().clone(), DType::F32);
    let n = vector(rows(&x)[1]);
    let (count, dim) = grid(&x.client, len(&x) / n);
    let (client, elem) = (x.client.clone(), elem(&y));
    let [x, y, row, result] = [x, y, row, out.clone()].map(Operand::operand);
    residual_kernel::launch(&client, count, dim, n, x, y, row, result, elem);
    out
}

/// x · factor, factor `[1]`, in place.
pub(super) fn scaled(x: CubeTensor, factor: CubeTensor) -> CubeTensor {
    let (x, factor) = (owned(x), f32s(factor));
    let n = vector(len(&x));
    let (count, dim) = grid(&x.client, len(&x) / n);
    let (client, elem) = (x.client.clone(), elem(&x));
    let (product, factor) = (x.clone().operand(), factor.operand());
    scaled_kernel::launch(&client, count, dim, n, product, factor, elem);
    x
}
