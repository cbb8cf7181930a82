//! What `--target similar` and `different` compare images with: the embedding in a file, that of an image, or the mean of those of
//! the images that a label field says are of a class.
//!
//! A reference is found before anything is computed, with a digest of what it is made of that goes into fingerprints; its embedding
//! is made when the model is there.

use std::{
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use super::{
    Observer, aborted,
    job::{NameList, Similarity, TargetSpec},
};
use camflow_diagnostic::{Class, Diagnostic};
use camflow_fiftyone::{Dataset, LabelField, LabelKind, SampleSource, Selection, label_names};
use camflow_media::{ExifPolicy, FileContent, ImageLimits, ModelInput, Stamp, parse_array, shown};
use camflow_names::{backticked, counted, existing};
use camflow_pipeline::{Cancellation, ReferenceDigest, Source, TargetClass, Targets};
use camflow_torch::program::{Demand, Plan, PlanOptions, Program, References};

/// Images that make the mean of a class. They are those whose samples were added first, so that the mean stays as it is while a
/// dataset grows.
const NUM_IMAGES: usize = 100;

/// A reference that was found.
#[derive(Clone, Debug)]
pub struct FoundReference {
    /// What fields and files are called by: the class, or the file without its ending.
    pub name: String,
    digest: String,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Embedding(Vec<f32>),
    Image(Box<ModelInput>),
    /// The mean of these files'.
    Images(Vec<PathBuf>),
}

/// How image files are read.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The model, which says how.
    pub program: &'a Program,
    /// Whether they are turned as their EXIF data say.
    pub exif: ExifPolicy,
}

/// What a job explains where that is how near its references are.
pub(crate) fn similarity_of(target: &TargetSpec) -> Option<&Similarity> {
    if let TargetSpec::Similar(similarity) = target { Some(similarity) } else { None }
}

/// The references as the classes of a job, one of each.
pub(crate) fn targets(references: &[FoundReference]) -> Targets {
    let class = |(index, found): (i64, &FoundReference)| TargetClass {
        name: found.name.clone(),
        index,
        mask_value: None,
        reference: Some(match found.content {
            Content::Images(_) => ReferenceDigest::OfLabels(found.digest.clone()),
            Content::Embedding(_) | Content::Image(_) => ReferenceDigest::Given(found.digest.clone()),
        }),
    };
    Targets::Classes((0..).zip(references).map(class).collect())
}

/// The reference in a file: an array `[D]` or `[1, D]`, or an image.
///
/// # Errors
/// It cannot be read, or holds no embedding of the model's length.
pub fn in_file(path: &Path, reading: Reading<'_>) -> Result<FoundReference, Diagnostic> {
    let Reading { program, exif } = reading;
    let limits = ImageLimits::default();
    let of_reference = |error: Diagnostic| Diagnostic { message: format!("reference: {}", error.message), ..error };
    let content = FileContent::read(path, limits.max_bytes).map_err(|error| of_reference(error.into()))?;
    let name = path.file_stem().map_or_else(|| shown(path).to_string(), |stem| stem.to_string_lossy().into_owned());
    let digest = |bytes: &[u8]| blake3::hash(bytes).to_hex()[..32].to_owned();
    let is_array = path.extension().is_some_and(|extension| extension == "npy");
    if is_array {
        let array = parse_array(&content.bytes, &shown(path).to_string()).map_err(|error| of_reference(error.into()))?;
        if let [length] | [1, length] = array.shape[..] {
            let embedding = array.values.to_f32();
            check_embedding(&embedding, length, path, program)?;
            let bytes: Vec<u8> = embedding.iter().flat_map(|value| value.to_le_bytes()).collect();
            return Ok(FoundReference { name, digest: digest(&bytes), content: Content::Embedding(embedding) });
        }
        if program.metadata.preprocess.reads().is_none() {
            return Err(Diagnostic::invalid(format!(
                "reference `{}` holds an array of shape {:?}, not one embedding [D]",
                shown(path),
                array.shape
            ))
            .hint("save one of them, or their mean: `numpy.save(\"reference.npy\", embeddings.mean(0))`"));
        }
    }
    let preprocess = &program.metadata.preprocess;
    let image = preprocess.parse(path, &content.bytes, &limits, exif).and_then(|image| preprocess.apply_to(&image));
    let image = image.map_err(|error| of_reference(error.into()))?;
    Ok(FoundReference { name, digest: digest(&content.bytes), content: Content::Image(Box::new(image)) })
}

fn check_embedding(embedding: &[f32], length: usize, path: &Path, program: &Program) -> Result<(), Diagnostic> {
    let wrong = |what: &str| Diagnostic::invalid(format!("reference `{}` {what}", shown(path)));
    if let Some(wanted) = program.num_channels().filter(|wanted| *wanted != length as i64) {
        let model = &program.metadata.name;
        return Err(wrong(&format!("has {length} numbers, and the embeddings of model `{model}` have {wanted}"))
            .hint("make it with the same model; of an image, `similar=FILE` makes it by itself"));
    }
    if !embedding.iter().all(|value| value.is_finite()) {
        return Err(wrong("holds infinities or NaN"));
    }
    if embedding.iter().all(|value| *value == 0.0) {
        return Err(wrong("holds zeros alone, which nothing is similar to"));
    }
    Ok(())
}

