//! A hub on the loopback interface: enough of the protocol for a client, and any misbehaviour.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// One file of a repository.
#[derive(Clone)]
pub struct FileData {
    pub bytes: Vec<u8>,
    pub lfs: bool,
}

impl FileData {
    /// The hash that names the blob.
    pub fn id(&self) -> String {
        if self.lfs {
            sha256(&self.bytes)
        } else {
            git_hash(&self.bytes)
        }
    }
}

/// A repository: what each name points to, and the files of each commit.
#[derive(Clone, Default)]
pub struct Repo {
    pub refs: BTreeMap<String, String>,
    pub commits: BTreeMap<String, BTreeMap<String, FileData>>,
}

impl Repo {
    /// Adds a commit and moves `main` to it.
    pub fn commit<'f>(&mut self, sha: &str, files: impl IntoIterator<Item = (&'f str, &'f [u8])>) {
        let files = files.into_iter().map(|(name, bytes)| {
            let lfs = [".safetensors", ".bin", ".h5", ".parquet"]
                .iter()
                .any(|end| name.ends_with(end));
            (
                name.to_owned(),
                FileData {
                    bytes: bytes.to_vec(),
                    lfs,
                },
            )
        });
        self.commits.insert(sha.to_owned(), files.collect());
        self.refs.insert("main".to_owned(), sha.to_owned());
    }
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub host: String,
    pub range: Option<String>,
    pub auth: Option<String>,
}

/// What is answered.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection closes.
    pub cut: Option<usize>,
    /// Bytes of the body after which to wait until the flag is set.
    pub gate: Option<(usize, Arc<AtomicBool>)>,
    /// How long to sit still before the connection closes.
    pub hold: Duration,
    /// Whether to announce the length.
    pub sized: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            gate: None,
            hold: Duration::ZERO,
            sized: true,
        }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    #[must_use]
    pub fn gate(mut self, after: usize, open: &Arc<AtomicBool>) -> Self {
        self.gate = Some((after, Arc::clone(open)));
        self
    }

    #[must_use]
    pub fn hold(mut self, time: Duration) -> Self {
        self.hold = time;
        self
    }

    /// Without `Content-Length`: the body ends where the connection does.
    #[must_use]
    pub fn unsized_body(mut self) -> Self {
        self.sized = false;
        self
    }
}

type Hook = Box<dyn Fn(&Request, usize, Reply) -> Reply + Send + Sync>;

struct State {
    repos: Mutex<BTreeMap<String, Repo>>,
    log: Mutex<Vec<Request>>,
    hook: Hook,
}

/// A running server; it ends with the process.
pub struct Hub {
    pub endpoint: String,
    state: Arc<State>,
}

impl Hub {
    /// Serves `repo` as `name`, which begins with `datasets/` for one.
    pub fn serve(name: &str, repo: Repo) -> Self {
        Self::with(name, repo, |_, _, reply| reply)
    }

