//! Arms with budgets, and their runs: what `compare` and `search` have in common.

use std::fs;
use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::account::Account;
use scale_ckpt::checkpoint::Gpt2Config;
use scale_ckpt::compare::budget::{self, Fit, Ledger, Spent};
use scale_ckpt::compare::config::loaded;
use scale_ckpt::compare::matching::Basis;
use scale_ckpt::compare::record::{DIVERGED_FILE, ReportFile, RunFile};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::durable;
use scale_ckpt::error::Error;
use scale_ckpt::progress::eprint_line;
use scale_ckpt::recipe::{Recipe, another_recipe};
use scale_ckpt::report::{Document, html, markdown};
use scale_ckpt::run::{REPORT_FILE, RUN_FILE};
use scale_ckpt::settings::UNLOCATED;
use scale_ckpt::stages::Origin;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plan::{Needs, needs};
use super::start::Start;
use super::train;

/// Steps of a recipe whose pace is measured before it has a budget.
const PACE_STEPS: u64 = 100;

/// A recipe whose budget is settled.
pub struct Budgeted {
    /// The recipe; `out` and `seed` are set for every run.
    pub recipe: Recipe,
    /// What it spends.
    pub spent: Spent,
    /// FLOPs of its source; none where nobody knows them.
    pub source_flops: Option<f64>,
    /// Shape of its model at first.
    pub config: Gpt2Config,
    /// Blocks of its model in the end.
    pub n_layer: usize,
    /// Memory, disk and time.
    pub needs: Needs,
    /// Its pace, where it is known.
    pub seconds_per_flop: Option<f64>,
}

/// What a recipe may spend.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    pub ledger: Ledger,
    pub amount: f64,
    pub fit: Fit,
    /// Known where it is kept from an earlier start; measured otherwise.
    pub seconds_per_flop: Option<f64>,
}

/// Gives a recipe as many tokens as are paid for. Passes are timed where `probe` says so, or the
/// budget is in seconds.
pub fn fit(
    mut recipe: Recipe,
    allowance: Allowance,
    spec: DeviceSpec,
    probe: bool,
) -> Result<Budgeted> {
    let (start, new_layers) = Start::unplanned(&recipe)?;
    let config = start.config.clone();
    let fits = recipe.train.check(config.n_positions);
    fits.map_err(|message| Error::invalid(UNLOCATED, message))?;
    let origin = Origin {
        config: &config,
        new_layers,
    };
    let Allowance {
        ledger,
        amount,
        fit,
        mut seconds_per_flop,
    } = allowance;
    if ledger == Ledger::Seconds && seconds_per_flop.is_none() {
        seconds_per_flop = Some(pace(&recipe, spec)?);
    }
    budget::fit(&mut recipe, &origin, fit, ledger, amount, seconds_per_flop)?;
    let mut budgeted = settled(recipe, spec, probe && seconds_per_flop.is_none())?;
    if let Some(rate) = seconds_per_flop {
        budgeted.spent.seconds = Some(rate * budgeted.spent.flops);
        budgeted.seconds_per_flop = seconds_per_flop;
    }
    Ok(budgeted)
}

/// A recipe with the tokens that it has.
pub fn settled(recipe: Recipe, spec: DeviceSpec, probe: bool) -> Result<Budgeted> {
    let start = Start::prepare(&recipe)?;
    let needs = needs(&recipe, &start, spec, probe)?;
    let timed = needs.timed.as_ref().ok();
    let seconds_per_flop = timed.map(|timed| 1.0 / timed.flops_per_s);
    let account = Account::new(&start.stages, &start.config, &recipe.train);
    let first = &start.stages[0];
    let depth = first
        .growth
        .as_ref()
        .map_or(first.n_layer, |plan| plan.source_n_layer);
    Ok(Budgeted {
        spent: Spent::of(&account, &recipe.train, seconds_per_flop),
        source_flops: start.source_cost(&recipe).0,
        n_layer: start.stages.last().map_or(0, |stage| stage.n_layer),
        config: start.config.with_n_layer(depth),
        needs,
        seconds_per_flop,
        recipe,
    })
}

/// Seconds per FLOP of a recipe's stages, from timed passes.
pub fn pace(recipe: &Recipe, spec: DeviceSpec) -> Result<f64> {
    let mut recipe = recipe.clone();
    recipe.train.warmup_tokens = 0;
    recipe.train.decay_tokens = None;
    if recipe.stages.is_empty() {
        recipe.train.unfreeze_at_tokens = None;
        recipe.train.tokens = Some(PACE_STEPS * recipe.train.batch_tokens);
    }
    for stage in &mut recipe.stages {
        stage.warmup_tokens = None;
        stage.decay_tokens = None;
    }
    let start = Start::prepare(&recipe)?;
    match needs(&recipe, &start, spec, true)?.timed {
        Ok(timed) => Ok(1.0 / timed.flops_per_s),
        Err(why) => Err(Error::usage(format!("a budget in seconds: {why}"))
            .with_hint("give the budget in flops, or run where passes can be timed")),
    }
}

/// A run of an experiment.
pub struct Job {
    /// What it is called in messages.
    pub name: String,
    /// Its recipe, folder and seed included.
    pub recipe: Recipe,
    /// Where the recipe is written, for `train` to run it elsewhere.
    pub file: PathBuf,
    /// What it is made of and measured on, as it is now.
    pub basis: Basis,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Its final validation loss.
    Finished(f64),
    /// It met a number that is not finite.
    Diverged(String),
}

