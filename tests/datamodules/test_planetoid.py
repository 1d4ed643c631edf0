import io
import pickle
import time
import warnings

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch_geometric.io import read_planetoid_data

from datamodules import PlanetoidDataModule
from datamodules.planetoid_raw import raw_files

SMALL = {"split": "random", "num_train_per_class": 4, "num_val": 30, "num_test": 40}


class Linear(pl.LightningModule):
    """A row-wise classifier that notes which batches it gets."""

    def __init__(self, datamodule):
        super().__init__()
        self.linear = torch.nn.Linear(datamodule.num_features, datamodule.num_classes)
        self.batches = []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return F.cross_entropy(self.linear(batch.x)[batch.train_mask], batch.y[batch.train_mask])

    def validation_step(self, batch, batch_idx):
        self.batches.append(batch)
        self.log("val/loss", F.cross_entropy(self.linear(batch.x), batch.y), batch_size=1)

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.linear(batch.x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **arguments):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(max_epochs=3, default_root_dir=tmp_path, **{"accelerator": "cpu", **quiet, **arguments})


@pytest.mark.parametrize("name", ["pubmed", "citeseer"])
def test_reading_agrees_with_the_reader_of_pyg(name, root):
    datamodule = PlanetoidDataModule(name, root=root)
    ours, theirs = datamodule.data, read_planetoid_data(str(datamodule.folder), name)
    assert torch.equal(ours.raw_x, theirs.x)
    assert torch.equal(ours.edge_index, theirs.edge_index.flip(0))  # theirs is symmetric too, sorted by column
    for key in ("y", "train_mask", "val_mask", "test_mask"):
        assert torch.equal(ours[key], theirs[key])


def test_edges_are_symmetric_sorted_and_distinct(root):
    graph = PlanetoidDataModule("pubmed", root=root).data
    assert graph.is_undirected()
    assert graph.is_coalesced()
    assert graph.num_edges == 2 * 650  # a ring


def test_self_loops_stay_if_asked_for(root):
    graph = PlanetoidDataModule("pubmed", root=root, remove_self_loops=False).data
    loops = graph.edge_index[:, graph.edge_index[0] == graph.edge_index[1]]
    assert loops.tolist() == [[0], [0]]
    assert graph.num_edges == 2 * 650 + 1


def test_rows_are_normalised_and_zero_rows_stay_zero(root):
    graph = PlanetoidDataModule("citeseer", root=root).data
    sums = graph.x.sum(dim=1)
    torch.testing.assert_close(sums, (graph.raw_x.sum(dim=1) > 0).float())
    assert (sums == 0).sum() == 5
    torch.testing.assert_close(graph.x * graph.raw_x.sum(dim=1, keepdim=True), graph.raw_x)


def test_features_can_stay_as_read(root):
    graph = PlanetoidDataModule("pubmed", root=root, normalize_features=False).data
    assert torch.equal(graph.x, graph.raw_x)
    assert not torch.allclose(graph.x.sum(dim=1), torch.ones(650))


def test_the_public_split_is_that_of_the_files(root):
    graph = PlanetoidDataModule("pubmed", root=root).data
    assert graph.train_mask.nonzero().flatten().tolist() == list(range(60))
    assert graph.val_mask.nonzero().flatten().tolist() == list(range(60, 560))
    assert graph.test_mask.nonzero().flatten().tolist() == list(range(600, 650))


def test_the_full_split_trains_on_all_other_labelled_nodes(root):
    graph = PlanetoidDataModule("citeseer", root=root, split="full").data
    assert graph.train_mask.sum() == 100  # 60 of the public split and 40 without a role in it, not the 5 undescribed
    assert not (graph.train_mask & (graph.val_mask | graph.test_mask)).any()
    assert graph.labeled_mask[graph.train_mask].all()


def test_the_random_split_has_the_asked_sizes_and_follows_its_seed(root):
    first, again, other = (PlanetoidDataModule("pubmed", root=root, **SMALL, seed=seed).data for seed in (1, 1, 2))
    assert [int(first[f"{part}_mask"].sum()) for part in ("train", "val", "test")] == [12, 30, 40]
    assert torch.equal(first.train_mask, again.train_mask)
    assert not torch.equal(first.train_mask, other.train_mask)


