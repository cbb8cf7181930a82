//! The samples of a selection, as the first stage of a run reads them.
//!
//! Each page is a query of its own that goes on where the last one ended, rather than a part of one long cursor: the server
//! forgets a cursor after ten minutes, which a batch on a slow device can take, and a lost connection costs nothing but
//! the page.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bson::{Document, RawDocumentBuf, doc, oid::ObjectId};
use mongodb::{Collection, Cursor};

use super::{
    database::Pending,
    dataset::Dataset,
    error::Error,
    label_field::command_code,
    retry::with_retries,
    selection::{IDS, Selection, after, among, filter, list, parse_ids, refused_query, unknown_tags},
    shard::Shard,
    stored_sample::SampleReader,
};
use crate::pipeline::{RunError, SelectedSample, Source};

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

/// Counting is for the progress bar only; an unindexed match on a large dataset is not worth waiting longer for.
const COUNTING: Duration = Duration::from_secs(20);

/// Reads the samples of a selection: in the order of the list where there is one, else in that of their ids.
#[derive(Debug)]
pub struct SampleSource {
    dataset: Dataset,
    reader: SampleReader,
    filter: Document,
    walk: Walk,
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

/// The way through the samples, and how far it is behind us.
#[derive(Debug)]
enum Walk {
    /// All, after this one.
    ById(Option<ObjectId>),
    /// Those of the list, from `next` on.
    Listed { ids: Vec<ObjectId>, next: usize },
}

impl SampleSource {
    pub(super) fn new(dataset: Dataset, selection: Selection) -> Result<Self, Error> {
        let filter = filter(&dataset, &selection)?;
        let mut ids = selection.ids.as_deref().map(|ids| parse_ids(&dataset, ids)).transpose()?;
        let mut notices = unknown_tags(&dataset, &selection.tags)?;
        notices.extend(unknown_ids(&dataset, ids.as_deref().unwrap_or_default(), selection.shard)?);
        let (mut offset, mut left) = (selection.offset, selection.limit.unwrap_or(u64::MAX));
        let is_listed = selection.shuffle.is_some() || selection.shard.is_some_and(|shard| !shard.is_whole());
        let num_samples = if is_listed {
            let list = list(&dataset, &filter, ids.as_deref(), &selection)?;
            (offset, left) = (0, list.len() as u64);
            ids = Some(list);
            Some(left)
        } else {
            count(&dataset, &filter, ids.as_deref())?.map(|count| count.saturating_sub(offset).min(left))
        };
        if num_samples == Some(0) && selection.offset == 0 && selection.limit != Some(0) {
            notices.push(match selection.shard.filter(|shard| !shard.is_whole()) {
                Some(shard) => format!("no sample of the selection is in shard {shard} of dataset `{}`", dataset.name),
                None => format!("the selection matches no sample of dataset `{}`", dataset.name),
            });
        }
        Ok(SampleSource {
            reader: SampleReader::new(selection.label, selection.heatmap_fields, selection.changes),
            filter,
            walk: ids.map_or(Walk::ById(None), |ids| Walk::Listed { ids, next: 0 }),
            offset,
            left,
            seq: 0,
            pace: Pace::default(),
            ahead: None,
            num_samples,
            notices,
            dataset,
        })
    }

    /// What the user should know about the selection, lowercase, without a period.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The next page of samples; empty only at the end of the selection.
    fn next_page(&mut self) -> Result<Vec<SelectedSample>, Error> {
        self.pace.page_used_up();
        while self.left > 0 && !self.is_at_end() {
            let mut page = self.fetch()?;
            self.advance(&page)?;
            if page.samples.is_empty() {
                continue;
            }
            if let Walk::Listed { .. } = self.walk {
                // Elsewhere the server has left them out.
                let beyond = self.offset.min(page.samples.len() as u64);
                page.samples.drain(..beyond as usize);
                self.offset -= beyond;
                page.samples.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                for (index, sample) in page.samples.iter_mut().enumerate() {
                    sample.sample.seq = self.seq + index as u64;
                }
                if page.samples.is_empty() {
                    continue;
                }
            } else {
                self.offset = 0;
            }
            self.left -= page.samples.len() as u64;
            self.seq += page.samples.len() as u64;
            self.pace.page_taken(&page);
            if self.pace.is_quick && self.left > 0 && !self.is_at_end() {
                self.ahead = Some(self.dataset.database.start(self.request().send()));
            }
            return Ok(page.samples);
        }
        Ok(Vec::new())
    }

