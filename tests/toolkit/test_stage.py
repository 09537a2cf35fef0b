import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tunewell.toolkit.conflicts import conflicts, refuse_conflicts, set_aside
from tunewell.toolkit.errors import DataError, RunError
from tunewell.toolkit.files import read_json, sha256_file
from tunewell.toolkit.stage import (
    Artifacts,
    Outcome,
    Planned,
    Stage,
    clear_leftovers,
    lock,
    plan,
    run_stage,
)

CODE = "code of today"
NAMES = ("filter", "sft", "eval")


def stages(calls: list[str], settings: dict | None = None, inputs: dict | None = None, names=NAMES) -> list[Stage]:
    """Stages that write one file each; the settings and inputs named here differ from the usual ones."""

    def work(name: str):
        def run(before: Artifacts, folder: Path) -> Outcome:
            calls.append(name)
            (folder / "sub").mkdir(parents=True, exist_ok=True)
            (folder / "sub" / "made.txt").write_text(f"{name} after {before.data and before.data.parent.name}")
            data = folder / "sub" if name == "filter" else before.data
            return Outcome(
                artifacts=Artifacts(base=before.base, data=data, sft=folder / "sub" if name == "sft" else before.sft),
                results={f"{name}.figure": {"value": 1.0, "low": 0.5, "high": 1.5, "n": 4}},
                rows={"rows": 4},
                warnings=(f"a warning of {name}",),
            )

        return run

    usual = {"seed": 0, "trainer": {"learning_rate": 0.1, "steps": 3}}
    return [
        Stage(
            name=name,
            settings=usual | (settings or {}).get(name, {}),
            inputs=(inputs or {}).get(name, {"words.txt": "abc"} if name == "filter" else {}),
            run=work(name),
        )
        for name in names
    ]


