//! Records of evaluation data: JSON objects, parquet, and the six-line text form.

use std::fs::File;
use std::path::Path;

use parquet::data_type::Decimal;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Value, json};

use crate::data::format::Format;
use crate::data::listing::note_once;
use crate::data::prepare::{check_codec, guarded, no_table};
use crate::data::records::{
    ONE_PER_LINE, Record, Records, columns_hint, padding_note, parse, wrapped,
};
use crate::error::{Error, Result, printable};

/// Longest line read.
const MAX_LINE: usize = 1 << 20;
/// How to get on without bad items.
const SKIP: &str = "--skip-bad leaves such items out and counts them, \
     in the recipe of a run eval.skip_bad = true";
/// Lines of an item in the six-line form.
const TEXT_LINES: usize = 6;

/// One record, and where it stands.
#[derive(Clone, Debug)]
pub struct Row {
    /// File and line, or file and row.
    pub at: String,
    /// What it holds.
    pub fields: Map<String, Value>,
}

impl Row {
    /// Whether there is such a field, other than null.
    pub fn has(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(|value| !value.is_null())
    }

    /// A value of any type.
    pub fn value(&self, key: &str) -> Result<&Value, String> {
        self.fields
            .get(key)
            .ok_or_else(|| format!("missing field `{key}`"))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<&str, String> {
        let value = self.value(key)?;
        value
            .as_str()
            .ok_or_else(|| format!("`{key}`: expected a string, found {}", shown(value)))
    }

    /// A text that is more than blanks.
    pub fn words(&self, key: &str) -> Result<&str, String> {
        let text = self.text(key)?;
        if text.trim().is_empty() {
            return Err(format!("`{key}` is empty"));
        }
        Ok(text)
    }

    /// A list of texts, each more than blanks; `what` is one of them.
    pub fn texts(&self, key: &str, what: &str) -> Result<Vec<String>, String> {
        texts(self.value(key)?, key, what)
    }

    /// A whole number from 0 to `last`, in any form that `whole` takes.
    pub fn index(&self, key: &str, last: usize) -> Result<usize, String> {
        let value = self.value(key)?;
        whole(value).filter(|&index| index <= last).ok_or_else(|| {
            let (found, why) = (shown(value), unanswered(value));
            format!("expected a {key} from 0 to {last}, found {found}{why}")
        })
    }
}

/// A whole number, which may stand as text, and as `2.0`: tables make that of 2 where a column
/// has gaps.
pub(super) fn whole(value: &Value) -> Option<usize> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok()?,
        number => number.as_f64()?,
    };
    let sound = number.fract() == 0.0 && (0.0..1e9).contains(&number);
    sound.then_some(number as usize)
}

/// What to say of the place of an answer that holds none.
pub(super) fn unanswered(value: &Value) -> &'static str {
    let empty = value.as_str().is_some_and(|text| text.trim().is_empty());
    if empty || value.is_null() || value.as_f64() == Some(-1.0) || value.as_str() == Some("-1") {
        ", that is no answer: those of a test split are often not published, score validation"
    } else {
        ""
    }
}

/// A list of texts, each more than blanks.
pub(super) fn texts(value: &Value, key: &str, what: &str) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| {
        format!(
            "`{key}`: expected a list of strings, found {}",
            shown(value)
        )
    })?;
    let text = |(i, value): (usize, &Value)| match value.as_str() {
        None => Err(format!(
            "`{key}`: expected a string, found {}",
            shown(value)
        )),
        Some(text) if text.trim().is_empty() => Err(format!("{what} {i} is empty")),
        Some(text) => Ok(text.to_owned()),
    };
    list.iter().enumerate().map(text).collect()
}

pub(super) fn shown(value: &Value) -> String {
    printable(&value.to_string())
}

/// Records that could not be read: a failure, or left out and counted.
#[derive(Debug, Default)]
pub struct BadRows {
    /// Leave them out.
    pub skip: bool,
    /// How many were left out.
    pub skipped: u64,
}

