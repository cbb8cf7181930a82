//! What can be asked of `annotate`: a flag for each key of a job, and how it is told.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Arg, builder::NonEmptyStringValueParser};

use crate::{
    cli::{
        cam::{CamArgs, as_key},
        choice, positive, whole,
    },
    diagnostic::Diagnostic,
    engine::{BatchSize, CamSpec, Counterfactuals, DeviceSpec, JobSpec, SliceSpec, check_limit, check_metrics_file, connect},
    explain::Sampling,
    fiftyone::{AppColors, Connected, DatabaseFlags, Shard},
    job::{ClassMapping, FieldTemplate, NameList, TargetSpec, check_name},
    names::Choice,
    pipeline::{MaxFailures, NpyFormat, Store},
    report::Format,
    storage::Grace,
};

/// Add heatmaps to the samples of a FiftyOne dataset
// A flag given twice takes its last value, so that scripts can put defaults before `"$@"`; one that takes several takes all.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, mut_args = as_key)]
pub struct Args {
    #[arg(long)]
    dataset: String,
    #[command(flatten)]
    cam: CamArgs,
    #[arg(long)]
    target: TargetSpec,
    #[arg(long)]
    per_detection: bool,
    #[arg(long)]
    faithfulness: bool,
    #[arg(long, value_parser = choice::<Counterfactuals>())]
    counterfactuals: Counterfactuals,
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    attention_on: Option<String>,
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    predictions: Option<String>,
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    eval_key: Option<String>,
    #[arg(long)]
    map: Vec<ClassMapping>,
    #[arg(long)]
    field: Option<FieldTemplate>,
    #[arg(long)]
    out: Option<PathBuf>,
    #[arg(long)]
    new_folder: bool,
    #[arg(long)]
    grace: Grace,
    #[arg(long, value_parser = choice::<NpyFormat>())]
    npy: NpyFormat,
    #[arg(long, value_parser = choice::<Store>())]
    store: Store,
    #[arg(long)]
    batch_size: BatchSize,
    #[arg(long, value_parser = positive)]
    workers: Option<NonZeroUsize>,
    #[arg(long)]
    tags: Vec<String>,
    #[arg(long = "match")]
    matching: Option<String>,
    #[arg(long)]
    ids: Option<PathBuf>,
    #[arg(long)]
    slices: Vec<String>,
    #[arg(long)]
    view: Option<String>,
    #[arg(long)]
    view_stages: Option<PathBuf>,
    #[arg(long, value_parser = limit)]
    limit: Option<u64>,
    #[arg(long)]
    shuffle: bool,
    #[arg(long, value_parser = whole::<u64>)]
    seed: u64,
    #[arg(long)]
    shard: Option<Shard>,
    #[arg(long)]
    apply_exif: bool,
    #[arg(long)]
    no_space_check: bool,
    #[arg(long, value_parser = choice::<AppColors>())]
    app_colors: AppColors,
    #[arg(long)]
    no_app_config: bool,
    #[arg(long)]
    replace: bool,
    #[arg(long)]
    overwrite: bool,
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    explain_plan: bool,
    #[arg(long)]
    max_failures: Option<MaxFailures>,
    #[arg(long)]
    accept_known_failures: bool,
    #[arg(long, value_parser = job_name)]
    name: Option<String>,
    #[arg(long)]
    report_file: Option<PathBuf>,
    #[arg(long, value_parser = metrics_file)]
    metrics_file: Option<PathBuf>,
    #[arg(long)]
    html_file: Option<PathBuf>,
    #[arg(long)]
    numbers_file: Option<PathBuf>,
    #[arg(long)]
    baseline: Option<PathBuf>,
    #[command(flatten)]
    pub telling: Telling,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// How a job is told.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Telling {
    /// Output format: text, or JSON Lines
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    pub format: Format,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
}

/// Flags about the database; FiftyOne's own settings hold where they are left out.
#[derive(Clone, Debug, clap::Args)]
#[command(mut_args = as_database_key)]
pub(crate) struct DatabaseArgs {
    #[arg(long, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    database_uri: Option<String>,
    #[arg(long)]
    database_dir: Option<PathBuf>,
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    database_name: Option<String>,
}

/// Of the flags of other commands only these are keys of a job.
fn as_database_key(arg: Arg) -> Arg {
    if arg.get_long().is_some_and(|name| name.starts_with("database-")) { as_key(arg) } else { arg }
}

impl DatabaseArgs {
    /// Connects as FiftyOne would.
    pub(crate) fn connect(&self, python: Option<PathBuf>) -> Result<Connected, Diagnostic> {
        let DatabaseArgs { database_uri: uri, database_dir: dir, database_name: name } = self.clone();
        connect(&DatabaseFlags { uri, dir, name }, python)
    }
}

