"""Fetching a dump: from a real bucket, a folder and an archive, whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from steps.dump.target import STATE_DIR
from steps.fetch import fetch_dump
from steps.prepare import prepare_data
from steps.storage.s3 import S3
from steps.upload import upload_artifacts
from tests.steps.dump.folders import changed_at, tree
from tests.steps.refusals import refused

Put = Callable[[str, "bytes | Path"], None]


@pytest.fixture
def dump(tmp_path: Path, coco_dump: Callable[..., Path]) -> Path:
    """The folder of a dump with an image in a folder of its own."""
    coco_dump(tmp_path / "dump", images=3, prefix="a b/")
    return tmp_path / "dump"


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def archive(dump: Path, tmp_path: Path) -> Path:
    return pack(tmp_path / "task 1.zip", dump)


def pack(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in sorted(folder.rglob("*")):
            zipped.write(file, file.relative_to(folder).as_posix())
    return path


@contextmanager
def as_somebody_else(folder: Path) -> Iterator[Callable[[Path], None]]:
    """Act as a user who may not open all folders, where the tests run as root; give what makes such a folder."""
    made = []

    def unreadable(path: Path) -> None:
        path.mkdir(parents=True)
        path.chmod(0)
        made.append(path)

    folder.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield unreadable
    finally:
        if root:
            os.seteuid(0)
        for path in made:
            path.chmod(0o700)


class TestSources:
    @pytest.mark.parametrize("path", ["annotation-dump/7", "/annotation-dump//7/"])
    def test_prefix_in_the_bucket(self, put: Put, dump: Path, dataset_dir: Path, path: str) -> None:
        put("annotation-dump/7", dump)
        put("annotation-dump/71/other.txt", b"of another dump")
        assert fetch_dump(path, dataset_dir) == dataset_dir
        assert tree(dataset_dir) == tree(dump)

    @pytest.mark.parametrize("path", ["annotation-dump/7", "team/annotation-dump/7"])
    def test_prefix_under_the_namespace(self, put: Put, dump: Path, dataset_dir: Path, path: str) -> None:
        put("team/annotation-dump/7", dump)
        fetch_dump(path, dataset_dir, namespace="team")
        assert tree(dataset_dir) == tree(dump)

    def test_prefix_as_given_comes_before_the_namespace(self, put: Put, dump: Path, dataset_dir: Path) -> None:
        put("dump", dump)
        put("team/dump/other.txt", b"of another dump")
        fetch_dump("dump", dataset_dir, namespace="team")
        assert tree(dataset_dir) == tree(dump)

    def test_address(
        self, put: Put, bucket: str, dump: Path, dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put("some/where", dump)
        monkeypatch.delenv("S3_BUCKET")
        fetch_dump(f"s3://{bucket}/some/where", dataset_dir, namespace="team")
        assert tree(dataset_dir) == tree(dump)

    def test_whole_bucket(self, put: Put, bucket: str, dump: Path, dataset_dir: Path) -> None:
        for name, content in tree(dump).items():
            put(name, content)
        fetch_dump(f"s3://{bucket}", dataset_dir)
        assert tree(dataset_dir) == tree(dump)

    @pytest.mark.parametrize("key", ["dumps/task 1.zip", "dumps"])
    def test_archive_in_the_bucket(self, put: Put, archive: Path, dump: Path, dataset_dir: Path, key: str) -> None:
        put("dumps/task 1.zip", archive)
        fetch_dump(key, dataset_dir)
        assert tree(dataset_dir) == tree(dump)

    def test_folder_markers_do_not_count(self, put: Put, dump: Path, dataset_dir: Path) -> None:
        put("dump", dump)
        for marker in ("dump/", "dump/images/", "dump/empty/"):
            put(marker, b"")
        fetch_dump("dump", dataset_dir)
        assert tree(dataset_dir) == tree(dump)

    @pytest.mark.parametrize("path", ["runs/1", "1", "{bucket}/team/runs/1", "runs/1/a.zip"])
    def test_bucket_that_is_a_folder(self, no_aws: None, archive: Path, tmp_path: Path, path: str) -> None:
        """What was uploaded into a folder that did not exist comes back, whatever its names hold."""
        here, bucket = tmp_path / "here", (tmp_path / "new" / "a #1 100%").as_uri()
        (here / "100% #2").mkdir(parents=True)
        (here / "100% #2" / "who?.txt").write_text("x")
        (here / "a.zip").write_bytes(archive.read_bytes())
        upload_artifacts(here, "team/runs/1", bucket=bucket)
        namespace = "team/runs" if path == "1" else "team"
        fetch_dump(path.format(bucket=bucket), tmp_path / "there", namespace=namespace, bucket=bucket)
        there = tree(tmp_path / "there")
        if path.endswith(".zip"):
            assert there == tree(tmp_path / "dump")
        else:
            assert there.pop("manifest.json")
            assert there == tree(here)

    def test_bucket_that_is_no_folder(self, no_aws: None, tmp_path: Path) -> None:
        with refused(f"the folder {tmp_path / 'absent'}, which does not exist"):
            fetch_dump("runs/1", tmp_path / "there", bucket=(tmp_path / "absent").as_uri())
        with refused(f"nothing lies under file://{tmp_path}/runs/1", "is empty"):
            fetch_dump("runs/1", tmp_path / "there", bucket=tmp_path.as_uri())

    def test_local_folder(self, no_aws: None, dump: Path, dataset_dir: Path) -> None:
        odd = dump.rename(dump.with_name("dump #1 100%"))
        fetch_dump(str(odd), dataset_dir)
        assert tree(dataset_dir) == tree(odd)
        before = changed_at(dataset_dir)
        (odd / "new.txt").write_text("new")
        fetch_dump(str(odd), dataset_dir)
        assert changed_at(dataset_dir).items() > before.items()
        # A folder that was itself fetched into is a dump like any other.
        fetch_dump(str(dataset_dir), odd.with_name("again"))
        assert tree(odd.with_name("again")) == tree(odd)

    def test_local_archive(self, no_aws: None, archive: Path, dump: Path, dataset_dir: Path) -> None:
        fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == tree(dump)

    def test_explicit_path_is_local_whatever_the_bucket_holds(
        self, put: Put, dump: Path, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put("dump/other.txt", b"in the bucket")
        monkeypatch.chdir(tmp_path)
        fetch_dump("./dump", dataset_dir)
        assert tree(dataset_dir) == tree(dump)

    def test_bare_path_is_a_key_whatever_lies_here(
        self, put: Put, dump: Path, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put("dump/other.txt", b"in the bucket")
        monkeypatch.chdir(tmp_path)
        fetch_dump("dump", dataset_dir)
        assert tree(dataset_dir) == {"other.txt": b"in the bucket"}

    def test_dump_that_is_in_place(self, no_aws: None, dump: Path) -> None:
        before = tree(dump)
        assert fetch_dump(str(dump), dump) == dump
        assert tree(dump) == before

    def test_real_dump(self, no_aws: None, shared_dump: Path, dataset_dir: Path) -> None:
        fetch_dump(str(shared_dump), dataset_dir)
        with zipfile.ZipFile(shared_dump) as zipped:
            members = {member.filename: zipped.read(member) for member in zipped.infolist() if not member.is_dir()}
        assert tree(dataset_dir) == members


class TestNothingThere:
    def test_both_prefixes_are_named_and_what_is_near(self, put: Put, bucket: str, dataset_dir: Path) -> None:
        for task in ("7", "8"):
            put(f"team/annotation-dump/task-{task}/x.json", b"{}")
        with refused(
            f"s3://{bucket}/annotation-dump/task-9",
            f"s3://{bucket}/team/annotation-dump/task-9",
            f"nearest is s3://{bucket}/team/annotation-dump/ with task-7/, task-8/",
        ):
            fetch_dump("annotation-dump/task-9", dataset_dir, namespace="team")

    def test_typing_error_at_the_top(self, put: Put, bucket: str, dataset_dir: Path) -> None:
        for folder in ("annotation-dump", "models", "workflow-data", "a", "b", "c"):
            put(f"{folder}/x", b"x")
        with refused(f"nearest is s3://{bucket}/ with annotation-dump/ and 5 more"):
            fetch_dump("anotation-dump/7", dataset_dir)

    def test_absent_archive(self, put: Put, bucket: str, dataset_dir: Path) -> None:
        put("dumps/7.zip", b"x")
        with refused(f"nothing lies under s3://{bucket}/dumps/8.zip", "7.zip"):
            fetch_dump("dumps/8.zip", dataset_dir)

    def test_empty_bucket(self, bucket: str, dataset_dir: Path) -> None:
        with refused(f"s3://{bucket} is empty", "CVAT"):
            fetch_dump("annotation-dump/7", dataset_dir)

    @pytest.mark.parametrize("path", ["", "  "])
    def test_no_path(self, bucket: str, dataset_dir: Path, path: str) -> None:
        with refused("--annotation-path is empty"):
            fetch_dump(path, dataset_dir)

    @pytest.mark.parametrize("path", ["/no/such/dump", "./no-such-dump", "../no-such-dump.zip"])
    def test_absent_local_path(self, no_aws: None, dataset_dir: Path, path: str) -> None:
        with refused(f"{path} does not exist"):
            fetch_dump(path, dataset_dir)

    @pytest.mark.parametrize("path", ["./no-such-dump", "../no-such-dump.zip"])
    def test_absent_local_path_is_no_key(self, bucket: str, dataset_dir: Path, path: str) -> None:
        with refused(f"{path} does not exist"):
            fetch_dump(path, dataset_dir)

    def test_empty_local_folder(self, no_aws: None, dataset_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with refused(tmp_path / "empty"):
            fetch_dump(str(tmp_path / "empty"), dataset_dir)


class TestAgain:
    """A second run fetches what is not here as it is there, and nothing else."""

    @pytest.fixture
    def fetched(self, put: Put, dump: Path, dataset_dir: Path) -> Path:
        put("dump", dump)
        return fetch_dump("dump", dataset_dir)

    def test_nothing_is_fetched_twice(self, fetched: Path) -> None:
        before = changed_at(fetched)
        fetch_dump("dump", fetched)
        assert changed_at(fetched) == before

    def test_only_what_is_missing_damaged_or_altered(self, fetched: Path, dump: Path) -> None:
        missing, damaged, altered, touched = sorted(tree(dump))
        (fetched / missing).unlink()
        (fetched / damaged).write_bytes(tree(dump)[damaged][:-1])
        content = bytearray(tree(dump)[altered])
        content[-1] ^= 1
        (fetched / altered).write_bytes(content)
        before = changed_at(fetched)
        fetch_dump("dump", fetched)
        assert tree(fetched) == tree(dump)
        after = changed_at(fetched)
        assert {name for name in after if after[name] == before.get(name)} == {touched}

    def test_what_changed_in_the_bucket(self, fetched: Path, put: Put, dump: Path) -> None:
        name, *others = sorted(tree(dump))
        (dump / name).write_bytes((dump / name).read_bytes()[::-1])
        put(f"dump/{name}", dump / name)
        before = changed_at(fetched)
        fetch_dump("dump", fetched)
        assert tree(fetched) == tree(dump)
        assert {other: changed_at(fetched)[other] for other in others} == {other: before[other] for other in others}

    def test_files_of_another_dump_go_and_ours_stay(self, fetched: Path, put: Put) -> None:
        (fetched / "annotations" / "instances_train.json").write_text("{}")
        put("other/annotations/instances_default.json", b"[]")
        fetch_dump("other", fetched)
        assert tree(fetched) == {
            "annotations/instances_default.json": b"[]",
            "annotations/instances_train.json": b"{}",
        }

    def test_annotations_of_another_dump_that_were_moved_aside(
        self, fetched: Path, put: Put, coco_dump: Callable[..., Path], tmp_path: Path
    ) -> None:
        for subset in ("train", "val"):
            coco_dump(tmp_path / "subsets", images=2, subset=subset, prefix=f"{subset}/")
        put("subsets", tmp_path / "subsets")
        fetch_dump("subsets", fetched)
        prepare_data(fetched)
        assert {path.name for path in (fetched / "annotations" / "dump").iterdir()} == {
            "instances_train.json",
            "instances_val.json",
        }
        fetch_dump("dump", fetched)
        assert prepare_data(fetched)["images"]["train"] == 2
        assert list((fetched / "annotations" / "dump").iterdir()) == []

    def test_annotations_that_were_moved_aside_are_there(
        self, put: Put, coco_dump: Callable[..., Path], tmp_path: Path, dataset_dir: Path
    ) -> None:
        for subset in ("train", "val"):
            coco_dump(tmp_path / "subsets", images=2, subset=subset, prefix=f"{subset}/")
        put("subsets", tmp_path / "subsets")
        prepare_data(fetch_dump("subsets", dataset_dir))
        before = changed_at(dataset_dir)
        fetch_dump("subsets", dataset_dir)
        assert changed_at(dataset_dir) == before

    def test_archive_of_a_bucket_is_not_kept_and_not_fetched_twice(
        self, put: Put, archive: Path, dump: Path, dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put("dumps/7.zip", archive)
        fetch_dump("dumps/7.zip", dataset_dir)
        assert [path for path in dataset_dir.rglob("*") if path.suffix == ".zip"] == []
        before = changed_at(dataset_dir)
        with monkeypatch.context() as patched:
            patched.setattr(S3, "get", None)
            fetch_dump("dumps/7.zip", dataset_dir)
        assert changed_at(dataset_dir) == before

        name, *others = sorted(tree(dump))
        (dataset_dir / name).unlink()
        fetch_dump("dumps/7.zip", dataset_dir)
        assert tree(dataset_dir) == tree(dump)
        assert {other: changed_at(dataset_dir)[other] for other in others} == {other: before[other] for other in others}

    @pytest.mark.parametrize("path", ["dump", "dump.zip", "{dump}", "{archive}"])
    def test_space_is_needed_for_what_is_missing_only(
        self, put: Put, archive: Path, dump: Path, dataset_dir: Path, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        put("dump", dump)
        put("dump.zip", archive)
        path = path.format(dump=dump, archive=archive)
        full = shutil.disk_usage("/")._replace(free=10)
        with monkeypatch.context() as patched, refused(dataset_dir, "10 bytes are free", "use a larger volume"):
            patched.setattr(shutil, "disk_usage", lambda _: full)
            fetch_dump(path, dataset_dir)
        fetch_dump(path, dataset_dir)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
        # An empty journal: of an archive, the files themselves show that they are whole.
        if path == str(archive):
            (dataset_dir / STATE_DIR / "journal.jsonl").write_text("")
        fetch_dump(path, dataset_dir)
        assert tree(dataset_dir) == tree(dump)

    def test_archive_is_unpacked_again_only_where_it_must(self, archive: Path, dump: Path, dataset_dir: Path) -> None:
        fetch_dump(str(archive), dataset_dir)
        name, *others = sorted(tree(dump))
        (dataset_dir / name).write_bytes(b"damaged")
        before = changed_at(dataset_dir)
        fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == tree(dump)
        assert {other: changed_at(dataset_dir)[other] for other in others} == {other: before[other] for other in others}

    def test_broken_journal_costs_a_fetch_and_no_more(self, fetched: Path, dump: Path) -> None:
        journal = fetched / STATE_DIR / "journal.jsonl"
        journal.write_bytes(b'["images/a", \n\xff\n[]\n{"a": 1}\n3\n[[1], 2]\n' + journal.read_bytes()[:-20])
        fetch_dump("dump", fetched)
        assert tree(fetched) == tree(dump)

    @pytest.mark.parametrize("kind", ["prefix", "archive"])
    def test_killed_half_way(
        self, put: Put, tmp_path: Path, dataset_dir: Path, kind: str, s3_client: Any, bucket: str
    ) -> None:
        source = tmp_path / "many"
        (source / "images").mkdir(parents=True)
        for number in range(400):
            (source / "images" / f"{number:03}.bin").write_bytes(os.urandom(50_000))
        if kind == "prefix":
            put("many", source)
        else:
            put("many/dump.zip", pack(tmp_path / "dump.zip", source))
        command = [sys.executable, "-m", "steps", "fetch", "--annotation-path", "many"]
        process = subprocess.Popen([*command, "--dataset-dir", str(dataset_dir)], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(dataset_dir.glob("images/0*"))) < 10:
            time.sleep(0.001)
        process.kill()
        process.wait()
        half = {name: content for name, content in tree(dataset_dir).items() if "/.part-" not in name}
        assert 0 < len(half) < 400
        assert half.items() <= tree(source).items()

        fetch_dump("many", dataset_dir)
        assert tree(dataset_dir) == tree(source)


class TestLocalFolders:
    """A folder that somebody else packed: links in it lead anywhere."""

    @pytest.mark.parametrize("target", ["../secret.txt", "..", "/etc/hostname", "nothing.jpg"])
    def test_link(self, no_aws: None, dump: Path, dataset_dir: Path, tmp_path: Path, target: str) -> None:
        (tmp_path / "secret.txt").write_text("the secret")
        (dump / "images" / "x.jpg").symlink_to(os.path.join("..", target) if target.startswith("..") else target)
        with refused(dump, "'images/x.jpg' is a link that leads"):
            fetch_dump(str(dump), dataset_dir)
        assert not (dataset_dir / "images").exists()

    def test_pipe(self, no_aws: None, dump: Path, dataset_dir: Path) -> None:
        os.mkfifo(dump / "images" / "x.jpg")
        with refused(dump, "'images/x.jpg' is neither a file nor a folder"):
            fetch_dump(str(dump), dataset_dir)

    def test_volume_with_a_folder_that_is_not_ours(self, no_aws: None, coco_dump: Callable[..., Path]) -> None:
        """ext4 puts a `lost+found` into every volume, which only root may open."""
        with TemporaryDirectory() as name, as_somebody_else(Path(name)) as unreadable:
            volume = Path(name) / "volume"
            coco_dump(volume / "dump")
            unreadable(volume / "dump" / "lost+found")
            unreadable(volume / "dataset" / "lost+found")
            fetch_dump(str(volume / "dump"), volume / "dataset")
            assert prepare_data(volume / "dataset")["images"]["train"] == 5
            unreadable(volume / "dump" / "images" / "closed")
            with refused(volume, "'images/closed' cannot be read", "permissions"):
                fetch_dump(str(volume / "dump"), volume / "dataset")

    def test_link_to_the_folder_above(self, no_aws: None, dump: Path, dataset_dir: Path) -> None:
        (dump / "images" / "up").symlink_to("../images", target_is_directory=True)
        with refused(dump / "images" / "up", "a link to a folder that contains it"):
            fetch_dump(str(dump), dataset_dir)

    def test_link_within_the_dump(self, no_aws: None, dump: Path, dataset_dir: Path) -> None:
        (dump / "images" / "x.png").symlink_to(os.path.join("a b", "0000.png"))
        (dump / "images" / "folder").symlink_to("a b", target_is_directory=True)
        fetch_dump(str(dump), dataset_dir)
        name = "images/folder/0000.png"
        assert tree(dataset_dir).items() > {**tree(dump), name: (dump / name).read_bytes()}.items()
        assert not (dataset_dir / "images" / "x.png").is_symlink()


class TestTargets:
    def test_key_of_the_step_s_own_folder(self, put: Put, dataset_dir: Path) -> None:
        put(f"dump/{STATE_DIR}/files.json", b"[]")
        with refused(f"dump/{STATE_DIR}/files.json", "rename it"):
            fetch_dump("dump", dataset_dir)

    @pytest.mark.parametrize("key", ["dump/C:/evil.txt"])
    def test_key_that_leaves_the_folder(self, put: Put, dataset_dir: Path, key: str) -> None:
        put(key, b"evil")
        with refused(key, "outside the dataset's folder"):
            fetch_dump("dump", dataset_dir)
        assert tree(dataset_dir) == {}

    def test_dataset_inside_the_dump(self, no_aws: None, dump: Path) -> None:
        with refused(dump / "dataset", "lies inside the dump"):
            fetch_dump(str(dump), dump / "dataset")

    def test_dataset_dir_is_a_file(self, put: Put, dump: Path, dataset_dir: Path) -> None:
        put("dump", dump)
        dataset_dir.write_text("in the way")
        with refused(f"--dataset-dir {dataset_dir} is a file"):
            fetch_dump("dump", dataset_dir)

    def test_file_in_the_way_of_a_folder(self, put: Put, dump: Path, dataset_dir: Path) -> None:
        put("dump", dump)
        dataset_dir.mkdir()
        (dataset_dir / "images").write_text("in the way")
        with refused(dataset_dir / "images", "in the way"):
            fetch_dump("dump", dataset_dir)

    @pytest.mark.parametrize("kind", ["prefix", "archive"])
    def test_folder_in_the_way_of_a_file(
        self, put: Put, dump: Path, archive: Path, dataset_dir: Path, kind: str
    ) -> None:
        put("dump", dump if kind == "prefix" else archive)
        (dataset_dir / "annotations" / "instances_default.json").mkdir(parents=True)
        with refused(dataset_dir / "annotations" / "instances_default.json", "in the way"):
            fetch_dump("dump" if kind == "prefix" else str(archive), dataset_dir)

    def test_folder_behind_a_link_is_left_alone(self, put: Put, dump: Path, dataset_dir: Path, tmp_path: Path) -> None:
        # A volume may be mounted by a link: what the dump replaces is the link's target, inside or outside.
        put("dump", dump)
        (tmp_path / "volume").mkdir()
        dataset_dir.symlink_to(tmp_path / "volume")
        fetch_dump("dump", dataset_dir)
        assert tree(tmp_path / "volume") == tree(dump)
