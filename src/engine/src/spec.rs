//! What somebody asks for.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    cam::{CamSpec, LayerFusion},
    counterfactuals::Counterfactuals,
    device::DeviceSpec,
    form::{choice, choices, device_names, mappings, one_or_several, text, text_or_none},
    slicing::{Beside, OverlapRatio, SliceSpec},
    texts::check_texts,
    written::{present, shared},
};
use crate::job::{ClassMapping, DEFAULT_MODEL, FieldTemplate, NameList, TargetSpec, check_name};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{AppColors, DatabaseFlags, Shard};
use camflow_media::shown;
use camflow_pipeline::{MaxFailures, NpyFormat, Store};
use camflow_storage::Grace;
use camflow_torch::explain::{Baseline, HeatmapSize, Method, Sampling, ScoreKind};
use camflow_torch::program::Precision;

/// Variants of a sample that go through the model at once, where nobody says otherwise.
const CAM_BATCH_SIZE: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not 0");

/// A job: heatmaps for the samples of a dataset.
///
/// ```
/// use camflow_engine::JobSpec;
///
/// let job = JobSpec { class: ["person"].into(), limit: Some(10), ..JobSpec::new("quickstart") };
/// assert_eq!(job.model, "deeplabv3-resnet50-coco-torch");
/// ```
// The documentation of a field is the help text of the flag and the explanation in job files. `x-value` is what its value is called
// there, `x-path` what kind of path it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct JobSpec {
    /// Name of the dataset
    #[schemars(extend("x-value" = "DATASET"))]
    pub dataset: String,
    /// Class to explain, by name or output channel, or `all`; several by repeating the flag, or with commas. A text with commas that
    /// is the name of one class is taken whole; `\,` is a comma that separates nothing
    #[schemars(with = "Vec<String>", extend("type" = ["array", "string"], "x-value" = "CLASS"))]
    pub class: NameList,
    /// Text to explain, with a CLIP-like model: how much of it an image shows; several by repeating the flag. No label is needed, and
    /// each text has a heatmap of every image
    #[serde(deserialize_with = "one_or_several")]
    #[schemars(with = "Vec<String>", extend("type" = ["array", "string"], "x-value" = "TEXT"))]
    pub text: Vec<String>,
    /// What makes a text of each class, of `class` or of the label field, for a CLIP-like model, such as `a photo of a {}`; of `text`
    /// too, where both are given. Default: what the model was exported with
    #[schemars(extend("x-value" = "TEMPLATE"))]
    pub text_template: Option<String>,
    /// Target layers: numbers (`1-4`), module paths (`backbone.layer3`); several by repeating the flag, or with commas;
    /// `camflow inspect` lists them; `auto` tries the last four on 8 images and takes the most faithful one (`--faithfulness`);
    /// default: the model's own choice
    #[schemars(with = "Vec<String>", extend("type" = ["array", "string"], "x-value" = "LAYERS"))]
    pub layers: NameList,
    /// A zoo name (exported on first use) or a `.pt2` file
    #[schemars(extend("x-value" = "MODEL", "x-path" = "model"))]
    pub model: String,
    /// CAM method; several, by repeating the flag or with commas, share what they can; default: gradcam, of a detector and in slices
    /// layercam. Before the last layer layercam and hirescam say more; for transformers there are legrad and chefer; scorecam,
    /// ablationcam, occlusion and rise need no gradients, and are slow
    #[serde(with = "choices")]
    #[schemars(schema_with = "choices::schema::<Method>", extend("x-value" = "METHOD"))]
    pub method: Vec<Method>,
    /// One map of all layers: the mean of theirs, scaled to [0, 1] again; of a detector the largest of theirs
    pub fuse_layers: bool,
    /// Fuse layers by another rule: their `mean` (as pytorch_grad_cam), or the largest of them at each pixel (`max`, as torch-cam;
    /// layercam's after tanh, as in its paper)
    #[serde(with = "choice")]
    #[schemars(schema_with = "choice::schema::<LayerFusion>", extend("x-value" = "RULE"))]
    pub fusion: LayerFusion,
    /// Smooth by the first principal component of a method's channels instead of their sum
    pub eigen_smooth: bool,
    /// Smooth by the mean over six variants of the image (mirrored or not, times 0.9, 1 and 1.1); six times the work
    pub aug_smooth: bool,
    /// Look at some 150 tiles of the image at twelve scales, too, and put together what they show (SESS); classifiers only
    pub sess: bool,
    /// How many variants of an image scorecam, ablationcam and their kin, `--faithfulness` and `--counterfactuals` run at a time; less where memory is short
    #[schemars(extend("x-value" = "N"))]
    pub cam_batch_size: NonZeroUsize,
    /// How many noisy images smoothgrad takes (25), steps integrated-gradients (50), masks rise (4000)
    #[schemars(extend("x-value" = "N"))]
    pub cam_samples: Option<NonZeroUsize>,
    /// The image without content: where integrated-gradients begins (`black`), what occlusion covers with (`zero`, the grey of the
    /// model's input); `mean` is the image's own mean colour; `own` is each method's
    #[serde(with = "choice")]
    #[schemars(schema_with = "choice::schema::<Baseline>", extend("x-value" = "IMAGE"))]
    pub cam_baseline: Baseline,
    /// Side of the square that occlusion covers, in pixels of the model's input; default: an eighth of the smaller side
    #[schemars(extend("x-value" = "PIXELS"))]
    pub cam_window: Option<NonZeroUsize>,
    /// What of a class is explained: its `logit`, its probability (`softmax`, of one channel the sigmoid), or `rest`, the logit and the
    /// logarithm of the probability together
    #[serde(with = "choice")]
    #[schemars(schema_with = "choice::schema::<ScoreKind>", extend("x-value" = "SCORE"))]
    pub score: ScoreKind,
    /// Size of the heatmaps: the model's `input` (as pytorch_grad_cam), the `image`'s, or the `layer`'s own
    #[serde(with = "choice")]
    #[schemars(schema_with = "choice::schema::<HeatmapSize>", extend("x-value" = "SIZE"))]
    pub size: HeatmapSize,
    /// Rows of a slice in pixels: an image that is larger goes through the model slice by slice at its own resolution, and gets one
    /// heatmap of all slices; a height or a width alone means a square
    #[schemars(extend("x-value" = "PIXELS"))]
    pub slice_height: Option<NonZeroUsize>,
    /// Columns of a slice in pixels
    #[schemars(extend("x-value" = "PIXELS"))]
    pub slice_width: Option<NonZeroUsize>,
    /// The part of its height that a slice shares with the one below, at least: 0 to 0.9
    #[serde(with = "text")]
    #[schemars(with = "String", extend("type" = ["string", "number"], "x-value" = "RATIO"))]
    pub overlap_height_ratio: OverlapRatio,
    /// The part of its width that a slice shares with the one beside it, at least: 0 to 0.9
    #[serde(with = "text")]
    #[schemars(with = "String", extend("type" = ["string", "number"], "x-value" = "RATIO"))]
    pub overlap_width_ratio: OverlapRatio,
    /// Where to run: `auto` (CUDA where there is one, else CPU), `cpu`, `cuda` or `cuda:N`; several with commas share the work
    #[serde(deserialize_with = "device_names")]
    #[schemars(with = "Vec<String>", extend("type" = ["array", "string"], "x-value" = "DEVICE"))]
    pub device: Vec<String>,
    /// `fp32`; `bf16` is about twice as fast and deviates (see Speed in the documentation); `tf32` is something between, on GPUs only
    #[serde(with = "choice")]
    #[schemars(schema_with = "choice::schema::<Precision>", extend("x-value" = "PRECISION"))]
    pub precision: Precision,
    /// Exactly the operators of eager PyTorch (slower); without it sums may differ in the last bit
    pub exact: bool,
    /// The faster operators also for a model whose heatmaps they move too far from float64; `camflow inspect` says how far
    pub fast: bool,
    /// Python with FiftyOne, for exporting a model (and for `annotate`, to start FiftyOne's database)
    #[schemars(extend("x-value" = "PYTHON", "x-path" = "program"))]
    pub python: Option<PathBuf>,
    /// What is explained: the classes where a label has them (`labels` or `labels:FIELD`) or where the model predicts them
    /// (`predicted`), at one pixel (`pixel=X,Y`), or the class that the model itself puts first (`top`); of the samples that a
    /// classifier misclassifies the predicted class, the true one and their difference (`wrong` or `wrong:FIELD`); a number of a
    /// regression as it is (`component`); how near an embedding is to that of an image or of a `.npy` file (`similar=FILE`), or to the mean of a
    /// class of a label field (`similar:FIELD`); `different` in place of `similar`: how far
    #[serde(with = "text")]
    #[schemars(with = "String", extend("x-value" = "TARGET", "x-path" = "target"))]
    pub target: TargetSpec,
    /// With a detector: a heatmap for each detection of the label field, instead of one for all of a class; they go to a field of
    /// detections, `..._detections`, with their measures, and a saved view of that name shows them
    pub per_detection: bool,
    /// Also compute how faithful heatmaps are, by asking the model about changed images: deletion and insertion, drop and increase,
    /// ROAD; 60 more forward passes for each heatmap
    pub faithfulness: bool,
    /// Also compute the confidence without the object, without its background, and without the most attended region outside of
    /// the object: each replaced by the image's `blur`, by the `mean` of what stays, or by its smooth continuation (`impute`); two more
    /// forward passes for each class, and one for each heatmap
    #[serde(with = "choice")]
    #[schemars(schema_with = "choice::schema::<Counterfactuals>", extend("x-value" = "REPLACEMENT"))]
    pub counterfactuals: Counterfactuals,
    /// Also compute how much of each heatmap lies on every class of this label field (segmentation, detections or polylines), beside
    /// the class's share of the area: `attention` of the heatmap's label, and a table in `camflow report`
    #[schemars(extend("x-value" = "FIELD"))]
    pub attention_on: Option<String>,
    /// With `--per-detection`: what this evaluation of FiftyOne's (`evaluate_detections(..., eval_key=KEY)`) found of each detection, `tp`,
    /// `fp` or `fn`, becomes `outcome` of its heatmap, and leads `camflow report`. With `--target wrong`: true are the classes that this
    /// evaluation (`evaluate_classifications`) compared with
    #[schemars(extend("x-value" = "KEY"))]
    pub eval_key: Option<String>,
    /// Store also what the model predicts for each sample in this field: a class with its confidence (`fo.Classification`), of a detector
    /// the objects with boxes and confidences (`fo.Detections`), of a segmentation network a mask (`fo.Segmentation`); what camflow did not
    /// write is never replaced
    #[schemars(extend("x-value" = "FIELD"))]
    pub predictions: Option<String>,
    /// Which class of the model a label of the dataset is, where the two are not written the same; may be repeated
    #[serde(with = "mappings")]
    #[schemars(with = "std::collections::BTreeMap<String, String>", extend("x-value" = "LABEL=CLASS"))]
    pub map: Vec<ClassMapping>,
    /// Template for the names of fields, with `{class}`, `{layer}`, `{method}` and `{model}`; default:
    /// `{class}_{method}_layer_{layer}`, with `grad` for gradcam
    #[serde(with = "text_or_none")]
    #[schemars(with = "String", extend("x-value" = "TEMPLATE"))]
    pub field: Option<FieldTemplate>,
    /// Folder for the heatmaps; default: a folder for this dataset in the user's data folder
    #[schemars(extend("x-value" = "FOLDER", "x-path" = "folder"))]
    pub out: Option<PathBuf>,
    /// Write to `--out` although it is not the folder that the dataset's heatmaps were written to before: it was deleted or is on
    /// another disk now
    pub new_folder: bool,
    /// How long files stay that nothing refers to, from when a run replaced them: `1d`, `36h`, `0`
    #[serde(with = "text")]
    #[schemars(with = "String", extend("x-value" = "TIME"))]
    pub grace: Grace,
    /// Exact floats beside the picture: as the layer has them, from which `camflow.load` gives the heatmap (`layer`), or of the
    /// heatmap's size in 32 or 16 bits
    #[serde(with = "choice")]
    #[schemars(schema_with = "choice::schema::<NpyFormat>", extend("x-value" = "NPY"))]
    pub npy: NpyFormat,
    /// Where the App finds the picture: an 8-bit PNG on disk (`path`) or the array in the document (`inline`)
    #[serde(with = "choice")]
    #[schemars(schema_with = "choice::schema::<Store>", extend("x-value" = "STORE"))]
    pub store: Store,
    /// Samples per batch: a number, or `auto`, by the size of the images and the memory that is free
    #[serde(with = "text")]
    #[schemars(with = "String", extend("type" = ["string", "integer"], "x-value" = "N"))]
    pub batch_size: BatchSize,
    /// Threads that read images, and as many that write heatmaps; default: one per core
    #[schemars(extend("x-value" = "N"))]
    pub workers: Option<NonZeroUsize>,
    /// Only samples with one of these tags: repeat the flag, or separate them with commas; a tag that holds commas is taken whole
    #[schemars(with = "Vec<String>", extend("type" = ["array", "string"], "x-value" = "TAG"))]
    pub tags: NameList,
    /// Only samples that match this MongoDB query (JSON)
    #[serde(rename = "match")]
    #[schemars(extend("x-value" = "QUERY"))]
    pub matching: Option<String>,
    /// Only the samples whose ids stand in this file, one a line, in its order
    #[schemars(extend("x-value" = "FILE", "x-path" = "file"))]
    pub ids: Option<PathBuf>,
    /// Only these slices of a grouped dataset, as for tags; default: all that hold images
    #[schemars(with = "Vec<String>", extend("type" = ["array", "string"], "x-value" = "SLICE"))]
    pub slices: NameList,
    /// Only the samples of this saved view, in its order
    #[schemars(extend("x-value" = "VIEW"))]
    pub view: Option<String>,
    /// Only the samples of the view whose stages are in this file, as FiftyOne's `view._serialize()` gives them (JSON)
    #[schemars(extend("x-value" = "FILE", "x-path" = "file"))]
    pub view_stages: Option<PathBuf>,
    /// No more than this many samples
    #[serde(deserialize_with = "limit")]
    #[schemars(range(min = 1), extend("x-value" = "N"))]
    pub limit: Option<u64>,
    /// Take samples in a random order, so that `--limit` takes a random part; the same order each time
    pub shuffle: bool,
    /// Another random order for `--shuffle`
    #[schemars(extend("x-value" = "N"))]
    pub seed: u64,
    /// Only this part of the samples: I of N that together are the whole selection, for several machines
    #[serde(with = "text_or_none")]
    #[schemars(with = "String", extend("x-value" = "I/N"))]
    pub shard: Option<Shard>,
    /// Turn images upright by their EXIF data, as the App shows them; FiftyOne's models see them as stored
    pub apply_exif: bool,
    /// Begin although the files will not fit on the disk of the output folder, and go on until it is full
    pub no_space_check: bool,
    /// How the App colours heatmaps, where the dataset has no colour scheme yet: `jet`, blue to red, with the dataset's labels coloured
    /// by value; or a colour for each `field`
    #[serde(with = "choice")]
    #[schemars(schema_with = "choice::schema::<AppColors>", extend("x-value" = "COLORS"))]
    pub app_colors: AppColors,
    /// Leave the App's settings of the dataset alone: no colours for new fields, no group in the sidebar, none of them ticked
    pub no_app_config: bool,
    /// Put the heatmaps of this run in the place of those that another model made or that show something else: another class,
    /// target, layer or method. What is up to date stays
    pub replace: bool,
    /// Recompute up-to-date heatmaps, and replace all others, too
    pub overwrite: bool,
    /// Change nothing, but say how many samples would be annotated and why
    pub dry_run: bool,
    /// The same, and say it of each sample: `new`, or whether its label, its image, the model or the settings changed
    pub explain_plan: bool,
    /// Abort when more samples than this fail: a number, or a share of all samples of the selection (`5%`, `0.05`), rounded up.
    /// Known failures do not count: samples that failed in an earlier run with the same inputs
    #[serde(with = "text_or_none")]
    #[schemars(with = "String", extend("type" = ["string", "number"], "x-value" = "N"))]
    pub max_failures: Option<MaxFailures>,
    /// End with exit code 0 where no sample failed but known ones, which are tried and reported all the same; needs `max-failures`,
    /// so that a disk that is missing makes no known failures
    pub accept_known_failures: bool,
    /// Name of this job in reports, metrics and JSON lines
    #[serde(deserialize_with = "job_name")]
    #[schemars(extend("x-value" = "JOB"))]
    pub name: Option<String>,
    /// Write a report (JSON) here when the run is over, however it ended; `{name}` is the job's name, `{shard}` the shard
    /// (`3-of-10`), `{date}` the day (UTC)
    #[schemars(extend("x-value" = "FILE", "x-path" = "file"))]
    pub report_file: Option<PathBuf>,
    /// Write metrics for Prometheus here when the run is over, `*.prom` in the folder of node_exporter's textfile collector; `{name}`
    /// is the job's name, `{shard}` the shard (`3-of-10`)
    #[serde(deserialize_with = "metrics_file")]
    #[schemars(extend("x-value" = "FILE", "x-path" = "file"))]
    pub metrics_file: Option<PathBuf>,
    /// Write the page of `camflow report` about the job's fields here when the run is over; `{name}` is the job's name, `{date}` the
    /// day (UTC)
    #[schemars(extend("x-value" = "PAGE.html", "x-path" = "file"))]
    pub html_file: Option<PathBuf>,
    /// Write the numbers of that page here, too (JSON): the baseline of a later one
    #[schemars(extend("x-value" = "N.json", "x-path" = "file"))]
    pub numbers_file: Option<PathBuf>,
    /// Compare that page with an earlier one: what `numbers-file` or `camflow report --json` wrote
    #[schemars(extend("x-value" = "OLD.json", "x-path" = "file"))]
    pub baseline: Option<PathBuf>,
    /// MongoDB connection string; default: as FiftyOne is configured. Credentials are better kept in FIFTYONE_DATABASE_URI
    #[schemars(extend("x-value" = "URI"))]
    pub database_uri: Option<String>,
    /// Folder of FiftyOne's own database
    #[schemars(extend("x-value" = "FOLDER", "x-path" = "folder"))]
    pub database_dir: Option<PathBuf>,
    /// Name of the database
    #[schemars(extend("x-value" = "NAME"))]
    pub database_name: Option<String>,
}

