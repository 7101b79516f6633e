"""What the numbers mean, in words: the verdict, the facts of the run, and what a colleague would point out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.report.counting import ClassRow, Gap, Totals
from steps.report.formats import count, duration, listed, percent, shortened, shown
from steps.report.matching import ValImage
from steps.report.reading import Thresholds, first_number, measure, number, series, within

_NOTHING = 0.01
"""AP50 below which a model found nothing."""
_TINY_SIDE = 16
"""Half the stride of the backbone's last layer: of an object with a shorter side little is left there."""

_LEARNT = 0.3
"""Precision and recall below which a model has only begun to learn."""
_RELIABLE, _MANY = 0.9, 3
"""Precision or recall below which errors are worth advice, if there are at least so many of them."""


@dataclass(frozen=True)
class Facts:
    """What is known about the run, from whichever file says it."""

    model: str
    checkpoint: str
    origin: list[tuple[str, str, str]]
    """Where the numbers come from: name, text, and the text in full where it is shortened."""
    device: str
    parameters: float | None
    train_images: int | None
    val_images: int
    val_boxes: int
    classes: int
    class_names: str
    epochs: int | None
    best_epoch: int | None
    time: str
    per_step: float | None
    on_train: str
    on_classes: str
    held_out: bool
    """Whether the images that it was measured on are others than those it trained on."""

    @property
    def measured_on(self) -> str:
        """What kind of images the numbers are of."""
        return "validation" if self.held_out else "training"


def facts_of(
    metrics: dict[str, Any],
    trained: dict[str, Any],
    prepared: dict[str, Any],
    names: dict[int, str],
    images: Sequence[ValImage],
    log: Sequence[dict[str, Any]],
) -> Facts:
    """Gather the facts."""
    train_images = first_number(
        within(trained, "images", "train"), trained.get("images"), within(prepared, "images", "train")
    )
    train_boxes = first_number(within(prepared, "boxes", "train"))
    epochs = first_number(trained.get("epochs"), log[-1].get("epoch") if log else None)
    seconds = first_number(trained.get("seconds"), sum(number(record.get("seconds")) or 0.0 for record in log) or None)
    class_names = list(names.values())
    checkpoint = metrics.get("checkpoint")
    return Facts(
        model=str(metrics.get("model") or trained.get("model") or "A detector"),
        checkpoint=Path(str(checkpoint)).name if checkpoint else "",
        origin=_origin(metrics, prepared),
        device=str(trained.get("device") or ""),
        parameters=first_number(trained.get("parameters")),
        train_images=None if train_images is None else int(train_images),
        val_images=int(first_number(metrics.get("images"), len(images)) or 0),
        val_boxes=int(first_number(metrics.get("boxes"), sum(len(image.truth) for image in images)) or 0),
        classes=len(class_names),
        class_names=", ".join(shortened(name, 40) for name in class_names[:6])
        + (f" and {len(class_names) - 6} more" if len(class_names) > 6 else ""),
        epochs=None if epochs is None else int(epochs),
        best_epoch=_best_epoch(metrics, trained, log),
        time=duration(seconds),
        per_step=first_number(trained.get("seconds_per_step"), log[-1].get("seconds_per_step") if log else None),
        on_train=" with ".join(
            part for part in (count(train_images, "image"), count(train_boxes, "box", "boxes")) if part
        ),
        on_classes=count(len(class_names), "class", "classes"),
        held_out=prepared.get("validated_on_training_set") is not True,
    )


