//! The report of an evaluation of many checkpoints.

use super::chart::{Chart, Dot, Panel, Points};
use super::{Block, Document, Section, Table};
use crate::error::counted;
use crate::eval::folder::{ModelOutcome, Outcome};
use crate::eval::report::{Line, shown};

/// The report.
pub fn document(outcome: &Outcome) -> Document {
    let evaluation = &outcome.evaluation;
    let lines: Vec<Vec<Line>> = outcome.models.iter().map(ModelOutcome::lines).collect();
    let mut sections =
        vec![
            Section::new("Scores against parameters").with(Block::Chart(Chart::Points(Points {
                title: "Scores with standard errors".into(),
                x: "parameters".into(),
                panels: panels(outcome, &lines),
            }))),
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

fn panels(outcome: &Outcome, lines: &[Vec<Line>]) -> Vec<Panel> {
    let dot = |model: &ModelOutcome, y: f64, stderr: f64| Dot {
        label: format!(
            "{}, {}",
            model.record.name,
            counted(model.record.n_layer, "layer", "layers")
        ),
        x: model.record.parameters as f64,
        y,
        stderr,
    };
    let mut panels = Vec::new();
    let texts = outcome
        .models
        .iter()
        .filter_map(|m| Some(dot(m, m.text?.loss, m.text?.stderr)));
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
            let of = |(model, lines): (&ModelOutcome, &Vec<Line>)| {
                let metric = &lines[i].metrics[j];
                dot(model, scale * metric.value, scale * metric.stderr)
            };
            let unit = if accuracy { ", %" } else { "" };
            panels.push(Panel {
                name: format!("{} {}{unit}", line.name, metric.name),
                level: line
                    .chance
                    .filter(|_| accuracy)
                    .map(|chance| 100.0 * chance),
                dots: outcome.models.iter().zip(lines).map(of).collect(),
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
    let figure = |x: Option<f64>| x.map_or_else(|| "-".into(), |x| format!("{x:.3}"));
    for model in &outcome.models {
        let Some(loss) = model.text else { continue };
        let mut cells = model_cells(model);
        cells.extend([
            format!("{:.4} ± {:.4}", loss.loss, loss.stderr),
            format!("{:.3}", loss.perplexity()),
            figure(loss.word_perplexity()),
            figure(loss.byte_perplexity()),
        ]);
        table.rows.push(cells);
    }
    (!table.rows.is_empty()).then(|| Section::new("Text").with(Block::Table(table)))
}

fn model_cells(model: &ModelOutcome) -> Vec<String> {
    vec![
        model.record.name.clone(),
        model.record.n_layer.to_string(),
        model.record.parameters.to_string(),
    ]
}

fn task(outcome: &Outcome, lines: &[Vec<Line>], i: usize) -> Section {
    let line = &lines[0][i];
    let mut header = vec!["model", "n_layer", "parameters"];
    header.extend(line.metrics.iter().map(|metric| metric.name.as_str()));
    let mut table = Table::new(1, &header);
    for (model, lines) in outcome.models.iter().zip(lines) {
        let mut cells = model_cells(model);
        cells.extend(lines[i].metrics.iter().map(shown));
        table.rows.push(cells);
    }
    table.note = format!(
        "Protocol {}, {}; accuracies in percent, ± standard errors.",
        line.protocol,
        line.count()
    );
    Section::new(&line.name).with(Block::Table(table))
}

fn differences(outcome: &Outcome) -> Option<Section> {
    if outcome.comparisons.is_empty() {
        return None;
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
        let scale = c.paired.scale();
        let [low, high] = c.paired.interval.map(|x| scale * x);
        table.rows.push(vec![
            c.task.clone(),
            c.metric.clone(),
            c.a.clone(),
            c.b.clone(),
            format!("{:+.3}", scale * c.paired.difference),
            format!("{low:+.3} to {high:+.3}"),
            c.paired.p.map_or_else(|| "-".into(), |p| format!("{p:.4}")),
            format!("{:.3}", scale * c.paired.detectable),
        ]);
    }
    table.note = "On the same items, accuracies in points. Interval: bootstrap; p: McNemar's exact test; shows from: the smallest true difference that as many items would show, at 5 % in four of five cases.".into();
    Some(Section::new("Differences on the same items").with(Block::Table(table)))
}
