//! The report as one HTML file that needs nothing else: no network, no other file.

mod attention;
mod counterfactuals;
mod detections;
mod plots;
mod shortcuts;

use std::{collections::BTreeSet, fmt::Write, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{
    Baseline, Distribution, Distributions, Example, Extreme, Finding, Mistake, Observed, RANKED_BY, Study, findings::Names,
    pictures::picture,
};
use attention::attention;
use camflow_measure::{Measure, MeasuredHeatmap, Series};
use camflow_media::shown;
use camflow_names::{Choice, counted};
use counterfactuals::counterfactuals;
use detections::detections;
use plots::{axis, histogram};
use shortcuts::shortcuts;

/// Series whose worst and best samples are shown; each takes a quarter of a megabyte.
const MAX_GALLERIES: usize = 16;
/// Samples that are shown of each finding.
const MAX_EXAMPLES: usize = 4;
/// Series per class in the table of comparisons.
const MAX_COMPARED: usize = 16;
/// Rows of a plot; the JSON has all.
const MAX_ROWS: usize = 60;

/// How pages look.
pub(crate) const STYLE: &str = include_str!("style.css");

/// What the page is about.
#[derive(Clone, Copy, Debug)]
pub struct Heading<'a> {
    /// The dataset's name.
    pub dataset: &'a str,
    /// When the report was made.
    pub created: &'a str,
    /// Which samples, where not all.
    pub selection: Option<&'a str>,
    /// The last of each run that made heatmaps here: its name, and what came of it.
    pub runs: &'a [(String, String)],
    /// Where FiftyOne's App is, without a slash at the end.
    pub app: &'a str,
    /// What stands for the saved view of each finding in addresses; `None` where it has none.
    pub views: &'a [Option<String>],
}

impl Heading<'_> {
    /// The address of something of the dataset in the App.
    fn address(&self, what: &str, value: &str) -> String {
        let named = |text: &str| text.bytes().map(encoded).collect::<String>();
        escaped(&format!("{}/datasets/{}?{what}={}", self.app, named(self.dataset), named(value)))
    }
}

/// A byte as addresses have it.
fn encoded(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    }
}

/// The page. Pictures that cannot be made are replaced by the reason.
pub fn page(study: &Study, findings: &[Finding], baseline: Option<&Baseline>, heading: Heading<'_>) -> String {
    let names = Names::of(study);
    let title = format!("Where the model looks: {}", escaped(heading.dataset));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<h1>{title}</h1>\n",
    );
    html += &facts(study, &heading);
    html += &said(findings, Some(&heading));
    html += &mistakes(study, &heading);
    html += &detections(study, &heading);
    html += &shortcuts(study, &heading);
    html += &overview(study, &names);
    html += &counterfactuals(study, &names);
    html += &attention(study);
    html += &galleries(study, &names, &heading);
    html += &distributions(study, &names);
    html += &by_tag(study, &names);
    html += &compared(study, &names);
    if let Some(baseline) = baseline {
        html += &since(study, baseline, &names);
    }
    html += &definitions();
    let _ = writeln!(html, "<script>\n{}</script>\n</html>", include_str!("sort.js"));
    html
}

/// Text that is safe in elements and in attributes.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            control if control.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

/// A text with names in backticks, as HTML.
pub(crate) fn with_code(text: &str) -> String {
    let mut html = String::new();
    for (index, part) in text.split('`').enumerate() {
        // No line ends between a number and its sign.
        let part = escaped(part).replace(" %", "\u{a0}%");
        html += &if index % 2 == 1 { format!("<code>{part}</code>") } else { part };
    }
    html
}

pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn cell(value: Option<f64>) -> String {
    let data = value.map_or_else(String::new, |value| value.to_string());
    format!("<td class=\"number\" data-value=\"{data}\">{}</td>", number(value))
}

