// im2col and col2im: a convolution as one matrix product (Chellapilla, Puri and Simard 2006).
//
//   m = (n*OH + oy)*OW + ox     a place of the window, M = N*OH*OW of them
//   k = (c*KH + ky)*KW + kx     a tap of the window,   K = C*KH*KW of them
//   col(m, k) = x[n, c, oy*SY + ky*DY - TOP, ox*SX + kx*DX - LEFT], or 0 where that lies in the padding
//
// col(m, k) is stored at col[m*by_place + k*by_tap]. The pair (K, 1) gives the book's matrix [M, K]; (1, M) gives
// its transpose [K, M], in which neighbouring threads touch neighbouring addresses: the convolution uses that.

#include "common.cuh"

struct Window {
    i64 n, c, h, w;          // input
    i64 oh, ow;              // output
    i64 kh, kw, sy, sx;      // kernel, stride
    i64 top, left, dy, dx;   // padding before, dilation
    i64 by_place, by_tap;    // strides of col
};

// x[N,C,H,W] -> col. A thread copies one channel of one window.
template <typename T>
__device__ void im2col(const T* __restrict__ x, T* __restrict__ col, const Window s)
{
    const i64 places = s.n * s.oh * s.ow;
    for (i64 i = first(); i < s.c * places; i += step()) {
        const i64 m = i % places, c = i / places;
        const i64 ox = m % s.ow, oy = m / s.ow % s.oh, n = m / (s.ow * s.oh);
        const T* map = x + (n * s.c + c) * s.h * s.w;
        T* out = col + m * s.by_place + c * s.kh * s.kw * s.by_tap;
        for (i64 ky = 0; ky < s.kh; ++ky) {
            const i64 h = oy * s.sy + ky * s.dy - s.top;
            for (i64 kx = 0; kx < s.kw; ++kx, out += s.by_tap) {
                const i64 w = ox * s.sx + kx * s.dx - s.left;
                const bool inside = h >= 0 && h < s.h && w >= 0 && w < s.w;
                *out = inside ? map[h * s.w + w] : T(0);
            }
        }
    }
}

// Division takes far longer than anything else here, and most strides are 1.
__device__ inline i64 over(i64 at, i64 stride) { return stride == 1 ? at : at / stride; }

// col -> x[N,C,H,W], overlaps summed. A thread gathers every tap that saw its pixel, in a fixed order: no atomics.
template <typename T>
__device__ void col2im(const T* __restrict__ col, T* __restrict__ x, const Window s)
{
    for (i64 i = first(); i < s.n * s.c * s.h * s.w; i += step()) {
        const i64 w = i % s.w, h = i / s.w % s.h, c = i / (s.w * s.h) % s.c, n = i / (s.w * s.h * s.c);
        T sum = 0;
        for (i64 ky = 0; ky < s.kh; ++ky) {
            const i64 y = h + s.top - ky * s.dy, oy = over(y, s.sy);  // the window with (h, w) under this tap: y = oy*SY
            if (y < 0 || oy * s.sy != y || oy >= s.oh) continue;
            for (i64 kx = 0; kx < s.kw; ++kx) {
                const i64 z = w + s.left - kx * s.dx, ox = over(z, s.sx);
                if (z < 0 || ox * s.sx != z || ox >= s.ow) continue;
                const i64 m = (n * s.oh + oy) * s.ow + ox;
                const i64 k = (c * s.kh + ky) * s.kw + kx;
                sum += col[m * s.by_place + k * s.by_tap];
            }
        }
        x[i] = sum;
    }
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void im2col_##suffix(const T* x, T* col, Window s) { im2col<T>(x, col, s); } \
    extern "C" __global__ void col2im_##suffix(const T* col, T* x, Window s) { col2im<T>(col, x, s); }

KERNELS(float, f32)
KERNELS(double, f64)
