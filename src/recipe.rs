//! Recipes: a run in TOML.
//!
//! Each component owns its table; a recipe composes them. Unknown keys are errors that point
//! at the line and suggest the nearest known key.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checkpoint::{Gpt2Config, hex};
use crate::data::Order;
use crate::device::{DeviceSpec, Precision};
use crate::error::{Error, Result, did_you_mean, printable, read_text};
use crate::growth::GrowConfig;
use crate::stages::StageConfig;
use crate::train::TrainConfig;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The run's folder.
    pub out: PathBuf,
    /// Seed of growth, initialization and data order.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// `cpu`, `cuda`, `wgpu`, `cuda:N` or `wgpu:N`; `--device` wins.
    #[serde(default)]
    pub device: DeviceSpec,
    /// Where the model comes from.
    pub model: ModelSource,
    /// How it is grown before training, if it is.
    pub grow: Option<GrowConfig>,
    /// Text.
    pub data: DataConfig,
    /// Training.
    pub train: TrainConfig,
    /// The stages of the run; one that `[train]` describes unless given.
    #[serde(default, rename = "stage")]
    pub stages: Vec<StageConfig>,
    /// FLOPs that the source checkpoint cost, where the program does not know it.
    pub source_flops: Option<f64>,
    /// What the device could do at most, in FLOPs per second: for MFU.
    pub peak_flops: Option<f64>,
    /// What is measured before and after.
    #[serde(default)]
    pub eval: EvalConfig,
}

fn default_seed() -> u64 {
    1337
}

/// `[model] from = "gpt2"`, or `[model.scratch]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelSource {
    /// A checkpoint: hub id, folder or file.
    From(String),
    /// A fresh model.
    Scratch(ScratchConfig),
}

/// Shape of a fresh model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScratchConfig {
    /// Blocks.
    pub n_layer: usize,
    /// Width.
    pub n_embd: usize,
    /// Heads.
    pub n_head: usize,
    /// Longest context.
    pub n_positions: usize,
    /// A folder with a tokenizer; GPT-2's own unless given.
    pub tokenizer: Option<PathBuf>,
    /// Rows of the embedding; 50257 unless given.
    pub vocab_size: Option<usize>,
    /// Depth that the spread of output projections is made for, σ / √(2 · depth); `n_layer`
    /// unless given.
    pub residual_depth: Option<usize>,
}

impl ScratchConfig {
    /// The architecture.
    pub fn config(&self) -> Result<Gpt2Config> {
        Gpt2Config::new(
            self.vocab_size.unwrap_or(50257),
            self.n_positions,
            self.n_embd,
            self.n_layer,
            self.n_head,
        )
    }
}

/// What to train and validate on: text files, token shards, folders and globs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Text or shards to train on; of a folder of shards, those with `train` in their names.
    pub train: Vec<PathBuf>,
    /// Text or shards to validate on; of a folder of shards, those with `val` in their names.
    pub val: Vec<PathBuf>,
    /// In which order an epoch visits the windows.
    #[serde(default)]
    pub order: Order,
}

/// What is measured of source, grown and trained model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Validation tokens; all unless given.
    pub val_tokens: Option<u64>,
    /// Tasks that the models are scored on, by name.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// Files of their data by name of the dataset; from the hub unless given.
    #[serde(default)]
    pub data: BTreeMap<String, PathBuf>,
    /// Items of each task, the first ones; all unless given.
    pub limit: Option<NonZeroUsize>,
    /// Tokens after which the model in training is scored on the tasks; only before and after
    /// training unless given.
    pub every_tokens: Option<u64>,
    /// A prompt that the trained model continues.
    pub prompt: Option<String>,
}

