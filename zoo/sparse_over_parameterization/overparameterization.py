"""Sparse over-parameterisation: every training sample has a noise vector of its own that takes up a wrong label."""

from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

U_LOSSES = ("ce+mse", "ce")
IGNORED = -100  # the label of a sample without one, as in cross-entropy
UNKNOWN = -1  # in the buffer of labels


def sop_loss(
    logits: Tensor, targets: Tensor, u: Tensor, v: Tensor, *, eps: float = 1e-4, u_loss: str = "ce+mse"
) -> Tensor:
    r"""Cross-entropy and squared error of predictions to which each sample's noise is added.

    .. math::
        U_i = [u_i^2 y_i]_0^1, \quad V_i = [v_i^2 (1 - y_i)]_0^1, \quad
        q_i \propto \max(p_i + U_i - \operatorname{sg} V_i, \epsilon) \\
        L = -\frac 1 B \sum_i y_i^\top \log q_i + \frac 1 B \sum_i \|h_i + U_i - V_i - y_i\|^2

    Here p is the softmax, h the one-hot argmax of the logits, y the one-hot label as given and sg stops gradients. The
    network learns from the first term only, v from the second only, u from both. Differentiable in logits, u and v;
    :class:`SparseOverParam` computes the same without autograd for u and v.

    Args:
        logits: Shape ``(B, K)``.
        targets: Labels as given, ``(B,)``, int64, or one-hot rows ``(B, K)``; a sample of label -100 counts nothing.
        u: Shape ``(B, 1)``.
        v: Shape ``(B, K)``.
        eps: Smallest probability.
        u_loss: ``"ce+mse"``, or ``"ce"`` to keep the second term's gradient from u.

    Returns:
        The loss in nats, scalar.

    Raises:
        ValueError: If an argument has another shape or value.

    Source:
        Liu et al., *Robust Training under Label Noise by Over-parameterization*, ICML 2022, section 3; terms and
        clipping as in the authors' code.

    Example:
        >>> logits, wrong = torch.tensor([[4.0, 0.0]]), torch.tensor([1])
        >>> noise = [(torch.full((1, 1), size), torch.tensor([[size, 0.0]])) for size in (0.0, 1.0)]
        >>> [round(sop_loss(logits, wrong, u, v).item(), 2) for u, v in noise]
        [6.02, 0.0]
    """
    _check_u_loss(u_loss)
    y = one_hot(as_labels(targets, logits), logits)
    terms = sop_terms(logits, y, u, v, eps, u_loss)
    return cross_entropy(terms.q, y) + squared_error(terms.error)


class SOPTerms(NamedTuple):
    """What :func:`sop_loss` is made of; each ``(B, K)``, except ``total``.

    Attributes:
        q: The predictions with each sample's noise added, normalised and clipped.
        normalized: Before they were clipped.
        shifted: Before they were clipped from below and normalised: ``p + U - V``.
        total: What they were divided by, ``(B, 1)``.
        error: The argmax with noise, less the label: ``h + U - V - y``; zeros where there is no label.
    """

    q: Tensor
    normalized: Tensor
    shifted: Tensor
    total: Tensor
    error: Tensor


def sop_terms(logits: Tensor, y: Tensor, u: Tensor, v: Tensor, eps: float = 1e-4, u_loss: str = "ce+mse") -> SOPTerms:
    """The terms of :func:`sop_loss`, for one-hot labels.

    Args:
        logits: Shape ``(B, K)``.
        y: One-hot labels, ``(B, K)``; a row of zeros has no label and no noise.
        u: Shape ``(B, 1)``.
        v: Shape ``(B, K)``.
        eps: Smallest probability.
        u_loss: ``"ce+mse"`` or ``"ce"``.
    """
    has_label = y.sum(dim=1, keepdim=True)
    added, removed = noise_parts(y, u, v, has_label)
    shifted = logits.softmax(dim=1) + added - removed.detach()
    clipped = shifted.clamp(min=eps)
    total = clipped.sum(dim=1, keepdim=True)
    normalized = clipped / total
    prediction = one_hot(logits.argmax(dim=1), logits)
    supplied = added if u_loss == "ce+mse" else added.detach()
    error = has_label * (prediction + supplied - removed - y)
    return SOPTerms(normalized.clamp(eps, 1), normalized, shifted, total, error)


