"""Run a filter over a corpus on a Ray cluster of two nodes, and kill one when the first unit is done.

Usage: python corpus_ray_driver.py ROWS OUT WORDS. A process of its own, since Ray's parts speak to each other by this
machine's address, which tests may not.
"""

import json
import sys
import threading
import time
from pathlib import Path

from corpus_runs import QUIET
from ray.cluster_utils import Cluster
from tunewell.pipelines.corpus import ray_engine, runner
from tunewell.pipelines.corpus.engines import find_engine
from tunewell.pipelines.corpus.progress import RunProgress
from tunewell.pipelines.corpus.runner import make_plan, run_corpus
from tunewell.pipelines.filter_settings import FilterSettings
from tunewell.toolkit.settings.reading import build

UNIT_BYTES = 500_000
SMALL = {"object_store_memory": 80_000_000, "include_log_monitor": False}
# A lost node is noticed within seconds, not half a minute; workers are not put behind all else on the machine.
IMPATIENT = {"health_check_period_ms": 500, "health_check_failure_threshold": 6, "worker_niceness": 0}


def ray_settings(words):
    # Repetition rules take about a millisecond a row, so that the node dies while it works.
    return build(FilterSettings, {"blocklist": str(words), "repetition": {}, "exact_duplicates": True})


def main(rows, out, words):
    head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, "_system_config": IMPATIENT, **SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, **SMALL) for _ in range(2)]
    plan = make_plan([str(rows)], out, ray_settings(words), unit_bytes=UNIT_BYTES)
    left_at_kill = []

    def kill_one():
        while not (judged := list((out / ".work" / "units").glob("[0-9]*"))):
            time.sleep(0.02)
        cluster.remove_node(nodes[0], allow_graceful=False)
        left_at_kill.append(len(plan.units) - len(judged))

    told_bytes = []
    shown = RunProgress.__call__
    RunProgress.__call__ = lambda self, n_bytes: (told_bytes.append(n_bytes), shown(self, n_bytes))[1]
    killer = threading.Thread(target=kill_one, daemon=True)
    with find_engine("ray", plan, None, cluster.address) as engine:
        killer.start()
        run_corpus(plan, QUIET, engine=engine)
        killer.join()
        told = {"workers": engine.n_workers, "units": len(plan.units), "left_at_kill": left_at_kill[0],
                "bytes": told_bytes}  # fmt: skip
    cluster.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    ray_engine.POLL = 0.05  # units are done within a second
    runner._report = lambda out, summary, record: None  # the page is tested elsewhere
    main(*map(Path, sys.argv[1:]))
