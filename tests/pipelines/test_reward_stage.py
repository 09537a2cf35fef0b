import math
from pathlib import Path

import pytest
from micro_run import MICRO, QUIET, call, libraries_as_before
from tunewell.pipelines.recipe import NEEDS, find_recipe, read_recipe
from tunewell.pipelines.sets import DataSettings, load_sets
from tunewell.toolkit.data.rows import read_rows, write_rows
from tunewell.toolkit.errors import DataError, SettingsError
from tunewell.toolkit.files import read_json
from tunewell.toolkit.world import build_rankings, build_world

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Rows of every kind that a reward model learns from, some of them of no use."""
    folder, world = tmp_path_factory.mktemp("rows"), build_world(0)
    rankings = build_rankings(0, 10, completions=[4])
    rankings[0]["ranks"] = [1, 1, 1, 1]
    rankings[1]["completions"][2] = "  "
    rankings[2]["completions"][1] = " word" * 600
    made = {
        "corpus": world.corpus[:60],
        "demonstrations": world.demonstrations[:20],
        "comparisons": [*world.comparisons[:10], {"prompt": "p", "chosen": " same", "rejected": " same"}],
        "comparisons_held_out": world.comparisons_held_out[:20],
        "rankings": rankings,
        "rankings_held_out": build_rankings(0, 10, part="held-out"),
        "ratings": [{"prompt": "p", "completion": f" {word}.", "rating": rating} for word, rating in
                    (("good", 7), ("fair", 4), ("bad", 1))],
        "prompts": world.prompts[:5],
        "held_out_prompts": world.prompts[5:10],
    }  # fmt: skip
    for name, rows in made.items():
        write_rows(folder / f"{name}.jsonl", rows)
    return {name: folder / f"{name}.jsonl" for name in made}


def named(files: dict[str, Path]) -> list[str]:
    return ["data.source=files", *(f"data.{name}={path}" for name, path in files.items())]


@pytest.mark.slow
def test_an_ensemble_on_rows_of_all_kinds_is_measured_as_ppo_will_use_it(files, tmp_path, monkeypatch, capsys):
    settings = [one for one in MICRO if one.startswith(("base.", "filter.", "sft.", "reward."))]
    arguments = ["reward", "embedded", *settings, *named(files), "reward.rows=null", "reward.members=2",
                 "reward.combine=min", "reward.gradient_cache=3", "reward.margin=0.1",
                 "reward.trainer.eval_strategy=epoch", "base.device=cpu",
                 "--out", str(tmp_path / "run"), "--json"]  # fmt: skip
    with libraries_as_before():
        called = call(monkeypatch, capsys, *arguments)
    assert called.code == 0, called.err
    folder = tmp_path / "run" / "03-reward"
    record = read_json(tmp_path / "run" / "run.json")
    rows = record["stages"]["reward"]["rows"]
    assert rows["rows"] == 10 + 1 + 10 + 3
    assert (rows["same_text"], rows["empty"], rows["too_long"], rows["rated"]) == (1, 1, 1, 3)
    assert rows["nothing_to_learn"] == 2  # equal sides, and a ranking of ties alone
    assert rows["pairs"] == 10 + 7 * 6 + 2 * 3 - sum(_ties(row) for row in read_rows(files["rankings"])[1:])
    assert "1 empty completions" in called.err and "2 rows without a single pair" in called.err
    for name in ("accuracy", "accuracy.ranking", "log_loss", "calibration_error", "length_correlation"):
        assert {"value", "low", "high", "n"} <= record["results"][f"reward.{name}"].keys()
    assert any("eval_accuracy" in entry for entry in read_json(folder / "log.json"))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Reward model: calibration" in page and "Reward model by length" in page
    _check_scores(tmp_path / "run", record, files)


def _ties(row) -> int:
    """Ties among the completions that are neither empty nor too long."""
    ranks = [rank for rank, text in zip(row["ranks"], row["completions"], strict=True) if 0 < len(text.split()) < 500]
    return math.comb(len(ranks), 2) - sum(one < other for one in ranks for other in ranks)


def _check_scores(run: Path, record, files) -> None:
    """The folder alone, on a policy's base, gives the scores that were measured; demonstrations have mean zero."""
    import numpy as np
    from tunewell.toolkit.model.loading import load_base
    from tunewell.toolkit.model.stack import ModelStack
    from tunewell.toolkit.reward.scoring import score_texts
    from tunewell.toolkit.settings.base import BaseSettings

    folder = next(path for path in (run / "03-reward").iterdir() if path.name == "reward")
    base = read_json(folder / "base_meta.json")["name"]
    stack = ModelStack(*load_base(base, BaseSettings(device="cpu")))
    stack.load("policy", run / "02-sft" / "policy")
    stack.load("reward", folder)
    assert stack.names == ("policy", "reward", "reward_2") and stack.ensemble("reward").combine == "min"
    rows = [row for row in read_rows(run / "03-reward" / "held_out.jsonl") if "chosen" in row]
    found = score_texts(stack, "reward", [(row["prompt"], row["chosen"]) for row in rows])
    np.testing.assert_allclose(found, [row["chosen_score"] for row in rows], atol=1e-5)
    demonstrations = [(row["prompt"], row["completion"]) for row in read_rows(files["demonstrations"])]
    for name in stack.names[1:]:
        assert abs(score_texts(stack, name, demonstrations).mean()) < 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["reward.rating_low=7"], r"rating_low .*: got 7, wanted less than rating_high \(7\)"),
        (["reward.lora.dropout=0.1"], r"lora\.dropout.*: got 0\.1, which has no effect"),
        (["reward.loss=listwise"], r"reward\.loss.*listwise.*kwise"),
        (["reward.rows=[labels]"], r"reward\.rows"),
        (["reward.gradient_cache=0"], r"reward\.gradient_cache"),
        (["reward.combine=max"], r"reward\.combine"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_cure(settings, message):
    with pytest.raises(SettingsError, match=message):
        read_recipe(find_recipe("embedded"), settings)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("rankings", [{"prompt": "p", "completions": [" a"], "ranks": [1]}], r"list of two or more completions"),
        ("rankings", [{"prompt": "p", "completions": [" a", " b"], "ranks": ["first", "second"]}],
         r"whole numbers from 1 were wanted"),
        ("rankings", [{"prompt": "p", "completions": [" a", " b"], "ranks": [1]}], r"2 completions and 1 ranks"),
        ("ratings", [{"prompt": "p", "completion": " a", "rating": "good"}], r"'good' where a number was wanted"),
        ("ratings", [{"prompt": "p", "completion": " a", "label": 1}], r"no column 'rating'"),
        ("demonstrations", [{"messages": [{"role": "user", "content": "hello"}]}],
         r"wanted an answer of the assistant behind another message"),
    ],
)  # fmt: skip
def test_rows_of_unknown_form_are_refused_with_an_example_of_the_right_one(files, tmp_path, name, rows, message):
    write_rows(tmp_path / "rows.jsonl", rows)
    paths = {key: str(path) for key, path in files.items()} | {name: str(tmp_path / "rows.jsonl")}
    with pytest.raises(DataError, match=message):
        load_sets(DataSettings(source="files", **paths), seed=0)


