"""Run the micro recipe on a disk that is too small, and make it larger until the run ends well.

Needs a mount namespace of its own: `unshare -rm python full_disk_driver.py FOLDER SIZE_KB...`. Prints one line of JSON
for each size: exit code, message, and the hashes of the finished stages.
"""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

from micro_run import MICRO, STAGES, hashes
from tunewell.pipelines.cli import main


def attempt(disk: Path) -> dict[str, object]:
    """Give the same command once more."""
    sys.argv = ["tunewell", "run", *MICRO, "--json", "--out", str(disk / "run")]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    done = {name: hashes(disk / "run" / name) for name in STAGES if (disk / "run" / name).is_dir()}
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "done": done}


def main_of_driver(disk: Path, sizes: list[str]) -> None:
    """Try with each size, in kilobytes."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sizes[0]}k", "tmpfs", str(disk)], check=True)
    for size in sizes:
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
        print(json.dumps(attempt(disk)), flush=True)


if __name__ == "__main__":
    main_of_driver(Path(sys.argv[1]), sys.argv[2:])
