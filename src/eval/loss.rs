//! Loss and perplexity on a text, over fixed windows.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::encode::{Request, Sequence};
use super::engine::{Engine, pack_tokens};
use crate::data::{Tokenizer, Tokens};
use crate::error::Result;
use crate::interrupt;
use crate::model::Gpt2;
use crate::progress::{Meter, Unit};

/// Which windows of a text are read, and which tokens of them count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Tokens that the model reads at a time.
    pub context: usize,
    /// From one window to the next. Where it is less than `context`, only tokens that no window
    /// before it has predicted count, each with at least context − stride tokens before it.
    pub stride: usize,
    /// Tokens of the text at most.
    pub max_tokens: Option<u64>,
}

impl Windows {
    /// Windows side by side.
    pub fn side_by_side(context: usize, max_tokens: Option<u64>) -> Self {
        Self {
            context,
            stride: context,
            max_tokens,
        }
    }
}

/// Loss of a model on a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextLoss {
    /// Mean negative log-likelihood in nats per predicted token.
    pub loss: f64,
    /// Its standard error over windows, which are not independent within a document: a
    /// lower bound. None of one window.
    pub stderr: Option<f64>,
    /// Tokens predicted.
    pub tokens: u64,
    /// Length of the windows.
    pub context: usize,
    /// From one window to the next.
    pub stride: usize,
    /// Words among what was predicted, between blanks; ends of documents are none.
    pub words: Option<u64>,
    /// Bytes of it, ends of documents apart; known for byte-level tokenizers.
    pub bytes: Option<u64>,
}

impl TextLoss {
    /// e^loss, per token.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// Perplexity per word: e to the text's negative log-likelihood over its words.
    pub fn word_perplexity(&self) -> Option<f64> {
        self.nats_per_word().map(f64::exp)
    }

    /// Perplexity per byte. Models of different tokenizers can be compared by it.
    pub fn byte_perplexity(&self) -> Option<f64> {
        self.nats_per_byte().map(f64::exp)
    }

    /// The logarithm of [`Self::word_perplexity`], finite also where that is more than a double
    /// holds, as of a text without blanks: it is one word.
    pub fn nats_per_word(&self) -> Option<f64> {
        self.per(self.words)
    }

    /// The logarithm of [`Self::byte_perplexity`].
    pub fn nats_per_byte(&self) -> Option<f64> {
        self.per(self.bytes)
    }

    fn per(&self, units: Option<u64>) -> Option<f64> {
        let units = units.filter(|&units| units > 0)?;
        Some(self.loss * self.tokens as f64 / units as f64)
    }

    /// Name, value and standard error of every figure; a perplexity that is more than a double
    /// holds is left out.
    pub fn figures(&self) -> Vec<(&'static str, f64, Option<f64>)> {
        let mut figures = vec![
            ("loss", self.loss, self.stderr),
            (
                "perplexity",
                self.perplexity(),
                self.stderr.map(|stderr| self.perplexity() * stderr),
            ),
        ];
        let tokens = self.tokens as f64;
        for (name, value, units) in [
            ("word_perplexity", self.word_perplexity(), self.words),
            ("byte_perplexity", self.byte_perplexity(), self.bytes),
        ] {
            if let (Some(value), Some(units)) = (value, units) {
                let scale = value * tokens / units as f64;
                figures.push((name, value, self.stderr.map(|stderr| scale * stderr)));
            }
        }
        figures.retain(|(name, value, _)| *name == "loss" || *value != f64::INFINITY);
        for (_, _, stderr) in &mut figures {
            *stderr = stderr.filter(|stderr| *stderr != f64::INFINITY);
        }
        figures
    }
}

/// The loss on a text, and what it is the mean of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextScore {
    /// The loss.
    pub loss: TextLoss,
    /// Mean loss of every window, for comparisons on the same windows.
    pub windows: Vec<f64>,
}

