"""Kill a PPO run at ten random moments, start it again each time, and compare its end with an undisturbed run.

Its own program: it imports everything first and then forks, so that a restart costs no import and most kills hit work.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import test_ppo_trainer as given  # noqa: E402
import torch  # noqa: E402
from stack_fakes import stack  # noqa: E402
from tunewell.toolkit.checkpoints import last_complete  # noqa: E402

KILLS = 10
SETTINGS = given.RESUMABLE | {"max_steps": 8, "save_total_limit": 2, "save_rollouts": True}


def run(folder: Path) -> None:
    """One attempt: from the last complete checkpoint, or from the start."""
    torch.set_num_threads(1)
    torch.manual_seed(time.time_ns() % 2**32)  # whatever happened before must not matter
    made = stack(folder.parent / "models")
    ppo = given.trainer(folder, made, ptx_dataset=given.TEXTS, **SETTINGS)
    newest = last_complete(folder / "out")
    ppo.train(resume_from_checkpoint=str(newest) if newest else None)
    rollouts = {path.name: path.read_text() for path in sorted((folder / "out" / "rollouts").glob("*.jsonl"))}
    result = {"log": given.measured(ppo)[:8], "digests": given.digests(made), "rollouts": rollouts}
    (folder / "result.json").write_text(json.dumps(result))


def attempt(folder: Path, seconds: float | None) -> bool:
    """Run in a process of its own; kill it after some seconds. Returns whether it was killed."""
    if not (child := os.fork()):
        try:
            run(folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        sys.exit(f"an attempt in {folder} failed")
    return False


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "models").mkdir(parents=True)
    stack(folder / "models")  # the reward adapter is made once
    start = time.monotonic()
    attempt(folder / "whole", None)
    whole = time.monotonic() - start
    rng = random.Random(0)
    kills = resumed = 0
    while kills < KILLS:
        before = last_complete(folder / "killed" / "out")
        (folder / "killed" / "result.json").unlink(missing_ok=True)
        # long enough to write a checkpoint now and then, short enough to be killed ten times before the end
        kills += attempt(folder / "killed", rng.uniform(0.1, 0.45) * whole)
        resumed += before is not None
    attempt(folder / "killed", None)
    results = [json.loads((folder / name / "result.json").read_text()) for name in ("whole", "killed")]
    print(json.dumps({"kills": kills, "resumed": resumed, "is_same": results[0] == results[1]}))
    if results[0] != results[1]:
        for key in results[0]:
            print(key, results[0][key] == results[1][key], file=sys.stderr)


if __name__ == "__main__":
    main()
