//! Tensors on the host: element types, values, and references into files.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};
use crate::interrupt;

/// Bytes moved at a time: memory use is bounded by this, not by the tensor.
const CHUNK: usize = 8 << 20;

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Name as in `config.json` (`torch_dtype`).
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// Name as in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// Whether no value in little-endian `bytes` has the exponent of infinities and NaNs.
    pub fn all_finite(self, bytes: &[u8]) -> bool {
        // The exponent's upper bits are in the last two bytes of each value.
        let (size, mask) = match self {
            Self::F32 | Self::Bf16 => (self.size(), 0x7f80),
            Self::F16 => (2, 0x7c00),
        };
        let upper = |value: &[u8]| u16::from_le_bytes([value[size - 2], value[size - 1]]);
        !bytes
            .chunks_exact(size)
            .fold(false, |bad, value| bad | (upper(value) & mask == mask))
    }

    /// Little-endian bytes of `values`, rounded to nearest even where the type is narrower.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        fn bits(words: impl Iterator<Item = u16>) -> Vec<u8> {
            words.flat_map(u16::to_le_bytes).collect()
        }
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => {
                let mut narrow = vec![f16::ZERO; values.len()];
                narrow.convert_from_f32_slice(values);
                bits(narrow.into_iter().map(f16::to_bits))
            }
            Self::Bf16 => {
                let mut narrow = vec![bf16::ZERO; values.len()];
                narrow.convert_from_f32_slice(values);
                bits(narrow.into_iter().map(bf16::to_bits))
            }
        }
    }

    /// Values of little-endian `bytes`; exact, since every type widens to f32.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let word = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
        match self {
            Self::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Self::F16 => {
                let narrow: Vec<f16> = bytes
                    .chunks_exact(2)
                    .map(|b| f16::from_bits(word(b)))
                    .collect();
                narrow.to_f32_vec()
            }
            Self::Bf16 => bytes
                .chunks_exact(2)
                .map(|b| bf16::from_bits(word(b)).to_f32())
                .collect(),
        }
    }
}

/// Values in memory, in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// The values, row-major.
    pub values: ArrayD<f32>,
}

impl HostTensor {
    /// Wraps row-major `values`.
    ///
    /// # Panics
    /// If the length is not the product of `shape`.
    pub fn new(shape: &[usize], values: Vec<f32>) -> Self {
        let values = ArrayD::from_shape_vec(IxDyn(shape), values).expect("one value per element");
        Self { values }
    }

    /// A tensor of one repeated value.
    pub fn full(shape: &[usize], value: f32) -> Self {
        Self {
            values: ArrayD::from_elem(IxDyn(shape), value),
        }
    }

    /// The values, row-major.
    pub fn as_slice(&self) -> &[f32] {
        self.values
            .as_slice()
            .expect("host tensors are kept row-major")
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        self.values.shape()
    }
}

/// Where the bytes of a stored tensor are.
#[derive(Clone)]
enum Bytes {
    /// A range of an open file.
    Span { file: Arc<OpenFile>, offset: u64 },
    /// Behind the reader of a `pytorch_model.bin`, widened or not as `Dtype` says.
    Torch(Arc<pytorch_reader::Tensor>, Arc<Path>),
}

/// An open file that remembers its path for messages.
#[derive(Debug)]
pub struct OpenFile {
    /// Where it was opened.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
}

/// A tensor in a checkpoint whose bytes have not been read.
#[derive(Clone)]
pub struct TensorRef {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    bytes: Bytes,
}

impl std::fmt::Debug for TensorRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "TensorRef({} {:?} in {})",
            self.dtype.name(),
            self.shape,
            self.path().display()
        )
    }
}

impl TensorRef {
    /// A tensor at `offset` of `file`.
    pub(super) fn span(dtype: Dtype, shape: Vec<usize>, file: Arc<OpenFile>, offset: u64) -> Self {
        Self {
            dtype,
            shape,
            bytes: Bytes::Span { file, offset },
        }
    }

    /// A tensor behind the PyTorch reader.
    pub(super) fn torch(dtype: Dtype, tensor: pytorch_reader::Tensor, path: Arc<Path>) -> Self {
        Self {
            dtype,
            shape: tensor.shape().to_vec(),
            bytes: Bytes::Torch(Arc::new(tensor), path),
        }
    }

