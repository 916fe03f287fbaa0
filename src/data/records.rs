//! The records of a JSON file: its lines, or the elements of its list.

use std::borrow::Cow;
use std::io::{self, BufRead};
use std::path::Path;

use serde_json::{Map, Value};

use super::format::{Compression, Format};
use super::magic;
use super::source::Source;
use crate::error::{Error, Result, printable};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// How to make JSON lines of anything else.
pub(crate) const ONE_PER_LINE: &str = "make JSON lines of it: jq -c . FILE > FILE.jsonl, or jq -c '.KEY[]' FILE where a key holds the list";

/// What to do with lists where lines are read.
const LISTS: &str = "one list of objects is read where the file's name ends in .json; \
     more than one: jq -c '.[]' FILE > OTHER.jsonl";
/// What is said of a line that is the beginning of an object.
const GOES_ON: &str = "an object that goes on over several lines";

/// A record of a file, not yet parsed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// Its bytes, without the end of the line.
    Bytes(Vec<u8>),
    /// It is longer than the limit.
    TooLong,
}

/// The records of an open file, each of at most `limit` bytes.
pub(crate) struct Records {
    source: Source,
    limit: usize,
    list: bool,
    /// Whether the name says that the file may be a list.
    may_be_list: bool,
    /// Number of the line where the record last read begins, from 1.
    line: u64,
    /// Line ends that the record has, or that follow it.
    ends: u64,
    /// Number of the element last read, from 0, of a list.
    element: Option<u64>,
    ended: bool,
    padding: u64,
}

impl Records {
    /// Opens a file of lines, or of a list where its name allows it and its first byte says it.
    /// `advance` is told of bytes on disk.
    ///
    /// # Errors
    /// It cannot be opened, or is something else than text.
    pub fn open(
        path: &Path,
        format: Format,
        compression: Compression,
        limit: usize,
        advance: impl Fn(u64) + Send + 'static,
    ) -> Result<Self> {
        let mut records = Self {
            source: Source::open(path, compression, advance)?,
            limit,
            list: false,
            may_be_list: format == Format::Json,
            line: 0,
            ends: 1,
            element: None,
            ended: false,
            padding: 0,
        };
        records.fill()?;
        let head = records.source.fill_buf().unwrap_or_default();
        if let Some((message, hint)) = magic::utf16(head) {
            return Err(Error::invalid(path.display(), message).with_hint(hint));
        }
        if head.starts_with(BYTE_ORDER_MARK) {
            records.source.consume(BYTE_ORDER_MARK.len());
        }
        if records.may_be_list {
            records.list = records.next_byte()? == Some(b'[');
        }
        if records.list {
            records.source.consume(1);
        }
        Ok(records)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Where the record last read stands: file and line, and the number of the element.
    pub fn at(&self) -> String {
        let (path, line) = (self.path().display(), self.line);
        match self.element {
            Some(element) => format!("{path}:{line}, element {element}"),
            None => format!("{path}:{line}"),
        }
    }

    /// Zero bytes at the end of the file, which were passed over.
    pub fn padding(&self) -> u64 {
        self.padding
    }

    /// What a bad record of this file may need.
    pub fn hint(&self) -> &'static str {
        if self.may_be_list && !self.list {
            "expected an object on each line, or one list of objects"
        } else if self.list {
            "expected a list of objects"
        } else {
            "expected an object on each line; one list of objects is read where the file's name \
             ends in .json"
        }
    }

