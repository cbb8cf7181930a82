//! `camflow inspect`: what a model offers.

use std::{fmt::Write, path::PathBuf};

use super::{Exit, annotate::Told, model::engine, print};
use crate::{
    diagnostic::Diagnostic,
    media::shown,
    names::word,
    pipeline::Cancellation,
    program::{Dynamic, Influence, ModelMetadata, Program},
    report::{Format, Reporter},
};

/// Show a model's layers, classes and preprocessing
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `.pt2` file, or the name of an exported model
    model: String,
    /// List every module path, not only those that serve well as layers
    #[arg(long)]
    all: bool,
    /// Python for exporting a model that is named but not there yet
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON")]
    python: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let reporter = Reporter::new(Format::Human);
    let program = engine(Cancellation::default()).open_model(&args.model, args.python.as_deref(), &Told(&reporter))?;
    print(&describe(&program, args.all));
    Ok(Exit::Done)
}

fn describe(program: &Program, all: bool) -> String {
    let metadata = &program.metadata;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |content: String| {
        let _ = writeln!(text, "{content}");
    };
    line(format!(
        "model         {} ({:?}), torch {}, {} nodes",
        metadata.name,
        metadata.task,
        program.torch_version(),
        program.num_nodes()
    ));
    line(format!("file          {}", shown(program.path())));
    line(format!("input         {:?}, dynamic: {:?}", metadata.input.example, metadata.input.dynamic));
    for (number, step) in metadata.preprocess.steps.iter().enumerate() {
        line(format!("{:13} {step:?}", if number == 0 { "preprocessing" } else { "" }));
    }
    line(format!("default mode  {}", metadata.default_mode()));
    line(format!("batches       {}", batches(metadata)));
    let outputs: Vec<&str> = metadata.outputs.iter().map(|key| key.as_deref().unwrap_or("(single)")).collect();
    line(format!("outputs       {}; explained: {}", outputs.join(", "), outputs.get(metadata.primary_output).unwrap_or(&"?")));
    let classes: Vec<String> = metadata.classes.iter().map(|(index, name)| format!("{index} {name}")).collect();
    line(format!("classes       {}", if classes.is_empty() { "(not named)".into() } else { classes.join(", ") }));
    line(format!("{:<6} {:<40} {:<18} {:<7} shape at the example input", "layer", "path", "module", "layout"));
    let influences = program.influences();
    let influence = |path: &str| program.tap(path).map_or(Influence::None, |tap| influences.of(tap));
    for layer in &metadata.layers {
        let influence = influence(&layer.path);
        if influence == Influence::None && !all {
            continue;
        }
        let remark = match influence {
            Influence::Gradient => "",
            Influence::WithoutGradient => "  (the output gives it no gradient)",
            Influence::None => "  (no influence on the output)",
        };
        let alias = metadata.aliases.iter().find(|(_, path)| **path == layer.path).map_or("", |(alias, _)| alias);
        // Deep networks have hundreds of modules; the numbered ones and the outermost are what is usually wanted.
        if all || !alias.is_empty() || layer.path.matches('.').count() <= 1 {
            let layout = format!("{:?}", layer.layout).to_lowercase();
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

fn batches(metadata: &ModelMetadata) -> &'static str {
    match (metadata.independent_of_batch, metadata.input.dynamic) {
        (Some(false), _) => "images are run one by one, as the model mixes those of a batch",
        (_, Dynamic::None) => "images are run one by one, as the model takes no other batch",
        (Some(true), _) => "images are run together; what is in a batch makes no difference",
        (None, _) => "whether the model mixes the images of a batch was not looked at when it was exported; each run does",
    }
}
