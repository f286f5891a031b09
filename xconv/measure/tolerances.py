"""How far a backend may be from the reference when both have trained the same network, and whether it is nearer.

Published: ten steps of SGD give the same weights within 1e-4 of each tensor's largest in float32, 1e-10 in float64.
Adaptive rules divide by the gradient's own size, so that their first step is nearly a sign, which rounding turns round
where the gradient is about 0: in float32 they are judged by the norm over all weights, and by the loss. The gradient of
the first step is measured by the largest gradient of the network.

A network that multiplies rounding (many layers of batch normalisation do) leaves these behind in any float32: then the
reference's own distance from its twin in float64 is the measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

STEPS = 10  # for which the tolerances are published
TRAJECTORY = {"float32": 1e-4, "float64": 1e-10}
LOSS = {"float32": 1e-5, "float64": 1e-10}
GRADIENT = {"float32": 1e-4, "float64": 1e-9}
# Two results that are each as far from the truth as rounding takes them are up to twice that apart, and in one tensor
# the reference may have been lucky. Ten steps of resnet20-cifar10 in batches of 16 on Numba: up to 1.8 times as far in
# all tensors but one, 5.1 there. Three of vgg16-bn-cifar10, by Winograd's convolution, which rounds more: up to 15.
ROUNDINGS = 10

WITHIN, ROUNDING, BEYOND, UNPROMISED, UNJUDGED = "within", "rounding", "beyond", "unpromised", "unjudged"


class Check(NamedTuple):
    """One number beside what it may be. `place` is a tensor, "all weights" or "the loss"; None: not finite."""

    what: str
    steps: int
    place: str
    value: float | None
    published: float
    rounding: float | None  # the same number of the reference beside its twin

    @property
    def allowed(self) -> float:
        return max(self.published, ROUNDINGS * (self.rounding or 0.0))

    @property
    def excess(self) -> float:
        return float("inf") if self.value is None else self.value / self.allowed


def published(dtype: str, adaptive: bool) -> dict[str, Any]:
    """As JSON has it."""
    by_norm = adaptive and dtype == "float32"
    return {
        "steps": STEPS,
        "measure": "norm" if by_norm else "tensor",
        "trajectory": TRAJECTORY[dtype],
        "loss": LOSS[dtype] if by_norm else None,
        "gradient": GRADIENT[dtype],
    }


def judge(
    row: Mapping[str, Any],
    rounding: Mapping[str, Any] | None,
    dtype: str,
    adaptive: bool,
    cancelled: Sequence[str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The verdict on a backend: `status`, the check that decided it, and why nothing was promised, where that is so.

    "within" the published tolerance; beyond it, but as near as "rounding" lets anyone be; "beyond" both; "unpromised":
    beyond both, but computed by what has a tolerance for single operations alone; "unjudged": nothing was compared
    within ten steps.
    """
    found = list(checks(row, rounding, dtype, adaptive, cancelled))
    free = unpromised(about)
    stopped = about["stopped"]
    worst = max(found, key=lambda check: check.excess)
    if stopped is not None:
        status = BEYOND
    elif worst.excess > 1:
        status = UNPROMISED if free else BEYOND
        worst = next(check for check in found if check.excess > 1)  # where it began
        same = [check for check in found if (check.what, check.steps) == (worst.what, worst.steps)]
        worst = max(same, key=lambda check: check.excess)
    elif not any(after["steps"] <= STEPS for after in row["after"]):
        status = UNJUDGED
    else:
        past = [check for check in found if check.value is not None and check.value > check.published]
        status = ROUNDING if past else WITHIN
        judged = past or [check for check in found if check.what != "gradient"]
        worst = max(judged, key=lambda check: (check.value or 0.0) / check.published)
    return {"status": status, **worst._asdict(), "allowed": worst.allowed, "unpromised": free, "stopped": stopped}


def checks(
    row: Mapping[str, Any],
    rounding: Mapping[str, Any] | None,
    dtype: str,
    adaptive: bool,
    cancelled: Sequence[str],
) -> Iterator[Check]:
    """All that is judged: the first gradient, then each comparison within ten steps."""
    alone = {after["steps"]: after for after in rounding["after"]} if rounding else {}
    of_largest = rounding["gradient"]["of_largest"] if rounding else {}
    for name, value in row["gradient"]["of_largest"].items():
        yield Check("gradient", 1, name, value, GRADIENT[dtype], of_largest.get(name))
    for after in row["after"]:
        steps = after["steps"]
        if steps > STEPS:
            return
        twin = alone.get(steps, {"tensors": {}})
        if adaptive and dtype == "float32":
            yield Check("weights", steps, "all weights", after["norm"], TRAJECTORY[dtype], twin.get("norm"))
            yield Check("weights", steps, "the loss", after["loss"], LOSS[dtype], twin.get("loss"))
            continue
        for name, value in after["tensors"].items():
            if name not in cancelled:
                yield Check("weights", steps, name, value, TRAJECTORY[dtype], twin["tensors"].get(name))


def unpromised(about: Mapping[str, Any]) -> list[str]:
    """What a backend computes with that has a tolerance for single operations, and none for trajectories."""
    found = []
    winograd = [name for name, algorithm in about["algorithms"].items() if algorithm.startswith("winograd")]
    if winograd:
        found.append(f"Winograd's convolution in {len(winograd)} layer{'s' if len(winograd) > 1 else ''}")
    precision = about["about"].get("precision", "float32")
    if precision != "float32":
        found.append(f"products in {precision}")
    return found
