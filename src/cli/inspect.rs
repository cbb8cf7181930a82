//! `camflow inspect`: what a model offers.

use std::{fmt::Write, path::PathBuf};

use serde_json::{Value, json};

use super::{Exit, annotate::Told, choice, model::engine, print, print_hanging};
use crate::{
    diagnostic::Diagnostic,
    engine::Part,
    media::shown,
    names::{Choice, word},
    pipeline::Cancellation,
    program::{Dynamic, Influence, LayerInfo, ModelMetadata, Program, Task, TextConfidence, TextInfo},
    report::{Format, Level, Reporter},
};

/// Show a model's layers, classes and preprocessing
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    /// A `.pt2` file, or the name of an exported model
    model: String,
    /// List every module path, not only those that serve well as layers
    #[arg(long)]
    all: bool,
    /// Python for exporting a model that is named but not there yet
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// Output format: text, or one JSON object
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    pub format: Format,
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let reporter = Reporter::new(args.format);
    let program =
        engine(Cancellation::default()).open_model(&args.model, Part::Whole, args.python.as_deref(), &Told(&reporter))?;
    match args.format {
        Format::Human => {
            print_hanging(&overview(&program, args.all), INDENT);
            print_hanging(&table(&program, args.all), PATH_INDENT);
            if !args.all {
                print(&format!("`camflow inspect {} --all` lists all {} modules", word(program.path()), program.modules().len()));
            }
        }
        Format::Json => reporter.found(Level::Info, "model", fields(&program)),
    }
    Ok(Exit::Done)
}

/// Classes that are listed without `--all`; all of them are in the JSON.
const SHOWN_CLASSES: usize = 25;

/// Where the values begin.
const INDENT: usize = 14;

fn overview(program: &Program, all: bool) -> String {
    let metadata = &program.metadata;
    let outputs: Vec<&str> = metadata.outputs.iter().map(|key| key.as_deref().unwrap_or("(single)")).collect();
    let mut rows = vec![
        (
            "model",
            format!(
                "{} ({}), torch {}, {} nodes",
                metadata.name,
                task(metadata.task),
                program.torch_version(),
                program.num_nodes()
            ),
        ),
        ("file", shown(program.path()).to_string()),
        ("input", input(metadata)),
    ];
    if metadata.is_preprocess_assumed() {
        rows.push(("preprocessing", "nobody said what it is; `camflow export --help` says how to".to_owned()));
    } else {
        let steps = metadata.preprocess.steps.iter().enumerate();
        rows.extend(steps.map(|(number, step)| (if number == 0 { "preprocessing" } else { "" }, step.to_string())));
    }
    rows.extend([
        ("default mode", metadata.default_mode().to_string()),
        ("batches", batches(metadata).to_owned()),
        ("outputs", format!("{}; explained: {}", outputs.join(", "), outputs.get(metadata.primary_output).unwrap_or(&"?"))),
        ("default layer", default_layer(metadata)),
    ]);
    if let Some(texts) = &metadata.texts {
        let (source, scale) = (&texts.source, texts.scale);
        rows.push(("texts", format!("`--text`, embedded by {source}; the cosine times {scale:.4}, {}", confidence(texts))));
    }
    rows.push(("classes", classes(metadata, if all { usize::MAX } else { SHOWN_CLASSES })));
    let lines: Vec<String> = rows.into_iter().map(|(what, value)| format!("{what:INDENT$}{value}")).collect();
    lines.join("\n")
}

/// Names may have commas in them.
fn classes(metadata: &ModelMetadata, most: usize) -> String {
    let mut classes: Vec<String> = metadata.classes.iter().map(|(index, name)| format!("{index} {name}")).collect();
    if let Some(more) = classes.len().checked_sub(most).filter(|more| *more > 0) {
        classes.truncate(most);
        classes.push(format!("and {more} more (`--all`)"));
    }
    if classes.is_empty() { "(not named)".to_owned() } else { classes.join("; ") }
}

/// Where the paths begin.
const PATH_INDENT: usize = 7;

