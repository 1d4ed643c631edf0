import numpy as np
import pytest
import torch

from datamodules.label_noise import (
    SUPERCLASSES,
    AsymmetricNoise,
    HumanNoise,
    RandomLabels,
    SymmetricNoise,
    TransitionMatrixNoise,
    noise_rate,
    read_human_labels,
)


def labels(num_classes=10, each=1000):
    return torch.arange(num_classes).repeat(each)


def noisy(noise, y, num_classes=10, seed=0):
    return noise(y, num_classes, torch.Generator().manual_seed(seed))


def confusion(y, changed, num_classes=10):
    counts = torch.zeros(num_classes, num_classes)
    return counts.index_put_((y, changed), torch.ones(len(y)), accumulate=True) / torch.bincount(y)[:, None]


@pytest.mark.parametrize(("inclusive", "rate"), [(True, 0.45), (False, 0.5)])
def test_symmetric_noise_has_its_rate_and_spares_no_class(inclusive, rate):
    y = labels(each=5000)
    changed = noisy(SymmetricNoise(0.5, inclusive), y)
    assert noise_rate(changed, y) == pytest.approx(rate, abs=0.01)
    wrong = confusion(y, changed).fill_diagonal_(torch.nan)
    assert wrong.nanmean() == pytest.approx(rate / 9, abs=1e-3)
    assert (wrong - rate / 9).nan_to_num().abs().max() < 0.02


def test_noise_is_the_seeds():
    y = labels()
    assert torch.equal(noisy(SymmetricNoise(0.4), y, seed=1), noisy(SymmetricNoise(0.4), y, seed=1))
    assert not torch.equal(noisy(SymmetricNoise(0.4), y, seed=1), noisy(SymmetricNoise(0.4), y, seed=2))
    assert torch.equal(noisy(SymmetricNoise(0.0), y), y)


def test_asymmetric_noise_flips_from_the_clean_labels():
    """Rewriting cats before dogs would send a part of them back."""
    y = labels()
    matrix = confusion(y, noisy(AsymmetricNoise(0.4), y))
    expected = torch.eye(10)
    for source, goal in {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}.items():
        expected[source, source], expected[source, goal] = 0.6, 0.4
    torch.testing.assert_close(matrix, expected)


def test_asymmetric_noise_takes_the_users_flips():
    y = labels(3)
    matrix = confusion(y, noisy(AsymmetricNoise(0.25, {0: 2}), y, 3), 3)
    torch.testing.assert_close(matrix, torch.tensor([[0.75, 0, 0.25], [0, 1, 0], [0, 0, 1]]))


def test_next_class_goes_round():
    y = labels(100, each=10)
    changed = noisy(AsymmetricNoise(0.4, "next_class"), y, 100)
    assert set((changed - y).tolist()) == {0, 1, -99}
    assert noise_rate(changed, y) == pytest.approx(0.4)


def test_superclasses_are_a_partition_and_flips_stay_within():
    assert sorted(label for members in SUPERCLASSES for label in members) == list(range(100))
    superclass = torch.empty(100, dtype=torch.long)
    for number, members in enumerate(SUPERCLASSES):
        superclass[list(members)] = number
    y = labels(100, each=10)
    changed = noisy(AsymmetricNoise(0.4, "cifar100_superclass"), y, 100)
    assert torch.equal(superclass[changed], superclass[y])
    assert noise_rate(changed, y) == pytest.approx(0.4)


def test_blocks_swap_two_classes_of_five():
    y = labels(100, each=10)
    changed = noisy(AsymmetricNoise(0.5, "cifar100_blocks"), y, 100)
    assert torch.equal(changed // 5, y // 5)
    assert noise_rate(changed, y) == pytest.approx(0.4 * 0.5)


def test_a_transition_matrix_is_followed():
    matrix = [[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]]
    y = labels(3, each=20000)
    torch.testing.assert_close(
        confusion(y, noisy(TransitionMatrixNoise(matrix), y, 3), 3), torch.tensor(matrix), atol=0.02, rtol=0
    )


def test_random_labels_know_nothing():
    y = labels(each=2000)
    assert noise_rate(noisy(RandomLabels(), y), y) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("noise", [SymmetricNoise, AsymmetricNoise])
def test_a_rate_lies_in_zero_to_one(noise, rate):
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\), got"):
        noise(rate)


def test_wrong_settings_are_told():
    with pytest.raises(ValueError, match="flips must be a mapping or one of cifar10"):
        AsymmetricNoise(0.4, "imagenet")
    with pytest.raises(ValueError, match=r"flips must map classes in \[0, 3\), got 0: 7"):
        noisy(AsymmetricNoise(0.4, {0: 7}), labels(3), 3)
    with pytest.raises(ValueError, match="square"):
        TransitionMatrixNoise([[1.0, 0.0]])
    with pytest.raises(ValueError, match="sum to one"):
        TransitionMatrixNoise([[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match="matrix must have 10 rows, got 2"):
        noisy(TransitionMatrixNoise([[1.0, 0.0], [0.0, 1.0]]), labels())
    with pytest.raises(ValueError, match="kind must be one of aggre"):
        HumanNoise("best")


@pytest.fixture
def human_file(tmp_path):
    clean = np.arange(10).repeat(5)
    content = {"clean_label": clean, "worse_label": (clean + 1) % 10, "aggre_label": clean}
    torch.save(content, tmp_path / "CIFAR-10_human.pt")
    return tmp_path / "CIFAR-10_human.pt"


def test_human_labels_are_read(human_file):
    y = torch.arange(10).repeat_interleave(5)
    assert noise_rate(noisy(HumanNoise("worse", str(human_file.parent)), y), y) == 1.0
    assert noise_rate(noisy(HumanNoise("aggre", str(human_file.parent)), y), y) == 0.0


@pytest.mark.parametrize("y", [torch.arange(10).repeat(5), torch.arange(10)])
def test_human_labels_of_other_images_are_refused(human_file, y):
    with pytest.raises(ValueError, match="in their original order"):
        noisy(HumanNoise("worse", str(human_file.parent)), y)


class Trap:
    def __reduce__(self):
        return (print, ("run by unpickling",))


def test_a_pickle_of_something_else_is_not_run(tmp_path, capsys):
    torch.save({"clean_label": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="cannot be read as CIFAR-N's labels"):
        read_human_labels(tmp_path / "trap.pt")
    assert "run by unpickling" not in capsys.readouterr().out


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10_human\.pt is missing"):
        noisy(HumanNoise(root=str(tmp_path)), labels())
