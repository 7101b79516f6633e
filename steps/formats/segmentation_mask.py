"""Segmentation mask: Pascal VOC's `SegmentationObject/`, `SegmentationClass/` and `labelmap.txt`, without boxes.

CVAT paints rectangles and polygons too; what lies under another object is lost. Its lists leave out the images that
have annotations, but none that is painted.
"""

from pathlib import Path

from steps.dataset.lookup import files_below, is_image
from steps.dataset.model import Dataset
from steps.formats import voc

TAG = "cvat_mask"
TITLE = "Segmentation mask 1.1"


def recognise(root: Path) -> list[Path]:
    """Give the lists of images with masks, where there are no annotation files."""
    if voc.recognise(root):
        return []
    return [path for path in files_below(root, lambda name: name.endswith(".txt")) if voc.is_list(path, "Segmentation")]


def read(root: Path, dataset: Dataset) -> None:
    """Read the boxes around the masks of each image.

    Raises:
        StepError: a list, a mask or the label map cannot be read.
    """
    voc.read(root, dataset, lists="Segmentation")
    listed = set(dataset.names)
    for path in files_below(root, is_image):
        name = path.relative_to(root).as_posix()
        if "JPEGImages" in path.relative_to(root).parts[:-1] and name not in listed:
            dataset.image(name)
