//! Whether two models differ on the same items.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Binomial, Distribution};
use serde::{Deserialize, Serialize};

use super::certainty::{FEWEST, NoInterval, binomial_tail, has_spread, p_value};
use super::figures::{figure, signed};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;
/// Resamples where every one visits every item.
const RESAMPLES_OF_ITEMS: usize = 2_000;
/// The least number of items, all right in the same model alone, that McNemar's exact test finds
/// significant at 5 %: 2 · 2⁻⁶ = 0.031.
const FEWEST_DISCORDANT: usize = 6;
/// z of a two-sided test at 5 %, plus z of 80 % power.
const Z_LEVEL_AND_POWER: f64 = 1.959_964 + 0.841_621;

/// What a comparison of losses on a text has for its task.
pub const TEXT: &str = "text";

/// A comparison of two models, second minus first, on one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// The metric.
    pub metric: String,
    /// The first model.
    pub a: String,
    /// The second.
    pub b: String,
    /// Items.
    pub n: usize,
    /// What was found.
    #[serde(flatten)]
    pub paired: Paired,
}

/// What a comparison finds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Mean of b − a.
    pub difference: f64,
    /// 2.5 % and 97.5 % of its bootstrap distribution, where the items give one.
    pub interval: Option<[f64; 2]>,
    /// Why they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_interval: Option<NoInterval>,
    /// Right in a alone and in b alone, where items are right or wrong.
    pub discordant: Option<[usize; 2]>,
    /// Two-sided p of McNemar's exact test.
    pub p: Option<f64>,
    /// The smallest true difference that as many items, as discordant as these, show at 5 % in
    /// four of five cases: (z₀.₉₇₅ + z₀.₈) · s / √n, s the deviation of the items' differences;
    /// where items are right or wrong, at least that of the fewest that the exact test can tell
    /// from chance. None where as many items show no difference, or theirs have no spread.
    pub detectable: Option<f64>,
}

/// Compares right (1) and wrong (0) answers to the same items.
pub fn binary(a: &[f64], b: &[f64], seed: u64) -> Paired {
    let n = a.len();
    let count = |wanted: (f64, f64)| a.iter().zip(b).filter(|&(&a, &b)| (a, b) == wanted).count();
    let (only_a, only_b) = (count((1.0, 0.0)), count((0.0, 1.0)));
    // Of a resample's items, so many are right in a alone and so many in b alone.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let draw = |rng: &mut ChaCha8Rng, n: usize, p: f64| -> u64 {
        let binomial = Binomial::new(n as u64, p.clamp(0.0, 1.0)).expect("a probability");
        binomial.sample(rng)
    };
    let means = (0..RESAMPLES).map(|_| {
        let in_a = draw(&mut rng, n, only_a as f64 / n as f64);
        let rest = n - only_a;
        let of_rest = if rest == 0 {
            0.0
        } else {
            only_b as f64 / rest as f64
        };
        let in_b = draw(&mut rng, n - in_a as usize, of_rest);
        (in_b as f64 - in_a as f64) / n as f64
    });
    let of_means = Paired::of_means(a, b, || middle(means.collect()));
    let fewest = FEWEST_DISCORDANT as f64 / n as f64;
    Paired {
        discordant: Some([only_a, only_b]),
        p: Some(mcnemar(only_a, only_b)),
        detectable: (n >= FEWEST_DISCORDANT)
            .then(|| of_means.detectable.unwrap_or(0.0).max(fewest)),
        ..of_means
    }
}

/// Compares any values of the same items.
pub fn continuous(a: &[f64], b: &[f64], seed: u64) -> Paired {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let n = differences.len() as u64;
    let means = (0..RESAMPLES_OF_ITEMS).map(|_| {
        let drawn = (0..n).map(|_| {
            // A 32-bit number times n, over 2³²: as even as anybody could tell.
            let at = (u64::from(rng.next_u32()) * n) >> 32;
            differences[at as usize]
        });
        drawn.sum::<f64>() / n as f64
    });
    Paired::of_means(a, b, || middle(means.collect()))
}

impl Paired {
    /// What differences are multiplied by for people: accuracies are in points.
    pub fn scale(&self) -> f64 {
        if self.discordant.is_some() {
            100.0
        } else {
            1.0
        }
    }

    fn of_means(a: &[f64], b: &[f64], interval: impl FnOnce() -> [f64; 2]) -> Self {
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
        let (difference, stderr) = super::score::mean_and_stderr(&differences);
        let no_interval = if differences.len() < FEWEST {
            Some(NoInterval::TooFew)
        } else if has_spread(&differences) {
            None
        } else {
            Some(NoInterval::NoSpread)
        };
        let stderr = stderr.filter(|_| no_interval.is_none());
        Self {
            difference,
            interval: no_interval.is_none().then(interval),
            no_interval,
            discordant: None,
            p: None,
            detectable: stderr.map(|stderr| Z_LEVEL_AND_POWER * stderr),
        }
    }
}

