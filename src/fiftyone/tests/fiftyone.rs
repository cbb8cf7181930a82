//! Source, schema and sink against a real mongod of our own on a fresh folder. The data is written as FiftyOne writes
//! it, so that no Python is needed; that FiftyOne reads our results is tested from Python.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bson::{Binary, Bson, DateTime, Document, doc, oid::ObjectId, spec::BinarySubtype};
use camflow_diagnostic::Diagnose;
use camflow_fiftyone::{
    AppColors, AppView, ChecksumNote, ConnectOptions, ConnectionUri, Database, DatabaseConfig, DatabaseLocation, Dataset, Error,
    ExpectedHeatmaps, HeatmapField, HeatmapLabel, HeatmapLabelSource, LabelField, Lock, Part, References, RunNote, SampleSource,
    Selection, Shard, Ticked, UpdateSink, failure_key, forget_runs, known_failures, note_checksums, note_failures, note_run,
    other_heatmaps, remove_labels, same_heatmaps, sample_ids, stored_runs, survey_labels, tidy_failures,
};
use camflow_measure::{Measure, Measures};
use camflow_media::{Checksum, FileForm, RecordedChecksum};
use camflow_pipeline::{
    CommitOutcome, FailureCause, KnownFailures, RunError, SampleRef, SampleUpdate, SelectedSample, Sink, Source, StoredMap,
    StoredMask, StoredTarget, WrittenHeatmap, WrittenPrediction,
};
use camflow_storage::{FileName, OutputFolder};

mod mongod;

/// A server on a folder of its own; it ends with the test.
struct Mongod {
    /// `None` while it is stopped.
    server: Option<mongod::Mongod>,
    folder: tempfile::TempDir,
    port: u16,
    runtime: tokio::runtime::Runtime,
}

impl Mongod {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for mongod");
        let server = mongod::Mongod::start(folder.path(), 0, arguments);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        Mongod { port: server.port, server: Some(server), folder, runtime }
    }

    fn stop(&mut self) {
        self.server = None;
    }

    fn restart(&mut self) {
        self.server = Some(mongod::Mongod::start(self.folder.path(), self.port, &[""; 0]));
    }

    fn config(&self, credentials: &str) -> DatabaseConfig {
        let uri = format!("mongodb://{credentials}127.0.0.1:{}", self.port);
        DatabaseConfig { location: DatabaseLocation::Server(ConnectionUri::new(uri, "a test")), name: "fiftyone".into() }
    }

    fn connect(&self) -> Database {
        Database::connect(&self.config(""), &ConnectOptions::default()).expect("a connection").database
    }

    /// Does something with the driver itself, as another program would.
    fn with<T, F: Future<Output = mongodb::error::Result<T>>>(&self, what: impl FnOnce(mongodb::Database) -> F) -> T {
        let uri = format!("mongodb://127.0.0.1:{}", self.port);
        self.runtime
            .block_on(async { what(mongodb::Client::with_uri_str(uri).await?.database("fiftyone")).await })
            .expect("the driver")
    }

    fn insert_dataset(&self, name: &str, extra: Document, samples: Vec<Document>) -> ObjectId {
        let id = ObjectId::new();
        let field = |name: &str, kind: &str, embedded: Option<&str>| {
            let key = if name == "id" { "_id" } else { name };
            doc! {"name": name, "ftype": format!("fiftyone.core.fields.{kind}"), "embedded_doc_type": embedded, "subfield": null,
            "fields": [], "db_field": key, "description": null, "info": null, "read_only": false,
            "created_at": DateTime::now()}
        };
        let mut dataset = doc! {
            "_id": id, "name": name, "slug": name, "version": "1.22.1", "persistent": true, "media_type": "image",
            "sample_collection_name": format!("samples.{}", id.to_hex()),
            "sample_fields": [
                field("id", "ObjectIdField", None), field("filepath", "StringField", None),
                field("gt", "EmbeddedDocumentField", Some("fiftyone.core.labels.Segmentation")),
                field("weather", "EmbeddedDocumentField", Some("fiftyone.core.labels.Classification")),
            ],
            "mask_targets": {"gt": {"1": "person"}}, "default_mask_targets": {"2": "car"},
            "created_at": DateTime::now(), "last_modified_at": DateTime::from_millis(0),
        };
        dataset.extend(extra);
        self.with(async |database| {
            database.collection::<Document>("config").insert_one(doc! {"version": "1.22.1", "type": "fiftyone"}).await?;
            database.collection::<Document>("datasets").insert_one(dataset).await?;
            let collection = database.collection::<Document>(&format!("samples.{}", id.to_hex()));
            if !samples.is_empty() {
                collection.insert_many(samples).await?;
            }
            Ok(())
        });
        id
    }

    fn sample(&self, dataset: ObjectId, id: ObjectId) -> Document {
        self.with(async |database| {
            database.collection::<Document>(&format!("samples.{}", dataset.to_hex())).find_one(doc! {"_id": id}).await
        })
        .expect("a sample")
    }

    fn update_sample(&self, dataset: ObjectId, id: ObjectId, update: Document) {
        self.with(async |database| {
            let samples = database.collection::<Document>(&format!("samples.{}", dataset.to_hex()));
            samples.update_one(doc! {"_id": id}, update).await
        });
    }

    fn sample_fields(&self, dataset: ObjectId) -> Vec<Document> {
        let document =
            self.with(async |database| database.collection::<Document>("datasets").find_one(doc! {"_id": dataset}).await);
        let entries = document.expect("a dataset").get_array("sample_fields").expect("fields").clone();
        entries.into_iter().filter_map(|entry| entry.as_document().cloned()).collect()
    }

    /// As FiftyOne does it: the samples first, then the dataset's document.
    fn delete_dataset(&self, dataset: ObjectId) {
        self.with(async |database| {
            database.collection::<Document>(&format!("samples.{}", dataset.to_hex())).drop().await?;
            database.collection::<Document>("datasets").delete_one(doc! {"_id": dataset}).await
        });
    }
}

fn sample(n: usize) -> Document {
    let parity = if n.is_multiple_of(2) { "even" } else { "odd" };
    let mask = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 16] });
    doc! {
        "_id": id(n), "filepath": format!("/data/{n}.jpg"), "tags": [parity],
        "_media_type": "image", "_rand": (n as f64 * 0.618_034).fract(), "n": n as i32,
        "gt": {"_id": ObjectId::new(), "_cls": "Segmentation", "tags": [], "mask": mask},
        "created_at": DateTime::from_millis(0), "last_modified_at": DateTime::from_millis(0),
    }
}

fn id(n: usize) -> ObjectId {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&(n as u64).to_be_bytes());
    ObjectId::from_bytes(bytes)
}

fn read_all(mut source: SampleSource) -> Vec<SelectedSample> {
    let mut samples = Vec::new();
    loop {
        let page = source.next_samples().expect("a page");
        if page.is_empty() {
            return samples;
        }
        assert!(page.len() <= 1000);
        samples.extend(page);
    }
}

fn paths(samples: &[SelectedSample]) -> Vec<String> {
    samples.iter().map(|sample| sample.sample.media_path.display().to_string()).collect()
}

fn field(name: &str) -> HeatmapField {
    HeatmapField {
        name: name.into(),
        layer: "backbone.layer4".into(),
        method: "gradcam".into(),
        model: "deeplabv3".into(),
        shown_in: None,
        attention_on: None,
    }
}

fn update(n: usize, heatmaps: Vec<WrittenHeatmap>) -> SampleUpdate {
    let sample = SampleRef { seq: n as u64, id: id(n).to_hex(), media_path: format!("/data/{n}.jpg").into() };
    let (predictions, existing) = (None, Vec::new());
    SampleUpdate { sample, heatmaps, predictions, withdrawn: Vec::new(), superseded: Vec::new(), existing }
}

fn heatmap(field: &str, fingerprint: &str) -> WrittenHeatmap {
    WrittenHeatmap {
        detection: None,
        contrast: None,
        field: field.into(),
        class: "person".into(),
        map: StoredMap::File(format!("/maps/{fingerprint}.png").into()),
        npy_path: Some(format!("/maps/{fingerprint}.npy").into()),
        map_checksum: None,
        npy_checksum: None,
        upsampling: None,
        score: 0.5,
        measures: Measures::default().with(Measure::EnergyInside, 0.75).with(Measure::PointingHit, 1.0),
        attention: None,
        prediction: WrittenPrediction::default(),
        fingerprint: fingerprint.into(),
    }
}

