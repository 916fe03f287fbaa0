//! Addresses of the hub's pages, as people copy them from a browser.

use crate::error::{Error, Result, printable};

/// Hosts whose pages are those of the hub.
const HOSTS: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

/// First words of paths that lead to something other than a model.
const OTHER_PAGES: [&str; 11] = [
    "datasets",
    "spaces",
    "collections",
    "papers",
    "docs",
    "blog",
    "models",
    "settings",
    "learn",
    "tasks",
    "api",
];

/// Words after the name of a model, each for a page of it.
const PAGES: [&str; 11] = [
    "tree",
    "blob",
    "resolve",
    "raw",
    "blame",
    "edit",
    "commit",
    "commits",
    "discussions",
    "settings",
    "colab",
];

/// Host and path of an address.
fn split(text: &str) -> Option<(String, &str)> {
    let (rest, needs_scheme) = match text.split_once("://") {
        Some((scheme, rest))
            if ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) =>
        {
            (rest, false)
        }
        Some(_) => return None,
        None => (text, true),
    };
    let rest = match rest.strip_prefix("git@") {
        Some(clone) => clone.split_once(':')?,
        None => rest.split_once('/').unwrap_or((rest, "")),
    };
    let host = rest.0.to_ascii_lowercase();
    let known = HOSTS.contains(&host.as_str());
    (known || !needs_scheme).then_some((host, rest.1))
}

/// Whether `text` is an address rather than a hub id.
pub(super) fn is_one(text: &str) -> bool {
    split(text).is_some()
}

/// The model that a page is of, and its revision if the address names one other than `main`.
///
/// # Errors
/// A usage error: it is another host's, or not the page of a model.
pub(super) fn model(text: &str) -> Result<(String, Option<String>)> {
    let refuse = |what: &str, hint: &str| {
        let message = format!("`{}` {what}", printable(text));
        Err(Error::usage(message).with_hint(hint))
    };
    let id = "write the model's id, as gpt2 or org/name or org/name@revision";
    let (host, path) = split(text).unwrap_or_default();
    if !HOSTS.contains(&host.as_str()) {
        return refuse(
            "is an address of another host, not a model",
            "write the model's id, as org/name; for a mirror of the hub, set HF_ENDPOINT to its address",
        );
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let names = match parts[..] {
        [] => return refuse("names no model", id),
        [first, ..] if OTHER_PAGES.contains(&first) => {
            return refuse(
                &format!("is a page of the hub's {first}, not of a model"),
                id,
            );
        }
        [_, page, ..] if PAGES.contains(&page) => 1,
        [_] => 1,
        _ => 2,
    };
    let repo = parts[..names].join("/");
    let repo = repo.strip_suffix(".git").unwrap_or(&repo).to_owned();
    let (revision, below) = match parts[names..] {
        [
            page @ ("tree" | "blob" | "resolve" | "raw" | "blame" | "edit" | "commit" | "commits"),
            ref rest @ ..,
        ] => {
            let (revision, below) = revision(rest);
            let is_folder = page == "tree" || below.len() > 1;
            (revision, if is_folder { below } else { Vec::new() })
        }
        _ => (None, Vec::new()),
    };
    if !below.is_empty() {
        return refuse(
            "leads into a folder of the repository; only models at its top are read",
            "fetch that folder with `hf download`, and open it as a local one",
        );
    }
    Ok((repo, revision.filter(|name| name != "main")))
}

/// The revision that a path begins with, and what is below it. A reference such as `refs/pr/1` has
/// slashes of its own, written as they are or as `%2F`.
fn revision<'a>(parts: &[&'a str]) -> (Option<String>, Vec<&'a str>) {
    let length = match parts {
        ["refs", _, _, ..] => 3,
        _ => parts.len().min(1),
    };
    let (name, below) = parts.split_at(length);
    let name = name.join("/").replace("%2F", "/").replace("%2f", "/");
    (Some(name).filter(|name| !name.is_empty()), below.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_model_name_it() {
        for (text, repo, revision) in [
            ("https://huggingface.co/gpt2", "gpt2", None),
            ("https://huggingface.co/gpt2/tree/main", "gpt2", None),
            (
                "huggingface.co/openai-community/gpt2/",
                "openai-community/gpt2",
                None,
            ),
            ("http://hf.co/org/name", "org/name", None),
            (
                "HTTPS://HuggingFace.co/org/Name?library=transformers",
                "org/Name",
                None,
            ),
            (
                "https://www.huggingface.co/org/name#usage",
                "org/name",
                None,
            ),
            (
                "https://huggingface.co/org/name/blob/main/model.safetensors",
                "org/name",
                None,
            ),
            (
                "https://huggingface.co/org/name/resolve/v1.0/config.json?download=true",
                "org/name",
                Some("v1.0"),
            ),
            (
                "https://huggingface.co/org/name/tree/refs%2Fpr%2F1",
                "org/name",
                Some("refs/pr/1"),
            ),
            (
                "https://huggingface.co/org/name/blob/refs/pr/1/model.safetensors",
                "org/name",
                Some("refs/pr/1"),
            ),
            (
                "https://huggingface.co/gpt2/commit/607a30d",
                "gpt2",
                Some("607a30d"),
            ),
            (
                "https://huggingface.co/org/name/discussions/5",
                "org/name",
                None,
            ),
            ("https://huggingface.co/org/name.git", "org/name", None),
            ("git@hf.co:org/name", "org/name", None),
        ] {
            assert!(is_one(text), "{text}");
            let expected = (repo.to_owned(), revision.map(str::to_owned));
            assert_eq!(model(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn other_addresses_say_what_they_are() {
        for (text, words) in [
            ("https://huggingface.co/", "names no model"),
            ("huggingface.co", "names no model"),
            (
                "https://huggingface.co/datasets/org/name",
                "hub's datasets, not of a model",
            ),
            ("https://huggingface.co/spaces/org/name", "hub's spaces"),
            ("https://example.org/gpt2", "another host"),
            (
                "https://huggingface.co/org/name/tree/main/onnx",
                "a folder of the repository",
            ),
            (
                "https://huggingface.co/org/name/blob/main/x/model.safetensors",
                "a folder of",
            ),
        ] {
            let error = model(text).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn ids_and_paths_are_no_addresses() {
        for text in [
            "gpt2",
            "org/name",
            "org/name@v1",
            "./x",
            "/a/b",
            "hf://org/name",
            "a@b/c",
            "s3://x/y",
        ] {
            assert!(!is_one(text), "{text}");
        }
    }
}
