//! Taking a folder for a run, a comparison, a search or an evaluation.
//!
//! A folder that is neither empty nor of that kind is refused: files of the same names may be the
//! user's own. [`owner::MARKER`] is the first file that is written, so that a folder is known as
//! ours whenever a crash comes.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result, printable};
use crate::owner::{self, LOCK, MARKER, Marker};
use crate::{durable, lock};

/// What a folder is for.
#[derive(Debug)]
pub struct Kind {
    /// In one word, with its article before it: `a run`.
    pub name: (&'static str, &'static str),
    /// Whether a folder without a marker was made by a version that wrote none.
    pub is_older: fn(&Path) -> bool,
}

impl Kind {
    /// Whether a folder is of this kind.
    pub fn is_of(&self, dir: &Path) -> bool {
        match Marker::of(dir) {
            Some(marker) => marker.kind == self.name.1,
            None => (self.is_older)(dir),
        }
    }

    /// Fails where a folder can be none of this kind; writes nothing.
    ///
    /// # Errors
    /// It holds something else.
    pub fn check(&self, dir: &Path) -> Result<()> {
        let ((article, name), at) = (self.name, dir.display());
        let refuse =
            |message: String| Err(Error::usage(message).with_hint("name a new or an empty folder"));
        let Ok(metadata) = fs::metadata(dir) else {
            durable::refuse_dangling(dir)?;
            return Ok(());
        };
        if !metadata.is_dir() {
            return refuse(format!("{at} is a file, not a folder"));
        }
        if self.is_of(dir) {
            return Ok(());
        }
        if let Some(marker) = Marker::of(dir) {
            let found = printable(&marker.kind);
            let of = if found.starts_with('e') { "an" } else { "a" };
            return refuse(format!(
                "{at} is {of} {found}'s folder, not {article} {name}'s"
            ));
        }
        let mut held = owner::contents(dir)?;
        // What a crash right at the beginning leaves.
        held.retain(|name| !(name == MARKER || name == LOCK && owner::is_our_lock(dir)));
        if held.is_empty() {
            return Ok(());
        }
        refuse(format!(
            "{at} holds something else than {article} {name}: {}",
            owner::listed(&held)
        ))
    }

    /// Takes a new or empty folder, or one of this kind, for this process, for as long as the
    /// file that is returned stays open.
    ///
    /// # Errors
    /// The folder holds something else, or cannot be written; [`Error::Locked`] if another
    /// process has it.
    pub fn claim(&self, dir: &Path) -> Result<File> {
        self.check(dir)?;
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = lock::lock(dir)?;
        // Another process may have come first.
        self.check(dir)?;
        if Marker::of(dir).is_none() {
            mark(dir, self.name.1)?;
        }
        Ok(lock)
    }
}

/// Writes the marker. Without a temporary file: nothing but a marker proves yet that one is ours.
fn mark(dir: &Path, kind: &str) -> Result<()> {
    let path = dir.join(MARKER);
    let text = serde_json::to_string_pretty(&Marker::new(kind)).expect("a marker serializes");
    durable::point("write", &path)?;
    let mut file = File::create(&path).map_err(Error::io("create", &path))?;
    let written = file.write_all((text + "\n").as_bytes());
    written.map_err(Error::io("write", &path))?;
    durable::point("sync", &path)?;
    file.sync_all().map_err(Error::io("sync", &path))?;
    durable::sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        name: ("a", "run"),
        is_older: |dir| dir.join("inputs.json").exists(),
    };
    const OTHER: Kind = Kind {
        name: ("an", "evaluation"),
        is_older: |_| false,
    };

    #[test]
    fn a_folder_is_taken_that_is_empty_or_of_the_kind() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        drop(KIND.claim(&dir).unwrap());
        fs::write(dir.join("report.json"), "{}").unwrap();
        drop(KIND.claim(&dir).unwrap());
        let error = OTHER.claim(&dir).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("a run's folder, not an evaluation's"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 2);
        // Made before there were markers.
        fs::remove_file(dir.join(MARKER)).unwrap();
        assert!(KIND.check(&dir).is_err());
        fs::write(dir.join("inputs.json"), "{}").unwrap();
        drop(KIND.claim(&dir).unwrap());
        assert!(Marker::of(&dir).is_some());
    }

    #[test]
    fn a_link_to_nothing_is_told_as_that() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("dang");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for dir in [link.clone(), link.join(""), link.join("deeper/run")] {
            let error = KIND.claim(&dir).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let told = error.to_string();
            assert!(
                told.ends_with("dang is a link to nowhere, which is not there"),
                "{told}"
            );
            assert!(error.hint().is_some());
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        // What a link leads to is taken.
        fs::create_dir(root.path().join("nowhere")).unwrap();
        drop(KIND.claim(&link).unwrap());
    }

    #[test]
    fn what_a_crash_or_a_system_left_is_an_empty_folder() {
        for (name, text) in [
            (MARKER, "{\"sche"),
            (LOCK, ""),
            (LOCK, "process 12\n"),
            (".DS_Store", "x"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), text).unwrap();
            drop(KIND.claim(dir.path()).unwrap());
            assert!(KIND.is_of(dir.path()), "{name}");
        }
    }

    #[test]
    fn what_is_the_users_is_left_alone() {
        for name in ["report.json", LOCK, "step-00000003", ".tmp-notes", ".env"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), "mine").unwrap();
            let error = KIND.claim(dir.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("a run: `{name}`")), "{error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"mine");
        }
    }
}
