//! The report of a comparison.

use super::chart::{Chart, Curves, Interval, Intervals};
use super::{Block, Document, Section, Table, thousands};
use crate::compare::Ledger;
use crate::compare::findings::{
    ArmFindings, Compute, Crossover, Difference, EqualCost, Findings, Outcome,
};
use crate::compare::record::VAL_LOSS;
use crate::compare::stats::{Sample, in_words};
use crate::compare::verdict;
use crate::error::counted;
use crate::eval::certainty::NoInterval;
use crate::eval::figures::{self, amount, signed};
use crate::eval::score::higher_is_better;

/// The report.
pub fn document(found: &Findings) -> Document {
    let seeds = found.arms.iter().map(|arm| arm.seeds.len()).sum::<usize>();
    let sections = [
        Section::new("Verdict").with(Block::List(found.verdict.clone())),
        curves(found),
        arms(found),
        differences(found),
        at_equal_cost(found),
        crossovers(found),
        growth(found),
        claims(found),
        about(found),
    ];
    Document {
        title: found.title.clone(),
        subtitle: format!(
            "{}, {} on {}; budgets in {}; compared with {}; scale-ckpt {}",
            counted(found.arms.len(), "arm", "arms"),
            counted(seeds, "run", "runs"),
            found.devices.join(", "),
            found.ledger.unit(),
            found.control,
            found.tool_version
        ),
        sections: sections
            .into_iter()
            .filter(|s| !s.blocks.is_empty())
            .collect(),
    }
}

/// What of it fits a terminal.
pub fn summary(found: &Findings) -> Document {
    let full = document(found);
    let losses = Findings {
        differences: found
            .differences
            .iter()
            .filter(|d| d.metric == VAL_LOSS)
            .cloned()
            .collect(),
        ..found.clone()
    };
    Document {
        sections: vec![
            arms(found),
            differences(&losses),
            Section::new("Verdict").with(Block::List(found.verdict.clone())),
        ],
        ..full
    }
}

fn curves(found: &Findings) -> Section {
    let axis = match found.ledger {
        Ledger::Tokens => 1,
        Ledger::Flops => 2,
        Ledger::LayerPasses => 4,
        Ledger::Seconds => 5,
    };
    Section::new("Curves").with(Block::Chart(Chart::Curves(Curves {
        title: "Metrics along the runs".into(),
        arms: found.arms.iter().map(|arm| arm.name.clone()).collect(),
        axis,
        metrics: found.curves.clone(),
    })))
}

/// Metrics that people look at: the loss, and accuracies.
fn headline_metrics(found: &Findings) -> Vec<String> {
    let Some(first) = found.arms.first() else {
        return Vec::new();
    };
    let wanted = |name: &&String| *name == VAL_LOSS || higher_is_better(name);
    first
        .finals
        .iter()
        .map(|(name, _)| name)
        .filter(wanted)
        .cloned()
        .collect()
}

/// A value of a metric for people, without a unit.
fn shown(metric: &str, value: f64) -> String {
    if higher_is_better(metric) {
        figures::figure(100.0 * value, 2)
    } else {
        figures::figure(value, 4)
    }
}

/// A mean and the spread over seeds, in words where equal values have none.
fn spread(metric: &str, sample: &Sample) -> String {
    let mean = shown(metric, sample.mean);
    match (sample.no_interval, sample.deviation) {
        (Some(why @ NoInterval::NoSpread), _) => format!("{mean} ({})", why.words("seeds")),
        (_, Some(deviation)) => format!("{mean} ± {}", shown(metric, deviation)),
        (_, None) => mean,
    }
}

/// How to read means without a spread; nothing where all arms have several seeds.
fn of_one_seed(found: &Findings) -> &'static str {
    if found.arms.iter().any(|arm| arm.seeds.len() == 1) {
        " Without ±: one seed, whose spread is not known."
    } else {
        ""
    }
}

