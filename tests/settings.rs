//! Settings files as people write them: of the wrong kind, with slips, with `~` in their paths.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::fs;
use std::process::Command;

use sandbox::{Outcome, RECIPE, Sandbox, rows, with_recipe};
use serde_json::Value;
use support::{copy_dir, fixture};

const COMPARISON: &str = r#"out = "c"
seeds = [1]
[budget]
flops = 1e9
[base.model]
from = "./m"
[base.data]
train = ["train.txt"]
val = ["val.txt"]
[base.train]
batch_tokens = 256
context = 32
lr = 1e-3
[[arm]]
name = "continued"
[[arm]]
name = "grown"
set = { grow = { to = 4 } }
"#;

const SEARCH: &str = r#"out = "s"
flops = 1e9
eta = 2
[candidates]
to = [3, 4]
placements = ["top"]
[base.model]
from = "./m"
[base.data]
train = ["train.txt"]
val = ["val.txt"]
[base.train]
batch_tokens = 256
context = 32
lr = 1e-3
"#;

const EVALUATION: &str = "models = [\"./m\"]\nval = [\"val.txt\"]\ncontext = 16\n";

const PLAN: &str = "[[slice]]\nlayers = [0, 2]\n[[slice]]\nlayers = [1, 2]\n";

/// A folder with a file of every kind.
fn world() -> Sandbox {
    let sandbox = with_recipe(RECIPE);
    for (name, text) in [
        ("run.toml", RECIPE),
        ("compare.toml", COMPARISON),
        ("search.toml", SEARCH),
        ("eval.toml", EVALUATION),
        ("plan.toml", PLAN),
    ] {
        sandbox.write(name, text);
    }
    sandbox
}

/// Every command with the file of every other kind.
#[test]
fn a_file_of_another_kind_is_recognised() {
    let kinds = [
        ("run", "the recipe of a run", "train run.toml"),
        ("compare", "a comparison", "compare compare.toml"),
        ("search", "a search", "search search.toml"),
        ("eval", "an evaluation", "eval eval.toml"),
        ("plan", "a plan file", "grow MODEL --plan plan.toml"),
    ];
    let commands = [
        ("train", "run"),
        ("plan", "run"),
        ("compare", "compare"),
        ("search", "search"),
        ("eval", "eval"),
        ("grow ./m --out out --plan", "plan"),
    ];
    let sandbox = world();
    for (command, reads) in commands {
        for (kind, is, run) in kinds.iter().filter(|(kind, ..)| *kind != reads) {
            let file = format!("{kind}.toml");
            let told = format!("error: {file}: this is {is}, not ");
            let hint = format!("hint: run `scale-ckpt {run}`");
            sandbox.refuses(&format!("{command} {file}"), 3, &[&told, &hint]);
        }
    }
    // Of files that files name, too.
    let arm = "arm.1.recipe=compare.toml";
    let within = ["compare.toml: this is a comparison, not the recipe of a run"];
    sandbox.refuses(
        &format!("compare compare.toml --dry-run --set {arm}"),
        3,
        &within,
    );
    let within = ["search.toml: this is a search, not a plan file"];
    let set = "--set grow.plan=search.toml";
    sandbox.refuses(&format!("train run.toml {set}"), 3, &within);
    let plans = "--set candidates.plans=[\"run.toml\"]";
    let within = ["run.toml: this is the recipe of a run, not a plan file"];
    sandbox.refuses(&format!("search search.toml {plans}"), 3, &within);
    for (command, reads) in commands {
        let file = format!("{reads}.toml");
        let dry = match reads {
            "compare" | "search" => " --dry-run",
            _ if command.starts_with("grow") => " --dry-run",
            _ if command == "plan" => " --no-probe",
            _ => continue,
        };
        sandbox
            .run(&format!("{command} {file}{dry}"))
            .expect(0, &[]);
    }
}

