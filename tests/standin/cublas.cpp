// A cuBLAS for the stand-in: the functions xconv calls, with cuBLAS's column-major meaning and its checks, on host
// memory. Each product is announced to an observer, which may keep it for a recorded step instead of running it.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

struct Handle {
    void* stream = nullptr;
    bool workspace = false;
};

enum Kind { FLOAT, TF32, BF16, DOUBLE };  // of the inputs

struct Product {
    Kind kind;
    int ta, tb, m, n, k;
    double alpha, beta;
    const void *a, *b;
    int lda, ldb;
    void* c;
    int ldc;
};

static std::mutex one_at_a_time;  // xconv calls from several threads
static std::deque<Product> products;
static int (*observer)(std::size_t, void*) = nullptr;  // 1: captured, not to be run now

// One entry of an input, as tensor cores read it: TF32 keeps 10 bits of float32's mantissa, bfloat16 is its upper half.
template <Kind K> static auto entry(const void* from, std::size_t at)
{
    if constexpr (K == DOUBLE) return static_cast<const double*>(from)[at];
    else if constexpr (K == FLOAT) return static_cast<const float*>(from)[at];
    else {
        std::uint32_t bits;
        if constexpr (K == BF16)
            bits = std::uint32_t(static_cast<const std::uint16_t*>(from)[at]) << 16;
        else
            std::memcpy(&bits, static_cast<const float*>(from) + at, 4);
        if constexpr (K == TF32) bits &= 0xffffe000u;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
}

// C[m,n] = alpha op(A) op(B) + beta C; C is not read where beta is 0, so that it may hold NaN.
template <Kind K, typename T = float> static void multiply(const Product& p)
{
    T* c = static_cast<T*>(p.c);
    std::vector<T> column(p.m);
    for (int j = 0; j < p.n; ++j) {
        column.assign(p.m, T(0));
        for (int l = 0; l < p.k; ++l) {
            const T right = entry<K>(p.b, p.tb ? j + std::size_t(l) * p.ldb : l + std::size_t(j) * p.ldb);
            if (p.ta)
                for (int i = 0; i < p.m; ++i) column[i] += entry<K>(p.a, l + std::size_t(i) * p.lda) * right;
            else
                for (int i = 0; i < p.m; ++i) column[i] += entry<K>(p.a, i + std::size_t(l) * p.lda) * right;
        }
        for (int i = 0; i < p.m; ++i) {
            T& out = c[i + std::size_t(j) * p.ldc];
            out = T(p.alpha) * column[i] + (p.beta == 0 ? T(0) : T(p.beta) * out);
        }
    }
}

static void run(const Product& p)
{
    if (p.kind == DOUBLE) multiply<DOUBLE, double>(p);
    else if (p.kind == FLOAT) multiply<FLOAT>(p);
    else if (p.kind == TF32) multiply<TF32>(p);
    else multiply<BF16>(p);
}

static int gemm(const Handle* h, Product p)
{
    constexpr int NOT_INITIALIZED = 1, INVALID_VALUE = 7, MAPPING_ERROR = 11;
    const auto least = [](int x) { return x > 1 ? x : 1; };
    if (!h) return NOT_INITIALIZED;
    if (!h->workspace) return MAPPING_ERROR;  // cuBLAS would take its own; xconv promises to give one
    if (p.m < 0 || p.n < 0 || p.k < 0 || (p.ta | p.tb) & ~1) return INVALID_VALUE;
    if (p.lda < least(p.ta ? p.k : p.m) || p.ldb < least(p.tb ? p.n : p.k) || p.ldc < least(p.m)) return INVALID_VALUE;
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    products.push_back(p);
    if (!observer || !observer(products.size() - 1, h->stream)) run(p);
    return 0;
}

extern "C" {
int cublasCreate_v2(Handle** h) { *h = new Handle; return 0; }
int cublasSetStream_v2(Handle* h, void* stream) { h->stream = stream; h->workspace = false; return 0; }
int cublasSetWorkspace_v2(Handle* h, void* memory, std::size_t size)
{
    h->workspace = memory && size >= (32u << 20) && reinterpret_cast<std::size_t>(memory) % 256 == 0;
    return 0;
}
int cublasGetVersion_v2(Handle*, int* version) { *version = 130200; return 0; }
int cublasSgemm_v2(Handle* h, int ta, int tb, int m, int n, int k, const float* alpha, const float* a, int lda,
                   const float* b, int ldb, const float* beta, float* c, int ldc)
{
    return gemm(h, {FLOAT, ta, tb, m, n, k, *alpha, *beta, a, b, lda, ldb, c, ldc});
}
int cublasDgemm_v2(Handle* h, int ta, int tb, int m, int n, int k, const double* alpha, const double* a, int lda,
                   const double* b, int ldb, const double* beta, double* c, int ldc)
{
    return gemm(h, {DOUBLE, ta, tb, m, n, k, *alpha, *beta, a, b, lda, ldb, c, ldc});
}

// Of its many types, those that xconv asks for: float32 in TF32 (77), bfloat16 into float32 (68).
int cublasGemmEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int atype, int lda,
                 const void* b, int btype, int ldb, const void* beta, void* c, int ctype, int ldc, int compute, int algo)
{
    constexpr int NOT_SUPPORTED = 15, R_32F = 0, R_16BF = 14, COMPUTE_32F = 68, FAST_TF32 = 77;
    const bool tf32 = atype == R_32F && compute == FAST_TF32, narrow = atype == R_16BF && compute == COMPUTE_32F;
    if (btype != atype || ctype != R_32F || !(tf32 || narrow) || algo != -1) return NOT_SUPPORTED;
    const float *one = static_cast<const float*>(alpha), *old = static_cast<const float*>(beta);
    return gemm(h, {tf32 ? TF32 : BF16, ta, tb, m, n, k, *one, *old, a, b, lda, ldb, c, ldc});
}

void standin_observe(int (*f)(std::size_t, void*)) { observer = f; }
void standin_again(std::size_t i) { run(products[i]); }
}
