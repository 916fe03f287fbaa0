//! An evaluation's folder.
//!
//! ```text
//! out/
//!   .scale-ckpt.json     says that this is an evaluation's folder: the first file
//!   .lock                held while a process works here
//!   evaluation.json      what was asked of whom, with the hash of everything that decides a score
//!   items/               every item's score, appended as it is found; what a rerun goes on from
//!   MODEL/results_scale-ckpt.json
//!                        with the keys of lm-evaluation-harness
//!   MODEL/samples_TASK.jsonl
//!   scores.csv  scores.md  comparisons.json  report.html
//! ```
//!
//! What is written at the end is made of `evaluation.json` and `items` alone, and names no times and
//! no places: the same for an evaluation that was stopped, or shared out and merged, where scores
//! do not depend on what they are computed with, as on a CPU.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::loss::{TextLoss, TextScore, Windows};
use super::paired::Comparison;
use super::prepared::{TaskRecord, of_shard};
use super::score::{ItemScore, TaskScore};
use super::task::{Selection, Shard};
use crate::checkpoint::hex;
use crate::claim::Kind;
use crate::durable;
use crate::error::{Error, Result, printable};

const EVALUATION: &str = "evaluation.json";

/// An evaluation's folder.
pub const KIND: Kind = Kind {
    name: ("an", "evaluation"),
    is_older: |dir| read_evaluation(dir).is_ok(),
};

/// A model that is scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// What the user calls it.
    pub name: String,
    /// The name of its folder.
    pub slug: String,
    /// SHA-256 over its weight files.
    pub weights_sha256: String,
    /// SHA-256 over its configuration.
    pub config_sha256: String,
    /// SHA-256 over its tokenizer file.
    pub tokenizer_sha256: String,
    /// Blocks.
    pub n_layer: usize,
    /// Parameters.
    pub parameters: u64,
    /// Longest context.
    pub n_positions: usize,
    /// Steps of training behind it, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Tokens of training behind it, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
}

/// What is asked of whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Version of this form.
    pub schema: u32,
    /// The program's.
    pub tool_version: String,
    /// `cpu` or `cuda`: scores of different kinds differ by rounding.
    pub device: String,
    /// What is computed in.
    pub dtype: String,
    /// Whether every choice was scored alone.
    pub plain: bool,
    /// The models.
    pub models: Vec<ModelRecord>,
    /// The model that the others are compared with, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// The tasks.
    pub tasks: Vec<TaskRecord>,
    /// Which of a task's items.
    pub selection: Selection,
    /// The part of them that this folder is for.
    pub shard: Option<Shard>,
    /// Losses on a text, one for each model, where one was asked for.
    pub texts: Vec<TextLoss>,
}

impl Evaluation {
    /// What tells the scores of a model on a task from all others.
    pub fn key(&self, model: &ModelRecord, task: &TaskRecord) -> String {
        let parts = (
            (
                &model.weights_sha256,
                &model.config_sha256,
                &model.tokenizer_sha256,
            ),
            (&task.task, task.protocol, &task.version, task.shots),
            (
                &task.data.sha256,
                &task.data.examples_sha256,
                &task.data.groups_sha256,
            ),
            (&self.device, &self.dtype, self.plain),
        );
        hex(&Sha256::digest(format!("{parts:?}")))
    }

    /// What tells the loss of a model on windows of a text from all others.
    pub fn text_key(&self, model: &ModelRecord, text_sha256: &str, windows: Windows) -> String {
        let parts = (
            (
                &model.weights_sha256,
                &model.config_sha256,
                &model.tokenizer_sha256,
            ),
            (text_sha256, windows),
            (&self.device, &self.dtype),
        );
        hex(&Sha256::digest(format!("{parts:?}")))
    }

    /// Indices of a task's items that are to be scored.
    pub fn items(&self, task: &TaskRecord) -> Result<Vec<usize>> {
        let mut items = super::dataset::select(self.selection, task.data.count)?;
        items.retain(|item| of_shard(self.shard, *item) && !task.unfit.contains(item));
        Ok(items)
    }
}

/// Scores of one model.
#[derive(Clone, Debug)]
pub struct ModelOutcome {
    /// The model.
    pub record: ModelRecord,
    /// Its loss on the text, if there is one.
    pub text: Option<TextLoss>,
    /// That of every window.
    pub windows: Vec<f64>,
    /// Its scores, task by task.
    pub tasks: Vec<(TaskScore, Vec<ItemScore>)>,
}

