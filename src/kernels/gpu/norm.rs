//! LayerNorm, one cube to a row, and sums over rows.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{Operand, ROW_UNITS, contiguous, cubes, elem, empty, f32s, grid, rows, vector};
use super::reduce::{cube_sum, total};

/// Lanes along the columns, and rows at a time, of a cube that sums over rows.
const COLUMN_LANES: u32 = 32;
const COLUMN_ROWS: u32 = 8;
/// Rows that one cube sums.
const ROWS_PER_CUBE: usize = 256;

/// Mean and 1 / √(var + ε) of the cube's row.
#[cube]
fn moments<N: Size>(
    x: &[Vector<f32, N>],
    epsilon: f32,
    room: &mut Shared<[f32]>,
    #[comptime] width: usize,
) -> (f32, f32) {
    let first = CUBE_POS * width;
    let count = f32::cast_from(width * N::value());
    let mut sum = Vector::<f32, N>::new(0.0);
    for i in range_stepped(UNIT_POS as usize, width, CUBE_DIM as usize) {
        sum += x[first + i];
    }
    let mean = cube_sum(total::<N>(sum), room) / count;
    let mut squares = Vector::<f32, N>::new(0.0);
    for i in range_stepped(UNIT_POS as usize, width, CUBE_DIM as usize) {
        let centred = x[first + i] - Vector::new(mean);
        squares += centred * centred;
    }
    let variance = cube_sum(total::<N>(squares), room) / count;
    (mean, 1.0f32 / (variance + epsilon).sqrt())
}

#[cube(launch)]
fn layer_norm_kernel<O: Float, N: Size>(
    x: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    bias: &[Vector<f32, N>],
    out: &mut [Vector<O, N>],
    epsilon: f32,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[define(O)] _elem: ElemType,
) {
    let row = CUBE_POS;
    if row < x.len() / width {
        let mut room = Shared::<[f32]>::new_slice(units);
        let (mean, rstd) = moments::<N>(x, epsilon, &mut room, width);
        for i in range_stepped(UNIT_POS as usize, width, CUBE_DIM as usize) {
            let normal = (x[row * width + i] - Vector::new(mean)) * Vector::new(rstd);
            out[row * width + i] = Vector::cast_from(normal * weight[i] + bias[i]);
        }
    }
}

/// Also leaves mean and 1 / √(var + ε) of every row in `stats` `[N, 2]`.
#[cube(launch)]
fn layer_norm_grad_kernel<E: Float, N: Size>(
    x: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    grad: &[Vector<E, N>],
    dx: &mut [Vector<f32, N>],
    stats: &mut [f32],
    epsilon: f32,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[define(E)] _elem: ElemType,
) {
    let row = CUBE_POS;
    if row < x.len() / width {
        let mut room = Shared::<[f32]>::new_slice(units);
        let count = f32::cast_from(width * N::value());
        let (mean, rstd) = moments::<N>(x, epsilon, &mut room, width);
        let mut sum = Vector::<f32, N>::new(0.0);
        let mut dot = Vector::<f32, N>::new(0.0);
        for i in range_stepped(UNIT_POS as usize, width, CUBE_DIM as usize) {
            let normal = (x[row * width + i] - Vector::new(mean)) * Vector::new(rstd);
            let g = Vector::<f32, N>::cast_from(grad[row * width + i]) * weight[i];
            sum += g;
            dot += g * normal;
        }
        let sum = cube_sum(total::<N>(sum), &mut room) / count;
        let dot = cube_sum(total::<N>(dot), &mut room) / count;
        for i in range_stepped(UNIT_POS as usize, width, CUBE_DIM as usize) {
            let normal = (x[row * width + i] - Vector::new(mean)) * Vector::new(rstd);
            let g = Vector::<f32, N>::cast_from(grad[row * width + i]) * weight[i];
            let centred = g - Vector::new(sum) - normal * Vector::new(dot);
            dx[row * width + i] = centred * Vector::new(rstd);
        }
        if UNIT_POS == 0 {
            stats[2 * row] = mean;
            stats[2 * row + 1] = rstd;
        }
    }
}

/// Sums over [`ROWS_PER_CUBE`] rows at a time: of `grad` to the second half of `out`
/// `[2, pieces, D]`, and where `normal` of grad · x̂ to its first half.
#[cube(launch)]
fn column_sums_kernel<E: Float, N: Size>(
    grad: &[Vector<E, N>],
    x: &[Vector<f32, N>],
    stats: &[f32],
    out: &mut [Vector<f32, N>],
    #[comptime] width: usize,
    #[comptime] normal: bool,
    #[define(E)] _elem: ElemType,
) {
    let lanes = comptime!(COLUMN_LANES as usize);
    let depth = comptime!(COLUMN_ROWS as usize);
    let blocks = comptime!(width.div_ceil(COLUMN_LANES as usize));
    let piece = CUBE_POS / blocks;
    let column = (CUBE_POS % blocks) * lanes + UNIT_POS_X as usize;
    let count = grad.len() / width;
    let first = min(piece * ROWS_PER_CUBE, count);
    let end = min(first + ROWS_PER_CUBE, count);
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut scaled = Vector::<f32, N>::new(0.0);
    if column < width {
        for row in range_stepped(first + UNIT_POS_Y as usize, end, depth) {
            let g = Vector::<f32, N>::cast_from(grad[row * width + column]);
            sum += g;
            if comptime!(normal) {
                let mean = Vector::new(stats[2 * row]);
                scaled += g * (x[row * width + column] - mean) * Vector::new(stats[2 * row + 1]);
            }
        }
    }
    let mut room = Shared::<[Vector<f32, N>]>::new_slice(2usize * lanes * depth);
    let at = UNIT_POS as usize;
    room[at] = sum;
    room[lanes * depth + at] = scaled;
    sync_cube();
    let pieces = out.len() / (2 * width);
    if UNIT_POS_Y == 0 && column < width && piece < pieces {
        for row in 1..depth {
            sum += room[row * lanes + at];
            scaled += room[(depth + row) * lanes + at];
        }
        out[(pieces + piece) * width + column] = sum;
        if comptime!(normal) {
            out[piece * width + column] = scaled;
        }
    }
}

