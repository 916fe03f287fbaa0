//! `scale-ckpt plan`.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::HumanDuration;
use scale_ckpt::Result;
use scale_ckpt::account::Account;
use scale_ckpt::checkpoint::{Gpt2Config, layout};
use scale_ckpt::data::{Inputs, Split};
use scale_ckpt::device::{DeviceSpec, Precision};
use scale_ckpt::error::{Error, counted, printable};
use scale_ckpt::kernels;
use scale_ckpt::ledger::{self, Memory, MicroBatch};
use scale_ckpt::progress::{Meter, Unit, eprint_line};
use scale_ckpt::recipe::Recipe;
use scale_ckpt::report::table;
use scale_ckpt::stages::PlannedStage;
use scale_ckpt::train::TrainConfig;
use scale_ckpt::train::probe::{PASSES, Probe, probe};
use serde::Serialize;
use serde_json::{Value, json};

use super::cost::{cost, cost_line};
use super::shared::{RecipeArgs, bytes, print, print_json, thousands};
use super::start::Start;
use super::train;

/// Tokens of a timed pass on a CPU: more would only take longer.
const CPU_PASS_TOKENS: usize = 1024;

/// Show what a recipe would do and cost, before anything is spent.
///
/// Stages, tokens, FLOPs in both accounts, parameters, memory, and time from a few passes that
/// are timed on the device of the recipe. Nothing is written.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Time nothing.
    #[arg(long)]
    no_probe: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A stage of the plan.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    n_layer: usize,
    grown: bool,
    parameters: u64,
    trained_parameters: u64,
    tokens: u64,
    steps: u64,
    flops: f64,
    layer_passes: f64,
    memory: Memory,
    memory_bytes: u64,
    seconds: Option<f64>,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let (loaded, spec) = self.recipe.load()?;
        let recipe = loaded.recipe;
        let start = Start::prepare(&recipe).map_err(|error| self.recipe.located(error))?;
        let account = Account::new(&start.stages, &start.config, &recipe.train);
        let planner = Planner {
            recipe: &recipe,
            train: &recipe.train.on(spec),
            start: &start,
            account: &account,
            cpu: spec.is_cpu(),
        };
        let mut rows: Vec<Row> = start.stages.iter().map(|s| planner.row(s)).collect();
        let timed = if self.no_probe {
            Err("no passes were timed".to_owned())
        } else {
            planner.time(spec, &mut rows)?
        };
        let cost = cost(&recipe, &start, &account);
        let mut warnings = missing_data(&recipe);
        let refusal = train::refusal_of_out(&recipe);
        warnings.extend(refusal.map(|error| format!("out: `train` would refuse it: {error}")));
        if self.json {
            let mut plan = planner.json(&rows, &cost, spec, timed);
            plan["warnings"] = warnings.into();
            return print_json(&plan);
        }
        for warning in warnings {
            eprint_line(&format!("warning: {warning}"));
        }
        print(&planner.text(&rows, &cost, spec, timed))
    }
}

/// What the timed passes gave.
#[derive(Debug, Serialize)]
pub struct Timed {
    seconds: f64,
    tokens_per_s: f64,
    /// Over all stages.
    pub flops_per_s: f64,
}

/// What a recipe needs.
pub struct Needs {
    /// Parameters of its last model.
    pub parameters: u64,
    /// Bytes of its largest checkpoint, with moments.
    pub checkpoint_bytes: u64,
    /// Bytes of the model as it is grown first; 0 where it is not.
    pub grown_bytes: u64,
    /// Bytes of memory at least.
    pub memory_bytes: u64,
    /// Its pace by timed passes, or why there are none.
    pub timed: Result<Timed, String>,
}

/// Bytes on disk.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// That stay there.
    pub stays: u64,
    /// The most at a time.
    pub peak: u64,
}

impl Disk {
    /// Of runs one after another that keep one checkpoint each, of which `stays` bytes are left.
    pub fn of_runs<'a>(stays: u64, runs: impl Iterator<Item = &'a Needs>) -> Self {
        // Beside its last checkpoint, a run has the one before it, and what it was grown to.
        let passing = |needs: &Needs| needs.checkpoint_bytes + needs.grown_bytes;
        Self {
            stays,
            peak: stays + runs.map(passing).max().unwrap_or(0),
        }
    }

    /// In words.
    pub fn text(self) -> String {
        let [stays, peak] = [self.stays, self.peak].map(bytes);
        format!("disk: about {stays} stay, {peak} at the most while it runs")
    }
}

