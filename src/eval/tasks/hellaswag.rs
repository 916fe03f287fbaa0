//! HellaSwag (Zellers et al. 2019), in two protocols.

use super::super::python::{capitalize, strip};
use super::super::rows::Row;
use super::super::task::{Doc, HubData, Kind, KnownSet, Protocol, Task};

const HUB: HubData = HubData {
    repo: "Rowan/hellaswag",
    config: None,
    split: "validation",
    examples: Some("train"),
    drops_itself: true,
};
const COUNT: usize = 10_042;
const ENDINGS: usize = 4;

/// lm-evaluation-harness, task version 1.0.
#[derive(Debug)]
pub struct Harness;

impl Task for Harness {
    fn name(&self) -> String {
        "hellaswag".into()
    }

    fn dataset(&self) -> &'static str {
        "hellaswag"
    }

    fn kind(&self) -> Kind {
        Kind::ChoiceNorm
    }

    fn hub(&self) -> HubData {
        HUB
    }

    fn known(&self) -> KnownSet {
        KnownSet {
            count: COUNT,
            sha256: vec![(
                "100ae4df7f39a08f0c8d009a433ee53aeb24f053de1aad66e8439fb4928b19b4",
                "in the cleaned six-line form of klosax/hellaswag_text_data",
            )],
        }
    }

    /// The six-line form is cleaned already, and does not say where `ctx_b` begins: its context
    /// stays as it is.
    fn doc(&self, row: &Row) -> Result<Doc, String> {
        let query = if row.has("query") {
            row.words("query")?.to_owned()
        } else {
            let context = format!("{} {}", row.text("ctx_a")?, capitalize(row.text("ctx_b")?));
            preprocess(&format!("{}: {context}", row.text("activity_label")?))
        };
        let endings = endings(row)?.iter().map(|e| preprocess(e)).collect();
        question(row, query, endings)
    }
}

/// build-nanogpt's `hellaswag.py`: the context is `ctx` as it is, without the activity.
#[derive(Debug)]
pub struct Completion;

impl Task for Completion {
    fn name(&self) -> String {
        "hellaswag_completion".into()
    }

    fn dataset(&self) -> &'static str {
        "hellaswag"
    }

    fn protocol(&self) -> Protocol {
        Protocol::Completion
    }

    fn kind(&self) -> Kind {
        Kind::ChoiceNorm
    }

    fn hub(&self) -> HubData {
        HUB
    }

    fn known(&self) -> KnownSet {
        KnownSet {
            count: COUNT,
            sha256: vec![(
                "016a69bbfc6a35a6d091489fe0a4f7509b4cc56e20212ec01e89cfd559aac586",
                "in the cleaned six-line form of klosax/hellaswag_text_data",
            )],
        }
    }

    fn takes_examples(&self) -> bool {
        false
    }

    fn doc(&self, row: &Row) -> Result<Doc, String> {
        let context = if row.has("query") {
            let query = row.words("query")?;
            let (_label, context) = query
                .split_once(": ")
                .ok_or("expected `activity: context` in the first line")?;
            context
        } else {
            row.words("ctx")?
        };
        question(row, context.to_owned(), endings(row)?)
    }
}

fn endings(row: &Row) -> Result<Vec<String>, String> {
    let endings = row.texts("endings", "ending")?;
    if endings.len() != ENDINGS {
        return Err(format!(
            "expected {ENDINGS} endings, found {}",
            endings.len()
        ));
    }
    Ok(endings)
}

fn question(row: &Row, context: String, endings: Vec<String>) -> Result<Doc, String> {
    let gold = row.index("label", ENDINGS - 1)?;
    if context.is_empty() {
        return Err("the context is empty".into());
    }
    let mut doc = Doc::choices(context, endings, gold);
    for (group, key) in [("split_type", "split_type"), ("source", "source_id")] {
        if row.has(key) {
            let value = row.text(key)?.split('~').next().unwrap_or_default();
            doc.groups.push((group, value.to_owned()));
        }
    }
    Ok(doc)
}

/// The harness's cleaning, in its order: blanks at both ends, ` [title]`, anything in brackets
/// on one line, double blanks once.
fn preprocess(text: &str) -> String {
    let text = strip(text).replace(" [title]", ". ");
    without_brackets(&text).replace("  ", " ")
}

/// The text without what the pattern `\[.*?\]` matches.
fn without_brackets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let (before, bracket) = rest.split_at(open);
        kept.push_str(before);
        let close = bracket.find([']', '\n']).unwrap_or(bracket.len());
        if bracket[close..].starts_with(']') {
            rest = &bracket[close + 1..];
        } else {
            // No bracket closes on this line.
            kept.push_str(&bracket[..close]);
            rest = &bracket[close..];
        }
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_the_harness_does() {
        for (text, clean) in [
            ("  a [title] b [step] c ", "a. b c"),
            ("a [x\ny] b]", "a [x\ny] b]"),
            ("[[a] b", " b"),
            ("a    b", "a  b"),
            ("a [b", "a [b"),
        ] {
            assert_eq!(preprocess(text), clean, "{text}");
        }
    }
}
