import dataclasses
import json
import math

import pytest
from tunewell.eval.task import Score, TaskResult
from tunewell.pipelines import sweep
from tunewell.pipelines.console import Console
from tunewell.pipelines.examination import EvalSettings
from tunewell.pipelines.ppo import PpoSettings
from tunewell.pipelines.ppo_report import frontier, rollout_samples
from tunewell.pipelines.report.page import render
from tunewell.pipelines.sweep import SweepSettings
from tunewell.pipelines.sweep_report import sweep_curves, sweep_plots, sweep_table
from tunewell.toolkit.errors import DataError
from tunewell.toolkit.settings.base import BaseSettings
from tunewell.toolkit.settings.reading import TrainerBlock
from tunewell.toolkit.stage import Artifacts


def figure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 60}


@pytest.fixture
def folder(tmp_path):
    """What a sweep of two arms leaves: one that stayed near, one that broke the text."""
    figures = {
        "reward": {"sft": figure(-0.2), "kl 1": figure(0.7), "kl 0": figure(1.1)},
        "kl": {"sft": figure(0.0), "kl 1": figure(1.0), "kl 0": figure(80.0)},
        "perplexity": {"sft": figure(3.0), "kl 1": figure(3.1), "kl 0": figure(5000.0)},
    }
    logs = {
        arm: [{"step": step, "objective/score": step / 4, "objective/kl": step * rate} for step in (1, 2, 3)]
        for arm, rate in (("kl 1", 0.3), ("kl 0", 20.0), ("ptx 1", 0.5))
    }
    (tmp_path / "sweep.json").write_text(json.dumps({"arms": {}, "figures": figures, "logs": logs}))
    return tmp_path


def test_every_arm_names_the_coefficients_it_changes_and_keeps_the_kl_coefficient_of_ppo_where_it_mixes():
    settings = SweepSettings(kl_coefs=(0.0, 0.2), ptx_coefs=(1.0,))
    assert settings.arms({"kl_coef": 0.05}) == {
        "kl 0": {"kl_coef": 0.0, "ptx_coef": 0.0},
        "kl 0.2": {"kl_coef": 0.2, "ptx_coef": 0.0},
        "ptx 1": {"kl_coef": 0.05, "ptx_coef": 1.0},
    }
    assert SweepSettings().arms({})["kl 0.05"] == {"kl_coef": 0.05, "ptx_coef": 0.0}


def test_a_sweep_of_one_arm_or_of_an_arm_twice_is_refused():
    assert "fewer than two" in SweepSettings(kl_coefs=(0.1,)).faults()[0]
    (fault,) = SweepSettings(kl_coefs=(0.1, 0.1, 0.2)).faults()
    assert "kl_coefs" in fault and "once" in fault
    assert SweepSettings(kl_coefs=(0.1,), ptx_coefs=(1.0,)).faults() == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        SweepSettings().kl_coefs = ()


