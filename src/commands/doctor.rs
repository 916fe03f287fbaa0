//! `scale-ckpt doctor`.

use std::path::{Path, PathBuf};

use scale_ckpt::checkpoint::hub::{HubConfig, reach};
use scale_ckpt::cuda::{driver_version, gpu_count, parts, places, toolkit_version};
use scale_ckpt::device::kernel_cache;
use scale_ckpt::error::counted;
use scale_ckpt::{Result, VERSION};
use serde::Serialize;

use super::shared::{bytes, print, print_json};

/// Say what this program finds on this machine: processor, memory, CUDA, hub, caches, disk.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Serialize)]
struct Report {
    schema: u32,
    version: &'static str,
    cuda_build: bool,
    wgpu_build: bool,
    cores: usize,
    simd: &'static str,
    memory: Option<Memory>,
    gpus: Option<usize>,
    gpu_list: Vec<String>,
    driver: Option<String>,
    cuda_version: Option<String>,
    kernel_cache: Option<PathBuf>,
    cuda: Vec<CudaPart>,
    hub: Hub,
    disk_here: Option<u64>,
}

/// In bytes.
#[derive(Serialize)]
struct Memory {
    total: u64,
    available: u64,
}

#[derive(Serialize)]
struct CudaPart {
    what: &'static str,
    file: &'static str,
    found: Option<PathBuf>,
    looked: Vec<PathBuf>,
}

/// The hub as it is configured; the token itself is not told.
#[derive(Serialize)]
struct Hub {
    endpoint: Option<String>,
    token: bool,
    offline: bool,
    reachable: Option<bool>,
    problem: Option<String>,
    cache: Option<PathBuf>,
    cache_free: Option<u64>,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let report = Report::gather();
        if self.json {
            print_json(&report)
        } else {
            print(&report.render())
        }
    }
}

