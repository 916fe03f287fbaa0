//! `--device`: which processor computes.
//!
//! The only file that knows which backends were compiled in. `Device::default()` is never
//! used: it prefers CUDA whenever that was compiled in, driver or not.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use burn::tensor::{Device, ExecutionError, FloatDType, Tensor, TensorData};

use crate::error::{Error, Result};
use crate::home;

/// What the user asked for: `cpu`, `cuda`, `wgpu`, `cuda:N` or `wgpu:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The embedded CPU backend.
    #[default]
    Cpu,
    /// An NVIDIA GPU by index, through CUDA.
    Cuda(usize),
    /// A GPU of any make by index, or the software that stands in for one, through wgpu.
    Wgpu(usize),
}

impl DeviceSpec {
    /// Whether this is the embedded CPU backend.
    pub fn is_cpu(self) -> bool {
        self == Self::Cpu
    }

    /// `cpu`, `cuda` or `wgpu`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
            Self::Wgpu(_) => "wgpu",
        }
    }

    /// What is trained in where nobody says: bf16 where the device multiplies it fast.
    pub fn precision(self) -> Precision {
        match self {
            Self::Cuda(_) => Precision::Bf16,
            Self::Cpu | Self::Wgpu(_) => Precision::F32,
        }
    }

    /// A precision as results name it: f32 is TF32 on an NVIDIA GPU, where products may round
    /// their factors to 10 bits.
    pub fn recorded(self, precision: Precision) -> &'static str {
        match (precision, self) {
            (Precision::Bf16, _) => "bfloat16",
            (Precision::F32, Self::Cuda(_)) => "tf32",
            (Precision::F32, _) => "float32",
        }
    }

    /// Refuses a precision that the device does not compute in.
    ///
    /// # Errors
    /// It does not.
    pub fn check_precision(self, device: &Device, precision: Precision) -> Result<()> {
        if self.is_cpu() || device.supports_dtype(precision.dtype()) {
            return Ok(());
        }
        Err(Error::Device {
            message: format!("{self} does not compute in {precision}"),
            hint: Some("use --precision f32, or precision = \"f32\" in a recipe".into()),
        })
    }

    /// Opens the device.
    ///
    /// # Errors
    /// The build has not what the device needs, or no driver or no such GPU is found.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => open_cuda(index),
            Self::Wgpu(index) => open_wgpu(index),
        }
    }
}

/// What matrix products and attention compute in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32 throughout; on an NVIDIA GPU products round their factors to TF32.
    #[default]
    F32,
    /// bf16, with sums in f32.
    Bf16,
}

impl Precision {
    /// The type of elements.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("`{text}` is not a precision; write f32 or bf16")),
        }
    }
}

/// Where compiled kernels and their tuning are kept between runs: `SCALE_CKPT_CACHE`, else
/// `scale-ckpt` in the user's cache folder; none where there is no such folder.
pub fn kernel_cache() -> Option<PathBuf> {
    kernel_cache_of(&|name| std::env::var(name).ok())
}