def test_a_chat_gives_a_row_for_every_answer_of_the_assistant(files, tmp_path):
    messages = [{"role": role, "content": text} for role, text in
                (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]  # fmt: skip
    write_rows(tmp_path / "chats.jsonl", [{"messages": messages, "source": "x"}])
    paths = {key: str(path) for key, path in files.items()} | {"demonstrations": str(tmp_path / "chats.jsonl")}
    found = load_sets(DataSettings(source="files", **paths), seed=0).demonstrations
    assert [(row["prompt"], row["completion"]) for row in found] == [
        (messages[:2], messages[2:3]), (messages[:4], messages[4:])
    ]  # fmt: skip
    assert {row["source"] for row in found} == {"x"}


def test_files_of_rankings_stand_in_for_comparisons(files):
    paths = {name: str(path) for name, path in files.items() if not name.startswith("comparisons")}
    assert DataSettings(source="files", **paths).lacking(["filter", "sft", "reward", "ppo", "eval"], NEEDS) == []
    without = {name: path for name, path in paths.items() if not name.startswith(("rankings", "ratings"))}
    faults = DataSettings(source="files", **without).lacking(["filter", "sft", "reward", "ppo", "eval"], NEEDS)
    assert [fault.split(":")[0] for fault in faults] == ["comparisons"]


def _turns(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"u {number}"}, {"role": "assistant", "content": f"a {number}"}]


