//! `compare` and `search`: from a recipe to a report, and what they refuse.
#![allow(clippy::unwrap_used)]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sandbox::{Outcome, Sandbox};
use scale_ckpt::compare::CompareConfig;
use scale_ckpt::report::thousands;
use serde_json::Value;
use support::{copy_dir, fixture};

const COMPARISON: &str = r#"
out = "c"
title = "A tiny comparison"
seeds = [1, 2]
points = 4
[budget]
flops = 4e9
[sweep]
lr_factors = [0.5, 1]
share = 0.5
[base]
source_flops = 5e9
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
tasks = ["hellaswag_completion"]
data = { hellaswag = "items.jsonl" }
[[arm]]
name = "continued"
[[arm]]
name = "grown"
about = "grown to <4>"
set = { grow = { to = 4 } }
[[arm]]
name = "incremental"
fit = "scale"
sweep = false
[arm.set]
model = { scratch = { n_layer = 1, n_embd = 16, n_head = 2, n_positions = 128, vocab_size = 4096, tokenizer = "m" } }
[[arm.set.stage]]
depths = [1, 2]
tokens = 256
grow = { placement = "top", init = "random" }
[[arm.set.stage]]
tokens = 512
[[arm]]
name = "scratch"
total = true
sweep = false
[arm.set.model.scratch]
n_layer = 2
n_embd = 32
n_head = 4
n_positions = 128
vocab_size = 4096
tokenizer = "m"
"#;

/// A sandbox with a source of two blocks, texts and items.
fn world() -> Sandbox {
    let sandbox = Sandbox::with("hellaswag/model");
    let text = |name: &str, count: usize| {
        let text = fs::read_to_string(fixture(name)).unwrap();
        text.chars().take(count).collect::<String>()
    };
    sandbox.write("train.txt", text("prose/train.txt", 40_000));
    sandbox.write("val.txt", text("prose/val.txt", 3_000));
    let items = fs::read_to_string(fixture("hellaswag/hellaswag_val_200.jsonl")).unwrap();
    let items: Vec<&str> = items.lines().take(6).collect();
    sandbox.write("items.jsonl", items.join("\n"));
    sandbox.write("c.toml", COMPARISON);
    sandbox
}

fn json(text: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(text.as_ref()).unwrap()
}

fn report(sandbox: &Sandbox) -> Value {
    json(sandbox.read("c/report.json"))
}

fn arm_of<'a>(report: &'a Value, name: &str) -> &'a Value {
    let arms = report["arms"].as_array().unwrap();
    arms.iter().find(|arm| arm["name"] == name).unwrap()
}

/// Final losses, arm by arm and seed by seed.
fn losses(report: &Value) -> Vec<Value> {
    let arms = report["arms"].as_array().unwrap().iter();
    arms.map(|arm| {
        let finals = arm["finals"].as_array().unwrap();
        assert_eq!(finals[0][0], "val_loss");
        finals[0][1]["values"].clone()
    })
    .collect()
}

