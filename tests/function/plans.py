"""Random layer plans, small enough for a cell-by-cell model."""

import numpy as np

from prap_pim.plan import LayerPlan


def random_plan(
    rng: np.random.Generator, inputs: int, filters: int, height: int, groups: int, weight_bits: int = 8
) -> LayerPlan:
    """A valid plan: row groups of random rows (some unused), few donors, uses with every sign and power of two."""
    rows = np.full((groups, height), -1, np.int32)
    for group in rows:
        used = rng.permutation(inputs)[: rng.integers(0, min(inputs, height) + 1)]
        group[rng.permutation(height)[: len(used)]] = used
    donors, donor_count, use_count, uses = [], [0], [0], []
    for group in rows:
        users = np.flatnonzero(rng.random(filters) < 0.7)
        chosen = rng.integers(0, 3, len(users))
        names, chosen = np.unique(chosen, return_inverse=True)
        for user, donor in zip(users, chosen, strict=True):
            uses.append((user, donor_count[-1] + donor, rng.choice([-1, 1]), rng.integers(-8, 8)))
        limit = 1 << (weight_bits - 1)
        values = rng.choice([-limit, -1, 0, 1, limit - 1, *rng.integers(-limit, limit, 5)], (len(names), height))
        donors.append(np.where(group >= 0, values, 0))
        donor_count.append(donor_count[-1] + len(names))
        use_count.append(len(uses))
    use_filter, use_donor, use_sign, use_exponent = np.array(uses, np.int64).reshape(-1, 4).T
    return LayerPlan(
        name="random",
        inputs=inputs,
        rows=rows,
        donors=np.concatenate(donors).astype(np.int8).reshape(-1, height),
        donor_start=np.array(donor_count, np.int64),
        use_start=np.array(use_count, np.int64),
        use_filter=use_filter.astype(np.int32),
        use_donor=use_donor.astype(np.int32),
        use_sign=use_sign.astype(np.int8),
        use_exponent=use_exponent.astype(np.int8),
        step=rng.uniform(0.01, 0.1, filters).astype(np.float32),
        bias=rng.normal(size=filters).astype(np.float32),
    )


def random_inputs(rng: np.random.Generator, positions: int, inputs: int, bits: int = 8) -> np.ndarray:
    """int8 [positions, inputs], the extremes among them."""
    limit = 1 << (bits - 1)
    values = rng.integers(-limit, limit, (positions, inputs))
    extreme = rng.choice([-limit, 0, limit - 1], values.shape)
    return np.where(rng.random(values.shape) < 0.3, extreme, values).astype(np.int8)
