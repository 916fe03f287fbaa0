//! `scale-ckpt completions`.

use clap::CommandFactory;
use scale_ckpt::Result;

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell.
    shell: clap_complete::Shell,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut crate::cli::Cli::command(),
            "scale-ckpt",
            &mut script,
        );
        super::shared::print(String::from_utf8_lossy(&script).trim_end())
    }
}
