// What single PTX instructions do to a warp: included by ptx.cpp, which reads them and runs warps and blocks.
#pragma once
#include "block.h"
#include "ptx.h"
#include "runtime.h"
#include <cfenv>
#include <cstdarg>
#include <map>
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emulated {
namespace ptx {

[[noreturn]] void refuse(const char *format, ...) {
    char text[300];
    va_list rest;
    va_start(rest, format);
    vsnprintf(text, sizeof text, format, rest);
    va_end(rest);
    throw std::string(text);
}

// ---- a warp, and the block that it belongs to

struct Room; // of a block

struct Arriving { int lane; uint8_t *to; const uint8_t *from; bool valid; unsigned group; };

struct PtxWarp {
    Room *room;
    std::vector<uint64_t> registers; // 32 of each
    unsigned at[WARP], left = 0, held = 0, at_barrier = 0;
    uint64_t issued = 0;
    unsigned groups[WARP];
    std::vector<Arriving> arriving;
    std::vector<uint8_t> local;
};

struct Instruction;
typedef void (*Act)(PtxWarp &, const Instruction &, unsigned lanes);
enum class Flow : uint8_t { Next, Together, Branch, Barrier, Return };
enum class Space : uint8_t { Param, Global, Shared, Local, Generic };

struct Instruction {
    Act act = nullptr;
    Flow flow = Flow::Next;
    Space space = Space::Generic;
    int guard = -1;
    bool unless = false;
    uint8_t to_count = 0, from_count = 0;
    int to[5], from[13];
    int64_t offset[2] = {0, 0}; // of an address
    unsigned target = 0;
    int number = 0;
    std::string text;
};

} // namespace ptx
using namespace ptx;

struct Program {
    std::string name;
    std::vector<Instruction> code;
    std::vector<std::pair<size_t, size_t>> params; // place, bytes
    size_t param_bytes = 0, shared_bytes = 0, local_bytes = 0;
    int registers = 0;
    std::map<int, uint64_t> constants; // registers that never change
    int special[8];                    // %tid.x, %ctaid.{x,y,z}, %ntid.x, %nctaid.{x,y,z}
};

namespace ptx {

struct Room {
    const Program &program;
    std::vector<uint8_t> param, shared;
    Room(const Program &p) : program(p), param(p.param_bytes), shared(p.shared_bytes + FENCE) {}
};

uint64_t *row(PtxWarp &w, int r) { return &w.registers[size_t(r) * WARP]; }
template <class T> T value(uint64_t bits) {
    T v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
template <class T> uint64_t bits_of(T v) {
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    return bits;
}
template <class F> void each(unsigned lanes, F f) {
    for (int l = 0; l < WARP; ++l)
        if (lanes >> l & 1) f(l);
}

// ---- arithmetic

template <class T, class F> void one(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]);
    each(lanes, [&](int l) { d[l] = bits_of(F()(value<T>(a[l]))); });
}
template <class T, class F> void two(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]), *b = row(w, i.from[1]);
    each(lanes, [&](int l) { d[l] = bits_of(F()(value<T>(a[l]), value<T>(b[l]))); });
}
template <class T, class F> void three(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]), *b = row(w, i.from[1]), *c = row(w, i.from[2]);
    each(lanes, [&](int l) { d[l] = bits_of(F()(value<T>(a[l]), value<T>(b[l]), value<T>(c[l]))); });
}

template <class T> using Wrapping = std::make_unsigned_t<T>;
#define ARITHMETIC(Name, symbol)                                                                                                       \
    struct Name {                                                                                                                       \
        template <class T> T operator()(T a, T b) const {                                                                              \
            if constexpr (std::is_integral_v<T>) return Wrapping<T>(a) symbol Wrapping<T>(b);                                          \
            else return a symbol b;                                                                                                    \
        }                                                                                                                               \
    };
