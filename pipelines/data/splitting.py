"""Prompts are split by user, and what of the evaluation is in the training set is found."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from ...filters import BenchmarkItem, ContaminationFilter
from ...toolkit.errors import DataError
from .choosing import Dropped, share_of
from .written import Written, completions_of, folded

Split = Literal["train", "held_out", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHORTEST = 8  # words of a prompt that is looked for inside others; shorter ones only as a whole


def split_by_user(prompts: Sequence[Written], held_out: float, test: float, seed: int) -> dict[Split, list[Written]]:
    """Give every user, with all prompts of theirs, to one split.

    A hash of the user decides, so a user stays where they are when others come; a prompt of nobody known goes by its
    own hash. Where a share is wanted and no user fell into it, the user nearest to it goes there.

    Args:
        prompts: at least one.
        held_out: share of users, from 0 up to 1.
        test: the same, of a further split.
        seed: another one gives another split.

    Raises:
        DataError: there are fewer users than splits.
    """
    shares = {group: share_of(seed, group) for group in {_group(one) for one in prompts}}
    in_order = sorted(shares, key=shares.__getitem__)
    wanted = 1 + (held_out > 0) + (test > 0)
    if len(in_order) < wanted:
        users = {one.user for one in prompts} - {None}
        whose = "are all of one user" if users else "are too few"
        raise DataError(
            f"the {len(prompts)} prompts left {whose} and cannot be split in {wanted}, since no user may be in two "
            "splits: add prompts of others, or give --held-out 0, or name another --user-column"
        )
    n_test = max(sum(shares[one] < test for one in in_order), int(test > 0))
    n_held_out = max(sum(test <= shares[one] < test + held_out for one in in_order), int(held_out > 0))
    n_test = min(n_test, len(in_order) - wanted + 1)
    n_held_out = min(n_held_out, len(in_order) - n_test - 1)
    place: dict[str, Split] = {}
    for number, group in enumerate(in_order):
        place[group] = "test" if number < n_test else "held_out" if number < n_test + n_held_out else "train"
    return {split: [one for one in prompts if place[_group(one)] == split] for split in SPLITS}


def drop_leaks(splits: dict[Split, list[Written]], n_words: int) -> tuple[dict[Split, list[Written]], list[Dropped]]:
    """Drop from training what gives away a prompt of the other splits, and from those what gives away the test.

    Args:
        splits: of `split_by_user`.
        n_words: see `find_leaks`.
    """
    kept: dict[Split, list[Written]] = dict(splits)
    dropped: list[Dropped] = []
    hidden: list[Written] = []
    for split in ("test", "held_out", "train"):
        items = [BenchmarkItem(one.place, 0, tuple(one.questions)) for one in hidden]
        leaks = find_leaks([[*one.texts, *completions_of(one)] for one in kept[split]], items, n_words)
        dropped += [Dropped(kept[split][at], "leak", f"shares words with {where}") for at, where in leaks.items()]
        kept[split] = [one for at, one in enumerate(kept[split]) if at not in leaks]
        hidden += kept[split]
    return kept, dropped


def find_leaks(texts: Sequence[Sequence[str]], items: Iterable[BenchmarkItem], n_words: int) -> dict[int, str]:
    """Find texts that hold evaluation items: by number of the text the label of the item of which most is there.

    Args:
        texts: of training, each in its parts.
        items: of the evaluation.
        n_words: so many words in a row that stand in both are a leak; a shorter item of at least 8 words must be
            there as a whole, and one shorter yet, of at least 3 words or 12 characters, must be a whole part.
    """
    known = tuple(items)
    if not known:
        return {}
    whole = {
        key: item for item in known for one in item.passages if len(key := folded([one])) >= 12 or key.count(" ") >= 2
    }
    judge = ContaminationFilter(items=known, n_words=n_words, shortest=min(SHORTEST, n_words))
    found = {}
    for number, (parts, verdict) in enumerate(zip(texts, judge.judge(["\n".join(one) for one in texts]), strict=True)):
        same = next((whole[key] for part in parts if (key := folded([part])) in whole), None)
        if same is not None or not verdict.keep:
            found[number] = (same.label if same else verdict.matched).removesuffix(", row 0")
    return found


def _group(one: Written) -> str:
    return f"user\x1f{one.user}" if one.user is not None else f"prompt\x1f{one.key}"
