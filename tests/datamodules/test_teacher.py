import pytest
import torch

from datamodules import TeacherDataModule
from datamodules.teacher import teacher_scores


@pytest.mark.parametrize("teacher", ["linear", "relu"])
@pytest.mark.parametrize("num_train", [500, 501])
def test_labels_are_signs_that_halve_the_training_samples(teacher, num_train):
    batch = TeacherDataModule(teacher, num_problems=3, num_train=num_train, num_test=200, seed=0).train
    assert batch.x.shape == (3, num_train, 30)
    assert set(batch.y.unique().tolist()) == {-1.0, 1.0}
    assert (batch.y == 1).sum(1).tolist() == [num_train // 2] * 3


def test_a_linear_teacher_is_found_by_least_squares_and_a_relu_teacher_is_not():
    def residual(teacher):
        x = torch.randn(400, 10, generator=torch.Generator().manual_seed(0))
        scores = teacher_scores(x, teacher, generator=torch.Generator().manual_seed(1))
        fit = torch.linalg.lstsq(x, scores.unsqueeze(1)).solution
        return ((x @ fit).squeeze() - scores).norm() / scores.norm()

    assert residual("linear") < 1e-5
    assert residual("relu") > 0.3


def test_held_out_samples_have_the_same_teacher_and_threshold():
    data = TeacherDataModule("linear", num_train=2000, num_test=500, dim=3, seed=0)
    direction = (data.train.y[0, :, None] * data.train.x[0]).mean(0)
    assert ((data.test.x[0] @ direction).sign() == data.test.y[0]).float().mean() > 0.97


def test_problems_differ_and_do_not_depend_on_how_many_there_are():
    two, three = (TeacherDataModule("relu", num_problems=n, num_train=20, num_test=30, seed=0) for n in (2, 3))
    assert torch.equal(two.test.x, three.test.x[:2])
    assert torch.equal(two.train.y, three.train.y[:2])
    assert not torch.equal(three.train.x[0], three.train.x[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "cnn"}, "teacher must be one of linear, relu, got 'cnn'"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"num_test": 0}, "num_test must be at least 1, got 0"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TeacherDataModule(**options)
