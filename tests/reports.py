"""A run to report on, and its page as a browser reads it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

import xconv
from xconv import plots, report
from xconv.layers import Conv2D, Dense, Flatten

NAMES = ["<script>alert(1)</script>", '"quoted" & $x$', "plain"]
VOID = {"meta", "img", "br"}
URL = re.compile(r"\b(?:src|href|action|data|poster|srcset|background|cite|formaction|xlink:href)$")


class Page(HTMLParser):
    """The page as a browser reads it: balanced, its tables, pictures and texts, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.images: list[dict] = []
        self.addresses: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.said: list[str] = []
        self._cell = False
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.addresses += [value for name, value in attrs if URL.match(name)]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True
        if tag == "br" and self._cell:
            self.tables[-1][-1][-1] += "\n"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, text):
        if self.open[-1:] != ["style"]:
            self.said.append(text)
        if self._cell:
            self.tables[-1][-1][-1] += text

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def row(self, name: str) -> list[str]:
        """The one row of that name among all tables."""
        (found,) = [row[1:] for table in self.tables for row in table if row and row[0] == name]
        return found


def network():
    net = xconv.Sequential(
        [Conv2D(4, 3, activation="relu", name="<b>conv</b>"), Flatten(), Dense(3, activation="softmax", name="last")],
        input_shape=(8, 8, 1),
        backend="numpy",
        name="small <i>net</i>",
    )
    net.compile(xconv.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    return net


def keep(folder: Path):
    """What `report.keep` writes of a network that was trained; the folder, and the model."""
    rng = np.random.default_rng(0)
    x, t = rng.random((60, 8, 8, 1)), rng.integers(0, 3, 60)
    net = network()
    before = plots.first_filters(net)
    net.fit(x, t, 20, 3, validation_data=(x[:30], t[:30]), verbose=0)
    notes = {"data": {"name": "noise & more", "test_images": 30}, "command": "xconv train --model 'a b' < c"}
    undrawn = report.keep(folder, net, test=(x[:30], t[:30]), classes=NAMES, before=before, notes=notes)
    assert undrawn == {}
    return folder, net


def page(folder: Path) -> Page:
    report.write(folder)
    return Page((folder / "report.html").read_text("utf-8"))
