//! The hub client against a server that misbehaves in every way we could think of.
#![allow(clippy::unwrap_used)]

#[path = "support/hub_server.rs"]
#[allow(dead_code)]
mod hub_server;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hub_server::{Hub, Reply, Repo, Request, git_hash, sha256};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use scale_ckpt::checkpoint::companions::Companions;
use scale_ckpt::checkpoint::hub::{HubConfig, NoProgress, Progress, Snapshot, Token, fetch};
use scale_ckpt::{Error, Result};

const NAME: &str = "org/tiny";
const ONE: &str = "1111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222";
const CONFIG: &[u8] = br#"{"model_type":"gpt2"}"#;

/// Bytes without a pattern, so that a piece in the wrong place shows.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

fn weights() -> Vec<u8> {
    noise(300_000, 1)
}

fn repo_with(files: &[(&str, &[u8])]) -> Repo {
    let mut repo = Repo::default();
    repo.commit(ONE, files.iter().copied());
    repo
}

fn tiny() -> Repo {
    repo_with(&[("config.json", CONFIG), ("model.safetensors", &weights())])
}

/// A cache folder and settings that use it.
struct Client {
    root: tempfile::TempDir,
    config: HubConfig,
}

impl Client {
    fn of(hub: &Hub) -> Self {
        Self::at(&hub.endpoint)
    }

    fn at(endpoint: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let config = HubConfig {
            endpoint: endpoint.to_owned(),
            token: None,
            cache: root.path().join("hub"),
            offline: false,
            timeout: Duration::from_secs(10),
            listing_timeout: Duration::from_secs(10),
            backoff: Duration::from_millis(2),
            xet: true,
            progress_bars: false,
        };
        Self { root, config }
    }

    fn with_token(mut self) -> Self {
        self.config.token = Some(Token::new("hf_secret").unwrap());
        self
    }

    fn fetch(&self) -> Result<Snapshot> {
        self.fetch_at(None)
    }

    fn fetch_at(&self, revision: Option<&str>) -> Result<Snapshot> {
        fetch(NAME, revision, &self.config, &NoProgress)
    }

    /// The message and hint of a fetch that must fail as the hub's fault.
    fn failure(&self) -> String {
        let error = self.fetch().unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        let text = format!("{error} | {}", error.hint().unwrap_or_default());
        self.assert_clean();
        assert!(
            !text.contains("hf_secret") && !format!("{error:?}").contains("hf_secret"),
            "{text}"
        );
        text
    }

    fn repo(&self) -> PathBuf {
        self.config.cache.join("models--org--tiny")
    }

    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.repo().join("blobs")) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Whether a download has got so far.
    fn has_partial(&self, length: u64) -> bool {
        let partial = |name: &String| {
            let path = self.repo().join("blobs").join(name);
            name.ends_with(".incomplete") && fs::metadata(path).is_ok_and(|m| m.len() == length)
        };
        self.blobs().iter().any(partial)
    }

    /// What must hold whatever happened: nothing outside the cache, every blob has the hash
    /// of its name, every link leads to a blob.
    fn assert_clean(&self) {
        let outside: Vec<_> = fs::read_dir(self.root.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(outside.iter().all(|name| name == "hub"), "{outside:?}");
        for name in self
            .blobs()
            .iter()
            .filter(|name| !name.ends_with(".incomplete"))
        {
            let bytes = fs::read(self.repo().join("blobs").join(name)).unwrap();
            let found = if name.len() == 64 {
                sha256(&bytes)
            } else {
                git_hash(&bytes)
            };
            assert_eq!(*name, found);
        }
        let snapshots = self.repo().join("snapshots");
        for path in walk(&snapshots) {
            let target = fs::read_link(&path).unwrap();
            let depth = path.strip_prefix(&snapshots).unwrap().components().count();
            let blobs = Path::new(&"../".repeat(depth)).join("blobs");
            assert_eq!(target.parent().unwrap(), blobs);
            assert!(path.is_file(), "{path:?}");
        }
    }

    /// Fails unless what is fetched is [`tiny`].
    fn assert_fetched_beside(&self) -> Snapshot {
        let snapshot = self.fetch().unwrap();
        assert_eq!(
            fs::read(snapshot.dir.join("model.safetensors")).unwrap(),
            weights()
        );
        assert_eq!(fs::read(snapshot.dir.join("config.json")).unwrap(), CONFIG);
        snapshot
    }

    /// The same, where nobody else is at work: no temporary file is left.
    fn assert_fetched(&self) -> Snapshot {
        let snapshot = self.assert_fetched_beside();
        assert!(
            self.blobs()
                .iter()
                .all(|name| !name.ends_with(".incomplete")),
            "{:?}",
            self.blobs()
        );
        self.assert_clean();
        snapshot
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flat_map(|entry| {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path())
            } else {
                vec![entry.path()]
            }
        })
        .collect()
}

fn is_content(request: &Request) -> bool {
    request.method == "GET" && request.path.starts_with("/cdn/")
}

fn is_weights(request: &Request) -> bool {
    request.path.ends_with("/model.safetensors")
}

/// A server that answers every request for the bytes of the weights with `reply`.
fn with_content(reply: impl Fn(&Request, usize, Reply) -> Reply + Send + Sync + 'static) -> Hub {
    Hub::with(NAME, tiny(), move |request, earlier, usual| {
        if is_content(request) {
            reply(request, earlier, usual)
        } else {
            usual
        }
    })
}

fn with_status(status: u16, times: usize) -> Hub {
    Hub::with(NAME, tiny(), move |request, earlier, usual| {
        if earlier < times && (request.path.starts_with("/api/") || is_content(request)) {
            Reply::new(status, "no")
        } else {
            usual
        }
    })
}

// What must work.

#[test]
fn a_model_arrives_in_the_layout_of_huggingface_hub() {
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let snapshot = client.assert_fetched();
    assert_eq!(snapshot.commit, ONE);
    assert_eq!(snapshot.revision, "main");
    assert_eq!(snapshot.dir, client.repo().join("snapshots").join(ONE));
    assert_eq!(
        fs::read_to_string(client.repo().join("refs/main")).unwrap(),
        ONE
    );
    let link = fs::read_link(snapshot.dir.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&weights())));
    let link = fs::read_link(snapshot.dir.join("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(git_hash(CONFIG)));
    assert!(
        client
            .config
            .cache
            .join(format!(
                ".locks/models--org--tiny/{}.lock",
                git_hash(CONFIG)
            ))
            .is_file()
    );
}

#[test]
fn blobs_have_the_mode_of_plain_files() {
    use std::os::unix::fs::PermissionsExt;
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let snapshot = client.assert_fetched();
    let plain = client.repo().join("plain");
    fs::write(&plain, "x").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&snapshot.dir.join("model.safetensors")), mode(&plain));
}

