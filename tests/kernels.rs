//! The fused CPU operations against their plain-tensor versions, values and gradients.
//!
//! Both compute in f32 in another order; errors grow with the length of the sums. Tolerances
//! are relative to the largest value and allow about 30 units in the last place.
#![allow(clippy::unwrap_used)]

#[path = "support/linear.rs"]
mod linear_forms;
mod support;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Distribution, FloatDType, Int, Tensor, TensorData};
use linear_forms::FORMS;
use scale_ckpt::kernels::{self, plain};
use scale_ckpt::model::weights::to_host;
use support::assert_close;

const RELATIVE: f64 = 4e-6;

/// Seeds the device's one source of random numbers, and keeps it from the other tests until what
/// is returned is dropped: drawn from in turns by chance, it would give other inputs every time.
fn seeded(device: &Device, seed: u64) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    turn
}

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
            .map(|input| to_host(input.grad(&grads).unwrap()).unwrap())
            .collect();
        (to_host(out.inner()).unwrap(), grads, cotangent)
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

/// Alone, under a GELU, and onto the residual stream.
#[test]
fn linear() {
    let device = Device::flex().autodiff();
    let _turn = seeded(&device, 6);
    for shape in [
        [1, 1, 1, 1],
        [2, 5, 7, 3],
        [1, 200, 8, 200],
        [3, 70, 96, 130],
    ] {
        let [b, t, d, f] = shape;
        let inputs = [b * t * d, d * f, f, b * t * f].map(|n| random([n], &device));
        for (what, takes, fused, plain) in FORMS {
            let [fused, plain] = [fused, plain].map(|form| move |x: &[_]| form(x, shape));
            compare(what, &inputs[..takes], fused, plain);
        }
    }
}

#[test]
fn causal_attention() {
    let device = Device::flex().autodiff();
    let _turn = seeded(&device, 7);
    // Groups of 64 queries: one, exactly one, and several with a short last one.
    for (b, t, h, s) in [
        (1, 1, 1, 1),
        (2, 19, 3, 5),
        (1, 64, 2, 8),
        (2, 65, 1, 16),
        (1, 200, 2, 32),
    ] {
        let x = random([b * t * 3 * h * s], &device);
        compare(
            "causal_attention",
            &[x],
            |x| kernels::causal_attention(x[0].clone().reshape([b, t, 3 * h * s]), h),
            |x| plain::causal_attention(x[0].clone().reshape([b, t, 3 * h * s]), h),
        );
    }
}

/// Also as the head of a tied model, whose gradient the embedding's is added to.
#[test]
fn embed() {
    let device = Device::flex().autodiff();
    let _turn = seeded(&device, 8);
    let (v, p, d, b, t, start) = (11, 9, 6, 3, 5, 2);
    let inputs = [random([v * d], &device), random([p * d], &device)];
    let ids: Vec<i64> = (0..b * t).map(|i| ((i * i + 3) % v) as i64).collect();
    let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [b, t]), &device);
    let of = |x: &[Tensor<1>],
              tied: bool,
              f: fn(Tensor<2>, Tensor<2>, Tensor<2, Int>, usize) -> Tensor<3>| {
        let wte = x[0].clone().reshape([v, d]);
        let out = f(
            wte.clone(),
            x[1].clone().reshape([p, d]),
            ids.clone(),
            start,
        );
        if tied {
            out.reshape([b * t, d]).matmul(wte.transpose())
        } else {
            out.reshape([b * t, d])
        }
    };
    for tied in [false, true] {
        compare(
            "embed",
            &inputs,
            |x| of(x, tied, kernels::embed),
            |x| of(x, tied, plain::embed),
        );
    }
}

