"""Kill filter runs at random moments, start them again, and compare what they made with an undisturbed run.

Its own program: it imports everything first and then forks, so that a restart costs no import and most kills hit work.
"""

import json
import random
import sys
import time
from pathlib import Path

import matplotlib.figure
import pyarrow.parquet
from corpus_runs import outputs, run, settings
from killing import in_child
from tunewell.pipelines.corpus import comparing, publishing, report, summary

WORDS = [f"w{number}" for number in range(300)]


def write_corpus(path: Path, seed: int) -> None:
    """Rows of which some hold a listed word, some repeat others, and some are broken."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=30)) for _ in range(1500)]
    lines = []
    for number, text in enumerate(texts):
        kind = rng.random()
        if kind < 0.1:
            text += " badword"
        elif kind < 0.2 and number:
            text = texts[rng.randrange(number)]
        elif kind < 0.3 and number:
            text = f"{texts[rng.randrange(number)]} more"
        lines.append("broken" if kind > 0.97 else json.dumps({"id": number, "text": text}))
    path.write_text("\n".join(lines))


def run_once(corpus: Path, out: Path) -> None:
    own = settings(corpus.parent, exact_duplicates=True, near_duplicates={"threshold": 0.7}, length={"low": 5})
    run([corpus], out, own, unit_bytes=20_000)


def phase(out: Path) -> str:
    """What a killed run was at."""
    work = out / ".work"
    if (out / "summary.json").exists():
        return "clearing up"
    if (out / "run.json").exists():
        return "report"
    if (out / "scores").exists():
        return "publishing"
    if (work / "repeats").exists():
        return "comparing"
    return "judging" if (work / "units").exists() else "planning"


def main() -> None:
    root, kills_wanted, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    modules = (matplotlib.figure, pyarrow.parquet, comparing, publishing, report, summary)
    corpus = root / "rows.jsonl"
    write_corpus(corpus, seed)
    rng = random.Random(seed)
    in_child(run_once, corpus, root / "warm")
    began = time.monotonic()
    in_child(run_once, corpus, root / "undisturbed")
    whole = time.monotonic() - began
    wanted = outputs(root / "undisturbed")
    kills, phases, differences, folders = 0, [], [], 0
    while kills < kills_wanted:
        out = root / f"killed-{folders}"
        folders += 1
        while not in_child(
            run_once, corpus, out, kill_after=rng.uniform(0.01, 0.8) * whole if kills < kills_wanted else None
        ):
            kills += 1
            phases.append(phase(out))
        found = outputs(out)
        if found != wanted:
            both = sorted(found.keys() | wanted.keys())
            differences.append({out.name: [name for name in both if found.get(name) != wanted.get(name)]})
    summary_of = json.loads((root / "undisturbed" / "summary.json").read_text())
    print(json.dumps({"kills": kills, "runs": folders, "seconds": whole, "differences": differences,
                      "phases": {name: phases.count(name) for name in sorted(set(phases))}, "modules": len(modules),
                      "files": len(wanted), "reasons": [one["reason"] for one in summary_of["steps"]]}))  # fmt: skip


if __name__ == "__main__":
    main()
