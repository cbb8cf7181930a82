//! Texts as classes: what `--text` lays beside an image tower, and the embeddings of texts, each of which is made once and kept.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{CamSpec, Engine, JobSpec, Observer, resolve::DatasetSide};
use crate::job::{NameList, TargetSpec};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{LabelKind, label_names};
use camflow_media::{FileContent, shown};
use camflow_names::{backticked, counted, is_unseen, word};
use camflow_pipeline::{ReferenceDigest, TargetClass, Targets};
use camflow_torch::program::{Program, TextConfidence, TextInfo, TextScores};

/// Bytes of a text: a tower reads less.
const MAX_TEXT_BYTES: usize = 1000;

/// Bytes of the file of an embedding.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What stands for the class in a template.
const PLACE: &str = "{}";

/// A text and the class that it stands for.
struct AskedText {
    name: String,
    text: String,
}

/// The file of a text's embedding, as the exporter writes it.
#[derive(Deserialize)]
struct Embedded {
    text: String,
    embedding: Vec<f32>,
}

/// Makes sure that texts can be classes, and go with what else is asked; needs no model.
///
/// # Errors
/// They do not; the hint says what is possible.
pub fn check_texts(cam: &CamSpec, target: &TargetSpec) -> Result<(), Diagnostic> {
    let CamSpec { text, text_template: template, class, .. } = cam;
    if let Some(template) = template.as_deref() {
        if !template.contains(PLACE) {
            return Err(Diagnostic::invalid(format!(
                "the template `{template}` has no `{PLACE}`, so that every class would be the same text"
            ))
            .hint("`{}` stands for the class, as in `--text-template 'a photo of a {}'`"));
        }
        check_text(template, "`--text-template`")?;
    }
    if text.is_empty() {
        return Ok(());
    }
    if !class.is_empty() {
        return Err(Diagnostic::invalid(format!("`--text` says what is explained, and so does `--class {class}`"))
            .hint("leave one of them out; `--class` names labels, of which `--text-template 'a photo of a {}'` makes texts"));
    }
    if matches!(target, TargetSpec::Similar(_) | TargetSpec::Component | TargetSpec::Pixel { .. }) {
        return Err(Diagnostic::invalid(format!(
            "`--text` explains the score of a text, and `--target {target}` something else"
        ))
        .hint(
            "leave one of them out; texts go with `--target predicted` (each text), `top` (the one that fits best) and `labels:FIELD`",
        ));
    }
    for (index, one) in text.iter().enumerate() {
        check_text(one, "`--text`")?;
        if text[..index].contains(one) {
            return Err(Diagnostic::invalid(format!("`--text` names `{one}` twice")).hint("leave one of them out"));
        }
    }
    Ok(())
}

fn check_text(text: &str, what: &str) -> Result<(), Diagnostic> {
    let wrong = match () {
        () if text.trim().is_empty() => "an empty text".to_owned(),
        () if text.len() > MAX_TEXT_BYTES => {
            format!("a text of {} bytes; at most {MAX_TEXT_BYTES} are taken, and models read less", text.len())
        }
        () => match text.chars().find(|c| is_unseen(*c)) {
            Some(unseen) => format!("a text with the character {:?}, which nobody can see", unseen.to_string()),
            None => return Ok(()),
        },
    };
    Err(Diagnostic::invalid(format!("{what} gives {wrong}"))
        .hint("name what is to be found in the image: `--text \"a red car\"`"))
}

impl CamSpec {
    /// Whether a model that is named is to be an image tower with texts beside it.
    pub(crate) fn scores_texts(&self) -> bool {
        !self.text.is_empty() || self.text_template.is_some()
    }

    /// The classes that are asked for: each text, where there are texts.
    pub fn classes(&self) -> NameList {
        if self.text.is_empty() { self.class.clone() } else { self.text.iter().cloned().collect() }
    }
}

impl JobSpec {
    /// As [`CamSpec::classes`].
    pub(crate) fn classes(&self) -> NameList {
        self.cam().classes()
    }
}

