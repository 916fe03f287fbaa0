//! The shipped recipes: every one is consistent, and does what its name says.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use safetensors::SafeTensors;
use sandbox::{Outcome, PROGRAM, Sandbox};
use scale_ckpt::account::Account;
use scale_ckpt::checkpoint::Gpt2Config;
use scale_ckpt::eval::task::tasks_named;
use scale_ckpt::recipe::{self, ModelSource, Recipe, load_family};
use scale_ckpt::stages::{self, Origin, PlannedStage};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Planned {
    recipe: Recipe,
    stages: Vec<PlannedStage>,
    account: Account,
}

/// Reads and plans a recipe, as `train` would.
fn planned(path: &Path) -> Planned {
    let name = path.display();
    let recipe = recipe::load(path, &[])
        .unwrap_or_else(|e| panic!("{name}: {e}"))
        .recipe;
    let config = match &recipe.model {
        ModelSource::From(source) if source == "gpt2" => {
            Gpt2Config::new(50257, 1024, 768, 12, 12).unwrap()
        }
        ModelSource::From(source) => {
            Gpt2Config::load(&repository().join(source).join("config.json")).unwrap()
        }
        ModelSource::Scratch(scratch) => scratch.config().unwrap(),
    };
    let scratch = matches!(recipe.model, ModelSource::Scratch(_));
    let origin = Origin {
        config: &config,
        new_layers: (0..config.n_layer).filter(|_| scratch).collect(),
    };
    let fits = recipe.train.check(config.n_positions);
    fits.unwrap_or_else(|e| panic!("{name}: {e}"));
    let stages = stages::plan(&recipe.train, &recipe.stages, recipe.grow.as_ref(), &origin)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let account = Account::new(&stages, &config, &recipe.train);
    Planned {
        recipe,
        stages,
        account,
    }
}

fn shipped(name: &str) -> Planned {
    planned(&repository().join("recipes").join(name))
}

#[test]
fn the_shipped_family_names_tasks_that_exist() {
    let family = load_family(&repository().join("recipes/family.toml")).unwrap();
    assert!(!family.models.is_empty() && family.out.is_some());
    assert!(family.tasks.len() > 5);
    for task in &family.tasks {
        assert!(!tasks_named(task).unwrap().is_empty());
    }
}

/// Whether a recipe is not of a run, but of an evaluation, a comparison or a search.
fn is_of_many(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    let kinds = ["family", "compare", "search"];
    kinds.iter().any(|kind| name.starts_with(kind))
}

#[test]
fn every_shipped_recipe_is_sound() {
    let mut seen = Vec::new();
    for folder in ["recipes", "recipes/small"] {
        let entries = fs::read_dir(repository().join(folder)).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "toml") && !is_of_many(path));
        for path in paths {
            let planned = planned(&path);
            assert!(!planned.stages.is_empty());
            seen.push(path.file_stem().unwrap().to_string_lossy().into_owned());
        }
    }
    let twins = [
        "scratch-full",
        "incremental-4-faithful",
        "incremental-4-fixed",
        "incremental-8-faithful",
        "incremental-8-fixed",
        "incremental-12-faithful",
        "incremental-12-fixed",
        "incremental-4-no-freezing",
        "llama-pro",
        "gradual-stacking",
        "mslt",
    ];
    for name in twins {
        assert_eq!(
            seen.iter().filter(|seen| *seen == name).count(),
            2,
            "{name}"
        );
    }
    assert!(
        ["continue", "quickstart"]
            .iter()
            .all(|name| seen.contains(&(*name).to_owned()))
    );
}

/// What the code published with arXiv 2411.18700 does, read from it: steps of a phase, depths.
#[test]
fn the_faithful_recipes_have_the_steps_of_the_published_code() {
    for (stages, steps, depths) in [
        (4, 1250, vec![3, 6, 9, 12]),
        (8, 625, (1..=8).collect()),
        (12, 416, (1..=12).collect()),
    ] {
        let planned = shipped(&format!("incremental-{stages}-faithful.toml"));
        let train = &planned.recipe.train;
        assert_eq!(train.sequences() * train.context, 524_288);
        assert_eq!((train.micro_batch(), train.grad_accum()), (32, 16));
        let (continual, phases) = planned.stages.split_last().unwrap();
        let found: Vec<_> = phases.iter().map(|s| (s.n_layer, s.stage.steps)).collect();
        let expected: Vec<_> = depths.iter().flat_map(|&d| [(d, steps); 2]).collect();
        assert_eq!(found, expected);
        assert_eq!(continual.stage.steps, 10_000);
        for PlannedStage { stage, .. } in &planned.stages {
            let lr = |step| stage.lr(step, train.batch_tokens);
            assert_eq!((lr(stage.first_step), lr(stage.end() - 1)), (6e-4, 6e-4));
        }
    }
}

