//! The list of a folder's files with sizes and hashes, written last: a folder is whole if it
//! has one and everything in it agrees.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::VERSION;
use crate::checkpoint::{hash_file, hex};
use crate::durable::StagedDir;
use crate::error::{Error, Result, counted};
use crate::owner::{MANIFEST_FILE as FILE, plain_path};

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    schema: u32,
    tool_version: String,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// Lists what a folder under construction holds, as its last file.
pub fn write(staged: &StagedDir) -> Result<()> {
    let mut files = BTreeMap::new();
    measure_all(staged.path(), "", &mut files)?;
    let manifest = Manifest {
        schema: 1,
        tool_version: VERSION.to_owned(),
        files,
    };
    let json = serde_json::to_string_pretty(&manifest).expect("a manifest serializes") + "\n";
    staged.write(FILE, json.as_bytes())
}

/// Checks a folder against its manifest.
///
/// # Errors
/// There is none, or a listed file is missing or differs; the error names it.
pub fn verify(dir: &Path) -> Result<()> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::invalid(dir.display(), format!("there is no {FILE}")));
        }
        read => read.map_err(Error::io("read", &path))?,
    };
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(path.display(), format!("not a manifest: {e}")))?;
    for (name, expected) in &manifest.files {
        let file = dir.join(plain_path(name, &path)?);
        let differs = |what: String| Error::invalid(file.display(), what);
        let length = fs::metadata(&file)
            .map_err(|_| differs(format!("missing, {FILE} lists it")))?
            .len();
        if length != expected.bytes {
            let message = format!(
                "{}, {FILE} says {}",
                counted(length, "byte", "bytes"),
                expected.bytes
            );
            return Err(differs(message));
        }
        let found = measure(&file)?;
        if found != *expected {
            let message = format!("sha256 {}, {FILE} says {}", found.sha256, expected.sha256);
            return Err(differs(message));
        }
    }
    Ok(())
}

/// Measures the files of a folder, and of those in it; names begin with `prefix`.
fn measure_all(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Entry>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            measure_all(&path, &format!("{name}/"), files)?;
        } else {
            files.insert(name, measure(&path)?);
        }
    }
    Ok(())
}

fn measure(path: &Path) -> Result<Entry> {
    let mut hasher = Sha256::new();
    // A signal asks a run to save, so it does not stop this.
    let bytes = hash_file(path, &mut hasher, |_| Ok(()))?;
    let sha256 = hex(&hasher.finalize());
    Ok(Entry { bytes, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_found() {
        let root = tempfile::tempdir().unwrap();
        let staged = StagedDir::new(&root.path().join("c"), false).unwrap();
        staged.write("a", b"one").unwrap();
        staged.write("b", b"two").unwrap();
        write(&staged).unwrap();
        let dir = staged.publish().unwrap();
        verify(&dir).unwrap();
        for (change, word) in [(&b"onf"[..], "sha256"), (b"on", "2 bytes")] {
            fs::write(dir.join("a"), change).unwrap();
            let error = verify(&dir).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        fs::remove_file(dir.join("a")).unwrap();
        assert!(verify(&dir).unwrap_err().to_string().contains("missing"));
        fs::remove_file(dir.join(FILE)).unwrap();
        assert!(verify(&dir).is_err());
    }
}
