"""Time `python -m steps prepare`, and weigh its memory, against orjson loading and dumping the same COCO file.

python benchmarks/prepare.py                  # 100,000 images, 1,000,000 boxes
python benchmarks/prepare.py --images 10000 --rounds 5
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

# Each measured by a process of its own: its wall clock, and the most memory that it held at once.
RUN = """
import resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - started
print(done.returncode, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""
ORJSON = """
import sys
from pathlib import Path
import orjson
document = orjson.loads(Path(sys.argv[1]).read_bytes())
Path(sys.argv[2]).write_bytes(orjson.dumps(document))
"""


def main() -> None:
    """Make a dump, let both work on it several times in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        dump = Path(name) / "dump"
        annotations = fill(dump, arguments.images)
        copy = Path(name) / "copy.json"
        commands = {
            "orjson": [sys.executable, "-c", ORJSON, str(annotations), str(copy)],
            "prepare": [sys.executable, "-m", "steps", "prepare", "--dataset-dir", str(dump)],
        }
        seconds: dict[str, list[float]] = {tool: [] for tool in commands}
        memory: dict[str, int] = dict.fromkeys(commands, 0)
        for _ in range(arguments.rounds):
            for tool, command in commands.items():
                taken, held = measure(command)
                seconds[tool].append(taken)
                memory[tool] = max(memory[tool], held)
        size = annotations.stat().st_size
        written = [
            len(orjson.loads(path.read_bytes())["annotations"]) for path in (dump / "annotations").glob("*_[tv]*")
        ]
    print(
        f"{arguments.images} images, {sum(written)} boxes, {size / 1e6:.0f} MB of JSON, {arguments.rounds} rounds, "
        f"{os.cpu_count()} cores\n"
    )
    print("| tool | median s | min - max s | times orjson | peak MB | times orjson |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    base = statistics.median(seconds["orjson"])
    for tool, label in (("orjson", "orjson: load and dump"), ("prepare", "`python -m steps prepare`")):
        taken = seconds[tool]
        median = statistics.median(taken)
        print(
            f"| {label} | {median:.2f} | {min(taken):.2f} - {max(taken):.2f} | {median / base:.2f} "
            f"| {memory[tool] / 1e6:.0f} | {memory[tool] / memory['orjson']:.2f} |"
        )


def fill(folder: Path, count: int) -> Path:
    """Write a dump as CVAT does: images, and one annotation file."""
    draw = random.Random(0)
    image = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (90, 120, 150)).save(image, "JPEG")
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        file = f"{index // 1000:03}/{index:06}.jpg"
        (folder / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / file).write_bytes(image.getvalue())
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


def measure(command: list[str]) -> tuple[float, int]:
    """Run a command; give its seconds and its peak memory in bytes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command], env=environment, capture_output=True, text=True, check=True
    )
    status, seconds, memory = done.stdout.split()
    if status != "0":
        sys.exit(f"{' '.join(command)}: status {status}\n{done.stderr[-2000:]}")
    return float(seconds), int(memory)


if __name__ == "__main__":
    main()
