"""A model in one file: its architecture as JSON in the header, its parameters as tensors. No file makes code run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv import checkpoint, losses, metrics, optimizers
from xconv.backend import Backend
from xconv.errors import ConfigError, DTypeError, FileError, ShapeError, XconvError, described
from xconv.files import FOREIGN
from xconv.layers import REGISTRY, Input, Lambda, Layer
from xconv.models.store import filled_store
from xconv.shapes import as_given

if TYPE_CHECKING:
    from xconv.models.model import Model

_STATE = "training/"  # in front of the names of tensors that are no parameters
# What a file that was made to harm can bring about while its network is built.
_BROKEN = (XconvError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def save(model: Model, path: str | Path, *, training: bool = True) -> None:
    """Write architecture and parameters, and what `training` needs to go on, atomically."""
    path = Path(path)
    if path.suffix.lower() in FOREIGN:
        raise ConfigError(
            f"{path}: xconv writes safetensors files; save to {path.with_suffix('.safetensors').name!r}. "
            f"Received: the suffix {path.suffix!r}, which is {FOREIGN[path.suffix.lower()]}"
        )
    told = _training(model) if training else None
    tensors = {**model._parameters.to_numpy(), **(_state(model) if told else {})}
    checkpoint.save(path, tensors, {"architecture": architecture(model), "training": told})


def load_weights(model: Model, path: str | Path) -> None:
    """Parameters of a file into a model of the same names and shapes; nothing is changed where they differ."""
    tensors, _ = _apart(checkpoint.load(path)[0])
    _same_names(path, {name: array.shape for name, array in tensors.items()}, model._parameters.shapes)
    for name, array in tensors.items():
        model._parameters[name] = array


def load(
    path: str | Path,
    *,
    backend: str | Backend | None = None,
    custom_layers: Mapping[str, Any] | None = None,
    compile: bool = True,
) -> Model:
    """The model that `save` wrote, on any backend: a `Sequential` or `Model`, whose parameters have their names.

    `custom_layers` maps the kind of your own layers to their class, which is made with the arguments that `config`
    gave; or the name of one layer to a class, or to a ready layer, which a `Lambda` needs. FileError for a file that
    is missing, altered in any bit, not ours, or whose layers are not known. With `compile` the model comes with its
    optimizer, losses and metrics, and training goes on where it was: with `fit(initial_epoch=...)` the same batches
    and the same numbers, to the bit on the same backend.
    """
    path = Path(path)
    if FOREIGN.get(path.suffix.lower()) == "Keras's" and path.exists():
        raise FileError(
            f"{path}: xconv reads its own safetensors files, not Keras's. Received: the suffix {path.suffix!r}"
        )
    tensors, about = checkpoint.load(path)
    tensors, state = _apart(tensors)
    custom = dict(custom_layers or {})
    for name, given in custom.items():
        if not isinstance(given, Layer) and not (isinstance(given, type) and issubclass(given, Layer)):
            raise ConfigError(
                f"custom_layers: {name}: expected a Layer or a class of them. Received: {described(given)}"
            )
    try:
        model = _rebuilt(about["architecture"], backend, custom)
        specs = {name: tuple(spec.shape) for name, (_, _, spec) in model.graph.specs.items()}
    except FileError as error:
        raise FileError(f"{path}: {error}") from None
    except _BROKEN as error:
        if isinstance(error, XconvError) and not isinstance(error, ConfigError | ShapeError | DTypeError):
            raise  # such as a backend that cannot run
        raise FileError(
            f"{path}: its architecture does not make a network. Received: {type(error).__name__}: {error}"
        ) from error
    known = {str(name) for layer in model.layers for name in (layer.name, type(layer).__name__)}
    known |= {type(layer.activation).__name__ for layer in model.layers if layer.activation is not None}
    if not set(custom) <= known:
        raise ConfigError(
            f"custom_layers: expected names or kinds of the file's layers, {sorted(known)}. "
            f"Received: {min(set(custom) - known)!r}"
        )
    _same_names(path, {name: array.shape for name, array in tensors.items()}, specs)
    model._store = filled_store(model.graph, model._backend, model.dtype, tensors)
    if compile and about.get("training"):
        _compile(path, model, about["training"], state)
    return model


def _same_names(path: Any, got: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """FileError unless names and shapes are the same, naming the first that differs."""
    for name in [*expected, *got]:
        mine, theirs = expected.get(name, "no such parameter"), got.get(name, "no such parameter")
        if mine != theirs:
            raise FileError(
                f"{path}: the file's parameters are not this model's: {name}: expected {mine}. Received: {theirs}"
            )


# ---------------------------------------------------------------------- architecture


def architecture(model: Model) -> dict[str, Any]:
    """What is needed to build the model again, as plain JSON values."""
    graph = model.graph
    calls = [node for node in graph.nodes if not node.hidden]
    # A call is known by its place; one with an activation of its own is known by both nodes.
    place = {node.id: i for i, node in enumerate(calls)}
    place |= {node.id: place[node.sources[0]] for node in graph.nodes if node.hidden}
    place |= {i: i for i in graph.inputs}
    return {
        "model": type(model).__name__,
        "name": model.name,
        "data_format": graph.data_format,
        "dtype": model.dtype,
        "seed": model.seed,
        "inputs": [
            {"name": name, "shape": list(as_given(graph.shapes[i], graph.data_format))}
            for name, i in zip(graph.input_names, graph.inputs, strict=True)
        ],
        "layers": [
            {
                "name": layer.name,
                "kind": type(layer).__name__,
                "trainable": layer.trainable,
                "config": _told(layer),
            }
            for layer in model.layers
        ],
        "calls": [{"layer": n.layer.name, "inputs": [place[source] for source in n.sources]} for n in calls],
        "outputs": [place[i] for i in graph.outputs],
        "aliases": dict(model.aliases),
    }


def _told(layer: Layer) -> dict[str, Any]:
    """The layer's config; a warning where it leaves out what the layer of the user's own was made with."""
    config = layer.config()
    if REGISTRY.get(type(layer).__name__) is not type(layer) and getattr(layer, "portable", True):
        arguments, common = (inspect.signature(kind.__init__).parameters for kind in (type(layer), Layer))
        named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        own = [name for name, a in arguments.items() if a.kind in named and name not in common]
        missing = [name for name in own if name not in config]
        if missing:
            warnings.warn(
                f"{layer.label}: its config() leaves out {', '.join(missing)}, so that a file makes the layer without; "
                "let config return a dict of the arguments of __init__",
                stacklevel=6,
            )
    return config


def _rebuilt(about: dict[str, Any], backend: Any, custom: dict[str, Any]) -> Model:
    from xconv.models.model import Model
    from xconv.models.sequential import Sequential

    layers = {entry["name"]: _layer(entry, custom) for entry in about["layers"]}
    inputs = [Input(entry["shape"], name=entry["name"], data_format=about["data_format"]) for entry in about["inputs"]]
    made: list[Any] = []
    for call in about["calls"]:
        sources = [inputs[-1 - i] if i < 0 else made[i] for i in call["inputs"]]
        layer = layers[call["layer"]]
        made.append(layer(sources if layer.many_inputs else sources[0]))
    settings = {"name": about["name"], "backend": backend, "seed": about["seed"], "dtype": about["dtype"]}
    if about["model"] != "Model" and _is_row(about):
        model: Model = Sequential([inputs[0], *layers.values()], **settings)
    else:
        model = Model(inputs, [made[i] for i in about["outputs"]], **settings)
    model.aliases = dict(about["aliases"])
    if model.aliases and not set(model.aliases.values()) <= set(model.graph.specs):
        raise FileError(f"expected aliases of parameters. Received: {described(model.aliases)}")
    return model


def _is_row(about: dict[str, Any]) -> bool:
    """Whether each layer reads the one before."""
    names = [entry["name"] for entry in about["layers"]]
    row = [{"layer": name, "inputs": [i - 1]} for i, name in enumerate(names)]
    return about["calls"] == row and about["outputs"] == [len(names) - 1] and len(about["inputs"]) == 1


def _layer(entry: dict[str, Any], custom: dict[str, Any]) -> Layer:
    name, kind, config = entry["name"], entry["kind"], dict(entry["config"])
    given = custom.get(name, custom.get(kind) if isinstance(custom.get(kind), type) else None)
    if isinstance(given, Layer):
        given.name, given.trainable = name, bool(entry["trainable"])
        return given
    if given is None and (kind not in REGISTRY or not getattr(REGISTRY[kind], "portable", True)):
        cure = f"{name!r}: the layer" if kind == Lambda.__name__ else f'"{kind}": {kind}'  # a Lambda needs its function
        raise FileError(
            f"layer {name!r} is of kind {kind!r}, which a file cannot make: give "
            f"xconv.load(path, custom_layers={{{cure}}}). Received: {sorted(custom) or 'no custom_layers'}"
        )
    cls = given or REGISTRY[kind]
    inner = config.get("activation")
    if isinstance(inner, Mapping) and isinstance(custom.get(inner["kind"]), type):
        made = {key: value for key, value in inner.items() if key != "kind"}
        config["activation"] = custom[inner["kind"]](**_tuples(made))
    return cls(**_tuples(config), name=name, trainable=bool(entry["trainable"]))


def _tuples(config: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where arguments are tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}


# ---------------------------------------------------------------------- how it was trained


def _training(model: Model) -> dict[str, Any] | None:
    """Optimizer, losses and metrics, where all of them can be told in plain values."""
    if model.optimizer is None or model._asked[0] is None:
        return None
    found = model._compiled("save")
    optimizer = model.optimizer.config()
    ours = all(losses.CLASSES.get(type(head.declared).__name__) is type(head.declared) for head in found)
    if optimizer is None or not ours:
        return None
    return {
        "optimizer": optimizer,
        "loss": {head.name: head.declared.config() for head in found},
        "metrics": {head.name: [metric.name for metric in head.metrics] for head in found},
        "loss_weights": {head.name: head.weight for head in found},
    }


def _state(model: Model) -> dict[str, np.ndarray]:
    """The optimizer's arrays and the number of steps done, under names that no parameter has."""
    assert model.optimizer is not None
    store = model._parameters.backend
    arrays = {f"optimizer/{name}": store.to_numpy(a) for name, a in model.optimizer.state_arrays().items()}
    return {_STATE + name: np.array(a) for name, a in {**arrays, "steps": store.to_numpy(model._steps)}.items()}


