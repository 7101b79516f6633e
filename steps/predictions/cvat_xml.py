"""CVAT's own XML: "CVAT for images 1.1" where it is exported, "CVAT 1.1" where it is imported.

Source: docs.cvat.ai/docs/manual/advanced/xml_format, and cvat/apps/dataset_manager/formats/cvat.py (load_anno). CVAT
pairs images by their path without suffix. Of attributes it keeps those that the label has, and leaves out others.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

from steps.predictions.archive import only_file
from steps.predictions.predicted import Predictions

_FIRST_ID = 10**9
"""An id is what CVAT takes for the number of a frame where it knows no image of the name: boxes of a missing image went
to another one. No task has as many frames, and so the import ends with the name that does not match."""


def write_images(predictions: Predictions, target: Path) -> None:
    """Write a zip that CVAT imports as "CVAT 1.1"."""
    with only_file(target, "annotations.xml") as file, io.TextIOWrapper(file, "utf-8") as text:
        _Writer(XMLGenerator(text, "utf-8")).write(predictions)


class _Writer:
    def __init__(self, xml: XMLGenerator) -> None:
        self._xml = xml
        self._depth = 0

    def write(self, predictions: Predictions) -> None:
        self._xml.startDocument()
        with self._element("annotations"):
            self._text("version", "1.1")
            with self._element("meta"), self._element("task"), self._element("labels"):
                for name in predictions.class_names:
                    self._label(name)
            for number, image in enumerate(predictions.images, start=_FIRST_ID):
                frame = number if image.frame is None else image.frame
                size = {"width": str(image.width), "height": str(image.height)}
                with self._element("image", {"id": str(frame), "name": image.name, **size}):
                    for label, score, points in image.boxes:
                        corners = zip(("xtl", "ytl", "xbr", "ybr"), map("{:.2f}".format, points), strict=True)
                        box = {"label": predictions.class_names[label], "source": "auto", "occluded": "0"}
                        with self._element("box", {**box, **dict(corners), "z_order": "0"}):
                            self._text("attribute", f"{score:.6f}", {"name": "score"})
        self._xml.endDocument()

    def _label(self, name: str) -> None:
        with self._element("label"):
            self._text("name", name)
            with self._element("attributes"), self._element("attribute"):
                for tag, value in (("name", "score"), ("mutable", "False"), ("input_type", "number")):
                    self._text(tag, value)

    @contextmanager
    def _element(self, tag: str, attributes: Mapping[str, str] | None = None) -> Iterator[None]:
        self._line()
        self._xml.startElement(tag, AttributesImpl(attributes or {}))
        self._depth += 1
        yield
        self._depth -= 1
        self._line()
        self._xml.endElement(tag)

    def _text(self, tag: str, text: str, attributes: Mapping[str, str] | None = None) -> None:
        self._line()
        self._xml.startElement(tag, AttributesImpl(attributes or {}))
        self._xml.characters(text)
        self._xml.endElement(tag)

    def _line(self) -> None:
        self._xml.ignorableWhitespace("\n" + "  " * self._depth)
