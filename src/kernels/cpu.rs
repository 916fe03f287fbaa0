//! The fused operations on the CPU backend, forward and backward.

use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{FloatDType, Shape, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::attention::{self, Dims};
use super::autodiff::FusedGrads;
use super::gemm::{self, Matrix, Start};
use super::math::{self, TASK, vectorized};
use super::{FusedOps, LOGIT_ROWS};

/// Below so many rows, packing the weight would cost more than the product.
const FEW_ROWS: usize = 32;

/// Rows per task in row-wise operations of width `d`.
fn task_rows(d: usize) -> usize {
    (TASK / d).max(1)
}

impl FusedOps for Flex {
    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let [d, out] = last_two(&weight);
        let shape = with_last(&x, out);
        if values(&x).len() < FEW_ROWS * d {
            let mut out = Flex::float_matmul(rows_of(x), weight); // [N, out]
            add_row(owned(&mut out), values(&bias));
            return out.reshape(shape);
        }
        let [x, weight] = [&x, &weight].map(matrix);
        new(shape, gemm::product(x, weight, Start::Row(values(&bias))))
    }

    fn fused_embed(wte: FlexTensor, wpe: FlexTensor, ids: FlexTensor, start: usize) -> FlexTensor {
        let [wte, wpe] = [wte, wpe].map(contiguous);
        let [b, t] = last_two(&ids);
        let [_, d] = last_two(&wte);
        let mut out = vec![0.0; b * t * d];
        let rows = out.chunks_exact_mut(d).zip(indices(&ids)).enumerate();
        for (i, (out, id)) in rows {
            let position = start + i % t;
            let token = &values(&wte)[id * d..(id + 1) * d];
            let position = &values(&wpe)[position * d..(position + 1) * d];
            for ((out, token), position) in out.iter_mut().zip(token).zip(position) {
                *out = token + position;
            }
        }
        FlexTensor::from_data(TensorData::new(out, [b, t, d]))
    }

    fn fused_causal_attention(qkv: FlexTensor, n_head: usize) -> FlexTensor {
        let [mixed, _] = Self::causal_attention_with_log_sums(qkv, n_head);
        mixed
    }

    fn fused_linear_gelu(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let [_, out] = Self::linear_gelu(x, weight, bias);
        out
    }

    fn fused_layer_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
        _dtype: FloatDType,
    ) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let d = values(&weight).len();
        let mut out = vec![0.0; values(&x).len()];
        let rows = task_rows(d) * d;
        out.par_chunks_mut(rows)
            .zip(values(&x).par_chunks(rows))
            .for_each(|(out, x)| {
                vectorized(|| {
                    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        let (mean, rstd) = moments(x, epsilon as f32);
                        for (((out, &x), &w), &b) in out
                            .iter_mut()
                            .zip(x)
                            .zip(values(&weight))
                            .zip(values(&bias))
                        {
                            *out = (x - mean) * rstd * w + b;
                        }
                    }
                });
            });
        like(&x, out)
    }

    fn fused_linear_onto(
        stream: FlexTensor,
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
    ) -> FlexTensor {
        Flex::float_add(stream, Self::fused_linear(x, weight, bias))
    }

    fn fused_linear_cross_entropy(
        hidden: FlexTensor,
        head: FlexTensor,
        targets: FlexTensor,
    ) -> FlexTensor {
        let [hidden, head] = [hidden, head].map(contiguous);
        let [n, d] = last_two(&hidden);
        let targets = indices(&targets);
        let total: f64 = logit_chunks(&hidden, &head)
            .map(|(start, hidden, mut logits)| {
                let targets = &targets[start..start + hidden.len() / d];
                nll_sum(&mut logits, targets, None)
            })
            .sum();
        scalar(total / n as f64)
    }
}

impl FusedGrads for Flex {
    fn linear_x_grad(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let [weight, grad] = [weight, grad].map(contiguous);
        let shape = with_last(&grad, last_two(&weight)[0]);
        let dx = gemm::product(matrix(&grad), matrix(&weight).t(), Start::Zero);
        new(shape, dx)
    }

    fn linear_weight_grad(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let [x, grad] = [x, grad].map(contiguous);
        let [x, grad] = [&x, &grad].map(matrix);
        let shape = [x.columns(), grad.columns()];
        new(shape.into(), gemm::product(x.t(), grad, Start::Zero))
    }