/// Loss on `windows` of a text from its start; the last, incomplete window is left out. With a
/// tokenizer, words and bytes are counted too.
///
/// # Errors
/// The text is shorter than one window, or a signal arrived.
pub fn text_loss(
    model: &Gpt2,
    tokens: &Tokens,
    windows: Windows,
    tokenizer: Option<&Tokenizer>,
    device: &Device,
) -> Result<TextScore> {
    let Windows {
        context, stride, ..
    } = windows;
    // Refuses a text without a whole window.
    tokens.windows("validation text", context)?;
    let predictable = tokens.len().saturating_sub(1);
    let available = windows.max_tokens.map_or(predictable, |max| {
        // As many windows as the tokens begin.
        let whole = max.div_ceil(stride as u64).saturating_mul(stride as u64);
        predictable.min(whole.max(context as u64))
    });
    let count = 1 + (available - context as u64) / stride as u64;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let engine = Engine {
        model,
        device,
        share: false,
    };
    let meter = Meter::new("validation", count as u64, Unit::Count);
    let mut means = Vec::with_capacity(count);
    let (mut total, mut predicted) = (0.0, 0);
    let mut done = 0;
    let mut size = tokenizer.map(Size::new);
    while done < count {
        interrupt::check("no validation loss")?;
        let per_pack = (pack_tokens(device) / context).clamp(1, count - done);
        let requests = (done..done + per_pack).map(|i| {
            let ids = tokens.read((i * stride) as u64, context + 1)?;
            let scored = if i == 0 { context } else { stride };
            if let Some(size) = &mut size {
                size.add(&ids[ids.len() - scored..])?;
            }
            Ok(Request {
                sequences: vec![Sequence { ids, scored }],
                truncated: false,
            })
        });
        let requests = requests.collect::<Result<Vec<Request>>>()?;
        let found = engine.score(&requests.iter().collect::<Vec<_>>())?;
        for (request, found) in requests.iter().zip(found) {
            let scored = request.sequences[0].scored;
            total -= found[0].sum;
            predicted += scored as u64;
            means.push(-found[0].sum / scored as f64);
        }
        meter.advance(per_pack as u64);
        done += per_pack;
    }
    let (_, stderr) = super::score::mean_and_stderr(&means);
    let loss = TextLoss {
        loss: total / predicted as f64,
        stderr,
        tokens: predicted,
        context,
        stride,
        words: size.as_ref().map(|size| size.words),
        bytes: size.as_ref().and_then(|size| size.bytes),
    };
    Ok(TextScore {
        loss,
        windows: means,
    })
}

/// Counts words and bytes of tokens that come in turn.
struct Size<'a> {
    tokenizer: &'a Tokenizer,
    end_of_text: Option<u32>,
    words: u64,
    bytes: Option<u64>,
    within_word: bool,
}

impl<'a> Size<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            end_of_text: tokenizer.end_of_text().ok(),
            words: 0,
            bytes: Some(0),
            within_word: false,
        }
    }

    fn add(&mut self, ids: &[u32]) -> Result<()> {
        for document in ids.split_inclusive(|&id| Some(id) == self.end_of_text) {
            let ends = document.last().copied() == self.end_of_text && self.end_of_text.is_some();
            let text = document[..document.len() - usize::from(ends)].iter();
            let text: Vec<u32> = text
                .copied()
                .filter(|&id| !self.tokenizer.is_added(id))
                .collect();
            for c in self.tokenizer.decode(&text)?.chars() {
                let in_word = !c.is_whitespace();
                self.words += u64::from(in_word && !self.within_word);
                self.within_word = in_word;
            }
            if ends {
                self.within_word = false;
            }
            let bytes = text.iter().map(|&id| self.tokenizer.byte_len(id));
            let bytes: Option<u64> = bytes.sum();
            self.bytes = self.bytes.zip(bytes).map(|(all, new)| all + new);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_one_word_has_no_infinite_figure() {
        let loss = TextLoss {
            loss: 5.0,
            stderr: Some(0.1),
            tokens: 1000,
            context: 100,
            stride: 100,
            words: Some(1),
            bytes: Some(4000),
        };
        assert_eq!(loss.nats_per_word(), Some(5000.0));
        let names = |loss: TextLoss| -> Vec<&str> {
            let figures = loss.figures();
            assert!(
                figures
                    .iter()
                    .all(|(_, x, e)| x.is_finite() && e.is_none_or(f64::is_finite))
            );
            figures.into_iter().map(|(name, ..)| name).collect()
        };
        assert_eq!(names(loss), ["loss", "perplexity", "byte_perplexity"]);
        let words = TextLoss {
            words: Some(200),
            ..loss
        };
        assert_eq!(names(words).len(), 4);
        // The perplexity is a double, its standard error is not.
        let near = TextLoss {
            loss: 709.5,
            stderr: Some(100.0),
            ..loss
        };
        assert_eq!(names(near), ["loss", "perplexity", "byte_perplexity"]);
    }
}
