//! `scale-ckpt search`.

use std::path::PathBuf;

use scale_ckpt::compare::budget::{self, Fit, Ledger};
use scale_ckpt::compare::matching::Basis;
use scale_ckpt::compare::search::{
    Foretelling, Named, Ranked, Rung, SearchConfig, foretelling, rank,
};
use scale_ckpt::device::DeviceSpec;
use scale_ckpt::durable;
use scale_ckpt::error::{Error, counted};
use scale_ckpt::growth::{GrowthPlan, plan_file};
use scale_ckpt::progress::eprint_line;
use scale_ckpt::recipe::Recipe;
use scale_ckpt::report::{search, text};
use scale_ckpt::run::BEFORE_FILE;
use scale_ckpt::{Result, VERSION};
use serde::Serialize;
use serde_json::{Value, json};

use super::experiment::{Allowance, Budgeted, Ending, Job, fit, named_in, read, write_report};
use super::shared::{print, print_json};
use super::start::Start;
use super::train;

/// The winner's plan, for `grow --plan` and recipes.
const WINNER: &str = "winner.toml";

/// Search for a growth plan: candidates ranked at step 0, then trained, by successive halving.
///
/// The same command goes on where it was stopped. The winner is written as a plan file.
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
    candidates: &'a [Ranked],
    foretelling: &'a [Foretelling],
    winner: &'a str,
}

/// A candidate with its plan and its recipe at the last rung's budget.
struct Candidate {
    named: Named,
    plan: GrowthPlan,
    parameters: u64,
    recipe: Recipe,
    basis: Basis,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let config = SearchConfig::load(&self.recipe, &self.set)?;
        let spec = self.device.unwrap_or(config.device);
        let planned = plans(&config)?;
        if planned.len() < 2 {
            let message = "fewer than two candidates can be grown from this source";
            return Err(Error::invalid(self.recipe.display(), message));
        }
        let rungs = config.rungs(planned.len());
        let last = rungs.last().expect("two candidates make a rung");
        let of = |(named, plan)| candidate(&config, named, plan, last.flops, spec);
        let candidates: Vec<Candidate> = planned.into_iter().map(of).collect::<Result<_>>()?;
        let plan = text::table(&search::plan_table(
            &rungs,
            &candidates
                .iter()
                .map(|c| (c.named.name.as_str(), c.plan.to_string()))
                .collect::<Vec<_>>(),
        ));
        if self.dry_run {
            if self.json {
                let names: Vec<&str> = candidates.iter().map(|c| c.named.name.as_str()).collect();
                return print_json(&json!({ "schema": 1, "rungs": rungs, "candidates": names }));
            }
            return print(&plan);
        }
        eprint_line(&plan);
        let (ranked, plan) = climb(&config, &rungs, candidates, spec)?;
        let told = foretelling(&ranked);
        let found = Found {
            schema: 1,
            tool_version: VERSION,
            device: spec.to_string(),
            seed: config.seed,
            flops: config.flops,
            eta: config.eta,
            rungs: &rungs,
            candidates: &ranked,
            foretelling: &told,
            winner: &ranked[0].name,
        };
        let document = search::document(&rungs, &ranked, &told, &config);
        let out = &config.out;
        write_report(out, &found, &document)?;
        let winner = format!(
            "# {}, the winner of a search over {} by scale-ckpt {VERSION}.\n{}",
            ranked[0].name,
            counted(ranked.len(), "candidate", "candidates"),
            plan_file::render(&plan)?
        );
        durable::write_file(&out.join(WINNER), winner.as_bytes())?;
        if self.json {
            return print_json(&found);
        }
        print(&text::render(&document))?;
        print(&format!("\nplan: {}", out.join(WINNER).display()))
    }
}