def test_of_rows_without_a_held_out_file_some_prompts_are_held_out_and_always_the_same(files, tmp_path):
    pairs = [{"prompt": f"p {n % 100}", "chosen": f" a{n}", "rejected": f" b{n}"} for n in range(200)]
    ranked = [{"prompt": f"q {n}", "completions": [" a", " b"], "ranks": [1, 2]} for n in range(100)]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    write_rows(tmp_path / "ranked.jsonl", ranked)
    paths = {"comparisons": str(tmp_path / "pairs.jsonl"), "rankings": str(tmp_path / "ranked.jsonl")}
    found = load_sets(DataSettings(source="files", held_out_share=0.3, **paths), seed=0)
    for rows, train, held_out in ((pairs, found.comparisons, found.comparisons_held_out),
                                  (ranked, found.rankings, found.rankings_held_out)):  # fmt: skip
        assert sorted(map(str, [*train, *held_out])) == sorted(map(str, rows))
        assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
        assert 0.2 < len(held_out) / len(rows) < 0.4
    assert load_sets(DataSettings(source="files", held_out_share=0.3, **paths), seed=9) == found
    chats = [{"messages": [{"role": "system", "content": "s"}, *_turns(n), *_turns(n + 100)]} for n in range(100)]
    write_rows(tmp_path / "chats.jsonl", chats)
    parted = load_sets(
        DataSettings(source="files", validation_share=0.3, demonstrations=str(tmp_path / "chats.jsonl")), seed=0
    )
    parts = [[row["prompt"][1]["content"] for row in rows] for rows in
             (parted.demonstrations, parted.demonstrations_held_out)]  # fmt: skip
    assert not set(parts[0]) & set(parts[1])  # both turns of a dialogue are on one side
    assert len(parts[0]) + len(parts[1]) == 200 and 40 < len(parts[1]) < 80
    named = load_sets(DataSettings(source="files", **paths, comparisons_held_out=paths["comparisons"]), seed=0)
    assert len(named.comparisons) == len(named.comparisons_held_out) == 200


@pytest.mark.slow
def test_a_reward_model_of_few_rankings_alone_is_trained_without_sft_and_its_lacks_are_told(
    tmp_path, monkeypatch, capsys
):
    ranked = [{"prompt": "q", "completions": [f" a{n}", " b"], "ranks": [1, 2]} for n in range(3)]
    write_rows(tmp_path / "ranked.jsonl", ranked)
    write_rows(tmp_path / "corpus.jsonl", build_world(0).corpus[:60])
    base = [one for one in MICRO if one.startswith(("base.", "reward."))]
    arguments = ["reward", "own-files", *base, f"data.rankings={tmp_path / 'ranked.jsonl'}", "stages=[filter,reward]",
                 f"base.corpus={tmp_path / 'corpus.jsonl'}", "data.held_out_share=0.000001",
                 "--out", str(tmp_path / "run")]  # fmt: skip
    with libraries_as_before():
        called = call(monkeypatch, capsys, *arguments)
    assert called.code == 0, called.err
    assert "There is no demonstration, so the zero of the reward is wherever training left it" in called.err
    assert "Nothing is held out to measure the reward model on" in called.err
    assert (tmp_path / "run" / "02-reward" / "reward" / "adapter_config.json").is_file()
