//! The wake-up check: whether the blocks of a freshly grown model begin to learn.
//!
//! A block with zero output projections hands no gradient to its own inside at first; only the
//! projections move, and the rest follows a step later. A block whose projections and inside
//! are both zero never wakes, and a first step of Adam, which moves every element by the
//! learning rate whatever the gradient, can jump. These numbers show both.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::checkpoint::layout;
use crate::device::read_scalar;
use crate::error::Result;
use crate::kernels;
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
    ///
    /// # Errors
    /// The device failed.
    pub fn before(model: &Gpt2, grads: &GradientsParams, ids: Tensor<2, Int>) -> Result<Self> {
        let values = values(model, Some(grads));
        let n_layer = model.h.len();
        Ok(Self {
            grad_norm: block_norms(&values, n_layer, |_| true)?,
            inner_grad_norm: block_norms(&values, n_layer, is_inner)?,
            update_norm: Vec::new(),
            residual_rms: model.valid().residual_rms(ids)?,
        })
    }

    /// Adds what the step did, from the model before and after it.
    ///
    /// # Errors
    /// The device failed.
    pub fn after(self, before: &Gpt2, after: &Gpt2) -> Result<Self> {
        let (old, new) = (values(before, None), values(after, None));
        let change = |(new, old): (Named, Named)| (new.0, new.1 - old.1);
        let changes: Vec<Named> = new.into_iter().zip(old).map(change).collect();
        Ok(Self {
            update_norm: block_norms(&changes, after.h.len(), |_| true)?,
            ..self
        })
    }

    /// Blocks that a gradient should reach and does not, with what is wrong; `trains` says
    /// whether a parameter is trained.
    pub fn dead(&self, trains: impl Fn(&str) -> bool) -> Vec<(usize, &'static str)> {
        let verdict = |layer: usize| {
            let names = layout::BLOCK.iter().map(|part| part.full_name(layer));
            let trained: Vec<String> = names.filter(|name| trains(name)).collect();
            let inside = trained.iter().any(|name| is_inner(name));
            match (self.grad_norm[layer], self.inner_grad_norm[layer]) {
                _ if trained.is_empty() => None,
                (0.0, _) => Some("no gradient reaches it"),
                (_, 0.0) if inside => {
                    Some("no gradient reaches its inside, only its output projections")
                }
                _ if self.update_norm.get(layer) == Some(&0.0) => Some("its weights do not move"),
                _ => None,
            }
        };
        (0..self.grad_norm.len())
            .filter_map(|layer| Some((layer, verdict(layer)?)))
            .collect()
    }
}

/// Whether a parameter of a block lies before its two output projections.
fn is_inner(name: &str) -> bool {
    !layout::is_residual_out(name)
}

/// A parameter's name, and its values or gradient, flattened.
type Named = (String, Tensor<1>);

/// Euclidean norm per block over the parameters whose name in the block `counts` accepts.
fn block_norms(named: &[Named], n_layer: usize, counts: impl Fn(&str) -> bool) -> Result<Vec<f64>> {
    let mut squares = vec![0.0; n_layer];
    for (name, values) in named {
        match layout::split_block_name(name) {
            Some((layer, rest)) if counts(rest) => {
                squares[layer] += read_scalar(kernels::square_sum(values.clone()))?;
            }
            _ => {}
        }
    }
    Ok(squares.into_iter().map(f64::sqrt).collect())
}

/// Every parameter of `model`, or the gradients there are, in file order.
fn values(model: &Gpt2, grads: Option<&GradientsParams>) -> Vec<Named> {
    let mut visitor = Values {
        path: Path::default(),
        grads,
        out: Vec::new(),
    };
    model.visit(&mut visitor);
    visitor.out
}

struct Values<'a> {
    path: Path,
    grads: Option<&'a GradientsParams>,
    out: Vec<Named>,
}

impl ModuleVisitor for Values<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = match self.grads {
            Some(grads) => grads.get::<D>(param.id),
            None => Some(param.val().inner()),
        };
        if let Some(tensor) = tensor {
            let numel = tensor.dims().iter().product::<usize>();
            self.out.push((self.path.name(), tensor.reshape([numel])));
        }
    }
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
            .dead(|name| !name.starts_with("h.3."))
            .iter()
            .map(|d| d.0)
            .collect();
        assert_eq!(dead, [1, 2]);
        // Where the inside is frozen, nothing is to reach it.
        let outside = |name: &str| name.starts_with("h.2.mlp.c_proj");
        assert!(wakeup.dead(outside).is_empty());
    }
}
