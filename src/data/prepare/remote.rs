//! Inputs on the hub.

use std::cell::RefCell;
use std::path::PathBuf;

use glob::{MatchOptions, Pattern};

use crate::checkpoint::hub::{DatasetRef, HubConfig, Progress, fetch_files};
use crate::data::format::{Format, foreign};
use crate::data::listing::{Listing, is_about};
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
    if let Some((what, hint)) = foreign(path.as_ref()).filter(|_| !path.contains(['*', '?', '['])) {
        return Err(Error::invalid(path, what).with_hint(hint));
    }
    let below = format!("{path}/");
    // What of a folder is read and what is left out; sizes are not known here.
    let listing = RefCell::new(Listing::default());
    let wanted = |name: &str| {
        if name == path || pattern.matches_with(name, OPTIONS) {
            return true;
        }
        let hidden = name.split('/').any(|part| part.starts_with('.'));
        if hidden || !(path.is_empty() || name.starts_with(&below)) {
            return false;
        }
        let is_read = Format::known(name.as_ref()).is_some();
        listing.borrow_mut().add(name.into(), 0, is_read, false);
        is_read && !is_about(name.rsplit('/').next().unwrap_or(name))
    };
    // The longest folder without a wildcard; the last part may be a file itself.
    let parts: Vec<&str> = path.split('/').collect();
    let wild =
        |part: &&str| part.contains(['*', '?', '[']) || Format::known(part.as_ref()).is_some();
    let literal = parts.iter().take_while(|part| !wild(part));
    let folder = literal.copied().collect::<Vec<_>>().join("/");
    let fetched = fetch_files(dataset, &folder, &wanted, config, progress);
    let (listing, name) = (listing.into_inner(), format!("datasets/{}", dataset.repo));
    let files = fetched.map_err(|error| match (listing.left_out(), listing.advice()) {
        (Some(left), Some(step)) if listing.is_empty() => Error::Hub {
            what: name.clone(),
            message: format!("nothing that is read; there are {left}"),
            hint: Some(step.to_owned()),
        },
        _ => error,
    })?;
    listing.check(&name)?;
    listing.say(&name);
    Ok(files)
}
