//! `scale-ckpt man`.

use std::path::PathBuf;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use scale_ckpt::durable::write_file;
use scale_ckpt::error::Error;
use scale_ckpt::{Result, VERSION};

/// Print the manual page, or write one page per command into a folder.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for scale-ckpt.1, scale-ckpt-grow.1, scale-ckpt-data-prepare.1 and so on.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        // Pages for `help` and `help grow` would say nothing that `--help` does not.
        let mut command = crate::cli::Cli::command().disable_help_subcommand(true);
        // Gives every command its full name.
        command.build();
        let Some(dir) = self.out else {
            return super::shared::print(&page(&command)?.1);
        };
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        for command in with_all_below(&command) {
            let (name, text) = page(command)?;
            write_file(&dir.join(name), text.as_bytes())?;
        }
        Ok(())
    }
}

fn with_all_below(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().flat_map(with_all_below);
    std::iter::once(command).chain(below).collect()
}

/// Name and text of a manual page.
fn page(command: &Command) -> Result<(String, String)> {
    let man = Man::new(command.clone()).source(format!("scale-ckpt {VERSION}"));
    let mut text = Vec::new();
    man.render(&mut text)
        .map_err(Error::io("render", "the manual page"))?;
    Ok((
        man.get_filename(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}
