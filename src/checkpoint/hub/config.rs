//! Settings of the hub client, from the variables that `huggingface_hub` reads.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result, printable};

use super::reference::expand_home;

/// An access token. It has no `Display`, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token, without the white space around it.
    ///
    /// # Errors
    /// It is empty or cannot stand in an HTTP header.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(
                Error::usage("the hub token is empty or has characters that no token has")
                    .with_hint("check HF_TOKEN, or the file that HF_TOKEN_PATH names"),
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// The secret itself, for the one header that carries it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Where the hub is, where its files are cached, and how patient to be.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Base address, `https://huggingface.co` unless `HF_ENDPOINT` says otherwise.
    pub endpoint: String,
    /// Sent to the endpoint and to no other host.
    pub token: Option<Token>,
    /// The folder that holds `models--org--name`.
    pub cache: PathBuf,
    /// Never touch the network.
    pub offline: bool,
    /// How long a connection may take, and a download may stand still.
    pub timeout: Duration,
    /// The same for the small questions asked before a download.
    pub listing_timeout: Duration,
    /// The pause before the first repetition; each further one is twice as long.
    pub backoff: Duration,
    /// Whether `hf-hub` may fetch files, which it does from the Xet service where there is one.
    pub xet: bool,
    /// Whether progress bars are wanted.
    pub progress_bars: bool,
}

impl HubConfig {
    /// Reads the process environment.
    ///
    /// # Errors
    /// As [`HubConfig::from_vars`].
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// Reads the variables through `var`; an empty one counts as unset.
    ///
    /// # Errors
    /// A usage error: a timeout that is no number, an unusable token, or no home folder.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| var(name).filter(|value| !value.is_empty());
        let flag = |name: &str| get(name).is_some_and(|value| is_true(&value));
        let home = hf_home(&get);
        let cache = match get("HF_HUB_CACHE").or_else(|| get("HUGGINGFACE_HUB_CACHE")) {
            Some(cache) => expand_home(&cache),
            None => home
                .as_ref()
                .map(|home| home.join("hub"))
                .ok_or_else(no_home)?,
        };
        Ok(Self {
            endpoint: get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: find_token(&get, home.as_deref())?,
            cache,
            offline: flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE"),
            timeout: seconds(&get, "HF_HUB_DOWNLOAD_TIMEOUT")?,
            listing_timeout: seconds(&get, "HF_HUB_ETAG_TIMEOUT")?,
            backoff: Duration::from_millis(250),
            xet: !flag("HF_HUB_DISABLE_XET"),
            progress_bars: !flag("HF_HUB_DISABLE_PROGRESS_BARS"),
        })
    }
}

/// `HF_HOME`, else `huggingface` in the cache folder of the user.
fn hf_home(get: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    get("HF_HOME").map(|path| expand_home(&path)).or_else(|| {
        let cache = get("XDG_CACHE_HOME").map(|path| expand_home(&path));
        let cache = cache.or_else(|| get("HOME").map(|home| Path::new(&home).join(".cache")));
        cache.map(|cache| cache.join("huggingface"))
    })
}

fn no_home() -> Error {
    Error::usage("there is no folder to cache hub files in").with_hint("set HF_HOME, or HOME")
}

/// `HF_TOKEN`, else the file at `HF_TOKEN_PATH`, else the one that `hf auth login` writes.
fn find_token(get: &impl Fn(&str) -> Option<String>, home: Option<&Path>) -> Result<Option<Token>> {
    if get("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
        return Ok(None);
    }
    if let Some(token) = get("HF_TOKEN") {
        return Token::new(&token).map(Some);
    }
    let path = get("HF_TOKEN_PATH")
        .map(|path| expand_home(&path))
        .or_else(|| home.map(|home| home.join("token")));
    // A file that is not there means: not logged in.
    let text = path
        .and_then(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    if text.trim().is_empty() {
        Ok(None)
    } else {
        Token::new(&text).map(Some)
    }
}

fn seconds(get: &impl Fn(&str) -> Option<String>, name: &str) -> Result<Duration> {
    let Some(text) = get(name) else {
        return Ok(Duration::from_secs(10));
    };
    let parsed = text
        .trim()
        .parse::<f64>()
        .ok()
        .filter(|s| *s > 0.0 && *s <= 86_400.0);
    parsed.map(Duration::from_secs_f64).ok_or_else(|| {
        Error::usage(format!(
            "{name} is `{}`, expected a number of seconds above 0",
            printable(&text)
        ))
    })
}

/// The words that `huggingface_hub` takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}
