//! What a comparison finds.

use std::collections::BTreeSet;

use serde::Serialize;

use super::budget::{Ledger, Spent};
use super::caveats::{BelowChance, RateAtEdge, below_chance};
use super::curve::{Crossing, Curve, crossing, differences};
use super::matching::ArmRuns;
use super::record::{RunRecord, VAL_LOSS};
use super::stats::Sample;
use super::verdict;
use crate::account::Account;
use crate::certify::Certificate;
use crate::checkpoint::Gpt2Config;
use crate::error::{Error, Result, counted};
use crate::eval::certainty::NoInterval;
use crate::eval::paired;
use crate::eval::report::{Unit, units};
use crate::eval::score::{ItemScore, ModelItems, higher_is_better};
use crate::ledger::{LayerPasses, paper, per_token};
use crate::recipe::{ModelSource, Recipe};
use crate::stages::{self, Origin, PlannedStage};

/// Costs that differ by less than this part, or by two steps, are equal: budgets are spent in
/// whole steps.
const EQUAL_COST: f64 = 0.02;
/// The same for times, which budgets estimate.
const EQUAL_TIME: f64 = 0.1;
/// Seed of bootstraps.
const SEED: u64 = 1234;

/// Everything that a comparison found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Version of this form.
    pub schema: u32,
    /// The program's.
    pub tool_version: String,
    /// What the report is called.
    pub title: String,
    /// Where the runs ran.
    pub devices: Vec<String>,
    /// What the budget is counted in.
    pub ledger: Ledger,
    /// The arm that the others are compared with.
    pub control: String,
    /// Validation tokens and windows, tasks and protocols.
    pub measured: Vec<String>,
    /// The arms.
    pub arms: Vec<ArmFindings>,
    /// All arms at the largest cost that each reaches, in every ledger.
    pub at_equal_cost: Vec<EqualCost>,
    /// Every arm against the control, on every metric.
    pub differences: Vec<Difference>,
    /// From which cost on an arm's validation loss is below the control's.
    pub crossovers: Vec<Crossover>,
    /// What incremental training costs beside full training.
    pub cost_claims: Vec<CostClaim>,
    /// Arms of which runs diverged: how many, of how many.
    pub diverged: Vec<(String, usize, usize)>,
    /// Arms whose best learning rate is the lowest or the highest of those that were tried.
    pub rates_at_edge: Vec<RateAtEdge>,
    /// Accuracies that are worse than guessing.
    pub below_chance: Vec<BelowChance>,
    /// What all this says.
    pub verdict: Vec<String>,
    /// What to keep in mind.
    pub notes: Vec<String>,
    /// Metrics along the runs.
    pub curves: Vec<MetricCurves>,
}

/// What an arm does with compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Trains a checkpoint as it is.
    Continued,
    /// Grows a checkpoint.
    Grown,
    /// Trains from scratch at full depth.
    Scratch,
    /// Trains from scratch and grows on the way.
    Incremental,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Continued,
        Self::Grown,
        Self::Scratch,
        Self::Incremental,
    ];

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Continued => "as it is",
            Self::Grown => "grown",
            Self::Scratch => "from scratch",
            Self::Incremental => "layer by layer",
        }
    }

    fn of(run: &RunRecord) -> Self {
        let first = run
            .before
            .first()
            .map_or(run.after.n_layer, |score| score.n_layer);
        let grows = first < run.after.n_layer;
        match (&run.recipe.model, grows) {
            (ModelSource::From(_), false) => Self::Continued,
            (ModelSource::From(_), true) => Self::Grown,
            (ModelSource::Scratch(_), false) => Self::Scratch,
            (ModelSource::Scratch(_), true) => Self::Incremental,
        }
    }
}