/// A leaf without gradient gets none, and the others get what they got before.
#[test]
fn frozen_inputs_change_no_other_gradient() {
    let device = Device::flex().autodiff();
    let _turn = seeded(&device, 9);
    let (n, d, f) = (37, 12, 20);
    let values: Vec<Tensor<1>> = [n * d, d * f, f, d, f * d, f * f, f, f * f, f, n * f]
        .map(|n| random([n], &device).detach())
        .into();
    let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(vec![3_i64; n], [n]), &device);
    let run = |frozen: Option<usize>| {
        let leaves: Vec<Tensor<1>> = values
            .iter()
            .enumerate()
            .map(|(i, x)| x.clone().set_require_grad(frozen != Some(i)))
            .collect();
        let x = leaves[0].clone().reshape([1, n, d]);
        let x = kernels::layer_norm(
            x,
            leaves[3].clone(),
            leaves[3].clone(),
            1e-5,
            FloatDType::F32,
        );
        let x = kernels::linear(x, leaves[1].clone().reshape([d, f]), leaves[2].clone());
        let square = |i: usize| leaves[i].clone().reshape([f, f]);
        let x = kernels::linear_gelu(x, square(5), leaves[6].clone());
        let stream = leaves[9].clone().reshape([1, n, f]);
        let x = kernels::linear_onto(stream, x, square(7), leaves[8].clone());
        let head = leaves[4].clone().reshape([d, f]);
        let grads =
            kernels::linear_cross_entropy(x.reshape([n, f]), head, targets.clone()).backward();
        leaves
            .iter()
            .map(|x| x.grad(&grads).map(|x| to_host(x).unwrap()))
            .collect::<Vec<_>>()
    };
    let all = run(None);
    assert!(all.iter().all(Option::is_some));
    for frozen in 0..values.len() {
        let mut wanted = all.clone();
        wanted[frozen] = None;
        assert_eq!(run(Some(frozen)), wanted, "input {frozen} frozen");
    }
}

#[test]
fn updates() {
    let device = Device::flex();
    let _turn = seeded(&device, 10);
    for n in [1, 1000, 40_001] {
        let random = || Tensor::<1>::random([n], Distribution::Normal(0.0, 1.0), &device);
        let (p, m, v, grad) = (random(), random(), random().powi_scalar(2), random());
        let step = kernels::AdamWStep {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            grad_scale: 0.7,
            step: 3,
        };
        let of = |f: fn(_, _, _, _, _) -> [Tensor<1>; 3]| {
            f(p.clone(), m.clone(), v.clone(), grad.clone(), step).map(|x| to_host(x).unwrap())
        };
        let kept = to_host(p.clone()).unwrap();
        let fused = |p, m, v, grad, step| {
            let slot = kernels::Slot {
                p,
                m,
                v,
                grad,
                step,
            };
            kernels::adamw(vec![slot]).remove(0)
        };
        for (found, wanted) in of(fused).iter().zip(of(plain::adamw)) {
            let wanted: Vec<f64> = wanted.as_slice().iter().map(|&x| f64::from(x)).collect();
            assert_close("adamw", found.as_slice(), &wanted, 1e-5);
        }
        assert_eq!(
            to_host(p.clone()).unwrap(),
            kept,
            "a shared buffer was written to"
        );
        let sums = [kernels::square_sum(p.clone()), plain::square_sum(p.clone())];
        let [found, wanted] = sums.map(|x| x.into_scalar::<f32>());
        assert!((found - wanted).abs() <= 1e-5 * wanted);
        assert_eq!(
            to_host(kernels::accumulate(p.clone(), m.clone())).unwrap(),
            to_host(p + m).unwrap()
        );
    }
}

#[test]
fn layer_norm() {
    let device = Device::flex().autodiff();
    let _turn = seeded(&device, 2);
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
                kernels::layer_norm(x, w, b, 1e-5, FloatDType::F32)
            },
            |x| {
                let (x, w, b) = shape(x);
                plain::layer_norm(x, w, b, 1e-5)
            },
        );
    }
}

