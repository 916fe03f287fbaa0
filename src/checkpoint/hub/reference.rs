//! What a user may write where a model is expected.

use std::fmt;
use std::path::{Path, PathBuf};

use super::address;
use crate::checkpoint::foreign;
use crate::error::{Error, Result, printable};
use crate::home;

/// A model, as named on a command line or in a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// `gpt2`, `org/name`, `org/name@revision`, each optionally after `hf://`.
    Hub {
        /// `name` or `org/name`.
        repo: String,
        /// Branch, tag or commit; the default branch if absent.
        revision: Option<String>,
    },
    /// A folder in the layout of `transformers`.
    Dir(PathBuf),
    /// A single weight file.
    File(PathBuf),
}

impl ModelRef {
    /// Reads a reference. A folder or file that exists is meant before all else, except after
    /// `hf://`. Otherwise a local path starts with `./`, `../`, `/` or `~/`, has more than one `/`,
    /// or ends as weight files do; an address of the hub's pages is the model that it shows; and
    /// everything else is a hub id.
    ///
    /// # Errors
    /// A usage error that says which rule of hub ids or revisions the text breaks, why an
    /// address is not that of a model, or that it is a path in another user's home.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(id) = text.strip_prefix("hf://") {
            return Self::hub(id);
        }
        let path = home::expand(text)?;
        if path.is_dir() {
            return Ok(Self::Dir(path));
        }
        if path.is_file() {
            return Ok(Self::File(path));
        }
        if Self::is_address(text) {
            let (repo, revision) = address::model(text)?;
            return Self::checked(&repo, revision.as_deref());
        }
        if is_weight_file(text) {
            return Ok(Self::File(path));
        }
        if is_local(text) {
            return Ok(Self::Dir(path));
        }
        Self::hub(text)
    }

    /// Whether a reference is the address of a page, as copied from a browser.
    pub fn is_address(text: &str) -> bool {
        address::is_one(text)
    }

    fn hub(id: &str) -> Result<Self> {
        let (repo, revision) = match id.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (id, None),
        };
        Self::checked(repo, revision)
    }

    fn checked(repo: &str, revision: Option<&str>) -> Result<Self> {
        check_repo(repo)?;
        revision.map_or(Ok(()), check_revision)?;
        Ok(Self::Hub {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub {
                repo,
                revision: None,
            } => f.write_str(repo),
            Self::Hub {
                repo,
                revision: Some(revision),
            } => write!(f, "{repo}@{revision}"),
            Self::Dir(path) | Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Dataset,
}

/// A repository by kind and id.
#[derive(Debug, Clone, Copy)]
pub(super) struct RepoId<'a> {
    pub kind: Kind,
    pub name: &'a str,
}

impl<'a> RepoId<'a> {
    pub fn model(name: &'a str) -> Self {
        let kind = Kind::Model;
        Self { kind, name }
    }

    pub fn dataset(name: &'a str) -> Self {
        let kind = Kind::Dataset;
        Self { kind, name }
    }

    /// The word for its kind in addresses of the API and in names of cache folders.
    pub fn plural(self) -> &'static str {
        match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }
}

/// Files of a dataset: `hf://datasets/org/name[@revision][/path]`, where the path may be a file, a
/// folder or a glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetRef {
    /// `org/name`.
    pub repo: String,
    /// Branch, tag or commit; `main` if absent.
    pub revision: Option<String>,
    /// The path, or nothing for all files.
    pub path: String,
}

impl DatasetRef {
    /// What such a reference begins with.
    pub const PREFIX: &'static str = "hf://datasets/";

    /// Reads a reference; none if the text does not begin like one.
    ///
    /// # Errors
    /// A usage error that says which rule of hub ids or revisions the text breaks.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        Some(Self::parse_rest(text.strip_prefix(Self::PREFIX)?))
    }

    fn parse_rest(text: &str) -> Result<Self> {
        let mut parts = text.trim_end_matches('/').split('/');
        let (org, name) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (name, revision) = match name.split_once('@') {
            // Such names have slashes in them: refs/convert/parquet, refs/pr/7.
            Some((name, "refs")) => {
                let rest: Vec<&str> = parts.by_ref().take(2).collect();
                (name, Some(format!("refs/{}", rest.join("/"))))
            }
            Some((name, revision)) => (name, Some(revision.replace("%2F", "/"))),
            None => (name, None),
        };
        let repo = format!("{org}/{name}");
        check_repo(&repo).map_err(|e| {
            e.with_hint("write hf://datasets/org/name, then perhaps @revision, then perhaps /path")
        })?;
        revision.as_deref().map_or(Ok(()), check_revision)?;
        let path = parts.collect::<Vec<_>>().join("/");
        Ok(Self {
            repo,
            revision,
            path,
        })
    }
}

