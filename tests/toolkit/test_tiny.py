from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from tunewell.toolkit import tiny
from tunewell.toolkit.errors import DataError, SettingsError
from tunewell.toolkit.files import sha256_file
from tunewell.toolkit.settings.base import TinySettings
from tunewell.toolkit.settings.reading import build
from tunewell.toolkit.tiny import BOS, EOS, PAD, build_base, cache_folder, cached_base

SMALL = TinySettings(vocabulary=300, hidden_size=64, layers=1, heads=2, context=64, steps=3, tokens_per_step=128)
TEXTS = [f"The atlas says the flag of place {number} is blue." for number in range(20)]
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A tiny model."},
    {"role": "user", "content": "Where?"},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "base"
    build_base(TEXTS, folder, settings=SMALL)
    return folder


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_the_same_texts_seed_and_settings_give_the_same_files_byte_for_byte(base, tmp_path):
    torch.manual_seed(12345)  # what was drawn before does not matter
    build_base(TEXTS, tmp_path / "again", settings=SMALL)
    assert hashes(tmp_path / "again") == hashes(base)
    build_base(TEXTS, tmp_path / "other", settings=SMALL, seed=1)
    other = hashes(tmp_path / "other")
    assert {name for name in other if other[name] != hashes(base)[name]} == {"model.safetensors"}


def test_building_leaves_the_random_state_of_the_caller_alone(tmp_path):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    build_base(TEXTS, tmp_path / "base", settings=replace(SMALL, steps=1))
    assert torch.equal(torch.rand(3), wanted)


def test_training_lowers_the_loss(tmp_path):
    losses = []
    build_base(
        TEXTS,
        tmp_path / "base",
        settings=replace(SMALL, steps=25),
        progress=lambda done, total, loss: losses.append((done, total, loss)),
    )
    assert [done for done, _, _ in losses] == list(range(1, 26)) and {total for _, total, _ in losses} == {25}
    assert losses[-1][2] < losses[0][2] - 2  # nats per token; a guess among 300 tokens costs 5.7


def test_a_second_call_does_not_train_and_gives_the_same_folder(tmp_path):
    first = cached_base(TEXTS, settings=SMALL, cache=tmp_path)
    steps = []
    again = cached_base(TEXTS, settings=SMALL, cache=tmp_path, progress=lambda *step: steps.append(step))
    assert again == first and steps == []
    assert [path.name for path in tmp_path.iterdir()] == [first.name]  # nothing half-built is left


@pytest.mark.parametrize(
    "change",
    [{"texts": [*TEXTS, "more"]}, {"texts": TEXTS[::-1]}, {"seed": 1}, {"settings": replace(SMALL, steps=4)}],
    ids=["texts", "order of texts", "seed", "settings"],
)
def test_a_change_of_what_decides_the_base_builds_anew(tmp_path, change, monkeypatch):
    built = []
    monkeypatch.setattr(tiny, "build_base", lambda texts, folder, **options: (built.append(1), folder.mkdir()))
    usual = {"texts": TEXTS, "seed": 0, "settings": SMALL}
    folders = {cached_base(**given, cache=tmp_path) for given in (usual, usual | change, usual, usual | change)}
    assert len(folders) == 2 and len(built) == 2


def test_a_change_of_the_code_builds_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "build_base", lambda texts, folder, **options: folder.mkdir())
    first = cached_base(TEXTS, settings=SMALL, cache=tmp_path)
    changed = tmp_path / "tiny.py"
    changed.write_text(Path(tiny.__file__).read_text() + "\n# changed\n")
    monkeypatch.setattr(tiny, "__file__", str(changed))
    assert cached_base(TEXTS, settings=SMALL, cache=tmp_path) != first


