//! One text column of a parquet file, row group by row group.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Once};

use parquet::basic::{Compression, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::ByteArrayType;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescPtr;

use super::documents::{BadDocuments, Documents, Piece};
use crate::data::magic::{HEAD, Kind, no_binary};
use crate::error::{Error, Result, counted, did_you_mean, printable};
use crate::progress::Meter;

/// Rows read at a time.
const ROWS: usize = 64;

/// The documents of a file: the values of a column.
pub(super) struct ParquetColumn<'a> {
    path: &'a Path,
    file: SerializedFileReader<File>,
    column: usize,
    /// Definition level of a value that is there.
    defined: i16,
    bad: &'a BadDocuments,
    meter: Arc<Meter>,
    /// Number of the row group to open next.
    next_group: usize,
    group: Option<Group>,
}

/// A row group that is being read.
struct Group {
    values: ColumnReaderImpl<ByteArrayType>,
    /// Rows read ahead; none for a null.
    rows: VecDeque<Option<Vec<u8>>>,
    /// Number of the first of them.
    row: u64,
    /// Rows that the footer promises.
    expected: i64,
}

impl<'a> ParquetColumn<'a> {
    /// Opens a file and finds the column.
    pub fn open(
        path: &'a Path,
        field: &str,
        bad: &'a BadDocuments,
        meter: Arc<Meter>,
    ) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let file = guarded(|| SerializedFileReader::new(file)).map_err(|e| no_table(path, &e))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let names: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
        let prefix = format!("{field}.");
        let is_list = |column: &&ColumnDescPtr| {
            let name = column.path().string();
            column.max_rep_level() > 0 && (name == field || name.starts_with(&prefix))
        };
        // A column that has the name itself comes before one of that path.
        let itself = |column: &ColumnDescPtr| column.path().parts() == [field];
        let itself = schema.columns().iter().position(itself);
        let below = || names.iter().position(|name| name == field);
        let column = itself.or_else(below).ok_or_else(|| {
            if let Some(list) = schema.columns().iter().find(is_list) {
                return no_list(path, list);
            }
            let listed = printable(&names.join(", "));
            let message = format!("no column `{}`; there are {listed}", printable(field));
            let error = Error::invalid(path.display(), message);
            let columns = schema.columns().iter().zip(&names);
            let plain = columns.filter(|(column, _)| column.max_rep_level() == 0);
            match did_you_mean(field, plain.map(|(_, name)| name.as_str())) {
                Some(name) => error.with_hint(format!("did you mean --field {name}?")),
                None => error.with_hint("name the column of the text with --field"),
            }
        })?;
        let found = &schema.columns()[column];
        if found.max_rep_level() > 0 {
            return Err(no_list(path, found));
        }
        if found.physical_type() != Type::BYTE_ARRAY {
            let kind = found.physical_type();
            let message = format!(
                "column `{}` holds {kind}, not one text per row",
                printable(field)
            );
            return Err(Error::invalid(path.display(), message)
                .with_hint("name the column of the text with --field"));
        }
        Ok(Self {
            defined: found.max_def_level(),
            path,
            column,
            bad,
            meter,
            next_group: 0,
            group: None,
            file,
        })
    }

    fn at(&self, place: &str) -> String {
        let group = self.next_group.saturating_sub(1);
        format!("{}: row group {group}{place}", self.path.display())
    }

    fn damaged(&self, error: &ParquetError) -> Error {
        unread(self.at(""), "", error)
    }

    /// Opens the next row group; false at the end.
    fn open_group(&mut self) -> Result<bool> {
        if self.next_group == self.file.num_row_groups() {
            return Ok(false);
        }
        self.next_group += 1;
        let opened = guarded(|| {
            let group = self.file.get_row_group(self.next_group - 1)?;
            let metadata = group.metadata();
            check_codec(metadata.column(self.column))?;
            let (bytes, rows) = (metadata.compressed_size(), metadata.num_rows());
            Ok((bytes, rows, group.get_column_reader(self.column)?))
        });
        let (bytes, expected, column) = opened.map_err(|e| self.damaged(&e))?;
        let ColumnReader::ByteArrayColumnReader(values) = column else {
            return Err(Error::invalid(self.at(""), "its column holds no text"));
        };
        self.meter.advance(bytes.try_into().unwrap_or(0));
        self.group = Some(Group {
            values,
            rows: VecDeque::new(),
            row: 0,
            expected,
        });
        Ok(true)
    }
}

