"""A FiftyOne dataset of 32 photographs with a person each, as FiftyOne stores it: `dataset.py FOLDER`.

The folder has the images and the documents (BSON) of the dataset, its samples, and FiftyOne's own records. check.py puts them
into a database again, as often as it needs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
COUNT = 32


def main(folder: Path) -> None:
    from private_mongod import PrivateMongod

    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, PrivateMongod(Path(temporary) / "mongo") as mongod:
        os.environ.update(FIFTYONE_DATABASE_URI=mongod.uri, FIFTYONE_DO_NOT_TRACK="true")
        import bson
        import fiftyone as fo
        import numpy as np
        import pymongo
        from bench_contenders import LABEL, pictures
        from PIL import Image

        # The classes of Pascal VOC in torchvision's order are the channels; `person` is 15.
        names = (
            "__background__ aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
            "pottedplant sheep sofa train tvmonitor"
        ).split()
        dataset = fo.Dataset("packed")
        dataset.persistent = True
        dataset.default_mask_targets = dict(enumerate(names))
        samples = []
        for index, (image, mask) in enumerate(pictures(COUNT, 480, 640)):
            path = images / f"{index:05}.jpg"
            Image.fromarray(image).save(path, quality=90)
            sample = fo.Sample(filepath=str(path))
            sample[LABEL] = fo.Segmentation(mask=np.where(mask > 0, 15, 0).astype(np.uint8))
            samples.append(sample)
        dataset.add_samples(samples, progress=False)
        database = pymongo.MongoClient(mongod.uri)["fiftyone"]
        document = database["datasets"].find_one({"name": "packed"})
        (folder / "dataset.bson").write_bytes(bson.encode(document))
        (folder / "samples.bson").write_bytes(
            b"".join(bson.encode(sample) for sample in database[document["sample_collection_name"]].find())
        )
        for name in database.list_collection_names():
            if name in ("config", "versions"):
                (folder / f"{name}.bson").write_bytes(b"".join(bson.encode(one) for one in database[name].find()))
        print("collections:", database.list_collection_names(), file=sys.stderr)


main(Path(sys.argv[1]))
