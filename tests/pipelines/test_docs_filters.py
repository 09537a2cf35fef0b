"""The commands of docs/filters.md do to its rows what the page says."""

import json
import re
import shlex
from pathlib import Path

import pytest
from micro_run import call

PAGE = (Path(__file__).parents[2] / "docs" / "filters.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    tunewell filter rows.jsonl")]
DROPPED = {
    "--blocklist": [2, 5],
    "--benchmark": [6, 7],
    "--min-words": [8],
    "--repetition": [],
    "--personal-data": [3],
    "--exact-duplicates": [],
    "--near-duplicates": [7],
}


def test_every_command_of_the_page_is_known_here():
    flags = [shlex.split(command)[5] for command in COMMANDS]
    assert sorted(flags) == sorted([*DROPPED, "--toxicity", "--phrases"])  # those two need a model of the reader's


@pytest.mark.parametrize("flag", DROPPED)
def test_it_drops_the_lines_that_the_page_names(flag, tmp_path, monkeypatch, capsys):
    (tmp_path / "rows.jsonl").write_text(BLOCKS[0])
    (tmp_path / "benchmark.jsonl").write_text(BLOCKS[1])
    monkeypatch.chdir(tmp_path)
    (command,) = [command for command in COMMANDS if flag in command.split()]
    called = call(monkeypatch, capsys, *shlex.split(command)[1:], "--workers", "1")
    assert called.code == 0
    files = sorted((tmp_path / "clean" / "dropped").glob("*.jsonl"))
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert [row["source"]["line"] for row in rows] == DROPPED[flag]
    if flag == "--benchmark":
        said = "1 of 2 items are in the corpus, 1 with a whole passage; 1 are too short to be looked for"
        assert said in called.out and said in " ".join(PAGE.split())