/// The same for the variables that `var` gives. What `~` cannot stand for is a name like others.
fn kernel_cache_of(var: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let get = |name: &str| var(name).filter(|value| !value.is_empty());
    let path = |name: &str| get(name).map(|text| home::expand(&text).unwrap_or(text.into()));
    if let Some(dir) = path("SCALE_CKPT_CACHE") {
        return Some(dir);
    }
    let cache = path("XDG_CACHE_HOME");
    let cache = cache.or_else(|| get("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.map(|dir| dir.join("scale-ckpt"))
}

/// Keeps compiled kernels and their tuning between runs. A `cubecl.toml` that says where itself
/// is heeded.
#[cfg(feature = "gpu")]
fn keep_kernels() {
    use cubecl::config::cache::CacheConfig;
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    if let (CacheConfig::Target, Some(dir)) = (&config.environment.path, kernel_cache()) {
        config.environment.path = CacheConfig::Directory(dir);
    }
    // Later calls change nothing.
    CubeClRuntimeConfig::try_set(config);
}

/// A GPU's memory as its allocator has it, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Allocated {
    /// What tensors take.
    pub in_use: u64,
    /// What was taken from the device, room for later tensors included.
    pub reserved: u64,
}

/// What is allocated on a GPU; none on the CPU, whose memory is the process's.
pub fn allocated(device: &Device) -> Option<Allocated> {
    if is_cpu(device) {
        return None;
    }
    let usage = device.memory_pool_usage()?;
    Some(Allocated {
        in_use: usage.bytes_in_use,
        reserved: usage.bytes_reserved,
    })
}

/// Whether a GPU has so much memory left, which is asked by taking it for a moment.
pub fn has_room(device: &Device, bytes: u64) -> bool {
    /// Values of one buffer: devices bound the size of each.
    const BUFFER: u64 = 1 << 27;
    let mut left = bytes / 4;
    let mut taken: Vec<Tensor<1>> = Vec::new();
    while left > 0 {
        let len = left.min(BUFFER);
        left -= len;
        taken.push(Tensor::empty([len as usize], device));
    }
    let held = |x: &Tensor<1>| read_scalar(x.clone().slice(0..1)).is_ok();
    let fits = taken.iter().all(held);
    drop(taken);
    device.memory_cleanup();
    fits
}

/// What a device's failure means.
fn failed(error: &ExecutionError) -> Error {
    let text = format!("{error:?}");
    let lower = text.to_lowercase();
    // CubeCL's words for it, and the driver's.
    let memory = [
        "out of device memory",
        "can't allocate",
        "out of memory",
        "out_of_memory",
    ];
    // The device's own words come with a stack.
    let message: String = error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let message = message.chars().take(300).collect();
    if memory.iter().any(|sign| lower.contains(sign)) {
        Error::OutOfMemory {
            message,
            hint: None,
        }
    } else {
        Error::Device {
            message: format!("the device failed: {message}"),
            hint: None,
        }
    }
}

/// Reads a tensor.
///
/// # Errors
/// What made it failed on the device; [`Error::OutOfMemory`] if for want of memory.
pub fn read<const D: usize>(x: Tensor<D>) -> Result<TensorData> {
    x.try_into_data().map_err(|error| failed(&error))
}

/// Reads a tensor of one number.
///
/// # Errors
/// Those of [`read`].
pub fn read_scalar(x: Tensor<1>) -> Result<f64> {
    let value = read(x)?.iter::<f64>().next();
    Ok(value.expect("a tensor of one number"))
}

/// Waits until the device has done what it was asked for.
///
/// # Errors
/// It failed.
pub fn sync(device: &Device) -> Result<()> {
    device.sync().map_err(|error| failed(&error))
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
    let visible = Device::enumerate(burn::tensor::DeviceType::Cuda).len();
    crate::cuda::check_index(index, visible)?;
    keep_kernels();
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(_index: usize) -> Result<Device> {
    Err(Error::Device {
        message: "this build has no wgpu".into(),
        hint: Some(
            "rebuild with `cargo build --release --features vulkan` (or wgpu), or use --device cpu"
                .into(),
        ),
    })
}

#[cfg(feature = "wgpu")]
fn open_wgpu(index: usize) -> Result<Device> {
    keep_kernels();
    let found = Device::enumerate(burn::tensor::DeviceType::Wgpu);
    let count = found.len();
    found.into_iter().nth(index).ok_or_else(|| Error::Device {
        message: format!("wgpu:{index}: there is no such GPU; found: {count}"),
        hint: Some(match count {
            0 => "install the GPU's Vulkan driver (for a software one: mesa-vulkan-drivers), or use --device cpu".into(),
            1 => "use --device wgpu:0".into(),
            _ => format!("use wgpu:0 to wgpu:{}, or --device cpu", count - 1),
        }),
    })
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        let of: fn(usize) -> Self = match kind {
            "cpu" if kind == text => return Ok(Self::Cpu),
            "cuda" => Self::Cuda,
            "wgpu" => Self::Wgpu,
            _ => {
                return Err(format!(
                    "`{text}` is not a device; write cpu, cuda, wgpu, cuda:N or wgpu:N"
                ));
            }
        };
        index
            .parse()
            .map(of)
            .map_err(|_| format!("`{index}` is not a GPU index; write {kind}:0"))
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Wgpu(index) => write!(f, "wgpu:{index}"),
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
        assert_eq!("wgpu".parse(), Ok(DeviceSpec::Wgpu(0)));
        for wrong in ["cuda:x", "tpu", "cpu:1", "cuda:", ""] {
            assert!(wrong.parse::<DeviceSpec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_kernels_folder_may_begin_with_the_home_folder() {
        let home = std::env::home_dir().unwrap();
        let of = |name: &'static str, value: &'static str| {
            kernel_cache_of(&|asked| (asked == name).then(|| value.to_owned()))
        };
        assert_eq!(of("SCALE_CKPT_CACHE", "~/x"), Some(home.join("x")));
        assert_eq!(of("SCALE_CKPT_CACHE", "/a/~/x"), Some("/a/~/x".into()));
        assert_eq!(of("SCALE_CKPT_CACHE", "~bob/x"), Some("~bob/x".into()));
        assert_eq!(of("SCALE_CKPT_CACHE", ""), None);
        let below = home.join("c/scale-ckpt");
        assert_eq!(of("XDG_CACHE_HOME", "~/c"), Some(below));
        assert_eq!(of("HOME", "/h"), Some("/h/.cache/scale-ckpt".into()));
    }

    /// The words of cubecl, of which burn keeps nothing else.
    #[test]
    fn want_of_memory_is_told_from_other_failures() {
        let of = |reason: &str| {
            failed(&ExecutionError::WithContext {
                reason: reason.into(),
            })
        };
        for words in [
            "out of device memory allocating 412876800 bytes",
            "can't allocate buffer of size: 99",
            "Can't allocate 99 bytes: every page size the memory tracks still holds live allocations",
        ] {
            assert!(matches!(of(words), Error::OutOfMemory { .. }), "{words}");
        }
        assert!(matches!(of("a kernel faulted"), Error::Device { .. }));
    }

    #[cfg(not(feature = "gpu"))]
    #[test]
    fn a_gpu_of_a_cpu_build_says_how_to_get_it() {
        for spec in [DeviceSpec::Cuda(0), DeviceSpec::Wgpu(0)] {
            let error = spec.open().unwrap_err();
            assert_eq!(error.exit_code(), 6);
            assert!(error.hint().unwrap().contains(spec.kind()));
        }
    }
}
