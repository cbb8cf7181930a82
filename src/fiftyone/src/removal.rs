//! Taking heatmap fields away: from every sample first, and only then from the schema. A sample with a key that the schema lacks
//! would make the dataset unreadable for FiftyOne.
//!
//! Only camflow's labels go. A heatmap that somebody else put into the field stays, and with it the field.

use bson::{Bson, Document, doc, oid::ObjectId};
use futures_util::TryStreamExt;

use super::{
    dataset::Dataset,
    durability::durable,
    error::Error,
    lock::{Fence, Lock},
    retry::with_retries,
    sample_page::sample_page,
    schema_entry::{CLASSIFICATION, DETECTIONS, HEATMAP, SEGMENTATION},
};

/// Samples per command.
const BATCH: usize = 1000;

/// What a heatmap field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldContent {
    /// Its name.
    pub field: String,
    /// Heatmaps of camflow's: of a sample one, or those of its detections; or predictions, likewise.
    pub num_ours: u64,
    /// Samples with something else.
    pub num_others: u64,
}

/// What these fields hold.
///
/// # Errors
/// The database fails.
pub fn field_contents(dataset: &Dataset, fields: &[String]) -> Result<Vec<FieldContent>, Error> {
    let mut group = doc! {"_id": null};
    for (index, field) in fields.iter().enumerate() {
        let count = |condition: Document, each: Bson| doc! {"$sum": {"$cond": [condition, each, 0]}};
        let list = format!("${field}.detections");
        let each = doc! {"$cond": [{"$isArray": &list}, {"$size": {"$ifNull": [&list, []]}}, 1]};
        group.insert(format!("ours_{index}"), count(is_ours(field), each.into()));
        let is_other = doc! {"$not": [{"$or": [is_ours(field), is_nothing(field)]}]};
        group.insert(format!("others_{index}"), count(is_other, 1.into()));
    }
    let found = with_retries(|| {
        let pipeline = vec![doc! {"$group": group.clone()}];
        dataset.database.run(&format!("counting the heatmaps of dataset `{}`", dataset.name), async {
            let samples = dataset.database.collection::<Document>(&dataset.samples);
            samples.aggregate(pipeline).await?.try_next().await
        })
    })?;
    let found = found.unwrap_or_default();
    let count = |key: String| match found.get(&key) {
        Some(Bson::Int32(count)) => u64::from(count.unsigned_abs()),
        Some(Bson::Int64(count)) => count.unsigned_abs(),
        _ => 0,
    };
    let content = |(index, field): (usize, &String)| FieldContent {
        field: field.clone(),
        num_ours: count(format!("ours_{index}")),
        num_others: count(format!("others_{index}")),
    };
    Ok(fields.iter().enumerate().map(content).collect())
}

/// Takes camflow's labels in these fields away from all samples, and keys that hold nothing, until `is_cancelled`.
///
/// # Errors
/// The lock on the fields was lost, or the database fails.
pub fn unset_heatmaps(dataset: &Dataset, fields: &[String], lock: &Lock, is_cancelled: &dyn Fn() -> bool) -> Result<(), Error> {
    if fields.is_empty() {
        return Ok(());
    }
    // Samples with nothing to take away are not touched.
    let holds = |field: &String| [doc! {format!("{field}.fingerprint"): {"$type": "string"}}, doc! {field: {"$type": "null"}}];
    let holds: Vec<Document> = fields.iter().flat_map(holds).collect();
    let mut set = doc! {"last_modified_at": "$$NOW"};
    for field in fields {
        let goes = doc! {"$or": [is_ours(field), is_nothing(field)]};
        set.insert(field, doc! {"$cond": [goes, "$$REMOVE", format!("${field}")]});
    }
    let update = vec![doc! {"$set": set}];
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let doing = format!("taking heatmaps away from the samples of dataset `{}`", dataset.name);
    let mut last: Option<ObjectId> = None;
    while !is_cancelled() {
        let page = sample_page(dataset, &doc! {"$or": &holds}, last, &doc! {"_id": 1}, BATCH, &doing)?;
        let ids: Vec<ObjectId> = page.iter().filter_map(|sample| sample.get_object_id("_id").ok()).collect();
        let Some(end) = ids.last() else { break };
        last = Some(*end);
        lock.fenced(|fence| {
            let query = doc! {"_id": {"$in": &ids}, "$expr": fence.condition()};
            let update = update.clone();
            let done =
                dataset.database.run(&doing, async { samples.update_many(query, update).write_concern(durable()).await })?;
            Ok(done.matched_count > 0 || !is_any_there(dataset, &ids, &doing)?)
        })?;
    }
    Ok(())
}

