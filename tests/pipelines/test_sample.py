import json
import shutil
from collections import Counter

import pytest
from micro_run import QUIET, call, libraries_as_before, micro_run
from safetensors.torch import load_file, save_file
from tunewell.pipelines import sample as module
from tunewell.pipelines.collect.items import items_of
from tunewell.pipelines.console import Console
from tunewell.pipelines.sample import sample
from tunewell.toolkit.data.row_shapes import require_columns
from tunewell.toolkit.data.rows import read_rows, write_rows
from tunewell.toolkit.errors import RunError, SettingsError
from tunewell.toolkit.files import read_json
from tunewell.toolkit.model.generation import Sampling

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
SHORT = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return micro_run(tmp_path_factory.getbasetemp()).folder


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_rows(path, [{"prompt": f"Question: Who built number {n}?\nAnswer:", "user": f"u{n % 3}"} for n in range(10)])
    return str(path)


def draw(prompts, models, out, **more):
    settings = {"k": 3, "sampling": SHORT, "keeps_equal": True} | more
    return sample(prompts, [str(one) for one in models], out, Console(is_quiet=True), **settings)


def test_every_prompt_gets_k_completions_from_a_recorded_mix_of_policies(run, prompts, tmp_path):
    found = draw(prompts, [run, run / "02-sft"], tmp_path / "out", k=4)
    rows = read_rows(tmp_path / "out" / "samples.jsonl")
    assert len(rows) == 10 and {row["user"] for row in rows} == {"u0", "u1", "u2"}
    for row in rows:
        assert len(row["completions"]) == len(row["policies"]) == len(row["ended"]) == 4
        assert sorted(Counter(row["policies"]).values()) == [2, 2]
    assert found["policy_mix"] == {f"{run.name}-ppo": 20, "02-sft-sft": 20}
    require_columns([row | {"ranks": [1, 2, 3, 4]} for row in rows], "ranking", "samples")
    assert {item.steps for item in items_of(rows, "auto", "samples")} == {("rate", "rank")}
    assert len({row["policies"][0] for row in rows}) == 2  # another one begins


def test_neither_batches_nor_interruptions_change_what_is_drawn(run, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 7)
    whole = draw(prompts, [run], tmp_path / "whole")
    complete, calls = module._complete, []

    def stops(*given, **more):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return complete(*given, **more)

    monkeypatch.setattr(module, "_complete", stops)
    with pytest.raises(KeyboardInterrupt):
        draw(prompts, [run], tmp_path / "broken", batch_size=2)
    assert len(list((tmp_path / "broken" / "parts").glob("*.jsonl"))) == 2
    assert not (tmp_path / "broken" / "samples.jsonl").exists()
    assert draw(prompts, [run], tmp_path / "broken", batch_size=2)["counts"] == whole["counts"]
    assert len(calls) == 6  # the first two parts were not drawn again
    same = (tmp_path / "whole" / "samples.jsonl").read_bytes() == (tmp_path / "broken" / "samples.jsonl").read_bytes()
    assert same and not (tmp_path / "broken" / "parts").exists()
    monkeypatch.setattr(module, "_complete", None)  # a finished run draws nothing
    assert draw(prompts, [run], tmp_path / "broken") == draw(prompts, [run], tmp_path / "whole")


def test_another_seed_draws_otherwise(run, prompts, tmp_path):
    for seed in (0, 1):
        draw(prompts, [run], tmp_path / str(seed), seed=seed)
    first, second = (read_rows(tmp_path / str(seed) / "samples.jsonl") for seed in (0, 1))
    assert [row["completions"] for row in first] != [row["completions"] for row in second]


def test_equal_completions_are_left_out_and_counted(run, prompts, tmp_path):
    greedy = Sampling(max_new_tokens=4, temperature=0)
    found = draw(prompts, [run], tmp_path / "out", sampling=greedy, keeps_equal=False)
    assert found["counts"]["equal_completions"] == 20
    assert all(len(row["completions"]) == 1 for row in read_rows(tmp_path / "out" / "samples.jsonl"))


def test_chats_get_answers_as_messages_and_long_prompts_are_left_out_with_their_reason(run, tmp_path):
    path = tmp_path / "chats.jsonl"
    chats = [{"prompt": [{"role": "user", "content": text}]} for text in ("Hello?", "long " * 2000)]
    write_rows(path, chats)
    found = draw(str(path), [run / "02-sft"], tmp_path / "out", k=2)
    (row,) = read_rows(tmp_path / "out" / "samples.jsonl")
    assert row["completions"][0][0]["role"] == "assistant" and found["counts"]["too_long"] == 1
    assert read_rows(tmp_path / "out" / "left_out.jsonl")[0]["reason"] == "prompt_too_long"


def test_other_work_is_not_overwritten(run, prompts, tmp_path):
    draw(prompts, [run], tmp_path / "out", k=1)
    with pytest.raises(RunError, match="other settings or models"):
        draw(prompts, [run], tmp_path / "out", k=2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds no samples"):
        draw(prompts, [run], other)
    with pytest.raises(SettingsError, match="got 0 completions"):
        draw(prompts, [run], tmp_path / "none", k=0)


def test_other_weights_in_the_folder_of_a_plain_model_are_another_model(run, prompts, tmp_path):
    base = read_json(run / "01-filter" / "stage.json")["artifacts"]["base"]
    model = shutil.copytree(base, tmp_path / "model")
    found = draw(prompts, [model], tmp_path / "out", k=1, limit=2)
    assert draw(prompts, [model], tmp_path / "out", k=1, limit=2) == found
    weights = load_file(model / "model.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="other settings or models"):
        draw(prompts, [model], tmp_path / "out", k=1, limit=2)


def test_a_column_beside_the_prompt_that_has_changed_is_not_served_as_it_was(run, tmp_path):
    rows = [{"prompt": "Write a line.", "source": "first"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    draw(tmp_path / "rows.jsonl", [run], tmp_path / "out", k=1)
    write_rows(tmp_path / "rows.jsonl", [rows[0] | {"source": "second"}])
    with pytest.raises(RunError, match="other settings or models"):
        draw(tmp_path / "rows.jsonl", [run], tmp_path / "out", k=1)
    draw(tmp_path / "rows.jsonl", [run], tmp_path / "anew", k=1)
    assert read_rows(tmp_path / "anew" / "samples.jsonl")[0]["source"] == "second"


def test_the_command_tells_counts_and_mix(run, prompts, tmp_path, monkeypatch, capsys):
    with libraries_as_before():
        done = call(monkeypatch, capsys, "sample", prompts, "-m", run, "-k", 2, "--max-new-tokens", 4, "--limit", 3,
                    "--keep-equal", "--out", tmp_path / "out", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out.splitlines()[-1])["policy_mix"] == {f"{run.name}-ppo": 6}
