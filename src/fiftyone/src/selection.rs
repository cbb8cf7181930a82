//! Which samples a run reads: tags, queries, slices, ids, a random order, shards.

use std::collections::{BTreeSet, BinaryHeap, HashSet};

use bson::{Document, RawDocumentBuf, doc, oid::ObjectId};

use super::{
    dataset::Dataset,
    error::Error,
    label_field::LabelField,
    retry::with_retries,
    saved_view::ViewChanges,
    shard::{Shard, hash},
};
use camflow_names::{backticked, existing};

/// Ids per query. A query has to fit into 16 MiB, and an id with its key takes about 20 bytes; shorter lists are also
/// planned faster.
pub(super) const IDS: usize = 10_000;

/// Ids per page where nothing else of the samples is read.
const ID_PAGE: i64 = 100_000;

/// Which samples, and what of them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The label field to read; `None` when no label says where the classes are.
    pub label: Option<LabelField>,
    /// The label field whose classes heatmaps are measured on, read along.
    pub attention: Option<LabelField>,
    /// Names of the fields of heatmaps and predictions whose present content is read along.
    pub heatmap_fields: Vec<String>,
    /// Whether they hold detections that have heatmaps of their own.
    pub per_detection: bool,
    /// Samples with any of these tags; empty for all.
    pub tags: Vec<String>,
    /// Samples of these ids (a view's, say), in this order; `None` for all.
    pub ids: Option<Vec<String>>,
    /// What the view that the ids are from makes of the samples' labels; `None` to take them as they are stored.
    pub changes: Option<ViewChanges>,
    /// A MongoDB query as JSON, as FiftyOne's `match` takes it.
    pub matching: Option<String>,
    /// Slices of a grouped dataset; empty for all that hold images.
    pub slices: Vec<String>,
    /// This part of what everything else selects, the limit too, so that all parts together are the selection.
    pub shard: Option<Shard>,
    /// In a random order that follows from this seed and the samples' ids alone: the same samples come first next time, whatever
    /// is added or deleted meanwhile.
    pub shuffle: Option<u64>,
    /// Leave out this many samples.
    pub offset: u64,
    /// No more than this many samples.
    pub limit: Option<u64>,
}

/// The selection as a query, without ids and position.
pub(super) fn filter(dataset: &Dataset, selection: &Selection) -> Result<Document, Error> {
    let mut conditions: Vec<Document> = conditions(dataset, selection)?.into_iter().map(|(_, condition)| condition).collect();
    Ok(match conditions.len() {
        0 | 1 => conditions.pop().unwrap_or_default(),
        _ => doc! {"$and": conditions},
    })
}

/// What a sample has to be, each with the flag that says so.
fn conditions(dataset: &Dataset, selection: &Selection) -> Result<Vec<(&'static str, Document)>, Error> {
    let mut conditions = Vec::new();
    if !selection.tags.is_empty() {
        conditions.push(("--tags", doc! {"tags": {"$in": &selection.tags}}));
    }
    if let Some(query) = &selection.matching {
        let query = parse_query(query).map_err(|reason| Error::Selection {
            dataset: dataset.name.clone(),
            reason,
            hint: r#"`--match` takes a MongoDB query as JSON: `{"uniqueness": {"$gt": 0.5}}`"#.to_owned(),
        })?;
        conditions.push(("--match", query));
    }
    if let Some(slices) = slices(dataset, &selection.slices)? {
        conditions.push(("--slices", slices));
    }
    Ok(conditions)
}

/// Why a selection that is no shard holds no sample: which part of it leaves none, or that the dataset has none.
pub(super) fn why_none(dataset: &Dataset, selection: &Selection) -> Result<String, Error> {
    let doing = format!("looking for the samples of dataset `{}`", dataset.name);
    let has = |query: &Document| has_sample(dataset, &doing, query).map_err(|error| refused_query(dataset, error));
    if !has(&Document::new())? {
        return Ok("it has none".to_owned());
    }
    if selection.ids.as_ref().is_some_and(Vec::is_empty) {
        return Ok("the view or the list of ids is empty".to_owned());
    }
    let conditions = conditions(dataset, selection)?;
    for (flag, condition) in &conditions {
        if !has(condition)? {
            return Ok(format!("none is as `{flag}` says"));
        }
    }
    let mut flags: Vec<&str> = conditions.iter().map(|(flag, _)| *flag).collect();
    flags.extend(selection.ids.is_some().then_some("the view or the list of ids"));
    Ok(format!("none is as all of these say: {}", backticked(flags)))
}

