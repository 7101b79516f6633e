"""What was fetched into a folder, so that a second run fetches only the rest."""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

from steps.common.files import replacing
from steps.dataset.layout import MOVED_ASIDE
from steps.dump.target import STATE_DIR
from steps.storage.checksums import sum_of

Version = tuple[int, str]
"""What a file was fetched from: a size in bytes, and an entity tag or a time of change."""


@dataclass(frozen=True)
class Fetched:
    """What came of bringing a dump: number of its files, how many of them were there already, size in bytes."""

    files: int
    kept: int
    size: int


def version_of(path: Path) -> Version:
    """Give the version of a file on this machine."""
    status = path.stat()
    return status.st_size, str(status.st_mtime_ns)


class Journal:
    """What was fetched into a folder: a line of JSON per file, written as each one arrives.

    The line holds the version of the source, so that what was altered there since is fetched again, and the file's
    own size and time of change, so that a file altered here is.  Where it holds a sum, a file of another
    time of change, as after a copy of the volume, is summed before it is fetched again.
    """

    def __init__(self, dataset_dir: Path) -> None:
        self._root = dataset_dir
        self._prefix = f"{dataset_dir.as_posix().rstrip('/')}/"
        self._seen = set[str]()
        """Names of files that were there in this run, so that they need not be looked for at its end."""
        self._path = dataset_dir / STATE_DIR / "journal.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._entries: dict[str, list[object]] = {}
        if self._path.is_file():
            for line in self._path.read_bytes().splitlines():
                try:
                    match orjson.loads(line):
                        case [str(name), *entry]:
                            self._entries[name] = entry
                except orjson.JSONDecodeError:
                    continue  # The line that a killed run was writing.
        self._file: IO[bytes] | None = None

    def holds(self, path: Path, version: Version) -> bool:
        """Tell whether `path` is what was fetched from that version, or was moved aside by the prepare step since."""
        name = self._name(path)
        entry = self._entries.get(name)
        there = entry is not None and any(self._is(place, version, entry) for place in self._places(name))
        if there:
            self._seen.add(name)
        return there

    def _is(self, path: Path, version: Version, entry: list[object]) -> bool:
        *source_and_size, changed, sum_ = entry if len(entry) == 5 else [*entry, ""]
        *there, now = self._entry(path, version)
        if source_and_size != there:
            return False
        return changed == now or (isinstance(sum_, str) and sum_ != "" and sum_of(path, sum_.partition(":")[0]) == sum_)

    def add(self, path: Path, version: Version, sum_: str = "") -> None:
        """Note that `path` was just fetched from that version, with that sum where it is known."""
        if self._file is None:
            self._file = self._path.open("ab")
            self._file.write(b"\n")  # Ends the line that a killed run left open.
        name, entry = self._name(path), [*self._entry(path, version), *([sum_] if sum_ else [])]
        self._entries[name] = entry
        self._seen.add(name)
        self._file.write(orjson.dumps([name, *entry], option=orjson.OPT_APPEND_NEWLINE))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        """Write the journal anew, without the files that are gone."""
        if self._file is not None:
            self._file.close()
        kept = {name: entry for name, entry in self._entries.items() if name in self._seen or self._places(name)}
        with replacing(self._path) as temporary:
            lines = [orjson.dumps([name, *entry]) for name, entry in sorted(kept.items())]
            temporary.write_bytes(b"\n".join([*lines, b""]))

    def _places(self, name: str) -> list[Path]:
        places = (self._root / name, self._root / MOVED_ASIDE.get(name, name))
        return [place for place in places if place.is_file()]

    def _name(self, path: Path) -> str:
        return path.as_posix().removeprefix(self._prefix)  # A quarter of the time that `relative_to` takes.

    @staticmethod
    def _entry(path: Path, version: Version) -> list[object]:
        status = path.stat()
        return [*version, status.st_size, status.st_mtime_ns]