/// What the page is about, at a glance.
fn facts(study: &Study, heading: &Heading<'_>) -> String {
    /// Names in a row; a segmentation network may have sixty layers.
    const MAX_NAMES: usize = 12;
    let set = |part: fn(&Series) -> &String| -> String {
        let all: BTreeSet<&String> = study.series.keys().map(part).collect();
        let shown: Vec<String> = all.iter().take(MAX_NAMES).map(|name| format!("<code>{}</code>", escaped(name))).collect();
        let more = all.len().saturating_sub(MAX_NAMES);
        shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
    };
    let selection = heading.selection.map_or_else(String::new, |selection| format!(" ({})", escaped(selection)));
    let heatmaps = format!(
        "{} of {}{selection}, in {}",
        counted(study.num_heatmaps(), "heatmap", "heatmaps"),
        counted(study.num_samples, "sample", "samples"),
        counted(study.series.len(), "series", "series"),
    );
    let mut rows = vec![
        ("Model".to_owned(), set(|series| &series.model)),
        ("Classes".to_owned(), set(|series| &series.class)),
        ("Layers".to_owned(), set(|series| &series.layer)),
        ("Method".to_owned(), set(|series| &series.method)),
        ("Heatmaps".to_owned(), heatmaps),
    ];
    rows.extend(heading.runs.iter().map(|(name, what)| (format!("Run {}", escaped(name)), escaped(what))));
    rows.push(("Report".to_owned(), format!("{}, by camflow {}", escaped(heading.created), env!("CARGO_PKG_VERSION"))));
    let row = |(name, what): &(String, String)| format!("<tr><th>{name}</th><td>{what}</td></tr>\n");
    format!("<table class=\"facts\"><tbody>\n{}</tbody></table>\n", rows.iter().map(row).collect::<String>())
}

/// What was found; without an App only the names of files show it.
pub(crate) fn said(findings: &[Finding], heading: Option<&Heading<'_>>) -> String {
    let mut html = "<h2>What stands out</h2>\n<ul class=\"findings\">\n".to_owned();
    for (number, finding) in findings.iter().enumerate() {
        let severity = finding.severity.name();
        let _ = write!(html, "<li class=\"{severity}\"><b>{severity}</b> {}", with_code(&finding.text));
        html += &heading.map_or_else(|| named(finding), |heading| shown_in_app(number, finding, heading));
        html += "</li>\n";
    }
    if findings.is_empty() {
        html += "<li>There are too few heatmaps to say anything.</li>\n";
    }
    html + "</ul>\n"
}

/// The files that show a finding.
fn named(finding: &Finding) -> String {
    let files: Vec<String> =
        finding.examples.iter().map(|one| format!("<span {}</span>", file(&one.media_path, &one.sample))).collect();
    if files.is_empty() { String::new() } else { format!("<div class=\"soft\">{}</div>", files.join(" ")) }
}

/// The pictures that show a finding, each of which leads to its sample, and the way to all of its samples.
fn shown_in_app(number: usize, finding: &Finding, heading: &Heading<'_>) -> String {
    let mut html = String::new();
    let shown = &finding.examples[..finding.examples.len().min(MAX_EXAMPLES)];
    let figures: Vec<String> = shown.par_iter().map(|example| thumbnail(example, heading)).collect();
    if !figures.is_empty() {
        let _ = write!(html, "<div class=\"gallery\">{}</div>", figures.concat());
    }
    if let Some(Some(view)) = heading.views.get(number) {
        let samples = counted(finding.examples.len(), "sample", "samples");
        let _ = write!(html, "<a class=\"view\" href=\"{}\">Open {samples} in the App</a>", heading.address("view", view));
    }
    html
}

fn thumbnail(example: &Example, heading: &Heading<'_>) -> String {
    let Example { sample, media_path, heatmap } = example;
    let image = linked(&image(media_path, heatmap.as_ref()), sample, heading);
    format!("<figure>{image}<figcaption {}</figcaption></figure>", file(media_path, sample))
}

