import json
import multiprocessing
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from corpus_runs import QUIET, outputs, run, settings
from tunewell.pipelines.corpus import engines
from tunewell.pipelines.corpus.engines import find_engine, n_workers_for
from tunewell.pipelines.corpus.ray_engine import _Watch, ray_engine
from tunewell.pipelines.corpus.runner import make_plan, run_corpus
from tunewell.pipelines.corpus.worker import Done, Task
from tunewell.toolkit.errors import MissingPackageError, RunError, SettingsError

N_ROWS = 18_000
DRIVER = Path(__file__).with_name("corpus_ray_driver.py")


def write(path):
    text = "some words that take a while to look through " * 5
    path.write_text("".join(
        json.dumps({"id": n, "text": f"{text} {n}" + " badword" * (n % 7 == 0)}) + "\n" for n in range(N_ROWS)
    ))  # fmt: skip
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)  # ten processes of Ray start slowly on a busy machine
def test_ray_gives_the_same_bytes_as_a_local_run_though_a_node_dies_in_the_middle(tmp_path):
    pytest.importorskip("ray", reason="the extra [cluster] is not installed")
    rows, out = write(tmp_path / "rows.jsonl"), tmp_path / "ray"
    own = settings(tmp_path, repetition={}, exact_duplicates=True)
    run([rows], tmp_path / "local", own, unit_bytes=500_000)

    command = [sys.executable, str(DRIVER), str(rows), str(out), str(tmp_path / "words.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["workers"] == 2 and told["units"] >= 8 and told["left_at_kill"] >= 3
    # The bar moves while units are worked at, and ends where the input does.
    assert len([n_bytes for n_bytes in told["bytes"] if n_bytes > 0]) > told["units"]
    assert sum(told["bytes"]) == rows.stat().st_size
    assert json.loads((out / "run.json").read_text())["engine"] == "ray"
    assert outputs(out) == outputs(tmp_path / "local")


def test_what_a_lost_worker_had_read_of_a_unit_is_taken_back(tmp_path):
    pytest.importorskip("ray", reason="the extra [cluster] is not installed")
    plan = make_plan([str(write(tmp_path / "rows.jsonl"))], tmp_path / "out", settings(tmp_path), unit_bytes=2_000_000)
    told = []
    watch = _Watch(told.append)
    watch._tell(1, 700)
    watch.forget(1)
    watch._tell(1, 300)
    record = {"segments": [{"bytes": 900}, {"bytes": 100}]}
    watch.settle(Done(Task(plan.units[1]), record))
    watch.settle(Done(Task(plan.units[0]), record))
    watch.settle(Done(Task(plan.units[0], is_publishing=True), {}))
    assert told == [700, -700, 300, 700, 1000]


def test_a_cluster_that_is_not_there_is_told_with_the_way_to_start_one(tmp_path):
    pytest.importorskip("ray", reason="the extra [cluster] is not installed")
    rows = write(tmp_path / "rows.jsonl")
    plan = make_plan([str(rows)], tmp_path / "out", settings(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RunError, match="ray start --head"), find_engine("ray", plan, None, address):
        pass


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    rows = write(tmp_path / "rows.jsonl")
    plan = make_plan([str(rows)], tmp_path / "out", settings(tmp_path))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r'pip install "tunewell\[cluster\]"'), find_engine("ray", plan, None):
        pass


def test_faults_of_the_engine_are_told_at_once(tmp_path):
    rows = write(tmp_path / "rows.jsonl")
    plan = make_plan([str(rows)], tmp_path / "out", settings(tmp_path))
    with pytest.raises(SettingsError) as error, find_engine("spark", plan, 0):
        pass
    assert len(error.value.faults) == 2 and "local, ray" in str(error.value)
    address = pytest.raises(SettingsError, match="--address: goes with --engine ray")
    with address, find_engine("local", plan, 1, "auto"):
        pass


def test_a_pool_whose_processes_die_is_made_anew_and_gives_up_with_advice(tmp_path, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool

    rows = write(tmp_path / "rows.jsonl")
    plan = make_plan([str(rows)], tmp_path / "out", settings(tmp_path), unit_bytes=2_000_000)
    calls = []

    def dying(self, plan, tasks, progress):
        calls.append([task.unit.number for task in tasks])
        if len(calls) > 1:
            raise BrokenProcessPool
        yield from engines.InProcess().run(plan, tasks[:2], progress)
        raise BrokenProcessPool

    monkeypatch.setattr(engines.LocalPool, "_pool_run", dying)
    with pytest.raises(RunError, match="fewer --workers"):
        run_corpus(plan, QUIET, engine=engines.LocalPool(2))
    assert [len(numbers) for numbers in calls] == [len(plan.units), len(plan.units) - 2, len(plan.units) - 2]


@pytest.mark.parametrize("mode", [None, "token"])
def test_a_cluster_that_cannot_be_joined_may_lack_a_token_which_ray_does_not_say(tmp_path, monkeypatch, mode):
    ray = pytest.importorskip("ray", reason="the extra [cluster] is not installed")

    def refuse(**settings):
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", refuse)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    else:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RunError, match="ray start --head") as caught, ray_engine(None, 1, address):
            pass
    assert ("RAY_AUTH_MODE=token" in str(caught.value)) == (mode is None)


def test_gpus_are_shared_out_among_the_workers_of_a_pool(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    assert engines.gpus() == ["2", "GPU-5"]
    seen = []
    monkeypatch.setattr(engines, "start_worker", lambda plan, report: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]))
    context = multiprocessing.get_context("spawn")
    tickets, read = context.Value("i", 0), context.Value("q", 0)
    for _ in range(3):
        engines._begin(None, read, tickets, ["2", "GPU-5"])
    assert seen == ["2", "GPU-5", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert engines.gpus() == []


def test_a_model_gets_a_worker_for_each_gpu_and_other_filters_one_for_each_core(tmp_path, monkeypatch):
    rows = write(tmp_path / "rows.jsonl")
    plan = make_plan([str(rows)], tmp_path / "out", settings(tmp_path), unit_bytes=100_000)
    monkeypatch.setattr(engines.os, "sched_getaffinity", lambda pid: set(range(5)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    neural = replace(plan, settings=replace(plan.settings, toxicity="hf:folder"))
    assert neural.needs_model and not plan.needs_model
    assert (n_workers_for(plan, None), n_workers_for(neural, None), n_workers_for(neural, 2)) == (5, 3, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert n_workers_for(neural, None) == 5
