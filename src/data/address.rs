//! Words in place of a file that are none: addresses of pages, references to the hub, slips.

use std::fs;
use std::path::Path;

use crate::checkpoint::hub::DatasetRef;
use crate::error::{Error, Result, did_you_mean, printable};

/// The reference to the dataset whose page on the hub `text` is the address of.
pub(crate) fn dataset(text: &str) -> Option<String> {
    let rest = without_scheme(text)?;
    let (_, rest) = rest.split_once("/datasets/")?;
    let rest = rest.split(['?', '#']).next()?.trim_end_matches('/');
    let mut parts = rest.splitn(5, '/');
    let (org, name) = (parts.next()?, parts.next()?);
    let revision = match (parts.next(), parts.next()) {
        (Some("tree" | "blob" | "resolve" | "raw"), Some(revision)) if revision != "main" => {
            format!("@{revision}")
        }
        _ => String::new(),
    };
    let path = parts
        .next()
        .map_or_else(String::new, |path| format!("/{path}"));
    Some(format!(
        "{}{org}/{name}{revision}{path}",
        DatasetRef::PREFIX
    ))
}

/// The rest of an address after `https://`, which people leave out.
fn without_scheme(text: &str) -> Option<&str> {
    let schemes = ["https://", "http://"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    let host = text.split('/').next().unwrap_or_default();
    let is_host = host.contains('.') && !host.starts_with('.') && !Path::new(host).exists();
    rest.or_else(|| is_host.then_some(text))
}

/// Refuses what cannot be a file on this machine; `use_it` says what to do with a reference to
/// a dataset on the hub.
///
/// # Errors
/// It is an address, or a reference to the hub.
pub(crate) fn refuse(path: &Path, use_it: impl Fn(&str) -> String) -> Result<()> {
    let text = path.to_string_lossy();
    let of_page = dataset(&text);
    let of_hub = text.starts_with("hf://");
    if !of_hub && of_page.is_none() && !text.contains("://") || path.exists() {
        return Ok(());
    }
    let what = if of_hub {
        "a reference to the hub"
    } else {
        "the address of a page"
    };
    let message = format!("{what}, where a file or folder here was expected");
    let reference = of_page.or_else(|| of_hub.then(|| text.clone().into_owned()));
    let error = Error::invalid(printable(&text), message);
    Err(match reference {
        Some(text) if text.starts_with(DatasetRef::PREFIX) => {
            error.with_hint(use_it(&printable(&text)))
        }
        Some(_) => error.with_hint(format!(
            "a dataset is written {}org/name",
            DatasetRef::PREFIX
        )),
        None => error.with_hint("download what is there, and give the file"),
    })
}

/// The error for a path that leads nowhere, with the name that may be meant.
pub(crate) fn missing(path: &Path) -> Error {
    let text = path.to_string_lossy();
    let at = format!("cannot read {}", path.display());
    let error = Error::invalid(at, "no such file or folder");
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return error,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let near = did_you_mean(&name, names.iter().map(String::as_str));
    match near {
        Some(near) => {
            let near = path.with_file_name(near);
            error.with_hint(format!(
                "did you mean {}?",
                printable(&near.to_string_lossy())
            ))
        }
        None if !parent.is_dir() && text.matches('/').count() == 1 => error.with_hint(format!(
            "a dataset on the hub is written {}{}",
            DatasetRef::PREFIX,
            printable(&text)
        )),
        None if !parent.is_dir() => {
            let parent = printable(&parent.to_string_lossy());
            error.with_hint(format!("there is no folder {parent} either"))
        }
        None => error.with_hint("paths are relative to where the program runs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_datasets_become_references() {
        for (text, reference) in [
            (
                "https://hub.example/datasets/a/b",
                Some("hf://datasets/a/b"),
            ),
            (
                "https://hub.example/datasets/a/b/",
                Some("hf://datasets/a/b"),
            ),
            ("hub.example/datasets/a/b/viewer", Some("hf://datasets/a/b")),
            (
                "https://hub.example/datasets/a/b/tree/main/x/y",
                Some("hf://datasets/a/b/x/y"),
            ),
            (
                "https://hub.example/datasets/a/b/blob/v1/x.json?a=b",
                Some("hf://datasets/a/b@v1/x.json"),
            ),
            ("https://hub.example/a/b", None),
            ("./datasets/a/b", None),
            ("texts/datasets/a/b", None),
        ] {
            assert_eq!(dataset(text).as_deref(), reference, "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_named() {
        let refused = |text: &str| {
            let error = refuse(Path::new(text), |dataset| format!("use {dataset}")).unwrap_err();
            format!("{error} {}", error.hint().unwrap())
        };
        assert!(refused("https://hub.example/datasets/a/b").ends_with("use hf://datasets/a/b"));
        assert!(refused("hf://datasets/a/b").ends_with("use hf://datasets/a/b"));
        assert!(refused("hf://a/b").ends_with("hf://datasets/org/name"));
        assert!(refused("ftp://x/y.txt").contains("download"));
        assert!(refuse(Path::new("not/there.txt"), str::to_owned).is_ok());
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("books.txt"), "x").unwrap();
        let error = missing(&dir.path().join("book.txt"));
        assert!(error.hint().unwrap().contains("books.txt?"), "{error:?}");
        let error = missing(Path::new("org/dataset"));
        assert!(
            error.hint().unwrap().contains("hf://datasets/org/dataset"),
            "{error:?}"
        );
    }
}