/// What to say of fields in the query that the dataset does not have: in MongoDB they are equal to nothing, and unequal to all.
pub(super) fn unknown_fields(dataset: &Dataset, matching: Option<&str>) -> Vec<String> {
    let Some(Ok(query)) = matching.map(parse_query) else { return Vec::new() };
    let fields = dataset.fields();
    let is_known = |name: &str| name.starts_with('_') || fields.iter().any(|field| field.key == name);
    let mut unknown: Vec<String> = Vec::new();
    for name in fields_in(&query) {
        if !is_known(&name) && !unknown.contains(&name) {
            unknown.push(name);
        }
    }
    let notice = |name: String| {
        let instead = match fields.iter().find(|field| field.name == name) {
            Some(field) => format!("it is stored as `{}`", field.key),
            None => {
                let names = fields.iter().map(|field| field.name.as_str()).filter(|name| !name.starts_with('_'));
                existing("fields", &name, &names.collect::<Vec<_>>())
            }
        };
        format!("`--match` names field `{name}`, which dataset `{}` does not have: {instead}", dataset.name)
    };
    unknown.into_iter().map(notice).collect()
}

/// The fields of samples that a query names, without what is within them.
fn fields_in(query: &Document) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in query {
        match key.strip_prefix('$') {
            Some("and" | "or" | "nor") => {
                let parts = value.as_array().into_iter().flatten().filter_map(bson::Bson::as_document);
                found.extend(parts.flat_map(fields_in));
            }
            Some(_) => {}
            None => found.extend(key.split('.').next().map(ToOwned::to_owned)),
        }
    }
    found
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

/// MongoDB's extended JSON, so that `{"$oid": …}` and `{"$date": …}` work.
fn parse_query(text: &str) -> Result<Document, String> {
    serde_json::from_str::<Document>(text).map_err(|error| format!("`{text}` is not a query ({error})"))
}

/// Without duplicates.
pub(super) fn parse_ids(dataset: &Dataset, ids: &[String]) -> Result<Vec<ObjectId>, Error> {
    let parse = |id: &String| {
        ObjectId::parse_str(id).map_err(|_| Error::Selection {
            dataset: dataset.name.clone(),
            reason: format!("`{id}` is not a sample id"),
            hint: "an id is the 24 hexadecimal digits of `sample.id`".to_owned(),
        })
    };
    let mut seen = HashSet::with_capacity(ids.len());
    let mut parsed = ids.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    parsed.retain(|id| seen.insert(*id));
    Ok(parsed)
}

/// The filter, restricted to some ids.
pub(super) fn among(filter: &Document, ids: &[ObjectId]) -> Document {
    match filter.is_empty() {
        true => doc! {"_id": {"$in": ids}},
        false => doc! {"$and": [{"_id": {"$in": ids}}, filter.clone()]},
    }
}

/// The filter, restricted to what comes after an id.
pub(super) fn after(filter: &Document, last: Option<ObjectId>) -> Document {
    match (last, filter.is_empty()) {
        (None, _) => filter.clone(),
        (Some(last), true) => doc! {"_id": {"$gt": last}},
        (Some(last), false) => doc! {"$and": [{"_id": {"$gt": last}}, filter.clone()]},
    }
}

