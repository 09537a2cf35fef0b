import pytest
import torch
from stack_fakes import EOS, tokenizer
from tunewell.toolkit.errors import DataError, ModelError
from tunewell.toolkit.ppo.moving_average import MovingAverage
from tunewell.toolkit.ppo.ptx import PtxStream

ROWS = [{"text": " ".join(f"w{10 * row + i}" for i in range(1, 4))} for row in range(1, 9)]


def stream(block_size=5, seed=0, rows=ROWS):
    return PtxStream(rows, tokenizer(), block_size, seed)


def tokens(taken):
    input_ids, attention_mask = taken
    return [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]


def test_each_pass_holds_every_token_once_with_an_end_between_texts():
    made = stream()
    expected = [token for row in ROWS for token in [*tokenizer()(row["text"])["input_ids"], EOS]]
    count = len(made.blocks)
    assert count == 7  # eight texts of four tokens with their ends: six blocks of five and one of two
    for _ in range(2):
        assert sorted(token for row in tokens(made.take(count)) for token in row) == sorted(expected)


def test_passes_are_shuffled_anew_and_a_position_is_all_a_resume_needs():
    whole = tokens(stream().take(20))
    first, second = whole[:7], whole[7:14]
    assert first != second and sorted(first) == sorted(second)
    made, again = stream(), stream()
    parts = tokens(made.take(3)) + tokens(made.take(6))
    again.position = made.position
    assert parts + tokens(again.take(11)) == whole
    assert tokens(stream(seed=1).take(7)) != first


def test_padding_is_masked():
    input_ids, attention_mask = stream().take(7)
    assert input_ids.shape == attention_mask.shape == (7, 5)
    assert attention_mask.sum() == 32


def test_a_single_token_left_over_takes_one_of_the_block_before_and_no_block_is_longer_than_asked_for():
    made = stream(block_size=31).blocks
    assert sorted(map(len, made)) == [2, 30]
    assert made[0] + made[1] == stream(block_size=100).blocks[0]


def test_rows_without_text_are_named():
    with pytest.raises(DataError, match=r"ptx row 1 has the columns \['prompt'\], wanted `text`"):
        stream(rows=[ROWS[0], {"prompt": "w9"}])
    with pytest.raises(DataError, match="no ptx text"):
        stream(rows=[])


def test_a_moving_average_follows_by_hand_worked_steps_and_survives_saving(tmp_path):
    parameter = torch.nn.Parameter(torch.tensor([0.0, 8.0]))
    average = MovingAverage([("weight", parameter)], decay=0.75)
    parameter.data = torch.tensor([4.0, 8.0])
    average.update()  # 0.75 * 0 + 0.25 * 4
    average.update()  # 0.75 * 1 + 0.25 * 4
    average.save(tmp_path / "ema.safetensors")
    again = MovingAverage([("weight", parameter)], decay=0.75)
    again.load(tmp_path / "ema.safetensors")
    again.apply()
    assert parameter.tolist() == [1.75, 8.0]
    with pytest.raises(ModelError, match="other parameters"):
        MovingAverage([("bias", parameter)], decay=0.5).load(tmp_path / "ema.safetensors")