#[test]
fn a_recipe_becomes_a_report() {
    let sandbox = world();
    let planned = sandbox
        .run("compare c.toml --dry-run --json --no-probe")
        .expect(0, &[]);
    assert!(!sandbox.path("c").exists(), "a dry run writes nothing");
    let planned = json(planned.stdout);

    let outcome = sandbox.run("compare c.toml --no-probe").expect(0, &[]);
    assert!(
        outcome.stdout.contains("For as many FLOPs"),
        "{}",
        outcome.stdout
    );
    let report = report(&sandbox);
    for (name, n_layer) in [
        ("continued", [2, 2]),
        ("grown", [2, 4]),
        ("incremental", [1, 2]),
    ] {
        let arm = arm_of(&report, name);
        assert_eq!(arm["n_layer"], serde_json::json!(n_layer), "{name}");
        // All that whole steps pay for, as the dry run said.
        let spent = &arm["spent"];
        let (flops, steps) = (
            spent["flops"].as_f64().unwrap(),
            spent["steps"].as_f64().unwrap(),
        );
        assert!(
            flops <= 4e9 && flops + 2.0 * flops / steps > 4e9,
            "{name}: {spent}"
        );
        let of_plan = arm_of(&planned, name);
        assert_eq!(of_plan["spent"]["flops"], spent["flops"], "{name}");
    }
    // As much as the others with what the source cost.
    let scratch = arm_of(&report, "scratch");
    let flops = scratch["spent"]["flops"].as_f64().unwrap();
    assert!(flops <= 9e9 && flops > 8.8e9, "{flops}");
    assert_eq!(scratch["kind"], "scratch");
    let grown = arm_of(&report, "grown");
    assert_eq!(grown["certificate"]["max_abs_logit_diff"], 0.0);
    assert_eq!(grown["source_loss"], grown["first_loss"]);
    assert_eq!(report["cost_claims"][0]["arm"], "incremental");
    assert_eq!(report["cost_claims"][0]["stages"], 2);
    let claims = |name: &str| -> Vec<Value> {
        let all = report["differences"].as_array().unwrap();
        all.iter()
            .filter(|d| d["arm"] == name && d["metric"] == "val_loss")
            .cloned()
            .collect()
    };
    let d = &claims("grown")[0];
    assert_eq!(d["compute"], "equal_additional");
    assert_eq!(claims("incremental")[0]["compute"], "equal_additional");
    assert_eq!(claims("scratch")[0]["compute"], "equal_total");
    let verdict = report["verdict"].to_string();
    for words in [
        "For as many FLOPs, ",
        "For as many FLOPs with those of the source, ",
        "comparisons at 5 %",
    ] {
        assert!(verdict.contains(words), "{verdict}");
    }
    let count = report["differences"].as_array().unwrap().len();
    let wanted = format!("; {count} comparisons at 5 % each");
    assert!(verdict.contains(&wanted), "{wanted}: {verdict}");
    let of_source = |e: &&Value| e["total"] == true;
    let equal = report["at_equal_cost"]
        .as_array()
        .unwrap()
        .iter()
        .find(of_source)
        .unwrap();
    assert_eq!(equal["arms"][0]["scores"][0][0], "hellaswag_completion/acc");
    assert!(
        equal["cost"].as_f64().unwrap() > 8.8e9,
        "arms with a source set the cost: {equal}"
    );
    let [a, b] =
        ["continued", "grown"].map(|name| arm_of(&report, name)["finals"][0][1]["values"].clone());
    for seed in 0..2 {
        let expected = b[seed].as_f64().unwrap() - a[seed].as_f64().unwrap();
        let found = d["over_seeds"]["values"][seed].as_f64().unwrap();
        assert!((expected - found).abs() < 1e-12);
    }
    // Seeds differ in their data, so that their spread is none by chance.
    assert_ne!(a[0], a[1]);
    let notes = report["notes"].to_string();
    assert!(notes.contains("each tried once"), "{notes}");
    // Of two rates either is an edge, which is said before any conclusion.
    let edges = report["rates_at_edge"].as_array().unwrap();
    let arms: Vec<&Value> = edges.iter().map(|edge| &edge["arm"]).collect();
    assert_eq!(arms, ["continued", "grown"], "the arms that were swept");
    assert_eq!(edges[0]["tried"], serde_json::json!([5e-3, 1e-2]));
    let first = report["verdict"].as_array().unwrap();
    let at = |words: &str| {
        let place = first
            .iter()
            .position(|s| s.as_str().unwrap().starts_with(words));
        place.unwrap_or_else(|| panic!("{words}: {first:#?}"))
    };
    let edge = at("The best learning rate is at the edge of those tried: continued ");
    assert!(edge < at("For as many FLOPs, "), "{first:#?}");
    assert!(
        first[edge]
            .as_str()
            .unwrap()
            .contains("est of 5e-3 and 1e-2; grown ")
    );

    // Nothing is left to do, and nothing done again.
    let before = sandbox.tree();
    sandbox.run("compare c.toml --no-probe").expect(0, &[]);
    assert!(sandbox.tree() == before, "a second time changed something");

    // The runs alone say the same.
    let again = sandbox
        .run("compare c/runs/* --control continued --json")
        .expect(0, &[]);
    assert_eq!(losses(&json(again.stdout)), losses(&report));

    // A run by hand from the recipe that was written is the same run.
    let recipe = sandbox.path("c/recipes/grown-seed-2.toml");
    let text = fs::read_to_string(recipe).unwrap();
    sandbox.write(
        "by-hand.toml",
        text.replace("c/runs/grown-seed-2", "by-hand"),
    );
    sandbox.run("train by-hand.toml").expect(0, &[]);
    let own = json(sandbox.read("by-hand/report.json"));
    let of_comparison = json(sandbox.read("c/runs/grown-seed-2/report.json"));
    assert_eq!(own["models"][2]["val"], of_comparison["models"][2]["val"]);

    let page = sandbox.path("c/report.html");
    stands_alone(&page);
    opens(&page);
}

