"""What is predicted on: folders, zips, videos, and what cannot be read."""

from __future__ import annotations

import random
import sys
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from steps.predict import predict_images
from steps.predictions.media import Picture, open_media
from steps.predictions.video import EVERY_FRAME, Frames
from tests.steps.predictions.conftest import found_on
from tests.steps.refusals import refused


def pictures(path: Path, frames: Frames = EVERY_FRAME) -> tuple[list[Picture], dict[str, str], int]:
    media = open_media(str(path), path.parent / "out", path.parent / "scratch", frames)
    return list(media.pictures), media.skipped, media.count


def names(path: Path) -> list[str]:
    return [picture.name for picture in pictures(path)[0]]


class TestImages:
    def test_a_folder_and_a_zip_give_the_same_in_cvat_s_order(self, photos: Path, tmp_path: Path) -> None:
        (photos / "notes.txt").write_text("nothing")
        (photos / ".hidden.png").write_bytes(b"nothing")
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as zipped:
            for path in sorted(photos.rglob("*"), reverse=True):
                if path.is_file():
                    zipped.write(path, path.relative_to(photos))
        in_folder, in_zip = pictures(photos)[0], pictures(tmp_path / "photos.zip")[0]
        paths = [path.relative_to(photos).as_posix() for path in photos.rglob("*.png") if path.name[0] != "."]
        assert [picture.name for picture in in_folder] == sorted(paths)
        assert [(one.name, one.image.tobytes()) for one in in_folder] == [
            (one.name, one.image.tobytes()) for one in in_zip
        ]

    def test_an_image_by_itself(self, photos: Path) -> None:
        assert names(photos / "a" / "img 2.png") == ["img 2.png"]

    def test_photographs_are_upright(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (40, 20), "red")
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / "a.jpg", exif=exif)
        ((picture,), _, _) = pictures(tmp_path)
        assert picture.image.size == (20, 40)

    def test_links_to_images_count_and_pictures_of_an_earlier_run_do_not(self, run: Path, photos: Path) -> None:
        (photos / "linked.png").symlink_to(photos / "a" / "img 2.png")
        before = names(photos)
        assert "linked.png" in before
        predict_images(str(run), str(photos), photos / "out", write="pictures")
        assert len(list((photos / "out").rglob("*.png"))) == len(before)
        assert [one.name for one in open_media(str(photos), photos / "out", photos / "out" / "x").pictures] == before

    def test_one_bad_image_is_named_and_the_others_have_their_predictions(
        self, run: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = found_on(run, photos)
        (photos / "a" / "broken.png").write_bytes((photos / "a" / "img 2.png").read_bytes()[:60])
        (photos / "a" / "strange.png").write_bytes(b"%PDF")
        (photos / "bell\a.png").write_bytes((photos / "a" / "img 2.png").read_bytes())
        caplog.set_level("INFO")
        predict_images(str(run), str(photos), tmp_path / "out", threshold=0)
        rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1:]
        assert sorted({row.partition(",")[0] for row in rows}) == sorted(found)
        said = caplog.text
        assert "no predictions for 3 of 14 images" in said
        assert "a/broken.png: " in said
        assert "a/strange.png: it is none of JPEG, PNG" in said
        assert "bell\\x07.png: its name has characters that no XML can hold" in said

    def test_where_there_is_nothing_to_predict_on(self, run: Path, tmp_path: Path) -> None:
        folder = tmp_path / "photos"
        for wrong, words in [
            ("absent", "neither a folder, nor a zip"),
            ("s3://bucket/photos", "is not on this machine"),
        ]:
            with refused("--images", wrong, words):
                predict_images(str(run), wrong, tmp_path / "out")
        folder.mkdir()
        (folder / "notes.txt").write_text("nothing")
        with refused(folder, "holds no images"):
            predict_images(str(run), str(folder), tmp_path / "out")
        (folder / "a.jpg").write_bytes(b"nonsense")
        with refused(folder, "no image that can be read", "a.jpg, it is none of"):
            predict_images(str(run), str(folder), tmp_path / "out")
        with refused(folder, "is no video", "--frame-step"):
            predict_images(str(run), str(folder), tmp_path / "out", frame_step=5)
        assert {path.name for path in (tmp_path / "out").iterdir()} == {".predict.lock"}

    def test_a_zip_that_leads_out_is_refused_and_nothing_of_one_stays(
        self, run: Path, photos: Path, tmp_path: Path
    ) -> None:
        archive = tmp_path / "photos.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.write(photos / "a" / "img 2.png", "../img.png")
        with refused("../img.png", "outside"):
            predict_images(str(run), str(archive), tmp_path / "out")
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.write(photos / "a" / "img 2.png", "img.png")
        predict_images(str(run), str(archive), tmp_path / "out", write="csv")
        assert {path.name for path in (tmp_path / "out").iterdir()} == {".predict.lock", "predictions.csv"}


