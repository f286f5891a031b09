"""Numba kernels. Each works on a range of images or entries, releases the GIL, and starts no thread of its own."""