def test_a_sweep_that_was_stopped_trains_the_arms_that_are_left_and_reports_what_went_wrong(tmp_path, monkeypatch):
    trained = []

    def train(settings, base, seed, console, before, place):
        trained.append((place.name, dict(settings.trainer)))
        if place.name == "kl-0.2" and len(trained) == 2:
            raise KeyboardInterrupt
        (place / "policy").mkdir(parents=True)
        far = 5.0 if settings.trainer["kl_coef"] == 0 else 0.1
        log = [
            {"step": step, "objective/score": 0.1, "objective/score_std": 1.0, "objective/kl": 20 * far,
             "objective/kl_per_token": far}
            for step in (1, 2, 3)
        ]  # fmt: skip
        (place / "log.json").write_text(json.dumps(log))

    def measure(arms, *rest):
        def score(value):
            return Score(value=value, low=None, high=None, se=None, n=4, higher_is_better=True)

        found = {arm: {"reward": score(1.0), "kl": score(None if arm == "kl 0" else 0.5)} for arm in ("sft", *arms)}
        return {arm: {"reward": TaskResult(name="reward", scores=scores, items=[])} for arm, scores in found.items()}

    monkeypatch.setattr(sweep, "run_ppo", train)
    monkeypatch.setattr(sweep, "_measure", measure)
    before = Artifacts(base="base", data=tmp_path, sft=tmp_path, reward=tmp_path)

    def run():
        settings = SweepSettings(kl_coefs=(0.0, 0.2))
        ppo = PpoSettings(trainer=TrainerBlock({"max_steps": 3}))
        return sweep.run_sweep(
            settings, ppo, EvalSettings(), BaseSettings(), 0, Console(is_quiet=True), before, tmp_path
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    outcome = run()
    assert [name for name, _ in trained] == ["kl-0", "kl-0.2", "kl-0.2"]  # the finished arm is not trained again
    assert trained[2][1] == {"max_steps": 3, "kl_coef": 0.2, "ptx_coef": 0.0}
    assert outcome.results["sweep.kl.kl 0.2"]["value"] == 0.5
    assert "sweep.kl.kl 0" not in outcome.results  # what could not be measured is missing
    assert [point["label"] for point in next(sweep_plots(tmp_path))["points"]] == ["SFT", "kl 0.2"]
    (warning,) = outcome.warnings
    assert warning.startswith("Sweep, kl 0, iteration 3: The policy has been more than 1.5 nats per token")
    with pytest.raises(DataError, match="put filter, sft, reward before it"):
        sweep.run_sweep(
            SweepSettings(), PpoSettings(), EvalSettings(), BaseSettings(), 0, Console(), Artifacts(), tmp_path
        )


def test_arms_are_drawn_over_their_iterations(folder):
    reward, mixed, kl, _ = sweep_curves(folder)
    assert [line["name"] for line in mixed["series"]] == ["ptx 1"]
    assert [line["name"] for line in reward["series"]] == ["kl 1", "kl 0"]
    assert kl["series"][1]["x"] == [1, 2, 3]
    assert kl["series"][1]["y"] == [20.0, 40.0, 60.0]


def test_a_figure_that_spans_orders_of_magnitude_is_drawn_as_its_logarithm_and_says_so(folder):
    reward, perplexity = sweep_plots(folder)
    assert [point["y"] for point in reward["points"]] == [-0.2, 0.7, 1.1]
    assert "log10" not in reward["y_label"]
    assert "log10" in perplexity["y_label"]
    assert perplexity["points"][2] == {"x": 80.0, "y": pytest.approx(math.log10(5000)), "label": "kl 0"}


def test_the_table_has_one_row_an_arm(folder):
    table = sweep_table(folder)
    assert table["columns"] == ["Arm", "Reward", "KL, nats", "Perplexity"]
    assert table["rows"][2] == ["kl 0", 1.1, 80.0, 5000.0]


def test_rollouts_are_shown_from_both_ends_of_their_scores_covered_and_escaped(tmp_path, folder):
    rollouts = tmp_path / "checkpoints" / "rollouts"
    rollouts.mkdir(parents=True)
    for step in (1, 2):
        rows = [
            {"prompt": "<script>alert(1)</script>", "completion": f"</table><b>answer {row}", "score": float(row),
             "kl": 0.5, "length": 3, "ended": True}
            for row in range(20)
        ]  # fmt: skip
        (rollouts / f"step-{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = list(rollout_samples(tmp_path))
    assert {sample["model"] for sample in samples} == {"PPO, first rollout", "PPO, last rollout"}
    scores = [sample["scores"]["reward"] for sample in samples if sample["model"] == "PPO, last rollout"]
    assert scores == [19.0, 18.0, 17.0, 16.0, 3.0, 2.0, 1.0, 0.0]
    assert all(sample["flagged"] for sample in samples)  # nobody has judged them
    report = {"title": "Run", "samples": samples, "curves": list(sweep_curves(folder)), "tables": [sweep_table(folder)]}
    page = render(report)
    assert "<script>alert(1)" not in page
    assert "</table><b>answer" not in page
    assert "&lt;/table&gt;&lt;b&gt;answer 19" in page


def test_reward_against_kl_follows_the_iterations(tmp_path):
    log = [{"step": step, "objective/score": 0.1 * step, "objective/kl": 0.2 * step} for step in (1, 2)]
    (tmp_path / "log.json").write_text(json.dumps([*log, {"step": 2, "train_runtime": 1.0}]))
    points = frontier(tmp_path)["points"]
    assert [(point["x"], point["y"]) for point in points] == [(0.2, 0.1), (0.4, 0.2)]
    assert points[0]["label"] == "first iteration"