/// An arm.
#[derive(Clone, Debug, Serialize)]
pub struct ArmFindings {
    /// What it is called.
    pub name: String,
    /// What it does with compute.
    pub kind: Kind,
    /// What it is.
    pub about: Option<String>,
    /// Blocks at first and in the end.
    pub n_layer: [usize; 2],
    /// Parameters in the end.
    pub parameters: u64,
    /// Its seeds.
    pub seeds: Vec<u64>,
    /// Seeds that diverged, and how.
    pub diverged: Vec<(u64, String)>,
    /// Peak learning rate of `[train]`.
    pub lr: f64,
    /// What each run spent; seconds are the mean over seeds.
    pub spent: Spent,
    /// FLOPs of its source; 0 from scratch, none where they are unknown.
    pub source_flops: Option<f64>,
    /// Final value of every metric.
    pub finals: Vec<(String, Sample)>,
    /// Validation loss of the source.
    pub source_loss: Option<f64>,
    /// How far its own, in the end, is above that, seed by seed: above 0 the arm is worse than not
    /// training.
    pub above_source: Option<Sample>,
    /// Validation loss before training, of the grown model where there was a growth.
    pub first_loss: Option<f64>,
    /// The certificate of its first growth.
    pub certificate: Option<Certificate>,
    /// FLOPs after which the validation loss stays at or below the source's, seed by seed; none
    /// where it does not.
    pub recovered_at_flops: Vec<Option<f64>>,
    /// The highest validation loss on the way, mean over seeds.
    pub worst_loss: f64,
}

/// All arms at one cost.
#[derive(Clone, Debug, Serialize)]
pub struct EqualCost {
    /// Counted in this.
    pub ledger: Ledger,
    /// With what the source cost.
    pub total: bool,
    /// The cost.
    pub cost: f64,
    /// Validation losses there, best first.
    pub arms: Vec<AtCost>,
}

/// An arm at a cost.
#[derive(Clone, Debug, Serialize)]
pub struct AtCost {
    /// The arm.
    pub arm: String,
    /// Its validation loss.
    pub val_loss: Sample,
    /// Its accuracies, where they were measured before and after.
    pub scores: Vec<(String, Sample)>,
    /// Which part of its own run it had behind it: below 1, its schedule had not come to its end.
    pub part_of_run: f64,
}

/// An arm against the control, in the end.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The arm.
    pub arm: String,
    /// The metric.
    pub metric: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Arm minus control, seed by seed.
    pub over_seeds: Sample,
    /// 95 % bootstrap interval over windows or items of the mean over seeds.
    pub over_items: Option<[f64; 2]>,
    /// Why there is none, where there are windows or items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_items_interval: Option<NoInterval>,
    /// The smallest true difference that as many windows or items would show.
    pub items_detectable: Option<f64>,
    /// Windows or items.
    pub n_items: usize,
    /// How their costs compare.
    pub compute: Compute,
    /// Which is better, as far as both intervals tell.
    pub outcome: Outcome,
}

/// How the costs of two arms compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// Equal without what sources cost.
    EqualAdditional,
    /// Equal with what sources cost.
    EqualTotal,
    /// Neither.
    Unequal,
}

/// What a difference shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The arm is better.
    Better,
    /// The arm is worse.
    Worse,
    /// Nothing that this experiment could show.
    Undecided,
}

/// From which cost on an arm is ahead of the control.
#[derive(Clone, Debug, Serialize)]
pub struct Crossover {
    /// The arm.
    pub arm: String,
    /// Counted in this.
    pub ledger: Ledger,
    /// With what the source cost.
    pub total: bool,
    /// The largest cost that both reach.
    pub budget: f64,
    /// The crossing.
    pub crossing: Crossing,
}

/// What the incremental part of a run costs beside full training on as many tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CostClaim {
    /// The arm.
    pub arm: String,
    /// S, its depths.
    pub stages: usize,
    /// Its final depth.
    pub n_layer: usize,
    /// C_inc / C_full by the closed form of arXiv 2411.18700, (3S + 5) / (8S).
    pub paper_formula: f64,
    /// The same from the run's stages, in layer passes.
    pub layer_passes: f64,
    /// The same in FLOPs.
    pub flops: f64,
    /// T_cont / T by the closed form, 5/8 · (1 − 1/S).
    pub continual_formula: f64,
    /// T_cont / T that the run's layer passes leave.
    pub continual_layer_passes: f64,
    /// T_cont / T that its FLOPs leave.
    pub continual_flops: f64,
}

