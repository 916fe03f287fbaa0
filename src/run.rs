//! A run's folder: recipe, metrics, checkpoints, record.
//!
//! ```text
//! runs/name/
//!   .lock              held while a process works here
//!   recipe.toml        what was run, as resolved
//!   metrics.jsonl      one object per event: the truth of the run
//!   grown/             the freshly grown model, where there was growth
//!   step-00000123/     a checkpoint that transformers opens, plus optimizer and position
//!   report.json        the closing table
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::durable;
use crate::error::{Error, Result};

/// A run's folder, locked for this process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    metrics: File,
    _lock: File,
}

impl RunDir {
    /// Opens or creates the folder.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process works there.
    pub fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let lock = lock(path)?;
        let metrics_path = path.join("metrics.jsonl");
        let metrics = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&metrics_path)
            .map_err(Error::io("open", metrics_path))?;
        Ok(Self {
            path: path.to_owned(),
            metrics,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a small file durably.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        durable::write_file(&self.path.join(name), text.as_bytes())
    }

    /// Appends an event to `metrics.jsonl`.
    pub fn log(&mut self, event: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(event).expect("an event serializes");
        line.push(b'\n');
        self.metrics
            .write_all(&line)
            .map_err(Error::io("write", self.path.join("metrics.jsonl")))
    }

    /// Drops events of steps after `step`, so that a resumed run logs no step twice, and a
    /// line that a crash left unfinished.
    pub fn truncate_metrics(&mut self, step: u64) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let kept: Vec<String> = BufReader::new(file)
            .lines()
            .map_while(std::result::Result::ok)
            .filter(|line| {
                let event: Option<serde_json::Value> = serde_json::from_str(line).ok();
                event.is_some_and(|event| {
                    event
                        .get("step")
                        .and_then(serde_json::Value::as_u64)
                        .is_none_or(|s| s <= step)
                })
            })
            .map(|line| line + "\n")
            .collect();
        durable::write_file(&path, kept.concat().as_bytes())?;
        self.metrics = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(Error::io("open", path))?;
        Ok(())
    }

    /// Where the checkpoint of `step` stands.
    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.path.join(format!("step-{step:08}"))
    }

    /// Checkpoints, newest first.
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        let mut found: Vec<(u64, PathBuf)> = fs::read_dir(&self.path)
            .map_err(Error::io("list", &self.path))?
            .flatten()
            .filter_map(|entry| {
                let step = entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("step-")?
                    .parse()
                    .ok()?;
                Some((step, entry.path()))
            })
            .collect();
        found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
        Ok(found)
    }

    /// Deletes all but the newest `keep` checkpoints.
    pub fn prune(&self, keep: usize) -> Result<()> {
        for (_, path) in self.checkpoints()?.into_iter().skip(keep.max(1)) {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let owner = fs::read_to_string(&path).unwrap_or_default();
        let owner = if owner.trim().is_empty() {
            "another process".to_owned()
        } else {
            crate::error::printable(owner.trim())
        };
        return Err(Error::Locked {
            path: dir.to_owned(),
            owner,
        });
    }
    file.set_len(0).map_err(Error::io("write", &path))?;
    writeln!(file, "process {}", std::process::id()).map_err(Error::io("write", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = RunDir::open(dir.path()).unwrap();
        let error = RunDir::open(dir.path()).unwrap_err();
        assert_eq!(error.exit_code(), 8);
        assert!(
            error.to_string().contains(&std::process::id().to_string()),
            "{error}"
        );
    }

    #[test]
    fn metrics_after_the_restored_step_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = RunDir::open(dir.path()).unwrap();
        run.log(&json!({"event": "start"})).unwrap();
        for step in 1..=4 {
            run.log(&json!({"step": step})).unwrap();
        }
        run.metrics.write_all(b"{\"step\": 5").unwrap();
        run.truncate_metrics(2).unwrap();
        run.log(&json!({"step": 3})).unwrap();
        let text = fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        assert_eq!(
            text,
            "{\"event\":\"start\"}\n{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n"
        );
    }

    #[test]
    fn pruning_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        for step in [1, 20, 3] {
            fs::create_dir(run.checkpoint_path(step)).unwrap();
        }
        run.prune(2).unwrap();
        let steps: Vec<u64> = run
            .checkpoints()
            .unwrap()
            .into_iter()
            .map(|c| c.0)
            .collect();
        assert_eq!(steps, [20, 3]);
    }
}
