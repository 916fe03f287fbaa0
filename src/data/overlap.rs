//! The same data in two places: a file named twice, or for training and for validation.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::inputs::{Inputs, Split};
use super::listing::note_once;
use crate::error::{Error, Result};

/// Bytes compared at a time.
const PIECE: usize = 1 << 20;

/// Files in their order, each once, however it is spelled.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    files: Vec<PathBuf>,
    seen: BTreeSet<PathBuf>,
}

impl Distinct {
    /// Adds a file, unless it is there; then a note on standard error says so. Links are
    /// followed.
    pub fn add(&mut self, path: PathBuf) {
        let own = canonical(&path);
        self.add_as(path, own);
    }

    /// Adds a file that is told from others by its path alone: in the cache of the hub, files of
    /// the same content are links to one.
    pub fn add_cached(&mut self, path: PathBuf) {
        self.add_as(path.clone(), path);
    }

    fn add_as(&mut self, path: PathBuf, own: PathBuf) {
        if self.seen.insert(own) {
            self.files.push(path);
        } else {
            let path = path.display();
            note_once(&format!(
                "note: {path} is named more than once, and is read once"
            ));
        }
    }

    /// The files.
    pub fn into_files(self) -> Vec<PathBuf> {
        self.files
    }
}

/// The path that all spellings of it have in common; itself where nothing is there.
fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Warns of files that are meant both to train and to validate on, or that hold the same bytes.
/// Some do that on purpose, so that it is no error.
///
/// # Errors
/// The lists are not sound, see [`Inputs::resolve`], or a file cannot be read.
pub fn warn_of_overlap(train: &[PathBuf], val: &[PathBuf]) -> Result<()> {
    let train = files_of(train, Split::Train)?;
    for val in files_of(val, Split::Val)? {
        for train in &train {
            let message = if canonical(train) == canonical(&val) {
                format!("{} is in both data.train and data.val", val.display())
            } else if have_same_bytes(train, &val)? {
                format!(
                    "{} of data.train and {} of data.val hold the same bytes",
                    train.display(),
                    val.display()
                )
            } else {
                continue;
            };
            note_once(&format!(
                "warning: {message}: the validation loss is of text that is trained on"
            ));
        }
    }
    Ok(())
}

fn files_of(paths: &[PathBuf], split: Split) -> Result<Vec<PathBuf>> {
    Inputs::resolve(paths, split).map(|(Inputs::Text(files) | Inputs::Shards(files))| files)
}

/// Whether two files hold the same, and hold anything. What differs, mostly does so at once.
fn have_same_bytes(a: &Path, b: &Path) -> Result<bool> {
    // What is not there is told where it is opened.
    let size = |path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    if size(a) != size(b) || size(a) == 0 {
        return Ok(false);
    }
    let open = |path: &Path| File::open(path).map_err(Error::io("open", path));
    let (mut left, mut right) = (BufReader::new(open(a)?), BufReader::new(open(b)?));
    let (mut of_a, mut of_b) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    loop {
        of_a.clear();
        of_b.clear();
        let piece = PIECE as u64;
        let read = (&mut left).take(piece).read_to_end(&mut of_a);
        read.map_err(Error::io("read", a))?;
        let read = (&mut right).take(piece).read_to_end(&mut of_b);
        read.map_err(Error::io("read", b))?;
        if of_a != of_b {
            return Ok(false);
        }
        if of_a.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_once_however_it_is_spelled() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.txt"), "x").unwrap();
        fs::write(path("b.txt"), "x").unwrap();
        fs::create_dir(path("t")).unwrap();
        std::os::unix::fs::symlink(path("a.txt"), path("link.txt")).unwrap();
        let mut files = Distinct::default();
        for name in [
            "b.txt",
            "t/../a.txt",
            "./b.txt",
            "a.txt",
            "link.txt",
            "no.txt",
        ] {
            files.add(path(name));
        }
        let expected = ["b.txt", "t/../a.txt", "no.txt"].map(path);
        assert_eq!(files.into_files(), expected);
    }

    #[test]
    fn the_same_bytes_are_seen_behind_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let long = vec![7; PIECE + 3];
        let mut other = long.clone();
        other[PIECE + 1] = 8;
        let [a, b, c] = [write("a", &long), write("b", &long), write("c", &other)];
        let [empty, none] = [write("d", b""), write("e", b"")];
        assert!(have_same_bytes(&a, &b).unwrap());
        assert!(!have_same_bytes(&a, &c).unwrap());
        assert!(!have_same_bytes(&empty, &none).unwrap());
    }
}
