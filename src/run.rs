//! A run's folder: recipe, metrics, checkpoints, record.
//!
//! ```text
//! runs/name/
//!   .scale-ckpt.json   says that this is a run's folder: the first file
//!   .lock              held while a process works here
//!   recipe.toml        what was run, as resolved
//!   metrics.jsonl      one object per event: the truth of the run
//!   inputs.json        what it was started with: hashes of recipe, text, source, tokenizer
//!   grown/             the freshly grown model, where the run began with a growth
//!   growth-01.json     its record, once a finished run was cleaned of the model
//!   growth-02.json     the record of a growth in the middle, here before stage 2
//!   step-00000123/     a checkpoint that transformers opens, plus optimizer and position
//!   run.json           what was run on what, and what it costs
//!   before.json        scores of source and grown model
//!   items.json         what the final scores are made of: every window, every item
//!   report.json        the closing table, written last: a run that has one is finished
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::claim::Kind;
use crate::durable;
use crate::error::{Error, Result};
use crate::owner;

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

/// Hashes of what the run was started with.
pub const INPUTS_FILE: &str = "inputs.json";
/// The model that a run began with, where it grew it.
pub const GROWN_DIR: &str = "grown";

/// A run's folder.
pub const KIND: Kind = Kind {
    name: ("a", "run"),
    is_older: |dir| {
        let inputs = owner::json(&dir.join(INPUTS_FILE)).unwrap_or_default();
        let of_run = ["recipe", "training text", "tokenizer", "growth plan"];
        of_run.iter().all(|key| inputs[*key].is_string())
    },
};

/// Where the record of the growth before a stage stands, counted from 1.
pub fn growth_file(stage: usize) -> String {
    format!("growth-{stage:02}.json")
}

/// Beginnings of names of what is staged in a run's folder.
pub const STAGED: [&str; 2] = [".step-", ".grown"];

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
    /// [`Error::Locked`] if another process works there; or the folder holds other things, or
    /// something else under a name that a checkpoint of this run will have.
    pub fn open(path: &Path) -> Result<Self> {
        let lock = KIND.claim(path)?;
        if let Some((_, other)) = numbered(path)?.iter().find(|(_, path)| !is_ours(path)) {
            let message = "in the way of a checkpoint, and not one that scale-ckpt saved";
            return Err(Error::invalid(other.display(), message)
                .with_hint("move it elsewhere: it is neither read nor touched"));
        }
        durable::sweep(path, &STAGED)?;
        let metrics_path = path.join("metrics.jsonl");
        let metrics = open_metrics(&metrics_path).map_err(Error::io("open", metrics_path))?;
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

    /// Drops events of steps after `step`, so that a resumed run logs no step twice, and those
    /// at `step` that belong to the next one, which are about to be logged anew: the beginning of
    /// a stage, fewer sequences to a pass.
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
        checkpoints(&self.path)
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

    /// Deletes all but the newest `keep` checkpoints. One that holds other files beside those of
    /// the run stays.
    pub fn prune(&self, keep: usize) -> Result<()> {
        for (_, path) in self.checkpoints()?.into_iter().skip(keep.max(1)) {
            if owner::strangers(&path)?.is_some_and(|strangers| strangers.is_empty()) {
                durable::remove_dir(&path)?;
            }
        }
        Ok(())
    }
}

/// The checkpoints in a run's folder, newest first.
///
/// # Errors
/// The folder cannot be listed.
pub fn checkpoints(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = numbered(dir)?;
    found.retain(|(_, path)| is_ours(path));
    Ok(found)
}

/// What in a run's folder is called as its checkpoints are, newest first.
fn numbered(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step_of = |name: &String| {
        let step = name.strip_prefix("step-")?.parse().ok()?;
        // In the very form that is written here.
        (*name == format!("step-{step:08}")).then_some(step)
    };
    let names = owner::contents(dir)?.into_iter();
    let steps = names.filter_map(|name| Some((step_of(&name)?, dir.join(name))));
    let mut found: Vec<(u64, PathBuf)> = steps.collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found)
}

fn is_ours(checkpoint: &Path) -> bool {
    owner::is_run_checkpoint(checkpoint)
}

/// Opens the metrics to append to them, without a line that a crash left unfinished.
fn open_metrics(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).read(true).append(true).open(path)?;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut last = [b'\n'];
    while end > 0 {
        file.seek(SeekFrom::Start(end - 1))?;
        file.read_exact(&mut last)?;
        if last == *b"\n" {
            break;
        }
        end -= 1;
    }
    file.set_len(end)?;
    Ok(file)
}

