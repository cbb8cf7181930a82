//! The samples of a selection, as the first stage of a run reads them.
//!
//! Each page is a query of its own that goes on after the last `_id`, rather than a part of one long cursor: the server
//! forgets a cursor after ten minutes, which a batch on a slow device can take, and a lost connection costs nothing but
//! the page.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use bson::{Document, RawDocumentBuf, doc, oid::ObjectId};
use futures_util::TryStreamExt;

use super::{
    dataset::Dataset,
    error::Error,
    label_field::{LabelField, command_code},
    retry::with_retries,
    stored_sample::SampleReader,
};
use crate::{
    names::backticked,
    pipeline::{RunError, SelectedSample, Source},
};

/// Samples per page: enough to make the round trip cheap, few enough that the next stages get work at once.
const PAGE: i64 = 100;

/// A page ends early when it holds this much: in-document masks of large images are a megabyte each, and the pages wait
/// in memory.
const PAGE_BYTES: usize = 8 << 20;

/// Ids per query. A query has to fit into 16 MiB, and an id with its key takes about 20 bytes; shorter lists are also
/// planned faster.
const IDS: usize = 10_000;

/// Counting is for the progress bar only; an unindexed match on a large dataset is not worth waiting longer for.
const COUNTING: Duration = Duration::from_secs(20);

/// Which samples, and what of them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The label field to read; `None` when no label says where the classes are.
    pub label: Option<LabelField>,
    /// Names of the heatmap fields whose present content is read along.
    pub heatmap_fields: Vec<String>,
    /// Samples with any of these tags; empty for all.
    pub tags: Vec<String>,
    /// Samples of these ids (a view's, say); `None` for all. Their order is not kept.
    pub ids: Option<Vec<String>>,
    /// A MongoDB query as JSON, as FiftyOne's `match` takes it.
    pub matching: Option<String>,
    /// Slices of a grouped dataset; empty for all that hold images.
    pub slices: Vec<String>,
    /// This part of the dataset only, for several machines.
    pub shard: Option<Shard>,
    /// Leave out this many samples.
    pub offset: u64,
    /// No more than this many samples.
    pub limit: Option<u64>,
}

/// One of several parts of a dataset that together make the whole, without overlap.
///
/// FiftyOne gives each sample a random number in `[0, 1)` that never changes; the parts are ranges of it, hence the
/// same whatever is added or deleted meanwhile, and about equal in size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 0.
    pub index: u32,
    /// How many parts there are.
    pub count: u32,
}

/// Reads the samples of a selection in the order of their ids.
#[derive(Debug)]
pub struct SampleSource {
    dataset: Dataset,
    reader: SampleReader,
    filter: Document,
    /// Lists of ids still to be read, in ascending order; without a list of ids a single `None`.
    parts: VecDeque<Option<Vec<ObjectId>>>,
    last: Option<ObjectId>,
    offset: u64,
    /// How many samples may still be returned.
    left: u64,
    seq: u64,
    num_samples: Option<u64>,
    notices: Vec<String>,
}

impl SampleSource {
    pub(super) fn new(dataset: Dataset, selection: Selection) -> Result<Self, Error> {
        let filter = filter(&dataset, &selection)?;
        let parts = match &selection.ids {
            None => VecDeque::from([None]),
            Some(ids) => parse_ids(&dataset, ids)?.chunks(IDS).map(|part| Some(part.to_vec())).collect(),
        };
        let mut source = SampleSource {
            reader: SampleReader::new(selection.label, selection.heatmap_fields),
            filter,
            parts,
            last: None,
            offset: selection.offset,
            left: selection.limit.unwrap_or(u64::MAX),
            seq: 0,
            num_samples: None,
            notices: Vec::new(),
            dataset,
        };
        source.num_samples = source.count()?.map(|count| count.saturating_sub(source.offset).min(source.left));
        if let (Some(0), true) = (source.num_samples, source.offset == 0 && source.left > 0) {
            source.notices.push(format!("the selection matches no sample of dataset `{}`", source.dataset.name));
        }
        Ok(source)
    }

