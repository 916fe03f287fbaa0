//! Scores of models, and the tables of them that `eval` and `train` print.

use burn::tensor::Device;
use scale_ckpt::Result;
use scale_ckpt::checkpoint::{Gpt2Config, hex, layout};
use scale_ckpt::data::Tokens;
use scale_ckpt::device::Precision;
use scale_ckpt::error::counted;
use scale_ckpt::eval::certainty::shown;
use scale_ckpt::eval::engine::Engine;
use scale_ckpt::eval::figures::{exponential, figure};
use scale_ckpt::eval::loss::{TextLoss, Windows, text_loss};
use scale_ckpt::eval::paired::Comparison;
use scale_ckpt::eval::prepared::{PreparedTask, TaskRecord};
use scale_ckpt::eval::report::{self, Line};
use scale_ckpt::eval::score::{
    GroupScore, ItemScore, Measured, Metric, ModelItems, ModelScore, TaskScore,
};
use scale_ckpt::model::Gpt2;
use scale_ckpt::report::table;
use scale_ckpt::report::text::wrap_within;
use sha2::{Digest, Sha256};

use super::shared::{thousands, warn_of_loss};

/// What a run's models are scored on: a validation text and tasks.
pub struct Measures {
    /// The validation text.
    pub val: Tokens,
    /// Its windows.
    pub windows: Windows,
    /// The tasks.
    pub tasks: Vec<PreparedTask>,
    /// Where to compute.
    pub device: Device,
}

impl Measures {
    /// What tells these measures from others: scores of different ones are not comparable.
    pub fn identity(&self) -> String {
        let tasks: Vec<_> = self.tasks.iter().map(PreparedTask::identity).collect();
        let parts = (self.val.sha256(), self.windows, tasks);
        hex(&Sha256::digest(format!("{parts:?}")))
    }

    /// What they are, for people and for comparisons of runs.
    pub fn describe(&self) -> Measured {
        let task = |task: &PreparedTask| {
            let TaskRecord {
                task: name,
                protocol,
                version,
                ..
            } = &task.record;
            let identity = hex(&Sha256::digest(task.identity()));
            (
                name.clone(),
                format!("{protocol} {version}, items {}", &identity[..16]),
            )
        };
        Measured {
            val_sha256: self.val.sha256().to_owned(),
            windows: self.windows,
            tasks: self.tasks.iter().map(task).collect(),
        }
    }

    /// Scores a model.
    pub fn score(&self, name: String, model: &Gpt2, config: &Gpt2Config) -> Result<ModelScore> {
        Ok(self.score_items(name, model, config)?.0)
    }

    /// Scores a model, and says what its scores are made of.
    pub fn score_items(
        &self,
        name: String,
        model: &Gpt2,
        config: &Gpt2Config,
    ) -> Result<(ModelScore, ModelItems)> {
        let model = &measured(model);
        let text = text_loss(model, &self.val, self.windows, None, &self.device)?;
        warn_of_loss(&name, text.loss.loss, config.vocab_size);
        // A model that is not finite has no likeliest choice: its loss says enough.
        let tasks = if text.loss.loss.is_finite() {
            self.task_items(model)?
        } else {
            Vec::new()
        };
        let score = ModelScore {
            model: name,
            n_layer: config.n_layer,
            parameters: layout::parameter_count(config),
            val: Some(text.loss),
            tasks: scores_of(&tasks),
        };
        let windows = text.windows;
        Ok((score, ModelItems { windows, tasks }))
    }

    /// Loss on the validation text.
    pub fn val_loss(&self, model: &Gpt2) -> Result<TextLoss> {
        let score = text_loss(
            &measured(model),
            &self.val,
            self.windows,
            None,
            &self.device,
        )?;
        Ok(score.loss)
    }

    /// Scores on the tasks.
    pub fn task_scores(&self, model: &Gpt2) -> Result<Vec<TaskScore>> {
        Ok(scores_of(&self.task_items(&measured(model))?))
    }

    fn task_items(&self, model: &Gpt2) -> Result<Vec<(TaskRecord, Vec<ItemScore>)>> {
        let engine = Engine {
            model,
            device: &self.device,
            share: true,
        };
        let score = |task: &PreparedTask| Ok((task.record.clone(), task.score_all(&engine)?));
        self.tasks.iter().map(score).collect()
    }
}

/// The model as it is scored: in f32, whatever it is trained in, so that scores of a run are
/// those of its checkpoints.
fn measured(model: &Gpt2) -> Gpt2 {
    model.clone().with_precision(Precision::F32)
}

fn scores_of(tasks: &[(TaskRecord, Vec<ItemScore>)]) -> Vec<TaskScore> {
    let each = tasks.iter();
    each.map(|(record, items)| TaskScore::of(record, items))
        .collect()
}

/// Characters of a line that notes fill at most.
const TEXT_WIDTH: usize = 100;
/// The part of a line that a model's name gets where not all fits, in tenths.
const NAME_TENTHS: usize = 3;

