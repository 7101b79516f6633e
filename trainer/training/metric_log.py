"""What a training writes down: log.jsonl for programs, TensorBoard for curves."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from trainer.checkpoint import append, replacing, to_json

_log = logging.getLogger("trainer")


class Journal:
    """Appends one JSON object an epoch to `log.jsonl` and the same numbers to TensorBoard."""

    def __init__(self, output_dir: Path, epochs_done: int, steps_done: int) -> None:
        """Opens the journal of a run that has so many epochs and steps behind it.

        What a killed run wrote after its last checkpoint is dropped, as those epochs are run again.
        """
        self.path = output_dir / "log.jsonl"
        output_dir.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_log(self.path) if row["epoch"] <= epochs_done]
        # In one piece: a kill while the file is written anew would otherwise take the earlier epochs with it.
        with replacing(self.path) as stream:
            stream.write("".join(to_json(row) + "\n" for row in kept).encode())
        self._board = _open_board(output_dir / "tensorboard", steps_done)

    def epoch(self, row: dict[str, Any]) -> None:
        """Writes an epoch's numbers; one that is not finite is null in `log.jsonl`.

        Raises:
            TrainerError: the disk does not take them.
        """
        append(self.path, to_json(row))
        if self._board is None:
            return
        for part in ("train", "val"):
            for name, value in (row[part] or {}).items():
                self._board.add_scalar(f"{part}/{name}", value, row["step"])
        for name in ("lr", "lr_backbone", "seconds_per_step"):
            self._board.add_scalar(name, row[name], row["step"])
        self._board.flush()

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a line that a kill cut short is passed over."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def _open_board(folder: Path, steps_done: int) -> Any:
    """A TensorBoard writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.info("tensorboard is not installed; log.jsonl has the curves")
        return None
    return SummaryWriter(str(folder), purge_step=steps_done + 1 if steps_done else None)
