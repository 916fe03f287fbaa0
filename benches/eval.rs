//! HellaSwag on the CPU, f32: what one evaluation takes.
//!
//! ```sh
//! cargo bench --bench eval -- TASK CHECKPOINT DATA N [plain]
//! ```
//!
//! Prints one JSON line like `benches/eval_pytorch.py`: loading the model is not timed; reading
//! the items, encoding and scoring are. `plain` scores every ending alone. `benches/eval.sh` runs
//! both sides in turns and prints the ratios.
//!
//! Two virtual cores of an AMD EPYC with AVX-512, PyTorch 2.15, lm-eval 0.4.13, three rounds,
//! `benches/eval.sh PYTHON CHECKPOINT hellaswag_val_1000.jsonl N`, medians; N = 48 for a random
//! GPT-2 124M, 1,000 for `fixtures/prose-4l`:
//!
//! | checkpoint | task | items/s | against | items/s | ratio (least to most) | peak MiB | theirs |
//! |---|---|---|---|---|---|---|---|
//! | 124M | hellaswag | 20.61 | harness, batch 8 | 3.64 | 5.67 (5.41 to 5.92) | 826 | 2183 |
//! | 124M | hellaswag_completion | 21.83 | loop | 3.39 | 6.32 (6.03 to 6.44) | 826 | 1758 |
//! | prose-4l | hellaswag | 294.70 | harness, batch 8 | 63.24 | 4.80 (4.66 to 4.82) | 91 | 1152 |
//! | prose-4l | hellaswag_completion | 314.58 | loop | 57.13 | 5.51 (5.17 to 5.62) | 91 | 888 |
//!
//! By lever, 124M, hellaswag, 48 items, items/s: packed with shared contexts 12.2; with AVX-512
//! 11 (18 at times: packing the head again for every 128 rows of logits was half of all); the
//! head packed once for all rows, 2,048 tokens to a pack 20.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use scale_ckpt::checkpoint::Checkpoint;
use scale_ckpt::checkpoint::hub::NoProgress;
use scale_ckpt::data::Tokenizer;
use scale_ckpt::eval::dataset::{self, Hub, Source};
use scale_ckpt::eval::engine::Engine;
use scale_ckpt::eval::prepared::LoadedTask;
use scale_ckpt::eval::score::TaskScore;
use scale_ckpt::eval::task::{Selection, tasks_named};
use scale_ckpt::model::weights;
use support::peak_kib;

fn main() {
    scale_ckpt::allocator::keep_memory();
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let [name, checkpoint, data, count, rest @ ..] = args.as_slice() else {
        eprintln!("usage: cargo bench --bench eval -- TASK CHECKPOINT DATA N [plain]");
        return;
    };
    let device = Device::flex();
    let checkpoint = Checkpoint::open_dir(Path::new(checkpoint)).unwrap();
    let config = &checkpoint.config;
    let tokenizer = Tokenizer::for_checkpoint(&checkpoint.dir, config.vocab_size).unwrap();
    let model = weights::load(&checkpoint, &device).unwrap();
    let task = &tasks_named(name).unwrap()[0];
    let engine = Engine {
        model: &model,
        device: &device,
        share: rest.is_empty(),
    };
    let started = Instant::now();
    let source = Source::Path(PathBuf::from(data));
    let hub = Hub {
        config: &|| unreachable!("the data is a file"),
        progress: &NoProgress,
    };
    let data = dataset::load(&**task, &source, None, None, false, &hub).unwrap();
    let selection = Selection {
        limit: Some(count.parse().unwrap()),
        sample_seed: None,
    };
    let task = LoadedTask::new(&**task, data, None, selection).unwrap();
    let task = task.prepare(&tokenizer, config.n_positions).unwrap();
    let items = task.score_all(&engine).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let score = TaskScore::of(&task.record, &items);
    let value = |name: &str| score.metric(name).map(|metric| metric.value);
    let line = serde_json::json!({
        "what": name,
        "items": score.n,
        "seconds": seconds,
        "items_per_s": score.n as f64 / seconds,
        "peak_rss_mib": peak_kib() as f64 / 1024.0,
        "tokens": task.tokens(&engine),
        "acc": value("acc"),
        "acc_norm": value("acc_norm"),
    });
    println!("{line}");
}
