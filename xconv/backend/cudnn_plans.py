"""cuDNN's plans of one convolution: forward, gradient of the input, gradient of the weights.

A plan is built for exact shapes, from the engines that cuDNN's heuristics propose, in their order. Nothing is timed,
and engines that add up in a changing order are left out: the same shapes on the same device give the same bits.

Layouts, after what plans there are: strict float32 keeps our NCHW, for which every operation has engines without tensor
cores. "tf32" and "bf16" take NHWC, the tensor cores' own layout; given NCHW, cuDNN transposes in its workspace, x twice
(forward and for the weights' gradient) and dy twice. bfloat16 in gives bfloat16 out: with float32 out there is no plan.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xconv.shapes import Pads, Pair, window_output

X, W, Y, B = 1, 2, 3, 4  # which tensor is which: x or dx, w or dw, y or dy, the bias
OPERATIONS = ("fprop", "dgrad", "wgrad")
ALIGNMENT = 16  # bytes that cuDNN counts on in every pointer

_STRICT = (  # numerical notes of engines that are not plain float32
    "TENSOR_CORE", "DOWN_CONVERT_INPUTS", "REDUCED_PRECISION_REDUCTION", "FFT",
    "WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13",
)  # fmt: skip


class Conv(NamedTuple):
    """A convolution that plans are for; its groups are told by the channels, C of x and C/groups of w."""

    x: tuple[int, ...]  # N, C, H, W
    w: tuple[int, ...]  # F, C/groups, KH, KW
    stride: Pair
    pads: Pads
    dilation: Pair
    precision: str

    @property
    def y(self) -> tuple[int, ...]:
        """N, F, OH, OW."""
        kernel = self.w[2], self.w[3]
        return (
            self.x[0],
            self.w[0],
            *window_output((self.x[2], self.x[3]), kernel, self.stride, self.pads, self.dilation),
        )

    @property
    def nhwc(self) -> bool:
        """Whether its plans read and write NHWC."""
        return self.precision != "float32"


class Plan(NamedTuple):
    """What cuDNN runs, and the bytes of memory that it needs for a while."""

    graph: Any
    workspace: int


def build(cudnn: Any, operation: str, conv: Conv, limit: int, **where: Any) -> Plan | None:
    """The plan, with at most `limit` bytes of workspace; None where cuDNN has none for this convolution.

    `where` tells for which device: handle=..., or device_property=... with sm_version=..., which needs no device.
    """
    note = cudnn.numerical_note
    graph = _graph(cudnn, operation, conv, where)
    try:
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        left_out = ("NONDETERMINISTIC", *(_STRICT if conv.precision == "float32" else ()))
        graph.deselect_numeric_notes([getattr(note, name) for name in left_out])
        graph.deselect_workspace_greater_than(limit)
        graph.check_support()
        graph.build_plans()
        return Plan(graph, int(graph.get_workspace_size()))
    except cudnn.cudnnGraphNotSupportedError:
        return None
    except RuntimeError as error:  # refused before any engine was asked; what else fails is no matter of support
        if "NOT_SUPPORTED" in str(error):
            return None
        raise


def _graph(cudnn: Any, operation: str, conv: Conv, where: dict[str, Any]) -> Any:
    """The operation over its tensors. Strict float32 adds the bias, too; else that comes with the change of layout."""
    dtype, wide = cudnn.data_type, cudnn.data_type.FLOAT
    kind = dtype.BFLOAT16 if conv.precision == "bf16" else wide
    graph = cudnn.pygraph(io_data_type=kind, intermediate_data_type=wide, compute_data_type=wide, **where)

    def tensor(shape: tuple[int, ...], uid: int) -> Any:
        return graph.tensor(dim=list(shape), stride=strides(shape, conv.nhwc), data_type=kind, uid=uid)

    window = {
        "pre_padding": [conv.pads[0], conv.pads[2]],
        "post_padding": [conv.pads[1], conv.pads[3]],
        "stride": list(conv.stride),
        "dilation": list(conv.dilation),
        "compute_data_type": wide,
    }
    if operation == "fprop":
        out, shape, uid = graph.conv_fprop(image=tensor(conv.x, X), weight=tensor(conv.w, W), **window), conv.y, Y
        if not conv.nhwc:
            out = graph.bias(input=out, bias=tensor((1, conv.w[0], 1, 1), B))
    elif operation == "dgrad":
        out, shape, uid = graph.conv_dgrad(loss=tensor(conv.y, Y), filter=tensor(conv.w, W), **window), conv.x, X
    else:
        out, shape, uid = graph.conv_wgrad(image=tensor(conv.x, X), loss=tensor(conv.y, Y), **window), conv.w, W
    out.set_output(True)
    out.set_dim(list(shape))
    out.set_stride(strides(shape, conv.nhwc))
    out.set_data_type(kind)
    out.set_uid(uid)
    return graph


def strides(shape: tuple[int, ...], nhwc: bool) -> list[int]:
    """In entries, of an array whose axes are N, C, H, W and which lies as NHWC or as NCHW."""
    _, c, h, w = shape
    return [c * h * w, 1, c * w, c] if nhwc else [c * h * w, h * w, w, 1]
