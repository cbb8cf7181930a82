//! The saved view in which FiftyOne's App shows each detection with its own heatmap.
//!
//! The App draws heatmaps that are fields of a sample, and none that is a part of another label. In a view of patches each detection
//! is a sample, of which a stage of the view makes the heatmap from what the detection says. So nothing is stored twice, and the view
//! is always that of the detections as they are.

use bson::{Document, doc};
use serde_json::{Value, json};

use super::{
    dataset::Dataset,
    error::Error,
    retry::with_retries,
    schema::HeatmapField,
    view_document::{argument, doing, first_stage, insert_view, list_view, remove_view, views_of},
};

/// How the collection of a dataset begins that FiftyOne makes for a view of patches.
const PATCHES: &str = "patches.";

/// What the views say of themselves.
const OF_DETECTIONS: &str = "each detection with its own heatmap";

/// Saves a view for each new field of detections, under the field's name, and lists those that a run before was cut off from listing.
/// A view of the user's that has this name stays as it is, and one that somebody deleted does not come again.
///
/// # Errors
/// The database fails.
pub(super) fn save_views(dataset: &Dataset, fields: &[&HeatmapField]) -> Result<(), Error> {
    // FiftyOne makes no patches of groups.
    if dataset.group().is_some() {
        return Ok(());
    }
    for field in fields {
        let Some(stages) = stages(field) else { continue };
        let saved = views_of(dataset, &[&field.name])?;
        let is_new = dataset.fields().iter().all(|known| known.name != field.name);
        let id = match saved.first().map(|view| (view.get_object_id("_id"), is_ours(view, &field.name))) {
            None if is_new => insert_view(dataset, &field.name, OF_DETECTIONS, &stages)?,
            Some((Ok(id), true)) => id,
            _ => continue,
        };
        list_view(dataset, id)?;
    }
    Ok(())
}

/// Has FiftyOne make anew what it shows of these fields in the views that were saved for them: it keeps the patches of a saved view
/// from when it was loaded first. Where their dataset is not there, it makes another one of the same name.
///
/// # Errors
/// The database fails.
pub fn renew_views(dataset: &Dataset, fields: &[String]) -> Result<(), Error> {
    let names: Vec<&str> = fields.iter().map(String::as_str).collect();
    for view in views_of(dataset, &names)? {
        if view.get_str("name").is_ok_and(|name| is_ours(&view, name)) {
            drop_generated(dataset, &view)?;
        }
    }
    Ok(())
}

/// Takes away the views that were saved for these fields, with what FiftyOne made to show them.
///
/// # Errors
/// The database fails.
pub fn forget_views(dataset: &Dataset, fields: &[String]) -> Result<(), Error> {
    let names: Vec<&str> = fields.iter().map(String::as_str).collect();
    for view in views_of(dataset, &names)? {
        let (Ok(id), Ok(name)) = (view.get_object_id("_id"), view.get_str("name")) else { continue };
        if !is_ours(&view, name) {
            continue;
        }
        remove_view(dataset, id)?;
        drop_generated(dataset, &view)?;
    }
    Ok(())
}

/// Drops the dataset in which FiftyOne keeps the patches of a view, if it has one.
fn drop_generated(dataset: &Dataset, view: &Document) -> Result<(), Error> {
    let stage = first_stage(view);
    let name = stage.as_ref().and_then(|stage| argument(stage, "_state")?.get("name")?.as_str());
    let Some(name) = name else { return Ok(()) };
    let datasets = dataset.database.collection::<Document>("datasets");
    let query = doc! {"name": name, "sample_collection_name": {"$regex": format!("^{}", PATCHES.replace('.', "\\."))}};
    let found = with_retries(|| {
        let find = datasets.find_one(query.clone()).projection(doc! {"sample_collection_name": 1});
        dataset.database.run(&doing(dataset), async { find.await })
    })?;
    let Some(found) = found else { return Ok(()) };
    let (Ok(id), Ok(samples)) = (found.get_object_id("_id"), found.get_str("sample_collection_name")) else { return Ok(()) };
    with_retries(|| {
        dataset.database.run(&doing(dataset), async {
            dataset.database.collection::<Document>(samples).drop().await?;
            datasets.delete_one(doc! {"_id": id}).await
        })
    })
    .map(drop)
}

/// The view's stages as FiftyOne keeps them: patches of the field, each with its heatmap in the field that shows it.
fn stages(field: &HeatmapField) -> Option<[String; 2]> {
    let HeatmapField { name, layer, method, model, shown_in, .. } = field;
    let shown_in = shown_in.as_deref()?;
    let text = |text: &str| json!({"$literal": text});
    // What stands beside the list of detections is not there in a view of patches, and FiftyOne wants all that is declared.
    let of_all = json!({"method": text(method), "layer": text(layer), "model": text(model), "fingerprint": null});
    let heatmap = json!({"$mergeObjects": [of_all, format!("${name}"), {"_cls": text("Heatmap")}]});
    let stage = |name: &str, arguments: Value| json!({"_cls": format!("fiftyone.core.stages.{name}"), "kwargs": arguments});
    let patches = json!([["field", name], ["config", {"other_fields": [shown_in]}], ["_state", null]]);
    let set = json!([["field", shown_in], ["expr", heatmap], ["_allow_missing", false]]);
    Some([stage("ToPatches", patches).to_string(), stage("SetField", set).to_string()])
}

/// Whether a view begins with the patches of this field.
fn is_ours(view: &Document, field: &str) -> bool {
    first_stage(view).is_some_and(|stage| {
        stage["_cls"] == "fiftyone.core.stages.ToPatches" && argument(&stage, "field").is_some_and(|of| of == field)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_known_by_its_field() {
        let text = str::to_owned;
        let field = HeatmapField {
            name: text("dog_layercam_layer_head_detections"),
            layer: text("$a + b"),
            method: text("layercam"),
            model: text("m"),
            shown_in: Some(text("dog_layercam_layer_head")),
            attention_on: None,
        };
        let view = doc! {"view_stages": &stages(&field).expect("stages")};
        assert!(is_ours(&view, &field.name) && !is_ours(&view, "dog_layercam_layer_head"));
        assert!(!is_ours(&doc! {"view_stages": []}, &field.name));
        assert!(!is_ours(
            &doc! {"view_stages": [r#"{"_cls": "fiftyone.core.stages.Limit", "kwargs": [["limit", 3]]}"#]},
            &field.name
        ));
        assert_eq!(stages(&HeatmapField { shown_in: None, ..field }), None);
    }
}
