//! `scale-ckpt compare`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scale_ckpt::compare::budget::{Ledger, Spent};
use scale_ckpt::compare::config::{Amount, CompareConfig, scale_lr, trial};
use scale_ckpt::compare::findings::{self, CostClaim};
use scale_ckpt::compare::matching::Basis;
use scale_ckpt::compare::{ArmRuns, Findings, RunRecord, matching};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::durable;
use scale_ckpt::error::Error;
use scale_ckpt::progress::eprint_line;
use scale_ckpt::recipe::Recipe;
use scale_ckpt::report::{comparison, html, markdown, table, text};
use scale_ckpt::{Result, VERSION};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::experiment::{Allowance, Budgeted, Ending, Job, fit, named_in, read, settled};
use super::plan::{duration, missing_data};
use super::shared::{bytes, print, print_json, thousands};
use super::train;

const AFTER_HELP: &str = "\
Of a recipe (.toml), the arms are run one after another, and the same command goes on where it was
stopped. Every run is an ordinary one: OUT/recipes has its recipe for `scale-ckpt train`, on this or
another machine; --only runs some arms. Of folders of runs, the records are compared as they are.";

/// Compare ways to spend compute: grown, ungrown, from scratch, layer by layer.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// A comparison's recipe (.toml), or folders of finished runs.
    #[arg(required = true, value_name = "RECIPE|RUN")]
    what: Vec<String>,
    /// Show arms, budgets and estimates; run nothing, write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Run these arms alone, separated by commas; the report waits for the others.
    #[arg(long, value_delimiter = ',', value_name = "ARMS")]
    only: Vec<String>,
    /// Change a key of the recipe, as in budget.flops=1e15; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Of runs: the one that the others are compared with; the first unless given.
    #[arg(long, value_name = "NAME")]
    control: Option<String>,
    /// Of runs: what compute is counted in.
    #[arg(long, value_name = "LEDGER")]
    ledger: Option<Ledger>,
    /// Of runs: a folder for the report.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Time no passes for the estimates.
    #[arg(long)]
    no_probe: bool,
    /// cpu, cuda or cuda:N; the recipe's unless given.
    #[arg(long)]
    device: Option<DeviceSpec>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// An arm with its budget.
struct Planned {
    name: String,
    about: Option<String>,
    sweep: bool,
    total: bool,
    budgeted: Budgeted,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let is_recipe = |name: &String| name.ends_with(".toml");
        match self.what.as_slice() {
            [recipe] if is_recipe(recipe) => self.experiment(Path::new(recipe)),
            runs if runs.iter().any(is_recipe) => Err(Error::usage(
                "a comparison's recipe is given with something else",
            )
            .with_hint("give one recipe, or folders of runs")),
            _ => self.records(),
        }
    }

    /// Runs what a recipe says, and reports.
    fn experiment(&self, path: &Path) -> Result<()> {
        let of_runs = [
            ("--control", self.control.is_some()),
            ("--ledger", self.ledger.is_some()),
            ("--out", self.out.is_some()),
        ];
        if let Some((flag, _)) = of_runs.iter().find(|(_, given)| *given) {
            return Err(Error::usage(format!("{flag} is for folders of runs"))
                .with_hint("say it in the recipe, or with --set"));
        }
        let config = CompareConfig::load(path, &self.set)?;
        let spec = self.device.unwrap_or(config.device);
        let experiment = Experiment::plan(config, spec, !self.no_probe)?;
        experiment.warn();
        if self.dry_run {
            return if self.json {
                print_json(&experiment.json())
            } else {
                print(&experiment.text())?;
                let claims = comparison::claims_table(&experiment.claims());
                claims.map_or(Ok(()), |table| {
                    let heading = "the cost claim of arXiv 2411.18700";
                    print(&format!("\n{heading}\n\n{}", text::table(&table)))
                })
            };
        }
        eprint_line(&experiment.text());
        if !experiment.run(&self.only)? {
            return print("not all runs are finished: no report yet");
        }
        let config = &experiment.config;
        Comparison {
            arms: experiment.arms_run()?,
            control: config.control().to_owned(),
            ledger: experiment.ledger,
            title: config.title.as_deref().unwrap_or(TITLE).to_owned(),
            out: Some(config.out.clone()),
            notes: experiment.at_the_edge()?,
        }
        .report(self.json)
    }

    /// Compares runs that exist.
    fn records(&self) -> Result<()> {
        let of_recipes = [
            ("--dry-run", self.dry_run),
            ("--only", !self.only.is_empty()),
            ("--set", !self.set.is_empty()),
            ("--no-probe", self.no_probe),
            ("--device", self.device.is_some()),
        ];
        if let Some((flag, _)) = of_recipes.iter().find(|(_, given)| *given) {
            return Err(Error::usage(format!("{flag} is for a comparison's recipe")));
        }
        let mut runs = Vec::new();
        for name in &self.what {
            for path in expand(name)? {
                runs.push(RunRecord::read(&path)?);
            }
        }
        if runs.len() < 2 {
            return Err(Error::usage("one run is nothing to compare")
                .with_hint("name two or more, as in runs/*, or a comparison's recipe"));
        }
        let arms = matching::arms_of(runs)?;
        let first = arms[0].name.clone();
        Comparison {
            control: self.control.clone().unwrap_or(first),
            arms,
            ledger: self.ledger.unwrap_or_default(),
            title: TITLE.to_owned(),
            out: self.out.clone(),
            notes: Vec::new(),
        }
        .report(self.json)
    }
}

