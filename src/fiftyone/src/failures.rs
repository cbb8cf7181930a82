//! Failures that runs of a job have left, in a collection beside FiftyOne's own: a document for each sample, by dataset, job and
//! sample, with a digest of what it came of. They say only which failures are no news; samples themselves say what is to be done.

use std::collections::HashMap;

use bson::{Bson, Document, doc, oid::ObjectId};
use futures_util::TryStreamExt;

use super::{
    dataset::Dataset,
    error::Error,
    retry::with_retries,
    run_note::run_id,
    upkeep::{SampleIds, siblings},
};
use camflow_pipeline::{FailureCause, KnownFailures};

/// The collection.
const COLLECTION: &str = "camflow.failures";

/// Documents per command.
const BATCH: usize = 1000;

/// A job's place in the collection.
#[derive(Clone, Copy, Debug)]
pub struct FailureKey {
    dataset: ObjectId,
    job: ObjectId,
}

impl FailureKey {
    pub(super) fn new(dataset: ObjectId, job: ObjectId) -> Self {
        FailureKey { dataset, job }
    }

    /// As a text, so that the index of ids finds what belongs to a job.
    fn id(self, sample: &str) -> String {
        format!("{}/{}/{sample}", self.dataset.to_hex(), self.job.to_hex())
    }

    /// Finds all of the job. `0` comes after `/`.
    fn all(self) -> Document {
        let start = self.id("");
        let end = format!("{}0", start.trim_end_matches('/'));
        doc! {"_id": {"$gte": start, "$lt": end}}
    }
}

/// Where the failures of a job are kept: the job is known by its name, or by its fields if it has none.
pub fn failure_key(dataset: &Dataset, job: Option<&str>, fields: &[String]) -> FailureKey {
    FailureKey::new(dataset.id, run_id(dataset.id, job, fields))
}

/// What earlier runs of the job have left.
///
/// # Errors
/// The database fails.
pub fn known_failures(dataset: &Dataset, key: FailureKey) -> Result<KnownFailures, Error> {
    let doing = format!("reading the known failures of dataset `{}`", dataset.name);
    let documents: Vec<Document> = with_retries(|| {
        dataset.database.run(&doing, async {
            let failures = dataset.database.collection::<Document>(COLLECTION);
            failures.find(key.all()).projection(doc! {"cause": 1}).await?.try_collect().await
        })
    })?;
    let known = |document: &Document| {
        let sample = document.get_str("_id").ok()?.rsplit('/').next()?.to_owned();
        Some((sample, document.get_str("cause").ok()?.parse::<FailureCause>().ok()?))
    };
    Ok(KnownFailures::new(documents.iter().filter_map(known).collect::<HashMap<_, _>>()))
}

/// Forgets what did not fail any more and, if `is_complete`, notes what is new. A run that was cut short says only what is well:
/// where a disk is missing, every sample fails, and none of them is a failure to expect.
///
/// # Errors
/// The database fails.
pub fn note_failures(dataset: &Dataset, key: FailureKey, known: &KnownFailures, is_complete: bool) -> Result<(), Error> {
    let doing = format!("noting the failures of dataset `{}`", dataset.name);
    let healed: Vec<String> = known.healed().map(|sample| key.id(sample)).collect();
    delete_failures(dataset, &doing, &healed)?;
    let noted: Vec<_> = known.noted().filter(|_| is_complete).collect();
    for part in noted.chunks(BATCH) {
        let update = |(sample, cause): &(&str, FailureCause)| {
            let set = doc! {"dataset": dataset.id, "cause": cause.to_string(), "since": "$$NOW"};
            Bson::from(doc! {"q": {"_id": key.id(sample)}, "u": [{"$set": set}], "upsert": true})
        };
        let updates: Vec<Bson> = part.iter().map(update).collect();
        let command = doc! {"update": COLLECTION, "ordered": false, "updates": updates};
        with_retries(|| {
            let command = command.clone();
            dataset.database.run(&doing, async { dataset.database.mongodb().run_command(command).await })
        })?;
    }
    Ok(())
}

/// Forgets the failures of a job.
pub(super) fn forget_failures(dataset: &Dataset, key: FailureKey) -> Result<(), Error> {
    delete_failures_of(dataset, &format!("forgetting the failures of dataset `{}`", dataset.name), key.all())
}

/// Forgets the failures of samples that the dataset does not have any more, and of datasets that are gone.
///
/// # Errors
/// The database fails.
pub fn tidy_failures(dataset: &Dataset, ids: &SampleIds) -> Result<(), Error> {
    let doing = "looking for failures of deleted samples";
    let siblings = siblings(dataset)?;
    let siblings: Vec<ObjectId> = siblings.iter().filter_map(|id| ObjectId::parse_str(id).ok()).collect();
    delete_failures_of(dataset, doing, doc! {"dataset": {"$nin": siblings}})?;
    let documents: Vec<Document> = with_retries(|| {
        dataset.database.run(doing, async {
            let failures = dataset.database.collection::<Document>(COLLECTION);
            failures.find(doc! {"dataset": dataset.id}).projection(doc! {"_id": 1}).await?.try_collect().await
        })
    })?;
    let of_deleted = |id: &&str| id.rsplit('/').next().is_some_and(|sample| !ids.contains(sample));
    let deleted = documents.iter().filter_map(|document| document.get_str("_id").ok()).filter(of_deleted);
    delete_failures(dataset, doing, &deleted.map(ToOwned::to_owned).collect::<Vec<_>>())
}

fn delete_failures(dataset: &Dataset, doing: &str, ids: &[String]) -> Result<(), Error> {
    ids.chunks(BATCH).try_for_each(|part| delete_failures_of(dataset, doing, doc! {"_id": {"$in": part}}))
}

fn delete_failures_of(dataset: &Dataset, doing: &str, query: Document) -> Result<(), Error> {
    with_retries(|| {
        let query = query.clone();
        dataset.database.run(doing, async { dataset.database.collection::<Document>(COLLECTION).delete_many(query).await })
    })
    .map(drop)
}
