//! `scale-ckpt man`.

use std::path::PathBuf;

use clap::CommandFactory;
use scale_ckpt::Result;
use scale_ckpt::durable::write_file;
use scale_ckpt::error::Error;

/// Print the manual page, or write one page per command into a folder.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for scale-ckpt.1, scale-ckpt-grow.1 and so on.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let command = crate::cli::Cli::command();
        let Some(dir) = self.out else {
            return super::shared::print(&page(command)?);
        };
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        for sub in command.get_subcommands() {
            let name = format!("scale-ckpt-{}", sub.get_name());
            write_file(
                &dir.join(format!("{name}.1")),
                page(sub.clone().name(name))?.as_bytes(),
            )?;
        }
        write_file(&dir.join("scale-ckpt.1"), page(command)?.as_bytes())
    }
}

fn page(command: clap::Command) -> Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut text)
        .map_err(Error::io("render", "the manual page"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
