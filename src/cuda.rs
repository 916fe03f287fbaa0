//! What CUDA needs at run time, and where it is: the driver, NVRTC and the headers that NVRTC
//! compiles kernels with. Looked for without loading anything, since the backend panics where
//! something is missing.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// Folders where libraries usually are, besides those that the environment names.
const LIBRARIES: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/cuda/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/usr/lib/aarch64-linux-gnu",
];
/// Folders where toolkits usually are, besides `CUDA_PATH`.
const TOOLKITS: [&str; 3] = ["/usr/local/cuda", "/opt/cuda", "/usr"];
/// Where the driver lists its GPUs.
const GPUS: &str = "/proc/driver/nvidia/gpus";

/// One of the things that CUDA needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub what: &'static str,
    /// The file that stands for it.
    pub file: &'static str,
    /// Where it was found.
    pub found: Option<PathBuf>,
    /// Where it was looked for.
    pub looked: Vec<PathBuf>,
    /// What to do where it is missing.
    pub hint: &'static str,
}

impl Part {
    /// The error of its absence.
    pub fn missing(&self) -> Error {
        Error::Device {
            message: format!(
                "{}: {} was not found in {}",
                self.what,
                self.file,
                places(&self.looked)
            ),
            hint: Some(self.hint.to_owned()),
        }
    }
}

/// Paths as a sentence lists them.
pub fn places(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}

/// Looks for everything, in folders that `var` and the usual places name, below `root`.
pub fn parts(var: &dyn Fn(&str) -> Option<String>, root: &Path) -> [Part; 3] {
    let get = |name: &str| var(name).filter(|value| !value.is_empty());
    let toolkit = get("CUDA_PATH");
    let below = |dir: &str| root.join(dir.trim_start_matches('/'));
    let path = get("LD_LIBRARY_PATH").unwrap_or_default();
    let named = path.split(':').filter(|dir| !dir.is_empty());
    let of_toolkit = toolkit.iter().map(|dir| format!("{dir}/lib64"));
    let libraries: Vec<PathBuf> = named
        .map(str::to_owned)
        .chain(of_toolkit)
        .chain(LIBRARIES.map(str::to_owned))
        .map(|dir| below(&dir))
        .collect();
    let roots = toolkit.iter().map(String::as_str).chain(TOOLKITS);
    let headers: Vec<PathBuf> = roots.map(|dir| below(dir).join("include")).collect();
    let library = |what, file, hint| Part {
        what,
        file,
        found: libraries.iter().find_map(|dir| file_in(dir, file)),
        looked: libraries.clone(),
        hint,
    };
    [
        library(
            "the NVIDIA driver",
            "libcuda.so.1",
            "install the NVIDIA driver, set LD_LIBRARY_PATH, or use --device cpu",
        ),
        library(
            "CUDA's run-time compiler",
            "libnvrtc.so",
            "install the CUDA toolkit (NVRTC), set CUDA_PATH or LD_LIBRARY_PATH, or use --device cpu",
        ),
        Part {
            what: "the CUDA headers",
            file: "cuda_runtime.h",
            found: headers
                .iter()
                .find_map(|dir| file_in(dir, "cuda_runtime.h")),
            looked: headers,
            hint: "install the CUDA headers, set CUDA_PATH, or use --device cpu",
        },
    ]
}

/// The file of a folder whose name begins so: libraries have their version behind it.
fn file_in(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(name))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.into_iter().next()
}

/// GPUs that the driver lists, below `root`; none where it does not say.
pub fn gpu_count(root: &Path) -> Option<usize> {
    let gpus = root.join(GPUS.trim_start_matches('/'));
    Some(std::fs::read_dir(gpus).ok()?.flatten().count())
}

/// The driver's version, below `root`, as in `580.95.05`.
pub fn driver_version(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join("proc/driver/nvidia/version")).ok()?;
    let line = text.lines().find(|line| line.starts_with("NVRM"))?;
    let is_version =
        |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    line.split_whitespace().find(is_version).map(str::to_owned)
}

