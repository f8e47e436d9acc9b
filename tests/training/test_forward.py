"""Replaced forwards: nested, interrupted, ended in the wrong order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isoembed.training.forward import forwards_replaced

ONE = torch.ones(1)


class Double(nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return 2 * value


def runs(modules: list[nn.Module]) -> list[float]:
    return [float(module(ONE)) for module in modules]


def test_bodies_nest_and_give_back_what_the_outer_one_put_there() -> None:
    """Fails where the end of an inner body leaves the class's forward, as deleting the attribute alone would; or where
    a forward cannot be made of the one that ran before."""
    modules: list[nn.Module] = [Double(), Double(), Double()]
    first, second, _ = modules
    with forwards_replaced({first: lambda value: 3 * value, second: lambda value: 5 * value}):
        assert runs(modules) == [3, 5, 2]
        before = second.forward
        with forwards_replaced({second: lambda value: before(value) + 1}):
            assert runs(modules) == [3, 6, 2]
            with forwards_replaced(dict.fromkeys(modules, lambda value: value)):
                assert runs(modules) == [1, 1, 1]
            assert runs(modules) == [3, 6, 2]
        assert runs(modules) == [3, 5, 2]
    assert runs(modules) == [2, 2, 2]
    assert not any("forward" in vars(module) for module in modules)


def test_an_exception_gives_everything_back_and_passes() -> None:
    """Fails where modules keep a forward of a batch that was given up: ctrl-C, or memory that ran out."""
    module = Double()

    def interrupted() -> None:
        with forwards_replaced({module: lambda value: 3 * value}), forwards_replaced({module: lambda value: 4 * value}):
            assert runs([module]) == [4]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert runs([module]) == [2]


def test_hooks_run_around_a_replaced_forward() -> None:
    module, seen = Double(), []
    module.register_forward_hook(lambda *_: seen.append(1))
    with forwards_replaced({module: lambda value: 3 * value}):
        assert runs([module]) == [3]
    assert seen == [1]


def test_the_wrong_order_is_an_error_and_undoes_nobody_else_s() -> None:
    """Fails where the outer body's end silently removes the inner one's forward, whose end then brings the outer one's
    back for good."""
    both, one = Double(), Double()
    outer = forwards_replaced({both: lambda value: 3 * value, one: lambda value: 3 * value})
    inner = forwards_replaced({both: lambda value: 4 * value})
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="Double was replaced again"):
        outer.__exit__(None, None, None)
    assert runs([both, one]) == [4, 2]
