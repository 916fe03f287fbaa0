//! `data prepare` and the shards that it, llm.c, nanoGPT and build-nanogpt write.
#![allow(clippy::unwrap_used)]

#[path = "support/hub_server.rs"]
#[allow(dead_code)]
mod hub_server;
#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use flate2::write::GzEncoder;
use hub_server::{Hub, Repo};
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Outcome, RECIPE, Sandbox, with_recipe};
use scale_ckpt::data::prepare::{Options, ValSize, prepare};
use scale_ckpt::data::{Batches, Order, Split, Tokenizer, Tokens};
use scale_ckpt::error;
use serde_json::{Value, json};
use support::fixture;

fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixture("data/expected.json")).unwrap()).unwrap()
}

fn documents() -> Vec<String> {
    let documents = expected()["documents"].as_array().unwrap().clone();
    documents
        .iter()
        .map(|d| d.as_str().unwrap().to_owned())
        .collect()
}

fn jsonl(documents: &[String], end: &str) -> String {
    let line = |text: &String| format!("{}{end}", json!({ "id": 1, "text": text, "more": [null] }));
    documents.iter().map(line).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Names and bytes of the files in a folder.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    entries
        .map(|path| (name(&path), fs::read(&path).unwrap()))
        .collect()
}

/// The tokens of a prepared folder's training shards.
fn train_tokens(dir: &Path) -> Vec<u32> {
    let tokens = Tokens::open(&[dir.to_owned()], Split::Train, &Tokenizer::gpt2(), 50257).unwrap();
    tokens.read(0, tokens.len() as usize).unwrap()
}

#[test]
fn every_format_gives_the_file_that_python_writes() {
    let sandbox = Sandbox::new();
    let documents = documents();
    let lines = jsonl(&documents, "\n");
    sandbox.write("a.jsonl", &lines);
    sandbox.write(
        "crlf.ndjson",
        format!("\u{feff}{}\r\n", jsonl(&documents, "\r\n")),
    );
    sandbox.write("b.jsonl.gz", gzip(lines.as_bytes()));
    // Two members, as from concatenated files.
    let half = lines.find("\n").unwrap() + 1;
    let members = [
        gzip(&lines.as_bytes()[..half]),
        gzip(&lines.as_bytes()[half..]),
    ];
    sandbox.write("c.jsonl.gz", members.concat());
    sandbox.write("d.jsonl.zst", zstd(lines.as_bytes()));
    for name in ["snappy", "zstd-v2", "gzip", "none-delta", "required"] {
        let name = format!("{name}.parquet");
        fs::copy(fixture("data").join(&name), sandbox.path(&name)).unwrap();
    }
    let expected = fs::read(fixture("data/llmc.bin")).unwrap();
    for input in [
        "a.jsonl",
        "crlf.ndjson",
        "b.jsonl.gz",
        "c.jsonl.gz",
        "d.jsonl.zst",
        "snappy.parquet",
        "zstd-v2.parquet",
        "gzip.parquet",
        "none-delta.parquet",
        "required.parquet --field content",
    ] {
        let args = format!("data prepare {input} --out out --val-fraction 0 --force");
        let outcome = sandbox.run(&args).expect(0, &[]);
        assert!(
            outcome
                .stdout
                .contains("508 tokens of 12 documents in 1 shard"),
            "{input}"
        );
        assert!(
            sandbox.read("out/out_train_000001.bin") == expected,
            "{input}"
        );
    }
}

#[test]
fn text_is_split_into_the_documents_that_training_sees() {
    let sandbox = Sandbox::new();
    let text =
        "\u{feff}  One.\n<|endoftext|>\r\nTwo\r\nlines.\n\n<|endoftext|> \n<|endoftext|>Drei ß";
    sandbox.write("a.txt", text);
    sandbox.write("b.txt.gz", gzip(text.as_bytes()));
    sandbox.write("c.txt.zst", zstd(text.as_bytes()));
    let gpt2 = Tokenizer::gpt2();
    let memory = Tokens::from_files(&[sandbox.path("a.txt")], &gpt2).unwrap();
    let memory = memory.read(0, memory.len() as usize).unwrap();
    for input in ["a.txt", "b.txt.gz", "c.txt.zst"] {
        let args = format!("data prepare {input} --out out --val-fraction 0 --force");
        sandbox.run(&args).expect(0, &[]);
        assert_eq!(train_tokens(&sandbox.path("out")), memory, "{input}");
    }
}

