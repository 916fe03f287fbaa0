//! What a file is by its first bytes, whatever its name says.

use std::path::Path;

use super::format::{ARROW_HINT, Format, uncompressed};
use super::inputs::PREPARE;
use crate::error::Error;

/// Bytes from the beginning of a file that are enough to tell.
pub(crate) const HEAD: usize = 512;

const UNPACK: &str = "unpack it first";
/// What a step begins with that gives the file another name.
const RENAME: &str = "rename it to ";

/// First bytes, what a file with them is, and what to do with it. `NAME` stands for the file's
/// name, `BARE` for that without the ending of a compression, `STEM` without any.
const MAGIC: [(&[u8], &str, &str); 23] = [
    (b"\x1f\x8b\x08", "a gzip file", "rename it to BARE.gz"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "rename it to BARE.zst"),
    (b"BZh", "a bzip2 file", "rename it to BARE.bz2"),
    (
        b"\xfd7zXZ\0",
        "an xz file",
        "unpack it first: xz --decompress --stdout NAME > FILE",
    ),
    (b"\x04\x22\x4d\x18", "an lz4 file", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (
        b"PK\x03\x04",
        "a zip archive, such as PyTorch and numpy's savez write too",
        UNPACK,
    ),
    (b"PAR1", "a parquet table", "rename it to STEM.parquet"),
    (
        b"PARE",
        "an encrypted parquet table",
        "write it again without encryption",
    ),
    (b"ARROW1", "an Arrow table", ARROW_HINT),
    (b"\xff\xff\xff\xff", "an Arrow stream", ARROW_HINT),
    (
        b"\x93NUMPY",
        "a numpy array",
        "token ids go into a file that ends in .npy; texts into .txt or .jsonl",
    ),
    (b"\x89HDF", "an HDF5 file", UNPACK),
    (
        b"Obj\x01",
        "an Avro file",
        "write it as JSON lines or parquet",
    ),
    (b"ORC", "an ORC table", "write it as JSON lines or parquet"),
    (
        b"SQLite format 3\0",
        "an SQLite database",
        "write its texts as JSON lines or parquet",
    ),
    (b"%PDF-", "a PDF document", "extract its text first"),
    (b"\x80\x02\x8a", "an old PyTorch file", PICKLE),
    (b"\x80\x02}", "a pickle", PICKLE),
    (b"\x80\x02]", "a pickle", PICKLE),
    (b"\x80\x03}", "a pickle", PICKLE),
    (b"\x80\x04\x95", "a pickle", PICKLE),
    (b"\x80\x05\x95", "a pickle", PICKLE),
];
const PICKLE: &str = "write what it holds as text, JSON lines or parquet";

const HTML: &str = "an HTML page";
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What a file is, and what to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    what: &'static str,
    step: &'static str,
}

impl Kind {
    /// What begins with `head`; none if that is nothing known, as plain text and JSON are.
    pub fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(LFS) {
            return Some(Self {
                what: "a pointer of git LFS, not the file itself",
                step: "fetch the file: git lfs pull",
            });
        }
        if is_html(head) {
            return Some(Self {
                what: HTML,
                step: "it may be an error or log-in page that was saved in place of the file: \
                       download the file itself",
            });
        }
        if head.get(257..262) == Some(b"ustar") {
            return Some(Self {
                what: "a tar archive",
                step: "unpack it first, and give the folder",
            });
        }
        // Three or four letters may begin a text.
        let of = |(magic, ..): &&(&[u8], _, _)| head.starts_with(magic) && !is_words(magic, head);
        let found = MAGIC.iter().find(of);
        found.map(|&(_, what, step)| Self { what, step })
    }

    /// The error for a file that is this where something else was expected. `inside` says that
    /// it was found inside a compressed file.
    pub fn refused(self, path: &Path, inside: bool) -> Error {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (bare, _) = uncompressed(&name);
        let stem = bare.rsplit_once('.').map_or(bare, |(stem, _)| stem);
        let what = self.what;
        if inside {
            let message =
                format!("what is compressed in it is {what}, which the name does not say");
            return Error::invalid(path.display(), message)
                .with_hint("unpack it, and give the file a name that says what it is");
        }
        let ending = path
            .extension()
            .map(|e| format!(".{}", e.to_string_lossy()));
        let message = match ending {
            Some(ending) if !what.contains(&ending[1..]) => {
                format!("{what}, though its name ends in {ending}")
            }
            _ => what.to_owned(),
        };
        let step = self.step.replace("NAME", &name).replace("BARE", bare);
        let mut step = step.replace("STEM", stem);
        // A name that is refused in turn is no help.
        if let Some(renamed) = step.strip_prefix(RENAME)
            && Format::known(Path::new(renamed)).is_none()
        {
            step = format!("{UNPACK}, and give the file a name that says what it holds");
        }
        if what == HTML && path.extension().is_some_and(|e| e == "txt") {
            step.push_str("; if its markup is the text that is meant, put <|endoftext|> before it");
        }
        Error::invalid(path.display(), message).with_hint(step)
    }

    /// The same where text to train on or shards are read, and nothing else by any name.
    pub fn refused_in_training(self, path: &Path) -> Error {
        let error = self.refused(path, false);
        match error.hint() {
            Some(hint) if hint.starts_with(RENAME) => {
                let hint = format!("{hint}, and {PREPARE}");
                error.with_hint(hint)
            }
            _ => error,
        }
    }
}

