//! What the numbers say, in words.
//!
//! Every sentence follows from intervals: an arm is called better or worse where the 95 %
//! interval over seeds and that over items both leave zero on the same side, and otherwise
//! undecided, with the difference that the experiment could have shown.

use super::budget::Ledger;
use super::curve::Crossing;
use super::findings::{Compute, Difference, Findings, Kind, Outcome};
use super::record::VAL_LOSS;

/// Fewer seeds than this leave an interval so wide that it is worth a word.
const FEW_SEEDS: usize = 5;

/// The verdict.
pub fn of(found: &Findings) -> Vec<String> {
    let losses = || found.differences.iter().filter(|d| d.metric == VAL_LOSS);
    let mut sentences = vec![answer(found, &losses().collect::<Vec<_>>())];
    sentences.extend(best_of_kinds(found));
    sentences.extend(losses().map(|d| against_control(found, d)));
    sentences.extend(tasks(found));
    sentences.extend(seeds(found));
    sentences
}

/// Which arms beat the control at equal compute.
fn answer(found: &Findings, losses: &[&Difference]) -> String {
    let control = &found.control;
    let named = |outcome: Outcome| -> Vec<&str> {
        let equal = losses.iter().filter(|d| d.compute != Compute::Unequal);
        let arms = equal.filter(|d| d.outcome == outcome);
        arms.map(|d| d.arm.as_str()).collect()
    };
    let (better, worse) = (named(Outcome::Better), named(Outcome::Worse));
    let undecided = named(Outcome::Undecided);
    let unequal = losses.iter().filter(|d| d.compute == Compute::Unequal);
    let unequal: Vec<&str> = unequal.map(|d| d.arm.as_str()).collect();
    let mut parts = Vec::new();
    if better.is_empty() {
        parts.push(format!(
            "No arm is shown to end with a lower validation loss than {control}"
        ));
    } else {
        parts.push(format!(
            "{} with a lower validation loss than {control}",
            end(&better)
        ));
    }
    if !worse.is_empty() {
        parts.push(format!("{} with a higher one", end(&worse)));
    }
    if !undecided.is_empty() {
        let list = join(&undecided);
        parts.push(format!("of {list} this experiment cannot tell"));
    }
    if !unequal.is_empty() {
        let list = join(&unequal);
        parts.push(format!("{list} had another amount of compute"));
    }
    let compute = if better.len() + worse.len() + undecided.len() > 0 {
        "At equal compute: "
    } else {
        ""
    };
    format!("{compute}{}.", parts.join("; "))
}

fn end(arms: &[&str]) -> String {
    format!(
        "{} {}",
        join(arms),
        if arms.len() == 1 { "ends" } else { "end" }
    )
}

fn join(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// The lowest validation loss of every kind of arm.
fn best_of_kinds(found: &Findings) -> Option<String> {
    let best = |kind: Kind| -> Option<String> {
        let arms = found.arms.iter().filter(|arm| arm.kind == kind);
        let losses = arms.filter_map(|arm| Some((arm, arm.last(VAL_LOSS)?.mean)));
        let (arm, loss) = losses.min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(format!("{} {loss:.4} ({})", kind.words(), arm.name))
    };
    let found: Vec<String> = Kind::ALL.into_iter().filter_map(best).collect();
    (found.len() > 1).then(|| format!("Lowest final validation loss: {}.", found.join(", ")))
}

fn against_control(found: &Findings, d: &Difference) -> String {
    let Difference {
        arm, over_seeds, ..
    } = d;
    let control = &found.control;
    let mean = over_seeds.mean;
    let compute = match d.compute {
        Compute::EqualAdditional => format!("for as many {}", found.ledger.unit()),
        Compute::EqualTotal => "for as many FLOPs with those of the source".to_owned(),
        Compute::Unequal => "for another amount of compute".to_owned(),
    };
    let side = if mean < 0.0 { "below" } else { "above" };
    let conclusion = match (d.outcome, d.compute) {
        (Outcome::Undecided, _) => match over_seeds.detectable() {
            Some(least) => format!(
                "no difference that this experiment could show, which would be about {least:.4} over seeds"
            ),
            None => "no difference that this experiment could show".to_owned(),
        },
        (outcome, Compute::Unequal) => format!("{}, but not at equal compute", word(outcome)),
        (outcome, _) => word(outcome).to_owned(),
    };
    let crossover = crossover(found, arm).map_or_else(String::new, |text| format!(" {text}"));
    format!(
        "{arm} ends {:.4} nats {side} {control} {compute} ({}): {conclusion}.{crossover}",
        mean.abs(),
        intervals(d)
    )
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Better => "better",
        Outcome::Worse => "worse",
        Outcome::Undecided => "undecided",
    }
}

