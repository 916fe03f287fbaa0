//! `scale-ckpt inspect`.

use scale_ckpt::Result;
use scale_ckpt::checkpoint::{Checkpoint, layout};
use scale_ckpt::inspect::{TensorReport, inspect};
use scale_ckpt::progress::eprint_line;
use scale_ckpt::report::table;
use serde_json::json;

use super::shared::{open, print, print_json, thousands};

/// Show what is in a checkpoint: config, tensors, norms.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint.
    checkpoint: String,
    /// One line per tensor instead of one per block.
    #[arg(long)]
    tensors: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let checkpoint = open(&self.checkpoint)?;
        let reports = inspect(&checkpoint)?;
        let bad: Vec<&str> = reports
            .iter()
            .filter(|r| r.non_finite > 0)
            .map(|r| r.name.as_str())
            .collect();
        if !bad.is_empty() {
            eprint_line(&format!(
                "warning: values that are not finite in {}",
                bad.join(", ")
            ));
        }
        if self.json {
            return print_json(&json!({
                "schema": 1,
                "checkpoint": checkpoint.origin,
                "parameters": layout::parameter_count(&checkpoint.config),
                "config": checkpoint.config.to_value(),
                "tensors": reports,
            }));
        }
        let rows: Vec<Vec<String>> = if self.tensors {
            reports.iter().map(tensor_row).collect()
        } else {
            group_rows(&reports)
        };
        let header = if self.tensors {
            [
                "tensor", "shape", "dtype", "params", "norm", "rms", "max |x|",
            ]
        } else {
            [
                "part", "tensors", "dtype", "params", "norm", "rms", "max |x|",
            ]
        };
        print(&format!(
            "{}\n\n{}",
            summary(&checkpoint),
            table::render(
                &header,
                &[false, false, false, true, true, true, true],
                &rows
            )
        ))
    }
}

fn summary(checkpoint: &Checkpoint) -> String {
    let c = &checkpoint.config;
    let head = if c.tie_word_embeddings {
        "tied head"
    } else {
        "separate head"
    };
    let commit = checkpoint
        .origin
        .commit
        .as_ref()
        .map(|commit| format!(" @ {commit}"))
        .unwrap_or_default();
    format!(
        "{}{commit}\nn_layer {}  n_embd {}  n_head {}  n_inner {}  vocab_size {}  n_positions {}  {}  {head}\n{} parameters, {} per block",
        checkpoint.origin.source,
        c.n_layer,
        c.n_embd,
        c.n_head,
        c.n_inner,
        c.vocab_size,
        c.n_positions,
        c.activation.name(),
        thousands(layout::parameter_count(c)),
        thousands(layout::block_parameter_count(c)),
    )
}

fn tensor_row(report: &TensorReport) -> Vec<String> {
    let numel: usize = report.shape.iter().product();
    vec![
        report.name.clone(),
        format!("{:?}", report.shape),
        report.dtype.name().into(),
        thousands(numel as u64),
        format!("{:.3}", report.norm),
        format!("{:.5}", report.rms),
        format!("{:.4}", report.max_abs),
    ]
}

/// One row per block, and one for everything outside of blocks.
fn group_rows(reports: &[TensorReport]) -> Vec<Vec<String>> {
    let part = |report: &TensorReport| {
        layout::split_block_name(&report.name)
            .map_or_else(|| report.name.clone(), |(layer, _)| format!("h.{layer}"))
    };
    reports
        .chunk_by(|a, b| part(a) == part(b))
        .map(|group| {
            let numel: usize = group
                .iter()
                .map(|r| r.shape.iter().product::<usize>())
                .sum();
            let squares: f64 = group.iter().map(|r| r.norm * r.norm).sum();
            let max_abs = group.iter().map(|r| r.max_abs).fold(0.0, f64::max);
            let mut dtypes: Vec<&str> = group.iter().map(|r| r.dtype.name()).collect();
            dtypes.dedup();
            vec![
                part(&group[0]),
                group.len().to_string(),
                dtypes.join("+"),
                thousands(numel as u64),
                format!("{:.3}", squares.sqrt()),
                format!("{:.5}", (squares / numel as f64).sqrt()),
                format!("{max_abs:.4}"),
            ]
        })
        .collect()
}
