// ptx: the only place with inline PTX, and the only names in kernels/ that are not plain CUDA C++.
//
// Below sm_80 there is no mma.m16n8k16, no ldmatrix with it and no cp.async: the same functions are made of shuffles, fused
// multiply-adds and plain copies there, so that every kernel runs, slowly, on older boards.
// The emulator of tests/cuda defines PTX_CUH and its own versions of what stands here.
#ifndef PTX_CUH
#define PTX_CUH

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short f16; // bits of an IEEE half

#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads) name
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
#if __CUDA_ARCH__ >= 800
    unsigned d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
#else
    return (unsigned)to_f16(low) | (unsigned)to_f16(high) << 16;
#endif
}

// ---- arithmetic

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

// ---- memory

DEVICE unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

// 16 bytes that are read once: they pass the caches without displacing what is used again.
DEVICE uint4 load_once(const uint4 *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

// Starts a copy of 16 bytes to shared memory; zeros are written instead where `valid` is false and `from` is not read.
DEVICE void copy_async(void *to, const void *from, bool valid) {
#if __CUDA_ARCH__ >= 800
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
#else
    *(uint4 *)to = valid ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
#endif
}

DEVICE void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `pending` of the thread's latest groups are on their way.
template <int pending> DEVICE void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// ---- tensor cores

// Four 8x8 matrices of halves: lane l gives the address of row l % 8 of matrix l / 8, and gets elements (l / 4, l % 4 * 2 + {0, 1}).
DEVICE void load_matrix(unsigned (&r)[4], const void *row) {
#if __CUDA_ARCH__ >= 800
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    const int lane = threadIdx.x % 32;
    for (int j = 0; j < 4; ++j)
        r[j] = ((const unsigned *)__shfl_sync(FULL, (unsigned long long)row, j * 8 + lane / 4))[lane % 4];
#endif
}

// The same, transposed: lane l gets elements (l % 4 * 2 + {0, 1}, l / 4).
DEVICE void load_matrix_transposed(unsigned (&r)[4], const void *row) {
#if __CUDA_ARCH__ >= 800
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    const int lane = threadIdx.x % 32;
    for (int j = 0; j < 4; ++j) {
        const f16 *a = (const f16 *)__shfl_sync(FULL, (unsigned long long)row, j * 8 + lane % 4 * 2);
        const f16 *b = (const f16 *)__shfl_sync(FULL, (unsigned long long)row, j * 8 + lane % 4 * 2 + 1);
        r[j] = (unsigned)a[lane / 4] | (unsigned)b[lane / 4] << 16;
    }
#endif
}

#if __CUDA_ARCH__ < 800
// A call, not inlined: the kernels hold hundreds of products.
static __device__ __noinline__ float4 multiply_slowly(float4 d, uint4 a, uint2 b) {
    const int lane = threadIdx.x % 32, group = lane / 4 * 4, column = lane % 4 * 8;
#pragma unroll 1
    for (int k = 0; k < 8; ++k) { // pairs of the inner dimension, (2k, 2k + 1)
        const int owner = k % 4;
        const unsigned top = __shfl_sync(FULL, k < 4 ? a.x : a.z, group + owner);
        const unsigned low = __shfl_sync(FULL, k < 4 ? a.y : a.w, group + owner);
        const unsigned left = __shfl_sync(FULL, k < 4 ? b.x : b.y, column + owner);
        const unsigned right = __shfl_sync(FULL, k < 4 ? b.x : b.y, column + 4 + owner);
#pragma unroll
        for (int i = 0; i < 32; i += 16) {
            const float t = from_f16(top >> i), u = from_f16(low >> i), l = from_f16(left >> i), r = from_f16(right >> i);
            d.x = fmaf(t, l, d.x);
            d.y = fmaf(t, r, d.y);
            d.z = fmaf(u, l, d.z);
            d.w = fmaf(u, r, d.w);
        }
    }
    return d;
}
#endif

// d += a b: a is 16x16 by rows, b is 16x8 by columns, halves; d is 16x8 f32.
DEVICE void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    const float4 sum = multiply_slowly(make_float4(d[0], d[1], d[2], d[3]), make_uint4(a[0], a[1], a[2], a[3]), make_uint2(b0, b1));
    d[0] = sum.x, d[1] = sum.y, d[2] = sum.z, d[3] = sum.w;
#endif
}

#endif