impl Default for JobSpec {
    fn default() -> Self {
        JobSpec {
            dataset: String::new(),
            class: NameList::default(),
            text: Vec::new(),
            text_template: None,
            layers: NameList::default(),
            model: DEFAULT_MODEL.to_owned(),
            method: Vec::new(),
            fuse_layers: false,
            fusion: LayerFusion::default(),
            eigen_smooth: false,
            aug_smooth: false,
            sess: false,
            cam_batch_size: CAM_BATCH_SIZE,
            cam_samples: None,
            cam_baseline: Baseline::default(),
            cam_window: None,
            score: ScoreKind::default(),
            size: HeatmapSize::default(),
            slice_height: None,
            slice_width: None,
            overlap_height_ratio: OverlapRatio::default(),
            overlap_width_ratio: OverlapRatio::default(),
            device: vec!["auto".to_owned()],
            precision: Precision::default(),
            exact: false,
            fast: false,
            python: None,
            target: TargetSpec::default(),
            per_detection: false,
            faithfulness: false,
            counterfactuals: Counterfactuals::default(),
            attention_on: None,
            eval_key: None,
            predictions: None,
            map: Vec::new(),
            field: None,
            out: None,
            new_folder: false,
            grace: Grace::default(),
            npy: NpyFormat::default(),
            store: Store::default(),
            batch_size: BatchSize::Auto,
            workers: None,
            tags: NameList::default(),
            matching: None,
            ids: None,
            slices: NameList::default(),
            view: None,
            view_stages: None,
            limit: None,
            shuffle: false,
            seed: 0,
            shard: None,
            apply_exif: false,
            no_space_check: false,
            app_colors: AppColors::default(),
            no_app_config: false,
            replace: false,
            overwrite: false,
            dry_run: false,
            explain_plan: false,
            max_failures: None,
            accept_known_failures: false,
            name: None,
            report_file: None,
            metrics_file: None,
            html_file: None,
            numbers_file: None,
            baseline: None,
            database_uri: None,
            database_dir: None,
            database_name: None,
        }
    }
}

