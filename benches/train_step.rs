//! One training step on the CPU: forward, backward, clipping by global norm, AdamW.
//!
//! ```sh
//! cargo bench --bench train_step -- SHAPE [STEPS]
//! ```
//!
//! Prints the median tokens per second after two steps of warm-up, the median processor seconds
//! and the peak resident memory. `benches/train_step.py` does the same in PyTorch, and
//! `benches/train_step.sh` runs both in turns and prints the ratios.
//!
//! Two virtual cores of an AMD EPYC with AVX-512, PyTorch 2.15, two threads, three pairs of each,
//! `benches/train_step.sh PYTHON 3 4`, medians:
//!
//! | shape | tokens/s | PyTorch | ratio | peak MiB | PyTorch | ratio |
//! |---|---|---|---|---|---|---|
//! | 124m-1x256 | 254 | 145 | 1.99 | 1989 | 3033 | 0.66 |
//! | 124m-4x128 | 369 | 189 | 2.03 | 2013 | 3180 | 0.63 |
//! | 124m-1x1024 | 374 | 192 | 1.95 | 2337 | 3615 | 0.65 |
//! | small-8x256 | 4706 | 2779 | 1.69 | 467 | 1256 | 0.37 |
//!
//! What follows is from before this program used AVX-512, on two virtual cores of an AMD EPYC with
//! other work on the host; whether PyTorch used it there was not recorded. There, times of one binary vary by a third, so only pairs run in turns say something. The result
//! of `benches/train_step.sh PYTHON 2 4`, and of three more rounds of two shapes, medians:
//!
//! | shape | pairs | tokens/s | PyTorch | ratio (least to most) | peak MiB | PyTorch | ratio |
//! |---|---|---|---|---|---|---|---|
//! | 124m-1x256 | 2 | 166 | 96 | 1.74 (1.69 to 1.80) | 1988 | 3034 | 0.66 |
//! | 124m-4x128 | 5 | 188 | 132 | 1.42 (1.06 to 1.70) | 2013 | 3152 | 0.64 |
//! | 124m-1x1024 | 2 | 147 | 109 | 1.36 (1.31 to 1.40) | 2339 | 3506 | 0.67 |
//! | small-8x256 | 5 | 1860 | 1854 | 0.98 (0.85 to 1.13) | 467 | 1250 | 0.37 |
//!
//! Processor seconds per step and peak MiB by stage, `RAYON_NUM_THREADS=2`. Rows were not run in
//! turns with each other, but for the last two (medians of two or three).
//!
//! | stage | 124m-1x256 | 124m-4x128 | 124m-1x1024 | small-8x256 |
//! |---|---|---|---|---|
//! | burn's own products, attention, AdamW | 5.2, 2152 | 10.4, 2213 | 18.9, 3170 | 3.4, 575 |
//! | fused AdamW, linear, embedding, attention | 3.1, 2007 | 6.0, 2087 | 12.3, 2423 | 2.1, 478 |
//! | own product, packed in groups | 3.2, 1981 | 5.9, 2008 | 12.3, 2328 | 2.2, 463 |
//! | freed memory kept | 2.8, 1989 | 5.1, 2013 | 10.9, 2337 | 2.0, 467 |
//!
//! With mimalloc in the place of the last row: 2.9, 2232; 5.4, 2255; 11.4 and 14.8, 2526; 2.0, 581.
#![allow(clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use scale_ckpt::checkpoint::Gpt2Config;
use scale_ckpt::model::{Gpt2, weights};
use scale_ckpt::train::optimizer::{AdamW, Optimizer, global_norm};
use support::peak_kib;

const WARM_UP: usize = 2;

/// Name, (V, `n_positions`, D, layers, heads), (B, T).
type Shape = (
    &'static str,
    (usize, usize, usize, usize, usize),
    (usize, usize),
);

const GPT2_124M: (usize, usize, usize, usize, usize) = (50257, 1024, 768, 12, 12);
const SHAPES: [Shape; 4] = [
    ("124m-1x256", GPT2_124M, (1, 256)),
    ("124m-4x128", GPT2_124M, (4, 128)),
    ("124m-1x1024", GPT2_124M, (1, 1024)),
    ("small-8x256", (65, 256, 384, 6, 6), (8, 256)),
];

fn main() {
    scale_ckpt::allocator::keep_memory();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let name = args.next().unwrap_or_default();
    let Some((_, (v, p, d, layers, heads), (b, t))) = SHAPES.into_iter().find(|s| s.0 == name)
    else {
        let names = SHAPES.map(|shape| shape.0).join(", ");
        eprintln!("usage: cargo bench --bench train_step -- SHAPE [STEPS], SHAPE one of {names}");
        return;
    };
    let steps: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(8);
    let config = Gpt2Config::new(v, p, d, layers, heads).expect("a valid shape");
    let device = Device::flex().autodiff();
    let mut model = weights::init(&config, layers, 1, &device).expect("memory for the model");
    let mut optimizer = Optimizer::new(AdamW::default());
    let (mut times, mut cpu, mut last) = (vec![], vec![], 0.0);
    for step in 0..WARM_UP + steps {
        let ids = tokens(step, v, [b, t], &device);
        let targets = tokens(step + 1, v, [b, t], &device);
        let (started, cpu_before) = (Instant::now(), cpu_seconds());
        (model, last) = train_step(model, &mut optimizer, ids, targets);
        times.push(started.elapsed().as_secs_f64());
        cpu.push(cpu_seconds() - cpu_before);
    }
    let [step_s, cpu_s] = [times, cpu].map(|mut seconds| {
        let mut seconds = seconds.split_off(WARM_UP);
        seconds.sort_by(f64::total_cmp);
        seconds[steps / 2]
    });
    println!(
        "rust {name} tokens/s {:.1} step_s {step_s:.3} cpu_s {cpu_s:.3} peak_mib {} loss {last:.4}",
        (b * t) as f64 / step_s,
        peak_kib() / 1024
    );
}

fn train_step(
    model: Gpt2,
    optimizer: &mut Optimizer,
    ids: Tensor<2, Int>,
    targets: Tensor<2, Int>,
) -> (Gpt2, f32) {
    let loss = model.loss(ids, targets);
    let value = loss.clone().inner().into_scalar::<f32>();
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let norm = global_norm(&model, &grads).expect("the norm of the gradient");
    let scale = (1.0 / (norm + 1e-6)).min(1.0);
    let model = optimizer.step(model, grads, 1e-4, scale, &BTreeMap::new());
    (model, value)
}

/// The ids that both sides train on: 7919·i + 104729·step, modulo V.
fn tokens(step: usize, v: usize, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i64> = (0..shape[0] * shape[1])
        .map(|i| ((7919 * i + 104_729 * step) % v) as i64)
        .collect();
    Tensor::from_data(TensorData::new(ids, shape), device)
}

/// User and system time of all threads so far, in the usual hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}
