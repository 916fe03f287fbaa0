//! Tokenizer and HellaSwag against stored results of Hugging Face's own code.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use scale_ckpt::checkpoint::Checkpoint;
use scale_ckpt::checkpoint::hub::NoProgress;
use scale_ckpt::data::{Tokenizer, Tokens};
use scale_ckpt::eval::dataset::{self, Hub, Shots, Source};
use scale_ckpt::eval::engine::Engine;
use scale_ckpt::eval::loss::{Windows, text_loss};
use scale_ckpt::eval::prepared::{LoadedTask, PreparedTask};
use scale_ckpt::eval::score::{ItemScore, TaskScore};
use scale_ckpt::eval::task::{Protocol, Selection, tasks_named};
use scale_ckpt::model::{Gpt2, weights};
use serde::Deserialize;
use support::{copy_dir, fixture};

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn cases(name: &str) -> Vec<Case> {
    serde_json::from_slice(&std::fs::read(fixture("tokenizer").join(name)).unwrap()).unwrap()
}

fn check(tokenizer: &Tokenizer, cases: &[Case]) {
    assert!(cases.len() > 100);
    for case in cases {
        assert_eq!(
            tokenizer.encode(&case.text).unwrap(),
            case.ids,
            "{:?}",
            case.text
        );
        if !case.text.contains("<|") {
            assert_eq!(tokenizer.encode_ordinary(&case.text).unwrap(), case.ids);
        }
        assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.text);
    }
}

#[test]
fn the_embedded_tokenizer_is_gpt2s() {
    check(&Tokenizer::gpt2(), &cases("cases.json"));
}

#[test]
fn both_file_formats_give_the_same_ids() {
    let cases = cases("cases_prose.json");
    check(
        &Tokenizer::for_checkpoint(&fixture("prose-4l"), 4096).unwrap(),
        &cases,
    );
    let old = tempfile::tempdir().unwrap();
    copy_dir(&fixture("prose-4l"), old.path());
    std::fs::remove_file(old.path().join("tokenizer.json")).unwrap();
    check(
        &Tokenizer::for_checkpoint(old.path(), 4096).unwrap(),
        &cases,
    );
}

#[test]
fn a_model_without_tokenizer_falls_back_to_gpt2s_where_it_fits() {
    let empty = tempfile::tempdir().unwrap();
    let gpt2 = Tokenizer::for_checkpoint(empty.path(), 50304).unwrap();
    assert_eq!(gpt2.end_of_text().unwrap(), 50256);
    assert!(Tokenizer::for_checkpoint(empty.path(), 4096).is_err());
}

/// A model with its tokenizer.
struct Scored {
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    model: Gpt2,
    device: Device,
}

impl Scored {
    fn open(dir: &str) -> Self {
        let device = Device::flex();
        let checkpoint = Checkpoint::open_dir(&fixture(dir)).unwrap();
        let vocab_size = checkpoint.config.vocab_size;
        Self {
            tokenizer: Tokenizer::for_checkpoint(&checkpoint.dir, vocab_size).unwrap(),
            model: weights::load(&checkpoint, &device).unwrap(),
            checkpoint,
            device,
        }
    }

    fn prepare(&self, task: &str, data: &str, limit: usize) -> PreparedTask {
        let n_positions = self.checkpoint.config.n_positions;
        load(task, &fixture(data), limit, None)
            .prepare(&self.tokenizer, n_positions)
            .unwrap()
    }

    fn score(&self, task: &PreparedTask, share: bool) -> Vec<ItemScore> {
        let engine = Engine {
            model: &self.model,
            device: &self.device,
            share,
        };
        task.score_all(&engine).unwrap()
    }
}

fn load(task: &str, data: &Path, limit: usize, shots: Option<Shots>) -> LoadedTask {
    let task = &tasks_named(task).unwrap()[0];
    let source = Source::Path(data.to_owned());
    let hub = Hub {
        config: &|| unreachable!("the data is here"),
        progress: &NoProgress,
    };
    let data = dataset::load(&**task, &source, Some(&source), shots, false, &hub).unwrap();
    let selection = Selection {
        limit: Some(limit),
        sample_seed: None,
    };
    LoadedTask::new(&**task, data, shots, selection).unwrap()
}

