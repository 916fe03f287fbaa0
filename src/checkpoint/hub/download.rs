//! One file, from the hub into the cache.

use crate::error::Result;

use super::Progress;
use super::cache::{Partial, RepoCache};
use super::fault::Fault;
use super::reference::RepoId;
use super::remote::{FileEntry, Remote, TRIES};

/// A repository at one commit, and where its files go.
pub(super) struct Download<'a> {
    pub remote: &'a Remote<'a>,
    pub cache: &'a RepoCache,
    pub repo: RepoId<'a>,
    pub commit: &'a str,
    pub progress: &'a dyn Progress,
}

impl Download<'_> {
    /// Sees to it that the file is in the cache, intact, and a file of the commit.
    ///
    /// # Errors
    /// The hub does not deliver the bytes of the listing, a signal arrived, or the disk failed.
    pub async fn obtain(&self, entry: &FileEntry) -> Result<()> {
        while !self.cache.has(entry) {
            let _lock = self.cache.lock(&entry.id, self.progress).await?;
            if self.cache.has(entry) || self.fetch(entry).await? {
                break;
            }
        }
        self.cache.link(self.commit, entry)
    }

    /// Fetches and publishes the file; false if somebody took the temporary file away.
    async fn fetch(&self, entry: &FileEntry) -> Result<bool> {
        let mut partial = Partial::open(self.cache, entry)?;
        self.progress.start(&entry.name, entry.size, partial.len());
        let outcome = self.fill(entry, &mut partial).await;
        self.progress.finish();
        match outcome {
            Ok(()) => partial.publish(),
            Err(fault) => {
                if !matches!(fault, Fault::Mismatch(_)) {
                    partial.keep();
                }
                let what = format!("{}: {}", self.repo.name, entry.name);
                Err(fault.explain(&what, self.remote.config))
            }
        }
    }

    /// Repeats [`Self::try_once`] while there is hope.
    async fn fill(&self, entry: &FileEntry, partial: &mut Partial) -> Result<(), Fault> {
        let mut attempt = 1;
        loop {
            let fault = match self.try_once(entry, partial, attempt).await {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            // Bytes that were here before may be the ones that are wrong.
            let stale = matches!(fault, Fault::Mismatch(_)) && partial.is_inherited();
            if stale || matches!(fault, Fault::NoRange) {
                partial.restart()?;
                self.progress.start(&entry.name, entry.size, 0);
            } else if !fault.is_passing() {
                return Err(fault);
            }
            attempt += 1;
            if attempt > TRIES {
                return Err(fault);
            }
            if !stale {
                self.remote.pause(attempt, &fault).await?;
            }
        }
    }

    /// Fetches what is missing, then compares the hash.
    async fn try_once(
        &self,
        entry: &FileEntry,
        partial: &mut Partial,
        attempt: u32,
    ) -> Result<(), Fault> {
        if !partial.is_full() || partial.len() == 0 {
            let mut body = if attempt == 1 && partial.len() == 0 {
                self.remote.start(self.repo, self.commit, entry).await?
            } else {
                self.remote
                    .resume(self.repo, self.commit, entry, partial.len())
                    .await?
            };
            let limit = self.remote.config.timeout;
            loop {
                match body.feed(partial, limit).await {
                    Ok(Some(bytes)) => self.progress.advance(bytes),
                    Ok(None) | Err(Fault::Network(_)) => break,
                    Err(fault) => return Err(fault),
                }
            }
        }
        if !partial.is_full() {
            return Err(Fault::Cut {
                got: partial.len(),
                size: entry.size,
            });
        }
        partial.verify()
    }
}