/// An evaluation of many checkpoints.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamilyRecipe {
    /// The checkpoints: hub ids, folders, files, globs.
    #[serde(default)]
    pub models: Vec<String>,
    /// The one that the others are compared with; it need not be among them. Unless given, two are
    /// compared with each other, and more are not.
    pub baseline: Option<String>,
    /// `cpu`, `cuda`, `wgpu`, `cuda:N` or `wgpu:N`; `--device` wins.
    #[serde(default)]
    pub device: DeviceSpec,
    /// `f32` or `bf16`: what products are computed in; `--precision` wins.
    #[serde(default)]
    pub precision: Precision,
    /// Tasks, by name.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// Files of their data by name of the dataset; from the hub unless given.
    #[serde(default)]
    pub data: BTreeMap<String, PathBuf>,
    /// Few-shot examples before every question.
    #[serde(default)]
    pub num_fewshot: usize,
    /// Seed of their choice; that of lm-evaluation-harness unless given.
    pub fewshot_seed: Option<u64>,
    /// Files that examples come from, by name of the dataset.
    #[serde(default)]
    pub fewshot_data: BTreeMap<String, PathBuf>,
    /// Items of each task; all unless given.
    pub limit: Option<NonZeroUsize>,
    /// Draws these items, instead of taking the first.
    pub sample_seed: Option<u64>,
    /// Leave bad items out and count them, instead of stopping.
    #[serde(default)]
    pub skip_bad: bool,
    /// The folder of the results.
    pub out: Option<PathBuf>,
    /// Text, shards, folders or globs for loss and perplexity.
    #[serde(default)]
    pub val: Vec<PathBuf>,
    /// Tokens of it at most.
    pub val_tokens: Option<NonZeroU64>,
    /// Tokens per window; n_positions unless given.
    pub context: Option<usize>,
    /// Tokens from one window to the next; `context` unless given.
    pub stride: Option<NonZeroUsize>,
}

/// Reads the recipe of an evaluation.
///
/// # Errors
/// Names the line, and suggests the nearest key for an unknown one.
pub fn load_family(path: &Path) -> Result<FamilyRecipe> {
    Ok(load_any(path, &[])?.0)
}

/// Reads any kind of recipe, with its text; `overrides` are applied to both.
///
/// # Errors
/// Names the line, and suggests the nearest key for an unknown one.
pub fn load_any<T: DeserializeOwned>(path: &Path, overrides: &[String]) -> Result<(T, String)> {
    let original = read_text(path)?;
    let text = with_overrides(&original, overrides, path)?;
    let value = toml::from_str(&text).map_err(|e| {
        // Lines are those of the file; what --set brought has none.
        let of_file = toml::from_str::<T>(&original).err();
        let message = match of_file.filter(|of_file| of_file.message() == e.message()) {
            Some(of_file) => of_file.to_string(),
            None => format!("with --set{}: {}", line_of(&text, &e), e.message()),
        };
        unreadable(&e, path.display(), message)
    })?;
    Ok((value, text))
}

/// The line that an error is about, as in `, at lr = "x"`.
fn line_of(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let Some(before) = before else {
        return String::new();
    };
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default();
    format!(", at {}", printable(line.trim()))
}

/// The error of a recipe that does not say what it should, with the nearest known key.
fn unreadable(e: &toml::de::Error, at: impl std::fmt::Display, message: String) -> Error {
    let both = "wanted exactly 1 element, more than 1 element";
    let message = message.replace(both, "[model] has either `from` or [model.scratch]");
    let error = Error::invalid(at, message.trim_end());
    match suggestion(e.message()) {
        Some(key) => error.with_hint(format!("did you mean `{key}`?")),
        None => error,
    }
}

/// The tables of a recipe's file.
///
/// # Errors
/// It cannot be read, or is not TOML.
pub fn read_table(path: &Path) -> Result<toml::Table> {
    let text = read_text(path)?;
    text.parse()
        .map_err(|e: toml::de::Error| Error::invalid(path.display(), e.to_string().trim_end()))
}