/// Taken apart, so that no flag is forgotten.
impl From<Args> for JobSpec {
    fn from(args: Args) -> JobSpec {
        let Args {
            dataset,
            cam,
            target,
            per_detection,
            faithfulness,
            counterfactuals,
            attention_on,
            predictions,
            eval_key,
            map,
            field,
            out,
            new_folder,
            grace,
            npy,
            store,
            batch_size,
            workers,
            tags,
            matching,
            ids,
            slices,
            view,
            view_stages,
            limit,
            shuffle,
            seed,
            shard,
            apply_exif,
            no_space_check,
            app_colors,
            no_app_config,
            replace,
            overwrite,
            dry_run,
            explain_plan,
            max_failures,
            accept_known_failures,
            name,
            report_file,
            metrics_file,
            html_file,
            numbers_file,
            baseline,
            telling: Telling { .. },
            database: DatabaseArgs { database_uri, database_dir, database_name },
        } = args;
        let CamSpec {
            class,
            text,
            text_template,
            layers,
            model,
            methods: method,
            fuse_layers,
            fusion,
            eigen_smooth,
            aug_smooth,
            sess,
            cam_batch_size,
            sampling: Sampling { samples: cam_samples, baseline: cam_baseline, window: cam_window },
            score,
            size,
            slices: SliceSpec { height: slice_height, width: slice_width, overlap_height, overlap_width },
            device: DeviceSpec { devices: device, precision, exact, fast },
            python,
        } = cam.into_spec();
        JobSpec {
            dataset,
            class,
            text,
            text_template,
            layers,
            model,
            method,
            fuse_layers,
            fusion,
            eigen_smooth,
            aug_smooth,
            sess,
            cam_batch_size,
            cam_samples,
            cam_baseline,
            cam_window,
            score,
            size,
            slice_height,
            slice_width,
            overlap_height_ratio: overlap_height,
            overlap_width_ratio: overlap_width,
            device,
            precision,
            exact,
            fast,
            python,
            target,
            per_detection,
            faithfulness,
            counterfactuals,
            attention_on,
            predictions,
            eval_key,
            map,
            field,
            out,
            new_folder,
            grace,
            npy,
            store,
            batch_size,
            workers,
            tags: NameList::from_texts(tags),
            matching,
            ids,
            slices: NameList::from_texts(slices),
            view,
            view_stages,
            limit,
            shuffle,
            seed,
            shard,
            apply_exif,
            no_space_check,
            app_colors,
            no_app_config,
            replace,
            overwrite,
            dry_run,
            explain_plan,
            max_failures,
            accept_known_failures,
            name,
            report_file,
            metrics_file,
            html_file,
            numbers_file,
            baseline,
            database_uri,
            database_dir,
            database_name,
        }
    }
}

fn limit(text: &str) -> Result<u64, String> {
    let limit = text.parse().map_err(|_| "it is a number from 1".to_owned())?;
    check_limit(limit).map(|()| limit)
}

fn job_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

fn metrics_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    check_metrics_file(&path).map(|()| path)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches};

    use super::*;
    use crate::engine::{Kind, keys};

    fn command() -> Command {
        Args::augment_args(Command::new("annotate").no_binary_name(true).disable_help_flag(true))
    }

    #[test]
    fn flags_are_the_keys_of_a_job() {
        let command = command();
        let flags: Vec<&clap::Arg> = command.get_arguments().collect();
        let mut names: Vec<&str> = flags.iter().filter_map(|flag| flag.get_long()).collect();
        names.retain(|name| !["format", "quiet"].contains(name));
        names.sort_unstable();
        assert_eq!(names, keys().iter().map(|key| key.name.as_str()).collect::<Vec<_>>());
        for key in keys() {
            let flag = flags.iter().find(|flag| flag.get_long() == Some(&key.name)).expect("a flag");
            let takes = flag.get_action().takes_values();
            let is_list = matches!(flag.get_action(), clap::ArgAction::Append);
            assert_eq!((takes, is_list), (key.kind != Kind::Switch, matches!(key.kind, Kind::List | Kind::Table)), "{key:?}");
            let choices = flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect::<Vec<_>>();
            assert!(!takes || choices == key.choices, "{key:?}: {choices:?}");
            assert_eq!(flag.is_required_set(), key.is_required, "{key:?}");
        }
    }

    #[test]
    fn a_flag_says_what_a_key_says() {
        let spec = |line: &[&str]| {
            let matches = command().try_get_matches_from(line).expect("flags");
            JobSpec::from(Args::from_arg_matches(&matches).expect("flags"))
        };
        let python = std::env::var_os("CAMFLOW_PYTHON").map(PathBuf::from);
        assert_eq!(spec(&["--dataset", "d"]), JobSpec { python: python.clone(), ..JobSpec::new("d") }, "the defaults are one");
        let line = ["--dataset=d", "--class=a,b", "--class=c", "--map=x=y", "--limit=3", "--npy=none", "--method=fem,eigencam"];
        let job = r#"{"dataset": "d", "map": {"x": "y"}, "limit": 3, "npy": "none", "method": ["fem", "eigencam"]}"#;
        let job: JobSpec = serde_json::from_str(job).expect("a job");
        assert_eq!(spec(&line), JobSpec { class: NameList::from_texts(["a,b", "c"]), python, ..job });
    }
}