def _origin(metrics: dict[str, Any], prepared: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Run, date, dump, digest and commit, as far as they are known."""
    digest = str(prepared.get("digest") or "")
    rows = [
        ("Run", str(metrics.get("run") or ""), ""),
        ("Evaluated", str(metrics.get("evaluated") or "").replace("T", " ").replace("+00:00", " UTC"), ""),
        ("Dump", str(prepared.get("dump") or ""), ""),
        ("Digest", digest[:12], f"SHA-256 of the prepared dataset: {digest}"),
        ("Version", str(metrics.get("commit") or ""), ""),
    ]
    return [row for row in rows if row[1]]


def _best_epoch(metrics: dict[str, Any], trained: dict[str, Any], log: Sequence[dict[str, Any]]) -> int | None:
    if (measure(metrics.get("AP50")) or 0.0) < _NOTHING:
        return None  # the best of epochs that all found nothing says nothing
    measured = [
        (ap, int(record["epoch"])) for record in log if (ap := measure(within(record, "val", "AP"))) is not None
    ]
    # The earliest of equals, as a trainer that keeps "better than before" does.
    from_log = max(measured, key=lambda pair: (pair[0], -pair[1]))[1] if measured else None
    best = first_number(trained.get("best_epoch"), from_log)
    return None if best is None else int(best)


def verdict(metrics: dict[str, Any], sums: Totals, any_predictions: bool, held_out: bool) -> dict[str, str]:
    """Whether the model is any good, in a headline, a sentence and a tone (good, fair or bad).

    Args:
        metrics: the evaluation's.
        sums: what is right and wrong at the operating point.
        any_predictions: whether it predicted anything at all.
        held_out: whether it was measured on images that it did not train on.
    """
    ap, ap50 = measure(metrics.get("AP")), measure(metrics.get("AP50"))
    if ap50 is None or sums.recall is None:
        return {
            "tone": "bad",
            "head": "Nothing could be measured.",
            "body": "The validation set has no boxes, or the evaluation gave no number, so it is "
            "unknown whether this model works. Put labelled images into the validation set and evaluate again.",
        }
    if ap50 < _NOTHING:
        said = "predicts boxes, but not where the objects are" if any_predictions else "predicts no boxes"
        return {
            "tone": "bad",
            "head": "Found nothing.",
            "body": f"The model {said}. It has not learnt the task, or not yet; do not use it.",
        }
    recall, precision = sums.recall, sums.precision or 0.0
    head, tone, meaning = _judged(precision, recall)
    on = "" if held_out else " of its training images"
    right = f"{percent(precision)} of its predictions are right" if sums.made else "no prediction reaches the threshold"
    body = f"At its operating point it finds {percent(recall)} of the objects{on}, and {right}. {meaning}"
    if not held_out:
        tone = "fair" if tone == "good" else tone
        head = head.replace(".", " on its training images.")
        body += " How it does on images that it did not train on was not measured."
    if ap is not None and ap < 0.4 * ap50 and _has_learnt(sums):
        body += " Its boxes are on the right objects but fit loosely: AP is far below AP50."
    return {"tone": tone, "head": head, "body": body}


def _has_learnt(sums: Totals) -> bool:
    return max(sums.precision or 0.0, sums.recall or 0.0) >= _LEARNT


def _judged(precision: float, recall: float) -> tuple[str, str, str]:
    """Headline, tone and meaning of a precision and a recall."""
    worse, better = sorted((precision, recall))
    if worse >= 0.9:
        return "Finds nearly everything, with few false positives.", "good", "It can work on its own."
    if worse >= 0.8:
        return "Works well.", "good", "It can work on its own where a few errors do no harm."
    if worse >= 0.6:
        return "Finds most objects.", "fair", "Useful where a person checks, such as for pre-labelling."
    if better < _LEARNT:
        return "Has only just begun to learn.", "bad", "Too early to use; more training should change that."
    if better < 0.6:
        return "Misses many objects, and is often wrong.", "bad", "It is not reliable enough to use yet."
    if recall < precision:
        return "Misses many objects.", "fair", "What it predicts is mostly right; a person must add the rest."
    return "Finds most objects, with many false positives.", "fair", "A person must remove what is wrong."


def tiles(
    metrics: dict[str, Any], sums: Totals, facts: Facts, thresholds: Thresholds, names: dict[int, str]
) -> list[dict[str, Any]]:
    """The few numbers at the top."""

    def tile(name: str, text: str, note: str, title: str = "") -> dict[str, Any]:
        return {"name": name, "text": text, "note": note, "title": title}

    score = f"score ≥ {_range(thresholds, names)}"
    found = [
        tile("Recall", percent(sums.recall), f"{sums.hits:,} of {sums.boxes:,} boxes found, {score}"),
        tile("Precision", percent(sums.precision), f"{sums.hits:,} of {sums.made:,} predictions right, {score}"),
    ]
    found += [
        tile(name, shown(metrics.get(name))["text"], note, shown(metrics.get(name))["title"])
        for name, note in (("AP50", "IoU 0.50"), ("AP", "IoU 0.50 to 0.95"))
    ]
    if facts.time:
        per_step = f"{facts.per_step:.2g} s a step" if facts.per_step else "training"
        found.append(tile("Training time", facts.time, per_step + (f", {facts.device}" if facts.device else "")))
    return found


def _range(thresholds: Thresholds, names: dict[int, str]) -> str:
    scores = sorted({f"{thresholds.of(key):.2f}" for key in names} or {f"{thresholds.others:.2f}"})
    return scores[0] if len(scores) == 1 else f"{scores[0]} to {scores[-1]} by class"


def which_predictions(thresholds: Thresholds, names: dict[int, str]) -> str:
    """The words behind "predictions with"."""
    scores = _range(thresholds, names)
    if "by class" in scores:
        return f"a score at or above the threshold of their class ({scores.removesuffix(' by class')})"
    return f"a score of {scores} or more"


_MOST_GAPS = 3


def annotate_next(sums: Totals, found: Sequence[Gap], classes: Sequence[ClassRow]) -> list[str]:
    """Of which objects more annotated images would help most: those that it misses most often.

    Args:
        sums: what is right and wrong at the operating point.
        found: what was missed, most first.
        classes: for the numbers of training boxes.
    """
    if not _has_learnt(sums):
        return []  # it misses nearly everything, whatever was annotated
    train = {row.name: row.train_boxes for row in classes}
    lines = []
    for gap in found[:_MOST_GAPS]:
        few = count(train.get(gap.name), "training box", "training boxes")
        lines.append(
            f"{gap.size} “{shortened(gap.name, 40)}”: {gap.missed:,} of {gap.boxes:,} missed"
            + (f" ({few} of any size)" if few else "")
        )
    return lines


def advice(
    facts: Facts,
    metrics: dict[str, Any],
    trained: dict[str, Any],
    log: Sequence[dict[str, Any]],
    images: Sequence[ValImage],
    classes: Sequence[ClassRow],
    sums: Totals,
) -> list[str]:
    """What a colleague would point out in these numbers, the most telling first."""
    ap50 = measure(metrics.get("AP50"))
    lines = _on_divergence(log) + _on_no_validation(facts)
    if ap50 is not None and (ap50 < _NOTHING or not _has_learnt(sums)):
        lines += _on_nothing(facts, trained, log, images)
        lines += _on_settings(trained, images)
        return lines
    lines += _on_settings(trained, images) if (ap50 or 0.0) < 0.5 else []
    if facts.train_images is not None and facts.train_images < 100 and (ap50 or 0.0) < 0.75:
        lines.append(_few_images(facts.train_images))
    if ap50 is not None:
        lines += _on_errors(sums, classes)
        lines += _on_curves(facts, log)
        lines += _on_weak_sides(metrics, classes)
    if 0 < facts.val_boxes < 50:
        lines.append(
            f"The validation set holds {count(facts.val_boxes, 'box', 'boxes')}: every number here is a rough estimate."
        )
    return lines[:6]


def _on_divergence(log: Sequence[dict[str, Any]]) -> list[str]:
    for record in log:
        losses = record.get("train")
        if isinstance(losses, dict) and "loss" in losses and number(losses["loss"]) is None:
            return [
                f"The training loss stopped being a number in epoch {int(record['epoch'])}. Lower the learning rate "
                "(a third is a good start) and keep gradient clipping on."
            ]
    return []


def _on_no_validation(facts: Facts) -> list[str]:
    if facts.held_out:
        return []
    return [
        "There is no validation set (val-split 0), so every number here is of images that it trained on: on new images "
        "it will do worse. Set val-split to 10 or 20 to see how much."
    ]


def _on_nothing(
    facts: Facts,
    trained: dict[str, Any],
    log: Sequence[dict[str, Any]],
    images: Sequence[ValImage],
) -> list[str]:
    """Why a model may have found hardly anything: its losses, its start, its model, and what it predicts."""
    given = trained.get("config")
    config = given if isinstance(given, dict) else {}
    lines = []
    losses = [loss for loss in series(log, "train", "loss") if loss is not None]
    if len(losses) > 1:
        rate = first_number(config.get("lr"), log[-1].get("lr"))
        lines.append(
            f"The training loss fell from {losses[0]:.2f} to {losses[-1]:.2f}, so it is learning: most likely it "
            "needs more epochs."
            if _fell(losses)
            else f"The training loss did not fall ({losses[0]:.2f} to {losses[-1]:.2f}). Try a lower learning rate"
            + (f" than {rate:g}" if rate else "")
            + ", and check in the images below that the true boxes lie on the objects."
        )
    # Of a model that is not made for photographs.
    note = str(trained.get("model_note") or "")
    lines.append(_on_start(facts, config, for_drawings=bool(note)))
    if note:
        lines.append(note)
    if facts.train_images is not None and facts.train_images < 100:
        lines.append(_few_images(facts.train_images))
    scores = [box.score for image in images for box in image.predictions]
    if scores:
        guessing = " Until scores rise, the model is guessing." if max(scores) < 0.5 else ""
        lines.append(f"The most confident prediction scores {max(scores):.2f}.{guessing}")
    elif images:
        lines.append(
            "There is no prediction at all, not even a weak one. Check that the evaluate step loaded the checkpoint "
            "of this run."
        )
    return lines


def _on_start(facts: Facts, config: dict[str, Any], *, for_drawings: bool) -> str:
    """What to expect of the weights that the training started from, after so many epochs."""
    ran = f"; this run had {facts.epochs}." if facts.epochs is not None else "."
    pretrained = config.get("pretrained")
    if pretrained and pretrained != "imagenet":
        return (
            f"It started from pretrained weights ({pretrained}), where a few epochs usually find something{ran} If "
            "more epochs change nothing, look at the learning rate and at the boxes in the images below."
        )
    if for_drawings:
        return f"It started from random weights, and from there even drawn shapes take dozens of epochs{ran}"
    if pretrained == "imagenet":
        start = "Only its backbone was pretrained (pretrained: imagenet); the rest needs hundreds of epochs"
    elif "pretrained" in config:
        start = "It started from random weights (pretrained: none), and from there a detector needs hundreds of epochs"
    else:
        start = "Without pretrained weights AP often stays at zero for dozens of epochs"
    return start + ran + " Train several times as long, or start from weights trained on COCO (pretrained: coco)."


def _on_settings(trained: dict[str, Any], images: Sequence[ValImage]) -> list[str]:
    """Whether the objects are large enough for the model, and not more than it can predict."""
    lines = []
    shorter, longest = (number(within(trained, "config", key)) for key in ("image_size", "max_size"))
    if shorter and longest:
        sides = sorted(
            min(box.w, box.h) * min(shorter / min(image.width, image.height), longest / max(image.width, image.height))
            for image in images
            if image.width > 0 and image.height > 0
            for box in image.truth
            if not box.crowd
        )
        tiny = sum(side < _TINY_SIDE for side in sides)
        if sides and tiny > 0.5 * len(sides):
            lines.append(
                f"The objects are small for the model: at the size that it sees the images (image_size {shorter:.0f}), "
                f"{percent(tiny / len(sides))} of the boxes are under {_TINY_SIDE} px wide or high. "
                "Raise image_size and max_size, or cut the images into tiles."
            )
    limit = number(within(trained, "object_limit", "value"))
    most = max((sum(not box.crowd for box in image.truth) for image in images), default=0)
    if limit and most > limit:
        lines.append(
            f"One image has {most} objects, but the model can find {limit:.0f} in an image at most. "
            f"Raise {within(trained, 'object_limit', 'setting')}."
        )
    return lines


def _few_images(train_images: int) -> str:
    few = "is very little" if train_images == 1 else "are few"
    return f"{count(train_images, 'training image')} {few}. A few hundred make a clear difference."


def _on_errors(sums: Totals, classes: Sequence[ClassRow]) -> list[str]:
    """What kinds of errors are many, and what helps against each."""
    lines = []
    wrong, missed = sums.false_positives, sums.missed
    if wrong >= _MANY and (sums.precision or 0.0) < _RELIABLE:
        elsewhere = wrong - sums.confused - sums.repeated
        kinds = {
            f"{elsewhere:,} where no object is annotated": elsewhere,
            f"{sums.repeated:,} on an object that another prediction found already": sums.repeated,
            f"{sums.confused:,} on an object of another class": sums.confused,
        }
        most = max(kinds.values())
        if elsewhere == most:
            remedy = (
                "Look at the images with the most errors: annotate what was left out, and add images of what it takes "
                "for an object, without boxes."
            )
        elif sums.repeated == most:
            remedy = "Longer training teaches it to predict each object once."
        else:
            remedy = "Check that these classes are labelled the same way everywhere, and annotate more of both."
        where = _mostly({row.name: row.false_positives for row in classes})
        lines.append(
            f"{wrong:,} of its {sums.made:,} predictions are false positives{where}: "
            f"{listed([text for text, number in kinds.items() if number])}. {remedy}"
        )
    if missed >= _MANY and (sums.recall or 0.0) < _RELIABLE:
        where = _mostly({row.name: row.missed for row in classes})
        seen = (
            f" {sums.overlooked:,} of them it does predict, but with a score below the threshold: more images, "
            "or longer training, raise the scores."
            if 2 * sums.overlooked > missed
            else " For most of them it predicts nothing that fits: see below what to annotate next."
        )
        lines.append(f"It misses {missed:,} of {sums.boxes:,} objects{where}.{seen}")
    return lines


def _mostly(errors: dict[str, int]) -> str:
    """The class that more than half of the errors are of, where there are several classes."""
    name, number = max(errors.items(), key=lambda pair: pair[1], default=("", 0))
    return f", most of them “{shortened(name, 40)}”" if len(errors) > 1 and 2 * number > sum(errors.values()) else ""


def _on_curves(facts: Facts, log: Sequence[dict[str, Any]]) -> list[str]:
    """Whether it trained too long, or not long enough."""
    lines = []
    losses = [loss for loss in series(log, "train", "loss") if loss is not None]
    validated = [
        (value, int(record["epoch"])) for record in log if (value := number(within(record, "val", "loss"))) is not None
    ]
    if len(validated) >= 5 and _fell(losses):
        low, low_epoch = min(validated)
        if validated[-1][0] > 1.15 * low and validated[-1][1] - low_epoch >= 0.2 * validated[-1][1]:
            lines.append(
                f"It overfits: the validation loss was lowest in epoch {low_epoch} and has risen since. "
                "Fewer epochs, more augmentation or more images help."
            )
    if facts.best_epoch and facts.epochs and facts.epochs >= 5 and facts.best_epoch > 0.95 * facts.epochs:
        lines.append("AP was best at the very end of training: training longer may still improve it.")
    return lines


def _fell(losses: Sequence[float]) -> bool:
    return len(losses) > 1 and losses[-1] < 0.9 * losses[0]


def _on_weak_sides(metrics: dict[str, Any], classes: Sequence[ClassRow]) -> list[str]:
    lines = []
    ap, small, large = (measure(metrics.get(name)) for name in ("AP", "AP_small", "AP_large"))
    if small is not None and large is not None and large > 0.2 and small < 0.4 * large:
        lines.append(
            f"It is weak on small objects (AP {small:.2f}, against {large:.2f} for large ones). Larger "
            "input images, or tiles cut from them, help."
        )
    measured = [row for row in classes if row.ap is not None]
    weakest = measured[-1] if len(measured) > 1 else None
    if weakest and weakest.ap is not None and ap is not None and ap > 0.05 and weakest.ap < 0.5 * ap:
        has = f": it has {count(weakest.train_boxes, 'training box', 'training boxes')}" if weakest.train_boxes else ""
        lines.append(f"The weakest class is “{shortened(weakest.name, 40)}” with AP {weakest.ap:.2f}{has}.")
    unseen = [row.name for row in classes if row.boxes == 0]
    if unseen and measured:
        named = ", ".join(f"“{shortened(name, 40)}”" for name in unseen[:3]) + (
            f" and {len(unseen) - 3} more" if len(unseen) > 3 else ""
        )
        lines.append(
            f"No validation image shows {named}, so its AP is unknown. Label more such images, or raise val-split."
        )
    return lines
