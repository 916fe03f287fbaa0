//! The GPU's kernels against the plain-tensor versions on the CPU, values and gradients.
//!
//! Built with a GPU feature only, and run by `benches/gpu/check.sh`: on a GPU, or on Mesa's
//! software Vulkan driver. `SCALE_CKPT_GPU` names the device, `wgpu` if nothing does.
//!
//! f32: both sides sum in another order; errors are relative to the largest value. On CUDA the
//! factors of matrix products are rounded to TF32 (10 bits), so what contains one is compared
//! as loosely as its rounding asks. In 16 bits (bf16 on CUDA, f16 on wgpu) every stored value is
//! rounded to 8 or 11 bits; a sum of products of such values is off by a few of their units.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used)]

#[path = "support/linear.rs"]
mod linear_forms;
mod support;

use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use linear_forms::FORMS;
use scale_ckpt::checkpoint::HostTensor;
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::kernels::{self, AdamWStep, Piece, Slot, plain};
use scale_ckpt::model::weights::{from_host, to_host};
use support::assert_close;

fn spec() -> DeviceSpec {
    let name = std::env::var("SCALE_CKPT_GPU").unwrap_or_else(|_| "wgpu".into());
    name.parse().unwrap()
}

fn gpu() -> Device {
    spec().open().unwrap()
}

/// The 16-bit type that the GPU computes in, if any.
fn half(device: &Device) -> Option<FloatDType> {
    [FloatDType::BF16, FloatDType::F16]
        .into_iter()
        .find(|&dtype| device.supports_dtype(dtype))
}

/// Units of rounding, relative: of f32 sums, of TF32 factors where CUDA has them, of 16 bits.
fn tolerance(dtype: FloatDType, products: bool) -> f64 {
    match dtype {
        FloatDType::BF16 => 2.0_f64.powi(-6),
        FloatDType::F16 => 2.0_f64.powi(-8),
        _ if products && matches!(spec(), DeviceSpec::Cuda(_)) => 2e-3,
        _ => 1e-5,
    }
}

/// Random values, the same on every device.
fn random(shape: &[usize], seed: u64) -> HostTensor {
    use rand_chacha::rand_core::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let len = shape.iter().product();
    let uniform = |rng: &mut rand_chacha::ChaCha8Rng| f64::from(rng.next_u32()) / 2.0_f64.powi(32);
    // Twelve uniform values less six: near enough to a normal one.
    let values = (0..len)
        .map(|_| ((0..12).map(|_| uniform(&mut rng)).sum::<f64>() - 6.0) as f32)
        .collect();
    HostTensor::new(shape, values)
}

/// One input of an operation.
#[derive(Clone)]
struct Input {
    values: HostTensor,
    /// Whether it is handed over in 16 bits where the test is of those.
    narrow: bool,
}

fn wide(shape: &[usize], seed: u64) -> Input {
    Input {
        values: random(shape, seed),
        narrow: false,
    }
}

fn narrow(shape: &[usize], seed: u64) -> Input {
    Input {
        values: random(shape, seed),
        narrow: true,
    }
}

type Op<'a, const D: usize> = &'a dyn Fn(&[Tensor<1>], FloatDType) -> Tensor<D>;

/// Values and gradients of an operation under a cotangent, all in f32 on the host.
fn run<const D: usize>(
    inputs: &[Input],
    device: &Device,
    dtype: FloatDType,
    op: Op<'_, D>,
) -> Vec<HostTensor> {
    let leaves: Vec<Tensor<1>> = inputs
        .iter()
        .map(|input| from_host::<1>(flat(&input.values), device).require_grad())
        .collect();
    // Narrow inputs are rounded on both sides, so that only the operation differs.
    let handed: Vec<_> = leaves
        .iter()
        .zip(inputs)
        .map(|(leaf, input)| {
            if input.narrow {
                leaf.clone().cast(dtype)
            } else {
                leaf.clone()
            }
        })
        .collect();
    let out = op(&handed, dtype).cast(FloatDType::F32);
    let len = out.dims().iter().product::<usize>();
    let cotangent = from_host::<1>(random(&[len], 99), device).reshape(out.dims());
    let grads = (out.clone() * cotangent).sum().backward();
    std::iter::once(to_host(out.inner()).unwrap())
        .chain(
            leaves
                .iter()
                .map(|leaf| to_host(leaf.grad(&grads).unwrap()).unwrap()),
        )
        .collect()
}

fn flat(values: &HostTensor) -> HostTensor {
    HostTensor::new(&[values.as_slice().len()], values.as_slice().to_vec())
}