impl BadRows {
    /// Counts a bad record, or fails with what is wrong with it.
    pub fn meet(&mut self, at: &str, message: impl Into<String>) -> Result<()> {
        self.meet_with(at, message, SKIP)
    }

    /// Counts a record that is no item, or fails with what is wrong with it; `is_item` says
    /// whether another is one, as those in a list within it may be.
    pub fn meet_row(
        &mut self,
        row: &Row,
        message: String,
        is_item: impl Fn(&Row) -> bool,
    ) -> Result<()> {
        let inner = |fields: &Map<String, Value>| Row {
            at: row.at.clone(),
            fields: fields.clone(),
        };
        let wrapped = wrapped(&row.fields).filter(|(_, first)| is_item(&inner(first)));
        let hint = wrapped.map_or_else(|| SKIP.to_owned(), |(hint, _)| hint);
        self.meet_with(&row.at, message, hint)
    }

    /// The same, where there is more to do about it than to leave it out.
    fn meet_with(
        &mut self,
        at: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Result<()> {
        if self.skip {
            self.skipped += 1;
            return Ok(());
        }
        Err(Error::invalid(at, message).with_hint(hint))
    }
}

/// Reads the records of a file, whose name says its form: `.jsonl`, `.json`, `.parquet`, or
/// `.txt` for six lines an item; all but parquet also compressed.
///
/// # Errors
/// The file cannot be read or is of no known form; or a record is bad, and they are not left out.
pub fn read(path: &Path, bad: &mut BadRows) -> Result<Vec<Row>> {
    let (format, compression) = Format::of(path)?;
    if format == Format::Parquet {
        return read_parquet(path);
    }
    let mut records = Records::open(path, format, compression, MAX_LINE, |_| {})?;
    let rows = match format {
        Format::Text => read_text(&mut records, bad),
        _ => read_objects(&mut records, bad),
    }?;
    if records.padding() > 0 {
        note_once(&padding_note(path, records.padding()));
    }
    Ok(rows)
}

/// What a record says, or why it says nothing.
fn text(record: Record) -> Result<String, String> {
    match record {
        Record::TooLong => Err(format!("the line is longer than {MAX_LINE} bytes")),
        Record::Bytes(bytes) => String::from_utf8(bytes)
            .map_err(|e| format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to())),
    }
}

fn read_objects(records: &mut Records, bad: &mut BadRows) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    while let Some(record) = records.next()? {
        let at = records.at();
        let too_long = record == Record::TooLong;
        let text = match text(record) {
            Ok(text) => text,
            Err(message) => {
                let hint = if too_long {
                    format!("if the line is the whole file, {ONE_PER_LINE}; {SKIP}")
                } else {
                    SKIP.to_owned()
                };
                bad.meet_with(&at, message, hint)?;
                continue;
            }
        };
        match parse(text.as_bytes(), |bytes| serde_json::from_slice(bytes)) {
            Ok(fields) => match columns_hint(&fields) {
                None => rows.push(Row { at, fields }),
                Some(hint) => {
                    return Err(Error::invalid(at, "not an item, but a table").with_hint(hint));
                }
            },
            Err(message) => {
                let hint = records.advice(text.as_bytes());
                let hint =
                    hint.map_or_else(|| format!("{SKIP}; {}", records.hint()), str::to_owned);
                bad.meet_with(&at, message, hint)?;
            }
        }
    }
    Ok(rows)
}