#[test]
fn slips_in_recipes_are_told_with_the_full_key() {
    let table = r#"
lr = 1e-3 | lr = "3e-4" | r.toml, line 12: train.lr: expected a number, found "3e-4" | hint: write lr = 3e-4
lr = 1e-3 | lr = 1e-3\nmin_lr = "low" | r.toml, line 13: train.min_lr: expected a number, found "low"
10240 | "2B" | line 8: train.tokens: expected a whole number from 0, found "2B" | hint: write tokens = 2_000_000_000
10240 | 1.5 | line 8: train.tokens: expected a whole number from 0, found 1.5
10240 | -1e3 | line 8: train.tokens: expected a whole number from 0, found -1e3
lr = 1e-3 | lr = 1e-3\ntrainable = "new" | train.trainable: expected a list, found "new" | hint: write trainable = ["new"]
lr = 1e-3 | lr = 1e-3\nlr_scale = 0.1 | train.lr_scale: expected a table, found 0.1 | lr_scale = { key = value }
lr = 1e-3 | lr = 1e-3\nlr_scale = { new = "half" } | train.lr_scale.new: expected a number, found "half"
lr = 1e-3 | lr = 1e-3\nschedule = "cosin" | train.schedule: `cosin` is none of constant, linear, cosine, wsd | hint: did you mean `cosine`?
lr = 1e-3 | lr = 1e-3\noptimizer = "inherits" | train.optimizer: `inherits` is none of | hint: did you mean `inherit`?
lr = 1e-3 | lr = 1e-3\ngradient_checkpointing = "yes" | train.gradient_checkpointing: expected true or false | hint: write gradient_checkpointing = true
lr = 1e-3 | lr = 1e-3\nlearning_rate = 1 | there is no key `train.learning_rate` | hint: known are tokens, batch_tokens
[model]\nfrom = "./m" | [model] | line 2: model: expected from = "gpt2" or another checkpoint, or [model.scratch]
from = "./m" | form = "./m" | line 3: there is no key `model.form` | hint: did you mean `from`?
from = "./m" | from = 2 | model.from: expected text in quotes, found 2 | hint: write from = "2"
[model]\nfrom = "./m" | model = "./m" | line 2: model: expected a table, found "./m"
from = "./m" | scratch = { n_layer = "2" } | model.scratch.n_layer: expected a whole number from 0 | hint: write n_layer = 2
from = "./m" | scratch = { n_layer = 2 } | `model.scratch.n_embd` is missing
["val.txt"] | ["val.txt", 3] | data.val.2: expected text in quotes, found 3
[data] | data = 3\n[date] | line 
[data] | [grow]\nto = "4"\n[data] | line 5: grow.to: expected a whole number from 0, found "4" | hint: write to = 4
[data] | [grow]\nto = 4\nplacement = "tpo"\n[data] | line 6: grow.placement: `tpo` is none of stack, interleave, top, bottom, middle | hint: did you mean `top`?
[data] | [grow]\nto = 4\ninit = "copi"\n[data] | grow.init: there is no initializer `copi` | did you mean `copy`
[data] | [grow]\nto = 4\ninit = 3\n[data] | grow.init: expected the name of an initializer, or a table of one, found 3
[data] | [grow]\nto = 4\ninit = { noisy = { nois = 0.1 } }\n[data] | there is no key `grow.init.noisy.nois` | hint: did you mean `noise`?
[data] | [grow]\nto = 4\ninit = { noisy = { noise = "0.1" } }\n[data] | grow.init.noisy.noise: expected a number | hint: write noise = 0.1
[data] | [grow]\nto = 4\ninit = { noise = {} }\n[data] | `noise` is none of copy, zero-residual | hint: did you mean `noisy`?
[data] | [grow]\nto = 4\ninit = { noisy = {}, copy = {} }\n[data] | grow.init: expected one initializer
[data] | [grow]\nto = 4\ninit = "blend"\n[data] | blend: `weights` is missing | hint: name source blocks and their shares
[data] | [grow]\nto = 4\ninit = { blend = { weights = { "0" = "1" } } }\n[data] | grow.init.blend.weights.0: expected a number
[data] | [grow]\nto = 4\ninit = "interpolate"\n[data] | r.toml, line 6: grow.init: interpolate stands between two kept blocks
[data] | [grow]\nto = 5000\n[data] | r.toml, line 5: grow.to = 5000: at most 4096
[data] | [grow]\n[data] | r.toml: how deep? give grow.to, grow.plan, or `depths`
[model] | grow = "g-stack"\n[model] | grow: expected a table, found "g-stack" | or [grow]
context = 32 | context = 0 | train.context must be at least 1
lr = 1e-3 | lr = 1e-3\ntrainable = ["new"] | trainable: `new` selects nothing: no growth adds blocks | old, all, embeddings
lr = 1e-3 | lr = 1e-3\ntrainable = ["embeddings", "new"] | trainable: `new` selects nothing
lr = 1e-3 | lr = 1e-3\nlr_scale = { new = 0.5 } | lr_scale: `new` selects nothing | say how the model grows
lr = 1e-3 | lr = 1e-3\ntrainable = ["embedding"] | `embedding` matches no parameter | hint: did you mean `embeddings`?
lr = 1e-3 | lr = 1e-3\nlr_scale = { wte = 0.5 } | `wte` matches no parameter | hint: did you mean `wte.*`?
lr = 1e-3 | lr = 1e-3\nlr_scale = { "h.9.*" = 0.5 } | `h.9.*` matches no parameter | hint: the blocks are h.0 to h.1
"#;
    let sandbox = with_recipe(RECIPE);
    for row in rows(table) {
        let [from, to] = [row[0], row[1]].map(|cell| cell.replace("\\n", "\n"));
        assert!(RECIPE.contains(&from), "{from}");
        sandbox.write("r.toml", RECIPE.replace(&from, &to));
        sandbox.refuses("train r.toml", 3, &row[2..]);
        let told = sandbox.run("train r.toml").stderr;
        let foreign = [
            "f64",
            "u64",
            "usize",
            "sequence",
            "struct ",
            "expected enum",
            " --",
        ];
        assert!(foreign.iter().all(|word| !told.contains(word)), "{told}");
    }
}