ARITHMETIC(Add, +)
ARITHMETIC(Sub, -)
ARITHMETIC(Mul, *)
struct Div {
    template <class T> T operator()(T a, T b) const {
        if constexpr (std::is_integral_v<T>)
            if (!b) refuse("a division by zero");
        return a / b;
    }
};
struct Rem { template <class T> T operator()(T a, T b) const { return b ? a % b : (refuse("a division by zero"), a); } };
struct And { template <class T> T operator()(T a, T b) const { return a & b; } };
struct Or { template <class T> T operator()(T a, T b) const { return a | b; } };
struct Xor { template <class T> T operator()(T a, T b) const { return a ^ b; } };
// Numbers win over what is none.
struct Max { template <class T> T operator()(T a, T b) const { return a != a ? b : b != b ? a : a > b ? a : b; } };
struct Min { template <class T> T operator()(T a, T b) const { return a != a ? b : b != b ? a : a < b ? a : b; } };
struct Neg {
    template <class T> T operator()(T a) const {
        if constexpr (std::is_integral_v<T>) return Wrapping<T>(0) - Wrapping<T>(a);
        else return -a;
    }
};
struct Abs { float operator()(float a) const { return std::fabs(a); } };
struct Not { template <class T> T operator()(T a) const { return ~a; } };
struct NotPredicate { uint8_t operator()(uint8_t a) const { return !a; } };
struct Copy1 { template <class T> T operator()(T a) const { return a; } };
struct Fma { float operator()(float a, float b, float c) const { return __builtin_fmaf(a, b, c); } };
struct FmaDown {
    __attribute__((noinline)) float operator()(float a, float b, float c) const {
        volatile float x = a, y = b, z = c;
        std::fesetround(FE_DOWNWARD);
        volatile float d = __builtin_fmaf(x, y, z);
        std::fesetround(FE_TONEAREST);
        return d;
    }
};
struct Mad { template <class T> T operator()(T a, T b, T c) const { return Wrapping<T>(a) * Wrapping<T>(b) + Wrapping<T>(c); } };
struct Reciprocal { float operator()(float a) const { return 1.0f / a; } };
struct Root { float operator()(float a) const { return std::sqrt(a); } };
float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
struct ReciprocalFast { float operator()(float a) const { return flushed(1.0f / flushed(a)); } };
struct Exp2 { float operator()(float a) const { return exp2f(a); } };
struct Exp2Fast { float operator()(float a) const { return flushed(exp2f(flushed(a))); } };
struct Saturated { float operator()(float a) const { return a > 0.0f ? std::min(a, 1.0f) : 0.0f; } };
struct Nearest { float operator()(float a) const { return std::nearbyint(a); } };
float half_low(uint32_t x) { return half_to_float(x & 0xffff); }
float half_high(uint32_t x) { return half_to_float(x >> 16); }
struct AddHalves { uint32_t operator()(uint32_t a, uint32_t b) const { return pack_f16(half_low(a) + half_low(b), half_high(a) + half_high(b)); } };
struct MulHalves { uint32_t operator()(uint32_t a, uint32_t b) const { return pack_f16(half_low(a) * half_low(b), half_high(a) * half_high(b)); } };
struct PickBytes {
    uint32_t operator()(uint32_t a, uint32_t b, uint32_t which) const {
        if (which & 0x8888) refuse("prmt with signs");
        return pick_bytes(a, b, which);
    }
};
struct Dot { int operator()(int a, int b, int c) const { return dot4(a, b, c); } };
struct ShiftLeft { template <class T> T operator()(T a, uint32_t by) const { return by < sizeof(T) * 8 ? a << by : 0; } };
struct ShiftRight {
    template <class T> T operator()(T a, uint32_t by) const { return a >> std::min<uint32_t>(by, sizeof(T) * 8 - 1) >> (by >= sizeof(T) * 8 && a > 0); }
};
template <class T, class F> void shift(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]), *b = row(w, i.from[1]);
    each(lanes, [&](int l) { d[l] = bits_of(F()(value<T>(a[l]), uint32_t(b[l]))); });
}
template <class T, class Wide> void multiply_wide(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]), *b = row(w, i.from[1]);
    each(lanes, [&](int l) { d[l] = bits_of(Wide(value<T>(a[l])) * Wide(value<T>(b[l]))); });
}
template <class T, class Wide> void multiply_high(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]), *b = row(w, i.from[1]);
    each(lanes, [&](int l) { d[l] = bits_of(static_cast<T>(Wide(value<T>(a[l])) * Wide(value<T>(b[l])) >> sizeof(T) * 8)); });
}
template <class T> void select(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]), *b = row(w, i.from[1]), *p = row(w, i.from[2]);
    each(lanes, [&](int l) { d[l] = bits_of(value<T>(p[l] & 1 ? a[l] : b[l])); });
}
template <class T> void insert_bits(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]), *b = row(w, i.from[1]), *at = row(w, i.from[2]), *count = row(w, i.from[3]);
    each(lanes, [&](int l) {
        const unsigned from = at[l] & 255, many = count[l] & 255;
        if (from + many > sizeof(T) * 8) refuse("bfi behind the last bit");
        const T mask = many == sizeof(T) * 8 ? ~T(0) : (T(1) << many) - 1;
        d[l] = bits_of(T((value<T>(b[l]) & ~(mask << from)) | (value<T>(a[l]) & mask) << from));
    });
}
template <class T, class F> void compare(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]), *b = row(w, i.from[1]);
    each(lanes, [&](int l) { d[l] = F()(value<T>(a[l]), value<T>(b[l])); });
}
#define COMPARISON(Name, expression) struct Name { template <class T> bool operator()(T a, T b) const { return expression; } };
COMPARISON(Less, a < b)
COMPARISON(LessOrEqual, a <= b)
COMPARISON(Greater, a > b)
COMPARISON(GreaterOrEqual, a >= b)
COMPARISON(Equal, a == b)
COMPARISON(Other, a < b || a > b)
// True where one is no number.
COMPARISON(LessOrNone, !(a >= b))
COMPARISON(LessEqualOrNone, !(a > b))
COMPARISON(GreaterOrNone, !(a <= b))
COMPARISON(GreaterEqualOrNone, !(a < b))
COMPARISON(OtherOrNone, a != b)
COMPARISON(None, a != a || b != b)

