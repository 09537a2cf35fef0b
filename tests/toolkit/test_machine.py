import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tunewell.toolkit import machine
from tunewell.toolkit.machine import hardware, source_state, versions

IS_RESETTABLE = Path("/proc/self/clear_refs").exists()


def test_versions_name_python_and_every_package_that_decides_results():
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] and found["trl"] and found["tunewell"]


def test_a_package_that_is_not_installed_has_no_version_instead_of_an_invented_one(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("surely-not-installed-here",))
    assert versions() == {"python": platform.python_version(), "surely-not-installed-here": None}


def test_hardware_is_measured_without_loading_torch():
    script = """
import sys
from tunewell.toolkit.machine import hardware, MemoryPeak
found = hardware()
with MemoryPeak() as peak:
    pass
assert found["gpu"] is None and "threads" not in found and "gpu" not in peak.megabytes()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd="/", check=True, timeout=60)
    found = hardware()
    assert found["cores"] >= 1
    assert found["memory_gb"] == pytest.approx(psutil.virtual_memory().total / 1e9, abs=0.1)
    assert found["processor"] and platform.system() in found["system"]


def test_the_source_state_is_that_of_the_repository_or_missing_for_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "package" / "toolkit"
    package.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    assert source_state() is None

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=package.parent, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    assert source_state() is None  # a repository without a commit has no state to name
    (package / "machine.py").write_text("first")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    assert source_state() == {"commit": git("rev-parse", "HEAD"), "has_changes": False}
    (package / "machine.py").write_text("second")
    assert source_state() == {"commit": git("rev-parse", "HEAD"), "has_changes": True}


@pytest.mark.skipif(not IS_RESETTABLE, reason="only Linux can set the mark of the highest memory back")
def test_the_peak_of_a_block_sees_memory_that_was_given_back_and_none_of_an_earlier_block():
    script = """
from tunewell.toolkit.machine import MemoryPeak

def peak_of(size):
    with MemoryPeak() as peak:
        block = bytearray(b"x" * size)
        del block
    return peak.megabytes()["resident"]

print(peak_of(10), peak_of(200_000_000), peak_of(10))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd="/", check=True, capture_output=True, text=True)
    first, large, last = map(float, done.stdout.split())
    assert large > first + 190
    assert last < first + 50