def test_a_build_that_fails_leaves_nothing_in_the_cache(tmp_path):
    def stop(done: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_base(TEXTS, settings=SMALL, cache=tmp_path, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_another_process_that_was_faster_wins_and_its_base_is_used(tmp_path, monkeypatch):
    def build(texts, folder, **options):
        folder.mkdir()
        (folder / "mine").write_text("")
        rival = tmp_path / cached_name
        rival.mkdir()
        (rival / "theirs").write_text("")

    monkeypatch.setattr(tiny, "build_base", lambda texts, folder, **options: folder.mkdir())
    cached_name = cached_base(TEXTS, settings=SMALL, cache=tmp_path).name
    (tmp_path / cached_name).rmdir()
    monkeypatch.setattr(tiny, "build_base", build)
    folder = cached_base(TEXTS, settings=SMALL, cache=tmp_path)
    assert [path.name for path in folder.iterdir()] == ["theirs"]


def test_the_cache_stands_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEWELL_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("TUNEWELL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tunewell"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "tunewell"


def test_plain_transformers_load_the_base_and_it_has_safetensors_only(base, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(base)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (64, 1)
    assert model.config.vocab_size == len(tokenizer) <= 300
    assert not [path for path in base.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    with torch.inference_mode():
        loss = model(
            **tokenizer(TEXTS[0], return_tensors="pt"), labels=tokenizer(TEXTS[0], return_tensors="pt").input_ids
        )
    assert torch.isfinite(loss.loss)


def test_the_tokenizer_has_its_own_padding_token_and_puts_a_start_token_before_every_text(tokenizer):
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (PAD, BOS, EOS)
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert tokenizer("The flag").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer("The flag").input_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer("The flag", add_special_tokens=False).input_ids[0] != tokenizer.bos_token_id
    assert tokenizer.model_max_length == 64


@pytest.mark.parametrize("text", ["The atlas.", "  spaces  and\n\nlines ", "naïve café 日本語 🙂", "\x00\x7f", ""])
def test_every_text_comes_back_as_it_was(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_a_chat_ends_with_the_end_token_and_a_prompt_with_the_speaker_to_answer(tokenizer):
    done = tokenizer.apply_chat_template(CHAT[:3], tokenize=False)
    assert done == f"{BOS}Be kind.\n\nHuman: Who are you?\n\nAssistant: A tiny model.{EOS}"
    asked = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert asked == done + "\n\nHuman: Where?\n\nAssistant:"
    # What follows a generation prompt is what the template would have written: prompt and answer meet without a seam.
    answered = [*CHAT, {"role": "assistant", "content": "Here."}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == asked + f" Here.{EOS}"


def test_the_chat_template_marks_what_the_assistant_says(tokenizer):
    encoded = tokenizer.apply_chat_template(
        CHAT[1:3], return_assistant_tokens_mask=True, return_dict=True, add_generation_prompt=False
    )
    said = [token for token, is_said in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if is_said]
    assert tokenizer.decode(said) == f" A tiny model.{EOS}"


@pytest.mark.parametrize("texts", [[], [""], ["  ", "\n"]])
def test_a_corpus_without_text_is_refused(texts, tmp_path):
    with pytest.raises(DataError, match=r"without text, wanted at least one non-empty document: check base\.corpus"):
        cached_base(texts, settings=SMALL, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_documents_longer_than_the_context_are_cut_and_none_is_dropped(tokenizer):
    long = "a long document " * 50
    wanted = [*tokenizer(long).input_ids, tokenizer.eos_token_id]
    pieces = list(tiny._pieces(["short", long], tokenizer, 64))
    assert len(pieces) > 3 and max(map(len, pieces)) == 64
    assert [token for piece in pieces[1:] for token in piece] == wanted


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(SettingsError, match=r"hidden_size: got 100, wanted a multiple of 64"):
        build(TinySettings, {"hidden_size": 100})
    with pytest.raises(SettingsError, match=r"heads: got 5, wanted a divisor of half of hidden_size \(32\)"):
        build(TinySettings, {"hidden_size": 64, "heads": 5})
