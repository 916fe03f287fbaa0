//! AdamW with moments keyed by parameter name.
//!
//! burn's own keys its state by a random parameter identity that no weight file carries. By
//! name, state can be saved beside the weights, read by other tools, and grown with a
//! checkpoint. The update is that of `torch.optim.AdamW` (arXiv 1711.05101):
//! p ← p − lr·λ·p, then p ← p − lr·m̂ / (√v̂ + ε).

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{HostTensor, layout};
use crate::device::read_scalar;
use crate::error::Result;
use crate::kernels::{self, AdamWStep, Slot};
use crate::model::weights::{Path, from_host, to_host};

/// The constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// ε beside the root.
    pub epsilon: f64,
    /// λ, applied to matrices only: biases and LayerNorm are left alone.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// GPT-3's constants (arXiv 2005.14165, appendix B).
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
        }
    }
}

/// What becomes of the moments when a stage begins, and with it perhaps a growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerPolicy {
    /// All are dropped.
    Fresh,
    /// Kept parameters keep theirs; a new block that is made of one source block gets those,
    /// with their number of updates. One that is drawn, or made of several, starts without.
    Inherit,
    /// As `inherit`, and every number of updates is 0 again (`--double-optimizer` of
    /// gonglinyuan/StackingBERT).
    #[serde(rename = "inherit-step-0")]
    InheritStep0,
    /// Kept parameters keep theirs; new blocks start without.
    ZeroNew,
}

/// Where a block of a grown model comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOrigin {
    /// The block before the growth that it is, or is made of; none where it is made of several
    /// or of none.
    pub source: Option<usize>,
    /// Whether it is that block, or a new one made from it.
    pub kept: bool,
}

/// First and second moment of one parameter, flattened, and its number of updates.
#[derive(Clone, Debug)]
struct Moments {
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    step: u64,
}

impl Moments {
    /// Of a parameter that was never updated.
    fn zeros<const D: usize>(like: Tensor<D>) -> Self {
        let n = like.dims().iter().product::<usize>();
        let zeros = || Tensor::zeros([n], &like.device());
        Self {
            exp_avg: zeros(),
            exp_avg_sq: zeros(),
            step: 0,
        }
    }
}

/// Moments on the host, as saved.
#[derive(Clone, Debug)]
pub struct SavedMoments {
    /// First moment.
    pub exp_avg: HostTensor,
    /// Second moment.
    pub exp_avg_sq: HostTensor,
    /// Number of updates.
    pub step: u64,
}

/// The optimizer.
#[derive(Clone, Debug)]
pub struct Optimizer {
    constants: AdamW,
    state: HashMap<String, Moments>,
}

impl Optimizer {
    /// An optimizer without state.
    pub fn new(constants: AdamW) -> Self {
        Self {
            constants,
            state: HashMap::new(),
        }
    }

    /// Makes the moments that parameters in training still lack, so that memory for them is found
    /// before anything is updated.
    ///
    /// # Errors
    /// There is none.
    pub fn make_room<M: Module>(&mut self, module: &M) -> Result<()> {
        let mut made = MakeRoom {
            state: &mut self.state,
            path: Path::default(),
            last: None,
        };
        module.visit(&mut made);
        match made.last {
            // What failed on the way is told by the first read.
            Some(last) => read_scalar(last.slice(0..1)).map(drop),
            None => Ok(()),
        }
    }

