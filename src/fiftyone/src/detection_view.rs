//! The saved view in which FiftyOne's App shows each detection with its own heatmap.
//!
//! The App draws heatmaps that are fields of a sample, and none that is a part of another label. In a view of patches each detection
//! is a sample, of which a stage of the view makes the heatmap from what the detection says. So nothing is stored twice, and the view
//! is always that of the detections as they are.

use bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::{dataset::Dataset, error::Error, retry::with_retries, schema::HeatmapField};

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
            None if is_new => insert(dataset, &field.name, OF_DETECTIONS, &stages)?,
            Some((Ok(id), true)) => id,
            _ => continue,
        };
        list(dataset, id)?;
    }
    Ok(())
}

/// Has the dataset list a view; what is listed already is not listed twice.
pub(super) fn list(dataset: &Dataset, id: ObjectId) -> Result<(), Error> {
    update_dataset(dataset, doc! {"saved_views": {"$ne": id}}, doc! {"$push": {"saved_views": id}})
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
        // A view that is listed and not there would be an error in FiftyOne.
        update_dataset(dataset, Document::new(), doc! {"$pull": {"saved_views": id}})?;
        with_retries(|| {
            let views = dataset.database.collection::<Document>("views");
            dataset.database.run(&doing(dataset), async { views.delete_one(doc! {"_id": id}).await })
        })?;
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

/// Adds a view of this name; the dataset does not list it yet.
pub(super) fn insert(dataset: &Dataset, name: &str, description: &str, stages: &[String]) -> Result<ObjectId, Error> {
    let (id, now) = (ObjectId::new(), DateTime::now());
    let view = doc! {
        "_id": id, "_dataset_id": dataset.id, "name": name, "slug": slug(name),
        "description": description, "color": null, "view_stages": stages,
        "created_at": now, "last_modified_at": now, "last_loaded_at": null,
    };
    let views = dataset.database.collection::<Document>("views");
    // Once: an answer that was lost would leave a second one, which nothing lists.
    dataset.database.run(&doing(dataset), async { views.insert_one(view).await })?;
    Ok(id)
}

/// The views of the dataset with these names, or what stands for them in addresses.
pub(super) fn views_of(dataset: &Dataset, names: &[&str]) -> Result<Vec<Document>, Error> {
    let slugs: Vec<String> = names.iter().map(|name| slug(name)).collect();
    let query = doc! {"_dataset_id": dataset.id, "$or": [{"name": {"$in": names}}, {"slug": {"$in": slugs}}]};
    with_retries(|| {
        dataset.database.run(&doing(dataset), async {
            dataset.database.collection::<Document>("views").find(query.clone()).await?.try_collect().await
        })
    })
}

fn update_dataset(dataset: &Dataset, condition: Document, update: Document) -> Result<(), Error> {
    let mut query = doc! {"_id": dataset.id};
    query.extend(condition);
    let mut update = update;
    update.insert("$currentDate", doc! {"last_modified_at": true});
    let datasets = dataset.database.collection::<Document>("datasets");
    with_retries(|| {
        let (query, update) = (query.clone(), update.clone());
        dataset.database.run(&doing(dataset), async { datasets.update_one(query, update).await })
    })
    .map(drop)
}

pub(super) fn doing(dataset: &Dataset) -> String {
    format!("saving views of dataset `{}`", dataset.name)
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

fn first_stage(view: &Document) -> Option<Value> {
    let stage = view.get_array("view_stages").ok()?.first().and_then(Bson::as_str)?;
    serde_json::from_str(stage).ok()
}

/// What a stage has for one of its arguments, which are pairs.
fn argument<'a>(stage: &'a Value, name: &str) -> Option<&'a Value> {
    stage["kwargs"].as_array()?.iter().find(|pair| pair[0] == name).map(|pair| &pair[1])
}

/// What FiftyOne makes of a name for addresses: lowercase, with a hyphen for signs and spaces.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => slug.push(c.to_ascii_lowercase()),
            c if (c.is_whitespace() || "+_.-".contains(c)) && !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    slug.trim_end_matches('-').to_owned()
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

    #[test]
    fn names_become_addresses_as_in_fiftyone() {
        for (name, wanted) in [
            ("coco_2017", "coco-2017"),
            ("c+o+c+o 2-0-1-7", "c-o-c-o-2-0-1-7"),
            ("---name----", "name"),
            ("sPaM     aNd  EgGs", "spam-and-eggs"),
        ] {
            assert_eq!(slug(name), wanted);
        }
    }
}