/// Training at rates that hurt: what a comparison with a bad control would hide.
#[test]
fn arms_that_end_worse_than_the_source_are_named_first() {
    let sandbox = world();
    let recipe = |continued: &str, grown: &str| {
        let start = COMPARISON.find("[[arm]]\nname = \"incremental\"").unwrap();
        let text = COMPARISON[..start].replace("[sweep]\nlr_factors = [0.5, 1]\nshare = 0.5\n", "");
        let text = text
            .replace("seeds = [1, 2]", "seeds = [1]")
            .replace("flops = 4e9", "flops = 2e9");
        let continued = format!("name = \"continued\"\nset = {{ train = {{ lr = {continued} }} }}");
        let grown = format!("grow = {{ to = 4 }}, train = {{ lr = {grown} }} }}");
        text.replace("name = \"continued\"", &continued)
            .replace("grow = { to = 4 } }", &grown)
    };
    sandbox.write("c.toml", recipe("1.0", "1.0"));
    let outcome = sandbox.run("compare c.toml --no-probe").expect(0, &[]);
    let all = report(&sandbox);
    let source = arm_of(&all, "continued")["source_loss"].as_f64().unwrap();
    let last = |name: &str| arm_of(&all, name)["finals"][0][1]["mean"].as_f64().unwrap();
    assert!(
        last("continued") > source && last("grown") > source,
        "{all:#}"
    );
    let first = all["verdict"][0].as_str().unwrap();
    let wanted = format!("continued ({:.4} against {source:.4}", last("continued"));
    assert!(
        first.starts_with("Worse than not training: every arm ends above")
            && first.contains(&wanted),
        "{first}"
    );
    // One seed says so.
    let of_grown = &all["differences"][0]["over_seeds"];
    assert_eq!(of_grown["no_interval"], "too_few");
    assert!(of_grown["interval"].is_null());
    for text in [
        outcome.stdout,
        String::from_utf8(sandbox.read("c/report.md")).unwrap(),
        String::from_utf8(sandbox.read("c/report.html")).unwrap(),
    ] {
        let verdict = &text[text.find("Verdict").unwrap()..];
        assert!(verdict.contains("Worse than not training"), "{text}");
        assert!(text.contains("too few seeds"), "{text}");
        assert!(text.contains("Without ±: one seed"), "{text}");
        let mut words = text.split_whitespace();
        let is_bare = |word: &str| {
            word.ends_with("e0") && word.parse::<f64>().is_ok_and(|number| number != 0.0)
        };
        assert!(!words.any(is_bare) && !text.contains("-0.0000"), "{text}");
    }

    fs::remove_dir_all(sandbox.path("c")).unwrap();
    sandbox.write("c.toml", recipe("1.0", "1e-3"));
    sandbox.run("compare c.toml --no-probe").expect(0, &[]);
    let all = report(&sandbox);
    let grown = arm_of(&all, "grown");
    let better = grown["above_source"]["mean"].as_f64().unwrap() < 0.0;
    assert!(better, "a sane rate helps: {grown:#}");
    let first = all["verdict"][0].as_str().unwrap();
    assert!(
        first.starts_with("The control ends worse than the untouched source: continued ("),
        "{first}"
    );
}

/// No page fetches anything, and none is large.
fn stands_alone(page: &Path) {
    let text = fs::read_to_string(page).unwrap();
    assert!(text.len() < 1_000_000, "{} bytes", text.len());
    for fetched in ["src=", "@import", "url(http", "<link"] {
        assert!(!text.contains(fetched), "{fetched}");
    }
    assert!(text.contains("default-src 'none'"));
    assert!(!text.contains("<4>"), "names are no markup");
}

fn opens(page: &Path) {
    let Some(browser) = browser::browser() else {
        return;
    };
    browser::open(
        &browser,
        page,
        r#"
        const all = (query) => [...document.querySelectorAll(query)];
        const lines = () => all('[data-line]').map((line) => line.dataset.line);
        check(all('figure svg').length > 3, 'pictures are drawn');
        check(lines().join() === 'continued,grown,incremental,scratch', 'every arm has its line');
        const heights = () => all('[data-line]').map((line) => line.getAttribute('d')).join();
        const chip = document.querySelector('[data-arm="incremental"]');
        chip.click();
        check(lines().join() === 'continued,grown,scratch', 'an arm is switched off');
        check(chip.getAttribute('aria-pressed') === 'false', 'and says so');
        chip.click();
        check(lines().length === 4, 'and on again');
        const [metric, axis] = all('.controls select');
        const before = heights();
        axis.value = '1';
        axis.dispatchEvent(new Event('change'));
        check(heights() !== before, 'tokens are another axis');
        metric.value = '1';
        metric.dispatchEvent(new Event('change'));
        check(document.querySelector('figure svg[tabindex]').textContent.includes('hellaswag'), 'another metric');
        metric.value = '0';
        metric.dispatchEvent(new Event('change'));
        axis.value = '2';
        axis.dispatchEvent(new Event('change'));
        const plot = document.querySelector('svg[tabindex]');
        const box = plot.getBoundingClientRect();
        const move = { clientX: box.left + box.width / 4, clientY: box.top + 50, bubbles: true };
        plot.dispatchEvent(new PointerEvent('pointermove', move));
        const tip = document.getElementById('tip');
        check(!tip.hidden && tip.textContent.includes('grown'), 'values are shown');
        plot.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true }));
        check(!tip.hidden, 'also by key');
        const theme = document.documentElement.dataset.theme;
        document.getElementById('theme').click();
        check(document.documentElement.dataset.theme !== theme, 'light and dark');
        check(all('table').length > 4 && all('nav a').length > 5, 'tables and links');
        check(document.documentElement.scrollWidth <= window.innerWidth, 'nothing is wider than the page');
        "#,
    );
}

