"""Names of folders and files in a dataset's folder that mean something to the steps."""

EMBEDDED = "embedded"
"""Folder in the dataset's for images that a dump holds inside of another file."""
MOVED_ASIDE = {
    f"annotations/instances_{subset}.json": f"annotations/dump/instances_{subset}.json" for subset in ("train", "val")
}
"""Files of a COCO dump that have the names of what we make of it, and where the prepare step keeps them."""
MADE_BY = "prepare-data"
"""Value of `info.made_by` in the files that this step writes, so that it never reads them as a dump."""
LOST_AND_FOUND = "lost+found"
"""Folder that ext4 puts at the root of a volume, for root's eyes only."""
FOREIGN_FOLDERS = frozenset({LOST_AND_FOUND, "__MACOSX"})
"""Folders that hold nothing of a dump, whoever put them there."""
