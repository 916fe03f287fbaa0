//! GPT-2's byte-level BPE, through the tokenizers crate.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::bpe::Bpe;
use crate::checkpoint::hex;
use crate::error::{Error, Result, printable};

/// The token between documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Entries of GPT-2's own vocabulary.
pub const GPT2_VOCAB: usize = 50257;
static GPT2_TOKENIZER: &[u8] = include_bytes!("gpt2/tokenizer.json");

/// A tokenizer and its identity.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    ordinary: Ordinary,
    end_of_text: Option<u32>,
    vocab_size: usize,
    sha256: String,
    embedded: bool,
}

/// How text without special tokens is encoded.
#[derive(Clone, Debug)]
enum Ordinary {
    /// The quick way, where the tokenizer is of the kind that has one.
    Quick(Arc<Bpe>),
    /// A tokenizer that sees no special tokens.
    Crate(Arc<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// The tokenizer of a checkpoint folder: `tokenizer.json`, else `vocab.json` with
    /// `merges.txt`, else GPT-2's own if the vocabulary has room for it.
    ///
    /// # Errors
    /// There is none, a file is damaged, or ids exceed `vocab_size`.
    pub fn for_checkpoint(dir: &Path, vocab_size: usize) -> Result<Self> {
        let (json, vocab) = (dir.join("tokenizer.json"), dir.join("vocab.json"));
        let tokenizer = if json.is_file() {
            Self::from_json(&read(&json)?, &json)?
        } else if vocab.is_file() {
            Self::from_vocab_and_merges(&vocab, &dir.join("merges.txt"))?
        } else if vocab_size >= GPT2_VOCAB {
            Self::gpt2()
        } else {
            return Err(Error::invalid(dir.display(), format!("no tokenizer there, and GPT-2's own needs vocab_size = {GPT2_VOCAB}, not {vocab_size}"))
                .with_hint("put tokenizer.json, or vocab.json and merges.txt, beside config.json"));
        };
        let largest = tokenizer.vocab_size().saturating_sub(1);
        if largest >= vocab_size {
            return Err(Error::invalid(dir.display(), format!("the tokenizer has ids up to {largest}, config.json says vocab_size = {vocab_size}"))
                .with_hint("the tokenizer belongs to another checkpoint"));
        }
        Ok(tokenizer)
    }

    /// Whether [`Self::for_checkpoint`] would find one.
    pub fn exists_for(dir: &Path, vocab_size: usize) -> bool {
        vocab_size >= GPT2_VOCAB
            || ["tokenizer.json", "vocab.json"]
                .iter()
                .any(|name| dir.join(name).is_file())
    }

    /// GPT-2's own tokenizer, embedded in the program.
    pub fn gpt2() -> Self {
        static GPT2: LazyLock<Tokenizer> = LazyLock::new(|| {
            let read = Tokenizer::from_json(GPT2_TOKENIZER, Path::new("the embedded tokenizer"));
            Tokenizer {
                embedded: true,
                ..read.expect("the embedded tokenizer is sound")
            }
        });
        GPT2.clone()
    }

    fn from_json(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| {
            Error::invalid(
                path.display(),
                format!("not a tokenizer: {}", printable(&e.to_string())),
            )
        })?;
        // Settings of somebody's earlier use: they would cut or pad every text here.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        let end_of_text = inner.token_to_id(END_OF_TEXT);
        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size = largest.map_or(0, |largest| largest as usize + 1);
        let json: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
        let ordinary = match json.as_ref().and_then(Bpe::from_json) {
            Some(quick) => Ordinary::Quick(Arc::new(quick)),
            None => {
                let mut plain = inner.clone();
                plain.set_encode_special_tokens(true);
                Ordinary::Crate(Arc::new(plain))
            }
        };
        Ok(Self {
            inner,
            ordinary,
            end_of_text,
            vocab_size,
            sha256: hex(&Sha256::digest(bytes)),
            embedded: false,
        })
    }

    /// Assembles the same pipeline that `GPT2TokenizerFast` builds from the two old files.
    fn from_vocab_and_merges(vocab_path: &Path, merges_path: &Path) -> Result<Self> {
        let invalid = |path: &Path, message: String| Error::invalid(path.display(), message);
        let vocab: serde_json::Value = serde_json::from_slice(&read(vocab_path)?)
            .map_err(|e| invalid(vocab_path, format!("not valid JSON: {e}")))?;
        let text = String::from_utf8(read(merges_path)?)
            .map_err(|e| invalid(merges_path, format!("not UTF-8: {e}")))?;
        let merges: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("#version") && !line.is_empty())
            .collect();
        let end_of_text = vocab
            .get(END_OF_TEXT)
            .cloned()
            .ok_or_else(|| invalid(vocab_path, format!("the vocabulary has no {END_OF_TEXT}")))?;
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let pipeline = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [{
                "id": end_of_text, "content": END_OF_TEXT, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": true,
            }],
            "normalizer": null,
            "pre_tokenizer": byte_level,
            "post_processor": byte_level,
            "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
                "vocab": vocab, "merges": merges,
            },
        });
        Self::from_json(
            &serde_json::to_vec(&pipeline).expect("JSON serializes"),
            vocab_path,
        )
    }

    /// Token ids of `text`; `<|endoftext|>` in it becomes the special token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| Error::invalid("tokenizer", e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of `text`, in which no special token is seen: what is written as one is text.
    ///
    /// # Errors
    /// The tokenizer has no ids for some of the text.
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>> {
        let plain = match &self.ordinary {
            Ordinary::Quick(quick) => return Ok(quick.encode(text)),
            Ordinary::Crate(plain) => plain,
        };
        let encoding = plain
            .encode_fast(text, false)
            .map_err(|e| Error::invalid("tokenizer", e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether text falls into words as GPT-2's does, so that it can be encoded piece by piece.
    pub fn has_gpt2_words(&self) -> bool {
        matches!(self.ordinary, Ordinary::Quick(_))
    }

    /// Bytes of text that an id stands for, if it is not a special token; nothing where the
    /// tokenizer is not of GPT-2's kind.
    pub fn byte_len(&self, id: u32) -> Option<u64> {
        if !self.has_gpt2_words() {
            return None;
        }
        // Each character of such a token is the name of a byte.
        Some(self.inner.id_to_token(id)?.chars().count() as u64)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Text of token ids, special tokens included; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, false)
            .map_err(|e| Error::invalid("tokenizer", e.to_string()))
    }

    /// Files to write beside a checkpoint that has none of its own.
    pub fn embedded_files(&self) -> Vec<(&'static str, Vec<u8>)> {
        if !self.embedded {
            return Vec::new();
        }
        let config = json!({ "tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024, "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT });
        let config = serde_json::to_vec_pretty(&config).expect("JSON serializes");
        vec![
            ("tokenizer.json", GPT2_TOKENIZER.to_vec()),
            ("tokenizer_config.json", config),
        ]
    }

    /// Id of `<|endoftext|>`.
    ///
    /// # Errors
    /// The vocabulary has none: documents cannot be told apart.
    pub fn end_of_text(&self) -> Result<u32> {
        self.end_of_text.ok_or_else(|| {
            Error::invalid("tokenizer", format!("the vocabulary has no {END_OF_TEXT}"))
        })
    }

    /// SHA-256 of the tokenizer file, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::io("read", path))
}
