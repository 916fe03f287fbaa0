//! Causal attention without its T × T matrix, forward and backward.
//!
//! The method is FlashAttention-2 (arXiv 2307.08691): a cube holds one tile of queries (for
//! gradients of keys and values: of keys), walks over the tiles it meets, and keeps running
//! maxima and sums of the softmax. Backward makes the weights again from log Σ exp. Gradients
//! of queries and of keys and values are two kernels without atomic additions, so that every
//! run gives the same bits.
//!
//! Products of tiles are made by the GPU's matrix units where it has them for the element type,
//! with sums in f32; else by four rows and four columns to a unit.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::cmma::{self, Matrix, MatrixIdent, MatrixLayout};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::launch::{Operand, contiguous, cubes, elem, empty, rows, vector};
use super::uploaded;
use crate::kernels::Piece;

/// Rows and columns of a product that one unit makes.
const MICRO: usize = 4;
/// Units of a cube.
const UNITS: usize = 256;
/// Numbers that say what a tile of queries sees.
const TILE_WORDS: usize = 5;

/// How a kernel cuts up its work; known when it is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Plan {
    /// Queries and keys of a tile.
    edge: usize,
    /// S.
    s: usize,
    /// S as held in tiles: a multiple of what products come in, the rest zeros.
    width: usize,
    /// Distance between rows of a tile of elements; not a multiple of the memory's banks.
    stride: usize,
    /// Distance between rows of [`Self::width`] sums.
    sum_stride: usize,
    /// Distances between rows of scores and of weights.
    score_stride: usize,
    weight_stride: usize,
    /// Edge of a product by matrix units; 0 without them.
    matrix: usize,
    /// Units of a cube and of a plane.
    units: usize,
    plane: usize,
    /// H.
    heads: usize,
}

impl Plan {
    /// The largest tiles of which a cube's shared memory holds as many as `tiles` says:
    /// of elements, of sums, of scores and of weights.
    fn new(
        client: &Client,
        dtype: DType,
        s: usize,
        heads: usize,
        tiles: [usize; 4],
    ) -> Option<Self> {
        let hardware = &client.properties().hardware;
        let matrix = matrix_edge(client, dtype);
        let bytes = dtype.size();
        let plan = |edge: usize| {
            let width = s.next_multiple_of(MICRO.max(matrix));
            Self {
                edge,
                s,
                width,
                stride: width + 16 / bytes,
                sum_stride: width + 4,
                score_stride: edge + 4,
                weight_stride: edge + 16 / bytes,
                matrix,
                units: UNITS.min(hardware.max_units_per_cube as usize),
                plane: hardware.plane_size_max.max(1) as usize,
                heads,
            }
        };
        // Two cubes at a time keep a processor busy; one is better than none.
        [
            hardware.max_shared_memory_size / 2,
            hardware.max_shared_memory_size,
        ]
        .into_iter()
        .flat_map(|room| [64, 32, 16, 8].map(|edge| (room, edge)))
        .find(|&(room, edge)| {
            let full = room == hardware.max_shared_memory_size;
            plan(edge).bytes(tiles, bytes) <= room && edge >= matrix && (full || edge >= 32)
        })
        .map(|(_, edge)| plan(edge))
    }

    fn bytes(&self, [elements, sums, scores, weights]: [usize; 4], bytes: usize) -> usize {
        let row = elements * self.stride * bytes
            + 4 * (sums * self.sum_stride + scores * self.score_stride)
            + weights * self.weight_stride * bytes;
        // Statistics of rows, and what the units of a row tell each other.
        self.edge * (row + 4 * 4) + 4 * self.units
    }

    fn dim(&self) -> CubeDim {
        CubeDim::new_2d(self.plane as u32, (self.units / self.plane) as u32)
    }
}

/// Tiles of the forward kernel, and of the two backward ones: elements, sums, scores, weights.
const FORWARD: [usize; 4] = [2, 1, 1, 1];
const QUERY_GRADS: [usize; 4] = [4, 1, 2, 1];
const KEY_GRADS: [usize; 4] = [4, 2, 2, 2];

