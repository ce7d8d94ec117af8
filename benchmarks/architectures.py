"""How much of each kind of transformers model is on crossbars: small models from configurations, with random weights.

    python benchmarks/architectures.py                       # the table
    python benchmarks/architectures.py --write docs/any-model.md   # into the page, between its marks
    python benchmarks/architectures.py bert mamba            # some of them

Nothing is fetched. Each model is captured, and what it computes then is compared with what it computes by itself.
"""

import argparse
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prap_pim import UserError, capture
from prap_pim.frontend import outputs

Batch = Mapping[str, Tensor]
WORDS, TOKENS = 60, 8
_BEGIN, _END = "<!-- architectures: begin -->", "<!-- architectures: end -->"

# what most configurations call their sizes; one that has no such size ignores it
SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "embed_dim", "dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "ffn_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 64),
    "vocab_size": WORDS, "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8, "use_cache": False, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0, "image_size": 32, "patch_size": 8,
    "num_channels": 3,
}  # fmt: skip


def words(n: int) -> Batch:
    return {"input_ids": torch.randint(3, WORDS, (n, TOKENS))}


def pairs(n: int) -> Batch:
    return {**words(n), "decoder_input_ids": torch.randint(3, WORDS, (n, TOKENS))}


def images(n: int) -> Batch:
    return {"pixel_values": torch.randn(n, 3, 32, 32)}


def large_images(n: int) -> Batch:
    return {"pixel_values": torch.randn(n, 3, 64, 64)}


def spectra(n: int) -> Batch:
    return {"input_features": torch.randn(n, 16, 40), "decoder_input_ids": torch.randint(3, WORDS, (n, TOKENS))}


def sound(n: int) -> Batch:
    return {"input_values": torch.randn(n, 800)}


@dataclass(frozen=True)
class Family:
    """A model class, how it is called, and sizes that are not ``SMALL``'s."""

    kind: str
    model: str
    inputs: Callable[[int], Batch]
    sizes: Mapping[str, Any]

    def build(self) -> torch.nn.Module:
        import transformers

        model = getattr(transformers, self.model)
        known = model.config_class().to_dict()
        sizes = {key: value for key, value in {**SMALL, **self.sizes}.items() if key in known or key in self.sizes}
        config = model.config_class(**sizes)
        built: torch.nn.Module = model(config).eval()
        return built


def family(kind: str, model: str, inputs: Callable[[int], Batch] = words, **sizes: Any) -> Family:
    return Family(kind, model, inputs, sizes)


