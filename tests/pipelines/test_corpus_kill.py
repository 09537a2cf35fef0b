import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from corpus_runs import outputs, records

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "tunewell.pipelines.cli", "filter"]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_no_trace_in_the_results(tmp_path):
    done = subprocess.run(
        [sys.executable, str(HERE / "corpus_kill_driver.py"), str(tmp_path), "20", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 20 and found["differences"] == []
    assert len(found["phases"]) >= 3, "the kills should hit several phases of a run"
    assert set(found["reasons"]) == {"listed_phrase", "exact_duplicate", "near_duplicate"}


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "words.txt").write_text("badword\n")
    rows = tmp_path / "rows.jsonl"
    text = "some words that take a while to look through " * 30
    rows.write_text("".join(json.dumps({"id": n, "text": f"{text} {n}"}) + "\n" for n in range(4_000)))
    return rows


def start(corpus, out, workers):
    # Repetition rules make the run last a few seconds.
    return subprocess.Popen(
        [*COMMAND, str(corpus), "--out", str(out), "--repetition", "--workers", str(workers), "--quiet",
         "--unit-mb", "0.5", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def units_done(out):
    return len(list((out / ".work" / "units").glob("[0-9]*")))


def wait_for_a_unit(out, process):
    end, before = time.monotonic() + 60, units_done(out)
    while units_done(out) == before:
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_pool_leaves_no_process_and_ctrl_c_stops_with_advice(tmp_path, corpus):
    out = tmp_path / "out"
    process = start(corpus, out, 2)
    wait_for_a_unit(out, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not psutil.wait_procs(children, timeout=20)[1]

    process = start(corpus, out, 2)
    wait_for_a_unit(out, process)
    process.send_signal(signal.SIGSTOP)  # or it might be done before a busy machine has listed its processes
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "give the same command again" in err and "Traceback" not in err
    assert not psutil.wait_procs(children, timeout=20)[1]

    process = start(corpus, out, 2)
    shown, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(shown.splitlines()[-1])["read"] == 4_000
    assert len(records(out, "kept")) + len(records(out, "dropped")) == 4_000

    one = tmp_path / "one"
    alone = start(corpus, one, 1)
    assert alone.communicate(timeout=120) and alone.returncode == 0
    assert outputs(one) == outputs(out)


@pytest.mark.slow
def test_on_a_full_disk_nothing_is_lost_and_the_same_command_goes_on(tmp_path, corpus):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets no one make a mount namespace")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, str(HERE / "corpus_full_disk_driver.py"), str(disk), str(corpus),
         "2", "4", "100"],
        capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    small, larger, enough = (json.loads(line) for line in done.stdout.splitlines()[-3:])
    for one in (small, larger):
        assert one["code"] == 2 and "disk is full" in one["err"] and "Traceback" not in one["err"], one
    assert larger["judged"] >= small["judged"] > 0
    assert enough["code"] == 0, enough["err"]
    counts = json.loads(enough["out"].splitlines()[-1])
    assert counts["read"] == 4_000 == counts["kept"] + counts["dropped"]
