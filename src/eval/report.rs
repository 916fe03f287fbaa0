//! What comes of an evaluation, in files: lm-evaluation-harness's JSON, CSV, Markdown, and
//! comparisons.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::certainty::{chance_note, reading, shown};
use super::figures::{exponential, figure};
use super::folder::{ModelOutcome, ModelRecord, Outcome};
use super::paired::{self, Comparison, TEXT};
use super::prepared::TaskRecord;
use super::score::{ItemScore, Metric, TaskScore, values};
use super::task::{Kind, Protocol, group_of, whole_group_of};
use crate::checkpoint::hex;
use crate::durable;
use crate::error::{Error, Result, counted, thousands};

/// The name of a model's results: scripts look for `results_*.json`.
pub const RESULTS: &str = "results_scale-ckpt.json";
/// Names in an evaluation's folder that are no model's.
const RESERVED: [&str; 6] = [
    "items",
    "evaluation.json",
    "scores.csv",
    "scores.md",
    "report.html",
    "comparisons.json",
];
/// Said where there would be differences between many models.
pub const NO_BASELINE: &str = "No differences: name the model to compare with, --baseline MODEL.";
/// Seed of bootstraps.
const SEED: u64 = 1234;

/// A row of the table of scores: one task, or the mean over the tasks of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The task or group.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Items.
    pub n: usize,
    /// Items of the full set.
    pub full: usize,
    /// Items that were left out.
    pub left_out: u64,
    /// Few-shot examples before each.
    pub shots: usize,
    /// Items whose context lost its left end.
    pub truncated: usize,
    /// Its metrics.
    pub metrics: Vec<Metric>,
    /// Accuracy of guessing, where there is a choice.
    pub chance: Option<f64>,
    /// Tasks that it stands for.
    pub members: usize,
}

/// The tasks of a model, those of a group as one: their unweighted mean, as the harness has it.
pub fn lines(scores: &[&TaskScore]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for score in scores {
        let names = scores.iter().map(|score| score.task.as_str());
        let Some(group) = whole_group_of(&score.task, names) else {
            lines.push(Line {
                name: score.task.clone(),
                protocol: score.protocol,
                n: score.n,
                full: score.full,
                left_out: score.left_out,
                shots: score.shots,
                truncated: score.truncated,
                metrics: score.metrics.clone(),
                chance: score.chance,
                members: 1,
            });
            continue;
        };
        if lines.iter().any(|line| line.name == group) {
            continue;
        }
        let of_group = |s: &&&TaskScore| group_of(&s.task) == Some(group);
        let members: Vec<_> = scores.iter().filter(of_group).copied().collect();
        lines.push(mean_line(group, &members));
    }
    lines
}

impl Line {
    /// Its items in words: a subset is called one.
    pub fn count(&self) -> String {
        let shots = match self.shots {
            0 => String::new(),
            n => format!("{n}-shot, "),
        };
        let number = |n: usize| thousands(n as u64);
        let items = if self.n == self.full {
            format!("all {}", counted(number(self.n), "item", "items"))
        } else {
            let full = counted(number(self.full), "item", "items");
            format!("{} of {full}", number(self.n))
        };
        match self.left_out {
            0 => shots + &items,
            n => format!("{shots}{items}, {} left out", thousands(n)),
        }
    }
}

impl ModelOutcome {
    /// See [`lines`].
    pub fn lines(&self) -> Vec<Line> {
        lines(
            &self
                .tasks
                .iter()
                .map(|(score, _)| score)
                .collect::<Vec<_>>(),
        )
    }
}

fn mean_line(name: &str, members: &[&TaskScore]) -> Line {
    let k = members.len() as f64;
    let metrics = members[0].metrics.iter().enumerate().map(|(i, metric)| {
        let of_members = || members.iter().map(|score| &score.metrics[i]);
        // As in the harness, of a paradigm of one item there is none, nor of its group.
        let squares = of_members().map(|m| Some(m.stderr?.powi(2)));
        let squares: Option<f64> = squares.sum();
        Metric {
            name: metric.name.clone(),
            value: of_members().map(|m| m.value).sum::<f64>() / k,
            stderr: squares.map(|sum| sum.sqrt() / k),
        }
    });
    Line {
        name: name.to_owned(),
        protocol: members[0].protocol,
        n: members.iter().map(|s| s.n).sum(),
        full: members.iter().map(|s| s.full).sum(),
        left_out: members.iter().map(|s| s.left_out).sum(),
        shots: members[0].shots,
        truncated: members.iter().map(|s| s.truncated).sum(),
        metrics: metrics.collect(),
        chance: members[0].chance,
        members: members.len(),
    }
}

