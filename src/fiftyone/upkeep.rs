//! What `camflow clean` asks of the database: which files it refers to, which references lead nowhere, and which fields hold
//! nothing.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc, oid::ObjectId};

use super::{dataset::Dataset, error::Error, retry::with_retries, schema::HEATMAP};
use crate::pipeline::name_in_folder;

/// Labels per query and per command.
const BATCH: usize = 1000;

/// What a database refers to.
#[derive(Debug, Default)]
pub struct References {
    hasher: RandomState,
    /// Of the files' names in their folders. Eight bytes each: a million samples have millions of files. Two names that share
    /// a number would only keep a file that could go.
    files: HashSet<u64>,
    /// Of the samples of the dataset that is cleaned.
    samples: HashSet<ObjectId>,
    /// Labels of camflow's in it whose files are not there.
    pub broken: Vec<BrokenLabel>,
    /// Heatmap fields of camflow's in it that no sample has.
    pub unused: Vec<String>,
}

/// A heatmap label that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenLabel {
    sample: ObjectId,
    fingerprint: String,
    /// Its field.
    pub field: String,
    /// The file that is not there.
    pub missing: PathBuf,
}

impl BrokenLabel {
    /// The sample's id.
    pub fn sample(&self) -> String {
        self.sample.to_hex()
    }
}

impl References {
    /// Whether some label refers to a file of this name in its folder.
    pub fn contains(&self, path: &Path) -> bool {
        name_in_folder(path).is_some_and(|name| self.files.contains(&self.hasher.hash_one(name)))
    }

    /// Whether the dataset still has the sample.
    pub fn has_sample(&self, id: &str) -> bool {
        ObjectId::parse_str(id).is_ok_and(|id| self.samples.contains(&id))
    }

    fn add(&mut self, label: &RawDocument) {
        for file in files(label) {
            if let Some(name) = name_in_folder(&file) {
                self.files.insert(self.hasher.hash_one(name));
            }
        }
    }
}

/// A dataset of the database, as far as its heatmaps go.
struct Holder {
    id: ObjectId,
    samples: String,
    /// Field and key of heatmaps; whether they are camflow's.
    heatmaps: Vec<(String, bool)>,
}

impl Dataset {
    /// Everything that heatmaps in the database refer to: those of this dataset, and those of its clones and others.
    ///
    /// # Errors
    /// The database fails.
    pub fn references(&self) -> Result<References, Error> {
        self.references_without(&[])
    }

    /// The same as if camflow's labels in these fields of this dataset were gone.
    ///
    /// # Errors
    /// The database fails.
    pub fn references_without(&self, fields: &[String]) -> Result<References, Error> {
        let mut references = References::default();
        for holder in self.holders()? {
            self.read_references(&holder, fields, &mut references)?;
        }
        Ok(references)
    }

    /// The ids of all datasets in the database.
    ///
    /// # Errors
    /// The database fails.
    pub fn siblings(&self) -> Result<Vec<String>, Error> {
        let ids = with_retries(|| {
            self.database.run("listing the datasets", async {
                self.database.collection::<Document>("datasets").distinct("_id", doc! {}).await
            })
        })?;
        Ok(ids.iter().filter_map(Bson::as_object_id).map(|id| id.to_hex()).collect())
    }

    /// Whether another dataset, such as a clone of this one, has heatmaps in fields of these names: it may refer to the same
    /// files.
    ///
    /// # Errors
    /// The database fails.
    pub fn shares_heatmaps(&self, fields: &[&str]) -> Result<bool, Error> {
        let field = doc! {"embedded_doc_type": HEATMAP, "$or": [{"name": {"$in": fields}}, {"db_field": {"$in": fields}}]};
        let query = doc! {"_id": {"$ne": self.id}, "sample_fields": {"$elemMatch": field}};
        let found = with_retries(|| {
            let query = query.clone();
            self.database.run("looking for clones of the dataset", async {
                let datasets = self.database.collection::<Document>("datasets");
                datasets.find_one(query).projection(doc! {"_id": 1}).await
            })
        })?;
        Ok(found.is_some())
    }

    /// Takes labels away that lead nowhere, unless somebody has changed them; returns how many.
    ///
    /// # Errors
    /// The database fails.
    pub fn remove_labels(&self, labels: &[BrokenLabel]) -> Result<u64, Error> {
        let doing = format!("removing labels without files from dataset `{}`", self.name);
        let mut removed = 0;
        for part in labels.chunks(BATCH) {
            let update = |label: &BrokenLabel| {
                let query = doc! {"_id": label.sample, format!("{}.fingerprint", label.field): &label.fingerprint};
                let change = vec![doc! {"$unset": &label.field}, doc! {"$set": {"last_modified_at": "$$NOW"}}];
                Bson::Document(doc! {"q": query, "u": change, "multi": false})
            };
            let updates: Vec<Bson> = part.iter().map(update).collect();
            let command = doc! {"update": &self.samples, "ordered": false, "updates": updates};
            let reply = with_retries(|| {
                let command = command.clone();
                self.database.run(&doing, async { self.database.mongodb().run_command(command).await })
            })?;
            removed += reply.get_i32("nModified").map_or(0, |count| u64::from(count.unsigned_abs()));
        }
        Ok(removed)
    }

