"""A blocklist of 5,000 patterns over JSONL, beside datatrove and a bare loop; memory, start, near-duplicates.

    python bench/corpus_filter.py [--documents 200000] [--rounds 3] [--large-mb 1000] [--repeats 1000000] [--json]

The documents are pseudo-English of about 300 characters, a tenth of them with accents, a fiftieth with a listed phrase;
half of the patterns are words, half phrases of two to four. Each side reads the file, filters and writes what is kept
and what is dropped, in a process of its own, with one worker, in turns; clocks start when imports are done, and the
table shows medians. datatrove (in its own environment under `.venv-peers/`, made at first use) runs its JsonlReader,
LambdaFilter with an exclusion writer, and JsonlWriter, uncompressed, with the same automaton that tunewell holds,
ahocorasick_rs: only reading, passing on and writing differ. The bare loop reads a line, parses it with orjson and
writes it again; beside it tunewell runs a second time over a large file, where what it does once counts for little.
Rates of single processes are per second of processor time, so that a busy machine does not decide them; that of two
workers against one is by the clock, over the large file, beside two bare loops at once, which tell what the machine has
to give. About ten minutes on two idle cores.
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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

from tools.peers import peer_python

NEEDS = ["datatrove[io]==0.10.1", "orjson==3.13.0", "ahocorasick_rs==1.0.3", "regex"]
PATTERNS = 5_000
WORDS = 37
"Words of a document: 300 characters, with the spaces between them."
SMALL_MB = 10
FEW = 100
"Documents that cost nothing beside what a run does once."


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
        words = self.words(WORDS)
        if number % 50 == 0:
            words.insert(self._rng.randrange(WORDS), self._rng.choice(patterns))
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
    "ours": "import tunewell.pipelines.console, tunewell.pipelines.corpus.report, tunewell.pipelines.corpus.runner, "
    "pyarrow.parquet",
    "bare": "import orjson",
    "datatrove": "import ahocorasick_rs, datatrove.executor, datatrove.pipeline.filters, datatrove.pipeline.readers, "
    "datatrove.pipeline.writers",
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
    """Run `tunewell filter`; tell its seconds, those of all its processes together, and the largest one's megabytes.

    Its processes are looked at every half second: what one does in its last moments is missing.
    """
    import psutil

    began = time.perf_counter()
    code = "import sys; from tunewell.pipelines.cli import main; sys.argv[0] = 'tunewell'; main()"
    arguments = [sys.executable, "-c", code, "filter", "--quiet", *arguments]
    process = psutil.Popen(arguments, stdout=subprocess.DEVNULL)
    cpu: dict[int, float] = {}
    memory = 0.0
    while process.returncode is None:
        # Seldom: to look through the processes of a machine takes from the cores that two workers have to share.
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(0.5)
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


def speeds(folder: Path, documents: int, rounds: int, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Documents a second of processor time and of the clock, medians over rounds in which all take turns."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, own in times.items():
            own.append(in_process(name, folder, folder / name))
    counts = {name: dropped(folder / name) for name in names if name != "bare"}
    if len(set(counts.values())) != 1:
        raise SystemExit(f"they do not drop the same rows: {counts}")
    for name in names:
        shutil.rmtree(folder / name)
    return {
        name: {clock: documents / statistics.median(one[clock] for one in own) for clock in ("cpu", "clock")}
        for name, own in times.items()
    }


def once(folder: Path, rounds: int) -> float:
    """Seconds of processor time for hardly any documents: list, page, sums."""
    few = folder / "few"
    few.mkdir()
    shutil.copy(folder / "list.txt", few)
    with (folder / "docs.jsonl").open("rb") as file:
        (few / "docs.jsonl").write_bytes(b"".join(next(file) for _ in range(FEW)))
    return statistics.median(float(in_process("ours", few, few / "out")["cpu"]) for _ in range(rounds))


def write_size(folder: Path, mb: int) -> Path:
    """Write the documents again and again, up to a size, into a folder of their own beside the list."""
    own = folder / f"{mb}-mb"
    own.mkdir()
    shutil.copy(folder / "list.txt", own)
    whole = (folder / "docs.jsonl").read_bytes()
    with (own / "docs.jsonl").open("wb") as file:
        for _ in range(mb * 10**6 // len(whole)):
            file.write(whole)
        rest = mb * 10**6 % len(whole)
        file.write(whole[: whole.rfind(b"\n", 0, rest) + 1])
    return own


def worker_ratio(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds and memory with one and with two workers, medians, and the load of the machine before the runs."""
    found: dict[str, list[dict[str, float]]] = {"1": [], "2": []}
    for _ in range(rounds):
        for workers, own in found.items():
            own.append({"load": os.getloadavg()[0]} | filtered(folder, int(workers)))
    return {
        workers: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for workers, runs in found.items()
    }