// Conversions: to T from S. Floats become the nearest whole number or the next towards zero, as far as T goes.
template <class T, class S> void convert(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]);
    each(lanes, [&](int l) { d[l] = bits_of(static_cast<T>(value<S>(a[l]))); });
}
template <bool nearest> void to_whole(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]);
    each(lanes, [&](int l) {
        const double x = value<float>(a[l]), y = nearest ? std::nearbyint(x) : std::trunc(x);
        d[l] = bits_of(x != x ? 0 : static_cast<int>(std::max(-2147483648.0, std::min(y, 2147483647.0))));
    });
}
void to_half(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]);
    each(lanes, [&](int l) { d[l] = to_f16(value<float>(a[l])); });
}
void from_half(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]);
    each(lanes, [&](int l) { d[l] = bits_of(half_to_float(uint16_t(a[l]))); });
}
void to_halves(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *high = row(w, i.from[0]), *low = row(w, i.from[1]);
    each(lanes, [&](int l) { d[l] = pack_f16(value<float>(low[l]), value<float>(high[l])); });
}
void split_wide(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *low = row(w, i.to[0]), *high = row(w, i.to[1]), *a = row(w, i.from[0]);
    each(lanes, [&](int l) {
        const uint64_t x = a[l];
        low[l] = uint32_t(x), high[l] = x >> 32;
    });
}
void join_wide(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *low = row(w, i.from[0]), *high = row(w, i.from[1]);
    each(lanes, [&](int l) { d[l] = uint32_t(low[l]) | high[l] << 32; });
}

// ---- memory

