//! Causal attention on the CPU, one task per (sequence, head).
//!
//! The scores of a head exist for [`ROWS`] queries at a time and only up to the last key these
//! see. What the backward pass needs of them is one number per query, the logarithm of the
//! softmax's denominator: it makes the weights again (arXiv 2205.14135).

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, ShapeBuilder, Slice};
use rayon::prelude::*;

use super::math::{self, vectorized};

/// Queries at a time: few enough to skip most of the future, enough for a fast product.
const ROWS: usize = 64;

/// B, T, H and S of a joint projection `[B, T, 3D]`, D = H·S.
#[derive(Clone, Copy, Debug)]
pub struct Dims {
    pub b: usize,
    pub t: usize,
    pub h: usize,
    pub s: usize,
}

impl Dims {
    fn d(self) -> usize {
        self.h * self.s
    }

    fn scale(self) -> f32 {
        1.0 / (self.s as f32).sqrt()
    }

    /// `[T, S]` of head `task % H` of sequence `task / H` in `[B, T, parts · D]`.
    fn view(self, x: &[f32], task: usize, parts: usize, part: usize) -> ArrayView2<'_, f32> {
        let width = parts * self.d();
        let start = task / self.h * self.t * width + part * self.d() + task % self.h * self.s;
        ArrayView2::from_shape((self.t, self.s).strides((width, 1)), &x[start..])
            .expect("a head lies within its tensor")
    }

    /// Q, K and V of one head, each `[T, S]`.
    fn heads(self, qkv: &[f32], task: usize) -> [ArrayView2<'_, f32>; 3] {
        [0, 1, 2].map(|part| self.view(qkv, task, 3, part))
    }

    /// Per-head results `[T, S]`, `parts` of them, side by side as `[B, T, parts · D]`.
    fn join(self, heads: &[Vec<Array2<f32>>], parts: usize) -> Vec<f32> {
        let width = parts * self.d();
        let mut out = vec![0.0; self.b * self.t * width];
        out.par_chunks_mut(width)
            .enumerate()
            .for_each(|(row, out)| {
                let (b, t) = (row / self.t, row % self.t);
                for (i, out) in out.chunks_exact_mut(self.s).enumerate() {
                    let (part, h) = (i / self.h, i % self.h);
                    let values = heads[b * self.h + h][part].row(t);
                    out.copy_from_slice(values.to_slice().expect("rows are contiguous"));
                }
            });
        out
    }
}

/// Mixed values `[B, T, D]`, and log Σ exp of every query's scaled scores `[B, H, T]`.
pub fn forward(qkv: &[f32], dims: Dims) -> (Vec<f32>, Vec<f32>) {
    let mut log_sums = vec![0.0; dims.b * dims.h * dims.t];
    let mixed: Vec<_> = log_sums
        .par_chunks_mut(dims.t)
        .enumerate()
        .map(|(task, log_sums)| vec![head_forward(dims, dims.heads(qkv, task), log_sums)])
        .collect();
    (dims.join(&mixed, 1), log_sums)
}

/// Gradient of `qkv`, from the forward pass's results and their gradient `[B, T, D]`.
pub fn backward(
    qkv: &[f32],
    mixed: &[f32],
    log_sums: &[f32],
    grad: &[f32],
    dims: Dims,
) -> Vec<f32> {
    let grads: Vec<_> = log_sums
        .par_chunks(dims.t)
        .enumerate()
        .map(|(task, log_sums)| {
            let [mixed, grad] = [mixed, grad].map(|x| dims.view(x, task, 1, 0));
            head_backward(dims, dims.heads(qkv, task), mixed, log_sums, grad)
        })
        .collect();
    dims.join(&grads, 3)
}

/// First query and end of every group.
fn groups(t: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..t)
        .step_by(ROWS)
        .map(move |start| (start, (start + ROWS).min(t)))
}

/// `[rows, columns]` at the start of `room`.
fn matrix(room: &mut [f32], rows: usize, columns: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, columns), &mut room[..rows * columns])
        .expect("room for a group of queries")
}

