//! What stands out, in plain sentences.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    AttentionCell, Baseline, CONFIDENT, Confidences, Distribution, Example, Observed, RANKED_BY, SUSPICIOUS, Slice, Slices,
    Study, Tally,
    attention::is_own,
    distribution::position,
    outcomes::{all, frequent},
};
use camflow_measure::{Measure, Series};
use camflow_names::Choice;

/// Fewer heatmaps than this say nothing about the rest.
pub(crate) const ENOUGH: u64 = 5;
/// A share of heatmaps below chance that is worth a sentence, and one that is a problem.
const MANY: f64 = 0.25;
const MOST_OF: f64 = 0.5;
/// Two groups differ clearly where one of the first is above one of the second, or below it, this often.
const CLEAR: f64 = 0.8;
/// A median that moved by this much of its range since the baseline.
const MOVED: f64 = 0.05;
/// Attention on another class that is worth a sentence: this share of the heatmap, this many times the class's area, and so improbable
/// by chance in any of all pairs of classes together.
const MUCH: f64 = 0.05;
const TIMES: f64 = 1.25;
const IMPROBABLE: f64 = 0.05;
/// Confidence that replacing a background costs and that is worth a sentence, in the mean.
const COSTLY: f64 = 0.05;
/// How far surroundings tell classes apart that is worth a sentence, and that is a problem.
const TELLING: f64 = 0.25;
const MOSTLY_TELLING: f64 = 0.5;
/// Sentences of one kind; the tables have all of it.
const MOST: usize = 8;

/// Something worth saying.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What kind of thing: `wrong`, `confused`, `false_positive`, `missed`, `below_chance`, `shortcut`, `slice`, `context`, `attention`,
    /// `tag`, `class`, `series`, `layers`, `baseline`, `empty`,
    /// `unmeasured` or `fine`.
    pub kind: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// One or two sentences.
    pub text: String,
    /// Samples to look at, the clearest first.
    pub examples: Vec<Example>,
}

/// How much something matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The model is wrong, or looks elsewhere than at what it is asked about.
    Problem,
    /// What may become one: a look is worth it.
    Warning,
    /// Good to know.
    Note,
}

impl Choice for Severity {
    const ALL: &'static [Self] = &[Severity::Problem, Severity::Warning, Severity::Note];

