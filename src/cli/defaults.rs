//! Defaults of flags from files: the user's `config.toml`, and the project's `camflow.toml` in the current folder or the nearest one
//! above it, which comes first. They have the keys of job files. What is typed, and what the environment says, comes before both.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{ArgAction, ArgMatches, Args, Command, parser::ValueSource};
use serde_json::Value as Json;

use super::{annotate::DatabaseArgs, cam::CamArgs, run::Keys, secrets};
use crate::{
    diagnostic::Diagnostic,
    fiftyone::stranger_of,
    job::{JobFile, Mistake},
    media::{read_text, shown},
    names::backticked,
};

/// Another file instead of both; none if it is empty.
pub(super) const VARIABLE: &str = "CAMFLOW_CONFIG";

const PROJECT_FILE: &str = "camflow.toml";

/// Whether there is a flag of that name among those.
fn has<A: Args>(key: &str) -> bool {
    A::augment_args(Command::new("")).get_arguments().any(|arg| arg.get_long() == Some(key))
}

/// Whether a key's default holds for the flag of that name: `--out` of `report` is not that of `annotate`.
fn is_shared(command: &str, key: &str) -> bool {
    let is_of_database = || key == "python" || has::<DatabaseArgs>(key);
    match command {
        "annotate" => true,
        "explain" => key == "target" || has::<CamArgs>(key),
        "report" | "check" | "runs" => key == "dataset" || is_of_database(),
        "localize" => key == "dataset" || key == "out" || is_of_database(),
        "clean" | "remove" => key == "out" || is_of_database(),
        "export" | "inspect" | "check-model" => is_of_database(),
        // A job file says everything itself.
        _ => false,
    }
}

/// What the files say, or what is wrong with them.
#[derive(Debug)]
pub(super) struct Defaults(Result<Vec<DefaultsFile>, Diagnostic>);

#[derive(Debug)]
struct DefaultsFile {
    path: PathBuf,
    /// As texts, by key.
    values: BTreeMap<String, Vec<String>>,
}

impl Defaults {
    /// Reads the files that there are.
    pub(super) fn read() -> Self {
        let files = match std::env::var_os(VARIABLE) {
            Some(path) if path.is_empty() => Ok(Vec::new()),
            // Who names a file trusts it.
            Some(path) => DefaultsFile::read(std::path::absolute(&path).unwrap_or(path.into())).map(|file| vec![file]),
            None => {
                let user = directories::BaseDirs::new().map(|dirs| dirs.config_dir().join("camflow/config.toml"));
                let folder = std::env::current_dir().ok();
                let project = folder.iter().flat_map(|folder| folder.ancestors()).map(|folder| folder.join(PROJECT_FILE));
                let project = project.into_iter().find(|path| path.is_file());
                let found = user.into_iter().filter(|path| path.is_file()).chain(project);
                found.map(|path| DefaultsFile::check_owner(&path).and_then(|()| DefaultsFile::read(path))).collect()
            }
        };
        Defaults(files)
    }

    /// A command line that has them for defaults.
    pub(super) fn put_into(&self, command: Command) -> Command {
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        names.iter().fold(command, |command, name| {
            command.mut_subcommand(name, |sub| {
                sub.mut_args(|arg| match arg.get_long().and_then(|key| self.find(name, key)) {
                    Some((_, values)) => {
                        let is_several = matches!(arg.get_action(), ArgAction::Append);
                        let values = if is_several { values } else { &values[..1] };
                        let arg = arg.required(false).default_values(values.to_vec());
                        // They may hold secrets.
                        if arg.get_action().takes_values() { arg.hide_default_value(true) } else { arg }
                    }
                    None => arg,
                })
            })
        })
    }

    fn find(&self, command: &str, key: &str) -> Option<(&Path, &[String])> {
        let found = self.0.iter().flatten().rev().find_map(|file| Some((file.path.as_path(), file.values.get(key)?.as_slice())));
        found.filter(|(_, values)| is_shared(command, key) && !values.is_empty())
    }

