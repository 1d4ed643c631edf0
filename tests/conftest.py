"""A workplace of its own for every test: an empty folder, no data, no generator, no network."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of the test. What a test forgets to provide is not fetched: the port is closed."""
    folder = tmp_path_factory.mktemp("workplace")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(folder / "cache"))
    monkeypatch.setattr("torch_geometric.datasets.Planetoid.url", "http://127.0.0.1:9/data")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for protocol in ("http", "https"):  # of other servers, and for the processes that a test starts
        monkeypatch.setenv(f"{protocol}_proxy", "http://127.0.0.1:9")
    return folder


NUM_TRAIN, NUM_KNOWN, NUM_TEST, NUM_FEATURES, NUM_CLASSES = 60, 600, 50, 12, 3


def write_raw(folder: Path, name: str, unknown_nodes: int = 0) -> None:
    """Write ``ind.<name>.*``: real features, a symmetric ring with a self loop and a duplicate at node 0."""
    rng = np.random.default_rng(0)
    num_nodes = NUM_KNOWN + NUM_TEST + unknown_nodes
    inner = np.arange(NUM_KNOWN, num_nodes - 1)
    unknown = rng.choice(inner, unknown_nodes, replace=False)
    test_index = rng.permutation(np.setdiff1d(np.arange(NUM_KNOWN, num_nodes), unknown))

    allx, tx = (sp.csr_matrix(rng.random((rows, NUM_FEATURES)).astype(np.float32)) for rows in (NUM_KNOWN, NUM_TEST))
    ally, ty = (np.eye(NUM_CLASSES, dtype=np.int32)[np.arange(rows) % NUM_CLASSES] for rows in (NUM_KNOWN, NUM_TEST))
    graph = {node: [(node - 1) % num_nodes, (node + 1) % num_nodes] for node in range(num_nodes)}
    graph[0] += [0, 1]
    parts = {"x": allx[:NUM_TRAIN], "tx": tx, "allx": allx, "y": ally[:NUM_TRAIN], "ty": ty, "ally": ally}

    folder.mkdir(parents=True, exist_ok=True)
    for part, content in {**parts, "graph": graph}.items():
        (folder / f"ind.{name}.{part}").write_bytes(pickle.dumps(content))
    (folder / f"ind.{name}.test.index").write_text("".join(f"{node}\n" for node in test_index))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a small PubMed, Cora, and CiteSeer, which has five undescribed nodes, written by the test."""
    write_raw(tmp_path / "planetoid/PubMed/raw", "pubmed")
    write_raw(tmp_path / "planetoid/Cora/raw", "cora")
    write_raw(tmp_path / "planetoid/CiteSeer/raw", "citeseer", unknown_nodes=5)
    return tmp_path
