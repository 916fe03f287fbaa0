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

/// Probes for the driver and compiler libraries before the backend touches them: it panics
/// where they are missing.
#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device> {
    let missing = |message: String, hint: &str| Error::Device {
        message,
        hint: Some(hint.to_owned()),
    };
    for (library, package) in [
        ("libcuda.so.1", "the NVIDIA driver"),
        ("libnvrtc.so", "the CUDA toolkit (NVRTC)"),
    ] {
        if !library_exists(library) {
            return Err(missing(
                format!("{library} was not found in the library path"),
                &format!("install {package}, set LD_LIBRARY_PATH, or use --device cpu"),
            ));
        }
    }
    if !cuda_headers_exist() {
        return Err(missing(
            "cuda_runtime.h was not found under $CUDA_PATH, /usr/local/cuda, /opt/cuda or /usr"
                .into(),
            "install the CUDA headers or set CUDA_PATH",
        ));
    }
    Ok(Device::cuda(index))
}

/// Looks where the dynamic loader looks, without loading.
#[cfg(feature = "cuda")]
fn library_exists(name: &str) -> bool {
    let path = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let toolkit = std::env::var("CUDA_PATH")
        .map(|root| format!("{root}/lib64"))
        .unwrap_or_default();
    let usual = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/cuda/lib64",
        "/usr/local/nvidia/lib64",
        "/usr/lib/wsl/lib",
        "/usr/lib/aarch64-linux-gnu",
    ];
    path.split(':')
        .chain(usual)
        .chain([toolkit.as_str()])
        .filter(|dir| !dir.is_empty())
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with(name))
}

#[cfg(feature = "cuda")]
fn cuda_headers_exist() -> bool {
    let root = std::env::var("CUDA_PATH").unwrap_or_default();
    [root.as_str(), "/usr/local/cuda", "/opt/cuda", "/usr"]
        .iter()
        .any(|root| {
            !root.is_empty()
                && std::path::Path::new(root)
                    .join("include/cuda_runtime.h")
                    .is_file()
        })
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