/// Edge of square products of `dtype` with sums in f32 that the GPU has matrix units for.
fn matrix_edge(client: &Client, dtype: DType) -> usize {
    let kind = match dtype {
        DType::BF16 => FloatKind::BF16,
        DType::F16 => FloatKind::F16,
        _ => return 0,
    };
    let hardware = &client.properties().hardware;
    if hardware.plane_size_min != hardware.plane_size_max {
        return 0;
    }
    let element = ElemType::Float(kind);
    let has = |edge: u32| {
        client
            .properties()
            .features
            .matmul
            .cmma
            .iter()
            .any(|config| {
                config.a_type == element
                    && config.b_type == element
                    && config.cd_type == ElemType::Float(FloatKind::F32)
                    && [config.m, config.n, config.k] == [edge; 3]
            })
    };
    [16, 8].into_iter().find(|&edge| has(edge)).unwrap_or(0) as usize
}

/// Whether tiles of heads of width `s` fit into the GPU's shared memory.
pub(super) fn fits(client: &Client, dtype: DType, s: usize) -> bool {
    [FORWARD, QUERY_GRADS, KEY_GRADS]
        .into_iter()
        .all(|tiles| Plan::new(client, dtype, s, 1, tiles).is_some())
}

/// Where the rows of a tile lie: the first `prefix` from `prefix_start` on, the others from
/// `start` on.
#[derive(CubeType, Clone, Copy)]
struct Lie {
    prefix_start: usize,
    prefix: usize,
    start: usize,
}

/// Rows `first..` below `end` of one head's part of `from`, as a tile; zeros beyond.
#[cube]
fn load<E: Float, N: Size>(
    tile: &mut Shared<[E]>,
    from: &[Vector<E, N>],
    lie: &Lie,
    first: usize,
    end: usize,
    row_width: usize,
    offset: usize,
    #[comptime] plan: Plan,
) {
    let n = N::value();
    let per_row = comptime!(plan.width / n);
    let filled = comptime!(plan.s / n);
    for i in range_stepped(
        UNIT_POS as usize,
        comptime!(plan.edge * per_row),
        plan.units,
    ) {
        let row = i / per_row;
        let column = i % per_row;
        let index = first + row;
        let mut values = Vector::<E, N>::new(E::new(0.0));
        if index < end && column < filled {
            let at = select(
                index < lie.prefix,
                lie.prefix_start + index,
                lie.start + index - lie.prefix,
            );
            values = from[at * row_width + offset + column];
        }
        #[unroll]
        for k in 0..n {
            tile[row * plan.stride + column * n + k] = values.extract(k);
        }
    }
}

