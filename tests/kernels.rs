//! The fused CPU operations against their plain-tensor versions, values and gradients.
//!
//! Both compute in f32 in another order; errors grow with the length of the sums. Tolerances
//! are relative to the largest value and allow about 30 units in the last place.
#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use scale_ckpt::kernels::{self, plain};
use scale_ckpt::model::weights::to_host;
use support::assert_close;

const RELATIVE: f64 = 4e-6;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.5), device).require_grad()
}

/// Compares values, and the gradients of the inputs under a random cotangent.
fn compare<const D: usize>(
    what: &str,
    inputs: &[Tensor<1>],
    fused: impl Fn(&[Tensor<1>]) -> Tensor<D>,
    plain: impl Fn(&[Tensor<1>]) -> Tensor<D>,
) {
    let run = |f: &dyn Fn(&[Tensor<1>]) -> Tensor<D>, cotangent: Option<Tensor<D>>| {
        let inputs: Vec<Tensor<1>> = inputs
            .iter()
            .map(|t| t.clone().detach().require_grad())
            .collect();
        let out = f(&inputs);
        let cotangent = cotangent.unwrap_or_else(|| {
            Tensor::random(out.shape(), Distribution::Normal(0.0, 1.0), &out.device())
        });
        let grads = (out.clone() * cotangent.clone()).sum().backward();
        let grads: Vec<_> = inputs
            .iter()
            .map(|input| to_host(input.grad(&grads).unwrap()))
            .collect();
        (to_host(out.inner()), grads, cotangent)
    };
    let (out, grads, cotangent) = run(&fused, None);
    let (wanted, wanted_grads, _) = run(&plain, Some(cotangent));
    let check = |what: String, found: &[f32], wanted: &[f32]| {
        let wanted: Vec<f64> = wanted.iter().map(|&x| f64::from(x)).collect();
        let scale = wanted.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
        assert_close(&what, found, &wanted, RELATIVE * scale);
    };
    check(what.to_owned(), out.as_slice(), wanted.as_slice());
    for (i, (found, wanted)) in grads.iter().zip(&wanted_grads).enumerate() {
        check(
            format!("{what}, gradient {i}"),
            found.as_slice(),
            wanted.as_slice(),
        );
    }
}

#[test]
fn gelu() {
    let device = Device::flex().autodiff();
    device.seed(1);
    for n in [1, 17, 40_000] {
        let x = random([n], &device);
        compare(
            "gelu",
            &[x],
            |x| kernels::gelu_new(x[0].clone().reshape([1, 1, n])),
            |x| plain::gelu_new(x[0].clone().reshape([1, 1, n])),
        );
    }
}

#[test]
fn layer_norm() {
    let device = Device::flex().autodiff();
    device.seed(2);
    for (b, t, d) in [(1, 1, 3), (2, 7, 32), (3, 50, 240), (1, 9, 1601)] {
        let inputs = [
            random([b * t * d], &device),
            random([d], &device),
            random([d], &device),
        ];
        let shape = |x: &[Tensor<1>]| (x[0].clone().reshape([b, t, d]), x[1].clone(), x[2].clone());
        compare(
            "layer_norm",
            &inputs,
            |x| {
                let (x, w, b) = shape(x);
                kernels::layer_norm(x, w, b, 1e-5)
            },
            |x| {
                let (x, w, b) = shape(x);
                plain::layer_norm(x, w, b, 1e-5)
            },
        );
    }
}

#[test]
fn causal_softmax() {
    let device = Device::flex().autodiff();
    device.seed(3);
    // U > T is a cache of U - T tokens.
    for (b, h, t, u) in [
        (1, 1, 1, 1),
        (2, 3, 19, 19),
        (1, 2, 1, 33),
        (2, 2, 5, 21),
        (1, 1, 130, 130),
    ] {
        let x = random([b * h * t * u], &device);
        compare(
            "causal_softmax",
            &[x],
            |x| kernels::causal_softmax(x[0].clone().reshape([b, h, t, u]), 0.3),
            |x| plain::causal_softmax(x[0].clone().reshape([b, h, t, u]), 0.3),
        );
    }
}

#[test]
fn linear_cross_entropy() {
    let device = Device::flex().autodiff();
    device.seed(4);
    // The last two are longer than one chunk of logits.
    for (n, d, v) in [
        (1, 4, 5),
        (33, 16, 100),
        (kernels::LOGIT_ROWS + 1, 8, 50),
        (3 * kernels::LOGIT_ROWS, 8, 50),
    ] {
        let inputs = [random([n * d], &device), random([v * d], &device)];
        let targets: Vec<i64> = (0..n).map(|i| ((i * 7919) % v) as i64).collect();
        let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(targets, [n]), &device);
        let shape = |x: &[Tensor<1>]| (x[0].clone().reshape([n, d]), x[1].clone().reshape([v, d]));
        let of = |x: &[Tensor<1>], f: fn(Tensor<2>, Tensor<2>, Tensor<1, Int>) -> Tensor<1>| {
            let (h, w) = shape(x);
            f(h, w, targets.clone())
        };
        compare(
            "linear_cross_entropy",
            &inputs,
            |x| of(x, kernels::linear_cross_entropy),
            |x| of(x, plain::linear_cross_entropy),
        );
        let (h, w) = shape(&inputs);
        let nll = kernels::token_nll(h.inner(), w.inner(), targets.clone().inner());
        let mean = nll.mean().into_scalar::<f32>();
        let (h, w) = shape(&inputs);
        let loss = kernels::linear_cross_entropy(h, w, targets.clone())
            .inner()
            .into_scalar::<f32>();
        assert!(
            (mean - loss).abs() <= 1e-5 * loss.abs(),
            "{mean} against {loss}"
        );
    }
}

/// The version for GPUs, in pieces: it must be the plain one.
#[test]
fn chunked_linear_cross_entropy() {
    let device = Device::flex().autodiff();
    device.seed(5);
    let (n, d, v) = (5000, 6, 40);
    let inputs = [random([n * d], &device), random([v * d], &device)];
    let targets: Vec<i64> = (0..n).map(|i| ((i * 31) % v) as i64).collect();
    let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(targets, [n]), &device);
    let of = |x: &[Tensor<1>], f: fn(Tensor<2>, Tensor<2>, Tensor<1, Int>) -> Tensor<1>| {
        f(
            x[0].clone().reshape([n, d]),
            x[1].clone().reshape([v, d]),
            targets.clone(),
        )
    };
    compare(
        "chunked",
        &inputs,
        |x| of(x, plain::chunked_linear_cross_entropy),
        |x| of(x, plain::linear_cross_entropy),
    );
}

/// A loss that is not finite must stay visible.
#[test]
fn nan_is_not_swallowed() {
    let device = Device::flex();
    let nan: Tensor<3> = Tensor::full([1, 1, 20], f32::NAN, &device);
    assert!(
        to_host(kernels::gelu_new(nan.clone()))
            .as_slice()
            .iter()
            .all(|x| x.is_nan())
    );
    let hidden: Tensor<2> = Tensor::full([2, 20], f32::NAN, &device);
    let targets: Tensor<1, Int> = Tensor::from_data([0, 1], &device);
    assert!(
        kernels::linear_cross_entropy(hidden.clone(), Tensor::ones([5, 20], &device), targets)
            .into_scalar::<f32>()
            .is_nan()
    );
    let scores: Tensor<4> = Tensor::full([1, 1, 2, 2], f32::NAN, &device);
    assert!(to_host(kernels::causal_softmax(scores, 1.0)).as_slice()[0].is_nan());
}