/// What kind of text begins with `head`, if it is text.
pub(crate) fn text(head: &[u8]) -> Option<&'static str> {
    let head = &head[..head.len().min(HEAD)];
    let utf8 = std::str::from_utf8(head).map_or_else(|e| e.error_len().is_none(), |_| true);
    let is_control = |&byte: &u8| byte < b' ' && !byte.is_ascii_whitespace();
    if head.is_empty() || !utf8 || head.iter().any(is_control) {
        return None;
    }
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let head = head.trim_ascii_start();
    Some(match head.first() {
        Some(b'{' | b'[') => "JSON",
        _ if head.starts_with(b"<?xml") || head.starts_with(b"<Error>") => "XML",
        _ => "plain text",
    })
}

/// The error for a file that is no `expected`, where it is empty or text.
pub(crate) fn no_binary(path: &Path, expected: &str, head: &[u8]) -> Option<Error> {
    if head.is_empty() {
        let message = format!("empty, not {expected}");
        return Some(Error::invalid(path.display(), message).with_hint("copy or make it again"));
    }
    let found = text(head)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bare = uncompressed(&name).0;
    let fits = match Format::known(Path::new(bare)) {
        Some((Format::Text, _)) => found == "plain text",
        Some((Format::JsonLines | Format::Json, _)) => found == "JSON",
        _ => false,
    };
    let hint = if fits && bare.len() < name.len() {
        format!("take `{}` off its name", &name[bare.len()..])
    } else {
        "it may be an error message that was saved in place of the file: look at it, and download \
         the file itself"
            .to_owned()
    };
    let message = format!("not {expected}: {found}");
    Some(Error::invalid(path.display(), message).with_hint(hint))
}

/// Whether `head` is text that happens to begin with the few letters of a magic.
fn is_words(magic: &[u8], head: &[u8]) -> bool {
    magic.len() <= 4
        && magic.iter().all(|byte| byte.is_ascii_graphic())
        && !head
            .iter()
            .any(|&byte| byte < b' ' && !byte.is_ascii_whitespace())
        && std::str::from_utf8(head).map_or_else(|e| e.error_len().is_none(), |_| true)
}

fn is_html(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let head = head.trim_ascii_start();
    let begins = |tag: &[u8]| {
        head.len() > tag.len()
            && head[..tag.len()].eq_ignore_ascii_case(tag)
            && !head[tag.len()].is_ascii_alphanumeric()
    };
    begins(b"<!doctype html") || begins(b"<html")
}

/// Why the first bytes of a file are not UTF-8, and what to do, if they are UTF-16.
pub(crate) fn utf16(head: &[u8]) -> Option<(&'static str, &'static str)> {
    const CONVERT: &str = "convert the file, for example with iconv -f UTF-16 -t UTF-8";
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Some(("not UTF-8 at byte 0: it begins as UTF-16 does", CONVERT));
    }
    let head = without_padding(head);
    let zeros = head.iter().filter(|&&byte| byte == 0).count();
    let pairs = head.windows(2).filter(|pair| *pair == [0, 0]).count();
    let alternate = zeros * 3 > head.len() && pairs * 10 < zeros;
    alternate.then_some(("zero bytes between the letters, as in UTF-16", CONVERT))
}

