//! `scale-ckpt grow`.

use std::path::{Path, PathBuf};

use scale_ckpt::Result;
use scale_ckpt::certify::{Certificate, PROBE_TEXT};
use scale_ckpt::checkpoint::companions::Companions;
use scale_ckpt::checkpoint::save::{self, planned_files};
use scale_ckpt::checkpoint::{Checkpoint, Gpt2Config, Origin, layout};
use scale_ckpt::durable::refuse_existing;
use scale_ckpt::error::counted;
use scale_ckpt::grower::{GROWTH_FILE, Grower, GrowthRecord};
use scale_ckpt::growth::{
    Asked, Claim, GrowConfig, Growth, GrowthPlan, Initializer, Placement, Provenance, Term,
};
use scale_ckpt::progress::eprint_line;
use scale_ckpt::report::table;
use serde::Serialize;
use serde_json::{Value, json};

use super::shared::{bytes, open, print, print_json, report_growth, thousands};

/// Grow a checkpoint deeper.
///
/// Without --method, --placement, --init or --plan, new blocks are zero-residual copies spread
/// evenly: the function of the model is unchanged at first, which is the safe start for a
/// checkpoint that was trained to the end, as the published GPT-2 ones were.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The source checkpoint.
    source: String,
    /// Blocks of the grown model.
    #[arg(long, value_name = "N")]
    to: Option<usize>,
    /// A published method, see `scale-ckpt methods`.
    #[arg(long)]
    method: Option<String>,
    /// Where new blocks stand.
    #[arg(long, value_enum)]
    placement: Option<Placement>,
    /// How new blocks get their values: NAME or NAME:key=value.
    #[arg(long, value_name = "INIT")]
    init: Option<String>,
    /// A plan file.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Let a plan file leave fewer blocks than the source has.
    #[arg(long, requires = "plan")]
    allow_shrink: bool,
    /// Seed of random values.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// The folder to write; NAME-Nl unless given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace an existing checkpoint folder.
    #[arg(long)]
    force: bool,
    /// Split the weights into files of at most this size, as in 5GB.
    #[arg(long, value_name = "SIZE", value_parser = file_size, default_value = "50GB")]
    max_shard_size: FileSize,
    /// Show the plan and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// A text file to certify on; a built-in paragraph unless given.
    #[arg(long, value_name = "FILE")]
    probe: Option<PathBuf>,
    /// Do not measure what growth did to the function of the model.
    #[arg(long)]
    no_certificate: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// In bytes: not a number as other options take it, but with a unit.
#[derive(Clone, Copy, Debug)]
struct FileSize(u64);

fn file_size(text: &str) -> Result<FileSize, String> {
    save::parse_size(text).map(FileSize)
}

/// What a growth would do, with the keys of [`GrowthRecord`].
#[derive(Serialize)]
struct Planned<'a> {
    schema: u32,
    dry_run: bool,
    source: &'a Origin,
    plan: &'a GrowthPlan,
    n_layer: usize,
    seed: u64,
    layers: Vec<Provenance>,
    claim: Claim,
    certificate: Option<Certificate>,
    companions: &'a [String],
    left_behind: &'a [String],
}

