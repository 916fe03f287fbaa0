//! The program on bad input: its exit code, a message that names what is wrong and where, and
//! nothing left behind.
#![allow(clippy::unwrap_used)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::fs;

use rustix::fs::{FlockOperation, flock};
use sandbox::{GROW, Outcome, PROGRAM, RECIPE, Sandbox, rows, with_recipe};
use serde_json::Value;
use support::{copy_dir, fixture};

/// A weight file after `how`, a verb and what it acts on.
fn damaged(file: &[u8], how: &str) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap());
    let (header, data) = file[8..].split_at(length as usize);
    let with_header = |header: &str| {
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes(), data].concat()
    };
    let (verb, rest) = how.split_once(' ').unwrap();
    match verb {
        "cut" => file[..rest.parse().unwrap()].to_vec(),
        "append" => [file, rest.as_bytes()].concat(),
        "length" => [&rest.parse::<u64>().unwrap().to_le_bytes(), header].concat(),
        "header" => with_header(rest),
        "text" => rest.into(),
        "edit" => {
            let (from, to) = rest.split_once(" to ").unwrap();
            let header = std::str::from_utf8(header).unwrap();
            assert!(header.contains(from), "{from}");
            with_header(&header.replace(from, to))
        }
        _ => panic!("{how}"),
    }
}

