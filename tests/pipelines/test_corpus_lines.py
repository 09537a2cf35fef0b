import gzip
import itertools
import random

import pytest
import zstandard
from tunewell.pipelines.corpus import lines as module
from tunewell.pipelines.corpus.lines import read_lines


def all_lines(path, kind="jsonl", start=0, end=None):
    return list(read_lines(path, kind, start, path.stat().st_size if end is None else end))


def lines_of(block):
    if block.fault:
        return [block.block]
    assert block.block.endswith(b"\n")
    return block.block.split(b"\n")[:-1]


def flat(blocks):
    return [line for block in blocks for line in lines_of(block)]


@pytest.mark.parametrize("seed", range(30))
def test_ranges_of_any_size_give_every_line_once_at_its_place(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    monkeypatch.setattr(module, "BLOCK", rng.choice([1, 2, 7, 64, 1000]))
    wanted = [bytes(rng.choices(b"ab\r {}", k=rng.choice([0, 1, 5, 40]))) for _ in range(rng.randint(1, 30))]
    text = b"\n".join(wanted) + rng.choice([b"", b"\n"])
    path = tmp_path / "a.jsonl"
    path.write_bytes(text)
    cuts = sorted(rng.sample(range(len(text) + 1), min(len(text) + 1, rng.randint(0, 6))))
    edges = [0, *cuts, len(text)]
    blocks = [block for start, end in itertools.pairwise(edges) for block in all_lines(path, start=start, end=end)]
    if text.endswith(b"\n") or not text:
        expected = text.split(b"\n")[:-1]
    else:
        expected = text.split(b"\n")
    assert flat(blocks) == expected
    for block in blocks:
        place = block.offset
        for line in lines_of(block):
            assert text[place : place + len(line)] == line
            assert place == 0 or text[place - 1 : place] == b"\n"
            place += len(line) + 1


def test_a_byte_order_mark_goes_from_the_first_line_only(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    blocks = all_lines(path)
    assert flat(blocks) == [b"one", b"\xef\xbb\xbftwo"]
    assert blocks[0].offset == 3


@pytest.mark.parametrize("limit", [10, 11, 100])
def test_a_line_that_is_too_long_is_told_and_the_others_are_read(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(module, "LONGEST", limit)
    monkeypatch.setattr(module, "SHOWN_OF_LONGEST", 4)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"short\n" + b"x" * 200 + b"\nend\n" + b"y" * 200)
    blocks = all_lines(path)
    assert [(lines_of(block), block.offset, bool(block.fault)) for block in blocks] == [
        ([b"short"], 0, False), ([b"xxxx"], 6, True), ([b"end"], 207, False), ([b"yyyy"], 211, True),
    ]  # fmt: skip
    assert "200 bytes" in blocks[1].fault and blocks[1].skipped == 196


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_compressed_file_gives_its_lines_and_one_cut_short_its_good_ones_and_the_fault(tmp_path, kind):
    rng = random.Random(0)
    text = b"".join(b"%d %s\n" % (number, rng.randbytes(30).hex().encode()) for number in range(20_000))
    packed = gzip.compress(text) if kind == "gz" else zstandard.compress(text)
    path = tmp_path / f"a.jsonl.{kind}"
    path.write_bytes(packed)
    assert flat(all_lines(path, kind)) == text.split(b"\n")[:-1]
    path.write_bytes(packed[: len(packed) // 2])
    *good, last = all_lines(path, kind)
    assert "cut short" in last.fault
    read = flat(good)
    assert len(read) > 1000 and text.startswith(b"\n".join(read) + b"\n" + last.block)
    assert last.offset == len(b"\n".join(read)) + 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-8],
        lambda packed: packed[:-8] + b"\0" * 4 + packed[-4:],
        lambda packed: packed + b"something else",
        lambda packed: packed + b"\0" * 512 + packed[:9],
    ],
)
@pytest.mark.parametrize("at_once", [7, 128 << 10])
def test_of_a_damaged_gzip_file_all_that_stands_before_the_damage_is_read(tmp_path, monkeypatch, spoil, at_once):
    monkeypatch.setattr(module, "COMPRESSED_BLOCK", at_once)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(spoil(gzip.compress(b"".join(b"%d\n" % number for number in range(500)))))
    *good, last = all_lines(path, "gz")
    assert flat(good) == [b"%d" % number for number in range(500)] and "damaged" in last.fault


@pytest.mark.parametrize("at_once", [7, 128 << 10])
def test_gzip_members_and_zeros_between_them_are_one_text(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(module, "COMPRESSED_BLOCK", at_once)
    path = tmp_path / "a.jsonl.gz"
    parts = [gzip.compress(b"one\ntw"), gzip.compress(b""), b"\0" * 30, gzip.compress(b"o\n"), b"\0" * 30]
    path.write_bytes(b"".join(parts))
    assert flat(all_lines(path, "gz")) == [b"one", b"two"]


@pytest.mark.parametrize("at_once", [7, 1000, 128 << 10])
def test_gzip_that_unpacks_to_much_more_than_it_is_loses_nothing(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(module, "COMPRESSED_BLOCK", at_once)
    wanted = [b"a" * size for size in (300_000, 1, 0, 70_000)]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(wanted)))
    assert flat(all_lines(path, "gz")) == wanted


SKIPPABLE = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"size"
"A zstd frame that holds no text: pzstd writes one before every frame, the seekable format one at the end."


@pytest.mark.parametrize("at_once", [1, 7, 128 << 10])
def test_zstd_frames_that_hold_no_text_do_not_end_the_file(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(module, "COMPRESSED_BLOCK", at_once)
    path = tmp_path / "a.jsonl.zst"
    frames = [SKIPPABLE, zstandard.compress(b"one\ntw"), SKIPPABLE, zstandard.compress(b""), zstandard.compress(b"o\n")]
    path.write_bytes(b"".join([*frames, SKIPPABLE]))
    assert flat(all_lines(path, "zst")) == [b"one", b"two"]


@pytest.mark.parametrize("n_lost", [1, 5, 9])
def test_a_zstd_file_of_one_block_that_is_cut_short_is_told(tmp_path, n_lost):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b"one line\n" * 3)[:-n_lost])
    (*_, last) = all_lines(path, "zst")
    assert "cut short" in last.fault


def test_an_empty_file_has_no_lines_whatever_its_kind(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"")
    assert [all_lines(path, kind) for kind in ("jsonl", "gz", "zst")] == [[], [], []]
