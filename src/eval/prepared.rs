//! Tasks made ready for a model: documents encoded, and scored pack by pack.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::dataset::{DataRecord, Dataset, Shots, select};
use super::encode::{Request, encode};
use super::engine::Engine;
use super::score::ItemScore;
use super::task::{Doc, Kind, Protocol, Selection, Shard, Task};
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::progress::{Meter, Unit};

/// What a task is and what it was asked of, without its items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its name.
    pub task: String,
    /// What it reads, as `--data` calls it.
    pub dataset: String,
    /// Where that is on the hub.
    pub repo: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Version of its prompts.
    pub version: String,
    /// What is made of its log-likelihoods.
    pub kind: Kind,
    /// Few-shot examples.
    pub shots: Option<Shots>,
    /// Its data.
    pub data: DataRecord,
    /// Items, by index, that were left out since one of the models cannot read a choice of
    /// theirs.
    pub unfit: Vec<usize>,
}

/// A task with its documents.
#[derive(Clone, Debug)]
pub struct LoadedTask {
    /// What it is.
    pub record: TaskRecord,
    chosen: Vec<Chosen>,
}

/// A document that is scored.
#[derive(Clone, Debug)]
struct Chosen {
    /// Its index in the data.
    item: usize,
    doc: Doc,
    /// Where it stands.
    place: String,
    /// Text before it: examples, or nothing.
    prefix: String,
}

impl LoadedTask {
    /// Chooses from a task's data.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn new(
        task: &dyn Task,
        data: Dataset,
        shots: Option<Shots>,
        selection: Selection,
    ) -> Result<Self> {
        let items = select(selection, data.docs.len())?.into_iter();
        let chosen = items.map(|item| Chosen {
            item,
            doc: data.docs[item].clone(),
            place: data.places[item].clone(),
            prefix: data.prefixes[item].clone(),
        });
        Ok(Self {
            chosen: chosen.collect(),
            record: TaskRecord {
                task: task.name(),
                dataset: task.dataset().to_owned(),
                repo: task.hub().repo.to_owned(),
                protocol: task.protocol(),
                version: task.version().to_owned(),
                kind: task.kind(),
                shots,
                data: data.record,
                unfit: Vec::new(),
            },
        })
    }

    /// What is scored of every item: context, with examples before it, and continuation of each
    /// choice.
    pub fn prompts(&self) -> impl Iterator<Item = impl Iterator<Item = (String, String)>> {
        self.chosen.iter().map(|Chosen { doc, prefix, .. }| {
            let pairs = doc.pairs.iter();
            pairs.map(move |(context, continuation)| {
                (format!("{prefix}{context}"), continuation.clone())
            })
        })
    }

    /// Whether no item is left.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Leaves out the items that a model of this tokenizer and length cannot read.
    ///
    /// # Errors
    /// The tokenizer lacks what a text without context begins with.
    pub fn leave_out_unfit(&mut self, tokenizer: &Tokenizer, n_positions: usize) -> Result<()> {
        self.check_beginning(tokenizer)?;
        let encoded = self.encode(tokenizer, n_positions);
        let mut encoded = encoded.iter();
        let unfit = &mut self.record.unfit;
        self.chosen.retain(|chosen| {
            let fits = encoded.next().is_some_and(Result::is_ok);
            if !fits {
                unfit.push(chosen.item);
            }
            fits
        });
        unfit.sort_unstable();
        Ok(())
    }

    /// Sees to it that texts without a context have something to begin with.
    fn check_beginning(&self, tokenizer: &Tokenizer) -> Result<()> {
        let is_bare = |doc: &Doc| {
            doc.pairs
                .iter()
                .any(|(context, _)| context.trim().is_empty())
        };
        if self.chosen.iter().any(|chosen| is_bare(&chosen.doc)) {
            tokenizer.prefix()?;
        }
        Ok(())
    }

    fn encode(&self, tokenizer: &Tokenizer, n_positions: usize) -> Vec<Result<Request>> {
        let protocol = self.record.protocol;
        let requests = self.chosen.par_iter().map(|chosen| {
            let Chosen { doc, prefix, .. } = chosen;
            encode(doc, prefix, protocol, tokenizer, n_positions).map_err(|message| {
                Error::invalid(&chosen.place, message).with_hint(
                    "--skip-bad leaves such items out for all models and counts them, \
                         in the recipe of a run eval.skip_bad = true",
                )
            })
        });
        requests.collect()
    }

    /// Encodes the documents for models of this tokenizer and length.
    ///
    /// # Errors
    /// A choice does not fit the model.
    pub fn prepare(&self, tokenizer: &Tokenizer, n_positions: usize) -> Result<PreparedTask> {
        self.check_beginning(tokenizer)?;
        let encoded = self.encode(tokenizer, n_positions);
        let requests = encoded.into_iter().collect::<Result<Vec<Request>>>()?;
        let blank = |(Chosen { item, doc, .. }, request): (&Chosen, &Request)| ItemScore {
            item: *item,
            gold: doc.gold,
            loglik: Vec::new(),
            greedy: Vec::new(),
            tokens: request.sequences.iter().map(|s| s.scored).collect(),
            chars: doc.chars.clone(),
            truncated: request.truncated,
            groups: doc
                .groups
                .iter()
                .map(|(by, group)| ((*by).to_owned(), group.clone()))
                .collect::<BTreeMap<_, _>>(),
        };
        Ok(PreparedTask {
            record: self.record.clone(),
            blanks: self.chosen.iter().zip(&requests).map(blank).collect(),
            requests,
        })
    }
}