#[test]
fn a_second_fetch_downloads_nothing() {
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let first = client.assert_fetched();
    let before = hub.downloads();
    assert_eq!(client.assert_fetched(), first);
    assert_eq!(hub.downloads(), before);
}

#[test]
fn only_what_a_model_needs_is_fetched() {
    let weights = weights();
    let hub = Hub::serve(
        NAME,
        repo_with(&[
            ("config.json", CONFIG),
            ("tokenizer.json", b"{}"),
            ("merges.txt", b""),
            ("model.safetensors", &weights),
            ("pytorch_model.bin", b"pickle"),
            ("tf_model.h5", b"h5"),
            ("64-8bits.tflite", b"tflite"),
            ("README.md", b"# card"),
            (".gitattributes", b"*.bin"),
            ("trainer_state.json", b"{}"),
            ("onnx/config.json", b"onnx"),
        ]),
    );
    let client = Client::of(&hub);
    let snapshot = client.assert_fetched();
    let files: Vec<_> = hub
        .downloads()
        .iter()
        .filter_map(|p| Some(p.split_once("/resolve/")?.1.to_owned()))
        .collect();
    let wanted = [
        "config.json",
        "tokenizer.json",
        "merges.txt",
        "model.safetensors",
    ];
    assert_eq!(files, wanted.map(|name| format!("{ONE}/{name}")));
    assert_eq!(walk(&snapshot.dir).len(), 4);
    assert_eq!(fs::read(snapshot.dir.join("merges.txt")).unwrap(), b"");
}

#[test]
fn small_files_that_travel_with_a_model_are_fetched() {
    let weights = weights();
    let huge = vec![0; (16 << 20) + 1];
    let hub = Hub::serve(
        NAME,
        repo_with(&[
            ("config.json", CONFIG),
            ("model.safetensors", &weights),
            ("spiece.model", b"spiece"),
            ("vocab.txt", b"[UNK]"),
            ("modeling_own.py", b"pass"),
            ("LICENSE.txt", b"MIT"),
            ("additional_chat_templates/tool.jinja", b"{{ x }}"),
            ("additional_chat_templates/../evil", b"evil"),
            ("onnx/config.json", b"onnx"),
            ("corpus.txt", &huge),
        ]),
    );
    let client = Client::of(&hub);
    let notes = Notes::default();
    let snapshot = fetch(NAME, None, &client.config, &notes).unwrap();
    client.assert_clean();
    for (name, bytes) in [
        ("spiece.model", &b"spiece"[..]),
        ("vocab.txt", b"[UNK]"),
        ("modeling_own.py", b"pass"),
        ("LICENSE.txt", b"MIT"),
        ("additional_chat_templates/tool.jinja", b"{{ x }}"),
    ] {
        assert_eq!(fs::read(snapshot.dir.join(name)).unwrap(), bytes, "{name}");
    }
    assert_eq!(walk(&snapshot.dir).len(), 7);
    let notes = notes.0.lock().unwrap().join("\n");
    assert!(notes.contains("corpus.txt"), "{notes}");
    // Links into the cache's blobs are followed, so that all of it goes along.
    let found = Companions::of(&snapshot.dir, &[snapshot.dir.join("model.safetensors")]);
    assert_eq!(found.names.len(), 5, "{found:?}");
    assert!(found.left_behind.is_empty(), "{found:?}");
}

#[test]
fn shards_are_fetched() {
    let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00001-of-00002.safetensors"}}"#;
    let hub = Hub::serve(
        NAME,
        repo_with(&[
            ("config.json", CONFIG),
            ("model.safetensors.index.json", index),
            ("model-00001-of-00002.safetensors", b"first"),
            ("model-00002-of-00002.safetensors", b"second"),
            ("model-00003-of-00002.safetensors", b"unrelated"),
        ]),
    );
    let mut client = Client::of(&hub);
    let snapshot = client.fetch().unwrap();
    assert_eq!(
        fs::read(snapshot.dir.join("model-00002-of-00002.safetensors")).unwrap(),
        b"second"
    );
    assert_eq!(walk(&snapshot.dir).len(), 4);
    client.config.offline = true;
    assert_eq!(client.fetch().unwrap(), snapshot);
    fs::remove_file(snapshot.dir.join("model-00002-of-00002.safetensors")).unwrap();
    assert!(
        client
            .failure()
            .contains("model-00002-of-00002.safetensors is not in the cache")
    );
}

#[test]
fn pickled_weights_are_fetched_where_there_are_no_others() {
    let hub = Hub::serve(
        NAME,
        repo_with(&[("config.json", CONFIG), ("pytorch_model.bin", b"pickle")]),
    );
    let client = Client::of(&hub);
    let snapshot = client.fetch().unwrap();
    assert_eq!(
        fs::read(snapshot.dir.join("pytorch_model.bin")).unwrap(),
        b"pickle"
    );
}

#[test]
fn main_may_move() {
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let first = client.fetch().unwrap();
    hub.change(NAME, |repo| {
        repo.commit(
            TWO,
            [
                ("config.json", CONFIG),
                ("model.safetensors", b"new".as_slice()),
            ],
        )
    });
    let second = client.fetch().unwrap();
    assert_eq!((first.commit.as_str(), second.commit.as_str()), (ONE, TWO));
    assert_eq!(
        fs::read_to_string(client.repo().join("refs/main")).unwrap(),
        TWO
    );
    assert_eq!(
        fs::read(first.dir.join("model.safetensors")).unwrap(),
        weights()
    );
    assert_eq!(
        fs::read(second.dir.join("model.safetensors")).unwrap(),
        b"new"
    );
    client.assert_clean();
}

#[test]
fn revisions_are_kept_apart() {
    let mut repo = tiny();
    repo.refs.insert("refs/pr/1".to_owned(), ONE.to_owned());
    let hub = Hub::serve(NAME, repo);
    let client = Client::of(&hub);
    assert_eq!(client.fetch_at(Some("refs/pr/1")).unwrap().commit, ONE);
    assert_eq!(
        fs::read_to_string(client.repo().join("refs/refs/pr/1")).unwrap(),
        ONE
    );
    assert_eq!(client.fetch_at(Some(ONE)).unwrap().revision, ONE);
    assert!(!client.repo().join("refs").join(ONE).exists());
    assert!(
        hub.log()
            .iter()
            .any(|r| r.path == "/api/models/org/tiny/revision/refs%2Fpr%2F1")
    );
}

