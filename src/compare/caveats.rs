//! What makes a comparison say less than it seems to: learning rates at the edge of those tried,
//! scores worse than guessing.

use serde::Serialize;

use super::matching::ArmRuns;
use super::record::RunRecord;
use super::stats::Sample;
use crate::eval::certainty::{Side, beside_chance};
use crate::eval::report::{self, Line};
use crate::eval::score::Metric;

/// A best learning rate that had tried ones on one side alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RateAtEdge {
    /// The arm.
    pub arm: String,
    /// The rate.
    pub lr: f64,
    /// Which end of those tried it is.
    pub edge: Edge,
    /// All that were tried, in order.
    pub tried: Vec<f64>,
}

/// An end of what was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Edge {
    /// Its least.
    Lowest,
    /// Its most.
    Highest,
}

impl RateAtEdge {
    /// Where the best of factors on `base` is an end of those tried.
    pub fn of(arm: &str, base: f64, best: f64, factors: &[f64]) -> Option<Self> {
        let mut factors = factors.to_vec();
        factors.sort_by(f64::total_cmp);
        let (&low, &high) = (factors.first()?, factors.last()?);
        let edge = match (best == low, best == high) {
            // One rate alone was not searched for.
            (true, true) | (false, false) => return None,
            (true, false) => Edge::Lowest,
            (false, true) => Edge::Highest,
        };
        Some(Self {
            arm: arm.to_owned(),
            lr: base * best,
            edge,
            tried: factors.iter().map(|factor| base * factor).collect(),
        })
    }
}

/// An accuracy below that of guessing, by two standard errors or more and with p < 0.05.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BelowChance {
    /// The arm.
    pub arm: String,
    /// The metric.
    pub metric: String,
    /// Its mean over seeds.
    pub value: f64,
    /// Its standard error over items, mean over seeds; none where the items give none.
    pub stderr: Option<f64>,
    /// The accuracy of guessing.
    pub chance: f64,
}

/// The accuracies of an arm that are worse than guessing, mean over its runs.
pub fn below_chance(arm: &ArmRuns) -> Vec<BelowChance> {
    let lines = |run: &RunRecord| report::lines(&run.after.tasks.iter().collect::<Vec<_>>());
    let of_runs: Vec<Vec<Line>> = arm.runs.iter().map(lines).collect();
    let Some(first) = of_runs.first() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for line in first {
        let Some(chance) = line.chance else { continue };
        for metric in line.metrics.iter().filter(|m| m.higher_is_better()) {
            // Runs of an arm were measured on the same tasks.
            let own = of_runs.iter().flatten().filter(|l| l.name == line.name);
            let own = own.filter_map(|l| l.metrics.iter().find(|m| m.name == metric.name));
            let own: Vec<&Metric> = own.collect();
            let mean = |values: Vec<f64>| Sample::of(values).mean;
            let stderrs: Option<Vec<f64>> = own.iter().map(|m| m.spread()).collect();
            let mean = Metric {
                name: metric.name.clone(),
                value: mean(own.iter().map(|m| m.value).collect()),
                stderr: stderrs.map(mean),
            };
            if beside_chance(&mean, line.n, chance) == Side::Below {
                found.push(BelowChance {
                    arm: arm.name.clone(),
                    metric: format!("{}/{}", line.name, metric.name),
                    value: mean.value,
                    stderr: mean.stderr,
                    chance,
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_at_the_edge_where_the_best_is_the_least_or_the_most() {
        let of = |best: f64, factors: &[f64]| RateAtEdge::of("a", 1e-3, best, factors);
        let edge = |best: f64, factors: &[f64]| of(best, factors).map(|rate| rate.edge);
        assert_eq!(edge(3.0, &[3.0, 0.3, 1.0]), Some(Edge::Highest));
        assert_eq!(edge(0.3, &[3.0, 0.3, 1.0]), Some(Edge::Lowest));
        assert_eq!(edge(1.0, &[3.0, 0.3, 1.0]), None);
        assert_eq!(edge(2.0, &[2.0]), None, "one rate is no choice");
        assert_eq!(edge(2.0, &[2.0, 2.0]), None, "nor is it twice");
        assert_eq!(of(2.0, &[2.0, 1.0]).unwrap().tried, [1e-3, 2e-3]);
    }
}
