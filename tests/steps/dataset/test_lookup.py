from __future__ import annotations

from pathlib import Path

import pytest

from steps.dataset.lookup import Stems, files_below, is_image, join, split_suffix


def touch(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [root / name for name in names]


def test_files_below_passes_over_what_is_no_dump_s(tmp_path: Path) -> None:
    outside = touch(tmp_path, "outside/a.xml")[0]
    root = tmp_path / "dump"
    kept = touch(root, "a.xml", "b/c.xml")
    touch(root, "b/c.txt", ".hidden/a.xml", "__MACOSX/a.xml", "b/._c.xml")
    (root / "link.xml").symlink_to(outside)
    (root / "linked").symlink_to(outside.parent)
    assert files_below(root, lambda name: name.endswith(".xml")) == kept


@pytest.mark.parametrize(
    ("folder", "name", "joined"),
    [
        ("images", "a.jpg", "images/a.jpg"),
        (".", "a.jpg", "a.jpg"),
        ("images", "b\\a.jpg", "images/b/a.jpg"),
        ("images", "/b/a.jpg", "/b/a.jpg"),
        ("images", "C:\\b\\a.jpg", "C:\\b\\a.jpg"),
        ("images", "../a.jpg", "../a.jpg"),
        ("images", "b\\..\\..\\a.jpg", "b\\..\\..\\a.jpg"),
        ("images", "a..b.jpg", "images/a..b.jpg"),
    ],
)
def test_join(folder: str, name: str, joined: str) -> None:
    assert join(folder, name) == joined


@pytest.mark.parametrize(
    ("name", "parted"),
    [("a.jpg", ("a", ".jpg")), ("a.JPG", ("a", ".JPG")), ("v1.2", ("v1.2", "")), ("b.c/a", ("b.c/a", ""))],
)
def test_split_suffix(name: str, parted: tuple[str, str]) -> None:
    assert split_suffix(name) == parted
    assert is_image(name) == bool(parted[1])


class TestStems:
    @pytest.fixture
    def stems(self, tmp_path: Path) -> Stems:
        names = ("one/a.jpg", "two/a.jpg", "two/e\u0301.jpg", "two/v1.2.png", "two/twin.jpg", "two/twin.png")
        return Stems(tmp_path, touch(tmp_path, *names))

    @pytest.mark.parametrize(
        ("name", "exact", "found"),
        [
            ("one/a", "one/a.jpg", "one/a.jpg"),
            ("two\\a.jpg", "two/a.jpg", "two/a.jpg"),
            ("./two/a.JPG", "two/a.jpg", "two/a.jpg"),
            ("two/\u00e9", "two/e\u0301.jpg", "two/e\u0301.jpg"),
            ("v1.2", None, "two/v1.2.png"),
            ("/elsewhere/two/a.jpg", None, "two/a.jpg"),
            ("a", None, None),
            ("three/a.jpg", None, None),
            ("two/a.png", None, None),
            ("two/twin", None, None),
            ("two/twin.png", "two/twin.png", "two/twin.png"),
            ("", None, None),
            ("/", None, None),
        ],
    )
    def test_lookup(self, tmp_path: Path, stems: Stems, name: str, exact: str | None, found: str | None) -> None:
        assert stems.exact(name) == (exact and tmp_path / exact)
        assert stems.find(name) == (found and tmp_path / found)