/// What a recipe needs, with passes that are timed where `probe` says so.
pub fn needs(recipe: &Recipe, start: &Start, spec: DeviceSpec, probe: bool) -> Result<Needs> {
    let account = Account::new(&start.stages, &start.config, &recipe.train);
    let planner = Planner {
        recipe,
        train: &recipe.train.on(spec),
        start,
        account: &account,
        cpu: spec.is_cpu(),
    };
    let mut rows: Vec<Row> = start.stages.iter().map(|s| planner.row(s)).collect();
    let timed = if probe {
        planner.time(spec, &mut rows)?
    } else {
        Err("no passes were timed".to_owned())
    };
    Ok(Needs {
        parameters: rows.last().map_or(0, |row| row.parameters),
        checkpoint_bytes: checkpoint_bytes(&rows),
        grown_bytes: grown_bytes(&rows),
        memory_bytes: peak(&rows).memory_bytes,
        timed,
    })
}

struct Planner<'a> {
    recipe: &'a Recipe,
    /// Training on the device.
    train: &'a TrainConfig,
    start: &'a Start,
    account: &'a Account,
    cpu: bool,
}

/// What the end of a stage of models like `config` needs, `sequences` to a pass, when everything
/// that will train does.
pub fn memory(
    planned: &PlannedStage,
    config: &Gpt2Config,
    train: &TrainConfig,
    cpu: bool,
    sequences: usize,
) -> Memory {
    let stage = &planned.stage;
    let (fused, logit_rows) = kernels::fused_on(cpu, train.precision());
    let batch = MicroBatch {
        sequences,
        context: train.context,
        logit_rows,
        accumulates: train.sequences() > sequences,
        fused,
        // On the CPU what bf16 holds is widened for every operation.
        value_bytes: match train.precision() {
            Precision::Bf16 if !cpu => 2,
            _ => 4,
        },
        recompute: train.gradient_checkpointing,
    };
    ledger::memory_estimate(config, &batch, &|name| stage.trains(name, stage.last()))
}

