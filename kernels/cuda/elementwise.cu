// Bias, ReLU, and the change of order that a convolution needs around its matrix product.
//
// The product W[F,K] col[K, N*P] (P = OH*OW) lies as [F,N,P]; the network's maps are [N,F,P]. Only whole planes
// of P move, so reads and writes both run along memory, and the bias and the ReLU ride along for nothing.

#include "common.cuh"

// product[F,N,P], bias[F] -> y[N,F,P] = product + bias, after a ReLU where `relu` is not 0.
template <typename T>
__device__ void product_to_maps(const T* __restrict__ product, const T* __restrict__ bias, T* __restrict__ y,
                                i64 n, i64 f, i64 p, i64 relu)
{
    for (i64 i = first(); i < n * f * p; i += step()) {
        const i64 at = i % p, filter = i / p % f, image = i / (p * f);
        const T value = product[(filter * n + image) * p + at] + bias[filter];
        y[i] = relu ? positive_part(value) : value;
    }
}

// dy[N,F,P] -> out[F,N,P]; where `y` is given, dy counts only where y > 0.
template <typename T>
__device__ void maps_to_product(const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ out,
                                i64 n, i64 f, i64 p)
{
    for (i64 i = first(); i < n * f * p; i += step()) {
        const i64 at = i % p, image = i / p % n, filter = i / (p * n);
        const i64 from = (image * f + filter) * p + at;
        out[i] = y ? dy[from] * T(y[from] > T(0)) : dy[from];
    }
}

// y[N,O] += bias[O], in place, and then through a ReLU where `relu` is not 0.
template <typename T>
__device__ void add_bias(T* __restrict__ y, const T* __restrict__ bias, i64 n, i64 o, i64 relu)
{
    for (i64 i = first(); i < n * o; i += step()) {
        const T value = y[i] + bias[i % o];
        y[i] = relu ? positive_part(value) : value;
    }
}

// y = max(x, 0).
template <typename T>
__device__ void relu(const T* __restrict__ x, T* __restrict__ y, i64 size)
{
    for (i64 i = first(); i < size; i += step()) y[i] = positive_part(x[i]);
}

// dx = dy where y > 0, else 0; `y` is what relu gave.
template <typename T>
__device__ void relu_backward(const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx, i64 size)
{
    for (i64 i = first(); i < size; i += step()) dx[i] = dy[i] * T(y[i] > T(0));
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void product_to_maps_##suffix(const T* product, const T* bias, T* y, i64 n, i64 f, \
                                                        i64 p, i64 relu) \
    { \
        product_to_maps<T>(product, bias, y, n, f, p, relu); \
    } \
    extern "C" __global__ void maps_to_product_##suffix(const T* dy, const T* y, T* out, i64 n, i64 f, \
                                                        i64 p) \
    { \
        maps_to_product<T>(dy, y, out, n, f, p); \
    } \
    extern "C" __global__ void add_bias_##suffix(T* y, const T* bias, i64 n, i64 o, i64 relu) \
    { \
        add_bias<T>(y, bias, n, o, relu); \
    } \
    extern "C" __global__ void relu_##suffix(const T* x, T* y, i64 size) { relu<T>(x, y, size); } \
    extern "C" __global__ void relu_backward_##suffix(const T* dy, const T* y, T* dx, i64 size) \
    { \
        relu_backward<T>(dy, y, dx, size); \
    }

KERNELS(float, f32)
KERNELS(double, f64)
