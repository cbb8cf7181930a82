//! The samples of a selection, as the first stage of a run reads them.
//!
//! Each page is a query of its own that goes on where the last one ended, rather than a part of one long cursor: the server
//! forgets a cursor after ten minutes, which a batch on a slow device can take, and a lost connection costs nothing but
//! the page.

use std::time::Duration;

use bson::{Document, oid::ObjectId};

use super::{
    database::Pending,
    dataset::Dataset,
    driver_error::command_code,
    error::Error,
    pace::Pace,
    request::{Page, Request},
    retry::with_retries,
    selection::{IDS, Selection, after, among, filter, list, parse_ids, refused_query, unknown_fields, unknown_tags, why_none},
    shard::Shard,
    stored_sample::SampleReader,
};
use camflow_pipeline::{RunError, SelectedSample, Source};

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
    warnings: Vec<String>,
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
    /// The samples of a selection.
    ///
    /// # Errors
    /// The selection names what is not there, or the server cannot make it.
    pub fn new(dataset: &Dataset, selection: Selection) -> Result<Self, Error> {
        let dataset = dataset.clone();
        let filter = filter(&dataset, &selection)?;
        let mut ids = selection.ids.as_deref().map(|ids| parse_ids(&dataset, ids)).transpose()?;
        let mut notices = unknown_tags(&dataset, &selection.tags)?;
        let warnings = unknown_fields(&dataset, selection.matching.as_deref());
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
                None => {
                    let why = why_none(&dataset, &selection)?;
                    format!("the selection matches no sample of dataset `{}`: {why}", dataset.name)
                }
            });
        }
        Ok(SampleSource {
            reader: SampleReader::new(selection.label, selection.heatmap_fields, selection.changes)
                .per_detection(selection.per_detection)
                .with_attention(selection.attention),
            filter,
            walk: ids.map_or(Walk::ById(None), |ids| Walk::Listed { ids, next: 0 }),
            offset,
            left,
            seq: 0,
            pace: Pace::default(),
            ahead: None,
            num_samples,
            notices,
            warnings,
            dataset,
        })
    }

    /// What is hardly meant so, lowercase, without a period.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
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
            self.pace.page_taken(page.samples.len(), page.bytes);
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
pub(super) fn unknown_ids(dataset: &Dataset, all: &[ObjectId], shard: Option<Shard>) -> Result<Option<String>, Error> {
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
