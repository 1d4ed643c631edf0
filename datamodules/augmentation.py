"""Augmentation of whole batches of images on their device: every image is cropped and mirrored by its own draw."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy


def random_crop_flip(x: Tensor, padding: int = 4, flip: bool = True) -> Tensor:
    """Cut a window of the same size out of each image, padded with zeros, and mirror every other one on average.

    A window is a run of bytes in every row, so all windows are views of one strided tensor, and choosing one for each
    image is a single copy.

    Args:
        x: Images, shape ``(B, H, W, C)``, contiguous.
        padding: Pixels on each side; 0 cuts nothing.
        flip: Whether images are mirrored left to right.

    Returns:
        The windows, shape ``(B, H, W, C)``.

    Example:
        >>> x = torch.arange(2 * 3 * 3).view(2, 3, 3, 1)
        >>> random_crop_flip(x, padding=0, flip=False).equal(x)
        True
    """
    batch, height, width, channels = x.shape
    image = torch.arange(batch, device=x.device)
    if flip:
        x = torch.cat([x, x.flip(2)])
        image = image + batch * torch.randint(2, (batch,), device=x.device)
    if not padding:
        return x.index_select(0, image)
    x = F.pad(x, (0, 0, padding, padding, padding, padding))
    rows, columns = height + 2 * padding, width + 2 * padding
    num_starts = len(x) * rows * columns - (height - 1) * columns - (width - 1)
    windows = x.view(-1).as_strided((num_starts, height, width * channels), (channels, columns * channels, 1))
    top, left = torch.randint(2 * padding + 1, (2, batch), device=x.device)
    return windows.index_select(0, (image * rows + top) * columns + left).view(batch, height, width, channels)


def normalize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale bytes to floats whose channels have the mean 0 and the standard deviation 1 over the dataset.

    Args:
        x: Images, shape ``(B, H, W, C)``, uint8.
        mean: Mean of each channel in [0, 1], shape ``(C,)``.
        std: Its standard deviation, shape ``(C,)``.

    Returns:
        The images, shape ``(B, C, H, W)``, float32, in the memory format channels-last.

    Example:
        >>> x = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1)
        >>> normalize(x, torch.tensor([0.5]), torch.tensor([0.25])).flatten()
        tensor([-2.,  2.])
    """
    batch, height, width, channels = x.shape
    scale, shift = 1 / (255 * std), -mean / std
    rows = x.view(batch, height, width * channels).float()  # long rows: a broadcast over three channels is slow
    rows.mul_(scale.repeat(width)).add_(shift.repeat(width))
    return rows.view(x.shape).permute(0, 3, 1, 2)


def auto_augment(x: Tensor, group_size: int = 8) -> Tensor:
    """AutoAugment's policy for CIFAR-10. The images of a random group share one draw of the policy.

    Args:
        x: Images, shape ``(B, H, W, C)``, uint8.
        group_size: Images in a group; 1 draws anew for each image, and takes as long as it must.

    Returns:
        The augmented images, shape ``(B, H, W, C)``, uint8.

    Source:
        Cubuk et al., *AutoAugment: Learning Augmentation Policies from Data*, CVPR 2019.
    """
    transform = AutoAugment(AutoAugmentPolicy.CIFAR10)
    order = torch.randperm(len(x), device=x.device)
    groups = [transform(group) for group in x[order].permute(0, 3, 1, 2).split(group_size)]
    augmented = torch.empty_like(x)
    augmented[order] = torch.cat(groups).permute(0, 2, 3, 1)
    return augmented


def cutout(x: Tensor, size: int = 16) -> Tensor:
    """Set a square around a random pixel of each image to zero; at the border less than the whole square remains.

    Args:
        x: Images, shape ``(B, C, H, W)``.
        size: Side of the square in pixels.

    Returns:
        The images with a hole, shape ``(B, C, H, W)``.

    Source:
        DeVries and Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout*, 2017.

    Example:
        >>> cutout(torch.ones(1, 1, 4, 4), size=8).sum()
        tensor(0.)
    """
    inside = [_near(length, size, len(x), x.device) for length in x.shape[-2:]]
    return x.masked_fill(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0)


def _near(length: int, size: int, batch: int, device: torch.device) -> Tensor:
    """Which of ``length`` positions lie in a run of ``size`` around a random one, ``(B, length)``."""
    start = torch.randint(length, (batch, 1), device=device) - size // 2
    position = torch.arange(length, device=device)
    return (position >= start) & (position < start + size)