def _apart(tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters, and the state of training."""
    state = {name.removeprefix(_STATE): array for name, array in tensors.items() if name.startswith(_STATE)}
    return {name: array for name, array in tensors.items() if not name.startswith(_STATE)}, state


def _compile(path: Path, model: Model, told: dict[str, Any], state: dict[str, np.ndarray]) -> None:
    try:
        known = {name: [metric for metric in names if _is_known(metric)] for name, names in told["metrics"].items()}
        model.compile(
            optimizers.from_config(told["optimizer"]),
            {name: losses.from_config(config) for name, config in told["loss"].items()},
            known,
            told["loss_weights"],
        )
        _go_on(model, state)
    except _BROKEN as error:
        raise FileError(f"{path}: its training settings cannot be used. Received: {error}") from error


def _go_on(model: Model, state: dict[str, np.ndarray]) -> None:
    """Give the model its optimizer's state back; ConfigError where it is not that of these parameters."""
    optimizer, parameters = model.optimizer, model._parameters
    assert optimizer is not None
    shapes = {"": parameters.flat.shape, **{f"{name}:": a.shape or (1,) for name, a in parameters.items()}}
    arrays = {name.removeprefix("optimizer/"): a for name, a in state.items() if name.startswith("optimizer/")}
    for name, array in arrays.items():
        owner, slot = name[: name.rfind(":") + 1], name[name.rfind(":") + 1 :]
        fits = (2,) if name == "hyper" else shapes.get(owner) if slot in optimizer.slots else None
        if array.shape != fits or array.dtype != (np.float64 if name == "hyper" else parameters.flat.dtype):
            raise ConfigError(
                f"state {name!r} is not that of {optimizer!r} for these parameters. Received: {array.shape}"
            )
    if arrays:
        optimizer.load_state(arrays, model.backend)
    if "steps" in state:
        model._steps = model.backend.asarray(state["steps"].reshape(1).astype(np.uint64))


def _is_known(metric: str) -> bool:
    try:
        metrics.get(metric, losses.MeanSquaredError(), (1,))
    except XconvError:
        return False
    return True
