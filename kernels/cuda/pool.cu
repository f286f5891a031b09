// Max and average pooling, forward and backward. Each thread owns one output and gathers: sums repeat to the bit.
//
//   window of (oy, ox): h = oy*SY + ky - TOP, w = ox*SX + kx - LEFT      index in the window: ky*KW + kx
//
// The large map x (and dx) of image n and channel c starts at n*image + c*channel. For x[N,C,H,W] that is
// (C*H*W, H*W); for the [C, N*H*W] which a convolution's matrix product gives it is (H*W, N*H*W).

#include "common.cuh"

struct Pool {
    i64 n, c, h, w;       // the large map
    i64 oh, ow;           // the pooled map y[N,C,OH,OW]
    i64 kh, kw, sy, sx;   // kernel, stride
    i64 top, left;        // padding before
    i64 image, channel;   // strides of the large map
};

// The first of the outputs along one axis whose window holds `at` (counted from the padding's edge).
__device__ inline i64 first_window(i64 at, i64 kernel, i64 stride)
{
    return at < kernel ? 0 : (at - kernel) / stride + 1;
}

// x -> y[N,C,OH,OW] and argmax. The first maximum wins, the first NaN wins over everything, padding is -inf.
// With a bias, y = max over the window of relu(x + bias[c]).
template <typename T, typename A>
__device__ void max_pool(const T* __restrict__ x, const T* __restrict__ bias, T* __restrict__ y,
                         A* __restrict__ argmax, const Pool s)
{
    for (i64 i = first(); i < s.n * s.c * s.oh * s.ow; i += step()) {
        const i64 ox = i % s.ow, oy = i / s.ow % s.oh;
        const i64 c = i / (s.ow * s.oh) % s.c, n = i / (s.ow * s.oh * s.c);
        const T* map = x + n * s.image + c * s.channel;
        T best = minus_infinity<T>();
        i64 where = -1;  // the first inside the image wins over nothing, even if it is -inf itself
        for (i64 ky = 0; ky < s.kh; ++ky) {
            const i64 h = oy * s.sy + ky - s.top;
            for (i64 kx = 0; kx < s.kw; ++kx) {
                const i64 w = ox * s.sx + kx - s.left;
                if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
                T value = map[h * s.w + w];
                if (bias) {
                    value += bias[c];
                    value = positive_part(value);
                }
                if (where < 0 || (!(value <= best) && best == best)) {  // a NaN is not <= best, and then best != best
                    best = value;
                    where = ky * s.kw + kx;
                }
            }
        }
        y[i] = best;
        argmax[i] = static_cast<A>(where);
    }
}

// dy[N,C,OH,OW], argmax -> dx: the sum of dy over the windows whose maximum this pixel was.
// With `y`, what max_pool gave under a ReLU, dy counts only where y > 0.
template <typename T, typename A>
__device__ void max_pool_backward(const T* __restrict__ dy, const T* __restrict__ y,
                                  const A* __restrict__ argmax, T* __restrict__ dx, const Pool s)
{
    for (i64 i = first(); i < s.n * s.c * s.h * s.w; i += step()) {
        const i64 w = i % s.w, h = i / s.w % s.h;
        const i64 c = i / (s.w * s.h) % s.c, n = i / (s.w * s.h * s.c);
        const i64 oy_end = least(s.oh - 1, (h + s.top) / s.sy), ox_end = least(s.ow - 1, (w + s.left) / s.sx);
        T sum = 0;
        for (i64 oy = first_window(h + s.top, s.kh, s.sy); oy <= oy_end; ++oy) {
            for (i64 ox = first_window(w + s.left, s.kw, s.sx); ox <= ox_end; ++ox) {
                const i64 me = (h + s.top - oy * s.sy) * s.kw + (w + s.left - ox * s.sx);
                const i64 o = ((n * s.c + c) * s.oh + oy) * s.ow + ox;
                if (static_cast<i64>(argmax[o]) == me) sum += y ? dy[o] * T(y[o] > T(0)) : dy[o];
            }
        }
        dx[n * s.image + c * s.channel + h * s.w + w] = sum;
    }
}

// x -> y[N,C,OH,OW]: the sum of the window over KH*KW; padding counts as zeros.
template <typename T>
__device__ void avg_pool(const T* __restrict__ x, T* __restrict__ y, const Pool s)
{
    const T share = static_cast<T>(1.0 / static_cast<double>(s.kh * s.kw));
    for (i64 i = first(); i < s.n * s.c * s.oh * s.ow; i += step()) {
        const i64 ox = i % s.ow, oy = i / s.ow % s.oh;
        const i64 c = i / (s.ow * s.oh) % s.c, n = i / (s.ow * s.oh * s.c);
        const T* map = x + n * s.image + c * s.channel;
        T sum = 0;
        for (i64 ky = 0; ky < s.kh; ++ky) {
            const i64 h = oy * s.sy + ky - s.top;
            if (h < 0 || h >= s.h) continue;
            for (i64 kx = 0; kx < s.kw; ++kx) {
                const i64 w = ox * s.sx + kx - s.left;
                if (w >= 0 && w < s.w) sum += map[h * s.w + w];
            }
        }
        y[i] = sum * share;
    }
}

// dy[N,C,OH,OW] -> dx: each pixel gets an equal share of every window it was in.
template <typename T>
__device__ void avg_pool_backward(const T* __restrict__ dy, T* __restrict__ dx, const Pool s)
{
    const T share = static_cast<T>(1.0 / static_cast<double>(s.kh * s.kw));
    for (i64 i = first(); i < s.n * s.c * s.h * s.w; i += step()) {
        const i64 w = i % s.w, h = i / s.w % s.h;
        const i64 c = i / (s.w * s.h) % s.c, n = i / (s.w * s.h * s.c);
        const i64 oy_end = least(s.oh - 1, (h + s.top) / s.sy), ox_end = least(s.ow - 1, (w + s.left) / s.sx);
        T sum = 0;
        for (i64 oy = first_window(h + s.top, s.kh, s.sy); oy <= oy_end; ++oy) {
            for (i64 ox = first_window(w + s.left, s.kw, s.sx); ox <= ox_end; ++ox) {
                sum += dy[((n * s.c + c) * s.oh + oy) * s.ow + ox] * share;
            }
        }
        dx[n * s.image + c * s.channel + h * s.w + w] = sum;
    }
}

#define MAX_KERNELS(T, A, suffix) \
    extern "C" __global__ void max_pool_##suffix(const T* x, const T* bias, T* y, A* argmax, Pool s) \
    { \
        max_pool<T, A>(x, bias, y, argmax, s); \
    } \
    extern "C" __global__ void max_pool_backward_##suffix(const T* dy, const T* y, const A* argmax, T* dx, \
                                                          Pool s) \
    { \
        max_pool_backward<T, A>(dy, y, argmax, dx, s); \
    }
#define AVG_KERNELS(T, suffix) \
    extern "C" __global__ void avg_pool_##suffix(const T* x, T* y, Pool s) { avg_pool<T>(x, y, s); } \
    extern "C" __global__ void avg_pool_backward_##suffix(const T* dy, T* dx, Pool s) \
    { \
        avg_pool_backward<T>(dy, dx, s); \
    }

MAX_KERNELS(float, unsigned char, f32_u8)
MAX_KERNELS(float, int, f32_i32)
MAX_KERNELS(double, unsigned char, f64_u8)
MAX_KERNELS(double, int, f64_i32)
AVG_KERNELS(float, f32)
AVG_KERNELS(double, f64)