#[test]
fn slips_in_assignments_name_the_assignment() {
    let table = r#"
train train.lr="x" | 3 | r.toml, --set train.lr="x": train.lr: expected a number, found "x"
train train.tokens=-1 | 3 | --set train.tokens=-1: train.tokens: expected a whole number from 0, found -1
train train.lrr=3 | 3 | there is no key `train.lrr` | hint: did you mean `lr`?
train data.train=train.txt | 3 | data.train: expected a list, found "train.txt" | hint: write train = ["train.txt"]
train stage.3.tokens=7 | 2 | --set stage.3.tokens=7: there are 2 [[stage]], numbered from 1: stage.1.tokens to stage.2.tokens
train stage.tokens=7 | 2 | there are 2 [[stage]] | hint: write --set stage.1.tokens=7
train stage.0.grow.to=7 | 2 | stage.1.grow.to to stage.2.grow.to | hint: write --set stage.1.grow.to=7
train out.a=1 | 2 | out is not a table | hint: set it as a whole: --set out=VALUE
train train.lr=-1 | 3 | r.toml, --set train.lr=-1: train.lr = -1 must be 0 or more
train stage.2.lr=-1 | 3 | r.toml, --set stage.2.lr=-1: stage 2: lr = -1 must be 0 or more
train eval.tasks=["mmlu"] | 3 | r.toml, --set eval.tasks=["mmlu"]: eval.tasks: there is no task `mmlu`
plan eval.tasks=["mmlu"] | 3 | r.toml, --set eval.tasks=["mmlu"]: eval.tasks: there is no task `mmlu`
plan eval={tasks=["hellaswag"],data={helaswag="x"}} | 3 | eval.data: data for `helaswag`, which no task reads | hint: did you mean `hellaswag`?
plan eval.data={piqa="x"} | 3 | eval.data: data for `piqa`, which no task reads | hint: no tasks are named
plan train.context=1024 | 3 | r.toml, --set train.context=1024: train.context = 1024 exceeds
compare base.eval.tasks=["mmlu"] | 3 | compare.toml, arm `continued`: eval.tasks: there is no task `mmlu`
compare sweep={lr_factors=[],share=0.5} | 3 | compare.toml, --set sweep={lr_factors=[],share=0.5}: sweep.lr_factors must be
search base.eval.tasks=["mmlu"] | 3 | search.toml, the baseline `continued`: eval.tasks: there is no task `mmlu`
search eta=1 | 3 | search.toml, --set eta=1: eta = 1 must be at least 2
train arm.1.name=x | 2 | there is no [[arm]]
train stage.2.tokens="7k" | 3 | stage.2.tokens: expected a whole number from 0 | hint: write tokens = 7_000
train stage.2.grow={to=2} | 3 | stage 2: grow.to = 2 is not deeper
train stage.1.trainable=["new"] | 3 | stage 1: trainable: `new` selects nothing
compare seeds=3 | 3 | --set seeds=3: seeds: expected a list, found 3 | hint: write seeds = [3]
compare budget.flops=lots | 3 | budget.flops: expected a number, found "lots"
compare arm.3.name=x | 2 | there are 2 [[arm]], numbered from 1
compare arm.2.total=yes | 3 | arm.2.total: expected true or false | hint: write total = true
compare base.train.lr=fast | 3 | arm `continued`: base.train.lr: expected a number, found "fast"
compare arm.2.set.train={lrr=1} | 3 | arm `grown`: there is no key `set.train.lrr` | hint: did you mean `lr`?
compare control=3 | 3 | control: expected text in quotes, found 3
search eta=two | 3 | eta: expected a whole number from 0, found "two"
search candidates.to=4 | 3 | candidates.to: expected a list, found 4
search candidates.inits=["copi"] | 3 | candidates.inits.1: there is no initializer `copi`
search candidates.placements=["up"] | 3 | candidates.placements.1: `up` is none of stack
search base.train.lr="1" | 3 | base.train.lr: expected a number, found "1" | hint: write lr = 1
search candidate=3 | 3 | candidate: expected a list, found 3
"#;
    let sandbox = world();
    let stages = RECIPE.replace("tokens = 10240\n", "");
    let stages = format!("{stages}[[stage]]\ntokens = 512\n[[stage]]\ntokens = 512\n");
    sandbox.write("r.toml", stages);
    for row in rows(table) {
        let (command, set) = row[0].split_once(' ').unwrap();
        let file = match command {
            "train" | "plan" => "r",
            other => other,
        };
        let args = format!("{command} {file}.toml --set {set}");
        sandbox.refuses(&args, row[1].parse().unwrap(), &row[2..]);
    }
    sandbox.write("r.toml", RECIPE);
    let without = [
        ("stage.1.tokens=4096", "write --set train.tokens=4096"),
        ("stage.tokens=4096", "write --set train.tokens=4096"),
        ("stage.2.grow.to=4", "write --set grow.to=4"),
        ("stage.1.depths=[4]", "add [[stage]] to the file"),
    ];
    for (set, hint) in without {
        let told = ["there is no [[stage]]", &format!("hint: {hint}")];
        sandbox.refuses(&format!("train r.toml --set {set}"), 2, &told);
    }
    sandbox.write(
        "r.toml",
        RECIPE.replace("[data]", "[grow]\nto = 4\nplacement = \"top\"\n[data]"),
    );
    let told = [
        "grow.method and grow.placement exclude each other",
        "hint: to replace the whole table, give --set 'grow={to=4,method=\"g-stack\"}'",
    ];
    sandbox.refuses("plan r.toml --set grow.method=g-stack", 3, &told);
    sandbox.write("plan.toml", PLAN.replace("[1, 2]", "[1.5, 2]"));
    let told = ["plan.toml, line 4: slice.2.layers.1: expected a whole number from 0, found 1.5"];
    sandbox.refuses("grow ./m --out out --plan plan.toml", 3, &told);
    sandbox.write("eval.toml", EVALUATION.replace("16", "\"16\""));
    let told = [
        "eval.toml, line 3: context: expected a whole number from 0",
        "write context = 16",
    ];
    sandbox.refuses("eval eval.toml", 3, &told);
    sandbox.write("eval.toml", "models = [\"./m\"]\ntasks = [\"mmlu\"]\n");
    let told = ["eval.toml, line 2: tasks: there is no task `mmlu`"];
    sandbox.refuses("eval eval.toml", 3, &told);
}

