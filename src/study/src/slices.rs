//! Slices of a dataset, each a class in a context: which of them a model decides by the context. A context is what a label says that
//! heatmaps lie on, where a run measured that; else a group of heatmaps that lie on what looks alike.

use std::collections::{BTreeMap, btree_map::Entry};

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde_json::{Value, json};

use super::{
    Example, Study,
    attended::{WEIGHTS, attended},
    attention::{is_own, ln_factorial},
    clusters::{clusters, distance},
    findings::ENOUGH,
    shortcuts::{Parts, Shortcuts},
};
use camflow_measure::{MeasuredHeatmap, MeasuredSample};

/// Heatmaps of a model that are looked at: of more, a random part that is the same each time.
const NUM_SAMPLED: usize = 1000;
/// Models whose heatmaps are looked at, the first that are met.
const MAX_MODELS: usize = 8;
/// Samples that name a context or show a slice.
const NUM_EXAMPLES: usize = 3;
/// Heatmaps that a group has in the mean at least.
const LEAST: usize = 20;

/// Some heatmaps of a model, one for each sample and class, drawn by a hash of both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sampled {
    num_seen: u64,
    kept: BTreeMap<u64, Member>,
}

#[derive(Clone, Debug)]
struct Member {
    class: String,
    parts: Parts,
    /// The field that attention was measured on, and the class that most of it lies on beside the explained one; `None` is what has none.
    on: Option<(String, Option<String>)>,
    example: Example,
}

/// The slices of one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slices {
    /// Heatmaps that there are, one for each sample and class.
    pub num_heatmaps: u64,
    /// Those that were looked at.
    pub num_sampled: u64,
    /// Those of them whose image or heatmap could not be read.
    pub num_unreadable: u64,
    /// The label field that says what heatmaps lie on; `None` where contexts are groups of what looks alike.
    pub on: Option<String>,
    /// The contexts, the most frequent first.
    pub contexts: Vec<Context>,
    /// The slices, those first that are most likely decided by their context.
    pub slices: Vec<Slice>,
}

/// What heatmaps lie on.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// The labelled class, or `context 1` and so on.
    pub name: String,
    /// How many heatmaps.
    pub num_heatmaps: u64,
    /// The samples that name it: those whose heatmaps lie most beside their objects, or are most alike where no object is known.
    pub examples: Vec<Example>,
}

/// A class in a context.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The class.
    pub class: String,
    /// The place of its context.
    pub context: usize,
    /// How many heatmaps.
    pub num_heatmaps: u64,
    /// How many of them are known to be right or wrong, and how many are wrong.
    pub num_judged: u64,
    /// Those that are wrong.
    pub num_wrong: u64,
    /// The same of the class in all other contexts.
    pub num_judged_elsewhere: u64,
    /// Likewise.
    pub num_wrong_elsewhere: u64,
    /// The mean of the shortcut scores, over those that have one.
    pub mean_score: Option<f64>,
    /// Its rank: the mean score, of few samples drawn to that of all, where there are scores; else the same of errors.
    pub rank: f64,
    /// The samples with the highest scores.
    pub examples: Vec<Example>,
}

impl Slice {
    /// How probable so many or more errors here are if they were spread by chance over the class: Fisher's exact test, one-sided.
    pub fn p_value(&self) -> f64 {
        let (here, all) = (self.num_judged, self.num_judged + self.num_judged_elsewhere);
        let wrong = self.num_wrong + self.num_wrong_elsewhere;
        let choose = |n: u64, k: u64| ln_factorial(n as f64) - ln_factorial(k as f64) - ln_factorial((n - k) as f64);
        let most = here.min(wrong);
        // `here - found` that are right must be among the right ones.
        let possible = (self.num_wrong..=most).filter(|found| here - found <= all - wrong);
        possible
            .map(|found| (choose(wrong, found) + choose(all - wrong, here - found) - choose(all, here)).exp())
            .sum::<f64>()
            .min(1.0)
    }
}