/// An evaluation and all that came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was asked.
    pub evaluation: Evaluation,
    /// What came of it, model by model.
    pub models: Vec<ModelOutcome>,
    /// How the models differ on the same items.
    pub comparisons: Vec<Comparison>,
}

impl Outcome {
    /// Adds up items' scores: of every model, of every task, at least one. `windows` has the
    /// losses of every model's windows of the text, where there is one.
    pub fn new(
        evaluation: Evaluation,
        items: Vec<Vec<Vec<ItemScore>>>,
        windows: &[Vec<f64>],
    ) -> Self {
        let models = items
            .into_iter()
            .enumerate()
            .map(|(i, tasks)| ModelOutcome {
                record: evaluation.models[i].clone(),
                text: evaluation.texts.get(i).copied(),
                windows: windows.get(i).cloned().unwrap_or_default(),
                tasks: tasks
                    .into_iter()
                    .zip(&evaluation.tasks)
                    .map(|(items, task)| (TaskScore::of(task, &items), items))
                    .collect(),
            });
        let mut outcome = Self {
            models: models.collect(),
            evaluation,
            comparisons: Vec::new(),
        };
        outcome.comparisons = super::report::comparisons(&outcome);
        outcome
    }
}

/// An evaluation's folder, locked for this process.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens or creates the folder.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process works there; or the folder holds other things.
    pub fn open(path: &Path) -> Result<Self> {
        let lock = KIND.claim(path)?;
        let items = path.join("items");
        fs::create_dir_all(&items).map_err(Error::io("create", &items))?;
        durable::sweep(path, &[])?;
        durable::sweep(&items, &[])?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is asked. Results of an earlier evaluation here that this one will not write
    /// anew are removed, and told; the items' scores that they were made of stay.
    ///
    /// # Errors
    /// The folder is for another part of the items; or a file cannot be written or removed.
    pub fn announce(&self, evaluation: &Evaluation) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        if self.path.join(EVALUATION).exists() {
            let before = read_evaluation(&self.path)?;
            if before.shard != evaluation.shard {
                let name = |shard: Option<Shard>| {
                    shard.map_or_else(|| "all items".to_owned(), |shard| format!("shard {shard}"))
                };
                let (at, held) = (self.path.display(), name(before.shard));
                return Err(Error::usage(format!(
                    "{at} holds scores of {held}, not of {}",
                    name(evaluation.shard)
                ))
                .with_hint("give every shard, and the whole, an --out of its own"));
            }
            let now: Vec<PathBuf> = results_of(evaluation);
            let stale = results_of(&before).into_iter().filter(|r| !now.contains(r));
            for path in stale.map(|result| self.path.join(result)) {
                if path.exists() {
                    durable::point("remove", &path)?;
                    fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                    removed.push(path);
                }
            }
        }
        durable::write_json(&self.path.join(EVALUATION), evaluation)?;
        Ok(removed)
    }

    /// The scores of a model on a task that are there.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn journal(
        &self,
        evaluation: &Evaluation,
        model: &ModelRecord,
        task: &TaskRecord,
    ) -> Result<Journal> {
        let path = journal_path(&self.path, evaluation, model, task);
        Journal::open(path)
    }
}

impl Folder {
    /// The loss on a text that is kept under a key.
    pub fn text(&self, key: &str) -> Option<TextScore> {
        let kept = fs::read(self.text_path(key)).ok()?;
        serde_json::from_slice(&kept).ok()
    }

    /// Keeps the loss on a text.
    pub fn keep_text(&self, key: &str, score: &TextScore) -> Result<()> {
        let text = serde_json::to_vec(score).expect("a loss serializes");
        durable::write_file(&self.text_path(key), &text)
    }

    fn text_path(&self, key: &str) -> PathBuf {
        self.path
            .join("items")
            .join(format!("text-{}.json", &key[..16]))
    }
}

/// The files of models' results, below an evaluation's folder.
fn results_of(evaluation: &Evaluation) -> Vec<PathBuf> {
    let models = evaluation.models.iter().map(|model| Path::new(&model.slug));
    models
        .flat_map(|dir| {
            let samples = evaluation.tasks.iter();
            let samples = samples.map(|task| dir.join(format!("samples_{}.jsonl", task.task)));
            samples.chain([dir.join(super::report::RESULTS)])
        })
        .collect()
}

