//! A step whose loss is not finite: the run stops, leaves it out, or goes back, as the recipe says.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use safetensors::SafeTensors;
use sandbox::{Sandbox, TOKENIZER};

/// Whoever reads this id gets a loss that is no number: its embedding is finite, but the mean
/// over it is not. The head is untied, so that nobody else meets the embedding.
const POISON: u16 = 62;
const RECIPE: &str = r#"out = "run"
[model]
from = "./m"
[data]
train = ["tokens.bin"]
val = ["val.bin"]
order = "contiguous"
[train]
tokens = 640
batch_tokens = 64
context = 32
lr = 1e-3
save_every_tokens = 192
keep = 9
"#;

/// Ten steps; those numbered in `poisoned` (from 0) read the poison.
fn poisoned(poisoned: &[usize], on_non_finite: &str) -> Sandbox {
    let sandbox = Sandbox::with("gpt2-variants/untied");
    sandbox.write("m/tokenizer.json", TOKENIZER);
    let path = sandbox.path("m/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let row = {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let wte = tensors.tensor("transformer.wte.weight").unwrap();
        let start = wte.data().as_ptr() as usize - bytes.as_ptr() as usize;
        start + 4 * 32 * usize::from(POISON)
    };
    for value in bytes[row..row + 4 * 32].chunks_exact_mut(4) {
        value.copy_from_slice(&3e38_f32.to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
    let mut ids: Vec<u16> = (0..641).map(|i| i * 7 % 61).collect();
    poisoned.iter().for_each(|step| ids[64 * step + 5] = POISON);
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    sandbox.write("tokens.bin", bytes);
    let clean: Vec<u8> = (0..65_u16).flat_map(|i| (i % 61).to_le_bytes()).collect();
    sandbox.write("val.bin", clean);
    let key = format!("on_non_finite = \"{on_non_finite}\"\n");
    sandbox.write("r.toml", format!("{RECIPE}{key}"));
    sandbox
}

/// Steps whose update was left out.
fn skipped(sandbox: &Sandbox) -> Vec<u64> {
    let events = sandbox.events();
    let skipped = events.iter().filter(|event| event["skipped"] == true);
    skipped
        .map(|event| event["step"].as_u64().unwrap())
        .collect()
}

fn last(sandbox: &Sandbox) -> [Vec<u8>; 2] {
    ["model", "optimizer"]
        .map(|name| sandbox.read(&format!("run/step-00000010/{name}.safetensors")))
}

#[test]
fn by_default_the_run_stops_and_keeps_its_last_checkpoint() {
    let sandbox = poisoned(&[4], "stop");
    let outcome = sandbox
        .run("train r.toml")
        .expect(7, &["step 5", "the loss is NaN"]);
    assert_eq!(outcome.stdout, "");
    let names: Vec<bool> = [3, 4, 5]
        .map(|step| sandbox.path(&format!("run/step-{step:08}")).exists())
        .into();
    assert_eq!(names, [true, false, false]);
    // It is deterministic, so that going on ends the same way.
    sandbox
        .run("train r.toml")
        .expect(7, &["resuming at step 3 of 10"]);
}

#[test]
fn a_step_is_left_out() {
    let sandbox = poisoned(&[4, 7], "skip");
    sandbox
        .run("train r.toml")
        .expect(0, &["step 5: left out", "step 8: left out"]);
    assert_eq!(skipped(&sandbox), [5, 8]);
    let text = String::from_utf8(sandbox.read("run/metrics.jsonl")).unwrap();
    assert!(!text.contains("NaN"), "metrics are JSON");
}

#[test]
fn going_back_ends_where_leaving_out_does() {
    let skips = poisoned(&[4, 7], "skip");
    skips.run("train r.toml").expect(0, &[]);
    let rolls = poisoned(&[4, 7], "roll-back");
    rolls
        .run("train r.toml")
        .expect(0, &["going back to leave that step out"]);
    assert!(last(&rolls) == last(&skips));
    let events = rolls.events();
    let back = events.iter().filter(|event| event["event"] == "roll-back");
    let back: Vec<_> = back.map(|event| event["diverged_at"].as_u64()).collect();
    assert_eq!(back, [Some(5), Some(8)]);
    assert_eq!(skipped(&rolls), [5, 8]);
}

#[test]
fn a_run_that_goes_wrong_at_every_step_is_given_up() {
    let everywhere: Vec<usize> = (0..10).collect();
    for policy in ["skip", "roll-back"] {
        let sandbox = poisoned(&everywhere, policy);
        let text = String::from_utf8(sandbox.read("r.toml")).unwrap();
        sandbox.write("r.toml", text.replace("tokens = 640", "tokens = 1280"));
        sandbox.run("train r.toml").expect(7, &["the loss is NaN"]);
        assert!(!sandbox.path("run/step-00000020").exists());
    }
}
