"""Models of the transformers library, from small configurations: nothing is fetched."""

from typing import Any

import pytest
import torch

from prap_pim.frontend import capture, outputs
from prap_pim.ir.network import DigitalOp, Layer
from tests.frontend.test_zoo import checked

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

WIDTH, TOKENS, WORDS, INNER = 16, 6, 20, 24


@pytest.fixture(autouse=True)
def quiet() -> Any:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def tokens(n: int) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(0, WORDS, (n, TOKENS))}


def test_bert() -> None:
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=INNER,
        max_position_embeddings=8,
    )  # fmt: skip

    def batch(n: int) -> dict[str, torch.Tensor]:
        mask = torch.ones(n, TOKENS, dtype=torch.int64)
        mask[0, 4:] = 0
        return tokens(n) | {"attention_mask": mask}

    block = [*[(16, 16, 1, 6)] * 4, (16, 24, 1, 6), (24, 16, 1, 6)]  # query, key, value, output; up, down
    tables = tuple(f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
    macs = 2 * 2 * TOKENS * TOKENS * 2 * 8
    checked(transformers.BertModel(config).eval(), batch, [*block * 2, (16, 16, 1, 1)], macs, tables)


def test_gpt2_whose_head_is_its_table() -> None:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=8, n_embd=WIDTH, n_layer=2, n_head=2, use_cache=False, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    block = [(16, 48, 1, 6), (16, 16, 1, 6), (16, 64, 1, 6), (64, 16, 1, 6)]
    macs = 2 * 2 * TOKENS * TOKENS * 2 * 8
    captured = checked(model, tokens, [*block * 2, (16, WORDS, 1, 6)], macs, ("transformer.wpe.weight",))
    assert captured.network.layers[0].kind == "linear"
    lookups = [node for node in captured.network if isinstance(node, DigitalOp) and node.op == "embedding"]
    assert [node.output_elements for node in lookups] == [TOKENS * WIDTH]  # of words; positions are constants
    assert isinstance(captured.network.nodes[-1], Layer)


def test_llama_with_fewer_keys_than_queries() -> None:
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=INNER, max_position_embeddings=8, use_cache=False,
    )  # fmt: skip
    # query, key, value (2 heads of 4), output; gate, up, down
    block = [(16, 16, 1, 6), *[(16, 8, 1, 6)] * 2, (16, 16, 1, 6), *[(16, 24, 1, 6)] * 2, (24, 16, 1, 6)]
    macs = 2 * 4 * TOKENS * TOKENS * 2 * 4
    shapes = [*block * 2, (16, WORDS, 1, 6)]
    checked(transformers.LlamaForCausalLM(config).eval(), tokens, shapes, macs, ("model.embed_tokens.weight",))


@pytest.mark.parametrize("way", ["grouped_mm", "batched_mm"])
def test_experts_are_layers_with_the_tokens_that_come_to_them(way: str) -> None:
    config = transformers.MixtralConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=INNER, max_position_embeddings=8, num_local_experts=3, use_cache=False,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    model.set_experts_implementation(way)
    batch = tokens(8)
    captured = capture(model, batch, "net")
    with torch.no_grad():
        torch.testing.assert_close(outputs(captured.module(batch["input_ids"]), "net")[0], model(**batch).logits)
    experts = [layer for layer in captured.network.layers if "experts" in layer.name]
    # two experts a token (the preset): gate and up of 24 each, and down
    assert sorted((layer.rows, layer.filters) for layer in experts) == [(WIDTH, 2 * INNER)] * 3 + [(INNER, WIDTH)] * 3
    assert sum(layer.positions for layer in experts) == 2 * 2 * TOKENS
    assert captured.network.on_crossbars.macs == 1 - captured.network.digital_shares()["attention"].macs
