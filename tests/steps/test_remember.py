"""Prepared data are kept in a real bucket, and come back for the same dump, settings and code only."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.local.executor import execute, plan
from pipelines.local.s3_server import S3Server
from pipelines.manifest.reader import Manifest
from pipelines.manifest.sweep import part
from pipelines.workflow.compile import manifests
from pipelines.workflow.options import Options
from steps import remember
from steps.fetch import fetch_dump
from steps.prepare import prepare_data
from steps.remember import remember_data
from tests.conftest import write_coco_dump
from tests.steps.refusals import refused

MEMORY = "models/prepared"


@pytest.fixture
def dump(put: Callable[[str, Path], None], tmp_path: Path) -> Path:
    write_coco_dump(tmp_path / "dump")
    put("dumps/1", tmp_path / "dump")
    return tmp_path / "dump"


def fetch(dataset_dir: Path, settings: str = "seed=0", path: str = "dumps/1") -> bool:
    """Fetch into an empty folder, as a new run does; tell whether prepared data came."""
    said = dataset_dir.parent / "remembered"
    shutil.rmtree(dataset_dir, ignore_errors=True)
    fetch_dump(path, dataset_dir, memory=MEMORY, memory_settings=settings, remembered_file=str(said))
    return {"true": True, "false": False}[said.read_text()]


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and ".fetch" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def kept(dump: Path, tmp_path: Path) -> Path:
    """Folder of a dataset that is remembered."""
    dataset_dir = tmp_path / "data"
    assert not fetch(dataset_dir)
    prepare_data(dataset_dir)
    assert remember_data(dataset_dir)
    return dataset_dir


def test_the_same_data_come_back(kept: Path, dump: Path) -> None:
    before = content(kept)
    report = json.loads(before["prepare_report.json"])
    assert fetch(kept)
    assert content(kept) == before
    assert report["dump"].endswith("dumps/1")
    # Should somebody prepare them again, it is from the same dump.
    assert prepare_data(kept) == report


def test_other_data_are_made_anew(
    kept: Path, put: Callable[[str, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch(kept)
    assert not fetch(kept, settings="seed=1")
    assert not fetch(tmp_path / "elsewhere"), "the prepared files name their images by absolute paths"
    with monkeypatch.context() as patch:
        patch.setattr(remember, "_code", lambda: "of another version")
        assert not fetch(kept)
    assert fetch(kept)
    put("dumps/1/images/one-more.png", b"another")
    assert not fetch(kept)


def test_another_code_has_another_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(Path(remember.__file__).parents[1] / "steps", tmp_path / "steps", ignore=lambda *_: ["__pycache__"])
    own = remember._code()
    assert own == remember._code()
    monkeypatch.setattr(remember, "__file__", str(tmp_path / "steps" / "remember.py"))
    other = remember._code()
    (tmp_path / "steps" / "prepare.py").write_text("")
    assert len({own, other, remember._code()}) == 3


@pytest.mark.parametrize("lost", ["annotations/instances_val.json", "images/0003.png", "manifest.json"])
def test_what_is_not_whole_is_not_taken(kept: Path, s3_client: Any, bucket: str, lost: str) -> None:
    keys = [each["Key"] for each in s3_client.list_objects_v2(Bucket=bucket, Prefix=MEMORY)["Contents"]]
    (key,) = (each for each in keys if each.endswith(f"/{lost}"))
    s3_client.delete_object(Bucket=bucket, Key=key)
    assert not fetch(kept)
    prepare_data(kept)
    assert remember_data(kept), "and is put there again"
    assert fetch(kept)


def test_a_manifest_that_is_none_counts_as_none(kept: Path, s3_client: Any, bucket: str) -> None:
    keys = [each["Key"] for each in s3_client.list_objects_v2(Bucket=bucket, Prefix=MEMORY)["Contents"]]
    (key,) = (each for each in keys if each.endswith("/manifest.json"))
    for text in (b"[]", b"{", b'{"files": [{"key": 1}]}'):
        s3_client.put_object(Bucket=bucket, Key=key, Body=text)
        assert not fetch(kept)


def test_the_bucket_may_be_named(dump: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3_BUCKET")
    memory = {"memory": MEMORY, "memory_settings": "seed=0", "remembered_file": str(tmp_path / "remembered")}
    for told in ("false", "true"):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        fetch_dump("dumps/1", tmp_path / "data", bucket=bucket, **memory)
        assert (tmp_path / "remembered").read_text() == told
        if told == "false":
            prepare_data(tmp_path / "data")
            assert remember_data(tmp_path / "data", bucket=bucket)


def test_two_runs_that_made_the_same_put_it_there_once(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert not remember_data(kept)
    assert "another run has put these data into" in caplog.text


def test_what_an_upload_would_leave_behind_is_not_kept(
    dump: Path, put: Callable[[str, bytes], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put("dumps/1/images/.preview.png", b"hidden")
    assert not fetch(tmp_path / "data")
    prepare_data(tmp_path / "data")
    with caplog.at_level(logging.INFO):
        assert not remember_data(tmp_path / "data")
    assert "since images/.preview.png is hidden" in caplog.text
    assert not fetch(tmp_path / "data")


def test_what_came_before_is_demanded(dump: Path, tmp_path: Path) -> None:
    fetch_dump("dumps/1", tmp_path / "data")
    with refused("does not say where to keep its data", "--memory"):
        remember_data(tmp_path / "data")
    fetch(tmp_path / "data")
    with refused("prepare-data makes it"):
        remember_data(tmp_path / "data")


def test_a_second_run_of_the_workflow_prepares_nothing(dump: Path, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    compiled = tmp_path / "workflow.yaml"
    compiled.write_text(manifests(Options(reuse_data=True, name="cells"))[Path("argo/cells.workflow.yaml")])
    loaded = Manifest.load(compiled)
    # As in a cluster, where each run has its volume at the same path.
    manifest = part(Manifest(compiled, {"name": "run"}, loaded.spec), {"fetch", "prepare", "remember"})
    said = []
    for settings in ({}, {}, {"seed": "3"}):
        run = plan(manifest, {"cvat-annotation-path": "dumps/1", **settings}, tmp_path / "runs")
        run.folder.mkdir(parents=True)
        console = Console(record=True, width=200, file=(tmp_path / "console").open("w"))
        execute(run, {**s3.environment, "S3_BUCKET": bucket}, console)
        said.append([line.split()[:2] for line in console.export_text().splitlines() if line[:1] in "✓○"])
        assert (run.data / "annotations" / "instances_train.json").is_file()
        shutil.rmtree(run.folder)
    made = [["✓", "fetch-dump"], ["✓", "prepare-data"], ["✓", "remember-data"]]
    assert said == [made, [["✓", "fetch-dump"], ["○", "prepare-data"], ["○", "remember-data"]], made]