#[test]
fn all_samples_are_read_once_and_in_order() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, (0..250).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    assert_eq!(dataset.notices(), Vec::<String>::new());
    let label = LabelField::choose(&dataset, None).expect("the only segmentation");
    assert_eq!(label.name, "gt");
    let source = SampleSource::new(&dataset, Selection { label: Some(label), ..Selection::default() }).expect("a source");
    assert_eq!(source.num_samples(), Some(250));
    let samples = read_all(source);
    assert_eq!(paths(&samples), (0..250).map(|n| format!("/data/{n}.jpg")).collect::<Vec<_>>());
    assert!(samples.iter().enumerate().all(|(n, sample)| sample.sample.seq == n as u64));
    assert_eq!(samples[0].target, StoredTarget::Mask(StoredMask::Inline(vec![7; 16])));
    assert_eq!(samples[9].sample.id, id(9).to_hex());
}

#[test]
fn selections_select() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, (0..250).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let read = |selection: Selection| {
        let source = SampleSource::new(&dataset, selection).expect("a source");
        let counted = source.num_samples();
        let samples = read_all(source);
        assert_eq!(counted, Some(samples.len() as u64));
        samples
    };
    let odd = Selection { tags: vec!["odd".into()], ..Selection::default() };
    assert_eq!(read(odd.clone()).len(), 125);
    assert_eq!(paths(&read(Selection { offset: 3, limit: Some(2), ..odd.clone() })), ["/data/7.jpg", "/data/9.jpg"]);
    assert_eq!(read(Selection { limit: Some(150), ..Selection::default() }).len(), 150);
    assert_eq!(read(Selection { offset: 240, ..Selection::default() }).len(), 10);
    assert!(read(Selection { limit: Some(0), ..Selection::default() }).is_empty());
    let matching = Some(r#"{"n": {"$gte": 240}}"#.to_owned());
    assert_eq!(read(Selection { matching: matching.clone(), ..odd }).len(), 5);
    assert_eq!(read(Selection { label: None, matching, ..Selection::default() })[0].target, StoredTarget::Unlabelled);

    let ids = [9, 3, 3, 900].map(|n| id(n).to_hex()).to_vec();
    let source = SampleSource::new(&dataset, Selection { ids: Some(ids), ..Selection::default() }).expect("a source");
    assert_eq!(source.notices(), ["1 of the 3 ids are not in dataset `street`"]);
    assert_eq!(paths(&read_all(source)), ["/data/9.jpg", "/data/3.jpg"], "in the order of the list");
    // More ids than go into one query, with an offset beyond the first part.
    let ids = (0..12_000).map(|n| id(n + 100 - 10_000 * usize::from(n >= 10_000)).to_hex()).collect();
    assert_eq!(read(Selection { ids: Some(ids), offset: 100, ..Selection::default() }).len(), 50);

    let bad = Selection { matching: Some(r#"{"n": {"$near_to": 3}}"#.into()), ..Selection::default() };
    let error = SampleSource::new(&dataset, bad).map(drop).expect_err("an unknown operator").to_string();
    assert!(error.contains("refuses the query") && error.contains("$near_to"), "{error}");
}

fn shard(text: &str) -> Shard {
    text.parse().expect("a shard")
}

#[test]
fn shards_of_any_selection_make_the_whole_of_it() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, (0..2500).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let read = |selection: &Selection, part: Option<Shard>| {
        let source = SampleSource::new(&dataset, Selection { shard: part, ..selection.clone() }).expect("a source");
        let counted = source.num_samples();
        let samples = read_all(source);
        assert_eq!(counted, Some(samples.len() as u64), "{selection:?}");
        assert!(samples.iter().enumerate().all(|(n, sample)| sample.sample.seq == n as u64));
        paths(&samples)
    };
    let odd = || vec!["odd".to_owned()];
    let ids = || Some((0..2600).rev().step_by(3).map(|n| id(n).to_hex()).collect::<Vec<_>>());
    let matching = || Some(r#"{"n": {"$gte": 240}}"#.to_owned());
    for selection in [
        Selection::default(),
        Selection { tags: odd(), ..Selection::default() },
        Selection { limit: Some(1111), ..Selection::default() },
        Selection { tags: odd(), matching: matching(), offset: 7, limit: Some(700), ..Selection::default() },
        Selection { offset: 7, ..Selection::default() },
        Selection { ids: ids(), ..Selection::default() },
        Selection { ids: ids(), tags: odd(), limit: Some(100), ..Selection::default() },
        Selection { ids: ids(), shuffle: Some(3), ..Selection::default() },
        Selection { shuffle: Some(7), ..Selection::default() },
        Selection { shuffle: Some(7), offset: 5, limit: Some(900), matching: matching(), ..Selection::default() },
        Selection { limit: Some(0), ..Selection::default() },
        Selection { shuffle: Some(7), limit: Some(0), ..Selection::default() },
    ] {
        let whole = read(&selection, None);
        assert_eq!(read(&selection, Some(Shard::WHOLE)), whole);
        let parts: Vec<Vec<String>> = ["1/3", "2/3", "3/3"].map(|part| read(&selection, Some(shard(part)))).into();
        // Each in the order of the whole, and each sample in one of them.
        for part in &parts {
            let members: HashSet<&String> = part.iter().collect();
            assert_eq!(whole.iter().filter(|path| members.contains(path)).collect::<Vec<_>>(), part.iter().collect::<Vec<_>>());
        }
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), whole.len(), "{selection:?}");
        assert_eq!(parts.concat().into_iter().collect::<HashSet<_>>(), whole.into_iter().collect(), "{selection:?}");
    }
    let none = Selection { tags: odd(), limit: Some(1), shard: Some(shard("1/2")), ..Selection::default() };
    let other = Selection { shard: Some(shard("2/2")), ..none.clone() };
    let notices =
        [none, other].map(|selection| SampleSource::new(&dataset, selection).expect("a source").notices().to_vec()).concat();
    let [notice] = &notices[..] else { panic!("one of the two has nothing: {notices:?}") };
    assert!(notice.starts_with("no sample of the selection is in shard "), "{notice}");
}

#[test]
fn a_shard_reads_no_documents_but_its_own() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, (0..3000).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    mongod.with(async |database| database.run_command(doc! {"profile": 2}).await);
    let samples = read_all(
        SampleSource::new(&dataset, Selection { shard: Some(shard("3/100")), ..Selection::default() }).expect("a source"),
    );
    assert!((1..100).contains(&samples.len()), "{}", samples.len());
    let examined = mongod.with(async |database| {
        let mut found = database.collection::<Document>("system.profile").find(doc! {"docsExamined": {"$exists": true}}).await?;
        let (mut documents, mut keys) = (0, 0);
        while found.advance().await? {
            let operation = found.deserialize_current()?;
            if operation.get_str("ns").is_ok_and(|ns| ns.contains("samples.")) {
                documents += operation.get_i32("docsExamined").unwrap_or_default();
                keys += operation.get_i32("keysExamined").unwrap_or_default();
            }
        }
        Ok((documents as usize, keys as usize))
    });
    assert_eq!(examined.0, samples.len());
    assert!((3000..3000 + 3 * samples.len()).contains(&examined.1), "{examined:?}");
}

#[test]
fn random_parts_are_the_same_each_time() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, (0..2500).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let read = |shuffle: u64, selection: Selection| {
        let source = SampleSource::new(&dataset, Selection { shuffle: Some(shuffle), ..selection }).expect("a source");
        let counted = source.num_samples();
        let samples = read_all(source);
        assert_eq!(counted, Some(samples.len() as u64));
        assert!(samples.iter().enumerate().all(|(n, sample)| sample.sample.seq == n as u64));
        paths(&samples)
    };
    let all = read(7, Selection::default());
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2500);
    assert_eq!(read(7, Selection { limit: Some(1200), ..Selection::default() }), all[..1200]);
    assert_eq!(read(7, Selection { offset: 1100, limit: Some(100), ..Selection::default() }), all[1100..1200]);
    assert_ne!(read(8, Selection { limit: Some(100), ..Selection::default() }), all[..100]);
    // A random half has about as many of each kind, and keeps the order of the whole.
    let half = read(7, Selection { limit: Some(1250), ..Selection::default() });
    let odd = Selection { tags: vec!["odd".into()], ..Selection::default() };
    let odd_first = read(7, Selection { limit: Some(500), ..odd });
    let is_odd = |path: &&String| path.trim_end_matches(".jpg").ends_with(['1', '3', '5', '7', '9']);
    assert!((560..690).contains(&half.iter().filter(is_odd).count()));
    assert_eq!(odd_first, all.iter().filter(is_odd).take(500).cloned().collect::<Vec<_>>());
    let ids: Vec<String> = (0..30).map(|n| id(n).to_hex()).collect();
    let listed = read(7, Selection { ids: Some(ids), limit: Some(5), ..Selection::default() });
    let number = |path: &str| path["/data/".len()..].trim_end_matches(".jpg").parse::<usize>().expect("a number");
    assert_eq!(listed, all.iter().filter(|path| number(path) < 30).take(5).cloned().collect::<Vec<_>>());
}

