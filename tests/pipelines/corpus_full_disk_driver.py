"""Filter a corpus onto a disk that is too small, and make it larger until the run ends well.

Needs a mount namespace of its own: `unshare -rm python corpus_full_disk_driver.py FOLDER CORPUS SIZE_MB...`. Prints one
line of JSON for each size.
"""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

from tunewell.pipelines.cli import main


def attempt(disk: Path, corpus: str) -> dict[str, object]:
    """Give the same command once more."""
    out = disk / "out"
    sys.argv = ["tunewell", "filter", corpus, "--blocklist", "world", "--out", str(out), "--json", "--quiet",
                "--workers", "1", "--unit-mb", "0.7"]  # fmt: skip
    shown, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    judged = len(list((out / ".work" / "units").glob("[0-9]*")))
    return {"code": code or 0, "out": shown.getvalue(), "err": err.getvalue(), "judged": judged}


def main_of_driver(disk: Path, corpus: str, sizes: list[str]) -> None:
    """Try with each size, in megabytes."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sizes[0]}m", "tmpfs", str(disk)], check=True)
    for size in sizes:
        subprocess.run(["mount", "-o", f"remount,size={size}m", str(disk)], check=True)
        print(json.dumps(attempt(disk, corpus)), flush=True)


if __name__ == "__main__":
    main_of_driver(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