#[test]
fn linear_cross_entropy() {
    let device = Device::flex().autodiff();
    let _turn = seeded(&device, 4);
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
    let _turn = seeded(&device, 5);
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
    let (weight, bias) = (Tensor::ones([20, 4], &device), Tensor::zeros([4], &device));
    assert!(
        to_host(kernels::linear_gelu(nan.clone(), weight, bias))
            .unwrap()
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
    let qkv: Tensor<3> = Tensor::full([1, 2, 6], f32::NAN, &device);
    assert!(
        to_host(kernels::causal_attention(qkv, 1))
            .unwrap()
            .as_slice()[0]
            .is_nan()
    );
}

fn assert_near<const D: usize>(what: &str, found: Tensor<D>, wanted: Tensor<D>) {
    let (found, wanted) = (to_host(found).unwrap(), to_host(wanted).unwrap());
    let wanted: Vec<f64> = wanted.as_slice().iter().map(|&x| f64::from(x)).collect();
    let scale = wanted.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    assert_close(what, found.as_slice(), &wanted, RELATIVE * scale);
}

#[test]
fn packed_attention() {
    let device = Device::flex();
    let _turn = seeded(&device, 8);
    let piece = |prefix: std::ops::Range<usize>, own| kernels::Piece { prefix, own };
    // A document of its own; two continuations of one, the second longer than a group of
    // queries; a single token.
    let pieces: Arc<[_]> = Arc::from([
        piece(0..0, 0..9),
        piece(0..0, 9..20),
        piece(9..20, 20..23),
        piece(9..20, 23..170),
        piece(0..0, 170..171),
    ]);
    for (heads, d) in [(1, 8), (3, 96)] {
        let qkv = Tensor::random([171, 3 * d], Distribution::Normal(0.0, 1.5), &device);
        assert_near(
            "packed attention",
            kernels::packed_attention(qkv.clone(), heads, &pieces),
            plain::packed_attention(qkv, heads, &pieces),
        );
    }
}

#[test]
fn scores_of_targets() {
    let device = Device::flex();
    let _turn = seeded(&device, 9);
    // More columns than are taken at a time, and fewer.
    for (v, d) in [(9001, 16), (50, 16)] {
        let normal = Distribution::Normal(0.0, 1.5);
        let hidden = Tensor::random([40, d], normal, &device);
        let head = Tensor::random([v, d], normal, &device);
        let best: Vec<i64> = hidden
            .clone()
            .matmul(head.clone().transpose())
            .argmax(1)
            .into_data()
            .iter::<i64>()
            .collect();
        // The likeliest of every row, and others of some rows.
        let mut picks: Vec<(usize, u32)> = best.iter().map(|&b| b as u32).enumerate().collect();
        picks.extend([(3, 0), (3, v as u32 - 1), (39, 7)]);
        let found = kernels::target_nll(hidden.clone(), head.clone(), &picks).unwrap();
        let ints = |values: Vec<i64>| -> Tensor<1, Int> {
            let len = values.len();
            Tensor::from_data(TensorData::new(values, [len]), &device)
        };
        let rows = ints(picks.iter().map(|p| p.0 as i64).collect());
        let targets = ints(picks.iter().map(|p| i64::from(p.1)).collect());
        let wanted = plain::target_nll(hidden, head, rows, targets).into_data();
        let wanted: Vec<f64> = wanted.iter::<f64>().collect();
        for (i, (&(nll, greedy), wanted)) in found.iter().zip(wanted.chunks(2)).enumerate() {
            // Differences of logits of up to about 30.
            assert!(
                (nll - wanted[0]).abs() < 3e-5,
                "{i}: {nll} against {}",
                wanted[0]
            );
            assert_eq!(greedy, wanted[1] == 1.0, "{i}");
            assert!(greedy || i >= 40);
        }
    }
    let rows = Tensor::from_data([[1.0, 0.0], [0.0, 1.0]], &device);
    let head = Tensor::from_data([[2.0, 0.0], [2.0, 5.0], [1.0, 5.0]], &device);
    let greedy = |picks: &[(usize, u32)]| -> Vec<bool> {
        let found = kernels::target_nll(rows.clone(), head.clone(), picks).unwrap();
        found.into_iter().map(|(_, greedy)| greedy).collect()
    };
    // The first of equals.
    assert_eq!(
        greedy(&[(0, 0), (0, 1), (1, 1), (1, 2)]),
        [true, false, true, false]
    );
}
