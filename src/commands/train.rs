//! `scale-ckpt train`.

use std::path::PathBuf;

use burn::tensor::Device;
use scale_ckpt::data::{Batches, Tokens};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::error::Error;
use scale_ckpt::eval::hellaswag;
use scale_ckpt::generate::{Sampling, generate};
use scale_ckpt::model::Gpt2;
use scale_ckpt::progress::{Meter, Unit, eprint_line};
use scale_ckpt::recipe::{self, LoadedRecipe, Recipe};
use scale_ckpt::run::RunDir;
use scale_ckpt::train::optimizer::Optimizer;
use scale_ckpt::train::{Trainee, state, train};
use scale_ckpt::{Result, VERSION};
use serde_json::{Value, json};

use super::scores::{Measures, Row, render};
use super::shared::{print, print_json, thousands};
use super::start::Start;
use super::watcher::{Watcher, without_autodiff};

/// Tokens of the sample that a run ends with.
const SAMPLE_TOKENS: usize = 120;
/// Hashes of what the run was started with.
const INPUTS_FILE: &str = "inputs.json";
/// Scores before training, kept in the run's folder so that a resumed run does not repeat them.
const BEFORE_FILE: &str = "before.json";

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
        // Everything that can be wrong with the input is found before the folder is claimed.
        let mut start = Start::prepare(&loaded.recipe)?;
        let text = Tokens::from_files(&loaded.recipe.data.train, &start.tokenizer)?;
        let data_sha256 = text.sha256.clone();
        let batches = Batches::new(text, loaded.recipe.train.context, loaded.recipe.seed)?;
        let measures = measures(&loaded.recipe, &start, &device)?;
        let prompt = prompt(&loaded.recipe, &start)?;
        let mut run = open_run(&loaded, &start, &data_sha256)?;
        start.grow(&loaded.recipe, &run)?;
        let mut rows = scores_before(&loaded.recipe, &start, &measures, &mut run)?;
        let trained = fit(&loaded, &start, &measures, batches, &data_sha256, &mut run)?;
        let model = without_autodiff(&trained.model, &start.config, &device)?;
        let name = format!(
            "trained, +{} tokens",
            thousands(trained.step * loaded.recipe.train.batch_tokens)
        );
        rows.push(measures.score(name, &model, &start.config)?);
        let report = json!({
            "schema": 1,
            "tool_version": VERSION,
            "device": spec.to_string(),
            "recipe_sha256": loaded.sha256,
            "models": rows,
            "sample": prompt.map(|ids| sample(&ids, &loaded.recipe, &model, &start)).transpose()?,
            "checkpoint": run.checkpoint_path(trained.step),
        });
        run.write_json("report.json", &report)?;
        if self.json {
            return print_json(&report);
        }
        print(&render(&rows))?;
        if let Some(sample) = report["sample"].as_str() {
            print(&format!("\nsample:\n{sample}"))?;
        }
        let checkpoint = run.checkpoint_path(trained.step);
        print(&format!("\ncheckpoint: {}", checkpoint.display()))
    }
}

/// Opens the run's folder, refusing one that was made from another recipe or other inputs.
fn open_run(loaded: &LoadedRecipe, start: &Start, data_sha256: &str) -> Result<RunDir> {
    let run = RunDir::open(&loaded.recipe.out)?;
    let path = run.path().join(INPUTS_FILE);
    let inputs = json!({
        "recipe": loaded.sha256,
        "training text": data_sha256,
        "source checkpoint": start.source_sha256()?,
        "tokenizer": start.tokenizer.sha256(),
    });
    let saved = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            run.write("recipe.toml", &loaded.text)?;
            run.write_json(INPUTS_FILE, &inputs)?;
            return Ok(run);
        }
        read => read.map_err(Error::io("read", &path))?,
    };
    let saved: Value = serde_json::from_slice(&saved)
        .map_err(|e| Error::invalid(path.display(), format!("not valid JSON: {e}")))?;
    let changed = ["recipe", "training text", "source checkpoint", "tokenizer"];
    match changed.iter().find(|&&input| saved[input] != inputs[input]) {
        None => Ok(run),
        Some(input) => Err(Error::usage(format!(
            "{} holds a run of another {input}",
            run.path().display()
        ))
        .with_hint("choose another `out`, or remove that folder")),
    }
}

fn measures(recipe: &Recipe, start: &Start, device: &Device) -> Result<Measures> {
    let limit = recipe.eval.hellaswag_limit;
    let items = recipe.eval.hellaswag.as_ref();
    Ok(Measures {
        tokenizer: start.tokenizer.clone(),
        val: Some(Tokens::from_files(&recipe.data.val, &start.tokenizer)?),
        context: recipe.train.context,
        val_tokens: recipe.eval.val_tokens,
        items: items
            .map(|path| hellaswag::load(path, limit))
            .transpose()?
            .unwrap_or_default(),
        device: device.clone(),
    })
}

