import importlib.util
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "examples"
MAX_LINES = 40


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_runs_by_itself(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[0].startswith('"""')
    assert lines[-2:] == ['if __name__ == "__main__":', "    main()"]


def test_adai_learns_in_a_plain_loop():
    assert example("adai_in_a_plain_loop").main(epochs=3) > 0.8


def test_the_probes_measure_a_module_of_ones_own():
    collapse, path = example("probes_on_your_own_module").main(epochs=2, images=100)
    assert collapse.history[1]["nc/nc1"] > 0
    assert path.final_metrics["path/distance"] > 0


def test_acg_and_apgd_attack_a_network_of_torchvision():
    accuracy = example("acg_on_a_torchvision_classifier").main(epochs=1, images=20)
    assert accuracy["ACG"] < accuracy["clean"]
    assert accuracy["APGD"] < accuracy["clean"]


def test_orthogonal_and_equilibrium_layers_work_in_a_network_of_ones_own():
    accuracy, net = example("orthogonal_and_equilibrium_layers").main(epochs=2)
    assert accuracy > 0.7
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(net.convs(x).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-4)
    assert net.deq.forward_stats.converged.all()


def test_sop_finds_wrong_labels_in_a_plain_loop():
    accuracy, auc = example("sop_in_a_plain_loop").main(epochs=15)
    assert accuracy > 0.7
    assert auc > 0.8


def test_local_augmentation_works_around_a_network_that_is_not_ours():
    assert example("local_augmentation_around_your_own_gnn").main(epochs=20, generator_epochs=1) > 0.4  # chance 0.25