/// A server that gives its listing one file at a time, the next one at `host`.
fn paged(host: impl Fn(&Request) -> String + Send + Sync + 'static) -> Hub {
    Hub::with(NAME, tiny(), move |request, _, usual| {
        if !request.path.contains("/tree/") {
            return usual;
        }
        let all: Vec<serde_json::Value> = serde_json::from_slice(&usual.body).unwrap();
        if request.path.ends_with("?cursor=2") {
            return Reply::new(200, serde_json::json!([all[1]]).to_string());
        }
        let next = format!(
            "<http://{}{}?cursor=2>; rel=\"next\"",
            host(request),
            request.path
        );
        Reply::new(200, serde_json::json!([all[0]]).to_string()).header("Link", &next)
    })
}

#[test]
fn a_listing_in_pages_is_read_to_its_end() {
    Client::of(&paged(|request| request.host.clone())).assert_fetched();
}

#[test]
fn a_listing_that_goes_on_at_another_host_is_refused() {
    let other = Hub::serve(NAME, tiny());
    let host = other.endpoint.trim_start_matches("http://").to_owned();
    let failure = Client::of(&paged(move |_| host.clone()))
        .with_token()
        .failure();
    assert!(failure.contains("another host"), "{failure}");
    assert!(other.log().is_empty());
}

#[test]
fn two_fetches_at_once_agree() {
    let hub = with_content(|_, _, usual| usual.hold(Duration::from_millis(50)));
    let client = Client::of(&hub);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| client.fetch().unwrap()))
            .collect();
        let snapshots: Vec<_> = handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .collect();
        assert!(snapshots.windows(2).all(|pair| pair[0] == pair[1]));
    });
    client.assert_fetched();
    assert_eq!(hub.log().iter().filter(|r| is_content(r)).count(), 1);
}

/// A server that stops in the middle of the weights, the first time, until the flag is set;
/// and a client patient enough.
fn gated() -> (Hub, Client, Arc<AtomicBool>) {
    let open = Arc::<AtomicBool>::default();
    let gate = Arc::clone(&open);
    let hub = with_content(move |_, earlier, usual| {
        if earlier == 0 {
            usual.gate(150_000, &gate)
        } else {
            usual
        }
    });
    let mut client = Client::of(&hub);
    client.config.timeout = Duration::from_secs(30);
    (hub, client, open)
}

fn wait_for(condition: impl Fn() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn locks_that_do_not_lock_only_cost_time() {
    let (hub, client, gate) = gated();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| client.fetch().unwrap());
        wait_for(|| client.has_partial(150_000));
        // Without the file, the lock that the first one holds is worth nothing.
        fs::remove_dir_all(client.config.cache.join(".locks")).unwrap();
        let second = client.assert_fetched_beside();
        gate.store(true, Ordering::Relaxed);
        assert_eq!(first.join().unwrap(), second);
    });
    // Neither took the other's bytes.
    let ranges: Vec<_> = hub
        .log()
        .into_iter()
        .filter(is_content)
        .map(|r| r.range)
        .collect();
    assert_eq!(ranges, [None, None]);
    client.assert_fetched();
}

#[test]
fn a_temporary_file_that_vanishes_is_not_the_end() {
    let (hub, client, gate) = gated();
    std::thread::scope(|scope| {
        let fetch = scope.spawn(|| client.fetch());
        let temp = || {
            client
                .blobs()
                .into_iter()
                .find(|name| name.starts_with(&sha256(&weights())))
        };
        wait_for(|| temp().is_some() && hub.log().iter().any(is_content));
        fs::remove_file(client.repo().join("blobs").join(temp().unwrap())).unwrap();
        gate.store(true, Ordering::Relaxed);
        fetch.join().unwrap().unwrap();
    });
    client.assert_fetched();
}

// Answers that refuse.

#[test]
fn refusals_are_told_apart_and_not_repeated() {
    for (status, token, expected) in [
        (401, false, "set HF_TOKEN"),
        (401, true, "token was refused"),
        (403, true, "accept the terms"),
        (404, false, "no such repository or revision (404)"),
        (418, false, "unexpected answer (418)"),
    ] {
        let hub = with_status(status, usize::MAX);
        let client = if token {
            Client::of(&hub).with_token()
        } else {
            Client::of(&hub)
        };
        let failure = client.failure();
        assert!(failure.contains(expected), "{status}: {failure}");
        assert_eq!(hub.log().len(), 1, "{status}");
    }
}

#[test]
fn a_refusal_of_the_bytes_is_reported_too() {
    for (status, expected) in [
        (401, "private (401)"),
        (403, "gated"),
        (404, "404"),
        (416, "unexpected answer (416)"),
    ] {
        let hub = with_content(move |_, _, _| Reply::new(status, "no"));
        let failure = Client::of(&hub).failure();
        assert!(
            failure.contains(expected) && failure.contains("model.safetensors"),
            "{status}: {failure}"
        );
    }
}

#[test]
fn a_gated_model_asks_for_its_terms_to_be_accepted() {
    let hub = Hub::with(NAME, tiny(), |_, _, _| {
        Reply::new(403, "").header("X-Error-Code", "GatedRepo")
    });
    assert!(
        Client::of(&hub)
            .failure()
            .contains("restricted by its owner")
    );
}

#[test]
fn a_missing_repository_and_a_missing_revision_are_told_apart() {
    let hub = Hub::serve("org/other", tiny());
    assert!(
        Client::of(&hub)
            .failure()
            .contains("no such repository (404)")
    );
    let hub = Hub::serve(NAME, tiny());
    let error = Client::of(&hub).fetch_at(Some("v9")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "org/tiny@v9: there is no such revision (404)"
    );
    assert!(error.hint().unwrap().contains('@'));
}

#[test]
fn a_folder_of_the_same_name_is_pointed_out() {
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let error = fetch("fixtures/gpt2-pico", None, &client.config, &NoProgress).unwrap_err();
    assert_eq!(
        error.hint(),
        Some("a folder of that name exists: write ./fixtures/gpt2-pico")
    );
}

#[test]
fn passing_faults_are_waited_out() {
    for status in [429, 500, 504] {
        let hub = with_status(status, 2);
        Client::of(&hub).assert_fetched();
    }
}