/// Comparisons of every model with the baseline, where one is named; without one, of two models
/// with each other, and of more none.
pub fn comparisons(outcome: &Outcome) -> Vec<Comparison> {
    let count = outcome.models.len();
    let named = outcome.evaluation.baseline.as_ref();
    let baseline = match named {
        Some(name) => outcome.models.iter().position(|m| m.record.name == *name),
        None => (count == 2).then_some(0),
    };
    let Some(baseline) = baseline else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let others = (0..count).filter(move |&model| model != baseline);
    let pairs = || others.clone().map(|model| (baseline, model));
    found.extend(pairs().filter_map(|(a, b)| compare_texts(outcome, a, b)));
    let tasks: Vec<&TaskRecord> = outcome.evaluation.tasks.iter().collect();
    for unit in units(&tasks) {
        for (a, b) in pairs() {
            compare(outcome, &unit, a, b, &mut found);
        }
    }
    found
}

/// Losses on the same windows of the same tokens.
fn compare_texts(outcome: &Outcome, a: usize, b: usize) -> Option<Comparison> {
    let [a, b] = [a, b].map(|model| &outcome.models[model]);
    let tokens = |model: &ModelOutcome| {
        let text = model.text?;
        let tokenizer = model.record.tokenizer_sha256.clone();
        Some((tokenizer, text.tokens, text.context, text.stride))
    };
    let n = a.windows.len();
    let same = tokens(a).is_some() && tokens(a) == tokens(b) && n == b.windows.len();
    (same && n > 0).then(|| Comparison {
        task: TEXT.to_owned(),
        metric: "loss".to_owned(),
        a: a.record.name.clone(),
        b: b.record.name.clone(),
        n,
        paired: paired::continuous(&a.windows, &b.windows, SEED),
    })
}

/// What is compared as one: a task, or the tasks of a group.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The task or group.
    pub name: String,
    /// Indices of its tasks.
    pub tasks: Vec<usize>,
    protocol: Protocol,
    kind: Kind,
}

impl Unit {
    /// The values of a metric, item by item; none where its tasks do not have it.
    pub fn values(&self, metric: &str, items: &[&ItemScore]) -> Option<Vec<f64>> {
        values(metric, self.protocol, self.kind, items)
    }
}

/// The tasks of an evaluation, those of a whole group as one.
pub fn units(tasks: &[&TaskRecord]) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for (i, task) in tasks.iter().enumerate() {
        let names = tasks.iter().map(|t| t.task.as_str());
        let name = whole_group_of(&task.task, names).unwrap_or(&task.task);
        match units.iter_mut().find(|unit| unit.name == name) {
            Some(unit) => unit.tasks.push(i),
            None => units.push(Unit {
                name: name.to_owned(),
                tasks: vec![i],
                protocol: task.protocol,
                kind: task.kind,
            }),
        }
    }
    units
}

fn compare(outcome: &Outcome, unit: &Unit, a: usize, b: usize, found: &mut Vec<Comparison>) {
    let items = |model: usize| -> Vec<&ItemScore> {
        let tasks = unit.tasks.iter();
        tasks
            .flat_map(|&task| &outcome.models[model].tasks[task].1)
            .collect()
    };
    let (items_a, items_b) = (items(a), items(b));
    for metric in ["acc", "acc_norm", "gold_nll", "log_perplexity"] {
        let of = |items: &[&ItemScore]| unit.values(metric, items);
        let (Some(values_a), Some(values_b)) = (of(&items_a), of(&items_b)) else {
            continue;
        };
        let paired = if metric.starts_with("acc") {
            paired::binary(&values_a, &values_b, SEED)
        } else {
            paired::continuous(&values_a, &values_b, SEED)
        };
        found.push(Comparison {
            task: unit.name.clone(),
            metric: metric.to_owned(),
            a: outcome.models[a].record.name.clone(),
            b: outcome.models[b].record.name.clone(),
            n: values_a.len(),
            paired,
        });
    }
}

