//! What of a folder is read, and what is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use indicatif::{DecimalBytes, HumanCount};

use super::format::{Compression, Format, foreign};
use super::inputs::{PREPARE, is_hidden};
use crate::error::{Error, Result, printable};
use crate::progress::eprint_line;

/// Names of an ending that are shown.
const SHOWN: usize = 3;

/// Whether a name in a folder is that of a file about the data: a licence, a read-me, a list or
/// a script, whatever its ending. Such a file is no document unless it is named itself.
pub(crate) fn is_about(name: &str) -> bool {
    const STEMS: [&str; 15] = [
        "readme",
        "license",
        "licence",
        "copying",
        "copyright",
        "notice",
        "changelog",
        "authors",
        "contributors",
        "contributing",
        "citation",
        "manifest",
        "requirements",
        "checksums",
        "sha256sums",
    ];
    const JSON: [&str; 6] = [
        "dataset_info",
        "dataset_infos",
        "dataset_dict",
        "state",
        "config",
        "metadata",
    ];
    const ENDINGS: [&str; 14] = [
        "py", "ipynb", "sh", "slurm", "sbatch", "yaml", "yml", "toml", "cfg", "ini", "log", "lock",
        "md5", "sha256",
    ];
    let name = name.to_ascii_lowercase();
    let (stem, ending) = name.split_once('.').unwrap_or((&name, ""));
    // LICENSE-MIT, README_fr.md
    let first = stem.split(['-', '_']).next().unwrap_or_default();
    STEMS.contains(&stem)
        || ["readme", "license", "licence"].contains(&first)
        || ENDINGS.contains(&ending)
        || ending == "json" && JSON.contains(&stem)
}

/// Whether a `.json` file is one object over several lines, as settings are, rather than records.
fn is_one_object(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_end(&mut head));
    let head = head.trim_ascii_start();
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    read.is_ok() && line.len() < head.len() && line.trim_ascii() == b"{"
}

/// Files of a folder, sorted into those that are read and those that are not.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Those that are read, and their sizes.
    taken: Vec<(PathBuf, u64)>,
    /// Names of those that are about the data, and would be read otherwise.
    about: Vec<String>,
    /// The others by ending.
    left: BTreeMap<String, Left>,
    /// Folders below, where those are not searched.
    folders: Vec<String>,
}

/// Files of one ending that are left out.
#[derive(Debug, Default)]
struct Left {
    count: u64,
    bytes: u64,
    /// The first few.
    names: Vec<String>,
    /// What files of this ending are, and what to do with them, where that is known.
    foreign: Option<(&'static str, &'static str)>,
    /// Whether they are data that `data prepare` reads.
    known: bool,
}

impl Listing {
    /// The files in `dir`, also those in folders below where it is `deep`, in the order of their
    /// paths; `is_read` says which are read.
    ///
    /// # Errors
    /// A folder cannot be listed.
    pub fn of(dir: &Path, deep: bool, is_read: &dyn Fn(&Path) -> bool) -> Result<Self> {
        let (mut files, mut listing) = (Vec::new(), Self::default());
        files_in(dir, deep, &mut files, &mut listing.folders)?;
        files.sort();
        listing.folders.sort();
        for (path, bytes) in files {
            let is_read = is_read(&path);
            let json = Format::known(&path) == Some((Format::Json, Compression::None));
            let about = is_read && json && is_one_object(&path);
            listing.add(path, bytes, is_read, about);
        }
        Ok(listing)
    }

