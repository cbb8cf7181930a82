//! Which samples were asked for.

use std::{collections::HashSet, path::Path};

use crate::job::NameList;
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{Dataset, has_tag};
use camflow_media::{read_text, shown};

/// The ids in a file, one a line.
///
/// # Errors
/// It cannot be read.
pub fn listed_ids(path: &Path) -> Result<Vec<String>, Diagnostic> {
    let text = read_text(path).map_err(|error| {
        Diagnostic::invalid(format!("cannot read the ids in `{}`", shown(path)))
            .because(&error)
            .hint("`--ids` takes a text file with one sample id a line")
    })?;
    Ok(text.split_whitespace().map(ToOwned::to_owned).collect())
}

/// The ids of the samples of a saved view that are listed too, in the view's order; `None` where neither is given.
pub fn chosen_ids(viewed: Option<Vec<String>>, listed: Option<Vec<String>>) -> Option<Vec<String>> {
    match (viewed, listed) {
        (Some(mut viewed), Some(listed)) => {
            let listed: HashSet<String> = listed.into_iter().collect();
            viewed.retain(|id| listed.contains(id));
            Some(viewed)
        }
        (viewed, listed) => viewed.or(listed),
    }
}

/// The tags in a list, where a text may be one tag that holds commas.
///
/// # Errors
/// The database is lost.
pub fn chosen_tags(dataset: &Dataset, tags: &NameList) -> Result<Vec<String>, Diagnostic> {
    let mut lost = None;
    let tags = tags.names(|tag| {
        has_tag(dataset, tag).unwrap_or_else(|error| {
            lost = Some(error);
            false
        })
    });
    lost.map_or(Ok(tags), |error| Err(error.into()))
}