impl Sampled {
    /// Adds one of [`super::shortcuts::deciding`].
    pub(crate) fn observe(all: &mut BTreeMap<String, Sampled>, sample: &MeasuredSample, heatmap: &MeasuredHeatmap) {
        let model = &heatmap.series.model;
        if all.len() >= MAX_MODELS && !all.contains_key(model) {
            return;
        }
        all.entry(model.clone()).or_default().add(sample, heatmap);
    }

    fn add(&mut self, sample: &MeasuredSample, heatmap: &MeasuredHeatmap) {
        self.num_seen += 1;
        let place = hash(&[&sample.id, &heatmap.series.class]);
        if self.kept.len() >= NUM_SAMPLED {
            match self.kept.last_key_value() {
                Some((last, _)) if *last > place => {}
                _ => return,
            }
        }
        let lying = heatmap.attention.iter().filter(|one| !is_own(one.label.as_deref(), &heatmap.series));
        let most = lying.filter_map(|one| Some((one.share?, &one.label))).max_by(|a, b| a.0.total_cmp(&b.0));
        let on = heatmap.attention_on.clone().zip(most.map(|(_, label)| label.clone()));
        if let Entry::Vacant(free) = self.kept.entry(place) {
            free.insert(Member {
                class: heatmap.series.class.clone(),
                parts: Parts::of(heatmap),
                on,
                example: Example::of(sample, Some(heatmap)),
            });
        }
        if self.kept.len() > NUM_SAMPLED {
            self.kept.pop_last();
        }
    }

    fn slices(&self, shortcuts: Option<&Shortcuts>) -> Slices {
        let mut members: Vec<&Member> = self.kept.values().collect();
        // In the order of the dataset, not of hashes.
        members.sort_by(|a, b| (&a.example.sample, &a.class).cmp(&(&b.example.sample, &b.class)));
        let mut found = Slices { num_heatmaps: self.num_seen, num_sampled: members.len() as u64, ..Slices::default() };
        let labelled = members.iter().filter(|member| member.on.is_some()).count();
        let (members, of, closeness, names) =
            if 2 * labelled > members.len() { by_label(members, &mut found) } else { by_looks(members, &mut found) };
        let score = |member: &Member| {
            shortcuts.filter(|_| member.parts.can_be_ranked()).map(|all| all.score(&member.parts, &member.class))
        };
        let order = most_frequent(&of, names.len());
        for (place, context) in order.iter().enumerate() {
            let mut inside: Vec<usize> = (0..members.len()).filter(|member| of[*member] == *context).collect();
            // What lies most beside objects shows a context best.
            inside.sort_by(|a, b| {
                let beside = |member: usize| members[member].parts.off_object.unwrap_or(0.0);
                beside(*b).total_cmp(&beside(*a)).then(closeness[*a].total_cmp(&closeness[*b]))
            });
            found.contexts.push(Context {
                name: names[*context].clone().unwrap_or_else(|| format!("context {}", place + 1)),
                num_heatmaps: inside.len() as u64,
                examples: inside.iter().take(NUM_EXAMPLES).map(|member| members[*member].example.clone()).collect(),
            });
        }
        found.slices = ranked(&members, &of, &order, &score);
        found
    }
}

/// Of some members the context of each, how near each is to the middle of it (0 is nearest), and the names of contexts that have one.
type Contexts<'a> = (Vec<&'a Member>, Vec<usize>, Vec<f64>, Vec<Option<String>>);

fn by_label<'a>(members: Vec<&'a Member>, found: &mut Slices) -> Contexts<'a> {
    let members: Vec<&Member> = members.into_iter().filter(|member| member.on.is_some()).collect();
    found.on = members.iter().find_map(|member| member.on.as_ref().map(|(field, _)| field.clone()));
    let mut places: BTreeMap<&Option<String>, usize> = BTreeMap::new();
    let mut names = Vec::new();
    let mut of = Vec::new();
    for (_, label) in members.iter().filter_map(|member| member.on.as_ref()) {
        let next = places.len();
        of.push(*places.entry(label).or_insert_with(|| {
            names.push(Some(label.clone().unwrap_or_else(|| "what has no class".to_owned())));
            next
        }));
    }
    let closeness = vec![0.0; members.len()];
    (members, of, closeness, names)
}