    /// Updates every parameter that has a gradient. `scale` multiplies gradients first, as
    /// clipping asks for; `factors` multiply the learning rate of the parameters they name.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        grads: GradientsParams,
        lr: f64,
        scale: f64,
        factors: &BTreeMap<String, f64>,
    ) -> M {
        let mut taken = Take {
            optimizer: self,
            grads,
            lr,
            scale,
            factors,
            path: Path::default(),
            names: Vec::new(),
            slots: Vec::new(),
        };
        let module = module.map(&mut taken);
        let Take { names, slots, .. } = taken;
        let steps: Vec<_> = slots.iter().map(|slot| slot.step.step).collect();
        let mut updated = HashMap::new();
        for ((name, step), [p, exp_avg, exp_avg_sq]) in
            names.into_iter().zip(steps).zip(kernels::adamw(slots))
        {
            let moments = Moments {
                exp_avg,
                exp_avg_sq,
                step,
            };
            self.state.insert(name.clone(), moments);
            updated.insert(name, p);
        }
        module.map(&mut Put {
            updated,
            path: Path::default(),
        })
    }

    /// Takes the moments to the blocks of a grown model, by name. Without a growth, `blocks`
    /// keeps every block where it is.
    pub fn carry_over(&mut self, policy: OptimizerPolicy, blocks: &[BlockOrigin]) {
        if policy == OptimizerPolicy::Fresh {
            self.state.clear();
            return;
        }
        for (name, moments) in std::mem::take(&mut self.state) {
            let Some((layer, rest)) = layout::split_block_name(&name) else {
                self.state.insert(name, moments);
                continue;
            };
            let heirs = blocks.iter().enumerate().filter(|(_, origin)| {
                origin.source == Some(layer) && (origin.kept || policy != OptimizerPolicy::ZeroNew)
            });
            for (heir, _) in heirs {
                self.state
                    .insert(format!("h.{heir}.{rest}"), moments.clone());
            }
        }
        if policy == OptimizerPolicy::InheritStep0 {
            self.state.values_mut().for_each(|moments| moments.step = 0);
        }
    }

    /// Moments by name, in name order, for saving.
    ///
    /// # Errors
    /// The device failed.
    pub fn saved(&self) -> Result<Vec<(String, SavedMoments)>> {
        let read = |(name, moments): (&String, &Moments)| {
            let saved = SavedMoments {
                exp_avg: to_host(moments.exp_avg.clone())?,
                exp_avg_sq: to_host(moments.exp_avg_sq.clone())?,
                step: moments.step,
            };
            Ok((name.clone(), saved))
        };
        let mut all = self.state.iter().map(read).collect::<Result<Vec<_>>>()?;
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// Puts saved moments back.
    pub fn restore(&mut self, saved: Vec<(String, SavedMoments)>, device: &burn::tensor::Device) {
        let moments = |saved: SavedMoments| Moments {
            exp_avg: from_host(saved.exp_avg, device),
            exp_avg_sq: from_host(saved.exp_avg_sq, device),
            step: saved.step,
        };
        self.state = saved
            .into_iter()
            .map(|(name, saved)| (name, moments(saved)))
            .collect();
    }
}

struct MakeRoom<'a> {
    state: &'a mut HashMap<String, Moments>,
    path: Path,
    /// The moment made last.
    last: Option<Tensor<1>>,
}

impl ModuleVisitor for MakeRoom<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.name();
        if !param.is_require_grad() || self.state.contains_key(&name) {
            return;
        }
        let moments = Moments::zeros(param.val().inner());
        self.last = Some(moments.exp_avg_sq.clone());
        self.state.insert(name, moments);
    }
}

/// Takes every parameter that has a gradient out of the module, for one update of them all.
struct Take<'a> {
    optimizer: &'a mut Optimizer,
    grads: GradientsParams,
    lr: f64,
    scale: f64,
    factors: &'a BTreeMap<String, f64>,
    path: Path,
    names: Vec<String>,
    slots: Vec<Slot>,
}

impl Take<'_> {
    fn slot(&mut self, name: &str, p: Tensor<1>, grad: Tensor<1>, decays: bool) -> Slot {
        let AdamW {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = self.optimizer.constants;
        let old = self
            .optimizer
            .state
            .remove(name)
            .unwrap_or_else(|| Moments::zeros(grad.clone()));
        let step = AdamWStep {
            lr: self.lr * self.factors.get(name).copied().unwrap_or(1.0),
            beta1,
            beta2,
            epsilon,
            weight_decay: if decays { weight_decay } else { 0.0 },
            grad_scale: self.scale,
            step: old.step + 1,
        };
        Slot {
            p,
            m: old.exp_avg,
            v: old.exp_avg_sq,
            grad,
            step,
        }
    }
}

impl ModuleMapper for Take<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(grad) = self.grads.remove::<D>(param.id) else {
            return param;
        };
        let name = self.path.name();
        param.map(|tensor| {
            let n = tensor.dims().iter().product::<usize>();
            // What stays keeps shape and device without the values: those are to have one
            // holder, who may write them in place.
            let one = Tensor::<D>::empty([1; D], &tensor.device());
            let placeholder = one.expand(tensor.dims());
            let slot = self.slot(
                &name,
                tensor.inner().reshape([n]),
                grad.reshape([n]),
                D >= 2,
            );
            self.names.push(name);
            self.slots.push(slot);
            placeholder
        })
    }
}

/// Puts updated parameters in their places.
struct Put {
    updated: HashMap<String, Tensor<1>>,
    path: Path,
}

impl ModuleMapper for Put {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(new) = self.updated.remove(&self.path.name()) else {
            return param;
        };
        param.map(|old| attach(new.reshape(old.dims()), &old.device()))
    }
}

/// The values as a leaf that gradients are kept for, on `device`.
fn attach<const D: usize>(values: Tensor<D>, device: &burn::tensor::Device) -> Tensor<D> {
    let values = if device.is_autodiff() {
        values.autodiff()
    } else {
        values
    };
    values.require_grad()
}

