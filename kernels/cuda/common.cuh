// What the files of kernels share. cuda.source() puts this text where a file includes it.

using i64 = long long;  // products of sizes pass 2^31
using u64 = unsigned long long;

// A grid-stride loop: this thread takes entry first(), and every step()-th after it.
__device__ inline i64 first() { return static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline i64 step() { return static_cast<i64>(gridDim.x) * blockDim.x; }

__device__ inline i64 least(i64 a, i64 b) { return a < b ? a : b; }

// Whether a kernel that writes in place is to leave all as it is: see Backend.when. Without a flag it never is.
__device__ inline bool stopped(const u64* going) { return going != nullptr && *going == 0; }

// NVRTC has no INFINITY.
template <typename T> __device__ T minus_infinity();
template <> __device__ inline float minus_infinity() { return __int_as_float(static_cast<int>(0xff800000u)); }
template <> __device__ inline double minus_infinity()
{
    return __longlong_as_double(static_cast<long long>(0xfff0000000000000ull));
}

// max(x, 0) that keeps NaN.
template <typename T>
__device__ inline T positive_part(T x)
{
    return x < T(0) ? T(0) : x;
}