impl Job {
    /// The run `name` of an experiment in `out`, in its folder `kind`.
    pub fn new(out: &Path, kind: &str, name: String, mut recipe: Recipe, basis: Basis) -> Self {
        recipe.out = out.join(kind).join(&name);
        Self {
            file: out.join("recipes").join(format!("{name}.toml")),
            name,
            recipe,
            basis,
        }
    }

    /// What became of it, if it is over.
    ///
    /// # Errors
    /// Its folder holds a run of another recipe.
    pub fn ending(&self) -> Result<Option<Ending>> {
        #[derive(Deserialize)]
        struct Diverged {
            message: String,
        }
        let out = &self.recipe.out;
        if !out.join(RUN_FILE).exists() {
            return Ok(None);
        }
        let run = RunFile::read(out)?;
        if run.recipe.identity() != self.recipe.identity() {
            return Err(another_recipe(out, &self.recipe, Some(&run.recipe)).with_hint(
                "the comparison or the program has changed since: choose another `out`, or remove that folder",
            ));
        }
        if let Some(what) = self.basis.changed_since(&run.basis(self.name.clone())) {
            let message = format!("{}: since it was begun, {what} has changed", out.display());
            return Err(Error::usage(message)
                .with_hint("change it back, choose another `out`, or remove that folder"));
        }
        if let Some(report) = read::<ReportFile>(&out.join(REPORT_FILE))? {
            let loss = report.models.last().and_then(|model| Some(model.val?.loss));
            return Ok(loss.map(Ending::Finished));
        }
        let diverged = read::<Diverged>(&out.join(DIVERGED_FILE))?;
        Ok(diverged.map(|diverged| Ending::Diverged(diverged.message)))
    }

    /// Runs it to its end, or goes on with it; nothing where it is over.
    ///
    /// # Errors
    /// It cannot be run, or a signal arrived.
    pub fn run(&self, spec: DeviceSpec) -> Result<Ending> {
        if let Some(ending) = self.ending()? {
            if let Ending::Diverged(message) = &ending {
                let file = self.recipe.out.join(DIVERGED_FILE);
                eprint_line(&format!(
                    "{}: diverged, {message}; to try it again, remove {}",
                    self.name,
                    file.display()
                ));
            }
            return Ok(ending);
        }
        let loaded = loaded(self.recipe.clone())?;
        self.write()?;
        eprint_line(&format!("{}: {}", self.name, self.recipe.out.display()));
        match train::run(&loaded, spec) {
            Ok(_) => {}
            Err(Error::Diverged { step, message }) => {
                let message = format!("step {}: {message}", step + 1);
                eprint_line(&format!("{}: diverged, {message}", self.name));
                let path = self.recipe.out.join(DIVERGED_FILE);
                durable::write_json(&path, &json!({ "message": message }))?;
            }
            Err(Error::Interrupted { message, .. }) => {
                return Err(Error::Interrupted {
                    message: format!("{}: {message}", self.name),
                    hint: Some("the same command goes on from there".into()),
                });
            }
            Err(error) => {
                eprint_line(&format!("{}: failed", self.name));
                return Err(error);
            }
        }
        let over = self.ending()?;
        over.ok_or_else(|| Error::invalid(self.recipe.out.display(), "the run left no final loss"))
    }

    /// Writes its recipe.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self) -> Result<()> {
        let dir = durable::parent_of(&self.file);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        durable::write_file(&self.file, loaded(self.recipe.clone())?.text.as_bytes())
    }
}

/// Reads JSON, where there is a file.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io("read", path))?,
    };
    let value = serde_json::from_slice(&text);
    let value = value.map_err(|e| Error::invalid(path.display(), format!("not as expected: {e}")));
    value.map(Some)
}

/// An error that says what it is of.
pub fn named_in(error: Error, what: &str) -> Error {
    match error {
        Error::Invalid { at, message, hint } if at == UNLOCATED => Error::Invalid {
            at: what.to_owned(),
            message,
            hint: hint.map(|hint| hint.replace("--set train.", "--set base.train.")),
        },
        Error::Invalid { at, message, hint } => Error::Invalid {
            at: format!("{what}: {at}"),
            message,
            hint,
        },
        Error::Usage { message, hint } => Error::Usage {
            message: format!("{what}: {message}"),
            hint,
        },
        error => error,
    }
}

/// An error of a part of an experiment, as [`named_in`] makes them, with the experiment's file.
pub fn in_file(error: Error, path: &Path) -> Error {
    let parts = ["arm `", "candidate `", "the baseline `", "[budget]"];
    match error {
        Error::Invalid { at, message, hint } if parts.iter().any(|part| at.starts_with(part)) => {
            Error::Invalid {
                at: format!("{}, {at}", path.display()),
                message,
                hint,
            }
        }
        error => error,
    }
}

/// Writes a report as JSON, Markdown and a page into an experiment's folder.
///
/// # Errors
/// A file cannot be written.
pub fn write_report(out: &Path, found: &impl Serialize, document: &Document) -> Result<()> {
    durable::write_json(&out.join(REPORT_FILE), found)?;
    let texts = [
        ("report.md", markdown::render(document)),
        ("report.html", html::render(document)),
    ];
    for (name, text) in texts {
        durable::write_file(&out.join(name), text.as_bytes())?;
    }
    Ok(())
}
