//! A report as one HTML file: style, script and data inside, nothing fetched.

use std::fmt::Write;

use super::chart::Chart;
use super::{Block, Document, Table};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Nothing is loaded from anywhere, and nothing sent.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// Says in a page what made it.
pub const GENERATOR: &str = "<meta name=\"generator\" content=\"scale-ckpt\">";

/// The report as a page.
pub fn render(document: &Document) -> String {
    let mut charts: Vec<&Chart> = Vec::new();
    let mut body = String::new();
    for (i, section) in document.sections.iter().enumerate() {
        let heading = escape(&section.heading);
        let _ = writeln!(body, "<section id=\"s{i}\"><h2>{heading}</h2>");
        for block in &section.blocks {
            body += &show(block, &mut charts);
        }
        body += "</section>\n";
    }
    let links: String = document
        .sections
        .iter()
        .enumerate()
        .map(|(i, section)| format!("<a href=\"#s{i}\">{}</a>", escape(&section.heading)))
        .collect();
    let data = serde_json::to_string(&charts).expect("charts serialize");
    let (title, subtitle) = (escape(&document.title), escape(&document.subtitle));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         {GENERATOR}\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><div><h1>{title}</h1><p>{subtitle}</p></div>\
         <button id=\"theme\" type=\"button\">Dark</button></header>\n\
         <noscript><p>Pictures need JavaScript; tables do not.</p></noscript>\
         <nav>{links}</nav>\n<main>\n{body}</main>\n\
         <div id=\"tip\" role=\"status\" hidden></div>\n\
         <script type=\"application/json\" id=\"charts\">{}</script>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        in_script(&data)
    )
}

fn show<'a>(block: &'a Block, charts: &mut Vec<&'a Chart>) -> String {
    match block {
        Block::Text(text) => format!("<p>{}</p>\n", escape(text)),
        Block::List(items) => {
            let items = items
                .iter()
                .map(|item| format!("<li>{}</li>", escape(item)));
            format!("<ul>{}</ul>\n", items.collect::<String>())
        }
        Block::Table(table) => lay_out(table),
        Block::Chart(chart) => {
            charts.push(chart);
            format!("<figure data-chart=\"{}\"></figure>\n", charts.len() - 1)
        }
    }
}

fn lay_out(table: &Table) -> String {
    let row = |tag: &str, cells: &[String]| {
        let cells = cells.iter().enumerate().map(|(i, cell)| {
            let class = if i < table.words {
                " class=\"word\""
            } else {
                ""
            };
            let scope = if tag == "th" { " scope=\"col\"" } else { "" };
            format!("<{tag}{scope}{class}>{}</{tag}>", escape(cell))
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let rows: String = table.rows.iter().map(|cells| row("td", cells)).collect();
    let note = if table.note.is_empty() {
        String::new()
    } else {
        format!("<p class=\"note\">{}</p>\n", escape(&table.note))
    };
    format!(
        "<div class=\"table\"><table><thead>{}</thead><tbody>{rows}</tbody></table></div>\n{note}",
        row("th", &table.header)
    )
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// JSON that cannot end the script it stands in.
fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::super::Section;
    use super::super::chart::{Heat, Points};
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        let evil = "</script><img src=x onerror=alert(1)>";
        let chart = Chart::Points(Points {
            title: evil.into(),
            axes: Vec::new(),
            lines: vec![evil.into()],
            panels: Vec::new(),
        });
        let mut table = Table::new(1, &[evil]);
        table.rows.push(vec![evil.into()]);
        let document = Document {
            title: evil.into(),
            subtitle: evil.into(),
            sections: vec![
                Section::new(evil)
                    .with(Block::Text(evil.into()))
                    .with(Block::List(vec![evil.into()]))
                    .with(Block::Table(table))
                    .with(Block::Chart(chart)),
            ],
        };
        let page = render(&document);
        assert!(!page.contains("<img"));
        assert_eq!(page.matches("</script>").count(), 2);
    }

    #[test]
    fn every_chart_has_its_place() {
        let heat = || {
            Block::Chart(Chart::Heat(Heat {
                title: "t".into(),
                axes: ["a".into(), "b".into()],
                cells: Vec::new(),
            }))
        };
        let document = Document {
            sections: vec![
                Section::new("one").with(heat()),
                Section::new("two").with(heat()),
            ],
            ..Document::default()
        };
        let page = render(&document);
        assert!(page.contains("data-chart=\"0\"") && page.contains("data-chart=\"1\""));
    }
}