fn table(program: &Program, all: bool) -> String {
    let metadata = &program.metadata;
    let calls = program.modules();
    // Deep networks have hundreds of modules; the numbered ones and the outermost are what is usually wanted.
    let is_shown = |listed: &Listed| {
        all || (listed.influence != Influence::None && (listed.alias.is_some() || listed.layer.path.matches('.').count() <= 1))
    };
    let mut rows = vec![["layer", "path", "module", "layout", "shape"].map(str::to_owned)];
    for Listed { layer, alias, influence } in layers(program).filter(is_shown) {
        let mut shape = format!("{:?}", layer.shape);
        // Writing to a string cannot fail.
        let _ = match influence {
            Influence::Gradient => Ok(()),
            Influence::WithoutGradient => write!(shape, "  (the output gives it no gradient)"),
            Influence::None => write!(shape, "  (no influence on the output)"),
        };
        if let Some(several) = calls.get(layer.path.as_str()).filter(|calls| **calls > 1) {
            let _ = write!(shape, "  (called {several} times, `{0}@0` to `{0}@{1}`)", layer.path, several - 1);
        }
        let (alias, layout) = (alias.unwrap_or_default().to_owned(), layer.layout.name().to_owned());
        rows.push([alias, layer.path.clone(), layer.module_type.clone(), layout, shape]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (path_width, module_width, layout_width) = (width(1), width(2), width(3));
    let mut lines: Vec<String> = rows
        .iter()
        .map(|[alias, path, module, layout, shape]| {
            format!("{alias:<6} {path:<path_width$}  {module:<module_width$}  {layout:<layout_width$}  {shape}")
        })
        .collect();
    if all {
        let known = |path: &str| metadata.layers.iter().any(|layer| layer.path == path);
        let unknown = calls.iter().filter(|(path, _)| !known(path));
        lines.extend(unknown.map(|(path, calls)| format!("{:PATH_INDENT$}{path} ({calls} calls)", "")));
    }
    lines.join("\n")
}

/// How the scores of texts become probabilities.
fn confidence(texts: &TextInfo) -> String {
    match texts.scores {
        TextConfidence::Sigmoid => format!("plus {:.4}; each text has a sigmoid of its own", texts.bias),
        TextConfidence::Softmax => "a softmax over all texts".to_owned(),
    }
}

/// The same for machines, and all of it.
fn fields(program: &Program) -> Value {
    let metadata = &program.metadata;
    let calls = program.modules();
    let layers: Vec<Value> = layers(program)
        .map(|Listed { layer, alias, influence }| {
            json!({
                "number": alias,
                "path": layer.path,
                "module": layer.module_type,
                "layout": layer.layout.name(),
                "shape": layer.shape,
                "calls": calls.get(layer.path.as_str()),
                "influences_output": influence != Influence::None,
                "has_gradient": influence == Influence::Gradient,
                "is_default": metadata.default_layers.iter().any(|named| *named == layer.path || Some(named.as_str()) == alias),
            })
        })
        .collect();
    json!({
        "model": metadata.name,
        "path": shown(program.path()).to_string(),
        "task": task(metadata.task),
        "torch": program.torch_version(),
        "num_nodes": program.num_nodes(),
        "example_input": metadata.input.example,
        "free_dimensions": free_dimensions(metadata.input.dynamic),
        "preprocess": (!metadata.is_preprocess_assumed()).then_some(&metadata.preprocess.steps),
        "outputs": metadata.outputs,
        "explained_output": metadata.primary_output,
        "classes": metadata.classes,
        "runs_exact_operators": metadata.default_mode().is_exact(),
        "default_mode": metadata.default_mode().to_string(),
        "default_because": metadata.default_because,
        "one_by_one": metadata.is_one_by_one() || metadata.input.dynamic == Dynamic::None,
        "layers": layers,
    })
}

struct Listed<'a> {
    layer: &'a LayerInfo,
    /// Its number.
    alias: Option<&'a str>,
    influence: Influence,
}

fn layers(program: &Program) -> impl Iterator<Item = Listed<'_>> {
    let (metadata, influences) = (&program.metadata, program.influences());
    metadata.layers.iter().map(move |layer| Listed {
        layer,
        // A number may stand for a later call of the module.
        alias: metadata
            .aliases
            .iter()
            .find(|(_, path)| path.split('@').next() == Some(&layer.path))
            .map(|(alias, _)| alias.as_str()),
        influence: program.tap(&layer.path).map_or(Influence::None, |tap| influences.of(tap)),
    })
}

fn default_layer(metadata: &ModelMetadata) -> String {
    let of = |named: &String| match metadata.aliases.get(named) {
        Some(path) => format!("{named} ({path})"),
        None => named.clone(),
    };
    let named: Vec<String> = metadata.default_layers.iter().map(of).collect();
    match (named.is_empty(), &metadata.default_because) {
        (true, _) => "none; `--layers` names one".to_owned(),
        (false, None) => named.join(", "),
        (false, Some(because)) => format!("{}: {because}", named.join(", ")),
    }
}

fn task(task: Task) -> String {
    format!("{task:?}").to_lowercase()
}

fn input(metadata: &ModelMetadata) -> String {
    let example: Vec<String> = metadata.input.example.iter().map(i64::to_string).collect();
    let example = example.join("x");
    match metadata.input.dynamic {
        Dynamic::Bhw => format!("any batch, height and width (exported with {example})"),
        Dynamic::Batch => format!("any batch, of this size (exported with {example})"),
        Dynamic::None => format!("exactly {example}"),
    }
}

fn free_dimensions(dynamic: Dynamic) -> &'static [&'static str] {
    match dynamic {
        Dynamic::Bhw => &["batch", "height", "width"],
        Dynamic::Batch => &["batch"],
        Dynamic::None => &[],
    }
}

fn batches(metadata: &ModelMetadata) -> &'static str {
    match (metadata.independent_of_batch, metadata.input.dynamic) {
        (Some(false), _) => "images are run one by one, as the model mixes those of a batch",
        (_, Dynamic::None) => "images are run one by one, as the model takes no other batch",
        (Some(true), _) => "images are run together; what is in a batch makes no difference",
        (None, _) => "whether the model mixes the images of a batch was not looked at when it was exported; each run does",
    }
}