impl Planner<'_> {
    fn row(&self, planned: &PlannedStage) -> Row {
        let stage = &planned.stage;
        let config = self.start.config.with_n_layer(planned.n_layer);
        let trains = |name: &str| stage.trains(name, stage.last());
        let numbers = layout::params(&config);
        let trained = numbers.iter().filter(|p| trains(&p.name));
        let memory = memory(
            planned,
            &config,
            self.train,
            self.cpu,
            self.train.micro_batch(),
        );
        let cost = self.account.of_stage(stage.index);
        Row {
            name: planned.name.clone(),
            n_layer: planned.n_layer,
            grown: planned.growth.is_some(),
            parameters: layout::parameter_count(&config),
            trained_parameters: trained.map(|p| p.numel() as u64).sum(),
            tokens: stage.steps * self.recipe.train.batch_tokens,
            steps: stage.steps,
            flops: cost.flops,
            layer_passes: cost.layer_passes,
            memory,
            memory_bytes: memory.peak(),
            seconds: None,
        }
    }

    /// Times the costliest stage, and fills in the others by what they compute. The inner error
    /// says why nothing could be timed.
    fn time(&self, spec: DeviceSpec, rows: &mut [Row]) -> Result<Result<Timed, String>> {
        let device = match spec.open() {
            Ok(device) => device.autodiff(),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let stages = &self.start.stages;
        let flops = |row: &Row| row.flops / row.tokens as f64;
        let costliest = (0..rows.len())
            .max_by(|&a, &b| rows[a].flops.total_cmp(&rows[b].flops))
            .expect("a run has a stage");
        let planned = &stages[costliest];
        let train = self.train;
        let most = if spec.is_cpu() {
            (CPU_PASS_TOKENS / train.context).max(1)
        } else {
            usize::MAX
        };
        let sequences = train.micro_batch().min(most);
        let config = self.start.config.with_n_layer(planned.n_layer);
        let needed = memory(planned, &config, train, self.cpu, sequences).peak();
        if let Some(available) = available_memory().filter(|&a| spec.is_cpu() && a < needed) {
            let [needed, available] = [needed, available].map(bytes);
            return Ok(Err(format!(
                "not timed: that needs about {needed} of memory, {available} are free"
            )));
        }
        let meter = Meter::new("timing", u64::from(PASSES) + 1, Unit::Count);
        let measured = probe(&config, &planned.stage, train, sequences, &device, &|| {
            meter.advance(1);
        });
        drop(meter);
        let measured = match measured {
            Err(error @ Error::OutOfMemory { .. }) => {
                return Ok(Err(format!("not timed: {error}")));
            }
            measured => measured?,
        };
        let last = self.account.flops_of_step(planned.stage.last());
        let reference = (
            last / train.batch_tokens as f64,
            rows[costliest].trained_parameters as f64,
        );
        let Probe { token_s, update_s } = measured;
        for row in rows.iter_mut() {
            let passes = row.tokens as f64 * token_s * flops(row) / reference.0;
            let share = row.trained_parameters as f64 / reference.1.max(1.0);
            row.seconds = Some(passes + row.steps as f64 * update_s * share);
        }
        let sum = |of: fn(&Row) -> f64| rows.iter().map(of).sum::<f64>();
        let seconds = sum(|row| row.seconds.unwrap_or(0.0));
        Ok(Ok(Timed {
            seconds,
            tokens_per_s: sum(|row| row.tokens as f64) / seconds,
            flops_per_s: sum(|row| row.flops) / seconds,
        }))
    }

    /// Bytes on disk: checkpoints that are kept, one more while the newest is saved, and the model
    /// as it was grown first.
    fn disk(&self, rows: &[Row]) -> Disk {
        let checkpoint = checkpoint_bytes(rows);
        let stays = checkpoint * self.train.keep.max(1) as u64 + grown_bytes(rows);
        Disk {
            stays,
            peak: stays + checkpoint,
        }
    }

    /// Tokens on which the last depth would train in full for what the run adds, by FLOPs and
    /// in the paper's account.
    fn full_tokens(&self) -> [f64; 2] {
        let last = self.start.stages.last().expect("a run has a stage");
        let config = self.start.config.with_n_layer(last.n_layer);
        let context = self.recipe.train.context;
        let flops = ledger::per_token(&config, context, &|_| true).total();
        let passes = ledger::LayerPasses::per_token(&config, &|_| true).total();
        let total = self.account.total();
        [
            total.flops / flops as f64,
            total.layer_passes / passes as f64,
        ]
    }

    fn json(
        &self,
        rows: &[Row],
        cost: &Value,
        spec: DeviceSpec,
        timed: Result<Timed, String>,
    ) -> Value {
        let train = self.train;
        let [by_flops, by_passes] = self.full_tokens();
        json!({
            "schema": 1,
            "device": spec.to_string(),
            "batch_tokens": train.batch_tokens,
            "context": train.context,
            "precision": spec.recorded(train.precision()),
            "micro_batch": train.micro_batch(),
            "grad_accum": train.grad_accum(),
            "steps": self.account.steps(),
            "stages": rows,
            "cost": cost,
            "full_tokens_at_equal_flops": by_flops,
            "full_tokens_at_equal_layer_passes": by_passes,
            "memory_bytes": peak(rows).memory_bytes,
            "checkpoint_bytes": checkpoint_bytes(rows),
            "disk_bytes": self.disk(rows).stays,
            "disk_peak_bytes": self.disk(rows).peak,
            "time_unknown": timed.as_ref().err(),
            "time": timed.ok(),
        })
    }

    fn text(
        &self,
        rows: &[Row],
        cost: &Value,
        spec: DeviceSpec,
        timed: Result<Timed, String>,
    ) -> String {
        let train = self.train;
        let header = [
            "stage",
            "n_layer",
            "parameters",
            "trained",
            "tokens",
            "steps",
            "FLOPs",
            "layer passes",
            "memory",
            "time",
        ];
        let mut right = [true; 10];
        right[0] = false;
        let mut cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
        cells.push(totals(rows));
        let worst = peak(rows);
        let memory = worst.memory;
        let [by_flops, by_passes] = self.full_tokens();
        let last = self.start.stages.last().expect("a run has a stage");
        let time = match timed {
            Ok(timed) => {
                let mfu = self.recipe.peak_flops.map_or_else(String::new, |peak| {
                    let share = 100.0 * ledger::mfu(timed.flops_per_s, peak);
                    format!(", {share:.1}% of the peak")
                });
                format!(
                    "about {} of training on {spec}: {} tok/s, {:.3e} FLOP/s{mfu}, from {PASSES} timed passes",
                    duration(timed.seconds),
                    thousands(timed.tokens_per_s as u64),
                    timed.flops_per_s,
                )
            }
            Err(why) => format!("unknown: {why}"),
        };
        [
            table::render(&header, &right, &cells),
            String::new(),
            format!(
                "batch: {}, {} of {}, passes of up to {} of them: {}",
                counted(thousands(train.batch_tokens), "token", "tokens"),
                counted(thousands(train.sequences() as u64), "sequence", "sequences"),
                train.context,
                train.micro_batch(),
                train.grad_accum(),
            ),
            cost_line(cost),
            format!(
                "full training of {} would see {:.3e} tokens for as many FLOPs, {:.3e} for as many layer passes",
                counted(last.n_layer, "block", "blocks"),
                by_flops,
                by_passes,
            ),
            format!(
                "memory: at least {} on {spec}: weights {}, moments {}, gradients {}, activations {}, around the loss {}",
                bytes(worst.memory_bytes),
                bytes(memory.weights),
                bytes(memory.moments),
                bytes(memory.gradients + memory.gradient_sum),
                bytes(memory.activations),
                bytes(memory.head),
            ),
            format!(
                "{}; a checkpoint takes {}, kept: {}",
                self.disk(rows).text(),
                bytes(checkpoint_bytes(rows)),
                train.keep
            ),
            format!("time: {time}"),
        ]
        .join("\n")
    }
}

