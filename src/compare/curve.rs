//! Curves of a metric against cost: interpolation, differences, crossover.

use serde::Serialize;

use super::stats::Sample;

/// A metric against cost: points in order of cost, straight lines between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// Of points in any order. Of points of the same cost the last one counts.
    pub fn new(mut points: Vec<(f64, f64)>) -> Self {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        // The sort keeps the order of equals: the later one replaces the earlier.
        points.reverse();
        points.dedup_by(|a, b| a.0 == b.0);
        points.reverse();
        Self { points }
    }

    /// Its points.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// The largest cost; none of an empty curve.
    pub fn end(&self) -> Option<f64> {
        self.points.last().map(|point| point.0)
    }

    /// The value at a cost, on the straight line between the points around it. None outside:
    /// nothing is extrapolated.
    pub fn at(&self, cost: f64) -> Option<f64> {
        let after = self.points.partition_point(|point| point.0 < cost);
        let &(x1, y1) = self.points.get(after)?;
        if x1 == cost {
            return Some(y1);
        }
        let (x0, y0) = *self.points.get(after.checked_sub(1)?)?;
        Some(y0 + (y1 - y0) * (cost - x0) / (x1 - x0))
    }

    /// The smallest cost from which on the curve stays at or below `level`; none if it ends
    /// above.
    pub fn stays_below_from(&self, level: f64) -> Option<f64> {
        let excess = |i: usize| self.points[i].1 - level;
        let last = self.points.len().checked_sub(1)?;
        let from = (0..=last).rev().take_while(|&i| excess(i) <= 0.0).last()?;
        let Some(before) = from.checked_sub(1) else {
            return Some(self.points[0].0);
        };
        Some(root(
            (self.points[before].0, excess(before)),
            (self.points[from].0, excess(from)),
        ))
    }
}

/// Where the line through two points on both sides of zero is zero.
fn root((x0, y0): (f64, f64), (x1, y1): (f64, f64)) -> f64 {
    if y0 == y1 {
        return x1;
    }
    x0 + (x1 - x0) * y0 / (y0 - y1)
}

/// Pairs of curves, second minus first, at every cost that either has a point at and both
/// reach.
pub fn differences(pairs: &[(Curve, Curve)]) -> Vec<(f64, Sample)> {
    let points = pairs
        .iter()
        .flat_map(|(a, b)| a.points.iter().chain(&b.points));
    let mut costs: Vec<f64> = points.map(|point| point.0).collect();
    costs.sort_by(f64::total_cmp);
    costs.dedup();
    let at = |cost: f64| -> Option<(f64, Sample)> {
        let each = pairs.iter().map(|(a, b)| Some(b.at(cost)? - a.at(cost)?));
        let values: Vec<f64> = each.collect::<Option<_>>()?;
        (!values.is_empty()).then(|| (cost, Sample::of(values)))
    };
    costs.into_iter().filter_map(at).collect()
}

/// From which cost on one arm is below another.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Crossing {
    /// It is not below at the end of the budget.
    None,
    /// It is below at every cost above 0 that was measured.
    FromTheStart,
    /// It is above, or level, and from here on below.
    At {
        /// Where the mean difference changes its sign for the last time.
        cost: f64,
        /// The costs around it at which the 95 % interval of the difference holds zero; none
        /// where there is one seed, or all have the same curves. An end is open where the interval holds zero as far as the
        /// curves go.
        interval: Option<[Option<f64>; 2]>,
    },
}

