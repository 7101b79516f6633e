"""What a validation means for the rest of the run: continue, lower the rates early, stop, or warn."""

from __future__ import annotations

import logging
import math

from trainer.config import TrainConfig
from trainer.training.train_state import RunState

_log = logging.getLogger("trainer")

WARN_AFTER = 0.3
"""Share of the epochs after which a detector that detects nothing is worth a warning."""
_NOTHING = 0.01
_STILL_NOTHING = f"AP50 is still below {_NOTHING}"


def is_best(best: dict[str, float], now: dict[str, float]) -> bool:
    """By AP, then AP50; of equals the later, which has learned longer."""
    return not best or (now["AP"], now["AP50"]) >= (best["AP"], best["AP50"])


def follow(state: RunState, validation: dict[str, float]) -> None:
    """Counts validations without progress and acts on them; called before the best figures are replaced.

    Progress is a better AP, AP50 or loss than ever before. After `patience` validations without any the rates fall
    at once rather than later, and the run ends as many epochs after that as it would have; after as many again it
    ends.
    """
    config, position = state.config, state.position
    best = position.best
    better = not best or any(validation[name] > best[name] for name in ("AP", "AP50"))
    # Not every model can tell its loss in evaluation mode.
    loss = validation.get("loss", math.inf)
    if position.best_loss is None or loss < position.best_loss:
        better, position.best_loss = True, loss
    position.stalled = 0 if better else position.stalled + 1
    _warn_of_nothing(state, validation)
    if not config.patience or position.stalled < config.patience or position.epoch >= state.end_epoch:
        return
    if position.epoch < state.drop_epoch:
        # Where the rates were never to drop there is no such end, and one epoch shows what it would have brought.
        tail = max(1, config.epochs - config.drop_epoch)
        position.drop_epoch, position.end_epoch = position.epoch, position.epoch + tail
        position.stalled = 0
        _log.info(
            "no progress in %d validations: the learning rates fall tenfold now, and the run ends in epoch %d",
            config.patience,
            state.end_epoch,
        )
    else:
        position.end_epoch = position.epoch
        _log.info("no progress in %d validations: the run ends here", config.patience)


def _warn_of_nothing(state: RunState, validation: dict[str, float]) -> None:
    """Says once, after a third of the run, that nothing is being learned, and what usually helps."""
    position = state.position
    best = max(validation["AP50"], position.best.get("AP50", 0.0))
    if position.epoch < WARN_AFTER * state.end_epoch or best >= _NOTHING:
        return
    warning = f"{_STILL_NOTHING} after {position.epoch} of {state.end_epoch} epochs: {_advice(state.config)}"
    if not any(known.startswith(_STILL_NOTHING) for known in position.warnings):
        position.warnings.append(warning)
        _log.warning("WARNING: %s", warning)


def _advice(config: TrainConfig) -> str:
    """What to change first, by what the run started from."""
    if config.pretrained is None:
        return (
            "from random weights a detector needs many thousands of steps; start from pretrained weights"
            " (pretrained: coco or imagenet, or a checkpoint), or give it many more epochs"
        )
    return (
        f"try more epochs, another lr (it is {config.lr:g}), or a larger image_size (it is {config.image_size}),"
        " and look at the boxes in the report's pictures"
    )