#[test]
fn lasting_faults_end() {
    for (status, expected) in [
        (429, "too many requests"),
        (500, "the server failed (500)"),
        (503, "(503)"),
    ] {
        let hub = with_status(status, usize::MAX);
        let failure = Client::of(&hub).failure();
        assert!(failure.contains(expected), "{failure}");
        assert_eq!(hub.log().len(), 5);
    }
}

#[test]
fn retry_after_is_honoured() {
    let hub = Hub::with(NAME, tiny(), |request, earlier, usual| {
        if request.path.contains("/revision/") && earlier == 0 {
            Reply::new(429, "").header("Retry-After", "1")
        } else {
            usual
        }
    });
    let start = Instant::now();
    Client::of(&hub).assert_fetched();
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn nobody_at_the_address() {
    let failure = Client::at("http://127.0.0.1:1").failure();
    assert!(
        failure.contains("cannot reach http://127.0.0.1:1"),
        "{failure}"
    );
}

#[test]
fn an_address_that_is_none_is_a_usage_error() {
    for endpoint in ["", "huggingface.co", "ftp://x", "https://user:hf_secret@x"] {
        let error = Client::at(endpoint).fetch().unwrap_err();
        assert_eq!(error.exit_code(), 2, "{endpoint}");
        assert!(!error.to_string().contains("hf_secret"));
    }
}

// Bodies that are not what they should be.

#[test]
fn a_cut_body_is_continued() {
    let hub = with_content(|_, earlier, usual| {
        if earlier == 0 {
            usual.cut(123_456)
        } else {
            usual
        }
    });
    Client::of(&hub).assert_fetched();
    let ranges: Vec<_> = hub
        .log()
        .into_iter()
        .filter(is_content)
        .map(|r| r.range)
        .collect();
    assert_eq!(ranges, [None, Some("bytes=123456-".to_owned())]);
}

#[test]
fn a_cut_body_is_continued_by_the_next_run() {
    let weights = weights();
    let hub = with_content(move |request, earlier, usual| match earlier {
        0 => usual.cut(100_000),
        1..5 => Reply::new(503, ""),
        _ => {
            assert_eq!(request.range.as_deref(), Some("bytes=100000-"));
            usual
        }
    });
    let client = Client::of(&hub);
    assert!(client.failure().contains("(503)"));
    let kept = client
        .repo()
        .join("blobs")
        .join(format!("{}.incomplete", sha256(&weights)));
    assert_eq!(fs::read(&kept).unwrap(), weights[..100_000]);
    client.assert_fetched();
}

#[test]
fn a_body_that_is_always_cut_is_reported() {
    let hub = with_content(|_, _, usual| usual.cut(10));
    let failure = Client::of(&hub).failure();
    assert!(
        failure.contains("closed after 50 of 300000 bytes"),
        "{failure}"
    );
}

#[test]
fn a_body_without_length_that_ends_early_is_noticed() {
    let hub = with_content(|_, earlier, usual| {
        if earlier == 0 {
            usual.unsized_body().cut(10)
        } else {
            usual
        }
    });
    Client::of(&hub).assert_fetched();
}

#[test]
fn a_server_that_cannot_continue_starts_over() {
    let full = Reply::new(200, weights());
    let wrong = Reply::new(206, &weights()[9..]).header("Content-Range", "bytes 9-299999/300000");
    let unmarked = Reply::new(206, weights());
    let lying = Reply::new(200, weights()).header("Content-Range", "bytes 1000-299999/300000");
    for answer in [full, wrong, unmarked, lying, Reply::new(416, "")] {
        let hub = with_content(move |request, earlier, usual| match &request.range {
            Some(_) => answer.clone(),
            None if earlier == 0 => usual.cut(1000),
            None => usual,
        });
        Client::of(&hub).assert_fetched();
    }
}

#[test]
fn a_leftover_with_wrong_bytes_is_dropped() {
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let blobs = client.repo().join("blobs");
    for leftover in [vec![0; 1000], vec![0; 300_000], vec![0; 300_001]] {
        fs::create_dir_all(&blobs).unwrap();
        fs::write(
            blobs.join(format!("{}.incomplete", sha256(&weights()))),
            &leftover,
        )
        .unwrap();
        let snapshot = client.fetch().unwrap();
        assert_eq!(
            fs::read(snapshot.dir.join("model.safetensors")).unwrap(),
            weights()
        );
        client.assert_clean();
        fs::remove_dir_all(client.repo()).unwrap();
    }
}

#[test]
fn a_complete_leftover_is_published_without_a_download() {
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let blobs = client.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        blobs.join(format!("{}.1a2b3c4d.incomplete", sha256(&weights()))),
        weights(),
    )
    .unwrap();
    client.assert_fetched();
    assert!(!hub.log().iter().any(is_content));
}

#[test]
fn a_leftover_that_is_a_link_or_in_use_is_left_alone() {
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let blobs = client.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let victim = client.repo().join("victim");
    fs::write(&victim, &weights()[..5000]).unwrap();
    std::os::unix::fs::symlink(
        &victim,
        blobs.join(format!("{}.incomplete", sha256(&weights()))),
    )
    .unwrap();
    let used = blobs.join(format!("{}.cafe.incomplete", sha256(&weights())));
    fs::write(&used, &weights()[..9000]).unwrap();
    let owner = fs::File::open(&used).unwrap();
    owner.lock().unwrap();
    let snapshot = client.fetch().unwrap();
    assert_eq!(
        fs::read(snapshot.dir.join("model.safetensors")).unwrap(),
        weights()
    );
    assert_eq!(fs::read(&victim).unwrap(), &weights()[..5000]);
    assert_eq!(fs::read(&used).unwrap(), &weights()[..9000]);
    assert!(
        hub.log()
            .iter()
            .filter(|r| is_content(r))
            .all(|r| r.range.is_none())
    );
}

#[test]
fn too_many_bytes_are_refused() {
    let longer = [weights(), vec![7; 1000]].concat();
    for (reply, expected) in [
        (
            Reply::new(200, longer.clone()),
            "announces 301000 bytes, the listing says 300000",
        ),
        (
            Reply::new(200, longer).unsized_body(),
            "sends more than the 300000 bytes",
        ),
    ] {
        let hub = with_content(move |_, _, _| reply.clone());
        let client = Client::of(&hub);
        let failure = client.failure();
        assert!(failure.contains(expected), "{failure}");
        assert!(!client.blobs().contains(&sha256(&weights())));
    }
}