/// What a plan does not need yet, `train` does: it is noted.
#[test]
fn plans_note_what_a_run_would_lack() {
    let sandbox = world();
    sandbox.write("r.toml", RECIPE);
    let eval = "--set eval={tasks=[\"hellaswag\"],data={hellaswag=\"nope.jsonl\"}}";
    let missing = ["warning: eval.data.hellaswag: nope.jsonl is not there yet"];
    sandbox
        .run(&format!("plan r.toml --no-probe {eval}"))
        .expect(0, &missing);
    let refused = ["warning: out: `train` would refuse it: . holds something else"];
    sandbox
        .run("plan r.toml --no-probe --set out=.")
        .expect(0, &refused);
    let untimed = sandbox
        .run("compare compare.toml --dry-run --no-probe")
        .expect(0, &[]);
    let words = "time unknown: no passes were timed";
    assert!(untimed.stdout.contains(words), "{}", untimed.stdout);
    let told = ["--control is for folders of runs", "--set control=grown"];
    sandbox.refuses("compare compare.toml --control grown", 2, &told);
}

/// A folder, and files of other programs, are told for what they are.
#[test]
fn what_is_no_settings_file_is_told_for_what_it_is() {
    let sandbox = world();
    fs::create_dir(sandbox.path("q")).unwrap();
    sandbox.write("q/recipe.toml", RECIPE);
    sandbox.write("q/inputs.json", "{}");
    sandbox.write(
        "merge.yml",
        "slices:\n  - sources:\n      - layer_range: [0, 3]\n",
    );
    sandbox.write("merge.txt", "# of mergekit\nslices:\n- sources: []\n");
    sandbox.write("r.json", "{\"out\": \"run\"}");
    let run = "q: this is the folder of a run, not the recipe of a run";
    let table = [
        ("train q", run, "or with its copy q/recipe.toml"),
        ("plan q", run, "or with its copy q/recipe.toml"),
        (
            "train ./m",
            "m: this is a checkpoint",
            "names it in model.from",
        ),
        (
            "search q",
            "q: this is the folder of a run, not a search",
            ".toml",
        ),
        (
            "grow ./m --out o --plan merge.yml",
            "this is YAML",
            "[[slice]]",
        ),
        (
            "grow ./m --out o --plan merge.txt",
            "this is YAML",
            "[[slice]]",
        ),
        (
            "grow ./m --out o --plan ./m",
            "this is a checkpoint",
            ".toml",
        ),
        (
            "train merge.yml",
            "merge.yml: this is YAML, but",
            "key = value",
        ),
        (
            "compare merge.yml --dry-run",
            "merge.yml: this is YAML",
            "in TOML",
        ),
        ("plan r.json", "r.json: this is JSON, but", "in TOML"),
    ];
    for (args, told, hint) in table {
        sandbox.refuses(args, 3, &[told, hint]);
    }
}

