//! The samples of a selection, as the first stage of a run reads them.
//!
//! Each page is a query of its own that goes on after the last `_id`, rather than a part of one long cursor: the server
//! forgets a cursor after ten minutes, which a batch on a slow device can take, and a lost connection costs nothing but
//! the page.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bson::{Document, RawDocumentBuf, doc, oid::ObjectId};
use mongodb::Collection;

use super::{
    database::Pending,
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

/// Samples per page at first: few enough that the next stages get work at once, and that labels are not old when their
/// turn comes.
const PAGE: u64 = 100;

/// Samples per page where there is little to do for each: enough that the round trip costs next to nothing.
const LARGEST_PAGE: u64 = 1000;

/// A page that is used up within this time is followed by one twice as large, which is fetched meanwhile.
const QUICK: Duration = Duration::from_millis(100);

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
    pace: Pace,
    /// The next page, on its way.
    ahead: Option<Pending<Page>>,
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
            pace: Pace::default(),
            ahead: None,
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

    /// The next page of samples, in the order of their ids; empty only at the end of the selection.
    fn next_page(&mut self) -> Result<Vec<SelectedSample>, Error> {
        self.pace.page_used_up();
        while !self.parts.is_empty() {
            let page = if self.left == 0 { Page::default() } else { self.fetch()? };
            if !page.samples.is_empty() {
                self.last = Some(page.last.ok_or_else(|| Error::MalformedDataset {
                    name: self.dataset.name.clone(),
                    reason: "a sample's `_id` is not an id of FiftyOne's".to_owned(),
                })?);
                self.left -= page.samples.len() as u64;
                self.seq += page.samples.len() as u64;
                self.offset = 0;
                self.pace.page_taken(&page);
                if self.pace.is_quick && self.left > 0 {
                    self.ahead = Some(self.dataset.database.start(self.request().send()));
                }
                return Ok(page.samples);
            }
            self.leave_part()?;
        }
        Ok(Vec::new())
    }

    fn leave_part(&mut self) -> Result<(), Error> {
        let part = self.parts.pop_front().flatten();
        // An offset beyond this part leaves its rest to the next one; see `Request::send`.
        if self.offset > 0 && self.left > 0 && !self.parts.is_empty() {
            let query = query(&self.filter, part.as_deref(), self.last);
            let counted = with_retries(|| self.count_part(&query))?;
            self.offset = self.offset.saturating_sub(counted);
        }
        Ok(())
    }

    /// The page that is on its way, else the next one.
    fn fetch(&mut self) -> Result<Page, Error> {
        let database = &self.dataset.database;
        let doing = format!("reading samples of dataset `{}`", self.dataset.name);
        let mut ahead = self.ahead.take();
        with_retries(|| match ahead.take() {
            Some(page) => database.finish(&doing, page),
            None => database.run(&doing, self.request().send()),
        })
    }

    /// For the page that begins where the last one ended.
    fn request(&self) -> Request {
        Request {
            samples: self.dataset.database.collection(&self.dataset.samples),
            reader: self.reader.clone(),
            query: query(&self.filter, self.parts.front().and_then(Option::as_deref), self.last),
            offset: self.offset,
            limit: self.pace.size.min(self.left),
            seq: self.seq,
        }
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
        Ok(page)
    }
}

/// Samples that were read together.
#[derive(Debug, Default)]
struct Page {
    samples: Vec<SelectedSample>,
    /// The last one's id.
    last: Option<ObjectId>,
    /// What their documents take.
    bytes: usize,
}

/// Everything that fetching a page takes, so that it can go on by itself.
struct Request {
    samples: Collection<RawDocumentBuf>,
    reader: SampleReader,
    query: Document,
    offset: u64,
    limit: u64,
    /// Of the first sample.
    seq: u64,
}

impl Request {
    async fn send(self) -> mongodb::error::Result<Page> {
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        // A reply is 16 MiB at most; the driver asks for more as needed, and the rest of a page that ends early is dropped.
        let mut cursor = self
            .samples
            .find(self.query)
            .projection(self.reader.projection())
            .sort(doc! {"_id": 1})
            .skip(self.offset)
            .limit(limit)
            // In one reply: the server's own first batch holds 101.
            .batch_size(u32::try_from(limit).unwrap_or(u32::MAX))
            .await?;
        let mut page = Page::default();
        while page.bytes < PAGE_BYTES && cursor.advance().await? {
            let document = cursor.current();
            page.samples.push(self.reader.read(self.seq + page.samples.len() as u64, document));
            page.last = document.get_object_id("_id").ok();
            page.bytes += document.as_bytes().len();
        }
        Ok(page)
    }
}

/// How large pages are, by how quickly they are used up. A run that finds nothing to do waits for the database alone; one
/// that computes should not have read ahead what people may still change.
#[derive(Debug)]
struct Pace {
    /// Of the next page.
    size: u64,
    /// Whether the last page was used up quickly.
    is_quick: bool,
    /// What the last page's documents took on average.
    mean_bytes: usize,
    /// When the last page was returned.
    returned: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { size: PAGE, is_quick: false, mean_bytes: 0, returned: None }
    }
}

impl Pace {
    /// The last page is used up: decides how large the next one is.
    fn page_used_up(&mut self) {
        if let Some(returned) = self.returned.take() {
            self.adapt(returned.elapsed());
        }
    }

    fn adapt(&mut self, took: Duration) {
        self.is_quick = took < QUICK;
        // Between the two the size stays.
        if took < QUICK {
            self.size *= 2;
        } else if took > 4 * QUICK {
            self.size /= 2;
        }
        // What lies beyond the bytes that a page may have would be read for nothing.
        let most = (PAGE_BYTES / self.mean_bytes.max(1)) as u64;
        self.size = self.size.clamp(PAGE, LARGEST_PAGE).min(most).max(1);
    }

    fn page_taken(&mut self, page: &Page) {
        self.mean_bytes = page.bytes / page.samples.len().max(1);
        self.returned = Some(Instant::now());
    }
}

/// The selection as a query, without ids and position.
pub(super) fn filter(dataset: &Dataset, selection: &Selection) -> Result<Document, Error> {
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
    fn pages_are_large_where_samples_take_no_time() {
        let (quick, slow) = (Duration::from_millis(1), Duration::from_secs(1));
        let mut pace = Pace::default();
        let mut sizes = |times: &[Duration]| {
            times
                .iter()
                .map(|took| {
                    pace.adapt(*took);
                    (pace.size, pace.is_quick)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[quick; 4])[..], [(200, true), (400, true), (800, true), (1000, true)]);
        assert_eq!(
            sizes(&[2 * QUICK, slow, slow, slow, slow])[..],
            [(1000, false), (500, false), (250, false), (125, false), (100, false)]
        );
        pace.mean_bytes = 3 << 20;
        pace.adapt(quick);
        assert_eq!(pace.size, 2);
        pace.mean_bytes = 16 << 20;
        pace.adapt(quick);
        assert_eq!(pace.size, 1, "one sample always is a page");
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
