"""Small filter runs for tests, and what they left behind."""

import base64
import hashlib
import json
from pathlib import Path

from tunewell.pipelines.console import Console
from tunewell.pipelines.corpus.runner import make_plan, run_corpus
from tunewell.pipelines.filter_settings import FilterSettings
from tunewell.toolkit.settings.reading import build

QUIET = Console(is_quiet=True)


def settings(tmp_path, words=("badword",), **more):
    words_file = tmp_path / "words.txt"
    words_file.write_text("\n".join(words))
    return build(FilterSettings, {"blocklist": str(words_file), **more})


def run(inputs, out, own, *, max_bad_rate=1.0, workers=1, engine=None, sets_aside=False, **more):
    plan = make_plan([str(one) for one in inputs], out, own, **more)
    return run_corpus(
        plan, QUIET, workers=workers, engine=engine, max_bad_rate=max_bad_rate, sets_aside=sets_aside
    )  # fmt: skip


def records(out, kind):
    return [json.loads(line) for line in raw_lines(out, kind)]


def raw_lines(out, kind):
    return [line for path in sorted((out / kind).glob("part-*.jsonl")) for line in path.read_bytes().split(b"\n")[:-1]]


def raw_of(record):
    return base64.b64decode(record["raw"])


def outputs(out: Path):
    """Hashes of all that must be the same whatever did the work."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
        and path.name not in ("run.json", "report.html", ".lock")
        and "set-aside" not in path.relative_to(out).parts
    }
