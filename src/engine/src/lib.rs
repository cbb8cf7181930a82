//! A job from what is asked to what came of it, for programs: a [`JobSpec`] says what to do, an [`Engine`] does it, an [`Observer`]
//! hears what happens meanwhile, an [`Outcome`] or a [`Diagnostic`] says how it ended.
//!
//! Nothing here prints, handles signals or reads the process's environment.

mod asked;
mod cam;
mod check_model;
mod chosen;
mod collect;
mod compare_files;
mod counterfactuals;
mod device;
mod exit;
mod form;
pub mod job;
mod keys;
mod labels;
mod layer_trial;
mod localize;
mod model;
mod note;
mod object_boxes;
mod observer;
mod outlook;
mod page;
mod predictions;
mod present;
mod record;
mod reference;
mod resolve;
mod sampling;
mod session;
mod settings;
mod slicing;
mod spec;
mod study_files;
mod target;
mod texts;
mod written;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde_json::{Map, Value};

pub use cam::{CamSpec, LayerFusion, Model};
use camflow_diagnostic::{Class, Diagnostic};
use camflow_fiftyone::{ConnectOptions, Connected, Database, DatabaseConfig, DatabaseFlags};
use camflow_pipeline::{Cancellation, Summary};
pub use check_model::{CheckModelSpec, CheckedModel, KeptMap, KeptMaps, check_model, check_unranked};
pub use chosen::{chosen_ids, chosen_tags, listed_ids};
pub use collect::{Removed, remove_orphans, retain_orphans, unknown_datasets};
pub use compare_files::{CompareFiles, Compared};
pub use counterfactuals::Counterfactuals;
pub use device::DeviceSpec;
pub use exit::Exit;
pub use keys::{Key, Kind, PathKind, job_file_schema, key, keys};
pub use layer_trial::{LayerTrial, MAX_SEEN};
pub use localize::{ClassLocalization, Criterion, Localization, LocalizeSpec, ThresholdSource, localize};
pub use model::{check_model_name, check_preprocess};
pub use observer::Observer;
pub use reference::{FoundReference, Reading, embedded, in_file};
pub use resolve::output_folder;
pub use session::{Session, Work};
pub use slicing::{Beside, OverlapRatio, SliceSpec};
pub use spec::{BatchSize, JobSpec, check_limit, check_metrics_file};
pub use study_files::{APP, NUM_WORST, Studied, StudyFiles, baseline_notice, read_baseline};
pub use target::{check_classes, check_masks, check_output, check_task, components, one_channel_notice, resolve};
pub use texts::{check_confidence, check_texts, lay_texts};
pub use written::{check_written, shared};

/// Makes the file of a model that was never exported: its name, the file, what of the model is wanted, and the Python that was asked
/// for.
pub type Exporter = Box<dyn Fn(&str, &Path, Part, Option<&Path>) -> Result<(), Diagnostic> + Send + Sync>;

/// Makes the embeddings of texts: the file of the image tower, the texts, the folder that gets a file for each, and the Python that was
/// asked for.
pub type Embedder = Box<dyn Fn(&Path, &[String], &Path, Option<&Path>) -> Result<(), Diagnostic> + Send + Sync>;

/// What is exported of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// What embeds images, for texts to be laid beside.
    ImageTower,
}

/// Where things are that nobody named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folders {
    /// Exported models, by their names.
    pub models: Option<PathBuf>,
    /// Heatmaps, with a folder for each dataset.
    pub heatmaps: Option<PathBuf>,
}

impl Folders {
    /// Those of this user, where the command line has them too, unless told otherwise.
    pub fn of_user() -> Self {
        let base = directories::BaseDirs::new();
        Folders {
            models: base.as_ref().map(|base| base.cache_dir().join("camflow").join("models")),
            heatmaps: base.as_ref().map(|base| base.data_local_dir().join("camflow")),
        }
    }
}

/// Runs jobs, one after the other.
#[derive(Default)]
pub struct Engine {
    /// Where things are that nobody named.
    pub folders: Folders,
    /// Without one, only models that are exported already can be used.
    pub exporter: Option<Exporter>,
    /// Without one, only texts whose embeddings are there can be explained.
    pub embedder: Option<Embedder>,
    /// Stops the run that goes on: no new samples are read, and what is in flight is finished.
    pub cancellation: Cancellation,
    /// A service that was started for one job would end before the next.
    database: Mutex<Option<Database>>,
}

/// A job, and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Job {
    /// What is asked.
    pub spec: JobSpec,
    /// Every setting by its key, without secrets, for the report and the dataset's record of the run.
    pub settings: Map<String, Value>,
}

impl From<JobSpec> for Job {
    fn from(spec: JobSpec) -> Self {
        Job { settings: spec.settings(&BTreeMap::new()), spec }
    }
}

/// How a run ended that could begin and was not aborted.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Done, or done but for some samples, or interrupted.
    pub exit: Exit,
    /// What it came to; `None` for a dry run.
    pub summary: Option<Summary>,
}

impl Engine {
    /// An engine that has the user's folders.
    pub fn new() -> Self {
        Engine { folders: Folders::of_user(), ..Engine::default() }
    }

    /// Does the job, and leaves report and metrics where the job says.
    ///
    /// # Errors
    /// It could not begin, or was aborted; what was committed by then stays.
    pub fn annotate(&self, job: &Job, observer: &dyn Observer) -> Result<Outcome, Diagnostic> {
        let shard = job.spec.shard();
        record::recorded(job, job.settings.clone(), shard, |record| self.open(job, observer)?.run(shard, record)).0
    }

    /// Opens model and dataset of a job that is run shard by shard.
    ///
    /// # Errors
    /// Something in the job, the model or the dataset is wrong.
    pub fn open<'a>(&'a self, job: &'a Job, observer: &'a dyn Observer) -> Result<Session<'a>, Diagnostic> {
        Session::open(self, job, observer)
    }

    fn models(&self) -> Result<&Path, Diagnostic> {
        let folder = self.folders.models.as_deref();
        folder.ok_or_else(|| Diagnostic::invalid("no home folder is known").hint("name the `.pt2` file of a model"))
    }

    fn connect(&self, spec: &JobSpec) -> Result<Connected, Diagnostic> {
        let connected = connect(&spec.database(), spec.python.clone())?;
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected.database.clone());
        Ok(connected)
    }
}

/// Connects as FiftyOne would.
///
/// # Errors
/// FiftyOne's settings are wrong, or the database does not answer.
pub fn connect(flags: &DatabaseFlags, python: Option<PathBuf>) -> Result<Connected, Diagnostic> {
    let config = DatabaseConfig::discover(flags)?;
    Ok(Database::connect(&config, &ConnectOptions { python })?)
}

/// Why a run ended that had begun: what was asked was right then.
fn aborted(error: impl Into<Diagnostic>) -> Diagnostic {
    let error = error.into();
    if error.class == Class::Invalid { error.of_class(Class::Aborted) } else { error }
}
