//! The record of a prepared folder: what went in, how, and what came out.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Options, ValSize};
use crate::VERSION;
use crate::data::{Split, Tokenizer};
use crate::error::{Error, Result, counted};
use crate::owner::plain_name;

/// Its name. It is written last, so a folder that has it is complete.
pub(super) const FILE: &str = "manifest.json";
/// What it is called while the folder is being made.
pub(in crate::data) const UNFINISHED: &str = "manifest.unfinished.json";

/// What is in `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub schema: u32,
    /// The program that made the folder.
    pub tool_version: String,
    /// Format of the shards.
    pub format: String,
    /// What the names of the shards begin with.
    pub name: String,
    /// SHA-256 of the tokenizer's file.
    pub tokenizer_sha256: String,
    /// One more than its largest id.
    pub vocab_size: usize,
    /// Key or column of the text.
    pub field: String,
    /// Seed of the split.
    pub seed: u64,
    /// Share of the documents put aside for validation.
    pub val_fraction: Option<f64>,
    /// Number of documents put aside for validation.
    pub val_docs: Option<u64>,
    /// Tokens per shard.
    pub shard_tokens: u64,
    /// Whether bad documents were left out.
    pub skip_bad: bool,
    /// The files that were read, in order.
    pub inputs: Vec<InputRecord>,
    /// Documents to train on.
    pub train_documents: u64,
    /// Documents to validate on.
    pub val_documents: u64,
    /// Bad documents that were left out.
    pub skipped_documents: u64,
    /// The files that were written.
    pub shards: Vec<ShardRecord>,
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputRecord {
    /// As it was named.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its hash, in hex.
    pub sha256: String,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Its name in the folder.
    pub name: String,
    /// Tokens in it.
    pub tokens: u64,
    /// Its hash, in hex.
    pub sha256: String,
}

impl Manifest {
    /// Of a folder that is yet to be made.
    ///
    /// # Errors
    /// The folder's name cannot begin a file name.
    pub(super) fn planned(
        options: &Options,
        tokenizer: &Tokenizer,
        inputs: Vec<InputRecord>,
    ) -> Result<Self> {
        let out = std::path::absolute(&options.out).map_err(Error::io("find", &options.out))?;
        let name = out.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| {
            Error::usage(format!("--out {}: no name there", options.out.display()))
                .with_hint("the folder's name begins the names of the shards")
        })?;
        let (val_fraction, val_docs) = match options.val {
            ValSize::Fraction(share) => (Some(share), None),
            ValSize::Documents(count) => (None, Some(count)),
        };
        Ok(Self {
            schema: 1,
            tool_version: VERSION.to_owned(),
            format: "llm.c".to_owned(),
            name: name.to_owned(),
            tokenizer_sha256: tokenizer.sha256().to_owned(),
            vocab_size: tokenizer.vocab_size(),
            field: options.field.clone(),
            seed: options.seed,
            val_fraction,
            val_docs,
            shard_tokens: options.shard_tokens,
            skip_bad: options.skip_bad,
            inputs,
            train_documents: 0,
            val_documents: 0,
            skipped_documents: 0,
            shards: Vec::new(),
        })
    }

    /// Adds what came out.
    pub(super) fn complete(
        &mut self,
        [train, val]: [u64; 2],
        skipped: u64,
        shards: Vec<ShardRecord>,
    ) {
        self.train_documents = train;
        self.val_documents = val;
        self.skipped_documents = skipped;
        self.shards = shards;
    }

    /// What a folder of the same inputs and options would not share with this one, if anything.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        let content = |manifest: &Self| -> Vec<(u64, String)> {
            let inputs = manifest.inputs.iter();
            inputs.map(|i| (i.bytes, i.sha256.clone())).collect()
        };
        let checks = [
            ("inputs", content(self) == content(other)),
            ("tokenizer", self.tokenizer_sha256 == other.tokenizer_sha256),
            ("--field", self.field == other.field),
            ("--seed", self.seed == other.seed),
            ("--val-fraction", self.val_fraction == other.val_fraction),
            ("--val-docs", self.val_docs == other.val_docs),
            ("--shard-tokens", self.shard_tokens == other.shard_tokens),
            ("--skip-bad", self.skip_bad == other.skip_bad),
            ("name", self.name == other.name),
        ];
        checks
            .into_iter()
            .find(|(_, same)| !same)
            .map(|(what, _)| what)
    }

    /// The shards of a split.
    pub fn shards_of(&self, split: Split) -> impl Iterator<Item = &ShardRecord> {
        let prefix = format!("{}_{}_", self.name, split.name());
        self.shards
            .iter()
            .filter(move |shard| shard.name.starts_with(&prefix))
    }

    /// Tokens in the shards of a split.
    pub fn tokens(&self, split: Split) -> u64 {
        self.shards_of(split).map(|shard| shard.tokens).sum()
    }

    /// That of a folder; none where a shard has another name than one would have got.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let found: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let named = |shard: &ShardRecord| found.may_call(&shard.name);
        found.shards.iter().all(named).then_some(found)
    }

    /// Whether a shard of this preparation may be called so.
    pub(super) fn may_call(&self, name: &str) -> bool {
        let number = |rest: &str| {
            let rest = rest
                .strip_prefix("train_")
                .or_else(|| rest.strip_prefix("val_"));
            let digits = rest.and_then(|rest| rest.strip_suffix(".bin"));
            digits.is_some_and(|d| d.len() == 6 && d.bytes().all(|b| b.is_ascii_digit()))
        };
        let shard = name.strip_prefix(self.name.as_str());
        let shard = shard.and_then(|rest| rest.strip_prefix('_'));
        shard.is_some_and(number) && plain_name(name, Path::new(FILE)).is_ok()
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a manifest serializes") + "\n"
    }
}

