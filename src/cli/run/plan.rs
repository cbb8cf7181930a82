//! From a job file to the jobs that it means. All mistakes of the file are found here and reported at once.

use std::{collections::BTreeMap, io::ErrorKind, path::Path};

use serde_json::{Map, Value as Json};

use super::{
    Args,
    keys::{Keys, settable},
};
use crate::{
    cli::{annotate::Invocation, secrets},
    diagnostic::Diagnostic,
    engine::{Job, JobSpec},
    fiftyone::stranger_of,
    job::{JobFile, JobTable, Mistake, Origin, Setting, Text, Value, unknown},
    media::{read_text, shown},
    names::word,
};

/// The jobs of the file that are to be run, ready to be.
///
/// # Errors
/// The file cannot be read, or something in it or in `--set` and `--only` is wrong.
pub(super) fn jobs(path: &Path, args: &Args) -> Result<Vec<Invocation>, Diagnostic> {
    let named = shown(path).to_string();
    let text = read_text(path).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound => format!("`camflow run --print-default > {}` writes one to start from", word(path)),
            // What is there is not to be written over.
            _ => "a job file is a text file (TOML); `camflow run --print-default` prints one to start from".to_owned(),
        };
        Diagnostic::invalid(format!("cannot read the job file `{named}`")).because(&error).hint(hint)
    })?;
    let path =
        std::path::absolute(path).map_err(|error| Diagnostic::invalid(format!("`{named}` is not a path")).because(&error))?;
    let (jobs, mut mistakes) = plan(&text, path.parent().unwrap_or(Path::new("/")), args, &secrets::variable);
    if mistakes.is_empty() {
        check_python(&path, &jobs, args)?;
        return Ok(jobs);
    }
    mistakes.sort_by_key(|mistake| match mistake.origin {
        Origin::Line(line) => line,
        Origin::Set(_) => usize::MAX,
    });
    let count = match mistakes.len() {
        1 => "is a mistake".to_owned(),
        count => format!("are {count} mistakes"),
    };
    let lines: String = mistakes.iter().map(|mistake| format!("\n  {}", mistake.located(&named))).collect();
    Err(Diagnostic::invalid(format!("there {count} in the job file `{named}`{lines}"))
        .hint("`camflow run --print-default` explains all keys"))
}

/// A program that a file of somebody else names is run for nobody.
fn check_python(path: &Path, jobs: &[Invocation], args: &Args) -> Result<(), Diagnostic> {
    let is_typed = args.set.iter().any(|set| set.key == "python");
    let named = jobs.iter().find_map(|job| job.job.spec.python.as_deref().filter(|_| !is_typed));
    let Some((python, owner)) = named.zip(stranger_of(path)) else { return Ok(()) };
    Err(Diagnostic::invalid(format!(
        "the job file `{}` belongs to {owner}, not to you, so the Python that it names is not run",
        shown(path)
    ))
    .hint(format!("if you trust it, say so with `--set {}`", word(&format!("python={}", python.to_string_lossy())))))
}

