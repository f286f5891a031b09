// Between [N,C,P] (NCHW, P = H*W), as networks here keep their maps, and [N,P,C] (NHWC), which tensor cores read; and
// between float32 and bfloat16, in the same pass. Bias and ReLU ride along on the way back, ReLU's mask on the way in.
//
// These passes cost bandwidth: a convolution's x, y, dy and dx go through memory once more each. A network planned in
// NHWC throughout would spare all four, and in bfloat16 throughout halve what batch normalisation and pooling move.

#include "common.cuh"

using bf16 = unsigned short;  // the upper half of a float32's bits

constexpr int TILE = 32, ROWS = 8;  // a block is TILE x ROWS threads and moves TILE x TILE entries at a time

// To the nearest, ties to even; NaN stays NaN.
__device__ inline bf16 to_bf16(float x)
{
    const unsigned bits = static_cast<unsigned>(__float_as_int(x));
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16>(bits >> 16 | 0x40u);
    return static_cast<bf16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

__device__ inline void store(float* out, i64 at, float x) { out[at] = x; }
__device__ inline void store(bf16* out, i64 at, float x) { out[at] = to_bf16(x); }
__device__ inline float load(const float* in, i64 at) { return in[at]; }
__device__ inline float load(const bf16* in, i64 at) { return __int_as_float(static_cast<int>(in[at]) << 16); }

// x[N,C,P] -> out[N,P,C]; where `open` [N,C,P] is given, x counts only where open > 0.
template <typename T>
__device__ void maps_to_nhwc(const float* __restrict__ x, const float* __restrict__ open, T* __restrict__ out, i64 n,
                             i64 c, i64 p)
{
    __shared__ float tile[TILE][TILE + 1];  // one more, so that a column lies in different banks
    const i64 across = (p + TILE - 1) / TILE, down = (c + TILE - 1) / TILE;
    for (i64 t = blockIdx.x; t < n * down * across; t += gridDim.x) {
        const i64 place = t % across * TILE, channel = t / across % down * TILE, image = t / (across * down);
        for (int row = threadIdx.y; row < TILE; row += ROWS) {
            if (channel + row < c && place + threadIdx.x < p) {
                const i64 at = (image * c + channel + row) * p + place + threadIdx.x;
                tile[row][threadIdx.x] = open ? x[at] * static_cast<float>(open[at] > 0.0f) : x[at];
            }
        }
        __syncthreads();
        for (int row = threadIdx.y; row < TILE; row += ROWS) {
            if (place + row < p && channel + threadIdx.x < c)
                store(out, (image * p + place + row) * c + channel + threadIdx.x, tile[threadIdx.x][row]);
        }
        __syncthreads();  // before the next tile is written over this one
    }
}

// x[N,P,C] -> out[N,C,P]; plus bias[C] where it is given, after a ReLU (that keeps NaN) where `relu` is not 0.
template <typename T>
__device__ void nhwc_to_maps(const T* __restrict__ x, const float* __restrict__ bias, float* __restrict__ out, i64 n,
                             i64 c, i64 p, i64 relu)
{
    __shared__ float tile[TILE][TILE + 1];
    const i64 across = (p + TILE - 1) / TILE, down = (c + TILE - 1) / TILE;
    for (i64 t = blockIdx.x; t < n * down * across; t += gridDim.x) {
        const i64 place = t % across * TILE, channel = t / across % down * TILE, image = t / (across * down);
        for (int row = threadIdx.y; row < TILE; row += ROWS) {
            if (place + row < p && channel + threadIdx.x < c)
                tile[row][threadIdx.x] = load(x, (image * p + place + row) * c + channel + threadIdx.x);
        }
        __syncthreads();
        for (int row = threadIdx.y; row < TILE; row += ROWS) {
            if (channel + row < c && place + threadIdx.x < p) {
                const float value = tile[threadIdx.x][row] + (bias ? bias[channel + row] : 0.0f);
                out[(image * c + channel + row) * p + place + threadIdx.x] = relu ? positive_part(value) : value;
            }
        }
        __syncthreads();
    }
}

// x -> y, entry by entry.
extern "C" __global__ void cast_bf16(const float* x, bf16* y, i64 size)
{
    for (i64 i = first(); i < size; i += step()) y[i] = to_bf16(x[i]);
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void maps_to_nhwc_##suffix(const float* x, const float* open, T* out, i64 n, i64 c, i64 p) \
    { \
        maps_to_nhwc<T>(x, open, out, n, c, p); \
    } \
    extern "C" __global__ void nhwc_to_maps_##suffix(const T* x, const float* bias, float* out, i64 n, i64 c, i64 p, \
                                                     i64 relu) \
    { \
        nhwc_to_maps<T>(x, bias, out, n, c, p, relu); \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
