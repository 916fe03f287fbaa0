//! One file of token ids, read in place: llm.c's and nanoGPT's `.bin`, build-nanogpt's `.npy`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::magic::{HEAD, Kind};
use super::{npy, plausible};
use crate::checkpoint::hex;
use crate::error::{Error, Result, counted};
use crate::interrupt;

/// First number of llm.c's header.
pub const LLMC_MAGIC: i32 = 20_240_520;
/// Second number: ids are u16.
pub const LLMC_VERSION: i32 = 1;
/// Bytes of llm.c's header: 256 numbers of 32 bits, the third being the count of tokens.
pub const LLMC_HEADER: usize = 1024;
/// llm.c's files of Llama 3 tokens, which are u32.
const LLMC_LLAMA_MAGIC: i32 = 20_240_801;

/// Bytes read at a time where a whole file is.
const PIECE: usize = 1 << 20;

/// How an id is stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Two bytes.
    U16,
    /// Two bytes with a sign.
    I16,
    /// Four bytes.
    U32,
    /// Four bytes with a sign.
    I32,
    /// Eight bytes, with or without a sign: no id gets that far.
    I64,
}

impl Width {
    /// The type behind numpy's name of it.
    pub(super) fn of_numpy(name: &str) -> Option<Self> {
        Some(match name {
            "<u2" => Self::U16,
            "<i2" => Self::I16,
            "<u4" => Self::U32,
            "<i4" => Self::I32,
            "<u8" | "<i8" => Self::I64,
            _ => return None,
        })
    }

    /// Bytes of an id.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// The numbers in `bytes`, one after another.
    fn decode(self, bytes: &[u8], mut each: impl FnMut(i64)) {
        match self {
            Self::U16 => chunks(bytes).for_each(|b| each(u16::from_le_bytes(b).into())),
            Self::I16 => chunks(bytes).for_each(|b| each(i16::from_le_bytes(b).into())),
            Self::U32 => chunks(bytes).for_each(|b| each(u32::from_le_bytes(b).into())),
            Self::I32 => chunks(bytes).for_each(|b| each(i32::from_le_bytes(b).into())),
            Self::I64 => chunks(bytes).for_each(|b| each(i64::from_le_bytes(b))),
        }
    }
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// An open file of token ids.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    file: File,
    offset: u64,
    width: Width,
    len: u64,
}

impl Shard {
    /// Opens a file and checks that its size is what its header says.
    ///
    /// # Errors
    /// It is missing, none of the formats, empty, cut off, or longer than it should be.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        if !metadata.is_file() {
            return Err(Error::invalid(path.display(), "not a plain file"));
        }
        let size = metadata.len();
        check_kind(&file, path)?;
        let (offset, width, count) = if is_npy(path) {
            let npy = npy::parse(&file, path)?;
            (npy.offset, npy.width, Some(npy.count))
        } else {
            match llmc_count(&file, path)? {
                Some(count) => {
                    let header = LLMC_HEADER as u64;
                    if size > header && count.checked_mul(2) != Some(size - header) {
                        plausible::check_width(&file, path, size)?;
                    }
                    (header, Width::U16, Some(count))
                }
                None => {
                    plausible::check(&file, path, size)?;
                    (0, Width::U16, None)
                }
            }
        };
        let len = count_tokens(path, size, offset, width, count)?;
        if count.is_none() {
            check_bare(&file, path)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            offset,
            width,
            len,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it; no shard that opened is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.offset + self.len * self.width.bytes() as u64
    }

    /// Appends `count` ids from number `start` to `ids`, in one read of the file.
    ///
    /// # Errors
    /// The file cannot be read, was cut since it was opened, or has an id of `vocab_size` or
    /// more there.
    pub fn read(
        &self,
        start: u64,
        count: usize,
        vocab_size: usize,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let width = self.width.bytes();
        let mut bytes = vec![0; count * width];
        self.file
            .read_exact_at(&mut bytes, self.offset + start * width as u64)
            .map_err(Error::io("read", &self.path))?;
        let begin = ids.len();
        let mut fits = true;
        self.width.decode(&bytes, |id| {
            fits &= (0..vocab_size as i64).contains(&id);
            ids.push(id as u32);
        });
        if fits {
            return Ok(());
        }
        ids.truncate(begin);
        self.check(&bytes, start, vocab_size)
    }

    /// SHA-256 of the file in hex; every id is checked on the way. `advance` is told of bytes.
    ///
    /// # Errors
    /// As [`Self::read`], or a signal arrived.
    pub fn verify(&self, vocab_size: usize, advance: &(dyn Fn(u64) + Sync)) -> Result<String> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; PIECE];
        let (mut at, end) = (0, self.bytes());
        while at < end {
            interrupt::check("the data was not read to its end")?;
            // The header on its own, so that ids are never cut in two.
            let stop = if at < self.offset {
                self.offset
            } else {
                end.min(at + PIECE as u64)
            };
            let piece = &mut buffer[..(stop - at).min(PIECE as u64) as usize];
            self.file
                .read_exact_at(piece, at)
                .map_err(Error::io("read", &self.path))?;
            hasher.update(&*piece);
            if at >= self.offset {
                let first = (at - self.offset) / self.width.bytes() as u64;
                self.check(piece, first, vocab_size)?;
            }
            at += piece.len() as u64;
            advance(piece.len() as u64);
        }
        Ok(hex(&hasher.finalize()))
    }

    /// Fails at the first id in `bytes` that is none; the first of them is number `first`.
    fn check(&self, bytes: &[u8], first: u64, vocab_size: usize) -> Result<()> {
        let (mut number, mut bad) = (first, None);
        self.width.decode(bytes, |id| {
            if bad.is_none() && !(0..vocab_size as i64).contains(&id) {
                bad = Some((number, id));
            }
            number += 1;
        });
        let Some((number, id)) = bad else {
            return Ok(());
        };
        Err(Error::invalid(
            self.path.display(),
            format!("token {number} is {id}, ids below vocab_size = {vocab_size} were expected"),
        )
        .with_hint("the shard belongs to another tokenizer, or is not a file of token ids"))
    }
}