    /// What the user should know about the selection, lowercase, without a period.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// How many samples match; `None` where counting takes too long. Also the first trial of the user's query.
    fn count(&mut self) -> Result<Option<u64>, Error> {
        /// MaxTimeMSExpired.
        const TOO_LONG: i32 = 50;
        let dataset = &self.dataset;
        let doing = format!("counting the samples of dataset `{}`", dataset.name);
        let samples = dataset.database.collection::<Document>(&dataset.samples);
        if self.filter.is_empty() && self.parts == [None] {
            return dataset.database.run(&doing, async { samples.estimated_document_count().await }).map(Some);
        }
        let (mut count, mut known, mut asked) = (0, 0, 0);
        for part in &self.parts {
            if let Some(ids) = part {
                // Ids that are not there are a slip of the user's; ids that the rest of the selection excludes are not.
                asked += ids.len() as u64;
                known += dataset.database.run(&doing, async { samples.count_documents(doc! {"_id": {"$in": ids}}).await })?;
            }
            let query = query(&self.filter, part.as_deref(), None);
            match dataset.database.run(&doing, async { samples.count_documents(query).max_time(COUNTING).await }) {
                Ok(counted) => count += counted,
                Err(Error::Driver { source, .. }) if command_code(&source) == Some(TOO_LONG) => return Ok(None),
                Err(error) => return Err(refused_query(dataset, error)),
            }
        }
        if known < asked {
            self.notices.push(format!("{} of the {asked} ids are not in dataset `{}`", asked - known, dataset.name));
        }
        Ok(Some(count))
    }

    /// The next page of documents, in the order of their ids; empty only at the end of the selection.
    fn next_page(&mut self) -> Result<Vec<RawDocumentBuf>, Error> {
        while let Some(part) = self.parts.front() {
            let query = query(&self.filter, part.as_deref(), self.last);
            let limit = PAGE.min(i64::try_from(self.left).unwrap_or(PAGE));
            let page = if limit == 0 { Vec::new() } else { with_retries(|| self.fetch(&query, limit))? };
            if let Some(document) = page.last() {
                self.last = Some(document.get_object_id("_id").map_err(|_| Error::MalformedDataset {
                    name: self.dataset.name.clone(),
                    reason: "a sample's `_id` is not an id of FiftyOne's".to_owned(),
                })?);
                self.left -= page.len() as u64;
                self.offset = 0;
                return Ok(page);
            }
            // An offset beyond this part leaves its rest to the next one; see `fetch`.
            if self.offset > 0 && limit > 0 && self.parts.len() > 1 {
                let counted = with_retries(|| self.count_part(&query))?;
                self.offset = self.offset.saturating_sub(counted);
            }
            self.parts.pop_front();
        }
        Ok(Vec::new())
    }

    fn fetch(&self, query: &Document, limit: i64) -> Result<Vec<RawDocumentBuf>, Error> {
        self.dataset.database.run(&format!("reading samples of dataset `{}`", self.dataset.name), async {
            // A reply is 16 MiB at most; the driver asks for more as needed, and the rest of a page that ends early is
            // dropped.
            let mut cursor = self
                .dataset
                .database
                .collection::<RawDocumentBuf>(&self.dataset.samples)
                .find(query.clone())
                .projection(self.reader.projection())
                .sort(doc! {"_id": 1})
                .skip(self.offset)
                .limit(limit)
                .await?;
            let (mut page, mut bytes) = (Vec::new(), 0);
            while bytes < PAGE_BYTES {
                let Some(document) = cursor.try_next().await? else { break };
                bytes += document.as_bytes().len();
                page.push(document);
            }
            Ok(page)
        })
    }

