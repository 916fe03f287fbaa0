//! Sums that units of a cube make together. Always in one order, so the same bits every time.

use cubecl::prelude::*;

/// The sum of `value` over all units of a cube, known to all of them. `room` holds one value for
/// each; their number is a power of two.
#[cube]
pub(super) fn cube_sum(value: f32, room: &mut Shared<[f32]>) -> f32 {
    let at = UNIT_POS as usize;
    // The last sum may still be read.
    sync_cube();
    room[at] = value;
    sync_cube();
    let mut half = CUBE_DIM / 2;
    while half > 0 {
        if UNIT_POS < half {
            let other = room[at + half as usize];
            room[at] += other;
        }
        sync_cube();
        half /= 2;
    }
    room[0]
}

/// As [`cube_sum`], for the largest.
#[cube]
pub(super) fn cube_max(value: f32, room: &mut Shared<[f32]>) -> f32 {
    let at = UNIT_POS as usize;
    sync_cube();
    room[at] = value;
    sync_cube();
    let mut half = CUBE_DIM / 2;
    while half > 0 {
        if UNIT_POS < half {
            let other = room[at + half as usize];
            room[at] = max(room[at], other);
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
