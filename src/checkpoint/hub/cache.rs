//! The cache on disk, in the layout that `huggingface_hub` reads and writes:
//! `models--org--name/{blobs/<hash>, snapshots/<commit>/<file> -> ../../blobs/<hash>,
//! refs/<revision>}`, and locks at `.locks/models--org--name/<hash>.lock`.
//!
//! A blob appears under its hash only by a rename, after its bytes were found to have that
//! hash. No two processes ever write the same file: each has a temporary file of its own, and
//! takes over what another left by copying it. Locks merely save double work, because on some
//! network file systems they do not lock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::checkpoint::hex;
use crate::checkpoint::weights::{Weights, shard_names};
use crate::durable;
use crate::error::{Error, Result, counted, printable};

use super::Progress;
use super::fault::Fault;
use super::reference::{RepoId, is_commit, is_hex};
use super::remote::{FileEntry, TICK, check_signal};

/// Blobs up to this size are hashed again each time they are used.
const CHEAP_HASH: u64 = 32 << 20;
/// An index of shards larger than this is none.
const MAX_INDEX: u64 = 32 << 20;
/// More shards than any checkpoint has.
const MAX_SHARDS: usize = 1000;

/// The hash that names a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BlobId {
    /// SHA-256 of the content: large files, kept in LFS.
    Sha256(String),
    /// SHA-1 of git's blob header and the content: small files, kept in git itself.
    Git(String),
}

impl BlobId {
    /// `text` as a SHA-256, if it can be one.
    pub fn sha256(text: String) -> Option<Self> {
        is_hex(&text, 64).then_some(Self::Sha256(text))
    }

    /// `text` as the hash of a git blob, if it can be one.
    pub fn git(text: String) -> Option<Self> {
        is_hex(&text, 40).then_some(Self::Git(text))
    }

    /// The hash in hex, which is also the file name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }

    fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Git(_) => Hasher::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }
}

/// A hash in progress.
#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Git(hasher) => hex(&hasher.finalize()),
        }
    }
}

/// The part of the cache that belongs to one repository.
pub(super) struct RepoCache {
    root: PathBuf,
    repo: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// The folders of `repo`, which has passed [`super::reference::check_repo`].
    pub fn new(root: &Path, repo: RepoId<'_>) -> Self {
        let folder = format!("{}--{}", repo.plural(), repo.name.replace('/', "--"));
        Self {
            root: root.to_owned(),
            repo: root.join(&folder),
            locks: root.join(".locks").join(&folder),
        }
    }

    /// The cache folder itself, for messages.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Creates the folder of blobs.
    pub fn prepare(&self) -> Result<()> {
        let blobs = self.repo.join("blobs");
        fs::create_dir_all(&blobs).map_err(Error::io("create", blobs))
    }

    fn blob(&self, id: &BlobId) -> PathBuf {
        self.repo.join("blobs").join(id.as_str())
    }

    /// Where the files of a commit stand.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }

    /// Whether the blob of `entry` is there and is what its name says. The content of large
    /// ones is trusted, it was hashed before it got the name.
    pub fn has(&self, entry: &FileEntry) -> bool {
        let path = self.blob(&entry.id);
        let right_size =
            fs::symlink_metadata(&path).is_ok_and(|m| m.is_file() && m.len() == entry.size);
        right_size
            && (entry.size > CHEAP_HASH
                || hash_file(&path, &entry.id, entry.size).is_ok_and(|h| h == entry.id.as_str()))
    }

