//! The fused operations on the CPU backend, forward and backward.

use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::TensorData;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::autodiff::FusedGrads;
use super::math::{self, TASK, vectorized};
use super::{FusedOps, LOGIT_ROWS};

/// Rows per task in row-wise operations of width `d`.
fn task_rows(d: usize) -> usize {
    (TASK / d).max(1)
}

impl FusedOps for Flex {
    fn fused_gelu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(x);
        like(&x, math::map(values(&x), math::gelu))
    }

    fn fused_layer_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
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

    fn fused_causal_softmax(scores: FlexTensor, scale: f64) -> FlexTensor {
        let mut scores = contiguous(scores);
        let [t, u] = last_two(&scores);
        let scale = scale as f32;
        // One task per (sequence, head): its rows share a causal triangle.
        owned(&mut scores).par_chunks_mut(t * u).for_each(|matrix| {
            vectorized(|| {
                for (row, weights) in matrix.chunks_exact_mut(u).enumerate() {
                    let (seen, future) = weights.split_at_mut(u - t + row + 1);
                    let max = math::max(seen);
                    seen.iter_mut()
                        .for_each(|s| *s = math::exp((*s - max) * scale));
                    let total = 1.0 / math::sum(seen, |e| e);
                    seen.iter_mut().for_each(|s| *s *= total);
                    future.fill(0.0);
                }
            });
        });
        scores
    }

    fn fused_linear_cross_entropy(
        hidden: FlexTensor,
        head: FlexTensor,
        targets: FlexTensor,
    ) -> FlexTensor {
        let n = hidden.layout().shape()[0];
        let targets = indices(&targets);
        let total: f64 = logit_chunks(&hidden, &head)
            .map(|(start, mut logits)| nll_sum(&mut logits, &targets[start..], None))
            .sum();
        scalar(total / n as f64)
    }
}

impl FusedGrads for Flex {
    fn gelu_grad(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let [x, grad] = [x, grad].map(contiguous);
        like(
            &x,
            math::map2(values(&x), values(&grad), |x, g| math::gelu_slope(x) * g),
        )
    }

    fn layer_norm_grad(
        x: FlexTensor,
        weight: FlexTensor,
        grad: FlexTensor,
        epsilon: f64,
    ) -> [FlexTensor; 3] {
        let [x, weight, grad] = [x, weight, grad].map(contiguous);
        let d = values(&weight).len();
        let rows = task_rows(d) * d;
        let mut dx = vec![0.0; values(&x).len()];
        // Partial sums of the parameter gradients, per task and added in order: the result
        // does not depend on how many threads there are.
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(rows)
            .zip(values(&x).par_chunks(rows))
            .zip(values(&grad).par_chunks(rows))
            .map(|((dx, x), grad)| {
                let mut sums = vec![0.0; 2 * d];
                vectorized(|| {
                    for ((dx, x), grad) in dx
                        .chunks_exact_mut(d)
                        .zip(x.chunks_exact(d))
                        .zip(grad.chunks_exact(d))
                    {
                        layer_norm_row_grad(
                            dx,
                            x,
                            grad,
                            values(&weight),
                            epsilon as f32,
                            &mut sums,
                        );
                    }
                });
                sums
            })
            .collect();
        let mut sums = vec![0.0; 2 * d];
        for part in partial {
            sums.iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
        }
        let bias = sums.split_off(d);
        [like(&x, dx), like(&weight, sums), like(&weight, bias)]
    }

    fn causal_softmax_grad(weights: FlexTensor, grad: FlexTensor, scale: f64) -> FlexTensor {
        let (weights, mut grad) = (contiguous(weights), contiguous(grad));
        let [t, u] = last_two(&weights);
        let scale = scale as f32;
        owned(&mut grad)
            .par_chunks_mut(t * u)
            .zip(values(&weights).par_chunks(t * u))
            .for_each(|(grad, weights)| {
                vectorized(|| {
                    for (row, (grad, weights)) in grad
                        .chunks_exact_mut(u)
                        .zip(weights.chunks_exact(u))
                        .enumerate()
                    {
                        let (seen, future) = grad.split_at_mut(u - t + row + 1);
                        let dot = math::sum2(seen, &weights[..seen.len()], |g, w| g * w);
                        seen.iter_mut()
                            .zip(weights)
                            .for_each(|(g, &w)| *g = scale * w * (*g - dot));
                        future.fill(0.0);
                    }
                });
            });
        grad
    }

