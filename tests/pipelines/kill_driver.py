"""Kill runs at random moments, start them again, and compare what they made with an undisturbed run.

Its own program: it imports everything first and then forks, so that a restart costs no import and most kills hit work.
"""

import gc
import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path

from killing import in_child

os.environ["HF_HUB_OFFLINE"] = "1"
MICRO = [
    "base.tiny.hidden_size=64", "base.tiny.layers=2", "base.tiny.heads=2", "base.tiny.steps=12",
    "data.limit=120", "filter.removal_rate=0.2", "filter.phrases=world",
    "sft.trainer.max_steps=4", "sft.trainer.save_steps=1", "sft.lora.dropout=0.1",
    "reward.trainer.max_steps=4", "reward.trainer.save_steps=1",
    "ppo.trainer.max_steps=4", "ppo.trainer.save_steps=1", "ppo.trainer.rollout_batch_size=8",
    "ppo.trainer.num_mini_batches=2", "ppo.trainer.per_device_train_batch_size=4", "ppo.trainer.response_length=8",
    "ppo.trainer.ptx_coef=0.1", "ppo.trainer.ptx_block_size=32", "ppo.trainer.ptx_batch_size=2",
    "eval.limit=4", "eval.samples_per_prompt=1", "eval.max_new_tokens=8",
]  # fmt: skip


def run_once(folder: Path) -> None:
    from tunewell.pipelines.console import Console
    from tunewell.pipelines.recipe import find_recipe, read_recipe
    from tunewell.pipelines.run import run_recipe

    recipe = read_recipe(find_recipe("embedded"), MICRO)
    run_recipe(recipe, folder, Console(is_quiet=True))


def outcome(folder: Path) -> dict[str, object]:
    """All that must not depend on kills: figures, kept rows, weights, and every answer."""
    from tunewell.toolkit.files import read_json

    record = read_json(folder / "run.json")
    compared = ("*.safetensors", "*.jsonl", "truthfulness.json", "toxicity.json", "reward.json", "comparisons.json")
    files = {
        # A result names the file that its questions came from, which lies in the run's own folder.
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes().replace(str(folder).encode(), b"")).hexdigest()
        for pattern in compared
        for path in sorted(folder.rglob(pattern))
        if "checkpoints" not in path.parts
    }
    return {"results": record["results"], "files": files}


def main() -> None:
    root, kills_wanted, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    import warnings

    import torch
    import trl
    import tunewell.toolkit.ppo.trainer
    from tunewell.filters import trigger
    from tunewell.toolkit.toxicity import tfidf

    modules = (trl.SFTTrainer, trl.RewardTrainer, tunewell.toolkit.ppo.trainer, trigger, tfidf)
    gc.freeze()  # or each child walks through all that was imported whenever a training frees its memory
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    rng = random.Random(seed)
    began = time.monotonic()
    in_child(run_once, root / "undisturbed")
    whole = time.monotonic() - began
    wanted = outcome(root / "undisturbed")
    kills, resumed_in, differences, folder_number = 0, [], [], 0
    while kills < kills_wanted:
        folder = root / f"killed-{folder_number}"
        folder_number += 1
        while not in_child(
            run_once, folder, kill_after=rng.uniform(0.02, 0.7) * whole if kills < kills_wanted else None
        ):
            kills += 1
            resumed_in.append(sorted(path.name for path in folder.glob("*.working")) or ["between stages"])
        found = outcome(folder)
        if found != wanted:
            both = found["files"].keys() | wanted["files"].keys()
            wrong = [name for name in sorted(both) if found["files"].get(name) != wanted["files"].get(name)]
            differences.append(
                {"folder": folder.name, "files": wrong, "same_results": found["results"] == wanted["results"]}
            )
    places = [place for names in resumed_in for place in names]
    print(json.dumps({"kills": kills, "runs": folder_number, "seconds_undisturbed": whole, "differences": differences,
                      "killed_in": {name: places.count(name) for name in sorted(set(places))},
                      "files": len(wanted["files"]), "modules": len(modules)}))  # fmt: skip


if __name__ == "__main__":
    main()