    /// Which of them count for a command line: a line for each file.
    ///
    /// # Errors
    /// The command would take some, but a file cannot be read, is somebody else's, or has mistakes, all of which are named.
    pub(super) fn notices(&self, command: &str, matches: &ArgMatches) -> Result<Vec<String>, Diagnostic> {
        let files = match &self.0 {
            Ok(files) => files,
            Err(error) if is_shared(command, "python") => return Err(error.clone()),
            Err(_) => return Ok(Vec::new()),
        };
        let is_default = |key: &str| {
            // `match` is a word of Rust's.
            let id = if key == "match" { "matching".to_owned() } else { key.replace('-', "_") };
            matches.ids().any(|other| other.as_str() == id) && matches.value_source(&id) == Some(ValueSource::DefaultValue)
        };
        let of_file = |file: &DefaultsFile| {
            let counting = file
                .values
                .keys()
                .filter(|key| self.find(command, key).is_some_and(|(path, _)| path == file.path) && is_default(key));
            let flags: Vec<String> = counting.map(|key| format!("--{key}")).collect();
            (!flags.is_empty()).then(|| format!("defaults from `{}`: {}", shown(&file.path), backticked(&flags)))
        };
        Ok(files.iter().filter_map(of_file).collect())
    }

    /// The files, for who looks whether all is well.
    ///
    /// # Errors
    /// As for [`Defaults::notices`].
    pub(super) fn paths(&self) -> Result<Vec<&Path>, &Diagnostic> {
        self.0.as_ref().map(|files| files.iter().map(|file| file.path.as_path()).collect())
    }
}

impl DefaultsFile {
    /// A file that was only found may name a program to run.
    fn check_owner(path: &Path) -> Result<(), Diagnostic> {
        let Some(owner) = stranger_of(path) else { return Ok(()) };
        Err(Diagnostic::invalid(format!(
            "`{}` holds defaults for camflow and belongs to {owner}, not to you, so it does not count",
            shown(path)
        ))
        .hint(format!("go to another folder, or set `{VARIABLE}` to that file if you trust it, to nothing if you do not")))
    }

    fn read(path: PathBuf) -> Result<Self, Diagnostic> {
        let named = shown(&path).to_string();
        let text = read_text(&path)
            .map_err(|error| Diagnostic::invalid(format!("cannot read the defaults in `{named}`")).because(&error))?;
        let (values, mistakes) = parse(&text, path.parent().unwrap_or(Path::new("/")));
        if mistakes.is_empty() {
            return Ok(DefaultsFile { path, values });
        }
        let lines: String = mistakes.iter().map(|mistake| format!("\n  {}", mistake.located(&named))).collect();
        Err(Diagnostic::invalid(format!("the defaults in `{named}` are wrong{lines}"))
            .hint("its keys are those of a job file: `camflow run --print-default` explains them all"))
    }
}

fn parse(text: &str, folder: &Path) -> (BTreeMap<String, Vec<String>>, Vec<Mistake>) {
    let (settings, mut mistakes) = JobFile::parse_settings(text, &secrets::variable);
    secrets::keep_filled(&settings);
    let keys = Keys::new(folder);
    let mut values = BTreeMap::new();
    for setting in settings {
        match keys.value(&setting) {
            Ok(Some(value)) => drop(values.insert(setting.key, texts(&value))),
            Ok(None) => {}
            Err(text) => mistakes.push(Mistake { origin: setting.origin, job: None, text }),
        }
    }
    (values, mistakes)
}