impl JobSpec {
    /// What a job is called where nobody named it.
    pub const UNNAMED: &str = "annotate";

    /// The job that does with this dataset what is done by default. It may lack a class.
    pub fn new(dataset: impl Into<String>) -> Self {
        JobSpec { dataset: dataset.into(), ..JobSpec::default() }
    }

    /// Everything that is wrong by itself, whatever dataset and model are.
    pub fn problems(&self) -> Vec<String> {
        let has_page = self.html_file.is_some();
        let is_wrong = |wrong: bool, text: &str| wrong.then(|| text.to_owned());
        let of = |key: &str, problem: Option<String>| problem.map(|problem| format!("`{key}`: {problem}"));
        let checks = [
            is_wrong(self.dataset.is_empty(), "it has no `dataset`"),
            of("limit", self.limit.and_then(|limit| check_limit(limit).err())),
            of("name", self.name.as_deref().and_then(|name| check_name(name).err())),
            of("metrics-file", self.metrics_file.as_deref().and_then(|path| check_metrics_file(path).err())),
            is_wrong(
                self.faithfulness && self.target.is_value(),
                "`faithfulness` is measured by the probability of a class, and the target has none: leave one of them out",
            ),
            is_wrong(
                self.per_detection && !matches!(self.target, TargetSpec::Labels(_)),
                "`per-detection` is about the detections of a label field: `target` is `labels` or `labels:FIELD` then",
            ),
            is_wrong(
                self.per_detection && self.store == Store::Inline,
                "`per-detection` keeps its heatmaps in files: a sample with many detections would be too large for MongoDB with maps in it, so leave out `store = inline`",
            ),
            is_wrong(
                self.per_detection && has_page,
                "`html-file` compares heatmaps of whole images, and `per-detection` makes none: leave one of them out",
            ),
            is_wrong(
                matches!(self.target, TargetSpec::Wrong(_)) && self.method.contains(&Method::Finercam),
                "`finercam` compares a class with the three most like it by itself, and `target = wrong` with the true one: take another `method`",
            ),
            is_wrong(
                self.eval_key.is_some() && !self.per_detection && !matches!(self.target, TargetSpec::Wrong(_)),
                "`eval-key` says what an evaluation found of each detection, or which classes are true: add `per-detection` or `target = wrong`, or leave it out",
            ),
            is_wrong(
                self.predictions.is_some() && self.cam().slices.slicing().is_some(),
                "`predictions` stores what is predicted for whole images, and each slice has predictions of its own: leave out `slice-height` and `slice-width`",
            ),
            is_wrong(
                self.predictions.is_some() && self.target.is_value(),
                "`predictions` stores classes, and the target is a number that is no score of a class: leave one of them out",
            ),
            is_wrong(self.exact && self.fast, "`exact` and `fast` are opposites: leave one of them out"),
            is_wrong(
                self.accept_known_failures && self.max_failures.is_none(),
                "`accept-known-failures` needs `max-failures` beside it: where a disk is missing, all samples fail, and would be known the next time",
            ),
            is_wrong(
                !has_page && self.numbers_file.is_some(),
                "`numbers-file` needs `html-file` beside it, the page whose numbers they are",
            ),
            is_wrong(!has_page && self.baseline.is_some(), "`baseline` needs `html-file` beside it, the page that compares"),
        ];
        checks
            .into_iter()
            .flatten()
            .chain(self.slice_problems())
            .chain(self.contradictory_mappings())
            .chain(self.shared_files())
            .collect()
    }