    fn is_at_end(&self) -> bool {
        matches!(&self.walk, Walk::Listed { ids, next } if *next >= ids.len())
    }

    /// What the page holds is behind us.
    fn advance(&mut self, page: &Page) -> Result<(), Error> {
        match &mut self.walk {
            Walk::Listed { next, .. } => *next += page.num_listed,
            // An empty page is the end.
            Walk::ById(_) if page.samples.is_empty() => self.left = 0,
            Walk::ById(last) => {
                *last = Some(page.last.ok_or_else(|| Error::MalformedDataset {
                    name: self.dataset.name.clone(),
                    reason: "a sample's `_id` is not an id of FiftyOne's".to_owned(),
                })?);
            }
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
        let size = self.pace.size.min(self.left.saturating_add(self.offset));
        let listed = match &self.walk {
            Walk::ById(_) => None,
            Walk::Listed { ids, next } => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                Some(ids[*next..].iter().take(size).copied().collect())
            }
        };
        Request {
            samples: self.dataset.database.collection(&self.dataset.samples),
            reader: self.reader.clone(),
            query: match self.walk {
                Walk::ById(last) => after(&self.filter, last),
                Walk::Listed { .. } => self.filter.clone(),
            },
            listed,
            offset: self.offset,
            limit: self.pace.size.min(self.left),
            seq: self.seq,
        }
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

/// How many samples match; `None` where counting takes too long. Also the first trial of the user's query.
fn count(dataset: &Dataset, filter: &Document, ids: Option<&[ObjectId]>) -> Result<Option<u64>, Error> {
    /// MaxTimeMSExpired.
    const TOO_LONG: i32 = 50;
    let doing = format!("counting the samples of dataset `{}`", dataset.name);
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let queries: Vec<Document> = match ids {
        None if filter.is_empty() => {
            return dataset.database.run(&doing, async { samples.estimated_document_count().await }).map(Some);
        }
        None => vec![filter.clone()],
        Some(ids) => ids.chunks(IDS).map(|part| among(filter, part)).collect(),
    };
    let mut count = 0;
    for query in queries {
        match dataset.database.run(&doing, async { samples.count_documents(query).max_time(COUNTING).await }) {
            Ok(counted) => count += counted,
            Err(Error::Driver { source, .. }) if command_code(&source) == Some(TOO_LONG) => return Ok(None),
            Err(error) => return Err(refused_query(dataset, error)),
        }
    }
    Ok(Some(count))
}

/// Ids that are not there are a slip of the user's; ids that the rest of the selection excludes are not. Each shard looks for its
/// own.
///
/// # Errors
/// None of all ids is in the dataset.
fn unknown_ids(dataset: &Dataset, all: &[ObjectId], shard: Option<Shard>) -> Result<Option<String>, Error> {
    let ids: Vec<ObjectId> = all.iter().filter(|id| shard.is_none_or(|shard| shard.contains(**id))).copied().collect();
    let known = match &ids[..] {
        [] => Some(0),
        ids => count(dataset, &Document::new(), Some(ids))?,
    };
    let unknown = known.map_or(0, |known| (ids.len() as u64).saturating_sub(known));
    if unknown > 0 && known == Some(0) && count(dataset, &Document::new(), Some(all))? == Some(0) {
        return Err(Error::Selection {
            dataset: dataset.name.clone(),
            reason: match all {
                [only] => format!("the id `{only}` is not in it"),
                _ => format!("none of the {} ids is in it; the first is `{}`", all.len(), all[0]),
            },
            hint: "an id is `sample.id` of a sample of this very dataset: a clone has other ones".to_owned(),
        });
    }
    let text = || format!("{unknown} of the {} ids are not in dataset `{}`", ids.len(), dataset.name);
    Ok((unknown > 0).then(text))
}

/// Samples that were read together.
#[derive(Debug, Default)]
struct Page {
    samples: Vec<SelectedSample>,
    /// The last one's id.
    last: Option<ObjectId>,
    /// How many ids of the list it has taken.
    num_listed: usize,
    /// What their documents take.
    bytes: usize,
}

/// Everything that fetching a page takes, so that it can go on by itself.
struct Request {
    samples: Collection<RawDocumentBuf>,
    reader: SampleReader,
    query: Document,
    /// The ids to read, in this order; `None`: those of the query in order.
    listed: Option<Vec<ObjectId>>,
    offset: u64,
    limit: u64,
    /// Of the first sample.
    seq: u64,
}

impl Request {
    async fn send(mut self) -> mongodb::error::Result<Page> {
        match self.listed.take() {
            Some(listed) => self.list(listed).await,
            None => self.next().await,
        }
    }

    async fn next(&self) -> mongodb::error::Result<Page> {
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        // A reply is 16 MiB at most; the driver asks for more as needed, and the rest of a page that ends early is dropped.
        Ok(self.read(&mut self.find(self.query.clone(), Some((self.offset, limit))).await?).await?.0)
    }

    async fn list(&self, mut ids: Vec<ObjectId>) -> mongodb::error::Result<Page> {
        loop {
            let (mut page, rest) = self.read(&mut self.find(among(&self.query, &ids), None).await?).await?;
            if rest {
                // The server has an order of its own, so that what was read is no beginning of the list; fewer will fit.
                ids.truncate(page.samples.len().min(ids.len() - 1));
                continue;
            }
            let places: HashMap<String, usize> = ids.iter().enumerate().map(|(place, id)| (id.to_hex(), place)).collect();
            page.samples.sort_by_key(|sample| places.get(&sample.sample.id));
            page.num_listed = ids.len();
            return Ok(page);
        }
    }

    /// The samples of a query as the reader wants them, of a part in the order of ids, in one reply: the server's own first batch
    /// holds 101.
    async fn find(&self, query: Document, part: Option<(u64, i64)>) -> mongodb::error::Result<Cursor<RawDocumentBuf>> {
        let most = part.map_or(LARGEST_PAGE as u32, |(_, limit)| u32::try_from(limit).unwrap_or(u32::MAX));
        let by_id = doc! {"_id": 1};
        if let Some(viewed) = self.reader.viewed(self.samples.name()) {
            let mut stages = vec![doc! {"$match": query}];
            if let Some((offset, limit)) = part {
                stages.extend([doc! {"$sort": by_id}, doc! {"$skip": offset as i64}, doc! {"$limit": limit}]);
            }
            stages.extend(viewed);
            return self.samples.aggregate(stages).batch_size(most).with_type::<RawDocumentBuf>().await;
        }
        let found = self.samples.find(query).projection(self.reader.projection()).batch_size(most);
        match part {
            Some((offset, limit)) => found.sort(by_id).skip(offset).limit(limit).await,
            None => found.await,
        }
    }

    /// The documents up to as many bytes as a page has, and whether there are more.
    async fn read(&self, cursor: &mut Cursor<RawDocumentBuf>) -> mongodb::error::Result<(Page, bool)> {
        let mut page = Page::default();
        while cursor.advance().await? {
            if page.bytes >= PAGE_BYTES {
                return Ok((page, true));
            }
            let document = cursor.current();
            page.samples.push(self.reader.read(self.seq + page.samples.len() as u64, document));
            page.last = document.get_object_id("_id").ok();
            page.bytes += document.as_bytes().len();
        }
        Ok((page, false))
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