def noise_parts(y: Tensor, u: Tensor, v: Tensor, has_label: Tensor) -> tuple[Tensor, Tensor]:
    """What the noise adds to the given class, and takes from others: U and V of :func:`sop_loss`, each ``(B, K)``."""
    return (u.square() * y).clamp(0, 1), (v.square() * (has_label - y)).clamp(0, 1)


def cross_entropy(q: Tensor, y: Tensor) -> Tensor:
    """Of probabilities ``(B, K)`` and one-hot labels ``(B, K)``; the mean over all B rows."""
    return (y * q.log()).sum() / -len(y)


def squared_error(error: Tensor) -> Tensor:
    """Summed over classes, the mean over all B rows of ``(B, K)``."""
    return error.square().sum() / len(error)


def consistency_kl(logits_weak: Tensor, logits_strong: Tensor) -> Tensor:
    r"""How far the predictions of a strong augmentation are from those of a weak one, which are taken as given.

    .. math:: \frac 1 B \sum_i \mathrm{KL}\big(\operatorname{sg} p(x_i) \,\|\, p(x'_i)\big)

    Args:
        logits_weak: Of the weakly augmented images, ``(B, K)``; gets no gradient.
        logits_strong: Of the strongly augmented images, ``(B, K)``.

    Returns:
        The divergence in nats, scalar.

    Source:
        Liu et al., ICML 2022, section 3 (SOP+).

    Example:
        >>> consistency_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(0.)
    """
    given = logits_weak.detach().log_softmax(dim=1)
    return F.kl_div(logits_strong.log_softmax(dim=1), given, log_target=True, reduction="batchmean")


def class_balance(q: Tensor, eps: float = 1e-4) -> Tensor:
    r"""Cross-entropy of the mean prediction of a batch to the uniform distribution; least, log K, at balance.

    .. math:: -\frac 1 K \sum_j \log \max(\bar q_j, \epsilon)

    Args:
        q: Predictions with noise added, ``(B, K)``; the ``q`` of :func:`sop_terms`.
        eps: Smallest mean.

    Returns:
        The term in nats, scalar.

    Source:
        Liu et al., ICML 2022, section 3 (SOP+).

    Example:
        >>> class_balance(torch.eye(2)).exp()
        tensor(2.)
    """
    return -q.mean(dim=0).clamp(eps, 1).log().mean()