/// The candidates with their plans. Combinations that cannot be are named and left out.
fn plans(config: &SearchConfig) -> Result<Vec<(Named, GrowthPlan)>> {
    let mut planned: Vec<(Named, GrowthPlan)> = Vec::new();
    let mut n_layer = None;
    for named in config.all() {
        let depth = match n_layer {
            Some(depth) => depth,
            None => {
                let recipe = config.recipe_of(&named)?;
                let (source, _) = Start::unplanned(&recipe)?;
                *n_layer.insert(source.config.n_layer)
            }
        };
        match named.grow.resolve(depth) {
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
            Err(error) => return Err(named_in(error, &format!("candidate `{}`", named.name))),
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

/// A candidate's recipe with as many steps as are paid for.
fn paid(recipe: Recipe, flops: f64, spec: DeviceSpec, name: &str) -> Result<Budgeted> {
    let allowance = Allowance {
        ledger: Ledger::Flops,
        amount: flops,
        fit: Fit::Last,
        seconds_per_flop: None,
    };
    fit(recipe, allowance, spec, false)
        .map_err(|error| named_in(error, &format!("candidate `{name}`")))
}

fn candidate(
    config: &SearchConfig,
    named: Named,
    plan: GrowthPlan,
    flops: f64,
    spec: DeviceSpec,
) -> Result<Candidate> {
    let recipe = config.recipe_of(&named)?;
    let budgeted = paid(recipe, flops, spec, &named.name)?;
    let what = format!("candidate `{}`", named.name);
    Ok(Candidate {
        basis: train::basis(&budgeted.recipe, spec, &what)?,
        parameters: budgeted.needs.parameters,
        recipe: budgeted.recipe,
        named,
        plan,
    })
}

/// Trains candidates rung by rung; all of them ranked, and the winner's plan.
fn climb(
    config: &SearchConfig,
    rungs: &[Rung],
    candidates: Vec<Candidate>,
    spec: DeviceSpec,
) -> Result<(Vec<Ranked>, GrowthPlan)> {
    let last = rungs.last().expect("there is a rung").flops;
    let mut ranked: Vec<Ranked> = candidates
        .iter()
        .map(|c| Ranked {
            name: c.named.name.clone(),
            n_layer: c.plan.n_layer(),
            parameters: c.parameters,
            losses: Vec::new(),
        })
        .collect();
    for (number, rung) in rungs.iter().enumerate() {
        let number = number + 1;
        for entry in &mut ranked[..rung.candidates] {
            let own = candidates.iter().find(|c| c.named.name == entry.name);
            let own = own.expect("a candidate of that name");
            let mut recipe = own.recipe.clone();
            // Warm-up in proportion, and then as many steps as are paid for.
            budget::scale(&mut recipe, rung.flops / last);
            let mut recipe = paid(recipe, rung.flops, spec, &entry.name)?.recipe;
            recipe.train.keep = 1;
            let name = format!("{}-rung-{number}", entry.name);
            let job = Job::new(&config.out, "runs", name, recipe, own.basis.clone());
            let ending = job.run(spec)?;
            if number == 1 {
                entry.losses.push(first_loss(&job)?);
            }
            entry.losses.push(match ending {
                Ending::Finished(loss) => loss,
                Ending::Diverged(_) => f64::INFINITY,
            });
        }
        rank(&mut ranked);
    }
    let winner = candidates
        .into_iter()
        .find(|c| c.named.name == ranked[0].name);
    let plan = winner.expect("a candidate of that name").plan;
    if ranked[0].losses.last().is_none_or(|loss| !loss.is_finite()) {
        let message = "every candidate diverged".to_owned();
        return Err(Error::Failed { message });
    }
    Ok((ranked, plan))
}

/// The validation loss of the grown model before training.
fn first_loss(job: &Job) -> Result<f64> {
    let before: Option<Value> = read(&job.recipe.out.join(BEFORE_FILE))?;
    let grown = before
        .as_ref()
        .and_then(|before| before["models"].as_array()?.last());
    // A loss that is not finite has no number in JSON.
    let loss = grown.and_then(|grown| grown["val"]["loss"].as_f64());
    Ok(loss.unwrap_or(f64::INFINITY))
}
