//! `scale-ckpt merge`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::error::{Error, counted};
use scale_ckpt::eval::folder::{
    Evaluation, Folder, ModelRecord, Outcome, read_evaluation, read_items,
};
use scale_ckpt::eval::prepared::TaskRecord;
use scale_ckpt::eval::score::ItemScore;

use super::family::{show, write};

/// Missing shards that are named.
const MAX_NAMED: usize = 10;

/// Join the shards of an evaluation: what comes out is what one machine alone would have found.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folders of `eval --shard 1/n` to `n/n`.
    #[arg(required = true)]
    shards: Vec<PathBuf>,
    /// The folder of the result.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The model to compare the others with; the one of `eval --baseline` unless given.
    #[arg(long, value_name = "MODEL")]
    baseline: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let mut evaluations = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            evaluations.push(read_evaluation(shard)?);
        }
        let mut whole = self.whole(&evaluations)?;
        if let Some(name) = &self.baseline {
            whole.baseline = Some(name.clone());
            if whole.models.iter().all(|model| model.name != *name) {
                let names: Vec<&str> = whole.models.iter().map(|m| m.name.as_str()).collect();
                let message = format!("--baseline {name}: no model is called that");
                return Err(
                    Error::usage(message).with_hint(format!("there are {}", names.join(", ")))
                );
            }
        }
        self.check_out()?;
        let models = whole.models.iter().map(|model| {
            let tasks = whole
                .tasks
                .iter()
                .map(|task| self.items(&whole, model, task));
            tasks.collect::<Result<Vec<_>>>()
        });
        let outcome = Outcome::new(whole.clone(), models.collect::<Result<_>>()?, &[]);
        let folder = Folder::open(&self.out)?;
        folder.announce(&whole)?;
        for model in &outcome.models {
            for (task, (_, items)) in whole.tasks.iter().zip(&model.tasks) {
                let mut journal = folder.journal(&whole, &model.record, task)?;
                let is_new = |score: &&ItemScore| !journal.items.contains_key(&score.item);
                let new: Vec<ItemScore> = items.iter().filter(is_new).cloned().collect();
                journal.append(&new)?;
                journal.sync()?;
            }
        }
        write(&outcome, folder.path())?;
        show(&outcome, self.json)
    }

    /// A shard stays what it is.
    fn check_out(&self) -> Result<()> {
        let same = |a: &Path, b: &Path| {
            let [a, b] = [a, b].map(|path| path.canonicalize().ok());
            a.is_some() && a == b
        };
        if self.shards.iter().any(|shard| same(shard, &self.out)) {
            let out = self.out.display();
            return Err(Error::usage(format!("--out {out} is one of the shards"))
                .with_hint("name another folder"));
        }
        Ok(())
    }

    /// The scores of a model on a task, from all shards.
    fn items(
        &self,
        whole: &Evaluation,
        model: &ModelRecord,
        task: &TaskRecord,
    ) -> Result<Vec<ItemScore>> {
        let mut found = BTreeMap::new();
        for shard in &self.shards {
            for (item, score) in read_items(shard, whole, model, task)? {
                if found.get(&item).is_some_and(|other| *other != score) {
                    let message = format!("{}: another score of item {item}", task.task);
                    let at = format!("{}, {}", shard.display(), model.name);
                    return Err(Error::invalid(at, message)
                        .with_hint("one of the shards is damaged: run it again"));
                }
                found.insert(item, score);
            }
        }
        let items = whole.items(task)?.into_iter().map(|item| {
            found.remove(&item).ok_or_else(|| {
                let message = format!("{}: no score of item {item}", task.task);
                Error::invalid(&model.name, message)
                    .with_hint("a shard was not finished, or its file is damaged: run it again")
            })
        });
        items.collect()
    }

    /// The evaluation that the shards are parts of.
    fn whole(&self, evaluations: &[Evaluation]) -> Result<Evaluation> {
        let whole = |evaluation: &Evaluation| Evaluation {
            shard: None,
            ..evaluation.clone()
        };
        let first = whole(&evaluations[0]);
        let of = evaluations[0].shard.map_or(1, |shard| shard.of);
        let mut seen = BTreeSet::new();
        for (path, evaluation) in self.shards.iter().zip(evaluations) {
            let at = path.display().to_string();
            let shard = evaluation
                .shard
                .ok_or_else(|| Error::invalid(&at, "a whole evaluation, not a shard of one"))?;
            if let Some(what) = difference(&first, &whole(evaluation)) {
                let other = self.shards[0].display();
                let message = format!("another evaluation than {other}: its {what} differ");
                return Err(Error::invalid(at, message));
            }
            if shard.of != of {
                let message = format!("shard {shard}, beside shards of {of}");
                return Err(Error::invalid(at, message));
            }
            seen.insert(shard.number);
        }
        let missing: Vec<String> = (1..=of)
            .filter(|number| !seen.contains(number))
            .take(MAX_NAMED)
            .map(|number| format!("{number}/{of}"))
            .collect();
        if !missing.is_empty() {
            let (count, missing) = (of - seen.len(), missing.join(", "));
            let shards = counted(of, "shard", "shards");
            let message = format!("{count} of {shards} missing: {missing}");
            return Err(Error::usage(message));
        }
        Ok(first)
    }
}

/// What two evaluations differ in.
fn difference(a: &Evaluation, b: &Evaluation) -> Option<&'static str> {
    [
        ("models", a.models != b.models),
        ("baselines", a.baseline != b.baseline),
        ("tasks or data", a.tasks != b.tasks),
        ("items", a.selection != b.selection),
        (
            "devices or ways of scoring",
            (&a.device, &a.dtype, a.plain) != (&b.device, &b.dtype, b.plain),
        ),
        ("tool versions", a.tool_version != b.tool_version),
    ]
    .into_iter()
    .find_map(|(what, differs)| differs.then_some(what))
}
