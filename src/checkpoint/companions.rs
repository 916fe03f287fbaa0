//! What travels beside the weights of a checkpoint: every file of its folder that is neither
//! weights, nor the state of a training, nor written anew.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::durable::{StagedDir, parent_of};
use crate::error::{Error, Result, printable};
use crate::owner::{self, GROWTH_FILE};

/// Files that are known to belong to a checkpoint, tokenizer first.
pub const COMPANIONS: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "LICENSE",
];

/// A folder of chat templates besides the usual one.
pub const CHAT_TEMPLATES: &str = "additional_chat_templates";

/// Written anew, or of no meaning elsewhere.
const OURS: [&str; 6] = [
    "config.json",
    "growth.json",
    "README.md",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "__pycache__",
];

/// Beside the weights in a checkpoint that a run of this program saved.
const STATE: [&str; 4] = [
    "manifest.json",
    "optimizer.safetensors",
    "recipe.toml",
    "trainer_state.json",
];

/// What a version control, a download or a file manager keeps for itself.
const HIDDEN: [&str; 6] = [
    ".git",
    ".gitattributes",
    ".gitignore",
    ".cache",
    ".DS_Store",
    ".lock",
];

/// How the names of weights end, in any of their formats.
const WEIGHTS: [&str; 22] = [
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".onnx.data",
    ".gguf",
    ".ggml",
    ".tflite",
    ".mlmodel",
    ".mlpackage",
    ".ot",
    ".npz",
    ".npy",
    ".pkl",
    ".pickle",
    ".pdparams",
    ".index.json",
];

/// How the names of a training's files begin.
const TRAINING: [&str; 9] = [
    "optimizer",
    "scheduler",
    "scaler.",
    "rng_state",
    "trainer_state.json",
    "training_args",
    "events.out.tfevents",
    "manifest.json",
    "recipe.toml",
];

/// No single file that is larger travels.
const LARGEST: u64 = 128 << 20;
/// All of them together are no larger than this.
const IN_ALL: u64 = 256 << 20;
/// Nor more than so many.
const MOST: usize = 500;
/// How deep folders may lie in each other.
const DEPTH: usize = 4;

/// Files beside the weights of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Companions {
    dir: PathBuf,
    /// Their names below the folder, sorted.
    pub names: Vec<String>,
    /// What stays, and why, in words.
    pub left_behind: Vec<String>,
}

impl Companions {
    /// Everything in a checkpoint's folder that travels with it. A folder in it travels whole or
    /// not at all, and a link only where it does not lead out of the checkpoint.
    /// Of `weights`, which were read, nothing is said.
    pub fn of(dir: &Path, weights: &[PathBuf]) -> Self {
        let mut found = Search::new(dir);
        let own_state = owner::is_run_checkpoint(dir);
        let is_read = |name: &str| {
            let mut weights = weights.iter();
            weights.any(|path| path.file_name() == Some(OsStr::new(name)))
        };
        for name in names_in(dir) {
            let Some(name) = name.to_str().map(str::to_owned) else {
                let name = name.to_string_lossy();
                found.leave(&name, "its name is not UTF-8");
                continue;
            };
            let ours = OURS.contains(&name.as_str()) || own_state && STATE.contains(&name.as_str());
            if ours || is_private(&name) || is_read(&name) {
                if let Some(why) = replaced(dir, &name) {
                    found.leave(&name, why);
                }
                continue;
            }
            let before = (found.names.len(), found.bytes);
            if let Err((culprit, why)) = found.take(&name, 0) {
                found.names.truncate(before.0);
                found.bytes = before.1;
                match culprit.strip_prefix(&format!("{name}/")) {
                    None => found.leave(&name, &why),
                    Some(inner) => found.leave(&name, &format!("holds {inner}: {why}")),
                }
            }
        }
        Self {
            dir: dir.to_owned(),
            names: found.names,
            left_behind: found.left_behind,
        }
    }

    /// The files of a folder that are known to belong to a checkpoint, and no others.
    pub fn known_in(dir: &Path) -> Self {
        let known = COMPANIONS.iter().filter(|name| dir.join(name).is_file());
        Self {
            dir: dir.to_owned(),
            names: known.map(|&name| name.to_owned()).collect(),
            left_behind: Vec::new(),
        }
    }

