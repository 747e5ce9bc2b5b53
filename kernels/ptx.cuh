// ptx: the only place with inline PTX, and the only names in kernels/ that are not plain CUDA C++.
//
// The oldest architecture is sm_80, which has mma.m16n8k16, ldmatrix and cp.async.
// The emulator of tests/cuda defines PTX_CUH and its own versions of what stands here.
#ifndef PTX_CUH
#define PTX_CUH

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short f16; // bits of an IEEE half

#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads) name
// The same with at least two blocks on a multiprocessor.
#define KERNEL_TWICE(name, threads) extern "C" __global__ void __launch_bounds__(threads, 2) name
// Names the kernel to the emulator; nothing on a device.
#define EXPORT(name)
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define DEVICE static __device__ __forceinline__

#define FULL 0xffffffffu
#define INFINITY_F __int_as_float(0x7f800000)
#define NAN_F __int_as_float(0x7fffffff)

// ---- f16

DEVICE f16 to_f16(float x) {
    f16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

DEVICE float from_f16(f16 h) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
    return x;
}

// Two halves in a register, `low` in the low 16 bits.
DEVICE unsigned pack_f16(float low, float high) {
    unsigned d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

// Sums and products of two halves at once, each rounded once.
DEVICE unsigned add_f16x2(unsigned a, unsigned b) {
    unsigned d;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

DEVICE unsigned multiply_f16x2(unsigned a, unsigned b) {
    unsigned d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

// ---- arithmetic

// Four of the eight bytes of a (0 to 3) and b (4 to 7), by the nibbles of `which`, the lowest first.
DEVICE unsigned pick_bytes(unsigned a, unsigned b, unsigned which) { return __byte_perm(a, b, which); }

DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// c + sum of the products of four signed bytes.
DEVICE int dot4(int a, int b, int c) {
    int d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// Every lane gets the largest of its warp's.
DEVICE unsigned warp_highest(unsigned x) {
    unsigned d;
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(d) : "r"(x));
    return d;
}

// ---- memory

// A place in shared memory; so many bytes may be added to it, which costs nothing where they are a constant.
typedef unsigned Shared;
DEVICE Shared shared_at(const void *p) { return (Shared)__cvta_generic_to_shared(p); }

// 16 bytes that are read once: they pass the caches without displacing what is used again.
DEVICE uint4 load_once(const uint4 *p) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

// Asks for the line at p to be brought to the cache that all multiprocessors share.
DEVICE void prefetch(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// Starts a copy of 16 bytes to shared memory; zeros are written instead where `valid` is false and `from` is not read.
DEVICE void copy_async(void *to, const void *from, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_at(to)), "l"(from), "r"(bytes) : "memory");
}

DEVICE void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `pending` of the thread's latest groups are on their way.
template <int pending> DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- tensor cores

// Four 8x8 matrices of halves: lane l gives the address of row l % 8 of matrix l / 8, and gets elements (l / 4, l % 4 * 2 + {0, 1}).
DEVICE void load_matrix(unsigned (&r)[4], Shared row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// The same, transposed: lane l gets elements (l % 4 * 2 + {0, 1}, l / 4).
DEVICE void load_matrix_transposed(unsigned (&r)[4], Shared row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

// d += a b: a is 16x16 by rows, b is 16x8 by columns, halves; d is 16x8 f32.
DEVICE void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