/// Lays texts beside an image tower, so that it is a classifier of them: those of `text`, or of classes that are named. Any other model
/// stays what it is.
///
/// # Errors
/// The model has no text tower, there are no texts, or they cannot be embedded.
pub fn lay_texts(
    program: &mut Program,
    cam: &CamSpec,
    target: &TargetSpec,
    engine: &Engine,
    observer: &dyn Observer,
) -> Result<(), Diagnostic> {
    lay_texts_of(program, cam, target, None, engine, observer)
}

/// The same of a job, whose classes may be those of the dataset's labels.
pub(crate) fn lay_texts_of(
    program: &mut Program,
    cam: &CamSpec,
    target: &TargetSpec,
    side: Option<&DatasetSide>,
    engine: &Engine,
    observer: &dyn Observer,
) -> Result<(), Diagnostic> {
    let Some(info) = program.metadata.texts.clone() else {
        return if cam.scores_texts() { Err(no_tower(program)) } else { Ok(()) };
    };
    if matches!(target, TargetSpec::Similar(_) | TargetSpec::Component | TargetSpec::Pixel { .. }) {
        return Ok(());
    }
    let asked = asked_texts(cam, target, &info, side, program, observer)?;
    let embeddings = embeddings(program, &info, &asked, engine, cam.python.as_deref(), observer)?;
    let names: Vec<String> = asked.into_iter().map(|asked| asked.name).collect();
    let scores = TextScores { names, embeddings, scale: info.scale, bias: info.bias, confidence: info.scores };
    if !scores.has_confidence() {
        observer.notice(&format!(
            "one text by itself has no confidence, as model `{}` compares texts; its score is the cosine of the two embeddings times {:.4}",
            program.metadata.name, info.scale
        ));
    }
    program.score_texts(scores)?;
    Ok(())
}

/// Makes sure that what asks for probabilities gets some.
///
/// # Errors
/// There is one text, in a softmax.
pub fn check_confidence(program: &Program, is_asked: bool, by: &str) -> Result<(), Diagnostic> {
    match program.texts() {
        Some(texts) if is_asked && !texts.has_confidence() => Err(Diagnostic::invalid(format!(
            "`{by}` asks for the probability of `{}`, and model `{}` has one only beside other texts",
            texts.names.concat(),
            program.metadata.name
        ))
        .hint("name another text to compare with, as in `--text \"something else\"`")),
        _ => Ok(()),
    }
}

fn no_tower(program: &Program) -> Diagnostic {
    let names = program.metadata.classes.values().take(5);
    let scored = match program.metadata.classes.is_empty() {
        true => String::new(),
        false => format!("; it scores {}, which `--class` names", backticked(names)),
    };
    Diagnostic::invalid(format!("model `{}` has no text tower, so `--text` cannot be scored{scored}", shown(program.path())))
        .hint("take a CLIP-like model by its name or folder, or the archive that `camflow export MODEL --task embedding` makes of it")
}

/// What is to be scored.
fn asked_texts(
    cam: &CamSpec,
    target: &TargetSpec,
    info: &TextInfo,
    side: Option<&DatasetSide>,
    program: &Program,
    observer: &dyn Observer,
) -> Result<Vec<AskedText>, Diagnostic> {
    let template = cam.text_template.as_deref();
    if !cam.text.is_empty() {
        let of = |text: &String| AskedText {
            name: text.clone(),
            text: template.map_or_else(|| text.clone(), |template| template.replace(PLACE, text)),
        };
        return Ok(cam.text.iter().map(of).collect());
    }
    let names = class_names(cam, target, side, program)?;
    if template.is_none() && info.prompt == PLACE {
        observer.notice(
            "the texts that are scored are the bare names of the classes; `--text-template 'a photo of a {}'` makes sentences of them",
        );
    }
    let template = template.unwrap_or(&info.prompt);
    names.iter().try_for_each(|name| check_text(name, "the name of a class"))?;
    Ok(names.into_iter().map(|name| AskedText { text: template.replace(PLACE, &name), name }).collect())
}

