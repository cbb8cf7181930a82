//! What is explained, `target` and `class` of a job: checked against each other, then against dataset and model.

use super::Observer;
use crate::job::{
    ClassMapping, MaskNames, NameList, Reference, TargetSpec, WITH_CLASS_NAMES, channel_of, distinct_names, known_labels,
    resolve_classes,
};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{Dataset, LabelField, LabelKind, SavedView, label_names};
use camflow_media::{MaskValue, shown};
use camflow_names::{ClassNames, backticked, counted};
use camflow_pipeline::{TargetClass, Targets};
use camflow_torch::program::{OneChannel, Plan, Program, Task};

/// The target in words, with the field that was found for it.
pub(crate) fn described(target: &TargetSpec, label: Option<&LabelField>) -> String {
    let text = target_text(target, label);
    label.map_or_else(|| format!("`{text}`"), |label| format!("`{text}` ({})", label.type_name()))
}

/// The same as it would be typed; it is part of fingerprints.
pub(crate) fn target_text(target: &TargetSpec, label: Option<&LabelField>) -> String {
    match (target, label) {
        (TargetSpec::Wrong(_), Some(label)) => TargetSpec::Wrong(Some(label.name.clone())).to_string(),
        (_, Some(label)) => TargetSpec::Labels(Some(label.name.clone())).to_string(),
        (target, None) => target.to_string(),
    }
}

/// Makes sure that `class` goes with the target; needs no model.
///
/// # Errors
/// It does not; the hint says what is possible.
pub fn check_classes(target: &TargetSpec, classes: &NameList, label: Option<&LabelField>) -> Result<(), Diagnostic> {
    match (target, label.map(|label| label.kind), classes.is_empty()) {
        (TargetSpec::Top, _, false) => Err(Diagnostic::invalid(format!(
            "`--target top` explains the class that the model itself puts first, so it takes no `--class {classes}`"
        ))
        .hint("leave out `--class`, or use `--target predicted`")),
        (TargetSpec::Wrong(_), _, false) => Err(Diagnostic::invalid(format!(
            "`--target {target}` explains the class that the model predicts and the one that the label says, whatever they are, so it takes no `--class {classes}`"
        ))
        .hint("leave out `--class`; samples of one class are chosen with `--match '{\"FIELD.label\": \"CLASS\"}'`")),
        (TargetSpec::Similar(similarity), _, is_empty) => match (&similarity.to, is_empty) {
            (Reference::File(_), true) | (Reference::Field(_), false) => Ok(()),
            (Reference::File(_), false) => Err(Diagnostic::invalid(format!(
                "`--target {target}` compares images with what is in the file, so it takes no `--class {classes}`"
            ))
            .hint(format!("leave out `--class`; the mean of a class is `{}:FIELD`, with a label field", similarity.word()))),
            (Reference::Field(field), true) => Err(Diagnostic::invalid(format!("target `{target}` needs `--class`"))
                .hint(format!("name labels in field `{field}` whose images are the reference, or `--class all`"))),
        },
        // Of an output with one number there is no other.
        (TargetSpec::Component | TargetSpec::Top | TargetSpec::Wrong(_), _, true) => Ok(()),
        (_, Some(LabelKind::Classification), true) | (_, _, false) => Ok(()),
        (_, Some(LabelKind::Classifications), true) => {
            let field = label.map_or("", |label| label.name.as_str());
            Err(Diagnostic::invalid(format!(
                "field `{field}` may hold several classes per sample (Classifications), so `--class` has to say which"
            ))
            .hint("name classes with `--class`, or take those in the field with `--class all`"))
        }
        (target, _, true) => Err(Diagnostic::invalid(format!("target {} needs `--class`", described(target, label))).hint(
            "name classes of the model, or `--class all`; without `--class` there are `--target top` (the model's own first class) and Classification fields (each sample's own class)",
        )),
    }
}

/// The labels that say what is explained.
#[derive(Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub dataset: &'a Dataset,
    pub field: Option<&'a LabelField>,
    pub view: Option<&'a SavedView>,
    /// As in [`MaskNames`].
    pub mask_targets: Option<&'a [(String, MaskValue)]>,
}