/// The recipe that tables say; `at` names them in errors.
///
/// # Errors
/// Says which key is wrong, and suggests the nearest known one.
pub fn of_table(table: toml::Table, at: &str) -> Result<Recipe> {
    let recipe: Recipe = table
        .try_into()
        .map_err(|e: toml::de::Error| unreadable(&e, at, e.to_string()))?;
    check_values(&recipe).map_err(|message| Error::invalid(at, message))?;
    Ok(recipe)
}

/// The recipe of a text that no file holds yet; `at` names it in errors.
///
/// # Errors
/// Says which key is wrong, and suggests the nearest known one.
pub fn of_text(text: &str, at: &str) -> Result<LoadedRecipe> {
    let recipe: Recipe = toml::from_str(text).map_err(|e| unreadable(&e, at, e.to_string()))?;
    check_values(&recipe).map_err(|message| Error::invalid(at, message))?;
    Ok(LoadedRecipe {
        recipe,
        text: text.to_owned(),
        sha256: hex(&Sha256::digest(text.as_bytes())),
    })
}

/// A recipe, and the text that it was read from.
#[derive(Clone, Debug)]
pub struct LoadedRecipe {
    /// The recipe.
    pub recipe: Recipe,
    /// The text, overrides applied.
    pub text: String,
    /// SHA-256 of that text, in hex.
    pub sha256: String,
}

impl Recipe {
    /// SHA-256 over what decides the result of a run, in hex. Left out are the folder, the
    /// device, the names of text files, whose content has a hash of its own, and how often
    /// the run measures and saves.
    pub fn identity(&self) -> String {
        hex(&Sha256::digest(self.deciding().to_string()))
    }

    /// The keys whose values make another run of this recipe than of `other`, with both values:
    /// `train.tokens is 768, was 512`.
    pub fn changes_since(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let (new, old) = (self.deciding(), other.deciding());
        changes("", Some(&new), Some(&old), &mut found);
        found
    }

    /// What decides the result of a run.
    fn deciding(&self) -> serde_json::Value {
        let mut recipe = self.clone();
        // As where they are not given.
        recipe.train.gradient_checkpointing = false;
        recipe.train.precision = recipe.train.precision.filter(|&p| p != Precision::F32);
        let mut value = serde_json::to_value(recipe).expect("a recipe serializes");
        for (table, keys) in [
            (
                "",
                &["out", "device", "eval", "source_flops", "peak_flops"][..],
            ),
            ("data", &["train", "val"]),
            (
                "train",
                &[
                    "micro_batch",
                    "keep",
                    "save_every_tokens",
                    "eval_every_tokens",
                ],
            ),
        ] {
            let table = if table.is_empty() {
                &mut value
            } else {
                &mut value[table]
            };
            let table = table.as_object_mut().expect("a table of the recipe");
            keys.iter().for_each(|&key| drop(table.remove(key)));
        }
        value
    }
}

/// The error of a folder that holds a run of another recipe, with what differs where the old one
/// can be read.
pub fn another_recipe(folder: &Path, new: &Recipe, old: Option<&Recipe>) -> Error {
    /// Changes that are told.
    const TOLD: usize = 3;
    let changes = old.map_or_else(Vec::new, |old| new.changes_since(old));
    let mut message = format!("{} holds a run of another recipe", folder.display());
    for (i, change) in changes.iter().take(TOLD).enumerate() {
        message += if i == 0 { ": " } else { "; " };
        message += change;
    }
    if changes.len() > TOLD {
        message += &format!("; and {} more", changes.len() - TOLD);
    }
    Error::usage(message)
}