/// Euclidean norm over all gradients: one number read from the device.
///
/// # Errors
/// What made a gradient failed on the device.
pub fn global_norm<M: Module>(module: &M, grads: &GradientsParams) -> Result<f64> {
    let mut visitor = Flatten {
        grads,
        flat: Vec::new(),
    };
    module.visit(&mut visitor);
    match kernels::square_sums(visitor.flat) {
        Some(total) => Ok(read_scalar(total)?.sqrt()),
        None => Ok(0.0),
    }
}

struct Flatten<'a> {
    grads: &'a GradientsParams,
    flat: Vec<Tensor<1>>,
}

impl ModuleVisitor for Flatten<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            let n = grad.dims().iter().product::<usize>();
            self.flat.push(grad.reshape([n]));
        }
    }
}

/// Adds the gradients of another micro-batch to `sum`, in its buffers.
pub fn accumulate<M: Module>(
    module: &M,
    sum: GradientsParams,
    part: GradientsParams,
) -> GradientsParams {
    let mut visitor = Accumulate { sum, part };
    module.visit(&mut visitor);
    visitor.sum
}

struct Accumulate {
    sum: GradientsParams,
    part: GradientsParams,
}

impl ModuleVisitor for Accumulate {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let sum = self.sum.remove::<D>(param.id);
        let part = self.part.remove::<D>(param.id);
        let total = match (sum, part) {
            (Some(sum), Some(part)) => Some(kernels::accumulate(sum, part)),
            (sum, part) => sum.or(part),
        };
        if let Some(total) = total {
            self.sum.register::<D>(param.id, total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moments of two blocks of one parameter each, told apart by their values.
    fn optimizer() -> Optimizer {
        let moments = |value: f32, step| SavedMoments {
            exp_avg: HostTensor::full(&[1], value),
            exp_avg_sq: HostTensor::full(&[1], 10.0 * value),
            step,
        };
        let named = [("h.0.b", 1.0, 7), ("h.1.b", 2.0, 5), ("wte.weight", 3.0, 9)];
        let saved = named.map(|(name, value, step)| (name.to_owned(), moments(value, step)));
        let mut optimizer = Optimizer::new(AdamW::default());
        optimizer.restore(saved.to_vec(), &burn::tensor::Device::flex());
        optimizer
    }

    /// Name, first moment and step after growing 0, 1 to 0, 0', 1, 1'.
    fn grown(policy: OptimizerPolicy) -> Vec<(String, f32, u64)> {
        let origin = |source, kept| BlockOrigin {
            source: Some(source),
            kept,
        };
        let mut optimizer = optimizer();
        let blocks = [(0, true), (0, false), (1, true), (1, false)].map(|(s, k)| origin(s, k));
        optimizer.carry_over(policy, &blocks);
        let saved = optimizer.saved().unwrap().into_iter();
        saved
            .map(|(name, moments)| (name, moments.exp_avg.as_slice()[0], moments.step))
            .collect()
    }

    fn row(name: &str, value: f32, step: u64) -> (String, f32, u64) {
        (name.to_owned(), value, step)
    }

    #[test]
    fn moments_follow_their_blocks_by_name() {
        let wte = row("wte.weight", 3.0, 9);
        assert_eq!(grown(OptimizerPolicy::Fresh), []);
        assert_eq!(
            grown(OptimizerPolicy::ZeroNew),
            [row("h.0.b", 1.0, 7), row("h.2.b", 2.0, 5), wte.clone()]
        );
        let inherited = grown(OptimizerPolicy::Inherit);
        assert_eq!(
            inherited,
            [
                row("h.0.b", 1.0, 7),
                row("h.1.b", 1.0, 7),
                row("h.2.b", 2.0, 5),
                row("h.3.b", 2.0, 5),
                wte
            ]
        );
        // Nothing to inherit for a block that is drawn, or made of two.
        let mut optimizer = optimizer();
        let drawn = [(Some(0), true), (None, false), (Some(1), true)];
        let drawn = drawn.map(|(source, kept)| BlockOrigin { source, kept });
        optimizer.carry_over(OptimizerPolicy::Inherit, &drawn);
        let names: Vec<String> = optimizer
            .saved()
            .unwrap()
            .into_iter()
            .map(|m| m.0)
            .collect();
        assert_eq!(names, ["h.0.b", "h.2.b", "wte.weight"]);
        let restarted: Vec<_> = inherited.into_iter().map(|(n, v, _)| (n, v, 0)).collect();
        assert_eq!(grown(OptimizerPolicy::InheritStep0), restarted);
    }
}
