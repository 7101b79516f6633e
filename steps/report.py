"""The page that an engineer opens after a training run: `report.html`, one file with everything inside.

The page answers, in this order: is the model any good, which classes and images does it fail on, how did the
training go, and what happened to the data on the way. Charts are SVG drawn by matplotlib, images are JPEG
thumbnails with the boxes drawn over them as SVG; nothing is loaded from anywhere else.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from steps.errors import StepError

# matplotlib, jinja2 and Pillow are imported where they are used: a pod that only moves files has not all
# of them, and need not pay for them.

_MATCH_IOU = 0.5
_THUMBNAIL = (420, 560)
_TOP_FEW = 5
_DASH = "\u2013"
_MAX_DRAWN = 150
_NOTHING_THERE = "Nothing of this kind is in the validation set, so there is nothing to measure"
_NOT_MEASURED = "This number was not measured"

# The charts are drawn in these stand-in colours, which become CSS variables afterwards: so one SVG is
# legible on a light page, on a dark page and on paper.
_INK, _GRID, _FIRST, _SECOND = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
_CSS_COLOURS = {
    _INK: "var(--muted)",
    _GRID: "var(--line)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
}

_COCO_NUMBERS = (
    ("AP", "The main number: average precision over ten strictnesses of overlap (IoU 0.50 to 0.95)."),
    ("AP50", "A box counts as right when it overlaps the truth by half (IoU 0.50): was the object found?"),
    ("AP75", "The same at IoU 0.75: was the box also placed well?"),
    ("AP_small", "AP of small objects, under 32 x 32 pixels."),
    ("AP_medium", "AP of medium objects, 32 x 32 to 96 x 96 pixels."),
    ("AP_large", "AP of large objects, over 96 x 96 pixels."),
    ("AR1", "Share of the true boxes found when only the single best guess in each image counts."),
    ("AR10", "The same with the ten best guesses in each image."),
    ("AR100", "The same with the hundred best guesses: the most that this model can find."),
    ("AR_small", "AR100 of small objects."),
    ("AR_medium", "AR100 of medium objects."),
    ("AR_large", "AR100 of large objects."),
)


@dataclass(frozen=True)
class _Box:
    """A true or a predicted box in pixels of the original image."""

    category: int
    x: float
    y: float
    w: float
    h: float
    score: float = 1.0
    crowd: bool = False


@dataclass
class _Image:
    """A validation image with its boxes, and which of them belong together."""

    id: int
    file_name: str
    width: float
    height: float
    truth: list[_Box] = field(default_factory=list)
    predictions: list[_Box] = field(default_factory=list)
    # For each prediction (best score first): index of the true box it found, -1 a false alarm, -2 ignored.
    found: list[int] = field(default_factory=list)
    missed: int = 0
    false_alarms: int = 0
    hits: int = 0

    @property
    def errors(self) -> int:
        return self.missed + self.false_alarms


def write_report(dataset_dir: Path, output_dir: Path, *, max_images: int = 24, score_threshold: float = 0.5) -> Path:
    """Write `output_dir/report.html` and return its path.

    Reads `dataset_dir/annotations/instances_val.json` and the images that it names,
    `output_dir/metrics.json` and `output_dir/predictions.json`; and, where they are there,
    `dataset_dir/prepare_report.json`, `output_dir/train.json` and `output_dir/log.jsonl`. The same inputs
    give the same bytes.

    Args:
        dataset_dir: what the prepare step wrote.
        output_dir: what the train and evaluate steps wrote; the page goes there.
        max_images: how many validation images to show at most.
        score_threshold: from which score on a prediction counts as made.

    Raises:
        StepError: a file that the page cannot do without is missing or is not JSON of the expected kind.
    """
    annotations = _read_object(dataset_dir / "annotations" / "instances_val.json", "prepare")
    metrics = _read_object(output_dir / "metrics.json", "evaluate")
    predictions = _read_json(output_dir / "predictions.json", "evaluate")
    if not isinstance(predictions, list):
        raise StepError(f"{output_dir / 'predictions.json'} is not a list: run the evaluate step again")
    prepared = _read_optional(dataset_dir / "prepare_report.json")
    trained = _read_optional(output_dir / "train.json")
    log = _read_log(output_dir / "log.jsonl")

    names, images = _collect(annotations, predictions)
    for image in images:
        _match(image, score_threshold)

    classes = _class_rows(names, images, metrics, prepared, score_threshold)
    balance = _balance(images)
    hits, missed, false_alarms = (
        sum(getattr(image, key) for image in images) for key in ("hits", "missed", "false_alarms")
    )
    facts = _facts(metrics, trained, prepared, names, images, log)
    verdict = _verdict(facts, metrics, bool(predictions))
    chosen = _choose(images, max_images)
    page = _render(
        facts=facts,
        verdict=verdict,
        advice=_advice(facts, metrics, log, images, classes, balance, score_threshold),
        tiles=_tiles(metrics, hits, missed, false_alarms, facts, score_threshold),
        threshold=f"{score_threshold:.2f}",
        classes=classes,
        short_classes=classes if len(classes) <= 40 else classes[:15] + classes[-15:],
        balance=balance,
        charts=_training_charts(log, facts),
        numbers=[{"name": name, "value": _shown(metrics.get(name)), "why": why} for name, why in _COCO_NUMBERS],
        pictures=[_picture(image, group, dataset_dir, names, score_threshold) for image, group in chosen],
        image_total=len(images),
        prepared=_prepared_tables(prepared),
        settings=_settings(trained),
    )
    return _replace(output_dir / "report.html", page)


# --- reading ---------------------------------------------------------------------------------------------


def _read_json(path: Path, step: str) -> Any:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise StepError(f"{path} is missing: the {step} step makes it, so run that first") from None
    except OSError as error:
        raise StepError(f"{path} cannot be read ({error.strerror}): the {step} step makes it") from None
    return _parse(raw, path, step)


def _parse(raw: bytes, path: Path, step: str) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    try:
        # Python writes NaN and Infinity, which are not JSON; orjson refuses them and this reads them.
        return json.loads(raw)
    except ValueError:
        raise StepError(f"{path} is not JSON: run the {step} step again") from None


def _read_object(path: Path, step: str) -> dict[str, Any]:
    value = _read_json(path, step)
    if not isinstance(value, dict):
        raise StepError(f"{path} is not a JSON object: run the {step} step again")
    return value


def _read_optional(path: Path) -> dict[str, Any]:
    """Read a JSON object that the page can do without; a broken one counts as absent."""
    try:
        value = _parse(path.read_bytes(), path, "")
    except (OSError, StepError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_log(path: Path) -> list[dict[str, Any]]:
    """Read the epochs in order. A resumed run repeats epochs: the last line for each counts."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    epochs: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            record = _parse(line, path, "train")
        except StepError:
            continue  # a pod that was killed while it wrote leaves half a line
        if isinstance(record, dict) and (epoch := _number(record.get("epoch"))) is not None:
            epochs[int(epoch)] = record
    return [epochs[key] for key in sorted(epochs)]


