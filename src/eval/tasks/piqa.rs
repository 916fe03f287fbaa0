//! PIQA (Bisk et al. 2020): which of two ways reaches a goal.

use super::super::rows::Row;
use super::super::task::{Doc, HubData, Kind, KnownSet, Task};
use super::foundry;

/// `piqa` of lm-evaluation-harness.
#[derive(Debug)]
pub struct Piqa;

impl Task for Piqa {
    fn name(&self) -> String {
        "piqa".into()
    }

    fn dataset(&self) -> &'static str {
        "piqa"
    }

    fn kind(&self) -> Kind {
        Kind::ChoiceNorm
    }

    fn hub(&self) -> HubData {
        HubData {
            repo: "baber/piqa",
            config: None,
            split: "validation",
            examples: Some("train"),
            drops_itself: true,
        }
    }

    fn known(&self) -> KnownSet {
        KnownSet {
            count: 1838,
            sha256: vec![(
                "78acf664a173284dda6cccdb9047e4044acc15166c583654302ad8bc89733f07",
                "as in mosaicml/llm-foundry",
            )],
        }
    }

    fn doc(&self, row: &Row) -> Result<Doc, String> {
        if let Some(doc) = foundry(row, 2..=2) {
            return doc;
        }
        let choices = vec![row.words("sol1")?.to_owned(), row.words("sol2")?.to_owned()];
        let goal = row.words("goal")?;
        let gold = row.index("label", 1)?;
        Ok(Doc::choices(
            format!("Question: {goal}\nAnswer:"),
            choices,
            gold,
        ))
    }
}
