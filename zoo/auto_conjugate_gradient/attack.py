"""The attacks: ACG, with conjugate directions, and APGD, with the gradient and momentum."""

from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from zoo.auto_conjugate_gradient.direction import Beta, BetaSign, ConjugateMove, MomentumMove, Move
from zoo.auto_conjugate_gradient.losses import LOSSES, Loss
from zoo.auto_conjugate_gradient.objective import Layout, Model, Objective, frozen
from zoo.auto_conjugate_gradient.projection import BALLS, Norm
from zoo.auto_conjugate_gradient.result import AttackResult, Found, Trace
from zoo.auto_conjugate_gradient.rows import pick
from zoo.auto_conjugate_gradient.search import Search, looks
from zoo.auto_conjugate_gradient.starts import image_noise
from zoo.auto_conjugate_gradient.step_size import FRACTIONS, checkpoints

STARTS = ("center", "random")


class Attack:
    """What ACG and APGD have in common: everything but the direction. Use one of these.

    An attack is called with a model, which gives logits ``(B, K)`` of images ``(B, *)`` in [0, 1], with images and
    labels; it returns an :class:`~zoo.auto_conjugate_gradient.result.AttackResult`. The model is used in evaluation
    mode and is left as it was found: mode, ``requires_grad`` and ``.grad`` of its parameters. The outcome for an image
    does not depend on the batch that it comes in, but for rounding.

    Args:
        norm: Of the perturbation, ``"Linf"`` or ``"L2"``.
        eps: Its largest size, > 0; for ``"Linf"`` at most 1, as pixels lie in [0, 1].
        n_iter: Iterations N of a run, which computes N + 1 gradients.
        n_restarts: Runs, each from another point.
        loss: ``"cw"`` (the paper), ``"dlr"``, ``"ce"``, or a function of logits ``(B, K)`` and labels ``(B,)`` that
            gives losses ``(B,)``.
        num_targets: 0 for a loss of all wrong classes. Else a run is made for each of the so many wrong classes whose
            logits are the largest at the clean image (AutoAttack: 9); any wrong class is a success.
        start: Where the first run starts: ``"center"`` of the feasible box, or ``"random"`` as the others do.
        early_stop: Leave out an image soon after it is broken, and so stop looking for a larger margin.
        stack_restarts: Make all further runs side by side, as one large batch; else one after another.
        record_trace: Keep all search points; needs ``early_stop=False``, as points end where an image is left out.
        rho: A step size is halved where the loss rose in at most this share of a window's iterations, in [0, 1].
        window_fractions: First window, by what each is shorter, and shortest window, as shares of N.
        seed: Of random starts.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        norm: Norm = "Linf",
        eps: float = 8 / 255,
        n_iter: int = 100,
        n_restarts: int = 1,
        loss: str | Loss = "cw",
        num_targets: int = 0,
        start: str = "center",
        early_stop: bool = True,
        stack_restarts: bool = True,
        record_trace: bool = False,
        rho: float = 0.75,
        window_fractions: tuple[float, float, float] = FRACTIONS,
        seed: int = 0,
    ) -> None:
        if norm not in BALLS:
            raise ValueError(f"norm must be one of {', '.join(BALLS)}, got {norm!r}")
        if not 0 < eps < float("inf"):
            raise ValueError(f"eps must be > 0, got {eps}")
        if norm == "Linf" and eps > 1:
            raise ValueError(f"eps must be at most 1 for Linf, as pixels lie in [0, 1], got {eps}; say 8 / 255")
        for name, number, lowest in (
            ("n_iter", n_iter, 1),
            ("n_restarts", n_restarts, 1),
            ("num_targets", num_targets, 0),
        ):
            if number < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {number}")
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, or a function, got {loss!r}")
        if num_targets and not isinstance(loss, str):
            raise ValueError(f"num_targets must be 0 with a loss of your own, got {num_targets}")
        if start not in STARTS:
            raise ValueError(f"start must be one of {', '.join(STARTS)}, got {start!r}")
        if record_trace and early_stop:
            raise ValueError(f"record_trace needs early_stop=False, got early_stop={early_stop}")
        if not 0 <= rho <= 1:
            raise ValueError(f"rho must be in [0, 1], got {rho}")
        for share in window_fractions:
            if not 0 < share <= 1:
                raise ValueError(f"window_fractions must lie in (0, 1], got {tuple(window_fractions)}")
        self.norm, self.eps, self.n_iter, self.n_restarts, self.loss = norm, eps, n_iter, n_restarts, loss
        self.num_targets, self.start, self.early_stop, self.stack_restarts = (
            num_targets,
            start,
            early_stop,
            stack_restarts,
        )
        self.record_trace, self.rho, self.seed = record_trace, rho, seed
        self.checkpoints = checkpoints(n_iter, window_fractions)

    def begin_move(self, gradient: Tensor) -> Move:
        """The move of the first iteration, given the gradients at the start points, ``(B, D)``."""
        raise NotImplementedError

    def __call__(self, model: Model, x: Tensor, y: Tensor, target: Tensor | None = None) -> AttackResult:
        """Attack images.

        Args:
            model: Gives logits ``(B, K)``; a module, or any function.
            x: Images in [0, 1], shape ``(B, *)``, floating point; half precision is computed in single precision.
            y: Their labels, shape ``(B,)``, int64.
            target: Classes that the images are to be taken for, shape ``(B,)``, int64; any wrong class if ``None``.

        Returns:
            The outcome, on the device of ``x``.

        Raises:
            ValueError: If images, labels or targets are out of range, or the model gives no finite logits.
        """
        self._check(x, y, target)
        with torch.inference_mode(False), torch.no_grad(), frozen(model):
            x = x.detach().clone().to(torch.promote_types(x.dtype, torch.float32))  # not one of the inference mode
            y, target = y.clone(), None if target is None else target.clone()
            layout = Layout(x)
            objective = Objective(model, self.loss, layout, target is not None, _highest(y, target))
            found, trace = self._run(objective, layout.rows(x), y, target)
            result = found.best()
        result.x_adv = layout.images(result.x_adv)
        result.trace = trace
        return result

    def _check(self, x: Tensor, y: Tensor, target: Tensor | None) -> None:
        if not x.is_floating_point() or x.dim() < 2:
            raise ValueError(f"x must be floating point of shape (B, *), got {x.dtype} of shape {tuple(x.shape)}")
        given = {"y": y} if target is None else {"y": y, "target": target}
        for name, labels in given.items():
            if labels.dtype != torch.int64 or labels.shape != x.shape[:1]:
                raise ValueError(
                    f"{name} must be int64 of shape ({len(x)},), got {labels.dtype} of shape {tuple(labels.shape)}"
                )
        if target is not None and self.num_targets:
            raise ValueError(f"num_targets must be 0 where targets are given, got {self.num_targets}")
        if target is not None and not isinstance(self.loss, str):
            raise ValueError("target must be left out with a loss of your own")
        if x.numel() == 0:
            return
        low, high = x.min().item(), x.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"x must lie in [0, 1], got values from {low:g} to {high:g}")
        for name, labels in given.items():
            if labels.min() < 0:
                raise ValueError(f"{name} must lie in [0, number of classes), got {int(labels.min())}")
        if target is not None and bool((target == y).any()):
            raise ValueError("target must differ from y, got the label itself")

    def _run(self, objective: Objective, x: Tensor, y: Tensor, target: Tensor | None) -> tuple[Found, Trace | None]:
        """All runs on images ``(B, D)``."""
        num_runs = self.n_restarts * max(1, self.num_targets)
        found = Found.nothing(num_runs, x)
        if x.numel() == 0:
            return found, None
        targets = self._targets(objective, x, y, target)
        traces = []
        for runs in self._groups(num_runs):
            images = (~found.broken).nonzero()[:, 0] if self.early_stop else torch.arange(len(x), device=x.device)
            if len(images) == 0:
                break
            search = self._begin(objective, x, y, targets, torch.tensor(runs, device=x.device), images)
            self._search(search, found)
            if search.trace is not None:
                traces.append(self._trace(search.trace, objective.layout, len(runs)))
        return found, _joined(traces) if traces else None

    def _groups(self, num_runs: int) -> Iterator[list[int]]:
        """Which runs are made side by side: with early stopping the first one sorts out what breaks at once."""
        if not self.stack_restarts:
            yield from ([run] for run in range(num_runs))
        elif self.early_stop and num_runs > 1:
            yield [0]
            yield list(range(1, num_runs))
        else:
            yield list(range(num_runs))

    def _targets(self, objective: Objective, x: Tensor, y: Tensor, target: Tensor | None) -> Tensor | None:
        """Targets by number and image, ``(T, B)``; ``None`` where the loss has none."""
        if target is not None:
            return target[None]
        if not self.num_targets:
            return None
        logits = objective.logits(x)
        if self.num_targets >= logits.shape[1]:
            raise ValueError(f"num_targets must be below the {logits.shape[1]} classes, got {self.num_targets}")
        wrong = logits.scatter(1, y[:, None], -float("inf"))
        return wrong.topk(self.num_targets, dim=1).indices.t()

    def _begin(
        self, objective: Objective, x: Tensor, y: Tensor, targets: Tensor | None, runs: Tensor, images: Tensor
    ) -> Search:
        """The searches of some runs on some images."""
        run, image = runs.repeat_interleave(len(images)), images.repeat(len(runs))
        num_targets = 1 if targets is None else len(targets)
        restart = run // num_targets
        ball = BALLS[self.norm].around(x[image], self.eps)
        begin = ball.center()
        if self.start == "random" or self.n_restarts > 1:
            drawn = (restart > 0) | (self.start == "random")
            begin = pick(drawn, ball.random(image_noise(x[image], self.seed, restart)), begin)
        return Search.begin(
            objective,
            ball,
            slot=run * len(x) + image,
            y=y[image],
            target=None if targets is None else targets[run % num_targets, image],
            x=begin,
            step_size=2 * self.eps,
            make_move=self.begin_move,
            record=self.record_trace,
        )

    def _search(self, search: Search, found: Found) -> None:
        """Make the runs; the results are in ``found`` afterwards. The host looks at the device a few times only."""
        looked = looks(self.n_iter, self.checkpoints)
        for iteration in range(self.n_iter + 1):
            if iteration:
                search.step(iteration)
            if iteration in self.checkpoints:
                search.halve(self.checkpoints[iteration], self.rho)
            if iteration in looked:
                search.objective.check_finite(iteration)
                search.report(found, iteration)
                if self.early_stop and not search.leave_out_broken(found):
                    return

    def _trace(self, points: list[tuple[Tensor, Tensor]], layout: Layout, num_runs: int) -> Trace:
        x, loss = (torch.stack(parts) for parts in zip(*points))
        steps, rows = loss.shape
        images = layout.images(x.flatten(0, 1)).unflatten(0, (steps, num_runs, rows // num_runs))
        return Trace(images.movedim(0, 2), loss.view(steps, num_runs, -1).movedim(0, 2), self.eps, self.norm)


def _highest(y: Tensor, target: Tensor | None) -> int:
    labels = y if target is None else torch.cat([y, target])
    return int(labels.max()) if len(labels) else 0


def _joined(traces: list[Trace]) -> Trace:
    points, loss = (torch.cat([getattr(one, name) for one in traces]) for name in ("points", "loss"))
    return Trace(points, loss, traces[0].eps, traces[0].norm)


class ACG(Attack):
    r"""Auto conjugate gradient: sign steps along conjugate directions, with the step sizes of Auto-PGD.

    .. math:: s_k = G_k + \beta_k s_{k-1}, \qquad x_{k+1} = P\big(x_k + \eta_k\, \mathrm{sign}(s_k)\big)

    The beta of Hestenes and Stiefel with the sign of the authors' code, and not cut off at 0, is what makes the search
    points spread; with the cut it is a plain ascent along the gradient's sign. See
    :func:`~zoo.auto_conjugate_gradient.direction.conjugate_coefficient`.

    Args:
        beta: ``"hs"`` (the paper), ``"dy"``, ``"fr"`` or ``"pr"``.
        beta_sign: ``"official"``, as in the authors' code, or ``"textbook"``.
        clamp_beta: Take 0 in place of negative betas.
        **attack: Arguments of :class:`Attack`.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Yamamura et al., *Diversified Adversarial Attacks based on Conjugate Gradient Method*, ICML 2022.

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> _ = model.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
        >>> x, y = torch.tensor([[0.6, 0.5], [0.9, 0.5]]), torch.tensor([0, 0])
        >>> result = ACG(eps=0.1, n_iter=10)(model, x, y)
        >>> result.success
        tensor([ True, False])
        >>> result.x_adv[1]
        tensor([0.8000, 0.6000])
    """

    def __init__(
        self, beta: Beta = "hs", beta_sign: BetaSign = "official", clamp_beta: bool = False, **attack: Any
    ) -> None:
        super().__init__(**attack)
        for name, value, allowed in (("beta", beta, Beta), ("beta_sign", beta_sign, BetaSign)):
            if value not in get_args(allowed):
                raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
        self.beta, self.beta_sign, self.clamp_beta = beta, beta_sign, clamp_beta

    def begin_move(self, gradient: Tensor) -> ConjugateMove:
        return ConjugateMove.begin(gradient, self.beta, self.beta_sign, self.clamp_beta)


class APGD(Attack):
    """Auto projected gradient descent: steps along the gradient with momentum, and step sizes that halve.

    Args:
        momentum: Weight of the new step against the move before, in (0, 1]; 0.75 in the paper, 1 is plain ascent.
        **attack: Arguments of :class:`Attack`.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Croce and Hein, *Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
        Attacks*, ICML 2020, algorithm 1.

    Example:
        >>> x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
        >>> result = APGD(norm="L2", eps=0.5, n_iter=10, n_restarts=2, loss="ce")(model, x, y)
        >>> (result.x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-6
        tensor(True)
    """

    def __init__(self, momentum: float = 0.75, **attack: Any) -> None:
        super().__init__(**attack)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be in (0, 1], got {momentum}")
        self.momentum = momentum

    def begin_move(self, gradient: Tensor) -> MomentumMove:
        return MomentumMove(self.momentum)