    /// Takes fields out of the schema that no sample has, as FiftyOne's `delete_sample_field` does.
    ///
    /// # Errors
    /// The database fails.
    pub fn remove_fields(&self, fields: &[String]) -> Result<(), Error> {
        let update = doc! {
            "$pull": {"sample_fields": {"name": {"$in": fields}, "embedded_doc_type": HEATMAP}},
            "$currentDate": {"last_modified_at": true},
        };
        with_retries(|| {
            let update = update.clone();
            self.database.run(&format!("removing fields from dataset `{}`", self.name), async {
                self.database.collection::<Document>("datasets").update_one(doc! {"_id": self.id}, update).await
            })
        })
        .map(drop)
    }

    fn holders(&self) -> Result<Vec<Holder>, Error> {
        let projection = doc! {"sample_collection_name": 1, "sample_fields": 1};
        let documents: Vec<Document> = with_retries(|| {
            let projection = projection.clone();
            self.database.run("listing the datasets", async {
                let datasets = self.database.collection::<Document>("datasets");
                futures_util::TryStreamExt::try_collect(datasets.find(doc! {}).projection(projection).await?).await
            })
        })?;
        Ok(documents.iter().filter_map(holder).collect())
    }

    fn read_references(&self, holder: &Holder, without: &[String], references: &mut References) -> Result<(), Error> {
        let is_this = holder.id == self.id;
        let mut used = vec![false; holder.heatmaps.len()];
        let mut last: Option<ObjectId> = None;
        while let Some(page) = self.heatmap_page(holder, last)? {
            for sample in &page {
                let Ok(id) = sample.get_object_id("_id") else { continue };
                last = Some(id);
                if is_this {
                    references.samples.insert(id);
                }
                for ((field, is_ours), used) in holder.heatmaps.iter().zip(&mut used) {
                    let Ok(label) = sample.get_document(field) else { continue };
                    *used = true;
                    let fingerprint = label.get_str("fingerprint").ok().filter(|_| is_this && *is_ours);
                    if fingerprint.is_some() && without.contains(field) {
                        continue;
                    }
                    references.add(label);
                    if let (Some(fingerprint), Some(missing)) = (fingerprint, files(label).find(|file| !file.exists())) {
                        let (field, fingerprint) = (field.clone(), fingerprint.to_owned());
                        references.broken.push(BrokenLabel { sample: id, fingerprint, field, missing });
                    }
                }
            }
        }
        if is_this {
            let unused = holder.heatmaps.iter().zip(used).filter(|((_, is_ours), used)| *is_ours && !used);
            references.unused = unused.map(|((field, _), _)| field.clone()).collect();
        }
        Ok(())
    }

    /// The next samples with what their heatmaps refer to; `None` at the end. Of other datasets only samples that have any.
    fn heatmap_page(&self, holder: &Holder, last: Option<ObjectId>) -> Result<Option<Vec<RawDocumentBuf>>, Error> {
        if holder.heatmaps.is_empty() && holder.id != self.id {
            return Ok(None);
        }
        let mut projection = doc! {"_id": 1};
        for (field, _) in &holder.heatmaps {
            projection.extend(["map_path", "npy_path", "fingerprint"].map(|key| (format!("{field}.{key}"), 1.into())));
        }
        let query = last.map_or_else(Document::new, |last| doc! {"_id": {"$gt": last}});
        let page: Vec<RawDocumentBuf> = with_retries(|| {
            let (query, projection) = (query.clone(), projection.clone());
            self.database.run(&format!("reading the heatmaps of `{}`", holder.samples), async {
                let samples = self.database.collection::<RawDocumentBuf>(&holder.samples);
                let cursor = samples.find(query).projection(projection).sort(doc! {"_id": 1}).limit(BATCH as i64).await?;
                futures_util::TryStreamExt::try_collect(cursor).await
            })
        })?;
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}

fn holder(dataset: &Document) -> Option<Holder> {
    let heatmaps = dataset.get_array("sample_fields").into_iter().flatten().filter_map(Bson::as_document);
    let heatmaps = heatmaps.filter(|entry| entry.get_str("embedded_doc_type").ok() == Some(HEATMAP)).filter_map(|entry| {
        let name = entry.get_str("db_field").or_else(|_| entry.get_str("name")).ok()?.to_owned();
        let attributes = entry.get_array("fields").into_iter().flatten().filter_map(Bson::as_document);
        let is_ours = attributes.into_iter().any(|attribute| attribute.get_str("name").ok() == Some("fingerprint"));
        Some((name, is_ours))
    });
    let samples = dataset.get_str("sample_collection_name").ok()?.to_owned();
    Some(Holder { id: dataset.get_object_id("_id").ok()?, samples, heatmaps: heatmaps.collect() })
}

fn files(label: &RawDocument) -> impl Iterator<Item = PathBuf> + '_ {
    ["map_path", "npy_path"].into_iter().filter_map(|key| label.get_str(key).ok()).map(PathBuf::from)
}