    /// The same, with every reply passed through `hook`, which also learns how often this
    /// method and path were asked for before.
    pub fn with(
        name: &str,
        repo: Repo,
        hook: impl Fn(&Request, usize, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let repos = Mutex::new(BTreeMap::from([(name.to_owned(), repo)]));
        let state = Arc::new(State {
            repos,
            log: Mutex::default(),
            hook: Box::new(hook),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { endpoint, state }
    }

    /// All requests so far.
    pub fn log(&self) -> Vec<Request> {
        self.state.log.lock().unwrap().clone()
    }

    /// `GET`s of file contents so far, as paths.
    pub fn downloads(&self) -> Vec<String> {
        let content = |path: &str| path.contains("/resolve/") || path.starts_with("/cdn/");
        self.log()
            .into_iter()
            .filter(|r| r.method == "GET" && content(&r.path))
            .map(|r| r.path)
            .collect()
    }

    /// Serves another repository too.
    pub fn also(&self, name: &str, repo: Repo) {
        self.state
            .repos
            .lock()
            .unwrap()
            .insert(name.to_owned(), repo);
    }

    /// Changes the repository.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Repo)) {
        change(self.state.repos.lock().unwrap().get_mut(name).unwrap());
    }
}

fn answer(stream: TcpStream, state: &State) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let Some(request) = read_request(&mut reader) else {
        return;
    };
    let earlier = {
        let mut log = state.log.lock().unwrap();
        let earlier = log
            .iter()
            .filter(|r| r.method == request.method && r.path == request.path)
            .count();
        log.push(request.clone());
        earlier
    };
    let usual = route(&request, &state.repos.lock().unwrap());
    let reply = (state.hook)(&request, earlier, usual);
    // A client that hangs up is none of the server's business.
    let _ = send(stream, &request, &reply);
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut host, mut range, mut auth) = (String::new(), None, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "host" => value.clone_into(&mut host),
            "range" => range = Some(value.to_owned()),
            "authorization" => auth = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(Request {
        method,
        path,
        host,
        range,
        auth,
    })
}

fn send(mut stream: TcpStream, request: &Request, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if reply.sized
        && !reply
            .headers
            .iter()
            .any(|(name, _)| name == "Content-Length")
    {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    if request.method != "HEAD" {
        let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
        let after = reply.gate.as_ref().map_or(body.len(), |(after, _)| *after);
        stream.write_all(&body[..after])?;
        while reply
            .gate
            .as_ref()
            .is_some_and(|(_, open)| !open.load(Ordering::Relaxed))
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        stream.write_all(&body[after..])?;
    }
    stream.flush()?;
    std::thread::sleep(reply.hold);
    stream.shutdown(std::net::Shutdown::Write)?;
    // Read to the end, or closing would reset what is still on its way.
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let _ = stream.take(1 << 16).read_to_end(&mut Vec::new());
    Ok(())
}

/// The answer of a well-behaved hub.
fn route(request: &Request, repos: &BTreeMap<String, Repo>) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    if let Some(id) = path.strip_prefix("/cdn/") {
        let files = repos
            .values()
            .flat_map(|repo| repo.commits.values())
            .flat_map(BTreeMap::values);
        let file = files.into_iter().find(|file| file.id() == id);
        return file.map_or_else(|| Reply::new(404, ""), |file| content(request, file));
    }
    let path = path.trim_start_matches('/');
    let (api, path) = match path.strip_prefix("api/") {
        Some(rest) => (true, rest.trim_start_matches("models/")),
        None => (false, path),
    };
    let found = repos.iter().find_map(|(name, repo)| {
        Some((repo, path.strip_prefix(name.as_str())?.strip_prefix('/')?))
    });
    let Some((repo, rest)) = found else {
        return Reply::new(404, r#"{"error":"Repository not found"}"#)
            .header("X-Error-Code", "RepoNotFound");
    };
    let mut parts = rest.splitn(3, '/');
    let (verb, revision, file) = (
        parts.next().unwrap_or(""),
        parts.next().unwrap_or(""),
        parts.next().unwrap_or(""),
    );
    let revision = revision.replace("%2F", "/");
    let sha = repo.refs.get(&revision).cloned().unwrap_or(revision);
    let Some(files) = repo.commits.get(&sha) else {
        return Reply::new(404, r#"{"error":"Invalid rev id"}"#)
            .header("X-Error-Code", "RevisionNotFound");
    };
    match (api, verb) {
        (true, "revision") => {
            let siblings: Vec<_> = files
                .keys()
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            json(&serde_json::json!({ "_id": "1", "id": "x", "sha": sha, "siblings": siblings }))
        }
        (true, "tree") => {
            let prefix = match file {
                "" => String::new(),
                folder => format!("{folder}/"),
            };
            let below = files.iter().filter(|(name, _)| name.starts_with(&prefix));
            if request.path.contains("recursive=true") {
                return json(&below.map(|(name, file)| tree_entry(name, file)).collect());
            }
            // What lies deeper shows as the folder that holds it.
            let shown: BTreeMap<&str, serde_json::Value> = below
                .map(|(name, file)| match name[prefix.len()..].split_once('/') {
                    None => (name.as_str(), tree_entry(name, file)),
                    Some((folder, _)) => {
                        let path = &name[..prefix.len() + folder.len()];
                        (path, serde_json::json!({ "type": "directory", "oid": "0", "size": 0, "path": path }))
                    }
                })
                .collect();
            json(&shown.into_values().collect())
        }
        (false, "resolve") => match files.get(file) {
            None => Reply::new(404, "Entry not found").header("X-Error-Code", "EntryNotFound"),
            Some(data) if data.lfs => Reply::new(302, "Found. Redirecting")
                .header("X-Repo-Commit", &sha)
                .header("X-Linked-Etag", &format!("\"{}\"", data.id()))
                .header("X-Linked-Size", &data.bytes.len().to_string())
                .header(
                    "Location",
                    &format!("http://{}/cdn/{}", request.host, data.id()),
                ),
            Some(data) => content(request, data).header("X-Repo-Commit", &sha),
        },
        _ => Reply::new(404, ""),
    }
}

fn json(value: &serde_json::Value) -> Reply {
    Reply::new(200, value.to_string()).header("Content-Type", "application/json")
}

fn tree_entry(name: &str, file: &FileData) -> serde_json::Value {
    let size = file.bytes.len();
    if file.lfs {
        let pointer = format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {size}\n",
            file.id()
        );
        let lfs =
            serde_json::json!({ "oid": file.id(), "size": size, "pointerSize": pointer.len() });
        serde_json::json!({ "type": "file", "oid": git_hash(pointer.as_bytes()), "size": size, "path": name, "lfs": lfs })
    } else {
        serde_json::json!({ "type": "file", "oid": file.id(), "size": size, "path": name })
    }
}

/// The bytes of a file, or those from where the client asks for.
fn content(request: &Request, file: &FileData) -> Reply {
    let size = file.bytes.len();
    let from = request.range.as_deref().and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    });
    match from {
        Some(from) if from >= size => Reply::new(416, ""),
        Some(from) => Reply::new(206, &file.bytes[from..])
            .header(
                "Content-Range",
                &format!("bytes {from}-{}/{size}", size - 1),
            )
            .header("ETag", &format!("\"{}\"", file.id())),
        None => Reply::new(200, file.bytes.clone()).header("ETag", &format!("\"{}\"", file.id())),
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn git_hash(bytes: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len()))
        .chain_update(bytes)
        .finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
