//! Scoring a family of checkpoints.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use scale_ckpt::checkpoint::{Checkpoint, hex, layout};
use scale_ckpt::data::{Split, Tokenizer, Tokens};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::eval::dataset::DataRecord;
use scale_ckpt::eval::engine::Engine;
use scale_ckpt::eval::folder::{Evaluation, Folder, ModelRecord, Outcome};
use scale_ckpt::eval::loss::{TextLoss, Windows, text_loss};
use scale_ckpt::eval::prepared::{LoadedTask, PreparedTask, of_shard};
use scale_ckpt::eval::published;
use scale_ckpt::eval::report;
use scale_ckpt::eval::score::ItemScore;
use scale_ckpt::eval::task::{Shard, group_of};
use scale_ckpt::model::Gpt2;
use scale_ckpt::progress::eprint_line;
use scale_ckpt::{Result, VERSION};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::scores::{Row, render, render_comparisons};
use super::shared::{load_model, open, print, print_json, thousands, tokenizer};
use super::tasks::TaskChoice;

/// Checkpoints, and what they are scored on.
pub struct Family {
    /// Checkpoints and globs of them.
    pub models: Vec<String>,
    /// Tasks.
    pub tasks: TaskChoice,
    /// The part of the items that is scored here.
    pub shard: Option<Shard>,
    /// Where results and items' scores are kept.
    pub out: Option<PathBuf>,
    /// Text for loss and perplexity.
    pub val: Vec<PathBuf>,
    /// Tokens of it at most.
    pub val_tokens: Option<u64>,
    /// Tokens per window.
    pub context: Option<usize>,
    /// Tokens from one window to the next.
    pub stride: Option<usize>,
    /// Whether choices share their context.
    pub share: bool,
    /// Where to compute.
    pub device: DeviceSpec,
}

/// A checkpoint that is to be scored.
struct Member {
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    record: ModelRecord,
}

impl Family {
    /// Finds what cannot be meant before anything is read.
    pub fn check(&self) -> Result<()> {
        if self.models.is_empty() {
            return Err(Error::usage("no checkpoint to score").with_hint(
                "name hub ids, folders or files, or a recipe that does; see eval --help",
            ));
        }
        if self.val.is_empty() && self.tasks.names.is_empty() {
            return Err(Error::usage("nothing to score on")
                .with_hint("give --tasks hellaswag, --val PATH, or both"));
        }
        if self.shard.is_some() && !self.val.is_empty() {
            return Err(Error::usage("a text is not shared out among shards")
                .with_hint("leave --val to a run without --shard"));
        }
        self.tasks.find().map(drop)
    }

    /// Scores all checkpoints on everything.
    pub fn score(&self) -> Result<Outcome> {
        let device = self.device.open()?;
        let mut tasks = self.tasks.load()?;
        describe(&tasks);
        let members = self.members()?;
        if self.tasks.skip_bad {
            for task in &mut tasks {
                leave_out_unfit(task, &members)?;
            }
        }
        let mut evaluation = Evaluation {
            schema: 1,
            tool_version: VERSION.to_owned(),
            device: self.device.kind().to_owned(),
            dtype: "float32".to_owned(),
            models: members.iter().map(|m| m.record.clone()).collect(),
            tasks: tasks.iter().map(|task| task.record.clone()).collect(),
            selection: self.tasks.selection,
            shard: self.shard,
            texts: Vec::new(),
        };
        let folder = self.out.as_deref().map(Folder::open).transpose()?;
        if let Some(folder) = &folder {
            folder.announce(&evaluation)?;
        }
        let prepared = PreparedTasks::new(&tasks, &members)?;
        let mut scored = Vec::with_capacity(members.len());
        for member in &members {
            let tasks = prepared.of(member);
            let (text, items) = self
                .score_member(member, tasks, &evaluation, folder.as_ref(), &device)
                .map_err(|error| match (error, &folder) {
                    (error @ Error::Interrupted { .. }, Some(_)) => {
                        error.with_hint("the same command goes on from there")
                    }
                    (error @ Error::Interrupted { .. }, None) => {
                        error.with_hint("with --out DIR, what was scored would be kept")
                    }
                    (error, _) => error,
                })?;
            evaluation.texts.extend(text);
            scored.push(items);
        }
        let position = |name: &str, all: &[String]| {
            all.iter()
                .position(|other| other == name)
                .expect("one of them")
        };
        let models: Vec<String> = evaluation.models.iter().map(|m| m.slug.clone()).collect();
        let names: Vec<String> = evaluation.tasks.iter().map(|t| t.task.clone()).collect();
        let outcome = Outcome::gather(evaluation, &|model, task| {
            Ok(scored[position(&model.slug, &models)][position(&task.task, &names)].clone())
        })?;
        if let Some(folder) = &folder {
            folder.announce(&outcome.evaluation)?;
            // A shard has no result of its own.
            if self.shard.is_none() {
                report::write(&outcome, folder.path())?;
            }
        }
        Ok(outcome)
    }