fn arms(found: &Findings) -> Section {
    let metrics = headline_metrics(found);
    let percent = |name: &String| match name.as_str() {
        VAL_LOSS => "val loss".to_owned(),
        name => format!("{} %", name.replace('/', " ")),
    };
    let names: Vec<String> = metrics.iter().map(percent).collect();
    let mut header = vec![
        "arm",
        "n_layer",
        "parameters",
        "lr",
        "tokens",
        "FLOPs",
        "with source",
        "seconds",
    ];
    header.extend(names.iter().map(String::as_str));
    let mut table = Table::new(1, &header);
    table.rows = found
        .arms
        .iter()
        .map(|arm| {
            let total = arm.total_flops();
            let mut cells = vec![
                arm.name.clone(),
                depth(arm),
                thousands(arm.parameters),
                verdict::rate_in_words(arm.lr),
                thousands(arm.spent.tokens),
                format!("{:.3e}", arm.spent.flops),
                total.map_or_else(|| "unknown".into(), |total| format!("{total:.3e}")),
                arm.spent.seconds.map_or_else(|| "-".into(), amount),
            ];
            cells.extend(metrics.iter().map(|name| {
                let mut below = found.below_chance.iter();
                let is_below = below.any(|b| (&b.arm, &b.metric) == (&arm.name, name));
                let mark = if is_below { ", below chance" } else { "" };
                arm.last(name)
                    .map_or_else(|| "-".into(), |sample| spread(name, sample) + mark)
            }));
            cells
        })
        .collect();
    table.note = "Means ± standard deviations over seeds at the end of every run. FLOPs are of training alone; seconds are of training steps, without evaluation, on whatever else the machine did.".into();
    table.note += of_one_seed(found);
    let untouched: Vec<String> = sources(found);
    if !untouched.is_empty() {
        table.note += &format!(
            " Validation loss of the untouched source: {}.",
            untouched.join(", ")
        );
    }
    let described = |arm: &ArmFindings| Some(format!("{}: {}", arm.name, arm.about.as_ref()?));
    let described: Vec<String> = found.arms.iter().filter_map(described).collect();
    let section = Section::new("Arms").with(Block::Table(table));
    if described.is_empty() {
        section
    } else {
        section.with(Block::List(described))
    }
}

/// The loss of the source before training, of each with its arms where there are several.
fn sources(found: &Findings) -> Vec<String> {
    let mut losses: Vec<(String, Vec<&str>)> = Vec::new();
    for arm in &found.arms {
        let Some(loss) = arm.source_loss else {
            continue;
        };
        let shown = figures::figure(loss, 4);
        match losses.iter_mut().find(|(other, _)| *other == shown) {
            Some((_, arms)) => arms.push(&arm.name),
            None => losses.push((shown, vec![&arm.name])),
        }
    }
    match losses.as_slice() {
        [(only, _)] => vec![only.clone()],
        all => all
            .iter()
            .map(|(loss, arms)| format!("{loss} ({})", arms.join(", ")))
            .collect(),
    }
}

fn depth(arm: &ArmFindings) -> String {
    match arm.n_layer {
        [from, to] if from == to => to.to_string(),
        [from, to] => format!("{from} → {to}"),
    }
}