/// Compares in f32 and in 16 bits; the plain version always in f32 on the CPU, of the same
/// (rounded) inputs.
fn compare<const D: usize>(
    what: &str,
    inputs: &[Input],
    products: bool,
    fused: Op<'_, D>,
    plain: Op<'_, D>,
) {
    let gpu = gpu().autodiff();
    for dtype in std::iter::once(FloatDType::F32).chain(half(&gpu)) {
        let rounded: Vec<Input> = inputs
            .iter()
            .map(|input| {
                let values = from_host::<1>(flat(&input.values), &gpu.clone().inner());
                let dtype = if input.narrow { dtype } else { FloatDType::F32 };
                Input {
                    values: to_host(values.cast(dtype).cast(FloatDType::F32)).unwrap(),
                    narrow: false,
                }
            })
            .collect();
        let wanted = run(&rounded, &Device::flex().autodiff(), FloatDType::F32, plain);
        let found = run(inputs, &gpu, dtype, fused);
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let what = match i {
                0 => format!("{what} in {dtype:?}"),
                i => format!("{what} in {dtype:?}, gradient {}", i - 1),
            };
            let wanted: Vec<f64> = wanted.as_slice().iter().map(|&x| f64::from(x)).collect();
            let scale = wanted.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
            assert_close(
                &what,
                found.as_slice(),
                &wanted,
                tolerance(dtype, products) * scale,
            );
        }
    }
}

#[test]
fn layer_norm() {
    for (b, t, d) in [(1, 1, 3), (2, 3, 64), (3, 120, 96), (1, 2, 1600)] {
        compare(
            "layer_norm",
            &[wide(&[b * t * d], 1), wide(&[d], 2), wide(&[d], 3)],
            false,
            &|x, dtype| {
                let input = x[0].clone().reshape([b, t, d]);
                kernels::layer_norm(input, x[1].clone(), x[2].clone(), 1e-5, dtype)
            },
            &|x, _| {
                let input = x[0].clone().reshape([b, t, d]);
                plain::layer_norm(input, x[1].clone(), x[2].clone(), 1e-5)
            },
        );
    }
}

/// Alone, under a GELU, and onto the residual stream.
#[test]
fn linear() {
    // Rows of 240 and 132 values are no whole number of what CUDA aligns them to.
    for shape in [
        [1, 1, 4, 4],
        [2, 5, 7, 3],
        [3, 70, 96, 132],
        [1, 9, 240, 720],
    ] {
        let [b, t, d, f] = shape;
        let inputs = [
            narrow(&[b * t * d], 1),
            wide(&[d * f], 2),
            wide(&[f], 3),
            wide(&[b * t * f], 4),
        ];
        for (what, takes, fused, plain) in FORMS {
            let [fused, plain] = [fused, plain].map(|form| move |x: &[_], _| form(x, shape));
            compare(what, &inputs[..takes], true, &fused, &plain);
        }
    }
}

/// Far from zero, where tanh is 1 or nothing is left.
#[test]
fn gelu_of_large_values() {
    let values: Vec<f32> = (-200..=200).map(|i| i as f32 / 4.0).collect();
    let gelu = |device: &Device, f: fn(Tensor<3>, Tensor<2>, Tensor<1>) -> Tensor<3>| {
        let x = from_host::<3>(
            HostTensor::new(&[1, values.len(), 1], values.clone()),
            device,
        );
        to_host(f(
            x,
            Tensor::ones([1, 1], device),
            Tensor::zeros([1], device),
        ))
        .unwrap()
    };
    let wanted = gelu(&Device::flex(), plain::linear_gelu);
    let wanted: Vec<f64> = wanted.as_slice().iter().map(|&x| f64::from(x)).collect();
    let found = gelu(&gpu(), kernels::linear_gelu);
    let allowed = 50.0 * tolerance(FloatDType::F32, true);
    assert_close("gelu", found.as_slice(), &wanted, allowed);
}

/// Tokens that stand at several places, and an embedding that is the head too.
#[test]
fn embed() {
    let (v, p, d, b, t, start) = (11, 9, 240, 3, 5, 2);
    let ids: Vec<i64> = (0..b * t).map(|i| ((i * i + 3) % v) as i64).collect();
    let of = |x: &[Tensor<1>], tied: bool, f: Embed| {
        let ids: Tensor<2, Int> =
            Tensor::from_data(TensorData::new(ids.clone(), [b, t]), &x[0].device());
        let wte = x[0].clone().reshape([v, d]);
        let out = f(wte.clone(), x[1].clone().reshape([p, d]), ids, start);
        if !tied {
            return out;
        }
        let head: Tensor<3> = wte.transpose().unsqueeze();
        out.matmul(head)
    };
    for tied in [false, true] {
        compare(
            "embed",
            &[wide(&[v * d], 1), wide(&[p * d], 2)],
            tied,
            &|x, _| of(x, tied, kernels::embed),
            &|x, _| of(x, tied, plain::embed),
        );
    }
}

