//! What the heatmaps that a dataset has were made from: asked before a run puts others in their place.

use bson::{Document, doc};
use futures_util::TryStreamExt;

use super::{
    dataset::Dataset,
    error::Error,
    retry::with_retries,
    stored_heatmap::{DETECTIONS_CLASS, HEATMAP_CLASS},
};

/// A field with the beginning that the fingerprints of a run's heatmaps in it have: model and settings.
#[derive(Clone, Debug)]
pub struct ExpectedHeatmaps {
    /// Name of the field.
    pub field: String,
    /// Both parts with the hyphen between.
    pub fingerprint: String,
}

/// Heatmaps of a field that one model made with the same settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatmapOrigin {
    /// Name of the field.
    pub field: String,
    /// The beginning of their fingerprints: model and settings; `None` of heatmaps that camflow did not make.
    pub fingerprint: Option<String>,
    /// The model's name.
    pub model: String,
    /// The layer's module path.
    pub layer: String,
    /// The method.
    pub method: String,
    /// The class of one of them.
    pub class: String,
    /// How many there are.
    pub count: u64,
}

/// What labels of camflow's are.
const CLASSES: [&str; 2] = [HEATMAP_CLASS, DETECTIONS_CLASS];

/// Characters of the first two parts of a fingerprint, with the hyphen between.
const BEGINNING: i32 = 33;

/// Characters of the part for the model.
const MODEL: i32 = 16;

/// The heatmaps in these fields that begin otherwise, in any sample.
///
/// # Errors
/// The database fails.
pub fn other_heatmaps(dataset: &Dataset, expected: &[ExpectedHeatmaps]) -> Result<Vec<HeatmapOrigin>, Error> {
    let known = dataset.written_fields();
    let expected: Vec<&ExpectedHeatmaps> = expected.iter().filter(|expected| known.contains(&expected.field)).collect();
    // Nearly always there is none, which a query without expressions finds in the least time.
    let others: Vec<Document> = expected
        .iter()
        .map(|ExpectedHeatmaps { field, fingerprint }| {
            let begins = doc! {"$regex": format!("^{fingerprint}-")};
            doc! {format!("{field}._cls"): {"$in": CLASSES}, format!("{field}.fingerprint"): {"$not": begins}}
        })
        .collect();
    if others.is_empty() {
        return Ok(Vec::new());
    }
    let doing = format!("looking at the heatmaps of dataset `{}`", dataset.name);
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let query = doc! {"$or": others};
    let find = || samples.find_one(query.clone()).projection(doc! {"_id": 1});
    if with_retries(|| dataset.database.run(&doing, async { find().await }))?.is_none() {
        return Ok(Vec::new());
    }
    let stages = origins(&query, &expected);
    let found: Vec<Document> =
        with_retries(|| dataset.database.run(&doing, async { samples.aggregate(stages.clone()).await?.try_collect().await }))?;
    let text = |found: &Document, key: &str| found.get_str(key).unwrap_or_default().to_owned();
    let origin = |found: &Document| {
        let id = found.get_document("_id").ok()?;
        let count = found.get_i32("count").map(i64::from).or_else(|_| found.get_i64("count")).ok()?;
        Some(HeatmapOrigin {
            field: expected[usize::try_from(id.get_i32("field").ok()?).ok()?].field.clone(),
            fingerprint: Some(text(id, "fingerprint")).filter(|fingerprint| !fingerprint.is_empty()),
            model: text(id, "model"),
            layer: text(found, "layer"),
            method: text(found, "method"),
            class: text(found, "class"),
            count: u64::try_from(count).ok()?,
        })
    };
    Ok(found.iter().filter_map(origin).collect())
}

/// Predictions of a field that are from one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredictionOrigin {
    /// The model's name, and the part of their fingerprints for it; `None` of those that camflow did not make.
    pub model: Option<(String, String)>,
    /// How many samples have them.
    pub count: u64,
}

