// The PTX that ships, executed as it stands: the emulated device's other engine, with MIEN_EMULATED_PTX=1 and an architecture for which
// there is no machine code (MIEN_EMULATED_ARCH=86). What the compiler made of the kernels runs, inline assembly and all.
//
// A warp's lanes keep places of their own in the code; those furthest behind go on first, and what a warp does together waits until all
// 32 are there. Strict as device.h: copies arrive when they are waited for, shared memory is poisoned and bounded, addresses are aligned.
// Not shown: what a driver's compiler makes of the PTX, timing, the rounding of tensor cores and of approximations.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace emulated {
struct Program;
// Reads a kernel of the image; null and a message where it is not there, or has an instruction that is not known here.
std::shared_ptr<const Program> read_program(const std::string &image, const char *name, std::string &message);
// Runs the block in the middle alone, and counts the instructions that its warps are given. Throws a string.
uint64_t issued_by_a_block(const Program &, const unsigned (&grid)[3], const unsigned (&block)[3], const std::vector<std::string> &arguments);
bool launch(const Program &, const unsigned (&grid)[3], const unsigned (&block)[3], const std::vector<std::string> &arguments,
            std::string &message);
} // namespace emulated
