"""A few drawn images with a COCO file, for tests that need a dataset on the disk."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

# Neither dense nor from 1 nor ascending, as an export of a long-lived project may have them.
CATEGORIES = [{"id": 17, "name": "bolt"}, {"id": 4, "name": "nut"}]
COLOURS = {17: (220, 40, 40), 4: (40, 60, 220)}


def draw_dataset(
    folder: Path, train: int = 6, val: int = 3, *, size: tuple[int, int] = (64, 64), seed: int = 0
) -> Path:
    """Writes `images/` and `annotations/instances_{train,val}.json`; the last image of each has no box."""
    rng = random.Random(seed)
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
        for index in range(count):
            name = f"images/{split}_{index}.png"
            picture = Image.new("RGB", size, (110, 120, 110))
            content["images"].append({"id": 100 + index, "file_name": name, "width": size[0], "height": size[1]})
            for place in range(0 if index == count - 1 else 2):
                category = rng.choice(CATEGORIES)["id"]
                side = rng.randint(size[0] // 4, size[0] * 2 // 5)
                x = rng.randint(0, size[0] // 2 - side) + place * size[0] // 2
                y = rng.randint(0, size[1] - side)
                ImageDraw.Draw(picture).rectangle([x, y, x + side - 1, y + side - 1], fill=COLOURS[category])
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": 100 + index,
                        "category_id": category,
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                    }
                )
            picture.save(folder / name)
        write_annotations(folder, split, content)
    return folder


def write_annotations(folder: Path, split: str, content: dict[str, Any]) -> Path:
    """Writes one COCO file where the trainer looks for it."""
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def quadrants(width: int, height: int) -> Image.Image:
    """Four grounds of different brightness and colour: no turn or mirroring looks like another."""
    picture = Image.new("RGB", (width, height), (240, 235, 230))
    draw = ImageDraw.Draw(picture)
    draw.rectangle([width // 2, 0, width, height // 2 - 1], fill=(200, 140, 150))
    draw.rectangle([0, height // 2, width // 2 - 1, height], fill=(60, 110, 60))
    draw.rectangle([width // 2, height // 2, width, height], fill=(20, 20, 60))
    return picture
