"""Unsafe and broken archives are refused, with nothing written anywhere."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.dump.target import STATE_DIR
from steps.fetch import fetch_dump
from tests.steps.dump.folders import tree
from tests.steps.refusals import refused


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


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
def test_member_that_leaves_the_folder(no_aws: None, tmp_path: Path, dataset_dir: Path, name: str) -> None:
    archive = write(tmp_path / "evil.zip", name)
    with refused(archive, repr(name)[1:-1].replace("\\\\", "\\")):
        fetch_dump(str(archive), dataset_dir)
    assert [path.name for path in tmp_path.iterdir() if path != dataset_dir] == ["evil.zip"]
    assert tree(dataset_dir) == {}


def test_member_that_is_a_link(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    link = zipfile.ZipInfo("images/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = write(tmp_path / "evil.zip", link)
    with refused(archive, "'images/link'", "is a link"):
        fetch_dump(str(archive), dataset_dir)
    assert tree(dataset_dir) == {}


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_member_that_is_a_device(no_aws: None, tmp_path: Path, dataset_dir: Path, kind: int) -> None:
    device = zipfile.ZipInfo("images/null.jpg")
    device.external_attr = (kind | 0o666) << 16
    archive = write(tmp_path / "evil.zip", device)
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
def test_name_that_is_no_name(no_aws: None, tmp_path: Path, dataset_dir: Path, name: str, shown: str, why: str) -> None:
    archive = write(tmp_path / "evil.zip", name)
    with refused(archive, shown, why) as told:
        fetch_dump(str(archive), dataset_dir)
    assert told.message.isprintable()
    assert len(told.message) < 500
    assert tree(dataset_dir) == {}


@pytest.mark.parametrize("name", ["a b.jpg", "a\u202fb.jpg", "猫.jpg", "it's #1 (100%).jpg", "a..b.jpg", "-rf.jpg"])
def test_odd_name_that_is_one(no_aws: None, tmp_path: Path, dataset_dir: Path, name: str) -> None:
    fetch_dump(str(write(tmp_path / "odd.zip", name)), dataset_dir)
    assert tree(dataset_dir) == {"images/1.jpg": b"good", name: b"evil"}


def test_name_cut_at_a_nul(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    archive = write(tmp_path / "evil.zip", "good.jpgX../evil.txt")
    archive.write_bytes(archive.read_bytes().replace(b"good.jpgX", b"good.jpg\0"))
    with refused(archive, "good.jpg"):
        fetch_dump(str(archive), dataset_dir)
    assert tree(dataset_dir) == {}


def test_members_that_share_bytes(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    archive = write(tmp_path / "evil.zip", "images/2.jpg")
    content = bytearray(archive.read_bytes())
    # The second entry of the directory says that its file starts where the first does.
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = bytes(4)
    archive.write_bytes(content)
    with refused(archive, "overlaps another file"):
        fetch_dump(str(archive), dataset_dir)
    assert tree(dataset_dir) == {}


def test_member_that_is_larger_than_it_says(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
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
    no_aws: None, tmp_path: Path, dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steps.dump.archive.MOST_MEMBERS", 100)
    archive = write(tmp_path / "many.zip", *(f"images/{number:03}.jpg" for number in range(100)))
    with refused(archive, "101", "no dump has as many"):
        fetch_dump(str(archive), dataset_dir)
    assert tree(dataset_dir) == {}


def test_archive_in_the_archive_stays_packed(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    inner = write(tmp_path / "inner.zip", "../evil.txt")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as zipped:
        zipped.write(inner, "images/inner.zip")
    fetch_dump(str(tmp_path / "outer.zip"), dataset_dir)
    assert tree(dataset_dir) == {"images/inner.zip": inner.read_bytes()}


def test_names_that_differ_in_case(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    archive = write(tmp_path / "case.zip", "images/A.jpg", "images/a.jpg")
    (tmp_path / "Probe").touch()
    if (tmp_path / "pROBE").exists():
        with refused(archive, "'images/A.jpg' and 'images/a.jpg'", "are one name"):
            fetch_dump(str(archive), dataset_dir)
    else:
        fetch_dump(str(archive), dataset_dir)
        assert set(tree(dataset_dir)) == {"images/1.jpg", "images/A.jpg", "images/a.jpg"}


def test_encrypted(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    archive = write(tmp_path / "locked.zip")
    content = bytearray(archive.read_bytes())
    # zipfile cannot encrypt: the flag in the directory's entry says that a member is.
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with refused(archive, "is encrypted", "without a password"):
        fetch_dump(str(archive), dataset_dir)
    assert tree(dataset_dir) == {}


def test_bomb(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    archive = write(tmp_path / "bomb.zip")
    content = bytearray(archive.read_bytes())
    # A directory that announces 2 GB, in an archive of a hundred bytes.
    start = content.index(b"PK\x01\x02") + 24
    content[start : start + 4] = (2_000_000_000).to_bytes(4, "little")
    archive.write_bytes(content)
    with refused(archive, "unpacks from"):
        fetch_dump(str(archive), dataset_dir)
    assert tree(dataset_dir) == {}


def test_two_members_of_one_name(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = write(tmp_path / "twice.zip", "images/1.jpg")
    with refused("two files of the dump would be written to", "1.jpg"):
        fetch_dump(str(archive), dataset_dir)


def test_file_that_is_also_a_folder(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    archive = write(tmp_path / "clash.zip", "images/1.jpg/a.txt")
    with refused("1.jpg", "both as a file and as a folder"):
        fetch_dump(str(archive), dataset_dir)


def test_not_an_archive(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"<html>please log in</html>")
    with refused(tmp_path / "no.zip", "neither a folder nor a zip archive"):
        fetch_dump(str(tmp_path / "no.zip"), dataset_dir)


def test_not_an_archive_in_the_bucket(
    put: Callable[[str, bytes], None], bucket: str, tmp_path: Path, dataset_dir: Path
) -> None:
    put("no.zip", b"<html>please log in</html>")
    put("cut.zip", write(tmp_path / "whole.zip").read_bytes()[:-40])
    for key in ("no.zip", "cut.zip"):
        with refused(f"s3://{bucket}/{key} is not a readable zip archive", "export the dump again"):
            fetch_dump(key, dataset_dir)
        assert tree(dataset_dir) == {}
    assert list((dataset_dir / STATE_DIR).glob("*.zip")) == []


def test_damaged_member(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    archive = write(tmp_path / "damaged.zip")
    archive.write_bytes(archive.read_bytes().replace(b"good", b"gooD"))
    with refused(archive, "is not a readable zip archive", "images/1.jpg"):
        fetch_dump(str(archive), dataset_dir)
    assert tree(dataset_dir) == {}


def test_no_files(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    with zipfile.ZipFile(tmp_path / "dump.zip", "w") as zipped:
        zipped.mkdir("images") if hasattr(zipped, "mkdir") else None
    with refused(tmp_path / "dump.zip", "holds no files"):
        fetch_dump(str(tmp_path / "dump.zip"), dataset_dir)


@pytest.mark.parametrize("hidden", range(3))
def test_directory_that_lists_less_than_there_is(no_aws: None, tmp_path: Path, dataset_dir: Path, hidden: int) -> None:
    archive = tmp_path / "dump.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in "abc":
            zipped.writestr(f"{name}.jpg", name * 100)
        del zipped.filelist[hidden]
        zipped._didModify = True
    with refused(archive, "holds more files than its directory lists"):
        fetch_dump(str(archive), dataset_dir)
    assert tree(dataset_dir) == {}


def test_descriptors_and_what_comes_before_are_no_files(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as zipped:  # A stream: sizes come behind the bytes.
        for name in "abc":
            zipped.writestr(f"{name}.jpg", name * 100)
    (tmp_path / "dump.zip").write_bytes(b"#!/bin/sh\n" * 20 + pipe.getvalue())
    fetch_dump(str(tmp_path / "dump.zip"), dataset_dir)
    assert tree(dataset_dir) == {f"{name}.jpg": name.encode() * 100 for name in "abc"}


def broken(archive: Path, kind: int, change: Callable[[bytearray], object]) -> Path:
    with zipfile.ZipFile(archive, "w", kind) as zipped:
        zipped.writestr("images/1.jpg", bytes(range(256)) * 40)
    content = bytearray(archive.read_bytes())
    change(content)
    archive.write_bytes(content)
    return archive


def patched(offset: int, value: bytes) -> Callable[[bytearray], None]:
    """Put bytes at an offset in the directory's entry (APPNOTE.TXT 4.3.12)."""

    def change(content: bytearray) -> None:
        start = content.index(b"PK\1\2") + offset
        content[start : start + len(value)] = value

    return change