    /// Refuses a job in which something is wrong by itself.
    pub(super) fn check(&self) -> Result<(), Diagnostic> {
        if self.dataset.is_empty() {
            return Err(Diagnostic::invalid("the name of the dataset is empty")
                .hint("name one with `--dataset`; `camflow doctor` lists them"));
        }
        Diagnostic::join(self.problems().into_iter().map(Diagnostic::invalid)).map_or(Ok(()), Err)?;
        check_texts(&self.cam(), self.target())
    }

    /// What is explained. Texts need no label: where no field is named, it is each text.
    pub fn target(&self) -> &TargetSpec {
        match &self.target {
            TargetSpec::Labels(None) if !self.text.is_empty() => &TargetSpec::Predicted,
            target => target,
        }
    }

    fn slice_problems(&self) -> Vec<String> {
        let cam = self.cam();
        let layers = cam.layer_names();
        cam.slices.problems(Beside {
            target: self.target(),
            methods: &self.method,
            layers: &layers,
            aug_smooth: self.aug_smooth,
            per_detection: self.per_detection,
            faithfulness: self.faithfulness,
            counterfactuals: self.counterfactuals != Counterfactuals::default(),
        })
    }

    /// Labels that are said to be two classes.
    fn contradictory_mappings(&self) -> Vec<String> {
        let mut classes = BTreeMap::new();
        let twice = |ClassMapping { label, class }: &ClassMapping| {
            let other = classes.insert(label.clone(), class.clone()).filter(|other| other != class)?;
            Some(format!("`map` takes label `{label}` for `{other}` and for `{class}`: leave one of them out"))
        };
        self.map.iter().filter_map(twice).collect()
    }