    /// What to do with a record that cannot be parsed, if it is of a form that people have.
    pub fn advice(&self, record: &[u8]) -> Option<&'static str> {
        let record = record.trim_ascii();
        let is_list = record.starts_with(b"[") && record.ends_with(b"]");
        if goes_on(record) && !self.list {
            Some(ONE_PER_LINE)
        } else {
            (is_list && !self.may_be_list).then_some(LISTS)
        }
    }

    /// The next record that is more than white space; none at the end.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or its list is not closed.
    pub fn next(&mut self) -> Result<Option<Record>> {
        if self.list {
            return self.next_element();
        }
        while let Some(record) = self.next_line()? {
            match &record {
                Record::Bytes(bytes) if bytes.trim_ascii().is_empty() => {}
                Record::Bytes(bytes) if self.may_be_list && bytes.trim_ascii() == b"{" => {
                    return Err(Error::invalid(self.at(), GOES_ON).with_hint(ONE_PER_LINE));
                }
                _ => return Ok(Some(record)),
            }
        }
        Ok(None)
    }

    /// The next line, which may be empty, without its end; none at the end. Zeros at the end of
    /// the file are padding.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn next_line(&mut self) -> Result<Option<Record>> {
        if self.ended {
            return Ok(None);
        }
        self.line += std::mem::replace(&mut self.ends, 1);
        let (mut line, mut length, mut all_zero) = (Vec::new(), 0, true);
        loop {
            self.fill()?;
            let bytes = self.source.fill_buf().unwrap_or_default();
            let end = memchr::memchr(b'\n', bytes);
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            let room = (self.limit + 1).saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            length += piece.len();
            all_zero &= piece.iter().all(|&byte| byte == 0);
            self.ended = bytes.is_empty();
            let used = piece.len() + usize::from(end.is_some());
            self.source.consume(used);
            if end.is_some() || self.ended {
                break;
            }
        }
        if self.ended {
            self.take_padding(&mut line, &mut length, all_zero);
            if length == 0 {
                return Ok(None);
            }
        }
        if length > self.limit {
            return Ok(Some(Record::TooLong));
        }
        while line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(Record::Bytes(line)))
    }

    /// Takes zeros away that the file ends with.
    fn take_padding(&mut self, line: &mut Vec<u8>, length: &mut usize, all_zero: bool) {
        if all_zero {
            self.padding = *length as u64;
            line.clear();
            *length = 0;
        } else if line.len() == *length {
            while line.last() == Some(&0) {
                line.pop();
            }
            self.padding = (*length - line.len()) as u64;
            *length = line.len();
        }
    }

    fn next_element(&mut self) -> Result<Option<Record>> {
        if self.ended {
            return Ok(None);
        }
        let first = self.element.is_none();
        let mut next = self.next_byte()?;
        if !first && next == Some(b',') {
            self.source.consume(1);
            next = self.next_byte()?;
        } else if next == Some(b']') {
            self.source.consume(1);
            self.ended = true;
            return self.check_end().map(|()| None);
        }
        self.element = Some(self.element.map_or(0, |element| element + 1));
        if next.is_none() {
            return Err(self.not_closed());
        }
        self.value().map(Some)
    }

    /// Passes over white space; the byte after it is left where it is.
    fn next_byte(&mut self) -> Result<Option<u8>> {
        while self.fill()? {
            let bytes = self.source.fill_buf().unwrap_or_default();
            let blank = |byte: &&u8| byte.is_ascii_whitespace();
            let blanks = bytes.iter().take_while(blank).count();
            let found = bytes.get(blanks).copied();
            let skipped = &bytes[..blanks];
            self.ends += memchr::memchr_iter(b'\n', skipped).count() as u64;
            self.source.consume(blanks);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Reads to the comma or bracket after a value, which stays.
    fn value(&mut self) -> Result<Record> {
        self.line += std::mem::take(&mut self.ends);
        let (mut value, mut scan) = (Vec::new(), Scan::default());
        let mut too_long = false;
        while self.fill()? {
            let bytes = self.source.fill_buf().unwrap_or_default();
            let end = bytes.iter().position(|&byte| scan.ends_at(byte));
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            self.ends += memchr::memchr_iter(b'\n', piece).count() as u64;
            too_long |= value.len() + piece.len() > self.limit;
            if !too_long {
                value.extend_from_slice(piece);
            }
            let used = piece.len();
            self.source.consume(used);
            if end.is_some() {
                let record = if too_long {
                    Record::TooLong
                } else {
                    Record::Bytes(value)
                };
                return Ok(record);
            }
        }
        Err(self.not_closed())
    }

    /// Nothing but white space and zeros may follow the list.
    fn check_end(&mut self) -> Result<()> {
        while let Some(byte) = self.next_byte()? {
            if byte != 0 {
                let message = "something follows the list of objects";
                let hint = match byte {
                    b'[' => "make JSON lines of all lists: jq -c '.[]' FILE > FILE.jsonl",
                    b'{' => {
                        "make JSON lines of it all: \
                         jq -c 'if type == \"array\" then .[] else . end' FILE > FILE.jsonl"
                    }
                    _ => "the file must end with the list: take out what follows it",
                };
                return Err(Error::invalid(self.path().display(), message).with_hint(hint));
            }
            self.source.consume(1);
            self.padding += 1;
        }
        Ok(())
    }

    fn not_closed(&self) -> Error {
        Error::invalid(self.at(), "the file ends before its list does")
            .with_hint("it is cut off: copy or make it again")
    }

    /// Sees to it that bytes are at hand; false at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        loop {
            match self.source.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.source.failed(&self.line.max(1).to_string(), e)),
                Ok(bytes) => return Ok(!bytes.is_empty()),
            }
        }
    }
}

