"""What a prepared dataset is, as one number: the same images, boxes, classes and split give the same digest."""

import hashlib
from collections.abc import Sequence

import numpy as np
import orjson

from steps.preparation.clean import Clean
from steps.preparation.coco_writer import by_id


def dataset_digest(data: Clean, train: Sequence[int], val: Sequence[int]) -> str:
    """Give the SHA-256 of what `instances_train.json` and `instances_val.json` say, in hexadecimal.

    It covers the classes with their ids, names, sizes and split of the images, and the boxes; neither the folder that
    the dataset lies in nor the pixels.
    """
    digest = hashlib.sha256()
    for images in (train, val):
        rows = [(data.files[image], *data.sizes[image]) for image in images]
        digest.update(orjson.dumps(rows, option=orjson.OPT_APPEND_NEWLINE))
    digest.update(orjson.dumps([(each.id, each.name) for each in by_id(data.categories)]))
    ids = np.array([category.id for category in data.categories], np.int64)
    boxes = data.boxes
    for column, kind in ((boxes.image, "<i8"), (ids[boxes.category], "<i8"), (boxes.xywh, "<f8"), (boxes.crowd, "u1")):
        digest.update(column.astype(kind).tobytes())
    return digest.hexdigest()