    /// Files that are written over what else the job writes or reads.
    pub(super) fn shared_files(&self) -> Vec<String> {
        let shard = self.shard();
        let [page, numbers, baseline] = self.page_files();
        let written = [
            ("report-file", self.report_file(shard)),
            ("metrics-file", self.metrics_file(shard)),
            ("html-file", page),
            ("numbers-file", numbers.clone()),
        ];
        let model = Some(PathBuf::from(&self.model));
        let read = [
            ("ids", self.ids.clone()),
            ("view-stages", self.view_stages.clone()),
            ("model", model),
            // A job may be compared with its own last run.
            ("baseline", baseline.filter(|path| numbers.as_ref() != Some(path))),
        ];
        shared(&present(&written), &present(&read))
            .into_iter()
            .map(|(first, second, path)| format!("`{first}` and `{second}` are the same file, `{}`: name two", shown(path)))
            .collect()
    }

    /// What is asked of the model.
    pub fn cam(&self) -> CamSpec {
        CamSpec {
            class: self.class.clone(),
            text: self.text.clone(),
            text_template: self.text_template.clone(),
            layers: self.layers.clone(),
            model: self.model.clone(),
            methods: self.method.clone(),
            fuse_layers: self.fuse_layers,
            fusion: self.fusion,
            eigen_smooth: self.eigen_smooth,
            aug_smooth: self.aug_smooth,
            sess: self.sess,
            cam_batch_size: self.cam_batch_size,
            sampling: Sampling { samples: self.cam_samples, baseline: self.cam_baseline, window: self.cam_window },
            score: self.score,
            size: self.size,
            slices: SliceSpec {
                height: self.slice_height,
                width: self.slice_width,
                overlap_height: self.overlap_height_ratio,
                overlap_width: self.overlap_width_ratio,
            },
            device: DeviceSpec { devices: self.device.clone(), precision: self.precision, exact: self.exact, fast: self.fast },
            python: self.python.clone(),
        }
    }

