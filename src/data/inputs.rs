//! What a list of data paths means: files, folders and globs; text or shards.

use std::path::{Path, PathBuf};

use super::address;
use super::format::{Compression, Format, foreign};
use super::listing::Listing;
use super::overlap::Distinct;
use super::prepare::UNFINISHED;
use super::shard::is_shard;
use crate::error::{Error, Result};

/// What to do where a folder does not say which files are meant.
const NAME_FILES: &str = "name the files, or a folder that `scale-ckpt data prepare` made";
/// What to do with data that is neither plain text nor shards.
pub(crate) const PREPARE: &str = "make shards of it first: scale-ckpt data prepare";

/// Which part of a folder of shards is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To train on.
    Train,
    /// To validate on.
    Val,
}

impl Split {
    /// The word in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }

    /// The split that a file name speaks of: the last word that names one decides, since the
    /// name of a data set comes first.
    fn of_name(name: &str) -> Option<Self> {
        let mut words = name.rsplit(|c: char| !c.is_ascii_alphanumeric());
        words.find_map(|word| match word.to_ascii_lowercase().as_str() {
            "train" => Some(Self::Train),
            "val" | "valid" | "validation" => Some(Self::Val),
            _ => None,
        })
    }
}

/// Files of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Text to tokenize.
    Text(Vec<PathBuf>),
    /// Token ids.
    Shards(Vec<PathBuf>),
}

impl Inputs {
    /// The files that `paths` name, in their order, each once; those of a folder or glob sorted
    /// by name. Of a folder, the ones of `split` are meant, as their names say it. A file that is
    /// named need not be there.
    ///
    /// # Errors
    /// A glob or folder has nothing, or the list mixes text and shards.
    pub fn resolve(paths: &[PathBuf], split: Split) -> Result<Self> {
        let mut files = Distinct::default();
        for path in paths {
            let found = if path.is_dir() {
                of_folder(path, split)?
            } else {
                address::refuse(path, |dataset| {
                    format!("make shards of it first: scale-ckpt data prepare {dataset} --out DIR")
                })?;
                expand(path)?
            };
            found.into_iter().for_each(|path| files.add(path));
        }
        let files = files.into_files();
        // What a name says of a file that is not there is of no use.
        let missing = files.iter().find(|path| !path.exists()).cloned();
        for path in files.iter().filter(|path| path.exists()) {
            if let Some((what, hint)) = foreign(path) {
                return Err(Error::invalid(path.display(), what).with_hint(hint));
            }
            let plain = (Format::Text, Compression::None);
            if Format::known(path).is_some_and(|known| known != plain) {
                let message = "neither plain text nor token shards";
                return Err(Error::invalid(path.display(), message).with_hint(PREPARE));
            }
        }
        let (shards, text): (Vec<_>, Vec<_>) = files.into_iter().partition(|p| is_shard(p));
        match (shards.first(), text.first()) {
            (Some(shard), Some(text)) => Err(missing.map_or_else(
                || {
                    let message = format!("text, in one list with the shard {}", shard.display());
                    Error::invalid(text.display(), message)
                        .with_hint("make shards of the text too: scale-ckpt data prepare")
                },
                |path| address::missing(&path),
            )),
            (None, _) => Ok(Self::Text(text)),
            (Some(_), None) => Ok(Self::Shards(shards)),
        }
    }

    /// The same, where every file must be there.
    ///
    /// # Errors
    /// As [`Self::resolve`]; or a file is missing.
    pub fn find(paths: &[PathBuf], split: Split) -> Result<Self> {
        let found = Self::resolve(paths, split)?;
        let (Self::Text(files) | Self::Shards(files)) = &found;
        match files.iter().find(|path| !path.exists()) {
            Some(path) => Err(address::missing(path)),
            None => Ok(found),
        }
    }
}

/// A path itself, or what a glob matches, sorted.
///
/// # Errors
/// The glob is malformed or matches nothing.
pub(super) fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    let text = path.to_string_lossy();
    if !text.contains(['*', '?', '[']) || path.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let matches = glob::glob(&text)
        .map_err(|e| Error::usage(format!("{text}: not a glob: {e}")))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| {
            let path = e.path().to_owned();
            Error::io("list", path)(e.into())
        })?;
    let mut files: Vec<_> = matches.into_iter().filter(|p| p.is_file()).collect();
    files.sort();
    if files.is_empty() {
        return Err(
            Error::invalid(text, "no file matches").with_hint("quote a glob, or name a file")
        );
    }
    Ok(files)
}

