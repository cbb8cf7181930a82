//! The report for machines: JSON with everything that the page shows, CSV with a row per heatmap.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{AttentionCell, AttentionTable, Confidences, Distributions, Extreme, Finding, Observed, Study};
use camflow_measure::{Attention, Measure, MeasuredHeatmap, MeasuredSample, Series, StoredDetection};
use camflow_names::Choice;

/// Of this form of the JSON.
const VERSION: u64 = 1;

/// The names of the columns of [`csv_rows`].
pub const CSV_HEADER: &str = "sample,filepath,tags,field,class,layer,method,model,\
                              predicted_class,predicted_confidence,true_class,correct,score,energy_inside,energy_ratio,pointing_hit,\
                              best_iou,best_threshold,center_offset,object_area,entropy,rank_correlation,\
                              confidence,confidence_drop,confidence_increase,deletion_auc,insertion_auc,road,\
                              confidence_without_object,confidence_without_background,confidence_without_attended,context_reliance,\
                              attention_on,attention,detection,rank,outcome,outcome_iou";

/// A line per heatmap of the sample, as RFC 4180 wants them. Tags are separated by `;`. What is not known is empty, yes and no are 1
/// and 0. `attention` is JSON: a list of classes with their shares.
pub fn csv_rows(sample: &MeasuredSample) -> String {
    let mut rows = String::new();
    for heatmap in &sample.heatmaps {
        let Series { field, class, layer, method, model } = &heatmap.series;
        let path = sample.media_path.to_string_lossy();
        let tags = sample.tags.join(";");
        let texts = [&sample.id, &*path, &tags, field, class, layer, method, model].map(quoted);
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let prediction = heatmap.prediction.clone().unwrap_or_default();
        let told = [
            quoted(&prediction.class),
            number(prediction.confidence),
            quoted(prediction.true_class.unwrap_or_default()),
            number(prediction.is_correct.map(|yes| f64::from(u8::from(yes)))),
        ];
        let numbers = Measure::ALL.iter().map(|measure| number(heatmap.measures.get(*measure)));
        let attention = [quoted(heatmap.attention_on.as_deref().unwrap_or_default()), quoted(attention(heatmap))];
        let StoredDetection { id, rank, outcome, outcome_iou, .. } = heatmap.detection.clone().unwrap_or_default();
        let rank = rank.map_or_else(String::new, |rank| rank.to_string());
        let detection = [quoted(id), rank, quoted(outcome.unwrap_or_default()), number(outcome_iou)];
        let cells: Vec<String> = texts
            .into_iter()
            .chain(told)
            .chain([number(heatmap.score)])
            .chain(numbers)
            .chain(attention)
            .chain(detection)
            .collect();
        rows += &cells.join(",");
        rows.push('\n');
    }
    rows
}

/// What of a heatmap lies on which class, as JSON; empty where nobody asked or there is no label.
fn attention(heatmap: &MeasuredHeatmap) -> String {
    let one = |Attention { label, share, area }: &Attention| json!({"label": label, "share": share, "area": area});
    match &heatmap.attention[..] {
        [] => String::new(),
        classes => Value::Array(classes.iter().map(one).collect()).to_string(),
    }
}

