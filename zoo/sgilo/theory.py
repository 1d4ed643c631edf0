"""The theory, measured: Langevin dynamics on the codes of random generators, and the field that drives it."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.sgilo.langevin import langevin_step
from zoo.sgilo.random_generator import (
    RandomReLUGenerator,
    WeightScale,
    check_stable,
    expected_gradient,
    laplace_covariance,
)
from zoo.sgilo.random_problem import RandomProblems
from zoo.simulation import Simulation, no_data

Start = Literal["random", "far", "near_zero", "opposite", "beyond", "truth"]
OF_NOISE = {"random": 1.0, "far": 3.0, "near_zero": 0.05, "opposite": 0.0, "beyond": 0.0, "truth": 0.0}
OF_TRUTH = {"random": 0.0, "far": 0.0, "near_zero": 0.0, "opposite": -1.0, "beyond": 5.0, "truth": 1.0}
FOUND = 0.05  # relative error below which a code counts as found


class LangevinExperiment(Simulation):
    r"""Runs Langevin chains on many random problems at once: networks, numbers of measurements, temperatures, starts.

    The networks and problems are those of :class:`~zoo.sgilo.RandomProblems`. Replicas are ordered by network, number
    of measurements, temperature and chain, the last of which are ordered by start. Of every chain it measures

    - ``error``: :math:`|z - z^*| / |z^*|`;
    - ``found``: 1 if that is below 0.05, else 0;
    - ``objective``: f;

    and over the chains of every network, number of measurements and temperature

    - ``distance``: the largest between two chains, over :math:`|z^*|`;
    - ``slowest`` and ``fastest``: the smallest and the largest eigenvalue of the Hessian at :math:`z^*`, times the step
      size: what the distance of two coupled chains loses in a step;
    - ``second_moment``: mean of :math:`|z - z^*|^2` after the burn-in, over the one that
      :func:`~zoo.sgilo.laplace_covariance` predicts;
    - ``covariance_error``: distance of the chains' covariance from the predicted one, in the Frobenius norm, relative.

    Checkpoints keep the chains, the seed of the problems, the state of the noise, and the sums for the moments.

    Args:
        widths: Of the networks.
        num_measurements: m, one or several; ``None`` where all of G(z) is seen.
        inverse_temperature: :math:`\beta`, one or several; ``None`` among them for descent without noise.
        step_size: :math:`\eta`. It must be below 2 over the largest eigenvalue of every Hessian.
        starts: Where chains begin: ``"random"``, at N(0, I), ``"far"``, three times as far, ``"near_zero"``, a
            twentieth; ``"opposite"``, at :math:`-z^*`, ``"beyond"``, at :math:`5 z^*`, ``"truth"``, at :math:`z^*`.
        num_chains: Chains of every start.
        num_nets: Networks.
        coupled: Give all chains of a network the same noise, to see them forget where they began.
        sign_check: Let a chain change to :math:`-z` wherever f is smaller there.
        burn_in: Steps before the moments are gathered; ``None`` gathers none.
        thin: Steps from one gathered state to the next.
        weight_scale: Of the networks' weights.
        steps_per_epoch: Steps in the first epoch.
        growth: Factor of the steps from one epoch to the next, at least 1.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Daras et al., ICML 2022; the sign check is that of Huang et al., *A Provably Convergent Scheme for Compressive
        Sensing under Random Generative Priors*, 2018.
    """

    main_metric = "found"

    seed: Tensor
    z: Tensor
    finite: Tensor
    first_moment: Tensor
    second_moment: Tensor
    gathered: Tensor

    def __init__(
        self,
        widths: Sequence[int] = (20, 120, 720),
        num_measurements: int | Sequence[int] | None = 120,
        inverse_temperature: float | Sequence[float | None] | None = 1e4,
        step_size: float = 0.2,
        starts: Sequence[Start] = ("random",),
        num_chains: int = 1,
        num_nets: int = 20,
        coupled: bool = False,
        sign_check: bool = False,
        burn_in: int | None = None,
        thin: int = 10,
        weight_scale: WeightScale = "he",
        steps_per_epoch: int = 100,
        growth: float = 1.0,
    ) -> None:
        super().__init__(steps_per_epoch, growth)
        self.save_hyperparameters()
        for name, value in {"num_chains": num_chains, "num_nets": num_nets, "thin": thin}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not step_size > 0:
            raise ValueError(f"step_size must be > 0, got {step_size}")
        if not starts or any(start not in get_args(Start) for start in starts):
            raise ValueError(f"starts must be some of {', '.join(get_args(Start))}, got {list(starts)}")
        betas = list(inverse_temperature) if isinstance(inverse_temperature, Sequence) else [inverse_temperature]
        if not betas or any(beta is not None and not 0 < beta < math.inf for beta in betas):
            raise ValueError(f"inverse_temperature must be > 0, or null for no noise, got {inverse_temperature}")
        if burn_in is not None and not (burn_in >= 0 and None not in betas):
            raise ValueError(
                f"burn_in must be at least 0, and not be given without noise, got {burn_in} with {inverse_temperature}"
            )
        self.counts = [num_measurements] if isinstance(num_measurements, int) else num_measurements
        self.betas, self.starts = betas, list(starts)
        self.step_size, self.num_nets, self.num_chains = step_size, num_nets, num_chains
        self.coupled, self.sign_check, self.burn_in, self.thin = coupled, sign_check, burn_in, thin
        self.noise_state: Tensor | None = None
        self.problems = self._draw_problems(seed := int(torch.randint(2**62, ())))
        # axes: network, number of measurements, temperature, chain, coordinate
        settings, chains, k = (num_nets, self.problems.num_settings, len(betas)), num_chains * len(starts), widths[0]
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("z", self._first(settings, chains, k))
        self.register_buffer("finite", torch.zeros(*settings, chains, dtype=torch.long))
        self.register_buffer("first_moment", torch.zeros(*settings, k, dtype=torch.float64))
        self.register_buffer("second_moment", torch.zeros(*settings, k, k, dtype=torch.float64))
        self.register_buffer("gathered", torch.zeros((), dtype=torch.float64))

    def _draw_problems(self, seed: int) -> RandomProblems:
        hparams = self.hparams
        return RandomProblems(hparams["widths"], self.counts, self.num_nets, hparams["weight_scale"], seed)

    def _first(self, settings: tuple[int, ...], num_chains: int, k: int) -> Tensor:
        """Where the chains begin. A network's chains begin at the same places in every setting."""
        of_noise, of_truth = (
            torch.tensor([kind[start] for start in self.starts for _ in range(self.num_chains)]).view(-1, 1)
            for kind in (OF_NOISE, OF_TRUTH)
        )
        noise = torch.randn(settings[0], 1, 1, num_chains, k, dtype=torch.float64)
        first = of_noise * noise + of_truth * self.problems.truth.unsqueeze(1)
        return first.expand(*settings, num_chains, k).clone()

    def train_dataloader(self) -> DataLoader:
        return no_data()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["noise"] = self.noise.get_state()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.problems = self._draw_problems(int(checkpoint["state_dict"]["seed"]))
        self.noise_state = checkpoint["noise"]

    def on_fit_start(self) -> None:
        """Move the problems to the device, and find the curvature at their solutions."""
        self.noise = torch.Generator(self.device).manual_seed(int(self.seed) + 1)
        if self.noise_state is not None:
            self.noise.set_state(self.noise_state)
            self.noise_state = None
        self.problems.to(self.device)
        self.hessian = self.problems.hessian().unsqueeze(2)
        self.curvatures = torch.linalg.eigvalsh(self.hessian)[..., [0, -1]]
        check_stable(self.step_size, self.curvatures.max())
        self.expected: Tensor | None = None
        if self.burn_in is not None:
            by_beta = [laplace_covariance(self.hessian[:, :, 0], beta or 1.0, self.step_size) for beta in self.betas]
            self.expected = torch.stack(by_beta, dim=2)

    def advance(self, batch: Tensor, first_step: int, num_steps: int) -> None:
        betas = torch.tensor([beta or math.inf for beta in self.betas], dtype=torch.float64, device=self.device)
        noise = torch.empty_like(self.z[..., :1, :] if self.coupled else self.z)
        silent = all(beta is None for beta in self.betas)
        for step in range(first_step, first_step + num_steps):
            gradient = self.problems.gradient(self.z.flatten(2, 3)).view_as(self.z)
            drawn = None if silent else noise.normal_(generator=self.noise)
            self.z = langevin_step(self.z, gradient, self.step_size, betas.view(-1, 1, 1), drawn)
            if self.sign_check:
                better = self._objective(-self.z) < self._objective(self.z)
                self.z = torch.where(better.unsqueeze(-1), -self.z, self.z)
            self.finite += self.z.isfinite().all(-1)
            if self.burn_in is not None and step >= self.burn_in and (step - self.burn_in) % self.thin == 0:
                self._gather()
        self._check(first_step + num_steps)

    def _gather(self) -> None:
        """Add where the chains are to the sums for the moments."""
        deviation = self.z - self.problems.truth.unsqueeze(2)
        self.first_moment += deviation.sum(-2)
        self.second_moment += deviation.mT @ deviation
        self.gathered += self.z.shape[-2]

    def _check(self, steps: int) -> None:
        """A chain that is no longer finite stays so: its count of finite steps tells the first other one."""
        first, chain = self.finite.flatten().min(0)
        if first < steps:
            raise ValueError(
                f"step_size must be smaller: replica {chain.item()} has diverged by step {first.item() + 1} with "
                f"step_size {self.step_size}"
            )

    def _objective(self, z: Tensor) -> Tensor:
        return self.problems.objective(z.flatten(2, 3)).view(z.shape[:-1])

    def measures(self, batch: Tensor) -> dict[str, Tensor]:
        truth = self.problems.truth.unsqueeze(2)
        size = truth.norm(dim=-1)
        error = (self.z - truth).norm(dim=-1) / size
        apart = torch.cdist(self.z, self.z, compute_mode="donot_use_mm_for_euclid_dist").amax((-2, -1)) / size[..., 0]
        losses = (self.step_size * self.curvatures).expand(*apart.shape, 2)
        by_chain = {"error": error, "found": (error < FOUND).double(), "objective": self._objective(self.z)}
        by_setting = {"distance": apart, "slowest": losses[..., 0], "fastest": losses[..., 1]}
        found = by_chain | by_setting | self._moments()
        return {name: value.flatten() for name, value in found.items()}

    def _moments(self) -> dict[str, Tensor]:
        """The moments beside the predicted ones, once some states have been gathered."""
        if self.expected is None or self.gathered == 0:
            return {}
        about_truth, mean = self.second_moment / self.gathered, self.first_moment / self.gathered
        covariance = about_truth - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        trace, predicted = (matrix.diagonal(dim1=-2, dim2=-1).sum(-1) for matrix in (about_truth, self.expected))
        distance = (covariance - self.expected).flatten(-2).norm(dim=-1) / self.expected.flatten(-2).norm(dim=-1)
        return {"second_moment": trace / predicted, "covariance_error": distance}


