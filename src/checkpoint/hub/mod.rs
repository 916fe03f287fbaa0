//! Models and dataset files from the Hugging Face hub, through the cache that Python's
//! `huggingface_hub` shares.
//!
//! Nothing that a server says is believed. The listing names a hash for every file, and bytes
//! become visible in the cache only once they have it: SHA-256 for files in LFS, git's blob hash
//! for small ones. Only what a model needs is fetched, and the small files that travel with it.
//!
//! # Which requests go through `hf-hub`
//!
//! The crate (1.0.0) gives us the client and the streams that files start from. The rest is
//! done here with `reqwest`, for these reasons, each found in its source:
//!
//! * `download_file` and `snapshot_download` publish error pages and damaged bytes under good
//!   names, and let an `ETag` choose the path. They are not used.
//! * `list_tree` and `get_paths_info` lose the SHA-256 of LFS files (the hub calls it `oid`, their
//!   type expects `sha256`), `info` cannot ask for hashes, and all of them read answers of any
//!   size and send the token to whatever host a `Link` header names. So listings are read here.
//! * `download_file_stream` takes a range, but shows neither status nor `Content-Range`. So it
//!   fetches from the first byte, and what continues an interrupted file is a request of ours.
//!   It reads an error page of any size; the time that this may take is limited here.
//! * Without a token, the client looks for one in the environment by itself; `remote.rs` says
//!   how it is kept from that. Its own retries are off, since they ignore `Retry-After`.

mod address;
mod cache;
mod config;
mod dataset;
mod download;
mod fault;
mod reference;
mod remote;

use std::path::PathBuf;

use crate::error::{Error, Result};

pub use self::config::{HubConfig, Token};
pub use self::dataset::fetch_files;
pub(super) use self::reference::or_on_the_hub;
pub use self::reference::{DatasetRef, ModelRef};

use self::cache::{RepoCache, read_shards};
use self::download::Download;
use self::fault::Fault;
use self::reference::{RepoId, check_repo, check_revision, folder_hint};
use self::remote::{FileEntry, Listing, Remote, TRIES, is_path};
use super::companions::{COMPANIONS, travels};
use super::foreign;
use super::weights::Weights;

/// Files that a model is known to come with; those that exist are fetched first.
fn known() -> impl Iterator<Item = &'static str> {
    std::iter::once("config.json").chain(COMPANIONS)
}

/// No config, tokenizer or index is larger than this.
const MAX_COMPANION: u64 = 128 << 20;
/// Other files that travel with a model are fetched up to this size, the smallest first,
const MAX_OTHER: u64 = 16 << 20;
/// up to so many bytes together,
const MAX_OTHERS: u64 = 128 << 20;
/// and up to so many files.
const MOST_OTHERS: usize = 200;

/// Somebody who watches a download.
pub trait Progress: Sync {
    /// A file begins, or begins anew; `already` of its `size` bytes are there.
    fn start(&self, file: &str, size: u64, already: u64);
    /// So many more bytes arrived.
    fn advance(&self, bytes: u64);
    /// The file is over, in one way or the other.
    fn finish(&self);
    /// Something worth a line.
    fn note(&self, text: &str);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _: &str, _: u64, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that holds its files.
    pub dir: PathBuf,
    /// `name` or `org/name`, as asked for.
    pub repo: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that it was.
    pub commit: String,
}

/// Sees to it that a model is in the cache, and says where. `revision` defaults to `main`.
///
/// Blocks; must not be called from asynchronous code. If the hub cannot be reached but the model
/// is in the cache, that copy is used, and `progress` told so.
///
/// # Errors
/// A malformed name ([`Error::Usage`]), a hub that does not deliver or a file that is neither
/// cached nor may be fetched ([`Error::Hub`]), a repository that is not a model
/// ([`Error::Invalid`]), a full disk ([`Error::Io`]), or a signal ([`Error::Interrupted`]).
pub fn fetch(
    repo: &str,
    revision: Option<&str>,
    config: &HubConfig,
    progress: &dyn Progress,
) -> Result<Snapshot> {
    let revision = revision.unwrap_or("main");
    check_repo(repo)?;
    check_revision(revision)?;
    let request = Request {
        repo,
        revision,
        config,
        progress,
        cache: RepoCache::new(&config.cache, RepoId::model(repo)),
    };
    let outcome = if config.offline {
        request.offline()
    } else {
        request.online()
    };
    outcome.map_err(|error| match (&error, folder_hint(repo)) {
        (Error::Hub { .. }, Some(hint)) => error.with_hint(hint),
        _ => error,
    })
}

/// Asks the hub for an answer, whatever it is.
///
/// # Errors
/// There is none: no network, no such host, or nobody there.
pub fn reach(config: &HubConfig) -> Result<()> {
    block_on(&config.endpoint, config, async {
        let remote = Remote::new(config)?;
        let answer = remote.ping().await;
        answer.map_err(|fault| fault.explain(&config.endpoint, config))
    })
}

/// Runs `work` to its end on this thread.
fn block_on<T>(what: &str, config: &HubConfig, work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::Network(e.to_string()).explain(what, config))?;
    let outcome = runtime.block_on(work);
    // Not joined: a name server that does not answer must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

/// One call of [`fetch`].
struct Request<'a> {
    repo: &'a str,
    revision: &'a str,
    config: &'a HubConfig,
    progress: &'a dyn Progress,
    cache: RepoCache,
}

