"""The projection of intermediate layer optimization: onto a ball of the l1 norm."""

import torch
from torch import Tensor


def project_l1_ball(x: Tensor, radius: float | Tensor, center: Tensor | None = None) -> Tensor:
    r"""The point nearest to each sample in the l1 ball around its center.

    .. math:: \arg\min_p |p - x|_2 \;\; \text{subject to} \;\; |p - c|_1 \le r

    The deviation :math:`x - c` is softly thresholded; the threshold is found by sorting, in O(n log n). A sample
    inside of its ball stays as it is.

    Args:
        x: Samples, ``(B, *)``, floating point.
        radius: Of the balls, > 0: one for all, or one for each sample, ``(B,)``. May be infinite.
        center: Of the balls, of a shape that broadcasts with ``x``; 0 if ``None``.

    Returns:
        The projections, ``(B, *)``.

    Raises:
        ValueError: If a radius is not positive.

    Source:
        Duchi et al., *Efficient Projections onto the l1-Ball*, ICML 2008, figure 1; for latents of a generator Daras et
        al., *Intermediate Layer Optimization*, ICML 2021.

    Example:
        >>> project_l1_ball(torch.tensor([[3.0, -1.0], [0.2, 0.3]]), radius=2.0)
        tensor([[2.0000, 0.0000],
                [0.2000, 0.3000]])
    """
    radius = torch.as_tensor(radius, dtype=x.dtype, device=x.device)
    if radius.shape not in ((), (len(x),)):
        raise ValueError(f"radius must be one number, or one for each of {len(x)} samples, got {tuple(radius.shape)}")
    if not bool((radius > 0).all()):
        raise ValueError(f"radius must be > 0, got {radius.min().item():g}")
    deviation = (x if center is None else x - center).flatten(1)
    size = deviation.abs()
    inside = size.sum(1, keepdim=True) <= radius.reshape(-1, 1)
    descending = size.sort(dim=1, descending=True).values
    counts = torch.arange(1, size.shape[1] + 1, dtype=x.dtype, device=x.device)
    excess = (descending.cumsum(1) - radius.reshape(-1, 1)) / counts
    last = (descending > excess).sum(1, keepdim=True).clamp_min_(1) - 1  # the last coordinate that stays above zero
    threshold = excess.gather(1, last)
    projected = (deviation - deviation.clamp(-threshold, threshold)).view_as(x)
    return torch.where(inside.view(-1, *[1] * (x.ndim - 1)), x, projected if center is None else center + projected)