/// The classes whose names are the texts: those that were named, or all that the labels have.
fn class_names(
    cam: &CamSpec,
    target: &TargetSpec,
    side: Option<&DatasetSide>,
    program: &Program,
) -> Result<Vec<String>, Diagnostic> {
    let all = cam.class.has("all");
    if !cam.class.is_empty() && !all && *target != TargetSpec::Top {
        return Ok(cam.class.names(|_| false));
    }
    let none = || {
        Diagnostic::invalid(format!("model `{}` scores texts, and nothing says which", shown(program.path())))
            .hint("name them: `--text \"a red car\"`, which may be repeated; or take the classes of a label field: `--target labels:FIELD`")
    };
    let Some(DatasetSide { dataset, label: Some(label), mask_targets, .. }) = side else { return Err(none()) };
    let names = match (label.kind, mask_targets) {
        (LabelKind::Segmentation, Some(targets)) => targets.iter().map(|(name, _)| name.clone()).collect(),
        (LabelKind::Segmentation, None) => return Err(none()),
        // Of the whole dataset, so that every view and shard compares the same texts.
        _ => label_names(dataset, label, None)?,
    };
    match names.is_empty() {
        true => Err(Diagnostic::invalid(format!(
            "field `{}` of dataset `{}` has no labels that could be texts",
            label.name,
            dataset.name()
        ))
        .hint("name texts with `--text \"a red car\"`")),
        false => Ok(names),
    }
}

/// The embedding of each text, from the cache; those that are missing are made there.
fn embeddings(
    program: &Program,
    info: &TextInfo,
    asked: &[AskedText],
    engine: &Engine,
    python: Option<&Path>,
    observer: &dyn Observer,
) -> Result<Vec<Vec<f32>>, Diagnostic> {
    let kept = |models: &Path| models.join("texts").join(&info.key);
    // A tower that was brought here may have brought its texts.
    let beside = program.path().parent().map(kept);
    let own = engine.models().ok().map(kept);
    let folders: Vec<PathBuf> = own.iter().chain(beside.iter().filter(|beside| Some(*beside) != own.as_ref())).cloned().collect();
    let found = asked.iter().map(|asked| find(&folders, &asked.text)).collect::<Result<Vec<_>, _>>()?;
    let mut missing: Vec<String> = Vec::new();
    for (asked, _) in asked.iter().zip(&found).filter(|(_, found)| found.is_none()) {
        if !missing.contains(&asked.text) {
            missing.push(asked.text.clone());
        }
    }
    if missing.is_empty() {
        return Ok(found.into_iter().flatten().collect());
    }
    let what = format!(
        "{} of model `{}`: {}",
        counted(missing.len(), "text", "texts"),
        program.metadata.name,
        backticked(missing.iter().take(3))
    );
    let hint = format!(
        "on a machine with Python and `{}`, run the same command, and bring the folder `texts` from beside the model",
        info.source
    );
    let (Some(embed), Some(folder)) = (&engine.embedder, own) else {
        return Err(Diagnostic::invalid(format!("there is no embedding yet for {what}")).hint(hint));
    };
    observer.step(&format!("embedding {what} (once)"));
    embed(program.path(), &missing, &folder, python).map_err(|mut error| {
        error.hints.clear();
        error.context(format!("there is no embedding yet for {what}, and making it failed")).hint(hint)
    })?;
    asked
        .iter()
        .zip(found)
        .map(|(asked, found)| match found {
            Some(found) => Ok(found),
            None => find(std::slice::from_ref(&folder), &asked.text)?
                .ok_or_else(|| Diagnostic::invalid(format!("text `{}` was embedded, and its file is not there", asked.text))),
        })
        .collect()
}