/// A metric along all runs.
#[derive(Clone, Debug, Serialize)]
pub struct MetricCurves {
    /// The metric.
    pub metric: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// By arm and seed: step, tokens, FLOPs, FLOPs with the source's, layer passes, seconds,
    /// value.
    pub runs: Vec<RunCurve>,
}

/// A metric along a run.
#[derive(Clone, Debug, Serialize)]
pub struct RunCurve {
    /// The arm.
    pub arm: String,
    /// The seed.
    pub seed: u64,
    /// See [`MetricCurves::runs`]; FLOPs with the source's are null where those are unknown.
    pub points: Vec<[Option<f64>; 7]>,
}

impl Difference {
    /// What its items are.
    pub fn items(&self) -> &'static str {
        match (self.metric == VAL_LOSS, self.n_items) {
            (true, 1) => "window",
            (true, _) => "windows",
            (false, 1) => "item",
            (false, _) => "items",
        }
    }
}

impl Findings {
    /// Compares arms, of which [`super::matching::check`] found that they match.
    ///
    /// # Errors
    /// The control is none of them.
    pub fn of(
        arms: &[ArmRuns],
        control: &str,
        ledger: Ledger,
        title: &str,
        notes: Vec<String>,
        rates_at_edge: Vec<RateAtEdge>,
    ) -> Result<Self> {
        let Some(reference) = arms.iter().find(|arm| arm.name == control) else {
            let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
            let message = format!("{control}: no such arm; there are {}", names.join(", "));
            return Err(Error::usage(message));
        };
        if reference.runs.is_empty() {
            let message = format!("every run of the control, {control}, diverged");
            return Err(Error::Failed { message });
        }
        let first = &reference.runs[0];
        let runs = || arms.iter().flat_map(|arm| &arm.runs);
        let compared = || {
            arms.iter()
                .filter(|arm| arm.name != control && !arm.runs.is_empty())
        };
        let mut found = Self {
            schema: 1,
            tool_version: crate::VERSION.to_owned(),
            title: title.to_owned(),
            devices: runs()
                .map(|run| run.device.clone())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            ledger,
            control: control.to_owned(),
            measured: measured(first),
            arms: arms
                .iter()
                .filter(|arm| !arm.runs.is_empty())
                .map(arm_findings)
                .collect(),
            at_equal_cost: equal_costs(arms),
            differences: compared()
                .flat_map(|arm| differences_of(arm, reference, ledger))
                .collect(),
            crossovers: compared()
                .flat_map(|arm| crossovers_of(arm, reference))
                .collect(),
            cost_claims: arms
                .iter()
                .filter_map(|arm| {
                    let run = arm.runs.first()?;
                    cost_claim(&arm.name, &run.recipe, &config_of(run)?)
                })
                .collect(),
            diverged: arms
                .iter()
                .filter(|arm| !arm.diverged.is_empty())
                .map(|arm| {
                    let lost = arm.diverged.len();
                    (arm.name.clone(), lost, lost + arm.runs.len())
                })
                .collect(),
            rates_at_edge,
            below_chance: arms.iter().flat_map(below_chance).collect(),
            verdict: Vec::new(),
            notes,
            curves: curves(arms),
        };
        for arm in arms {
            for (seed, message) in &arm.diverged {
                found
                    .notes
                    .push(format!("{}, seed {seed}: diverged, {message}", arm.name));
            }
        }
        found.verdict = verdict::of(&found);
        Ok(found)
    }

    /// The findings of an arm.
    pub fn arm(&self, name: &str) -> Option<&ArmFindings> {
        self.arms.iter().find(|arm| arm.name == name)
    }
}

impl ArmFindings {
    /// A metric in the end.
    pub fn last(&self, metric: &str) -> Option<&Sample> {
        let found = self.finals.iter().find(|(name, _)| name == metric);
        found.map(|(_, sample)| sample)
    }

    /// FLOPs with what the source cost; none where that is unknown.
    pub fn total_flops(&self) -> Option<f64> {
        Some(self.source_flops? + self.spent.flops)
    }
}

