"""Time our training step against that of transformers and, where a checkout is given, of the authors' own code.

    python benchmarks/train_step.py                                   # float32 on the CPU, batch 2, 480 x 640
    python benchmarks/train_step.py --device cuda --precision bf16 --batch 4 --height 800 --width 1066
    python benchmarks/train_step.py --official detr                   # a checkout of facebookresearch/detr

Everybody has a ResNet-50 with its stem and first stage frozen, frozen batch normalisation, 6 + 6 layers, dropout 0.1
everywhere, 100 queries, 91 classes, random weights, auxiliary losses and torch's fused AdamW, and sees the same images,
padding and boxes. A step is forward, matching, losses, backward, clipping and AdamW. In every round each takes a step
in turn, so that whatever else the machine does hits them all alike; the ratios are of steps of the same round.
"""

import argparse
import importlib.util
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainer.device import limit_threads  # noqa: E402
from trainer.models.detr.model import build  # noqa: E402 - found through the line above

CLASSES, OBJECTS, WARM_UP = 91, 7, 2
Targets = list[dict[str, Tensor]]


@dataclass
class Contestant:
    """A model, what it predicts, and what a training step minimises."""

    model: nn.Module
    predict: Callable[[Tensor, Tensor], Any]
    loss: Callable[[Tensor, Tensor, Targets], Tensor]


def main() -> None:
    """Measure everybody in turn and print two tables."""
    options = parse()
    if importlib.util.find_spec("transformers") is None:
        sys.exit("the peer is missing: pip install transformers")
    if options.peak_of is not None:
        print(peak_of_a_process(options))
        return
    threads = limit_threads()
    batches = [batch(options, seed) for seed in range(WARM_UP + options.rounds)]
    names = [("ours", options.precision), ("transformers", options.precision)]
    if options.precision != "fp32":
        names.append(("transformers", "fp32"))
    if options.official:
        names.append(("official", "fp32"))
    peaks: dict[tuple[str, str], float] = {}
    if options.device == "cpu":
        # Before this process grows: Linux counts what a parent has used among its children's peak.
        peaks = {pair: peak_elsewhere(options, pair) for pair in names}
    contestants = {name: BUILDERS[name](options) for name, _ in names}
    check_sizes(contestants)
    optimizers = {
        pair: torch.optim.AdamW(trained(contestants[pair[0]].model), lr=1e-6, weight_decay=1e-4, fused=True)
        for pair in names
    }
    training: dict[tuple[str, str], list[float]] = {pair: [] for pair in names}
    inference: dict[tuple[str, str], list[float]] = {pair: [] for pair in names}
    for images, padding, targets in batches:
        for pair in names:
            step = train_step(contestants[pair[0]], optimizers[pair], pair[1], images, padding, targets)
            training[pair].append(clock(step, options.device))
            if options.device == "cuda":
                peaks[pair] = max(peaks.get(pair, 0), step_memory(step))
    for images, padding, _ in batches:
        for pair in names:
            inference[pair].append(clock(forward(contestants[pair[0]], pair[1], images, padding), options.device))

    print(describe(options, threads))
    memory = "peak MB above weights" if options.device == "cuda" else "peak MB of a process"
    print(table("training step", training, {memory: peaks}))
    print(table("inference", inference, {}))