#[test]
fn a_tag_that_nobody_has_is_told() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, (0..4).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let tags = |tags: &[&str]| Selection { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..Selection::default() };
    assert!(SampleSource::new(&dataset, tags(&["odd", "even"])).expect("a source").notices().is_empty());
    let source = SampleSource::new(&dataset, tags(&["odd", "evn"])).expect("a source");
    assert_eq!(source.notices(), ["no sample of dataset `street` has the tag `evn`: the tags are `even`, `odd`"]);
    let error = |selection: Selection| SampleSource::new(&dataset, selection).map(drop).expect_err("nothing is meant").diagnose();
    let refused = error(tags(&["evn", "od"]));
    assert!(refused.message.contains("no sample has the tag `evn`, `od`"), "{refused}");
    assert!(refused.hints[0].starts_with("the tags are `even`, `odd`; a tag that nobody may have used yet"), "{refused:?}");
    let lost: Vec<String> = (90..99).map(|n| id(n).to_hex()).collect();
    for part in [None, Some(shard("1/2")), Some(shard("2/2"))] {
        let refused = error(Selection { ids: Some(lost.clone()), shard: part, ..Selection::default() });
        assert!(refused.message.contains("none of the 9 ids is in it"), "{refused}");
    }
    mongod.insert_dataset("new", doc! {}, Vec::new());
    let new = Dataset::open(&mongod.connect(), "new").expect("the dataset");
    assert!(SampleSource::new(&new, tags(&["odd"])).is_ok(), "nobody had the time to give it tags");
}

#[test]
fn heatmaps_are_known_by_the_beginning_of_their_fingerprints() {
    let mongod = Mongod::start(&[]);
    let dataset = mongod.insert_dataset("street", doc! {}, (0..6).map(sample).collect());
    let open = || Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let [own, other] = ["a", "b"].map(|letter| format!("{}-{}", letter.repeat(16), "c".repeat(16)));
    let mut sink = UpdateSink::new(&open(), vec![field("cam"), field("old")]).expect("a sink");
    let of = |n: usize, beginning: &str| {
        update(n, vec![heatmap("cam", &format!("{beginning}-1-2")), heatmap("old", &format!("{own}-1-2"))])
    };
    let outcomes = sink.commit(&[of(0, &own), of(1, &own), of(2, &other), of(3, &other)]).expect("outcomes");
    assert_eq!(outcomes, vec![CommitOutcome::Committed; 4]);
    let expected = |field: &str| ExpectedHeatmaps { field: field.into(), fingerprint: own.clone() };
    assert_eq!(other_heatmaps(&open(), &[expected("old"), expected("none")]).expect("an answer"), []);
    let found = other_heatmaps(&open(), &[expected("old"), expected("cam")]).expect("an answer");
    let [origin] = &found[..] else { panic!("{found:?}") };
    assert_eq!((origin.field.as_str(), origin.fingerprint.as_ref(), origin.count), ("cam", Some(&other), 2));
    // Somebody's own, and one without anything in it.
    let foreign = doc! {"$set": {"cam": {"_cls": "Heatmap", "_id": ObjectId::new()}, "old": null}};
    mongod.update_sample(dataset, id(4), foreign);
    let counts: Vec<_> = other_heatmaps(&open(), &[expected("cam")])
        .expect("an answer")
        .iter()
        .map(|o| (o.fingerprint.is_some(), o.count))
        .collect();
    assert_eq!(counts, [(true, 2), (false, 1)]);
    assert_eq!(
        same_heatmaps(&open(), &[expected("new")]).expect("an answer"),
        [("cam".into(), "new".into()), ("old".into(), "new".into())]
    );
    assert_eq!(same_heatmaps(&open(), &[expected("old")]).expect("an answer"), []);
}

#[test]
fn groups_are_read_slice_by_slice() {
    let mongod = Mongod::start(&[]);
    let slice = |n: usize| {
        let (mut sample, name) = (sample(n), ["left", "right", "pcd"][n % 3]);
        sample.insert("group", doc! {"_id": id(n / 3), "_cls": "Group", "name": name});
        sample
    };
    let group = doc! {"media_type": "group", "group_field": "group", "group_media_types": {"left": "image", "right": "image", "pcd": "3d"}};
    mongod.insert_dataset("drive", group, (0..30).map(slice).collect());
    let dataset = Dataset::open(&mongod.connect(), "drive").expect("the dataset");
    let read = |slices: &[&str]| {
        let slices = slices.iter().map(|slice| (*slice).to_owned()).collect();
        SampleSource::new(&dataset, Selection { slices, ..Selection::default() }).map(read_all)
    };
    assert_eq!(read(&[]).expect("both slices").len(), 20);
    assert_eq!(read(&["right"]).expect("one slice").len(), 10);
    assert!(read(&["pcd"]).expect_err("no images").to_string().contains("slice `pcd` holds no images"));
    assert!(dataset.notices()[0].contains("`pcd`"));
}

#[test]
fn pages_that_are_used_up_quickly_grow() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, (0..3500).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let pages = |selection: Selection| {
        let mut source = SampleSource::new(&dataset, selection).expect("a source");
        std::iter::from_fn(|| Some(source.next_samples().expect("a page")).filter(|page| !page.is_empty())).collect::<Vec<_>>()
    };
    let all = pages(Selection::default());
    assert_eq!(all[0].len(), 100);
    // A machine that is busy may take its time, but not for all of them.
    assert!(all.len() < 35, "{} pages", all.len());
    let all = all.concat();
    assert_eq!(paths(&all), (0..3500).map(|n| format!("/data/{n}.jpg")).collect::<Vec<_>>());
    assert!(all.iter().enumerate().all(|(n, sample)| sample.sample.seq == n as u64));
    // The page that is fetched ahead keeps to the limit, and to the list of ids.
    let some = pages(Selection { limit: Some(2222), ..Selection::default() }).concat();
    assert_eq!(some[..], all[..2222]);
    let ids = all.iter().step_by(2).map(|sample| sample.sample.id.clone()).collect();
    assert_eq!(pages(Selection { ids: Some(ids), ..Selection::default() }).concat().len(), 1750);
}

#[test]
fn large_masks_make_small_pages() {
    let mongod = Mongod::start(&[]);
    let large = |n: usize| {
        let mask = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![n as u8; 1 << 20] });
        let mut sample = sample(n);
        sample.insert("gt", doc! {"_id": ObjectId::new(), "_cls": "Segmentation", "tags": [], "mask": mask});
        sample
    };
    mongod.insert_dataset("large", doc! {}, (0..40).map(large).collect());
    let dataset = Dataset::open(&mongod.connect(), "large").expect("the dataset");
    let label = LabelField::choose(&dataset, Some("gt")).expect("the field");
    let mut source = SampleSource::new(&dataset, Selection { label: Some(label), ..Selection::default() }).expect("a source");
    let mut sizes = Vec::new();
    loop {
        let page = source.next_samples().expect("a page");
        if page.is_empty() {
            break;
        }
        sizes.push(page.len());
    }
    assert_eq!(sizes.iter().sum::<usize>(), 40);
    assert!(sizes.iter().all(|size| *size <= 9), "{sizes:?}");

    // A list is read in its order, whatever comes of one query.
    let order: Vec<usize> = (0..40).map(|n| n * 7 % 40).collect();
    let ids = order.iter().map(|n| id(*n).to_hex()).collect();
    let label = LabelField::choose(&dataset, Some("gt")).expect("the field");
    let listed = Selection { label: Some(label), ids: Some(ids), ..Selection::default() };
    let mut source = SampleSource::new(&dataset, listed).expect("a source");
    let pages = std::iter::from_fn(|| Some(source.next_samples().expect("a page")).filter(|page| !page.is_empty()));
    let pages: Vec<_> = pages.collect();
    assert!(pages.iter().all(|page| page.len() <= 9));
    assert_eq!(paths(&pages.concat()), order.iter().map(|n| format!("/data/{n}.jpg")).collect::<Vec<_>>());
}

