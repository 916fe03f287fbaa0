//! Pictures, as data that `page.js` draws.

use serde::Serialize;

use crate::compare::findings::MetricCurves;

/// A picture.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Chart {
    /// Metrics against cost, with a choice of metric, cost and arms.
    Curves(Curves),
    /// Values with intervals beside each other, zero marked.
    Intervals(Intervals),
    /// Points with error bars against a number.
    Points(Points),
    /// Bars with error bars, one for each block.
    Bars(Bars),
    /// A matrix in shades.
    Heat(Heat),
}

/// Metrics along the runs of arms.
#[derive(Clone, Debug, Serialize)]
pub struct Curves {
    /// What it shows.
    pub title: String,
    /// The arms, in the order of the legend.
    pub arms: Vec<String>,
    /// The axis that is shown first: an index into the points, see [`MetricCurves`].
    pub axis: usize,
    /// The metrics.
    pub metrics: Vec<MetricCurves>,
}

/// A row of [`Intervals`].
#[derive(Clone, Debug, Serialize)]
pub struct Interval {
    /// What it is of.
    pub label: String,
    /// The mean.
    pub mean: f64,
    /// Single values, as of seeds.
    pub values: Vec<f64>,
    /// Whether it is decided.
    pub decided: bool,
    /// Its interval over seeds.
    pub over_seeds: Option<[f64; 2]>,
    /// Its interval over items.
    pub over_items: Option<[f64; 2]>,
    /// Both in words, which say why there is none.
    pub words: [String; 2],
}

/// Values with intervals.
#[derive(Clone, Debug, Serialize)]
pub struct Intervals {
    /// What it shows.
    pub title: String,
    /// What the axis counts.
    pub unit: String,
    /// What lies on either side of zero.
    pub sides: [String; 2],
    /// The rows.
    pub rows: Vec<Interval>,
}

/// A point with an error bar.
#[derive(Clone, Debug, Serialize)]
pub struct Dot {
    /// What it is of.
    pub label: String,
    /// Its place on every axis of [`Points`]; none where that is not known.
    pub at: Vec<Option<f64>>,
    /// The line along training that it is on: an index into [`Points::lines`].
    pub line: usize,
    /// Its value.
    pub y: f64,
    /// Its standard error, where there is one.
    pub stderr: Option<f64>,
}

/// A panel of [`Points`].
#[derive(Clone, Debug, Serialize)]
pub struct Panel {
    /// What it shows.
    pub name: String,
    /// A value to compare with, as that of guessing.
    pub level: Option<f64>,
    /// The points.
    pub dots: Vec<Dot>,
}

/// A horizontal axis of [`Points`].
#[derive(Clone, Debug, Serialize)]
pub struct Axis {
    /// What it counts.
    pub name: String,
    /// Whether points of one line are joined: what it counts grows in training.
    pub joined: bool,
}

/// Points with error bars against a number, one panel and one axis at a time.
#[derive(Clone, Debug, Serialize)]
pub struct Points {
    /// What it shows.
    pub title: String,
    /// What can be shown against, that which is shown first in front.
    pub axes: Vec<Axis>,
    /// Names of the lines along training.
    pub lines: Vec<String>,
    /// The panels.
    pub panels: Vec<Panel>,
}

/// A series of [`Bars`].
#[derive(Clone, Debug, Serialize)]
pub struct BarSeries {
    /// What it shows.
    pub name: String,
    /// Values.
    pub values: Vec<f64>,
    /// Their standard errors; none where there are none.
    pub stderr: Option<Vec<f64>>,
}

/// Bars, one for each block.
#[derive(Clone, Debug, Serialize)]
pub struct Bars {
    /// What it shows.
    pub title: String,
    /// What the horizontal axis counts.
    pub x: String,
    /// What the vertical axis counts.
    pub unit: String,
    /// Bars beside each other.
    pub series: Vec<BarSeries>,
}

/// A matrix.
#[derive(Clone, Debug, Serialize)]
pub struct Heat {
    /// What it shows.
    pub title: String,
    /// What rows and columns are.
    pub axes: [String; 2],
    /// Values, row by row; none where there is nothing.
    pub cells: Vec<Vec<Option<f64>>>,
}
