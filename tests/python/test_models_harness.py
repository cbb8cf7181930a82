"""Of each family a model as people have it: exported without options, and compared with pytorch_grad_cam at its default layer."""

import models_harness
import pytest
from models_harness_cases import CASES


@pytest.mark.parametrize(
    "name, layer",
    [
        ("torchvision:squeezenet1_1", "features.12"),
        ("deit_tiny_patch16_224", "blocks.2.norm1"),
        ("pvt", "pvt.encoder.block.3.0.layer_norm_1"),  # a pyramid whose last stage has a class token
        ("groupvit", "vision_model.encoder.stages.0.downsample.norm_x"),  # later tokens are groups, which lie nowhere
        ("segformer", "segformer.stages.3"),
        ("openai_clip_vit", "visual.transformer.resblocks.3.ln_1"),  # tokens first, [T, N, C]
    ],
)
def test_a_model_as_people_have_it(binary, name, layer):
    model = next(model for model in CASES if model.name == name)
    row = models_harness.outcome(binary, model, timeout=900)
    assert (row["outcome"], row["reason"], row["layer"]) == ("ok", "", layer)


def test_the_models_have_names_of_their_own():
    names = [model.name for model in CASES]
    assert len(set(names)) == len(names) >= 120