impl Request<'_> {
    fn what(&self) -> String {
        format!("{}@{}", self.repo, self.revision)
    }

    fn snapshot(&self, commit: String) -> Snapshot {
        Snapshot {
            dir: self.cache.snapshot(&commit),
            repo: self.repo.to_owned(),
            revision: self.revision.to_owned(),
            commit,
        }
    }

    /// What the cache has of this model, if that is enough to load it.
    fn cached(&self) -> Option<Snapshot> {
        let commit = self.cache.resolve(self.revision)?;
        self.cache
            .missing(&commit)
            .is_none()
            .then(|| self.snapshot(commit))
    }

    fn offline(&self) -> Result<Snapshot> {
        let Some(commit) = self.cache.resolve(self.revision) else {
            return Err(self.not_cached("it"));
        };
        match self.cache.missing(&commit) {
            None => Ok(self.snapshot(commit)),
            Some(name) => Err(self.not_cached(&name)),
        }
    }

    fn not_cached(&self, missing: &str) -> Error {
        Error::Hub {
            what: self.what(),
            message: format!("{missing} is not in the cache at {}, and the network is off", self.cache.root().display()),
            hint: Some("unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE once to fetch it, or copy the cache here; where a local folder is meant, check its path".to_owned()),
        }
    }

    fn online(&self) -> Result<Snapshot> {
        block_on(&self.what(), self.config, self.download())
    }

    async fn download(&self) -> Result<Snapshot> {
        let remote = Remote::new(self.config)?;
        let cached = self.cached();
        // With a copy at hand nobody wants to wait for a network that is not there.
        let tries = if cached.is_some() { 1 } else { TRIES };
        let repo = RepoId::model(self.repo);
        let listing = match (remote.list(repo, self.revision, "", tries).await, cached) {
            (Ok(listing), _) => listing,
            (Err(fault), Some(snapshot)) if fault.is_passing() => {
                let cause = fault.explain(&self.what(), self.config);
                self.progress.note(&format!(
                    "{cause}; using the cached commit {}",
                    snapshot.commit
                ));
                return Ok(snapshot);
            }
            (Err(fault), _) => return Err(fault.explain(&self.what(), self.config)),
        };
        if remote.withholds_token() {
            self.progress
                .note("the token is not sent, since HF_ENDPOINT is not https");
        }
        self.cache.prepare()?;
        let download = Download {
            remote: &remote,
            cache: &self.cache,
            repo,
            commit: &listing.commit,
            progress: self.progress,
        };
        self.fetch_all(&listing, &download).await?;
        // Last, so that the name always leads to a complete model.
        self.cache.set_ref(self.revision, &listing.commit)?;
        Ok(self.snapshot(listing.commit))
    }

    async fn fetch_all(&self, listing: &Listing, download: &Download<'_>) -> Result<()> {
        let weights = self.check(listing)?;
        for name in known() {
            if let Some(entry) = listing.files.get(name) {
                download.obtain(entry).await?;
            }
        }
        for entry in self.others(listing) {
            download.obtain(entry).await?;
        }
        let entries = match weights {
            Weights::Single(name) => vec![listing.file(name, &self.what())?],
            Weights::Sharded(index) => {
                download.obtain(listing.file(index, &self.what())?).await?;
                let shards = read_shards(&self.cache.snapshot(&listing.commit).join(index))?;
                shards
                    .iter()
                    .map(|name| listing.file(name, &self.what()))
                    .collect::<Result<_>>()?
            }
        };
        self.cache.check_space(
            entries
                .iter()
                .filter(|e| !self.cache.has(e))
                .map(|e| e.size)
                .sum(),
        )?;
        for entry in entries {
            download.obtain(entry).await?;
        }
        Ok(())
    }

    /// What else travels with the model, as far as it is small; the rest is named.
    fn others<'l>(&self, listing: &'l Listing) -> Vec<&'l FileEntry> {
        let is_other = |entry: &&FileEntry| {
            known().all(|name| name != entry.name) && is_path(&entry.name) && travels(&entry.name)
        };
        let mut others: Vec<_> = listing.files.values().filter(is_other).collect();
        others.sort_by_key(|entry| entry.size);
        let mut total = 0;
        let small = others.iter().take(MOST_OTHERS).take_while(|entry| {
            total += entry.size;
            entry.size <= MAX_OTHER && total <= MAX_OTHERS
        });
        let left = others.split_off(small.count());
        if !left.is_empty() {
            let names: Vec<_> = left.iter().map(|entry| entry.name.as_str()).collect();
            let names = names.join(", ");
            self.progress.note(&format!(
                "{}: too large or too many to be fetched along: {names}",
                self.what()
            ));
        }
        others
    }

    /// Refuses, before anything is fetched, what is not a model that can be loaded.
    fn check(&self, listing: &Listing) -> Result<Weights> {
        let there = |name: &str| listing.files.contains_key(name);
        let files: Vec<String> = listing.files.keys().cloned().collect();
        let instead = || foreign::instead_of(&self.what(), &files);
        if there("adapter_config.json") {
            return Err(foreign::adapter(&self.what()));
        }
        if !there("config.json") {
            let error = Error::invalid(self.what(), "the repository has no config.json").with_hint(
                "it is not a transformers checkpoint, or the model is in another revision",
            );
            return Err(instead().unwrap_or(error));
        }
        let too_large = |entry: &&FileEntry| {
            let small =
                known().any(|name| name == entry.name) || entry.name.ends_with(".index.json");
            small && entry.size > MAX_COMPANION
        };
        if let Some(entry) = listing.files.values().find(too_large) {
            return Err(Error::invalid(
                self.what(),
                format!("{} is said to have {} bytes", entry.name, entry.size),
            ));
        }
        Weights::choose(there).ok_or_else(|| {
            let error = Error::invalid(
                self.what(),
                "the repository has neither model.safetensors nor pytorch_model.bin",
            )
            .with_hint("weights in other formats are not read; convert them with transformers");
            instead().unwrap_or(error)
        })
    }
}