/// Tables of scores: the text's, then one for each task, with what is needed to read them. Where
/// a table is wider than `width` characters, its columns come in several tables, and long names
/// are shortened in it if that helps.
pub fn render(rows: &[ModelScore], width: usize) -> String {
    let names: Vec<&str> = rows.iter().map(|row| row.model.as_str()).collect();
    let short = table::shortened(&names, width * NAME_TENTHS / 10);
    let renamed = rows.iter().zip(&short).map(|(row, name)| ModelScore {
        model: name.clone(),
        ..row.clone()
    });
    let widths = Widths {
        tables: width,
        text: width.min(TEXT_WIDTH),
    };
    let renamed: Vec<ModelScore> = renamed.collect();
    let pairs = tables(rows, widths)
        .into_iter()
        .zip(tables(&renamed, widths));
    let mut is_short = false;
    let chosen = pairs.map(|(full, short)| {
        if table::names_stay(&full, &short, width) {
            return full;
        }
        is_short = true;
        short
    });
    let mut parts: Vec<String> = chosen.collect();
    if is_short {
        parts.extend(table::legend(&names, &short));
    }
    parts.join("\n\n")
}

/// How many characters a line holds.
#[derive(Clone, Copy)]
struct Widths {
    tables: usize,
    text: usize,
}

fn tables(rows: &[ModelScore], widths: Widths) -> Vec<String> {
    let mut text = text_table(rows, widths.tables);
    let scores = |row: &ModelScore| report::lines(&row.tasks.iter().collect::<Vec<_>>());
    let lines: Vec<Vec<Line>> = rows.iter().map(scores).collect();
    for task in 0..lines.first().map_or(0, Vec::len) {
        let of_task: Vec<&Line> = lines.iter().map(|lines| &lines[task]).collect();
        text.push(task_table(rows, &of_task, widths));
    }
    text
}

fn text_table(rows: &[ModelScore], width: usize) -> Vec<String> {
    let Some(first) = rows.iter().find_map(|row| row.val) else {
        return Vec::new();
    };
    let sized = first.words.is_some();
    let mut header = vec!["model", "n_layer", "params", "val loss", "ppl"];
    if sized {
        header.extend(["ppl/word", "ppl/byte"]);
    }
    let perplexity = |log: Option<f64>, digits: usize| match log {
        Some(log) => exponential(log, digits),
        None => "-".into(),
    };
    let cells = rows.iter().map(|row| {
        let mut cells = model_cells(row);
        let val = row.val.as_ref();
        let loss = val.map(|v| v.loss);
        cells.push(loss.map_or_else(|| "-".into(), |loss| figure(loss, 4)));
        cells.push(perplexity(loss, 2));
        if sized {
            cells.push(perplexity(val.and_then(TextLoss::nats_per_word), 2));
            cells.push(perplexity(val.and_then(TextLoss::nats_per_byte), 4));
        }
        cells
    });
    let table = laid_out(&header, &cells.collect::<Vec<_>>(), width);
    let windows = |loss: &TextLoss| {
        let tokens = counted(thousands(loss.tokens), "token", "tokens");
        let context = loss.context;
        if loss.stride == context {
            format!("{tokens} in windows of {context}")
        } else {
            format!("{tokens} in windows of {context}, stride {}", loss.stride)
        }
    };
    let losses = rows.iter().filter_map(|row| Some((row, row.val.as_ref()?)));
    let alike = losses
        .clone()
        .all(|(_, loss)| windows(loss) == windows(&first));
    let mut text = format!("{table}\n\nval: nats per token over ");
    if alike {
        text += &windows(&first);
    } else {
        text += "windows that differ, so that losses are not comparable; give --context\n";
        let each = losses.map(|(row, loss)| format!("     {}: {}", row.model, windows(loss)));
        text += &each.collect::<Vec<_>>().join("\n");
    }
    vec![text]
}

fn model_cells(row: &ModelScore) -> Vec<String> {
    vec![
        row.model.clone(),
        row.n_layer.to_string(),
        thousands(row.parameters),
    ]
}

/// A table with a model in every row, numbers to the right.
fn laid_out(header: &[&str], cells: &[Vec<String>], width: usize) -> String {
    let right: Vec<bool> = (0..header.len()).map(|column| column > 0).collect();
    table::render_within(width, 1, header, &right, cells)
}

fn task_table(rows: &[ModelScore], lines: &[&Line], widths: Widths) -> String {
    let first = lines[0];
    let percent = |name: &str| {
        if name.starts_with("acc") {
            format!("{name} %")
        } else {
            name.to_owned()
        }
    };
    let names: Vec<String> = first.metrics.iter().map(|m| percent(&m.name)).collect();
    let mut header = vec!["model", "n_layer", "params"];
    header.extend(names.iter().map(String::as_str));
    let cells = rows.iter().zip(lines).map(|(row, line)| {
        let mut cells = model_cells(row);
        cells.extend(line.metrics.iter().map(|metric| shown(metric, line.n)));
        cells
    });
    let table = laid_out(&header, &cells.collect::<Vec<_>>(), widths.tables);
    let members = match first.members {
        1 => String::new(),
        n => format!(", mean of {n} paradigms"),
    };
    let heading = format!(
        "{} (protocol {}, {}{members})",
        first.name,
        first.protocol,
        first.count()
    );
    let mut text = format!("{}\n{table}", wrap_within(widths.text, &heading, "  "));
    for (row, line) in rows
        .iter()
        .zip(lines)
        .filter(|(_, line)| line.truncated > 0)
    {
        text += &format!(
            "\n{}: {} contexts lost their left end",
            row.model,
            thousands(line.truncated as u64)
        );
    }
    text += &groups_table(rows, &first.name, widths.tables);
    let names: Vec<&str> = rows.iter().map(|row| row.model.as_str()).collect();
    for note in report::notes(&names, lines, &of_parts(rows, &first.name)) {
        text += &format!("\n{}", wrap_within(widths.text, &note, ""));
    }
    text
}