/// The names of the model's classes, with those that the user says mean one of them.
pub(crate) fn class_names_of(
    program: &Program,
    mappings: &[ClassMapping],
    observer: &dyn Observer,
) -> Result<ClassNames, Diagnostic> {
    let plain = ClassNames::new(program.metadata.classes.clone());
    let mut names = plain.clone();
    for ClassMapping { label, class } in mappings {
        let (channel, notice) = channel_of(class, &plain).map_err(|error| {
            let message = format!("`--map {label}={class}`: {error}");
            Diagnostic { message, ..error }
        })?;
        notice.iter().for_each(|notice| observer.notice(notice));
        names.map(label.clone(), channel);
    }
    Ok(names)
}

/// What is explained in each sample, by the dataset's and the model's classes.
pub(crate) fn resolve_targets(
    target: &TargetSpec,
    classes: &NameList,
    program: &Program,
    names: &ClassNames,
    labels: Labels,
    observer: &dyn Observer,
) -> Result<Targets, Diagnostic> {
    let Labels { dataset, field: label, view, mask_targets } = labels;
    if let Some(field) = label.filter(|field| field.kind == LabelKind::Segmentation) {
        check_masks(program, &format!("field `{}` has masks", field.name))?;
    }
    if *target == TargetSpec::Top {
        return Ok(Targets::Top);
    }
    if *target == TargetSpec::Component {
        return components(program, names, classes, observer).map(Targets::Classes);
    }
    if classes.is_empty() {
        if names.classes().is_empty() {
            return Err(Diagnostic::invalid(format!(
                "model `{}` names no classes, so the samples' labels cannot be found among them",
                shown(program.path())
            ))
            .hint(WITH_CLASS_NAMES)
            .hint("`--target top` needs no names"));
        }
        if matches!(target, TargetSpec::Wrong(_)) {
            return Ok(Targets::Wrong);
        }
        notice_other_names(program, names, labels, observer);
        return Ok(Targets::OwnClass);
    }
    let by_name = label.filter(|label| label.kind != LabelKind::Segmentation);
    let classes = match by_name {
        Some(field) if classes.has("all") => {
            let labels = label_names(dataset, field, view)?;
            let (known, rest) = known_labels(&labels, names, &field.name)?;
            if !rest.is_empty() {
                let more = if rest.len() > 5 { format!(" and {} more", rest.len() - 5) } else { String::new() };
                let some = backticked(rest.iter().take(5));
                observer.notice(&format!("labels in field `{}` that are not classes of the model: {some}{more}", field.name));
            }
            known
        }
        _ => {
            let one_channel = program.one_channel();
            let masks = (label.is_some() && by_name.is_none()).then_some(MaskNames { targets: mask_targets, one_channel });
            resolve(program, names, classes, masks, observer)?
        }
    };
    Ok(match *target {
        TargetSpec::Pixel { x, y } => Targets::Pixel { classes, x, y },
        _ => Targets::Classes(classes),
    })
}

/// The numbers of the output that were asked for, by their names or channels; of an output with one number that one.
///
/// # Errors
/// There are several and none is named, or one is named that is not there.
pub fn components(
    program: &Program,
    names: &ClassNames,
    requested: &NameList,
    observer: &dyn Observer,
) -> Result<Vec<TargetClass>, Diagnostic> {
    if !requested.is_empty() {
        return resolve(program, names, requested, None, observer);
    }
    match program.num_channels() {
        Some(1) => {
            let name = names.classes().get(&0).cloned().unwrap_or_else(|| "output".to_owned());
            Ok(vec![TargetClass { name, index: 0, mask_value: None, reference: None }])
        }
        count => {
            let count = count.map_or_else(|| "several numbers".to_owned(), |count| counted(count, "number", "numbers"));
            let known = match names.classes().is_empty() {
                true => "from 0".to_owned(),
                false => format!("or name: {}", backticked(names.classes().values().take(5))),
            };
            Err(Diagnostic::invalid(format!("the output of model `{}` has {count}", shown(program.path())))
                .hint(format!("say which with `--class`, by its place {known}")))
        }
    }
}

