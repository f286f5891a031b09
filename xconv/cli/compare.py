"""`xconv compare`: whether the backends here train a network to the same numbers, and how fast each is."""

from __future__ import annotations

import shutil
import textwrap
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from xconv import optimizers, streams, zoo
from xconv.backend import Backend, backends, get_backend
from xconv.checks import DTYPES
from xconv.cli.bench import SIZES
from xconv.cli.beside import check_machine
from xconv.cli.console import notice, plural, print_json, print_table
from xconv.cli.options import COUNT, BackendName, data_option, json_option, model_option
from xconv.cli.prepare import check_images, default_data, images_to_train
from xconv.errors import BackendError, ConfigError
from xconv.files import output_folder
from xconv.measure import agreement, charts, save, tolerances
from xconv.measure.machine import about, about_lines
from xconv.measure.tables import duration
from xconv.models import Model
from xconv.optimizers import Optimizer

RECIPE = "recipe"
LONG = 30.0  # seconds to go, from which on they are announced
FOUND_APART = 1


class BackendNames(click.ParamType):
    """ "numpy,numba,cupy:1" as a list of names."""

    name = "backends"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        one = BackendName()
        return [one.convert(name.strip(), param, ctx) for name in str(value).split(",")]


@click.command()
@model_option
@click.option(
    "--backends",
    "names",
    type=BackendNames(),
    metavar="A,B,...",
    help="Two or more, such as numba,cupy:1; the first is what the others are compared with.  "
    "[default: numpy,numba,cupy, as far as usable]",
)
@click.option(
    "--steps",
    type=SIZES,
    metavar="N,...",
    default=",".join(map(str, agreement.STEPS)),
    show_default=True,
    help="After how many training steps to compare. Within 10 there is a tolerance; later ones show the growth.",
)
@data_option
@click.option("--batch-size", type=COUNT, help="Images in a step.  [default: the network's published one]")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of all arrays.")
@click.option(
    "--optimizer",
    type=click.Choice([*optimizers.NAMED, RECIPE], case_sensitive=False),
    default="sgd",
    show_default=True,
    help="The update rule. SGD passes differences on as they are, so it shows the arithmetic; adaptive rules divide by "
    "the gradient's size, and make much of rounding where it is about 0. 'recipe' is what xconv train takes.",
)
@click.option("--lr", type=float, help="Learning rate.  [default: the optimizer's own, for sgd 0.01]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of initial weights, batches and dropout masks.")
@click.option(
    "--no-rounding",
    is_flag=True,
    help="Leave out the first backend's training in float64, which shows what rounding alone does: half the time.",
)
@click.option("--check", is_flag=True, help="Exit with 1 where a backend is beyond the tolerance, for scripts.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the figures (JSON) and a chart."
)
@json_option
def compare(
    model: str,
    names: list[str] | None,
    steps: list[int],
    data: str | None,
    batch_size: int | None,
    dtype: str,
    optimizer: str,
    lr: float | None,
    seed: int,
    no_rounding: bool,
    check: bool,
    out: Path | None,
    as_json: bool,
) -> int:
    """Train one network on several backends from the same bits, and tell how far apart they are, layer by layer.

    Each starts with the same weights and takes the same batches and dropout masks. After 1, 10 and 100 steps every
    tensor is compared: the largest difference over the largest entry. The exit code is 0 whatever that is, unless
    --check asks for 1.
    """
    recipe = zoo.recipe(model)
    rule = _rule(recipe, optimizer, lr)
    streams.check_seed(seed)
    chosen = _chosen(names)
    data = data or default_data(model)
    check_machine()
    with output_folder(out) if out else nullcontext():
        images = images_to_train(data, model)
        settings = {"classes": len(images.classes), "seed": seed}

        def build(backend: Backend, dtype: str) -> Model:
            net = zoo.entry(model).build(recipe, backend=backend, dtype=dtype, **settings)
            net.compile(rule.fresh())
            return net

        plain = build(chosen[0], dtype)
        check_images(plain, data, images)
        x = images.x_train if plain.data_format == "channels_first" else images.x_train.transpose(0, 2, 3, 1)
        facts = {**about(), "model": model, "data": data, "images": len(x)}
        trained = len(chosen) + (dtype == "float32" and not no_rounding)
        with _Progress(trained, steps) as progress:
            found = agreement.agree(
                build,
                chosen,
                x,
                images.t_train,
                batch_size=batch_size or recipe.batch_size,
                steps=steps,
                dtype=dtype,
                seed=seed,
                rounding=not no_rounding,
                say=notice,
                watch=progress,
            )
        whole = {**facts, **found}
        if out is not None:
            save(out, f"compare-{model}", whole, charts.agreement, notice)
    if as_json:
        print_json(whole)
    else:
        report(whole)
    apart = any(row["verdict"]["status"] == tolerances.BEYOND for row in whole["comparisons"])
    return FOUND_APART if check and apart else 0


