import errno
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from micro_run import MICRO, QUIET, STAGES, Called, Made, call, hashes, libraries_as_before, micro_run
from safetensors import SafetensorError
from safetensors.torch import load_file
from tunewell.pipelines import cli, training
from tunewell.toolkit import files
from tunewell.toolkit.errors import DataError, RunError
from tunewell.toolkit.settings.base import TinySettings
from tunewell.toolkit.tiny import PAD, build_base

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
SMALL = TinySettings(vocabulary=300, hidden_size=64, layers=1, heads=2, steps=1, tokens_per_step=128)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return micro_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def own_model(tmp_path_factory) -> Path:
    """A model of the user's, without a padding token and without a spare one."""
    folder = tmp_path_factory.mktemp("own") / "model"
    build_base(["The atlas says nothing."], folder, settings=SMALL)
    for name, key in (("tokenizer_config.json", "pad_token"), ("tokenizer.json", "padding")):
        tree = json.loads((folder / name).read_text())
        tree.pop(key)
        (folder / name).write_text(json.dumps(tree).replace(PAD, "<blank>"))
    return folder


@pytest.fixture
def user(monkeypatch, capsys, tmp_path):
    """Types commands in a folder with a few faulty files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "wrong.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (tmp_path / "broken.jsonl").write_text('{"chosen": "a", "rejected"\n')
    (tmp_path / "broken.yaml").write_text("name: [broken\n")
    (tmp_path / "file").write_text("in the way")
    with libraries_as_before():
        yield lambda *arguments: call(monkeypatch, capsys, *arguments)


def assert_one_clear_message(called: Called, *patterns: str) -> None:
    """Exit code 2; behind the progress stands one message, and nothing of how the program is built."""
    assert called.code == 2, called.err
    assert called.out == ""
    assert "Traceback" not in called.err and '.py"' not in called.err
    (message,) = re.findall(r"^error: .*\Z", called.err, re.MULTILINE | re.DOTALL)
    assert message.count("\nerror: ") == 0
    for pattern in patterns:
        assert re.search(pattern, message), f"{pattern} not in {message}"


HH = ("hh-rlhf", "base.model=tiny")
# what was done wrong: the command, and what the message says of what was got, what was wanted and the cure
FAULTS = {
    "a missing file of rows": (
        ("run", *HH, "data.path=missing.jsonl"),
        (r"data\.path .*got 'missing\.jsonl', wanted a file that exists",),
    ),
    "a missing folder of rows": (
        ("run", *HH, "data.path=no/such/folder"),
        (r"no/such/folder does not exist\. Its folder does not exist either",),
    ),
    "a missing file of questions": (
        ("run", *MICRO, "eval.questions=missing.csv"),
        (r"eval\.questions: got missing\.csv, which is not a file; wanted",),
    ),
    "a missing list of words": (
        ("run", *MICRO, "filter.blocklist=missing.txt"),
        (r"filter\.blocklist .*got 'missing\.txt', wanted a file or the name of a bundled one \(.*world",),
    ),
    "a missing recipe": (("run", "missing.yaml"), (r"got 'missing\.yaml', wanted a YAML file or the name of",)),
    "a broken recipe": (("run", "broken.yaml"), (r"broken\.yaml", r"line 2")),
    "an unknown key": (
        ("run", "sft.trainer.learningrate=1"),
        (r"sft\.trainer\.learningrate .*Did you mean 'learning_rate'",),
    ),
    "a wrong type": (("run", "seed=often"), (r"seed .*got 'often' \(text\); wanted a whole number of at least 0",)),
    "a value that the trainer refuses": (
        ("run", *MICRO, "sft.trainer.lr_scheduler_type=zigzag"),
        (r"SFTConfig refuses a value: .*zigzag",),
    ),
    "faults of several trainers, of which the last would train after hours": (
        ("run", *MICRO, "ppo.trainer.rollout_batch_size=0", "sft.trainer.per_device_train_batch_size=0"),
        (
            r"sft\.trainer\.per_device_train_batch_size: got 0, wanted at least 1",
            r"ppo\.trainer\.rollout_batch_size: got 0, wanted at least 1",
        ),
    ),
    "fewer prompts than a rollout takes": (  # told behind the filter, before SFT and the reward model train
        ("run", *MICRO, "ppo.trainer.rollout_batch_size=640"),
        (r"ppo\.trainer\.rollout_batch_size: got 640, wanted at most \d+: the data holds so many prompts",),
    ),
    "layers to adapt that the base lacks": (
        ("run", *MICRO, "sft.lora.target_modules=[nope]"),
        (r"sft\.lora\.target_modules: got \['nope'\], wanted layers of the base, such as q_proj, or all-linear",),
    ),
    "layers of the reward model that the base lacks": (
        ("reward", *MICRO, "reward.lora.target_modules=[nope]", "stages=[filter,reward]"),
        (r"reward\.lora\.target_modules: got \['nope'\], wanted layers of the base",),
    ),
    "an override that is none": (("run", "embedded", "seed"), (r"override 'seed': wanted section\.key=value",)),
    "an unknown model": (
        ("run", *MICRO, "base.model=nobody/has-this"),
        (r"base\.model: cannot load 'nobody/has-this' .*Wanted `tiny`, a folder .* or an id of the hub",),
    ),
    "a padding token that is the end token": (
        ("run", *MICRO, "base.model=OWN_MODEL", "base.pad_token=<eos>"),
        (r"'<eos>', which is also its end token",),
    ),
    "a GPU where there is none": (
        ("run", *MICRO, "base.device=cuda"),
        (r"base\.device: got 'cuda', but torch sees no GPU here\. Use base\.device=cpu",),
    ),
    "an empty file of rows": (
        ("run", *HH, "data.path=empty.jsonl"),
        (r"empty\.jsonl holds no rows; wanted at least one",),
    ),
    "an empty corpus": (("run", *MICRO, "base.corpus=empty.jsonl"), (r"empty\.jsonl holds no rows",)),
    "rows without the expected columns": (
        ("run", *HH, "data.path=wrong.jsonl"),
        (r"wrong\.jsonl: the first row has the columns question, answer; wanted `chosen` and `rejected`",),
    ),
    "a corpus without text": (
        ("run", *MICRO, "base.corpus=wrong.jsonl"),
        (r"row 0 .*wrong\.jsonl .*Wanted rows like \{\"text\": \"\.\.\.\"\}",),
    ),
    "rows that are not JSON": (("run", *HH, "data.path=broken.jsonl"), (r"broken\.jsonl:1, column \d+: bad JSON",)),
    "rows that are all too long": (
        ("run", *MICRO, "sft.max_length=8"),
        (r"no demonstration is left for SFT: .*Loosen the filters or raise sft\.max_length",),
    ),
    "a folder of a run that is none": (("report", "file"), (r"file has no run\.json, wanted the folder of a run",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_gets_one_clear_message_and_exit_code_2(user, own_model, tmp_path, fault):
    command, patterns = FAULTS[fault]
    command = [word.replace("OWN_MODEL", str(own_model)) for word in command]
    out = ("--out", "new") if command[0] == "run" else ()
    assert_one_clear_message(user(*command, *out), *patterns)


@pytest.mark.parametrize("fault", [fault for fault, (command, _) in FAULTS.items() if command[0] == "run"])
def test_after_a_fault_nothing_of_an_earlier_run_is_lost(user, own_model, made, tmp_path, fault):
    """The faulty command is given in the folder of a finished run: every byte of it stays where it was."""
    command = [word.replace("OWN_MODEL", str(own_model)) for word in FAULTS[fault][0]]
    before = hashes(made.folder)
    assert_one_clear_message(user(*command, "--out", made.folder), ".")
    assert hashes(made.folder) == before


@pytest.mark.parametrize("fault", ["an unknown model", "a GPU where there is none", "an empty corpus"])
def test_work_that_was_set_aside_for_a_faulty_run_is_whole(user, made, tmp_path, fault):
    run = Path(shutil.copytree(made.folder, tmp_path / "run"))
    assert_one_clear_message(user(*FAULTS[fault][0], "--out", run, "--set-aside"), *FAULTS[fault][1])
    aside = hashes(run / "set-aside" / "1")
    assert {name: digest for name, digest in hashes(made.folder).items() if not name.startswith(".")} == aside


def test_debug_shows_the_stack_trace_behind_the_message(user):
    plain = user("run", "seed=often")
    for words in (("--debug", "run", "seed=often"), ("run", "seed=often", "--debug")):
        shown = user(*words)
        assert shown.code == 2 and shown.out == ""
        assert "Traceback (most recent call last)" in shown.err and shown.err.endswith(plain.err)


# ---- folders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_folder_that_cannot_be_written_is_refused(user, tmp_path, out):
    assert_one_clear_message(user("run", *MICRO, "--out", out), rf"cannot write in {out}: .*writable folder with --out")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_cache_that_cannot_be_written_is_refused_by_name(user, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWELL_CACHE", str(tmp_path / "file" / "cache"))
    called = user("run", *MICRO, "--out", "run")
    assert_one_clear_message(called, r"cannot read or write .*file/cache: .*environment variable TUNEWELL_CACHE")


def test_a_folder_of_other_settings_is_refused_with_what_differs_and_the_ways_out(user, made):
    before = hashes(made.folder)
    called = user("run", *MICRO, "sft.trainer.learning_rate=0.5", "--out", made.folder)
    assert_one_clear_message(
        called,
        r"02-sft: sft\.trainer\.learning_rate was 0\.001, now 0\.5",
        r"03-reward: an earlier stage",
        r"Nothing was changed\. Choose another folder with --out, or give --set-aside",
    )
    assert "01-filter" not in called.err
    assert hashes(made.folder) == before


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (("hh-rlhf", "data.path=wrong.jsonl"), r"01-filter: .*data\.source was 'world', now 'hh'"),
        ((*MICRO, "stages=[filter, sft]"), r"03-reward: a stage of another recipe"),
    ],
)
def test_a_folder_of_another_recipe_is_refused(user, made, other, difference):
    before = hashes(made.folder)
    assert_one_clear_message(user("run", *other, "--out", made.folder), difference, "--set-aside")
    assert hashes(made.folder) == before


def test_a_folder_in_use_is_refused(user, made):
    script = f"""