/// c `[m, n]` = a · b, or with `add` plus what c holds. Rows of a, b and c are `a_stride`,
/// `b_stride` and `c_stride` apart; a is `[m, k]`, or `[k, m]` with `a_turned`; b is `[k, n]`,
/// or `[n, k]` with `b_turned`.
#[cube]
#[allow(clippy::too_many_arguments)]
fn multiply<E: Float>(
    c: &mut Shared<[f32]>,
    a: &Shared<[E]>,
    b: &Shared<[E]>,
    #[comptime] m: usize,
    #[comptime] n: usize,
    #[comptime] k: usize,
    #[comptime] strides: [usize; 3],
    #[comptime] turned: [bool; 2],
    #[comptime] add: bool,
    #[comptime] plan: Plan,
) {
    let c_stride = comptime!(strides[0]);
    let a_stride = comptime!(strides[1]);
    let b_stride = comptime!(strides[2]);
    let a_turned = comptime!(turned[0]);
    let b_turned = comptime!(turned[1]);
    if comptime!(plan.matrix > 0) {
        let edge = comptime!(plan.matrix);
        let across = comptime!(n / plan.matrix);
        let tiles = comptime!((m / plan.matrix) * (n / plan.matrix));
        let planes = comptime!(plan.units / plan.plane);
        for tile in range_stepped(UNIT_POS_Y as usize, tiles, planes) {
            let row = tile / across * edge;
            let column = tile % across * edge;
            let at = row * c_stride + column;
            let mut sums = Matrix::<f32>::from_value(
                MatrixIdent::Accumulator,
                edge,
                edge,
                edge,
                MatrixLayout::Undefined,
                0.0f32,
            );
            if comptime!(add) {
                cmma::load_with_layout(
                    &mut sums,
                    &c[at..],
                    comptime!(c_stride as u32),
                    MatrixLayout::RowMajor,
                );
            }
            #[unroll]
            for step in 0..comptime!(k / plan.matrix) {
                let depth = step * edge;
                let a_at = if comptime!(a_turned) {
                    depth * a_stride + row
                } else {
                    row * a_stride + depth
                };
                let b_at = if comptime!(b_turned) {
                    column * b_stride + depth
                } else {
                    depth * b_stride + column
                };
                let left = Matrix::<E>::from_slice(
                    MatrixIdent::A,
                    edge,
                    edge,
                    edge,
                    comptime!(layout(a_turned)),
                    &a[a_at..],
                    comptime!(a_stride as u32),
                );
                let right = Matrix::<E>::from_slice(
                    MatrixIdent::B,
                    edge,
                    edge,
                    edge,
                    comptime!(layout(b_turned)),
                    &b[b_at..],
                    comptime!(b_stride as u32),
                );
                cmma::execute(&left, &right, &sums, &sums);
            }
            cmma::store(
                &mut c[at..],
                &sums,
                comptime!(c_stride as u32),
                MatrixLayout::RowMajor,
            );
        }
    } else {
        let across = comptime!(n / MICRO);
        let tiles = comptime!((m / MICRO) * (n / MICRO));
        let micro = comptime!(MICRO);
        for tile in range_stepped(UNIT_POS as usize, tiles, plan.units) {
            let row = tile / across * micro;
            let column = tile % across * micro;
            let mut sums = Array::<f32>::new(comptime!(MICRO * MICRO));
            #[unroll]
            for i in 0..micro {
                #[unroll]
                for j in 0..micro {
                    if comptime!(add) {
                        sums[i * micro + j] = c[(row + i) * c_stride + column + j];
                    } else {
                        sums[i * micro + j] = 0.0f32;
                    }
                }
            }
            for depth in 0..k {
                #[unroll]
                for i in 0..micro {
                    let a_at = if comptime!(a_turned) {
                        depth * a_stride + row + i
                    } else {
                        (row + i) * a_stride + depth
                    };
                    let left = f32::cast_from(a[a_at]);
                    #[unroll]
                    for j in 0..micro {
                        let b_at = if comptime!(b_turned) {
                            (column + j) * b_stride + depth
                        } else {
                            depth * b_stride + column + j
                        };
                        sums[i * micro + j] += left * f32::cast_from(b[b_at]);
                    }
                }
            }
            #[unroll]
            for i in 0..micro {
                #[unroll]
                for j in 0..micro {
                    c[(row + i) * c_stride + column + j] = sums[i * micro + j];
                }
            }
        }
    }
}

/// c = a · bᵀ: of a tile of queries and one of keys their scores.
#[cube]
fn score_products<E: Float>(
    c: &mut Shared<[f32]>,
    a: &Shared<[E]>,
    b: &Shared<[E]>,
    #[comptime] plan: Plan,
) {
    let strides = comptime!([plan.score_stride, plan.stride, plan.stride]);
    let edge = comptime!(plan.edge);
    let width = comptime!(plan.width);
    multiply::<E>(
        c,
        a,
        b,
        edge,
        edge,
        width,
        strides,
        [false, true],
        false,
        plan,
    );
}

/// c + a · b, or with `turned` c + aᵀ · b: weights or their slopes, times a tile.
#[cube]
fn add_products<E: Float>(
    c: &mut Shared<[f32]>,
    a: &Shared<[E]>,
    b: &Shared<[E]>,
    #[comptime] turned: bool,
    #[comptime] plan: Plan,
) {
    let strides = comptime!([plan.sum_stride, plan.weight_stride, plan.stride]);
    let edge = comptime!(plan.edge);
    let width = comptime!(plan.width);
    multiply::<E>(
        c,
        a,
        b,
        edge,
        width,
        edge,
        strides,
        [turned, false],
        true,
        plan,
    );
}

fn layout(turned: bool) -> MatrixLayout {
    if turned {
        MatrixLayout::ColMajor
    } else {
        MatrixLayout::RowMajor
    }
}

