//! The program as a user meets it: bad input, signals, full disks, what goes where.
//!
//! Every refusal has its exit code, says what and where, does not panic, and leaves nothing
//! behind.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{copy_dir, fixture};

fn tool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale-ckpt"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("HF_HUB_OFFLINE", "1");
    command
}

fn run(args: &[&str]) -> Output {
    tool().args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts exit code and words of a refusal.
fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

fn done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    entries
}

/// A copy of the pico checkpoint in a folder of its own, and room for output beside it.
struct Case {
    root: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        copy_dir(&fixture("gpt2-pico"), &root.path().join("source"));
        Self { root }
    }

    fn source(&self) -> PathBuf {
        self.root.path().join("source")
    }

    fn weights(&self) -> PathBuf {
        self.source().join("model.safetensors")
    }

    fn edit_config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.source().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    /// Replaces header and data of the weights.
    fn edit_header(&self, change: impl FnOnce(&mut Value, &mut Vec<u8>)) {
        let bytes = fs::read(self.weights()).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let mut data = bytes[8 + length..].to_vec();
        change(&mut header, &mut data);
        let header = header.to_string();
        let whole = [
            &(header.len() as u64).to_le_bytes(),
            header.as_bytes(),
            &data,
        ]
        .concat();
        fs::write(self.weights(), whole).unwrap();
    }

    fn grow(&self, flags: &[&str]) -> Output {
        let out = self.root.path().join("out");
        let mut command = tool();
        command
            .arg("grow")
            .arg(self.source())
            .arg("--out")
            .arg(out)
            .args(flags);
        command.output().unwrap()
    }

    /// Grows to 3 layers, which must fail and leave nothing behind.
    fn refuses(&self, code: i32, words: &[&str]) {
        let before = listing(self.root.path());
        refused(&self.grow(&["--to", "3"]), code, words);
        assert_eq!(listing(self.root.path()), before);
    }
}

#[test]
fn damaged_weight_files_are_refused() {
    let whole = fs::read(fixture("gpt2-pico/model.safetensors")).unwrap();
    let with_length = |length: u64| [&length.to_le_bytes(), &whole[8..]].concat();
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (vec![], &["model.safetensors", "too few", "hint"]),
        (whole[..4].to_vec(), &["too few", "truncated"]),
        (whole[..500].to_vec(), &["header claims", "truncated"]),
        (
            whole[..whole.len() - 1].to_vec(),
            &["describes", "truncated"],
        ),
        (
            whole[..whole.len() / 2].to_vec(),
            &["describes", "truncated"],
        ),
        ([whole.as_slice(), b"x"].concat(), &["trailing"]),
        (with_length(1 << 63), &["header claims 9223372036854775808"]),
        (with_length(u64::MAX), &["at most"]),
        (
            [&8_u64.to_le_bytes()[..], b"not json"].concat(),
            &["not sound"],
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(),
            &["Git LFS"],
        ),
        (
            b"\x80\x02cos\nsystem\n(S'touch pwned'\ntR.".to_vec(),
            &["model.safetensors"],
        ),
    ];
    for (bytes, words) in cases {
        let case = Case::new();
        fs::write(case.weights(), bytes).unwrap();
        case.refuses(3, words);
    }
}

#[test]
fn unsound_headers_are_refused() {
    type Edit = fn(&mut Value, &mut Vec<u8>);
    let cases: [(Edit, &[&str]); 6] = [
        (
            |h, _| {
                h["transformer.ln_f.bias"]["data_offsets"] =
                    h["transformer.ln_f.weight"]["data_offsets"].clone()
            },
            &["not sound"],
        ),
        (|_, data| data.truncate(10), &["truncated"]),
        (
            |h, _| {
                h.as_object_mut().unwrap().remove("__metadata__");
                h["transformer.ln_f.weight"]["shape"] = json!([16, 2]);
            },
            &["ln_f.weight", "[16, 2]", "[32]"],
        ),
        (
            |h, _| h["transformer.ln_f.weight"]["dtype"] = json!("I32"),
            &["ln_f.weight", "I32"],
        ),
        (
            |h, _| {
                let x = h
                    .as_object_mut()
                    .unwrap()
                    .remove("transformer.ln_f.weight")
                    .unwrap();
                h["transformer.ln_g.weight"] = x;
            },
            &["`ln_f.weight` is missing", "hint"],
        ),
        (
            |h, _| {
                let x = h
                    .as_object_mut()
                    .unwrap()
                    .remove("transformer.ln_f.weight")
                    .unwrap();
                h["h.7.ln_1.weight"] = x;
            },
            &["`ln_f.weight` is missing"],
        ),
    ];
    for (edit, words) in cases {
        let case = Case::new();
        case.edit_header(edit);
        case.refuses(3, words);
    }
    let case = Case::new();
    case.edit_config(|config| config["n_layer"] = json!(1));
    case.refuses(3, &["belongs to block 1", "n_layer = 1"]);
    let case = Case::new();
    fs::remove_file(case.weights()).unwrap();
    case.refuses(3, &["no weights", "hint"]);
}