/// The ids of the selection in its order, where the server cannot find them by itself: a random order, a shard. Only ids travel,
/// and no more of them are kept than the limit or the shard has.
pub(super) fn list(
    dataset: &Dataset,
    filter: &Document,
    ids: Option<&[ObjectId]>,
    selection: &Selection,
) -> Result<Vec<ObjectId>, Error> {
    let is_ours = |id: &ObjectId| selection.shard.is_none_or(|shard| shard.contains(*id));
    // Others' samples are among the first ones, too.
    let counts_all = selection.limit.is_some() || selection.offset > 0;
    let most = selection.limit.unwrap_or(u64::MAX).saturating_add(selection.offset);
    let mut kept = Kept::new(selection.shuffle, usize::try_from(most).unwrap_or(usize::MAX));
    match ids {
        Some(ids) => {
            let asked: Vec<ObjectId> = ids.iter().filter(|id| counts_all || is_ours(id)).copied().collect();
            for part in asked.chunks(IDS) {
                if kept.is_full() {
                    break;
                }
                let there: HashSet<ObjectId> = matching_ids(dataset, among(filter, part), ID_PAGE)?.into_iter().collect();
                kept.add(part.iter().filter(|id| there.contains(id)).copied());
            }
        }
        None => {
            let mut last = None;
            while !kept.is_full() {
                let size = ID_PAGE.min(i64::try_from(kept.room()).unwrap_or(ID_PAGE));
                let page = matching_ids(dataset, after(filter, last), size)?;
                kept.add(page.iter().filter(|id| counts_all || is_ours(id)).copied());
                last = page.last().copied();
                if (page.len() as i64) < size {
                    break;
                }
            }
        }
    }
    let mut list = kept.into_list();
    list.drain(..usize::try_from(selection.offset).unwrap_or(usize::MAX).min(list.len()));
    list.retain(is_ours);
    Ok(list)
}

/// The first ids of an order, so many at most.
enum Kept {
    AsTheyCome {
        ids: Vec<ObjectId>,
        most: usize,
    },
    /// The largest rank on top.
    Random {
        seed: u64,
        ids: BinaryHeap<(u64, ObjectId)>,
        most: usize,
    },
}

impl Kept {
    fn new(seed: Option<u64>, most: usize) -> Self {
        match seed {
            None => Kept::AsTheyCome { ids: Vec::new(), most },
            Some(seed) => Kept::Random { seed, ids: BinaryHeap::new(), most },
        }
    }

    fn add(&mut self, more: impl Iterator<Item = ObjectId>) {
        match self {
            Kept::AsTheyCome { ids, most } => ids.extend(more.take(*most - ids.len())),
            Kept::Random { seed, ids, most } => {
                for id in more {
                    ids.push((rank(*seed, id), id));
                    if ids.len() > *most {
                        ids.pop();
                    }
                }
            }
        }
    }