/// How far a value is understood: enough to see where it ends.
#[derive(Default)]
struct Scan {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Whether the value ended before this byte.
    fn ends_at(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth > 0 => self.depth -= 1,
            b',' | b']' => return self.depth == 0,
            _ => {}
        }
        false
    }
}

/// What is said of a file that ends with zeros.
pub(crate) fn padding_note(path: &Path, zeros: u64) -> String {
    let path = path.display();
    format!(
        "note: {path}: {zeros} zero bytes at its end are passed over; was it written to its end?"
    )
}

/// What to do with an object of columns, if it is one: pandas writes a whole table so, unless it is
/// told to write rows.
pub(crate) fn columns_hint(object: &Map<String, Value>) -> Option<&'static str> {
    let is_column = |value: &Value| value.as_object().is_some_and(|rows| rows.contains_key("0"));
    let columns = !object.is_empty() && object.values().all(is_column);
    columns.then_some(
        "these are columns, as pandas writes them: write rows, \
         to_json(FILE, orient=\"records\", lines=True)",
    )
}

/// How to get at the objects in a list that a key of an object holds, and the first of them, if
/// there is such a list: many programs write all rows so, and some put each under `row` once more.
pub(crate) fn wrapped(object: &Map<String, Value>) -> Option<(String, &Map<String, Value>)> {
    let rows = object.iter().filter_map(|(key, value)| {
        let list = value.as_array()?;
        let first = list.first()?.as_object()?;
        let row = first.get("row").and_then(Value::as_object);
        Some((row, list.len(), key, first))
    });
    let (row, _, key, first) = rows.max_by_key(|&(row, count, ..)| (row.is_some(), count))?;
    let key = printable(key);
    let below = if row.is_some() { ".\"row\"" } else { "" };
    let hint =
        format!("the objects are in a list of it: jq -c '.\"{key}\"[]{below}' FILE > FILE.jsonl");
    Some((hint, row.unwrap_or(first)))
}

/// Whether a line is the beginning of an object that the next lines go on with.
fn goes_on(record: &[u8]) -> bool {
    let record = record.trim_ascii();
    let mut scan = Scan::default();
    record.starts_with(b"{")
        && matches!(record.last(), Some(b'{' | b'[' | b','))
        && !record.iter().any(|&byte| scan.ends_at(byte))
        && scan.depth > 0
        && !scan.in_string
}

/// Parses a record. `NaN` and `Infinity`, which are not JSON but what Python writes, count as
/// null.
///
/// # Errors
/// What is wrong with it, in words, and at which column.
pub(crate) fn parse<T>(
    record: &[u8],
    parse: impl Fn(&[u8]) -> serde_json::Result<T>,
) -> Result<T, String> {
    parse(record).or_else(|error| {
        let plain = without_nan(record);
        let again = match &plain {
            Cow::Owned(plain) => parse(plain),
            Cow::Borrowed(_) => Err(error),
        };
        again.map_err(|error| explain(&error, record))
    })
}