def _collect(annotations: dict[str, Any], predictions: list[Any]) -> tuple[dict[int, str], list[_Image]]:
    """Sort the true and the predicted boxes by image; boxes that make no sense are left out."""
    names = {
        int(row["id"]): str(row.get("name", row["id"]))
        for row in _rows(annotations.get("categories"))
        if _number(row.get("id")) is not None
    }
    images = {
        int(row["id"]): _Image(
            int(row["id"]),
            str(row.get("file_name", "")),
            _number(row.get("width")) or 0.0,
            _number(row.get("height")) or 0.0,
        )
        for row in _rows(annotations.get("images"))
        if _number(row.get("id")) is not None
    }
    for row in _rows(annotations.get("annotations")):
        image, box = images.get(row.get("image_id", -1)), _box(row, 1.0)
        if image and box:
            image.truth.append(box)
    for row in _rows(predictions):
        image, score = images.get(row.get("image_id", -1)), _number(row.get("score"))
        if image and score is not None and (box := _box(row, score)):
            image.predictions.append(box)
    for image in images.values():
        image.predictions.sort(key=lambda box: (-box.score, box.category, box.x, box.y, box.w, box.h))
    return names, [images[key] for key in sorted(images)]


def _rows(value: object) -> Iterable[dict[str, Any]]:
    return (row for row in value if isinstance(row, dict)) if isinstance(value, list) else ()


def _box(row: dict[str, Any], score: float) -> _Box | None:
    sides, category = row.get("bbox"), _number(row.get("category_id"))
    if category is None or not isinstance(sides, list) or len(sides) != 4:
        return None
    x, y, w, h = (_number(side) for side in sides)
    if x is None or y is None or w is None or h is None or w < 0 or h < 0:
        return None
    return _Box(int(category), x, y, w, h, score, row.get("iscrowd") == 1)


def _number(value: object) -> float | None:
    """A finite number, or None for anything else (NaN, infinity, text, null, true)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _measure(value: object) -> float | None:
    """A metric; COCO's -1 ("nothing of the kind in the set") counts as none."""
    number = _number(value)
    return None if number is None or number < 0 else number


