"""The one decision engine: best, order, gaps, probability, regret and the value of a run never contradict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from isoembed.fitting.decision import CandidateSamples, OneMoreRun
from isoembed.laws.points import Floats

#: planted samples (B, K): of a few values, so that there are ties
SAMPLES = st.tuples(st.integers(1, 30), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([0.5, 1.0, 1.25, 2.0, 7.0]))
)


@settings(max_examples=200, deadline=None)
@given(SAMPLES)
def test_best_order_gaps_probability_and_regret_agree(loss_BK: Floats) -> None:
    for samples in (CandidateSamples(loss_BK), CandidateSamples(loss_BK).log()):
        K = len(samples.means)
        best, regrets = samples.best, np.array([samples.regret(k) for k in range(K)])
        assert samples.order[0] == best
        assert samples.means[samples.order].tolist() == sorted(samples.means)
        gaps = [samples.gap(k, best) for k in samples.order]
        assert gaps == sorted(gaps)
        assert gaps[0] == 0.0
        assert samples.probabilities.sum() == pytest.approx(1.0)
        assert (regrets >= 0).all()
        # the best has the least regret, and what others regret more is how far they lie behind
        np.testing.assert_allclose(regrets - regrets[best], samples.means - samples.means[best], atol=1e-12)
        for k in range(K):
            never_beaten = bool((samples.loss_BK[:, k] <= samples.loss_BK.min(axis=1)).all())
            assert (regrets[k] == 0) == never_beaten
            assert samples.gaps(k, best).mean() == pytest.approx(samples.gap(k, best), abs=1e-12)
        assert samples.lowest()[0] == samples.means[best]


def test_ties_share_their_sample_and_stand_in_order() -> None:
    """The first of candidates that are all at chance was told the best with certainty."""
    samples = CandidateSamples(np.ones((3, 4)))
    assert (samples.best, samples.order, samples.probabilities.tolist()) == (0, [0, 1, 2, 3], [0.25] * 4)
    at_chance = CandidateSamples(np.array([[6.9] * 3, [6.9] * 3, [6.0, 5.0, 5.5]]))
    assert at_chance.probabilities.tolist() == pytest.approx([2 / 9, 5 / 9, 2 / 9])
    assert at_chance.best == int(np.argmax(at_chance.probabilities))


def test_the_value_of_a_run_by_hand() -> None:
    """One run that could be made, which is one of two candidates, variances 1 and 0: it tells which is better."""
    cov_JJ, none = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), np.array([0.0])
    value = OneMoreRun(np.zeros(2), cov_JJ, none)
    assert value.variance_cuts() == pytest.approx(1.0)
    # E max(0, z) = 1 / sqrt(2 pi)
    assert value.regret_cuts() == pytest.approx(1 / math.sqrt(2 * math.pi), abs=0.03)
    # noise as large as the variance halves what is learned
    assert OneMoreRun(np.zeros(2), cov_JJ, np.array([1.0])).variance_cuts() == pytest.approx(0.5)
    # a decision that no outcome can overturn is worth nothing
    assert OneMoreRun(np.array([0.0, 50.0]), cov_JJ, none).regret_cuts() == 0.0
    certain = OneMoreRun(np.zeros(2), np.zeros_like(cov_JJ), none)  # of as many runs as parameters: it was no number
    assert not certain.variance_cuts().any()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_a_run_never_harms_and_a_second_like_it_tells_less(seed: int) -> None:
    chance = np.random.default_rng(seed)
    run_BX, loss_BK = chance.normal(size=(40, 3)), chance.normal(size=(40, 4))
    loss_BK[:, 0] += run_BX[:, 0]
    samples = CandidateSamples(loss_BK)
    value = samples.one_more_run(run_BX, np.full(3, 0.3))
    assert (value.variance_cuts() >= 0).all()
    assert (value.regret_cuts() >= 0).all()
    assert value.after(0).variance_cuts()[0] < value.variance_cuts()[0]
    # methods fitted apart tell nothing of one another
    apart_JJ = np.zeros((7, 7))
    apart_JJ[:3, :3] = apart_JJ[3:, 3:] = 1.0
    assert not samples.one_more_run(run_BX, np.full(3, 0.3), apart_JJ).variance_cuts().any()
