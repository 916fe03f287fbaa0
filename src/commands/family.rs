//! Scoring a family of checkpoints.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use scale_ckpt::checkpoint::{Checkpoint, hex, layout};
use scale_ckpt::data::{Split, Tokenizer, Tokens};
use scale_ckpt::device::{DeviceSpec, Precision};
use scale_ckpt::durable;
use scale_ckpt::error::{Error, counted};
use scale_ckpt::eval::dataset::DataRecord;
use scale_ckpt::eval::engine::Engine;
use scale_ckpt::eval::folder::{Evaluation, Folder, ModelRecord, Outcome};
use scale_ckpt::eval::loss::{TextScore, Windows, text_loss};
use scale_ckpt::eval::position::Position;
use scale_ckpt::eval::prepared::{LoadedTask, PreparedTask, of_shard};
use scale_ckpt::eval::published;
use scale_ckpt::eval::report::{self, NO_BASELINE};
use scale_ckpt::eval::score::{ItemScore, ModelScore};
use scale_ckpt::eval::task::{Selection, Shard, group_of};
use scale_ckpt::home;
use scale_ckpt::model::Gpt2;
use scale_ckpt::progress::eprint_line;
use scale_ckpt::report::{family, html};
use scale_ckpt::{Result, VERSION};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::natural;
use super::scores::{render, render_comparisons};
use super::shared::{
    columns, load_model, open, print, print_json, thousands, tokenizer, warn_of_loss,
};
use super::tasks::{TaskChoice, leave_out_unfit};

/// More examples than any context holds.
const MAX_SHOTS: usize = 1000;