type Embed = fn(Tensor<2>, Tensor<2>, Tensor<2, Int>, usize) -> Tensor<3>;

/// Heads of every width, sequences that fill their tiles and that do not.
#[test]
fn causal_attention() {
    for (b, t, h, s) in [
        (1, 1, 1, 1),
        (2, 19, 3, 5),
        (1, 64, 2, 8),
        (2, 65, 1, 16),
        (1, 100, 2, 64),
    ] {
        compare(
            &format!("causal_attention {b} {t} {h} {s}"),
            &[narrow(&[b * t * 3 * h * s], 1)],
            true,
            &|x, _| kernels::causal_attention(x[0].clone().reshape([b, t, 3 * h * s]), h),
            &|x, _| plain::causal_attention(x[0].clone().reshape([b, t, 3 * h * s]), h),
        );
    }
}

/// Classes that are no multiple of anything, and more rows than exist as logits at a time.
#[test]
fn linear_cross_entropy() {
    for (n, d, v) in [(1, 4, 5), (7, 12, 100), (4100, 8, 67), (9, 240, 260)] {
        let targets: Vec<i64> = (0..n).map(|i| ((i * 7 + 1) % v) as i64).collect();
        let of = |x: &[Tensor<1>], f: Loss| {
            let targets: Tensor<1, Int> =
                Tensor::from_data(TensorData::new(targets.clone(), [n]), &x[0].device());
            f(
                x[0].clone().reshape([n, d]),
                x[1].clone().reshape([v, d]),
                targets,
            )
        };
        compare(
            &format!("linear_cross_entropy {n} {d} {v}"),
            &[narrow(&[n * d], 1), wide(&[v * d], 2)],
            true,
            &|x, _| of(x, kernels::linear_cross_entropy),
            &|x, _| of(x, plain::linear_cross_entropy),
        );
    }
}

type Loss = fn(Tensor<2>, Tensor<2>, Tensor<1, Int>) -> Tensor<1>;

/// Likelihoods of chosen tokens, and which are the likeliest.
#[test]
fn target_nll() {
    let (r, d, v) = (5, 8, 70);
    let (hidden, head) = (random(&[r, d], 1), random(&[v, d], 2));
    let on = |device: &Device| {
        let [hidden, head] = [&hidden, &head].map(|x| from_host::<2>(x.clone(), device));
        let logits = to_host(hidden.clone().matmul(head.clone().transpose())).unwrap();
        let best = |row: usize| {
            let row = &logits.as_slice()[row * v..(row + 1) * v];
            (0..v).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32
        };
        let picks: Vec<_> = [(0, 3), (2, best(2)), (2, 0), (4, best(4))].to_vec();
        (
            kernels::target_nll(hidden.clone(), head.clone(), &picks).unwrap(),
            {
                let all: Tensor<1, Int> = Tensor::arange(0..r as i64, device);
                to_host(kernels::token_nll(hidden, head, all)).unwrap()
            },
        )
    };
    let (found, found_all) = on(&gpu());
    let (wanted, wanted_all) = on(&Device::flex());
    let loose = 10.0 * tolerance(FloatDType::F32, true);
    for (found, wanted) in found.iter().zip(&wanted) {
        assert!((found.0 - wanted.0).abs() < loose, "{found:?} {wanted:?}");
        assert_eq!(found.1, wanted.1);
    }
    assert_eq!(wanted.iter().filter(|(_, likeliest)| *likeliest).count(), 2);
    let wanted: Vec<f64> = wanted_all
        .as_slice()
        .iter()
        .map(|&x| f64::from(x))
        .collect();
    assert_close("token_nll", found_all.as_slice(), &wanted, loose);
}

