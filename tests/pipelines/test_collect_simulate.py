import json

import pytest
from collect_fakes import ROWS, study
from micro_run import MICRO, QUIET, call, libraries_as_before, micro_run
from tunewell.pipelines.collect.export import build_export
from tunewell.pipelines.collect.results import results_of
from tunewell.pipelines.collect.simulate import open_judge, simulate
from tunewell.pipelines.console import Console
from tunewell.toolkit.data.rows import read_rows, write_rows
from tunewell.toolkit.errors import DataError, SettingsError

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
QUIETLY = Console(is_quiet=True)
WEIGHTS = "adapter_model.safetensors"
LETTERS = [{"prompt": f"p{n}", "completions": ["a", "b", "c", "d"]} for n in range(120)]


def by_letter(rows):
    """Earlier letters are better."""
    return [-float(ord(completion.strip()[:1].lower() or "z")) for _, completion in rows]


def accuracy(files):
    pairs = [row for name in ("comparisons", "comparisons_held_out") for row in files[name]]
    return sum(row["chosen"] < row["rejected"] for row in pairs) / len(pairs)


def test_without_noise_the_better_score_always_wins_and_with_noise_less_often(tmp_path):
    shares = []
    for noise in (0, 0.5, 50):
        store, _, _ = study(tmp_path / str(noise), LETTERS)
        assert simulate(store, by_letter, QUIETLY, name="robot", noise=noise) == {"answered": 120, "unscored": 0}
        files, _ = build_export(store)
        shares.append(accuracy(files))
    assert shares[0] == 1
    assert 0.75 < shares[1] < 0.97
    assert 0.4 < shares[2] < 0.6  # nothing but noise


def test_two_scores_are_chosen_between_as_bradley_and_terry_say(tmp_path):
    rows = [{"prompt": f"p{n}", "completions": ["a", "b"]} for n in range(400)]
    store, _, _ = study(tmp_path, rows)
    simulate(store, by_letter, QUIETLY, name="robot", noise=2.0)
    # The two scores are two standard deviations apart, which is one unit of noise: 1 / (1 + exp(-1)).
    assert accuracy(build_export(store)[0]) == pytest.approx(0.731, abs=0.08)


def test_the_same_seed_answers_alike_and_is_marked_everywhere(tmp_path):
    found = []
    for run in ("a", "b", "c"):
        store, _, _ = study(tmp_path / run, ROWS)
        simulate(store, by_letter, QUIETLY, name="robot", seed=int(run == "c"))
        files, summary = build_export(store, 0)
        found.append([row["ranks"] for row in files["rankings"]] + [row["rating"] for row in files["ratings"]])
        judged = [row for name in ("rankings", "comparisons", "ratings") for row in files[name]]
        assert judged and all(row["is_simulated"] for row in judged) and summary["simulated_rows"] == len(judged)
        results = results_of(store)
        assert results["labelers"][0]["is_simulated"] and results["simulated"] == results["answers"] == 3
        assert all(one["n"] == 0 for one in results["agreement"])
        assert results["left"] == 1  # demonstrations are for people
    assert found[0] == found[1] != found[2]


def test_what_has_no_score_is_skipped_and_counted(tmp_path):
    store, _, _ = study(tmp_path, ROWS[1:])
    judge = lambda rows: [float("nan") if "Paint" in text else 1.0 + len(text) for _, text in rows]  # noqa: E731
    assert simulate(store, judge, QUIETLY, name="robot") == {"answered": 2, "unscored": 1}


def test_faults_say_what_was_wanted(tmp_path):
    store, _, _ = study(tmp_path, ROWS[:1])
    store.join("Ada")
    with pytest.raises(DataError, match="belongs to a person"):
        simulate(store, by_letter, QUIETLY, name="Ada")
    with pytest.raises(DataError, match="holds no completion that could be scored"):
        simulate(store, by_letter, QUIETLY, name="robot")
    with pytest.raises(SettingsError, match="--noise: got -1"):
        simulate(store, by_letter, QUIETLY, name="robot", noise=-1)
    with pytest.raises(SettingsError, match="wanted toxicity:SCORER"):
        open_judge("mood")
    with pytest.raises(DataError, match="belongs to a simulated labeler"):
        store.join("robot")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_loop_sft_sample_rank_reward_ppo_and_sample_again(tmp_path, tmp_path_factory, monkeypatch, capsys):
    first = micro_run(tmp_path_factory.getbasetemp()).folder
    prompts = tmp_path / "prompts.jsonl"
    write_rows(prompts, [{"prompt": f"Question: Who built number {n}?\nAnswer:"} for n in range(24)])
    (tmp_path / "words.txt").write_text("the\n")

    def tunewell(*arguments):
        with libraries_as_before():
            done = call(monkeypatch, capsys, *arguments, "--json")
        assert done.code == 0, done.err
        return json.loads(done.out.splitlines()[-1])

    short = ("--max-new-tokens", 8, "--seed", 3)
    names = ("rankings", "rankings_held_out", "prompts", "held_out_prompts")
    tunewell("sample", prompts, "-m", first / "02-sft", "-k", 3, *short, "--out", tmp_path / "samples")
    study, out = tmp_path / "trial.sqlite", tmp_path / "export"
    assert tunewell("collect", "simulate", study, tmp_path / "samples" / "samples.jsonl", "--scorer", f"reward:{first}",
                    "--noise", 0.1)["answered"] == 24  # fmt: skip
    exported = tunewell("collect", "export", study, "--out", out, "--held-out", 0.3)
    assert exported["files"]["rankings"] + exported["files"]["rankings_held_out"] == 24
    sets = first / "01-filter" / "sets"
    micro = [one for one in MICRO if not one.startswith(("base.", "data.", "eval."))]
    base = json.loads((first / "01-filter" / "stage.json").read_text())["artifacts"]["base"]
    done = tunewell(
        "ppo", "embedded", f"base.model={base}", "data.source=files",
        f"data.demonstrations={sets / 'demonstrations.jsonl'}", "reward.rows=[rankings]",
        *(f"data.{name}={out / name}.jsonl" for name in names),
        *micro, "--out", tmp_path / "second",
    )  # fmt: skip
    assert done["results"]["reward.accuracy"]["n"] > 0
    before, after = (tmp_path / "second" / name / "policy" / WEIGHTS for name in ("02-sft", "04-ppo"))
    assert before.read_bytes() != after.read_bytes()
    again = tunewell("sample", prompts, "-m", first / "02-sft", "-m", tmp_path / "second", "-k", 2, *short, "--out",
                     tmp_path / "samples-2")  # fmt: skip
    assert set(again["policy_mix"]) == {"02-sft-sft", "second-ppo"}
    assert len(read_rows(tmp_path / "samples-2" / "samples.jsonl")) == 24
