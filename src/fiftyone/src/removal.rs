//! Taking heatmap fields away: from every sample first, and only then from the schema. A sample with a key that the schema lacks
//! would make the dataset unreadable for FiftyOne.
//!
//! Only camflow's labels go. A heatmap that somebody else put into the field stays, and with it the field.

use bson::{Bson, Document, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use mongodb::options::{Acknowledgment, WriteConcern};

use super::{
    dataset::Dataset,
    error::Error,
    lock::{Fence, Lock},
    retry::with_retries,
    schema::HEATMAP,
};

/// Samples per command.
const BATCH: usize = 1000;

/// How often a change is made again that came after the end of the lease.
const ATTEMPTS: usize = 5;

/// What a heatmap field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldContent {
    /// Its name.
    pub field: String,
    /// Samples with a heatmap of camflow's.
    pub num_ours: u64,
    /// Samples with something else.
    pub num_others: u64,
}

impl Dataset {
    /// What these fields hold.
    ///
    /// # Errors
    /// The database fails.
    pub fn field_contents(&self, fields: &[String]) -> Result<Vec<FieldContent>, Error> {
        let mut group = doc! {"_id": null};
        for (index, field) in fields.iter().enumerate() {
            let count = |condition: Document| doc! {"$sum": {"$cond": [condition, 1, 0]}};
            group.insert(format!("ours_{index}"), count(is_ours(field)));
            group.insert(format!("others_{index}"), count(doc! {"$not": [{"$or": [is_ours(field), is_nothing(field)]}]}));
        }
        let found = with_retries(|| {
            let pipeline = vec![doc! {"$group": group.clone()}];
            self.database.run(&format!("counting the heatmaps of dataset `{}`", self.name), async {
                let samples = self.database.collection::<Document>(&self.samples);
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
    pub fn unset_heatmaps(&self, fields: &[String], lock: &Lock, is_cancelled: &dyn Fn() -> bool) -> Result<(), Error> {
        if fields.is_empty() {
            return Ok(());
        }
        // Samples with nothing to take away are not touched.
        let holds =
            |field: &String| [doc! {format!("{field}.fingerprint"): {"$type": "string"}}, doc! {field: {"$type": "null"}}];
        let holds: Vec<Document> = fields.iter().flat_map(holds).collect();
        let mut set = doc! {"last_modified_at": "$$NOW"};
        for field in fields {
            let goes = doc! {"$or": [is_ours(field), is_nothing(field)]};
            set.insert(field, doc! {"$cond": [goes, "$$REMOVE", format!("${field}")]});
        }
        let update = vec![doc! {"$set": set}];
        let samples = self.database.collection::<Document>(&self.samples);
        let doing = format!("taking heatmaps away from the samples of dataset `{}`", self.name);
        let mut last: Option<ObjectId> = None;
        while !is_cancelled() {
            let page = self.sample_page(&doc! {"$or": &holds}, last, &doc! {"_id": 1}, BATCH, &doing)?;
            let ids: Vec<ObjectId> = page.iter().filter_map(|sample| sample.get_object_id("_id").ok()).collect();
            let Some(end) = ids.last() else { break };
            last = Some(*end);
            self.fenced(lock, |fence| {
                let query = doc! {"_id": {"$in": &ids}, "$expr": fence.condition()};
                let update = update.clone();
                let done =
                    self.database.run(&doing, async { samples.update_many(query, update).write_concern(durable()).await })?;
                Ok(done.matched_count > 0 || !self.is_any_there(&ids, &doing)?)
            })?;
        }
        Ok(())
    }

    /// Takes these fields out of the schema where no sample has them any more; returns those that stay.
    ///
    /// # Errors
    /// The lock on the fields was lost, or the database fails.
    pub fn drop_fields(&self, fields: &[String], lock: &Lock) -> Result<Vec<String>, Error> {
        let mut kept = Vec::new();
        let datasets = self.database.collection::<Document>("datasets");
        for field in fields {
            let doing = format!("removing field `{field}` from dataset `{}`", self.name);
            let entry = doc! {"name": field, "embedded_doc_type": HEATMAP};
            if self.is_used(field, &doing)? {
                kept.push(field.clone());
                continue;
            }
            let stored = with_retries(|| {
                let query = doc! {"_id": self.id, "sample_fields": {"$elemMatch": &entry}};
                self.database.run(&doing, async { datasets.find_one(query).projection(doc! {"sample_fields.$": 1}).await })
            })?;
            self.fenced(lock, |fence| self.remove_field(field, &fence, &doing))?;
            // Somebody may have used the field until this moment; without its entry FiftyOne could not read the dataset.
            let stored = stored.as_ref().and_then(|stored| stored.get_array("sample_fields").ok()?.first().cloned());
            if let Some(stored) = stored
                && self.is_used(field, &doing)?
            {
                with_retries(|| {
                    let query = doc! {"_id": self.id, "sample_fields.name": {"$ne": field}};
                    let update = doc! {"$push": {"sample_fields": &stored}, "$currentDate": {"last_modified_at": true}};
                    self.database.run(&doing, async { datasets.update_one(query, update).await })
                })?;
                kept.push(field.clone());
            }
        }
        Ok(kept)
    }

    /// Changes something under the fence of the lock, again and again until that falls into its time.
    pub(super) fn fenced(&self, lock: &Lock, mut change: impl FnMut(Fence) -> Result<bool, Error>) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let fence = lock.check()?;
            if with_retries(|| change(fence.clone()))? {
                return Ok(());
            }
        }
        Err(Error::OutOfTime { dataset: self.name.clone() })
    }

    /// Takes a field out of the schema, as FiftyOne's `delete_sample_field` does; `false` if that came too late for the fence.
    fn remove_field(&self, field: &str, fence: &Fence, doing: &str) -> Result<bool, Error> {
        let update = doc! {
            "$pull": {"sample_fields": {"name": field, "embedded_doc_type": HEATMAP}},
            "$currentDate": {"last_modified_at": true},
        };
        let query = doc! {"_id": self.id, "$expr": fence.condition()};
        let datasets = self.database.collection::<Document>("datasets");
        let done = self.database.run(doing, async { datasets.update_one(query, update).await })?;
        if done.matched_count == 0 {
            self.check_exists()?;
        }
        Ok(done.matched_count > 0)
    }

    fn is_any_there(&self, ids: &[ObjectId], doing: &str) -> Result<bool, Error> {
        let samples = self.database.collection::<Document>(&self.samples);
        let found = samples.find_one(doc! {"_id": {"$in": ids}}).projection(doc! {"_id": 1});
        Ok(self.database.run(doing, async { found.await })?.is_some())
    }

    fn is_used(&self, field: &str, doing: &str) -> Result<bool, Error> {
        let samples = self.database.collection::<Document>(&self.samples);
        let found = with_retries(|| {
            let find = samples.find_one(doc! {field: {"$exists": true}}).projection(doc! {"_id": 1});
            self.database.run(doing, async { find.await })
        })?;
        Ok(found.is_some())
    }
}

/// The same for a command.
pub(super) fn durable_concern() -> Document {
    doc! {"w": "majority", "j": true}
}

/// The labels' files are removed next: a server that crashed must not bring the labels back.
fn durable() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

/// Whether the field holds a heatmap of camflow's.
fn is_ours(field: &str) -> Document {
    doc! {"$eq": [{"$type": format!("${field}.fingerprint")}, "string"]}
}

fn is_nothing(field: &str) -> Document {
    doc! {"$in": [{"$type": format!("${field}")}, ["missing", "null"]]}
}
