//! The wake-up check: whether the blocks of a freshly grown model begin to learn.
//!
//! A block with zero output projections hands no gradient to its own inside at first; only the
//! projections move, and the rest follows a step later. A block whose projections and inside
//! are both zero never wakes, and a first step of Adam, which moves every element by the
//! learning rate whatever the gradient, can jump. These numbers show both.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::checkpoint::layout;
use crate::model::Gpt2;
use crate::model::weights::Path;

/// What one step did to every block, block 0 first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WakeUp {
    /// Euclidean norm of the gradient over the block; 0 where frozen.
    pub grad_norm: Vec<f64>,
    /// The same without the two `c_proj`: what reaches the inside of the block.
    pub inner_grad_norm: Vec<f64>,
    /// Euclidean norm of what the step added to the block's weights.
    pub update_norm: Vec<f64>,
    /// Root mean square of the residual stream after the block, before the step.
    pub residual_rms: Vec<f64>,
}

impl WakeUp {
    /// What can be seen before the step: gradients, and the residual stream on `ids` `[B, T]`.
    pub fn before(model: &Gpt2, grads: &GradientsParams, ids: Tensor<2, Int>) -> Self {
        let mut squares = Squares {
            grads: Some(grads),
            ..Squares::default()
        };
        model.visit(&mut squares);
        let n_layer = model.h.len();
        Self {
            grad_norm: norms(&squares.of_block, n_layer),
            inner_grad_norm: norms(&squares.of_inside, n_layer),
            update_norm: Vec::new(),
            residual_rms: model.valid().residual_rms(ids),
        }
    }

    /// Adds what the step did, from the model before and after it.
    #[must_use]
    pub fn after(self, before: &Gpt2, after: &Gpt2) -> Self {
        let mut old = Values::default();
        before.visit(&mut old);
        let mut squares = Squares {
            old: old.0,
            ..Squares::default()
        };
        after.visit(&mut squares);
        let update_norm = norms(&squares.of_block, after.h.len());
        Self {
            update_norm,
            ..self
        }
    }

    /// Blocks that a gradient should reach and does not, with what is wrong; `trains` says
    /// whether a block is trained at all.
    pub fn dead(&self, trains: impl Fn(usize) -> bool) -> Vec<(usize, &'static str)> {
        let verdict = |layer: usize| match (self.grad_norm[layer], self.inner_grad_norm[layer]) {
            (0.0, _) => Some("no gradient reaches it"),
            (_, 0.0) => Some("no gradient reaches its inside, only its output projections"),
            _ if self.update_norm.get(layer) == Some(&0.0) => Some("its weights do not move"),
            _ => None,
        };
        let trained = (0..self.grad_norm.len()).filter(|&layer| trains(layer));
        trained
            .filter_map(|layer| Some((layer, verdict(layer)?)))
            .collect()
    }
}

fn norms(squares: &BTreeMap<usize, f64>, n_layer: usize) -> Vec<f64> {
    (0..n_layer)
        .map(|layer| squares.get(&layer).copied().unwrap_or(0.0).sqrt())
        .collect()
}

/// The values of every parameter, by reference count.
#[derive(Default)]
struct Values(Vec<Tensor<1>>);

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(flat(param.val().inner()));
    }
}

/// Sums of squares per block: of gradients, or of the change since `old`.
#[derive(Default)]
struct Squares<'a> {
    path: Path,
    grads: Option<&'a GradientsParams>,
    old: Vec<Tensor<1>>,
    visited: usize,
    of_block: BTreeMap<usize, f64>,
    of_inside: BTreeMap<usize, f64>,
}

impl Squares<'_> {
    fn values<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Option<Tensor<1>> {
        let index = self.visited;
        self.visited += 1;
        match self.grads {
            Some(grads) => grads.get::<D>(param.id).map(flat),
            None => Some(flat(param.val().inner()) - self.old[index].clone()),
        }
    }
}

impl ModuleVisitor for Squares<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(values) = self.values(param) else {
            return;
        };
        let name = self.path.name();
        let Some((layer, rest)) = layout::split_block_name(&name) else {
            return;
        };
        let square = f64::from(values.clone().mul(values).sum().into_scalar::<f32>());
        *self.of_block.entry(layer).or_default() += square;
        if !rest.contains("c_proj") {
            *self.of_inside.entry(layer).or_default() += square;
        }
    }
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let numel = tensor.dims().iter().product::<usize>();
    tensor.reshape([numel])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_dead_where_it_trains_and_nothing_arrives() {
        let wakeup = WakeUp {
            grad_norm: vec![1.0, 0.0, 1.0, 0.0],
            inner_grad_norm: vec![1.0, 0.0, 0.0, 0.0],
            update_norm: vec![0.1, 0.0, 0.1, 0.0],
            residual_rms: vec![1.0; 4],
        };
        let dead: Vec<usize> = wakeup
            .dead(|layer| layer != 3)
            .iter()
            .map(|d| d.0)
            .collect();
        assert_eq!(dead, [1, 2]);
    }
}
