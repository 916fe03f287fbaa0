//! What the numbers say, in words.
//!
//! First comes what takes the ground from under the rest: training that ended worse than no
//! training, and learning rates at the edge of those that were tried.
//!
//! Every sentence follows from intervals: an arm is called better or worse where the 95 %
//! interval over seeds and that over items both leave zero on the same side, and otherwise
//! undecided, with the difference that the experiment could have shown.

use super::budget::Ledger;
use super::caveats::{BelowChance, Edge, RateAtEdge};
use super::curve::Crossing;
use super::findings::{ArmFindings, Compute, Difference, Findings, Kind, Outcome};
use super::record::VAL_LOSS;
use super::stats::{LEAST_SHOWN, in_words};
use crate::eval::certainty::NoInterval;
use crate::eval::figures::{figure, is_zero, signed};

/// The verdict.
pub fn of(found: &Findings) -> Vec<String> {
    let losses = || found.differences.iter().filter(|d| d.metric == VAL_LOSS);
    let mut sentences = worse_than_the_source(found);
    sentences.extend(rates_at_edge(found));
    sentences.extend(below_chance(found));
    sentences.extend(answer(found, &losses().collect::<Vec<_>>()));
    sentences.extend(best_of_kinds(found));
    sentences.extend(losses().map(|d| against_control(found, d)));
    sentences.extend(tasks(found));
    sentences.extend(diverged(found));
    sentences.push(caution(found));
    sentences
}

