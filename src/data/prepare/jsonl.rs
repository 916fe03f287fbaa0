//! A JSON object on each line, one of whose values is the text.

use std::fmt;
use std::io::{BufRead, BufReader, Read};

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use super::documents::{BadDocuments, Documents, MAX_LINE, Piece};
use super::input::Input;
use crate::error::{Error, Result, printable};

/// The documents of a file of JSON lines.
pub(super) struct JsonLines<'a> {
    input: BufReader<Input>,
    field: &'a str,
    bad: &'a BadDocuments,
    /// Number of the line last read, from 1.
    line: u64,
}

impl<'a> JsonLines<'a> {
    pub fn new(input: Input, field: &'a str, bad: &'a BadDocuments) -> Self {
        Self {
            input: BufReader::with_capacity(1 << 20, input),
            field,
            bad,
            line: 0,
        }
    }

    /// The next line; none at the end. A line that is too long is given out cut.
    fn read_line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.line += 1;
        let limit = MAX_LINE as u64 + 1;
        let read = (&mut self.input).take(limit).read_until(b'\n', &mut line);
        let read = read.map_err(|e| self.failed(e))?;
        if line.len() > MAX_LINE && !line.ends_with(b"\n") {
            self.skip_line()?;
        }
        Ok((read > 0).then_some(line))
    }

    /// Reads to the end of a line without keeping it.
    fn skip_line(&mut self) -> Result<()> {
        let skipped = self.input.skip_until(b'\n');
        skipped.map(drop).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        let input = self.input.get_ref();
        input.failed(&self.line.to_string(), error)
    }

    /// The text of a line.
    fn parse(&self, line: &[u8]) -> Result<String, String> {
        if line.len() > MAX_LINE {
            return Err(format!("longer than {} MiB", MAX_LINE >> 20));
        }
        let mut json = serde_json::Deserializer::from_slice(line);
        let field = Field(self.field);
        let text = json
            .deserialize_map(field)
            .and_then(|text| json.end().map(|()| text));
        let text = text.map_err(|e| {
            // The line that serde_json counts is always the first.
            let text = e.to_string();
            printable(&text.replace(" at line 1 column ", " at column "))
        })?;
        text.ok_or_else(|| format!("no key `{}`", printable(self.field)))
    }
}

impl Documents for JsonLines<'_> {
    fn next(&mut self) -> Result<Option<Piece>> {
        while let Some(line) = self.read_line()? {
            let line = match line.strip_prefix(b"\xef\xbb\xbf") {
                Some(rest) if self.line == 1 => rest,
                _ => &line,
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            match self.parse(line) {
                Ok(text) => {
                    if let Some(piece) = Piece::whole(text) {
                        return Ok(Some(piece));
                    }
                }
                Err(message) => {
                    let path = self.input.get_ref().path().display();
                    let error = Error::invalid(format!("{path}:{}", self.line), message);
                    self.bad.meet(error.with_hint(
                        "expected an object with a text, see --field; --skip-bad leaves such lines out",
                    ))?;
                }
            }
        }
        Ok(None)
    }
}

/// Takes one value of an object and passes over the others without keeping them.
#[derive(Clone, Copy)]
struct Field<'a>(&'a str);

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut text = None;
        while let Some(ours) = map.next_key_seed(self)? {
            if !ours {
                map.next_value::<IgnoredAny>()?;
            } else if text.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom(format!("two keys `{}`", self.0)));
            }
        }
        Ok(text)
    }
}

/// Whether a key is the one that is wanted.
impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<bool, D::Error> {
        struct Key<'a>(&'a str);
        impl Visitor<'_> for Key<'_> {
            type Value = bool;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<bool, E> {
                Ok(key == self.0)
            }
        }
        key.deserialize_str(Key(self.0))
    }
}
