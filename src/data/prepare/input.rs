//! Input files: which there are, what they hold, their bytes decompressed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::manifest::InputRecord;
use super::remote;
use crate::checkpoint::hub::{DatasetRef, HubConfig, Progress};
use crate::checkpoint::{hash_file, hex};
use crate::data::inputs;
use crate::error::{Error, Result, counted};
use crate::interrupt;
use crate::progress::{Meter, Unit};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// What documents are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Plain text with `<|endoftext|>` between documents.
    Text,
    /// A JSON object on each line.
    JsonLines,
    /// A table.
    Parquet,
}

/// How a file is compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Format {
    /// Reads it from the name.
    ///
    /// # Errors
    /// The name ends in nothing that is known.
    pub fn of(path: &Path) -> Result<(Self, Compression)> {
        Self::known(path).ok_or_else(|| {
            Error::invalid(path.display(), "the name does not say what it holds").with_hint(
                "expected .txt, .jsonl or .ndjson, each also with .gz or .zst after it, or .parquet",
            )
        })
    }

    fn known(path: &Path) -> Option<(Self, Compression)> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        let (name, compression) = if let Some(name) = name.strip_suffix(".gz") {
            (name, Compression::Gzip)
        } else if let Some(name) = name.strip_suffix(".zst") {
            (name, Compression::Zstd)
        } else {
            (name.as_str(), Compression::None)
        };
        let format = match name.rsplit_once('.')?.1 {
            "txt" => Self::Text,
            "jsonl" | "ndjson" => Self::JsonLines,
            // Its pages are compressed already; nobody compresses the file.
            "parquet" if compression == Compression::None => Self::Parquet,
            _ => return None,
        };
        Some((format, compression))
    }
}

/// The files behind names: a folder's are all in it of a known kind, also in folders below, and
/// sorted; a glob's are sorted too; a dataset's are fetched from the hub as `hub` says.
///
/// # Errors
/// A path does not exist, a folder or glob has nothing, a file is of no known kind, or the hub
/// does not deliver.
pub fn expand(
    names: &[String],
    hub: impl Fn() -> Result<HubConfig>,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in names {
        if let Some(dataset) = DatasetRef::parse(name) {
            let fetched = remote::fetch(&dataset?, &hub()?, progress)?;
            fetched
                .iter()
                .try_for_each(|path| Format::of(path).map(drop))?;
            files.extend(fetched);
            continue;
        }
        for path in inputs::expand(Path::new(name))? {
            if path.is_dir() {
                let before = files.len();
                files_below(&path, &mut files)?;
                files[before..].sort();
                if files.len() == before {
                    let message = "a folder without .txt, .jsonl, .ndjson or .parquet files";
                    return Err(Error::invalid(path.display(), message));
                }
            } else {
                Format::of(&path)?;
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let (path, kind) = (entry.path(), entry.file_type());
        if inputs::is_hidden(&path) {
            continue;
        }
        // Links to folders are not followed, they may lead back here.
        if kind.is_ok_and(|kind| kind.is_dir()) {
            files_below(&path, files)?;
        } else if path.is_file() && Format::known(&path).is_some() {
            files.push(path);
        }
    }
    Ok(())
}

/// Size and hash of every file.
pub(super) fn hash_all(paths: &[PathBuf]) -> Result<Vec<InputRecord>> {
    let sizes: Vec<u64> = paths
        .iter()
        .map(|path| size_of(path))
        .collect::<Result<_>>()?;
    let meter = Meter::new("hashing inputs", sizes.iter().sum(), Unit::Bytes);
    paths
        .par_iter()
        .map(|path| {
            let mut hasher = Sha256::new();
            let bytes = hash_file(path, &mut hasher, |read| {
                meter.advance(read);
                interrupt::check("nothing was written")
            })?;
            Ok(InputRecord {
                path: path.clone(),
                bytes,
                sha256: hex(&hasher.finalize()),
            })
        })
        .collect()
}

/// Fails if a file no longer has the size that it had when it was hashed.
pub(super) fn check_unchanged(paths: &[PathBuf], records: &[InputRecord]) -> Result<()> {
    for (path, record) in paths.iter().zip(records) {
        let (found, before) = (size_of(path)?, record.bytes);
        if found != before {
            let message = format!(
                "it had {} at the start and has {found} now",
                counted(before, "byte", "bytes")
            );
            return Err(Error::invalid(path.display(), message).with_hint("prepare it again"));
        }
    }
    Ok(())
}

fn size_of(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() {
        return Err(Error::invalid(path.display(), "not a plain file"));
    }
    Ok(metadata.len())
}

/// The bytes of a file, decompressed as they are read.
pub(super) struct Input {
    reader: Box<dyn Read + Send>,
    path: PathBuf,
    compression: Compression,
}

impl Input {
    /// Opens a file; `meter` is told of the bytes on disk.
    pub fn open(path: &Path, compression: Compression, meter: &Arc<Meter>) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let counted = Counted {
            file,
            meter: Arc::clone(meter),
        };
        let buffered = io::BufReader::with_capacity(PIECE, counted);
        let reader: Box<dyn Read + Send> = match compression {
            Compression::None => Box::new(buffered),
            Compression::Gzip => Box::new(MultiGzDecoder::new(buffered)),
            // Its window is limited to 128 MiB unless one asks for more.
            Compression::Zstd => {
                Box::new(zstd::Decoder::with_buffer(buffered).map_err(Error::io("read", path))?)
            }
        };
        Ok(Self {
            reader,
            path: path.to_owned(),
            compression,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error for a failed read at `place`.
    pub fn failed(&self, place: &str, error: io::Error) -> Error {
        let name = match self.compression {
            Compression::None => return Error::io("read", &self.path)(error),
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        let at = format!("{}:{place}", self.path.display());
        Error::invalid(
            at,
            format!("the {name} data is damaged or cut off: {error}"),
        )
        .with_hint("copy or download the file again")
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// A file that tells a meter what is read of it.
struct Counted {
    file: File,
    meter: Arc<Meter>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.meter.advance(read as u64);
        Ok(read)
    }
}
