"""What a prepared dataset is, as a number: the same images, boxes, classes and split give the same one."""

from collections.abc import Sequence

import numpy as np

from steps.preparation.clean import Clean
from steps.preparation.coco_writer import by_id
from trainer.data.fingerprint import split_digest


def digest_of(data: Clean, images: Sequence[int]) -> str:
    """Give the number that the trainer will find for the COCO file of these images: `split_digest`."""
    place = np.full(len(data.files), -1, np.int64)
    place[images] = np.arange(len(images))
    boxes = data.boxes[np.flatnonzero(place[data.boxes.image] >= 0)]
    ids = np.array([category.id for category in data.categories], np.int64)
    return split_digest(
        ((each.id, each.name) for each in by_id(data.categories)),
        ((data.digests[image], *data.sizes[image]) for image in images),
        place[boxes.image],
        ids[boxes.category],
        boxes.xywh,
        boxes.xywh[:, 2] * boxes.xywh[:, 3],
        boxes.crowd,
    )
