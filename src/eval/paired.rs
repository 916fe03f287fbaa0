//! Whether two models differ on the same items.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Binomial, Distribution};
use serde::{Deserialize, Serialize};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 10_000;
/// Resamples where every one visits every item.
const RESAMPLES_OF_ITEMS: usize = 2_000;
/// The least number of items, all right in the same model alone, that McNemar's exact test finds
/// significant at 5 %: 2 · 2⁻⁶ = 0.031.
const FEWEST_DISCORDANT: usize = 6;
/// z of a two-sided test at 5 %, plus z of 80 % power.
const Z_LEVEL_AND_POWER: f64 = 1.959_964 + 0.841_621;

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
    /// 2.5 % and 97.5 % of its bootstrap distribution.
    pub interval: [f64; 2],
    /// Right in a alone and in b alone, where items are right or wrong.
    pub discordant: Option<[usize; 2]>,
    /// Two-sided p of McNemar's exact test.
    pub p: Option<f64>,
    /// The smallest true difference that as many items, as discordant as these, show at 5 % in
    /// four of five cases: (z₀.₉₇₅ + z₀.₈) · s / √n, s the deviation of the items' differences;
    /// where items are right or wrong, at least that of the fewest that the exact test can tell
    /// from chance.
    pub detectable: f64,
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
    let of_means = Paired::of_means(a, b);
    Paired {
        interval: middle(means.collect()),
        discordant: Some([only_a, only_b]),
        p: Some(mcnemar(only_a, only_b)),
        detectable: of_means.detectable.max(FEWEST_DISCORDANT as f64 / n as f64),
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
    Paired {
        interval: middle(means.collect()),
        ..Paired::of_means(a, b)
    }
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

    fn of_means(a: &[f64], b: &[f64]) -> Self {
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
        let (difference, stderr) = super::score::mean_and_stderr(&differences);
        Self {
            difference,
            interval: [difference; 2],
            discordant: None,
            p: None,
            detectable: Z_LEVEL_AND_POWER * stderr,
        }
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
    let n = b + c;
    // P(X ≤ min) by logarithms of the binomial's terms.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for k in 1..=b.min(c) {
        log_term += ((n - k + 1) as f64 / k as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
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
        assert!(
            found.interval[0] > 0.1 && found.interval[1] < 0.23,
            "{found:?}"
        );
        assert_eq!(found.discordant, Some([167, 333]));
        let same = binary(&a, &a, 1);
        assert_eq!(
            (same.interval, same.p, same.detectable),
            ([0.0; 2], Some(1.0), 0.006)
        );
    }

    #[test]
    fn both_bootstraps_agree() {
        let a: Vec<f64> = (0..2000).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
        let b: Vec<f64> = (0..2000).map(|i| f64::from(u8::from(i % 5 < 2))).collect();
        let (one, two) = (binary(&a, &b, 1), continuous(&a, &b, 1));
        for (x, y) in one.interval.iter().zip(two.interval) {
            assert!((x - y).abs() < 0.003, "{one:?} {two:?}");
        }
    }
}
