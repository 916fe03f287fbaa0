//! The one way files and folders are published: written under a temporary name beside their
//! destination, synced, renamed, and the parent folder synced. A reader sees the old content,
//! the new content, or nothing; never a mix.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::{lock, owner};

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
    let (name, parent) = (path.file_name().unwrap_or_default(), parent_of(path));
    let aside = format!(".{}{}removed", name.to_string_lossy(), temporary(&parent));
    let aside = parent.join(aside);
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
        .prefix(&temporary(dir))
        .permissions(umask_mode(0o666))
        .tempfile_in(dir)
        .map_err(Error::io("create a file in", dir))
}

/// Syncs a file under construction and gives it its name, in the folder where it is. A file that
/// it replaces leaves it its mode, so that what is private stays so.
pub fn publish_file(file: NamedTempFile, path: &Path) -> Result<()> {
    if let Some(replaced) = fs::symlink_metadata(path).ok().filter(|old| old.is_file()) {
        take_after(file.path(), &replaced, 0).map_err(Error::io("set the mode of", path))?;
    }
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
    /// As the user calls it.
    destination: PathBuf,
    /// Where it is, once links are followed.
    place: PathBuf,
    /// Whether the place is an empty folder that cannot be replaced as a whole.
    inside: bool,
    force: bool,
}

