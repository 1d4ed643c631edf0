"""Solvers of inverse problems with a generator: CSGM, ILO, SGILO and Langevin sampling of the posterior."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.langevin import LangevinSampler
from zoo.sgilo.priors import LatentPrior
from zoo.sgilo.projection import project_l1_ball

Operator = Callable[[Tensor], Tensor]
Priors = Mapping[str, LatentPrior]
Reduction = Literal["best", "mean"]


@dataclass(frozen=True)
class Reconstruction:
    """What a solver has found, image by image.

    Args:
        x: Images, ``(B, C, H, W)``.
        state: What the generator makes them of, as of its ``split``: of the best chain where there are several.
        split: Where the state stands; 0 for the generator's input.
        error: Squared measurement error of the state, ``(B,)``.
        history: Measures of every step by name, each ``(T, N)``, N chains (restart-major): ``"error"``, and
            ``"prior"``, the norm of the prior's gradient, where there is a prior.
        chains: Images of posterior samples, ``(S, B, C, H, W)``, where there are any.
        seconds: Processor time on a CPU, else wall time, that of the starts included; filled in by :func:`solve_all`.
    """

    x: Tensor
    state: Any
    split: int
    error: Tensor
    history: dict[str, Tensor] = field(default_factory=dict)
    chains: Tensor | None = None
    seconds: float = math.nan


class DataTerm:
    r"""Half of the squared measurement error of chains, and its gradient.

    .. math:: f(z) = \tfrac12 |A G(z) - y|^2

    Args:
        decode: The generator, or a part of it, G.
        operator: A: images ``(N, C, H, W)`` to measurements ``(N, m)``.
        y: Measurements, ``(B, m)``.
        num_chains: Chains of each image, R; they are stacked as N = R B, the images of the first chain first.

    Raises:
        ValueError: If the operator gives something of another shape than ``y``; at the first call.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor], operator: Operator, y: Tensor, num_chains: int = 1) -> None:
        self.decode, self.operator = decode, operator
        self.y = y.repeat(num_chains, *[1] * (y.ndim - 1))

    def difference(self, latent: Tensor) -> Tensor:
        """Predicted measurements minus those that were made."""
        predicted = self.operator(self.decode(latent))
        if predicted.shape != self.y.shape:
            raise ValueError(
                f"operator must give measurements of the shape of y, {tuple(self.y.shape)}, got "
                f"{tuple(predicted.shape)}"
            )
        return predicted - self.y

    def error(self, latent: Tensor) -> Tensor:
        """The squared error of every chain, ``(N,)``."""
        with torch.no_grad():
            return self.difference(latent).flatten(1).square().sum(1)

    def __call__(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The squared error of every chain, ``(N,)``, and the gradient of half of it, of the shape of ``latent``."""
        with torch.enable_grad():
            leaf = latent.detach().requires_grad_()
            error = self.difference(leaf).flatten(1).square().sum(1)
            (gradient,) = torch.autograd.grad(error.sum() / 2, leaf)
        return error.detach(), gradient


class Solver:
    """What all solvers share.

    Attributes:
        first: The solver whose outcome this one begins with; ``None`` if it needs none.
    """

    first: "Solver | None" = None

    def solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors | None = None,
        start: Reconstruction | None = None,
        rng: torch.Generator | None = None,
    ) -> Reconstruction:
        """Find images for measurements, all at once.

        Args:
            generator: In evaluation mode; no gradient reaches its parameters.
            operator: Images ``(N, C, H, W)`` to measurements ``(N, m)``, for N the number of images or a multiple,
                which stands for several chains of each.
            y: Measurements, ``(B, m)``.
            priors: Priors by the name that a solver may ask for.
            start: Outcome of another solver to begin with; that of :attr:`first`, which is then run, if ``None``.
            rng: Source of randomness, on the device of ``y``; the global one if ``None``.

        Raises:
            ValueError: If shapes do not fit, or a prior is missing.
            FloatingPointError: If a chain is no longer finite; it tells which, and after which step.
        """
        if start is None and self.first is not None:
            start = self.first.solve(generator, operator, y, priors, None, rng)
        return self._solve(generator, operator, y, priors or {}, start, rng)

    def _solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors,
        start: Reconstruction | None,
        rng: torch.Generator | None,
    ) -> Reconstruction:
        raise NotImplementedError


@dataclass(frozen=True)
class CSGM(Solver):
    r"""Searches the generator's input, from 0 and from random points; the one of the smallest error is kept.

    .. math:: \arg\min_z |A G(z) - y|^2 + \lambda |z|^2

    Args:
        weight: Of the squared norm, :math:`\lambda`, >= 0.
        num_restarts: Starts for each image, the first of them 0, at least 1.
        num_steps: Of Adam.
        lr: Adam's step size.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Bora et al., *Compressed Sensing using Generative Models*, ICML 2017.

    Example:
        >>> from zoo.sgilo import ConvDecoder
        >>> decoder = ConvDecoder(latent_dim=6).eval()
        >>> found = CSGM(num_steps=2).solve(decoder, torch.nn.Flatten(), torch.rand(3, 784))
        >>> found.x.shape, found.state.shape
        (torch.Size([3, 1, 28, 28]), torch.Size([3, 6]))
    """

    weight: float = 0.1
    num_restarts: int = 2
    num_steps: int = 150
    lr: float = 0.1

    def __post_init__(self) -> None:
        _check_at_least(1, num_restarts=self.num_restarts, num_steps=self.num_steps)
        _check_positive(lr=self.lr)
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be >= 0 and finite, got {self.weight}")

    def _solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors,
        start: Reconstruction | None,
        rng: torch.Generator | None,
    ) -> Reconstruction:
        z = y.new_empty(self.num_restarts, len(y), generator.latent_dim).normal_(generator=rng)
        z[0] = 0
        term = DataTerm(generator, operator, y, self.num_restarts)

        def gradient(z: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            error, slope = term(z)
            return slope.add_(z, alpha=self.weight), {"error": error}

        z, history = descend(z.flatten(0, 1), gradient, self.num_steps, self.lr, len(y))
        (z,), error = _best((z,), term.error(z), self.num_restarts)
        with torch.no_grad():
            return Reconstruction(generator(z), z, 0, error, history)


@dataclass(frozen=True)
class ILO(Solver):
    """Searches the latents of a split near to where another solver came: within a ball of the l1 norm.

    Args:
        split: Of the generator.
        radius: Of the ball, > 0; ``inf`` searches everywhere.
        num_steps: Of Adam; each is followed by the projection.
        lr: Adam's step size.
        first: Solver that finds the start: :class:`CSGM`, or ILO at an earlier split.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Daras et al., *Intermediate Layer Optimization for Inverse Problems using Deep Generative Models*, ICML 2021.

    Example:
        >>> from zoo.sgilo import ConvDecoder
        >>> ilo = ILO(radius=30.0, num_steps=2, first=CSGM(num_steps=2))
        >>> ilo.solve(ConvDecoder(latent_dim=6).eval(), torch.nn.Flatten(), torch.rand(3, 784)).state.shape
        torch.Size([3, 8, 7, 7])
    """

    first: Solver
    split: int = 1
    radius: float = math.inf
    num_steps: int = 100
    lr: float = 0.05

    def __post_init__(self) -> None:
        _check_at_least(1, split=self.split, num_steps=self.num_steps)
        _check_positive(lr=self.lr)
        if not self.radius > 0:
            raise ValueError(f"radius must be > 0, got {self.radius}")

    def _solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors,
        start: Reconstruction | None,
        rng: torch.Generator | None,
    ) -> Reconstruction:
        state = _state_at(generator, start, self.split)
        center = generator.latent(state)
        term = DataTerm(_suffix(generator, state, self.split), operator, y)

        def gradient(latent: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            error, slope = term(latent)
            return slope, {"error": error}

        def project(latent: Tensor) -> Tensor:
            return project_l1_ball(latent, self.radius, center)

        ball = None if math.isinf(self.radius) else project
        latent, history = descend(center, gradient, self.num_steps, self.lr, len(y), ball)
        return _decoded(generator, state, latent, self.split, term.error(latent), history)


@dataclass(frozen=True)
class SGILO(Solver):
    r"""Searches the latents of a split under a prior, from where another solver came.

    .. math:: \frac{|A G_2(z_1) - y|^2}{2 \sigma_\text{eff}^2} - \lambda \log p(z_1)

    One Adam descends the sum of both gradients. With a temperature there is noise in every step, and several chains of
    an image end at different points. With a :class:`~zoo.sgilo.GaussianPrior` or a :class:`~zoo.sgilo.ProximityPrior`
    in place of the score it is a control.

    Args:
        first: Solver that finds the start.
        prior: One, or its name among the ``priors`` that ``solve`` is given.
        split: Of the generator.
        prior_weight: :math:`\lambda`, >= 0; 0 leaves the prior out.
        sigma: Noise level at which the score is asked in the last step, in units of the latents' scale.
        sigma_start: The one in the first step, from which it goes geometrically; ``None`` for the same throughout.
        sigma_eff: Standard deviation of what measurements and generator disagree by, > 0: more than the sensor's noise.
        temperature: Standard deviation of the noise that is added to the latent in each step in units of ``lr``, >= 0.
        num_steps: Of Adam.
        lr: Adam's step size.
        num_chains: Chains of each image.
        reduction: ``"best"``, the chain of the smallest measurement error, or ``"mean"`` of their images.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Daras et al., ICML 2022. The authors' code takes an Adam step on the data term and then one towards the denoised
        point; the joint gradient is this room's choice.

    Example:
        >>> from zoo.sgilo import ConvDecoder, ProximityPrior
        >>> solver = SGILO(CSGM(num_steps=2), ProximityPrior(0.01), num_steps=2)
        >>> solver.solve(ConvDecoder(latent_dim=6).eval(), torch.nn.Flatten(), torch.rand(3, 784)).x.shape
        torch.Size([3, 1, 28, 28])
    """

    first: Solver
    prior: LatentPrior | str = "score"
    split: int = 1
    prior_weight: float = 1.0
    sigma: float = 0.6
    sigma_start: float | None = None
    sigma_eff: float = 0.1
    temperature: float = 0.0
    num_steps: int = 100
    lr: float = 0.05
    num_chains: int = 1
    reduction: Reduction = "best"

    def __post_init__(self) -> None:
        _check_at_least(1, split=self.split, num_steps=self.num_steps, num_chains=self.num_chains)
        _check_positive(lr=self.lr, sigma=self.sigma, sigma_eff=self.sigma_eff)
        if self.sigma_start is not None:
            _check_positive(sigma_start=self.sigma_start)
        for name, value in (("prior_weight", self.prior_weight), ("temperature", self.temperature)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {value}")
        if self.reduction not in ("best", "mean"):
            raise ValueError(f"reduction must be 'best' or 'mean', got {self.reduction!r}")

    def level(self, step: int) -> float:
        """Noise level of a step, counted from 0."""
        if self.sigma_start is None or self.num_steps == 1:
            return self.sigma
        return self.sigma_start * (self.sigma / self.sigma_start) ** (step / (self.num_steps - 1))

    def _solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors,
        start: Reconstruction | None,
        rng: torch.Generator | None,
    ) -> Reconstruction:
        state = _repeated(_state_at(generator, start, self.split), len(y), self.num_chains)
        latent = generator.latent(state)
        term = DataTerm(_suffix(generator, state, self.split), operator, y, self.num_chains)
        prior = _find(self.prior, priors).centred(latent) if self.prior_weight else None
        noise = torch.empty_like(latent)

        def gradient(latent: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            error, slope = term(latent)
            slope = slope / self.sigma_eff**2
            if prior is None:
                return slope, {"error": error}
            of_prior = prior.gradient(latent, self.level(step), rng)
            measures = {"error": error, "prior": of_prior.flatten(1).norm(dim=1)}
            return slope.add_(of_prior, alpha=self.prior_weight), measures

        def shake(latent: Tensor) -> Tensor:
            return latent.add(noise.normal_(generator=rng), alpha=self.temperature * self.lr)

        latent, history = descend(
            latent, gradient, self.num_steps, self.lr, len(y), shake if self.temperature else None
        )
        return _reduced(generator, state, latent, self.split, term, history, self.num_chains, self.reduction)


@dataclass(frozen=True)
class PosteriorLangevin(Solver):
    r"""Draws latents of a split from their posterior by the Langevin algorithm; the image is the mean of the draws.

    The potential is that of :class:`SGILO`, and nothing but the gradient of the prior is asked for, so that the score
    serves. All draws of all chains are kept as images, for intervals.

    Args:
        first: Solver that finds the start of all chains.
        prior: One, or its name among the ``priors``. A score should not be perturbed here: ``"clean_score"``.
        split: Of the generator.
        prior_weight: Power of the prior, > 0.
        sigma: Noise level at which the score is asked.
        sigma_eff: Standard deviation of what measurements and generator disagree by, > 0.
        relative_step_size: Of the Langevin algorithm, in (0, 2): in units of one over the largest curvature of the
            potential where the chains begin, which is found before.
        inverse_temperature: 1 draws from the posterior.
        num_chains: Chains of each image.
        burn_in: Steps before the first draw.
        num_steps: Steps after that.
        thin: Every which of them is kept.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Daras et al., ICML 2022.

    Example:
        >>> from zoo.sgilo import ConvDecoder, GaussianPrior
        >>> prior = GaussianPrior((8, 7, 7)).fit(torch.randn(500, 8, 7, 7))
        >>> solver = PosteriorLangevin(CSGM(num_steps=2), prior, num_chains=2, burn_in=1, num_steps=3, thin=1)
        >>> found = solver.solve(ConvDecoder(latent_dim=6).eval(), torch.nn.Flatten(), torch.rand(3, 784))
        >>> found.chains.shape
        torch.Size([6, 3, 1, 28, 28])
    """

    first: Solver
    prior: LatentPrior | str = "clean_score"
    split: int = 1
    prior_weight: float = 1.0
    sigma: float = 0.3
    sigma_eff: float = 0.1
    relative_step_size: float = 0.5
    inverse_temperature: float = 1.0
    num_chains: int = 4
    burn_in: int = 300
    num_steps: int = 500
    thin: int = 20

    def __post_init__(self) -> None:
        _check_at_least(1, split=self.split, num_chains=self.num_chains)
        _check_positive(prior_weight=self.prior_weight, sigma=self.sigma, sigma_eff=self.sigma_eff)
        if not 0 < self.relative_step_size < 2:
            raise ValueError(f"relative_step_size must be in (0, 2), got {self.relative_step_size}")
        self.sampler(1.0)

    def sampler(self, step_size: float) -> LangevinSampler:
        """What draws with this step size."""
        return LangevinSampler(step_size, self.inverse_temperature, self.num_steps, self.burn_in, self.thin)

    def _solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors,
        start: Reconstruction | None,
        rng: torch.Generator | None,
    ) -> Reconstruction:
        state = _repeated(_state_at(generator, start, self.split), len(y), self.num_chains)
        latent = generator.latent(state)
        decode = _suffix(generator, state, self.split)
        term = DataTerm(decode, operator, y, self.num_chains)
        prior = _find(self.prior, priors).centred(latent)

        def gradient(latent: Tensor) -> Tensor:
            slope = term(latent)[1] / self.sigma_eff**2
            return slope.add_(prior.gradient(latent, self.sigma, rng), alpha=self.prior_weight)

        step_size = self.relative_step_size / largest_curvature(gradient, latent, rng).item()
        draws = self.sampler(step_size).sample(None, latent, rng, gradient=gradient)
        with torch.no_grad():
            images = torch.stack([decode(sample) for sample in draws.samples])
        chains = images.view(-1, len(y), *images.shape[2:])
        ended = _reduced(generator, state, draws.last, self.split, term, {}, self.num_chains, "best")
        return replace(ended, x=chains.mean(0), chains=chains)


def solve_all(
    solvers: Mapping[str, Solver],
    generator: SplitGenerator,
    operator: Operator,
    y: Tensor,
    priors: Priors | None = None,
    seed: int = 0,
) -> dict[str, Reconstruction]:
    """The outcomes of several solvers on the same measurements; starts that they share are found once.

    Each solver has a source of randomness of its own, so that one does not change what another finds.

    Args:
        solvers: By name.
        generator: As for :meth:`Solver.solve`.
        operator: As there.
        y: As there.
        priors: As there.
        seed: Of every solver's randomness.
    """
    done: dict[Solver, Reconstruction] = {}

    def solved(solver: Solver) -> Reconstruction:
        if solver not in done:
            start = solved(solver.first) if solver.first else None
            begun = _clock(y.device)
            rng = torch.Generator(y.device).manual_seed(seed)
            found = solver.solve(generator, operator, y, priors, start, rng)
            seconds = _clock(y.device) - begun + (start.seconds if start else 0.0)
            done[solver] = replace(found, seconds=seconds)
        return done[solver]

    return {name: solved(solver) for name, solver in solvers.items()}


def descend(
    latent: Tensor,
    gradient: Callable[[Tensor, int], tuple[Tensor, dict[str, Tensor]]],
    num_steps: int,
    lr: float,
    num_images: int,
    after: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Steps of Adam; as it treats numbers one by one, the chains do not notice each other.

    Args:
        latent: Where the chains begin, ``(N, *)``; left as it is.
        gradient: Of chains and the number of the step, counted from 0: the gradient, and measures ``(N,)`` by name.
        num_steps: How many.
        lr: Adam's step size.
        num_images: Images that the chains belong to, for messages.
        after: What becomes of the chains after each step.

    Returns:
        Where they end, and the measures of every step, ``(T, N)``.

    Raises:
        FloatingPointError: If the error or the end of a chain is not finite.
    """
    latent = latent.detach().clone(memory_format=torch.preserve_format)
    parameter = nn.Parameter(latent)
    adam = torch.optim.Adam([parameter], lr=lr, foreach=False)
    seen: list[dict[str, Tensor]] = []
    for step in range(num_steps):
        parameter.grad, measures = gradient(parameter.data, step)
        seen.append(measures)
        adam.step()
        if after is not None:
            parameter.data = after(parameter.data)
    history = {name: torch.stack([measures[name] for measures in seen]) for name in seen[0]}
    ends = parameter.data.flatten(1).isfinite().all(1)
    finite = torch.cat([history["error"].isfinite(), ends.unsqueeze(0)])
    steps = finite.cumprod(0).sum(0)
    if bool((steps <= num_steps).any()):
        first, column = steps.min(0)
        chain, image = divmod(int(column), num_images)
        raise FloatingPointError(f"chain {chain} of image {image} is not finite after {int(first)} steps")
    return parameter.data, history


def largest_curvature(
    gradient: Callable[[Tensor], Tensor],
    z: Tensor,
    generator: torch.Generator | None = None,
    num_steps: int = 30,
    eps: float = 1e-2,
) -> Tensor:
    """The largest eigenvalue of a potential's Hessian, of all chains, by power iteration on differences of gradients.

    Args:
        gradient: Of the potential, at chains ``(N, *)``; not a random one.
        z: Where to look, ``(N, *)``.
        generator: Source of the first direction; the global one if ``None``.
        num_steps: Products with the Hessian.
        eps: Length of a difference.

    Returns:
        A scalar.

    Example:
        >>> curvatures = torch.tensor([1.0, 5.0])
        >>> round(largest_curvature(lambda z: curvatures * z, torch.zeros(3, 2)).item(), 2)
        5.0
    """
    at = gradient(z)
    direction = torch.empty_like(z).normal_(generator=generator)
    for _ in range(num_steps):
        length = direction.flatten(1).norm(dim=1).view(-1, *[1] * (z.ndim - 1))
        direction = (gradient(torch.addcdiv(z, direction, length, value=eps)) - at) / eps
    return direction.flatten(1).norm(dim=1).max()


def _find(prior: LatentPrior | str, priors: Priors) -> LatentPrior:
    if not isinstance(prior, str):
        return prior
    if prior not in priors:
        known = ", ".join(priors) or "those given (none)"
        raise ValueError(f"prior must be a prior, or one of {known}, got {prior!r}")
    return priors[prior]


def _state_at(generator: SplitGenerator, start: Reconstruction | None, split: int) -> Any:
    """The state at a split that belongs to what another solver found."""
    assert start is not None
    generator.check_split(split)
    if start.split > split:
        raise ValueError(f"split must be at least {start.split}, where the start stands, got {split}")
    with torch.no_grad():
        if start.split == 0:
            return generator.prefix(start.state, split)
        return start.state if start.split == split else generator.between(start.state, start.split, split)


def _suffix(generator: SplitGenerator, state: Any, split: int) -> Callable[[Tensor], Tensor]:
    return lambda latent: generator.suffix(generator.with_latent(state, latent), split)


def _decoded(
    generator: SplitGenerator, state: Any, latent: Tensor, split: int, error: Tensor, history: dict[str, Tensor]
) -> Reconstruction:
    state = generator.with_latent(state, latent)
    with torch.no_grad():
        return Reconstruction(generator.suffix(state, split), state, split, error, history)


def _reduced(
    generator: SplitGenerator,
    state: Any,
    latent: Tensor,
    split: int,
    term: DataTerm,
    history: dict[str, Tensor],
    num_chains: int,
    reduction: Reduction,
) -> Reconstruction:
    """The best chain of each image; or its state with the mean of all chains' images."""
    error = term.error(latent)
    if num_chains == 1:
        return _decoded(generator, state, latent, split, error, history)
    state = generator.with_latent(state, latent)
    kept, least = _best(state, error, num_chains)
    with torch.no_grad():
        if reduction == "best":
            return Reconstruction(generator.suffix(kept, split), kept, split, least, history)
        images = generator.suffix(state, split)
        return Reconstruction(images.view(num_chains, -1, *images.shape[1:]).mean(0), kept, split, least, history)


def _repeated(state: Any, num_images: int, num_chains: int) -> Any:
    """The state for several chains of each image, chain after chain; what all images share stays as it is."""
    if num_chains == 1:
        return state
    return _map(lambda one: one.repeat(num_chains, *[1] * (one.ndim - 1)) if len(one) == num_images else one, state)


def _best(state: Any, error: Tensor, num_chains: int) -> tuple[Any, Tensor]:
    """Of each image the chain of the smallest error: its state, and the error."""
    least, chain = error.view(num_chains, -1).min(0)
    rows = chain * len(chain) + torch.arange(len(chain), device=chain.device)
    return _map(lambda one: one[rows] if len(one) == len(error) else one, state), least


def _map(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Apply a function to every tensor of a state, which is one, or a tuple of some, of tuples, and of ``None``."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    values = [_map(function, one) for one in state]
    return type(state)(*values) if hasattr(state, "_fields") else type(state)(values)


def _clock(device: torch.device) -> float:
    """Processor time on a CPU, where other programs may compute beside; else the time once the device has finished."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def _check_at_least(lowest: int, **values: int) -> None:
    for name, value in values.items():
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be > 0 and finite, got {value}")
