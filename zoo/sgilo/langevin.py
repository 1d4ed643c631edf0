"""Langevin sampling of any potential, many chains at once."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CHECK_EVERY = 100  # steps between two looks at whether chains are finite


def langevin_step(
    z: Tensor,
    gradient: Tensor,
    step_size: float,
    inverse_temperature: float | Tensor = 1.0,
    noise: Tensor | None = None,
) -> Tensor:
    r"""One step of the unadjusted Langevin algorithm.

    .. math:: z' = z - \eta \nabla f(z) + \sqrt{2 \eta / \beta} \, u, \qquad u \sim N(0, I)

    Args:
        z: Where the chains are, ``(*)``.
        gradient: Of the potential f there, ``(*)``.
        step_size: :math:`\eta`.
        inverse_temperature: :math:`\beta`, one for all or of a shape that broadcasts.
        noise: u, of a shape that broadcasts; ``None`` for a step of gradient descent.

    Returns:
        Where they go.

    Source:
        Daras et al., ICML 2022 (the algorithm whose mixing is analysed); Roberts and Tweedie, *Bernoulli* 1996.

    Example:
        >>> z = torch.tensor([2.0])
        >>> langevin_step(z, gradient=z, step_size=0.5, noise=torch.ones(1))
        tensor([2.])
    """
    moved = torch.sub(z, gradient, alpha=step_size)
    return moved if noise is None else moved.add_(noise * (2 * step_size / inverse_temperature) ** 0.5)


class Chains(NamedTuple):
    """What a sampler has drawn.

    Attributes:
        samples: Kept samples, ``(K, C, *)``.
        last: Where the chains are at the end, ``(C, *)``: the start of a continuation.
        acceptance: Share of the proposals that each chain has taken, ``(C,)``; 1 without a Metropolis test.
    """

    samples: Tensor
    last: Tensor
    acceptance: Tensor


class LangevinSampler:
    r"""Draws from :math:`\exp(-\beta f)` by the Langevin algorithm, a number of chains at once.

    Without a Metropolis test the samples have a bias of the order of the step size; on a quadratic potential with
    curvature :math:`\lambda` their variance is :math:`1 / (\beta \lambda (1 - \eta \lambda / 2))`. With the test (MALA)
    there is none, at the price of one more evaluation of the potential.

    Args:
        step_size: :math:`\eta`, > 0. Stability needs it below 2 over the largest curvature.
        inverse_temperature: :math:`\beta`, > 0; ``inf`` descends without noise.
        num_steps: Steps after the burn-in, at least 1.
        burn_in: Steps before the first sample is kept, at least 0. Too few of them are the usual mistake.
        thin: Every which of the samples after the burn-in is kept, from 1 to ``num_steps``.
        metropolis: Whether a Metropolis test decides on every step.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Daras et al., ICML 2022; the test is that of Roberts and Tweedie, *Bernoulli* 1996.

    Example:
        >>> sampler = LangevinSampler(step_size=0.1, num_steps=2000, burn_in=100, thin=10)
        >>> generator = torch.Generator().manual_seed(0)
        >>> chains = sampler.sample(lambda z: z.square().sum(1) / 2, torch.zeros(50, 3), generator)
        >>> chains.samples.shape, round(chains.samples.var().item(), 1)
        (torch.Size([200, 50, 3]), 1.1)
    """

    def __init__(
        self,
        step_size: float,
        inverse_temperature: float = 1.0,
        num_steps: int = 1000,
        burn_in: int = 0,
        thin: int = 1,
        metropolis: bool = False,
    ) -> None:
        if not 0 < step_size < math.inf:
            raise ValueError(f"step_size must be > 0 and finite, got {step_size}")
        if not inverse_temperature > 0:
            raise ValueError(f"inverse_temperature must be > 0, got {inverse_temperature}")
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        if burn_in < 0:
            raise ValueError(f"burn_in must be at least 0, got {burn_in}")
        if not 1 <= thin <= num_steps:
            raise ValueError(f"thin must be from 1 to {num_steps}, the steps after the burn-in, got {thin}")
        if metropolis and math.isinf(inverse_temperature):
            raise ValueError("metropolis must be false where inverse_temperature is inf, got True")
        self.step_size, self.inverse_temperature = step_size, inverse_temperature
        self.num_steps, self.burn_in, self.thin = num_steps, burn_in, thin
        self.metropolis = metropolis

    def sample(
        self,
        potential: Callable[[Tensor], Tensor] | None,
        start: Tensor,
        generator: torch.Generator | None = None,
        gradient: Callable[[Tensor], Tensor] | None = None,
    ) -> Chains:
        """Run the chains.

        Args:
            potential: The potential f, of chains ``(C, *)``, one value for each, ``(C,)``. It is differentiated, unless
                ``gradient`` is given; then it may be ``None`` where there is no Metropolis test.
            start: Where the chains begin, ``(C, *)``, floating point.
            generator: Source of randomness, on the device of ``start``; the global one if ``None``.
            gradient: The gradient of f at chains ``(C, *)``, of the same shape: a score with its sign changed, or a
                closed form that is faster than differentiation.

        Returns:
            The kept samples, the end of the chains, and their acceptance.

        Raises:
            ValueError: If neither potential nor gradient is given, or no potential for a Metropolis test.
            FloatingPointError: If a chain is no longer finite; it tells which, and at which step.
        """
        if potential is None and (gradient is None or self.metropolis):
            raise ValueError(
                f"potential must be given {'with metropolis' if gradient else 'without a gradient'}, got None"
            )
        z = start.detach().clone()
        noise = torch.empty_like(z)
        kept = z.new_empty(self.num_steps // self.thin, *z.shape)
        accepted, finite = z.new_zeros(len(z)), z.new_zeros(len(z), dtype=torch.long)
        value, slope = self._evaluate(potential, gradient, z)
        for step in range(1, self.burn_in + self.num_steps + 1):
            noisy = None if math.isinf(self.inverse_temperature) else noise.normal_(generator=generator)
            proposal = langevin_step(z, slope, self.step_size, self.inverse_temperature, noisy)
            if self.metropolis:
                new_value, new_slope = self._evaluate(potential, gradient, proposal)
                log_ratio = self._log_ratio(z, value, slope, proposal, new_value, new_slope)
                uniform = torch.rand(len(z), dtype=z.dtype, device=z.device, generator=generator)
                taken = uniform.log() < log_ratio  # never where the ratio is NaN
                accepted += taken
                wide = taken.view(-1, *[1] * (z.ndim - 1))
                z, slope = torch.where(wide, proposal, z), torch.where(wide, new_slope, slope)
                value = torch.where(taken, new_value, value)
            else:
                z = proposal
                value, slope = self._evaluate(potential, gradient, z)
            finite += z.flatten(1).isfinite().all(1)
            if step % CHECK_EVERY == 0 or step == self.burn_in + self.num_steps:
                self._check(finite, step)
            since = step - self.burn_in
            if since > 0 and since % self.thin == 0:
                kept[since // self.thin - 1] = z
        share = accepted / (self.burn_in + self.num_steps) if self.metropolis else torch.ones_like(accepted)
        return Chains(kept, z, share)

    def _evaluate(
        self,
        potential: Callable[[Tensor], Tensor] | None,
        gradient: Callable[[Tensor], Tensor] | None,
        z: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The potential of each chain, where a test needs it, and its gradient."""
        if gradient is not None:
            value = potential(z).detach() if potential is not None and self.metropolis else z.new_zeros(len(z))
            return value, gradient(z).detach()
        assert potential is not None
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = potential(leaf)
            if value.shape != (len(z),):
                raise ValueError(f"potential must be of shape ({len(z)},), one value a chain, got {tuple(value.shape)}")
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), slope

    def _log_ratio(
        self, z: Tensor, value: Tensor, slope: Tensor, proposal: Tensor, new_value: Tensor, new_slope: Tensor
    ) -> Tensor:
        """Logarithm of the probability of taking each proposal, before it is cut at 0."""
        forth = (proposal - z).add_(slope, alpha=self.step_size).flatten(1).square().sum(1)
        back = (z - proposal).add_(new_slope, alpha=self.step_size).flatten(1).square().sum(1)
        return self.inverse_temperature * (value - new_value + (forth - back) / (4 * self.step_size))

    @staticmethod
    def _check(finite: Tensor, steps: int) -> None:
        """A chain that is no longer finite stays so: its count of finite steps tells the first other one."""
        first, chain = finite.min(0)
        if first < steps:
            raise FloatingPointError(
                f"chain {chain.item()} is not finite after step {first.item() + 1}: step_size is too large, or the "
                "gradient is not finite there"
            )
