//! The report of an evaluation of many checkpoints.

use super::chart::{Axis, Chart, Dot, Panel, Points};
use super::{Block, Document, Section, Table};
use crate::error::{counted, thousands};
use crate::eval::certainty::shown;
use crate::eval::figures::{exponential, figure};
use crate::eval::folder::{ModelOutcome, ModelRecord, Outcome};
use crate::eval::report::{Line, NO_BASELINE, notes};

/// The report.
pub fn document(outcome: &Outcome) -> Document {
    let evaluation = &outcome.evaluation;
    let lines: Vec<Vec<Line>> = outcome.models.iter().map(ModelOutcome::lines).collect();
    let records: Vec<&ModelRecord> = outcome.models.iter().map(|m| &m.record).collect();
    let axes = axes(&records);
    let (names, of_model) = training_lines(&records);
    let mut sections = vec![
        Section::new(&format!("Scores against {}", axes[0].0)).with(Block::Chart(Chart::Points(
            Points {
                title: "Scores with standard errors".into(),
                panels: panels(outcome, &lines, &axes, &of_model),
                axes: axes
                    .iter()
                    .map(|&(name, _)| Axis {
                        name: name.into(),
                        joined: name != PARAMETERS,
                    })
                    .collect(),
                lines: names,
            },
        ))),
    ];
    sections.extend(texts(outcome));
    sections.extend((0..lines.first().map_or(0, Vec::len)).map(|i| task(outcome, &lines, i)));
    sections.extend(differences(outcome));
    Document {
        title: "Evaluation".into(),
        subtitle: format!(
            "{}, {} on {}; scale-ckpt {}",
            counted(outcome.models.len(), "checkpoint", "checkpoints"),
            evaluation.dtype,
            evaluation.device,
            evaluation.tool_version
        ),
        sections,
    }
}

const PARAMETERS: &str = "parameters";
/// Where a model stands on an axis, where that is known.
type Place = fn(&ModelRecord) -> Option<f64>;

/// What scores can be shown against, the axis on which the models differ in front: parameters, or
/// tokens or steps along a training, as far as they are known of more than one.
fn axes(records: &[&ModelRecord]) -> Vec<(&'static str, Place)> {
    let parameters: (&str, Place) = (PARAMETERS, |r| Some(r.parameters as f64));
    let training: [(&str, Place); 2] = [
        ("tokens of training", |r| {
            r.tokens.map(|tokens| tokens as f64)
        }),
        ("steps of training", |r| r.step.map(|step| step as f64)),
    ];
    let known = |of: Place| records.iter().filter_map(|r| of(r)).collect::<Vec<f64>>();
    let differ = |values: &[f64]| values.iter().any(|x| *x != values[0]);
    let along = training.into_iter().filter(|(_, of)| differ(&known(*of)));
    // Of all before of some: a checkpoint that is not on the first axis is not seen at first.
    let mut along: Vec<(&str, Place)> = along.collect();
    along.sort_by_key(|(_, of)| std::cmp::Reverse(known(*of).len()));
    if differ(&known(parameters.1)) {
        along.insert(0, parameters);
    } else {
        along.push(parameters);
    }
    along
}

/// The lines along training: checkpoints in one folder, with one size and names that differ in
/// numbers alone; and the line of every model.
fn training_lines(records: &[&ModelRecord]) -> (Vec<String>, Vec<usize>) {
    let pattern = |record: &ModelRecord| {
        let name = record.name.trim_end_matches('/');
        let start = name.rfind(['/', '@']).map_or(0, |at| at + 1);
        let last: String = name[start..]
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .collect();
        (format!("{}{last}", &name[..start]), record.parameters)
    };
    let (mut patterns, mut names, mut of_model) = (Vec::new(), Vec::new(), Vec::new());
    for record in records {
        let own = pattern(record);
        let at = patterns.iter().position(|other| *other == own);
        of_model.push(at.unwrap_or(patterns.len()));
        if at.is_none() {
            names.push(record.name.clone());
            patterns.push(own);
        }
    }
    // A line of several is called what they have in common.
    for (line, name) in names.iter_mut().enumerate() {
        if of_model.iter().filter(|own| **own == line).count() > 1 {
            *name = format!("{}*", patterns[line].0);
        }
    }
    (names, of_model)
}

