"""What a run was made on and with: versions, hardware, source state and peak memory."""

import contextlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

PACKAGES = (
    "tunewell", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "detoxify",
    "scikit-learn", "tokenizers", "numpy",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Version of Python and of each package that decides results; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPU (asked of torch only when torch is loaded already)."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": None,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
    return found


def source_state() -> dict[str, Any] | None:
    """Commit of the source tree and whether it has uncommitted changes; None for an installed package."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "has_changes": bool(_git(root, "status", "--porcelain"))}
    return None


class MemoryPeak:
    """Highest memory of this process while the block ran: resident memory, and the GPU's where torch uses one."""

    def __enter__(self) -> Self:
        # Linux keeps one high-water mark per process; writing 5 sets it back to the present use.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if _cuda() is not None:
            _cuda().reset_peak_memory_stats()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to undo."""

    def megabytes(self) -> dict[str, float]:
        """Peak in megabytes (10^6 bytes): `resident`, and `gpu` where torch uses one."""
        peak = {"resident": round(_resident_peak() / 1e6, 1)}
        if _cuda() is not None:
            peak["gpu"] = round(_cuda().max_memory_allocated() / 1e6, 1)
        return peak


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _resident_peak() -> float:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