/// CUDA's version as its headers have it, as in `13.0`, by the path of one of them.
pub fn toolkit_version(header: &Path) -> Option<String> {
    let text = std::fs::read_to_string(header.with_file_name("cuda.h")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("#define CUDA_VERSION"))?;
    let number: u32 = line.trim().parse().ok()?;
    Some(format!("{}.{}", number / 1000, number % 1000 / 10))
}

/// The error of a GPU that is not there, where the driver shows `count` others.
pub fn check_index(index: usize, count: usize) -> Result<(), Error> {
    if index < count {
        return Ok(());
    }
    Err(Error::Device {
        message: format!("cuda:{index}: the driver shows {count} GPUs"),
        hint: Some(match count {
            0 => "see CUDA_VISIBLE_DEVICES, or use --device cpu".to_owned(),
            1 => "use --device cuda:0".to_owned(),
            _ => format!("use cuda:0 to cuda:{}", count - 1),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, file: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    #[test]
    fn each_part_is_missed_by_name_and_found_where_it_is() {
        let root = tempfile::tempdir().unwrap();
        let nothing = |_: &str| None;
        for part in parts(&nothing, root.path()) {
            let error = part.missing();
            assert_eq!(error.exit_code(), 6);
            assert!(error.to_string().contains(part.file) && error.hint().is_some());
            assert!(part.found.is_none() && !part.looked.is_empty());
        }
        touch(root.path(), "usr/lib64/libcuda.so.1");
        touch(root.path(), "toolkit/lib64/libnvrtc.so.13");
        touch(root.path(), "toolkit/include/cuda_runtime.h");
        let [driver, nvrtc, headers] = parts(&nothing, root.path());
        assert!(driver.found.is_some() && nvrtc.found.is_none() && headers.found.is_none());
        let var = |name: &str| (name == "CUDA_PATH").then(|| "/toolkit".to_owned());
        let found = parts(&var, root.path());
        assert!(found.iter().all(|part| part.found.is_some()), "{found:?}");
        let var = |name: &str| (name == "LD_LIBRARY_PATH").then(|| "/x:/toolkit/lib64".to_owned());
        assert!(parts(&var, root.path())[1].found.is_some());
    }

    #[test]
    fn versions_are_read_where_they_are_told() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(driver_version(root.path()), None);
        touch(root.path(), "proc/driver/nvidia/version");
        touch(root.path(), "include/cuda.h");
        let header = root.path().join("include/cuda_runtime.h");
        assert_eq!(
            (driver_version(root.path()), toolkit_version(&header)),
            (None, None)
        );
        let version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release";
        std::fs::write(root.path().join("proc/driver/nvidia/version"), version).unwrap();
        std::fs::write(
            header.with_file_name("cuda.h"),
            "#define CUDA_VERSION 13010\n",
        )
        .unwrap();
        assert_eq!(driver_version(root.path()).as_deref(), Some("580.95.05"));
        assert_eq!(toolkit_version(&header).as_deref(), Some("13.1"));
    }

    #[test]
    fn gpus_beyond_those_there_are_are_refused() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(gpu_count(root.path()), None);
        touch(
            root.path(),
            "proc/driver/nvidia/gpus/0000:01:00.0/information",
        );
        touch(
            root.path(),
            "proc/driver/nvidia/gpus/0000:02:00.0/information",
        );
        assert_eq!(gpu_count(root.path()), Some(2));
        assert!(check_index(1, 2).is_ok());
        let error = check_index(2, 2).unwrap_err();
        assert!(error.to_string().contains("shows 2 GPUs"), "{error}");
        assert_eq!(error.hint(), Some("use cuda:0 to cuda:1"));
        assert_eq!(check_index(0, 0).unwrap_err().exit_code(), 6);
    }
}
