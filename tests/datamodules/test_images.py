import numpy as np
import pytest
import torch

from datamodules.images import KINDS, digits, digits_like, missing_files, read_arrays, read_images, resize_images


def arrays(num=20, shape=(32, 32, 3), num_classes=10):
    rng = np.random.default_rng(0)
    return {
        f"{kind}_{part}": rng.integers(256, size=(num, *shape), dtype=np.uint8) if kind == "x" else np.arange(num) % 10
        for part in ("train", "test")
        for kind in ("x", "y")
    }


def test_an_array_file_is_read_as_it_is(tmp_path):
    content = arrays()
    np.savez(tmp_path / "cifar10.npz", **content)
    images = read_images("cifar10", tmp_path)
    assert np.array_equal(images.x_train.numpy(), content["x_train"])
    assert np.array_equal(images.y_test.numpy(), content["y_test"])
    assert images.num_classes == 10


def test_an_array_file_of_ones_own_may_be_grey_and_of_any_size(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays(shape=(7, 9)))
    images = read_images("mine.npz", tmp_path)
    assert images.x_train.shape == (20, 7, 9, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None}, "it lacks x_test; it has x_train, y_test, y_train"),
        ({"x_train": np.zeros((20, 32, 32, 3), np.float32)}, "x_train must be uint8, got float32"),
        ({"x_train": np.zeros((20, 32), np.uint8)}, r"x_train must have the shape \(N, H, W\) or \(N, H, W, C\)"),
        (
            {"x_train": np.zeros((20, 28, 28), np.uint8)},
            r"x_train must have images of \(32, 32, 3\), got \(28, 28, 1\)",
        ),
        ({"x_train": np.zeros((19, 32, 32, 3), np.uint8)}, "y_train must have one label for each of 19 images"),
        ({"y_train": np.zeros(20)}, "y_train must hold integers, got float64"),
        ({"y_train": np.full(20, 10)}, r"y_train must lie in \[0, 10\), got values from 10 to 10"),
        ({"y_test": np.full(20, -1)}, r"y_test must lie in \[0, 10\), got values from -1 to -1"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test holds no image"),
    ],
)
def test_an_array_file_with_something_wrong_is_refused(tmp_path, change, message):
    content = {name: value for name, value in (arrays() | change).items() if value is not None}
    np.savez(tmp_path / "cifar10.npz", **content)
    with pytest.raises(ValueError, match=f"cifar10.npz cannot be used: {message}"):
        read_images("cifar10", tmp_path)


def test_an_array_file_of_pickles_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **(arrays() | {"x_train": np.array([object()])}))
    with pytest.raises(ValueError, match="cannot be used"):
        read_images("cifar10", tmp_path)


def test_a_truncated_array_file_is_refused(tmp_path):
    np.savez(tmp_path / "whole.npz", **arrays())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut.npz cannot be used"):
        read_arrays(tmp_path / "cut.npz")


def test_idx_files_are_read(mnist):
    images = read_images("mnist", mnist)
    assert images.x_train.shape == (12, 28, 28, 1)
    assert images.y_train.tolist() == [*range(10), 0, 1]


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("length", [3, 14, 17])
def test_truncated_idx_files_are_refused(mnist, file, length):
    path = mnist / "MNIST/raw" / file
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"the files of MNIST in .* are damaged"):
        read_images("mnist", mnist)


def test_missing_files_are_named(mnist):
    (mnist / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    assert missing_files("mnist", mnist) == ["MNIST/raw/t10k-labels-idx1-ubyte"]
    assert len(missing_files("cifar10", mnist)) == 7
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte is missing"):
        read_images("mnist", mnist)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_images("mine.npz", mnist)


def test_the_digits_are_real_and_balanced():
    images = digits()
    assert len(images.y_train) + len(images.y_test) == 1797
    assert torch.bincount(images.y_test).min() >= 34
    assert images.x_train.max() == 255


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_digits_take_the_size_of_what_they_stand_in_for(name):
    assert digits_like(KINDS[name]).x_train.shape[1:] == KINDS[name].shape


def test_a_smaller_image_is_an_average():
    x = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8)
    expected = x.float().view(2, 4, 2, 4, 2, 3).mean(dim=(2, 4)).round().to(torch.uint8)
    assert torch.equal(resize_images(x, (4, 4)), expected)
    assert torch.equal(resize_images(x, (8, 8)), x)