    /// How many more may be of use.
    fn room(&self) -> usize {
        match self {
            Kept::AsTheyCome { ids, most } => most - ids.len(),
            // The last one may be the first.
            Kept::Random { most, .. } => {
                if *most == 0 {
                    0
                } else {
                    usize::MAX
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }

    fn into_list(self) -> Vec<ObjectId> {
        match self {
            Kept::AsTheyCome { ids, .. } => ids,
            Kept::Random { ids, .. } => ids.into_sorted_vec().into_iter().map(|(_, id)| id).collect(),
        }
    }
}

/// A sample's place in the random order.
fn rank(seed: u64, id: ObjectId) -> u64 {
    hash(&[&seed.to_le_bytes(), &id.bytes()])
}

/// In their order. A query that asks for nothing but ids is answered from their index alone.
fn matching_ids(dataset: &Dataset, query: Document, limit: i64) -> Result<Vec<ObjectId>, Error> {
    let doing = format!("reading the ids of the samples of dataset `{}`", dataset.name);
    with_retries(|| {
        let query = query.clone();
        dataset.database.run(&doing, async {
            let samples = dataset.database.collection::<RawDocumentBuf>(&dataset.samples);
            let found = samples.find(query).projection(doc! {"_id": 1}).sort(doc! {"_id": 1}).limit(limit);
            let mut found = found.batch_size(u32::try_from(limit).unwrap_or(u32::MAX)).await?;
            let mut ids = Vec::new();
            while found.advance().await? {
                ids.extend(found.current().get_object_id("_id").ok());
            }
            Ok(ids)
        })
    })
    .map_err(|error| refused_query(dataset, error))
}

/// Whether any sample has a tag.
///
/// # Errors
/// The database fails.
pub fn has_tag(dataset: &Dataset, tag: &str) -> Result<bool, Error> {
    has_sample(dataset, &format!("looking for the tags of dataset `{}`", dataset.name), &doc! {"tags": tag})
}

fn has_sample(dataset: &Dataset, doing: &str, query: &Document) -> Result<bool, Error> {
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let find = || samples.find_one(query.clone()).projection(doc! {"_id": 1});
    Ok(with_retries(|| dataset.database.run(doing, async { find().await }))?.is_some())
}

/// The tags that no sample has, each with the tags that there are.
fn absent_tags<'a>(dataset: &Dataset, tags: &'a [String]) -> Result<Vec<(&'a String, String)>, Error> {
    let samples = dataset.database.collection::<Document>(&dataset.samples);
    let doing = format!("looking for the tags of dataset `{}`", dataset.name);
    let mut unknown = Vec::new();
    for tag in tags {
        if has_tag(dataset, tag)? {
            continue;
        }
        let known = with_retries(|| dataset.database.run(&doing, async { samples.distinct("tags", doc! {}).await }))?;
        let known: BTreeSet<&str> = known.iter().filter_map(bson::Bson::as_str).collect();
        let known: Vec<&str> = known.into_iter().collect();
        let there_are = if known.is_empty() { "it has no tags".to_owned() } else { existing("tags", tag, &known) };
        unknown.push((tag, there_are));
    }
    Ok(unknown)
}

/// What to say of tags that no sample has.
pub(super) fn told_tags(dataset: &Dataset, tags: &[String]) -> Result<Vec<String>, Error> {
    Ok(told(dataset, absent_tags(dataset, tags)?))
}

fn told(dataset: &Dataset, absent: Vec<(&String, String)>) -> Vec<String> {
    let notice = |(tag, there_are)| format!("no sample of dataset `{}` has the tag `{tag}`: {there_are}", dataset.name);
    absent.into_iter().map(notice).collect()
}

/// The same, where it is a mistake if all of them are unknown.
///
/// # Errors
/// The dataset has samples, and none of them has any of the tags.
pub(super) fn unknown_tags(dataset: &Dataset, tags: &[String]) -> Result<Vec<String>, Error> {
    let doing = format!("looking for the tags of dataset `{}`", dataset.name);
    let unknown = absent_tags(dataset, tags)?;
    if !tags.is_empty() && unknown.len() == tags.len() && has_sample(dataset, &doing, &Document::new())? {
        let hint = format!(
            "{}; a tag that nobody may have used yet is asked for with `--match '{{\"tags\": \"{}\"}}'`",
            unknown[0].1, tags[0]
        );
        return Err(Error::Selection {
            dataset: dataset.name.clone(),
            reason: format!("no sample has the tag {}", backticked(tags)),
            hint,
        });
    }
    Ok(told(dataset, unknown))
}

/// The server's refusal of the user's query is the user's to mend; everything else is the database's.
pub(super) fn refused_query(dataset: &Dataset, error: Error) -> Error {
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
    fn a_filter_is_restricted_to_a_place_or_a_list() {
        let ids: Vec<ObjectId> = (0u8..2).map(|n| ObjectId::from_bytes([n; 12])).collect();
        let (all, some) = (Document::new(), doc! {"tags": "x"});
        assert_eq!(after(&all, None), doc! {});
        assert_eq!(after(&some, None), some);
        assert_eq!(after(&all, Some(ids[1])), doc! {"_id": {"$gt": ids[1]}});
        assert_eq!(after(&some, Some(ids[1])), doc! {"$and": [{"_id": {"$gt": ids[1]}}, {"tags": "x"}]});
        assert_eq!(among(&all, &ids), doc! {"_id": {"$in": &ids}});
        assert_eq!(among(&some, &ids), doc! {"$and": [{"_id": {"$in": &ids}}, {"tags": "x"}]});
    }

    #[test]
    fn the_random_order_never_changes() {
        // Runs of next year have to pick the same samples.
        let id = ObjectId::parse_str("5f452489ef00e6374aac384a").unwrap();
        assert_eq!([rank(0, id), rank(1, id)], [7_487_212_928_366_503_172, 14_661_071_588_836_956_812]);
    }
}
