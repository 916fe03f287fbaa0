//! The hub's side: what a repository holds, and the bytes of its files.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hf_hub::HFClient;
use hf_hub::repository::download::HFByteStream;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LINK, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::companions::CHAT_TEMPLATES;
use crate::error::{Error, Result, counted, printable};
use crate::interrupt;

use super::cache::{BlobId, Partial};
use super::config::{HubConfig, Token};
use super::fault::Fault;
use super::reference::{Kind, RepoId, is_commit};

/// How often one thing is asked for.
pub(super) const TRIES: u32 = 5;
/// Hops from the hub to whoever stores the bytes.
const MAX_REDIRECTS: usize = 10;
/// A listing larger than this is no listing.
const MAX_JSON: usize = 32 << 20;
/// Pages of a listing, of 1000 entries each.
const MAX_PAGES: usize = 20;
/// The longest pause between two tries, whatever the server asks for.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// How often a waiting program looks for signals.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// The files of a repository at one commit.
#[derive(Debug)]
pub(super) struct Listing {
    /// Full name of the commit.
    pub commit: String,
    /// Its files by name; of a model, those of the top folder and its chat templates.
    pub files: BTreeMap<String, FileEntry>,
}

impl Listing {
    /// Looks up a file that another one names.
    ///
    /// # Errors
    /// It is not there; `what` names the repository.
    pub fn file(&self, name: &str, what: &str) -> Result<&FileEntry> {
        self.files.get(name).ok_or_else(|| {
            Error::invalid(
                what,
                format!("`{}` is not in the repository", printable(name)),
            )
            .with_hint("the upload is incomplete; try another revision")
        })
    }
}

/// A file as the listing describes it.
#[derive(Debug, Clone)]
pub(super) struct FileEntry {
    /// Name in the repository.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Hash of the content.
    pub id: BlobId,
}

#[derive(Deserialize)]
struct RevisionAnswer {
    sha: String,
}

#[derive(Deserialize)]
struct TreeAnswer {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<LfsAnswer>,
}

#[derive(Deserialize)]
struct LfsAnswer {
    oid: String,
    size: u64,
}

/// A connection to one hub.
pub(super) struct Remote<'a> {
    pub config: &'a HubConfig,
    endpoint: Url,
    token: Option<&'a Token>,
    hub: HFClient,
    plain: Client,
}