/// Scores of source and grown model, measured once per run.
fn scores_before(
    recipe: &Recipe,
    start: &Start,
    measures: &Measures,
    run: &mut RunDir,
) -> Result<Vec<Row>> {
    let saved = std::fs::read(run.path().join(BEFORE_FILE)).ok();
    if let Some(rows) = saved.and_then(|text| serde_json::from_slice(&text).ok()) {
        return Ok(rows);
    }
    let rows = start.scores(recipe.seed, measures)?;
    for (row, val) in rows.iter().filter_map(|row| Some((row, row.val?))) {
        eprint_line(&format!("{}: val loss {:.4}", row.model, val.loss));
    }
    run.log(&json!({ "event": "before", "step": 0, "models": rows }))?;
    run.write_json(BEFORE_FILE, &rows)?;
    Ok(rows)
}

/// Trains, from the newest checkpoint of the run if there is one.
fn fit(
    loaded: &LoadedRecipe,
    start: &Start,
    measures: &Measures,
    mut batches: Batches,
    data_sha256: &str,
    run: &mut RunDir,
) -> Result<Trainee> {
    let (recipe, config) = (&loaded.recipe, &loaded.recipe.train);
    let device = measures.device.clone().autodiff();
    let trainee = match newest(run, recipe, &device)? {
        Some(trainee) => trainee,
        None => Trainee {
            model: start.model(recipe.seed, &device)?,
            optimizer: Optimizer::new(config.adamw()),
            step: 0,
        },
    };
    run.truncate_metrics(trainee.step)?;
    if trainee.step > 0 {
        eprint_line(&format!(
            "resuming at step {} of {}",
            trainee.step,
            config.steps()
        ));
    } else {
        let epoch = (batches.windows() * config.context) as u64;
        let epochs = (config.steps() * config.batch_tokens) as f64 / epoch as f64;
        eprint_line(&format!(
            "training: {} steps of {} tokens, {epochs:.2} epochs of {} tokens",
            config.steps(),
            thousands(config.batch_tokens),
            thousands(epoch)
        ));
        run.log(&json!({
            "event": "start",
            "step": 0,
            "tool_version": VERSION,
            "seed": recipe.seed,
            "recipe_sha256": loaded.sha256,
            "data_sha256": data_sha256,
            "n_layer": start.config.n_layer,
        }))?;
    }
    let meter = Meter::new("training", config.steps(), Unit::Count);
    meter.start_at(trainee.step);
    let data_sha256 = data_sha256.to_owned();
    let mut watcher = Watcher {
        loaded,
        start,
        measures,
        run,
        meter,
        data_sha256,
        average: None,
        saved: None,
    };
    train(trainee, &mut batches, config, &device, &mut watcher)
}

/// The newest checkpoint that loads. Damaged ones are set aside with a warning: were they left,
/// they would count as the newest and the sound ones would be pruned.
fn newest(run: &RunDir, recipe: &Recipe, device: &Device) -> Result<Option<Trainee>> {
    for (_, path) in run.checkpoints()? {
        match state::load(&path, recipe.train.adamw(), device) {
            Ok((trainee, _)) => return Ok(Some(trainee)),
            Err(error @ Error::Invalid { .. }) => {
                eprint_line(&format!(
                    "warning: {} is set aside: {error}",
                    path.display()
                ));
                run.set_aside(&path)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The tokens of the recipe's prompt, if it has one.
fn prompt(recipe: &Recipe, start: &Start) -> Result<Option<Vec<u32>>> {
    let Some(prompt) = &recipe.eval.prompt else {
        return Ok(None);
    };
    let ids = start.tokenizer.encode(prompt)?;
    if ids.is_empty() {
        return Err(Error::invalid("recipe", "eval.prompt has no tokens"));
    }
    Ok(Some(ids))
}

/// The prompt and what the trained model makes of it.
fn sample(prompt: &[u32], recipe: &Recipe, model: &Gpt2, start: &Start) -> Result<String> {
    let sampling = Sampling {
        temperature: 0.8,
        top_k: 50,
        seed: recipe.seed,
    };
    let mut ids = prompt.to_vec();
    let stop = start.tokenizer.end_of_text()?;
    generate(model, prompt, SAMPLE_TOKENS, stop, sampling, &mut |id| {
        ids.push(id);
        Ok(())
    })?;
    start.tokenizer.decode(&ids)
}
