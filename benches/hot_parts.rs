//! The parts of a run that take time beside the network itself, each alone, at the sizes of the README's example: a photograph
//! of 480x640 that becomes 3x520x693, and DeepLabV3-ResNet50's layers.
//!
//! ```text
//! cargo bench                 all of them, about two minutes
//! cargo bench -- encode       those whose name contains this
//! ```
//!
//! What the network takes is measured by `scripts/bench.sh`.

use std::{hint::black_box, io::Write, time::Duration};

use bson::{DateTime, Document, doc, oid::ObjectId};
use camflow::{
    explain::{CamMethod, GradCam, Gradients, Reduction, heatmaps},
    fiftyone::{ConnectOptions, ConnectionUri, Database, DatabaseConfig, DatabaseLocation, Dataset, HeatmapField, UpdateSink},
    measure::{Measure, Measured, Measures, rank_correlation},
    media::{
        BinaryMask, Checksum, ExifPolicy, ImageLimits, Interpolation, LabelMask, MaskValue, Preprocess, PreprocessStep,
        Upsampling, deflate_f32, encode_gray, inflate_array, read_image, write_f32,
    },
    pipeline::{SampleRef, SampleUpdate, Sink, StoredHeatmap, StoredMap, WrittenHeatmap, WrittenPrediction},
};
use divan::{Bencher, Divan};
use tch::{Device, Kind, Tensor};

#[path = "../src/fiftyone/tests/mongod/mod.rs"]
mod mongod;

use mongod::Mongod;

const IMAGE: (usize, usize) = (480, 640);
const INPUT: (usize, usize) = (520, 693);
const PERSON: u8 = 15;

/// Something between a flat picture and noise, as photographs are, in `0..=255`.
fn wave(y: usize, x: usize) -> f32 {
    let (y, x) = (y as f32, x as f32);
    let grain = (x * 12.9898 + y * 78.233).sin() * 43_758.547;
    127.5 + 90.0 * (x / 37.0).sin() * (y / 53.0).cos() + 20.0 * (grain - grain.floor())
}

fn jpeg() -> Vec<u8> {
    let (height, width) = IMAGE;
    let pixels: Vec<u8> =
        (0..height * width).flat_map(|n| [0, 40, 80].map(|shift| wave(n / width, n % width + shift) as u8)).collect();
    let mut encoder = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    encoder.set_size(width, height);
    encoder.set_quality(90.0);
    let mut encoder = encoder.start_compress(Vec::new()).expect("a JPEG encoder");
    encoder.write_scanlines(&pixels).expect("JPEG lines");
    encoder.finish().expect("a JPEG")
}

/// What FiftyOne keeps in a document: a zlib stream of a `.npy` file of bytes.
fn stored_mask() -> Vec<u8> {
    let (height, width) = IMAGE;
    let mut header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}), }}");
    header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(header.len()).expect("a short header").to_le_bytes());
    file.extend(header.as_bytes());
    let inside = |n: usize| (n / width).abs_diff(260).pow(2) + (n % width).abs_diff(300).pow(2) < 170 * 170;
    file.extend((0..height * width).map(|n| if inside(n) { PERSON } else { 0 }));
    let mut stream = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    stream.write_all(&file).expect("compressed");
    stream.finish().expect("a zlib stream")
}

/// A heatmap as a deep layer gives it: smooth.
fn heatmap() -> Vec<f32> {
    let (height, width) = INPUT;
    (0..height * width).map(|n| 0.5 + 0.5 * ((n / width) as f32 / 60.0).sin() * ((n % width) as f32 / 80.0).cos()).collect()
}

mod decode {
    use super::*;

    /// The photograph in a folder, which is there as long as the first part of this.
    fn photo() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("photo.jpg");
        std::fs::write(&path, super::jpeg()).expect("a photograph");
        (folder, path)
    }

    #[divan::bench]
    fn jpeg(bencher: Bencher) {
        let (_folder, path) = photo();
        bencher.bench_local(|| read_image(&path, &ImageLimits::default(), ExifPolicy::Ignore).expect("an image"));
    }

    #[divan::bench]
    fn resize_and_normalize(bencher: Bencher) {
        let resize = PreprocessStep::ResizeSmaller { size: INPUT.0, interpolation: Interpolation::Bilinear, antialias: true };
        let (mean, std) = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
        let normalize = PreprocessStep::Normalize { mean, std, divide_by: None };
        let preprocess = Preprocess { steps: vec![resize, normalize] };
        let (_folder, path) = photo();
        let image = read_image(&path, &ImageLimits::default(), ExifPolicy::Ignore).expect("an image");
        let input = preprocess.apply(&image).expect("an input");
        assert_eq!((input.height, input.width), INPUT);
        bencher.bench_local(|| preprocess.apply(black_box(&image)).expect("an input"));
    }
}

