//! Reports for people: one document, shown as text, Markdown or HTML.
//!
//! [`comparison`], [`search`], [`family`] and [`analysis`] make documents of what was found; [`text`],
//! [`markdown`] and [`html`] show them. Nothing is computed here.

pub mod analysis;
pub mod chart;
pub mod comparison;
pub mod family;
pub mod html;
pub mod markdown;
pub mod search;
pub mod table;
pub mod text;

pub use crate::eval::figures::thousands;
use chart::Chart;

/// A report.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// Its title.
    pub title: String,
    /// What it is of, in a line.
    pub subtitle: String,
    /// Its sections.
    pub sections: Vec<Section>,
}

/// A part of a report.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// What stands in it.
    pub blocks: Vec<Block>,
}

/// A piece of a report.
#[derive(Clone, Debug)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A list of sentences.
    List(Vec<String>),
    /// A table.
    Table(Table),
    /// A picture, in HTML alone.
    Chart(Chart),
}

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Names of the columns.
    pub header: Vec<String>,
    /// Columns of words, which stand to the left; numbers stand to the right.
    pub words: usize,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
    /// How to read it.
    pub note: String,
}

impl Table {
    /// A table whose first `words` columns are words.
    pub fn new(words: usize, header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|&name| name.to_owned()).collect(),
            words,
            ..Self::default()
        }
    }
}

impl Section {
    /// A section without anything in it.
    pub fn new(heading: &str) -> Self {
        Self {
            heading: heading.to_owned(),
            blocks: Vec::new(),
        }
    }

    /// Adds a block.
    pub fn with(mut self, block: Block) -> Self {
        self.blocks.push(block);
        self
    }
}
