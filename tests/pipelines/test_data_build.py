import json
from dataclasses import replace

import datasets
import pyarrow
import pytest
from collect_fakes import good_answer, study
from hypothesis import given, settings
from hypothesis import strategies as st
from micro_run import call
from pyarrow import parquet
from trl.data_utils import is_conversational
from tunewell.pipelines.collect.export import export_study
from tunewell.pipelines.console import Console
from tunewell.pipelines.data.build import BuildSettings, build
from tunewell.pipelines.data.checking import check_leaks
from tunewell.pipelines.data.choosing import limit_users, merge_equal
from tunewell.pipelines.data.sources import parse_columns
from tunewell.pipelines.data.splitting import split_by_user
from tunewell.pipelines.data.templates import Templates, few_shot_prompts
from tunewell.pipelines.data.unclear import why_unclear
from tunewell.pipelines.data.written import Written
from tunewell.toolkit.data.row_shapes import require_columns
from tunewell.toolkit.data.rows import read_rows, write_rows
from tunewell.toolkit.errors import DataError, RunError, SettingsError

QUIETLY = Console(is_quiet=True)
ALL_TRAIN = BuildSettings(held_out=0.0)
PAIRS = [("cold food", "bad"), ("great pizza", "good"), ("never again", "bad"), ("lovely", "good")]


def made(tmp_path, rows, options=ALL_TRAIN, name="prompts.jsonl"):
    """Build from rows; returns the files by name, and the summary."""
    write_rows(tmp_path / name, rows)
    return built([tmp_path / name], tmp_path / "sets", options)


def built(sources, out, options=ALL_TRAIN):
    summary = build([str(one) for one in sources], out, options, QUIETLY)
    files = {name: read_rows(out / f"{name}.jsonl") for name in summary["files"]}
    for rows in files.values():
        assert len({tuple(sorted(row)) for row in rows}) == 1  # every row has every column
    return files, summary


def dropped(tmp_path):
    path = tmp_path / "sets" / "dropped.jsonl"
    return {row["place"].split()[-1]: row["reason"] for row in read_rows(path)} if path.stat().st_size else {}


def test_three_kinds_become_sets_of_trl_formats(tmp_path):
    files, summary = made(tmp_path, [
        {"prompt": "Name a river.", "completion": "The Rhine."},
        {"instruction": "Good or bad?", "examples": [{"query": q, "response": r} for q, r in PAIRS]},
        {"prompt": "Write a slogan.", "use_case": "Advertising", "completions": ["a", "b", "c"], "ranks": [2, 1, 1]},
        {"prompt": "Say hello.", "chosen": "Hello!", "rejected": "What?"},
        {"prompt": "Say bye.", "completion": "Bye.", "rating": 6},
    ])  # fmt: skip
    shapes = {"demonstrations": "prompt_completion", "rankings": "ranking", "comparisons": "preference",
              "ratings": "rating", "prompts": "prompt"}  # fmt: skip
    assert set(files) == set(shapes)
    for name, shape in shapes.items():
        require_columns(files[name], shape, name)
        assert not is_conversational(files[name][0])
    assert summary["files"] == {"demonstrations": 5, "rankings": 1, "comparisons": 3, "ratings": 1, "prompts": 8}
    assert files["demonstrations"][0]["completion"] == " The Rhine."  # behind its prompt, words stay apart
    assert [(row["chosen"], row["rejected"]) for row in files["comparisons"]] == [
        (" b", " a"), (" c", " a"), (" Hello!", " What?"),
    ]  # fmt: skip
    assert files["rankings"][0]["use_case"] == "Advertising" and files["rankings"][0]["kind"] == "use_case"
    few_shot = [row for row in files["demonstrations"] if row["kind"] == "few_shot"]
    assert [row["completion"] for row in few_shot] == [f" {response}" for _, response in PAIRS]
    assert few_shot[0]["prompt"].startswith("Good or bad?\n\nInput: ") and few_shot[0]["shots"] == 3
    assert few_shot[0]["prompt"].endswith("\n\nInput: cold food\nOutput:")


def test_chats_and_text_become_chats_and_are_never_mixed(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello"}]},
            {"prompt": "Name a river.", "completion": " The Rhine. "}]  # fmt: skip
    files, _ = made(tmp_path, rows)
    assert files["demonstrations"][1]["completion"] == [{"role": "assistant", "content": "The Rhine."}]
    assert all(is_conversational(row) for row in files["demonstrations"] + files["prompts"])
    with pytest.raises(DataError, match=r"row 1 holds a chat, which cannot be written as text"):
        made(tmp_path, rows, replace(ALL_TRAIN, form="text"))
    assert is_conversational(made(tmp_path, rows[1:], replace(ALL_TRAIN, form="chat"))[0]["prompts"][0])


