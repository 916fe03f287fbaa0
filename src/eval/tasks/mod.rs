//! The tasks, one file each.

pub mod arc;
pub mod blimp;
pub mod hellaswag;
pub mod lambada;
pub mod piqa;
pub mod winogrande;

use std::ops::RangeInclusive;

use super::rows::Row;
use super::task::{Doc, Protocol, Task};

/// Every task there is, in the order in which they are listed.
pub fn all() -> Vec<Box<dyn Task>> {
    let mut tasks: Vec<Box<dyn Task>> = vec![
        Box::new(hellaswag::HellaSwag(Protocol::Harness)),
        Box::new(hellaswag::HellaSwag(Protocol::Completion)),
        Box::new(lambada::Lambada),
        Box::new(arc::Arc::Easy),
        Box::new(arc::Arc::Challenge),
        Box::new(piqa::Piqa),
        Box::new(winogrande::Winogrande),
    ];
    let paradigms = blimp::PARADIGMS.iter();
    tasks.extend(paradigms.map(|&(paradigm, sha256)| -> Box<dyn Task> {
        Box::new(blimp::Blimp { paradigm, sha256 })
    }));
    tasks
}

/// A record in the form of mosaicml/llm-foundry, where it is in that: `query`, `choices`, `gold`.
/// `choices` says how many there may be.
fn foundry(row: &Row, choices: RangeInclusive<usize>) -> Option<Result<Doc, String>> {
    (row.has("query") && row.has("choices")).then(|| {
        let query = row.words("query")?.trim_end_matches('\n');
        let texts = row.texts("choices", "choice")?;
        if !choices.contains(&texts.len()) {
            let (least, found) = (choices.start(), texts.len());
            return Err(format!("expected {least} choices or more, found {found}"));
        }
        let gold = row.index("gold", texts.len() - 1)?;
        Ok(Doc::choices(format!("{query}\nAnswer:"), texts, gold))
    })
}