#[test]
fn reading_and_writing_go_on_after_the_server_was_away() {
    let mut mongod = Mongod::start(&[]);
    let dataset_id = mongod.insert_dataset("street", doc! {}, (0..250).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut source = SampleSource::new(&dataset, Selection::default()).expect("a source");
    let mut sink = UpdateSink::new(&dataset, vec![field("cam")]).expect("a sink");
    let mut samples = source.next_samples().expect("a page");
    sink.commit(&[update(0, vec![heatmap("cam", "first")])]).expect("a commit");
    // What mongod has answered for must last, although it writes its journal every 100 ms only if nobody asks for more.
    mongod.stop();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            mongod.restart();
        });
        samples.extend(source.next_samples().expect("a page after the restart"));
        sink.commit(&[update(1, vec![heatmap("cam", "second")])]).expect("a commit after the restart");
    });
    samples.extend(read_all(source));
    assert_eq!(paths(&samples), (0..250).map(|n| format!("/data/{n}.jpg")).collect::<Vec<_>>());
    for (n, fingerprint) in [(0, "first"), (1, "second")] {
        let stored = mongod.sample(dataset_id, id(n));
        assert_eq!(stored.get_document("cam").expect("the label").get_str("fingerprint").expect("text"), fingerprint);
    }
}

#[test]
fn a_lost_server_ends_the_run_with_a_hint() {
    let mut mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, (0..250).map(sample).collect());
    let uri = format!("mongodb://127.0.0.1:{}/?serverSelectionTimeoutMS=5000", mongod.port);
    let location = DatabaseLocation::Server(ConnectionUri::new(uri, "a test"));
    let config = DatabaseConfig { location, name: "fiftyone".into() };
    let database = Database::connect(&config, &ConnectOptions::default()).expect("a connection").database;
    let mut source =
        SampleSource::new(&Dataset::open(&database, "street").expect("the dataset"), Selection::default()).expect("a source");
    mongod.stop();
    let RunError::Database(error) = source.next_samples().expect_err("no server") else { panic!("the database") };
    assert!(error.message.contains("reading samples of dataset `street`") && error.hints.len() == 1, "{error:?}");
    assert_eq!(error.causes.len(), 1, "{error:?}");
}

