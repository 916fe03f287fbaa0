//! Texts become sequences of tokens whose ends are scored.

use super::python::is_space;
use super::task::{Doc, Protocol};
use crate::data::Tokenizer;

/// Tokens, the last of which are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Context and continuation.
    pub ids: Vec<u32>,
    /// Tokens at the end that are scored, at least one.
    pub scored: usize,
}

/// The sequences of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// One for each choice.
    pub sequences: Vec<Sequence>,
    /// Whether a context lost its left end to fit the model.
    pub truncated: bool,
}

/// Encodes a document for a model of `n_positions`, with examples or nothing before it.
///
/// # Errors
/// A continuation has no tokens, or more than the model reads.
pub fn encode(
    doc: &Doc,
    prefix: &str,
    protocol: Protocol,
    tokenizer: &Tokenizer,
    n_positions: usize,
) -> Result<Request, String> {
    let mut truncated = false;
    let sequences = doc.pairs.iter().enumerate().map(|(choice, pair)| {
        let context = format!("{prefix}{}", pair.0);
        let (mut ids, scored) = match protocol {
            Protocol::Harness => together(&context, &pair.1, tokenizer),
            Protocol::Completion => apart(&context, &pair.1, tokenizer),
        }
        .map_err(|e| e.to_string())?;
        if scored == 0 || scored == ids.len() {
            return Err(format!("choice {choice} leaves nothing to score"));
        }
        if scored > n_positions {
            return Err(format!(
                "choice {choice} has {scored} tokens, the model reads {n_positions}"
            ));
        }
        // The last token is predicted but never read, so one more than n_positions fits.
        let excess = ids.len().saturating_sub(n_positions + 1);
        ids.drain(..excess);
        truncated |= excess > 0;
        Ok(Sequence { ids, scored })
    });
    let sequences = sequences.collect::<Result<_, String>>()?;
    Ok(Request {
        sequences,
        truncated,
    })
}

type Encoded = crate::error::Result<(Vec<u32>, usize)>;

/// build-nanogpt's way: context and continuation each for itself, without what a tokenizer adds
/// to a text.
fn apart(context: &str, continuation: &str, tokenizer: &Tokenizer) -> Encoded {
    let mut ids = tokenizer.encode(context)?;
    let ending = tokenizer.encode(continuation)?;
    ids.extend(&ending);
    Ok((ids, ending.len()))
}

/// lm-evaluation-harness's way (`loglikelihood` and `_encode_pair`, 0.4.13): blanks at the end of
/// the context go to the continuation, both are encoded as one text with what the tokenizer adds
/// to it, and as many tokens as the context has alone are its. Without a context, the token that
/// begins a text stands for it, and nothing is added.
fn together(context: &str, continuation: &str, tokenizer: &Tokenizer) -> Encoded {
    let whole = format!("{context}{continuation}");
    let trimmed = context.trim_end_matches(is_space);
    let mut ids = match context {
        "" => Vec::new(),
        _ => tokenizer.encode_with_added(trimmed)?,
    };
    if ids.is_empty() {
        let prefix = tokenizer.prefix()?;
        ids = tokenizer.encode(&whole)?;
        if ids.first() != Some(&prefix) {
            ids.insert(0, prefix);
        }
        let scored = ids.len() - 1;
        return Ok((ids, scored));
    }
    let whole = tokenizer.encode_with_added(&whole)?;
    let before = ids.len();
    // Where the texts' tokens melt together, these are not those of the whole.
    ids.extend(whole.into_iter().skip(before));
    let scored = ids.len() - before;
    Ok((ids, scored))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc(context: &str, choices: &[&str]) -> Doc {
        let choices = choices.iter().map(|&c| c.to_owned()).collect();
        Doc::choices(context.to_owned(), choices, 0)
    }

    #[test]
    fn long_contexts_lose_their_left_end_and_long_choices_are_refused() {
        let gpt2 = Tokenizer::gpt2();
        let harness = Protocol::Harness;
        let request = encode(&doc("a b c d", &["e f"]), "", harness, &gpt2, 4).unwrap();
        let text = gpt2.decode(&request.sequences[0].ids).unwrap();
        assert_eq!((text.as_str(), request.truncated), (" b c d e f", true));
        let request = encode(&doc("a b c d", &["e f"]), "", harness, &gpt2, 5).unwrap();
        assert!(!request.truncated);
        let error = encode(&doc("a", &["b c d e f"]), "", harness, &gpt2, 4).unwrap_err();
        assert!(error.contains("5 tokens"), "{error}");
    }

    #[test]
    fn an_empty_context_is_the_end_of_a_text() {
        let gpt2 = Tokenizer::gpt2();
        let request = encode(&doc("", &["A cat"]), "", Protocol::Harness, &gpt2, 9).unwrap();
        let Sequence { ids, scored } = &request.sequences[0];
        assert_eq!(ids[0], gpt2.end_of_text().unwrap());
        assert_eq!(*scored, ids.len() - 1);
    }

    #[test]
    fn blanks_at_the_end_of_a_context_go_to_the_continuation() {
        let gpt2 = Tokenizer::gpt2();
        let mut blank = doc("A cat ", &["x"]);
        blank.pairs[0].1 = "sat".into();
        let request = encode(&blank, "", Protocol::Harness, &gpt2, 9).unwrap();
        assert_eq!(request.sequences[0].ids, gpt2.encode("A cat sat").unwrap());
        assert_eq!(request.sequences[0].scored, 1);
    }
}