/// Writes everything into an evaluation's folder.
///
/// # Errors
/// A file cannot be written.
pub fn write(outcome: &Outcome, folder: &Path) -> Result<()> {
    for model in &outcome.models {
        let dir = folder.join(&model.record.slug);
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        durable::sweep(&dir, &[])?;
        for (task, (score, items)) in outcome.evaluation.tasks.iter().zip(&model.tasks) {
            let samples = items
                .iter()
                .map(|item| sample(item, task.protocol, task.kind));
            let lines: String = samples.map(|sample| format!("{sample}\n")).collect();
            let name = format!("samples_{}.jsonl", score.task);
            durable::write_file(&dir.join(name), lines.as_bytes())?;
        }
        durable::write_json(&dir.join(RESULTS), &harness(outcome, model))?;
    }
    durable::write_file(&folder.join("scores.csv"), csv(outcome).as_bytes())?;
    durable::write_file(&folder.join("scores.md"), markdown(outcome).as_bytes())?;
    durable::write_json(&folder.join("comparisons.json"), &outcome.comparisons)
}

/// An item with the keys of the harness's samples, and ours.
fn sample(item: &ItemScore, protocol: Protocol, kind: Kind) -> Value {
    let responses = item.loglik.iter().zip(&item.greedy);
    let responses: Vec<Value> = responses
        .map(|(sum, greedy)| json!([sum, greedy]))
        .collect();
    let mut sample = json!({
        "doc_id": item.item,
        "target": item.gold,
        "filtered_resps": responses,
        "acc": item.acc(kind),
    });
    if kind == Kind::ChoiceNorm {
        sample["acc_norm"] = item.acc_norm(protocol).into();
    }
    let ours = serde_json::to_value(item).expect("a score serializes");
    if let (Value::Object(sample), Value::Object(ours)) = (&mut sample, ours) {
        sample.extend(ours);
    }
    sample
}

/// A model's results with the keys of lm-evaluation-harness 0.4.13. Left out is what would
/// differ from one run to the next: dates and times.
pub fn harness(outcome: &Outcome, model: &ModelOutcome) -> Value {
    let evaluation = &outcome.evaluation;
    // Scripts expect these keys also where no task was asked for.
    let keys = [
        "results",
        "group_subtasks",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
        "task_hashes",
    ];
    let mut out: Value = keys.iter().map(|&key| (key, json!({}))).collect();
    for (task, (score, _)) in evaluation.tasks.iter().zip(&model.tasks) {
        let name = &task.task;
        let count = task.shots.map_or(0, |shots| shots.count);
        let output_type = match task.kind {
            Kind::Cloze => "loglikelihood",
            Kind::Choice | Kind::ChoiceNorm => "multiple_choice",
        };
        out["results"][name] = metrics_of(name, score.n, &score.metrics);
        out["configs"][name] = json!({
            "task": name,
            "dataset_path": task.repo,
            "output_type": output_type,
            "protocol": task.protocol,
            "num_fewshot": count,
            "metadata": { "version": version(&task.version) },
        });
        out["versions"][name] = version(&task.version);
        out["n-shot"][name] = count.into();
        out["higher_is_better"][name] = directions(&score.metrics);
        out["n-samples"][name] = json!({ "original": task.data.count, "effective": score.n });
        out["task_hashes"][name] = task.data.sha256.clone().into();
    }
    for line in model.lines() {
        let name = &line.name;
        if line.members == 1 {
            out["group_subtasks"][name] = json!([]);
            continue;
        }
        let metrics = metrics_of(name, line.n, &line.metrics);
        out["results"][name] = metrics.clone();
        out["groups"][name] = metrics;
        out["higher_is_better"][name] = directions(&line.metrics);
        let members = evaluation.tasks.iter().map(|task| task.task.as_str());
        let members = members.filter(|task| group_of(task) == Some(name));
        out["group_subtasks"][name] = members.collect();
        out["versions"][name] = json!(2.0);
    }
    let ModelRecord {
        name,
        slug,
        parameters,
        n_positions,
        weights_sha256,
        ..
    } = &model.record;
    out["config"] = json!({
        "model": "scale-ckpt",
        "model_args": format!("pretrained={name}"),
        "model_num_parameters": parameters,
        "model_dtype": evaluation.dtype,
        "model_sha": weights_sha256,
        "device": evaluation.device,
        "limit": evaluation.selection.limit,
        "sample_seed": evaluation.selection.sample_seed,
        "fewshot_seed": evaluation.tasks.iter().find_map(|t| t.shots).map(|s| s.seed),
    });
    out["text"] = json!(model.text);
    out["scale_ckpt_version"] = evaluation.tool_version.clone().into();
    out["max_length"] = (*n_positions).into();
    out["model_source"] = "scale-ckpt".into();
    out["model_name"] = name.clone().into();
    out["model_name_sanitized"] = slug.clone().into();
    out
}

