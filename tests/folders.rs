//! Whose a folder is: what is the user's own is neither written over nor deleted, names in files
//! lead nowhere, and finished runs take no more disk than they have to.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sandbox::{Outcome, Sandbox};
use serde_json::{Value, json};
use support::{copy_dir, fixture};

const MARKER: &str = ".scale-ckpt.json";

const RUN: &str = r#"
out = "run"
[model]
from = "./m"
[grow]
to = 3
[data]
train = ["train.txt"]
val = ["val.txt"]
[train]
tokens = 768
batch_tokens = 128
context = 32
lr = 1e-3
save_every_tokens = 128
keep = 2
[eval]
val_tokens = 256
"#;

const COMPARISON: &str = r#"
out = "c"
seeds = [1, 2]
points = 2
[budget]
flops = 1.5e9
[sweep]
lr_factors = [0.5, 1]
share = 0.5
[base.model]
from = "./m"
[base.data]
train = ["train.txt"]
val = ["val.txt"]
[base.train]
batch_tokens = 128
context = 32
lr = 1e-2
[base.eval]
val_tokens = 256
[[arm]]
name = "continued"
[[arm]]
name = "grown"
set = { grow = { to = 3 } }
"#;

const SEARCH: &str = r#"
out = "s"
flops = 6e9
eta = 2
[candidates]
to = [3, 4]
placements = ["top", "interleave"]
[base.model]
from = "./m"
[base.data]
train = ["train.txt"]
val = ["val.txt"]
[base.train]
batch_tokens = 128
context = 32
lr = 1e-3
[base.eval]
val_tokens = 256
"#;

/// A source of two blocks, texts, items and a recipe of every kind.
fn world() -> Sandbox {
    let sandbox = Sandbox::with("hellaswag/model");
    let text = |name: &str, count: usize| {
        let text = fs::read_to_string(fixture(name)).unwrap();
        text.chars().take(count).collect::<String>()
    };
    sandbox.write("train.txt", text("prose/train.txt", 20_000));
    sandbox.write("val.txt", text("prose/val.txt", 3_000));
    let items = fs::read_to_string(fixture("hellaswag/hellaswag_val_200.jsonl")).unwrap();
    let items: Vec<&str> = items.lines().take(6).collect();
    sandbox.write("h.jsonl", items.join("\n"));
    sandbox.write("r.toml", RUN);
    sandbox.write("c.toml", COMPARISON);
    sandbox.write("s.toml", SEARCH);
    sandbox
}

/// Runs `r.toml` until a signal stops it after a step.
fn stop(sandbox: &Sandbox) {
    for at in (20..).step_by(2) {
        let mut command = sandbox.command("train r.toml");
        command.env("SCALE_CKPT_STOP_AT", at.to_string());
        let outcome = Outcome::of(command).expect(75, &[]);
        let saved = outcome.stderr.contains("saved at step");
        if saved && !outcome.stderr.contains("saved at step 0 ") {
            return;
        }
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
}

const EVAL: &str = "eval ./m --tasks hellaswag --data hellaswag=h.jsonl";

/// Every command that fills a folder, with OUT for the folder.
const WRITERS: [&str; 8] = [
    "train r.toml --set out=\"OUT\"",
    "compare c.toml --no-probe --set out=\"OUT\"",
    "search s.toml --set out=\"OUT\"",
    "eval ./m --tasks hellaswag --data hellaswag=h.jsonl --out OUT",
    "merge e1 e2 --out OUT",
    "data prepare train.txt --tokenizer ./m --val-docs 0 --out OUT",
    "grow ./m --to 3 --out OUT",
    "compare a b --out OUT",
];

/// What the writers read: shards of an evaluation, and two runs.
fn with_inputs() -> Sandbox {
    let sandbox = world();
    for (number, out) in [(1, "e1"), (2, "e2")] {
        let eval = format!("{EVAL} --shard {number}/2 --out {out}");
        sandbox.run(&eval).expect(0, &[]);
    }
    for (name, lr) in [("a", "1e-3"), ("b", "2e-3")] {
        let train = format!("train r.toml --set out=\"{name}\" --set train.lr={lr}");
        sandbox.run(&train).expect(0, &[]);
    }
    sandbox
}

fn write_all(sandbox: &Sandbox, files: &[&str]) {
    for file in files {
        let path = sandbox.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("mine: {file}")).unwrap();
    }
}

