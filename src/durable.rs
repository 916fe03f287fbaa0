//! The one way files and folders are published: written under a temporary name beside their
//! destination, synced, renamed, and the parent folder synced. A reader sees the old content,
//! the new content, or nothing; never a mix.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Passed before every operation on a published file or folder. With `SCALE_CKPT_KILL_AT=n` in
/// the environment the process kills itself at the n-th, and with `SCALE_CKPT_FAIL_AT=n` the
/// n-th fails: so that tests can visit every moment at which a crash or a fault may come.
///
/// # Errors
/// The failure that was asked for.
pub fn point(action: &'static str, path: &Path) -> Result<()> {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    static AT: LazyLock<[Option<u64>; 2]> = LazyLock::new(|| {
        ["SCALE_CKPT_KILL_AT", "SCALE_CKPT_FAIL_AT"]
            .map(|name| std::env::var(name).ok()?.parse().ok())
    });
    let [kill, fail] = *AT;
    if kill.is_none() && fail.is_none() {
        return Ok(());
    }
    let passed = Some(PASSED.fetch_add(1, Ordering::Relaxed) + 1);
    if passed == kill {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    if passed == fail {
        return Err(Error::io(action, path)(rustix::io::Errno::IO.into()));
    }
    Ok(())
}

/// Removes a folder of ours: out of sight first, so that a crash leaves no half of it.
pub fn remove_dir(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = parent_of(path).join(format!(".{name}.tmp-removed"));
    point("remove", path)?;
    fs::rename(path, &aside).map_err(Error::io("remove", path))?;
    point("remove", &aside)?;
    fs::remove_dir_all(&aside).map_err(Error::io("remove", aside))
}

/// Writes one file durably, replacing what is there.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary_file(&parent_of(path))?;
    point("write", path)?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    publish_file(file, path)
}

/// Writes one value as a JSON file, durably.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("a record serializes") + "\n";
    write_file(path, text.as_bytes())
}

/// A file under construction in `dir`, with the mode of plain files.
pub fn temporary_file(dir: &Path) -> Result<NamedTempFile> {
    point("create a file in", dir)?;
    tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(umask_mode(0o666))
        .tempfile_in(dir)
        .map_err(Error::io("create a file in", dir))
}

/// Syncs a file under construction and gives it its name, in the folder where it is.
pub fn publish_file(file: NamedTempFile, path: &Path) -> Result<()> {
    point("sync", path)?;
    file.as_file().sync_all().map_err(Error::io("sync", path))?;
    point("rename to", path)?;
    file.persist(path)
        .map_err(|e| Error::io("rename to", path)(e.error))?;
    sync_dir(&parent_of(path))
}

/// A folder under construction. Dropped before [`StagedDir::publish`], it is removed.
#[derive(Debug)]
pub struct StagedDir {
    staging: tempfile::TempDir,
    destination: PathBuf,
    force: bool,
}

impl StagedDir {
    /// Starts a folder that will become `destination`.
    ///
    /// # Errors
    /// The destination exists and `force` is false, or its parent cannot be written.
    pub fn new(destination: &Path, force: bool) -> Result<Self> {
        refuse_existing(destination, force)?;
        let parent = parent_of(destination);
        fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
        let name = destination
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        let staging = tempfile::Builder::new()
            .prefix(&format!(".{name}.tmp-"))
            .permissions(umask_mode(0o777))
            .tempdir_in(&parent)
            .map_err(Error::io("create a folder in", &parent))?;
        Ok(Self {
            staging,
            destination: destination.to_owned(),
            force,
        })
    }

    /// The folder to write into.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Creates a new file in the staging folder.
    pub fn create(&self, name: &str) -> Result<File> {
        let path = self.path().join(name);
        point("create", &path)?;
        File::create_new(&path).map_err(Error::io("create", path))
    }

    /// Writes a small file into the staging folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path().join(name);
        point("write", &path)?;
        fs::write(&path, bytes).map_err(Error::io("write", path))
    }

    /// Syncs every file, renames the folder into place, syncs the parent.
    pub fn publish(self) -> Result<PathBuf> {
        sync_tree(self.staging.path())?;
        refuse_existing(&self.destination, self.force)?;
        let Self {
            staging,
            destination,
            ..
        } = self;
        let parent = parent_of(&destination);
        let replaced = destination.exists();
        point("rename to", &destination)?;
        if replaced {
            // Swap in one step, so that a crash leaves either the old or the new folder.
            exchange(staging.path(), &destination)?;
            sync_dir(&parent)?;
            staging
                .close()
                .map_err(Error::io("remove the replaced", &destination))?;
        } else {
            fs::rename(staging.path(), &destination)
                .map_err(Error::io("rename to", &destination))?;
            let _ = staging.keep();
            sync_dir(&parent)?;
        }
        Ok(destination)
    }
}

/// Refuses a destination that exists, unless forced. What `--force` replaces must hold nothing
/// but a checkpoint's files, so that a slip does not delete anything else.
pub fn refuse_existing(destination: &Path, force: bool) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(destination) else {
        return Ok(());
    };
    if !force {
        return Err(
            Error::usage(format!("{} exists already", destination.display()))
                .with_hint("choose another --out, or replace it with --force"),
        );
    }
    let recognised = metadata.is_dir() && holds_only_a_checkpoint(destination);
    if recognised {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} is not a checkpoint folder; --force will not replace it",
        destination.display()
    )))
}

