//! `scale-ckpt compare`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scale_ckpt::clean::{Rest, free};
use scale_ckpt::compare::budget::{Ledger, Spent};
use scale_ckpt::compare::caveats::RateAtEdge;
use scale_ckpt::compare::config::{Amount, Arm, CompareConfig, scale_lr, trial};
use scale_ckpt::compare::findings::{self, CostClaim};
use scale_ckpt::compare::folder::{self, COMPARISON, Keep};
use scale_ckpt::compare::matching::Basis;
use scale_ckpt::compare::{ArmRuns, Findings, RunRecord, matching};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::durable;
use scale_ckpt::error::{Error, counted};
use scale_ckpt::home;
use scale_ckpt::progress::eprint_line;
use scale_ckpt::recipe::{ModelSource, Recipe};
use scale_ckpt::report::{comparison, table, text};
use scale_ckpt::{Result, VERSION};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::experiment::{
    Allowance, Budgeted, Ending, Job, fit, in_file, named_in, read, settled, write_report,
};
use super::natural;
use super::plan::{Disk, duration, missing_data};
use super::shared::{bytes, columns, print, print_json, thousands};
use super::start::Start;
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
    /// Models that are kept: without `all`, those of learning-rate trials are not [default: the
    /// recipe's, else needed].
    #[arg(long, value_name = "WHICH")]
    keep: Option<Keep>,
    /// Time no passes for the estimates.
    #[arg(long)]
    no_probe: bool,
    /// cpu, cuda, wgpu, cuda:N or wgpu:N; the recipe's unless given.
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
        // In the other languages, it is told what it is.
        let endings = [".toml", ".yml", ".yaml", ".json"];
        let is_recipe = |name: &String| endings.iter().any(|ending| name.ends_with(ending));
        match self.what.as_slice() {
            [recipe] if is_recipe(recipe) => self.experiment(&home::expand(recipe)?),
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
            (
                "--control",
                self.control.as_ref().map(|name| format!("control={name}")),
            ),
            (
                "--ledger",
                self.ledger.map(|ledger| {
                    format!(
                        "budget.{}=AMOUNT, or budget.ledger with budget.arm",
                        ledger.name()
                    )
                }),
            ),
            (
                "--out",
                self.out
                    .as_ref()
                    .map(|out| format!("out={}", out.display())),
            ),
        ];
        if let Some((flag, Some(set))) = of_runs.into_iter().find(|(_, set)| set.is_some()) {
            return Err(Error::usage(format!("{flag} is for folders of runs"))
                .with_hint(format!("of a recipe, give --set {set}")));
        }
        let mut config = CompareConfig::load(path, &self.set)?;
        config.keep = self.keep.unwrap_or(config.keep);
        COMPARISON.check(&config.out)?;
        let known = |name: &&String| config.arms.iter().any(|arm| arm.name == **name);
        if let Some(name) = self.only.iter().find(|name| !known(name)) {
            let names: Vec<&str> = config.arms.iter().map(|arm| arm.name.as_str()).collect();
            let error = Error::usage(format!("--only {name}: there is no such arm"));
            return Err(error.with_hint(format!("there are {}", names.join(", "))));
        }
        let spec = self.device.unwrap_or(config.device);
        let planned = Experiment::plan(config, spec, !self.no_probe);
        let mut experiment = planned.map_err(|error| in_file(error, path))?;
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
        experiment.check().map_err(|error| in_file(error, path))?;
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
            notes: experiment.sweep_notes(),
            rates_at_edge: experiment.rates_at_edge()?,
        }
        .report(self.json)
    }

    /// Compares runs that exist.
    fn records(&self) -> Result<()> {
        let of_recipes = [
            ("--dry-run", self.dry_run),
            ("--only", !self.only.is_empty()),
            ("--keep", self.keep.is_some()),
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
            rates_at_edge: Vec::new(),
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
    rates_at_edge: Vec<RateAtEdge>,
}

impl Comparison {
    fn report(mut self, as_json: bool) -> Result<()> {
        self.notes
            .extend(matching::check(&self.arms, &self.control)?);
        let Self {
            arms,
            control,
            ledger,
            title,
            out,
            notes,
            rates_at_edge,
        } = self;
        let found = Findings::of(&arms, &control, ledger, &title, notes, rates_at_edge)?;
        if let Some(out) = &out {
            folder::claim(&COMPARISON, out)?;
            write_report(out, &found, &comparison::document(&found))?;
        }
        if as_json {
            return print_json(&found);
        }
        print(&text::render(&comparison::summary(&found), columns()))?;
        match out {
            Some(out) => print(&format!("\nreport: {}", out.join("report.html").display())),
            None => Ok(()),
        }
    }
}

/// Where budgets in seconds keep what they were made from.
const PACES_FILE: &str = "paces.json";

/// What budgets in seconds were made from, on one kind of device.
#[derive(Default, Serialize, Deserialize)]
struct Paces {
    device: String,
    amount: f64,
    /// The arm whose time is the budget, where one's is.
    arm: Option<String>,
    seconds_per_flop: BTreeMap<String, f64>,
}

impl Paces {
    /// Those that an earlier start has kept; none of another device.
    fn read(out: &Path, spec: DeviceSpec) -> Result<Self> {
        let kept: Option<Self> = read(&out.join(PACES_FILE))?;
        let own = Self {
            device: spec.to_string(),
            ..Self::default()
        };
        Ok(kept.filter(|kept| kept.device == own.device).unwrap_or(own))
    }
}

/// FLOPs of the source that arms start from.
fn source_flops(recipes: &[Recipe]) -> Result<Option<f64>> {
    let has_source = |recipe: &&Recipe| matches!(recipe.model, ModelSource::From(_));
    let Some(recipe) = recipes.iter().find(has_source) else {
        return Ok(None);
    };
    let (start, _) = Start::unplanned(recipe)?;
    Ok(start.source_cost(recipe).0)
}

/// What an arm may spend besides, since it does not use the source.
fn sunk(arm: &Arm, recipe: &Recipe, ledger: Ledger, source: Option<f64>) -> Result<f64, String> {
    let name = &arm.name;
    if matches!(recipe.model, ModelSource::From(_)) {
        return Err(format!(
            "arm `{name}` uses a source, so that total = true would pay for it twice"
        ));
    }
    match (ledger, source) {
        (Ledger::Flops, Some(flops)) => Ok(flops),
        (Ledger::Flops, None) => Err(format!(
            "arm `{name}` may spend what the source cost, which nobody knows: state source_flops in [base]"
        )),
        _ => Err(format!(
            "arm `{name}` may spend what the source cost, which is known in flops alone"
        )),
    }
}

/// What a report is called that nobody named.
const TITLE: &str = "Comparison";

/// Folders that a name or a glob stands for.
fn expand(name: &str) -> Result<Vec<PathBuf>> {
    let path = home::expand(name)?;
    if path.exists() || !name.contains(['*', '?', '[']) {
        return Ok(vec![path]);
    }
    let bad = |why: String| Error::usage(format!("{name}: {why}"));
    let found = glob::glob(&home::expand_text(name)?).map_err(|e| bad(e.to_string()))?;
    let mut found: Vec<PathBuf> = found.flatten().filter(|path| path.is_dir()).collect();
    found.sort_by(|a, b| natural::order(a, b));
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
    /// What the arms are made of and measured on, once it is known.
    bases: BTreeMap<String, Basis>,
}

impl Experiment {
    fn plan(config: CompareConfig, spec: DeviceSpec, probe: bool) -> Result<Self> {
        let invalid = |message: String| Error::invalid("[budget]", message);
        let (ledger, amount) = config.budget.resolve().map_err(invalid)?;
        let mut paces = match ledger {
            Ledger::Seconds => Paces::read(&config.out, spec)?,
            _ => Paces::default(),
        };
        let amount = match amount {
            Amount::Of(amount) => amount,
            Amount::AsArm(name) if paces.arm.as_ref() == Some(&name) => paces.amount,
            Amount::AsArm(name) => {
                let arm = config.arms.iter().find(|arm| arm.name == name);
                let recipe = config.recipe_of(arm.expect("checked"))?;
                let own = settled(recipe, spec, ledger == Ledger::Seconds)
                    .map_err(|error| named_in(error, &format!("arm `{name}`")))?;
                let amount = own.spent.in_ledger(ledger).ok_or_else(|| {
                    Error::usage("a budget in seconds needs passes that can be timed")
                })?;
                if let Some(pace) = own.seconds_per_flop {
                    paces.seconds_per_flop.insert(name.clone(), pace);
                }
                paces.arm = Some(name);
                amount
            }
        };
        paces.amount = amount;
        let recipes = config.arms.iter().map(|arm| config.recipe_of(arm));
        let recipes: Vec<Recipe> = recipes.collect::<Result<_>>()?;
        let mut source = None;
        let mut arms = Vec::new();
        for (arm, recipe) in config.arms.iter().zip(&recipes) {
            let extra = if arm.total {
                if source.is_none() {
                    source = source_flops(&recipes)?;
                }
                sunk(arm, recipe, ledger, source).map_err(invalid)?
            } else {
                0.0
            };
            let allowance = Allowance {
                ledger,
                amount: amount + extra,
                fit: arm.fit,
                seconds_per_flop: paces.seconds_per_flop.get(&arm.name).copied(),
            };
            let budgeted = fit(recipe.clone(), allowance, spec, probe)
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
            bases: BTreeMap::new(),
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

    /// Bytes that stay on disk, and the most that there are at a time.
    fn disk(&self) -> Disk {
        let trials = |arm: &Planned| match &self.config.sweep {
            Some(sweep) if arm.sweep => sweep.lr_factors.len() as u64,
            _ => 0,
        };
        let of = |arm: &Planned| {
            let (needs, seeds) = (&arm.budgeted.needs, self.config.seeds.len() as u64);
            match self.config.keep {
                Keep::Needed => needs.checkpoint_bytes * seeds,
                Keep::All => (needs.checkpoint_bytes + needs.grown_bytes) * (seeds + trials(arm)),
            }
        };
        let stays = self.arms.iter().map(of).sum();
        Disk::of_runs(stays, self.arms.iter().map(|arm| &arm.budgeted.needs))
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
            "disk_bytes": self.disk().stays,
            "disk_peak_bytes": self.disk().peak,
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
            || "time unknown: no passes were timed".to_owned(),
            |seconds| {
                let time = duration(seconds);
                format!("about {time} on {}, evaluation not counted", self.spec)
            },
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
                "budget: {} {} for every run, whole steps; seeds {:?}{sweep}",
                self.ledger.shown(self.amount),
                self.ledger.unit(),
                self.config.seeds
            ),
            format!(
                "in all: {flops:.3e} FLOPs of training; {time}; {}",
                self.disk().text()
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
            device: self.spec.to_string(),
            amount: self.amount,
            arm: self.config.budget.arm.clone(),
            seconds_per_flop: self.arms.iter().filter_map(pace).collect(),
        };
        durable::write_json(&self.config.out.join(PACES_FILE), &paces)
    }

    /// Finds what is wrong with any arm, and what cannot be compared, before anything is spent.
    fn check(&mut self) -> Result<()> {
        for arm in &self.arms {
            let what = format!("arm `{}`", arm.name);
            let basis = train::basis(&arm.budgeted.recipe, self.spec, &what);
            let basis = basis.map_err(|error| named_in(error, &what))?;
            if let Some(first) = self.bases.get(&self.arms[0].name) {
                first.check(&basis)?;
            }
            self.bases.insert(arm.name.clone(), basis);
        }
        Ok(())
    }

    /// How many runs are not over.
    fn left(&self) -> Result<usize> {
        let mut left = 0;
        for &seed in &self.config.seeds {
            for arm in &self.arms {
                left += usize::from(match self.tuned(arm)? {
                    Tuned::NotYet => true,
                    Tuned::Never => false,
                    Tuned::By(factor) => self.job(arm, factor, seed).ending()?.is_none(),
                });
            }
        }
        Ok(left)
    }

    /// Runs what is left to run; says whether everything is over.
    fn run(&self, only: &[String]) -> Result<bool> {
        // Runs of something else are found before anything is spent.
        self.left()?;
        folder::claim(&COMPARISON, &self.config.out)?;
        self.keep_paces()?;
        let wanted = |arm: &&Planned| only.is_empty() || only.contains(&arm.name);
        for arm in self.arms.iter().filter(wanted) {
            for (_, job) in self.trials(arm) {
                job.run(self.spec)?;
                self.free(&job, Rest::Records)?;
            }
        }
        let mut jobs = Vec::new();
        for &seed in &self.config.seeds {
            for arm in self.arms.iter().filter(wanted) {
                if let Tuned::By(factor) = self.tuned(arm)? {
                    jobs.push(self.job(arm, factor, seed));
                }
            }
        }
        // First of all the recipes, for whoever runs some elsewhere.
        for job in jobs.iter().filter(|job| !job.file.exists()) {
            job.write()?;
        }
        for job in jobs {
            job.run(self.spec)?;
            self.free(&job, Rest::LastCheckpoint)?;
        }
        let left = self.left()?;
        if left > 0 {
            let runs = counted(left, "run of other arms is", "runs of other arms are");
            eprint_line(&format!("{runs} left"));
        }
        Ok(left == 0)
    }

    /// Frees what is not needed of a run that is over.
    fn free(&self, job: &Job, rest: Rest) -> Result<()> {
        if self.config.keep == Keep::Needed {
            free(&job.recipe.out, rest)?;
        }
        Ok(())
    }

    /// The records of all runs, which are over.
    fn arms_run(&self) -> Result<Vec<ArmRuns>> {
        let of = |arm: &Planned| {
            let (mut runs, mut diverged) = (Vec::new(), Vec::new());
            for &seed in &self.config.seeds {
                let Tuned::By(factor) = self.tuned(arm)? else {
                    diverged.push((seed, "as did every learning rate of the sweep".to_owned()));
                    continue;
                };
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
        let basis = self.bases[&arm.name].clone();
        Job::new(&self.config.out, "runs", name, recipe, basis)
    }

    /// The short runs that decide an arm's learning rate, by factor.
    fn trials(&self, arm: &Planned) -> Vec<(f64, Job)> {
        let Some(sweep) = self.config.sweep.as_ref().filter(|_| arm.sweep) else {
            return Vec::new();
        };
        let trial = |&factor: &f64| {
            let mut recipe = trial(&arm.budgeted.recipe, sweep.share, factor);
            recipe.seed = self.config.seeds[0];
            let name = format!("{}-lr-x{factor}", arm.name);
            // Trials are scored on the text alone.
            let mut basis = self.bases[&arm.name].clone();
            basis.measured.tasks.clear();
            let job = Job::new(&self.config.out, "sweep", name, recipe, basis);
            (factor, job)
        };
        sweep.lr_factors.iter().map(trial).collect()
    }

    /// How the learning rates were found.
    fn sweep_notes(&self) -> Vec<String> {
        let Some(sweep) = &self.config.sweep else {
            return Vec::new();
        };
        let fixed = self.arms.iter().filter(|arm| !arm.sweep);
        let fixed: Vec<&str> = fixed.map(|arm| arm.name.as_str()).collect();
        let mut note = format!(
            "learning rates: times {:?}, each tried once, with seed {}, on {} of the budget",
            sweep.lr_factors, self.config.seeds[0], sweep.share
        );
        if !fixed.is_empty() {
            note += &format!("; of {} they were not searched for", fixed.join(", "));
        }
        vec![note]
    }

    /// The arms whose best learning rate is the lowest or highest of those tried.
    fn rates_at_edge(&self) -> Result<Vec<RateAtEdge>> {
        let mut found = Vec::new();
        for arm in self.arms.iter().filter(|arm| arm.sweep) {
            if let (Tuned::By(factor), Some(sweep)) = (self.tuned(arm)?, &self.config.sweep) {
                let base = arm.budgeted.recipe.train.lr;
                found.extend(RateAtEdge::of(&arm.name, base, factor, &sweep.lr_factors));
            }
        }
        Ok(found)
    }

    /// The factor on an arm's learning rates: that of the trial with the lowest validation loss.
    fn tuned(&self, arm: &Planned) -> Result<Tuned> {
        let trials = self.trials(arm);
        if trials.is_empty() {
            return Ok(Tuned::By(1.0));
        }
        let mut best: Option<(f64, f64)> = None;
        for (factor, job) in trials {
            match job.ending()? {
                None => return Ok(Tuned::NotYet),
                Some(Ending::Finished(loss)) if best.is_none_or(|(_, least)| loss < least) => {
                    best = Some((factor, loss));
                }
                Some(_) => {}
            }
        }
        Ok(best.map_or(Tuned::Never, |(factor, _)| Tuned::By(factor)))
    }
}

/// What is known of an arm's learning rate.
enum Tuned {
    /// Not all trials are over.
    NotYet,
    /// Every trial diverged.
    Never,
    /// The best factor.
    By(f64),
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
