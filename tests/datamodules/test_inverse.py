import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer

from datamodules import (
    AveragePooling,
    BicubicDownsampling,
    BoxInpainting,
    GaussianSensing,
    Grayscale,
    Identity,
    ImageBatch,
    InverseProblemDataModule,
    MaskInpainting,
    PartialCirculant,
    RandomInpainting,
    measured,
)

SHAPE = (3, 8, 12)
BATCH = 4
DIGITS = {"name": "digits", "val_fraction": 0.1, "batch_size": 32, "seed": 0}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def double_operators():
    """Every operator on images of three channels, with float64 buffers."""
    mask = torch.rand(SHAPE[1:], generator=rng()) < 0.3
    made = {
        "identity": Identity(SHAPE),
        "mask": MaskInpainting(SHAPE, mask),
        "random pixels": RandomInpainting(SHAPE, 30, generator=rng()),
        "random pixels of each": RandomInpainting(SHAPE, 30, BATCH, rng()),
        "box": BoxInpainting(SHAPE, 5),
        "box of each": BoxInpainting(SHAPE, 5, BATCH, rng()),
        "average pooling": AveragePooling(SHAPE, 4),
        "bicubic": BicubicDownsampling(SHAPE, 2),
        "gaussian": GaussianSensing(SHAPE, 40, rng()),
        "circulant": PartialCirculant(SHAPE, 40, rng()),
        "circulant, odd": PartialCirculant((1, 3, 5), 7, rng()),
        "grayscale": Grayscale(SHAPE),
    }
    return {name: operator.double() for name, operator in made.items()}


@pytest.mark.parametrize("name", double_operators())
def test_the_adjoint_is_the_transpose(name):
    operator = double_operators()[name]
    x = torch.randn(2 * BATCH, *operator.input_shape, dtype=torch.float64, generator=rng(1))
    y = torch.randn(2 * BATCH, operator.num_measurements, dtype=torch.float64, generator=rng(2))
    measurements, images = operator(x), operator.adjoint(y)
    assert measurements.shape == y.shape
    assert images.shape == x.shape
    torch.testing.assert_close((measurements * y).sum(1), (x * images).flatten(1).sum(1))


@pytest.mark.parametrize("name", double_operators())
def test_operators_are_linear_and_differentiate_to_their_adjoint(name):
    operator = double_operators()[name]
    x = torch.randn(BATCH, *operator.input_shape, dtype=torch.float64, generator=rng(1), requires_grad=True)
    y = torch.randn(BATCH, operator.num_measurements, dtype=torch.float64, generator=rng(2))
    torch.testing.assert_close(operator(2 * x + 1) - operator(torch.ones_like(x)), 2 * operator(x))
    torch.testing.assert_close(torch.autograd.grad((operator(x) * y).sum(), x)[0], operator.adjoint(y))


@pytest.mark.parametrize("name", double_operators())
def test_the_state_dict_holds_all_that_is_random(name):
    operator = double_operators()[name]
    x = torch.randn(BATCH, *operator.input_shape, dtype=torch.float64, generator=rng(1))
    other = {
        "random pixels": RandomInpainting(SHAPE, 30, generator=rng(5)),
        "random pixels of each": RandomInpainting(SHAPE, 30, BATCH, rng(5)),
        "box of each": BoxInpainting(SHAPE, 5, BATCH, rng(5)),
        "gaussian": GaussianSensing(SHAPE, 40, rng(5)),
        "circulant": PartialCirculant(SHAPE, 40, rng(5)),
    }.get(name)
    if other is None:
        assert torch.equal(operator(x), double_operators()[name](x))  # nothing is random
        return
    other = other.double()
    assert not torch.equal(other(x), operator(x))
    other.load_state_dict(operator.state_dict())
    assert torch.equal(other(x), operator(x))


