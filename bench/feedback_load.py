"""The feedback page under load: many labelers at once.

    python bench/feedback_load.py [--items 1000] [--labelers 20] [--pause 1] [--json]

Starts `tunewell collect serve` on a new study and lets labelers answer over loopback, in two rounds: `paced`, where
each waits one second on average before an answer (far faster than anybody judges four texts), and `flat_out`, where
nobody waits. An answer (four ratings with flags, and a ranking) is checked, written to the disk, and comes back with
the next item. Printed: median, 99th percentile and maximum of that time, and what the database holds afterwards, read
with SQLite alone: nothing lost, nothing twice. Clients and server share the machine. About a minute and a half.
"""

import argparse
import http.client
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil

LIMIT = 200.0  # milliseconds, at the 99th percentile
WORDS = "The sky is blue because air scatters short waves more than long ones. " * 8
JSON = {"content-type": "application/json"}


def rows(n: int) -> list[dict[str, Any]]:
    """Prompts with four completions of about 600 characters."""
    return [
        {"prompt": f"Question {number}: {WORDS}", "completions": [f"{letter} {number}: {WORDS}" for letter in "abcd"]}
        for number in range(n)
    ]


class Labeler(threading.Thread):
    """One browser: a connection kept open, a cookie, and answers one after the other."""

    def __init__(self, port: int, name: str, start: threading.Event, pause: float) -> None:
        super().__init__()
        self.pause, self.rng = pause, random.Random(name)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.person, self.begin = name, start
        self.cookie = ""
        self.seconds: list[float] = []
        self.confirmed: dict[str, int] = {}
        self.refused: list[str] = []

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and content of the answer."""
        self.connection.request("POST", path, json.dumps(body), JSON | {"cookie": self.cookie})
        response = self.connection.getresponse()
        content = json.loads(response.read())
        if cookie := response.getheader("set-cookie"):
            self.cookie = cookie.partition(";")[0]
        return response.status, content

    def run(self) -> None:
        """Answer until nothing is left."""
        self.post("/api/join", {"name": self.person})
        self.begin.wait()
        _, found = self.post("/api/next", {})
        while item := found["item"]:
            n = len(item["completions"])
            body = {"ratings": [1 + at for at in range(n)], "flags": [["opinion"]] * n, "ranks": list(range(1, n + 1))}
            key = f"{self.person}-{item['assignment']:08d}"
            time.sleep(self.rng.uniform(0, 2 * self.pause))
            began = time.perf_counter()
            status, found = self.post("/api/answer", {"assignment": item["assignment"], "key": key, "body": body})
            self.seconds.append(time.perf_counter() - began)
            if status != 200:
                self.refused.append(f"{status} {found}")
                return
            self.confirmed[key] = item["item"]


def one_round(n_items: int, n_labelers: int, pause: float) -> tuple[list[float], float, float, list[str]]:
    """Seconds of every answer, seconds in all, the server's processor seconds, and what was found wrong."""
    with tempfile.TemporaryDirectory() as folder:
        study, source = Path(folder) / "study.sqlite", Path(folder) / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows(n_items)))
        command = [sys.executable, "-m", "tunewell.pipelines.cli", "collect", "serve", str(study), str(source)]
        server = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
        try:
            port = None
            for line in server.stderr or ():
                if match := re.search(r"to label: .*:(\d+)/", line):
                    port = int(match[1])
                    break
            if port is None:
                sys.exit("the server did not start")
            start = threading.Event()
            labelers = [Labeler(port, f"labeler-{number:02d}", start, pause) for number in range(n_labelers)]
            for one in labelers:
                one.start()
            time.sleep(1)  # all have joined
            process = psutil.Process(server.pid)
            before = sum(process.cpu_times()[:2])
            began = time.perf_counter()
            start.set()
            for one in labelers:
                one.join()
            took = time.perf_counter() - began
            spent = sum(process.cpu_times()[:2]) - before
        finally:
            server.terminate()
            server.wait(20)
        faults = [fault for one in labelers for fault in one.refused]
        faults += check(study, labelers, n_items)
        return [one for labeler in labelers for one in labeler.seconds], took, spent, faults


def check(study: Path, labelers: list[Labeler], n_items: int) -> list[str]:
    """What the database and the labelers' own records say differently."""
    confirmed = {key: item for one in labelers for key, item in one.confirmed.items()}
    with closing(sqlite3.connect(study)) as base:
        query = "SELECT x.key, a.item FROM answers x JOIN assignments a ON a.id = x.assignment"
        kept = base.execute(query).fetchall()
    items = [item for _, item in kept]
    faults = []
    if dict(kept) != confirmed or len(kept) != len(confirmed):
        faults.append(f"{len(confirmed)} answers were confirmed, {len(kept)} are kept")
    if sorted(items) != sorted(set(items)):
        faults.append(f"{len(items) - len(set(items))} items were answered twice")
    if len(set(items)) != n_items:
        faults.append(f"{n_items - len(set(items))} items were never answered")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=1000, help="items of the study (default 1000)")
    parser.add_argument("--labelers", type=int, default=20, help="labelers at once (default 20)")
    parser.add_argument("--pause", type=float, default=1, help="mean seconds before a paced answer (default 1)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float | str]] = {}
    faults: list[str] = []
    for name, pause in (("paced", arguments.pause), ("flat_out", 0.0)):
        seconds, took, spent, found = one_round(arguments.items, arguments.labelers, pause)
        faults += found
        half, p99, most = (float(value) for value in 1000 * np.percentile(seconds, [50, 99, 100]))
        n = len(seconds)
        figures[f"answer_p99_{name}"] = {
            "ours": p99, "limit": LIMIT, "ratio": LIMIT / p99, "unit": "ms", "n": n, "median": half, "longest": most,
            "answers_per_second": n / took, "processor_ms": 1000 * spent / n, "load_average": os.getloadavg()[0],
        }  # fmt: skip
        print(
            f"{name}: {n} answers, {n / took:.0f} a second; median {half:.1f} ms, p99 {p99:.1f} ms, longest "
            f"{most:.1f} ms; {1000 * spent / n:.1f} ms of the server's processor time each",
            file=sys.stderr,
        )
    print("; ".join(faults) if faults else "nothing lost, nothing twice", file=sys.stderr)
    if arguments.json:
        print(json.dumps({**figures, "lost_or_twice": {"ours": len(faults), "unit": "faults"}}))
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