/// `out[d]` = Σ over pieces of `parts` `[pieces, D]`, from row `first` on.
#[cube(launch)]
fn sum_pieces_kernel<N: Size>(
    parts: &[Vector<f32, N>],
    out: &mut [Vector<f32, N>],
    first: usize,
    pieces: usize,
) {
    if ABSOLUTE_POS < out.len() {
        let mut sum = Vector::<f32, N>::new(0.0);
        for piece in 0..pieces {
            sum += parts[(first + piece) * out.len() + ABSOLUTE_POS];
        }
        out[ABSOLUTE_POS] = sum;
    }
}

/// A cube for each of `count` rows of `width` vectors.
fn row_cubes(x: &CubeTensor, count: usize, width: usize) -> (CubeCount, CubeDim) {
    let units = width.next_power_of_two().clamp(32, ROW_UNITS as usize);
    (cubes(&x.client, count), CubeDim::new_1d(units as u32))
}

pub(super) fn layer_norm(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    epsilon: f64,
    dtype: DType,
) -> CubeTensor {
    let [x, weight, bias] = [x, weight, bias].map(f32s);
    let out = empty(&x, x.meta.shape().clone(), dtype);
    let [count, d] = rows(&x);
    let n = vector(d);
    let (cubes, dim) = row_cubes(&x, count, d / n);
    let (client, elem) = (x.client.clone(), elem(&out));
    let [x, weight, bias, normal] = [x, weight, bias, out.clone()].map(Operand::operand);
    let epsilon = epsilon as f32;
    layer_norm_kernel::launch(
        &client,
        cubes,
        dim,
        n,
        x,
        weight,
        bias,
        normal,
        epsilon,
        d / n,
        dim.x as usize,
        elem,
    );
    out
}

/// Gradient of x, and if `weights` those of weight and bias.
pub(super) fn layer_norm_grads(
    x: CubeTensor,
    weight: CubeTensor,
    grad: CubeTensor,
    epsilon: f64,
    weights: bool,
) -> (CubeTensor, Option<[CubeTensor; 2]>) {
    let ([x, weight], grad) = ([x, weight].map(f32s), contiguous(grad));
    let [count, d] = rows(&x);
    let n = vector(d);
    let dx = empty(&x, x.meta.shape().clone(), DType::F32);
    let stats = empty(&x, [count, 2], DType::F32);
    let (cubes, dim) = row_cubes(&x, count, d / n);
    let client = x.client.clone();
    layer_norm_grad_kernel::launch(
        &client,
        cubes,
        dim,
        n,
        x.clone().operand(),
        weight.operand(),
        grad.clone().operand(),
        dx.clone().operand(),
        stats.clone().operand(),
        epsilon as f32,
        d / n,
        dim.x as usize,
        elem(&grad),
    );
    (dx, weights.then(|| column_sums(grad, Some((x, stats)))))
}

/// Sum over all but the last axis.
pub(super) fn row_sum(grad: CubeTensor) -> CubeTensor {
    let [_, sum] = column_sums(contiguous(grad), None);
    sum
}

/// Σ grad · x̂ and Σ grad over rows; without x and its statistics, the first is nothing.
fn column_sums(grad: CubeTensor, x: Option<(CubeTensor, CubeTensor)>) -> [CubeTensor; 2] {
    let [count, d] = rows(&grad);
    let n = vector(d);
    let (width, pieces) = (d / n, count.div_ceil(ROWS_PER_CUBE));
    let parts = empty(&grad, [2, pieces, d], DType::F32);
    let normal = x.is_some();
    let (x, stats) =
        x.unwrap_or_else(|| (empty(&grad, [d], DType::F32), empty(&grad, [2], DType::F32)));
    let client = grad.client.clone();
    let blocks = width.div_ceil(COLUMN_LANES as usize);
    column_sums_kernel::launch(
        &client,
        cubes(&client, pieces * blocks),
        CubeDim::new_2d(COLUMN_LANES, COLUMN_ROWS),
        n,
        grad.clone().operand(),
        x.operand(),
        stats.operand(),
        parts.clone().operand(),
        width,
        normal,
        elem(&grad),
    );
    [0, pieces].map(|first| {
        let out = empty(&grad, [d], DType::F32);
        if first == 0 && !normal {
            return out;
        }
        let (count, dim) = grid(&client, width);
        let (parts, sums) = (parts.clone().operand(), out.clone().operand());
        sum_pieces_kernel::launch(&client, count, dim, n, parts, sums, first, pieces);
        out
    })
}