fn version(text: &str) -> Value {
    text.parse::<f64>()
        .map_or_else(|_| text.into(), |v| json!(v))
}

fn metrics_of(name: &str, n: usize, metrics: &[Metric]) -> Value {
    let mut all = json!({ "name": name, "alias": name, "sample_len": n });
    for Metric {
        name,
        value,
        stderr,
    } in metrics
    {
        all[format!("{name},none")] = json!(value);
        // The harness's own word where there is none.
        all[format!("{name}_stderr,none")] = stderr.map_or_else(|| json!("N/A"), |x| json!(x));
    }
    all
}

fn directions(metrics: &[Metric]) -> Value {
    let each = metrics
        .iter()
        .map(|m| (m.name.clone(), m.higher_is_better().into()));
    each.collect::<Map<_, _>>().into()
}

/// One line for each model, task and metric; groups and parts of the items too.
pub fn csv(outcome: &Outcome) -> String {
    let mut rows = vec![
        "model,n_layer,parameters,task,protocol,num_fewshot,part,n,metric,value,stderr".to_owned(),
    ];
    for model in &outcome.models {
        let ModelRecord {
            name,
            n_layer,
            parameters,
            ..
        } = &model.record;
        let mut add = |task: &str,
                       protocol: &str,
                       shots: usize,
                       part: &str,
                       n: u64,
                       metric: &Metric| {
            let [name, part] = [name, part].map(quoted);
            let Metric {
                name: metric,
                value,
                stderr,
            } = metric;
            let stderr = stderr.map_or_else(String::new, |stderr| stderr.to_string());
            rows.push(format!("{name},{n_layer},{parameters},{task},{protocol},{shots},{part},{n},{metric},{value},{stderr}"));
        };
        for (task, (score, _)) in outcome.evaluation.tasks.iter().zip(&model.tasks) {
            let shots = task.shots.map_or(0, |shots| shots.count);
            let protocol = score.protocol.to_string();
            for metric in &score.metrics {
                add(&score.task, &protocol, shots, "all", score.n as u64, metric);
            }
            for part in &score.groups {
                let label = format!("{}={}", part.by, part.group);
                for metric in &part.metrics {
                    add(&score.task, &protocol, shots, &label, part.n as u64, metric);
                }
            }
        }
        for line in model.lines().iter().filter(|line| line.members > 1) {
            for metric in &line.metrics {
                add(
                    &line.name,
                    &line.protocol.to_string(),
                    0,
                    "all",
                    line.n as u64,
                    metric,
                );
            }
        }
        for (name, value, stderr) in model.text.iter().flat_map(super::loss::TextLoss::figures) {
            let metric = Metric {
                name: name.into(),
                value,
                stderr,
            };
            add(
                "text",
                "text",
                0,
                "all",
                model.text.map_or(0, |t| t.tokens),
                &metric,
            );
        }
    }
    rows.join("\n") + "\n"
}

