import pytest

from zoo.momentum_margin import Setting, settings_of, sweep_table


def test_one_value_serves_all_settings():
    assert settings_of(1.0, [0.0, 0.9]) == [Setting(1.0, 0.0), Setting(1.0, 0.9)]
    assert settings_of([1.0, 0.1], 0.5) == [Setting(1.0, 0.5), Setting(0.1, 0.5)]
    assert settings_of([1.0, 0.1], [0.0, 0.5]) == [Setting(1.0, 0.0), Setting(0.1, 0.5)]
    assert settings_of(1, 0) == [Setting(1, 0)]


def test_a_rate_of_the_heavy_ball_counts_the_more_the_more_momentum():
    (plain, heavy) = settings_of(0.01, [0.0, 0.99], lr_convention="heavy_ball")
    assert plain == Setting(0.01, 0.0)
    assert heavy.lr == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([1.0, 2.0, 3.0], [0.0, 0.5]),
            r"momentum must be one number, or one for each of 3 settings, got \[0.0",
        ),
        (([], 0.0), "lr must be one number"),
        (([1.0, float("nan")], 0.0), "lr must be > 0 and finite, got nan"),
        ((1.0, [0.0, 1.0]), r"momentum must be in \[0, 1\), got 1.0"),
        ((1.0, 0.0, "sgd"), "lr_convention must be one of ema, heavy_ball, got 'sgd'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        settings_of(*arguments)


def test_the_table_has_a_row_for_each_replica_in_order():
    curves = {f"test/acc/{i}": ([0.0, 9.0], [0.5, 0.1 * i]) for i in reversed(range(4))}
    curves |= {f"loss/{i}": ([9.0], [float(i)]) for i in range(4)}
    table = sweep_table(curves, settings_of(1.0, [0.0, 0.9]))
    assert [(row["problem"], row["setting"]) for row in table] == [
        (0, "lr 1, momentum 0"),
        (0, "lr 1, momentum 0.9"),
        (1, "lr 1, momentum 0"),
        (1, "lr 1, momentum 0.9"),
    ]
    assert [row["loss"] for row in table] == [0.0, 1.0, 2.0, 3.0]
    assert [row["test/acc"] for row in sweep_table(curves, ["a", "b"], at=0)] == [0.5] * 4