    /// What is said about the database.
    pub fn database(&self) -> DatabaseFlags {
        DatabaseFlags { uri: self.database_uri.clone(), dir: self.database_dir.clone(), name: self.database_name.clone() }
    }

    /// The part of the samples that the run is about.
    pub fn shard(&self) -> Shard {
        self.shard.unwrap_or(Shard::WHOLE)
    }

    /// Whether nothing is to be changed.
    pub fn is_dry(&self) -> bool {
        self.dry_run || self.explain_plan
    }

    /// What the job is called.
    pub fn job_name(&self) -> &str {
        self.name.as_deref().unwrap_or(Self::UNNAMED)
    }

    /// The report file, with the job's name and the shard put in.
    pub fn report_file(&self, shard: Shard) -> Option<PathBuf> {
        self.report_file.as_deref().map(|path| self.named(path, shard))
    }

    /// The metrics file, with the job's name and the shard put in.
    pub fn metrics_file(&self, shard: Shard) -> Option<PathBuf> {
        self.metrics_file.as_deref().map(|path| self.named(path, shard))
    }

    /// The page of the run, its numbers and what it is compared with.
    pub fn page_files(&self) -> [Option<PathBuf>; 3] {
        let named = |path: &Option<PathBuf>| path.as_deref().map(|path| self.named(path, Shard::WHOLE));
        [&self.html_file, &self.numbers_file, &self.baseline].map(named)
    }