    fn members(&self) -> Result<Vec<Member>> {
        let mut members: Vec<Member> = Vec::new();
        let mut records = Vec::new();
        for name in self.models.iter().map(|name| expand(name)) {
            for name in name? {
                let checkpoint = open(&name)?;
                let tokenizer = tokenizer(&checkpoint)?;
                let config = &checkpoint.config;
                let record = ModelRecord {
                    slug: report::slug(&name, &records),
                    name,
                    weights_sha256: checkpoint.weights_sha256()?,
                    config_sha256: hex(&Sha256::digest(config.to_json())),
                    tokenizer_sha256: tokenizer.sha256().to_owned(),
                    n_layer: config.n_layer,
                    parameters: layout::parameter_count(config),
                    n_positions: config.n_positions,
                };
                records.push(record.clone());
                members.push(Member {
                    checkpoint,
                    tokenizer,
                    record,
                });
            }
        }
        for member in &members {
            self.windows(member)?;
        }
        Ok(members)
    }

    /// Scores one checkpoint: its loss on the text, and the items of every task.
    fn score_member(
        &self,
        member: &Member,
        tasks: &[PreparedTask],
        evaluation: &Evaluation,
        folder: Option<&Folder>,
        device: &Device,
    ) -> Result<(Option<TextLoss>, Vec<Vec<ItemScore>>)> {
        // Loaded only where something is left to do.
        let mut model = None;
        let mut model = || -> Result<Gpt2> {
            if model.is_none() {
                model = Some(load_model(&member.checkpoint, device)?);
            }
            Ok(model.clone().expect("just loaded"))
        };
        let text = if self.val.is_empty() {
            None
        } else {
            Some(self.score_text(member, &model()?, device)?)
        };
        let mut all = Vec::with_capacity(tasks.len());
        let mut pace = Pace::default();
        for task in tasks {
            let wanted = evaluation.items(&task.record)?;
            let mut journal = folder
                .map(|folder| folder.journal(evaluation, &member.record, &task.record))
                .transpose()?;
            let mut found = match &journal {
                Some(journal) => journal.items.clone(),
                None => Default::default(),
            };
            let missing = wanted.iter().filter(|item| !found.contains_key(item));
            let missing = missing.count();
            if missing > 0 {
                let model = model()?;
                let engine = Engine {
                    model: &model,
                    device,
                    share: self.share,
                };
                let known = found.clone();
                let is_missing = |item| of_shard(self.shard, item) && !known.contains_key(&item);
                let start = Instant::now();
                task.score(&engine, &is_missing, &mut |scores| {
                    found.extend(scores.iter().map(|s| (s.item, s.clone())));
                    journal.as_mut().map_or(Ok(()), |j| j.append(scores))
                })?;
                journal.as_ref().map_or(Ok(()), |j| j.sync())?;
                let seconds = start.elapsed().as_secs_f64();
                pace.add(&member.record.name, &task.record.task, missing, seconds);
            }
            all.push(wanted.iter().map(|item| found[item].clone()).collect());
        }
        pace.say();
        Ok((text, all))
    }