#[test]
fn wrong_bytes_of_the_right_size_are_refused() {
    let hub = with_content(|_, _, usual| Reply::new(200, vec![0; usual.body.len()]));
    let client = Client::of(&hub);
    let failure = client.failure();
    assert!(
        failure.contains(&format!("expected {}", sha256(&weights()))),
        "{failure}"
    );
    assert!(
        failure.contains(&format!("has sha256 {}", sha256(&vec![0; 300_000]))),
        "{failure}"
    );
    assert_eq!(client.blobs(), [git_hash(CONFIG)]);
    assert!(!client.repo().join("refs/main").exists());
}

#[test]
fn a_wrong_small_file_is_refused() {
    let hub = Hub::with(NAME, tiny(), |request, _, usual| {
        if request.path.ends_with("/config.json") {
            Reply::new(200, vec![b' '; CONFIG.len()])
        } else {
            usual
        }
    });
    let client = Client::of(&hub);
    let failure = client.failure();
    assert!(
        failure.contains("git hash") && failure.contains(&git_hash(CONFIG)),
        "{failure}"
    );
    assert_eq!(client.blobs(), Vec::<String>::new());
}

#[test]
fn an_error_page_with_status_200_is_refused() {
    let hub = with_content(|_, _, _| Reply::new(200, "<html>503</html>"));
    let failure = Client::of(&hub).failure();
    assert!(failure.contains("16 bytes"), "{failure}");
}

#[test]
fn a_stall_ends() {
    let hub = with_content(|_, _, usual| usual.cut(1000).hold(Duration::from_secs(5)));
    let mut client = Client::of(&hub);
    client.config.timeout = Duration::from_millis(100);
    let start = Instant::now();
    let failure = client.failure();
    assert!(failure.contains("nothing arrived for 0.1 s"), "{failure}");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_silent_server_ends() {
    let hub = Hub::with(NAME, tiny(), |request, _, usual| {
        if request.path.starts_with("/api/") {
            usual
        } else {
            std::thread::sleep(Duration::from_secs(4));
            usual
        }
    });
    let mut client = Client::of(&hub);
    client.config.timeout = Duration::from_millis(50);
    let failure = client.failure();
    assert!(failure.contains("nothing arrived"), "{failure}");
}

#[test]
fn a_page_of_a_captive_portal_is_recognised() {
    let hub = Hub::with(NAME, tiny(), |_, _, _| {
        Reply::new(200, "\n<!DOCTYPE html><html>please log in</html>")
    });
    let failure = Client::of(&hub).failure();
    assert!(
        failure.contains("an HTML page") && failure.contains("login"),
        "{failure}"
    );
}

#[test]
fn answers_that_no_hub_gives_are_refused() {
    for body in [
        "",
        "{",
        "[]",
        r#"{"sha":7}"#,
        r#"{"sha":"../../../../etc"}"#,
        r#"{"sha":"11"}"#,
        "{\"sha\":\"\u{1b}\"}",
    ] {
        let hub = Hub::with(NAME, tiny(), move |request, _, usual| {
            if request.path.contains("/revision/") {
                Reply::new(200, body)
            } else {
                usual
            }
        });
        let failure = Client::of(&hub).failure();
        assert!(
            failure.contains("not the answer of a hub") && !failure.contains('\u{1b}'),
            "{body}: {failure}"
        );
        assert_eq!(hub.log().len(), 1, "{body}");
    }
}

#[test]
fn another_commit_than_the_one_asked_for_is_refused() {
    let hub = Hub::with(NAME, tiny(), |request, _, usual| {
        let other = serde_json::json!({ "sha": TWO }).to_string();
        if request.path.contains("/revision/") {
            Reply::new(200, other)
        } else {
            usual
        }
    });
    let error = Client::of(&hub).fetch_at(Some(ONE)).unwrap_err();
    assert!(
        error.to_string().contains("not the answer of a hub") && error.to_string().contains(TWO),
        "{error}"
    );
}

#[test]
fn an_endless_listing_is_refused() {
    let hub = Hub::with(NAME, tiny(), |request, _, usual| {
        if request.path.contains("/tree/") {
            Reply::new(200, vec![b' '; 40 << 20])
        } else {
            usual
        }
    });
    let failure = Client::of(&hub).failure();
    assert!(failure.contains("more than 32 MiB"), "{failure}");
}

#[test]
fn a_hash_that_is_a_path_is_not_taken() {
    let hub = Hub::with(NAME, tiny(), |request, _, usual| {
        if !request.path.contains("/tree/") {
            return usual;
        }
        let body = String::from_utf8(usual.body).unwrap();
        Reply::new(200, body.replace(&git_hash(CONFIG), "../../../../evil"))
    });
    let client = Client::of(&hub);
    let error = client.fetch().unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    client.assert_clean();
}

#[test]
fn an_etag_that_is_a_path_is_not_taken() {
    let hub = Hub::with(NAME, tiny(), |request, earlier, usual| {
        let evil = |mut reply: Reply| {
            reply
                .headers
                .retain(|(name, _)| !name.to_ascii_lowercase().ends_with("etag"));
            reply
                .header("ETag", "\"../../../../evil\"")
                .header("X-Linked-Etag", "\"../../../../evil\"")
        };
        match request.path.starts_with("/api/") {
            true => usual,
            false if is_content(request) && earlier == 0 => evil(usual.cut(100)),
            false => evil(usual),
        }
    });
    Client::of(&hub).assert_fetched();
}

#[test]
fn shards_that_are_paths_are_not_fetched() {
    for name in [
        "../../../../evil.bin",
        "/etc/evil.bin",
        "a\\\\b.bin",
        "a\\u0000.bin",
        "\\u001b[31m.bin",
        "..",
        "",
        ".x.bin",
    ] {
        let index = format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#);
        let hub = Hub::serve(
            NAME,
            repo_with(&[
                ("config.json", CONFIG),
                ("model.safetensors.index.json", index.as_bytes()),
            ]),
        );
        let client = Client::of(&hub);
        let error = client.fetch().unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("not a plain file name")
                && !text.contains('\u{1b}')
                && !text.contains('\0'),
            "{text}"
        );
        client.assert_clean();
    }
}

#[test]
fn a_shard_that_is_not_in_the_repository_is_reported() {
    let index = br#"{"weight_map":{"a":"model-9.safetensors"}}"#;
    let hub = Hub::serve(
        NAME,
        repo_with(&[
            ("config.json", CONFIG),
            ("model.safetensors.index.json", index),
        ]),
    );
    let error = Client::of(&hub).fetch().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`model-9.safetensors` is not in the repository"),
        "{error}"
    );
}