fn by_looks<'a>(members: Vec<&'a Member>, found: &mut Slices) -> Contexts<'a> {
    let described: Vec<_> = members
        .into_par_iter()
        .map(|member| {
            let heatmap = member.example.heatmap.as_ref()?;
            Some((member, attended(&member.example.media_path, heatmap).ok()??))
        })
        .collect();
    found.num_unreadable = described.iter().filter(|one| one.is_none()).count() as u64;
    let (members, vectors): (Vec<&Member>, Vec<Vec<f64>>) = described.into_iter().flatten().unzip();
    let (vectors, groups) = clusters(&vectors, &WEIGHTS, LEAST);
    let closeness = vectors.iter().zip(&groups.of).map(|(vector, group)| distance(vector, &groups.centres[*group])).collect();
    let num = if members.is_empty() { 0 } else { groups.centres.len() };
    (members, groups.of, closeness, vec![None; num])
}

/// The contexts, the most frequent first.
fn most_frequent(of: &[usize], num: usize) -> Vec<usize> {
    let mut counts = vec![0; num];
    of.iter().for_each(|context| counts[*context] += 1);
    let mut order: Vec<usize> = (0..num).filter(|context| counts[*context] > 0).collect();
    order.sort_by_key(|context| std::cmp::Reverse(counts[*context]));
    order
}

fn ranked(members: &[&Member], of: &[usize], order: &[usize], score: &dyn Fn(&Member) -> Option<f64>) -> Vec<Slice> {
    #[derive(Default)]
    struct Tally<'a> {
        count: u64,
        judged: u64,
        wrong: u64,
        scores: Vec<(f64, &'a Member)>,
    }
    let mut slices: BTreeMap<(&str, usize), Tally<'_>> = BTreeMap::new();
    let mut classes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (member, context) in members.iter().zip(of) {
        let place = order.iter().position(|other| other == context).unwrap_or_default();
        let tally = slices.entry((&member.class, place)).or_default();
        tally.count += 1;
        if let Some(is_wrong) = member.parts.is_wrong {
            let class = classes.entry(&member.class).or_default();
            *class = (class.0 + 1, class.1 + u64::from(is_wrong));
            tally.judged += 1;
            tally.wrong += u64::from(is_wrong);
        }
        if let Some(score) = score(member) {
            tally.scores.push((score, member));
        }
    }
    let share = |sum: f64, count: u64| if count > 0 { sum / count as f64 } else { 0.0 };
    let sums = slices.values().fold((0.0, 0), |(sum, count), tally| {
        (sum + tally.scores.iter().map(|(score, _)| score).sum::<f64>(), count + tally.scores.len() as u64)
    });
    let has_scores = sums.1 > 0;
    let wrong = classes.values().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    let usual = if has_scores { share(sums.0, sums.1) } else { share(wrong.1 as f64, wrong.0) };
    let mut found: Vec<Slice> = slices
        .into_iter()
        .map(|((class, context), mut tally)| {
            tally.scores.sort_by(|a, b| b.0.total_cmp(&a.0));
            let sum: f64 = tally.scores.iter().map(|(score, _)| score).sum();
            let (sum_ranked, num_ranked) =
                if has_scores { (sum, tally.scores.len() as u64) } else { (tally.wrong as f64, tally.judged) };
            let (judged, wrong) = classes.get(class).copied().unwrap_or_default();
            Slice {
                class: class.to_owned(),
                context,
                num_heatmaps: tally.count,
                num_judged: tally.judged,
                num_wrong: tally.wrong,
                num_judged_elsewhere: judged - tally.judged,
                num_wrong_elsewhere: wrong - tally.wrong,
                mean_score: (!tally.scores.is_empty()).then(|| sum / tally.scores.len() as f64),
                rank: (sum_ranked + ENOUGH as f64 * usual) / (num_ranked + ENOUGH) as f64,
                examples: tally.scores.iter().take(NUM_EXAMPLES).map(|(_, member)| member.example.clone()).collect(),
            }
        })
        .collect();
    found.sort_by(|a, b| b.rank.total_cmp(&a.rank));
    found
}

