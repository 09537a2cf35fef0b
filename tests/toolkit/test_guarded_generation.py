"""No listed phrase is in what a guarded model writes, whatever tokens it would spell it with."""

import itertools
import random

import pytest
import torch
from stack_fakes import PEFT_WARNING
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, PreTrainedTokenizerFast
from tunewell.filters import Blocklist, BlocklistFilter, BlocklistGuard
from tunewell.toolkit.model import generation
from tunewell.toolkit.model.generation import Sampling, generate
from tunewell.toolkit.model.returned_text import TextReader
from tunewell.toolkit.model.text_guard import Objection

pytestmark = [pytest.mark.filterwarnings(PEFT_WARNING)]

BOS, EOS = 0, 1
WORDS = "kill them all killer skills kilt klll ill thematic assistant class ass cl assess . ! , you are an Kill THEM "


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator([WORDS * 3], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>")


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def pieces(tokenizer):
    """The bytes of every token."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(hidden)}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [b"" if token[0] == "<" and len(token) > 1 else bytes(byte_of[char] for char in token) for token in tokens]


class Wish(LogitsProcessor):
    """Wants to write a phrase again and again, by every token that is the next piece of it, all alike."""

    def __init__(self, phrase, pieces):
        self.phrase, self.pieces = phrase.encode(), pieces
        self.wanted = [
            torch.tensor([12.0 * bool(piece and self.phrase[done:].startswith(piece)) for piece in pieces])
            for done in range(len(self.phrase))
        ]

    def __call__(self, input_ids, scores):
        rows = []
        for ids in input_ids.tolist():
            written = b"".join(self.pieces[token] for token in ids[ids.index(BOS) + 1 :])
            done = next(k for k in range(len(self.phrase) - 1, -1, -1) if written.endswith(self.phrase[:k]))
            rows.append(self.wanted[done])
        return torch.stack(rows)


def write(model, tokenizer, n, *processors, guard=None, seed=0, **options):
    options = {"max_new_tokens": 16, **options}
    stop, batch = options.pop("stop", ()), options.pop("batch_size", 64)
    return generate(
        model, tokenizer, [[BOS]] * n, Sampling(**options), seeds=range(seed, seed + n), stop=stop, batch_size=batch,
        logits_processors=processors, guard=guard,
    )  # fmt: skip


def listed(patterns, completions, **options):
    verdicts = BlocklistFilter(Blocklist.from_lines(patterns), **options).judge([one.text for one in completions])
    return [one.text for one, verdict in zip(completions, verdicts, strict=True) if not verdict.keep]


def guard_of(*patterns, **options):
    return BlocklistGuard(Blocklist.from_lines(patterns), **options)


# ruff: noqa: RUF001  (look-alikes are what is tested)
@pytest.mark.parametrize(
    "spelling", ["kill them ", "KILL THEM.", "ｋｉｌｌ\u3000ｔｈｅｍ ", "kіll  thеm ", "k\u200bill the\u0336m "]
)
def test_a_model_that_wants_a_phrase_in_every_tokenisation_never_writes_it(model, tokenizer, pieces, spelling):
    wish, patterns = Wish(spelling, pieces), ["kill them"]
    sampling = {"max_new_tokens": 32}
    free = write(model, tokenizer, 24, wish, **sampling)
    assert len(listed(patterns, free)) >= 16
    if spelling == "kill them ":
        starts = {tuple(itertools.takewhile(lambda token: token != EOS, one.ids[:5])) for one in free}
        assert len(starts) >= 12  # the control: it is spelled in many ways
    guarded = write(model, tokenizer, 24, wish, guard=guard_of(*patterns), **sampling)
    assert listed(patterns, guarded) == []
    assert sum(one.refused > 0 for one in guarded) >= 12
    assert all(tokenizer.decode(one.ids, skip_special_tokens=True) == one.text for one in guarded)


def test_spelling_in_digits_is_refused_when_asked(model, tokenizer, pieces):
    wish = Wish("k1ll th3m ", pieces)
    assert len(listed(["kill them"], write(model, tokenizer, 10, wish), leetspeak=True)) >= 9
    assert listed(["kill them"], write(model, tokenizer, 10, wish, guard=guard_of("kill them", leetspeak=True)),
                  leetspeak=True) == []  # fmt: skip


def test_a_longer_word_that_begins_with_a_listed_one_is_written(model, tokenizer, pieces):
    for word, pattern in (("killer skills.", "kill"), ("assistant.", "ass"), ("class.", "ass")):
        for one in write(model, tokenizer, 8, Wish(word, pieces), guard=guard_of(pattern), stop=(".",)):
            assert (one.text, one.refused) == (word[:-1], 0)


def test_a_word_that_the_model_ends_is_taken_back_whole(model, tokenizer, pieces):
    """It is not pieced out into a longer word: the model did not want one."""
    for one in write(model, tokenizer, 20, Wish("you are an ass.", pieces), guard=guard_of("ass"), max_new_tokens=24):
        assert one.text.startswith("you are an ") and one.refused
        assert not one.text.startswith("you are an ass")


def test_scripts_without_spaces_have_no_boundaries_here_either(model, tokenizer, pieces):
    wish = Wish("他杀人了", pieces)
    assert len(listed(["杀人"], write(model, tokenizer, 10, wish))) >= 9
    assert listed(["杀人"], write(model, tokenizer, 10, wish, guard=guard_of("杀人"))) == []


MESSY = ["kill", "kill all", "*lk", "il*", "*ss*", "a$$", "k k", "them kill", "é"]


class Letters(LogitsProcessor):
    """Draws at random among a few tokens."""

    def __init__(self, pieces, words):
        self.scores = torch.full((len(pieces),), -torch.inf)
        for word in words:
            self.scores[pieces.index(word)] = 0
        self.scores[EOS] = -2

    def __call__(self, input_ids, scores):
        return self.scores.expand_as(scores).clone()


@pytest.fixture
def letters(pieces):
    words = [b"k", b"i", b"l", b"ll", b"a", b"$", b" ", b"s", b"kill", b"em", b"th", b"\xc3", b"\xa9", b"."]
    return Letters(pieces, [word for word in words if word in pieces])


@pytest.mark.parametrize("stop", [(), ("l.", "em")])
def test_random_text_is_clean_at_any_length_and_with_stop_strings(model, tokenizer, letters, stop):
    n_free = 0
    for length in (1, 2, 5, 16):
        options = {"max_new_tokens": length, "stop": stop}
        n_free += len(listed(MESSY, write(model, tokenizer, 50, letters, **options)))
        guarded = write(model, tokenizer, 50, letters, guard=guard_of(*MESSY), **options)
        assert listed(MESSY, guarded) == []
        assert all(len(one.ids) <= length for one in guarded)
    assert n_free > 20


def test_a_stop_string_does_not_uncover_a_listed_word(model, tokenizer, pieces):
    wish, options = Wish("an assQ: ", pieces), {"stop": ("Q:",), "max_new_tokens": 20}
    assert {one.text for one in write(model, tokenizer, 10, wish, **options)} == {"an ass"}
    assert listed(["ass"], write(model, tokenizer, 10, wish, guard=guard_of("ass"), **options)) == []


def test_no_draw_depends_on_batch_or_neighbours(model, tokenizer, letters):
    guard = guard_of("kill", "ll*")
    alone = write(model, tokenizer, 8, letters, guard=guard, batch_size=1)
    assert write(model, tokenizer, 8, letters, guard=guard, batch_size=5) == alone
    assert write(model, tokenizer, 4, letters, guard=guard, seed=4) == alone[4:]
    assert any(one.refused for one in alone)


def test_without_anything_to_refuse_the_text_is_the_same_as_without_a_guard(model, tokenizer):
    for options in ({}, {"temperature": 0}, {"top_k": 5, "temperature": 0.7}, {"top_p": 0.6}):
        free = write(model, tokenizer, 8, **options)
        assert write(model, tokenizer, 8, guard=guard_of("hate"), **options) == free


class Shares(LogitsProcessor):
    """Gives each of the first words a probability, and ends the text after one."""

    def __init__(self, pieces, shares):
        self.shares = {pieces.index(piece): share for piece, share in shares.items()}

    def __call__(self, input_ids, scores):
        scores = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids.tolist()):
            if ids[-1] == BOS:
                for token, share in self.shares.items():
                    scores[row, token] = torch.tensor(share).log()
            else:
                scores[row, EOS] = 0
        return scores


def test_what_is_refused_leaves_its_probability_to_the_others_in_proportion(model, tokenizer, pieces):
    """A listed word is taken back only when the model ends it; an open pattern is refused at once: both ways agree."""
    shares = Shares(pieces, {b"kill": 0.3, b"l": 0.5, b"i": 0.2})
    for pattern in ("kill", "kill*"):
        drawn = [one.text for one in write(model, tokenizer, 600, shares, guard=guard_of(pattern), batch_size=600)]
        assert set(drawn) == {"l", "i"}
        assert abs(drawn.count("l") / 600 - 0.5 / 0.7) < 4 * 0.45 / 600**0.5


def test_when_sampling_leaves_only_listed_words_the_likeliest_other_token_is_taken(model, tokenizer, pieces):
    shares = Shares(pieces, {b"s": 0.6, b"l": 0.1, b"i": 0.3})
    for options in ({"top_k": 1}, {"top_p": 0.5}, {"temperature": 0}):
        assert {one.text for one in write(model, tokenizer, 5, shares, guard=guard_of("*s*x", "s\u0336*z", "*ss*"),
                                          **options)} == {"s"}  # fmt: skip
        assert {one.text for one in write(model, tokenizer, 5, shares, guard=Refuses("s"), **options)} == {"i"}


class Refuses:
    """Objects to a letter wherever it stands."""

    def __init__(self, letters):
        self.letters = letters

    def objections(self, text):
        return [Objection(at, at + 1, may_pass=False) for at, char in enumerate(text) if char in self.letters]


def test_a_text_that_cannot_go_on_ends_there(model, tokenizer, pieces):
    shares = Shares(pieces, {b"s": 0.5, b"l": 0.5})
    (one,) = write(model, tokenizer, 1, shares, guard=Refuses("sl"))
    assert (one.text, one.ids, one.ended, one.refused) == ("", [], False, 2)


def test_going_back_has_a_limit(model, tokenizer, pieces, monkeypatch):
    """With every word listed a text of many words would go back at each."""
    wish = Wish("ass ", pieces)
    rng = random.Random(0)
    guard = guard_of(*{"".join(rng.choices("ask", k=k)) for k in (2, 3, 4) for _ in range(200)})
    calls = []
    original = generation.write
    monkeypatch.setattr(generation, "write", lambda *given: calls.append(1) or original(*given))
    (one,) = write(model, tokenizer, 1, wish, guard=guard, max_new_tokens=60)
    assert 2 < len(calls) <= 9 + 60 // 2
    assert not guard.objections(one.text)


def test_the_text_of_one_more_token_is_that_of_all(tokenizer, pieces):
    reader = TextReader(tokenizer, frozenset({EOS}), ())
    wide = [tokenizer(text)["input_ids"] for text in ("杀 kill, ｋｉｌｌ 🙂 the\u0336m é", "кill them . !")]
    rng = random.Random(0)
    for ids in [*wide, rng.choices(range(len(pieces)), k=120)]:
        text = ""
        for at, token in enumerate(ids):
            text = reader.decode_next(ids[:at], text, token)
            assert text == reader.decode(ids[: at + 1])
