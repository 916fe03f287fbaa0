//! `scale-ckpt methods`.

use clap::ValueEnum;
use scale_ckpt::Result;
use scale_ckpt::growth::{Initializer, METHODS, Placement, init};
use serde_json::json;

use super::shared::{print, print_json};

/// List the growth methods, placements and initializers.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(self) -> Result<()> {
        let placements: Vec<(String, String)> = Placement::value_variants()
            .iter()
            .filter_map(|p| p.to_possible_value())
            .map(|v| {
                (
                    v.get_name().to_owned(),
                    v.get_help().map(ToString::to_string).unwrap_or_default(),
                )
            })
            .collect();
        let claim = |name: &str| {
            Initializer::parse(name).map_or_else(
                |_| "none".to_owned(),
                |init| init.as_init().claim().to_string(),
            )
        };
        if self.json {
            let methods: Vec<_> = METHODS
                .iter()
                .map(|m| json!({ "name": m.name, "summary": m.summary, "source": m.source }))
                .collect();
            let placements: Vec<_> = placements
                .iter()
                .map(|(name, summary)| json!({ "name": name, "summary": summary }))
                .collect();
            let inits: Vec<_> = init::CATALOGUE.iter().map(|(name, summary)| json!({ "name": name, "summary": summary, "claim": claim(name) })).collect();
            return print_json(
                &json!({ "methods": methods, "placements": placements, "initializers": inits }),
            );
        }
        let mut lines = vec!["methods (--method): where and what, as published".to_owned()];
        lines.extend(
            METHODS
                .iter()
                .map(|m| format!("  {:<14} {}", m.name, m.summary)),
        );
        lines.push("\nplacements (--placement): where".to_owned());
        lines.extend(
            placements
                .iter()
                .map(|(name, summary)| format!("  {name:<14} {summary}")),
        );
        lines.push(
            "\ninitializers (--init): what, and what is claimed of the function right after growth"
                .to_owned(),
        );
        lines.extend(
            init::CATALOGUE
                .iter()
                .map(|(name, summary)| format!("  {name:<14} {:<11} {summary}", claim(name))),
        );
        lines.push(
            "\nParameters: --init noisy:noise=0.02. Anything else: a plan file, --plan FILE. --json cites sources."
                .to_owned(),
        );
        print(&lines.join("\n"))
    }
}