    fn count_part(&self, query: &Document) -> Result<u64, Error> {
        self.dataset.database.run(&format!("counting the samples of dataset `{}`", self.dataset.name), async {
            self.dataset.database.collection::<Document>(&self.dataset.samples).count_documents(query.clone()).await
        })
    }
}

impl Source for SampleSource {
    fn num_samples(&self) -> Option<u64> {
        self.num_samples
    }

    fn next_samples(&mut self) -> Result<Vec<SelectedSample>, RunError> {
        let page = self.next_page()?;
        if page.is_empty() {
            // A dropped collection answers like an empty one.
            with_retries(|| self.dataset.check_exists())?;
        }
        let mut samples = Vec::with_capacity(page.len());
        for document in page {
            samples.push(self.reader.read(self.seq, &document));
            self.seq += 1;
        }
        Ok(samples)
    }
}

/// The selection as a query, without ids and position.
fn filter(dataset: &Dataset, selection: &Selection) -> Result<Document, Error> {
    let mut conditions = Vec::new();
    if !selection.tags.is_empty() {
        conditions.push(doc! {"tags": {"$in": &selection.tags}});
    }
    if let Some(query) = &selection.matching {
        conditions.push(parse_query(query).map_err(|reason| Error::Selection {
            dataset: dataset.name.clone(),
            reason,
            hint: r#"`--match` takes a MongoDB query as JSON: `{"uniqueness": {"$gt": 0.5}}`"#.to_owned(),
        })?);
    }
    if let Some(slices) = slices(dataset, &selection.slices)? {
        conditions.push(slices);
    }
    if let Some(shard) = selection.shard.filter(|shard| shard.count > 1) {
        conditions.push(shard.condition());
    }
    Ok(match conditions.len() {
        0 | 1 => conditions.pop().unwrap_or_default(),
        _ => doc! {"$and": conditions},
    })
}

fn slices(dataset: &Dataset, wanted: &[String]) -> Result<Option<Document>, Error> {
    let error = |reason: String, hint: String| Error::Selection { dataset: dataset.name.clone(), reason, hint };
    let Some(group) = dataset.group() else {
        return match wanted {
            [] => Ok(None),
            _ => Err(error("it has no slices".to_owned(), "leave out `--slices`".to_owned())),
        };
    };
    if let Some(unknown) = wanted.iter().find(|slice| !group.image_slices.contains(slice)) {
        let what = if group.other_slices.contains(unknown) { "holds no images" } else { "does not exist" };
        let hint = format!("the slices of images are {}", backticked(&group.image_slices));
        return Err(error(format!("slice `{unknown}` {what}"), hint));
    }
    let names = if wanted.is_empty() { &group.image_slices } else { wanted };
    Ok(Some(doc! {format!("{}.name", group.field): {"$in": names}}))
}

impl Shard {
    fn condition(self) -> Document {
        let bound = |index: u32| f64::from(index) / f64::from(self.count);
        let range = doc! {"_rand": {"$gte": bound(self.index), "$lt": bound(self.index + 1)}};
        match self.index {
            // A sample without the number, made by other means than FiftyOne's, still has to be somebody's.
            0 => doc! {"_rand": {"$not": {"$gte": bound(1)}}},
            _ if self.index + 1 == self.count => doc! {"_rand": {"$gte": bound(self.index)}},
            _ => range,
        }
    }
}

/// MongoDB's extended JSON, so that `{"$oid": …}` and `{"$date": …}` work.
fn parse_query(text: &str) -> Result<Document, String> {
    serde_json::from_str::<Document>(text).map_err(|error| format!("`{text}` is not a query ({error})"))
}

/// Sorted and without duplicates.
fn parse_ids(dataset: &Dataset, ids: &[String]) -> Result<Vec<ObjectId>, Error> {
    let parse = |id: &String| {
        ObjectId::parse_str(id).map_err(|_| Error::Selection {
            dataset: dataset.name.clone(),
            reason: format!("`{id}` is not a sample id"),
            hint: "an id is the 24 hexadecimal digits of `sample.id`".to_owned(),
        })
    };
    ids.iter().map(parse).collect::<Result<BTreeSet<_>, _>>().map(|sorted| sorted.into_iter().collect())
}

