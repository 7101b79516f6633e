"""Fetching a dump: from a real bucket, a folder and an archive, whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.dump.target import STATE_DIR
from steps.fetch import fetch_dump
from steps.prepare import prepare_data
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


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for the step's own notes."""
    named = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(f"{STATE_DIR}/")}


def changed_at(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in tree(folder)}


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

    def test_local_folder(self, no_aws: None, dump: Path, dataset_dir: Path) -> None:
        odd = dump.rename(dump.with_name("dump #1 100%"))
        fetch_dump(str(odd), dataset_dir)
        assert tree(dataset_dir) == tree(odd)

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
        with refused(f"there is no {path}"):
            fetch_dump(path, dataset_dir)

    @pytest.mark.parametrize("path", ["./no-such-dump", "../no-such-dump.zip"])
    def test_absent_local_path_is_no_key(self, bucket: str, dataset_dir: Path, path: str) -> None:
        with refused(f"there is no {path}"):
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


class TestArchives:
    """Unsafe and broken archives are refused, with nothing written anywhere."""

    @staticmethod
    def write(path: Path, *members: zipfile.ZipInfo | str) -> Path:
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr("images/1.jpg", b"good")
            for member in members:
                zipped.writestr(member, b"evil")
        return path

    @pytest.mark.parametrize(
        "name",
        [
            "../evil.txt",
            "images/../../evil.txt",
            "..",
            "../",
            "/tmp/evil.txt",
            "//server/evil.txt",
            "..\\evil.txt",
            "C:/evil.txt",
            "C:evil.txt",
            ".fetch/files.json",
        ],
    )
    def test_member_that_leaves_the_folder(self, no_aws: None, tmp_path: Path, dataset_dir: Path, name: str) -> None:
        archive = self.write(tmp_path / "evil.zip", name)
        with refused(archive, repr(name)[1:-1].replace("\\\\", "\\")):
            fetch_dump(str(archive), dataset_dir)
        assert [path.name for path in tmp_path.iterdir() if path != dataset_dir] == ["evil.zip"]
        assert tree(dataset_dir) == {}

    def test_member_that_is_a_link(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        link = zipfile.ZipInfo("images/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive = self.write(tmp_path / "evil.zip", link)
        with refused(archive, "'images/link'", "is a link"):
            fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == {}

    @pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
    def test_member_that_is_a_device(self, no_aws: None, tmp_path: Path, dataset_dir: Path, kind: int) -> None:
        device = zipfile.ZipInfo("images/null.jpg")
        device.external_attr = (kind | 0o666) << 16
        archive = self.write(tmp_path / "evil.zip", device)
        with refused(archive, "'images/null.jpg'", "is neither a file nor a folder"):
            fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == {}

    @pytest.mark.parametrize(
        ("name", "shown", "why"),
        [
            ("images/a\nb.jpg", r"images/a\nb.jpg", "control characters"),
            ("images/\x1b[31ma.jpg", r"images/\x1b[31ma.jpg", "control characters"),
            ("x" * 256 + ".jpg", "xxx", "too long a name"),
            ("ä" * 130 + ".jpg", "äää", "too long a name"),
            ("a/" * 100 + "b.jpg", "a/a/a", "lies too deep"),
            ("/".join(["x" * 200] * 20) + ".jpg", "xxx", "too long a name"),
        ],
    )
    def test_name_that_is_no_name(
        self, no_aws: None, tmp_path: Path, dataset_dir: Path, name: str, shown: str, why: str
    ) -> None:
        archive = self.write(tmp_path / "evil.zip", name)
        with refused(archive, shown, why) as told:
            fetch_dump(str(archive), dataset_dir)
        assert told.message.isprintable()
        assert len(told.message) < 500
        assert tree(dataset_dir) == {}

    @pytest.mark.parametrize("name", ["a b.jpg", "a\u202fb.jpg", "猫.jpg", "it's #1 (100%).jpg", "a..b.jpg", "-rf.jpg"])
    def test_odd_name_that_is_one(self, no_aws: None, tmp_path: Path, dataset_dir: Path, name: str) -> None:
        fetch_dump(str(self.write(tmp_path / "odd.zip", name)), dataset_dir)
        assert tree(dataset_dir) == {"images/1.jpg": b"good", name: b"evil"}

    def test_name_cut_at_a_nul(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        archive = self.write(tmp_path / "evil.zip", "good.jpgX../evil.txt")
        archive.write_bytes(archive.read_bytes().replace(b"good.jpgX", b"good.jpg\0"))
        with refused(archive, "good.jpg"):
            fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == {}

    def test_members_that_share_bytes(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        archive = self.write(tmp_path / "evil.zip", "images/2.jpg")
        content = bytearray(archive.read_bytes())
        # The second entry of the directory says that its file starts where the first does.
        second = content.rindex(b"PK\x01\x02")
        content[second + 42 : second + 46] = bytes(4)
        archive.write_bytes(content)
        with refused(archive, "overlaps another file"):
            fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == {}

    def test_member_that_is_larger_than_it_says(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        archive = tmp_path / "evil.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("images/1.jpg", bytes(50_000_000))
        content = bytearray(archive.read_bytes())
        for start in (content.index(b"PK\x03\x04") + 22, content.index(b"PK\x01\x02") + 24):
            content[start : start + 4] = (10).to_bytes(4, "little")
        archive.write_bytes(content)
        with refused(archive, "is not a readable zip archive"):
            fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == {}

    def test_more_members_than_any_dump_has(
        self, no_aws: None, tmp_path: Path, dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("steps.dump.archive.MOST_MEMBERS", 100)
        archive = self.write(tmp_path / "many.zip", *(f"images/{number:03}.jpg" for number in range(100)))
        with refused(archive, "101", "no dump has as many"):
            fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == {}

    def test_archive_in_the_archive_stays_packed(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        inner = self.write(tmp_path / "inner.zip", "../evil.txt")
        with zipfile.ZipFile(tmp_path / "outer.zip", "w") as zipped:
            zipped.write(inner, "images/inner.zip")
        fetch_dump(str(tmp_path / "outer.zip"), dataset_dir)
        assert tree(dataset_dir) == {"images/inner.zip": inner.read_bytes()}

    def test_names_that_differ_in_case(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        archive = self.write(tmp_path / "case.zip", "images/A.jpg", "images/a.jpg")
        (tmp_path / "Probe").touch()
        if (tmp_path / "pROBE").exists():
            with refused(archive, "'images/A.jpg' and 'images/a.jpg'", "are one name"):
                fetch_dump(str(archive), dataset_dir)
        else:
            fetch_dump(str(archive), dataset_dir)
            assert set(tree(dataset_dir)) == {"images/1.jpg", "images/A.jpg", "images/a.jpg"}

    def test_encrypted(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        archive = self.write(tmp_path / "locked.zip")
        content = bytearray(archive.read_bytes())
        # zipfile cannot encrypt: the flag in the directory's entry says that a member is.
        content[content.index(b"PK\x01\x02") + 8] |= 1
        archive.write_bytes(content)
        with refused(archive, "is encrypted", "without a password"):
            fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == {}

    def test_bomb(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        archive = tmp_path / "bomb.zip"
        zeros = bytes(16 * 1024 * 1024)
        with (
            zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped,
            zipped.open("images/1.jpg", "w", force_zip64=True) as member,
        ):
            for _ in range(66):
                member.write(zeros)
        with refused(archive, "unpacks from"):
            fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == {}

    def test_two_members_of_one_name(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        with pytest.warns(UserWarning, match="Duplicate"):
            archive = self.write(tmp_path / "twice.zip", "images/1.jpg")
        with refused("two files of the dump would be written to", "1.jpg"):
            fetch_dump(str(archive), dataset_dir)

    def test_file_that_is_also_a_folder(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        archive = self.write(tmp_path / "clash.zip", "images/1.jpg/a.txt")
        with refused("1.jpg", "both as a file and as a folder"):
            fetch_dump(str(archive), dataset_dir)

    def test_not_an_archive(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        (tmp_path / "no.zip").write_bytes(b"<html>please log in</html>")
        with refused(tmp_path / "no.zip", "neither a folder nor a zip archive"):
            fetch_dump(str(tmp_path / "no.zip"), dataset_dir)

    def test_not_an_archive_in_the_bucket(self, put: Put, dataset_dir: Path) -> None:
        put("no.zip", b"<html>please log in</html>")
        with refused("dump.zip is not a readable zip archive", "export the dump again"):
            fetch_dump("no.zip", dataset_dir)

    def test_cut_off(self, put: Put, archive: Path, dataset_dir: Path) -> None:
        put("cut.zip", archive.read_bytes()[:-40])
        with refused("is not a readable zip archive"):
            fetch_dump("cut.zip", dataset_dir)

    def test_damaged_member(self, no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
        archive = self.write(tmp_path / "damaged.zip")
        archive.write_bytes(archive.read_bytes().replace(b"good", b"gooD"))
        with refused(archive, "is not a readable zip archive", "images/1.jpg"):
            fetch_dump(str(archive), dataset_dir)
        assert tree(dataset_dir) == {}


class TestLocalFolders:
    """A folder that somebody else packed: links in it lead anywhere."""

    @pytest.mark.parametrize("target", ["../secret.txt", "..", "/etc/hostname", "nothing.jpg"])
    def test_link(self, no_aws: None, dump: Path, dataset_dir: Path, tmp_path: Path, target: str) -> None:
        (tmp_path / "secret.txt").write_text("the secret")
        (dump / "images" / "x.jpg").symlink_to(os.path.join("..", target) if target.startswith("..") else target)
        with refused(dump, "'images/x.jpg' is a link that leads"):
            fetch_dump(str(dump), dataset_dir)
        assert not dataset_dir.exists()

    def test_pipe(self, no_aws: None, dump: Path, dataset_dir: Path) -> None:
        os.mkfifo(dump / "images" / "x.jpg")
        with refused(dump, "'images/x.jpg' is neither a file nor a folder"):
            fetch_dump(str(dump), dataset_dir)

    def test_link_within_the_dump(self, no_aws: None, dump: Path, dataset_dir: Path) -> None:
        (dump / "images" / "x.png").symlink_to(os.path.join("a b", "0000.png"))
        fetch_dump(str(dump), dataset_dir)
        assert tree(dataset_dir) == tree(dump)
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
