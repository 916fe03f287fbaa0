//! Plain-tensor versions: what runs on GPUs, and what the fused versions are tested against.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, Int, Tensor};

/// √(2/π).
const ROOT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

/// ½x(1 + tanh(√(2/π)(x + 0.044715x³))), `NewGELUActivation` of `transformers`.
pub fn gelu_new<const D: usize>(x: Tensor<D>) -> Tensor<D> {
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

/// Softmax over the first U − T + t + 1 columns of row t of `scale` · scores `[B, H, T, U]`.
pub fn causal_softmax(scores: Tensor<4>, scale: f64) -> Tensor<4> {
    let [_, _, t, u] = scores.dims();
    // True above the diagonal that ends at the last column of the last row.
    let future: Tensor<2, Bool> = Tensor::tril_mask([t, u], (u - t) as i64, &scores.device());
    let masked = (scores * scale).mask_fill(future.unsqueeze(), f32::MIN);
    burn::tensor::activation::softmax(masked, 3)
}

/// Mean cross-entropy `[1]` of hidden `[N, D]` times head `[V, D]` transposed.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    nll(hidden.matmul(head.transpose()), targets).mean()
}

/// −log softmax(logits)[target] of every row. `[N, V], [N] -> [N]`
pub fn nll(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let n = logits.dims()[0];
    -log_softmax(logits, 1)
        .gather(1, targets.reshape([n, 1]))
        .reshape([n])
}