/// The filter, restricted to a list of ids and to what comes after an id.
fn query(filter: &Document, ids: Option<&[ObjectId]>, after: Option<ObjectId>) -> Document {
    let mut position = Document::new();
    if let Some(ids) = ids {
        // The list is sorted: what is read already need not be sent again.
        let rest = after.map_or(ids, |last| &ids[ids.partition_point(|id| *id <= last)..]);
        position.insert("$in", rest);
    } else if let Some(last) = after {
        position.insert("$gt", last);
    }
    match (filter.is_empty(), position.is_empty()) {
        (_, true) => filter.clone(),
        (true, false) => doc! {"_id": position},
        (false, false) => doc! {"$and": [{"_id": position}, filter.clone()]},
    }
}

/// The server's refusal of the user's query is the user's to mend; everything else is the database's.
fn refused_query(dataset: &Dataset, error: Error) -> Error {
    /// BadValue, FailedToParse, TypeMismatch, and expressions that cannot be evaluated.
    const BAD: [i32; 3] = [2, 9, 14];
    match &error {
        Error::Driver { source, .. } => match source.kind.as_ref() {
            mongodb::error::ErrorKind::Command(command) if BAD.contains(&command.code) || command.code > 16_000 => {
                Error::Selection {
                    dataset: dataset.name.clone(),
                    reason: format!("the server refuses the query ({})", command.message),
                    hint: r#"`--match` takes a MongoDB query as JSON: `{"uniqueness": {"$gt": 0.5}}`"#.to_owned(),
                }
            }
            _ => error,
        },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use bson::Bson;

    use super::*;

    #[test]
    fn the_parts_of_a_dataset_cover_it_without_overlap() {
        let condition = |index| Shard { index, count: 3 }.condition();
        // The first takes samples without a number as well; the last takes a 1.0 that should not be.
        assert_eq!(condition(0), doc! {"_rand": {"$not": {"$gte": 1.0 / 3.0}}});
        assert_eq!(condition(1), doc! {"_rand": {"$gte": 1.0 / 3.0, "$lt": 2.0 / 3.0}});
        assert_eq!(condition(2), doc! {"_rand": {"$gte": 2.0 / 3.0}});
    }

    #[test]
    fn queries_are_extended_json() {
        let id = "5f452489ef00e6374aac384a";
        let query = parse_query(r#"{"n": {"$gt": 3}, "_id": {"$oid": "5f452489ef00e6374aac384a"}}"#).unwrap();
        assert_eq!(query.get_object_id("_id").unwrap().to_hex(), id);
        assert!(matches!(query.get_document("n").unwrap().get("$gt"), Some(Bson::Int32(3) | Bson::Int64(3))));
        for text in ["", "[1]", "{n: 3}", "3"] {
            assert!(parse_query(text).unwrap_err().contains("is not a query"), "{text}");
        }
    }

    #[test]
    fn a_page_goes_on_after_the_last_id() {
        let ids: Vec<ObjectId> = (0u8..4).map(|n| ObjectId::from_bytes([n; 12])).collect();
        let filter = doc! {"tags": "x"};
        assert_eq!(query(&Document::new(), None, None), doc! {});
        assert_eq!(query(&Document::new(), None, Some(ids[1])), doc! {"_id": {"$gt": ids[1]}});
        assert_eq!(query(&filter, None, Some(ids[1])), doc! {"$and": [{"_id": {"$gt": ids[1]}}, {"tags": "x"}]});
        assert_eq!(query(&Document::new(), Some(&ids), Some(ids[1])), doc! {"_id": {"$in": &ids[2..]}});
    }
}
