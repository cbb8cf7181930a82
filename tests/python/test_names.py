"""What classes, labels and fields are called: any name, written one way by the model and another by the dataset."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
import pytest
from archive_copies import copy_archive


@pytest.fixture
def model(tiny_model, tmp_path):
    """Makes the tiny model with other names of classes."""

    def make(classes: dict[int, str], name: str = "tiny") -> Path:
        def rename(metadata: dict) -> None:
            metadata["name"] = name
            metadata["classes"] = {str(n): text for n, text in ({0: "background"} | classes).items()}

        return copy_archive(tiny_model, tmp_path / f"{name}.pt2", rename)

    return make


@pytest.fixture
def annotate(camflow, tmp_path):
    def run(dataset, model, *flags, code=0, target="labels:boxes"):
        done = camflow(
            *("annotate", "--dataset", dataset.name, "--model", model, "--target", target, "--device", "cpu"),
            *("--format", "json", "--out", tmp_path / "maps", *flags),
            code=code,
        )
        dataset.reload()
        return done

    return run


@pytest.fixture
def boxes(tiny_dataset):
    """Makes a dataset in which every sample has the boxes of these labels."""

    def make(*labels):
        def of(n):
            box = [0.1, 0.1, 0.6, 0.6]
            return fo.Detections(detections=[fo.Detection(label=label, bounding_box=box) for label in labels[n]])

        return tiny_dataset(len(labels), boxes=of)

    return make


def said(done, *events) -> str:
    return "\n".join(event["message"] for event in done.events if event["event"] in (events or ("notice",)))


def counts(done) -> tuple:
    last = next(e for e in done.events if e["event"] in ("run_finished", "dry_run_finished"))
    return last.get("num_committed", last.get("num_stale")), last["skipped"]


def test_labels_may_be_spelt_otherwise(boxes, model, annotate):
    tiny = model({1: "motorbike", 2: "pottedplant", 3: "cat"})
    dataset = boxes(["Motorcycle"], ["potted plant", "motorbike"], ["bike"], ["cat"])
    done = annotate(dataset, tiny, "--class", "motorcycle,potted plant")
    assert counts(done) == (2, {"class not in label": 2})
    for text in (
        "class `motorcycle` is taken as the model's class `motorbike`",
        "label `Motorcycle` is taken as",
        "label `potted plant`",
    ):
        assert text in said(done), said(done)
    assert dataset.values("motorbike_grad_layer_1.target_class") == ["motorbike", "motorbike", None, None]
    # What counts newly is made, and nothing else again.
    mapped = ("--class", "motorbike,pottedplant", "--map", "bike=motorbike")
    assert counts(annotate(dataset, tiny, *mapped)) == (1, {"class not in label": 1, "up to date": 2})
    assert counts(annotate(dataset, tiny, *mapped)) == (0, {"class not in label": 1, "up to date": 3})
    refused = said(annotate(dataset, tiny, "--class", "cat", "--map", "bike=bicycle", code=2), "error")
    assert "`--map bike=bicycle`: there is no class `bicycle` in the model" in refused


def test_a_map_of_a_label_that_nobody_has_is_mentioned(boxes, model, annotate):
    tiny = model({1: "car", 2: "truck"})
    dataset = boxes(["car"], ["lorry"])
    done = annotate(dataset, tiny, "--class", "car", "--map", "lory=truck", "--map", "lorry=truck", "--map", "van=car")
    assert "`--map` names labels that field `boxes`" in said(done) and "does not have: `lory`, `van`" in said(done), said(done)
    assert "`--map`" not in said(annotate(dataset, tiny, "--class", "car", "--map", "lorry=truck"))


def test_a_map_changes_only_the_samples_that_it_is_about(boxes, model, annotate, camflow, tmp_path):
    tiny = model({1: "car", 2: "truck", 3: "cat"})
    dataset = boxes(["car"], ["car", "lorry"], ["cat"])
    assert counts(annotate(dataset, tiny, "--class", "all"))[0] == 3
    file = tmp_path / "job.toml"
    file.write_text(
        f"version = 1\n[[job]]\nname = 'a'\ndataset = '{dataset.name}'\nmodel = '{tiny}'\nclass = ['car', 'cat']\n"
        f"out = 'maps'\ndevice = 'cpu'\ntarget = 'labels:boxes'\nmap = {{ lorry = 'car', 'a=b' = 3 }}\n"
    )
    done = camflow("run", file, "--explain-plan", "--format", "json")
    stale = [(Path(e["media_path"]).stem, e["reasons"]) for e in done.events if e["event"] == "sample_stale"]
    assert stale == [("001", ["new", "label changed"])]


def test_a_class_that_no_label_has_is_an_error(boxes, model, annotate):
    tiny = model({1: "person", 2: "bicycle", 3: "car"})
    dataset = boxes(["person"], ["person", "automobile"], ["Cart"])
    dataset[2:].tag_samples("tonight")
    refused = said(annotate(dataset, tiny, "--class", "person,car", code=2), "error")
    assert "no label in field `boxes` of dataset" in refused and "is of class `car`" in refused
    assert "its labels are `Cart`, `" in refused and "`--map LABEL=CLASS`" in refused, refused
    # That none of tonight's samples has the class is no mistake.
    assert counts(annotate(dataset, tiny, "--class", "person", "--tags", "tonight")) == (0, {"class not in label": 1})
    assert counts(annotate(dataset, tiny, "--class", "person"))[0] == 2
    # A class that labels have lost is no mistake either: its heatmaps are taken away.
    dataset.set_values("boxes", [fo.Detections(detections=[fo.Detection(label="automobile", bounding_box=[0, 0, 1, 1])])] * 3)
    done = annotate(dataset, tiny, "--class", "person")
    assert "any more" in said(done, "warning") and counts(done)[0] == 2
    assert dataset.count("person_grad_layer_1") == 0


def test_a_field_of_which_no_label_is_a_class_is_an_error(tiny_dataset, model, annotate):
    tiny = model({1: "tabby, tabby cat", 2: "polecat, fitch", 3: "skunk, polecat"})
    names = ["dog", "wolf", "Tabby", "polecat"]
    dataset = tiny_dataset(4, what=lambda n: fo.Classification(label=names[n]), other=lambda n: fo.Classification(label="dog"))
    refused = said(annotate(dataset, tiny, target="labels:other", code=2), "error")
    assert "no label in field `other`" in refused and "its labels are `dog`" in refused
    done = annotate(dataset, tiny, target="labels:what", code=1)
    assert counts(done) == (1, {"label is not a class of the model": 2})
    assert "label `Tabby` is taken as the model's class `tabby, tabby cat`" in said(done)
    failed = next(event["error"] for event in done.events if event["event"] == "sample_failed")
    assert "label `polecat` may be any of the classes `polecat, fitch`, `skunk, polecat`" in failed
    assert counts(annotate(dataset, tiny, "--map", "polecat=1", target="labels:what"))[0] == 1
    assert dataset.values("what_grad_layer_1.target_class") == [None, None, *["tabby, tabby cat"] * 2]


def test_names_with_commas_equal_names_and_letters_of_any_script(boxes, model, annotate, camflow, tmp_path):
    tiny = model({0: "tabby, tabby cat", 1: "собака", 2: "crane", 3: "crane"})
    dataset = boxes(["crane", "tabby, tabby cat"], ["собака"])
    refused = said(annotate(dataset, tiny, "--class", "crane", code=2), "error")
    assert "channel 2 `crane`, channel 3 `crane`" in refused and "hint: give the channel's number" in refused
    annotate(dataset, tiny, "--class", "tabby, tabby cat", "--class", "собака")
    assert dataset.count("tabby__tabby_cat_grad_layer_1") == dataset.count("собака_grad_layer_1") == 1
    assert dataset.exists("собака_grad_layer_1").first()["собака_grad_layer_1"].target_class == "собака"
    done = annotate(dataset, tiny, "--class", "all", "--dry-run")
    assert counts(done)[0] == 1
    done = annotate(dataset, tiny, "--class", "all")
    assert dataset.count("crane_2_grad_layer_1") == dataset.count("crane_3_grad_layer_1") == 1
    file = tmp_path / "job.toml"
    file.write_text(
        f"version = 1\n[[job]]\nname = 'a'\ndataset = '{dataset.name}'\nmodel = '{tiny}'\nclass = ['tabby, tabby cat', 3]\n"
        "out = 'maps'\ndevice = 'cpu'\ntarget = 'labels:boxes'\nlayers = ['1']\n"
    )
    done = camflow("run", file, "--format", "json")
    assert counts(done) == (0, {"class not in label": 1, "up to date": 1})


def test_names_that_differ_in_spaces_signs_or_the_form_of_letters(boxes, model, annotate):
    tiny = model({1: "a ", 2: "a", 3: "$a"})
    dataset = boxes(["a "], ["a"], ["$a"])
    done = annotate(dataset, tiny, "--class", "a ", "--class", "a", "--class", "$a")
    assert counts(done) == (3, {}) and "taken" not in said(done)
    fields = ("a__grad_layer_1", "a_2_grad_layer_1", "a_3_grad_layer_1")
    found = [[label and label.target_class for label in dataset.values(field)] for field in fields]
    assert found == [["a ", None, None], [None, "a", None], [None, None, "$a"]]
    # Names of folders from macOS have their accents apart.
    tiny, dataset = model({1: "café", 2: "cafe"}), boxes(["cafe\u0301"], ["cafe"])
    done = annotate(dataset, tiny, "--class", "café")
    assert counts(done) == (1, {"class not in label": 1}) and "is taken as the model's class `café`" in said(done)
    tiny, dataset = model({1: "2", 2: "1"}), boxes(["2"], ["1"])
    done = annotate(dataset, tiny, "--class", "2")
    assert "class `2` is taken as the name of channel 1, not as the number of channel 2 `1`" in said(done)
    assert dataset.values("2_grad_layer_1.target_class") == ["2", None]


def test_fields_are_refused_where_fiftyone_refuses_them(boxes, model, annotate):
    tiny, dataset = model({1: "car"}), boxes(["car"])

    def fiftyone_takes(name: str) -> bool:
        trial = fo.Dataset()
        try:
            trial.add_sample(fo.Sample("/x.png"))
            trial.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
            sample = trial.first()
            sample[name] = fo.Heatmap(map_path="/x.png")
            sample.save()
            sample["other"] = len(sample.to_dict())
            sample.save()
            return sample.field_names[0] == "id" and trial.clone().first()[name].map_path == "/x.png"
        except (AttributeError, KeyError, TypeError, ValueError):
            return False

    taken, refused = ["15_cam", "собака", "Größe", "class"], ["to_dict", "clean", "field_names", "metadata", "_x"]
    assert [name for name in (*taken, *refused) if fiftyone_takes(name)] == taken
    for name in refused:
        done = annotate(dataset, tiny, "--class", "car", "--field", name, code=2)
        assert "FiftyOne" in done.stderr, (name, done.stderr)
    for name in taken:
        annotate(dataset, tiny, "--class", "car", "--field", name)
        assert dataset.clone().first()[name].target_class == "car"
        dataset.delete_sample_field(name)


def test_layers_that_are_not_there_are_told_with_the_nearest(boxes, model, annotate):
    tiny, dataset = model({1: "car"}), boxes(["car"])
    refused = said(annotate(dataset, tiny, "--class", "car", "--layers", "9", code=2), "error")
    assert "hint: the only numbered layer is 1" in refused, refused


def test_a_label_is_mapped_to_one_class(boxes, model, annotate):
    tiny, dataset = model({1: "car", 2: "truck"}), boxes(["lorry"], ["car"])
    refused = said(annotate(dataset, tiny, "--class", "car", "--map", "lorry=truck", "--map", "lorry=car", code=2), "error")
    assert "`map` takes label `lorry` for `truck` and for `car`" in refused
    assert counts(annotate(dataset, tiny, "--class", "car", "--map", "lorry=car", "--map", "lorry=car"))[0] == 2


def test_ranges_of_layers_that_are_none_are_called_so(boxes, model, annotate):
    tiny, dataset = model({1: "car"}), boxes(["car"])
    for wrong in ("2-1", "1-100000000"):
        refused = said(annotate(dataset, tiny, "--class", "car", "--layers", wrong, code=2), "error")
        assert f"`{wrong}` is no range of its layers\nhint: the only numbered layer is 1" in refused
    refused = said(annotate(dataset, tiny, "--class", "car", "--layers", "1-900", code=2), "error")
    assert refused.count("it has no layer") == 4 and "  895 more are missing\n" in refused


def test_characters_of_no_width_make_no_other_name(boxes, model, annotate):
    tiny, dataset = model({1: "hot dog", 2: "cat"}), boxes(["hot\u200b dog"], ["\ufeffhot dog"], ["hot\u00addog\r"], ["cat"])
    done = annotate(dataset, tiny, "--class", "hot dog")
    assert counts(done) == (3, {"class not in label": 1}) and said(done).count("is taken as the model's class `hot dog`") == 3
