//! What can go wrong between us and a hub, and how it is told to the user.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use hf_hub::HFError;

use crate::error::{Error, counted, printable};

use super::config::HubConfig;

/// A failed exchange, before it is known whether it will be repeated.
#[derive(Debug)]
pub(super) enum Fault {
    /// An answer other than success.
    Status {
        /// HTTP status.
        code: u16,
        /// The hub's own word for it, such as `GatedRepo`.
        reason: Option<String>,
        /// How long the server asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// No connection, or one that broke.
    Network(String),
    /// Nothing came for so long.
    Stalled(Duration),
    /// The body ended early.
    Cut {
        /// Bytes that arrived, in all attempts.
        got: u64,
        /// Bytes of the whole file.
        size: u64,
    },
    /// The server will not continue a file where it was left off.
    NoRange,
    /// The answer is not what a hub sends.
    Garbled(String),
    /// The bytes are not those of the listing.
    Mismatch(String),
    /// Not the hub's fault: a signal, or the disk.
    Stop(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Stop(error)
    }
}

impl From<reqwest::Error> for Fault {
    /// Addresses are left out: those of a content network carry signatures.
    fn from(error: reqwest::Error) -> Self {
        if error.is_redirect() {
            return Self::Garbled(innermost(&error.without_url()));
        }
        Self::Network(innermost(&error.without_url()))
    }
}

impl From<HFError> for Fault {
    /// Only what concerns the file counts as an answer: that the Xet service does not know the
    /// repository, for one, does not mean that the hub does not.
    fn from(error: HFError) -> Self {
        let (context, retry_after) = match error {
            HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Http { context } => (context, None),
            HFError::EntryNotFound {
                context: Some(context),
                ..
            } => (context, None),
            HFError::RateLimited {
                context,
                retry_after,
            } => (context, retry_after),
            HFError::Request { source, .. } => return source.into(),
            other => return Self::Network(printable(&other.to_string())),
        };
        Self::Status {
            code: context.status.as_u16(),
            reason: context.error_code,
            retry_after,
        }
    }
}

/// The last cause in the chain, which is the one that says something.
fn innermost(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = next.to_string();
        cause = next.source();
    }
    printable(&text)
}

impl Fault {
    /// Whether the same request may succeed a moment later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Status { code, .. } => matches!(code, 429 | 500 | 502 | 503 | 504),
            Self::Network(_) | Self::Stalled(_) | Self::Cut { .. } | Self::NoRange => true,
            Self::Garbled(_) | Self::Mismatch(_) | Self::Stop(_) => false,
        }
    }

    /// The error for the user; `what` is the repository or file that was asked for.
    pub(super) fn explain(self, what: &str, config: &HubConfig) -> Error {
        let (message, hint) = match self {
            Self::Stop(error) => return error,
            Self::Status { code, reason, .. } => explain_status(code, reason.as_deref(), config),
            Self::Network(cause) => (
                format!("cannot reach {}: {cause}", printable(&config.endpoint)),
                network_hint(&cause),
            ),
            Self::Stalled(time) => (
                format!("nothing arrived for {} s", time.as_secs_f64()),
                "run again to go on where it stopped; HF_HUB_DOWNLOAD_TIMEOUT sets the limit in seconds".to_owned(),
            ),
            Self::Cut { got, size } => (
                format!(
                    "the connection closed after {got} of {}",
                    counted(size, "byte", "bytes")
                ),
                "run again to go on where it stopped".to_owned(),
            ),
            Self::NoRange => {
                ("the server did not continue an interrupted file".to_owned(), "run again to start it over".to_owned())
            }
            Self::Garbled(found) => (
                format!("this is not the answer of a hub: {found}"),
                "check HF_ENDPOINT, and whether the network wants a login in the browser first".to_owned(),
            ),
            Self::Mismatch(found) => (
                found,
                "nothing was published; if it happens again, a proxy or mirror in between alters the file".to_owned(),
            ),
        };
        Error::Hub {
            what: what.to_owned(),
            message,
            hint: Some(hint),
        }
    }
}

/// What to do about a connection that failed for that cause. What is said of certificates is what
/// rustls-native-certs does.
fn network_hint(cause: &str) -> String {
    let named = std::env::var("SSL_CERT_FILE").unwrap_or_default();
    if !cause.to_ascii_lowercase().contains("certificate") {
        "check the network, the proxy settings and HF_ENDPOINT".to_owned()
    } else if !named.is_empty() && !Path::new(&named).is_file() {
        format!(
            "SSL_CERT_FILE names {}, and there is no such file",
            printable(&named)
        )
    } else if cause.contains("UnknownIssuer") || cause.contains("No CA certificates") {
        "if the hub or a proxy has a certificate authority of its own, set SSL_CERT_FILE to a PEM file with that authority, and with all others that are needed: the system's are not read then".to_owned()
    } else {
        "check HF_ENDPOINT and the clock, and whether a proxy answers in the hub's place".to_owned()
    }
}

fn explain_status(code: u16, reason: Option<&str>, config: &HubConfig) -> (String, String) {
    let (message, hint) = match (code, reason) {
        (401 | 403, Some("GatedRepo")) => (
            "access is restricted by its owner",
            "accept the terms on the page of the model, then set HF_TOKEN to a token of that account",
        ),
        // The hub answers 401 for what does not exist, too, so as not to tell what is private.
        (401, _) if config.token.is_none() => (
            "it does not exist or is private",
            "check the name; for a private or gated model set HF_TOKEN",
        ),
        (401, _) => (
            "the token was refused",
            "renew HF_TOKEN, or log in again with `hf auth login`",
        ),
        (403, _) => (
            "access is forbidden",
            "accept the terms of a gated model on its page, and give HF_TOKEN the right to read it",
        ),
        (404, Some("RevisionNotFound")) => (
            "there is no such revision",
            "check the branch, tag or commit after the `@`",
        ),
        (404, Some("EntryNotFound")) => (
            "there is no such file",
            "the repository may have changed meanwhile; run again",
        ),
        (404, Some("RepoNotFound")) => (
            "there is no such repository",
            "check the name, or the path where a local folder is meant",
        ),
        (404, _) => (
            "there is no such repository or revision",
            "check the name and what follows the `@`, or the path where a local folder is meant",
        ),
        (429, _) => (
            "too many requests",
            "wait some minutes; with HF_TOKEN set the limits are higher",
        ),
        (500.., _) => ("the server failed", "try again later; what arrived is kept"),
        _ => ("the server gave an unexpected answer", "check HF_ENDPOINT"),
    };
    (format!("{message} ({code})"), hint.to_owned())
}