    /// Copies them into a folder under construction; returns the names of those that are still
    /// there.
    ///
    /// # Errors
    /// One cannot be read or written.
    pub fn copy(&self, staged: &StagedDir) -> Result<Vec<String>> {
        let mut copied = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let (from, to) = (self.dir.join(name), staged.path().join(name));
            let parent = parent_of(&to);
            fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
            match fs::copy(&from, &to) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                outcome => {
                    outcome.map_err(Error::io("copy", &from))?;
                    copied.push(name.clone());
                }
            }
        }
        Ok(copied)
    }

    /// What stays, in a line; nothing where all travels.
    pub fn note(left_behind: &[String]) -> Option<String> {
        const SHOWN: usize = 50;
        let shown = left_behind.iter().take(SHOWN).cloned();
        let mut shown = shown.collect::<Vec<_>>().join(", ");
        match left_behind.len() {
            0 => return None,
            n if n > SHOWN => shown += &format!(" and {} more", n - SHOWN),
            _ => {}
        }
        Some(format!("not carried along: {shown}"))
    }
}

/// Whether a file of this name travels, as far as the name tells.
pub fn travels(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    !OURS.contains(&last) && !last.starts_with('.') && kept_apart(last).is_none()
}

/// Why a file of this name stays.
fn kept_apart(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    if TRAINING.iter().any(|start| name.starts_with(start)) {
        return Some("of a training");
    }
    let weights = WEIGHTS.iter().any(|end| name.ends_with(end)) || name == "adapter_config.json";
    weights.then_some("weights")
}

/// Why a file stays that is of another hand, though this program writes one of its name.
fn replaced(dir: &Path, name: &str) -> Option<&'static str> {
    match name {
        "README.md" if !owner::is_our_card(&dir.join(name)) => Some("it describes the source"),
        GROWTH_FILE if !owner::is_grown(dir) => Some("no record that scale-ckpt can read"),
        _ => None,
    }
}

fn is_private(name: &str) -> bool {
    HIDDEN.contains(&name) || name.contains(".tmp-")
}

/// Names in a folder, sorted; none where it cannot be listed.
fn names_in(dir: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    names
}

/// A walk through a folder.
struct Search {
    dir: PathBuf,
    /// Where links may lead: the folder, and the blobs beside a snapshot of the hub's cache.
    within: Vec<PathBuf>,
    names: Vec<String>,
    bytes: u64,
    left_behind: Vec<String>,
}

impl Search {
    fn new(dir: &Path) -> Self {
        let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let snapshots = real
            .parent()
            .filter(|p| p.file_name() == Some(OsStr::new("snapshots")));
        let blobs = snapshots
            .and_then(Path::parent)
            .map(|repo| repo.join("blobs"));
        Self {
            dir: dir.to_owned(),
            within: blobs.into_iter().chain([real]).collect(),
            names: Vec::new(),
            bytes: 0,
            left_behind: Vec::new(),
        }
    }

    fn leave(&mut self, name: &str, why: &str) {
        self.left_behind.push(printable(&format!("{name} ({why})")));
    }

    /// Adds a file, or a folder with all in it; says what stays and why, where it does not.
    fn take(&mut self, name: &str, depth: usize) -> Result<(), (String, String)> {
        // A manifest lists what travels, and takes no other names.
        if owner::plain_path(name, &self.dir).is_err() {
            let why = "its name has a backslash or a control character";
            return Err((name.to_owned(), why.to_owned()));
        }
        if self.dir.join(name).is_dir() && !name.starts_with('.') {
            return self.take_all(name, depth);
        }
        self.take_file(name).map_err(|why| (name.to_owned(), why))
    }

