import math

import pytest
from tunewell.toolkit.ppo.signs import failure_signs, signs_by_step

CALM = {
    "objective/kl": 1.0, "objective/kl_per_token": 0.1, "objective/score_std": 0.5, "objective/entropy": 2.0,
    "completion/length": 40.0, "completion/ended": 0.9, "value/loss": 0.1, "value/explained_variance": 0.4,
    "policy/clip_fraction": 0.1,
}  # fmt: skip


def run(last=3, **changes):
    """Six calm iterations and then some with other figures."""
    changed = {name.replace("__", "/"): value for name, value in changes.items()}
    return [CALM] * 6 + [CALM | changed] * last


def names(log):
    return [sign.name for sign in failure_signs(log)]


def test_a_calm_run_shows_no_sign_at_any_length():
    for length in range(12):
        assert failure_signs([CALM] * length) == []


@pytest.mark.parametrize(
    ("name", "changes", "cure"),
    [
        ("negative_kl", {"objective__kl": -1.5}, "top_p"),
        ("far_away", {"objective__kl": 80.0, "objective__kl_per_token": 5.0}, "ptx_coef"),
        ("same_scores", {"objective__score_std": 0.0}, "rollouts/"),
        ("length_collapse", {"completion__length": 5.0}, "raise kl_coef"),
        ("never_ends", {"completion__ended": 0.1}, "missing_eos_penalty"),
        ("value_blow_up", {"value__loss": 5.0, "value__explained_variance": -2.0}, "value_learning_rate"),
        ("entropy_collapse", {"objective__entropy": 0.05}, "num_ppo_epochs"),
        ("clipped", {"policy__clip_fraction": 0.6}, "learning rate"),
    ],
)
def test_each_sign_is_given_after_three_iterations_and_says_what_to_try(name, changes, cure):
    assert names(run(last=2, **changes)) == []  # two may be chance
    (sign,) = failure_signs(run(**changes))
    assert sign.name == name
    assert cure in sign.text
    assert names([*run(**changes), CALM]) == []  # it has passed


def test_neighbours_of_a_sign_are_none():
    assert names(run(objective__kl=-0.3)) == []  # an estimate near zero dips below it
    assert names(run(value__loss=5.0)) == []  # the values still explain the returns: the scores have grown
    assert names(run(completion__length=15.0)) == []
    assert names([CALM | {"completion/ended": 0.0}] * 9) == []  # answers never ended by themselves
    unmeasured = CALM | {"value/explained_variance": math.nan, "value/loss": 5.0}
    assert names([CALM] * 6 + [unmeasured] * 3) == ["value_blow_up"]


def test_entries_of_evaluations_between_iterations_do_not_count():
    log = [entry for one in run(objective__kl=-2.0) for entry in (one, {"eval_reward": 1.0})]
    assert names(log) == ["negative_kl"]


def test_a_run_tells_each_sign_once_with_the_iteration_that_showed_it_first():
    log = [entry | {"step": step} for step, entry in enumerate(run(last=6, objective__kl=-2.0), 1)]
    (found,) = signs_by_step(log)
    assert found[0] == 9
    assert found[1].name == "negative_kl"