def test_masks_show_whole_pixels_at_as_many_places_as_asked_for():
    operator = RandomInpainting(SHAPE, 30, BATCH, rng())
    assert operator.mask.shape == (BATCH, *SHAPE[1:])
    assert operator.mask.sum((1, 2)).tolist() == [10] * BATCH
    assert len({tuple(one.flatten().tolist()) for one in operator.mask}) == BATCH
    x = torch.rand(BATCH, *SHAPE, generator=rng(1))
    torch.testing.assert_close(operator.adjoint(operator(x)), x * operator.mask.unsqueeze(1))


def test_boxes_hide_a_square_that_fits_at_any_place():
    operator = BoxInpainting((1, 6, 9), 4, 2000, rng())
    hidden = ~operator.mask
    assert hidden.sum((1, 2)).unique().tolist() == [16]
    rows, columns = hidden.any(2).float().argmax(1), hidden.any(1).float().argmax(1)
    assert (rows.unique().tolist(), columns.unique().tolist()) == ([0, 1, 2], [0, 1, 2, 3, 4, 5])
    assert ((hidden.any(2).sum(1) == 4) & (hidden.any(1).sum(1) == 4)).all()


def test_bicubic_downsampling_is_that_of_torch():
    x = torch.rand(2, 3, 16, 24, generator=rng())
    operator = BicubicDownsampling((3, 16, 24), 4)
    expected = F.interpolate(x, scale_factor=0.25, mode="bicubic", antialias=True)
    torch.testing.assert_close(operator(x).view(2, *operator.output_shape), expected)


def test_average_pooling_is_that_of_torch():
    x = torch.rand(2, *SHAPE, generator=rng())
    torch.testing.assert_close(AveragePooling(SHAPE, 4)(x), F.avg_pool2d(x, 4).flatten(1))


def test_the_circulant_operator_is_a_matrix_whose_rows_are_shifts_of_the_filter():
    operator = PartialCirculant((1, 3, 4), 5, rng()).double()
    place = torch.arange(12)
    matrix = operator.filter[(place[:, None] - place) % 12] * operator.signs
    x = torch.rand(2, 1, 3, 4, dtype=torch.float64, generator=rng(1))
    torch.testing.assert_close(operator(x), x.flatten(1) @ matrix[operator.kept].mT)


@pytest.mark.parametrize("kind", [GaussianSensing, PartialCirculant])
def test_random_measurements_keep_the_mean_square_of_an_image(kind):
    x = torch.rand(1, *SHAPE, generator=rng())
    squares = torch.stack([kind(SHAPE, 100, rng(seed))(x).square().sum() for seed in range(100)])
    assert squares.mean().item() == pytest.approx(x.square().sum().item(), rel=0.1)