def test_the_last_turn_of_a_chat_may_be_a_number(tmp_path):
    turns = [{"role": "user", "content": "May I drive?"}, {"role": "assistant", "content": "How old are you?"},
             {"role": "user", "content": "22"}]  # fmt: skip
    files, summary = made(tmp_path, [{"prompt": turns}, {"prompt": turns[2:]}])
    assert [row["prompt"] for row in files["prompts"]] == [turns] and summary["dropped"] == {"no_words": 1}


def test_csv_parquet_and_jsonl_give_the_same(tmp_path):
    rows = [{"prompt": "Name a river.", "user": "a", "ranks": [2, 1], "completions": ["x", "y"]},
            {"prompt": "Name a lake.", "user": "b", "ranks": [1, 2], "completions": ["x", "y"]}]  # fmt: skip
    write_rows(tmp_path / "a.jsonl", rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    cells = "\n".join(f'{row["prompt"]},{row["user"]},"{row["ranks"]}","[""x"",""y""]"' for row in rows)
    (tmp_path / "a.csv").write_text(f"prompt,user,ranks,completions\n{cells}\n")
    found = []
    for kind in ("jsonl", "parquet", "csv"):
        files, _ = built([tmp_path / f"a.{kind}"], tmp_path / kind)
        found.append(json.dumps(files).replace(f"a.{kind}", "a"))
    assert found[0] == found[1] == found[2]


def test_one_row_per_pair_is_one_few_shot_prompt_of_a_user(tmp_path):
    rows = [
        {"instruction": "Good or bad?", "query": query, "response": response, "user": "a"} for query, response in PAIRS
    ]
    rows.append({"instruction": "Good or bad?", "query": "hm", "response": "", "user": "b"})
    files, summary = made(tmp_path, rows)
    assert summary["prompts"]["distinct"] == 2 and summary["rows"] == {"read": 5, "used": 5, "dropped": 0}
    assert [row["shots"] for row in files["prompts"]] == [3, 3, 3, 3, 0]
    assert len(files["demonstrations"]) == 4  # nobody answered the fifth


def test_shots_are_limited_drawn_anew_and_never_give_the_answer_away():
    once = few_shot_prompts(Templates(), "Judge:", PAIRS, shots=2, draws=1, seed=0)
    many = few_shot_prompts(Templates(), "Judge:", PAIRS, shots=2, draws=4, seed=0)
    assert len(once) == 4 and {one.n_shots for one in once} == {2}
    assert len(many) > 8 and len({one.prompt for one in many}) == len(many)
    assert once == few_shot_prompts(Templates(), "Judge:", PAIRS, shots=2, draws=1, seed=0)
    assert once != few_shot_prompts(Templates(), "Judge:", PAIRS, shots=2, draws=1, seed=1)
    twice = few_shot_prompts(Templates(), "Judge:", [*PAIRS, ("lovely", "fine")], shots=None, draws=1, seed=0)
    for one in twice:
        asked = one.prompt.rsplit("Input: ", 1)[1]
        assert one.prompt.count(f"Input: {asked.split(chr(10))[0]}\n") == 1
    assert few_shot_prompts(Templates(), "Judge:", [("q", "r")], shots=None, draws=3, seed=0)[0].n_shots == 0


def test_templates_put_text_with_braces_as_it_is_and_refuse_what_is_no_template(tmp_path):
    options = replace(ALL_TRAIN, templates=Templates(plain="Q: {prompt}\nA:", use_case="[{use_case}] {prompt}"))
    files, _ = made(
        tmp_path, [{"prompt": "What is {x!r} in {prompt}?"}, {"prompt": "Sell it", "use_case": "Ads"}], options
    )
    assert [row["prompt"] for row in files["prompts"]] == ["Q: What is {x!r} in {prompt}?\nA:", "[Ads] Sell it"]
    with pytest.raises(SettingsError) as fault:
        Templates(plain="no place", shot="{query}{response.__class__}", query="{query!r}", use_case="{prompt} {")
    assert len(fault.value.faults) == 4


def test_equal_prompts_are_one_and_keep_what_was_said_of_each(tmp_path):
    files, summary = made(tmp_path, [
        {"prompt": "Write a haiku about rain.", "user": "a"},
        {"prompt": "write a  HAIKU about rain.\n", "user": "b", "completion": "Drops"},
        {"prompt": "Write a haiku about rain.", "completions": ["x", "y"], "ranks": [1, 2]},
        {"prompt": "Write a haiku about rain.", "chosen": "x", "rejected": "y"},
    ])  # fmt: skip
    assert {name: len(rows) for name, rows in files.items()} == {
        "demonstrations": 1, "rankings": 1, "comparisons": 1, "prompts": 1,
    }  # fmt: skip
    assert summary["rows"] == {"read": 4, "used": 4, "dropped": 0}


def test_of_prompts_with_a_long_common_prefix_the_labelled_one_stays(tmp_path):
    start = (
        "You are the assistant of a shop that sells bicycles, tents and boats; answer politely and in one sentence. "
    )
    rows = [{"prompt": start + "Do you sell oars?"}, {"prompt": start.upper() + "Are you open?", "completion": "Yes."},
            {"prompt": "You are the assistant of a shop. Do you sell oars?"}]  # fmt: skip
    files, summary = made(tmp_path, rows, replace(ALL_TRAIN, prefix=100))
    assert [row["source"] for row in files["prompts"]] == ["prompts.jsonl, row 2", "prompts.jsonl, row 3"]
    assert dropped(tmp_path) == {"1": "common_prefix"} and summary["dropped"] == {"common_prefix": 1}
    assert len(made(tmp_path, rows, replace(ALL_TRAIN, prefix=120))[0]["prompts"]) == 3  # a control


def test_each_user_has_at_most_so_many_prompts_labelled_ones_first(tmp_path):
    rows = [{"prompt": f"Tell me about number {n}", "user": "much"} for n in range(20)]
    rows[17]["completion"] = "It is a prime."
    rows += [{"prompt": f"Tell me of {n}"} for n in range(6)]
    files, summary = made(tmp_path, rows, replace(ALL_TRAIN, per_user=5))
    mine = [row for row in files["prompts"] if row["user"] == "user-1"]
    assert len(mine) == 5 and len(files["prompts"]) == 11  # nobody known is not limited
    assert summary["dropped"] == {"over_user_limit": 15}
    assert len(files["demonstrations"]) == 1


def test_no_user_is_in_two_splits_and_users_stay_when_others_come(tmp_path):
    rows = [{"prompt": f"Tell me about number {n}", "user": f"u{n % 40}"} for n in range(400)]
    options = BuildSettings(held_out=0.2, test=0.2)
    files, summary = made(tmp_path, rows, options)
    users = {name: {row["user"] for row in files[name]} for name in ("prompts", "held_out_prompts", "test_prompts")}
    assert sum(map(len, users.values())) == 40 == len(set.union(*users.values()))
    assert all(len(found) >= 4 for found in users.values())
    before = {row["prompt"]: name for name in users for row in files[name]}
    more, _ = made(tmp_path, [*rows, *({"prompt": f"And what of {n}", "user": f"v{n}"} for n in range(40))], options)
    assert all(before[row["prompt"]] == name for name in users for row in more[name] if row["prompt"] in before)
    assert summary["splits"]["train"]["users"] == len(users["prompts"])


def test_few_users_are_still_split_and_one_cannot_be(tmp_path):
    files, _ = made(tmp_path, [{"prompt": f"Say {n}", "user": "ab"[n % 2]} for n in range(6)], BuildSettings())
    assert len(files["prompts"]) == len(files["held_out_prompts"]) == 3
    with pytest.raises(DataError, match=r"are all of one user and cannot be split in 2.*--held-out 0"):
        made(tmp_path, [{"prompt": f"Say {n}", "user": "a"} for n in range(6)], BuildSettings())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 30)), min_size=1, max_size=40),
    st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 3), st.integers(1, 4),
)  # fmt: skip
def test_splits_part_users_and_lose_no_prompt(drawn, held_out, test, seed, most):
    prompts = merge_equal([Written("plain", str(at), user=user, prompt=f"p{n}") for at, (user, n) in enumerate(drawn)])
    kept, over = limit_users(prompts, most, seed)
    assert len(kept) + len(over) == len(prompts)
    try:
        splits = split_by_user(kept, held_out, test, seed)
    except DataError:
        assert len({one.user for one in kept}) < 3
        return
    assert sum(map(len, splits.values())) == len(kept)
    users = [{one.user for one in found} for found in splits.values()]
    assert sum(map(len, users)) == len(set.union(*users))
    assert bool(splits["test"]) == (test > 0) and bool(splits["held_out"]) == (held_out > 0) and splits["train"]
    assert max(sum(one.user == user for one in kept) for user in "abcdefgh") <= most


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"), (" \n", "empty"), ("???", "no_words"), ("12 + 30 = ", None),
        ("Summarise the following:", "nothing_follows"),
        ("Translate this text below into French:", "nothing_follows"),
        ("Summarise the following:\n\nIt rained.", None), ("Write a mail to [insert name here]", "placeholder"),
        ("Lorem ipsum dolor", "placeholder"), ("asdf", "placeholder"), ("Test a theory of mine", None),
        ("What does a[0] and <b> and {{ x }} mean?", None), ("Stra\ufffde und Hauser", "garbled"),
        ("Das ist schÃ¶n", "garbled"), ("Größe: wie groß?", None), ("日本の首都は?", None), ("w " * 11, "too_long"),
        ("Give three reasons:", None), ("Q: Who? A:", None),
    ],
)  # fmt: skip
def test_unclear_prompts_have_a_reason(text, reason):
    assert why_unclear(text, most_words=10) == reason


