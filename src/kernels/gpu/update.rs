//! What the optimizer does to all parameters, many of them in one launch.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

use super::launch::{Operand, ROW_UNITS, contiguous, empty, len, owned, vector};
use super::reduce::{cube_sum, sum_scaled, total};
use crate::kernels::AdamWStep;

/// Cubes of a launch, each of which takes its share of every tensor.
const CUBES: u32 = 512;
/// Tensors of one launch, at most: four buffers each, within what a launch can name.
const TENSORS: usize = 16;

/// One parameter, flattened, with its moments and gradient.
pub(in crate::kernels) struct Slot {
    pub p: CubeTensor,
    pub m: CubeTensor,
    pub v: CubeTensor,
    pub grad: CubeTensor,
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn adamw_kernel<N: Size>(
    p: &mut Sequence<Box<[Vector<f32, N>]>>,
    m: &mut Sequence<Box<[Vector<f32, N>]>>,
    v: &mut Sequence<Box<[Vector<f32, N>]>>,
    grad: &Sequence<Box<[Vector<f32, N>]>>,
    keep: f32,
    rate: f32,
    root: f32,
    epsilon: f32,
    beta1: f32,
    beta2: f32,
    new1: f32,
    new2: f32,
    grad_scale: f32,
    #[comptime] units: usize,
) {
    #[unroll]
    for tensor in 0..grad.len() {
        let grad = grad.index(tensor);
        let p = p.index_mut(tensor);
        let m = m.index_mut(tensor);
        let v = v.index_mut(tensor);
        for i in range_stepped(ABSOLUTE_POS, grad.len(), units) {
            let g = grad[i] * Vector::new(grad_scale);
            let new_m = m[i] * Vector::new(beta1) + g * Vector::new(new1);
            let new_v = v[i] * Vector::new(beta2) + g * g * Vector::new(new2);
            m[i] = new_m;
            v[i] = new_v;
            let step = new_m / (new_v.sqrt() * Vector::new(root) + Vector::new(epsilon));
            p[i] = p[i] * Vector::new(keep) - step * Vector::new(rate);
        }
    }
}

/// Σ x² of every cube's share of all tensors, to its place from `first` on.
#[cube(launch)]
fn square_sums_kernel<N: Size>(
    x: &Sequence<Box<[Vector<f32, N>]>>,
    out: &mut [f32],
    first: usize,
    #[comptime] units: usize,
) {
    let mut room = Shared::<[f32]>::new_slice(comptime!(ROW_UNITS as usize));
    let mut sum = Vector::<f32, N>::new(0.0);
    #[unroll]
    for tensor in 0..x.len() {
        let x = x.index(tensor);
        for i in range_stepped(ABSOLUTE_POS, x.len(), units) {
            sum += x[i] * x[i];
        }
    }
    let sum = cube_sum(total::<N>(sum), &mut room);
    if UNIT_POS == 0 {
        out[first + CUBE_POS] = sum;
    }
}

fn shape() -> (CubeCount, CubeDim, usize) {
    let units = (CUBES * ROW_UNITS) as usize;
    (
        CubeCount::Static(CUBES, 1, 1),
        CubeDim::new_1d(ROW_UNITS),
        units,
    )
}

/// Flattened.
fn flat(x: CubeTensor) -> CubeTensor {
    let count = len(&x);
    super::reshaped(x, [count])
}

/// Tensors of one launch, which can name `each` buffers for every tensor.
fn per_launch(client: &Client, each: usize) -> usize {
    let buffers = client.properties().hardware.max_bindings as usize;
    // One for the result and one for sizes.
    (buffers.saturating_sub(2) / each).clamp(1, TENSORS)
}

/// One update by AdamW of parameters that share `step`; in the buffers of what is not held
/// elsewhere.
pub(in crate::kernels) fn adamw(slots: Vec<Slot>, step: AdamWStep) -> Vec<Slot> {
    let slots = slots.into_iter().map(|slot| Slot {
        p: owned(slot.p),
        m: owned(slot.m),
        v: owned(slot.v),
        grad: contiguous(slot.grad),
    });
    let slots: Vec<_> = slots.collect();
    let Some(first) = slots.first() else {
        return slots;
    };
    let client = first.p.client.clone();
    let [correction1, correction2] = step.corrections();
    // Vectors of four for the tensors that divide into them, single values for the rest.
    for n in [4, 1] {
        let of: Vec<&Slot> = slots
            .iter()
            .filter(|slot| vector(len(&slot.p)) == n)
            .collect();
        for slots in of.chunks(per_launch(&client, 4)) {
            let (count, dim, units) = shape();
            let args = |of: fn(&Slot) -> &CubeTensor| {
                slots
                    .iter()
                    .map(|slot| of(slot).clone().operand())
                    .collect()
            };
            adamw_kernel::launch(
                &client,
                count,
                dim,
                n,
                args(|slot| &slot.p),
                args(|slot| &slot.m),
                args(|slot| &slot.v),
                args(|slot| &slot.grad),
                (1.0 - step.lr * step.weight_decay) as f32,
                (step.lr / correction1) as f32,
                (1.0 / correction2.sqrt()) as f32,
                step.epsilon as f32,
                step.beta1 as f32,
                step.beta2 as f32,
                (1.0 - step.beta1) as f32,
                (1.0 - step.beta2) as f32,
                step.grad_scale as f32,
                units,
            );
        }
    }
    slots
}

/// Σ x² over all tensors; `[1]`.
pub(in crate::kernels) fn square_sum(tensors: Vec<CubeTensor>) -> Option<CubeTensor> {
    let tensors: Vec<_> = tensors.into_iter().map(|x| flat(contiguous(x))).collect();
    let client = tensors.first()?.client.clone();
    let each = per_launch(&client, 1);
    let groups: Vec<(usize, Vec<CubeTensor>)> = [4, 1]
        .into_iter()
        .flat_map(|n| {
            let of: Vec<_> = tensors
                .iter()
                .filter(|x| vector(len(x)) == n)
                .cloned()
                .collect();
            let chunks: Vec<_> = of.chunks(each).map(|chunk| (n, chunk.to_vec())).collect();
            chunks
        })
        .collect();
    let out = empty(&tensors[0], [groups.len() * CUBES as usize], DType::F32);
    for (i, (n, group)) in groups.into_iter().enumerate() {
        let (count, dim, units) = shape();
        square_sums_kernel::launch(
            &client,
            count,
            dim,
            n,
            group.into_iter().map(Operand::operand).collect(),
            out.clone().operand(),
            i * CUBES as usize,
            units,
        );
    }
    Some(sum_scaled(out, 1.0))
}