#[test]
fn fields_are_declared_with_the_first_update_and_only_once() {
    let mongod = Mongod::start(&[]);
    let id = mongod.insert_dataset("street", doc! {}, (0..3).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut sink = UpdateSink::new(&dataset, vec![field("cam_1"), field("cam_2")]).expect("a sink");
    assert_eq!(mongod.sample_fields(id).len(), 4, "nothing is written before the first update");
    sink.commit(&[update(0, vec![heatmap("cam_1", "a"), heatmap("cam_2", "b")])]).expect("a commit");
    let names =
        |entries: &[Document]| entries.iter().map(|entry| entry.get_str("name").expect("a name").to_owned()).collect::<Vec<_>>();
    let declared = mongod.sample_fields(id);
    assert_eq!(names(&declared), ["id", "filepath", "gt", "weather", "cam_1", "cam_2"]);
    assert!(sink.schema().declare().expect("nothing to do").is_empty());
    assert_eq!(mongod.sample_fields(id), declared);

    // Somebody deletes one field and takes an attribute from the other.
    mongod.with(async |database| {
        let datasets = database.collection::<Document>("datasets");
        datasets.update_one(doc! {"_id": id}, doc! {"$pull": {"sample_fields": {"name": "cam_1"}}}).await?;
        let query = doc! {"_id": id, "sample_fields.name": "cam_2"};
        datasets.update_one(query, doc! {"$pull": {"sample_fields.$.fields": {"name": "score"}}}).await
    });
    assert_eq!(sink.schema().declare().expect("the declarations"), ["cam_1", "cam_2"]);
    let again = mongod.sample_fields(id);
    assert_eq!(names(&again), ["id", "filepath", "gt", "weather", "cam_2", "cam_1"]);
    let attributes = |entry: &Document| entry.get_array("fields").expect("attributes").len();
    assert_eq!(attributes(&again[4]), attributes(&declared[5]));

    let error = UpdateSink::new(&dataset, vec![field("weather")]).map(drop).expect_err("a taken name").diagnose();
    assert!(error.message.contains("`weather`") && error.message.contains("of type Classification"), "{error}");
    assert!(error.hints[0].contains("`--field`"), "{error:?}");
}

#[test]
fn a_label_keeps_what_people_added_to_it() {
    let mongod = Mongod::start(&[]);
    let dataset_id = mongod.insert_dataset("street", doc! {}, (0..3).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut sink = UpdateSink::new(&dataset, vec![field("cam")]).expect("a sink");
    let label = |n: usize| mongod.sample(dataset_id, id(n)).get_document("cam").expect("a label").clone();
    sink.commit(&[update(0, vec![heatmap("cam", "$first")])]).expect("a commit");
    let first = label(0);
    let keys: Vec<&str> = first.keys().map(String::as_str).collect();
    let expected = [
        "_id",
        "_cls",
        "tags",
        "target_class",
        "score",
        "confidence",
        "energy_inside",
        "energy_ratio",
        "pointing_hit",
        "best_iou",
        "best_threshold",
        "center_offset",
        "object_area",
        "entropy",
        "rank_correlation",
        "confidence_drop",
        "confidence_increase",
        "deletion_auc",
        "insertion_auc",
        "road",
        "confidence_without_object",
        "confidence_without_background",
        "confidence_without_attended",
        "context_reliance",
        "contrast_class",
        "predicted_class",
        "predicted_confidence",
        "true_class",
        "correct",
        "method",
        "layer",
        "model",
        "map_path",
        "range",
        "npy_path",
        "map_checksum",
        "npy_checksum",
        "upsampling",
        "fingerprint",
    ];
    assert_eq!(keys, expected, "the App's tooltip shows them in this order");
    assert_eq!(first.get_str("fingerprint").expect("text"), "$first", "not taken for a field path");
    assert!(mongod.sample(dataset_id, id(0)).get_datetime("last_modified_at").expect("a date").timestamp_millis() > 0);

    mongod.update_sample(dataset_id, id(0), doc! {"$set": {"cam.tags": ["good"], "cam.note": "mine"}});
    mongod.update_sample(dataset_id, id(1), doc! {"$set": {"cam": {"note": "a fragment"}}});
    mongod.update_sample(dataset_id, id(2), doc! {"$set": {"cam": null}});
    let inline =
        WrittenHeatmap { map: StoredMap::Inline(vec![1, 2, 3]), npy_path: None, score: f64::NAN, ..heatmap("cam", "second") };
    let mut updates: Vec<SampleUpdate> = (0..3).map(|n| update(n, vec![inline.clone()])).collect();
    let selection = Selection { heatmap_fields: vec!["cam".into()], ..Selection::default() };
    for (update, read) in updates.iter_mut().zip(read_all(SampleSource::new(&dataset, selection).expect("a source"))) {
        update.existing = read.existing;
    }
    assert_eq!(sink.commit(&updates).expect("a commit"), vec![CommitOutcome::Committed; 3]);
    for n in 0..3 {
        let label = label(n);
        assert_eq!(label.get_str("_cls").expect("a class"), "Heatmap");
        assert!(
            label.get_object_id("_id").is_ok() && label.get_array("tags").is_ok() && !label.contains_key("map_path"),
            "{label}"
        );
        assert_eq!(label.get("score"), Some(&Bson::Null));
        assert_eq!(label.get("energy_inside"), Some(&Bson::Double(0.75)));
        assert_eq!(label.get("pointing_hit"), Some(&Bson::Boolean(true)));
        assert_eq!(label.get("entropy"), Some(&Bson::Null));
        assert_eq!(label.get_binary_generic("map").expect("an array"), &[1, 2, 3]);
    }
    assert_eq!(label(0).get_object_id("_id").expect("an id"), first.get_object_id("_id").expect("an id"));
    assert_eq!(label(0).get_array("tags").expect("tags"), &[Bson::from("good")]);
    assert_eq!((label(0).get_str("note").ok(), label(1).get_str("note").ok()), (Some("mine"), Some("a fragment")));

    // What was written is read back.
    let selection = Selection { heatmap_fields: vec!["cam".into()], ..Selection::default() };
    let samples = read_all(SampleSource::new(&dataset, selection).expect("a source"));
    assert!(samples.iter().all(|sample| sample.existing[0].fingerprint.as_deref() == Some("second")));
}

#[test]
fn what_somebody_else_changed_since_it_was_read_stays() {
    let mongod = Mongod::start(&[]);
    let dataset_id = mongod.insert_dataset("street", doc! {}, (0..7).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut sink = UpdateSink::new(&dataset, vec![field("cam"), field("other")]).expect("a sink");
    sink.lock(Shard::WHOLE).expect("nobody has it");
    let of = |n: usize, fingerprint: &str| update(n, vec![heatmap("cam", fingerprint), heatmap("other", fingerprint)]);
    // The first five have heatmaps already, the others have none.
    assert_eq!(
        sink.commit(&(0..5).map(|n| of(n, "first")).collect::<Vec<_>>()).expect("a commit"),
        vec![CommitOutcome::Committed; 5]
    );
    let selection = Selection { heatmap_fields: vec!["cam".into(), "other".into()], ..Selection::default() };
    let read = read_all(SampleSource::new(&dataset, selection).expect("a source"));

    let mut updates: Vec<SampleUpdate> = (0..7).map(|n| of(n, "second")).collect();
    updates[4] = SampleUpdate { withdrawn: vec!["cam".into(), "other".into()], ..update(4, vec![]) };
    for (update, read) in updates.iter_mut().zip(read) {
        update.existing = read.existing;
    }
    // Another run, a person who gave the label another picture, one who deleted it; and where there was none, another run.
    mongod.update_sample(dataset_id, id(0), doc! {"$set": {"other.fingerprint": "third"}});
    mongod.update_sample(dataset_id, id(1), doc! {"$set": {"cam.map_path": "/corrected.png"}});
    mongod.update_sample(dataset_id, id(2), doc! {"$unset": {"cam": ""}});
    mongod.update_sample(dataset_id, id(4), doc! {"$set": {"cam.fingerprint": "third"}});
    mongod.update_sample(dataset_id, id(5), doc! {"$set": {"cam": {"_cls": "Heatmap", "fingerprint": "third"}}});
    // What does not matter: a tag.
    mongod.update_sample(dataset_id, id(3), doc! {"$set": {"cam.tags": ["good"]}});
    let before: Vec<Document> = (0..7).map(|n| mongod.sample(dataset_id, id(n))).collect();
    let outcomes = sink.commit(&updates).expect("a commit");
    for (n, outcome) in outcomes.iter().enumerate() {
        match (n, outcome) {
            (3 | 6, CommitOutcome::Committed) => {
                let sample = mongod.sample(dataset_id, id(n));
                let label = sample.get_document("cam").expect("a label");
                assert_eq!(label.get_str("fingerprint").expect("text"), "second");
            }
            (0 | 1 | 2 | 4 | 5, CommitOutcome::Abandoned(reason)) => {
                let field = if n == 0 { "`other`" } else { "`cam`" };
                assert!(reason.contains(field) && reason.contains("; run the same command again"), "{reason}");
                assert_eq!(mongod.sample(dataset_id, id(n)), before[n], "nothing of it was written");
            }
            (n, outcome) => panic!("sample {n}: {outcome:?}"),
        }
    }
    // The same update again, as after a lost answer.
    assert_eq!(sink.commit(&[updates.remove(6)]).expect("a commit"), [CommitOutcome::Committed]);
}

#[test]
fn a_reference_counts_wherever_it_stands() {
    use proptest::{prelude::*, test_runner::TestRunner};

    let key = |n: usize| format!("{}.{n:08x}.png", id(n).to_hex());
    let name = |n: usize| FileName::new("f", &id(n).to_hex()[22..], &key(n)).expect("a name of camflow's");
    // What may hold a path: itself, or lists, documents and longer texts around it, under any key.
    let text = prop_oneof!["[ -~]{0,12}", "/[a-z]{1,8}/"];
    let value = (text.clone(), text.clone()).prop_map(|(before, after)| (before, after)).boxed();
    let nested = proptest::collection::vec((0..4u8, "[a-z_][a-z0-9_ ]{0,6}"), 0..5);
    let mongod = Mongod::start(&[]);
    let street = mongod.insert_dataset("street", doc! {}, vec![sample(0)]);
    mongod.insert_dataset("other", doc! {}, vec![sample(0)]);
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let collections = [format!("samples.{}", street.to_hex()), "frames.of_a_video".to_owned(), "patches.street".to_owned()];
    let mut runner = TestRunner::new_with_rng(
        proptest::test_runner::Config { cases: 60, failure_persistence: None, ..Default::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let cases = (value, nested, 0..collections.len(), 0..3u8);
    let number = std::cell::Cell::new(100);
    runner
        .run(&cases, |((before, after), nested, collection, kind)| {
            let n = number.replace(number.get() + 1);
            let path = format!("{before}/{}", key(n));
            let mut value = match kind {
                0 => Bson::String(format!("{path} {after}")),
                1 => Bson::String(path),
                _ => Bson::Document(doc! {"_cls": "Heatmap", "map_path": path}),
            };
            for (kind, key) in &nested {
                value = match kind {
                    0 => Bson::Array(vec![1.into(), value]),
                    1 => Bson::Document(doc! {key: value, "_cls": "Detection"}),
                    2 => Bson::Document(doc! {"_id": ObjectId::new(), "attributes": {key: {"value": value}}}),
                    _ => Bson::Array(vec![Bson::Null, doc! {key: value}.into()]),
                };
            }
            mongod.with(async |database| {
                let documents = database.collection::<Document>(&collections[collection]);
                documents.insert_one(doc! {"_id": ObjectId::new(), "some_field": value}).await
            });
            Ok(())
        })
        .expect("documents are inserted");
    let references = References::read(&dataset).expect("they can be read");
    for n in 100..number.get() {
        assert!(references.contains(&name(n)), "{n}");
    }
    assert!(!references.contains(&name(99)));
}

#[test]
fn each_update_has_its_own_outcome() {
    let mongod = Mongod::start(&[]);
    let dataset_id = mongod.insert_dataset("street", doc! {}, (0..2500).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut sink = UpdateSink::new(&dataset, vec![field("cam")]).expect("a sink");
    mongod.with(async |database| {
        database.collection::<Document>(&format!("samples.{}", dataset_id.to_hex())).delete_one(doc! {"_id": id(3)}).await
    });
    // A sample that is nearly full, a label that is no document, and an update that is too large by itself.
    mongod.update_sample(dataset_id, id(5), doc! {"$set": {"other": "x".repeat(10 << 20)}});
    mongod.update_sample(dataset_id, id(6), doc! {"$set": {"cam": "text"}});
    let inline = |bytes: usize| WrittenHeatmap { map: StoredMap::Inline(vec![1; bytes]), ..heatmap("cam", "f") };
    let mut updates: Vec<SampleUpdate> = (0..2500).map(|n| update(n, vec![heatmap("cam", "f")])).collect();
    updates[5] = update(5, vec![inline(8 << 20)]);
    updates[7] = update(7, vec![inline(16 << 20)]);
    updates[8] = update(8, vec![inline(9 << 20)]);
    let outcomes = sink.commit(&updates).expect("a commit");
    assert_eq!(outcomes.len(), 2500);
    for (n, outcome) in outcomes.iter().enumerate() {
        match (n, outcome) {
            (3, CommitOutcome::SampleGone) => {}
            (5, CommitOutcome::Refused(reason)) => assert!(reason.contains("16 MiB"), "{reason}"),
            (6, CommitOutcome::Refused(reason)) => assert!(reason.contains("error"), "{reason}"),
            (7, CommitOutcome::Refused(reason)) => assert!(reason.contains("--store path"), "{reason}"),
            (3 | 5..=7, other) => panic!("sample {n}: {other:?}"),
            (_, outcome) => assert_eq!(*outcome, CommitOutcome::Committed, "sample {n}"),
        }
    }
    let committed = mongod.with(async |database| {
        let samples = database.collection::<Document>(&format!("samples.{}", dataset_id.to_hex()));
        samples.count_documents(doc! {"cam.fingerprint": "f"}).await
    });
    assert_eq!(committed, 2496);
}

#[test]
fn a_deleted_dataset_ends_the_run() {
    let mongod = Mongod::start(&[]);
    let dataset_id = mongod.insert_dataset("street", doc! {}, (0..250).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut source = SampleSource::new(&dataset, Selection::default()).expect("a source");
    let mut sink = UpdateSink::new(&dataset, vec![field("cam")]).expect("a sink");
    source.next_samples().expect("a page");
    sink.commit(&[update(0, vec![heatmap("cam", "f")])]).expect("a commit");
    mongod.delete_dataset(dataset_id);
    for error in [
        source.next_samples().expect_err("no dataset").to_string(),
        sink.commit(&[update(1, vec![heatmap("cam", "f")])]).expect_err("no dataset").to_string(),
    ] {
        assert!(error.starts_with("dataset `street` was deleted"), "{error}");
    }
    let collections = mongod.with(async |database| database.list_collection_names().await);
    assert!(!collections.iter().any(|name| name.starts_with("samples.")), "{collections:?}");
}

#[test]
fn a_renamed_dataset_is_still_ours() {
    let mongod = Mongod::start(&[]);
    let dataset_id = mongod.insert_dataset("street", doc! {}, (0..3).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    mongod.with(async |database| {
        let rename = doc! {"$set": {"name": "road", "slug": "road"}};
        database.collection::<Document>("datasets").update_one(doc! {"_id": dataset_id}, rename).await
    });
    let outcomes = UpdateSink::new(&dataset, vec![field("cam")]).expect("a sink").commit(&[update(0, vec![heatmap("cam", "f")])]);
    assert_eq!(outcomes.expect("a commit"), [CommitOutcome::Committed]);
}

#[test]
fn wrong_names_are_answered_with_the_right_ones() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {"persistent": false}, Vec::new());
    let generated = doc! {"name": "2026.11.27.07.05.25", "sample_collection_name": "patches.6568"};
    mongod.with(async |database| database.collection::<Document>("datasets").insert_one(generated).await);
    let database = mongod.connect();
    assert_eq!(database.datasets().expect("the datasets").len(), 1);
    let error = Dataset::open(&database, "stret").expect_err("no such dataset").diagnose();
    assert_eq!(error.message, "no dataset `stret` in database `fiftyone`");
    assert_eq!(error.hints, ["the datasets are `street`; `camflow doctor` lists them"]);
    let dataset = Dataset::open(&database, "street").expect("the dataset");
    assert!(dataset.notices()[0].contains("is not persistent"));
    let error = LabelField::choose(&dataset, Some("filepath")).expect_err("no label").diagnose();
    assert!(error.message.contains("is of type StringField"), "{error}");
    assert!(error.hints[0].contains("`gt` (Segmentation), `weather` (Classification)"), "{error:?}");
    let error = LabelField::choose(&dataset, Some("gtt")).expect_err("no field").diagnose();
    assert!(error.message.contains("there is no field `gtt`") && error.hints[0].contains("`gt`"), "{error:?}");
    let has = |field: &str, class: &str| dataset.mask_targets(field).expect("targets").iter().any(|(name, _)| name == class);
    assert!(has("gt", "person") && !has("gt", "car") && has("other", "car"));
    let summaries = database.datasets().expect("the list");
    assert_eq!((summaries[0].name.as_str(), summaries[0].num_samples, summaries[0].persistent), ("street", 0, false));
}

#[test]
fn wrong_credentials_are_said_without_showing_them() {
    let mongod = Mongod::start(&["--auth"]);
    // Without users, a local client may make the first one.
    let user = doc! {"createUser": "ada", "pwd": "right", "roles": ["root"]};
    mongod
        .runtime
        .block_on(async {
            let client = mongodb::Client::with_uri_str(format!("mongodb://127.0.0.1:{}", mongod.port)).await?;
            client.database("admin").run_command(user).await
        })
        .expect("a user");
    for credentials in ["", "ada:wrong@"] {
        let error = Database::connect(&mongod.config(credentials), &ConnectOptions::default()).map(drop).expect_err("refused");
        assert!(matches!(error, Error::Credentials { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("wrong"), "{error:?}");
    }
    let connected = Database::connect(&mongod.config("ada:right@"), &ConnectOptions::default()).expect("a connection");
    assert!(connected.notices[0].contains("holds nothing of FiftyOne yet"), "{:?}", connected.notices);
    assert!(!format!("{connected:?}").contains("right"));
}

/// FiftyOne deletes non-persistent datasets unless it counts another client by this very query.
#[test]
fn fiftyone_counts_us_as_a_client() {
    let mongod = Mongod::start(&[]);
    let database = mongod.connect();
    assert_eq!(database.describe().address, format!("mongodb://127.0.0.1:{}", mongod.port));
    // The monitor waits for news in a `hello` of ten seconds, after a first one that is answered at once.
    std::thread::sleep(Duration::from_millis(500));
    let mut counts = Vec::new();
    for _ in 0..30 {
        counts.push(
            mongod
                .runtime
                .block_on(async {
                    let client = mongodb::Client::with_uri_str(format!("mongodb://127.0.0.1:{}", mongod.port)).await?;
                    let pipeline = vec![
                        doc! {"$currentOp": {"allUsers": true}},
                        doc! {"$project": {"appName": true, "command": true}},
                        doc! {"$match": {"appName": "fiftyone", "$or": [{"command.ismaster": 1}, {"command.hello": 1}]}},
                    ];
                    let mut cursor = client.database("admin").aggregate(pipeline).await?;
                    let mut count = 0;
                    while cursor.advance().await? {
                        count += 1;
                    }
                    mongodb::error::Result::Ok(count)
                })
                .expect("the running operations"),
        );
        std::thread::sleep(Duration::from_millis(400));
    }
    assert!(counts.iter().all(|count| *count >= 1), "{counts:?}");
}

/// The driver says good-bye to the server on threads of its own, which must not be taken from under it.
#[test]
fn a_connection_ends_without_a_panic() {
    static NUM_PANICS: AtomicUsize = AtomicUsize::new(0);
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("d", doc! {}, (0..300).map(sample).collect());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_of_driver = std::thread::current().name() == Some("camflow-mongodb");
        NUM_PANICS.fetch_add(usize::from(is_of_driver), Ordering::Relaxed);
        before(panic);
    }));
    for number in 0..400 {
        let database = mongod.connect();
        let mut source =
            SampleSource::new(&Dataset::open(&database, "d").expect("the dataset"), Selection::default()).expect("a source");
        // Every other time with a page on its way.
        for _ in 0..number % 2 * 2 {
            source.next_samples().expect("a page");
        }
    }
    assert_eq!(NUM_PANICS.load(Ordering::Relaxed), 0);
}

#[test]
fn runs_that_write_the_same_fields_exclude_each_other() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, vec![sample(0)]);
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let other = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let fields = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();

    let person = Lock::acquire(&dataset, Some(&fields(&["person_1", "person_2"]))).expect("nobody has it");
    let error = Lock::acquire(&other, Some(&fields(&["person_2", "dog_2"]))).expect_err("one field is taken");
    let Error::Locked { process, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*process, std::process::id());
    let dog = Lock::acquire(&other, Some(&fields(&["dog_1"]))).expect("other fields are free");
    assert!(matches!(Lock::acquire(&other, None), Err(Error::Locked { .. })), "nor can anyone have them all");
    drop((person, dog));
    let all = Lock::acquire(&other, None).expect("all were given back");
    assert!(matches!(Lock::acquire(&dataset, Some(&fields(&["cat_1"]))), Err(Error::Locked { .. })));
    drop(all);
    let left = mongod.with(async |database| database.collection::<Document>("camflow.locks").find_one(doc! {}).await);
    assert_eq!(left, None, "what is given back leaves nothing behind");
}

#[test]
fn shards_exclude_those_that_share_samples_with_them() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, vec![sample(0)]);
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let locked = |part: &str, names: &[&str]| {
        let mut sink = UpdateSink::new(&dataset, names.iter().map(|name| field(name)).collect()).expect("a sink");
        sink.lock(shard(part)).map(|()| sink)
    };
    for (held, wanted, is_free) in [
        ("1/3", "2/3", true),
        ("1/3", "1/3", false),
        ("1/1", "2/3", false),
        ("3/3", "1/1", false),
        ("2/3", "1/2", false),
        ("1/2", "2/4", true),
        ("1/2", "3/4", false),
        ("2/4", "4/6", false),
        ("2/4", "3/6", true),
        ("10000/10000", "4/4", false),
        ("9999/10000", "4/4", true),
    ] {
        let holder = locked(held, &["cam_1", "cam_2"]).expect("nobody has it");
        let found = locked(wanted, &["cam_2"]);
        assert_eq!(found.is_ok(), is_free, "{wanted} while {held} is held");
        assert!(locked(wanted, &["cam_3"]).is_ok(), "another field");
        match (found, held) {
            (Err(error), "1/1") => assert!(!error.to_string().contains("shard"), "{error}"),
            (Err(error), _) => assert!(error.to_string().contains(&format!("`street` in shard {held}: process")), "{error}"),
            (Ok(_), _) => {}
        }
        assert!(matches!(Lock::acquire(&dataset, None), Err(Error::Locked { .. })), "`clean` waits for every shard");
        drop(holder);
    }
    let parts = ["1/3", "2/3", "3/3"].map(|part| locked(part, &["cam_1"]).expect("they share nothing"));
    assert!(locked("7/12", &["cam_1"]).is_err(), "each sample is somebody's");
    drop(parts);
    let all = Lock::acquire(&dataset, None).expect("all were given back");
    assert!(locked("7/12", &["cam_1"]).is_err());
    drop(all);
}

fn note(job: Option<&str>, fields: &[&str], folder: &str, part: Option<Part>, num_committed: i64) -> RunNote {
    let counts = serde_json::json!({"num_committed": num_committed, "skipped": {"class not in label": num_committed}});
    let details = [("counts", counts), ("model_digest", "$m".into()), ("started", format!("2026-01-0{num_committed}").into())];
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    let details = details.into_iter().map(|(name, detail)| (name.to_owned(), detail)).collect();
    RunNote { job: job.map(Into::into), fields, folder: Some(folder.into()), part, details }
}

#[test]
fn a_record_keeps_what_earlier_runs_wrote() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, vec![sample(0)]);
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    assert_eq!(note_run(&dataset, &note(Some("j"), &["a", "b"], "/maps", None, 1)).expect("noted"), "camflow_j");
    assert_eq!(note_run(&dataset, &note(Some("j"), &["b", "c"], "/$other", None, 2)).expect("noted"), "camflow_j");
    let [run] = &stored_runs(&dataset).expect("the runs")[..] else { panic!("one record") };
    assert_eq!(run.fields, ["a", "b", "c"]);
    assert_eq!(run.folders, [std::path::Path::new("/maps"), std::path::Path::new("/$other")]);
    assert_eq!((&run.config["first_started"], &run.config["started"]), (&"2026-01-01".into(), &"2026-01-02".into()));
    assert_eq!((&run.config["model_digest"], &run.config["counts"]["num_committed"]), (&"$m".into(), &2.into()));
    assert_eq!(run.config.get("shards"), None);
}

