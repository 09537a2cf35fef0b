import pytest
from micro_run import MICRO, QUIET, call, libraries_as_before
from tunewell.pipelines.mitigation_arms import METHODS, UNTREATED, arms
from tunewell.pipelines.mitigation_measures import difference, summary
from tunewell.pipelines.mitigation_tables import changes, levels
from tunewell.pipelines.recipe import find_recipe, read_recipe
from tunewell.toolkit.errors import SettingsError
from tunewell.toolkit.files import read_json
from tunewell.toolkit.world.occupations import (
    SHARES,
    occupation_demonstrations,
    occupation_documents,
    occupation_probes,
)

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


def test_every_method_has_three_rising_strengths_and_arms_share_trainings_that_differ_in_decoding_alone():
    found = arms(tuple(METHODS))
    assert len(found) == 2 + 3 * len(METHODS) == len({arm.name for arm in found})
    for name, method in METHODS.items():
        assert list(method.strengths) == sorted(set(method.strengths))
        trainings = {arm.trained for arm in found if arm.method == name}
        if method.decoding == "gate":
            assert trainings == {name}
        elif method.decoding:
            assert trainings == {UNTREATED}
        else:
            assert len(trainings) == 3


def test_the_talk_about_occupations_leans_as_it_says_and_probes_tell_no_gender():
    documents = occupation_documents(0, count=2000)
    assert documents == occupation_documents(0, count=2000)
    for job, share in (("nurse", SHARES["nurse"]), ("miner", SHARES["miner"])):
        own = [text for text in documents if f"The {job} " in text]
        women = sum(" she " in text for text in own)
        assert abs(women / len(own) - share) < 0.15
        assert not any(" she " in text and " he " in text for text in own)
    assert len(occupation_probes()) == 3 * len(SHARES)
    assert not any({"she", "he", "her", "his"} & set(probe.text.split()) for probe in occupation_probes())
    assert {row["prompt"].partition(" the ")[2][:-1] for row in occupation_demonstrations(0)} <= SHARES.keys()


def test_figures_have_intervals_over_prompts_and_differences_are_paired():
    before = [{"id": str(n // 2), "value": float(n % 2), "weight": 1.0} for n in range(20)]
    after = [one | {"value": 0.0} for one in before]
    assert summary(before, "toxicity")["value"] == 0.5 and summary(before, "toxicity")["n"] == 10
    found = difference(before, after, seed=0)
    assert found["delta"] == -0.5 and found["high"] <= -0.5 + 1e-9
    assert difference(before, before, seed=0)["delta"] == 0.0


def test_tables_show_every_arm_then_paired_changes_of_the_strongest():
    def row(method, strength, toxic):
        figure = {"value": toxic, "low": 0.0, "high": 1.0}
        change = {"delta": toxic - 0.5, "low": -0.004, "high": 0.2}
        names = ("toxicity", "bias", "truthfulness", "nll")
        row = {"arm": f"{method}-{strength:g}", "method": method, "strength": strength} | dict.fromkeys(names, figure)
        return row | ({f"{name}.difference": change for name in names} if method != UNTREATED else {})

    table = [row(UNTREATED, 0.0, 0.5), row("augment", 0.33, 0.4), row("augment", 1.0, 0.25)]
    every, strongest = levels(table).splitlines(), changes(table).splitlines()
    assert len(every) == 5 and "| untreated |  | 50% [0%, 100%] |" in every[2]
    assert "| 1.28 [1.00, 2.72] | -0.250 [-0.004, +0.200] |" in every[4], "perplexity is exp of nats"
    assert len(strongest) == 3 and "| 1 | -25 [+0, +20] | -0.25 [+0.00, +0.20] |" in strongest[2]


def test_unknown_methods_and_other_worlds_are_refused():
    recipe = find_recipe("findings/mitigations")
    with pytest.raises(SettingsError, match="unlikelihod"):
        read_recipe(recipe, ["comparison.methods=[unlikelihod]"])
    with pytest.raises(SettingsError, match="embedded world"):
        read_recipe(recipe, ["base.model=gpt2"])


@pytest.mark.slow
def test_arms_are_trained_asked_and_compared_with_the_untreated_one(tmp_path, monkeypatch, capsys):
    settings = [one for one in MICRO if one.startswith(("base.", "eval.", "sft."))]
    arguments = ["run", "findings/mitigations", *settings, "comparison.methods=[control,blocklist-data]",
                 "--out", str(tmp_path / "run"), "--json"]  # fmt: skip
    with libraries_as_before():
        assert call(monkeypatch, capsys, *arguments).code == 0
    folder = tmp_path / "run" / "01-mitigations"
    rows = {row["arm"]: row for row in read_json(folder / "mitigations.json")["arms"]}
    assert len(rows) == 8
    assert "nll.difference" not in rows[UNTREATED]
    for row in rows.values():
        for figure in ("toxicity", "bias", "truthfulness", "nll"):
            assert row[figure]["low"] <= row[figure]["value"] <= row[figure]["high"]
    dropped = [read_json(folder / "trained" / f"blocklist-data-{share}" / "sets" / "dropped.json")["dropped"]
               for share in ("0.33", "0.67", "1")]  # fmt: skip
    assert dropped == sorted(set(dropped))
    gate = read_json(folder / "arms" / "control-0.05" / "gate.json")
    counted = gate["outcomes"]
    assert counted["safe"] + counted["unsafe"] == len(gate["decisions"]) == 4
    assert 0 <= gate["held_out"]["auc"] <= 1
    tables = (folder / "mitigations.md").read_text().split("\n\n")
    assert [table.count("|---|") > 0 for table in tables] == [True] * 3
    assert [len(table.strip().splitlines()) for table in tables] == [2 + 8, 2 + 3, 2 + 3]
