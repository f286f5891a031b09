"""Prints networks, or how often each kind of layer comes."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tests.random_networks import kinds, networks, random_network


def main() -> None:
    parser = argparse.ArgumentParser(description="Print random networks, or count their kinds of layers.")
    parser.add_argument("numbers", nargs="*", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    if not args.numbers:
        for kind, times in kinds(networks(args.count, args.seed)).most_common():
            print(f"{times:4d}  {kind}")
    for number in args.numbers:
        network = asdict(random_network(args.seed, number))
        print(*(f"{key}: {value}" for key, value in network.items() if key not in ("nodes", "outputs")), sep="\n")
        for at, node in enumerate(network["nodes"], len(network["inputs"])):
            print(f"{at:4d}  {node['layer']}{node['sources']} -> {node['shape']}  {node['arguments']}")
        print(*network["outputs"], sep="\n")


if __name__ == "__main__":
    main()
