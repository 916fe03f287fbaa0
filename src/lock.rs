//! A folder's lock: one process at a time works there.
//!
//! The lock file also keeps the folder's own word, which names of temporary files hold: so that
//! the next process can tell those of a killed one from anybody else's.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};
use crate::owner::LOCK;

/// What the line of a lock file begins with that keeps the folder's word.
const WORD_LINE: &str = "temporaries ";

/// The word of a folder, kept by its lock file.
pub fn word_of(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(dir.join(LOCK)).ok()?;
    let word = text.lines().find_map(|line| line.strip_prefix(WORD_LINE))?;
    let sound = word.len() == 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
    sound.then(|| word.to_owned())
}

/// A word that nobody else has.
fn new_word() -> String {
    use std::hash::{BuildHasher, Hasher};
    // Keyed anew by the system for every process.
    let state = std::collections::hash_map::RandomState::new();
    format!("{:016x}", state.build_hasher().finish())
}

/// Takes a folder for this process, for as long as the file that is returned stays open.
///
/// # Errors
/// [`Error::Locked`] if another process has it.
pub fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    take(&file, dir)?;
    let word = word_of(dir).unwrap_or_else(new_word);
    let text = format!("process {}\n{WORD_LINE}{word}\n", std::process::id());
    // Over what is there, so that a kill never leaves the folder without its word.
    let written = file.write_all(text.as_bytes());
    written
        .and_then(|()| file.set_len(text.len() as u64))
        .map_err(Error::io("write", &path))?;
    Ok(file)
}

/// Fails where another process works in a folder; writes nothing.
///
/// # Errors
/// [`Error::Locked`], or the lock cannot be read.
pub fn check_free(dir: &Path) -> Result<()> {
    match File::open(dir.join(LOCK)) {
        Ok(file) => take(&file, dir),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("open", dir.join(LOCK))(e)),
    }
}

/// Locks the open lock file of a folder.
fn take(file: &File, dir: &Path) -> Result<()> {
    let path = dir.join(LOCK);
    let Err(errno) = flock(file, FlockOperation::NonBlockingLockExclusive) else {
        return Ok(());
    };
    if errno != rustix::io::Errno::WOULDBLOCK {
        return Err(Error::io("lock", &path)(errno.into()));
    }
    let owner = fs::read_to_string(&path).unwrap_or_default();
    let owner = match owner.lines().next() {
        None | Some("") => "another process".to_owned(),
        Some(owner) => crate::error::printable(owner.trim()),
    };
    Err(Error::Locked {
        path: dir.to_owned(),
        owner,
    })
}
