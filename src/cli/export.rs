//! `camflow export`: runs the exporter in a Python that has FiftyOne and torch.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::json;
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

/// Export a PyTorch model to a file that camflow runs
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name in FiftyOne's zoo, torchvision or timm; Hugging Face name or folder; `file.py:function`, `module:function`; `.pt2` file
    #[arg(required_unless_present = "arch")]
    model: Option<String>,
    /// File to write; default: the user's cache, where `--model NAME` finds it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Python with FiftyOne, torch and torchvision; default: the active environment, else `python3`
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON")]
    python: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// More arguments for the exporter; `camflow export x -- --help` lists them
    #[arg(last = true, value_name = "EXPORTER ARGS")]
    more: Vec<String>,
}

/// What the exporter is told beside the model; it checks the values.
#[derive(Debug, clap::Args)]
struct Settings {
    /// Network of a checkpoint, in place of MODEL: timm:resnet18, torchvision:resnet50, smp:unet:resnet34, hf:FOLDER
    #[arg(long, value_name = "LIBRARY:NAME")]
    arch: Option<String>,
    /// Your weights: a state dict, Lightning checkpoint, TorchScript or safetensors file; `none`: random weights
    #[arg(long, visible_alias = "weights", value_name = "FILE")]
    checkpoint: Option<String>,
    /// Class names in the order of the channels: a file (JSON, or one a line), or a,b,c
    #[arg(long, value_name = "NAMES")]
    classes: Option<String>,
    /// Text of each class for a CLIP-like model, such as 'a photo of a {}'
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// How images are preprocessed: `imagenet`, `none` (samples in [0, 1]) or a JSON file of steps; default: what the model says
    #[arg(long, value_name = "imagenet|none|FILE")]
    preprocess: Option<String>,
    /// Mean of the samples in [0, 1] that the model expects; one number for all channels will do
    #[arg(long, value_name = "M,M,M", allow_hyphen_values = true)]
    mean: Option<String>,
    /// Standard deviation likewise
    #[arg(long, value_name = "S,S,S")]
    std: Option<String>,
    /// Resize images to this, or their smaller side
    #[arg(long, value_name = "HxW|N")]
    resize: Option<String>,
    /// Resize images to fit in this and pad them with gray, as Ultralytics does
    #[arg(long, value_name = "HxW|N")]
    letterbox: Option<String>,
    /// Range of the samples in image files of 16 bits, several bands or floating point, which are then read at full depth: `0-255`,
    /// `0-65535` or `as-is`
    #[arg(long, value_name = "RANGE")]
    samples: Option<String>,
    /// Example size; default: what the model is made for
    #[arg(long, value_name = "HxW")]
    size: Option<String>,
    /// The model's output to explain, by key or number; default: `out`, `logits` or the first
    #[arg(long, value_name = "KEY")]
    output: Option<String>,
    /// What the model takes beside the image, the same for all of them: a number, true, false, none or a `.npy` file; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    input: Vec<String>,
    /// What the output means: `classification`, `segmentation`, `regression` (numbers that are no scores of classes) or `embedding`;
    /// default: what the model says, else scores of classes
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

impl Settings {
    fn arguments(&self, checkpoint: Option<&str>) -> Vec<String> {
        let valued = [
            ("checkpoint", checkpoint),
            ("classes", self.classes.as_deref()),
            ("prompt", self.prompt.as_deref()),
            ("preprocess", self.preprocess.as_deref()),
            ("mean", self.mean.as_deref()),
            ("std", self.std.as_deref()),
            ("resize", self.resize.as_deref()),
            ("letterbox", self.letterbox.as_deref()),
            ("samples", self.samples.as_deref()),
            ("size", self.size.as_deref()),
            ("output", self.output.as_deref()),
            ("task", self.task.as_deref()),
        ];
        let given = valued.into_iter().filter_map(|(flag, value)| value.map(|value| format!("--{flag}={value}")));
        let inputs = self.input.iter().map(|input| format!("--input={input}"));
        given.chain(inputs).chain(self.force.then(|| "--force".to_owned())).collect()
    }
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let settings = &args.settings;
    let (model, checkpoint) = chosen(args.model.as_deref(), settings.arch.as_deref(), settings.checkpoint.as_deref())?;
    check_model_name(model)?;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => ModelRef::Name(named_after(model, checkpoint)).path(&cache_folder()?.join("models")),
    };
    let more: Vec<String> = settings.arguments(checkpoint).into_iter().chain(args.more.iter().cloned()).collect();
    run(model, &path, &more, args.python.clone())?;
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

/// The network and the file of its weights: `best.pth --arch NAME` says the same as `--arch NAME --checkpoint best.pth`.
fn chosen<'a>(
    model: Option<&'a str>,
    arch: Option<&'a str>,
    checkpoint: Option<&'a str>,
) -> Result<(&'a str, Option<&'a str>), Diagnostic> {
    match (model, arch, checkpoint) {
        (Some(model), None, checkpoint) => Ok((model, checkpoint)),
        (None, Some(arch), Some(checkpoint)) | (Some(checkpoint), Some(arch), None) => Ok((arch, Some(checkpoint))),
        (None, Some(arch), None) => Err(Diagnostic::invalid(format!("`--arch {arch}` is a network without weights"))
            .hint(format!("`--checkpoint FILE` gives yours; `camflow export {arch}` takes the published ones"))),
        (Some(model), Some(arch), Some(_)) => {
            Err(Diagnostic::invalid(format!("`{model}` and `--arch {arch}` both name the network")).hint("leave one of them out"))
        }
        (None, None, _) => unreachable!("clap asks for one of them"),
    }
}

