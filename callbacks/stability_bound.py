"""Bounds on the generalisation gap of noisy descent, summed along its path from inner products of gradients."""

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

LI_FULL_BATCH = 2.0
LI_MINI_BATCH = 8.12 / math.sqrt(2)  # as it is cited; not checked against the paper


def squared_norms(gram: Tensor) -> Tensor:
    """Squared lengths of the training samples' gradients, from a matrix as :class:`PathBound` takes, ``(K,)``.

    Example:
        >>> squared_norms(torch.diag(torch.tensor([1.0, 4.0, 9.0, 16.0])))
        tensor([1., 4.])
    """
    return gram.diagonal()[: _num_pairs(gram)]


def discrepancy(gram: Tensor) -> Tensor:
    r"""Squared distances between the gradients of each pair, :math:`\|\nabla\ell(w, z_k) - \nabla\ell(w, z'_k)\|^2`.

    Args:
        gram: Inner products of gradients as :class:`PathBound` takes them, ``(2K, 2K)``.

    Returns:
        Shape ``(K,)``.

    Example:
        >>> g = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 4.0], [1.0, 1.0]])
        >>> discrepancy(g @ g.T)
        tensor([25.,  0.])
    """
    pairs = _num_pairs(gram)
    lengths = gram.diagonal()
    return (lengths[:pairs] + lengths[pairs:] - 2 * gram[:pairs, pairs:].diagonal()).clamp_min(0)


def incoherence(gram: Tensor) -> Tensor:
    """Squared distance of each training sample's gradient from the mean of the other ones', ``(K,)``.

    Example:
        >>> g = torch.tensor([[3.0], [1.0], [1.0], [0.0], [0.0], [0.0]])
        >>> incoherence(g @ g.T)
        tensor([4., 1., 1.])
    """
    pairs = _num_pairs(gram)
    if pairs < 2:
        raise ValueError(f"incoherence needs at least 2 pairs, got {pairs}")
    inside = gram[:pairs, :pairs]
    to_sum = pairs**2 * inside.diagonal() - 2 * pairs * inside.sum(dim=1) + inside.sum()
    return to_sum.clamp_min(0) / (pairs - 1) ** 2


def largest_distance(gram: Tensor) -> Tensor:
    """The largest squared distance between any two of the gradients, scalar.

    Example:
        >>> g = torch.tensor([[3.0], [1.0], [-1.0], [0.0]])
        >>> largest_distance(g @ g.T)
        tensor(16.)
    """
    lengths = gram.diagonal()
    return (lengths[:, None] + lengths - 2 * gram).amax()


def _num_pairs(gram: Tensor) -> int:
    size = len(gram)
    if gram.ndim != 2 or gram.shape[1] != size or size < 2 or size % 2:
        raise ValueError(f"gram must be of shape (2K, 2K), got {tuple(gram.shape)}")
    return size // 2


