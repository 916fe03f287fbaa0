//! `data prepare`: documents in, shards of token ids out.
//!
//! Reading is sequential and tokenizing parallel: while one batch of text is encoded, the next
//! is read. What is written depends on the inputs, their order and the options alone, so that a
//! preparation that was killed is simply done again and ends with the same bytes.

mod documents;
mod folder;
mod input;
mod json;
mod manifest;
mod parquet;
mod remote;
mod split;
mod text;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use self::documents::{BadDocuments, Documents, Piece};
use self::folder::Folder;
pub use self::input::expand;
pub use self::manifest::{InputRecord, Manifest, ShardRecord};
pub(super) use self::manifest::{UNFINISHED, check_recorded, check_tokenizer, known_sha256};
pub(crate) use self::parquet::{check_codec, guarded, no_table};
use self::split::Chooser;
pub use self::split::ValSize;
use self::writer::Shards;
use super::Tokenizer;
use super::inputs::Split;
use super::words;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::progress::{Meter, Unit};

/// Text that is read before it is encoded.
const BATCH_BYTES: usize = 8 << 20;
/// Text that one thread encodes at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Ids that 16 bits can hold.
const MAX_VOCAB: usize = 1 << 16;

/// What to prepare, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The files, in the order in which their documents count.
    pub inputs: Vec<PathBuf>,
    /// The folder to write; its name begins the names of the shards.
    pub out: PathBuf,
    /// The key or column that holds the text.
    pub field: String,
    /// How much to put aside for validation.
    pub val: ValSize,
    /// Tokens per shard.
    pub shard_tokens: u64,
    /// Decides which documents are for validation.
    pub seed: u64,
    /// Leave out documents that cannot be read, and count them, instead of stopping.
    pub skip_bad: bool,
    /// Replace the folder if it was made from something else.
    pub force: bool,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What is in the folder.
    pub manifest: Manifest,
    /// Whether it was there already, so that nothing was done.
    pub found: bool,
    /// What is to be told of the inputs.
    pub notes: Vec<String>,
}

/// Reads the inputs and writes shards in llm.c's format, then the manifest.
///
/// # Errors
/// The folder holds something else, an input is missing or damaged (the error says where), the
/// vocabulary does not fit 16 bits, the disk is full, or a signal arrived.
pub fn prepare(options: &Options, tokenizer: &Tokenizer) -> Result<Prepared> {
    let vocab_size = tokenizer.vocab_size();
    if vocab_size > MAX_VOCAB {
        return Err(Error::invalid(
            "tokenizer",
            format!(
                "{vocab_size} ids do not fit the 16 bits that llm.c's format has for each: at most {MAX_VOCAB}"
            ),
        ));
    }
    tokenizer.document_start()?;
    options.val.check()?;
    let inputs = input::hash_all(&options.inputs)?;
    let mut manifest = Manifest::planned(options, tokenizer, inputs)?;
    let folder = match Folder::claim(&options.out, &manifest, options.force)? {
        folder::Claim::Finished(manifest) => {
            let manifest = *manifest;
            return Ok(Prepared {
                manifest,
                found: true,
                notes: Vec::new(),
            });
        }
        folder::Claim::Work(folder) => folder,
    };
    match fill(options, tokenizer, &folder, &mut manifest) {
        Ok(mut notes) => {
            notes.extend(input::copies(&manifest.inputs));
            Ok(Prepared {
                manifest,
                found: false,
                notes,
            })
        }
        Err(error) => {
            // What a signal stopped is left to be known as ours; what cannot succeed is not.
            if !matches!(error, Error::Interrupted { .. }) {
                folder.abandon(&manifest);
            }
            Err(error)
        }
    }
}