/// What was measured, in words.
fn measured(run: &RunRecord) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(val) = run.after.val {
        lines.push(format!(
            "validation loss: nats per token over {} in windows of {}",
            counted(val.tokens, "token", "tokens"),
            val.context
        ));
    }
    let scores: Vec<_> = run.after.tasks.iter().collect();
    for line in crate::eval::report::lines(&scores) {
        let (name, protocol) = (&line.name, line.protocol);
        lines.push(format!("{name}: protocol {protocol}, {}", line.count()));
    }
    lines
}

fn arm_findings(arm: &ArmRuns) -> ArmFindings {
    let runs = &arm.runs;
    let first = &runs[0];
    let of = |value: &dyn Fn(&RunRecord) -> f64| Sample::of(runs.iter().map(value).collect());
    let metrics = first
        .series
        .keys()
        .filter(|name| runs.iter().all(|r| r.last(name).is_some()));
    let finals = metrics.map(|name| (name.clone(), of(&|run| run.last(name).unwrap_or(f64::NAN))));
    let mut finals: Vec<(String, Sample)> = finals.collect();
    finals.sort_by_key(|(name, _)| (name != VAL_LOSS, name.clone()));
    let above = |run: &RunRecord| Some(run.last(VAL_LOSS)? - run.source_loss()?);
    let above: Option<Vec<f64>> = runs.iter().map(above).collect();
    let loss_curve = |run: &RunRecord| run.curve(VAL_LOSS, Ledger::Flops, false);
    let worst = |run: &RunRecord| {
        let curve = loss_curve(run);
        let losses = curve.points().iter().map(|point| point.1);
        losses.fold(f64::NEG_INFINITY, f64::max)
    };
    ArmFindings {
        name: arm.name.clone(),
        kind: Kind::of(first),
        about: arm.about.clone(),
        n_layer: [
            first.before.first().map_or(0, |score| score.n_layer),
            first.after.n_layer,
        ],
        parameters: first.after.parameters,
        seeds: runs.iter().map(|run| run.recipe.seed).collect(),
        diverged: arm.diverged.clone(),
        lr: first.recipe.train.lr,
        spent: Spent {
            seconds: Some(of(&|run| run.spent.seconds.unwrap_or(f64::NAN)).mean),
            ..first.spent
        },
        source_flops: first.source_flops,
        finals,
        source_loss: first.source_loss(),
        above_source: above.map(Sample::of),
        first_loss: first.before.last().and_then(|score| Some(score.val?.loss)),
        certificate: first.certificate.clone(),
        recovered_at_flops: runs
            .iter()
            .map(|run| loss_curve(run).stays_below_from(run.source_loss()?))
            .collect(),
        worst_loss: of(&worst).mean,
    }
}

/// All arms at the largest cost that each reaches.
fn equal_costs(arms: &[ArmRuns]) -> Vec<EqualCost> {
    let ledgers = Ledger::ALL.map(|ledger| (ledger, false));
    let with_total = ledgers.into_iter().chain([(Ledger::Flops, true)]);
    with_total
        .filter_map(|(ledger, total)| {
            let runs = || arms.iter().flat_map(|arm| &arm.runs);
            if total && runs().any(|run| run.source_flops.is_none()) {
                return None;
            }
            let curve = |run: &RunRecord| run.curve(VAL_LOSS, ledger, total);
            // With their sources, arms that have one set the cost; others may not reach it.
            let sets_cost = |run: &&RunRecord| {
                !total
                    || run.source_flops > Some(0.0)
                    || runs().all(|r| r.source_flops == Some(0.0))
            };
            let ends = runs().filter(sets_cost).map(|run| curve(run).end());
            let ends: Vec<f64> = ends.collect::<Option<_>>()?;
            let cost = ends.into_iter().fold(f64::INFINITY, f64::min);
            let at_cost = |arm: &ArmRuns, metric: &str| -> Option<Sample> {
                let values = arm.runs.iter();
                let values = values.map(|run| run.curve(metric, ledger, total).at(cost));
                let values: Vec<f64> = values.collect::<Option<_>>()?;
                (!values.is_empty()).then(|| Sample::of(values))
            };
            let at = |arm: &ArmRuns| -> Option<AtCost> {
                let names = arm.runs.first()?.series.keys();
                let names = names.filter(|name| higher_is_better(name));
                let scores = names.filter_map(|name| Some((name.clone(), at_cost(arm, name)?)));
                let run = curve(arm.runs.first()?);
                let (from, to) = (run.points().first()?.0, run.end()?);
                Some(AtCost {
                    arm: arm.name.clone(),
                    val_loss: at_cost(arm, VAL_LOSS)?,
                    scores: scores.collect(),
                    part_of_run: (cost - from) / (to - from),
                })
            };
            let mut found: Vec<AtCost> = arms.iter().filter_map(at).collect();
            found.sort_by(|a, b| a.val_loss.mean.total_cmp(&b.val_loss.mean));
            (found.len() > 1).then_some(EqualCost {
                ledger,
                total,
                cost,
                arms: found,
            })
        })
        .collect()
}