CONVS: dict[str, Any] = {
    "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
FAMILIES: dict[str, Family] = {
    "bert": family("encoder", "BertModel"),
    "roberta": family("encoder", "RobertaModel"),
    "distilbert": family("encoder", "DistilBertModel"),
    "albert": family("encoder", "AlbertModel"),
    "electra": family("encoder", "ElectraModel"),
    "deberta-v2": family("encoder", "DebertaV2Model"),
    "mpnet": family("encoder", "MPNetModel"),
    "modernbert": family("encoder", "ModernBertModel"),
    "gpt2": family("decoder", "GPT2LMHeadModel"),
    "gpt-neox": family("decoder", "GPTNeoXForCausalLM"),
    "opt": family("decoder", "OPTForCausalLM", word_embed_proj_dim=32),
    "bloom": family("decoder", "BloomForCausalLM"),
    "falcon": family("decoder", "FalconForCausalLM"),
    "llama": family("decoder", "LlamaForCausalLM"),
    "mistral": family("decoder", "MistralForCausalLM"),
    "qwen2": family("decoder", "Qwen2ForCausalLM"),
    "qwen3": family("decoder", "Qwen3ForCausalLM"),
    "gemma2": family("decoder", "Gemma2ForCausalLM"),
    "phi3": family("decoder", "Phi3ForCausalLM"),
    "olmo2": family("decoder", "Olmo2ForCausalLM"),
    "cohere": family("decoder", "CohereForCausalLM"),
    "stablelm": family("decoder", "StableLmForCausalLM"),
    "t5": family("encoder-decoder", "T5ForConditionalGeneration", pairs),
    "bart": family("encoder-decoder", "BartForConditionalGeneration", pairs),
    "marian": family("encoder-decoder", "MarianMTModel", pairs),
    "whisper": family("audio", "WhisperForConditionalGeneration", spectra, num_mel_bins=16, max_source_positions=20,
                      max_target_positions=64),
    "wav2vec2": family("audio", "Wav2Vec2Model", sound, **CONVS),
    "hubert": family("audio", "HubertModel", sound, **CONVS),
    "vit": family("vision", "ViTModel", images),
    "deit": family("vision", "DeiTModel", images),
    "dinov2": family("vision", "Dinov2Model", images),
    "swin": family("vision", "SwinModel", large_images, image_size=64, patch_size=4, embed_dim=16, depths=[1, 1],
                   num_heads=[2, 2], window_size=4),
    "segformer": family("vision", "SegformerModel", large_images, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1],
                        decoder_hidden_size=16, num_attention_heads=[1, 2, 2, 4]),
    "convnext": family("vision", "ConvNextModel", images, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1],
                       patch_size=4),
    "resnet": family("vision", "ResNetModel", large_images, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "clip": family("vision", "CLIPVisionModel", images),
    "mamba": family("state-space", "MambaForCausalLM", state_size=4, time_step_rank=2),
    "mamba2": family("state-space", "Mamba2ForCausalLM", state_size=4, num_heads=8, head_dim=8, n_groups=1,
                     chunk_size=4),
    "mixtral": family("mixture of experts", "MixtralForCausalLM", **EXPERTS),
    "qwen2-moe": family("mixture of experts", "Qwen2MoeForCausalLM", **EXPERTS),
    "olmoe": family("mixture of experts", "OlmoeForCausalLM", **EXPERTS),
    "gpt-oss": family("mixture of experts", "GptOssForCausalLM", **EXPERTS),
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """What was found of a family; ``problem``: why it is not mapped whole."""

    name: str
    kind: str
    layers: int = 0
    weights: float = 0.0
    macs: float = 0.0
    problem: str = ""


def tried(name: str) -> Line:
    """Capture a model and compare."""
    each = FAMILIES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, batch = each.build(), each.inputs(2)
        try:
            captured = capture(model, batch, name)
        except UserError as error:
            return Line(name, each.kind, problem=str(error))
        with torch.no_grad():
            wanted, found = outputs(model(**batch), name), outputs(captured.module(*batch.values()), name)
    pairs = zip(wanted, found, strict=True)
    same = all(torch.allclose(own, other, atol=1e-4 * float(own.abs().max())) for own, other in pairs)
    share, layers = captured.network.on_crossbars, len(captured.network.layers)
    return Line(name, each.kind, layers, share.weights, share.macs, "" if same else "its outputs differ")


def table(lines: list[Line]) -> str:
    """In Markdown."""
    rows = ["| model | kind | layers | weights on crossbars | multiplications | |", "|---|---|---|---|---|---|"]
    for line in lines:
        shares = (f"{line.weights:.1%}", f"{line.macs:.1%}") if line.layers else ("", "")
        rows.append(f"| {line.name} | {line.kind} | {line.layers or ''} | {' | '.join(shares)} | {line.problem} |")
    whole = sum(not line.problem for line in lines)
    return "\n".join([f"{whole} of {len(lines)} are mapped whole.", "", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="How much of each kind of transformers model is on crossbars.")
    parser.add_argument("names", nargs="*", choices=[[], *FAMILIES], help="families; all if none is named")
    parser.add_argument("--write", type=Path, help="a page with marks for the table")
    given = parser.parse_args()
    lines = []
    for name in given.names or FAMILIES:
        begin = time.perf_counter()
        lines.append(tried(name))
        print(f"{lines[-1]} {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    made = table(lines)
    if given.write is None:
        print(made)
        return
    page = given.write.read_text()
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    given.write.write_text(pattern.sub(lambda _: f"{_BEGIN}\n{made}\n{_END}", page))


if __name__ == "__main__":
    main()
