// One step of each optimizer: one fused pass over the flat buffer of all parameters, in place.
//
// p parameters, g gradients, the rest state, all [size]. hyper = [learning rate, steps done with this one] is read
// on the device, so that a recorded step sees both change. Settings that never change come as doubles. Where `going` is
// given and points to 0, nothing is written: see Backend.when.

#include "common.cuh"

// Whether a step of this loss is done: state = [going, latched, undone], as Backend.guard has it. One thread.
template <typename T>
__device__ void guard(u64* __restrict__ state, const T* __restrict__ loss)
{
    const bool finite = loss[0] - loss[0] == T(0);  // inf - inf is NaN
    state[0] = finite && (state[0] || !state[1]);
    state[2] += 1 - state[0];
}

// loss[1] becomes NaN where it is finite and an entry of g[size] is not. All who write to it write NaN.
template <typename T, typename L>
__device__ void spoil(const T* __restrict__ g, volatile L* loss, i64 size)
{
    for (i64 i = first(); i < size; i += step()) {
        const T none = g[i] - g[i];  // inf - inf is NaN
        if (none == T(0)) continue;
        const L was = *loss;
        if (was - was == L(0)) *loss = static_cast<L>(none);
    }
}

// p -= lr g
template <typename T>
__device__ void sgd(T* __restrict__ p, const T* __restrict__ g, const double* __restrict__ hyper, i64 size)
{
    const T rate = static_cast<T>(hyper[0]);
    for (i64 i = first(); i < size; i += step()) p[i] -= rate * g[i];
}

// v = m v - lr g;  p += v  (Polyak 1964), or with `nesterov` p += m v - lr g  (Sutskever et al. 2013)
template <typename T>
__device__ void momentum(T* __restrict__ p, const T* __restrict__ g, T* __restrict__ v,
                         const double* __restrict__ hyper, double m, i64 nesterov, i64 size)
{
    const T rate = static_cast<T>(hyper[0]), keep = static_cast<T>(m);
    for (i64 i = first(); i < size; i += step()) {
        const T pull = rate * g[i];
        v[i] = keep * v[i] - pull;
        p[i] += nesterov ? keep * v[i] - pull : v[i];
    }
}

// h += g^2;  p -= lr g / (sqrt(h) + eps)  (Duchi et al. 2011)
template <typename T>
__device__ void adagrad(T* __restrict__ p, const T* __restrict__ g, T* __restrict__ h,
                        const double* __restrict__ hyper, double eps, i64 size)
{
    const T rate = static_cast<T>(hyper[0]), guard = static_cast<T>(eps);
    for (i64 i = first(); i < size; i += step()) {
        h[i] += g[i] * g[i];
        p[i] -= rate * g[i] / (sqrt(h[i]) + guard);
    }
}

// h = rho h + (1 - rho) g^2;  p -= lr g / (sqrt(h) + eps)  (Tieleman and Hinton 2012)
template <typename T>
__device__ void rmsprop(T* __restrict__ p, const T* __restrict__ g, T* __restrict__ h,
                        const double* __restrict__ hyper, double rho, double eps, i64 size)
{
    const T rate = static_cast<T>(hyper[0]), guard = static_cast<T>(eps);
    const T keep = static_cast<T>(rho), take = static_cast<T>(1.0 - rho);
    for (i64 i = first(); i < size; i += step()) {
        h[i] = keep * h[i] + take * (g[i] * g[i]);
        p[i] -= rate * g[i] / (sqrt(h[i]) + guard);
    }
}

// m += (1-b1)(g-m);  v += (1-b2)(g^2-v);  p -= lr sqrt(1-b2^t)/(1-b1^t) m / (sqrt(v) + eps)
// (Kingma and Ba 2015, in the order of the end of their section 2); before it, with weight decay wd,
// p -= lr wd p  (Loshchilov and Hutter 2019)
template <typename T>
__device__ void adam(T* __restrict__ p, const T* __restrict__ g, T* __restrict__ m, T* __restrict__ v,
                     const double* __restrict__ hyper, double beta1, double beta2, double eps, double wd, i64 size)
{
    __shared__ T shared;
    if (threadIdx.x == 0) {  // two powers in double cost more than a thread's share of the rest
        const double t = hyper[1];
        shared = static_cast<T>(hyper[0] * sqrt(1.0 - pow(beta2, t)) / (1.0 - pow(beta1, t)));
    }
    __syncthreads();
    const T rate = shared;
    const T take1 = static_cast<T>(1.0 - beta1), take2 = static_cast<T>(1.0 - beta2);
    const T guard = static_cast<T>(eps), decay = static_cast<T>(hyper[0] * wd);
    for (i64 i = first(); i < size; i += step()) {
        if (decay != 0) p[i] -= decay * p[i];
        m[i] += take1 * (g[i] - m[i]);
        v[i] += take2 * (g[i] * g[i] - v[i]);
        p[i] -= rate * m[i] / (sqrt(v[i]) + guard);
    }
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void guard_##suffix(u64* state, const T* loss) { guard<T>(state, loss); } \
    extern "C" __global__ void spoil_##suffix##_f32(const T* g, float* loss, i64 size) { spoil<T>(g, loss, size); } \
    extern "C" __global__ void spoil_##suffix##_f64(const T* g, double* loss, i64 size) { spoil<T>(g, loss, size); } \
    extern "C" __global__ void sgd_##suffix(T* p, const T* g, const double* hyper, i64 size, const u64* going) \
    { \
        if (!stopped(going)) sgd<T>(p, g, hyper, size); \
    } \
    extern "C" __global__ void momentum_##suffix(T* p, const T* g, T* v, const double* hyper, double m, \
                                                 i64 nesterov, i64 size, const u64* going) \
    { \
        if (!stopped(going)) momentum<T>(p, g, v, hyper, m, nesterov, size); \
    } \
    extern "C" __global__ void adagrad_##suffix(T* p, const T* g, T* h, const double* hyper, double eps, \
                                                i64 size, const u64* going) \
    { \
        if (!stopped(going)) adagrad<T>(p, g, h, hyper, eps, size); \
    } \
    extern "C" __global__ void rmsprop_##suffix(T* p, const T* g, T* h, const double* hyper, double rho, \
                                                double eps, i64 size, const u64* going) \
    { \
        if (!stopped(going)) rmsprop<T>(p, g, h, hyper, rho, eps, size); \
    } \
    extern "C" __global__ void adam_##suffix(T* p, const T* g, T* m, T* v, const double* hyper, double beta1, \
                                             double beta2, double eps, double wd, i64 size, const u64* going) \
    { \
        if (!stopped(going)) adam<T>(p, g, m, v, hyper, beta1, beta2, eps, wd, size); \
    }

KERNELS(float, f32)
KERNELS(double, f64)