/// A picture of a sample that leads to it in the App.
fn linked(image: &str, sample: &str, heading: &Heading<'_>) -> String {
    format!("<a href=\"{}\" target=\"_blank\" rel=\"noopener\">{image}</a>", heading.address("id", sample))
}

/// A file's name, with its path and the sample's id where somebody asks: the rest of the tag that it stands in, and what that holds.
fn file(media_path: &Path, sample: &str) -> String {
    let name = media_path.file_name().map_or(media_path, Path::new);
    let title = format!("{}\nsample {sample}", shown(media_path));
    let title: Vec<String> = title.lines().map(escaped).collect();
    format!("title=\"{}\"><code>{}</code>", title.join("&#10;"), escaped(&shown(name).to_string()))
}

fn overview(study: &Study, names: &Names) -> String {
    let mut html = "<h2>All series</h2>\n<div class=\"wide\"><table id=\"series\"><thead><tr><th class=\"sortable\">series</th>\
                    <th class=\"sortable\">field</th>"
        .to_owned();
    for head in
        ["heatmaps", "ratio, median", "lower quartile", "below chance, %", "pointing game, %", "best IoU", "offset", "entropy"]
    {
        let _ = write!(html, "<th class=\"sortable number\">{head}</th>");
    }
    html += "</tr></thead><tbody>\n";
    for (series, observed) in &study.series {
        let of = |measure: Measure| observed.all.of(measure);
        let ratio = of(RANKED_BY);
        let _ = write!(
            html,
            "<tr><td>{}</td><td><code>{}</code></td>{}",
            with_code(&names.name(series)),
            escaped(&series.field),
            cell(Some(observed.num_heatmaps as f64)).replace(".00<", "<"),
        );
        let percent = |share: Option<f64>| share.map(|share| 100.0 * share);
        for value in [
            ratio.median(),
            ratio.quantile(0.25),
            percent(ratio.share_below_one()),
            percent(of(Measure::PointingHit).mean()),
            of(Measure::BestIou).median(),
            of(Measure::CenterOffset).median(),
            of(Measure::Entropy).median(),
        ] {
            html += &cell(value);
        }
        html += "</tr>\n";
    }
    html + "</tbody></table></div>\n"
}

/// A table with a histogram in each row.
fn plot_table<'a>(measure: Measure, rows: impl Iterator<Item = (String, &'a Distribution)>) -> String {
    let mut html = "<table><tbody>\n".to_owned();
    let mut num_rows = 0;
    for (name, distribution) in rows.filter(|(_, distribution)| distribution.count() > 0) {
        num_rows += 1;
        if num_rows > MAX_ROWS {
            continue;
        }
        let middle = if measure.is_yes_or_no() { distribution.mean() } else { distribution.median() };
        let _ = writeln!(
            html,
            "<tr><td>{name}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number soft\">{}</td></tr>",
            histogram(distribution, measure),
            number(middle),
            distribution.count(),
        );
    }
    let middle = if measure.is_yes_or_no() { "share" } else { "median" };
    let _ = writeln!(
        html,
        "<tr><td></td><td>{}</td><td class=\"number soft\">{middle}</td><td class=\"number soft\">heatmaps</td></tr></tbody></table>",
        axis(measure)
    );
    if num_rows > MAX_ROWS {
        let _ = writeln!(html, "<p class=\"soft\">{} more are in the JSON.</p>", num_rows - MAX_ROWS);
    }
    if num_rows == 0 { String::new() } else { html }
}

fn section(measure: Measure, plots: String) -> String {
    if plots.is_empty() {
        return plots;
    }
    let open = if measure == RANKED_BY { " open" } else { "" };
    let name = measure.name();
    format!(
        "<details{open}><summary><code>{name}</code> <span class=\"soft\">{}</span></summary>\n{plots}</details>\n",
        brief(measure)
    )
}

fn distributions(study: &Study, names: &Names) -> String {
    let mut html = "<h2>Distributions</h2>\n<p class=\"soft\">One row a series. The line is the median; the dashed line is chance, and what \
                    is below it is red.</p>\n"
        .to_owned();
    for &measure in Measure::ALL {
        let rows = study.series.iter().map(|(series, observed)| (with_code(&names.name(series)), observed.all.of(measure)));
        html += &section(measure, plot_table(measure, rows));
    }
    html
}