#[derive(Deserialize)]
struct Expected {
    acc: usize,
    acc_norm: usize,
    items: Vec<ExpectedItem>,
}

#[derive(Deserialize)]
struct ExpectedItem {
    label: usize,
    sum_nll: [f64; 4],
    tokens: [usize; 4],
    answer: usize,
    answer_norm: usize,
}

/// The oracle sums in f64; PyTorch in f32 is within 8e-5 of it, on sums of up to 750.
const SUM_NLL: f64 = 2e-4;

#[test]
fn completion_scores_are_those_of_pytorch_item_by_item() {
    let scored = Scored::open("hellaswag/model");
    let data = "hellaswag/hellaswag_val_200.jsonl";
    let task = scored.prepare("hellaswag_completion", data, 200);
    let items = scored.score(&task, true);
    let expected: Expected = serde_json::from_slice(
        &std::fs::read(fixture("hellaswag/expected_completion.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(items.len(), expected.items.len());
    for (found, wanted) in items.iter().zip(&expected.items) {
        let i = found.item;
        assert_eq!(
            (found.gold, &found.tokens[..]),
            (wanted.label, &wanted.tokens[..]),
            "item {i}"
        );
        for (a, b) in found.loglik.iter().zip(wanted.sum_nll) {
            assert!((a + b).abs() <= SUM_NLL, "item {i}: {a} against -{b}");
        }
        assert_eq!(
            (found.choice(), found.choice_norm(Protocol::Completion)),
            (wanted.answer, wanted.answer_norm),
            "item {i}"
        );
    }
    let score = TaskScore::of(&task.record, &items);
    let right = |name| (score.metric(name).unwrap().value * 200.0).round() as usize;
    assert_eq!(
        (right("acc"), right("acc_norm")),
        (expected.acc, expected.acc_norm)
    );
}

#[test]
fn sharing_and_packing_leave_every_bit_alone() {
    let scored = Scored::open("hellaswag/model");
    let data = "hellaswag/hellaswag_val_200.jsonl";
    for name in ["hellaswag", "hellaswag_completion"] {
        let task = scored.prepare(name, data, 60);
        let together = scored.score(&task, true);
        assert_eq!(together, scored.score(&task, false), "{name}: each alone");
        let engine = Engine {
            model: &scored.model,
            device: &scored.device,
            share: true,
        };
        for wanted in [31, 59] {
            let mut one = Vec::new();
            let mut keep = |scores: &[ItemScore]| {
                one.extend_from_slice(scores);
                Ok(())
            };
            task.score(&engine, &|item| item == wanted, &mut keep)
                .unwrap();
            assert_eq!(one, together[wanted..=wanted], "{name}: in a pack of one");
        }
        assert!(
            task.tokens(&engine) * 3
                < 2 * task.tokens(&Engine {
                    share: false,
                    ..engine
                })
        );
    }
}

/// Two orders of summation in f32 differ by rounding that grows with a sum. The largest seen, over
/// all of `fixtures/eval/expected`, is 6e-7 of it; values are stored with five decimals.
const LOGLIK: f64 = 2e-6;
const STORED: f64 = 5e-6;

#[derive(Deserialize)]
struct HarnessItem {
    ll: Vec<f64>,
    #[serde(default)]
    gold: usize,
    pred: Option<usize>,
    pred_norm: Option<usize>,
    greedy: Option<bool>,
    paradigm: Option<String>,
}

fn harness_items(name: &str) -> Vec<HarnessItem> {
    harness_items_of("prose-4l", name)
}

fn harness_items_of(checkpoint: &str, name: &str) -> Vec<HarnessItem> {
    let path = fixture("eval/expected").join(checkpoint).join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let items = text.lines().skip(1);
    items
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn assert_equal(task: &str, found: &ItemScore, wanted: &HarnessItem) {
    let at = format!("{task}, item {}", found.item);
    assert_eq!(found.gold, wanted.gold, "{at}");
    for (a, b) in found.loglik.iter().zip(&wanted.ll) {
        let tolerance = STORED + LOGLIK * b.abs().max(1.0);
        assert!((a - b).abs() <= tolerance, "{at}: {a} against {b}");
    }
    assert_eq!(found.loglik.len(), wanted.ll.len(), "{at}");
    if let Some(pred) = wanted.pred {
        assert_eq!(found.choice(), pred, "{at}");
    }
    if let Some(pred) = wanted.pred_norm {
        assert_eq!(found.choice_norm(Protocol::Harness), pred, "{at}");
    }
    if let Some(greedy) = wanted.greedy {
        assert_eq!(found.greedy[0], greedy, "{at}");
    }
}

#[test]
fn scores_are_those_of_lm_evaluation_harness_item_by_item() {
    let scored = Scored::open("prose-4l");
    for (task, data) in [
        ("lambada_openai", "eval/data/lambada_openai.jsonl"),
        ("arc_easy", "eval/data/arc_easy.jsonl"),
        ("arc_easy", "eval/data/arc_easy_40.parquet"),
        ("piqa", "eval/data/piqa.jsonl"),
        ("winogrande", "eval/data/winogrande.jsonl"),
        ("hellaswag", "eval/data/hellaswag_40.parquet"),
    ] {
        let found = scored.score(&scored.prepare(task, data, 40), true);
        let wanted = harness_items(&format!("{task}.jsonl"));
        assert_eq!(found.len(), 40);
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_equal(task, found, wanted);
        }
    }
}

#[test]
fn scores_with_a_tokenizer_that_begins_texts_are_those_of_lm_evaluation_harness() {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&fixture("prose-4l"), dir.path());
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let begin = serde_json::json!({ "SpecialToken": { "id": "<|endoftext|>", "type_id": 0 } });
    let text = serde_json::json!({ "Sequence": { "id": "A", "type_id": 0 } });
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text],
        "special_tokens": { "<|endoftext|>": { "id": "<|endoftext|>", "ids": [4095], "tokens": ["<|endoftext|>"] } },
    });
    std::fs::write(&path, json.to_string()).unwrap();
    let plain = Scored::open("prose-4l");
    let with_bos = Scored {
        tokenizer: Tokenizer::for_checkpoint(dir.path(), 4096).unwrap(),
        ..Scored::open("prose-4l")
    };
    assert_ne!(with_bos.tokenizer.sha256(), plain.tokenizer.sha256());
    for (task, data, count) in [
        ("hellaswag", "hellaswag/hellaswag_val_200.jsonl", 40),
        ("lambada_openai", "eval/data/lambada_openai.jsonl", 40),
        ("winogrande", "eval/data/winogrande.jsonl", 40),
        ("blimp_passive_1", "eval/data/blimp", 5),
        ("blimp_causative", "eval/data/blimp", 5),
    ] {
        let found = with_bos.score(&with_bos.prepare(task, data, count), true);
        let wanted = harness_items_of("prose-4l-bos", &format!("{task}.jsonl"));
        assert_eq!((found.len(), wanted.len()), (count, count), "{task}");
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_equal(task, found, wanted);
        }
        // A text without context begins with it anyway.
        let bare = plain.score(&plain.prepare(task, data, count), true);
        assert_eq!(bare == found, task.starts_with("blimp"), "{task}");
    }
    // That protocol is another program's, which adds nothing.
    let data = "hellaswag/hellaswag_val_200.jsonl";
    let [a, b] = [&plain, &with_bos]
        .map(|scored| scored.score(&scored.prepare("hellaswag_completion", data, 10), true));
    assert_eq!(a, b);
}