#[test]
fn a_comparison_that_was_stopped_goes_on() {
    let sandbox = world();
    let undisturbed = world();
    let child = sandbox.spawn("compare c.toml --no-probe");
    let started = Instant::now();
    while !sandbox.path("c/runs/grown-seed-1/metrics.jsonl").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no second run");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut kill = Command::new("kill");
    kill.arg("-TERM").arg(child.id().to_string());
    assert!(kill.status().unwrap().success());
    let outcome = Outcome::of_child(child);
    // It may have come to the end of the run before it could be stopped.
    assert_eq!(outcome.code, Some(75), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("the same command goes on"),
        "{}",
        outcome.stderr
    );
    assert!(!sandbox.path("c/report.json").exists());
    sandbox.run("compare c.toml --no-probe").expect(0, &[]);
    // In parts, as machines would share them.
    let part = undisturbed
        .run("compare c.toml --no-probe --only grown,incremental,scratch")
        .expect(0, &[]);
    assert!(part.stdout.contains("no report yet"), "{}", part.stdout);
    undisturbed
        .run("compare c.toml --no-probe --only continued")
        .expect(0, &[]);
    assert_eq!(losses(&report(&sandbox)), losses(&report(&undisturbed)));
}

const RUN: &str = r#"
out = "a"
[model]
from = "./m"
[data]
train = ["train.txt"]
val = ["val.txt"]
[train]
tokens = 256
batch_tokens = 128
context = 32
lr = 1e-3
[eval]
val_tokens = 256
"#;

#[test]
fn runs_that_do_not_match_are_refused() {
    let sandbox = world();
    sandbox.write("r.toml", RUN);
    sandbox.write(
        "other.txt",
        fs::read_to_string(fixture("prose/train.txt"))
            .unwrap()
            .chars()
            .skip(50_000)
            .take(40_000)
            .collect::<String>(),
    );
    let items = "eval.data={hellaswag=\"items.jsonl\"}";
    for (out, set) in [
        ("a", "seed=1337"),
        ("seed", "seed=2"),
        ("text", "data.train=[\"other.txt\"]"),
        ("val", "data.val=[\"other.txt\"]"),
        ("windows", "train.context=64"),
        ("tokens", "eval.val_tokens=512"),
    ] {
        sandbox
            .run(&format!("train r.toml --set out={out} --set {set}"))
            .expect(0, &[]);
    }
    let scored = format!("train r.toml --set eval.tasks=[\"hellaswag_completion\"] --set {items}");
    sandbox
        .run(&format!("{scored} --set out=task"))
        .expect(0, &[]);
    sandbox
        .run(&format!("{scored} --set out=items --set eval.limit=3"))
        .expect(0, &[]);

    sandbox.run("compare a seed --json").expect(0, &[]);
    for (other, words) in [
        ("text", &["the training text"][..]),
        ("val", &["the validation text"]),
        ("windows", &["windows of the validation text", "32", "64"]),
        (
            "tokens",
            &["windows of the validation text", "256 tokens", "512 tokens"],
        ),
        ("task", &["task hellaswag_completion", "not measured"]),
    ] {
        sandbox.refuses(&format!("compare a {other} --out r"), 1, words);
    }
    sandbox.refuses(
        "compare task items",
        1,
        &["task hellaswag_completion", "items"],
    );
    sandbox.refuses("compare a seed --out a", 2, &["a run's folder"]);
    sandbox.refuses("compare a a", 2, &["same recipe with seed 1337"]);
    sandbox.refuses("compare a", 2, &["one run is nothing"]);
    sandbox.refuses("compare a nowhere", 3, &["nowhere"]);
    sandbox.refuses("compare a none-*", 2, &["no folder is called that"]);
    sandbox.refuses(
        "compare a seed --control z",
        2,
        &["no such arm; there are a"],
    );
    sandbox.refuses("compare a seed --ledger flop", 2, &["flops, layer_passes"]);
    sandbox.refuses("compare a seed --dry-run", 2, &["--dry-run is for"]);

    copy_dir(&sandbox.path("seed"), &sandbox.path("unfinished"));
    fs::remove_file(sandbox.path("unfinished/report.json")).unwrap();
    sandbox.refuses(
        "compare a unfinished",
        3,
        &["unfinished: the run is not finished"],
    );
    sandbox.write("unfinished/run.json", "{\"schema\": 2}");
    sandbox.refuses("compare a unfinished", 3, &["not a run's record"]);
    sandbox.write("unfinished/run.json", "{\"schema\": 1}");
    sandbox.refuses("compare a unfinished", 3, &["schema", "run it again"]);
}

