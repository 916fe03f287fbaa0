//! `scale-ckpt train`.

use std::path::PathBuf;

use burn::tensor::Device;
use scale_ckpt::Result;
use scale_ckpt::certify::PROBE_TEXT;
use scale_ckpt::checkpoint::{Checkpoint, Gpt2Config, save};
use scale_ckpt::data::{Batches, Tokenizer, Tokens};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::eval::hellaswag::{self, Item};
use scale_ckpt::eval::loss::text_loss;
use scale_ckpt::generate::{Sampling, generate};
use scale_ckpt::model::{Gpt2, weights};
use scale_ckpt::progress::{Meter, Unit, eprint_line};
use scale_ckpt::recipe::{self, LoadedRecipe, ModelSource, Recipe};
use scale_ckpt::run::RunDir;
use scale_ckpt::train::optimizer::Optimizer;
use scale_ckpt::train::state::{self, TrainerState};
use scale_ckpt::train::{Observer, StepReport, Trainee, train};
use serde_json::json;

use super::eval::{Row, Subject, render};
use super::grow::Job;
use super::shared::{VERSION, load_model, open, print, print_json, thousands};

/// Train as a recipe says: from a checkpoint, grown or not, or from scratch.
///
/// The same command on a run that was stopped goes on where it stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe.
    recipe: PathBuf,
    /// Change a key of the recipe, as in train.lr=3e-4; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// cpu, cuda or cuda:N; the recipe's unless given.
    #[arg(long)]
    device: Option<DeviceSpec>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let loaded = recipe::load(&self.recipe, &self.set)?;
        let spec = self.device.unwrap_or(loaded.recipe.device);
        let device = spec.open()?;
        let mut run = open_run(&loaded)?;
        let start = Start::prepare(&loaded, &run)?;
        let measures = Measures::load(&loaded.recipe, &start.tokenizer, start.config.n_positions)?;
        let mut rows = start.rows(&loaded, &measures, &device, &mut run)?;
        let trained = fit(&loaded, &start, &measures, &device, &mut run)?;
        let name = format!("trained, +{} tokens", thousands(trained.step * loaded.recipe.train.batch_tokens));
        let model = without_autodiff(&trained.model, &start.config, &device)?;
        rows.push(measures.score(name, &model, &start.config, &start.tokenizer, &device)?);
        let sample = sample(&loaded.recipe, &model, &start, &device)?;
        let report = json!({ "schema": 1, "tool_version": VERSION, "device": spec.to_string(), "recipe_sha256": loaded.sha256, "models": rows, "sample": sample, "checkpoint": run.checkpoint_path(trained.step) });
        run.write("report.json", &(serde_json::to_string_pretty(&report).expect("a report serializes") + "\n"))?;
        if self.json {
            return print_json(&report);
        }
        print(&render(&rows))?;
        if let Some(sample) = sample {
            print(&format!("\nsample:\n{sample}"))?;
        }
        print(&format!("\ncheckpoint: {}", run.checkpoint_path(trained.step).display()))
    }
}

/// Opens the run's folder, refusing one that another recipe made.
fn open_run(loaded: &LoadedRecipe) -> Result<RunDir> {
    let run = RunDir::open(&loaded.recipe.out)?;
    let path = run.path().join("recipe.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) if text == loaded.text => Ok(run),
        Ok(_) => Err(Error::usage(format!("{} holds a run of another recipe", run.path().display())).with_hint("choose another `out`, or remove that folder")),
        Err(_) => {
            run.write("recipe.toml", &loaded.text)?;
            Ok(run)
        }
    }
}

/// The model that training starts from.
struct Start {
    /// Architecture that is trained.
    config: Gpt2Config,
    tokenizer: Tokenizer,
    /// Where the tokenizer's files are, if anywhere.
    tokenizer_dir: PathBuf,
    /// The checkpoint given, and its grown version.
    source: Option<Checkpoint>,
    grown: Option<Checkpoint>,
}

impl Start {
    fn prepare(loaded: &LoadedRecipe, run: &RunDir) -> Result<Self> {
        let recipe = &loaded.recipe;
        let start = match &recipe.model {
            ModelSource::Scratch(scratch) => {
                if recipe.grow.is_some() {
                    return Err(Error::usage("a model from scratch is not grown").with_hint("give [model.scratch] the depth itself, or remove [grow]"));
                }
                let config = scratch.config()?;
                let dir = scratch.tokenizer.clone().unwrap_or_else(|| PathBuf::from("."));
                let tokenizer = if scratch.tokenizer.is_some() { Tokenizer::for_checkpoint(&dir, config.vocab_size)? } else { Tokenizer::gpt2() };
                Self { config, tokenizer, tokenizer_dir: dir, source: None, grown: None }
            }
            ModelSource::From(name) => {
                let source = open(name)?;
                let tokenizer = Tokenizer::for_checkpoint(&source.dir, source.config.vocab_size)?;
                let grown = recipe.grow.as_ref().map(|grow| grow_into(&source, grow, recipe.seed, run)).transpose()?;
                let config = grown.as_ref().unwrap_or(&source).config.clone();
                Self { config, tokenizer, tokenizer_dir: source.dir.clone(), source: Some(source), grown }
            }
        };
        recipe.train.check(start.config.n_positions).map_err(|message| Error::invalid("recipe", message))?;
        Ok(start)
    }