@torch.no_grad()
def row_gradients(
    terms: SOPTerms,
    y: Tensor,
    u: Tensor,
    v: Tensor,
    *,
    eps: float = 1e-4,
    u_loss: str = "ce+mse",
    balance: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`sop_loss`, plus ``balance`` times :func:`class_balance`, in u and v, in closed form.

    Args:
        terms: Of the loss.
        y: One-hot labels, ``(B, K)``; a row of zeros has no label.
        u: Shape ``(B, 1)``.
        v: Shape ``(B, K)``.
        eps: Smallest probability.
        u_loss: As in :func:`sop_loss`.
        balance: Weight of the class balance.

    Returns:
        The gradients, ``(B, 1)`` and ``(B, K)``. A sample whose logits have overflown has none, so that a step that a
        gradient scaler leaves out does not spoil it.
    """
    size, num_classes = y.shape
    by_q = -y / terms.q
    if balance:
        mean = terms.q.mean(dim=0)
        by_q -= (mean >= eps) / mean.clamp(min=eps) * (balance / num_classes)
    by_q *= terms.normalized >= eps  # clip, normalise, clip: the way back
    by_shifted = by_q - (by_q * terms.normalized).sum(dim=1, keepdim=True)
    by_shifted /= terms.total
    by_shifted *= terms.shifted >= eps
    if u_loss == "ce+mse":
        by_shifted += 2 * terms.error
    grad_u = (by_shifted * y).sum(dim=1, keepdim=True) * u * (u.abs() <= 1) * (2 / size)
    grad_v = terms.error * v * ((v.abs() <= 1) & (y == 0)) * (-4 / size)
    finite = terms.total == terms.total  # not NaN
    return torch.where(finite, grad_u, 0), torch.where(finite, grad_v, 0)


class SparseOverParam(nn.Module):
    r"""The noise of every training sample, and its descent.

    The noise of sample i is :math:`s_i = u_i^2 y_i - v_i^2 (1 - y_i)`, from a number :math:`u_i` and a vector
    :math:`v_i` that start near zero. Where the label is wrong, u grows until the loss no longer asks the network for
    that label; descent from a tiny start leaves all other noise at zero.

    :meth:`forward` gives the loss, for the network; :meth:`step` then moves the rows of u and v that it has looked at,
    exactly as ``torch.optim.SGD`` without momentum and weight decay would, with gradients in closed form: nothing of
    the size N is touched, and nothing waits for the device. As in SGD, the step of a sample is ``alpha`` over the
    number of samples that the step averages over: those of all batches since the last :meth:`step` (gradient
    accumulation) and of all processes, which exchange their rows, so that each one has the whole state; they must have
    batches of equal size. Another batch size is another method, unless ``alpha`` is changed in proportion.

    u and v are buffers, so no optimizer, weight decay or schedule gets hold of them, and they stay in float32 whatever
    the network is cast to: 1e-8 is less than the smallest float16. The labels are kept too: a checkpoint that belongs
    to other labels, or to another order of the same, is refused.

    Args:
        num_samples: Training samples N.
        num_classes: Classes K.
        init_std: Standard deviation of the start, > 0. Growth from it takes a number of epochs that goes with its
            logarithm.
        alpha_u: Step size of u, > 0.
        alpha_v: Step size of v, > 0.
        eps: Smallest probability.
        project: Keep u and v in [-1, 1]. Without it a step may carry them beyond, where their gradient is zero.
        u_loss: ``"ce+mse"``, as in the authors' code, or ``"ce"``; what u learns from.
        balance: Weight of :func:`class_balance`, which is part of the loss because u learns from it too.
        generator: Of the start; the global one if ``None``.

    Attributes:
        u: Shape ``(N, 1)``, float32.
        v: Shape ``(N, K)``, float32.
        labels: Labels as given, as far as they are known, else -1; shape ``(N,)``.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Liu et al., ICML 2022, section 3 and algorithm 1.

    Example:
        >>> sop = SparseOverParam(num_samples=2, num_classes=2, init_std=0.1, alpha_u=1.0)
        >>> net_says, given = torch.tensor([[5.0, 0.0], [5.0, 0.0]]), torch.tensor([1, 0])
        >>> for _ in range(10):
        ...     loss, parts = sop(net_says, given, index=torch.tensor([0, 1]))
        ...     sop.step()
        >>> sop.noise_score() > 0.5  # the first label is wrong, says the network
        tensor([ True, False])
    """

    u: Tensor
    v: Tensor
    labels: Tensor
    conflicts: Tensor

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        init_std: float = 1e-8,
        alpha_u: float = 10.0,
        alpha_v: float = 10.0,
        eps: float = 1e-4,
        project: bool = False,
        u_loss: Literal["ce+mse", "ce"] = "ce+mse",
        balance: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if not init_std > 0:
            raise ValueError(f"init_std must be > 0, or u and v would never move, got {init_std}")
        for name, alpha in {"alpha_u": alpha_u, "alpha_v": alpha_v}.items():
            if not alpha > 0:
                raise ValueError(f"{name} must be > 0, got {alpha}")
        if not 0 < eps < 1 / num_classes:
            raise ValueError(f"eps must be between 0 and 1 / num_classes, got {eps}")
        if not balance >= 0:
            raise ValueError(f"balance must be >= 0, got {balance}")
        _check_u_loss(u_loss)
        self.num_samples, self.num_classes = num_samples, num_classes
        self.alpha_u, self.alpha_v = alpha_u, alpha_v
        self.eps, self.project, self.u_loss, self.balance = eps, project, u_loss, balance
        for name, columns in {"u": 1, "v": num_classes}.items():
            start = torch.empty(num_samples, columns, dtype=torch.float32)
            self.register_buffer(name, start.normal_(0, init_std, generator=generator))
        self.register_buffer("labels", torch.full((num_samples,), UNKNOWN))
        self.register_buffer("conflicts", torch.tensor(0), persistent=False)
        self.register_load_state_dict_pre_hook(_check_state)
        self._pending: list[tuple[Tensor, ...]] = []

    def _apply(self, fn: Any, recurse: bool = True) -> "SparseOverParam":
        before = {"u": self.u, "v": self.v}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            if getattr(self, name).dtype != torch.float32:
                setattr(self, name, buffer.to(getattr(self, name).device))
        return self

    def forward(self, logits: Tensor, targets: Tensor, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch; in training mode the next :meth:`step` moves the rows ``index``.

        Values of targets and index are checked on the CPU; on another device that would stall every step.

        Args:
            logits: Shape ``(B, K)``; taken to float32 if they have less.
            targets: Labels as given, ``(B,)``, int64, or one-hot rows ``(B, K)``. A sample of label -100 has neither
                loss nor step; it counts in B.
            index: Which training sample each row is, ``(B,)``, int64 in ``[0, num_samples)``.

        Returns:
            The loss in nats, scalar, and its parts ``ce``, ``mse`` and (if it has a weight) ``balance``, detached.

        Raises:
            ValueError: If an argument has another shape, type or value.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        labels = as_labels(targets, logits)
        if logits.shape[1] != self.num_classes:
            raise ValueError(f"logits must have num_classes = {self.num_classes} columns, got {logits.shape[1]}")
        check_index(index, len(logits), self.num_samples)
        y, u, v = one_hot(labels, logits), self.u[index], self.v[index]
        terms = sop_terms(logits, y, u, v, self.eps, self.u_loss)
        parts = {"ce": cross_entropy(terms.q, y), "mse": squared_error(terms.error)}
        loss = parts["ce"] + parts["mse"]
        if self.balance:
            parts["balance"] = class_balance(terms.q, self.eps)
            loss = loss + self.balance * parts["balance"]
        if self.training:
            gradients = row_gradients(terms, y, u, v, eps=self.eps, u_loss=self.u_loss, balance=self.balance)
            self._pending.append((index, labels, *gradients))
        return loss, {name: part.detach() for name, part in parts.items()}

    @torch.no_grad()
    def step(self) -> None:
        """Move the rows that :meth:`forward` has looked at since the last step; call it beside ``optimizer.step()``."""
        if not self._pending:
            return
        index, labels, grad_u, grad_v = self._pending[0]
        if len(self._pending) > 1:
            index, labels, grad_u, grad_v = (torch.cat(parts) for parts in zip(*self._pending))
        share = 1 / len(self._pending)
        self._pending.clear()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            share /= dist.get_world_size()
            index, labels, grad_u, grad_v = (_gather(part) for part in (index, labels, grad_u, grad_v))
        self.u.index_add_(0, index, grad_u.to(self.u.dtype), alpha=-self.alpha_u * share)
        self.v.index_add_(0, index, grad_v.to(self.v.dtype), alpha=-self.alpha_v * share)
        if self.project:
            self.u[index] = self.u[index].clamp(-1, 1)
            self.v[index] = self.v[index].clamp(-1, 1)
        known = self.labels[index]
        labels = torch.where(labels == IGNORED, known, labels)
        self.conflicts += ((known != labels) & (known != UNKNOWN)).sum()
        self.labels[index] = labels

    def set_labels(self, labels: Tensor) -> None:
        """Say what all labels are, in place of learning them batch by batch, so that mistakes are found at once.

        Args:
            labels: Labels as given, shape ``(num_samples,)``, int64; -100 for none.

        Raises:
            ValueError: If there are more or fewer, or they are not those that this noise belongs to.
        """
        if labels.shape != (self.num_samples,):
            raise ValueError(
                f"num_samples must be the number of training samples, {len(labels)}, got {self.num_samples}"
            )
        _check_labels(labels, self.num_classes)
        labels = torch.where(labels == IGNORED, UNKNOWN, labels).to(self.labels)
        _refuse_other_labels(labels, self.labels)
        self.labels.copy_(labels)

    def check_labels(self) -> None:
        """Make sure that no sample has come with two labels; waits for the device.

        Raises:
            ValueError: If one has: ``index`` does not name the same sample every time, or the labels change.
        """
        conflicts = int(self.conflicts)
        if conflicts:
            raise ValueError(
                f"index must name the same training sample in every epoch, got samples whose label has changed since "
                f"they were first seen, {conflicts} times"
            )

    def broadcast(self) -> None:
        """Give every process the state of the first one; does nothing where there is one only."""
        if dist.is_available() and dist.is_initialized():
            for buffer in (self.u, self.v, self.labels):
                dist.broadcast(buffer, 0)

    def noise(self, index: Tensor | None = None) -> Tensor:
        """The noise s of samples: in [0, 1] at the label as given, in [-1, 0] elsewhere.

        Args:
            index: Which samples, ``(n,)``, int64; ``None`` for all.

        Returns:
            Shape ``(n, K)``; zeros for a sample whose label is not known.
        """
        rows: Any = slice(None) if index is None else index
        y = one_hot(self.labels[rows], self.v)
        added, removed = noise_parts(y, self.u[rows], self.v[rows], y.sum(dim=1, keepdim=True))
        return added - removed

    def noise_score(self) -> Tensor:
        """How far each label is held for wrong: u squared, clipped to [0, 1]; shape ``(N,)``."""
        return self.u.square().clamp(max=1).flatten()

    def corrected_targets(self) -> Tensor:
        """The labels less the noise as probabilities, at least ``eps`` before they are normalised; shape ``(N, K)``."""
        corrected = (one_hot(self.labels, self.v) - self.noise()).clamp(min=self.eps)
        return corrected / corrected.sum(dim=1, keepdim=True)

    def extra_repr(self) -> str:
        """Sizes and step sizes."""
        return (
            f"num_samples={self.num_samples}, num_classes={self.num_classes}, alpha_u={self.alpha_u}, "
            f"alpha_v={self.alpha_v}, project={self.project}, u_loss={self.u_loss!r}, balance={self.balance}"
        )


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """Labels ``(B,)`` as rows of the type and width of ``like``; a negative one as a row of zeros."""
    return (labels.unsqueeze(1) == torch.arange(like.shape[1], device=labels.device)).to(like.dtype)


def as_labels(targets: Tensor, logits: Tensor) -> Tensor:
    """Targets as int64 labels ``(B,)``.

    Raises:
        ValueError: If they are neither labels nor one-hot rows for the logits ``(B, K)``. Values are looked at on the
            CPU only.
    """
    if targets.shape == logits.shape:
        if targets.device.type == "cpu" and not _is_one_hot(targets):
            raise ValueError("targets must be labels or one-hot rows, got rows that are not one-hot")
        return targets.argmax(dim=1)
    if targets.shape != logits.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets must be int64 labels of shape {tuple(logits.shape[:1])} or one-hot rows of shape "
            f"{tuple(logits.shape)}, got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    _check_labels(targets, logits.shape[1])
    return targets


def check_index(index: Tensor, batch_size: int, num_samples: int) -> None:
    """Raise a ``ValueError`` that says what is wrong with the index; its values are looked at on the CPU only."""
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        raise ValueError(f"index must be an int64 tensor, got {getattr(index, 'dtype', type(index).__name__)}")
    if index.shape != (batch_size,):
        raise ValueError(f"index must have one value for each of {batch_size} samples, got shape {tuple(index.shape)}")
    if index.device.type == "cpu" and batch_size:
        low, high = (int(end) for end in index.aminmax())
        if low < 0 or high >= num_samples:
            raise ValueError(f"index must be in [0, {num_samples}), got {low} to {high}")


def _is_one_hot(rows: Tensor) -> bool:
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(dim=1) == 1).all())


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if labels.device.type != "cpu" or not len(labels):
        return
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or high >= num_classes:
        wrong = labels[((labels < 0) | (labels >= num_classes)) & (labels != IGNORED)]
        if len(wrong):
            raise ValueError(f"targets must be labels in [0, {num_classes}) or {IGNORED}, got {int(wrong[0])}")


def _check_u_loss(u_loss: str) -> None:
    if u_loss not in U_LOSSES:
        raise ValueError(f"u_loss must be one of {', '.join(U_LOSSES)}, got {u_loss!r}")


def _refuse_other_labels(labels: Tensor, known: Tensor) -> None:
    differ = (labels != known) & (labels != UNKNOWN) & (known != UNKNOWN)
    if differ.any():
        first = int(differ.nonzero()[0])
        raise ValueError(
            f"labels must be those that the noise was learned with, in the same order, got {int(differ.sum())} of "
            f"{len(labels)} that differ, the first at sample {first}"
        )


def _check_state(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    assert isinstance(module, SparseOverParam)
    labels = state_dict.get(f"{prefix}labels")
    if labels is None:
        return
    if len(labels) != module.num_samples:
        raise ValueError(
            f"num_samples must be the one that the noise was learned with, {len(labels)}, got {module.num_samples}"
        )
    _refuse_other_labels(module.labels, labels.to(module.labels))


def _gather(part: Tensor) -> Tensor:
    """The rows of all processes, one below the other."""
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)