/// Tiles `[TILE_WORDS]` of queries: the row of the first, its number among its piece's rows,
/// how many there are, and where the prefix begins and how long it is.
#[cube(launch)]
fn forward_kernel<E: Float, N: Size>(
    qkv: &[Vector<E, N>],
    tiles: &[u32],
    out: &mut [E],
    log_sums: &mut [f32],
    scale: f32,
    #[comptime] plan: Plan,
    #[define(E)] _elem: ElemType,
) {
    let edge = comptime!(plan.edge);
    let head = CUBE_POS % plan.heads;
    let tile = CUBE_POS / plan.heads * comptime!(TILE_WORDS);
    if tile < tiles.len() {
        let first_row = tiles[tile] as usize;
        let first = tiles[tile + 1] as usize;
        let count = tiles[tile + 2] as usize;
        let prefix = tiles[tile + 4] as usize;
        let queries = Lie {
            prefix_start: 0usize,
            prefix: 0usize,
            start: first_row,
        };
        let keys = Lie {
            prefix_start: tiles[tile + 3] as usize,
            prefix,
            start: first_row - first,
        };
        let n = N::value();
        let part = comptime!(plan.heads * plan.s / n);
        let row_width = comptime!(3 * plan.heads * plan.s / n);
        let offset = head * comptime!(plan.s / n);

        let mut q = Shared::<[E]>::new_aligned_slice(comptime!(plan.edge * plan.stride), 128usize);
        let mut kv = Shared::<[E]>::new_aligned_slice(comptime!(plan.edge * plan.stride), 128usize);
        let mut weights =
            Shared::<[E]>::new_aligned_slice(comptime!(plan.edge * plan.weight_stride), 128usize);
        let mut scores =
            Shared::<[f32]>::new_aligned_slice(comptime!(plan.edge * plan.score_stride), 128usize);
        let mut mixed =
            Shared::<[f32]>::new_aligned_slice(comptime!(plan.edge * plan.sum_stride), 128usize);
        let mut room = Shared::<[f32]>::new_slice(plan.units);
        let mut largest = Shared::<[f32]>::new_slice(edge);
        let mut totals = Shared::<[f32]>::new_slice(edge);

        // A row's units lie side by side.
        let lanes = comptime!(plan.units / plan.edge);
        let row = UNIT_POS as usize / lanes;
        let lane = UNIT_POS as usize % lanes;

        load::<E, N>(
            &mut q, qkv, &queries, 0usize, count, row_width, offset, plan,
        );
        for column in range_stepped(lane, plan.width, lanes) {
            mixed[row * plan.sum_stride + column] = 0.0f32;
        }
        if lane == 0 {
            largest[row] = f32::min_value();
            totals[row] = 0.0f32;
        }
        let end = prefix + first + count;
        for at in range_stepped(0usize, end, edge) {
            sync_cube();
            load::<E, N>(&mut kv, qkv, &keys, at, end, row_width, part + offset, plan);
            sync_cube();
            score_products::<E>(&mut scores, &q, &kv, plan);
            sync_cube();
            load::<E, N>(
                &mut kv,
                qkv,
                &keys,
                at,
                end,
                row_width,
                2 * part + offset,
                plan,
            );
            let seen = prefix + first + row + 1;
            let mut peak = largest[row];
            let before = peak;
            for column in range_stepped(lane, edge, lanes) {
                if at + column < seen {
                    peak = max(peak, scores[row * plan.score_stride + column] * scale);
                }
            }
            room[UNIT_POS as usize] = peak;
            sync_cube();
            for other in 0..lanes {
                peak = max(peak, room[row * lanes + other]);
            }
            sync_cube();
            let mut total = 0.0f32;
            for column in range_stepped(lane, edge, lanes) {
                let mut weight = 0.0f32;
                if at + column < seen {
                    weight = (scores[row * plan.score_stride + column] * scale - peak).exp();
                }
                total += weight;
                weights[row * plan.weight_stride + column] = E::cast_from(weight);
            }
            room[UNIT_POS as usize] = total;
            let shrink = (before - peak).exp();
            for column in range_stepped(lane, plan.width, lanes) {
                mixed[row * plan.sum_stride + column] *= shrink;
            }
            sync_cube();
            if lane == 0 {
                let mut total = totals[row] * shrink;
                for other in 0..lanes {
                    total += room[row * lanes + other];
                }
                totals[row] = total;
                largest[row] = peak;
            }
            add_products::<E>(&mut mixed, &weights, &kv, false, plan);
        }
        sync_cube();
        if row < count {
            let place = first_row + row;
            let total = totals[row];
            for column in range_stepped(lane, plan.s, lanes) {
                let value = mixed[row * plan.sum_stride + column] / total;
                out[(place * plan.heads + head) * plan.s + column] = E::cast_from(value);
            }
            if lane == 0 {
                log_sums[place * plan.heads + head] = largest[row] + total.ln();
            }
        }
    }
}