    fn score_text(&self, member: &Member, model: &Gpt2, device: &Device) -> Result<TextLoss> {
        let vocab_size = member.checkpoint.config.vocab_size;
        let text = Tokens::open(&self.val, Split::Val, &member.tokenizer, vocab_size)?;
        let windows = self.windows(member)?;
        text_loss(model, &text, windows, Some(&member.tokenizer), device)
    }

    fn windows(&self, member: &Member) -> Result<Windows> {
        let (name, longest) = (&member.record.name, member.record.n_positions);
        let context = self.context.unwrap_or(longest);
        if context == 0 || context > longest {
            return Err(Error::usage(format!(
                "--context {context}: {name} reads 1 to {longest} tokens"
            )));
        }
        let stride = self.stride.unwrap_or(context);
        if stride > context {
            return Err(Error::usage(format!(
                "--stride {stride} is more than the context of {context}: tokens would be left out"
            )));
        }
        Ok(Windows {
            context,
            stride,
            max_tokens: self.val_tokens,
        })
    }
}

/// Says what data the tasks read, those of a group in one line.
fn describe(tasks: &[LoadedTask]) {
    let data = |task: &LoadedTask| task.record.data.clone();
    let mut groups: Vec<(&str, Vec<DataRecord>)> = Vec::new();
    for task in tasks {
        let name = task.record.task.as_str();
        match group_of(name) {
            None => {
                let data = data(task);
                let count = thousands(data.count as u64);
                eprint_line(&format!("{name}: {count} items, {}", data.describe()));
            }
            Some(group) => match groups.iter_mut().find(|(other, _)| *other == group) {
                Some((_, members)) => members.push(data(task)),
                None => groups.push((group, vec![data(task)])),
            },
        }
    }
    for (group, members) in groups {
        let count = members.iter().map(|data| data.count as u64).sum();
        let known = members.iter().filter(|data| data.known.is_some()).count();
        let skipped: u64 = members.iter().map(|data| data.skipped).sum();
        eprint_line(&format!(
            "{group}: {} items of {} paradigms, {known} of them the full set and as on record, \
             {skipped} bad left out",
            thousands(count),
            members.len()
        ));
    }
}

/// How fast items are scored, told by task, and by group where tasks have one.
#[derive(Default)]
struct Pace {
    model: String,
    task: String,
    items: usize,
    seconds: f64,
}

impl Pace {
    fn add(&mut self, model: &str, task: &str, items: usize, seconds: f64) {
        let task = group_of(task).unwrap_or(task);
        if self.task != task {
            self.say();
            *self = Self {
                model: model.to_owned(),
                task: task.to_owned(),
                ..Self::default()
            };
        }
        self.items += items;
        self.seconds += seconds;
    }

    fn say(&self) {
        let Self {
            model,
            task,
            items,
            seconds,
        } = self;
        if *items > 0 {
            eprint_line(&format!(
                "{model}: {task}: {} items in {seconds:.1} s, {:.1} items/s",
                thousands(*items as u64),
                *items as f64 / seconds
            ));
        }
    }
}

/// Leaves out what some model cannot read, for all of them: they are compared item by item.
fn leave_out_unfit(task: &mut LoadedTask, members: &[Member]) -> Result<()> {
    for (tokenizer, n_positions) in kinds(members) {
        task.leave_out_unfit(tokenizer, n_positions);
    }
    let (name, unfit) = (&task.record.task, &task.record.unfit);
    if !unfit.is_empty() {
        let message = format!("{} items left out, too long for a model", unfit.len());
        eprint_line(&format!("{name}: {message}"));
    }
    if task.is_empty() {
        return Err(Error::invalid(name, "no item fits the models"));
    }
    Ok(())
}

/// The tokenizers and lengths of models, each once.
fn kinds(members: &[Member]) -> Vec<(&Tokenizer, usize)> {
    let mut kinds: Vec<(&Tokenizer, usize)> = Vec::new();
    for member in members {
        let kind = (&member.tokenizer, member.record.n_positions);
        if kinds.iter().all(|other| !alike(*other, kind)) {
            kinds.push(kind);
        }
    }
    kinds
}

fn alike(a: (&Tokenizer, usize), b: (&Tokenizer, usize)) -> bool {
    (a.0.sha256(), a.1) == (b.0.sha256(), b.1)
}

