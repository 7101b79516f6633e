"""What the tests of several packages share: a real S3 server and small dumps as CVAT writes them."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from pipelines.local.s3_server import S3Server, s3_server
from tests.faults.matrix import pytest_terminal_summary, record  # noqa: F401 - a hook and a fixture

SHARED_DUMP = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd_cvat_coco.zip"
# Neither dense nor from 1, as after deleting labels in a long-lived CVAT project.
CATEGORIES = [{"id": 17, "name": "bolt", "supercategory": ""}, {"id": 4, "name": "nut", "supercategory": ""}]


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for all tests."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_client(s3: S3Server) -> Any:
    """A boto3 client of the server, to look at it from the side."""
    return s3.client()


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that knows no storage, whatever the machine's own one says."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name == "S3_BUCKET":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("STORAGE_RETRY_SECONDS", "3")


@pytest.fixture
def bucket(s3: S3Server, s3_client: Any, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a fresh bucket, which the environment leads to."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=name)
    for variable, value in {**s3.environment, "S3_BUCKET": name}.items():
        monkeypatch.setenv(variable, value)
    yield name
    # Each bucket takes volumes of the server's: a session's worth of them would fill its disk.
    for page in s3_client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for found in page.get("Contents", []):
            s3_client.delete_object(Bucket=name, Key=found["Key"])
    s3_client.delete_bucket(Bucket=name)


@pytest.fixture
def put(s3_client: Any, bucket: str) -> Callable[[str, bytes | Path], None]:
    """Put bytes or a file at a key, or a folder under one."""

    def put(key: str, content: bytes | Path) -> None:
        if isinstance(content, Path) and content.is_dir():
            for path in content.rglob("*"):
                if path.is_file():
                    put(f"{key}/{path.relative_to(content).as_posix()}", path)
            return
        body = content.read_bytes() if isinstance(content, Path) else content
        s3_client.put_object(Bucket=bucket, Key=key, Body=body)

    return put


@pytest.fixture
def coco_dump() -> Callable[..., Path]:
    """Write a dump as CVAT's 'COCO 1.0' does: `images/` and `annotations/instances_<subset>.json`."""
    return write_coco_dump


def write_coco_dump(
    folder: Path,
    *,
    images: int = 6,
    negatives: int = 1,
    subset: str = "default",
    prefix: str = "",
    size: tuple[int, int] = (64, 64),
) -> Path:
    """Write a dump, its last `negatives` images without a box; give the annotation file's path."""
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": CATEGORIES}
    for index in range(images):
        name = f"{prefix}{index:04}.png"
        picture = Image.new("RGB", size, (110, 20 * index % 256, 120))
        document["images"].append({"id": 100 + index, "file_name": name, "width": size[0], "height": size[1]})
        for place in range(2 if index < images - negatives else 0):
            category = CATEGORIES[place]
            x, y, side = place * size[0] // 2 + 2, 4 + index % 8, size[0] // 3
            ImageDraw.Draw(picture).rectangle([x, y, x + side, y + side], fill=(220, 250 * place, 40))
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": 100 + index,
                    "category_id": category["id"],
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
        target = folder / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)
    annotations = folder / "annotations" / f"instances_{subset}.json"
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(document), encoding="utf-8")
    return annotations


@pytest.fixture(scope="session")
def shared_dump() -> Path:
    """A dump that a real CVAT wrote."""
    if not SHARED_DUMP.is_file():
        pytest.skip(f"the real dump is not here: ../shared/data/{SHARED_DUMP.name}")
    return SHARED_DUMP