#[test]
fn a_document_that_is_cut_for_memory_has_the_tokens_of_the_whole() {
    let sandbox = Sandbox::new();
    let sentence = "It's one long document,  with 12 numbers\n\nand\u{a0}ümlauts. ";
    let text = sentence.repeat((13 << 20) / sentence.len());
    sandbox.write("long.txt", &text);
    sandbox
        .run("data prepare long.txt --out out --val-fraction 0 --shard-tokens 1000000")
        .expect(0, &[]);
    let found = train_tokens(&sandbox.path("out"));
    let whole = Tokenizer::gpt2().encode_ordinary(text.trim()).unwrap();
    assert!(
        found[1..] == whole,
        "{} tokens, expected {}",
        found.len(),
        whole.len() + 1
    );
    assert_eq!(found[0], 50256);
    let files = files(&sandbox.path("out"));
    let sizes: Vec<usize> = files
        .values()
        .map(Vec::len)
        .filter(|&s| s == 2_001_024)
        .collect();
    assert_eq!(sizes.len(), found.len() / 1_000_000, "full shards");
}

#[test]
fn shards_of_other_projects_are_read_as_they_are() {
    let tokens: Vec<u32> = serde_json::from_value(expected()["tokens"].clone()).unwrap();
    let gpt2 = Tokenizer::gpt2();
    for name in ["llmc.bin", "nanogpt.bin", "build-nanogpt.npy"] {
        let path = [fixture("data").join(name)];
        let opened = Tokens::open(&path, Split::Train, &gpt2, 50257).unwrap();
        assert_eq!(opened.read(0, tokens.len()).unwrap(), tokens, "{name}");
        assert!(
            Tokens::open(&path, Split::Train, &gpt2, 50256).is_err(),
            "{name}"
        );
    }
}

#[test]
fn contiguous_order_is_that_of_build_nanogpt() {
    let tokens: Vec<i64> = serde_json::from_value(expected()["tokens"].clone()).unwrap();
    let path = [fixture("data/build-nanogpt.npy")];
    let opened = Tokens::open(&path, Split::Train, &Tokenizer::gpt2(), 50257).unwrap();
    let batches = Batches::new(opened, 8, 1, Order::Contiguous).unwrap();
    let device = burn::tensor::Device::flex();
    let (rows, columns) = (4, 8);
    for batch in 0..15 {
        let start = batch * rows * columns;
        let (x, y) = batches.get((batch * rows) as u64, rows, &device).unwrap();
        let ids = |t: burn::tensor::Tensor<2, burn::tensor::Int>| {
            t.into_data().iter::<i64>().collect::<Vec<_>>()
        };
        assert_eq!(ids(x), tokens[start..start + rows * columns]);
        assert_eq!(ids(y), tokens[start + 1..=start + rows * columns]);
    }
}

#[test]
fn the_split_is_by_document_and_exact() {
    let sandbox = Sandbox::new();
    let many: Vec<String> = (0..500).map(|i| format!("document number {i}")).collect();
    sandbox.write("a.jsonl", jsonl(&many, "\n"));
    sandbox
        .run("data prepare a.jsonl --out out --val-docs 50 --json")
        .expect(0, &[]);
    let manifest: Value = serde_json::from_slice(&sandbox.read("out/manifest.json")).unwrap();
    assert_eq!(manifest["val_documents"], 50);
    assert_eq!(manifest["train_documents"], 450);
    let gpt2 = Tokenizer::gpt2();
    let texts = |split| {
        let tokens = Tokens::open(&[sandbox.path("out")], split, &gpt2, 50257).unwrap();
        let text = gpt2
            .decode(&tokens.read(0, tokens.len() as usize).unwrap())
            .unwrap();
        let documents: Vec<String> = text
            .split("<|endoftext|>")
            .skip(1)
            .map(str::to_owned)
            .collect();
        documents
    };
    let (train, val) = (texts(Split::Train), texts(Split::Val));
    assert_eq!((train.len(), val.len()), (450, 50));
    let mut all = [train, val].concat();
    all.sort_by_key(|text| text.rsplit(' ').next().unwrap().parse::<u32>().unwrap());
    assert_eq!(all, many);
    sandbox
        .run("data prepare a.jsonl --out none --val-docs 500")
        .expect(2, &["--val-docs 500: the inputs have 500 documents"]);
    assert!(!sandbox.path("none").exists());
}

