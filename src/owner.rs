//! What proves that this program made a folder or a file. Nothing is deleted, moved or replaced
//! without such a proof.
//!
//! | what | proof |
//! |---|---|
//! | a folder of a run, comparison, search or evaluation | [`MARKER`], its first file |
//! | a checkpoint of a run | its position or its manifest, in the form that is written here |
//! | a grown checkpoint | `growth.json`, which names this program |
//! | a temporary file or folder | its name holds a word that `.lock` beside it keeps |

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result, printable};

/// Says whose a folder is.
pub const MARKER: &str = ".scale-ckpt.json";
/// Held while a process works in a folder.
pub const LOCK: &str = ".lock";
/// The record of a growth beside the model that came of it.
pub const GROWTH_FILE: &str = "growth.json";
/// The position of a run, in its checkpoints.
pub const STATE_FILE: &str = "trainer_state.json";
/// What a checkpoint of a run consists of.
pub const MANIFEST_FILE: &str = "manifest.json";

const TOOL: &str = "scale-ckpt";
/// What systems, desktops and version control leave in folders that are empty to people.
const OF_SYSTEMS: [&str; 9] = [
    ".DS_Store",
    ".directory",
    ".gitignore",
    ".gitkeep",
    ".keep",
    ".localized",
    "Thumbs.db",
    "desktop.ini",
    "lost+found",
];
/// Records are small: more is none.
const MAX_RECORD: u64 = 64 << 20;

/// What [`MARKER`] holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Marker {
    schema: u32,
    tool: String,
    tool_version: String,
    /// What the folder is: `run`, for example.
    pub kind: String,
}

impl Marker {
    /// Of a folder that is about to be filled.
    pub fn new(kind: &str) -> Self {
        Self {
            schema: 1,
            tool: TOOL.to_owned(),
            tool_version: crate::VERSION.to_owned(),
            kind: kind.to_owned(),
        }
    }

    /// That of a folder, if it has one.
    pub fn of(dir: &Path) -> Option<Self> {
        let marker: Self = serde_json::from_value(json(&dir.join(MARKER))?).ok()?;
        (marker.tool == TOOL).then_some(marker)
    }
}

/// The JSON in a file; none where there is no such file, or it is damaged.
pub fn json(path: &Path) -> Option<Value> {
    let mut text = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MAX_RECORD).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Names in a folder, sorted; what systems leave there does not count.
///
/// # Errors
/// The folder cannot be listed.
pub fn contents(dir: &Path) -> Result<Vec<String>> {
    let list = |e| Error::io("list", dir)(e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(list)? {
        let name = entry.map_err(list)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.retain(|name| !OF_SYSTEMS.contains(&name.as_str()));
    names.sort();
    Ok(names)
}

/// Names for a message: the first few.
pub fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(3)
        .map(|name| format!("`{}`", printable(name)))
        .collect();
    match names.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Whether the lock file of a folder is one of ours, or was about to become one.
pub fn is_our_lock(dir: &Path) -> bool {
    fs::read_to_string(dir.join(LOCK))
        .is_ok_and(|text| text.is_empty() || text.starts_with("process "))
}

/// Whether a folder is a checkpoint that a run of this program saved. One of its two records is
/// enough: the other may be damaged.
pub fn is_run_checkpoint(dir: &Path) -> bool {
    let state = json(&dir.join(STATE_FILE));
    let of_state = ["recipe_sha256", "data_sha256", "optimizer_steps"];
    let manifest = json(&dir.join(MANIFEST_FILE));
    state.is_some_and(|state| of_state.iter().all(|key| state.get(key).is_some()))
        || manifest.is_some_and(|manifest| !manifest["files"][STATE_FILE].is_null())
}

/// Whether a folder is a checkpoint that this program grew.
pub fn is_grown(dir: &Path) -> bool {
    growth(dir).is_some()
}

/// The record of the growth that a checkpoint came of, if this program grew it.
pub fn growth(dir: &Path) -> Option<Value> {
    json(&dir.join(GROWTH_FILE)).filter(|record| record["tool"] == TOOL)
}

/// Whether the card of a model is one that this program wrote.
pub fn is_our_card(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("\n- {TOOL}\n")))
}

/// What a checkpoint's folder holds that this program did not make; `None` where nothing proves
/// that it made the folder.
///
/// # Errors
/// The folder cannot be listed.
pub fn strangers(dir: &Path) -> Result<Option<Vec<String>>> {
    if !is_run_checkpoint(dir) && !is_grown(dir) {
        return Ok(None);
    }
    let record = |name: &str| json(&dir.join(name)).unwrap_or_default();
    let companions = record(GROWTH_FILE)["companions"].take();
    let companions = companions.as_array().into_iter().flatten();
    let mut made: Vec<String> = companions
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let files = record(MANIFEST_FILE)["files"].take();
    made.extend(
        files
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone()),
    );
    let made = made.iter().map(|name| dir.join(name)).collect();
    let mut names = contents(dir)?;
    names.retain(|name| {
        let path = dir.join(name);
        let written = path.is_file() && is_written(name);
        !(written || is_recorded(&path, &made))
    });
    Ok(Some(names))
}

