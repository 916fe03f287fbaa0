//! Tokenizers beside checkpoints, as transformers and lm-evaluation-harness read them.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use sandbox::{Outcome, PROGRAM, RECIPE, Sandbox, with_recipe};
use scale_ckpt::data::{Tokenizer, Tokens};
use scale_ckpt::eval::encode::{Sequence, encode};
use scale_ckpt::eval::task::{Doc, Protocol};
use serde::Deserialize;
use serde_json::{Value, json};
use support::fixture;

/// `fixtures/tokenizer/folders.json`.
#[derive(Deserialize)]
struct Folders {
    texts: Vec<String>,
    pair_texts: Vec<(String, String)>,
    folders: Vec<Folder>,
}

/// A folder, and what transformers and the harness make of it.
#[derive(Deserialize)]
struct Folder {
    name: String,
    base: Vec<String>,
    files: BTreeMap<String, Value>,
    changes: BTreeMap<String, BTreeMap<String, Value>>,
    prefix: u32,
    plain: Vec<Vec<u32>>,
    harness: Vec<Vec<u32>>,
    pairs: Vec<Option<(Vec<u32>, Vec<u32>)>>,
}

impl Folder {
    fn make(&self, dir: &Path) {
        let prose = fixture("prose-4l");
        for name in self.base.iter().map(String::as_str).chain(["config.json"]) {
            fs::copy(prose.join(name), dir.join(name)).unwrap();
        }
        for (name, content) in &self.files {
            let json = || content.to_string();
            let text = content.as_str().map_or_else(json, str::to_owned);
            fs::write(dir.join(name), text).unwrap();
        }
        for (name, changes) in &self.changes {
            change(&dir.join(name), |json| {
                for (pointer, value) in changes {
                    let (parent, key) = pointer.rsplit_once('/').unwrap();
                    json.pointer_mut(parent).unwrap()[key] = value.clone();
                }
            });
        }
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn folders_are_read_as_transformers_and_the_harness_read_them() {
    let bytes = fs::read(fixture("tokenizer/folders.json")).unwrap();
    let all: Folders = serde_json::from_slice(&bytes).unwrap();
    assert!(all.folders.len() > 100);
    for folder in &all.folders {
        let dir = tempfile::tempdir().unwrap();
        folder.make(dir.path());
        let name = &folder.name;
        let tokenizer = Tokenizer::for_checkpoint(dir.path(), usize::MAX).unwrap();
        assert_eq!(tokenizer.prefix().unwrap(), folder.prefix, "{name}");
        for ((text, plain), harness) in all.texts.iter().zip(&folder.plain).zip(&folder.harness) {
            let at = format!("{name}: {text:?}");
            assert_eq!(&tokenizer.encode(text).unwrap(), plain, "{at}");
            assert_eq!(&tokenizer.encode_with_added(text).unwrap(), harness, "{at}");
        }
        for ((context, continuation), wanted) in all.pair_texts.iter().zip(&folder.pairs) {
            let at = format!("{name}: {context:?} {continuation:?}");
            let mut doc = Doc::choices(context.clone(), vec![String::new()], 0);
            doc.pairs[0].1.clone_from(continuation);
            let found = encode(&doc, "", Protocol::Harness, &tokenizer, 1000);
            match wanted {
                Some((before, after)) if !after.is_empty() => {
                    let ids = [&before[..], after].concat();
                    let scored = after.len();
                    assert_eq!(found.unwrap().sequences, [Sequence { ids, scored }], "{at}");
                }
                _ => assert!(found.is_err(), "{at}"),
            }
        }
    }
}

/// `prose-4l`'s tokenizer with `post_processor`, of GPT-2's class or another.
fn adding(single: &[&str], ids: &[(&str, u32)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    fs::copy(fixture("prose-4l/tokenizer.json"), &path).unwrap();
    let part = |text: &&str| match *text {
        "$A" => json!({ "Sequence": { "id": "A", "type_id": 0 } }),
        text => json!({ "SpecialToken": { "id": text, "type_id": 0 } }),
    };
    let single: Vec<Value> = single.iter().map(part).collect();
    let specials = ids.iter().map(|(text, id)| {
        let entry = json!({ "id": text, "ids": [id], "tokens": [text] });
        ((*text).to_owned(), entry)
    });
    let specials: serde_json::Map<_, _> = specials.collect();
    change(&path, |json| {
        let added = json["added_tokens"].as_array_mut().unwrap();
        for (text, id) in ids.iter().filter(|(_, id)| *id > 4095) {
            added.push(json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }));
        }
        json["post_processor"] = json!({ "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": specials });
    });
    dir
}

const END: (&str, u32) = ("<|endoftext|>", 4095);
const BEGIN: (&str, u32) = ("<s>", 4096);
const CLOSE: (&str, u32) = ("</s>", 4097);

/// Ids of two documents in a stream, in memory and in shards.
fn stream(tokenizer: &Path) -> Vec<u32> {
    let sandbox = Sandbox::new();
    sandbox.write("t.txt", "One.<|endoftext|>Two two.");
    let opened = Tokenizer::in_folder(tokenizer).unwrap();
    let tokens = Tokens::from_files(&[sandbox.path("t.txt")], &opened).unwrap();
    let ids = tokens.read(0, tokens.len() as usize).unwrap();
    let args = format!(
        "data prepare t.txt --out s --val-docs 0 --tokenizer {}",
        tokenizer.display()
    );
    sandbox.run(&args).expect(0, &[]);
    let shard = sandbox.read("s/s_train_000001.bin");
    let shard: Vec<u32> = shard[1024..]
        .chunks(2)
        .map(|two| u16::from_le_bytes([two[0], two[1]]).into())
        .collect();
    assert_eq!(shard, ids);
    ids
}

#[test]
fn documents_are_as_the_tokenizer_makes_them_with_one_separator() {
    let plain = Tokenizer::in_folder(&fixture("prose-4l")).unwrap();
    let [one, two] = ["One.", "Two two."].map(|text| plain.encode(text).unwrap());
    let expected = |before: &[u32], after: &[u32]| {
        let documents = [&one, &two].map(|ids| [before, ids, after].concat());
        documents.concat()
    };
    let usual = expected(&[4095], &[]);
    assert_eq!(stream(&fixture("prose-4l")), usual);
    assert_eq!(stream(adding(&[END.0, "$A"], &[END]).path()), usual);
    assert_eq!(stream(adding(&["$A", END.0], &[END]).path()), usual);
    assert_eq!(stream(adding(&[END.0, "$A", END.0], &[END]).path()), usual);
    let round = adding(&[BEGIN.0, "$A", CLOSE.0], &[BEGIN, CLOSE]);
    assert_eq!(stream(round.path()), expected(&[4095, 4096], &[4097]));
}

#[test]
fn a_prompt_begins_as_the_tokenizer_begins_texts_and_stays_open() {
    let dir = adding(&[END.0, "$A", END.0], &[END]);
    let tokenizer = Tokenizer::in_folder(dir.path()).unwrap();
    let bare = tokenizer.encode("It was").unwrap();
    let ids = [&[4095], &bare[..]].concat();
    assert_eq!(tokenizer.encode_prompt("It was").unwrap(), ids);
    assert_eq!(tokenizer.encode_prompt("<|endoftext|>It was").unwrap(), ids);
    assert_eq!(tokenizer.document_start().unwrap(), [4095]);
}

#[test]
fn what_is_generated_follows_what_the_tokenizer_adds() {
    let sandbox = Sandbox::with("prose-4l");
    let generate = |prompt: &str| {
        let args = [
            "generate",
            "./m",
            "--prompt",
            prompt,
            "--tokens",
            "12",
            "--temperature",
            "0",
        ];
        let command = sandbox.shell(PROGRAM, &args);
        let said = Outcome::of(command).expect(0, &[]).stdout;
        said.strip_prefix(prompt).unwrap().to_owned()
    };
    let prompt = "The old man said";
    let [bare, given] = [prompt.to_owned(), format!("<|endoftext|>{prompt}")].map(|p| generate(&p));
    assert_ne!(bare, given, "the prompt must tell them apart");
    let bos = adding(&[END.0, "$A"], &[END]);
    fs::copy(
        bos.path().join("tokenizer.json"),
        sandbox.path("m/tokenizer.json"),
    )
    .unwrap();
    assert_eq!(generate(prompt), given);
    assert_eq!(generate(&format!("<|endoftext|>{prompt}")), given);
}

#[test]
fn tokenizers_that_are_not_read_are_refused_by_name() {
    let table = [
        ("spiece.model", "./m/spiece.model: a SentencePiece model"),
        (
            "tokenizer.model",
            "./m/tokenizer.model: a SentencePiece model",
        ),
        ("vocab.txt", "./m/vocab.txt: a WordPiece vocabulary"),
        (
            "gpt2.tiktoken",
            "./m/gpt2.tiktoken: a tokenizer of tiktoken",
        ),
        ("tekken.json", "./m/tekken.json: a tokenizer of Mistral's"),
        ("encoder.json", "OpenAI's names"),
        ("vocab.json", "./m/merges.txt: missing"),
        ("merges.txt", "./m/vocab.json: missing"),
        ("tokenizer_config.json", "./m/tokenizer.json: missing"),
    ];
    for (name, words) in table {
        let sandbox = Sandbox::with("gpt2-pico");
        sandbox.write(&format!("m/{name}"), "{}");
        sandbox.write("t.txt", "Some text.");
        for args in [
            "generate ./m --prompt x",
            "eval ./m --val t.txt",
            "data prepare t.txt --out s --tokenizer m",
        ] {
            let words = words.trim_start_matches(if args.starts_with("data") { "./" } else { "" });
            sandbox.refuses(args, 3, &[words, "hint: "]);
        }
        // Growth needs no tokenizer, and carries what there is.
        let grown = sandbox
            .run("grow ./m --to 4 --out out")
            .expect(0, &["the probe is a fixed sequence", words]);
        assert!(
            grown.stderr.contains("certificate: exact"),
            "{}",
            grown.stderr
        );
        assert_eq!(sandbox.read(&format!("out/{name}")), b"{}");
    }
    let sandbox = Sandbox::with("prose-4l");
    fs::remove_file(sandbox.path("m/tokenizer.json")).unwrap();
    sandbox.write(
        "m/tokenizer_config.json",
        r#"{"tokenizer_class": "RobertaTokenizer"}"#,
    );
    sandbox.refuses(
        "generate ./m --prompt x",
        3,
        &["RobertaTokenizer", "save_pretrained"],
    );
    for (name, bad) in [
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "{"),
        ("added_tokens.json", r#"{"x": "y"}"#),
    ] {
        let sandbox = Sandbox::with("prose-4l");
        sandbox.write(&format!("m/{name}"), bad);
        sandbox.refuses("generate ./m --prompt x", 3, &[&format!("./m/{name}")]);
    }
}

#[test]
fn what_is_not_used_of_a_file_is_said() {
    let sandbox = Sandbox::with("prose-4l");
    change(&sandbox.path("m/tokenizer.json"), |json| {
        json["normalizer"] = json!({ "type": "Lowercase" })
    });
    let args = "generate ./m --prompt x --tokens 1";
    sandbox.run(args).expect(
        0,
        &[
            "warning: ./m/tokenizer.json: normalizer left out",
            "PreTrainedTokenizerFast",
        ],
    );
    change(&sandbox.path("m/tokenizer_config.json"), |json| {
        json["tokenizer_class"] = "PreTrainedTokenizerFast".into()
    });
    assert!(!sandbox.run(args).expect(0, &[]).stderr.contains("warning"));
    change(&sandbox.path("m/tokenizer_config.json"), |json| {
        json["tokenizer_class"] = "OwnTokenizer".into()
    });
    sandbox
        .run(args)
        .expect(0, &["read as it stands; OwnTokenizer"]);
}

/// The tokenizer of `./m` becomes one that `PreTrainedTokenizerFast` reads as it stands.
fn make_generic(sandbox: &Sandbox, edit: impl FnOnce(&mut Value)) {
    change(&sandbox.path("m/tokenizer.json"), edit);
    change(&sandbox.path("m/tokenizer_config.json"), |json| {
        json["tokenizer_class"] = "PreTrainedTokenizerFast".into()
    });
}

/// A tokenizer of a few words, which is no BPE.
fn words(json: &mut Value) {
    json["model"] = json!({ "type": "WordLevel", "unk_token": "<unk>", "vocab": { "<unk>": 0, "The": 1, "cat": 2, "sat": 3, "<|endoftext|>": 4 } });
    json["pre_tokenizer"] = json!({ "type": "Whitespace" });
    json["post_processor"] = Value::Null;
    json["decoder"] = Value::Null;
    json["added_tokens"] = json!([{ "id": 4, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }]);
}

/// `prose-4l`'s tokenizer as SentencePiece would have it: a space is a part of words, also where
/// a text begins without one.
fn spaces_in_words(json: &mut Value) {
    let metaspace = json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true });
    let text = json.to_string().replace('\u{120}', "\u{2581}");
    *json = serde_json::from_str(&text).unwrap();
    json["pre_tokenizer"] = metaspace.clone();
    json["decoder"] = metaspace;
    json["post_processor"] = Value::Null;
}