#[test]
fn damaged_weight_files_are_refused() {
    // Of 120872 bytes, 2600 are header.
    let table = r#"
cut 0 | 0 bytes are too few | hint: the file is truncated
cut 4 | 4 bytes are too few | hint: the file is truncated
cut 1300 | the header claims 2592 bytes, the file has 1292 | hint: the file is truncated
cut 2600 | describes 118272 bytes of tensors, the file has 0 | hint: the file is truncated
cut 9600 | describes 118272 bytes of tensors, the file has 7000 | hint: the file is truncated
cut 120871 | the file has 118271 | hint: the file is truncated
append x | the file has 118273 | hint: the file has trailing bytes
length 9223372036854775808 | at most | hint: this is not a safetensors file
header not JSON | header is not sound
header [] | header is not sound
edit [0,384] to [0,388] | header is not sound
edit [384,12672] to [380,12668] | header is not sound
edit [384,12672] to [388,12676] | header is not sound
edit [32,96] to [32,95] | header is not sound
edit [32,96] to [-32,96] | header is not sound
edit [32,96] to [4294967296,4294967296,4294967296] | header is not sound
edit F32 to F128 | header is not sound
edit F32 to I32 | tensor `wte.weight` is I32; F32, F16 and BF16 are supported
edit [64,32],"data_offsets":[11 to [32,64],"data_offsets":[11 | `wte.weight` is [32, 64], expected [64, 32] | hint: the weights belong to another config.json
edit transformer.ln_f.bias to ln_f.weight | tensor `ln_f.weight` occurs twice
edit transformer.ln_f.bias to transformer.other | tensor `ln_f.bias` is missing | hint: the weights do not belong
text version https://git-lfs.github.com/spec/v1 | this is a Git LFS pointer | hint: run `git lfs pull`
"#;
    let sandbox = Sandbox::with("gpt2-pico");
    let good = sandbox.read("m/model.safetensors");
    for row in rows(table) {
        sandbox.write("m/model.safetensors", damaged(&good, row[0]));
        sandbox.refuses(GROW, 3, &[&row[1..], &["error: ./m"]].concat());
        sandbox.refuses("inspect ./m/model.safetensors", 3, &row[1..]);
    }
    let torch = fixture("gpt2-variants/pytorch-bin-2019/pytorch_model.bin");
    fs::copy(torch, sandbox.path("m/model.safetensors")).unwrap();
    sandbox.refuses(GROW, 3, &["this is a PyTorch file", "hint: rename it to"]);
    fs::remove_file(sandbox.path("m/model.safetensors")).unwrap();
    fs::create_dir(sandbox.path("m/model.safetensors")).unwrap();
    fs::remove_file(sandbox.path("m/expected.safetensors")).unwrap();
    sandbox.refuses(GROW, 3, &["./m: no weights", "hint: expected model.sa"]);
}

#[test]
fn configs_are_refused_by_key() {
    let table = r#"
n_head | 5 | `n_head`: 5 heads do not divide n_embd = 32
n_head | "4" | `n_head`: expected an integer from 1 to
n_layer | -2 | `n_layer`: expected an integer | found -2
n_layer | 1000000000000 | `n_layer`: expected an integer | found 1000000000000
n_layer | 1 | belongs to block 1, but config.json says n_layer = 1 | hint: correct n_layer
n_layer | 3 | tensor `h.2.ln_1.weight` is missing | hint: the weights do not belong
tie_word_embeddings | false | tensor `lm_head.weight` is missing | hint: config.json says tie
tie_word_embeddings | "yes" | `tie_word_embeddings`: expected true or false
activation_function | "mish" | `activation_function`: `mish` is not supported; known are gelu_new
add_cross_attention | true | `add_cross_attention`: only false is supported
scale_attn_by_inverse_layer_idx | true | `scale_attn_by_inverse_layer_idx`: only false
model_type | "llama" | `model_type`: expected `gpt2`, found `llama`
layer_norm_epsilon | "small" | `layer_norm_epsilon`: expected a positive number
"#;
    let sandbox = Sandbox::with("gpt2-pico");
    let good: Value = serde_json::from_slice(&sandbox.read("m/config.json")).unwrap();
    for row in rows(table) {
        let mut config = good.clone();
        config[row[0]] = serde_json::from_str(row[1]).unwrap();
        sandbox.write("m/config.json", config.to_string());
        sandbox.refuses(GROW, 3, &[&row[2..], &["error: ./m"]].concat());
    }
    for bad in [&b"{\"n_layer\": 2"[..], b"[2]", b"", b"{\"\xff\": 1}"] {
        sandbox.write("m/config.json", bad);
        sandbox.refuses(GROW, 3, &["error: ./m/config.json: ", "JSON"]);
    }
    fs::remove_file(sandbox.path("m/config.json")).unwrap();
    sandbox.refuses(GROW, 3, &["./m: no config.json", "hint: a checkpoint is"]);
    let file = "inspect ./m/model.safetensors";
    sandbox.refuses(file, 3, &["no config.json beside it", "hint: a weight"]);
    sandbox.refuses(
        "inspect ./x",
        3,
        &["./x: there is no such folder", "hint: "],
    );
}

#[test]
fn weights_that_are_not_finite_are_named_and_still_grown() {
    let sandbox = Sandbox::with("gpt2-pico");
    let mut weights = sandbox.read("m/model.safetensors");
    weights[2600..2604].copy_from_slice(&f32::NAN.to_le_bytes());
    sandbox.write("m/model.safetensors", weights);
    let warning = "warning: values that are not finite in h.0.attn.c_attn.bias";
    sandbox.run("inspect ./m").expect(0, &[warning]);
    sandbox.run(GROW).expect(0, &[warning, "not measurable"]);
    let unmeasured = "grow ./m --to 4 --out other --no-certificate";
    sandbox.run(unmeasured).expect(0, &[warning]);
    copy_dir(&fixture("gpt2-pico"), &sandbox.path("sound"));
    let diff = sandbox.run("diff ./sound ./m").expect(0, &[]).stdout;
    let changed = "h.0.attn.c_attn.bias  changed by up to NaN";
    assert!(diff.contains(changed), "{diff}");
}

#[test]
fn shard_indices_are_not_trusted() {
    let index = "m/model.safetensors.index.json";
    let second = "model-00002-of-00004.safetensors";
    let sandbox = Sandbox::with("gpt2-variants/sharded");
    let good = String::from_utf8(sandbox.read(index)).unwrap();
    for bad in ["../m/config.json", "/etc/passwd", "..", "a/b", "a\\nb", ""] {
        sandbox.write(index, good.replace(second, bad));
        sandbox.refuses(GROW, 3, &[index, "is not a plain file name"]);
    }
    for bad in ["{", "[]", r#"{"weight_map": {"a": 1}}"#] {
        sandbox.write(index, bad);
        sandbox.refuses(GROW, 3, &[index, "not a weight index"]);
    }
    sandbox.write(index, r#"{"weight_map": {}}"#);
    sandbox.refuses(GROW, 3, &["its `weight_map` is empty"]);
    sandbox.write(index, &good);
    fs::remove_file(sandbox.path("m").join(second)).unwrap();
    sandbox.refuses(GROW, 3, &[index, second, "is missing", "hint: fetch"]);
}

#[test]
fn pickles_are_read_and_never_executed() {
    let sandbox = Sandbox::with("gpt2-variants/pytorch-bin");
    let new = sandbox.read("m/pytorch_model.bin");
    let old = fixture("gpt2-variants/pytorch-bin-2019/pytorch_model.bin");
    let old = fs::read(old).unwrap();
    let call = b"cposix\nsystem\nX\x0b\0\0\0touch pwned\x85R";
    let root = [b"\x80\x02", &call[..], b"."].concat();
    let entry = [b"\x80\x02}X\x01\0\0\0a", &call[..], b"s."].concat();
    let magic = &old[..15]; // after it, the parts of the old format are plain pickles
    let mut cases = vec![Vec::new(), vec![0; 5000], b"<html>".repeat(500)];
    cases.extend([4, new.len() / 2, new.len() - 1].map(|n| new[..n].to_vec()));
    cases.extend([4, 100, 3000, old.len() - 1].map(|n| old[..n].to_vec()));
    cases.extend([&root, &entry].map(|pickle| [magic, pickle].concat()));
    cases.extend([root, entry]);
    for bytes in cases {
        sandbox.write("m/pytorch_model.bin", bytes);
        sandbox.refuses(GROW, 3, &["error: ./m"]);
    }
}

#[test]
fn tokenizers_must_belong_to_their_checkpoint() {
    let sandbox = Sandbox::with("gpt2-pico");
    sandbox.write("t.txt", "Some text.");
    let refused = |words: &[&str]| {
        sandbox.refuses("generate ./m --prompt x", 3, words);
        sandbox.refuses("eval ./m --val t.txt", 3, words);
    };
    refused(&["no tokenizer there", "not 64", "hint: put tokenizer"]);
    let json = fs::read(fixture("hellaswag/model/tokenizer.json")).unwrap();
    sandbox.write("m/tokenizer.json", &json);
    // Only ids that occur must have an embedding.
    refused(&[
        "the token `",
        "has id ",
        "vocab_size = 64",
        "hint: leave the token out",
    ]);
    for bad in [&json[..json.len() / 2], b"{}", b"", b"\xff"] {
        sandbox.write("m/tokenizer.json", bad);
        refused(&["./m/tokenizer.json: not a tokenizer"]);
    }
    fs::remove_file(sandbox.path("m/tokenizer.json")).unwrap();
    sandbox.write("m/vocab.json", r#"{"<|endoftext|>": 0}"#);
    refused(&["./m/merges.txt"]);
    sandbox.write("m/merges.txt", "");
    for bad in ["{}", "[]", "{"] {
        sandbox.write("m/vocab.json", bad);
        refused(&["./m/vocab.json"]);
    }
}

#[test]
fn growth_requests_are_checked() {
    let table = r#"
--to 2 | 2 | --to 2 is not deeper than the source's 2 blocks
--to 1 | 2 | --to 1 is not deeper | with --allow-shrink
--to 5000 | 2 | --to 5000 | at most 4096
--to -4 | 2 | -4
--to 99999999999999999999 | 2 | 99999999999999999999
 | 2 | how deep? | --to N | --plan
--to 4 --method gstack | 2 | no method `gstack` | did you mean `g-stack`?
--to 4 --method zzz | 2 | no method `zzz` | hint: `scale-ckpt methods`
--to 5 --method g-stack | 2 | g-stack | it needs a multiple of 2 | hint: any depth
--to 4 --method g-stack --init copy | 2 | --method and --init exclude each other | hint: a method
--to 4 --placement up | 2 | up | interleave
--to 4 --init zero-residul | 2 | zero-residul | hint: did you mean `zero-residual`?
--to 4 --init noisy:noise=loud | 2 | --init noisy:noise=loud | hint: write --init
--to 4 --init noisy:nois=1 | 2 | `nois` | `noise` | hint: write --init
--to 4 --init noisy:noise=-1 | 2 | noisy | not negative
--to 4 --init noisy:noise=nan | 2 | noisy | finite
--to 4 --init blend | 2 | --init blend: `weights` is missing | hint: write --init 'blend:weights={"0"=0.5
--to 4 --init interpolate:coefficient=0.3 | 2 | interpolate stands between two kept blocks | block 3 | below it is source block 1, above it none | copy or zero-residual | interleave below 3
--to 3 --placement top --init interpolate | 2 | interpolate stands between two kept blocks | block 2 | hint: there, take copy
--to 3 --placement middle --init interpolate:coefficient=1.5 | 2 | coefficient = 1.5 is not from 0 to 1 | hint: blend
--to 4 --init random:std="wide" | 2 | std: expected a number, found "wide" | hint: write --init random:std
--to 4 --allow-shrink | 2 | --plan <FILE>
--plan one.toml | 2 | leaves 1 of 2 blocks | source block 1 would be lost | hint: give --allow-shrink
--to 4 --init blend:weights={"9"=1.0} | 2 | blend | 9
--to 4 --max-shard-size 5parsecs | 2 | --max-shard-size | `parsecs` is not a unit
--to 4 --max-shard-size 0 | 2 | expected a size from 1 byte
--to 4 --probe nowhere.txt | 3 | cannot read nowhere.txt
--to 4 --plan three.toml | 2 | makes 3 blocks, --to says 4
--plan key.toml | 3 | key.toml, line 3 | no key `slice.1.int` | did you mean `init`?
--plan run.toml | 3 | run.toml: this is the recipe of a run, not a plan file | hint: run `scale-ckpt train run.toml`
--plan init.toml | 3 | init.toml | line 3 | did you mean `copy`
--to 4 --init identity:std=1e30 | 1 | certificate does not hold
--to 4 --init noisy:noise=1e30 | 1 | certificate does not hold | computes values that are not finite
--to 4 --init noisy:noise=1e300 | 2 | block 1: `noisy | h.1. | not finite as F32 | hint: choose smaller
--to 4 --init noisy:noise=1e300 --no-certificate | 2 | block 1: `noisy | h.1. | not finite as F32
--to 4 --init random:std=1e39 | 2 | block 1: `random | h.1.attn.c_attn.weight | not finite as F32
--to 4 --init blend:weights={"0"=3e38,"1"=3e38} | 2 | block 1: `blend | h.1. | not finite as F32
--plan range.toml | 3 | range.toml | slice 1 | [0, 9] | [0, 2]
--plan huge.toml | 3 | huge.toml | more than 4096 blocks
--plan empty.toml | 3 | empty.toml | `slice` is missing | hint: a plan file has [[slice]]
--plan bytes.toml | 3 | bytes.toml | UTF-8
--plan nowhere.toml | 3 | cannot read nowhere.toml
"#;
    let sandbox = Sandbox::with("gpt2-pico");
    let all = "[[slice]]\nlayers = [0, 2]\n";
    let last = "[[slice]]\nlayers = [1, 2]\n";
    sandbox.write("three.toml", [all, last].concat());
    sandbox.write("one.toml", "[[slice]]\nlayers = [0, 1]\n");
    sandbox.write("run.toml", RECIPE);
    sandbox.write("key.toml", [all, "int = 3\n"].concat());
    sandbox.write("init.toml", [all, "init = \"copi\"\n"].concat());
    sandbox.write("range.toml", all.replace('2', "9"));
    sandbox.write("huge.toml", [all, "repeat = 9000000000000000000"].concat());
    sandbox.write("empty.toml", "");
    sandbox.write("bytes.toml", b"\xff");
    for row in rows(table) {
        let args = format!("grow ./m --out out {}", row[0]);
        sandbox.refuses(&args, row[1].parse().unwrap(), &row[2..]);
    }
    // What f32 holds and a narrower type does not.
    copy_dir(&fixture("gpt2-variants/f16"), &sandbox.path("half"));
    for init in [
        "blend:weights={\"0\"=1e9}",
        "scaled:scale=1e8,only=[\"mlp\"]",
    ] {
        let args = format!("grow ./half --to 3 --out out --init {init}");
        sandbox.refuses(&args, 2, &["block ", ": `", "h.", "not finite as F16"]);
    }
    if !cfg!(feature = "cuda") {
        let words = ["no CUDA", "hint: rebuild", "--features cuda"];
        sandbox.refuses("generate ./m --device cuda", 6, &words);
    }
    sandbox.refuses("generate ./m --device tpu", 2, &["`tpu` is not a device"]);
    sandbox.refuses("generate ./m --temperature nan", 2, &["--temperature"]);
}

#[test]
fn outputs_are_replaced_only_when_asked_and_recognised() {
    let sandbox = Sandbox::with("gpt2-pico");
    sandbox.write("file.txt", "not a folder");
    sandbox.run(GROW).expect(0, &[]);
    sandbox.refuses(GROW, 2, &["out exists already", "hint: choose", "--force"]);
    for (args, words) in [
        ("grow ./m --to 3 --out out --force", "2 -> 3 layers"),
        ("grow ./out --to 5 --out out --force", "3 -> 5 layers"),
        ("inspect ./out", ""),
    ] {
        sandbox.run(args).expect(0, &[words]);
        assert_eq!(sandbox.entries().len(), 3);
    }
    sandbox.write("out/diary.txt", "dear diary");
    for out in ["out", "file.txt", "."] {
        let args = format!("grow ./m --to 4 --force --out {out}");
        sandbox.refuses(&args, 2, &[out, "is not a checkpoint folder"]);
    }
    sandbox.refuses("grow ./m --to 4 --out file.txt/out", 5, &["file.txt"]);
}

#[test]
fn single_files_replace_only_their_own_kind() {
    let sandbox = Sandbox::with("hellaswag/model");
    let prose = fs::read_to_string(fixture("prose/val.txt")).unwrap();
    sandbox.write("t.txt", prose.chars().take(3000).collect::<String>());
    sandbox.write("notes", "mine");
    sandbox.write("other.html", "<!DOCTYPE html>\n<title>Mine</title>");
    fs::copy(
        fixture("gpt2-pico/model.safetensors"),
        sandbox.path("other.safetensors"),
    )
    .unwrap();
    fs::create_dir(sandbox.path("dir")).unwrap();
    std::os::unix::fs::symlink("m/model.safetensors", sandbox.path("link")).unwrap();
    fs::hard_link(sandbox.path("t.txt"), sandbox.path("hard")).unwrap();
    let logits = "logits ./m --text t.txt --out";
    let analyze = "analyze ./m --text t.txt --context 32 --windows 2 --html";
    // What was written once is written again, beside the weights too.
    for out in ["a", "m/a"] {
        for _ in 0..2 {
            sandbox.run(&format!("{logits} {out}.st")).expect(0, &[]);
            sandbox.run(&format!("{analyze} {out}.html")).expect(0, &[]);
        }
    }
    for _ in 0..2 {
        sandbox.run("man --out pages").expect(0, &[]);
    }
    for (command, others) in [
        (logits, ["notes", "other.safetensors", "a.html"]),
        (analyze, ["notes", "other.html", "a.st"]),
    ] {
        for out in [
            "m/model.safetensors",
            "m/config.json",
            "t.txt",
            "link",
            "hard",
        ] {
            for force in ["", " --force"] {
                let args = format!("{command} {out}{force}");
                sandbox.refuses(&args, 2, &[out, "is read by this command", "hint: "]);
            }
        }
        for force in ["", " --force"] {
            sandbox.refuses(&format!("{command} dir{force}"), 2, &["dir is a folder"]);
            let args = format!("{command} /dev/null{force}");
            sandbox.refuses(&args, 2, &["/dev/null is no plain file"]);
        }
        for out in others {
            let words = [out, "exists already", "hint: ", "--force"];
            sandbox.refuses(&format!("{command} {out}"), 2, &words);
        }
        sandbox
            .run(&format!("{command} notes --force"))
            .expect(0, &[]);
        sandbox.write("notes", "mine");
    }
    // One page that is not ours, and none is written.
    fs::remove_file(sandbox.path("pages/scale-ckpt.1")).unwrap();
    fs::copy(
        sandbox.path("pages/scale-ckpt-man.1"),
        sandbox.path("pages/scale-ckpt-train.1"),
    )
    .unwrap();
    sandbox.refuses("man --out pages", 2, &["pages/scale-ckpt-train.1 exists"]);
    sandbox.run("man --out pages --force").expect(0, &[]);
    assert!(sandbox.path("pages/scale-ckpt.1").exists());
}

#[test]
fn recipes_are_checked_before_anything_is_written() {
    let table = r#"
micro_batch | micro_bach | r.toml | line 11 | hint: did you mean `micro_batch`?
[data] | [dta] | r.toml | line 4 | hint: did you mean `data`?
[train] | [eval] | r.toml | line 9 | there is no key `eval.batch_tokens`
lr = 1e-3 |  | r.toml | `train.lr` is missing
[model]\nfrom = "./m" |  | r.toml | `model` is missing | hint: give [model] from = "gpt2", or [model.scratch]
from | scratch = { n_layer = 1, n_embd = 8, n_head = 1, n_positions = 8 }\nfrom | r.toml | line 2 | either `from` or [model.scratch]
lr = 1e-3 | lr = 1e-3\nmin_lr = 1e-2 | min_lr = 0.01 is above lr = 0.001
lr = 1e-3 | lr = 1e-3\nwarmup_tokens = 20000 | r.toml, line 13: train.warmup_tokens = 20,000 leaves nothing of the 10,240 tokens of the schedule | hint: set train.warmup_tokens lower, for example --set train.warmup_tokens=0
lr = 1e-3 | lr = 1e-3\ndecay_tokens = 100 | belongs to schedule = "wsd"
lr = 1e-3 | lr = 1e-3\nunfreeze_at_tokens = 20000 | beyond its 10240 tokens
lr = 1e-3 | lr = 1e-3\neval_every_tokens = 0 | eval_every_tokens must be at least 1
10240 | "many" | r.toml | line 8 | train.tokens: expected a whole number from 0, found "many"
10240 | -1 | r.toml | line 8 | train.tokens: expected a whole number from 0, found -1
["val.txt"] | "val.txt" | r.toml | line 6 | data.val: expected a list, found "val.txt" | hint: write val = ["val.txt"]
1e-3 |  | r.toml | line 12
1e-3 | nan | r.toml, line 12: train.lr = NaN must be 0 or more
1e-3 | -2e-4 | r.toml, line 12: train.lr = -0.0002 must be 0 or more
= 256 | = 250 | r.toml, line 9: train.batch_tokens = 250 | multiple of context = 32
= 256 | = 9223372036854775552 | train.batch_tokens = 9223372036854775552
= 32 | = 1024 | r.toml, line 10: train.context = 1024 exceeds | n_positions = 512
micro_batch = 4 | micro_batch = 288230376151711745 | micro_batch
train.txt | nowhere.txt | cannot read nowhere.txt
val.txt | bad.txt | bad.txt: not UTF-8 at byte 3 | hint: convert the file
train.txt | empty.txt | empty.txt: no text there
["val.txt"] | [] | r.toml | data.val names no files
out = "run" | out = "" | r.toml | `out` is empty
[data] | [grow]\nto = 2\n[data] | r.toml, line 5: grow.to = 2 is not deeper than the source's 2 blocks
[data] | [grow]\nto = 1\n[data] | grow.to = 1 is not deeper | with grow.allow_shrink = true
[data] | [grow]\nto = 4\nmethod = "g-stack"\ninit = "copy"\n[data] | r.toml, line 6: grow.method and grow.init exclude each other
[data] | [grow]\nplan = "one.toml"\n[data] | leaves 1 of 2 blocks | hint: give grow.allow_shrink = true
lr = 1e-3 | lr = 1e-3\noptimizer = "inherit" | ./m has no optimizer state | hint: start with optimizer = "fresh"
[data] | [grow]\nto = 4\nmethod = "gstack"\n[data] | r.toml, line 6: grow.method: there is no method `gstack` | hint: did you mean `g-stack`?
./m | ./nowhere | ./nowhere: there is no such folder
"#;
    let sandbox = with_recipe(RECIPE);
    sandbox.write("bad.txt", b"abc\xff");
    sandbox.write("one.toml", "[[slice]]\nlayers = [0, 1]\n");
    sandbox.write("empty.txt", "\n<|endoftext|>\n \n");
    for row in rows(table) {
        let [from, to] = [row[0], row[1]].map(|cell| cell.replace("\\n", "\n"));
        assert!(RECIPE.contains(&from), "{from}");
        sandbox.write("r.toml", RECIPE.replace(&from, &to));
        sandbox.refuses("train r.toml", 3, &row[2..]);
    }
    sandbox.write("r.toml", b"out = \"\xff\"");
    sandbox.refuses("train r.toml", 3, &["r.toml: not UTF-8 at byte 7"]);
    sandbox.refuses("train nowhere.toml", 3, &["cannot read nowhere.toml"]);
    sandbox.write("r.toml", RECIPE);
    for set in ["train.lr", "=3"] {
        let args = format!("train r.toml --set {set}");
        sandbox.refuses(&args, 2, &["--set", set, "hint: write --set train.lr=3e-4"]);
    }
    let unknown = ["`trainn`", "hint: did you mean `train`?"];
    sandbox.refuses("train r.toml --set trainn.lr=1", 3, &unknown);
    let named = ["r.toml, --set train.lr=fast: train.lr: expected a number, found \"fast\""];
    sandbox.refuses("train r.toml --set train.lr=fast", 3, &named);
}

#[test]
fn run_folders_belong_to_one_recipe_and_one_process() {
    let sandbox = with_recipe(RECIPE);
    let train = "train r.toml --set train.tokens=512";
    sandbox.run(train).expect(0, &[]);
    let other = [
        "a run of another recipe: train.tokens is 768, was 512",
        "hint: choose another `out`",
    ];
    sandbox.refuses("train r.toml --set train.tokens=768", 2, &other);
    let lock = fs::File::open(sandbox.path("run/.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    sandbox.refuses(train, 8, &["run is in use by process"]);
    drop(lock);
    let tree = sandbox.tree();
    let finished = ["run holds this run, finished: nothing is left to train"];
    sandbox.run(train).expect(0, &finished);
    assert!(sandbox.tree().keys().eq(tree.keys()));
    sandbox.write("train.txt", "Other words. ".repeat(500));
    let text = [
        "a run of another training text",
        "hint: choose another `out`",
    ];
    sandbox.refuses(train, 2, &text);
}

#[test]
fn standard_output_has_the_result_and_nothing_else() {
    let commands = "
grow ./m --to 4 --out out
grow ./m --to 4 --dry-run
inspect ./m
diff ./m ./out
eval ./m --val t.txt --context 16
methods
";
    let without_json = "
--help
man
completions bash
generate ./m --prompt Hello --tokens 20
";
    let sandbox = Sandbox::with("hellaswag/model");
    sandbox.write("t.txt", "Some words to score. ".repeat(20));
    let commands: Vec<&str> = commands.trim().lines().collect();
    for command in &commands {
        let outcome = sandbox.run(&format!("{command} --json"));
        let value: Value = serde_json::from_str(&outcome.expect(0, &[]).stdout).unwrap();
        assert!(value.is_object(), "{command}");
    }
    // A reader that goes away is no error, a full disk is.
    for command in without_json.trim().lines().chain(commands[1..].to_vec()) {
        let mut child = sandbox.spawn(command);
        drop(child.stdout.take());
        Outcome::of_child(child).expect(0, &[]);
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = sandbox.command("inspect ./m");
    command.stdout(full.unwrap());
    Outcome::of(command).expect(5, &["cannot write standard output"]);
}

#[test]
fn help_pages_and_usage_errors_are_in_order() {
    let table = "
--help | Exit codes: 0 done
--version | scale-ckpt 0.
train --help | --set <KEY=VALUE>
completions bash | complete -F
completions zsh | #compdef scale-ckpt
completions fish | complete -c scale-ckpt
man | .TH scale-ckpt
";
    let sandbox = Sandbox::new();
    for row in rows(table) {
        let outcome = sandbox.run(row[0]).expect(0, &[]);
        assert!(outcome.stdout.contains(row[1]), "{}", outcome.stdout);
        assert!(outcome.stderr.is_empty() && !outcome.stdout.contains('\u{1b}'));
    }
    for args in [
        "",
        "groww",
        "grow",
        "grow ./m --tto 4",
        "completions tcsh",
        "eval",
    ] {
        let mut command = sandbox.command(args);
        command.env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1");
        let outcome = Outcome::of(command).expect(2, &["--help"]);
        assert_eq!(outcome.stdout, "", "{args}");
        assert!(!outcome.stderr.contains('\u{1b}'), "{args}");
    }
}

/// What bash offers for a line that ends where the cursor is.
fn completed(sandbox: &Sandbox, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let script = format!(
        "source <({PROGRAM} completions bash)\nCOMP_WORDS=({line} {})\nCOMP_CWORD={}\n\
         _scale__ckpt scale-ckpt '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        if line.ends_with(' ') { "''" } else { "" },
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let mut bash = std::process::Command::new("bash");
    bash.args(["--norc", "-c", &script])
        .current_dir(sandbox.path(""));
    let output = bash.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.is_empty(), "{line}: {stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    stdout.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let there = std::process::Command::new("bash").arg("--version").output();
    if there.is_err() {
        return;
    }
    let sandbox = Sandbox::new();
    let table = "
scale-ckpt gr | grow
scale-ckpt grow --m | --method --max-shard-size
scale-ckpt grow --method g- | g-stack
scale-ckpt data pre | prepare
scale-ckpt data prepare --val | --val-fraction --val-docs
scale-ckpt bench train --shape prose | prose-4l
scale-ckpt bench train --precision b | bf16
scale-ckpt eval m --tasks hella | hellaswag hellaswag_completion
scale-ckpt eval m --device c | cpu cuda
scale-ckpt compare r --ledger  | flops layer_passes tokens seconds
scale-ckpt grow m --placement int | interleave
";
    for row in table.trim().lines() {
        let (line, wanted) = row.split_once(" | ").unwrap();
        let mut wanted: Vec<&str> = wanted.split(' ').collect();
        let mut found = completed(&sandbox, line);
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted, "{line}");
    }
}

#[test]
fn numbers_are_read_as_in_recipes_and_refused_in_plain_words() {
    let sandbox = Sandbox::new();
    let table = "
eval m --limit 0 | for '--limit <N>': expected a whole number from 1
eval m --stride 0 | expected a whole number from 1
eval m --val-tokens 0 | expected a whole number from 1
eval m --limit 10k | expected a whole number from 1, as in 10e3
eval m --limit 1.5 | expected a whole number from 1
eval m --limit nan | expected a whole number from 1
eval m --val-tokens 1e30 | expected a whole number from 1 to 9007199254740992
grow m --to -1 | expected a whole number from 0
grow m --to x | expected a whole number from 0
data prepare x --out o --val-docs x | expected a whole number from 0
data prepare x --out o --val-docs 1__0 | expected a whole number from 0
data prepare x --out o --shard-tokens 0 | expected a whole number from 1
data prepare x --out o --shard-tokens 3e9 | --shard-tokens 3000000000 is more than 2000000000
bench train --peak-flops 989TFLOPS | expected a number, as in 989e12
bench train --peak-flops much | expected a number
bench train --context 0 | --context must be at least 1
bench train --steps 0 | --steps must be at least 1
grow m --max-shard-size x | write 500MB
";
    for row in rows(table) {
        let outcome = sandbox.run(row[0]).expect(2, &[row[1]]);
        for word in ["non-zero type", "digit", "literal", "..="] {
            assert!(!outcome.stderr.contains(word), "{}", outcome.stderr);
        }
    }
    // What is taken is told by what comes next: there is no checkpoint, and no such shape.
    for args in [
        "eval ./none --val val.txt --val-tokens 1e2 --context 3_2",
        "eval ./none --val val.txt --val-tokens 2.0",
        "grow ./none --to 1.6e1",
        "generate ./none --prompt x --tokens 1e1 --top-k 1_0",
    ] {
        sandbox.run(args).expect(3, &["./none"]);
    }
    sandbox
        .run("bench train --shape none --micro-batch 1.6e1 --peak-flops 1_000e12")
        .expect(2, &["no such shape"]);
}

#[test]
fn options_of_other_programs_are_answered_with_those_of_this_one() {
    let sandbox = Sandbox::new();
    let table = "
train r.toml --dry-run | `scale-ckpt plan RECIPE`
train r.toml --lr 1e-4 | --set train.lr=1e-4
eval m --batch_size 8 | leave it out
eval m --batch_size=8 | leave it out
eval --model hf | without an option
eval --model_args pretrained=gpt2 | `scale-ckpt eval gpt2`
eval m --num_fewshot 5 | --num-fewshot K
eval m --output_path o | --out DIR
generate m --max-new-tokens 5 | --tokens N
generate m --max_new_tokens=5 | --tokens N
grow m --layers 24 | --to N
eval m --bf16 | --precision bf16
data prepare x --output-dir o | --out DIR
";
    for row in rows(table) {
        let outcome = sandbox.run(row[0]).expect(2, &["tip: ", row[1]]);
        assert!(!outcome.stderr.contains("as a value"), "{}", outcome.stderr);
    }
    // Any other unknown option is not called a value either, and a slip is still told.
    let outcome = sandbox
        .run("inspect m --unheard-of")
        .expect(2, &["--unheard-of"]);
    assert!(!outcome.stderr.contains("tip"), "{}", outcome.stderr);
    sandbox.run("grow m --methd x").expect(2, &["'--method'"]);
}

#[test]
fn doctor_tells_what_there_is_and_no_secrets() {
    let sandbox = Sandbox::new();
    let doctor = |offline: bool, endpoint: &str| -> Value {
        let mut command = sandbox.command("doctor --json");
        command
            .env("HF_TOKEN", "hf_secretsecret")
            .env("HF_HOME", sandbox.path("hf"))
            .env("HF_ENDPOINT", endpoint);
        if !offline {
            command.env_remove("HF_HUB_OFFLINE");
        }
        let outcome = Outcome::of(command).expect(0, &[]);
        assert!(!outcome.stdout.contains("secretsecret"));
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    // Nobody listens on that port.
    let report = doctor(false, "http://127.0.0.1:9");
    assert_eq!(report["hub"]["reachable"], false);
    assert!(
        report["hub"]["problem"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1")
    );
    assert_eq!(report["hub"]["token"], true);
    assert!(report["cores"].as_u64().unwrap() > 0 && report["disk_here"].is_number());
    let parts = report["cuda"].as_array().unwrap();
    assert_eq!(parts.len(), 3);
    assert_eq!(
        (&report["cuda_build"], &report["wgpu_build"]),
        (
            &cfg!(feature = "cuda").into(),
            &cfg!(feature = "wgpu").into()
        )
    );
    assert!(report["kernel_cache"].is_string());
    assert!(
        parts
            .iter()
            .all(|part| !part["looked"].as_array().unwrap().is_empty())
    );
    assert_eq!(
        doctor(true, "http://127.0.0.1:9")["hub"]["reachable"],
        Value::Null
    );
    let shown = sandbox.run("doctor").expect(0, &[]).stdout;
    assert!(
        shown.contains("the network is off") && shown.contains("the NVIDIA driver"),
        "{shown}"
    );
}

#[test]
fn benchmarks_say_what_they_measured() {
    let sandbox = Sandbox::new();
    let run = |args: &str| -> serde_json::Value {
        let outcome = sandbox.run(args).expect(0, &[]);
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    let found = run(
        "bench train --shape prose-4l --context 32 --micro-batch 2 --steps 2 --peak-flops 1e12 --json",
    );
    let number = |key: &str| found[key].as_f64().unwrap();
    assert_eq!(found["parameters"], 3_822_240);
    assert_eq!(found["precision"], "float32");
    let (step, rate) = (number("step_s"), number("tokens_per_s"));
    assert!((rate * step - 64.0).abs() < 1e-6 && number("first_step_s") > 0.0);
    assert!((number("mfu") - number("flops_per_s") / 1e12).abs() < 1e-12);
    let parts = found["parts"].as_object().unwrap();
    assert!(parts.len() == 5 && parts["backward"].as_f64().unwrap() > 0.0);
    let scored = run("bench eval --shape prose-4l --items 3 --json");
    assert_eq!(
        (&scored["items"], &scored["shared_context"]),
        (&3.into(), &true.into())
    );
    for (args, words) in [
        ("bench train --shape gpt3", "did you mean gpt2"),
        ("bench train --context 4096", "reads up to 1024"),
        ("bench train --micro-batch 0", "at least 1"),
        ("bench train --peak-flops 0", "above 0"),
        ("bench eval --items 0", "at least 1"),
    ] {
        sandbox.refuses(args, 2, &[words]);
    }
    // A build for the CPU says what to do.
    if cfg!(not(feature = "gpu")) {
        sandbox.refuses("bench train --device cuda", 6, &["--features cuda"]);
        sandbox.refuses("bench train --device wgpu", 6, &["--features vulkan"]);
    }
    let again = run(
        "bench train --shape prose-4l --context 32 --micro-batch 2 --steps 1 --gradient-checkpointing --precision bf16 --json",
    );
    assert_eq!(
        (&again["precision"], &again["gradient_checkpointing"]),
        (&"bfloat16".into(), &true.into())
    );
}
