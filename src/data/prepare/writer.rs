//! Shards in llm.c's format, each published whole.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

use tempfile::NamedTempFile;

use super::folder::Folder;
use super::manifest::{Manifest, ShardRecord};
use crate::data::inputs::Split;
use crate::data::shard::{LLMC_HEADER, LLMC_MAGIC, LLMC_VERSION, Shard};
use crate::durable;
use crate::error::{Error, Result};

/// Size of a shard of so many tokens.
pub(super) fn bytes_of(tokens: u64) -> u64 {
    LLMC_HEADER as u64 + 2 * tokens
}

/// The shards of both splits.
pub(super) struct Shards<'a> {
    train: Series<'a>,
    val: Series<'a>,
}

impl<'a> Shards<'a> {
    pub fn new(folder: &'a Folder, manifest: &Manifest) -> Self {
        // Numbered as build-nanogpt's, whose shard 0 is for validation.
        let series = |split, number| Series {
            folder,
            prefix: format!("{}_{}", manifest.name, Split::name(split)),
            number,
            limit: manifest.shard_tokens,
            vocab_size: manifest.vocab_size,
            open: None,
            done: Vec::new(),
        };
        Self {
            train: series(Split::Train, 1),
            val: series(Split::Val, 0),
        }
    }

    /// Appends ids to a split.
    pub fn push(&mut self, split: Split, ids: &[u32]) -> Result<()> {
        match split {
            Split::Train => self.train.push(ids),
            Split::Val => self.val.push(ids),
        }
    }

    /// Publishes the last shards, and says what there is.
    pub fn finish(mut self) -> Result<Vec<ShardRecord>> {
        self.train.publish()?;
        self.val.publish()?;
        Ok([self.train.done, self.val.done].concat())
    }
}

/// The shards of one split.
struct Series<'a> {
    folder: &'a Folder,
    prefix: String,
    number: u32,
    limit: u64,
    vocab_size: usize,
    open: Option<Open>,
    done: Vec<ShardRecord>,
}

/// A shard under construction.
struct Open {
    temp: NamedTempFile,
    out: BufWriter<File>,
    tokens: u64,
}

impl Series<'_> {
    fn push(&mut self, mut ids: &[u32]) -> Result<()> {
        while !ids.is_empty() {
            let failed = Error::io("write a shard in", self.folder.path());
            let open = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(Open::new(self.folder)?),
            };
            let room = usize::try_from(self.limit - open.tokens).unwrap_or(usize::MAX);
            let (now, later) = ids.split_at(ids.len().min(room));
            // Ids are below 2^16, the vocabulary was checked.
            let bytes: Vec<u8> = now
                .iter()
                .flat_map(|&id| (id as u16).to_le_bytes())
                .collect();
            open.out.write_all(&bytes).map_err(failed)?;
            open.tokens += now.len() as u64;
            if open.tokens == self.limit {
                self.publish()?;
            }
            ids = later;
        }
        Ok(())
    }

    /// Gives the shard under construction its header and its name.
    fn publish(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let name = format!("{}_{:06}.bin", self.prefix, self.number);
        self.number += 1;
        let (path, tokens) = (self.folder.file(&name), open.tokens);
        let temp = open.close().map_err(Error::io("write", &path))?;
        // Read back, which both hashes it and finds what went wrong on the way.
        let sha256 = Shard::open(temp.path())?.verify(self.vocab_size, &|_| {})?;
        durable::publish_file(temp, &path)?;
        self.done.push(ShardRecord {
            name,
            tokens,
            sha256,
        });
        Ok(())
    }
}

impl Open {
    fn new(folder: &Folder) -> Result<Self> {
        let temp = durable::temporary_file(folder.path())?;
        let at = || Error::io("write a shard in", folder.path());
        let mut out = BufWriter::with_capacity(1 << 20, temp.as_file().try_clone().map_err(at())?);
        out.write_all(&[0; LLMC_HEADER]).map_err(at())?;
        Ok(Self {
            temp,
            out,
            tokens: 0,
        })
    }

    /// Writes the header, now that the count is known.
    fn close(self) -> std::io::Result<NamedTempFile> {
        let file = self.out.into_inner().map_err(|e| e.into_error())?;
        let count = i32::try_from(self.tokens).expect("--shard-tokens is below 2^31");
        let header = [LLMC_MAGIC, LLMC_VERSION, count].map(i32::to_le_bytes);
        file.write_all_at(header.as_flattened(), 0)?;
        Ok(self.temp)
    }
}
