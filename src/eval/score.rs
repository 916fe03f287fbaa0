//! Scores of items, and what they add up to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::engine::LogLik;
use super::loss::{TextLoss, Windows};
use super::prepared::TaskRecord;
use super::task::{Kind, Protocol};

/// The score of one item: what everything else is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Its index in the data, from 0.
    pub item: usize,
    /// Index of the right choice.
    pub gold: usize,
    /// Log-likelihood of every choice, in nats.
    pub loglik: Vec<f64>,
    /// Whether every token of a choice is the likeliest.
    pub greedy: Vec<bool>,
    /// Tokens of every choice.
    pub tokens: Vec<usize>,
    /// Characters of every choice.
    pub chars: Vec<usize>,
    /// Whether a context lost its left end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// What it is also counted by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, String>,
}

impl ItemScore {
    /// The likeliest choice, the first of equals.
    pub fn choice(&self) -> usize {
        first_largest(self.loglik.iter().copied())
    }

    /// The likeliest choice for its length: in characters in the harness's protocol, in tokens
    /// in the other.
    pub fn choice_norm(&self, protocol: Protocol) -> usize {
        let lengths = match protocol {
            Protocol::Harness => &self.chars,
            Protocol::Completion => &self.tokens,
        };
        let means = self.loglik.iter().zip(lengths);
        first_largest(means.map(|(&sum, &length)| sum / length as f64))
    }

    /// Whether it was answered right: 1 or 0.
    pub fn acc(&self, kind: Kind) -> f64 {
        let right = match kind {
            Kind::Cloze => self.greedy[0],
            Kind::Choice | Kind::ChoiceNorm => self.choice() == self.gold,
        };
        f64::from(u8::from(right))
    }

    /// Whether it was answered right by length: 1 or 0.
    pub fn acc_norm(&self, protocol: Protocol) -> f64 {
        f64::from(u8::from(self.choice_norm(protocol) == self.gold))
    }

    /// Mean negative log-likelihood of the right choice's tokens.
    pub fn gold_nll(&self) -> f64 {
        -self.loglik[self.gold] / self.tokens[self.gold] as f64
    }

    /// Whether it can be what it says.
    pub fn is_sound(&self) -> bool {
        let choices = self.loglik.len();
        let lengths = [self.greedy.len(), self.tokens.len(), self.chars.len()];
        self.gold < choices
            && lengths.iter().all(|&length| length == choices)
            && self
                .tokens
                .iter()
                .chain(&self.chars)
                .all(|&length| length > 0)
            && self.loglik.iter().all(|sum| sum.is_finite())
    }

    /// A score from what the engine found.
    pub fn set(&mut self, found: &[LogLik]) {
        self.loglik = found.iter().map(|f| f.sum).collect();
        self.greedy = found.iter().map(|f| f.greedy).collect();
    }
}

fn first_largest(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, value) in values.enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

/// One number about many items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// `acc`, `acc_norm`, `perplexity` or `gold_nll`.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Its standard error: s / √n with the sample's deviation s, as lm-evaluation-harness has
    /// it; for a perplexity, perplexity times that of the mean log-likelihood. None of one item.
    pub stderr: Option<f64>,
}

impl Metric {
    /// Whether more is better.
    pub fn higher_is_better(&self) -> bool {
        higher_is_better(&self.name)
    }

    /// Its standard error, where its items give one: equal ones do not.
    pub fn spread(&self) -> Option<f64> {
        self.stderr.filter(|&stderr| stderr > 0.0)
    }

    /// The mean of values, at least one.
    pub fn mean(name: &str, values: &[f64]) -> Self {
        let (value, stderr) = mean_and_stderr(values);
        Self {
            name: name.into(),
            value,
            stderr,
        }
    }
}

/// Whether more is better of a metric, which may stand behind a task's name, as in `piqa/acc`.
pub fn higher_is_better(metric: &str) -> bool {
    let name = metric.rsplit('/').next().unwrap_or(metric);
    name.starts_with("acc")
}