def test_unclear_and_marked_prompts_are_dropped_and_every_row_is_accounted_for(tmp_path):
    files, summary = made(tmp_path, [
        {"prompt": "Name a river."}, {"prompt": ""}, {"prompt": None, "completion": "x"},
        {"prompt": "Summarise the following:"},
        {"prompt": "Do it", "reason": "unclear", "note": ""},
        {"prompt": "Do that", "reason": "unclear"}, {"prompt": "Do that", "completion": "Done."},
        {"prompt": "Do these", "completion": "Done.", "prompt_flags": ["intent_unclear"]},
        {"prompt": "Rate it", "reason": "cannot_judge"},
        {"instruction": "Judge:", "examples": [{"query": "", "response": "x"}]},
    ])  # fmt: skip
    assert dropped(tmp_path) == {"2": "empty", "3": "empty", "4": "nothing_follows", "5": "marked_unclear",
                                 "8": "marked_unclear", "10": "no_query"}  # fmt: skip
    assert [row["prompt"] for row in files["prompts"]] == ["Name a river.", "Do that", "Rate it"]
    assert summary["rows"] == {"read": 10, "used": 4, "dropped": 6}


def test_personal_data_leaves_the_training_split_alone_or_with_its_prompt(tmp_path):
    rows = [{"prompt": f"Write to ann{n}@gmail.com about {n}", "completions": [f"call +44 20 7946 0{n:03}", "no"],
             "ranks": [1, 2], "user": f"ann{n}@gmail.com"} for n in range(12)]  # fmt: skip
    rows.append({"instruction": "Judge", "examples": [{"query": "bob@gmail.com", "response": "a"}], "user": "x"})
    files, summary = made(tmp_path, rows, BuildSettings(held_out=0.3))
    train = json.dumps([files[name] for name in files if "held_out" not in name])
    assert "gmail.com" not in train and "[EMAIL]" in train and summary["personal_data"]["email"] >= 3
    assert "gmail.com" in json.dumps(files["held_out_prompts"])
    assert not any("@" in str(row["user"]) for rows in files.values() for row in rows)  # names are numbers
    kept, _ = made(tmp_path, rows, BuildSettings(held_out=0.3, personal_data="keep"))
    assert "gmail.com" in json.dumps(kept["prompts"])
    with pytest.raises(DataError, match=r"no prompt is left in the train split \(\d+ personal_data\)"):
        made(tmp_path, rows, BuildSettings(held_out=0.3, personal_data="drop"))