#[test]
fn a_repository_that_is_no_model_is_refused_before_anything_is_fetched() {
    for (files, expected) in [
        (&[("README.md", b"".as_slice())][..], "no config.json"),
        (
            &[("config.json", CONFIG), ("tf_model.h5", b"h5")][..],
            "neither model.safetensors",
        ),
    ] {
        let hub = Hub::serve(NAME, repo_with(files));
        let error = Client::of(&hub).fetch().unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(
            error.to_string().contains(expected) && error.hint().is_some(),
            "{error}"
        );
        assert!(hub.downloads().is_empty());
    }
}

#[test]
fn a_file_larger_than_the_disk_is_refused_before_it_is_fetched() {
    let hub = Hub::with(NAME, tiny(), |request, _, usual| {
        let body = String::from_utf8_lossy(&usual.body).replace("300000", "9000000000000000000");
        if request.path.contains("/tree/") {
            Reply::new(200, body)
        } else {
            usual
        }
    });
    let error = Client::of(&hub).fetch().unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    assert!(!hub.log().iter().any(is_weights));
}

// Redirects and the token.

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    // The other host redirects to itself once more, where reqwest would send the token again.
    let cdn = Hub::with(NAME, tiny(), |request, _, usual| {
        match request.path.strip_prefix("/first") {
            Some(rest) => Reply::new(302, "").header("Location", rest),
            None => usual,
        }
    });
    let elsewhere = cdn.endpoint.clone();
    let hub = Hub::with(NAME, tiny(), move |request, _, usual| {
        let location = format!("{elsewhere}/first/cdn/{}", sha256(&weights()));
        if is_weights(request) {
            Reply::new(302, "").header("Location", &location)
        } else {
            usual
        }
    });
    Client::of(&hub).with_token().assert_fetched();
    assert!(
        hub.log()
            .iter()
            .all(|request| request.auth.as_deref() == Some("Bearer hf_secret"))
    );
    assert!(cdn.log().len() >= 2);
    assert!(
        cdn.log().iter().all(|request| request.auth.is_none()),
        "{:?}",
        cdn.log()
    );
}

#[test]
fn without_a_token_none_is_sent() {
    let hub = Hub::serve(NAME, tiny());
    Client::of(&hub).assert_fetched();
    assert!(hub.log().iter().all(|request| request.auth.is_none()));
}

#[test]
fn a_redirect_loop_ends() {
    let hub = with_content(|request, _, _| Reply::new(302, "").header("Location", &request.path));
    let failure = Client::of(&hub).failure();
    assert!(failure.contains("more than 10 redirects"), "{failure}");
    assert!(hub.log().len() < 40);
}

#[test]
fn a_redirect_to_nowhere_ends() {
    for location in ["file:///etc/passwd", "ftp://x/y"] {
        let hub = with_content(move |_, _, _| Reply::new(302, "").header("Location", location));
        let failure = Client::of(&hub).failure();
        assert!(failure.contains("a redirect from http to"), "{failure}");
    }
    let hub = with_content(|_, _, _| Reply::new(302, ""));
    assert!(Client::of(&hub).failure().contains("a redirect to nowhere"));
}

#[test]
fn a_renamed_repository_is_followed() {
    let hub = Hub::with("org/new", tiny(), |request, _, usual| {
        match request.path.contains("org/tiny") {
            true => {
                Reply::new(307, "").header("Location", &request.path.replace("org/tiny", "org/new"))
            }
            false => usual,
        }
    });
    Client::of(&hub).with_token().assert_fetched();
}

#[test]
fn without_xet_no_file_is_asked_for_twice() {
    let hub = Hub::serve(NAME, tiny());
    let mut client = Client::of(&hub);
    client.config.xet = false;
    client.assert_fetched();
    assert!(hub.log().iter().all(|request| request.method == "GET"));
}

#[test]
fn an_xet_route_that_fails_is_not_the_end() {
    let hub = Hub::with(NAME, tiny(), |request, _, usual| {
        if request.method == "HEAD" {
            usual.header("X-Xet-Hash", &sha256(b"x"))
        } else {
            usual
        }
    });
    Client::of(&hub).assert_fetched();
    assert!(hub.log().iter().any(|r| r.path.contains("xet-read-token")));
}

// Without a network.

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn start(&self, file: &str, size: u64, already: u64) {
        self.0
            .lock()
            .unwrap()
            .push(format!("{file} {already}/{size}"));
    }
    fn advance(&self, bytes: u64) {
        assert!(bytes > 0);
    }
    fn finish(&self) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

#[test]
fn offline_uses_the_cache_and_asks_nobody() {
    let hub = Hub::serve(NAME, tiny());
    let mut client = Client::of(&hub);
    let online = client.assert_fetched();
    let before = hub.log().len();
    client.config.offline = true;
    assert_eq!(client.fetch().unwrap(), online);
    assert_eq!(client.fetch_at(Some(ONE)).unwrap().dir, online.dir);
    assert_eq!(hub.log().len(), before);
}

#[test]
fn offline_says_what_is_missing() {
    let hub = Hub::serve(NAME, tiny());
    let mut client = Client::of(&hub);
    client.config.offline = true;
    let failure = client.failure();
    assert!(
        failure.contains("it is not in the cache") && failure.contains("HF_HUB_OFFLINE"),
        "{failure}"
    );
    client.config.offline = false;
    let snapshot = client.assert_fetched();
    client.config.offline = true;
    assert_eq!(client.fetch_at(Some("v2")).unwrap_err().exit_code(), 4);
    fs::remove_file(client.repo().join("blobs").join(sha256(&weights()))).unwrap();
    let error = client.fetch().unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors is not in the cache"),
        "{error}"
    );
    fs::write(snapshot.dir.join("config.json"), "damaged").unwrap();
    let error = client.fetch().unwrap_err().to_string();
    assert!(error.contains("config.json is not in the cache"), "{error}");
}

