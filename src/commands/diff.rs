//! `scale-ckpt diff`.

use scale_ckpt::Result;
use scale_ckpt::error::counted;
use scale_ckpt::inspect::{DiffLine, Difference, diff};
use scale_ckpt::report::table;
use serde_json::json;

use super::shared::{open, print, print_json};

/// Compare two checkpoints tensor by tensor, by name.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One checkpoint.
    a: String,
    /// The other.
    b: String,
    /// Show tensors that are equal as well.
    #[arg(long)]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let lines = diff(&open(&self.a)?, &open(&self.b)?)?;
        if self.json {
            return print_json(&json!({ "schema": 1, "a": self.a, "b": self.b, "tensors": lines }));
        }
        let same = lines
            .iter()
            .filter(|line| line.difference == Difference::Same)
            .count();
        let shown: Vec<Vec<String>> = lines
            .iter()
            .filter(|line| self.all || line.difference != Difference::Same)
            .map(row)
            .collect();
        let total = format!(
            "{same} of {} the same, bit for bit",
            counted(lines.len(), "tensor is", "tensors are")
        );
        if shown.is_empty() {
            return print(&total);
        }
        print(&format!(
            "{}\n\n{total}",
            table::render(&["tensor", "difference"], &[false, false], &shown)
        ))
    }
}

fn row(line: &DiffLine) -> Vec<String> {
    let text = match &line.difference {
        Difference::Same => "same".into(),
        Difference::SameValues { dtypes: [a, b] } => {
            format!("same values, {} against {}", a.name(), b.name())
        }
        Difference::Changed { max_abs, relative } => {
            format!("changed by up to {max_abs:.3e}, relative norm {relative:.3e}")
        }
        Difference::Reshaped { shapes: [a, b] } => format!("shape {a:?} against {b:?}"),
        Difference::OnlyInA => "only in A".into(),
        Difference::OnlyInB => "only in B".into(),
    };
    vec![line.name.clone(), text]
}
