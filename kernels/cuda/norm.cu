// Batch normalisation (Ioffe and Szegedy 2015) of x[N,C,P], P = H*W, over N and P, with ReLU in the same pass.
//
// A block is (entries of a plane, channels, images), all powers of two: threads side by side read side by side, with
// long planes along a plane, with short ones, down to P = 1 behind a Dense layer, across channels. The grid is
// (channels, parts of N, parts of P). Where a channel is cut into parts, one kernel sums each part and the next puts the
// parts together, in every block anew: that spares a third. Sums follow a fixed tree and repeat to the bit.

#include "common.cuh"

constexpr int THREADS = 256;  // the most in a block
constexpr int CHUNK = 4;      // loads under way at a time

// How many values, their mean and the sum of their squared distances from it. E[x^2] - mean^2 would cancel.
template <typename T>
struct Moments {
    T count, mean, squares;
};

// Chan, Golub and LeVeque 1979. Either may be empty.
template <typename T>
__device__ inline Moments<T> merged(const Moments<T>& a, const Moments<T>& b)
{
    const T count = a.count + b.count, share = count > T(0) ? b.count / count : T(0), apart = b.mean - a.mean;
    return {count, a.mean + apart * share, a.squares + b.squares + apart * apart * a.count * share};
}

// Sums of dy, where the ReLU was open, and of dy (x - mean).
template <typename T>
struct Gradients {
    T beta, gamma;
};

template <typename T>
__device__ inline Gradients<T> merged(const Gradients<T>& a, const Gradients<T>& b)
{
    return {a.beta + b.beta, a.gamma + b.gamma};
}

// `value` of all threads with the same channel, merged along a fixed tree; each of them gets the result. Once a kernel.
template <typename V>
__device__ V over_channel(const V& value, V* shared)
{
    const int row = blockDim.x, layer = row * blockDim.y, x = threadIdx.x, z = threadIdx.z;
    const int me = x + row * threadIdx.y + layer * z;
    shared[me] = value;
    for (int half = blockDim.z / 2; half > 0; half /= 2) {
        __syncthreads();
        if (z < half) shared[me] = merged(shared[me], shared[me + half * layer]);
    }
    for (int half = row / 2; half > 0; half /= 2) {
        __syncthreads();
        if (z == 0 && x < half) shared[me] = merged(shared[me], shared[me + half]);
    }
    __syncthreads();
    return shared[row * threadIdx.y];
}

__device__ inline i64 channel() { return static_cast<i64>(blockIdx.x) * blockDim.y + threadIdx.y; }

// This thread's entries of its block's part, as line(at, end, stride): at, at + stride, ... below end.
template <typename F>
__device__ inline void each_line(i64 n, i64 channels, i64 plane, F line)
{
    const i64 c = channel(), image = channels * plane;
    const i64 images = (n + gridDim.y - 1) / gridDim.y, entries = (plane + gridDim.z - 1) / gridDim.z;
    const i64 last = least(n, images * (blockIdx.y + 1)), end = least(plane, entries * (blockIdx.z + 1));
    const i64 i = images * blockIdx.y + threadIdx.z, p = entries * blockIdx.z + threadIdx.x;
    if (c >= channels || p >= end || i >= last) return;
    if (entries <= blockDim.x) {
        line(i * image + c * plane + p, last * image, blockDim.z * image);  // one entry of each image
    } else {
        for (i64 k = i; k < last; k += blockDim.z) {
            const i64 map = k * image + c * plane;
            line(map + p, map + end, static_cast<i64>(blockDim.x));
        }
    }
}

template <typename T>
__device__ Moments<T> moments(const T* __restrict__ x, i64 n, i64 channels, i64 plane)
{
    Moments<T> all = {0, 0, 0};
    each_line(n, channels, plane, [&](i64 at, i64 end, i64 stride) {
        for (; at < end; at += CHUNK * stride) {
            T value[CHUNK];
            Moments<T> some = {0, 0, 0};
#pragma unroll
            for (int k = 0; k < CHUNK; ++k) {
                const bool there = at + k * stride < end;
                value[k] = there ? x[at + k * stride] : T(0);
                some.count += T(there);
            }
#pragma unroll
            for (int k = 0; k < CHUNK; ++k) some.mean += value[k];
            some.mean /= some.count;
#pragma unroll
            for (int k = 0; k < CHUNK; ++k) {
                const T apart = T(k) < some.count ? value[k] - some.mean : T(0);
                some.squares += apart * apart;
            }
            all = merged(all, some);
        }
    });
    return all;
}

// partial[parts,C]: the moments of each part of each channel.
template <typename T>
__device__ void batch_norm_moments(const T* __restrict__ x, T* __restrict__ partial, i64 n, i64 channels, i64 plane)
{
    __shared__ Moments<T> shared[THREADS];
    const Moments<T> part = over_channel(moments(x, n, channels, plane), shared);
    const i64 c = channel(), place = static_cast<i64>(blockIdx.z) * gridDim.y + blockIdx.y;
    if (c < channels && threadIdx.x == 0 && threadIdx.z == 0) {
        T* out = partial + (place * channels + c) * 3;
        out[0] = part.count;
        out[1] = part.mean;
        out[2] = part.squares;
    }
}