/// Both intervals of a difference.
pub fn intervals(d: &Difference) -> String {
    let scale = if d.higher_is_better { 100.0 } else { 1.0 };
    let shown = |[low, high]: [f64; 2]| format!("{:+.4} to {:+.4}", scale * low, scale * high);
    let items = if d.metric == VAL_LOSS {
        "windows"
    } else {
        "items"
    };
    let over_seeds = match d.over_seeds.interval {
        Some(interval) => format!(
            "{} over {} seeds",
            shown(interval),
            d.over_seeds.values.len()
        ),
        None => "one seed".to_owned(),
    };
    match d.over_items {
        Some(interval) => format!(
            "95 %: {over_seeds}, {} over {} {items}",
            shown(interval),
            d.n_items
        ),
        None => format!("95 %: {over_seeds}"),
    }
}

/// Where an arm overtakes the control, in the comparison's own ledger, or with what sources cost.
fn crossover(found: &Findings, arm: &str) -> Option<String> {
    let own = |total: bool| {
        let mut all = found.crossovers.iter();
        all.find(|c| c.arm == arm && c.ledger == found.ledger && c.total == total)
    };
    // What sources cost moves the curves against each other where it differs.
    let sunk = |name: &str| found.arm(name)?.source_flops;
    let moved = found.ledger == Ledger::Flops && sunk(arm) != sunk(&found.control);
    let told = |total: bool| match own(total)?.crossing {
        Crossing::None => None,
        ref crossing => {
            let unit = if total {
                "FLOPs with the source's"
            } else {
                found.ledger.unit()
            };
            Some(crossing_in(crossing, unit))
        }
    };
    let parts = [told(false), moved.then(|| told(true)).flatten()];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("In the mean it is {}.", parts.join(", and ")))
}

fn crossing_in(crossing: &Crossing, unit: &str) -> String {
    match crossing {
        Crossing::None => "never ahead".to_owned(),
        Crossing::FromTheStart => format!("ahead from the start in {unit}"),
        Crossing::At { cost, low, high } => {
            format!(
                "ahead from {cost:.2e} {unit} on (95 %: {})",
                range(*low, *high)
            )
        }
    }
}

fn range(low: Option<f64>, high: Option<f64>) -> String {
    let low = low.map_or_else(|| "the start".into(), |x| format!("{x:.2e}"));
    let high = high.map_or_else(|| "beyond the budget".into(), |x| format!("{x:.2e}"));
    format!("{low} to {high}")
}

/// A crossing in a table.
pub fn crossing(crossing: &Crossing) -> String {
    match crossing {
        Crossing::None => "none".to_owned(),
        Crossing::FromTheStart => "from the start".to_owned(),
        Crossing::At {
            cost,
            low: None,
            high: None,
        } => format!("{cost:.2e}"),
        Crossing::At { cost, low, high } => format!("{cost:.2e} ({})", range(*low, *high)),
    }
}

/// What tasks show, in one sentence each.
fn tasks(found: &Findings) -> Vec<String> {
    let mut metrics: Vec<&str> = Vec::new();
    for d in &found.differences {
        if d.metric != VAL_LOSS && d.higher_is_better && !metrics.contains(&d.metric.as_str()) {
            metrics.push(&d.metric);
        }
    }
    let of = |metric: &str| {
        let all = || found.differences.iter().filter(|d| d.metric == metric);
        let named = |outcome: Outcome| -> Vec<String> {
            let arms = all().filter(|d| d.outcome == outcome);
            arms.map(|d| format!("{} ({:+.2} points)", d.arm, 100.0 * d.over_seeds.mean))
                .collect()
        };
        let (better, worse) = (named(Outcome::Better), named(Outcome::Worse));
        if better.is_empty() && worse.is_empty() {
            return format!(
                "{metric}: no arm differs from {} by what this experiment could show.",
                found.control
            );
        }
        let part = |word: &str, arms: Vec<String>| {
            (!arms.is_empty())
                .then(|| format!("{word} than {}: {}", found.control, arms.join(", ")))
        };
        let parts = part("better", better)
            .into_iter()
            .chain(part("worse", worse));
        format!("{metric}: {}.", parts.collect::<Vec<_>>().join("; "))
    };
    metrics.into_iter().map(of).collect()
}

/// How far so many seeds carry.
fn seeds(found: &Findings) -> Option<String> {
    let most = found.arms.iter().map(|arm| arm.seeds.len()).max()?;
    if most == 1 {
        return Some(
            "One seed: intervals are over windows and items alone, and what another seed would give is not known."
                .to_owned(),
        );
    }
    let count = found
        .differences
        .iter()
        .filter(|d| d.metric == VAL_LOSS)
        .count();
    (most < FEW_SEEDS).then(|| {
        format!(
            "{most} seeds make intervals wide; {count} comparisons at 5 % each are not corrected for their number."
        )
    })
}