/// Runs of two arms with the same seed, control first.
fn pairs<'a>(arm: &'a ArmRuns, control: &'a ArmRuns) -> Vec<(&'a RunRecord, &'a RunRecord)> {
    let partner = |run: &'a RunRecord| {
        let mut all = control.runs.iter();
        Some((all.find(|c| c.recipe.seed == run.recipe.seed)?, run))
    };
    arm.runs.iter().filter_map(partner).collect()
}

fn differences_of(arm: &ArmRuns, control: &ArmRuns, ledger: Ledger) -> Vec<Difference> {
    let pairs = pairs(arm, control);
    let Some(&(first, _)) = pairs.first() else {
        return Vec::new();
    };
    let compute = compute(control, arm, ledger);
    let mut metrics: Vec<&String> = first.series.keys().collect();
    metrics.sort_by_key(|name| (*name != VAL_LOSS, *name));
    let of = |metric: &String| -> Option<Difference> {
        let values = pairs
            .iter()
            .map(|(c, a)| Some(a.last(metric)? - c.last(metric)?));
        let over_seeds = Sample::of(values.collect::<Option<Vec<f64>>>()?);
        let control_items = mean_items(
            metric,
            &pairs.iter().map(|p| &p.0.items).collect::<Vec<_>>(),
        );
        let arm_items = mean_items(
            metric,
            &pairs.iter().map(|p| &p.1.items).collect::<Vec<_>>(),
        );
        let items = control_items.zip(arm_items);
        let items = items.filter(|(c, a)| c.len() == a.len() && !c.is_empty());
        let paired = items.as_ref().map(|(c, a)| paired::continuous(c, a, SEED));
        let over_items = paired.as_ref().and_then(|paired| paired.interval);
        let higher_is_better = higher_is_better(metric);
        Some(Difference {
            arm: arm.name.clone(),
            metric: metric.clone(),
            higher_is_better,
            outcome: outcome(&over_seeds, over_items, higher_is_better),
            over_seeds,
            over_items,
            no_items_interval: paired.as_ref().and_then(|paired| paired.no_interval),
            items_detectable: paired.and_then(|paired| paired.detectable),
            n_items: items.map_or(0, |(c, _)| c.len()),
            compute,
        })
    };
    metrics.into_iter().filter_map(of).collect()
}

/// Both intervals must leave zero on the same side, as far as there are any.
fn outcome(over_seeds: &Sample, over_items: Option<[f64; 2]>, higher_is_better: bool) -> Outcome {
    let intervals: Vec<[f64; 2]> = over_seeds.interval.into_iter().chain(over_items).collect();
    let above = intervals.iter().all(|i| i[0] > 0.0);
    let below = intervals.iter().all(|i| i[1] < 0.0);
    match (intervals.is_empty(), above, below) {
        (false, true, _) if higher_is_better => Outcome::Better,
        (false, _, true) if !higher_is_better => Outcome::Better,
        (false, true, _) | (false, _, true) => Outcome::Worse,
        _ => Outcome::Undecided,
    }
}

