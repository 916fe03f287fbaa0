//! Reading and writing safetensors files, a tensor at a time.
//!
//! The header is parsed by the safetensors crate, whose own readers want the whole file in
//! memory or mapped; a map dies with SIGBUS when the file shrinks under it, so the bytes are
//! read with `pread`. Before the parser sees the header, its size is checked against the
//! file and a cap: the crate accepts 100 MB headers that unpack to a gigabyte.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use ::safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};

use super::config::MAX_LAYERS;
use super::tensor::{Dtype, OpenFile, TensorRef};
use crate::error::{Error, Result, counted, printable};

/// Largest header read. gpt2-xl's has 60 kB.
const MAX_HEADER: u64 = 8 << 20;
/// Largest number of tensors read.
const MAX_TENSORS: usize = 16 * MAX_LAYERS;
/// Largest number of dimensions read: the mask buffers of old checkpoints have 4.
const MAX_RANK: usize = 4;

/// A tensor of a file: floating point ones can be used, others only skipped.
#[derive(Clone)]
pub(crate) enum Entry {
    Float(TensorRef),
    Other(String),
}

/// Opens a file and lists its tensors in file order.
///
/// # Errors
/// The file is missing, truncated, too long, or its header is not sound.
pub(crate) fn open(path: &Path) -> Result<Vec<(String, Entry)>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    let (data_start, metadata) = read_header(&file, size, path)?;
    let found = size - data_start;
    let expected = metadata.data_len() as u64;
    if found != expected {
        return Err(Error::invalid(
            path.display(),
            format!(
                "the header describes {} of tensors, the file has {found}",
                counted(expected, "byte", "bytes")
            ),
        )
        .with_hint(if found < expected {
            "the file is truncated; fetch or copy it again"
        } else {
            "the file has trailing bytes; fetch or copy it again"
        }));
    }
    let shared = Arc::new(OpenFile {
        path: path.to_owned(),
        file,
    });
    let mut tensors = metadata.tensors();
    let entry = |name: String| {
        let info = tensors
            .remove(&name)
            .expect("every listed key has an entry");
        check_entry(&name, info, path)?;
        let offset = data_start + info.data_offsets.0 as u64;
        let entry = match info.dtype {
            FileDtype::F32 => Entry::Float(TensorRef::span(
                Dtype::F32,
                info.shape.clone(),
                Arc::clone(&shared),
                offset,
            )),
            FileDtype::F16 => Entry::Float(TensorRef::span(
                Dtype::F16,
                info.shape.clone(),
                Arc::clone(&shared),
                offset,
            )),
            FileDtype::BF16 => Entry::Float(TensorRef::span(
                Dtype::Bf16,
                info.shape.clone(),
                Arc::clone(&shared),
                offset,
            )),
            other => Entry::Other(format!("{other:?}")),
        };
        Ok((name, entry))
    };
    let listed: Result<Vec<_>> = metadata.offset_keys().into_iter().map(entry).collect();
    let mut listed = listed?;
    listed.extend(aliases(&metadata, &listed));
    Ok(listed)
}

/// Tensors that `safetensors.torch.save_model` left out since they share the memory of one that it
/// wrote: the metadata has the name of each, and the name of the other.
fn aliases(metadata: &Metadata, listed: &[(String, Entry)]) -> Vec<(String, Entry)> {
    let written: HashMap<&str, &Entry> =
        listed.iter().map(|(name, e)| (name.as_str(), e)).collect();
    let mut aliases: Vec<_> = metadata
        .metadata()
        .iter()
        .flatten()
        .filter(|(name, _)| !written.contains_key(name.as_str()))
        .filter_map(|(name, other)| {
            let entry = written.get(other.as_str())?;
            Some((name.clone(), (*entry).clone()))
        })
        .collect();
    aliases.sort_by(|a, b| a.0.cmp(&b.0));
    aliases
}

