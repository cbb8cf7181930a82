//! Reading a dataset's samples page by page, each of which may be asked for again.

use bson::{Document, RawDocumentBuf, doc, oid::ObjectId};
use futures_util::TryStreamExt;

use super::{dataset::Dataset, error::Error, retry::with_retries};

/// The first so many of the samples that `query` chooses, after one of them, in the order of their ids.
///
/// # Errors
/// The database fails.
pub(super) fn sample_page(
    dataset: &Dataset,
    query: &Document,
    after: Option<ObjectId>,
    projection: &Document,
    limit: usize,
    doing: &str,
) -> Result<Vec<RawDocumentBuf>, Error> {
    let after = after.map_or_else(Document::new, |after| doc! {"_id": {"$gt": after}});
    let samples = dataset.database.collection::<RawDocumentBuf>(&dataset.samples);
    with_retries(|| {
        let found = samples.find(doc! {"$and": [after.clone(), query.clone()]}).projection(projection.clone());
        let found = found.sort(doc! {"_id": 1}).limit(limit as i64).batch_size(limit as u32);
        dataset.database.run(doing, async { found.await?.try_collect().await })
    })
}