fn is_weight_file(text: &str) -> bool {
    [".safetensors", ".bin", ".pt", ".pth", ".ckpt"]
        .iter()
        .any(|end| text.len() > end.len() && text.ends_with(end))
}

fn is_local(text: &str) -> bool {
    matches!(text, "." | ".." | "~")
        || text
            .split('@')
            .next()
            .is_some_and(|path| path.matches('/').count() > 1)
        || ["./", "../", "/", "~/"]
            .iter()
            .any(|start| text.starts_with(start))
}

/// `~/x` under the home folder, where there is one; anything else as it is.
pub(super) fn expand_home(text: &str) -> PathBuf {
    home::expand(text).unwrap_or_else(|_| PathBuf::from(text))
}

/// The hub's rules for repository ids. They also keep an id from naming a cache folder outside
/// the cache, or that of another repository.
pub(super) fn check_repo(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let parts: Vec<&str> = id.split('/').collect();
    let problem = if id.is_empty() {
        "it is empty"
    } else if parts.len() > 2 {
        "it has more than one `/`"
    } else if id.len() > 96 {
        "it is longer than 96 characters"
    } else if parts
        .iter()
        .any(|part| part.is_empty() || !part.chars().all(allowed))
    {
        "a name consists of letters, digits, `.`, `_` and `-`"
    } else if parts
        .iter()
        .any(|part| part.starts_with(['-', '.']) || part.ends_with(['-', '.']))
    {
        "a name neither begins nor ends with `-` or `.`"
    } else if id.contains("--") || id.contains("..") {
        "it contains `--` or `..`"
    } else if id.ends_with(".git") {
        "it ends in `.git`"
    } else {
        return Ok(());
    };
    Err(
        Error::usage(format!("`{}` is not a hub id: {problem}", printable(id))).with_hint(
            "write org/name or org/name@revision for the hub, ./folder for a local checkpoint",
        ),
    )
}

/// Git's rules for names of branches and tags. They also keep a revision from naming a file
/// outside `refs/`.
pub(super) fn check_revision(name: &str) -> Result<()> {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    let bad = name.len() > 200
        || name.starts_with('-')
        || name.ends_with('.')
        || name.contains("..")
        || name.contains("@{")
        || name.contains(forbidden)
        || name.split('/').any(bad_part);
    if bad {
        return Err(
            Error::usage(format!("`{}` is not a revision", printable(name)))
                .with_hint("write a branch, a tag or a commit after the `@`"),
        );
    }
    Ok(())
}

/// The full name of a commit: 40 lowercase hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Whether `text` is `digits` lowercase hexadecimal digits, and so safe as a file name.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The error of a folder, with advice for somebody who may have meant a model of the hub by it.
pub(in crate::checkpoint) fn or_on_the_hub(text: &str, error: Error) -> Error {
    let id = !is_local(text) && check_repo(text.split('@').next().unwrap_or_default()).is_ok();
    let path = Path::new(text);
    if !id || path.join("config.json").exists() || foreign::own_folder(path).is_some() {
        return error;
    }
    let hint = error.hint().map(|hint| format!("{hint}; "));
    let hint = hint.unwrap_or_default();
    error.with_hint(format!(
        "{hint}the model of that name on the hub is hf://{text}"
    ))
}

