//! The program in a folder of its own, for tests that watch what it says and leaves behind.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{copy_dir, fixture};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_scale-ckpt");
pub const GROW: &str = "grow ./m --to 4 --out out";

/// What a finished program left.
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn of(mut command: Command) -> Self {
        Self::of_child(command.spawn().unwrap())
    }

    /// Waits for the program, which must not have panicked.
    pub fn of_child(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        let code = output.status.code();
        Self {
            code,
            stdout,
            stderr,
        }
    }

    #[track_caller]
    pub fn expect(self, code: i32, words: &[&str]) -> Self {
        let stderr = &self.stderr;
        assert_eq!(self.code, Some(code), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
        }
        self
    }
}

/// A folder of its own, in which the program runs.
pub struct Sandbox(tempfile::TempDir);

impl Sandbox {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With a copy of a fixture as `./m`.
    pub fn with(checkpoint: &str) -> Self {
        let sandbox = Self::new();
        copy_dir(&fixture(checkpoint), &sandbox.path("m"));
        sandbox
    }

    /// With a tiny GPT-2 as `./m`, and the tokens of `fixtures/train-100` as `tokens.bin`.
    pub fn with_tokens() -> Self {
        let sandbox = Self::with("gpt2-pico");
        sandbox.write("m/tokenizer.json", TOKENIZER);
        let tokens = fs::read(fixture("train-100/tokens.bin")).unwrap();
        sandbox.write("tokens.bin", tokens);
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// What the run has logged.
    pub fn events(&self) -> Vec<Value> {
        let text = String::from_utf8(self.read("run/metrics.jsonl")).unwrap();
        let parse = |line: &str| serde_json::from_str(line).unwrap();
        text.lines().map(parse).collect()
    }

    /// Those of its training steps.
    pub fn steps(&self) -> Vec<Value> {
        let mut events = self.events();
        events.retain(|event| event["grad_norm"].is_f64());
        events
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// A command in the folder, without a network.
    pub fn shell(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.0);
        command.env("HF_HUB_OFFLINE", "1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The program; white space separates `args`.
    pub fn command(&self, args: &str) -> Command {
        let elsewhere = std::env::var("SCALE_CKPT_PROGRAM");
        let program = elsewhere.as_deref().unwrap_or(PROGRAM);
        self.shell(program, &args.split_whitespace().collect::<Vec<_>>())
    }

    pub fn spawn(&self, args: &str) -> Child {
        self.command(args).spawn().unwrap()
    }

    pub fn run(&self, args: &str) -> Outcome {
        Outcome::of_child(self.spawn(args))
    }

    /// What is in the folder.
    pub fn entries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Every file and folder with its content, locks aside.
    pub fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut tree = BTreeMap::new();
        let mut paths = self.entries();
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                let entries = fs::read_dir(&path).unwrap();
                paths.extend(entries.map(|entry| entry.unwrap().path()));
            }
            if !path.ends_with(".lock") {
                tree.insert(path.clone(), fs::read(&path).unwrap_or_default());
            }
        }
        tree
    }

    /// Whether something stands under a temporary name.
    pub fn has_temporary(&self) -> bool {
        let temporary = |path: &PathBuf| path.to_string_lossy().contains(".tmp-");
        self.tree().keys().any(temporary)
    }

    /// The program fails with `code`, says `words`, and changes nothing.
    #[track_caller]
    pub fn refuses(&self, args: &str, code: i32, words: &[&str]) {
        let before = self.tree();
        let outcome = self.run(args).expect(code, words);
        assert_eq!(outcome.stdout, "", "{args}");
        assert!(self.tree() == before, "`{args}` changed something");
    }
}

/// Lines of a table; ` | ` separates cells.
pub fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = table.trim().lines();
    lines.map(|line| line.split(" | ").map(str::trim).collect())
}

/// A small recipe on `./m`, a copy of `hellaswag/model`.
pub const RECIPE: &str = r#"out = "run"
[model]
from = "./m"
[data]
train = ["train.txt"]
val = ["val.txt"]
[train]
tokens = 10240
batch_tokens = 256
context = 32
micro_batch = 4
lr = 1e-3
"#;

/// A tokenizer of 64 entries, for runs on drawn ids: any will do there.
pub const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"<|endoftext|>":63},"unk_token":"<|endoftext|>"}}"#;

/// A folder with `./m`, texts, and `recipe` as `r.toml`.
pub fn with_recipe(recipe: &str) -> Sandbox {
    let sandbox = Sandbox::with("hellaswag/model");
    let prose = fs::read_to_string(fixture("prose/val.txt")).unwrap();
    let start = |length: usize| prose.chars().take(length).collect::<String>();
    sandbox.write("train.txt", start(20_000));
    sandbox.write("val.txt", start(500));
    sandbox.write("r.toml", recipe);
    sandbox
}
