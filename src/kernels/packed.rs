//! What scoring needs beside training's operations: attention of sequences packed end to end,
//! and log-likelihoods of chosen tokens. No gradients.
//!
//! Every value here is the same bits whatever else is in the pack: sums run over a sequence's
//! own keys and a row's own logits, in one order.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::FlexTensor;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};
use rayon::prelude::*;

use super::attention::softmax;
use super::cpu::{contiguous, indices, last_two, values};
use super::gemm::{self, Matrix, Start};
use super::math::{self, vectorized};
use super::{on_cpu, plain};

/// Rows of logits at a time.
const LOGIT_ROWS: usize = 128;
/// Queries at a time.
const QUERIES: usize = 64;

/// Tokens of a pack that follow one another, and what stands before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the tokens before it lie in the pack; empty if it begins a sequence.
    pub prefix: Range<usize>,
    /// Where its own lie.
    pub own: Range<usize>,
}

/// Operations on packs.
#[backend_extension(Flex)]
pub trait PackedOps: Backend {
    /// Causal attention within every piece and to all of its prefix. `[N, 3D] -> [N, D]`
    fn fused_packed_attention(
        qkv: FloatTensor<Self>,
        n_head: usize,
        pieces: Arc<[Piece]>,
    ) -> FloatTensor<Self>;

    /// Negative log-likelihood of targets `[P]` in the logits of hidden `[R, D]` · headᵀ, target
    /// i in row `rows[i]`, and 1 where it has the largest logit; `[P, 2]`.
    fn fused_target_nll(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        rows: IntTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// Causal attention of Q, K and V side by side within every piece of a pack, and to all of its
/// prefix. The pieces cover the pack in order. `[N, 3D] -> [N, D]`
pub fn packed_attention(qkv: Tensor<2>, n_head: usize, pieces: &Arc<[Piece]>) -> Tensor<2> {
    if !on_cpu(&qkv) {
        return plain::packed_attention(qkv, n_head, pieces);
    }
    Tensor::from_dispatch(Dispatch::fused_packed_attention(
        qkv.into_dispatch(),
        n_head,
        Arc::clone(pieces),
    ))
}

/// Negative log-likelihoods of targets, in nats, and whether each is the likeliest of its row,
/// the first of equals.
///
/// # Shapes
/// - hidden `[R, D]`, head `[V, D]`
/// - output: one pair for each (row, target) of `picks`
pub fn target_nll(hidden: Tensor<2>, head: Tensor<2>, picks: &[(usize, u32)]) -> Vec<(f64, bool)> {
    let device = hidden.device();
    let ints = |values: Vec<i64>| -> Tensor<1, Int> {
        let len = values.len();
        Tensor::from_data(TensorData::new(values, [len]), &device)
    };
    let rows = ints(picks.iter().map(|&(row, _)| row as i64).collect());
    let targets = ints(picks.iter().map(|&(_, id)| i64::from(id)).collect());
    let scores: Tensor<2> = if on_cpu(&hidden) {
        Tensor::from_dispatch(Dispatch::fused_target_nll(
            hidden.into_dispatch(),
            head.into_dispatch(),
            rows.into_dispatch(),
            targets.into_dispatch(),
        ))
    } else {
        plain::target_nll(hidden, head, rows, targets)
    };
    let scores: Vec<f64> = scores.into_data().iter::<f64>().collect(); // [P, 2]
    scores
        .chunks_exact(2)
        .map(|s| (s[0], s[1] == 1.0))
        .collect()
}

impl PackedOps for Flex {
    fn fused_packed_attention(qkv: FlexTensor, n_head: usize, pieces: Arc<[Piece]>) -> FlexTensor {
        let qkv = contiguous(qkv);
        let [n, width] = last_two(&qkv);
        let pack = Pack {
            qkv: values(&qkv),
            d: width / 3,
            s: width / 3 / n_head,
        };
        // Head by head, so that every piece of every head is a task with a place of its own.
        let mut mixed = vec![0.0; n * pack.d]; // [H, N, S]
        let mut tasks = Vec::with_capacity(pieces.len() * n_head);
        for (head, mut rest) in mixed.chunks_exact_mut(n * pack.s).enumerate() {
            for piece in pieces.iter() {
                let (own, later) = rest.split_at_mut(piece.own.len() * pack.s);
                tasks.push((head, piece, own));
                rest = later;
            }
        }
        tasks
            .into_par_iter()
            .for_each_init(Room::default, |room, (head, piece, own)| {
                pack.attend(piece, head, own, room);
            });
        let mut out = vec![0.0; n * pack.d];
        out.par_chunks_mut(pack.d)
            .enumerate()
            .for_each(|(row, out)| {
                let heads = mixed.chunks_exact(n * pack.s);
                for (out, mixed) in out.chunks_exact_mut(pack.s).zip(heads) {
                    out.copy_from_slice(&mixed[row * pack.s..(row + 1) * pack.s]);
                }
            });
        FlexTensor::from_data(TensorData::new(out, [n, pack.d]))
    }

    fn fused_target_nll(
        hidden: FlexTensor,
        head: FlexTensor,
        rows: FlexTensor,
        targets: FlexTensor,
    ) -> FlexTensor {
        let [hidden, head] = [hidden, head].map(contiguous);
        let [r, d] = last_two(&hidden);
        let [v, _] = last_two(&head);
        let mut picks: Vec<Vec<(usize, usize)>> = vec![Vec::new(); r];
        let (rows, targets) = (indices(&rows), indices(&targets));
        for (i, (&row, &target)) in rows.iter().zip(&targets).enumerate() {
            picks[row].push((i, target));
        }
        let mut out = vec![0.0; 2 * rows.len()];
        let mut logits = vec![0.0; LOGIT_ROWS.min(r) * v];
        let chunks = values(&hidden).chunks(LOGIT_ROWS * d);
        for (hidden, picks) in chunks.zip(picks.chunks(LOGIT_ROWS)) {
            let logits = &mut logits[..picks.len() * v];
            let (hidden, head) = (Matrix::new(hidden, d), Matrix::new(values(&head), d));
            gemm::multiply(logits, hidden, head.t(), Start::Zero);
            let found: Vec<(usize, f32, bool)> = logits
                .par_chunks_mut(v)
                .zip(picks)
                .flat_map_iter(|(row, picks)| vectorized(|| row_nll(row, picks)))
                .collect();
            for (i, nll, greedy) in found {
                out[2 * i] = nll;
                out[2 * i + 1] = f32::from(u8::from(greedy));
            }
        }
        FlexTensor::from_data(TensorData::new(out, [rows.len(), 2]))
    }
}

/// Scores of the targets in one row of logits, which is used up.
#[inline(always)]
fn row_nll(row: &mut [f32], picks: &[(usize, usize)]) -> Vec<(usize, f32, bool)> {
    let max = math::max(row);
    let mut found = Vec::with_capacity(picks.len());
    for &(i, target) in picks {
        // The first of equals is the likeliest, as in numpy and PyTorch.
        let greedy = row[target] == max && !row[..target].contains(&max);
        found.push((i, max - row[target], greedy));
    }
    row.iter_mut().for_each(|x| *x = math::exp(*x - max));
    let log_total = math::sum(row, |e| e).ln();
    found.iter_mut().for_each(|(_, nll, _)| *nll += log_total);
    found
}

/// Q, K and V of a pack, `[N, 3D]`.
#[derive(Clone, Copy)]
struct Pack<'a> {
    qkv: &'a [f32],
    d: usize,
    s: usize,
}

/// Buffers of one task.
#[derive(Default)]
struct Room {
    keys: Vec<f32>,
    values: Vec<f32>,
    weights: Vec<f32>,
    log_sums: Vec<f32>,
}

impl Pack<'_> {
    /// Where the head's part of a row begins.
    fn at(&self, row: usize, part: usize, head: usize) -> usize {
        row * 3 * self.d + part * self.d + head * self.s
    }