class GradientFieldExperiment(Simulation):
    r"""Compares the gradient of random problems, all of G(z) being seen, with its limit for wide layers.

    A replica is a factor by which every layer is wider than the one before, the first of which is wider than the code;
    a step draws a network, a code :math:`z^*` and a point z for each. ``field_error`` is the mean over the draws of the
    distance between the gradient and :func:`~zoo.sgilo.expected_gradient`, relative to the length of the latter.
    Checkpoints keep the sum over the draws, and their seed.

    Args:
        expansions: The factors c: the first layer is c times as wide as the code, and the others as ``growths`` says.
        code_size: k.
        growths: Widths of the layers over that of the first one.
        steps_per_epoch: Draws in an epoch.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Hand and Voroninski, COLT 2018; Daras et al., ICML 2022.
    """

    main_metric = "field_error"

    seed: Tensor
    total: Tensor
    draws: Tensor

    def __init__(
        self,
        expansions: Sequence[int] = (2, 6, 20, 60),
        code_size: int = 10,
        growths: Sequence[int] = (1, 2),
        steps_per_epoch: int = 10,
    ) -> None:
        super().__init__(steps_per_epoch)
        self.save_hyperparameters()
        for name, values in {"expansions": expansions, "growths": growths, "code_size": [code_size]}.items():
            if not values or min(values) < 1:
                raise ValueError(f"{name} must be at least 1, got {values}")
        self.expansions, self.code_size, self.growths = list(expansions), code_size, list(growths)
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("total", torch.zeros(len(expansions), dtype=torch.float64))
        self.register_buffer("draws", torch.zeros((), dtype=torch.float64))

    def train_dataloader(self) -> DataLoader:
        return no_data()

    def advance(self, batch: Tensor, first_step: int, num_steps: int) -> None:
        for step in range(first_step, first_step + num_steps):
            rng = torch.Generator().manual_seed(int(self.seed) + step)
            self.total += torch.stack([self._error(expansion, rng) for expansion in self.expansions])
        self.draws += num_steps

    def measures(self, batch: Tensor) -> dict[str, Tensor]:
        return {"field_error": self.total / self.draws} if self.draws > 0 else {}

    def _error(self, expansion: int, rng: torch.Generator) -> Tensor:
        """Relative error of the limit for a fresh network and a fresh point."""
        widths = (self.code_size, *(self.code_size * expansion * growth for growth in self.growths))
        net = RandomReLUGenerator(widths, seed=int(torch.randint(2**62, (), generator=rng))).to(self.device)
        z, truth = torch.randn(2, 1, self.code_size, dtype=torch.float64, generator=rng).to(self.device)
        layers = net.layers(z)
        gradient = net.pull_back(layers, layers[-1] - net(truth))
        limit = expected_gradient(z, truth, net.depth)
        return (gradient - limit).norm() / limit.norm()
