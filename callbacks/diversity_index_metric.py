"""The Diversity Index over many searches, as a torchmetrics metric."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from callbacks.diversity_index import Norm, check, diversity_along_path


class DiversityIndex(Metric):
    """Means of :func:`~callbacks.diversity_index.diversity_along_path` over all searches, at every window.

    All searches have equally many points.

    Args:
        eps: Radius of the ball that is searched, > 0.
        window: Consecutive points of an index, at least 3.
        norm: Of the ball, ``"Linf"`` or ``"L2"``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> metric = DiversityIndex(eps=0.5, window=3)
        >>> metric.update(torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 4, 1))
        >>> metric.compute()
        {'diversity_index': tensor(0.5000), 'curve': tensor([0., 1.])}
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    sums: list[Tensor]
    counts: list[Tensor]

    def __init__(self, eps: float, window: int = 10, norm: Norm = "Linf") -> None:
        super().__init__()
        check(eps, window, norm)
        self.eps, self.window, self.norm = eps, window, norm
        self.add_state("sums", [], dist_reduce_fx="cat")
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, points: Tensor) -> None:
        """Add searches.

        Args:
            points: Shape ``(B, T, *)``.
        """
        index = diversity_along_path(points, self.eps, self.window, self.norm)
        self.sums.append(index.sum(dim=0, keepdim=True))
        self.counts.append(torch.tensor([len(index)], device=index.device))

    def compute(self) -> dict[str, Tensor]:
        """``curve``, the mean index of each window, ``(T - K + 1,)``, and ``diversity_index``, the mean of these."""
        curve = dim_zero_cat(self.sums).sum(dim=0) / dim_zero_cat(self.counts).sum()
        return {"diversity_index": curve.mean(), "curve": curve}
