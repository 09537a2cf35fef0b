import math
from collections import Counter
from types import SimpleNamespace

import pytest
from micro_run import MICRO, QUIET, call, libraries_as_before
from tunewell.pipelines.mixture import training_items
from tunewell.pipelines.report_data import build_report
from tunewell.pipelines.reward_losses import _measured, _summary
from tunewell.toolkit.files import read_json
from tunewell.toolkit.world.tasks import HELD_OUT, TASKS, task_items

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
BASE = [one for one in MICRO if one.startswith("base.")]


def test_no_arm_of_the_mixture_trains_on_what_is_measured_nor_on_a_task_held_out():
    asked = {item.prompt for task in TASKS for item in task_items(task, 20, 0, part="measured")}
    bare = {
        (task, item.prompt) for task in TASKS for item in task_items(task, 20, 0, part="measured", instructed=False)
    }  # tasks may share their words: what tells them apart is the instruction
    single, uninstructed, mixture = (training_items(arm, 90, 3, measured=20)
                                     for arm in ("single", "uninstructed", "mixture"))  # fmt: skip
    assert not asked & {item.prompt for item in [*single, *mixture]}
    assert not bare & {(item.task, item.prompt) for item in uninstructed}
    for items in (uninstructed, mixture):
        assert Counter(item.task for item in items) == {task: 10 for task in TASKS if task not in HELD_OUT}
    assert {item.task for item in single} == {"first"} and len(single) == len(mixture) == 90
    assert all("Say" in item.prompt or "Count" in item.prompt for item in mixture)
    assert not any("Say" in item.prompt or "Count" in item.prompt for item in uninstructed)
    assert training_items("mixture", 90, 3, measured=20) == mixture


def test_every_answer_of_a_task_is_right_and_no_wrong_one_is():
    checks = {
        "last": lambda words: words[-1], "second": lambda words: words[1], "first": lambda words: words[0],
        "longest": lambda words: max(words, key=len), "shortest": lambda words: min(words, key=len),
        "backwards": lambda words: " ".join(words[::-1]),
    }  # fmt: skip
    for task, right in checks.items():
        for item in task_items(task, 30, 1):
            words = item.prompt.split(": ")[2].split("\n")[0].rstrip("?").split()
            assert item.answer == f" {right(words)}." and item.answer not in item.wrong
            assert len(item.wrong) >= 2


def test_held_out_pairs_are_measured_by_hand():
    scores = {1: 2.0, 2: 0.0, 3: 0.0, 4: -1.0}
    trainer = SimpleNamespace(scores_of=lambda sequences: [scores[ids[0]] for ids in sequences])
    examples = [{"completions_ids": [[1], [2], [3]], "better": [0, 1], "worse": [1, 2], "row": 0},
                {"completions_ids": [[4], [1]], "better": [0], "worse": [1], "row": 5}]  # fmt: skip
    found = _measured(trainer, examples)
    assert found["right"] == [1.0, 0.5, 0.0] and found["group"] == [0, 0, 5]
    assert found["loss"] == pytest.approx([math.log1p(math.exp(-2)), math.log(2), math.log1p(math.exp(3))])
    assert _summary([found, found | {"right": [1.0, 1.0, 1.0]}])["accuracy"] == pytest.approx(0.75)


@pytest.mark.slow
def test_the_losses_start_alike_take_equal_steps_and_a_second_run_trains_none(tmp_path, monkeypatch, capsys):
    arguments = ["run", "findings/reward-overfit", *BASE, "data.limit=20", "losses.epochs=1", "losses.rankings=4",
                 "losses.repeats=1", "reward.trainer.per_device_train_batch_size=2",
                 "reward.trainer.max_steps=1", "reward.trainer.eval_strategy=epoch",  # losses.epochs decides
                 "--out", str(tmp_path / "run")]  # fmt: skip
    with libraries_as_before():
        assert call(monkeypatch, capsys, *arguments).code == 0
    folder = tmp_path / "run" / "02-losses"
    curves = read_json(folder / "losses.json")["curves"]
    assert {arm: len(points) for arm, points in curves.items()} == {"pointwise": 2, "pairwise": 2, "kwise": 2}
    assert curves["pointwise"][0] == curves["pairwise"][0] == curves["kwise"][0]  # same head, nothing learned yet
    assert len({points[1]["loss"] for points in curves.values()}) == 3
    steps = {arm: max(entry["step"] for entry in read_json(folder / f"{arm}-0" / "log.json")) for arm in curves}
    assert set(steps.values()) == {2}
    trained = {path.name: path.stat().st_mtime_ns for path in (folder / "measured").iterdir()}
    report = build_report(tmp_path / "run")
    titles = {curve["title"]: curve for curve in report["curves"]}
    assert [line["name"] for line in titles["Reward losses: held-out loss"]["series"]] == [
        "pointwise", "shuffled pairs", "K-wise"
    ]  # fmt: skip
    with libraries_as_before():
        assert call(monkeypatch, capsys, *arguments).code == 0
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "measured").iterdir()} == trained


def test_all_arms_of_the_mixture_are_asked_the_same_items(tmp_path, monkeypatch, capsys):
    arguments = ["run", "findings/instruction-mixture", *BASE, "mixture.rows=9", "mixture.items=3", "mixture.repeats=1",
                 "sft.trainer.num_train_epochs=1", "sft.trainer.eval_strategy=epoch",
                 "--out", str(tmp_path / "run")]  # fmt: skip
    with libraries_as_before():
        assert call(monkeypatch, capsys, *arguments).code == 0
    found = read_json(tmp_path / "run" / "01-mixture" / "mixture.json")
    assert {one["n"] for arm in found["figures"].values() for name, one in arm.items() if name == "held_out"} == {9}
    assert {(row["from"], row["group"]) for row in found["differences"]} == {
        (arm, group) for arm in ("base", "single", "uninstructed") for group in ("held_out", "trained")
    }
    tables = {table["title"]: table for table in build_report(tmp_path / "run")["tables"]}
    assert len(tables["Instruction mixture"]["rows"]) == 8
    assert [row[0] for row in tables["Instruction mixture, task by task"]["rows"]] == list(TASKS)