    fn linear_cross_entropy_with_grad(
        hidden: FlexTensor,
        head: FlexTensor,
        targets: FlexTensor,
    ) -> [FlexTensor; 3] {
        let shape = hidden.layout().shape().clone();
        let (n, d) = (shape[0], shape[1]);
        let targets = indices(&targets);
        let (mut total, mut d_hidden) = (0.0, Vec::with_capacity(n * d));
        let mut d_head: Option<FlexTensor> = None;
        for (start, mut logits) in logit_chunks(&hidden, &head) {
            let rows = logits.layout().shape()[0];
            total += nll_sum(&mut logits, &targets[start..], Some(1.0 / n as f32));
            let piece = Flex::float_matmul(logits.clone(), head.clone()); // [rows, D]
            d_hidden.extend_from_slice(values(&piece));
            let piece = Flex::float_matmul(logits.transpose(0, 1), hidden.narrow(0, start, rows)); // [V, D]
            d_head = Some(match d_head {
                None => piece,
                Some(mut sum) => {
                    let piece = contiguous(piece);
                    add_assign(owned(&mut sum), values(&piece));
                    sum
                }
            });
        }
        let d_hidden = FlexTensor::from_data(TensorData::new(d_hidden, [n, d]));
        [
            scalar(total / n as f64),
            d_hidden,
            d_head.expect("a batch has at least one token"),
        ]
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

/// Logits `[rows, V]` of up to [`LOGIT_ROWS`] rows at a time, each with its first row.
fn logit_chunks<'a>(
    hidden: &'a FlexTensor,
    head: &'a FlexTensor,
) -> impl Iterator<Item = (usize, FlexTensor)> + 'a {
    let n = hidden.layout().shape()[0];
    (0..n).step_by(LOGIT_ROWS).map(move |start| {
        let rows = LOGIT_ROWS.min(n - start);
        let logits = Flex::float_matmul(hidden.narrow(0, start, rows), head.transpose(0, 1));
        (start, contiguous(logits))
    })
}

/// Σ −log softmax(logits)[target] over the rows; with `grad_scale`, the logits are replaced by
/// their gradient, (softmax − onehot) · `grad_scale`.
fn nll_sum(logits: &mut FlexTensor, targets: &[usize], grad_scale: Option<f32>) -> f64 {
    let v = logits.layout().shape()[1];
    let losses: Vec<f32> = owned(logits)
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

/// With x̂ = (x − mean)·rstd and ĝ = g·w: dx = rstd·(ĝ − mean(ĝ) − x̂·mean(ĝ·x̂)),
/// dw += g·x̂, db += g. `sums` is dw and db end to end.
#[inline(always)]
fn layer_norm_row_grad(
    dx: &mut [f32],
    x: &[f32],
    grad: &[f32],
    weight: &[f32],
    epsilon: f32,
    sums: &mut [f32],
) {
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
    let (dw, db) = sums.split_at_mut(d);
    for (((dw, db), &x), &g) in dw.iter_mut().zip(db).zip(x).zip(grad) {
        *dw += g * (x - mean) * rstd;
        *db += g;
    }
}

fn add_assign(sum: &mut [f32], part: &[f32]) {
    sum.par_chunks_mut(TASK)
        .zip(part.par_chunks(TASK))
        .for_each(|(sum, part)| {
            vectorized(|| {
                sum.iter_mut()
                    .zip(part)
                    .for_each(|(sum, part)| *sum += part)
            });
        });
}

/// The tensor laid out row-major from its first byte to its last.
fn contiguous(x: FlexTensor) -> FlexTensor {
    let exact = x.is_contiguous()
        && x.layout().start_offset() == 0
        && x.bytes().len() == x.layout().num_elements() * 4;
    if exact { x } else { x.to_contiguous() }
}

/// Values of a contiguous tensor.
fn values(x: &FlexTensor) -> &[f32] {
    x.as_slice().expect("a contiguous f32 tensor")
}

/// Values of a contiguous tensor for writing: in place if nobody else holds it, else a copy.
fn owned(x: &mut FlexTensor) -> &mut [f32] {
    x.storage_mut()
}

fn like(x: &FlexTensor, out: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(out, x.layout().shape().clone()))
}

fn scalar(x: f64) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(vec![x as f32], [1]))
}

fn last_two(x: &FlexTensor) -> [usize; 2] {
    let shape = x.layout().shape();
    let rank = shape.num_dims();
    [shape[rank - 2], shape[rank - 1]]
}

fn indices(x: &FlexTensor) -> Vec<usize> {
    let data = x.clone().into_data().convert::<i64>();
    data.iter::<i64>()
        .map(|i| usize::try_from(i).expect("token ids are not negative"))
        .collect()
}
