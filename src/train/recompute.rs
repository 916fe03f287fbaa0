//! Gradients with one block's activations in memory at a time (arXiv 1604.06174): the forward
//! pass keeps only what each block reads, and the backward pass runs each block again.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};

use super::optimizer::accumulate;
use crate::model::Gpt2;

/// The mean loss of a micro-batch, without a graph, and the gradients of `share` times it.
///
/// A tied head's gradient and the embedding's are made apart and added, so that one more matrix of
/// that size exists than otherwise.
///
/// Every part of the model is taken back on a graph of its own: the gradient g of its output y
/// is handed on as that of Σ y · g, whose gradient in y is g to the bit.
///
/// # Shapes
/// - inputs, targets `[B, T]`
/// - output `[1]`
pub fn loss_and_gradients(
    model: &Gpt2,
    inputs: Tensor<2, Int>,
    targets: Tensor<2, Int>,
    share: f64,
) -> (Tensor<1>, GradientsParams) {
    let still = model.valid();
    let mut states = vec![still.embed(inputs.clone().without_autodiff(), 0)]; // [B, T, D]
    for block in &still.h {
        let x = states.last().expect("the embedding").clone();
        states.push(block.forward(x));
    }
    let leaf = |x: Tensor<3>| x.autodiff().require_grad();

    let x = leaf(states.pop().expect("the last block's output"));
    let loss = model.head_loss(x.clone(), targets);
    let found = loss.clone().inner();
    let grads = (loss * share).backward();
    let mut grad = x.grad(&grads).expect("a leaf has a gradient");
    let mut total = GradientsParams::from_grads(grads, model);

    let embeds = trains(&model.wte) || trains(&model.wpe);
    // Gradients go back no further than something is trained.
    let lowest = if embeds {
        Some(0)
    } else {
        model.h.iter().position(trains)
    };
    for block in model.h[lowest.unwrap_or(model.h.len())..].iter().rev() {
        let x = leaf(states.pop().expect("one for every block"));
        let y = block.forward(x.clone());
        let grads = (y * grad.autodiff()).sum().backward();
        grad = x.grad(&grads).expect("a leaf has a gradient");
        total = accumulate(block, total, GradientsParams::from_grads(grads, block));
    }
    if embeds {
        let y = model.embed(inputs, 0);
        let grads = (y * grad.autodiff()).sum().backward();
        total = accumulate(model, total, GradientsParams::from_grads(grads, model));
    }
    (found, total)
}

/// Whether gradients are kept for any parameter.
fn trains<M: Module>(module: &M) -> bool {
    struct Any(bool);
    impl ModuleVisitor for Any {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 |= param.is_require_grad();
        }
    }
    let mut any = Any(false);
    module.visit(&mut any);
    any.0
}