/// The requested classes by the model's and the masks' own names, all of them channels that the output has.
///
/// # Errors
/// The model, the masks or the output have no such class.
pub fn resolve(
    program: &Program,
    names: &ClassNames,
    requested: &NameList,
    masks: Option<MaskNames>,
    observer: &dyn Observer,
) -> Result<Vec<TargetClass>, Diagnostic> {
    let one_channel = program.one_channel();
    let resolved = resolve_classes(requested, names, masks).map_err(|error| match one_channel {
        Some(OneChannel { negative: None, .. }) => error.hint(SECOND_CLASS),
        _ => error,
    })?;
    resolved.notices.iter().for_each(|notice| observer.notice(notice));
    let classes = resolved.classes;
    let is_there = |index: i64| match (one_channel, program.num_channels()) {
        (Some(classes), _) => index == classes.positive || Some(index) == classes.negative,
        (None, Some(num_channels)) => (0..num_channels).contains(&index),
        (None, None) => true,
    };
    if let Some(missing) = classes.iter().find(|class| !is_there(class.index)) {
        let (count, model) = (program.num_channels().unwrap_or_default(), shown(program.path()));
        let channels = counted(count, "channel", "channels");
        let problem =
            format!("class `{}` is number {}, and the output of model `{model}` has {channels}", missing.name, missing.index);
        let hint = if one_channel.is_some() { SECOND_CLASS } else { "export it with a name for each channel" };
        return Err(Diagnostic::invalid(problem).hint(hint));
    }
    Ok(classes)
}

/// How the class that a sigmoid denies gets its name.
pub(crate) const SECOND_CLASS: &str =
    "an output of one channel stands for two classes where the model is exported with two names, the negative one first";

/// Says which labels name another class than the only one that a model names.
fn notice_other_names(program: &Program, names: &ClassNames, labels: Labels, observer: &dyn Observer) {
    let Labels { dataset, field: Some(field), view, .. } = labels else { return };
    let Some(OneChannel { positive, negative: None }) = program.one_channel() else { return };
    let name = names.name(positive);
    // A field that takes long to look through is annotated all the same.
    let mut others = label_names(dataset, field, view).unwrap_or_default();
    others.retain(|label| !names.means(label, (&name, positive)));
    if !others.is_empty() {
        let some = backticked(others.iter().take(5));
        observer.notice(&format!(
            "the model's output has one channel, for `{name}`, and field `{}` has other labels, {some}, whose samples are skipped: to explain them, export the model with two names, the negative one first",
            field.name
        ));
    }
}

/// What is taken of a model whose output has one channel, and can be meant otherwise.
pub fn one_channel_notice(program: &Program, target: &TargetSpec, from_masks_without_targets: bool) -> Option<String> {
    let OneChannel { positive, negative } = program.one_channel().filter(|_| !target.is_value())?;
    let name = |class: i64| program.metadata.classes.get(&class).map_or("the class", String::as_str);
    let number = if program.ends_in_sigmoid() {
        "its output, a sigmoid, is above 0.5"
    } else {
        "its logit is above 0, a sigmoid above 0.5"
    };
    let other = negative.map(|class| format!(", else `{}`", name(class))).unwrap_or_default();
    let masks = match from_masks_without_targets {
        true => format!("; in masks `{}` is the one value beside 0, as no mask targets name another", name(positive)),
        false => String::new(),
    };
    Some(format!("the model's output has one channel: it predicts `{}` where {number}{other}{masks}", name(positive)))
}

/// What stands for `{class}` in the names of fields.
pub(crate) fn class_names(targets: &Targets, label: Option<&LabelField>, program: &Program) -> Vec<String> {
    match targets {
        Targets::Classes(classes) | Targets::Pixel { classes, .. } => distinct_names(classes, &program.metadata.classes),
        Targets::Top => vec!["top".to_owned()],
        Targets::Wrong => Targets::WRONG.map(|what| format!("wrong_{what}")).to_vec(),
        Targets::OwnClass => label.map(|label| label.name.clone()).into_iter().collect(),
    }
}