/// The hash of a shard as the manifest beside it has it, if that can be relied on: the shard was
/// not touched since, and all its ids are below `vocab_size`.
pub(in crate::data) fn known_sha256(
    shard: &Path,
    tokens: u64,
    vocab_size: usize,
) -> Option<String> {
    let written = shard
        .with_file_name(FILE)
        .metadata()
        .ok()?
        .modified()
        .ok()?;
    if shard.metadata().ok()?.modified().ok()? > written {
        return None;
    }
    let (manifest, record) = recorded(shard)?;
    (manifest.vocab_size <= vocab_size && record.tokens == tokens).then_some(record.sha256)
}

/// Refuses a shard that is not what the manifest beside it, if there is one, says of it.
pub(in crate::data) fn check_recorded(shard: &Path, sha256: &str) -> Result<()> {
    match recorded(shard) {
        Some((_, record)) if record.sha256 != sha256 => Err(Error::invalid(
            shard.display(),
            "changed since it was prepared: its hash is not that of manifest.json",
        )
        .with_hint("prepare it again with --force")),
        _ => Ok(()),
    }
}

/// The manifest beside a shard, and what it says of it.
fn recorded(shard: &Path) -> Option<(Manifest, ShardRecord)> {
    let manifest = Manifest::read(&shard.with_file_name(FILE))?;
    let name = shard.file_name()?.to_str()?;
    let record = manifest.shards.iter().find(|record| record.name == name)?;
    let record = record.clone();
    Some((manifest, record))
}

/// Refuses shards of a prepared folder whose tokenizer had another vocabulary than `tokenizer`.
/// Hashes would say less: the same vocabulary comes in files that differ.
pub(in crate::data) fn check_tokenizer(shards: &[PathBuf], tokenizer: &Tokenizer) -> Result<()> {
    let mut folders: Vec<&Path> = shards.iter().filter_map(|shard| shard.parent()).collect();
    folders.dedup();
    for folder in folders {
        let Some(manifest) = Manifest::read(&folder.join(FILE)) else {
            continue;
        };
        let (made, wanted) = (manifest.vocab_size, tokenizer.vocab_size());
        if made != wanted {
            let message = format!(
                "tokenized for {}, the tokenizer of the model has {wanted}",
                counted(made, "entry", "entries")
            );
            return Err(Error::invalid(folder.display(), message)
                .with_hint("prepare it again with --tokenizer and the folder of the model"));
        }
    }
    Ok(())
}