    fn name(self) -> &'static str {
        match self {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

impl Finding {
    pub(crate) fn new(kind: &'static str, severity: Severity, text: String) -> Self {
        Finding { kind, severity, text, examples: Vec::new() }
    }

    /// For machines.
    pub(crate) fn json(&self) -> Value {
        let samples: Vec<&str> = self.examples.iter().map(|example| &*example.sample).collect();
        let files: Vec<_> = self.examples.iter().map(|example| example.media_path.to_string_lossy()).collect();
        json!({"kind": self.kind, "severity": self.severity.name(), "text": self.text, "samples": samples, "filepaths": files})
    }

    pub(crate) fn shown_by<E: Into<Example>>(mut self, examples: impl IntoIterator<Item = E>) -> Self {
        self.examples = examples.into_iter().map(Into::into).collect();
        self
    }
}

/// What stands out in a study, and against an earlier one, the most important first.
pub fn findings(study: &Study, baseline: Option<&Baseline>) -> Vec<Finding> {
    let names = Names::of(study);
    let mut found = Vec::new();
    found.extend(mistakes(study));
    found.extend(outcomes(study));
    found.extend(unmeasured(study));
    found.extend(baseline.into_iter().flat_map(|baseline| changes(study, baseline, &names)));
    let below = below_chance(study, &names);
    let is_fine = below.is_empty();
    found.extend(below);
    found.extend(shortcuts(study));
    found.extend(slices(study));
    found.extend(context(study));
    found.extend(attention(study, &names));
    found.extend(tags(study, &names));
    found.extend(classes(study, &names));
    found.extend(contests(study, &names));
    found.extend(layers(study, &names));
    found.extend(empty(study, &names));
    if is_fine {
        found.extend(fine(study));
    }
    // A sample may have several detections.
    for finding in &mut found {
        let mut seen = BTreeSet::new();
        finding.examples.retain(|example| seen.insert(example.sample.clone()));
    }
    found
}

/// What tells series apart in this study is said, and nothing else.
pub(crate) struct Names {
    models: BTreeSet<String>,
    methods: BTreeSet<String>,
    /// More than one field for the same class, layer, method and model.
    needs_fields: bool,
}

impl Names {
    /// For the series of a study.
    pub(crate) fn of(study: &Study) -> Self {
        let set = |part: fn(&Series) -> &String| study.series.keys().map(part).cloned().collect();
        let without_fields: BTreeSet<_> = study.series.keys().map(|s| (&s.class, &s.layer, &s.method, &s.model)).collect();
        Names {
            models: set(|series| &series.model),
            methods: set(|series| &series.method),
            needs_fields: without_fields.len() < study.series.len(),
        }
    }

    /// A series by what tells it apart.
    pub(crate) fn name(&self, series: &Series) -> String {
        let mut name = format!("`{}` at `{}`", series.class, series.layer);
        if self.methods.len() > 1 {
            name += &format!(" by {}", series.method);
        }
        if self.models.len() > 1 {
            name += &format!(" of {}", series.model);
        }
        if self.needs_fields {
            name += &format!(" in {}", series.field);
        }
        name
    }
}

fn ranked(observed: &Observed) -> &Distribution {
    observed.all.of(RANKED_BY)
}

fn percent(share: f64) -> String {
    match 100.0 * share {
        percent if percent > 0.0 && percent < 1.0 => "less than 1 %".to_owned(),
        percent if percent < 100.0 && percent > 99.0 => "more than 99 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

/// Where a share of so many lies with a confidence of 95 %, in words: Wilson's interval, *Probable inference, the law of succession,
/// and statistical inference* (1927).
fn interval(share: f64, count: u64) -> String {
    const Z: f64 = 1.96;
    let count = count as f64;
    let middle = share + Z * Z / (2.0 * count);
    let half = Z * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt();
    let end = |end: f64| 100.0 * (end / (1.0 + Z * Z / count)).clamp(0.0, 1.0);
    format!("95 % interval {:.0} to {:.0} %", end(middle - half), end(middle + half))
}

fn median(distribution: &Distribution) -> String {
    distribution.median().map_or_else(|| "unknown".to_owned(), |median| format!("{median:.2}"))
}

fn unmeasured(study: &Study) -> Option<Finding> {
    let has_object = study.series.values().any(|observed| ranked(observed).count() > 0);
    (!has_object && study.num_heatmaps() > 0).then(|| {
        let text = "No heatmap says how much of it lies on an object. That takes labels that say where objects are (segmentations, \
                    detections, polylines) as the target, and heatmaps of a camflow that measures: run `camflow annotate` again.";
        Finding::new("unmeasured", Severity::Note, text.to_owned())
    })
}

/// Errors come first.
fn mistakes(study: &Study) -> Vec<Finding> {
    let mut found = Vec::new();
    let by = |model: &str| if study.mistakes.len() > 1 { format!("Model `{model}`") } else { "The model".to_owned() };
    for (model, mistakes) in study.mistakes.iter().filter(|(_, mistakes)| mistakes.num_wrong >= ENOUGH) {
        let how_sure = match mistakes.num_confident {
            0 => format!("none of them with a confidence of {CONFIDENT} or more"),
            count => format!("{count} of them with a confidence of {CONFIDENT} or more"),
        };
        // Where only mistakes have heatmaps, their share says nothing.
        let of_all = match mistakes.num_judged {
            judged if judged == mistakes.num_wrong => format!("{judged} samples with heatmaps"),
            judged => format!("{} of {judged} samples with heatmaps whose true class is known", mistakes.num_wrong),
        };
        let sure = mistakes.most_confident.iter().filter(|mistake| mistake.confidence.is_some_and(|found| found >= CONFIDENT));
        let text = format!("{} puts another class first than the label says for {of_all}, {how_sure}.", by(model));
        let severity = if mistakes.num_confident > 0 { Severity::Problem } else { Severity::Warning };
        found.push(Finding::new("wrong", severity, text).shown_by(sure));
        let frequent = mistakes.confusions().into_iter().filter(|(_, _, pair)| pair.count >= ENOUGH).take(MOST);
        found.extend(frequent.map(|(truth, predicted, pair)| {
            let text = format!(
                "`{truth}` is taken for `{predicted}` in {} samples, {} of the mistakes{}{}.",
                pair.count,
                percent(pair.count as f64 / mistakes.num_wrong as f64),
                if study.mistakes.len() > 1 { format!(" of `{model}`") } else { String::new() },
                pair.mean_confidence().map_or_else(String::new, |mean| format!(", with a mean confidence of {mean:.2}")),
            );
            let examples = pair.samples.iter().map(|(_, example)| example.clone());
            Finding::new("confused", Severity::Warning, text).shown_by(examples)
        }));
    }
    found
}

/// What an evaluation says of a detector: first what it sees where nothing is, then what it does not see.
fn outcomes(study: &Study) -> Vec<Finding> {
    let mut found = Vec::new();
    let by = |model: &str| if study.outcomes.len() > 1 { format!("Model `{model}`") } else { "The model".to_owned() };
    let of = |model: &str| if study.outcomes.len() > 1 { format!(" of `{model}`") } else { String::new() };
    let sure =
        |tally: &Tally| tally.mean_confidence().map_or_else(String::new, |mean| format!(", with a mean confidence of {mean:.2}"));
    for (model, outcomes) in &study.outcomes {
        let (wrong, right) = (all(&outcomes.false_positives), &outcomes.true_positives);
        if wrong.count >= ENOUGH {
            let inside = match (wrong.mean_inside(), right.mean_inside()) {
                (Some(wrong), Some(right)) => format!(
                    " In the mean {} of their heatmaps lies inside of their boxes, of true positives {}.",
                    percent(wrong),
                    percent(right)
                ),
                _ => String::new(),
            };
            let confident =
                outcomes.most_confident.iter().filter(|one| one.confidence.is_some_and(|confidence| confidence >= CONFIDENT));
            let text = format!(
                "{} is wrong in {} of {} detections with heatmaps (false positives), {} of them with a confidence of {CONFIDENT} or \
                     more.{inside}",
                by(model),
                wrong.count,
                wrong.count + right.count,
                outcomes.num_confident,
            );
            let severity = if outcomes.num_confident > 0 { Severity::Problem } else { Severity::Warning };
            found.push(Finding::new("false_positive", severity, text).shown_by(confident));
            let classes = frequent(&outcomes.false_positives).into_iter().filter(|(_, tally)| tally.count >= ENOUGH).take(MOST);
            found.extend(classes.map(|(class, tally)| {
                let text = format!(
                    "`{class}` is detected where none is {} times, {} of the false positives{}{}.",
                    tally.count,
                    percent(tally.count as f64 / wrong.count as f64),
                    of(model),
                    sure(tally),
                );
                Finding::new("false_positive", Severity::Warning, text).shown_by(tally.samples.iter().map(|(_, one)| one.clone()))
            }));
        }
        let (missed, detected) = (all(&outcomes.missed), &outcomes.detected);
        if missed.count >= ENOUGH {
            let text = format!(
                "{} misses {} of {} labelled objects with heatmaps (false negatives){}.",
                by(model),
                missed.count,
                missed.count + detected.count,
                missed.mean_confidence().map_or_else(String::new, |mean| format!(
                    "; for the prediction that lies there it has a mean confidence of {mean:.2}"
                )),
            );
            found.push(Finding::new("missed", Severity::Problem, text).shown_by(&outcomes.nearly_detected));
        }
    }
    found
}

fn below_chance(study: &Study, names: &Names) -> Vec<Finding> {
    let mut found: Vec<_> = study
        .series
        .iter()
        .filter_map(|(series, observed)| Some((series, observed, ranked(observed).share_below_one()?)))
        .filter(|(_, observed, share)| *share >= MANY && ranked(observed).count() >= ENOUGH)
        .collect();
    found.sort_by(|a, b| b.2.total_cmp(&a.2));
    let sentence = |(series, observed, share): (&Series, &Observed, f64)| {
        let count = ranked(observed).count();
        let text = format!(
            "{}: attention on the object is below chance in {} of {count} heatmaps ({}), median ratio {}.",
            names.name(series),
            percent(share),
            interval(share, count),
            median(ranked(observed)),
        );
        let severity = if share >= MOST_OF { Severity::Problem } else { Severity::Warning };
        Finding::new("below_chance", severity, text).shown_by(observed.worst.iter().filter(|worst| worst.value < 1.0))
    };
    found.into_iter().take(MOST).map(sentence).collect()
}

fn fine(study: &Study) -> Option<Finding> {
    let measured = || study.series.values().map(ranked).filter(|ranked| ranked.count() >= ENOUGH);
    let worst = measured().filter_map(Distribution::share_below_one).max_by(f64::total_cmp)?;
    let text = format!(
        "In every series at least {} of the heatmaps give the object more attention than chance would.",
        percent(1.0 - worst)
    );
    Some(Finding::new("fine", Severity::Note, text))
}

fn tags(study: &Study, names: &Names) -> Vec<Finding> {
    let mut found = Vec::new();
    for (series, observed) in &study.series {
        let mut of_series: Vec<(f64, Finding)> = Vec::new();
        for (tag, tagged) in &observed.by_tag {
            let (tagged, all) = (tagged.of(RANKED_BY), ranked(observed));
            if tagged.count() < ENOUGH || all.count() - tagged.count() < ENOUGH {
                continue;
            }
            let others = all.without(tagged);
            let Some(above) = tagged.probability_above(&others) else { continue };
            if above.max(1.0 - above) < CLEAR {
                continue;
            }
            let (less_or_more, share) = if above < 0.5 { ("less", 1.0 - above) } else { ("more", above) };
            let text = format!(
                "{}: samples tagged `{tag}` ({}) give the object {less_or_more} attention than the others: median ratio {} against {}, in \
                 {} of all pairs.",
                names.name(series),
                tagged.count(),
                median(tagged),
                median(&others),
                percent(share),
            );
            let samples = observed.worst.iter().filter(|worst| above < 0.5 && worst.tags.contains(tag));
            let finding = Finding::new("tag", Severity::Warning, text).shown_by(samples);
            // Of two tags that share the samples between them, the one with less says it all.
            match of_series.iter_mut().find(|(other, _)| *other == share) {
                Some((_, other)) if above < 0.5 => *other = finding,
                Some(_) => {}
                None => of_series.push((share, finding)),
            }
        }
        found.extend(of_series);
    }
    strongest(found)
}

/// Labelled classes on which heatmaps of other classes lie more than area alone would give, of each pair the layer where it is most.
fn attention(study: &Study, names: &Names) -> Vec<Finding> {
    let tables =
        || study.attention.iter().flat_map(|(on, of_field)| of_field.iter().map(move |(series, table)| (on, series, table)));
    // Of many pairs some would look clear by chance.
    let num_pairs: usize = tables().map(|(_, _, table)| table.labels.len()).sum();
    let is_clear = |cell: &AttentionCell| {
        cell.num_heatmaps >= ENOUGH
            && cell.num_above > cell.num_below
            && cell.mean_share().is_some_and(|share| share >= MUCH)
            && cell.ratio().is_some_and(|ratio| ratio >= TIMES)
            && cell.sign_test() * num_pairs as f64 <= IMPROBABLE
    };
    let mut found: BTreeMap<_, (f64, Finding)> = BTreeMap::new();
    for (on, series, table) in tables() {
        for (label, cell) in table.labels.iter().filter(|(_, cell)| is_clear(cell)) {
            if is_own(label.as_deref(), series) {
                continue;
            }
            let (share, area) = (cell.mean_share().unwrap_or(0.0), cell.mean_area().unwrap_or(0.0));
            let key = (on, &series.class, &series.method, &series.model, label);
            if found.get(&key).is_some_and(|(before, _)| *before >= share - area) {
                continue;
            }
            let what = match label {
                Some(label) => format!("on `{label}`"),
                None => "on what has no class".to_owned(),
            };
            let text = format!(
                "{}: heatmaps lie {} {what} (field `{on}`), {:.1} times its share of the area ({}), and above that in {} of {} samples.",
                names.name(series),
                percent(share),
                cell.ratio().unwrap_or(0.0),
                percent(area),
                cell.num_above,
                cell.num_heatmaps,
            );
            found.insert(key, (share - area, Finding::new("attention", Severity::Warning, text).shown_by(cell.examples())));
        }
    }
    strongest(found.into_values().collect())
}

/// Models to which what is around objects says their classes, and the mistakes that it explains.
fn shortcuts(study: &Study) -> Vec<Finding> {
    let mut found = Vec::new();
    for (model, shortcuts) in &study.shortcuts {
        let (Some(tell), Some((mean, count))) = (shortcuts.surroundings_tell(), shortcuts.mean_elsewhere()) else { continue };
        if tell < TELLING {
            continue;
        }
        let suspects = shortcuts.suspects();
        let wrong: Vec<_> = suspects.iter().filter(|one| one.parts.is_wrong == Some(true) && one.score >= SUSPICIOUS).collect();
        let by = if study.shortcuts.len() > 1 { format!("Model `{model}`") } else { "The model".to_owned() };
        let at_least = if wrong.len() == suspects.len() { "at least " } else { "" };
        let mistakes = match wrong.len() as u64 {
            few if few < ENOUGH => String::new(),
            many => format!(
                " In {at_least}{many} samples it is wrong, and the surroundings do not speak for the class as they do elsewhere (shortcut \
                 score {SUSPICIOUS} or more)."
            ),
        };
        let text = format!(
            "{by} is told the class by what is around the object: with the object replaced, its confidence in the right class is still \
             {mean:.2} in the mean over {count} classes, of samples that it gets right; {:.2} would tell nothing.{mistakes}",
            1.0 / count as f64,
        );
        let severity = if tell >= MOSTLY_TELLING { Severity::Problem } else { Severity::Warning };
        let shown = if wrong.len() as u64 >= ENOUGH { wrong } else { suspects.iter().take(MOST).collect() };
        found.push((tell, Finding::new("shortcut", severity, text).shown_by(shown.into_iter().map(|one| one.example.clone()))));
    }
    strongest(found)
}

/// Classes that a model gets wrong in one context clearly more often than in the others.
fn slices(study: &Study) -> Vec<Finding> {
    let num: usize = study.slices.values().map(|slices| slices.slices.len()).sum();
    let mut found = Vec::new();
    for (model, all) in &study.slices {
        for slice in &all.slices {
            let p = slice.p_value();
            if slice.num_judged < ENOUGH || slice.num_judged_elsewhere < ENOUGH || p * num as f64 > IMPROBABLE {
                continue;
            }
            let of_model = if study.slices.len() > 1 { format!(" of `{model}`") } else { String::new() };
            let text = format!(
                "`{}`{of_model} {}: wrong in {} of {} samples, in the class's other contexts in {} of {}.",
                slice.class,
                in_context(all, slice),
                slice.num_wrong,
                slice.num_judged,
                slice.num_wrong_elsewhere,
                slice.num_judged_elsewhere,
            );
            found.push((-p, Finding::new("slice", Severity::Problem, text).shown_by(slice.examples.iter().cloned())));
        }
    }
    strongest(found)
}

/// Where a slice is, in words.
fn in_context(all: &Slices, slice: &Slice) -> String {
    let context = &all.contexts[slice.context];
    match &all.on {
        Some(field) => format!("where heatmaps lie on `{}` (field `{field}`)", context.name),
        None => {
            let file = |example: &Example| {
                let name = example.media_path.file_name().unwrap_or_default().to_string_lossy().replace('`', "'");
                format!("`{name}`")
            };
            let files: Vec<String> = context.examples.iter().map(file).collect();
            format!("in {}, where heatmaps lie on what looks as in {}", context.name, files.join(", "))
        }
    }
}

/// Classes of which a model loses more with the background than with the object. Neither depends on layer or method, so that one series
/// of a class says it; that is the one where the most attended region outside of the object costs most.
fn context(study: &Study) -> Vec<Finding> {
    let mut of_classes: BTreeMap<(&str, &str), Vec<&Confidences>> = BTreeMap::new();
    for (series, of) in &study.counterfactuals {
        of_classes.entry((&series.class, &series.model)).or_default().push(of);
    }
    let num_classes = of_classes.len();
    let mut found = Vec::new();
    for ((class, model), all) in of_classes {
        let lost = |of: &Confidences| of.mean_lost().unwrap_or(0.0);
        let Some(of) = all.into_iter().max_by(|a, b| a.num_heatmaps.cmp(&b.num_heatmaps).then(lost(a).total_cmp(&lost(b))))
        else {
            continue;
        };
        let [confidence, without_object, without_background] = of.means();
        let Some(reliance) = of.reliance() else { continue };
        let is_clear = of.num_heatmaps >= ENOUGH
            && reliance >= 0.5
            && confidence - without_background >= COSTLY
            && of.num_background > of.num_object
            && of.sign_test() * num_classes as f64 <= IMPROBABLE;
        if !is_clear {
            continue;
        }
        let of_model =
            if study.series.keys().any(|series| series.model != model) { format!(" of {model}") } else { String::new() };
        let attended = of.mean_lost().filter(|lost| *lost >= COSTLY).map_or_else(String::new, |lost| {
            format!(" Without the most attended region outside of the object alone it falls by {lost:.2}.")
        });
        let text = format!(
            "`{class}`{of_model}: the model needs the background more than the object. Its mean confidence is {confidence:.2}, without \
             the object {without_object:.2}, without the background {without_background:.2} (context reliance {reliance:.2}), and the \
             background costs more in {} of {} images.{attended}",
            of.num_background, of.num_heatmaps,
        );
        found.push((reliance, Finding::new("context", Severity::Problem, text).shown_by(of.examples())));
    }
    strongest(found)
}

/// Of the classes at one layer, those that lag behind all others.
fn classes(study: &Study, names: &Names) -> Vec<Finding> {
    /// The classes of a layer, method and model.
    type Column<'a> = Vec<(&'a Series, &'a Observed)>;
    let mut columns: BTreeMap<(&str, &str, &str), Column<'_>> = BTreeMap::new();
    for (series, observed) in study.series.iter().filter(|(_, observed)| ranked(observed).count() >= ENOUGH) {
        columns.entry((&series.layer, &series.method, &series.model)).or_default().push((series, observed));
    }
    let mut found = Vec::new();
    for column in columns.into_values().filter(|column| column.len() > 1) {
        for (series, observed) in &column {
            let others = || column.iter().filter(|(other, _)| other != series);
            let below = |(_, other): &(&Series, &Observed)| ranked(other).probability_above(ranked(observed)).unwrap_or(0.5);
            let least = others().map(below).min_by(f64::total_cmp).unwrap_or(0.5);
            if least < CLEAR {
                continue;
            }
            let next = others().filter_map(|(_, other)| ranked(other).median()).min_by(f64::total_cmp).unwrap_or(0.0);
            let text = format!(
                "{} gets less attention than every other class there: median ratio {}, the next has {next:.2}.",
                names.name(series),
                median(ranked(observed)),
            );
            found.push((least, Finding::new("class", Severity::Warning, text).shown_by(&observed.worst)));
        }
    }
    strongest(found)
}

/// Methods and models against each other, at one layer if they share any.
fn contests(study: &Study, names: &Names) -> Vec<Finding> {
    let mut found = Vec::new();
    for ((first, second), contest) in &study.contests {
        let differ = (first.method != second.method, first.model != second.model);
        let comparable = match differ {
            (false, false) => false,
            (true, false) => first.layer == second.layer,
            // Models have layers of their own; the last ones are compared.
            (_, true) => is_last_layer(study, first) && is_last_layer(study, second),
        };
        let share = contest.share_won();
        if !comparable || contest.num_samples < ENOUGH || share.max(1.0 - share) < CLEAR {
            continue;
        }
        let (winner, loser, share) = if share > 0.5 { (first, second, share) } else { (second, first, 1.0 - share) };
        let of = |series: &Series| median(ranked(&study.series[series]));
        let text = format!(
            "{} lies more on the object than {} in {} of {} samples: median ratio {} against {}.",
            names.name(winner),
            names.name(loser),
            percent(share),
            contest.num_samples,
            of(winner),
            of(loser),
        );
        found.push((share, Finding::new("series", Severity::Note, text)));
    }
    strongest(found)
}

/// Whether no field of the same class, method and model comes after this one by name.
fn is_last_layer(study: &Study, series: &Series) -> bool {
    let same = |other: &&Series| (&other.class, &other.method, &other.model) == (&series.class, &series.method, &series.model);
    study.series.keys().filter(same).max_by_key(|other| natural(&other.field)).is_some_and(|last| last == series)
}

/// For sorting names by the numbers in them: `layer_10` after `layer_9`.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(digits);
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, next) = after.split_at(end);
        parts.push((text.to_owned(), number.parse().unwrap_or(0)));
        rest = next;
    }
    parts
}

fn layers(study: &Study, names: &Names) -> Vec<Finding> {
    let mut found = Vec::new();
    for (series, observed) in &study.series {
        let agreement = observed.all.of(Measure::RankCorrelation);
        let Some(median) = agreement.median().filter(|median| *median < 0.0 && agreement.count() >= ENOUGH) else { continue };
        let text = format!(
            "{} mostly contradicts the layer before it: where one is high the other is low (median rank correlation {median:.2}).",
            names.name(series),
        );
        found.push((-median, Finding::new("layers", Severity::Note, text)));
    }
    strongest(found)
}

fn empty(study: &Study, names: &Names) -> Vec<Finding> {
    let mut found = Vec::new();
    for (series, observed) in study.series.iter().filter(|(_, observed)| observed.num_empty > 0) {
        let share = observed.num_empty as f64 / observed.num_heatmaps as f64;
        let text = format!(
            "{}: {} of {} heatmaps are zero everywhere, so that nothing speaks for the class there.",
            names.name(series),
            observed.num_empty,
            observed.num_heatmaps,
        );
        found.push((share, Finding::new("empty", Severity::Warning, text)));
    }
    strongest(found)
}

fn changes(study: &Study, baseline: &Baseline, names: &Names) -> Vec<Finding> {
    let mut found = Vec::new();
    for (series, observed) in &study.series {
        for &measure in [RANKED_BY, Measure::EnergyInside].iter() {
            let Some(before) = baseline.median(series, measure).filter(|(count, _)| *count >= ENOUGH) else { continue };
            let now = observed.all.of(measure);
            let Some(median) = now.median().filter(|_| now.count() >= ENOUGH) else { continue };
            let moved = position(measure, median) - position(measure, before.1);
            if moved.abs() < MOVED {
                continue;
            }
            let text = format!(
                "{}: the median of {} {} from {:.2} to {median:.2} since the report of {}.",
                names.name(series),
                measure.name(),
                if moved < 0.0 { "fell" } else { "rose" },
                before.1,
                baseline.created(),
            );
            let fell = moved < 0.0;
            let severity = if fell { Severity::Warning } else { Severity::Note };
            let finding = Finding::new("baseline", severity, text).shown_by(observed.worst.iter().filter(|_| fell));
            found.push((moved.abs(), finding));
            break;
        }
    }
    for series in baseline.series().filter(|series| !study.series.contains_key(series)) {
        let text = format!("{} was in the report of {} and is gone.", names.name(series), baseline.created());
        found.push((1.0, Finding::new("baseline", Severity::Warning, text)));
    }
    strongest(found)
}

fn strongest(mut found: Vec<(f64, Finding)>) -> Vec<Finding> {
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().take(MOST).map(|(_, finding)| finding).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::sample, *};

