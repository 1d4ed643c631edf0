"""The unconstrained-features model, of any depth, many replicas at once."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.unconstrained_features.problem import Point, UFMProblem, per_replica
from zoo.unconstrained_features.solution import UFMSolution


class UnconstrainedFeatures(nn.Module):
    r"""Weights and free features under a squared error and weight decay, for S independent replicas.

    .. math:: f = \frac{1}{2 N} \|W_L \, \phi(W_{L-1} \cdots \phi(W_1 H)) + b 1^\top - Y\|_F^2
                  + \sum_l \frac{\lambda_l}{2} \|W_l\|_F^2 + \frac{\lambda_H}{2} \|H\|_F^2 + \frac{\lambda_b}{2} \|b\|^2

    There are n samples of each of K classes, N = K n; the columns of H are the samples, those of the first class first.
    Y is one-hot. With L = 1 this is the plain model W H. The **squared error is summed over the classes**: training
    with ``nn.MSELoss`` and a decay :math:`\lambda` is this problem with :math:`\lambda K / 2`.

    The rescaled error of :class:`~zoo.neural_collapse_mse.RescaledMSELoss` has a weight ``alpha`` on the error of the
    true class, whose target is ``M``.

    Replicas may differ in every decay and in the size of their start: give one value, or S of them.

    Args:
        num_classes: Number of classes K, at least 2.
        samples_per_class: Samples n of each class.
        num_features: Width d of all layers.
        depth: Number L of weight matrices.
        activation: phi, between the weight matrices: ``None`` or ``"relu"``; the latter needs depth 2 or more.
        bias: Whether the last layer has a bias.
        weight_decay: The decays of :math:`W_L` to :math:`W_1`, in this order, > 0: one number for all, L numbers, or
            S times L of them.
        feature_decay: :math:`\lambda_H`, > 0.
        bias_decay: :math:`\lambda_b`, >= 0; 0 without a bias.
        alpha: Weight of the true class's error, > 0.
        M: Target of the true class, > 0.
        init_std: Standard deviation of the normal start of features and weights, > 0. The bias starts at 0.
        num_replicas: Replicas S.
        dtype: Of all numbers.
        generator: Source of the start; the global one if ``None``.

    Attributes:
        features: H, shape ``(S, d, N)``.
        weights: :math:`W_1` to :math:`W_L`, ``(S, d, d)`` each, the last one ``(S, K, d)``.
        bias: Shape ``(S, K)``, or ``None``.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Zhou et al., *On the Optimization Landscape of Neural Collapse under MSE Loss*, ICML 2022 (L = 1); Tirer and
        Bruna, *Extended Unconstrained Features Model for Exploring Deep Neural Collapse*, ICML 2022 (L = 2).

    Example:
        >>> model = UnconstrainedFeatures(4, 10, 8, weight_decay=5e-3, feature_decay=1e-3, init_std=0.1)
        >>> model.run(torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9), 3000)
        >>> bool(model() - model.closed_form().objective < 1e-6)
        True
    """

    weight_decay: Tensor
    feature_decay: Tensor
    bias_decay: Tensor
    labels: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        num_classes: int,
        samples_per_class: int,
        num_features: int,
        depth: int = 1,
        activation: Literal["relu"] | None = None,
        bias: bool = False,
        weight_decay: float | Sequence[float] | Sequence[Sequence[float]] = 5e-3,
        feature_decay: float | Sequence[float] = 1e-3,
        bias_decay: float | Sequence[float] = 0.0,
        alpha: float = 1.0,
        M: float = 1.0,
        init_std: float | Sequence[float] = 0.3,
        num_replicas: int = 1,
        dtype: torch.dtype = torch.float64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.problem = UFMProblem(
            num_classes,
            samples_per_class,
            num_features,
            depth,
            activation,
            bias,
            weight_decay,
            feature_decay,
            bias_decay,
            alpha,
            M,
            num_replicas,
            dtype,
        )
        for name in ("weight_decay", "feature_decay", "bias_decay"):
            self.register_buffer(name, getattr(self.problem, name), persistent=False)
        labels = torch.eye(num_classes, dtype=dtype).repeat_interleave(samples_per_class, dim=1)
        self.register_buffer("labels", labels, persistent=False)
        std = per_replica("init_std", init_std, num_replicas).to(dtype)
        self.problem.warn(std)

        def normal(rows: int, columns: int) -> nn.Parameter:
            noise = torch.randn(num_replicas, rows, columns, dtype=dtype, generator=generator)
            return nn.Parameter(std[:, None, None] * noise)

        self.features = normal(num_features, num_classes * samples_per_class)
        rows = [*[num_features] * (depth - 1), num_classes]
        self.weights = nn.ParameterList([normal(number, num_features) for number in rows])
        self.bias = nn.Parameter(torch.zeros(num_replicas, num_classes, dtype=dtype)) if bias else None

    def forward(self) -> Tensor:
        """The objective of every replica, ``(S,)``."""
        decays = (self.weight_decay, self.feature_decay, self.bias_decay)
        return self.objective(self.features, list(self.weights), self.bias, *decays)

    def objective(
        self,
        features: Tensor,
        weights: Sequence[Tensor],
        bias: Tensor | None,
        weight_decay: Tensor,
        feature_decay: Tensor,
        bias_decay: Tensor,
    ) -> Tensor:
        """The objective of given parameters and decays, of as many replicas as these have."""
        error = self._outputs(features, weights, bias) - self.problem.M * self.labels
        squares = error.square()
        if self.problem.alpha != 1:
            squares = squares * (1 + (self.problem.alpha - 1) * self.labels)
        total = squares.sum((1, 2)) / self.labels.shape[1] + feature_decay * features.square().sum((1, 2))
        for weight, decay in zip(weights, weight_decay.unbind(1)):
            total = total + decay * weight.square().sum((1, 2))
        if bias is not None:
            total = total + bias_decay * bias.square().sum(1)
        return total / 2

    def _outputs(self, features: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        *_, last = self._layers(features, weights)
        output = weights[-1] @ last
        return output if bias is None else output + bias.unsqueeze(-1)

    def _layers(self, features: Tensor, weights: Sequence[Tensor]) -> Iterator[Tensor]:
        yield features
        for weight in weights[:-1]:
            features = weight @ features
            features = features.relu() if self.problem.activation else features
            yield features

    def outputs(self) -> Tensor:
        """Logits of all samples, ``(S, K, N)``."""
        return self._outputs(self.features, list(self.weights), self.bias)

    def layer_features(self) -> list[Tensor]:
        """What each weight matrix is given, :math:`H_1 = H` to :math:`H_L`, each ``(S, d, N)``."""
        return list(self._layers(self.features, list(self.weights)))

    @torch.no_grad()
    def set_gradients(self) -> None:
        """Write the gradient of the objective into ``grad`` of every parameter, in closed form."""
        parameters = [self.features, *self.weights, *([] if self.bias is None else [self.bias])]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
        layers = self.layer_features()
        output = torch.bmm(self.weights[-1], layers[-1])
        if self.bias is not None:
            output += self.bias.unsqueeze(-1)
        error = output.sub_(self.labels, alpha=self.problem.M).div_(self.labels.shape[1])
        if self.problem.alpha != 1:
            error *= 1 + (self.problem.alpha - 1) * self.labels
        if self.bias is not None:
            torch.mul(self.bias, self.bias_decay.unsqueeze(1), out=self.bias.grad).add_(error.sum(2))
        for index in reversed(range(self.problem.depth)):
            weight, inputs, decay = self.weights[index], layers[index], self.weight_decay[:, index, None, None]
            torch.mul(weight, decay, out=weight.grad).baddbmm_(error, inputs.mT)
            if index > 0:
                error = torch.bmm(weight.mT, error)
                if self.problem.activation:
                    error *= inputs > 0
        torch.mul(self.features, self.feature_decay[:, None, None], out=self.features.grad)
        self.features.grad.baddbmm_(self.weights[0].mT, error)  # type: ignore[union-attr]

    def run(self, optimizer: Optimizer, num_steps: int) -> None:
        """Make full-batch steps.

        Args:
            optimizer: Of this module's parameters. One that asks for a closure, such as L-BFGS, is given the sum over
                the replicas, and so sees them as one problem.
            num_steps: How many.
        """
        closure = self._closure if isinstance(optimizer, torch.optim.LBFGS) else None
        for _ in range(num_steps):
            if closure is None:
                self.set_gradients()
            optimizer.step(closure)  # type: ignore[arg-type]

    def _closure(self) -> Tensor:
        self.set_gradients()
        return self().detach().sum()

    def closed_form(self) -> UFMSolution:
        """The global minimisers; see :meth:`UFMProblem.closed_form`."""
        return self.problem.closed_form()

    def minimiser(self, generator: torch.Generator | None = None) -> Point:
        """A global minimiser; see :meth:`UFMProblem.minimiser`."""
        return self.problem.minimiser(generator)

    def critical_point(self, rank: int | None = None, generator: torch.Generator | None = None) -> Point:
        """A critical point of this rank; see :meth:`UFMProblem.critical_point`."""
        return self.problem.critical_point(rank, generator)

    def saddle(self, rank: int, generator: torch.Generator | None = None) -> Point:
        """A strict saddle of this rank; see :meth:`UFMProblem.saddle`."""
        return self.problem.saddle(rank, generator)

    @torch.no_grad()
    def place(self, point: Point) -> None:
        """Put the parameters at a point, such as :meth:`saddle` gives."""
        for name, parameter in self.named_parameters():
            parameter.copy_(point[name])

    @torch.no_grad()
    def perturb(self, std: float, generator: torch.Generator | None = None) -> None:
        """Add normal noise of this standard deviation to every parameter."""
        for parameter in self.parameters():
            noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
            parameter.add_(noise.to(parameter.device), alpha=std)
