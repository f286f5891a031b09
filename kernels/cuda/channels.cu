// What a convolution on maps [N,C,P] (NCHW, P = H*W) needs beside its product: the gradient of its bias, and its ReLU.

#include "common.cuh"

constexpr int THREADS = 256;  // of channel_sums

// x[N,C,P] -> out[S,C], whose sum over S is each channel's; where `open` [N,C,P] is given, x counts only where
// open > 0. A block sums the images of one part s of S for one channel, along a tree of its own; gridDim = (C, S).
template <typename T>
__device__ void channel_sums(const T* __restrict__ x, const T* __restrict__ open, T* __restrict__ out, i64 n, i64 p)
{
    __shared__ T partial[THREADS];
    const i64 channels = gridDim.x, channel = blockIdx.x;
    const i64 start = n * blockIdx.y / gridDim.y, end = n * (blockIdx.y + 1) / gridDim.y;
    const int me = threadIdx.x;

    T sum = 0;
    for (i64 i = me; i < (end - start) * p; i += THREADS) {
        const i64 at = ((start + i / p) * channels + channel) * p + i % p;
        sum += open ? x[at] * T(open[at] > T(0)) : x[at];
    }
    partial[me] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) partial[me] += partial[me + half];
    }
    if (me == 0) out[static_cast<i64>(blockIdx.y) * channels + channel] = partial[0];
}

// y = max(y, 0), NaN kept, in place.
template <typename T>
__device__ void relu_in_place(T* y, i64 size)
{
    for (i64 i = first(); i < size; i += step()) {
        if (y[i] < T(0)) y[i] = T(0);
    }
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void channel_sums_##suffix(const T* x, const T* open, T* out, i64 n, i64 p) \
    { \
        channel_sums<T>(x, open, out, n, p); \
    } \
    extern "C" __global__ void relu_in_place_##suffix(T* y, i64 size) { relu_in_place<T>(y, size); }

KERNELS(float, f32)
KERNELS(double, f64)