/// Whether a line of the metrics is kept when a run goes on after `step` steps.
fn belongs_before(line: &str, step: u64) -> bool {
    let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
        return false;
    };
    let logged = event["step"].as_u64();
    let begins = ["start", "stage", "micro-batch"]
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
        drop(RunDir::open(dir.path()).unwrap());
        let staged = durable::StagedDir::new(&dir.path().join("step-00000001"), true).unwrap();
        let half = staged.path().to_owned();
        std::mem::forget(staged);
        let file = durable::temporary_file(dir.path()).unwrap().keep().unwrap();
        // Somebody else's, who calls them alike.
        fs::create_dir(dir.path().join(".step-00000002.tmp-abc")).unwrap();
        fs::write(dir.path().join(".tmp-xyz"), "").unwrap();
        drop(RunDir::open(dir.path()).unwrap());
        assert!(!half.exists() && !file.1.exists());
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        left.sort();
        let expected = [
            ".lock",
            owner::MARKER,
            ".step-00000002.tmp-abc",
            ".tmp-xyz",
            "metrics.jsonl",
        ];
        assert_eq!(left, expected);
    }

    /// A checkpoint as far as its record goes.
    fn checkpoint(path: &Path) {
        let state = r#"{"recipe_sha256": "", "data_sha256": "", "optimizer_steps": {}}"#;
        fs::create_dir(path).unwrap();
        fs::write(path.join(owner::STATE_FILE), state).unwrap();
    }

    #[test]
    fn what_is_not_a_checkpoint_of_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        for step in [3, 5, 9] {
            checkpoint(&run.checkpoint_path(step));
        }
        fs::write(run.checkpoint_path(3).join("notes.txt"), "mine").unwrap();
        for mine in ["step-1", "step-00000005-old", "step-one", "step-000000002"] {
            fs::create_dir(dir.path().join(mine)).unwrap();
        }
        run.prune(1).unwrap();
        let left = run.checkpoints().unwrap();
        let steps: Vec<u64> = left.into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [9, 3], "one with a stranger in it stays");
        assert_eq!(numbered(dir.path()).unwrap().len(), 2);
        assert!(dir.path().join("step-1").exists() && dir.path().join("step-one").exists());
        drop(run);
        // Something else, where a checkpoint is to stand.
        let mine = dir.path().join("step-00000007");
        fs::create_dir(&mine).unwrap();
        let error = RunDir::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("step-00000007"), "{error}");
        assert!(mine.exists());
    }

    #[test]
    fn an_unfinished_line_is_dropped_before_more_is_logged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        for (found, kept) in [
            ("{\"step\":1}\n{\"st", "{\"step\":1}\n"),
            ("{\"st", ""),
            ("", ""),
            ("{\"step\":1}\n", "{\"step\":1}\n"),
        ] {
            drop(RunDir::open(dir.path()).unwrap());
            fs::write(&path, found).unwrap();
            let mut run = RunDir::open(dir.path()).unwrap();
            run.log(&json!({"step": 2})).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{kept}{{\"step\":2}}\n"));
        }
    }

    #[test]
    fn what_belongs_to_the_next_step_is_logged_anew() {
        let events = |step: u64| {
            [
                json!({"step": step, "val_loss": 1.0}),
                json!({"event": "stage", "step": step}),
                json!({"event": "micro-batch", "step": step, "micro_batch": 2}),
            ]
        };
        let kept = |at: u64| {
            let lines = events(4).map(|event| event.to_string());
            lines.map(|line| belongs_before(&line, at))
        };
        assert_eq!(kept(4), [true, false, false]);
        assert_eq!((kept(5), kept(3)), ([true; 3], [false; 3]));
    }

    #[test]
    fn a_damaged_checkpoint_no_longer_counts() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        checkpoint(&run.checkpoint_path(9));
        run.set_aside(&run.checkpoint_path(9)).unwrap();
        checkpoint(&run.checkpoint_path(5));
        run.prune(1).unwrap();
        assert_eq!(run.checkpoints().unwrap().len(), 1);
        assert!(run.checkpoint_path(5).exists());
    }

    #[test]
    fn pruning_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        for step in [1, 20, 3] {
            checkpoint(&run.checkpoint_path(step));
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
