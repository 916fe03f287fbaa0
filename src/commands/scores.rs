//! Scores of models, and the tables of them that `eval` and `train` print.

use burn::tensor::Device;
use scale_ckpt::Result;
use scale_ckpt::checkpoint::{Gpt2Config, hex, layout};
use scale_ckpt::data::Tokens;
use scale_ckpt::device::Precision;
use scale_ckpt::error::counted;
use scale_ckpt::eval::engine::Engine;
use scale_ckpt::eval::loss::{TextLoss, Windows, text_loss};
use scale_ckpt::eval::paired::Comparison;
use scale_ckpt::eval::prepared::{PreparedTask, TaskRecord};
use scale_ckpt::eval::report::{self, Line};
use scale_ckpt::eval::score::{GroupScore, ItemScore, Measured, ModelItems, ModelScore, TaskScore};
use scale_ckpt::model::Gpt2;
use scale_ckpt::report::table;
use sha2::{Digest, Sha256};

use super::shared::thousands;

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

/// Tables of scores: the text's, then one for each task, with what is needed to read them.
pub fn render(rows: &[ModelScore]) -> String {
    let mut text = text_table(rows);
    let scores = |row: &ModelScore| report::lines(&row.tasks.iter().collect::<Vec<_>>());
    let lines: Vec<Vec<Line>> = rows.iter().map(scores).collect();
    for task in 0..lines.first().map_or(0, Vec::len) {
        let of_task: Vec<&Line> = lines.iter().map(|lines| &lines[task]).collect();
        text.push(task_table(rows, &of_task));
    }
    text.join("\n\n")
}

fn text_table(rows: &[ModelScore]) -> Vec<String> {
    let Some(first) = rows.iter().find_map(|row| row.val) else {
        return Vec::new();
    };
    let sized = first.words.is_some();
    let mut header = vec!["model", "n_layer", "params", "val loss", "ppl"];
    if sized {
        header.extend(["ppl/word", "ppl/byte"]);
    }
    let figure = |x: Option<f64>, digits: usize| match x {
        Some(x) => format!("{x:.digits$}"),
        None => "-".into(),
    };
    let cells = rows.iter().map(|row| {
        let mut cells = model_cells(row);
        let val = row.val.as_ref();
        cells.push(figure(val.map(|v| v.loss), 4));
        cells.push(figure(val.map(TextLoss::perplexity), 2));
        if sized {
            cells.push(figure(val.and_then(TextLoss::word_perplexity), 2));
            cells.push(figure(val.and_then(TextLoss::byte_perplexity), 4));
        }
        cells
    });
    let table = table::render(&header, &right(header.len()), &cells.collect::<Vec<_>>());
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

/// Numbers to the right, but for the first column.
fn right(columns: usize) -> Vec<bool> {
    (0..columns).map(|column| column > 0).collect()
}

fn task_table(rows: &[ModelScore], lines: &[&Line]) -> String {
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
        cells.extend(line.metrics.iter().map(report::shown));
        cells
    });
    let table = table::render(&header, &right(header.len()), &cells.collect::<Vec<_>>());
    let members = match first.members {
        1 => String::new(),
        n => format!(", mean of {n} paradigms"),
    };
    let mut text = format!(
        "{} (protocol {}, {}{members})\n{table}",
        first.name,
        first.protocol,
        first.count()
    );
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
    text += &groups_table(rows, &first.name);
    if let Some(chance) = first.chance {
        let near = |line: &&Line| {
            let stderr = (chance * (1.0 - chance) / line.n as f64).sqrt();
            let mut accuracies = line.metrics.iter().filter(|m| m.higher_is_better());
            accuracies.all(|m| (m.value - chance).abs() < 2.0 * m.stderr.max(stderr))
        };
        if lines.iter().all(near) {
            text += &format!(
                "\nno score is two standard errors from chance, {:.1} %: compare by losses",
                100.0 * chance
            );
        }
    }
    text
}

/// Accuracy by parts of a task's items, where it has parts.
fn groups_table(rows: &[ModelScore], task: &str) -> String {
    let score = |row: &ModelScore| row.tasks.iter().find(|score| score.task == task).cloned();
    let Some(first) = rows.first().and_then(score) else {
        return String::new();
    };
    if first.groups.len() < 2 {
        return String::new();
    }
    let metric = if first.metric("acc_norm").is_some() {
        "acc_norm"
    } else {
        "acc"
    };
    let mut header = vec![format!("{metric} % by")];
    header.extend(first.groups.iter().map(|part| {
        let count = thousands(part.n as u64);
        format!("{} ({count})", part.group)
    }));
    let cells = rows.iter().filter_map(|row| {
        let parts = score(row)?.groups;
        let of_part = |part: &GroupScore| {
            let metric = part.metrics.iter().find(|m| m.name == metric);
            metric.map_or_else(|| "-".into(), report::shown)
        };
        let parts = parts.iter().map(of_part);
        Some([row.model.clone()].into_iter().chain(parts).collect())
    });
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let cells: Vec<Vec<String>> = cells.collect();
    format!(
        "\n\n{}\n",
        table::render(&header, &right(header.len()), &cells)
    )
}

/// The table of differences between models.
pub fn render_comparisons(comparisons: &[Comparison]) -> String {
    let header = [
        "task",
        "metric",
        "a",
        "b",
        "b - a",
        "95 %",
        "p",
        "shows from",
    ];
    let right = [false, false, false, false, true, true, true, true];
    let cells = comparisons.iter().map(|c| {
        let paired = &c.paired;
        let scale = paired.scale();
        let [low, high] = paired.interval.map(|x| scale * x);
        vec![
            c.task.clone(),
            c.metric.clone(),
            c.a.clone(),
            c.b.clone(),
            format!("{:+.3}", scale * paired.difference),
            format!("{low:+.3} to {high:+.3}"),
            paired.p.map_or_else(|| "-".into(), |p| format!("{p:.4}")),
            format!("{:.3}", scale * paired.detectable),
        ]
    });
    format!(
        "differences on the same items (accuracies in points)\n{}\n\n\
         95 %: bootstrap interval; p: McNemar's exact test; shows from: the smallest true difference\n\
         that as many items would show, at 5 % in four of five cases",
        table::render(&header, &right, &cells.collect::<Vec<_>>())
    )
}