/// `label: context`, the number of the right ending, four endings.
fn read_text(records: &mut Records, bad: &mut BadRows) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    loop {
        let mut item = Vec::with_capacity(TEXT_LINES);
        let mut wrong = None;
        while item.len() < TEXT_LINES {
            let Some(line) = records.next_line()? else {
                break;
            };
            let at = records.at();
            match text(line) {
                // Blank lines may stand between items, or at the end.
                Ok(line) if line.trim().is_empty() && item.is_empty() => {}
                Ok(line) => item.push((at, line)),
                Err(message) => {
                    wrong.get_or_insert((at.clone(), message));
                    item.push((at, String::new()));
                }
            }
        }
        if item.is_empty() {
            return Ok(rows);
        }
        if item.len() < TEXT_LINES {
            let message = format!(
                "expected {TEXT_LINES} lines for an item, found {}",
                item.len()
            );
            wrong.get_or_insert((item[0].0.clone(), message));
        }
        let number = item.get(1).map(|(at, line)| (at, line.trim()));
        if let Some((at, line)) = number.filter(|(_, n)| n.is_empty() || n.parse::<u8>().is_err()) {
            let message = format!(
                "expected the number of the right ending, found `{}`: a line before it is missing, or one too many",
                printable(line)
            );
            wrong.get_or_insert((at.clone(), message));
        }
        if let Some((at, message)) = wrong {
            bad.meet(&at, message)?;
            continue;
        }
        let endings: Vec<&str> = item[2..].iter().map(|(_, line)| line.as_str()).collect();
        let fields = json!({ "query": item[0].1, "label": item[1].1.trim(), "endings": endings });
        let Value::Object(fields) = fields else {
            unreachable!("an object")
        };
        let at = item.swap_remove(0).0;
        rows.push(Row { at, fields });
    }
}

fn read_parquet(path: &Path) -> Result<Vec<Row>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let records = guarded(|| {
        let reader = SerializedFileReader::new(file)?;
        for group in reader.metadata().row_groups() {
            group.columns().iter().try_for_each(check_codec)?;
        }
        reader.get_row_iter(None)?.collect::<Result<Vec<_>, _>>()
    });
    let records = records.map_err(|e| no_table(path, &e))?;
    let row = |(i, record): (usize, parquet::record::Row)| Row {
        at: format!("{}: row {i}", path.display()),
        fields: record
            .into_columns()
            .into_iter()
            .map(|(name, field)| (name, value(field)))
            .collect(),
    };
    Ok(records.into_iter().enumerate().map(row).collect())
}

/// What evaluation sets hold, as JSON. Anything else is an object with the name of its type,
/// which no field may be: so it is named where it is refused.
fn value(field: Field) -> Value {
    let named = |name: &str, field: &Field| json!({ name: field.to_string() });
    match field {
        Field::Null => Value::Null,
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match bytes.as_utf8() {
            Ok(text) => text.into(),
            Err(_) => json!({ "parquet bytes": format!("{} that are not UTF-8", bytes.len()) }),
        },
        Field::Decimal(ref number) => {
            decimal(number).unwrap_or_else(|| named("parquet decimal", &field))
        }
        Field::Date(_) => named("parquet date", &field),
        Field::TimeMillis(_) | Field::TimeMicros(_) => named("parquet time", &field),
        Field::TimestampMillis(_) | Field::TimestampMicros(_) => named("parquet timestamp", &field),
        Field::MapInternal(_) => named("parquet map", &field),
        Field::Bool(b) => b.into(),
        Field::Byte(n) => n.into(),
        Field::Short(n) => n.into(),
        Field::Int(n) => n.into(),
        Field::Long(n) => n.into(),
        Field::UByte(n) => n.into(),
        Field::UShort(n) => n.into(),
        Field::UInt(n) => n.into(),
        Field::ULong(n) => n.into(),
        Field::Float16(n) => f64::from(n).into(),
        Field::Float(n) => f64::from(n).into(),
        Field::Double(n) => n.into(),
        Field::Group(row) => row
            .into_columns()
            .into_iter()
            .map(|(name, field)| (name, value(field)))
            .collect::<Map<_, _>>()
            .into(),
        Field::ListInternal(list) => list
            .elements()
            .iter()
            .map(|field| value(field.clone()))
            .collect::<Vec<_>>()
            .into(),
    }
}

