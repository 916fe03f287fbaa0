//! The folder that is made: whose it is, and what of it may be replaced.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::manifest::{FILE, Manifest, UNFINISHED};
use crate::error::{Error, Result, printable};
use crate::owner::{self, LOCK};
use crate::{durable, lock};

/// A folder that this process alone writes into.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Whether it was not there before.
    made: bool,
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
        durable::refuse_dangling(path)?;
        let made = !path.exists();
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
            made,
            _lock: lock,
        };
        let finished = folder.file(FILE);
        if let Some(found) = Manifest::read(&finished) {
            match found.difference(planned) {
                None if !force && folder.is_complete(&found) => {
                    folder.remove(UNFINISHED)?;
                    if owner::is_our_lock(path) {
                        folder.remove(LOCK)?;
                    }
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
        }
        // What was made here may have had another name, if the folder was renamed.
        let found = [FILE, UNFINISHED].map(|name| Manifest::read(&folder.file(name)));
        folder.refuse_strangers(&found, planned)?;
        // While there is work, the lock file keeps the word that marks temporary files as ours.
        drop(lock::lock(path)?);
        // In this order, so that a kill between two steps leaves a folder that is known as ours.
        durable::write_file(&folder.file(UNFINISHED), planned.text().as_bytes())?;
        folder.remove(FILE)?;
        for manifest in found.iter().flatten() {
            folder.sweep(manifest)?;
        }
        durable::sweep(path, &[])?;
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
        self.remove(UNFINISHED)?;
        self.remove(LOCK)
    }

    /// Takes away what a preparation that failed has written, and the folder if nothing is left.
    pub fn abandon(&self, planned: &Manifest) {
        // The error that is being reported matters more than one here.
        let _ = self.sweep(planned);
        let _ = durable::sweep(&self.path, &[]);
        let _ = self.remove(UNFINISHED);
        let _ = self.remove(LOCK);
        if self.made {
            let _ = fs::remove_dir(&self.path);
        }
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

    /// Removes the shards of an earlier attempt.
    fn sweep(&self, manifest: &Manifest) -> Result<()> {
        let names = owner::contents(&self.path)?.into_iter();
        for name in names.filter(|name| is_ours(name, manifest)) {
            self.remove(&name)?;
        }
        Ok(())
    }

    /// Refuses a folder with anything else than earlier preparations, `found`, left there; in one
    /// of theirs, only what is called as a shard will be.
    fn refuse_strangers(&self, found: &[Option<Manifest>], planned: &Manifest) -> Result<()> {
        let names = owner::contents(&self.path)?;
        // A kill before the first file was complete leaves a temporary one.
        let temporary = durable::left_behind(&self.path, &[])?;
        let known = found.iter().flatten().count() > 0;
        let stranger = names.iter().find(|name| {
            let ours = found.iter().flatten().any(|made| is_ours(name, made))
                || temporary.contains(&self.file(name))
                || (*name == LOCK && owner::is_our_lock(&self.path));
            !ours && (!known || planned.may_call(name))
        });
        let Some(stranger) = stranger else {
            return Ok(());
        };
        let (at, name) = (self.path.display(), &planned.name);
        Err(Error::usage(format!(
            "{at} holds `{}`, which was not made by `data prepare`",
            printable(stranger)
        ))
        .with_hint(format!(
            "choose another --out than a folder `{name}` that is in use"
        )))
    }
}

/// Whether a preparation wrote a file of this name: one that was finished lists its shards.
fn is_ours(name: &str, made: &Manifest) -> bool {
    if made.shards.is_empty() {
        return made.may_call(name);
    }
    made.shards.iter().any(|shard| shard.name == name)
}
