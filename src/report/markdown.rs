//! A report in Markdown.

use super::{Block, Document, Table};

/// The report in GitHub's Markdown.
pub fn render(document: &Document) -> String {
    let mut parts = vec![format!("# {}", escape(&document.title))];
    if !document.subtitle.is_empty() {
        parts.push(escape(&document.subtitle));
    }
    for section in &document.sections {
        let blocks: Vec<String> = section.blocks.iter().filter_map(block).collect();
        if !blocks.is_empty() {
            parts.push(format!("## {}", escape(&section.heading)));
            parts.extend(blocks);
        }
    }
    parts.join("\n\n") + "\n"
}

fn block(block: &Block) -> Option<String> {
    Some(match block {
        Block::Text(text) => escape(text),
        Block::List(items) => {
            let items = items.iter().map(|item| format!("- {}", escape(item)));
            items.collect::<Vec<_>>().join("\n")
        }
        Block::Table(table) => lay_out(table),
        Block::Chart(_) => return None,
    })
}

fn lay_out(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
        format!("| {} |", cells.join(" | "))
    };
    let rule: String = (0..table.header.len())
        .map(|i| if i < table.words { "---|" } else { "---:|" })
        .collect();
    let rows = table.rows.iter().map(|row| line(row));
    let mut lines = vec![line(&table.header), format!("|{rule}")];
    lines.extend(rows);
    if !table.note.is_empty() {
        lines.push(format!("\n{}", escape(&table.note)));
    }
    lines.join("\n")
}

/// Text that Markdown takes as it is.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut within_word = false;
    for c in text.chars() {
        // An underscore within a word is one.
        if "\\|`*<>[]#".contains(c) || (c == '_' && !within_word) {
            out.push('\\');
        }
        within_word = c.is_alphanumeric();
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Section;
    use super::*;

    #[test]
    fn cells_cannot_break_a_table() {
        let mut table = Table::new(1, &["arm", "loss"]);
        table.rows.push(vec!["a|b\n<c>".into(), "1.0".into()]);
        let document = Document {
            title: "T".into(),
            sections: vec![Section::new("S").with(Block::Table(table))],
            ..Document::default()
        };
        let expected = "# T\n\n## S\n\n| arm | loss |\n|---|---:|\n| a\\|b \\<c\\> | 1.0 |\n";
        assert_eq!(render(&document), expected);
    }
}