/// The means of the classes of a label field.
///
/// # Errors
/// The field labels no images, a class is on none of them, or the database fails.
pub(crate) fn in_field(dataset: &Dataset, field: &str, classes: &NameList) -> Result<Vec<FoundReference>, Diagnostic> {
    let field = LabelField::choose(dataset, Some(field))?;
    if !matches!(field.kind, LabelKind::Classification | LabelKind::Classifications) {
        return Err(Diagnostic::invalid(format!(
            "field `{}` says where classes are in images ({}), and a reference embedding is of whole images",
            field.name, field.kind
        ))
        .hint("name a Classification field, or one image: `similar=FILE`"));
    }
    let wanted = match classes.has("all") {
        true => label_names(dataset, &field, None)?,
        false => classes.names(|_| false),
    };
    wanted.into_iter().map(|class| of_class(dataset, &field, class)).collect()
}

fn of_class(dataset: &Dataset, field: &LabelField, name: String) -> Result<FoundReference, Diagnostic> {
    let selection = Selection { matching: Some(field.holds(&name)), limit: Some(NUM_IMAGES as u64), ..Selection::default() };
    let mut source = SampleSource::new(dataset, selection)?;
    let (mut images, mut hasher) = (Vec::new(), blake3::Hasher::new());
    loop {
        let page = source.next_samples().map_err(aborted)?;
        if page.is_empty() {
            break;
        }
        for sample in page {
            let path = sample.sample.media_path;
            // One that cannot be read is told of when the mean is made.
            if let Ok(stamp) = Stamp::of(&path) {
                let modified = stamp.modified().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
                hasher.update(format!("{}\0{}\0{}\0{modified}\n", sample.sample.id, path.display(), stamp.size()).as_bytes());
            }
            images.push(path);
        }
    }
    if images.is_empty() {
        let names = label_names(dataset, field, None)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let problem = format!("no sample of dataset `{}` has label `{name}` in field `{}`", dataset.name(), field.name);
        return Err(Diagnostic::invalid(problem).hint(existing("labels", &name, &names)));
    }
    Ok(FoundReference { name, digest: hasher.finalize().to_hex()[..32].to_owned(), content: Content::Images(images) })
}

/// The embeddings of what was found.
///
/// # Errors
/// The model fails, or of a class no image can be read.
pub fn embedded(
    found: &[FoundReference],
    similarity: &Similarity,
    reading: Reading<'_>,
    plan_options: PlanOptions,
    cancellation: &Cancellation,
    observer: &dyn Observer,
) -> Result<References, Diagnostic> {
    let program = reading.program;
    // Most often it is an array, which needs no run of the model.
    let mut plan = None;
    let mut embedding = |input: &ModelInput| {
        let plan: &mut Plan = match &mut plan {
            Some(plan) => plan,
            None => plan.insert(Plan::new(program, &Demand::of(program.primary_output()), plan_options)?),
        };
        let made = plan.embedding(program, input);
        made.map_err(|error| Diagnostic::aborted("the reference's embedding cannot be computed").because(&error))
    };
    let mut embeddings = Vec::new();
    for FoundReference { name, content, .. } in found {
        embeddings.push(match content {
            Content::Embedding(embedding) => embedding.clone(),
            Content::Image(input) => embedding(input)?,
            Content::Images(paths) => {
                let (mut all, mut unread) = (Vec::new(), Vec::new());
                for path in paths {
                    if cancellation.is_cancelled() {
                        return Err(Diagnostic::new(Class::Interrupted, "interrupted while reference embeddings were made"));
                    }
                    match read(path, reading) {
                        Ok(input) => all.push(embedding(&input)?),
                        Err(error) => unread.push(error.message),
                    }
                }
                let images = counted(paths.len(), "image", "images");
                let Some(mean) = mean(&all) else {
                    let problem = format!("none of the {images} that are labelled `{name}` can be read");
                    return Err(Diagnostic::invalid(problem).hint(unread.into_iter().next().unwrap_or_default()));
                };
                if let Some(first) = unread.first() {
                    observer.warning(&format!(
                        "{} of the {images} of reference `{name}` cannot be read, and are left out: {first}",
                        unread.len()
                    ));
                }
                mean
            }
        });
    }
    let counts: Vec<String> = found.iter().filter_map(FoundReference::counted).collect();
    if !counts.is_empty() {
        observer.notice(&format!(
            "the reference of a class is the mean embedding of its first images, {NUM_IMAGES} at most: {}",
            counts.join(", ")
        ));
    }
    Ok(References { embeddings, is_distance: similarity.is_distance })
}

impl FoundReference {
    fn counted(&self) -> Option<String> {
        let Content::Images(images) = &self.content else { return None };
        Some(format!("{} {}", backticked([&self.name]), images.len()))
    }
}

fn read(path: &Path, Reading { program, exif }: Reading<'_>) -> Result<ModelInput, Diagnostic> {
    let (limits, preprocess) = (ImageLimits::default(), &program.metadata.preprocess);
    let content = FileContent::read(path, limits.max_bytes)?;
    Ok(preprocess.apply_to(&preprocess.parse(path, &content.bytes, &limits, exif)?)?)
}

/// Of numbers of equal count; `None` of none.
fn mean(all: &[Vec<f32>]) -> Option<Vec<f32>> {
    let length = all.first()?.len();
    let of = |place: usize| all.iter().map(|one| f64::from(one[place])).sum::<f64>() / all.len() as f64;
    Some((0..length).map(|place| of(place) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_each_number() {
        assert_eq!(mean(&[vec![1.0, -2.0], vec![2.0, 4.0]]), Some(vec![1.5, 1.0]));
        assert_eq!(mean(&[]), None);
    }
}
