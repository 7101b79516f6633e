"""The classes of COCO by the ids that its 2017 annotation files give them (cocodataset.org)."""

from __future__ import annotations

# In the order of their ids, a line for each supercategory.
_NAMES = (
    "person",
    "bicycle, car, motorcycle, airplane, bus, train, truck, boat",
    "traffic light, fire hydrant, stop sign, parking meter, bench",
    "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    "backpack, umbrella, handbag, tie, suitcase",
    "frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket",
    "bottle, wine glass, cup, fork, knife, spoon, bowl",
    "banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake",
    "chair, couch, potted plant, bed, dining table, toilet",
    "tv, laptop, mouse, remote, keyboard, cell phone",
    "microwave, oven, toaster, sink, refrigerator",
    "book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
)
# Ids of classes that were dropped before the annotations were published.
_UNUSED = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

_IDS = [category_id for category_id in range(91) if category_id not in _UNUSED]
COCO_NAMES: dict[int, str] = dict(zip(_IDS, ", ".join(_NAMES).split(", "), strict=True))
"""Name by category id: 80 ids from 1 to 90."""