    fn take_file(&mut self, name: &str) -> Result<(), String> {
        let path = self.dir.join(name);
        let last = name.rsplit('/').next().unwrap_or(name);
        if last.starts_with('.') {
            return Err("hidden".into());
        }
        let metadata = fs::metadata(&path).map_err(|e| e.to_string())?;
        if let Some(why) = kept_apart(last) {
            return Err(why.into());
        }
        if !metadata.is_file() {
            return Err("not a plain file".into());
        }
        // Those that are known are read through any link, as by the program itself.
        if !COMPANIONS.contains(&name) && !self.is_within(&path) {
            return Err("a link out of the folder".into());
        }
        let size = metadata.len();
        if size > LARGEST {
            return Err(format!("more than {} MiB", LARGEST >> 20));
        }
        if self.bytes + size > IN_ALL || self.names.len() >= MOST {
            let limit = IN_ALL >> 20;
            return Err(format!("more than {limit} MiB or {MOST} files in all"));
        }
        self.bytes += size;
        self.names.push(name.to_owned());
        Ok(())
    }

    fn take_all(&mut self, name: &str, depth: usize) -> Result<(), (String, String)> {
        let path = self.dir.join(name);
        let stays = |why: &str| Err((name.to_owned(), why.to_owned()));
        if depth == DEPTH {
            return stays("folders too deep in each other");
        }
        if depth == 0 && owner::is_written(name) {
            return stays("a file of this name is written");
        }
        // A link to a folder above would lead round in circles.
        if path.is_symlink() {
            return stays("a link to a folder");
        }
        for entry in names_in(&path) {
            let Some(entry) = entry.to_str() else {
                return stays("a name in it is not UTF-8");
            };
            if entry != "__pycache__" && !is_private(entry) {
                self.take(&format!("{name}/{entry}"), depth + 1)?;
            }
        }
        Ok(())
    }

