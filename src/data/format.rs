//! What a data file's name says: how its records are stored, and how it is compressed.

use std::path::Path;

use crate::error::{Error, Result};

/// What records are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Plain text.
    Text,
    /// A JSON object on each line.
    JsonLines,
    /// The same, or one list of objects.
    Json,
    /// A table.
    Parquet,
}

/// How a file is compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
}

/// Endings of files that people have and that are not read: what they are, and what to do.
const FOREIGN: [(&[&str], &str, &str); 4] = [
    (
        &["csv", "tsv"],
        "a table of separated values, which is not read",
        "make JSON lines of it, for example with pandas: \
         pd.read_csv(FILE).to_json(\"FILE.jsonl\", orient=\"records\", lines=True)",
    ),
    (
        &["arrow", "feather"],
        "an Arrow table, which is not read",
        ARROW_HINT,
    ),
    (
        &["xz", "lzma"],
        "compressed with xz, which is not read",
        "unpack it first: xz --decompress --keep FILE",
    ),
    (
        &["tar", "tgz", "zip", "7z", "rar"],
        "an archive, which is not read",
        "unpack it first, and give the folder",
    ),
];

/// How to get on from a table that `datasets` saved.
pub(crate) const ARROW_HINT: &str = "write it as parquet with the library that made it, for example \
     datasets.load_from_disk(FOLDER).to_parquet(\"FILE.parquet\"), \
     where there are splits load_from_disk(FOLDER)[\"train\"]";

impl Format {
    /// Reads it from the name.
    ///
    /// # Errors
    /// The name ends in nothing that is read.
    pub fn of(path: &Path) -> Result<(Self, Compression)> {
        if let Some(known) = Self::known(path) {
            return Ok(known);
        }
        Err(match foreign(path) {
            Some((what, hint)) => Error::invalid(path.display(), what).with_hint(hint),
            None => Error::invalid(path.display(), "the name does not say what it holds")
                .with_hint(
                    "expected .txt, .jsonl, .ndjson or .json, each also with .gz, .zst or .bz2 \
                     after it, or .parquet",
                ),
        })
    }

    /// Reads it from the name, if that ends in something that is read.
    pub fn known(path: &Path) -> Option<(Self, Compression)> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        let (name, compression) = uncompressed(&name);
        let format = match name.rsplit_once('.')?.1 {
            "txt" => Self::Text,
            "jsonl" | "ndjson" => Self::JsonLines,
            "json" => Self::Json,
            // Its pages are compressed already; nobody compresses the file.
            "parquet" if compression == Compression::None => Self::Parquet,
            _ => return None,
        };
        Some((format, compression))
    }
}

/// What a file of a known foreign kind is, and what to do with it.
pub(crate) fn foreign(path: &Path) -> Option<(&'static str, &'static str)> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let ending = uncompressed(&name).0.rsplit_once('.')?.1;
    let of = |(endings, ..): &&(&[&str], _, _)| endings.contains(&ending);
    FOREIGN.iter().find(of).map(|&(_, what, hint)| (what, hint))
}

/// The name without the ending that says what the file holds, and that ending; none if it is of
/// no known kind.
pub(crate) fn parts(name: &str) -> Option<(&str, &str)> {
    Format::known(Path::new(name))?;
    let lower = name.to_ascii_lowercase();
    let stem = uncompressed(&lower).0.rfind('.')?;
    Some(name.split_at(stem))
}

/// The name without the ending of a compression, in letters of any case, and which that is.
pub(crate) fn uncompressed(name: &str) -> (&str, Compression) {
    let endings = [
        (".gz", Compression::Gzip),
        (".zst", Compression::Zstd),
        (".bz2", Compression::Bzip2),
    ];
    let stripped = endings.iter().find_map(|&(ending, compression)| {
        let (stem, end) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
        end.eq_ignore_ascii_case(ending)
            .then_some((stem, compression))
    });
    stripped.unwrap_or((name, Compression::None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_stem() {
        assert_eq!(parts("a.b.JSON.gz"), Some(("a.b", ".JSON.gz")));
        assert_eq!(parts("a.parquet"), Some(("a", ".parquet")));
        assert_eq!(parts("a.md"), None);
    }

    #[test]
    fn names_say_what_is_read_and_what_is_not() {
        let of = |name: &str| Format::of(Path::new(name));
        for (name, expected) in [
            ("a.json", (Format::Json, Compression::None)),
            ("a.json.gz", (Format::Json, Compression::Gzip)),
            ("A.JSON.ZST", (Format::Json, Compression::Zstd)),
            ("a.b.jsonl.bz2", (Format::JsonLines, Compression::Bzip2)),
            ("a.txt", (Format::Text, Compression::None)),
            ("a.parquet", (Format::Parquet, Compression::None)),
        ] {
            assert_eq!(of(name).unwrap(), expected, "{name}");
        }
        for (name, word, step) in [
            ("a.csv", "separated values", "pandas"),
            ("a.tsv.gz", "separated values", "pandas"),
            ("data-00000-of-00001.arrow", "Arrow", "to_parquet"),
            ("a.jsonl.xz", "xz", "xz --decompress"),
            ("a.tar.gz", "archive", "unpack"),
            ("a.parquet.gz", "does not say", "expected .txt"),
            ("README", "does not say", "expected .txt"),
        ] {
            let error = of(name).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert!(error.hint().unwrap().contains(step), "{error}");
        }
    }
}