    fn row_sum(grad: FlexTensor) -> FlexTensor {
        let grad = rows_of(grad);
        let [_, d] = last_two(&grad);
        // Partial sums per task, added in order: the same for any number of threads.
        let partial: Vec<Vec<f32>> = values(&grad)
            .par_chunks(task_rows(d) * d)
            .map(|rows| {
                let mut sum = vec![0.0; d];
                vectorized(|| rows.chunks_exact(d).for_each(|row| add_to(&mut sum, row)));
                sum
            })
            .collect();
        let mut sum = vec![0.0; d];
        partial.iter().for_each(|part| add_to(&mut sum, part));
        FlexTensor::from_data(TensorData::new(sum, [d]))
    }

    fn add_token_grads(sum: FlexTensor, ids: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let [mut sum, grad] = [sum, grad].map(contiguous);
        let [_, d] = last_two(&sum);
        let sums = owned(&mut sum);
        for (row, id) in values(&grad).chunks_exact(d).zip(indices(&ids)) {
            add_to(&mut sums[id * d..(id + 1) * d], row);
        }
        sum
    }

    fn add_position_grads(sum: FlexTensor, grad: FlexTensor, start: usize) -> FlexTensor {
        let [mut sum, grad] = [sum, grad].map(contiguous);
        let [t, d] = last_two(&grad);
        let sums = &mut owned(&mut sum)[start * d..(start + t) * d];
        for sequence in values(&grad).chunks_exact(t * d) {
            add_assign(sums, sequence);
        }
        sum
    }

    fn causal_attention_with_log_sums(qkv: FlexTensor, n_head: usize) -> [FlexTensor; 2] {
        let qkv = contiguous(qkv);
        let dims = attention_dims(&qkv, n_head);
        let (mixed, log_sums) = attention::forward(values(&qkv), dims);
        let Dims { b, t, h, s } = dims;
        [
            FlexTensor::from_data(TensorData::new(mixed, [b, t, h * s])),
            FlexTensor::from_data(TensorData::new(log_sums, [b, h, t])),
        ]
    }

    fn causal_attention_grad(
        qkv: FlexTensor,
        mixed: FlexTensor,
        log_sums: FlexTensor,
        grad: FlexTensor,
        n_head: usize,
    ) -> FlexTensor {
        let [qkv, mixed, log_sums, grad] = [qkv, mixed, log_sums, grad].map(contiguous);
        let dims = attention_dims(&qkv, n_head);
        let made = attention::backward(
            values(&qkv),
            values(&mixed),
            values(&log_sums),
            values(&grad),
            dims,
        );
        like(&qkv, made)
    }

