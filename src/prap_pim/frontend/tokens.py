"""Inputs of another number of tokens."""

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map_with_path

from prap_pim.common.errors import UserError
from prap_pim.frontend.inputs import Inputs


def token_axes(batch: Inputs, name: str) -> tuple[int, frozenset[str]]:
    """How many tokens the sequences of a batch have, and the places of the tensors with an element for each on axis 1.

    Where inputs have names that begin with "decoder_", the tokens are theirs: what is beside them is an encoder's.

    Raises:
        UserError: no input has an axis behind the batch.
    """
    found = {keystr(path): leaf for path, leaf in tree_flatten_with_path(batch)[0] if isinstance(leaf, Tensor)}
    own = {place: x for place, x in found.items() if "decoder_" in place} or found
    sizes = [x.shape[1] for x in own.values() if x.ndim > 1]
    if not sizes:
        raise UserError(f"model {name}: a phase needs inputs [batch, tokens, ...]")
    return sizes[0], frozenset(place for place, x in own.items() if x.ndim > 1 and x.shape[1] == sizes[0])


def with_tokens(batch: Inputs, tokens: int, name: str) -> Inputs:
    """A batch with another number of tokens: those that there are, again and again."""
    now, places = token_axes(batch, name)
    chosen = torch.arange(tokens) % now
    return tree_map_with_path(
        lambda path, leaf: leaf.index_select(1, chosen.to(leaf.device)) if keystr(path) in places else leaf, batch
    )
