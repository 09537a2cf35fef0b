import shutil

import pytest
from micro_run import MICRO, QUIET, call, libraries_as_before, micro_run
from tunewell.pipelines.recipe import find_recipe, read_recipe
from tunewell.toolkit.errors import SettingsError
from tunewell.toolkit.files import read_json

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
CEILING = ("ppo.trainer.kl_ceiling=0.000001", "ppo.trainer.max_steps=6", "ppo.trainer.learning_rate=0.01")


@pytest.fixture
def ppo(tmp_path, tmp_path_factory, monkeypatch, capsys):
    """Types `tunewell ppo` with settings; the stages before it are done."""
    run = tmp_path / "run"
    shutil.copytree(micro_run(tmp_path_factory.getbasetemp()).folder, run)

    def typed(*settings):
        called = call(monkeypatch, capsys, "ppo", *MICRO, *settings, "--set-aside", "--out", str(run))
        return called, read_json(run / "run.json")["stages"].get("ppo", {}).get("warnings", [])

    with libraries_as_before():
        yield typed


@pytest.mark.parametrize("saved", [True, False])
def test_a_run_over_the_kl_ceiling_says_which_policy_is_the_result(ppo, saved):
    called, warnings = ppo(*CEILING, *(["ppo.trainer.save_steps=1"] * saved))
    assert called.code == 0, called.err
    (warning,) = [text for text in warnings if "over ppo.trainer.kl_ceiling" in text]
    wanted = (
        "The last good checkpoint (checkpoint-" if saved else "so the result is the policy that is over the ceiling"
    )
    assert wanted in warning
    assert ("is the result." in warning) == saved


def test_an_evaluation_for_which_ppo_has_no_prompts_is_refused_before_anything_runs():
    with pytest.raises(SettingsError, match=r"ppo\.trainer\.eval_strategy .*got 'steps', wanted no: PPO measures"):
        read_recipe(find_recipe("embedded"), ["ppo.trainer.eval_strategy=steps"])
    read_recipe(find_recipe("embedded"), ["ppo.trainer.eval_strategy=no"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["ppo.reward.judge=/nowhere/judge"],
            r"ppo\.reward\.judge .*got '/nowhere/judge', wanted a folder that exists",
        ),
        (["ppo.reward.toxicity=tfidf:/nowhere"], r"ppo\.reward\.toxicity .*nowhere"),
        (["ppo.reward.toxicity=nonsense"], r"ppo\.reward\.toxicity .*'nonsense', wanted one of tfidf:FOLDER"),
        (["ppo.reward.weight=0"], r"ppo\.reward\.weight .*nothing to learn from"),
    ],
)
def test_terms_of_the_reward_that_cannot_work_are_refused_before_anything_runs(settings, message):
    with pytest.raises(SettingsError, match=message):
        read_recipe(find_recipe("embedded"), settings)


def test_a_recipe_may_pay_for_other_things_than_its_reward_adapter():
    read_recipe(find_recipe("embedded"), ["ppo.reward.weight=0", "ppo.reward.blocklist=world"])
    read_recipe(find_recipe("embedded"), ["ppo.reward.judge=org/judge"])