#[test]
fn a_folder_in_use_is_refused_and_left_as_it_is() {
    let sandbox = with_inputs();
    write_all(
        &sandbox,
        &[
            "project/recipe.toml",
            "project/report.json",
            "project/report.html",
            "project/manifest.json",
            "project/.tmp-notes",
            "project/step-00000002/notes.txt",
            "project/items/list.txt",
            "project/runs/a.txt",
            // Names that are ours, contents that are not.
            "named/inputs.json",
            "named/evaluation.json",
            "named/manifest.unfinished.json",
            "named/growth.json",
            "named/.lock",
            "named/.scale-ckpt.json",
        ],
    );
    for out in ["project", "named", "m"] {
        for writer in WRITERS {
            let args = writer.replace("OUT", out);
            sandbox.refuses(&args, 2, &[out, "hint: "]);
        }
        let forced = [
            "grow ./m --to 3 --force --out",
            "data prepare train.txt --tokenizer ./m --force --out",
        ];
        for writer in forced {
            sandbox.refuses(&format!("{writer} {out}"), 2, &[out, "hint: "]);
        }
    }
    // The folder itself, by its shortest name.
    let before = sandbox.tree();
    for writer in WRITERS.iter().filter(|writer| !writer.starts_with("merge")) {
        sandbox.refuses(&writer.replace("OUT", "."), 2, &["hint: "]);
    }
    assert!(sandbox.tree() == before);
    // Nor is a link to what is not there, or a folder within one.
    std::os::unix::fs::symlink("gone", sandbox.path("link")).unwrap();
    for writer in WRITERS {
        for out in ["link", "link/within"] {
            let words = ["link is a link to gone, which is not there", "hint: "];
            sandbox.refuses(&writer.replace("OUT", out), 2, &words);
        }
    }
    // A folder of one kind is not taken for another; a file is no folder.
    sandbox.refuses(
        "train r.toml --set out=\"e1\"",
        2,
        &["an evaluation's folder, not a run's"],
    );
    sandbox.refuses(
        &format!("{EVAL} --out a"),
        2,
        &["a run's folder, not an evaluation's"],
    );
    sandbox.refuses(
        "compare a b --out a",
        2,
        &["a run's folder, not a comparison's"],
    );
    sandbox.refuses(
        "train r.toml --set out=\"val.txt\"",
        2,
        &["val.txt is a file"],
    );
}

#[test]
fn an_empty_folder_is_filled_by_every_command() {
    let sandbox = with_inputs();
    for (number, writer) in WRITERS.iter().enumerate() {
        for (kind, left) in [("empty", None), ("systems", Some(".DS_Store"))] {
            let out = format!("{kind}-{number}");
            fs::create_dir(sandbox.path(&out)).unwrap();
            if let Some(name) = left {
                sandbox.write(&format!("{out}/{name}"), "x");
            }
            sandbox.run(&writer.replace("OUT", &out)).expect(0, &[]);
            let filled = fs::read_dir(sandbox.path(&out)).unwrap().count();
            assert!(filled > 1, "{writer}");
            assert!(!sandbox.has_temporary(), "{writer}");
        }
    }
    // The working folder.
    let from_within = |args: &str, dir: &str| {
        let mut command = sandbox.command(args);
        command.current_dir(sandbox.path(dir));
        Outcome::of(command).expect(0, &[]);
    };
    for (dir, args) in [
        ("here", "grow ../m --to 3 --out ."),
        (
            "shards",
            "data prepare ../train.txt --tokenizer ../m --val-docs 0 --out .",
        ),
    ] {
        fs::create_dir(sandbox.path(dir)).unwrap();
        from_within(args, dir);
    }
    sandbox.run("inspect ./here").expect(0, &[]);
    assert!(sandbox.path("shards/shards_train_000001.bin").exists());
    // A failure leaves an empty folder that was there before.
    fs::create_dir(sandbox.path("kept")).unwrap();
    sandbox.write("nothing.txt", "\n");
    sandbox.refuses(
        "data prepare nothing.txt --tokenizer ./m --out kept",
        3,
        &["no documents"],
    );
    assert!(sandbox.path("kept").is_dir());
}

