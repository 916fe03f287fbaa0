//! A stream of token ids with random access: tokenized text in memory, or shards on disk.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::inputs::{Inputs, Split};
use super::listing::note_once;
use super::magic::{HEAD, Kind, no_text};
use super::prepare::{check_recorded, check_tokenizer, known_sha256};
use super::records::padding_note;
use super::shard::Shard;
use super::tokenizer::{END_OF_TEXT, Tokenizer};
use crate::checkpoint::hex;
use crate::error::{Error, Result, counted, read_text};
use crate::progress::{Meter, Unit};

/// Token ids of a set of documents, each preceded by `<|endoftext|>` and whatever else the
/// tokenizer puts in front of a text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokens {
    store: Store,
    sha256: String,
}

#[derive(Clone, Debug)]
enum Store {
    Memory(Arc<[u32]>),
    Shards(Arc<Shards>),
}

/// Shards one after the other.
#[derive(Debug)]
struct Shards {
    files: Vec<Shard>,
    /// Tokens up to the end of each.
    ends: Vec<u64>,
    vocab_size: usize,
}

impl Tokens {
    /// Opens text files, shards, folders and globs, see [`Inputs::find`]. Text is encoded
    /// into memory; shards are read through once, for their hash and to check every id,
    /// unless a manifest beside them has both.
    ///
    /// # Errors
    /// Something is missing or damaged, text and shards are mixed, shards were made for another
    /// vocabulary, an id is not below
    /// `vocab_size`, or a signal arrived.
    pub fn open(
        paths: &[PathBuf],
        split: Split,
        tokenizer: &Tokenizer,
        vocab_size: usize,
    ) -> Result<Self> {
        match Inputs::find(paths, split)? {
            Inputs::Text(files) => Self::from_files(&files, tokenizer),
            Inputs::Shards(files) => {
                check_tokenizer(&files, tokenizer)?;
                Self::from_shards(&files, vocab_size)
            }
        }
    }

    /// Reads and encodes text files. `<|endoftext|>` separates documents.
    ///
    /// # Errors
    /// A file is missing, or not UTF-8 (the error gives the byte), or there is no text at all.
    pub fn from_files(paths: &[PathBuf], tokenizer: &Tokenizer) -> Result<Self> {
        let texts = paths
            .iter()
            .map(|path| text_of(path))
            .collect::<Result<Vec<_>>>()?;
        let documents: Vec<&str> = texts.iter().flat_map(|text| documents(text)).collect();
        if documents.is_empty() {
            let names: Vec<String> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            return Err(Error::invalid(names.join(", "), "no text there"));
        }
        let (start, end) = (tokenizer.document_start()?, tokenizer.document_end()?);
        let encoded = documents
            .par_iter()
            .map(|document| tokenizer.encode_ordinary(document))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self::from_ids(
            encoded
                .into_iter()
                .flat_map(|ids| [&start[..], &ids, &end].concat())
                .collect(),
        ))
    }

    /// Ids in memory; their SHA-256 is taken over little-endian u32.
    pub fn from_ids(ids: Vec<u32>) -> Self {
        let mut hasher = Sha256::new();
        ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        Self {
            store: Store::Memory(ids.into()),
            sha256: hex(&hasher.finalize()),
        }
    }

    /// Shards in the order given; the SHA-256 is taken over those of the files.
    ///
    /// # Errors
    /// A file is missing or damaged, or has an id that is not below `vocab_size`.
    pub fn from_shards(paths: &[PathBuf], vocab_size: usize) -> Result<Self> {
        let files = paths
            .iter()
            .map(|path| Shard::open(path))
            .collect::<Result<Vec<_>>>()?;
        let ends: Vec<u64> = files
            .iter()
            .scan(0, |end, shard| {
                *end += shard.len();
                Some(*end)
            })
            .collect();
        let meter = Meter::new(
            "checking shards",
            files.iter().map(Shard::bytes).sum(),
            Unit::Bytes,
        );
        let hashes = files
            .par_iter()
            .map(|shard| {
                if let Some(known) = known_sha256(shard.path(), shard.len(), vocab_size) {
                    return Ok(known);
                }
                let sha256 = shard.verify(vocab_size, &|bytes| meter.advance(bytes))?;
                check_recorded(shard.path(), &sha256)?;
                Ok(sha256)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            sha256: hex(&Sha256::digest(hashes.join("\n"))),
            store: Store::Shards(Arc::new(Shards {
                files,
                ends,
                vocab_size,
            })),
        })
    }

    /// Tokens in all.
    pub fn len(&self) -> u64 {
        match &self.store {
            Store::Memory(ids) => ids.len() as u64,
            Store::Shards(shards) => shards.ends.last().copied().unwrap_or(0),
        }
    }

    /// Whole windows of `context` tokens side by side; the last token is only ever a target.
    ///
    /// # Errors
    /// There is none; the error says so of `what`.
    pub fn windows(&self, what: &str, context: usize) -> Result<u64> {
        let (found, needed) = (self.len(), context + 1);
        if found < needed as u64 {
            let message = format!(
                "{} fewer than context + 1 = {needed}",
                counted(found, "token is", "tokens are")
            );
            return Err(Error::invalid(what, message));
        }
        Ok((found - 1) / context as u64)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What identifies the stream, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// `count` ids from number `start`.
    ///
    /// # Errors
    /// A shard cannot be read, or changed since it was opened.
    ///
    /// # Panics
    /// The range is not within [`Self::len`].
    pub fn read(&self, start: u64, count: usize) -> Result<Vec<u32>> {
        assert!(
            start + count as u64 <= self.len(),
            "tokens {start} to {} of {}",
            start + count as u64,
            self.len()
        );
        match &self.store {
            Store::Memory(ids) => {
                let start = usize::try_from(start).expect("within memory");
                Ok(ids[start..start + count].to_vec())
            }
            Store::Shards(shards) => shards.read(start, count),
        }
    }
}

