import json
import os
import subprocess
import sys

import pytest
import torch
from micro_run import MICRO, STAGES
from safetensors.torch import load_file

ONE = ("sft.trainer.per_device_train_batch_size=8", "reward.trainer.per_device_train_batch_size=8")
TWO = ("sft.trainer.per_device_train_batch_size=4", "reward.trainer.per_device_train_batch_size=4",
       "ppo.trainer.per_device_train_batch_size=2")  # fmt: skip
SAVING = ("sft.trainer.max_steps=3", "sft.trainer.save_steps=1", "base.device=cpu")


def run(folder, launcher, settings, command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    arguments = [command, *MICRO, *SAVING, *settings, "--out", str(folder)]
    return subprocess.run(
        [sys.executable, "-m", *launcher, *arguments], cwd="/", env=environment, capture_output=True, text=True,
        timeout=250,
    )  # fmt: skip


def losses(folder, stage):
    log = json.loads((folder / stage / "log.json").read_text())
    return [entry[key] for entry in log for key in ("loss", "grad_norm") if key in entry]


@pytest.mark.slow  # five processes
def test_two_processes_train_what_one_trains_and_go_on_after_a_stop(tmp_path):
    port = 20000 + os.getpid() % 20000
    launcher = ["torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", "-m", "tunewell"]
    one = run(tmp_path / "one", ["tunewell"], ONE, command="reward")
    two = run(tmp_path / "two", launcher, TWO, command="sft")
    assert one.returncode == 0, one.stderr[-2000:]
    assert two.returncode == 0, two.stderr[-2000:]
    # Back to a stage that was killed while it wrote its last checkpoint, as the first of two processes leaves it.
    done, working = tmp_path / "two" / STAGES[1], tmp_path / "two" / f"{STAGES[1]}.working"
    done.rename(working)
    (working / "checkpoints" / "checkpoint-3" / "complete.json").unlink()
    assert (working / "checkpoints" / "checkpoint-2" / "rng_state_1.pth").exists()
    (working / "log.json").unlink()
    two = run(tmp_path / "two", launcher, TWO, command="reward")
    assert two.returncode == 0, two.stderr[-2000:]
    assert two.stdout.count("report:") == 1 and two.stderr.count("02-sft") == 1  # one of the two speaks
    for stage in STAGES[1:3]:
        assert losses(tmp_path / "two", stage) == pytest.approx(losses(tmp_path / "one", stage), rel=1e-5)
    adapters = [
        load_file(tmp_path / name / "02-sft" / "policy" / "adapter_model.safetensors") for name in ("one", "two")
    ]
    for key, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][key], tensor, atol=1e-6, rtol=1e-5)
    assert [path.name for path in sorted((tmp_path / "two").iterdir()) if path.is_dir()] == list(STAGES[:3])


def test_stages_that_train_several_models_in_turn_are_refused_in_several_processes(tmp_path, monkeypatch):
    from tunewell.pipelines.console import Console
    from tunewell.pipelines.recipe import find_recipe, read_recipe
    from tunewell.pipelines.run import run_recipe
    from tunewell.toolkit.errors import SettingsError

    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = read_recipe(find_recipe("findings/instruction-mixture"), [])
    with pytest.raises(SettingsError, match="mixture in 2 processes, wanted one process"):
        run_recipe(recipe, tmp_path / "run", Console(is_quiet=True))