    /// A fresh model on `device`.
    fn model(&self, seed: u64, device: &Device) -> Result<Gpt2> {
        match self.grown.as_ref().or(self.source.as_ref()) {
            Some(checkpoint) => load_model(checkpoint, device),
            None => weights::init(&self.config, seed, device),
        }
    }

    /// Scores of what there is before training; read back from the run's folder on resume.
    fn rows(&self, loaded: &LoadedRecipe, measures: &Measures, device: &Device, run: &mut RunDir) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        if let Some(source) = &self.source {
            let model = load_model(source, device)?;
            rows.push(measures.score(format!("source {}", source.origin.source), &model, &source.config, &self.tokenizer, device)?);
        }
        if let (Some(source), Some(grown)) = (&self.source, &self.grown) {
            let model = load_model(grown, device)?;
            rows.push(measures.score(format!("grown {} -> {}", source.config.n_layer, grown.config.n_layer), &model, &grown.config, &self.tokenizer, device)?);
        }
        if self.source.is_none() {
            let model = self.model(loaded.recipe.seed, device)?;
            rows.push(measures.score("from scratch, untrained".into(), &model, &self.config, &self.tokenizer, device)?);
        }
        for row in &rows {
            if let Some(val) = row.val {
                eprint_line(&format!("{}: val loss {:.4}", row.model, val.loss));
            }
        }
        run.log(&json!({ "event": "before", "models": rows }))?;
        Ok(rows)
    }
}

/// Grows into the run's folder, or opens what an earlier start of the same recipe grew.
fn grow_into(source: &Checkpoint, grow: &recipe::GrowConfig, seed: u64, run: &RunDir) -> Result<Checkpoint> {
    let out = run.path().join("grown");
    if !out.exists() {
        let plan = grow.resolve(source.config.n_layer)?;
        let job = Job { source, plan: &plan, seed, probe: Some(PROBE_TEXT), max_shard_bytes: save::DEFAULT_SHARD_BYTES, force: false };
        job.run(&out)?;
    }
    Checkpoint::open_dir(&out)
}

/// What models are measured on.
struct Measures {
    val: Tokens,
    items: Vec<Item>,
    context: usize,
    max_tokens: Option<u64>,
}

impl Measures {
    fn load(recipe: &Recipe, tokenizer: &Tokenizer, n_positions: usize) -> Result<Self> {
        let val = Tokens::from_files(&recipe.data.val, tokenizer)?;
        let items = recipe.eval.hellaswag.as_ref().map(|path| hellaswag::load(path, recipe.eval.hellaswag_limit)).transpose()?.unwrap_or_default();
        Ok(Self { val, items, context: recipe.train.context.min(n_positions), max_tokens: recipe.eval.val_tokens })
    }

    fn score(&self, name: String, model: &Gpt2, config: &Gpt2Config, tokenizer: &Tokenizer, device: &Device) -> Result<Row> {
        Subject { model, config, tokenizer, device }.score(name, Some(&self.val), self.context, self.max_tokens, &self.items)
    }
}

/// Trains, from the newest checkpoint of the run if there is one.
fn fit(loaded: &LoadedRecipe, start: &Start, measures: &Measures, device: &Device, run: &mut RunDir) -> Result<Trainee> {
    let recipe = &loaded.recipe;
    let tokens = Tokens::from_files(&recipe.data.train, &start.tokenizer)?;
    let data_sha256 = tokens.sha256.clone();
    let token_count = tokens.ids.len() as u64;
    let mut batches = Batches::new(tokens, recipe.train.context, recipe.seed)?;
    let training = device.clone().autodiff();
    let trainee = match newest(run, loaded, &data_sha256, &training)? {
        Some(trainee) => {
            eprint_line(&format!("resuming at step {} of {}", trainee.step, recipe.train.steps()));
            run.truncate_metrics(trainee.step)?;
            trainee
        }
        None => Trainee { model: start.model(recipe.seed, &training)?, optimizer: Optimizer::new(recipe.train.adamw()), step: 0 },
    };
    let epochs = (recipe.train.steps() * recipe.train.batch_tokens) as f64 / token_count as f64;
    eprint_line(&format!("training: {} steps of {} tokens, {:.2} epochs of {} tokens", recipe.train.steps(), thousands(recipe.train.batch_tokens), epochs, thousands(token_count)));
    run.log(&json!({ "event": "start", "step": trainee.step, "tool_version": VERSION, "seed": recipe.seed, "recipe_sha256": loaded.sha256, "data_sha256": data_sha256, "train_tokens": token_count, "n_layer": start.config.n_layer }))?;
    let meter = Meter::new("training", recipe.train.steps(), Unit::Count);
    meter.start_at(trainee.step);
    let mut watcher = Watcher { loaded, start, measures, device, run, meter, data_sha256, smooth: None };
    train(trainee, &mut batches, &recipe.train, &training, &mut watcher)
}