#[test]
fn shards_that_end_at_once_lose_nothing_of_their_record() {
    const COUNT: u32 = 8;
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, vec![sample(0)]);
    let part =
        |index: u32, is_done: bool, is_idle: bool| Some(Part { shard: shard(&format!("{index}/{COUNT}")), is_done, is_idle });
    let datasets: Vec<Dataset> = (0..COUNT).map(|_| Dataset::open(&mongod.connect(), "street").expect("the dataset")).collect();
    for job in [None, Some("j")] {
        let start = std::sync::Barrier::new(datasets.len());
        std::thread::scope(|scope| {
            for (index, dataset) in (1..).zip(&datasets) {
                let (start, note) = (&start, note(job, &["b", "a"], &format!("/maps/{index}"), part(index, true, false), 2));
                scope.spawn(move || {
                    start.wait();
                    note_run(dataset, &note).expect("noted");
                });
            }
        });
    }
    let runs = || stored_runs(&datasets[0]).expect("the runs");
    assert_eq!(runs().iter().map(|run| run.key.clone()).collect::<Vec<_>>(), ["camflow_b_and_1_more", "camflow_j"]);
    for run in runs() {
        assert_eq!(run.config["counts"], serde_json::json!({"num_committed": 16, "skipped": {"class not in label": 16}}));
        let mut done: Vec<i64> =
            run.config["shards"]["done"].as_array().expect("a list").iter().filter_map(|n| n.as_i64()).collect();
        done.sort_unstable();
        assert_eq!((done, run.folders.len()), ((1..=8).collect(), 8));
    }

    // The rounds of one job.
    let say = |note: RunNote| {
        note_run(&datasets[0], &note).expect("noted");
        let run = runs().into_iter().find(|run| run.key == "camflow_j").expect("the record");
        let shards = run.config.get("shards").map_or("none".to_owned(), |shards| shards["done"].to_string());
        (run.config["counts"]["num_committed"].as_i64().expect("a number"), shards)
    };
    let of = |part, num_committed| note(Some("j"), &["a", "b"], "/maps/1", part, num_committed);
    let (_, all) = say(of(part(3, true, true), 0));
    assert_eq!(all.matches(',').count(), 7, "nothing new of a shard that has had its say");
    assert_eq!(say(of(part(3, true, false), 5)), (5, "[3]".into()));
    assert_eq!(say(of(part(4, true, true), 0)), (5, "[3,4]".into()));
    assert_eq!(say(of(part(5, false, false), 1)), (6, "[3,4]".into()), "cut off, and to be done again");
    assert_eq!(say(of(part(5, true, false), 2)), (8, "[3,4,5]".into()));
    let mut new_model = of(part(6, true, false), 3);
    new_model.details.insert("model_digest".into(), "other".into());
    assert_eq!(say(new_model), (3, "[6]".into()));
    assert_eq!(say(of(None, 9)), (9, "none".into()));
}

