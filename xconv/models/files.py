"""A model in one file: its architecture as JSON in the header, its parameters as tensors. No file makes code run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xconv import checkpoint, losses, metrics, optimizers
from xconv.backend import Backend
from xconv.errors import ConfigError, DTypeError, FileError, ShapeError, XconvError, described
from xconv.layers import REGISTRY, Input, Layer
from xconv.models.store import filled_store
from xconv.shapes import as_given

if TYPE_CHECKING:
    from xconv.models.model import Model

_OTHERS = {".h5": "Keras's", ".hdf5": "Keras's", ".keras": "Keras's", ".pkl": "pickle's", ".pickle": "pickle's"}
# What a file that was made to harm can bring about while its network is built.
_BROKEN = (XconvError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def save(model: Model, path: str | Path) -> None:
    """Write architecture and parameters, atomically."""
    path = Path(path)
    if path.suffix.lower() in _OTHERS:
        raise ConfigError(
            f"{path}: xconv writes safetensors files; save to {path.with_suffix('.safetensors').name!r}. "
            f"Received: the suffix {path.suffix!r}, which is {_OTHERS[path.suffix.lower()]}"
        )
    about = {"architecture": architecture(model), "training": _training(model)}
    checkpoint.save(path, model._parameters.to_numpy(), about)


def load_weights(model: Model, path: str | Path) -> None:
    """Parameters of a file into a model of the same names and shapes; nothing is changed where they differ."""
    tensors, _ = checkpoint.load(path)
    _same_names(path, {name: array.shape for name, array in tensors.items()}, model._parameters.shapes)
    for name, array in tensors.items():
        model._parameters[name] = array


def load(
    path: str | Path,
    *,
    backend: str | Backend | None = None,
    custom_layers: Mapping[str, Any] | None = None,
) -> Model:
    """The model that `save` wrote, on any backend, as `Sequential`, `Model`, or `SimpleConvNet` with its names.

    `custom_layers` maps the kind of your own layers to their class, which is made with the arguments that `config`
    gave; or the name of one layer to a class, or to a ready layer, which a `Lambda` needs. FileError for a file that
    is missing, altered in any bit, not ours, or whose layers are not known.
    """
    path = Path(path)
    if path.suffix.lower() in (".h5", ".hdf5", ".keras") and path.exists():
        raise FileError(
            f"{path}: xconv reads its own safetensors files, not Keras's. Received: the suffix {path.suffix!r}"
        )
    tensors, about = checkpoint.load(path)
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
    if not set(custom) <= known:
        raise ConfigError(
            f"custom_layers: expected names or kinds of the file's layers, {sorted(known)}. "
            f"Received: {min(set(custom) - known)!r}"
        )
    _same_names(path, {name: array.shape for name, array in tensors.items()}, specs)
    model._store = filled_store(model.graph, model._backend, model.dtype, tensors)
    if about.get("training"):
        _compile(path, model, about["training"])
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
                "config": layer.config(),
            }
            for layer in model.layers
        ],
        "calls": [{"layer": n.layer.name, "inputs": [place[source] for source in n.sources]} for n in calls],
        "outputs": [place[i] for i in graph.outputs],
        "aliases": dict(model.aliases),
    }


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
        given.name = name
        return given
    if given is None and (kind not in REGISTRY or not getattr(REGISTRY[kind], "portable", True)):
        raise FileError(
            f"layer {name!r} is of kind {kind!r}, which a file cannot make: give "
            f"xconv.load(path, custom_layers={{{name!r}: the layer or its class}}). Received: {sorted(custom)}"
        )
    cls = given or REGISTRY[kind]
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


def _compile(path: Path, model: Model, told: dict[str, Any]) -> None:
    try:
        known = {name: [metric for metric in names if _is_known(metric)] for name, names in told["metrics"].items()}
        model.compile(
            optimizers.from_config(told["optimizer"]),
            {name: losses.from_config(config) for name, config in told["loss"].items()},
            known,
            told["loss_weights"],
        )
    except _BROKEN as error:
        raise FileError(f"{path}: its training settings cannot be used. Received: {error}") from error


def _is_known(metric: str) -> bool:
    try:
        metrics.get(metric, losses.MeanSquaredError(), (1,))
    except XconvError:
        return False
    return True