fn read_header(file: &File, size: u64, path: &Path) -> Result<(u64, Metadata)> {
    let invalid = |message: String| Error::invalid(path.display(), message);
    let mut length = [0; 8];
    if size < 8 {
        return Err(invalid(format!(
            "{} too few for a safetensors file",
            counted(size, "byte is", "bytes are")
        ))
        .with_hint("the file is truncated; fetch or copy it again"));
    }
    file.read_exact_at(&mut length, 0)
        .map_err(Error::io("read", path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(invalid(format!(
            "the header claims {length} bytes, at most {MAX_HEADER} are accepted"
        ))
        .with_hint("this is not a safetensors file, or it is damaged"));
    }
    if length > size - 8 {
        return Err(invalid(format!(
            "the header claims {}, the file has {}",
            counted(length, "byte", "bytes"),
            size - 8
        ))
        .with_hint("the file is truncated; fetch or copy it again"));
    }
    let mut header = vec![0; usize::try_from(length).expect("bounded by MAX_HEADER")];
    file.read_exact_at(&mut header, 8)
        .map_err(Error::io("read", path))?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| {
        invalid(format!(
            "the safetensors header is not sound: {}",
            printable(&e.to_string())
        ))
    })?;
    let count = metadata.offset_keys().len();
    if count > MAX_TENSORS {
        return Err(invalid(format!(
            "{count} tensors; at most {MAX_TENSORS} are accepted"
        )));
    }
    Ok((8 + length, metadata))
}

fn check_entry(name: &str, info: &TensorInfo, path: &Path) -> Result<()> {
    if info.shape.len() > MAX_RANK {
        return Err(Error::invalid(
            path.display(),
            format!(
                "tensor `{}` has {} dimensions",
                printable(name),
                info.shape.len()
            ),
        ));
    }
    Ok(())
}

/// Appends the bytes of one tensor to a file.
pub type Append<'a> = Box<dyn Fn(&OpenFile) -> Result<()> + 'a>;

/// A tensor to be written: what the header says of it, and how its bytes come about.
pub struct TensorOut<'a> {
    /// Name as it will stand in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Appends exactly `byte_len()` bytes.
    pub append: Append<'a>,
}

impl TensorOut<'_> {
    /// Number of bytes.
    pub fn byte_len(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.size()) as u64
    }
}

/// Header of a file with `tensors` in this order, padded to 8 bytes.
fn header(tensors: &[TensorOut<'_>], metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    let mut offset = 0;
    let entries = tensors
        .iter()
        .map(|tensor| {
            let start = offset;
            offset += usize::try_from(tensor.byte_len()).expect("a tensor's size fits an address");
            let dtype = match tensor.dtype {
                Dtype::F32 => FileDtype::F32,
                Dtype::F16 => FileDtype::F16,
                Dtype::Bf16 => FileDtype::BF16,
            };
            (
                tensor.name.clone(),
                TensorInfo {
                    dtype,
                    shape: tensor.shape.clone(),
                    data_offsets: (start, offset),
                },
            )
        })
        .collect();
    // An empty map beside no tensors would make a header that nobody can read.
    let metadata = Some(metadata).filter(|metadata| !metadata.is_empty());
    let metadata = Metadata::new(metadata, entries)
        .map_err(|e| Error::invalid("safetensors header", e.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).expect("a header serializes");
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok(json)
}

/// Writes `tensors` to `out`, calling `written` with the bytes of each as it is done.
///
/// The caller orders them by descending element size, which keeps every tensor aligned.
pub(crate) fn write(
    out: &OpenFile,
    tensors: &[TensorOut<'_>],
    metadata: HashMap<String, String>,
    written: &dyn Fn(u64),
) -> Result<()> {
    let header = header(tensors, metadata)?;
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend(header);
    (&out.file)
        .write_all(&start)
        .map_err(Error::io("write", &out.path))?;
    for tensor in tensors {
        (tensor.append)(out)?;
        written(tensor.byte_len());
    }
    let expected = start.len() as u64 + tensors.iter().map(TensorOut::byte_len).sum::<u64>();
    let found = out
        .file
        .metadata()
        .map_err(Error::io("read", &out.path))?
        .len();
    if found != expected {
        return Err(Error::invalid(
            out.path.display(),
            format!(
                "{} written, {expected} expected",
                counted(found, "byte was", "bytes were")
            ),
        ));
    }
    Ok(())
}