#[test]
fn configs_that_do_not_fit_are_refused() {
    let cases: [(&str, Value, &[&str]); 8] = [
        (
            "n_head",
            json!(5),
            &["config.json", "`n_head`", "do not divide"],
        ),
        ("n_head", json!("4"), &["`n_head`", "expected an integer"]),
        ("n_layer", json!(-1), &["`n_layer`"]),
        ("n_embd", json!(64), &["expected [64, 64]", "hint"]),
        (
            "activation_function",
            json!("mish"),
            &["`activation_function`", "mish"],
        ),
        (
            "add_cross_attention",
            json!(true),
            &["`add_cross_attention`"],
        ),
        (
            "scale_attn_by_inverse_layer_idx",
            json!(true),
            &["`scale_attn_by_inverse_layer_idx`"],
        ),
        (
            "tie_word_embeddings",
            json!(false),
            &["lm_head.weight", "tie_word_embeddings"],
        ),
    ];
    for (key, value, words) in cases {
        let case = Case::new();
        case.edit_config(|config| config[key] = value);
        case.refuses(3, words);
    }
    let case = Case::new();
    fs::write(case.source().join("config.json"), "{").unwrap();
    case.refuses(3, &["not valid JSON"]);
    fs::remove_file(case.source().join("config.json")).unwrap();
    case.refuses(3, &["no config.json"]);
}

#[test]
fn shards_are_checked() {
    let case = Case::new();
    fs::remove_dir_all(case.source()).unwrap();
    copy_dir(&fixture("gpt2-variants/sharded"), &case.source());
    let index = case.source().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("model-00001-of", "../model-00001-of")).unwrap();
    case.refuses(3, &["not a plain file name"]);
    fs::write(&index, "[]").unwrap();
    case.refuses(3, &["not a weight index"]);
    fs::write(&index, text).unwrap();
    fs::remove_file(case.source().join("model-00002-of-00004.safetensors")).unwrap();
    case.refuses(3, &["model-00002-of-00004.safetensors", "missing", "hint"]);
}