#[test]
fn recipes_that_cannot_be_meant_are_refused() {
    let sandbox = world();
    for (set, code, words) in [
        ("budget.flops=-1", 3, &["above 0"][..]),
        ("budget.flops=1e300", 3, &["arm `continued`", "tokens cost"]),
        (
            "budget.flop=1",
            3,
            &[
                "c.toml, --set budget.flop=1: there is no key `budget.flop`",
                "did you mean `flops`",
            ],
        ),
        (
            "budget.flops=1e6",
            3,
            &[
                "arm `continued`",
                "does not pay for one step",
                "raise the budget",
            ],
        ),
        ("control=z", 3, &["no such arm"]),
        ("seeds=[]", 3, &["seeds"]),
        (
            "arm.1.set={train={lrr=1}}",
            3,
            &["arm `continued`", "did you mean `lr`"],
        ),
        ("arm.1.nam=x", 3, &["nam"]),
        ("arm.2.set={grow={to=1}}", 3, &["arm `grown`", "not deeper"]),
        ("base.model={from=\"./nowhere\"}", 3, &["nowhere"]),
        ("sweep.share=2", 3, &["share"]),
    ] {
        let mut command = sandbox.command("compare c.toml --dry-run --no-probe --set");
        command.arg(set);
        let outcome = Outcome::of(command).expect(code, words);
        assert_eq!(outcome.stdout, "", "{set}");
    }
    // Found before anything is spent, though it is the last arm's.
    let set = "arm.3.set.eval={limit=2}";
    sandbox.refuses(
        &format!("compare c.toml --no-probe --set {set}"),
        1,
        &["arm `incremental`", "task hellaswag_completion"],
    );
    let set = "arm.3.set.model.scratch.n_positions=64";
    sandbox.refuses(
        &format!("compare c.toml --no-probe --set {set}"),
        3,
        &["arm `incremental`", "the model reads 64"],
    );
    sandbox.refuses("compare c.toml --only z", 2, &["--only z", "no such arm"]);
    sandbox.refuses("compare c.toml c", 2, &["one recipe"]);
    sandbox.refuses("compare nowhere.toml", 3, &["nowhere.toml"]);
    for (set, code, words) in [
        ("arm.2.total=true", 3, &["arm `grown` uses a source"][..]),
        (
            "budget={arm=\"continued\"}",
            3,
            &["no train.tokens", "give it train.tokens"],
        ),
        ("arm.1.fit=scale", 3, &["no train.tokens", "proportions"]),
        (
            "base.train.batch_tokens=0",
            3,
            &["batch_tokens must be at least 1"],
        ),
        ("budget={seconds=1}", 3, &["known in flops alone"]),
    ] {
        let mut command = sandbox.command("compare c.toml --dry-run --no-probe --set");
        command.arg(set);
        Outcome::of(command).expect(code, words);
    }
    // A folder of another comparison.
    sandbox
        .run("compare c.toml --no-probe --only incremental")
        .expect(0, &[]);
    sandbox.refuses(
        "compare c.toml --no-probe --only incremental --set base.train.beta1=0.8",
        2,
        &["incremental-seed-1 holds a run of another recipe"],
    );
    // Runs that would be measured on something else than those that are there.
    sandbox.refuses(
        "compare c.toml --no-probe --set base.eval.val_tokens=512",
        2,
        &["incremental-seed-1: since it was begun, the windows of the validation text has changed"],
    );
}

#[test]
fn a_run_that_diverges_does_not_end_the_comparison() {
    let sandbox = world();
    let text = COMPARISON.replace("[sweep]\nlr_factors = [0.5, 1]\nshare = 0.5\n", "");
    sandbox.write(
        "c.toml",
        text.replace(
            "grow = { to = 4 } }",
            "grow = { to = 4 }, train = { lr = 1e30, grad_clip = 0.0 } }",
        ),
    );
    let outcome = sandbox
        .run("compare c.toml --no-probe")
        .expect(0, &["grown-seed-1: diverged"]);
    assert!(outcome.stdout.contains("incremental"));
    let report = report(&sandbox);
    assert_eq!(report["arms"].as_array().unwrap().len(), 3);
    assert!(
        report["verdict"]
            .to_string()
            .contains("Every run of grown diverged")
    );
    assert!(
        report["notes"]
            .to_string()
            .contains("grown, seed 2: diverged")
    );
}

/// Paces are measured once: measured again, they would make budgets of other runs.
#[test]
fn a_budget_in_seconds_stays_what_it_was() {
    let sandbox = world();
    let text = COMPARISON.replace("flops = 4e9", "seconds = 0.1");
    let text = text.replace("total = true\n", "");
    sandbox.write(
        "c.toml",
        text.replace("[sweep]\nlr_factors = [0.5, 1]\nshare = 0.5\n", ""),
    );
    sandbox
        .run("compare c.toml --only continued")
        .expect(0, &[]);
    let paces = sandbox.read("c/paces.json");
    sandbox.run("compare c.toml").expect(0, &[]);
    assert_eq!(sandbox.read("c/paces.json"), paces);
    let report = report(&sandbox);
    assert_eq!(report["ledger"], "seconds");
    for arm in report["arms"].as_array().unwrap() {
        assert!(arm["spent"]["steps"].as_u64().unwrap() > 0, "{arm}");
    }
}

