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

use std::{collections::BTreeSet, path::PathBuf};

use bson::{Bson, Document, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use serde_json::{Map, Value};

use super::{
    dataset::Dataset, error::Error, failures::FailureKey, lock::is_duplicate, retry::with_retries, run_update::RunUpdate,
    shard::Shard,
};

/// How FiftyOne tells whose runs they are: `dataset.list_runs(method="camflow")`.
pub(super) const METHOD: &str = "camflow";

/// Keys to try: others may have taken the first ones for runs of their own.
const KEYS: usize = 100;

/// What there is to note of a run.
#[derive(Clone, Debug)]
pub struct RunNote {
    /// The job's name, if it has one.
    pub job: Option<String>,
    /// The fields that it writes; at least one.
    pub fields: Vec<String>,
    /// The folder of its files, if it writes any.
    pub folder: Option<PathBuf>,
    /// What part of the samples it was about, if not all.
    pub part: Option<Part>,
    /// Everything else, by name. Numbers below `counts` are added up over the shards of a round.
    pub details: Map<String, Value>,
}

/// A shard's place in the record of its job.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Which shard.
    pub shard: Shard,
    /// Whether it came to its end, so that the round needs it no more.
    pub is_done: bool,
    /// Whether it changed nothing: then it only adds to a round that lacks it.
    pub is_idle: bool,
}

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

