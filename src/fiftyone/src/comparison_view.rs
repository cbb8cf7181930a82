//! The saved view in which FiftyOne's App shows the samples of a comparison, those that changed most first, with both heatmaps.

use bson::Document;
use serde_json::{Value, json};

use super::{
    dataset::Dataset,
    error::Error,
    view_document::{insert_view, list_view, update_view, views_of},
};

/// How the description of a view of a comparison begins, by which it is known.
const DESCRIPTION: &str = "camflow compare: ";

/// Saves a view of these samples in their order, with these label fields and no others; one of an earlier comparison under this name
/// is replaced.
///
/// # Errors
/// The dataset has a view of this name that is none of a comparison, or groups; the database fails.
pub fn save_comparison_view(
    dataset: &Dataset,
    name: &str,
    compared: &str,
    ids: &[String],
    fields: &[String],
) -> Result<(), Error> {
    check_comparison_view(dataset, name)?;
    let stages = stages(ids, fields);
    let description = format!("{DESCRIPTION}{compared}");
    let id = match views_of(dataset, &[name])?.first().and_then(|view| view.get_object_id("_id").ok()) {
        None => insert_view(dataset, name, &description, &stages)?,
        Some(id) => {
            update_view(dataset, id, &description, &stages)?;
            id
        }
    };
    list_view(dataset, id)
}

/// Whether such a view can be saved.
///
/// # Errors
/// As for [`save_comparison_view`].
pub fn check_comparison_view(dataset: &Dataset, name: &str) -> Result<(), Error> {
    let refuse = |reason: String, hint: String| Error::Selection { dataset: dataset.name.clone(), reason, hint };
    if dataset.group().is_some() {
        let reason = "a view of a comparison cannot be saved in a grouped dataset".to_owned();
        return Err(refuse(
            reason,
            "leave out `--save-view`; the page and the JSON have the samples that changed most".to_owned(),
        ));
    }
    if !name.chars().any(|c| c.is_ascii_alphanumeric()) {
        return Err(refuse(format!("`{name}` is no name of a view"), "FiftyOne wants a letter or a digit in it".to_owned()));
    }
    let others = views_of(dataset, &[name])?;
    let is_ours = |view: &Document| view.get_str("description").is_ok_and(|text| text.starts_with(DESCRIPTION));
    if !others.iter().all(|view| is_ours(view) && view.get_str("name").is_ok_and(|known| known == name)) {
        let reason = format!("it has a saved view `{name}` already, or one of a like name, which no comparison made");
        return Err(refuse(reason, "choose another name for `--save-view`, or delete that view".to_owned()));
    }
    Ok(())
}

/// As FiftyOne keeps them.
fn stages(ids: &[String], fields: &[String]) -> Vec<String> {
    let stage = |name: &str, arguments: Value| json!({"_cls": format!("fiftyone.core.stages.{name}"), "kwargs": arguments});
    let select = json!([["sample_ids", ids], ["ordered", true]]);
    let show = json!([["field_names", fields], ["meta_filter", null], ["_allow_missing", true]]);
    vec![stage("Select", select).to_string(), stage("SelectFields", show).to_string()]
}