fn by_tag<'a>(study: &'a Study, names: &Names) -> String {
    if study.tags.is_empty() {
        return String::new();
    }
    let mut html = "<h2>By tag</h2>\n".to_owned();
    if study.has_more_tags {
        let _ = writeln!(html, "<p class=\"soft\">The first {} tags are told apart; there are more.</p>", study.tags.len());
    }
    for &measure in Measure::ALL {
        let rows = study.series.iter().flat_map(|(series, observed)| {
            let name = with_code(&names.name(series));
            let row = move |(tag, all): (&String, &'a Distributions)| {
                (format!("{name}, <code>{}</code>", escaped(tag)), all.of(measure))
            };
            observed.by_tag.iter().map(row)
        });
        html += &section(measure, plot_table(measure, rows));
    }
    html
}

fn compared(study: &Study, names: &Names) -> String {
    let mut html = String::new();
    let classes: BTreeSet<&str> = study.series.keys().map(|series| series.class.as_str()).collect();
    for class in classes {
        let of_class: Vec<&Series> = study.series.keys().filter(|series| series.class == class).collect();
        let rows = &of_class[..of_class.len().min(MAX_COMPARED)];
        let share = |row: &Series, column: &Series| {
            let (first, second) = if row < column { (row, column) } else { (column, row) };
            let share = study.contests.get(&(first.clone(), second.clone()))?.share_won();
            Some(if row < column { share } else { 1.0 - share })
        };
        if !rows.iter().any(|row| rows.iter().any(|column| share(row, column).is_some())) {
            continue;
        }
        let _ = write!(html, "<h3><code>{}</code></h3><div class=\"wide\"><table><thead><tr><th></th>", escaped(class));
        for number in 1..=rows.len() {
            let _ = write!(html, "<th class=\"number\">{number}</th>");
        }
        html += "</tr></thead><tbody>\n";
        for (index, row) in rows.iter().enumerate() {
            let _ = write!(html, "<tr><td>{}. {}</td>", index + 1, with_code(&names.name(row)));
            for column in rows {
                let text = share(row, column).filter(|_| row != column).map(|share| format!("{:.0}", 100.0 * share));
                let _ = write!(html, "<td class=\"number\">{}</td>", text.unwrap_or_default());
            }
            html += "</tr>\n";
        }
        html += "</tbody></table></div>\n";
    }
    if html.is_empty() {
        return html;
    }
    let text = "In how many percent of the samples that have both, the row's heatmap lies more on the object than the column's.";
    format!("<h2>One against another</h2>\n<p class=\"soft\">{text}</p>\n{html}")
}

fn since(study: &Study, baseline: &Baseline, names: &Names) -> String {
    let mut html = format!(
        "<h2>Since {}</h2>\n<table><thead><tr><th>series</th><th class=\"number\">heatmaps then</th><th class=\"number\">now</th>\
         <th class=\"number\">median ratio then</th><th class=\"number\">now</th></tr></thead><tbody>\n",
        escaped(baseline.created())
    );
    for (series, observed) in &study.series {
        let (count, before) = baseline.median(series, RANKED_BY).unzip();
        let now = observed.all.of(RANKED_BY);
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>{}{}</tr>",
            with_code(&names.name(series)),
            count.unwrap_or(0),
            now.count(),
            cell(before),
            cell(now.median()),
        );
    }
    html + "</tbody></table>\n"
}