uint8_t *shared_place(Room &room, uint64_t offset, size_t bytes) {
    if (offset + bytes > room.program.shared_bytes) refuse("access to byte %llu of %zu of shared memory", (unsigned long long)offset, room.program.shared_bytes);
    if (offset % bytes) refuse("access to shared memory at %llu, not aligned to %zu bytes", (unsigned long long)offset, bytes);
    return room.shared.data() + offset;
}
template <class T> uint8_t *place(PtxWarp &w, const Instruction &i, uint64_t address, int lane, unsigned many) {
    const size_t bytes = sizeof(T) * many;
    address += i.offset[0];
    Room &room = *w.room;
    switch (i.space) {
    case Space::Param:
        if (address + bytes > room.param.size()) refuse("a read behind the parameters");
        return room.param.data() + address;
    case Space::Shared: return shared_place(room, address, bytes);
    case Space::Local:
        if (address + bytes > room.program.local_bytes) refuse("access behind local memory");
        return w.local.data() + lane * room.program.local_bytes + address;
    default: break;
    }
    if (address % bytes) refuse("access at %llx, not aligned to %zu bytes", (unsigned long long)address, bytes);
    return reinterpret_cast<uint8_t *>(address);
}
// T is what stands in memory; a smaller one is widened by its sign.
template <class T> void load(PtxWarp &w, const Instruction &i, unsigned lanes) {
    const uint64_t *base = row(w, i.from[0]);
    each(lanes, [&](int l) {
        const uint8_t *from = place<T>(w, i, base[l], l, i.to_count);
        T v[4];
        memcpy(v, from, sizeof(T) * i.to_count);
        for (int n = 0; n < i.to_count; ++n) {
            if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) row(w, i.to[n])[l] = bits_of(int64_t(v[n]));
            else row(w, i.to[n])[l] = bits_of(v[n]);
        }
    });
}
template <class T> void store(PtxWarp &w, const Instruction &i, unsigned lanes) {
    const uint64_t *base = row(w, i.from[0]);
    const int many = i.from_count - 1;
    each(lanes, [&](int l) {
        T v[4];
        for (int n = 0; n < many; ++n) v[n] = value<T>(row(w, i.from[1 + n])[l]);
        memcpy(place<T>(w, i, base[l], l, many), v, sizeof(T) * many);
    });
}
void prefetched(PtxWarp &w, const Instruction &i, unsigned lanes) {
    const uint64_t *at = row(w, i.from[0]);
    each(lanes, [&](int l) {
        const uint64_t p = at[l] + i.offset[0];
        if (!ours(reinterpret_cast<const void *>(p))) refuse("a prefetch of %llx, which is no device memory", (unsigned long long)p);
    });
}
void fence(PtxWarp &, const Instruction &, unsigned) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void atomic_inc(PtxWarp &w, const Instruction &i, unsigned lanes) {
    static const bool dry = getenv("MIEN_EMULATED_DRY");
    uint64_t *d = row(w, i.to[0]), *at = row(w, i.from[0]), *most = row(w, i.from[1]);
    each(lanes, [&](int l) {
        // A dry run counts what the block that comes last does.
        if (dry) return void(d[l] = most[l]);
        uint32_t *p = reinterpret_cast<uint32_t *>(place<uint32_t>(w, i, at[l], l, 1)), old = __atomic_load_n(p, __ATOMIC_SEQ_CST);
        while (!__atomic_compare_exchange_n(p, &old, old >= uint32_t(most[l]) ? 0 : old + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
        d[l] = old;
    });
}
void generic_of_shared(PtxWarp &w, const Instruction &i, unsigned lanes) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]);
    each(lanes, [&](int l) { d[l] = reinterpret_cast<uint64_t>(w.room->shared.data()) + a[l]; });
}
void copy_begin(PtxWarp &w, const Instruction &i, unsigned lanes) {
    const uint64_t *to = row(w, i.from[0]), *from = row(w, i.from[1]), *size = row(w, i.from[3]);
    each(lanes, [&](int l) {
        uint8_t *at = shared_place(*w.room, to[l] + i.offset[0], 16);
        const uint64_t source = from[l] + i.offset[1];
        if (source % 16 || (size[l] != 0 && size[l] != 16)) refuse("cp.async of %llu bytes from %llx", (unsigned long long)size[l], (unsigned long long)source);
        memset(at, POISON, 16);
        w.arriving.push_back({l, at, reinterpret_cast<const uint8_t *>(source), size[l] == 16, w.groups[l]});
    });
}
void copy_group(PtxWarp &w, const Instruction &, unsigned lanes) {
    each(lanes, [&](int l) { ++w.groups[l]; });
}
void copy_arrive(PtxWarp &w, const Instruction &i, unsigned lanes) {
    size_t kept = 0;
    for (const Arriving &c : w.arriving) {
        if (!(lanes >> c.lane & 1) || c.group + i.number >= w.groups[c.lane]) w.arriving[kept++] = c;
        else if (c.valid) memcpy(c.to, c.from, 16);
        else memset(c.to, 0, 16);
    }
    w.arriving.resize(kept);
}