fn plan(text: &str, folder: &Path, args: &Args, variable: &dyn Fn(&str) -> Option<String>) -> (Vec<Invocation>, Vec<Mistake>) {
    let (file, mut mistakes) = JobFile::parse(text, variable);
    secrets::keep_filled(file.defaults.iter().chain(file.jobs.iter().flat_map(|job| &job.settings)));
    let keys = Keys::new(folder);
    let names: Vec<&str> = file.jobs.iter().map(|job| job.name.as_str()).filter(|name| !name.is_empty()).collect();
    let only: Vec<&str> = args.only.iter().map(String::as_str).collect();
    for wrong in only.iter().filter(|name| !file.jobs.is_empty() && !names.contains(name)) {
        let origin = Origin::Line(1);
        mistakes.push(Mistake {
            origin,
            job: None,
            text: format!("{} (`--only`)", unknown("job", wrong, names.iter().copied())),
        });
    }
    let mut check = |setting: &Setting, job: Option<&str>| {
        let origin = setting.origin.clone();
        let wrong = keys.value(setting).err();
        mistakes.extend(wrong.map(|text| Mistake { origin, job: job.map(Into::into), text }));
    };
    file.defaults.iter().for_each(|setting| check(setting, None));
    file.jobs.iter().for_each(|job| job.settings.iter().for_each(|setting| check(setting, Some(&job.name))));
    let typed: Vec<(Option<&str>, Setting)> = args.set.iter().map(assigned).collect();
    typed.iter().for_each(|(_, setting)| check(setting, None));
    for (job, setting) in &typed {
        if let Some(job) = job.filter(|job| !file.jobs.is_empty() && !names.contains(job)) {
            let text = unknown("job", job, names.iter().copied());
            mistakes.push(Mistake { origin: setting.origin.clone(), job: None, text });
        }
    }

    let mut jobs = Vec::new();
    let mut files = BTreeMap::new();
    for job in &file.jobs {
        let settings = merged(&file, job, &typed);
        let mut wrong = |text: String| {
            mistakes.push(Mistake { origin: Origin::Line(job.line), job: Some(job.name.clone()), text });
        };
        for key in required().filter(|key| !settings.contains_key(key)) {
            wrong(format!("it has no `{key}`"));
        }
        // The rest makes sense only for a job without mistakes, which are reported already.
        match spec(&keys, job, &settings, args) {
            Some(Ok(spec)) => {
                spec.problems().into_iter().for_each(&mut wrong);
                let shard = spec.shard();
                let [page, numbers, _] = spec.page_files();
                let written = [spec.report_file(shard), spec.metrics_file(shard), page, numbers];
                for (key, path) in ["report-file", "metrics-file", "html-file", "numbers-file"].into_iter().zip(written) {
                    let other = path.and_then(|path| files.insert(path, &job.name));
                    // What is wrong with a job by itself is said already.
                    if let Some(other) = other.filter(|other| **other != job.name) {
                        wrong(format!("its `{key}` is that of job `{other}`; put `{{name}}` into it, the name of the job"));
                    }
                }
                let shown = settings.iter().filter(|(_, setting)| has_secrets(&setting.value));
                let shown = shown.map(|(key, setting)| ((*key).to_owned(), setting.value.to_string())).collect();
                let settings = spec.settings(&shown);
                jobs.push(Invocation::new(Job { spec, settings }, args.telling));
            }
            Some(Err(text)) => wrong(text),
            None => {}
        }
    }
    jobs.retain(|job| only.is_empty() || only.contains(&job.job.spec.job_name()));
    let count = jobs.len();
    jobs.iter_mut().enumerate().for_each(|(index, job)| job.position = (index + 1, count));
    (jobs, mistakes)
}

fn assigned(set: &super::Assignment) -> (Option<&str>, Setting) {
    let value = Value::Text(Text::plain(&set.value));
    (set.job.as_deref(), Setting { key: set.key.clone(), value, origin: Origin::Set(set.typed.clone()) })
}

/// What holds for a job: the defaults, its own settings, and those of the command line, each before the one ahead of it.
fn merged<'a>(file: &'a JobFile, job: &'a JobTable, typed: &'a [(Option<&str>, Setting)]) -> BTreeMap<&'a str, &'a Setting> {
    let of_all = typed.iter().filter(|(name, _)| name.is_none());
    let of_this = typed.iter().filter(|(name, _)| *name == Some(&job.name));
    let typed = of_all.chain(of_this).map(|(_, setting)| setting);
    file.defaults.iter().chain(&job.settings).chain(typed).map(|setting| (setting.key.as_str(), setting)).collect()
}

/// The keys that a job cannot be without.
fn required() -> impl Iterator<Item = &'static str> {
    settable().filter(|key| key.is_required).map(|key| key.name.as_str())
}