fn panels(
    outcome: &Outcome,
    lines: &[Vec<Line>],
    axes: &[(&str, Place)],
    of_model: &[usize],
) -> Vec<Panel> {
    let dot = |model: usize, y: f64, stderr: Option<f64>| {
        let record = &outcome.models[model].record;
        Dot {
            label: format!(
                "{}, {}",
                record.name,
                counted(record.n_layer, "layer", "layers")
            ),
            at: axes.iter().map(|(_, of)| of(record)).collect(),
            line: of_model[model],
            y,
            stderr,
        }
    };
    let models = || outcome.models.iter().enumerate();
    let mut panels = Vec::new();
    let texts = models().filter_map(|(i, m)| Some(dot(i, m.text?.loss, m.text?.stderr)));
    let texts: Vec<Dot> = texts.collect();
    if !texts.is_empty() {
        panels.push(Panel {
            name: "loss on the text, nats per token".into(),
            level: None,
            dots: texts,
        });
    }
    for (i, line) in lines.first().into_iter().flatten().enumerate() {
        for (j, metric) in line.metrics.iter().enumerate() {
            let accuracy = metric.higher_is_better();
            let scale = if accuracy { 100.0 } else { 1.0 };
            let of = |(model, _)| {
                let lines: &Vec<Line> = &lines[model];
                let metric = &lines[i].metrics[j];
                let stderr = metric.spread().map(|stderr| scale * stderr);
                dot(model, scale * metric.value, stderr)
            };
            let unit = if accuracy { ", %" } else { "" };
            panels.push(Panel {
                name: format!("{} {}{unit}", line.name, metric.name),
                level: line
                    .chance
                    .filter(|_| accuracy)
                    .map(|chance| 100.0 * chance),
                dots: models().map(of).collect(),
            });
        }
    }
    panels
}

fn texts(outcome: &Outcome) -> Option<Section> {
    let header = [
        "model",
        "n_layer",
        "parameters",
        "loss",
        "perplexity",
        "per word",
        "per byte",
    ];
    let mut table = Table::new(1, &header);
    let known = |x: Option<f64>| x.map_or_else(|| "-".into(), |x| exponential(x, 3));
    for model in &outcome.models {
        let Some(loss) = model.text else { continue };
        let mut cells = model_cells(model);
        cells.extend([
            match loss.stderr {
                Some(stderr) => format!("{} ± {}", figure(loss.loss, 4), figure(stderr, 4)),
                None => figure(loss.loss, 4),
            },
            exponential(loss.loss, 3),
            known(loss.nats_per_word()),
            known(loss.nats_per_byte()),
        ]);
        table.rows.push(cells);
    }
    (!table.rows.is_empty()).then(|| Section::new("Text").with(Block::Table(table)))
}

fn model_cells(model: &ModelOutcome) -> Vec<String> {
    vec![
        model.record.name.clone(),
        model.record.n_layer.to_string(),
        thousands(model.record.parameters),
    ]
}

fn task(outcome: &Outcome, lines: &[Vec<Line>], i: usize) -> Section {
    let line = &lines[0][i];
    let mut header = vec!["model", "n_layer", "parameters"];
    header.extend(line.metrics.iter().map(|metric| metric.name.as_str()));
    let mut table = Table::new(1, &header);
    for (model, lines) in outcome.models.iter().zip(lines) {
        let mut cells = model_cells(model);
        cells.extend(lines[i].metrics.iter().map(|m| shown(m, lines[i].n)));
        table.rows.push(cells);
    }
    table.note = format!(
        "Protocol {}, {}; accuracies in percent, ± standard errors.",
        line.protocol,
        line.count()
    );
    let of_task: Vec<&Line> = lines.iter().map(|lines| &lines[i]).collect();
    let names: Vec<&str> = outcome
        .models
        .iter()
        .map(|m| m.record.name.as_str())
        .collect();
    let section = Section::new(&line.name).with(Block::Table(table));
    let notes = notes(&names, &of_task, &[]).into_iter();
    notes.fold(section, |section, note| section.with(Block::Text(note)))
}

fn differences(outcome: &Outcome) -> Option<Section> {
    let section = Section::new("Differences on the same items");
    if outcome.comparisons.is_empty() {
        let is_asked = outcome.models.len() > 2;
        return is_asked.then(|| section.with(Block::Text(NO_BASELINE.into())));
    }
    let header = [
        "task",
        "metric",
        "a",
        "b",
        "b − a",
        "95 % interval",
        "p",
        "shows from",
    ];
    let mut table = Table::new(4, &header);
    for c in &outcome.comparisons {
        let words = [&c.task, &c.metric, &c.a, &c.b].map(String::clone);
        table
            .rows
            .push(words.into_iter().chain(c.cells()).collect());
    }
    table.note = "On the same items, accuracies in points. Interval: bootstrap; p: McNemar's exact test; shows from: the smallest true difference that as many items would show, at 5 % in four of five cases.".into();
    Some(section.with(Block::Table(table)))
}