fn differences(found: &Findings) -> Section {
    if found.differences.is_empty() {
        return Section::default();
    }
    let losses: Vec<&Difference> = found
        .differences
        .iter()
        .filter(|d| d.metric == VAL_LOSS)
        .collect();
    let rows = losses.iter().map(|d| Interval {
        label: d.arm.clone(),
        mean: d.over_seeds.mean,
        values: d.over_seeds.values.clone(),
        decided: d.outcome != Outcome::Undecided,
        over_seeds: d.over_seeds.interval,
        over_items: d.over_items,
        words: intervals(d),
    });
    let chart = Intervals {
        title: format!("Final validation loss, arm minus {}", found.control),
        unit: "nats per token".into(),
        sides: ["arm better".into(), "arm worse".into()],
        rows: rows.collect(),
    };
    let header = [
        "arm",
        "metric",
        "compute",
        "outcome",
        "difference",
        "95 % over seeds",
        "95 % over items",
        "items",
    ];
    let mut table = Table::new(4, &header);
    table.rows = found.differences.iter().map(difference_row).collect();
    table.note = format!(
        "Arm minus {}, accuracies in points. Over seeds: Student's interval of differences between runs of the same seed. Over items: bootstrap over windows or items of the mean over seeds. An outcome needs both on one side of zero, or the one that there is: one seed, equal differences, or fewer than six windows or items give none.",
        found.control
    );
    Section::new("Differences")
        .with(Block::Chart(Chart::Intervals(chart)))
        .with(Block::Table(table))
}

/// A difference for people, without a unit.
fn figure(d: &Difference, x: f64) -> String {
    if d.higher_is_better {
        signed(100.0 * x, 2)
    } else {
        signed(x, 4)
    }
}

/// The intervals over seeds and items, or why there are none.
fn intervals(d: &Difference) -> [String; 2] {
    let figure = |x: f64| figure(d, x);
    [
        d.over_seeds.interval_in_words(figure),
        in_words(d.over_items, d.no_items_interval, d.items(), figure),
    ]
}

fn difference_row(d: &Difference) -> Vec<String> {
    let [over_seeds, over_items] = intervals(d);
    let compute = match d.compute {
        Compute::EqualAdditional => "equal",
        Compute::EqualTotal => "equal with source",
        Compute::Unequal => "unequal",
    };
    let outcome = match d.outcome {
        Outcome::Better => "better",
        Outcome::Worse => "worse",
        Outcome::Undecided => "undecided",
    };
    vec![
        d.arm.clone(),
        d.metric.clone(),
        compute.into(),
        outcome.into(),
        figure(d, d.over_seeds.mean),
        over_seeds,
        over_items,
        thousands(d.n_items as u64),
    ]
}

fn at_equal_cost(found: &Findings) -> Section {
    let all = &found.at_equal_cost;
    let names: Vec<String> = all.iter().map(|e| unit(e.ledger, e.total)).collect();
    let mut header = vec!["arm"];
    header.extend(names.iter().map(String::as_str));
    let mut table = Table::new(1, &header);
    let costs = all.iter().map(|equal| equal.ledger.shown(equal.cost));
    table.rows.push(
        [String::from("the cost")]
            .into_iter()
            .chain(costs)
            .collect(),
    );
    for arm in &found.arms {
        let cell = |equal: &EqualCost| match equal.arms.iter().find(|a| a.arm == arm.name) {
            None => "-".to_owned(),
            Some(at) => {
                let loss = spread(VAL_LOSS, &at.val_loss);
                let part = 100.0 * at.part_of_run;
                if part > 98.0 {
                    loss
                } else {
                    format!("{loss}, at {part:.0} %")
                }
            }
        };
        let cells = all.iter().map(cell);
        table
            .rows
            .push([arm.name.clone()].into_iter().chain(cells).collect());
    }
    if all.is_empty() {
        return Section::default();
    }
    table.note = "Validation losses at the largest cost that every arm reaches, in every ledger, on straight lines between measured points. An arm that had only a part of its own run behind it, as the percentage says, was still on its schedule's way down. With the source, arms that have one set the cost; - marks those that do not come to it.".into();
    table.note += of_one_seed(found);
    let section = Section::new("At equal cost").with(Block::Table(table));
    match scores_at_equal_cost(found) {
        Some(table) => section.with(Block::Table(table)),
        None => section,
    }
}

