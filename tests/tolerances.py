"""How far results may be from the reference, over its largest entry: by kind of operation and dtype."""

TOLERANCES = {
    # Copies and comparisons are exact.
    ("copy", "float32"): 0.0,
    ("copy", "float64"): 0.0,
    # Sums of up to a few hundred products, in any order.
    ("sum", "float32"): 3e-6,
    ("sum", "float64"): 1e-14,
    # Winograd's F(4x4,3x3): its transforms multiply by up to 8 and add up what cancels later (Lavin and Gray 2016). The
    # largest of y, dx and dw over 1500 random shapes of 16 to 512 channels: 2.8e-5 and 5.0e-14, at 512 channels; up to
    # 64 channels 1.3e-5 and 3.6e-14. F(2x2), with factors of 1/2 alone, was within 1.5e-6 and 2.9e-15: "sum" holds.
    ("winograd", "float32"): 5e-5,
    ("winograd", "float64"): 1e-13,
    # F(4,3) and F(4,5) along rows: up to 32 channels within "sum" (2.5e-6, 4.3e-15), over 3100 random shapes of up to
    # 227 channels within 6.7e-6 and 1.0e-14.
    ("rows", "float32"): 1e-5,
    ("rows", "float64"): 2e-14,
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