/// Finished runs that are to be compared.
struct Comparison {
    arms: Vec<ArmRuns>,
    control: String,
    ledger: Ledger,
    title: String,
    out: Option<PathBuf>,
    notes: Vec<String>,
}

impl Comparison {
    fn report(mut self, as_json: bool) -> Result<()> {
        self.notes.extend(matching::check(&self.arms)?);
        let Self {
            arms,
            control,
            ledger,
            title,
            out,
            notes,
        } = self;
        let found = Findings::of(&arms, &control, ledger, &title, notes)?;
        if let Some(out) = &out {
            std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
            let document = comparison::document(&found);
            durable::write_json(&out.join("report.json"), &found)?;
            let texts = [
                ("report.md", markdown::render(&document)),
                ("report.html", html::render(&document)),
            ];
            for (name, text) in texts {
                durable::write_file(&out.join(name), text.as_bytes())?;
            }
        }
        if as_json {
            return print_json(&found);
        }
        print(&text::render(&comparison::summary(&found)))?;
        match out {
            Some(out) => print(&format!("\nreport: {}", out.join("report.html").display())),
            None => Ok(()),
        }
    }
}

/// Where budgets in seconds keep what they were made from.
const PACES_FILE: &str = "paces.json";

/// The budget in seconds, and the pace of every arm.
#[derive(Default, Serialize, Deserialize)]
struct Paces {
    amount: f64,
    seconds_per_flop: BTreeMap<String, f64>,
}

/// What a report is called that nobody named.
const TITLE: &str = "Comparison";

/// Folders that a name or a glob stands for.
fn expand(name: &str) -> Result<Vec<PathBuf>> {
    let path = PathBuf::from(name);
    if path.exists() || !name.contains(['*', '?', '[']) {
        return Ok(vec![path]);
    }
    let bad = |why: String| Error::usage(format!("{name}: {why}"));
    let found = glob::glob(name).map_err(|e| bad(e.to_string()))?;
    let mut found: Vec<PathBuf> = found.flatten().filter(|path| path.is_dir()).collect();
    found.sort();
    if found.is_empty() {
        return Err(bad("no folder is called that".into()));
    }
    Ok(found)
}

/// A comparison whose budgets are settled.
struct Experiment {
    config: CompareConfig,
    ledger: Ledger,
    amount: f64,
    arms: Vec<Planned>,
    spec: DeviceSpec,
}

impl Experiment {
    fn plan(config: CompareConfig, spec: DeviceSpec, probe: bool) -> Result<Self> {
        let invalid = |message: String| Error::invalid("[budget]", message);
        let (ledger, amount) = config.budget.resolve().map_err(invalid)?;
        let kept: Paces = read(&config.out.join(PACES_FILE))?.unwrap_or_default();
        let amount = match amount {
            Amount::Of(amount) => amount,
            Amount::AsArm(_) if ledger == Ledger::Seconds && kept.amount > 0.0 => kept.amount,
            Amount::AsArm(name) => {
                let arm = config.arms.iter().find(|arm| arm.name == name);
                let recipe = config.recipe_of(arm.expect("checked"))?;
                let own = settled(recipe, spec, ledger == Ledger::Seconds)?;
                own.spent.in_ledger(ledger).ok_or_else(|| {
                    Error::usage("a budget in seconds needs passes that can be timed")
                })?
            }
        };
        let recipes = config.arms.iter().map(|arm| config.recipe_of(arm));
        let recipes: Vec<Recipe> = recipes.collect::<Result<_>>()?;
        let source_flops = recipes.iter().find_map(|recipe| recipe.source_flops);
        let mut arms = Vec::new();
        for (arm, recipe) in config.arms.iter().zip(recipes) {
            let extra = match (arm.total, ledger, source_flops) {
                (false, ..) => 0.0,
                (true, Ledger::Flops, Some(flops)) => flops,
                (true, Ledger::Flops, None) => {
                    let message = format!(
                        "arm `{}` may spend what the source cost, and no recipe has source_flops",
                        arm.name
                    );
                    return Err(invalid(message));
                }
                (true, ..) => {
                    let message = format!(
                        "arm `{}` may spend what the source cost, which is known in flops alone",
                        arm.name
                    );
                    return Err(invalid(message));
                }
            };
            let allowance = Allowance {
                ledger,
                amount: amount + extra,
                fit: arm.fit,
                seconds_per_flop: (ledger == Ledger::Seconds)
                    .then(|| kept.seconds_per_flop.get(&arm.name).copied())
                    .flatten(),
            };
            let budgeted = fit(recipe, allowance, spec, probe)
                .map(|budgeted| measured(budgeted, &config))
                .map_err(|error| named_in(error, &format!("arm `{}`", arm.name)))?;
            arms.push(Planned {
                name: arm.name.clone(),
                about: arm.about.clone(),
                sweep: arm.sweep && config.sweep.is_some(),
                total: arm.total,
                budgeted,
            });
        }
        Ok(Self {
            config,
            ledger,
            amount,
            arms,
            spec,
        })
    }

