"""How far features, class means and weights have collapsed, for many replicas at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.unconstrained_features.model import UnconstrainedFeatures

TINY = 1e-10  # class means shorter than this have no direction


def class_means(features: Tensor, num_classes: int) -> Tensor:
    """Means ``(S, d, K)`` of features ``(S, d, N)`` whose columns are class by class, equally many of each."""
    return features.unflatten(-1, (num_classes, -1)).mean(-1)


def centred(means: Tensor) -> Tensor:
    """Class means ``(S, d, K)`` less their mean."""
    return means - means.mean(-1, keepdim=True)


def gram(means: Tensor) -> Tensor:
    """Inner products ``(S, K, K)`` of class means ``(S, d, K)``."""
    return means.mT @ means


def variability(features: Tensor, num_classes: int) -> Tensor:
    r"""NC1, the scatter within classes over that between classes, :math:`\mathrm{tr}(\Sigma_W \Sigma_B^\dagger) / K`.

    Args:
        features: Shape ``(S, d, N)``, class by class, equally many of each.
        num_classes: Number of classes K.

    Returns:
        Shape ``(S,)``; NaN where all class means are the same.

    Example:
        >>> features = torch.kron(torch.eye(3), torch.tensor([2.0, 4.0]))  # two samples of each class
        >>> variability(features[None], 3)  # 2 / 27
        tensor([0.0741])
    """
    means = class_means(features, num_classes)
    deviations = (features.unflatten(-1, (num_classes, -1)) - means.unsqueeze(-1)).flatten(-2)
    directions, lengths, _ = torch.linalg.svd(centred(means), full_matrices=False)
    within = (directions.mT @ deviations).square().mean(-1)
    longest = lengths[..., :1]
    ratios = torch.where(lengths > 1e-8 * longest, within / lengths.square(), 0.0)
    return torch.where(longest.squeeze(-1) > TINY, ratios.sum(-1), torch.nan)


def frame_distance(matrix: Tensor, frame: Tensor, tiny: float = TINY**2) -> Tensor:
    r"""Distance of two matrices' directions, :math:`\|A / \|A\|_F - B / \|B\|_F\|_F`.

    Args:
        matrix: Shape ``(S, K, K)``.
        frame: Shape ``(K, K)``, not zero.
        tiny: Norm below which a matrix counts as zero.

    Returns:
        Shape ``(S,)``, in [0, 2]; NaN where the matrix is zero.
    """
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    distance = torch.linalg.matrix_norm(matrix / norm - frame / torch.linalg.matrix_norm(frame))
    return torch.where(norm.flatten() > tiny, distance, torch.nan)


def of_distance(matrix: Tensor) -> Tensor:
    """Distance ``(S,)`` of matrices ``(S, K, K)`` from multiples of I, the Gram matrix of an orthogonal frame (OF).

    Example:
        >>> of_distance((torch.eye(4) - 0.25)[None])  # that of the ETF: sqrt(2 - 2 sqrt(3 / 4))
        tensor([0.5176])
    """
    return frame_distance(matrix, torch.eye(matrix.shape[-1]).to(matrix))


def etf_distance(matrix: Tensor) -> Tensor:
    """Distance ``(S,)`` of matrices ``(S, K, K)`` from multiples of I - J, the Gram matrix of a simplex ETF."""
    return frame_distance(matrix, torch.eye(matrix.shape[-1]).to(matrix) - 1 / matrix.shape[-1])


def self_duality(weight: Tensor, means: Tensor) -> Tensor:
    r"""Squared distance of directions, :math:`\|W / \|W\|_F - \bar H^\top / \|\bar H\|_F\|_F^2`.

    Args:
        weight: Shape ``(S, K, d)``.
        means: Class means, shape ``(S, d, K)``.

    Returns:
        Shape ``(S,)``; NaN where one of them is zero.
    """
    norms = [torch.linalg.matrix_norm(matrix, keepdim=True) for matrix in (weight, means)]
    distance = (weight / norms[0] - (means / norms[1]).mT).square().sum((1, 2))
    return torch.where(torch.minimum(*norms).flatten() > TINY, distance, torch.nan)


@torch.no_grad()
def measures(model: UnconstrainedFeatures) -> dict[str, Tensor]:
    """What there is to see of a model, each ``(S,)``; NaN where a direction is asked of what has collapsed to zero.

    ``objective`` and ``gradient``, its norm; ``gap``, the objective less the minimum in closed form, where it is known;
    ``diagonal`` and ``off_diagonal``, the mean logits of the true and of other classes; ``weights``, the norm of all
    weights; with a bias its mean ``bias``, ``bias_error``, its largest distance from the closed form, and ``nc4_bias``,
    the norm of the logits of the mean feature. For the features of every layer l, and the product of the weights above:

    - ``H<l>/nc1``: :func:`variability`.
    - ``H<l>/of``, ``H<l>/etf``: distance of the class means' Gram matrix from that of an orthogonal frame and of a
      simplex ETF; ``H<l>/etf_centred``, the latter after the mean of the class means is taken off.
    - ``H<l>/alignment``: :func:`self_duality` of the weights' product and the class means.
    - ``H<l>/norm``: mean squared norm of the class means.
    - ``H<l>/gram_error``: distance of the Gram matrix from the closed form, relative to the latter unless that is 0.
    - With ReLU ``H<l>/nuclear_ratio``: nuclear norm of the layer's features before the ReLU over that after it.
    """
    model.set_gradients()
    found = {
        "objective": model(),
        "gradient": norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None]),
        "weights": norm(list(model.weights)),
    }
    num_classes = model.problem.num_classes
    logits = class_means(model.outputs(), num_classes)
    found["diagonal"] = logits.diagonal(dim1=1, dim2=2).mean(1)
    found["off_diagonal"] = (logits.sum((1, 2)) / num_classes - found["diagonal"]) / (num_classes - 1)
    try:
        solution = model.closed_form()
    except NotImplementedError:
        solution = None
    if solution is not None:
        found["gap"] = found["objective"] - solution.objective.to(logits)
    if model.bias is not None:
        found["bias"] = model.bias.mean(1)
        found["nc4_bias"] = logits.mean(2).norm(dim=1)
        if solution is not None:
            found["bias_error"] = (model.bias - solution.bias.to(logits)[:, None]).abs().amax(1)
    product = torch.eye(num_classes).to(logits).expand(len(logits), -1, -1)
    layers = model.layer_features()
    for index in reversed(range(model.problem.depth)):
        product = product @ model.weights[index]
        of_layer = layer_measures(layers[index], product, num_classes)
        if solution is not None:
            of_layer["gram_error"] = relative_error(class_means(layers[index], num_classes), solution.grams[:, index])
        if model.problem.activation and index > 0:
            before = torch.linalg.matrix_norm(model.weights[index - 1] @ layers[index - 1], "nuc")
            of_layer["nuclear_ratio"] = before / torch.linalg.matrix_norm(layers[index], "nuc")
        found |= {f"H{index + 1}/{name}": value for name, value in of_layer.items()}
    return found


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Norm ``(S,)`` of all numbers that belong to a replica, in tensors ``(S, *)``."""
    return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1).norm(dim=1)


def layer_measures(features: Tensor, product: Tensor, num_classes: int) -> dict[str, Tensor]:
    """What :func:`measures` has of a layer with these features ``(S, d, N)`` and weights ``(S, K, d)`` above them."""
    means = class_means(features, num_classes)
    return {
        "nc1": variability(features, num_classes),
        "of": of_distance(gram(means)),
        "etf": etf_distance(gram(means)),
        "etf_centred": etf_distance(gram(centred(means))),
        "alignment": self_duality(product, means),
        "norm": means.square().sum(1).mean(1),
    }


def relative_error(means: Tensor, expected: Tensor) -> Tensor:
    """Distance ``(S,)`` of Gram matrices from the expected ones, relative to these unless they are zero."""
    expected = expected.to(means)
    scale = torch.linalg.matrix_norm(expected)
    return torch.linalg.matrix_norm(gram(means) - expected) / torch.where(scale == 0, 1.0, scale)