/// Whole numbers may be written with an exponent, and the run is the same.
#[test]
fn whole_numbers_with_an_exponent_are_whole_numbers() {
    let sandbox = with_recipe(&RECIPE.replace("10240", "5.12e2").replace("= 4", "= 4.0"));
    sandbox.run("train r.toml").expect(0, &[]);
    assert_eq!(sandbox.steps().len(), 2);
    sandbox.write("r.toml", RECIPE.replace("10240", "512"));
    sandbox
        .run("train r.toml")
        .expect(0, &["holds this run, finished"]);
    let mut set = sandbox.command("train r.toml --set train.tokens=768.0 --set out=other");
    set.env("RUST_BACKTRACE", "1");
    Outcome::of(set).expect(0, &[]);
}

/// The program with `home` as home folder.
fn at_home(sandbox: &Sandbox, args: &str) -> Command {
    let mut command = sandbox.command(args);
    command.env("HOME", sandbox.path("home"));
    command
}

/// A folder with everything in its `home`, and nothing else.
fn homely() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("home")).unwrap();
    copy_dir(&fixture("hellaswag/model"), &sandbox.path("home/m"));
    let prose = fs::read_to_string(fixture("prose/val.txt")).unwrap();
    let start = |length: usize| prose.chars().take(length).collect::<String>();
    sandbox.write("home/train.txt", start(20_000));
    sandbox.write("home/val.txt", start(500));
    sandbox.write("home/plan.toml", PLAN);
    let items = fixture("hellaswag/hellaswag_val_200.jsonl");
    let items: String = fs::read_to_string(items)
        .unwrap()
        .lines()
        .take(2)
        .map(|l| format!("{l}\n"))
        .collect();
    sandbox.write("home/items.jsonl", items);
    sandbox
}