impl Group {
    /// Reads some rows ahead; false at the end.
    fn fill(&mut self, defined: i16) -> Result<bool, ParquetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (rows, ..) = guarded(|| {
            let values = &mut values;
            self.values
                .read_records(ROWS, Some(&mut levels), None, values)
        })?;
        if rows == 0 && i64::try_from(self.row) != Ok(self.expected) {
            let (found, expected) = (self.row, self.expected);
            let message = format!(
                "{} there, the footer says {expected}",
                counted(found, "row is", "rows are")
            );
            return Err(ParquetError::General(message));
        }
        let mut values = values.into_iter();
        self.rows.extend((0..rows).map(|row| {
            let there = levels.get(row).is_none_or(|&level| level == defined);
            if there {
                values.next().map(|value| value.data().to_vec())
            } else {
                None
            }
        }));
        Ok(rows > 0)
    }
}

impl Documents for ParquetColumn<'_> {
    fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            let Some(group) = &mut self.group else {
                if self.open_group()? {
                    continue;
                }
                return Ok(None);
            };
            let Some(value) = group.rows.pop_front() else {
                match group.fill(self.defined) {
                    Ok(true) => {}
                    Ok(false) => self.group = None,
                    Err(e) => return Err(self.damaged(&e)),
                }
                continue;
            };
            let row = group.row;
            group.row += 1;
            let text = match value.map(String::from_utf8) {
                Some(Ok(text)) => Ok(text),
                Some(Err(e)) => {
                    let at = e.utf8_error().valid_up_to();
                    Err(format!("not UTF-8 at byte {at}"))
                }
                None => Err("null where a text was expected".to_owned()),
            };
            match text.map(Piece::whole) {
                Ok(None) => {}
                Ok(piece) => return Ok(piece),
                Err(message) => {
                    let at = self.at(&format!(", row {row}"));
                    let hint = "--skip-bad leaves such rows out";
                    self.bad.meet(Error::invalid(at, message).with_hint(hint))?;
                }
            }
        }
    }
}

/// The error for a column that holds a list in each row.
fn no_list(path: &Path, column: &ColumnDescPtr) -> Error {
    let name = printable(&column.path().parts()[0]);
    // A list of texts and nothing beside them has one column, `list.element` in most files.
    let is_texts = column.physical_type() == Type::BYTE_ARRAY && column.path().parts().len() <= 3;
    let (what, hint) = if is_texts {
        let hint = format!(
            "join them first, for example with pandas: df[\"{name}\"] = df[\"{name}\"].str.join(\"\\n\")"
        );
        ("a list of texts", hint)
    } else {
        let hint = "make a column of one text of it, and name that with --field";
        ("a list", hint.to_owned())
    };
    let message = format!("`{name}` is {what} in each row, not one text");
    Error::invalid(path.display(), message).with_hint(hint)
}

/// Makes a panic of the parquet crate, which some damaged files lead to, an error like others.
pub(crate) fn guarded<T>(
    work: impl FnOnce() -> Result<T, ParquetError>,
) -> Result<T, ParquetError> {
    thread_local!(static SILENT: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !SILENT.get() {
                usual(info);
            }
        }));
    });
    SILENT.set(true);
    // What it was reading is not used after an error.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    SILENT.set(false);
    outcome.unwrap_or_else(|_| Err(ParquetError::General("the data is damaged".to_owned())))
}

/// Refuses a column in a compression that is not read.
pub(crate) fn check_codec(column: &ColumnChunkMetaData) -> Result<(), ParquetError> {
    match column.compression() {
        codec @ Compression::LZO => Err(ParquetError::NYI(format!(
            "column `{}` is compressed with {codec}, which is not read",
            column.column_path().string()
        ))),
        _ => Ok(()),
    }
}

/// The error for a file that does not open as a table.
pub(crate) fn no_table(path: &Path, error: &ParquetError) -> Error {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD as u64).read_to_end(&mut head));
    let known = match Kind::of(&head).filter(|_| !head.starts_with(b"PAR1")) {
        _ if read.is_err() => None,
        Some(kind) => Some(kind.refused(path, false)),
        None => no_binary(path, "a parquet file", &head),
    };
    known.unwrap_or_else(|| unread(path.display(), "not a parquet file, or cut off: ", error))
}

/// The error for what cannot be read of a table: something that the format has and this program
/// does not know, or damage, said after `damage`.
fn unread(at: impl Display, damage: &str, error: &ParquetError) -> Error {
    match error {
        ParquetError::NYI(text) => Error::invalid(at, printable(text))
            .with_hint("write the table again, for example with pyarrow and compression=\"zstd\""),
        error => Error::invalid(at, format!("{damage}{}", printable(&error.to_string())))
            .with_hint("copy or download the file again"),
    }
}