/// Accuracies in the comparison's own ledger.
fn scores_at_equal_cost(found: &Findings) -> Option<Table> {
    let mut all = found.at_equal_cost.iter();
    let own = all.find(|equal| equal.ledger == found.ledger && !equal.total)?;
    let metrics: Vec<&String> = own
        .arms
        .first()?
        .scores
        .iter()
        .map(|(name, _)| name)
        .collect();
    if metrics.is_empty() {
        return None;
    }
    let names: Vec<String> = metrics
        .iter()
        .map(|name| format!("{} %", name.replace('/', " ")))
        .collect();
    let mut header = vec!["arm"];
    header.extend(names.iter().map(String::as_str));
    let mut table = Table::new(1, &header);
    for arm in &found.arms {
        let Some(at) = own.arms.iter().find(|at| at.arm == arm.name) else {
            continue;
        };
        let cell = |metric: &&String| {
            let score = at.scores.iter().find(|(name, _)| name == *metric);
            score.map_or_else(|| "-".into(), |(name, sample)| spread(name, sample))
        };
        let cells = metrics.iter().map(cell);
        table
            .rows
            .push([arm.name.clone()].into_iter().chain(cells).collect());
    }
    table.note = format!(
        "The same for accuracies, at {} {}.",
        own.ledger.shown(own.cost),
        own.ledger.unit()
    );
    Some(table)
}

fn unit(ledger: Ledger, total: bool) -> String {
    let with = if total { " with source" } else { "" };
    format!("{}{with}", ledger.unit())
}

fn crossovers(found: &Findings) -> Section {
    if found.crossovers.is_empty() {
        return Section::default();
    }
    let of_arm = |arm: &String| -> Vec<&Crossover> {
        let own = found.crossovers.iter().filter(|c| c.arm == *arm);
        own.collect()
    };
    let all = Ledger::ALL.map(|ledger| (ledger, false)).into_iter();
    let all = all.chain([(Ledger::Flops, true)]);
    let is_there = |column: &(Ledger, bool)| {
        let mut every = found.crossovers.iter();
        every.any(|c| (c.ledger, c.total) == *column)
    };
    let ledgers: Vec<(Ledger, bool)> = all.filter(is_there).collect();
    let names: Vec<String> = ledgers.iter().map(|&(l, total)| unit(l, total)).collect();
    let mut header = vec!["arm"];
    header.extend(names.iter().map(String::as_str));
    let mut table = Table::new(1, &header);
    for arm in found.arms.iter().filter(|arm| arm.name != found.control) {
        let cell = |&(ledger, total): &(Ledger, bool)| {
            let own = of_arm(&arm.name);
            let own = own.iter().find(|c| (c.ledger, c.total) == (ledger, total));
            own.map_or_else(|| "-".into(), |c| verdict::crossing(&c.crossing, ledger))
        };
        let cells = ledgers.iter().map(cell);
        table
            .rows
            .push([arm.name.clone()].into_iter().chain(cells).collect());
    }
    table.note = format!(
        "From which cost on the validation loss stays below that of {}: the last change of sign of the mean difference over seeds, with the costs around it at which Student's interval of the difference holds zero. None: it ends above, within the largest cost that both reach.",
        found.control
    );
    Section::new("Crossovers").with(Block::Table(table))
}

fn growth(found: &Findings) -> Section {
    let mut table = Table::new(
        2,
        &[
            "arm",
            "claim",
            "max |Δlogit|",
            "mean KL",
            "source loss",
            "grown loss",
            "worst on the way",
            "back at the source's loss after",
        ],
    );
    for arm in &found.arms {
        // What grows from scratch has no source to come back to.
        let (Some(certificate), Some(_)) = (&arm.certificate, arm.source_loss) else {
            continue;
        };
        let loss = |x: Option<f64>| x.map_or_else(|| "-".into(), |x| figures::figure(x, 4));
        table.rows.push(vec![
            arm.name.clone(),
            certificate.claim.to_string(),
            format!("{:.3e}", certificate.max_abs_logit_diff),
            format!("{:.3e}", certificate.mean_kl),
            loss(arm.source_loss),
            loss(arm.first_loss),
            figures::figure(arm.worst_loss, 4),
            recovery(&arm.recovered_at_flops),
        ]);
    }
    if table.rows.is_empty() {
        return Section::default();
    }
    table.note = "Growth certificates, of the first seed; validation losses of source and grown model before training, the highest on the way (mean over seeds), and the FLOPs after which the loss stays at or below the source's (range over seeds).".into();
    Section::new("Growth and recovery").with(Block::Table(table))
}

