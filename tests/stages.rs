//! Runs of several stages, from the command line: what each stage trains, and that a run killed
//! at any moment ends with the bytes of one that was not.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandbox::{Outcome, RECIPE, Sandbox, TOKENIZER, with_recipe};
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
    let mut events = sandbox.events();
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

/// Kills a run at every `stride`-th operation on a published file, lets it go on, and compares
/// with one that was left alone. Says how many moments that were.
fn killed_everywhere(make: &dyn Fn() -> Sandbox, stride: usize) -> usize {
    let whole = make();
    whole.run("train r.toml").expect(0, &[]);
    let expected = result(&whole);
    for (moments, at) in (1..).step_by(stride).enumerate() {
        let sandbox = make();
        if killed_at(&sandbox, "SCALE_CKPT_KILL_AT", at).code.is_some() {
            return moments;
        }
        sandbox.run("train r.toml").expect(0, &[]);
        assert!(result(&sandbox) == expected, "killed at operation {at}");
        assert!(!sandbox.has_temporary(), "killed at operation {at}");
    }
    unreachable!("a run ends")
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bytes() {
    for recipe in [
        staged(),
        staged().replace("micro_batch = 1", "micro_batch = 4"),
    ] {
        let moments = killed_everywhere(&|| with_recipe(&recipe), 5);
        assert!(moments >= 30, "{moments} moments");
    }
}

/// Shards of 100, 33 and 180 ids: 9 windows of 32 in an epoch, which steps of 4 windows cross,
/// as the windows cross the edges of shards.
fn with_shards() -> Sandbox {
    let sandbox = Sandbox::with("gpt2-pico");
    sandbox.write("m/tokenizer.json", TOKENIZER);
    let mut ids = (0_u16..).map(|i| (i.wrapping_mul(40_503) >> 7) % 64);
    for (name, count) in [("a", 100), ("b", 33), ("c", 180)] {
        let bytes: Vec<u8> = ids
            .by_ref()
            .take(count)
            .flat_map(u16::to_le_bytes)
            .collect();
        sandbox.write(&format!("{name}.bin"), bytes);
    }
    let recipe = staged()
        .replace(r#"["train.txt"]"#, r#"["a.bin", "b.bin", "c.bin"]"#)
        .replace(r#"["val.txt"]"#, r#"["c.bin"]"#)
        .replace("save_every_tokens = 256", "save_every_tokens = 128");
    sandbox.write("r.toml", recipe);
    sandbox
}

#[test]
fn a_run_goes_on_at_the_edges_of_shards_and_epochs() {
    assert!(killed_everywhere(&with_shards, 17) >= 10);
    let sandbox = with_shards();
    let text = String::from_utf8(sandbox.read("r.toml")).unwrap();
    let contiguous = text.replace("[data]", "[data]\norder = \"contiguous\"");
    let make = || {
        let sandbox = with_shards();
        sandbox.write("r.toml", &contiguous);
        sandbox
    };
    assert!(killed_everywhere(&make, 47) >= 5);
}

#[test]
fn a_run_killed_ten_times_at_random_ends_with_the_same_bytes() {
    let whole = with_recipe(&staged());
    let started = Instant::now();
    whole.run("train r.toml").expect(0, &[]);
    let span = started.elapsed();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut sandbox = with_recipe(&staged());
    for _ in 0..10 {
        let mut child = sandbox.spawn("train r.toml");
        sleep(span.mul_f64(rng.random_range(0.0..1.0)) + Duration::from_millis(1));
        let _ = child.kill();
        let outcome = Outcome::of_child(child);
        if outcome.code == Some(0) {
            // It was done already: from the start, then.
            assert!(result(&sandbox) == result(&whole));
            sandbox = with_recipe(&staged());
        }
    }
    sandbox.run("train r.toml").expect(0, &[]);
    assert!(result(&sandbox) == result(&whole));
}

#[test]
fn plan_says_what_the_run_will_report() {
    let sandbox = with_recipe(&staged());
    let before = sandbox.tree();
    let planned = sandbox.run("plan r.toml --json").expect(0, &[]);
    let plan: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert!(plan["time"]["seconds"].as_f64().unwrap() > 0.0);
    let table = sandbox.run("plan r.toml --no-probe").expect(0, &[]);
    for word in [
        "3 grown",
        "4 grown",
        "in all",
        "memory: at least",
        "time: unknown",
    ] {
        assert!(table.stdout.contains(word), "{word}:\n{}", table.stdout);
    }
    assert!(sandbox.tree() == before, "plan wrote something");
    let without = sandbox
        .run("plan r.toml --no-probe --set data.train=[\"none.txt\"]")
        .expect(0, &["warning: ", "none.txt"]);
    assert_eq!(without.stdout, table.stdout);
    sandbox.run("train r.toml").expect(0, &[]);
    let report: Value = serde_json::from_slice(&sandbox.read("run/report.json")).unwrap();
    assert_eq!(plan["cost"], report["cost"]);
    let depths: Vec<_> = (0..3)
        .map(|i| plan["stages"][i]["n_layer"].as_u64())
        .collect();
    assert_eq!(depths, [Some(2), Some(3), Some(4)]);
    let trained = |stage: usize, key: &str| plan["stages"][stage][key].as_u64().unwrap();
    assert!(trained(1, "trained_parameters") < trained(1, "parameters") / 2);
    assert_eq!(trained(2, "trained_parameters"), trained(2, "parameters"));
    assert!(trained(1, "memory_bytes") < trained(2, "memory_bytes"));
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
