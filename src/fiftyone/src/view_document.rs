//! Saved views as FiftyOne keeps them: one document in the collection `views`, and its id in the dataset's document.

use bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use serde_json::Value;

use super::{dataset::Dataset, error::Error, retry::with_retries};

/// Writes a view that nothing lists yet.
///
/// # Errors
/// The database fails.
pub(super) fn insert_view(dataset: &Dataset, name: &str, description: &str, stages: &[String]) -> Result<ObjectId, Error> {
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

/// Has a view show something else.
///
/// # Errors
/// The database fails.
pub(super) fn update_view(dataset: &Dataset, id: ObjectId, description: &str, stages: &[String]) -> Result<(), Error> {
    let update = doc! {"$set": {"description": description, "view_stages": stages, "last_modified_at": DateTime::now()}};
    with_retries(|| {
        let views = dataset.database.collection::<Document>("views");
        let update = update.clone();
        dataset.database.run(&doing(dataset), async { views.update_one(doc! {"_id": id}, update).await })
    })
    .map(drop)
}

/// Has the dataset list a view. What is listed already is not listed twice.
///
/// # Errors
/// The database fails.
pub(super) fn list_view(dataset: &Dataset, id: ObjectId) -> Result<(), Error> {
    update_dataset(dataset, doc! {"saved_views": {"$ne": id}}, doc! {"$push": {"saved_views": id}})
}

/// Takes a view away.
///
/// # Errors
/// The database fails.
pub(super) fn remove_view(dataset: &Dataset, id: ObjectId) -> Result<(), Error> {
    // A view that is listed and not there would be an error in FiftyOne.
    update_dataset(dataset, Document::new(), doc! {"$pull": {"saved_views": id}})?;
    with_retries(|| {
        let views = dataset.database.collection::<Document>("views");
        dataset.database.run(&doing(dataset), async { views.delete_one(doc! {"_id": id}).await })
    })
    .map(drop)
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

/// What a view begins with.
pub(super) fn first_stage(view: &Document) -> Option<Value> {
    let stage = view.get_array("view_stages").ok()?.first().and_then(Bson::as_str)?;
    serde_json::from_str(stage).ok()
}

/// What a stage has for one of its arguments, which are pairs.
pub(super) fn argument<'a>(stage: &'a Value, name: &str) -> Option<&'a Value> {
    stage["kwargs"].as_array()?.iter().find(|pair| pair[0] == name).map(|pair| &pair[1])
}

/// What FiftyOne makes of a name for addresses: lowercase, with a hyphen for signs and spaces.
pub(super) fn slug(name: &str) -> String {
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