fn compute(control: &ArmRuns, arm: &ArmRuns, ledger: Ledger) -> Compute {
    let (c, a) = (&control.runs[0], &arm.runs[0]);
    let mean = |arm: &ArmRuns| {
        let spent = arm.runs.iter().map(|run| run.spent.in_ledger(ledger));
        let spent: Option<Vec<f64>> = spent.collect();
        spent.map(|spent| Sample::of(spent).mean)
    };
    let part = if ledger == Ledger::Seconds {
        EQUAL_TIME
    } else {
        EQUAL_COST
    };
    let step = |run: &RunRecord, spent: f64| spent / run.spent.steps.max(1) as f64;
    if let (Some(spent_c), Some(spent_a)) = (mean(control), mean(arm)) {
        let steps = 2.0 * step(c, spent_c).max(step(a, spent_a));
        if (spent_c - spent_a).abs() <= steps.max(part * spent_c.max(spent_a)) {
            return Compute::EqualAdditional;
        }
    }
    let total = |run: &RunRecord| Some(run.source_flops? + run.spent.flops);
    // Beside what the training spends: a large source would hide any difference of it.
    let most = c.spent.flops.max(a.spent.flops);
    let steps = 2.0 * step(c, c.spent.flops).max(step(a, a.spent.flops));
    let near = |x: f64, y: f64| (x - y).abs() <= steps.max(EQUAL_COST * most);
    match (total(c), total(a)) {
        (Some(x), Some(y)) if c.source_flops != a.source_flops && near(x, y) => Compute::EqualTotal,
        _ => Compute::Unequal,
    }
}

/// A metric item by item, mean over seeds; none where it is not made of items.
fn mean_items(metric: &str, runs: &[&ModelItems]) -> Option<Vec<f64>> {
    let of_run = |items: &ModelItems| -> Option<Vec<f64>> {
        if metric == VAL_LOSS {
            return Some(items.windows.clone());
        }
        let (task, name) = metric.split_once('/')?;
        // A perplexity is no mean over items, and so none of their metrics.
        let records: Vec<_> = items.tasks.iter().map(|(record, _)| record).collect();
        let unit: Unit = units(&records).into_iter().find(|unit| unit.name == task)?;
        let scores: Vec<&ItemScore> = unit.tasks.iter().flat_map(|&i| &items.tasks[i].1).collect();
        unit.values(name, &scores)
    };
    let each: Vec<Vec<f64>> = runs
        .iter()
        .map(|items| of_run(items))
        .collect::<Option<_>>()?;
    let n = each.first()?.len();
    if each.iter().any(|values| values.len() != n) {
        return None;
    }
    let mean = |i: usize| each.iter().map(|values| values[i]).sum::<f64>() / each.len() as f64;
    Some((0..n).map(mean).collect())
}

fn crossovers_of(arm: &ArmRuns, control: &ArmRuns) -> Vec<Crossover> {
    let pairs = pairs(arm, control);
    let known = pairs
        .iter()
        .all(|(c, a)| c.source_flops.is_some() && a.source_flops.is_some());
    let ledgers = Ledger::ALL.map(|ledger| (ledger, false));
    let all = ledgers
        .into_iter()
        .chain(known.then_some((Ledger::Flops, true)));
    all.filter_map(|(ledger, total)| {
        let curve = |run: &RunRecord| run.curve(VAL_LOSS, ledger, total);
        let curves: Vec<(Curve, Curve)> = pairs.iter().map(|(c, a)| (curve(c), curve(a))).collect();
        let found = differences(&curves);
        Some(Crossover {
            arm: arm.name.clone(),
            ledger,
            total,
            budget: found.last()?.0,
            crossing: crossing(&found)?,
        })
    })
    .collect()
}