impl StagedDir {
    /// Starts a folder that will become `destination`.
    ///
    /// # Errors
    /// The destination is there and not empty, and either `force` is false or it holds what this
    /// program did not make; or its parent cannot be written.
    pub fn new(destination: &Path, force: bool) -> Result<Self> {
        refuse_existing(destination, force)?;
        let exists = destination.is_dir();
        let place = if exists {
            fs::canonicalize(destination).map_err(Error::io("find", destination))?
        } else {
            destination.to_owned()
        };
        let parent = parent_of(&place);
        fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let empty = exists && owner::contents(&place)?.is_empty();
        let mut inside = empty && stays(&place, &parent)?;
        let stage_in = |dir: &Path| {
            tempfile::Builder::new()
                .prefix(&format!(".{name}{}", temporary(dir)))
                .permissions(umask_mode(0o777))
                .tempdir_in(dir)
        };
        let staging = match stage_in(if inside { &place } else { &parent }) {
            // A folder that somebody else made for us, where we may make none.
            Err(_) if empty && !inside => {
                inside = true;
                stage_in(&place)
            }
            staged => staged,
        };
        let at = if inside { &place } else { &parent };
        let staging = staging.map_err(Error::io("create a folder in", at))?;
        if exists && !inside {
            // From the beginning, so that nobody reads meanwhile what they could not read then.
            let replaced = fs::metadata(&place).map_err(Error::io("read", &place))?;
            take_after(staging.path(), &replaced, 0o700)
                .map_err(Error::io("set the mode of", staging.path()))?;
        }
        Ok(Self {
            staging,
            destination: destination.to_owned(),
            place,
            inside,
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
        if self.inside {
            return self.move_in();
        }
        refuse_existing(&self.destination, self.force)?;
        let Self {
            staging,
            destination,
            place,
            ..
        } = self;
        let parent = parent_of(&place);
        let replaced = place.exists() && !owner::contents(&place)?.is_empty();
        if let Ok(old) = fs::metadata(&place) {
            take_after(staging.path(), &old, 0).map_err(Error::io("set the mode of", &place))?;
        }
        point("rename to", &place)?;
        if replaced {
            // Swap in one step, so that a crash leaves either the old or the new folder.
            exchange(staging.path(), &place)?;
            sync_dir(&parent)?;
            staging
                .close()
                .map_err(Error::io("remove the replaced", &place))?;
        } else {
            fs::rename(staging.path(), &place).map_err(Error::io("rename to", &place))?;
            let _ = staging.keep();
            sync_dir(&parent)?;
        }
        Ok(destination)
    }

    /// Moves file by file into an empty folder that stays. `config.json` comes last: what has
    /// none is no checkpoint to anybody.
    fn move_in(self) -> Result<PathBuf> {
        let from = self.staging.path();
        let mut names = owner::contents(from)?;
        names.sort_by_key(|name| name == "config.json");
        for name in names {
            let to = self.place.join(&name);
            point("rename to", &to)?;
            fs::rename(from.join(&name), &to).map_err(Error::io("rename to", &to))?;
        }
        sync_dir(&self.place)?;
        let removed = self.staging.close();
        removed.map_err(Error::io("remove", &self.place))?;
        Ok(self.destination)
    }
}

/// Whether an empty folder is not to be replaced by another: the working folder, which would be
/// gone under the feet of the shell, a mounted one, or one with files of the system.
fn stays(dir: &Path, parent: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev());
    let mounted = device(dir).ok() != device(parent).ok();
    let here = std::env::current_dir().and_then(fs::canonicalize);
    let used = fs::read_dir(dir).map_err(Error::io("list", dir))?.count() > 0;
    Ok(mounted || used || here.is_ok_and(|here| here == dir))
}

/// Refuses a destination that is there and not empty, unless forced. What `--force` replaces must
/// hold nothing but what this program made, so that a slip does not delete anything else.
pub fn refuse_existing(destination: &Path, force: bool) -> Result<()> {
    refuse_dangling(destination)?;
    if fs::symlink_metadata(destination).is_err() {
        return Ok(());
    }
    let (at, is_dir) = (destination.display(), destination.is_dir());
    if is_dir && owner::contents(destination)?.is_empty() {
        return Ok(());
    }
    let strangers = if is_dir {
        owner::strangers(destination)?
    } else {
        None
    };
    match strangers {
        Some(strangers) if strangers.is_empty() && force => Ok(()),
        Some(strangers) if strangers.is_empty() => {
            Err(Error::usage(format!("{at} exists already"))
                .with_hint("choose another --out, or replace it with --force"))
        }
        _ if !force => Err(Error::usage(format!("{at} exists already"))
            .with_hint("choose another --out; scale-ckpt did not make all of it, so that --force will not replace it")),
        None => Err(Error::usage(format!(
            "{at} is not a checkpoint folder that scale-ckpt made; --force will not replace it"
        ))
        .with_hint("choose another --out, or remove it yourself")),
        Some(strangers) => Err(Error::usage(format!(
            "{at} is not a checkpoint folder alone: --force would delete {}, which scale-ckpt did not make",
            owner::listed(&strangers)
        ))
        .with_hint("choose another --out, or move that elsewhere")),
    }
}

/// Refuses a folder that is, or would lie in, a link to what is not there: nothing can be made of
/// that name, and what was meant to stand behind it is not known.
///
/// # Errors
/// It is such a link.
pub fn refuse_dangling(dir: &Path) -> Result<()> {
    // Without a slash at the end, behind which no link is seen.
    let dir: PathBuf = dir.components().collect();
    for part in dir.ancestors().filter(|part| !part.as_os_str().is_empty()) {
        let Ok(target) = fs::read_link(part) else {
            continue;
        };
        if matches!(fs::metadata(part), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
            let (at, target) = (part.display(), target.display());
            return Err(
                Error::usage(format!("{at} is a link to {target}, which is not there"))
                    .with_hint("create what it names, remove the link, or name another folder"),
            );
        }
    }
    Ok(())
}

/// What stands in names of temporary files and folders in `dir` before what tells them apart. In
/// a locked folder, and in those within it, it holds the folder's own word, which proves later
/// that they were made here.
fn temporary(dir: &Path) -> String {
    let word = dir.ancestors().take(2).find_map(lock::word_of);
    word.map_or_else(|| ".tmp-".to_owned(), |word| format!(".tmp-{word}-"))
}

/// Temporary files and folders in a locked folder that a process of ours left half-written.
/// `staged` are beginnings of folders' names.
///
/// # Errors
/// The folder cannot be listed.
pub fn left_behind(dir: &Path, staged: &[&str]) -> Result<Vec<PathBuf>> {
    let Some(word) = dir.ancestors().take(2).find_map(lock::word_of) else {
        return Ok(Vec::new());
    };
    let mark = format!(".tmp-{word}-");
    let ours = |name: &str| {
        let staged = staged.iter().any(|own| name.starts_with(own));
        name.starts_with(&mark) || (staged && name.contains(&mark))
    };
    let names = owner::contents(dir)?.into_iter();
    Ok(names
        .filter(|name| ours(name))
        .map(|name| dir.join(name))
        .collect())
}

/// Removes what a killed process left half-written; the lock is held, so nobody is writing.
///
/// # Errors
/// The folder cannot be listed, or something in it not removed.
pub fn sweep(dir: &Path, staged: &[&str]) -> Result<()> {
    for path in left_behind(dir, staged)? {
        point("remove", &path)?;
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
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

/// Gives what will replace `old` its owner and group where that is allowed, and its mode with the
/// bits of `besides`. Where the group stays another, it may do no more than everybody may: the
/// mode was meant for the old one.
fn take_after(path: &Path, old: &fs::Metadata, besides: u32) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let mut mode = (old.mode() & 0o7777) | besides;
    let new = fs::metadata(path)?;
    if new.uid() != old.uid() {
        // Only the superuser may.
        let _ = chown(path, Some(old.uid()), None);
    }
    if new.gid() != old.gid() && chown(path, None, Some(old.gid())).is_err() {
        mode = (mode & !0o6070) | ((mode & 0o007) << 3);
    }
    // After the owner, whose change clears bits of the mode.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
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
        fs::write(out.join("growth.json"), r#"{"tool": "scale-ckpt"}"#).unwrap();
        let error = StagedDir::new(&out, true).unwrap_err().to_string();
        assert!(error.contains("`diary.txt`"), "{error}");
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

    #[test]
    fn what_replaces_something_has_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o7777;
        let set =
            |p: &Path, mode| fs::set_permissions(p, fs::Permissions::from_mode(mode)).unwrap();
        for wanted in [0o700, 0o2770, 0o750, 0o777] {
            let out = root.path().join(format!("{wanted:o}"));
            fs::create_dir(&out).unwrap();
            set(&out, wanted);
            // Into an empty folder, then over what was made there.
            for force in [false, true] {
                let staged = StagedDir::new(&out, force).unwrap();
                assert_eq!(mode(staged.path()), wanted, "private from the beginning");
                staged
                    .write("growth.json", br#"{"tool": "scale-ckpt"}"#)
                    .unwrap();
                staged.write("config.json", b"{}").unwrap();
                staged.publish().unwrap();
                assert_eq!(mode(&out), wanted, "{force}");
            }
            let file = out.join("config.json");
            set(&file, wanted & 0o666);
            write_file(&file, b"x").unwrap();
            assert_eq!(mode(&file), wanted & 0o666);
        }
    }

    #[test]
    fn an_empty_folder_is_filled() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        // Of its own, behind a link, and with a file of the system in it.
        for case in 0..3 {
            fs::create_dir(&out).unwrap();
            let link = root.path().join("link");
            let destination = if case == 1 {
                symlink(&out, &link).unwrap();
                &link
            } else {
                &out
            };
            let before = fs::metadata(&out).unwrap().ino();
            if case == 2 {
                fs::write(out.join(".DS_Store"), "x").unwrap();
            }
            let staged = StagedDir::new(destination, false).unwrap();
            staged.write("config.json", b"{}").unwrap();
            staged.write("a", b"a").unwrap();
            assert!(!out.join("config.json").exists());
            staged.publish().unwrap();
            assert_eq!(fs::read(out.join("config.json")).unwrap(), b"{}");
            assert_eq!(fs::read(out.join("a")).unwrap(), b"a");
            let kept = fs::metadata(&out).unwrap().ino() == before;
            assert_eq!(kept, case == 2, "replaced in one step where it can be");
            let count = fs::read_dir(&out).unwrap().count();
            assert_eq!(count, if case == 2 { 3 } else { 2 });
            fs::remove_dir_all(&out).unwrap();
            let _ = fs::remove_file(&link);
        }
    }

    #[test]
    fn only_what_was_made_here_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        drop(lock::lock(dir).unwrap());
        let ours = temporary_file(dir).unwrap().keep().unwrap().1;
        let mine = [".tmp-xyz", ".step-1.tmp-abc", ".tmp-0123456789abcdef-x"];
        for name in mine {
            fs::write(dir.join(name), "mine").unwrap();
        }
        // The folder's word outlives the process.
        drop(lock::lock(dir).unwrap());
        sweep(dir, &[".step-"]).unwrap();
        assert!(!ours.exists());
        for name in mine {
            assert!(dir.join(name).exists(), "{name}");
        }
    }
}