#[test]
fn what_the_user_puts_into_a_runs_folder_stays() {
    let sandbox = world();
    sandbox
        .run("train r.toml --set train.tokens=768")
        .expect(0, &[]);
    let undisturbed = sandbox.read("run/step-00000006/model.safetensors");
    fs::remove_dir_all(sandbox.path("run")).unwrap();
    let reached = |step: u64| sandbox.path(&format!("run/step-{step:08}")).exists();
    for at in (100..).step_by(10) {
        let mut command = sandbox.command("train r.toml");
        command.env("SCALE_CKPT_KILL_AT", at.to_string());
        assert_eq!(Outcome::of(command).code, None);
        if reached(3) {
            break;
        }
        fs::remove_dir_all(sandbox.path("run")).unwrap();
    }
    assert!(!reached(6));
    let mine = [
        "run/.tmp-notes",
        "run/.tmp-x/inside.txt",
        "run/.step-00000001.tmp-abc/inside.txt",
        "run/.grown.tmp-0123456789abcdef-x",
        "run/step-1/weights.txt",
        "run/step-00000003-good/weights.txt",
        "run/step-best/weights.txt",
        "run/damaged-1-step-00000001/weights.txt",
        "run/grown-02/weights.txt",
        "run/notes.md",
    ];
    write_all(&sandbox, &mine);
    // Beside the files of a checkpoint that is about to be pruned.
    let steps = fs::read_dir(sandbox.path("run")).unwrap().flatten();
    let mut steps: Vec<PathBuf> = steps
        .map(|entry| entry.path())
        .filter(|path| path.join("trainer_state.json").exists())
        .collect();
    steps.sort();
    let oldest = steps[0].join("scores.txt");
    fs::write(&oldest, "mine").unwrap();
    sandbox.run("train r.toml").expect(0, &["resuming at step"]);
    for name in mine {
        assert_eq!(
            sandbox.read(name),
            format!("mine: {name}").as_bytes(),
            "{name}"
        );
    }
    assert_eq!(fs::read(oldest).unwrap(), b"mine");
    assert!(sandbox.read("run/step-00000006/model.safetensors") == undisturbed);
    // Where a checkpoint is to stand.
    fs::rename(sandbox.path("run/step-00000006"), sandbox.path("kept")).unwrap();
    write_all(&sandbox, &["run/step-00000006/weights.txt"]);
    let words = ["run/step-00000006: in the way", "hint: move it"];
    sandbox.refuses("train r.toml", 3, &words);
}

#[test]
fn folders_without_a_marker_go_on() {
    let sandbox = world();
    stop(&sandbox);
    sandbox.run(&format!("{EVAL} --out e")).expect(0, &[]);
    sandbox.run("compare c.toml --no-probe").expect(0, &[]);
    sandbox.run("search s.toml").expect(0, &[]);
    for out in ["run", "e", "c", "s"] {
        fs::remove_file(sandbox.path(&format!("{out}/{MARKER}"))).unwrap();
        // As an older version wrote it.
        sandbox.write(&format!("{out}/.lock"), "process 1\n");
    }
    sandbox.run("train r.toml").expect(0, &["resuming at step"]);
    sandbox.run(&format!("{EVAL} --out e")).expect(0, &[]);
    sandbox.run("compare c.toml --no-probe").expect(0, &[]);
    sandbox.run("search s.toml").expect(0, &[]);
    sandbox.run("clean run c s").expect(0, &[]);
    let marker: Value = serde_json::from_slice(&sandbox.read(&format!("run/{MARKER}"))).unwrap();
    assert_eq!(
        (&marker["tool"], &marker["kind"]),
        (&"scale-ckpt".into(), &"run".into())
    );
}

/// Changes one place of a JSON file.
fn edit(sandbox: &Sandbox, name: &str, pointer: &str, value: Value) {
    let mut found: Value = serde_json::from_slice(&sandbox.read(name)).unwrap();
    *found.pointer_mut(pointer).unwrap() = value;
    sandbox.write(name, found.to_string());
}