impl Shards {
    fn read(&self, mut start: u64, count: usize) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(count);
        let mut at = self.ends.partition_point(|&end| end <= start);
        while ids.len() < count {
            let (shard, end) = (&self.files[at], self.ends[at]);
            let left = usize::try_from(end - start).unwrap_or(usize::MAX);
            let piece = left.min(count - ids.len());
            let within = start - (end - shard.len());
            shard.read(within, piece, self.vocab_size, &mut ids)?;
            start += piece as u64;
            at += 1;
        }
        Ok(ids)
    }
}

/// The text of a file, without zeros at its end.
fn text_of(path: &Path) -> Result<String> {
    let mut head = Vec::with_capacity(HEAD);
    // Where this read fails, the next one tells.
    let _ = File::open(path).and_then(|file| file.take(HEAD as u64).read_to_end(&mut head));
    if let Some(kind) = Kind::of(&head) {
        return Err(kind.refused_in_training(path));
    }
    if let Some((message, hint)) = no_text(&head) {
        return Err(Error::invalid(path.display(), message).with_hint(hint));
    }
    let mut text = read_text(path)?;
    let length = text.trim_end_matches('\0').len();
    if length < text.len() {
        note_once(&padding_note(path, (text.len() - length) as u64));
        text.truncate(length);
    }
    Ok(text)
}

