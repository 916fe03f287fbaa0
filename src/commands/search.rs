//! `scale-ckpt search`.

use std::path::PathBuf;

use scale_ckpt::clean::{Rest, free};
use scale_ckpt::compare::budget::{self, Fit, Ledger};
use scale_ckpt::compare::folder::{self, Keep, SEARCH};
use scale_ckpt::compare::matching::Basis;
use scale_ckpt::compare::search::{
    BASELINE, Foretelling, Named, Ranked, Rung, SearchConfig, Standing, conclusion, foretelling,
    rank,
};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::durable;
use scale_ckpt::error::{Error, counted};
use scale_ckpt::growth::{Asked, GrowthPlan, plan_file};
use scale_ckpt::progress::eprint_line;
use scale_ckpt::recipe::Recipe;
use scale_ckpt::report::{search, text};
use scale_ckpt::run::BEFORE_FILE;
use scale_ckpt::settings::UNLOCATED;
use scale_ckpt::{Result, VERSION};
use serde::Serialize;
use serde_json::{Value, json};

use super::experiment::{
    Allowance, Budgeted, Ending, Job, fit, in_file, named_in, read, write_report,
};
use super::plan::{Disk, Needs};
use super::shared::{columns, print, print_json};
use super::start::Start;
use super::train;

/// The winner's plan, for `grow --plan` and recipes.
const WINNER: &str = "winner.toml";

/// Search for a growth plan: candidates ranked at step 0, then trained, by successive halving.
///
/// Beside the candidates the source as it is, `continued`, is trained on for as many FLOPs. The same
/// command goes on where it was stopped. The best candidate is written as a plan file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The search's recipe.
    recipe: PathBuf,
    /// Show candidates and rungs; run nothing, write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Change a key of the recipe, as in flops=1e15; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Models that are kept: without `all`, those of candidates that lost are not [default: the
    /// recipe's, else needed].
    #[arg(long, value_name = "WHICH")]
    keep: Option<Keep>,
    /// cpu, cuda, wgpu, cuda:N or wgpu:N; the recipe's unless given.
    #[arg(long)]
    device: Option<DeviceSpec>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What a search found.
#[derive(Serialize)]
struct Found<'a> {
    schema: u32,
    tool_version: &'static str,
    device: String,
    seed: u64,
    flops: f64,
    eta: usize,
    rungs: &'a [Rung],
    /// What is worth saying, the most important first.
    conclusion: &'a [String],
    /// Validation loss of the source as it is.
    source_loss: Option<f64>,
    /// The source, trained on in every rung.
    baseline: &'a Ranked,
    candidates: &'a [Ranked],
    foretelling: &'a [Foretelling],
    winner: &'a str,
    /// What the winner is worth.
    standing: Standing,
}

/// What is trained in a rung, with its recipe at the last rung's budget.
struct Contender {
    name: String,
    n_layer: usize,
    needs: Needs,
    recipe: Recipe,
    basis: Basis,
}