impl Dataset {
    /// The runs of camflow's that the dataset knows, by key.
    ///
    /// # Errors
    /// The database fails, or the dataset is gone.
    pub fn runs(&self) -> Result<Vec<StoredRun>, Error> {
        let keys = self.run_keys()?;
        let ids: Vec<ObjectId> = keys.iter().map(|(_, id)| *id).collect();
        let documents = self.run_documents(doc! {"_id": {"$in": ids}, "config.method": METHOD})?;
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
    pub fn has_run(&self, note: &RunNote) -> Result<bool, Error> {
        let keys = self.run_keys()?;
        let known = self.run_documents(identity(self.id, note))?;
        Ok(known.iter().any(|document| key_of(&keys, document).is_some()))
    }

    /// Notes a run: makes the job's record, or brings it up to date; returns its key. Fields and folders of earlier runs of the
    /// job stay in it.
    ///
    /// # Errors
    /// The database fails, or the dataset is gone.
    pub fn note_run(&self, note: &RunNote) -> Result<String, Error> {
        let keys = self.run_keys()?;
        let mut known = self.run_documents(identity(self.id, note))?;
        // One that was never given its key comes last.
        known.sort_by_key(|document| key_of(&keys, document).is_none());
        let known = known.first();
        let id = known
            .and_then(|document| document.get_object_id("_id").ok())
            .unwrap_or_else(|| run_id(self.id, note.job.as_deref(), &note.fields));
        let update = RunUpdate::new(note);
        if let Some(key) = known.and_then(|document| key_of(&keys, document)) {
            self.put_run(id, &key, &update)?;
            return Ok(key);
        }
        let wanted = run_key(note);
        for number in 1..=KEYS {
            let key = if number == 1 { wanted.clone() } else { format!("{wanted}_{number}") };
            if keys.iter().any(|(taken, other)| *taken == key && *other != id) {
                continue;
            }
            self.put_run(id, &key, &update)?;
            if self.refer_to_run(&key, id)? {
                return Ok(key);
            }
            if let Err(gone) = with_retries(|| self.check_exists()) {
                self.delete_run_documents(doc! {"_id": id})?;
                return Err(gone);
            }
        }
        let reason = format!("all keys from `{wanted}` on are taken by other runs");
        Err(Error::MalformedDataset { name: self.name.clone(), reason })
    }

    /// Takes records of runs away, and fields out of the others.
    ///
    /// # Errors
    /// The database fails.
    pub fn forget_runs(&self, runs: &[StoredRun], fields: &[String]) -> Result<(), Error> {
        for run in runs {
            let key = format!("runs.{}", run.key);
            let update = doc! {"$unset": {&key: ""}, "$currentDate": {"last_modified_at": true}};
            self.update_datasets(doc! {"_id": self.id, &key: run.id}, update)?;
            self.delete_run_documents(doc! {"_id": run.id})?;
            self.forget_failures(FailureKey::new(self.id, run.id))?;
        }
        let mine = doc! {"_dataset_id": self.id, "config.method": METHOD};
        with_retries(|| {
            let (mine, update) = (mine.clone(), doc! {"$pull": {"config.fields": {"$in": fields}}});
            self.database.run(&self.noting(), async { self.run_collection().update_many(mine, update).await })
        })?;
        // Those that were never given a key, and now name nothing.
        let referred: Vec<ObjectId> = self.run_keys()?.into_iter().map(|(_, id)| id).collect();
        let mut nameless = mine;
        nameless.extend(doc! {"_id": {"$nin": referred}, "config.fields": {"$size": 0}});
        self.delete_run_documents(nameless)
    }

    /// The keys in the dataset's document, of all runs.
    fn run_keys(&self) -> Result<Vec<(String, ObjectId)>, Error> {
        let found = with_retries(|| {
            self.database.run(&format!("reading the runs of dataset `{}`", self.name), async {
                let datasets = self.database.collection::<Document>("datasets");
                datasets.find_one(doc! {"_id": self.id}).projection(doc! {"runs": 1}).await
            })
        })?;
        let Some(found) = found else { return Err(Error::DatasetGone { name: self.name.clone() }) };
        let runs = found.get_document("runs").cloned().unwrap_or_default();
        Ok(runs.into_iter().filter_map(|(key, id)| Some((key, id.as_object_id()?))).collect())
    }

    fn run_documents(&self, query: Document) -> Result<Vec<Document>, Error> {
        with_retries(|| {
            let query = query.clone();
            self.database.run(&format!("reading the runs of dataset `{}`", self.name), async {
                self.run_collection().find(query).sort(doc! {"_id": 1}).await?.try_collect().await
            })
        })
    }

    /// Writes the document; what people added to it stays.
    fn put_run(&self, id: ObjectId, key: &str, update: &RunUpdate) -> Result<(), Error> {
        let update = update.pipeline(self.id, key, self.version());
        let put = || {
            let update = update.clone();
            self.database
                .run(&self.noting(), async { self.run_collection().update_one(doc! {"_id": id}, update).upsert(true).await })
        };
        match with_retries(put) {
            // Another shard made it at the same moment.
            Err(Error::Driver { source, .. }) if is_duplicate(&source) => with_retries(put),
            put => put,
        }
        .map(drop)
    }

    /// Whether the key could be set.
    fn refer_to_run(&self, key: &str, id: ObjectId) -> Result<bool, Error> {
        let key = format!("runs.{key}");
        // Ours already, if the answer to the first attempt was lost.
        let query = doc! {"_id": self.id, "$or": [{&key: {"$exists": false}}, {&key: id}]};
        self.update_datasets(query, doc! {"$set": {&key: id}, "$currentDate": {"last_modified_at": true}})
    }

    /// Whether a dataset matched.
    fn update_datasets(&self, query: Document, update: Document) -> Result<bool, Error> {
        with_retries(|| {
            let (query, update) = (query.clone(), update.clone());
            self.database
                .run(&self.noting(), async { self.database.collection::<Document>("datasets").update_one(query, update).await })
        })
        .map(|updated| updated.matched_count > 0)
    }

    fn delete_run_documents(&self, query: Document) -> Result<(), Error> {
        with_retries(|| {
            let query = query.clone();
            self.database.run(&self.noting(), async { self.run_collection().delete_many(query).await })
        })
        .map(drop)
    }

    fn run_collection(&self) -> mongodb::Collection<Document> {
        self.database.collection("runs")
    }

    fn noting(&self) -> String {
        format!("noting a run in dataset `{}`", self.name)
    }
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

/// The same for all processes that do the job, whichever of them makes the record.
pub(super) fn run_id(dataset: ObjectId, job: Option<&str>, fields: &[String]) -> ObjectId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&dataset.bytes());
    let fields: BTreeSet<&str> = fields.iter().map(String::as_str).collect();
    let known_by = match job {
        Some(job) => format!("job\0{job}"),
        None => fields.into_iter().flat_map(|field| ["field\0", field, "\0"]).collect(),
    };
    hasher.update(known_by.as_bytes());
    let mut bytes = [0; 12];
    hasher.finalize_xof().fill(&mut bytes);
    ObjectId::from_bytes(bytes)
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