// gamma (x - mean) / sqrt(var + eps) + beta by one rounding, the same on the way back, which finds again where the
// ReLU was open.
template <typename T>
__device__ inline T normalized(T x, T mean, T scale, T beta)
{
    return fma(x - mean, scale, beta);
}

// x[N,C,P] -> y, mean[C], inv_std[C] = 1 / sqrt(var + eps) and var[C]. Without `partial` (parts = 0) each channel lies
// in one block, which takes its moments itself.
template <typename T>
__device__ void batch_norm(const T* __restrict__ x, const T* __restrict__ partial, i64 parts,
                           const T* __restrict__ gamma, const T* __restrict__ beta, double eps, i64 relu,
                           T* __restrict__ y, T* __restrict__ mean, T* __restrict__ inv_std, T* __restrict__ var,
                           i64 n, i64 channels, i64 plane)
{
    __shared__ Moments<T> shared[THREADS];
    const i64 c = channel();
    Moments<T> all = {0, 0, 0};
    if (parts == 0) {
        all = moments(x, n, channels, plane);
    } else if (c < channels) {
        for (i64 s = threadIdx.x + blockDim.x * threadIdx.z; s < parts; s += blockDim.x * blockDim.z) {
            const T* part = partial + (s * channels + c) * 3;
            all = merged(all, {part[0], part[1], part[2]});
        }
    }
    all = over_channel(all, shared);
    if (c >= channels) return;
    const T variance = all.squares / (all.count > T(0) ? all.count : T(1));
    const T inverse = T(1) / sqrt(variance + static_cast<T>(eps));
    if (blockIdx.y == 0 && blockIdx.z == 0 && threadIdx.x == 0 && threadIdx.z == 0) {
        mean[c] = all.mean;
        inv_std[c] = inverse;
        var[c] = variance;
    }
    const T scale = gamma[c] * inverse, low = beta[c];
    each_line(n, channels, plane, [&](i64 at, i64 end, i64 stride) {
#pragma unroll 4
        for (; at < end; at += stride) {
            const T value = normalized(x[at], all.mean, scale, low);
            y[at] = relu ? positive_part(value) : value;
        }
    });
}

template <typename T>
__device__ inline T opened(T dy, T x, T mean, T scale, T beta, i64 relu)
{
    return relu ? dy * T(normalized(x, mean, scale, beta) > T(0)) : dy;
}

template <typename T>
__device__ Gradients<T> gradients(const T* __restrict__ dy, const T* __restrict__ x, T mean, T scale, T beta,
                                  i64 relu, i64 n, i64 channels, i64 plane)
{
    Gradients<T> sums = {0, 0};
    each_line(n, channels, plane, [&](i64 at, i64 end, i64 stride) {
#pragma unroll 4
        for (; at < end; at += stride) {
            const T g = opened(dy[at], x[at], mean, scale, beta, relu);
            sums.beta += g;
            sums.gamma += g * (x[at] - mean);
        }
    });
    return sums;
}

// partial[parts,C]: the gradients of each part of each channel.
template <typename T>
__device__ void batch_norm_gradients(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ gamma,
                                     const T* __restrict__ beta, i64 relu, const T* __restrict__ mean,
                                     const T* __restrict__ inv_std, T* __restrict__ partial, i64 n, i64 channels,
                                     i64 plane)
{
    __shared__ Gradients<T> shared[THREADS];
    const i64 c = channel(), place = static_cast<i64>(blockIdx.z) * gridDim.y + blockIdx.y;
    Gradients<T> part = {0, 0};
    if (c < channels) part = gradients(dy, x, mean[c], gamma[c] * inv_std[c], beta[c], relu, n, channels, plane);
    part = over_channel(part, shared);
    if (c < channels && threadIdx.x == 0 && threadIdx.z == 0) {
        T* out = partial + (place * channels + c) * 2;
        out[0] = part.beta;
        out[1] = part.gamma;
    }
}