impl Study {
    /// Looks at what heatmaps lie on, and ranks the slices of each model; reads images and heatmaps.
    pub fn find_slices(&mut self) {
        let of_model = |(model, sampled): (&String, &Sampled)| (model.clone(), sampled.slices(self.shortcuts.get(model)));
        self.slices = self.sampled.iter().map(of_model).collect();
    }
}

impl Slices {
    /// All of it for machines.
    pub(crate) fn json(&self, model: &str) -> Value {
        let samples = |examples: &[Example]| examples.iter().map(|example| example.sample.clone()).collect::<Vec<_>>();
        let context =
            |one: &Context| json!({"name": one.name, "num_heatmaps": one.num_heatmaps, "samples": samples(&one.examples)});
        let slice = |one: &Slice| {
            json!({
                "class": one.class, "context": self.contexts[one.context].name, "num_heatmaps": one.num_heatmaps,
                "num_judged": one.num_judged, "num_wrong": one.num_wrong, "num_judged_elsewhere": one.num_judged_elsewhere,
                "num_wrong_elsewhere": one.num_wrong_elsewhere, "p_value": one.p_value(), "mean_shortcut_score": one.mean_score,
                "rank": one.rank, "samples": samples(&one.examples),
            })
        };
        json!({
            "model": model, "num_heatmaps": self.num_heatmaps, "num_sampled": self.num_sampled,
            "num_unreadable": self.num_unreadable, "on": self.on,
            "contexts": self.contexts.iter().map(context).collect::<Vec<_>>(),
            "slices": self.slices.iter().map(slice).collect::<Vec<_>>(),
        })
    }
}

