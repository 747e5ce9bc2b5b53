// What the driver side needs of the emulated device.
#pragma once
#include <cstddef>
#include <string>

namespace emulated {
struct Kernel;
const Kernel *find(const char *name);
const char *name_of(const Kernel *);
size_t argument_count(const Kernel *);
size_t argument_size(const Kernel *, size_t i);
// Runs every block; false and a message where the kernel did what a device would not forgive.
bool launch(const Kernel *, const unsigned (&grid)[3], const unsigned (&block)[3], void **arguments, std::string &message);
// Poisoned memory that ends at a page nobody may touch.
void *take(size_t bytes);
size_t give(void *); // its size; 0 where it is none of ours
bool ours(const void *);
} // namespace emulated
