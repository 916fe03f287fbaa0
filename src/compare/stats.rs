//! What a few seeds say about a mean.

use serde::Serialize;

use crate::eval::certainty::{NoInterval, has_spread};

/// Half of the last digit of a loss that is shown: what is nearer looks equal.
pub const LEAST_SHOWN: f64 = 5e-5;

/// Two-sided 5 % points of Student's t for 1 to 30 degrees of freedom (any table, e.g. Fisher
/// and Yates).
const T_975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];
/// One-sided 20 % points, for 80 % power.
const T_80: [f64; 30] = [
    1.376, 1.061, 0.978, 0.941, 0.920, 0.906, 0.896, 0.889, 0.883, 0.879, 0.876, 0.873, 0.870,
    0.868, 0.866, 0.865, 0.863, 0.862, 0.861, 0.860, 0.859, 0.858, 0.858, 0.857, 0.856, 0.856,
    0.855, 0.855, 0.854, 0.854,
];

/// t at 97.5 % for `df` degrees of freedom.
fn t_975(df: usize) -> f64 {
    let tabled = T_975.get(df.wrapping_sub(1)).copied();
    tabled.unwrap_or_else(|| beyond(1.959_964, df))
}

fn t_80(df: usize) -> f64 {
    let tabled = T_80.get(df.wrapping_sub(1)).copied();
    tabled.unwrap_or_else(|| beyond(0.841_621, df))
}

/// t from z by the first term of its expansion (Abramowitz and Stegun, 26.7.5), beyond the table
/// right to three digits.
fn beyond(z: f64, df: usize) -> f64 {
    z + (z.powi(3) + z) / (4.0 * df as f64)
}

/// A mean over seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// The values, seed by seed.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with n − 1; none of a single value.
    pub deviation: Option<f64>,
    /// The mean's 95 % interval by Student's t, where the values give one.
    pub interval: Option<[f64; 2]>,
    /// Why they do not: there is one alone, or they are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_interval: Option<NoInterval>,
}

impl Sample {
    /// Of values, at least one.
    pub fn of(values: Vec<f64>) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let deviation = (values.len() > 1).then(|| {
            let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
            (squares / (n - 1.0)).sqrt()
        });
        let no_interval = match deviation {
            None => Some(NoInterval::TooFew),
            Some(_) if !has_spread(&values) => Some(NoInterval::NoSpread),
            Some(_) => None,
        };
        let half = deviation
            .filter(|_| no_interval.is_none())
            .map(|s| t_975(values.len() - 1) * s / n.sqrt());
        Self {
            interval: half.map(|half| [mean - half, mean + half]),
            no_interval,
            values,
            mean,
            deviation,
        }
    }

    /// The interval in words, each end shown by `figure`, or why there is none.
    pub fn interval_in_words(&self, figure: impl Fn(f64) -> String) -> String {
        in_words(self.interval, self.no_interval, "seeds", figure)
    }

    /// The ends of the interval; the mean itself where the values are equal, as at the start of
    /// runs that begin alike.
    pub fn ends(&self) -> Option<[f64; 2]> {
        let equal = self.no_interval == Some(NoInterval::NoSpread);
        self.interval.or(equal.then_some([self.mean; 2]))
    }

    /// The smallest true mean that as many values, as far apart as these, would tell from 0 at
    /// 5 % in four of five cases, about: (t₀.₉₇₅ + t₀.₈) · s / √n. None without an interval.
    pub fn detectable(&self) -> Option<f64> {
        self.interval?;
        let df = self.values.len().checked_sub(1)?;
        let scale = self.deviation? / (self.values.len() as f64).sqrt();
        Some((t_975(df) + t_80(df)) * scale)
    }
}

/// An interval of `what` in words, or why there is none.
pub fn in_words(
    interval: Option<[f64; 2]>,
    missing: Option<NoInterval>,
    what: &str,
    figure: impl Fn(f64) -> String,
) -> String {
    match (interval, missing) {
        (Some([low, high]), _) => format!("{} to {}", figure(low), figure(high)),
        (None, Some(why)) => why.words(what),
        (None, None) => "-".to_owned(),
    }
}

/// Spearman's rank correlation of two lists of the same length: Pearson's of the ranks, equal
/// values sharing the mean of theirs. None where a list has fewer than three values or all its
/// values are equal.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let n = a.len() as f64;
    let mean = (n + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (a.len() > 2 && scale > 0.0).then(|| product(&a, &b) / scale)
}

/// Ranks from 1, equal values sharing the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |x: &f64| {
        let below = values.iter().filter(|y| *y < x).count();
        let equal = values.iter().filter(|y| *y == x).count();
        below as f64 + (equal as f64 + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_students_interval() {
        // scipy.stats.t.interval(0.95, 2, loc=2, scale=1/3**0.5)
        let sample = Sample::of(vec![1.0, 2.0, 3.0]);
        let [low, high] = sample.interval.unwrap();
        assert!((low + 0.484).abs() < 1e-3 && (high - 4.484).abs() < 1e-3);
        assert_eq!(sample.deviation, Some(1.0));
        // scipy.stats.t.ppf(0.975, 40)
        assert!((t_975(40) - 2.0211).abs() < 2e-3);
        let alone = Sample::of(vec![4.0]);
        assert_eq!(
            (alone.mean, alone.interval, alone.detectable()),
            (4.0, None, None)
        );
    }

    #[test]
    fn equal_values_have_no_interval() {
        let figure = |x: f64| format!("{x:+.2}");
        // −2 points in both seeds, from different accuracies: equal but for rounding.
        let equal = Sample::of(vec![100.0 * (0.26 - 0.28), 100.0 * (0.30 - 0.32)]);
        assert_eq!(equal.interval_in_words(figure), "no spread");
        assert_eq!((equal.interval, equal.detectable()), (None, None));
        assert!(equal.ends().is_some_and(|[low, high]| low == high));
        assert_eq!(
            Sample::of(vec![1.0]).interval_in_words(figure),
            "too few seeds"
        );
        assert_eq!(Sample::of(vec![1.0]).ends(), None);
        let two = Sample::of(vec![1.0, 2.0]);
        assert_eq!(two.interval_in_words(figure), "-4.85 to +7.85");
    }

    #[test]
    fn rank_correlations_are_scipys() {
        // scipy.stats.spearmanr
        let of = |a: &[f64], b: &[f64]| rank_correlation(a, b);
        assert_eq!(of(&[1.0, 2.0, 3.0], &[5.0, 6.0, 70.0]), Some(1.0));
        assert_eq!(of(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        let found = of(&[1.0, 2.0, 2.0, 4.0, 5.0], &[2.0, 1.0, 4.0, 3.0, 5.0]).unwrap();
        assert!((found - 0.666_885_928_855_350_3).abs() < 1e-12, "{found}");
        assert_eq!(of(&[1.0, 2.0], &[1.0, 2.0]), None);
        assert_eq!(of(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
    }
}