/// FiftyOne takes a field from the samples first and from the schema afterwards.
#[test]
fn a_field_that_is_being_deleted_is_noticed_before_it_is_gone_from_the_schema() {
    let mongod = Mongod::start(&[]);
    let dataset_id = mongod.insert_dataset("street", doc! {}, (0..3).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut sink = UpdateSink::new(&dataset, vec![field("cam_1"), field("cam_2")]).expect("a sink");
    assert!(!sink.is_losing_a_field().expect("an answer"), "nothing is written yet");
    sink.commit(&[update(0, vec![heatmap("cam_1", "a")]), update(1, vec![heatmap("cam_1", "a"), heatmap("cam_2", "b")])])
        .expect("a commit");
    assert!(!sink.is_losing_a_field().expect("an answer"));

    let take_from = |query: Document| {
        mongod.with(async |database| {
            let samples = database.collection::<Document>(&format!("samples.{}", dataset_id.to_hex()));
            samples.update_many(query, doc! {"$unset": {"cam_1": ""}}).await
        })
    };
    take_from(doc! {"_id": id(0)});
    assert!(!sink.is_losing_a_field().expect("an answer"), "one label was deleted, not the field");
    take_from(doc! {});
    sink.commit(&[update(2, vec![heatmap("cam_1", "a")])]).expect("a commit");
    assert!(sink.is_losing_a_field().expect("an answer"), "sample 2 will have an undeclared field");
    assert_eq!(mongod.sample_fields(dataset_id).len(), 6, "it is still declared");
}

#[test]
fn shards_that_start_at_once_declare_their_fields_once() {
    let mongod = Mongod::start(&[]);
    let dataset_id = mongod.insert_dataset("street", doc! {"app_config": {}}, (0..80).map(sample).collect());
    let datasets: Vec<Dataset> = (0..8).map(|_| Dataset::open(&mongod.connect(), "street").expect("the dataset")).collect();
    let start = std::sync::Barrier::new(datasets.len());
    let names = ["cam_1", "cam_2", "cam_3", "cam_4"];
    std::thread::scope(|scope| {
        for (index, dataset) in datasets.iter().enumerate() {
            let start = &start;
            scope.spawn(move || {
                let mut sink = UpdateSink::new(dataset, names.map(field).to_vec()).expect("a sink");
                // Nothing is labelled in the one that is preferred.
                let candidates = ["cam_5", "cam_4", "cam_1"].map(|field| Ticked { field: field.into(), detections: None });
                sink.show_in_app(AppView { candidates: candidates.into(), colors: AppColors::Jet });
                sink.lock(shard(&format!("{}/8", index + 1))).expect("they share nothing");
                start.wait();
                sink.commit(&[update(index, names.map(|name| heatmap(name, "f")).to_vec())]).expect("a commit");
                assert_eq!(sink.schema().declare().expect("looked after"), [""; 0]);
            });
        }
    });
    let declared = mongod.sample_fields(dataset_id);
    let declared: Vec<&str> = declared.iter().filter_map(|entry| entry.get_str("name").ok()).collect();
    assert_eq!(declared, ["id", "filepath", "gt", "weather", "cam_1", "cam_2", "cam_3", "cam_4"]);
    let stored = mongod.with(async |database| database.collection::<Document>("datasets").find_one(doc! {}).await);
    let app = stored.expect("the dataset").get_document("app_config").expect("settings").clone();
    let coloured = app.get_document("color_scheme").expect("colours").get_array("fields").expect("a list").len();
    assert_eq!(coloured, 4, "{app}");
    let groups = app.get_array("sidebar_groups").expect("groups");
    let group = groups[0].as_document().expect("a group");
    let paths = group.get_array("paths").expect("a list").iter().filter_map(Bson::as_str);
    assert_eq!((groups.len(), paths.collect::<Vec<_>>()), (1, names.to_vec()));
    let ticked = app.get_document("active_fields").expect("ticked").get_array("paths").expect("a list");
    assert_eq!(ticked.iter().filter_map(Bson::as_str).collect::<Vec<_>>(), ["cam_4", "weather"]);
}

#[test]
fn known_failures_belong_to_a_job_and_go_with_it() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("d", doc! {}, vec![sample(0)]);
    let dataset = Dataset::open(&mongod.connect(), "d").expect("the dataset");
    let documents = || {
        let found = mongod.with(async |database| {
            let failures = database.collection::<Document>("camflow.failures");
            futures_util::TryStreamExt::try_collect::<Vec<_>>(failures.find(doc! {}).sort(doc! {"_id": 1}).await?).await
        });
        found
            .iter()
            .map(|document| document.get_str("_id").expect("an id").rsplit('/').next().expect("a sample").to_owned())
            .collect::<Vec<_>>()
    };
    let key = |job: Option<&str>| failure_key(&dataset, job, &["a".to_owned(), "b".to_owned()]);
    let cause: FailureCause = "0123456789abcdef".parse().expect("digits");
    let failures = |samples: &[&str]| {
        let mut failures = KnownFailures::default();
        samples.iter().for_each(|sample| assert!(!failures.failed(sample, cause)));
        failures
    };
    let [first, gone] = [id(0).to_hex(), id(7).to_hex()];
    note_failures(&dataset, key(None), &failures(&[&first]), false).expect("noted");
    assert!(documents().is_empty(), "a run that was cut short knows no failures");
    for job in [None, Some("night")] {
        note_failures(&dataset, key(job), &failures(&[&first, &gone]), true).expect("noted");
    }
    assert_eq!(documents().len(), 4);
    let knows = |job, sample| known_failures(&dataset, key(job)).expect("read").is_known(sample, cause);
    assert!(knows(None, &first) && knows(None, &gone) && !knows(Some("other"), &first));
    let mut known = known_failures(&dataset, key(None)).expect("read");
    known.ended(&first);
    note_failures(&dataset, key(None), &known, false).expect("noted");
    assert!(!knows(None, &first) && knows(Some("night"), &first), "what is well is forgotten in any case");

    tidy_failures(&dataset, &sample_ids(&dataset).expect("ids")).expect("tidied");
    assert_eq!(documents(), [first.as_str()]);
    note_run(&dataset, &note(Some("night"), &["a", "b"], "/maps", None, 1)).expect("noted");
    forget_runs(&dataset, &stored_runs(&dataset).expect("runs"), &[]).expect("forgotten");
    assert!(documents().is_empty());
}

