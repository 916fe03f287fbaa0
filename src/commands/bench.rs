//! `scale-ckpt bench`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Instant;

use burn::tensor::Device;
use scale_ckpt::checkpoint::{Gpt2Config, layout};
use scale_ckpt::device::{Allocated, DeviceSpec, Precision, allocated, is_cpu};
use scale_ckpt::error::{Error, counted, did_you_mean};
use scale_ckpt::eval::encode::{Request, Sequence};
use scale_ckpt::eval::engine::Engine;
use scale_ckpt::ledger::{self, mfu};
use scale_ckpt::model::weights;
use scale_ckpt::progress::{Meter, Unit};
use scale_ckpt::report::table;
use scale_ckpt::train::TrainConfig;
use scale_ckpt::train::probe::{Bench, Clock, Parts};
use scale_ckpt::{Result, VERSION, interrupt};
use serde::Serialize;

use super::shared::{bytes, print, print_json, thousands};

/// Name, V, `n_positions`, D, blocks, heads.
type Shape = (&'static str, usize, usize, usize, usize, usize);

/// GPT-2's sizes, GPT-2 small grown to 24 blocks, and the shape of the shipped checkpoint.
const SHAPES: [Shape; 6] = [
    ("gpt2", 50257, 1024, 768, 12, 12),
    ("gpt2-24l", 50257, 1024, 768, 24, 12),
    ("gpt2-medium", 50257, 1024, 1024, 24, 16),
    ("gpt2-large", 50257, 1024, 1280, 36, 20),
    ("gpt2-xl", 50257, 1024, 1600, 48, 25),
    ("prose-4l", 4096, 256, 240, 4, 6),
];
/// More sequences than any device takes at a time.
const MOST_SEQUENCES: usize = 1 << 16;
/// Steps before those that count.
const WARM_UP: usize = 2;
/// HellaSwag's shape in GPT-2's tokens, roughly: a context, and four endings.
const CONTEXT_TOKENS: usize = 70;
const ENDING_TOKENS: usize = 25;
const ENDINGS: usize = 4;

/// Measure how fast this machine trains and scores models of a shape, on random weights and
/// tokens.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Steps of training: tokens per second, and where the time goes.
    Train(TrainArgs),
    /// Scoring of items like HellaSwag's: items per second.
    Eval(EvalArgs),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// gpt2, gpt2-24l, gpt2-medium, gpt2-large, gpt2-xl or prose-4l.
    #[arg(long, default_value = "gpt2")]
    shape: String,
    /// What the device could do at most, in FLOPs per second: for MFU.
    #[arg(long, value_name = "FLOPS")]
    peak_flops: Option<f64>,
    /// cpu, cuda, wgpu, cuda:N or wgpu:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// f32 or bf16: what products are computed in; bf16 on CUDA and f32 elsewhere unless given.
    #[arg(long)]
    precision: Option<Precision>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    common: Common,
    /// Tokens per sequence; n_positions unless given.
    #[arg(long, value_name = "T")]
    context: Option<usize>,
    /// Sequences per pass.
    #[arg(long, value_name = "B", default_value_t = 1)]
    micro_batch: usize,
    /// Make activations again in the backward pass instead of keeping them.
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Steps that count, after two that do not.
    #[arg(long, value_name = "N", default_value_t = 8)]
    steps: usize,
}

#[derive(Debug, clap::Args)]
struct EvalArgs {
    #[command(flatten)]
    common: Common,
    /// Items that are scored.
    #[arg(long, value_name = "N", default_value_t = 100)]
    items: usize,
    /// Score every ending alone, without sharing its context.
    #[arg(long)]
    plain: bool,
}

/// What `bench train` found; times in seconds, medians over the steps.
#[derive(Serialize)]
struct Training {
    schema: u32,
    tool_version: &'static str,
    device: String,
    shape: String,
    parameters: u64,
    precision: &'static str,
    gradient_checkpointing: bool,
    micro_batch: usize,
    context: usize,
    steps: usize,
    first_step_s: f64,
    step_s: f64,
    tokens_per_s: f64,
    flops_per_s: f64,
    mfu: Option<f64>,
    parts: Parts,
    /// What tensors take on the device after the steps that do not count, and after all: equal
    /// where nothing leaks, but for what waits to be given back. On a CPU the process's high-water
    /// mark.
    memory_after_warm_up_bytes: Option<u64>,
    memory_at_end_bytes: Option<u64>,
    /// The most that was taken from the device by the end of any step, room for more included.
    peak_memory_bytes: Option<u64>,
}

/// What `bench eval` found.
#[derive(Serialize)]
struct Scoring {
    schema: u32,
    tool_version: &'static str,
    device: String,
    shape: String,
    parameters: u64,
    precision: &'static str,
    items: usize,
    shared_context: bool,
    first_pack_s: f64,
    seconds: f64,
    items_per_s: f64,
    tokens_per_s: f64,
    peak_memory_bytes: Option<u64>,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        match self.what {
            What::Train(args) => args.execute(),
            What::Eval(args) => args.execute(),
        }
    }
}