/// Mean, and s / √n; none of a single value.
pub fn mean_and_stderr(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    let stderr = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
    (mean, stderr)
}

/// The scores of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelScore {
    /// What the model is called.
    pub model: String,
    /// Blocks.
    pub n_layer: usize,
    /// Parameters.
    pub parameters: u64,
    /// Loss on the validation text.
    pub val: Option<TextLoss>,
    /// Scores on tasks.
    pub tasks: Vec<TaskScore>,
}

/// What the models of a run were measured on. Runs with different ones cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// SHA-256 of the validation text's tokens.
    pub val_sha256: String,
    /// Its windows.
    pub windows: Windows,
    /// Protocol, version and items of every task.
    pub tasks: BTreeMap<String, String>,
}

/// What a model's scores are made of, for comparisons on the same windows and items.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ModelItems {
    /// Mean loss of every window of the validation text.
    pub windows: Vec<f64>,
    /// The items of every task.
    pub tasks: Vec<(TaskRecord, Vec<ItemScore>)>,
}

/// Accuracy of some of the items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupScore {
    /// `split_type` or `source`.
    pub by: String,
    /// Which.
    pub group: String,
    /// Items.
    pub n: usize,
    /// The metrics of these items.
    pub metrics: Vec<Metric>,
}

/// What the items of a task add up to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// The task.
    pub task: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Items.
    pub n: usize,
    /// Items of the full set.
    pub full: usize,
    /// Items that were left out, as bad or as too long for a model.
    pub left_out: u64,
    /// Few-shot examples before each.
    pub shots: usize,
    /// The metrics.
    pub metrics: Vec<Metric>,
    /// The same for parts of the items.
    pub groups: Vec<GroupScore>,
    /// Items whose context lost its left end to fit the model.
    pub truncated: usize,
    /// Accuracy of guessing, where there is a choice.
    pub chance: Option<f64>,
}

impl TaskScore {
    /// Adds up scores, at least one.
    pub fn of(record: &TaskRecord, items: &[ItemScore]) -> Self {
        let TaskRecord {
            task,
            protocol,
            kind,
            ..
        } = record;
        let (protocol, kind) = (*protocol, *kind);
        let mut parts: BTreeMap<(&str, &str), Vec<&ItemScore>> = BTreeMap::new();
        for item in items {
            for (by, group) in &item.groups {
                parts.entry((by, group)).or_default().push(item);
            }
        }
        let groups = parts.into_iter().map(|((by, group), items)| GroupScore {
            by: by.into(),
            group: group.into(),
            n: items.len(),
            metrics: metrics(protocol, kind, &items),
        });
        Self {
            task: task.clone(),
            protocol,
            n: items.len(),
            full: record.data.full,
            left_out: record.data.skipped + record.unfit.len() as u64,
            shots: record.shots.map_or(0, |shots| shots.count),
            metrics: metrics(protocol, kind, &items.iter().collect::<Vec<_>>()),
            groups: groups.collect(),
            truncated: items.iter().filter(|item| item.truncated).count(),
            chance: (kind != Kind::Cloze).then(|| {
                let guesses = items.iter().map(|item| 1.0 / item.loglik.len() as f64);
                guesses.sum::<f64>() / items.len() as f64
            }),
        }
    }

    /// A metric by its name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }
}

/// The values of a metric, item by item; none where the task does not have it.
pub fn values(
    name: &str,
    protocol: Protocol,
    kind: Kind,
    items: &[&ItemScore],
) -> Option<Vec<f64>> {
    let each = |value: &dyn Fn(&ItemScore) -> f64| items.iter().map(|item| value(item)).collect();
    match (name, kind) {
        ("acc", _) => Some(each(&|item| item.acc(kind))),
        ("acc_norm", Kind::ChoiceNorm) => Some(each(&|item| item.acc_norm(protocol))),
        ("gold_nll", Kind::Choice | Kind::ChoiceNorm) => Some(each(&ItemScore::gold_nll)),
        ("log_perplexity", Kind::Cloze) => Some(each(&|item| -item.loglik[0])),
        _ => None,
    }
}