def test_properties_describe_the_graph(root):
    datamodule = PlanetoidDataModule("PubMed", root=root)
    assert (datamodule.num_features, datamodule.num_classes, datamodule.is_stand_in) == (12, 3, False)
    assert datamodule.description == "PubMed (650 nodes, 1,300 edges, public split)"


def test_nothing_is_written_beside_the_raw_files(root):
    before = sorted(root.rglob("*"))
    _ = PlanetoidDataModule("pubmed", root=root).data
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_every_stage_gets_the_same_graph_in_the_precision_of_the_trainer(precision, root, tmp_path):
    # Another precision than the data's also makes sure that tensors first placed in a validation can be trained on.
    datamodule = PlanetoidDataModule("pubmed", root=root)
    model = Linear(datamodule)
    runner = trainer(tmp_path, precision=precision)
    runner.fit(model, datamodule=datamodule)
    runner.test(model, datamodule=datamodule, verbose=False)
    runner.predict(model, datamodule=datamodule)
    assert len(model.batches) == 1 + 2 * 3 + 1 + 1  # sanity check, three epochs, test, predict: one batch each
    assert all(batch is model.batches[0] for batch in model.batches)
    assert model.batches[0].x.dtype == model.linear.weight.dtype
    assert datamodule.data.x.dtype == torch.float32


def test_the_loader_leaves_the_global_random_state_alone(root):
    datamodule = PlanetoidDataModule("pubmed", root=root)
    state = torch.get_rng_state()
    assert [batch is datamodule.data for batch in datamodule.train_dataloader()] == [True]
    assert torch.equal(torch.get_rng_state(), state)


def test_more_than_one_device_is_an_error(root):
    datamodule = PlanetoidDataModule("pubmed", root=root)
    datamodule.trainer = pl.Trainer(accelerator="cpu", devices=2, logger=False, enable_checkpointing=False)
    with pytest.raises(MisconfigurationException, match="among 2 devices"):
        datamodule.setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "coral"}, "name must be one of cora, citeseer, pubmed, got 'coral'"),
        ({"split": "geom-gcn"}, "split must be one of public, full, random, got 'geom-gcn'"),
        ({"if_unavailable": "skip"}, "if_unavailable must be one of error, stand_in, got 'skip'"),
        ({"split": "random", "num_train_per_class": 0}, "num_train_per_class must be at least 1, got 0"),
        ({"split": "random", "num_val": -1}, "num_val must be at least 1, got -1"),
        ({"split": "random", "num_test": -5}, "num_test must be at least 1, got -5"),
        ({"num_val": 300}, "num_val=300 needs split='random'; the public split has sizes of its own"),
    ],
)
def test_bad_arguments_are_errors_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        PlanetoidDataModule(**arguments)


def test_a_random_split_larger_than_the_graph_is_an_error(root):
    datamodule = PlanetoidDataModule("pubmed", root=root, **{**SMALL, "num_test": 1000})
    with pytest.raises(ValueError, match=r"num_val \+ num_test must be at most 638"):
        _ = datamodule.data


# Data that is not there


def test_absent_data_is_an_error_that_names_the_cures(tmp_path):
    start = time.perf_counter()
    datamodule = PlanetoidDataModule("cora", root=tmp_path)
    with pytest.raises(FileNotFoundError) as raised:
        _ = datamodule.num_features
    for part in (str(tmp_path), "planetoid/Cora/raw", "network", "ZOO_DATA", "--data.if_unavailable stand_in"):
        assert part in str(raised.value)
    assert time.perf_counter() - start < 5
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_is_not_tried_again(tmp_path, monkeypatch):
    urls = []

    def fetch(url):
        urls.append(url)
        raise TimeoutError("timed out")

    monkeypatch.setattr("datamodules.planetoid_raw._fetch", fetch)
    datamodule = PlanetoidDataModule("cora", root=tmp_path)
    for _ in range(3):
        with pytest.raises(FileNotFoundError, match="timed out"):
            _ = datamodule.num_classes
    assert len(urls) == 1