    /// The file it lies in.
    pub fn path(&self) -> &Path {
        match &self.bytes {
            Bytes::Span { file, .. } => &file.path,
            Bytes::Torch(_, path) => path,
        }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of bytes.
    pub fn byte_len(&self) -> usize {
        self.numel() * self.dtype.size()
    }

    /// All bytes, little-endian.
    pub fn read_bytes(&self) -> Result<Vec<u8>> {
        self.read_elements(0..self.numel())
    }

    /// The bytes of some elements, without reading the others where the format allows.
    fn read_elements(&self, elements: Range<usize>) -> Result<Vec<u8>> {
        let bytes = elements.start * self.dtype.size()..elements.end * self.dtype.size();
        match &self.bytes {
            Bytes::Span { file, offset } => {
                let mut buffer = vec![0; bytes.len()];
                file.file
                    .read_exact_at(&mut buffer, offset + bytes.start as u64)
                    .map_err(Error::io("read", &file.path))?;
                Ok(buffer)
            }
            Bytes::Torch(tensor, path) => {
                let mut all = tensor
                    .read()
                    .map_err(|e| Error::invalid(path.display(), printable(&e.to_string())))?;
                all.truncate(bytes.end);
                all.drain(..bytes.start);
                Ok(all)
            }
        }
    }

    /// Whether another tensor has the same shape and values, in whatever element type: what is
    /// NaN in both is the same. Reads a piece at a time where the formats allow.
    pub fn same_values(&self, other: &Self) -> Result<bool> {
        if self.shape != other.shape {
            return Ok(false);
        }
        let whole = [self, other]
            .iter()
            .any(|t| matches!(t.bytes, Bytes::Torch(..)));
        let step = if whole { self.numel() } else { CHUNK / 4 };
        for start in (0..self.numel()).step_by(step.max(1)) {
            interrupt::check("nothing was published")?;
            let piece = start..self.numel().min(start + step);
            let (a, b) = (
                self.read_elements(piece.clone())?,
                other.read_elements(piece)?,
            );
            if self.dtype == other.dtype && a == b {
                continue;
            }
            let (a, b) = (self.dtype.decode(&a), other.dtype.decode(&b));
            let same = |(x, y): (&f32, &f32)| x == y || (x.is_nan() && y.is_nan());
            if !a.iter().zip(&b).all(same) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// All values in f32.
    pub fn read(&self) -> Result<HostTensor> {
        Ok(HostTensor::new(
            &self.shape,
            self.dtype.decode(&self.read_bytes()?),
        ))
    }

    /// Whether every value is finite; reads a piece at a time where the format allows.
    pub fn is_finite(&self) -> Result<bool> {
        let Bytes::Span { file, offset } = &self.bytes else {
            return Ok(self.dtype.all_finite(&self.read_bytes()?));
        };
        let (mut position, end) = (*offset, offset + self.byte_len() as u64);
        let mut buffer = vec![0; CHUNK.min(self.byte_len())];
        while position < end {
            interrupt::check("nothing was published")?;
            let take = usize::try_from(end - position).map_or(CHUNK, |left| left.min(CHUNK));
            let piece = &mut buffer[..take];
            file.file
                .read_exact_at(piece, position)
                .map_err(Error::io("read", &file.path))?;
            if !self.dtype.all_finite(piece) {
                return Ok(false);
            }
            position += take as u64;
        }
        Ok(true)
    }

    /// Rows `rows` of a matrix, in f32, without reading the others where the format allows.
    pub fn read_rows(&self, rows: Range<usize>) -> Result<HostTensor> {
        let width: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        let bytes = self.read_elements(rows.start * width..rows.end * width)?;
        Ok(HostTensor::new(&shape, self.dtype.decode(&bytes)))
    }

    /// Appends the bytes to `out`, a piece at a time; stops at an interrupt.
    ///
    /// The kernel moves the bytes from file to file where it can, and shares them on file
    /// systems that do.
    pub fn append_to(&self, out: &OpenFile) -> Result<()> {
        interrupt::check("nothing was published")?;
        let Bytes::Span { file, offset } = &self.bytes else {
            return (&out.file)
                .write_all(&self.read_bytes()?)
                .map_err(Error::io("write", &out.path));
        };
        let (mut position, end) = (*offset, offset + self.byte_len() as u64);
        while position < end {
            interrupt::check("nothing was published")?;
            let take = usize::try_from(end - position).map_or(CHUNK, |left| left.min(CHUNK));
            let from = Some(&mut position);
            match rustix::fs::copy_file_range(&file.file, from, &out.file, None, take) {
                Ok(moved) if moved > 0 => {}
                Err(e) if e == rustix::io::Errno::NOSPC => {
                    return Err(Error::io("write", &out.path)(e.into()));
                }
                _ => {
                    copy_piece(file, position, take, out)?;
                    position += take as u64;
                }
            }
        }
        Ok(())
    }
}

/// Copies `len` bytes at `offset` through memory: the way for file systems whose kernel code
/// cannot, and the one that gives the precise error.
fn copy_piece(file: &OpenFile, offset: u64, len: usize, out: &OpenFile) -> Result<()> {
    let mut buffer = vec![0; len];
    file.file
        .read_exact_at(&mut buffer, offset)
        .map_err(Error::io("read", &file.path))?;
    (&out.file)
        .write_all(&buffer)
        .map_err(Error::io("write", &out.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_a_round_trip() {
        let values = [0.0, -1.5, 0.25, 3.0, -0.0, 65504.0];
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let representable = dtype.decode(&dtype.encode(&values));
            assert_eq!(dtype.decode(&dtype.encode(&representable)), representable);
        }
        assert_eq!(Dtype::F32.decode(&Dtype::F32.encode(&values)), values);
    }

    #[test]
    fn large_tensors_are_compared_to_their_last_value() {
        // Three pieces, of which only the last value is written: the file is sparse.
        let count = 2 * (CHUNK / 4) + 3;
        let dir = tempfile::tempdir().unwrap();
        let tensor = |name: &str, dtype: Dtype, last: f32| {
            let path = dir.path().join(name);
            let file = File::create_new(&path).unwrap();
            let bytes = dtype.encode(&[last]);
            let offset = ((count - 1) * dtype.size()) as u64;
            file.write_all_at(&bytes, 16 + offset).unwrap();
            let file = File::open(&path).unwrap();
            TensorRef::span(dtype, vec![count], Arc::new(OpenFile { path, file }), 16)
        };
        let one = tensor("a", Dtype::F32, 1.0);
        assert!(one.same_values(&tensor("b", Dtype::F32, 1.0)).unwrap());
        assert!(one.same_values(&tensor("c", Dtype::Bf16, 1.0)).unwrap());
        assert!(!one.same_values(&tensor("d", Dtype::F32, 1.5)).unwrap());
        assert!(!one.same_values(&tensor("e", Dtype::F16, 1.5)).unwrap());
    }

    #[test]
    fn values_that_are_not_finite_are_seen_in_every_type() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            assert!(dtype.all_finite(&dtype.encode(&[0.0, -1.5, 65504.0, 1e-8])));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(!dtype.all_finite(&dtype.encode(&[1.0, bad])));
            }
        }
    }
}
