//! `scale-ckpt man`.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use scale_ckpt::durable::refuse_dangling;
use scale_ckpt::error::Error;
use scale_ckpt::{Result, VERSION};

use super::output::Output;

/// Print the manual page, or write one page per command into a folder.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for scale-ckpt.1, scale-ckpt-grow.1, scale-ckpt-data-prepare.1 and so on.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace files that are there; pages of scale-ckpt are replaced in any case.
    #[arg(long, requires = "out")]
    force: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let pages = pages()?;
        let Some(dir) = self.out else {
            return super::shared::print(pages[0].1.trim_end());
        };
        refuse_dangling(&dir)?;
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let pages = pages.into_iter().map(|(name, text)| (dir.join(name), text));
        let pages: Vec<(PathBuf, String)> = pages.collect();
        let output = |path| Output {
            path,
            kind: "a manual page",
            is_ours,
            force: self.force,
            inputs: Vec::new(),
        };
        // All are looked at before any is written.
        for (path, _) in &pages {
            output(path).check()?;
        }
        for (path, text) in &pages {
            output(path).write(text.as_bytes())?;
        }
        Ok(())
    }
}

/// Whether a file is a page of that name that is written here.
fn is_ours(path: &Path, beginning: &[u8]) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let text = String::from_utf8_lossy(beginning);
    let title = format!(".TH {name} 1 ");
    text.lines()
        .any(|line| line.starts_with(&title) && line.contains("\"scale-ckpt "))
}

/// Name and text of the page of every command, the program's own first.
fn pages() -> Result<Vec<(String, String)>> {
    // Pages for `help` and `help grow` would say nothing that `--help` does not.
    let mut command = crate::cli::Cli::command().disable_help_subcommand(true);
    // Gives every command its full name.
    command.build();
    with_all_below(&command).into_iter().map(page).collect()
}

fn with_all_below(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().flat_map(with_all_below);
    std::iter::once(command).chain(below).collect()
}

fn page(command: &Command) -> Result<(String, String)> {
    let usage = usage(command);
    let man =
        Man::new(command.clone().override_usage(usage)).source(format!("scale-ckpt {VERSION}"));
    let mut text = Vec::new();
    man.render(&mut text)
        .map_err(Error::io("render", "the manual page"))?;
    let text = String::from_utf8_lossy(&text)
        .replace("\n.SH EXTRA\n", "\n.SH NOTES\n")
        .replace(&format!("\nv{VERSION}\n"), &format!("\n{VERSION}\n"));
    Ok((man.get_filename(), text))
}

/// How to call a command, as its `--help` says it.
fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    usage.trim_start_matches("Usage:").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The usage line that a command's `--help` has.
    fn in_help(called: &str) -> String {
        let words = called.split(' ').chain(["--help"]);
        let help = crate::cli::Cli::command().try_get_matches_from(words);
        let help = help.expect_err("help is no match").to_string();
        let mut lines = help.lines();
        let line = lines.find_map(|line| line.strip_prefix("Usage: "));
        line.expect("help says it").to_owned()
    }

    #[test]
    fn every_command_has_a_page_that_calls_it_by_its_full_name() {
        let pages: BTreeMap<String, String> = pages().unwrap_or_default().into_iter().collect();
        assert!(pages.len() > 20);
        for words in ["scale-ckpt", "scale-ckpt grow", "scale-ckpt data prepare"] {
            assert!(pages.contains_key(&format!("{}.1", words.replace(' ', "-"))));
        }
        for (name, text) in &pages {
            assert!(is_ours(Path::new(name), text.as_bytes()), "{text}");
            assert!(!is_ours(Path::new("other.1"), text.as_bytes()));
            let name = name.strip_suffix(".1").unwrap_or_default();
            let escaped = name.replace('-', "\\-");
            assert!(text.contains(&format!("\n.TH {name} 1 ")), "{text}");
            assert!(
                text.contains(&format!("\n.SH NAME\n{escaped} \\- ")),
                "{text}"
            );
            let (_, synopsis) = text.split_once(".SH SYNOPSIS\n").unwrap_or_default();
            let called = synopsis.split("\\fR").next().unwrap_or_default();
            let called = called.trim_start_matches("\\fB").replace("\\-", "-");
            assert_eq!(called.replace(' ', "-"), name);
            assert!(called.starts_with("scale-ckpt"), "{called}");
            let line = synopsis.lines().next().unwrap_or_default();
            let line = line.replace("\\fB", "").replace("\\fR", "");
            assert_eq!(line.replace("\\-", "-"), in_help(&called), "{name}");
            assert!(!text.contains(".SH EXTRA") && !text.contains(&format!("v{VERSION}")));
            // Pages that are referred to are there.
            let referred = text.lines().filter_map(|line| line.strip_suffix("(1)"));
            for other in referred.filter(|other| !other.contains(' ')) {
                let other = other.replace("\\-", "-");
                assert!(pages.contains_key(&format!("{other}.1")), "{other}");
            }
        }
    }
}
