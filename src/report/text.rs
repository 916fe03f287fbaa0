//! A report on a terminal.

use super::{Block, Document, Table};

/// Characters of a line that paragraphs fill at most.
const WIDTH: usize = 100;
/// The part of a line that a name gets where a table does not fit, in tenths.
const NAME_TENTHS: usize = 3;

/// The report as plain text for lines of `width` characters. Wide tables come in parts.
pub fn render(document: &Document, width: usize) -> String {
    let wrapped = |text: &str| wrap_within(width.min(WIDTH), text, "");
    let mut parts = vec![wrapped(&document.title), wrapped(&document.subtitle)];
    for section in &document.sections {
        let blocks: Vec<String> = section
            .blocks
            .iter()
            .filter_map(|block| show(block, width))
            .collect();
        if !blocks.is_empty() {
            let rule = "=".repeat(section.heading.chars().count());
            parts.push(format!("{}\n{rule}", section.heading));
            parts.extend(blocks);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn show(block: &Block, width: usize) -> Option<String> {
    let text_width = width.min(WIDTH);
    Some(match block {
        Block::Text(text) => wrap_within(text_width, text, ""),
        Block::List(items) => {
            let wrapped = |item: &String| wrap_within(text_width, item, "  ");
            let items = items.iter().map(|item| format!("- {}", wrapped(item)));
            items.collect::<Vec<_>>().join("\n")
        }
        Block::Table(table) => table_within(table, width),
        Block::Chart(_) => return None,
    })
}

/// A table with its note, however wide.
pub fn table(table: &Table) -> String {
    lay_out(table, &table.rows, usize::MAX, WIDTH)
}

/// A table with its note; where it does not fit, columns come in parts, and names in its first
/// column are shortened if that helps.
fn table_within(table: &Table, width: usize) -> String {
    let note_width = width.min(WIDTH);
    let whole = lay_out(table, &table.rows, width, note_width);
    let names: Vec<&str> = table.rows.iter().map(|row| row[0].as_str()).collect();
    let short = super::table::shortened(&names, width * NAME_TENTHS / 10);
    let mut rows = table.rows.clone();
    for (row, name) in rows.iter_mut().zip(&short) {
        row[0].clone_from(name);
    }
    let text = lay_out(table, &rows, width, note_width);
    if super::table::names_stay(&whole, &text, width) {
        return whole;
    }
    match super::table::legend(&names, &short) {
        Some(legend) => format!("{text}\n\n{legend}"),
        None => text,
    }
}

fn lay_out(table: &Table, rows: &[Vec<String>], width: usize, note_width: usize) -> String {
    let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
    let right: Vec<bool> = (0..header.len()).map(|i| i >= table.words).collect();
    let keys = table.words.clamp(1, 2);
    let laid_out = super::table::render_within(width, keys, &header, &right, rows);
    if table.note.is_empty() {
        laid_out
    } else {
        format!("{laid_out}\n\n{}", wrap_within(note_width, &table.note, ""))
    }
}

/// Breaks lines of at most `width` characters between words, where no word is longer; lines after
/// the first begin with `indent`, for which the first leaves room.
pub fn wrap_within(width: usize, text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let room = if lines.len() == 1 { indent.len() } else { 0 };
        let line = lines.last_mut().expect("there is a line");
        let length = room + line.chars().count() + 1 + word.chars().count();
        if line.trim().is_empty() {
            *line += word;
        } else if length <= width {
            *line += " ";
            *line += word;
        } else {
            lines.push(format!("{indent}{word}"));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_break_between_words() {
        let text = "word ".repeat(50);
        let wrapped = wrap_within(60, &text, "  ");
        assert!(wrapped.lines().all(|line| line.chars().count() <= 60));
        assert_eq!(wrapped.split_whitespace().count(), 50);
        assert!(
            wrapped
                .lines()
                .skip(1)
                .all(|line| line.starts_with("  word"))
        );
    }
}