/// A decimal as a number, which is whole if the decimal is; none if it is too large.
fn decimal(number: &Decimal) -> Option<Value> {
    // Two's complement, the first byte being the highest.
    let negative = number.data().first().is_some_and(|&byte| byte >= 0x80);
    let add = |sum: i128, &byte: &u8| sum.checked_mul(256)?.checked_add(byte.into());
    let unscaled = number.data().iter().try_fold(-i128::from(negative), add)?;
    let unit = 10_i128.checked_pow(number.scale().try_into().ok()?)?;
    if unscaled % unit == 0 {
        return i64::try_from(unscaled / unit).ok().map(Value::from);
    }
    Some((unscaled as f64 / unit as f64).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(name: &str, content: &[u8], skip: bool) -> Result<(Vec<Row>, u64)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut bad = BadRows { skip, skipped: 0 };
        let rows = read(&path, &mut bad)?;
        Ok((rows, bad.skipped))
    }

    #[test]
    fn bad_lines_stop_or_are_counted() {
        let long = "x".repeat(MAX_LINE + 5);
        let text = format!("{{\"a\":\"b\"}}\r\n{{\n\n{long}\n{{\"a\":\"c\"}}");
        let content = [text.as_bytes(), b"\n\xff\n"].concat();
        let (rows, skipped) = read_as("x.jsonl", &content, true).unwrap();
        let found: Vec<_> = rows.iter().map(|row| row.text("a").unwrap()).collect();
        assert_eq!((found, skipped), (vec!["b", "c"], 3));
        let error = read_as("x.jsonl", &content, false).unwrap_err().to_string();
        assert!(
            error.contains("x.jsonl:2: an object that goes on"),
            "{error}"
        );
        assert!(rows[1].at.ends_with("x.jsonl:5"), "{}", rows[1].at);
    }

    #[test]
    fn decimals_are_numbers_and_other_types_are_named() {
        let wide = |value: i128, scale| {
            Decimal::from_bytes(value.to_be_bytes().to_vec().into(), 38, scale)
        };
        for (number, expected) in [
            (Decimal::from_i32(3, 5, 0), json!(3)),
            (Decimal::from_i64(-100, 5, 2), json!(-1)),
            (Decimal::from_i32(25, 5, 1), json!(2.5)),
            (wide(2, 0), json!(2)),
            (wide(-70_000, 4), json!(-7)),
            (Decimal::from_bytes(vec![0xff; 20].into(), 40, 0), json!(-1)),
        ] {
            assert_eq!(value(Field::Decimal(number)), expected);
        }
        let bytes = vec![0xff_u8, 0xfe];
        for (field, name) in [
            (Field::Date(10_000), "parquet date"),
            (Field::TimestampMicros(1), "parquet timestamp"),
            (Field::TimeMillis(1), "parquet time"),
            (Field::Bytes(bytes.into()), "parquet bytes"),
            (Field::Decimal(wide(i128::MAX, 0)), "parquet decimal"),
        ] {
            let row = Row {
                at: String::new(),
                fields: Map::from_iter([("label".to_owned(), value(field))]),
            };
            let error = row.index("label", 3).unwrap_err();
            assert!(error.contains(name) && !error.contains("null"), "{error}");
            assert!(row.text("label").unwrap_err().contains(name));
        }
    }

    #[test]
    fn six_lines_are_an_item() {
        let item = "Label: a context\r\n2\r\na\r\nb\r\nc\r\nd\r\n";
        let (rows, _) = read_as("x.txt", format!("{item}{item}\n").as_bytes(), false).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].index("label", 3), Ok(2));
        assert_eq!(rows[1].texts("endings", "ending").unwrap()[3], "d");
        let error = read_as("x.txt", &item.as_bytes()[..20], false).unwrap_err();
        assert!(error.to_string().contains("expected 6 lines"), "{error}");
    }
}