// ---- what a warp does together

void shuffle_xor_lanes(PtxWarp &w, const Instruction &i, unsigned) {
    uint64_t old[WARP], *d = row(w, i.to[0]), *a = row(w, i.from[0]), *by = row(w, i.from[1]);
    memcpy(old, a, sizeof old);
    if (uint32_t(row(w, i.from[2])[0]) != 31 || uint32_t(row(w, i.from[3])[0]) != 0xffffffff) refuse("a shuffle of part of a warp");
    for (int l = 0; l < WARP; ++l) d[l] = old[(l ^ by[l]) & 31];
    if (i.to_count == 2)
        for (int l = 0; l < WARP; ++l) row(w, i.to[1])[l] = 1;
}
void highest(PtxWarp &w, const Instruction &i, unsigned) {
    uint64_t *d = row(w, i.to[0]), *a = row(w, i.from[0]);
    uint32_t most = 0;
    if (uint32_t(row(w, i.from[1])[0]) != 0xffffffff) refuse("redux of part of a warp");
    for (int l = 0; l < WARP; ++l) most = std::max(most, uint32_t(a[l]));
    std::fill_n(d, WARP, most);
}
void warp_barrier(PtxWarp &, const Instruction &, unsigned) {}
template <bool transposed> void matrices(PtxWarp &w, const Instruction &i, unsigned) {
    const uint64_t *address = row(w, i.from[0]);
    for (int j = 0; j < 4; ++j) {
        uint16_t m[8][8];
        for (int r = 0; r < 8; ++r) memcpy(m[r], shared_place(*w.room, uint32_t(address[j * 8 + r]) + i.offset[0], 16), 16);
        for (int l = 0; l < WARP; ++l) {
            const int r = l / 4, c = l % 4 * 2;
            const uint32_t low = transposed ? m[c][r] : m[r][c], high = transposed ? m[c + 1][r] : m[r][c + 1];
            row(w, i.to[j])[l] = low | high << 16;
        }
    }
}
void matrix_product(PtxWarp &w, const Instruction &i, unsigned) {
    float d[WARP][4];
    unsigned a[WARP][4], b[WARP][2];
    Product lanes[WARP];
    for (int l = 0; l < WARP; ++l) {
        for (int n = 0; n < 4; ++n) a[l][n] = row(w, i.from[n])[l], d[l][n] = value<float>(row(w, i.from[6 + n])[l]);
        for (int n = 0; n < 2; ++n) b[l][n] = row(w, i.from[4 + n])[l];
        lanes[l] = {d[l], a[l], b[l]};
    }
    multiply_matrices(lanes);
    for (int l = 0; l < WARP; ++l)
        for (int n = 0; n < 4; ++n) row(w, i.to[n])[l] = bits_of(d[l][n]);
}

// ---- which instruction is which

#define OF_TYPES(table, ...)                                                                                                           \
    {                                                                                                                                   \
        static const std::map<std::string, Act> acts = {__VA_ARGS__};                                                                  \
        auto found = acts.find(table);                                                                                                 \
        return found == acts.end() ? nullptr : found->second;                                                                          \
    }
#define ARITHMETIC_OF(shape, F)                                                                                                        \
    {"s16", shape<int16_t, F>}, {"u16", shape<uint16_t, F>}, {"s32", shape<int32_t, F>}, {"u32", shape<uint32_t, F>}, {"s64", shape<int64_t, F>}, {"u64", shape<uint64_t, F>}
#define BITS_OF(shape, F) {"b16", shape<uint16_t, F>}, {"b32", shape<uint32_t, F>}, {"b64", shape<uint64_t, F>}, {"pred", shape<uint8_t, F>}
#define ANY_OF(shape)                                                                                                                  \
    {"u8", shape<uint8_t>}, {"s8", shape<int8_t>}, {"u16", shape<uint16_t>}, {"s16", shape<int16_t>}, {"b16", shape<uint16_t>}, {"u32", shape<uint32_t>},   \
        {"s32", shape<int32_t>}, {"b32", shape<uint32_t>}, {"f32", shape<float>}, {"u64", shape<uint64_t>}, {"s64", shape<int64_t>}, {"b64", shape<uint64_t>}