/// What came of a search.
struct Climbed {
    ranked: Vec<Ranked>,
    baseline: Ranked,
    winner: GrowthPlan,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let path = self.recipe.clone();
        self.search().map_err(|error| in_file(error, &path))
    }

    fn search(self) -> Result<()> {
        let mut config = SearchConfig::load(&self.recipe, &self.set)?;
        config.keep = self.keep.unwrap_or(config.keep);
        SEARCH.check(&config.out)?;
        let spec = self.device.unwrap_or(config.device);
        let all = config.all();
        // Candidates share the source: any of their recipes names it.
        let (source, _) = Start::unplanned(&config.recipe_of(&all[0])?)?;
        let planned = plans(all, source.config.n_layer)?;
        if planned.len() < 2 {
            let message = "fewer than two candidates can be grown from this source";
            return Err(Error::invalid(self.recipe.display(), message));
        }
        let rungs = config.rungs(planned.len());
        let last = rungs.last().expect("two candidates make a rung");
        let flops = last.flops;
        let contender = |recipe: Recipe, name: &str, n_layer: Option<usize>| {
            contender(recipe, name, n_layer, flops, spec)
        };
        let baseline = contender(config.baseline_recipe(&source.config)?, BASELINE, None)?;
        let mut candidates: Vec<(Contender, GrowthPlan)> = Vec::new();
        for (named, plan) in planned {
            let recipe = config.recipe_of(&named)?;
            candidates.push((contender(recipe, &named.name, Some(plan.n_layer()))?, plan));
        }
        let plan = text::table(&search::plan_table(
            &rungs,
            &candidates
                .iter()
                .map(|(one, plan)| (one.name.as_str(), plan.to_string()))
                .collect::<Vec<_>>(),
        ));
        let disk = disk(&config, &rungs, &baseline, &candidates);
        if self.dry_run {
            if self.json {
                let names: Vec<&str> = candidates
                    .iter()
                    .map(|(one, _)| one.name.as_str())
                    .collect();
                return print_json(&json!({
                    "schema": 1,
                    "rungs": rungs,
                    "baseline": BASELINE,
                    "candidates": names,
                    "disk_bytes": disk.stays,
                    "disk_peak_bytes": disk.peak,
                }));
            }
            return print(&format!("{plan}\n\n{}", disk.text()));
        }
        eprint_line(&plan);
        folder::claim(&SEARCH, &config.out)?;
        let climbed = climb(&config, &rungs, &baseline, candidates, spec)?;
        self.report(&config, &rungs, &climbed, spec)
    }

    fn report(
        &self,
        config: &SearchConfig,
        rungs: &[Rung],
        climbed: &Climbed,
        spec: DeviceSpec,
    ) -> Result<()> {
        let Climbed {
            ranked,
            baseline,
            winner: plan,
        } = climbed;
        let winner = &ranked[0];
        let told = foretelling(ranked);
        let conclusion = conclusion(winner, baseline, rungs.len());
        let found = Found {
            schema: 1,
            tool_version: VERSION,
            device: spec.to_string(),
            seed: config.seed,
            flops: config.flops,
            eta: config.eta,
            rungs,
            conclusion: &conclusion,
            source_loss: baseline.losses.first().copied(),
            baseline,
            candidates: ranked,
            foretelling: &told,
            winner: &winner.name,
            standing: Standing::of(winner, baseline, rungs.len()),
        };
        let document = search::document(rungs, ranked, baseline, &told, &conclusion, config);
        let out = &config.out;
        write_report(out, &found, &document)?;
        let comment = [
            format!(
                "{}, the best of {} in a search by scale-ckpt {VERSION}.",
                winner.name,
                counted(ranked.len(), "candidate", "candidates")
            ),
            conclusion[0].clone(),
        ];
        let comment: String = comment.iter().map(|line| format!("# {line}\n")).collect();
        let file = out.join(WINNER);
        let text = format!("{comment}{}", plan_file::render(plan)?);
        durable::write_file(&file, text.as_bytes())?;
        folder::free_all(out, config.keep)?;
        if self.json {
            return print_json(&found);
        }
        print(&text::render(&document, columns()))?;
        let (name, standing) = (&winner.name, found.standing.words());
        print(&format!("\nplan of {name}, {standing}: {}", file.display()))
    }
}

/// The candidates with their plans. Combinations that cannot be are named and left out.
fn plans(all: Vec<Named>, depth: usize) -> Result<Vec<(Named, GrowthPlan)>> {
    let mut planned: Vec<(Named, GrowthPlan)> = Vec::new();
    for named in all {
        match named.grow.resolve(depth, Asked::ByRecipe) {
            Ok(plan) => match same(&planned, &plan) {
                Some(other) => {
                    eprint_line(&format!(
                        "{} is left out: the same plan as {other}",
                        named.name
                    ));
                }
                None => planned.push((named, plan)),
            },
            Err(error) if named.combined => {
                eprint_line(&format!("{} is left out: {error}", named.name));
            }
            Err(error) => {
                let name = format!("candidate `{}`", named.name);
                return Err(named_in(error.within(UNLOCATED), &name));
            }
        }
    }
    Ok(planned)
}

/// The candidate that has this plan already.
fn same<'a>(planned: &'a [(Named, GrowthPlan)], plan: &GrowthPlan) -> Option<&'a str> {
    let mut all = planned.iter();
    let (named, _) = all.find(|(_, other)| other.slots == plan.slots)?;
    Some(&named.name)
}

/// What it is called in errors.
fn title(name: &str) -> String {
    match name {
        BASELINE => format!("the baseline `{BASELINE}`"),
        name => format!("candidate `{name}`"),
    }
}

/// A recipe with as many steps as are paid for.
fn paid(recipe: Recipe, flops: f64, spec: DeviceSpec, name: &str) -> Result<Budgeted> {
    let allowance = Allowance {
        ledger: Ledger::Flops,
        amount: flops,
        fit: Fit::Last,
        seconds_per_flop: None,
    };
    fit(recipe, allowance, spec, false).map_err(|error| named_in(error, &title(name)))
}

/// What is trained; its depth is the source's unless given.
fn contender(
    recipe: Recipe,
    name: &str,
    n_layer: Option<usize>,
    flops: f64,
    spec: DeviceSpec,
) -> Result<Contender> {
    let budgeted = paid(recipe, flops, spec, name)?;
    Ok(Contender {
        name: name.to_owned(),
        n_layer: n_layer.unwrap_or(budgeted.n_layer),
        basis: train::basis(&budgeted.recipe, spec, &title(name))
            .map_err(|error| named_in(error, &title(name)))?,
        needs: budgeted.needs,
        recipe: budgeted.recipe,
    })
}