#[test]
fn the_home_folder_is_meant_wherever_a_path_is_written() {
    let sandbox = homely();
    let recipe = RECIPE.replace("10240", "512").replace("\"./m\"", "\"~/m\"");
    let recipe = recipe
        .replace("\"run\"", "\"~/runs/x\"")
        .replace("\"train.txt\"", "\"~/train.txt\"");
    let recipe = recipe
        .replace("\"val.txt\"", "\"~/va*.txt\"")
        .replace("[data]", "[grow]\nplan = \"~/plan.toml\"\n[data]");
    let recipe = format!(
        "{recipe}[eval]\ntasks = [\"hellaswag\"]\ndata = {{ hellaswag = \"~/items.jsonl\" }}\n"
    );
    sandbox.write("home/r.toml", &recipe);
    let family = "models = [\"~/m\"]\ntasks = [\"hellaswag\"]\ndata = { hellaswag = \"~/items.jsonl\" }\nval = [\"~/val.txt\"]\nout = \"~/evals\"\ncontext = 32\n";
    sandbox.write("home/f.toml", family);
    let comparison = COMPARISON.replace("\"c\"", "\"~/c\"").replace("./m", "~/m");
    let comparison = comparison
        .replace("\"train.txt\"", "\"~/train.txt\"")
        .replace("\"val.txt\"", "\"~/val.txt\"");
    sandbox.write(
        "home/c.toml",
        format!("{comparison}[[arm]]\nname = \"file\"\nrecipe = \"~/r.toml\"\n"),
    );
    let search = SEARCH.replace("\"s\"", "\"~/s\"").replace("./m", "~/m");
    let search = search
        .replace("\"train.txt\"", "\"~/train.txt\"")
        .replace("\"val.txt\"", "\"~/val.txt\"");
    let search = search.replace("to = [3, 4]", "plans = [\"~/plan.toml\"]\nto = [4]");
    sandbox.write("home/s.toml", search);
    let run = |args: &str| Outcome::of(at_home(&sandbox, args)).expect(0, &[]);
    run("train ~/r.toml");
    let left = run("train ~/r.toml").stderr;
    assert!(left.contains("holds this run, finished"), "{left}");
    // The recipe that the run wrote is the same run's.
    let again = run("train ~/runs/x/recipe.toml").stderr;
    assert!(again.contains("holds this run, finished"), "{again}");
    run("plan ~/r.toml --no-probe");
    run("eval ~/f.toml");
    run("compare ~/c.toml --dry-run --no-probe");
    run("search ~/s.toml --dry-run");
    run("grow ~/m --plan=~/plan.toml --out=~/grown --probe=~/val.txt");
    run(
        "eval ~/m ~/gro* --val=~/val.txt --tasks hellaswag --data hellaswag=~/items.jsonl --context 32 --out=~/e",
    );
    run("eval ~/runs/x/step-* --context 32 --val ~/val.txt");
    run("data prepare ~/tra*.txt --tokenizer=~/m --out=~/data --val-docs 0");
    run("logits ~/m --text=~/val.txt --out=~/logits.safetensors");
    run("train ~/r.toml --set seed=7 --set out=~/runs/y");
    run("compare ~/runs/* --out=~/report");
    for made in [
        "runs/x/recipe.toml",
        "evals",
        "grown/config.json",
        "e",
        "data/manifest.json",
        "logits.safetensors",
        "report/report.json",
    ] {
        assert!(sandbox.path("home").join(made).exists(), "{made}");
    }
    assert_eq!(sandbox.entries().len(), 1, "{:?}", sandbox.entries());
}