fn head_forward(dims: Dims, [q, k, v]: [ArrayView2<f32>; 3], log_sums: &mut [f32]) -> Array2<f32> {
    let mut out = Array2::zeros((dims.t, dims.s)); // [T, S]
    let mut room = vec![0.0; ROWS.min(dims.t) * dims.t];
    for (start, end) in groups(dims.t) {
        let q = q.slice_axis(Axis(0), Slice::from(start..end));
        let keys = Slice::from(..end);
        let mut weights = matrix(&mut room, end - start, end); // [rows, end]
        general_mat_mul(
            dims.scale(),
            &q,
            &k.slice_axis(Axis(0), keys).t(),
            0.0,
            &mut weights,
        );
        vectorized(|| softmax(&mut room, start, end, &mut log_sums[start..end]));
        let weights = matrix(&mut room, end - start, end);
        let mut out = out.slice_axis_mut(Axis(0), Slice::from(start..end));
        general_mat_mul(1.0, &weights, &v.slice_axis(Axis(0), keys), 0.0, &mut out);
    }
    out
}

/// Causal softmax of the scores of queries `start..end`, each row `end` long.
#[inline(always)]
pub(super) fn softmax(room: &mut [f32], start: usize, end: usize, log_sums: &mut [f32]) {
    for (i, (row, log_sum)) in room.chunks_exact_mut(end).zip(log_sums).enumerate() {
        let (seen, future) = row.split_at_mut(start + i + 1);
        let max = math::max(seen);
        seen.iter_mut().for_each(|s| *s = math::exp(*s - max));
        let total = math::sum(seen, |e| e);
        let factor = 1.0 / total;
        seen.iter_mut().for_each(|e| *e *= factor);
        future.fill(0.0);
        *log_sum = max + total.ln();
    }
}

/// dQ, dK and dV, each `[T, S]`.
///
/// With weights P and their gradient dP = dO·Vᵀ, the scores' gradient is
/// P ∘ (dP − rowsum(dO ∘ O)).
fn head_backward(
    dims: Dims,
    [q, k, v]: [ArrayView2<f32>; 3],
    mixed: ArrayView2<f32>,
    log_sums: &[f32],
    grad: ArrayView2<f32>,
) -> Vec<Array2<f32>> {
    let zeros = || Array2::zeros((dims.t, dims.s));
    let (mut dq, mut dk, mut dv) = (zeros(), zeros(), zeros());
    let rows = ROWS.min(dims.t);
    let (mut p_room, mut ds_room) = (vec![0.0; rows * dims.t], vec![0.0; rows * dims.t]);
    for (start, end) in groups(dims.t) {
        let n = end - start;
        let (queries, keys) = (Slice::from(start..end), Slice::from(..end));
        let [q, grad, mixed] = [&q, &grad, &mixed].map(|x| x.slice_axis(Axis(0), queries));
        let [k, v] = [&k, &v].map(|x| x.slice_axis(Axis(0), keys));
        let scores = &mut matrix(&mut p_room, n, end); // [n, end]
        general_mat_mul(dims.scale(), &q, &k.t(), 0.0, scores);
        general_mat_mul(1.0, &grad, &v.t(), 0.0, &mut matrix(&mut ds_room, n, end));
        let dots: Vec<f32> = grad
            .rows()
            .into_iter()
            .zip(mixed.rows())
            .map(|(g, o)| g.dot(&o))
            .collect();
        vectorized(|| {
            let log_sums = &log_sums[start..end];
            scores_grad(&mut p_room, &mut ds_room, start, end, log_sums, &dots);
        });
        let p = matrix(&mut p_room, n, end);
        let ds = matrix(&mut ds_room, n, end);
        general_mat_mul(
            1.0,
            &p.t(),
            &grad,
            1.0,
            &mut dv.slice_axis_mut(Axis(0), keys),
        );
        general_mat_mul(
            dims.scale(),
            &ds,
            &k,
            0.0,
            &mut dq.slice_axis_mut(Axis(0), queries),
        );
        general_mat_mul(
            dims.scale(),
            &ds.t(),
            &q,
            1.0,
            &mut dk.slice_axis_mut(Axis(0), keys),
        );
    }
    vec![dq, dk, dv]
}

/// Scores become weights, the weights' gradient that of the scores.
#[inline(always)]
fn scores_grad(
    p: &mut [f32],
    ds: &mut [f32],
    start: usize,
    end: usize,
    log_sums: &[f32],
    dots: &[f32],
) {
    let rows = p.chunks_exact_mut(end).zip(ds.chunks_exact_mut(end));
    for (i, ((p, ds), (&log_sum, &dot))) in rows.zip(log_sums.iter().zip(dots)).enumerate() {
        let (p, p_future) = p.split_at_mut(start + i + 1);
        let (ds, ds_future) = ds.split_at_mut(start + i + 1);
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = math::exp(*p - log_sum);
            *ds = *p * (*ds - dot);
        }
        p_future.fill(0.0);
        ds_future.fill(0.0);
    }
}
