//! Reading the legacy `pytorch_model.bin`, through the `pytorch-reader` crate, which parses
//! the pickle without executing it.

use std::path::Path;
use std::sync::Arc;

use pytorch_reader::{DType, PytorchReader};

use super::safetensors::Entry;
use super::tensor::{Dtype, TensorRef};
use crate::error::{Error, Result, printable};

/// Opens a file and lists its tensors by name.
pub(super) fn open(path: &Path) -> Result<Vec<(String, Entry)>> {
    std::fs::metadata(path).map_err(Error::io("open", path))?;
    let reader = PytorchReader::new(path).map_err(|e| {
        Error::invalid(
            path.display(),
            format!("not a readable PyTorch file: {}", printable(&e.to_string())),
        )
        .with_hint("the file is damaged or of another kind; fetch or copy it again")
    })?;
    let shared: Arc<Path> = path.into();
    let mut tensors: Vec<_> = reader
        .into_tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let dtype = match tensor.dtype() {
                DType::F32 => Some(Dtype::F32),
                DType::F16 => Some(Dtype::F16),
                DType::BF16 => Some(Dtype::Bf16),
                _ => None,
            };
            let entry = match dtype {
                Some(dtype) => Entry::Float(TensorRef::torch(dtype, tensor, Arc::clone(&shared))),
                None => Entry::Other(format!("{:?}", tensor.dtype())),
            };
            (name, entry)
        })
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}