/// Accuracy by parts of a task's items, where it has parts.
fn groups_table(rows: &[ModelScore], task: &str, width: usize) -> String {
    let score = |row: &ModelScore| row.tasks.iter().find(|score| score.task == task).cloned();
    let Some(first) = rows.first().and_then(score) else {
        return String::new();
    };
    if first.groups.len() < 2 {
        return String::new();
    }
    let metric = of_part(&first);
    let mut header = vec![format!("{metric} % by")];
    header.extend(first.groups.iter().map(|part| {
        let count = thousands(part.n as u64);
        format!("{} ({count})", part.group)
    }));
    let cells = rows.iter().filter_map(|row| {
        let parts = score(row)?.groups;
        let cell = |part: &GroupScore| {
            let metric = part.metrics.iter().find(|m| m.name == metric);
            metric.map_or_else(|| "-".into(), |metric| shown(metric, part.n))
        };
        let parts = parts.iter().map(cell);
        Some([row.model.clone()].into_iter().chain(parts).collect())
    });
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let cells: Vec<Vec<String>> = cells.collect();
    format!("\n\n{}\n", laid_out(&header, &cells, width))
}

/// The metric that is shown of parts of a task's items.
fn of_part(score: &TaskScore) -> &'static str {
    match score.metric("acc_norm") {
        Some(_) => "acc_norm",
        None => "acc",
    }
}

/// The metrics in [`groups_table`].
fn of_parts<'a>(rows: &'a [ModelScore], task: &str) -> Vec<&'a Metric> {
    let scores = rows.iter().flat_map(|row| &row.tasks);
    let with_parts = scores.filter(|score| score.task == task && score.groups.len() > 1);
    let metrics = with_parts.flat_map(|score| {
        let metrics = score.groups.iter().flat_map(|part| &part.metrics);
        metrics.filter(|metric| metric.name == of_part(score))
    });
    metrics.collect()
}

/// The table of differences between models, of which all are from the same one. Names that are too
/// long for `width` are shortened.
pub fn render_comparisons(comparisons: &[Comparison], width: usize) -> String {
    let Some(first) = comparisons.first() else {
        return String::new();
    };
    let mut names: Vec<&str> = Vec::new();
    for c in comparisons {
        if !names.contains(&c.b.as_str()) {
            names.push(&c.b);
        }
    }
    let whole = difference_table(comparisons, &names, &names, width);
    let short = table::shortened(&names, width * NAME_TENTHS / 10);
    let shown: Vec<&str> = short.iter().map(String::as_str).collect();
    let table = difference_table(comparisons, &names, &shown, width);
    let (table, legend) = if table::names_stay(&whole, &table, width) {
        (whole, None)
    } else {
        let legend = table::legend(&names, &short).filter(|_| names.len() > 1);
        (table, legend)
    };
    let other = match names.as_slice() {
        [only] => *only,
        _ => "each model",
    };
    let text_width = width.min(TEXT_WIDTH);
    let heading = format!("{other} minus {}, accuracies in points", first.a);
    let reading = "95 %: bootstrap interval; p: McNemar's exact test; shows from: the smallest true difference that as many items would show, at 5 % in four of five cases";
    let parts = [
        Some(format!(
            "differences on the same items\n{}\n{table}",
            wrap_within(text_width, &heading, "")
        )),
        legend,
        Some(wrap_within(text_width, reading, "")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

/// Differences in rows; where there is one model alone, it is not named in every one.
fn difference_table(
    comparisons: &[Comparison],
    names: &[&str],
    shown: &[&str],
    width: usize,
) -> String {
    let all = [
        "model",
        "task",
        "metric",
        "difference",
        "95 %",
        "p",
        "shows from",
    ];
    let from = usize::from(names.len() == 1);
    let cells = comparisons.iter().map(|c| {
        let at = names.iter().position(|name| *name == c.b);
        let name = at.map_or(c.b.as_str(), |at| shown[at]);
        let words = [name.to_owned(), c.task.clone(), c.metric.clone()];
        words.into_iter().chain(c.cells()).skip(from).collect()
    });
    let right: Vec<bool> = (from..all.len()).map(|column| column > 2).collect();
    let cells: Vec<Vec<String>> = cells.collect();
    table::render_within(width, 3 - from, &all[from..], &right, &cells)
}
