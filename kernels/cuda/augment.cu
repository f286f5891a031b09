// Pictures moved about for augmentation: each by an affine map of its own in fixed point, then a box of it filled.
//
// The same bits as on every other backend: of bytes by integers alone, of floats by products and sums that are each
// rounded by themselves, which __dmul_rn and __dadd_rn see to: the compiler would join them.

#include "common.cuh"

constexpr i64 ONE = 1 << 16;  // a pixel

// The four neighbours, x0 and y0 the first ones' place; fx and fy, from 0 to ONE - 1, are how far beyond it.
__device__ inline unsigned char blend(unsigned char v00, unsigned char v01, unsigned char v10, unsigned char v11,
                                      i64 fx, i64 fy)
{
    const i64 above = v00 * (ONE - fx) + v01 * fx, below = v10 * (ONE - fx) + v11 * fx;
    return static_cast<unsigned char>((above * (ONE - fy) + below * fy + (1ll << 31)) >> 32);
}

__device__ inline double share(i64 along, i64 down) { return static_cast<double>(along * down) * 0x1p-32; }

template <typename T> __device__ T blend(T v00, T v01, T v10, T v11, i64 fx, i64 fy)
{
    double sum = __dadd_rn(__dmul_rn(v00, share(ONE - fx, ONE - fy)), __dmul_rn(v01, share(fx, ONE - fy)));
    sum = __dadd_rn(sum, __dmul_rn(v10, share(ONE - fx, fy)));
    return static_cast<T>(__dadd_rn(sum, __dmul_rn(v11, share(fx, fy))));
}

template <typename T> struct Plane {  // x[H,W,K] of one picture
    const T* x;
    T fill;
    i64 h, w, k, edge;

    __device__ T at(i64 row, i64 column) const
    {
        const bool inside = row >= 0 && row < h && column >= 0 && column < w;
        if (!inside && !edge) return fill;
        row = row < 0 ? 0 : least(row, h - 1);
        column = column < 0 ? 0 : least(column, w - 1);
        return x[(row * w + column) * k];
    }
};

// x[N,P,H,W,K] -> y; maps[N,10] and fill[P K] as Backend.warp_affine has them. Blocks are (W K, H), the grid
// (N, P, parts of H).
template <typename T>
__device__ void warp_affine(const T* __restrict__ x, const i64* __restrict__ maps, const T* __restrict__ fill, i64 edge,
                            T* __restrict__ y, i64 n, i64 planes, i64 h, i64 w, i64 k)
{
    for (i64 picture = blockIdx.x; picture < n; picture += gridDim.x) {
        const i64* m = maps + 10 * picture;
        const i64 ax = m[0], bx = m[1], tx = m[2], ay = m[3], by = m[4], ty = m[5];
        const i64 top = m[6], bottom = m[7], left = m[8], right = m[9];
        for (i64 p = blockIdx.y; p < planes; p += gridDim.y) {
            const i64 start = (picture * planes + p) * h * w * k;
            for (i64 i = static_cast<i64>(blockIdx.z) * blockDim.y + threadIdx.y; i < h;
                 i += static_cast<i64>(gridDim.z) * blockDim.y) {
                for (i64 at = threadIdx.x; at < w * k; at += blockDim.x) {
                    const i64 j = at / k, c = at - j * k;
                    const Plane<T> from{x + start + c, fill[p * k + c], h, w, k, edge};
                    T value = from.fill;
                    if (i < top || i >= bottom || j < left || j >= right) {
                        const i64 column = ax * j + bx * i + tx, row = ay * j + by * i + ty;
                        const i64 x0 = column >> 16, y0 = row >> 16, fx = column & (ONE - 1), fy = row & (ONE - 1);
                        value = from.at(y0, x0);
                        if (fx | fy) {
                            value = blend(value, from.at(y0, x0 + 1), from.at(y0 + 1, x0), from.at(y0 + 1, x0 + 1), fx,
                                          fy);
                        }
                    }
                    y[start + i * w * k + at] = value;
                }
            }
        }
    }
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void warp_affine_##suffix(const T* x, const i64* maps, const T* fill, i64 edge, T* y, i64 n, \
                                                    i64 planes, i64 h, i64 w, i64 k) \
    { \
        warp_affine<T>(x, maps, fill, edge, y, n, planes, h, w, k); \
    }

KERNELS(unsigned char, u8)
KERNELS(float, f32)
KERNELS(double, f64)
