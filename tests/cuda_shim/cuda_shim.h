// CUDA C++ on the CPU, for tests: enough of the language for this project's kernels, compiled by g++.
//
// A block's threads run one after another. Where the source uses __syncthreads (SHIM_FIBERS is defined then) each
// thread is a fiber with a stack of its own, and all of them stop at each barrier before any goes on. A barrier that
// only some threads reach is an error, as it is undefined on a device.
//
// In which order: 0 first to last, 1 last to first, else shuffled anew after each barrier, by that seed. A device keeps
// no order, so that a missing barrier shows in one of them. Blocks run first to last, or for odd numbers last to first.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef SHIM_FIBERS
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block runs at a time

using std::exp, std::fma, std::log, std::pow, std::sqrt;

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline float __int_as_float(int bits) { float x; std::memcpy(&x, &bits, sizeof x); return x; }
inline int __float_as_int(float x) { int bits; std::memcpy(&bits, &x, sizeof bits); return bits; }
inline double __longlong_as_double(long long bits) { double x; std::memcpy(&x, &bits, sizeof x); return x; }

inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }

namespace shim {

// numpy's code for a parameter: "*f4" for const float*, "=f4" for float*, "i8", "f8", and "V112" for a struct.
template <typename A> std::string code()
{
    if constexpr (std::is_pointer_v<A>) {
        using P = std::remove_pointer_t<A>;
        return (std::is_const_v<P> ? "*" : "=") + code<std::remove_const_t<P>>();
    } else {
        const char* kind = std::is_floating_point_v<A> ? "f" : std::is_class_v<A> ? "V" : std::is_signed_v<A> ? "i" : "u";
        return kind + std::to_string(sizeof(A));
    }
}

template <typename... A> const char* signature(void (*)(A...))
{
    static std::string text;
    if (text.empty()) ((text += code<A>() + " "), ...);
    return text.c_str();
}

static unsigned order;       // see above
static std::uint64_t drawn;  // a linear congruential generator (Knuth's MMIX): the same shuffles in every run
static std::vector<size_t> queue;

// The threads of a block, 0..count-1, in the order in which they run now.
inline const std::vector<size_t>& queued(size_t count)
{
    if (queue.size() != count) queue.resize(count);
    for (size_t i = 0; i < count; ++i) queue[i] = order == 1 ? count - 1 - i : i;
    for (size_t i = count; order > 1 && i > 1; --i) {
        drawn = drawn * 6364136223846793005u + 1442695040888963407u;
        std::swap(queue[i - 1], queue[(drawn >> 33) % i]);
    }
    return queue;
}

inline dim3 thread_of(size_t i)
{
    const unsigned at = static_cast<unsigned>(i);
    return {at % blockDim.x, at / blockDim.x % blockDim.y, at / blockDim.x / blockDim.y};
}

#ifdef SHIM_FIBERS
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(65536);
    dim3 thread;
    bool done;
};
static unsigned long long barriers;  // that threads have come to
static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static Fiber* running;
static void (*body)(void*);
static void* argument;

inline void start()
{
    body(argument);
    running->done = true;
}

// 0 when every thread ended, 1 when some ended while others waited at a barrier.
template <typename F> int block(F run)
{
    body = [](void* f) { (*static_cast<F*>(f))(); };
    argument = &run;
    const size_t count = size_t(blockDim.x) * blockDim.y * blockDim.z;
    if (fibers.size() < count) fibers.resize(count);
    for (size_t i = 0; i < count; ++i) {
        Fiber& fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler;
        fiber.thread = thread_of(i);
        fiber.done = false;
        makecontext(&fiber.context, start, 0);
    }
    for (;;) {
        size_t ended = 0;
        for (const size_t i : queued(count)) {
            running = &fibers[i];
            threadIdx = running->thread;
            swapcontext(&scheduler, &running->context);
            ended += running->done;
        }
        if (ended == count) return 0;
        if (ended) return 1;
    }
}
#else
template <typename F> int block(F run)
{
    for (const size_t i : queued(size_t(blockDim.x) * blockDim.y * blockDim.z)) {
        threadIdx = thread_of(i);
        run();
    }
    return 0;
}
#endif

template <typename... A, size_t... I>
int launch(void (*kernel)(A...), const unsigned* dims, void** args, std::index_sequence<I...>)
{
    gridDim = {dims[0], dims[1], dims[2]};
    blockDim = {dims[3], dims[4], dims[5]};
    drawn = order = dims[6];
    const std::uint64_t blocks = std::uint64_t(dims[0]) * dims[1] * dims[2];
    for (std::uint64_t i = 0; i < blocks; ++i) {
        const std::uint64_t at = order % 2 ? blocks - 1 - i : i;
        blockIdx = {unsigned(at % dims[0]), unsigned(at / dims[0] % dims[1]), unsigned(at / dims[0] / dims[1])};
        if (block([&] { kernel(*static_cast<A*>(args[I])...); })) return 1;
    }
    return 0;
}

}  // namespace shim

#ifdef SHIM_FIBERS
inline void __syncthreads()
{
    ++shim::barriers;
    swapcontext(&shim::running->context, &shim::scheduler);
    threadIdx = shim::running->thread;
}
extern "C" unsigned long long shim_barriers() { return shim::barriers; }
#endif

template <typename... A> int shim_launch(void (*kernel)(A...), const unsigned* dims, void** args)
{
    return shim::launch(kernel, dims, args, std::index_sequence_for<A...>());
}
