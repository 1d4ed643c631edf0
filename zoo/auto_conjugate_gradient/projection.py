"""The points that an attack may visit: images within a distance of the clean one."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.auto_conjugate_gradient.rows import Rows

Norm = Literal["Linf", "L2"]


@dataclass
class LinfBall(Rows):
    r"""The box :math:`\{v : |v - x| \le \epsilon,\ 0 \le v \le 1\}` around each image.

    Args:
        low: Its lower corners, shape ``(B, D)``.
        high: Its upper corners, shape ``(B, D)``.

    Example:
        >>> ball = LinfBall.around(torch.tensor([[0.0, 0.5]]), eps=0.25)
        >>> ball.project(torch.tensor([[-1.0, 0.875]]))
        tensor([[0.0000, 0.7500]])
        >>> ball.center()
        tensor([[0.1250, 0.5000]])
    """

    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, x: Tensor, eps: float) -> "LinfBall":
        """The boxes of images ``(B, D)`` in [0, 1]."""
        return cls((x - eps).clamp_(min=0), (x + eps).clamp_(max=1))

    def project(self, v: Tensor) -> Tensor:
        """The nearest points of the box, written into ``v``, ``(B, D)``."""
        return v.clamp_(self.low, self.high)

    def steepest(self, direction: Tensor) -> Tensor:
        """The point of the unit ball in which a linear function of this gradient is largest, ``(B, D)``."""
        return direction.sign()

    def center(self) -> Tensor:
        """The middle of the box; the image itself where no pixel is within ``eps`` of 0 or 1."""
        return (self.low + self.high) / 2

    def random(self, noise: Tensor) -> Tensor:
        """Points that are uniform in the box if the noise ``(B, D)`` is uniform in [0, 1]."""
        return torch.lerp(self.low, self.high, noise.to(self.low.dtype))


@dataclass
class L2Ball(Rows):
    r"""Images with :math:`\|v - x\|_2 \le \epsilon`.

    Projection goes to the ball and then into [0, 1], which leads nearer to the image, so that the result is in both;
    it is the projection of AutoAttack, and not the nearest point of the intersection.

    Args:
        x: The images, shape ``(B, D)``.
        eps: The radius.

    Example:
        >>> L2Ball.around(torch.tensor([[0.0, 0.5]]), eps=0.5).project(torch.tensor([[3.0, 4.5]]))
        tensor([[0.3000, 0.9000]])
    """

    x: Tensor
    eps: float

    @classmethod
    def around(cls, x: Tensor, eps: float) -> "L2Ball":
        """The balls of images ``(B, D)`` in [0, 1]."""
        return cls(x, eps)

    def project(self, v: Tensor) -> Tensor:
        """Points of the ball that are images, written into ``v``, ``(B, D)``."""
        v.sub_(self.x)
        shrink = self.eps / v.norm(dim=1, keepdim=True).clamp_(min=self.eps)
        return torch.addcmul(self.x, v, shrink, out=v).clamp_(0, 1)

    def steepest(self, direction: Tensor) -> Tensor:
        """The direction at length 1, ``(B, D)``; zero where it is zero."""
        length = direction.norm(dim=1, keepdim=True)
        return direction / length.where(length > 0, 1.0)

    def center(self) -> Tensor:
        """The images."""
        return self.x.clone()

    def random(self, noise: Tensor) -> Tensor:
        """Points uniform on the sphere, then moved into [0, 1], if the noise ``(B, D)`` is uniform in (0, 1)."""
        normal = torch.special.ndtri(noise.double())
        normal.mul_(self.eps / normal.norm(dim=1, keepdim=True))
        return self.project(normal.to(self.x.dtype).add_(self.x))


Ball = LinfBall | L2Ball
BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"Linf": LinfBall, "L2": L2Ball}
