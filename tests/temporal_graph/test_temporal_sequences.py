import pytest
import torch
from torch import nn

from zoo.temporal_graph import (
    DistinctSequences,
    MeanEncoder,
    RecurrentEncoder,
    SelfAttentionEncoder,
    distinct_rows,
    sequence_encoder,
)


class Counting(nn.Module):
    """Passes on, and remembers how many sequences it was given."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.out_channels, self.seen = encoder, encoder.out_channels, []

    def forward(self, sequences):
        self.seen.append(len(sequences))
        return self.encoder(sequences)


def binary(num=300, steps=8):
    return 2.0 * (torch.rand(num, steps, 1) < 0.3) - 1


def test_rows_are_told_apart_exactly():
    rows = torch.randint(3, (500, 4))
    first, kind = distinct_rows(rows)
    assert len(first) == len(rows.unique(dim=0))
    assert torch.equal(rows[first][kind], rows)


def test_rows_of_many_values_are_not_searched():
    assert distinct_rows(torch.rand(200, 8)) is None
    assert distinct_rows(torch.rand(20_000, 2)) is None


def test_rows_that_the_projection_confuses_are_not_taken_for_equal(monkeypatch):
    confusing = torch.ones(2, dtype=torch.double)
    monkeypatch.setattr("zoo.temporal_graph.sequences._projection", lambda size, device: confusing)
    assert distinct_rows(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])) is None


def test_rare_kinds_that_the_sample_misses_are_found_all_the_same():
    rows = torch.zeros(30_000, 4)
    rows[1234, 2] = 1
    first, kind = distinct_rows(rows)
    assert len(first) == 2
    assert torch.equal(rows[first][kind], rows)


def test_equal_sequences_are_encoded_once_with_the_same_result_and_gradients():
    sequences, encoder = binary(), RecurrentEncoder(1, 6)
    counting = Counting(encoder)
    target = torch.randn(300, 6)
    results = []
    for module in (encoder, DistinctSequences(counting)):
        encoder.zero_grad()
        code = module(sequences)
        (code * target).sum().backward()
        results.append((code.detach(), [p.grad.clone() for p in encoder.parameters()]))
    assert counting.seen == [len(sequences.unique(dim=0))]
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=0)
    for plain, distinct in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(plain, distinct, atol=1e-4, rtol=1e-5)


def test_learned_sequences_keep_a_gradient_each():
    sequences = binary(20).requires_grad_()
    counting = Counting(RecurrentEncoder(1, 4))
    DistinctSequences(counting)(sequences).sum().backward()
    assert counting.seen == [20]
    assert (sequences.grad != 0).any(dim=2).any(dim=1).all()


@pytest.mark.parametrize("kind", ["gru", "lstm", "attention", "mean"])
def test_encoders_take_no_sequence_at_all(kind):
    encoder = sequence_encoder(kind, 2, 4)
    assert encoder(torch.empty(0, 5, 2)).shape == (0, encoder.out_channels)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_recurrent_code_is_the_last_state(cell):
    encoder, sequences = RecurrentEncoder(3, 4, cell), torch.randn(6, 5, 3)
    state = encoder.net(sequences)[1]
    torch.testing.assert_close(encoder(sequences), (state if cell == "gru" else state[0])[0])


def test_attention_of_the_last_step_is_that_of_all_steps_at_the_last():
    encoder, steps = SelfAttentionEncoder(16, 16), torch.randn(6, 5, 16)
    torch.testing.assert_close(encoder(steps), encoder.attention(steps, steps, steps)[0][:, -1])


def test_attention_does_not_know_the_order_of_the_past():
    encoder, steps = SelfAttentionEncoder(3, 16), torch.randn(6, 5, 3)
    torch.testing.assert_close(encoder(steps), encoder(steps[:, [2, 0, 3, 1, 4]]))


def test_the_mean_forgets_the_order():
    steps = torch.randn(6, 5, 3)
    torch.testing.assert_close(MeanEncoder(3)(steps), MeanEncoder(3)(steps.flip(1)))


def test_unknown_encoders_are_named():
    with pytest.raises(ValueError, match="an encoder must be one of gru, lstm, attention, mean, got 'tcn'"):
        sequence_encoder("tcn", 1, 4)
    with pytest.raises(ValueError, match="cell must be gru or lstm, got 'rnn'"):
        RecurrentEncoder(1, 4, "rnn")
