"""What a network costs as its work grows: time and memory of an image against batch, channels, image size, threads."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xconv.backend.threads import default_threads
from xconv.errors import ConfigError, XconvError
from xconv.measure import contestants, pytorch
from xconv.measure.contestants import Entrant, Network, arithmetic
from xconv.measure.machine import about, about_lines
from xconv.measure.memory import added_mb
from xconv.measure.referee import Referee, Say, compete
from xconv.measure.tables import count, disturbance, table


@dataclass(frozen=True)
class Axis:
    """What grows, and what the line beside it means."""

    label: str
    sizes: tuple[int, ...]
    ideal: str


AXES = {
    "batch": Axis("images in a batch", tuple(2**i for i in range(11)), "the same for every image"),
    "channels": Axis(
        "filters of the first convolution, the others in proportion",
        (8, 16, 32, 64, 128, 256),
        "grows as the arithmetic",
    ),
    "image": Axis("height and width of an image", (14, 28, 56, 112), "grows as the arithmetic"),
    "threads": Axis("threads", (), "time divided by threads"),
}

AT_ONCE = 12  # processes; each holds a fifth of a gigabyte or more


def default_sizes(axis: str) -> tuple[int, ...]:
    """Those of the axis; for threads 1, 2, 4, ... and all there are."""
    if AXES[axis].sizes:
        return AXES[axis].sizes
    most = default_threads()
    return tuple(sorted({min(2**i, most) for i in range(most.bit_length() + 1)}))


def sweep(
    axis: str,
    network: Network,
    backend: str,
    *,
    batch_size: int,
    sizes: Sequence[int] = (),
    peer: bool = False,
    rounds: int = 3,
    seconds: float = 0.2,
    patience: float = 30.0,
    say: Say,
) -> dict[str, Any]:
    """Every size on the backend, and beside PyTorch's layouts with `peer`; as JSON has it.

    Some sizes take their turns together, so many that `AT_ONCE` processes live at a time. Sizes that the network
    cannot have are left out, and said.
    """
    machine, asked = about(), AXES[axis]
    entrants: dict[tuple[str, int], Entrant] = {}
    work: dict[int, float] = {}
    for size in sizes or default_sizes(axis):
        made, batch, threads = network, batch_size, machine["threads"]
        if axis == "batch":
            batch = size
        elif axis == "threads":
            threads = size
        else:
            made = replace(network, filters=size) if axis == "channels" else replace(network, image=size)
        try:
            multiply_adds = arithmetic(made.build("numpy"))
        except XconvError as error:
            say(f"{axis} {size} is left out: {error}")
            continue
        work[size] = multiply_adds / (threads if axis == "threads" else 1)
        at_size = contestants.entrants(made, batch, [backend])
        if peer:
            at_size |= pytorch.entrants(made, batch)
        for name, entrant in at_size.items():
            entrants[name, size] = replace(entrant, threads=threads)
    if not work:
        raise ConfigError(f"{network.model} can have none of the sizes. Received: {list(sizes)}")
    referee = Referee(patience)
    results: dict[str, Any] = {}
    together = max(1, AT_ONCE * len(work) // len(entrants))
    for some in [list(work)[i : i + together] for i in range(0, len(work), together)]:
        named = {f"{name}, {axis} {size}": made for (name, size), made in entrants.items() if size in some}
        say(f"{axis} {', '.join(map(str, some))}")
        results |= compete(named, ("train", "infer"), rounds, seconds, machine["threads"], referee, say)
    say("the memory of a training step, in a fresh process each")
    rows = []
    for (name, size), entrant in entrants.items():
        told = results[f"{name}, {axis} {size}"]
        if "error" not in told:
            row = _row(name, size, entrant.batch_size, told)
            mb = added_mb(entrant, machine["threads"], say)
            rows.append(row | {"step_mb": mb, "mb_per_image": None if mb is None else mb / entrant.batch_size})
    if not rows:
        first = next(iter(results.values()))
        raise ConfigError(f"nothing could be measured: {first['error']}")
    _compare_with_arithmetic(rows, work)
    ours = [row for row in rows if row["name"].startswith("xconv")] or rows
    best = min(row["train_ms_per_image"] / work[row["size"]] for row in ours)
    where = f"batch {batch_size}, {machine['threads']} threads"
    where = {"batch": f"{machine['threads']} threads", "threads": f"batch {batch_size}"}.get(axis, where)
    return {
        **machine,
        "sweep": axis,
        "model": network.model,
        "title": f"{network.model}, {where}",
        "axis_label": asked.label,
        "ideal": f"{asked.ideal} (from the best training step)",
        "batch_size": None if axis == "batch" else batch_size,
        "rounds": rounds,
        "turns": referee.turns,
        "disturbed_turns": referee.disturbed,
        "sizes": list(work),
        "names": list(dict.fromkeys(row["name"] for row in rows)),
        "work": [w / next(iter(work.values())) for w in work.values()],  # of an image and a thread, first size 1
        "arithmetic_ms_per_image": [best * w for w in work.values()],
        "rows": rows,
        "errors": {name: row["error"] for name, row in results.items() if "error" in row},
    }


def _row(name: str, size: int, batch_size: int, told: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "size": size, "threads": told["about"]["threads"]}
    for task in ("train", "infer"):
        ms = [second * 1e3 for second in told[task]]
        row[f"{task}_ms"] = statistics.median(ms)
        row[f"{task}_ms_by_round"] = ms
        row[f"{task}_ms_per_image"] = row[f"{task}_ms"] / batch_size
    return row


def _compare_with_arithmetic(rows: list[dict[str, Any]], work: Mapping[int, float]) -> None:
    """Adds `train_over_best` and `infer_over_best`: time for the arithmetic, over the least among the sizes."""
    for name in {row["name"] for row in rows}:
        own = [row for row in rows if row["name"] == name]
        for task in ("train", "infer"):
            best = min(row[f"{task}_ms_per_image"] / work[row["size"]] for row in own)
            for row in own:
                row[f"{task}_over_best"] = row[f"{task}_ms_per_image"] / work[row["size"]] / best


def report(result: Mapping[str, Any]) -> str:
    """The sweep for reading."""
    lines = [about_lines(dict(result)), f"{result['title']}, {count(result['rounds'], 'round')}"]
    for name in result["names"]:
        rows = [
            [
                str(row["size"]),
                *(
                    cell
                    for task in ("train", "infer")
                    for cell in (
                        f"{row[f'{task}_ms']:.3g}",
                        f"{row[f'{task}_ms_per_image']:.3g}",
                        f"{row[f'{task}_over_best']:.2f}",
                    )
                ),
                *(["-", "-"] if row["step_mb"] is None else [f"{row['step_mb']:.1f}", f"{row['mb_per_image']:.3g}"]),
            ]
            for row in result["rows"]
            if row["name"] == name
        ]
        head = [result["sweep"], "train ms", "ms/image", "over best", "predict ms", "ms/image", "over best"]
        lines += ["", name, "", table([*head, "step adds MB", "MB/image"], rows)]
    lines += ["", f"{result['sweep']}: {result['axis_label']}"]
    lines += ["over best: time for the same arithmetic, over the least of the column"]
    lines += [f"{name} was not measured: {error}" for name, error in result["errors"].items()]
    return "\n".join([*lines, *disturbance(result)])