/// The files that a folder's own records list: what a growth has copied along, and what a
/// checkpoint of a run is made of.
fn recorded_files(dir: &Path) -> Vec<PathBuf> {
    let record = |name: &str| -> serde_json::Value {
        let bytes = fs::read(dir.join(name)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    };
    let (growth, manifest) = (record("growth.json"), record("manifest.json"));
    let copied = growth["companions"].as_array().into_iter().flatten();
    let copied = copied.filter_map(serde_json::Value::as_str);
    let files = manifest["files"].as_object().into_iter().flatten();
    let files = files.map(|(name, _)| name.as_str());
    copied.chain(files).map(|name| dir.join(name)).collect()
}

/// Whether a folder and all in it holds nothing but files that are listed.
fn holds_only(dir: &Path, listed: &[PathBuf]) -> bool {
    let known = |entry: std::io::Result<fs::DirEntry>| {
        let Ok(entry) = entry else { return false };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => holds_only(&entry.path(), listed),
            _ => listed.contains(&entry.path()),
        }
    };
    let entries = |dir| fs::read_dir(dir).into_iter().flatten();
    entries(dir).count() > 0 && entries(dir).all(known)
}

/// Whether every entry of a folder is a plain file of a kind that checkpoints are made of, or is
/// one that its records list.
fn holds_only_a_checkpoint(dir: &Path) -> bool {
    let recorded = recorded_files(dir);
    let part = |entry: std::io::Result<fs::DirEntry>| {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name();
        let extension = Path::new(&name).extension().unwrap_or_default();
        let kinds = ["json", "safetensors", "bin", "toml", "jinja", "model"];
        let named = [
            "merges.txt",
            "vocab.txt",
            "README.md",
            "LICENSE",
            ".gitattributes",
        ];
        let known = kinds.iter().any(|kind| extension == *kind) || named.iter().any(|n| name == *n);
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => holds_only(&entry.path(), &recorded),
            Ok(_) => known || recorded.contains(&entry.path()),
            Err(_) => false,
        }
    };
    let empty = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    // A folder of token shards has files of such kinds as well, but no config.
    (empty || dir.join("config.json").is_file())
        && fs::read_dir(dir).is_ok_and(|mut entries| entries.all(part))
}

/// Removes what a killed process left half-written; the lock is held, so nobody is writing.
/// `staged` are beginnings of folders' names.
///
/// # Errors
/// The folder cannot be listed, or something in it not removed.
pub fn sweep(dir: &Path, staged: &[&str]) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let staged = staged.iter().any(|own| name.starts_with(own));
        if name.starts_with(".tmp-") || (staged && name.contains(".tmp-")) {
            let path = entry.path();
            point("remove", &path)?;
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Takes a folder for this process, for as long as the file that is returned stays open.
///
/// # Errors
/// [`Error::Locked`] if another process has it.
pub fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    if let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if errno != rustix::io::Errno::WOULDBLOCK {
            return Err(Error::io("lock", &path)(errno.into()));
        }
        let owner = fs::read_to_string(&path).unwrap_or_default();
        let owner = if owner.trim().is_empty() {
            "another process".to_owned()
        } else {
            crate::error::printable(owner.trim())
        };
        return Err(Error::Locked {
            path: dir.to_owned(),
            owner,
        });
    }
    file.set_len(0).map_err(Error::io("write", &path))?;
    writeln!(file, "process {}", std::process::id()).map_err(Error::io("write", &path))?;
    Ok(file)
}

/// Syncs a folder, so that renames within it survive a power cut.
pub fn sync_dir(dir: &Path) -> Result<()> {
    point("sync", dir)?;
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(Error::io("sync", dir))
}

fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            point("sync", &path)?;
            File::open(&path)
                .and_then(|f| f.sync_all())
                .map_err(Error::io("sync", &path))?;
        }
    }
    sync_dir(dir)
}

/// The folder that holds `path`; `.` for a bare name.
pub fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The mode a plain `open` would give: temporary files are private by default, published
/// files must not be.
fn umask_mode(mode: u32) -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    fs::Permissions::from_mode(mode & !umask.bits())
}

/// Swaps two folders in one system call where the file system can, in two renames where not.
fn exchange(staging: &Path, destination: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if renameat_with(CWD, staging, CWD, destination, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    let aside = staging.with_extension("old");
    fs::rename(destination, &aside).map_err(Error::io("move aside", destination))?;
    fs::rename(staging, destination).map_err(Error::io("rename to", destination))?;
    fs::rename(&aside, staging).map_err(Error::io("move", &aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staged_folder_appears_only_when_published() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let staged = StagedDir::new(&out, false).unwrap();
        staged.write("config.json", b"{}").unwrap();
        assert!(!out.exists());
        staged.publish().unwrap();
        assert_eq!(fs::read(out.join("config.json")).unwrap(), b"{}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_dropped_folder_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        drop(StagedDir::new(&root.path().join("out"), false).unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn force_replaces_a_checkpoint_but_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("diary.txt"), "dear").unwrap();
        assert!(StagedDir::new(&out, false).is_err());
        assert!(StagedDir::new(&out, true).is_err());
        fs::write(out.join("config.json"), "old").unwrap();
        assert!(
            StagedDir::new(&out, true).is_err(),
            "the diary is still there"
        );
        fs::remove_file(out.join("diary.txt")).unwrap();
        let staged = StagedDir::new(&out, true).unwrap();
        staged.write("config.json", b"new").unwrap();
        staged.publish().unwrap();
        assert_eq!(fs::read(out.join("config.json")).unwrap(), b"new");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn published_files_have_the_mode_of_plain_ones() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let ours = root.path().join("ours");
        let plain = root.path().join("plain");
        write_file(&ours, b"x").unwrap();
        fs::write(&plain, "x").unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
