"""What was measured on small sets, to compare a run with before it starts.

The figures are those of `benchmarks/README.md` and of the runs behind it: on validation images, with one or
two seeds, so a difference of a few hundredths says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

_ALIKE = 4.0
"""How many times larger or smaller a set may be to be compared with."""


@dataclass(frozen=True)
class Reference:
    """Results of a model on a set; lowest and highest of the runs."""

    model: str
    what: str
    images: int
    """To train on."""
    seen: int
    """Images seen in training, over all epochs."""
    ap: tuple[float, float]
    ap50: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"{self.model} on {self.images} {self.what}: AP {_span(self.ap)}, AP50 {_span(self.ap50)}"
            f" after {self.seen:,} images seen"
        )


_RESULTS = (
    Reference("ddq_lite0", "photographs of blood cells (BCCD, 3 classes)", 291, 2037, (0.590, 0.596), (0.907, 0.920)),
    Reference("ddq_lite0", "photographs of blood cells (BCCD, 3 classes)", 40, 800, (0.527, 0.534), (0.860, 0.862)),
    Reference("ddq_lite0", "photographs of raccoons (1 class)", 160, 960, (0.592, 0.655), (0.920, 0.991)),
    Reference(
        "ddq_lite0", "drawn images of many objects of 6 to 10 px, at 512 px", 160, 640, (0.741, 0.747), (0.919, 0.919)
    ),
    Reference("ddq_lite0", "drawn images (3 shapes)", 400, 2400, (0.845, 0.845), (1.0, 1.0)),
)


def comparable(model: str, images: int) -> list[str]:
    """Lines that say what was reached on sets of like size: with the same model, or else with others.

    Args:
        model: that is to be trained.
        images: number of training images.
    """
    alike = [row for row in _RESULTS if images / _ALIKE <= row.images <= images * _ALIKE]
    same = [row for row in alike if row.model == model]
    if not alike:
        return [f"no results were measured on sets of about {images:,} images, so there is nothing to compare with"]
    whose = "" if same else f" (with other models; none was measured with {model})"
    return [
        f"measured on sets of like size{whose}; yours may be easier or harder:",
        *(f"  {row}" for row in same or alike),
    ]


def _span(values: tuple[float, float]) -> str:
    low, high = (f"{value:.2f}" for value in values)
    return low if low == high else f"{low} to {high}"