/// A task encoded for one kind of model.
#[derive(Clone, Debug)]
pub struct PreparedTask {
    /// What it is.
    pub record: TaskRecord,
    requests: Vec<Request>,
    /// Scores that lack the log-likelihoods.
    blanks: Vec<ItemScore>,
}

impl PreparedTask {
    /// What tells it from others: the task, its data, and which items of it.
    pub fn identity(&self) -> String {
        let items: Vec<usize> = self.blanks.iter().map(|blank| blank.item).collect();
        format!("{:?} {items:?}", self.record)
    }

    /// Scores the items that `wanted` picks by their index in the data, in order, and hands them
    /// to `keep` pack by pack.
    ///
    /// # Errors
    /// `keep` fails, or a signal arrived.
    pub fn score(
        &self,
        engine: &Engine,
        wanted: &dyn Fn(usize) -> bool,
        keep: &mut dyn FnMut(&[ItemScore]) -> Result<()>,
    ) -> Result<()> {
        let blanks = self.blanks.iter().zip(&self.requests);
        let (blanks, requests): (Vec<_>, Vec<_>) =
            blanks.filter(|(blank, _)| wanted(blank.item)).unzip();
        let meter = Meter::new(&self.record.task, requests.len() as u64, Unit::Count);
        let mut done = 0;
        while done < requests.len() {
            interrupt::check("not all items are scored")?;
            let count = engine.pack_len(&requests[done..]);
            let found = engine.score(&requests[done..done + count])?;
            let scores = blanks[done..done + count].iter().zip(&found);
            let scores: Vec<ItemScore> = scores
                .map(|(&blank, found)| {
                    let mut score = blank.clone();
                    score.set(found);
                    score
                })
                .collect();
            if let Some(score) = scores.iter().find(|score| !score.is_sound()) {
                let at = format!("{}, item {}", self.record.task, score.item);
                return Err(Error::invalid(at, "a log-likelihood is not finite")
                    .with_hint("the model's weights or states are not: leave it out"));
            }
            keep(&scores)?;
            meter.advance(count as u64);
            done += count;
        }
        Ok(())
    }

    /// Scores all items.
    ///
    /// # Errors
    /// A signal arrived.
    pub fn score_all(&self, engine: &Engine) -> Result<Vec<ItemScore>> {
        let mut all = Vec::with_capacity(self.requests.len());
        self.score(engine, &|_| true, &mut |scores| {
            all.extend_from_slice(scores);
            Ok(())
        })?;
        Ok(all)
    }

    /// Tokens that scoring all items computes.
    pub fn tokens(&self, engine: &Engine) -> u64 {
        let tokens = self.requests.iter().map(|r| engine.tokens_of(r) as u64);
        tokens.sum()
    }
}

/// Whether an item is of a shard; of no shard, always.
pub fn of_shard(shard: Option<Shard>, item: usize) -> bool {
    shard.is_none_or(|shard| shard.has(item))
}
