import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kill_driver.py")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_at_twenty_random_moments_ends_like_an_undisturbed_one(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TUNEWELL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path), "20", "1"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 20
    assert found["files"] > 10
    assert len(found["killed_in"]) >= 3, f"the kills must hit several stages: {found['killed_in']}"
    assert found["differences"] == []
