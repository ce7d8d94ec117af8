"""A network and what it is for, as the stages of a run need it: a network of the package, or the user's own."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prap_pim.common.errors import UserError
from prap_pim.common.files import digest_of
from prap_pim.common.imports import Imported
from prap_pim.common.progress import Steps, unheard
from prap_pim.frontend import (
    Called,
    Captured,
    Inputs,
    batch_digest,
    calibration_batches,
    capture,
    check_model,
    state_digest,
    tensors,
)
from prap_pim.frontend.weights import load_weights
from prap_pim.runs.config import RunConfig
from prap_pim.runs.metric import Counter, FloatQuality, LabelMetric, OfTest, OwnMetric, code_digest
from prap_pim.training.data import Examples, Splits, Streamed, load
from prap_pim.training.models import OWN, GivenModel, ImportedModel, OnnxModel, TransformersModel, build, check_memory
from prap_pim.training.models.own import OnnxNetwork
from prap_pim.training.objective import Loader, Loss, Split, cross_entropy, of_user

_BYTES = 256
_BATCH = 50  # inputs that are evaluated at once
_WITH_WEIGHTS = (ImportedModel, OnnxModel, TransformersModel)  # that may come with weights of their own


@dataclass(frozen=True, eq=False)
class Task:
    """A network and what it is for.

    Attributes:
        name: of the network, for people.
        build: makes it, with its first weights.
        data: to train, calibrate and test with.
        own: whether the network is the user's own: then what was captured of it is trained, and called as it is.
        metric: says what a network is worth; None: nothing does.
        loss: of a batch.
        digests: of what a configuration only names, beside data.
        random: whether a network of the user's own is known to have random weights at first.
        skip: modules that may be computed digitally where they cannot be mapped.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Splits
    own: bool
    function: Callable[[nn.Module], Any] | None = None
    minimize: tuple[str, ...] = ()
    loss: Loss = cross_entropy
    digests: Mapping[str, str] = field(default_factory=dict)
    random: bool = False
    skip: tuple[str, ...] = ()

    @cached_property
    def model(self) -> nn.Module:
        """As it is built, in evaluation mode; nobody is to change it."""
        return self.build().eval()

    @cached_property
    def calibration(self) -> Tensor | Sequence[Inputs]:
        """Inputs as the model takes them."""
        given = self.data.calibration
        if not self.own:
            return given.inputs  # type: ignore[no-any-return]
        inputs = given.inputs if isinstance(given, Examples) else given
        with torch.random.fork_rng(devices=[]):  # a loader that shuffles gives the same each time
            torch.default_generator.manual_seed(0)
            return list(calibration_batches(inputs, self.model, self.name))

    @property
    def example(self) -> Inputs:
        """A batch."""
        return self.calibration[:1] if isinstance(self.calibration, Tensor) else self.calibration[0]

    @cached_property
    def graph(self) -> Captured:
        """The network before training, captured."""
        if isinstance(self.model, OnnxNetwork):
            return self.model.captured
        more = () if isinstance(self.calibration, Tensor) else self.calibration[1:]
        return capture(self.model, self.example, self.name, self.skip, more)

    def first(self) -> nn.Module:
        """A network to train, which takes the tensors of a batch: modules and parameters are called as in ``graph``.

        What torch.export has captured has no gradients; here all have, but for what the user has frozen.
        """
        if not self.own:
            return self.build()
        module = copy.deepcopy(self.graph.module)
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        owners = {f"{name}.weight": origin.parameter for name, origin in self.graph.origins.items()}
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(parameter.is_floating_point() and owners.get(name, name) not in frozen)
        return module

    @cached_property
    def called(self) -> Callable[[nn.Module], nn.Module]:
        """Makes of a network that takes the tensors of a batch one that is called as the model is."""
        return Called.as_model(nn.Identity(), self.model, self.example, self.name).around

    @cached_property
    def metric(self) -> LabelMetric | OwnMetric | None:
        """Says what a network is worth."""
        if self.function is not None:
            return OwnMetric(self.function, self.minimize, self.called)
        test = self.data.test
        if isinstance(test, Examples | Streamed):
            of_tokens: Literal["bytes", "tokens"] = "bytes" if self.data.classes == _BYTES else "tokens"
            return LabelMetric(test, of_tokens if test.are_tokens else "classes")
        return None

    @property
    def measured_by(self) -> dict[str, str]:
        """What a metric of the user's own is known by; nothing of another."""
        if self.function is None:
            return {}
        return {"metric": getattr(self.function, "digest", None) or code_digest(self.function)}

    @property
    def has_labels(self) -> bool:
        """Whether the network's outputs are known to tell classes."""
        return self.function is None and self.metric is not None

    @cached_property
    def train(self) -> Split | None:
        """What it is trained on."""
        given = self.data.train
        if given is None or isinstance(given, Examples | Streamed):
            return given
        return Loader.of(given, "train")

    @cached_property
    def traced_loss(self) -> Loss:
        """The loss of a network that takes the tensors of a batch."""
        if not self.own or (isinstance(self.train, Examples | Streamed) and self.loss is cross_entropy):
            return self.loss
        called = self.called

        def loss(network: nn.Module, batch: Any) -> Tensor:
            return self.loss(called(network), batch)

        return loss

    @cached_property
    def data_digest(self) -> str:
        """Of all inputs and labels; of a user's loader of its first batch, and how many there are."""
        if not self.own or isinstance(self.data.calibration, Examples):
            parts = (self.data.train, self.data.calibration, self.data.test)
            return digest_of(*(content for part in parts for content in part.content))
        calibration = self.calibration
        assert not isinstance(calibration, Tensor)
        train = () if self.train is None else self.train.content
        return digest_of(*map(batch_digest, calibration), *train)

    @property
    def counts(self) -> dict[str, int]:
        """How many inputs there are, by part, as far as that is known."""
        given, test = self.calibration, self.data.test
        count = len(given) if isinstance(given, Tensor) else sum(len(tensors(x, self.name)[0]) for x in given)
        return {
            **({"train": len(self.train)} if self.train is not None else {}),
            "calibration": count,
            **({"test": len(test)} if isinstance(test, Examples | Streamed) else {}),
        }

    @property
    def inputs(self) -> Literal["images", "sequences", "inputs"]:
        """What the inputs are, for people."""
        first = tensors(self.example, self.name)[0]
        return "images" if first.ndim == 4 else "sequences" if not self.own or first.ndim == 2 else "inputs"

    def float_quality(self, trained: nn.Module | None, told: Steps = unheard) -> FloatQuality:
        """What the network is worth in float arithmetic.

        Args:
            trained: as ``first``, trained; None: it is not trained at all.
            told: called with the batches done and all of them.
        """
        metric = self.metric
        assert metric is not None
        if isinstance(metric, LabelMetric):
            return FloatQuality(metrics=dict(metric(self.model if trained is None else trained, told)))
        model = copy.deepcopy(self.model) if trained is None else self.called(trained)
        counter = Counter()
        with counter.on(model):
            found = metric.twice(model)
        return FloatQuality(metrics=dict(found), inputs=counter.inputs // 2)


def load_task(config: RunConfig, allow_imports: bool = False) -> Task:
    """What a configuration asks for.

    Args:
        config: it may name code of the user's.
        allow_imports: whether that may run.

    Raises:
        UserError: it may not, it fails, or a file cannot be read.
    """
    named = config.imports
    if named and not allow_imports:
        where, first = next(iter(named.items()))
        raise UserError(
            f"{where}: import {first.function} runs code that the configuration names: say --allow-imports "
            "(allow_imports=True) if you trust it"
        )
    if isinstance(config.model, GivenModel):
        raise UserError(
            f"the network {config.model.kind} was given by a program, and only that can give it again: "
            "call simulate of what prap_pim.compare gave"
        )
    data = load(config.data, config.seed)
    own = isinstance(config.model, OWN)
    function = OfTest(config.metric.load("metric"), data.test) if config.metric is not None else None
    own = own or function is not None or not isinstance(data.calibration, Examples)
    model = built(config, data) if own else None
    task = Task(
        name=_name(config, model),
        random=config.checkpoint is None and not isinstance(config.model, _WITH_WEIGHTS),
        build=lambda: built(config, data) if model is None else model,
        data=data,
        own=own,
        function=function,
        minimize=config.metric.minimize if config.metric is not None else (),
        loss=of_user(config.loss.load("loss") if config.loss is not None else None),
    )
    if not task.own:
        return task
    digests = {
        "model": state_digest(task.model),
        **{f"{where} code": Imported(where, each.function, each.arguments).digest for where, each in named.items()},
    }
    return replace(task, digests=digests)


def _name(config: RunConfig, model: nn.Module | None) -> str:
    if isinstance(model, OnnxNetwork):
        return model.captured.network.name
    if isinstance(config.model, OWN):
        return type(model).__name__
    details = ", ".join(f"{key} {value}" for key, value in config.model.model_dump(exclude={"name"}).items())
    return f"{config.model.name} ({details})" if details else config.model.name


def built(config: RunConfig, data: Splits) -> nn.Module:
    """The network before training: with random weights, or with those of the user's checkpoint."""
    if isinstance(config.model, OnnxModel):
        from prap_pim.frontend.onnx import OnnxFile

        file = OnnxFile.read(config.model.onnx)
        given = data.calibration.inputs if isinstance(data.calibration, Examples) else data.calibration
        batches = calibration_batches(given, nn.Identity(), file.name)
        return OnnxNetwork(file, [tensors(batch, file.name) for batch in batches])
    if not isinstance(config.model, OWN) and not isinstance(data.calibration, Examples):
        raise UserError(
            f"model: {config.model.name} takes its channels and classes from data with labels: give images, a data set "
            "or text, or a model of your own"
        )
    if isinstance(data.calibration, Examples) and not isinstance(config.model, OWN):
        training = config.training
        batch = training.batch_size if training is not None else _BATCH
        check_memory(config.model, data.calibration.inputs, data.classes or 0, batch, training is not None)
    channels = data.calibration.inputs.shape[1] if isinstance(data.calibration, Examples) else 0
    try:
        model = build(config.model, channels, data.classes or 0, config.seed)
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"model: it cannot be built here ({str(error).splitlines()[0]})") from error
    check_model(model)
    if config.checkpoint is not None:
        load_weights(model, config.checkpoint)
    return model
