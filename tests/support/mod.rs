//! Shared by the integration tests: fixtures and comparisons.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

/// A file or folder under `fixtures/`. A test program that was built elsewhere finds them by the
/// variable that cargo sets as well.
pub fn fixture(name: &str) -> PathBuf {
    let root = std::env::var("CARGO_MANIFEST_DIR");
    let root = root.unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&root).join("fixtures").join(name)
}

/// Tensors of a small safetensors file, integers widened to f64 as well.
pub struct Expected(HashMap<String, (Vec<usize>, Vec<f64>)>);

impl Expected {
    pub fn load(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let decode = |data: &[u8], dtype| -> Vec<f64> {
            match dtype {
                Dtype::F32 => data
                    .chunks_exact(4)
                    .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                    .collect(),
                Dtype::F64 => data
                    .chunks_exact(8)
                    .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                    .collect(),
                Dtype::I64 => data
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
                    .collect(),
                other => panic!("{other:?} in a fixture"),
            }
        };
        Self(
            tensors
                .iter()
                .map(|(name, view)| {
                    (
                        name.to_owned(),
                        (view.shape().to_vec(), decode(view.data(), view.dtype())),
                    )
                })
                .collect(),
        )
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }

    pub fn values(&self, name: &str) -> &[f64] {
        &self.0[name].1
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Asserts |found - expected| <= tolerance everywhere, and says where not.
pub fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found
        .iter()
        .zip(expected)
        .map(|(&a, &b)| (f64::from(a) - b).abs())
        .enumerate()
        .fold(
            (0, 0.0),
            |w, (i, d)| if d > w.1 || d.is_nan() { (i, d) } else { w },
        );
    assert!(
        worst.1 <= tolerance,
        "{what}[{}]: {} against {}, off by {:.3e}, allowed {tolerance:.1e}",
        worst.0,
        found[worst.0],
        expected[worst.0],
        worst.1
    );
}

/// Copies a folder of plain files.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        } else {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        }
    }
}
