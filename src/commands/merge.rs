//! `scale-ckpt merge`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use scale_ckpt::Result;
use scale_ckpt::error::Error;
use scale_ckpt::eval::folder::{Evaluation, Folder, Outcome, read_evaluation, read_items};
use scale_ckpt::eval::report;

use super::family::show;

/// Join the shards of an evaluation: what comes out is what one machine alone would have found.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folders of `eval --shard 1/n` to `n/n`.
    #[arg(required = true)]
    shards: Vec<PathBuf>,
    /// The folder of the result.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
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
        let whole = self.whole(&evaluations)?;
        let folder = Folder::open(&self.out)?;
        folder.announce(&whole)?;
        let outcome = Outcome::gather(whole.clone(), &|model, task| {
            let mut found = BTreeMap::new();
            for shard in &self.shards {
                found.extend(read_items(shard, &whole, model, task)?);
            }
            let items = whole.items(task)?.into_iter().map(|item| {
                found.get(&item).cloned().ok_or_else(|| {
                    let message = format!("{}: no score of item {item}", task.task);
                    Error::invalid(&model.name, message)
                        .with_hint("a shard was not finished: run it again")
                })
            });
            let items = items.collect::<Result<Vec<_>>>()?;
            let mut journal = folder.journal(&whole, model, task)?;
            let known = journal.items.clone();
            let new = items
                .iter()
                .filter(|score| !known.contains_key(&score.item));
            journal.append(&new.cloned().collect::<Vec<_>>())?;
            journal.sync()?;
            Ok(items)
        })?;
        report::write(&outcome, folder.path())?;
        show(&outcome, self.json)
    }

    /// The evaluation that the shards are parts of.
    fn whole(&self, evaluations: &[Evaluation]) -> Result<Evaluation> {
        let whole = |evaluation: &Evaluation| Evaluation {
            shard: None,
            ..evaluation.clone()
        };
        let first = whole(&evaluations[0]);
        let mut seen = BTreeMap::new();
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
            seen.insert(shard.number, shard.of);
        }
        let of = evaluations[0].shard.map_or(1, |shard| shard.of);
        let missing: Vec<String> = (1..=of)
            .filter(|number| seen.get(number) != Some(&of))
            .map(|number| format!("{number}/{of}"))
            .collect();
        if !missing.is_empty() || seen.len() != of {
            return Err(Error::usage(format!(
                "of {of} shards, these are missing: {}",
                missing.join(", ")
            )));
        }
        Ok(first)
    }
}

/// What two evaluations differ in.
fn difference(a: &Evaluation, b: &Evaluation) -> Option<&'static str> {
    [
        ("models", a.models != b.models),
        ("tasks or data", a.tasks != b.tasks),
        ("items", a.selection != b.selection),
        ("devices", (&a.device, &a.dtype) != (&b.device, &b.dtype)),
        ("tool versions", a.tool_version != b.tool_version),
    ]
    .into_iter()
    .find_map(|(what, differs)| differs.then_some(what))
}
