//! AI2's ARC (Clark et al. 2018): science questions, easy and challenge.

use serde_json::{Map, Value};

use super::super::rows::{Row, shown, texts, unanswered, whole};
use super::super::task::{Doc, HubData, Kind, KnownSet, Task};
use super::foundry;
use crate::error::printable;

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

/// The name of a choice: a letter, or a number, which may stand as one or as text.
fn name(value: &Value) -> Result<String, String> {
    match (whole(value), value.as_str()) {
        (Some(number), _) => Ok(number.to_string()),
        (None, Some(text)) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => Err(format!(
            "`choices`: expected a label such as \"A\" or \"1\", found {}",
            shown(value)
        )),
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
    let labels = labels.as_array().into_iter().flatten().map(name);
    let labels = labels.collect::<Result<Vec<_>, _>>()?;
    if answers.len() != labels.len() || answers.len() < 2 {
        let (answers, labels) = (answers.len(), labels.len());
        return Err(format!("{answers} choices with {labels} labels"));
    }
    let key = row.value("answerKey")?;
    let gold = name(key)
        .ok()
        .and_then(|key| labels.iter().position(|label| *label == key));
    let gold = gold.ok_or_else(|| {
        let found = printable(key.as_str().unwrap_or(&key.to_string()));
        let (labels, why) = (printable(&labels.join(", ")), unanswered(key));
        format!("answerKey `{found}` is none of {labels}{why}")
    })?;
    Ok(Doc::choices(
        format!("Question: {stem}\nAnswer:"),
        answers,
        gold,
    ))
}
