//! Token and position embeddings.
//!
//! A token's gradient is the sum over all places where it stands. Atomic additions would make
//! it in any order; here the first place of each token adds up the later ones in turn.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{
    Operand, contiguous, empty, f32s, grid, ids as as_i32, len, owned, rows, vector,
};

#[cube(launch)]
fn embed_kernel<N: Size>(
    wte: &[Vector<f32, N>],
    wpe: &[Vector<f32, N>],
    ids: &[i32],
    out: &mut [Vector<f32, N>],
    start: usize,
    t: usize,
    #[comptime] width: usize,
) {
    if ABSOLUTE_POS < out.len() {
        let place = ABSOLUTE_POS / width;
        let column = ABSOLUTE_POS % width;
        let id = ids[place] as usize;
        let position = start + place % t;
        out[ABSOLUTE_POS] = wte[id * width + column] + wpe[position * width + column];
    }
}

/// For every place, that of the same token's next one (else the number of places), and whether
/// it is the first: `[N, 2]`.
#[cube(launch)]
fn places_kernel(ids: &[i32], out: &mut [u32]) {
    if ABSOLUTE_POS < ids.len() {
        let id = ids[ABSOLUTE_POS];
        let mut next = ABSOLUTE_POS + 1;
        while next < ids.len() && ids[next] != id {
            next += 1;
        }
        // One further back than the place looked at, so that 0 ends the search.
        let mut before = ABSOLUTE_POS;
        while before > 0 && ids[before - 1] != id {
            before -= 1;
        }
        out[2 * ABSOLUTE_POS] = next as u32;
        out[2 * ABSOLUTE_POS + 1] = select(before == 0, 1u32, 0u32);
    }
}

#[cube(launch)]
fn token_grads_kernel<N: Size>(
    sums: &mut [Vector<f32, N>],
    ids: &[i32],
    places: &[u32],
    grad: &[Vector<f32, N>],
    #[comptime] width: usize,
) {
    if ABSOLUTE_POS < grad.len() {
        let first = ABSOLUTE_POS / width;
        let column = ABSOLUTE_POS % width;
        if places[2 * first + 1] == 1 {
            let at = ids[first] as usize * width + column;
            let mut sum = sums[at];
            let mut place = first;
            while place < ids.len() {
                sum += grad[place * width + column];
                place = places[2 * place] as usize;
            }
            sums[at] = sum;
        }
    }
}

#[cube(launch)]
fn position_grads_kernel<N: Size>(
    sums: &mut [Vector<f32, N>],
    grad: &[Vector<f32, N>],
    start: usize,
    sequences: usize,
    #[comptime] width: usize,
) {
    let each = grad.len() / sequences;
    if ABSOLUTE_POS < each {
        let at = start * width + ABSOLUTE_POS;
        let mut sum = sums[at];
        for sequence in 0..sequences {
            sum += grad[sequence * each + ABSOLUTE_POS];
        }
        sums[at] = sum;
    }
}

pub(super) fn embed(wte: CubeTensor, wpe: CubeTensor, ids: CubeTensor, start: usize) -> CubeTensor {
    let ([wte, wpe], ids) = ([wte, wpe].map(f32s), as_i32(ids));
    let [b, t] = rows(&ids);
    let [_, d] = rows(&wte);
    let out = empty(&wte, [b, t, d], DType::F32);
    let n = vector(d);
    let (count, dim) = grid(&wte.client, len(&out) / n);
    let client = wte.client.clone();
    let [wte, wpe, ids, sums] = [wte, wpe, ids, out.clone()].map(Operand::operand);
    embed_kernel::launch(&client, count, dim, n, wte, wpe, ids, sums, start, t, d / n);
    out
}

/// Adds the gradient `[B, T, D]` of rows picked by ids `[B, T]` to `sum` `[V, D]`.
pub(super) fn add_token_grads(sum: CubeTensor, ids: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let (sum, ids, grad) = (owned(sum), as_i32(ids), f32s(grad));
    let [_, d] = rows(&sum);
    let client = sum.client.clone();
    let places = empty(&sum, [len(&ids), 2], DType::U32);
    let (count, dim) = grid(&client, len(&ids));
    let (of, found) = (ids.clone().operand(), places.clone().operand());
    places_kernel::launch(&client, count, dim, of, found);
    let n = vector(d);
    let (count, dim) = grid(&client, len(&grad) / n);
    let [ids, places, grad, sums] = [ids, places, grad, sum.clone()].map(Operand::operand);
    token_grads_kernel::launch(&client, count, dim, n, sums, ids, places, grad, d / n);
    sum
}

/// Adds the gradient `[B, T, D]` of rows `start..` to `sum` `[P, D]`.
pub(super) fn add_position_grads(sum: CubeTensor, grad: CubeTensor, start: usize) -> CubeTensor {
    let (sum, grad) = (owned(sum), contiguous(grad));
    let [_, d] = rows(&sum);
    let sequences = grad.meta.shape()[0];
    let n = vector(d);
    let client = sum.client.clone();
    let (count, dim) = grid(&client, len(&grad) / sequences / n);
    let (sums, grad) = (sum.clone().operand(), f32s(grad).operand());
    position_grads_kernel::launch(&client, count, dim, n, sums, grad, start, sequences, d / n);
    sum
}
