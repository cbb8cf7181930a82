"""Saved views: what camflow reads is what FiftyOne shows, stage by stage, or the view is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F

ROOT = Path(__file__).resolve().parents[2]
FIELD = "light_grad_layer_1"


@pytest.fixture(scope="session")
def saved_view():
    """The script that camflow runs to resolve a view."""
    spec = importlib.util.spec_from_file_location("saved_view", ROOT / "src/fiftyone/src/saved_view.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def annotate(camflow, tiny_model, tmp_path):
    def run(dataset, *flags, code=0, classes="light", target="labels:boxes"):
        return camflow(
            *("annotate", "--dataset", dataset.name, "--class", classes, "--model", tiny_model, "--target", target),
            *("--out", tmp_path / "maps" / dataset.name, "--device", "cpu", "--format", "json", *flags),
            code=code,
        )

    return run


def boxes(n):
    """Two boxes, of which one is sure, one of a class that the model does not have."""
    box = [
        fo.Detection(label="light", bounding_box=[0, 0, 0.5, 0.5], confidence=0.9, tags=["first"]),
        fo.Detection(label="light", bounding_box=[0.25 * (n % 3), 0.5, 0.5, 0.5], confidence=0.4),
        fo.Detection(label="lamp", bounding_box=[0.5, 0, 0.5, 1], confidence=0.7, mask=np.eye(4, dtype=bool)),
    ]
    return fo.Detections(detections=box)


@pytest.fixture
def dataset(tiny_dataset):
    return tiny_dataset(6, boxes=boxes, scene=lambda n: "ab"[n % 2], other=boxes)


def error(done) -> str:
    return next(event["message"] for event in done.events if event["event"] == "error")


def notices(done) -> str:
    return "\n".join(event["message"] for event in done.events if event["event"] == "notice")


def heatmaps(dataset) -> dict:
    """Score and fingerprint by sample."""
    dataset.reload()
    paths, found = dataset.values(["filepath", FIELD])
    pairs = zip(paths, found, strict=True)
    return {path: (label.score, label.fingerprint) for path, label in pairs if label is not None}


def shown(view, field: str) -> dict:
    """What FiftyOne shows in a field."""
    return {doc["_id"]: doc.get(field) for doc in view._aggregate()}


def changed(saved_view, view, field: str | None) -> dict | None:
    """What camflow takes for it; `None` where it takes what is stored."""
    answer, view = saved_view.resolve(view, [field] if field else [])
    if "stages" not in answer:
        return None
    samples = view._dataset._sample_collection
    found = (list(samples.aggregate([{"$match": {"_id": _id}}, *answer["stages"]])) for _id in view.values("_id"))
    return {docs[0]["_id"]: docs[0].get(field) for docs in found if docs}


CHANGING = {
    "filter_labels": lambda d: d.filter_labels("boxes", F("confidence") > 0.5),
    "filter_labels keeps": lambda d: d.filter_labels("boxes", F("label") == "none", only_matches=False),
    "filter_field": lambda d: d.filter_field("boxes.detections.confidence", F() > 0.5, only_matches=False),
    "limit_labels": lambda d: d.limit_labels("boxes", 1),
    "map_labels": lambda d: d.map_labels("boxes", {"lamp": "light"}),
    "map_values": lambda d: d.map_values("boxes.detections.label", {"lamp": "light"}),
    "set_field": lambda d: d.set_field("boxes.detections", F("detections")[1:]),
    "set_field below": lambda d: d.set_field("boxes.detections.bounding_box", [0, 0, 1, 1]),
    "mongo leaves out": lambda d: d.mongo([{"$unset": "boxes.detections.mask"}]),
    "select_labels": lambda d: d.select_labels(tags="first"),
    "select_labels of a field": lambda d: d.select_labels(tags="first", fields="boxes"),
    "exclude_labels": lambda d: d.exclude_labels(tags="first"),
    "ids": lambda d: d.exclude_labels(ids=[box.id for box in d.first().boxes.detections[:1]]),
    "mongo": lambda d: d.mongo([{"$set": {"boxes.detections": {"$slice": ["$boxes.detections", 1]}}}, {"$limit": 2}]),
    "two": lambda d: d.filter_labels("boxes", F("confidence") > 0.5).limit_labels("boxes", 1),
    "by another": lambda d: d.limit_labels("other", 1).set_field("boxes", F("other")),
    "order and part": lambda d: d.sort_by("n", reverse=True).skip(1).limit_labels("boxes", 1).limit(3),
    "then chosen": lambda d: d.limit_labels("boxes", 1).match(F("n") > 1).take(3, seed=1),
    "match after": lambda d: d.set_field("boxes.detections", F("detections")[2:]).match_labels(filter=F("label") == "lamp"),
    "flattened": lambda d: d.limit_labels("boxes", 2).group_by("scene").flatten(),
    "flattened in part": lambda d: d.group_by("scene").flatten([fo.MapLabels("boxes", {"lamp": "light"}), fo.Limit(2)]),
    "grouped flat": lambda d: d.group_by("scene", flat=True).limit_labels("boxes", 1),
    "concat of equals": lambda d: d[:2].concat(d[3:]).limit_labels("boxes", 1),
    "path": lambda d: d.set_field("filepath", F("filepath").concat("x")),
}

CHOOSING = {
    "match": lambda d: d.match(F("n") > 2).sort_by("n", reverse=True),
    "match_labels": lambda d: d.match_labels(filter=F("confidence") > 0.5, fields="boxes"),
    "match_tags": lambda d: d.match_tags("none", bool=False),
    "exists": lambda d: d.exists("boxes"),
    "another field": lambda d: d.filter_labels("other", F("confidence") > 0.5).set_field("n", F("n") + 1),
    "select_fields": lambda d: d.select_fields("boxes"),
    "exclude_fields": lambda d: d.exclude_fields("other"),
    "sort of mongo's": lambda d: d.mongo([{"$addFields": {"_s": "$n"}}, {"$sort": {"_s": -1}}, {"$project": {"_s": False}}]),
    "concat": lambda d: d[:2].concat(d[3:]),
    "grouped flat": lambda d: d.group_by("scene", flat=True),
    "flattened": lambda d: d.group_by("scene").limit_labels("boxes", 1).flatten(),
}

REFUSED = {
    "Concat": lambda d: d[:2].limit_labels("boxes", 1).concat(d[3:]),
    "SelectFields": lambda d: d.select_fields("other"),
    "ExcludeFields": lambda d: d.exclude_fields("boxes"),
    "Mongo": lambda d: d.mongo([{"$unwind": "$boxes.detections"}]),
    "FilterLabels": lambda d: d.filter_labels("boxes", F.rand() > 0.5),
    "LimitLabels": lambda d: d.group_by("scene").limit_labels("boxes", 1),
}


def test_each_stage_shows_what_fiftyone_shows(dataset, saved_view):
    for name, make in CHANGING.items():
        view = make(dataset)
        field = "filepath" if name == "path" else "boxes"
        expected, stored = shown(view, field), shown(dataset, field)
        assert any(label != stored[_id] for _id, label in expected.items()), name
        assert changed(saved_view, view, "boxes" if name != "path" else None) == expected or name == "path", name
        if name == "path":
            answer, _ = saved_view.resolve(view, [])
            assert answer["changing"] == ["SetField"]
    for name, make in CHOOSING.items():
        view, stored = make(dataset), shown(dataset, "boxes")
        assert all(label == stored[_id] for _id, label in shown(view, "boxes").items()), name
        assert changed(saved_view, view, "boxes") is None, name
    for name, make in REFUSED.items():
        with pytest.raises(saved_view.Refused) as refused:
            saved_view.resolve(make(dataset), ["boxes"])
        assert refused.value.args[0] == name
    # Where no label is read, none can be wrong.
    assert "stages" not in saved_view.resolve(dataset.limit_labels("boxes", 1), [])[0]
    assert "stages" not in saved_view.resolve(REFUSED["Mongo"](dataset), [])[0]


def test_the_labels_that_a_view_shows_are_the_labels_that_count(dataset, annotate, clone):
    annotate(dataset)
    stored = heatmaps(dataset)
    assert len(stored) == 6
    view = dataset.map_labels("boxes", {"light": "none", "lamp": "light"}).filter_labels("boxes", F("label") == "light")
    view = view.sort_by("n", reverse=True).skip(1).limit(4)
    # FiftyOne's own copy of the view is what is right.
    copy = clone(view)
    annotate(copy)
    expected = heatmaps(copy)
    assert len(expected) == 4 and not {*expected.values()} & {*stored.values()}
    done = annotate(dataset, "--view", _save(dataset, "lamps", view))
    assert "`boxes` are taken as the saved view `lamps` shows them" in notices(done)
    assert "`MapLabels`, `FilterLabels`" in notices(done)
    found = heatmaps(dataset)
    assert {path: found[path] for path in expected} == expected
    assert {path: pair for path, pair in found.items() if path not in expected} == {
        path: pair for path, pair in stored.items() if path not in expected
    }
    # Nothing is new on the second night, also in part and in another order.
    again = annotate(dataset, "--view", "lamps", "--shuffle", "--limit", "3", "--explain-plan")
    assert not [event for event in again.events if event["event"] == "sample_stale"]


def test_classes_of_a_view_are_those_that_it_shows(dataset, annotate):
    view = dataset.map_labels("boxes", {"light": "none", "lamp": "middle"})
    done = annotate(dataset, "--view", _save(dataset, "mapped", view), classes="all")
    dataset.reload()
    assert dataset.has_sample_field("middle_grad_layer_1") and not dataset.has_sample_field(FIELD)
    assert "not classes of the model: `none`" in notices(done)


def test_views_that_cannot_be_honoured_say_why(dataset, annotate):
    name = _save(dataset, "parts", REFUSED["Concat"](dataset))
    refused = error(annotate(dataset, "--view", name, code=2))
    assert "the stage `Concat` of the saved view `parts` puts" in refused and "hint: save each part" in refused, refused


def test_a_view_of_dynamic_groups_has_all_their_samples(dataset, annotate):
    name = _save(dataset, "scenes", dataset.limit_labels("boxes", 1).group_by("scene", order_by="n", reverse=True))
    done = annotate(dataset, "--view", name, "--explain-plan")
    assert "all samples of its 2 groups are taken" in notices(done)
    numbers = [int(Path(event["media_path"]).stem) for event in done.events if event["event"] == "sample_stale"]
    assert numbers == dataset.load_saved_view(name).flatten().values("n") and len(numbers) == 6


def test_views_of_slices(dataset, saved_view):
    grouped = fo.Dataset(f"{dataset.name}-groups", persistent=True)
    try:
        grouped.add_group_field("group", default="left")
        groups = [fo.Group() for _ in range(3)]
        for n, sample in enumerate(dataset):
            group = groups[n // 2]
            copy = fo.Sample(sample.filepath, boxes=sample.boxes, n=n, scene="a")
            copy["group"] = group.element(("left", "right")[n % 2])
            grouped.add_sample(copy)
        # What FiftyOne shows of all slices.
        for view in (
            grouped.select_group_slices(media_type="image").limit_labels("boxes", 1),
            grouped.select_group_slices("right").limit_labels("boxes", 1),
            grouped.exclude_fields("scene").select_group_slices(["left", "right"]).limit_labels("boxes", 1),
        ):
            assert changed(saved_view, view, "boxes") == shown(view, "boxes")
        view = grouped.match(F("n") > 1).limit_labels("boxes", 1).select_group_slices(["left", "right"])
        assert changed(saved_view, view, "boxes") is None
        assert len(shown(view, "boxes")) == 4 and len(shown(view, "boxes").popitem()[1]["detections"]) == 3
        # Of the groups themselves it changes one slice.
        with pytest.raises(saved_view.Refused, match="LimitLabels"):
            saved_view.resolve(grouped.limit_labels("boxes", 1), ["boxes"])
        answer, view = saved_view.resolve(grouped.group_by("scene"), ["boxes"])
        assert len(view) == 6 and "stages" not in answer
    finally:
        grouped.delete()


def _save(dataset, name: str, view) -> str:
    dataset.save_view(name, view)
    return name
