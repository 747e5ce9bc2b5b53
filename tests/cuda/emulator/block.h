// The block that runs, and the memory it may touch: what device.cpp keeps and races.cpp reads.
#pragma once
#include "device.h"
#include "races.h"
#include <cstdio>
#include <functional>
#include <mutex>
#include <sys/mman.h>
#include <vector>

namespace emulated {

enum { WARP = 32, STACK_BYTES = 64 << 10, SHARED_BYTES = 48 << 10, ARRAYS_MAX = 16, FENCE = 64, POISON = 0xff };

struct Warp {
    Lane *lanes[WARP];
    const void *site; // of the common instruction that is being waited for
    unsigned arrived, done;
    uint32_t syncs; // __syncwarp so far
};

struct Array { const void *key; size_t at, bytes; };

// One block at a time; kept by its operating system thread for the next one.
struct Block {
    std::vector<Lane> lanes;
    std::vector<Warp> warps;
    uint8_t *stacks = nullptr;
    size_t stack_count = 0;
    unsigned at_barrier = 0, done = 0, array_count = 0;
    uint32_t barriers = 0; // passed so far
    Array arrays[ARRAYS_MAX];
    alignas(64) uint8_t memory[SHARED_BYTES + ARRAYS_MAX * 2 * FENCE];
    ~Block() {
        if (stacks) munmap(stacks, stack_count * STACK_BYTES);
    }
};
extern thread_local Block *block;

// Fragments of mma.m16n8k16 as the PTX manual draws them, lane = row * 4 + column pair: d += a b.
struct Product { float *d; const unsigned *a, *b; };
void multiply_matrices(const Product (&lanes)[WARP]);

// Runs every block of a grid, several at once; false as soon as one says so.
bool over_blocks(const unsigned (&grid)[3], const std::function<bool(const uint3 &block, uint64_t number)> &run);

// A piece of device memory.
struct Taken {
    void *map;
    size_t mapped;
    uint8_t *at;
    size_t bytes;
    mutable void *cells; // of races.cpp
};
extern std::mutex memory_guard;
const Taken *taken_at(const uint8_t *); // under the guard
uint64_t memory_changes(); // another number where pieces were taken or given back

} // namespace emulated