def test_a_batch_may_come_several_times_over_but_not_in_part():
    operator = RandomInpainting(SHAPE, 30, BATCH, rng())
    x = torch.rand(BATCH, *SHAPE, generator=rng(1))
    assert torch.equal(operator(x.repeat(3, 1, 1, 1)), operator(x).repeat(3, 1))
    with pytest.raises(ValueError, match="x must be a batch of 4, or several copies of it"):
        operator(x[:3])
    with pytest.raises(ValueError, match="y must be a batch of 4"):
        operator.adjoint(torch.zeros(5, 30))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianSensing(SHAPE, 0), "num_measurements must be from 1 to 288, the numbers of an image, got 0"),
        (lambda: GaussianSensing(SHAPE, 289), "num_measurements must be from 1 to 288"),
        (lambda: PartialCirculant(SHAPE, 289), "num_measurements must be from 1 to 288"),
        (lambda: RandomInpainting(SHAPE, 31), "num_measurements must be a multiple of 3, the channels, .* got 31"),
        (lambda: RandomInpainting(SHAPE, 291), "num_measurements must be a multiple of 3, .* from 3 to 288, got 291"),
        (lambda: RandomInpainting(SHAPE, 30, 0), "batch_size must be at least 1, got 0"),
        (lambda: BoxInpainting(SHAPE, 9), "box_size must be from 1 to 8"),
        (lambda: BoxInpainting((1, 4, 4), 4), "box_size must be from 1 to 4 and leave a pixel to see, got 4"),
        (lambda: MaskInpainting(SHAPE, torch.zeros(8, 12, dtype=torch.bool)), "mask must show .* at least 1"),
        (lambda: MaskInpainting(SHAPE, torch.ones(8, 12)), "mask must be boolean"),
        (lambda: MaskInpainting(SHAPE, torch.ones(8, 11, dtype=torch.bool)), "mask must be boolean, of shape"),
        (lambda: AveragePooling(SHAPE, 3), "factor must be at least 1 and divide 8 and 12, got 3"),
        (lambda: BicubicDownsampling(SHAPE, 0), "factor must be at least 1"),
        (lambda: Grayscale((1, 4, 4)), "input_shape must have 3 channels to take the colour from, got 1"),
        (lambda: Identity((4, 4)), "input_shape must be channels, height and width"),
        (lambda: Identity(SHAPE)(torch.zeros(2, 3, 8, 8)), r"x must be of shape \(N, 3, 8, 12\)"),
        (lambda: Identity(SHAPE).adjoint(torch.zeros(2, 7)), r"y must be of shape \(N, 288\), got \(2, 7\)"),
    ],
)
def test_operators_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_masks_must_show_equally_much_of_every_image():
    mask = torch.ones(2, 8, 12, dtype=torch.bool)
    mask[1, 0, 0] = False
    with pytest.raises(ValueError, match=r"mask must show the same number of pixels .* got 285 to 288"):
        MaskInpainting(SHAPE, mask)


def test_noise_has_the_standard_deviation_asked_for():
    x = torch.rand(50, *SHAPE, generator=rng())
    operator = Identity(SHAPE)
    assert (measured(x, operator, 0.3, rng(1)) - operator(x)).std().item() == pytest.approx(0.3, rel=0.03)
    assert torch.equal(measured(x, operator), operator(x))


def problems(**arguments):
    settings = {"task": "random_inpainting", "num_measurements": [8, 16], "num_images": 6, "num_draws": 2}
    return InverseProblemDataModule(**{**settings, **DIGITS, **arguments})


def test_a_problem_is_images_of_the_test_measured_with_noise():
    data = problems(noise_std=0.1, num_draws=3)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert [batch.operator.num_measurements for batch in batches] == [8, 8, 8, 16, 16, 16]
    for batch in batches:
        torch.testing.assert_close(batch.x, data.parts["test"].x[batch.index].permute(0, 3, 1, 2) / 255)
        assert 0.05 < (batch.y - batch.operator(batch.x)).std() < 0.15
    first, second = batches[0], batches[1]
    assert not set(first.index.tolist()) & set(second.index.tolist())
    assert not torch.equal(first.operator.mask, second.operator.mask)
    assert torch.equal(first.index, batches[3].index)


def test_the_problems_of_a_seed_are_the_same_whatever_else_is_asked_for():
    few, many = problems(num_measurements=16, num_draws=1), problems(num_draws=3)
    alone, among = next(iter(few.test_dataloader())), list(many.test_dataloader())[3]
    assert torch.equal(alone.y, among.y)
    assert torch.equal(alone.operator.mask, among.operator.mask)
    again = list(many.test_dataloader())[3]
    assert torch.equal(again.y, among.y)
    other = problems(seed=1).problem(16, 0)
    assert not torch.equal(other.y, alone.y)


def test_problems_may_be_of_validation_images():
    data = problems(problems_from="val")
    batch = next(iter(data.test_dataloader()))
    torch.testing.assert_close(batch.x, data.parts["val"].x[batch.index].permute(0, 3, 1, 2) / 255)


