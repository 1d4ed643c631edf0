import io

import pytest
from rich.console import Console

from zoo.claims import Measurement, Run
from zoo.runner import Task
from zoo.watch import Estimate, Watch

DONE: set[str] = set()


class FakeTask(Task):
    def measurement(self):
        run = self.run
        if self.key not in DONE:
            return None
        return Measurement(run.recipe, run.seed, {}, {}, {"test/acc": 0.8125}, "", "cpu", 30.0, {}, "", "")


@pytest.fixture
def tasks(tmp_path):
    DONE.clear()
    DONE.add("0")
    return [FakeTask(Run("gcn", seed), str(seed), tmp_path) for seed in range(4)]


def shown(view):
    console = Console(file=io.StringIO(), width=120)
    console.print(view)
    return console.file.getvalue()


def test_time_to_go_is_shared_among_workers_and_never_less_than_the_longest_run():
    estimate = Estimate(workers=2)
    assert estimate.left(["a"], []) is None
    estimate.learn("a", 10.0)
    estimate.learn("a", 20.0)
    estimate.learn("b", 90.0)
    assert estimate.left(["a", "a"], []) == pytest.approx(15.0)
    assert estimate.left([], [("b", 30.0)]) == pytest.approx(60.0)
    assert estimate.left(["new"], []) == pytest.approx(40.0 / 2)  # the mean of all that are known
    assert estimate.left([], [("a", 100.0)]) == 0.0


def test_the_live_view_shows_done_running_left_and_time_to_go(tasks):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Watch(tasks, tasks[1:], workers=2, console=console) as watch:
        watch.started(tasks[1])
        watch.started(tasks[2])
        watch.waited()
        text = shown(watch.view())
        assert "1 done, 2 running, 1 left, 0:45 to go" in text
        assert "gcn seed=2" in text
        DONE.add("1")
        watch.ended(tasks[1], "")
        watch.ended(tasks[2], "log\nboom")
        text = shown(watch.view())
        assert "3 done, 0 running, 1 left, 1 failed, 0:15 to go" in text


def test_where_there_is_no_terminal_every_run_has_a_line(tasks):
    console = Console(file=io.StringIO(), width=200)
    with Watch(tasks, tasks[1:], workers=2, console=console) as watch:
        watch.started(tasks[1])
        DONE.add("1")
        watch.ended(tasks[1], "")
        watch.started(tasks[2])
        watch.ended(tasks[2], "log\nboom")
        watch.given_up([tasks[3]])
        watch.waited()
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "1 of 4 runs are there; 3 to do, 2 at a time",
        "[2/4] gcn seed=1: test/acc 0.8125, 0 s",
        "[3/4] gcn seed=2: FAILED: boom, 0 s",
    ]
