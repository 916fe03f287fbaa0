//! The one error type of the library, and the exit code of each kind.
//!
//! A message says what is wrong and where, what was expected and what was found; a hint says
//! what to do next. Messages are lowercase and end without a full stop.

use std::io;
use std::path::{Path, PathBuf};

/// Result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. Each variant is one exit code, see [`Error::exit_code`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line asks for something impossible.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// A recipe, checkpoint, tokenizer or data file is not what it should be.
    #[error("{at}: {message}")]
    Invalid {
        /// The file, and where it helps the line, item or tensor.
        at: String,
        /// What was expected and what was found.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// The hub or the network did not deliver, or a file is not cached and the network is off.
    #[error("{what}: {message}")]
    Hub {
        /// Repository, file or address.
        what: String,
        /// What the server said or did.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// Reading or writing a file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: `read`, `write`, `create`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The device is missing or not compiled in, or it failed.
    #[error("{message}")]
    Device {
        /// What is wrong.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// The device has no memory for what was asked of it. It stays usable.
    #[error("the device's memory is used up: {message}")]
    OutOfMemory {
        /// What the device said.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// Training met a number that is not finite.
    #[error("training diverged at step {}: {message}", step + 1)]
    Diverged {
        /// Steps done before it: in messages and metrics, steps are counted from 1.
        step: u64,
        /// Which quantity was not finite.
        message: String,
    },
    /// Another process is writing the same output.
    #[error("{} is in use by {owner}", path.display())]
    Locked {
        /// The contested folder.
        path: PathBuf,
        /// What is known of the owner.
        owner: String,
    },
    /// A growth was declared exact and measurement says otherwise.
    #[error("the growth certificate does not hold: {message}")]
    Certificate {
        /// The claim and the measurement.
        message: String,
    },
    /// What was to be shown does not hold.
    #[error("{message}")]
    Failed {
        /// What was expected and what was found.
        message: String,
    },
    /// SIGINT or SIGTERM arrived.
    #[error("interrupted: {message}")]
    Interrupted {
        /// What was saved, or that nothing was.
        message: String,
        /// How to go on.
        hint: Option<String>,
    },
}

impl Error {
    /// An [`Error::Invalid`] without a hint.
    pub fn invalid(at: impl std::fmt::Display, message: impl Into<String>) -> Self {
        Self::Invalid {
            at: at.to_string(),
            message: message.into(),
            hint: None,
        }
    }

    /// An [`Error::Usage`] without a hint.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: None,
        }
    }

    /// What this error says as an [`Error::Invalid`] of `at`, with its hint.
    #[must_use]
    pub fn within(&self, at: impl std::fmt::Display) -> Self {
        Self::Invalid {
            at: at.to_string(),
            message: self.to_string(),
            hint: self.hint().map(str::to_owned),
        }
    }

    /// A closure for `map_err` that makes an [`Error::Io`].
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// The same error with a hint; kinds that carry none are returned unchanged.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        match &mut self {
            Self::Usage { hint, .. }
            | Self::Invalid { hint, .. }
            | Self::Hub { hint, .. }
            | Self::Device { hint, .. }
            | Self::OutOfMemory { hint, .. }
            | Self::Interrupted { hint, .. } => *hint = Some(text.into()),
            _ => {}
        }
        self
    }

    /// What to do next, if the error knows.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. }
            | Self::Invalid { hint, .. }
            | Self::Hub { hint, .. }
            | Self::Device { hint, .. }
            | Self::OutOfMemory { hint, .. }
            | Self::Interrupted { hint, .. } => hint.as_deref(),
            Self::Io { source, path, .. }
                if source.kind() == io::ErrorKind::StorageFull
                    && path != Path::new("standard output") =>
            {
                Some("free some space or write elsewhere; what was under way was not published")
            }
            Self::Diverged { .. } => Some(
                "lower lr, or lengthen the warm-up; on_non_finite = \"skip\" or \"roll-back\" gets past single steps",
            ),
            _ => None,
        }
    }

    /// Exit code of the process: 2 usage, 3 invalid input, 4 hub or network, 5 disk,
    /// 6 device, 7 diverged, 8 locked, 75 interrupted and resumable, 1 everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Invalid { .. } => 3,
            Self::Hub { .. } => 4,
            Self::Io {
                action: "read" | "open",
                source,
                ..
            } if source.kind() == io::ErrorKind::NotFound => 3,
            Self::Io { .. } => 5,
            Self::Device { .. } | Self::OutOfMemory { .. } => 6,
            Self::Diverged { .. } => 7,
            Self::Locked { .. } => 8,
            Self::Certificate { .. } | Self::Failed { .. } => 1,
            Self::Interrupted { .. } => 75,
        }
    }
}

/// Reads a text file.
///
/// # Errors
/// It cannot be read, or is not UTF-8; the error gives the byte.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::invalid(path.display(), format!("not UTF-8 at byte {at}"))
            .with_hint("convert the file, for example with iconv -t UTF-8")
    })
}

/// A count and what is counted, in the number that it asks for: `1 shard`, `2,000 shards`.
pub fn counted(count: impl std::fmt::Display, one: &str, many: &str) -> String {
    let count = count.to_string();
    let what = if count == "1" { one } else { many };
    format!("{count} {what}")
}

/// A count with thousands separated.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let mut out = digits[..first].to_owned();
    for (i, digit) in digits[first..].chars().enumerate() {
        if i % 3 == 0 && !out.is_empty() {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `text` with control characters escaped, for names that come from outside.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control().then(|| c.escape_default());
            let plain = escape.is_none().then_some(c);
            escape.into_iter().flatten().chain(plain)
        })
        .take(200)
        .collect()
}

/// The candidate closest to `word`, if it is close enough to be a slip of the pen.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edit distance in characters; two that changed places are one slip.
fn edit_distance(a: &str, b: &str) -> usize {
    let [a, b] = [a, b].map(|text| text.chars().collect::<Vec<char>>());
    let (mut before, mut last) = (Vec::<usize>::new(), (0..=b.len()).collect::<Vec<usize>>());
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let substitution = last[j] + usize::from(ca != cb);
            let mut best = substitution.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_are_suggested_and_far_ones_are_not() {
        assert_eq!(
            did_you_mean("grad_acum", ["grad_accum", "lr"]),
            Some("grad_accum")
        );
        assert_eq!(did_you_mean("zebra", ["grad_accum", "lr"]), None);
        assert_eq!(did_you_mean("form", ["scratch", "from"]), Some("from"));
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("trian", "train"), 1);
    }

    #[test]
    fn one_of_a_kind_is_no_plural() {
        let blocks = |n: usize| counted(n, "block", "blocks");
        assert_eq!(
            [0, 1, 2, 11].map(blocks),
            ["0 blocks", "1 block", "2 blocks", "11 blocks"]
        );
        assert_eq!(counted("1,001", "entry", "entries"), "1,001 entries");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[31m"), "a\\u{1b}[31m");
    }
}
