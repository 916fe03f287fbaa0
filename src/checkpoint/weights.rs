//! The weight files of a checkpoint: which they are, and the tensors in them by name.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::naming::Naming;
use super::safetensors::Entry;
use super::{foreign, json, layout, pytorch, safetensors};
use crate::error::{Error, Result, printable};
use crate::owner::plain_name;

/// The tensors of a model, by their names without prefix.
pub(super) struct Found {
    /// Each with the file it is in.
    pub tensors: HashMap<String, (Entry, PathBuf)>,
    /// Whether the trunk's names have their prefix.
    pub prefixed: bool,
    /// What of the names was left out, in words.
    pub note: Option<String>,
}

/// Lists the tensors of all files of a model.
///
/// # Errors
/// A file is not sound, a name occurs twice, or they hold several models or an adapter.
pub(super) fn read(weights: &Files) -> Result<Found> {
    let mut stored = Vec::new();
    let files = &weights.paths;
    for path in files {
        let listed = open(path)?.into_iter();
        stored.extend(listed.map(|(name, entry)| (name, (entry, path.clone()))));
    }
    follow(&weights.index, &mut stored);
    let names: Vec<String> = stored.iter().map(|(name, _)| name.clone()).collect();
    let at = files.first().map(|path| path.display().to_string());
    let at = at.unwrap_or_default();
    if names.is_empty() {
        return Err(Error::invalid(&at, "there is no tensor in it")
            .with_hint("save the weights of the model: model.save_pretrained(DIR)"));
    }
    foreign::refuse_adapter(&at, &names)?;
    let naming = Naming::of(&names).map_err(|outers| foreign::several_models(&at, &outers))?;
    let mut found = Found {
        tensors: HashMap::with_capacity(stored.len()),
        prefixed: false,
        note: naming.note(),
    };
    for (name, tensor) in stored {
        let inner = naming.inner(&name);
        let (bare, had_prefix) = layout::strip_prefix(&inner);
        found.prefixed |= had_prefix;
        let path = tensor.1.clone();
        if found.tensors.insert(bare.to_owned(), tensor).is_some() {
            return Err(Error::invalid(
                path.display(),
                format!("tensor `{}` occurs twice", printable(bare)),
            ));
        }
    }
    Ok(found)
}

/// Of a tensor that is in several files, keeps the one that the index means.
fn follow(index: &HashMap<String, String>, stored: &mut Vec<(String, (Entry, PathBuf))>) {
    let is_meant = |name: &String, path: &Path| {
        let file = index.get(name).map(OsStr::new);
        file.is_some() && file == path.file_name()
    };
    let meant: HashSet<String> = stored
        .iter()
        .filter(|(name, (_, path))| is_meant(name, path))
        .map(|(name, _)| name.clone())
        .collect();
    stored.retain(|(name, (_, path))| !meant.contains(name) || is_meant(name, path));
}

fn open(path: &Path) -> Result<Vec<(String, Entry)>> {
    match foreign::format_of(path)? {
        foreign::Format::Torch => pytorch::open(path),
        foreign::Format::Safetensors => safetensors::open(path),
    }
}

/// The weight files of a model.
pub(super) struct Files {
    /// In the order they are read.
    pub paths: Vec<PathBuf>,
    /// Which of them has which tensor, by its stored name, where an index says so.
    index: HashMap<String, String>,
}

impl Files {
    /// One file by itself.
    pub fn single(path: PathBuf) -> Self {
        Self {
            paths: vec![path],
            index: HashMap::new(),
        }
    }
}

/// How the weights of a model are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) enum Weights {
    /// In one file.
    Single(&'static str),
    /// In several, which this index names.
    Sharded(&'static str),
}

impl Weights {
    /// The best of what is there.
    pub fn choose(there: impl Fn(&str) -> bool) -> Option<Self> {
        [
            Self::Single("model.safetensors"),
            Self::Sharded("model.safetensors.index.json"),
            Self::Single("pytorch_model.bin"),
            Self::Sharded("pytorch_model.bin.index.json"),
        ]
        .into_iter()
        .find(|(Self::Single(name) | Self::Sharded(name))| there(name))
    }
}

/// The weight files of a folder, in any of the three forms.
///
/// # Errors
/// There are none, and what there is instead; or one is missing that the index names.
pub(super) fn find(dir: &Path) -> Result<Files> {
    match Weights::choose(|name| dir.join(name).is_file()) {
        Some(Weights::Single(name)) => Ok(Files::single(dir.join(name))),
        Some(Weights::Sharded(index)) => shards(dir, &dir.join(index)),
        None => Err(foreign::instead_in(dir).unwrap_or_else(|| {
            Error::invalid(dir.display(), "no weights there").with_hint(
                "expected model.safetensors, model.safetensors.index.json or pytorch_model.bin",
            )
        })),
    }
}

/// The names of shards in an index.
///
/// # Errors
/// It is not JSON, or not an index.
pub(in crate::checkpoint) fn shard_names(text: &[u8], index: &Path) -> Result<BTreeSet<String>> {
    Ok(weight_map(text, index)?.into_values().collect())
}

/// The shard of each tensor, as an index names them.
fn weight_map(text: &[u8], index: &Path) -> Result<HashMap<String, String>> {
    let invalid =
        |what: &str| Error::invalid(index.display(), format!("not a weight index: {what}"));
    let value = json::parse(text, index).map_err(|error| match error {
        Error::Invalid { message, hint, .. } => Error::Invalid {
            at: index.display().to_string(),
            message: format!("not a weight index: {message}"),
            hint,
        },
        other => other,
    })?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| invalid("it has no `weight_map`"))?;
    let name = |(tensor, name): (&String, &Value)| {
        let text = name.as_str().map(|name| (tensor.clone(), name.to_owned()));
        text.ok_or_else(|| {
            invalid(&format!(
                "the file of `{}` is {}",
                printable(tensor),
                json::shown(name)
            ))
        })
    };
    if map.is_empty() {
        return Err(invalid(
            "its `weight_map` is empty, there is no tensor in it",
        ));
    }
    map.iter().map(name).collect()
}

/// The distinct shard files of an index; names must be plain, they come from outside.
fn shards(dir: &Path, index: &Path) -> Result<Files> {
    let text = std::fs::read(index).map_err(Error::io("read", index))?;
    let map = weight_map(&text, index)?;
    let names: BTreeSet<&String> = map.values().collect();
    let paths: Result<Vec<PathBuf>> = names
        .into_iter()
        .map(|name| {
            let path = dir.join(plain_name(name, index)?);
            if path.is_file() {
                Ok(path)
            } else {
                Err(
                    Error::invalid(index.display(), format!("shard `{name}` is missing"))
                        .with_hint("fetch or copy the missing shard"),
                )
            }
        })
        .collect();
    Ok(Files {
        paths: paths?,
        index: map,
    })
}