/// The name in the cache: weights of the user's own are none of the published model's.
fn named_after(model: &str, checkpoint: Option<&str>) -> String {
    match checkpoint.map(|file| Path::new(file).file_stem().unwrap_or_default().to_string_lossy()) {
        Some(stem) => format!("{model}-{stem}"),
        None => model.to_owned(),
    }
}

fn eprint_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", without_controls(text));
}

fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Diagnostic {
    Diagnostic::invalid(what).because(error)
}

/// Exports `model` to `path`.
pub(super) fn run(model: &str, path: &Path, more: &[String], python: Option<PathBuf>) -> Result<(), Diagnostic> {
    let python = find_python(python)?;
    let path = &named_file(path).map_err(|error| {
        Diagnostic::invalid(format!("cannot write the model to `{}`: {error}", shown(path))).hint("name a file")
    })?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    create_folders(folder).map_err(|error| failed(&format!("cannot make the folder `{}`", shown(folder)), &error))?;
    // Until Python has ended: it reads modules when it needs them.
    let unpacked = unpack(folder)?;
    let mut command = Command::new(&python.executable);
    command
        .arg(unpacked.path().join(PACKAGE_NAME))
        .args([model, "--out"])
        .arg(path)
        .arg("--measure-with")
        .arg(std::env::current_exe().map_err(|error| failed("camflow cannot find its own program", &error))?)
        .args(more);
    run_to_end(&mut command, &format!("exporting `{model}`"))
}

/// Has the text tower that belongs to the image tower in a file embed texts, each to a file in `folder`.
pub(super) fn embed(tower: &Path, texts: &[String], folder: &Path, python: Option<PathBuf>) -> Result<(), Diagnostic> {
    let python = find_python(python)?;
    create_folders(folder).map_err(|error| failed(&format!("cannot make the folder `{}`", shown(folder)), &error))?;
    let unpacked = unpack(folder)?;
    let request = unpacked.path().join("texts.json");
    let content = json!({ "texts": texts, "folder": shown_whole(folder)? }).to_string();
    fs::write(&request, content).map_err(|error| failed(&format!("cannot write `{}`", shown(&request)), &error))?;
    let mut command = Command::new(&python.executable);
    command.arg(unpacked.path().join(PACKAGE_NAME)).arg(tower).arg("--embed-texts").arg(&request);
    run_to_end(&mut command, "embedding texts")
}

/// A path as a text that leads there again.
fn shown_whole(path: &Path) -> Result<&str, Diagnostic> {
    path.to_str().ok_or_else(|| {
        Diagnostic::invalid(format!("the folder `{}` is not UTF-8", shown(path))).hint("set CAMFLOW_CACHE to another folder")
    })
}

/// Runs Python to its end; what it says goes to standard error.
fn run_to_end(command: &mut Command, what: &str) -> Result<(), Diagnostic> {
    let mut child = command
        .env("FIFTYONE_DO_NOT_TRACK", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        // It may quote what it is given.
        .stderr(if has_secrets() { Stdio::piped() } else { Stdio::inherit() })
        .spawn()
        .map_err(|error| failed(&format!("cannot run `{}`", shown(Path::new(command.get_program()))), &error))?;
    if let Some(said) = child.stderr.take() {
        let lines = BufReader::new(said).split(b'\n').map_while(Result::ok);
        lines.for_each(|line| eprint_line(&String::from_utf8_lossy(&line)));
    }
    let status = child.wait().map_err(|error| failed("the exporter cannot be waited for", &error))?;
    if !status.success() {
        return Err(Diagnostic::invalid(format!("{what} failed ({status}); what Python said stands above")));
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
        let root = Path::new("python");
        let mut wanted = BTreeSet::from(["__main__.py".to_owned()]);
        modules(&root.join("camflow"), root, &mut wanted);
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
