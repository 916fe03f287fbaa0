//! LAMBADA (Paperno et al. 2016), OpenAI's version: the last word of a passage.

use super::super::rows::Row;
use super::super::task::{Doc, HubData, Kind, KnownSet, Task};

/// `lambada_openai` of lm-evaluation-harness.
#[derive(Debug)]
pub struct Lambada;

impl Task for Lambada {
    fn name(&self) -> String {
        "lambada_openai".into()
    }

    fn dataset(&self) -> &'static str {
        "lambada_openai"
    }

    fn kind(&self) -> Kind {
        Kind::Cloze
    }

    fn hub(&self) -> HubData {
        HubData {
            repo: "EleutherAI/lambada_openai",
            config: Some("default"),
            split: "test",
            examples: None,
            drops_itself: false,
        }
    }

    fn known(&self) -> KnownSet {
        KnownSet {
            count: 5153,
            sha256: vec![(
                "5f5a92166eb1aacf1ae96005bd63190de1cd62844db027e6ca057ec3d4512bfe",
                "as in mosaicml/llm-foundry",
            )],
        }
    }

    /// Between context and answer the harness puts its delimiter, though the answer begins with
    /// a blank already.
    fn example(&self, doc: &Doc) -> String {
        let (context, word) = &doc.pairs[0];
        format!("{context} {word}")
    }

    fn doc(&self, row: &Row) -> Result<Doc, String> {
        let text = if row.has("continuation") {
            let (context, word) = (row.words("context")?, row.words("continuation")?);
            format!("{context} {}", word.trim_start_matches(' '))
        } else {
            row.words("text")?.to_owned()
        };
        let (context, word) = text.rsplit_once(' ').ok_or("`text` is a single word")?;
        if context.is_empty() || word.is_empty() {
            return Err("`text` begins or ends with a blank and has no word there".into());
        }
        Ok(Doc {
            pairs: vec![(context.to_owned(), format!(" {word}"))],
            chars: vec![word.chars().count()],
            gold: 0,
            groups: Vec::new(),
        })
    }
}
