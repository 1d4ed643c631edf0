"""A workplace of its own for every test: an empty folder, no data, no generator, no network."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of the test. What a test forgets to provide is not fetched: the port is closed."""
    folder = tmp_path_factory.mktemp("workplace")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(folder / "cache"))
    monkeypatch.setattr("torch_geometric.datasets.Planetoid.url", "http://127.0.0.1:9/data")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder
