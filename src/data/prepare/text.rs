//! Plain text with `<|endoftext|>` between documents.

use std::io::{BufRead, ErrorKind, Read};
use std::path::Path;

use memchr::memmem;

use super::documents::{BadDocuments, Documents, MAX_LINE, Piece};
use crate::data::format::Compression;
use crate::data::magic;
use crate::data::source::Source;
use crate::data::tokenizer::END_OF_TEXT;
use crate::data::words::last_cut;
use crate::error::{Error, Result};

/// Bytes read at a time.
const READ: usize = 1 << 20;
/// A document longer than this comes in pieces.
const PIECE: usize = 4 << 20;
/// What some programs begin a file with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The documents of a text file, without surrounding white space.
pub(super) struct TextFile<'a> {
    input: Source,
    bad: &'a BadDocuments,
    /// Bytes that were read and not yet given out.
    buffer: Vec<u8>,
    /// The place of the first of them in the file.
    offset: u64,
    /// How many of them hold no separator.
    searched: usize,
    ended: bool,
    /// Whether a piece of the document under way was given out.
    begun: bool,
}

impl<'a> TextFile<'a> {
    /// Opens a file; `advance` is told of bytes on disk.
    ///
    /// # Errors
    /// It cannot be opened, or is something else than text.
    pub fn open(
        path: &Path,
        compression: Compression,
        advance: impl Fn(u64) + Send + 'static,
        bad: &'a BadDocuments,
    ) -> Result<Self> {
        let mut input = Source::open(path, compression, advance)?;
        // A read that fails here fails again below, where it is told.
        if let Some((message, hint)) = magic::no_text(input.fill_buf().unwrap_or_default()) {
            return Err(Error::invalid(path.display(), message).with_hint(hint));
        }
        Ok(Self {
            input,
            bad,
            buffer: Vec::new(),
            offset: 0,
            searched: 0,
            ended: false,
            begun: false,
        })
    }

    fn fill(&mut self) -> Result<()> {
        let length = self.buffer.len();
        self.buffer.resize(length + READ, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[length..]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let read = read.map_err(|e| {
            let place = format!(" byte {}", self.offset + length as u64);
            self.input.failed(&place, e)
        })?;
        self.buffer.truncate(length + read);
        self.ended = read == 0;
        Ok(())
    }

    /// Takes `length` bytes as a piece, and `separator` bytes after them away; `last` if the
    /// document ends there. None if nothing is left without white space, or it was bad.
    fn take(&mut self, length: usize, separator: usize, last: bool) -> Result<Option<Piece>> {
        let rest = self.buffer.split_off(length + separator);
        let mut bytes = std::mem::replace(&mut self.buffer, rest);
        bytes.truncate(length);
        if self.ended && self.buffer.is_empty() {
            let text = bytes
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |last| last + 1);
            self.bad
                .padded(self.input.path(), (bytes.len() - text) as u64);
            bytes.truncate(text);
        }
        let offset = self.offset;
        self.offset += (length + separator) as u64;
        self.searched = 0;
        if offset == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        let begins = !self.begun;
        self.begun = !last;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => {
                let at = offset + e.utf8_error().valid_up_to() as u64;
                let path = self.input.path().display();
                self.bad.meet(
                    Error::invalid(path, format!("not UTF-8 at byte {at}")).with_hint(
                        "convert the file, for example with iconv -t UTF-8, or use --skip-bad",
                    ),
                )?;
                self.begun &= !begins;
                return Ok(None);
            }
        };
        let text = if begins { text.trim_start() } else { &text };
        let text = if last { text.trim_end() } else { text };
        Ok((!text.is_empty()).then(|| Piece {
            text: text.to_owned(),
            begins,
        }))
    }

    /// Where the document under way can be cut; none if more must be read to know.
    fn cut(&self) -> Result<Option<usize>> {
        if self.buffer.len() < PIECE {
            return Ok(None);
        }
        let valid = match std::str::from_utf8(&self.buffer) {
            Ok(text) => text,
            Err(e) => {
                let valid = &self.buffer[..e.valid_up_to()];
                let valid = std::str::from_utf8(valid).unwrap_or_default();
                if e.error_len().is_some() && last_cut(valid).is_none() {
                    // The bad bytes are met when this is given out.
                    return Ok(Some(self.buffer.len()));
                }
                valid
            }
        };
        match last_cut(valid) {
            None if self.buffer.len() > MAX_LINE => Err(Error::invalid(
                format!("{}: byte {}", self.input.path().display(), self.offset),
                format!("{} MiB without white space to cut at", MAX_LINE >> 20),
            )
            .with_hint("it does not look like text")),
            cut => Ok(cut),
        }
    }
}

impl Documents for TextFile<'_> {
    fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            let separator = END_OF_TEXT.len();
            // A separator may have been cut in two by the end of what was read.
            let from = self.searched.saturating_sub(separator - 1);
            let found = memmem::find(&self.buffer[from..], END_OF_TEXT.as_bytes());
            self.searched = self.buffer.len();
            let piece = if let Some(at) = found {
                self.take(from + at, separator, true)?
            } else if self.ended {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                self.take(self.buffer.len(), 0, true)?
            } else if let Some(cut) = self.cut()? {
                self.take(cut, 0, false)?
            } else {
                self.fill()?;
                continue;
            };
            if piece.is_some() {
                return Ok(piece);
            }
        }
    }
}
