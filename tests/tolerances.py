"""How far results may be from the reference, over its largest entry: by kind of operation and dtype."""

TOLERANCES = {
    # Copies and comparisons are exact.
    ("copy", "float32"): 0.0,
    ("copy", "float64"): 0.0,
    # Sums of up to a few hundred products, in any order.
    ("sum", "float32"): 3e-6,
    ("sum", "float64"): 1e-14,
    # exp, log, sqrt and division a few times in a row.
    ("elementwise", "float32"): 2e-6,
    ("elementwise", "float64"): 1e-14,
    # Ten steps of SGD, per tensor over its largest weight.
    ("trajectory", "float32"): 1e-4,
    ("trajectory", "float64"): 1e-10,
    # Adaptive rules take nearly a sign as first step: by norms in float32.
    ("adaptive trajectory", "float32"): 1e-4,
    ("adaptive trajectory", "float64"): 1e-10,
    ("loss", "float32"): 1e-5,
    ("loss", "float64"): 1e-10,
    # Any one operation of CuPy's beside NumPy's: cuBLAS adds up in an order of its own.
    ("device", "float32"): 1e-5,
    ("device", "float64"): 1e-12,
}