fn galleries(study: &Study, names: &Names, heading: &Heading<'_>) -> String {
    let mut ranked: Vec<_> = study.series.iter().filter(|(_, observed)| !observed.worst.is_empty()).collect();
    // The ones that look elsewhere most come first.
    let below = |observed: &Observed| observed.all.of(RANKED_BY).share_below_one().unwrap_or(0.0);
    ranked.sort_by(|a, b| below(b.1).total_cmp(&below(a.1)));
    let num_left_out = ranked.len().saturating_sub(MAX_GALLERIES);
    ranked.truncate(MAX_GALLERIES);
    if ranked.is_empty() {
        return String::new();
    }
    let mut html =
        "<h2>Worst and best</h2>\n<p class=\"soft\">By the ratio: how many times more of the heatmap lies on the object \
                    than a heatmap without aim would have there.</p>\n"
            .to_owned();
    for (place, (series, observed)) in ranked.into_iter().enumerate() {
        let open = if place < 4 { " open" } else { "" };
        let _ = writeln!(html, "<details{open}><summary>{}</summary>", with_code(&names.name(series)));
        for (title, extremes) in ends(observed) {
            let figures: Vec<String> = extremes.par_iter().map(|extreme| figure(extreme, heading)).collect();
            let _ = writeln!(html, "<h3>{title}</h3><div class=\"gallery\">{}</div>", figures.concat());
        }
        html += "</details>\n";
    }
    if num_left_out > 0 {
        let _ = writeln!(html, "<p class=\"soft\">{num_left_out} more series have theirs in the JSON.</p>");
    }
    html
}

/// The heatmaps at both ends of a series, none of them at both. Where there are so few that they are all at one end, in one order.
fn ends(observed: &Observed) -> Vec<(&'static str, Vec<&Extreme>)> {
    let least = observed.worst.iter().collect();
    let most: Vec<&Extreme> = observed.best.iter().filter(|extreme| !observed.worst.contains(extreme)).collect();
    if most.is_empty() {
        return vec![("From least to most on the object", least)];
    }
    vec![("Least on the object", least), ("Most on the object", most)]
}

fn figure(extreme: &Extreme, heading: &Heading<'_>) -> String {
    let image = linked(&image(&extreme.media_path, Some(&extreme.heatmap)), &extreme.sample, heading);
    let tags = if extreme.tags.is_empty() { String::new() } else { escaped(&extreme.tags.join(", ")) };
    let low = if extreme.value < 1.0 { " class=\"low\"" } else { "" };
    format!(
        "<figure>{image}<figcaption {}<b{low}>{}</b> {tags}</figcaption></figure>",
        file(&extreme.media_path, &extreme.sample),
        number(Some(extreme.value)),
    )
}

/// The picture of a sample with a heatmap over it, or the reason why there is none.
pub(crate) fn image(media_path: &Path, heatmap: Option<&MeasuredHeatmap>) -> String {
    let path = escaped(&shown(media_path).to_string());
    match picture(media_path, heatmap) {
        Ok(jpeg) => format!("<img alt=\"{path}\" src=\"data:image/jpeg;base64,{}\">", BASE64_STANDARD.encode(jpeg)),
        Err(error) => format!("<div class=\"missing\">{}</div>", escaped(&error.to_string())),
    }
}

/// What classifiers get wrong, the mistakes that they are surest of first.
fn mistakes(study: &Study, heading: &Heading<'_>) -> String {
    let mut html = String::new();
    for (model, mistakes) in study.mistakes.iter().filter(|(_, mistakes)| mistakes.num_wrong > 0) {
        if study.mistakes.len() > 1 {
            let _ = writeln!(html, "<h3><code>{}</code></h3>", escaped(model));
        }
        let figures: Vec<String> = mistakes.most_confident.par_iter().map(|one| mistake(one, heading)).collect();
        let _ = writeln!(html, "<div class=\"gallery mistakes\">{}</div>", figures.concat());
        html += "<details open><summary>Which class is taken for which</summary><table><thead><tr><th>label says</th>\
                 <th>model predicts</th><th class=\"number\">samples</th><th class=\"number\">mean confidence</th></tr></thead><tbody>\n";
        let confusions = mistakes.confusions();
        for (truth, predicted, pair) in confusions.iter().take(MAX_ROWS) {
            let _ = writeln!(
                html,
                "<tr><td><code>{}</code></td><td><code>{}</code></td><td class=\"number\">{}</td>{}</tr>",
                escaped(truth),
                escaped(predicted),
                pair.count,
                cell(pair.mean_confidence()),
            );
        }
        html += "</tbody></table></details>\n";
        if confusions.len() > MAX_ROWS {
            let _ = writeln!(html, "<p class=\"soft\">{} more are in the JSON.</p>", confusions.len() - MAX_ROWS);
        }
    }
    if html.is_empty() {
        return html;
    }
    let text = "Samples for which the model puts another class first than the label says, those that it is surest of first. Each is shown \
                as it is, and with the heatmaps that there are: of the class that is predicted, of the one that the label says, and of \
                what speaks for the first against the second.";
    format!("<h2>Confident and wrong</h2>\n<p class=\"soft\">{text}</p>\n{html}")
}