/// Takes these fields out of the schema where no sample has them any more; returns those that stay.
///
/// # Errors
/// The lock on the fields was lost, or the database fails.
pub fn drop_fields(dataset: &Dataset, fields: &[String], lock: &Lock) -> Result<Vec<String>, Error> {
    let mut kept = Vec::new();
    let datasets = dataset.database.collection::<Document>("datasets");
    for field in fields {
        let doing = format!("removing field `{field}` from dataset `{}`", dataset.name);
        let entry = of_camflow(field);
        if is_used(dataset, field, &doing)? {
            kept.push(field.clone());
            continue;
        }
        let stored = with_retries(|| {
            let query = doc! {"_id": dataset.id, "sample_fields": {"$elemMatch": &entry}};
            dataset.database.run(&doing, async { datasets.find_one(query).projection(doc! {"sample_fields.$": 1}).await })
        })?;
        lock.fenced(|fence| remove_field(dataset, field, &fence, &doing))?;
        // Somebody may have used the field until this moment; without its entry FiftyOne could not read the dataset.
        let stored = stored.as_ref().and_then(|stored| stored.get_array("sample_fields").ok()?.first().cloned());
        if let Some(stored) = stored
            && is_used(dataset, field, &doing)?
        {
            with_retries(|| {
                let query = doc! {"_id": dataset.id, "sample_fields.name": {"$ne": field}};
                let update = doc! {"$push": {"sample_fields": &stored}, "$currentDate": {"last_modified_at": true}};
                dataset.database.run(&doing, async { datasets.update_one(query, update).await })
            })?;
            kept.push(field.clone());
        }
    }
    Ok(kept)
}

/// Takes a field out of the schema, as FiftyOne's `delete_sample_field` does; `false` if that came too late for the fence.
fn remove_field(dataset: &Dataset, field: &str, fence: &Fence, doing: &str) -> Result<bool, Error> {
    let update = doc! {
        "$pull": {"sample_fields": of_camflow(field)},
        // Those of masks that are gone.
        "$unset": {format!("mask_targets.{field}"): ""},
        "$currentDate": {"last_modified_at": true},
    };
    let query = doc! {"_id": dataset.id, "$expr": fence.condition()};
    let datasets = dataset.database.collection::<Document>("datasets");
    let done = dataset.database.run(doing, async { datasets.update_one(query, update).await })?;
    if done.matched_count == 0 {
        dataset.check_exists()?;
    }
    Ok(done.matched_count > 0)
}

/// The schema's entry of a field that may hold heatmaps of camflow's, detections with such, what was made of them, or predictions.
fn of_camflow(field: &str) -> Document {
    let of_labels = doc! {"embedded_doc_type": {"$in": [DETECTIONS, CLASSIFICATION, SEGMENTATION]}, "fields.name": "fingerprint"};
    doc! {"name": field, "$or": [{"embedded_doc_type": HEATMAP}, of_labels]}
}

fn is_any_there(dataset: &Dataset, ids: &[ObjectId], doing: &str) -> Result<bool, Error> {
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let found = samples.find_one(doc! {"_id": {"$in": ids}}).projection(doc! {"_id": 1});
    Ok(dataset.database.run(doing, async { found.await })?.is_some())
}

fn is_used(dataset: &Dataset, field: &str, doing: &str) -> Result<bool, Error> {
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let found = with_retries(|| {
        let find = samples.find_one(doc! {field: {"$exists": true}}).projection(doc! {"_id": 1});
        dataset.database.run(doing, async { find.await })
    })?;
    Ok(found.is_some())
}

/// Whether the field holds a heatmap of camflow's.
fn is_ours(field: &str) -> Document {
    doc! {"$eq": [{"$type": format!("${field}.fingerprint")}, "string"]}
}

fn is_nothing(field: &str) -> Document {
    doc! {"$in": [{"$type": format!("${field}")}, ["missing", "null"]]}
}