def machine_ratio(folder: Path, rounds: int) -> float:
    """How much more two bare loops at once get done than one alone: what two cores of this machine have to give."""
    ratios = []
    for _ in range(rounds):
        alone = in_process("bare", folder, folder / "bare-0")["clock"]
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(in_process, "bare", folder, folder / f"bare-{number}") for number in (1, 2)]
            ratios.append(2 * alone / max(one.result()["clock"] for one in both))
    for number in range(3):
        shutil.rmtree(folder / f"bare-{number}")
    return statistics.median(ratios)


def filtered(folder: Path, workers: int) -> dict[str, float]:
    shutil.rmtree(folder / "out", ignore_errors=True)
    own = ["--out", str(folder / "out"), "--blocklist", str(folder / "list.txt"), "--workers", str(workers)]
    return command([str(folder / "docs.jsonl"), *own])


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


def print_rates(rate: Mapping[str, Mapping[str, float]], labels: Mapping[str, str], what: str) -> None:
    for name, own in rate.items():
        ratio = rate["ours"]["cpu"] / own["cpu"]
        print(f"| {labels[name]}, {what} | {own['cpu']:,.0f} | {own['clock']:,.0f} | {ratio:.2f} |", flush=True)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    write_corpus(folder, arguments.documents)
    rate = speeds(folder, arguments.documents, arguments.rounds, ("ours", "datatrove", "bare"))
    print("| one worker, 5,000 patterns | documents/s of CPU time | documents/s by the clock | ours against it |")
    print("|---|---|---|---|")
    labels = {"ours": "tunewell", "datatrove": "datatrove 0.10.1", "bare": "bare orjson loop"}
    print_rates(rate, labels, f"{arguments.documents:,} documents")
    large = write_size(folder, arguments.large_mb)
    n_large = (large / "docs.jsonl").read_bytes().count(b"\n")
    rate_large = speeds(large, n_large, arguments.rounds, ("ours", "bare"))
    print_rates(rate_large, labels, f"{n_large:,} documents")
    seconds = once(folder, arguments.rounds)
    print(f"\nA run of tunewell over {FEW} documents takes {seconds:.2f} s of CPU time.", flush=True)
    begun = [in_process("start", folder, folder / "begun") for _ in range(arguments.rounds + 2)]
    begin = {clock: statistics.median(one[clock] for one in begun) for clock in ("clock", "cpu")}
    torch = "is" if any(one["torch"] for one in begun) else "is not"
    print(f"\nFirst document judged {begin['clock']:.2f} s after the start ({begin['cpu']:.2f} s of CPU time); "
          f"torch {torch} imported.", flush=True)  # fmt: skip
    given = machine_ratio(large, arguments.rounds)
    runs = worker_ratio(large, arguments.rounds)
    one, two = runs["1"], runs["2"]
    print(
        f"Two workers over {n_large:,} documents, the whole command: {two['clock']:.1f} s against {one['clock']:.1f} s "
        f"with one by the clock ({one['clock'] / two['clock']:.2f} times as fast) at a load of {two['load']:.1f} on "
        f"{os.cpu_count()} cores; CPU time of all processes {two['cpu']:.1f} s against {one['cpu']:.1f} s. Two bare "
        f"loops at once get {given:.2f} times as much done as one.",
        flush=True,
    )
    small = filtered(write_size(folder, SMALL_MB), 1)
    print("\n| input | peak memory, MB | seconds | seconds of CPU time |\n|---|---|---|---|")
    for mb, found in ((SMALL_MB, small), (arguments.large_mb, one)):
        print(f"| {mb:,} MB | {found['mb']:,.0f} | {found['clock']:.1f} | {found['cpu']:.1f} |", flush=True)
    shutil.rmtree(large)
    again = repeats(folder, arguments.repeats)
    print(
        f"\nNear-duplicates of {again['read']:,} documents of about 150 characters, two workers: "
        f"{again['clock']:.0f} s by the clock, {again['cpu']:.0f} s of CPU time; largest process "
        f"{again['mb']:,.0f} MB; {again['dropped']:,} dropped."
    )
    if arguments.json:
        peers = {"datatrove": (rate, "datatrove"), "bare_loop": (rate, "bare"), "bare_loop_large": (rate_large, "bare")}
        figures = {
            **{
                figure: {"ours": own["ours"]["cpu"], "peer": own[name]["cpu"],
                         "ratio": own["ours"]["cpu"] / own[name]["cpu"], "unit": "documents per second of CPU time"}
                for figure, (own, name) in peers.items()
            },
            "two_workers": {"ours": two["clock"], "peer": one["clock"], "ratio": one["clock"] / two["clock"],
                            "unit": "s"},
        }  # fmt: skip
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