def test_the_stand_in_comes_with_one_warning_and_is_named(tmp_path):
    datamodule = PlanetoidDataModule("cora", root=tmp_path, if_unavailable="stand_in")
    with pytest.warns(UserWarning, match="STAND-IN, NOT ON CORA"):
        datamodule.prepare_data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datamodule.is_stand_in
        assert datamodule.description.startswith(
            "STAND-IN for Cora: generated stochastic-block-model citation graph (2,708"
        )
    assert (datamodule.num_features, datamodule.num_classes) == (1433, 7)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 3])
def test_missing_files_are_downloaded_whole(kept, root, tmp_path, monkeypatch):
    server = root / "planetoid/PubMed/raw"
    monkeypatch.setattr("torch_geometric.datasets.Planetoid.url", server.as_uri())
    datamodule = PlanetoidDataModule("pubmed", root=tmp_path / "fresh")
    datamodule.folder.mkdir(parents=True)
    for path in list(raw_files(server, "pubmed").values())[:kept]:
        (datamodule.folder / path.name).write_bytes(path.read_bytes())
    datamodule.prepare_data()
    assert not datamodule.is_stand_in
    assert {path.name: path.read_bytes() for path in datamodule.folder.iterdir()} == {
        path.name: path.read_bytes() for path in server.iterdir()
    }


@pytest.mark.parametrize("broken", ["absent", "not the data"])
def test_a_broken_download_leaves_nothing_that_looks_whole(broken, root, tmp_path, monkeypatch):
    server = root / "planetoid/PubMed/raw"
    monkeypatch.setattr("torch_geometric.datasets.Planetoid.url", server.as_uri())
    last = server / "ind.pubmed.test.index"
    if broken == "absent":
        last.unlink()
    else:
        last.write_text("<html>please log in</html>\n")
    datamodule = PlanetoidDataModule("pubmed", root=tmp_path / "fresh")
    with pytest.raises(FileNotFoundError, match="all raw files are missing"):
        datamodule.prepare_data()
    assert [path for path in (tmp_path / "fresh").rglob("*") if path.is_file()] == []


def test_files_missing_from_a_set_are_named(root):
    datamodule = PlanetoidDataModule("pubmed", root=root)
    (datamodule.folder / "ind.pubmed.graph").unlink()
    with pytest.raises(FileNotFoundError, match=r"ind\.pubmed\.graph is missing"):
        datamodule.prepare_data()


def test_a_read_only_root_is_read(root):
    folders = [path for path in root.rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert PlanetoidDataModule("pubmed", root=root).num_features == 12
    finally:
        for folder in folders:
            folder.chmod(0o755)


# Data that is broken


def _truncate(content):
    return content[: len(content) // 2]


def _unknown_class(content):
    return b"cno_such_module\nThing\n."


def _pickled(value):
    buffer = io.BytesIO()
    pickle.dump(value, buffer)
    return lambda content: buffer.getvalue()


@pytest.mark.parametrize("if_unavailable", ["error", "stand_in"])
@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("allx", _truncate),
        ("graph", _truncate),
        ("test.index", _truncate),
        ("y", lambda content: b""),
        ("tx", _unknown_class),
        ("ally", _pickled(torch.zeros(3, 3).numpy())),
        ("y", _pickled([1, 2])),
        ("ty", _pickled(torch.zeros(50).numpy())),
        ("graph", _pickled([[1], [0]])),
        ("graph", _pickled({0: [99999], 99999: [0]})),
        ("graph", _pickled({0: 5})),
        ("test.index", lambda content: content.replace(b"601\n", b"602\n")),
        ("test.index", lambda content: content.replace(b"601\n", b"1\n")),
        ("test.index", lambda content: content.replace(b"601\n", b"six\n")),
    ],
)
def test_a_corrupt_file_is_named_and_never_replaced(part, damage, if_unavailable, root):
    datamodule = PlanetoidDataModule("pubmed", root=root, if_unavailable=if_unavailable)
    path = datamodule.folder / f"ind.pubmed.{part}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="corrupt raw file") as raised:
        _ = datamodule.data
    assert path.name in str(raised.value)
    assert "delete it" in str(raised.value)