/// The same of bytes that are no text at all. Zeros at the very end are no reason.
pub(crate) fn no_text(head: &[u8]) -> Option<(&'static str, &'static str)> {
    utf16(head).or_else(|| {
        without_padding(head).contains(&0).then_some((
            "not text: there are zero bytes in it",
            "look at the file, and take out what is no text",
        ))
    })
}

/// The first bytes without zeros at their end.
fn without_padding(head: &[u8]) -> &[u8] {
    let head = &head[..head.len().min(HEAD)];
    let last = head.iter().rposition(|&byte| byte != 0);
    &head[..last.map_or(0, |last| last + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_first_bytes() {
        for (head, name, words, step) in [
            (
                &b"\x1f\x8b\x08\0"[..],
                "a.txt",
                "a gzip file, though its name ends in .txt",
                "rename it to a.txt.gz",
            ),
            (
                b"PAR1\x15\x04",
                "x/a.jsonl",
                "a parquet table, though its name ends in .jsonl",
                "rename it to a.parquet",
            ),
            (
                b"<!DOCTYPE html>\n<html>",
                "a.jsonl",
                "an HTML page",
                "log-in",
            ),
            (b"\n  <HTML lang=en>", "a.parquet", "an HTML page", "log-in"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
                "a.bin",
                "pointer of git LFS",
                "git lfs pull",
            ),
            (b"PK\x03\x04\x14\0", "a.bin", "a zip archive", "unpack"),
            (
                b"\x28\xb5\x2f\xfd",
                "x.jsonl.gz",
                "a zstd file, though its name ends in .gz",
                "rename it to x.jsonl.zst",
            ),
            (
                b"\x1f\x8b\x08\0",
                "real.b.JSONL.BZ2",
                "a gzip file",
                "rename it to real.b.JSONL.gz",
            ),
            (b"\x1f\x8b\x08\0", "a.parquet", "a gzip file", "unpack it"),
            (b"BZh91AY&SY\xff\xfe", "a.bin", "a bzip2 file", "unpack it"),
            (
                b"PAR1\x15\x04",
                "a.json.gz",
                "a parquet table",
                "rename it to a.parquet",
            ),
            (b"ARROW1\0\0", "a.jsonl", "an Arrow table", "to_parquet"),
        ] {
            let error = Kind::of(head).unwrap().refused(Path::new(name), false);
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.hint().unwrap().contains(step), "{error:?}");
        }
        for text in [
            &b"BZh is how bzip2 files begin"[..],
            b"ORCs are many",
            b"<htmlish>",
            b"{\"a\": 1}",
            b"",
        ] {
            assert_eq!(Kind::of(text), None, "{text:?}");
        }
    }

    #[test]
    fn text_in_place_of_binary_data_is_named() {
        for (name, head, words, step) in [
            (
                "a.txt.gz",
                "words",
                "not a thing: plain text",
                "take `.gz` off",
            ),
            ("a.jsonl.ZST", " {\"a\": 1}", "JSON", "take `.ZST` off"),
            (
                "a.jsonl.gz",
                "404: Not Found",
                "plain text",
                "an error message",
            ),
            (
                "a.txt.gz",
                "<?xml version=\"1.0\"?>",
                "XML",
                "an error message",
            ),
            ("a.parquet", "{\"error\": 1}", "JSON", "an error message"),
            ("a.parquet", "<Error><Code>", "XML", "an error message"),
            ("a.parquet", "", "empty", "again"),
        ] {
            let error = no_binary(Path::new(name), "a thing", head.as_bytes()).unwrap();
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.hint().unwrap().contains(step), "{error:?}");
        }
        assert!(no_binary(Path::new("a.gz"), "a thing", b"\x1f\x8b\0").is_none());
    }

    #[test]
    fn other_encodings_than_utf8_are_seen() {
        assert!(no_text(b"\xff\xfea\0b\0").unwrap().0.contains("UTF-16"));
        assert!(no_text(b"\0a\0b\0c").unwrap().0.contains("UTF-16"));
        assert!(
            no_text(b"some words\0 and more of them")
                .unwrap()
                .0
                .contains("zero bytes")
        );
        assert_eq!(no_text(b"text\n\0\0\0\0\0\0\0\0"), None);
        assert_eq!(no_text("größer".as_bytes()), None);
    }
}
