"""Reads checkpoints of StyleGAN2, without running anything that they may hold."""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.sgilo.stylegan2 import StyleGAN2

SHOWN = 5  # keys that an error lists
MADE_ANEW = re.compile(r"noises\.noise_\d+|.*\.kernel")  # what some converted files lack
OTHER_LAYOUT = ("synthesis.", "mapping.")


def load_stylegan2(path: str | Path, keep_skip: bool = True) -> StyleGAN2:
    """Read a checkpoint in the layout of ``rosinality/stylegan2-pytorch``: its averaged generator, ``g_ema``.

    Size, channels, size of the style and depth of the mapping network are found in the file. The mean style is read
    where there is one. Noises and filters that a file lacks are made anew.

    Args:
        path: Of the file.
        keep_skip: See :class:`~zoo.sgilo.StyleGAN2`.

    Returns:
        The network, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds more than tensors, or is laid out in another way; it tells the first keys that
            differ.
    """
    content = read_tensors(path)
    if not isinstance(content, Mapping) or "g_ema" not in content:
        raise ValueError(f"{path} must hold a generator under g_ema, got {_described(content)}")
    state = content["g_ema"]
    network = StyleGAN2(**layout_of(state), keep_skip=keep_skip)
    check_keys(state, network.state_dict())
    network.load_state_dict(state, strict=False)
    average = content.get("latent_avg")
    if average is not None:
        if tuple(average.shape) != (network.latent_dim,):
            raise ValueError(f"latent_avg must be of shape ({network.latent_dim},), got {tuple(average.shape)}")
        network.latent_avg = average
    return network.eval()


def read_tensors(path: str | Path) -> Any:
    """Read a file of ``torch.save`` that holds tensors, and the arguments of a training.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything else: that could run as code.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{path} must be a file of tensors; it is not read, as other contents could run as code: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error


def layout_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of :class:`~zoo.sgilo.StyleGAN2` that fit the tensors of a checkpoint.

    Raises:
        ValueError: If the tensors do not tell.

    Example:
        >>> net = StyleGAN2(size=16, style_dim=8, n_mlp=2, channels={4: 6, 8: 5, 16: 4})
        >>> layout_of(net.state_dict())
        {'size': 16, 'style_dim': 8, 'n_mlp': 2, 'channels': {4: 6, 8: 5, 16: 4}}
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"g_ema must be a state dict, got {type(state).__name__}")
    num_blocks = len([key for key in state if re.fullmatch(r"to_rgbs\.\d+\.bias", key)])
    n_mlp = len([key for key in state if re.fullmatch(r"style\.\d+\.weight", key)])
    needed = ["input.input", "style.1.weight", *(f"convs.{2 * block}.conv.weight" for block in range(num_blocks))]
    lacking = [key for key in needed if key not in state]
    if lacking or num_blocks == 0:
        raise ValueError(f"g_ema must have {', '.join(lacking[:SHOWN] or ['to_rgbs.0.bias'])}, got {_described(state)}")
    channels = {4: state["input.input"].shape[1]}
    channels |= {8 * 2**block: state[f"convs.{2 * block}.conv.weight"].shape[1] for block in range(num_blocks)}
    style_dim = state["style.1.weight"].shape[1]
    return {"size": 4 * 2**num_blocks, "style_dim": style_dim, "n_mlp": n_mlp, "channels": channels}


def check_keys(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a state dict that does not fit.

    Args:
        state: As read.
        expected: Of the network that it is meant for.

    Raises:
        ValueError: If keys are missing or unknown, or shapes differ; it tells the first of each.
    """
    missing = [key for key in expected if key not in state and not MADE_ANEW.fullmatch(key)]
    unknown = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)} in place of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    found = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    differences = [f"{name}: {', '.join(keys[:SHOWN])} ({len(keys)} in all)" for name, keys in found.items() if keys]
    if differences:
        raise ValueError(f"g_ema does not fit StyleGAN2; {'; '.join(differences)}")


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    keys = [str(key) for key in content]
    listed = f"the keys {', '.join(keys[:SHOWN])} ({len(keys)} in all)" if keys else "no keys"
    other = any(key.startswith(OTHER_LAYOUT) for key in keys)
    return listed + (", the layout of NVIDIA's own code (stylegan2-ada-pytorch), which is not read" if other else "")
