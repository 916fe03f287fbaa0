//! Event files of TensorBoard: scalars over steps.
//!
//! A file is a sequence of records (`tensorflow/core/lib/io/record_writer.h`): length as u64,
//! masked CRC-32C of the length, data, masked CRC-32C of the data, all little-endian. The data
//! are `Event` messages (`tensorboard/compat/proto/event.proto`), encoded here by hand, since
//! four kinds are all there is:
//!
//! | kind | fields |
//! |---|---|
//! | the first one | `wall_time` = 1, `file_version` = 3: `brain.Event:2` |
//! | a scalar | `wall_time`, `step` = 2, `summary` = 5 { `value` = 1 { `tag` = 1, `simple_value` = 2 } } |
//! | start of a session | `wall_time`, `step`, `session_log` = 7 { `status` = 1: `START` = 1 } |
//!
//! A start of a session makes TensorBoard forget what it has read at that step and later:
//! a run that resumes from an older step writes one first, into a file of its own.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// What names of event files start with; the time in seconds follows.
const PREFIX: &str = "events.out.tfevents.";

/// Writes one event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
    wall_time: fn() -> f64,
}

/// Seconds since 1970, the usual clock of an [`EventWriter`].
pub fn now() -> f64 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0.0, |time| time.as_secs_f64())
}

impl EventWriter {
    /// Starts a new file in `dir`, which is made if it is not there. `wall_time` tells the time
    /// of each event in seconds since 1970, see [`now`].
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn create(dir: &Path, wall_time: fn() -> f64) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let path = dir.join(file_name(dir, wall_time() as u64)?);
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let mut writer = Self {
            path,
            file: BufWriter::new(file),
            wall_time,
        };
        writer.event(|event| event.bytes(3, b"brain.Event:2"))?;
        writer.flush()?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Records `value` under `tag` at `step`. A slash in a tag makes a group of those before it.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f32) -> Result<()> {
        self.event(|event| {
            event.step(step).message(5, |summary| {
                summary.message(1, |entry| entry.bytes(1, tag.as_bytes()).float(2, value))
            })
        })
    }

    /// Says that what was recorded at `step` and later, here or in an older file, is void.
    pub fn session_start(&mut self, step: u64) -> Result<()> {
        self.event(|event| event.step(step).message(7, |log| log.varint(1, 1)))
    }

    /// Hands what was recorded to the system, for TensorBoard to see.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io("write", &self.path))
    }

    fn event(&mut self, fill: impl FnOnce(&mut Message) -> &mut Message) -> Result<()> {
        let mut event = Message::default();
        fill(event.double(1, (self.wall_time)()));
        self.file
            .write_all(&record(&event.0))
            .map_err(Error::io("write", &self.path))
    }
}

/// A name that sorts behind those there are: TensorBoard reads files in order of their names,
/// and a run may resume within the second, or after the clock was set back. Where other
/// programs put the host, the program stands; folders get passed on.
fn file_name(dir: &Path, seconds: u64) -> Result<String> {
    let mut latest = None;
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let name = entry.map_err(Error::io("read", dir))?.file_name();
        latest = latest.max(name.to_str().and_then(seconds_of));
    }
    let seconds = latest.map_or(seconds, |latest| seconds.max(latest.saturating_add(1)));
    let pid = std::process::id();
    Ok(format!("{PREFIX}{seconds:010}.scale-ckpt.{pid}"))
}

/// The time in the name of an event file.
fn seconds_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// A message of protocol buffers under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// Field number and wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
    fn key(&mut self, field: u64, wire: u64) -> &mut Self {
        self.raw_varint(field << 3 | wire)
    }

    /// Seven bits a byte, lowest first; the top bit says that more follow.
    fn raw_varint(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn varint(&mut self, field: u64, value: u64) -> &mut Self {
        self.key(field, 0).raw_varint(value)
    }

    fn double(&mut self, field: u64, value: f64) -> &mut Self {
        self.key(field, 1).0.extend(value.to_le_bytes());
        self
    }

    fn float(&mut self, field: u64, value: f32) -> &mut Self {
        self.key(field, 5).0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u64, value: &[u8]) -> &mut Self {
        self.key(field, 2).raw_varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Self) -> &mut Self) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(field, &inner.0)
    }

    /// Field 2 of an event; 0 is the default, and defaults are not written.
    fn step(&mut self, step: u64) -> &mut Self {
        if step > 0 {
            self.varint(2, step);
        }
        self
    }
}

/// `data` as a record.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted by a constant so that the checksum of data that hold their own
/// checksum is not degenerate.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Cyclic redundancy check with Castagnoli's polynomial, bits reversed (RFC 3720, appendix B.4).
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &byte| {
        CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8
    })
}

/// The check of every byte.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            let polynomial = if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            crc = crc >> 1 ^ polynomial;
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Five records of the same content by `RecordWriter` and the protocol buffers of
    /// TensorBoard 2.21.0.
    const TENSORBOARD: [&str; 5] = [
        "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110",
        "0d000000000000003c37b8340900002040fc54d9413a020801a870fdd5",
        "1e00000000000000d9dc12320900002040fc54d9412a130a110a0a6c6f73732f747261696e150000b040de3c\
         6bd5",
        "19000000000000008bf108280900002040fc54d94110ac022a0b0a090a026c721500000080811ded2f",
        "100000000000000095fbfe180900002040fc54d94110c8013a02080164a3c837",
    ];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_are_those_of_tensorboard() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), || 1_700_000_000.5).unwrap();
        writer.session_start(0).unwrap();
        writer.scalar(0, "loss/train", 5.5).unwrap();
        writer.scalar(300, "lr", -0.0).unwrap();
        writer.session_start(200).unwrap();
        writer.flush().unwrap();
        let written = std::fs::read(writer.path()).unwrap();
        assert_eq!(hex(&written), TENSORBOARD.concat());
    }

    #[test]
    fn later_files_sort_behind_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = [|| 1_700_000_000.9, || 1_700_000_000.9, || 5.0, || 2e9]
            .into_iter()
            .map(|clock: fn() -> f64| {
                let writer = EventWriter::create(&dir.path().join("tb"), clock).unwrap();
                writer.path().to_owned()
            })
            .collect();
        assert!(paths.is_sorted(), "{paths:?}");
        let first = paths[0].file_name().unwrap().to_str().unwrap();
        assert!(first.starts_with("events.out.tfevents.1700000000.scale-ckpt."));
        assert_eq!(
            paths
                .iter()
                .collect::<std::collections::BTreeSet<_>>()
                .len(),
            4
        );
    }

    #[test]
    fn varints_of_many_sizes() {
        let encoded = |value| Message::default().raw_varint(value).0.clone();
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(127), [127]);
        assert_eq!(encoded(128), [0x80, 1]);
        assert_eq!(encoded(1 << 40), [0x80, 0x80, 0x80, 0x80, 0x80, 0x20]);
    }

    #[test]
    fn crc32c_of_the_rfc() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = EventWriter::create(&file.join("tb"), now).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