    /// Sorts a file; `about` says that it is about the data, whatever its name.
    pub fn add(&mut self, path: PathBuf, bytes: u64, is_read: bool, about: bool) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !about && !is_about(&name) {
            if is_read {
                self.taken.push((path, bytes));
            } else {
                self.leave(&path, bytes);
            }
        } else if is_read {
            self.about.push(name.into_owned());
        }
    }

    /// Leaves a file out.
    fn leave(&mut self, path: &Path, bytes: u64) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ending = name.split_once('.').map_or("", |(_, ending)| ending);
        let left = self.left.entry(ending.to_ascii_lowercase()).or_default();
        left.count += 1;
        left.bytes += bytes;
        left.foreign = foreign(path);
        left.known = Format::known(path).is_some();
        if left.names.len() < SHOWN {
            left.names.push(name.into_owned());
        }
    }

    /// Leaves those out that `keep` does not want.
    pub fn keep(&mut self, keep: impl Fn(&Path) -> bool) {
        for (path, bytes) in std::mem::take(&mut self.taken) {
            if keep(&path) {
                self.taken.push((path, bytes));
            } else {
                self.leave(&path, bytes);
            }
        }
    }

    /// The files that are read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.taken.iter().map(|(path, _)| path.as_path())
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// What is left out, in words; none if nothing is.
    pub fn left_out(&self) -> Option<String> {
        let mut parts: Vec<String> = self.most_first().iter().map(|left| left.words()).collect();
        if !self.about.is_empty() {
            let names = few(self.about.len() as u64, &self.about);
            parts.push(format!("{names} about the data, no text of it"));
        }
        if !self.folders.is_empty() {
            let shown = self.folders.iter().take(SHOWN).map(|name| printable(name));
            let more = if self.folders.len() > SHOWN {
                ", ..."
            } else {
                ""
            };
            let shown = shown.collect::<Vec<_>>().join(", ");
            parts.push(format!("folders, which are not searched ({shown}{more})"));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Says what is left out, once.
    pub fn say(&self, dir: &str) {
        if let Some(words) = self.left_out() {
            note_once(&format!("note: {dir}: left out: {words}"));
        }
    }

    /// Refuses a folder of which most would be left out, by number or by size.
    ///
    /// # Errors
    /// That is so.
    pub fn check(&self, dir: &str) -> Result<()> {
        let (count, bytes) = self.left_sums();
        let taken = self.taken.len() as u64;
        let taken_bytes: u64 = self.taken.iter().map(|(_, bytes)| bytes).sum();
        if count <= taken && bytes <= taken_bytes {
            return Ok(());
        }
        let [count, all] = [count, count + taken].map(HumanCount);
        let [bytes, all_bytes] = [bytes, bytes + taken_bytes].map(DecimalBytes);
        let words = self.left_out().unwrap_or_default();
        let message = format!(
            "most of the folder would be left out, {count} of {all} files and {bytes} of \
             {all_bytes}: {words}"
        );
        let name = format!("name the files that are meant, for example '{dir}/*.txt'");
        let hint = match self.advice() {
            Some(step) => format!("{step}; or {name}"),
            None => name,
        };
        Err(Error::invalid(dir, message).with_hint(hint))
    }

    /// What to do with most of the files that are left out, where that is known.
    pub fn advice(&self) -> Option<&'static str> {
        let most_first = self.most_first();
        let most = most_first.first()?;
        let prepare = most.known.then_some(PREPARE);
        most.foreign.map(|(_, step)| step).or(prepare)
    }

    fn left_sums(&self) -> (u64, u64) {
        let sum = |of: fn(&Left) -> u64| self.left.values().map(of).sum();
        (sum(|left| left.count), sum(|left| left.bytes))
    }

    fn most_first(&self) -> Vec<&Left> {
        let mut left: Vec<&Left> = self.left.values().collect();
        left.sort_by_key(|left| std::cmp::Reverse((left.bytes, left.count)));
        left
    }
}

impl Left {
    fn words(&self) -> String {
        few(self.count, &self.names)
    }
}

/// `3 files (a, b, ...)`.
fn few(count: u64, names: &[String]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| printable(name))
        .collect();
    let more = if count > shown.len() as u64 {
        ", ..."
    } else {
        ""
    };
    let files = if count == 1 { "file" } else { "files" };
    format!("{} {files} ({}{more})", HumanCount(count), shown.join(", "))
}

/// Files that are not hidden, and their sizes; those of folders below if `deep`, else the names of
/// the folders.
fn files_in(
    dir: &Path,
    deep: bool,
    files: &mut Vec<(PathBuf, u64)>,
    folders: &mut Vec<String>,
) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let (path, kind) = (entry.path(), entry.file_type());
        if is_hidden(&path) {
            continue;
        }
        // Links to folders are not followed, they may lead back here.
        if kind.is_ok_and(|kind| kind.is_dir()) {
            if deep {
                files_in(&path, deep, files, folders)?;
            } else {
                folders.push(entry.file_name().to_string_lossy().into_owned());
            }
        } else if let Ok(metadata) = path.metadata()
            && metadata.is_file()
        {
            files.push((path, metadata.len()));
        }
    }
    Ok(())
}

/// Prints a line on standard error, unless this process did so before: the same folder is often
/// read for two purposes.
pub(crate) fn note_once(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let new = SAID
        .lock()
        .is_ok_and(|mut said| said.insert(text.to_owned()));
    if new {
        eprint_line(text);
    }
}
