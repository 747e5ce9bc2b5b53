// The emulated device, as kernels see it. Put in front of every kernel file when it is compiled as host C++ (g++ -include), it takes
// the place of the CUDA language and of kernels/ptx.cuh. Each CUDA thread is a fiber; what a warp does together (shuffles, matrix
// loads and products) is done once, by the lane that comes last.
//
// Strict where a real device is forgiving: memory is poisoned until it is written, the target of an asynchronous copy until it is
// waited for, a warp whose lanes meet at different instructions is an error, and so is a write behind a shared array.
// Not shown: timing, bank conflicts, weak memory order, the rounding of tensor cores and of ex2.approx.
#pragma once
#define PTX_CUH

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))

struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace emulated {

struct Warp;
struct Copy { void *to; const void *from; bool valid; unsigned group; };

enum class State : uint8_t { Ready, AtBarrier, InWarp, Done };

struct Lane {
    uint3 thread;
    unsigned index; // in the warp
    Warp *warp;
    State state;
    void *stack;   // saved stack pointer
    void *operand; // what this lane brings to, and takes from, the warp's common instruction
    Copy copies[96];
    unsigned copy_count, copy_group;
};

struct Shape { uint3 grid, block; };

extern thread_local Lane *here;
extern thread_local uint3 block_index;
extern thread_local const Shape *shape;

// Waits for the 32 lanes of the warp, which must all be at `site`; then the last one calls `act` on their operands.
void together(const void *site, void *operand, void (*act)(Lane *const *lanes));
void barrier();
void *shared(const void *key, size_t bytes);
[[noreturn]] void fail(const char *format, ...);

// Unpacks the driver's array of argument addresses by the kernel's own signature.
struct Kernel {
    const char *name;
    void (*call)(void **arguments);
    const size_t *sizes;
    size_t count;
    Kernel *next;
    Kernel(const char *name, void (*call)(void **), const size_t *sizes, size_t count);
};
template <class... A> struct Signature {
    static constexpr size_t sizes[sizeof...(A) + 1] = {sizeof(A)..., 0};
    template <void (*f)(A...), size_t... i> static void spread(void **p, std::index_sequence<i...>) {
        f(*static_cast<std::remove_const_t<A> *>(p[i])...);
    }
    template <void (*f)(A...)> static void call(void **p) { spread<f>(p, std::index_sequence_for<A...>{}); }
    static constexpr size_t count = sizeof...(A);
};
template <class... A> Signature<A...> signature(void (*)(A...));

float half_to_float(uint16_t);

} // namespace emulated

#define threadIdx (emulated::here->thread)
#define blockIdx (emulated::block_index)
#define blockDim (emulated::shape->block)
#define gridDim (emulated::shape->grid)

// ---- what kernels/ptx.cuh offers

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short f16;

#define KERNEL(name, threads) extern "C" void name
#define KERNEL_TWICE KERNEL
#define EXPORT(name)                                                                                                                   \
    static emulated::Kernel exported_##name(#name, &decltype(emulated::signature(&name))::template call<&name>,                        \
                                            decltype(emulated::signature(&name))::sizes, decltype(emulated::signature(&name))::count);
#define SHARED(type, name, count)                                                                                                      \
    static const char key_of_##name = 0;                                                                                               \
    type *name = static_cast<type *>(emulated::shared(&key_of_##name, sizeof(type) * (count)))
#define DEVICE static inline

#define FULL 0xffffffffu
#define INFINITY_F __builtin_inff()
#define NAN_F __builtin_nanf("")

DEVICE f16 to_f16(float x) {
    _Float16 h = static_cast<_Float16>(x);
    f16 bits;
    memcpy(&bits, &h, 2);
    return bits;
}
DEVICE float from_f16(f16 h) { return emulated::half_to_float(h); }
DEVICE unsigned pack_f16(float low, float high) { return to_f16(low) | static_cast<unsigned>(to_f16(high)) << 16; }
DEVICE unsigned add_f16x2(unsigned a, unsigned b) { return pack_f16(from_f16(a) + from_f16(b), from_f16(a >> 16) + from_f16(b >> 16)); }
DEVICE unsigned multiply_f16x2(unsigned a, unsigned b) { return pack_f16(from_f16(a) * from_f16(b), from_f16(a >> 16) * from_f16(b >> 16)); }
DEVICE unsigned pick_bytes(unsigned a, unsigned b, unsigned which) {
    unsigned d = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned byte = which >> i * 4 & 7;
        d |= ((byte < 4 ? a >> byte * 8 : b >> (byte - 4) * 8) & 255) << i * 8;
    }
    return d;
}
// Numbers below the normal ones become zero, as ex2.approx.ftz has it.
DEVICE float exp2_fast(float x) {
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}
DEVICE int dot4(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += static_cast<i8>(a >> i) * static_cast<i8>(b >> i);
    return c;
}
unsigned warp_highest(unsigned x);
DEVICE uint4 load_once(const uint4 *p) { return *p; }
void prefetch(const void *p);
void copy_async(void *to, const void *from, bool valid);
void copy_commit();
void copy_wait_for(unsigned pending);
template <int pending> void copy_wait() { copy_wait_for(pending); }
typedef const char *Shared;
DEVICE Shared shared_at(const void *p) { return (const char *)p; }
void load_matrix(unsigned (&r)[4], const void *row);
void load_matrix_transposed(unsigned (&r)[4], const void *row);
void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

// ---- the CUDA language

DEVICE void __syncthreads() { emulated::barrier(); }
void __syncwarp();
void __threadfence();
unsigned atomicInc(unsigned *at, unsigned most);

namespace emulated {
struct Shuffle { unsigned long long value, result; int lane; };
void shuffle(Lane *const *lanes);
extern const char shuffle_to, shuffle_xor;
template <class T> T exchange(const void *site, unsigned mask, T value, int lane) {
    static_assert(sizeof(T) <= 8, "a shuffle moves up to 8 bytes");
    if (mask != FULL) fail("a shuffle of part of a warp (mask %08x)", mask);
    Shuffle s = {0, 0, lane};
    memcpy(&s.value, &value, sizeof value);
    together(site, &s, shuffle);
    memcpy(&value, &s.result, sizeof value);
    return value;
}
} // namespace emulated
template <class T> T __shfl_sync(unsigned mask, T v, int lane) { return emulated::exchange(&emulated::shuffle_to, mask, v, lane); }
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits) {
    return emulated::exchange(&emulated::shuffle_xor, mask, v, static_cast<int>(emulated::here->index) ^ bits);
}

DEVICE float __fdividef(float a, float b) { return a / b; }
DEVICE int __float_as_int(float x) { int i; memcpy(&i, &x, 4); return i; }
DEVICE float __int_as_float(int i) { float x; memcpy(&x, &i, 4); return x; }
DEVICE int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
using std::max;
using std::min;