/// The newest checkpoint that loads; damaged ones are passed over with a warning.
fn newest(run: &RunDir, loaded: &LoadedRecipe, data_sha256: &str, device: &Device) -> Result<Option<Trainee>> {
    for (_, path) in run.checkpoints()? {
        match state::load(&path, loaded.recipe.train.adamw(), device) {
            Ok((_, state)) if state.data_sha256 != data_sha256 => {
                return Err(Error::invalid(path.display(), "the training text has changed since this checkpoint").with_hint("restore the text, or choose another `out`"));
            }
            Ok((trainee, _)) => return Ok(Some(trainee)),
            Err(error) => eprint_line(&format!("warning: {} is passed over: {error}", path.display())),
        }
    }
    Ok(None)
}

/// Logs, saves and evaluates while a run goes on.
struct Watcher<'a> {
    loaded: &'a LoadedRecipe,
    start: &'a Start,
    measures: &'a Measures,
    device: &'a Device,
    run: &'a mut RunDir,
    meter: Meter,
    data_sha256: String,
    /// Exponential moving average of the training loss.
    smooth: Option<f64>,
}

impl Observer for Watcher<'_> {
    fn after_step(&mut self, report: &StepReport, trainee: &Trainee, must_save: bool) -> Result<()> {
        let config = &self.loaded.recipe.train;
        let smooth = self.smooth.map_or(report.loss, |old| 0.95 * old + 0.05 * report.loss);
        self.smooth = Some(smooth);
        let rate = config.batch_tokens as f64 / report.elapsed_s;
        self.run.log(report)?;
        self.meter.message(format!("loss {:.4} (avg {smooth:.4}) norm {:.2} lr {:.2e} {} tok/s", report.loss, report.grad_norm, report.lr, thousands(rate as u64)));
        self.meter.advance(1);
        let last = report.step == config.steps();
        if config.is_due(config.eval_every_tokens, report.step) && !last && !must_save {
            self.validate(report, trainee)?;
        }
        if must_save || config.is_due(config.save_every_tokens, report.step) {
            self.save(report, trainee)?;
        }
        Ok(())
    }
}

impl Watcher<'_> {
    fn validate(&mut self, report: &StepReport, trainee: &Trainee) -> Result<()> {
        let model = without_autodiff(&trainee.model, &self.start.config, self.device)?;
        let loss = text_loss(&model, &self.measures.val, self.measures.context, self.measures.max_tokens, self.device)?;
        self.run.log(&json!({ "step": report.step, "tokens": report.tokens, "val_loss": loss.loss }))?;
        self.meter.note(&format!("step {}: {} tokens, train loss {:.4}, val loss {:.4}", report.step, thousands(report.tokens), self.smooth.unwrap_or(report.loss), loss.loss));
        Ok(())
    }

    fn save(&mut self, report: &StepReport, trainee: &Trainee) -> Result<()> {
        let state = TrainerState {
            step: report.step,
            tokens: report.tokens,
            data_sha256: self.data_sha256.clone(),
            recipe_sha256: self.loaded.sha256.clone(),
            tool_version: VERSION.to_owned(),
            optimizer_steps: Default::default(),
        };
        let mut extra = vec![("recipe.toml", self.loaded.text.clone())];
        if let Ok(growth) = std::fs::read_to_string(self.run.path().join("grown/growth.json")) {
            extra.push(("growth.json", growth));
        }
        state::save(&self.run.checkpoint_path(report.step), trainee, &self.start.config, &self.start.tokenizer_dir, state, &extra)?;
        self.run.prune(self.loaded.recipe.train.keep)
    }
}

/// The same weights without gradient tracking.
fn without_autodiff(model: &Gpt2, config: &Gpt2Config, device: &Device) -> Result<Gpt2> {
    weights::copy_to(model, config, &device.clone().inner())
}

/// What the trained model makes of the recipe's prompt.
fn sample(recipe: &Recipe, model: &Gpt2, start: &Start, device: &Device) -> Result<Option<String>> {
    let Some(prompt) = &recipe.eval.prompt else { return Ok(None) };
    let ids = start.tokenizer.encode(prompt)?;
    if ids.is_empty() {
        return Err(Error::invalid("recipe", "eval.prompt has no tokens"));
    }
    let sampling = Sampling { temperature: 0.8, top_k: 50, seed: recipe.seed };
    let mut made = Vec::new();
    generate(model, &ids, 120, start.tokenizer.end_of_text(), sampling, start.config.n_positions, device, &mut |id| {
        made.push(id);
        Ok(())
    })?;
    Ok(Some(format!("{prompt}{}", start.tokenizer.decode(&made)?)))
}
