//! Runs of several stages, from the command line: what each stage trains, and that a run killed
//! at any moment ends with the bytes of one that was not.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use sandbox::{Outcome, RECIPE, Sandbox, with_recipe};
use serde_json::Value;

/// Two blocks, a third on top that trains alone, then all; a growth by copies at the end.
const STAGES: &str = r#"[train]
batch_tokens = 128
context = 32
micro_batch = 1
lr = 1e-3
eval_every_tokens = 256
save_every_tokens = 256
wakeup_steps = 2
[[stage]]
tokens = 384
[[stage]]
tokens = 256
grow = { to = 3, placement = "top" }
trainable = ["new"]
[[stage]]
tokens = 256
grow = { to = 4, placement = "top", init = "copy" }
optimizer = "inherit"
"#;
const STEPS: usize = 7;

/// The stages on the model and texts of the small recipe.
fn staged() -> String {
    let (sources, _) = RECIPE.split_once("[train]").unwrap();
    format!("{sources}{STAGES}")
}

fn events(sandbox: &Sandbox) -> Vec<Value> {
    let text = String::from_utf8(sandbox.read("run/metrics.jsonl")).unwrap();
    let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let mut events: Vec<Value> = text.lines().map(parse).collect();
    for event in &mut events {
        event.as_object_mut().unwrap().remove("elapsed_s");
    }
    events
}

/// Weights, moments and position of the last checkpoint, and the metrics without wall times.
fn result(sandbox: &Sandbox) -> (Vec<Vec<u8>>, Vec<Value>) {
    let files = [
        "model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
    ];
    let read = |name| sandbox.read(&format!("run/step-{STEPS:08}/{name}"));
    (files.map(read).to_vec(), events(sandbox))
}

#[test]
fn every_stage_trains_what_it_names() {
    let sandbox = with_recipe(&staged());
    sandbox
        .run("train r.toml")
        .expect(0, &["stage 2: ", "stage 3: "]);
    let events = events(&sandbox);
    let depths: Vec<_> = events.iter().filter(|e| e["event"] == "stage").collect();
    let rows: Vec<_> = depths
        .iter()
        .map(|e| (e["step"].as_u64(), e["n_layer"].as_u64()))
        .collect();
    assert_eq!(
        rows,
        [(Some(0), Some(2)), (Some(3), Some(3)), (Some(5), Some(4))]
    );
    let waking: Vec<_> = events.iter().filter(|e| e["wakeup"].is_object()).collect();
    assert_eq!(waking.len(), 4, "two steps after each of two growths");
    // Stage 2 trains block 2 alone: a zero-residual block, whose inside wakes at its second step.
    let number =
        |event: &Value, key: &str, layer: usize| event["wakeup"][key][layer].as_f64().unwrap();
    assert_eq!(number(waking[0], "update_norm", 0), 0.0);
    assert!(number(waking[0], "update_norm", 2) > 0.0);
    assert_eq!(number(waking[0], "inner_grad_norm", 2), 0.0);
    assert!(number(waking[1], "inner_grad_norm", 2) > 0.0);
    assert!(number(waking[2], "update_norm", 0) > 0.0);
    // The moments of the last block were inherited from the block it copies.
    let state: Value =
        serde_json::from_slice(&sandbox.read("run/step-00000007/trainer_state.json")).unwrap();
    let steps = |name: &str| state["optimizer_steps"][name].as_u64().unwrap();
    assert_eq!(
        (
            steps("h.0.ln_1.bias"),
            steps("h.2.ln_1.bias"),
            steps("h.3.ln_1.bias")
        ),
        (5, 4, 4)
    );
    let flops: Vec<f64> = events.iter().filter_map(|e| e["flops"].as_f64()).collect();
    assert!(flops.len() == STEPS && flops.windows(2).all(|pair| pair[0] < pair[1]));
    let report: Value = serde_json::from_slice(&sandbox.read("run/report.json")).unwrap();
    assert_eq!(
        report["cost"]["additional"]["flops"].as_f64(),
        flops.last().copied()
    );
}

fn killed_at(sandbox: &Sandbox, variable: &str, at: usize) -> Outcome {
    let mut command = sandbox.command("train r.toml");
    command.env(variable, at.to_string());
    Outcome::of(command)
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bytes() {
    for recipe in [
        staged(),
        staged().replace("micro_batch = 1", "micro_batch = 4"),
    ] {
        let whole = with_recipe(&recipe);
        whole.run("train r.toml").expect(0, &[]);
        let expected = result(&whole);
        let mut moments = 0;
        for at in (1..).step_by(5) {
            let sandbox = with_recipe(&recipe);
            if killed_at(&sandbox, "SCALE_CKPT_KILL_AT", at).code.is_some() {
                break;
            }
            moments += 1;
            sandbox.run("train r.toml").expect(0, &[]);
            assert!(result(&sandbox) == expected, "killed at operation {at}");
            assert!(!sandbox.has_temporary(), "killed at operation {at}");
        }
        assert!(moments >= 30, "{moments} moments");
    }
}

#[test]
fn a_run_whose_disk_fails_at_any_moment_says_so_and_goes_on() {
    let whole = with_recipe(&staged());
    whole.run("train r.toml").expect(0, &[]);
    let expected = result(&whole);
    for at in (3..).step_by(17) {
        let sandbox = with_recipe(&staged());
        let failed = killed_at(&sandbox, "SCALE_CKPT_FAIL_AT", at);
        if failed.code == Some(0) {
            break;
        }
        failed.expect(5, &["Input/output error"]);
        sandbox.run("train r.toml").expect(0, &[]);
        assert!(result(&sandbox) == expected, "failed at operation {at}");
    }
}