/// The record with null for `NaN` and `Infinity` outside of strings.
fn without_nan(record: &[u8]) -> Cow<'_, [u8]> {
    let (mut plain, mut copied) = (Vec::new(), 0);
    let (mut scan, mut at) = (Scan::default(), 0);
    while at < record.len() {
        let words = [&b"NaN"[..], b"Infinity", b"-Infinity"];
        let word = words.iter().find(|word| record[at..].starts_with(word));
        match word {
            Some(word) if !scan.in_string => {
                plain.extend_from_slice(&record[copied..at]);
                plain.extend_from_slice(b"null");
                at += word.len();
                copied = at;
            }
            _ => {
                scan.ends_at(record[at]);
                at += 1;
            }
        }
    }
    if copied == 0 {
        return Cow::Borrowed(record);
    }
    plain.extend_from_slice(&record[copied..]);
    Cow::Owned(plain)
}

fn explain(error: &serde_json::Error, record: &[u8]) -> String {
    let text = error.to_string();
    let surrogate = text.contains("hex escape").then(|| lone_surrogate(record));
    if let Some(escape) = surrogate.flatten() {
        return format!(
            "`{escape}` is half of a surrogate pair, which alone is no character and has no form \
             in UTF-8"
        );
    }
    if record.trim_ascii().is_empty() {
        return "no object after a comma: a comma after the last element, or one too many".into();
    }
    if error.is_eof() && goes_on(record) {
        return GOES_ON.into();
    }
    if record.trim_ascii().iter().all(|&byte| byte == 0) {
        return format!("{} zero bytes where an object was expected", record.len());
    }
    let place = match (error.line(), error.column()) {
        (0, _) => String::new(),
        (1, column) => format!(" at column {column}"),
        (line, column) => format!(" at column {column} of line {line} of it"),
    };
    let text = text.split(" at line ").next().unwrap_or_default();
    printable(&format!("{text}{place}"))
}

