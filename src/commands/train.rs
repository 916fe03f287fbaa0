//! `scale-ckpt train`.

use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Device;
use scale_ckpt::account::Account;
use scale_ckpt::checkpoint::companions::Companions;
use scale_ckpt::compare::matching::Basis;
use scale_ckpt::data::overlap::warn_of_overlap;
use scale_ckpt::data::{Batches, Split, Tokens};
use scale_ckpt::device::{DeviceSpec, Precision};
use scale_ckpt::error::{Error, counted};
use scale_ckpt::eval::figures::figure;
use scale_ckpt::eval::loss::Windows;
use scale_ckpt::eval::score::ModelScore;
use scale_ckpt::generate::{Sampling, generate};
use scale_ckpt::model::Gpt2;
use scale_ckpt::owner;
use scale_ckpt::progress::eprint_line;
use scale_ckpt::recipe::{self, LoadedRecipe, Recipe, another_recipe};
use scale_ckpt::run::{
    self, BEFORE_FILE, GROWN_DIR, INPUTS_FILE, ITEMS_FILE, RECIPE_FILE, REPORT_FILE, RUN_FILE,
    RunDir,
};
use scale_ckpt::settings::UNLOCATED;
use scale_ckpt::{Result, VERSION};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::conductor::Conductor;
use super::cost::{cost, cost_line};
use super::scores::{Measures, render};
use super::shared::{RecipeArgs, columns, print, print_json, thousands};
use super::start::Start;
use super::tasks::{TaskChoice, leave_out_unfit};

/// Tokens of the sample that a run ends with.
const SAMPLE_TOKENS: usize = 120;

/// Train as a recipe says: from a checkpoint, grown or not, or from scratch.
///
/// The same command on a run that was stopped goes on where it stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let (loaded, spec) = self.recipe.load()?;
        let report = run(&loaded, spec).map_err(|error| self.recipe.located(error))?;
        if self.json {
            return print_json(&report);
        }
        print(&render(&report.models, columns()))?;
        eprint_line(&cost_line(&report.cost));
        if let Some(sample) = &report.sample {
            print(&format!("\nsample:\n{sample}"))?;
        }
        if report.checkpoint.exists() {
            return print(&format!("\ncheckpoint: {}", report.checkpoint.display()));
        }
        print("\ncheckpoint: removed since; another `out` trains it again")
    }
}

/// What a run ends with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    schema: u32,
    tool_version: String,
    device: String,
    recipe_sha256: String,
    models: Vec<ModelScore>,
    cost: Value,
    sample: Option<String>,
    checkpoint: PathBuf,
}

/// Everything that a recipe names, opened and checked.
struct Ready {
    start: Start,
    batches: Batches,
    data_sha256: String,
    measures: Measures,
    prompt: Option<Vec<u32>>,
}

impl Ready {
    /// Finds everything that can be wrong with the input; nothing is written.
    fn open(recipe: &Recipe, spec: DeviceSpec) -> Result<Self> {
        let device = spec.open()?;
        spec.check_precision(&device, recipe.train.on(spec).precision())?;
        let start = Start::prepare(recipe)?;
        let data = &recipe.data;
        let vocab_size = start.config.vocab_size;
        let text = Tokens::open(&data.train, Split::Train, &start.tokenizer, vocab_size)?;
        warn_of_overlap(&data.train, &data.val)?;
        let data_sha256 = text.sha256().to_owned();
        let batches = Batches::new(text, recipe.train.context, recipe.seed, data.order)?;
        Ok(Self {
            batches,
            data_sha256,
            measures: measures(recipe, &start, &device)?,
            prompt: prompt(recipe, &start)?,
            start,
        })
    }
}

/// Checks what a recipe names, and says what its run must have in common with others.
///
/// # Errors
/// The input is not sound.
pub fn basis(recipe: &Recipe, spec: DeviceSpec, name: &str) -> Result<Basis> {
    let ready = Ready::open(recipe, spec)?;
    Ok(Basis {
        name: name.to_owned(),
        tokenizer_sha256: ready.start.tokenizer.sha256().to_owned(),
        data_sha256: ready.data_sha256,
        measured: ready.measures.describe(),
        source_sha256: ready.start.source_sha256()?,
        growth_sha256: Some(ready.start.growth_sha256()),
    })
}

/// Runs a recipe to its end, from where it was stopped if it was.
///
/// # Errors
/// The input is not sound, the folder is another run's, or a signal arrived.
pub fn run(loaded: &LoadedRecipe, spec: DeviceSpec) -> Result<Report> {
    // Before text of many gigabytes is read.
    run::KIND.check(&loaded.recipe.out)?;
    let resumable = |error| match error {
        error @ Error::Interrupted { hint: None, .. } => {
            error.with_hint("the same command goes on from there")
        }
        error => error,
    };
    let ready = Ready::open(&loaded.recipe, spec);
    ready
        .and_then(|ready| run_from(ready, loaded, spec))
        .map_err(resumable)
}