/// Gradient of one tile of queries, to its part of `d_qkv`; leaves Σ out · grad of every row in
/// `dots` `[N, H]`.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn query_grads_kernel<E: Float, N: Size>(
    qkv: &[Vector<E, N>],
    out: &[E],
    log_sums: &[f32],
    grad: &[Vector<E, N>],
    d_qkv: &mut [E],
    dots: &mut [f32],
    t: usize,
    scale: f32,
    #[comptime] plan: Plan,
    #[define(E)] _elem: ElemType,
) {
    let edge = comptime!(plan.edge);
    let head = CUBE_POS % plan.heads;
    let across = t.div_ceil(edge);
    let tile = CUBE_POS / plan.heads;
    let sequence = tile / across;
    let first = tile % across * edge;
    if sequence * t * plan.heads < log_sums.len() {
        let lie = Lie {
            prefix_start: 0usize,
            prefix: 0usize,
            start: sequence * t,
        };
        let n = N::value();
        let part = comptime!(plan.heads * plan.s / n);
        let offset = head * comptime!(plan.s / n);
        let tile_len = comptime!(plan.edge * plan.stride);
        let score_len = comptime!(plan.edge * plan.score_stride);

        let mut q = Shared::<[E]>::new_aligned_slice(tile_len, 128usize);
        let mut g = Shared::<[E]>::new_aligned_slice(tile_len, 128usize);
        let mut k = Shared::<[E]>::new_aligned_slice(tile_len, 128usize);
        let mut v = Shared::<[E]>::new_aligned_slice(tile_len, 128usize);
        let mut slopes =
            Shared::<[E]>::new_aligned_slice(comptime!(plan.edge * plan.weight_stride), 128usize);
        let mut scores = Shared::<[f32]>::new_aligned_slice(score_len, 128usize);
        let mut d_weights = Shared::<[f32]>::new_aligned_slice(score_len, 128usize);
        let mut dq =
            Shared::<[f32]>::new_aligned_slice(comptime!(plan.edge * plan.sum_stride), 128usize);
        let mut room = Shared::<[f32]>::new_slice(plan.units);

        let lanes = comptime!(plan.units / plan.edge);
        let row = UNIT_POS as usize / lanes;
        let lane = UNIT_POS as usize % lanes;
        let place = sequence * t + first + row;
        let inside = first + row < t;

        load::<E, N>(&mut q, qkv, &lie, first, t, 3 * part, offset, plan);
        load::<E, N>(&mut g, grad, &lie, first, t, part, offset, plan);
        for column in range_stepped(lane, plan.width, lanes) {
            dq[row * plan.sum_stride + column] = 0.0f32;
        }
        sync_cube();
        let mut dot = 0.0f32;
        let mut log_sum = 0.0f32;
        if inside {
            log_sum = log_sums[place * plan.heads + head];
            for column in range_stepped(lane, plan.s, lanes) {
                let value = f32::cast_from(out[(place * plan.heads + head) * plan.s + column]);
                dot += value * f32::cast_from(g[row * plan.stride + column]);
            }
        }
        room[UNIT_POS as usize] = dot;
        sync_cube();
        dot = 0.0f32;
        for other in 0..lanes {
            dot += room[row * lanes + other];
        }
        if inside && lane == 0 {
            dots[place * plan.heads + head] = dot;
        }
        let end = min(first + edge, t);
        for at in range_stepped(0usize, end, edge) {
            sync_cube();
            load::<E, N>(&mut k, qkv, &lie, at, end, 3 * part, part + offset, plan);
            load::<E, N>(
                &mut v,
                qkv,
                &lie,
                at,
                end,
                3 * part,
                2 * part + offset,
                plan,
            );
            sync_cube();
            score_products::<E>(&mut scores, &q, &k, plan);
            score_products::<E>(&mut d_weights, &g, &v, plan);
            sync_cube();
            for column in range_stepped(lane, edge, lanes) {
                let mut slope = 0.0f32;
                if inside && at + column <= first + row {
                    let cell = row * plan.score_stride + column;
                    let weight = (scores[cell] * scale - log_sum).exp();
                    slope = weight * (d_weights[cell] - dot) * scale;
                }
                slopes[row * plan.weight_stride + column] = E::cast_from(slope);
            }
            sync_cube();
            add_products::<E>(&mut dq, &slopes, &k, false, plan);
        }
        sync_cube();
        if inside {
            let to = (place * 3 * plan.heads + head) * plan.s;
            for column in range_stepped(lane, plan.s, lanes) {
                d_qkv[to + column] = E::cast_from(dq[row * plan.sum_stride + column]);
            }
        }
    }
}