#[test]
fn names_in_files_lead_nowhere() {
    let sandbox = with_inputs();
    write_all(
        &sandbox,
        &[
            "victim/results_scale-ckpt.json",
            "victim/samples_hellaswag.jsonl",
            "victim/notes.txt",
        ],
    );
    let absolute = sandbox.path("victim").display().to_string();
    let whole = format!("{EVAL} --out e");
    sandbox.run(&whole).expect(0, &[]);
    let originals: Vec<Vec<u8>> = ["e", "e1", "e2"]
        .map(|out| sandbox.read(&format!("{out}/evaluation.json")))
        .to_vec();
    let names = [
        "../victim",
        &absolute,
        "",
        ".",
        "..",
        "items",
        "m/../../victim",
        "x",
        "a\u{1b}[2J",
    ];
    let cases = names
        .map(|name| ("/models/0/slug", json!(name)))
        .into_iter()
        .chain([
            ("/tasks/0/task", json!("../../victim/samples_hellaswag")),
            ("/tasks/0/task", json!("mine")),
            ("/tasks/0/task", json!("blimp")),
            ("/shard", json!({ "number": 0, "of": 0 })),
            ("/shard", json!({ "number": 3, "of": 2 })),
        ]);
    for (pointer, value) in cases {
        for out in ["e", "e1", "e2"] {
            edit(
                &sandbox,
                &format!("{out}/evaluation.json"),
                pointer,
                value.clone(),
            );
        }
        let named = ["evaluation.json: ", "hint: "];
        sandbox.refuses("merge e1 e2 --out merged", 3, &named);
        if pointer == "/shard" {
            sandbox.refuses(&format!("{EVAL} --shard 1/2 --out e1"), 3, &named);
        } else {
            sandbox.refuses(&format!("{whole} --num-fewshot 0 --limit 3"), 3, &named);
        }
        for (out, original) in ["e", "e1", "e2"].iter().zip(&originals) {
            sandbox.write(&format!("{out}/evaluation.json"), original);
        }
    }
    sandbox.run("merge e1 e2 --out merged").expect(0, &[]);
    // A manifest of shards that lists what is no shard.
    let prepare = "data prepare train.txt --tokenizer ./m --val-docs 0 --out d";
    sandbox.run(prepare).expect(0, &[]);
    write_all(&sandbox, &["d/notes.txt", "d/d_train_000009.bin"]);
    let manifest = sandbox.read("d/manifest.json");
    for name in [
        "../victim/notes.txt",
        "notes.txt",
        "../d/notes.txt",
        "d_train_1.bin",
    ] {
        edit(&sandbox, "d/manifest.json", "/shards/0/name", json!(name));
        sandbox.refuses(
            &format!("{prepare} --force"),
            2,
            &["not made by `data prepare`"],
        );
    }
    sandbox.write("d/manifest.json", manifest);
    // One that is called as a shard will be, and is on no list.
    sandbox.refuses(&format!("{prepare} --force"), 2, &["d_train_000009.bin"]);
    // The manifest of a checkpoint, the index of its weights.
    let listed = String::from_utf8(sandbox.read("b/step-00000006/manifest.json")).unwrap();
    let listed = listed.replacen("\"config.json\"", "\"../../victim/notes.txt\"", 1);
    sandbox.write("b/step-00000006/manifest.json", listed);
    sandbox
        .run("train r.toml --set out=\"b\" --set train.lr=2e-3")
        .expect(
            0,
            &[
                "is set aside",
                "`../../victim/notes.txt` is not the name of a file within",
            ],
        );
    let index = json!({ "weight_map": { "wte.weight": "../m/model.safetensors" } });
    fs::create_dir(sandbox.path("split")).unwrap();
    fs::copy(
        sandbox.path("m/config.json"),
        sandbox.path("split/config.json"),
    )
    .unwrap();
    sandbox.write("split/model.safetensors.index.json", index.to_string());
    sandbox.refuses("inspect ./split", 3, &["is not a plain file name"]);
    for file in [
        "results_scale-ckpt.json",
        "samples_hellaswag.jsonl",
        "notes.txt",
    ] {
        let name = format!("victim/{file}");
        assert_eq!(sandbox.read(&name), format!("mine: {name}").as_bytes());
    }
}