def _within(record: dict[str, Any], *keys: str) -> Any:
    """The value under nested keys, or None as soon as something on the way is not an object."""
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


# --- counting --------------------------------------------------------------------------------------------


def _iou(a: _Box, b: _Box, *, of_first: bool = False) -> float:
    width = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    height = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a.w * a.h if of_first else a.w * a.h + b.w * b.h - shared)


def _match(image: _Image, threshold: float) -> None:
    """Give each prediction, best score first, the free true box of its class that it overlaps most.

    Best first means that a match does not depend on weaker predictions, so one pass serves every threshold.
    """
    free: dict[int, list[int]] = defaultdict(list)
    crowds: dict[int, list[_Box]] = defaultdict(list)
    for index, box in enumerate(image.truth):
        if box.crowd:
            crowds[box.category].append(box)
        else:
            free[box.category].append(index)
    for box in image.predictions:
        candidates = free[box.category]
        best = max(((_iou(box, image.truth[i]), -i) for i in candidates), default=(0.0, 0))
        if best[0] >= _MATCH_IOU:
            candidates.remove(-best[1])
            image.found.append(-best[1])
        elif any(_iou(box, crowd, of_first=True) >= _MATCH_IOU for crowd in crowds[box.category]):
            image.found.append(-2)
        else:
            image.found.append(-1)
    made = [found for box, found in zip(image.predictions, image.found, strict=True) if box.score >= threshold]
    image.hits = sum(found >= 0 for found in made)
    image.false_alarms = made.count(-1)
    image.missed = sum(not box.crowd for box in image.truth) - image.hits


def _class_rows(
    names: dict[int, str],
    images: Sequence[_Image],
    metrics: dict[str, Any],
    prepared: dict[str, Any],
    threshold: float,
) -> list[dict[str, Any]]:
    """A row a class, best AP first, classes without a measurement last."""
    hits: dict[int, int] = defaultdict(int)
    truth: dict[int, int] = defaultdict(int)
    false_alarms: dict[int, int] = defaultdict(int)
    for image in images:
        for box in image.truth:
            truth[box.category] += not box.crowd
        for box, found in zip(image.predictions, image.found, strict=True):
            if box.score >= threshold:
                hits[box.category] += found >= 0
                false_alarms[box.category] += found == -1
    measured = _within(metrics, "per_class")
    measured = measured if isinstance(measured, dict) else {}
    ids = {name: key for key, name in sorted(names.items(), reverse=True)}
    rows = []
    for name in dict.fromkeys([*map(str, measured), *ids]):
        numbers = measured.get(name)
        numbers = numbers if isinstance(numbers, dict) else {}
        key = ids.get(name, -1)
        boxes, train = _number(numbers.get("boxes")), _number(_within(prepared, "classes", name, "train"))
        rows.append(
            {
                "name": name,
                "ap": _measure(numbers.get("AP")),
                "AP": _shown(numbers.get("AP", -1 if not truth[key] else None)),
                "AP50": _shown(numbers.get("AP50", -1 if not truth[key] else None)),
                "AR100": _shown(numbers.get("AR100", -1 if not truth[key] else None)),
                "boxes": int(boxes) if boxes is not None else truth[key],
                "train": None if train is None else int(train),
                "hits": hits[key],
                "missed": truth[key] - hits[key],
                "false_alarms": false_alarms[key],
            }
        )
    return sorted(rows, key=lambda row: (row["ap"] is None, -(row["ap"] or 0.0), row["name"]))


def _balance(images: Sequence[_Image]) -> dict[str, Any] | None:
    """Precision and recall at each score, and the score where they balance best (F1)."""
    total = sum(not box.crowd for image in images for box in image.truth)
    scores = sorted(
        (box.score, found >= 0)
        for image in images
        for box, found in zip(image.predictions, image.found, strict=True)
        if found != -2
    )
    if not total or not any(hit for _, hit in scores):
        return None
    keys = [score for score, _ in scores]
    hits_from = [0] * (len(scores) + 1)
    for index in range(len(scores) - 1, -1, -1):
        hits_from[index] = hits_from[index + 1] + scores[index][1]
    steps = [step / 100 for step in range(1, 100)]
    precision: list[float | None] = []
    recall: list[float | None] = []
    best = (0.0, 0)
    for index, step in enumerate(steps):
        first = bisect_left(keys, step)
        made, hits = len(keys) - first, hits_from[first]
        precision.append(hits / made if made else None)
        recall.append(hits / total)
        best = max(best, (2 * hits / (made + total), index))
    at = best[1]
    svg = _chart(
        "balance",
        [(steps, precision, _FIRST), (steps, recall, _SECOND)],
        bounds=(0.0, 1.02),
        mark=steps[at],
        whole=False,
    )
    return {
        "svg": svg,
        "score": f"{steps[at]:.2f}",
        "f1": f"{best[0]:.2f}",
        "precision": _percent(precision[at]),
        "recall": _percent(recall[at]),
        "reach": recall[at],
    }