fn recovery(costs: &[Option<f64>]) -> String {
    let known: Vec<f64> = costs.iter().copied().flatten().collect();
    if known.is_empty() {
        return "not within the run".into();
    }
    let low = known.iter().copied().fold(f64::INFINITY, f64::min);
    let high = known.iter().copied().fold(0.0, f64::max);
    let range = if high == 0.0 {
        "0 FLOPs".to_owned()
    } else if low == high {
        format!("{low:.2e} FLOPs")
    } else {
        format!("{low:.2e} to {high:.2e} FLOPs")
    };
    match costs.len() - known.len() {
        0 => range,
        missing => {
            let seeds = counted(costs.len(), "seed", "seeds");
            format!("{range}, {missing} of {seeds} never")
        }
    }
}

fn claims(found: &Findings) -> Section {
    match claims_table(&found.cost_claims) {
        Some(table) => Section::new("The cost claim of arXiv 2411.18700").with(Block::Table(table)),
        None => Section::default(),
    }
}

/// What incremental training costs beside full training.
pub fn claims_table(claims: &[crate::compare::findings::CostClaim]) -> Option<Table> {
    if claims.is_empty() {
        return None;
    }
    let header = [
        "arm",
        "S",
        "n_layer",
        "C_inc / C_full: formula",
        "layer passes",
        "FLOPs",
        "T_cont / T: formula",
        "layer passes",
        "FLOPs",
    ];
    let mut table = Table::new(1, &header);
    table.rows = claims
        .iter()
        .map(|claim| {
            let figure = |x: f64| format!("{x:.3}");
            vec![
                claim.arm.clone(),
                claim.stages.to_string(),
                claim.n_layer.to_string(),
                figure(claim.paper_formula),
                figure(claim.layer_passes),
                figure(claim.flops),
                figure(claim.continual_formula),
                figure(claim.continual_layer_passes),
                figure(claim.continual_flops),
            ]
        })
        .collect();
    table.note = "C_inc / C_full: cost of the incremental stages beside training the whole model on as many tokens T. T_cont / T: continual training that equal compute leaves. The formulas are the paper's, (3S + 5) / (8S) and 5/8 (1 − 1/S), of stages of n_layer / S layers that freeze the others for half their tokens; where S does not divide n_layer, the stages that can be run differ from them. FLOPs count the head, attention, and a backward pass of twice the forward pass where weights train.".into();
    Some(table)
}

fn about(found: &Findings) -> Section {
    let mut items = found.measured.clone();
    items.push("Curves between points are straight lines; nothing is extrapolated. A run's schedule ends at its own budget, so that points on the way are not what a shorter run would have reached.".into());
    items.extend(found.notes.iter().cloned());
    Section::new("How it was measured").with(Block::List(items))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_are_said_to_have_no_spread() {
        let of = |metric: &str, values: &[f64]| spread(metric, &Sample::of(values.to_vec()));
        assert_eq!(of("hellaswag/acc", &[0.125, 0.125]), "12.50 (no spread)");
        assert_eq!(of(VAL_LOSS, &[4.5, 4.5, 4.5]), "4.5000 (no spread)");
        assert_eq!(of("hellaswag/acc", &[0.125, 0.25]), "18.75 ± 8.84");
        assert_eq!(of(VAL_LOSS, &[4.5, 4.500_02]), "4.5000 ± 1.4e-5");
        assert_eq!(of(VAL_LOSS, &[4.5]), "4.5000");
    }
}