/// The first escape of a record that names half of a surrogate pair without the other half.
fn lone_surrogate(record: &[u8]) -> Option<String> {
    let unit = |at: usize| {
        let digits = record.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while at < record.len() {
        let step = match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                return Some(String::from_utf8_lossy(&record[at..at + 6]).into_owned());
            }
            // An escaped backslash begins no escape.
            _ if record[at] == b'\\' => 2,
            _ => 1,
        };
        at += step;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &[u8], limit: usize) -> Result<Vec<(String, Record)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let (format, compression) = Format::of(&path)?;
        let mut records = Records::open(&path, format, compression, limit, |_| {})?;
        let mut found = Vec::new();
        while let Some(record) = records.next()? {
            let at = records.at();
            found.push((at.split_once(':').unwrap().1.to_owned(), record));
        }
        Ok(found)
    }

    fn texts(name: &str, content: &[u8]) -> Vec<(String, String)> {
        let records = read(name, content, 1000).unwrap();
        let text = |record| match record {
            Record::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            Record::TooLong => "too long".to_owned(),
        };
        records
            .into_iter()
            .map(|(at, record)| (at, text(record)))
            .collect()
    }

    fn owned(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|&(at, text)| (at.to_owned(), text.to_owned()))
            .collect()
    }

    #[test]
    fn lines_have_marks_ends_and_padding_taken_off() {
        let lines = "\u{feff}{\"a\":1}\r\n\r\n  \n{\"b\":2}\n{\"c\":3}\0\0\0";
        let expected = owned(&[("1", "{\"a\":1}"), ("4", "{\"b\":2}"), ("5", "{\"c\":3}")]);
        assert_eq!(texts("a.jsonl", lines.as_bytes()), expected);
        assert_eq!(texts("a.json", lines.as_bytes()), expected);
        // More padding than a line may be long.
        let padded = [&b"{}\n"[..], &[0; 5000]].concat();
        assert_eq!(texts("a.jsonl", &padded), owned(&[("1", "{}")]));
        assert!(texts("a.jsonl", &[0; 5000]).is_empty());
    }

    #[test]
    fn elements_of_a_list_are_records() {
        let list = b"\xef\xbb\xbf [\n {\"a\": [1, {\"b\": \"],}\\\\\\\"\"}]},\n\n {\"a\":\n2} , 3\n]\n\0\0";
        let expected = owned(&[
            ("2, element 0", "{\"a\": [1, {\"b\": \"],}\\\\\\\"\"}]}"),
            ("4, element 1", "{\"a\":\n2} "),
            ("5, element 2", "3\n"),
        ]);
        assert_eq!(texts("a.json", list), expected);
        assert!(texts("a.json", b"[]").is_empty());
        for cut in [
            &b"["[..],
            b"[{\"a\":1}",
            b"[{\"a\":1},",
            b"[{\"a\":1}, {\"a\":",
        ] {
            let error = read("a.json", cut, 1000).unwrap_err().to_string();
            assert!(error.contains("ends before its list does"), "{error}");
        }
        for (more, hint) in [
            ("{}", "if type =="),
            ("\n[{}]", "jq -c '.[]'"),
            ("]", "take out"),
        ] {
            let list = format!("[{{}}] {more}");
            let error = read("a.json", list.as_bytes(), 1000).unwrap_err();
            assert!(error.to_string().contains("something follows"), "{error}");
            assert!(error.hint().unwrap().contains(hint), "{error:?}");
        }
        // A comma with nothing after it is a bad record.
        assert_eq!(texts("a.json", b"[1,]")[1].1, "");
    }

    #[test]
    fn what_is_too_long_is_passed_over() {
        let long = "x".repeat(200);
        for (name, content) in [
            ("a.jsonl", format!("1\n{long}\n2")),
            ("a.json", format!("[1,\"{long}\",2]")),
        ] {
            let records = read(name, content.as_bytes(), 100).unwrap();
            assert_eq!(records.len(), 3, "{name}");
            assert_eq!(records[1].1, Record::TooLong, "{name}");
            assert!(matches!(&records[2].1, Record::Bytes(bytes) if bytes == b"2"));
        }
    }

    #[test]
    fn what_python_writes_is_parsed_or_explained() {
        let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes);
        let value = |text: &str| parse(text.as_bytes(), read);
        let found = value("{\"a\": NaN, \"b\": -Infinity, \"c\": \"NaN \\\" Infinity\"}").unwrap();
        assert!(found["b"].is_null(), "{found}");
        assert_eq!(found["c"], "NaN \" Infinity");
        for bad in ["\\ud800", "\\udc00\\ud800", "\\uD83D and", "x\\\\\\udfff!"] {
            let error = value(&format!("{{\"a\": \"{bad}\"}}")).unwrap_err();
            assert!(error.contains("half of a surrogate pair"), "{error}");
        }
        for good in ["\\ud83d\\ude00", "\\\\ud800"] {
            assert!(value(&format!("{{\"a\": \"{good}\"}}")).is_ok(), "{good}");
        }
        assert_eq!(value("{\"a\" 1}").unwrap_err(), "expected `:` at column 6");
        assert!(value("\0\0\0").unwrap_err().contains("3 zero bytes"));
        assert!(value("  ").unwrap_err().contains("a comma after the last"));
        for (begin, more) in [
            ("{", true),
            ("{ \"a\": [", true),
            ("{\"a\": {},", true),
            ("{\"a\": \"x,", false),
            ("{\"a\"", false),
            ("{\"a\": 1},", false),
        ] {
            let error = value(begin).unwrap_err();
            assert_eq!(error.contains("several lines"), more, "{begin}: {error}");
        }
    }

    #[test]
    fn the_list_that_holds_the_rows_is_found() {
        for (object, path) in [
            (r#"{"data": [{}], "version": 1}"#, Some(r#"'."data"[]'"#)),
            (
                r#"{"features": [{}, {}], "rows": [{"row_idx": 0, "row": {}}]}"#,
                Some(r#"'."rows"[]."row"'"#),
            ),
            (
                r#"{"a": [{}], "b": [{}, {}], "c": [1, 2, 3]}"#,
                Some(r#"'."b"[]'"#),
            ),
            (r#"{"endings": ["a"], "rows": []}"#, None),
        ] {
            let object = serde_json::from_str(object).unwrap();
            let hint = wrapped(&object).map(|(hint, _)| hint);
            assert_eq!(hint.is_some(), path.is_some(), "{object:?}");
            assert!(
                hint.is_none_or(|hint| hint.contains(path.unwrap())),
                "{object:?}"
            );
        }
    }
}
