//! Changing single labels that are still what they were when they were read, under the fence of a lock.

use bson::{Bson, Document, RawDocumentBuf, doc};

use super::{dataset::Dataset, durability::durable_concern, error::Error, lock::Lock};

/// Labels per command.
const BATCH: usize = 1000;

/// A change of one label.
#[derive(Clone, Debug)]
pub(super) struct LabelChange {
    /// The sample, and what the label is to say still. A label that was changed so must not fit any more.
    pub(super) query: Document,
    /// The stages of the update.
    pub(super) update: Vec<Document>,
}

/// Makes the changes; a label that says something else by now keeps it. The count of those that were made may be too low if a
/// connection was lost.
///
/// # Errors
/// The lock was lost, or the database fails.
pub(super) fn change_labels(dataset: &Dataset, changes: &[LabelChange], lock: &Lock, doing: &str) -> Result<u64, Error> {
    let samples = dataset.database.collection::<RawDocumentBuf>(&dataset.samples);
    let mut changed = 0;
    for part in changes.chunks(BATCH) {
        lock.fenced(|fence| {
            let update = |LabelChange { query, update }: &LabelChange| {
                let mut query = query.clone();
                query.insert("$expr", fence.condition());
                Bson::Document(doc! {"q": query, "u": update, "multi": false})
            };
            let updates: Vec<Bson> = part.iter().map(update).collect();
            let command =
                doc! {"update": &dataset.samples, "ordered": false, "updates": updates, "writeConcern": durable_concern()};
            let reply = dataset.database.run(doing, async { dataset.database.mongodb().run_command(command).await })?;
            changed += reply.get_i32("nModified").map_or(0, |count| u64::from(count.unsigned_abs()));
            let unchanged: Vec<&Document> = part.iter().map(|change| &change.query).collect();
            let unchanged = samples.find_one(doc! {"$or": unchanged}).projection(doc! {"_id": 1});
            Ok(dataset.database.run(doing, async { unchanged.await })?.is_none())
        })?;
    }
    Ok(changed)
}
