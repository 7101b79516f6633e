"""Time `python -m steps prepare`, and weigh its memory, against orjson loading and dumping the same COCO file.

What the SHA-256 of each image costs is the difference to the same step without it.

python benchmarks/prepare.py                  # 100,000 images, 1,000,000 boxes
python benchmarks/prepare.py --images 5000 --kilobytes 200 --rounds 5
"""

import argparse
import io
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIDE = 64
BOXES_AN_IMAGE = 10
CLASSES = 20

# Each measured by a process of its own: its wall clock, its CPU time, and the most memory that it held at once.
RUN = """
import resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.returncode, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
"""
ORJSON = """
import sys
from pathlib import Path
import orjson
document = orjson.loads(Path(sys.argv[1]).read_bytes())
Path(sys.argv[2]).write_bytes(orjson.dumps(document))
"""

UNHASHED = """
from steps.preparation import image_headers
image_headers.file_digest = lambda path: ""
from steps.cli import main
main()
"""


def main() -> None:
    """Make a dump, let both work on it several times in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--kilobytes", type=int, default=0, help="Size of an image at least.")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        dump = Path(name) / "dump"
        annotations = fill(dump, arguments.images, 1000 * arguments.kilobytes)
        copy = Path(name) / "copy.json"
        commands = {
            "orjson: load and dump": [sys.executable, "-c", ORJSON, str(annotations), str(copy)],
            "`python -m steps prepare`": [sys.executable, "-m", "steps", "prepare", "--dataset-dir", str(dump)],
            "the same without SHA-256": [sys.executable, "-c", UNHASHED, "prepare", "--dataset-dir", str(dump)],
        }
        seconds: dict[str, list[float]] = {tool: [] for tool in commands}
        cpu: dict[str, list[float]] = {tool: [] for tool in commands}
        memory: dict[str, int] = dict.fromkeys(commands, 0)
        for _ in range(arguments.rounds):
            for tool, command in commands.items():
                taken, used, held = measure(command)
                seconds[tool].append(taken)
                cpu[tool].append(used)
                memory[tool] = max(memory[tool], held)
        size = annotations.stat().st_size
        written = [
            len(orjson.loads(path.read_bytes())["annotations"]) for path in (dump / "annotations").glob("*_[tv]*")
        ]
    print(
        f"{arguments.images} images, {sum(written)} boxes, {size / 1e6:.0f} MB of JSON, {arguments.rounds} rounds, "
        f"{os.cpu_count()} cores\n"
    )
    print("| tool | median s | min - max s | CPU s | times orjson | peak MB | times orjson |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    first = next(iter(commands))
    for tool, taken in seconds.items():
        work, held = statistics.median(cpu[tool]), memory[tool]
        print(
            f"| {tool} | {statistics.median(taken):.2f} | {min(taken):.2f} - {max(taken):.2f} | {work:.2f} "
            f"| {work / statistics.median(cpu[first]):.2f} | {held / 1e6:.0f} | {held / memory[first]:.2f} |"
        )


def fill(folder: Path, count: int, size: int) -> Path:
    """Write a dump as CVAT does: images, and one annotation file."""
    draw = random.Random(0)
    image = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (90, 120, 150)).save(image, "JPEG")
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        file = f"{index // 1000:03}/{index:06}.jpg"
        (folder / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / file).write_bytes(image.getvalue().ljust(size, b"\0"))
        images.append(
            {
                "id": index + 1,
                "width": SIDE,
                "height": SIDE,
                "file_name": file,
                "license": 0,
                "flickr_url": "",
                "coco_url": "",
                "date_captured": 0,
            }
        )
        for _ in range(BOXES_AN_IMAGE):
            x, y = round(draw.uniform(0, SIDE - 20), 2), round(draw.uniform(0, SIDE - 20), 2)
            width, height = round(draw.uniform(1, 20), 2), round(draw.uniform(1, 20), 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": draw.randint(1, CLASSES),
                    "segmentation": [],
                    "area": width * height,
                    "bbox": [x, y, width, height],
                    "iscrowd": 0,
                    "attributes": {"occluded": False, "rotation": 0.0},
                }
            )
    categories = [{"id": number + 1, "name": f"class {number}", "supercategory": ""} for number in range(CLASSES)]
    path = folder / "annotations" / "instances_default.json"
    path.parent.mkdir()
    path.write_bytes(orjson.dumps({"categories": categories, "images": images, "annotations": annotations}))
    return path


def measure(command: list[str]) -> tuple[float, float, int]:
    """Run a command; give its seconds, those of the CPU, and its peak memory in bytes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command], env=environment, capture_output=True, text=True, check=True
    )
    status, seconds, cpu, memory = done.stdout.split()
    if status != "0":
        sys.exit(f"{' '.join(command)}: status {status}\n{done.stderr[-2000:]}")
    return float(seconds), float(cpu), int(memory)


if __name__ == "__main__":
    main()