/// Whether a file, or every file of a folder, is one that the records list.
fn is_recorded(path: &Path, listed: &BTreeSet<PathBuf>) -> bool {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    if !is_folder {
        return listed.contains(path);
    }
    let Ok(entries) = fs::read_dir(path) else {
        return false;
    };
    let paths: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    let recorded = |entry: &std::io::Result<PathBuf>| {
        entry.as_ref().is_ok_and(|path| is_recorded(path, listed))
    };
    !paths.is_empty() && paths.iter().all(recorded)
}

/// Whether every checkpoint that is written here may have a file of this name.
pub fn is_written(name: &str) -> bool {
    let fixed = [
        "config.json",
        "README.md",
        "recipe.toml",
        "model.safetensors",
        "model.safetensors.index.json",
        "optimizer.safetensors",
        GROWTH_FILE,
        STATE_FILE,
        MANIFEST_FILE,
    ];
    let shard = name
        .strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|numbers| numbers.split_once("-of-"));
    let is_number = |digits: &str| digits.len() >= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    fixed.contains(&name) || shard.is_some_and(|(a, b)| is_number(a) && is_number(b))
}

/// A name that a file, `at`, gives for a file or folder beside it.
///
/// # Errors
/// It is a path, or nothing that a file is called.
pub fn plain_name<'a>(name: &'a str, at: &Path) -> Result<&'a str> {
    if is_plain(name) {
        return Ok(name);
    }
    let message = format!("`{}` is not a plain file name", printable(name));
    Err(Error::invalid(at.display(), message))
}

/// A name that a file, `at`, gives for a file beside it or in a folder there.
///
/// # Errors
/// It leads elsewhere, or is nothing that a file is called.
pub fn plain_path<'a>(name: &'a str, at: &Path) -> Result<&'a str> {
    if name.split('/').all(is_plain) {
        return Ok(name);
    }
    let message = format!("`{}` is not the name of a file within", printable(name));
    Err(Error::invalid(at.display(), message))
}

fn is_plain(name: &str) -> bool {
    let plain = Path::new(name).file_name().is_some_and(|last| last == name);
    plain && !name.contains('\\') && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        let at = Path::new("index.json");
        for name in ["a", "a.b", "..a", "model-00001-of-00002.safetensors", "ä b"] {
            assert_eq!(plain_name(name, at).unwrap(), name);
        }
        for name in [
            "", ".", "..", "a/b", "/a", "a/", "../a", "a/..", "a\\b", "a\0", "a\n",
        ] {
            let error = plain_name(name, at).unwrap_err().to_string();
            assert!(error.starts_with("index.json: "), "{name:?}: {error}");
            let below = ["a/b", "a\\b"].contains(&name) || !name.contains('/');
            assert!(below || plain_path(name, at).is_err(), "{name:?}");
        }
        assert_eq!(plain_path("a/b/c.json", at).unwrap(), "a/b/c.json");
    }

    #[test]
    fn a_folder_is_ours_by_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let found = || strangers(dir.path()).unwrap();
        write("config.json", "{}");
        write("model.safetensors", "");
        assert_eq!(found(), None);
        // The record of another program, of the same name.
        write(STATE_FILE, r#"{"global_step": 5, "log_history": []}"#);
        write(GROWTH_FILE, r#"{"tool": "another"}"#);
        assert_eq!(found(), None);
        let grown =
            r#"{"tool": "scale-ckpt", "companions": ["vocab.json", "templates/tool.jinja"]}"#;
        write(GROWTH_FILE, grown);
        for name in [
            "vocab.json",
            "model-00001-of-00002.safetensors",
            ".DS_Store",
        ] {
            write(name, "");
        }
        fs::create_dir(dir.path().join("templates")).unwrap();
        write("templates/tool.jinja", "");
        assert_eq!(found(), Some(Vec::new()));
        write("templates/mine.jinja", "");
        write("model-final-of-mine.safetensors", "");
        write("diary.txt", "");
        fs::create_dir(dir.path().join("README.md")).unwrap();
        let strange = [
            "README.md",
            "diary.txt",
            "model-final-of-mine.safetensors",
            "templates",
        ];
        assert_eq!(found(), Some(strange.map(str::to_owned).to_vec()));
    }

    #[test]
    fn one_record_of_a_checkpoint_proves_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = r#"{"recipe_sha256": "", "data_sha256": "", "optimizer_steps": {}}"#;
        let manifest = r#"{"files": {"trainer_state.json": {}, "merges.txt": {}}}"#;
        for (state, manifest, ours) in [
            (state, "", true),
            ("{", manifest, true),
            ("", r#"{"files": {}}"#, false),
        ] {
            fs::write(dir.path().join(STATE_FILE), state).unwrap();
            fs::write(dir.path().join(MANIFEST_FILE), manifest).unwrap();
            assert_eq!(is_run_checkpoint(dir.path()), ours, "{state} {manifest}");
        }
    }
}
