//! What every launch needs: buffers, sizes and the types of elements.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

/// Units of a cube that works on one row together; a power of two.
pub(super) const ROW_UNITS: u32 = 256;

/// The type of a tensor's elements, as kernels name it.
pub(super) fn elem(x: &CubeTensor) -> ElemType {
    ElemType::Float(match x.dtype {
        DType::F32 => FloatKind::F32,
        DType::BF16 => FloatKind::BF16,
        DType::F16 => FloatKind::F16,
        other => panic!("{other:?} is not a type that models compute in"),
    })
}

/// A contiguous buffer of the tensor's values.
pub(super) fn contiguous(x: CubeTensor) -> CubeTensor {
    into_contiguous(x)
}

/// Contiguous, and held by nobody else: to be written in place.
pub(super) fn owned(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    if x.can_mut() { x } else { x.copy() }
}

/// A new contiguous tensor beside `like`, of what its memory happens to hold.
pub(super) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), dtype)
}

/// Values as f32.
pub(super) fn f32s(x: CubeTensor) -> CubeTensor {
    contiguous(cast(x, DType::F32))
}

/// Token ids as i32.
pub(super) fn ids(x: CubeTensor) -> CubeTensor {
    use burn::backend::ops::IntTensorOps;
    contiguous(burn_cubecl::CubeBackend::int_cast(
        x,
        burn::tensor::IntDType::I32,
    ))
}

/// Elements read at once from rows of `width`.
pub(super) fn vector(width: usize) -> usize {
    if width.is_multiple_of(4) { 4 } else { 1 }
}

/// Number of elements.
pub(super) fn len(x: &CubeTensor) -> usize {
    x.meta.num_elements()
}

/// Rows and width of a contiguous `[.., D]`.
pub(super) fn rows(x: &CubeTensor) -> [usize; 2] {
    let d = x.meta.shape().last().copied().unwrap_or(1);
    [len(x) / d.max(1), d]
}

/// One unit for each of `units` pieces of work.
pub(super) fn grid(client: &Client, units: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(client, units);
    (calculate_cube_count_elemwise(client, units, dim), dim)
}

/// `cubes` cubes, over as many axes as it takes.
pub(super) fn cubes(client: &Client, cubes: usize) -> CubeCount {
    calculate_cube_count_elemwise(client, cubes, CubeDim::new_1d(1))
}
