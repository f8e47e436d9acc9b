import pytest
import torch

from isoembed.core import InputError
from isoembed.encoder.pooling import POOLINGS, Pooling, last, mean, pool

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


@pytest.mark.parametrize("pooling", POOLINGS)
def test_not_a_number_at_padding_reaches_neither_vector_nor_gradient(pooling: Pooling) -> None:
    hidden_BTD = HIDDEN_BTD.masked_fill(RIGHT_THEN_LEFT_BT[..., None] == 0, float("nan")).requires_grad_()
    embedding_BD = pooling(hidden_BTD, RIGHT_THEN_LEFT_BT)
    embedding_BD.square().sum().backward()
    assert embedding_BD.isfinite().all()
    assert hidden_BTD.grad is not None
    assert hidden_BTD.grad.isfinite().all()
    assert (hidden_BTD.grad[RIGHT_THEN_LEFT_BT == 0] == 0).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_is_read_out_in_single(pooling: Pooling) -> None:
    # 4,096 ones added up in bfloat16 stop at 256
    hidden_BTD = torch.ones(1, 4096, 1, dtype=torch.bfloat16)
    embedding_BD = pooling(hidden_BTD, torch.ones(1, 4096, dtype=torch.long))
    assert embedding_BD.dtype == torch.float32
    assert embedding_BD.item() == 1.0


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    assert pool("mean") is mean
    assert pool("last") is last
    with pytest.raises(InputError, match="mean, last; got 'max'"):
        pool("max")