def _rule(recipe: zoo.Recipe, name: str, lr: float | None) -> Optimizer:
    """The optimizer of all, of which each network gets its own."""
    if name == RECIPE:
        return recipe.update_rule() if lr is None else optimizers.get(recipe.optimizer, lr=lr, **recipe.rule)
    return optimizers.get(name, **({} if lr is None else {"lr": lr}))


def _chosen(names: list[str] | None) -> list[Backend]:
    """The backends that were named, each of which must run, or all that are usable; never fewer than two."""
    if names is not None:
        chosen = [get_backend(name) for name in names]
        addresses = [backend.address for backend in chosen]
        if len(set(addresses)) < 2 or len(set(addresses)) < len(addresses):
            raise ConfigError(f"--backends: expected at least two, each once. Received: {','.join(names)}")
        return chosen
    rows = list(reversed(backends()))
    usable = [get_backend(row.name) for row in rows if row.usable]
    others = [(row.name, row.reason, row.fix) for row in rows if not row.usable]
    if len(usable) < 2:
        why = "; ".join(f"{name}: {reason}" for name, reason, _ in others)
        raise BackendError(
            f"compare needs two backends. Received: {', '.join(b.name for b in usable) or 'none'} alone ({why})",
            reason=why,
            fix="; ".join(f"for {name}: {fix}" for name, _, fix in others),
        )
    for name, reason, _ in others:
        notice(f"without {name}: {reason} (xconv backends {name} tells more)")
    return usable


class _Progress:
    """A bar over all steps of all networks, and a word on how long it will take once each has taken its first step."""

    def __init__(self, networks: int, steps: list[int]) -> None:
        self.networks, self.steps = networks, steps
        self.taken: dict[str, int] = {}
        self.seconds: dict[str, float] = {}  # of the first step
        self.last = 0.0  # when somebody took a step, or began a turn
        self.bar: tqdm[Any] = tqdm(
            total=networks * steps[-1],
            disable=None,  # where stderr is no terminal
            leave=False,
            bar_format="{n_fmt}/{total_fmt} steps |{bar}| {elapsed} {postfix}",
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, name: str, taken: int) -> None:
        now = time.perf_counter()
        if taken == 1 and name not in self.seconds:
            self.seconds[name] = now - self.last
            if len(self.seconds) == self.networks:
                self.announce(sum(self.seconds.values()))
        self.bar.set_postfix_str(name, refresh=False)
        self.bar.update(taken - self.taken.get(name, 0))
        self.last, self.taken[name] = now, taken

    def announce(self, a_step: float) -> None:
        """`a_step` of every network, in seconds."""
        left = a_step * (self.steps[-1] - 1)
        if left < LONG:
            return
        sooner = [step for step in self.steps if 1 < step <= tolerances.STEPS and step < self.steps[-1]]
        hint = f"; --steps 1,{sooner[-1]} takes {_about(a_step * sooner[-1])}" if sooner else ""
        notice(f"{_about(left)} to go{hint}")