def _choose(images: Sequence[_Image], most: int) -> list[tuple[_Image, str]]:
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
        # The one with the most false alarms; it takes the place of the mildest of the ones shown in between.
        place = max(len(worst) + len(middle) - 1, 0)
        chosen[place] = (empty[0], labels[1])
    return [
        # "Most errors" over an image without an error would be a puzzle, and so would the reverse.
        (image, "no errors" if not image.errors else label)
        for image, label in chosen
    ]


# --- words -----------------------------------------------------------------------------------------------


def _shown(value: object) -> dict[str, Any]:
    """A metric as the page shows it: its text, a tooltip where there is no number, its bar in percent."""
    number = _number(value)
    if number is None or number < 0:
        return {"text": _DASH, "title": _NOT_MEASURED if number is None else _NOTHING_THERE, "bar": None}
    return {"text": f"{number:.3f}", "title": "", "bar": f"{min(number, 1.0) * 100:.1f}" if number else None}


def _percent(value: float | None) -> str:
    return _DASH if value is None else f"{value * 100:.0f} %"


def _count(number: float | None, singular: str, plural: str = "") -> str:
    if number is None:
        return ""
    return f"{number:,.0f} {singular if number == 1 else plural or singular + 's'}"


def _duration(seconds: float | None) -> str:
    if seconds is None or seconds < 0:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def _facts(
    metrics: dict[str, Any],
    trained: dict[str, Any],
    prepared: dict[str, Any],
    names: dict[int, str],
    images: Sequence[_Image],
    log: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What is known about the run, from whichever file says it."""

    def first(*values: object) -> float | None:
        return next((number for value in values if (number := _number(value)) is not None), None)

    train_images = first(
        _within(trained, "images", "train"), trained.get("images"), _within(prepared, "images", "train")
    )
    measured = [
        (ap, int(record["epoch"])) for record in log if (ap := _measure(_within(record, "val", "AP"))) is not None
    ]
    # The earliest of equals, as a trainer that keeps "better than before" does.
    from_log = max(measured, key=lambda pair: (pair[0], -pair[1]))[1] if measured else None
    best_epoch = first(trained.get("best_epoch"), from_log)
    if not _measure(metrics.get("AP50")):
        best_epoch = None  # the best of epochs that all found nothing says nothing
    epochs = first(trained.get("epochs"), log[-1].get("epoch") if log else None)
    model = metrics.get("model") or trained.get("model") or "A detector"
    seconds = first(trained.get("seconds"), sum(_number(record.get("seconds")) or 0.0 for record in log) or None)
    class_names = list(names.values())
    shown = ", ".join(class_names[:6]) + (f" and {len(class_names) - 6} more" if len(class_names) > 6 else "")
    checkpoint = metrics.get("checkpoint")
    return {
        "model": str(model),
        "checkpoint": Path(str(checkpoint)).name if checkpoint else "",
        "device": str(trained.get("device") or ""),
        "parameters": first(trained.get("parameters")),
        "train_images": train_images,
        "train_boxes": first(_within(prepared, "boxes", "train")),
        "val_images": int(first(metrics.get("images"), len(images)) or 0),
        "val_boxes": int(first(metrics.get("boxes"), sum(len(image.truth) for image in images)) or 0),
        "classes": len(class_names),
        "class_names": shown,
        "epochs": None if epochs is None else int(epochs),
        "best_epoch": None if best_epoch is None else int(best_epoch),
        "time": _duration(seconds),
        "per_step": first(trained.get("seconds_per_step"), log[-1].get("seconds_per_step") if log else None),
        "on_train": " with ".join(
            part
            for part in (
                _count(train_images, "image"),
                _count(first(_within(prepared, "boxes", "train")), "box", "boxes"),
            )
            if part
        ),
        "on_classes": _count(len(class_names), "class", "classes"),
    }


def _verdict(facts: dict[str, Any], metrics: dict[str, Any], any_predictions: bool) -> dict[str, str]:
    ap, ap50 = _measure(metrics.get("AP")), _measure(metrics.get("AP50"))
    if ap50 is None:
        return {
            "tone": "bad",
            "head": "Nothing could be measured.",
            "body": "The validation set has no boxes, or the evaluation gave no number, so nobody can say "
            "whether this model works. Put labelled images into the validation set and evaluate again.",
        }
    if ap50 < 0.01:
        said = "makes boxes, but they do not lie on the objects" if any_predictions else "predicts no boxes"
        return {
            "tone": "bad",
            "head": "Found nothing.",
            "body": f"The model {said}. It has not learnt the task (yet); do not use it.",
        }
    loose = ap is not None and ap < 0.4 * ap50
    placed = " Its boxes are on the right objects but sit loosely: AP is far below AP50." if loose else ""
    if ap50 < 0.2:
        head, tone = "Has only begun to learn.", "bad"
        body = "It finds an object here and there. Too early to use; more training should change that."
    elif ap50 < 0.5:
        head, tone = "Finds some, misses many.", "fair"
        body = "It has learnt what to look for, but is not reliable yet."
    elif ap50 < 0.75:
        head, tone = "Finds most objects.", "fair"
        body = "Useful with a person checking, for pre-labelling say. See below which classes and images hold it back."
    else:
        head, tone = "Finds nearly everything." if ap50 >= 0.9 else "Works well.", "good"
        body = "It finds the objects reliably on images it never trained on."
    return {"tone": tone, "head": head, "body": body + placed}


def _series(log: Sequence[dict[str, Any]], *keys: str) -> list[float | None]:
    return [_number(_within(record, *keys)) for record in log]


def _advice(
    facts: dict[str, Any],
    metrics: dict[str, Any],
    log: Sequence[dict[str, Any]],
    images: Sequence[_Image],
    classes: Sequence[dict[str, Any]],
    balance: dict[str, Any] | None,
    threshold: float,
) -> list[str]:
    """What in these numbers a colleague would point at, most telling first."""
    advice: list[str] = []
    ap, ap50 = _measure(metrics.get("AP")), _measure(metrics.get("AP50"))
    epochs, train_images = facts["epochs"], facts["train_images"]
    broken = next(
        (
            int(record["epoch"])
            for record in log
            if isinstance(record.get("train"), dict)
            and "loss" in record["train"]
            and _number(record["train"]["loss"]) is None
        ),
        None,
    )
    if broken is not None:
        advice.append(
            f"The training loss stopped being a number in epoch {broken}. Lower the learning rate "
            "(a third is a good start) and keep gradient clipping on."
        )
    losses = [loss for loss in _series(log, "train", "loss") if loss is not None]
    fell = len(losses) > 1 and losses[-1] < 0.9 * losses[0]
    if ap50 is not None and ap50 < 0.01:
        if len(losses) > 1:
            advice.append(
                f"The training loss fell from {losses[0]:.2f} to {losses[-1]:.2f}, so it is learning: most "
                "likely it needs more epochs."
                if fell
                else f"The training loss did not fall ({losses[0]:.2f} to {losses[-1]:.2f}). Try a lower "
                "learning rate, and check in the images below that the true boxes lie on the objects."
            )
        ran = f" This run had {_count(epochs, 'epoch')}." if epochs is not None else ""
        advice.append(
            "DETR starts slowly: without pretrained weights AP often stays at zero for dozens of epochs."
            f"{ran} Train several times as long, or start from weights trained on COCO."
        )
        scores = [image.predictions[0].score for image in images if image.predictions]
        if scores:
            advice.append(
                f"The most confident prediction scores {max(scores):.2f}."
                + (" Until scores rise, the model is guessing." if max(scores) < threshold else "")
            )
        elif images:
            advice.append(
                "There is no prediction at all, not even a weak one. Check that the evaluate step loaded "
                "the checkpoint of this run and does not cut scores too high."
            )
    if train_images is not None and train_images < 100 and (ap50 or 0.0) < 0.75:
        advice.append(
            f"{_count(train_images, 'training image')} is little for DETR. A few hundred make a clear difference."
        )
    total = sum(image.hits + image.missed for image in images)
    recall = sum(image.hits for image in images) / total if total else 0.0
    if balance and ap50 is not None and ap50 >= 0.05 and recall < 0.6 * balance["reach"]:
        advice.append(
            f"It is right more often than it is sure: at a score of {threshold:.2f} it finds "
            f"{_percent(recall)} of the objects, from {balance['score']} on up {balance['recall']}. "
            "Use the lower score, or train longer."
        )
    validated = [
        (value, int(record["epoch"]))
        for record in log
        if (value := _number(_within(record, "val", "loss"))) is not None
    ]
    if len(validated) >= 5 and fell and ap50 is not None and ap50 >= 0.01:
        low, low_epoch = min(validated)
        if validated[-1][0] > 1.15 * low and validated[-1][1] - low_epoch >= 0.2 * validated[-1][1]:
            advice.append(
                f"It began to learn the training images by heart: the validation loss was lowest in epoch "
                f"{low_epoch} and has risen since. Fewer epochs, more augmentation or more images help."
            )
    best = facts["best_epoch"]
    if best and epochs and epochs >= 5 and best > 0.95 * epochs and ap50 is not None and ap50 >= 0.01:
        advice.append("AP was best at the very end of the training. Longer training may still improve it.")
    small, large = _measure(metrics.get("AP_small")), _measure(metrics.get("AP_large"))
    if small is not None and large is not None and large > 0.2 and small < 0.4 * large:
        advice.append(
            f"Small objects are its weak side (AP {small:.2f}, against {large:.2f} for large ones). Larger "
            "input images, or tiles cut from them, help."
        )
    measured = [row for row in classes if row["ap"] is not None]
    if len(measured) > 1 and ap is not None and ap > 0.05 and measured[-1]["ap"] < 0.5 * ap:
        weak = measured[-1]
        count = f": it has {_count(weak['train'], 'training box', 'training boxes')}" if weak["train"] else ""
        advice.append(f"The weakest class is “{weak['name']}” with AP {weak['ap']:.2f}{count}.")
    if 0 < facts["val_boxes"] < 50:
        advice.append(
            f"The validation set holds {_count(facts['val_boxes'], 'box', 'boxes')}: take every number here "
            "as a rough one."
        )
    return advice[:6]


def _tiles(
    metrics: dict[str, Any],
    hits: int,
    missed: int,
    false_alarms: int,
    facts: dict[str, Any],
    threshold: float,
) -> list[dict[str, Any]]:
    total, made = hits + missed, hits + false_alarms
    score = f"score ≥ {threshold:.2f}"

    def tile(name: str, text: str, note: str, title: str = "") -> dict[str, Any]:
        return {"name": name, "text": text, "note": note, "title": title}

    tiles = [
        tile(name, _shown(metrics.get(name))["text"], note, _shown(metrics.get(name))["title"])
        for name, note in (("AP", "IoU 0.50 to 0.95"), ("AP50", "IoU 0.50"))
    ]
    tiles.append(tile("Found", _percent(hits / total if total else None), f"{hits:,} of {total:,} boxes, {score}"))
    tiles.append(tile("Correct", _percent(hits / made if made else None), f"{hits:,} of {made:,} predictions, {score}"))
    if facts["time"]:
        per_step = f"{facts['per_step']:.2g} s a step" if facts["per_step"] else "training"
        device = f", {facts['device']}" if facts["device"] else ""
        tiles.append(tile("Training time", facts["time"], per_step + device))
    return tiles


def _plain(key: str) -> str:
    words = key.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _prepared_tables(prepared: dict[str, Any]) -> list[dict[str, Any]]:
    """Every map of counts in the prepare report as a small table; maps of maps get a column a key."""
    tables = []
    order = ("images", "boxes", "dropped", "repaired", "classes")
    for key in [*(k for k in order if k in prepared), *sorted(k for k in prepared if k not in order)]:
        value = prepared[key]
        if not isinstance(value, dict):
            continue
        if value and all(isinstance(row, dict) for row in value.values()):
            columns = list(dict.fromkeys(str(name) for row in value.values() for name in row))
            rows = [(str(name), [_cell(row.get(c)) for c in columns]) for name, row in value.items()]
            tables.append({"name": _plain(key), "columns": [_plain(c) for c in columns], "rows": rows})
        elif all(_number(count) is not None for count in value.values()):
            # Class names and file names stay as they are; the keys of these maps are reasons and splits.
            rows = [(_plain(str(name)), [_cell(count)]) for name, count in value.items()]
            tables.append({"name": _plain(key), "columns": [], "rows": rows})
    return tables


def _cell(value: object) -> str:
    number = _number(value)
    if number is None:
        return _DASH if value is None or isinstance(value, float) else str(value)
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"


def _settings(trained: dict[str, Any]) -> list[tuple[str, str]]:
    """The run's configuration as rows, nested keys joined by dots."""
    rows: list[tuple[str, str]] = []

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
            rows.append((prefix, text if len(text) <= 300 else text[:299] + "…"))

    config = trained.get("config")
    if isinstance(config, dict):
        walk("", config)
    return rows


# --- drawing ---------------------------------------------------------------------------------------------

_Line = tuple[Sequence[float], Sequence["float | None"], str]


def _training_charts(log: Sequence[dict[str, Any]], facts: dict[str, Any]) -> list[dict[str, Any]]:
    epochs = [float(record["epoch"]) for record in log]
    both = [("Training", "first"), ("Validation", "second")]
    charts: list[dict[str, Any]] = []

    def add(
        title: str,
        note: str,
        legend: list[tuple[str, str]],
        paths: tuple[tuple[str, ...], tuple[str, ...]],
        **options: Any,
    ) -> None:
        series = [_series(log, *path) for path in paths]
        drawn = [
            (epochs, values, colour)
            for values, colour in zip(series, (_FIRST, _SECOND), strict=True)
            if any(value is not None for value in values)
        ]
        if drawn:
            kept = [name for name, values in zip(legend, series, strict=True) if any(v is not None for v in values)]
            svg = _chart(f"c{len(charts)}", drawn, **options)
            charts.append({"title": title, "note": note, "legend": kept, "svg": svg})

    aps = [value for name in ("AP", "AP50") for value in _series(log, "val", name) if value is not None and value >= 0]
    add(
        "AP and AP50",
        "on the validation images, higher is better",
        [("AP", "first"), ("AP50", "second")],
        (("val", "AP"), ("val", "AP50")),
        bounds=(0.0, min(1.02, max(0.1, 1.08 * max(aps, default=0.0)))),
        mark=facts["best_epoch"],
    )
    for key, title, note in (
        ("loss", "Total loss", "the weighted sum that is minimised"),
        ("loss_ce", "Class loss", "is it the right class? (cross entropy)"),
        ("loss_bbox", "Box loss, L1", "how far off are the sides?"),
        ("loss_giou", "Box loss, GIoU", "how badly do the boxes overlap?"),
    ):
        add(title, note, both, (("train", key), ("val", key)))
    add(
        "Learning rate",
        "on a logarithmic scale",
        [("Transformer", "first"), ("Backbone", "second")],
        (("lr",), ("lr_backbone",)),
        logarithmic=True,
    )
    return charts


def _chart(
    name: str,
    lines: Sequence[_Line],
    *,
    bounds: tuple[float, float] | None = None,
    mark: float | None = None,
    logarithmic: bool = False,
    whole: bool = True,
) -> str:
    """Draw lines as an SVG element whose colours are the page's CSS variables."""
    import re

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    # Text stays text: it takes the page's font, and the file is small. The salt makes ids repeatable.
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=(3.7, 2.35), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        top = 0.0
        logarithmic = logarithmic and any(y is not None and y > 0 for _, ys, _ in lines for y in ys)
        for xs, ys, colour in lines:
            points = [
                (x, y) for x, y in zip(xs, ys, strict=True) if y is not None and (y > 0 if logarithmic else y >= 0)
            ]
            if not points:
                continue
            top = max(top, max(y for _, y in points))
            # A few points alone would be a short, hard to see line.
            marker = "o" if len(points) < 12 else ""
            style = "steps-post" if logarithmic else "default"
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                linewidth=1.8,
                marker=marker,
                markersize=3.2,
                drawstyle=style,
            )
        if mark is not None:
            axes.axvline(mark, color=_INK, linewidth=0.9, dashes=(2, 2), zorder=0.5)
        if logarithmic:
            axes.set_yscale("log")
            # Whole decades, or a constant rate would stand on an axis without a number.
            positive = [y for _, ys, _ in lines for y in ys if y is not None and y > 0]
            axes.set_ylim(
                10.0 ** math.floor(math.log10(min(positive)) - 0.01),
                10.0 ** math.ceil(math.log10(max(positive)) + 0.01),
            )
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(*(bounds or (0.0, 1.06 * top or 1.0)))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        if whole:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            xs = lines[0][0]
            if min(xs) == max(xs):
                axes.set_xlim(xs[0] - 1, xs[0] + 1)
        else:
            axes.set_xlim(0.0, 1.0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        axes.grid(axis="y", color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_INK, labelsize=8, length=0, pad=5)
        axes.set_xlabel("epoch" if whole else "score", color=_INK, fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # The size comes from the page; ids must differ between the charts of one page.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    for stand_in, variable in _CSS_COLOURS.items():
        svg = svg.replace(stand_in, variable)
    return svg


def _picture(image: _Image, group: str, dataset_dir: Path, names: dict[int, str], threshold: float) -> dict[str, Any]:
    """An image as the page draws it: a thumbnail and its boxes in the thumbnail's coordinates."""
    path = Path(image.file_name)
    uri, width, height = _thumbnail(dataset_dir / path, image.width, image.height)
    # Small images are drawn as large as the others, so that the labels fit.
    scale = min(_THUMBNAIL[0] / width, _THUMBNAIL[1] / height)
    view = (round(width * scale, 1), round(height * scale, 1))

    shown = [index for index, box in enumerate(image.predictions) if box.score >= threshold]
    note = ""
    if not shown and image.predictions:
        shown = list(range(min(_TOP_FEW, len(image.predictions))))
        scores = f"{image.predictions[shown[-1]].score:.2f} to {image.predictions[0].score:.2f}"
        few = "the best one is" if len(shown) == 1 else f"the best {len(shown)} are"
        note = f"No prediction scores {threshold:.2f}; {few} drawn ({scores})."
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
            view,
            names,
            "crowd" if image.truth[index].crowd else "found" if index in found else "missed",
        )
        for index in order[-_MAX_DRAWN:]
    ]
    states = {-1: "wrong", -2: "ignored"}
    predictions = [
        # Weak first, so that the surest lies on top.
        _rectangle(image.predictions[i], scale, view, names, states.get(image.found[i], "right"), scored=True)
        for i in reversed(shown)
    ]
    return {
        "uri": uri,
        "name": "/".join(path.parts[-2:]) if path.is_absolute() else image.file_name,
        "view": view,
        "truth": truth,
        "predictions": predictions,
        "group": group if image.truth else "no true boxes",
        "clean": not image.errors,
        "note": note.strip(),
        "found": image.hits,
        "missed": image.missed,
        "false_alarms": image.false_alarms,
    }