    fn study(samples: &[(&[&str], &[f64])]) -> Study {
        let mut study = Study::new(3);
        for (id, (tags, ratios)) in samples.iter().enumerate() {
            study.observe(&sample(id as u32, tags, ratios));
        }
        study
    }

    fn kinds(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn what_looks_elsewhere_is_named() {
        let found = findings(&study(&[(&[], &[0.2]), (&[], &[0.3]), (&[], &[2.0]), (&[], &[3.0]), (&[], &[4.0])]), None);
        assert_eq!(kinds(&found), ["below_chance"]);
        assert!(found[0].text.contains("40 % of 5 heatmaps"), "{}", found[0].text);
        let samples: Vec<&str> = found[0].examples.iter().map(|example| &*example.sample).collect();
        assert_eq!(samples, [format!("{:024x}", 0), format!("{:024x}", 1)]);
    }

    #[test]
    fn a_tag_that_differs_is_named() {
        let day: (&[&str], &[f64]) = (&["day"], &[3.0]);
        let night: (&[&str], &[f64]) = (&["night"], &[0.5]);
        let found = findings(&study(&[[day; 6], [night; 6]].concat()), None);
        let about = |tag: &str| found.iter().find(|f| f.kind == "tag" && f.text.contains(&format!("`{tag}`"))).expect("said");
        assert!(about("night").text.contains("less attention") && about("night").text.contains("0.50 against 3.0"));
        assert_eq!(found.iter().filter(|finding| finding.kind == "tag").count(), 1, "the days are all but the nights");
        assert_eq!(about("night").examples.len(), 3, "the worst that are kept");
    }

    #[test]
    fn attention_on_another_class_is_named_where_it_is_clear() {
        use camflow_measure::Attention;
        let found = |shares: &[f64], label: Option<&str>| {
            let mut study = Study::new(3);
            for (id, share) in shares.iter().enumerate() {
                let mut sample = sample(id as u32, &[], &[2.0]);
                sample.heatmaps[0].attention_on = Some("scene".into());
                let rest = Attention { label: Some("person".into()), share: Some(1.0 - share), area: 0.6 };
                let label = label.map(ToOwned::to_owned);
                sample.heatmaps[0].attention = vec![Attention { label, share: Some(*share), area: 0.4 }, rest];
                study.observe(&sample);
            }
            findings(&study, None).into_iter().filter(|finding| finding.kind == "attention").collect::<Vec<_>>()
        };
        let planted = found(&[0.6; 10], Some("sky"));
        assert_eq!(planted.len(), 1, "{planted:?}");
        let expected = "`person` at `layer0`: heatmaps lie 60 % on `sky` (field `scene`), 1.5 times its share of the area (40 %), and above that in 10 of 10 samples.";
        assert_eq!((planted[0].text.as_str(), planted[0].examples.len()), (expected, 3));
        assert!(found(&[0.6; 10], None)[0].text.contains("on what has no class"));
        assert!(found(&[0.6; 4], Some("sky")).is_empty(), "four say nothing");
        assert!(found(&[0.9, 0.9, 0.9, 0.9, 0.9, 0.35, 0.35, 0.35], Some("sky")).is_empty(), "the mean alone is not enough");
        assert!(found(&[0.41; 30], Some("sky")).is_empty(), "nor is what is hardly more");
        // People are what is explained: all of it on them is as it should be.
        assert!(found(&[0.1; 10], Some("sky")).is_empty());
    }

    #[test]
    fn a_class_that_hangs_on_its_background_is_named_once() {
        let found = |confidences: &[[f64; 4]]| {
            let mut study = Study::new(3);
            for (id, confidences) in (0..).zip(confidences) {
                let mut sample = crate::counterfactuals::tests::asked(id, *confidences);
                let mut at_another_layer = sample.heatmaps[0].clone();
                (at_another_layer.series.field, at_another_layer.series.layer) = ("b".into(), "layer1".into());
                sample.heatmaps.push(at_another_layer);
                study.observe(&sample);
            }
            findings(&study, None).into_iter().filter(|finding| finding.kind == "context").collect::<Vec<_>>()
        };
        let planted = found(&[[0.9, 0.8, 0.1, 0.3]; 8]);
        assert_eq!(planted.len(), 1, "{planted:?}");
        let expected = "`person`: the model needs the background more than the object. Its mean confidence is 0.90, without the object 0.80, \
                        without the background 0.10 (context reliance 0.89), and the background costs more in 8 of 8 images. Without \
                        the most attended region outside of the object alone it falls by 0.60.";
        assert_eq!((planted[0].text.as_str(), planted[0].examples.len()), (expected, 3));
        assert!(found(&[[0.9, 0.8, 0.1, 0.3]; 4]).is_empty(), "four say nothing");
        assert!(found(&[[0.9, 0.1, 0.8, 0.9]; 8]).is_empty(), "the object counts");
        assert!(found(&[[0.9, 0.9, 0.87, 0.9]; 8]).is_empty(), "nor is what hardly costs anything");
        assert!(!found(&[[0.9, 0.89, 0.1, 0.89]; 8])[0].text.contains("alone"), "the attended region costs nothing");
    }

    #[test]
    fn nothing_to_say_is_said() {
        let good: (&[&str], &[f64]) = (&[], &[2.0]);
        assert_eq!(kinds(&findings(&study(&[good; 6]), None)), ["fine"]);
        assert_eq!(kinds(&findings(&study(&[]), None)), Vec::<&str>::new());
    }

    #[test]
    fn intervals_are_wilsons() {
        // As statsmodels' `proportion_confint(8, 10, method="wilson")`: 0.490 to 0.943; none of five: 0 to 0.434.
        assert_eq!(interval(0.8, 10), "95 % interval 49 to 94 %");
        assert_eq!(interval(0.0, 5), "95 % interval 0 to 43 %");
    }

    #[test]
    fn numbers_in_names_are_numbers() {
        assert!(natural("layer_10") > natural("layer_9"));
        assert!(natural("b_1") > natural("a_2"));
    }
}
