"""Tasks, projects and jobs of a CVAT server, brought export by export."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from steps.cvat.address import Place
from steps.cvat.export import export, frame_numbers, parts, write_ids
from steps.cvat.links import IDS
from steps.cvat.server import Server
from steps.dump.journal import Fetched
from steps.dump.target import ARCHIVE, listed, settle
from steps.dump.unpack import unpack, unpacked


def bring_tasks(places: Sequence[Place], state: str, dataset_dir: Path) -> Fetched:
    """Export tasks and jobs, each into a folder of its own, unless they are there as they are.

    Raises:
        StepError: the server refuses, or has nothing in that state.
        TemporaryError: it does not answer.
    """
    with Server(places[0].host) as server:
        wanted = parts(server, places, state)
        folders = {part.folder for part in wanted}
        described, kept = [], 0

        def there() -> list[PurePosixPath]:
            return [name for name in map(PurePosixPath, listed(dataset_dir)) if name.parts[0] in folders]

        for part in wanted:
            if same := unpacked(part.version, dataset_dir, part.folder):
                kept += same.kept
            else:
                archive = dataset_dir / ARCHIVE
                export(server, part, archive)
                beside = [dataset_dir / name for name in there() if name.parts[0] != part.folder]
                shown = f"{server.host}'s export of {part.kind} {part.id}"
                kept += unpack(archive, shown, part.version, dataset_dir, part.folder, beside).kept
            files = [str(name.relative_to(part.folder)) for name in there() if name.parts[0] == part.folder]
            described.append((part, frame_numbers(server, part, files)))
        files_there = [dataset_dir / name for name in there()]
        settle(files_there, dataset_dir)
        write_ids(dataset_dir / IDS, server, described)
    return Fetched(len(files_there), kept, sum(path.stat().st_size for path in files_there))
