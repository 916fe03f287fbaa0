//! The report of a search.

use super::{Block, Document, Section, Table, thousands};
use crate::compare::search::{BASELINE, Foretelling, Ranked, Rung, SearchConfig};
use crate::error::counted;
use crate::eval::figures::{figure, signed};

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
    table.note = format!(
        "Rungs: {}. In every rung the source as it is, {BASELINE}, is trained on for as many FLOPs as each.",
        parts.join(", then ")
    );
    table
}

/// The report; `conclusion` says what the winner is worth.
pub fn document(
    rungs: &[Rung],
    ranked: &[Ranked],
    baseline: &Ranked,
    told: &[Foretelling],
    conclusion: &[String],
    config: &SearchConfig,
) -> Document {
    let names: Vec<String> = (1..=rungs.len()).map(|i| format!("rung {i}")).collect();
    let mut header = vec!["rank", "candidate", "n_layer", "parameters", "step 0"];
    header.extend(names.iter().map(String::as_str));
    let mut table = Table::new(2, &header);
    let source = Ranked {
        name: "source, untouched".into(),
        losses: baseline.losses.iter().take(1).copied().collect(),
        ..baseline.clone()
    };
    let places = (1..).map(|place: usize| place.to_string());
    let unranked = [(String::new(), &source), (String::new(), baseline)];
    for (place, one) in unranked.into_iter().chain(places.zip(ranked)) {
        let mut cells = vec![
            place,
            one.name.clone(),
            one.n_layer.to_string(),
            thousands(one.parameters),
        ];
        cells.extend((0..=rungs.len()).map(|rung| match one.losses.get(rung) {
            None => String::new(),
            Some(loss) if loss.is_finite() => figure(*loss, 4),
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
    table.note = format!(
        "Validation losses; {}. {BASELINE}: the source as it is, trained on in every rung for as many FLOPs as each candidate; it is not ranked.",
        parts.join(", ")
    );
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
                shown.map_or_else(|| "-".into(), |rho| signed(rho, 2)),
            ]
        })
        .collect();
    correlations.note = "Spearman's, over the candidates that came to both; those were chosen by the rung before, which pulls it towards 0. With few candidates it says little: of 5, chance alone gives +0.9 once in 24.".into();
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
            Section::new("Conclusion").with(Block::List(conclusion.to_vec())),
            Section::new("Ranking").with(Block::Table(table)),
            Section::new("What early losses foretell").with(Block::Table(correlations)),
        ],
    }
}