/// Gradients of one tile of keys and values, to their parts of `d_qkv`.
#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn key_grads_kernel<E: Float, N: Size>(
    qkv: &[Vector<E, N>],
    log_sums: &[f32],
    dots: &[f32],
    grad: &[Vector<E, N>],
    d_qkv: &mut [E],
    t: usize,
    scale: f32,
    #[comptime] plan: Plan,
    #[define(E)] _elem: ElemType,
) {
    let edge = comptime!(plan.edge);
    let head = CUBE_POS % plan.heads;
    let across = t.div_ceil(edge);
    let tile = CUBE_POS / plan.heads;
    let sequence = tile / across;
    let first = tile % across * edge;
    if sequence * t * plan.heads < log_sums.len() {
        let lie = Lie {
            prefix_start: 0usize,
            prefix: 0usize,
            start: sequence * t,
        };
        let n = N::value();
        let part = comptime!(plan.heads * plan.s / n);
        let offset = head * comptime!(plan.s / n);
        let tile_len = comptime!(plan.edge * plan.stride);
        let score_len = comptime!(plan.edge * plan.score_stride);
        let weight_len = comptime!(plan.edge * plan.weight_stride);
        let sum_len = comptime!(plan.edge * plan.sum_stride);

        let mut q = Shared::<[E]>::new_aligned_slice(tile_len, 128usize);
        let mut g = Shared::<[E]>::new_aligned_slice(tile_len, 128usize);
        let mut k = Shared::<[E]>::new_aligned_slice(tile_len, 128usize);
        let mut v = Shared::<[E]>::new_aligned_slice(tile_len, 128usize);
        let mut weights = Shared::<[E]>::new_aligned_slice(weight_len, 128usize);
        let mut slopes = Shared::<[E]>::new_aligned_slice(weight_len, 128usize);
        let mut scores = Shared::<[f32]>::new_aligned_slice(score_len, 128usize);
        let mut d_weights = Shared::<[f32]>::new_aligned_slice(score_len, 128usize);
        let mut dk = Shared::<[f32]>::new_aligned_slice(sum_len, 128usize);
        let mut dv = Shared::<[f32]>::new_aligned_slice(sum_len, 128usize);

        let lanes = comptime!(plan.units / plan.edge);
        let row = UNIT_POS as usize / lanes;
        let lane = UNIT_POS as usize % lanes;

        load::<E, N>(&mut k, qkv, &lie, first, t, 3 * part, part + offset, plan);
        load::<E, N>(
            &mut v,
            qkv,
            &lie,
            first,
            t,
            3 * part,
            2 * part + offset,
            plan,
        );
        for column in range_stepped(lane, plan.width, lanes) {
            dk[row * plan.sum_stride + column] = 0.0f32;
            dv[row * plan.sum_stride + column] = 0.0f32;
        }
        for at in range_stepped(first, t, edge) {
            sync_cube();
            load::<E, N>(&mut q, qkv, &lie, at, t, 3 * part, offset, plan);
            load::<E, N>(&mut g, grad, &lie, at, t, part, offset, plan);
            sync_cube();
            score_products::<E>(&mut scores, &q, &k, plan);
            score_products::<E>(&mut d_weights, &g, &v, plan);
            sync_cube();
            let inside = at + row < t;
            let mut dot = 0.0f32;
            let mut log_sum = 0.0f32;
            if inside {
                let place = (sequence * t + at + row) * plan.heads + head;
                dot = dots[place];
                log_sum = log_sums[place];
            }
            for column in range_stepped(lane, edge, lanes) {
                let mut weight = 0.0f32;
                let mut slope = 0.0f32;
                if inside && first + column <= at + row {
                    let cell = row * plan.score_stride + column;
                    weight = (scores[cell] * scale - log_sum).exp();
                    slope = weight * (d_weights[cell] - dot) * scale;
                }
                weights[row * plan.weight_stride + column] = E::cast_from(weight);
                slopes[row * plan.weight_stride + column] = E::cast_from(slope);
            }
            sync_cube();
            add_products::<E>(&mut dv, &weights, &g, true, plan);
            add_products::<E>(&mut dk, &slopes, &q, true, plan);
        }
        sync_cube();
        if first + row < t {
            let to = ((sequence * t + first + row) * 3 * plan.heads + head) * plan.s;
            let part = comptime!(plan.heads * plan.s);
            for column in range_stepped(lane, plan.s, lanes) {
                let sums = row * plan.sum_stride + column;
                d_qkv[to + part + column] = E::cast_from(dk[sums]);
                d_qkv[to + 2 * part + column] = E::cast_from(dv[sums]);
            }
        }
    }
}

