//! What camflow did, as FiftyOne's custom runs: one document in the collection `runs`, and one key in the dataset's document.
//!
//! There is one record for each job of a dataset, not one for each night: a job is known by its name, or by its fields if it has
//! none. So the record of a job that runs every night is brought up to date, also if somebody gave it another key. Its id follows
//! from what the job is known by, and each change is one atomic update: shards that begin or end at once meet in one record.
//!
//! The counts of shards are added up, in rounds: a shard that has something new to say, and has had its say already, begins the
//! next round.
//!
//! The document comes before the key that refers to it, and goes after it: FiftyOne calls a key without its document corrupt. A
//! camflow that is killed in between leaves a document without a key, which the next run of the job takes over.

use std::path::PathBuf;

use bson::{Bson, Document, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use serde_json::{Map, Value};

use super::{
    dataset::Dataset,
    driver_error::is_duplicate,
    error::Error,
    failures::{FailureKey, forget_failures},
    retry::with_retries,
    run_note::{METHOD, RunNote, run_id},
    run_update::RunUpdate,
};

/// Keys to try: others may have taken the first ones for runs of their own.
const KEYS: usize = 100;

/// A run of camflow's that a dataset knows.
#[derive(Clone, Debug)]
pub struct StoredRun {
    id: ObjectId,
    /// Its key in the dataset.
    pub key: String,
    /// When it was noted last, in UTC.
    pub timestamp: String,
    /// The fields that it has written, in whichever of its runs.
    pub fields: Vec<String>,
    /// The folders that it has written to.
    pub folders: Vec<PathBuf>,
    /// All that was noted.
    pub config: Map<String, Value>,
}

/// The runs of camflow's that the dataset knows, by key.
///
/// # Errors
/// The database fails, or the dataset is gone.
pub fn stored_runs(dataset: &Dataset) -> Result<Vec<StoredRun>, Error> {
    let keys = run_keys(dataset)?;
    let ids: Vec<ObjectId> = keys.iter().map(|(_, id)| *id).collect();
    let documents = run_documents(dataset, doc! {"_id": {"$in": ids}, "config.method": METHOD})?;
    let stored = |(key, id): (String, ObjectId)| {
        let document = documents.iter().find(|document| document.get_object_id("_id").ok() == Some(id))?;
        Some(stored_run(key, id, document))
    };
    let mut runs: Vec<StoredRun> = keys.into_iter().filter_map(stored).collect();
    runs.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(runs)
}

/// Whether there is a record of this job.
///
/// # Errors
/// The database fails, or the dataset is gone.
pub fn has_run(dataset: &Dataset, note: &RunNote) -> Result<bool, Error> {
    let keys = run_keys(dataset)?;
    let known = run_documents(dataset, identity(dataset.id, note))?;
    Ok(known.iter().any(|document| key_of(&keys, document).is_some()))
}

/// Notes a run: makes the job's record, or brings it up to date; returns its key. Fields and folders of earlier runs of the
/// job stay in it.
///
/// # Errors
/// The database fails, or the dataset is gone.
pub fn note_run(dataset: &Dataset, note: &RunNote) -> Result<String, Error> {
    let keys = run_keys(dataset)?;
    let mut known = run_documents(dataset, identity(dataset.id, note))?;
    // One that was never given its key comes last.
    known.sort_by_key(|document| key_of(&keys, document).is_none());
    let known = known.first();
    let id = known
        .and_then(|document| document.get_object_id("_id").ok())
        .unwrap_or_else(|| run_id(dataset.id, note.job.as_deref(), &note.fields));
    let update = RunUpdate::new(note);
    if let Some(key) = known.and_then(|document| key_of(&keys, document)) {
        put_run(dataset, id, &key, &update)?;
        return Ok(key);
    }
    let wanted = run_key(note);
    for number in 1..=KEYS {
        let key = if number == 1 { wanted.clone() } else { format!("{wanted}_{number}") };
        if keys.iter().any(|(taken, other)| *taken == key && *other != id) {
            continue;
        }
        put_run(dataset, id, &key, &update)?;
        if refer_to_run(dataset, &key, id)? {
            return Ok(key);
        }
        if let Err(gone) = with_retries(|| dataset.check_exists()) {
            delete_run_documents(dataset, doc! {"_id": id})?;
            return Err(gone);
        }
    }
    let reason = format!("all keys from `{wanted}` on are taken by other runs");
    Err(Error::MalformedDataset { name: dataset.name.clone(), reason })
}

/// Takes records of runs away, and fields out of the others.
///
/// # Errors
/// The database fails.
pub fn forget_runs(dataset: &Dataset, runs: &[StoredRun], fields: &[String]) -> Result<(), Error> {
    for run in runs {
        let key = format!("runs.{}", run.key);
        let update = doc! {"$unset": {&key: ""}, "$currentDate": {"last_modified_at": true}};
        update_datasets(dataset, doc! {"_id": dataset.id, &key: run.id}, update)?;
        delete_run_documents(dataset, doc! {"_id": run.id})?;
        forget_failures(dataset, FailureKey::new(dataset.id, run.id))?;
    }
    let mine = doc! {"_dataset_id": dataset.id, "config.method": METHOD};
    with_retries(|| {
        let (mine, update) = (mine.clone(), doc! {"$pull": {"config.fields": {"$in": fields}}});
        dataset.database.run(&noting(dataset), async { run_collection(dataset).update_many(mine, update).await })
    })?;
    // Those that were never given a key, and now name nothing.
    let referred: Vec<ObjectId> = run_keys(dataset)?.into_iter().map(|(_, id)| id).collect();
    let mut nameless = mine;
    nameless.extend(doc! {"_id": {"$nin": referred}, "config.fields": {"$size": 0}});
    delete_run_documents(dataset, nameless)
}

/// The keys in the dataset's document, of all runs.
fn run_keys(dataset: &Dataset) -> Result<Vec<(String, ObjectId)>, Error> {
    let found = with_retries(|| {
        dataset.database.run(&format!("reading the runs of dataset `{}`", dataset.name), async {
            let datasets = dataset.database.collection::<Document>("datasets");
            datasets.find_one(doc! {"_id": dataset.id}).projection(doc! {"runs": 1}).await
        })
    })?;
    let Some(found) = found else { return Err(Error::DatasetGone { name: dataset.name.clone() }) };
    let runs = found.get_document("runs").cloned().unwrap_or_default();
    Ok(runs.into_iter().filter_map(|(key, id)| Some((key, id.as_object_id()?))).collect())
}

fn run_documents(dataset: &Dataset, query: Document) -> Result<Vec<Document>, Error> {
    with_retries(|| {
        let query = query.clone();
        dataset.database.run(&format!("reading the runs of dataset `{}`", dataset.name), async {
            run_collection(dataset).find(query).sort(doc! {"_id": 1}).await?.try_collect().await
        })
    })
}

/// Writes the document; what people added to it stays.
fn put_run(dataset: &Dataset, id: ObjectId, key: &str, update: &RunUpdate) -> Result<(), Error> {
    let update = update.pipeline(dataset.id, key, dataset.version());
    let put = || {
        let update = update.clone();
        dataset
            .database
            .run(&noting(dataset), async { run_collection(dataset).update_one(doc! {"_id": id}, update).upsert(true).await })
    };
    match with_retries(put) {
        // Another shard made it at the same moment.
        Err(Error::Driver { source, .. }) if is_duplicate(&source) => with_retries(put),
        put => put,
    }
    .map(drop)
}

/// Whether the key could be set.
fn refer_to_run(dataset: &Dataset, key: &str, id: ObjectId) -> Result<bool, Error> {
    let key = format!("runs.{key}");
    // Ours already, if the answer to the first attempt was lost.
    let query = doc! {"_id": dataset.id, "$or": [{&key: {"$exists": false}}, {&key: id}]};
    update_datasets(dataset, query, doc! {"$set": {&key: id}, "$currentDate": {"last_modified_at": true}})
}

/// Whether a dataset matched.
fn update_datasets(dataset: &Dataset, query: Document, update: Document) -> Result<bool, Error> {
    with_retries(|| {
        let (query, update) = (query.clone(), update.clone());
        dataset
            .database
            .run(&noting(dataset), async { dataset.database.collection::<Document>("datasets").update_one(query, update).await })
    })
    .map(|updated| updated.matched_count > 0)
}

fn delete_run_documents(dataset: &Dataset, query: Document) -> Result<(), Error> {
    with_retries(|| {
        let query = query.clone();
        dataset.database.run(&noting(dataset), async { run_collection(dataset).delete_many(query).await })
    })
    .map(drop)
}

fn run_collection(dataset: &Dataset) -> mongodb::Collection<Document> {
    dataset.database.collection("runs")
}

fn noting(dataset: &Dataset) -> String {
    format!("noting a run in dataset `{}`", dataset.name)
}

/// Finds the records of the same job.
fn identity(dataset: ObjectId, note: &RunNote) -> Document {
    let mut query = doc! {"_dataset_id": dataset, "config.method": METHOD, "config.job": note.job.as_deref()};
    if note.job.is_none() {
        let fields = i32::try_from(note.fields.len()).unwrap_or(i32::MAX);
        query.insert("config.fields", doc! {"$size": fields, "$all": &note.fields});
    }
    query
}

/// A Python identifier, as FiftyOne wants it, that says which job it is.
fn run_key(note: &RunNote) -> String {
    let name = match (&note.job, &note.fields[..]) {
        (Some(job), _) => job.clone(),
        (None, [field]) => field.clone(),
        (None, fields) => {
            format!("{}_and_{}_more", fields.first().map_or("", String::as_str), fields.len().saturating_sub(1))
        }
    };
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("{METHOD}_{name}")
}

fn key_of(keys: &[(String, ObjectId)], document: &Document) -> Option<String> {
    let id = document.get_object_id("_id").ok()?;
    keys.iter().find(|(_, other)| *other == id).map(|(key, _)| key.clone())
}

fn texts(document: &Document, key: &str) -> Vec<String> {
    document.get_array(key).into_iter().flatten().filter_map(Bson::as_str).map(ToOwned::to_owned).collect()
}

fn stored_run(key: String, id: ObjectId, document: &Document) -> StoredRun {
    let config = document.get_document("config").cloned().unwrap_or_default();
    StoredRun {
        id,
        key,
        timestamp: document.get_datetime("timestamp").ok().and_then(|at| at.try_to_rfc3339_string().ok()).unwrap_or_default(),
        fields: texts(&config, "fields"),
        folders: texts(&config, "output_folders").into_iter().map(PathBuf::from).collect(),
        config: match serde_json::to_value(config) {
            Ok(Value::Object(config)) => config,
            _ => Map::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(job: Option<&str>, fields: &[&str]) -> RunNote {
        let details = [("started".to_owned(), "now".into()), ("model".to_owned(), "m".into())].into_iter().collect();
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        RunNote { job: job.map(Into::into), fields, folder: Some("/maps".into()), part: None, details }
    }

    #[test]
    fn keys_are_python_identifiers_that_name_the_job() {
        assert_eq!(run_key(&note(Some("people-2"), &["a"])), "camflow_people_2");
        assert_eq!(run_key(&note(None, &["person_grad_layer_4"])), "camflow_person_grad_layer_4");
        assert_eq!(run_key(&note(None, &["person_1", "person_2", "person_3"])), "camflow_person_1_and_2_more");
    }
}
