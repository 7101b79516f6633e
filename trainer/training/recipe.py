"""Settings that follow the size of the dataset, each with its reason.

The paper's settings are for the 118,000 images of COCO. With a few hundred, an epoch is a few steps: what counts is
how many steps there are, how many images stand behind each, and how often the same image is shown in the same way.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainer.config import MAY_CHANGE, NOT_FOR_USERS, TrainConfig, config_class, parse
from trainer.models.registry import family_of, model_info

_log = logging.getLogger("trainer")

LARGE = 20_000
"""Images from which on the paper's settings hold as they are."""

_FEW_PIXELS = 16
"""Side of an object in px below which a larger image is worth its time; see "Small objects" in benchmarks/README.md."""
_MOST_ON_A_CPU, _MOST_ON_A_GPU = 512, 1024
"""Shorter sides in px that an image is enlarged to at most."""

# Of the coarsest features: the sides of images are padded to multiples of it.
_STRIDE = 32
_SMALL_IS_ENOUGH = 20
"""Steps of an epoch below which an epoch means little."""


@dataclass(frozen=True)
class Facts:
    """What the recipe looks at."""

    images: int
    """To train on."""
    most_boxes: int
    """The most that one image has."""
    processes: int = 1
    gpu_memory: float | None = None
    """GB of the GPU; None on a CPU."""
    shorter_side: float | None = None
    """Median of the images' shorter sides in px."""
    smallest_class: tuple[str, float] | None = None
    """The class with the smallest objects, and the median of their sides as shares of their images' shorter sides."""


@dataclass(frozen=True)
class Choice:
    """A setting that nobody gave, and why it is what it is."""

    field: str
    value: Any
    reason: str

    def as_row(self) -> dict[str, Any]:
        """A dict of the three."""
        return asdict(self)


def keep_settings(config: TrainConfig, before: Mapping[str, Any], given: Collection[str]) -> TrainConfig:
    """The settings that a resumed run goes by.

    What is left out keeps the value that it had, whether it was given then or chosen by the recipe: half of an epoch
    in batches of four is not half of one in batches of eight, though the pod may have moved to another machine. What
    is given now and may change (`trainer.config.MAY_CHANGE`) counts, and the paths are always today's.

    Args:
        config: as given now, and found to agree (`trainer.training.train_state.check_settings`).
        before: every setting of the earlier run.
        given: the names of those that the user had given.

    Returns:
        The configuration, in which `model_fields_set` names what was given in either run.

    Raises:
        TrainerError: what is given now contradicts what is kept.
    """
    now = config.model_fields_set
    known = config_class(before["model"]).model_fields
    dropped = {*NOT_FOR_USERS, *now}
    kept = {name: value for name, value in before.items() if name in known and name not in dropped}
    merged = parse({**kept, **{name: getattr(config, name) for name in now}})
    plain = merged.model_dump(mode="json")
    differences = [
        f"{name} is now {getattr(merged, name)} ({before[name]} before)"
        for name in MAY_CHANGE
        if name in now and name in before and name not in NOT_FOR_USERS and plain[name] != before[name]
    ]
    differences += [f"{name} stays {kept[name]}, as given before" for name in kept if name in given]
    if differences:
        _log.info("settings of the resumed run: %s", "; ".join(differences))
    return type(merged).model_construct(_fields_set=now | (set(given) & set(kept)), **dict(merged))


def settle(config: TrainConfig, facts: Facts, decided: Collection[str] = ()) -> tuple[TrainConfig, list[Choice]]:
    """Chooses what was not given.

    Args:
        config: whose `model_fields_set` are left as they are.
        facts: of the dataset and the device.
        decided: names of more settings to leave as they are: those of the run that is resumed.

    Returns:
        The configuration to train with, and what was chosen, in the order in which it was.
    """
    if config.recipe == "paper":
        return config, []
    choices = _Choices(config, facts, config.model_fields_set | set(decided))
    choices.make_room_for_boxes()
    choices.fill_the_gpu()
    if facts.images < LARGE:
        choices.fit_the_images()
        choices.follow_the_size()
    return choices.config, choices.made