#[test]
fn another_users_home_is_refused_by_name() {
    let sandbox = world();
    for set in [
        "out=~bob/x",
        "model.from=~bob/m",
        "model={scratch={n_layer=1,n_embd=8,n_head=1,n_positions=32,tokenizer=\"~bob/t\"}}",
        "data.train=[\"~bob/t.txt\"]",
        "data.val=[\"val.txt\",\"~bob/t.txt\"]",
        "grow.plan=~bob/p.toml",
        "eval.data.hellaswag=~bob/h.jsonl",
    ] {
        let told = ["`~bob/", "~user", "write the whole path"];
        sandbox.refuses(
            &format!("train run.toml --set {set}"),
            if set.starts_with("model.from") { 2 } else { 3 },
            &told,
        );
    }
    for args in [
        "train ~bob/r.toml",
        "grow ./m --to 4 --out=~bob/out",
        "grow ./m --out out --plan ~bob/p.toml",
        "eval ./m --val ~bob/t.txt",
        "eval ./m --data hellaswag=~bob/h.jsonl --tasks hellaswag",
        "eval ~bob/x* --val val.txt",
        "data prepare ~bob/t.txt --out d",
        "compare ~bob/runs/*",
        "inspect ~bob/m",
    ] {
        sandbox.refuses(args, 2, &["~bob/", "~user"]);
    }
    // What is called so here is reached by its folder.
    fs::create_dir(sandbox.path("~bob")).unwrap();
    sandbox
        .run("grow ./m --to 4 --out ./~bob/out")
        .expect(0, &[]);
    assert!(sandbox.path("~bob/out/config.json").exists());
}

#[test]
fn growth_as_json_says_what_a_script_needs() {
    let sandbox = Sandbox::with("gpt2-pico");
    sandbox.write("one.toml", "[[slice]]\nlayers = [0, 1]\n");
    let json = |args: &str| -> Value {
        let outcome = sandbox.run(args).expect(0, &[]);
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    let grow = "grow ./m --to 3 --init interpolate:coefficient=0.3 --placement middle --json";
    let dry = json(&format!("{grow} --dry-run"));
    assert_eq!(sandbox.entries().len(), 2);
    let done = json(grow);
    for key in [
        "out",
        "n_layer",
        "layers",
        "claim",
        "seed",
        "parameters",
        "files",
        "companions",
    ] {
        assert_eq!(dry[key], done[key], "{key}");
    }
    let out = done["out"].as_str().unwrap();
    let file = done["files"][0]["name"].as_str().unwrap();
    assert!(sandbox.path(out).join(file).is_file(), "{out}/{file}");
    assert_eq!(
        (&done["n_layer"], done["layers"].as_array().unwrap().len()),
        (&3.into(), 3)
    );
    assert!(done["certificate"]["max_abs_logit_diff"].is_number() && dry["certificate"].is_null());
    let made = r#"[{"layer":0,"weight":0.7},{"layer":1,"weight":0.3}]"#;
    assert_eq!(done["layers"][1]["sources"].to_string(), made);
    let config: Value =
        serde_json::from_slice(&sandbox.read(&format!("{out}/config.json"))).unwrap();
    assert_eq!(config["n_layer"], done["n_layer"]);
    let text = sandbox
        .run("grow ./m --to 3 --placement top --init random --dry-run")
        .expect(0, &[])
        .stdout;
    assert!(
        text.contains("no source") && text.contains("random"),
        "{text}"
    );
    // Fewer blocks only where that is meant.
    let cut = json("grow ./m --plan one.toml --allow-shrink --out cut --json");
    assert_eq!(
        (&cut["n_layer"], cut["out"].as_str()),
        (&1.into(), Some("cut"))
    );
    let card = String::from_utf8(sandbox.read("cut/README.md")).unwrap();
    assert!(card.contains("cut from 2 to 1 layer\n"), "{card}");
}
