//! The documents of a task: found, read, checked against the known set, chosen from.

use std::path::{Path, PathBuf};

use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::python::Random;
use super::rows::{self, BadRows};
use super::task::{Doc, HubData, Selection, Task};
use super::tasks;
use crate::checkpoint::hex;
use crate::checkpoint::hub::{DatasetRef, HubConfig, Progress, fetch_files};
use crate::data::address;
use crate::data::format::{ARROW_HINT, parts};
use crate::data::listing::Listing;
use crate::error::{Error, Result};

/// Endings of files that hold records, and those of a compression after them, in the order in
/// which they are looked for.
const DATA_ENDINGS: [&str; 5] = [".jsonl", ".parquet", ".txt", ".json", ".ndjson"];
const COMPRESSIONS: [&str; 4] = ["", ".gz", ".zst", ".bz2"];

/// The configuration of a dataset that has languages beside; its folder may be called `data`.
const DEFAULT_CONFIG: &str = "default";

/// Where a task's data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, or a folder with one.
    Path(PathBuf),
    /// The hub.
    Hub,
}

/// Few-shot examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shots {
    /// How many before every question.
    pub count: usize,
    /// Seed of the choice among them; that of lm-evaluation-harness is 1234.
    pub seed: u64,
}

/// Documents of a task, in the order of their file.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The documents.
    pub docs: Vec<Doc>,
    /// Where each stands.
    pub places: Vec<String>,
    /// Text before each: examples, or nothing.
    pub prefixes: Vec<String>,
    /// What is known of the data.
    pub record: DataRecord,
}

/// What is known of a task's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRecord {
    /// Documents that were read.
    pub count: usize,
    /// Documents of the full set.
    pub full: usize,
    /// SHA-256 over the documents: the texts that are scored and the right answers, as JSON, in
    /// order. It does not depend on the form of the file.
    pub sha256: String,
    /// Which known copy it is, if it is one.
    pub known: Option<String>,
    /// Records left out as bad.
    pub skipped: u64,
    /// SHA-256 over the examples, where there are any.
    pub examples_sha256: Option<String>,
    /// SHA-256 over what the documents are also counted by, where they are.
    pub groups_sha256: Option<String>,
}

impl DataRecord {
    /// What the data is, in words.
    pub fn describe(&self) -> String {
        let Self { count, full, .. } = *self;
        let known = self.known.as_deref();
        let what = if count == full {
            known.map_or_else(
                || "as many as the full set, content not among the copies on record".to_owned(),
                |known| format!("the full set, {known}"),
            )
        } else if count < full {
            format!("a subset of {full}")
        } else {
            format!("more than the {full} of the full set")
        };
        let skipped = match self.skipped {
            0 => String::new(),
            n => format!(", {n} bad left out"),
        };
        format!("{what}{skipped}; sha256 {}", &self.sha256[..12])
    }
}

/// Access to the hub, where it is needed.
pub struct Hub<'a> {
    /// Its configuration.
    pub config: &'a dyn Fn() -> Result<HubConfig>,
    /// Told of downloads.
    pub progress: &'a dyn Progress,
}