/// Which arms beat the control, for as much compute and for as much with the source's.
fn answer(found: &Findings, losses: &[&Difference]) -> Vec<String> {
    let control = &found.control;
    let unit = found.ledger.unit();
    let clauses = [
        (Compute::EqualAdditional, format!("For as many {unit}")),
        (
            Compute::EqualTotal,
            "For as many FLOPs with those of the source".to_owned(),
        ),
    ];
    let mut sentences = Vec::new();
    for (compute, beginning) in clauses {
        let named = |outcome: Outcome| -> Vec<String> {
            let own = losses
                .iter()
                .filter(|d| (d.compute, d.outcome) == (compute, outcome));
            own.map(|d| with_seeds(d)).collect()
        };
        let better = named(Outcome::Better);
        let worse = named(Outcome::Worse);
        let undecided = named(Outcome::Undecided);
        if better.len() + worse.len() + undecided.len() == 0 {
            continue;
        }
        let mut parts = Vec::new();
        if better.is_empty() {
            parts.push(format!(
                "no arm is shown to end with a lower validation loss than {control}"
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
            parts.push(format!(
                "of {} this experiment cannot tell",
                join(&undecided)
            ));
        }
        sentences.push(format!("{beginning}, {}.", parts.join("; ")));
    }
    let unequal = losses.iter().filter(|d| d.compute == Compute::Unequal);
    let unequal: Vec<String> = unequal.map(|d| d.arm.clone()).collect();
    if !unequal.is_empty() {
        let verb = if unequal.len() == 1 {
            "differs"
        } else {
            "differ"
        };
        sentences.push(format!(
            "{} {verb} from {control} in compute: final losses do not say which is better, curves at equal cost may.",
            join(&unequal)
        ));
    }
    sentences
}

/// An arm's name, with a word where its seeds give no interval.
fn with_seeds(d: &Difference) -> String {
    match d.over_seeds.no_interval {
        Some(NoInterval::TooFew) => format!("{} (one seed)", d.arm),
        Some(NoInterval::NoSpread) => format!("{} (no spread over seeds)", d.arm),
        None => d.arm.clone(),
    }
}

fn end(arms: &[String]) -> String {
    format!(
        "{} {}",
        join(arms),
        if arms.len() == 1 { "ends" } else { "end" }
    )
}

fn join(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// The lowest validation loss of every kind of arm, of those with the control's compute.
fn best_of_kinds(found: &Findings) -> Option<String> {
    let is_equal = |arm: &&ArmFindings| {
        let mut own = found.differences.iter().filter(|d| d.arm == arm.name);
        arm.name == found.control || own.any(|d| d.compute == Compute::EqualAdditional)
    };
    let best = |kind: Kind| -> Option<String> {
        let arms = found
            .arms
            .iter()
            .filter(is_equal)
            .filter(|arm| arm.kind == kind);
        let losses = arms.filter_map(|arm| Some((arm, arm.last(VAL_LOSS)?.mean)));
        let (arm, loss) = losses.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let loss = figure(loss, 4);
        Some(format!("{} {loss} ({})", kind.words(), arm.name))
    };
    let best: Vec<String> = Kind::ALL.into_iter().filter_map(best).collect();
    (best.len() > 1).then(|| {
        format!(
            "The lowest mean of each kind for as many {}: {}.",
            found.ledger.unit(),
            best.join(", ")
        )
    })
}

/// Names arms that end worse than the source that they start from, the control before all.
fn worse_than_the_source(found: &Findings) -> Vec<String> {
    let of_source = || found.arms.iter().filter(|arm| arm.above_source.is_some());
    let above: Vec<&ArmFindings> = of_source()
        .filter(|arm| {
            let above = arm.above_source.as_ref();
            above.is_some_and(|above| above.mean > LEAST_SHOWN)
        })
        .collect();
    let figures = |arm: &ArmFindings| -> Option<String> {
        let last = arm.last(VAL_LOSS)?.mean;
        let interval = arm.above_source.as_ref()?.interval;
        let unclear = match interval {
            Some([low, _]) if low <= 0.0 => ", within the spread over seeds",
            _ => "",
        };
        let source = arm.source_loss?;
        let [last, source] = [last, source].map(|loss| figure(loss, 4));
        Some(format!("{} ({last} against {source}{unclear})", arm.name))
    };
    let named = |arms: &[&ArmFindings]| {
        let each = arms.iter().filter_map(|arm| figures(arm));
        each.collect::<Vec<_>>().join(", ")
    };
    if above.is_empty() {
        return Vec::new();
    }
    let from_scratch = found.arms.iter().filter(|arm| arm.above_source.is_none());
    let beyond = from_scratch
        .clone()
        .next()
        .map_or("", |_| " that starts from a checkpoint");
    if above.len() == of_source().count() {
        return vec![format!(
            "Worse than not training: every arm{beyond} ends above the validation loss of the untouched source: {}. The budget is too small, or the learning rates are too high, for training to pay.",
            named(&above)
        )];
    }
    let (control, others): (Vec<_>, Vec<_>) =
        above.into_iter().partition(|arm| arm.name == found.control);
    let mut sentences = Vec::new();
    if !control.is_empty() {
        sentences.push(format!(
            "The control ends worse than the untouched source: {}. An arm that is better than the control need not be better than not training.",
            named(&control)
        ));
    }
    if !others.is_empty() {
        let verb = if others.len() == 1 { "Ends" } else { "End" };
        sentences.push(format!(
            "{verb} worse than the untouched source: {}.",
            named(&others)
        ));
    }
    sentences
}

/// Names arms whose best learning rate is the lowest or highest of those tried.
fn rates_at_edge(found: &Findings) -> Option<String> {
    let of = |rate: &RateAtEdge| {
        let edge = match rate.edge {
            Edge::Lowest => "lowest",
            Edge::Highest => "highest",
        };
        let tried: Vec<String> = rate.tried.iter().map(|&lr| rate_in_words(lr)).collect();
        let lr = rate_in_words(rate.lr);
        format!("{} {lr}, the {edge} of {}", rate.arm, join(&tried))
    };
    let each: Vec<String> = found.rates_at_edge.iter().map(of).collect();
    (!each.is_empty()).then(|| {
        format!(
            "The best learning rate is at the edge of those tried: {}. One beyond it may be better, and change what follows.",
            each.join("; ")
        )
    })
}

/// A learning rate with at most three digits.
pub fn rate_in_words(lr: f64) -> String {
    if (0.1..1000.0).contains(&lr) {
        let text = format!("{lr:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let text = format!("{lr:.2e}");
    match text.split_once('e') {
        Some((digits, power)) => {
            format!(
                "{}e{power}",
                digits.trim_end_matches('0').trim_end_matches('.')
            )
        }
        None => text,
    }
}

/// Names accuracies that are worse than guessing.
fn below_chance(found: &Findings) -> Option<String> {
    let of = |below: &BelowChance| {
        let BelowChance {
            arm,
            metric,
            value,
            stderr,
            chance,
        } = below;
        let stderr = stderr.map_or_else(String::new, |e| format!(" ± {:.2}", 100.0 * e));
        let (value, chance) = (100.0 * value, 100.0 * chance);
        format!("{arm} on {metric} ({value:.2}{stderr}, guessing {chance:.1})")
    };
    let each: Vec<String> = found.below_chance.iter().map(of).collect();
    (!each.is_empty()).then(|| {
        format!(
            "Below chance by two standard errors or more and with p < 0.05: {}. Worse than guessing is a sign of wrong data, a wrong tokenizer or a wrong protocol.",
            each.join("; ")
        )
    })
}

fn against_control(found: &Findings, d: &Difference) -> String {
    let (arm, control) = (&d.arm, &found.control);
    let mean = d.over_seeds.mean;
    let compute = match d.compute {
        Compute::EqualAdditional => format!("for as many {}", found.ledger.unit()),
        Compute::EqualTotal => "for as many FLOPs with those of the source".to_owned(),
        Compute::Unequal => "for another amount of compute".to_owned(),
    };
    let place = if is_zero(mean) {
        "level with".to_owned()
    } else {
        let side = if mean < 0.0 { "below" } else { "above" };
        format!("{} nats {side}", figure(mean.abs(), 4))
    };
    let crossover = crossover(found, arm).map_or_else(String::new, |text| format!(" {text}"));
    format!(
        "{arm} ends {place} {control} {compute} ({}): {}.{crossover}",
        intervals(d),
        conclusion(d)
    )
}

fn conclusion(d: &Difference) -> String {
    let word = match d.outcome {
        Outcome::Better => "better",
        Outcome::Worse => "worse",
        Outcome::Undecided => return undecided(d),
    };
    match d.compute {
        Compute::Unequal => format!("{word}, but not at equal compute"),
        _ => word.to_owned(),
    }
}

/// Which interval holds zero, and from where on a difference would have been seen.
fn undecided(d: &Difference) -> String {
    let nothing = "no difference that this experiment could show";
    let holds_zero = |i: [f64; 2]| i[0] <= 0.0 && i[1] >= 0.0;
    let over_seeds = d.over_seeds.interval.filter(|&i| holds_zero(i));
    match (over_seeds, d.over_seeds.detectable(), d.items_detectable) {
        (Some(_), Some(least), _) => {
            let least = figure(least, 4);
            format!("{nothing}; over these seeds it would take about {least}")
        }
        (None, _, Some(least)) if d.over_items.is_some_and(holds_zero) => {
            let least = figure(least, 4);
            format!("{nothing}; over so many windows it would take about {least}")
        }
        _ => nothing.to_owned(),
    }
}

/// Both intervals of a difference in the validation loss.
fn intervals(d: &Difference) -> String {
    let figure = |x: f64| signed(x, 4);
    let over_seeds = match d.over_seeds.values.len() {
        1 => "one seed".to_owned(),
        n => format!("{} over {n} seeds", d.over_seeds.interval_in_words(figure)),
    };
    match d.n_items {
        0 => format!("95 %: {over_seeds}"),
        n => {
            let over_items = in_words(d.over_items, d.no_items_interval, d.items(), figure);
            format!("95 %: {over_seeds}, {over_items} over {n} {}", d.items())
        }
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
    let shown = |cost: f64| found.ledger.shown(cost);
    let told = |total: bool| {
        let unit = if total {
            "FLOPs with the source's"
        } else {
            found.ledger.unit()
        };
        match own(total)?.crossing {
            Crossing::None => None,
            Crossing::FromTheStart => Some(format!("ahead from the start in {unit}")),
            Crossing::At { cost, interval } => Some(match interval {
                None => format!("ahead from {} {unit} on", shown(cost)),
                Some(ends) => {
                    let range = range(found.ledger, ends);
                    format!("ahead from {} {unit} on (95 %: {range})", shown(cost))
                }
            }),
        }
    };
    let parts = [told(false), moved.then(|| told(true)).flatten()];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("In the mean it is {}.", parts.join(", and ")))
}

fn range(ledger: Ledger, [low, high]: [Option<f64>; 2]) -> String {
    let low = low.map_or_else(|| "the start".into(), |x| ledger.shown(x));
    let high = high.map_or_else(|| "beyond the budget".into(), |x| ledger.shown(x));
    format!("{low} to {high}")
}

/// A crossing in a table, its costs counted in `ledger`.
pub fn crossing(crossing: &Crossing, ledger: Ledger) -> String {
    match *crossing {
        Crossing::None => "none".to_owned(),
        Crossing::FromTheStart => "from the start".to_owned(),
        Crossing::At {
            cost,
            interval: None,
        } => ledger.shown(cost),
        Crossing::At {
            cost,
            interval: Some(ends),
        } => format!("{} ({})", ledger.shown(cost), range(ledger, ends)),
    }
}

/// What tasks show, in one sentence each.
fn tasks(found: &Findings) -> Vec<String> {
    let mut metrics: Vec<&str> = Vec::new();
    for d in found.differences.iter().filter(|d| d.higher_is_better) {
        if !metrics.contains(&d.metric.as_str()) {
            metrics.push(&d.metric);
        }
    }
    let of = |metric: &str| {
        let named = |outcome: Outcome| -> Vec<String> {
            let all = found.differences.iter().filter(|d| d.metric == metric);
            let arms = all.filter(|d| d.outcome == outcome);
            let points = |d: &Difference| {
                let compute = match d.compute {
                    Compute::EqualAdditional => "",
                    Compute::EqualTotal => ", FLOPs equal with the source's",
                    Compute::Unequal => ", at another amount of compute",
                };
                let points = signed(100.0 * d.over_seeds.mean, 2);
                format!("{} ({points} points{compute})", with_seeds(d))
            };
            arms.map(points).collect()
        };
        let (better, worse) = (named(Outcome::Better), named(Outcome::Worse));
        if better.is_empty() && worse.is_empty() {
            let control = &found.control;
            return format!(
                "{metric}: no arm differs from {control} by what this experiment could show."
            );
        }
        let part = |word: &str, arms: Vec<String>| {
            let control = &found.control;
            (!arms.is_empty()).then(|| format!("{word} than {control}: {}", arms.join(", ")))
        };
        let parts = part("better", better)
            .into_iter()
            .chain(part("worse", worse));
        format!("{metric}: {}.", parts.collect::<Vec<_>>().join("; "))
    };
    metrics.into_iter().map(of).collect()
}

/// Arms whose runs did not all come to their end.
fn diverged(found: &Findings) -> Vec<String> {
    let of = |(name, lost, all): &(String, usize, usize)| {
        if lost == all {
            format!("Every run of {name} diverged: it has no figures.")
        } else {
            format!("{lost} of {all} runs of {name} diverged: its figures are of the others.")
        }
    };
    found.diverged.iter().map(of).collect()
}

/// How far so many seeds and comparisons carry.
fn caution(found: &Findings) -> String {
    let most = found
        .arms
        .iter()
        .map(|arm| arm.seeds.len())
        .max()
        .unwrap_or(0);
    // Each has an outcome, also where no sentence tells of it.
    let count = found.differences.len();
    let seeds = match most {
        1 => "One seed: intervals are over windows and items alone, and what another seed would give is not known".to_owned(),
        n => format!("{n} seeds"),
    };
    let comparisons = if count == 1 {
        "comparison"
    } else {
        "comparisons"
    };
    format!(
        "{seeds}; {count} {comparisons} at 5 % each, not corrected for their number: at most about {:.2} of them would show a difference by chance.",
        0.05 * count as f64
    )
}

#[cfg(test)]
mod tests {
    use super::super::stats::Sample;
    use super::*;

    fn difference(arm: &str, metric: &str, values: &[f64], over_items: [f64; 2]) -> Difference {
        Difference {
            arm: arm.to_owned(),
            metric: metric.to_owned(),
            higher_is_better: metric.ends_with("acc"),
            over_seeds: Sample::of(values.to_vec()),
            over_items: Some(over_items),
            no_items_interval: None,
            items_detectable: Some(3.2e-5),
            n_items: 40,
            compute: Compute::EqualAdditional,
            outcome: Outcome::Undecided,
        }
    }

    fn findings(differences: Vec<Difference>) -> Findings {
        Findings {
            schema: 1,
            tool_version: String::new(),
            title: String::new(),
            devices: Vec::new(),
            ledger: Ledger::Tokens,
            control: "continued".to_owned(),
            measured: Vec::new(),
            arms: Vec::new(),
            at_equal_cost: Vec::new(),
            differences,
            crossovers: Vec::new(),
            cost_claims: Vec::new(),
            diverged: Vec::new(),
            rates_at_edge: Vec::new(),
            below_chance: Vec::new(),
            verdict: Vec::new(),
            notes: Vec::new(),
            curves: Vec::new(),
        }
    }

    #[test]
    fn differences_below_four_decimals_are_shown() {
        let near = difference("a", VAL_LOSS, &[-1e-5, -3e-5], [-2.4e-5, 1.3e-5]);
        let found = findings(vec![near.clone()]);
        let text = against_control(&found, &near);
        for words in [
            "a ends 2.0e-5 nats below continued",
            "-0.0001 to +0.0001 over 2 seeds",
            "-2.4e-5 to +1.3e-5 over 40 windows",
            "it would take about 0.0001",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let equal = difference("a", VAL_LOSS, &[0.0, -0.0], [-0.0, 0.0]);
        let text = against_control(&findings(vec![equal.clone()]), &equal);
        for words in [
            "a ends level with continued for as many tokens",
            "no spread over 2 seeds, 0.0000 to 0.0000",
            "it would take about 3.2e-5",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn every_outcome_is_counted() {
        let metrics = [VAL_LOSS, "hellaswag/acc", "hellaswag/gold_nll"];
        let arms = ["a", "b", "c"].into_iter();
        let all = arms.flat_map(|arm| metrics.map(|m| difference(arm, m, &[0.1], [-0.1, 0.3])));
        let text = caution(&findings(all.collect()));
        assert!(text.contains("9 comparisons at 5 % each"), "{text}");
        assert!(text.contains("about 0.45 of them"), "{text}");
    }

    #[test]
    fn rates_have_no_power_where_they_need_none() {
        for (lr, shown) in [
            (3e-4, "3e-4"),
            (3.25e-4, "3.25e-4"),
            (1.0, "1"),
            (0.15, "0.15"),
        ] {
            assert_eq!(rate_in_words(lr), shown);
        }
    }

    #[test]
    fn costs_are_shown_as_what_they_are() {
        let at = Crossing::At {
            cost: 1_234_567.0,
            interval: Some([Some(3584.0), None]),
        };
        let shown = |ledger| crossing(&at, ledger);
        assert_eq!(
            shown(Ledger::Tokens),
            "1,234,567 (3,584 to beyond the budget)"
        );
        assert_eq!(
            shown(Ledger::Seconds),
            "1.235e6 (3,584 to beyond the budget)"
        );
    }
}