def _rectangle(
    box: _Box,
    scale: float,
    view: tuple[float, float],
    names: dict[int, str],
    state: str,
    *,
    scored: bool = False,
) -> dict[str, Any]:
    name = names.get(box.category, f"class {box.category}")
    score = f" {box.score:.2f}" if scored else ""
    # With one class its name says nothing, and on a crowded image it hides a lot.
    kind = "" if len(names) == 1 else name if len(name) <= 15 else name[:14].rstrip() + "…"
    short = (kind + score).strip()
    x, y, w, h = (round(side * scale, 1) for side in (box.x, box.y, box.w, box.h))
    # A prediction's label stands over its box, a missed object's under it, so that the two do not collide.
    label_y = (y - 3 if y >= 14 else y + 12) if scored else (y + h + 11 if y + h + 13 < view[1] else y + h - 4)
    return {
        "x": x,
        "y": y,
        "w": w,
        "h": h,
        "state": state,
        "label": short,
        "label_x": round(max(2.0, min(x + 1, view[0] - 7.2 * len(short))), 1),
        "label_y": round(min(max(label_y, 11.0), view[1] - 3), 1),
        "title": name + (f", score {box.score:.3f}" if scored else f", truth, {state}"),
    }


def _thumbnail(path: Path, width: float, height: float) -> tuple[str | None, float, float]:
    """A JPEG data URI and the size that the annotations refer to; None where the image cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            raw = opened.size
            turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            # Labels either refer to the stored pixels or to the image as a viewer turns it: their size tells.
            upright = turned and (width, height) == (raw[1], raw[0]) and raw[0] != raw[1]
            opened.draft("RGB", (2 * max(_THUMBNAIL), 2 * max(_THUMBNAIL)))
            picture: Image.Image = ImageOps.exif_transpose(opened) if upright else opened
            if picture.mode[0] in "IF":
                # Sixteen bit and float images have no fixed white: stretch what is there.
                picture = picture.convert("F")
                low, high = (float(v) for v in picture.getextrema())  # type: ignore[arg-type]
                gain = 255.0 / (high - low) if high > low else 1.0
                picture = picture.point(lambda value: value * gain - low * gain).convert("L")
            picture = picture.convert("RGB")
            picture.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
            data = io.BytesIO()
            picture.save(data, "JPEG", quality=80, optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, max(width, 1.0) if width else 4.0, max(height, 1.0) if height else 3.0
    if width <= 0 or height <= 0:
        width, height = raw
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode(), width, height


# --- writing ---------------------------------------------------------------------------------------------


def _render(**values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(**values)


def _replace(path: Path, text: str) -> Path:
    """Write beside the target and move it there, so that nobody ever uploads half a page."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A file name may hold bytes that are no text: they must not cost the page.
        temporary.write_text(text, encoding="utf-8", errors="replace")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
