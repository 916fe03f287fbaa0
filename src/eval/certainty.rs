//! How sure a figure is, for people: standard errors, intervals and p-values, and what is said
//! where the items do not give any.
//!
//! A standard error of nothing but right answers, of one item or of equal differences is 0, and
//! looks like certainty. Where that is so, another interval is given, or words.

use serde::{Deserialize, Serialize};

use super::figures::figure;
use super::score::Metric;

/// The fewest values that a bootstrap's 95 % interval is made of. It ends at the extremes at the
/// latest, and of n differences all lie on one side of the true one with probability 2^(1−n):
/// 5 of them have an interval of 94 % at most.
pub const FEWEST: usize = 6;
/// The smallest p that four digits show.
const SMALLEST_P: f64 = 1e-4;
/// The largest p of guessing at which a score stands out from it.
const LEVEL: f64 = 0.05;
/// A count that was made of an accuracy is off by less than this.
const COUNT_ROUNDING: f64 = 1e-6;
/// z of a two-sided test at 5 %.
const Z_975: f64 = 1.959_964;

/// Why there is no interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoInterval {
    /// There are fewer values than an interval takes.
    TooFew,
    /// All values are equal, which says nothing of how far others would be from them.
    NoSpread,
}

impl NoInterval {
    /// In words; `what` are the values, as in `seeds`.
    pub fn words(self, what: &str) -> String {
        match self {
            Self::TooFew => format!("too few {what}"),
            Self::NoSpread => "no spread".to_owned(),
        }
    }
}

/// Whether values differ by more than rounding.
pub fn has_spread(values: &[f64]) -> bool {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    high - low > 1e-12 * low.abs().max(high.abs()).max(1.0)
}

/// A p-value with four digits; what would be 0 is said to be less than they show.
pub fn p_value(p: f64) -> String {
    if p < SMALLEST_P {
        format!("< {SMALLEST_P}")
    } else {
        format!("{p:.4}")
    }
}

/// A metric of `n` items as people read it: accuracies in percent, with their standard error.
/// An accuracy whose items give no standard error comes with Wilson's interval, another metric
/// alone.
pub fn shown(metric: &Metric, n: usize) -> String {
    let is_accuracy = metric.higher_is_better();
    let value = metric.value;
    match metric.spread() {
        Some(stderr) if is_accuracy => format!("{:.2} ± {:.2}", 100.0 * value, 100.0 * stderr),
        Some(stderr) => format!("{} ± {}", figure(value, 4), figure(stderr, 4)),
        None if is_accuracy => {
            let [low, high] = wilson(value, n).map(|x| 100.0 * x);
            format!("{:.2} ({low:.1} to {high:.1})", 100.0 * value)
        }
        None => figure(value, 4),
    }
}