/// Folders of models below a folder: checkpoints, and what was grown.
fn models(sandbox: &Sandbox, out: &str) -> Vec<String> {
    fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
        for path in fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if path.join("model.safetensors").exists() {
                found.push(path);
            } else if path.is_dir() {
                collect(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    collect(&sandbox.path(out), &mut found);
    let relative = |path: PathBuf| {
        let path = path.strip_prefix(sandbox.path(out)).unwrap().to_owned();
        path.display().to_string()
    };
    let mut found: Vec<String> = found.into_iter().map(relative).collect();
    found.sort();
    found
}

/// Small files below a folder, without times.
fn records(sandbox: &Sandbox, out: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut tree = sandbox.tree();
    let root = sandbox.path(out);
    let is_record = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy();
        ["report.json", "run.json", "items.json", "winner.toml"].contains(&&*name)
    };
    tree.retain(|path, _| path.starts_with(&root) && is_record(path));
    tree
}

/// Bytes of files below a folder whose names end so.
fn bytes_below(sandbox: &Sandbox, out: &str, end: &str) -> u64 {
    let root = sandbox.path(out);
    let ends = |path: &Path| path.to_string_lossy().ends_with(end);
    let tree = sandbox.tree();
    let files = tree
        .iter()
        .filter(|(path, _)| path.starts_with(&root) && ends(path));
    files.map(|(_, bytes)| bytes.len() as u64).sum()
}

/// What was said in f32 is there, where a source in f16 is grown in f16.
#[track_caller]
fn about(found: u64, said: u64) {
    let share = found as f64 / said as f64;
    assert!((0.9..1.02).contains(&share), "{found} found, {said} said");
}

#[test]
fn a_comparison_keeps_what_is_needed_and_clean_frees_the_rest() {
    let sandbox = world();
    let dry = |keep: &str| -> Value {
        let args = format!("compare c.toml --no-probe --dry-run --json --keep {keep}");
        serde_json::from_str(&sandbox.run(&args).expect(0, &[]).stdout).unwrap()
    };
    let said = [dry("needed"), dry("all")].map(|plan| plan["disk_bytes"].as_u64().unwrap());
    sandbox.run("compare c.toml --no-probe").expect(0, &[]);
    let kept = models(&sandbox, "c");
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert!(
        kept.iter()
            .all(|path| path.starts_with("runs/") && path.contains("/step-"))
    );
    let weights = bytes_below(&sandbox, "c", ".safetensors");
    about(weights, said[0]);
    // A second time, alone, and of the runs.
    let before = records(&sandbox, "c");
    assert!(before.len() > 12);
    sandbox
        .run("compare c.toml --no-probe --only grown")
        .expect(0, &[]);
    assert!(records(&sandbox, "c") == before);
    let of_runs = |sandbox: &Sandbox| {
        let table = sandbox.run("compare c/runs/* --json").expect(0, &[]).stdout;
        serde_json::from_str::<Value>(&table).unwrap()
    };
    let found = of_runs(&sandbox);

    let all = world();
    all.run("compare c.toml --no-probe --keep all")
        .expect(0, &[]);
    assert_eq!(
        models(&all, "c").len(),
        4 + 4 + 2 + 2,
        "{:?}",
        models(&all, "c")
    );
    let weights = bytes_below(&all, "c", ".safetensors");
    about(weights, said[1]);
    let losses = |found: &Value| {
        let arms = found["arms"].as_array().unwrap().clone();
        arms.into_iter()
            .map(|arm| arm["finals"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(losses(&of_runs(&all)), losses(&found));
    // Shown first, and then freed.
    let whole = bytes_below(&all, "c", "");
    let records_of_all = records(&all, "c");
    let before = all.tree();
    let shown = all.run("clean c --json").expect(0, &[]).stdout;
    // A run beside the comparison that holds it.
    let runs = fs::read_dir(all.path("c/runs")).unwrap();
    let run = runs.map(|run| run.unwrap().path()).min().unwrap();
    let beside = format!("clean c {} --json", run.display());
    assert_eq!(all.run(&beside).expect(0, &[]).stdout, shown);
    assert!(all.tree() == before);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["items"].as_array().unwrap().len(), 4 + 2 + 2);
    all.run("clean c --yes").expect(0, &[]);
    assert_eq!(models(&all, "c"), kept);
    let freed = whole - bytes_below(&all, "c", "");
    let promised = shown["bytes"].as_u64().unwrap();
    assert!(
        freed <= promised && promised - freed < 100_000,
        "{freed}, {promised} promised"
    );
    assert!(records(&all, "c") == records_of_all);
    assert_eq!(losses(&of_runs(&all)), losses(&found));
    assert_eq!(
        all.run("clean c").expect(0, &[]).stdout,
        "nothing to free\n"
    );
    // Everything, when asked.
    all.run("clean c --last --yes").expect(0, &[]);
    assert!(models(&all, "c").is_empty());
    all.run("compare c.toml --no-probe").expect(0, &[]);
    assert!(models(&all, "c").is_empty(), "nothing is trained again");
    assert_eq!(losses(&of_runs(&all)), losses(&found));
}

#[test]
fn a_search_keeps_the_winner() {
    let sandbox = world();
    sandbox.run("search s.toml --keep all").expect(0, &[]);
    assert!(models(&sandbox, "s").len() > 4);
    let report = records(&sandbox, "s");
    sandbox.run("clean s --yes").expect(0, &[]);
    let left = models(&sandbox, "s");
    let winner: Value = serde_json::from_slice(&sandbox.read("s/report.json")).unwrap();
    let winner = winner["winner"].as_str().unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(
        left[0].starts_with(&format!("runs/{winner}-rung-")),
        "{left:?}"
    );
    assert!(records(&sandbox, "s") == report);

    let frugal = world();
    let dry = frugal.run("search s.toml --dry-run").expect(0, &[]);
    assert!(dry.stdout.contains("disk: about"), "{}", dry.stdout);
    frugal.run("search s.toml").expect(0, &[]);
    assert_eq!(models(&frugal, "s"), left);
    assert!(frugal.read("s/winner.toml") == sandbox.read("s/winner.toml"));
    let before = frugal.tree();
    frugal.run("search s.toml").expect(0, &[]);
    assert!(frugal.tree() == before, "a second time changed something");
}

#[test]
fn clean_takes_nothing_that_a_run_may_go_on_from() {
    let sandbox = world();
    stop(&sandbox);
    let before = sandbox.tree();
    let cleaned = sandbox.run("clean run --yes --last").expect(0, &[]);
    assert_eq!(cleaned.stdout, "nothing to free\n");
    assert!(sandbox.tree() == before);
    sandbox.run("train r.toml").expect(0, &["resuming at step"]);
    let finished = models(&sandbox, "run");
    assert_eq!(finished, ["grown", "step-00000005", "step-00000006"]);
    // In use, and not all ours.
    let lock = fs::File::open(sandbox.path("run/.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    sandbox.refuses("clean run", 8, &["run is in use by process"]);
    drop(lock);
    sandbox.write("run/step-00000005/notes.txt", "mine");
    let report = sandbox.read("run/report.json");
    // However often and under whatever names a run is named, it is counted once.
    std::os::unix::fs::symlink("run", sandbox.path("alias")).unwrap();
    let json = |args: &str| {
        let shown = sandbox.run(args).expect(0, &[]).stdout;
        serde_json::from_str::<Value>(&shown).unwrap()
    };
    let thrice = "clean ./run run alias --json";
    assert_eq!(json("clean ./run --json"), json(thrice));
    fs::remove_file(sandbox.path("alias")).unwrap();
    let words = ["step-00000005 stays: it holds `notes.txt`"];
    let cleaned = sandbox.run("clean run --yes").expect(0, &words);
    assert!(cleaned.stdout.contains("freed"), "{}", cleaned.stdout);
    assert_eq!(models(&sandbox, "run"), ["step-00000005", "step-00000006"]);
    // The report is there, and nothing is trained again.
    let before = sandbox.tree();
    let again = sandbox.run("train r.toml").expect(0, &["finished"]);
    assert!(
        again.stdout.contains("checkpoint: run/step-00000006"),
        "{}",
        again.stdout
    );
    assert!(sandbox.tree() == before);
    sandbox.run("clean run --yes --last").expect(0, &[]);
    assert_eq!(models(&sandbox, "run"), ["step-00000005"]);
    sandbox.run("train r.toml --json").expect(0, &["finished"]);
    assert!(sandbox.read("run/report.json") == report);
    // Another folder with the same names is nobody's run.
    copy_dir(&sandbox.path("m"), &sandbox.path("other/step-00000001"));
    sandbox.refuses(
        "clean other --yes",
        2,
        &["other: not the folder of a run", "hint: "],
    );
    sandbox.refuses("clean nowhere", 3, &["nowhere: no folder there"]);
    sandbox.refuses("clean e", 3, &["e: no folder"]);
}

#[test]
fn plan_says_what_stays_on_disk() {
    let sandbox = world();
    let plan = sandbox
        .run("plan r.toml --no-probe --json")
        .expect(0, &[])
        .stdout;
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let said = ["disk_bytes", "disk_peak_bytes"].map(|key| plan[key].as_u64().unwrap());
    sandbox.run("train r.toml").expect(0, &[]);
    let found: u64 = models(&sandbox, "run")
        .iter()
        .map(|model| bytes_below(&sandbox, &format!("run/{model}"), ".safetensors"))
        .sum();
    about(found, said[0]);
    assert!(said[1] > said[0]);
}
