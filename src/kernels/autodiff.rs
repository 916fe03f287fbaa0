//! Gradients of the fused operations, as nodes of burn's autodiff graph.

use burn::backend::TensorMetadata;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend};
use burn::tensor::FloatDType;

use super::FusedOps;

/// A tensor of the autodiff backend over `B`; the same for every checkpointing strategy.
type Tracked<B> = FloatTensor<Autodiff<B>>;

/// Backward passes, on a backend without autodiff.
pub trait FusedGrads: Backend {
    /// What [`Self::gelu_grad`] asks for, and GELU of a linear layer.
    fn linear_gelu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// Gradient of the linear layer's output, from that of its GELU.
    fn gelu_grad(
        inner: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Gradient of a linear layer's input, from its weight.
    fn linear_x_grad(weight: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradient of a linear layer's weight, from its input.
    fn linear_weight_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Sum over all but the last axis: the gradient of a bias.
    fn row_sum(grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Adds the gradient `[B, T, D]` of the rows picked by ids `[B, T]` to that of wte.
    fn add_token_grads(
        sum: FloatTensor<Self>,
        ids: IntTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Adds the gradient `[B, T, D]` of rows `start..` to that of wpe.
    fn add_position_grads(
        sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        start: usize,
    ) -> FloatTensor<Self>;

    /// Attention's output, and log Σ exp of every query's scores.
    fn causal_attention_with_log_sums(
        qkv: FloatTensor<Self>,
        n_head: usize,
    ) -> [FloatTensor<Self>; 2];

    /// Gradient of Q, K and V side by side.
    fn causal_attention_grad(
        qkv: FloatTensor<Self>,
        mixed: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        n_head: usize,
    ) -> FloatTensor<Self>;

    /// Of LayerNorm's gradients, if wanted: that of its input, and those of weight and bias.
    fn layer_norm_grads(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
        wanted: [bool; 2],
    ) -> (Option<FloatTensor<Self>>, Option<[FloatTensor<Self>; 2]>);

    /// The loss, and those of its gradients in hidden states and head that are wanted. Made in
    /// one pass, since the logits that the gradients need are gone afterwards.
    fn linear_cross_entropy_with_grad(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
        wanted: [bool; 2],
    ) -> (FloatTensor<Self>, [Option<FloatTensor<Self>>; 2]);

    /// x · factor, factor `[1]`.
    fn scaled(x: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Of a linear layer's input and weight, each where the other one's gradient asks for it.
#[derive(Clone, Debug)]
struct Factors<B: Backend>([Option<FloatTensor<B>>; 2]);

impl<B: FusedGrads> Factors<B> {
    /// `tracked`: whether gradients flow to x, and to the weight.
    fn keep(tracked: [bool; 2], x: &FloatTensor<B>, weight: &FloatTensor<B>) -> Self {
        Self([
            tracked[1].then(|| x.clone()),
            tracked[0].then(|| weight.clone()),
        ])
    }

    /// Registers the gradients of input, weight and bias, which are at `nodes` where they are
    /// wanted, from that of the output.
    fn register(self, nodes: [Option<NodeId>; 3], grad: FloatTensor<B>, grads: &mut Gradients) {
        let Self([x, weight]) = self;
        let [node_x, node_weight, node_bias] = nodes;
        if let (Some(node), Some(x)) = (node_weight, x) {
            grads.register::<B>(node, B::linear_weight_grad(x, grad.clone()));
        }
        if let Some(node) = node_bias {
            grads.register::<B>(node, B::row_sum(grad.clone()));
        }
        if let (Some(node), Some(weight)) = (node_x, weight) {
            grads.register::<B>(node, B::linear_x_grad(weight, grad));
        }
    }
}

#[derive(Debug)]
struct Linear;

impl<B: FusedGrads> Backward<B, 3> for Linear {
    /// Factors; under a GELU, what its gradient asks for, and the bias.
    type State = (Factors<B>, Option<[FloatTensor<B>; 2]>);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let nodes = ops.parents.map(|node| node.map(|node| node.id));
        let (factors, gelu) = ops.state;
        let grad = match gelu {
            Some([inner, bias]) => B::gelu_grad(inner, bias, grad),
            None => grad,
        };
        factors.register(nodes, grad, grads);
    }
}

/// A linear layer of input, weight and bias; `forward` gives its output and, under a GELU, what the
/// gradient of that asks for.
fn linear<B: FusedGrads, C: CheckpointStrategy>(
    inputs: [FloatTensor<Autodiff<B, C>>; 3],
    forward: impl FnOnce([FloatTensor<B>; 3]) -> (FloatTensor<B>, Option<[FloatTensor<B>; 2]>),
) -> FloatTensor<Autodiff<B, C>> {
    let [x, weight, bias] = &inputs;
    let tracked = [x, weight].map(is_tracked::<B, C>);
    let ops = Linear
        .prepare::<C>([x.node(), weight.node(), bias.node()])
        .compute_bound()
        .stateful();
    let inputs = inputs.map(|x| x.into_primitive());
    let factors = Factors::keep(tracked, &inputs[0], &inputs[1]);
    let (out, gelu) = forward(inputs);
    match ops {
        OpsKind::Tracked(prep) => prep.finish((factors, gelu), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}

#[derive(Debug)]
struct LinearOnto;

impl<B: FusedGrads> Backward<B, 4> for LinearOnto {
    /// Factors, and the type that the layer computes in.
    type State = (Factors<B>, FloatDType);

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (factors, dtype) = ops.state;
        let [stream, x, weight, bias] = ops.parents.map(|node| node.map(|node| node.id));
        let nodes = [x, weight, bias];
        if nodes.iter().any(Option::is_some) {
            factors.register(nodes, B::float_cast(grad.clone(), dtype), grads);
        }
        if let Some(node) = stream {
            grads.register::<B>(node, grad);
        }
    }
}

#[derive(Debug)]
struct Embed;

impl<B: FusedGrads> Backward<B, 2> for Embed {
    /// The two matrices, ids and first position.
    type State = ([Tracked<B>; 2], IntTensor<B>, usize);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let ([wte, wpe], ids, start) = ops.state;
        let [node_wte, node_wpe] = ops.parents;
        if let Some(node) = node_wte {
            // A tied head has left its gradient already: added to in place, there is never a
            // second one of that size.
            let sum = sum_so_far(grads, &wte);
            grads.register::<B>(node.id, B::add_token_grads(sum, ids, grad.clone()));
        }
        if let Some(node) = node_wpe {
            let sum = sum_so_far(grads, &wpe);
            grads.register::<B>(node.id, B::add_position_grads(sum, grad, start));
        }
    }
}

/// Takes the gradient of `x` that was registered before; zeros if none was.
fn sum_so_far<B: Backend>(grads: &mut Gradients, x: &Tracked<B>) -> FloatTensor<B> {
    grads.remove::<B>(x).unwrap_or_else(|| {
        let x = x.primitive();
        B::float_zeros(x.shape(), &x.device(), x.dtype().into())
    })
}

#[derive(Debug)]
struct CausalAttention;

impl<B: FusedGrads> Backward<B, 1> for CausalAttention {
    /// Input, output, log Σ exp of the scores, H.
    type State = ([FloatTensor<B>; 3], usize);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let ([qkv, mixed, log_sums], n_head) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |grad| {
            B::causal_attention_grad(qkv, mixed, log_sums, grad, n_head)
        });
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
        let [node_x, node_weight, node_bias] = ops.parents;
        let wanted = [
            node_x.is_some(),
            node_weight.is_some() || node_bias.is_some(),
        ];
        let (dx, others) = B::layer_norm_grads(x, weight, grad, epsilon, wanted);
        if let (Some(node), Some(dx)) = (node_x, dx) {
            grads.register::<B>(node.id, dx);
        }
        for (node, grad) in [node_weight, node_bias]
            .into_iter()
            .zip(others.into_iter().flatten())
        {
            if let Some(node) = node {
                grads.register::<B>(node.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct LinearCrossEntropy;

impl<B: FusedGrads> Backward<B, 2> for LinearCrossEntropy {
    /// Gradients in hidden states and head, of a loss whose own gradient is 1.
    type State = [Option<FloatTensor<B>>; 2];

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        for (node, unit) in ops.parents.into_iter().zip(ops.state) {
            if let (Some(node), Some(unit)) = (node, unit) {
                grads.register::<B>(node.id, B::scaled(unit, grad.clone()));
            }
        }
    }
}

/// Whether gradients flow to `x`, which is not public: an operation on it knows.
fn is_tracked<B: FusedGrads, C: CheckpointStrategy>(x: &FloatTensor<Autodiff<B, C>>) -> bool {
    let ops = Backward::<B, 1>::prepare::<C>(CausalAttention, [x.node()]);
    matches!(ops.compute_bound().stateful(), OpsKind::Tracked(_))
}

impl<B: FusedOps + FusedGrads, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::<B, C>([x, weight, bias], |[x, weight, bias]| {
            (B::fused_linear(x, weight, bias), None)
        })
    }

    fn fused_embed(
        wte: FloatTensor<Self>,
        wpe: FloatTensor<Self>,
        ids: IntTensor<Self>,
        start: usize,
    ) -> FloatTensor<Self> {
        let ops = Embed
            .prepare::<C>([wte.node(), wpe.node()])
            .compute_bound()
            .stateful();
        let out = B::fused_embed(
            wte.primitive().clone(),
            wpe.primitive().clone(),
            ids.clone(),
            start,
        );
        match ops {
            OpsKind::Tracked(prep) => prep.finish(([wte, wpe], ids, start), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn fused_causal_attention(qkv: FloatTensor<Self>, n_head: usize) -> FloatTensor<Self> {
        let ops = CausalAttention
            .prepare::<C>([qkv.node()])
            .compute_bound()
            .stateful();
        let qkv = qkv.into_primitive();
        match ops {
            OpsKind::Tracked(prep) => {
                let [mixed, log_sums] = B::causal_attention_with_log_sums(qkv.clone(), n_head);
                prep.finish(([qkv, mixed.clone(), log_sums], n_head), mixed)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_causal_attention(qkv, n_head)),
        }
    }

    fn fused_linear_gelu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::<B, C>([x, weight, bias], |[x, weight, bias]| {
            let [inner, out] = B::linear_gelu(x, weight, bias.clone());
            (out, Some([inner, bias]))
        })
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
        dtype: FloatDType,
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
                prep.finish(state, B::fused_layer_norm(x, weight, bias, epsilon, dtype))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_layer_norm(x, weight, bias, epsilon, dtype))
            }
        }
    }

    fn fused_linear_onto(
        stream: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let tracked = [&x, &weight].map(is_tracked::<B, C>);
        let ops = LinearOnto
            .prepare::<C>([stream.node(), x.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful();
        let [stream, x, weight, bias] = [stream, x, weight, bias].map(|x| x.into_primitive());
        match ops {
            OpsKind::Tracked(prep) => {
                let state = (Factors::keep(tracked, &x, &weight), x.dtype().into());
                prep.finish(state, B::fused_linear_onto(stream, x, weight, bias))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_linear_onto(stream, x, weight, bias)),
        }
    }

    fn fused_linear_cross_entropy(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let wanted = [&hidden, &head].map(is_tracked::<B, C>);
        let ops = LinearCrossEntropy
            .prepare::<C>([hidden.node(), head.node()])
            .compute_bound()
            .stateful();
        let (hidden, head) = (hidden.into_primitive(), head.into_primitive());
        match ops {
            OpsKind::Tracked(prep) => {
                let (loss, unit_grads) =
                    B::linear_cross_entropy_with_grad(hidden, head, targets, wanted);
                prep.finish(unit_grads, loss)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_linear_cross_entropy(hidden, head, targets))
            }
        }
    }
}
