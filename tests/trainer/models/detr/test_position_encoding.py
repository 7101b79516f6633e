from __future__ import annotations

import math

import pytest
import torch

from trainer.errors import TrainerError
from trainer.models.detr.position_encoding import LearnedPositionEncoding, SinePositionEncoding


def test_values_follow_the_formula():
    mask = torch.zeros(1, 3, 5, dtype=torch.bool)
    code = SinePositionEncoding(8)(mask)
    assert code.shape == (1, 8, 3, 5)
    row, column = 1, 3
    angle_row, angle_column = 2 * math.pi * (row + 1) / 3, 2 * math.pi * (column + 1) / 5
    wanted = [
        *(math.sin(angle_row), math.cos(angle_row), math.sin(angle_row / 100), math.cos(angle_row / 100)),
        *(math.sin(angle_column), math.cos(angle_column)),
        *(math.sin(angle_column / 100), math.cos(angle_column / 100)),
    ]
    assert code[0, :, row, column].tolist() == pytest.approx(wanted, abs=1e-5)


def test_padding_does_not_shift_the_code():
    encode = SinePositionEncoding(32)
    alone = encode(torch.zeros(1, 4, 6, dtype=torch.bool))
    mask = torch.ones(1, 7, 9, dtype=torch.bool)
    mask[:, :4, :6] = False
    assert torch.allclose(encode(mask)[:, :, :4, :6], alone)


def test_nothing_to_learn_or_save():
    encode = SinePositionEncoding(32)
    assert not encode.state_dict()
    with pytest.raises(ValueError, match="multiple of 4"):
        SinePositionEncoding(30)


def test_a_learned_code_is_the_column_s_and_the_row_s():
    encode = LearnedPositionEncoding(8)
    code = encode(torch.zeros(2, 3, 5, dtype=torch.bool))
    assert code.shape == (2, 8, 3, 5)
    for row, column in ((0, 0), (2, 1), (1, 4)):
        expected = torch.cat([encode.col_embed.weight[column], encode.row_embed.weight[row]])
        assert torch.equal(code[1, :, row, column], expected)
    # The names and shapes of the authors' class.
    assert {name: tuple(value.shape) for name, value in encode.state_dict().items()} == {
        "row_embed.weight": (50, 4),
        "col_embed.weight": (50, 4),
    }


def test_more_cells_than_were_learned_are_refused():
    with pytest.raises(TrainerError, match=r"ends at 50 cells a side, and an image has 51; set it to sine"):
        LearnedPositionEncoding(8)(torch.zeros(1, 3, 51, dtype=torch.bool))
