//! What a finished run left behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::budget::{Ledger, Spent};
use super::curve::Curve;
use super::matching::Basis;
use crate::account::Cost;
use crate::certify::Certificate;
pub use crate::clean::DIVERGED_FILE;
use crate::error::{Error, Result};
use crate::eval::report;
use crate::eval::score::{ItemScore, Measured, ModelItems, ModelScore, TaskScore};
use crate::recipe::{ModelSource, Recipe};
use crate::run::{ITEMS_FILE, REPORT_FILE, RUN_FILE, growth_file};

/// The metric that comes first.
pub const VAL_LOSS: &str = "val_loss";

/// A metric at some point of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Steps before it.
    pub step: u64,
    /// Tokens before it.
    pub tokens: u64,
    /// Floating-point operations before it.
    pub flops: f64,
    /// Layer passes before it.
    pub layer_passes: f64,
    /// Seconds of training steps before it.
    pub seconds: f64,
    /// The metric's value.
    pub value: f64,
}

impl Point {
    /// What was spent by then.
    pub fn cost(&self, ledger: Ledger) -> f64 {
        match ledger {
            Ledger::Flops => self.flops,
            Ledger::LayerPasses => self.layer_passes,
            Ledger::Tokens => self.tokens as f64,
            Ledger::Seconds => self.seconds,
        }
    }
}

/// The record of a finished run.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// Its folder.
    pub path: PathBuf,
    /// Its recipe.
    pub recipe: Recipe,
    /// What it must have in common with others.
    pub basis: Basis,
    /// Where it ran.
    pub device: String,
    /// What ran it.
    pub tool_version: String,
    /// FLOPs of its source; none where they are unknown.
    pub source_flops: Option<f64>,
    /// What it spent.
    pub spent: Spent,
    /// Scores of the source, and of the grown model before training.
    pub before: Vec<ModelScore>,
    /// Scores in the end.
    pub after: ModelScore,
    /// What those are made of.
    pub items: ModelItems,
    /// Metrics along the way, by name.
    pub series: BTreeMap<String, Vec<Point>>,
    /// What its first growth did, where there was one and it was measured.
    pub certificate: Option<Certificate>,
}

/// The part of a run's own record that others go by.
#[derive(Deserialize)]
pub struct RunFile {
    tool_version: String,
    /// The recipe.
    pub recipe: Recipe,
    data_sha256: String,
    tokenizer_sha256: String,
    source_sha256: Option<String>,
    growth_sha256: Option<String>,
    measured: Measured,
    device: String,
    steps: u64,
    cost: CostFile,
}

#[derive(Deserialize)]
struct CostFile {
    additional: Cost,
    source_flops: Option<f64>,
}

/// The scores that a run ends with.
#[derive(Deserialize)]
pub struct ReportFile {
    /// Of the source, the grown model and the trained one.
    pub models: Vec<ModelScore>,
}

impl RunFile {
    /// Reads it from a run's folder.
    ///
    /// # Errors
    /// There is none, or one of another version.
    pub fn read(dir: &Path) -> Result<Self> {
        let value: Value = read_json(dir, RUN_FILE)?;
        let at = || dir.join(RUN_FILE).display().to_string();
        let schema = value["schema"].as_u64();
        if schema != Some(2) {
            let message = format!("a record of schema {schema:?}, 2 is expected");
            return Err(Error::invalid(at(), message)
                .with_hint("run it again with this version of the program"));
        }
        serde_json::from_value(value)
            .map_err(|e| Error::invalid(at(), format!("not a run's record: {e}")))
    }

    /// What the run must have in common with others; `name` is what it is called.
    pub fn basis(&self, name: String) -> Basis {
        Basis {
            name,
            tokenizer_sha256: self.tokenizer_sha256.clone(),
            data_sha256: self.data_sha256.clone(),
            measured: self.measured.clone(),
            source_sha256: self.source_sha256.clone(),
            growth_sha256: self.growth_sha256.clone(),
        }
    }
}

