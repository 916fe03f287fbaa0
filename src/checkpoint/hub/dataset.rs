//! Files of a dataset, into the same cache and verified like those of models.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, counted, printable};

use super::cache::RepoCache;
use super::download::Download;
use super::reference::{DatasetRef, RepoId};
use super::remote::{FileEntry, Remote, TRIES, is_path};
use super::{HubConfig, Progress, block_on};

/// Sees to it that the files which `wanted` picks by name are in the cache, and says where,
/// sorted by name. Only what is below `folder` is listed.
///
/// Without a network, the files that are in the cache are taken for all there are, and `progress`
/// is told so.
///
/// # Errors
/// There is no such file, the hub does not deliver, the disk is full, or a signal arrived.
pub fn fetch_files(
    dataset: &DatasetRef,
    folder: &str,
    wanted: &dyn Fn(&str) -> bool,
    config: &HubConfig,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    let repo = RepoId::dataset(&dataset.repo);
    let request = Request {
        repo,
        revision: dataset.revision.as_deref().unwrap_or("main"),
        folder,
        wanted,
        config,
        progress,
        cache: RepoCache::new(&config.cache, repo),
    };
    let files = if config.offline {
        request.offline()?
    } else {
        block_on(&request.what(), config, request.online())?
    };
    if files.is_empty() {
        return Err(Error::Hub {
            what: request.what(),
            message: format!("no file in `{}` is meant by that", printable(folder)),
            hint: Some("look at the dataset's files on the hub, and quote a glob".to_owned()),
        });
    }
    Ok(files)
}

/// One call of [`fetch_files`].
struct Request<'a> {
    repo: RepoId<'a>,
    revision: &'a str,
    folder: &'a str,
    wanted: &'a dyn Fn(&str) -> bool,
    config: &'a HubConfig,
    progress: &'a dyn Progress,
    cache: RepoCache,
}

impl Request<'_> {
    fn what(&self) -> String {
        format!("datasets/{}@{}", self.repo.name, self.revision)
    }

    async fn online(&self) -> Result<Vec<PathBuf>> {
        let remote = Remote::new(self.config)?;
        let listing = remote
            .list(self.repo, self.revision, self.folder, TRIES)
            .await
            .map_err(|fault| fault.explain(&self.what(), self.config))?;
        if remote.withholds_token() {
            self.progress
                .note("the token is not sent, since HF_ENDPOINT is not https");
        }
        let entries = listing.files.values();
        let entries: Vec<&FileEntry> = entries.filter(|e| (self.wanted)(&e.name)).collect();
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        self.cache.prepare()?;
        let missing = entries.iter().filter(|entry| !self.cache.has(entry));
        self.cache
            .check_space(missing.map(|entry| entry.size).sum())?;
        let download = Download {
            remote: &remote,
            cache: &self.cache,
            repo: self.repo,
            commit: &listing.commit,
            progress: self.progress,
        };
        for entry in &entries {
            download.obtain(entry).await?;
        }
        self.cache.set_ref(self.revision, &listing.commit)?;
        let dir = self.cache.snapshot(&listing.commit);
        Ok(entries.iter().map(|entry| dir.join(&entry.name)).collect())
    }

    fn offline(&self) -> Result<Vec<PathBuf>> {
        let dir = self
            .cache
            .resolve(self.revision)
            .map(|commit| self.cache.snapshot(&commit));
        let mut names = Vec::new();
        if let Some(dir) = &dir {
            names_below(dir, "", &mut names);
        }
        names.retain(|name| (self.wanted)(name));
        names.sort();
        if names.is_empty() {
            return Err(Error::Hub {
                what: self.what(),
                message: format!(
                    "none of the files is in the cache at {}, and the network is off",
                    self.cache.root().display()
                ),
                hint: Some("unset HF_HUB_OFFLINE once to fetch them".to_owned()),
            });
        }
        let count = names.len();
        self.progress.note(&format!(
            "the network is off: taking the {} in the cache for all there are",
            counted(count, "file", "files")
        ));
        let dir = dir.unwrap_or_default();
        Ok(names.iter().map(|name| dir.join(name)).collect())
    }
}

/// Names of the files below `dir`, as the hub writes them.
fn names_below(dir: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if !is_path(&name) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names_below(&entry.path(), &format!("{name}/"), names);
        } else if entry.path().is_file() {
            names.push(name);
        }
    }
}