impl<'a> Remote<'a> {
    /// Prepares the clients; nothing is sent yet.
    ///
    /// # Errors
    /// The endpoint is not an `http` or `https` address.
    pub fn new(config: &'a HubConfig) -> Result<Self> {
        let endpoint = parse_endpoint(&config.endpoint)?;
        // In the clear a token is anybody's, except on this machine.
        let token = config
            .token
            .as_ref()
            .filter(|_| endpoint.scheme() == "https" || is_loopback(&endpoint));
        let build = |policy| {
            let mut builder = Client::builder()
                .user_agent(concat!("scale-ckpt/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(config.timeout)
                // A little more than our own limit, so that ours speaks first.
                .read_timeout(config.timeout + 2 * TICK)
                .redirect(policy);
            if is_loopback(&endpoint) {
                builder = builder.no_proxy();
            }
            builder
                .build()
                .map_err(|e| Fault::from(e).explain("hub client", config))
        };
        let hub = HFClient::builder()
            .endpoint(endpoint.as_str().trim_end_matches('/'))
            .cache_dir(&config.cache)
            .cache_enabled(false)
            .client(build(Policy::custom(judge_redirect))?)
            // Given none, hf-hub looks for a token by itself. A line feed cannot stand in a
            // header, so with this one it sends none.
            .token(token.map_or("\n", Token::reveal))
            .retry_max_attempts(0)
            .build()
            .map_err(|e| Fault::from(e).explain("hub client", config))?;
        Ok(Self {
            config,
            token,
            hub,
            plain: build(Policy::none())?,
            endpoint,
        })
    }

    /// Asks for the first page; any answer is one.
    pub async fn ping(&self) -> Result<(), Fault> {
        let request = self.plain.head(self.endpoint.clone()).send();
        guarded(self.config.listing_timeout, request).await??;
        Ok(())
    }

    /// Whether there is a token that is not sent, lest others read it.
    pub fn withholds_token(&self) -> bool {
        self.token.is_none() && self.config.token.is_some()
    }

    /// The commit that `revision` names, and its files: of a model those of the top folder and its
    /// chat templates, of a dataset those below `folder`.
    pub async fn list(
        &self,
        repo: RepoId<'_>,
        revision: &str,
        folder: &str,
        tries: u32,
    ) -> Result<Listing, Fault> {
        let api = ["api", repo.plural()];
        let url = self.url(&api, repo.name, &["revision", revision]);
        let (RevisionAnswer { sha: commit }, _) = self.json(url, tries).await?;
        if !is_commit(&commit) || (is_commit(revision) && revision != commit) {
            return Err(Fault::Garbled(format!("commit `{}`", printable(&commit))));
        }
        let mut files = BTreeMap::new();
        let mut templates = None;
        let folders = folder.split('/').filter(|part| !part.is_empty());
        let tree: Vec<&str> = ["tree", &commit].into_iter().chain(folders).collect();
        let mut first = self.url(&api, repo.name, &tree);
        if repo.kind == Kind::Dataset {
            first.set_query(Some("recursive=true"));
        }
        let mut page = Some(first);
        for _ in 0..MAX_PAGES {
            let Some(url) = page.take().or_else(|| templates.take()) else {
                break;
            };
            let (entries, next): (Vec<TreeAnswer>, _) = self.json(url, tries).await?;
            let is_folder = |e: &TreeAnswer| e.kind == "directory" && e.path == CHAT_TEMPLATES;
            if repo.kind == Kind::Model && entries.iter().any(is_folder) {
                templates = Some(self.url(&api, repo.name, &["tree", &commit, CHAT_TEMPLATES]));
            }
            files.extend(
                entries
                    .into_iter()
                    .filter_map(|entry| entry.into_entry(repo.kind))
                    .map(|e| (e.name.clone(), e)),
            );
            page = next;
        }
        if page.is_some() && repo.kind == Kind::Dataset {
            let message = format!("a listing of more than {MAX_PAGES} pages; name a folder");
            return Err(Fault::Garbled(message));
        }
        Ok(Listing { commit, files })
    }

    /// Starts a file from its first byte, through hf-hub; what stops hf-hub other than an
    /// answer of the server may not stop a plain request.
    pub async fn start(
        &self,
        repo: RepoId<'_>,
        commit: &str,
        entry: &FileEntry,
    ) -> Result<Body, Fault> {
        if !self.config.xet || repo.kind == Kind::Dataset {
            return self.resume(repo, commit, entry, 0).await;
        }
        let (owner, name) = hf_hub::split_id(repo.name);
        let model = self.hub.model(owner, name);
        let request = model
            .download_file_stream()
            .filename(&entry.name)
            .revision(commit)
            .send();
        match guarded(3 * self.config.timeout, request)
            .await?
            .map_err(Fault::from)
        {
            Ok((length, stream)) => check_length(length, entry.size).map(|()| Body::Hub(stream)),
            Err(fault @ Fault::Status { code: 400.., .. }) => Err(fault),
            Err(_) => self.resume(repo, commit, entry, 0).await,
        }
    }

    /// Goes on with a file at byte `from`, with a plain request whose answer we see in full.
    pub async fn resume(
        &self,
        repo: RepoId<'_>,
        commit: &str,
        entry: &FileEntry,
        from: u64,
    ) -> Result<Body, Fault> {
        let before: &[&str] = match repo.kind {
            Kind::Model => &[],
            Kind::Dataset => &["datasets"],
        };
        let name = entry.name.split('/');
        let after: Vec<&str> = ["resolve", commit].into_iter().chain(name).collect();
        let url = self.url(before, repo.name, &after);
        let (response, linked) = match self.get(url, from).await {
            Err(Fault::Status { code: 416, .. }) if from > 0 => return Err(Fault::NoRange),
            answer => answer?,
        };
        let headers = response.headers();
        if from == 0 {
            check_length(
                header(headers, CONTENT_LENGTH.as_str()).and_then(|v| v.parse().ok()),
                entry.size,
            )?;
            return Ok(Body::Plain(response));
        }
        let rest = format!(
            "bytes {from}-{}/{}",
            entry.size.saturating_sub(1),
            entry.size
        );
        let continued = response.status().as_u16() == 206
            && header(headers, CONTENT_RANGE.as_str()) == Some(&rest);
        let same_file = linked.is_none_or(|etag| etag.trim_matches('"') == entry.id.as_str());
        if continued && same_file {
            Ok(Body::Plain(response))
        } else {
            Err(Fault::NoRange)
        }
    }

    /// Waits before try `next`, as long as the server wishes and within reason.
    pub async fn pause(&self, next: u32, fault: &Fault) -> Result<(), Fault> {
        let wished = match fault {
            Fault::Status { retry_after, .. } => *retry_after,
            Fault::NoRange => return Ok(()),
            _ => None,
        };
        let doubled = self.config.backoff * 2_u32.saturating_pow(next.saturating_sub(2)).min(64);
        let pause = wished.unwrap_or(doubled).min(MAX_PAUSE);
        guarded(pause + TICK, tokio::time::sleep(pause)).await
    }

    /// `endpoint/before/repo/after`, with every part escaped.
    fn url(&self, before: &[&str], repo: &str, after: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(before)
                .extend(repo.split('/'))
                .extend(after);
        }
        url
    }

    /// A JSON answer, and the address of the next page.
    async fn json<T: DeserializeOwned>(
        &self,
        url: Url,
        tries: u32,
    ) -> Result<(T, Option<Url>), Fault> {
        let mut attempt = 1;
        loop {
            match guarded(3 * self.config.listing_timeout, self.json_once(url.clone()))
                .await
                .flatten()
            {
                Err(fault) if fault.is_passing() && attempt < tries => {
                    attempt += 1;
                    self.pause(attempt, &fault).await?;
                }
                answer => return answer,
            }
        }
    }

    async fn json_once<T: DeserializeOwned>(&self, url: Url) -> Result<(T, Option<Url>), Fault> {
        let (mut response, _) = self.get(url, 0).await?;
        let next = self.next_page(response.headers())?;
        let mut body = Vec::new();
        while let Some(chunk) = guarded(self.config.listing_timeout, response.chunk()).await?? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_JSON {
                return Err(Fault::Garbled(format!(
                    "a listing of more than {} MiB",
                    MAX_JSON >> 20
                )));
            }
        }
        if body.trim_ascii_start().starts_with(b"<") {
            return Err(Fault::Garbled(
                "an HTML page where JSON was expected".to_owned(),
            ));
        }
        let value =
            serde_json::from_slice(&body).map_err(|e| Fault::Garbled(printable(&e.to_string())))?;
        Ok((value, next))
    }