    fn named(&self, path: &Path, shard: Shard) -> PathBuf {
        match path.to_str() {
            Some(text) => {
                let shard = format!("{}-of-{}", shard.index(), shard.count());
                let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
                text.replace("{name}", self.job_name()).replace("{shard}", &shard).replace("{date}", &date).into()
            }
            None => path.to_owned(),
        }
    }
}

/// Whether so many samples can be a job's limit.
///
/// # Errors
/// Why not.
pub fn check_limit(limit: u64) -> Result<(), String> {
    if limit > 0 { Ok(()) } else { Err("no sample would be taken; leave it out to take all".to_owned()) }
}

/// Whether node_exporter would read this file.
///
/// # Errors
/// Why not.
pub fn check_metrics_file(path: &Path) -> Result<(), String> {
    let is_read = path.extension().is_some_and(|extension| extension == "prom");
    if is_read { Ok(()) } else { Err("it ends in `.prom`: the collector reads no other files".to_owned()) }
}

fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    checked(Option::<u64>::deserialize(deserializer)?, |limit| check_limit(*limit))
}

fn job_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    checked(Option::<String>::deserialize(deserializer)?, |name| check_name(name))
}

fn metrics_file<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    checked(Option::<PathBuf>::deserialize(deserializer)?, |path| check_metrics_file(path))
}

fn checked<T, E: de::Error>(value: Option<T>, check: impl FnOnce(&T) -> Result<(), String>) -> Result<Option<T>, E> {
    value.as_ref().map_or(Ok(()), check).map_err(E::custom)?;
    Ok(value)
}

/// How many samples make a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchSize {
    /// As many as are good for the device and fit into its memory.
    #[default]
    Auto,
    /// At most so many.
    Samples(NonZeroUsize),
}

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(BatchSize::Auto),
            number => number.parse().map(BatchSize::Samples).map_err(|_| "it is `auto` or a number from 1".to_owned()),
        }
    }
}

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchSize::Auto => f.write_str("auto"),
            BatchSize::Samples(samples) => write!(f, "{samples}"),
        }
    }
}