/// Names for `--shape`.
pub fn shapes() -> impl Iterator<Item = &'static str> + Clone {
    SHAPES.iter().map(|shape| shape.0)
}

impl Common {
    fn precision(&self) -> Precision {
        self.precision.unwrap_or(self.device.precision())
    }

    fn open(&self) -> Result<Device> {
        let device = self.device.open()?;
        self.device.check_precision(&device, self.precision())?;
        Ok(device)
    }

    fn config(&self) -> Result<Gpt2Config> {
        let found = SHAPES.iter().find(|shape| shape.0 == self.shape);
        let Some(&(_, v, positions, d, layers, heads)) = found else {
            let names = shapes();
            let error = Error::usage(format!("--shape {}: no such shape", self.shape));
            return Err(
                error.with_hint(match did_you_mean(&self.shape, names.clone()) {
                    Some(name) => format!("did you mean {name}?"),
                    None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
                }),
            );
        };
        if self
            .peak_flops
            .is_some_and(|peak| !(peak.is_finite() && peak > 0.0))
        {
            return Err(Error::usage("--peak-flops must be above 0"));
        }
        Gpt2Config::new(v, positions, d, layers, heads)
    }
}

impl TrainArgs {
    fn execute(self) -> Result<()> {
        let config = self.common.config()?;
        let context = self.context.unwrap_or(config.n_positions);
        let counts = [
            ("--steps", self.steps),
            ("--micro-batch", self.micro_batch),
            ("--context", context),
        ];
        if let Some((flag, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(Error::usage(format!("{flag} must be at least 1")));
        }
        if context > config.n_positions || self.micro_batch > MOST_SEQUENCES {
            return Err(Error::usage(format!(
                "--context {context} --micro-batch {}: {} reads up to {} tokens, and up to {MOST_SEQUENCES} sequences are a pass",
                self.micro_batch, self.common.shape, config.n_positions
            )));
        }
        let train = TrainConfig {
            precision: Some(self.common.precision()),
            gradient_checkpointing: self.gradient_checkpointing,
            ..TrainConfig::for_batch(self.micro_batch, context)
        };
        train.check(config.n_positions).map_err(Error::usage)?;
        let device = self.common.open()?.autodiff();
        let mut bench = Bench::new(&config, &train, self.micro_batch, &device)?;
        let meter = Meter::new("steps", (WARM_UP + 2 * self.steps) as u64, Unit::Count);
        let none = BTreeMap::new();
        let peak = Cell::new(None);
        let mut run = |count: usize, clock: Clock| -> Result<Vec<Parts>> {
            let steps = (0..count).map(|_| {
                interrupt::check("stopped while timing")?;
                let parts = bench.step(&none, clock);
                peak.set(peak.get().max(memory(&device).map(|m| m.reserved)));
                meter.advance(1);
                parts
            });
            steps.collect()
        };
        let first = run(WARM_UP, Clock::Steps)?[0].total();
        let in_use = || memory(&device).map(|memory| memory.in_use);
        let memory_after_warm_up_bytes = in_use();
        let steps = run(self.steps, Clock::Steps)?;
        let parts = run(self.steps, Clock::Parts)?;
        drop(meter);
        let median_of = |of: fn(&Parts) -> f64| median(parts.iter().map(of).collect());
        let step_s = median(steps.iter().map(Parts::total).collect());
        let tokens = self.micro_batch * context;
        let flops = ledger::per_token(&config, context, &|_| true).total() as f64;
        let tokens_per_s = tokens as f64 / step_s;
        let found = Training {
            schema: 1,
            tool_version: VERSION,
            device: self.common.device.to_string(),
            shape: self.common.shape.clone(),
            parameters: layout::parameter_count(&config),
            precision: self.common.device.recorded(self.common.precision()),
            gradient_checkpointing: self.gradient_checkpointing,
            micro_batch: self.micro_batch,
            context,
            steps: self.steps,
            first_step_s: first,
            step_s,
            tokens_per_s,
            flops_per_s: tokens_per_s * flops,
            mfu: self
                .common
                .peak_flops
                .map(|peak| mfu(tokens_per_s * flops, peak)),
            parts: Parts {
                data: median_of(|p| p.data),
                forward: median_of(|p| p.forward),
                backward: median_of(|p| p.backward),
                clip: median_of(|p| p.clip),
                optimizer: median_of(|p| p.optimizer),
            },
            memory_after_warm_up_bytes,
            memory_at_end_bytes: in_use(),
            peak_memory_bytes: peak.get(),
        };
        if self.common.json {
            return print_json(&found);
        }
        print(&found.text())
    }
}

impl Training {
    fn text(&self) -> String {
        let parts = [
            ("data", self.parts.data),
            ("forward", self.parts.forward),
            ("backward", self.parts.backward),
            ("clip", self.parts.clip),
            ("optimizer", self.parts.optimizer),
        ];
        let total = self.parts.total();
        let row = |(name, seconds): (&str, f64)| {
            let share = 100.0 * seconds / total;
            vec![
                name.to_owned(),
                format!("{:.2} ms", 1e3 * seconds),
                format!("{share:.1} %"),
            ]
        };
        let rows: Vec<Vec<String>> = parts.into_iter().map(row).collect();
        let mfu = self
            .mfu
            .map_or_else(String::new, |mfu| format!(", MFU {:.1} %", 100.0 * mfu));
        [
            format!(
                "{} ({} parameters) on {}, {} x {}, {}{}",
                self.shape,
                thousands(self.parameters),
                self.device,
                self.micro_batch,
                counted(self.context, "token", "tokens"),
                self.precision,
                if self.gradient_checkpointing {
                    ", activations made again"
                } else {
                    ""
                }
            ),
            format!(
                "{:.0} tok/s, {:.3e} FLOP/s{mfu}; a step {:.2} ms, the first one {:.2} ms; peak memory {}",
                self.tokens_per_s,
                self.flops_per_s,
                1e3 * self.step_s,
                1e3 * self.first_step_s,
                self.peak_memory_bytes.map_or_else(|| "unknown".into(), bytes)
            ),
            String::new(),
            table::render(&["part", "time", "share"], &[false, true, true], &rows),
        ]
        .join("\n")
    }
}

impl EvalArgs {
    fn execute(self) -> Result<()> {
        let config = self.common.config()?;
        if self.items == 0 {
            return Err(Error::usage("--items must be at least 1"));
        }
        let device = self.common.open()?;
        let precision = self.common.precision();
        let model = weights::init(&config, config.n_layer, 0, &device)?.with_precision(precision);
        let engine = Engine {
            model: &model,
            device: &device,
            share: !self.plain,
        };
        let requests: Vec<Request> = (0..self.items)
            .map(|i| item(i, config.vocab_size))
            .collect();
        let meter = Meter::new("items", self.items as u64, Unit::Count);
        let all: Vec<&Request> = requests.iter().collect();
        let mut done = 0;
        let mut packs = Vec::new();
        while done < all.len() {
            interrupt::check("stopped while timing")?;
            let count = engine.pack_len(&all[done..]);
            let started = Instant::now();
            engine.score(&all[done..done + count])?;
            packs.push(started.elapsed().as_secs_f64());
            meter.advance(count as u64);
            done += count;
        }
        drop(meter);
        let seconds: f64 = packs.iter().sum();
        let tokens = CONTEXT_TOKENS + ENDINGS * ENDING_TOKENS;
        let found = Scoring {
            schema: 1,
            tool_version: VERSION,
            device: self.common.device.to_string(),
            shape: self.common.shape.clone(),
            parameters: layout::parameter_count(&config),
            precision: self.common.device.recorded(precision),
            items: self.items,
            shared_context: !self.plain,
            first_pack_s: packs[0],
            seconds,
            items_per_s: self.items as f64 / seconds,
            tokens_per_s: (self.items * tokens) as f64 / seconds,
            peak_memory_bytes: memory(&device).map(|memory| memory.reserved),
        };
        if self.common.json {
            return print_json(&found);
        }
        print(&format!(
            "{} ({} parameters) on {} in {}: {} of {CONTEXT_TOKENS} + {ENDINGS} x {ENDING_TOKENS} tokens in {:.2} s, \
             {:.1} items/s, {:.0} tok/s, the first pack {:.2} s; peak memory {}",
            found.shape,
            thousands(found.parameters),
            found.device,
            found.precision,
            counted(found.items, "item", "items"),
            found.seconds,
            found.items_per_s,
            found.tokens_per_s,
            found.first_pack_s,
            found
                .peak_memory_bytes
                .map_or_else(|| "unknown".into(), bytes)
        ))
    }
}

/// An item of random tokens: a context with four endings.
fn item(number: usize, vocab_size: usize) -> Request {
    let id = |i: usize| ((7919 * i + 104_729 * number) % vocab_size) as u32;
    let context = (0..CONTEXT_TOKENS).map(id);
    let ending = |e: usize| {
        let from = CONTEXT_TOKENS * (e + 1);
        context
            .clone()
            .chain((from..from + ENDING_TOKENS).map(id))
            .collect()
    };
    let sequence = |e: usize| Sequence {
        ids: ending(e),
        scored: ENDING_TOKENS,
    };
    Request {
        sequences: (0..ENDINGS).map(sequence).collect(),
        truncated: false,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// High-water mark of this process's memory, which on a CPU is all there is; on a GPU, what is
/// allocated there by now.
fn memory(device: &Device) -> Option<Allocated> {
    if !is_cpu(device) {
        return allocated(device);
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mark = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = mark.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    let mark = kib * 1024;
    Some(Allocated {
        in_use: mark,
        reserved: mark,
    })
}
