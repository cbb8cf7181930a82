//! `camflow export`: runs the exporter in a Python that has FiftyOne and torch.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::{Exit, model::cache_folder, print};
use crate::{
    diagnostic::Diagnostic,
    engine::check_model_name,
    fiftyone::find_python,
    job::ModelRef,
    media::{create_folders, named_file, shown},
    program::Program,
    report::{has_secrets, without_controls},
};

/// The Python package `camflow`, packed by build.rs: an installed camflow needs no checkout, and the exporter is always of its version.
const PACKAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/camflow.pyz"));
const PACKAGE_NAME: &str = "camflow.pyz";

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
        None => ModelRef::Name(args.model.clone()).path(&cache_folder()?.join("models")),
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
    let folder = path.parent().unwrap_or(Path::new("/"));
    create_folders(folder).map_err(|error| failed(&format!("cannot make the folder `{}`", shown(folder)), &error))?;
    // Until Python has ended: it reads modules when it needs them.
    let unpacked = unpack(folder)?;
    let mut child = Command::new(&python.executable)
        .arg(unpacked.path().join(PACKAGE_NAME))
        .args([model, "--out"])
        .arg(path)
        .arg("--measure-with")
        .arg(std::env::current_exe().map_err(|error| failed("camflow cannot find its own program", &error))?)
        .args(more)
        .env("FIFTYONE_DO_NOT_TRACK", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        // It may quote what it is given.
        .stderr(if has_secrets() { Stdio::piped() } else { Stdio::inherit() })
        .spawn()
        .map_err(|error| failed(&format!("cannot run `{}`", shown(&python.executable)), &error))?;
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

/// Writes the package into a new folder that nobody else can write to: the system's for temporary files, or one beside the model.
///
/// Of what it is given as a file, Python looks for modules in that file first and in no current folder, where anybody may have put
/// a `torch.py`. The exporter looks there by itself for a model that is named as `module:function`.
fn unpack(beside: &Path) -> Result<TempDir, Diagnostic> {
    let mut folder = tempfile::Builder::new();
    folder.prefix("camflow-").permissions(Permissions::from_mode(0o700));
    let made = folder.tempdir().or_else(|_| folder.tempdir_in(beside)).map_err(|error| {
        let (usual, beside) = (std::env::temp_dir(), shown(beside));
        failed(&format!("cannot make a folder for the exporter in `{}` or `{beside}`", shown(&usual)), &error)
    })?;
    let path = made.path().join(PACKAGE_NAME);
    fs::write(&path, PACKAGE).map_err(|error| failed(&format!("cannot write the exporter to `{}`", shown(&path)), &error))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io::Cursor};

    use super::*;

    fn modules(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                modules(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "py") {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn all_modules_of_the_package_are_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let mut wanted = BTreeSet::from(["__main__.py".to_owned()]);
        modules(&root.join("camflow"), &root, &mut wanted);
        let mut zip = zip::ZipArchive::new(Cursor::new(PACKAGE)).unwrap();
        let names = zip.file_names().map(|name| name.unwrap().into_owned());
        assert_eq!(names.collect::<BTreeSet<_>>(), wanted);
        for name in wanted.iter().filter(|name| *name != "__main__.py") {
            let embedded = std::io::read_to_string(zip.by_name(name).unwrap()).unwrap();
            assert!(embedded == fs::read_to_string(root.join(name)).unwrap(), "{name} was changed, and cargo did not see it");
        }
    }

    #[test]
    fn the_package_is_written_where_nobody_else_can_change_it() {
        let beside = tempfile::tempdir().unwrap();
        let unpacked = unpack(beside.path()).unwrap();
        assert_eq!(fs::metadata(unpacked.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read(unpacked.path().join(PACKAGE_NAME)).unwrap(), PACKAGE);
        let path = unpacked.path().to_owned();
        drop(unpacked);
        assert!(!path.exists());
    }
}