fn journal_path(
    folder: &Path,
    evaluation: &Evaluation,
    model: &ModelRecord,
    task: &TaskRecord,
) -> PathBuf {
    let key = &evaluation.key(model, task)[..16];
    folder
        .join("items")
        .join(format!("{}-{key}.jsonl", task.task))
}

/// Reads what a folder says that it is for.
///
/// # Errors
/// It is no evaluation's folder, or names what this program would not have: names become paths.
pub fn read_evaluation(folder: &Path) -> Result<Evaluation> {
    let path = folder.join(EVALUATION);
    if folder.exists() && !path.exists() {
        let message = format!("not a folder of `eval --out`, which has {EVALUATION}");
        return Err(
            Error::invalid(folder.display(), message).with_hint("give what `eval --out` was given")
        );
    }
    let text = crate::error::read_text(&path)?;
    let evaluation: Evaluation =
        serde_json::from_str(&text).map_err(|e| Error::invalid(path.display(), e.to_string()))?;
    let checked = evaluation.check_names();
    checked.map_err(|message| {
        Error::invalid(path.display(), message)
            .with_hint("the file was changed, or is not of this program: evaluate again")
    })?;
    Ok(evaluation)
}

impl Evaluation {
    /// Checks that folders, tasks and shard are called as this program calls them.
    fn check_names(&self) -> Result<(), String> {
        let mut slugs: Vec<&str> = Vec::new();
        for model in &self.models {
            let chosen = super::report::slug(&model.name, |slug| slugs.contains(&slug));
            if model.slug != chosen {
                return Err(format!(
                    "`{}` as the folder of {}, `{chosen}` is expected",
                    printable(&model.slug),
                    printable(&model.name)
                ));
            }
            slugs.push(&model.slug);
        }
        for task in &self.tasks {
            let known = super::tasks::all();
            if !known.iter().any(|known| known.name() == task.task) {
                return Err(format!("there is no task `{}`", printable(&task.task)));
            }
        }
        match self.shard {
            Some(shard) if shard.to_string().parse() != Ok(shard) => {
                Err(format!("there is no shard {shard}"))
            }
            _ => Ok(()),
        }
    }
}

/// The scores that a folder has of a model on a task, by item.
///
/// # Errors
/// They cannot be read.
pub fn read_items(
    folder: &Path,
    evaluation: &Evaluation,
    model: &ModelRecord,
    task: &TaskRecord,
) -> Result<BTreeMap<usize, ItemScore>> {
    let path = journal_path(folder, evaluation, model, task);
    match fs::read(&path) {
        Ok(bytes) => Ok(parse(&bytes).0),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// Scores in lines, up to one that a crash left unfinished; and how many bytes they take.
fn parse(bytes: &[u8]) -> (BTreeMap<usize, ItemScore>, usize) {
    let (mut items, mut sound) = (BTreeMap::new(), 0);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Ok(score) = serde_json::from_slice::<ItemScore>(line) else {
            break;
        };
        if line.last() != Some(&b'\n') || !score.is_sound() {
            break;
        }
        items.insert(score.item, score);
        sound += line.len();
    }
    (items, sound)
}

/// One score as a line.
fn line(score: &ItemScore) -> Vec<u8> {
    let mut line = serde_json::to_vec(score).expect("a score serializes");
    line.push(b'\n');
    line
}

/// A file of scores that grows.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// The scores that are there, by item.
    pub items: BTreeMap<usize, ItemScore>,
}

impl Journal {
    fn open(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let (items, sound) = parse(&bytes);
        file.set_len(sound as u64)
            .map_err(Error::io("write", &path))?;
        Ok(Self { path, file, items })
    }

    /// Adds scores.
    pub fn append(&mut self, scores: &[ItemScore]) -> Result<()> {
        durable::point("write", &self.path)?;
        let lines = scores.iter().flat_map(line).collect::<Vec<u8>>();
        let written = self.file.write_all(&lines);
        written.map_err(Error::io("write", &self.path))?;
        self.items
            .extend(scores.iter().map(|score| (score.item, score.clone())));
        Ok(())
    }

    /// Makes what was added survive a power cut.
    pub fn sync(&self) -> Result<()> {
        durable::point("sync", &self.path)?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }
}
