//! `camflow inspect`: what a model offers.

use std::{fmt::Write, path::PathBuf};

use serde_json::{Value, json};

use super::{Exit, annotate::Told, choice, model::engine, print};
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
        Format::Human => print(&describe(&program, args.all)),
        Format::Json => reporter.found(Level::Info, "model", fields(&program)),
    }
    Ok(Exit::Done)
}

/// Classes that are listed in one line; all of them are in the JSON.
const SHOWN_CLASSES: usize = 25;

fn describe(program: &Program, all: bool) -> String {
    let metadata = &program.metadata;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |content: String| {
        let _ = writeln!(text, "{content}");
    };
    line(format!(
        "model         {} ({}), torch {}, {} nodes",
        metadata.name,
        task(metadata.task),
        program.torch_version(),
        program.num_nodes()
    ));
    line(format!("file          {}", shown(program.path())));
    line(format!("input         {}", input(metadata)));
    if metadata.is_preprocess_assumed() {
        line("preprocessing nobody said what it is; `camflow export --help` says how to".to_owned());
    } else {
        for (number, step) in metadata.preprocess.steps.iter().enumerate() {
            line(format!("{:13} {step}", if number == 0 { "preprocessing" } else { "" }));
        }
    }
    line(format!("default mode  {}", metadata.default_mode()));
    line(format!("batches       {}", batches(metadata)));
    let outputs: Vec<&str> = metadata.outputs.iter().map(|key| key.as_deref().unwrap_or("(single)")).collect();
    line(format!("outputs       {}; explained: {}", outputs.join(", "), outputs.get(metadata.primary_output).unwrap_or(&"?")));
    line(format!("default layer {}", default_layer(metadata)));
    if let Some(texts) = &metadata.texts {
        line(format!(
            "texts         `--text`, embedded by {}; the cosine times {:.4}, {}",
            texts.source,
            texts.scale,
            confidence(texts)
        ));
    }
    let shown_classes = if all { usize::MAX } else { SHOWN_CLASSES };
    let mut classes: Vec<String> = metadata.classes.iter().map(|(index, name)| format!("{index} {name}")).collect();
    if let Some(more) = classes.len().checked_sub(shown_classes).filter(|more| *more > 0) {
        classes.truncate(shown_classes);
        classes.push(format!("and {more} more (`--all`)"));
    }
    line(format!("classes       {}", if classes.is_empty() { "(not named)".into() } else { classes.join(", ") }));
    line(format!("{:<6} {:<40} {:<18} {:<7} shape at the example input", "layer", "path", "module", "layout"));
    let calls = program.modules();
    for Listed { layer, alias, influence } in layers(program) {
        if influence == Influence::None && !all {
            continue;
        }
        let mut remark = match influence {
            Influence::Gradient => "",
            Influence::WithoutGradient => "  (the output gives it no gradient)",
            Influence::None => "  (no influence on the output)",
        }
        .to_owned();
        if let Some(several) = calls.get(layer.path.as_str()).filter(|calls| **calls > 1) {
            let _ = write!(remark, "  (called {several} times, `{0}@0` to `{0}@{1}`)", layer.path, several - 1);
        }
        // Deep networks have hundreds of modules; the numbered ones and the outermost are what is usually wanted.
        if all || alias.is_some() || layer.path.matches('.').count() <= 1 {
            let (alias, layout) = (alias.unwrap_or_default(), layer.layout.name());
            line(format!("{alias:<6} {:<40} {:<18} {layout:<7} {:?}{remark}", layer.path, layer.module_type, layer.shape));
        }
    }
    if !all {
        line(format!("`camflow inspect {} --all` lists all {} modules", word(program.path()), program.modules().len()));
    } else {
        let known = |path: &str| metadata.layers.iter().any(|layer| layer.path == path);
        for (path, calls) in program.modules().into_iter().filter(|(path, _)| !known(path)) {
            line(format!("       {path} ({calls} calls)"));
        }
    }
    text.trim_end().to_owned()
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
