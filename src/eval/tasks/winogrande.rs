//! WinoGrande (Sakaguchi et al. 2020): which of two names fills the gap. The names stand in the
//! context; what is scored is the rest of the sentence.

use super::super::python::strip;
use super::super::rows::{Row, shown, unanswered, whole};
use super::super::task::{Doc, HubData, Kind, KnownSet, Task};

/// `winogrande` of lm-evaluation-harness.
#[derive(Debug)]
pub struct Winogrande;

impl Task for Winogrande {
    fn name(&self) -> String {
        "winogrande".into()
    }

    fn dataset(&self) -> &'static str {
        "winogrande"
    }

    fn kind(&self) -> Kind {
        Kind::Choice
    }

    fn hub(&self) -> HubData {
        HubData {
            repo: "allenai/winogrande",
            config: Some("winogrande_xl"),
            split: "validation",
            examples: Some("train"),
            drops_itself: true,
        }
    }

    fn known(&self) -> KnownSet {
        KnownSet {
            count: 1267,
            sha256: vec![(
                "e72a9b8805fb4aa029d4aafc540d64251e44b1d069a0b2fda967026299b2552f",
                "as in mosaicml/llm-foundry",
            )],
        }
    }

    fn doc(&self, row: &Row) -> Result<Doc, String> {
        let (contexts, rest, gold) = if row.has("context_options") {
            let contexts = row.texts("context_options", "option")?;
            (contexts, row.words("continuation")?, row.index("gold", 1)?)
        } else {
            let (before, after) = row
                .words("sentence")?
                .split_once('_')
                .ok_or("`sentence` has no gap `_`")?;
            let option = |key| row.words(key).map(|option| format!("{before}{option}"));
            let contexts = vec![option("option1")?, option("option2")?];
            let answer = row.value("answer")?;
            let gold = match whole(answer) {
                Some(number @ 1..=2) => number - 1,
                _ => {
                    let (found, why) = (shown(answer), unanswered(answer));
                    return Err(format!("expected an answer of 1 or 2, found {found}{why}"));
                }
            };
            (contexts, after, gold)
        };
        let rest = strip(rest);
        if contexts.len() != 2 || rest.is_empty() {
            return Err("expected two options and a rest of the sentence".into());
        }
        Ok(Doc {
            chars: contexts.iter().map(|c| c.chars().count()).collect(),
            pairs: contexts
                .into_iter()
                .map(|context| (context, format!(" {rest}")))
                .collect(),
            gold,
            groups: Vec::new(),
        })
    }
}
