"""Random functional networks, made from a seed: each as plain data, from which xconv and PyTorch build it apart.

python -m tests.random_networks              # how often each kind of layer comes among the 200 of seed 0
python -m tests.random_networks 17 --seed 3  # network 17 of seed 3

`description` says what a network is and works shapes out anew, `author` makes them up, `in_xconv` and `in_torch` build
and run them. Only `in_xconv` imports xconv.
"""

from tests.random_networks.author import kinds, networks, random_network
from tests.random_networks.description import Network, Node, Output, Results

__all__ = ["Network", "Node", "Output", "Results", "kinds", "networks", "random_network"]
