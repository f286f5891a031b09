// Dropout whose mask is drawn where it is used, and so never lies in memory.
//
// Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): ten rounds turn a key of two
// words and a counter of four into four random words. Entry i of the mask takes the 32-bit half i % 2, the low half
// first, of word i / 2, as xconv.streams.mask_words does on the host: the same bits on every backend.

#include "common.cuh"

constexpr int ENTRIES = 8;  // of one block of four words

struct Words {
    u64 v[4];
};

__device__ inline Words philox(Words counter, u64 key0, u64 key1)
{
    constexpr u64 M0 = 0xD2E7470EE14C6C93, M1 = 0xCA5A826395121157;  // the paper's multipliers
    constexpr u64 W0 = 0x9E3779B97F4A7C15, W1 = 0xBB67AE8584CAA73B;  // and what its keys grow by
    u64* c = counter.v;
    for (int round = 0; round < 10; ++round) {
        const u64 high0 = __umul64hi(M0, c[0]), low0 = M0 * c[0];
        const u64 high1 = __umul64hi(M1, c[2]), low1 = M1 * c[2];
        c[0] = high1 ^ c[1] ^ key0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ key1;
        c[3] = low0;
        key0 += W0;
        key1 += W1;
    }
    return counter;
}

// y = x * scale where the half is at least `threshold`, else 0. The key is (seed, purpose), the counter
// (block + 1, 0, node, steps[0]): NumPy counts up before it draws. Seeds from 2^63 on come as negative numbers.
template <typename T>
__device__ void dropout(const T* __restrict__ x, T* __restrict__ y, const u64* __restrict__ steps, i64 seed,
                        i64 purpose, i64 node, i64 threshold, double scale, i64 size)
{
    const T factor = static_cast<T>(scale);
    for (i64 block = first(); block * ENTRIES < size; block += step()) {
        const Words drawn = philox({{static_cast<u64>(block) + 1, 0, static_cast<u64>(node), steps[0]}},
                                   static_cast<u64>(seed), static_cast<u64>(purpose));
        for (int k = 0; k < ENTRIES; ++k) {
            const i64 i = block * ENTRIES + k;
            const i64 half = static_cast<unsigned>(drawn.v[k / 2] >> (k % 2 * 32));
            if (i < size) y[i] = half >= threshold ? x[i] * factor : T(0);
        }
    }
}

#define KERNELS(T, suffix) \
    extern "C" __global__ void dropout_##suffix(const T* x, T* y, const u64* steps, i64 seed, i64 purpose, i64 node, \
                                                i64 threshold, double scale, i64 size) \
    { \
        dropout<T>(x, y, steps, seed, purpose, node, threshold, scale, size); \
    }

KERNELS(float, f32)
KERNELS(double, f64)