/// Reads a task's documents.
///
/// # Errors
/// There is no such data, or some of it is bad and `skip_bad` is not set.
pub fn load(
    task: &dyn Task,
    source: &Source,
    examples: Option<&Source>,
    shots: Option<Shots>,
    skip_bad: bool,
    hub: &Hub,
) -> Result<Dataset> {
    let mut bad = BadRows {
        skip: skip_bad,
        skipped: 0,
    };
    let data = task.hub();
    let (docs, places) = read(task, source, data.split, &mut bad, hub)?;
    let mut record = DataRecord {
        count: docs.len(),
        full: task.known().count,
        sha256: sha256(&docs),
        known: None,
        skipped: bad.skipped,
        examples_sha256: None,
        groups_sha256: groups_sha256(&docs),
    };
    let known = task.known().sha256;
    let known = known.iter().find(|(sha256, _)| *sha256 == record.sha256);
    record.known = known.map(|(_, what)| (*what).to_owned());
    refuse_other_set(task, source, &record.sha256)?;
    let mut prefixes = vec![String::new(); docs.len()];
    if let Some(shots) = shots {
        if !task.takes_examples() {
            let message = format!("{} is scored without examples", task.name());
            return Err(Error::usage(message).with_hint("leave --num-fewshot away"));
        }
        let pool = match (data.examples, examples) {
            (None, _) => docs.clone(),
            (Some(split), Some(source)) => read(task, source, split, &mut bad, hub)?.0,
            (Some(split), None) if *source == Source::Hub => {
                read(task, source, split, &mut bad, hub)?.0
            }
            (Some(split), None) => {
                let (name, dataset) = (task.name(), task.dataset());
                let message = format!("{name}: no examples to put before the questions");
                return Err(Error::usage(message).with_hint(format!(
                    "give --fewshot-data {dataset}=FILE with its {split} split"
                )));
            }
        };
        record.examples_sha256 = Some(sha256(&pool));
        record.skipped = bad.skipped;
        prefixes = example_texts(task, &docs, &pool, shots)?;
    }
    Ok(Dataset {
        docs,
        places,
        prefixes,
        record,
    })
}

/// Refuses what is known to be the full set of another task.
fn refuse_other_set(task: &dyn Task, source: &Source, sha256: &str) -> Result<()> {
    let is_other = |other: &dyn Task| {
        let mut known = other.known().sha256.into_iter();
        other.dataset() != task.dataset() && known.any(|(known, _)| known == sha256)
    };
    let other = tasks::all().into_iter().find(|other| is_other(&**other));
    let (Source::Path(path), Some(other)) = (source, other) else {
        return Ok(());
    };
    let message = format!("this is the data of {}", other.name());
    Err(Error::invalid(path.display(), message).with_hint(format!("give {} its own", task.name())))
}

fn sha256(docs: &[Doc]) -> String {
    let mut hasher = Sha256::new();
    for doc in docs {
        let line = serde_json::to_vec(&(&doc.pairs, doc.gold)).expect("texts serialize");
        hasher.update(&line);
        hasher.update(b"\n");
    }
    hex(&hasher.finalize())
}

fn groups_sha256(docs: &[Doc]) -> Option<String> {
    docs.iter().any(|doc| !doc.groups.is_empty()).then(|| {
        let groups: Vec<_> = docs.iter().map(|doc| &doc.groups).collect();
        hex(&Sha256::digest(format!("{groups:?}")))
    })
}

type Placed = (Vec<Doc>, Vec<String>);

fn read(
    task: &dyn Task,
    source: &Source,
    split: &str,
    bad: &mut BadRows,
    hub: &Hub,
) -> Result<Placed> {
    let files = match source {
        Source::Path(path) => files_of(task, path, split)?,
        Source::Hub => fetch(task.hub(), split, hub)?,
    };
    let (mut docs, mut places) = (Vec::new(), Vec::new());
    for file in &files {
        for row in rows::read(file, bad)? {
            match task.doc(&row) {
                Ok(doc) => {
                    docs.push(doc);
                    places.push(row.at);
                }
                Err(message) => bad.meet_row(&row, message, |row| task.doc(row).is_ok())?,
            }
        }
    }
    if docs.is_empty() {
        let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        return Err(Error::invalid(files.join(", "), "no items there"));
    }
    Ok((docs, places))
}