/// The pieces between separators, without surrounding white space; empty ones dropped.
fn documents(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.split(END_OF_TEXT)
        .map(str::trim)
        .filter(|document| !document.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_separated_by_the_special_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(
            &path,
            "\u{feff}Hello\n<|endoftext|>\nworld\n<|endoftext|>\n",
        )
        .unwrap();
        let tokens = Tokens::from_files(&[path], &Tokenizer::gpt2()).unwrap();
        assert_eq!(tokens.read(0, 4).unwrap(), [50256, 15496, 50256, 6894]);
        assert_eq!(tokens.len(), 4);
    }

    #[test]
    fn text_that_is_not_utf8_is_located() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, b"abc\xff").unwrap();
        let error = Tokens::from_files(&[path], &Tokenizer::gpt2()).unwrap_err();
        assert!(error.to_string().contains("byte 3"), "{error}");
    }

    fn u16s(ids: std::ops::Range<u16>) -> Vec<u8> {
        ids.flat_map(u16::to_le_bytes).collect()
    }

    fn llmc(magic: i32, version: i32, count: i32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        for (at, number) in [magic, version, count].into_iter().enumerate() {
            bytes[4 * at..4 * at + 4].copy_from_slice(&number.to_le_bytes());
        }
        [&bytes, body].concat()
    }

    fn npy(descr: &str, count: usize, body: &[u8]) -> Vec<u8> {
        let dict =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({count},), }}\n");
        let length = (dict.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], dict.as_bytes(), body].concat()
    }

    /// Writes files and opens them in the order given.
    fn open(files: &[(&str, Vec<u8>)], vocab_size: usize) -> Result<Tokens> {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = files
            .iter()
            .map(|(name, bytes)| {
                let path = dir.path().join(name);
                std::fs::write(&path, bytes).unwrap();
                path
            })
            .collect();
        Tokens::from_shards(&paths, vocab_size)
    }

    #[test]
    fn shards_of_every_format_are_one_stream() {
        let wide: Vec<u8> = (300..500_i64).flat_map(i64::to_le_bytes).collect();
        let four: Vec<u8> = (500..510_u32).flat_map(u32::to_le_bytes).collect();
        let tokens = open(
            &[
                ("a.bin", llmc(20_240_520, 1, 100, &u16s(0..100))),
                ("b.bin", u16s(100..200)),
                ("c.npy", npy("<u2", 100, &u16s(200..300))),
                ("d.npy", npy("<i8", 200, &wide)),
                ("e.npy", npy("<u4", 10, &four)),
            ],
            510,
        )
        .unwrap();
        assert_eq!(tokens.len(), 510);
        for (start, count) in [(0, 510), (99, 2), (100, 100), (150, 351), (509, 1), (3, 0)] {
            let expected: Vec<u32> = (start..start + count).collect();
            let found = tokens.read(u64::from(start), count as usize).unwrap();
            assert_eq!(found, expected, "{start} {count}");
        }
    }

    #[test]
    fn damaged_shards_are_refused_with_the_reason() {
        let refused = |name: &str, bytes: Vec<u8>, word: &str| {
            let error = open(&[(name, bytes)], 100).unwrap_err();
            let text = format!("{error} {}", error.hint().unwrap_or_default());
            assert!(text.contains(word) && text.contains(name), "{text}");
        };
        let body = u16s(0..100);
        refused("a.bin", vec![], "no tokens there");
        refused("a.bin", body[..7].to_vec(), "7 bytes are no whole number");
        refused(
            "a.bin",
            llmc(20_240_520, 2, 100, &body),
            "version 2, expected 1",
        );
        refused("a.bin", llmc(20_240_801, 7, 100, &body), "Llama 3");
        refused("a.bin", llmc(20_240_520, 1, 101, &body), "truncated");
        refused("a.bin", llmc(20_240_520, 1, 99, &body), "trailing");
        refused("a.bin", llmc(20_240_520, 1, -1, &body), "-1 tokens");
        refused("a.bin", llmc(20_240_520, 1, 0, &[]), "no tokens there");
        refused(
            "a.bin",
            llmc(20_240_520, 1, 100, &[])[..500].to_vec(),
            "too few",
        );
        refused("a.npy", npy("<u2", 99, &body), "trailing");
        refused("a.npy", npy("<f8", 25, &body), "`<f8`");
        refused(
            "a.bin",
            u16s(50..101),
            "token 50 is 100, ids below vocab_size = 100",
        );
        refused(
            "a.bin",
            llmc(20_240_520, 1, 51, &u16s(50..101)),
            "token 50 is 100",
        );
        refused("a.npy", npy("<i2", 1, &[255, 255]), "token 0 is -1");
    }
}
