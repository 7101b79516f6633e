"""XML of a dump, read element by element: no entities, no document types, and memory for one element at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler

from defusedxml import DefusedXmlException
from defusedxml.expatreader import create_parser

from steps.common.budgets import DEEPEST_ELEMENTS, MOST_ELEMENTS
from steps.common.errors import StepError
from steps.formats import text

_CHUNK = 1 << 16
_TAG = re.compile(rb"<([A-Za-z]\w*)")


@dataclass(slots=True)
class Node:
    """An element with everything in it."""

    tag: str
    attributes: dict[str, str]
    path: Path
    line: int
    text: str = ""
    children: list[Node] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.line}"

    def child(self, tag: str) -> Node | None:
        return next((child for child in self.children if child.tag == tag), None)

    def content(self, tag: str) -> str:
        """The text of the child `tag`; empty where there is none."""
        found = self.child(tag)
        return "" if found is None else found.text

    def attribute(self, name: str) -> str:
        """An attribute that must be there.

        Raises:
            StepError: it is not.
        """
        if name not in self.attributes:
            raise StepError(f"{self.where}: <{self.tag}> has no '{name}': dump the task again")
        return self.attributes[name]

    def number(self, name: str) -> float:
        """A number from an attribute, as `attribute`."""
        return text.number(self.attribute(name), self.where, f"'{name}' of <{self.tag}>")

    def child_number(self, tag: str) -> float:
        """A number from the text of the child `tag`.

        Raises:
            StepError: there is no such child, or it holds no number.
        """
        child = self.child(tag)
        if child is None:
            raise StepError(f"{self.where}: <{self.tag}> has no <{tag}>: dump the task again")
        return text.number(child.text.strip(), child.where, f"<{tag}>")

    def below(self, tag: str) -> Iterator[Node]:
        """All elements `tag` inside this one, at any depth, in the document's order."""
        for child in self.children:
            if child.tag == tag:
                yield child
            yield from child.below(tag)


def children(path: Path, root: str) -> Iterator[Node]:
    """Yield the root's children, each as soon as it is read whole.

    Raises:
        StepError: the file is not well-formed XML, has another root, or declares a document type or entities.
    """
    builder = _Builder(path, root)
    parser = create_parser(forbid_dtd=True)
    parser.setContentHandler(builder)
    builder.setDocumentLocator(parser)
    try:
        with path.open("rb") as file:
            size = _CHUNK
            while chunk := file.read(size):
                begun = builder.begun
                parser.feed(chunk)
                # Expat before 2.6 reads what is not complete, such as a long attribute, anew with every chunk.
                size = _CHUNK if builder.begun > begun else 2 * size
                yield from builder.taken()
        parser.close()
    except SAXParseException as error:
        raise StepError(
            f"{path}, line {error.getLineNumber()}: not readable XML ({error.getMessage()}): dump the task again"
        ) from None
    except DefusedXmlException:
        raise StepError(
            f"{path} declares a document type or entities, which CVAT never writes and this reader refuses: "
            "remove the <!DOCTYPE ...>"
        ) from None
    except (LookupError, ValueError) as error:
        raise StepError(f"{path} is not readable XML ({error}): save the file as UTF-8") from None


def glimpse(path: Path) -> tuple[str, set[str]]:
    """The root's tag and all tags at the beginning of a file; never refuses, an empty tag means that it is not XML."""
    seen = _Tags()
    parser = create_parser(forbid_dtd=True)
    parser.setContentHandler(seen)
    try:
        with path.open("rb") as file:
            head = file.read(_CHUNK)
        parser.feed(head)
    except DefusedXmlException:
        # Refused when it is read, with the reason.
        tags = [tag.decode() for tag in _TAG.findall(head)]
        return (tags or [""])[0], set(tags)
    except (SAXParseException, LookupError, ValueError):
        # What came before the fault still says what the file means to be.
        pass
    return seen.root, seen.tags


class _Tags(ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.root = ""
        self.tags: set[str] = set()

    def startElement(self, name: str, attrs: object) -> None:  # noqa: N802 (the interface's name)
        self.root = self.root or name
        self.tags.add(name)


class _Builder(ContentHandler):
    def __init__(self, path: Path, root: str) -> None:
        super().__init__()
        self._path = path
        self._root = root
        self._open: list[Node] = []
        self._texts: list[list[str]] = []
        self._done: list[Node] = []
        self._inside = False
        self.begun = 0
        """Elements that have begun."""
        self._last = 0

    def taken(self) -> list[Node]:
        done, self._done = self._done, []
        return done

    def startElement(self, name: str, attrs: object) -> None:  # noqa: N802
        line = self._locator.getLineNumber()  # type: ignore[attr-defined]
        self.begun += 1
        if not self._inside:
            if name != self._root:
                raise StepError(f"{self._path} begins with <{name}>, expected <{self._root}>: dump the task again")
            self._inside = True
            return
        if not self._open:
            self._last = self.begun
        if len(self._open) >= DEEPEST_ELEMENTS:
            raise StepError(f"{self._path}, line {line}: elements are nested too deeply: dump the task again")
        if self.begun - self._last > MOST_ELEMENTS:
            what = f"<{self._open[0].tag}> holds more than {MOST_ELEMENTS:,} elements"
            raise StepError(f"{self._path}, line {line}: {what}: dump the task again")
        self._open.append(Node(name, dict(attrs), self._path, line))  # type: ignore[call-overload]
        self._texts.append([])

    def characters(self, content: str) -> None:
        if self._texts:
            self._texts[-1].append(content)

    def endElement(self, name: str) -> None:  # noqa: N802
        if not self._open:
            return
        node = self._open.pop()
        node.text = "".join(self._texts.pop())
        (self._open[-1].children if self._open else self._done).append(node)