class _Choices:
    """A configuration under way, and what was chosen so far."""

    def __init__(self, config: TrainConfig, facts: Facts, decided: Collection[str]) -> None:
        self.config = config
        self.facts = facts
        self.made: list[Choice] = []
        self._decided = decided

    def choose(self, field: str, value: Any, reason: str) -> None:
        """Sets a field that is not decided; what changes nothing is not worth a line."""
        if field in self._decided or getattr(self.config, field) == value:
            return
        self.config = type(self.config).model_construct(
            _fields_set=self.config.model_fields_set, **{**dict(self.config), field: value}
        )
        self.made.append(Choice(field, value, reason))

    def make_room_for_boxes(self) -> None:
        """A limit on the objects in an image that no image comes near."""
        most, limit = self.facts.most_boxes, family_of(self.config.model).max_objects
        if limit is not None and most > 0.7 * getattr(self.config, limit):
            wanted = 10 * math.ceil(most * 1.5 / 10)
            self.choose(limit, wanted, f"an image has {most} objects, and the model needs some to spare")

    def fill_the_gpu(self) -> None:
        """A batch that the GPU's memory holds, without leaving an epoch with a handful of steps."""
        info = model_info(self.config.model)
        if self.facts.gpu_memory is None or info.small:
            return
        # Half precision takes less than float32, which leaves room for what else is on the GPU.
        image = info.gb_per_image * (self.config.image_size / 800) ** 2
        fits = max(1, int((self.facts.gpu_memory - 2) / image))
        useful = max(2, self.facts.images // (_SMALL_IS_ENOUGH * self.facts.processes))
        size = 2 ** int(math.log2(max(1, min(fits, useful, 16))))
        reason = f"the GPU has {self.facts.gpu_memory:.0f} GB, and an image of this size takes about {image:.1f} GB"
        self.choose("batch_size", size, reason)

    def fit_the_images(self) -> None:
        """No more pixels than the images have, where there are few; more of them where the objects have few."""
        size, side = self.config.image_size, self.facts.shorter_side
        if side is None or not model_info(self.config.model).small:
            return
        wanted, reason = size, ""
        if side < size:
            wanted = max(2 * _STRIDE, _STRIDE * math.ceil(side / _STRIDE))
            reason = f"half of the images have a shorter side of {side:.0f} px or less"
        name, share = self.facts.smallest_class or ("", 1.0)
        if 0 < share * wanted < _FEW_PIXELS:
            most = min(_MOST_ON_A_CPU if self.facts.gpu_memory is None else _MOST_ON_A_GPU, 2 * side)
            larger = _STRIDE * math.floor(min(most, _FEW_PIXELS / share + _STRIDE - 1) / _STRIDE)
            if larger > wanted:
                reason = (
                    f"half of class {name} would be {share * wanted:.0f} px large or less at {wanted} px, too few to "
                    f"be found by; a step takes up to {(larger / wanted) ** 2:.1f} times as long"
                )
                wanted = larger
        longest = _STRIDE * math.ceil(self.config.max_size * wanted / size / _STRIDE)
        self.choose("image_size", wanted, reason)
        if self.config.image_size == wanted != size:
            self.choose("max_size", longest, "as image_size")

    def follow_the_size(self) -> None:
        """What few images ask for."""
        config, facts = self.config, self.facts
        info = model_info(config.model)
        start = config.pretrained if config.pretrained in ("coco", "imagenet") else "checkpoint"
        start = "none" if config.pretrained is None else start
        an_epoch = math.ceil(facts.images / (config.batch_size * facts.processes))
        # Twice the images hold more to learn, but not twice as much.
        wanted = info.steps[start] * math.sqrt(max(facts.images, 50) / 300)
        given = config.pretrained if config.pretrained == "published" else start
        source = {"checkpoint": "a checkpoint", "none": "random weights"}.get(given, f"{given} weights")
        self.choose(
            "epochs",
            min(max(math.ceil(wanted / an_epoch), 12), 1000),
            f"from {source}, {facts.images} images want about {_two_digits(wanted):.0f} steps; an epoch has {an_epoch}",
        )
        epochs = self.config.epochs
        steps = epochs * an_epoch
        if not info.small:
            self._rates(config.batch_size * facts.processes)
        self.choose(
            "warmup_steps",
            min(500, max(1, steps // 20)),
            "a twentieth of the steps, so that a new class head does not upset the weights behind it",
        )
        self.choose("lr_drop_at", 0.8, "with few steps the full rate is worth more than the paper's long tail")
        if facts.images < 2_000 and not info.small:
            self.choose("augment", "strong", f"each of {facts.images} images is seen {epochs} times")
        self.choose(
            "ema_decay",
            round(min(0.9998, 1 - 1 / max(10, steps / 50)), 5),
            "the average over about a fiftieth of the steps validates better than any one step",
        )
        self.choose("eval_every", max(1, round(epochs / 40)), "some forty validations draw the curve")
        self.choose(
            "patience",
            max(5, math.ceil(epochs / self.config.eval_every / 4)),
            "validations that make a quarter of the run: what has not improved for so long will not",
        )
        often = max(1, min(self.config.eval_every, 100 // an_epoch))
        self.choose("checkpoint_every", often, f"an epoch has {an_epoch} steps, little to lose")

    def _rates(self, images_a_step: int) -> None:
        """Learning rates for a batch smaller than the paper's."""
        factor = min(1.0, math.sqrt(images_a_step / 16))
        self.choose(
            "lr",
            _two_digits(self.config.lr * factor),
            f"the paper's is for 16 images a step and more, this run has {images_a_step}; Adam's follows the root",
        )
        if self.config.pretrained is None:
            self.choose("lr_backbone", self.config.lr, "a backbone of random weights has everything to learn")
        else:
            self.choose("lr_backbone", _two_digits(self.config.lr_backbone * factor), "as lr")


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