    /// The product is kept with its bias, which costs nothing there.
    fn linear_gelu(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> [FlexTensor; 2] {
        let inner = Self::fused_linear(x, weight, bias);
        let out = like(&inner, math::map(values(&inner), math::gelu));
        [inner, out]
    }

    fn gelu_grad(inner: FlexTensor, _bias: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let grad = contiguous(grad);
        let slope_times = |x, g| math::gelu_slope(x) * g;
        like(
            &inner,
            math::map2(values(&inner), values(&grad), slope_times),
        )
    }

    fn layer_norm_grads(
        x: FlexTensor,
        weight: FlexTensor,
        grad: FlexTensor,
        epsilon: f64,
        wanted: [bool; 2],
    ) -> (Option<FlexTensor>, Option<[FlexTensor; 2]>) {
        let [x, weight, grad] = [x, weight, grad].map(contiguous);
        (
            wanted[0].then(|| layer_norm_x_grad(&x, &weight, &grad, epsilon as f32)),
            wanted[1].then(|| layer_norm_weight_grads(&x, &weight, &grad, epsilon as f32)),
        )
    }

    fn linear_cross_entropy_with_grad(
        hidden: FlexTensor,
        head: FlexTensor,
        targets: FlexTensor,
        wanted: [bool; 2],
    ) -> (FlexTensor, [Option<FlexTensor>; 2]) {
        let [hidden, head] = [hidden, head].map(contiguous);
        let [n, d] = last_two(&hidden);
        let targets = indices(&targets);
        let mut total = 0.0;
        let [mut d_hidden, mut d_head] = [(&hidden, wanted[0]), (&head, wanted[1])]
            .map(|(of, wanted)| wanted.then(|| vec![0.0; values(of).len()]));
        for (start, hidden, mut logits) in logit_chunks(&hidden, &head) {
            let chunk = hidden.len() / d;
            let targets = &targets[start..start + chunk];
            total += nll_sum(&mut logits, targets, Some(1.0 / n as f32));
            let logits = Matrix::new(&logits, logits.len() / chunk); // [rows, V], now a gradient
            if let Some(d_hidden) = &mut d_hidden {
                let out = &mut d_hidden[start * d..(start + chunk) * d];
                gemm::multiply(out, logits, matrix(&head), Start::Zero);
            }
            if let Some(d_head) = &mut d_head {
                let sum = if start == 0 { Start::Zero } else { Start::Out };
                gemm::multiply(d_head, logits.t(), Matrix::new(hidden, d), sum);
            }
        }
        let grads = [
            d_hidden.map(|grad| like(&hidden, grad)),
            d_head.map(|grad| like(&head, grad)),
        ];
        (scalar(total / n as f64), grads)
    }

    fn scaled(mut x: FlexTensor, factor: FlexTensor) -> FlexTensor {
        let factor = values(&contiguous(factor))[0];
        if factor != 1.0 {
            owned(&mut x)
                .par_chunks_mut(TASK)
                .for_each(|x| vectorized(|| x.iter_mut().for_each(|x| *x *= factor)));
        }
        x
    }
}

fn layer_norm_x_grad(
    x: &FlexTensor,
    weight: &FlexTensor,
    grad: &FlexTensor,
    epsilon: f32,
) -> FlexTensor {
    let d = values(weight).len();
    let rows = task_rows(d) * d;
    let mut dx = vec![0.0; values(x).len()];
    dx.par_chunks_mut(rows)
        .zip(values(x).par_chunks(rows))
        .zip(values(grad).par_chunks(rows))
        .for_each(|((dx, x), grad)| {
            vectorized(|| {
                let rows = x.chunks_exact(d).zip(grad.chunks_exact(d));
                for (dx, (x, grad)) in dx.chunks_exact_mut(d).zip(rows) {
                    layer_norm_row_grad(dx, x, grad, values(weight), epsilon);
                }
            });
        });
    like(x, dx)
}

fn layer_norm_weight_grads(
    x: &FlexTensor,
    weight: &FlexTensor,
    grad: &FlexTensor,
    epsilon: f32,
) -> [FlexTensor; 2] {
    let d = values(weight).len();
    let rows = task_rows(d) * d;
    // Partial sums per task, added in order: the same for any number of threads.
    let partial: Vec<Vec<f32>> = values(x)
        .par_chunks(rows)
        .zip(values(grad).par_chunks(rows))
        .map(|(x, grad)| {
            let mut sums = vec![0.0; 2 * d];
            vectorized(|| {
                for (x, grad) in x.chunks_exact(d).zip(grad.chunks_exact(d)) {
                    layer_norm_row_weight_grad(x, grad, epsilon, &mut sums);
                }
            });
            sums
        })
        .collect();
    let mut sums = vec![0.0; 2 * d];
    partial.iter().for_each(|part| add_to(&mut sums, part));
    let bias = sums.split_off(d);
    [like(weight, sums), like(weight, bias)]
}

fn attention_dims(qkv: &FlexTensor, n_head: usize) -> Dims {
    let shape = qkv.layout().shape();
    Dims {
        b: shape[0],
        t: shape[1],
        h: n_head,
        s: shape[2] / 3 / n_head,
    }
}

/// A contiguous `[.., D]` as `[N, D]`.
fn matrix(x: &FlexTensor) -> Matrix<'_> {
    let [_, d] = last_two(x);
    Matrix::new(values(x), d)
}

/// The shape of `x`, but for its last axis.
fn with_last(x: &FlexTensor, last: usize) -> Shape {
    let mut shape = x.layout().shape().clone();
    let axis = shape.num_dims() - 1;
    shape[axis] = last;
    shape
}

fn new(shape: Shape, values: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// `[.., D] -> [N, D]`, contiguous.
fn rows_of(x: FlexTensor) -> FlexTensor {
    let x = contiguous(x);
    let [_, d] = last_two(&x);
    let n = values(&x).len() / d;
    x.reshape([n, d].into())
}

/// Adds `row` `[D]` to every row of `x` `[N, D]`.
fn add_row(x: &mut [f32], row: &[f32]) {
    let d = row.len();
    x.par_chunks_mut(task_rows(d) * d)
        .for_each(|x| vectorized(|| x.chunks_exact_mut(d).for_each(|x| add_to(x, row))));
}

#[inline(always)]
fn add_to(sum: &mut [f32], part: &[f32]) {
    sum.iter_mut()
        .zip(part)
        .for_each(|(sum, part)| *sum += part);
}

/// First row, hidden states and logits `[rows, V]` of up to [`LOGIT_ROWS`] rows at a time.
fn logit_chunks<'a>(
    hidden: &'a FlexTensor,
    head: &'a FlexTensor,
) -> impl Iterator<Item = (usize, &'a [f32], Vec<f32>)> {
    let [_, d] = last_two(head);
    let chunks = values(hidden).chunks(LOGIT_ROWS * d).enumerate();
    chunks.map(move |(i, hidden)| {
        let logits = gemm::product(Matrix::new(hidden, d), matrix(head).t(), Start::Zero);
        (i * LOGIT_ROWS, hidden, logits)
    })
}