#[test]
fn blimp_is_scored_as_lm_evaluation_harness_does() {
    let scored = Scored::open("prose-4l");
    let wanted = harness_items("blimp.jsonl");
    for paradigm in ["passive_1", "causative", "principle_A_c_command"] {
        let of_paradigm = wanted
            .iter()
            .filter(|w| w.paradigm.as_deref() == Some(paradigm));
        let task = format!("blimp_{paradigm}");
        let found = scored.score(&scored.prepare(&task, "eval/data/blimp", 5), true);
        assert_eq!(found.len(), 5);
        for (found, wanted) in found.iter().zip(of_paradigm) {
            assert_equal(&task, found, wanted);
        }
    }
}

#[derive(Deserialize)]
struct FewShot {
    task: String,
    k: usize,
    item: usize,
    arguments: Vec<(String, String)>,
}

#[test]
fn few_shot_prompts_are_those_of_lm_evaluation_harness() {
    let text = std::fs::read_to_string(fixture("eval/expected/fewshot.jsonl")).unwrap();
    let all = std::fs::read_to_string(fixture("hellaswag/hellaswag_val_200.jsonl")).unwrap();
    let first: Vec<&str> = all.lines().take(40).collect();
    let hellaswag = tempfile::Builder::new()
        .suffix(".jsonl")
        .tempfile()
        .unwrap();
    std::fs::write(hellaswag.path(), first.join("\n")).unwrap();
    let mut checked = 0;
    for line in text.lines() {
        let wanted: FewShot = serde_json::from_str(line).unwrap();
        // Both the items and the pool are the first 40.
        let data = match wanted.task.as_str() {
            "hellaswag" => hellaswag.path().to_owned(),
            task => fixture(&format!("eval/data/{task}.jsonl")),
        };
        let shots = Shots {
            count: wanted.k,
            seed: 1234,
        };
        let task = load(&wanted.task, &data, 40, Some(shots));
        let prompts: Vec<_> = task.prompts().nth(wanted.item).unwrap().collect();
        assert_eq!(
            prompts, wanted.arguments,
            "{} item {}",
            wanted.task, wanted.item
        );
        checked += 1;
    }
    assert!(checked >= 20, "{checked}");
}