fn quoted(field: impl AsRef<str>) -> String {
    let field = field.as_ref();
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// A table for every task, models in rows.
pub fn markdown(outcome: &Outcome) -> String {
    let mut text = String::from("# Scores\n");
    let all: Vec<Vec<Line>> = outcome.models.iter().map(ModelOutcome::lines).collect();
    let Some(first) = all.first() else {
        return text;
    };
    for (i, line) in first.iter().enumerate() {
        text += &format!(
            "\n## {}, protocol `{}`, {}\n\n| model | n_layer | parameters |",
            line.name,
            line.protocol,
            line.count()
        );
        let columns = line
            .metrics
            .iter()
            .map(|metric| format!(" {} |", metric.name));
        text += &columns.collect::<String>();
        text += "\n|---|---:|---:|";
        text += &"---:|".repeat(line.metrics.len());
        text.push('\n');
        for (model, lines) in outcome.models.iter().zip(&all) {
            let name = model.record.name.replace('|', "\\|");
            text += &format!(
                "| {name} | {} | {} |",
                model.record.n_layer,
                thousands(model.record.parameters)
            );
            for metric in &lines[i].metrics {
                text += &format!(" {} |", shown(metric, lines[i].n));
            }
            text.push('\n');
        }
        let of_task: Vec<&Line> = all.iter().map(|lines| &lines[i]).collect();
        let names = outcome.models.iter().map(|m| m.record.name.as_str());
        for note in notes(&names.collect::<Vec<_>>(), &of_task, &[]) {
            text += &format!("\n{}\n", note.replace('|', "\\|"));
        }
    }
    let texts = outcome.models.iter().filter_map(|m| Some((m, m.text?)));
    for (i, (model, loss)) in texts.enumerate() {
        if i == 0 {
            text += "\n## Text\n\n| model | loss | perplexity per token | per word | per byte |\n|---|---:|---:|---:|---:|\n";
        }
        let shown = |x: Option<f64>| x.map_or_else(|| "-".into(), |x| exponential(x, 3));
        text += &format!(
            "| {} | {} | {} | {} | {} |\n",
            model.record.name.replace('|', "\\|"),
            figure(loss.loss, 4),
            exponential(loss.loss, 3),
            shown(loss.nats_per_word()),
            shown(loss.nats_per_byte())
        );
    }
    if outcome.models.len() > 2 && outcome.comparisons.is_empty() {
        text += &format!("\n{NO_BASELINE}\n");
    }
    if !outcome.comparisons.is_empty() {
        text += "\n## Differences, on the same items\n\n| task | metric | a | b | b − a | 95 % interval | p (McNemar) | detectable |\n|---|---|---|---|---:|---:|---:|---:|\n";
    }
    for c in &outcome.comparisons {
        text += &format!(
            "| {} | {} | {} | {} | {} |\n",
            c.task,
            c.metric,
            c.a.replace('|', "\\|"),
            c.b.replace('|', "\\|"),
            c.cells().map(|cell| cell.replace('<', "\\<")).join(" | ")
        );
    }
    text
}

/// What is to be said of a task's scores, one line for each model: which are below chance, and
/// how to read those without a standard error, which also may be of parts of the items.
pub fn notes(names: &[&str], lines: &[&Line], parts: &[&Metric]) -> Vec<String> {
    let metrics = lines.iter().flat_map(|line| &line.metrics);
    let metrics = metrics.chain(parts.iter().copied());
    let scores = names.iter().zip(lines).filter_map(|(name, line)| {
        let accuracies = line.metrics.iter().filter(|m| m.higher_is_better());
        let chance = line.chance?;
        Some(accuracies.map(move |m| (format!("{name} {}", m.name), m, line.n, chance)))
    });
    let scores: Vec<_> = scores.flatten().collect();
    chance_note(&scores)
        .into_iter()
        .chain(reading(metrics))
        .collect()
}

/// A name for a model's folder, by the harness's rule, not hidden, and not one of those taken.
pub fn slug(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let name = name.trim_start_matches("./").trim_end_matches('/');
    let mut slug = String::new();
    for c in name.chars() {
        if !"\"<>:/|\\?*[]".contains(c) && !c.is_control() {
            slug.push(c);
        } else if !slug.ends_with("__") {
            slug.push_str("__");
        }
    }
    let slug = slug.trim_start_matches('.');
    // Too long for a file's name, or nothing: a hash does it.
    let slug = if slug.is_empty() || slug.len() > 100 {
        use sha2::Digest;
        hex(&sha2::Sha256::digest(name))[..16].to_owned()
    } else {
        slug.to_owned()
    };
    (1..)
        .map(|n| {
            if n == 1 {
                slug.clone()
            } else {
                format!("{slug}-{n}")
            }
        })
        .find(|slug| !is_taken(slug) && !RESERVED.contains(&slug.as_str()))
        .expect("there is a free name")
}