/// What `generate` prints for a prompt.
fn generated(sandbox: &Sandbox, prompt: &str, code: i32, words: &[&str]) -> String {
    let args = [
        "generate",
        "./m",
        "--prompt",
        prompt,
        "--tokens",
        "12",
        "--temperature",
        "0",
    ];
    let command = sandbox.shell(PROGRAM, &args);
    Outcome::of(command).expect(code, words).stdout
}

#[test]
fn a_model_that_is_no_bpe_is_not_read_as_gpt2s() {
    let unigram = json!({ "type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]] });
    let pieces = json!({ "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": { "[UNK]": 0, "a": 1 } });
    let nameless = json!({ "unk_token": "[UNK]", "vocab": { "[UNK]": 0, "a": 1 } });
    for (model, kind) in [
        (unigram, "a Unigram tokenizer"),
        (pieces, "a WordPiece tokenizer"),
        (nameless, "a tokenizer without merges"),
    ] {
        let sandbox = Sandbox::with("prose-4l");
        change(&sandbox.path("m/tokenizer.json"), |json| {
            json["model"] = model
        });
        sandbox.write("t.txt", "Some text.");
        let said = ["./m/tokenizer.json", kind, "name PreTrainedTokenizerFast"];
        sandbox.refuses("generate ./m --prompt x", 3, &said);
        sandbox.refuses("logits ./m --text t.txt --out l", 3, &said);
        sandbox
            .run("grow ./m --to 5 --out out")
            .expect(0, &["the probe is a fixed sequence", kind]);
        fs::remove_file(sandbox.path("m/tokenizer_config.json")).unwrap();
        // Where none is named, it is read for what it is.
        if kind != "a tokenizer without merges" {
            let read = Tokenizer::in_folder(&sandbox.path("m")).map(drop);
            assert!(read.is_ok(), "{kind}: {read:?}");
        }
    }
    let sandbox = Sandbox::with("prose-4l");
    make_generic(&sandbox, words);
    let tokenizer = Tokenizer::in_folder(&sandbox.path("m")).unwrap();
    assert_eq!(tokenizer.encode("The cat stood").unwrap(), [1, 2, 0]);
}

#[test]
fn files_that_are_no_json_in_python_either_are_refused() {
    for (name, bad) in [
        ("config.json", "{"),
        ("tokenizer_config.json", r#"{"x": nan}"#),
        ("special_tokens_map.json", r#"{"x": "\ud8"}"#),
        ("added_tokens.json", r#"{"[PAD]": NaN}"#),
    ] {
        let sandbox = Sandbox::with("prose-4l");
        fs::remove_file(sandbox.path("m/tokenizer_config.json")).unwrap();
        sandbox.write(&format!("m/{name}"), bad);
        sandbox.write("t.txt", "Some text.");
        sandbox.refuses(
            "data prepare t.txt --out s --tokenizer m",
            3,
            &[&format!("m/{name}")],
        );
    }
}

#[test]
fn a_text_of_the_users_is_read_or_refused() {
    let sandbox = Sandbox::with("prose-4l");
    sandbox.write("t.txt", "It was a fine <s> day.");
    let refused = |words: &[&str]| {
        sandbox.refuses("logits ./m --text t.txt --out l", 3, words);
        sandbox.refuses("grow ./m --to 5 --probe t.txt --out out", 3, words);
        sandbox
            .run("logits ./m --out built-in")
            .expect(0, &["the probe is a fixed sequence"]);
        fs::remove_file(sandbox.path("built-in")).unwrap();
    };
    let bos = adding(&[BEGIN.0, "$A"], &[BEGIN]);
    let json = sandbox.path("m/tokenizer.json");
    fs::copy(bos.path().join("tokenizer.json"), &json).unwrap();
    refused(&["the token `<s>`", "id 4096", "vocab_size = 4096"]);
    sandbox.write("m/tokenizer.json", "{ not json");
    refused(&["m/tokenizer.json: not a tokenizer"]);
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
    ] {
        let _ = fs::remove_file(sandbox.path(&format!("m/{name}")));
    }
    refused(&["no tokenizer there", "put tokenizer.json"]);
}

#[test]
fn a_tokenizer_without_an_end_of_text_generates() {
    let prompt = "The old man said";
    let sandbox = Sandbox::with("prose-4l");
    let usual = generated(&sandbox, prompt, 0, &[]);
    make_generic(&sandbox, |json| {
        json["added_tokens"] = json!([]);
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove(END.0).unwrap();
        vocab.insert("[END]".to_owned(), id);
    });
    sandbox.write(
        "m/tokenizer_config.json",
        r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#,
    );
    fs::remove_file(sandbox.path("m/special_tokens_map.json")).unwrap();
    assert_eq!(generated(&sandbox, prompt, 0, &[]), usual);
    // What cannot be continued is refused before anything is printed.
    let no_end = ["the vocabulary has no <|endoftext|>", "eos_token"];
    assert_eq!(generated(&sandbox, "", 3, &no_end), "");
    make_generic(&sandbox, words);
    assert_eq!(
        generated(&sandbox, " ", 2, &["the prompt has no tokens"]),
        ""
    );
}

#[test]
fn the_space_before_the_first_new_word_is_kept() {
    let prompt = "I do not know";
    let sandbox = Sandbox::with("prose-4l");
    // The same ids as those of the other tokenizer without the space.
    let usual = generated(&sandbox, &format!(" {prompt}"), 0, &[]);
    let usual = usual.strip_prefix(&format!(" {prompt} ")).unwrap();
    make_generic(&sandbox, spaces_in_words);
    let found = generated(&sandbox, prompt, 0, &[]);
    assert_eq!(found, format!("{prompt} {usual}"));

    let tokenizer = Tokenizer::in_folder(&sandbox.path("m")).unwrap();
    let ids = tokenizer.encode("The old man said").unwrap();
    let (before, after) = ids.split_at(2);
    assert_eq!(tokenizer.decode(after).unwrap(), "man said");
    assert_eq!(tokenizer.decode_after(before, after).unwrap(), " man said");
    assert_eq!(
        tokenizer.decode_after(&[], &ids).unwrap(),
        "The old man said"
    );
    assert_eq!(tokenizer.decode_after(&ids, &[]).unwrap(), "");
}

#[test]
fn only_ids_that_occur_must_have_an_embedding() {
    let sandbox = Sandbox::with("prose-4l");
    let larger = adding(&["$A"], &[BEGIN, CLOSE]);
    fs::copy(
        larger.path().join("tokenizer.json"),
        sandbox.path("m/tokenizer.json"),
    )
    .unwrap();
    sandbox.write("fine.txt", "It was a fine day. ".repeat(100));
    sandbox.write("bad.txt", "It was a </s> day. ".repeat(100));
    let args = "eval ./m --context 64 --val";
    sandbox.run(&format!("{args} fine.txt")).expect(0, &[]);
    sandbox
        .run("generate ./m --prompt It --tokens 3")
        .expect(0, &[]);
    sandbox.refuses(
        "generate ./m --prompt x<s>",
        3,
        &["the token `<s>` in `x<s>` has id 4096", "vocab_size = 4096"],
    );
    // In documents, what is written like a special token is text.
    sandbox.run(&format!("{args} bad.txt")).expect(0, &[]);
    let bos = adding(&[BEGIN.0, "$A"], &[BEGIN]);
    fs::copy(
        bos.path().join("tokenizer.json"),
        sandbox.path("m/tokenizer.json"),
    )
    .unwrap();
    sandbox.refuses(
        &format!("{args} fine.txt"),
        3,
        &["the token `<s>` has id 4096"],
    );
    sandbox
        .run("grow ./m --to 5 --out out")
        .expect(0, &["the probe is a fixed sequence", "token `<s>`"]);
}

#[test]
fn a_certificate_reads_what_the_tokenizer_makes_of_its_text() {
    let sandbox = Sandbox::with("prose-4l");
    let probe = |out: &str| {
        sandbox
            .run(&format!("grow ./m --to 5 --out {out}"))
            .expect(0, &[]);
        let record: Value =
            serde_json::from_slice(&sandbox.read(&format!("{out}/growth.json"))).unwrap();
        record["certificate"]["probe_sha256"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let bare = probe("a");
    let bos = adding(&[END.0, "$A"], &[END]);
    fs::copy(
        bos.path().join("tokenizer.json"),
        sandbox.path("m/tokenizer.json"),
    )
    .unwrap();
    assert_ne!(bare, probe("b"));
}

#[test]
fn the_built_in_tokenizer_is_announced() {
    let empty = tempfile::tempdir().unwrap();
    let gpt2 = Tokenizer::for_checkpoint(empty.path(), 50257).unwrap();
    assert!(gpt2.notes()[0].contains("no tokenizer there; GPT-2's own is used"));
    assert!(Tokenizer::gpt2().notes().is_empty());
    fs::write(empty.path().join("spiece.model"), "").unwrap();
    let error = Tokenizer::for_checkpoint(empty.path(), 50257).unwrap_err();
    assert!(error.to_string().contains("spiece.model"), "{error}");
}

#[test]
fn a_damaged_tokenizer_does_not_stop_growth() {
    let sandbox = Sandbox::with("prose-4l");
    sandbox.write("m/tokenizer.json", "{ not json");
    let said = sandbox
        .run("grow ./m --to 5 --out out")
        .expect(0, &["m/tokenizer.json: not a tokenizer"]);
    assert!(
        said.stderr.contains("certificate: exact"),
        "{}",
        said.stderr
    );
    assert_eq!(sandbox.read("out/tokenizer.json"), b"{ not json");
}

/// What stands beside weights in folders that people have.
const BESIDE: [&str; 7] = [
    "LICENSE.txt",
    "additional_chat_templates/tool.jinja",
    "chat_template.json",
    "modeling_own.py",
    "preprocessor_config.json",
    "spiece.model",
    "vocab.txt",
];

fn add_all(sandbox: &Sandbox) {
    fs::create_dir_all(sandbox.path("m/additional_chat_templates")).unwrap();
    fs::create_dir_all(sandbox.path("m/checkpoint-1")).unwrap();
    for name in BESIDE {
        sandbox.write(&format!("m/{name}"), name);
    }
    for name in ["tf_model.h5", "checkpoint-1/optimizer.pt", "README.md"] {
        sandbox.write(&format!("m/{name}"), name);
    }
}

#[track_caller]
fn assert_carried(sandbox: &Sandbox, out: &str) {
    for name in BESIDE {
        assert_eq!(sandbox.read(&format!("{out}/{name}")), name.as_bytes());
    }
    for name in ["tf_model.h5", "checkpoint-1"] {
        assert!(!sandbox.path(&format!("{out}/{name}")).exists(), "{name}");
    }
}

#[test]
fn growth_carries_everything_beside_the_weights() {
    let sandbox = Sandbox::with("prose-4l");
    add_all(&sandbox);
    let said = [
        "not carried along: ",
        "tf_model.h5 (weights)",
        "checkpoint-1 (holds optimizer.pt: of a training)",
    ];
    let grow = "grow ./m --to 5 --out out";
    sandbox.run(grow).expect(0, &said);
    assert_carried(&sandbox, "out");
    let record: Value = serde_json::from_slice(&sandbox.read("out/growth.json")).unwrap();
    let companions: Vec<&str> = record["companions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c.as_str().unwrap())
        .collect();
    for name in BESIDE {
        assert!(companions.contains(&name), "{companions:?}");
    }
    // What is ours as a whole can be replaced as a whole, and nothing else.
    sandbox.run(&format!("{grow} --force")).expect(0, &[]);
    sandbox.write("out/additional_chat_templates/mine.txt", "x");
    sandbox.refuses(&format!("{grow} --force"), 2, &["not a checkpoint folder"]);
    fs::remove_file(sandbox.path("out/additional_chat_templates/mine.txt")).unwrap();
    fs::create_dir(sandbox.path("out/empty")).unwrap();
    sandbox.refuses(&format!("{grow} --force"), 2, &["not a checkpoint folder"]);
    let shown = sandbox
        .run("grow ./m --to 5 --out new --dry-run")
        .expect(0, &[])
        .stdout;
    assert!(
        shown.contains("spiece.model") && shown.contains("tf_model.h5 (weights)"),
        "{shown}"
    );
}

/// The growths of a source, and its card, are not lost without a word.
#[test]
fn a_growth_of_a_growth_keeps_the_record_of_the_first() {
    let sandbox = Sandbox::with("prose-4l");
    let _ = fs::remove_file(sandbox.path("m/README.md"));
    let grow = |from: &str, to: usize| {
        let out = format!("out-{to}");
        let args = format!("grow {from} --to {to} --out {out} --no-certificate");
        let said = sandbox.run(&args).expect(0, &[]).stderr;
        let record: Value =
            serde_json::from_slice(&sandbox.read(&format!("{out}/growth.json"))).unwrap();
        (said, record)
    };
    let (said, first) = grow("./m", 5);
    assert!(!said.contains("not carried along"), "{said}");
    assert_eq!(first.get("parents"), None);
    let (said, second) = grow("./out-5", 6);
    assert!(!said.contains("not carried along"), "{said}");
    assert_eq!(second["parents"], json!([first]));
    let (_, third) = grow("./out-6", 7);
    let mut alone = second.clone();
    alone.as_object_mut().unwrap().shift_remove("parents");
    assert_eq!(third["parents"], json!([alone, first]));
    let card = sandbox.read("out-7/README.md");
    assert!(
        String::from_utf8(card)
            .unwrap()
            .contains("in its `parents`")
    );

    // A record of the first form, and a card of the user's own.
    let old = json!({
        "schema": 1,
        "tool": "scale-ckpt",
        "layers": [{"source": 0, "init": null}, {"source": 0, "init": "copy"}],
    });
    sandbox.write("out-7/growth.json", old.to_string());
    sandbox.write("out-7/README.md", "# Mine");
    let (said, record) = grow("./out-7", 8);
    assert_eq!(record["parents"], json!([old]));
    assert!(
        said.contains("not carried along: README.md (it describes the source)"),
        "{said}"
    );
}

/// The work was done, and lost, where the manifest refused a name that it lists.
#[test]
fn names_that_no_manifest_takes_do_not_end_a_training() {
    let sandbox = with_recipe(&RECIPE.replace("tokens = 10240", "tokens = 512"));
    sandbox.write("m/chat\\template.jinja", "x");
    sandbox.write("m/a\nb.txt", "x");
    sandbox
        .run("train r.toml")
        .expect(0, &["template.jinja (its name has a backslash"]);
    let manifest: Value =
        serde_json::from_slice(&sandbox.read("run/step-00000002/manifest.json")).unwrap();
    assert!(manifest["files"]["model.safetensors"].is_object());
    sandbox.run("inspect ./run/step-00000002").expect(0, &[]);
}

#[test]
fn checkpoints_of_a_run_carry_everything_beside_the_weights() {
    let sandbox = with_recipe(
        &format!("{RECIPE}save_every_tokens = 512\n").replace("tokens = 10240", "tokens = 1024"),
    );
    add_all(&sandbox);
    sandbox
        .run("train r.toml")
        .expect(0, &["not carried along: ", "tf_model.h5 (weights)"]);
    assert_carried(&sandbox, "run/step-00000004");
    // The manifest holds what lies in folders too, and the checkpoint opens.
    let manifest: Value =
        serde_json::from_slice(&sandbox.read("run/step-00000004/manifest.json")).unwrap();
    assert!(manifest["files"]["additional_chat_templates/tool.jinja"].is_object());
    sandbox
        .run("grow ./run/step-00000004 --to 4 --out out")
        .expect(0, &["plan: 0 0* 1 1*"]);
    assert_carried(&sandbox, "out");
    // The state of the run is nobody's loss.
    let record: Value = serde_json::from_slice(&sandbox.read("out/growth.json")).unwrap();
    assert_eq!(record["left_behind"], Value::Null);
}

#[test]
fn numbers_that_cannot_be_right_are_refused_or_said() {
    let sandbox = Sandbox::with("prose-4l");
    let wide: Vec<u8> = (0..2000_u32)
        .flat_map(|i| (i * 37 % 4095).to_le_bytes())
        .collect();
    sandbox.write("wide.bin", wide);
    sandbox.refuses(
        "eval ./m --val wide.bin",
        3,
        &[
            "wide.bin: ids of 32 bits: read as ids of 16 bits, every second one is 0",
            "uint16",
        ],
    );
    let wider: Vec<u8> = (0..2000_u64)
        .flat_map(|i| (i * 37 % 4095).to_le_bytes())
        .collect();
    sandbox.write("wider.bin", wider);
    sandbox.refuses("eval ./m --val wider.bin", 3, &["ids of 64 bits: "]);
    sandbox.write("text.bin", "It was a fine day. ".repeat(100));
    sandbox.refuses("eval ./m --val text.bin", 3, &["text, not token ids"]);
    let narrow: Vec<u8> = (0..2000_u32)
        .flat_map(|i| ((i * 7919 % 4095) as u16).to_le_bytes())
        .collect();
    sandbox.write("odd.bin", &narrow[..3999]);
    sandbox.refuses("eval ./m --val odd.bin", 3, &["no whole number of tokens"]);
    // Ids of another tokenizer: readable, and worse than guessing.
    sandbox.write("narrow.bin", narrow);
    let said = sandbox
        .run("eval ./m --val narrow.bin --context 64")
        .expect(0, &["worse than guessing, ln(vocab_size) = 8.32"]);
    let row = said
        .stdout
        .lines()
        .find(|line| line.starts_with("./m"))
        .unwrap();
    assert!(row.split_whitespace().all(|cell| cell.len() < 12), "{row}");
    assert!(row.contains('e'), "{row}");
}
