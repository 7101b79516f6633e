"""One writer a folder, whatever becomes of it."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from tests.processes import held
from trainer.errors import BusyError, TrainerError
from trainer.lock import only_writer


def test_the_second_is_told_who_the_first_is(tmp_path: Path):
    with held(tmp_path / "run", "train", ".lock") as holder:
        with (
            pytest.raises(BusyError, match=rf"run is in use: train writes there, process {holder} on \S+ since 2\S+ "),
            only_writer(tmp_path / "run", "train", ".lock"),
        ):
            pytest.fail("two at once")
        # Another step's lock is another one.
        with only_writer(tmp_path / "run", "evaluate", ".other"):
            pass
    # Killed, not ended.
    with only_writer(tmp_path / "run", "train", ".lock"):
        pass


def test_a_process_that_the_holder_forked_does_not_hold_on(tmp_path: Path):
    """Workers that load images may outlive a training that was killed by some seconds."""
    context = multiprocessing.get_context("fork")
    with only_writer(tmp_path, "train", ".lock"):
        child = context.Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with held(tmp_path, "train", ".lock"):
            pass
    finally:
        child.kill()
        child.join()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path):
    (tmp_path / "run").write_text("")
    with pytest.raises(TrainerError, match="run is not a folder"), only_writer(tmp_path / "run", "train", ".lock"):
        pass