/// Some megabytes of documents in all formats.
fn large(sandbox: &Sandbox) {
    let prose = fs::read_to_string(fixture("prose/train.txt")).unwrap();
    let pieces: Vec<String> = prose.split("\n\n").map(str::to_owned).collect();
    fs::create_dir_all(sandbox.path("in/deep")).unwrap();
    sandbox.write("in/a.jsonl", jsonl(&pieces, "\n").repeat(4));
    sandbox.write("in/b.txt", prose.repeat(4));
    sandbox.write(
        "in/deep/c.jsonl.gz",
        gzip(jsonl(&pieces, "\n").repeat(4).as_bytes()),
    );
    sandbox.write("in/deep/notes.md", "not data");
    sandbox.write("in/.hidden.txt", "not data");
}

const PREPARE: &str = "data prepare in --out out --val-fraction 0.1 --shard-tokens 300000";

#[test]
fn threads_do_not_change_a_byte() {
    let sandbox = Sandbox::new();
    large(&sandbox);
    let run = |threads: &str| {
        let mut command = sandbox.command(&format!("{PREPARE} --force"));
        command.env("RAYON_NUM_THREADS", threads);
        Outcome::of(command).expect(0, &[]);
        let found = files(&sandbox.path("out"));
        fs::remove_dir_all(sandbox.path("out")).unwrap();
        found
    };
    let one = run("1");
    assert!(one.len() > 10, "{:?}", one.keys());
    assert!(one == run("2") && one == run("4"));
}

#[test]
fn a_killed_preparation_is_done_again_to_the_same_bytes() {
    let sandbox = Sandbox::new();
    large(&sandbox);
    sandbox.run(PREPARE).expect(0, &[]);
    let whole = files(&sandbox.path("out"));
    let mut stopped = 0;
    for (moment, signal) in [
        (1, Signal::KILL),
        (20, Signal::KILL),
        (60, Signal::TERM),
        (120, Signal::KILL),
        (180, Signal::INT),
        (250, Signal::KILL),
    ] {
        fs::remove_dir_all(sandbox.path("out")).unwrap();
        let child = sandbox.spawn(PREPARE);
        sleep(Duration::from_millis(moment));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let code = Outcome::of_child(child).code;
        assert!(
            [None, Some(0), Some(75), Some(1)].contains(&code),
            "{code:?}"
        );
        stopped += usize::from(code != Some(0));
        // Twice killed at times.
        if moment % 40 == 20 {
            let child = sandbox.spawn(PREPARE);
            sleep(Duration::from_millis(moment));
            kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
            Outcome::of_child(child);
        }
        sandbox.run(PREPARE).expect(0, &[]);
        assert!(
            files(&sandbox.path("out")) == whole,
            "killed after {moment} ms"
        );
    }
    assert!(stopped >= 2, "only {stopped} were stopped");
}

#[test]
fn a_finished_folder_is_left_alone_and_others_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("a.txt", "Some text.");
    sandbox.write("b.txt", "Other text.");
    let prepare = |args: &str| format!("data prepare {args} --out out --val-fraction 0");
    sandbox.run(&prepare("a.txt")).expect(0, &[]);
    let before = sandbox.tree();
    sandbox
        .run(&prepare("a.txt"))
        .expect(0, &["is complete already"]);
    assert!(sandbox.tree() == before);
    sandbox.refuses(
        &prepare("b.txt"),
        2,
        &["out was made from other inputs", "hint: ", "--force"],
    );
    sandbox.refuses(&prepare("a.txt --seed 2"), 2, &["made from other --seed"]);
    // A shard that was lost is made again.
    fs::remove_file(sandbox.path("out/out_train_000001.bin")).unwrap();
    sandbox.run(&prepare("a.txt")).expect(0, &[]);
    assert!(sandbox.tree() == before);
    sandbox.run(&prepare("b.txt --force")).expect(0, &[]);
    assert!(sandbox.tree() != before);
    fs::create_dir(sandbox.path("mine")).unwrap();
    sandbox.write("mine/diary.txt", "dear");
    let mine = "data prepare a.txt --out mine --force";
    sandbox.refuses(mine, 2, &["mine holds `diary.txt`", "not made by"]);
}