/// Checkpoints, and what they are scored on.
pub struct Family {
    /// Checkpoints and globs of them.
    pub models: Vec<String>,
    /// The one that the others are compared with, which may be one of them.
    pub baseline: Option<String>,
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
    /// What products are computed in.
    pub precision: Precision,
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
        let Selection { limit, sample_seed } = self.tasks.selection;
        if sample_seed.is_some() && limit.is_none() {
            return Err(Error::usage("a seed to draw items with, and no limit")
                .with_hint("say how many with --limit"));
        }
        let count = self.tasks.shots.map_or(0, |shots| shots.count);
        if count == 0 && !self.tasks.examples.is_empty() {
            return Err(Error::usage("examples are given, but not how many to use")
                .with_hint("say so with --num-fewshot"));
        }
        if count > MAX_SHOTS {
            return Err(Error::usage(format!(
                "{count} examples before every question are more than {MAX_SHOTS}"
            )));
        }
        self.tasks.find().map(drop)
    }

    /// Scores all checkpoints on everything. Of a shard nothing comes but its items' scores.
    pub fn score(&self) -> Result<Option<Outcome>> {
        let device = self.device.open()?;
        self.device.check_precision(&device, self.precision)?;
        let mut tasks = self.tasks.load()?;
        describe(&tasks);
        let (members, baseline) = self.members()?;
        if self.tasks.skip_bad {
            for task in &mut tasks {
                leave_out_unfit(task, &kinds(&members))?;
            }
        }
        // All that can be wrong with the input is found before the folder is claimed.
        let readings = Readings::new(self, &tasks, &members)?;
        let mut evaluation = Evaluation {
            schema: 1,
            tool_version: VERSION.to_owned(),
            device: self.device.kind().to_owned(),
            dtype: self.device.recorded(self.precision).to_owned(),
            plain: !self.share,
            models: members.iter().map(|m| m.record.clone()).collect(),
            baseline,
            tasks: tasks.iter().map(|task| task.record.clone()).collect(),
            selection: self.tasks.selection,
            shard: self.shard,
            texts: Vec::new(),
        };
        let folder = self.out.as_deref().map(Folder::open).transpose()?;
        if let Some(folder) = &folder {
            let removed = folder.announce(&evaluation)?;
            if !removed.is_empty() {
                let (count, out) = (removed.len(), folder.path().display());
                eprint_line(&format!(
                    "{out}: {} of results of an earlier evaluation removed; its items' scores stay",
                    counted(count, "file", "files")
                ));
            }
        }
        let (mut items, mut windows) = (Vec::with_capacity(members.len()), Vec::new());
        for member in &members {
            let scoring = Scoring {
                family: self,
                member,
                reading: readings.of(member),
                evaluation: &evaluation,
                folder: folder.as_ref(),
                device: &device,
                model: OnceCell::new(),
            };
            let (text, of_tasks) = scoring.run().map_err(|error| match (error, &folder) {
                (error @ Error::Interrupted { .. }, Some(_)) => {
                    error.with_hint("the same command goes on from there")
                }
                (error @ Error::Interrupted { .. }, None) => {
                    error.with_hint("with --out DIR, what was scored would be kept")
                }
                (error, _) => error,
            })?;
            if let Some(text) = text {
                evaluation.texts.push(text.loss);
                windows.push(text.windows);
            }
            items.push(of_tasks);
        }
        if self.shard.is_some() {
            return Ok(None);
        }
        let outcome = Outcome::new(evaluation, items, &windows);
        if let Some(folder) = &folder {
            folder.announce(&outcome.evaluation)?;
            write(&outcome, folder.path())?;
        }
        Ok(Some(outcome))
    }

    /// The checkpoints, each once, and the name of the baseline among them.
    fn members(&self) -> Result<(Vec<Member>, Option<String>)> {
        let mut names: Vec<String> = Vec::new();
        for model in &self.models {
            // Globs overlap: each checkpoint is scored once.
            for name in expand(model)? {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let baseline = self
            .baseline
            .as_deref()
            .map(|name| baseline(name, &mut names));
        let baseline = baseline.transpose()?;
        let mut members: Vec<Member> = Vec::new();
        for name in names {
            members.push(member(name, &members)?);
        }
        for member in &members {
            self.windows(member)?;
        }
        Ok((members, baseline))
    }

    fn windows(&self, member: &Member) -> Result<Windows> {
        let (name, longest) = (&member.record.name, member.record.n_positions);
        let context = self.context.unwrap_or(longest);
        if context == 0 || context > longest {
            return Err(Error::usage(format!(
                "--context {context}: {name} reads 1 to {}",
                counted(longest, "token", "tokens")
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

/// Opens a checkpoint that is to be scored beside `others`.
fn member(name: String, others: &[Member]) -> Result<Member> {
    let checkpoint = open(&name)?;
    let tokenizer = tokenizer(&checkpoint)?;
    let config = &checkpoint.config;
    let is_taken = |slug: &str| others.iter().any(|m| m.record.slug == slug);
    let Position { step, tokens } = Position::of(&checkpoint.dir, &name);
    let record = ModelRecord {
        slug: report::slug(&name, is_taken),
        name,
        weights_sha256: checkpoint.weights_sha256()?,
        config_sha256: hex(&Sha256::digest(config.to_json())),
        tokenizer_sha256: tokenizer.sha256().to_owned(),
        n_layer: config.n_layer,
        parameters: layout::parameter_count(config),
        n_positions: config.n_positions,
        step,
        tokens,
    };
    Ok(Member {
        checkpoint,
        tokenizer,
        record,
    })
}

/// The name among `names` of the model that is called so, which joins them in front where it is
/// none of them.
fn baseline(name: &str, names: &mut Vec<String>) -> Result<String> {
    let found = expand(name)?;
    let [found] = found.as_slice() else {
        return Err(Error::usage(format!(
            "--baseline {name}: {} checkpoints match",
            found.len()
        ))
        .with_hint("name the one that the others are compared with"));
    };
    let plain = |name: &str| PathBuf::from_iter(Path::new(name.trim_start_matches("./")));
    let own = names
        .iter()
        .find(|other| plain(other) == plain(found))
        .cloned();
    let own = own.unwrap_or_else(|| {
        names.insert(0, found.clone());
        found.clone()
    });
    if names.len() == 1 {
        return Err(
            Error::usage(format!("--baseline {name}: there is no other checkpoint"))
                .with_hint("name those that are compared with it as well"),
        );
    }
    Ok(own)
}

/// The scoring of one checkpoint.
struct Scoring<'a> {
    family: &'a Family,
    member: &'a Member,
    reading: &'a Reading<'a>,
    evaluation: &'a Evaluation,
    folder: Option<&'a Folder>,
    device: &'a Device,
    /// Loaded only where something is left to do.
    model: OnceCell<Gpt2>,
}

impl Scoring<'_> {
    /// Its loss on the text, and the items' scores of every task.
    fn run(&self) -> Result<(Option<TextScore>, Vec<Vec<ItemScore>>)> {
        let text = self.reading.text.as_ref().map(|text| self.text(text));
        let text = text.transpose()?;
        let mut pace = Pace::default();
        let tasks = self.reading.tasks.iter();
        let items = tasks.map(|task| self.task(task, &mut pace));
        let items = items.collect::<Result<_>>()?;
        pace.say();
        Ok((text, items))
    }

    fn model(&self) -> Result<&Gpt2> {
        if self.model.get().is_none() {
            let loaded = load_model(&self.member.checkpoint, self.device)?
                .with_precision(self.family.precision);
            // Nobody else sets it.
            let _ = self.model.set(loaded);
        }
        Ok(self.model.get().expect("just loaded"))
    }

    fn text(&self, text: &Tokens) -> Result<TextScore> {
        let windows = self.family.windows(self.member)?;
        let record = &self.member.record;
        let key = self.evaluation.text_key(record, text.sha256(), windows);
        if let Some(kept) = self.folder.and_then(|folder| folder.text(&key)) {
            return Ok(kept);
        }
        let tokenizer = Some(&self.member.tokenizer);
        let score = text_loss(self.model()?, text, windows, tokenizer, self.device)?;
        let vocab_size = self.member.checkpoint.config.vocab_size;
        warn_of_loss(&record.name, score.loss.loss, vocab_size);
        if let Some(folder) = self.folder {
            folder.keep_text(&key, &score)?;
        }
        Ok(score)
    }

    fn task(&self, task: &PreparedTask, pace: &mut Pace) -> Result<Vec<ItemScore>> {
        let (record, shard) = (&self.member.record, self.family.shard);
        let wanted = self.evaluation.items(&task.record)?;
        let mut journal = self
            .folder
            .map(|folder| folder.journal(self.evaluation, record, &task.record))
            .transpose()?;
        let mut found = match &mut journal {
            Some(journal) => std::mem::take(&mut journal.items),
            None => BTreeMap::new(),
        };
        let known: BTreeSet<usize> = found.keys().copied().collect();
        let missing = wanted.iter().filter(|item| !known.contains(item)).count();
        if missing > 0 {
            let engine = Engine {
                model: self.model()?,
                device: self.device,
                share: self.family.share,
            };
            let is_missing = |item| of_shard(shard, item) && !known.contains(&item);
            let start = Instant::now();
            task.score(&engine, &is_missing, &mut |scores| {
                found.extend(scores.iter().map(|s| (s.item, s.clone())));
                journal.as_mut().map_or(Ok(()), |j| j.append(scores))
            })
            .map_err(|error| of_model(error, &record.name))?;
            journal.as_ref().map_or(Ok(()), |j| j.sync())?;
            let seconds = start.elapsed().as_secs_f64();
            pace.add(&record.name, &task.record.task, missing, seconds);
        }
        let take = |item: &usize| found.remove(item).expect("all that is wanted was scored");
        Ok(wanted.iter().map(take).collect())
    }
}

/// The error of a score says whose it is.
fn of_model(error: Error, model: &str) -> Error {
    match error {
        Error::Invalid { at, message, hint } => Error::Invalid {
            at: format!("{model}: {at}"),
            message,
            hint,
        },
        error => error,
    }
}

/// Says what data the tasks read, those of a group in one line.
fn describe(tasks: &[LoadedTask]) {
    let mut groups: Vec<(&str, Vec<&DataRecord>)> = Vec::new();
    for task in tasks {
        let (name, data) = (task.record.task.as_str(), &task.record.data);
        match group_of(name) {
            None => {
                let items = counted(thousands(data.count as u64), "item", "items");
                eprint_line(&format!("{name}: {items}, {}", data.describe()));
            }
            Some(group) => match groups.iter_mut().find(|(other, _)| *other == group) {
                Some((_, members)) => members.push(data),
                None => groups.push((group, vec![data])),
            },
        }
    }
    for (group, members) in groups {
        let count = members.iter().map(|data| data.count as u64).sum();
        let known = members.iter().filter(|data| data.known.is_some()).count();
        let skipped: u64 = members.iter().map(|data| data.skipped).sum();
        let skipped = match skipped {
            0 => String::new(),
            n => format!(", {n} bad left out"),
        };
        eprint_line(&format!(
            "{group}: {} of {}, {known} of them full and as on record{skipped}",
            counted(thousands(count), "item", "items"),
            counted(members.len(), "paradigm", "paradigms")
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
                "{model}: {task}: {} in {seconds:.1} s, {:.1} items/s",
                counted(thousands(*items as u64), "item", "items"),
                *items as f64 / seconds
            ));
        }
    }
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
    let kind = |of: (&Tokenizer, usize)| (of.0.sha256().to_owned(), of.0.readable(), of.1);
    kind(a) == kind(b)
}

/// Tasks and text as models of one tokenizer and length read them.
struct Reading<'a> {
    tokenizer: &'a Tokenizer,
    n_positions: usize,
    tasks: Vec<PreparedTask>,
    text: Option<Tokens>,
}

/// All readings that a family needs, each once.
struct Readings<'a>(Vec<Reading<'a>>);

impl<'a> Readings<'a> {
    fn new(family: &Family, tasks: &[LoadedTask], members: &'a [Member]) -> Result<Self> {
        let readings = kinds(members).into_iter().map(|(tokenizer, n_positions)| {
            let prepared = tasks.iter().map(|t| t.prepare(tokenizer, n_positions));
            let text = if family.val.is_empty() {
                None
            } else {
                let vocab_size = tokenizer.readable();
                let text = Tokens::open(&family.val, Split::Val, tokenizer, vocab_size)?;
                text.windows("validation text", family.context.unwrap_or(n_positions))?;
                Some(text)
            };
            Ok(Reading {
                tokenizer,
                n_positions,
                tasks: prepared.collect::<Result<_>>()?,
                text,
            })
        });
        readings.collect::<Result<_>>().map(Self)
    }

    fn of(&self, member: &Member) -> &Reading<'a> {
        let kind = (&member.tokenizer, member.record.n_positions);
        let mut readings = self.0.iter();
        let found = readings.find(|r| alike((r.tokenizer, r.n_positions), kind));
        found.expect("one for every member")
    }
}

/// A checkpoint's name, or those that a glob of folders and files matches, in natural order.
fn expand(name: &str) -> Result<Vec<String>> {
    if !name.contains(['*', '?', '[']) || Path::new(name).exists() {
        return Ok(vec![name.to_owned()]);
    }
    let pattern = home::expand_text(name)?;
    let paths =
        glob::glob(&pattern).map_err(|e| Error::usage(format!("{name}: not a glob: {e}")))?;
    let mut found: Vec<String> = paths
        .flatten()
        .filter(|path| {
            let mut endings = ["safetensors", "bin"].into_iter();
            let is_weights = endings.any(|e| path.extension().is_some_and(|found| found == e));
            path.is_file() && is_weights || path.join("config.json").is_file()
        })
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
    found.sort_by(|a, b| natural::order(Path::new(a), Path::new(b)));
    if found.is_empty() {
        return Err(Error::invalid(name, "no checkpoint matches")
            .with_hint("a checkpoint is a folder with config.json, or a weight file"));
    }
    Ok(found)
}

/// Prints what came of an evaluation.
pub fn show(outcome: &Outcome, json: bool) -> Result<()> {
    let rows: Vec<ModelScore> = outcome
        .models
        .iter()
        .map(|model| ModelScore {
            model: model.record.name.clone(),
            n_layer: model.record.n_layer,
            parameters: model.record.parameters,
            val: model.text,
            tasks: model.tasks.iter().map(|(score, _)| score.clone()).collect(),
        })
        .collect();
    if json {
        return print_json(&json!({
            "schema": 2,
            "device": outcome.evaluation.device,
            "dtype": outcome.evaluation.dtype,
            "selection": outcome.evaluation.selection,
            "baseline": outcome.evaluation.baseline,
            "tasks": outcome.evaluation.tasks,
            "models": rows,
            "comparisons": outcome.comparisons,
        }));
    }
    print(&render(&rows, columns()))?;
    let (dtype, device) = (&outcome.evaluation.dtype, &outcome.evaluation.device);
    if dtype != "float32" {
        print(&format!("\nin {dtype} on {device}"))?;
    }
    if !outcome.comparisons.is_empty() {
        let differences = render_comparisons(&outcome.comparisons, columns());
        print(&format!("\n{differences}"))?;
    } else if rows.len() > 2 {
        print(&format!("\n{NO_BASELINE}"))?;
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
            eprint_line(&format!(
                "{}: {} {}: acc {acc:.2}, published {:.2}; acc_norm {acc_norm:.2}, published {:.2} ({})",
                if check.holds { "holds" } else { "differs" },
                cell.model,
                cell.task,
                cell.acc,
                cell.acc_norm,
                cell.source
            ));
            missed += usize::from(!check.holds);
        }
    }
    if missed > 0 {
        return Err(Error::Failed {
            message: format!(
                "{} not reproduced within {} points on all items",
                counted(missed, "published score was", "published scores were"),
                published::TOLERANCE
            ),
        });
    }
    Ok(())
}

/// Writes everything that comes of an evaluation into its folder.
pub fn write(outcome: &Outcome, folder: &Path) -> Result<()> {
    report::write(outcome, folder)?;
    let page = html::render(&family::document(outcome));
    durable::write_file(&folder.join("report.html"), page.as_bytes())
}