/// Tasks encoded once for all models that read alike.
struct PreparedTasks<'a> {
    kinds: Vec<((&'a Tokenizer, usize), Vec<PreparedTask>)>,
}

impl<'a> PreparedTasks<'a> {
    fn new(tasks: &[LoadedTask], members: &'a [Member]) -> Result<Self> {
        let kinds = kinds(members).into_iter().map(|kind| {
            let prepared = tasks.iter().map(|task| task.prepare(kind.0, kind.1));
            Ok((kind, prepared.collect::<Result<_>>()?))
        });
        Ok(Self {
            kinds: kinds.collect::<Result<_>>()?,
        })
    }

    fn of(&self, member: &Member) -> &[PreparedTask] {
        let kind = (&member.tokenizer, member.record.n_positions);
        let found = self.kinds.iter().find(|(other, _)| alike(*other, kind));
        &found.expect("prepared for every member").1
    }
}

/// A checkpoint's name, or those that a glob of folders and files matches, sorted.
fn expand(name: &str) -> Result<Vec<String>> {
    if !name.contains(['*', '?', '[']) || Path::new(name).exists() {
        return Ok(vec![name.to_owned()]);
    }
    let paths = glob::glob(name).map_err(|e| Error::usage(format!("{name}: not a glob: {e}")))?;
    let mut found: Vec<String> = paths
        .flatten()
        .filter(|path| path.is_file() || path.join("config.json").is_file())
        .map(|path| {
            let path = path.to_string_lossy();
            // What could be taken for a hub id is a path.
            if path.starts_with(['.', '/', '~']) {
                path.into_owned()
            } else {
                format!("./{path}")
            }
        })
        .collect();
    found.sort();
    if found.is_empty() {
        return Err(Error::invalid(name, "no checkpoint matches")
            .with_hint("a checkpoint is a folder with config.json, or a weight file"));
    }
    Ok(found)
}

/// Prints what came of an evaluation.
pub fn show(outcome: &Outcome, json: bool) -> Result<()> {
    let rows: Vec<Row> = outcome
        .models
        .iter()
        .map(|model| Row {
            model: model.record.name.clone(),
            n_layer: model.record.n_layer,
            parameters: model.record.parameters,
            val: model.text,
            tasks: model.tasks.iter().map(|(score, _)| score.clone()).collect(),
        })
        .collect();
    let comparisons = report::comparisons(outcome);
    if json {
        return print_json(&json!({
            "schema": 2,
            "device": outcome.evaluation.device,
            "selection": outcome.evaluation.selection,
            "shard": outcome.evaluation.shard,
            "tasks": outcome.evaluation.tasks,
            "models": rows,
            "comparisons": comparisons,
        }));
    }
    if let Some(shard) = outcome.evaluation.shard {
        print(&format!(
            "shard {shard} only: `scale-ckpt merge` joins it with the others\n"
        ))?;
    }
    print(&render(&rows))?;
    if !comparisons.is_empty() {
        print(&format!("\n{}", render_comparisons(&comparisons)))?;
    }
    Ok(())
}

/// Says whether the published scores came out.
///
/// # Errors
/// One did not.
pub fn published(outcome: &Outcome) -> Result<()> {
    let mut missed = 0;
    for model in &outcome.models {
        for (task, (score, _)) in outcome.evaluation.tasks.iter().zip(&model.tasks) {
            let full = task.data.full;
            let Some(check) = published::check(&model.record.name, score, full) else {
                continue;
            };
            let [acc, acc_norm] = check.found;
            let cell = check.cell;
            print(&format!(
                "{}: {} {}: acc {acc:.2}, published {:.2}; acc_norm {acc_norm:.2}, published {:.2} ({})",
                if check.holds { "holds" } else { "differs" },
                cell.model,
                cell.task,
                cell.acc,
                cell.acc_norm,
                cell.source
            ))?;
            missed += usize::from(!check.holds);
        }
    }
    if missed > 0 {
        return Err(Error::Failed {
            message: format!(
                "{missed} published scores were not reproduced within {} points on all items",
                published::TOLERANCE
            ),
        });
    }
    Ok(())
}
