"""Detectors of torchvision: what they give, and heatmaps, beside the library's own results."""

from __future__ import annotations

from pathlib import Path

import detector_reference
import detectors
import numpy as np
import pytest
import torchvision.models.detection as library
from camflow.export import ExportError, load_model
from camflow.export.loaders import pyramid, regions
from camflow.export.loaders import torchvision_detectors as loader
from camflow.export.weights import warm_batchnorm
from PIL import Image
from pytorch_grad_cam import GradCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget

import torch

# What the models are made by.
CODE = (Path(__file__),)
SIZE = (128, 160)
CLASSES = ["background", "cat", "dog", "horse"]
ONE_STAGE = [
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
]
TWO_STAGES = [
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
]
FEW = {"rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 100}


def made(name: str, num_classes: int = len(CLASSES), side: int = SIZE[0], **options) -> torch.nn.Module:
    """A detector with random weights, whose scores differ from place to place and class to class."""
    torch.manual_seed(0)
    sizes = {} if name.startswith("ssd") else {"min_size": side, "max_size": 2 * side}
    module = getattr(library, name)(weights=None, weights_backbone=None, num_classes=num_classes, **sizes, **options).eval()
    with torch.no_grad():
        for path, parameter in module.named_parameters():
            if path.startswith(("head.", "rpn.", "roi_heads.")) and ".conv." not in path and parameter.ndim > 1:
                parameter.mul_(3)
    warm_batchnorm(module.backbone, 1, size_of(module))
    if "rcnn" in name:
        with torch.no_grad():
            for parameter in module.backbone.fpn.parameters():
                parameter.mul_(0.2)  # or all probabilities would be 0 or 1
    return module


def size_of(module) -> tuple[int, int]:
    """Height and width of an image that the module leaves as it is."""
    size = module.transform.fixed_size
    return size[::-1] if size else SIZE


def picture(size: tuple[int, int]) -> torch.Tensor:
    """[3, H, W] in [0, 1]."""
    image = detectors.colours(max(size)).crop((0, 0, size[1], size[0]))
    return detector_reference.samples(image)[0]


def normalised(module, image: torch.Tensor) -> torch.Tensor:
    """What its network is given for an image that it leaves as it is, [1, 3, H, W]."""
    images, _ = module.transform([image])
    assert images.tensors.shape[-2:] == image.shape[-2:]
    return images.tensors


def distances(found: dict[str, torch.Tensor], given: dict[str, torch.Tensor], metadata, size) -> list[float]:
    """Of each of the library's detections how far the nearest prediction is, in pixels plus a thousand times in score."""
    logits = given["logits"][0, :, :, 0]
    chances = logits.softmax(0) if metadata["detections"]["scores"] == "softmax" else logits.sigmoid()
    height, width = size
    corners = (given["boxes"][0] * torch.tensor([width, height, width, height])).clip(min=0)
    corners = torch.minimum(corners, torch.tensor([width, height, width, height]))
    off = []
    for label in found["labels"].unique().tolist():
        theirs = found["labels"] == label
        ours = torch.cat([corners, chances[label, :, None] * 1000], 1).double()
        own = torch.cat([found["boxes"][theirs], found["scores"][theirs, None] * 1000], 1).double()
        off += torch.cdist(own, ours, compute_mode="donot_use_mm_for_euclid_dist").amin(1).tolist()
    return off


@pytest.mark.parametrize("name", ONE_STAGE)
def test_predictions_are_those_of_the_library(name):
    module = made(name)
    size = size_of(module)
    image = picture(size)
    given = normalised(module, image)
    # Everything before any is left out, and what the library makes of it by itself.
    module.score_thresh = -1.0
    kept = {"usual": (module.nms_thresh, module.topk_candidates, module.detections_per_img), "all": (1.0, 10**6, 10**6)}
    found = {}
    with torch.no_grad():
        for which, values in kept.items():
            module.nms_thresh, module.topk_candidates, module.detections_per_img = values
            (found[which],) = module([image])
        metadata = loader.adapt(module)
        ours = module(given)
    _, channels, predictions, _ = ours["logits"].shape
    assert channels == len(CLASSES) and ours["boxes"].shape == (1, predictions, 4)
    assert len(found["all"]["scores"]) == predictions * (channels - name.startswith("ssd"))
    assert len(found["usual"]["scores"]) > 20 and found["all"]["scores"].std() > 1e-3
    for which in found.values():
        assert max(distances(which, ours, metadata, size)) < 2e-3


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"])
def test_images_are_prepared_as_by_the_library(name):
    module = made(name)
    steps = loader.steps_of(module.transform)
    image = picture((90, 130))
    (wanted, _) = module.transform([image])
    if name.startswith("ssd"):
        assert [step["op"] for step in steps] == ["resize", "normalize"]
        assert (steps[0]["height"], steps[0]["width"]) == tuple(wanted.tensors.shape[-2:]) == (320, 320)
        return
    assert [step["op"] for step in steps] == ["resize_smaller", "resize_max", "pad_multiple", "normalize"]
    assert (steps[0]["size"], steps[1]["size"], steps[2]["of"], steps[2]["fill"]) == (128, 256, 32, "mean")
    assert tuple(wanted.tensors.shape[-2:]) == (128, 192) and wanted.image_sizes == [(128, 184)]
    assert not wanted.tensors[..., 184:].any(), "padding is the mean"


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large"])
def test_heatmaps_are_layercam_of_the_levels_by_their_maximum(camflow, database, archived, tmp_path, name):
    module = made(name, side=320)
    levels, generator = pyramid.levels_of(module), module.anchor_generator
    archive, said = archived(
        lambda: load_model(made(name, side=320), classes=CLASSES),
        name,
        code=CODE,
        size=None if name.startswith("ssd") else (160, 192),
    )
    assert list(said["aliases"].values()) == levels and said["default_layers"] == [str(n + 1) for n in range(len(levels))]

    def theirs(_command: str, _weights, job) -> dict:
        import json

        asked = json.loads(job.read_text())
        image = detector_reference.samples(Image.open(asked["image"]))[0]
        images, _ = module.transform([image])

        def predict() -> tuple[torch.Tensor, torch.Tensor]:
            features = list(module.backbone(images.tensors).values())
            found, anchors = module.head(features), generator(images, features)[0]
            coder, codes = module.box_coder, found["bbox_regression"][0]
            if name.startswith("fcos"):
                chances = (found["cls_logits"].sigmoid() * found["bbox_ctrness"].sigmoid()).sqrt()
                logits, boxes = torch.logit(chances), coder.decode(codes, anchors)
            else:
                logits, boxes = found["cls_logits"], coder.decode_single(codes, anchors)
            return logits.transpose(1, 2), boxes[None] / 320

        modules = [module.get_submodule(level) for level in levels]
        return detector_reference.layercam(module, modules, predict, images.tensors, asked, is_softmax=name.startswith("ssd"))

    (score, found), (wanted_score, wanted) = detectors.of_two_boxes(
        camflow, theirs, tmp_path / name, archive, tmp_path, side=320, channel=2, label="dog", num_levels=2
    )
    assert score == pytest.approx(wanted_score, rel=1e-4)
    assert np.abs(found - wanted).max() < 1e-4


def test_a_checkpoint_says_for_how_many_classes(tmp_path, capsys):
    for name in ("retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"):
        torch.save(made(name, num_classes=7).state_dict(), tmp_path / "best.pth")
        loaded = load_model(f"torchvision:{name}", str(tmp_path / "best.pth"), classes=["background", *"abcdef"])
        assert "is for 7 classes, and so is the network" in capsys.readouterr().err
        size = size_of(loaded.module)
        with torch.no_grad():
            assert loaded.module(torch.zeros(1, 3, *size))["logits"].shape[1] == 7
        assert loaded.metadata["classes"]["6"] == "f" and loaded.metadata["task"] == "detection"


def test_names_are_those_of_fiftyone():
    ours = load_model("torchvision:retinanet_resnet50_fpn", "none").metadata["classes"]
    zoo = load_model("retinanet-resnet50-fpn-coco-torch", "none").metadata
    assert ours == zoo["classes"] and len(ours) == 91 and ours["1"] == "person" and ours["0"] == "background"
    assert zoo["preprocess"][0]["size"] == 800, "and not what the zoo leaves to the network"


def test_one_without_names_has_a_background_where_its_scores_do():
    numbered = {"0": "background", "1": "1", "2": "2", "3": "3"}
    assert load_model(made("ssdlite320_mobilenet_v3_large")).metadata["classes"] == numbered
    assert load_model(made("fasterrcnn_mobilenet_v3_large_320_fpn")).metadata["classes"] == numbered
    assert not load_model(made("fcos_resnet50_fpn")).metadata.get("classes")


@pytest.mark.parametrize("name", TWO_STAGES)
def test_regions_and_predictions_of_two_stages_are_those_of_the_library(name):
    module = made(name, **FEW)
    image = picture(SIZE)
    given = normalised(module, image)
    module.roi_heads.score_thresh = 0.0
    module.roi_heads.mask_roi_pool = module.roi_heads.keypoint_roi_pool = None  # boxes alone
    with torch.no_grad():
        features = module.backbone(given)
        (proposed,), _ = module.rpn(*of_image(module, image), None)
        pooled = module.roi_heads.box_roi_pool(features, [proposed], [SIZE])
        (usual,) = module([image])
        found, is_there, is_settled = regions.proposed(module.rpn, given, list(features.values()))
        module.roi_heads.nms_thresh, module.roi_heads.detections_per_img = 1.0, 10**6
        (every,) = module([image])
        metadata = loader.adapt(module)
        ours = module(given)
        again = regions.pooled(module.roi_heads.box_roi_pool, *levels_and_halvings(module, features), found)
    kept = len(proposed)
    assert is_settled.all() and is_there.sum() == kept and is_there[0, :kept].all() and 20 < kept
    assert torch.equal(found[0, :kept], proposed), "bit for bit, in the same order"
    assert (again[:kept] - pooled).abs().max() < 1e-5 * pooled.abs().max()
    # All pairs of a region and a class, of which the library leaves out those whose boxes have no size.
    count = (ours["logits"] > regions.NEVER).sum()
    assert count == min(regions.PAIRS, kept * (len(CLASSES) - 1)) and 0 < len(every["scores"]) <= count
    assert len(usual["scores"]) > 20 and every["scores"].std() > 1e-3
    for which in (usual, every):
        assert max(distances(which, ours, metadata, SIZE)) < 5e-3


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_heatmaps_of_two_stages_are_those_of_pytorch_grad_cam(camflow, database, tmp_path, two_stages, method):
    module, archive = two_stages
    image = picture((320, 320))
    detectors.picture(tmp_path / "image.png", 320)
    with torch.no_grad():
        (found,) = module([image])
    # The likeliest of those of which the scores are no mere 0 or 1.
    at = next(n for n, score in enumerate(found["scores"].tolist()) if score < 0.95)
    box, label = found["boxes"][at], int(found["labels"][at])
    target = FasterRCNNBoxScoreTarget(labels=[label], bounding_boxes=[box])
    levels = pyramid.levels_of(module, module.roi_heads.box_roi_pool.featmap_names)
    if method == "gradcam":
        with GradCAM(module, [module.backbone.body["16"]]) as cam:
            (wanted,) = cam(image[None], targets=[target])
        flags = ["--method", "gradcam", "--layers", "backbone.body.16"]
    else:
        maps = []
        for level in levels:
            with LayerCAM(module, [module.get_submodule(level)]) as cam:
                maps.append(cam(image[None], targets=[target])[0])
        wanted, flags = np.max(maps, axis=0), []
    assert wanted.max() > 0.99
    dataset = detectors.dataset_of(f"stages-{method}", [tmp_path / "image.png"], [(box / 320).tolist()], CLASSES[label])
    try:
        score, ours = detectors.heatmap_of(dataset, camflow, archive, CLASSES[label], tmp_path / "maps", *flags)
        (field,) = (name for name in dataset.get_field_schema() if name.startswith(f"{CLASSES[label]}_"))
        confidence = dataset.first()[field].confidence
    finally:
        dataset.delete()
    assert confidence == pytest.approx(float(found["scores"][at]), abs=1e-5)
    assert score == pytest.approx(float(torch.logit(found["scores"][at])), abs=1e-4)
    assert np.abs(ours - wanted).max() < 1e-4


def test_what_follows_predictions_into_changed_images_is_refused(camflow, database, tmp_path, two_stages):
    _, archive = two_stages
    image = detectors.picture(tmp_path / "image.png", 320)
    dataset = detectors.dataset_of("stages-refused", [image], [[0.1, 0.1, 0.5, 0.5]], "dog")
    try:
        annotate = [
            "annotate",
            "--dataset",
            dataset.name,
            "--model",
            archive,
            "--out",
            tmp_path / "maps",
            "--target",
            "labels:truth",
        ]
        explain = ["explain", image, "--model", archive, "--out", tmp_path / "out", "--target", "predicted"]
        for command, flags in (
            (annotate, ["--faithfulness"]),
            (annotate, ["--counterfactuals", "impute"]),
            (annotate, ["--method", "layercam,scorecam"]),
            (explain, ["--aug-smooth"]),
            (explain, ["--layers", "auto"]),
        ):
            said = camflow(*command, "--class", "dog", *flags, code=2).stderr
            asked = " ".join(flags).replace("layercam,", "")
            assert f"`{asked}` follows predictions into changed images" in said and "two stages" in said
    finally:
        dataset.delete()


@pytest.fixture(scope="module")
def two_stages(archived):
    """A Faster R-CNN, and the archive of the same."""

    def load():
        return load_model(made("fasterrcnn_mobilenet_v3_large_fpn", side=320, **FEW), classes=CLASSES)

    archive, described = archived(load, "two stages", code=CODE, size=(128, 160))
    assert described["detections"]["ranked"] and described["input"]["dynamic"] == "bhw"
    return made("fasterrcnn_mobilenet_v3_large_fpn", side=320, **FEW), archive


def of_image(module, image):
    """What the region proposal network is given."""
    images, _ = module.transform([image])
    return images, module.backbone(images.tensors)


def levels_and_halvings(module, features):
    """The maps that regions lie in, and how often each was halved."""
    levels = [value for name, value in features.items() if name in module.roi_heads.box_roi_pool.featmap_names]
    return levels, [round(float(np.log2(SIZE[0] / level.shape[-2]))) for level in levels]


def test_suppression_is_greedy_also_where_boxes_overlap_in_chains():
    from torchvision.ops import nms

    generator = torch.Generator().manual_seed(0)
    for crowd in (4, 20, 100):
        corners = torch.rand(3, 300, 2, generator=generator) * crowd
        boxes = torch.cat([corners, corners + torch.rand(3, 300, 2, generator=generator) * 20 + 20], -1)
        kept, is_settled = regions.unsuppressed(boxes, torch.ones(3, 300, dtype=torch.bool), 0.5)
        assert is_settled.all()
        for own, found in zip(boxes, kept, strict=True):
            wanted = nms(own, torch.arange(300, 0, -1).float(), 0.5)
            assert found.nonzero()[:, 0].tolist() == sorted(wanted.tolist())
    # A chain in which each box overlaps the next alone: one that is longer than the rounds is told.
    along = torch.arange(300.0)[:, None] * torch.tensor([[3.0, 0.0]])
    chain = torch.cat([along, along + 10], -1)[None]
    for length, is_right in ((regions.ROUNDS, True), (300, False)):
        kept, is_settled = regions.unsuppressed(chain[:, :length], torch.ones(1, length, dtype=torch.bool), 0.5)
        assert (kept[0].tolist() == [n % 2 == 0 for n in range(length)]) is is_right
        assert bool(is_settled) is is_right


def test_one_that_reads_regions_in_its_own_way_is_refused():
    module = made("fasterrcnn_mobilenet_v3_large_320_fpn")
    module.roi_heads.box_roi_pool = torch.nn.Identity()
    with pytest.raises(ExportError, match="reads its regions by a `Identity`") as said:
        load_model(module)
    assert said.value.code == 2 and "MultiScaleRoIAlign" in said.value.hint
