"""The results of compressing an ONNX model, as they are saved and shown."""

from pydantic import BaseModel

from prap_pim.results.run import CheckResult


class LayerSummary(BaseModel, frozen=True):
    """One layer.

    Attributes:
        name: it has in the plan.
        rows, filters, groups: of its matrix; ``calls``: nodes of the graph that compute with it.
        ou_steps, dense_ou_steps: of one inference, compressed and with every pattern.
        error: squared error relative to the square: by calibrated reuse of its output, else of its weights.
    """

    name: str
    rows: int
    filters: int
    groups: int
    calls: int
    ou_steps: int
    dense_ou_steps: int
    error: float


class CostSummary(BaseModel, frozen=True):
    """What one inference costs on the chip."""

    crossbars: int
    area_m2: float
    energy_j: float
    serial_latency_s: float
    pipelined_latency_s: float
    pipelined_throughput_per_s: float


class OutputSummary(BaseModel, frozen=True):
    """An output of the written file beside the original's, over all calibration inputs.

    Attributes:
        name: of the output.
        sqnr_db: signal (what varies, as in the check) to noise; None if there is no difference.
        largest_difference, largest_value: magnitudes; the value is the original's.
    """

    name: str
    sqnr_db: float | None
    largest_difference: float
    largest_value: float


class OnnxSummary(BaseModel, frozen=True):
    """What was done to a model.

    Attributes:
        model: its file.
        output: the file of the compressed one.
        files: all that were written for the output.
        method: how; as are the next two.
        chip: its name.
        seed: of the calibration.
        inputs: calibration inputs.
        layers: in network order.
        mapped_weights: share of the weights that is on crossbars.
        mapped_macs: share of the multiplications that is on crossbars.
        digital: nodes with weights that are left to the digital units, and why.
        digital_shares: what these have of the weights and of the multiplications, in words.
        batch_axes: of inputs whose batch is not in front, where it is.
        once: inputs that are given once, and what they are: the file is compressed for these values.
        branches: of each If that follows from them, the branch that is compressed; the other one keeps its weights.
        compute_ratio: OU steps of one inference over those with every pattern.
        dense: costs of the model as it was.
        compressed: costs of the compressed one.
        limit: what is taken of a budget of energy or time, how ``max_drop`` was met, and which limit decided, in words;
            empty if there is nothing to say.
        check: how far the bit-true network's outputs are from the original's.
        outputs: how far the written file's outputs are from the original's, both in float by onnxruntime.
        bit_true_outputs: how far those of the bit-true file are from the bit-true network's, on the first batch; None
            without such a file.
        plan_sha256: digest of the plan.
    """

    model: str
    output: str
    files: list[str]
    method: str
    chip: str
    seed: int
    inputs: int
    layers: list[LayerSummary]
    mapped_weights: float
    mapped_macs: float
    digital: dict[str, str]
    digital_shares: dict[str, str]
    batch_axes: dict[str, int]
    once: dict[str, str]
    branches: dict[str, str]
    compute_ratio: float
    dense: CostSummary
    compressed: CostSummary
    limit: str
    check: CheckResult
    outputs: list[OutputSummary]
    bit_true_outputs: list[OutputSummary] | None = None
    plan_sha256: str
