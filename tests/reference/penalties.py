"""The loss terms of PRAP's fine-tuning, pattern by pattern and weight by weight (PRAP, step 3)."""

import torch

from prap_pim.ir.patterns import PatternSet, ReuseMap


def penalties(
    weight: torch.Tensor,
    patterns: PatternSet,
    reuse: ReuseMap,
    mask_penalty: float,
    reuse_penalty: float,
    bits: int = 8,
) -> torch.Tensor:
    """mask_penalty * |W - M*W|^2 + reuse_penalty * |(W - What) / gain|^2 of a float64 matrix [O, inputs]."""
    shared = any(reuse.source[o, b] not in (-1, o) for o in range(patterns.filters) for b in range(patterns.blocks))
    each = (
        [weight.detach()] * patterns.filters if shared else list(weight.detach())
    )  # whose largest is 127 steps of 8 bits
    steps = [float(part.abs().max()) / (2 ** (bits - 1) - 1) or 1.0 for part in each]
    total = torch.zeros((), dtype=torch.float64)
    outside = {(o, i) for o in range(patterns.filters) for i in range(patterns.inputs)}
    for o in range(patterns.filters):
        for block in range(patterns.blocks):
            donor = int(reuse.source[o, block])
            shape = int(patterns.shape[donor, block]) if donor >= 0 else -1
            if shape < 0:
                continue
            gain = float(reuse.sign[o, block]) * 2.0 ** int(reuse.exponent[o, block])
            for row in patterns.rows[shape].tolist():
                if row >= 0:
                    wanted = gain * round(float(weight.detach()[donor, row]) / steps[o]) * steps[o]  # a constant
                    total = total + reuse_penalty * ((weight[o, row] - wanted) / gain) ** 2
                    outside.discard((o, row))
    for o, i in outside:
        total = total + mask_penalty * weight[o, i] ** 2
    return total