/// Adds what differs at `key` and below it. Tables of a list are numbered from 1, as `--set` names
/// them.
fn changes(
    key: &str,
    new: Option<&serde_json::Value>,
    old: Option<&serde_json::Value>,
    out: &mut Vec<String>,
) {
    use serde_json::Value;
    let [new, old] = [new, old].map(|value| value.filter(|value| !value.is_null()));
    let below = |part: &str| match key {
        "" => part.to_owned(),
        key => format!("{key}.{part}"),
    };
    let has_tables = |list: &[Value]| list.iter().any(Value::is_object);
    match (new, old) {
        (Some(Value::Object(new)), Some(Value::Object(old))) => {
            let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
            for key in keys {
                changes(&below(key), new.get(key), old.get(key), out);
            }
        }
        (Some(Value::Array(new)), Some(Value::Array(old)))
            if has_tables(new) || has_tables(old) =>
        {
            for i in 0..new.len().max(old.len()) {
                changes(&below(&(i + 1).to_string()), new.get(i), old.get(i), out);
            }
        }
        (new, old) if new == old => {}
        (new, old) => {
            let [new, old] = [new, old].map(|value| match value {
                Some(value) => value.to_string(),
                None => "not given".into(),
            });
            out.push(format!("{key} is {new}, was {old}"));
        }
    }
}

/// Reads a recipe; `overrides` are `table.key=value` with values as in TOML, or
/// `stage.1.key=value` for the first `[[stage]]`.
///
/// # Errors
/// Names the line, and suggests the nearest key for an unknown one.
pub fn load(path: &Path, overrides: &[String]) -> Result<LoadedRecipe> {
    let (recipe, text): (Recipe, String) = load_any(path, overrides)?;
    check_values(&recipe).map_err(|message| Error::invalid(path.display(), message))?;
    let sha256 = hex(&Sha256::digest(text.as_bytes()));
    Ok(LoadedRecipe {
        recipe,
        text,
        sha256,
    })
}

/// Refuses paths and lists that are empty, and amounts that are none.
fn check_values(recipe: &Recipe) -> Result<(), String> {
    let amounts = [
        ("source_flops", recipe.source_flops),
        ("peak_flops", recipe.peak_flops),
    ];
    for (key, value) in amounts {
        if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
            return Err(format!("{key} = {value} must be a number above 0"));
        }
    }
    if recipe.out.as_os_str().is_empty() {
        return Err("`out` is empty".into());
    }
    if recipe.eval.every_tokens == Some(0) {
        return Err("eval.every_tokens must be at least 1".into());
    }
    if recipe.eval.every_tokens.is_some() && recipe.eval.tasks.is_empty() {
        return Err("eval.every_tokens is given, but no eval.tasks".into());
    }
    if recipe.eval.val_tokens == Some(0) {
        return Err("eval.val_tokens must be at least 1".into());
    }
    for (key, files) in [("train", &recipe.data.train), ("val", &recipe.data.val)] {
        if files.is_empty() {
            return Err(format!("data.{key} names no files"));
        }
    }
    Ok(())
}

/// The known key nearest to the unknown one that a message of serde names.
fn suggestion(message: &str) -> Option<String> {
    let mut quoted = message
        .strip_prefix("unknown ")?
        .split('`')
        .skip(1)
        .step_by(2);
    let word = quoted.next()?;
    did_you_mean(word, quoted).map(str::to_owned)
}