/// Writes the shards and the manifest. Returns what is to be told of the inputs.
fn fill(
    options: &Options,
    tokenizer: &Tokenizer,
    folder: &Folder,
    manifest: &mut Manifest,
) -> Result<Vec<String>> {
    let (start, end) = (tokenizer.document_start()?, tokenizer.document_end()?);
    // The split of the document under way.
    let mut open = None;
    let chooser = Chooser::new(&options.val, options.seed, || count(options))?;
    let mut shards = Shards::new(folder, manifest);
    let bad = BadDocuments::new(options.skip_bad);
    let mut batches = Batches::open("tokenizing", options, &bad, chooser);
    let mut batch = batches.next()?;
    while !batch.is_empty() {
        interrupt::check("the shards are not complete").map_err(|e| {
            e.with_hint("the same command starts over and ends with the same bytes")
        })?;
        let (ids, next) = rayon::join(|| encode(&batch, tokenizer), || batches.next());
        for ((piece, split), chunks) in batch.iter().zip(ids?) {
            if piece.begins {
                if let Some(before) = open.replace(*split) {
                    shards.push(before, &end)?;
                }
                shards.push(*split, &start)?;
            }
            for ids in chunks {
                shards.push(*split, &ids)?;
            }
        }
        batch = next?;
    }
    if let Some(last) = open {
        shards.push(last, &end)?;
    }
    let [train, val] = batches.counts;
    if train == 0 {
        let names = options.inputs.iter().map(|path| path.display().to_string());
        let at = names.collect::<Vec<_>>().join(", ");
        return Err(Error::invalid(
            at,
            format!("no documents to train on, {val} to validate on"),
        )
        .with_hint("give more text, or put less aside with --val-docs or --val-fraction"));
    }
    manifest.complete([train, val], bad.count(), shards.finish()?);
    input::check_unchanged(&options.inputs, &manifest.inputs)?;
    folder.finish(manifest)?;
    Ok(bad.notes())
}

/// Documents in all, for a choice that needs to know.
fn count(options: &Options) -> Result<u64> {
    let bad = BadDocuments::new(options.skip_bad);
    let meter = Arc::new(meter("counting documents", options));
    let (mut documents, mut count) = (documents::all(options, &bad, &meter), 0);
    while let Some(piece) = documents.next()? {
        interrupt::check("nothing was written")?;
        count += u64::from(piece.begins);
    }
    Ok(count)
}

/// A meter of the bytes of all inputs.
fn meter(label: &str, options: &Options) -> Meter {
    let sizes = options.inputs.iter().map(|path| path.metadata());
    let bytes = sizes.flatten().map(|metadata| metadata.len()).sum();
    Meter::new(label, bytes, Unit::Bytes)
}

/// The token ids of each piece, in the chunks in which they were encoded.
fn encode(batch: &[(Piece, Split)], tokenizer: &Tokenizer) -> Result<Vec<Vec<Vec<u32>>>> {
    batch
        .par_iter()
        .map(|(piece, _)| {
            let chunks = if tokenizer.has_gpt2_words() {
                words::pieces(&piece.text, CHUNK_BYTES)
            } else {
                vec![piece.text.as_str()]
            };
            chunks
                .into_par_iter()
                .map(|chunk| tokenizer.encode_ordinary(chunk))
                .collect()
        })
        .collect()
}

/// Documents, each told which split it belongs to, in batches.
struct Batches<'a> {
    documents: Box<dyn Documents + 'a>,
    chooser: Chooser,
    split: Split,
    /// Documents so far, to train and to validate on.
    counts: [u64; 2],
}

impl<'a> Batches<'a> {
    fn open(label: &str, options: &'a Options, bad: &'a BadDocuments, chooser: Chooser) -> Self {
        let meter = Arc::new(meter(label, options));
        Self {
            documents: documents::all(options, bad, &meter),
            chooser,
            split: Split::Train,
            counts: [0; 2],
        }
    }

    /// The next pieces; none at the end.
    fn next(&mut self) -> Result<Vec<(Piece, Split)>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some(piece) = self.documents.next()?
        {
            if piece.begins {
                self.split = self.chooser.split(self.counts.iter().sum());
                self.counts[usize::from(self.split == Split::Val)] += 1;
            }
            bytes += piece.text.len();
            batch.push((piece, self.split));
        }
        Ok(batch)
    }
}