mod target {
    use super::*;

    #[divan::bench]
    fn stored_mask_to_input(bencher: Bencher) {
        let stored = stored_mask();
        let limit = ImageLimits::default().max_bytes;
        let build = || {
            let mask = LabelMask::from_array(inflate_array(black_box(&stored), limit).expect("an array")).expect("a mask");
            mask.select(&MaskValue::Index(PERSON.into())).expect("the class").resize_nearest(INPUT.0, INPUT.1)
        };
        assert!(build().count() > 0);
        bencher.bench_local(build);
    }
}

mod cam {
    use super::*;

    #[divan::bench(args = ["layer1", "layer4"])]
    fn gradcam(bencher: Bencher, layer: &str) {
        let size = if layer == "layer1" { [1, 256, 130, 174] } else { [1, 2048, 65, 87] };
        tch::manual_seed(0);
        let random = || Tensor::randn(size, (Kind::Float, Device::Cpu));
        let evidence = Gradients::new(random().relu(), random());
        let make = || {
            let saliency = GradCam.saliency(&evidence, Reduction::Sum).expect("a saliency");
            let map = heatmaps(&[saliency], Some(INPUT)).expect("a heatmap");
            Vec::<f32>::try_from(map.reshape([-1])).expect("values")
        };
        assert_eq!(make().len(), INPUT.0 * INPUT.1);
        bencher.bench_local(make);
    }
}

mod encode {
    use super::*;

    fn levels() -> Vec<u8> {
        heatmap().iter().map(|value| (value * 255.0).round() as u8).collect()
    }

    #[divan::bench]
    fn png(bencher: Bencher) {
        let levels = levels();
        bencher.bench_local(|| encode_gray(INPUT.0, INPUT.1, black_box(&levels)).expect("a PNG"));
    }

    #[divan::bench]
    fn npy(bencher: Bencher) {
        let values = heatmap();
        bencher.bench_local(|| {
            let mut file = Vec::new();
            write_f32(&mut file, &[INPUT.0, INPUT.1], black_box(&values)).expect("written");
            file
        });
    }

    #[divan::bench]
    fn inline(bencher: Bencher) {
        let values = heatmap();
        bencher.bench_local(|| deflate_f32(&[INPUT.0, INPUT.1], black_box(&values)));
    }

    #[divan::bench]
    fn measures(bencher: Bencher) {
        let ((height, width), values, levels) = (INPUT, heatmap(), levels());
        let map = Measured { height, width, values: &values, levels: &levels, seen: None };
        let pixels = (0..height * width).map(|pixel| u8::from(pixel % width > width / 2)).collect();
        let object = BinaryMask { height, width, pixels };
        bencher.bench_local(|| black_box(&map).measures(Some(&object)));
    }

    #[divan::bench]
    fn from_layer_map(bencher: Bencher) {
        let size = (INPUT.0 / 8, INPUT.1 / 8);
        let map: Vec<f32> = heatmap().into_iter().take(size.0 * size.1).collect();
        let upsampling = Upsampling { size: INPUT, region: None, is_image: false };
        bencher.bench_local(|| upsampling.apply(black_box(&map), size));
    }

    #[divan::bench(name = "rank_correlation")]
    fn correlation(bencher: Bencher) {
        let (values, levels) = (heatmap(), levels());
        let map = Measured { height: INPUT.0, width: INPUT.1, values: &values, levels: &levels, seen: None };
        bencher.bench_local(|| rank_correlation(black_box(&map), black_box(&map)));
    }
}

