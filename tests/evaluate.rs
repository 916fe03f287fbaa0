//! `eval` and `merge` as users run them: bad data, families, resume, shards, the hub.
#![allow(clippy::unwrap_used)]

#[path = "support/hub_server.rs"]
#[allow(dead_code)]
mod hub_server;
#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use hub_server::{Hub, Repo};
use sandbox::{Outcome, RECIPE, Sandbox, rows, with_recipe};
use scale_ckpt::eval::tasks::blimp::PARADIGMS;
use scale_ckpt::report::thousands;
use serde_json::{Value, json};
use support::{copy_dir, fixture};

const ITEM: &str = r#"{"ctx":"a b","ctx_a":"a","ctx_b":"b","activity_label":"c","endings":["b","c","d","e"],"label":3}"#;

fn json_of(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// A sandbox with a model, and HellaSwag items.
fn with_items(count: usize) -> Sandbox {
    let sandbox = Sandbox::with("hellaswag/model");
    let items = fs::read_to_string(fixture("hellaswag/hellaswag_val_200.jsonl")).unwrap();
    let items: Vec<&str> = items.lines().take(count).collect();
    sandbox.write("h.jsonl", items.join("\n"));
    sandbox
}

const EVAL: &str = "eval ./m --tasks hellaswag,hellaswag_completion --data hellaswag=h.jsonl";

#[test]
fn bad_items_are_named_by_file_and_line() {
    let table = r#"
"ctx" | "context" | completion | h.jsonl:2: missing field `ctx`
"ctx_a" | "context" | harness | h.jsonl:2: missing field `ctx_a`
,"e" |  | both | h.jsonl:2: expected 4 endings, found 3
3 | 4 | both | h.jsonl:2: expected a label from 0 to 3, found | 4
3 | "" | both | h.jsonl:2: expected a label from 0 to 3, found ""
3 | -1 | both | h.jsonl:2: | label
"c","d" | " ","d" | both | h.jsonl:2: ending 1 is empty
"a b" | "" | completion | h.jsonl:2: `ctx` is empty
["b" | [7 | both | h.jsonl:2: `endings`: expected a string, found 7
} |  | both | h.jsonl:2: EOF
LONG |  | both | h.jsonl:2: the line is longer than 1048576 bytes
WORDY |  | both | h.jsonl:2: choice 0 has | the model reads 512
"#;
    let sandbox = Sandbox::with("hellaswag/model");
    for row in rows(table) {
        let second = match row[0] {
            "LONG" => ITEM.replace("a b", &"a".repeat(1 << 20)),
            "WORDY" => ITEM.replace("[\"b\"", &format!("[\"{}\"", "b c ".repeat(600))),
            from => ITEM.replacen(from, row[1], 1),
        };
        sandbox.write("h.jsonl", format!("{ITEM}\n{second}\n{ITEM}"));
        for (task, protocol) in [
            ("hellaswag", "harness"),
            ("hellaswag_completion", "completion"),
        ] {
            if row[2] != "both" && row[2] != protocol {
                continue;
            }
            let eval = format!("eval ./m --tasks {task} --data hellaswag=h.jsonl --json");
            sandbox.refuses(&eval, 3, &row[3..]);
            let skipping = sandbox.run(&format!("{eval} --skip-bad")).expect(0, &[]);
            let report = json_of(&skipping);
            assert_eq!(report["models"][0]["tasks"][0]["n"], 2, "{row:?}");
            let (task, of_unfit) = (&report["tasks"][0], row[0] == "WORDY");
            assert_eq!(task["data"]["skipped"], u64::from(!of_unfit), "{row:?}");
            assert_eq!(task["unfit"], if of_unfit { json!([1]) } else { json!([]) });
        }
    }
}

#[test]
fn contexts_that_are_too_long_lose_their_left_end_and_are_counted() {
    let sandbox = Sandbox::with("hellaswag/model");
    let long = ITEM
        .replace("a b", &"so long ".repeat(400))
        .replace("\"a\"", &format!("\"{}\"", "so long ".repeat(400)));
    sandbox.write("h.jsonl", format!("{ITEM}\n{long}\n"));
    let outcome = sandbox.run(EVAL).expect(0, &[]);
    let words = "./m: 1 contexts lost their left end";
    assert_eq!(
        outcome.stdout.matches(words).count(),
        2,
        "{}",
        outcome.stdout
    );
    let report = json_of(&sandbox.run(&format!("{EVAL} --json")).expect(0, &[]));
    assert_eq!(report["models"][0]["tasks"][1]["truncated"], 1);
}

#[test]
fn a_model_in_training_is_scored_at_set_tokens() {
    let recipe = format!(
        "{RECIPE}[eval]\ntasks = [\"hellaswag_completion\"]\ndata = {{ hellaswag = \"h.jsonl\" }}\n\
         limit = 5\nevery_tokens = 1024\n"
    );
    let sandbox = with_recipe(&recipe);
    fs::copy(
        fixture("hellaswag/hellaswag_val_200.jsonl"),
        sandbox.path("h.jsonl"),
    )
    .unwrap();
    let run = "train r.toml --set train.tokens=3072";
    sandbox.run(run).expect(
        0,
        &["step 4: hellaswag_completion (protocol completion, 5 of 10,042 items) acc "],
    );
    let events = sandbox.events();
    let scored: Vec<_> = events
        .iter()
        .filter(|event| event.get("tasks").is_some())
        .collect();
    let steps: Vec<_> = scored
        .iter()
        .map(|event| event["step"].as_u64().unwrap())
        .collect();
    // Those after the last step are in the closing report.
    assert_eq!(steps, [4, 8]);
    let of = &scored[0]["tasks"][0];
    assert_eq!(
        (&of["task"], &of["protocol"]),
        (&"hellaswag_completion".into(), &"completion".into())
    );
    assert!(of["n"] == 5 && of["acc"].is_number() && of["gold_nll"].is_number());
    let report: Value = serde_json::from_slice(&sandbox.read("run/report.json")).unwrap();
    assert_eq!(report["models"][1]["tasks"][0]["n"], 5);
    sandbox
        .run("train r.toml --set train.tokens=3072 --set eval.tasks=[\"hellaswak\"]")
        .expect(3, &["eval.tasks: there is no task"]);
}

#[test]
fn damaged_and_foreign_files_are_named() {
    let sandbox = Sandbox::with("hellaswag/model");
    let eval = "eval ./m --tasks hellaswag_completion --data hellaswag=h.jsonl";
    let second = b"\n{\"ctx\":\"\xff\"}\n";
    sandbox.write("h.jsonl", [ITEM.as_bytes(), second].concat());
    sandbox.refuses(
        eval,
        3,
        &["h.jsonl:2: not UTF-8 at byte 8", "hint: --skip-bad"],
    );
    sandbox.write("h.jsonl", "\n\r\n");
    sandbox.refuses(eval, 3, &["h.jsonl: no items there"]);
    // A line of 200 MB, which is never held.
    let mut file = fs::File::create(sandbox.path("h.jsonl")).unwrap();
    file.write_all(format!("{ITEM}\n").as_bytes()).unwrap();
    file.seek(SeekFrom::Current(200 << 20)).unwrap();
    file.write_all(format!("\n{ITEM}\n").as_bytes()).unwrap();
    drop(file);
    sandbox.refuses(eval, 3, &["h.jsonl:2: the line is longer than"]);
    let report = json_of(
        &sandbox
            .run(&format!("{eval} --skip-bad --json"))
            .expect(0, &[]),
    );
    assert_eq!(report["models"][0]["tasks"][0]["n"], 2);
    // Windows line ends.
    sandbox.write("h.jsonl", format!("\u{feff}{ITEM}\r\n\r\n{ITEM}\r\n"));
    let report = json_of(&sandbox.run(&format!("{eval} --json")).expect(0, &[]));
    assert_eq!(report["models"][0]["tasks"][0]["n"], 2);
    sandbox.write("h.csv", "a,b\n");
    let table = "
--tasks hellaswag_completion --data hellaswag=x.jsonl | 3 | x.jsonl
--tasks hellaswag_completion --data hellaswag=h.csv | 3 | h.csv: a table of separated values
--tasks hellaswag_completion --data hellaswag=. | 3 | no hellaswag_completion.jsonl
--tasks hellaswak | 2 | no task `hellaswak`; there are hellaswag, | hint: did you mean `hellaswag`
--tasks blimp_passive1 | 2 | hint: did you mean `blimp_passive_1`
--tasks piqa --data pika=h.jsonl | 2 | data for `pika`, which no task reads | hint: did you mean `piqa`
--tasks piqa --data piqa | 2 | expected NAME=PATH
--tasks piqa | 4 | datasets/baber/piqa@main
--tasks hellaswag_completion --data hellaswag=h.jsonl --num-fewshot 2 | 2 | without examples
--tasks hellaswag --data hellaswag=h.jsonl --num-fewshot 2 | 2 | hint: give --fewshot-data hellaswag=FILE
--tasks hellaswag --data hellaswag=h.jsonl --num-fewshot 9 --fewshot-data hellaswag=h.jsonl | 2 | 2 examples to draw 10
--tasks hellaswag --data hellaswag=h.jsonl --sample-seed 3 | 2 | and no limit
--tasks hellaswag --data hellaswag=h.jsonl --num-fewshot 18446744073709551615 --fewshot-data hellaswag=h.jsonl | 2 | are more than 1000
--tasks hellaswag --data hellaswag=h.jsonl --shard 3/2 --out o | 2 | not i/n
--tasks hellaswag --data hellaswag=h.jsonl --shard 1/2 | 2 | --out
--val t.txt --shard 1/2 --out o | 2 | not shared out among shards
--val t.txt | 3 | fewer than context + 1
--val t.txt --context 9999 | 2 | --context 9999 | 1 to 512
--val t.txt --context 8 --stride 9 | 2 | tokens would be left out
--tasks hellaswag --data hellaswag=h.jsonl --out m | 2 | holds something else
--reproduce-published | 2 | no HellaSwag score of ./m
 | 2 | nothing to score on | hint: give --tasks
";
    sandbox.write("t.txt", "Some words to score, a few of them.");
    for row in rows(table) {
        sandbox.refuses(
            &format!("eval ./m {}", row[0]),
            row[1].parse().unwrap(),
            &row[2..],
        );
    }
    sandbox.refuses("eval ./nothing-*", 2, &["nothing to score on"]);
    sandbox.refuses("eval ./x-* --val t.txt", 3, &["no checkpoint matches"]);
    sandbox.write("f.toml", "models = [\"./m\"]\ntaks = [\"piqa\"]\n");
    sandbox.refuses("eval f.toml", 3, &["line 2", "hint: did you mean `tasks`"]);
    // The command line narrows a recipe.
    let recipe = "models = [\"./m\"]\ntasks = [\"piqa\", \"hellaswag\"]\n[data]\nhellaswag = \"h.jsonl\"\npiqa = \"p.jsonl\"\n";
    sandbox.write("n.toml", recipe);
    sandbox
        .run("eval n.toml --tasks hellaswag_completion")
        .expect(0, &["2 items"]);
    sandbox.refuses("eval n.toml", 3, &["p.jsonl"]);
    sandbox.refuses("eval f.toml ./m", 2, &["f.toml is a recipe"]);
}

/// Two checkpoints of one family: the model, and one with another last block.
fn family(count: usize) -> Sandbox {
    let sandbox = with_items(count);
    let grow = "grow ./m --to 4 --placement top --init copy --out step-2";
    sandbox.run(grow).expect(0, &[]);
    copy_dir(&sandbox.path("m"), &sandbox.path("step-1"));
    sandbox.write(
        "family.toml",
        r#"models = ["step-*"]
tasks = ["hellaswag", "hellaswag_completion"]
out = "e"
limit = 30
val = ["t.txt"]
context = 16
stride = 8
[data]
hellaswag = "h.jsonl"
"#,
    );
    sandbox.write("t.txt", "Some words to score, a few of them. ".repeat(20));
    sandbox
}

#[test]
fn a_family_is_scored_from_a_recipe_and_compared() {
    let sandbox = family(40);
    let outcome = sandbox.run("eval family.toml --json").expect(0, &[]);
    let report = json_of(&outcome);
    assert_eq!(report["models"].as_array().unwrap().len(), 2);
    assert_eq!(report["tasks"][0]["data"]["count"], 40);
    let first = &report["models"][0];
    assert_eq!(first["model"], "./step-1");
    assert_eq!(first["tasks"][0]["n"], 30);
    assert_eq!(first["tasks"][1]["protocol"], "completion");
    assert_eq!(
        (&first["val"]["stride"], &first["val"]["context"]),
        (&8.into(), &16.into())
    );
    assert!(first["val"]["words"].as_u64().unwrap() > 100);
    let comparisons = report["comparisons"].as_array().unwrap();
    let metric = |c: &Value| format!("{}/{}", c["task"], c["metric"]).replace('"', "");
    let metrics: Vec<_> = comparisons.iter().map(metric).collect();
    let of = |task: &str| ["acc", "acc_norm", "gold_nll"].map(|metric| format!("{task}/{metric}"));
    let wanted = [
        vec!["text/loss".to_owned()],
        of("hellaswag").into(),
        of("hellaswag_completion").into(),
    ];
    assert_eq!(metrics, wanted.concat());
    let difference = comparisons[0]["difference"].as_f64().unwrap();
    let loss = |model: usize| report["models"][model]["val"]["loss"].as_f64().unwrap();
    // The first window predicts more tokens than the others.
    assert!(
        (difference - (loss(1) - loss(0))).abs() < 0.05,
        "{difference}"
    );
    assert!(comparisons[1]["p"].as_f64().unwrap() <= 1.0);
    let shown = sandbox.run("eval family.toml").expect(0, &[]);
    for words in [
        "protocol harness, 30 of 10,042 items",
        "protocol completion, 30 of 10,042 items",
        "McNemar",
        "ppl/byte",
    ] {
        assert!(shown.stdout.contains(words), "{}", shown.stdout);
    }
    let csv = String::from_utf8(sandbox.read("e/scores.csv")).unwrap();
    assert!(
        csv.contains("./step-2,4,") && csv.contains(",hellaswag,harness,0,split_type="),
        "{csv}"
    );
    let markdown = String::from_utf8(sandbox.read("e/scores.md")).unwrap();
    assert!(
        markdown.contains("## hellaswag, protocol `harness`"),
        "{markdown}"
    );
    // Counts are separated for people, and bare for programs.
    let parameters = first["parameters"].as_u64().unwrap();
    let separated = thousands(parameters);
    assert_ne!(separated, parameters.to_string());
    let page = String::from_utf8(sandbox.read("e/report.html")).unwrap();
    assert!(page.contains(&format!(">{separated}<")), "{page}");
    for text in [&shown.stdout, &markdown] {
        assert!(text.contains(&separated), "{text}");
    }
    assert!(csv.contains(&format!(",{parameters},")), "{csv}");
}

/// The perplexity per word of a text that is one word is more than a double holds.
#[test]
fn a_text_without_blanks_has_a_perplexity_per_word() {
    let sandbox = family(12);
    let word: String = (0..6000_u32)
        .map(|i| char::from(b'a' + (i * i / 7 % 26) as u8))
        .collect();
    sandbox.write("word.txt", word);
    let evaluate = "eval ./step-1 --tasks hellaswag --data hellaswag=h.jsonl --limit 4 --val word.txt --context 16 --out w";
    let outcome = sandbox.run(evaluate).expect(0, &[]);
    let loss = json_of(&sandbox.run(&format!("{evaluate} --json")).expect(0, &[]));
    let val = &loss["models"][0]["val"];
    let nats = val["loss"].as_f64().unwrap() * val["tokens"].as_f64().unwrap();
    assert_eq!(val["words"], 1, "{val}");
    assert!(nats > 710.0, "{val}");
    let power = format!("e{:.0}", (nats / std::f64::consts::LN_10).trunc());
    for text in [
        outcome.stdout,
        String::from_utf8(sandbox.read("w/scores.md")).unwrap(),
    ] {
        let mut cells = text.split_whitespace();
        assert!(cells.any(|cell| cell.ends_with(&power)), "{power}: {text}");
        assert!(!text.contains("inf"), "{text}");
    }
    let csv = String::from_utf8(sandbox.read("w/scores.csv")).unwrap();
    assert!(
        csv.contains("byte_perplexity") && !csv.contains("inf"),
        "{csv}"
    );
}

/// Four checkpoints along a training, and names longer than a terminal holds.
fn training() -> Sandbox {
    let sandbox = family(12);
    for step in [500, 1000, 1500, 20_000] {
        let folder = format!("runs/with-a-name-as-long-as-people-give-them/step-{step}");
        fs::create_dir_all(sandbox.path(&folder).parent().unwrap()).unwrap();
        copy_dir(&sandbox.path("m"), &sandbox.path(&folder));
    }
    sandbox
}

const ON: &str = "--tasks hellaswag --data hellaswag=h.jsonl --val t.txt --context 16";

fn models_of(outcome: &Outcome) -> Vec<String> {
    let report = json_of(outcome);
    let models = report["models"].as_array().unwrap().iter();
    models
        .map(|m| {
            m["model"]
                .as_str()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn checkpoints_of_a_glob_come_in_the_order_of_their_numbers() {
    let sandbox = training();
    let sorted = ["step-500", "step-1000", "step-1500", "step-20000"];
    let listed = "eval ./runs/*/step-* --val t.txt --context 16 --json";
    assert_eq!(models_of(&sandbox.run(listed).expect(0, &[])), sorted);
    // As a shell lists them.
    let long = "./runs/with-a-name-as-long-as-people-give-them";
    let [a, b, c, d] = [1000, 1500, 20_000, 500].map(|step| format!("{long}/step-{step}"));
    let typed = format!("eval ./m {a} {b} {c} {d} --val t.txt --context 16 --json");
    let found = models_of(&sandbox.run(&typed).expect(0, &[]));
    assert_eq!(found[1..], sorted);
    // Two stand as they were named.
    let typed = format!("eval {c} {d} --val t.txt --context 16 --json");
    assert_eq!(
        models_of(&sandbox.run(&typed).expect(0, &[])),
        ["step-20000", "step-500"]
    );
}

#[test]
fn many_models_are_compared_with_a_baseline_or_not_at_all() {
    let sandbox = training();
    let many = "eval ./runs/*/step-*";
    let outcome = sandbox.run(&format!("{many} {ON} --out e")).expect(0, &[]);
    assert!(
        outcome.stdout.contains("--baseline MODEL"),
        "{}",
        outcome.stdout
    );
    assert!(!outcome.stdout.contains("McNemar"), "{}", outcome.stdout);
    assert!(
        outcome
            .stdout
            .lines()
            .all(|line| line.chars().count() <= 80),
        "{}",
        outcome.stdout
    );
    let full = "./runs/with-a-name-as-long-as-people-give-them/step-20000";
    assert!(
        outcome.stdout.contains(&format!("\n  {full}\n")),
        "{}",
        outcome.stdout
    );
    let comparisons =
        || -> Vec<Value> { serde_json::from_slice(&sandbox.read("e/comparisons.json")).unwrap() };
    assert_eq!(comparisons(), [json!(null); 0]);
    let text = |name: &str| String::from_utf8(sandbox.read(name)).unwrap();
    for name in ["e/scores.md", "e/report.html"] {
        assert!(text(name).contains("--baseline MODEL"), "{name}");
    }

    // Nothing is scored again; the baseline need not be written as the glob gives it.
    let named = full.trim_start_matches("./").to_owned() + "/";
    let outcome = sandbox
        .run(&format!("{many} {ON} --out e --baseline {named}"))
        .expect(0, &[]);
    assert!(!outcome.stderr.contains("items in"), "{}", outcome.stderr);
    assert!(
        outcome
            .stdout
            .lines()
            .all(|line| line.chars().count() <= 80),
        "{}",
        outcome.stdout
    );
    let found = comparisons();
    assert!(
        found.iter().all(|c| c["a"] == full && c["b"] != full),
        "{found:#?}"
    );
    // The text's loss and three metrics, for three models.
    assert_eq!(found.len(), 12);

    // A baseline that is not among them is scored too.
    let outcome = sandbox
        .run(&format!("{many} {ON} --baseline ./m --json"))
        .expect(0, &[]);
    let report = json_of(&outcome);
    assert_eq!(report["models"].as_array().unwrap().len(), 5);
    assert_eq!(report["baseline"], "./m");
    let all = report["comparisons"].as_array().unwrap();
    assert!(
        all.len() == 16 && all.iter().all(|c| c["a"] == "./m"),
        "{all:#?}"
    );
    let missing = format!("eval ./m {ON} --baseline ./m");
    sandbox.refuses(&missing, 2, &["--baseline ./m", "no other checkpoint"]);
    let several = format!("eval ./m {ON} --baseline ./runs/*/step-*");
    sandbox.refuses(&several, 2, &["4 checkpoints match"]);

    // From a recipe, and from shards.
    let recipe = fs::read_to_string(sandbox.path("family.toml")).unwrap();
    sandbox.write(
        "b.toml",
        format!("baseline = \"step-2\"\n{recipe}").replace("\"e\"", "\"r\""),
    );
    let report = json_of(&sandbox.run("eval b.toml --json").expect(0, &[]));
    assert_eq!(report["comparisons"][0]["a"], "./step-2");
    let shard = "eval ./runs/*/step-* --tasks hellaswag --data hellaswag=h.jsonl";
    for number in 1..=2 {
        sandbox
            .run(&format!(
                "{shard} --shard {number}/2 --out s{number} --baseline {named}"
            ))
            .expect(0, &[]);
    }
    let merged = |set: &str| {
        json_of(
            &sandbox
                .run(&format!("merge s1 s2 --out {set} --json"))
                .expect(0, &[]),
        )
    };
    assert_eq!(merged("w")["comparisons"][0]["a"], full);
    let other = full.replace("20000", "500");
    assert_eq!(
        merged(&format!("v --baseline {other}"))["comparisons"][0]["a"],
        other
    );
    sandbox.refuses(
        "merge s1 s2 --out u --baseline z",
        2,
        &["no model is called that"],
    );
}

/// One item, one window, and answers that are all alike give no standard error, and no interval.
#[test]
fn what_so_few_items_cannot_say_is_not_said() {
    let sandbox = family(40);
    let run = |models: &str, limit: usize| {
        let set =
            "--tasks hellaswag --data hellaswag=h.jsonl --val t.txt --context 16 --val-tokens 16";
        sandbox
            .run(&format!(
                "eval {models} {set} --limit {limit} --out e{limit}"
            ))
            .expect(0, &[])
    };
    let outcome = run("./step-1 ./step-2", 1);
    assert!(!outcome.stdout.contains("± 0.0"), "{}", outcome.stdout);
    for words in ["too few items", "too few windows", "Wilson", "without ±"] {
        assert!(
            outcome.stdout.contains(words),
            "{words}: {}",
            outcome.stdout
        );
    }
    let results: Value =
        serde_json::from_slice(&sandbox.read("e1/step-1/results_scale-ckpt.json")).unwrap();
    // As the harness has it.
    assert_eq!(results["results"]["hellaswag"]["acc_stderr,none"], "N/A");
    let csv = String::from_utf8(sandbox.read("e1/scores.csv")).unwrap();
    assert!(csv.lines().skip(1).all(|line| line.ends_with(',')), "{csv}");
    for name in ["e1/scores.md", "e1/report.html"] {
        let text = String::from_utf8(sandbox.read(name)).unwrap();
        assert!(
            !text.contains("± 0.0") && text.contains("too few items"),
            "{name}: {text}"
        );
    }
    // The same model twice differs nowhere.
    copy_dir(&sandbox.path("m"), &sandbox.path("same"));
    let outcome = run("./m ./same", 30);
    let found: Vec<Value> = serde_json::from_slice(&sandbox.read("e30/comparisons.json")).unwrap();
    let of_items = found.iter().filter(|c| c["task"] == "hellaswag");
    for c in of_items {
        assert!(
            c["interval"].is_null() && c["no_interval"] == "no_spread",
            "{c}"
        );
    }
    assert!(outcome.stdout.contains("no spread"), "{}", outcome.stdout);
}

#[test]
fn results_have_the_keys_of_the_harness() {
    let sandbox = with_items(5);
    fs::create_dir(sandbox.path("b")).unwrap();
    let sentences = fs::read_to_string(fixture("eval/data/blimp/passive_1.jsonl")).unwrap();
    for (paradigm, _) in PARADIGMS {
        let uid = sentences.replace("\"passive_1\"", &format!("\"{paradigm}\""));
        sandbox.write(&format!("b/{paradigm}.jsonl"), uid);
    }
    let data = "--data hellaswag=h.jsonl --data blimp=b";
    let eval = |tasks: &str| sandbox.run(&format!("eval ./m --tasks {tasks} {data} --out e"));
    let outcome =
        eval("hellaswag,blimp").expect(0, &["blimp: 335 items of 67 paradigms, 0 of them full"]);
    let words = "blimp (protocol harness, 335 of 67,000 items, mean of 67 paradigms)";
    assert!(outcome.stdout.contains(words), "{}", outcome.stdout);
    let read = || -> Value {
        serde_json::from_slice(&sandbox.read("e/m/results_scale-ckpt.json")).unwrap()
    };
    let results = read();
    let of = &results["results"]["hellaswag"];
    for key in [
        "alias",
        "acc,none",
        "acc_stderr,none",
        "acc_norm,none",
        "acc_norm_stderr,none",
    ] {
        assert!(!of[key].is_null(), "{key}: {results}");
    }
    let mean = |task: &str| results["results"][task]["acc,none"].as_f64().unwrap();
    let all = PARADIGMS
        .iter()
        .map(|(paradigm, _)| mean(&format!("blimp_{paradigm}")));
    assert!((mean("blimp") - all.sum::<f64>() / 67.0).abs() < 1e-12);
    assert_eq!(results["groups"]["blimp"], results["results"]["blimp"]);
    assert_eq!(
        results["group_subtasks"]["blimp"].as_array().unwrap().len(),
        67
    );
    assert_eq!(results["versions"]["hellaswag"], 1.0);
    assert_eq!(results["n-shot"]["hellaswag"], 0);
    assert_eq!(results["higher_is_better"]["hellaswag"]["acc"], true);
    assert_eq!(results["higher_is_better"]["hellaswag"]["gold_nll"], false);
    assert_eq!(
        results["n-samples"]["hellaswag"],
        json!({ "original": 5, "effective": 5 })
    );
    let samples = String::from_utf8(sandbox.read("e/m/samples_hellaswag.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 5);
    // Some paradigms are not BLiMP.
    let outcome = eval("hellaswag,blimp_passive_1,blimp_causative").expect(0, &[]);
    assert!(
        outcome
            .stdout
            .contains("blimp_causative (protocol harness, 5 of 1,000 items)")
    );
    assert!(read().get("groups").is_none() && read()["results"].get("blimp").is_none());
}

/// What an evaluation left: names and contents below its folder.
fn files(sandbox: &Sandbox, folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let root = sandbox.path(folder);
    sandbox
        .tree()
        .into_iter()
        .filter_map(|(path, content)| Some((path.strip_prefix(&root).ok()?.to_owned(), content)))
        .collect()
}

#[track_caller]
fn assert_same(sandbox: &Sandbox, a: &str, b: &str) {
    let (a, b) = (files(sandbox, a), files(sandbox, b));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    let differing: Vec<_> = a
        .iter()
        .filter(|(name, content)| b[*name] != **content)
        .collect();
    assert!(
        differing.is_empty(),
        "{:?}",
        differing.first().map(|(name, _)| name)
    );
}

#[test]
fn killed_at_any_moment_it_ends_with_the_same_bytes() {
    let sandbox = with_items(40);
    sandbox.run(&format!("{EVAL} --out whole")).expect(0, &[]);
    copy_dir(&sandbox.path("whole"), &sandbox.path("kept"));
    let mut kills = 0;
    for moment in 1.. {
        let out = format!("out-{moment}");
        let mut command = sandbox.command(&format!("{EVAL} --out {out}"));
        command.env("SCALE_CKPT_KILL_AT", moment.to_string());
        if Outcome::of(command).code == Some(0) {
            break;
        }
        kills += 1;
        sandbox.run(&format!("{EVAL} --out {out}")).expect(0, &[]);
        assert_same(&sandbox, &out, "whole");
        fs::remove_dir_all(sandbox.path(&out)).unwrap();
    }
    assert!(kills >= 20, "{kills}");
    // A line that a crash left unfinished is dropped, and its item scored again.
    let journal = |name: &str| {
        let items = fs::read_dir(sandbox.path("whole/items")).unwrap();
        let mut paths = items.map(|entry| entry.unwrap().path());
        paths
            .find(|path| path.to_string_lossy().contains(name))
            .unwrap()
    };
    let path = journal("hellaswag-");
    let content = fs::read(&path).unwrap();
    fs::write(&path, &content[..content.len() / 2]).unwrap();
    sandbox
        .run(&format!("{EVAL} --out whole"))
        .expect(0, &["items in"]);
    assert_same(&sandbox, "whole", "kept");
}

#[test]
fn scores_are_kept_for_what_they_were_made_of() {
    let sandbox = with_items(12);
    let eval = |more: &str| {
        sandbox
            .run(&format!("{EVAL} --out e {more}"))
            .expect(0, &[])
            .stderr
    };
    assert!(eval("").contains("hellaswag: 12 items in"));
    assert!(!eval("").contains("items in"), "everything was there");
    assert!(!eval("--limit 7").contains("items in"), "a part was there");
    sandbox.write(
        "h.jsonl",
        [&sandbox.read("h.jsonl")[..], b"\n", ITEM.as_bytes()].concat(),
    );
    assert!(eval("").contains("hellaswag: 13 items in"), "other data");
    let config = String::from_utf8(sandbox.read("m/config.json")).unwrap();
    let other = config.replace("1e-05", "1e-03");
    assert_ne!(config, other);
    sandbox.write("m/config.json", &other);
    assert!(
        eval("").contains("hellaswag: 13 items in"),
        "another configuration"
    );
    sandbox.write("m/config.json", &config);
    assert!(!eval("").contains("items in"), "as it was before");
    let weights = fs::read_dir(sandbox.path("m")).unwrap();
    let mut weights = weights.map(|entry| entry.unwrap().path());
    let weights = weights
        .find(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .unwrap();
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    assert!(eval("").contains("hellaswag: 13 items in"), "other weights");
}

#[test]
fn shards_merge_into_the_whole() {
    let sandbox = with_items(25);
    sandbox.run(&format!("{EVAL} --out whole")).expect(0, &[]);
    for shard in 1..=3 {
        let part = format!("{EVAL} --shard {shard}/3 --out part-{shard}");
        let outcome = sandbox.run(&part).expect(0, &[]);
        assert!(outcome.stdout.contains("`scale-ckpt merge` joins"));
    }
    sandbox.refuses(
        "merge part-1 part-3 --out x",
        2,
        &["1 of 3 shards missing: 2/3"],
    );
    sandbox.refuses(
        "merge part-1 whole --out x",
        3,
        &["whole: a whole evaluation"],
    );
    sandbox.refuses("merge nowhere --out x", 3, &["nowhere"]);
    std::fs::create_dir(sandbox.path("run")).unwrap();
    sandbox.refuses(
        "merge run --out x",
        3,
        &["run: not a folder of `eval --out`"],
    );
    sandbox
        .run("merge part-2 part-1 part-3 --out merged")
        .expect(0, &[]);
    assert_same(&sandbox, "merged", "whole");
    sandbox
        .run(&format!("{EVAL} --limit 20 --shard 2/3 --out part-4"))
        .expect(0, &[]);
    sandbox.refuses(
        "merge part-1 part-4 part-3 --out x",
        3,
        &["part-4: another evaluation", "items differ"],
    );
    let items = fs::read_dir(sandbox.path("part-2/items")).unwrap();
    for path in items.map(|entry| entry.unwrap().path()) {
        fs::write(path, "").unwrap();
    }
    let merge = "merge part-1 part-2 part-3 --out y";
    sandbox
        .run(merge)
        .expect(3, &["no score of item 1", "run it again"]);
}

#[test]
fn odd_shards_and_merges_do_no_harm() {
    let sandbox = with_items(5);
    copy_dir(&sandbox.path("m"), &sandbox.path("p"));
    let pair = EVAL.replace("./m", "./m ./p");
    // More shards than items: some have none.
    sandbox
        .run(&format!("{pair} --shard 7/8 --out s"))
        .expect(0, &[]);
    for shard in 1..=2 {
        sandbox
            .run(&format!("{EVAL} --shard {shard}/2 --out z{shard}"))
            .expect(0, &[]);
    }
    sandbox.refuses(
        "merge z1 z2 --out z1",
        2,
        &["--out z1 is one of the shards"],
    );
    sandbox
        .run(&format!("{EVAL} --shard 3/3 --out z3"))
        .expect(0, &[]);
    sandbox.refuses(
        "merge z1 z2 z3 --out x",
        3,
        &["z3: shard 3/3, beside shards of 2"],
    );
    sandbox.refuses(
        &format!("{EVAL} --shard 1/99999999999 --out y"),
        2,
        &["is not i/n"],
    );
    // A damaged file of scores is not taken for scores.
    let mut journals = fs::read_dir(sandbox.path("z2/items")).unwrap();
    let journal = journals.next().unwrap().unwrap().path();
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(
        &journal,
        text.replacen("\"loglik\":[", "\"loglik\":[],\"x\":[", 1),
    )
    .unwrap();
    sandbox.refuses("merge z1 z2 --out x", 3, &["no score of item 1", "damaged"]);
}

#[test]
fn the_plain_way_is_not_taken_from_what_the_other_found() {
    let sandbox = with_items(5);
    sandbox.run(&format!("{EVAL} --out e")).expect(0, &[]);
    let shared = sandbox.read("e/m/samples_hellaswag.jsonl");
    let plain = format!("{EVAL} --out e --plain");
    sandbox.run(&plain).expect(0, &["hellaswag: 5 items in"]);
    assert!(sandbox.read("e/m/samples_hellaswag.jsonl") == shared);
}

#[test]
fn losses_on_texts_are_kept_too() {
    let sandbox = Sandbox::with("hellaswag/model");
    sandbox.write("t.txt", "Some words to score, a few of them. ".repeat(20));
    let eval = "eval ./m --val t.txt --context 16 --out e --json";
    let first = sandbox.run(eval).expect(0, &[]);
    let kept = fs::read_dir(sandbox.path("e/items")).unwrap();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    // What is kept is what is told.
    let text = fs::read_to_string(&kept[0]).unwrap();
    fs::write(
        &kept[0],
        text.replacen("\"context\":16", "\"context\":17", 1),
    )
    .unwrap();
    let second = sandbox.run(eval).expect(0, &[]);
    assert_eq!(json_of(&first)["models"][0]["val"]["context"], 16);
    assert_eq!(json_of(&second)["models"][0]["val"]["context"], 17);
    let other = sandbox.run(&eval.replace("16", "8")).expect(0, &[]);
    assert_eq!(json_of(&other)["models"][0]["val"]["context"], 8);
    let huge = format!(
        "eval ./m --val t.txt --context 16 --json --val-tokens {}",
        u64::MAX
    );
    let all = sandbox.run(&huge).expect(0, &[]);
    assert_eq!(
        json_of(&all)["models"][0]["val"],
        json_of(&first)["models"][0]["val"]
    );
}

#[test]
fn records_of_other_tasks_are_checked_too() {
    let table = r#"
arc_easy | {"question":{"text":"x"},"answerKey":"A"} | missing field `stem`
arc_easy | {"question":"x","choices":{"texts":["a","b"],"label":["A","B"]},"answerKey":"A"} | missing field `text`
arc_easy | {"question":"x","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"C"} | answerKey `C` is none of A, B
arc_easy | {"question":"x","choices":{"text":["a"],"label":["A"]},"answerKey":"A"} | 1 choices with 1 labels
arc_easy | {"question":"x","choices":[{"label":"A"}],"answerKey":"A"} | expected a string, found null
arc_easy | {"query":"Question: x","choices":[],"gold":0} | expected 2 choices or more, found 0
piqa | {"goal":"g","sol1":"a","label":0} | missing field `sol2`
piqa | {"goal":"g","sol1":"a","sol2":"b","label":2} | expected a label from 0 to 1, found 2
winogrande | {"sentence":"no gap","option1":"a","option2":"b","answer":"1"} | has no gap
winogrande | {"sentence":"a _ b","option1":"a","option2":"b","answer":""} | expected an answer of 1 or 2
lambada_openai | {"text":"word"} | a single word
blimp_causative | {"sentence_good":"a"} | missing field `sentence_bad`
blimp_causative | {"sentence_good":"a","sentence_bad":"b","UID":"passive_1"} | expected the paradigm causative, found passive_1
"#;
    let sandbox = Sandbox::with("hellaswag/model");
    for row in rows(table) {
        let (task, record, words) = (row[0], row[1], row[2]);
        let dataset = task.split("_causative").next().unwrap();
        sandbox.write("d.jsonl", record);
        let eval = format!("eval ./m --tasks {task} --data {dataset}=d.jsonl");
        sandbox.refuses(&eval, 3, &["d.jsonl:1: ", words]);
        sandbox.refuses(
            &format!("{eval} --skip-bad"),
            3,
            &["d.jsonl: no items there"],
        );
    }
}

#[test]
fn a_run_leaves_bad_items_out_where_its_recipe_says_so() {
    let recipe = RECIPE.replace("10240", "512");
    let recipe = format!(
        "{recipe}[eval]\ntasks = [\"hellaswag_completion\"]\ndata = {{ hellaswag = \"h.jsonl\" }}\n"
    );
    let sandbox = with_recipe(&recipe);
    let wordy = ITEM.replace("[\"b\"", &format!("[\"{}\"", "b c ".repeat(600)));
    for second in [wordy.as_str(), "{}"] {
        sandbox.write("h.jsonl", format!("{ITEM}\n{second}\n{ITEM}"));
        let words = ["h.jsonl:2: ", "in the recipe of a run eval.skip_bad = true"];
        sandbox.refuses("train r.toml", 3, &words);
    }
    sandbox.write("h.jsonl", format!("{ITEM}\n{wordy}\n{{}}\n{ITEM}"));
    let words = [
        "hellaswag_completion: 1 bad item left out",
        "hellaswag_completion: 1 item left out, too long",
    ];
    let outcome = sandbox
        .run("train r.toml --set eval.skip_bad=true --json")
        .expect(0, &words);
    assert_eq!(json_of(&outcome)["models"][0]["tasks"][0]["n"], 2);
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let sandbox = with_items(3);
    let weights = sandbox.path("m/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // Numbers of f16 that are not finite.
    bytes[8 + header..]
        .chunks_exact_mut(2)
        .for_each(|x| x.copy_from_slice(&[0xff, 0x7e]));
    fs::write(&weights, bytes).unwrap();
    let words = ["./m: hellaswag, item 0", "not finite", "hint: "];
    sandbox.run(&format!("{EVAL} --out e")).expect(3, &words);
}

#[test]
fn results_of_an_earlier_evaluation_are_replaced() {
    let sandbox = with_items(4);
    copy_dir(&sandbox.path("m"), &sandbox.path("p"));
    let both = EVAL.replace("./m", "./m ./p ./m");
    sandbox.run(&format!("{both} --out e")).expect(0, &[]);
    let one = "eval ./p --tasks hellaswag --data hellaswag=h.jsonl --out e";
    let told = sandbox
        .run(one)
        .expect(0, &["e: 4 files of results", "items' scores stay"]);
    assert!(!told.stderr.contains("items in"), "{}", told.stderr);
    sandbox
        .run(&one.replace("--out e", "--out f"))
        .expect(0, &[]);
    let without_items = |folder: &str| {
        let mut files = files(&sandbox, folder);
        files.retain(|path, content| !path.starts_with("items") && !content.is_empty());
        files
    };
    assert!(without_items("e") == without_items("f"));
}

#[test]
fn few_shot_scores_are_called_that() {
    let sandbox = Sandbox::with("hellaswag/model");
    fs::copy(fixture("eval/data/arc_easy.jsonl"), sandbox.path("a.jsonl")).unwrap();
    let eval = "eval ./m --tasks arc_easy --data arc_easy=a.jsonl --limit 6 --fewshot-data arc_easy=a.jsonl";
    let shown = sandbox
        .run(&format!("{eval} --num-fewshot 2 --out e"))
        .expect(0, &[])
        .stdout;
    assert!(
        shown.contains("arc_easy (protocol harness, 2-shot, 6 of 2,376 items)"),
        "{shown}"
    );
    sandbox.refuses(eval, 2, &["not how many to use", "--num-fewshot"]);
    // The first sample of the harness's keys.
    let samples = String::from_utf8(sandbox.read("e/m/samples_arc_easy.jsonl")).unwrap();
    let first: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
    for key in ["doc_id", "target", "acc", "acc_norm"] {
        assert!(first[key].is_number(), "{key}: {first}");
    }
    assert_eq!(first["filtered_resps"].as_array().unwrap().len(), 4);
}

#[test]
fn losses_in_windows_that_differ_are_not_put_side_by_side_unsaid() {
    let sandbox = Sandbox::with("hellaswag/model");
    copy_dir(&fixture("prose-4l"), &sandbox.path("p"));
    let prose = fs::read_to_string(fixture("prose/val.txt")).unwrap();
    sandbox.write("t.txt", prose.chars().take(4000).collect::<String>());
    let shown = sandbox
        .run("eval ./m ./p --val t.txt")
        .expect(0, &[])
        .stdout;
    assert!(shown.contains("not comparable; give --context"), "{shown}");
    assert!(
        shown.contains("./m: 1,024 tokens in windows of 512"),
        "{shown}"
    );
    let shown = sandbox
        .run("eval ./m ./p --val t.txt --context 64")
        .expect(0, &[])
        .stdout;
    assert!(!shown.contains("not comparable"), "{shown}");
}

#[test]
fn samples_are_drawn_by_seed() {
    let sandbox = with_items(30);
    let drawn = |seed: &str| {
        let eval = format!("eval ./m --tasks hellaswag --data hellaswag=h.jsonl --limit 8 {seed}");
        sandbox
            .run(&format!("{eval} --out e-{}", seed.len()))
            .expect(0, &[]);
        let samples = sandbox.read(&format!("e-{}/m/samples_hellaswag.jsonl", seed.len()));
        let lines = String::from_utf8(samples).unwrap();
        let item = |line: &str| {
            serde_json::from_str::<Value>(line).unwrap()["item"]
                .as_u64()
                .unwrap()
        };
        lines.lines().map(item).collect::<Vec<_>>()
    };
    assert_eq!(drawn(""), (0..8).collect::<Vec<_>>());
    let one = drawn("--sample-seed 1");
    assert_eq!(one.len(), 8);
    assert!(one.is_sorted() && one != drawn("--sample-seed 22"));
}

const COMMIT: &str = "1111111111111111111111111111111111111111";

/// The program with a hub that has HellaSwag, and something called gpt2.
fn at_hub(sandbox: &Sandbox, hub: &Hub, args: &str) -> Outcome {
    let mut command = sandbox.command(args);
    command
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HOME", sandbox.path("hf"))
        .env_remove("HF_HUB_OFFLINE");
    Outcome::of(command)
}

#[test]
fn data_comes_from_the_hub() {
    let sandbox = Sandbox::with("hellaswag/model");
    let table = fs::read(fixture("eval/data/hellaswag_40.parquet")).unwrap();
    let mut repo = Repo::default();
    repo.commit(
        COMMIT,
        [
            ("README.md", &b"about"[..]),
            ("data/train-00000-of-00001.parquet", b"not looked at"),
            ("data/validation-00000-of-00001.parquet", &table),
        ],
    );
    let hub = Hub::serve("datasets/Rowan/hellaswag", repo);
    let outcome = at_hub(&sandbox, &hub, "eval ./m --tasks hellaswag --json").expect(0, &[]);
    assert_eq!(json_of(&outcome)["models"][0]["tasks"][0]["n"], 40);
    let downloads = hub.downloads();
    assert!(downloads.iter().any(|path| path.contains("/resolve/")));
    assert!(
        downloads.iter().all(|path| !path.contains("train")),
        "{downloads:?}"
    );
    // Offline, from the cache.
    let mut offline = sandbox.command("eval ./m --tasks hellaswag --json");
    offline.env("HF_HOME", sandbox.path("hf"));
    assert_eq!(
        json_of(&Outcome::of(offline).expect(0, &[])),
        json_of(&outcome)
    );
}

#[test]
fn published_scores_that_do_not_come_out_are_a_failure() {
    let sandbox = Sandbox::new();
    let file = |name: &str| fs::read(fixture("hellaswag/model").join(name)).unwrap();
    let names = ["config.json", "model.safetensors", "tokenizer.json"];
    let files = names.map(|name| (name, file(name)));
    let mut model = Repo::default();
    model.commit(
        COMMIT,
        files.iter().map(|(name, bytes)| (*name, &bytes[..])),
    );
    let hub = Hub::serve("gpt2", model);
    let table = fs::read(fixture("eval/data/hellaswag_40.parquet")).unwrap();
    let mut data = Repo::default();
    data.commit(
        COMMIT,
        [("data/validation-00000-of-00001.parquet", &table[..])],
    );
    hub.also("datasets/Rowan/hellaswag", data);
    let words = ["2 published scores were not reproduced"];
    let outcome = at_hub(&sandbox, &hub, "eval gpt2 --reproduce-published").expect(1, &words);
    for words in [
        "differs: gpt2 hellaswag_completion: acc ",
        "published 28.59",
        "differs: gpt2 hellaswag: acc ",
        "published 31.14",
    ] {
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
}
