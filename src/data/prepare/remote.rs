//! Inputs on the hub.

use std::path::PathBuf;

use glob::{MatchOptions, Pattern};

use super::input::Format;
use crate::checkpoint::hub::{DatasetRef, HubConfig, Progress, fetch_files};
use crate::error::{Error, Result};

/// `*` stays within a folder, as in a shell; `**` does not.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Fetches what a reference means: a file, the files that a glob matches, or all of a known kind
/// below a folder.
pub(super) fn fetch(
    dataset: &DatasetRef,
    config: &HubConfig,
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    let path = dataset.path.as_str();
    let pattern =
        Pattern::new(path).map_err(|e| Error::usage(format!("`{path}` is not a glob: {e}")))?;
    let below = format!("{path}/");
    let wanted = |name: &str| {
        let inside = path.is_empty() || name.starts_with(&below);
        name == path
            || pattern.matches_with(name, OPTIONS)
            || (inside && Format::of(name.as_ref()).is_ok())
    };
    // The longest folder without a wildcard; the last part may be a file itself.
    let parts: Vec<&str> = path.split('/').collect();
    let wild = |part: &&str| part.contains(['*', '?', '[']) || Format::of(part.as_ref()).is_ok();
    let literal = parts.iter().take_while(|part| !wild(part));
    let folder = literal.copied().collect::<Vec<_>>().join("/");
    fetch_files(dataset, &folder, &wanted, config, progress)
}