/// As one would type them.
fn texts(value: &Json) -> Vec<String> {
    match value {
        Json::Array(items) => items.iter().flat_map(texts).collect(),
        Json::Object(entries) => {
            let escaped = |label: &str| label.replace('\\', "\\\\").replace('=', "\\=");
            entries.iter().map(|(label, class)| format!("{}={}", escaped(label), texts(class).concat())).collect()
        }
        Json::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn defaults(texts: &[(&str, &str)]) -> Defaults {
        let file = |(path, text): &(&str, &str)| {
            let (values, mistakes) = parse(text, Path::new("/project"));
            assert!(mistakes.is_empty(), "{mistakes:?}");
            DefaultsFile { path: path.into(), values }
        };
        Defaults(Ok(texts.iter().map(file).collect()))
    }

    fn parsed(defaults: &Defaults, line: &str) -> (ArgMatches, Vec<String>) {
        let command = defaults.put_into(Cli::command());
        command.clone().debug_assert();
        let mut matches = command.try_get_matches_from(line.split(' ')).expect("a command line");
        let (name, matches) = matches.remove_subcommand().expect("a subcommand");
        let notices = defaults.notices(&name, &matches).expect("all is well");
        (matches, notices)
    }

    fn text(matches: &ArgMatches, id: &str) -> String {
        let raw = matches.get_raw(id).expect("values");
        raw.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn what_is_typed_comes_first_then_the_project_then_the_user() {
        let user = "model = \"resnet50-imagenet-torch\"\ndevice = [\"cpu\", \"cuda\"]\nexact = true\n";
        let project =
            "dataset = \"street\"\nmodel = \"m.pt2\"\nlayers = [\"2\", \"4\"]\nout = \"maps\"\nmap = { \"a=b\" = \"c\" }\n";
        let defaults = defaults(&[("/home/config.toml", user), ("/project/camflow.toml", project)]);
        let (matches, notices) = parsed(&defaults, "camflow annotate --layers 3 --class person");
        let found = ["dataset", "model", "layers", "out", "device", "map"].map(|id| text(&matches, id));
        assert_eq!(found, ["street", "/project/m.pt2", "3", "/project/maps", "cpu|cuda", r"a\=b=c"]);
        assert!(matches.get_flag("exact"));
        assert_eq!(
            notices,
            [
                "defaults from `/home/config.toml`: `--device`, `--exact`",
                "defaults from `/project/camflow.toml`: `--dataset`, `--map`, `--model`, `--out`",
            ]
        );
    }

    #[test]
    fn only_flags_that_mean_the_same_take_them() {
        let defaults = defaults(&[("f", "dataset = \"street\"\nout = \"maps\"\nmodel = \"m.pt2\"\ndatabase-name = \"x\"\n")]);
        let (matches, notices) = parsed(&defaults, "camflow report --out page.html");
        assert_eq!(["dataset", "out", "database_name"].map(|id| text(&matches, id)), ["street", "page.html", "x"]);
        assert_eq!(notices, ["defaults from `f`: `--database-name`, `--dataset`"]);
        let (matches, _) = parsed(&defaults, "camflow clean --dataset other");
        assert_eq!(["dataset", "out"].map(|id| text(&matches, id)), ["other", "/project/maps"]);
        let (matches, notices) = parsed(&defaults, "camflow explain a.jpg");
        assert_eq!((text(&matches, "model"), notices.len()), ("/project/m.pt2".into(), 1));
        assert_ne!(text(&matches, "out"), "/project/maps", "that is the folder of a dataset's heatmaps");
        assert_eq!(parsed(&defaults, "camflow run jobs.toml").1, [""; 0]);
    }

    #[test]
    fn mistakes_are_named_with_their_lines() {
        let (_, mistakes) = parse("layer = 3\nsize = \"huge\"\nname = \"a\"\n", Path::new("/"));
        let located: Vec<String> = mistakes.iter().map(|mistake| mistake.located("f")).collect();
        assert!(located[0].starts_with("f:1: there is no key `layer`; the nearest: `layers`"), "{located:?}");
        assert!(located[1].starts_with("f:2: `size` cannot be `huge`") && located[2].starts_with("f:3: "), "{located:?}");
        assert_eq!(parse("= 1", Path::new("/")).1.len(), 1);
    }
}
