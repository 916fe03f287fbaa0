//! The report of a search.

use super::{Block, Document, Section, Table};
use crate::compare::search::{Foretelling, Ranked, Rung, SearchConfig};
use crate::error::counted;

/// Rungs and candidates, before anything is run.
pub fn plan_table(rungs: &[Rung], candidates: &[(&str, String)]) -> Table {
    let mut table = Table::new(2, &["candidate", "blocks (* new)"]);
    let rows = candidates.iter();
    table.rows = rows
        .map(|(name, plan)| vec![(*name).to_owned(), plan.clone()])
        .collect();
    let parts = rungs.iter().map(|rung| {
        format!(
            "{} with {:.3e} FLOPs each",
            counted(rung.candidates, "candidate", "candidates"),
            rung.flops
        )
    });
    let parts: Vec<String> = parts.collect();
    table.note = format!("Rungs: {}.", parts.join(", then "));
    table
}

/// The report.
pub fn document(
    rungs: &[Rung],
    ranked: &[Ranked],
    told: &[Foretelling],
    config: &SearchConfig,
) -> Document {
    let names: Vec<String> = (1..=rungs.len()).map(|i| format!("rung {i}")).collect();
    let mut header = vec!["rank", "candidate", "n_layer", "parameters", "step 0"];
    header.extend(names.iter().map(String::as_str));
    let mut table = Table::new(2, &header);
    for (i, one) in ranked.iter().enumerate() {
        let mut cells = vec![
            (i + 1).to_string(),
            one.name.clone(),
            one.n_layer.to_string(),
            one.parameters.to_string(),
        ];
        cells.extend((0..=rungs.len()).map(|rung| match one.losses.get(rung) {
            None => String::new(),
            Some(loss) if loss.is_finite() => format!("{loss:.4}"),
            Some(_) => "diverged".into(),
        }));
        table.rows.push(cells);
    }
    let parts = rungs.iter().enumerate().map(|(i, rung)| {
        format!(
            "rung {}: {:.3e} FLOPs for each of {}",
            i + 1,
            rung.flops,
            rung.candidates
        )
    });
    let parts: Vec<String> = parts.collect();
    table.note = format!("Validation losses; {}.", parts.join(", "));
    let mut correlations = Table::new(2, &["of", "with", "candidates", "rank correlation"]);
    let rung = |i: usize| {
        if i == 0 {
            "step 0".into()
        } else {
            format!("rung {i}")
        }
    };
    correlations.rows = told
        .iter()
        .map(|t| {
            let shown = t.rank_correlation;
            vec![
                rung(t.from),
                rung(t.to),
                t.candidates.to_string(),
                shown.map_or_else(|| "-".into(), |rho| format!("{rho:+.2}")),
            ]
        })
        .collect();
    correlations.note = "Spearman's, over the candidates that came to both; those were chosen by the rung before, which pulls it towards 0. With few candidates it says little: of 5, chance alone gives +0.9 once in 24.".into();
    let winner = ranked.first().map_or("", |one| one.name.as_str());
    Document {
        title: "Search for a growth plan".into(),
        subtitle: format!(
            "{}, {:.3e} FLOPs in all, seed {}, one in {} to the next rung; scale-ckpt {}",
            counted(ranked.len(), "candidate", "candidates"),
            config.flops,
            config.seed,
            config.eta,
            crate::VERSION
        ),
        sections: vec![
            Section::new("Winner").with(Block::Text(format!(
                "{winner}. One seed: candidates whose losses are near each other may change places with another."
            ))),
            Section::new("Ranking").with(Block::Table(table)),
            Section::new("What early losses foretell").with(Block::Table(correlations)),
        ],
    }
}
