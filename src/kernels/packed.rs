//! What scoring needs beside training's operations: attention of sequences packed end to end,
//! and log-likelihoods of chosen tokens. No gradients.
//!
//! On the CPU every value here is the same bits whatever else is in the pack: sums run over a
//! sequence's own keys and a row's own logits, in one order. On a GPU products of another size
//! may sum in another order.

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
use super::{attention_is_fused, is_fused, plain};
use crate::device::read;
use crate::error::Result;

/// Columns of logits at a time: a row's softmax is summed up piece by piece, so that the head is
/// read once for all rows and no row of logits exists whole.
const LOGIT_COLUMNS: usize = 4096;
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
#[backend_extension(Flex, Cube: cfg(feature = "gpu"))]
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
    if !attention_is_fused(&qkv, n_head) {
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
///
/// # Errors
/// What made the hidden states, or this, failed on the device.
pub fn target_nll(
    hidden: Tensor<2>,
    head: Tensor<2>,
    picks: &[(usize, u32)],
) -> Result<Vec<(f64, bool)>> {
    let device = hidden.device();
    let ints = |values: Vec<i64>| -> Tensor<1, Int> {
        let len = values.len();
        Tensor::from_data(TensorData::new(values, [len]), &device)
    };
    let rows = ints(picks.iter().map(|&(row, _)| row as i64).collect());
    let targets = ints(picks.iter().map(|&(_, id)| i64::from(id)).collect());
    let scores = if is_fused(&hidden) {
        fused_target_nll(hidden, head, rows, targets)
    } else {
        plain::target_nll(hidden, head, rows, targets)
    };
    let scores = read(scores)?; // [P, 2]
    let scores: Vec<f64> = scores.iter::<f64>().collect();
    let pair = |s: &[f64]| (s[0], s[1] == 1.0);
    Ok(scores.chunks_exact(2).map(pair).collect())
}

/// The fused version of [`plain::target_nll`], where there is one.
pub(super) fn fused_target_nll(
    hidden: Tensor<2>,
    head: Tensor<2>,
    rows: Tensor<1, Int>,
    targets: Tensor<1, Int>,
) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_target_nll(
        hidden.into_dispatch(),
        head.into_dispatch(),
        rows.into_dispatch(),
        targets.into_dispatch(),
    ))
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
        let (rows, targets) = (indices(&rows), indices(&targets));
        let mut states = vec![RowState::default(); r];
        for (&row, &target) in rows.iter().zip(&targets) {
            states[row].targets.push((target, 0.0));
        }
        let mut logits = vec![0.0; r * LOGIT_COLUMNS.min(last_two(&head)[0])];
        for (i, head) in values(&head).chunks(LOGIT_COLUMNS * d).enumerate() {
            let width = head.len() / d;
            let logits = &mut logits[..r * width]; // [R, width]
            let hidden = Matrix::new(values(&hidden), d);
            gemm::multiply(logits, hidden, Matrix::new(head, d).t(), Start::Zero);
            logits
                .par_chunks_mut(width)
                .zip(&mut states)
                .for_each(|(row, state)| vectorized(|| state.add(i * LOGIT_COLUMNS, row)));
        }
        // Each row's targets come in the order in which they were asked for.
        let mut found: Vec<_> = states.iter().map(RowState::scores).collect();
        let out: Vec<f32> = rows
            .iter()
            .flat_map(|&row| found[row].next().expect("one for each target"))
            .collect();
        FlexTensor::from_data(TensorData::new(out, [rows.len(), 2]))
    }
}

/// What is known of a row of logits of which some columns were seen.
#[derive(Clone, Default)]
struct RowState {
    /// The largest logit and the first column that has it.
    largest: Option<(f32, usize)>,
    /// Σ exp(logit − largest).
    total: f64,
    /// Columns that are wanted, and their logits.
    targets: Vec<(usize, f32)>,
}

impl RowState {
    /// Takes in the columns from `first` on; `row` is used up.
    #[inline(always)]
    fn add(&mut self, first: usize, row: &mut [f32]) {
        for (column, logit) in &mut self.targets {
            if let Some(&found) = column.checked_sub(first).and_then(|at| row.get(at)) {
                *logit = found;
            }
        }
        let max = math::max(row);
        let max = match self.largest {
            // Of equals the first stays, as in numpy and PyTorch.
            Some((largest, _)) if largest >= max => largest,
            before => {
                let at = row.iter().position(|&x| x == max).unwrap_or(0);
                self.largest = Some((max, first + at));
                let shrink = before.map_or(0.0, |(largest, _)| f64::from(largest - max).exp());
                self.total *= shrink;
                max
            }
        };
        row.iter_mut().for_each(|x| *x = math::exp(*x - max));
        self.total += f64::from(math::sum(row, |e| e));
    }

    /// −log softmax of every target, and 1 where it is the likeliest.
    fn scores(&self) -> impl Iterator<Item = [f32; 2]> {
        let (largest, at) = self.largest.unwrap_or((f32::NAN, 0));
        self.targets.iter().map(move |&(column, logit)| {
            let nll = f64::from(largest - logit) + self.total.ln();
            [nll as f32, f32::from(u8::from(column == at))]
        })
    }
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