#[test]
fn the_fixed_recipes_spend_the_compute_of_the_full_baseline() {
    for folder in ["", "small/"] {
        let full = shipped(&format!("{folder}scratch-full.toml"));
        let expected = full.account.total().flops;
        let step = full.account.at(1).flops;
        for stages in [4, 8, 12] {
            let planned = shipped(&format!("{folder}incremental-{stages}-fixed.toml"));
            let found = planned.account.total().flops;
            assert!(
                (found - expected).abs() <= step,
                "{folder}{stages}: {found:e}"
            );
            assert_eq!(planned.stages.last().unwrap().n_layer, 12);
        }
    }
}

/// A shipped recipe, its stages a step or two long, in a folder of its own.
fn shortened(name: &str) -> Sandbox {
    let text = fs::read_to_string(repository().join("recipes/small").join(name)).unwrap();
    let fixtures = repository().join("fixtures");
    let line = |line: &str| match line.split_once(" = ") {
        Some((
            "batch_tokens" | "context" | "eval_every_tokens" | "prompt" | "warmup_tokens",
            _,
        )) => String::new(),
        Some(("tokens", _)) => "tokens = 64".to_owned(),
        Some(("save_every_tokens", _)) => {
            "batch_tokens = 32\ncontext = 16\nsave_every_tokens = 32\nkeep = 100".to_owned()
        }
        Some(("out", _)) => "out = \"run\"".to_owned(),
        Some(("n_embd", _)) => "n_embd = 8".to_owned(),
        _ => line
            .replace("./fixtures", "fixtures")
            .replace("fixtures/", &format!("{}/", fixtures.display())),
    };
    let sandbox = Sandbox::new();
    let val = fs::read_to_string(fixtures.join("prose/val.txt")).unwrap();
    sandbox.write("val.txt", val.chars().take(500).collect::<String>());
    let lines: Vec<String> = text.lines().map(line).collect();
    let text = lines.join("\n");
    let val = format!("{}/prose/val.txt", fixtures.display());
    sandbox.write("r.toml", text.replace(&val, "val.txt"));
    sandbox
}

/// Names and bytes of the tensors of a checkpoint.
fn tensors(sandbox: &Sandbox, step: u64) -> Vec<(String, Vec<u8>)> {
    let bytes = sandbox.read(&format!("run/step-{step:08}/model.safetensors"));
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.iter();
    tensors
        .map(|(name, view)| {
            let name = name.strip_prefix("transformer.").unwrap_or(name);
            (name.to_owned(), view.data().to_vec())
        })
        .collect()
}