/// The predictions in a field whose fingerprints begin otherwise than with one of these: parts for model and settings, with the hyphen
/// between.
///
/// # Errors
/// The database fails.
pub fn other_predictions(dataset: &Dataset, field: &str, beginnings: &[String]) -> Result<Vec<PredictionOrigin>, Error> {
    if !dataset.prediction_fields().iter().any(|known| known == field) {
        return Ok(Vec::new());
    }
    let fingerprint = format!("{field}.fingerprint");
    let begins = format!("^(?:{})-", beginnings.join("|"));
    let is_other = doc! {field: {"$type": "object"}, &fingerprint: {"$not": {"$regex": begins}}};
    let is_text = doc! {"$eq": [{"$type": format!("${fingerprint}")}, "string"]};
    let model = doc! {"name": format!("${field}.model"), "digest": {"$substrCP": [format!("${fingerprint}"), 0, MODEL]}};
    let model = doc! {"$cond": [is_text, model, null]};
    let stages = vec![
        doc! {"$match": is_other},
        doc! {"$group": {"_id": model, "count": {"$sum": 1}}},
        doc! {"$sort": {"count": -1, "_id": 1}},
    ];
    let doing = format!("looking at the predictions of dataset `{}`", dataset.name);
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let found: Vec<Document> =
        with_retries(|| dataset.database.run(&doing, async { samples.aggregate(stages.clone()).await?.try_collect().await }))?;
    let count = |found: &Document| found.get_i32("count").map(i64::from).or_else(|_| found.get_i64("count")).unwrap_or(0);
    let origin = |found: &Document| {
        let text = |id: &Document, key: &str| id.get_str(key).unwrap_or_default().to_owned();
        let model = found.get_document("_id").ok().map(|id| (text(id, "name"), text(id, "digest")));
        PredictionOrigin { model, count: count(found).unsigned_abs() }
    };
    Ok(found.iter().map(origin).collect())
}

/// The other heatmap fields that hold what was made from the same model with the same settings, each with the field that is to.
///
/// # Errors
/// The database fails.
pub fn same_heatmaps(dataset: &Dataset, expected: &[ExpectedHeatmaps]) -> Result<Vec<(String, String)>, Error> {
    let known = dataset.written_fields();
    let new: Vec<&ExpectedHeatmaps> = expected.iter().filter(|expected| !known.contains(&expected.field)).collect();
    let others: Vec<&String> = known.iter().filter(|field| expected.iter().all(|expected| expected.field != **field)).collect();
    if new.is_empty() || others.is_empty() {
        return Ok(Vec::new());
    }
    let begins: Vec<&str> = new.iter().map(|expected| expected.fingerprint.as_str()).collect();
    let begins = format!("^(?:{})-", begins.join("|"));
    let keys: Vec<String> = others.iter().map(|field| format!("{field}.fingerprint")).collect();
    // A sample that has one of them has the others, too.
    let query = doc! {"$or": keys.iter().map(|key| doc! {key: {"$regex": &begins}}).collect::<Vec<_>>()};
    let projection: Document = keys.iter().map(|key| (key.clone(), 1.into())).collect();
    let doing = format!("looking at the heatmaps of dataset `{}`", dataset.name);
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let find = || samples.find_one(query.clone()).projection(projection.clone());
    let Some(found) = with_retries(|| dataset.database.run(&doing, async { find().await }))? else { return Ok(Vec::new()) };
    let twin = |field: &&String| {
        let fingerprint = found.get_document(field).ok()?.get_str("fingerprint").ok()?;
        let twin = new.iter().find(|expected| fingerprint.starts_with(&expected.fingerprint))?;
        Some(((*field).clone(), twin.field.clone()))
    };
    Ok(others.iter().filter_map(twin).collect())
}

/// Groups the heatmaps that the query is about by what they were made from.
fn origins(query: &Document, expected: &[&ExpectedHeatmaps]) -> Vec<Document> {
    let entry = |(number, expected): (usize, &&ExpectedHeatmaps)| {
        let of = |key: &str| format!("${}.{key}", expected.field);
        let is_text = doc! {"$eq": [{"$type": of("fingerprint")}, "string"]};
        doc! {
            "field": number as i32, "cls": of("_cls"), "expected": &expected.fingerprint,
            "fingerprint": {"$cond": [is_text, {"$substrCP": [of("fingerprint"), 0, BEGINNING]}, ""]},
            "model": of("model"), "layer": of("layer"), "method": of("method"), "class": of("target_class"),
        }
    };
    let entries: Vec<Document> = expected.iter().enumerate().map(entry).collect();
    let is_other = doc! {"$and": [{"$in": ["$heatmap.cls", CLASSES]}, {"$ne": ["$heatmap.fingerprint", "$heatmap.expected"]}]};
    vec![
        doc! {"$match": query},
        doc! {"$project": {"heatmap": entries}},
        doc! {"$unwind": "$heatmap"},
        doc! {"$match": {"$expr": is_other}},
        doc! {"$group": {
            "_id": {"field": "$heatmap.field", "fingerprint": "$heatmap.fingerprint", "model": "$heatmap.model"},
            "layer": {"$first": "$heatmap.layer"}, "method": {"$first": "$heatmap.method"}, "class": {"$first": "$heatmap.class"},
            "count": {"$sum": 1},
        }},
        doc! {"$sort": {"count": -1, "_id": 1}},
    ]
}
