//! AI2's ARC (Clark et al. 2018): science questions, easy and challenge.

use serde_json::{Map, Value};

use super::super::rows::{Row, shown, texts};
use super::super::task::{Doc, HubData, Kind, KnownSet, Task};
use super::foundry;

/// One of its two sets.
#[derive(Debug)]
pub enum Arc {
    /// `arc_easy`.
    Easy,
    /// `arc_challenge`.
    Challenge,
}

impl Task for Arc {
    fn name(&self) -> String {
        self.dataset().into()
    }

    fn dataset(&self) -> &'static str {
        match self {
            Self::Easy => "arc_easy",
            Self::Challenge => "arc_challenge",
        }
    }

    fn kind(&self) -> Kind {
        Kind::ChoiceNorm
    }

    fn hub(&self) -> HubData {
        HubData {
            repo: "allenai/ai2_arc",
            config: Some(match self {
                Self::Easy => "ARC-Easy",
                Self::Challenge => "ARC-Challenge",
            }),
            split: "test",
            examples: Some("train"),
            drops_itself: false,
        }
    }

    fn known(&self) -> KnownSet {
        match self {
            Self::Easy => KnownSet {
                count: 2376,
                sha256: vec![(
                    "6d7ee01157f77705532f691def04e7be843e00b6cb344cd91533f6cb53d95886",
                    "as in mosaicml/llm-foundry",
                )],
            },
            Self::Challenge => KnownSet {
                count: 1172,
                sha256: vec![],
            },
        }
    }

    fn doc(&self, row: &Row) -> Result<Doc, String> {
        question(row)
    }
}

/// The hub's form, AI2's own (`question.stem`, `question.choices`), or llm-foundry's.
fn question(row: &Row) -> Result<Doc, String> {
    if let Some(doc) = foundry(row, 2..=26) {
        return doc;
    }
    let question = row
        .fields
        .get("question")
        .ok_or("missing field `question`")?;
    let field = |of: &Map<String, Value>, key: &str| {
        of.get(key)
            .cloned()
            .ok_or_else(|| format!("missing field `{key}`"))
    };
    let (stem, choices) = match question {
        Value::Object(inner) => (field(inner, "stem")?, field(inner, "choices")?),
        stem => (stem.clone(), field(&row.fields, "choices")?),
    };
    let stem = stem
        .as_str()
        .filter(|stem| !stem.trim().is_empty())
        .ok_or_else(|| format!("`question`: expected a text, found {}", shown(&stem)))?;
    let (answers, labels) = match choices {
        // One object with a list for each field.
        Value::Object(columns) => (field(&columns, "text")?, field(&columns, "label")?),
        // A list of objects.
        Value::Array(list) => {
            let of = |choice: &Value, key: &str| choice.get(key).cloned().unwrap_or(Value::Null);
            let column = |key: &str| list.iter().map(|c| of(c, key)).collect::<Value>();
            (column("text"), column("label"))
        }
        other => return Err(format!("`choices`: found {}", shown(&other))),
    };
    let answers = texts(&answers, "choices", "choice")?;
    let labels = texts(&labels, "choices", "label of choice")?;
    if answers.len() != labels.len() || answers.len() < 2 {
        let (answers, labels) = (answers.len(), labels.len());
        return Err(format!("{answers} choices with {labels} labels"));
    }
    let key = row.text("answerKey")?;
    let gold = labels
        .iter()
        .position(|label| label == key)
        .ok_or_else(|| {
            let key = crate::error::printable(key);
            format!("answerKey `{key}` is none of {}", labels.join(", "))
        })?;
    Ok(Doc::choices(
        format!("Question: {stem}\nAnswer:"),
        answers,
        gold,
    ))
}