    /// One part of one head, of the rows in turn, side by side.
    fn gather(&self, part: usize, head: usize, piece: &Piece, out: &mut Vec<f32>) {
        out.clear();
        for row in piece.prefix.clone().chain(piece.own.clone()) {
            let at = self.at(row, part, head);
            out.extend_from_slice(&self.qkv[at..at + self.s]);
        }
    }

    /// Writes what one head mixes for a piece's rows, `[own, S]`.
    fn attend(&self, piece: &Piece, head: usize, rows: &mut [f32], room: &mut Room) {
        let (past, own, s) = (piece.prefix.len(), piece.own.len(), self.s);
        self.gather(1, head, piece, &mut room.keys);
        self.gather(2, head, piece, &mut room.values);
        room.weights.resize(QUERIES.min(own) * (past + own), 0.0);
        room.log_sums.resize(QUERIES, 0.0);
        let keys = ArrayView2::from_shape((past + own, s), &room.keys).expect("gathered");
        let mixed = ArrayView2::from_shape((past + own, s), &room.values).expect("gathered");
        for first in (0..own).step_by(QUERIES) {
            let count = QUERIES.min(own - first);
            let seen = past + first + count;
            let at = self.at(piece.own.start + first, 0, head);
            let q = ArrayView2::from_shape((count, s).strides((3 * self.d, 1)), &self.qkv[at..])
                .expect("rows of the pack"); // [count, S]
            let weights = &mut room.weights[..count * seen];
            let mut view = ArrayViewMut2::from_shape((count, seen), &mut *weights).expect("room");
            let keys = keys.slice(ndarray::s![..seen, ..]);
            let scale = 1.0 / (s as f32).sqrt();
            general_mat_mul(scale, &q, &keys.t(), 0.0, &mut view);
            let log_sums = &mut room.log_sums[..count];
            vectorized(|| softmax(weights, past + first, seen, log_sums));
            let weights = ArrayView2::from_shape((count, seen), &*weights).expect("room");
            let out = &mut rows[first * s..(first + count) * s];
            let mut out = ArrayViewMut2::from_shape((count, s), out).expect("rows of a piece");
            let mixed = mixed.slice(ndarray::s![..seen, ..]);
            general_mat_mul(1.0, &weights, &mixed, 0.0, &mut out);
        }
    }
}
