//! GPT-2's byte-level BPE, through the tokenizers crate.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::bpe::Bpe;
use super::tokenizer_files::TokenizerFiles;
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
    /// What separates documents.
    end_of_text: Option<u32>,
    /// What a text without context begins with, and its text.
    prefix: Option<(u32, String)>,
    /// What the tokenizer adds in front of a text, and after it.
    added: [Vec<u32>; 2],
    vocab_size: usize,
    /// Rows of the model's embedding.
    limit: usize,
    sha256: String,
    embedded: bool,
    notes: Vec<String>,
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
    /// The tokenizer of a checkpoint folder, as `AutoTokenizer` of transformers 5 makes it of
    /// `tokenizer.json`, or of `vocab.json` with `merges.txt`, and what stands beside them;
    /// GPT-2's own where the folder has no tokenizer file and the vocabulary has room for it.
    ///
    /// The tokenizer may have more entries than the model: an id that is not below `vocab_size`
    /// is an error once a text has it.
    ///
    /// # Errors
    /// There is none, a file is damaged, or of a kind that is not read.
    pub fn for_checkpoint(dir: &Path, vocab_size: usize) -> Result<Self> {
        let tokenizer = match TokenizerFiles::read(dir)? {
            Some(files) => Self::from_files(files)?,
            None if vocab_size >= GPT2_VOCAB => {
                let note = format!("{}: no tokenizer there; GPT-2's own is used", dir.display());
                Self {
                    notes: vec![note],
                    ..Self::gpt2()
                }
            }
            None => {
                return Err(Error::invalid(dir.display(), format!("no tokenizer there, and GPT-2's own needs vocab_size = {GPT2_VOCAB}, not {vocab_size}"))
                    .with_hint("put tokenizer.json, or vocab.json and merges.txt, beside config.json"));
            }
        };
        Ok(Self {
            limit: vocab_size,
            ..tokenizer
        })
    }

    /// The tokenizer of a folder that need not belong to a model.
    ///
    /// # Errors
    /// There is none, a file is damaged, or of a kind that is not read.
    pub fn in_folder(dir: &Path) -> Result<Self> {
        match TokenizerFiles::read(dir)? {
            Some(files) => Self::from_files(files),
            None => Err(Error::invalid(dir.display(), "no tokenizer there")
                .with_hint("expected tokenizer.json, or vocab.json and merges.txt")),
        }
    }

    /// GPT-2's own tokenizer, embedded in the program.
    pub fn gpt2() -> Self {
        static GPT2: LazyLock<Tokenizer> = LazyLock::new(|| {
            let files = TokenizerFiles::from_json(GPT2_TOKENIZER, "the embedded tokenizer");
            Tokenizer {
                embedded: true,
                ..files
                    .and_then(Tokenizer::from_files)
                    .expect("the embedded tokenizer is sound")
            }
        });
        GPT2.clone()
    }

    fn from_files(files: TokenizerFiles) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(&files.bytes).map_err(|e| {
            Error::invalid(
                files.path.display(),
                format!("not a tokenizer: {}", printable(&e.to_string())),
            )
        })?;
        // Settings of somebody's earlier use: they would cut or pad every text here.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        inner.set_encode_special_tokens(files.split_special_tokens);
        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size = largest.map_or(0, |largest| largest as usize + 1);
        let ordinary = match Bpe::from_json(&files.json) {
            Some(quick) => Ordinary::Quick(Arc::new(quick)),
            None => {
                let mut plain = inner.clone();
                plain.set_encode_special_tokens(true);
                Ordinary::Crate(Arc::new(plain))
            }
        };
        let id = |token: &Option<String>| inner.token_to_id(token.as_ref()?);
        let end_of_text = inner.token_to_id(END_OF_TEXT).or_else(|| id(&files.eos));
        let prefix = id(&files.bos).or_else(|| id(&files.eos)).or(end_of_text);
        let mut tokenizer = Self {
            ordinary,
            end_of_text,
            prefix: None,
            added: Default::default(),
            vocab_size,
            limit: usize::MAX,
            sha256: files.sha256,
            embedded: false,
            notes: files.notes,
            inner,
        };
        if let Some(id) = prefix {
            tokenizer.prefix = Some((id, tokenizer.decode(&[id])?));
        }
        tokenizer.added = tokenizer.find_added()?;
        if tokenizer.added.iter().any(|ids| !ids.is_empty()) {
            // Versions that left these out gave other ids under the file's own hash.
            let with = format!("{} adds {:?}", tokenizer.sha256, tokenizer.added);
            tokenizer.sha256 = hex(&Sha256::digest(with));
        }
        Ok(tokenizer)
    }

    /// What the post-processor puts in front of a text and after it.
    fn find_added(&self) -> Result<[Vec<u32>; 2]> {
        let (bare, whole) = (self.ids("a", false)?, self.ids("a", true)?);
        let length = bare.len();
        let at = whole.windows(length.max(1)).position(|ids| ids == bare);
        let Some(at) = at else {
            return Ok(Default::default());
        };
        Ok([whole[..at].to_vec(), whole[at + length..].to_vec()])
    }

    fn ids(&self, text: &str, add: bool) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, add)
            .map_err(|e| Error::invalid("tokenizer", e.to_string()))?;
        self.checked(encoding.get_ids().to_vec(), text)
    }

    /// Refuses ids of `text` that the model has no embedding for.
    fn checked(&self, ids: Vec<u32>, text: &str) -> Result<Vec<u32>> {
        let beyond = |id: &&u32| **id as usize >= self.limit;
        let bad = match self.vocab_size > self.limit {
            true => ids.iter().find(beyond),
            false => None,
        };
        let Some(&id) = bad else { return Ok(ids) };
        let token = self.inner.id_to_token(id).unwrap_or_default();
        let place = match excerpt(text, &token) {
            Some(excerpt) => format!(" in `{}`", printable(&excerpt)),
            None => String::new(),
        };
        let message = format!(
            "the token `{}`{place} has id {id}, and the model vocab_size = {}",
            printable(&token),
            self.limit
        );
        Err(Error::invalid("tokenizer", message)
            .with_hint("leave the token out, unless the tokenizer belongs to another checkpoint"))
    }

    /// Token ids of `text` and nothing more; `<|endoftext|>` in it becomes the special token.
    ///
    /// # Errors
    /// The tokenizer has no ids for some of the text, or the model no embedding for one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, false)
    }

    /// Token ids of `text` with what the tokenizer adds to it, as lm-evaluation-harness encodes
    /// (`HFLM.tok_encode`, 0.4.13): a text that begins with the first token's text gets nothing.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_added(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, !self.begins_with_prefix(text))
    }

    /// Token ids of a text that is to be continued: what the tokenizer adds in front of it is
    /// there, what it adds after a text is not.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode(text)?;
        if self.begins_with_prefix(text) {
            return Ok(ids);
        }
        self.checked([&self.added[0][..], &ids].concat(), "")
    }

    fn begins_with_prefix(&self, text: &str) -> bool {
        let prefix = self.prefix.as_ref();
        prefix.is_some_and(|(_, prefix)| text.starts_with(prefix))
    }

    /// What stands before a document in a stream of them: the token that separates them, and
    /// what else the tokenizer adds in front of a text.
    ///
    /// # Errors
    /// There is no token to separate documents.
    pub fn document_start(&self) -> Result<Vec<u32>> {
        let end_of_text = self.end_of_text()?;
        let front = &self.added[0];
        let front = front.strip_prefix(&[end_of_text]).unwrap_or(front);
        self.checked([&[end_of_text], front].concat(), "")
    }

    /// What stands after a document in a stream of them: what the tokenizer adds after a text,
    /// without the token that separates documents, which the next one brings.
    ///
    /// # Errors
    /// As [`Self::document_start`].
    pub fn document_end(&self) -> Result<Vec<u32>> {
        let end_of_text = self.end_of_text()?;
        let back = &self.added[1];
        let back = back.strip_suffix(&[end_of_text]).unwrap_or(back);
        self.checked(back.to_vec(), "")
    }

    /// Whether an id is no text, but something that the tokenizer adds to every text.
    pub fn is_added(&self, id: u32) -> bool {
        self.added.iter().any(|ids| ids.contains(&id))
    }

    /// What a continuation without context is scored after: the token that begins a text, or
    /// where there is none, the one that ends it.
    ///
    /// # Errors
    /// The tokenizer has neither, or the model no embedding for it.
    pub fn prefix(&self) -> Result<u32> {
        match &self.prefix {
            Some((id, _)) => Ok(self.checked(vec![*id], "")?[0]),
            None => self.end_of_text(),
        }
    }

    /// What the user should know of the files that the tokenizer was read from.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// One more than the largest id that the model can read and the tokenizer has.
    pub fn readable(&self) -> usize {
        self.vocab_size.min(self.limit)
    }

    /// Token ids of `text`, in which no special token is seen: what is written as one is text.
    ///
    /// # Errors
    /// The tokenizer has no ids for some of the text.
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>> {
        let plain = match &self.ordinary {
            Ordinary::Quick(quick) => return self.checked(quick.encode(text), text),
            Ordinary::Crate(plain) => plain,
        };
        let encoding = plain
            .encode_fast(text, false)
            .map_err(|e| Error::invalid("tokenizer", e.to_string()))?;
        self.checked(encoding.get_ids().to_vec(), text)
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

    /// Text that `ids` add to that of `before`. Alone they can decode to another one: where a space
    /// is a part of tokens, many tokenizers leave out the one that a text begins with.
    ///
    /// # Errors
    /// An id is not decoded.
    pub fn decode_after(&self, before: &[u32], ids: &[u32]) -> Result<String> {
        let whole = self.decode(&[before, ids].concat())?;
        match whole.strip_prefix(&self.decode(before)?) {
            Some(added) => Ok(added.to_owned()),
            None => self.decode(ids),
        }
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

    /// Id of `<|endoftext|>`, or where the vocabulary has none, of the token that ends a text.
    ///
    /// # Errors
    /// There is neither, so that documents cannot be told apart, or the model has no embedding
    /// for it.
    pub fn end_of_text(&self) -> Result<u32> {
        match self.end_of_text {
            Some(id) => Ok(self.checked(vec![id], "")?[0]),
            None => Err(Error::invalid(
                "tokenizer",
                format!("the vocabulary has no {END_OF_TEXT}"),
            )
            .with_hint("let tokenizer_config.json name an eos_token")),
        }
    }

    /// SHA-256 in hex of the tokenizer's file, or where other files change what it does, of what
    /// they make together.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// Some of `text` from a little before `token` on, or from its start where that is not in it;
/// nothing of an empty text.
fn excerpt(text: &str, token: &str) -> Option<String> {
    let at = text.find(token).unwrap_or(0);
    let before = text[..at].char_indices().rev().take(20).last();
    let start = before.map_or(at, |(start, _)| start);
    let some: String = text[start..].chars().take(60).collect();
    (!some.is_empty()).then_some(some)
}