def go(planned: list[Planned], base: str = "a-model") -> tuple[Artifacts, list[bool]]:
    """Run all stages as the pipeline does."""
    artifacts, skipped = Artifacts(base=base), []
    for item in planned:
        artifacts, _, was_skipped = run_stage(item, artifacts)
        skipped.append(was_skipped)
    return artifacts, skipped


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash, and every folder."""
    return {
        str(path.relative_to(folder)): sha256_file(path) if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def done(tmp_path) -> Path:
    """The folder of a finished run of three stages."""
    run = tmp_path / "run"
    go(plan(stages([]), run, CODE))
    (run / "run.json").write_text("the record of the first run")
    return run


def test_every_stage_has_a_numbered_folder_and_a_fingerprint_that_depends_on_all_before_it(tmp_path):
    usual = plan(stages([]), tmp_path, CODE)
    assert [item.folder.name for item in usual] == ["01-filter", "02-sft", "03-eval"]
    changed = plan(stages([], settings={"sft": {"seed": 1}}), tmp_path, CODE)
    assert [a.fingerprint == b.fingerprint for a, b in zip(usual, changed, strict=True)] == [True, False, False]
    other_input = plan(stages([], inputs={"filter": {"words.txt": "abd"}}), tmp_path, CODE)
    other_code = plan(stages([]), tmp_path, "code of tomorrow")
    for other in (other_input, other_code):
        assert not {item.fingerprint for item in usual} & {item.fingerprint for item in other}
    elsewhere = plan(stages([]), tmp_path / "elsewhere", CODE)
    assert [item.fingerprint for item in usual] == [item.fingerprint for item in elsewhere]


def test_a_done_stage_is_skipped_and_its_record_says_what_it_made(done):
    calls = list[str]()
    before = contents(done)
    artifacts, skipped = go(plan(stages(calls), done, CODE))
    assert calls == [] and skipped == [True, True, True]
    assert contents(done) == before
    assert artifacts == Artifacts(base="a-model", data=done / "01-filter" / "sub", sft=done / "02-sft" / "sub")
    record = read_json(done / "02-sft" / "stage.json")
    assert record["finished"] is True and record["attempts"] == 1 and record["seconds"] >= 0
    assert record["rows"] == {"rows": 4} and record["warnings"] == ["a warning of sft"]
    assert record["results"] == {"sft.figure": {"value": 1.0, "low": 0.5, "high": 1.5, "n": 4}}
    assert record["peak_memory_mb"]["resident"] > 1
    assert record["settings"] == {"seed": 0, "trainer": {"learning_rate": 0.1, "steps": 3}}


def test_the_paths_of_artifacts_survive_moving_the_whole_run(done, tmp_path):
    moved = tmp_path / "archive" / "moved"
    moved.parent.mkdir()
    done.rename(moved)
    artifacts, skipped = go(plan(stages([]), moved, CODE))
    assert skipped == [True, True, True]
    assert artifacts.data == moved / "01-filter" / "sub"
    assert artifacts.data.is_dir()


def test_paths_outside_of_the_run_stay_as_they_are(tmp_path):
    outside = tmp_path / "outside"
    stage = Stage(name="sft", settings={}, run=lambda before, folder: Outcome(artifacts=Artifacts(sft=outside)))
    (item,) = plan([stage], tmp_path / "run", CODE)
    assert run_stage(item, Artifacts())[0].sft == outside
    assert run_stage(item, Artifacts())[0].sft == outside


def test_a_later_stage_sees_the_finished_folder_of_an_earlier_one_and_never_the_working_one(done):
    assert (done / "02-sft" / "sub" / "made.txt").read_text() == "sft after 01-filter"


def test_a_stage_appears_under_its_name_only_when_it_is_complete(tmp_path):
    seen = []

    def run(before: Artifacts, folder: Path) -> Outcome:
        seen.append((folder.name, sorted(path.name for path in tmp_path.iterdir())))
        raise DataError("a fault in the middle")

    (item,) = plan([Stage(name="filter", settings={}, run=run)], tmp_path, CODE)
    for attempt in (1, 2):
        with pytest.raises(DataError, match="in the middle"):
            run_stage(item, Artifacts())
        assert read_json(item.working / "stage.json")["attempts"] == attempt
    assert seen == [("01-filter.working", ["01-filter.working"])] * 2
    assert not item.folder.exists()


def test_a_stage_that_was_killed_goes_on_in_its_folder_and_counts_its_attempts(tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from tunewell.toolkit.stage import Artifacts, Stage, plan, run_stage

def run(before, folder):
    (folder / "half.txt").write_text("half of the work")
    os.kill(os.getpid(), signal.SIGKILL)

(item,) = plan([Stage(name="sft", settings={{"a": 1}}, run=run)], Path({str(tmp_path)!r}), "code")
run_stage(item, Artifacts())
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd="/", timeout=60)
    assert killed.returncode == -signal.SIGKILL

    def go_on(before: Artifacts, folder: Path) -> Outcome:
        assert (folder / "half.txt").read_text() == "half of the work"
        (folder / "half.txt").write_text("all of the work")
        return Outcome(artifacts=before)

    (item,) = plan([Stage(name="sft", settings={"a": 1}, run=go_on)], tmp_path, "code")
    refuse_conflicts([item])
    _, record, was_skipped = run_stage(item, Artifacts())
    assert not was_skipped and record["attempts"] == 2
    assert (item.folder / "half.txt").read_text() == "all of the work"
    assert not item.working.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from tunewell.toolkit.files import atomic_writer, unfinished_folder

working = Path(sys.argv[1])
with atomic_writer(working.parent / "run.json"), unfinished_folder(working / "deep" / "policy") as folder:
    (folder / "weights.safetensors").write_bytes(b"half")
    with atomic_writer(working / "deep" / "figures.json") as file:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_was_writing_is_cleared_away_and_nothing_else(tmp_path):
    planned = plan(stages([]), tmp_path, CODE)
    working = planned[0].working
    for other in (working / "deep" / ".mine.tmp", working / "deep" / "done.json", tmp_path / "notes" / "mine.txt"):
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("stays")
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / ".process-1" / working.name).mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", KILLED, str(working)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*"))) == len(before) + 6  # three that were being written, of one its file, and two
    clear_leftovers(planned)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("left", ["nothing", "half a record", "another record"])
def test_a_stage_that_made_nothing_yet_is_no_conflict(tmp_path, left):
    """A kill before the first byte, or a fault before any work: the next try must not need --set-aside."""
    (item,) = plan(stages([], names=("filter",)), tmp_path, CODE)
    item.working.mkdir(parents=True)
    if left == "half a record":
        (item.working / ".stage.json.0123456789ab.tmp").write_text('{"na')
    elif left == "another record":
        (item.working / "stage.json").write_text('{"fingerprint": "of a faulty recipe", "attempts": 3}')
    refuse_conflicts([item])
    assert set_aside([item]) is None
    assert run_stage(item, Artifacts())[1]["attempts"] == 1


def test_unfinished_work_of_other_settings_is_a_conflict(tmp_path):
    old, new = stages([], names=("sft",)), stages([], settings={"sft": {"seed": 7}}, names=("sft",))
    (item,) = plan(old, tmp_path, CODE)
    (item.working / "checkpoints").mkdir(parents=True)
    (item.working / "checkpoints" / "weights").write_text("an hour of training")
    (item.working / "stage.json").write_text('{"fingerprint": "of seed 0", "settings": {"seed": 0}}')
    with pytest.raises(RunError, match=r"02-sft.working|01-sft.working: seed was 0, now 7"):
        refuse_conflicts(plan(new, tmp_path, CODE))
    assert (item.working / "checkpoints" / "weights").read_text() == "an hour of training"


def test_changed_settings_are_refused_by_name_with_old_and_new_value_and_the_cure(done):
    before = contents(done)
    changed = {"sft": {"trainer": {"learning_rate": 0.2, "steps": 3, "warmup": 5}}}
    with pytest.raises(RunError) as caught:
        refuse_conflicts(plan(stages([], settings=changed), done, CODE))
    message = str(caught.value)
    assert f"{done / '02-sft'}: trainer.learning_rate was 0.1, now 0.2; trainer.warmup was 'not set', now 5" in message
    assert f"{done / '03-eval'}: an earlier stage or the code of tunewell has changed" in message
    assert "01-filter" not in message
    assert "Nothing was changed" in message and "--out" in message and "--set-aside" in message
    assert contents(done) == before


def test_a_changed_input_file_is_refused_by_name(done):
    with pytest.raises(RunError, match=r"01-filter: the input file words.txt has changed"):
        refuse_conflicts(plan(stages([], inputs={"filter": {"words.txt": "abd"}}), done, CODE))


def test_changed_code_is_refused(done):
    with pytest.raises(RunError, match=r"01-filter: an earlier stage or the code of tunewell has changed"):
        refuse_conflicts(plan(stages([]), done, "code of tomorrow"))


def test_a_damaged_record_is_refused(done):
    (done / "02-sft" / "stage.json").write_text('{"fingerprint": ')
    with pytest.raises(RunError, match=r"02-sft: its stage.json is missing or unreadable"):
        refuse_conflicts(plan(stages([]), done, CODE))


def test_stages_of_another_recipe_are_refused(done):
    """Fewer stages than before: the run's record would forget the others."""
    with pytest.raises(RunError, match=r"03-eval: a stage of another recipe"):
        refuse_conflicts(plan(stages([], names=("filter", "sft")), done, CODE))
    with pytest.raises(RunError, match=r"02-sft: a stage of another recipe"):
        refuse_conflicts(plan(stages([], names=("filter", "eval")), done, CODE))
    refuse_conflicts(plan(stages([], names=("filter", "sft", "eval", "more")), done, CODE))


