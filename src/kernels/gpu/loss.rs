//! Cross-entropy of logits that exist for a piece of the rows only, one cube to a row.
//!
//! The head is padded with rows of zeros to a multiple of [`ALIGN`] classes, so that rows of
//! logits begin where loads are aligned; the padding takes no part in the softmax.

use std::ops::Range;

use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{Operand, ROW_UNITS, contiguous, cubes, elem, empty, ids, rows, vector};
use super::reduce::{cube_max, cube_sum, sum_scaled};
use super::{matmul, reshaped, transposed};
use crate::kernels::GPU_LOGIT_ROWS;

/// Classes come in multiples of this.
const ALIGN: usize = 64;

/// −log softmax of the row's target, and 1 where it is the likeliest, the first of equals: row
/// of `out` `[N, 2]`. With `grad`, the logits become (softmax − one-hot) · scale.
#[cube(launch)]
fn cross_entropy_kernel<E: Float, N: Size>(
    logits: &mut [Vector<E, N>],
    targets: &[i32],
    out: &mut [f32],
    scale: f32,
    classes: usize,
    #[comptime] width: usize,
    #[comptime] grad: bool,
    #[define(E)] _elem: ElemType,
) {
    let row = CUBE_POS;
    if row < targets.len() {
        let mut room = Shared::<[f32]>::new_slice(comptime!(ROW_UNITS as usize));
        let first = row * width;
        let target = targets[row] as usize;
        let wanted = f32::cast_from(
            logits[first + target / N::value()].extract_dynamic(target % N::value()),
        );
        let mut largest = f32::min_value();
        let mut beaten = 0.0f32;
        for i in range_stepped(UNIT_POS as usize, width, CUBE_DIM as usize) {
            let x = Vector::<f32, N>::cast_from(logits[first + i]);
            #[unroll]
            for k in 0..N::value() {
                let class = i * N::value() + k;
                if class < classes {
                    let x = x.extract(k);
                    largest = max(largest, x);
                    if x > wanted || (x == wanted && class < target) {
                        beaten = 1.0f32;
                    }
                }
            }
        }
        let largest = cube_max(largest, &mut room);
        let beaten = cube_max(beaten, &mut room);
        let mut total = 0.0f32;
        for i in range_stepped(UNIT_POS as usize, width, CUBE_DIM as usize) {
            let x = Vector::<f32, N>::cast_from(logits[first + i]);
            #[unroll]
            for k in 0..N::value() {
                if i * N::value() + k < classes {
                    total += (x.extract(k) - largest).exp();
                }
            }
        }
        let total = cube_sum(total, &mut room);
        if UNIT_POS == 0 {
            out[2 * row] = total.ln() + largest - wanted;
            out[2 * row + 1] = 1.0f32 - beaten;
        }
        if comptime!(grad) {
            let share = scale / total;
            for i in range_stepped(UNIT_POS as usize, width, CUBE_DIM as usize) {
                let mut x = Vector::<f32, N>::cast_from(logits[first + i]);
                #[unroll]
                for k in 0..N::value() {
                    let class = i * N::value() + k;
                    let mut slope = 0.0f32;
                    if class < classes {
                        slope = (x.extract(k) - largest).exp() * share;
                    }
                    if class == target {
                        slope -= scale;
                    }
                    x.insert(k, slope);
                }
                logits[first + i] = Vector::cast_from(x);
            }
        }
    }
}

/// Runs the kernel over logits `[N, padded V]`; with `scale`, they become gradients.
fn scores(
    logits: &CubeTensor,
    targets: CubeTensor,
    classes: usize,
    scale: Option<f32>,
) -> CubeTensor {
    let [count, d] = rows(logits);
    let out = empty(logits, [count, 2], DType::F32);
    let n = vector(d);
    let client = logits.client.clone();
    cross_entropy_kernel::launch(
        &client,
        cubes(&client, count),
        CubeDim::new_1d(ROW_UNITS),
        n,
        logits.clone().operand(),
        targets.operand(),
        out.clone().operand(),
        scale.unwrap_or(0.0),
        classes,
        d / n,
        scale.is_some(),
        elem(logits),
    );
    out
}

