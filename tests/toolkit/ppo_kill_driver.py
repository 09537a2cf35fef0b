"""Kill a PPO run at ten random moments, start it again each time, and compare its end with an undisturbed run.

Its own program: it imports everything first and then forks, so that a restart costs no import and most kills hit work.
"""

import gc
import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process that has used a GPU cannot fork another that uses it
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
    gc.freeze()  # or each child walks through all that was imported whenever a training frees its memory
    stack(folder / "models")  # the reward adapter is made once
    start = time.monotonic()
    attempt(folder / "whole", None)
    whole = time.monotonic() - start
    rng = random.Random(0)
    wanted = result_of(folder / "whole")
    kills = resumed = runs = 0
    is_same = True
    while kills < KILLS:
        killed = folder / f"killed-{runs}"
        runs += 1
        while True:  # until it reaches its end, which a fast moment may bring before all kills are spent
            resumed += last_complete(killed / "out") is not None
            # long enough to write a checkpoint now and then, short enough to be killed often before the end
            if not attempt(killed, rng.uniform(0.1, 0.45) * whole if kills < KILLS else None):
                break
            kills += 1
        found = result_of(killed)
        is_same = is_same and found == wanted
        for key in wanted:
            print(killed.name, key, found[key] == wanted[key], file=sys.stderr)
    print(json.dumps({"kills": kills, "runs": runs, "resumed": resumed, "is_same": is_same}))


def result_of(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


if __name__ == "__main__":
    main()