/// What to do with a model that gives no scores of classes.
const WRAP: &str = "wrap it at export: a Python function that returns a module whose output is class logits, [N, K] or [N, K, H, W], exported with `camflow export file.py:function`";

/// Refuses by what the exporter says of the model's output.
///
/// # Errors
/// It has nothing that the target is about.
pub fn check_task(program: &Program, target: &TargetSpec) -> Result<(), Diagnostic> {
    let model = shown(program.path());
    let num_names = program.metadata.classes.len();
    if program.one_channel().is_some() && num_names > 2 {
        return Err(Diagnostic::invalid(format!("model `{model}` names {num_names} classes, and its output has one channel"))
            .hint("export it with the name of that class, or with two names, the negative one first"));
    }
    let refused = |what: &str, hint: &str| Err(Diagnostic::invalid(format!("model `{model}` gives {what}")).hint(hint));
    let is_map = program.num_dimensions() == Some(4);
    if matches!(target, TargetSpec::Wrong(_)) {
        return check_classifier(program, target);
    }
    match (program.metadata.task, target) {
        (Task::Detection, _) if program.detections().is_none() => refused("boxes, not scores of classes", WRAP),
        (Task::Detection, TargetSpec::Pixel { .. }) => refused(
            "scores of boxes, not of pixels",
            "`--target labels:FIELD` explains the predictions that stored detections mean, `--target predicted` the model's own",
        ),
        (Task::Detection, TargetSpec::Similar(_) | TargetSpec::Component) => {
            refused("scores of boxes, not numbers of the image", "use `--target predicted` or `--target labels:FIELD`")
        }
        (Task::Classification, TargetSpec::Pixel { .. }) => no_pixels(program, "score per class"),
        (Task::Regression, TargetSpec::Pixel { .. }) if !is_map => no_pixels(program, "number per component"),
        (Task::Regression, TargetSpec::Component) if is_map => {
            refused("a number for each pixel, not for the image", "name the pixel: `--target pixel=X,Y`")
        }
        (Task::Regression, TargetSpec::Labels(_) | TargetSpec::Predicted | TargetSpec::Top) => refused(
            "numbers, not scores of classes, so nothing is predicted by them",
            if is_map { "name a pixel: `--target pixel=X,Y`" } else { "explain one as it is: `--target component`" },
        ),
        (Task::Embedding, TargetSpec::Labels(_) | TargetSpec::Predicted | TargetSpec::Top | TargetSpec::Pixel { .. }) => refused(
            "embeddings, not scores of classes",
            "explain how near they are to a reference: `--target similar=FILE` with an image or a `.npy` embedding, or `--target similar:FIELD --class LABEL`",
        ),
        (Task::Classification | Task::Segmentation | Task::Regression, TargetSpec::Similar(_)) => refused(
            "no embeddings, which images could be compared by",
            "export the part of the network that gives them, [N, D], with `--task embedding`",
        ),
        (Task::Segmentation, TargetSpec::Component) => refused(
            "scores of each pixel's classes, not numbers of the image",
            "use `--target predicted`, or name a pixel: `--target pixel=X,Y`",
        ),
        (Task::Classification, TargetSpec::Component) if program.one_channel().is_some() => refused(
            "the score of a class, which is predicted or not",
            "use `--target predicted`; if its number is no score of a class, export it with `--task regression`",
        ),
        _ => Ok(()),
    }
}