#[test]
fn a_cache_made_by_python_is_used_offline() {
    let mut client = Client::at("http://127.0.0.1:1");
    client.config.offline = true;
    let dir = client.repo().join("snapshots").join(TWO);
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir_all(client.repo().join("refs")).unwrap();
    fs::create_dir_all(client.repo().join("blobs")).unwrap();
    fs::write(client.repo().join("refs/main"), format!("{TWO}\n")).unwrap();
    fs::write(client.repo().join("blobs").join(git_hash(CONFIG)), CONFIG).unwrap();
    std::os::unix::fs::symlink(
        Path::new("../../blobs").join(git_hash(CONFIG)),
        dir.join("config.json"),
    )
    .unwrap();
    fs::write(dir.join("pytorch_model.bin"), "pickle").unwrap();
    assert_eq!(client.fetch().unwrap().commit, TWO);
}

#[test]
fn an_unreachable_hub_falls_back_to_the_cache() {
    let hub = Hub::serve(NAME, tiny());
    let mut client = Client::of(&hub);
    let online = client.assert_fetched();
    client.config.endpoint = "http://127.0.0.1:1".to_owned();
    let notes = Notes::default();
    assert_eq!(fetch(NAME, None, &client.config, &notes).unwrap(), online);
    let notes = notes.0.into_inner().unwrap();
    assert!(
        notes[0].contains("cannot reach") && notes[0].contains(ONE),
        "{notes:?}"
    );
}

#[test]
fn a_refusal_does_not_fall_back_to_the_cache() {
    let hub = Hub::serve(NAME, tiny());
    let mut client = Client::of(&hub);
    client.assert_fetched();
    let gone = with_status(404, usize::MAX);
    client.config.endpoint = gone.endpoint.clone();
    client.failure();
}

// The cache.

#[test]
fn damaged_blobs_are_fetched_again() {
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let snapshot = client.assert_fetched();
    for damage in [&weights()[..1000], b"", &vec![0; 300_000]] {
        fs::write(snapshot.dir.join("model.safetensors"), damage).unwrap();
        client.assert_fetched();
    }
    let blob = client.repo().join("blobs").join(sha256(&weights()));
    fs::remove_file(&blob).unwrap();
    let victim = client.repo().join("victim");
    fs::write(&victim, weights()).unwrap();
    std::os::unix::fs::symlink(&victim, &blob).unwrap();
    client.assert_fetched();
    assert!(!blob.is_symlink() && victim.is_file());
}

#[test]
fn a_link_that_leads_elsewhere_is_replaced() {
    let hub = Hub::serve(NAME, tiny());
    let client = Client::of(&hub);
    let snapshot = client.assert_fetched();
    let link = snapshot.dir.join("config.json");
    for target in ["../../blobs/nothing", "/etc/hostname"] {
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(target, &link).unwrap();
        client.assert_fetched();
    }
    fs::remove_file(&link).unwrap();
    fs::write(&link, "a plain file").unwrap();
    client.assert_fetched();
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let hub = Hub::serve(NAME, tiny());
    let mut client = Client::of(&hub);
    client.config.cache = PathBuf::from("/proc/nowhere");
    let error = client.fetch().unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("/proc/nowhere"), "{error}");
}

#[test]
fn progress_is_told_where_a_file_begins() {
    let hub = with_content(|_, earlier, usual| if earlier < 5 { usual.cut(1000) } else { usual });
    let client = Client::of(&hub);
    assert!(client.failure().contains("5000 of 300000"));
    let notes = Notes::default();
    fetch(NAME, None, &client.config, &notes).unwrap();
    assert_eq!(
        notes.0.into_inner().unwrap(),
        ["model.safetensors 5000/300000"]
    );
}

// Signals.

/// Runs in a process of its own, see [`Fetcher`].
#[test]
#[ignore = "a helper of other tests"]
fn fetch_in_a_child() {
    let (Ok(endpoint), Ok(cache)) = (
        std::env::var("TEST_HUB_ENDPOINT"),
        std::env::var("TEST_HUB_CACHE"),
    ) else {
        return;
    };
    scale_ckpt::interrupt::install();
    let mut client = Client::at(&endpoint);
    client.config.cache = PathBuf::from(cache);
    client.config.timeout = Duration::from_secs(30);
    let error = client.fetch().unwrap_err();
    std::process::exit(error.exit_code().into());
}

/// Another process that downloads until it gets a signal.
struct Fetcher(Child);

impl Fetcher {
    fn start(hub: &Hub, client: &Client) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "fetch_in_a_child"])
            .env("TEST_HUB_ENDPOINT", &hub.endpoint)
            .env("TEST_HUB_CACHE", &client.config.cache)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_for(|| client.has_partial(100_000));
        Self(child)
    }

    fn signal(mut self, signal: rustix::process::Signal) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
        self.0.wait().unwrap()
    }
}

fn slow_hub() -> Hub {
    with_content(|_, earlier, usual| {
        if earlier == 0 {
            usual.cut(100_000).hold(Duration::from_secs(20))
        } else {
            usual
        }
    })
}

#[test]
fn a_signal_ends_the_download_and_keeps_what_arrived() {
    let hub = slow_hub();
    let client = Client::of(&hub);
    let child = Fetcher::start(&hub, &client);
    let start = Instant::now();
    assert_eq!(child.signal(rustix::process::Signal::TERM).code(), Some(75));
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(
        client
            .blobs()
            .contains(&format!("{}.incomplete", sha256(&weights())))
    );
    client.assert_fetched();
    assert_eq!(
        hub.log().last().unwrap().range.as_deref(),
        Some("bytes=100000-")
    );
}

#[test]
fn after_a_kill_the_next_run_goes_on() {
    let hub = slow_hub();
    let client = Client::of(&hub);
    Fetcher::start(&hub, &client).signal(rustix::process::Signal::KILL);
    client.assert_fetched();
    assert_eq!(
        hub.log().last().unwrap().range.as_deref(),
        Some("bytes=100000-")
    );
}

// Settings.