def film(path: Path, codec: str, *, turned: int = 0, b_frames: int = 0) -> Path:
    """A clip of 20 frames, each of another grey, with a white corner on the left at the top."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 2_000_000
        stream.codec_context.max_b_frames = b_frames
        if turned:
            stream.set_display_rotation(turned)
        for number in range(20):
            image = Image.new("RGB", (96, 64), (10 * number,) * 3)
            ImageDraw.Draw(image).rectangle([0, 0, 16, 16], fill="white")
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def numbers(found: list[Picture]) -> list[int]:
    """Which frames the pictures show."""
    return [round(float(np.asarray(picture.image)[40:56, 40:56].mean()) / 10) for picture in found]


class TestVideos:
    @pytest.mark.parametrize(
        ("name", "codec", "b_frames"),
        [("a.mp4", "libx264", 2), ("a.avi", "mpeg4", 0), ("a.mkv", "libx264", 0), ("a.webm", "libvpx-vp9", 0)],
    )
    def test_frames_are_numbered_and_named_as_cvat_does(
        self, tmp_path: Path, name: str, codec: str, b_frames: int
    ) -> None:
        found, skipped, count = pictures(film(tmp_path / name, codec, b_frames=b_frames))
        assert [picture.frame for picture in found] == numbers(found) == list(range(20))
        assert [picture.name for picture in found][::19] == ["frame_000000.PNG", "frame_000019.PNG"]
        assert (skipped, count) == ({}, 20)

    def test_a_task_s_settings_choose_the_frames(self, tmp_path: Path) -> None:
        clip = film(tmp_path / "a.mp4", "libx264")
        for frames in (Frames(3, 14, 5), Frames(4, None, 7), Frames(0, 99, 19)):
            found, _, count = pictures(clip, frames)
            wanted = list(range(frames.start, min(20, 1 + (19 if frames.stop is None else frames.stop)), frames.step))
            assert [picture.frame for picture in found] == numbers(found) == wanted
            assert count == len(wanted)

    def test_a_video_of_a_telephone_held_upright(self, tmp_path: Path) -> None:
        """Which says how far to turn its frames, against the clock: by 90 degrees, their left corner goes down."""
        if not hasattr(av.VideoStream, "set_display_rotation"):
            pytest.skip("this version of PyAV reads turned videos and writes none")
        for turned, corner in ((90, (8, 88)), (-90, (56, 8)), (180, (88, 56))):
            ((first, *_), _, _) = pictures(film(tmp_path / "a.mp4", "libx264", turned=turned))
            assert first.image.size == ((96, 64) if turned == 180 else (64, 96))
            assert min(first.image.getpixel(corner)) > 200

    def test_a_video_that_is_damaged_ends_with_the_last_frame_that_is_sure(self, tmp_path: Path) -> None:
        clip = film(tmp_path / "a.mp4", "libx264")
        content = bytearray(clip.read_bytes())
        content[len(content) // 3 : len(content) // 3 + 300] = random.Random(0).randbytes(300)
        clip.write_bytes(content)
        found, skipped, _ = pictures(clip)
        assert 0 < len(found) < 20
        assert list(skipped) == [f"frame_{len(found):06}.PNG"]
        assert "damaged from here on" in skipped[f"frame_{len(found):06}.PNG"]

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"ffconcat version 1.0\nfile a.avi\n"])
    def test_what_is_no_video_is_one_line(self, tmp_path: Path, content: bytes) -> None:
        """Lists of other files among it: FFmpeg would open those."""
        film(tmp_path / "a.avi", "mpeg4")
        (tmp_path / "b.mp4").write_bytes(content)
        with refused(tmp_path / "b.mp4", "cannot be read as a video"):
            pictures(tmp_path / "b.mp4")

    def test_predictions_bear_the_frames_names(self, run: Path, tmp_path: Path) -> None:
        film(tmp_path / "a.mp4", "libx264")
        predict_images(
            str(run), str(tmp_path / "a.mp4"), tmp_path / "out", 0, "csv,pictures", start_frame=2, frame_step=9
        )
        rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1:]
        assert {row.partition(",")[0] for row in rows} == {"frame_000002.PNG", "frame_000011.PNG"}
        drawn = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
        assert drawn == {"frame_000002.jpg", "frame_000011.jpg"}

    def test_without_pyav_it_says_how_to_get_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clip = film(tmp_path / "a.mp4", "libx264")
        monkeypatch.setitem(sys.modules, "av", None)
        with refused("pip install 'cvat-detr[video]'"):
            pictures(clip)
