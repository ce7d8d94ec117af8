"""Prompts and tokens of transformers, counted by hand."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prap_pim
from prap_pim import UserError
from prap_pim.api import model as model_api
from prap_pim.frontend import Captured

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.flow]  # each model is traced twice

WORDS, WIDTH, INNER, LAYERS, HEADS, KEYS, SIZE = 50, 32, 48, 2, 4, 2, 8


@pytest.fixture(autouse=True, scope="module")
def traced_once() -> Iterator[None]:
    """A model that several tests ask for is traced once for each number of tokens."""
    whole, known = model_api.capture, dict[Any, Captured]()

    def once(model: nn.Module, example: Any, name: str, skip: Any, *batches: Any) -> Captured:
        if batches:  # to compress: the weights are read
            return whole(model, example, name, skip, *batches)
        key = model, str([value.shape for value in example.values()])
        if key not in known:
            known[key] = whole(model, example, name, skip)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_api, "capture", once)
        yield


@cache
def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KEYS, intermediate_size=INNER, max_position_embeddings=64, use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def tokens(n: int = 8) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(WORDS, (2, n))}


BLOCK = 2 * WIDTH * WIDTH + 2 * WIDTH * KEYS * SIZE + 3 * WIDTH * INNER  # query, output; key, value; gate, up, down
WEIGHTS = LAYERS * BLOCK + WIDTH * WORDS


@pytest.mark.parametrize("context", [1, 1024])
def test_a_token_of_a_llama(context: int) -> None:
    """All weights once, attention over the context; the cache holds keys and values of two heads, int8."""
    report = prap_pim.estimate(llama(), tokens(), phase="decode", context=context, batch=3)
    attention = LAYERS * 2 * HEADS * SIZE * context
    assert (report.crossbar_macs, report.macs) == (WEIGHTS, WEIGHTS + attention)
    a_token = LAYERS * 2 * KEYS * SIZE
    assert report.cache_bytes == 3 * context * a_token
    assert all(layer.activity.positions == 1 for layer in report.layers)
    # each layer reads its part of the cache, 32 bytes at a time, and writes one token; a word is looked up in float32
    accesses = sum(layer.activity.memory_accesses for layer in report.layers)
    assert accesses == LAYERS * (-(-context * a_token // LAYERS // 32) + 1) + WIDTH * 4 // 32
    held = sum(layer.activity.memory_bytes for layer in report.layers)
    assert held == 3 * context * a_token + 4 * WORDS * WIDTH


def test_a_prompt_is_the_whole_with_a_cache() -> None:
    model = llama()
    whole, prompt = prap_pim.estimate(model, tokens()), prap_pim.estimate(model, tokens(), phase="prefill")
    assert (prompt.macs, prompt.ou_steps) == (whole.macs, whole.ou_steps)
    assert prompt.pipelined == whole.pipelined
    kept = LAYERS * 2 * KEYS * SIZE * 8
    assert (whole.cache_bytes, prompt.cache_bytes) == (0, kept)
    assert prompt.energy_j - whole.energy_j == pytest.approx(2 * kept / 32 * 20.45e-12)  # written, and read once
    longer = prap_pim.estimate(model, tokens(), phase="prefill", context=20)
    real = prap_pim.estimate(model, tokens(20))
    assert (longer.macs, longer.ou_steps, longer.pipelined) == (real.macs, real.ou_steps, real.pipelined)


def test_eager_attention_is_the_same() -> None:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=64, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, use_cache=False,
        bos_token_id=None, eos_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    report = prap_pim.estimate(transformers.GPT2LMHeadModel(config).eval(), tokens(), phase="decode", context=100)
    weights = LAYERS * 12 * WIDTH * WIDTH + WIDTH * WORDS
    assert (report.crossbar_macs, report.macs) == (weights, weights + LAYERS * 2 * WIDTH * 100)
    assert report.cache_bytes == LAYERS * 2 * WIDTH * 100


def test_the_encoder_of_a_t5_is_done_with_the_prompt() -> None:
    config = transformers.T5Config(
        vocab_size=WORDS, d_model=WIDTH, d_kv=SIZE, d_ff=INNER, num_layers=1, num_heads=HEADS, use_cache=False,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    batch = {"input_ids": torch.randint(WORDS, (2, 12)), "decoder_input_ids": torch.randint(WORDS, (2, 8))}
    report = prap_pim.estimate(model, batch, phase="decode", context=20)
    own = 4 * WIDTH * WIDTH + 2 * WIDTH * WIDTH + 2 * WIDTH * INNER + WIDTH * WORDS  # cross: query and output alone
    assert report.crossbar_macs == own
    assert report.macs == own + 2 * WIDTH * 20 + 2 * WIDTH * 12
    assert report.cache_bytes == 2 * WIDTH * 20 + 2 * WIDTH * 12
    prompt = prap_pim.estimate(model, batch, phase="prefill", context=1)
    encoder = 12 * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)
    assert prompt.crossbar_macs == encoder + own + 12 * 2 * WIDTH * WIDTH


def test_a_token_goes_to_as_many_experts_as_it_has() -> None:
    config = transformers.MixtralConfig(
        vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=KEYS,
        intermediate_size=INNER, max_position_embeddings=64, num_local_experts=4, use_cache=False,
    )  # fmt: skip
    model, batch = transformers.MixtralForCausalLM(config).eval(), [{"input_ids": torch.randint(WORDS, (16, 8))}] * 2
    found = prap_pim.compress(model, batch, compute_ratio=0.6)  # the routers of the second layer see other inputs then
    assert found.sqnr_db() > 15
    token = prap_pim.estimate(found, phase="decode", context=30)
    run = [layer.activity.positions for layer in token.layers if "experts" in layer.name]
    assert len(run) == 2 * 2 * 4
    assert sum(run) == 2 * 2 * 2  # two of four, up and down, in two layers


def test_serving_adds_up() -> None:
    model = llama()
    one = prap_pim.serving(model, tokens(), prompt=100, generated=50)
    many = prap_pim.serving(model, tokens(), prompt=100, generated=50, batch=4)
    prefill, decode = one.prefill, one.decode
    ends = [prap_pim.estimate(model, tokens(), phase="decode", context=each).energy_j for each in (101, 149)]
    assert sum(ends) == pytest.approx(2 * decode.energy_j, rel=1e-6)  # half-way is the mean
    assert (prefill.crossbar_macs, decode.crossbar_macs) == (100 * WEIGHTS, WEIGHTS)
    assert decode.cache_bytes == 125 * LAYERS * 2 * KEYS * SIZE
    assert one.time_to_first_token_s == prefill.pipelined.latency_s
    assert one.tokens_per_s == pytest.approx(1 / decode.pipelined.latency_s)
    assert one.energy_j == pytest.approx(prefill.energy_j + 49 * decode.energy_j)
    step = decode.pipelined
    assert many.tokens_per_s == pytest.approx(4 / (step.latency_s + 3 / step.throughput_per_s))
    assert many.cache_bytes == 4 * one.cache_bytes
    assert one.tokens_per_s < many.tokens_per_s < step.throughput_per_s


def test_a_compressed_model_is_served() -> None:
    found = prap_pim.compress(llama(), tokens(8), "similar", keep=0.5)
    report = prap_pim.estimate(found, phase="decode", context=100)
    dense = prap_pim.estimate(llama(), tokens(), phase="decode", context=100)
    assert report.macs == dense.macs
    assert report.ou_steps < dense.ou_steps


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"phase": "train"}, "there is no phase 'train'; phases are prefill, decode"),
        ({"context": 8}, "context and batch need a phase"),
        ({"phase": "decode", "context": 0}, "context must be a whole number from 1 on, not 0"),
        ({"phase": "decode", "batch": 1.5}, r"batch must be a whole number from 1 on, not 1\.5"),
    ],
)
def test_what_is_wrong_is_said(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prap_pim.estimate(llama(), tokens(), **given)