#[test]
fn shipped_comparisons_and_searches_can_be_planned() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sandbox = Sandbox::new();
    for name in ["fixtures", "recipes"] {
        std::os::unix::fs::symlink(root.join(name), sandbox.path(name)).unwrap();
    }
    let compare = "compare recipes/small/compare.toml --dry-run --no-probe --json";
    let plan = json(sandbox.run(compare).expect(0, &["data/novels"]).stdout);
    let arms = plan["arms"].as_array().unwrap();
    assert!(arms.len() >= 5);
    assert_eq!(plan["seeds"].as_array().unwrap().len(), 3);
    for arm in arms {
        let (flops, total) = (&arm["spent"]["flops"], arm["total"] == true);
        let budget = if total { 3e13 + 1.438e14 } else { 3e13 };
        let part = flops.as_f64().unwrap() / budget;
        assert!((0.98..=1.0).contains(&part), "{}: {part}", arm["name"]);
    }
    sandbox
        .run("search recipes/small/search.toml --dry-run")
        .expect(0, &["the same plan"]);
    // Its source is on the hub.
    let config = CompareConfig::load(&root.join("recipes/compare.toml"), &[]).unwrap();
    for arm in &config.arms {
        config.recipe_of(arm).unwrap();
    }
}

/// FIELD: arXiv 2411.18700 grants 0.469, 0.547 and 0.573 of T; true FLOPs leave far less.
#[test]
fn the_papers_setting_has_the_papers_budgets() {
    let sandbox = Sandbox::new();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/compare-paper.toml");
    let dry = |set: &str| {
        let args = format!(
            "compare {} --dry-run --no-probe --json --set {set}",
            recipe.display()
        );
        json(sandbox.run(&args).expect(0, &["is not there yet"]).stdout)
    };
    let tokens = |plan: &Value, name: &str| {
        let arms = plan["arms"].as_array().unwrap();
        let arm = arms.iter().find(|arm| arm["name"] == name).unwrap();
        arm["spent"]["tokens"].as_f64().unwrap()
    };
    let t = 1e10;
    let paper = dry("budget.ledger=layer_passes");
    let flops = dry("budget.ledger=flops");
    for (stages, of_flops) in [(4, 0.306), (8, 0.357), (12, 0.374)] {
        let name = format!("incremental-{stages}-faithful");
        let formula = 0.625 * (1.0 - 1.0 / f64::from(stages));
        // Every stage is rounded up to whole steps of 524,288 tokens, at most 25 of them.
        let slack = 25.0 * 524_288.0 / t;
        let found = tokens(&paper, &name) / t - 1.0;
        assert!(
            (found - formula).abs() < slack,
            "{name}: {found} against {formula}"
        );
        let found = tokens(&flops, &name) / t - 1.0;
        assert!(
            (found - of_flops).abs() < slack + 5e-4,
            "{name}: {found} against {of_flops}"
        );
        let claims = paper["cost_claims"].as_array().unwrap();
        let claim = claims.iter().find(|claim| claim["arm"] == *name).unwrap();
        for (key, expected) in [
            (
                "paper_formula",
                (3.0 * f64::from(stages) + 5.0) / (8.0 * f64::from(stages)),
            ),
            (
                "layer_passes",
                (3.0 * f64::from(stages) + 5.0) / (8.0 * f64::from(stages)),
            ),
            ("continual_formula", formula),
            ("continual_layer_passes", formula),
            ("continual_flops", of_flops),
        ] {
            let found = claim[key].as_f64().unwrap();
            assert!(
                (found - expected).abs() < 6e-4,
                "{name} {key}: {found} against {expected}"
            );
        }
    }
}

const SEARCH: &str = r#"
out = "s"
seed = 1
flops = 3e10
eta = 2
[candidates]
to = [3, 4]
methods = ["g-stack"]
placements = ["top"]
inits = ["zero-residual", "copy"]
[[candidate]]
name = "mine"
grow = { to = 4, placement = "interleave", init = { noisy = { noise = 0.02 } } }
[base]
source_flops = 5e9
[base.model]
from = "./m"
[base.data]
train = ["train.txt"]
val = ["val.txt"]
[base.train]
batch_tokens = 128
context = 32
lr = 1e-2
warmup_tokens = 256
[base.eval]
val_tokens = 256
"#;

