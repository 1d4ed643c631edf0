"""Eigenvalues of the Hessian of an unconstrained-features model."""

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from zoo.unconstrained_features.model import UnconstrainedFeatures


def hessian_eigenvalues(model: UnconstrainedFeatures, replica: int = 0, smallest: int | None = None) -> Tensor:
    """Eigenvalues of the Hessian of one replica's objective at its parameters, in ascending order.

    Args:
        model: Where to take it. With ReLU, the Hessian where it exists.
        replica: Which replica, in [0, S).
        smallest: So many of the smallest ones, by Lanczos iteration on products of the Hessian with vectors, which
            beyond some 2,000 parameters is all that is affordable; ``None`` for all of them.

    Returns:
        Shape ``(P,)`` for P parameters, or ``(smallest,)``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = UnconstrainedFeatures(4, 6, 6, bias=True, bias_decay=0.01)
        >>> model.place(model.saddle(rank=1))
        >>> (hessian_eigenvalues(model) < -1e-9).sum()  # two of three directions are lost, five dimensions are free
        tensor(10)
    """
    if not 0 <= replica < model.problem.num_replicas:
        raise ValueError(f"replica must be in [0, {model.problem.num_replicas}), got {replica}")
    bias = [] if model.bias is None else [model.bias]
    parts = [parameter.detach()[replica] for parameter in (model.features, *model.weights, *bias)]
    flat = torch.cat([part.flatten() for part in parts])
    if smallest is not None and not 1 <= smallest < len(flat):
        raise ValueError(f"smallest must be in [1, {len(flat)}), got {smallest}")
    decays = [decay[replica, None] for decay in (model.weight_decay, model.feature_decay, model.bias_decay)]

    def objective(vector: Tensor) -> Tensor:
        pieces = vector.split([part.numel() for part in parts])
        features, *rest = (piece.view(1, *part.shape) for piece, part in zip(pieces, parts))
        last = rest.pop().view(1, -1) if bias else None
        return model.objective(features, rest, last, *decays).squeeze(0)

    if smallest is None:
        return torch.linalg.eigvalsh(torch.func.hessian(objective)(flat))

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.from_numpy(vector).to(flat).view_as(flat)
        return torch.func.jvp(torch.func.grad(objective), (flat,), (direction,))[1].cpu().numpy()

    operator = LinearOperator((len(flat), len(flat)), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(len(flat))  # Lanczos must not depend on the global state
    values = eigsh(operator, k=smallest, which="SA", v0=start, return_eigenvectors=False)
    return torch.from_numpy(np.sort(values)).to(flat)
