//! The readers of model files on bytes alone, for fuzzing: everything up to where libtorch's operators are needed.

use std::{collections::HashSet, path::Path};

use memmap2::MmapMut;

use super::{
    archive::Archive,
    build,
    graph::{Graph, ValueId},
    local::local,
    passes, read_metadata,
    schema::ExportedProgram,
    suffix::suffix,
};

/// Reads an archive as [`super::Program::open`] does, with its tensors and its graph.
///
/// # Errors
/// What is wrong with it.
///
/// # Panics
/// A tensor or graph that was accepted is not sound: a bug.
pub fn read_archive(bytes: &[u8]) -> Result<(), String> {
    let text = |error: super::ProgramError| error.to_string();
    let mut content = MmapMut::map_anon(bytes.len()).map_err(|error| error.to_string())?;
    content.copy_from_slice(bytes);
    let archive = Archive::from_content(Path::new("archive.pt2"), content).map_err(text)?;
    let (weights, constants) = (archive.weights(), archive.constants());
    for stored in weights.found.values().chain(constants.found.values()) {
        let Ok(tensor) = archive.tensor(stored) else { continue };
        // Touches every byte that the tensor reaches.
        assert!(tensor.numel() == 0 || tensor.f_max().is_ok() || tensor.f_abs().is_ok(), "{stored:?}");
    }
    read_metadata(&archive).map_err(text)?.preprocess.check().map_err(|error| error.to_string())?;
    check(build::graph(&archive.program().map_err(text)?).map_err(|refused| refused.problems.join("\n"))?);
    Ok(())
}

/// Builds the graph of a program in JSON, and runs the passes over it for some of its values.
///
/// # Errors
/// What is wrong with it.
///
/// # Panics
/// A graph that was accepted is not sound: a bug.
pub fn read_graph(json: &[u8]) -> Result<(), String> {
    let program: ExportedProgram = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    check(build::graph(&program).map_err(|refused| refused.problems.join("\n"))?);
    Ok(())
}

fn check(mut graph: Graph) {
    assert_defined_before_use(&graph);
    let output = graph.outputs.iter().flatten().next().copied().expect("a graph without outputs is refused");
    let modules = graph.modules.values().flat_map(|calls| calls.iter().flatten());
    let taps: Vec<ValueId> = modules.chain(&graph.inputs).take(3).copied().collect();
    let attentions = passes::attentions(&mut graph);
    let probabilities: Vec<ValueId> = attentions.sites.iter().map(|site| site.probabilities).collect();
    passes::write_out_attention(&mut graph, &attentions.sites, &probabilities);
    assert_defined_before_use(&graph);
    let folded = passes::fold_batch_norms(&mut graph, &taps, &|_| None);
    assert_eq!(folded.expect("nothing to compute").1, 0, "without weights nothing can be folded");
    passes::copy_overwritten_taps(&mut graph, &taps);
    assert_defined_before_use(&graph);
    let mut aliases = passes::aliases(&graph);
    let wanted: Vec<ValueId> = taps.iter().copied().chain([output]).collect();
    let keep = passes::needed(&graph, &aliases, &wanted);
    local(&graph, &aliases, &keep, &taps, output);
    for tap in taps {
        suffix(&graph, &aliases, &keep, &[tap], output);
    }
    passes::reuse_memory(&graph, &mut aliases.in_place, &wanted.into_iter().collect());
}

/// What everything behind `build` relies on.
fn assert_defined_before_use(graph: &Graph) {
    let bound = graph.bindings.iter().map(|(id, _)| *id);
    let mut defined: HashSet<ValueId> = graph.inputs.iter().copied().chain(bound).collect();
    for node in &graph.nodes {
        for value in node.uses() {
            assert!(defined.contains(&value), "node `{}` uses a value before it is defined", node.name);
        }
        defined.extend(node.defines());
    }
    let outputs = graph.outputs.iter().flatten();
    let modules = graph.modules.values().flat_map(|calls| calls.iter().flatten());
    assert!(outputs.chain(modules).all(|value| defined.contains(value)), "an output or layer is never defined");
}
