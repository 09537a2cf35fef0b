"""Environments of the peers, made at first use: their versions need not agree with ours."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".venv-peers"
TRL = ("trl==1.12.0", "torch==2.13.0", "transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0", "pandas", "rich")
"""The last TRL with a PPOTrainer, on the versions that this project uses too."""


def peer_python(name: str, needs: Sequence[str]) -> Path:
    """The interpreter of an environment that holds what a peer needs.

    Args:
        name: of its folder under `.venv-peers/`.
        needs: what pip installs; the environment is made anew when this changes.
    """
    python, ready = FOLDER / name / "bin" / "python", FOLDER / name / "ready.json"
    if not ready.exists() or json.loads(ready.read_text()) != list(needs):
        print(f"making the environment of the peer in {FOLDER / name} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *needs], check=True, stdout=sys.stderr)
        ready.write_text(json.dumps(list(needs)))
    return python
