//! The report of what each block of a checkpoint does.

use super::chart::{BarSeries, Bars, Chart, Heat};
use super::{Block, Document, Section, Table};
use crate::analyze::{Analysis, BlockReport, Estimate};
use crate::error::counted;
use crate::eval::figures::{figure, signed};

/// What its title begins with.
pub const TITLE: &str = "What the blocks of ";

/// The report; `checkpoint` is what was analysed.
pub fn document(analysis: &Analysis, checkpoint: &str) -> Document {
    let Analysis {
        loss,
        tokens,
        context,
        ..
    } = analysis;
    Document {
        title: format!("{TITLE}{checkpoint} do"),
        subtitle: format!(
            "loss as it is: {}{} nats per token, {} in windows of {context}; scale-ckpt {}",
            figure(loss.mean, 4),
            loss.plus_minus(),
            counted(tokens, "token", "tokens"),
            crate::VERSION
        ),
        sections: vec![
            Section::new("What a block is worth")
                .with(Block::Chart(Chart::Bars(worth(analysis))))
                .with(Block::Text("Change of the loss when a block is skipped, and when it is run twice; bars show standard errors over windows. Growth copies best where running twice costs least.".into())),
            Section::new("How far a block turns the residual stream")
                .with(Block::Chart(Chart::Bars(turning(analysis))))
                .with(Block::Text("Influence is 1 minus the mean cosine of the stream before and after a block (ShortGPT, arXiv 2403.03853). It is a poor proxy for what a block is worth (arXiv 2605.14075).".into())),
            Section::new("Angles between depths")
                .with(Block::Chart(Chart::Heat(angles(analysis))))
                .with(Block::Text("Mean angle, in units of π, between the stream before one block and before another, or after the last (arXiv 2403.17887).".into())),
            Section::new("Blocks").with(Block::Table(table(analysis))),
        ],
    }
}

fn series(name: &str, analysis: &Analysis, of: fn(&BlockReport) -> Estimate) -> BarSeries {
    let estimates = || analysis.blocks.iter().map(of);
    BarSeries {
        name: name.into(),
        values: estimates().map(|e| e.mean).collect(),
        stderr: estimates().map(|e| e.stderr).collect(),
    }
}

fn worth(analysis: &Analysis) -> Bars {
    Bars {
        title: "Change of the loss".into(),
        x: "block".into(),
        unit: "nats per token".into(),
        series: vec![
            series("skipped", analysis, |block| block.skipped),
            series("run twice", analysis, |block| block.twice),
        ],
    }
}

fn turning(analysis: &Analysis) -> Bars {
    let values = |of: fn(&BlockReport) -> f64| analysis.blocks.iter().map(of).collect();
    Bars {
        title: "Influence".into(),
        x: "block".into(),
        unit: "1 − mean cosine".into(),
        series: vec![BarSeries {
            name: "influence".into(),
            values: values(|block| block.influence),
            stderr: None,
        }],
    }
}

fn angles(analysis: &Analysis) -> Heat {
    let n = analysis.angular.len();
    let cell = |l: usize, m: usize| (m > l).then(|| analysis.angular[l][m - l - 1]);
    Heat {
        title: "Angle / π".into(),
        axes: ["before block".into(), "before block".into()],
        cells: (0..n)
            .map(|l| (0..=n).map(|m| cell(l, m)).collect())
            .collect(),
    }
}

/// The blocks, one in a row.
pub fn table(analysis: &Analysis) -> Table {
    let header = [
        "layer",
        "rms in",
        "rms added",
        "influence",
        "angle / π",
        "loss if skipped",
        "loss if twice",
    ];
    let change = |e: Estimate| format!("{}{}", signed(e.mean, 4), e.plus_minus());
    let cells = analysis.blocks.iter().map(|block| {
        vec![
            block.layer.to_string(),
            figure(block.rms_in, 3),
            figure(block.rms_update, 3),
            format!("{:.4}", block.influence),
            format!("{:.4}", analysis.angular[block.layer][0]),
            change(block.skipped),
            change(block.twice),
        ]
    });
    Table {
        rows: cells.collect(),
        ..Table::new(0, &header)
    }
}