/// Advice for somebody who may have meant a local folder by `repo`.
pub(super) fn folder_hint(repo: &str) -> Option<String> {
    let path = Path::new(repo);
    if path.join("config.json").is_file() {
        return Some(format!("a folder of that name exists: write ./{repo}"));
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())?;
    parent.is_dir().then(|| {
        format!("in the folder {} there is no `{}`, so that it was looked for on the hub: check the name", parent.display(), path.file_name().unwrap_or_default().display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_have_a_revision_and_a_path() {
        let parse = |text: &str| {
            let found = DatasetRef::parse(text).unwrap().unwrap();
            (found.repo, found.revision, found.path)
        };
        let expect = |repo: &str, revision: Option<&str>, path: &str| {
            (
                repo.to_owned(),
                revision.map(str::to_owned),
                path.to_owned(),
            )
        };
        assert_eq!(parse("hf://datasets/a/b"), expect("a/b", None, ""));
        assert_eq!(
            parse("hf://datasets/a/b@v1/x/*.parquet"),
            expect("a/b", Some("v1"), "x/*.parquet")
        );
        assert_eq!(
            parse("hf://datasets/a/b@refs/convert/parquet/x/"),
            expect("a/b", Some("refs/convert/parquet"), "x")
        );
        assert!(DatasetRef::parse("hf://a/b").is_none());
        for bad in ["", "a", "a/..", "a/b@..", "a/b@"] {
            let text = format!("hf://datasets/{bad}");
            assert!(DatasetRef::parse(&text).unwrap().is_err(), "{bad}");
        }
    }

    fn hub(repo: &str, revision: Option<&str>) -> ModelRef {
        ModelRef::Hub {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
        }
    }

    #[test]
    fn references_are_told_apart() {
        for (text, expected) in [
            ("gpt2", hub("gpt2", None)),
            ("org/name", hub("org/name", None)),
            ("org/name@v1.0", hub("org/name", Some("v1.0"))),
            (
                "hf://org/name@refs/pr/1",
                hub("org/name", Some("refs/pr/1")),
            ),
            ("hf://org/weights.bin", hub("org/weights.bin", None)),
            ("org/name@refs/pr/1", hub("org/name", Some("refs/pr/1"))),
            ("runs/x/step-1", ModelRef::Dir("runs/x/step-1".into())),
            ("./gpt2", ModelRef::Dir("./gpt2".into())),
            ("../x", ModelRef::Dir("../x".into())),
            ("/abs/x", ModelRef::Dir("/abs/x".into())),
            (".", ModelRef::Dir(".".into())),
            (
                "w/model.safetensors",
                ModelRef::File("w/model.safetensors".into()),
            ),
            (
                "./pytorch_model.bin",
                ModelRef::File("./pytorch_model.bin".into()),
            ),
        ] {
            assert_eq!(ModelRef::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn home_is_expanded() {
        let ModelRef::Dir(path) = ModelRef::parse("~/models/x").unwrap() else {
            panic!("not a folder")
        };
        assert!(path.is_absolute() && path.ends_with("models/x"));
    }

    #[test]
    fn another_users_home_is_no_hub_id() {
        for text in ["~bob", "~bob/model", "~bob/a/b", "~bob/model.safetensors"] {
            let error = ModelRef::parse(text).unwrap_err();
            assert!(error.to_string().contains("~user"), "{error}");
        }
    }

    #[test]
    fn bad_ids_and_revisions_are_usage_errors() {
        for text in [
            "",
            "a/b/c",
            "a//b",
            "/../x@y/..@",
            "a b",
            "org/..",
            "a..b",
            "a--b",
            "-a",
            "a/.b",
            "x.git",
            "ä",
            "a\0b",
            "a\u{1b}[31m",
            "hf://",
            "hf://../x",
            "gpt2@",
            "gpt2@..",
            "gpt2@a/../b",
            "gpt2@/etc",
            "gpt2@a b",
            "gpt2@a\nb",
            "gpt2@-x",
            "gpt2@x.lock",
            "gpt2@a@{1}",
        ] {
            match ModelRef::parse(text) {
                Err(error) => assert_eq!(error.exit_code(), 2, "{text:?}"),
                Ok(reference) => assert!(
                    matches!(reference, ModelRef::Dir(_)),
                    "{text:?}: {reference:?}"
                ),
            }
        }
        assert!(ModelRef::parse(&"a".repeat(97)).is_err());
        assert!(ModelRef::parse(&format!("a@{}", "b".repeat(201))).is_err());
    }
}