/// A dataset `street` as FiftyOne writes it, with so many samples; their ids.
fn insert_dataset(uri: &str, num_samples: usize) -> Vec<ObjectId> {
    let id = ObjectId::new();
    let field = |name: &str, kind: &str| {
        let key = if name == "id" { "_id" } else { name };
        doc! {"name": name, "ftype": format!("fiftyone.core.fields.{kind}"), "embedded_doc_type": null, "subfield": null,
        "fields": [], "db_field": key, "description": null, "info": null, "read_only": false, "created_at": DateTime::now()}
    };
    let dataset = doc! {
        "_id": id, "name": "street", "slug": "street", "version": "1.22.1", "persistent": true, "media_type": "image",
        "sample_collection_name": format!("samples.{}", id.to_hex()),
        "sample_fields": [field("id", "ObjectIdField"), field("filepath", "StringField")],
        "created_at": DateTime::now(), "last_modified_at": DateTime::from_millis(0),
    };
    let ids: Vec<ObjectId> = (0..num_samples).map(|_| ObjectId::new()).collect();
    let samples = ids.iter().enumerate().map(|(n, id)| {
        doc! {"_id": id, "filepath": format!("/data/{n}.jpg"), "tags": [], "_media_type": "image", "_rand": 0.5,
        "created_at": DateTime::from_millis(0), "last_modified_at": DateTime::from_millis(0)}
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime
        .block_on(async {
            let database = mongodb::Client::with_uri_str(uri).await?.database("fiftyone");
            database.collection::<Document>("config").insert_one(doc! {"version": "1.22.1", "type": "fiftyone"}).await?;
            database.collection::<Document>("datasets").insert_one(dataset).await?;
            let collection = database.collection::<Document>(&format!("samples.{}", id.to_hex()));
            collection.insert_many(samples).await
        })
        .expect("the driver");
    ids
}

#[divan::bench(name = "commit::update_128_samples")]
fn commit(bencher: Bencher) {
    // As many as the commit stage sends at once.
    const NUM_UPDATES: usize = 128;
    let folder = tempfile::tempdir().expect("a folder for mongod");
    let mongod = Mongod::start(folder.path(), 0, &[""; 0]);
    let uri = format!("mongodb://127.0.0.1:{}", mongod.port);
    let ids = insert_dataset(&uri, NUM_UPDATES);
    let location = DatabaseLocation::Server(ConnectionUri::new(uri, "the benchmark"));
    let config = DatabaseConfig { location, name: "fiftyone".into() };
    let database = Database::connect(&config, &ConnectOptions::default()).expect("a connection").database;
    let dataset = Dataset::open(&database, "street").expect("the dataset");
    let names: Vec<String> = (1..=4).map(|layer| format!("person_grad_layer_{layer}")).collect();
    let fields = names.iter().map(|name| HeatmapField {
        name: name.clone(),
        layer: "backbone.layer4".into(),
        method: "gradcam".into(),
        model: "deeplabv3".into(),
        shown_in: None,
        attention_on: None,
    });
    let mut sink = UpdateSink::new(&dataset, fields.collect()).expect("a sink");
    let mut round = 0;
    let mut updates = || -> Vec<SampleUpdate> {
        // Other paths each time, or the server would find nothing to change.
        round += 1;
        let heatmap = |name: &String, n: usize| WrittenHeatmap {
            detection: None,
            contrast: None,
            map_checksum: Some(Checksum::of(b"map")),
            npy_checksum: Some(Checksum::of(b"npy")),
            upsampling: None,
            field: name.clone(),
            class: "person".into(),
            map: StoredMap::File(format!("/maps/{name}/{n}.{round}.png").into()),
            npy_path: Some(format!("/maps/{name}/{n}.{round}.npy").into()),
            score: 0.5,
            measures: Measures::default().with(Measure::EnergyInside, 0.5).with(Measure::Entropy, 0.9),
            prediction: WrittenPrediction::default(),
            attention: None,
            fingerprint: format!("{round:032x}"),
        };
        // What the round before it wrote.
        let read = |name: &String, n: usize| StoredHeatmap {
            field: name.clone(),
            fingerprint: Some(format!("{:032x}", round - 1)),
            map_path: Some(format!("/maps/{name}/{n}.{}.png", round - 1).into()),
            npy_path: Some(format!("/maps/{name}/{n}.{}.npy", round - 1).into()),
            ..StoredHeatmap::default()
        };
        let update = |(n, id): (usize, &ObjectId)| SampleUpdate {
            sample: SampleRef { seq: n as u64, id: id.to_hex(), media_path: format!("/data/{n}.jpg").into() },
            heatmaps: names.iter().map(|name| heatmap(name, n)).collect(),
            predictions: None,
            withdrawn: Vec::new(),
            superseded: Vec::new(),
            existing: names.iter().filter(|_| round > 1).map(|name| read(name, n)).collect(),
        };
        ids.iter().enumerate().map(update).collect()
    };
    bencher.with_inputs(&mut updates).bench_local_values(|updates| sink.commit(&updates).expect("a commit"));
}

fn main() {
    Divan::default().sample_count(20).max_time(Duration::from_secs(4)).config_with_args().main();
}
