"""The generator: a conditional VAE of a neighbour's features given the centre's."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_geometric.utils import remove_self_loops as without_self_loops

Likelihood = Literal["bernoulli", "gaussian"]
OutAct = Literal["sigmoid", "tanh", "identity"]
ROWS_PER_BLOCK = 256  # a block of decoded rows stays in a core's cache between the product, the sigmoid and the sum


def check_generator(
    hidden_channels: int, latent_dim: int, likelihood: str, out_act: str | None, in_channels: int = 1
) -> None:
    """Raise a ``ValueError`` that names the first argument of the generator that is out of range."""
    sizes = {"in_channels": in_channels, "hidden_channels": hidden_channels, "latent_dim": latent_dim}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if likelihood not in get_args(Likelihood):
        raise ValueError(f"likelihood must be 'bernoulli' or 'gaussian', got {likelihood!r}")
    if out_act is not None and out_act not in get_args(OutAct):
        raise ValueError(f"out_act must be 'sigmoid', 'tanh', 'identity' or None, got {out_act!r}")
    if likelihood == "bernoulli" and out_act not in (None, "sigmoid"):
        raise ValueError(f"out_act must be 'sigmoid' for a Bernoulli likelihood, got {out_act!r}")


def normalize_rows(x: Tensor) -> Tensor:
    """Divide each row by its sum, in place; a zero row stays zero.

    Args:
        x: Dense non-negative features, shape ``(*, F)``.

    Returns:
        ``x``, changed.

    Example:
        >>> normalize_rows(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
        tensor([[0.2500, 0.7500],
                [0.0000, 0.0000]])
    """
    total = x.sum(dim=-1, keepdim=True)
    return x.div_(total.masked_fill_(total == 0, 1))


class NeighborPairDataset(Dataset):
    r"""The generator's training pairs: for every edge :math:`(v, u)` the neighbour's features and the centre's.

    Rows are gathered on demand, so the pairs cost nothing beyond ``x``. Indexing takes one index or a batch of them.

    Args:
        edge_index: Edges ``(centre, neighbour)``, shape ``(2, E)``, both directions of an undirected edge.
        x: Raw node features, shape ``(N, F)``.
        remove_self_loops: Leave out the pairs of a node with itself.

    Raises:
        ValueError: If there is no edge, hence no pair.

    Example:
        >>> pairs = NeighborPairDataset(torch.tensor([[0, 1], [1, 0]]), torch.eye(2))
        >>> pairs[0]  # the neighbour, then the centre
        (tensor([0., 1.]), tensor([1., 0.]))
    """

    def __init__(self, edge_index: Tensor, x: Tensor, remove_self_loops: bool = False) -> None:
        if remove_self_loops:
            edge_index, _ = without_self_loops(edge_index)
        if edge_index.numel() == 0:
            raise ValueError("edge_index has no edge, so there are no (neighbour, centre) pairs to learn from")
        self.centre, self.neighbour = edge_index
        self.x = x

    def __len__(self) -> int:
        return len(self.centre)

    def __getitem__(self, index: int | list[int] | Tensor) -> tuple[Tensor, Tensor]:
        return self.x[self.neighbour[index]], self.x[self.centre[index]]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Gather a whole batch at once; a DataLoader with ``collate_fn=lambda batch: batch`` calls this."""
        return self[indices]


class NeighborDecoder(nn.Module):
    r"""The half of the generator that draws features: all that is needed once it is trained.

    .. math:: \hat x = \mathrm{act}(W_2 \, \mathrm{ReLU}(W_z z + W_c c + b) + b_2), \qquad z \sim \mathcal N(0, I)

    Args:
        in_channels: Number of node features F.
        hidden_channels: Width of the hidden layer.
        latent_dim: Size L of z.
        likelihood: ``"bernoulli"`` (features in [0, 1]) or ``"gaussian"`` (any real features).
        batch_norm: Batch normalisation after the hidden layer's product, as the paper uses on the OGB graphs.
        out_act: The last activation; by default sigmoid for Bernoulli, tanh for Gaussian, as the paper's.

    Raises:
        ValueError: If ``likelihood`` or ``out_act`` is none of the above, or a size is not positive.

    Source:
        Liu et al., *Local Augmentation for Graph Neural Networks*, ICML 2022, section 3.1, appendix B.

    Example:
        >>> x = torch.eye(5)
        >>> NeighborDecoder(in_channels=5).generate(x, num_samples=2).sum(dim=-1)  # two matrices, rows sum to one
        tensor([[1.0000, 1.0000, 1.0000, 1.0000, 1.0000],
                [1.0000, 1.0000, 1.0000, 1.0000, 1.0000]])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 256,
        latent_dim: int = 10,
        likelihood: Likelihood = "bernoulli",
        batch_norm: bool = False,
        out_act: OutAct | None = None,
    ) -> None:
        super().__init__()
        check_generator(hidden_channels, latent_dim, likelihood, out_act, in_channels)
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.out_act = out_act or ("sigmoid" if likelihood == "bernoulli" else "tanh")
        self.decoder = nn.Linear(latent_dim + in_channels, hidden_channels)
        self.decoder_norm = nn.BatchNorm1d(hidden_channels) if batch_norm else nn.Identity()
        self.output = nn.Linear(hidden_channels, in_channels)

    def condition(self, c: Tensor) -> Tensor:
        """The centre's share of the hidden layer, ``(N, hidden)``; with frozen weights it never changes."""
        return c @ self.decoder.weight[:, self.latent_dim :].t() + self.decoder.bias

    def hidden(self, z: Tensor, condition: Tensor) -> Tensor:
        """The hidden layer, ``(N, hidden)``, for latents ``(N, L)`` and conditions ``(N, hidden)``."""
        return self.decoder_norm(torch.addmm(condition, z, self.decoder.weight[:, : self.latent_dim].t())).relu()

    def _activate_(self, out: Tensor) -> Tensor:
        if self.out_act == "sigmoid":
            return out.sigmoid_()
        return out.tanh_() if self.out_act == "tanh" else out

    @torch.no_grad()
    def decode(self, z: Tensor, condition: Tensor, normalize: bool = True, out: Tensor | None = None) -> Tensor:
        """Decode latents into feature matrices, without gradients; on a CPU in blocks of rows that stay in its cache.

        Args:
            z: Latents, shape ``(*, N, L)``.
            condition: :meth:`condition` of the centres, shape ``(N, hidden)``.
            normalize: Divide every row by its sum.
            out: Where to write, contiguous, shape ``(*, N, F)``; allocated if ``None``.

        Returns:
            Generated features, shape ``(*, N, F)``.
        """
        if out is None:
            out = self.output.weight.new_empty(*z.shape[:-1], self.in_channels)
        block = ROWS_PER_BLOCK if z.device.type == "cpu" else z.shape[-2]
        for latent, matrix in zip(z.reshape(-1, *z.shape[-2:]), out.view(-1, *out.shape[-2:])):
            hidden = self.hidden(latent, condition)
            for h, rows in zip(hidden.split(block), matrix.split(block)):
                rows.copy_(self.output(h))  # half precision under autocast; what follows needs more
                self._activate_(rows)
                if normalize:
                    normalize_rows(rows)
        return out

    def generate(
        self, x: Tensor, num_samples: int = 1, generator: torch.Generator | None = None, normalize: bool = True
    ) -> Tensor:
        """Draw, for every node, features that a neighbour of it could have.

        Works for unseen nodes too: only their features are needed, no edges.

        Args:
            x: Raw features of the centres, dense or sparse, shape ``(N, F)``.
            num_samples: How many feature matrices to draw.
            generator: Source of randomness, on the device of ``x``; the global one if ``None``.
            normalize: Divide every row by its sum.

        Returns:
            Features without gradient, shape ``(num_samples, N, F)``.

        Raises:
            ValueError: If ``x`` has another number of features than the generator, or ``num_samples < 1``.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        if x.shape[-1] != self.in_channels:
            raise ValueError(
                f"x has {x.shape[-1]} features, the generator was built for in_channels={self.in_channels}"
            )
        with torch.no_grad():
            condition = self.condition(x)
        z = torch.randn(
            num_samples, len(x), self.latent_dim, generator=generator, device=x.device, dtype=condition.dtype
        )
        return self.decode(z, condition, normalize)


class NeighborCVAE(NeighborDecoder):
    r"""Conditional VAE of the features of a neighbour :math:`x` given those of the centre node :math:`c`.

    .. math::
        q(z \mid x, c) = \mathcal N\!\left(\mu(x, c), \sigma^2(x, c)\right), \qquad
        p(x \mid z, c) = \mathrm{dec}(z, c), \qquad z \sim \mathcal N(0, I)

    The decoder, and the drawing of features, is :class:`NeighborDecoder`; the encoder is its mirror image.

    Args:
        in_channels: Number of node features F.
        hidden_channels: Width of both hidden layers.
        latent_dim: Size L of z.
        likelihood: ``"bernoulli"`` (features in [0, 1], summed cross-entropy) or ``"gaussian"`` (any real features,
            summed squared error).
        batch_norm: Batch normalisation after each hidden layer's product.
        out_act: The decoder's last activation; by default sigmoid for Bernoulli, tanh for Gaussian.

    Raises:
        ValueError: If ``likelihood`` or ``out_act`` is none of the above, or a size is not positive.

    Source:
        Liu et al., ICML 2022, section 3.1, equations 3-5, appendix B.

    Example:
        >>> cvae = NeighborCVAE(in_channels=5)
        >>> x, c = torch.eye(5), torch.eye(5).roll(1, 0)  # each node and its only neighbour
        >>> sorted(cvae.elbo(x, c))
        ['kl', 'rec']
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 256,
        latent_dim: int = 10,
        likelihood: Likelihood = "bernoulli",
        batch_norm: bool = False,
        out_act: OutAct | None = None,
    ) -> None:
        super().__init__(in_channels, hidden_channels, latent_dim, likelihood, batch_norm, out_act)
        self.encoder = nn.Linear(2 * in_channels, hidden_channels)
        self.encoder_norm = nn.BatchNorm1d(hidden_channels) if batch_norm else nn.Identity()
        self.posterior = nn.Linear(hidden_channels, 2 * latent_dim)  # the mean's head and the log-variance's

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z, each ``(B, L)``, given the neighbour's and the centre's features ``(B, F)``."""
        hidden = self.encoder_norm(self.encoder(torch.cat([x, c], dim=1))).relu()
        mean, log_var = self.posterior(hidden).chunk(2, dim=1)
        return mean, log_var

    def elbo(self, x: Tensor, c: Tensor) -> dict[str, Tensor]:
        r"""The two parts of the negative evidence lower bound, in nats per pair.

        .. math:: \mathrm{rec} = -\tfrac1B \sum \log p(x \mid z, c), \qquad
                  \mathrm{kl} = -\tfrac1{2B} \sum (1 + \log\sigma^2 - \mu^2 - \sigma^2)

        Sums run over features and pairs and are divided by the number of pairs only: a mean over features would let
        the KL term win by a factor F, and the decoder would ignore z and c.

        Args:
            x: Features of the neighbours, ``(B, F)``; in [0, 1] for a Bernoulli likelihood.
            c: Features of the centres, ``(B, F)``.

        Returns:
            ``{"rec": ..., "kl": ...}``, scalars; their sum is the loss. The Gaussian's ``rec`` is the squared error.
        """
        mean, log_var = self.encode(x, c)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        out = self.output(self.hidden(z, self.condition(c)))
        if self.likelihood == "bernoulli":
            rec = F.binary_cross_entropy_with_logits(out, x, reduction="sum")
        else:
            rec = F.mse_loss(self._activate_(out), x, reduction="sum")
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum()
        return {"rec": rec / len(x), "kl": kl / len(x)}