#[test]
fn variables_are_read_as_huggingface_hub_reads_them() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("my-token");
    fs::write(&file, "hf_from_file\n").unwrap();
    fs::create_dir(root.path().join("home")).unwrap();
    fs::write(root.path().join("home/token"), " hf_stored ").unwrap();
    let (file, home) = (
        file.to_str().unwrap(),
        root.path().join("home").display().to_string(),
    );
    let read = |vars: &[(&str, &str)]| {
        let vars: Vec<(String, String)> = vars
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        HubConfig::from_vars(move |name| {
            vars.iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        })
    };
    let cache = |vars: &[(&str, &str)]| read(vars).unwrap().cache.display().to_string();
    let token = |vars: &[(&str, &str)]| read(vars).unwrap().token;
    let secret = |text: &str| Some(Token::new(text).unwrap());

    assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
    assert_eq!(
        cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
        "/x/huggingface/hub"
    );
    assert_eq!(
        cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/hf")]),
        "/hf/hub"
    );
    assert_eq!(
        cache(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]),
        "/old"
    );
    assert_eq!(
        cache(&[
            ("HF_HOME", "/hf"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("HF_HUB_CACHE", "/new")
        ]),
        "/new"
    );
    assert_eq!(
        cache(&[("HF_HOME", ""), ("HOME", "/h")]),
        "/h/.cache/huggingface/hub"
    );
    assert_eq!(read(&[]).unwrap_err().exit_code(), 2);

    assert_eq!(token(&[("HF_HOME", "/hf")]), None);
    assert_eq!(token(&[("HF_HOME", &home)]), secret("hf_stored"));
    assert_eq!(
        token(&[("HF_HOME", &home), ("HF_TOKEN_PATH", file)]),
        secret("hf_from_file")
    );
    assert_eq!(
        token(&[
            ("HF_HOME", &home),
            ("HF_TOKEN_PATH", file),
            ("HF_TOKEN", "hf_var")
        ]),
        secret("hf_var")
    );
    assert_eq!(
        token(&[
            ("HF_HOME", &home),
            ("HF_TOKEN", "hf_var"),
            ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        ]),
        None
    );
    let debug = format!(
        "{:?}",
        read(&[("HF_HOME", "/hf"), ("HF_TOKEN_PATH", file)]).unwrap()
    );
    assert!(
        debug.contains("hidden") && !debug.contains("hf_from_file"),
        "{debug}"
    );
    let error = read(&[("HF_HOME", "/hf"), ("HF_TOKEN", "hf_a\nb")]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hf_a"));

    for (value, expected) in [
        ("1", true),
        ("true", true),
        ("Yes", true),
        ("ON", true),
        ("0", false),
        ("", false),
        ("2", false),
    ] {
        assert_eq!(
            read(&[("HF_HOME", "/hf"), ("HF_HUB_OFFLINE", value)])
                .unwrap()
                .offline,
            expected,
            "{value}"
        );
        assert_eq!(
            read(&[("HF_HOME", "/hf"), ("TRANSFORMERS_OFFLINE", value)])
                .unwrap()
                .offline,
            expected,
            "{value}"
        );
        assert_eq!(
            read(&[("HF_HOME", "/hf"), ("HF_HUB_DISABLE_PROGRESS_BARS", value)])
                .unwrap()
                .progress_bars,
            !expected
        );
    }
    let timeout = |value: &str| {
        read(&[("HF_HOME", "/hf"), ("HF_HUB_DOWNLOAD_TIMEOUT", value)]).map(|c| c.timeout)
    };
    assert_eq!(timeout("").unwrap(), Duration::from_secs(10));
    assert_eq!(timeout("2.5").unwrap(), Duration::from_millis(2500));
    for bad in ["0", "-1", "ten", "NaN", "inf", "1e99"] {
        assert_eq!(timeout(bad).unwrap_err().exit_code(), 2, "{bad}");
    }
    let listing = read(&[("HF_HOME", "/hf"), ("HF_HUB_ETAG_TIMEOUT", "3")])
        .unwrap()
        .listing_timeout;
    assert_eq!(listing, Duration::from_secs(3));
    assert_eq!(
        read(&[("HF_HOME", "/hf")]).unwrap().endpoint,
        "https://huggingface.co"
    );
    assert_eq!(
        read(&[("HF_HOME", "/hf"), ("HF_ENDPOINT", "https://m")])
            .unwrap()
            .endpoint,
        "https://m"
    );
}

/// A server with a certificate of `fixtures/tls`, which knows no repository. It stops with the
/// test.
fn serve_with_tls() -> String {
    let read = |name: &str| fs::read(Path::new("fixtures/tls").join(name)).unwrap();
    let certificate = CertificateDer::from_pem_slice(&read("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            // The handshake fails where the client does not know the authority.
            if stream.read(&mut [0; 4096]).is_ok() {
                let answer = b"HTTP/1.1 404 Not Found\r\nx-error-code: RepoNotFound\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).and_then(|()| stream.flush());
            }
        }
    });
    endpoint
}

#[test]
fn an_authority_of_its_own_is_taken_from_ssl_cert_file() {
    let endpoint = serve_with_tls();
    let cache = tempfile::tempdir().unwrap();
    let inspect = |file: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scale-ckpt"));
        command
            .args(["inspect", NAME])
            .env("HF_ENDPOINT", &endpoint);
        command.env("HF_HOME", cache.path());
        for name in [
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
        ] {
            command.env_remove(name);
        }
        if let Some(file) = file {
            command.env("SSL_CERT_FILE", file);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(4));
        String::from_utf8(output.stderr).unwrap()
    };
    let known = inspect(Some("fixtures/tls/authority.pem"));
    assert!(
        known.contains("there is no such repository (404)"),
        "{known}"
    );
    let unknown = inspect(None);
    assert!(
        unknown.contains("certificate") && unknown.contains("set SSL_CERT_FILE to"),
        "{unknown}"
    );
    let nowhere = inspect(Some("nowhere.pem"));
    assert!(
        nowhere.contains("SSL_CERT_FILE names nowhere.pem, and there is no such file"),
        "{nowhere}"
    );
}

#[test]
fn a_repository_with_other_weights_or_an_adapter_says_so() {
    let config = ("config.json", CONFIG);
    for (files, words, hint) in [
        (
            vec![config, ("flax_model.msgpack", b"x")],
            "`flax_model.msgpack`: weights of Flax",
            "from_flax",
        ),
        (
            vec![config, ("gpt2.gguf", b"x".as_slice())],
            "`gpt2.gguf`: a GGUF file",
            "gguf_file",
        ),
        (
            vec![("gpt2.gguf", b"x".as_slice())],
            "`gpt2.gguf`: a GGUF file",
            "gguf_file",
        ),
        (
            vec![
                ("adapter_config.json", b"{}".as_slice()),
                ("adapter_model.safetensors", b"x"),
            ],
            "a PEFT adapter",
            "merge_and_unload",
        ),
        (
            vec![
                config,
                ("adapter_config.json", b"{}"),
                ("model.safetensors", b"x"),
            ],
            "a PEFT adapter",
            "merge_and_unload",
        ),
    ] {
        let hub = Hub::serve(NAME, repo_with(&files));
        let error = Client::of(&hub).fetch().unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
        assert!(hub.downloads().is_empty());
    }
}