/// Perplexity against a loop over the same windows, one token at a time.
#[test]
fn a_text_is_read_in_windows_that_overlap() {
    let scored = Scored::open("prose-4l");
    let text = std::fs::read_to_string(fixture("prose/val.txt")).unwrap();
    let text: String = text.chars().take(1500).collect();
    let ids = scored.tokenizer.encode_ordinary(&text).unwrap();
    let windows = Windows {
        context: 32,
        stride: 8,
        max_tokens: None,
    };
    let found = text_loss(
        &scored.model,
        &Tokens::from_ids(ids.clone()),
        windows,
        Some(&scored.tokenizer),
        &scored.device,
    )
    .unwrap()
    .loss;
    let (mut total, mut predicted) = (0.0, 0);
    for start in (0..ids.len() - 32).step_by(8) {
        let row = |shift: usize| -> Tensor<2, Int> {
            let ids = &ids[start + shift..start + shift + 32];
            let ids = ids.iter().map(|&id| i64::from(id)).collect();
            Tensor::from_data(TensorData::new::<i64, _>(ids, [1, 32]), &scored.device)
        };
        let nll: Vec<f64> = scored
            .model
            .token_nll(row(0), row(1))
            .into_data()
            .iter::<f64>()
            .collect();
        let new = if start == 0 { &nll[..] } else { &nll[24..] };
        total += new.iter().sum::<f64>();
        predicted += new.len();
    }
    assert_eq!(found.tokens, predicted as u64);
    let loss = total / predicted as f64;
    assert!(
        (found.loss - loss).abs() < 1e-5 * loss,
        "{} against {loss}",
        found.loss
    );
    let read = scored.tokenizer.decode(&ids[1..=predicted]).unwrap();
    assert_eq!(found.bytes, Some(read.len() as u64));
    assert_eq!(found.words, Some(read.split_whitespace().count() as u64));
    let bits = found.byte_perplexity().unwrap().ln() * read.len() as f64;
    assert!((bits - total).abs() < 1e-4 * total);
}