/// Σ −log softmax(logits)[target] over the rows; with `grad_scale`, the logits are replaced by
/// their gradient, (softmax − onehot) · `grad_scale`.
fn nll_sum(logits: &mut [f32], targets: &[usize], grad_scale: Option<f32>) -> f64 {
    let v = logits.len() / targets.len();
    let losses: Vec<f32> = logits
        .par_chunks_mut(v)
        .zip(targets)
        .map(|(row, &target)| {
            vectorized(|| {
                let max = math::max(row);
                let of_target = row[target] - max;
                row.iter_mut().for_each(|x| *x = math::exp(*x - max));
                let total = math::sum(row, |e| e);
                if let Some(scale) = grad_scale {
                    let factor = scale / total;
                    row.iter_mut().for_each(|e| *e *= factor);
                    row[target] -= scale;
                }
                total.ln() - of_target
            })
        })
        .collect();
    losses.into_iter().map(f64::from).sum()
}

/// Mean and 1/√(var + ε) of a row.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = math::sum(x, |x| x) / n;
    let variance = math::sum(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// With x̂ = (x − mean)·rstd and ĝ = g·w: dx = rstd·(ĝ − mean(ĝ) − x̂·mean(ĝ·x̂)).
#[inline(always)]
fn layer_norm_row_grad(dx: &mut [f32], x: &[f32], grad: &[f32], weight: &[f32], epsilon: f32) {
    let d = x.len();
    let (mean, rstd) = moments(x, epsilon);
    for (dx, (&g, &w)) in dx.iter_mut().zip(grad.iter().zip(weight)) {
        *dx = g * w;
    }
    let mean_g = math::sum(dx, |g| g) / d as f32;
    let mean_gx = math::sum2(dx, x, |g, x| g * (x - mean) * rstd) / d as f32;
    for (dx, &x) in dx.iter_mut().zip(x) {
        *dx = rstd * (*dx - mean_g - (x - mean) * rstd * mean_gx);
    }
}

/// dw += g·x̂, db += g; `sums` is dw and db end to end.
#[inline(always)]
fn layer_norm_row_weight_grad(x: &[f32], grad: &[f32], epsilon: f32, sums: &mut [f32]) {
    let (mean, rstd) = moments(x, epsilon);
    let (dw, db) = sums.split_at_mut(x.len());
    for (((dw, db), &x), &g) in dw.iter_mut().zip(db).zip(x).zip(grad) {
        *dw += g * (x - mean) * rstd;
        *db += g;
    }
}

pub(super) fn add_assign(sum: &mut [f32], part: &[f32]) {
    sum.par_chunks_mut(TASK)
        .zip(part.par_chunks(TASK))
        .for_each(|(sum, part)| {
            vectorized(|| add_to(sum, part));
        });
}

/// The tensor laid out row-major from its first byte to its last.
pub(super) fn contiguous(x: FlexTensor) -> FlexTensor {
    let exact = x.is_contiguous()
        && x.layout().start_offset() == 0
        && x.bytes().len() == x.layout().num_elements() * 4;
    if exact { x } else { x.to_contiguous() }
}

/// Values of a contiguous tensor.
pub(super) fn values(x: &FlexTensor) -> &[f32] {
    x.as_slice().expect("a contiguous f32 tensor")
}

/// Values of a contiguous tensor for writing: in place if nobody else holds it, else a copy.
pub(super) fn owned(x: &mut FlexTensor) -> &mut [f32] {
    x.storage_mut()
}

fn like(x: &FlexTensor, out: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(out, x.layout().shape().clone()))
}

pub(super) fn scalar(x: f64) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(vec![x as f32], [1]))
}

pub(super) fn last_two(x: &FlexTensor) -> [usize; 2] {
    let shape = x.layout().shape();
    let rank = shape.num_dims();
    [shape[rank - 2], shape[rank - 1]]
}

pub(super) fn indices(x: &FlexTensor) -> Vec<usize> {
    let data = x.clone().into_data().convert::<i64>();
    data.iter::<i64>()
        .map(|i| usize::try_from(i).expect("token ids are not negative"))
        .collect()
}
