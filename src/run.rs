//! A run's folder: recipe, metrics, checkpoints, record.
//!
//! ```text
//! runs/name/
//!   .lock              held while a process works here
//!   recipe.toml        what was run, as resolved
//!   metrics.jsonl      one object per event: the truth of the run
//!   grown/             the freshly grown model, where the run began with a growth
//!   growth-02.json     the record of a growth in the middle, here before stage 2
//!   step-00000123/     a checkpoint that transformers opens, plus optimizer and position
//!   run.json           what was run on what, and what it costs
//!   before.json        scores of source and grown model
//!   items.json         what the final scores are made of: every window, every item
//!   report.json        the closing table, written last: a run that has one is finished
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::durable;
use crate::error::{Error, Result};

/// What was run, as resolved; checkpoints hold it too.
pub const RECIPE_FILE: &str = "recipe.toml";
/// What was run, on what, and what it costs.
pub const RUN_FILE: &str = "run.json";
/// Scores before training, kept so that a resumed run does not repeat them.
pub const BEFORE_FILE: &str = "before.json";
/// What the final scores are made of.
pub const ITEMS_FILE: &str = "items.json";
/// The closing table.
pub const REPORT_FILE: &str = "report.json";

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
        let lock = durable::lock(path)?;
        durable::sweep(path, &[".step-", ".grown"])?;
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

    /// Writes a small JSON file durably.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        durable::write_json(&self.path.join(name), value)
    }

    /// Appends an event to `metrics.jsonl`.
    pub fn log(&mut self, event: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(event).expect("an event serializes");
        line.push(b'\n');
        self.metrics
            .write_all(&line)
            .map_err(Error::io("write", self.path.join("metrics.jsonl")))
    }

    /// Makes what was logged so far survive a power cut.
    pub fn sync_metrics(&self) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        durable::point("sync", &path)?;
        self.metrics.sync_data().map_err(Error::io("sync", path))
    }

    /// Whether an event of `step` that holds `key` was logged.
    pub fn has_logged(&self, step: u64, key: &str) -> Result<bool> {
        let matches = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|event| event["step"].as_u64() == Some(step) && event.get(key).is_some())
        };
        Ok(self.metrics_lines()?.any(|line| matches(&line)))
    }

    /// What was logged, up to a line that a crash left unreadable.
    fn metrics_lines(&self) -> Result<impl Iterator<Item = String>> {
        let path = self.path.join("metrics.jsonl");
        let file = File::open(&path).map_err(Error::io("open", path))?;
        let lines = BufReader::new(file).lines();
        Ok(lines.map_while(std::result::Result::ok))
    }

    /// Drops events of steps after `step`, so that a resumed run logs no step twice, a line
    /// that a crash left unfinished, and the beginning of a stage at `step`, which is about to
    /// be logged anew.
    pub fn truncate_metrics(&mut self, step: u64) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        let kept: Vec<String> = self
            .metrics_lines()?
            .filter(|line| belongs_before(line, step))
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

    /// Moves a checkpoint that does not load out of the way, so that it never again counts as
    /// the newest; it is kept for whoever wants to look.
    pub fn set_aside(&self, checkpoint: &Path) -> Result<()> {
        let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
        let aside = (1..)
            .map(|number| self.path.join(format!("damaged-{number}-{name}")))
            .find(|path| !path.exists())
            .expect("there is a free name");
        fs::rename(checkpoint, aside).map_err(Error::io("move aside", checkpoint))?;
        durable::sync_dir(&self.path)
    }

    /// Deletes all but the newest `keep` checkpoints.
    pub fn prune(&self, keep: usize) -> Result<()> {
        for (_, path) in self.checkpoints()?.into_iter().skip(keep.max(1)) {
            durable::remove_dir(&path)?;
        }
        Ok(())
    }
}

/// Whether a line of the metrics is kept when a run goes on after `step` steps.
fn belongs_before(line: &str, step: u64) -> bool {
    let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
        return false;
    };
    let logged = event["step"].as_u64();
    let begins = ["start", "stage"]
        .iter()
        .any(|kind| event["event"] == *kind);
    !(begins && logged == Some(step)) && logged.is_none_or(|logged| logged <= step)
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
    fn what_a_killed_process_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".step-00000001.tmp-abc")).unwrap();
        fs::write(dir.path().join(".tmp-xyz"), "").unwrap();
        drop(RunDir::open(dir.path()).unwrap());
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, [".lock", "metrics.jsonl"]);
    }

    #[test]
    fn a_damaged_checkpoint_no_longer_counts() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        fs::create_dir(run.checkpoint_path(9)).unwrap();
        run.set_aside(&run.checkpoint_path(9)).unwrap();
        fs::create_dir(run.checkpoint_path(5)).unwrap();
        run.prune(1).unwrap();
        assert_eq!(run.checkpoints().unwrap().len(), 1);
        assert!(run.checkpoint_path(5).exists());
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