impl RunRecord {
    /// Reads a run's folder.
    ///
    /// # Errors
    /// It is none, the run is not finished, or its files are damaged.
    pub fn read(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::invalid(path.display(), "not a run's folder"));
        }
        let run = RunFile::read(path)?;
        if !path.join(REPORT_FILE).exists() && path.join(DIVERGED_FILE).exists() {
            return Err(
                Error::invalid(path.display(), "the run diverged").with_hint("leave it out")
            );
        }
        if !path.join(REPORT_FILE).exists() {
            return Err(Error::invalid(path.display(), "the run is not finished")
                .with_hint("the command that began it goes on with it"));
        }
        // Whatever else the record says, nothing is divided by zero or beyond 64 bits.
        let fits = run.recipe.train.check(usize::MAX);
        fits.map_err(|message| Error::invalid(path.join(RUN_FILE).display(), message))?;
        let items: ModelItems = read_json(path, ITEMS_FILE)?;
        if !items
            .tasks
            .iter()
            .flat_map(|(_, items)| items)
            .all(ItemScore::is_sound)
        {
            let message = "a score that cannot be";
            return Err(Error::invalid(path.join(ITEMS_FILE).display(), message));
        }
        let mut report: ReportFile = read_json(path, REPORT_FILE)?;
        let unfinished = || Error::invalid(path.join(REPORT_FILE).display(), "no scores in it");
        let after = report.models.pop().ok_or_else(unfinished)?;
        let batch_tokens = run.recipe.train.batch_tokens;
        let series = Series::read(path, batch_tokens, &report.models, &after, run.steps)?;
        Ok(Self {
            spent: Spent {
                steps: run.steps,
                tokens: run.steps * batch_tokens,
                flops: run.cost.additional.flops,
                layer_passes: run.cost.additional.layer_passes,
                seconds: Some(series.seconds),
            },
            basis: run.basis(path.display().to_string()),
            path: path.to_owned(),
            recipe: run.recipe,
            device: run.device,
            tool_version: run.tool_version,
            source_flops: run.cost.source_flops,
            before: report.models,
            after,
            items,
            series: series.by_name,
            certificate: certificate(path),
        })
    }

    /// What the run was, whatever its seed: runs with the same one are of one arm.
    pub fn arm_identity(&self) -> String {
        let recipe = Recipe {
            seed: 0,
            ..self.recipe.clone()
        };
        let basis = &self.basis;
        format!(
            "{} {} {:?} {:?} {:?}",
            recipe.identity(),
            basis.data_sha256,
            basis.measured,
            basis.source_sha256,
            basis.growth_sha256
        )
    }

    /// A metric against what was spent, with what the source cost where `total` says so.
    pub fn curve(&self, metric: &str, ledger: Ledger, total: bool) -> Curve {
        let sunk = match (total, ledger) {
            (true, Ledger::Flops) => self.source_flops.unwrap_or(0.0),
            _ => 0.0,
        };
        let points = self.series.get(metric).into_iter().flatten();
        Curve::new(points.map(|p| (sunk + p.cost(ledger), p.value)).collect())
    }

    /// A metric in the end.
    pub fn last(&self, metric: &str) -> Option<f64> {
        Some(self.series.get(metric)?.last()?.value)
    }

    /// The validation loss of the source, where there is one.
    pub fn source_loss(&self) -> Option<f64> {
        match self.recipe.model {
            ModelSource::From(_) => Some(self.before.first()?.val?.loss),
            ModelSource::Scratch(_) => None,
        }
    }
}

/// What the first growth did.
fn certificate(path: &Path) -> Option<Certificate> {
    #[derive(Deserialize)]
    struct Growth {
        certificate: Option<Certificate>,
    }
    // Before the first stage, or before a later one.
    let later = (1..100).map(growth_file);
    let mut names = [String::from("grown/growth.json")].into_iter().chain(later);
    let text = names.find_map(|name| fs::read(path.join(name)).ok())?;
    serde_json::from_slice::<Growth>(&text).ok()?.certificate
}

fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T> {
    let path = dir.join(name);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("no run, or one that is not finished: {name} is missing");
            let error = Error::invalid(dir.display(), message);
            return Err(if dir.join("runs").is_dir() {
                error.with_hint(format!("name the runs in it: {}/runs/*", dir.display()))
            } else {
                error
            });
        }
        read => read.map_err(Error::io("read", &path))?,
    };
    serde_json::from_slice(&text)
        .map_err(|e| Error::invalid(path.display(), format!("not a run's record: {e}")))
}

/// Metrics along a run.
struct Series {
    by_name: BTreeMap<String, Vec<Point>>,
    seconds: f64,
}

impl Series {
    fn read(
        dir: &Path,
        batch_tokens: u64,
        before: &[ModelScore],
        after: &ModelScore,
        steps: u64,
    ) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let mut costs: BTreeMap<u64, Point> = BTreeMap::new();
        let zero = Point {
            step: 0,
            tokens: 0,
            flops: 0.0,
            layer_passes: 0.0,
            seconds: 0.0,
            value: f64::NAN,
        };
        costs.insert(0, zero);
        let mut found: Vec<(String, u64, f64)> = Vec::new();
        for (name, value) in before.last().into_iter().flat_map(figures) {
            found.push((name, 0, value));
        }
        let mut seconds = 0.0;
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(Error::io("read", &path))?;
            let event: Value = serde_json::from_str(&line).map_err(|e| {
                let place = format!("{}:{}", path.display(), number + 1);
                Error::invalid(place, format!("not JSON: {e}"))
            })?;
            let Some(step) = event["step"].as_u64() else {
                continue;
            };
            if let (Some(flops), Some(layer_passes)) =
                (event["flops"].as_f64(), event["layer_passes"].as_f64())
            {
                seconds += event["elapsed_s"].as_f64().unwrap_or(0.0);
                let tokens = step * batch_tokens;
                let point = Point {
                    step,
                    tokens,
                    flops,
                    layer_passes,
                    seconds,
                    value: f64::NAN,
                };
                costs.insert(step, point);
            }
            if let Some(loss) = event["val_loss"].as_f64() {
                found.push((VAL_LOSS.to_owned(), step, loss));
            }
            for entry in event["tasks"].as_array().into_iter().flatten() {
                let task = entry["task"].as_str().unwrap_or_default();
                for (metric, value) in entry.as_object().into_iter().flatten() {
                    let Some(value) = value.as_f64().filter(|_| metric != "n") else {
                        continue;
                    };
                    found.push((format!("{task}/{metric}"), step, value));
                }
            }
        }
        for (name, value) in figures(after) {
            found.push((name, steps, value));
        }
        let mut by_name: BTreeMap<String, Vec<Point>> = BTreeMap::new();
        for (name, step, value) in found {
            let cost = costs.get(&step).ok_or_else(|| {
                let message = format!("no cost of step {step}, at which {name} was measured");
                Error::invalid(path.display(), message)
            })?;
            by_name
                .entry(name)
                .or_default()
                .push(Point { value, ..*cost });
        }
        Ok(Self { by_name, seconds })
    }
}

/// Name and value of every score of a model, those of a group as one.
fn figures(score: &ModelScore) -> Vec<(String, f64)> {
    let loss = score.val.map(|val| (VAL_LOSS.to_owned(), val.loss));
    let lines = report::lines(&score.tasks.iter().collect::<Vec<&TaskScore>>());
    let tasks = lines.iter().flat_map(|line| {
        let metrics = line.metrics.iter();
        metrics.map(|metric| (format!("{}/{}", line.name, metric.name), metric.value))
    });
    loss.into_iter().chain(tasks).collect()
}