/// Makes sure that a model predicts one class for an image, with a name.
fn check_classifier(program: &Program, target: &TargetSpec) -> Result<(), Diagnostic> {
    let model = shown(program.path());
    let what = match program.metadata.task {
        Task::Classification | Task::Other => match program.one_channel() {
            Some(OneChannel { negative: None, .. }) => {
                return Err(Diagnostic::invalid(format!(
                    "`--target {target}` explains the class that is predicted by mistake, and model `{model}` has a name for one class alone"
                ))
                .hint(SECOND_CLASS));
            }
            _ if program.texts().is_some_and(|texts| texts.names.len() < 2) => "one text, and nothing else to predict",
            _ => return Ok(()),
        },
        Task::Segmentation => "a class for each pixel",
        Task::Detection => "boxes",
        Task::Regression => "numbers, not scores of classes",
        Task::Embedding => "embeddings, not scores of classes",
    };
    let hint = match program.metadata.task {
        Task::Detection => {
            "with an evaluation of FiftyOne's, `--per-detection --eval-key KEY` explains false positives and missed objects, and `camflow report` begins with them"
        }
        Task::Segmentation => "compare `--target labels:FIELD` with `--target predicted`, each in fields of its own (`--field`)",
        _ => "use a classifier",
    };
    Err(Diagnostic::invalid(format!(
        "`--target {target}` is about images that a classifier misclassifies, and model `{model}` gives {what}"
    ))
    .hint(hint))
}

/// Makes sure that a model has predictions that detections can mean.
///
/// # Errors
/// It is no detector.
pub(crate) fn check_detector(program: &Program) -> Result<(), Diagnostic> {
    if program.detections().is_some() {
        return Ok(());
    }
    Err(Diagnostic::invalid(format!(
        "`--per-detection` explains the predictions that detections mean, and model `{}` is no detector",
        shown(program.path())
    ))
    .hint("without it a class has one heatmap, of all its boxes; `camflow export yolo11n-coco-torch`, say, makes a detector"))
}

/// Makes sure that labels have boxes.
///
/// # Errors
/// They have none.
pub(crate) fn check_boxes(label: &LabelField) -> Result<(), Diagnostic> {
    match label.kind {
        LabelKind::Detection | LabelKind::Detections | LabelKind::Polyline | LabelKind::Polylines => Ok(()),
        LabelKind::Segmentation | LabelKind::Classification | LabelKind::Classifications => Err(Diagnostic::invalid(format!(
            "`--per-detection` is about detections, and field `{}` has none: it is of type {}",
            label.name,
            label.type_name()
        ))
        .hint("name a field of detections or polylines with `--target labels:FIELD`")),
    }
}

/// Makes sure that a model's scores are of something that masks mark; `what` has masks.
///
/// # Errors
/// They are of boxes.
pub fn check_masks(program: &Program, what: &str) -> Result<(), Diagnostic> {
    if program.metadata.task != Task::Detection {
        return Ok(());
    }
    Err(Diagnostic::invalid(format!("model `{}` is a detector, whose scores are of boxes, and {what}", shown(program.path())))
        .hint("`--target labels:FIELD` takes detections and polylines of it, `--target predicted` what the model itself detects"))
}

fn no_pixels(program: &Program, gives: &str) -> Result<(), Diagnostic> {
    Err(Diagnostic::invalid(format!(
        "model `{}` gives one {gives}, not per pixel, so there is none for `--target pixel=X,Y`",
        shown(program.path())
    ))
    .hint(match program.metadata.task {
        Task::Regression => "use `--target component`",
        _ => "use `--target predicted`, which explains the class's score",
    }))
}

/// Of a model whose exporter does not say what its output is, the shape of one: it takes a forward pass of zeros.
///
/// # Errors
/// It has no such scores.
pub fn check_output(program: &Program, plan: &Plan, target: &TargetSpec) -> Result<(), Diagnostic> {
    if program.metadata.task != Task::Other {
        return Ok(());
    }
    let model = shown(program.path());
    let shape = plan
        .output_shape(&program.metadata.input.example)
        .map_err(|error| Diagnostic::invalid(format!("model `{model}` cannot be run on an empty image")).because(&error))?;
    match shape.len() {
        2 if matches!(target, TargetSpec::Pixel { .. }) => no_pixels(program, "score per class"),
        2 => Ok(()),
        4 if !target.is_value() && !matches!(target, TargetSpec::Wrong(_)) => Ok(()),
        _ => {
            Err(Diagnostic::invalid(format!("model `{model}` gives an output of shape {shape:?}, not scores of classes"))
                .hint(WRAP))
        }
    }
}
