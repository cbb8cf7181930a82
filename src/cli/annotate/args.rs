//! What can be asked of `annotate`: its flags, which are also the keys of a job file.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{
    cli::{cam::CamArgs, choice},
    fiftyone::{ConnectOptions, Database, DatabaseConfig, DatabaseFlags, Shard},
    job::{ClassMapping, FieldTemplate, TargetSpec, check_name},
    names::Choice,
    pipeline::{MaxFailures, NpyFormat, Store},
    report::Format,
    storage::Grace,
};

/// Add heatmaps to the samples of a FiftyOne dataset
// A flag given twice takes its last value, so that scripts can put defaults before `"$@"`; one that takes several takes all.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// Name of the dataset
    #[arg(long)]
    pub dataset: String,
    #[command(flatten)]
    pub cam: CamArgs,
    /// What is explained: the classes where a label has them (`labels` or `labels:FIELD`) or where the model predicts them
    /// (`predicted`), at one pixel (`pixel=X,Y`), or the class that the model itself puts first (`top`)
    #[arg(long, default_value = "labels")]
    pub target: TargetSpec,
    /// Measure also how faithful heatmaps are, by asking the model about changed images: deletion and insertion, drop and increase,
    /// ROAD; 61 more forward passes for each heatmap
    #[arg(long)]
    pub faithfulness: bool,
    /// Which class of the model a label of the dataset is, where the two are not written the same; may be repeated
    #[arg(long = "map", value_name = "LABEL=CLASS")]
    pub mappings: Vec<ClassMapping>,
    /// Template for the names of fields, with `{class}`, `{layer}`, `{method}` and `{model}`; default: `{class}_grad_layer_{layer}`,
    /// for other methods than gradcam `{class}_{method}_layer_{layer}`
    #[arg(long, value_name = "TEMPLATE")]
    pub field: Option<FieldTemplate>,
    /// Folder for the heatmaps; default: a folder for this dataset in the user's data folder
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Write to `--out` although it is not the folder that the dataset's heatmaps were written to before: it was deleted or is on
    /// another disk now
    #[arg(long)]
    pub new_folder: bool,
    /// How long files stay that nothing refers to, from when a run replaced them: `1d`, `36h`, `0`
    #[arg(long, value_name = "TIME", default_value_t)]
    pub grace: Grace,
    /// Exact floats beside the picture
    #[arg(long, default_value = NpyFormat::F32.name(), value_parser = choice::<NpyFormat>())]
    pub npy: NpyFormat,
    /// Where the App finds the picture: an 8-bit PNG on disk (`path`) or the array in the document (`inline`)
    #[arg(long, default_value = Store::Path.name(), value_parser = choice::<Store>())]
    pub store: Store,
    /// Samples per batch: a number, or `auto`, by the size of the images and the memory that is free
    #[arg(long, value_name = "N", default_value = "auto")]
    pub batch_size: BatchSize,
    /// Threads that read images, and as many that write heatmaps; default: one per core
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Only samples with one of these tags: repeat the flag, or separate them with commas; a tag that holds commas is taken whole
    #[arg(long, value_name = "TAG")]
    pub tags: Vec<String>,
    /// Only samples that match this MongoDB query (JSON)
    #[arg(long = "match", value_name = "QUERY")]
    pub matching: Option<String>,
    /// Only the samples whose ids stand in this file, one a line, in its order
    #[arg(long, value_name = "FILE")]
    pub ids: Option<PathBuf>,
    /// Only these slices of a grouped dataset, as for tags; default: all that hold images
    #[arg(long, value_name = "SLICE")]
    pub slices: Vec<String>,
    /// Only the samples of this saved view, in its order
    #[arg(long, value_name = "VIEW")]
    pub view: Option<String>,
    /// Only the samples of the view whose stages are in this file, as FiftyOne's `view._serialize()` gives them (JSON)
    #[arg(long, value_name = "FILE")]
    pub view_stages: Option<PathBuf>,
    /// No more than this many samples
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit: Option<u64>,
    /// Take samples in a random order, so that `--limit` takes a random part; the same order each time
    #[arg(long)]
    pub shuffle: bool,
    /// Another random order for `--shuffle`
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Only this part of the samples: I of N that together are the whole selection, for several machines
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Turn images upright by their EXIF data, as the App shows them; FiftyOne's models see them as stored
    #[arg(long)]
    pub apply_exif: bool,
    /// Leave the App's settings of the dataset alone: no colours for new fields, none of them ticked
    #[arg(long)]
    pub no_app_config: bool,
    /// Put the heatmaps of this run in the place of those that another model made or that show something else: another class,
    /// target, layer or method. What is up to date stays
    #[arg(long)]
    pub replace: bool,
    /// Recompute up-to-date heatmaps, and replace all others, too
    #[arg(long)]
    pub overwrite: bool,
    /// Change nothing, but say how many samples would be annotated and why
    #[arg(long)]
    pub dry_run: bool,
    /// The same, and say it of each sample: `new`, or whether its label, its image, the model or the settings changed
    #[arg(long)]
    pub explain_plan: bool,
    /// Abort when more samples than this fail: a number, or a share of all samples of the selection (`5%`, `0.05`), rounded up.
    /// Known failures do not count: samples that failed in an earlier run with the same inputs
    #[arg(long, value_name = "N")]
    pub max_failures: Option<MaxFailures>,
    /// End with exit code 0 where no sample failed but known ones, which are tried and reported all the same; needs `max-failures`,
    /// so that a disk that is missing makes no known failures
    #[arg(long)]
    pub accept_known_failures: bool,
    /// Name of this job in reports, metrics and JSON lines
    #[arg(long, value_name = "JOB", value_parser = job_name)]
    pub name: Option<String>,
    /// Write a report (JSON) here when the run is over, however it ended; `{name}` is the job's name, `{shard}` the shard
    /// (`3-of-10`), `{date}` the day (UTC)
    #[arg(long, value_name = "FILE")]
    pub report_file: Option<PathBuf>,
    /// Write metrics for Prometheus here when the run is over, `*.prom` in the folder of node_exporter's textfile collector; `{name}`
    /// is the job's name, `{shard}` the shard (`3-of-10`)
    #[arg(long, value_name = "FILE", value_parser = prom_file)]
    pub metrics_file: Option<PathBuf>,
    /// Write the page of `camflow report` about the job's fields here when the run is over; `{name}` is the job's name, `{date}` the
    /// day (UTC)
    #[arg(long, value_name = "PAGE.html")]
    pub html_file: Option<PathBuf>,
    /// Write the numbers of that page here, too (JSON): the baseline of a later one
    #[arg(long, value_name = "N.json")]
    pub numbers_file: Option<PathBuf>,
    /// Compare that page with an earlier one: what `numbers-file` or `camflow report --json` wrote
    #[arg(long, value_name = "OLD.json")]
    pub baseline: Option<PathBuf>,
    /// Output format: text, or JSON Lines
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    pub format: Format,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// Flags about the database; FiftyOne's own settings hold where they are left out.
#[derive(Clone, Debug, clap::Args)]
pub struct DatabaseArgs {
    /// MongoDB connection string; default: as FiftyOne is configured. Credentials are better kept in FIFTYONE_DATABASE_URI
    #[arg(long, value_name = "URI", hide_env_values = true)]
    pub database_uri: Option<String>,
    /// Folder of FiftyOne's own database
    #[arg(long, value_name = "FOLDER")]
    pub database_dir: Option<PathBuf>,
    /// Name of the database
    #[arg(long, value_name = "NAME")]
    pub database_name: Option<String>,
}

