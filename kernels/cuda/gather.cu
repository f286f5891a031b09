// A batch out of a data set that lies on the device: examples in the order of the epoch's permutation, normalised.
//
//   y[i, c, p] = (data[order[first + i], c, p] - shift[c]) * scale[c]
//
// computed in double and rounded once, so that bytes scaled by 1/255 have the very bits of x / 255.

#include "common.cuh"

template <typename T> __device__ T missing();  // an example that is not there: NaN, which a loss shows, or no class
template <> __device__ inline float missing() { return __int_as_float(0x7fc00000); }
template <> __device__ inline double missing() { return __longlong_as_double(0x7ff8000000000000ll); }
template <> __device__ inline i64 missing() { return -1; }

// data[N,C,P], order[L] -> y[count,C,P] from place `first`, or where `at` is given from place at[0]. Without `shift`
// and `scale` entries are only converted. Blocks are (P, examples), the grid (examples, C, parts of P).
template <typename S, typename T>
__device__ void gather(const S* __restrict__ data, const i64* __restrict__ order, const i64* __restrict__ at,
                       i64 first, const double* __restrict__ shift, const double* __restrict__ scale,
                       T* __restrict__ y, i64 n, i64 length, i64 count, i64 channels, i64 plane)
{
    const i64 from = at ? at[0] : first, across = static_cast<i64>(gridDim.z) * blockDim.x;
    const i64 start = static_cast<i64>(blockIdx.z) * blockDim.x + threadIdx.x;
    for (i64 i = static_cast<i64>(blockIdx.x) * blockDim.y + threadIdx.y; i < count;
         i += static_cast<i64>(gridDim.x) * blockDim.y) {
        const i64 place = from + i;
        const i64 row = place >= 0 && place < length ? order[place] : -1;
        for (i64 c = blockIdx.y; c < channels; c += gridDim.y) {
            T* out = y + (i * channels + c) * plane;
            if (row < 0 || row >= n) {
                for (i64 p = start; p < plane; p += across) out[p] = missing<T>();
                continue;
            }
            const S* in = data + (row * channels + c) * plane;
            if (shift) {
                const double low = shift[c], factor = scale[c];
                for (i64 p = start; p < plane; p += across) {
                    out[p] = static_cast<T>((static_cast<double>(in[p]) - low) * factor);
                }
            } else {
                for (i64 p = start; p < plane; p += across) out[p] = static_cast<T>(in[p]);
            }
        }
    }
}

#define KERNELS(S, T, suffix) \
    extern "C" __global__ void gather_##suffix(const S* data, const i64* order, const i64* at, i64 first, \
                                               const double* shift, const double* scale, T* y, i64 n, i64 length, \
                                               i64 count, i64 channels, i64 plane) \
    { \
        gather<S, T>(data, order, at, first, shift, scale, y, n, length, count, channels, plane); \
    }

KERNELS(unsigned char, float, u8_f32)
KERNELS(unsigned char, double, u8_f64)
KERNELS(unsigned char, i64, u8_i64)
KERNELS(i64, float, i64_f32)
KERNELS(i64, double, i64_f64)
KERNELS(i64, i64, i64_i64)
KERNELS(float, float, f32_f32)
KERNELS(float, double, f32_f64)
KERNELS(double, float, f64_f32)
KERNELS(double, double, f64_f64)