/// Sequences of a pack, some behind a prefix that others share.
#[test]
fn packed_attention() {
    let (h, s) = (2, 16);
    let pieces: Arc<[Piece]> = [
        (0..0, 0..70),
        (0..70, 70..75),
        (0..70, 75..140),
        (0..0, 140..141),
    ]
    .map(|(prefix, own)| Piece { prefix, own })
    .into();
    let n = 141;
    let qkv = random(&[n, 3 * h * s], 1);
    let wanted = plain::packed_attention(from_host(qkv.clone(), &Device::flex()), h, &pieces);
    let wanted: Vec<f64> = to_host(wanted)
        .unwrap()
        .as_slice()
        .iter()
        .map(|&x| f64::from(x))
        .collect();
    let scale = wanted.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    let device = gpu();
    for dtype in std::iter::once(FloatDType::F32).chain(half(&device)) {
        let qkv = from_host::<2>(qkv.clone(), &device).cast(dtype);
        let found =
            to_host(kernels::packed_attention(qkv, h, &pieces).cast(FloatDType::F32)).unwrap();
        let loose = tolerance(dtype, true) * scale;
        assert_close(&format!("{dtype:?}"), found.as_slice(), &wanted, loose);
    }
}

/// More tensors than one launch takes, two rates among them, lengths that are no multiple of 4.
#[test]
fn adamw_and_norm() {
    let step = |lr, step| AdamWStep {
        lr,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        grad_scale: 0.5,
        step,
    };
    let lengths: Vec<usize> = (0..40).map(|i| 1 + i * i * 3).collect();
    let slots = |device: &Device| -> Vec<Slot> {
        lengths
            .iter()
            .enumerate()
            .map(|(i, &n)| {
                let of = |seed| from_host::<1>(random(&[n], 7 * i as u64 + seed), device);
                Slot {
                    p: of(1),
                    m: of(2),
                    v: of(3).abs(),
                    grad: of(4),
                    step: if i % 3 == 0 {
                        step(1e-3, 1)
                    } else {
                        step(2e-3, 5)
                    },
                }
            })
            .collect()
    };
    let device = gpu();
    let before: Vec<_> = slots(&device).into_iter().map(|slot| slot.p).collect();
    let held = before.clone();
    let shared: Vec<Slot> = slots(&device)
        .into_iter()
        .zip(&before)
        .map(|(slot, p)| Slot {
            p: p.clone(),
            ..slot
        })
        .collect();
    let found = kernels::adamw(shared);
    for (i, (found, slot)) in found.into_iter().zip(slots(&Device::flex())).enumerate() {
        let wanted = plain::adamw(slot.p, slot.m, slot.v, slot.grad, slot.step);
        for (found, wanted) in found.into_iter().zip(wanted) {
            let wanted: Vec<f64> = to_host(wanted)
                .unwrap()
                .as_slice()
                .iter()
                .map(|&x| f64::from(x))
                .collect();
            assert_close(
                &format!("tensor {i}"),
                to_host(found).unwrap().as_slice(),
                &wanted,
                1e-5,
            );
        }
    }
    // What somebody else holds is not written to.
    for (held, slot) in held.into_iter().zip(slots(&Device::flex())) {
        assert_eq!(
            to_host(held).unwrap().as_slice(),
            to_host(slot.p).unwrap().as_slice()
        );
    }
    let grads = |device: &Device| slots(device).into_iter().map(|slot| slot.grad).collect();
    let [found, wanted] = [device, Device::flex()].map(|device| {
        let sum = kernels::square_sums(grads(&device)).unwrap();
        assert_eq!(sum.dtype(), DType::F32);
        f64::from(sum.into_scalar::<f32>())
    });
    assert!((found / wanted - 1.0).abs() < 1e-5, "{found} {wanted}");
}

/// A loss that is not finite stays visible.
#[test]
fn nan_is_not_swallowed() {
    let device = gpu();
    let nan = |shape: &[usize]| HostTensor::full(shape, f32::NAN);
    let x = from_host::<3>(nan(&[1, 1, 20]), &device);
    let (weight, bias) = (Tensor::ones([20, 4], &device), Tensor::zeros([4], &device));
    assert!(
        to_host(kernels::linear_gelu(x, weight, bias))
            .unwrap()
            .as_slice()
            .iter()
            .all(|x| x.is_nan())
    );
    let hidden = from_host::<2>(nan(&[2, 20]), &device);
    let head: Tensor<2> = Tensor::ones([5, 20], &device);
    let targets: Tensor<1, Int> = Tensor::from_data([0, 1], &device);
    let loss = kernels::linear_cross_entropy(hidden, head, targets);
    assert!(loss.into_scalar::<f32>().is_nan());
    let qkv = from_host::<3>(nan(&[1, 2, 12]), &device);
    assert!(
        to_host(kernels::causal_attention(qkv, 1))
            .unwrap()
            .as_slice()[0]
            .is_nan()
    );
    let sum = kernels::square_sums(vec![from_host(nan(&[9]), &device)]).unwrap();
    assert!(sum.into_scalar::<f32>().is_nan());
}
