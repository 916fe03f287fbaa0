//! Recipes: a run in TOML.
//!
//! Each component owns its table; a recipe composes them. Mistakes are told as
//! [`settings`] tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checkpoint::{Gpt2Config, hex};
use crate::data::Order;
use crate::device::{DeviceSpec, Precision};
use crate::error::{Error, Result, printable, read_text};
use crate::growth::GrowConfig;
use crate::home;
use crate::settings::{self, Kind, Mistake, Overrides, UNLOCATED};
use crate::stages::StageConfig;
use crate::train::TrainConfig;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The run's folder.
    #[serde(deserialize_with = "home::deserialize")]
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
#[serde(rename_all = "kebab-case", try_from = "ModelTable")]
pub enum ModelSource {
    /// A checkpoint: hub id, folder or file.
    From(String),
    /// A fresh model.
    Scratch(ScratchConfig),
}

/// The `[model]` table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    from: Option<String>,
    scratch: Option<ScratchConfig>,
}

impl TryFrom<ModelTable> for ModelSource {
    type Error = &'static str;

    fn try_from(table: ModelTable) -> Result<Self, Self::Error> {
        match (table.from, table.scratch) {
            (Some(from), None) => Ok(Self::From(from)),
            (None, Some(scratch)) => Ok(Self::Scratch(scratch)),
            (None, None) => {
                Err("expected from = \"gpt2\" or another checkpoint, or [model.scratch]")
            }
            (Some(_), Some(_)) => Err("[model] has either `from` or [model.scratch]"),
        }
    }
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
    #[serde(default, deserialize_with = "home::deserialize")]
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
    #[serde(deserialize_with = "home::deserialize")]
    pub train: Vec<PathBuf>,
    /// Text or shards to validate on; of a folder of shards, those with `val` in their names.
    #[serde(deserialize_with = "home::deserialize")]
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
    #[serde(default, deserialize_with = "home::deserialize")]
    pub data: BTreeMap<String, PathBuf>,
    /// Items of each task, the first ones; all unless given.
    pub limit: Option<NonZeroUsize>,
    /// Leave items out and count them that are bad, or too long for the model, instead of
    /// stopping.
    #[serde(default)]
    pub skip_bad: bool,
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
    #[serde(default, deserialize_with = "home::deserialize")]
    pub data: BTreeMap<String, PathBuf>,
    /// Few-shot examples before every question.
    #[serde(default)]
    pub num_fewshot: usize,
    /// Seed of their choice; that of lm-evaluation-harness unless given.
    pub fewshot_seed: Option<u64>,
    /// Files that examples come from, by name of the dataset.
    #[serde(default, deserialize_with = "home::deserialize")]
    pub fewshot_data: BTreeMap<String, PathBuf>,
    /// Items of each task; all unless given.
    pub limit: Option<NonZeroUsize>,
    /// Draws these items, instead of taking the first.
    pub sample_seed: Option<u64>,
    /// Leave bad items out and count them, instead of stopping.
    #[serde(default)]
    pub skip_bad: bool,
    /// The folder of the results.
    #[serde(default, deserialize_with = "home::deserialize")]
    pub out: Option<PathBuf>,
    /// Text, shards, folders or globs for loss and perplexity.
    #[serde(default, deserialize_with = "home::deserialize")]
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
/// As [`load_any`].
pub fn load_family(path: &Path) -> Result<FamilyRecipe> {
    Ok(load_any(Kind::Evaluation, path, &[])?.0)
}

/// Reads settings of a kind, with their text; `overrides` are applied to both.
///
/// # Errors
/// The file is of another kind, or what it says is not sound: the error has the full key, the
/// line or the `--set`, and the nearest key for an unknown one.
pub fn load_any<T: DeserializeOwned>(
    kind: Kind,
    path: &Path,
    overrides: &[String],
) -> Result<(T, String)> {
    let original = kind.read(path)?;
    if overrides.is_empty() {
        let value = settings::read(&original).map_err(|m| m.into_error(path.display()))?;
        return Ok((value, original));
    }
    let overrides = Overrides(overrides);
    let mut tables = settings::tables(&original).map_err(|m| m.into_error(path.display()))?;
    overrides.apply(&mut tables)?;
    let value = settings::of_tables(&tables).map_err(|mistake| {
        // Lines are those of the file; what --set brought has none.
        let of_file = settings::read::<T>(&original).err();
        match of_file.filter(|of_file| of_file.key == mistake.key) {
            Some(of_file) if overrides.behind(&mistake).is_none() => {
                of_file.into_error(path.display())
            }
            _ => of_override(mistake, path, &overrides),
        }
    })?;
    Ok((value, tables.to_string()))
}

/// An error of a recipe's values with the recipe's file, and the line of the key that it begins
/// with or the `--set` that it came by. Other errors are returned unchanged.
#[must_use]
pub fn located(error: Error, path: &Path, overrides: &[String]) -> Error {
    match error {
        Error::Invalid { at, message, hint } if at == UNLOCATED => {
            let hint = replaced_table(&message, path, overrides).or(hint);
            let error = value_error(path, overrides, message);
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
        error => error,
    }
}

/// The error of a value in a settings file, whose message begins with its key.
pub fn value_error(path: &Path, overrides: &[String], message: String) -> Error {
    // Only the line is lost where the file has gone since.
    let text = read_text(path).unwrap_or_default();
    let overrides = Overrides(overrides);
    let at = settings::place_of(&message, path.display(), &text, &overrides);
    Error::invalid(at, message)
}

/// How to set a `grow` table as a whole, where `--set` brought a key of it that others of the file
/// exclude.
fn replaced_table(message: &str, path: &Path, overrides: &[String]) -> Option<String> {
    if !message.contains(crate::growth::EXCLUDE) {
        return None;
    }
    let (table, key, value) = overrides.iter().rev().find_map(|set| {
        let (key, value) = set.split_once('=')?;
        let (table, key) = key.trim().rsplit_once('.')?;
        let is_grow = table == "grow" || table.ends_with(".grow");
        (is_grow && key != "to").then_some((table, key, value.trim()))
    })?;
    let quoted = match value.chars().next() {
        Some('"' | '\'' | '{') => value.to_owned(),
        _ => format!("\"{value}\""),
    };
    let depth = (table == "grow").then(|| depth_of(path)).flatten();
    let to = match (key, depth) {
        ("plan", _) => String::new(),
        (_, Some(to)) => format!("to={to},"),
        (_, None) => "to=N,".to_owned(),
    };
    let whole = printable(&format!("{table}={{{to}{key}={quoted}}}"));
    Some(format!("to replace the whole table, give --set '{whole}'"))
}

/// What `grow.to` of a recipe's file says.
fn depth_of(path: &Path) -> Option<i64> {
    let table: toml::Table = read_text(path).ok()?.parse().ok()?;
    table.get("grow")?.get("to")?.as_integer()
}

/// The error of what `--set` made of a file.
fn of_override(mistake: Mistake, path: &Path, overrides: &Overrides<'_>) -> Error {
    match overrides.behind(&mistake) {
        Some(set) => mistake.into_error(format!("{}, --set {}", path.display(), printable(set))),
        None => mistake.into_error(format!("{}, with --set", path.display())),
    }
}

/// The tables of a recipe's file.
///
/// # Errors
/// It cannot be read, is not TOML, or no recipe of a run.
pub fn read_table(path: &Path) -> Result<toml::Table> {
    let text = Kind::Run.read(path)?;
    settings::tables(&text).map_err(|mistake| mistake.into_error(path.display()))
}

/// The recipe that tables say. In errors, `at` names them, and `origins` are the keys of the
/// tables that they were put together of.
///
/// # Errors
/// Says which key is wrong, and suggests the nearest known one.
pub fn of_table(table: &toml::Table, at: &str, origins: &[(&str, &toml::Table)]) -> Result<Recipe> {
    let recipe: Recipe = settings::of_tables(table)
        .map_err(|mistake: Mistake| mistake.from_one_of(origins).into_error(at))?;
    check_values(&recipe).map_err(|message| Error::invalid(at, message))?;
    Ok(recipe)
}

/// The recipe of a text that no file holds yet; `at` names it in errors.
///
/// # Errors
/// Says which key is wrong, and suggests the nearest known one.
pub fn of_text(text: &str, at: &str) -> Result<LoadedRecipe> {
    let recipe: Recipe = settings::read(text).map_err(|mistake| mistake.into_error(at))?;
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
/// As [`load_any`].
pub fn load(path: &Path, overrides: &[String]) -> Result<LoadedRecipe> {
    let (recipe, text): (Recipe, String) = load_any(Kind::Run, path, overrides)?;
    check_values(&recipe).map_err(|message| value_error(path, overrides, message))?;
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
        let told = "--set train.lrr=3: there is no key `train.lrr`";
        assert!(error.to_string().contains(told), "{error}");
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