#[test]
fn a_lock_that_ran_out_is_lost_to_the_next_run() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, vec![sample(0)]);
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut late = UpdateSink::new(&dataset, vec![field("person_1")]).expect("a sink");
    late.lock(Shard::WHOLE).expect("nobody has it");
    // As if this machine had slept.
    mongod.with(async |database| {
        let locks = database.collection::<Document>("camflow.locks");
        locks.update_one(doc! {}, doc! {"$set": {"leases.0.expires_at": DateTime::from_millis(0)}}).await
    });
    let mut next = UpdateSink::new(&dataset, vec![field("person_1")]).expect("a sink");
    next.lock(Shard::WHOLE).expect("it ran out");
    let updates = [update(0, vec![heatmap("person_1", "a")])];
    let lost = late.commit(&updates).expect_err("the lock is lost").diagnose();
    assert!(lost.message.contains("has taken it") && lost.hints.len() == 1, "{lost:?}");
    assert_eq!(next.commit(&updates).expect("it holds the lock"), [CommitOutcome::Committed]);
}

#[test]
fn a_lock_of_a_process_that_was_killed_is_free() {
    let mongod = Mongod::start(&[]);
    let id = mongod.insert_dataset("street", doc! {}, vec![sample(0)]);
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let lock = Lock::acquire(&dataset, None).expect("nobody has it");
    // The same lease as that of a process with this number that has ended; no two live processes have one number.
    mongod.with(async |database| {
        let locks = database.collection::<Document>("camflow.locks");
        locks.update_one(doc! {"_id": id}, doc! {"$inc": {"leases.0.started": -1i64}}).await
    });
    drop(Lock::acquire(&dataset, None).expect("its holder is gone"));
    drop(lock);
}

#[test]
fn a_damaged_file_is_noted_only_in_the_label_that_was_read() {
    let mongod = Mongod::start(&[]);
    mongod.insert_dataset("street", doc! {}, (0..3).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut sink = UpdateSink::new(&dataset, vec![field("cam")]).expect("a sink");
    let [old, new] = [b"old", b"new"].map(|bytes| Some(Checksum::of(bytes)));
    let written = |n, checksum| update(n, vec![WrittenHeatmap { npy_checksum: checksum, ..heatmap("cam", "f") }]);
    sink.commit(&[written(0, old), written(1, old), written(2, None)]).expect("a commit");
    let read = || {
        let mut source = HeatmapLabelSource::new(&dataset, vec!["cam".into()], false);
        let labels = source.next_page().expect("labels");
        assert!(source.next_page().expect("the end").is_empty());
        assert_eq!(source.again(&labels.iter().collect::<Vec<_>>()).expect("labels"), labels);
        labels
    };
    let labels = read();
    assert_eq!(labels.len(), 3);
    // Sample 1 is annotated again before anything is noted.
    sink.commit(&[written(1, new)]).expect("a commit");
    let damaged = |label| {
        let checksum = Some(RecordedChecksum { checksum: label_checksum(label), is_damaged: true });
        ChecksumNote { label, file: FileForm::Npy, checksum }
    };
    let notes: Vec<_> = labels.iter().map(damaged).collect();
    let lock = Lock::acquire(&dataset, Some(&["cam".to_owned()])).expect("the lock");
    assert_eq!(note_checksums(&dataset, &notes, &lock).expect("notes"), 2);
    assert_eq!(note_checksums(&dataset, &notes, &lock).expect("notes"), 0, "the second time there is nothing to write");
    let noted: Vec<_> = read().iter().map(|label| label.stored.npy_checksum).collect();
    let expected = [(old, true), (new, false), (None, true)];
    assert_eq!(noted, expected.map(|(checksum, is_damaged)| Some(RecordedChecksum { checksum, is_damaged })));
}

#[test]
fn a_label_that_somebody_changed_is_not_removed_with_those_that_lead_nowhere() {
    let mongod = Mongod::start(&[]);
    let dataset_id = mongod.insert_dataset("street", doc! {}, (0..3).map(sample).collect());
    let dataset = Dataset::open(&mongod.connect(), "street").expect("the dataset");
    let mut sink = UpdateSink::new(&dataset, vec![field("cam")]).expect("a sink");
    let out = tempfile::tempdir().expect("a folder");
    let path = out.path().join(format!("cam/aa/{}.01234567.npy", "a".repeat(24)));
    let written = |n| update(n, vec![WrittenHeatmap { npy_path: Some(path.clone()), ..heatmap("cam", "f") }]);
    sink.commit(&[written(0), written(1), written(2)]).expect("a commit");
    let folder = OutputFolder::create(out.path()).expect("the folder");
    let broken = survey_labels(&dataset, &folder).expect("a survey").broken;
    assert_eq!(broken.len(), 3);
    // Sample 1 is annotated again, and sample 2 deleted, before the labels go.
    mongod.update_sample(dataset_id, id(1), doc! {"$set": {"cam.fingerprint": "g"}});
    mongod.with(async |database| {
        database.collection::<Document>(&format!("samples.{}", dataset_id.to_hex())).delete_one(doc! {"_id": id(2)}).await
    });
    let lock = Lock::acquire(&dataset, None).expect("the lock");
    let kept = remove_labels(&dataset, &broken, &lock).expect("a removal");
    assert_eq!(kept, [&broken[1]]);
    let left = survey_labels(&dataset, &folder).expect("a survey").broken;
    assert_eq!(left.iter().map(|label| label.sample()).collect::<Vec<_>>(), [broken[1].sample()]);
    assert!(remove_labels(&dataset, &left, &lock).expect("a removal").is_empty());
    assert_eq!(survey_labels(&dataset, &folder).expect("a survey").num_labels, 0);
}

fn label_checksum(label: &HeatmapLabel) -> Option<Checksum> {
    label.stored.npy_checksum.and_then(|recorded| recorded.checksum)
}
