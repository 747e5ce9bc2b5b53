// Races: two threads touch a byte, one of them writes it, and nothing orders them. Only in a build with --races, where the compiler
// tells of every access of a kernel (g++ -fsanitize=thread, whose calls land in races.cpp); elsewhere `touch` is nothing.
//
// What orders two accesses: one thread does both; a barrier of the block lies between, or a __syncwarp of their warp; or they belong to
// two launches. Shuffles, matrix loads and products order nothing, whatever they make the emulated warp wait for. As barriers are for
// whole blocks and whole warps, two counters per access stand for a vector clock.
#pragma once
#include <cstddef>

namespace emulated {
struct Lane;
struct Taken;
#ifdef MIEN_RACES
enum { RACES = 1 };
// `lane` of the running block reads or writes `bytes` at `at`, if that is memory that threads share.
void touch(const Lane *lane, const void *at, size_t bytes, bool writes);
struct Launching { // as long as a kernel runs
    Launching();
    ~Launching();
};
void begin_run(); // of one block
void forget(const Taken &);
#else
enum { RACES = 0 };
inline void touch(const Lane *, const void *, size_t, bool) {}
struct Launching {
    Launching() {}
    ~Launching() {}
};
inline void begin_run() {}
inline void forget(const Taken &) {}
#endif
} // namespace emulated
