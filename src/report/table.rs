//! Plain tables: columns padded with spaces, numbers to the right; those that are too wide for a
//! terminal in several parts, and long names shortened.

/// Lays out rows under a header. Columns named in `right` are right-aligned.
pub fn render(header: &[&str], right: &[bool], rows: &[Vec<String>]) -> String {
    let widths = widths(header, rows);
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .zip(right)
            .map(|((cell, &width), &right)| {
                if right {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let header: Vec<String> = header.iter().map(|&h| h.to_owned()).collect();
    let rule: String = "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1));
    let mut lines = vec![line(&header), rule];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

fn widths(header: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    (0..header.len()).map(width).collect()
}

/// [`render`], in as many tables as it takes for each to fit `width` columns of characters; every
/// one repeats the first `keys` columns. A table of these and one more column is as narrow as it
/// gets.
pub fn render_within(
    width: usize,
    keys: usize,
    header: &[&str],
    right: &[bool],
    rows: &[Vec<String>],
) -> String {
    let widths = widths(header, rows);
    let gap = |columns: usize| 2 * columns.saturating_sub(1);
    let mut parts: Vec<Vec<usize>> = Vec::new();
    for column in keys..header.len() {
        let fits = parts.last().is_some_and(|part| {
            let all = (0..keys).chain(part.iter().copied()).chain([column]);
            all.map(|i| widths[i]).sum::<usize>() + gap(keys + part.len() + 1) <= width
        });
        match parts.last_mut() {
            Some(part) if fits => part.push(column),
            _ => parts.push(vec![column]),
        }
    }
    if parts.is_empty() {
        return render(header, right, rows);
    }
    let tables = parts.iter().map(|part| {
        let columns: Vec<usize> = (0..keys).chain(part.iter().copied()).collect();
        let header: Vec<&str> = columns.iter().map(|&i| header[i]).collect();
        let right: Vec<bool> = columns.iter().map(|&i| right[i]).collect();
        let row = |row: &Vec<String>| columns.iter().map(|&i| row[i].clone()).collect();
        let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
        render(&header, &right, &rows)
    });
    tables.collect::<Vec<_>>().join("\n\n")
}

/// Whether every line of a text fits.
pub fn fits(text: &str, width: usize) -> bool {
    text.lines().all(|line| line.chars().count() <= width)
}

/// Whether a text with names in full is as good as the one with short names: it fits as well, in no
/// more tables.
pub fn names_stay(full: &str, short: &str, width: usize) -> bool {
    let parts = |text: &str| text.matches("\n\n").count();
    fits(full, width) && parts(full) <= parts(short)
}

/// Names of at most `most` characters (8 at least) for those given, all different: longer ones
/// lose their middle, and where two would be alike, they are numbered.
pub fn shortened(names: &[&str], most: usize) -> Vec<String> {
    let most = most.max(8);
    let mut short: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let length = name.chars().count();
        let is_taken = |one: &String| {
            let others = names.iter().filter(|other| *other != name);
            short.contains(one) || others.clone().any(|other| other == one)
        };
        let cut = |mark: &str| {
            let room = most.saturating_sub(mark.chars().count());
            // The end of a path tells more than its beginning.
            let head: String = name.chars().take(room / 3).collect();
            let tail = name.chars().skip(length - (room - room / 3));
            head + mark + &tail.collect::<String>()
        };
        let own = if length <= most {
            (*name).to_owned()
        } else {
            let numbered = (2..).map(|n| cut(&format!("…{n}…")));
            let mut candidates = [cut("…")].into_iter().chain(numbered);
            candidates
                .find(|one| !is_taken(one))
                .expect("a free number")
        };
        short.push(own);
    }
    short
}

/// Which name stands for which, for those that were shortened.
pub fn legend(names: &[&str], short: &[String]) -> Option<String> {
    let changed = names
        .iter()
        .zip(short)
        .filter(|(name, short)| *name != short);
    let lines: Vec<String> = changed
        .map(|(name, short)| format!("{short}\n  {name}"))
        .collect();
    (!lines.is_empty()).then(|| format!("names in full\n{}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_tables_come_in_parts() {
        let header = ["model", "n_layer", "params", "loss"];
        let right = [false, true, true, true];
        let rows = vec![
            vec![
                "./a".to_owned(),
                "4".into(),
                "3,822,240".into(),
                "4.4609".into(),
            ],
            vec![
                "./long-name".to_owned(),
                "12".into(),
                "1".into(),
                "3.1".into(),
            ],
        ];
        let whole = render(&header, &right, &rows);
        assert_eq!(render_within(80, 1, &header, &right, &rows), whole);
        for width in [20, 24, 31, 37] {
            let text = render_within(width, 1, &header, &right, &rows);
            assert!(fits(&text, width.max(22)), "{width}\n{text}");
            for cell in rows.iter().flatten().chain([&"params".to_owned()]) {
                assert!(
                    text.contains(cell.as_str()),
                    "{cell} is lost at {width}\n{text}"
                );
            }
        }
        assert_eq!(
            render_within(31, 1, &header, &right, &rows)
                .matches("model")
                .count(),
            2
        );
    }

    #[test]
    fn names_stay_in_full_where_short_ones_save_no_table() {
        let header = ["model", "loss", "accuracy"];
        let right = [false, true, true];
        let named = |name: &str| {
            let row = vec![name.to_owned(), "4.4609".into(), "25.00 ± 3.31".into()];
            move |width| render_within(width, 1, &header, &right, std::slice::from_ref(&row))
        };
        let (full, short) = (named("source ./fixtures/prose-4l"), named("source…e-4l"));
        // All fits, but just; short names come in one table; full ones do not fit.
        for (width, stays) in [
            (80, true),
            (48, true),
            (40, false),
            (33, false),
            (30, false),
        ] {
            assert_eq!(
                names_stay(&full(width), &short(width), width),
                stays,
                "{width}"
            );
        }
        let wide = |name: &str| named(name)(40);
        assert!(names_stay(
            &wide("./a-name-with-20-in-it"),
            &wide("./a-20-in-it-of-these"),
            40
        ));
    }

    #[test]
    fn long_names_lose_their_middle_and_stay_different() {
        let names = [
            "./runs/with-a-long-name/step-00000098",
            "./runs/with-a-longer-name/step-00000098",
            "./runs/with-a-longest-name/step-00000098",
            "./short",
            "./über/läufe/mit/langem/namen/größer/als/der/platz",
        ];
        let short = shortened(&names, 20);
        assert!(
            short.iter().all(|name| name.chars().count() <= 20),
            "{short:?}"
        );
        for (i, name) in short.iter().enumerate() {
            assert!(!short[..i].contains(name), "{short:?}");
        }
        assert_eq!(short[0], "./runs…step-00000098");
        assert_eq!(short[3], "./short");
        let legend = legend(&names, &short).unwrap();
        assert!(
            legend.contains("\n  ./runs/with-a-longest-name/step-00000098"),
            "{legend}"
        );
        assert!(!legend.contains("./short"));
        assert_eq!(super::legend(&["a"], &shortened(&["a"], 20)), None);
    }
}
