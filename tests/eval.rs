//! Tokenizer and HellaSwag against stored results of Hugging Face's own code.
#![allow(clippy::unwrap_used)]

mod support;

use burn::tensor::Device;
use scale_ckpt::checkpoint::Checkpoint;
use scale_ckpt::data::Tokenizer;
use scale_ckpt::eval::hellaswag;
use scale_ckpt::model::weights;
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
    assert!(Tokenizer::for_checkpoint(&fixture("prose-4l"), 4000).is_err());
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
fn hellaswag_scores_are_those_of_pytorch_item_by_item() {
    let device = Device::flex();
    let dir = fixture("hellaswag/model");
    let checkpoint = Checkpoint::open_dir(&dir).unwrap();
    let tokenizer = Tokenizer::for_checkpoint(&dir, checkpoint.config.vocab_size).unwrap();
    let items = hellaswag::load(&fixture("hellaswag/hellaswag_val_200.jsonl"), None).unwrap();
    let model = weights::load(&checkpoint, &device).unwrap();
    let (summary, scores) = hellaswag::score(
        &model,
        &tokenizer,
        &items,
        checkpoint.config.n_positions,
        &device,
    )
    .unwrap();
    let expected: Expected = serde_json::from_slice(
        &std::fs::read(fixture("hellaswag/expected_completion.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(scores.len(), expected.items.len());
    for (i, (found, wanted)) in scores.iter().zip(&expected.items).enumerate() {
        assert_eq!(
            (found.label, found.tokens),
            (wanted.label, wanted.tokens),
            "item {i}"
        );
        for (a, b) in found.sum_nll.iter().zip(wanted.sum_nll) {
            assert!((a - b).abs() <= SUM_NLL, "item {i}: {a} against {b}");
        }
        assert_eq!(
            (found.choice(), found.choice_norm()),
            (wanted.answer, wanted.answer_norm),
            "item {i}"
        );
    }
    assert_eq!((summary.acc * 200.0).round() as usize, expected.acc);
    assert_eq!(
        (summary.acc_norm * 200.0).round() as usize,
        expected.acc_norm
    );
}
