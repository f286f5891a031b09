"""What a model looks like: its layers, output shapes and parameter counts, and the memory that training takes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from xconv.layers.fused import ConvReLU, ConvReLUMaxPool, convolution
from xconv.models.memory import training_step_bytes
from xconv.plan import Plan, Run

if TYPE_CHECKING:
    from xconv.models.network import Network


def facts(model: Network, batch_size: int = 32) -> dict[str, Any]:
    """The summary as plain values: layers, total_params, trainable_params, non_trainable_params, peak_bytes."""
    graph = model.graph
    counts = {layer.name: [0, 0] for layer in model.layers}
    for place, _, spec in graph.specs.values():
        layer = graph.nodes[place].layer
        counts[layer.name][int(not (spec.trainable and layer.trainable))] += math.prod(spec.shape)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": "Input",
            "output_shape": [None, *model._given_shape(i)],
            "params": 0,
            "inputs": [],
            "algorithm": "",
        }
        for name, i in zip(graph.input_names, graph.inputs, strict=True)
    ]
    called = dict(zip(graph.inputs, graph.input_names, strict=True))
    called |= {node.id: str(graph.owner(node.id).name) for node in graph.nodes}
    computed = _algorithms(model)
    ends = {node.sources[0]: node.id for node in graph.nodes if node.hidden}
    seen = set()
    for node in graph.nodes:
        if node.hidden or node.layer in seen:
            continue
        seen.add(node.layer)
        rows.append(
            {
                "name": node.layer.name,
                "kind": type(node.layer).__name__,
                "output_shape": [None, *model._given_shape(ends.get(node.id, node.id))],
                "params": sum(counts[node.layer.name]),
                "inputs": [called[source] for source in node.sources],
                "algorithm": computed.get(str(node.layer.name), ""),
            }
        )
    optimizer = getattr(model, "optimizer", None)
    trainable, fixed = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    return {
        "model": model.name,
        "layers": rows,
        "total_params": trainable + fixed,
        "trainable_params": trainable,
        "non_trainable_params": fixed,
        "batch_size": batch_size,
        "backend": model.backend.name,
        "optimizer": None if optimizer is None else type(optimizer).__name__,
        "peak_bytes": training_step_bytes(model, batch_size),
    }


def _algorithms(model: Network) -> dict[str, str]:
    """By layer name, how its backend computes it where there is a choice: alone, or in one go with the layer before."""
    found: dict[str, str] = {}
    plan = Plan(model.graph, model.backend, fuse=model.fuse)
    for run in plan.runs:
        first, *others = (str(model.graph.owner(i).name) for i in run.nodes)
        found.setdefault(first, _algorithm(plan, run, model.itemsize))
        found |= {name: f"with {first}" for name in others if name != first}
    return found


def _algorithm(plan: Plan, run: Run, itemsize: int) -> str:
    layer, found = run.layer, convolution(run.layer)
    if found is None:
        return ""
    (conv, what), image = found, plan.graph.shapes[run.sources[0]]
    weights, pads = conv.param_specs(image)["w"].shape, conv.pads(image)
    told = what | {"groups": conv.groups, "itemsize": itemsize, "dilation": conv.dilation_rate}

    def name(**more: Any) -> str:
        return plan.backend.conv_algorithm((1, *image), weights, conv.strides, pads, **told, **more)

    if not isinstance(layer, ConvReLU | ConvReLUMaxPool):
        return name()
    trains, predicts = (name(pool=layer.pooling, inference=inference) for inference in (False, True))
    return trains if trains == predicts else f"{trains}, predicting {predicts}"


def text(model: Network, batch_size: int = 32, verbose: int = 1) -> str:
    """The summary as a table; with `verbose` 2 also how each layer is computed."""
    about = facts(model, batch_size)
    rows = about["layers"]
    branched = any(row["inputs"] not in ([], [before["name"]]) for before, row in pairwise(rows))
    header = ["Layer (kind)", "Output shape", "Params", *(["Reads"] if branched else [])]
    if verbose == 2:
        header.append("Computed by")
    body = [
        [
            f"{row['name']} ({row['kind']})",
            "(" + ", ".join(str(n) for n in row["output_shape"]) + ")",
            f"{row['params']:,}",
            *([", ".join(row["inputs"])] if branched else []),
            *([row["algorithm"]] if verbose == 2 else []),
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        parts = [c.rjust(w) if i == 2 else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "  ".join(parts).rstrip()

    rule = "-" * len(line(["-" * w for w in widths]))
    return "\n".join(
        [
            f'Model "{about["model"]}"',
            rule,
            line(header),
            rule,
            *map(line, body),
            rule,
            f"Total params: {about['total_params']:,} ({about['total_params'] * model.itemsize / 2**20:.2f} MB)",
            f"Trainable params: {about['trainable_params']:,}",
            f"Non-trainable params: {about['non_trainable_params']:,}",
            f"A training step of {batch_size}: {about['peak_bytes'] / 2**20:.0f} MB beside them"
            + (f", {about['optimizer']}" if about["optimizer"] else "")
            + f", {about['backend']}",
        ]
    )