    /// Makes the blob of `entry` visible as a file of the commit.
    pub fn link(&self, commit: &str, entry: &FileEntry) -> Result<()> {
        let path = self.snapshot(commit).join(&entry.name);
        let dir = durable::parent_of(&path);
        let up = "../".repeat(2 + entry.name.matches('/').count());
        let target = Path::new(&up).join("blobs").join(entry.id.as_str());
        if fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(());
        }
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let link = tempfile::Builder::new()
            .prefix(".tmp-")
            .make_in(&dir, |temp| std::os::unix::fs::symlink(&target, temp))
            .map_err(Error::io("create a link in", &dir))?;
        link.into_temp_path()
            .persist(&path)
            .map_err(|e| Error::io("rename to", &path)(e.error))?;
        durable::sync_dir(&dir)
    }

    /// Notes which commit `revision` names; for a commit itself there is nothing to note.
    pub fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.resolve(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.repo.join("refs").join(revision);
        let parent = durable::parent_of(&path);
        fs::create_dir_all(&parent).map_err(Error::io("create", parent))?;
        durable::write_file(&path, commit.as_bytes())
    }

    /// The commit that `revision` named when it was last fetched.
    pub fn resolve(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let mut text = String::new();
        File::open(self.repo.join("refs").join(revision))
            .ok()?
            .take(100)
            .read_to_string(&mut text)
            .ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// The first file that the cached commit lacks for a model to be loaded from it.
    pub fn missing(&self, commit: &str) -> Option<String> {
        let dir = self.snapshot(commit);
        let there = |name: &str| sound(&dir.join(name));
        if !there("config.json") {
            return Some("config.json".to_owned());
        }
        match Weights::choose(there) {
            None => Some("model.safetensors".to_owned()),
            Some(Weights::Single(_)) => None,
            Some(Weights::Sharded(index)) => match read_shards(&dir.join(index)) {
                Ok(shards) => shards.into_iter().find(|name| !there(name)),
                Err(_) => Some(index.to_owned()),
            },
        }
    }

    /// Fails if the disk cannot hold `bytes` more.
    pub fn check_space(&self, bytes: u64) -> Result<()> {
        // A file system that does not tell is given the benefit of the doubt.
        let Ok(disk) = rustix::fs::statvfs(&self.repo) else {
            return Ok(());
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        let text = format!(
            "the download needs {} MB, {} MB are free",
            bytes / 1_000_000,
            free / 1_000_000
        );
        Err(Error::io("download to", &self.root)(io::Error::new(
            io::ErrorKind::StorageFull,
            text,
        )))
    }

    /// Waits until no other process fetches the blob. `None` where locks do not work.
    pub async fn lock(&self, id: &BlobId, progress: &dyn Progress) -> Result<Option<File>> {
        fs::create_dir_all(&self.locks).map_err(Error::io("create", &self.locks))?;
        let path = self.locks.join(format!("{}.lock", id.as_str()));
        let file = no_follow()
            .write(true)
            .create(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(fs::TryLockError::Error(_)) => return Ok(None),
                Err(fs::TryLockError::WouldBlock) => check_signal()?,
            }
            if !std::mem::replace(&mut told, true) {
                progress.note("waiting for another process that fetches the same file");
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

/// A blob under construction, in a temporary file that only this process writes.
pub(super) struct Partial {
    temp: NamedTempFile<File>,
    kept: PathBuf,
    blob: PathBuf,
    id: BlobId,
    size: u64,
    length: u64,
    hasher: Hasher,
    inherited: bool,
}

impl Partial {
    /// Starts with what an earlier attempt left, if anything.
    pub fn open(cache: &RepoCache, entry: &FileEntry) -> Result<Self> {
        let blobs = cache.repo.join("blobs");
        let leftover = find_leftover(&blobs, entry);
        // Opened by us rather than by tempfile, which would make it private to this user.
        let temp = tempfile::Builder::new()
            .prefix(&format!("{}.", entry.id.as_str()))
            .suffix(".incomplete")
            .make_in(&blobs, |path| {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(path)
            })
            .map_err(Error::io("create a file in", &blobs))?;
        // Tells others that the file has an owner; see `find_leftover`.
        let _ = temp.as_file().try_lock();
        let mut partial = Self {
            temp,
            kept: blobs.join(format!("{}.incomplete", entry.id.as_str())),
            blob: cache.blob(&entry.id),
            id: entry.id.clone(),
            size: entry.size,
            length: 0,
            hasher: entry.id.hasher(entry.size),
            inherited: false,
        };
        if let Some((path, file)) = leftover {
            partial.absorb(&path, file)?;
        }
        Ok(partial)
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether all bytes are there.
    pub fn is_full(&self) -> bool {
        self.length == self.size
    }

    /// Whether it began with bytes that this process did not fetch.
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Appends bytes and returns how many.
    pub fn push(&mut self, bytes: &[u8]) -> Result<u64, Fault> {
        let added = bytes.len() as u64;
        if self.length + added > self.size {
            return Err(Fault::Mismatch(format!(
                "the server sends more than the {} of the listing",
                counted(self.size, "byte", "bytes")
            )));
        }
        self.temp
            .as_file_mut()
            .write_all(bytes)
            .map_err(Error::io("write", self.temp.path()))?;
        self.hasher.update(bytes);
        self.length += added;
        Ok(added)
    }

    /// Forgets all bytes.
    pub fn restart(&mut self) -> Result<()> {
        let path = self.temp.path().to_owned();
        let file = self.temp.as_file_mut();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .map_err(Error::io("truncate", path))?;
        self.length = 0;
        self.inherited = false;
        self.hasher = self.id.hasher(self.size);
        Ok(())
    }

    /// Fails unless the bytes have the hash of the listing.
    pub fn verify(&self) -> Result<(), Fault> {
        let found = self.hasher.clone().finish();
        if found == self.id.as_str() {
            return Ok(());
        }
        let kind = if matches!(self.id, BlobId::Git(_)) {
            "git hash"
        } else {
            "sha256"
        };
        Err(Fault::Mismatch(format!(
            "the file has {kind} {found}, expected {}",
            self.id.as_str()
        )))
    }

    /// Gives the verified bytes their name. False if the temporary file was lost, which can
    /// only happen where locks do not lock.
    pub fn publish(self) -> Result<bool> {
        self.temp
            .as_file()
            .sync_all()
            .map_err(Error::io("sync", self.temp.path()))?;
        match self.temp.persist(&self.blob) {
            Ok(_) => durable::sync_dir(&durable::parent_of(&self.blob)).map(|()| true),
            Err(failed) if failed.error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(failed) => Err(Error::io("rename to", &self.blob)(failed.error)),
        }
    }

    /// Leaves the bytes where the next attempt finds them.
    pub fn keep(self) {
        if self.length > 0 {
            // Failing to keep them costs time, nothing else.
            let _ = self.temp.persist(&self.kept);
        }
    }

    /// Copies what another process left, then removes it.
    fn absorb(&mut self, path: &Path, mut file: File) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            check_signal()?;
            let read = file.read(&mut buffer).map_err(Error::io("read", path))?;
            if read == 0 || self.push(&buffer[..read]).is_err() {
                break;
            }
        }
        self.inherited = true;
        fs::remove_file(path).map_err(Error::io("remove", path))
    }
}

/// The longest part of `entry` that an attempt left which is over: nobody holds its lock.
fn find_leftover(blobs: &Path, entry: &FileEntry) -> Option<(PathBuf, File)> {
    let prefix = format!("{}.", entry.id.as_str());
    let candidates = fs::read_dir(blobs).ok()?.flatten().filter(|found| {
        let name = found.file_name();
        name.to_str()
            .is_some_and(|name| name.starts_with(&prefix) && name.ends_with(".incomplete"))
    });
    let usable = candidates.filter_map(|found| {
        let file = no_follow().read(true).open(found.path()).ok()?;
        let metadata = file.metadata().ok()?;
        let fits = metadata.is_file() && (1..=entry.size).contains(&metadata.len());
        (fits && file.try_lock().is_ok()).then(|| (metadata.len(), found.path(), file))
    });
    usable
        .max_by_key(|(length, ..)| *length)
        .map(|(_, path, file)| (path, file))
}

/// Options that open neither through a symbolic link nor wait for a pipe.
fn no_follow() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

fn hash_file(path: &Path, id: &BlobId, size: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = id.hasher(size);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Whether a cached file is there, and a small one undamaged as far as the name of its blob
/// tells.
fn sound(path: &Path) -> bool {
    let Some(size) = fs::metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)
        .map(|m| m.len())
    else {
        return false;
    };
    let name = fs::read_link(path)
        .ok()
        .and_then(|target| Some(target.file_name()?.to_str()?.to_owned()));
    let id = name.and_then(|name| BlobId::git(name.clone()).or_else(|| BlobId::sha256(name)));
    match id {
        Some(id) if size <= CHEAP_HASH => {
            hash_file(path, &id, size).is_ok_and(|found| found == id.as_str())
        }
        _ => size > 0,
    }
}

/// The files that an index of shards names. They come from outside, so they must be plain.
///
/// # Errors
/// The index is too large, not an index, or names something that is no plain file name.
pub(super) fn read_shards(index: &Path) -> Result<BTreeSet<String>> {
    let mut text = Vec::new();
    let file = File::open(index).map_err(Error::io("open", index))?;
    file.take(MAX_INDEX + 1)
        .read_to_end(&mut text)
        .map_err(Error::io("read", index))?;
    if text.len() as u64 > MAX_INDEX {
        return Err(Error::invalid(
            index.display(),
            format!("an index of more than {} MiB", MAX_INDEX >> 20),
        ));
    }
    let names = shard_names(&text, index)?;
    if names.is_empty() || names.len() > MAX_SHARDS {
        return Err(Error::invalid(
            index.display(),
            format!("names {} shards, expected 1 to {MAX_SHARDS}", names.len()),
        ));
    }
    match names.iter().find(|name| !is_plain(name)) {
        Some(bad) => Err(Error::invalid(
            index.display(),
            format!("`{}` is not a plain file name", printable(bad)),
        )),
        None => Ok(names),
    }
}

fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let weights = [".safetensors", ".bin"]
        .iter()
        .any(|end| name.ends_with(end));
    weights && name.len() <= 200 && !name.starts_with(['.', '-']) && name.chars().all(allowed)
}
