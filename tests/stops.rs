//! The program under full disks, size limits and signals: it says so, leaves nothing half-done,
//! and goes on where it stopped.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{GROW, Outcome, PROGRAM, RECIPE, Sandbox, with_recipe};
use serde_json::{Value, json};

#[test]
fn full_disks_and_size_limits_leave_nothing() {
    let sandbox = Sandbox::with("gpt2-pico");
    fs::create_dir(sandbox.path("t")).unwrap();
    let before = sandbox.tree();
    let limited = format!("ulimit -f 50 && exec {PROGRAM} {GROW}");
    let limited = Outcome::of(sandbox.shell("bash", &["-c", &limited]));
    limited.expect(5, &["model.safetensors: File too large"]);
    assert!(sandbox.tree() == before);
    // A disk of 64 kB, in a mount namespace that ends with the command.
    let unshared = |script: &str| sandbox.shell("unshare", &["-Urm", "bash", "-c", script]);
    let mount = "mount -t tmpfs -o size=64k none t";
    if Outcome::of(unshared(mount)).code != Some(0) {
        eprintln!("skipped: nothing may be mounted here, so there is no full disk");
        return;
    }
    let grow = format!("{PROGRAM} grow ./m --to 4 --out t/out");
    let full = unshared(&format!(
        "{mount} && {{ {grow}; code=$?; ls -A t; exit $code; }}"
    ));
    let full = Outcome::of(full).expect(5, &["No space left", "hint: free some space"]);
    assert_eq!(full.stdout, "");
    // A run that fills its disk keeps its last checkpoint, and goes on once there is room.
    let run = with_recipe(&format!("{RECIPE}save_every_tokens = 1024\n"));
    fs::create_dir(run.path("run")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=3600k none run; {PROGRAM} train r.toml; echo first: $? >&2; \
         mount -o remount,size=20m none run; exec {PROGRAM} train r.toml"
    );
    let words = ["No space left", "first: 5", "resuming at step 4 of 40"];
    let resumed = run.shell("unshare", &["-Urm", "bash", "-c", &script]);
    Outcome::of(resumed).expect(0, &words);
}

fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed().as_secs() < 60, "waiting for {what}");
        sleep(Duration::from_millis(1));
    }
}

fn resize(path: &Path, length: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

/// A checkpoint of 300 MB of zeros, which take no space.
fn write_large_checkpoint(dir: &Path) {
    let d = 1024;
    let config = json!({ "n_layer": 2, "n_embd": d, "n_head": 16, "n_positions": 8 });
    let block = json!({
        "ln_1.weight": [d], "ln_1.bias": [d], "ln_2.weight": [d], "ln_2.bias": [d],
        "attn.c_attn.weight": [d, 3 * d], "attn.c_attn.bias": [3 * d],
        "attn.c_proj.weight": [d, d], "attn.c_proj.bias": [d],
        "mlp.c_fc.weight": [d, 4 * d], "mlp.c_fc.bias": [4 * d],
        "mlp.c_proj.weight": [4 * d, d], "mlp.c_proj.bias": [d],
    });
    let mut shapes = json!({
        "wte.weight": [50257, d], "wpe.weight": [8, d], "ln_f.weight": [d], "ln_f.bias": [d],
    });
    for (name, shape) in block.as_object().unwrap() {
        shapes[format!("h.0.{name}")] = shape.clone();
        shapes[format!("h.1.{name}")] = shape.clone();
    }
    let mut end = 0;
    for shape in shapes.as_object_mut().unwrap().values_mut() {
        let start = end;
        let extents = shape.as_array().unwrap().iter();
        end += 4 * extents.map(|n| n.as_u64().unwrap()).product::<u64>();
        *shape = json!({ "dtype": "F32", "shape": *shape, "data_offsets": [start, end] });
    }
    let header = shapes.to_string();
    let start = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("model.safetensors"), &start).unwrap();
    resize(&dir.join("model.safetensors"), start.len() as u64 + end);
}

#[test]
fn a_signal_while_saving_leaves_nothing() {
    let sandbox = Sandbox::new();
    write_large_checkpoint(&sandbox.path("m"));
    let half_written = || {
        let entries = sandbox.entries().into_iter();
        let mut others = entries.filter(|path| !path.ends_with("m"));
        others.any(|path| {
            let weights = fs::metadata(path.join("model.safetensors"));
            weights.is_ok_and(|file| file.len() > 1 << 20)
        })
    };
    for signal in [Signal::INT, Signal::TERM] {
        let child = sandbox.spawn("grow ./m --to 12 --out out --no-certificate");
        wait_until("half-written weights", half_written);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let outcome = Outcome::of_child(child).expect(75, &["nothing was published"]);
        assert_eq!(outcome.stdout, "");
        assert_eq!(sandbox.entries(), [sandbox.path("m")]);
    }
}

/// Training steps that the run has logged.
fn logged_steps(sandbox: &Sandbox) -> Vec<u64> {
    let metrics = fs::read(sandbox.path("run/metrics.jsonl")).unwrap_or_default();
    let events = serde_json::Deserializer::from_slice(&metrics).into_iter::<Value>();
    let steps = events
        .map_while(Result::ok)
        .filter(|event| event["grad_norm"].is_f64());
    steps.filter_map(|event| event["step"].as_u64()).collect()
}

/// The weights of the newest checkpoint of the run.
fn newest_weights(sandbox: &Sandbox) -> PathBuf {
    let entries = fs::read_dir(sandbox.path("run")).unwrap().flatten();
    let steps = entries.filter(|e| e.file_name().to_string_lossy().starts_with("step-"));
    let newest = steps.map(|entry| entry.path()).max().unwrap();
    newest.join("model.safetensors")
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes() {
    let recipe = format!("{RECIPE}save_every_tokens = 1024\neval_every_tokens = 2048\n");
    let train = "train r.toml";
    let whole = with_recipe(&recipe);
    whole.run(train).expect(0, &["training: 40 steps"]);
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let sandbox = with_recipe(&recipe);
        let child = sandbox.spawn(train);
        wait_until("ten steps", || logged_steps(&sandbox).last() >= Some(&10));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let stopped = Outcome::of_child(child);
        if signal == Signal::KILL {
            assert_eq!(stopped.code, None);
            // As if the power had gone as well: the newest checkpoint is damaged.
            resize(&newest_weights(&sandbox), 5000);
            sandbox
                .run(train)
                .expect(0, &["is set aside", "resuming at step"]);
        } else {
            let step = logged_steps(&sandbox).pop().unwrap();
            let saved = format!("saved at step {step} of 40");
            stopped.expect(75, &[&saved, "hint: the same command goes on"]);
            let checkpoint = format!("inspect ./run/step-{step:08}");
            sandbox.run(&checkpoint).expect(0, &[]);
            let resuming = format!("resuming at step {step} of 40");
            sandbox.run(train).expect(0, &[&resuming]);
        }
        for name in ["model.safetensors", "optimizer.safetensors"] {
            let name = format!("run/step-00000040/{name}");
            let same = sandbox.read(&name) == whole.read(&name);
            assert!(same, "{name} differs after {signal:?}");
        }
        assert_eq!(logged_steps(&sandbox), (1..=40).collect::<Vec<_>>());
        assert!(!sandbox.has_temporary());
    }
}
