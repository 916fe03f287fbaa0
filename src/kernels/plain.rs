//! Plain-tensor versions: what the fused versions are tested against, and what runs where there
//! is none.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, DType, FloatDType, Int, Tensor};

use super::{AdamWStep, Piece};

/// √(2/π).
const ROOT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

/// `f` of x in f32, in the type of x.
pub fn in_f32<const D: usize>(x: Tensor<D>, f: impl Fn(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F32 => f(x),
        dtype => f(x.cast(FloatDType::F32)).cast(dtype),
    }
}

/// ½x(1 + tanh(√(2/π)(x + 0.044715x³))), `NewGELUActivation` of `transformers`.
fn gelu_new<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cube = x.clone() * x.clone() * x.clone();
    let inner = (x.clone() + cube * 0.044_715) * ROOT_2_OVER_PI;
    x * (inner.tanh() + 1.0) * 0.5
}

/// ½x(1 + erf(x/√2)).
pub fn gelu_erf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * ((x * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5
}

/// (x − mean) / √(var + ε) · weight + bias over the last axis, var biased.
pub fn layer_norm(x: Tensor<3>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<3> {
    let centred = x.clone() - x.mean_dim(2); // [B, T, D]
    let variance = (centred.clone() * centred.clone()).mean_dim(2); // [B, T, 1]
    centred / (variance + epsilon).sqrt() * weight.unsqueeze() + bias.unsqueeze()
}

/// x `[.., in]` · weight `[in, out]` + bias, in the type of x.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    let (weight, bias) = (weight.cast(x.dtype()), bias.cast(x.dtype()));
    burn::tensor::module::linear(x, weight, Some(bias))
}

/// The tanh approximation of GELU of [`linear`].
pub fn linear_gelu(x: Tensor<3>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<3> {
    in_f32(linear(x, weight, bias), gelu_new)
}

/// stream `[B, T, out]` in f32 plus [`linear`].
pub fn linear_onto(
    stream: Tensor<3>,
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> Tensor<3> {
    stream + linear(x, weight, bias).cast(FloatDType::F32)
}

/// Rows of `wte` `[V, D]` plus those of `wpe` `[P, D]` from `start`, for ids `[B, T]`.
pub fn embed(wte: Tensor<2>, wpe: Tensor<2>, ids: Tensor<2, Int>, start: usize) -> Tensor<3> {
    let [b, t] = ids.dims();
    let d = wte.dims()[1];
    let tokens = wte.select(0, ids.reshape([b * t])).reshape([b, t, d]); // [B, T, D]
    let positions = wpe.slice_dim(0, start..start + t); // [T, D]
    tokens + positions.unsqueeze()
}

/// Causal attention of Q, K and V side by side. `[B, T, 3D] -> [B, T, D]`
pub fn causal_attention(qkv: Tensor<3>, n_head: usize) -> Tensor<3> {
    let [b, t, d3] = qkv.dims();
    let [d, s] = [d3 / 3, d3 / 3 / n_head];
    let [q, k, v] = [0, 1, 2].map(|i| {
        qkv.clone()
            .slice([0..b, 0..t, i * d..(i + 1) * d])
            .reshape([b, t, n_head, s])
            .swap_dims(1, 2) // [B, H, T, S]
    });
    let scores = q.matmul(k.swap_dims(2, 3)); // [B, H, T, T]
    let weights = causal_softmax(scores, 1.0 / (s as f64).sqrt()); // [B, H, T, T]
    weights.matmul(v).swap_dims(1, 2).reshape([b, t, d])
}

/// Softmax over the first U − T + t + 1 columns of row t of `scale` · scores `[B, H, T, U]`.
pub fn causal_softmax(scores: Tensor<4>, scale: f64) -> Tensor<4> {
    let [_, _, t, u] = scores.dims();
    let lowest = match scores.dtype() {
        DType::F16 => f32::from(half::f16::MIN),
        DType::BF16 => f32::from(half::bf16::MIN),
        _ => f32::MIN,
    };
    // True above the diagonal that ends at the last column of the last row.
    let future: Tensor<2, Bool> = Tensor::tril_mask([t, u], (u - t) as i64, &scores.device());
    let masked = (scores * scale).mask_fill(future.unsqueeze(), lowest);
    in_f32(masked, |masked| {
        burn::tensor::activation::softmax(masked, 3)
    })
}

/// Rows of logits in one piece of [`chunked_linear_cross_entropy`]: enough to fill a GPU.
pub const PIECE_ROWS: usize = 2048;

/// [`linear_cross_entropy`] a piece of rows at a time, so that logits and their softmax exist
/// for 2048 rows only.
///
/// Each piece is taken back to hidden states and head at once, on a graph of its own. What is
/// returned has the value of the loss and, being linear in both, those very gradients.
pub fn chunked_linear_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    let n = hidden.dims()[0];
    if n <= PIECE_ROWS {
        return linear_cross_entropy(hidden, head, targets);
    }
    let tracked = hidden.device().is_autodiff();
    let (mut loss, mut d_hidden, mut d_head) = (Vec::new(), Vec::new(), None::<Tensor<2>>);
    for start in (0..n).step_by(PIECE_ROWS) {
        let rows = start..(start + PIECE_ROWS).min(n);
        let leaf = |x: Tensor<2>| {
            if tracked {
                x.detach().require_grad()
            } else {
                x
            }
        };
        let (h, w) = (
            leaf(hidden.clone().slice_dim(0, rows.clone())),
            leaf(head.clone()),
        );
        let logits = h.clone().matmul(w.clone().cast(h.dtype()).transpose());
        let piece = nll(logits, targets.clone().slice_dim(0, rows)).sum() / n as f64;
        if tracked {
            let grads = piece.backward();
            d_hidden.extend(h.grad(&grads));
            d_head = match (d_head, w.grad(&grads)) {
                (Some(sum), Some(part)) => Some(sum + part),
                (sum, part) => sum.or(part),
            };
        }
        loss.push(piece.detach());
    }
    let loss = Tensor::cat(loss, 0).sum();
    let Some(d_head) = d_head else { return loss };
    let constant = |grad: Tensor<2>| grad.autodiff();
    let d_hidden = constant(Tensor::cat(d_hidden, 0));
    let [hidden, d_hidden] = [hidden, d_hidden].map(|x| x.cast(FloatDType::F32));
    let linear = (hidden * d_hidden).sum() + (head * constant(d_head)).sum();
    linear.clone() + (loss - linear.detach())
}

/// Mean cross-entropy `[1]` of hidden `[N, D]` times head `[V, D]` transposed.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    let head = head.cast(hidden.dtype());
    nll(hidden.matmul(head.transpose()), targets).mean()
}

/// −log softmax(logits) at its target, for every row, in f32. `[N, V], [N] -> [N]`
pub fn nll(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let n = logits.dims()[0];
    -log_softmax(logits.cast(FloatDType::F32), 1)
        .gather(1, targets.reshape([n, 1]))
        .reshape([n])
}

/// Causal attention within every piece of a pack, and to all of its prefix.
/// `[N, 3D] -> [N, D]`
pub fn packed_attention(qkv: Tensor<2>, n_head: usize, pieces: &[Piece]) -> Tensor<2> {
    let [d, s] = [qkv.dims()[1] / 3, qkv.dims()[1] / 3 / n_head];
    // `[rows, D]` of one part as `[1, H, rows, S]`.
    let part = |rows: std::ops::Range<usize>, i: usize| {
        let count = rows.len();
        qkv.clone()
            .slice([rows, i * d..(i + 1) * d])
            .reshape([1, count, n_head, s])
            .swap_dims(1, 2)
    };
    let mixed = pieces.iter().map(|Piece { prefix, own }| {
        let [k, v] = [1, 2].map(|i| {
            if prefix.is_empty() {
                part(own.clone(), i)
            } else {
                Tensor::cat(vec![part(prefix.clone(), i), part(own.clone(), i)], 2)
            }
        }); // [1, H, U, S]
        let scores = part(own.clone(), 0).matmul(k.swap_dims(2, 3)); // [1, H, T, U]
        let weights = causal_softmax(scores, 1.0 / (s as f64).sqrt());
        weights.matmul(v).swap_dims(1, 2).reshape([own.len(), d])
    });
    Tensor::cat(mixed.collect(), 0)
}

/// Negative log-likelihood of targets `[P]` in rows `[P]` of the logits of hidden `[R, D]`, and
/// 1 where it is the row's largest; `[P, 2]`.
pub fn target_nll(
    hidden: Tensor<2>,
    head: Tensor<2>,
    rows: Tensor<1, Int>,
    targets: Tensor<1, Int>,
) -> Tensor<2> {
    let n = targets.dims()[0];
    let head = head.cast(hidden.dtype());
    let logits = hidden.matmul(head.transpose()).select(0, rows); // [P, V]
    let greedy = logits.clone().argmax(1).reshape([n]).equal(targets.clone());
    let nll = nll(logits, targets);
    Tensor::cat(vec![nll.reshape([n, 1]), greedy.float().reshape([n, 1])], 1)
}

/// One update by AdamW: new values, first and second moment.
pub fn adamw(
    p: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    grad: Tensor<1>,
    step: AdamWStep,
) -> [Tensor<1>; 3] {
    let grad = grad * step.grad_scale;
    let m = m * step.beta1 + grad.clone() * (1.0 - step.beta1);
    let v = v * step.beta2 + grad.clone() * grad * (1.0 - step.beta2);
    let [correction1, correction2] = step.corrections();
    let root = v.clone().sqrt() / correction2.sqrt() + step.epsilon;
    let decayed = p * (1.0 - step.lr * step.weight_decay);
    let p = decayed - m.clone() / root * (step.lr / correction1);
    [p, m, v]
}

/// Σ x²; `[1]`.
pub fn square_sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    x.clone().mul(x).sum()
}
