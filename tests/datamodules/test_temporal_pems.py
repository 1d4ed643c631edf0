import numpy as np
import pytest
import torch

from datamodules import PeMSDataModule


@pytest.fixture
def pems_root(tmp_path):
    folder = tmp_path / "pems04"
    folder.mkdir()
    traffic = np.random.default_rng(0).random((600, 6, 3)).astype(np.float32) * [300, 1, 70]
    np.savez(folder / "pems04.npz", data=traffic)
    (folder / "distance.csv").write_text("from,to,cost\n0,1,310.5\n1,0,310.5\n1,2,100\n4,5,20\n4,5,20\n")
    return tmp_path


def test_pairs_are_there_once_in_both_directions(pems_root):
    pairs, weights = PeMSDataModule("04", pems_root).sequence.edges
    assert pairs.t().tolist() == [[1, 0], [0, 1], [2, 1], [1, 2], [5, 4], [4, 5]]
    assert weights.flatten().tolist() == [310.5, 310.5, 100, 100, 20, 20]


def test_features_are_measurements_and_the_clock(pems_root):
    features = PeMSDataModule("04", pems_root).sequence.features
    assert features.shape == (600, 6, 5)
    assert features[:, 0, 3].tolist()[286:290] == [1430, 1435, 0, 5]
    assert features[[0, 287, 288, 576], 0, 4].tolist() == [0, 0, 1, 2]


def test_a_batch_has_one_graph_many_times(pems_root):
    data = PeMSDataModule("04", pems_root, batch_size=8)
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == (48, 12, 5)
    assert batch.y.shape == (48, 3)
    assert batch.present is None
    assert batch.edge_attr.shape == (48, 1)
    assert 0 <= batch.edge_attr.min() < batch.edge_attr.max() <= 1
    assert data.num_targets == 3
    assert len(data.target_range) == 3


def test_edges_that_stay_reach_the_model_as_the_same_tensors(pems_root):
    data = PeMSDataModule("04", pems_root, batch_size=8)
    batches = iter(data.train_dataloader())
    moved = [data.transfer_batch_to_device(next(batches), torch.device("cpu"), 0) for _ in range(2)]
    assert moved[0].edge_index is moved[1].edge_index
    assert moved[0].edge_attr is moved[1].edge_attr
    assert moved[0].x is not moved[1].x


def test_nodes_may_be_split(pems_root):
    with pytest.raises(ValueError, match="split leaves no val part of 6"):
        PeMSDataModule("04", pems_root, split="node").setup("fit")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"PeMS08 is not available: there is no .*pems08.npz and no .*distance.csv"
    ):
        PeMSDataModule("08", tmp_path).prepare_data()


def test_the_stand_in_has_the_form_of_the_data(tmp_path):
    data = PeMSDataModule("08", tmp_path, if_unavailable="stand_in", batch_size=2)
    with pytest.warns(UserWarning, match="NOT ON PEMS08"):
        data.setup("fit")
    assert "STAND-IN for PeMS08" in data.description
    assert data.sequence.features.shape == (864, 170, 5)
    assert torch.isfinite(data.sequence.features).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from,to,cost\n0,9,1\n", "line 2 names detectors outside 0 to 5"),
        ("from,to,cost\n0,x,1\n", "line 2: expected from, to, cost"),
        ("from,to,cost\n", "lists no pair of detectors"),
    ],
)
def test_a_wrong_list_of_distances_is_named(pems_root, text, message):
    (pems_root / "pems04/distance.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        PeMSDataModule("04", pems_root).setup("fit")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.zeros((3, 2, 3))}, "must be an array file with an entry 'data'"),
        ({"data": np.zeros((3, 2))}, r"must hold data of shape \(steps, detectors, 3\), got \(3, 2\)"),
        ({"data": np.full((30, 6, 3), np.nan)}, "holds values that are not finite"),
    ],
)
def test_a_wrong_array_file_is_named(pems_root, arrays, message):
    np.savez(pems_root / "pems04/pems04.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        PeMSDataModule("04", pems_root).setup("fit")


def test_a_district_must_be_known():
    with pytest.raises(ValueError, match="district must be one of 04, 08, got '07'"):
        PeMSDataModule("07")
