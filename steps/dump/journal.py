"""What was fetched into a folder, so that a second run fetches only the rest."""

from pathlib import Path
from typing import IO

import orjson

from steps.common.files import replacing
from steps.dump.target import STATE_DIR
from steps.storage.transfer import RemoteObject


class Journal:
    """What was fetched into a folder: a line of JSON an object, written as each one arrives.

    The line holds the file's size and time of change, so that a file altered since is fetched again, and the
    entity tag, so that an object altered since is.
    """

    def __init__(self, dataset_dir: Path) -> None:
        self._root = dataset_dir
        self._path = dataset_dir / STATE_DIR / "journal.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.entries: dict[str, list[object]] = {}
        if self._path.is_file():
            for line in self._path.read_bytes().splitlines():
                try:
                    match orjson.loads(line):
                        case [str(name), *entry]:
                            self.entries[name] = entry
                except orjson.JSONDecodeError:
                    continue  # The line that a killed run was writing.
        self._file: IO[bytes] | None = None

    def holds(self, remote: RemoteObject, path: Path) -> bool:
        entry = self.entries.get(self._name(path))
        return entry is not None and path.is_file() and entry == self._entry(remote, path)

    def add(self, remote: RemoteObject, path: Path) -> None:
        if self._file is None:
            self._file = self._path.open("ab")
            self._file.write(b"\n")  # Ends the line that a killed run left open.
        name, entry = self._name(path), self._entry(remote, path)
        self.entries[name] = entry
        self._file.write(orjson.dumps([name, *entry], option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Write the journal anew, without the files that are gone."""
        if self._file is not None:
            self._file.close()
        self.entries = {name: entry for name, entry in self.entries.items() if (self._root / name).is_file()}
        with replacing(self._path) as temporary:
            lines = [orjson.dumps([name, *entry]) for name, entry in sorted(self.entries.items())]
            temporary.write_bytes(b"\n".join([*lines, b""]))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    @staticmethod
    def _entry(remote: RemoteObject, path: Path) -> list[object]:
        status = path.stat()
        return [remote.size, remote.etag, status.st_size, status.st_mtime_ns]
