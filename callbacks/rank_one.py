"""The product of a deep linear network as a matrix of rank one: its singular triple, beside the target's."""

from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.weight_matrices import ReplicaMonitor, product, weight_matrices


class RankOneState(NamedTuple):
    r"""The leading singular triple of a product W, shapes ``(*)``.

    Attributes:
        s: Largest singular value.
        second: Second largest one, 0 where W has rank one.
        rho: :math:`u^\top Z v`, of the target Z and the leading singular vectors of W.
        c1: :math:`|u_1^\top u + v_1^\top v|`, with the leading singular vectors of Z; its sign is not W's.
    """

    s: Tensor
    second: Tensor
    rho: Tensor
    c1: Tensor


def rank_one_state(matrix: Tensor, target: Tensor) -> RankOneState:
    """Measure a product.

    Args:
        matrix: W, shape ``(*, d_y, d_x)``.
        target: Z, of this shape or one that extends to it.

    Example:
        >>> rank_one_state(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), torch.tensor([[5.0, 1.0], [0.0, 0.0]])).rho
        tensor(1.)
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    u, v = left[..., :, 0], right[..., 0, :]
    second = values[..., 1] if values.shape[-1] > 1 else torch.zeros_like(values[..., 0])
    target_left, _, target_right = torch.linalg.svd(target, full_matrices=False)
    c1 = (target_left[..., :, 0] * u).sum(-1) + (target_right[..., 0, :] * v).sum(-1)
    return RankOneState(values[..., 0], second, torch.einsum("...i,...ij,...j->...", u, target, v), c1.abs())


class RankOneMonitor(ReplicaMonitor):
    """Logs ``s``, ``rho``, ``c1`` and ``second_singular_value`` of the product after every epoch.

    They are those of :class:`RankOneState`. From a balanced start ``rho`` never decreases under gradient flow, ``s``
    falls exactly while it is above ``rho``, and whether ``c1`` is zero does not change.

    Works with any LightningModule that has ``weight_matrices()``, or whose linear layers are one chain, and ``target``,
    the matrix that it should learn, ``(*, d_y, d_x)``.

    Example:
        >>> trainer = pl.Trainer(callbacks=[RankOneMonitor()], logger=False)
    """

    def measure(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        matrix = product(weight_matrices(pl_module))
        state = rank_one_state(matrix, torch.as_tensor(pl_module.target).to(matrix))
        return {"s": state.s, "rho": state.rho, "c1": state.c1, "second_singular_value": state.second}
