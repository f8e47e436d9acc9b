"""One decision: which candidate has the lowest loss, how sure that is, and what one more run would tell about it.

All is read from one array of bootstrap samples on one scale, so that nothing contradicts anything: the best candidate
has the lowest mean, the order is that of the means, a gap is a difference of means, and the expected regret is the mean
over samples of what a candidate lies above the best one of that sample.

Of one more run the samples are taken as draws of a joint Gaussian over runs that could be made and candidates.  A run
at x with noise variance s^2 moves what is expected of candidate k by Cov(x, k) / sqrt(Var(x) + s^2) standard normals,
and so would
- cut the candidates' summed variance by sum_k Cov(x, k)^2 / (Var(x) + s^2): V-optimal design, as in "Spend Less, Fit
  Better" (arXiv 2604.22753), with samples in place of the Jacobian;
- cut the expected regret by the knowledge gradient for correlated beliefs (Frazier, Powell and Dayanik 2009):
  min_k m_k - E_z[min_k (m_k + Cov(x, k) z / sqrt(Var(x) + s^2))].

Shapes: B samples, K candidates, X runs that could be made, J both, Z quadrature nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from isoembed.laws.points import Floats

#: nodes of the Gauss-Hermite rule for the expectation over one run's outcome
_NODES = 20
#: a smaller cut of the regret is rounding
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class CandidateSamples:
    """Bootstrap samples (B, K) of the loss of each candidate, all of one scale: nats, or ln nats."""

    loss_BK: Floats

    @cached_property
    def means(self) -> Floats:
        """What is expected of each candidate (K,)."""
        return np.asarray(self.loss_BK.mean(axis=0))

    @property
    def order(self) -> list[int]:
        """Candidates by what is expected of them, which is also by their expected regret, best first."""
        return [int(k) for k in np.argsort(self.means, kind="stable")]

    @property
    def best(self) -> int:
        """The candidate of lowest expected loss."""
        return int(np.argmin(self.means))

    @cached_property
    def winners(self) -> npt.NDArray[np.intp]:
        """The best candidate of each sample (B,)."""
        return np.asarray(np.argmin(self.loss_BK, axis=1))

    @property
    def probabilities(self) -> Floats:
        """Share of the samples in which each candidate is the best one (K,); adds up to 1."""
        lowest_BK = self.loss_BK == self.loss_BK.min(axis=1, keepdims=True)  # ties, as at chance, share a sample
        return np.asarray((lowest_BK / lowest_BK.sum(axis=1, keepdims=True)).mean(axis=0))

    def gap(self, k: int, other: int) -> float:
        """Expected loss of candidate `k` above that of `other`."""
        return float(self.means[k] - self.means[other])

    def gaps(self, k: int, other: int) -> Floats:
        """Loss of candidate `k` above that of `other` in each sample (B,)."""
        return np.asarray(self.loss_BK[:, k] - self.loss_BK[:, other])

    def regret(self, k: int) -> float:
        """Expected regret of candidate `k`: 0 where it is the best one of every sample, else more."""
        return float(np.mean(self.loss_BK[:, k] - self.loss_BK.min(axis=1)))

    def of(self, chosen: Sequence[int]) -> CandidateSamples:
        """The samples of these candidates alone."""
        return CandidateSamples(self.loss_BK[:, list(chosen)])

    def log(self) -> CandidateSamples:
        """The samples of ln loss, where these are of the loss."""
        return CandidateSamples(np.log(self.loss_BK))

    def lowest(self) -> Floats:
        """The lowest expected loss, and then the lowest loss in each sample (1 + B,)."""
        return np.concatenate([[self.means.min()], self.loss_BK.min(axis=1)])

    def one_more_run(self, run_BX: Floats, noise_X: Floats, related_JJ: Floats | None = None) -> OneMoreRun:
        """What one of X runs would tell of the candidates; all three on one scale.

        run_BX: the same samples of each run's loss.  noise_X: standard deviation of a run's loss about the law.
        related_JJ: 0 where what two columns share is chance (fits apart), else 1, runs first and then candidates.
        """
        away_BJ = np.concatenate([run_BX, self.loss_BK], axis=1)
        away_BJ = away_BJ - away_BJ.mean(axis=0)
        covariance_JJ = away_BJ.T @ away_BJ / len(away_BJ)
        return OneMoreRun(
            self.means, covariance_JJ if related_JJ is None else covariance_JJ * related_JJ, np.asarray(noise_X) ** 2
        )


@dataclass(frozen=True, eq=False)
class OneMoreRun:
    """A joint Gaussian over runs that could be made, first, and candidates."""

    mean_K: Floats
    covariance_JJ: Floats
    variance_X: Floats
    """of a run's loss about the law"""

    @property
    def shifts(self) -> Floats:
        """Standard deviation by which the outcome of each run moves what is expected of each candidate
        (X, K)."""
        runs = len(self.variance_X)
        spread_X = np.sqrt(np.diagonal(self.covariance_JJ)[:runs] + self.variance_X)
        shared_XK = self.covariance_JJ[:runs, runs:]
        # whose outcome is certain, as under a law through all of few runs, tells nothing
        return np.divide(shared_XK, spread_X[:, None], out=np.zeros_like(shared_XK), where=spread_X[:, None] > 0)

    def variance_cuts(self) -> Floats:
        """What each run would cut of the candidates' summed variance (X,)."""
        return np.asarray(np.sum(self.shifts**2, axis=1))

    def regret_cuts(self) -> Floats:
        """What each run is expected to cut of the expected regret (X,)."""
        node_Z, weight_Z = np.polynomial.hermite_e.hermegauss(_NODES)
        lowest_XZ = (self.mean_K[:, None] + self.shifts[:, :, None] * node_Z).min(axis=1)
        cut_X = self.mean_K.min() - lowest_XZ @ (weight_Z / weight_Z.sum())
        return np.asarray(np.where(cut_X > _ROUNDING, cut_X, 0.0))

    def after(self, x: int) -> OneMoreRun:
        """The same with run `x` made: what is expected stays, the covariance is conditioned on it."""
        column_J = self.covariance_JJ[:, x]
        known_JJ = np.outer(column_J, column_J) / (column_J[x] + self.variance_X[x])
        return replace(self, covariance_JJ=self.covariance_JJ - known_JJ)
