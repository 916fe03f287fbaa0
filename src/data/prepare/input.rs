//! Input files: which there are, and what identifies them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::manifest::InputRecord;
use super::remote;
use crate::checkpoint::hub::{DatasetRef, HubConfig, Progress};
use crate::checkpoint::{hash_file, hex};
use crate::data::format::Format;
use crate::data::listing::Listing;
use crate::data::overlap::Distinct;
use crate::data::{address, inputs};
use crate::error::{Error, Result, counted};
use crate::interrupt;
use crate::progress::{Meter, Unit};

/// The files behind names: a folder's are all in it of a known kind, also in folders below, and
/// sorted; a glob's are sorted too; a dataset's are fetched from the hub as `hub` says. What of a
/// folder is left out, and which file is named again, is told on standard error.
///
/// # Errors
/// A path does not exist, a folder or glob has nothing, a file is of no known kind, most of a
/// folder would be left out, or the hub does not deliver.
pub fn expand(
    names: &[String],
    hub: impl Fn() -> Result<HubConfig>,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    let mut files = Distinct::default();
    for name in names {
        if let Some(dataset) = DatasetRef::parse(name) {
            let fetched = remote::fetch(&dataset?, &hub()?, progress)?;
            fetched
                .iter()
                .try_for_each(|path| Format::of(path).map(drop))?;
            fetched.into_iter().for_each(|path| files.add_cached(path));
            continue;
        }
        address::refuse(Path::new(name), |dataset| format!("give {dataset}"))?;
        for path in inputs::expand(Path::new(name))? {
            if path.is_dir() {
                let found = of_folder(&path)?;
                found.into_iter().for_each(|path| files.add(path));
            } else if path.exists() {
                Format::of(&path)?;
                files.add(path);
            } else {
                return Err(address::missing(&path));
            }
        }
    }
    Ok(files.into_files())
}

/// The files of a folder and of those below it.
fn of_folder(dir: &Path) -> Result<Vec<PathBuf>> {
    let name = dir.display().to_string();
    let listing = Listing::of(dir, true, &|path| Format::known(path).is_some())?;
    if listing.is_empty() {
        let there = listing
            .left_out()
            .map_or_else(String::new, |left| format!("; there are {left}"));
        let message =
            format!("a folder without .txt, .jsonl, .ndjson, .json or .parquet files{there}");
        let error = Error::invalid(name, message);
        return Err(match listing.advice() {
            Some(step) => error.with_hint(step),
            None => error.with_hint("give a folder with texts, or name the files"),
        });
    }
    listing.check(&name)?;
    listing.say(&name);
    Ok(listing.files().map(Path::to_owned).collect())
}

/// Size and hash of every file.
pub(super) fn hash_all(paths: &[PathBuf]) -> Result<Vec<InputRecord>> {
    let sizes: Vec<u64> = paths
        .iter()
        .map(|path| size_of(path))
        .collect::<Result<_>>()?;
    let meter = Meter::new("hashing inputs", sizes.iter().sum(), Unit::Bytes);
    paths
        .par_iter()
        .map(|path| {
            let mut hasher = Sha256::new();
            let bytes = hash_file(path, &mut hasher, |read| {
                meter.advance(read);
                interrupt::check("nothing was written")
            })?;
            Ok(InputRecord {
                path: path.clone(),
                bytes,
                sha256: hex(&hasher.finalize()),
            })
        })
        .collect()
}

/// What is said of files that hold the same bytes.
pub(super) fn copies(records: &[InputRecord]) -> Vec<String> {
    let mut firsts: BTreeMap<&str, &InputRecord> = BTreeMap::new();
    let mut notes = Vec::new();
    for record in records.iter().filter(|record| record.bytes > 0) {
        let first = *firsts.entry(&record.sha256).or_insert(record);
        if first.path != record.path {
            notes.push(format!(
                "warning: {} and {} hold the same bytes: their documents count twice, and may be \
                 both trained and validated on",
                first.path.display(),
                record.path.display()
            ));
        }
    }
    notes
}

/// Fails if a file no longer has the size that it had when it was hashed.
pub(super) fn check_unchanged(paths: &[PathBuf], records: &[InputRecord]) -> Result<()> {
    for (path, record) in paths.iter().zip(records) {
        let (found, before) = (size_of(path)?, record.bytes);
        if found != before {
            let message = format!(
                "it had {} at the start and has {found} now",
                counted(before, "byte", "bytes")
            );
            return Err(Error::invalid(path.display(), message).with_hint("prepare it again"));
        }
    }
    Ok(())
}

fn size_of(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() {
        return Err(Error::invalid(path.display(), "not a plain file"));
    }
    Ok(metadata.len())
}