/// The cost claim of arXiv 2411.18700 for a recipe on a model like `config`; none of one that does
/// not grow from scratch.
pub fn cost_claim(name: &str, recipe: &Recipe, config: &Gpt2Config) -> Option<CostClaim> {
    let is_continual = recipe.stages.last()?.depths.is_none();
    if !matches!(recipe.model, ModelSource::Scratch(_)) || !is_continual {
        return None;
    }
    let origin = Origin {
        config,
        new_layers: (0..config.n_layer).collect(),
    };
    let train = &recipe.train;
    let stages = stages::plan(train, &recipe.stages, recipe.grow.as_ref(), &origin).ok()?;
    let account = Account::new(&stages, config, train);
    let share = |planned: &PlannedStage| {
        let cost = account.of_stage(planned.stage.index);
        StageShare {
            n_layer: planned.n_layer,
            tokens: (planned.stage.steps * train.batch_tokens) as f64,
            flops: cost.flops,
            layer_passes: cost.layer_passes,
        }
    };
    let shares: Vec<StageShare> = stages.iter().map(share).collect();
    claim_of(name, config, train.context, &shares)
}

/// The shape of a run's model at first.
fn config_of(run: &RunRecord) -> Option<Gpt2Config> {
    match &run.recipe.model {
        ModelSource::Scratch(scratch) => scratch.config().ok(),
        ModelSource::From(_) => None,
    }
}

/// A stage's depth, tokens and cost.
#[derive(Clone, Copy, Debug)]
struct StageShare {
    n_layer: usize,
    tokens: f64,
    flops: f64,
    layer_passes: f64,
}

/// The cost claim of arXiv 2411.18700 for stages that grow from scratch, of which the last is
/// the continual training at full depth; none of a run that does not grow.
fn claim_of(
    name: &str,
    config: &Gpt2Config,
    context: usize,
    stages: &[StageShare],
) -> Option<CostClaim> {
    let (last, incremental) = stages.split_last()?;
    let depths: BTreeSet<usize> = incremental.iter().map(|stage| stage.n_layer).collect();
    if depths.len() < 2 || last.n_layer != *depths.last()? {
        return None;
    }
    let sum = |of: fn(&StageShare) -> f64| incremental.iter().map(of).sum::<f64>();
    let tokens = sum(|stage| stage.tokens);
    let full = config.with_n_layer(last.n_layer);
    let flops = per_token(&full, context, &|_| true).total() as f64;
    let passes = LayerPasses::per_token(&full, &|_| true).total() as f64;
    let by_flops = sum(|stage| stage.flops) / (tokens * flops);
    let by_passes = sum(|stage| stage.layer_passes) / (tokens * passes);
    let stages = depths.len();
    Some(CostClaim {
        arm: name.to_owned(),
        stages,
        n_layer: last.n_layer,
        paper_formula: paper::incremental(1.0, 1, stages) / 2.0,
        layer_passes: by_passes,
        flops: by_flops,
        continual_formula: paper::continual_tokens(1.0, stages),
        continual_layer_passes: 1.0 - by_passes,
        continual_flops: 1.0 - by_flops,
    })
}

fn curves(arms: &[ArmRuns]) -> Vec<MetricCurves> {
    let runs = || {
        arms.iter()
            .flat_map(|arm| arm.runs.iter().map(move |run| (arm, run)))
    };
    let names: BTreeSet<&String> = runs().flat_map(|(_, run)| run.series.keys()).collect();
    let mut names: Vec<&String> = names.into_iter().collect();
    names.sort_by_key(|name| (*name != VAL_LOSS, *name));
    let curve = |name: &String| MetricCurves {
        metric: name.clone(),
        higher_is_better: higher_is_better(name),
        runs: runs()
            .filter_map(|(arm, run)| {
                let points = run.series.get(name)?.iter().map(|p| {
                    [
                        Some(p.step as f64),
                        Some(p.tokens as f64),
                        Some(rounded(p.flops)),
                        run.source_flops.map(|source| rounded(source + p.flops)),
                        Some(p.layer_passes),
                        Some(rounded(p.seconds)),
                        Some(rounded(p.value)),
                    ]
                });
                Some(RunCurve {
                    arm: arm.name.clone(),
                    seed: run.recipe.seed,
                    points: points.collect(),
                })
            })
            .collect(),
    };
    names.into_iter().map(curve).collect()
}

/// Seven digits, which is more than any picture shows.
fn rounded(x: f64) -> f64 {
    format!("{x:.6e}").parse().unwrap_or(x)
}
