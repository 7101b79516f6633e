"""Measures how much slower a training step becomes when another process wants the same cores.

Threads of OpenMP wait for each other at the end of every parallel loop. While they spin there, a thread that has lost
its core to somebody else keeps all the others running in place. How long they spin is decided before torch is loaded,
so that each setting is measured in a process of its own, which takes steps alone and beside a process that spins, in
turn. The settings take turns as well.

    python benchmarks/busy_neighbour.py --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from argparse import Namespace

SETTINGS: dict[str, dict[str, str]] = {
    "none": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=active": {"OMP_WAIT_POLICY": "active"},
}
KNOWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def main() -> None:
    """Measures and prints."""
    options = parse()
    if options.child:
        print(json.dumps(measure(options)))
        return
    chosen = {name: setting for name, setting in SETTINGS.items() if not options.only or name in options.only}
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for _ in range(options.rounds):
        for name, setting in chosen.items():
            rows[name] += elsewhere(options, setting)
            print(name, rows[name], file=sys.stderr)
    print(f"{options.model}, {options.threads} threads, batch {options.batch}, {options.rounds} rounds\n")
    print("| setting | alone, median s | beside another, median s | times | min - max |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, pairs in rows.items():
        ratios = [beside / alone for alone, beside in pairs]
        alone, beside = (statistics.median(part) for part in zip(*pairs, strict=True))
        print(
            f"| {name} | {alone:.3f} | {beside:.3f} | {statistics.median(ratios):.2f}"
            f" | {min(ratios):.2f} - {max(ratios):.2f} |"
        )


def parse() -> Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="ddq_lite0")
    parser.add_argument("--size", type=int, default=256, help="px of the images' sides")
    parser.add_argument("--batch", type=int, default=2, help="images in a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--neighbours", type=int, default=1, help="processes that spin")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each setting")
    parser.add_argument("--pairs", type=int, default=3, help="times alone and beside the others in each process")
    parser.add_argument("--steps", type=int, default=5, help="steps of which the median is taken")
    parser.add_argument("--only", action="append", choices=SETTINGS, help="measure this setting only; can be repeated")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def elsewhere(options: Namespace, setting: dict[str, str]) -> list[tuple[float, float]]:
    """Pairs of seconds a step, alone and beside the neighbours, from a process with a setting."""
    environment = {name: value for name, value in os.environ.items() if name not in KNOWN}
    command = [sys.executable, __file__, "--child"]
    for name in ("model", "size", "batch", "threads", "neighbours", "pairs", "steps"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, env={**environment, **setting}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return [(alone, beside) for alone, beside in json.loads(done.stdout.splitlines()[-1])]


def measure(options: Namespace) -> list[tuple[float, float]]:
    """What `elsewhere` asks for, from inside that process."""
    import torch

    from trainer.config import TrainConfig
    from trainer.data.batch import Batch
    from trainer.models.registry import family_of
    from trainer.training.optimizer import build_optimizer
    from trainer.training.train_step import Learner

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = TrainConfig.create(dataset_dir=".", output_dir=".", model=options.model, pretrained="none")
    family = family_of(options.model)
    model = family.build(family.new_spec(options.model, 3, config.family_settings)).train()
    learner = Learner(model, build_optimizer(model, config), torch.device("cpu"), 0.1)
    images = torch.randint(0, 256, (options.batch, 3, options.size, options.size), dtype=torch.uint8)
    target = {"labels": torch.tensor([0, 1, 2]), "boxes": 0.3 + 0.3 * torch.rand(3, 4)}
    batch = Batch(images, torch.zeros(options.batch, *images.shape[2:], dtype=torch.bool), [target] * options.batch)

    def step() -> float:
        started = time.perf_counter()
        learner.step(batch)
        return time.perf_counter() - started

    def steps() -> float:
        return statistics.median(step() for _ in range(options.steps))

    pairs = []
    step(), step()
    for _ in range(options.pairs):
        alone = steps()
        spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.neighbours)]
        try:
            pairs.append((alone, steps()))
        finally:
            for process in spinning:
                process.kill()
                process.wait()
    return pairs


if __name__ == "__main__":
    main()
