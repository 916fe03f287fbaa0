//! `--device`: which processor computes.
//!
//! The only file that knows which backends were compiled in. `Device::default()` is never
//! used: it prefers CUDA whenever that was compiled in, driver or not.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::error::{Error, Result};

/// What the user asked for: `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The embedded CPU backend.
    #[default]
    Cpu,
    /// An NVIDIA GPU by index.
    Cuda(usize),
}

impl DeviceSpec {
    /// Whether this is the embedded CPU backend.
    pub fn is_cpu(self) -> bool {
        self == Self::Cpu
    }

    /// `cpu` or `cuda`.
    pub fn kind(self) -> &'static str {
        if self.is_cpu() { "cpu" } else { "cuda" }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// The build has no CUDA, or no driver is found.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => open_cuda(index),
        }
    }
}

/// Whether `device` is the embedded CPU backend, with or without autodiff.
pub fn is_cpu(device: &Device) -> bool {
    // The kinds are not public; the name is that of the backend.
    matches!(
        device.clone().inner().as_dispatch(),
        burn::backend::DispatchDevice::Flex(_)
    )
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_index: usize) -> Result<Device> {
    Err(Error::Device {
        message: "this build has no CUDA".into(),
        hint: Some(
            "rebuild with `cargo build --release --features cuda`, or use --device cpu".into(),
        ),
    })
}

/// Looks for all that is needed before the backend touches it: it panics where that is missing.
#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device> {
    let root = std::path::Path::new("/");
    let parts = crate::cuda::parts(&|name| std::env::var(name).ok(), root);
    if let Some(part) = parts.iter().find(|part| part.found.is_none()) {
        return Err(part.missing());
    }
    crate::cuda::check_index(index, crate::cuda::gpu_count(root))?;
    Ok(Device::cuda(index))
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => index
                .parse()
                .map(Self::Cuda)
                .map_err(|_| format!("`{index}` is not a GPU index; write cuda:0")),
            _ => Err(format!(
                "`{text}` is not a device; write cpu, cuda or cuda:N"
            )),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl serde::Serialize for DeviceSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DeviceSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_parsed() {
        assert_eq!("cpu".parse(), Ok(DeviceSpec::Cpu));
        assert_eq!("cuda:3".parse(), Ok(DeviceSpec::Cuda(3)));
        assert!("cuda:x".parse::<DeviceSpec>().is_err() && "tpu".parse::<DeviceSpec>().is_err());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn cuda_of_a_cpu_build_says_how_to_get_it() {
        let error = DeviceSpec::Cuda(0).open().unwrap_err();
        assert_eq!(error.exit_code(), 6);
        assert!(error.hint().unwrap().contains("--features cuda"));
    }
}
