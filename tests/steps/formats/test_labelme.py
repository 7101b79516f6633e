from __future__ import annotations

from pathlib import Path

import datumaro
import numpy as np
import pytest
from PIL import Image

from steps.formats import labelme
from tests.steps.formats.dumps import export, said
from tests.steps.refusals import refused


def points(*pairs: tuple[float, float]) -> str:
    return "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in pairs)


CORNERS = points((10, 20), (30, 20), (30, 60), (10, 60))
POLYGON = f"<polygon>{CORNERS}<username/></polygon>"


def thing(body: str = POLYGON, name: str = "bolt", deleted: int = 0, attributes: str = "", occluded: str = "no") -> str:
    return (
        f"<object><name>{name}</name><deleted>{deleted}</deleted><occluded>{occluded}</occluded>"
        f"<id>0</id>{body}<attributes>{attributes}</attributes></object>"
    )


def write(root: Path, body: str, name: str = "a.png", folder: str = "default") -> Path:
    path = root / "Annotations/default/a.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation>\n<filename>{name}</filename>\n<folder>{folder}</folder>\n"
        f"<imagesize><nrows>100</nrows><ncols>90</ncols></imagesize>\n{body}\n</annotation>"
    )
    return path


BOX = "<type>bounding_box</type>" + POLYGON


@pytest.mark.parametrize(
    ("body", "box"),
    [
        (thing(BOX), ("bolt", 10, 20, 20, 40)),
        (thing(POLYGON), ("bolt", 10, 20, 20, 40)),
        (thing(f"<polygon>{points((1, 2), (9, 4), (5, 8))}</polygon>"), ("bolt", 1, 2, 8, 6)),
        (thing(BOX, attributes="rotation=90.0"), ("bolt", 0, 30, 40, 20)),
        (thing(POLYGON, attributes="rotation=90.0"), ("bolt", 10, 20, 20, 40)),
        (thing(BOX, name="  wing nut "), ("wing nut", 10, 20, 20, 40)),
    ],
)
def test_boxes(tmp_path: Path, body: str, box: tuple[str, float, float, float, float]) -> None:
    write(tmp_path, body)
    found = said(labelme, tmp_path)
    assert found.images == {"a": [(box[0], *(pytest.approx(value) for value in box[1:]))]}
    assert found.subsets == {"a": "default"}
    assert found.dataset.sizes == [(90, 100)]
    assert found.findings == {}


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        (thing(deleted=1), {"skipped": {"deleted object": 1}}),
        (thing(f"<polygon>{points((1, 2))}</polygon>"), {"skipped": {"point or line, which has no box": 1}}),
        (thing(f"<polygon>{points((1, 2), (3, 4))}</polygon>"), {"skipped": {"point or line, which has no box": 1}}),
        (thing(name=""), {"dropped": {"box of an unlisted category": 1}}),
        (thing("<type>bounding_box</type><polygon/>"), {"dropped": {"shape of zero size": 1}}),
        (
            thing(f"<polygon>{points((1, 2), (float('nan'), 4), (3, 3))}</polygon>"),
            {"dropped": {"shape of zero size": 1}},
        ),
    ],
)
def test_what_is_no_box(tmp_path: Path, body: str, finding: dict[str, dict[str, int]]) -> None:
    write(tmp_path, body)
    found = said(labelme, tmp_path)
    assert found.images == {"a": []}
    assert found.findings == finding


def test_masks_by_datumaro(tmp_path: Path) -> None:
    painted = np.zeros((48, 64), bool)
    painted[3:10, 20:41] = True
    painted[8, 5] = True
    root = export(tmp_path / "dump", "label_me", {"a": [datumaro.Mask(painted, label=1)]})
    assert said(labelme, root).images["a"] == [("wing nut", 5, 3, 36, 7)]


def test_mask_whose_file_is_gone(tmp_path: Path) -> None:
    box = "<box><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></box>"
    write(tmp_path, thing(f"<segm><mask>../../../etc/a_mask.png</mask>{box}</segm>"))
    assert said(labelme, tmp_path).images == {"a": [("bolt", 1, 2, 10, 20)]}


def test_mask_that_is_no_image(tmp_path: Path) -> None:
    mask = tmp_path / "Masks/default/m.png"
    mask.parent.mkdir(parents=True)
    mask.write_text("no image")
    write(tmp_path, thing("<segm><mask>m.png</mask></segm>"))
    with refused(mask, "not readable as a mask"):
        said(labelme, tmp_path)


def test_empty_mask_is_dropped(tmp_path: Path) -> None:
    mask = tmp_path / "Masks/default/m.png"
    mask.parent.mkdir(parents=True)
    Image.new("RGBA", (9, 9)).save(mask)
    write(tmp_path, thing("<segm><mask>m.png</mask></segm>"))
    assert said(labelme, tmp_path).findings == {"dropped": {"shape of zero size": 1}}


@pytest.mark.parametrize(
    ("attributes", "rule"),
    [
        ("track_id=7, difficult", "difficult"),
        ("track_id=7", "track_id=7"),
        ("colour=&quot;1&quot;", "colour=1"),
        ("note=left\\, below, big=true", "big"),
        ("note=left\\, below", "note=left, below"),
        ("path=C:\\\\, big=True", "big=True"),
    ],
)
def test_attributes_filter(tmp_path: Path, attributes: str, rule: str) -> None:
    write(tmp_path, thing(attributes=attributes))
    assert said(labelme, tmp_path, exclude=[rule]).images == {"a": []}
    assert len(said(labelme, tmp_path, exclude=["other"]).images["a"]) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (thing("<polygon><pt><x>1</x></pt></polygon>"), ["line 5: <pt> has no <y>"]),
        (thing("<polygon><pt><x>1,5</x><y>2</y></pt></polygon>"), ["line 5: <x> is '1,5', expected a number"]),
        (thing(""), ["line 5: <object> has neither <polygon> nor <segm>"]),
        (thing("<segm><mask>m.png</mask></segm>"), ["<segm> has no <box>, and its mask is missing"]),
        ("<object>", ["line 6: not readable XML (mismatched tag)"]),
        ("&nbsp;", ["line 5: not readable XML (undefined entity)"]),
    ],
)
def test_malformed(tmp_path: Path, body: str, words: list[str]) -> None:
    path = write(tmp_path, body)
    with refused(path, *words):
        said(labelme, tmp_path)


def test_without_file_name(tmp_path: Path) -> None:
    path = write(tmp_path, thing(), name="")
    with refused(path, "no <filename>"):
        said(labelme, tmp_path)


@pytest.mark.parametrize(("name", "folder"), [("../../x.png", "default"), ("x.png", "../.."), ("/etc/x.png", "")])
def test_name_that_leads_elsewhere_is_passed_on_as_it_is(tmp_path: Path, name: str, folder: str) -> None:
    write(tmp_path, thing(), name=name, folder=folder)
    assert said(labelme, tmp_path).dataset.names[0] in (name, "../../x.png")