/// A text as a cell. One that a spreadsheet would take for a formula gets a `'` before it, as OWASP advises: names and paths are
/// other people's.
pub(crate) fn quoted(text: impl AsRef<str>) -> String {
    let text = text.as_ref();
    let is_formula = text.trim_start_matches(' ').starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let text = &if is_formula && text.parse::<f64>().is_err() { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\n', '\r', ';', '\t']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// The whole study.
pub fn json(study: &Study, findings: &[Finding], dataset: &str, created: &str) -> Value {
    let contest = |((first, second), contest): (&(Series, Series), &super::Contest)| {
        json!({
            "first": first.field, "second": second.field, "class": first.class, "num_samples": contest.num_samples,
            "num_won": contest.num_won, "num_tied": contest.num_tied,
        })
    };
    json!({
        "version": VERSION,
        "camflow": env!("CARGO_PKG_VERSION"),
        "dataset": dataset,
        "created": created,
        "num_samples": study.num_samples,
        "num_heatmaps": study.num_heatmaps(),
        "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
        "series": study.series.iter().map(|(series, observed)| of_series(series, observed)).collect::<Vec<_>>(),
        "mistakes": study.mistakes.iter().map(|(model, mistakes)| mistakes.json(model)).collect::<Vec<_>>(),
        "detections": study.outcomes.iter().map(|(model, outcomes)| outcomes.json(model)).collect::<Vec<_>>(),
        "shortcuts": study.shortcuts.iter().map(|(model, shortcuts)| shortcuts.json(model)).collect::<Vec<_>>(),
        "slices": study.slices.iter().map(|(model, slices)| slices.json(model)).collect::<Vec<_>>(),
        "contests": study.contests.iter().map(contest).collect::<Vec<_>>(),
        "attention": of_attention(study),
        "counterfactuals": study.counterfactuals.iter().map(|(series, of)| of_counterfactuals(series, of)).collect::<Vec<_>>(),
    })
}

fn of_series(series: &Series, observed: &Observed) -> Value {
    let extreme = |extreme: &Extreme| json!({"sample": extreme.sample, "filepath": extreme.media_path.to_string_lossy(), "value": extreme.value});
    let tags: Map<String, Value> = observed.by_tag.iter().map(|(tag, all)| (tag.clone(), of_measures(all))).collect();
    json!({
        "field": series.field, "class": series.class, "layer": series.layer, "method": series.method, "model": series.model,
        "num_heatmaps": observed.num_heatmaps,
        "num_empty": observed.num_empty,
        "num_below_chance": observed.all.of(super::RANKED_BY).num_below_one(),
        "measures": of_measures(&observed.all),
        "tags": tags,
        "worst": observed.worst.iter().map(extreme).collect::<Vec<_>>(),
        "best": observed.best.iter().map(extreme).collect::<Vec<_>>(),
    })
}

fn of_attention(study: &Study) -> Vec<Value> {
    let cell = |label: Option<&str>, cell: &AttentionCell| {
        json!({
            "label": label, "num_heatmaps": cell.num_heatmaps, "mean_share": cell.mean_share(), "mean_area": cell.mean_area(),
            "ratio": cell.ratio(), "num_above": cell.num_above, "num_below": cell.num_below, "p_value": cell.sign_test(),
            "samples": cell.examples().iter().map(|example| &*example.sample).collect::<Vec<_>>(),
        })
    };
    let of_series = |on: &str, series: &Series, table: &AttentionTable| {
        json!({
            "on": on,
            "field": series.field, "class": series.class, "layer": series.layer, "method": series.method, "model": series.model,
            "num_heatmaps": table.num_heatmaps,
            "labels": table.labels.iter().map(|(label, of_label)| cell(label.as_deref(), of_label)).collect::<Vec<_>>(),
            "others": (table.others.num_heatmaps > 0).then(|| cell(None, &table.others)),
        })
    };
    let of_field = |(on, all): (&String, &BTreeMap<Series, AttentionTable>)| {
        all.iter().map(|(series, table)| of_series(on, series, table)).collect::<Vec<_>>()
    };
    study.attention.iter().flat_map(of_field).collect()
}

fn of_counterfactuals(series: &Series, of: &Confidences) -> Value {
    let [confidence, without_object, without_background] = of.means();
    json!({
        "field": series.field, "class": series.class, "layer": series.layer, "method": series.method, "model": series.model,
        "num_heatmaps": of.num_heatmaps, "confidence": confidence, "confidence_without_object": without_object,
        "confidence_without_background": without_background, "confidence_without_attended": of.mean_attended(),
        "num_attended": of.num_attended, "context_reliance": of.reliance(), "num_background_costs_more": of.num_background,
        "num_object_costs_more": of.num_object, "p_value": of.sign_test(), "samples": of.examples().iter().map(|example| &*example.sample).collect::<Vec<_>>(),
    })
}

fn of_measures(all: &Distributions) -> Value {
    let mut measures = Map::new();
    for &measure in Measure::ALL {
        let distribution = all.of(measure);
        let Some((min, max)) = distribution.bounds() else { continue };
        let mut numbers = json!({
            "count": distribution.count(), "mean": distribution.mean(), "min": min, "max": max,
        });
        for (name, share) in [("p05", 0.05), ("p25", 0.25), ("p50", 0.5), ("p75", 0.75), ("p95", 0.95)] {
            numbers[name] = distribution.quantile(share).into();
        }
        measures.insert(measure.name().to_owned(), numbers);
    }
    Value::Object(measures)
}

/// An earlier report, to compare with.
#[derive(Clone, Debug)]
pub struct Baseline {
    created: String,
    dataset: String,
    /// Of each series and measure how many values there were, and their median.
    medians: BTreeMap<Series, BTreeMap<String, (u64, f64)>>,
}

impl Baseline {
    /// Takes the JSON of an earlier report.
    ///
    /// # Errors
    /// It is none; the text says why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let report: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON ({error})"))?;
        match report["version"].as_u64() {
            Some(VERSION) if report["series"].is_array() => {}
            Some(other) if other != VERSION => return Err(format!("it is of version {other}; this camflow reads {VERSION}")),
            _ => return Err("it is not a report of `camflow report --json`".to_owned()),
        }
        let text = |entry: &Value, key: &str| match entry[key].as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("it lacks `{key}`, so it is damaged or was written by hand")),
        };
        let mut medians = BTreeMap::new();
        for entry in report["series"].as_array().into_iter().flatten() {
            let (field, class, layer) = (text(entry, "field")?, text(entry, "class")?, text(entry, "layer")?);
            let series = Series { field, class, layer, method: text(entry, "method")?, model: text(entry, "model")? };
            let measures = entry["measures"].as_object().into_iter().flatten();
            let median =
                |(name, numbers): (&String, &Value)| Some((name.clone(), (numbers["count"].as_u64()?, numbers["p50"].as_f64()?)));
            medians.insert(series, measures.filter_map(median).collect());
        }
        if medians.is_empty() {
            return Err("it is about no heatmaps".to_owned());
        }
        Ok(Baseline { created: text(&report, "created")?, dataset: text(&report, "dataset")?, medians })
    }

    /// When it was made.
    pub fn created(&self) -> &str {
        &self.created
    }

    /// The dataset that it was of, by its name then.
    pub fn dataset(&self) -> &str {
        &self.dataset
    }

    /// What it was about.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        self.medians.keys()
    }

    /// How many values a measure of a series had, and their median.
    pub fn median(&self, series: &Series, measure: Measure) -> Option<(u64, f64)> {
        self.medians.get(series)?.get(measure.name()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{RANKED_BY, findings, tests::sample},
        *,
    };

    #[test]
    fn the_header_names_all_measures() {
        let names: Vec<&str> = CSV_HEADER.split(',').collect();
        let measures = &names[..names.len() - 6];
        assert!(measures.ends_with(&Measure::ALL.iter().map(|measure| measure.name()).collect::<Vec<_>>()));
        let rows = csv_rows(&sample(7, &["a,b", "c\"d"], &[0.5]));
        assert!(rows.contains("\"a,b;c\"\"d\""), "{rows}");
        assert!(rows.starts_with("000000000000000000000007,,") && rows.ends_with(",0.5,,,,,,0.5,,,,,,,,,,,,,,,,,\n"), "{rows}");
    }

    #[test]
    fn a_cell_is_no_formula() {
        for (text, cell) in [
            ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
            ("+x", "'+x"),
            ("-x", "'-x"),
            ("@SUM(1)", "'@SUM(1)"),
            ("  =1", "'  =1"),
            ("\t=1", "\"'\t=1\""),
            ("\r=1", "\"'\r=1\""),
            ("=1,2", "\"'=1,2\""),
            ("a;=1", "\"a;=1\""),
            ("-1.5", "-1.5"),
            ("+3", "+3"),
            ("a=b", "a=b"),
            ("", ""),
        ] {
            assert_eq!(quoted(text), cell);
        }
    }

    #[test]
    fn a_report_is_the_baseline_of_the_next() {
        let study = |ratio: f64| {
            let mut study = Study::new(1);
            (0..6).for_each(|id| study.observe(&sample(id, &[], &[ratio, 2.0])));
            study
        };
        let before = json(&study(3.0), &[], "street", "Monday").to_string();
        let baseline = Baseline::parse(&before).expect("a report");
        let series = baseline.series().next().expect("a series").clone();
        assert_eq!(baseline.median(&series, RANKED_BY), Some((6, 3.0)));
        let said: Vec<String> = findings(&study(1.5), Some(&baseline)).into_iter().map(|finding| finding.text).collect();
        assert!(said[0].contains("fell from 3.00 to 1.50 since the report of Monday"), "{said:?}");
        assert_eq!(said.iter().filter(|text| text.contains("Monday")).count(), 1, "the other has not changed");
        for bad in ["", "{}", "[1]", r#"{"version": 2, "series": []}"#] {
            assert!(Baseline::parse(bad).is_err(), "{bad}");
        }
    }
}