impl Report {
    fn gather() -> Self {
        let root = Path::new("/");
        let cuda = parts(&|name| std::env::var(name).ok(), root);
        let headers = cuda[2].found.clone();
        Self {
            schema: 1,
            version: VERSION,
            cuda_build: cfg!(feature = "cuda"),
            wgpu_build: cfg!(feature = "wgpu"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            simd: simd(),
            memory: memory(),
            gpus: gpu_count(root),
            gpu_list: gpu_list(),
            driver: driver_version(root),
            cuda_version: headers.and_then(|header| toolkit_version(&header)),
            kernel_cache: kernel_cache(),
            cuda: cuda
                .into_iter()
                .map(|part| CudaPart {
                    what: part.what,
                    file: part.file,
                    found: part.found,
                    looked: part.looked,
                })
                .collect(),
            hub: Hub::gather(),
            disk_here: free(Path::new(".")),
        }
    }

    fn render(&self) -> String {
        let build = match (self.cuda_build, self.wgpu_build) {
            (true, true) => "with CUDA and wgpu",
            (true, false) => "with CUDA",
            (false, true) => "with wgpu",
            (false, false) => "CPU only: --features cuda and --features vulkan have more",
        };
        let memory = self.memory.as_ref().map_or_else(
            || "not told".to_owned(),
            |m| format!("{}, {} available", bytes(m.total), bytes(m.available)),
        );
        let gpus = match self.gpus {
            Some(count) => format!("{count} listed by the driver"),
            None => "no driver lists any".to_owned(),
        };
        let size = |free: Option<u64>| {
            free.map_or_else(
                || "not told".to_owned(),
                |free| format!("{} free", bytes(free)),
            )
        };
        let mut lines = vec![
            format!("scale-ckpt  {} ({build})", self.version),
            format!(
                "processor   {}, {}",
                counted(self.cores, "core", "cores"),
                self.simd
            ),
            format!("memory      {memory}"),
            format!("GPUs        {gpus}"),
        ];
        lines.extend(self.gpu_list.iter().map(|gpu| format!("            {gpu}")));
        let found = |file: &str| {
            self.cuda
                .iter()
                .any(|p| p.file == file && p.found.is_some())
        };
        lines.push(format!(
            "CUDA        {}, {}",
            versioned("driver", self.driver.as_deref(), found("libcuda.so.1")),
            versioned(
                "headers",
                self.cuda_version.as_deref(),
                found("cuda_runtime.h")
            )
        ));
        for part in &self.cuda {
            let found = match &part.found {
                Some(path) => path.display().to_string(),
                None => format!("{} not found in {}", part.file, places(&part.looked)),
            };
            lines.push(format!("            {}: {found}", part.what));
        }
        let hub = &self.hub;
        let endpoint = hub.endpoint.as_deref().unwrap_or("-");
        let answer = match (hub.offline, &hub.problem) {
            (true, _) => format!("{endpoint}: not asked, the network is off"),
            (_, Some(problem)) => problem.clone(),
            (_, None) => format!("{endpoint}: reachable"),
        };
        let token = if hub.token {
            "with a token"
        } else {
            "no token"
        };
        lines.push(format!("hub         {answer}; {token}"));
        let cache = hub.cache.as_ref().map_or_else(
            || "none".to_owned(),
            |cache| format!("{}, {}", cache.display(), size(hub.cache_free)),
        );
        lines.push(format!("hub cache   {cache}"));
        let kernels = self.kernel_cache.as_ref().map_or_else(
            || "none".to_owned(),
            |dir| format!("{}, {}", dir.display(), size(free(dir))),
        );
        lines.push(format!("kernels     {kernels}"));
        lines.push(format!("disk here   {}", size(self.disk_here)));
        lines.join("\n")
    }
}

/// What was found of CUDA, with its version where that is told.
fn versioned(what: &str, version: Option<&str>, is_there: bool) -> String {
    match version {
        Some(version) => format!("{what} {version}"),
        None if is_there => format!("{what} of unknown version"),
        None => format!("no {what}"),
    }
}

impl Hub {
    fn gather() -> Self {
        let config = match HubConfig::from_env() {
            Ok(config) => config,
            Err(error) => {
                return Self {
                    endpoint: None,
                    token: false,
                    offline: false,
                    reachable: None,
                    problem: Some(error.to_string()),
                    cache: None,
                    cache_free: None,
                };
            }
        };
        let problem = match config.offline {
            true => None,
            false => reach(&config).err().map(|error| error.to_string()),
        };
        Self {
            reachable: (!config.offline).then_some(problem.is_none()),
            problem,
            token: config.token.is_some(),
            offline: config.offline,
            cache_free: free(&config.cache),
            cache: Some(config.cache),
            endpoint: Some(config.endpoint),
        }
    }
}

/// Name, memory and free memory of every GPU, as NVIDIA's own tool tells them.
fn gpu_list() -> Vec<String> {
    let query = [
        "--query-gpu=name,memory.total,memory.free",
        "--format=csv,noheader",
    ];
    let told = std::process::Command::new("nvidia-smi")
        .args(query)
        .output();
    let Some(told) = told.ok().filter(|told| told.status.success()) else {
        return Vec::new();
    };
    let gpu = |line: &str| {
        let mut words = line.split(',').map(str::trim);
        let mut next = || words.next().unwrap_or("?").to_owned();
        format!("{}: {} in all, {} free", next(), next(), next())
    };
    String::from_utf8_lossy(&told.stdout)
        .lines()
        .map(gpu)
        .collect()
}

/// The widest vectors that the processor has and the kernels use.
fn simd() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "AVX2";
        }
    }
    if cfg!(target_arch = "aarch64") {
        "NEON"
    } else {
        "no AVX2: everything will be slow"
    }
}

/// As the system tells it.
fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(Memory {
        total: of("MemTotal:")?,
        available: of("MemAvailable:")?,
    })
}

/// Free bytes of the disk that holds a path, or would.
fn free(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|dir| dir.exists())?;
    let there = if there.as_os_str().is_empty() {
        Path::new(".")
    } else {
        there
    };
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