/// 1 / √S.
fn scale(s: usize) -> f32 {
    1.0 / (s as f32).sqrt()
}

/// Attention within every piece of a pack and to all of its prefix, and log Σ exp of every
/// query's scores. `[N, 3D] -> [N, D], [N, H]`
pub(super) fn forward(qkv: CubeTensor, heads: usize, pieces: &[Piece]) -> [CubeTensor; 2] {
    let qkv = contiguous(qkv);
    let [count, width] = rows(&qkv);
    let s = width / 3 / heads;
    let plan = Plan::new(&qkv.client, qkv.dtype, s, heads, FORWARD).expect("`fits` was asked");
    let tiles: Vec<u32> = pieces
        .iter()
        .flat_map(|Piece { prefix, own }| {
            (0..own.len()).step_by(plan.edge).flat_map(move |first| {
                let count = plan.edge.min(own.len() - first);
                [own.start + first, first, count, prefix.start, prefix.len()].map(|x| x as u32)
            })
        })
        .collect();
    let out = empty(&qkv, [count, width / 3], qkv.dtype);
    let log_sums = empty(&qkv, [count, heads], DType::F32);
    let client = qkv.client.clone();
    forward_kernel::launch(
        &client,
        cubes(&client, tiles.len() / TILE_WORDS * heads),
        plan.dim(),
        vector(s),
        qkv.clone().operand(),
        uploaded(&qkv, &tiles).operand(),
        out.clone().operand(),
        log_sums.clone().operand(),
        scale(s),
        plan,
        elem(&qkv),
    );
    [out, log_sums]
}

/// Gradient of Q, K and V side by side. `[B, T, 3D]`
pub(super) fn backward(
    qkv: CubeTensor,
    out: CubeTensor,
    log_sums: CubeTensor,
    grad: CubeTensor,
    heads: usize,
) -> CubeTensor {
    let [qkv, out, grad] = [qkv, out, grad].map(contiguous);
    let (sequences, t) = (qkv.meta.shape()[0], qkv.meta.shape()[1]);
    let s = rows(&out)[1] / heads;
    let d_qkv = empty(&qkv, qkv.meta.shape().clone(), qkv.dtype);
    let dots = empty(&log_sums, log_sums.meta.shape().clone(), DType::F32);
    let client = qkv.client.clone();
    let count = |plan: &Plan| cubes(&client, sequences * t.div_ceil(plan.edge) * heads);
    let plan = Plan::new(&qkv.client, qkv.dtype, s, heads, QUERY_GRADS).expect("`fits` was asked");
    query_grads_kernel::launch(
        &client,
        count(&plan),
        plan.dim(),
        vector(s),
        qkv.clone().operand(),
        out.operand(),
        log_sums.clone().operand(),
        grad.clone().operand(),
        d_qkv.clone().operand(),
        dots.clone().operand(),
        t,
        scale(s),
        plan,
        elem(&qkv),
    );
    let plan = Plan::new(&qkv.client, qkv.dtype, s, heads, KEY_GRADS).expect("`fits` was asked");
    key_grads_kernel::launch(
        &client,
        count(&plan),
        plan.dim(),
        vector(s),
        qkv.clone().operand(),
        log_sums.operand(),
        dots.operand(),
        grad.operand(),
        d_qkv.clone().operand(),
        t,
        scale(s),
        plan,
        elem(&qkv),
    );
    d_qkv
}
