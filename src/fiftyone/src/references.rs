//! What the database refers to: the names of heatmap files, wherever they stand in a document. This is the only place that says
//! what a reference is.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use bson::{Bson, Document, RawDocumentBuf, doc};

use super::{database::Database, dataset::Dataset, error::Error, retry::with_retries};
use camflow_storage::{FileName, keys_in};

/// Documents that are read in one go.
const BATCH: usize = 1000;

/// Collections in which FiftyOne and camflow keep no samples and frames, but what may be large.
const OTHERS: [&str; 3] = ["camflow.", "system.", "fs."];

/// The heatmap files that a database refers to.
#[derive(Debug, Default)]
pub struct References {
    hasher: RandomState,
    /// Of the files' names. Eight bytes each: a million samples have millions of files. Two names that share a number would only
    /// keep a file that could go.
    files: HashSet<u64>,
}

impl References {
    /// Reads every sample and frame of every dataset of the database, whether its dataset knows it (yet, or still) or not.
    ///
    /// # Errors
    /// The database fails.
    pub fn read(dataset: &Dataset) -> Result<References, Error> {
        References::without(dataset, &[])
    }

    /// The same as if these fields of this dataset were gone.
    ///
    /// # Errors
    /// The database fails.
    pub fn without(dataset: &Dataset, fields: &[String]) -> Result<References, Error> {
        let mut references = References::default();
        let large = large_fields(&dataset.database)?;
        for collection in sample_collections(&dataset.database)? {
            let mut without = large.get(&collection).cloned().unwrap_or_default();
            if collection == dataset.samples && !fields.is_empty() {
                let is_below = |key: &String| fields.iter().any(|field| key.starts_with(&format!("{field}.")));
                without = without.into_iter().filter(|(key, _)| !is_below(key)).collect();
                without.extend(fields.iter().map(|field| (field.clone(), Bson::from(0))));
            }
            // A collection is read again from its beginning: it only adds.
            with_retries(|| read_references(&dataset.database, &collection, &without, &mut references))?;
        }
        Ok(references)
    }

    /// Whether something refers to a file of this name, in whatever folder: the same file may be reached by several ways.
    pub fn contains(&self, name: &FileName) -> bool {
        name.key().is_some_and(|key| self.files.contains(&self.hasher.hash_one(key)))
    }

    fn add(&mut self, document: &[u8]) {
        for key in keys_in(document) {
            self.files.insert(self.hasher.hash_one(key));
        }
    }
}

fn sample_collections(database: &Database) -> Result<Vec<String>, Error> {
    let doing = "listing the collections";
    let names = with_retries(|| {
        database.run(doing, async {
            let collections = database.mongodb().list_collections().filter(doc! {"type": "collection"}).await?;
            futures_util::TryStreamExt::try_collect::<Vec<_>>(collections).await
        })
    })?;
    let names = names.into_iter().map(|collection| collection.name);
    Ok(names.filter(|name| !OTHERS.iter().any(|prefix| name.starts_with(prefix))).collect())
}

/// By collection, the keys that hold arrays of numbers, as the schemas say: masks and embeddings are most of a dataset, and no
/// text.
fn large_fields(database: &Database) -> Result<BTreeMap<String, Document>, Error> {
    let projection = doc! {"sample_collection_name": 1, "frame_collection_name": 1, "sample_fields": 1, "frame_fields": 1};
    let datasets: Vec<Document> = with_retries(|| {
        let projection = projection.clone();
        database.run("listing the datasets", async {
            let datasets = database.collection::<Document>("datasets");
            futures_util::TryStreamExt::try_collect(datasets.find(doc! {}).projection(projection).await?).await
        })
    })?;
    let mut large = BTreeMap::new();
    for dataset in &datasets {
        for (collection, fields) in [("sample_collection_name", "sample_fields"), ("frame_collection_name", "frame_fields")] {
            let Ok(collection) = dataset.get_str(collection) else { continue };
            let mut keys = Document::new();
            add_large(dataset.get_array(fields).ok(), "", &mut keys);
            large
                .entry(collection.to_owned())
                .and_modify(|known: &mut Document| {
                    // Of a collection of two datasets only what both say.
                    *known = known
                        .iter()
                        .filter(|(key, _)| keys.contains_key(key))
                        .map(|(key, one)| (key.clone(), one.clone()))
                        .collect();
                })
                .or_insert(keys);
        }
    }
    Ok(large)
}

fn read_references(database: &Database, collection: &str, without: &Document, references: &mut References) -> Result<(), Error> {
    let doing = format!("reading what `{collection}` refers to");
    let mut cursor = database.run(&doing, async {
        let documents = database.collection::<RawDocumentBuf>(collection);
        documents.find(doc! {}).projection(without.clone()).batch_size(BATCH as u32).await
    })?;
    loop {
        let is_more = database.run(&doing, async {
            for _ in 0..BATCH {
                if !cursor.advance().await? {
                    return Ok(false);
                }
                references.add(cursor.current().as_bytes());
            }
            Ok(true)
        })?;
        if !is_more {
            return Ok(());
        }
    }
}

/// Adds the keys of fields that hold arrays of numbers.
fn add_large(fields: Option<&Vec<Bson>>, prefix: &str, keys: &mut Document) {
    for field in fields.into_iter().flatten().filter_map(Bson::as_document) {
        let Ok(name) = field.get_str("db_field").or_else(|_| field.get_str("name")) else { continue };
        let key = format!("{prefix}{name}");
        let kind = field.get_str("ftype").unwrap_or_default();
        if kind.ends_with(".ArrayField") || kind.ends_with(".VectorField") {
            if !name.is_empty() && !name.contains(['.', '$']) {
                keys.insert(key, 0);
            }
        } else {
            add_large(field.get_array("fields").ok(), &format!("{key}."), keys);
        }
    }
}