/// A record with what a script needs besides.
#[derive(Serialize)]
struct Located<'a, T> {
    #[serde(flatten)]
    record: &'a T,
    out: &'a Path,
    parameters: Value,
    files: Vec<Value>,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let source = open(&self.source)?;
        let plan = self
            .config()?
            .resolve(source.config.n_layer, Asked::ByFlags)?;
        let out = self
            .out
            .clone()
            .unwrap_or_else(|| default_out(&source, plan.n_layer()));
        if !plan.dropped().is_empty() {
            eprint_line(&format!(
                "warning: source blocks {:?} are kept nowhere in the plan",
                plan.dropped()
            ));
        }
        if self.dry_run {
            return self.show_plan(&source, &plan, &out);
        }
        refuse_existing(&out, self.force)?;
        let probe = match (&self.probe, self.no_certificate) {
            (_, true) => None,
            (Some(path), _) => Some(scale_ckpt::error::read_text(path)?),
            (None, _) => Some(PROBE_TEXT.to_owned()),
        };
        let grower = Grower {
            source: &source,
            plan: &plan,
            seed: self.seed,
            probe: probe.as_deref(),
            max_shard_bytes: self.max_shard_size.0,
            force: self.force,
        };
        let record = grower.run(&out)?;
        self.report(&source, &plan, &out, &record)
    }

    fn config(&self) -> Result<GrowConfig> {
        let init = self.init.as_deref().map(Initializer::parse).transpose()?;
        Ok(GrowConfig {
            to: self.to,
            method: self.method.clone(),
            placement: self.placement,
            init,
            plan: self.plan.clone(),
            allow_shrink: self.allow_shrink,
        })
    }

    fn show_plan(&self, source: &Checkpoint, plan: &GrowthPlan, out: &Path) -> Result<()> {
        let target = source.config.with_n_layer(plan.n_layer());
        let files = self.files(source, plan)?;
        let companions = source.companions();
        if self.json {
            let planned = Planned {
                schema: 2,
                dry_run: true,
                source: &source.origin,
                plan,
                n_layer: plan.n_layer(),
                seed: self.seed,
                layers: plan.provenance(),
                claim: plan.claim(),
                certificate: None,
                companions: &companions.names,
                left_behind: &companions.left_behind,
            };
            return self.print_located(&planned, source, plan, out);
        }
        let total: u64 = files.iter().map(|f| f.1).sum();
        let rows: Vec<Vec<String>> = plan.provenance().iter().enumerate().map(row).collect();
        let head = ["layer", "made of", "values"];
        let mut text = table::render(&head, &[true, false, false], &rows);
        text.push_str(&format!("\n\n{}", counts(&source.config, &target)));
        text.push_str(&format!("\nclaim: {}", plan.claim()));
        text.push_str(&format!(
            "\nwould write {} to {}:",
            bytes(total),
            out.display()
        ));
        for (name, size) in files {
            text.push_str(&format!("\n  {name} ({})", bytes(size)));
        }
        let ours = ["config.json", GROWTH_FILE, "README.md"].map(str::to_owned);
        let others = [&ours[..], &companions.names].concat();
        text.push_str(&format!("\n  {}", others.join(", ")));
        if let Some(note) = Companions::note(&companions.left_behind) {
            text.push_str(&format!("\n{note}"));
        }
        print(&text)
    }

    /// The weight files with their bytes of tensors.
    fn files(&self, source: &Checkpoint, plan: &GrowthPlan) -> Result<Vec<(String, u64)>> {
        Ok(planned_files(
            &tensor_sizes(source, plan)?,
            self.max_shard_size.0,
        ))
    }

    /// Prints a record as JSON, with where it is and how large.
    fn print_located(
        &self,
        record: &impl Serialize,
        source: &Checkpoint,
        plan: &GrowthPlan,
        out: &Path,
    ) -> Result<()> {
        let target = source.config.with_n_layer(plan.n_layer());
        let files = self.files(source, plan)?.into_iter();
        let file = |(name, size)| json!({ "name": name, "bytes": size });
        print_json(&Located {
            record,
            out,
            parameters: json!({
                "before": layout::parameter_count(&source.config),
                "after": layout::parameter_count(&target),
            }),
            files: files.map(file).collect(),
        })
    }

    fn report(
        &self,
        source: &Checkpoint,
        plan: &GrowthPlan,
        out: &Path,
        record: &GrowthRecord,
    ) -> Result<()> {
        if self.json {
            return self.print_located(record, source, plan, out);
        }
        let target = source.config.with_n_layer(plan.n_layer());
        report_growth(record);
        let legend = if plan.n_new() > 0 { "   (* new)" } else { "" };
        eprint_line(&format!("plan: {plan}{legend}"));
        if self.config()?
            == (GrowConfig {
                to: self.to,
                ..GrowConfig::default()
            })
        {
            eprint_line(
                "default: interleaved zero-residual blocks, which leave a trained model's function as it is",
            );
        }
        eprint_line(&counts(&source.config, &target));
        print(&out.display().to_string())
    }
}

/// A row of the plan: layer, source blocks with their shares, initializer.
fn row((layer, made): (usize, &Provenance)) -> Vec<String> {
    let share = |term: &Term| match term.weight {
        1.0 => term.layer.to_string(),
        weight => format!("{weight}*{}", term.layer),
    };
    let sources: Vec<String> = made.sources.iter().map(share).collect();
    vec![
        layer.to_string(),
        if sources.is_empty() {
            "no source".into()
        } else {
            sources.join(" + ")
        },
        made.init
            .as_ref()
            .map_or_else(|| "kept".into(), ToString::to_string),
    ]
}

fn counts(before: &Gpt2Config, after: &Gpt2Config) -> String {
    format!(
        "{} -> {}, {} -> {} parameters",
        before.n_layer,
        counted(after.n_layer, "layer", "layers"),
        thousands(layout::parameter_count(before)),
        thousands(layout::parameter_count(after))
    )
}

fn tensor_sizes(source: &Checkpoint, plan: &GrowthPlan) -> Result<Vec<u64>> {
    Ok(Growth::new(source, plan, 0)?
        .tensors()?
        .iter()
        .map(scale_ckpt::checkpoint::safetensors::TensorOut::byte_len)
        .collect())
}

/// `gpt2-24l` for the hub's gpt2, `name-8l` for a folder `some/name`, in the current folder.
fn default_out(source: &Checkpoint, n_layer: usize) -> PathBuf {
    let name = match &source.origin.repo {
        Some(repo) => repo.rsplit('/').next().map(str::to_owned),
        None => std::path::absolute(&source.dir)
            .ok()
            .and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned())),
    };
    PathBuf::from(format!(
        "{}-{n_layer}l",
        name.unwrap_or_else(|| "model".into())
    ))
}
