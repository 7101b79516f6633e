"""Validation images with their boxes, as thumbnails under SVG rectangles."""

from __future__ import annotations

import base64
import io
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steps.report.formats import shortened
from steps.report.matching import FALSE_POSITIVE, IGNORED, Box, ValImage

# Pillow is imported where it is used: reading the steps' signatures needs none.

_THUMBNAIL = (420, 560)
_TOP_FEW = 5
_MAX_DRAWN = 150


def choose(images: Sequence[ValImage], most: int) -> list[tuple[ValImage, str]]:
    """Half the images with the most errors, a quarter with the fewest, the rest spread in between.

    An image without true boxes is among them whenever the set has one: it shows whether the model invents.
    """
    labels = ("most errors", "in between", "fewest errors")
    ranked = sorted(images, key=lambda image: (-image.errors, -len(image.truth), image.id))
    # Among images without an error the one with the most boxes shows most, so those go to the very end.
    clean = sorted((image for image in ranked if not image.errors), key=lambda i: (len(i.truth), -i.id))
    ranked = [image for image in ranked if image.errors] + clean
    most = max(0, most)
    worst_count, best_count = math.ceil(most / 2), most // 4
    if len(ranked) <= most:
        worst_count, best_count = math.ceil(len(ranked) / 2), len(ranked) // 4
    worst = ranked[:worst_count]
    best = ranked[len(ranked) - best_count :] if best_count else []
    rest = ranked[worst_count : len(ranked) - best_count]
    spaces = min(len(rest), most - len(worst) - len(best))
    middle = [rest[(2 * index + 1) * len(rest) // (2 * spaces)] for index in range(spaces)]
    chosen = [(image, label) for group, label in zip((worst, middle, best), labels, strict=True) for image in group]
    empty = [image for image in ranked if not image.truth]
    if empty and most and all(image.truth for image, _ in chosen):
        # The one with the most false positives; it takes the place of the mildest of the ones shown in between.
        place = max(len(worst) + len(middle) - 1, 0)
        chosen[place] = (empty[0], labels[1])
    return [
        # "Most errors" over an image without an error would be a puzzle, and so would the reverse.
        (image, "no errors" if not image.errors else label)
        for image, label in chosen
    ]


def picture(
    image: ValImage, group: str, dataset_dir: Path, names: dict[int, str], links: Mapping[Path, str] | None = None
) -> dict[str, Any]:
    """An image as the page draws it: a thumbnail and its boxes in the thumbnail's coordinates.

    `links` are the addresses of frames in CVAT, by absolute path.
    """
    path = Path(image.file_name)
    uri, width, height = _thumbnail(dataset_dir / path, image.width, image.height)
    # Small images are drawn as large as the others, so that the labels fit.
    scale = min(_THUMBNAIL[0] / width, _THUMBNAIL[1] / height)
    view = (round(width * scale, 1), round(height * scale, 1))

    shown = list(range(image.made))
    note = ""
    if not shown and image.predictions:
        shown = list(range(min(_TOP_FEW, len(image.predictions))))
        scores = f"{image.predictions[shown[-1]].score:.2f} to {image.predictions[0].score:.2f}"
        few = "the best one is" if len(shown) == 1 else f"the best {len(shown)} are"
        note = f"No prediction reaches the threshold; {few} drawn ({scores})."
    elif not image.predictions:
        note = "No predictions."
    if len(shown) > _MAX_DRAWN or len(image.truth) > _MAX_DRAWN:
        note += f" Only {_MAX_DRAWN} boxes of a kind are drawn."
    shown = shown[:_MAX_DRAWN]
    found = {image.found[index] for index in shown}
    order = sorted(range(len(image.truth)), key=lambda index: (index not in found, index))
    # Missed boxes matter most: they stay when there are too many, and are drawn on top.
    truth = [
        _rectangle(
            image.truth[index],
            scale,
            names,
            "crowd" if image.truth[index].crowd else "found" if index in found else "missed",
        )
        for index in order[-_MAX_DRAWN:]
    ]
    states = {FALSE_POSITIVE: "wrong", IGNORED: "ignored"}
    predictions = [
        # Weak first, so that the surest lies on top.
        _rectangle(image.predictions[i], scale, names, states.get(image.found[i], "right"), scored=True)
        for i in reversed(shown)
    ]
    _place_labels([*(box for box in truth if box["state"] == "missed"), *reversed(predictions)], view)
    return {
        "uri": uri,
        "link": (links or {}).get((dataset_dir / path).absolute(), ""),
        "name": "/".join(path.parts[-2:]) if path.is_absolute() else image.file_name,
        "view": view,
        "truth": truth,
        "predictions": predictions,
        "group": group if image.truth else "no true boxes",
        "note": note.strip(),
        "found": image.hits,
        "missed": image.missed,
        "false_positives": image.false_positives,
    }


def _rectangle(
    box: Box,
    scale: float,
    names: dict[int, str],
    state: str,
    *,
    scored: bool = False,
) -> dict[str, Any]:
    name = names.get(box.category, f"class {box.category}")
    score = f" {box.score:.2f}" if scored else ""
    # With one class its name says nothing, and on a crowded image it hides a lot.
    kind = "" if len(names) == 1 else shortened(name, 15)
    short = (kind + score).strip()
    x, y, w, h = (round(side * scale, 1) for side in (box.x, box.y, box.w, box.h))
    return {
        "x": x,
        "y": y,
        "w": w,
        "h": h,
        "state": state,
        "label": short,
        "title": name + (f", score {box.score:.3f}" if scored else f", truth, {state}"),
    }


_LINE = 13.0
_IMPORTANCE = ("missed", "wrong", "right", "ignored")


def _place_labels(boxes: Iterable[dict[str, Any]], view: tuple[float, float]) -> None:
    """Give each box `label_x` and `label_y`, the start of its label's base line, such that labels keep clear.

    Errors come first; a label for which no side of its box is free stays away, and the box's title says it.
    """
    taken: list[tuple[float, float, float, float]] = []
    for box in sorted(boxes, key=lambda box: _IMPORTANCE.index(box["state"])):
        width = _text_width(box["label"])
        left = min(box["x"] + 1, view[0] - width - 2)
        right = max(box["x"] + box["w"] - width - 1, 2.0)
        above, below, top, bottom = box["y"] - 3, box["y"] + box["h"] + 11, box["y"] + 12, box["y"] + box["h"] - 4
        # A missed object's label stands under its box, a prediction's over it: where both lie on one object
        # the eye finds them apart.
        rows = (below, bottom, above, top) if box["state"] == "missed" else (above, top, below, bottom)
        for x, y in ((x, y) for y in rows for x in (max(left, 2.0), right)):
            area = (x, y - _LINE + 2, x + width, y + 2)
            if area[1] >= 0 and area[3] <= view[1] and not any(_overlap(area, other) for other in taken):
                taken.append(area)
                box["label_x"], box["label_y"] = round(x, 1), round(y, 1)
                break
        else:
            box["label"] = ""


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text_width(text: str) -> float:
    """At 12 px, in a wide font; characters of East Asia are about square."""
    return sum(12.5 if unicodedata.east_asian_width(letter) in "WF" else 7.9 for letter in text)


def _thumbnail(path: Path, width: float, height: float) -> tuple[str | None, float, float]:
    """A JPEG data URI of the upright image, and the size in px that boxes refer to.

    That size is the image's own, upright, as for the trainer; where the image cannot be read, the given one.
    """
    from PIL import Image, ImageOps

    from trainer.data.image_file import ImageError, open_image

    try:
        with open_image(path) as opened:
            sideways = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = opened.size[::-1] if sideways else opened.size
            opened.draft("RGB", (2 * max(_THUMBNAIL), 2 * max(_THUMBNAIL)))
            upright = ImageOps.exif_transpose(opened)
            if upright.mode[0] in "IF":
                # Sixteen bit and float images have no fixed white: stretch what is there.
                upright = upright.convert("F")
                low, high = (float(v) for v in upright.getextrema())  # type: ignore[arg-type]
                gain = 255.0 / (high - low) if high > low else 1.0
                upright = upright.point(lambda value: value * gain - low * gain).convert("L")
            upright = upright.convert("RGB")
            upright.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
            data = io.BytesIO()
            upright.save(data, "JPEG", quality=80, optimize=True)
    except ImageError:
        return None, max(width, 1.0) if width else 4.0, max(height, 1.0) if height else 3.0
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode(), float(width), float(height)