fn run_from(ready: Ready, loaded: &LoadedRecipe, spec: DeviceSpec) -> Result<Report> {
    let Ready {
        mut start,
        batches,
        data_sha256,
        measures,
        prompt,
    } = ready;
    let source_sha256 = start.source_sha256()?;
    let config = loaded.recipe.train.on(spec);
    let mut run = open_run(
        loaded,
        &start,
        &data_sha256,
        source_sha256.as_deref(),
        config.precision(),
    )?;
    if let Some(report) = report_of_cleaned(&run, &start)? {
        return Ok(report);
    }
    if let Some(note) = Companions::note(&start.companions.left_behind) {
        eprint_line(&format!("note: {note}"));
    }
    start.grow(&loaded.recipe, &run)?;
    let account = Account::new(&start.stages, &start.config, &loaded.recipe.train);
    let cost = cost(&loaded.recipe, &start, &account);
    let record = json!({
        "schema": 2,
        "tool_version": VERSION,
        "recipe": loaded.recipe,
        "recipe_sha256": loaded.sha256,
        "seed": loaded.recipe.seed,
        "data_sha256": data_sha256,
        "source_sha256": source_sha256,
        "tokenizer_sha256": start.tokenizer.sha256(),
        "growth_sha256": start.growth_sha256(),
        "measured": measures.describe(),
        "device": spec.to_string(),
        "precision": spec.recorded(config.precision()),
        "steps": account.steps(),
        "cost": cost,
    });
    run.write_json(RUN_FILE, &record)?;
    let mut models = scores_before(&loaded.recipe, &start, &measures, &mut run)?;
    let mut conductor = Conductor {
        config,
        loaded,
        start: &start,
        measures: &measures,
        account: &account,
        batches,
        data_sha256,
        run: &mut run,
    };
    let trained = conductor.run()?;
    // As it is scored.
    let model = trained.model.valid().with_precision(Precision::F32);
    let name = format!(
        "trained, +{}",
        counted(
            thousands(trained.step * loaded.recipe.train.batch_tokens),
            "token",
            "tokens"
        )
    );
    let last = start.stages.last().expect("a run has a stage");
    let config = start.config.with_n_layer(last.n_layer);
    let (score, items) = measures.score_items(name, &model, &config)?;
    if let Some(val) = score.val.filter(|val| !val.loss.is_finite()) {
        return Err(Error::Diverged {
            step: trained.step.saturating_sub(1),
            message: format!("the validation loss is {}", val.loss),
        });
    }
    if !run.has_logged(trained.step, "models")? {
        run.log(&json!({ "event": "after", "step": trained.step, "models": [score] }))?;
    }
    models.push(score);
    let items = serde_json::to_string(&items).expect("scores serialize");
    run.write(ITEMS_FILE, &items)?;
    let sample = prompt.map(|ids| sample(&ids, &loaded.recipe, &model, &start));
    let report = Report {
        schema: 1,
        tool_version: VERSION.to_owned(),
        device: spec.to_string(),
        recipe_sha256: loaded.sha256.clone(),
        models,
        cost,
        sample: sample.transpose()?,
        checkpoint: run.checkpoint_path(trained.step),
    };
    // Last: a run that has one is finished.
    run.write_json(REPORT_FILE, &report)?;
    Ok(report)
}

/// The report of a finished run whose models were removed since: there is nothing to go on from,
/// and nothing left to do.
fn report_of_cleaned(run: &RunDir, start: &Start) -> Result<Option<Report>> {
    let grows = start.stages[0].growth.is_some();
    let is_whole =
        !run.checkpoints()?.is_empty() && (!grows || run.path().join(GROWN_DIR).exists());
    let path = run.path().join(REPORT_FILE);
    if is_whole || !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let report = serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(path.display(), format!("not a run's report: {e}")))?;
    eprint_line(&format!(
        "{} holds this run, finished, and was cleaned of models since: this is its report",
        run.path().display()
    ));
    Ok(Some(report))
}

/// Opens the run's folder, refusing one that was made from another recipe or other inputs.
fn open_run(
    loaded: &LoadedRecipe,
    start: &Start,
    data_sha256: &str,
    source_sha256: Option<&str>,
    precision: Precision,
) -> Result<RunDir> {
    let run = RunDir::open(&loaded.recipe.out)?;
    let path = run.path().join(INPUTS_FILE);
    let inputs = json!({
        "recipe": loaded.recipe.identity(),
        "training text": data_sha256,
        "source checkpoint": source_sha256,
        "tokenizer": start.tokenizer.sha256(),
        "growth plan": start.growth_sha256(),
        "precision": precision,
    });
    let saved = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            run.write(RECIPE_FILE, &loaded.text)?;
            run.write_json(INPUTS_FILE, &inputs)?;
            return Ok(run);
        }
        read => read.map_err(Error::io("read", &path))?,
    };
    let saved: Value = serde_json::from_slice(&saved)
        .map_err(|e| Error::invalid(path.display(), format!("not valid JSON: {e}")))?;
    let changed = [
        "recipe",
        "training text",
        "source checkpoint",
        "tokenizer",
        "growth plan",
        "precision",
    ];
    // Runs of a version that knew f32 alone do not say so.
    let same = |input: &str| match &saved[input] {
        Value::Null if input == "precision" => precision == Precision::F32,
        found => *found == inputs[input],
    };
    let error = match changed.iter().find(|&&input| !same(input)) {
        None => return Ok(run),
        Some(&"recipe") => of_another_recipe(&loaded.recipe),
        Some(input) => Error::usage(format!(
            "{} holds a run of another {input}",
            run.path().display()
        )),
    };
    Err(error.with_hint("choose another `out`, or remove that folder"))
}