impl DatabaseArgs {
    /// Connects as FiftyOne would.
    pub fn connect(&self, python: Option<PathBuf>) -> anyhow::Result<crate::fiftyone::Connected> {
        let flags =
            DatabaseFlags { uri: self.database_uri.clone(), dir: self.database_dir.clone(), name: self.database_name.clone() };
        let config = DatabaseConfig::discover(&flags)?;
        Ok(Database::connect(&config, &ConnectOptions { python })?)
    }
}

impl Args {
    /// What the job is called where nobody named it.
    pub const UNNAMED: &str = "annotate";

    /// The part of the samples that this run is about.
    pub fn shard(&self) -> Shard {
        self.shard.unwrap_or(Shard::WHOLE)
    }

    /// Whether nothing is to be changed.
    pub fn is_dry(&self) -> bool {
        self.dry_run || self.explain_plan
    }

    /// What is wrong with flags that are each right by themselves.
    pub fn contradiction(&self) -> Option<&'static str> {
        let has_page = self.html_file.is_some();
        match self {
            _ if self.accept_known_failures && self.max_failures.is_none() => Some(
                "`accept-known-failures` needs `max-failures` beside it: where a disk is missing, all samples fail, and would be known the next time",
            ),
            _ if !has_page && self.numbers_file.is_some() => {
                Some("`numbers-file` needs `html-file` beside it, the page whose numbers they are")
            }
            _ if !has_page && self.baseline.is_some() => Some("`baseline` needs `html-file` beside it, the page that compares"),
            _ => None,
        }
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

fn at_least_one(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("no sample would be taken; leave it out to take all".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("it is a number from 1".to_owned()),
    }
}

fn job_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

fn prom_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_read = path.extension().is_some_and(|extension| extension == "prom");
    if is_read { Ok(path) } else { Err("it ends in `.prom`: the collector reads no other files".to_owned()) }
}

/// How many samples make a batch.
#[derive(Clone, Copy, Debug)]
pub enum BatchSize {
    /// As many as are good for the device and fit into its memory.
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
