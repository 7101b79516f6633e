"""Objects that a Pascal VOC dump holds as masks: a colour an object, and a colour a class in a second image."""

from __future__ import annotations

from pathlib import Path

from steps.formats import mask_image
from steps.formats.shapes import Box

_VOID = (224, 224, 192)
"""Colour of the rim between objects in the challenge's own masks."""


def palette(index: int) -> int:
    """The challenge's colour of a number, as 0xRRGGBB: its bits spread over the channels, highest first."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (index >> channel & 1) << (7 - bit)
        index >>= 3
    return channels[0] << 16 | channels[1] << 8 | channels[2]


def class_colours(label_map: list[tuple[str, str]]) -> dict[int, str]:
    """Names of classes by colour, from the rows (name, "r,g,b") of `labelmap.txt`; an empty colour is the palette's."""
    colours: dict[int, str] = {}
    for index, (name, written) in enumerate(label_map):
        parts = written.split(",")
        right = len(parts) == 3 and all(part.strip().isdecimal() for part in parts)
        red, green, blue = (min(int(part), 255) for part in parts) if right else (0, 0, 0)
        colours[red << 16 | green << 8 | blue if right else palette(index)] = name
    return colours


def objects(object_mask: Path, class_mask: Path, colours: dict[int, str]) -> list[tuple[str | None, Box]]:
    """Give the class of each object, None where its colour belongs to no class, and the box around its pixels.

    Raises:
        StepError: a mask is not a readable image, or the two have different sizes.
    """
    void = _VOID[0] << 16 | _VOID[1] << 8 | _VOID[2]
    found = mask_image.regions(object_mask, mask_image.colours(object_mask), mask_image.colours(class_mask))
    return [(colours.get(each.part), each.box) for each in found if each.value not in (0, void)]
