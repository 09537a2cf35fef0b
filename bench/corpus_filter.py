"""A blocklist of 5,000 patterns over JSONL, beside datatrove and a bare loop; memory, start, near-duplicates.

    python bench/corpus_filter.py [--documents 200000] [--rounds 3] [--large-mb 1000] [--repeats 1000000] [--json]

The documents are pseudo-English of about 300 characters, a tenth of them with accents, a fiftieth with a listed phrase;
half of the patterns are words, half phrases of two to four. Each side reads the file, filters and writes what is kept
and what is dropped, in a process of its own, with one worker, in turns; clocks start when imports are done, and the
table shows medians. datatrove (in its own environment under `.venv-peers/`, made at first use) runs its JsonlReader,
LambdaFilter with an exclusion writer, and JsonlWriter, uncompressed, with the same automaton that tunewell holds,
ahocorasick_rs: only reading, passing on and writing differ. The bare loop reads a line, parses it with orjson and
writes it again. Rates of single processes are per second of processor time, so that a busy machine does not decide
them; that of two workers against one is by the clock. About ten minutes on two idle cores.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

from tools.peers import peer_python

NEEDS = ["datatrove[io]==0.10.1", "orjson==3.13.0", "ahocorasick_rs==1.0.3", "regex"]
PATTERNS = 5_000
SMALL_MB = 10


class Writer:
    """Writes pseudo-English: syllables make words, frequent ones are drawn more often."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        syllables = [a + b + c for a in "bdfglmnprst" for b in "aeiou" for c in ("", "n", "r", "s", "t")]
        words = {"".join(self._rng.choices(syllables, k=self._rng.randint(1, 3))) for _ in range(20_000)}
        self._words = sorted(words)
        self._rng.shuffle(self._words)
        self._weights = list(accumulate(1 / (rank + 10) for rank in range(len(self._words))))

    def words(self, count: int) -> list[str]:
        """Draw some words."""
        return self._rng.choices(self._words, cum_weights=self._weights, k=count)

    def patterns(self, count: int) -> list[str]:
        """Words with a letter that no text has, and phrases that are rare in it."""
        single = {f"{word}x" for word in self._rng.sample(self._words, count // 2)}
        phrases: set[str] = set()
        while len(phrases) < count - len(single):
            phrases.add(" ".join(self._rng.sample(self._words, self._rng.randint(2, 4))))
        return sorted(single | phrases)

    def document(self, number: int, patterns: list[str]) -> str:
        """Write the document of a number."""
        words = self.words(50)
        if number % 50 == 0:
            words.insert(self._rng.randrange(50), self._rng.choice(patterns))
        if number % 10 == 1:
            words.append("café")
        return " ".join(words).capitalize() + "."


def write_corpus(folder: Path, documents: int) -> None:
    """Write docs.jsonl and list.txt."""
    writer = Writer(0)
    patterns = writer.patterns(PATTERNS)
    (folder / "list.txt").write_text("\n".join(patterns))
    with (folder / "docs.jsonl").open("w", encoding="utf-8") as file:
        for number in range(documents):
            row = {"id": f"doc-{number}", "text": writer.document(number, patterns), "source": "bench"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


# --- what runs in processes of its own -------------------------------------------------------------------------------


def ours(folder: Path, out: Path) -> None:
    """One worker over the file, in this process."""
    from tunewell.pipelines.corpus.runner import run_corpus

    run_corpus(make_plan(folder / "docs.jsonl", out, folder), quiet(), workers=1)


def make_plan(file: Path, out: Path, folder: Path) -> Any:
    from tunewell.pipelines.corpus import runner
    from tunewell.pipelines.filter_settings import FilterSettings

    return runner.make_plan([str(file)], out, FilterSettings(blocklist=str(folder / "list.txt")))


def quiet() -> Any:
    from tunewell.pipelines.console import Console

    return Console(is_quiet=True)


def bare(folder: Path, out: Path) -> None:
    """Read, parse and write, and nothing else."""
    import orjson

    out.mkdir(parents=True)
    with (folder / "docs.jsonl").open("rb") as file, (out / "kept.jsonl").open("wb") as kept:
        for line in file:
            kept.write(orjson.dumps(orjson.loads(line)) + b"\n")


def datatrove(folder: Path, out: Path) -> None:
    """The peer's reader, filter and writers, with the automaton that tunewell holds."""
    import ahocorasick_rs
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    automaton = ahocorasick_rs.AhoCorasick((folder / "list.txt").read_text().split("\n"))
    is_in_word = re.compile(r"\w")

    def stays(document: Any) -> bool:
        text = document.text.lower()
        return not any(
            not is_in_word.match(text[start - 1 : start]) and not is_in_word.match(text[end : end + 1])
            for _, start, end in automaton.find_matches_as_indexes(text, overlapping=True)
        )

    dropped = JsonlWriter(str(out / "dropped"), compression=None)
    pipeline = [
        JsonlReader(str(folder), glob_pattern="docs.jsonl"),
        LambdaFilter(stays, exclusion_writer=dropped),
        JsonlWriter(str(out / "kept"), compression=None),
    ]
    LocalPipelineExecutor(pipeline, tasks=1, workers=1, logging_dir=str(out / "logs"), skip_completed=False).run()


def start(folder: Path, out: Path) -> None:
    """The command line, until the first document has been judged."""
    import psutil

    began = psutil.Process().create_time()
    from tunewell.filters import blocklist
    from tunewell.pipelines.cli import main

    def first(self: Any, texts: Any) -> Any:
        told = {"clock": time.time() - began, "cpu": time.process_time(), "torch": "torch" in sys.modules}
        print(json.dumps(told), flush=True)
        os._exit(0)

    blocklist.BlocklistFilter.judge = first  # type: ignore[method-assign]
    sys.argv = ["tunewell", "filter", str(folder / "docs.jsonl"), "--out", str(out), "--workers", "1",
                "--blocklist", str(folder / "list.txt"), "--quiet"]  # fmt: skip
    main()


PARTS: dict[str, Callable[[Path, Path], None]] = {"ours": ours, "bare": bare, "datatrove": datatrove, "start": start}
IMPORTS = {
    "ours": "import tunewell.pipelines.corpus.report, tunewell.pipelines.corpus.publishing, pyarrow.parquet",
    "bare": "import orjson",
    "datatrove": "import datatrove.pipeline.readers, datatrove.pipeline.filters, datatrove.pipeline.writers",
    "start": "pass",
}


def part(name: str, folder: Path, out: Path) -> None:
    """Run one part and tell its seconds."""
    exec(IMPORTS[name])
    cpu, clock = time.process_time(), time.perf_counter()
    PARTS[name](folder, out)
    print(json.dumps({"cpu": time.process_time() - cpu, "clock": time.perf_counter() - clock}))


# --- what measures them ----------------------------------------------------------------------------------------------


def in_process(name: str, folder: Path, out: Path) -> dict[str, Any]:
    python = peer_python("datatrove", NEEDS) if name == "datatrove" else sys.executable
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(
        [str(python), __file__, "--part", name, str(folder), str(out)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def command(arguments: list[str]) -> dict[str, float]:
    """Run `tunewell filter`; tell its seconds, those of all its processes together, and the largest one's megabytes."""
    import psutil

    began = time.perf_counter()
    code = "import sys; from tunewell.pipelines.cli import main; sys.argv[0] = 'tunewell'; main()"
    arguments = [sys.executable, "-c", code, "filter", "--quiet", *arguments]
    process = psutil.Popen(arguments, stdout=subprocess.DEVNULL)
    cpu: dict[int, float] = {}
    memory = 0.0
    while process.poll() is None:
        time.sleep(0.1)
        with contextlib.suppress(psutil.Error):
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = one.cpu_times()
                    cpu[one.pid] = times.user + times.system
                    memory = max(memory, one.memory_info().rss / 1e6)
    if process.returncode:
        raise SystemExit("a run failed")
    return {"clock": time.perf_counter() - began, "mb": memory, "cpu": sum(cpu.values())}


def dropped(out: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in (out / "dropped").rglob("*.jsonl"))


def speeds(folder: Path, documents: int, rounds: int) -> dict[str, dict[str, float]]:
    """Documents a second of processor time and of the clock, medians over rounds in which all take turns."""
    times: dict[str, list[dict[str, float]]] = {"ours": [], "datatrove": [], "bare": []}
    for _ in range(rounds):
        for name, own in times.items():
            own.append(in_process(name, folder, folder / name))
    counts = {name: dropped(folder / name) for name in ("ours", "datatrove")}
    if counts["ours"] != counts["datatrove"]:
        raise SystemExit(f"the two do not drop the same rows: {counts}")
    return {
        name: {clock: documents / statistics.median(one[clock] for one in own) for clock in ("cpu", "clock")}
        for name, own in times.items()
    }


def worker_ratio(folder: Path, rounds: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Seconds with one and with two workers, medians, and the load of the machine before the runs."""
    large = enlarged(folder, 4)
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    loads = []
    for _ in range(rounds):
        for workers, own in found.items():
            loads.append(os.getloadavg()[0])
            own.append(filtered(large, folder, workers))
    one, two = (
        {name: statistics.median(run[name] for run in runs) for name in ("clock", "cpu")} for runs in found.values()
    )
    return one, two, statistics.median(loads)


def enlarged(folder: Path, times: int) -> Path:
    path = folder / "large.jsonl"
    with path.open("wb") as file:
        for _ in range(times):
            file.write((folder / "docs.jsonl").read_bytes())
    return path


def filtered(file: Path, folder: Path, workers: int) -> dict[str, float]:
    shutil.rmtree(folder / "out", ignore_errors=True)
    own = ["--out", str(folder / "out"), "--blocklist", str(folder / "list.txt"), "--workers", str(workers)]
    return command([str(file), *own])


def memory(folder: Path, large_mb: int) -> dict[str, dict[str, float]]:
    """Peak memory of one worker over a small and a large file."""
    whole = (folder / "docs.jsonl").read_bytes()
    found = {}
    for mb in (SMALL_MB, large_mb):
        path = folder / f"{mb}.jsonl"
        with path.open("wb") as file:
            for _ in range(mb * 10**6 // len(whole)):
                file.write(whole)
            rest = mb * 10**6 % len(whole)
            file.write(whole[: whole.rfind(b"\n", 0, rest) + 1])
        found[f"{mb:,} MB"] = filtered(path, folder, 1)
        path.unlink()
        shutil.rmtree(folder / "out")
    return found


def repeats(folder: Path, documents: int) -> dict[str, float]:
    """Near-duplicate removal with two workers; a tenth of the documents repeats an earlier one with a word more."""
    writer, rng = Writer(1), random.Random(1)
    path = folder / "repeats.jsonl"
    recent: list[list[str]] = []
    with path.open("w") as file:
        for number in range(documents):
            if number % 10 == 9:
                words = [*rng.choice(recent), "again"]
            else:
                words = writer.words(25)
                recent = [*recent[-999:], words] if number % 100 else [words]
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    out = folder / "repeats"
    found = command([str(path), "--out", str(out), "--near-duplicates", "0.8", "--workers", "2"])
    summary = json.loads((out / "summary.json").read_text())
    return found | {"dropped": summary["dropped"], "read": summary["read"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=200_000, help="documents of the comparison (default 200,000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--large-mb", type=int, default=1_000, help="the large file, MB (default 1,000)")
    parser.add_argument("--repeats", type=int, default=1_000_000, help="documents to be compared (default 1,000,000)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--part", nargs=3, metavar=("NAME", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        name, *paths = arguments.part
        part(name, *map(Path, paths))
        return
    peer_python("datatrove", NEEDS)
    with tempfile.TemporaryDirectory() as made:
        measure(Path(made), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    write_corpus(folder, arguments.documents)
    rate = speeds(folder, arguments.documents, arguments.rounds)
    print("| one worker, 5,000 patterns | documents/s of CPU time | documents/s by the clock | ours against it |")
    print("|---|---|---|---|")
    for name, label in (("ours", "tunewell"), ("datatrove", "datatrove 0.10.1"), ("bare", "bare orjson loop")):
        ratio = rate["ours"]["cpu"] / rate[name]["cpu"]
        print(f"| {label} | {rate[name]['cpu']:,.0f} | {rate[name]['clock']:,.0f} | {ratio:.2f} |", flush=True)
    begun = [in_process("start", folder, folder / "begun") for _ in range(arguments.rounds + 2)]
    begin = {clock: statistics.median(one[clock] for one in begun) for clock in ("clock", "cpu")}
    torch = "is" if any(one["torch"] for one in begun) else "is not"
    print(f"\nFirst document judged {begin['clock']:.2f} s after the start ({begin['cpu']:.2f} s of CPU time); "
          f"torch {torch} imported.", flush=True)  # fmt: skip
    one, two, load = worker_ratio(folder, arguments.rounds)
    print(
        f"Two workers over {4 * arguments.documents:,} documents, the whole command: {two['clock']:.1f} s against "
        f"{one['clock']:.1f} s with one by the clock ({one['clock'] / two['clock']:.2f} times as fast) at a load of "
        f"{load:.1f} on {os.cpu_count()} cores; CPU time of all processes {two['cpu']:.1f} s against "
        f"{one['cpu']:.1f} s.",
        flush=True,
    )
    sizes = memory(folder, arguments.large_mb)
    print("\n| input | peak memory, MB | seconds | seconds of CPU time |\n|---|---|---|---|")
    for name, found in sizes.items():
        print(f"| {name} | {found['mb']:,.0f} | {found['clock']:.1f} | {found['cpu']:.1f} |", flush=True)
    again = repeats(folder, arguments.repeats)
    print(
        f"\nNear-duplicates of {again['read']:,} documents of about 150 characters, two workers: "
        f"{again['clock']:.0f} s by the clock, {again['cpu']:.0f} s of CPU time; largest process "
        f"{again['mb']:,.0f} MB; {again['dropped']:,} dropped."
    )
    if arguments.json:
        per_cpu = {name: own["cpu"] for name, own in rate.items()}
        figures = {
            **{
                figure: {"ours": per_cpu["ours"], "peer": per_cpu[name], "ratio": per_cpu["ours"] / per_cpu[name],
                         "unit": "documents per second of CPU time"}
                for figure, name in (("datatrove", "datatrove"), ("bare_loop", "bare"))
            },
            "two_workers": {"ours": two["clock"], "peer": one["clock"], "ratio": one["clock"] / two["clock"],
                            "unit": "s"},
        }  # fmt: skip
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