#define COMPARED(F) {"s32", compare<int32_t, F>}, {"u32", compare<uint32_t, F>}, {"s64", compare<int64_t, F>}, {"u64", compare<uint64_t, F>}, {"b32", compare<uint32_t, F>}, {"f32", compare<float, F>}, \
    {"s16", compare<int16_t, F>}, {"u16", compare<uint16_t, F>}, {"b64", compare<uint64_t, F>}
#define COMPARED_FLOATS(F) {"f32", compare<float, F>}

Act of_type(const std::string &base, const std::string &how, const std::string &type) {
    if (base == "add" && how == "rn" && type == "f16x2") return two<uint32_t, AddHalves>;
    if (base == "mul" && how == "rn" && type == "f16x2") return two<uint32_t, MulHalves>;
    if (base == "add") OF_TYPES(type, ARITHMETIC_OF(two, Add), {"f32", two<float, Add>})
    if (base == "sub") OF_TYPES(type, ARITHMETIC_OF(two, Sub), {"f32", two<float, Sub>})
    if (base == "mul" && how == "wide") OF_TYPES(type, {"s16", multiply_wide<int16_t, int32_t>}, {"u16", multiply_wide<uint16_t, uint32_t>}, {"s32", multiply_wide<int32_t, int64_t>}, {"u32", multiply_wide<uint32_t, uint64_t>})
    if (base == "mul" && how == "hi") OF_TYPES(type, {"s32", multiply_high<int32_t, int64_t>}, {"u32", multiply_high<uint32_t, uint64_t>}, {"s64", multiply_high<int64_t, __int128>})
    if (base == "mul" && (how == "lo" || how.empty())) OF_TYPES(type, {"s32", two<int32_t, Mul>}, {"u32", two<uint32_t, Mul>}, {"s64", two<int64_t, Mul>}, {"u64", two<uint64_t, Mul>}, {"f32", two<float, Mul>})
    if (base == "mad" && how == "lo") OF_TYPES(type, ARITHMETIC_OF(three, Mad))
    if (base == "div" && (how == "rn" || how.empty())) OF_TYPES(type, ARITHMETIC_OF(two, Div), {"f32", two<float, Div>})
    if (base == "rem") OF_TYPES(type, ARITHMETIC_OF(two, Rem))
    if (base == "max") OF_TYPES(type, ARITHMETIC_OF(two, Max), {"f32", two<float, Max>})
    if (base == "min") OF_TYPES(type, ARITHMETIC_OF(two, Min), {"f32", two<float, Min>})
    if (base == "and") OF_TYPES(type, BITS_OF(two, And))
    if (base == "or") OF_TYPES(type, BITS_OF(two, Or))
    if (base == "xor") OF_TYPES(type, BITS_OF(two, Xor))
    if (base == "not") OF_TYPES(type, {"b32", one<uint32_t, Not>}, {"b64", one<uint64_t, Not>}, {"pred", one<uint8_t, NotPredicate>})
    if (base == "neg") OF_TYPES(type, ARITHMETIC_OF(one, Neg), {"f32", one<float, Neg>})
    if (base == "abs") OF_TYPES(type, {"f32", one<float, Abs>})
    if (base == "fma" && how == "rn") OF_TYPES(type, {"f32", three<float, Fma>})
    if (base == "fma" && how == "rm") OF_TYPES(type, {"f32", three<float, FmaDown>})
    if (base == "div" && how == "approx") OF_TYPES(type, {"f32", two<float, Div>})
    if (base == "rcp" && how == "rn") OF_TYPES(type, {"f32", one<float, Reciprocal>})
    if (base == "rcp" && how == "approx.ftz") OF_TYPES(type, {"f32", one<float, ReciprocalFast>})
    if (base == "sqrt" && how == "rn") OF_TYPES(type, {"f32", one<float, Root>})
    if (base == "ex2" && how == "approx") OF_TYPES(type, {"f32", one<float, Exp2>})
    if (base == "ex2" && how == "approx.ftz") OF_TYPES(type, {"f32", one<float, Exp2Fast>})
    if (base == "prmt") OF_TYPES(type, {"b32", three<uint32_t, PickBytes>})
    if (base == "dp4a" && how == "s32") OF_TYPES(type, {"s32", three<int32_t, Dot>})
    if (base == "shl") OF_TYPES(type, BITS_OF(shift, ShiftLeft))
    if (base == "shr") OF_TYPES(type, ARITHMETIC_OF(shift, ShiftRight), BITS_OF(shift, ShiftRight))
    if (base == "bfi") OF_TYPES(type, {"b32", insert_bits<uint32_t>}, {"b64", insert_bits<uint64_t>})
    if (base == "selp") OF_TYPES(type, ANY_OF(select))
    if (base == "setp" && how == "lt") OF_TYPES(type, COMPARED(Less))
    if (base == "setp" && how == "le") OF_TYPES(type, COMPARED(LessOrEqual))
    if (base == "setp" && how == "gt") OF_TYPES(type, COMPARED(Greater))
    if (base == "setp" && how == "ge") OF_TYPES(type, COMPARED(GreaterOrEqual))
    if (base == "setp" && how == "eq") OF_TYPES(type, COMPARED(Equal))
    if (base == "setp" && how == "ne") OF_TYPES(type, COMPARED(Other))
    if (base == "setp" && how == "ltu") OF_TYPES(type, COMPARED_FLOATS(LessOrNone))
    if (base == "setp" && how == "leu") OF_TYPES(type, COMPARED_FLOATS(LessEqualOrNone))
    if (base == "setp" && how == "gtu") OF_TYPES(type, COMPARED_FLOATS(GreaterOrNone))
    if (base == "setp" && how == "geu") OF_TYPES(type, COMPARED_FLOATS(GreaterEqualOrNone))
    if (base == "setp" && how == "neu") OF_TYPES(type, COMPARED_FLOATS(OtherOrNone))
    if (base == "setp" && how == "nan") OF_TYPES(type, COMPARED_FLOATS(None))
    if (base == "mov") OF_TYPES(type, BITS_OF(one, Copy1), ARITHMETIC_OF(one, Copy1), {"f32", one<float, Copy1>})
    if (base == "cvt") OF_TYPES((how.empty() ? type : how + "." + type), {"s64.s32", convert<int64_t, int32_t>}, {"u64.u32", convert<uint64_t, uint32_t>},
        {"u32.u64", convert<uint32_t, uint64_t>}, {"s32.s64", convert<int32_t, int64_t>}, {"u16.u32", convert<uint16_t, uint32_t>}, {"u32.u16", convert<uint32_t, uint16_t>},
        {"s32.s16", convert<int32_t, int16_t>}, {"u16.u64", convert<uint16_t, uint64_t>}, {"u64.u16", convert<uint64_t, uint16_t>}, {"s32.s8", convert<int32_t, int8_t>},
        {"rn.f32.s32", convert<float, int32_t>}, {"rn.f32.u32", convert<float, uint32_t>}, {"rn.f32.s16", convert<float, int16_t>},
        {"rni.s32.f32", to_whole<true>}, {"rzi.s32.f32", to_whole<false>}, {"rni.f32.f32", one<float, Nearest>}, {"sat.f32.f32", one<float, Saturated>},
        {"f32.f16", from_half}, {"rn.f16.f32", to_half}, {"rn.f16x2.f32", to_halves})
    if (base == "cvta" && how == "to.global") return one<uint64_t, Copy1>;
    if (base == "cvta" && how == "shared") return generic_of_shared;
    if (base == "redux" && how == "sync.max" && type == "u32") return highest;
    if (base == "shfl" && how == "sync.bfly" && type == "b32") return shuffle_xor_lanes;
    return nullptr;
}
Act of_memory(bool loads, const std::string &type) {
    if (loads) OF_TYPES(type, ANY_OF(load))
    OF_TYPES(type, ANY_OF(store))
}

} // namespace ptx
using namespace ptx;
} // namespace emulated