    /// The `next` link of a listing; it must lead to the same hub, since the token goes along.
    fn next_page(&self, headers: &HeaderMap) -> Result<Option<Url>, Fault> {
        let links = header(headers, LINK.as_str())
            .unwrap_or_default()
            .split(',');
        let next = links
            .filter(|link| link.contains("rel=\"next\""))
            .find_map(|link| {
                let address = link.trim().strip_prefix('<')?.split_once('>')?.0;
                Url::parse(address).ok()
            });
        match next {
            Some(url) if url.origin() != self.endpoint.origin() => Err(Fault::Garbled(
                "the listing goes on at another host".to_owned(),
            )),
            next => Ok(next),
        }
    }

    /// A GET that follows redirects by itself: reqwest strips the token at the hop to another
    /// host, but sends it again when that host redirects to itself. The second value is the
    /// hash of the file as the hub's own answer gives it.
    async fn get(&self, mut url: Url, from: u64) -> Result<(Response, Option<String>), Fault> {
        let mut linked = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(url.clone(), from).await?;
            linked =
                linked.or_else(|| header(response.headers(), "x-linked-etag").map(str::to_owned));
            if !response.status().is_redirection() {
                return check_status(response).map(|response| (response, linked));
            }
            let location = header(response.headers(), LOCATION.as_str())
                .and_then(|target| url.join(target).ok());
            let next =
                location.ok_or_else(|| Fault::Garbled("a redirect to nowhere".to_owned()))?;
            check_scheme(&url, &next)?;
            url = next;
        }
        Err(Fault::Garbled(format!(
            "more than {MAX_REDIRECTS} redirects"
        )))
    }

    async fn send(&self, url: Url, from: u64) -> Result<Response, Fault> {
        let own = url.origin() == self.endpoint.origin();
        let mut request = self.plain.get(url);
        if let Some(token) = self.token.filter(|_| own) {
            request = request.bearer_auth(token.reveal());
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        Ok(guarded(self.config.timeout, request.send()).await??)
    }
}

impl TreeAnswer {
    /// The entry, if it is a file with a hash that can be one, and of a model, in the top folder.
    fn into_entry(self, kind: Kind) -> Option<FileEntry> {
        let placed = match kind {
            Kind::Model => match self.path.split_once('/') {
                None => true,
                Some((folder, _)) => folder == CHAT_TEMPLATES && is_path(&self.path),
            },
            Kind::Dataset => is_path(&self.path),
        };
        if self.kind != "file" || !placed {
            return None;
        }
        let (id, size) = match self.lfs {
            Some(lfs) => (BlobId::sha256(lfs.oid)?, lfs.size),
            None => (BlobId::git(self.oid)?, self.size),
        };
        Some(FileEntry {
            name: self.path,
            size,
            id,
        })
    }
}

/// Whether a name from a listing leads to a place below the folder it is joined to.
pub(super) fn is_path(name: &str) -> bool {
    let odd = |c: char| c.is_control() || c == '\\';
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(odd);
    name.len() <= 500 && name.split('/').all(part)
}

/// The bytes of a file, as they come.
pub(super) enum Body {
    /// From hf-hub.
    Hub(HFByteStream),
    /// From a request of ours.
    Plain(Response),
}

