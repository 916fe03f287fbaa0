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
use support::fixture;

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

/// A recipe of stages whose ends fall, as often as not, on evaluations, scores and saves that are
/// due; and the number of its steps.
fn drawn(rng: &mut ChaCha8Rng) -> (String, u64) {
    let (sources, _) = RECIPE.split_once("[train]").unwrap();
    let mut pick = |from: &[u64]| from[rng.random_range(0..from.len())];
    let mut recipe = format!(
        "{sources}[train]\nbatch_tokens = 128\ncontext = 32\nmicro_batch = {}\nlr = 1e-3\n\
         eval_every_tokens = {}\nsave_every_tokens = {}\nwakeup_steps = {}\nkeep = {}\n",
        pick(&[1, 4]),
        128 * pick(&[1, 2, 3]),
        128 * pick(&[1, 2, 5]),
        pick(&[0, 1, 2]),
        pick(&[1, 3]),
    );
    let (mut steps, mut depth) = (0, 2);
    for stage in 0..pick(&[2, 3, 4]) {
        let count = pick(&[1, 2, 3]);
        steps += count;
        recipe += &format!("[[stage]]\ntokens = {}\n", 128 * count);
        if stage == 0 {
            continue;
        }
        if pick(&[0, 1, 1]) == 1 {
            depth += 1;
            let init = ["random", "copy", "zero-residual"][pick(&[0, 1, 2]) as usize];
            recipe +=
                &format!("grow = {{ to = {depth}, placement = \"top\", init = \"{init}\" }}\n");
            recipe += ["", "trainable = [\"new\"]\n"][pick(&[0, 1]) as usize];
        }
        let policy =
            ["fresh", "inherit", "inherit-step-0", "zero-new"][pick(&[0, 1, 2, 3]) as usize];
        recipe += &format!("optimizer = \"{policy}\"\n");
    }
    recipe += &format!(
        "[eval]\ntasks = [\"hellaswag_completion\"]\ndata = {{ hellaswag = \"h.jsonl\" }}\nlimit = 3\n\
         every_tokens = {}\nprompt = \"It was\"\n",
        128 * pick(&[1, 2, 3]),
    );
    (recipe, steps)
}

/// With the items that drawn recipes score.
fn with_drawn(recipe: &str) -> Sandbox {
    let sandbox = with_recipe(recipe);
    let items = fixture("hellaswag/hellaswag_val_200.jsonl");
    std::fs::copy(items, sandbox.path("h.jsonl")).unwrap();
    sandbox
}

/// All that a run leaves but times: metrics line by line, records, and the last checkpoint.
fn all_of(sandbox: &Sandbox, steps: u64) -> (Vec<Value>, Vec<Vec<u8>>) {
    let checkpoint = [
        "model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
    ]
    .map(|name| format!("step-{steps:08}/{name}"));
    let records = ["run.json", "before.json", "items.json", "report.json"].map(str::to_owned);
    let names = checkpoint.iter().chain(&records);
    let files = names.map(|name| sandbox.read(&format!("run/{name}")));
    (events(sandbox), files.collect())
}

#[track_caller]
fn same(sandbox: &Sandbox, expected: &(Vec<Value>, Vec<Vec<u8>>), steps: u64, what: &str) {
    let (metrics, files) = all_of(sandbox, steps);
    for (number, (found, expected)) in metrics.iter().zip(&expected.0).enumerate() {
        assert_eq!(found, expected, "{what}: line {}", number + 1);
    }
    assert_eq!(metrics.len(), expected.0.len(), "{what}");
    assert!(files == expected.1, "{what}: records or weights differ");
    assert!(!sandbox.has_temporary(), "{what}");
}

/// Whether the last step that was logged still lacks its loss or its scores.
fn is_owed(events: &[Value]) -> bool {
    let steps = events.iter().filter(|event| event["grad_norm"].is_f64());
    let Some(step) = steps.filter_map(|event| event["step"].as_u64()).max() else {
        return false;
    };
    let has = |key: &str| {
        let mut of_step = events.iter().filter(|event| event["step"] == step);
        of_step.any(|event| event.get(key).is_some())
    };
    step < STEPS as u64 && !(has("val_loss") && has("tasks"))
}

/// A signal at the moments at which one is noticed: while data is read, models are scored, grown,
/// trained, validated, and in between. Of a growth, which looks hundreds of times, some.
#[test]
fn a_run_stopped_at_any_moment_logs_what_one_does_that_was_not() {
    let recipe = staged().replace("eval_every_tokens = 256", "eval_every_tokens = 128")
        + "[eval]\ntasks = [\"hellaswag_completion\"]\ndata = { hellaswag = \"h.jsonl\" }\n\
           limit = 2\nevery_tokens = 128\n";
    let whole = with_drawn(&recipe);
    whole.run("train r.toml").expect(0, &[]);
    let expected = all_of(&whole, STEPS as u64);
    let (mut at, mut stride, mut slow, mut message) = (1, 1, 0, String::new());
    let mut owed = Vec::new();
    loop {
        let sandbox = with_drawn(&recipe);
        let stopped = killed_at(&sandbox, "SCALE_CKPT_STOP_AT", at);
        let said = match stopped.code {
            Some(0) => String::new(),
            _ => {
                stopped
                    .expect(75, &["interrupted: ", "hint: the same command goes on"])
                    .stderr
            }
        };
        let said = said.split("interrupted: ").last().unwrap_or_default();
        if said != message && stride > 1 {
            // Something new: one by one from the last look until after it.
            (at, stride, slow) = (at - stride + 1, 1, at + 4);
            continue;
        }
        if said.is_empty() {
            break;
        }
        if sandbox.path("run/metrics.jsonl").exists() && is_owed(&events(&sandbox)) {
            owed.push(said.to_owned());
        }
        sandbox.run("train r.toml").expect(0, &[]);
        let what = format!("stopped at look {at}");
        same(&sandbox, &expected, STEPS as u64, &what);
        stride = if at < slow || said != message {
            1
        } else {
            (2 * stride).min(32)
        };
        message = said.to_owned();
        at += stride;
    }
    // Of every step, its loss and its scores: at the ends of stages, too.
    for step in 1..STEPS {
        let saved = format!("saved at step {step} of");
        let count = owed.iter().filter(|said| said.starts_with(&saved)).count();
        assert!(count >= 2, "{count} of step {step}");
    }
}

/// Drawn recipes, stopped and killed again and again until they are done.
#[test]
fn drawn_recipes_log_the_same_however_often_they_are_stopped() {
    for seed in 0..8 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (recipe, steps) = drawn(&mut rng);
        let whole = with_drawn(&recipe);
        whole.run("train r.toml").expect(0, &[]);
        let expected = all_of(&whole, steps);
        let sandbox = with_drawn(&recipe);
        let mut stops = 0;
        loop {
            let (how, most) = match rng.random_range(0..3) {
                0 => ("SCALE_CKPT_KILL_AT", 60),
                _ => ("SCALE_CKPT_STOP_AT", 25),
            };
            let at = rng.random_range(1..=most);
            if killed_at(&sandbox, how, at).code == Some(0) {
                break;
            }
            stops += 1;
            assert!(stops < 500, "{recipe}\ndoes not get on");
        }
        same(
            &sandbox,
            &expected,
            steps,
            &format!("{recipe}\nafter {stops} stops"),
        );
    }
}
