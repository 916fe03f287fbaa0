//! HellaSwag (Zellers et al. 2019), in two protocols.

use super::super::python::{capitalize, strip};
use super::super::rows::Row;
use super::super::task::{Doc, HubData, Kind, KnownSet, Protocol, Task};

const ENDINGS: usize = 4;

/// The task, in the protocol of lm-evaluation-harness, task version 1.0, or in that of
/// build-nanogpt's `hellaswag.py`.
#[derive(Debug)]
pub struct HellaSwag(pub Protocol);

impl Task for HellaSwag {
    fn name(&self) -> String {
        match self.0 {
            Protocol::Harness => "hellaswag".into(),
            Protocol::Completion => "hellaswag_completion".into(),
        }
    }

    fn dataset(&self) -> &'static str {
        "hellaswag"
    }

    fn protocol(&self) -> Protocol {
        self.0
    }

    fn kind(&self) -> Kind {
        Kind::ChoiceNorm
    }

    fn hub(&self) -> HubData {
        HubData {
            repo: "Rowan/hellaswag",
            config: None,
            split: "validation",
            examples: Some("train"),
            drops_itself: true,
        }
    }

    fn known(&self) -> KnownSet {
        let sha256 = match self.0 {
            Protocol::Harness => "100ae4df7f39a08f0c8d009a433ee53aeb24f053de1aad66e8439fb4928b19b4",
            Protocol::Completion => {
                "016a69bbfc6a35a6d091489fe0a4f7509b4cc56e20212ec01e89cfd559aac586"
            }
        };
        let form = "in the cleaned six-line form of klosax/hellaswag_text_data";
        KnownSet {
            count: 10_042,
            sha256: vec![(sha256, form)],
        }
    }

    fn takes_examples(&self) -> bool {
        self.0 == Protocol::Harness
    }

    fn doc(&self, row: &Row) -> Result<Doc, String> {
        let endings = endings(row)?;
        match self.0 {
            Protocol::Harness => {
                let endings = endings.iter().map(|e| preprocess(e)).collect();
                question(row, harness_context(row)?, endings)
            }
            Protocol::Completion => question(row, completion_context(row)?, endings),
        }
    }
}

/// The six-line form is cleaned already, and does not say where `ctx_b` begins: its context stays
/// as it is.
fn harness_context(row: &Row) -> Result<String, String> {
    if row.has("query") {
        return row.words("query").map(str::to_owned);
    }
    let context = format!("{} {}", row.text("ctx_a")?, capitalize(row.text("ctx_b")?));
    Ok(preprocess(&format!(
        "{}: {context}",
        row.text("activity_label")?
    )))
}

/// `ctx` as it is, without the activity.
fn completion_context(row: &Row) -> Result<String, String> {
    if !row.has("query") {
        return row.words("ctx").map(str::to_owned);
    }
    let (_label, context) = row
        .words("query")?
        .split_once(": ")
        .ok_or("expected `activity: context` in the first line")?;
    Ok(context.to_owned())
}

/// What llm-foundry calls endings and label is `choices` and `gold`; its contexts are cleaned as
/// those of the six-line form are.
fn is_foundry(row: &Row) -> bool {
    row.has("query") && row.has("choices")
}

fn endings(row: &Row) -> Result<Vec<String>, String> {
    let key = if is_foundry(row) {
        "choices"
    } else {
        "endings"
    };
    let endings = row.texts(key, "ending")?;
    if endings.len() != ENDINGS {
        return Err(format!(
            "expected {ENDINGS} endings, found {}",
            endings.len()
        ));
    }
    Ok(endings)
}

fn question(row: &Row, context: String, endings: Vec<String>) -> Result<Doc, String> {
    let key = if is_foundry(row) { "gold" } else { "label" };
    let gold = row.index(key, ENDINGS - 1)?;
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