def test_training_prompts_that_give_away_the_evaluation_are_dropped(tmp_path):
    secret = "why does the moon always show the same side to those who look up at it from the earth"
    rows = [{"prompt": f"Tell me about number {n}", "user": f"u{n}"} for n in range(30)]
    held = {row["user"]: row["source"] for row in made(tmp_path, rows, BuildSettings())[0]["held_out_prompts"]}
    assert held  # whoever is held out keeps the secret; the others tell it
    inside = {source.split()[-1] for source in held.values()}
    for number, row in enumerate(rows, start=1):
        if str(number) in inside:
            row["prompt"] = f"Please tell me {secret}, part {number}"
    outside = [row for number, row in enumerate(rows, start=1) if str(number) not in inside]
    outside[0] |= {"prompt": f"Long ago I asked myself {secret.upper()}!"}
    outside[1] |= {"completion": f"One may ask {secret}."}
    outside[2] |= {"prompt": "Tell me why the moon always shows the same side"}
    files, summary = made(tmp_path, rows, BuildSettings())
    assert summary["dropped"]["leak"] == 2
    evaluation, training = tmp_path / "sets" / "held_out_prompts.jsonl", tmp_path / "sets" / "prompts.jsonl"
    assert check_leaks([str(training)], [str(evaluation)], 13)["leaks"] == []
    leaky = write_rows(
        tmp_path / "leaky.jsonl", [{"prompt": "x", "completion": outside[0]["prompt"]}, *files["prompts"]]
    )
    found = check_leaks([str(tmp_path / "leaky.jsonl")], [str(evaluation)], 13)
    assert found["rows"] == leaky and [one["training"] for one in found["leaks"]] == ["leaky.jsonl, row 1"]


