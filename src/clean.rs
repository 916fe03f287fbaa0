//! What of runs nobody needs any more.
//!
//! A run that is not finished keeps all that it may go on from. Of one that is, records and
//! reports need no model: the last checkpoint is for its user, all else can be made again.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::owner::{self, GROWTH_FILE};
use crate::run::{self, GROWN_DIR, REPORT_FILE, STAGED, checkpoints, growth_file};
use crate::{durable, lock};

/// Written by experiments where a run diverged, so that it is not tried again.
pub const DIVERGED_FILE: &str = "diverged.json";

const HALF_WRITTEN: &str = "left half-written";

/// What is to stay of a run that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Its records and its last checkpoint.
    LastCheckpoint,
    /// Its records.
    Records,
}

/// A folder or file that may go.
#[derive(Clone, Debug, Serialize)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub what: &'static str,
    /// Bytes in it.
    pub bytes: u64,
    /// What is in it that this program did not make, by name: then it stays.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<String>,
}

/// What may go of a run's folder.
///
/// # Errors
/// [`Error::Locked`] if a process works there; or the folder cannot be read.
pub fn leftovers(run: &Path, rest: Rest) -> Result<Vec<Leftover>> {
    lock::check_free(run)?;
    listed(run, rest)
}

/// Frees what may go of a run's folder, and says what went.
///
/// # Errors
/// As [`leftovers`]; or something cannot be removed.
pub fn free(run: &Path, rest: Rest) -> Result<Vec<Leftover>> {
    let _lock = run::KIND.claim(run)?;
    let mut found = listed(run, rest)?;
    found.retain(|leftover| leftover.strangers.is_empty());
    for leftover in found.iter().filter(|l| l.what != HALF_WRITTEN) {
        let path = &leftover.path;
        if path.ends_with(GROWN_DIR) {
            // The record of the growth is a part of the report.
            let record = path.join(GROWTH_FILE);
            let text = fs::read(&record).map_err(Error::io("read", record))?;
            durable::write_file(&run.join(growth_file(1)), &text)?;
        }
        durable::remove_dir(path)?;
    }
    durable::sweep(run, &STAGED)?;
    Ok(found)
}

fn listed(run: &Path, rest: Rest) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    for path in durable::left_behind(run, &STAGED)? {
        found.push(leftover(path, HALF_WRITTEN, Vec::new())?);
    }
    let mut add = |path: PathBuf, what| {
        if let Some(strangers) = owner::strangers(&path)? {
            found.push(leftover(path, what, strangers)?);
        }
        Ok::<_, Error>(())
    };
    for name in owner::contents(run)? {
        if name.starts_with("damaged-") && name.contains("-step-") {
            add(run.join(name), "damaged checkpoint")?;
        }
    }
    let diverged = rest == Rest::Records && run.join(DIVERGED_FILE).is_file();
    if !run.join(REPORT_FILE).is_file() && !diverged {
        return Ok(found);
    }
    let kept = match rest {
        Rest::LastCheckpoint => 1,
        Rest::Records => 0,
    };
    for (number, (_, path)) in checkpoints(run)?.into_iter().enumerate().skip(kept) {
        let what = if number == 0 {
            "last checkpoint"
        } else {
            "earlier checkpoint"
        };
        add(path, what)?;
    }
    let grown = run.join(GROWN_DIR);
    if owner::is_grown(&grown) {
        add(grown, "model as it was grown")?;
    }
    Ok(found)
}

fn leftover(path: PathBuf, what: &'static str, strangers: Vec<String>) -> Result<Leftover> {
    Ok(Leftover {
        bytes: bytes_of(&path)?,
        path,
        what,
        strangers,
    })
}

/// Bytes of a file, or of all files in a folder; links are not followed.
fn bytes_of(path: &Path) -> Result<u64> {
    let metadata = fs::symlink_metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let entries = fs::read_dir(path).map_err(Error::io("list", path))?;
    let bytes = entries.map(|entry| bytes_of(&entry.map_err(Error::io("list", path))?.path()));
    bytes.sum()
}