fn mistake(mistake: &Mistake, heading: &Heading<'_>) -> String {
    let Mistake { sample, media_path, true_class, predicted, confidence, of_predicted, of_true, of_difference } = mistake;
    let (predicted, true_class) = (escaped(predicted), escaped(true_class));
    let sure = confidence.map_or_else(String::new, |confidence| format!(" ({})", number(Some(confidence))));
    let said = format!("predicted <b class=\"low\">{predicted}</b>{sure}, label says <b>{true_class}</b>");
    let pictures = [
        (true, None, said),
        (of_predicted.is_some(), of_predicted.as_ref(), format!("for <b>{predicted}</b>")),
        (of_true.is_some(), of_true.as_ref(), format!("for <b>{true_class}</b>")),
        (of_difference.is_some(), of_difference.as_ref(), format!("for <b>{predicted}</b> against <b>{true_class}</b>")),
    ];
    let figures = pictures.into_iter().filter(|(is_there, ..)| *is_there).enumerate().map(|(place, (_, heatmap, caption))| {
        let caption = if place == 0 { format!("{}{caption}", file(media_path, sample)) } else { format!(">{caption}") };
        format!("<figure>{}<figcaption {caption}</figcaption></figure>", linked(&image(media_path, heatmap), sample, heading))
    });
    format!("<div class=\"mistake\">{}</div>", figures.collect::<String>())
}

/// A measure in a few words.
pub(crate) fn brief(measure: Measure) -> &'static str {
    match measure {
        Measure::EnergyInside => "share of the heatmap on the object",
        Measure::EnergyRatio => "the same by the object's share of the image: 1 is chance",
        Measure::PointingHit => "whether the highest pixel is on the object",
        Measure::BestIou => "overlap with the object at the best threshold",
        Measure::BestThreshold => "that threshold",
        Measure::CenterOffset => "distance between the centres of heatmap and object, by the diagonal",
        Measure::ObjectArea => "the object's share of the image",
        Measure::Entropy => "how spread out the heatmap is: 1 is even",
        Measure::RankCorrelation => "agreement with the layer before",
        Measure::Confidence => "the model's confidence in the class",
        Measure::ConfidenceDrop => "what of it is lost in the image times the heatmap: low is faithful",
        Measure::ConfidenceIncrease => "whether it rises then",
        Measure::DeletionAuc => "confidence while the most relevant pixels vanish: low is faithful",
        Measure::InsertionAuc => "confidence while they come back: high is faithful",
        Measure::Road => "confidence without the least relevant pixels against without the most: high is faithful",
        Measure::ConfidenceWithoutObject => "confidence in the image whose object is replaced",
        Measure::ConfidenceWithoutBackground => "confidence in the image of which all but the object is replaced",
        Measure::ConfidenceWithoutAttended => "confidence where the most attended region outside of the object is replaced",
        Measure::ContextReliance => {
            "what is lost with the background, by what is lost with object and background: 1 is the background alone"
        }
    }
}

