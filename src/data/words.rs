//! GPT-2's division of text into words, the pattern
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, by hand.
//!
//! Regex engines spend most of the time of tokenization on this pattern. The classes are taken
//! from the tables of the regex crate itself, so that both agree on every character.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// What the pattern tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Other,
    Letter,
    Number,
    Space,
}

/// The kind of every character.
static KINDS: LazyLock<Box<[Kind]>> = LazyLock::new(|| {
    let mut kinds = vec![Kind::Other; char::MAX as usize + 1].into_boxed_slice();
    for (class, kind) in [
        (r"\p{L}", Kind::Letter),
        (r"\p{N}", Kind::Number),
        (r"\s", Kind::Space),
    ] {
        let hir = regex_syntax::parse(class).expect("the class is known");
        let HirKind::Class(Class::Unicode(ranges)) = hir.kind() else {
            unreachable!("{class} is a class of characters");
        };
        for range in ranges.ranges() {
            kinds[range.start() as usize..=range.end() as usize].fill(kind);
        }
    }
    kinds
});

/// The words of a text, in order; together they are the text.
#[derive(Debug)]
pub(super) struct Words<'t> {
    text: &'t str,
    kinds: &'static [Kind],
    at: usize,
}

impl<'t> Words<'t> {
    pub fn new(text: &'t str) -> Self {
        Self {
            text,
            kinds: &KINDS,
            at: 0,
        }
    }

    /// The kind and length of the character at `at`; none at the end.
    fn look(&self, at: usize) -> Option<(Kind, usize)> {
        let byte = *self.text.as_bytes().get(at)?;
        if byte < 128 {
            return Some((self.kinds[usize::from(byte)], 1));
        }
        let c = self.text[at..].chars().next()?;
        Some((self.kinds[c as usize], c.len_utf8()))
    }

    /// The end of the run of characters of `kind` from `at`.
    fn run(&self, mut at: usize, kind: Kind) -> usize {
        while let Some((next, length)) = self.look(at)
            && next == kind
        {
            at += length;
        }
        at
    }

    /// The end of white space from `at`: all of it at the end of the text, else all but its last
    /// character, which the next word takes if it is a space.
    fn space(&self, at: usize) -> usize {
        let end = self.run(at, Kind::Space);
        let last = self.text[at..end].chars().next_back();
        let last = last.map_or(0, char::len_utf8);
        if end == self.text.len() || at + last == end {
            end
        } else {
            end - last
        }
    }

    fn end(&self) -> Option<usize> {
        let (kind, length) = self.look(self.at)?;
        let rest = &self.text.as_bytes()[self.at..];
        if let [b'\'', after @ ..] = rest
            && let Some(length) = contraction(after)
        {
            return Some(self.at + 1 + length);
        }
        if kind != Kind::Space {
            return Some(self.run(self.at + length, kind));
        }
        if rest[0] == b' '
            && let Some((next, length)) = self.look(self.at + 1)
            && next != Kind::Space
        {
            return Some(self.run(self.at + 1 + length, next));
        }
        Some(self.space(self.at))
    }
}

/// Letters after the apostrophe that belong to it.
fn contraction(after: &[u8]) -> Option<usize> {
    match after {
        [b's' | b't' | b'm' | b'd', ..] => Some(1),
        [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => Some(2),
        _ => None,
    }
}

impl<'t> Iterator for Words<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let end = self.end()?;
        let word = &self.text[self.at..end];
        self.at = end;
        Some(word)
    }
}

/// The last place in `text` where it can be cut without changing its words: before white space
/// that follows something else.
pub(super) fn last_cut(text: &str) -> Option<usize> {
    let mut later = None;
    for (at, c) in text.char_indices().rev() {
        let space = c.is_whitespace();
        if let Some(cut) = later
            && !space
        {
            return Some(cut);
        }
        later = space.then_some(at);
    }
    None
}

/// `text` in pieces of about `size` bytes, cut where no word is.
pub(super) fn pieces(mut text: &str, size: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    while text.len() > size {
        let mut from = size;
        let cut = loop {
            while !text.is_char_boundary(from) {
                from += 1;
            }
            match last_cut(&text[..from]) {
                Some(cut) => break cut,
                None if from == text.len() => break from,
                None => from = (2 * from).min(text.len()),
            }
        };
        let (piece, rest) = text.split_at(cut);
        pieces.push(piece);
        text = rest;
    }
    if !text.is_empty() {
        pieces.push(text);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_pattern() {
        let words = |text| Words::new(text).collect::<Vec<_>>().join("|");
        assert_eq!(words("Hello, world's  end"), "Hello|,| world|'s| | end");
        assert_eq!(words("a\n\n b 12x\t"), "a|\n\n| b| 12|x|\t");
        assert_eq!(words("  "), "  ");
        assert_eq!(words("'lls 'x we'Re"), "'ll|s| '|x| we|'|Re");
        assert_eq!(
            words("é\u{a0}ß\u{3000}\u{3000}ü"),
            "é|\u{a0}|ß|\u{3000}|\u{3000}|ü"
        );
        assert_eq!(words(""), "");
    }

    #[test]
    fn pieces_have_the_words_of_the_whole() {
        let text = "One two,  three\n\n\u{3000}four's 5 66\u{a0}x ".repeat(20);
        let whole: Vec<_> = Words::new(&text).collect();
        for size in [1, 2, 3, 7, 50, 10_000] {
            let cut = pieces(&text, size);
            assert_eq!(cut.concat(), text);
            let words: Vec<_> = cut.iter().flat_map(|piece| Words::new(piece)).collect();
            assert_eq!(words, whole, "{size}");
        }
    }
}
