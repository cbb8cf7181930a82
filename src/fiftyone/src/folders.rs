//! The output folders that a database knows, by their identity: what is mounted at a path now need not be what was written to.

use std::path::Path;

use bson::{Document, doc};

use super::{dataset::Dataset, driver_error::is_duplicate, error::Error, retry::with_retries};

/// A collection beside FiftyOne's own: a document for each folder, with the places where datasets have written to it.
const COLLECTION: &str = "camflow.folders";

/// The identity of the output folder that this dataset's heatmaps were written to under this path.
///
/// # Errors
/// The database fails.
pub fn folder_at(dataset: &Dataset, path: &Path) -> Result<Option<String>, Error> {
    let place = doc! {"dataset": dataset.id, "path": path.to_string_lossy().as_ref()};
    let found = find_folder(dataset, doc! {"places": {"$elemMatch": place}})?;
    Ok(found.and_then(|folder| folder.get_str("_id").ok().map(str::to_owned)))
}

/// Whether this dataset's heatmaps were written to the folder of this identity.
///
/// # Errors
/// The database fails.
pub fn knows_folder(dataset: &Dataset, identity: &str) -> Result<bool, Error> {
    Ok(find_folder(dataset, doc! {"_id": identity, "places.dataset": dataset.id})?.is_some())
}

/// Notes that this dataset's heatmaps are written to the folder of this identity under this path, and to no other one there.
///
/// # Errors
/// The database fails.
pub fn note_folder(dataset: &Dataset, identity: &str, path: &Path) -> Result<(), Error> {
    let place = doc! {"dataset": dataset.id, "path": path.to_string_lossy().as_ref()};
    let folders = dataset.database.collection::<Document>(COLLECTION);
    let note = || {
        dataset.database.run("noting the output folder", async {
            folders.update_one(doc! {"_id": identity}, doc! {"$addToSet": {"places": &place}}).upsert(true).await?;
            let others = doc! {"_id": {"$ne": identity}, "places": &place};
            folders.update_many(others, doc! {"$pull": {"places": &place}}).await.map(drop)
        })
    };
    with_retries(|| match note() {
        // Two who make the document at once: then it is there.
        Err(Error::Driver { source, .. }) if is_duplicate(&source) => note(),
        done => done,
    })
}

fn find_folder(dataset: &Dataset, query: Document) -> Result<Option<Document>, Error> {
    with_retries(|| {
        let query = query.clone();
        dataset.database.run("looking for the output folder", async {
            dataset.database.collection::<Document>(COLLECTION).find_one(query).projection(doc! {"_id": 1}).await
        })
    })
}