/// The crossing of differences that [`differences`] gives; below is better.
///
/// The interval is the set of costs around the crossing at which Student's interval over seeds
/// of the paired difference holds zero.
pub fn crossing(differences: &[(f64, Sample)]) -> Option<Crossing> {
    let last = differences.len().checked_sub(1)?;
    let mean = |i: usize| differences[i].1.mean;
    let Some(from) = (0..=last).rev().take_while(|&i| mean(i) < 0.0).last() else {
        return Some(Crossing::None);
    };
    let Some(before) = from.checked_sub(1) else {
        return Some(Crossing::FromTheStart);
    };
    // Equal at first, as after a growth that preserves the function.
    if before == 0 && mean(0) == 0.0 {
        return Some(Crossing::FromTheStart);
    }
    let point = |i: usize, y: f64| (differences[i].0, y);
    let cost = root(point(before, mean(before)), point(from, mean(from)));
    let bound = |i: usize, side: usize| differences[i].1.ends().map(|ends| ends[side]);
    // Walking away from the crossing, where the interval's bound leaves zero.
    let low = (0..=before).rev().find_map(|i| {
        let here = bound(i, 0).filter(|&low| low > 0.0)?;
        Some(match bound(i + 1, 0) {
            Some(next) if next <= 0.0 => root(point(i, here), point(i + 1, next)),
            _ => differences[i].0,
        })
    });
    // The last cost at which the interval still holds zero, or lies above; after it, if there is
    // an after.
    let undecided = (before..=last)
        .rev()
        .find(|&i| bound(i, 1).is_none_or(|high| high >= 0.0));
    let high = undecided.and_then(|i| {
        let here = bound(i, 1)?;
        let next = (i < last).then(|| bound(i + 1, 1))??;
        Some(root(point(i, here), point(i + 1, next)))
    });
    let around = [before, from].map(|i| differences[i].1.interval);
    let has_interval = around.into_iter().flatten().next().is_some();
    let ends = [
        low.map(|low| low.min(cost)),
        high.map(|high| high.max(cost)),
    ];
    Some(Crossing::At {
        cost,
        interval: has_interval.then_some(ends),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(from: f64, slope: f64, costs: &[f64]) -> Curve {
        Curve::new(costs.iter().map(|&x| (x, from + slope * x)).collect())
    }

    fn cross(pairs: &[(Curve, Curve)]) -> Crossing {
        crossing(&differences(pairs)).unwrap()
    }

    #[test]
    fn values_lie_on_the_lines_between_points_and_nowhere_else() {
        let curve = Curve::new(vec![(4.0, 1.0), (0.0, 5.0), (2.0, 3.0)]);
        assert_eq!(curve.at(1.0), Some(4.0));
        assert_eq!(curve.at(3.5), Some(1.5));
        assert_eq!((curve.at(0.0), curve.at(4.0)), (Some(5.0), Some(1.0)));
        assert_eq!((curve.at(-0.1), curve.at(4.1)), (None, None));
        assert_eq!(Curve::new(Vec::new()).at(0.0), None);
    }

    #[test]
    fn the_last_of_points_at_one_cost_counts() {
        let curve = Curve::new(vec![(0.0, 1.0), (1.0, 2.0), (1.0, 3.0)]);
        assert_eq!(curve.points(), [(0.0, 1.0), (1.0, 3.0)]);
    }

    /// 5 − x and 6 − 2x meet at 1, on grids that do not have that point in common.
    #[test]
    fn lines_cross_where_they_meet() {
        let control = line(5.0, -1.0, &[0.0, 0.7, 3.0]);
        let arm = line(6.0, -2.0, &[0.0, 0.4, 1.9, 3.0]);
        let Crossing::At { cost, interval } = cross(&[(control, arm)]) else {
            panic!("they cross");
        };
        assert!((cost - 1.0).abs() < 1e-12, "{cost}");
        assert_eq!(interval, None, "one seed has no interval");
    }

    #[test]
    fn an_arm_that_never_catches_up_has_no_crossing() {
        let grid = [0.0, 1.0, 2.0];
        let control = line(5.0, -1.0, &grid);
        assert_eq!(
            cross(&[(control.clone(), line(6.0, -1.2, &grid))]),
            Crossing::None
        );
        // Ahead for a while, behind in the end.
        let early = Curve::new(vec![(0.0, 5.0), (1.0, 3.0), (2.0, 3.0), (3.0, 3.0)]);
        let late = line(5.0, -1.0, &[0.0, 1.0, 2.0, 3.0]);
        assert_eq!(cross(&[(late, early)]), Crossing::None);
    }

    #[test]
    fn an_arm_that_starts_level_and_falls_faster_is_ahead_from_the_start() {
        let grid = [0.0, 1.0, 2.0];
        let pair = (line(5.0, -1.0, &grid), line(5.0, -1.1, &grid));
        assert_eq!(cross(&[pair]), Crossing::FromTheStart);
        let pair = (line(5.0, -1.0, &grid), line(4.0, -1.0, &grid));
        assert_eq!(cross(&[pair]), Crossing::FromTheStart);
    }

    /// Of several crossings, the last one is where the arm pulls ahead for good.
    #[test]
    fn the_last_crossing_counts() {
        let zero = line(0.0, 0.0, &[0.0, 1.0, 2.0, 3.0, 4.0]);
        let arm = Curve::new(vec![
            (0.0, 1.0),
            (1.0, -1.0),
            (2.0, 1.0),
            (3.0, -3.0),
            (4.0, -3.0),
        ]);
        let Crossing::At { cost, .. } = cross(&[(zero, arm)]) else {
            panic!("they cross");
        };
        assert!((cost - 2.25).abs() < 1e-12, "{cost}");
    }

    /// Differences 2 − x ± 0.1 over three seeds: s = 0.1, so the half-width is
    /// 4.303 · 0.1 / √3 = 0.2484, and the interval of the crossing 2 ± 0.2484.
    #[test]
    fn the_interval_of_a_crossing_is_where_the_differences_interval_holds_zero() {
        let grid: Vec<f64> = (0..=8).map(|i| f64::from(i) * 0.5).collect();
        let pair = |shift: f64| (line(0.0, 0.0, &grid), line(2.0 + shift, -1.0, &grid));
        let Crossing::At {
            cost,
            interval: Some([Some(low), Some(high)]),
        } = cross(&[pair(-0.1), pair(0.0), pair(0.1)])
        else {
            panic!("they cross");
        };
        assert!((cost - 2.0).abs() < 1e-12);
        assert!((low - 1.7516).abs() < 1e-3, "{low}");
        assert!((high - 2.2484).abs() < 1e-3, "{high}");
    }

    /// Runs that begin alike have no spread at the start, and one at the crossing all the same.
    #[test]
    fn curves_that_begin_alike_have_an_interval_where_they_cross() {
        let grid = [0.0, 1.0, 2.0, 3.0];
        let pair = |slope: f64| (line(0.0, 0.0, &grid), line(1.0, slope, &grid));
        let Crossing::At { cost, interval } = cross(&[pair(-0.9), pair(-1.0), pair(-1.1)]) else {
            panic!("they cross");
        };
        assert!(
            (cost - 1.0).abs() < 1e-12 && interval.is_some(),
            "{interval:?}"
        );
        let same = cross(&[pair(-1.0), pair(-1.0)]);
        assert!(
            matches!(same, Crossing::At { interval: None, .. }),
            "{same:?}"
        );
    }

    /// An interval that left zero and came back is open.
    #[test]
    fn an_interval_ends_where_it_holds_zero_for_the_last_time() {
        let sample = |mean: f64| Sample {
            values: vec![mean; 3],
            mean,
            deviation: Some(0.1),
            interval: Some([mean - 0.5, mean + 0.5]),
            no_interval: None,
        };
        let found = [(0.0, sample(1.0)), (1.0, sample(-1.0)), (2.0, sample(-0.1))];
        let found = crossing(&found).unwrap();
        assert!(
            matches!(
                found,
                Crossing::At {
                    interval: Some([Some(_), None]),
                    ..
                }
            ),
            "{found:?}"
        );
    }

    #[test]
    fn an_interval_that_the_budget_cuts_off_is_open() {
        let grid = [0.0, 1.0, 2.0, 3.0];
        let pair = |slope: f64| (line(0.0, 0.0, &grid), line(2.5, slope, &grid));
        let crossing = cross(&[pair(-0.8), pair(-0.9), pair(-1.3)]);
        assert!(
            matches!(
                crossing,
                Crossing::At {
                    interval: Some([Some(_), None]),
                    ..
                }
            ),
            "{crossing:?}"
        );
    }

    #[test]
    fn recovery_is_the_last_time_that_a_level_is_reached() {
        let curve = Curve::new(vec![
            (0.0, 5.0),
            (1.0, 3.0),
            (2.0, 4.5),
            (3.0, 3.5),
            (4.0, 3.0),
        ]);
        assert_eq!(curve.stays_below_from(4.0), Some(2.5));
        assert_eq!(curve.stays_below_from(2.0), None);
        assert_eq!(curve.stays_below_from(6.0), Some(0.0));
        assert_eq!(curve.stays_below_from(3.0), Some(4.0));
    }
}