// dy[N,C,P] -> dgamma[C], dbeta[C] and, where it is given, dx. With xhat = (x - mean) inv_std and m = N P:
// dbeta = sum dy, dgamma = sum dy xhat, dx = gamma inv_std (dy - dbeta / m - xhat dgamma / m).
template <typename T>
__device__ void batch_norm_backward(const T* __restrict__ dy, const T* __restrict__ x, const T* __restrict__ partial,
                                    i64 parts, const T* __restrict__ gamma, const T* __restrict__ beta, i64 relu,
                                    const T* __restrict__ mean, const T* __restrict__ inv_std, T* __restrict__ dx,
                                    T* __restrict__ dgamma, T* __restrict__ dbeta, i64 want_dx, i64 n, i64 channels,
                                    i64 plane)
{
    __shared__ Gradients<T> shared[THREADS];
    const i64 c = channel();
    const bool mine = c < channels;
    const T middle = mine ? mean[c] : T(0), inverse = mine ? inv_std[c] : T(0), low = mine ? beta[c] : T(0);
    const T scale = mine ? gamma[c] * inverse : T(0);
    Gradients<T> sums = {0, 0};
    if (parts == 0) {
        sums = gradients(dy, x, middle, scale, low, relu, n, channels, plane);
    } else if (mine) {
        for (i64 s = threadIdx.x + blockDim.x * threadIdx.z; s < parts; s += blockDim.x * blockDim.z) {
            const T* part = partial + (s * channels + c) * 2;
            sums = merged(sums, {part[0], part[1]});
        }
    }
    sums = over_channel(sums, shared);
    if (!mine) return;
    if (blockIdx.y == 0 && blockIdx.z == 0 && threadIdx.x == 0 && threadIdx.z == 0) {
        dgamma[c] = sums.gamma * inverse;
        dbeta[c] = sums.beta;
    }
    if (!want_dx) return;
    const T each = T(1) / static_cast<T>(n * plane);
    const T constant = sums.beta * each, slope = sums.gamma * inverse * inverse * each;
    each_line(n, channels, plane, [&](i64 at, i64 end, i64 stride) {
#pragma unroll 4
        for (; at < end; at += stride) {
            const T g = opened(dy[at], x[at], middle, scale, low, relu);
            dx[at] = scale * (g - constant - (x[at] - middle) * slope);
        }
    });
}

// x[N,C,P] -> gamma (x - mean) / sqrt(var + eps) + beta with given statistics.
template <typename T>
__device__ void batch_norm_inference(const T* __restrict__ x, const T* __restrict__ gamma, const T* __restrict__ beta,
                                     const T* __restrict__ mean, const T* __restrict__ var, double eps, i64 relu,
                                     T* __restrict__ y, i64 n, i64 channels, i64 plane)
{
    const i64 c = channel();
    if (c >= channels) return;
    const T middle = mean[c], low = beta[c], scale = gamma[c] / sqrt(var[c] + static_cast<T>(eps));
    each_line(n, channels, plane, [&](i64 at, i64 end, i64 stride) {
#pragma unroll 4
        for (; at < end; at += stride) {
            const T value = normalized(x[at], middle, scale, low);
            y[at] = relu ? positive_part(value) : value;
        }
    });
}

// mean[C] = momentum mean + (1 - momentum) of_batch and var[C] likewise, in place.
template <typename T>
__device__ void moving_statistics(T* __restrict__ mean, T* __restrict__ var, const T* __restrict__ batch_mean,
                                  const T* __restrict__ batch_var, double momentum, i64 channels)
{
    const T keep = static_cast<T>(momentum), take = static_cast<T>(1.0 - momentum);
    for (i64 c = first(); c < channels; c += step()) {
        mean[c] = keep * mean[c] + take * batch_mean[c];
        var[c] = keep * var[c] + take * batch_var[c];
    }
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void batch_norm_moments_##suffix(const T* x, T* partial, i64 n, i64 channels, i64 plane) \
    { \
        batch_norm_moments<T>(x, partial, n, channels, plane); \
    } \
    extern "C" __global__ void batch_norm_##suffix(const T* x, const T* partial, i64 parts, const T* gamma, \
                                                   const T* beta, double eps, i64 relu, T* y, T* mean, T* inv_std, \
                                                   T* var, i64 n, i64 channels, i64 plane) \
    { \
        batch_norm<T>(x, partial, parts, gamma, beta, eps, relu, y, mean, inv_std, var, n, channels, plane); \
    } \
    extern "C" __global__ void batch_norm_gradients_##suffix(const T* dy, const T* x, const T* gamma, const T* beta, \
                                                             i64 relu, const T* mean, const T* inv_std, T* partial, \
                                                             i64 n, i64 channels, i64 plane) \
    { \
        batch_norm_gradients<T>(dy, x, gamma, beta, relu, mean, inv_std, partial, n, channels, plane); \
    } \
    extern "C" __global__ void batch_norm_backward_##suffix( \
        const T* dy, const T* x, const T* partial, i64 parts, const T* gamma, const T* beta, i64 relu, const T* mean, \
        const T* inv_std, T* dx, T* dgamma, T* dbeta, i64 want_dx, i64 n, i64 channels, i64 plane) \
    { \
        batch_norm_backward<T>(dy, x, partial, parts, gamma, beta, relu, mean, inv_std, dx, dgamma, dbeta, want_dx, \
                               n, channels, plane); \
    } \
    extern "C" __global__ void batch_norm_inference_##suffix(const T* x, const T* gamma, const T* beta, \
                                                             const T* mean, const T* var, double eps, i64 relu, \
                                                             T* y, i64 n, i64 channels, i64 plane) \
    { \
        batch_norm_inference<T>(x, gamma, beta, mean, var, eps, relu, y, n, channels, plane); \
    } \
    extern "C" __global__ void moving_statistics_##suffix(T* mean, T* var, const T* batch_mean, const T* batch_var, \
                                                          double momentum, i64 channels, const u64* going) \
    { \
        if (!stopped(going)) moving_statistics<T>(mean, var, batch_mean, batch_var, momentum, channels); \
    }

KERNELS(float, f32)
KERNELS(double, f64)
