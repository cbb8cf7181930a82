//! The query for a page of samples, and what it finds.

use std::collections::HashMap;

use bson::{Document, RawDocumentBuf, doc, oid::ObjectId};
use mongodb::{Collection, Cursor};

use super::{
    pace::{LARGEST_PAGE, PAGE_BYTES},
    selection::among,
    stored_sample::SampleReader,
};
use camflow_pipeline::SelectedSample;

/// Samples that were read together.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) samples: Vec<SelectedSample>,
    /// The last one's id.
    pub(super) last: Option<ObjectId>,
    /// How many ids of the list it has taken.
    pub(super) num_listed: usize,
    /// What their documents take.
    pub(super) bytes: usize,
}

/// Everything that fetching a page takes, so that it can go on by itself.
pub(super) struct Request {
    pub(super) samples: Collection<RawDocumentBuf>,
    pub(super) reader: SampleReader,
    pub(super) query: Document,
    /// The ids to read, in this order; `None`: those of the query in order.
    pub(super) listed: Option<Vec<ObjectId>>,
    pub(super) offset: u64,
    pub(super) limit: u64,
    /// Of the first sample.
    pub(super) seq: u64,
}

impl Request {
    pub(super) async fn send(mut self) -> mongodb::error::Result<Page> {
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