class PathBound(Metric):
    """A bound that grows along the path, from gradients of fixed training samples and of fixed fresh ones.

    Its value is a bound on the expected gap between the losses on fresh and on training samples, for the loss that is
    bounded, which need not be the one that is trained on: the 0-1 error, as a rule.

    Args:
        num_train: Training samples n.
        batch_size: Samples b of a step, over all processes; ``None`` means all of them.
        loss_range: The loss lies in [0, loss_range], > 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    sums: Tensor

    def __init__(self, num_train: int, batch_size: int | None = None, loss_range: float = 1.0) -> None:
        super().__init__()
        if num_train < 2:
            raise ValueError(f"num_train must be at least 2, got {num_train}")
        batch_size = num_train if batch_size is None else batch_size
        if not 1 <= batch_size <= num_train:
            raise ValueError(f"batch_size must be in [1, {num_train}], num_train, got {batch_size}")
        if not 0 < loss_range < math.inf:
            raise ValueError(f"loss_range must be > 0 and finite, got {loss_range}")
        self.num_train, self.batch_size, self.loss_range = num_train, batch_size, loss_range
        self.add_state("sums", torch.tensor(0.0), dist_reduce_fx=torch.flatten)  # (K,) from the first update on

    def update(self, gram: Tensor, alpha: float = 1.0, weight: float = 1.0) -> None:
        """Add steps.

        Args:
            gram: Inner products of the gradients of K training samples, then of the K fresh ones that each is compared
                with, ``(2K, 2K)``. They are the same samples in every update.
            alpha: Scale of the noise in these steps, > 0: its standard deviation over the learning rate.
            weight: How many steps this stands for.

        Raises:
            ValueError: If ``alpha`` is not positive, or the matrix has another shape.
        """
        self.add(self.terms(gram.detach()), alpha, weight)

    def add(self, terms: Tensor, alpha: float, weight: float) -> None:
        """Add what steps have given, ``(K,)``, over alpha squared."""
        if not alpha > 0:
            raise ValueError(f"alpha must be > 0, got {alpha}")
        self.sums = self.sums + terms * (weight / alpha**2)

    @abstractmethod
    def terms(self, gram: Tensor) -> Tensor:
        """What a step adds for each pair if alpha is 1, ``(K,)``."""

    @property
    def is_full_batch(self) -> bool:
        """Whether a step takes all training samples."""
        return self.batch_size == self.num_train


class ExpectedStabilityBound(PathBound):
    r"""The bound by gradient discrepancy, for noise of any exponential family.

    .. math::
        \big|\mathbb E\,[L_D - L_S]\big| \le \frac{c}{n}\, \mathbb E_{z, z'} \sqrt{\sum_t
        \frac{\|\nabla\ell(w_{t-1}, z) - \nabla\ell(w_{t-1}, z')\|^2}{\alpha_t^2}}

    where every step has :math:`\alpha_t^2 \ge 8 c_2 \Delta_t^2`, with :math:`\Delta_t` the largest distance between
    gradients of any two samples: **else it is the value of a formula, and no bound**. The ``unconditional`` bound, by
    joint convexity of the Kullback-Leibler divergence and Pinsker's inequality, needs nothing of the kind:
    :math:`c / n` is replaced by :math:`\frac12 \sqrt{c_2 / (n b)}`.

    Where a batch has more than half of the samples the theorem does not apply, and ``bound`` is the unconditional one,
    which for full batches is better anyway. Batches are assumed to be drawn independently in each step.

    Args:
        num_train: Training samples n.
        batch_size: Samples b of a step, over all processes; ``None`` means all of them.
        smoothness: The noise's c2, 1 for Gaussian noise and for signs, > 0.
        constant: ``"paper"``, :math:`c = 2 \sqrt{5 c_2}`, or ``"tight"``, :math:`c = \sqrt{k / (1 - b / n)}`, which
            centres the loss and does without slack in the constants.
        divergence_constant: The k of ``"tight"``, :math:`I \le k \|\theta - \theta'\|^2`: 9/8 exp(1/8) = 1.275 is
            proved for Gaussian noise. Without one it is the paper's, 5 c2.
        loss_range: The loss lies in [0, loss_range], > 0.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Banerjee et al., *Stability Based Generalization Bounds for Exponential Family Langevin Dynamics*, ICML 2022,
        theorem 2, with :math:`2 \sqrt{M}` for its :math:`c_0`, where M bounds the second moment of the loss (the two
        agree at M = 1); the tight constant and the unconditional bound are our derivation.

    Example:
        >>> bound = ExpectedStabilityBound(num_train=1000, batch_size=10)
        >>> g = torch.tensor([[0.0], [0.0], [3.0], [4.0]])
        >>> bound.update(g @ g.T, alpha=2.0, weight=100)
        >>> {name: round(value.item(), 4) for name, value in bound.compute().items()}
        {'bound': 0.0783, 'mean_inside': 0.0791, 'condition_fraction': 0.0, 'unconditional': 0.0875}
    """

    satisfied: Tensor
    steps: Tensor

    def __init__(
        self,
        num_train: int,
        batch_size: int | None = None,
        smoothness: float = 1.0,
        constant: Literal["paper", "tight"] = "paper",
        divergence_constant: float | None = None,
        loss_range: float = 1.0,
    ) -> None:
        super().__init__(num_train, batch_size, loss_range)
        if not 0 < smoothness < math.inf:
            raise ValueError(f"smoothness must be > 0 and finite, got {smoothness}")
        if constant not in ("paper", "tight"):
            raise ValueError(f"constant must be one of paper, tight, got {constant!r}")
        k = 5 * smoothness if divergence_constant is None else divergence_constant
        if not 0 < k < math.inf:
            raise ValueError(f"divergence_constant must be > 0 and finite, got {k}")
        self.smoothness = smoothness
        share = self.batch_size / num_train
        self.fallback = loss_range / 2 * math.sqrt(smoothness / (num_train * self.batch_size))
        if share > 0.5:
            self.factor = self.fallback
        elif constant == "paper":
            self.factor = loss_range * 2 * math.sqrt(5 * smoothness) / num_train
        else:
            self.factor = loss_range * math.sqrt(k / (1 - share)) / num_train
        self.add_state("satisfied", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("steps", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, gram: Tensor, alpha: float = 1.0, weight: float = 1.0) -> None:
        """See :meth:`PathBound.update`."""
        super().update(gram, alpha, weight)
        holds = alpha**2 >= 8 * self.smoothness * largest_distance(gram.detach())
        self.satisfied = self.satisfied + weight * holds
        self.steps = self.steps + weight

    def terms(self, gram: Tensor) -> Tensor:
        return discrepancy(gram)

    def compute(self) -> dict[str, Tensor]:
        """Scalars by name.

        Returns:
            ``bound``; ``mean_inside``, the same with the mean over pairs inside the root, which is larger and also
            valid; ``condition_fraction``, the share of steps that may satisfy the theorem's condition (the largest
            distance is that among the pairs, so that a failure is certain); ``unconditional``.
        """
        of_pairs = self.sums.sqrt().mean()
        return {
            "bound": self.factor * of_pairs,
            "mean_inside": self.factor * self.sums.mean().sqrt(),
            "condition_fraction": self.satisfied / self.steps,
            "unconditional": self.fallback * of_pairs,
        }


class LiBound(PathBound):
    r"""The bound by gradient norms.

    .. math:: \frac{C}{n} \sqrt{\sum_t \mathbb E \|\nabla\ell(w_{t-1}, z)\|^2 / \alpha_t^2}

    C is 2 for full batches, and 8.12 / sqrt(2) = 5.74 for mini-batches, as a public implementation has it too; this
    constant has not been checked against the paper. It is for Gaussian noise.

    Args:
        num_train: Training samples n.
        batch_size: Samples b of a step, over all processes; ``None`` means all of them.
        loss_range: The loss lies in [0, loss_range], > 0.

    Source:
        Li, Luo and Qiao, *On Generalization Error Bounds of Noisy Gradient Methods for Non-Convex Learning*, ICLR 2020.

    Example:
        >>> bound = LiBound(num_train=1000)
        >>> g = torch.tensor([[3.0], [4.0], [0.0], [0.0]])
        >>> bound.update(g @ g.T, alpha=0.1)
        >>> bound.compute()
        tensor(0.0707)
    """

    def terms(self, gram: Tensor) -> Tensor:
        return squared_norms(gram)

    def compute(self) -> Tensor:
        """The bound, scalar."""
        constant = LI_FULL_BATCH if self.is_full_batch else LI_MINI_BATCH
        return self.loss_range * constant / self.num_train * self.sums.mean().sqrt()


class IncoherenceBound(PathBound):
    r"""The bound by incoherence, how far a training sample's gradient is from the mean of the others.

    .. math:: \frac12\, \mathbb E \sqrt{\sum_t \frac{\|\nabla\ell(w_{t-1}, z) - \bar g_t\|^2}{n\, b\, \alpha_t^2}}

    For full batches, b = n, it is as published; for mini-batches it is our derivation to leading order (a sample is in
    the batch with probability b / n, and has then the weight 1 / b). It is for Gaussian noise.

    Args:
        num_train: Training samples n.
        batch_size: Samples b of a step, over all processes; ``None`` means all of them.
        loss_range: The loss lies in [0, loss_range], > 0.

    Source:
        Negrea et al., *Information-Theoretic Generalization Bounds for SGLD via Data-Dependent Estimates*, NeurIPS
        2019.

    Example:
        >>> bound = IncoherenceBound(num_train=1000)
        >>> g = torch.tensor([[3.0], [1.0], [0.0], [0.0]])
        >>> bound.update(g @ g.T, alpha=0.01)
        >>> bound.compute()
        tensor(0.1000)
    """

    def terms(self, gram: Tensor) -> Tensor:
        return incoherence(gram)

    def compute(self) -> Tensor:
        """The bound, scalar."""
        scale = self.loss_range / 2 / math.sqrt(self.num_train * self.batch_size)
        return scale * self.sums.sqrt().mean()


class CMIBound(PathBound):
    r"""The bound by conditional mutual information, for full batches and Gaussian noise.

    .. math:: \frac1n\, \mathbb E \sqrt{\sum_t \frac{\|\nabla\ell(w_{t-1}, z) - \nabla\ell(w_{t-1}, z')\|^2\,
        \phi_t^2}{\alpha_t^2}}, \qquad \phi_t = \tfrac12 \big(1 + \mathrm{erf}(-r_t)\big)

    with :math:`r_t` the log-likelihood ratio of the path so far between training on z and on z': what a running test of
    which of the two it was has gathered. Without a test phi is 1/2, which is valid and larger.

    Args:
        num_train: Training samples n.
        loss_range: The loss lies in [0, loss_range], > 0.

    Source:
        Haghifam et al., *Sharpened Generalization Bounds based on Conditional Mutual Information*, NeurIPS 2020.

    Example:
        >>> bound = CMIBound(num_train=1000)
        >>> g = torch.tensor([[3.0], [1.0], [0.0], [0.0]])
        >>> bound.update(g @ g.T, alpha=0.01)
        >>> bound.update(g @ g.T, alpha=0.01, log_ratio=torch.tensor([100.0, 100.0]))  # the test has decided
        >>> bound.compute()
        tensor(0.1000)
    """

    def __init__(self, num_train: int, loss_range: float = 1.0) -> None:
        super().__init__(num_train, None, loss_range)

    def update(self, gram: Tensor, alpha: float = 1.0, weight: float = 1.0, log_ratio: Tensor | None = None) -> None:
        r"""See :meth:`PathBound.update`.

        Args:
            gram: Inner products of gradients, ``(2K, 2K)``.
            alpha: Scale of the noise, > 0.
            weight: How many steps this stands for.
            log_ratio: Each pair's :math:`r_t` before these steps, ``(K,)``; 0 if ``None``. In a step whose noise was
                :math:`\epsilon` it grows by :math:`\frac12 \|\delta\|^2 + \langle\delta, \epsilon\rangle`,
                with :math:`\delta` the difference of the gradients over alpha n.
        """
        terms = self.terms(gram.detach())
        phi = 0.5 if log_ratio is None else (1 + torch.erf(-log_ratio)) / 2
        self.add(terms * phi**2, alpha, weight)

    def terms(self, gram: Tensor) -> Tensor:
        return discrepancy(gram)

    def compute(self) -> Tensor:
        """The bound, scalar."""
        return self.loss_range / self.num_train * self.sums.sqrt().mean()