/// The files that a path means for a task: itself; or of a folder the one that has the name of
/// the task or of its data, else those that have the name of the split, as exports have.
fn files_of(task: &dyn Task, path: &Path, split: &str) -> Result<Vec<PathBuf>> {
    let name = task.dataset();
    address::refuse(path, |_| {
        format!("leave --data {name} away to have it fetched, or download its file and name that")
    })?;
    if !path.exists() {
        return Err(address::missing(path));
    }
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let task_name = task.name();
    let stems = match task.file_stem() {
        Some(stem) => vec![stem],
        None => vec![task_name.as_str(), name],
    };
    let endings = || {
        DATA_ENDINGS
            .iter()
            .flat_map(|e| COMPRESSIONS.map(|c| format!("{e}{c}")))
    };
    let mut files = stems
        .iter()
        .flat_map(|stem| endings().map(move |ending| path.join(format!("{stem}{ending}"))));
    if let Some(file) = files.find(|file| file.is_file()) {
        return Ok(vec![file]);
    }
    let listing = Listing::of(path, true, &|_| true)?;
    let of_split = split_files(&listing, path, task.hub().config, split);
    if !of_split.is_empty() {
        return Ok(of_split);
    }
    let arrow = listing
        .files()
        .find(|file| file.extension().is_some_and(|e| e == "arrow"));
    let stem = stems[0];
    Err(match arrow {
        Some(_) => Error::invalid(
            path.display(),
            "a folder of Arrow tables, which are not read",
        )
        .with_hint(ARROW_HINT),
        None => Error::invalid(
            path.display(),
            format!(
                "no {stem}.jsonl, .parquet or .txt in that folder, and none of its {split} split"
            ),
        )
        .with_hint(format!(
            "--data {name} names a file, or a folder with that one"
        )),
    })
}

/// The files of a split below a folder, of the first ending that there are any of.
fn split_files(listing: &Listing, dir: &Path, config: Option<&str>, split: &str) -> Vec<PathBuf> {
    let own = dir.file_name().unwrap_or_default().to_string_lossy();
    let names: &[&str] = match split {
        "validation" => &["validation", "valid", "val", "dev"],
        split => &[split],
    };
    let is_of = |file: &&Path| {
        let below = file.strip_prefix(dir).unwrap_or(file);
        let (folders, name) = (below.parent().unwrap_or(below), below.file_name());
        let Some((stem, _)) = name.and_then(|name| parts(name.to_str()?)) else {
            return false;
        };
        // A folder that has no others is that of the configuration, whatever it is called.
        let config = config.filter(|_| !folders.as_os_str().is_empty());
        let folders = format!("{own}/{}", folders.display());
        names
            .iter()
            .any(|split| is_of(stem, &folders, config, split))
    };
    let mut files: Vec<&Path> = listing.files().filter(is_of).collect();
    let ending = |file: &Path| {
        let name = file.file_name()?.to_str()?;
        parts(name).map(|(_, ending)| ending.to_owned())
    };
    let first = files.first().and_then(|file| ending(file));
    files.retain(|file| ending(file) == first);
    files.into_iter().map(Path::to_owned).collect()
}

/// The files of a split.
fn fetch(data: HubData, split: &str, hub: &Hub) -> Result<Vec<PathBuf>> {
    let dataset = DatasetRef {
        repo: data.repo.to_owned(),
        revision: None,
        path: String::new(),
    };
    let folder = data.config.filter(|&config| config != DEFAULT_CONFIG);
    fetch_files(
        &dataset,
        folder.unwrap_or_default(),
        &|name| is_of_split(name, data.config, split),
        &(hub.config)()?,
        hub.progress,
    )
}

/// Whether a file of a dataset is one of a split's: `validation-00000-of-00001.parquet`,
/// `validation/0000.parquet` or `lambada_test.jsonl`, in the configuration's folder if there is
/// one.
fn is_of_split(name: &str, config: Option<&str>, split: &str) -> bool {
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
    let stem = [".parquet", ".jsonl"]
        .iter()
        .find_map(|ending| file.strip_suffix(ending));
    stem.is_some_and(|stem| is_of(stem, folders, config, split))
}

