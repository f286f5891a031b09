// Sums along one axis of a matrix, for the gradients of biases. A sum is always taken along the same tree,
// whatever else runs on the device: results repeat to the bit.

#include "common.cuh"

constexpr int THREADS = 256;        // of row_sums
constexpr int COLUMNS = 32;         // of column_sums: a block is COLUMNS x lanes, a power of two
constexpr int MOST_LANES = 32;

// x[R,L] -> out[R,S]: each row is cut into S equal parts, and a block of THREADS sums one; gridDim = (R, S).
template <typename T>
__device__ void row_sums(const T* __restrict__ x, T* __restrict__ out, i64 length)
{
    __shared__ T partial[THREADS];
    const i64 part = (length + gridDim.y - 1) / gridDim.y;
    const i64 start = part * blockIdx.y, end = start + part < length ? start + part : length;
    const T* row = x + blockIdx.x * length;
    const int me = threadIdx.x;

    T sum = 0;
#pragma unroll 4  // loads under way at a time; sums keep their order
    for (i64 i = start + me; i < end; i += THREADS) sum += row[i];
    partial[me] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) partial[me] += partial[me + half];
    }
    if (me == 0) out[static_cast<i64>(blockIdx.x) * gridDim.y + blockIdx.y] = partial[0];
}

// x[N,O] -> out[O]. A block sums COLUMNS columns; its rows of threads, the lanes, share out the rows of x.
template <typename T>
__device__ void column_sums(const T* __restrict__ x, T* __restrict__ out, i64 n, i64 o)
{
    __shared__ T partial[MOST_LANES][COLUMNS];
    const int column = threadIdx.x, lane = threadIdx.y, lanes = blockDim.y;
    const i64 at = static_cast<i64>(blockIdx.x) * COLUMNS + column;

    T sum = 0;
    if (at < o) {
#pragma unroll 4
        for (i64 row = lane; row < n; row += lanes) sum += x[row * o + at];
    }
    partial[lane][column] = sum;
    for (int half = lanes / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half) partial[lane][column] += partial[lane + half][column];
    }
    if (lane == 0 && at < o) out[at] = partial[0][column];
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void row_sums_##suffix(const T* x, T* out, i64 length) \
    { \
        row_sums<T>(x, out, length); \
    } \
    extern "C" __global__ void column_sums_##suffix(const T* x, T* out, i64 n, i64 o) \
    { \
        column_sums<T>(x, out, n, o); \
    }

KERNELS(float, f32)
KERNELS(double, f64)