import sys
from pathlib import Path
from tunewell.toolkit.stage import lock
with lock(Path({str(made.folder)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        assert_one_clear_message(user("run", *MICRO, "--out", made.folder), "is in use by another tunewell process")
        other.kill()


def test_a_run_whose_files_were_deleted_gets_no_report_and_keeps_its_old_one(user, made, tmp_path):
    run = Path(shutil.copytree(made.folder, tmp_path / "run"))
    (run / "05-eval" / "comparisons.json").unlink()
    page = (run / "report.html").read_bytes()
    assert_one_clear_message(user("report", run), r"cannot read .*comparisons\.json")
    assert (run / "report.html").read_bytes() == page


def test_a_fault_before_any_work_does_not_stand_in_the_way_of_the_mended_command(user, tmp_path):
    assert user("run", *MICRO, "stages=[filter]", "base.corpus=empty.jsonl", "--out", "run").code == 2
    mended = user("run", *MICRO, "stages=[filter]", "--out", "run")
    assert mended.code == 0, mended.err


@pytest.mark.parametrize(
    ("fault", "cure"),
    [("base.device=cuda", "base.device=cpu"), ("base.pad_token=<eos>", "base.pad_token=null")],
)
def test_a_fault_of_the_model_is_found_before_the_first_stage(user, own_model, fault, cure):
    Path("own").symlink_to(own_model)
    first = ["run", *MICRO, "stages=[filter, sft]", "base.model=own", fault, "--out", "run"]
    assert user(*first).code == 2
    mended = user(*first, cure)
    assert mended.code == 0, mended.err
    adapter = files.read_json(Path("run/02-sft/policy/adapter_config.json"))  # loaded from other folders too
    assert adapter["base_model_name_or_path"] == str(Path("own").absolute())
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "The stages of the run" in page and "tiny base" not in page


def test_a_model_without_padding_token_gets_one_that_no_adapter_brings_along(user, own_model, tmp_path):
    done = user("run", *MICRO, "stages=[filter, sft, reward]", f"base.model={own_model}", "--out", "run")
    assert done.code == 0, done.err
    assert "warning: The tokenizer has no padding token: '<|pad|>' pads instead" in done.err
    folders = sorted(path.parent for path in (tmp_path / "run").rglob("adapter_model.safetensors"))
    assert len(folders) == 4  # policy and reward, and a checkpoint of each
    for folder in folders:
        names = load_file(folder / "adapter_model.safetensors").keys()
        assert names and not [name for name in names if "embed_tokens" in name or "lm_head" in name]


# ---- a full disk -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attempts(tmp_path_factory) -> list[dict]:
    """One run on a disk that is too small in the filter, then in each training, and at last large enough."""
    disk = tmp_path_factory.mktemp("disk")
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if shutil.which("unshare") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk in a namespace of its own")
    kilobytes = ["64", "400", "1000", "1400", "1800", "64000"]
    driver = Path(__file__).with_name("full_disk_driver.py")
    command = ["unshare", "-rm", sys.executable, str(driver), str(disk), *kilobytes]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=200)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(kilobytes), done.stderr
    return found


def test_a_full_disk_at_any_moment_is_told_and_the_same_command_goes_on_when_there_is_room(attempts):
    failed = [attempt for attempt in attempts if attempt["code"] != 0]
    assert len(failed) >= 4 and attempts[-1]["code"] == 0, attempts[-1]["err"]
    for attempt in failed:
        assert_one_clear_message(Called(attempt["code"], attempt["out"], attempt["err"]), "the disk is full")
    assert {len(attempt["done"]) for attempt in attempts} >= {0, 1, 2, 5}
    for earlier, later in itertools.pairwise(attempts):
        for stage, digests in earlier["done"].items():
            assert later["done"][stage] == digests, f"{stage} was made again"
    assert set(attempts[-1]["done"]) == set(STAGES)


def test_a_run_that_met_a_full_disk_ends_like_an_undisturbed_one(attempts, made):
    assert json.loads(attempts[-1]["out"])["results"] == json.loads(made.called.out)["results"]


def test_a_fault_behind_the_last_checkpoint_costs_no_step_too_many(user, tmp_path, monkeypatch):
    command = ("run", *MICRO, "stages=[filter, sft]", "sft.trainer.lr_scheduler_type=constant", "--out")
    assert user(*command, "undisturbed").code == 0
    write = training.write_json

    def fail(path: Path, tree: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training, "write_json", fail)
    assert_one_clear_message(user(*command, "disturbed"), "the disk is full")
    monkeypatch.setattr(training, "write_json", write)
    assert user(*command, "disturbed").code == 0
    adapters = [hashes(tmp_path / name / "02-sft" / "policy") for name in ("undisturbed", "disturbed")]
    assert adapters[0] == adapters[1]
    log = json.loads((tmp_path / "disturbed" / "02-sft" / "log.json").read_text())
    assert max(entry["step"] for entry in log) == 2


def test_a_record_that_cannot_be_written_leaves_the_old_one(user, made, tmp_path, monkeypatch):
    run = Path(shutil.copytree(made.folder, tmp_path / "run"))
    before = hashes(run)

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    assert_one_clear_message(user("run", *MICRO, "--out", run), r"the disk is full: cannot write .*run\.json")
    assert hashes(run) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "in the words of another language"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
    ids=["system", "quota", "safetensors", "torch", "torch, at the end"],
)
def test_every_library_s_words_for_a_full_disk_are_understood(error):
    fault = cli._user_fault(error)
    assert isinstance(fault, RunError) and "the disk is full" in str(fault) and "same command again" in str(fault)
    wrapped = ValueError("while saving")
    wrapped.__cause__ = error
    assert "the disk is full" in str(cli._user_fault(wrapped))


def test_an_error_that_is_nobodys_fault_stays_one():
    assert cli._user_fault(KeyError("x")) is None
    assert cli._user_fault(OSError("a connection broke")) is None
    behind = KeyError("x")
    behind.__cause__ = DataError("the rows")
    assert cli._user_fault(behind) is behind.__cause__