/// FNV-1a, and its bits mixed: the same in each version, as the samples that are drawn should be.
fn hash(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0xff]));
    let mixed = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Study, findings, json, shortcuts::tests::asked};
    use camflow_measure::Attention;
    use camflow_media::{RgbImage, encode_jpeg};

    /// So many people, of which those on `sand` are taken for dogs; no file is there.
    fn labelled(on_sand: u32, on_grass: u32) -> Study {
        let mut study = Study::new(3);
        for id in 0..on_sand + on_grass {
            let (ground, predicted) = if id < on_sand { ("sand", "dog") } else { ("grass", "person") };
            let mut sample = asked(id, predicted, 0.9, if id < on_sand { 0.1 } else { 0.9 }, 0.5);
            let lies = |label: &str, share| Attention { label: Some(label.into()), share: Some(share), area: 0.3 };
            sample.heatmaps[0].attention_on = Some("scene".into());
            sample.heatmaps[0].attention = vec![lies("person", 0.6), lies(ground, 0.3), lies("sky", 0.1)];
            study.observe(&sample);
        }
        study.find_slices();
        study
    }

    #[test]
    fn labels_say_the_context_where_they_can() {
        let study = labelled(8, 12);
        let found = &study.slices["net"];
        assert_eq!((found.on.as_deref(), found.num_sampled, found.num_unreadable), (Some("scene"), 20, 0));
        assert_eq!(
            found.contexts.iter().map(|one| (&*one.name, one.num_heatmaps)).collect::<Vec<_>>(),
            [("grass", 12), ("sand", 8)]
        );
        let first = &found.slices[0];
        assert_eq!((&*first.class, first.context, first.num_wrong, first.num_judged), ("person", 1, 8, 8));
        assert_eq!((first.num_wrong_elsewhere, first.num_judged_elsewhere), (0, 12));
        // All 8 mistakes among the 8 of 20: 1 in 125970.
        assert!((first.p_value() - 1.0 / 125_970.0).abs() < 1e-12, "{}", first.p_value());
        let said: Vec<_> = findings(&study, None).into_iter().filter(|finding| finding.kind == "slice").collect();
        let expected = "`person` where heatmaps lie on `sand` (field `scene`): wrong in 8 of 8 samples, in the class's other contexts in 0 of 12.";
        assert_eq!((said.len(), &*said[0].text, said[0].examples.len()), (1, expected, 3));
        assert!(findings(&labelled(2, 40), None).iter().all(|finding| finding.kind != "slice"), "two say nothing");
    }

    #[test]
    fn what_looks_alike_is_a_context_where_no_label_says_it() {
        let folder = std::env::temp_dir().join(format!("camflow-slices-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let write = |name: String, of: &dyn Fn(usize, usize) -> [u8; 3]| {
            let pixels = (0..32 * 32).flat_map(|place| of(place / 32, place % 32)).collect();
            let path = folder.join(name);
            std::fs::write(&path, encode_jpeg(&RgbImage::new(32, 32, pixels), 90.0).expect("a picture")).expect("written");
            path
        };
        // The left half is red or green, the right half, where no heatmap lies, is anything.
        let map = write("map.jpg".into(), &|_, column| [if column < 8 { 255 } else { 0 }; 3]);
        let mut study = Study::new(3);
        for id in 0..40u32 {
            let is_red = id % 4 == 0;
            let left = if is_red { [200, 40, 40] } else { [40, 200, 40] };
            let light = (7 * id % 50) as u8;
            let path = write(format!("{id}.jpg"), &|_, column| if column < 16 { left } else { [light * 5; 3] });
            let mut sample = asked(id, if is_red { "dog" } else { "person" }, 0.9, if is_red { 0.0 } else { 0.8 }, 0.5);
            sample.media_path = path;
            sample.heatmaps[0].map_path = Some(map.clone());
            study.observe(&sample);
        }
        let mut lost = asked(99, "dog", 0.9, 0.0, 0.5);
        lost.media_path = folder.join("lost.jpg");
        lost.heatmaps[0].map_path = Some(map);
        study.observe(&lost);
        study.find_slices();
        let found = &study.slices["net"];
        assert_eq!((found.num_sampled, found.num_unreadable, found.on.as_deref()), (41, 1, None));
        assert_eq!(
            found.contexts.iter().map(|one| (&*one.name, one.num_heatmaps)).collect::<Vec<_>>(),
            [("context 1", 30), ("context 2", 10)]
        );
        assert_eq!((found.slices[0].num_wrong, found.slices[0].num_judged, found.slices[0].num_wrong_elsewhere), (10, 10, 0));
        let said = findings(&study, None);
        let slice = said.iter().find(|finding| finding.kind == "slice").expect("said");
        assert!(
            slice.text.starts_with(
                "`person` in context 2, where heatmaps lie on what looks as in `0.jpg`, `4.jpg`, `8.jpg`: wrong in 10 of 10"
            ),
            "{}",
            slice.text
        );
        let mut again = study.clone();
        again.find_slices();
        assert_eq!(again.slices, study.slices);
        let told = json(&study, &said, "street", "Monday");
        assert_eq!(
            (&told["slices"][0]["slices"][0]["context"], &told["slices"][0]["num_unreadable"]),
            (&json!("context 2"), &json!(1))
        );
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn of_many_heatmaps_a_part_is_drawn_that_does_not_depend_on_the_order() {
        let many: Vec<MeasuredSample> = (0..3 * NUM_SAMPLED as u32).map(|id| asked(id, "person", 0.9, 0.5, 1.0)).collect();
        let drawn = |samples: &mut dyn Iterator<Item = &MeasuredSample>| {
            let mut all = BTreeMap::new();
            samples.for_each(|sample| Sampled::observe(&mut all, sample, &sample.heatmaps[0]));
            let of_model = all.remove("net").expect("a model");
            (of_model.num_seen, of_model.kept.into_values().map(|member| member.example.sample).collect::<Vec<_>>())
        };
        let (num_seen, forwards) = drawn(&mut many.iter());
        assert_eq!((num_seen, forwards.len()), (3 * NUM_SAMPLED as u64, NUM_SAMPLED));
        assert_eq!(forwards, drawn(&mut many.iter().rev()).1);
        let low = forwards.iter().filter(|id| u64::from_str_radix(id, 16).expect("a number") < NUM_SAMPLED as u64).count();
        assert!((250..420).contains(&low), "a third of each third: {low}");
    }
}
