"""Names of folders and files in a dataset's folder that mean something to the steps."""

from pathlib import Path

from steps.common.errors import StepError

EMBEDDED = "embedded"
"""Folder in the dataset's for images that a dump holds inside of another file."""
PREPARED = {subset: f"annotations/instances_{subset}.json" for subset in ("train", "val")}
"""Files that the prepare step makes, by what they are for."""
REPORT = "prepare_report.json"
"""What the prepare step says of them."""
MOVED_ASIDE = {name: name.replace("/", "/dump/") for name in PREPARED.values()}
"""Files of a COCO dump that have the names of what we make of it, and where the prepare step keeps them."""
MADE_BY = "prepare-data"
"""Value of `info.made_by` in the files that this step writes, so that it never reads them as a dump."""
LOST_AND_FOUND = "lost+found"
"""Folder that ext4 puts at the root of a volume, for root's eyes only."""
FOREIGN_FOLDERS = frozenset({LOST_AND_FOUND, "__MACOSX"})
"""Folders that hold nothing of a dump, whoever put them there."""


def check_prepared(dataset_dir: Path) -> None:
    """Make sure that the prepare step got to its end.

    Raises:
        StepError: it did not.
    """
    for name in PREPARED.values():
        if not (dataset_dir / name).is_file():
            raise StepError(f"{dataset_dir / name} is not there: prepare-data makes it, run that first")