    /// Warns of what is not there yet.
    fn warn(&self) {
        let mut warnings: Vec<String> = Vec::new();
        for arm in &self.arms {
            for warning in missing_data(&arm.budgeted.recipe) {
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        for warning in warnings {
            eprint_line(&format!("warning: {warning}"));
        }
    }

    /// FLOPs and seconds of everything: sweeps and all seeds.
    fn effort(&self) -> (f64, Option<f64>) {
        let share = |arm: &Planned| match &self.config.sweep {
            Some(sweep) if arm.sweep => sweep.share * sweep.lr_factors.len() as f64,
            _ => 0.0,
        };
        let runs = |arm: &Planned| self.config.seeds.len() as f64 + share(arm);
        let spent = |arm: &Planned| arm.budgeted.spent;
        let flops = self.arms.iter().map(|arm| runs(arm) * spent(arm).flops);
        let seconds = self
            .arms
            .iter()
            .map(|arm| Some(runs(arm) * spent(arm).seconds?));
        (flops.sum(), seconds.sum())
    }

    fn disk(&self) -> u64 {
        let per_seed = self.arms.iter().map(|arm| {
            let recipe = &arm.budgeted.recipe;
            arm.budgeted.needs.checkpoint_bytes * recipe.train.keep as u64
        });
        per_seed.sum::<u64>() * self.config.seeds.len() as u64
    }

    fn json(&self) -> Value {
        let arms = self.arms.iter().map(|arm| {
            let Budgeted {
                spent,
                source_flops,
                config,
                n_layer,
                needs,
                recipe,
                ..
            } = &arm.budgeted;
            json!({
                "name": arm.name,
                "about": arm.about,
                "n_layer": [config.n_layer, *n_layer],
                "parameters": needs.parameters,
                "spent": spent,
                "source_flops": source_flops,
                "total": arm.total,
                "checkpoint_bytes": needs.checkpoint_bytes,
                "memory_bytes": needs.memory_bytes,
                "recipe": recipe,
            })
        });
        let (flops, seconds) = self.effort();
        json!({
            "schema": 1,
            "tool_version": VERSION,
            "ledger": self.ledger,
            "budget": self.amount,
            "control": self.config.control(),
            "seeds": self.config.seeds,
            "device": self.spec.to_string(),
            "arms": arms.collect::<Vec<_>>(),
            "flops": flops,
            "seconds": seconds,
            "disk_bytes": self.disk(),
            "cost_claims": self.claims(),
        })
    }

    fn text(&self) -> String {
        let header = [
            "arm",
            "n_layer",
            "parameters",
            "tokens",
            "steps",
            "FLOPs",
            "with source",
            "layer passes",
            "memory",
            "time",
        ];
        let mut right = [true; 10];
        right[0] = false;
        let cells = self.arms.iter().map(|arm| {
            let Budgeted {
                spent,
                source_flops,
                config,
                n_layer,
                needs,
                ..
            } = &arm.budgeted;
            let Spent {
                steps,
                tokens,
                flops,
                layer_passes,
                seconds,
            } = *spent;
            let depth = if config.n_layer == *n_layer {
                n_layer.to_string()
            } else {
                format!("{} -> {n_layer}", config.n_layer)
            };
            let total = source_flops.map(|source| source + flops);
            vec![
                arm.name.clone(),
                depth,
                thousands(needs.parameters),
                thousands(tokens),
                thousands(steps),
                format!("{flops:.3e}"),
                total.map_or_else(|| "unknown".into(), |total| format!("{total:.3e}")),
                format!("{layer_passes:.3e}"),
                bytes(needs.memory_bytes),
                seconds.map_or_else(|| "-".into(), duration),
            ]
        });
        let cells: Vec<Vec<String>> = cells.collect();
        let (flops, seconds) = self.effort();
        let time = seconds.map_or_else(
            || "unknown".to_owned(),
            |seconds| format!("about {} on {}", duration(seconds), self.spec),
        );
        let sweep = match &self.config.sweep {
            Some(sweep) if self.arms.iter().any(|arm| arm.sweep) => format!(
                ", learning rates times {:?} tried on {} of the budget",
                sweep.lr_factors, sweep.share
            ),
            _ => String::new(),
        };
        [
            table::render(&header, &right, &cells),
            String::new(),
            format!(
                "budget: {:.4e} {} for every run, whole steps; seeds {:?}{sweep}",
                self.amount,
                self.ledger.unit(),
                self.config.seeds
            ),
            format!(
                "in all: {flops:.3e} FLOPs of training, time {time} without evaluation, disk {}",
                bytes(self.disk())
            ),
        ]
        .join("\n")
    }

    /// What incremental arms cost beside full training.
    fn claims(&self) -> Vec<CostClaim> {
        let of = |arm: &Planned| {
            let Budgeted { recipe, config, .. } = &arm.budgeted;
            findings::cost_claim(&arm.name, recipe, config)
        };
        self.arms.iter().filter_map(of).collect()
    }

    /// Keeps what budgets in seconds were made from: measured again, they would be others.
    fn keep_paces(&self) -> Result<()> {
        if self.ledger != Ledger::Seconds {
            return Ok(());
        }
        let pace = |arm: &Planned| Some((arm.name.clone(), arm.budgeted.seconds_per_flop?));
        let paces = Paces {
            amount: self.amount,
            seconds_per_flop: self.arms.iter().filter_map(pace).collect(),
        };
        let out = &self.config.out;
        std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
        durable::write_json(&out.join(PACES_FILE), &paces)
    }

    /// Finds what is wrong with any arm, and what cannot be compared, before anything is spent.
    fn check(&self) -> Result<()> {
        let mut first: Option<Basis> = None;
        for arm in &self.arms {
            let what = format!("arm `{}`", arm.name);
            let basis = train::basis(&arm.budgeted.recipe, self.spec, &what);
            let basis = basis.map_err(|error| named_in(error, &what))?;
            match &first {
                Some(first) => first.check(&basis)?,
                None => first = Some(basis),
            }
        }
        Ok(())
    }

    /// Runs what is left to run; says whether everything is over.
    fn run(&self, only: &[String]) -> Result<bool> {
        let spec = self.spec;
        self.check()?;
        self.keep_paces()?;
        let known = |name: &&String| self.arms.iter().any(|arm| arm.name == **name);
        if let Some(name) = only.iter().find(|name| !known(name)) {
            return Err(Error::usage(format!("--only {name}: there is no such arm")));
        }
        let wanted = |arm: &&Planned| only.is_empty() || only.contains(&arm.name);
        for arm in self.arms.iter().filter(wanted) {
            self.factor(arm, spec)?;
        }
        for &seed in &self.config.seeds {
            for arm in self.arms.iter().filter(wanted) {
                self.job(arm, self.factor(arm, spec)?, seed).run(spec)?;
            }
        }
        let mut left = 0;
        for &seed in &self.config.seeds {
            for arm in self.arms.iter().filter(|arm| !wanted(arm)) {
                // Its learning rate is not known before its sweep is over.
                let Some(factor) = self.known_factor(arm)? else {
                    left += 1;
                    continue;
                };
                left += usize::from(self.job(arm, factor, seed).ending()?.is_none());
            }
        }
        if left > 0 {
            eprint_line(&format!("{left} runs of other arms are left"));
        }
        Ok(left == 0)
    }

    /// The records of all runs, which are over.
    fn arms_run(&self) -> Result<Vec<ArmRuns>> {
        let of = |arm: &Planned| {
            let factor = self.known_factor(arm)?.expect("all trials are over");
            let (mut runs, mut diverged) = (Vec::new(), Vec::new());
            for &seed in &self.config.seeds {
                let job = self.job(arm, factor, seed);
                match job.ending()? {
                    Some(Ending::Diverged(message)) => diverged.push((seed, message)),
                    _ => runs.push(RunRecord::read(&job.recipe.out)?),
                }
            }
            Ok(ArmRuns {
                name: arm.name.clone(),
                about: arm.about.clone(),
                runs,
                diverged,
            })
        };
        self.arms.iter().map(of).collect()
    }

    fn job(&self, arm: &Planned, factor: f64, seed: u64) -> Job {
        let mut recipe = arm.budgeted.recipe.clone();
        scale_lr(&mut recipe, factor);
        recipe.seed = seed;
        let name = format!("{}-seed-{seed}", arm.name);
        recipe.out = self.config.out.join("runs").join(&name);
        Job {
            file: self.config.out.join("recipes").join(format!("{name}.toml")),
            name,
            recipe,
        }
    }

    fn trials(&self, arm: &Planned) -> Vec<(f64, Job)> {
        let Some(sweep) = self.config.sweep.as_ref().filter(|_| arm.sweep) else {
            return Vec::new();
        };
        let trial = |&factor: &f64| {
            let mut recipe = trial(&arm.budgeted.recipe, sweep.share, factor);
            recipe.seed = self.config.seeds[0];
            let name = format!("{}-lr-x{factor}", arm.name);
            recipe.out = self.config.out.join("sweep").join(&name);
            let file = self.config.out.join("recipes").join(format!("{name}.toml"));
            (factor, Job { name, recipe, file })
        };
        sweep.lr_factors.iter().map(trial).collect()
    }

    /// What the sweep leaves open: whether a rate beyond those tried would have been better.
    fn at_the_edge(&self) -> Result<Vec<String>> {
        let Some(sweep) = &self.config.sweep else {
            return Ok(Vec::new());
        };
        let factors = || sweep.lr_factors.iter().copied();
        let low = factors().fold(f64::INFINITY, f64::min);
        let high = factors().fold(0.0, f64::max);
        let (mut lowest, mut highest) = (Vec::new(), Vec::new());
        for arm in self.arms.iter().filter(|arm| arm.sweep) {
            match self.known_factor(arm)? {
                Some(factor) if factor == low => lowest.push(arm.name.as_str()),
                Some(factor) if factor == high => highest.push(arm.name.as_str()),
                _ => {}
            }
        }
        let mut notes = vec![format!(
            "learning rates: times {:?}, each tried once, with seed {}, on {} of the budget",
            sweep.lr_factors, self.config.seeds[0], sweep.share
        )];
        for (arms, which) in [(lowest, "lowest"), (highest, "highest")] {
            if !arms.is_empty() {
                notes.push(format!(
                    "the {which} rate that was tried was the best for {}: one beyond it may be better",
                    arms.join(", ")
                ));
            }
        }
        Ok(notes)
    }

    /// The factor on an arm's learning rates, after the trials that are left.
    fn factor(&self, arm: &Planned, spec: DeviceSpec) -> Result<f64> {
        for (_, job) in self.trials(arm) {
            job.run(spec)?;
        }
        Ok(self.known_factor(arm)?.expect("all trials are over"))
    }

    /// That factor, where all trials are over: the one with the lowest validation loss.
    fn known_factor(&self, arm: &Planned) -> Result<Option<f64>> {
        let mut best: Option<(f64, f64)> = None;
        let trials = self.trials(arm);
        if trials.is_empty() {
            return Ok(Some(1.0));
        }
        for (factor, job) in trials {
            match job.ending()? {
                None => return Ok(None),
                Some(Ending::Finished(loss)) if best.is_none_or(|(_, least)| loss < least) => {
                    best = Some((factor, loss));
                }
                Some(_) => {}
            }
        }
        match best {
            Some((factor, _)) => Ok(Some(factor)),
            None => Err(Error::Failed {
                message: format!("{}: every learning rate of the sweep diverged", arm.name),
            }),
        }
    }
}

/// Sets how often a recipe measures and saves, where it does not say so itself.
fn measured(mut budgeted: Budgeted, config: &CompareConfig) -> Budgeted {
    let tokens = budgeted.spent.tokens;
    let recipe = &mut budgeted.recipe;
    let every = |parts: u64| (tokens / parts).max(recipe.train.batch_tokens);
    let (points, saves) = (every(config.points), every(SAVES));
    let task_points = config
        .task_points
        .filter(|_| !recipe.eval.tasks.is_empty())
        .map(every);
    recipe.train.eval_every_tokens.get_or_insert(points);
    recipe.train.save_every_tokens.get_or_insert(saves);
    recipe.train.keep = 1;
    recipe.eval.every_tokens = recipe.eval.every_tokens.or(task_points);
    budgeted
}

/// Checkpoints along a run, of which the newest is kept.
const SAVES: u64 = 8;