def in_data(content: bytearray) -> None:
    middle = content.index(b"PK\1\2") // 2
    content[middle : middle + 30] = b"\xff" * 30


def no_utf_8(content: bytearray) -> None:
    patched(8, b"\0\x08")(content)  # The flag that says that the name is.
    patched(46, b"\xff\xfe")(content)


def no_directory(content: bytearray) -> None:
    content[-10:-6] = b"\xff\xff\xff\x7f"  # Its size.


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (zipfile.ZIP_BZIP2, in_data),
        (zipfile.ZIP_LZMA, in_data),
        (zipfile.ZIP_DEFLATED, in_data),
        (zipfile.ZIP_STORED, patched(42, b"\xff\xff\xff\x7f")),  # Where the member starts.
        (zipfile.ZIP_STORED, patched(10, b"\x63\0")),  # A method that nobody has.
        (zipfile.ZIP_STORED, no_directory),
        (zipfile.ZIP_STORED, no_utf_8),
    ],
)
def test_damage_of_every_kind_is_a_line(
    no_aws: None, tmp_path: Path, dataset_dir: Path, kind: int, change: Callable[[bytearray], object]
) -> None:
    archive = broken(tmp_path / "dump.zip", kind, change)
    with refused(archive):
        fetch_dump(str(archive), dataset_dir)
    assert tree(dataset_dir) == {}


def test_many_files_of_nothing(no_aws: None, tmp_path: Path, dataset_dir: Path) -> None:
    with zipfile.ZipFile(tmp_path / "dump.zip", "w") as zipped:
        for number in range(10_001):
            zipped.writestr(f"{number}.jpg", b"")
    with refused("dump.zip", "holds 10001 files of 0 bytes in all"):
        fetch_dump(str(tmp_path / "dump.zip"), dataset_dir)