def parse() -> Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is torch.autocast")
    parser.add_argument("--batch", type=int, default=2, help="images in a batch")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--official", type=Path, help="a checkout of facebookresearch/detr")
    parser.add_argument("--peak-of", nargs=2, metavar=("NAME", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is here")
    if options.official and not (options.official / "models" / "detr.py").is_file():
        parser.error(f"{options.official} is no checkout of facebookresearch/detr")
    return options


def batch(options: Namespace, seed: int) -> tuple[Tensor, Tensor, Targets]:
    """Images, padding and boxes; the first image fills the batch, the others are smaller, as in training."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(options.batch, 3, options.height, options.width, generator=generator)
    padding = torch.zeros(options.batch, options.height, options.width, dtype=torch.bool)
    for index in range(1, options.batch):
        height, width = (int(side * (0.7 + 0.3 * torch.rand((), generator=generator))) for side in images.shape[2:])
        padding[index, height:], padding[index, :, width:] = True, True
    images.masked_fill_(padding[:, None], 0)
    targets = [
        {
            "labels": torch.randint(CLASSES, (OBJECTS,), generator=generator),
            "boxes": 0.3 + 0.3 * torch.rand(OBJECTS, 4, generator=generator),
        }
        for _ in range(options.batch)
    ]
    device = options.device
    return (
        images.to(device),
        padding.to(device),
        [{name: value.to(device) for name, value in target.items()} for target in targets],
    )


def ours(options: Namespace) -> Contestant:
    """This repository's model and losses."""
    model = build({"model": "detr_resnet50", "num_classes": CLASSES, "frozen_norm": True}).to(options.device)
    # Everybody is given the same normalised images: pixels are nobody's advantage.
    model.normalize = lambda images, mask: images

    def loss(images: Tensor, padding: Tensor, targets: Targets) -> Tensor:
        return model.losses(model(images, padding), targets, model.normalizers(targets))["loss"]

    return Contestant(model, model, loss)


def transformers_peer(options: Namespace) -> Contestant:
    """`DetrForObjectDetection` with the same sizes; its own ResNet, since timm's would be one more package."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=ResNetConfig(out_features=["stage4"]),
        num_labels=CLASSES,
        auxiliary_loss=True,
        attention_dropout=0.1,
        activation_dropout=0.1,
    )
    model = DetrForObjectDetection(config).to(options.device)
    # It would freeze the whole of this backbone, whose stages have other names than it looks for.
    for name, weight in model.model.backbone.named_parameters():
        weight.requires_grad_(any(f"stages.{stage}." in name for stage in (1, 2, 3)))

    def predict(images: Tensor, padding: Tensor) -> Any:
        return model(pixel_values=images, pixel_mask=(~padding).long())

    def loss(images: Tensor, padding: Tensor, targets: Targets) -> Tensor:
        labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]
        return model(pixel_values=images, pixel_mask=(~padding).long(), labels=labels).loss

    return Contestant(model, predict, loss)


def official(options: Namespace) -> Contestant:
    """The authors' code, from a checkout."""
    sys.path.insert(0, str(options.official.resolve()))
    from models import build_model as build
    from util.misc import NestedTensor

    # The defaults of its main.py.
    arguments = Namespace(
        dataset_file="coco", device=options.device, masks=False, frozen_weights=None, aux_loss=True,
        backbone="resnet50", dilation=False, lr_backbone=1e-5, position_embedding="sine", hidden_dim=256,
        enc_layers=6, dec_layers=6, nheads=8, dim_feedforward=2048, dropout=0.1, pre_norm=False, num_queries=100,
        set_cost_class=1, set_cost_bbox=5, set_cost_giou=2, bbox_loss_coef=5, giou_loss_coef=2, eos_coef=0.1,
    )  # fmt: skip
    # It would download ImageNet's weights, and asks in a way that torchvision has given up since.
    resnet50 = torchvision.models.resnet50
    torchvision.models.resnet50 = lambda pretrained, **how: resnet50(weights=None, **how)
    model, criterion, _ = build(arguments)
    torchvision.models.resnet50 = resnet50
    model.to(options.device)

    def predict(images: Tensor, padding: Tensor) -> Any:
        return model(NestedTensor(images, padding))

    def loss(images: Tensor, padding: Tensor, targets: Targets) -> Tensor:
        losses = criterion(predict(images, padding), targets)
        return sum(losses[name] * weight for name, weight in criterion.weight_dict.items())

    return Contestant(model, predict, loss)


BUILDERS = {"ours": ours, "transformers": transformers_peer, "official": official}


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def check_sizes(contestants: dict[str, Contestant]) -> None:
    """Stop where the models are not the same size: the comparison would mean nothing."""
    sizes = {
        name: (sum(p.numel() for p in c.model.parameters()), sum(p.numel() for p in trained(c.model)))
        for name, c in contestants.items()
    }
    if len(set(sizes.values())) != 1:
        sys.exit(f"the models differ in (parameters, trained parameters): {sizes}")


def train_step(
    contestant: Contestant,
    optimizer: torch.optim.Optimizer,
    precision: str,
    images: Tensor,
    padding: Tensor,
    targets: Targets,
) -> Callable[[], None]:
    """A step, ready to be taken."""

    def step() -> None:
        contestant.model.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = contestant.loss(images, padding, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(trained(contestant.model), 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not torch.isfinite(loss):
            sys.exit(f"the loss is {loss.item()}")

    return step


def forward(contestant: Contestant, precision: str, images: Tensor, padding: Tensor) -> Callable[[], None]:
    """A prediction, ready to be made."""

    def step() -> None:
        contestant.model.eval()
        autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode(), autocast:
            contestant.predict(images, padding)

    return step


def clock(step: Callable[[], None], device: str) -> float:
    """Seconds of a step."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def step_memory(step: Callable[[], None]) -> float:
    """The MB of GPU memory that a step takes on top of weights and optimizer states, of everybody."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def peak_elsewhere(options: Namespace, pair: tuple[str, str]) -> float:
    """The peak resident memory in MB of a process of its own that does nothing but train one of them."""
    command = [sys.executable, __file__, "--peak-of", *pair]
    for name in ("batch", "height", "width", *(["official"] if options.official else [])):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return float(done.stdout.splitlines()[-1])


def peak_of_a_process(options: Namespace) -> float:
    """What `peak_elsewhere` asks for, from inside that process."""
    limit_threads()
    name, precision = options.peak_of
    contestant = BUILDERS[name](options)
    optimizer = torch.optim.AdamW(trained(contestant.model), lr=1e-6, fused=True)
    for seed in range(2):
        train_step(contestant, optimizer, precision, *batch(options, seed))()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def describe(options: Namespace, threads: int) -> str:
    """Where and of what this was measured."""
    import transformers

    if options.device == "cuda":
        tf32 = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
        device = f"{torch.cuda.get_device_name()}, TF32 of matrix products {tf32}"
    else:
        device = f"{processor()}, {threads} threads, {torch.backends.cpu.get_cpu_capability()}"
    return (
        f"{device}; torch {torch.__version__}, torchvision {torchvision.__version__},"
        f" transformers {transformers.__version__}; batch {options.batch}, {options.height} x {options.width},"
        f" {options.rounds} rounds\n"
    )


def processor() -> str:
    """The processor's name as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or f"{os.cpu_count()} cores"


def table(
    what: str, seconds: dict[tuple[str, str], list[float]], extra: dict[str, dict[tuple[str, str], float]]
) -> str:
    """Markdown, without the rounds that warm up."""
    lines = [
        "| " + " | ".join([what, "precision", "median s", "min - max s", "times ours", "min - max", *extra]) + " |",
        "| --- | --- |" + " ---: |" * (4 + len(extra)),
    ]
    measured = {pair: taken[WARM_UP:] for pair, taken in seconds.items()}
    base = next(iter(measured.values()))
    for (name, precision), taken in measured.items():
        ratios = [theirs / our for theirs, our in zip(taken, base, strict=True)]
        cells = [
            *(name, precision, f"{statistics.median(taken):.3f}", f"{min(taken):.3f} - {max(taken):.3f}"),
            *(f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} - {max(ratios):.2f}"),
            *(f"{column[name, precision]:.0f}" for column in extra.values()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