/// How to read what [`shown`] makes of metrics without a standard error; none where all have one.
pub fn reading<'a>(metrics: impl IntoIterator<Item = &'a Metric>) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for metric in metrics.into_iter().filter(|m| m.spread().is_none()) {
        let part = if metric.higher_is_better() {
            "in brackets: Wilson's 95 % interval, where the items give no standard error"
        } else {
            "without ±: one item, or all alike"
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Wilson's 95 % interval of a part `p` of `n` items: it has a width also where all items are
/// right, or none is.
pub fn wilson(p: f64, n: usize) -> [f64; 2] {
    let n = n as f64;
    let z2 = Z_975 * Z_975;
    let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z_975 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    [(middle - half).max(0.0), (middle + half).min(1.0)]
}

/// P(X ≤ k) of n independent trials that succeed with probability `p`, which is neither 0 nor 1,
/// by logarithms of the binomial's terms.
pub fn binomial_tail(k: usize, n: usize, p: f64) -> f64 {
    let odds = p / (1.0 - p);
    let mut log_term = n as f64 * (1.0 - p).ln();
    let mut tail = log_term.exp();
    for i in 1..=k.min(n) {
        log_term += ((n - i + 1) as f64 / i as f64 * odds).ln();
        tail += log_term.exp();
    }
    tail
}

/// One-sided p that guessing gives an accuracy of `n` items that is as far from `chance`, or
/// farther.
fn p_of_guessing(value: f64, n: usize, chance: f64) -> f64 {
    if chance <= 0.0 || chance >= 1.0 {
        return 1.0;
    }
    // A mean over seeds may lie between two counts: the nearer to chance is taken.
    let right = value * n as f64;
    if value < chance {
        let most = (right - COUNT_ROUNDING).ceil().max(0.0);
        binomial_tail(most as usize, n, chance)
    } else {
        let least = (right + COUNT_ROUNDING).floor();
        binomial_tail(n.saturating_sub(least as usize), n, 1.0 - chance)
    }
}

/// On which side of guessing an accuracy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Two standard errors below, or more, and with p < 0.05.
    Below,
    /// Not to be told from it.
    Near,
    /// Two standard errors above, or more, and with p < 0.05.
    Above,
}

/// Where an accuracy of `n` items stands beside that of guessing, by the standard error that is
/// shown with it, or by that of guessing where it has none, and by the exact binomial test: of few
/// items, the standard error of an accuracy near 0 or 1 is too small.
pub fn beside_chance(metric: &Metric, n: usize, chance: f64) -> Side {
    let of_guessing = (chance * (1.0 - chance) / n as f64).sqrt();
    let error = metric.spread().unwrap_or(of_guessing);
    let distance = metric.value - chance;
    if distance.abs() < 2.0 * error || p_of_guessing(metric.value, n, chance) >= LEVEL {
        Side::Near
    } else if distance < 0.0 {
        Side::Below
    } else {
        Side::Above
    }
}

/// What is to be said of a table of scores beside guessing; none where some score is above it and
/// none below. Each score comes with a name, its items and the accuracy of guessing.
pub fn chance_note(scores: &[(String, &Metric, usize, f64)]) -> Option<String> {
    let (_, _, _, chance) = scores.first()?;
    let on = |side: Side| {
        scores
            .iter()
            .filter(move |(_, metric, n, chance)| beside_chance(metric, *n, *chance) == side)
    };
    let chance = format!("{:.1} %", 100.0 * chance);
    let below: Vec<String> = on(Side::Below)
        .map(|(name, metric, n, _)| format!("{name} ({})", shown(metric, *n)))
        .collect();
    let none_above = on(Side::Above).next().is_none();
    match (below.is_empty(), none_above) {
        (true, false) => None,
        (true, true) => Some(format!(
            "no score can be told from chance, {chance}: compare by losses"
        )),
        (false, none_above) => {
            let others = if none_above { "; none is above" } else { "" };
            Some(format!(
                "below chance, {chance}, by two standard errors or more and with p < 0.05: {}{others}. Worse than guessing is a sign of wrong data, a wrong tokenizer or a wrong protocol",
                below.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acc(right: usize, n: usize) -> Metric {
        let values: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i < right))).collect();
        Metric::mean("acc", &values)
    }

    #[test]
    fn intervals_of_all_or_nothing_have_a_width() {
        // scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
        for (right, n, low, high) in [
            (0, 50, 0.0, 0.071_347_6),
            (19, 19, 0.831_820_8, 1.0),
            (1, 1, 0.206_549_3, 1.0),
            (7, 50, 0.069_508_3, 0.261_861_9),
        ] {
            let [a, b] = wilson(right as f64 / n as f64, n);
            assert!((a - low).abs() < 1e-6 && (b - high).abs() < 1e-6, "{a} {b}");
        }
        assert_eq!(shown(&acc(0, 50), 50), "0.00 (0.0 to 7.1)");
        assert_eq!(shown(&acc(19, 19), 19), "100.00 (83.2 to 100.0)");
        assert_eq!(shown(&acc(1, 1), 1), "100.00 (20.7 to 100.0)");
        assert_eq!(shown(&acc(7, 50), 50), "14.00 ± 4.96");
        assert_eq!(shown(&Metric::mean("gold_nll", &[5.0]), 1), "5.0000");
        let reading = reading([&acc(0, 50), &Metric::mean("gold_nll", &[5.0]), &acc(7, 50)]);
        let reading = reading.unwrap();
        assert!(
            reading.contains("Wilson") && reading.contains("one item"),
            "{reading}"
        );
        assert_eq!(super::reading([&acc(7, 50)]), None);
    }

    #[test]
    fn small_p_values_are_bounds() {
        assert_eq!(p_value(0.0), "< 0.0001");
        assert_eq!(p_value(9.9e-5), "< 0.0001");
        assert_eq!(p_value(1e-4), "0.0001");
        assert_eq!(p_value(0.625), "0.6250");
    }

    #[test]
    fn equal_values_have_no_spread_though_they_are_rounded() {
        // Differences that are equal on paper: 0.26 − 0.28 and 0.30 − 0.32.
        assert!(!has_spread(&[0.26 - 0.28, 0.30 - 0.32]));
        assert!(!has_spread(&[4.0; 3]) && !has_spread(&[1e9, 1e9 + 1e-4]));
        assert!(has_spread(&[0.0, 1e-9]) && has_spread(&[1e-3, 1.1e-3]));
    }

    #[test]
    fn tails_are_scipys() {
        // scipy.stats.binom.cdf(k, n, p)
        for (k, n, p, tail) in [
            (0, 5, 0.25, 0.237_304_687_5),
            (1, 12, 0.25, 0.158_381_760_120_391_85),
            (2, 24, 0.25, 0.039_801_187_342_948_91),
            (2400, 10_042, 0.25, 0.005_452_857_831_862_106),
            (30, 50, 0.5, 0.940_539_773_720_281_9),
        ] {
            let found = binomial_tail(k, n, p);
            assert!((found / tail - 1.0).abs() < 1e-8, "{k} of {n}: {found}");
        }
    }

    #[test]
    fn few_items_are_no_proof_of_worse_or_better_than_guessing() {
        let side = |right, n, chance| beside_chance(&acc(right, n), n, chance);
        // scipy.stats.binomtest(right, n, chance, alternative=...).pvalue
        for (right, n, chance, expected, p) in [
            (1, 12, 0.25, Side::Near, 0.158_4),
            (2, 24, 0.25, Side::Below, 0.039_8),
            (7, 50, 0.25, Side::Below, 0.045_3),
            (0, 12, 0.25, Side::Below, 0.031_7),
            (4, 4, 0.5, Side::Near, 0.062_5),
            (5, 5, 0.5, Side::Above, 0.031_3),
            (23, 24, 0.75, Side::Above, 0.009_0),
            (30, 50, 0.25, Side::Above, 1.6e-7),
        ] {
            assert_eq!(side(right, n, chance), expected, "{right} of {n}: p = {p}");
        }
        // Between 1 and 2 of 24, as a mean over seeds.
        let mut mean = acc(1, 24);
        mean.value = 1.5 / 24.0;
        assert_eq!(beside_chance(&mean, 24, 0.25), Side::Below);
        mean.value = 2.5 / 24.0;
        assert_eq!(beside_chance(&mean, 24, 0.25), Side::Near, "as 3 of 24");
    }

    #[test]
    fn below_chance_is_called_that() {
        let (low, none, near, high) = (acc(7, 50), acc(0, 50), acc(12, 50), acc(30, 50));
        let side = |metric: &Metric| beside_chance(metric, 50, 0.25);
        assert_eq!(side(&low), Side::Below);
        assert_eq!(
            side(&none),
            Side::Below,
            "though its own standard error is 0"
        );
        assert_eq!((side(&near), side(&high)), (Side::Near, Side::Above));
        assert_eq!(beside_chance(&acc(0, 1), 1, 0.25), Side::Near, "one item");
        assert_eq!(beside_chance(&acc(3, 3), 3, 1.0), Side::Near, "no choice");
        let of = |metrics: &[&Metric]| {
            let named = |m: &&Metric| ("m acc".to_owned(), (*m).clone());
            let named: Vec<_> = metrics.iter().map(named).collect();
            let scores: Vec<_> = named
                .iter()
                .map(|(n, m)| (n.clone(), m, 50, 0.25))
                .collect();
            chance_note(&scores)
        };
        let text = of(&[&low, &near]).unwrap();
        for words in [
            "below chance, 25.0 %",
            "m acc (14.00 ± 4.96)",
            "none is above",
            "sign",
        ] {
            assert!(text.contains(words), "{text}");
        }
        assert!(!of(&[&low, &high]).unwrap().contains("none is above"));
        assert!(
            of(&[&near])
                .unwrap()
                .starts_with("no score can be told from chance")
        );
        assert_eq!(of(&[&near, &high]), None);
    }
}