def test_training_batches_are_images_in_the_unit_interval():
    batch = next(iter(problems().train_dataloader()))
    assert isinstance(batch, ImageBatch)
    assert (batch.x.min(), batch.x.max()) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"task": "gaussian", "num_measurements": 5}, 5),
        ({"task": "circulant", "num_measurements": None, "measurement_ratio": 0.25}, 16),
        ({"task": "random_inpainting", "num_measurements": None, "measurement_ratio": 0.1}, 6),
        ({"task": "box_inpainting", "num_measurements": None, "box_size": 3}, 64 - 9),
        ({"task": "average_pooling", "num_measurements": None, "factor": 2}, 16),
        ({"task": "bicubic", "num_measurements": None, "factor": 4}, 4),
        ({"task": "identity", "num_measurements": None}, 64),
    ],
)
def test_every_task_has_its_operator(arguments, count):
    batch = next(iter(problems(**arguments).test_dataloader()))
    assert batch.operator.num_measurements == count
    assert batch.y.shape == (6, count)


def test_the_trainer_is_given_every_problem_with_its_operator():
    class Solver(LightningModule):
        def test_step(self, batch, batch_idx):
            found = batch.operator.adjoint(batch.y)
            self.log(f"error/{batch_idx}", (found - batch.x).square().mean())

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (metrics,) = trainer.test(Solver(), problems(noise_std=0.0), verbose=False)
    expected = [
        (batch.x * ~batch.operator.mask.unsqueeze(1)).square().mean().item()
        for batch in problems(noise_std=0.0).test_dataloader()
    ]
    assert list(metrics.values()) == pytest.approx(expected)


def test_processes_share_the_problems():
    whole, shares = problems(num_draws=3), [problems(num_draws=3) for _ in range(4)]
    for rank, share in enumerate(shares):
        share._world = lambda rank=rank: (4, rank)
    found = [[batch.index.tolist() for batch in share.test_dataloader()] for share in shares]
    expected = [batch.index.tolist() for batch in whole.test_dataloader()]
    assert [len(one) for one in found] == [2, 2, 1, 1]
    assert [found[i % 4][i // 4] for i in range(6)] == expected


def test_the_description_tells_task_measurements_noise_and_images():
    assert problems().description.endswith("random inpainting of 8, 16, noise 0.05, 2 x 6 test images)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "deblurring"}, "task must be one of random_inpainting, .*, got 'deblurring'"),
        ({"num_measurements": None}, "exactly one of them must be given for random_inpainting, got None and None"),
        ({"measurement_ratio": 0.1}, "exactly one of them must be given"),
        ({"task": "identity"}, "neither must be given for identity"),
        ({"num_measurements": None, "measurement_ratio": 0.0}, r"measurement_ratio must be in \(0, 1\], got 0.0"),
        ({"num_measurements": None, "measurement_ratio": math.nan}, "measurement_ratio must be in"),
        ({"factor": 2}, "factor must not be given for random_inpainting, got 2"),
        ({"task": "bicubic", "num_measurements": None}, "factor must be given for bicubic, got None"),
        ({"task": "box_inpainting", "num_measurements": None}, "box_size must be given for box_inpainting"),
        ({"noise_std": -0.1}, "noise_std must be >= 0, got -0.1"),
        ({"noise_std": math.nan}, "noise_std must be >= 0"),
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"num_draws": 0}, "num_draws must be at least 1, got 0"),
        ({"problems_from": "train"}, "problems_from must be test or val, got 'train'"),
    ],
)
def test_problems_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        problems(**arguments)


def test_more_images_than_there_are_is_an_error_before_the_test():
    with pytest.raises(ValueError, match=r"num_images times num_draws must be at most .*, the test images, got 200"):
        problems(num_images=200, num_draws=9).setup("test")


@pytest.mark.filterwarnings("ignore:TRAINING ON A STAND-IN")
def test_a_stand_in_gives_what_it_has():
    data = problems(name="mnist", if_unavailable="stand_in", num_images=10_000, num_measurements=16)
    number = len(data.parts["test"]) // 2
    assert data.problem(16, 1).y.shape == (number, 16)
    assert f"2 x {number} test images" in data.description