impl Body {
    /// Adds the next piece to `partial`; returns its length, nothing at the end.
    pub async fn feed(
        &mut self,
        partial: &mut Partial,
        limit: Duration,
    ) -> Result<Option<u64>, Fault> {
        match self {
            Self::Hub(stream) => match guarded(limit, stream.next()).await? {
                Some(chunk) => partial.push(&chunk?).map(Some),
                None => Ok(None),
            },
            Self::Plain(response) => match guarded(limit, response.chunk()).await?? {
                Some(chunk) => partial.push(&chunk).map(Some),
                None => Ok(None),
            },
        }
    }
}

/// Waits for `future`, but not longer than `limit`, and not beyond a signal.
async fn guarded<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Fault> {
    let mut future = std::pin::pin!(future);
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if let Ok(value) = tokio::time::timeout(left.min(TICK), &mut future).await {
            check_signal()?;
            return Ok(value);
        }
        check_signal()?;
        if left <= TICK {
            return Err(Fault::Stalled(limit));
        }
    }
}

/// Stops at a signal.
pub(super) fn check_signal() -> Result<()> {
    interrupt::check("the download stopped, what arrived is kept")
        .map_err(|e| e.with_hint("run the same command again to go on"))
}

fn parse_endpoint(text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    });
    url.ok_or_else(|| {
        Error::usage("HF_ENDPOINT is not an address of a hub")
            .with_hint("it looks like https://huggingface.co")
    })
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    })
}

/// The redirects that hf-hub's requests may follow. A foreign host that redirects to itself
/// would be sent the token (see [`Remote::get`]); the plain request takes over then.
fn judge_redirect(attempt: Attempt<'_>) -> Action {
    let (next, previous) = (attempt.url(), attempt.previous());
    let problem = match (previous.first(), previous.last()) {
        _ if previous.len() > MAX_REDIRECTS => Some("too many redirects"),
        (_, Some(last)) if check_scheme(last, next).is_err() => {
            Some("a redirect from https to http")
        }
        (Some(first), Some(last))
            if last.origin() != first.origin() && last.origin() == next.origin() =>
        {
            Some("a foreign host redirects to itself")
        }
        _ => None,
    };
    match problem {
        Some(problem) => attempt.error(problem),
        None => attempt.follow(),
    }
}

fn check_scheme(from: &Url, to: &Url) -> Result<(), Fault> {
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(()),
        (from, to) => Err(Fault::Garbled(format!("a redirect from {from} to {to}"))),
    }
}

fn check_status(response: Response) -> Result<Response, Fault> {
    if response.status().is_success() {
        return Ok(response);
    }
    let headers = response.headers();
    let retry_after = header(headers, RETRY_AFTER.as_str()).and_then(|v| v.trim().parse().ok());
    Err(Fault::Status {
        code: response.status().as_u16(),
        reason: header(headers, "x-error-code").map(printable),
        retry_after: retry_after.map(Duration::from_secs),
    })
}

fn check_length(announced: Option<u64>, listed: u64) -> Result<(), Fault> {
    match announced {
        Some(length) if length != listed => Err(Fault::Mismatch(format!(
            "the server announces {}, the listing says {listed}",
            counted(length, "byte", "bytes")
        ))),
        _ => Ok(()),
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_may_gain_encryption_but_not_lose_it() {
        let url = |text| Url::parse(text).unwrap();
        for (from, to, allowed) in [
            ("https://hub/x", "https://cdn/x", true),
            ("http://127.0.0.1/x", "https://cdn/x", true),
            ("http://127.0.0.1/x", "http://127.0.0.1:8/x", true),
            ("https://hub/x", "http://hub/x", false),
            ("https://hub/x", "file:///x", false),
        ] {
            assert_eq!(
                check_scheme(&url(from), &url(to)).is_ok(),
                allowed,
                "{from} to {to}"
            );
        }
    }

    #[test]
    fn in_the_clear_a_token_is_sent_to_this_machine_only() {
        let vars = |endpoint: &'static str| {
            move |name: &str| match name {
                "HF_ENDPOINT" => Some(endpoint.to_owned()),
                "HF_HOME" => Some("/nowhere".to_owned()),
                "HF_TOKEN" => Some("hf_x".to_owned()),
                _ => None,
            }
        };
        for (endpoint, withheld) in [
            ("https://hub.example", false),
            ("http://hub.example", true),
            ("http://127.0.0.1.example", true),
            ("http://127.0.0.1:8", false),
            ("http://[::1]:8", false),
            ("http://localhost/hub/", false),
        ] {
            let config = HubConfig::from_vars(vars(endpoint)).unwrap();
            assert_eq!(
                Remote::new(&config).unwrap().withholds_token(),
                withheld,
                "{endpoint}"
            );
        }
    }
}