fn metrics(protocol: Protocol, kind: Kind, items: &[&ItemScore]) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = ["acc", "acc_norm", "gold_nll"]
        .iter()
        .filter_map(|&name| Some(Metric::mean(name, &values(name, protocol, kind, items)?)))
        .collect();
    if let Some(values) = values("log_perplexity", protocol, kind, items) {
        let (mean, stderr) = mean_and_stderr(&values);
        metrics.push(Metric {
            name: "perplexity".into(),
            value: mean.exp(),
            stderr: stderr.map(|stderr| mean.exp() * stderr),
        });
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::super::dataset::DataRecord;
    use super::*;

    fn record(kind: Kind) -> TaskRecord {
        TaskRecord {
            task: "t".into(),
            dataset: "d".into(),
            repo: "o/d".into(),
            protocol: Protocol::Harness,
            version: "1.0".into(),
            kind,
            shots: None,
            data: DataRecord {
                count: 4,
                full: 9,
                sha256: String::new(),
                known: None,
                skipped: 0,
                examples_sha256: None,
                groups_sha256: None,
            },
            unfit: Vec::new(),
        }
    }

    fn item(loglik: [f64; 4], tokens: [usize; 4], chars: [usize; 4]) -> ItemScore {
        ItemScore {
            item: 0,
            gold: 1,
            loglik: loglik.to_vec(),
            greedy: vec![false; 4],
            tokens: tokens.to_vec(),
            chars: chars.to_vec(),
            truncated: false,
            groups: BTreeMap::new(),
        }
    }

    #[test]
    fn choices_are_the_first_of_the_likeliest() {
        let score = item([-4.0, -6.0, -9.0, -4.0], [1, 3, 4, 1], [2, 4, 3, 1]);
        assert_eq!(score.choice(), 0);
        assert_eq!(score.choice_norm(Protocol::Completion), 1);
        assert_eq!(score.choice_norm(Protocol::Harness), 1);
        let by_chars = item([-4.0, -6.0, -9.0, -4.0], [1, 3, 4, 1], [2, 2, 9, 4]);
        assert_eq!(by_chars.choice_norm(Protocol::Harness), 2);
    }

    #[test]
    fn sums_are_those_of_the_harness() {
        let right = item([-4.0, -2.0, -9.0, -4.0], [1, 2, 1, 1], [1, 1, 1, 1]);
        let wrong = item([-1.0, -6.0, -9.0, -4.0], [1, 2, 1, 1], [1, 1, 1, 1]);
        let items = [right.clone(), wrong.clone(), right, wrong];
        let score = TaskScore::of(&record(Kind::ChoiceNorm), &items);
        let acc = score.metric("acc").unwrap();
        // numpy: np.std([1, 0, 1, 0], ddof=1) / np.sqrt(4)
        assert_eq!(acc.value, 0.5);
        assert!((acc.stderr.unwrap() - 0.288_675_134_594_812_9).abs() < 1e-15);
        assert_eq!(score.metric("gold_nll").unwrap().value, 2.0);
        assert!(score.metric("perplexity").is_none());
    }

    #[test]
    fn a_cloze_has_a_perplexity() {
        let mut cloze = item([-2.0, 0.0, 0.0, 0.0], [1; 4], [1; 4]);
        (cloze.gold, cloze.greedy[0]) = (0, true);
        let score = TaskScore::of(&record(Kind::Cloze), &[cloze.clone(), cloze]);
        assert_eq!(score.metric("perplexity").unwrap().value, 2f64.exp());
        assert_eq!(score.metric("acc").unwrap().value, 1.0);
    }
}
