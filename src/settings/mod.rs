//! Settings that people write in TOML: recipes, comparisons, searches, evaluations, plan files.
//!
//! Read by serde, told by us: a mistake names the full key as `--set` writes it, the line, what
//! was expected in plain words and what stands there, and the nearest known name.

mod kind;
mod overrides;
mod place;
mod words;

use std::fmt;

use serde::de::DeserializeOwned;

pub use kind::Kind;
pub use overrides::{Overrides, inline_table};

use crate::error::{Error, printable};

/// What errors of a recipe's values are of, until the file is known that they stand in.
pub const UNLOCATED: &str = "recipe";

/// What is wrong with a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    /// The full key, as in `train.lr` or `stage.1.tokens`; empty for the whole text.
    pub key: String,
    /// Its line, from 1.
    pub line: Option<usize>,
    what: What,
    hint: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    /// Nobody reads that key.
    Unknown,
    /// Nothing is said where something has to be.
    Missing,
    /// Anything else, in words.
    Other(String),
}

impl Mistake {
    /// The same with its key as seen from the table `prefix`.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        if let Some(rest) = self.key.strip_prefix(prefix) {
            self.key = rest.trim_start_matches('.').to_owned();
        }
        self
    }

    /// The same with the full key in the table that the value comes from, the last of `origins`
    /// that has it: each is a key, and its table.
    #[must_use]
    pub fn from_one_of(mut self, origins: &[(&str, &toml::Table)]) -> Self {
        let holds = |(_, table): &&(&str, &toml::Table)| place::holds(table, &self.key);
        if let Some((origin, _)) = origins.iter().rev().find(holds) {
            self.key = place::join(origin, &self.key);
        }
        self
    }

    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// As an error of `at`, a file or a part of one.
    pub fn into_error(self, at: impl fmt::Display) -> Error {
        let error = match self.line {
            Some(line) => Error::invalid(format!("{at}, line {line}"), self.to_string()),
            None => Error::invalid(at, self.to_string()),
        };
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.what {
            What::Unknown => write!(f, "there is no key `{key}`"),
            What::Missing => write!(f, "`{key}` is missing"),
            What::Other(message) if key.is_empty() => f.write_str(message),
            What::Other(message) => write!(f, "{key}: {message}"),
        }
    }
}

/// Reads settings.
///
/// A whole number may be written as `1e9` or `2.0` wherever one is expected.
///
/// # Errors
/// The first mistake.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    let mut text = std::borrow::Cow::Borrowed(text);
    loop {
        let error = match toml::from_str(&text) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        // Lines stay where they are, and every turn makes an integer of one more number.
        match words::whole_number(&text, &error) {
            Some((span, number)) => text.to_mut().replace_range(span, &number.to_string()),
            None => return Err(words::mistake(&text, &error)),
        }
    }
}

/// The tables of a text.
///
/// # Errors
/// It is not TOML.
pub fn tables(text: &str) -> Result<toml::Table, Mistake> {
    text.parse()
        .map_err(|error: toml::de::Error| words::mistake(text, &error))
}

/// Reads settings that are tables already; mistakes have no line.
///
/// # Errors
/// The first mistake.
pub fn of_tables<T: DeserializeOwned>(tables: &toml::Table) -> Result<T, Mistake> {
    read(&tables.to_string()).map_err(|mistake| Mistake {
        line: None,
        ..mistake
    })
}

/// Where what a message speaks of was set: the file `at` of a text, and the line of the key that
/// the message begins with, or the assignment that it came by. A stage may stand before the key,
/// as in `stage 2: lr = -1`.
pub fn place_of(message: &str, at: impl fmt::Display, text: &str, overrides: &Overrides) -> String {
    let staged = message
        .strip_prefix("stage ")
        .and_then(|rest| rest.split_once(": "));
    let key = leading_key(staged.map_or(message, |(_, rest)| rest));
    let of_stage = staged.map(|(number, _)| format!("stage.{number}.{key}"));
    // With `depths`, stages are more than their tables, and their numbers others.
    let numbered = of_stage.filter(|_| !text.contains("depths"));
    for key in numbered.iter().map(String::as_str).chain([key]) {
        if let Some(set) = overrides.that_sets(key) {
            return format!("{at}, --set {}", printable(set));
        }
        if let Some(line) = place::line_of(text, key) {
            return format!("{at}, line {line}");
        }
    }
    at.to_string()
}

/// The key that a message begins with, bare or in backticks.
fn leading_key(message: &str) -> &str {
    let message = message.trim_start_matches(['`', '[']);
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let end = message.find(|c| !is_of_key(c)).unwrap_or(message.len());
    message[..end].trim_end_matches('.')
}

#[cfg(test)]
mod tests;