    fn is_within(&self, path: &Path) -> bool {
        let real = path.canonicalize();
        real.is_ok_and(|real| self.within.iter().any(|dir| real.starts_with(dir)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(dir: &Path, name: &str) {
        let path = dir.join(name);
        fs::create_dir_all(parent_of(&path)).unwrap();
        fs::write(path, name).unwrap();
    }

    #[test]
    fn all_but_weights_states_and_what_is_written_anew_travels() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("m");
        let travelling = [
            "LICENSE.txt",
            "additional_chat_templates/tool.jinja",
            "chat_template.json",
            "modeling_own.py",
            "package/__init__.py",
            "preprocessor_config.json",
            "spiece.model",
            "vocab.txt",
        ];
        let staying = [
            ("checkpoint-5", "checkpoint-5/sub/optimizer.pt"),
            ("flax_model.msgpack", "flax_model.msgpack"),
            ("model.Q4.GGUF", "model.Q4.GGUF"),
            ("onnx", "onnx/model.onnx"),
            ("tf_model.h5.index.json", "tf_model.h5.index.json"),
            ("rng_state_0.pth", "rng_state_0.pth"),
            ("trainer_state.json", "trainer_state.json"),
            (".secret", ".secret"),
            ("README.md", "README.md"),
            ("growth.json", "growth.json"),
        ];
        for name in travelling {
            write(&dir, name);
        }
        for (_, name) in staying {
            write(&dir, name);
        }
        for name in [
            "config.json",
            "model.safetensors",
            ".git/HEAD",
            "__pycache__/x.pyc",
            "onnx/config.json",
        ] {
            write(&dir, name);
        }
        let found = Companions::of(&dir, &[dir.join("model.safetensors")]);
        assert_eq!(found.names, travelling);
        for (name, _) in staying {
            let named = |left: &String| left.starts_with(&format!("{name} ("));
            assert!(found.left_behind.iter().any(named), "{name}: {found:?}");
        }
        assert_eq!(found.left_behind.len(), staying.len(), "{found:?}");

        let staged = StagedDir::new(&root.path().join("out"), false).unwrap();
        assert_eq!(found.copy(&staged).unwrap(), travelling);
        let out = staged.publish().unwrap();
        for name in travelling {
            assert_eq!(fs::read(out.join(name)).unwrap(), name.as_bytes());
        }
    }

    #[test]
    fn links_are_followed_within_the_checkpoint_alone() {
        let root = tempfile::tempdir().unwrap();
        let snapshot = root.path().join("models--a--b/snapshots/1");
        write(root.path(), "models--a--b/blobs/123");
        write(root.path(), "secret");
        write(&snapshot, "own.txt");
        symlink("../../blobs/123", snapshot.join("vocab.txt")).unwrap();
        symlink("own.txt", snapshot.join("same.txt")).unwrap();
        symlink("../../../secret", snapshot.join("x.txt")).unwrap();
        symlink("../../../secret", snapshot.join("tokenizer.json")).unwrap();
        symlink("nowhere", snapshot.join("y.txt")).unwrap();
        symlink("..", snapshot.join("up")).unwrap();
        let found = Companions::of(&snapshot, &[]);
        assert_eq!(
            found.names,
            ["own.txt", "same.txt", "tokenizer.json", "vocab.txt"]
        );
        let left = found.left_behind.join(", ");
        assert!(left.contains("x.txt (a link out of the folder)"), "{left}");
        assert!(
            left.contains("up (a link to a folder)") && left.contains("y.txt"),
            "{left}"
        );
    }

    /// The manifest of a checkpoint would be refused for such names, when it is too late.
    #[test]
    fn names_that_no_manifest_takes_stay() {
        let root = tempfile::tempdir().unwrap();
        let long = "n".repeat(255);
        for name in [
            "chat\\template.jinja",
            "line\nbreak.txt",
            "package/a\tb.py",
            "package/sound.py",
            "optimizer.safetensors/x.txt",
            "model-00001-of-00002.safetensors/x.txt",
            "a b ü.txt",
            &long,
        ] {
            write(root.path(), name);
        }
        let found = Companions::of(root.path(), &[]);
        assert_eq!(found.names, ["a b ü.txt", &long]);
        for name in &found.names {
            owner::plain_path(name, root.path()).unwrap();
        }
        let why = "its name has a backslash or a control character";
        let left = found.left_behind.join(", ");
        for words in [
            format!("chat\\template.jinja ({why})"),
            format!("break.txt ({why})"),
            "package (holds a".to_owned(),
            format!("b.py: {why})"),
            "optimizer.safetensors (a file of this name is written)".to_owned(),
            "model-00001-of-00002.safetensors (a file of this name is written)".to_owned(),
        ] {
            assert!(left.contains(&words), "{words}: {left}");
        }
    }

    #[test]
    fn what_is_written_anew_is_named_where_it_is_of_another_hand() {
        let root = tempfile::tempdir().unwrap();
        let left = || Companions::of(root.path(), &[]).left_behind.join(", ");
        fs::write(root.path().join("README.md"), "# My model").unwrap();
        fs::write(root.path().join("growth.json"), r#"{"tool": "another"}"#).unwrap();
        assert_eq!(
            left(),
            "README.md (it describes the source), growth.json (no record that scale-ckpt can read)"
        );
        fs::write(
            root.path().join("README.md"),
            "---\ntags:\n- scale-ckpt\n---\n",
        )
        .unwrap();
        fs::write(root.path().join("growth.json"), r#"{"tool": "scale-ckpt"}"#).unwrap();
        assert_eq!(left(), "");
    }

    #[test]
    fn the_note_has_every_name() {
        assert_eq!(Companions::note(&[]), None);
        let names: Vec<String> = (0..30).map(|i| format!("file-{i}")).collect();
        let note = Companions::note(&names).unwrap();
        assert!(
            names.iter().all(|name| note.contains(name.as_str())),
            "{note}"
        );
        assert!(!note.contains("more"), "{note}");
    }

    #[test]
    fn what_is_too_large_stays() {
        let root = tempfile::tempdir().unwrap();
        let file = fs::File::create(root.path().join("corpus.txt")).unwrap();
        file.set_len(LARGEST + 1).unwrap();
        for name in ["a", "b", "c"] {
            let file = fs::File::create(root.path().join(name)).unwrap();
            file.set_len(100 << 20).unwrap();
        }
        let found = Companions::of(root.path(), &[]);
        assert_eq!(found.names, ["a", "b"]);
        assert!(found.left_behind[0].contains("256 MiB"), "{found:?}");
        assert!(
            found.left_behind[1].contains("more than 128 MiB"),
            "{found:?}"
        );
    }
}
