//! Text files as one stream of token ids.

use std::path::PathBuf;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::tokenizer::{END_OF_TEXT, Tokenizer};
use crate::checkpoint::hex;
use crate::error::{Error, Result, read_text};

/// Token ids of a set of documents.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The ids: every document is preceded by `<|endoftext|>`.
    pub ids: Vec<u32>,
    /// SHA-256 over the ids as little-endian u32, in hex.
    pub sha256: String,
}

impl Tokens {
    /// Reads and encodes text files. A line `<|endoftext|>` separates documents.
    ///
    /// # Errors
    /// A file is missing, or not UTF-8 (the error gives the byte), or there is no text at all.
    pub fn from_files(paths: &[PathBuf], tokenizer: &Tokenizer) -> Result<Self> {
        let texts = paths
            .iter()
            .map(|path| read_text(path))
            .collect::<Result<Vec<_>>>()?;
        let documents: Vec<&str> = texts.iter().flat_map(|text| documents(text)).collect();
        if documents.is_empty() {
            let names: Vec<String> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            return Err(Error::invalid(names.join(", "), "no text there"));
        }
        let end_of_text = tokenizer.end_of_text()?;
        let encoded = documents
            .par_iter()
            .map(|document| tokenizer.encode(document))
            .collect::<Result<Vec<_>>>()?;
        let ids: Vec<u32> = encoded
            .into_iter()
            .flat_map(|ids| std::iter::once(end_of_text).chain(ids))
            .collect();
        let mut hasher = Sha256::new();
        ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
        Ok(Self {
            ids,
            sha256: hex(&hasher.finalize()),
        })
    }
}

/// The pieces between separator lines, without surrounding white space; empty ones dropped.
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
        assert_eq!(tokens.ids, [50256, 15496, 50256, 6894]);
    }

    #[test]
    fn text_that_is_not_utf8_is_located() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, b"abc\xff").unwrap();
        let error = Tokens::from_files(&[path], &Tokenizer::gpt2()).unwrap_err();
        assert!(error.to_string().contains("byte 3"), "{error}");
    }
}