/// The text of a recipe with `overrides` applied.
fn with_overrides(text: &str, overrides: &[String], path: &Path) -> Result<String> {
    if overrides.is_empty() {
        return Ok(text.to_owned());
    }
    let mut root: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| Error::invalid(path.display(), e.to_string()))?;
    for assignment in overrides {
        let bad = |why: &str| {
            Error::usage(format!("--set {}: {why}", printable(assignment)))
                .with_hint("write --set train.lr=3e-4")
        };
        let (key, value) = assignment.split_once('=').ok_or_else(|| bad("no `=`"))?;
        // A bare word is taken as a string, for shells that eat quotes.
        let value = format!("v = {value}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| toml::Value::String(value.to_owned()));
        let mut keys: Vec<&str> = key.trim().split('.').collect();
        let last = keys
            .pop()
            .filter(|k| !k.is_empty())
            .ok_or_else(|| bad("no key"))?;
        let mut table = &mut root;
        let mut keys = keys.into_iter();
        while let Some(key) = keys.next() {
            let entry = table
                .entry(key)
                .or_insert_with(|| toml::Table::new().into());
            let entry = match entry {
                toml::Value::Array(tables) => {
                    let number = keys.next().and_then(|number| number.parse::<usize>().ok());
                    let index = number.and_then(|number| number.checked_sub(1));
                    index
                        .and_then(|index| tables.get_mut(index))
                        .ok_or_else(|| {
                            bad("tables of a list are numbered from 1, as in stage.1.tokens")
                        })?
                }
                entry => entry,
            };
            table = entry.as_table_mut().ok_or_else(|| bad("not a table"))?;
        }
        table.insert(last.to_owned(), value);
    }
    toml::to_string(&root).map_err(|e| Error::invalid(path.display(), e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
out = "runs/x"
[model]
from = "gpt2"
[grow]
to = 24
init = "zero-residual"
[data]
train = ["a.txt"]
val = ["b.txt"]
[train]
tokens = 1000
batch_tokens = 64
context = 8
micro_batch = 2
lr = 1e-3
"#;

    fn load_text(text: &str, overrides: &[&str]) -> Result<LoadedRecipe> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.toml");
        std::fs::write(&path, text).unwrap();
        load(
            &path,
            &overrides.iter().map(|&o| o.to_owned()).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn overrides_reach_stages_and_leave_lines_alone() {
        let stages = format!("{GOOD}[[stage]]\ntokens = 5\n[[stage]]\ntokens = 6\n");
        let loaded = load_text(&stages, &["stage.2.tokens=7"]).unwrap();
        assert_eq!(loaded.recipe.stages[1].tokens, 7);
        for set in ["stage.0.tokens=7", "stage.3.tokens=7", "stage.tokens=7"] {
            let error = load_text(&stages, &[set]).unwrap_err().to_string();
            assert!(error.contains("numbered from 1"), "{error}");
        }
        let error = load_text(&GOOD.replace("micro_batch", "micro_bach"), &["seed=3"]);
        assert!(error.unwrap_err().to_string().contains("line 15"));
        let error = load_text(GOOD, &["train.lrr=3"]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("with --set, at lrr = 3: unknown field"),
            "{error}"
        );
    }

    #[test]
    fn unknown_keys_are_located_with_a_suggestion() {
        let error = load_text(&GOOD.replace("micro_batch", "micro_bach"), &[]).unwrap_err();
        assert!(error.to_string().contains("line 15"), "{error}");
        assert_eq!(error.hint(), Some("did you mean `micro_batch`?"));
    }

    #[test]
    fn overrides_reach_nested_keys() {
        let loaded = load_text(GOOD, &["train.lr=0.5", "grow.to=18", "device=cpu"]).unwrap();
        assert_eq!(
            (loaded.recipe.train.lr, loaded.recipe.grow.unwrap().to),
            (0.5, Some(18))
        );
        assert!(load_text(GOOD, &["train.lr"]).is_err());
        assert!(load_text(GOOD, &["train.lrr=1"]).is_err());
    }

    #[test]
    fn a_source_and_a_scratch_model_exclude_each_other() {
        let both = GOOD.replace(
            "from = \"gpt2\"",
            "from = \"gpt2\"\nscratch = { n_layer = 1, n_embd = 8, n_head = 1, n_positions = 8 }",
        );
        assert!(load_text(&both, &[]).is_err());
    }

    #[test]
    fn a_run_is_known_by_what_decides_its_result() {
        let identity = |set: &[&str]| load_text(GOOD, set).unwrap().recipe.identity();
        let same = identity(&[]);
        for set in [
            "train.gradient_checkpointing=true",
            "train.precision=f32",
            "out=elsewhere",
            "train.micro_batch=4",
            "train.keep=9",
            "device=cuda",
        ] {
            assert_eq!(identity(&[set]), same, "{set}");
        }
        for set in ["train.lr=2e-3", "seed=2", "grow.to=25", "train.context=16"] {
            assert_ne!(identity(&[set]), same, "{set}");
        }
    }
}
