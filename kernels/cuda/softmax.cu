// Softmax with cross-entropy, forward and backward in one pass over the logits.
//
//   loss_n     = log sum_k exp(z_nk - max z_n) - (z_n,label - max z_n)       (neither overflows nor takes log 0)
//   dlogits_nk = (softmax(z_n)_k - [k == label_n]) / N
//   loss       = sum_n loss_n / N

#include "common.cuh"

constexpr int MOST = 256;  // threads in a block, a power of two

struct Sum {
    template <typename T> __device__ T operator()(T a, T b) const { return a + b; }
};
struct Max {
    template <typename T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};

// `value` of every thread of the block, combined along a fixed tree; all threads get the result.
template <typename T, typename Op>
__device__ T combined(T value, T* shared, Op op)
{
    const int me = threadIdx.x;
    __syncthreads();  // the last result may still be being read
    shared[me] = value;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (me < half) shared[me] = op(shared[me], shared[me + half]);
    }
    __syncthreads();
    return shared[0];
}

// logits[N,K], labels[N] -> loss[N] of each example, dlogits[N,K]. A block takes one example at a time.
// A label outside 0..K-1 matches no class: its loss is 0 and nothing is read out of bounds.
template <typename T>
__device__ void softmax_cross_entropy(const T* __restrict__ logits, const i64* __restrict__ labels,
                                      T* __restrict__ loss, T* __restrict__ dlogits, i64 n, i64 k)
{
    __shared__ T shared[MOST];
    const T mean = static_cast<T>(1.0 / static_cast<double>(n));
    for (i64 row = blockIdx.x; row < n; row += gridDim.x) {
        const T* z = logits + row * k;
        const i64 label = labels[row];

        T top = minus_infinity<T>();
        for (i64 i = threadIdx.x; i < k; i += blockDim.x) top = z[i] > top ? z[i] : top;
        top = combined(top, shared, Max());

        T total = 0;
        for (i64 i = threadIdx.x; i < k; i += blockDim.x) total += exp(z[i] - top);
        total = combined(total, shared, Sum());

        for (i64 i = threadIdx.x; i < k; i += blockDim.x) {
            dlogits[row * k + i] = (exp(z[i] - top) / total - T(i == label)) * mean;
        }
        if (threadIdx.x == 0) {
            const bool known = label >= 0 && label < k;
            loss[row] = known ? log(total) - (z[label] - top) : T(0);
        }
    }
}

// loss[N] -> mean[1], by one block.
template <typename T>
__device__ void mean_loss(const T* __restrict__ loss, T* __restrict__ mean, i64 n)
{
    __shared__ double shared[MOST];
    double sum = 0;
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) sum += loss[i];
    sum = combined(sum, shared, Sum());
    if (threadIdx.x == 0) mean[0] = static_cast<T>(sum / static_cast<double>(n));
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void softmax_cross_entropy_##suffix(const T* logits, const i64* labels, T* loss, \
                                                              T* dlogits, i64 n, i64 k) \
    { \
        softmax_cross_entropy<T>(logits, labels, loss, dlogits, n, k); \
    } \
    extern "C" __global__ void mean_loss_##suffix(const T* loss, T* mean, i64 n) \
    { \
        mean_loss<T>(loss, mean, n); \
    }

KERNELS(float, f32)
KERNELS(double, f64)