/// Bytes on disk: whose models stay is known in the end alone, so that the largest are counted.
fn disk(
    config: &SearchConfig,
    rungs: &[Rung],
    baseline: &Contender,
    candidates: &[(Contender, GrowthPlan)],
) -> Disk {
    let mut runs: Vec<&Needs> = candidates.iter().map(|(one, _)| &one.needs).collect();
    runs.sort_by_key(|needs| std::cmp::Reverse(needs.checkpoint_bytes));
    let model = |needs: &&Needs| needs.checkpoint_bytes + needs.grown_bytes;
    let of_rung = |rung: &Rung| -> u64 {
        let candidates = runs.iter().take(rung.candidates);
        candidates.map(model).sum::<u64>() + model(&&baseline.needs)
    };
    let last = rungs.last().map_or(0, of_rung);
    let (stays, at_last) = match config.keep {
        Keep::All => {
            let all = rungs.iter().map(of_rung).sum();
            (all, all)
        }
        Keep::Needed => (runs.first().map_or(0, |needs| needs.checkpoint_bytes), last),
    };
    Disk {
        stays,
        ..Disk::of_runs(at_last, runs.into_iter().chain([&baseline.needs]))
    }
}

impl Contender {
    fn unranked(&self) -> Ranked {
        Ranked {
            name: self.name.clone(),
            n_layer: self.n_layer,
            parameters: self.needs.parameters,
            losses: Vec::new(),
        }
    }

    /// Trains it in a rung, the first being 1. What it comes to joins its `losses`, and before the
    /// first rung that of the model before training.
    fn train(
        &self,
        config: &SearchConfig,
        rungs: &[Rung],
        number: usize,
        losses: &mut Vec<f64>,
        spec: DeviceSpec,
    ) -> Result<()> {
        let flops = rungs[number - 1].flops;
        let last = rungs[rungs.len() - 1].flops;
        let mut recipe = self.recipe.clone();
        // Warm-up in proportion, and then as many steps as are paid for.
        budget::scale(&mut recipe, flops / last);
        let mut recipe = paid(recipe, flops, spec, &self.name)?.recipe;
        recipe.train.keep = 1;
        let name = format!("{}-rung-{number}", self.name);
        let job = Job::new(&config.out, "runs", name, recipe, self.basis.clone());
        let ending = job.run(spec)?;
        if number == 1 {
            losses.push(first_loss(&job)?);
        }
        losses.push(match ending {
            Ending::Finished(loss) => loss,
            Ending::Diverged(_) => f64::INFINITY,
        });
        // Who gets further starts from the source again.
        if number < rungs.len() && config.keep == Keep::Needed {
            free(&job.recipe.out, Rest::Records)?;
        }
        Ok(())
    }
}

/// Trains the baseline and the candidates rung by rung.
fn climb(
    config: &SearchConfig,
    rungs: &[Rung],
    source: &Contender,
    candidates: Vec<(Contender, GrowthPlan)>,
    spec: DeviceSpec,
) -> Result<Climbed> {
    let mut ranked: Vec<Ranked> = candidates.iter().map(|(one, _)| one.unranked()).collect();
    let mut baseline = source.unranked();
    for (number, rung) in (1..).zip(rungs) {
        source.train(config, rungs, number, &mut baseline.losses, spec)?;
        for entry in &mut ranked[..rung.candidates] {
            let own = candidates.iter().find(|(one, _)| one.name == entry.name);
            let (own, _) = own.expect("a candidate of that name");
            own.train(config, rungs, number, &mut entry.losses, spec)?;
        }
        rank(&mut ranked);
    }
    let mut all = candidates.into_iter();
    let winner = all.find(|(one, _)| one.name == ranked[0].name);
    let (_, winner) = winner.expect("a candidate of that name");
    if ranked[0].losses.last().is_none_or(|loss| !loss.is_finite()) {
        let message = "every candidate diverged".to_owned();
        return Err(Error::Failed { message });
    }
    Ok(Climbed {
        ranked,
        baseline,
        winner,
    })
}

/// The validation loss of the model before training, grown where it grows.
fn first_loss(job: &Job) -> Result<f64> {
    let before: Option<Value> = read(&job.recipe.out.join(BEFORE_FILE))?;
    let grown = before
        .as_ref()
        .and_then(|before| before["models"].as_array()?.last());
    // A loss that is not finite has no number in JSON.
    let loss = grown.and_then(|grown| grown["val"]["loss"].as_f64());
    Ok(loss.unwrap_or(f64::INFINITY))
}
