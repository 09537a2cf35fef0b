import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
from tunewell.toolkit.errors import ModelError
from tunewell.toolkit.toxicity.classifier import ClassifierToxicity
from tunewell.toolkit.toxicity.detoxify import DetoxifyToxicity
from tunewell.toolkit.toxicity.scorer import open_scorer

CLASSES = ["toxic", "severe_toxic", "insult"]
TEXTS = ["go away you rat", "a fine day", "x", "stay as long as you like my friend", "Go! Away?"]
LONGEST = 64


class Payload:
    """What a malicious pickle would hold."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def config_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration and tokenizer of a tiny BERT, as a user would have them for bert-base-uncased."""
    folder = tmp_path_factory.mktemp("config")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), "!", "?", "rat"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=LONGEST).save_pretrained(folder)
    config = BertConfig(vocab_size=len(words), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=64, max_position_embeddings=LONGEST)  # fmt: skip
    config.save_pretrained(folder)
    return folder


def tiny_bert(config_folder: Path, outputs: int, seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig.from_pretrained(config_folder, num_labels=outputs, initializer_range=0.2)
    return BertForSequenceClassification(config).eval()


def write_checkpoint(folder: Path, config_folder: Path, *, outputs: int = 3, **changes: Any) -> Path:
    """A checkpoint as the package detoxify writes them."""
    arch = {"num_classes": outputs, "model_type": str(config_folder), "model_name": "BertForSequenceClassification",
            "tokenizer_name": "BertTokenizer"}  # fmt: skip
    content = {
        "state_dict": tiny_bert(config_folder, outputs).state_dict(),
        "config": {"dataset": {"args": {"classes": CLASSES}}, "arch": {"type": "BERT", "args": arch}},
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "tiny.ckpt")
    return folder / "tiny.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, config_folder: Path) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("ckpt"), config_folder)


@pytest.fixture
def scorer(checkpoint: Path, config_folder: Path, tmp_path: Path) -> DetoxifyToxicity:
    return DetoxifyToxicity(checkpoint, "skip", config_folder=config_folder, cache=tmp_path, device="cpu")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_scores_are_those_of_the_package(
    scorer: DetoxifyToxicity, checkpoint: Path, config_folder: Path, tmp_path: Path
) -> None:
    detoxify = pytest.importorskip("detoxify")
    named = tmp_path / "named"  # the package needs the number of outputs in the configuration it is given
    tiny_bert(config_folder, 3).config.save_pretrained(named)
    theirs = detoxify.Detoxify(
        checkpoint=str(checkpoint), huggingface_config_path=str(config_folder_with(named, config_folder))
    )
    expected = theirs.predict(TEXTS)
    ours = scorer.score_labels(TEXTS)
    assert list(expected) == ["toxicity", "severe_toxicity", "insult"] == list(ours)
    for label in expected:
        np.testing.assert_allclose(ours[label], expected[label], atol=1e-6)
    assert np.ptp(ours["toxicity"]) > 0.01  # control: the scores are not all alike
    np.testing.assert_array_equal(scorer.score(TEXTS), ours["toxicity"])


def config_folder_with(named: Path, config_folder: Path) -> Path:
    for file in config_folder.iterdir():
        if file.name != "config.json":
            (named / file.name).write_bytes(file.read_bytes())
    return named


@pytest.mark.parametrize("texts", [[], ["rat"], ["rat", "a day"], ["", "rat", " \n"]])
def test_any_number_of_texts_gives_an_array_with_nan_for_what_is_empty(
    scorer: DetoxifyToxicity, texts: list[str]
) -> None:
    scores = scorer.score(texts)
    assert scores.shape == (len(texts),) and scores.dtype == np.float64
    assert np.isnan(scores).tolist() == [not text.strip() for text in texts]


def test_the_batch_does_not_change_a_score(scorer: DetoxifyToxicity) -> None:
    together, alone = scorer.score(TEXTS), np.concatenate([scorer.score([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_long_text_has_the_highest_score_of_its_windows_the_last_included(scorer: DetoxifyToxicity) -> None:
    held, step = LONGEST - 2, LONGEST - 2 - 16  # a window's frame takes two tokens; windows overlap by a quarter
    words = [letter for letter in "abcdef" for _ in range(20)] + ["rat"] * 30  # each word is one token
    windows = scorer.score([" ".join(words[start : start + held]) for start in (0, step, 2 * step)])
    assert np.ptp(windows) > 0.001  # control: it matters which window counts
    assert scorer.score([" ".join(words)])[0] == pytest.approx(windows.max(), abs=1e-6)
    turned = words if windows.argmax() == 2 else words[::-1]
    last = scorer.score([" ".join(turned[2 * step :])])[0]
    assert scorer.score([" ".join(turned)])[0] >= last - 1e-6


def test_the_hash_is_asked_for_and_shown(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match=rf"came without its SHA-256. It is {digest(checkpoint)}"):
        open_scorer(f"detoxify:{checkpoint}")


@pytest.mark.parametrize("wrong", ["0" * 64, "abc"])
def test_a_wrong_or_short_hash_is_refused(checkpoint: Path, wrong: str) -> None:
    with pytest.raises(ModelError, match="wanted one that begins with"):
        open_scorer(f"detoxify:{checkpoint}@{wrong}")
    with pytest.raises(ModelError, match="wanted one that begins with"):
        open_scorer(f"detoxify:{checkpoint}@{digest(checkpoint)[:7]}")


def test_the_right_hash_opens_it_by_description(
    checkpoint: Path, config_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scorer = open_scorer(f"detoxify:{checkpoint}@{digest(checkpoint)[:8]}")
    assert scorer.id.startswith("detoxify:") and scorer.id.endswith("#toxicity")
    assert len(list((tmp_path / "cache/tunewell/detoxify").iterdir())) == 1


def test_it_is_converted_once_to_safetensors(
    checkpoint: Path, config_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = DetoxifyToxicity(checkpoint, "skip", config_folder=config_folder, cache=tmp_path)
    [folder] = tmp_path.iterdir()
    assert "model.safetensors" in {file.name for file in folder.iterdir()}
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the checkpoint was read again"))
    second = DetoxifyToxicity(checkpoint, "skip", config_folder=config_folder, cache=tmp_path)
    assert first.id == second.id
    np.testing.assert_array_equal(first.score(TEXTS), second.score(TEXTS))


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(config_folder: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "bad", config_folder, extra=Payload(tmp_path / "executed"))
    with pytest.raises(ModelError, match="would run code of its own, which is refused"):
        DetoxifyToxicity(path, "skip", config_folder=config_folder, cache=tmp_path / "cache")
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists()  # control: the payload works


def test_more_outputs_than_names_are_kept_apart(config_folder: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "wide", config_folder, outputs=5)
    scorer = DetoxifyToxicity(path, "skip", config_folder=config_folder, cache=tmp_path / "cache")
    assert scorer.labels == ["toxicity", "severe_toxicity", "insult", "unnamed_3", "unnamed_4"]


def test_position_numbers_saved_by_older_versions_are_no_weights(config_folder: Path, tmp_path: Path) -> None:
    state = tiny_bert(config_folder, 3).state_dict() | {"bert.embeddings.position_ids": torch.arange(LONGEST)[None]}
    path = write_checkpoint(tmp_path / "old", config_folder, state_dict=state)
    DetoxifyToxicity(path, "skip", config_folder=config_folder, cache=tmp_path / "cache")


def test_weights_that_do_not_fit_are_refused(config_folder: Path, tmp_path: Path) -> None:
    state = tiny_bert(config_folder, 3).state_dict()
    del state["classifier.bias"]
    path = write_checkpoint(tmp_path / "part", config_folder, state_dict=state)
    with pytest.raises(ModelError, match=r"(?s)do not fit the configuration.*classifier\.bias"):
        DetoxifyToxicity(path, "skip", config_folder=config_folder, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_file_of_another_kind_is_refused(config_folder: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, config_folder, config={"arch": {}})
    with pytest.raises(ModelError, match="is not a Detoxify checkpoint"):
        DetoxifyToxicity(path, "skip", config_folder=config_folder, cache=tmp_path / "cache")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ModelError, match="cannot read"):
        DetoxifyToxicity(tmp_path / "text.ckpt", "skip", config_folder=config_folder, cache=tmp_path / "cache")
    with pytest.raises(ModelError, match="no checkpoint at"):
        DetoxifyToxicity(tmp_path / "none.ckpt", "skip")


def test_an_architecture_that_is_not_on_this_machine_is_named(
    config_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = {"num_classes": 3, "model_type": "no-such-model-here", "model_name": "BertForSequenceClassification"}
    config = {"dataset": {"args": {"classes": CLASSES}}, "arch": {"args": arch}}
    path = write_checkpoint(tmp_path / "away", config_folder, config=config)
    with pytest.raises(ModelError, match="tokenizer of 'no-such-model-here', which are not on this machine"):
        DetoxifyToxicity(path, "skip", cache=tmp_path / "cache")


def test_a_release_that_is_not_on_this_machine_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match=r"Put toxic_debiased-c7548aa0\.ckpt from https://github\.com/unitaryai"):
        open_scorer("detoxify:unbiased")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/toxic_debiased-c7548aa0.ckpt").write_bytes(b"other")
    with pytest.raises(ModelError, match="wanted one that begins with 'c7548aa0'"):
        open_scorer("detoxify:unbiased")


# Any sequence classifier.


def classifier_folder(folder: Path, config_folder: Path, labels: list[str], problem: str | None = None) -> Path:
    model = tiny_bert(config_folder, len(labels))
    model.config.id2label = dict(enumerate(labels))
    model.config.problem_type = problem
    model.save_pretrained(folder)
    return config_folder_with(folder, config_folder)


def test_one_label_of_two_is_a_softmax(config_folder: Path, tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path, config_folder, ["fine", "toxic"])
    scores = ClassifierToxicity(folder, "toxic").score_labels(TEXTS)
    np.testing.assert_allclose(scores["fine"] + scores["toxic"], 1.0, atol=1e-9)
    both = open_scorer(f"hf:{folder}#fine"), open_scorer(f"hf:{folder}#toxic")
    assert both[0].id != both[1].id
    np.testing.assert_allclose(both[0].score(TEXTS) + both[1].score(TEXTS), 1.0, atol=1e-9)


def test_independent_labels_and_a_single_one_are_sigmoids(config_folder: Path, tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path / "a", config_folder, ["a", "b"], "multi_label_classification")
    with torch.inference_mode():
        model = tiny_bert(config_folder, 2)
        tokens = BertTokenizerFast.from_pretrained(config_folder)(TEXTS[0], return_tensors="pt")
        expected = model(**tokens).logits.sigmoid()[0].double().numpy()
    scores = ClassifierToxicity(folder, "a").score_labels(TEXTS[:1])
    np.testing.assert_allclose([scores["a"][0], scores["b"][0]], expected, atol=1e-6)
    single = open_scorer(f"hf:{classifier_folder(tmp_path / 'b', config_folder, ['toxic'])}")
    assert 0 < single.score(TEXTS)[0] < 1


def test_the_toxic_label_must_be_named(config_folder: Path, tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path, config_folder, ["fine", "toxic"])
    with pytest.raises(ModelError, match=r"got no label .* one of fine, toxic"):
        open_scorer(f"hf:{folder}")
    with pytest.raises(ModelError, match="got the label 'hateful'"):
        open_scorer(f"hf:{folder}#hateful")


def test_a_model_without_a_trained_head_is_refused(config_folder: Path, tmp_path: Path) -> None:
    folder = classifier_folder(tmp_path, config_folder, ["fine", "toxic"])
    tiny_bert(config_folder, 2).bert.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "fine", "1": "toxic"}, {"fine": 0, "toxic": 1}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks trained weights for classifier\.bias"):
        open_scorer(f"hf:{folder}#toxic")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a sequence classifier in safetensors"):
        open_scorer(f"hf:{tmp_path}#toxic")


def test_a_classifier_is_named_by_its_weights_and_not_by_its_place(config_folder: Path, tmp_path: Path) -> None:
    first = ClassifierToxicity(classifier_folder(tmp_path / "a", config_folder, ["fine", "toxic"]), "toxic")
    second = ClassifierToxicity(classifier_folder(tmp_path / "b", config_folder, ["fine", "toxic"]), "toxic")
    assert first.id == second.id