def test_the_data_card_lets_datasets_load_every_set(tmp_path):
    rows = [
        {"prompt": f"Tell me about number {n}", "user": f"u{n % 9}", "completion": f"It is {n}."} for n in range(40)
    ]
    _, summary = made(tmp_path, rows, BuildSettings(held_out=0.3))
    for name in ("demonstrations", "prompts"):
        loaded = datasets.load_dataset(str(tmp_path / "sets"), name)
        assert set(loaded) == {"train", "validation"}
        assert len(loaded["train"]) == summary["files"][name]
    card = (tmp_path / "sets" / "README.md").read_text()
    assert "40 rows were read and 40 used" in card and "none of 9 users is in two splits" in card


def test_the_same_sources_give_the_same_bytes_and_an_earlier_build_is_replaced_whole(tmp_path):
    rows = [{"prompt": f"Say {n}", "user": str(n % 7), "completions": ["a", "b"], "ranks": [1, 2]} for n in range(30)]
    made(tmp_path, rows, BuildSettings(test=0.2))
    first = {path.name: path.read_bytes() for path in (tmp_path / "sets").iterdir()}
    assert "rankings_test.jsonl" in first
    made(tmp_path, rows, BuildSettings(test=0.2))
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "sets").iterdir()}
    made(tmp_path, [{"prompt": "Say x"}])
    left = {path.name for path in (tmp_path / "sets").iterdir()}
    assert left == {"prompts.jsonl", "dropped.jsonl", "README.md", "build.json"}
    (tmp_path / "sets" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds other files than a build"):
        made(tmp_path, rows)


def test_dialogues_of_two_sides_are_read_and_those_that_are_no_pair_counted(tmp_path):
    rows = [
        {"chosen": f"\n\nHuman: Hi {n}\n\nAssistant: Hello", "rejected": f"\n\nHuman: Hi {n}\n\nAssistant: Go"}
        for n in range(3)
    ]
    rows[1]["rejected"] = rows[1]["chosen"]
    files, summary = made(tmp_path, rows)
    assert [row["source"] for row in files["comparisons"]] == ["prompts.jsonl, row 1", "prompts.jsonl, row 3"]
    assert files["comparisons"][0]["prompt"] == [{"role": "user", "content": "Hi 0"}]
    assert summary["unusable_rows"] == {"same_answer": 1} and summary["rows"]["dropped"] == 1


def test_an_export_of_the_feedback_page_is_a_source(tmp_path):
    rows = [{"prompt": f"Say {n}", "completions": [" a", " b"], "user": f"u{n}"} for n in range(8)]
    store, work, _ = study(tmp_path, [*rows, {"prompt": "Do it"}])
    ada = store.join("Ada")
    while (item := work.next(ada)) is not None:
        skips = "demonstrate" in item.steps
        body = {"reason": "unclear", "note": ""} if skips else good_answer(item)
        work.submit(ada, item.id, f"answer-{item.item}", "skip" if skips else "answer", body)
    export_study(store, tmp_path / "export")
    files, summary = built([tmp_path / "export"], tmp_path / "sets", BuildSettings(held_out=0.3))
    assert (tmp_path / "export" / "demonstrations.jsonl").stat().st_size == 0  # which is no fault
    assert len(files["rankings"]) + len(files["rankings_held_out"]) == 8 == summary["users"]["known"]
    assert len(files["comparisons"]) == len(files["rankings"])  # given twice, written once
    assert len(files["ratings"]) + len(files["ratings_held_out"]) == 16
    assert summary["dropped"] == {"marked_unclear": 1}
    every = sorted(str(path) for path in (tmp_path / "export").glob("*.jsonl"))
    assert built(every, tmp_path / "again", BuildSettings(held_out=0.3))[0] == files


def test_what_a_simulated_labeler_said_stays_marked(tmp_path):
    judged = {"prompt": "Say 1", "completions": ["a", "b"], "ranks": [1, 2]}
    files, summary = made(tmp_path, [
        judged | {"is_simulated": True}, judged,
        {"prompt": "Say 1", "completion": "a", "rating": 3, "is_simulated": True},
    ])  # fmt: skip
    assert [row["is_simulated"] for row in files["rankings"]] == [True, False]
    assert [row["is_simulated"] for row in files["comparisons"]] == [True, False]
    assert files["ratings"][0]["is_simulated"] and summary["simulated_rows"] == 3
    assert "3 rows were judged by a simulated labeler" in (tmp_path / "sets" / "README.md").read_text()


def test_columns_may_have_other_names(tmp_path):
    columns = parse_columns(["prompt=question", "completion=answer"])
    files, _ = made(
        tmp_path, [{"question": "Why?", "answer": "So.", "prompt": "other"}], replace(ALL_TRAIN, columns=columns)
    )
    assert files["demonstrations"][0]["prompt"] == "Why?"
    with pytest.raises(SettingsError, match=r"--column: got 'prompt', wanted NAME=YOURS"):
        parse_columns(["prompt"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "x"}, r"row 2: it has 'question'; wanted rows with \"prompt\""),
        ({"instruction": "x", "output": "y"}, "--column NAME=YOURS"),
        ({"prompt": 3}, "it has 3 where text or a list of messages was wanted in 'prompt'"),
        ({"prompt": "x", "completions": ["a", "b"], "ranks": [1]}, "got 2 completions and 1 ranks"),
        ({"prompt": "x", "completions": "[a", "ranks": [1, 2]}, "wanted a list as JSON"),
        ({"prompt": "x", "completion": "y", "rating": "good"}, "got 'good' in 'rating', wanted a number"),
        ({"instruction": "x", "examples": [{"q": "a"}]}, r"got the example .*wanted {\"query\""),
        ({"prompt": "x", "completion": [{"role": "user", "content": "y"}]}, "it mixes text and lists of messages"),
    ],
)
def test_rows_of_no_known_shape_are_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message) as fault:
        made(tmp_path, [{"prompt": "fine"}, row])
    assert "Rows of" in str(fault.value) and "1 of 2" in str(fault.value)


