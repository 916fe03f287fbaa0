//! Documents one after the other, whatever files they are in.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::Options;
use super::json::JsonTexts;
use super::parquet::ParquetColumn;
use super::text::TextFile;
use crate::data::format::Format;
use crate::data::records::{Records, padding_note};
use crate::error::{Error, Result};
use crate::progress::Meter;

/// Longest line, and longest stretch of a document without a place to cut it.
pub(super) const MAX_LINE: usize = 64 << 20;

/// A document, or a part of one that is too long to be held.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its text, never empty.
    pub text: String,
    /// Whether it is the first of its document.
    pub begins: bool,
}

impl Piece {
    /// A whole document, unless there is nothing in it.
    pub fn whole(text: String) -> Option<Self> {
        (!text.trim().is_empty()).then_some(Self { text, begins: true })
    }
}

/// A source of documents.
pub(super) trait Documents: Send {
    /// The next piece; none at the end.
    fn next(&mut self) -> Result<Option<Piece>>;
}

/// What to do with documents that cannot be read.
#[derive(Debug)]
pub(super) struct BadDocuments {
    skip: bool,
    count: AtomicU64,
    notes: Mutex<Vec<String>>,
}

impl BadDocuments {
    pub fn new(skip: bool) -> Self {
        Self {
            skip,
            count: AtomicU64::new(0),
            notes: Mutex::new(Vec::new()),
        }
    }

    /// Counts the document, or fails with what is wrong with it.
    pub fn meet(&self, error: Error) -> Result<()> {
        if !self.skip {
            return Err(error);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps in mind that a file ends with zeros, which were passed over.
    pub fn padded(&self, path: &Path, zeros: u64) {
        if zeros > 0
            && let Ok(mut notes) = self.notes.lock()
        {
            notes.push(padding_note(path, zeros));
        }
    }

    /// What is to be told of the files.
    pub fn notes(&self) -> Vec<String> {
        self.notes
            .lock()
            .map(|notes| notes.clone())
            .unwrap_or_default()
    }

    /// How many were left out.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// The documents of all inputs; each file is opened when its turn comes.
pub(super) fn all<'a>(
    options: &'a Options,
    bad: &'a BadDocuments,
    meter: &Arc<Meter>,
) -> Box<dyn Documents + 'a> {
    let meter = Arc::clone(meter);
    let opened = move |path: &'a Path| open(path, &options.field, bad, &meter);
    Box::new(Chain {
        files: options.inputs.iter().map(|path| path.as_path()),
        open: opened,
        current: None,
    })
}

fn open<'a>(
    path: &'a Path,
    field: &'a str,
    bad: &'a BadDocuments,
    meter: &Arc<Meter>,
) -> Result<Box<dyn Documents + 'a>> {
    let (format, compression) = Format::of(path)?;
    let told = Arc::clone(meter);
    let advance = move |bytes| told.advance(bytes);
    Ok(match format {
        Format::Parquet => Box::new(ParquetColumn::open(path, field, bad, Arc::clone(meter))?),
        Format::Text => Box::new(TextFile::open(path, compression, advance, bad)?),
        Format::JsonLines | Format::Json => {
            let records = Records::open(path, format, compression, MAX_LINE, advance)?;
            Box::new(JsonTexts::new(records, field, bad))
        }
    })
}

/// Files one after the other.
struct Chain<'a, I, F> {
    files: I,
    open: F,
    current: Option<Box<dyn Documents + 'a>>,
}

impl<'a, I, F> Documents for Chain<'a, I, F>
where
    I: Iterator<Item = &'a Path> + Send,
    F: Fn(&'a Path) -> Result<Box<dyn Documents + 'a>> + Send,
{
    fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(current) = &mut self.current
                && let Some(piece) = current.next()?
            {
                return Ok(Some(piece));
            }
            match self.files.next() {
                Some(path) => self.current = Some((self.open)(path)?),
                None => return Ok(None),
            }
        }
    }
}
