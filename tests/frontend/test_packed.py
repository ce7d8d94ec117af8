"""Recurrent layers over packed sequences: mapped, and the outputs are those of torch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import prap_pim
from prap_pim.common.errors import UserError
from prap_pim.frontend import call, capture, outputs

pytestmark = pytest.mark.filterwarnings("ignore")

LENGTHS = torch.tensor([3, 7, 1, 5])


class Reader(nn.Module):
    """Outputs and last states of sequences of several lengths, and a layer behind them."""

    def __init__(self, kind: type[nn.RNNBase], sort: bool = False, **settings: Any) -> None:
        super().__init__()
        self.rnn, self.sort = kind(5, 6, **settings), sort
        self.first = settings.get("batch_first", False)
        width = (settings.get("proj_size") or 6) * (1 + settings.get("bidirectional", False))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        x = x if self.first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, lengths, batch_first=self.first, enforce_sorted=self.sort)
        found, state = self.rnn(packed)
        y, _ = pad_packed_sequence(found, batch_first=self.first, padding_value=-1.0)
        state = state[0] if isinstance(state, tuple) else state
        return self.head(y if self.first else y.transpose(0, 1)), state.transpose(0, 1)


def given(lengths: Tensor = LENGTHS) -> tuple[Tensor, Tensor]:
    return torch.randn(len(lengths), 7, 5), lengths


@pytest.mark.parametrize(
    ("kind", "settings", "calls"),
    [
        (nn.LSTM, {"batch_first": True}, 2),
        (nn.LSTM, {"num_layers": 2, "bidirectional": True}, 8),
        (nn.LSTM, {"batch_first": True, "bias": False}, 2),
        (nn.GRU, {"bidirectional": True, "batch_first": True}, 4),
        (nn.RNN, {"nonlinearity": "relu"}, 2),
    ],
)
def test_they_compute_what_torch_computes(kind: type[nn.RNNBase], settings: dict[str, Any], calls: int) -> None:
    """Each matrix is run once a time step of the padded sequences, for as many steps as these have."""
    model = Reader(kind, **settings).eval()
    captured = capture(model, given(), "reader")
    assert [layer.positions for layer in captured.network.layers] == [7] * (calls + 1)
    for lengths in (LENGTHS, torch.tensor([7, 2]), torch.full((5,), 7)):
        batch = given(lengths)
        with torch.no_grad():
            wanted, found = outputs(call(model, batch), "reader"), captured.module(*batch)
        for own, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(own, theirs)


def test_sorted_sequences_and_a_state_to_begin_with() -> None:
    class Begun(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.start = nn.GRU(5, 6, batch_first=True), nn.Linear(5, 6)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            begin = self.start(x[:, 0])[None]
            return self.rnn(rnn.pack_padded_sequence(x, lengths, batch_first=True), begin)[1][0]

    model, batch = Begun().eval(), given(torch.tensor([7, 4, 2]))
    captured = capture(model, batch, "begun")
    with torch.no_grad():
        torch.testing.assert_close(captured.module(*batch), model(*batch))


def test_torch_packs_again_afterwards_and_it_is_compressed() -> None:
    torch.manual_seed(0)
    model = Reader(nn.LSTM, batch_first=True).eval()
    batches = [given() for _ in range(6)]
    before = pack_padded_sequence(*batches[0], batch_first=True, enforce_sorted=False)
    found = prap_pim.compress(model, batches, "dense")
    after = pack_padded_sequence(*batches[0], batch_first=True, enforce_sorted=False)
    assert isinstance(after, rnn.PackedSequence)
    assert torch.equal(before.data, after.data)
    assert "forward" not in vars(model.rnn)
    assert not found.unsupported
    assert found.sqnr_db() > 20
    assert type(found.model) is Reader


def test_sequences_that_all_end_before_the_last_step_are_refused() -> None:
    """torch cuts what is padded to the longest of them, a size that values decide."""
    with pytest.raises(UserError, match="packed sequences are traced padded: one of the example must be as long as"):
        capture(Reader(nn.LSTM, batch_first=True).eval(), given(torch.tensor([3, 5])), "reader")


def test_projections_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="it packs sequences of several lengths; give its recurrent layers padded ones"):
        capture(Reader(nn.LSTM, batch_first=True, proj_size=4).eval(), given(), "reader")
    assert isinstance(pack_padded_sequence(*given(), batch_first=True, enforce_sorted=False), rnn.PackedSequence)
