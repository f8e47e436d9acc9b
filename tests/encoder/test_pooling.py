from typing import get_args

import pytest
import torch

from isoembed.core import InputError
from isoembed.encoder.pooling import POOLINGS, Pooling, first, last, maximum, mean, pool, weighted_mean
from isoembed.recipe import PoolingName

HIDDEN_BTD = torch.tensor(
    [
        [[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]],
        [[100.0, 100.0], [5.0, 7.0], [1.0, 1.0]],
    ]
)
RIGHT_THEN_LEFT_BT = torch.tensor([[1, 1, 0], [0, 1, 1]])


def test_mean_divides_by_real_tokens_not_by_padded_length() -> None:
    assert mean(HIDDEN_BTD, RIGHT_THEN_LEFT_BT).tolist() == [[2.0, 4.0], [3.0, 4.0]]


def test_last_is_the_last_real_token_on_either_padding_side() -> None:
    assert last(HIDDEN_BTD, RIGHT_THEN_LEFT_BT).tolist() == [[3.0, 6.0], [1.0, 1.0]]


def test_last_of_a_single_token() -> None:
    assert last(HIDDEN_BTD, torch.tensor([[1, 0, 0], [0, 0, 1]])).tolist() == [[1.0, 2.0], [1.0, 1.0]]


def test_first_is_the_first_real_token_on_either_padding_side() -> None:
    assert first(HIDDEN_BTD, RIGHT_THEN_LEFT_BT).tolist() == [[1.0, 2.0], [5.0, 7.0]]


def test_weights_of_the_weighted_mean_start_at_the_first_real_token() -> None:
    # (1 + 2 * 3) / 3 and (2 + 2 * 6) / 3; (5 + 2 * 1) / 3 and (7 + 2 * 1) / 3
    expected_BD = torch.tensor([[7 / 3, 14 / 3], [7 / 3, 3.0]])
    torch.testing.assert_close(weighted_mean(HIDDEN_BTD, RIGHT_THEN_LEFT_BT), expected_BD)


def test_max_looks_at_real_tokens_only_and_at_negative_ones_too() -> None:
    assert maximum(HIDDEN_BTD, RIGHT_THEN_LEFT_BT).tolist() == [[3.0, 6.0], [5.0, 7.0]]
    assert maximum(-HIDDEN_BTD, RIGHT_THEN_LEFT_BT).tolist() == [[-1.0, -2.0], [-1.0, -1.0]]


@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
def test_side_and_amount_of_padding_change_nothing(pooling: Pooling) -> None:
    hidden_1TD = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    bare_1D = pooling(hidden_1TD, torch.ones(1, 5, dtype=torch.long))
    for before, after in ((0, 1), (0, 4), (1, 0), (4, 0), (2, 2)):
        padded_1TD = torch.nn.functional.pad(hidden_1TD, (0, 0, before, after), value=9.0)
        mask_1T = torch.nn.functional.pad(torch.ones(1, 5, dtype=torch.long), (before, after))
        torch.testing.assert_close(pooling(padded_1TD, mask_1T), bare_1D, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS.values())
def test_not_a_number_at_padding_reaches_neither_vector_nor_gradient(pooling: Pooling) -> None:
    hidden_BTD = HIDDEN_BTD.masked_fill(RIGHT_THEN_LEFT_BT[..., None] == 0, float("nan")).requires_grad_()
    embedding_BD = pooling(hidden_BTD, RIGHT_THEN_LEFT_BT)
    embedding_BD.square().sum().backward()
    assert embedding_BD.isfinite().all()
    assert hidden_BTD.grad is not None
    assert hidden_BTD.grad.isfinite().all()
    assert (hidden_BTD.grad[RIGHT_THEN_LEFT_BT == 0] == 0).all()


@pytest.mark.parametrize("pooling", POOLINGS.values())
def test_half_precision_is_read_out_in_single(pooling: Pooling) -> None:
    # 4,096 ones added up in bfloat16 stop at 256
    hidden_BTD = torch.ones(1, 4096, 1, dtype=torch.bfloat16)
    embedding_BD = pooling(hidden_BTD, torch.ones(1, 4096, dtype=torch.long))
    assert embedding_BD.dtype == torch.float32
    assert embedding_BD.item() == pytest.approx(1.0, abs=1e-6)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    assert pool("mean") is mean
    assert pool("last") is last
    assert tuple(POOLINGS) == get_args(PoolingName)  # what a recipe may name
    with pytest.raises(InputError, match="must be one of mean, last, max; got 'cls'"):
        pool("cls")
