"""Count the images a second that our loader gives, against the same work done as DETR's authors do it.

    python benchmarks/data_pipeline.py                           # photographs of 640 x 480 px, as COCO's
    python benchmarks/data_pipeline.py --width 1920 --height 1080

Both read the same JPEGs and make the same flips, crops and sizes of them: the paper's, up to 800 px.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from torchvision.transforms import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainer.data.augmentation import PaperTransform  # noqa: E402
from trainer.data.coco_dataset import CocoDetection  # noqa: E402 - found through the line above
from trainer.data.data_loader import batches, train_loader  # noqa: E402
from trainer.data.image_file import open_image  # noqa: E402
from trainer.data.sampler import EpochSampler  # noqa: E402

OURS, NORMALISED, OFFICIAL = "ours", "ours, normalised here", "as the official code"


def main() -> None:
    """Draw the images, load an epoch in each way several times in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # As in a worker process, where torch has one thread.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        path = draw(Path(name), arguments.images, arguments.width, arguments.height)
        ways: dict[str, Callable[[int], Iterable[tuple[Tensor, Tensor]]]] = {
            OURS: lambda workers: ours(path, arguments.batch_size, workers, normalise=False),
            NORMALISED: lambda workers: ours(path, arguments.batch_size, workers, normalise=True),
            OFFICIAL: lambda workers: official(path, arguments.batch_size, workers),
        }
        results: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
        for _ in range(arguments.rounds):
            # In turn, so that whatever else the machine does hits them all alike.
            for workers in arguments.workers:
                for way, load in ways.items():
                    results.setdefault((workers, way), []).append(clock(load(workers), arguments.images))
    print(
        f"{arguments.images} JPEGs of {arguments.width} x {arguments.height} px, batches of {arguments.batch_size},"
        f" {arguments.rounds} rounds, {os.cpu_count()} cores\n"
    )
    print("| workers | loader | images/s | min - max | times the official | images/s a core | padding % |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for (workers, way), rounds in results.items():
        rates, per_core, padding = zip(*rounds, strict=True)
        base = statistics.median(rate for rate, *_ in results[workers, OFFICIAL])
        print(
            f"| {workers} | {way} | {statistics.median(rates):.0f} | {min(rates):.0f} - {max(rates):.0f} |"
            f" {statistics.median(rates) / base:.1f} | {statistics.median(per_core):.0f} |"
            f" {100 * statistics.median(padding):.0f} |"
        )


def draw(folder: Path, count: int, width: int, height: int) -> Path:
    """Write JPEGs with about the bytes a pixel of a photograph, and their COCO file."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir()
    rows, annotations = [], []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
        # A quarter of them upright, as in COCO.
        picture = Image.fromarray(pixels if number % 4 else np.ascontiguousarray(pixels.swapaxes(0, 1)))
        picture.save(folder / f"{number}.jpg", quality=90)
        rows.append({"id": number, "file_name": f"{number}.jpg", "width": picture.width, "height": picture.height})
        annotations += [{"image_id": number, "category_id": 1, "bbox": [50 * x, 60, 90, 80]} for x in range(7)]
    path = folder / "annotations" / "instances_train.json"
    content = {"images": rows, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def clock(loaded: Iterable[tuple[Tensor, Tensor]], count: int) -> tuple[float, float, float]:
    """Images a second, images a second of CPU time in all processes, and the share of pixels that is padding."""
    seen = padded = pixels = 0
    cpu, started = cpu_seconds(), time.perf_counter()
    for images, padding_mask in loaded:
        seen += len(images)
        padded += int(padding_mask.sum())
        pixels += padding_mask.numel()
    seconds = time.perf_counter() - started
    if seen != count:
        sys.exit(f"{seen} images were loaded of {count}")
    return seen / seconds, seen / (cpu_seconds() - cpu), padded / pixels


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def ours(path: Path, batch_size: int, workers: int, *, normalise: bool) -> Iterable[tuple[Tensor, Tensor]]:
    """An epoch of our loader; on a GPU it is there that images are normalised."""
    dataset = CocoDetection(path, PaperTransform(800, 1333))
    sampler = EpochSampler(len(dataset), batch_size, 0, sizes=dataset.sizes_in, epochs=1)
    for loaded in batches(train_loader(dataset, sampler, workers)):
        batch = loaded.to(torch.device("cpu")) if normalise else loaded
        yield batch.images, batch.padding_mask


class OfficialDataset(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Items as `datasets/coco.py` and `datasets/transforms.py` of facebookresearch/detr make them."""

    def __init__(self, path: Path) -> None:
        self.dataset = CocoDetection(path, PaperTransform(800, 1333))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        with open_image(self.dataset.files[index]) as opened:
            image = opened.convert("RGB")
        boxes, labels = self.dataset.objects(index)
        plan = PaperTransform(800, 1333).plan(image.size, random.Random(f"0/0/{index}"))
        if plan.flip:
            image = functional.hflip(image)
        if plan.resize is not None and plan.window is not None:
            image = functional.resize(image, [plan.resize[1], plan.resize[0]])
            left, top, width, height = plan.window
            image = functional.crop(image, top, left, height, width)
        image = functional.resize(image, [plan.size[1], plan.size[0]])
        tensor = functional.normalize(functional.to_tensor(image), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        numbers = {"image_id": torch.tensor([index]), "iscrowd": torch.zeros(len(labels)), "area": boxes[:, 2]}
        sizes = {"orig_size": torch.tensor(plan.size), "size": torch.tensor(plan.size)}
        return tensor, {"boxes": boxes, "labels": labels, **numbers, **sizes}


def nested_tensor(items: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """A batch as `nested_tensor_from_tensor_list` of the official code pads it: floats, and a mask."""
    images = [image for image, _ in items]
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    batch = torch.zeros(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for image, place, of_image in zip(images, batch, mask, strict=True):
        place[:, : image.shape[1], : image.shape[2]].copy_(image)
        of_image[: image.shape[1], : image.shape[2]] = False
    return batch, mask, [target for _, target in items]


def official(path: Path, batch_size: int, workers: int) -> Iterable[tuple[Tensor, Tensor]]:
    """An epoch of the official loader."""
    dataset = OfficialDataset(path)
    sampler = BatchSampler(RandomSampler(dataset), batch_size, drop_last=False)
    for images, mask, _ in DataLoader(dataset, batch_sampler=sampler, collate_fn=nested_tensor, num_workers=workers):
        yield images, mask


if __name__ == "__main__":
    main()