/// The error of a recipe whose folder holds a run of another.
fn of_another_recipe(recipe: &Recipe) -> Error {
    let old = recipe::load(&recipe.out.join(RECIPE_FILE), &[]).ok();
    another_recipe(&recipe.out, recipe, old.as_ref().map(|old| &old.recipe))
}

/// Why a recipe's folder would be refused, as far as that can be told before anything is read.
pub fn refusal_of_out(recipe: &Recipe) -> Option<Error> {
    if let Err(error) = run::KIND.check(&recipe.out) {
        return Some(error);
    }
    let inputs = owner::json(&recipe.out.join(INPUTS_FILE))?;
    let is_another = inputs["recipe"] != recipe.identity();
    is_another.then(|| of_another_recipe(recipe))
}

fn measures(recipe: &Recipe, start: &Start, device: &Device) -> Result<Measures> {
    let mut tasks = TaskChoice::of(recipe)?.load()?;
    let n_positions = start.config.n_positions;
    if recipe.eval.skip_bad {
        for task in &mut tasks {
            if task.record.data.skipped > 0 {
                let items = counted(task.record.data.skipped, "bad item", "bad items");
                eprint_line(&format!("{}: {items} left out", task.record.task));
            }
            leave_out_unfit(task, &[(&start.tokenizer, n_positions)])?;
        }
    }
    let tasks = tasks
        .iter()
        .map(|task| task.prepare(&start.tokenizer, n_positions));
    Ok(Measures {
        tasks: tasks.collect::<Result<_>>()?,
        val: Tokens::open(
            &recipe.data.val,
            Split::Val,
            &start.tokenizer,
            start.config.vocab_size,
        )?,
        windows: Windows::side_by_side(recipe.train.context, recipe.eval.val_tokens),
        device: device.clone(),
    })
}

/// Scores of source and grown model, measured once per run.
fn scores_before(
    recipe: &Recipe,
    start: &Start,
    measures: &Measures,
    run: &mut RunDir,
) -> Result<Vec<ModelScore>> {
    #[derive(Serialize, Deserialize)]
    struct Before {
        measures: String,
        models: Vec<ModelScore>,
    }
    let saved = std::fs::read(run.path().join(BEFORE_FILE)).ok();
    let saved: Option<Before> = saved.and_then(|text| serde_json::from_slice(&text).ok());
    let of = measures.identity();
    // Others than the run was started with would be compared with what it ends with.
    let before = match saved.filter(|saved| saved.measures == of) {
        Some(before) => before,
        None => {
            let models = start.scores(recipe.seed, measures)?;
            for (row, val) in models.iter().filter_map(|row| Some((row, row.val?))) {
                eprint_line(&format!("{}: val loss {}", row.model, figure(val.loss, 4)));
            }
            let before = Before {
                measures: of,
                models,
            };
            run.write_json(BEFORE_FILE, &before)?;
            before
        }
    };
    // A crash may have come between the file and the event.
    if !run.has_logged(0, "models")? {
        run.log(&json!({ "event": "before", "step": 0, "models": before.models }))?;
    }
    Ok(before.models)
}

/// The tokens of the recipe's prompt, if it has one.
fn prompt(recipe: &Recipe, start: &Start) -> Result<Option<Vec<u32>>> {
    let Some(prompt) = &recipe.eval.prompt else {
        return Ok(None);
    };
    if start.tokenizer.encode(prompt)?.is_empty() {
        return Err(Error::invalid(UNLOCATED, "eval.prompt has no tokens"));
    }
    start.tokenizer.encode_prompt(prompt).map(Some)
}

/// The prompt and what the trained model makes of it.
fn sample(prompt: &[u32], recipe: &Recipe, model: &Gpt2, start: &Start) -> Result<String> {
    let sampling = Sampling {
        temperature: 0.8,
        top_k: 50,
        top_p: 1.0,
        seed: recipe.seed,
    };
    // Without what the tokenizer has put in front of it.
    let given = recipe.eval.prompt.as_deref().unwrap_or_default();
    let mut made = Vec::new();
    let stop = start.tokenizer.end_of_text().ok();
    generate(model, prompt, SAMPLE_TOKENS, stop, sampling, &mut |id| {
        made.push(id);
        Ok(())
    })?;
    Ok(given.to_owned() + &start.tokenizer.decode_after(prompt, &made)?)
}