impl Comparison {
    /// Difference, 95 % interval, p and the smallest difference that would show, for people.
    pub fn cells(&self) -> [String; 4] {
        let paired = &self.paired;
        let scale = paired.scale();
        let interval = match (paired.interval, paired.no_interval) {
            (Some(ends), _) => {
                let [low, high] = ends.map(|x| scale * x);
                format!("{} to {}", signed(low, 3), signed(high, 3))
            }
            (None, why) => {
                let what = if self.task == TEXT {
                    "windows"
                } else {
                    "items"
                };
                why.map_or_else(|| "-".into(), |why| why.words(what))
            }
        };
        [
            signed(scale * paired.difference, 3),
            interval,
            paired.p.map_or_else(|| "-".into(), p_value),
            paired
                .detectable
                .map_or_else(|| "-".into(), |least| figure(scale * least, 3)),
        ]
    }
}

/// The middle 95 %.
fn middle(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_unstable_by(f64::total_cmp);
    let at = |quantile: f64| values[((values.len() - 1) as f64 * quantile).round() as usize];
    [at(0.025), at(0.975)]
}

/// Two-sided p that so uneven a split of b + c coin tosses is chance (McNemar 1947, exact).
pub fn mcnemar(b: usize, c: usize) -> f64 {
    let tail = binomial_tail(b.min(c), b + c, 0.5);
    // Never 0, however many items differ.
    (2.0 * tail).clamp(f64::MIN_POSITIVE, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_tests_are_scipys() {
        // scipy.stats.binomtest(min(b, c), b + c).pvalue
        for (b, c, p) in [
            (0, 0, 1.0),
            (5, 5, 1.0),
            (1, 9, 0.021_484_375),
            (40, 60, 0.056_887_933_640_980_8),
            (1000, 1100, 0.030_720_707_864_242_49),
        ] {
            let found = mcnemar(b, c);
            assert!((found - p).abs() < 1e-9, "{b} {c}: {found} against {p}");
        }
    }

    #[test]
    fn a_clear_difference_is_outside_the_interval_and_none_is_inside() {
        let a: Vec<f64> = (0..1000).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
        let better: Vec<f64> = (0..1000).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
        let found = binary(&a, &better, 1);
        assert!((found.difference - 0.166).abs() < 1e-9);
        let [low, high] = found.interval.unwrap();
        assert!(low > 0.1 && high < 0.23, "{found:?}");
        assert_eq!(found.discordant, Some([167, 333]));
        let same = binary(&a, &a, 1);
        assert_eq!(
            (same.interval, same.no_interval, same.p, same.detectable),
            (None, Some(NoInterval::NoSpread), Some(1.0), Some(0.006))
        );
    }

    #[test]
    fn what_looks_like_certainty_is_called_what_it_is() {
        let of = |task: &str, paired: Paired| Comparison {
            task: task.into(),
            metric: "m".into(),
            a: "a".into(),
            b: "b".into(),
            n: 1,
            paired,
        };
        let cells = |task: &str, paired: Paired| of(task, paired).cells();
        // Every item wrong in a and right in b: all differences are 1.
        let all = cells("t", binary(&[0.0; 50], &[1.0; 50], 1));
        assert_eq!(all, ["+100.000", "no spread", "< 0.0001", "12.000"]);
        let few = cells("t", binary(&[0.0, 1.0, 0.0], &[1.0, 1.0, 0.0], 1));
        assert_eq!(few, ["+33.333", "too few items", "1.0000", "-"]);
        let windows = cells(TEXT, continuous(&[4.0, 4.1], &[4.1, 4.3], 1));
        assert_eq!(windows, ["+0.150", "too few windows", "-", "-"]);
        let equal = cells(TEXT, continuous(&[4.0; 9], &[4.25; 9], 1));
        assert_eq!(equal, ["+0.250", "no spread", "-", "-"]);
        assert!(mcnemar(0, 5000) > 0.0, "no p is 0");
        let same = cells("t", binary(&[1.0; 9], &[1.0; 9], 1));
        assert_eq!(same[0], "0.000", "a zero has no sign");
        let of = |i: usize| 4.0 - 1e-5 * (1.0 + i as f64 % 3.0);
        let near: Vec<f64> = (0..9).map(of).collect();
        let [difference, interval, _, least] = cells(TEXT, continuous(&[4.0; 9], &near, 1));
        assert_eq!(difference, "-2.0e-5");
        for shown in [interval, least] {
            assert!(!shown.contains("0.000"), "{shown}");
        }
    }

    #[test]
    fn both_bootstraps_agree() {
        let a: Vec<f64> = (0..2000).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
        let b: Vec<f64> = (0..2000).map(|i| f64::from(u8::from(i % 5 < 2))).collect();
        let (one, two) = (binary(&a, &b, 1), continuous(&a, &b, 1));
        for (x, y) in one.interval.unwrap().iter().zip(two.interval.unwrap()) {
            assert!((x - y).abs() < 0.003, "{one:?} {two:?}");
        }
    }
}