def test_all_settings_that_make_no_sense_are_told_at_once():
    with pytest.raises(SettingsError) as fault:
        BuildSettings(draws=0, prefix=0, per_user=0, held_out=0.6, test=0.5, form="prose", personal_data="maybe")
    assert len(fault.value.faults) == 6


def test_the_command_builds_and_tells_all_faults_at_once(tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "a.jsonl", [{"prompt": f"Say {n}"} for n in range(9)])
    command = ("data", "build", tmp_path / "a.jsonl", "--out", tmp_path / "sets")
    done = call(monkeypatch, capsys, *command, "--draws", 0, "--column", "x", "--plain-template", "hello")
    assert done.code == 2 and "3 faults in the command line" in done.err
    done = call(monkeypatch, capsys, *command, "--plain-template", "Q: {prompt}\\nA:", "--json")
    assert done.code == 0 and json.loads(done.out)["files"] == {"prompts": 8, "held_out_prompts": 1}, done.err
    assert "no row has the column 'user'" in done.err
    assert read_rows(tmp_path / "sets" / "prompts.jsonl")[0]["prompt"].endswith("\nA:")
    check = ("data", "check", tmp_path / "sets" / "prompts.jsonl", "--against", tmp_path / "sets" / "prompts.jsonl")
    done = call(monkeypatch, capsys, *check, "--json")
    assert done.code == 2 and len(json.loads(done.out)["leaks"]) == 8 and "measures memory" in done.err


def test_nothing_left_says_why(tmp_path):
    with pytest.raises(DataError, match="no prompt is left of 2: 2 empty"):
        made(tmp_path, [{"prompt": ""}, {"prompt": " "}])


def test_prompts_without_labels_alone_go_to_ppo_when_asked(tmp_path):
    rows = [{"prompt": "Name a river.", "completion": "Rhine"}, {"prompt": "Name a lake."}]
    files, _ = made(tmp_path, rows, replace(ALL_TRAIN, prompts_without_labels=True))
    assert [row["prompt"] for row in files["prompts"]] == ["Name a lake."] and len(files["demonstrations"]) == 1
