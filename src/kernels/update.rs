//! What the optimizer does to whole parameters, in place where nobody else holds the buffer: one
//! threaded pass each on the CPU, many in one launch on GPUs. No gradients: these take tensors of
//! the inner backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::cpu::{add_assign, contiguous, owned, scalar, values};
#[cfg(feature = "gpu")]
use super::gpu;
use super::math::{self, TASK, vectorized};
use super::{is_cpu, is_fused, plain};

/// The scalars of one update by AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// ε beside the root.
    pub epsilon: f64,
    /// λ; 0 for parameters that do not decay.
    pub weight_decay: f64,
    /// Factor on the gradient, as clipping asks for.
    pub grad_scale: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

impl AdamWStep {
    /// 1 − β₁ᵗ and 1 − β₂ᵗ.
    pub fn corrections(&self) -> [f64; 2] {
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        [self.beta1, self.beta2].map(|beta| 1.0 - beta.powi(step))
    }
}

/// Fused operations of the CPU on tensors without gradients.
#[backend_extension(Flex)]
pub trait UpdateOps: Backend {
    /// New parameter and moments.
    fn fused_adamw(
        p: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Σ x²; `[1]`.
    fn fused_square_sum(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// sum + part.
    fn fused_accumulate(sum: FloatTensor<Self>, part: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// One flattened parameter, its moments and its gradient, and the update that is due.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Values.
    pub p: Tensor<1>,
    /// First moment.
    pub m: Tensor<1>,
    /// Second moment.
    pub v: Tensor<1>,
    /// Gradient.
    pub grad: Tensor<1>,
    /// Scalars of the update.
    pub step: AdamWStep,
}

/// One update by AdamW of every parameter: new values, first and second moment.
pub fn adamw(slots: Vec<Slot>) -> Vec<[Tensor<1>; 3]> {
    #[cfg(feature = "gpu")]
    if slots.first().is_some_and(|slot| !is_cpu(&slot.p)) {
        return adamw_on_gpu(slots);
    }
    let update = |Slot {
                      p,
                      m,
                      v,
                      grad,
                      step,
                  }: Slot| {
        if !is_fused(&p) {
            return plain::adamw(p, m, v, grad, step);
        }
        let (p, m, v) = Dispatch::fused_adamw(
            p.into_dispatch(),
            m.into_dispatch(),
            v.into_dispatch(),
            grad.into_dispatch(),
            step,
        );
        [p, m, v].map(Tensor::from_dispatch)
    };
    slots.into_iter().map(update).collect()
}

/// Parameters of which the same update is due go together.
#[cfg(feature = "gpu")]
fn adamw_on_gpu(slots: Vec<Slot>) -> Vec<[Tensor<1>; 3]> {
    let mut groups: Vec<(AdamWStep, Vec<(usize, gpu::Slot)>)> = Vec::new();
    for (
        i,
        Slot {
            p,
            m,
            v,
            grad,
            step,
        },
    ) in slots.into_iter().enumerate()
    {
        let [p, m, v, grad] = [p, m, v, grad].map(gpu::lowered);
        let slot = (i, gpu::Slot { p, m, v, grad });
        match groups.iter_mut().find(|(of, _)| *of == step) {
            Some((_, group)) => group.push(slot),
            None => groups.push((step, vec![slot])),
        }
    }
    let mut done: Vec<_> = groups
        .into_iter()
        .flat_map(|(step, group)| {
            let (places, slots): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            places.into_iter().zip(gpu::adamw(slots, step))
        })
        .collect();
    done.sort_by_key(|&(place, _)| place);
    done.into_iter()
        .map(|(_, slot)| [slot.p, slot.m, slot.v].map(gpu::raised))
        .collect()
}

/// Σ x²; `[1]`.
pub fn square_sum(x: Tensor<1>) -> Tensor<1> {
    square_sums(vec![x]).expect("one tensor")
}

/// Σ x² over all tensors; `[1]`, or nothing of none.
pub fn square_sums(tensors: Vec<Tensor<1>>) -> Option<Tensor<1>> {
    #[cfg(feature = "gpu")]
    if tensors.first().is_some_and(|x| !is_cpu(x)) {
        let tensors = tensors.into_iter().map(gpu::lowered).collect();
        return gpu::square_sum(tensors).map(gpu::raised);
    }
    let square_sum = |x: Tensor<1>| {
        if is_fused(&x) {
            Tensor::from_dispatch(Dispatch::fused_square_sum(x.into_dispatch()))
        } else {
            plain::square_sum(x)
        }
    };
    let parts: Vec<_> = tensors.into_iter().map(square_sum).collect();
    (!parts.is_empty()).then(|| Tensor::cat(parts, 0).sum())
}

/// sum + part, in the buffer of `sum`: for the gradients of micro-batches.
pub fn accumulate<const D: usize>(sum: Tensor<D>, part: Tensor<D>) -> Tensor<D> {
    if !is_cpu(&sum) {
        return sum + part;
    }
    let (sum, part) = (sum.into_dispatch(), part.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_accumulate(sum, part))
}

impl UpdateOps for Flex {
    fn fused_adamw(
        p: FlexTensor,
        m: FlexTensor,
        v: FlexTensor,
        grad: FlexTensor,
        step: AdamWStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [mut p, mut m, mut v, grad] = [p, m, v, grad].map(contiguous);
        owned(&mut p)
            .par_chunks_mut(TASK)
            .zip(owned(&mut m).par_chunks_mut(TASK))
            .zip(owned(&mut v).par_chunks_mut(TASK))
            .zip(values(&grad).par_chunks(TASK))
            .for_each(|(((p, m), v), grad)| vectorized(|| adamw_chunk(p, m, v, grad, step)));
        (p, m, v)
    }

    fn fused_square_sum(x: FlexTensor) -> FlexTensor {
        let x = contiguous(x);
        // Sums of chunks, added in order and in f64: the same for any number of threads.
        let parts: Vec<f32> = values(&x)
            .par_chunks(TASK)
            .map(|x| vectorized(|| math::sum(x, |x| x * x)))
            .collect();
        scalar(parts.into_iter().map(f64::from).sum())
    }

    fn fused_accumulate(sum: FlexTensor, part: FlexTensor) -> FlexTensor {
        let [mut sum, part] = [sum, part].map(contiguous);
        add_assign(owned(&mut sum), values(&part));
        sum
    }
}

#[inline(always)]
fn adamw_chunk(p: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], step: AdamWStep) {
    let [correction1, correction2] = step.corrections();
    let keep = (1.0 - step.lr * step.weight_decay) as f32;
    let rate = (step.lr / correction1) as f32;
    let root = (1.0 / correction2.sqrt()) as f32;
    let [scale, epsilon] = [step.grad_scale, step.epsilon].map(|x| x as f32);
    let [beta1, beta2] = [step.beta1, step.beta2].map(|x| x as f32);
    let [new1, new2] = [1.0 - step.beta1, 1.0 - step.beta2].map(|x| x as f32);
    for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(grad) {
        let g = g * scale;
        *m = *m * beta1 + g * new1;
        *v = *v * beta2 + g * g * new2;
        *p = *p * keep - rate * *m / (v.sqrt() * root + epsilon);
    }
}
