//! The bytes of a data file, decompressed as they are read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use bzip2::read::MultiBzDecoder;
use flate2::bufread::GzDecoder;

use super::format::Compression;
use super::magic::{HEAD, Kind, no_binary};
use crate::error::{Error, Result};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;
/// Logarithm of the largest window of zstd, the most that there is: `zstd --long=31`. So much
/// memory is taken where a file asks for it.
const WINDOW_LOG: u32 = 31;

/// An open file.
pub(crate) struct Source {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    compression: Compression,
}

impl Source {
    /// Opens a file of text or JSON; `advance` is told of the bytes on disk.
    ///
    /// # Errors
    /// The file cannot be opened, or its first bytes show it to be something else than text.
    pub fn open(
        path: &Path,
        compression: Compression,
        advance: impl Fn(u64) + Send + 'static,
    ) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let mut buffered = BufReader::with_capacity(PIECE, Counted { file, advance });
        let head = buffered.fill_buf().map_err(Error::io("read", path))?;
        let is_own = magic(compression).is_some_and(|magic| head.starts_with(magic));
        if let Some(kind) = Kind::of(head).filter(|_| !is_own) {
            return Err(kind.refused(path, false));
        }
        let expected = name(compression).map(|name| format!("a {name} file"));
        if let Some(expected) = expected.filter(|_| !is_own)
            && let Some(error) = no_binary(path, &expected, head)
        {
            return Err(error);
        }
        let reader: Box<dyn BufRead + Send> = match compression {
            Compression::None => Box::new(buffered),
            Compression::Gzip => Box::new(BufReader::new(Members {
                decoder: Some(GzDecoder::new(buffered)),
            })),
            Compression::Zstd => {
                let failed = |e| Error::io("read", path)(e);
                let mut decoder = zstd::Decoder::with_buffer(buffered).map_err(failed)?;
                decoder.window_log_max(WINDOW_LOG).map_err(failed)?;
                Box::new(BufReader::with_capacity(PIECE, decoder))
            }
            Compression::Bzip2 => Box::new(BufReader::with_capacity(
                PIECE,
                MultiBzDecoder::new(buffered),
            )),
        };
        let reader = if compression == Compression::None {
            reader
        } else {
            checked(reader, path)?
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
        let Some(name) = name(self.compression).filter(|_| error.raw_os_error().is_none()) else {
            return Error::io("read", &self.path)(error);
        };
        let at = format!("{}:{place}", self.path.display());
        let text = error.to_string();
        if let Some((message, hint)) = unsupported(&text) {
            return Error::invalid(at, message).with_hint(hint);
        }
        Error::invalid(at, format!("the {name} data is damaged or cut off: {text}"))
            .with_hint("copy or download the file again")
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
    }
}

/// The same bytes again, unless the first of them show that what was compressed is no text.
fn checked(mut reader: Box<dyn BufRead + Send>, path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let mut head = Vec::with_capacity(HEAD);
    let read = (&mut reader).take(HEAD as u64).read_to_end(&mut head);
    if let Some(kind) = Kind::of(&head) {
        return Err(kind.refused(path, true));
    }
    // An error is met again where the place of it is known.
    let failed = BufReader::new(Failing(read.err()));
    Ok(Box::new(Cursor::new(head).chain(failed).chain(reader)))
}

/// Fails once with an error, if there is one, and is at its end.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// The name of a compression; none where there is none.
fn name(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some("gzip"),
        Compression::Zstd => Some("zstd"),
        Compression::Bzip2 => Some("bzip2"),
    }
}

/// What a compressed file begins with.
fn magic(compression: Compression) -> Option<&'static [u8]> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some(b"\x1f\x8b"),
        Compression::Zstd => Some(b"\x28\xb5\x2f\xfd"),
        Compression::Bzip2 => Some(b"BZh"),
    }
}

/// What zstd says of sound files that it does not read: the words for it, and what to do.
fn unsupported(text: &str) -> Option<(String, &'static str)> {
    let narrower = "write it again with a smaller window: \
                    zstd --decompress --long=31 --stdout FILE | zstd > OTHER.zst";
    let gib = 1_u64 << (WINDOW_LOG - 30);
    if text.contains("too much memory") {
        let message = format!("the zstd window is larger than {gib} GiB, the largest that is read");
        return Some((message, narrower));
    }
    if text.contains("not enough memory") {
        let message = format!("no memory for its zstd window, which can be {gib} GiB large");
        return Some((message, narrower));
    }
    if text.contains("Dictionary mismatch") {
        let message = "compressed with a zstd dictionary, which is not there".to_owned();
        return Some((
            message,
            "unpack it first: zstd --decompress -D DICTIONARY FILE",
        ));
    }
    if text.contains("Unsupported") || text.contains("Version not supported") {
        let message = format!("a form of zstd that is not read: {text}");
        return Some((message, "unpack it first: zstd --decompress FILE"));
    }
    None
}

/// A file that tells what is read of it.
struct Counted<F> {
    file: File,
    advance: F,
}

impl<F: Fn(u64)> Read for Counted<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        (self.advance)(read as u64);
        Ok(read)
    }
}

/// The members of a gzip file, one after the other. Zeros after one are padding, as for `gzip`.
struct Members<R> {
    /// None after the last.
    decoder: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let rest = self.decoder.take().map(GzDecoder::into_inner);
            self.decoder = rest.map(next_member).transpose()?.flatten();
        }
        Ok(0)
    }
}

fn next_member<R: BufRead>(mut rest: R) -> io::Result<Option<GzDecoder<R>>> {
    loop {
        let bytes = rest.fill_buf()?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        let more = zeros < bytes.len();
        rest.consume(zeros);
        if more {
            return Ok(Some(GzDecoder::new(rest)));
        }
    }
}