/// Whether the name says that the file is a shard.
pub fn is_shard(path: &Path) -> bool {
    is_npy(path) || path.extension().is_some_and(|e| e == "bin")
}

fn is_npy(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "npy")
}

/// Refuses what its first bytes show to be another kind of file.
fn check_kind(file: &File, path: &Path) -> Result<()> {
    let mut head = [0; HEAD];
    let read = file
        .read_at(&mut head, 0)
        .map_err(Error::io("read", path))?;
    let head = &head[..read];
    match Kind::of(head) {
        Some(kind) if !(is_npy(path) && npy::is_npy(head)) => Err(kind.refused_in_training(path)),
        _ => Ok(()),
    }
}

/// The count in llm.c's header; none if the file has no such header, as nanoGPT's have not.
fn llmc_count(file: &File, path: &Path) -> Result<Option<u64>> {
    let mut start = [0; 12];
    if file.read_exact_at(&mut start[..4], 0).is_err() {
        return Ok(None);
    }
    let number = |at: usize, start: &[u8; 12]| {
        i32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]])
    };
    match number(0, &start) {
        LLMC_MAGIC => {}
        LLMC_LLAMA_MAGIC => {
            return Err(
                Error::invalid(path.display(), "an llm.c file of Llama 3 tokens")
                    .with_hint("make a shard of GPT-2 tokens from the text"),
            );
        }
        // llm.c names each of its formats by the day on which it was made.
        magic @ 20_240_000..20_300_000 => {
            let message = format!(
                "an llm.c file of another kind: it begins with {magic}, token shards with {LLMC_MAGIC}"
            );
            return Err(Error::invalid(path.display(), message)
                .with_hint("give the .bin files that its data scripts call train and val"));
        }
        swapped if swapped.swap_bytes() == LLMC_MAGIC => {
            let message = "llm.c's header in big-endian order; little-endian is read";
            return Err(Error::invalid(path.display(), message)
                .with_hint("make the shard again with `scale-ckpt data prepare`"));
        }
        _ => return Ok(None),
    }
    file.read_exact_at(&mut start, 0).map_err(|_| {
        Error::invalid(path.display(), "llm.c's header is cut off").with_hint(TRUNCATED)
    })?;
    let version = number(4, &start);
    if version != LLMC_VERSION {
        return Err(Error::invalid(
            path.display(),
            format!("llm.c's header has version {version}, expected {LLMC_VERSION}"),
        )
        .with_hint(
            "write the shard again with a current llm.c, or with `scale-ckpt data prepare`",
        ));
    }
    let count = number(8, &start);
    u64::try_from(count).map(Some).map_err(|_| {
        Error::invalid(
            path.display(),
            format!(
                "llm.c's header claims {}",
                counted(count, "token", "tokens")
            ),
        )
    })
}

/// Refuses a file without a header whose bytes cannot be ids of two bytes.
fn check_bare(file: &File, path: &Path) -> Result<()> {
    let mut start = [0; 1024];
    // A shorter one says too little.
    if file.read_exact_at(&mut start, 0).is_err() {
        return Ok(());
    }
    let refused =
        |message: &str, hint: &str| Err(Error::invalid(path.display(), message).with_hint(hint));
    let pairs = || start.chunks(4).map(|four| (&four[..2], &four[2..]));
    if pairs().all(|(_, second)| second == [0, 0]) && pairs().any(|(first, _)| first != [0, 0]) {
        return refused(
            "every second id is 0: these are ids of four or eight bytes, and a .bin file without a header has ids of two",
            "write the ids as uint16, or as a .npy file, which names its type",
        );
    }
    if start
        .iter()
        .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace())
    {
        return refused(
            "this is text, not token ids",
            "name it .txt, or make shards of it with `scale-ckpt data prepare`",
        );
    }
    Ok(())
}

const TRUNCATED: &str = "the file is truncated; copy or make it again";

/// Tokens of a file of `size` bytes; `count` is what its header says, if it has one.
fn count_tokens(
    path: &Path,
    size: u64,
    offset: u64,
    width: Width,
    count: Option<u64>,
) -> Result<u64> {
    let invalid = |message: String| Error::invalid(path.display(), message);
    let width = width.bytes() as u64;
    let Some(body) = size.checked_sub(offset) else {
        return Err(invalid(format!(
            "{} too few for its header",
            counted(size, "byte is", "bytes are")
        ))
        .with_hint(TRUNCATED));
    };
    if let Some(count) = count {
        let expected = count.checked_mul(width);
        if expected != Some(body) {
            let error = invalid(format!(
                "the header says {} of {width} bytes, {} it",
                counted(count, "token", "tokens"),
                counted(body, "byte follows", "bytes follow")
            ));
            return Err(error.with_hint(if count.checked_mul(2 * width) == Some(body) {
                "the file has trailing bytes, or its ids are of another width than its header says"
            } else if expected.is_some_and(|e| e < body) {
                "the file has trailing bytes"
            } else {
                TRUNCATED
            }));
        }
    } else if !body.is_multiple_of(width) {
        return Err(invalid(format!(
            "{} no whole number of tokens of {width} bytes",
            counted(body, "byte is", "bytes are")
        ))
        .with_hint(TRUNCATED));
    }
    match body / width {
        0 => Err(invalid("no tokens there".into())),
        tokens => Ok(tokens),
    }
}
