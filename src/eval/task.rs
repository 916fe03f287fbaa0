//! What a task is: from records to texts to be scored.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::rows::Row;
use super::tasks;
use crate::error::{Error, did_you_mean};

/// How a task's texts become tokens, and what its normalised accuracy divides by. Scores of
/// different protocols differ by one to two points on the same model and are never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// lm-evaluation-harness: context and continuation are encoded as one text and split where
    /// the context's tokens end; `acc_norm` divides by the characters of the continuation.
    Harness,
    /// karpathy/build-nanogpt `hellaswag.py`, also that of the code of arXiv 2411.18700:
    /// encoded apart; `acc_norm` divides by the tokens of the continuation.
    Completion,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Harness => "harness",
            Self::Completion => "completion",
        })
    }
}

/// What is made of the log-likelihoods of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One of several is right: `acc`.
    Choice,
    /// The same, and normalised by length: `acc`, `acc_norm`.
    ChoiceNorm,
    /// One continuation: its perplexity, and `acc`, whether it is what the model would say.
    Cloze,
}

/// One question, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doc {
    /// Context and continuation of every choice.
    pub pairs: Vec<(String, String)>,
    /// Characters of every choice, which `acc_norm` of the harness divides by.
    pub chars: Vec<usize>,
    /// Index of the right one.
    pub gold: usize,
    /// What scores are also counted by: name and value.
    pub groups: Vec<(&'static str, String)>,
}

impl Doc {
    /// The same context before each of `choices`, with a blank between.
    pub fn choices(context: String, choices: Vec<String>, gold: usize) -> Self {
        Self {
            chars: choices
                .iter()
                .map(|choice| choice.chars().count())
                .collect(),
            pairs: choices
                .into_iter()
                .map(|choice| (context.clone(), format!(" {choice}")))
                .collect(),
            gold,
            groups: Vec::new(),
        }
    }

    /// The document with its answer, as an example before others.
    pub fn example(&self) -> String {
        let (context, continuation) = &self.pairs[self.gold];
        format!("{context}{continuation}")
    }
}

/// Where a task's records come from on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubData {
    /// `org/name` of the dataset.
    pub repo: &'static str,
    /// The folder of the configuration, if it has several.
    pub config: Option<&'static str>,
    /// The split that is scored.
    pub split: &'static str,
    /// The split that examples are taken from; the one that is scored where there is no other.
    pub examples: Option<&'static str>,
    /// Whether an item is left out of its own examples. lm-evaluation-harness 0.4.13 does that
    /// for tasks without a test split.
    pub drops_itself: bool,
}

/// A set that is known in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownSet {
    /// Items.
    pub count: usize,
    /// SHA-256 over the items of copies that were seen, see [`super::dataset`], and what they are.
    pub sha256: Vec<(&'static str, &'static str)>,
}

/// A way to question a model. One file each in [`super::tasks`].
pub trait Task: fmt::Debug + Send + Sync {
    /// Its name, that of lm-evaluation-harness where that has it.
    fn name(&self) -> String;

    /// The data that it reads: what `--data` calls it.
    fn dataset(&self) -> &'static str;

    /// How its texts become tokens.
    fn protocol(&self) -> Protocol {
        Protocol::Harness
    }

    /// Version of the prompts.
    fn version(&self) -> &'static str {
        "1.0"
    }

    /// What is made of the log-likelihoods.
    fn kind(&self) -> Kind;

    /// Where the data is on the hub.
    fn hub(&self) -> HubData;

    /// The full set.
    fn known(&self) -> KnownSet;

    /// Which file of a folder it reads; any data file where it says nothing.
    fn file_stem(&self) -> Option<&str> {
        None
    }

    /// Whether examples may stand before the question.
    fn takes_examples(&self) -> bool {
        true
    }

    /// A document with its answer, as an example before others.
    fn example(&self, doc: &Doc) -> String {
        doc.example()
    }

    /// The question that a record holds.
    ///
    /// # Errors
    /// What is wrong with the record.
    fn doc(&self, row: &Row) -> Result<Doc, String>;
}

/// The tasks that names mean; `blimp` means all of its paradigms.
///
/// # Errors
/// A usage error that lists what there is.
pub fn tasks_named(name: &str) -> Result<Vec<Box<dyn Task>>, Error> {
    let all = tasks::all();
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|task| task.name() == name || group_of(&task.name()) == Some(name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<String> = tasks::all().iter().map(|task| task.name()).collect();
        let nearest = did_you_mean(name, names.iter().map(String::as_str));
        let listed: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| group_of(name).is_none())
            .chain([tasks::blimp::GROUP])
            .collect();
        let error = Error::usage(format!(
            "there is no task `{}`; there are {}, and blimp's paradigms by name",
            crate::error::printable(name),
            listed.join(", ")
        ));
        return Err(match nearest {
            Some(nearest) => error.with_hint(format!("did you mean `{nearest}`?")),
            None => error,
        });
    }
    Ok(chosen)
}

/// The group that a task is a part of.
pub fn group_of(task: &str) -> Option<&'static str> {
    let rest = task.strip_prefix(tasks::blimp::GROUP)?;
    rest.starts_with('_').then_some(tasks::blimp::GROUP)
}

/// The group that a task is a part of, where all of it is among `tasks`: a few of its members
/// are not to be taken for it.
pub fn whole_group_of<'a>(
    task: &str,
    tasks: impl Iterator<Item = &'a str>,
) -> Option<&'static str> {
    let group = group_of(task)?;
    let members = tasks.filter(|task| group_of(task) == Some(group)).count();
    (members == tasks::blimp::PARADIGMS.len()).then_some(group)
}

/// A choice of items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// So many items; all unless given.
    pub limit: Option<usize>,
    /// Drawn with this seed, rather than the first.
    pub sample_seed: Option<u64>,
}

/// More machines than anybody has.
const MAX_SHARDS: usize = 65_536;

/// One of several machines that share an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Which, from 1.
    pub number: usize,
    /// Of how many.
    pub of: usize,
}

impl Shard {
    /// Whether it is to score the item of this index.
    pub fn has(self, item: usize) -> bool {
        item % self.of == self.number - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('/')
            .and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parsed {
            Some((number, of)) if 1 <= number && number <= of && of <= MAX_SHARDS => {
                Ok(Self { number, of })
            }
            _ => Err(format!("`{text}` is not i/n with 1 ≤ i ≤ n ≤ {MAX_SHARDS}")),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}
