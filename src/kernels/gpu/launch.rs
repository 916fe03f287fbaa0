//! What every launch needs: buffers, sizes and the types of elements.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::cast;
pub(super) use burn_cubecl::kernel::into_contiguous as contiguous;
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

/// Contiguous, and held by nobody else: to be written in place.
pub(super) fn owned(x: CubeTensor) -> CubeTensor {
    let x = contiguous(x);
    // A copy has rows that begin where the device likes them to, not one behind the other.
    if x.can_mut() { x } else { contiguous(x.copy()) }
}

/// A tensor as a kernel takes it: by its buffer alone.
pub(super) trait Operand {
    /// # Panics
    /// Rows are not one behind the other, or places do not fit 32 bits.
    fn operand(self) -> BufferArg;
}

impl Operand for CubeTensor {
    fn operand(self) -> BufferArg {
        assert!(self.is_contiguous(), "kernels read contiguous buffers");
        assert!(
            u32::try_from(len(&self)).is_ok(),
            "kernels count in 32 bits"
        );
        self.into_buffer_arg()
    }
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