/// The embedding of a text in one of the folders.
fn find(folders: &[PathBuf], text: &str) -> Result<Option<Vec<f32>>, Diagnostic> {
    let digest: String = Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let paths = folders.iter().map(|folder| folder.join(format!("{digest}.json")));
    let Some(path) = paths.into_iter().find(|path| path.exists()) else { return Ok(None) };
    let content = FileContent::read(&path, MAX_FILE_BYTES)?;
    let broken = |why: &str| {
        Diagnostic::invalid(format!("`{}` is not the embedding of text `{text}`: {why}", shown(&path)))
            .hint(format!("remove it, and it is made again: `rm {}`", word(&path)))
    };
    let Embedded { text: of, embedding } = serde_json::from_slice(&content.bytes).map_err(|error| broken(&error.to_string()))?;
    if of != text {
        return Err(broken("it is another text's"));
    }
    if !embedding.iter().all(|value| value.is_finite()) || embedding.iter().all(|value| *value == 0.0) {
        return Err(broken("its numbers are zeros alone, or not finite"));
    }
    Ok(Some(embedding))
}

/// What a heatmap of each text depends on: the two embeddings and how they are compared; and where its confidence does, on all texts
/// of the run, in any order.
fn digests(texts: &TextScores) -> Vec<String> {
    let of = |(name, embedding): (&String, &Vec<f32>)| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{name}\0{}\0{}\0{:?}\0", texts.scale, texts.bias, texts.confidence).as_bytes());
        for value in embedding {
            hasher.update(&value.to_le_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    };
    let own: Vec<String> = texts.names.iter().zip(&texts.embeddings).map(of).collect();
    if texts.confidence == TextConfidence::Sigmoid || own.len() < 2 {
        return own;
    }
    let mut all = own.clone();
    all.sort_unstable();
    let all = blake3::hash(all.concat().as_bytes()).to_hex();
    own.into_iter().map(|own| format!("{own}-{}", &all[..32])).collect()
}

/// The setting of a job whose heatmaps are of one text or another: which are compared.
pub(crate) fn setting(program: &Program, spec: &JobSpec) -> Option<(&'static str, String)> {
    let is_any = matches!(spec.target(), TargetSpec::Top | TargetSpec::Wrong(_)) || spec.classes().is_empty();
    let texts = program.texts().filter(|_| is_any)?;
    Some(("texts", blake3::hash(digests(texts).concat().as_bytes()).to_hex()[..32].to_owned()))
}

/// The setting of a job whose predictions are among texts: which these are, and what they are called.
pub(crate) fn setting_of_all(program: &Program) -> Option<(&'static str, String)> {
    let texts = program.texts()?;
    let all = format!("{}\0{}", digests(texts).concat(), texts.names.join("\0"));
    Some(("texts", blake3::hash(all.as_bytes()).to_hex()[..32].to_owned()))
}

/// Classes that are texts, with what stands for each.
pub(crate) fn with_digests(targets: Targets, program: &Program) -> Targets {
    let (Targets::Classes(classes), Some(texts)) = (&targets, program.texts()) else { return targets };
    let digests = digests(texts);
    let with = |class: &TargetClass| TargetClass {
        reference: usize::try_from(class.index).ok().and_then(|index| digests.get(index)).cloned().map(ReferenceDigest::Given),
        ..class.clone()
    };
    Targets::Classes(classes.iter().map(with).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(confidence: TextConfidence, names: &[&str]) -> TextScores {
        let embedding = |name: &&str| vec![name.len() as f32, 1.0];
        TextScores {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            embeddings: names.iter().map(embedding).collect(),
            scale: 100.0,
            bias: 0.0,
            confidence,
        }
    }

    #[test]
    fn what_a_heatmap_depends_on_is_its_text_and_those_that_it_is_compared_with() {
        let of = |confidence, names: &[&str]| digests(&texts(confidence, names));
        let (soft, alone) = (TextConfidence::Softmax, TextConfidence::Sigmoid);
        assert_eq!(of(alone, &["a", "bb"])[0], of(alone, &["ccc", "a"])[1], "each by itself");
        assert_eq!(of(soft, &["a", "bb"])[0], of(soft, &["bb", "a"])[1], "in any order");
        assert_ne!(of(soft, &["a", "bb"])[0], of(soft, &["a", "ccc"])[0], "another confidence");
        assert_ne!(of(soft, &["a"]), of(alone, &["a"]));
        assert_ne!(digests(&TextScores { scale: 99.0, ..texts(soft, &["a"]) }), of(soft, &["a"]));
    }
}
