"""A sample holds rows from all over a corpus, none twice, whatever the corpus lies in."""

import gzip
import json
import random

import datasets
import pyarrow as pa
import pytest
import zstandard
from corpus_runs import QUIET, settings
from pyarrow import parquet
from tunewell.pipelines.corpus import sampling
from tunewell.pipelines.corpus.again import plan_again
from tunewell.pipelines.corpus.dry_run import estimate, sample_texts
from tunewell.pipelines.corpus.runner import make_plan, run_corpus
from tunewell.pipelines.filter_settings import FilterSettings
from tunewell.toolkit.errors import DataError

N = 8000
KINDS = ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "one.parquet", "many.parquet", "saved")


@pytest.fixture(autouse=True)
def _as_if_large(monkeypatch):
    """What is here passes for a corpus that is not read whole."""
    monkeypatch.setattr(sampling, "SMALL", 1000)
    monkeypatch.setattr(sampling, "LAST", 500)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Rows of which the last third is bad, in files of all kinds."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"row {number} some {'badword' if number >= N * 2 // 3 else 'letters'}" for number in range(N)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    table = pa.table({"text": texts})
    parquet.write_table(table, folder / "one.parquet")
    parquet.write_table(table, folder / "many.parquet", row_group_size=70)
    datasets.Dataset(table).save_to_disk(folder / "saved")
    return folder


def plan_for(corpus, tmp_path, *names, filters=None):
    return make_plan([str(corpus / name) for name in names], tmp_path / "out", filters or FilterSettings())


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_drawn_from_the_whole_corpus_and_none_twice(corpus, tmp_path, monkeypatch, name):
    plan = plan_for(corpus, tmp_path, name)
    drawn = sample_texts(plan, n=400)
    numbers = [int(text.split()[1]) for text in drawn]
    assert len(set(numbers)) == len(numbers) == 400
    tenths = [sum(number * 10 // N == tenth for number in numbers) for tenth in range(10)]
    assert min(tenths) >= 20, tenths  # of 40 each
    assert sample_texts(plan, n=400) == drawn != sample_texts(plan, n=400, seed=1)


@pytest.mark.parametrize("name", KINDS)
def test_a_sorted_corpus_is_estimated_well(corpus, tmp_path, monkeypatch, name):
    found = estimate(plan_for(corpus, tmp_path, name, filters=settings(tmp_path)), 500, QUIET)
    assert found.rows == 500 and found.dropped.low < 1 / 3 < found.dropped.high
    assert found.rows_in_all == pytest.approx(N, rel=0.1)


def test_several_files_give_rows_by_their_size_and_a_small_corpus_gives_all_it_has(corpus, tmp_path, monkeypatch):
    plan = plan_for(corpus, tmp_path, "a.jsonl", "one.parquet")
    with monkeypatch.context() as now:
        now.setattr(sampling, "SMALL", 10**7)
        assert len(sample_texts(plan, n=10**6)) == 2 * N
    lines, table = (source.size for source in plan.sources)
    batches = list(sampling.Sample(plan, 400, seed=0).batches())
    from_lines = sum(len(batch.texts) for batch in batches if (batch.offsets >= 0).any())
    assert from_lines == pytest.approx(400 * lines / (lines + table), abs=15)


def test_of_a_packed_file_that_is_long_the_beginning_is_read_and_that_is_told(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "BEGINNING", 100_000)
    name = str(corpus / "a.jsonl.gz")
    found = estimate(make_plan([name], tmp_path / "out", FilterSettings()), 100, QUIET)
    assert found.begun == (name,) and found.rows == 100 and 2000 < found.read < 5000
    assert f"unpacked) of {name}" in found.as_text()
    (tmp_path / "b.jsonl.gz").write_bytes((corpus / "a.jsonl.gz").read_bytes())
    both = estimate(make_plan([name, str(tmp_path / "b.jsonl.gz")], tmp_path / "out", FilterSettings()), 100, QUIET)
    assert both.rows == 100 and len(both.begun) == 2 and 2000 < both.read < 5000


@pytest.mark.parametrize("ending", ["", "\n"])
def test_one_line_longer_than_what_lies_behind_any_place_is_drawn(tmp_path, monkeypatch, ending):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "word " * 40_000}) + ending)
    assert len(sample_texts(make_plan([str(path)], tmp_path / "out", FilterSettings()), n=50)) == 1


def test_rows_that_cannot_be_read_are_counted_of_all_that_were_read_for_the_sample(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{json.dumps({'text': f'row {number}'})}\nbroken\n" for number in range(2000)))
    found = estimate(make_plan([str(path)], tmp_path / "out", FilterSettings()), 100, QUIET)
    assert found.rows == 100 and found.unreadable == pytest.approx(found.read / 2, abs=40)
    assert f"100 rows judged of {found.read:,} read for it, {found.unreadable:,} of which" in found.as_text()


def test_rows_of_one_place_that_are_alike_widen_the_interval(tmp_path):
    rng = random.Random(0)
    good, bad = ([f"row some {word}"] * 90 for word in ("letters", "badword"))
    covered = 0
    for trial in range(10):
        runs = [rng.choice((good, bad)) for _ in range(300)]
        texts = [text for run in runs for text in run]
        path = tmp_path / f"{trial}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        found = estimate(make_plan([str(path)], tmp_path / "out", settings(tmp_path)), 1500, QUIET)
        covered += found.dropped.low <= sum("badword" in text for text in texts) / len(texts) <= found.dropped.high
        assert found.dropped.high - found.dropped.low > 0.1
    assert covered >= 8  # as rows that know nothing of each other, three in ten


def test_a_run_of_which_a_part_is_gone_is_not_decided_again(corpus, tmp_path):
    plan = make_plan([str(corpus / "a.jsonl")], tmp_path / "one", settings(tmp_path), unit_bytes=50_000)
    run_corpus(plan, QUIET, workers=1)
    plan_again(tmp_path / "one", tmp_path / "two", settings(tmp_path))
    max((tmp_path / "one" / "scores").iterdir()).unlink()
    with pytest.raises(DataError, match=r"of its \d+ parts: something was removed"):
        plan_again(tmp_path / "one", tmp_path / "two", settings(tmp_path))