/// Runs a shortened recipe and says for every step but the first which of the parameters that
/// were there before it changed, as blocks and as other names: "h.0", "wte.weight".
fn changes(name: &str) -> Vec<(usize, BTreeSet<String>, BTreeSet<String>)> {
    let sandbox = shortened(name);
    sandbox.run("train r.toml").expect(0, &[]);
    let group = |name: &str| match name.strip_prefix("h.") {
        Some(rest) => format!("h.{}", rest.split('.').next().unwrap()),
        None => name.split('.').next().unwrap().to_owned(),
    };
    let mut steps = Vec::new();
    let mut before = tensors(&sandbox, 1);
    for step in 2.. {
        if !sandbox.path(&format!("run/step-{step:08}")).exists() {
            return steps;
        }
        let after = tensors(&sandbox, step);
        let (mut changed, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for (name, bytes) in &before {
            let now = &after.iter().find(|(other, _)| other == name).unwrap().1;
            let into = if now == bytes {
                &mut kept
            } else {
                &mut changed
            };
            into.insert(group(name));
        }
        let blocks = after.iter().filter(|(name, _)| name.ends_with("ln_1.bias"));
        steps.push((blocks.count(), changed, kept));
        before = after;
    }
    unreachable!("a run ends")
}

fn names(blocks: std::ops::Range<usize>, others: &[&str]) -> BTreeSet<String> {
    let blocks = blocks.map(|block| format!("h.{block}"));
    blocks
        .chain(others.iter().map(|&name| name.to_owned()))
        .collect()
}

/// Two steps a phase. In the first one of phase 1 the new blocks are not in the step before.
#[test]
fn phase_1_trains_the_new_blocks_and_phase_2_all() {
    const ALL: [&str; 3] = ["ln_f", "wpe", "wte"];
    let everything = |depth: usize| names(0..depth, &ALL);
    for (name, outside) in [
        ("incremental-4-faithful.toml", &ALL[..]),
        ("incremental-4-fixed.toml", &ALL[..1]),
    ] {
        let steps = changes(name);
        let fixed = name.contains("fixed");
        let mut expected = vec![(3, everything(3), BTreeSet::new()); if fixed { 1 } else { 3 }];
        for depth in [6, 9, 12] {
            let old = depth - 3;
            let frozen: Vec<&str> = ALL.into_iter().filter(|n| !outside.contains(n)).collect();
            expected.push((depth, names(0..0, outside), names(0..old, &frozen)));
            expected.push((depth, names(old..depth, outside), names(0..old, &frozen)));
            let both = (depth, everything(depth), BTreeSet::new());
            expected.extend([both.clone(), both]);
        }
        let continual = (12, everything(12), BTreeSet::new());
        expected.extend([continual.clone(), continual]);
        assert_eq!(steps, expected, "{name}");
    }
}

#[test]
fn llama_pro_trains_nothing_but_the_new_blocks() {
    let steps = changes("llama-pro.toml");
    // 4 blocks to 6: new ones after the second and the fourth.
    let new: BTreeSet<String> = ["h.2", "h.5"].map(str::to_owned).into();
    let old = ["h.0", "h.1", "h.3", "h.4", "ln_f", "wpe", "wte"].map(str::to_owned);
    assert_eq!(steps, [(6, new, old.into())]);
}

#[test]
fn gradual_stacking_copies_the_last_blocks() {
    let planned = shipped("gradual-stacking.toml");
    for stage in &planned.stages[1..] {
        let sources: Vec<usize> = stage
            .block_origins()
            .iter()
            .filter_map(|o| o.source)
            .collect();
        let old = stage.n_layer - 3;
        let expected: Vec<usize> = (0..old).chain(old - 3..old).collect();
        assert_eq!(sources, expected);
    }
    let mslt = shipped("mslt.toml");
    assert_eq!(mslt.stages.len(), 5);
    assert!(mslt.stages[1].stage.trains("wte.weight", 0));
    assert!(!mslt.stages[1].stage.trains("wpe.weight", 0));
    assert!(!mslt.stages[1].stage.trains("h.2.ln_1.bias", 0));
}

/// Runs the program in the repository, without a network.
fn offline(args: &[&str]) -> Outcome {
    let mut command = Command::new(PROGRAM);
    command.args(args).current_dir(repository());
    command.env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Outcome::of(command)
}

#[test]
fn recipes_without_the_hub_can_be_planned_as_they_are() {
    let mut seen = 0;
    for folder in ["recipes", "recipes/small"] {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let recipe = path.strip_prefix(repository()).unwrap().to_str().unwrap();
            if !recipe.ends_with(".toml")
                || fs::read_to_string(&path)
                    .unwrap()
                    .contains("from = \"gpt2\"")
            {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap();
            let args = match name.split('-').next() {
                Some("compare") => vec!["compare", recipe, "--dry-run", "--no-probe"],
                Some("search") => vec!["search", recipe, "--dry-run"],
                Some("family") => continue,
                _ => vec!["plan", recipe, "--no-probe"],
            };
            let outcome = offline(&args).expect(0, &[]);
            assert!(!outcome.stdout.is_empty(), "{args:?}");
            let warned = outcome
                .stderr
                .lines()
                .filter(|line| line.starts_with("warning: "));
            for warning in warned {
                assert!(
                    warning.ends_with(" is not there yet"),
                    "{recipe}: {warning}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn the_readme_shows_what_preparing_the_shipped_text_prints() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("prose");
    let out = out.to_str().unwrap();
    let text = "fixtures/prose/train.txt";
    let printed = offline(&["data", "prepare", text, "--out", out, "--val-docs", "1"]);
    let printed = printed.expect(0, &[]).stdout.replace(out, "data/prose");
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    assert!(
        readme.contains(&format!("```text\n{printed}```")),
        "{printed}"
    );
}

/// A build for GPUs would look for one here.
#[cfg(not(feature = "gpu"))]
#[test]
fn a_recipe_for_a_gpu_says_what_to_add_on_a_build_for_the_processor() {
    for args in [
        ["train", "recipes/continue.toml"],
        ["train", "recipes/scratch-full.toml"],
        ["eval", "recipes/family.toml"],
    ] {
        offline(&args).expect(6, &["this build has no CUDA", "or use --device cpu"]);
    }
}