/// What the job asks for; `None` if it has mistakes, which are reported already.
fn spec(keys: &Keys, job: &JobTable, settings: &BTreeMap<&str, &Setting>, args: &Args) -> Option<Result<JobSpec, String>> {
    let complete = required().all(|key| settings.get(key).is_some_and(|setting| setting.value != Value::Wrong));
    if !complete || job.name.is_empty() || settings.values().any(|setting| setting.value == Value::Wrong) {
        return None;
    }
    let mut values = Map::new();
    values.insert("name".to_owned(), Json::from(job.name.as_str()));
    for (key, setting) in settings {
        if let Some(value) = keys.value(setting).ok()? {
            values.insert((*key).to_owned(), value);
        }
    }
    let spec = serde_json::from_value::<JobSpec>(values.into()).map_err(|error| error.to_string());
    Some(spec.map(|spec| JobSpec {
        python: spec.python.or_else(|| std::env::var_os("CAMFLOW_PYTHON").filter(|python| !python.is_empty()).map(Into::into)),
        dry_run: spec.dry_run || args.dry_run,
        explain_plan: spec.explain_plan || args.explain_plan,
        ..spec
    }))
}

fn has_secrets(value: &Value) -> bool {
    value.texts().any(|text| text.is_secret)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{Args as _, Command, FromArgMatches};
    use serde_json::json;

    use super::*;
    use crate::job::NameList;

    fn args(line: &[&str]) -> Args {
        let matches = Args::augment_args(Command::new("run")).get_matches_from([&["run", "f.toml"], line].concat());
        Args::from_arg_matches(&matches).expect("parsed")
    }

    fn planned(text: &str, line: &[&str]) -> (Vec<Invocation>, Vec<String>) {
        let variable = |name: &str| (name == "DB").then(|| "hunter2".to_owned());
        let (jobs, mistakes) = plan(text, Path::new("/jobs"), &args(line), &variable);
        (jobs, mistakes.iter().map(|mistake| mistake.located("f.toml")).collect())
    }

    const TWO: &str = r#"
version = 1
[defaults]
dataset = "d"
tags = ["night"]
overwrite = true
report-file = "{name}.json"
[[job]]
name = "a"
class = "x"
database-uri = "mongodb://${DB}"
field = "${DB}_{layer}"
[[job]]
name = "b"
dataset = "e"
tags = []
overwrite = false
"#;

    #[test]
    fn jobs_have_their_own_settings_before_the_defaults() {
        let (jobs, mistakes) = planned(TWO, &[]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let [a, b] = &jobs[..] else { panic!("two jobs") };
        assert_eq!((a.job.spec.job_name(), a.job.spec.dataset.as_str(), a.job.spec.overwrite), ("a", "d", true));
        assert_eq!((b.job.spec.job_name(), b.job.spec.dataset.as_str(), b.job.spec.overwrite), ("b", "e", false));
        assert_eq!((&a.job.spec.tags, &b.job.spec.tags), (&["night"].into(), &NameList::default()));
        assert_eq!(a.job.spec.report_file(crate::fiftyone::Shard::WHOLE), Some("/jobs/a.json".into()));
        assert_eq!((a.position, b.position), ((1, 2), (2, 2)));
        assert_eq!((&a.job.settings["dataset"], &a.job.settings["overwrite"]), (&json!("d"), &json!(true)));
        assert_eq!((&a.job.settings["database-uri"], &a.job.settings["field"]), (&json!("(hidden)"), &json!("${DB}_{layer}")));
    }

    #[test]
    fn the_command_line_has_the_last_word() {
        let (jobs, mistakes) = planned(TWO, &["--set", "limit=3", "--set", "b.limit=4", "--set", "overwrite=true", "--dry-run"]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let settings: Vec<_> =
            jobs.iter().map(|Invocation { job, .. }| (job.spec.limit, job.spec.overwrite, job.spec.dry_run)).collect();
        assert_eq!(settings, [(Some(3), true, true), (Some(4), true, true)]);
        let (jobs, _) = planned(TWO, &["--only", "b"]);
        assert_eq!((jobs.len(), jobs[0].job.spec.job_name(), jobs[0].position), (1, "b", (1, 1)));
        let wrong = ["--set", "limit=x", "--set", "c.limit=1", "--set", "a.dataste=d", "--only", "z"];
        assert_eq!(
            planned(TWO, &wrong).1,
            [
                "f.toml:1: there is no job `z` (`--only`)",
                "--set limit=x: `limit` cannot be `x`: it is a number from 1",
                "--set a.dataste=d: there is no key `dataste`; the nearest: `dataset`, `database-dir`, `database-uri`",
                "--set c.limit=1: there is no job `c`",
            ]
        );
    }

    #[test]
    fn all_mistakes_are_reported_at_once_and_each_once() {
        let text = r#"
version = 1
[defaults]
clas = "x"
metrics-file = "m.prom"
[[job]]
name = "a"
npy = "f33"
[[job]]
name = "b"
dataset = "${UNSET}"
[[job]]
name = "c"
dataset = "d"
[[job]]
name = "e"
dataset = "d"
overwrite = "yes"
[[job]]
name = "f"
dataset = "d"
metrics-file = "f.txt"
"#;
        let mut found = planned(text, &[]).1;
        found.sort();
        assert_eq!(
            found,
            [
                "f.toml:11: job `b`: `dataset` needs the environment variable `UNSET`, which is not set",
                "f.toml:18: job `e`: `overwrite` is `true` or `false`, without quotes",
                "f.toml:22: job `f`: `metrics-file` cannot be `f.txt`: it ends in `.prom`: the collector reads no other files",
                "f.toml:4: there is no key `clas`; the nearest: `class`, `layers`",
                "f.toml:6: job `a`: it has no `dataset`",
                "f.toml:8: job `a`: `npy` cannot be `f33`: it takes `layer`, `f32`, `f16`, `none`; did you mean `f32`?",
            ]
        );
        let shared =
            "version = 1\n[defaults]\ndataset = 'd'\nmetrics-file = 'm.prom'\n[[job]]\nname = 'a'\n[[job]]\nname = 'b'\n";
        let found = planned(shared, &[]).1;
        assert_eq!(
            found,
            ["f.toml:7: job `b`: its `metrics-file` is that of job `a`; put `{name}` into it, the name of the job"]
        );
        assert!(planned(&shared.replace("m.prom", "{name}.prom"), &[]).1.is_empty());
    }

    #[test]
    fn ready_made_files_are_right() {
        let folder = Path::new("pipelines");
        let mut count = 0;
        for entry in fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let text = fs::read_to_string(&path).expect("a file");
                let (jobs, mistakes) = plan(&text, folder, &args(&[]), &|_| Some("variable".to_owned()));
                assert!(mistakes.is_empty() && !jobs.is_empty(), "{path:?}: {mistakes:?}");
                count += 1;
            }
        }
        assert_eq!(count, 3);
    }

    #[test]
    fn the_reference_is_a_job_file_with_every_key() {
        let text = super::super::reference::text();
        let (jobs, mistakes) = planned(&text, &[]);
        assert!(mistakes.is_empty() && jobs.len() == 1, "{mistakes:?}");
        // Settings are commented out as `#key = value`, explanations begin with `# `.
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        // These go with some of the others, not with all at once.
        let is_choosy = |line: &str| ["eval-key = ", "predictions = "].iter().any(|key| line.starts_with(key));
        let possible: String = uncommented.lines().filter(|line| !is_choosy(line)).flat_map(|line| [line, "\n"]).collect();
        let (jobs, mistakes) = planned(&possible, &[]);
        assert!(mistakes.is_empty() && jobs.len() == 1, "{mistakes:?}");
        let alone = planned(&format!("{text}\npredictions = \"predicted\"\n"), &[]).1;
        assert!(alone.is_empty(), "{alone:?}");
        for key in settable() {
            assert_eq!(uncommented.matches(&format!("\n{} = ", key.name)).count(), 1, "{key:?}");
        }
    }
}
