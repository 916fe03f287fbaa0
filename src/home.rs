//! The home folder in paths that people write.
//!
//! A shell expands `~/x` only where it stands alone, and nothing expands it in a recipe. Every
//! path that is read passes through here, so that it means the same wherever it is written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use crate::error::{Error, Result, printable};

/// `~` and `~/x` as paths in the home folder; any other text as it is.
///
/// # Errors
/// It is another user's home, `~user`, or no home folder is known.
pub fn expand(text: &str) -> Result<PathBuf> {
    let Some(rest) = text.strip_prefix('~') else {
        return Ok(PathBuf::from(text));
    };
    if !(rest.is_empty() || rest.starts_with('/')) {
        let shown = printable(text);
        return Err(Error::usage(format!(
            "`{shown}`: `~` is the own home folder, `~user` is not supported"
        ))
        .with_hint(format!(
            "write the whole path, or ./{shown} for what is called that here"
        )));
    }
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let home = home.ok_or_else(|| {
        Error::usage(format!("`{}`: no home folder is known", printable(text)))
            .with_hint("set HOME, or write the whole path")
    })?;
    Ok(home.join(rest.trim_start_matches('/')))
}

/// The same for what has to stay text, as a glob has.
///
/// # Errors
/// As [`expand`], or the home folder's name is not UTF-8.
pub fn expand_text(text: &str) -> Result<String> {
    if !text.starts_with('~') {
        return Ok(text.to_owned());
    }
    expand(text)?.into_os_string().into_string().map_err(|_| {
        Error::usage(format!(
            "`{}`: the home folder's name is not UTF-8",
            printable(text)
        ))
    })
}

/// What a recipe's keys hold paths in.
pub trait Paths: Sized {
    /// The same with `~` expanded.
    ///
    /// # Errors
    /// As [`expand`].
    fn at_home(self) -> Result<Self>;
}

impl Paths for PathBuf {
    fn at_home(self) -> Result<Self> {
        // A name that is not UTF-8 was made by a program, not written by hand.
        match self.to_str() {
            Some(text) => expand(text),
            None => Ok(self),
        }
    }
}

impl<T: Paths> Paths for Option<T> {
    fn at_home(self) -> Result<Self> {
        self.map(T::at_home).transpose()
    }
}

impl<T: Paths> Paths for Vec<T> {
    fn at_home(self) -> Result<Self> {
        self.into_iter().map(T::at_home).collect()
    }
}

impl<T: Paths> Paths for BTreeMap<String, T> {
    fn at_home(self) -> Result<Self> {
        let expanded = |(name, path): (String, T)| Ok((name, path.at_home()?));
        self.into_iter().map(expanded).collect()
    }
}

/// For serde's `deserialize_with` on a key that holds paths.
///
/// # Errors
/// As [`expand`].
pub fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Paths,
{
    T::deserialize(deserializer)?
        .at_home()
        .map_err(|error| match error.hint() {
            Some(hint) => de::Error::custom(format!("{error}; {hint}")),
            None => de::Error::custom(error),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_folder_is_expanded_and_nothing_else() {
        let home = std::env::home_dir().unwrap();
        assert_eq!(expand("~").unwrap(), home);
        assert_eq!(expand("~/").unwrap(), home);
        assert_eq!(expand("~/a/b").unwrap(), home.join("a/b"));
        assert_eq!(expand("~//a").unwrap(), home.join("a"));
        for text in ["", "a", "./~/a", "a/~/b", "a~", "/~", "hf://datasets/a/b"] {
            assert_eq!(expand(text).unwrap(), PathBuf::from(text));
            assert_eq!(expand_text(text).unwrap(), text);
        }
        for text in ["~bob", "~bob/a", "~+/a", "~\u{1b}[31m"] {
            let error = expand(text).unwrap_err();
            assert!(error.to_string().contains("~user"), "{error}");
            assert!(error.hint().unwrap().contains("./~"), "{error}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
    }
}
