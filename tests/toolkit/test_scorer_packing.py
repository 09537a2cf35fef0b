import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tunewell.toolkit.scorer.packing import PREFIX_END, pack_in_one_row, pack_in_rows, window_starts

LISTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=12)


def paths(packs):
    """(pack, continuation) -> the tokens read for it, with the tokens seen by the one that predicts each of them."""
    found = {}
    for pack in packs:
        flat = pack.tokens.ravel()
        for step, owner in zip(pack.step, pack.owner, strict=True):
            source = pack.source[step]
            if source == PREFIX_END:
                seen = []
            elif pack.is_seen is None:
                row, column = divmod(int(source), pack.tokens.shape[1])
                seen = pack.tokens[row, : column + 1].tolist()
            else:
                assert pack.depth[source] == pack.is_seen[source].sum() - 1
                seen = flat[pack.is_seen[source]].tolist()
            found.setdefault(int(owner), []).append((seen, int(pack.target[step])))
    return found


def test_common_beginnings_are_fed_once_and_last_tokens_not_at_all():
    (pack,) = pack_in_one_row([[1, 2, 3], [1, 2, 4], [5]], max_tokens=100)
    assert pack.tokens.tolist() == [[1, 2]] and pack.depth.tolist() == [0, 1]
    assert pack.is_seen.tolist() == [[True, False], [True, True]]
    assert pack.source.tolist() == [PREFIX_END, 0, 1, 1, PREFIX_END] and pack.target.tolist() == [1, 2, 3, 4, 5]
    assert pack.totals(np.array([-1.0, -10, -100, -1000, -7]), 3).tolist() == [-111, -1011, -7]


def test_continuations_that_differ_see_nothing_of_each_other():
    (pack,) = pack_in_one_row([[1, 2, 9], [3, 2, 9]], max_tokens=100)
    assert pack.tokens.tolist() == [[1, 2, 3, 2]] and pack.depth.tolist() == [0, 1, 0, 1]
    block = [[1, 0], [1, 1]]
    assert (pack.is_seen == np.kron(np.eye(2), block).astype(bool)).all()


def test_single_tokens_need_nothing_fed():
    for pack in (*pack_in_one_row([[1], [2]], 100), *pack_in_rows([[1], [2]], 100)):
        assert pack.tokens.size == 0 and pack.source.tolist() == [PREFIX_END] * 2


def test_rows_of_the_cache_way_end_in_padding():
    (pack,) = pack_in_rows([[1, 2], [3, 4, 5]], max_rows=2)
    assert pack.tokens.tolist() == [[3, 4], [1, 0]] and pack.is_seen is None
    assert pack.source.tolist() == [PREFIX_END, 0, 1, PREFIX_END, 2]
    assert pack.owner.tolist() == [1, 1, 1, 0, 0]


@given(LISTS, st.integers(1, 20))
def test_every_token_is_read_once_after_what_comes_before_it(continuations, limit):
    for packs in (pack_in_one_row(continuations, limit), pack_in_rows(continuations, limit)):
        wanted = {i: [(own[:at], token) for at, token in enumerate(own)] for i, own in enumerate(continuations)}
        assert paths(packs) == wanted


@given(LISTS, st.integers(1, 20))
def test_packs_stay_near_their_limit(continuations, limit):
    longest = max(map(len, continuations))
    for pack in pack_in_one_row(continuations, limit):
        assert pack.tokens.shape[1] < limit + longest
    for pack in pack_in_rows(continuations, limit):
        assert len(pack.tokens) <= limit


def test_the_smallest_packs_hold_one_continuation():
    packs = pack_in_one_row([[1, 2], [3, 4], [5, 6]], max_tokens=1)
    assert [set(pack.owner.tolist()) for pack in packs] == [{0}, {1}, {2}]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 30))
def test_windows_leave_no_token_out_and_the_last_ends_with_the_text(n_tokens, size, stride):
    starts = window_starts(n_tokens, size, stride)
    covered = {token for start in starts for token in range(start, min(start + size, n_tokens))}
    assert covered == set(range(n_tokens))
    assert starts[0] == 0 and starts[-1] == max(0, n_tokens - size)
    assert starts == sorted(set(starts))


def test_windows_by_hand():
    assert window_starts(10, 10, 5) == [0]
    assert window_starts(11, 10, 5) == [0, 1]
    assert window_starts(25, 10, 5) == [0, 5, 10, 15]
    assert window_starts(27, 10, 5) == [0, 5, 10, 15, 17]
    assert window_starts(27, 10, 99) == [0, 10, 17]  # a stride above the window would leave tokens out