/// The same of a name without its ending, in `folders`.
fn is_of(stem: &str, folders: &str, config: Option<&str>, split: &str) -> bool {
    let has_folder = |wanted: &str| folders.split('/').any(|folder| folder == wanted);
    let of_config = config.is_none_or(|config| {
        has_folder(config) || (config == DEFAULT_CONFIG && has_folder("data"))
    });
    // The last word that is no number of a part.
    let is_number = |word: &&str| *word == "of" || word.bytes().all(|b| b.is_ascii_digit());
    let word = stem.rsplit(['-', '_']).find(|word| !is_number(word));
    of_config && word.map_or_else(|| has_folder(split), |word| word == split)
}

/// The examples before every document, as lm-evaluation-harness 0.4.13 draws them: one sample
/// for each document in turn, from one stream of random numbers.
fn example_texts(task: &dyn Task, docs: &[Doc], pool: &[Doc], shots: Shots) -> Result<Vec<String>> {
    let drops_itself = task.hub().drops_itself;
    // One more, where the item itself may be among them and is left out.
    let drawn = shots.count + usize::from(drops_itself);
    if pool.len() < drawn {
        let (count, name) = (pool.len(), task.name());
        let message = format!("{name}: {count} examples to draw {drawn} from");
        return Err(Error::usage(message).with_hint("lower --num-fewshot"));
    }
    let mut random = Random::new(shots.seed);
    let texts = docs.iter().map(|doc| {
        let is_other = |i: &usize| !drops_itself || pool[*i] != *doc;
        let mut chosen = random.sample(pool.len(), drawn);
        chosen.retain(is_other);
        if chosen.len() < shots.count {
            // The pool has the item several times, and more than one of them was drawn.
            let others: Vec<usize> = (0..pool.len()).filter(is_other).collect();
            let again = random.sample(others.len(), shots.count.min(others.len()));
            chosen = again.into_iter().map(|i| others[i]).collect();
        }
        let examples = chosen.into_iter().take(shots.count);
        examples.map(|i| task.example(&pool[i]) + "\n\n").collect()
    });
    Ok(texts.collect())
}

/// Indices of the documents that a selection means, in order.
///
/// # Errors
/// It means none.
pub fn select(selection: Selection, count: usize) -> Result<Vec<usize>> {
    let limit = selection.limit.unwrap_or(count).min(count);
    if limit == 0 {
        return Err(Error::usage("no items are left to score"));
    }
    let Some(seed) = selection.sample_seed else {
        return Ok((0..limit).collect());
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen = index::sample(&mut random, count, limit).into_vec();
    chosen.sort_unstable();
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_split_are_told_by_their_names() {
        for (name, config, split, wanted) in [
            (
                "data/validation-00000-of-00001.parquet",
                None,
                "validation",
                true,
            ),
            (
                "data/train-00000-of-00001.parquet",
                None,
                "validation",
                false,
            ),
            ("default/validation/0000.parquet", None, "validation", true),
            (
                "ARC-Easy/test-00000-of-00001.parquet",
                Some("ARC-Easy"),
                "test",
                true,
            ),
            (
                "ARC-Challenge/test-00000-of-00001.parquet",
                Some("ARC-Easy"),
                "test",
                false,
            ),
            ("data/lambada_test.jsonl", Some("default"), "test", true),
            ("data/lambada_test_de.jsonl", Some("default"), "test", false),
            (
                "default/test-00000-of-00001.parquet",
                Some("default"),
                "test",
                true,
            ),
            (
                "de/test-00000-of-00001.parquet",
                Some("default"),
                "test",
                false,
            ),
            ("README.md", None, "test", false),
        ] {
            assert_eq!(is_of_split(name, config, split), wanted, "{name}");
        }
    }

    #[test]
    fn selections_are_in_order_and_repeatable() {
        let drawn = Selection {
            limit: Some(5),
            sample_seed: Some(7),
        };
        let items = select(drawn, 100).unwrap();
        assert!(items.len() == 5 && items.is_sorted());
        assert_eq!(items, select(drawn, 100).unwrap());
        assert_eq!(select(Selection::default(), 3).unwrap(), [0, 1, 2]);
    }
}
