"""Is the cost model of docs/scale.md right when nodes are slow, or lost?

    python bench/cluster_simulation.py [--rate 25000] [--gpu-rate 1500] [--repeats 20]

Plays `tunewell filter --engine ray` event by event: units wait in one queue, a free worker takes the next; some nodes
are slow for the whole run; nodes are lost at random, with them the units that their workers are at, which go back into
the queue when the loss is noticed; a new node comes some time later. The model is arithmetic:

    seconds = start + documents / (rate x workers) / (usable share) + the last unit on a slow worker

where the usable share counts slow nodes at their speed and takes off what losses cost: the time without the node, and
half a unit done twice. Printed: the model beside the mean and the slowest of the simulated runs. Half a minute on one
CPU core.
"""

import argparse
import heapq
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Cluster:
    """A cluster and the work that it is given.

    Attributes:
        nodes: machines.
        workers: of each node: cores, or GPUs.
        rate: documents a second of one worker.
        documents: of the corpus.
        per_unit: documents of a unit of work.
        slow_share: share of nodes that are slow.
        slow_speed: their speed, as a share of the others'.
        hours_between_losses: of one node, on average.
        noticed: seconds until a lost node is noticed.
        replaced: seconds until another node works in its place.
        start: seconds until the first worker works.
    """

    nodes: int
    workers: int
    rate: float
    documents: int
    per_unit: int
    slow_share: float = 0.05
    slow_speed: float = 0.5
    hours_between_losses: float = 500.0
    noticed: float = 30.0
    replaced: float = 600.0
    start: float = 60.0

    @property
    def unit_seconds(self) -> float:
        """Seconds that a worker of full speed takes for a unit."""
        return self.per_unit / self.rate


def modelled(one: Cluster) -> float:
    """Seconds by the arithmetic of docs/scale.md."""
    speed = 1 - one.slow_share * (1 - one.slow_speed)
    lost_per_loss = one.replaced + one.unit_seconds / 2
    usable = speed * (1 - lost_per_loss / (one.hours_between_losses * 3600 + lost_per_loss))
    # When the last unit is taken, those of all others are half done on average, and a slow worker ends last.
    tail = one.unit_seconds / one.slow_speed / 2 if one.slow_share else one.unit_seconds / 2
    return one.start + one.documents / (one.rate * one.nodes * one.workers) / usable + tail


def simulated(one: Cluster, seed: int) -> float:
    """Seconds of one run played event by event."""
    rng = np.random.default_rng(seed)
    units = -(-one.documents // one.per_unit)
    n_slow = int(rng.binomial(one.nodes, one.slow_share))
    speeds = np.where(np.arange(one.nodes) < n_slow, one.slow_speed, 1.0)
    losses = [float(rng.exponential(one.hours_between_losses * 3600)) for _ in range(one.nodes)]
    # (time, kind, node, what): a worker is free, a node is lost, a node is back. `life` tells workers of lost nodes.
    life = [0] * one.nodes
    events: list[tuple[float, int, int, int]] = [
        (one.start, 2, node, 0) for node in range(one.nodes) for _ in range(one.workers)
    ]
    events += [(at, 0, node, 0) for node, at in enumerate(losses)]
    returned: list[float] = []  # when units of lost workers are back in the queue
    waiting: list[tuple[int, int]] = []
    busy: dict[int, int] = dict.fromkeys(range(one.nodes), 0)
    heapq.heapify(events)
    left, running, now = units, 0, 0.0
    while left or running or returned:
        now, kind, node, age = heapq.heappop(events)
        if kind == 0:
            returned += [now + one.noticed] * busy[node]
            for _ in range(busy[node]):
                heapq.heappush(events, (now + one.noticed, 1, -1, 0))
            running -= busy[node]
            busy[node], life[node] = 0, life[node] + 1
            waiting = [(other, old) for other, old in waiting if other != node]
            for _ in range(one.workers):
                heapq.heappush(events, (now + one.replaced, 2, node, life[node]))
            heapq.heappush(
                events, (now + one.replaced + float(rng.exponential(one.hours_between_losses * 3600)), 0, node, 0)
            )
            continue
        if kind == 1:
            returned.remove(now)
            left += 1
        elif age != life[node]:
            continue  # the end of a unit that was lost
        else:
            if kind == 3:
                busy[node] -= 1
                running -= 1
            waiting.append((node, age))
        while left and waiting:
            free, old = waiting.pop()
            left, running = left - 1, running + 1
            busy[free] += 1
            seconds = one.unit_seconds / speeds[free] * float(rng.lognormal(0, 0.1))
            heapq.heappush(events, (now + seconds, 3, free, old))
    return now


def cases(rate: float, gpu_rate: float) -> dict[str, Cluster]:
    """The clusters of docs/scale.md."""
    whole = 10**9
    cores = Cluster(nodes=8, workers=32, rate=rate, documents=whole, per_unit=185_000)
    gpus = Cluster(nodes=8, workers=8, rate=gpu_rate, documents=whole, per_unit=11_500)
    frail = {"hours_between_losses": 10.0, "slow_share": 0.25}
    return {
        "one core": replace(cores, nodes=1, workers=1, slow_share=0.0),
        "8 nodes of 32 cores": cores,
        "the same, frail (a node lost every 10 h, a quarter slow)": replace(cores, **frail),
        "the same, frail, units of 1 GB": replace(cores, per_unit=2_900_000, **frail),
        "8 nodes of 8 GPUs, a model": gpus,
        "the same, frail": replace(gpus, **frail),
        "the same, frail, units of 64 MB": replace(gpus, per_unit=185_000, **frail),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=25_000, help="documents a second of a core (default 25,000)")
    parser.add_argument("--gpu-rate", type=float, default=1_500, help="the same of a GPU, assumed (default 1,500)")
    parser.add_argument("--repeats", type=int, default=20, help="runs played of each case (default 20)")
    arguments = parser.parse_args()
    print("| a billion documents on | units | model, minutes | simulated mean | slowest | mean against model |")
    print("|---|---|---|---|---|---|")
    for name, one in cases(arguments.rate, arguments.gpu_rate).items():
        played = np.array([simulated(one, seed) for seed in range(arguments.repeats)]) / 60
        model = modelled(one) / 60
        units = -(-one.documents // one.per_unit)
        print(f"| {name} | {units:,} | {model:.1f} | {played.mean():.1f} | {played.max():.1f} "
              f"| {played.mean() / model - 1:+.1%} |")  # fmt: skip


if __name__ == "__main__":
    main()
