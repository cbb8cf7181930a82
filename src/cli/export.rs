//! `camflow export`: runs the exporter in a Python that has FiftyOne and torch.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Exit, Failure, model::cache_folder, print};
use crate::{
    diagnostic::Diagnostic,
    engine::check_model_name,
    fiftyone::find_python,
    job::ModelRef,
    media::{create_folders, named_file, shown},
    program::Program,
    report::{has_secrets, without_controls},
};

/// The exporter travels inside the binary, so that an installed camflow needs no checkout.
const EXPORTER: &[(&str, &str)] = &[
    ("__main__", include_str!("../../scripts/export_model.py")),
    ("export_describe", include_str!("../../scripts/export_describe.py")),
    ("export_files", include_str!("../../scripts/export_files.py")),
    ("export_known", include_str!("../../scripts/export_known.py")),
    ("export_layers", include_str!("../../scripts/export_layers.py")),
    ("export_libraries", include_str!("../../scripts/export_libraries.py")),
    ("export_loading", include_str!("../../scripts/export_loading.py")),
    ("export_messages", include_str!("../../scripts/export_messages.py")),
    ("export_preprocess", include_str!("../../scripts/export_preprocess.py")),
    ("export_reasons", include_str!("../../scripts/export_reasons.py")),
    ("export_trace", include_str!("../../scripts/export_trace.py")),
    ("export_verify", include_str!("../../scripts/export_verify.py")),
    ("export_weights", include_str!("../../scripts/export_weights.py")),
    ("export_write", include_str!("../../scripts/export_write.py")),
];

/// Runs the exporter without what lies in the current folder, where anybody may have put a `torch.py`. It looks there by itself for
/// a model that is named as `module:function`.
const LOADER: &str = "\
import sys
sys.path[:] = [p for p in sys.path if p]
import importlib.abc, importlib.util, json
class Embedded(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    sources = json.load(sys.stdin)
    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self, is_package=False) if name in self.sources else None
    def get_source(self, name):
        return self.sources[name]
    def get_code(self, name):
        return compile(self.sources[name], name + '.py', 'exec')
sys.meta_path.insert(0, Embedded())
sys.argv[0] = '-'
exec(compile(Embedded.sources['__main__'], 'export_model.py', 'exec'))";

/// Export a FiftyOne zoo, torchvision or timm model to a file that camflow runs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// FiftyOne zoo, torchvision or timm name, `module:function`, `file.py:function`, or a `.pt2` file of `torch.export.save`
    model: String,
    /// File to write; default: the user's cache, where `--model NAME` finds it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Python with FiftyOne, torch and torchvision; default: the active environment, else `python3`
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// More arguments for the exporter, such as `-- --weights best.pth --classes names.txt`; `-- --help` lists them
    #[arg(last = true, value_name = "EXPORTER ARGS")]
    more: Vec<String>,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<Exit, Diagnostic> {
    check_model_name(&args.model)?;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => ModelRef::Name(args.model.clone()).path(&cache_folder().map_err(Failure::from)?.join("models")),
    };
    run(&args.model, &path, &args.more, args.python.clone())?;
    if args.more.iter().any(|arg| arg == "--help" || arg == "-h") {
        return Ok(Exit::Done);
    }
    // Seen by the reader that will run it, not only by its writer.
    let program = Program::open(&path)?;
    print(&format!("{} ({} nodes, torch {})", shown(&path), program.num_nodes(), program.torch_version()));
    print(&format!("default mode: {}", program.metadata.default_mode()));
    if program.metadata.is_one_by_one() {
        print("images are run one by one, as the model mixes those of a batch");
    }
    Ok(Exit::Done)
}

fn eprint_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", without_controls(text));
}

fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Diagnostic {
    Diagnostic::invalid(what).because(error)
}

/// Exports `model` to `path`.
pub fn run(model: &str, path: &Path, more: &[String], python: Option<PathBuf>) -> Result<(), Diagnostic> {
    let python = find_python(python)?;
    let path = &named_file(path).map_err(|error| {
        Diagnostic::invalid(format!("cannot write the model to `{}`: {error}", shown(path))).hint("name a file")
    })?;
    if let Some(folder) = path.parent() {
        let failed = |error| failed(&format!("cannot make the folder `{}`", shown(folder)), &error);
        create_folders(folder).map_err(failed)?;
    }
    let mut child = Command::new(&python.executable)
        // The scripts come by standard input; their own names would be lost in messages otherwise.
        .args(["-c", LOADER])
        .args([model, "--out"])
        .arg(path)
        .arg("--measure-with")
        .arg(std::env::current_exe().map_err(|error| failed("camflow cannot find its own program", &error))?)
        .args(more)
        .env("FIFTYONE_DO_NOT_TRACK", "true")
        .stdin(Stdio::piped())
        .stdout(Stdio::from(std::io::stderr()))
        // It may quote what it is given.
        .stderr(if has_secrets() { Stdio::piped() } else { Stdio::inherit() })
        .spawn()
        .map_err(|error| failed(&format!("cannot run `{}`", shown(&python.executable)), &error))?;
    let mut input = child.stdin.take().ok_or_else(|| Diagnostic::aborted("the exporter has no standard input"))?;
    // A Python that stops early says why itself.
    let sources: BTreeMap<_, _> = EXPORTER.iter().copied().collect();
    let sources = serde_json::to_vec(&sources).map_err(|error| failed("the exporter cannot be sent", &error))?;
    let _ = input.write_all(&sources);
    drop(input);
    if let Some(said) = child.stderr.take() {
        let lines = BufReader::new(said).split(b'\n').map_while(Result::ok);
        lines.for_each(|line| eprint_line(&String::from_utf8_lossy(&line)));
    }
    let status = child.wait().map_err(|error| failed("the exporter cannot be waited for", &error))?;
    if !status.success() {
        return Err(Diagnostic::invalid(format!("exporting `{model}` failed ({status}); what Python said stands above")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn all_modules_of_the_exporter_are_embedded() {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        let names = fs::read_dir(scripts).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut modules: Vec<_> = names
            .filter(|name| name.starts_with("export_") && name.ends_with(".py"))
            .map(|name| name.trim_end_matches(".py").replace("export_model", "__main__"))
            .collect();
        modules.sort();
        assert_eq!(EXPORTER.iter().map(|(name, _)| *name).collect::<Vec<_>>(), modules);
    }
}
