"""Estimates of how much there is to do are those of the rows, not of packed files."""

import gzip
import json
import random
from types import SimpleNamespace

import pyarrow as pa
import pytest
import zstandard
from corpus_runs import QUIET, settings
from pyarrow import parquet
from tunewell.pipelines.corpus import progress, sampling
from tunewell.pipelines.corpus.dry_run import estimate
from tunewell.pipelines.corpus.inputs import find_sources
from tunewell.pipelines.corpus.progress import RunProgress
from tunewell.pipelines.corpus.runner import make_plan
from tunewell.pipelines.corpus.sizes import growth

N_ROWS = 20_000


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The same rows as files of every kind, of which the packed ones are a third to a half as large."""
    folder = tmp_path_factory.mktemp("packed")
    rng = random.Random(0)
    rows = [{"id": n, "text": " ".join(f"w{rng.randrange(3000)}" for _ in range(20))} for n in range(N_ROWS)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "a.jsonl").write_bytes(text)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(text, 1))
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(text))
    parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=1000)
    return folder


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_dry_run_counts_the_rows_of_packed_files(packed, tmp_path, monkeypatch, name):
    monkeypatch.setattr(sampling, "SMALL", 100_000)
    found = estimate(make_plan([str(packed / name)], tmp_path / "out", settings(tmp_path)), 500, QUIET)
    assert found.rows_in_all == pytest.approx(N_ROWS, rel=0.03)


def test_files_of_each_kind_tell_how_they_grow(packed, tmp_path):
    sources = find_sources([str(packed)], tmp_path / "out")
    plain = next(source.size for source in sources if source.kind == "jsonl")
    for source in sources:
        if source.kind in ("gz", "zst"):
            assert growth(sources)[source.kind] * source.size == pytest.approx(plain, rel=0.05)
    assert growth(sources)["parquet"] > 1.2
    (tmp_path / "bad.jsonl.gz").write_bytes(b"this is no gzip")
    assert growth(find_sources([str(tmp_path / "bad.jsonl.gz")], tmp_path / "out"))["gz"] == 1


def test_the_bar_shows_rate_share_dropped_and_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    shown = []
    bar = RunProgress(lambda *told: shown.append(told), {1: 30e6, 2: 30e6}, before=40e6)
    now[0] = 10.0
    bar(20_000_000)
    assert shown[-1] == (60, 100, "MB  20.0 s left")
    # The first unit is larger than it was taken for: 40 MB with 1,000 rows, of which 250 are dropped.
    bar(20_000_000)
    bar.count(1, {"segments": [{"read": 1000, "dropped": 250, "bytes": 40_000_000}]})
    assert shown[-1] == (80, 110, "MB  100 rows/s, 25.0% dropped, 7.5 s left")
    # More of the second than it was taken for has been read: no time is made up.
    now[0] = 20.0
    bar(40_000_000)
    assert shown[-1] == (120, 120, "MB  100 rows/s, 25.0% dropped")
