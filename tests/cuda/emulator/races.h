// Races: two threads touch a byte, one of them writes it, and nothing orders them. Only in a build with --races, where the compiler
// tells of every access of a kernel (g++ -fsanitize=thread, whose calls land in races.cpp); elsewhere `touch` is nothing.
//
// What orders two accesses: one thread does both; a barrier of the block lies between, or a __syncwarp of their warp; they belong to
// two launches; or the first stands before a fence and an atomic of its block (before a barrier in front of these, or of the same thread),
// and the second behind an atomic that came later to the same place, and behind a fence. Shuffles, matrix loads and products order nothing,
// whatever they make the emulated warp wait for. As barriers are for whole blocks and whole warps, two counters per access stand for a
// vector clock.
#pragma once
#include <cstddef>

namespace emulated {
struct Lane;
struct Taken;
#ifdef MIEN_RACES
enum { RACES = 1 };
// `lane` of the running block reads or writes `bytes` at `at`, if that is memory that threads share.
void touch(const Lane *lane, const void *at, size_t bytes, bool writes);
void fenced(const Lane *);                // __threadfence
void met(const Lane *, const void *place); // an atomic
struct Launching { // as long as a kernel runs
    Launching();
    ~Launching();
};
void begin_run(); // of one block
void forget(const Taken &);
#else
enum { RACES = 0 };
inline void touch(const Lane *, const void *, size_t, bool) {}
inline void fenced(const Lane *) {}
inline void met(const Lane *, const void *) {}
struct Launching {
    Launching() {}
    ~Launching() {}
};
inline void begin_run() {}
inline void forget(const Taken &) {}
#endif
} // namespace emulated
