"""The raw Planetoid files: eight a dataset, fetched whole or not at all, checked as they are read."""

import os
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid
from torch_geometric.io.planetoid import read_file
from torch_geometric.utils import index_to_mask, to_undirected

PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
NUM_VAL = 500
TIMEOUT = 10.0  # seconds of silence from the server; without a network the answer comes sooner


def raw_files(folder: Path, name: str) -> dict[str, Path]:
    """The eight raw files by part, whether or not they exist.

    Args:
        folder: The folder of the raw files.
        name: ``"cora"``, ``"citeseer"`` or ``"pubmed"``.

    Returns:
        The path of every part, in the order of :data:`PARTS`.

    Example:
        >>> raw_files(Path("raw"), "cora")["test.index"].name
        'ind.cora.test.index'
    """
    return {part: folder / f"ind.{name}.{part}" for part in PARTS}


def missing_files(folder: Path, name: str) -> list[str]:
    """The names of the raw files that are not there.

    Args:
        folder: The folder of the raw files.
        name: ``"cora"``, ``"citeseer"`` or ``"pubmed"``.

    Returns:
        The file names, empty for a whole set.
    """
    return [path.name for path in raw_files(folder, name).values() if not path.is_file()]


def download(folder: Path, name: str) -> None:
    """Fetch the eight raw files. They appear in ``folder`` when all have come and read well; else nothing changes.

    Args:
        folder: The folder of the raw files, made if need be.
        name: ``"cora"``, ``"citeseer"`` or ``"pubmed"``.

    Raises:
        OSError: If the server cannot be reached, or the folder cannot be written.
        HTTPException: If an answer breaks off.
        ValueError: If what came is not the dataset (a login page, say).
    """
    contents = {path.name: _fetch(f"{Planetoid.url}/{path.name}") for path in raw_files(folder, name).values()}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as fresh:
        for file_name, content in contents.items():
            (Path(fresh) / file_name).write_bytes(content)
        read_planetoid(Path(fresh), name)
        for file_name in contents:
            os.replace(Path(fresh) / file_name, folder / file_name)


def download_failure(folder: Path, name: str) -> str | None:
    """Make sure of the raw files, by a download where any is missing.

    Args:
        folder: The folder of the raw files.
        name: ``"cora"``, ``"citeseer"`` or ``"pubmed"``.

    Returns:
        ``None`` if all files are there now, else what is missing and why it could not be fetched.
    """
    missing = missing_files(folder, name)
    if not missing:
        return None
    try:
        download(folder, name)
    except (OSError, HTTPException, ValueError) as error:
        which = "all raw files are" if len(missing) == len(PARTS) else f"{', '.join(missing)} is"
        return f"{which} missing in {folder}, and the download from {Planetoid.url} failed ({error})"
    return None


def read_planetoid(folder: Path, name: str, remove_self_loops: bool = True) -> Data:
    """Read one citation graph with its public split.

    Nodes that no file describes (CiteSeer has 15) get a zero feature row and label 0, as in
    :func:`torch_geometric.io.read_planetoid_data`, which differs in that it always removes self loops and does not
    say which file is broken.

    Args:
        folder: The folder of the raw files.
        name: ``"cora"``, ``"citeseer"`` or ``"pubmed"``.
        remove_self_loops: Leave out the edges from a node to itself (CiteSeer's file holds 124).

    Returns:
        The graph: ``x`` ``(N, F)`` as stored, float32; ``edge_index`` ``(2, E)``, symmetric, sorted, without
        duplicates; ``y`` ``(N,)``; ``train_mask``, ``val_mask``, ``test_mask`` ``(N,)``;
        ``labeled_mask`` ``(N,)``, the nodes whose label is known.

    Raises:
        ValueError: If a file cannot be read or the files disagree in their shapes; the message names the files.
    """
    paths = raw_files(folder, name)
    parts = {part: _read_part(folder, name, part) for part in PARTS}
    _check_shapes(parts, paths)
    num_train, num_known, test_index = len(parts["y"]), len(parts["ally"]), parts["test.index"]
    num_nodes = int(test_index.max()) + 1

    x = torch.zeros(num_nodes, parts["allx"].size(1))
    one_hot = torch.zeros(num_nodes, parts["ally"].size(1))
    x[:num_known], x[test_index] = parts["allx"], parts["tx"]
    one_hot[:num_known], one_hot[test_index] = parts["ally"], parts["ty"]
    return Data(
        x=x,
        edge_index=_edge_index(parts["graph"], num_nodes, remove_self_loops, paths["graph"]),
        y=one_hot.argmax(dim=1),
        train_mask=index_to_mask(torch.arange(num_train), num_nodes),
        val_mask=index_to_mask(torch.arange(num_train, num_train + NUM_VAL), num_nodes),
        test_mask=index_to_mask(test_index, num_nodes),
        labeled_mask=one_hot.any(dim=1),
    )


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        return response.read()  # read in one piece, it raises when the connection breaks off


def _read_part(folder: Path, name: str, part: str) -> Any:
    path = raw_files(folder, name)[part]
    try:
        content = read_file(str(folder), name, part)
    except OSError:
        raise  # not readable is not corrupt; the error names the file
    except Exception as error:  # a broken pickle raises what it likes
        raise _corrupt(path, f"cannot be read ({error})") from error
    dimensions = 1 if part == "test.index" else 2
    if part == "graph" and not isinstance(content, dict):
        raise _corrupt(path, f"holds a {type(content).__name__}, not a dictionary")
    if part != "graph" and content.dim() != dimensions:
        raise _corrupt(path, f"holds {content.dim()} dimensions, not {dimensions}")
    return content


def _check_shapes(parts: dict[str, Any], paths: dict[str, Path]) -> None:
    """Raise unless rows, columns and node numbers of the parts fit one another."""
    agreements = [("x", "y", 0), ("tx", "ty", 0), ("allx", "ally", 0), ("tx", "test.index", 0)]
    agreements += [("x", "allx", 1), ("tx", "allx", 1), ("y", "ally", 1), ("ty", "ally", 1)]
    for one, other, dim in agreements:
        if parts[one].size(dim) != parts[other].size(dim):
            shapes = f"{tuple(parts[one].shape)} against {tuple(parts[other].shape)}"
            raise _corrupt(paths[one], f"does not fit {paths[other].name}: {shapes}")
    num_known, test_index = len(parts["allx"]), parts["test.index"]
    if len(test_index) == 0 or test_index.min() < num_known or len(test_index.unique()) < len(test_index):
        raise _corrupt(paths["test.index"], f"must hold distinct node numbers from {num_known} up")
    if len(parts["y"]) + NUM_VAL > num_known:
        raise _corrupt(paths["allx"], f"has {num_known} rows, fewer than training and validation nodes")


def _edge_index(graph: dict[int, list[int]], num_nodes: int, remove_self_loops: bool, path: Path) -> Tensor:
    try:
        edges = [(node, neighbor) for node, neighbors in graph.items() for neighbor in neighbors]
        edge_index = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).t()
    except (TypeError, ValueError, RuntimeError) as error:
        raise _corrupt(path, f"is not a dictionary from nodes to lists of nodes ({error})") from error
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < num_nodes:
        raise _corrupt(path, f"names nodes outside 0 to {num_nodes - 1}")
    if remove_self_loops:
        edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    return to_undirected(edge_index, num_nodes=num_nodes)  # sorts and drops duplicates as well


def _corrupt(path: Path, problem: str) -> ValueError:
    return ValueError(f"corrupt raw file {path}: {problem}; delete it, so that it is fetched anew, or replace it")