/// The files of `split` in a folder, as their names say it; all `.txt` files if no name does.
fn of_folder(dir: &Path, split: Split) -> Result<Vec<PathBuf>> {
    if dir.join(UNFINISHED).exists() {
        let message = "`data prepare` was stopped there, its shards are not complete";
        return Err(Error::invalid(dir.display(), message).with_hint("run it again"));
    }
    let is_text = |path: &Path| path.extension().is_some_and(|e| e == "txt");
    let mut listing = Listing::of(dir, false, &|path| is_shard(path) || is_text(path))?;
    let name = dir.display().to_string();
    if listing.is_empty() {
        let there = listing.left_out();
        let there = there.map_or_else(String::new, |left| format!("; there are {left}"));
        let message = format!("a folder without .txt, .bin or .npy files{there}");
        let hint = listing.advice().unwrap_or(NAME_FILES);
        return Err(Error::invalid(name, message).with_hint(hint));
    }
    let named =
        |path: &Path| Split::of_name(&path.file_name().unwrap_or_default().to_string_lossy());
    let with_text = listing.files().any(is_text);
    // A folder with shards and text is not sorted out here: the caller refuses the mixture.
    let whole = with_text && listing.files().all(|path| named(path).is_none());
    if !whole && listing.files().any(|path| named(path).is_some()) {
        listing.keep(|path| named(path).is_some());
    }
    // What lies beside shards went into them, or belongs to them.
    if !listing.files().any(is_shard) {
        listing.check(&name)?;
    }
    listing.say(&name);
    let of_split = |path: &&Path| whole || named(path) == Some(split);
    let found: Vec<_> = listing
        .files()
        .filter(of_split)
        .map(Path::to_owned)
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let message = format!("no file there has the word `{}` in its name", split.name());
    Err(Error::invalid(name, message).with_hint(NAME_FILES))
}

/// Whether the name begins with a dot, as that of a file under construction does.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_word_of_a_name_decides_the_split() {
        for (name, split) in [
            ("train_val_000000.bin", Some(Split::Val)),
            ("eval_train_000001.bin", Some(Split::Train)),
            ("my_val_set_train_000001.bin", Some(Split::Train)),
            ("edufineweb_train_000001.npy", Some(Split::Train)),
            ("val.bin", Some(Split::Val)),
            ("retrieval_000001.bin", None),
        ] {
            assert_eq!(Split::of_name(name), split, "{name}");
        }
    }

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| {
            fs::write(dir.path().join(name), "x").unwrap();
        });
        dir
    }

    fn names(inputs: Inputs) -> Vec<String> {
        let (Inputs::Text(files) | Inputs::Shards(files)) = inputs;
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        files.iter().map(name).collect()
    }

    #[test]
    fn a_folder_of_shards_has_splits() {
        let all = [
            "w_train_000002.bin",
            "w_val_000000.bin",
            "w_train_000001.bin",
            ".tmp-x.bin",
            "manifest.json",
        ];
        let dir = folder(&all);
        let path = [dir.path().to_owned()];
        let train = Inputs::resolve(&path, Split::Train).unwrap();
        assert_eq!(names(train), ["w_train_000001.bin", "w_train_000002.bin"]);
        let val = Inputs::resolve(&path, Split::Val).unwrap();
        assert_eq!(names(val), ["w_val_000000.bin"]);
        fs::remove_file(dir.path().join("w_val_000000.bin")).unwrap();
        let error = Inputs::resolve(&path, Split::Val).unwrap_err();
        assert!(error.to_string().contains("`val`"), "{error}");
    }

    #[test]
    fn globs_are_sorted_and_must_match() {
        let dir = folder(&["b.txt", "a.txt", "c.bin"]);
        let glob = |pattern: &str| Inputs::resolve(&[dir.path().join(pattern)], Split::Train);
        assert_eq!(names(glob("*.txt").unwrap()), ["a.txt", "b.txt"]);
        let error = glob("*.md").unwrap_err();
        assert!(error.to_string().contains("no file matches"), "{error}");
        assert!(glob("[.txt").is_err());
    }

    #[test]
    fn text_and_shards_do_not_mix() {
        let dir = folder(&["a.txt", "c.bin", "d.jsonl"]);
        let error = Inputs::resolve(&[dir.path().to_owned()], Split::Train).unwrap_err();
        assert!(error.to_string().contains("in one list"), "{error}");
        let error = Inputs::resolve(&[dir.path().join("d.jsonl")], Split::Train).unwrap_err();
        assert!(error.hint().unwrap().contains("data prepare"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_told_before_what_its_name_says() {
        let dir = folder(&["a.bin"]);
        for name in [
            "x.jsonl",
            "x.txt.gz",
            "x.csv",
            "x.tar",
            "x.parquet",
            "x.bin",
            "x",
        ] {
            let paths = ["a.bin", name].map(|name| dir.path().join(name));
            for paths in [&paths[..], &paths[1..]] {
                let error = Inputs::find(paths, Split::Val).unwrap_err().to_string();
                let words = format!("{name}: no such file or folder");
                assert!(error.ends_with(&words), "{error}");
            }
        }
    }

    #[test]
    fn a_file_named_twice_is_read_once() {
        let dir = folder(&["b.txt", "a.txt"]);
        let paths = ["b.txt", "./b.txt", "*.txt"].map(|name| dir.path().join(name));
        let found = Inputs::find(&paths, Split::Train).unwrap();
        assert_eq!(names(found), ["b.txt", "a.txt"]);
    }
}
