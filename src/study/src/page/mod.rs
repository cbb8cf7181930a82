//! The report as one HTML file that needs nothing else: no network, no other file.

mod attention;
mod plots;

use std::{fmt::Write, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{
    Baseline, Distribution, Distributions, Extreme, Finding, Mistake, Observed, RANKED_BY, Study, findings::Names,
    pictures::picture,
};
use attention::attention;
use camflow_measure::{Measure, MeasuredHeatmap, Series};
use camflow_media::shown;
use camflow_names::Choice;
use plots::{axis, histogram};

/// Series whose worst and best samples are shown; each takes a quarter of a megabyte.
const MAX_GALLERIES: usize = 16;
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
}

/// The page. Pictures that cannot be made are replaced by the reason.
pub fn page(study: &Study, findings: &[Finding], baseline: Option<&Baseline>, heading: Heading<'_>) -> String {
    let names = Names::of(study);
    let title = format!("Where the model looks: {}", escaped(heading.dataset));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<h1>{title}</h1>\n",
    );
    let selection = heading.selection.map_or_else(String::new, |selection| format!(" ({})", escaped(selection)));
    let _ = writeln!(
        html,
        "<p class=\"soft\">{} samples{selection}, {} heatmaps in {} series. {} Made by camflow {}.</p>",
        study.num_samples,
        study.num_heatmaps(),
        study.series.len(),
        escaped(heading.created),
        env!("CARGO_PKG_VERSION"),
    );
    html += &said(findings);
    html += &mistakes(study);
    html += &overview(study, &names);
    html += &attention(study);
    html += &galleries(study, &names);
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
        let part = escaped(part);
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

pub(crate) fn said(findings: &[Finding]) -> String {
    let mut html = "<h2>What stands out</h2>\n<ul class=\"findings\">\n".to_owned();
    for finding in findings {
        let _ = write!(html, "<li>{}", with_code(&finding.text));
        if !finding.samples.is_empty() {
            let _ = write!(html, "<div class=\"ids\">{}</div>", escaped(&finding.samples.join(" ")));
        }
        html += "</li>\n";
    }
    if findings.is_empty() {
        html += "<li>There are too few heatmaps to say anything.</li>\n";
    }
    html + "</ul>\n"
}

fn overview(study: &Study, names: &Names) -> String {
    let mut html = "<h2>All series</h2>\n<div class=\"wide\"><table id=\"series\"><thead><tr><th class=\"sortable\">series</th>\
                    <th class=\"sortable\">field</th>"
        .to_owned();
    for head in ["heatmaps", "ratio, median", "lower quartile", "below chance, %", "hits, %", "best IoU", "offset", "entropy"] {
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
    let classes: std::collections::BTreeSet<&str> = study.series.keys().map(|series| series.class.as_str()).collect();
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

fn galleries(study: &Study, names: &Names) -> String {
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
        for (title, extremes) in [("Least on the object", &observed.worst), ("Most on the object", &observed.best)] {
            let figures: Vec<String> = extremes.par_iter().map(figure).collect();
            let _ = writeln!(html, "<h3>{title}</h3><div class=\"gallery\">{}</div>", figures.concat());
        }
        html += "</details>\n";
    }
    if num_left_out > 0 {
        let _ = writeln!(html, "<p class=\"soft\">{num_left_out} more series have theirs in the JSON.</p>");
    }
    html
}

fn figure(extreme: &Extreme) -> String {
    let path = escaped(&shown(&extreme.media_path).to_string());
    let image = image(&extreme.media_path, Some(&extreme.heatmap));
    let tags = if extreme.tags.is_empty() { String::new() } else { escaped(&extreme.tags.join(", ")) };
    let low = if extreme.value < 1.0 { " class=\"low\"" } else { "" };
    format!(
        "<figure>{image}<figcaption title=\"{path}\"><b{low}>{}</b><code>{}</code>{tags}</figcaption></figure>",
        number(Some(extreme.value)),
        escaped(&extreme.sample),
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
fn mistakes(study: &Study) -> String {
    let mut html = String::new();
    for (model, mistakes) in study.mistakes.iter().filter(|(_, mistakes)| mistakes.num_wrong > 0) {
        if study.mistakes.len() > 1 {
            let _ = writeln!(html, "<h3><code>{}</code></h3>", escaped(model));
        }
        let figures: Vec<String> = mistakes.most_confident.par_iter().map(mistake).collect();
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

fn mistake(mistake: &Mistake) -> String {
    let Mistake { sample, media_path, true_class, predicted, confidence, of_predicted, of_true, of_difference } = mistake;
    let path = escaped(&shown(media_path).to_string());
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
        let id = if place == 0 { format!("<code>{}</code>", escaped(sample)) } else { String::new() };
        format!("<figure>{}<figcaption title=\"{path}\">{caption}{id}</figcaption></figure>", image(media_path, heatmap))
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
mod tests {
    use super::{
        super::{mistakes::tests::judged, tests::sample},
        *,
    };

    #[test]
    fn names_cannot_write_html() {
        assert_eq!(escaped("<b>&\"'\n"), "&lt;b&gt;&amp;&quot;&#39;\u{fffd}");
        assert_eq!(with_code("at `<a>` it"), "at <code>&lt;a&gt;</code> it");
        let mut study = Study::new(1);
        (0..6).for_each(|id| study.observe(&sample(id, &["<script>alert(1)</script>"], &[0.5, 3.0])));
        let heading = Heading { dataset: "<img src=x>", created: "now", selection: None };
        let html = page(&study, &super::super::findings(&study, None), None, heading);
        assert!(!html.contains("<img src=x>") && !html.contains("alert(1)</script>"), "escaped");
        assert_eq!(html.matches("<script>").count(), 1, "the page's own");
        assert!(html.contains("class=\"missing\""), "the images are not there");
    }

    #[test]
    fn mistakes_come_before_all_else_and_cannot_write_html_either() {
        let mut study = Study::new(2);
        (0..3).for_each(|id| study.observe(&judged(id, "<b>dog", "cat", 0.99)));
        let html = page(&study, &[], None, Heading { dataset: "street", created: "now", selection: None });
        let (wrong, series) = (html.find("Confident and wrong").expect("a section"), html.find("All series").expect("a table"));
        assert!(wrong < series && !html.contains("<b>dog") && html.contains("&lt;b&gt;dog"));
        assert_eq!(html.matches("class=\"mistake\"").count(), 2, "as many as were to be kept");
    }
}