#[test]
fn a_search_ends_with_a_plan_that_grow_takes() {
    let sandbox = world();
    sandbox.write("s.toml", SEARCH);
    let left_out = [
        "g-stack-3 is left out",
        "top-copy-4 is left out: the same plan as g-stack-4",
    ];
    let planned = sandbox.run("search s.toml --dry-run").expect(0, &left_out);
    assert!(planned.stdout.contains("mine") && !sandbox.path("s").exists());
    let outcome = sandbox.run("search s.toml").expect(0, &[]);
    assert!(
        outcome.stdout.contains("rank correlation"),
        "{}",
        outcome.stdout
    );
    let report = json(sandbox.read("s/report.json"));
    let rungs = report["rungs"].as_array().unwrap();
    let counts: Vec<u64> = rungs
        .iter()
        .map(|r| r["candidates"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [5, 3, 2]);
    let candidates = report["candidates"].as_array().unwrap();
    let trained: Vec<usize> = candidates
        .iter()
        .map(|c| c["losses"].as_array().unwrap().len())
        .collect();
    assert_eq!(trained, [4, 4, 3, 2, 2]);
    let last = |i: usize| candidates[i]["losses"][3].as_f64().unwrap();
    assert!(last(0) <= last(1));
    let parameters = thousands(candidates[0]["parameters"].as_u64().unwrap());
    let written = String::from_utf8(sandbox.read("s/report.md")).unwrap();
    for text in [&outcome.stdout, &written] {
        assert!(
            parameters.contains(',') && text.contains(&parameters),
            "{text}"
        );
    }
    assert_eq!(report["winner"], candidates[0]["name"]);
    // Zero-residual growth starts at the source's loss, copies do not.
    let first = |name: &str| {
        let one = candidates.iter().find(|c| c["name"] == name).unwrap();
        one["losses"][0].as_f64().unwrap()
    };
    assert_eq!(first("top-zero-residual-3"), first("top-zero-residual-4"));
    assert_ne!(first("top-copy-3"), first("top-zero-residual-3"));

    let before = sandbox.tree();
    sandbox.run("search s.toml").expect(0, &[]);
    assert!(sandbox.tree() == before, "a second time changed something");
    let grown = sandbox
        .run("grow ./m --plan s/winner.toml --out g")
        .expect(0, &[]);
    drop(grown);
    let config = json(sandbox.read("g/config.json"));
    assert_eq!(config["n_layer"], candidates[0]["n_layer"]);
    stands_alone(&sandbox.path("s/report.html"));

    // The source, trained on beside them in every rung for as many FLOPs.
    let baseline = &report["baseline"];
    assert_eq!(baseline["name"], "continued");
    assert_eq!(baseline["losses"].as_array().unwrap().len(), 4);
    assert_eq!(baseline["losses"][0], report["source_loss"]);
    assert_eq!(
        first("top-zero-residual-3"),
        baseline["losses"][0].as_f64().unwrap()
    );
    let mut spent = 0.0;
    for (number, rung) in (1..).zip(rungs) {
        let flops = |name: &str| {
            let run = json(sandbox.read(&format!("s/runs/{name}-rung-{number}/run.json")));
            run["cost"]["additional"]["flops"].as_f64().unwrap()
        };
        let budget = rung["flops"].as_f64().unwrap();
        for name in ["continued", candidates[0]["name"].as_str().unwrap()] {
            let part = flops(name) / budget;
            assert!((0.8..=1.0).contains(&part), "{name}: {part}");
        }
        spent += budget * (rung["candidates"].as_f64().unwrap() + 1.0);
    }
    assert!((spent / 3e10 - 1.0).abs() < 1e-9, "{spent}");
    let table = &outcome.stdout[outcome.stdout.find("step 0").unwrap()..];
    let at = |name: &str| table.find(name).unwrap();
    assert!(
        at("source, untouched") < at("continued") && at("continued") < at("mine"),
        "{table}"
    );
    conclusion_comes_first(&sandbox, &report, &outcome.stdout);
}

fn conclusion_comes_first(sandbox: &Sandbox, report: &Value, stdout: &str) {
    let conclusion = report["conclusion"][0].as_str().unwrap();
    let own = report["candidates"][0]["losses"][3].as_f64().unwrap();
    let continued = report["baseline"]["losses"][3].as_f64().unwrap();
    let expected = if own > report["source_loss"].as_f64().unwrap() {
        "worse_than_not_training"
    } else if own < continued {
        "better_than_continued"
    } else {
        "no_better_than_continued"
    };
    assert_eq!(report["standing"], expected);
    let start: String = conclusion.chars().take(30).collect();
    for text in [
        stdout.to_owned(),
        String::from_utf8(sandbox.read("s/report.md")).unwrap(),
        String::from_utf8(sandbox.read("s/report.html")).unwrap(),
        String::from_utf8(sandbox.read("s/winner.toml")).unwrap(),
    ] {
        let at = text
            .find(&start)
            .unwrap_or_else(|| panic!("{start}: {text}"));
        assert!(
            text.find("rank").is_none_or(|ranking| at < ranking),
            "{text}"
        );
    }
}

#[test]
fn a_search_whose_winner_is_worse_than_the_source_says_so_first() {
    let sandbox = world();
    let text = SEARCH
        .replace("lr = 1e-2", "lr = 1.0")
        .replace("flops = 3e10", "flops = 1e10");
    sandbox.write("s.toml", text);
    let outcome = sandbox.run("search s.toml").expect(0, &[]);
    let report = json(sandbox.read("s/report.json"));
    assert_eq!(report["standing"], "worse_than_not_training");
    conclusion_comes_first(&sandbox, &report, &outcome.stdout);
    let last = outcome.stdout.lines().last().unwrap();
    let winner = report["winner"].as_str().unwrap();
    assert_eq!(
        last,
        format!("plan of {winner}, worse than not training: s/winner.toml")
    );
    assert!(
        outcome
            .stdout
            .lines()
            .all(|line| line.chars().count() <= 80),
        "{}",
        outcome.stdout
    );
    // Made only of new blocks, the base has nothing to train in the source as it is.
    let new = "base.train.trainable=[\"new\"]";
    let outcome = sandbox
        .run(&format!(
            "search s.toml --set {new} --set out=n --set base.train.lr=1e-3"
        ))
        .expect(0, &[]);
    assert!(outcome.stdout.contains("continued"), "{}", outcome.stdout);
    sandbox.write("s.toml", SEARCH.replace("\"mine\"", "\"continued\""));
    sandbox.refuses(
        "search s.toml --dry-run",
        3,
        &["`continued`", "another name"],
    );
}

#[test]
fn pages_of_evaluations_and_analyses_open() {
    let sandbox = world();
    sandbox.run("grow ./m --to 4 --out g").expect(0, &[]);
    let eval = "eval ./m ./g --tasks hellaswag --data hellaswag=items.jsonl --val val.txt --context 64 --val-tokens 500 --out e";
    sandbox.run(eval).expect(0, &[]);
    sandbox
        .run("analyze ./g --text val.txt --windows 2 --context 32 --html a.html")
        .expect(0, &[]);
    for page in ["e/report.html", "a.html"] {
        stands_alone(&sandbox.path(page));
    }
    let Some(browser) = browser::browser() else {
        return;
    };
    browser::open(
        &browser,
        &sandbox.path("e/report.html"),
        r#"
        const dots = () => [...document.querySelectorAll('[data-dot]')];
        check(dots().length === 2, 'every checkpoint has its point');
        check(document.querySelector('.controls').textContent.startsWith('score'), 'scores to choose');
        check(dots().every((dot) => dot.querySelectorAll('line').length === 3), 'with an error bar');
        const panel = document.querySelector('.controls select');
        check(panel.options.length === 4, 'loss, acc, acc_norm, gold_nll');
        panel.value = '1';
        panel.dispatchEvent(new Event('change'));
        check(document.querySelector('.level') !== null, 'guessing is marked');
        dots()[1].dispatchEvent(new PointerEvent('pointermove', { bubbles: true }));
        check(document.getElementById('tip').textContent.includes('./g, 4 layers'), 'values are shown');
        "#,
    );
    browser::open(
        &browser,
        &sandbox.path("a.html"),
        r#"
        const rects = [...document.querySelectorAll('figure')].map((figure) => figure.querySelectorAll('rect').length);
        check(rects[0] >= 8 && rects[1] >= 4 && rects[2] === 10, 'bars for four blocks, and their angles: ' + rects);
        "#,
    );
}

/// Checkpoints of one training, and more of them than there are colours.
#[test]
fn a_training_is_drawn_along_its_tokens_and_series_stay_apart() {
    let sandbox = world();
    for step in [500, 1000, 1500, 20_000] {
        let name = format!("t/step-{step}");
        copy_dir(&sandbox.path("m"), &sandbox.path(&name));
        let state = format!("{{\"step\": {step}, \"tokens\": {}}}", step * 50_000);
        sandbox.write(&format!("{name}/trainer_state.json"), state);
    }
    let val = "--val val.txt --context 64 --val-tokens 500";
    sandbox
        .run(&format!("eval ./t/* {val} --out e"))
        .expect(0, &[]);
    for to in 3..15 {
        sandbox
            .run(&format!("grow ./m --to {to} --out f/d{to}"))
            .expect(0, &[]);
    }
    sandbox
        .run(&format!("eval ./f/* {val} --out f14"))
        .expect(0, &[]);
    let Some(browser) = browser::browser() else {
        return;
    };
    browser::open(
        &browser,
        &sandbox.path("e/report.html"),
        r#"
        const texts = () => [...document.querySelectorAll('figure .axis')].map((text) => text.textContent);
        check(texts().includes('tokens of training'), 'tokens are what differs: ' + texts());
        check(texts().includes('100M') && texts().includes('1B'), 'in words that people use: ' + texts());
        check(!texts().some((text) => /\d{6}|e\d/.test(text)), 'and no others: ' + texts());
        check(document.querySelectorAll('[data-series]').length === 1, 'one line for one training');
        check(document.querySelector('[data-series]').dataset.series === './t/step-*', 'called by what they share');
        const xs = [...document.querySelectorAll('[data-dot] .mark')].map((mark) => Number(/\((\S+)/.exec(mark.getAttribute('transform'))[1]));
        check(xs.length === 4 && xs.every((x, i) => i === 0 || x > xs[i - 1]), 'in the order of steps: ' + xs);
        const axis = document.querySelector('select[aria-label="against"]');
        check([...axis.options].map((option) => option.text).join() === 'tokens of training,steps of training,parameters', 'other axes');
        axis.value = '1';
        axis.dispatchEvent(new Event('change'));
        check(texts().includes('steps of training') && texts().includes('10k'), 'steps: ' + texts());
        "#,
    );
    browser::open(
        &browser,
        &sandbox.path("f14/report.html"),
        r#"
        const looks = [...document.querySelectorAll('[data-dot] .mark')].map((mark) => mark.getAttribute('fill') + mark.getAttribute('d'));
        check(looks.length === 12 && new Set(looks).size === 12, 'twelve looks: ' + looks);
        const texts = [...document.querySelectorAll('figure .axis')].map((text) => text.textContent);
        check(texts.includes('parameters'), 'sizes are what differs');
        "#,
    );
}