/// Rows `range` of a contiguous `x`, whatever its rank.
fn slice(x: &CubeTensor, range: Range<usize>) -> CubeTensor {
    contiguous(burn_cubecl::kernel::slice(x.clone(), &[range]))
}

/// Pieces of the rows `0..n`.
fn pieces(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n)
        .step_by(GPU_LOGIT_ROWS)
        .map(move |start| start..(start + GPU_LOGIT_ROWS).min(n))
}

/// Negative log-likelihood of targets `[N]` in the logits of hidden `[N, D]` · head `[V, D]`ᵀ,
/// and 1 where the target is the likeliest: `[N, 2]`.
pub(super) fn target_scores(
    hidden: CubeTensor,
    head: CubeTensor,
    targets: CubeTensor,
) -> CubeTensor {
    let [n, _] = rows(&hidden);
    let classes = rows(&head)[0];
    let head = padded(head, classes.next_multiple_of(ALIGN), hidden.dtype);
    let targets = ids(targets);
    let parts = pieces(n).map(|range| {
        let logits = matmul(
            slice(&hidden, range.clone()),
            transposed(head.clone()),
            hidden.dtype,
        );
        scores(&logits, slice(&targets, range), classes, None)
    });
    let parts: Vec<_> = parts.collect();
    CubeBackend::float_cat(parts, 0)
}

/// Mean cross-entropy `[1]`, and those of its gradients that are wanted, in hidden states and
/// head.
pub(super) fn linear_cross_entropy(
    hidden: CubeTensor,
    head: CubeTensor,
    targets: CubeTensor,
    wanted: [bool; 2],
) -> (CubeTensor, [Option<CubeTensor>; 2]) {
    let [n, d] = rows(&hidden);
    let (classes, dtype) = (rows(&head)[0], hidden.dtype);
    let head = padded(head, classes.next_multiple_of(ALIGN), dtype); // [V, D]
    let targets = ids(targets);
    let scale = (wanted != [false, false]).then(|| 1.0 / n as f32);
    let (mut losses, mut d_hidden, mut d_head) = (Vec::new(), Vec::new(), None);
    for range in pieces(n) {
        let part = slice(&hidden, range.clone()); // [rows, D]
        let logits = matmul(part.clone(), transposed(head.clone()), dtype); // [rows, V]
        let found = scores(&logits, slice(&targets, range.clone()), classes, scale);
        let found = burn_cubecl::kernel::slice(found, &[0..range.len(), 0..1]);
        losses.push(contiguous(found));
        if wanted[0] {
            d_hidden.push(matmul(logits.clone(), head.clone(), dtype));
        }
        if wanted[1] {
            let part = matmul(transposed(logits), part, DType::F32); // [V, D]
            d_head = Some(match d_head {
                Some(sum) => CubeBackend::float_add(sum, part),
                None => part,
            });
        }
    }
    let losses = contiguous(CubeBackend::float_cat(losses, 0));
    let loss = sum_scaled(losses, 1.0 / n as f32);
    let d_hidden = wanted[0].then(|| CubeBackend::float_cat(d_hidden, 0));
    let d_head = d_head.map(|grad| slice(&grad, 0..classes));
    (
        reshaped(loss, [1]),
        [d_hidden.map(|grad| reshaped(grad, [n, d])), d_head],
    )
}

/// x `[N, D]` in another type, with rows of zeros up to `count`.
fn padded(x: CubeTensor, count: usize, dtype: DType) -> CubeTensor {
    let [n, d] = rows(&x);
    let x = burn_cubecl::kernel::cast(x, dtype);
    if n == count {
        return contiguous(x);
    }
    let zeros = burn_cubecl::ops::numeric::zeros(x.device.clone(), [count - n, d].into(), dtype);
    contiguous(CubeBackend::float_cat(vec![x, zeros], 0))
}
