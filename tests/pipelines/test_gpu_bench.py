"""The single-GPU bench on a model of two small layers: its whole path, on whatever device there is."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu_single.py"


@pytest.mark.slow
def test_every_stage_of_the_single_gpu_bench_runs_and_is_measured():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--tiny", "--json"], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-2000:]
    table = json.loads(done.stdout.splitlines()[-1])
    rates = [table[f"{stage}.tokens_per_second"]["ours"] for stage in ("sft", "reward", "ppo")]
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)
    shares = [table[f"ppo.share_of_{part}"]["ours"] for part in ("generate", "score", "update")]
    assert all(0 < share < 1 for share in shares) and math.isclose(sum(shares), 1)
    assert all(table[f"{stage}.planned_gb"]["ours"] > 0 for stage in ("sft", "reward", "ppo"))
    peaks = [table[f"{stage}.peak_gb"]["ours"] for stage in ("sft", "reward", "ppo")]
    # what could not be measured is missing, not zero
    assert all(peak is None or peak > 0 for peak in peaks)