#[test]
fn bad_inputs_are_refused_where_they_are_bad() {
    let sandbox = Sandbox::new();
    let parquet = fs::read(fixture("data/snappy.parquet")).unwrap();
    let lines = jsonl(&documents(), "\n");
    for (name, bytes) in [
        ("bytes.txt", b"abc\xff".to_vec()),
        ("empty.txt", b" \n<|endoftext|>\n".to_vec()),
        (
            "latin.jsonl",
            b"{\"text\": \"a\"}\n{\"text\": \"\xe4\"}\n".to_vec(),
        ),
        (
            "key.jsonl",
            b"{\"text\": \"a\"}\n\n{\"txt\": \"b\"}\n".to_vec(),
        ),
        ("number.jsonl", b"{\"text\": 3}\n".to_vec()),
        ("null.jsonl", b"{\"text\": null}\n".to_vec()),
        (
            "twice.jsonl",
            b"{\"text\": \"a\", \"text\": \"b\"}\n".to_vec(),
        ),
        ("array.jsonl", b"[\"text\"]\n".to_vec()),
        ("cut.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"b".to_vec()),
        (
            "after.jsonl",
            b"{\"text\": \"a\"} {\"text\": \"b\"}\n".to_vec(),
        ),
        ("utf16.txt", b"\xff\xfea\0b\0".to_vec()),
        (
            "cut.jsonl.gz",
            gzip(&lines.repeat(50).into_bytes()).split_off(0)[..600].to_vec(),
        ),
        ("cut.txt.zst", zstd(&lines.into_bytes())[..200].to_vec()),
        ("plain.txt.gz", b"not gzip at all".to_vec()),
        ("plain.txt.zst", b"not zstd at all".to_vec()),
        ("cut.parquet", parquet[..3000].to_vec()),
        ("plain.parquet", b"not parquet at all".to_vec()),
        ("page.parquet", damage(&parquet)),
        ("empty.jsonl.bz2", Vec::new()),
        ("empty.parquet", Vec::new()),
        ("error.parquet", b"{\"message\": \"Not Found\"}".to_vec()),
        ("notes.md", b"text".to_vec()),
        ("words.csv.gz", gzip(b"text")),
    ] {
        sandbox.write(name, bytes);
    }
    for name in ["nulls", "lists"] {
        let name = format!("{name}.parquet");
        fs::copy(fixture("data").join(&name), sandbox.path(&name)).unwrap();
    }
    fs::create_dir(sandbox.path("nothing")).unwrap();
    let table = r#"
bytes.txt | bytes.txt: not UTF-8 at byte 3 | hint: convert
utf16.txt | utf16.txt: not UTF-8 at byte 0
empty.txt | empty.txt: no documents
latin.jsonl | latin.jsonl:2: | column
key.jsonl | key.jsonl:3: no key `text` | --field
number.jsonl | number.jsonl:1: invalid type
null.jsonl | null.jsonl:1: invalid type: null
twice.jsonl | twice.jsonl:1: two keys `text`
array.jsonl | array.jsonl:1: invalid type: sequence
cut.jsonl | cut.jsonl:2: EOF
after.jsonl | after.jsonl:1: trailing characters
cut.jsonl.gz | cut.jsonl.gz: | gzip data is damaged or cut off
cut.txt.zst | cut.txt.zst: byte | zstd data is damaged or cut off
plain.txt.gz | plain.txt.gz: not a gzip file: plain text | hint: take `.gz` off its name
plain.txt.zst | not a zstd file: plain text | hint: take `.zst` off its name
empty.jsonl.bz2 | empty.jsonl.bz2: empty, not a bzip2 file
empty.parquet | empty.parquet: empty, not a parquet file
error.parquet | not a parquet file: JSON | hint: it may be an error message
cut.parquet | cut.parquet: not a parquet file, or cut off
plain.parquet | plain.parquet: not a parquet file: plain text
page.parquet | page.parquet: row group 0
nulls.parquet | nulls.parquet: row group 0, row 1: null | hint: --skip-bad
lists.parquet | lists.parquet: `text` is a list of texts in each row, not one text | hint: join them first
lists.parquet --field text.list.element | lists.parquet: `text` is a list of texts
lists.parquet --field texts | no column `texts`; there are text.list.element
notes.md | notes.md: the name does not say | hint: expected .txt
words.csv.gz | words.csv.gz: a table of separated values
nowhere.txt | nowhere.txt
nothing | nothing: a folder without
*.tx | *.tx: no file matches
snappy.parquet --field txt | cannot read snappy.parquet: no such file or folder
"#;
    for row in sandbox::rows(table) {
        let args = format!("data prepare {} --out out", row[0]);
        let code = if row[0].contains("[") { 2 } else { 3 };
        sandbox.refuses(&args, code, &row[1..]);
    }
    sandbox.write("m.txt", "text");
    sandbox.refuses(
        "data prepare m.txt --out out --tokenizer nothing",
        3,
        &["nothing: no tokenizer there"],
    );
    sandbox.refuses(
        "data prepare m.txt --out out --val-fraction 1.5",
        2,
        &["--val-fraction 1.5"],
    );
    sandbox.refuses(
        "data prepare m.txt --out out --shard-tokens 0",
        2,
        &["--shard-tokens"],
    );
}

/// Zeros in the middle of the first page.
fn damage(parquet: &[u8]) -> Vec<u8> {
    let mut bytes = parquet.to_vec();
    bytes[4..1200].fill(0);
    bytes
}

#[test]
fn bad_documents_are_left_out_and_counted_where_that_is_wanted() {
    let sandbox = Sandbox::new();
    let lines = b"{\"text\": \"one\"}\n{\"txt\": 1}\nrubbish\n{\"text\": \"two\"}\n\xff\n{\"text\": \"three\"}";
    sandbox.write("a.jsonl", lines);
    sandbox.write(
        "b.txt",
        b"one<|endoftext|>t\xffo<|endoftext|>two<|endoftext|>three",
    );
    fs::copy(fixture("data/nulls.parquet"), sandbox.path("c.parquet")).unwrap();
    let one_two_three = [50256, 505, 50256, 11545, 50256, 15542];
    for (input, skipped) in [("a.jsonl", 3), ("b.txt", 1), ("c.parquet", 2)] {
        let args = format!("data prepare {input} --out out --val-fraction 0 --force --skip-bad");
        let outcome = sandbox.run(&args).expect(0, &[]);
        let words = error::counted(skipped, "bad document", "bad documents");
        let words = format!("left out: {words}");
        assert!(
            outcome.stdout.contains(&words),
            "{input}: {}",
            outcome.stdout
        );
        assert_eq!(train_tokens(&sandbox.path("out")), one_two_three, "{input}");
    }
}

#[test]
fn bombs_and_endless_lines_do_not_fill_memory() {
    let sandbox = Sandbox::new();
    let zeros = |count: usize, start: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(start).unwrap();
        for _ in 0..count {
            encoder.write_all(&[b'0'; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap()
    };
    sandbox.write(
        "a.jsonl.gz",
        zeros(600, b"{\"text\": \"a\"}\n{\"text\": \""),
    );
    sandbox.write("b.txt.gz", zeros(600, b"text "));
    // 600 MB do not fit an address space of 1 GB twice; what is held does.
    for (input, words) in [
        ("a.jsonl.gz", "a.jsonl.gz:2: longer than 64 MiB"),
        ("b.txt.gz", "64 MiB without white space to cut at"),
    ] {
        let script = format!(
            "ulimit -v 1500000 && exec {} data prepare {input} --out out",
            sandbox::PROGRAM
        );
        let mut command = sandbox.shell("bash", &["-c", &script]);
        command.env("RAYON_NUM_THREADS", "2");
        Outcome::of(command).expect(3, &[words]);
        assert!(!sandbox.path("out").exists());
    }
    let skipping = sandbox.run("data prepare a.jsonl.gz --out out --val-fraction 0 --skip-bad");
    assert!(skipping.expect(0, &[]).stdout.contains("left out: 1"));
}

#[test]
fn no_damage_to_a_table_is_a_crash() {
    let sandbox = Sandbox::new();
    let gpt2 = Tokenizer::gpt2();
    for name in ["snappy", "zstd-v2", "none-delta"] {
        let good = fs::read(fixture("data").join(format!("{name}.parquet"))).unwrap();
        for at in (4..good.len()).step_by(37) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            sandbox.write("a.parquet", &bytes);
            let options = Options {
                inputs: vec![sandbox.path("a.parquet")],
                out: sandbox.path("out"),
                field: "text".to_owned(),
                val: ValSize::Fraction(0.0),
                shard_tokens: 1000,
                seed: 1,
                skip_bad: false,
                force: true,
            };
            // Damage to the text itself cannot be seen; all else must be an error.
            if let Err(error) = prepare(&options, &gpt2) {
                assert_eq!(error.exit_code(), 3, "{name} byte {at}: {error}");
            }
        }
    }
}

#[test]
fn a_prepared_folder_is_trained_and_evaluated_on() {
    let sandbox = with_recipe(&RECIPE.replace("10240", "1024"));
    let text = sandbox.read("train.txt");
    let paragraphs = String::from_utf8(text)
        .unwrap()
        .replace("\n\n", "<|endoftext|>");
    sandbox.write("all.txt", paragraphs);
    let prepare =
        "data prepare all.txt --out shards --tokenizer ./m --val-docs 8 --shard-tokens 1000";
    sandbox.run(prepare).expect(0, &[]);
    let of_shards = RECIPE
        .replace("10240", "1024")
        .replace("train.txt", "shards")
        .replace("val.txt", "shards");
    for order in ["shuffled", "contiguous"] {
        let recipe = of_shards.replace("[train]", &format!("order = \"{order}\"\n[train]"));
        sandbox.write("r.toml", recipe.replace("\"run\"", &format!("\"{order}\"")));
        sandbox
            .run("train r.toml")
            .expect(0, &["training: 4 steps"]);
    }
    let metrics = |run: &str| sandbox.read(&format!("{run}/metrics.jsonl"));
    assert_ne!(metrics("shuffled"), metrics("contiguous"));
    sandbox
        .run("eval ./m --val shards/*_val_*.bin")
        .expect(0, &[]);
    let gpt2 = "data prepare all.txt --out gpt2 --val-docs 8";
    sandbox.run(gpt2).expect(0, &[]);
    sandbox.write("r.toml", of_shards.replace("shards", "gpt2"));
    let words = ["gpt2: tokenized for 50257 entries", "--tokenizer"];
    sandbox.refuses("train r.toml", 3, &words);
    let mixed = of_shards.replace("\"shards\"]\nval", "\"shards\", \"train.txt\"]\nval");
    sandbox.write("r.toml", mixed);
    sandbox.refuses(
        "train r.toml",
        3,
        &["train.txt: text, in one list with the shard"],
    );
    let shuffle = of_shards.replace("[train]", "order = \"shufled\"\n[train]");
    sandbox.write("r.toml", shuffle);
    sandbox.refuses(
        "train r.toml",
        3,
        &["r.toml", "hint: did you mean `shuffled`?"],
    );
}

#[test]
fn a_manifest_vouches_for_what_was_not_touched_since() {
    let sandbox = Sandbox::new();
    sandbox.write("a.txt", "some text");
    let prepare = "data prepare a.txt --out out --val-fraction 0";
    sandbox.run(prepare).expect(0, &[]);
    let open = || {
        let path = [sandbox.path("out")];
        Tokens::open(&path, Split::Train, &Tokenizer::gpt2(), 50257)
    };
    let vouched = open().unwrap();
    let copied = sandbox.path("train.bin");
    fs::copy(sandbox.path("out/out_train_000001.bin"), &copied).unwrap();
    let hashed = Tokens::from_shards(&[copied], 50257).unwrap();
    assert_eq!(vouched.sha256(), hashed.sha256());
    sleep(Duration::from_millis(50));
    let mut bytes = sandbox.read("out/out_train_000001.bin");
    bytes[1026..1028].fill(255);
    sandbox.write("out/out_train_000001.bin", bytes);
    let error = open().unwrap_err().to_string();
    assert!(error.contains("token 1 is 65535"), "{error}");
    let mut bytes = sandbox.read("out/out_train_000001.bin");
    bytes[1026..1028].fill(1);
    sandbox.write("out/out_train_000001.bin", bytes);
    let error = open().unwrap_err().to_string();
    assert!(error.contains("changed since it was prepared"), "{error}");
    sandbox.run(&format!("{prepare} --force")).expect(0, &[]);
    assert_eq!(open().unwrap().sha256(), vouched.sha256());
    sandbox.write("out/manifest.unfinished.json", "{}");
    let error = open().unwrap_err().to_string();
    assert!(error.contains("not complete"), "{error}");
}

const DATASET: &str = "datasets/org/web";
const COMMIT: &str = "1111111111111111111111111111111111111111";

#[test]
fn a_datasets_files_are_fetched_from_the_hub() {
    let sandbox = Sandbox::new();
    let table = fs::read(fixture("data/snappy.parquet")).unwrap();
    let lines = jsonl(&["of another sample".to_owned()], "\n");
    let mut repo = Repo::default();
    repo.commit(
        COMMIT,
        [
            ("README.md", &b"about"[..]),
            ("LICENSE.txt", b"You may."),
            ("old/a.csv", b"a,b"),
            ("old/b.csv", b"a,b"),
            ("sample/10BT/000_00000.parquet", &table),
            ("sample/10BT/001_00000.parquet", &table),
            ("sample/100BT/000_00000.jsonl", lines.as_bytes()),
            ("sample/../../x.parquet", &table),
        ],
    );
    let hub = Hub::serve(DATASET, repo);
    let run = |input: &str, offline: bool| {
        let args = [
            "data",
            "prepare",
            input,
            "--out",
            "out",
            "--val-fraction",
            "0",
            "--force",
        ];
        let mut command = sandbox.shell(sandbox::PROGRAM, &args);
        command
            .env("HF_ENDPOINT", &hub.endpoint)
            .env("HF_HOME", sandbox.path("hf"));
        if !offline {
            command.env_remove("HF_HUB_OFFLINE");
        }
        Outcome::of(command)
    };
    let counted = |input: &str, documents: usize| {
        let outcome = run(input, false).expect(0, &[]);
        let words = format!("of {}", error::counted(documents, "document", "documents"));
        assert!(
            outcome.stdout.contains(&words),
            "{input}: {}",
            outcome.stdout
        );
    };
    counted("hf://datasets/org/web/sample/10BT/000*.parquet", 12);
    let first = hub.downloads().len();
    counted("hf://datasets/org/web/sample/10BT", 24);
    counted("hf://datasets/org/web@main/sample/*/*.jsonl", 1);
    counted("hf://datasets/org/web/sample/10BT/001_00000.parquet", 12);
    counted("hf://datasets/org/web", 25);
    assert!(first > 0, "nothing was downloaded");
    // Both tables are one blob, and nothing is fetched twice.
    let downloads = hub.downloads();
    let unique: std::collections::BTreeSet<_> = downloads.iter().collect();
    assert_eq!(unique.len(), downloads.len(), "{downloads:?}");
    assert!(sandbox.path("hf/hub/datasets--org--web/refs/main").exists());
    let offline = run("hf://datasets/org/web/sample/10BT", true);
    offline.expect(0, &["the network is off: taking the 2 files in the cache"]);
    run("hf://datasets/org/web/sample/1BT", false).expect(4, &["datasets/org/web@main"]);
    run("hf://datasets/org/web/*.csv", false).expect(4, &["no file in"]);
    let left = "datasets/org/web: left out: 2 files (a.csv, b.csv); 1 file (LICENSE.txt) about";
    run("hf://datasets/org/web", false).expect(0, &[left]);
    run("hf://datasets/org/web/LICENSE.txt", false).expect(0, &[]);
    let words = [
        "nothing that is read; there are 2 files (a.csv, b.csv)",
        "hint: make JSON lines",
    ];
    run("hf://datasets/org/web/old", false).expect(4, &words);
    let words = ["old/a.csv: a table of separated values"];
    run("hf://datasets/org/web/old/a.csv", false).expect(3, &words);
    run("hf://datasets/org", false)
        .expect(2, &["`org/` is not a hub id", "hint: write hf://datasets"]);
}