def test_folders_of_the_user_are_no_conflict(done):
    (done / "04-notes").mkdir()
    (done / "04-notes" / "notes.txt").write_text("mine")
    assert conflicts(plan(stages([]), done, CODE)) == {}


def test_setting_aside_moves_the_conflicting_stage_and_all_later_ones_and_nothing_else(done):
    before = contents(done)
    planned = plan(stages([], settings={"sft": {"seed": 1}}), done, CODE)
    target = set_aside(planned)
    assert target == done / "set-aside" / "1"
    after = contents(done)
    assert {path for path in after if not path.startswith("set-aside")} == {
        path for path in before if path.startswith(("01-filter", "run.json"))
    }
    for path, digest in before.items():  # nothing is lost: what was moved is whole, and the record was copied
        kept = path if path.startswith("01-filter") else f"set-aside/1/{path}"
        assert after[kept] == digest
    refuse_conflicts(planned)
    assert go(planned)[1] == [True, False, False]


def test_setting_aside_twice_keeps_both_and_without_a_conflict_moves_nothing(done):
    planned = plan(stages([], settings={"eval": {"seed": 1}}), done, CODE)
    assert set_aside(planned) == done / "set-aside" / "1"
    assert set_aside(planned) is None
    go(planned)
    assert set_aside(plan(stages([], settings={"eval": {"seed": 2}}), done, CODE)) == done / "set-aside" / "2"
    assert sorted(path.name for path in (done / "set-aside").glob("*/03-eval")) == ["03-eval", "03-eval"]


def test_setting_aside_moves_unfinished_work_too(done):
    (done / "03-eval").rename(done / "03-eval.working")
    target = set_aside(plan(stages([], settings={"sft": {"seed": 1}}), done, CODE))
    assert sorted(path.name for path in target.glob("0*")) == ["02-sft", "03-eval.working"]


def test_a_run_folder_in_use_is_refused_and_free_again_when_its_process_has_died(tmp_path):
    script = f"""
import sys
from pathlib import Path
from tunewell.toolkit.stage import lock
with lock(Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="in use by another tunewell process"), lock(tmp_path):
            pytest.fail("two processes hold one run folder")
        other.kill()
    with lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


@pytest.mark.parametrize("place", ["a-file/run", "a-file", "read-only/run"])
def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path, place):
    (tmp_path / "a-file").write_text("something else")
    (tmp_path / "read-only").mkdir(mode=0o500)
    if place.startswith("read-only") and os.access(tmp_path / "read-only", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(RunError, match=r"cannot write in .*--out"), lock(tmp_path / place):
        pytest.fail("the lock was taken")
    assert (tmp_path / "a-file").read_text() == "something else"
