//! The forms of a linear layer, as the tests of kernels compare them.

use burn::tensor::Tensor;
use scale_ckpt::kernels::{self, plain};

/// B, T, in, out.
pub type Shape = [usize; 4];

/// A form on flat input, weight and bias, and the residual stream where it takes one.
pub type Form = fn(&[Tensor<1>], Shape) -> Tensor<3>;

/// Name, number of inputs, the fused version and the plain one.
pub const FORMS: [(&str, usize, Form, Form); 3] = [
    (
        "linear",
        3,
        |x, shape| kernels::linear(input(x, shape), weight(x, shape), x[2].clone()),
        |x, shape| plain::linear(input(x, shape), weight(x, shape), x[2].clone()),
    ),
    (
        "linear_gelu",
        3,
        |x, shape| kernels::linear_gelu(input(x, shape), weight(x, shape), x[2].clone()),
        |x, shape| plain::linear_gelu(input(x, shape), weight(x, shape), x[2].clone()),
    ),
    (
        "linear_onto",
        4,
        |x, shape| {
            let (input, weight) = (input(x, shape), weight(x, shape));
            kernels::linear_onto(stream(x, shape), input, weight, x[2].clone())
        },
        |x, shape| {
            let (input, weight) = (input(x, shape), weight(x, shape));
            plain::linear_onto(stream(x, shape), input, weight, x[2].clone())
        },
    ),
];

fn input(x: &[Tensor<1>], [b, t, d, _]: Shape) -> Tensor<3> {
    x[0].clone().reshape([b, t, d])
}

fn weight(x: &[Tensor<1>], [_, _, d, f]: Shape) -> Tensor<2> {
    x[1].clone().reshape([d, f])
}

fn stream(x: &[Tensor<1>], [b, t, _, f]: Shape) -> Tensor<3> {
    x[3].clone().reshape([b, t, f])
}