fn definitions() -> String {
    let mut html = "<h2>Measures</h2>\n<table><tbody>\n".to_owned();
    for &measure in Measure::ALL {
        let _ = writeln!(html, "<tr><td><code>{}</code></td><td>{}</td></tr>", measure.name(), brief(measure));
    }
    html + "</tbody></table>\n<p class=\"soft\">docs/measures.md of camflow defines them, with their sources.</p>\n"
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::{mistakes::tests::judged, tests::sample},
        *,
    };

    pub(super) fn heading(dataset: &str) -> Heading<'_> {
        Heading { dataset, created: "now", selection: None, runs: &[], app: "http://localhost:5151", views: &[] }
    }

    #[test]
    fn pictures_lead_to_their_samples() {
        let mut study = Study::new(1);
        (0..6).for_each(|id| study.observe(&sample(id, &[], &[0.5])));
        let findings = super::super::findings(&study, None);
        let views = [Some("camflow-1".to_owned())];
        let runs = [("nightly <1>".to_owned(), "6 samples annotated".to_owned())];
        let html = page(&study, &findings, None, Heading { views: &views, runs: &runs, ..heading("a b/c") });
        assert!(html.contains("href=\"http://localhost:5151/datasets/a%20b%2Fc?id=000000000000000000000000\""), "{html}");
        assert!(html.contains("href=\"http://localhost:5151/datasets/a%20b%2Fc?view=camflow-1\">Open 1 sample in the App"));
        assert!(html.contains("<th>Run nightly &lt;1&gt;</th><td>6 samples annotated</td>"));
        assert!(html.contains("<li class=\"problem\"><b>problem</b>"));
    }

    #[test]
    fn names_cannot_write_html() {
        assert_eq!(escaped("<b>&\"'\n"), "&lt;b&gt;&amp;&quot;&#39;\u{fffd}");
        assert_eq!(with_code("at `<a>` it"), "at <code>&lt;a&gt;</code> it");
        let mut study = Study::new(1);
        (0..6).for_each(|id| study.observe(&sample(id, &["<script>alert(1)</script>"], &[0.5, 3.0])));
        let heading = heading("<img src=x>");
        let html = page(&study, &super::super::findings(&study, None), None, heading);
        assert!(!html.contains("<img src=x>") && !html.contains("alert(1)</script>"), "escaped");
        assert_eq!(html.matches("<script>").count(), 1, "the page's own");
        assert!(html.contains("class=\"missing\""), "the images are not there");
    }

    #[test]
    fn few_heatmaps_are_shown_once() {
        for (count, wanted) in [
            (3, vec![("From least to most on the object", vec![0.5, 1.5, 2.5])]),
            (5, vec![("Least on the object", vec![0.5, 1.5, 2.5]), ("Most on the object", vec![4.5, 3.5])]),
            (7, vec![("Least on the object", vec![0.5, 1.5, 2.5]), ("Most on the object", vec![6.5, 5.5, 4.5])]),
        ] {
            let mut study = Study::new(3);
            (0..count).for_each(|id| study.observe(&sample(id, &[], &[f64::from(id) + 0.5])));
            let observed = study.series.values().next().expect("a series");
            let values = |extremes: Vec<&Extreme>| extremes.iter().map(|extreme| extreme.value).collect::<Vec<f64>>();
            let shown: Vec<_> = ends(observed).into_iter().map(|(title, extremes)| (title, values(extremes))).collect();
            assert_eq!(shown, wanted);
        }
    }

    #[test]
    fn mistakes_come_before_all_else_and_cannot_write_html_either() {
        let mut study = Study::new(2);
        (0..3).for_each(|id| study.observe(&judged(id, "<b>dog", "cat", 0.99)));
        let html = page(&study, &[], None, heading("street"));
        let (wrong, series) = (html.find("Confident and wrong").expect("a section"), html.find("All series").expect("a table"));
        assert!(wrong < series && !html.contains("<b>dog") && html.contains("&lt;b&gt;dog"));
        assert_eq!(html.matches("class=\"mistake\"").count(), 2, "as many as were to be kept");
    }
}