#[test]
fn values_that_are_not_finite_are_warned_of() {
    let case = Case::new();
    case.edit_header(|header, data| {
        let offset = header["transformer.wpe.weight"]["data_offsets"][1]
            .as_u64()
            .unwrap() as usize;
        data[offset - 4..offset].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    for flags in [
        &["--to", "3"][..],
        &["--to", "3", "--no-certificate", "--force"],
    ] {
        let output = case.grow(flags);
        done(&output);
        assert!(
            stderr(&output).contains("not finite in wpe.weight"),
            "{}",
            stderr(&output)
        );
    }
    let output = tool().arg("inspect").arg(case.source()).output().unwrap();
    assert!(stderr(&output).contains("not finite in wpe.weight"));
}

#[test]
fn growth_that_is_asked_for_wrongly_is_refused() {
    let case = Case::new();
    let cases: [(&[&str], i32, &[&str]); 14] = [
        (&["--to", "2"], 2, &["not deeper"]),
        (&["--to", "1"], 2, &["not deeper"]),
        (&["--to", "99999999"], 2, &["at most"]),
        (&[], 2, &["--to"]),
        (&["--to", "x"], 2, &["invalid value"]),
        (
            &["--to", "4", "--method", "g-stak"],
            2,
            &["did you mean `g-stack`"],
        ),
        (
            &["--to", "3", "--method", "g-stack"],
            2,
            &["multiple of 2", "hint"],
        ),
        (
            &["--to", "4", "--method", "g-stack", "--init", "copy"],
            2,
            &["exclude each other"],
        ),
        (
            &["--to", "4", "--init", "zero-residul"],
            2,
            &["did you mean `zero-residual`"],
        ),
        (&["--to", "4", "--init", "noisy:nose=1"], 2, &["nose"]),
        (&["--to", "4", "--init", "noisy:noise=nan"], 2, &["finite"]),
        (
            &["--to", "4", "--plan", "/no/such/plan.toml"],
            3,
            &["/no/such/plan.toml"],
        ),
        (
            &["--to", "4", "--max-shard-size", "5 parsecs"],
            2,
            &["unit of size"],
        ),
        (
            &["--to", "4", "--init", "identity:std=1e30"],
            1,
            &["certificate does not hold"],
        ),
    ];
    let before = listing(case.root.path());
    for (flags, code, words) in cases {
        refused(&case.grow(flags), code, words);
        assert_eq!(listing(case.root.path()), before, "{flags:?}");
    }
    let plan = case.root.path().join("plan.toml");
    fs::write(&plan, "[[slice]]\nlayers = [0, 2]\nint = \"copy\"\n").unwrap();
    refused(
        &case.grow(&["--plan", plan.to_str().unwrap()]),
        3,
        &["plan.toml", "line 3", "int"],
    );
    fs::write(&plan, "[[slice]]\nlayers = [0, 9]\n").unwrap();
    refused(
        &case.grow(&["--plan", plan.to_str().unwrap()]),
        3,
        &["slice 1", "[0, 2]"],
    );
}

#[test]
fn existing_output_is_kept_unless_forced() {
    let case = Case::new();
    let out = case.root.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("diary.txt"), "dear").unwrap();
    refused(
        &case.grow(&["--to", "3"]),
        2,
        &["exists already", "--force"],
    );
    refused(
        &case.grow(&["--to", "3", "--force"]),
        2,
        &["will not replace"],
    );
    assert_eq!(fs::read_to_string(out.join("diary.txt")).unwrap(), "dear");
    fs::remove_dir_all(&out).unwrap();
    done(&case.grow(&["--to", "3"]));
    refused(&case.grow(&["--to", "4"]), 2, &["exists already"]);
    done(&case.grow(&["--to", "4", "--force"]));
    let config = fs::read_to_string(out.join("config.json")).unwrap();
    assert!(config.contains("\"n_layer\": 4"));
    assert_eq!(listing(case.root.path()).len(), 2);
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let case = Case::new();
    let generate = |dir: &Path| {
        tool()
            .arg("generate")
            .arg(dir)
            .args(["--tokens", "2"])
            .output()
            .unwrap()
    };
    refused(&generate(&case.source()), 3, &["no tokenizer", "hint"]);
    fs::copy(
        fixture("prose-4l/tokenizer.json"),
        case.source().join("tokenizer.json"),
    )
    .unwrap();
    refused(
        &generate(&case.source()),
        3,
        &["ids up to 4095", "vocab_size = 64"],
    );
    fs::write(case.source().join("tokenizer.json"), "{}").unwrap();
    refused(
        &generate(&case.source()),
        3,
        &["tokenizer.json", "not a tokenizer"],
    );
    let output = run(&["generate", "./fixtures/hellaswag/model", "--device", "cuda"]);
    refused(&output, 6, &["no CUDA", "--features cuda"]);
    refused(
        &run(&["generate", "no-such-model"]),
        4,
        &["no-such-model", "hint"],
    );
    refused(
        &run(&["generate", "./no-such-folder"]),
        3,
        &["no-such-folder"],
    );
}

/// A tiny recipe in `root`, with whatever replaces its lines.
fn recipe(root: &Path, edit: impl FnOnce(String) -> String) -> PathBuf {
    let text: String = (0..400)
        .map(|i| format!("Line {i} of a text that nobody wrote.\n"))
        .collect();
    fs::write(root.join("text.txt"), text).unwrap();
    let text = format!(
        "out = \"{root}/run\"\n[model]\nfrom = \"./fixtures/hellaswag/model\"\n[grow]\nto = 3\n\
         [data]\ntrain = [\"{root}/text.txt\"]\nval = [\"{root}/text.txt\"]\n\
         [train]\ntokens = 12_800\nbatch_tokens = 128\ncontext = 32\nmicro_batch = 2\nlr = 1e-3\n\
         save_every_tokens = 2560\nkeep = 1\n[eval]\nval_tokens = 256\n",
        root = root.display()
    );
    let path = root.join("recipe.toml");
    fs::write(&path, edit(text)).unwrap();
    path
}

fn train(recipe: &Path) -> Command {
    let mut command = tool();
    command.arg("train").arg(recipe);
    command
}

#[test]
fn recipes_with_mistakes_are_refused() {
    let cases: [(&str, &str, i32, &[&str]); 10] = [
        (
            "micro_batch",
            "micro_bach",
            3,
            &["line 13", "micro_bach", "did you mean `micro_batch`"],
        ),
        ("lr = 1e-3", "lr = \"fast\"", 3, &["line 14"]),
        ("[train]", "[trane]", 3, &["trane"]),
        (
            "from = ",
            "scratch = { n_layer = 1, n_embd = 8, n_head = 1, n_positions = 8 }\nfrom = ",
            3,
            &["recipe.toml"],
        ),
        (
            "batch_tokens = 128",
            "batch_tokens = 100",
            3,
            &["batch_tokens = 100", "multiple"],
        ),
        ("context = 32", "context = 4096", 3, &["n_positions"]),
        ("to = 3", "to = 1", 3, &["[grow]", "not deeper"]),
        (
            "text.txt\"]\nval",
            "nothing.txt\"]\nval",
            3,
            &["nothing.txt"],
        ),
        (
            "tokens = 12_800",
            "tokens = 9000000000000000000",
            3,
            &["train.tokens"],
        ),
        (
            "from = \"./fixtures",
            "from = \"./fixture",
            3,
            &["no config.json"],
        ),
    ];
    for (from, to, code, words) in cases {
        let root = tempfile::tempdir().unwrap();
        let path = recipe(root.path(), |text| text.replacen(from, to, 1));
        refused(&train(&path).output().unwrap(), code, words);
        assert!(
            !root.path().join("run").exists(),
            "{to}: a folder was claimed"
        );
    }
    let root = tempfile::tempdir().unwrap();
    let path = recipe(root.path(), |text| text);
    refused(
        &train(&path).args(["--set", "train.lr"]).output().unwrap(),
        2,
        &["--set", "hint"],
    );
    refused(
        &train(Path::new("/no/such.toml")).output().unwrap(),
        3,
        &["/no/such.toml"],
    );
    fs::write(root.path().join("text.txt"), b"abc\xff").unwrap();
    refused(
        &train(&path).output().unwrap(),
        3,
        &["text.txt", "not UTF-8 at byte 3"],
    );
    fs::write(root.path().join("text.txt"), "\n").unwrap();
    refused(&train(&path).output().unwrap(), 3, &["no text"]);
}

#[test]
fn evaluation_data_with_mistakes_is_located() {
    let good = r#"{"ctx":"a","endings":["b","c","d","e"],"label":0}"#;
    let long = format!("{{\"ctx\":\"{}\"}}", "x".repeat(2 << 20));
    let cases: [(&str, &[&str]); 8] = [
        (r#"{"endings":["b","c","d","e"],"label":0}"#, &["ctx"]),
        (
            r#"{"ctx":"a","endings":["b","c","d"],"label":0}"#,
            &["4 endings"],
        ),
        (
            r#"{"ctx":"a","endings":["b","c","d","e"],"label":4}"#,
            &["label"],
        ),
        (
            r#"{"ctx":"a","endings":["b","c","d","e"],"label":""}"#,
            &["label"],
        ),
        (
            r#"{"ctx":"a","endings":["b","","d","e"],"label":1}"#,
            &["ending 1 is empty"],
        ),
        (
            r#"{"ctx":"","endings":["b","c","d","e"],"label":1}"#,
            &["empty"],
        ),
        ("nonsense", &["expected"]),
        (&long, &["longer than"]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("items.jsonl");
    let eval = || {
        tool()
            .args(["eval", "./fixtures/hellaswag/model", "--hellaswag"])
            .arg(&file)
            .output()
            .unwrap()
    };
    for (line, words) in cases {
        fs::write(&file, format!("{good}\r\n{line}\n")).unwrap();
        let output = eval();
        refused(&output, 3, words);
        refused(&output, 3, &["items.jsonl:2"]);
    }
    fs::write(&file, format!("{good}\r\n\n{good}\r\n")).unwrap();
    done(&eval());
    fs::write(&file, "").unwrap();
    refused(&eval(), 3, &["no items"]);
    refused(
        &run(&["eval", "./fixtures/hellaswag/model"]),
        2,
        &["nothing to score on", "hint"],
    );
}

/// Runs a shell line in a mount namespace with a tiny file system at `$DIR`, where that is
/// allowed.
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let case = Case::new();
    let mount = case.root.path().join("small");
    fs::create_dir(&mount).unwrap();
    let script = "mount -t tmpfs -o size=64k tmpfs \"$DIR\" || exit 99; \"$TOOL\" grow \"$SRC\" --to 4 --out \"$DIR/out\"; code=$?; ls -A \"$DIR\"; exit $code";
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script])
        .env("DIR", &mount)
        .env("TOOL", env!("CARGO_BIN_EXE_scale-ckpt"))
        .env("SRC", case.source())
        .output();
    match output {
        Ok(output) if output.status.code() == Some(5) => {
            assert!(
                stderr(&output).contains("No space left"),
                "{}",
                stderr(&output)
            );
            assert!(
                output.stdout.is_empty(),
                "left: {}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(output) if ![Some(1), Some(99)].contains(&output.status.code()) => panic!("{output:?}"),
        _ => eprintln!("skipped: no mount namespaces here"),
    }
}

#[test]
fn a_file_size_limit_is_a_disk_error() {
    let case = Case::new();
    let before = listing(case.root.path());
    let output = Command::new("bash")
        .args([
            "-c",
            "ulimit -f 50 && exec \"$TOOL\" grow \"$SRC\" --to 4 --out \"$SRC/../out\"",
        ])
        .env("TOOL", env!("CARGO_BIN_EXE_scale-ckpt"))
        .env("SRC", case.source())
        .output()
        .unwrap();
    refused(&output, 5, &["model.safetensors", "File too large"]);
    assert_eq!(listing(case.root.path()), before);
}

#[test]
fn a_parent_that_cannot_be_written_is_a_disk_error() {
    let case = Case::new();
    let file = case.root.path().join("file.txt");
    fs::write(&file, "").unwrap();
    let output = tool()
        .arg("grow")
        .arg(case.source())
        .args(["--to", "3", "--out"])
        .arg(file.join("out"))
        .output()
        .unwrap();
    refused(&output, 5, &["file.txt"]);
}

fn signal(pid: u32, name: &str) {
    assert!(
        Command::new("kill")
            .args([name, &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let started = Instant::now();
    while !ready() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{what} did not come about"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A checkpoint of 400 MB of zeros, sparse on disk.
fn large_checkpoint(dir: &Path) {
    use scale_ckpt::checkpoint::{Gpt2Config, layout};
    let config = Gpt2Config::new(50257, 1024, 1024, 4, 16).unwrap();
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("config.json"), config.to_json()).unwrap();
    let (mut header, mut offset) = (serde_json::Map::new(), 0);
    for param in layout::params(&config) {
        let end = offset + 4 * param.numel();
        header.insert(
            param.name,
            json!({ "dtype": "F32", "shape": param.shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let header = Value::Object(header).to_string();
    let file = dir.join("model.safetensors");
    fs::write(
        &file,
        [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat(),
    )
    .unwrap();
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len((8 + header.len() + offset) as u64).unwrap();
}

#[test]
fn a_signal_during_a_save_leaves_nothing_behind() {
    for name in ["-INT", "-TERM"] {
        let root = tempfile::tempdir().unwrap();
        let source = root.path().join("source");
        large_checkpoint(&source);
        let mut child = tool()
            .arg("grow")
            .arg(&source)
            // Drawing 2 GB of random values takes longer than the signal.
            .args(["--to", "40", "--init", "random", "--out"])
            .arg(root.path().join("out"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for("a staging folder", || listing(root.path()).len() > 1);
        signal(child.id(), name);
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(75), "{name}");
        assert_eq!(listing(root.path()), [source], "{name}");
    }
}

fn weights_of(run: &Path) -> Vec<u8> {
    let checkpoint = listing(run)
        .into_iter()
        .find(|p| {
            p.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("step-")
        })
        .unwrap();
    let read = |name: &str| fs::read(checkpoint.join(name)).unwrap();
    [read("model.safetensors"), read("optimizer.safetensors")].concat()
}

/// Events of a run without their wall times.
fn metrics_of(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let event = |line: &str| {
        let mut event: Value = serde_json::from_str(line).unwrap();
        event.as_object_mut().unwrap().remove("elapsed_s");
        event
    };
    text.lines().map(event).collect()
}

#[test]
fn a_stopped_run_ends_with_the_same_bytes() {
    let whole = tempfile::tempdir().unwrap();
    done(&train(&recipe(whole.path(), |text| text)).output().unwrap());
    let wanted = whole.path().join("run");
    for name in ["-INT", "-TERM", "-KILL"] {
        let root = tempfile::tempdir().unwrap();
        let path = recipe(root.path(), |text| text);
        let run = root.path().join("run");
        let mut child = train(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let steps = || {
            fs::read_to_string(run.join("metrics.jsonl"))
                .unwrap_or_default()
                .matches("grad_norm")
                .count()
        };
        wait_for("step 30", || steps() > 30);
        signal(child.id(), name);
        let code = child.wait().unwrap().code();
        assert_eq!(code, (name != "-KILL").then_some(75), "{name}");
        let output = train(&path).output().unwrap();
        done(&output);
        assert!(
            stderr(&output).contains("resuming at step"),
            "{name}: {}",
            stderr(&output)
        );
        assert_eq!(weights_of(&run), weights_of(&wanted), "{name}");
        // The first events name recipe and folders, which differ.
        let steps = |run: &Path| {
            metrics_of(run)
                .into_iter()
                .filter(|e| e.get("grad_norm").is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(steps(&run), steps(&wanted), "{name}");
    }
}

#[test]
fn a_run_guards_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let path = recipe(root.path(), |text| {
        text.replace("tokens = 12_800", "tokens = 256")
    });
    done(&train(&path).output().unwrap());
    let run = root.path().join("run");
    let other = train(&path)
        .args(["--set", "train.lr=1e-4"])
        .output()
        .unwrap();
    refused(&other, 2, &["run of another recipe", "hint"]);
    let held = fs::File::open(run.join(".lock")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    refused(&train(&path).output().unwrap(), 8, &["in use by"]);
    drop(held);
    // The only checkpoint is damaged: it is set aside, and the run starts again and ends well.
    let step = run.join("step-00000002");
    fs::write(step.join("optimizer.safetensors"), "no").unwrap();
    let output = train(&path).output().unwrap();
    done(&output);
    assert!(stderr(&output).contains("set aside"), "{}", stderr(&output));
    assert!(step.join("model.safetensors").exists());
    fs::write(root.path().join("text.txt"), "Another text. ".repeat(500)).unwrap();
    refused(
        &train(&path).output().unwrap(),
        2,
        &["another training text"],
    );
}

#[test]
fn results_are_on_stdout_and_json_is_json() {
    let case = Case::new();
    let json_of = |output: Output| -> Value {
        done(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let grown = json_of(case.grow(&["--to", "4", "--json"]));
    assert_eq!(
        (
            &grown["n_layer"],
            &grown["certificate"]["max_abs_logit_diff"]
        ),
        (&json!(4), &json!(0.0))
    );
    let plan = json_of(case.grow(&["--to", "5", "--json", "--dry-run"]));
    assert_eq!(plan["plan"]["slots"].as_array().unwrap().len(), 5);
    let out = case.root.path().join("out");
    let (source, out) = (
        case.source().display().to_string(),
        out.display().to_string(),
    );
    assert_eq!(
        json_of(run(&["inspect", &out, "--json"]))["tensors"]
            .as_array()
            .unwrap()
            .len(),
        52
    );
    assert_eq!(
        json_of(run(&["diff", &source, &out, "--json"]))["tensors"]
            .as_array()
            .unwrap()
            .len(),
        52
    );
    assert!(
        json_of(run(&["methods", "--json"]))["methods"]
            .as_array()
            .unwrap()
            .len()
            > 9
    );
    let scores = run(&[
        "eval",
        "./fixtures/hellaswag/model",
        "--hellaswag",
        "fixtures/hellaswag/hellaswag_val_200.jsonl",
        "--limit",
        "4",
        "--json",
    ]);
    assert_eq!(
        json_of(scores)["models"][0]["hellaswag"]["protocol"],
        "completion"
    );
}

#[test]
fn help_pages_and_pipes() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).stdout.len() > 500);
    }
    assert!(String::from_utf8_lossy(&run(&["man"]).stdout).contains(".TH"));
    let version = String::from_utf8(run(&["--version"]).stdout).unwrap();
    assert!(
        version.starts_with("scale-ckpt ") && version.contains('('),
        "{version}"
    );
    refused(&run(&["explode"]), 2, &["explode"]);
    let mut child = tool()
        .args(["methods"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    refused(&child.wait_with_output().unwrap(), 0, &[]);
    let plain = tool()
        .args(["grow", "./fixtures/gpt2-pico", "--to", "4", "--dry-run"])
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(!plain.stdout.contains(&0x1b) && !plain.stderr.contains(&0x1b));
}
