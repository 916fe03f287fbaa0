//! The folder that is made: whose it is, and what of it may be replaced.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::manifest::{FILE, Manifest, UNFINISHED};
use crate::durable;
use crate::error::{Error, Result};

/// A folder that this process alone writes into.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// What a folder was found to be.
pub(super) enum Claim {
    /// Made already, from the same inputs in the same way.
    Finished(Box<Manifest>),
    /// To be filled.
    Work(Folder),
}

impl Folder {
    /// Takes a new or empty folder, one that an earlier preparation did not finish, or, if
    /// forced, one that it did, whatever it was made from. Nothing but what a preparation writes is ever removed.
    ///
    /// # Errors
    /// There is something else in the folder, or another process works there.
    pub fn claim(path: &Path, planned: &Manifest, force: bool) -> Result<Claim> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let lock = File::open(path).map_err(Error::io("open", path))?;
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            return Err(Error::Locked {
                path: path.to_owned(),
                owner: "another `data prepare`".to_owned(),
            });
        }
        let folder = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        let finished = folder.file(FILE);
        if let Some(found) = Manifest::read(&finished) {
            match found.difference(planned) {
                None if !force && folder.is_complete(&found) => {
                    folder.remove(UNFINISHED)?;
                    return Ok(Claim::Finished(Box::new(found)));
                }
                None => {}
                Some(_) if force => {}
                Some(what) => {
                    let at = path.display();
                    return Err(Error::usage(format!("{at} was made from other {what}"))
                        .with_hint("choose another --out, or replace what is there with --force"));
                }
            }
        } else if !folder.file(UNFINISHED).exists() {
            folder.refuse_strangers(planned)?;
        }
        // What was made here may have had another name, if the folder was renamed.
        let found = [FILE, UNFINISHED].map(|name| Manifest::read(&folder.file(name)));
        // In this order, so that a kill between two steps leaves a folder that is known as ours.
        durable::write_file(&folder.file(UNFINISHED), planned.text().as_bytes())?;
        folder.remove(FILE)?;
        for manifest in found.iter().flatten().chain([planned]) {
            folder.sweep(manifest)?;
        }
        Ok(Claim::Work(folder))
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the manifest, which makes the folder complete.
    pub fn finish(&self, manifest: &Manifest) -> Result<()> {
        durable::write_file(&self.file(FILE), manifest.text().as_bytes())?;
        self.remove(UNFINISHED)
    }

    /// Takes away what a preparation that failed has written, and the folder if nothing is left.
    pub fn abandon(&self, planned: &Manifest) {
        // The error that is being reported matters more than one here.
        let _ = self.sweep(planned);
        let _ = self.remove(UNFINISHED);
        let _ = fs::remove_dir(&self.path);
    }

    /// Whether every shard of the manifest is there in its size.
    fn is_complete(&self, manifest: &Manifest) -> bool {
        manifest.shards.iter().all(|shard| {
            let expected = super::writer::bytes_of(shard.tokens);
            fs::metadata(self.file(&shard.name)).is_ok_and(|m| m.len() == expected)
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
            _ => Ok(()),
        }
    }

    /// Names in the folder.
    fn names(&self) -> Result<Vec<String>> {
        let list = |e| Error::io("list", &self.path)(e);
        let entries = fs::read_dir(&self.path).map_err(list)?;
        entries
            .map(|entry| {
                Ok(entry
                    .map_err(list)?
                    .file_name()
                    .to_string_lossy()
                    .into_owned())
            })
            .collect()
    }

    /// Removes shards and temporary files of an earlier attempt.
    fn sweep(&self, planned: &Manifest) -> Result<()> {
        for name in self.names()?.iter().filter(|name| is_ours(name, planned)) {
            self.remove(name)?;
        }
        Ok(())
    }

    fn refuse_strangers(&self, planned: &Manifest) -> Result<()> {
        // A kill before the first file was complete leaves a temporary one.
        let names = self.names()?;
        let stranger = names.iter().find(|name| !name.starts_with(".tmp-"));
        let Some(stranger) = stranger else {
            return Ok(());
        };
        let (at, name) = (self.path.display(), &planned.name);
        Err(Error::usage(format!(
            "{at} holds `{}` and was not made by `data prepare`",
            crate::error::printable(stranger)
        ))
        .with_hint(format!(
            "choose another --out than a folder `{name}` that is in use"
        )))
    }
}

/// Whether a preparation may have written a file of this name.
fn is_ours(name: &str, planned: &Manifest) -> bool {
    let number = |rest: &str| {
        let rest = rest
            .strip_prefix("train_")
            .or_else(|| rest.strip_prefix("val_"));
        let digits = rest.and_then(|rest| rest.strip_suffix(".bin"));
        digits.is_some_and(|d| d.len() == 6 && d.bytes().all(|b| b.is_ascii_digit()))
    };
    let shard = name.strip_prefix(planned.name.as_str());
    let shard = shard.and_then(|rest| rest.strip_prefix('_'));
    name.starts_with(".tmp-") || shard.is_some_and(number)
}