/// The stage that needs the most memory.
fn peak(rows: &[Row]) -> &Row {
    let largest = rows.iter().max_by_key(|row| row.memory_bytes);
    largest.expect("a run has a stage")
}

/// Weights and moments of the largest model.
fn checkpoint_bytes(rows: &[Row]) -> u64 {
    let of = |row: &Row| row.memory.weights + row.memory.moments;
    rows.iter().map(of).max().unwrap_or(0)
}

/// Weights of the model that a run grows first, which stand beside its checkpoints.
fn grown_bytes(rows: &[Row]) -> u64 {
    let first = rows.first().filter(|row| row.grown);
    first.map_or(0, |row| row.memory.weights)
}

fn cells(row: &Row) -> Vec<String> {
    vec![
        row.name.clone(),
        format!("{}{}", row.n_layer, if row.grown { " grown" } else { "" }),
        thousands(row.parameters),
        thousands(row.trained_parameters),
        thousands(row.tokens),
        thousands(row.steps),
        format!("{:.3e}", row.flops),
        format!("{:.3e}", row.layer_passes),
        bytes(row.memory_bytes),
        row.seconds.map_or_else(String::new, duration),
    ]
}

fn totals(rows: &[Row]) -> Vec<String> {
    let seconds: Option<f64> = rows.iter().map(|row| row.seconds).sum();
    vec![
        "in all".into(),
        String::new(),
        String::new(),
        String::new(),
        thousands(rows.iter().map(|row| row.tokens).sum()),
        thousands(rows.iter().map(|row| row.steps).sum()),
        format!("{:.3e}", rows.iter().map(|row| row.flops).sum::<f64>()),
        format!(
            "{:.3e}",
            rows.iter().map(|row| row.layer_passes).sum::<f64>()
        ),
        String::new(),
        seconds.map_or_else(String::new, duration),
    ]
}

/// A time for people.
pub fn duration(seconds: f64) -> String {
    HumanDuration(Duration::from_secs_f64(seconds.min(1e12))).to_string()
}

/// Says what of the recipe's data is not there, which is no error yet.
pub fn missing_data(recipe: &Recipe) -> Vec<String> {
    let data = &recipe.data;
    let missing = |(paths, split): (&Vec<PathBuf>, Split)| match Inputs::resolve(paths, split) {
        Err(error) => vec![error.to_string()],
        Ok(Inputs::Text(files) | Inputs::Shards(files)) => files
            .iter()
            .filter(|file| !file.exists())
            .map(|file| format!("data.{}: {} is not there yet", split.name(), file.display()))
            .collect(),
    };
    let lists = [(&data.train, Split::Train), (&data.val, Split::Val)];
    let of_tasks = recipe.eval.data.iter();
    let of_tasks = of_tasks
        .filter(|(_, path)| !path.exists())
        .map(|(name, path)| {
            let name = printable(name);
            format!("eval.data.{name}: {} is not there yet", path.display())
        });
    lists
        .into_iter()
        .flat_map(missing)
        .chain(of_tasks)
        .collect()
}

/// Bytes of memory that are free, where the system says so.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
