//! Sums that units of a cube make together. Always in one order, so the same bits every time.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Operand, ROW_UNITS, empty};

/// The sum of `value` over all units of a cube, known to all of them. `room` holds one value for
/// each; their number is a power of two.
#[cube]
pub(super) fn cube_sum(value: f32, room: &mut Shared<[f32]>) -> f32 {
    fold(value, room, false)
}

/// As [`cube_sum`], for the largest.
#[cube]
pub(super) fn cube_max(value: f32, room: &mut Shared<[f32]>) -> f32 {
    fold(value, room, true)
}

#[cube]
fn fold(value: f32, room: &mut Shared<[f32]>, #[comptime] largest: bool) -> f32 {
    let at = UNIT_POS as usize;
    // The last result may still be read.
    sync_cube();
    room[at] = value;
    sync_cube();
    let mut half = CUBE_DIM / 2;
    while half > 0 {
        if UNIT_POS < half {
            let other = room[at + half as usize];
            if comptime!(largest) {
                room[at] = max(room[at], other);
            } else {
                room[at] += other;
            }
        }
        sync_cube();
        half /= 2;
    }
    room[0]
}

/// The sum of a vector's elements.
#[cube]
pub(super) fn total<N: Size>(x: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for k in 0..N::value() {
        sum += x.extract(k);
    }
    sum
}

/// scale · Σ x, by one cube.
#[cube(launch)]
fn sum_scaled_kernel(x: &[f32], out: &mut [f32], scale: f32) {
    let mut room = Shared::<[f32]>::new_slice(comptime!(ROW_UNITS as usize));
    let mut sum = 0.0f32;
    for i in range_stepped(UNIT_POS as usize, x.len(), CUBE_DIM as usize) {
        sum += x[i];
    }
    let sum = cube_sum(sum, &mut room);
    if UNIT_POS == 0 {
        out[0] = sum * scale;
    }
}

/// scale · Σ x over a contiguous x in f32; `[1]`.
pub(super) fn sum_scaled(x: CubeTensor, scale: f32) -> CubeTensor {
    let out = empty(&x, [1], DType::F32);
    let client = x.client.clone();
    let (count, dim) = (CubeCount::Static(1, 1, 1), CubeDim::new_1d(ROW_UNITS));
    sum_scaled_kernel::launch(
        &client,
        count,
        dim,
        x.operand(),
        out.clone().operand(),
        scale,
    );
    out
}
