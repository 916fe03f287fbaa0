//! A report on a terminal.

use super::{Block, Document, Table};

/// Columns that paragraphs fill.
const WIDTH: usize = 100;

/// The report as plain text.
pub fn render(document: &Document) -> String {
    let mut parts = vec![document.title.clone(), document.subtitle.clone()];
    for section in &document.sections {
        let blocks: Vec<String> = section.blocks.iter().filter_map(block).collect();
        if !blocks.is_empty() {
            let rule = "=".repeat(section.heading.chars().count());
            parts.push(format!("{}\n{rule}", section.heading));
            parts.extend(blocks);
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn block(block: &Block) -> Option<String> {
    Some(match block {
        Block::Text(text) => wrap(text, ""),
        Block::List(items) => {
            let items = items.iter().map(|item| format!("- {}", wrap(item, "  ")));
            items.collect::<Vec<_>>().join("\n")
        }
        Block::Table(laid) => table(laid),
        Block::Chart(_) => return None,
    })
}

/// A table with its note.
pub fn table(table: &Table) -> String {
    let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
    let right: Vec<bool> = (0..header.len()).map(|i| i >= table.words).collect();
    let laid_out = super::table::render(&header, &right, &table.rows);
    if table.note.is_empty() {
        laid_out
    } else {
        format!("{laid_out}\n\n{}", wrap(&table.note, ""))
    }
}

/// Breaks lines between words; lines after the first begin with `indent`.
fn wrap(text: &str, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        let length = line.chars().count() + 1 + word.chars().count() + indent.len();
        if line.trim().is_empty() {
            *line += word;
        } else if length <= WIDTH {
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
        let wrapped = wrap(&text, "  ");
        assert!(wrapped.lines().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(wrapped.split_whitespace().count(), 50);
        assert!(
            wrapped
                .lines()
                .skip(1)
                .all(|line| line.starts_with("  word"))
        );
    }
}
