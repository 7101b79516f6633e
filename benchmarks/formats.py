"""Hold every dump of a real CVAT server against what the server itself says, and print what came of it.

The dumps are those of `../shared/data/cvat`, a folder for each task and a zip for each format. A cell is how many of
the boxes that the format carries are read where the server has them, to half a pixel, or that the dump is refused.

python benchmarks/formats.py                  # both tables of docs/formats.md
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.steps.formats.real_cvat import DATA, FORMATS, carried, compare, dumps, format_of


def main() -> int:
    """Print the tables; say on stderr why dumps are refused, and which boxes are wrong."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    logging.disable(logging.WARNING)
    print("\n".join(carried()), end="\n\n")
    if not dumps():
        print(f"there are no dumps in {DATA}", file=sys.stderr)
        return 2
    cells: dict[tuple[str, str], str] = {}
    wrong = 0
    for task, stem in dumps():
        with tempfile.TemporaryDirectory() as folder:
            comparison = compare(task, stem, Path(folder).resolve())
        cells[task, format_of(stem).title] = str(comparison)
        wrong += len(comparison.missing) + len(comparison.extra)
        for line in (comparison.refusal, *comparison.missing, *comparison.extra):
            if line:
                print(f"{task}, {stem}: {line.replace(folder, '.')}", file=sys.stderr)
    tasks = sorted({task for task, _ in cells})
    print(" | ".join(("| Format", *tasks)) + " |")
    print("| " + " | ".join(["---"] * (len(tasks) + 1)) + " |")
    for title in (dump_format.title for dump_format in FORMATS.values()):
        print("| " + " | ".join([title, *(cells.get((task, title), "") for task in tasks)]) + " |")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
