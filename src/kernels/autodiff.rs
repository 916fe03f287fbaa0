//! Gradients of the fused operations, as nodes of burn's autodiff graph.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend};

use super::FusedOps;

/// Backward passes, on a backend without autodiff.
pub trait FusedGrads: Backend {
    /// Gradient of GELU's input, from the input.
    fn gelu_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of LayerNorm's input, weight and bias.
    fn layer_norm_grad(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> [FloatTensor<Self>; 3];

    /// Gradient of the unscaled scores, from the softmax's output.
    fn causal_softmax_grad(
        weights: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;

    /// The loss, and its gradients in hidden states and head. Made in one pass, since the
    /// logits that the gradients need are gone afterwards.
    fn linear_cross_entropy_with_grad(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> [FloatTensor<Self>; 3];

    /// x · factor, factor `[1]`.
    fn scaled(x: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self>;
}

#[derive(Debug)]
struct Gelu;

impl<B: FusedGrads> Backward<B, 1> for Gelu {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::gelu_grad(ops.state, grad));
        }
    }
}

#[derive(Debug)]
struct LayerNorm;

impl<B: FusedGrads> Backward<B, 3> for LayerNorm {
    /// Input, weight, ε.
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, epsilon) = ops.state;
        let made = B::layer_norm_grad(x, weight, grad, epsilon);
        for (node, grad) in ops.parents.into_iter().zip(made) {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct CausalSoftmax;

impl<B: FusedGrads> Backward<B, 1> for CausalSoftmax {
    /// Output and scale.
    type State = (FloatTensor<B>, f64);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (weights, scale) = ops.state;
        if let Some(node) = node {
            grads.register::<B>(node.id, B::causal_softmax_grad(weights, grad, scale));
        }
    }
}

#[derive(Debug)]
struct LinearCrossEntropy;

impl<B: FusedGrads> Backward<B, 2> for LinearCrossEntropy {
    /// Gradients in hidden states and head, of a loss whose own gradient is 1.
    type State = [FloatTensor<B>; 2];

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        for (node, unit) in ops.parents.into_iter().zip(ops.state) {
            if let Some(node) = node {
                grads.register::<B>(node.id, B::scaled(unit, grad.clone()));
            }
        }
    }
}

impl<B: FusedOps + FusedGrads, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Gelu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = x.into_primitive();
                prep.finish(x.clone(), B::fused_gelu(x))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_gelu(x.into_primitive())),
        }
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let ops = LayerNorm
            .prepare::<C>([x.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful();
        let (x, weight, bias) = (
            x.into_primitive(),
            weight.into_primitive(),
            bias.into_primitive(),
        );
        match ops {
            OpsKind::Tracked(prep) => {
                let state = (x.clone(), weight.clone(), epsilon);
                prep.finish(state, B::fused_layer_norm(x, weight, bias, epsilon))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_layer_norm(x, weight, bias, epsilon)),
        }
    }

    fn fused_causal_softmax(scores: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        let ops = CausalSoftmax
            .prepare::<C>([scores.node()])
            .compute_bound()
            .stateful();
        let weights = B::fused_causal_softmax(scores.into_primitive(), scale);
        match ops {
            OpsKind::Tracked(prep) => prep.finish((weights.clone(), scale), weights),
            OpsKind::UnTracked(prep) => prep.finish(weights),
        }
    }

    fn fused_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let ops = LinearCrossEntropy
            .prepare::<C>([hidden.node(), head.node()])
            .compute_bound()
            .stateful();
        let (hidden, head) = (hidden.into_primitive(), head.into_primitive());
        match ops {
            OpsKind::Tracked(prep) => {
                let [loss, d_hidden, d_head] =
                    B::linear_cross_entropy_with_grad(hidden, head, targets);
                prep.finish([d_hidden, d_head], loss)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_linear_cross_entropy(hidden, head, targets))
            }
        }
    }
}