def _about(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {max(1, round(seconds))} s"


# ---------------------------------------------------------------------- the report


def report(whole: dict[str, Any]) -> None:
    """The comparison as tables, and what is to be known beside them."""
    reference = whole["reference"]
    click.echo(about_lines(whole))
    click.echo(
        f"\n{whole['model']} on {whole['data']}, batches of {whole['batch_size']}, {whole['dtype']}, "
        f"{whole['optimizer']}, seed {whole['seed']}"
    )
    _say(start_line(whole))
    for row in whole["comparisons"]:
        click.echo()
        _differences(f"{row['backend']} beside {reference}: differences by layer", row, whole)
    if whole["rounding"]:
        _differences(f"{reference} beside itself in float64: what rounding alone does", whole["rounding"], whole)
    _throughput(whole)
    for line in [*notes(whole), "", *(verdict(row, whole) for row in whole["comparisons"])]:
        _say(line)


def _say(text: str) -> None:
    """Wrapped to the terminal, as tables are; 80 columns where there is none."""
    click.echo(textwrap.fill(text, max(60, shutil.get_terminal_size().columns), subsequent_indent="  "))


def start_line(whole: dict[str, Any]) -> str:
    """What was made sure of before the first step, and on the way."""
    start = whole["start"]
    seen = "the same batches and dropout masks" if start["dropout_layers"] else "the same batches"
    weights = f"{start['numbers']:,} weights (SHA-256 {start['sha256'][:16]})"
    return f"All start from the same {weights} and see {seen}: compared to the bit."


def _differences(title: str, row: dict[str, Any], whole: dict[str, Any]) -> None:
    algorithms = whole["backends"].get(row["backend"], {}).get("algorithms", {}) if "verdict" in row else {}
    after = {found["steps"]: found for found in row["after"]}
    header = ["layer", *(["computed by"] if algorithms else []), "gradient"]
    header += [plural(step, "step") for step in whole["steps"]]
    rows = [
        [
            layer["name"],
            *([algorithms.get(layer["name"], "")] if algorithms else []),
            _figure(row["gradient"]["layers"], layer["name"]),
            *(_figure(after.get(step, {}).get("layers", {}), layer["name"]) for step in whole["steps"]),
        ]
        for layer in whole["layers"]
    ]
    loss = [_figure(after.get(step, {}), "loss") for step in whole["steps"]]
    rows.append(["the loss", *([""] if algorithms else []), "", *loss])
    print_table(title, header, rows)


def _figure(found: dict[str, Any], key: str) -> str:
    """ "-" where nothing was compared."""
    if key not in found:
        return "-"
    value = found[key]
    return "not finite" if value is None else "0" if value == 0 else f"{value:.1e}"


def _throughput(whole: dict[str, Any]) -> None:
    told = whole["backends"]
    slowest = told[whole["reference"]]["step_seconds"]
    rows = [
        [
            name,
            f"{row['images_per_second']:,.0f}",
            duration(row["step_seconds"]),
            f"{slowest / row['step_seconds']:.2f}",
            str(row["timed_steps"]),
            f"{row['compile_seconds']:.1f} s",
        ]
        for name, row in told.items()
    ]
    header = ["", "images/s", "a step", f"times {whole['reference']}", "steps timed", "compiling"]
    print_table("Throughput of training, in turns; compiling is not in it", header, rows)


def notes(whole: dict[str, Any]) -> list[str]:
    """What the tables must be read with."""
    lines = [
        "A layer's figure: max |difference| / max |entry|, of that of its tensors where it is largest. gradient: of "
        "the first step. Backends that add up in another order round differently."
    ]
    cancelled = [name for layer in whole["layers"] for name in layer["cancelled"]]
    if cancelled:
        what = f"{cancelled[0]}, the bias" if len(cancelled) == 1 else f"{cancelled[0]} and the other biases"
        lines.append(
            f"Left out: {what} before batch normalisation, which takes them away: their true gradient is 0, and only "
            "rounding moves them."
        )
    for name, row in whole["backends"].items():
        free = tolerances.unpromised(row)
        if free:
            lines.append(
                f"{name} takes {' and '.join(free)}: there is a tolerance for one operation, none for many steps."
            )
    if whole["disturbed_turns"]:
        lines.append(f"{whole['disturbed_turns']} of {whole['turns']} turns were slowed by other programs.")
    return lines


def verdict(row: dict[str, Any], whole: dict[str, Any]) -> str:
    """One backend's, in a line or two."""
    found, reference = row["verdict"], whole["reference"]
    if found["stopped"]:
        return f"{row['backend']}: BEYOND TOLERANCE: {found['stopped']}, and {reference}'s did not"
    value = "not finite" if found["value"] is None else f"{found['value']:.1e}"
    place = found["place"]
    inside = [layer["name"] for layer in whole["layers"] if place in layer["tensors"]]
    place += f" of {inside[0]}" if inside and not place.startswith(inside[0]) else ""
    where = f"{place} after {plural(found['steps'], 'step')}"
    if found["what"] == "gradient":
        where = f"the first gradient of {place}, over the network's largest"
    most = f"{value} ({where})"
    limit = f"{found['published']:.0e}"
    alone = f", where rounding alone gives {found['rounding']:.1e}" if found["rounding"] is not None else ""
    said = {
        tolerances.WITHIN: f"within the published tolerance: at most {most}, {limit} being allowed",
        tolerances.ROUNDING: f"as near as rounding lets it be: {most}{alone}; in this network float32 cannot keep "
        f"within the published {limit}",
        tolerances.BEYOND: f"BEYOND TOLERANCE: {most}{alone}; {found['allowed']:.0e} is allowed",
        tolerances.UNPROMISED: f"beyond {limit}: {most}{alone}; none is promised with "
        f"{' and '.join(found['unpromised'])}",
        tolerances.UNJUDGED: f"its first gradient is within tolerance; its weights have none after more than "
        f"{tolerances.STEPS} steps: --steps 1,{tolerances.STEPS} judges them",
    }
    return f"{row['backend']}: {said[found['status']]}"
