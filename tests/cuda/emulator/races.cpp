#include "races.h"
#ifdef MIEN_RACES
#include "block.h"
#include <map>
#include <sys/mman.h>

namespace emulated {

// What is known of a byte: its last write, and the reads since, as far as another thread's write can still race with them.
struct Cell {
    struct Access { uint32_t run, barriers, syncs; uint16_t lane; } write, read;
    uint32_t other_syncs;                     // the newest read of the warp of `read` by another of its lanes, plus one
    bool several_warps, several_runs, marked; // who else read in that launch; whether `write` is one
};

// Pages of zeros until they are touched.
static Cell *cells(size_t bytes) {
    void *at = mmap(nullptr, bytes * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : static_cast<Cell *>(at);
}

// Numbers of runs: every block that is run has its own, so what an earlier one left in a cell is told apart. One launch at a time.
static uint32_t run, first_of_launch;
static std::mutex launching;

// What a block gave away: all that stands before so many barriers, and what one lane did up to then.
struct Given { uint32_t run, barriers; uint16_t lane; };
static std::map<const void *, std::vector<Given>> given; // with the atomics on a place, in this launch
// A lane of this run whose fence is its latest step between blocks, and what it was given since, good after its next fence.
static const Lane *fencing;
static std::vector<Given> coming, had;
static uint32_t had_since; // barriers passed when `had` came
static uint16_t had_by;

Launching::Launching() {
    launching.lock();
    first_of_launch = run + 1;
    given.clear();
}
Launching::~Launching() { launching.unlock(); }
void begin_run() {
    ++run;
    fencing = nullptr, coming.clear(), had.clear();
}
void fenced(const Lane *lane) {
    fencing = lane;
    if (coming.empty()) return;
    had.insert(had.end(), coming.begin(), coming.end());
    coming.clear();
    had_since = block->barriers, had_by = lane->thread.x;
}
void met(const Lane *lane, const void *place) {
    std::vector<Given> &here = given[place];
    coming = here;
    if (fencing == lane) here.push_back({run, block->barriers, static_cast<uint16_t>(lane->thread.x)});
    fencing = nullptr;
}

// The first run whose accesses this one's can race with: for device memory the launch's first, for shared memory itself.
static uint32_t first;

static bool ordered(const Cell::Access &then, const Lane *now) {
    if (then.run != run) {
        if (then.run < first) return true;
        if (now->thread.x != had_by && block->barriers <= had_since) return false;
        for (const Given &g : had)
            if (g.run == then.run) return then.barriers < g.barriers || (then.lane == g.lane && then.barriers == g.barriers);
        return false;
    }
    if (then.lane == now->thread.x || then.barriers < block->barriers) return true;
    return then.lane / WARP == now->thread.x / WARP && then.syncs < now->warp->syncs;
}
static bool read_ordered(const Cell &cell, const Lane *now) {
    const Cell::Access &read = cell.read;
    if (cell.several_runs && read.run >= first) return false;
    if (!ordered(read, now)) return false;
    if (read.run != run || read.barriers < block->barriers) return true;
    if (cell.several_warps) return false;
    return !cell.other_syncs || read.lane != now->thread.x || cell.other_syncs - 1 < now->warp->syncs;
}
static void add_read(Cell &cell, const Lane *now) {
    const Cell::Access mine = {run, block->barriers, now->warp->syncs, static_cast<uint16_t>(now->thread.x)};
    Cell::Access &read = cell.read;
    if (read.run != run) {
        cell.several_runs = read.run >= first && read.run;
        cell.several_warps = false, cell.other_syncs = 0, read = mine;
    } else if (read.barriers < mine.barriers) {
        cell.several_warps = false, cell.other_syncs = 0, read = mine;
    } else if (read.lane / WARP != mine.lane / WARP) {
        cell.several_warps = true;
    } else if (read.lane == mine.lane) {
        read = mine;
    } else if (mine.syncs > read.syncs) {
        cell.other_syncs = read.syncs + 1, read = mine;
    } else {
        cell.other_syncs = mine.syncs + 1;
    }
}

static void touch_cells(Cell *cell, const Lane *lane, const char *where, size_t offset, size_t bytes, bool writes) {
    const char *act = writes ? "writes" : "reads";
    for (size_t i = 0; i < bytes; ++i) {
        Cell &c = cell[i];
        if (c.marked && !ordered(c.write, lane))
            fail("a race: thread %u %s byte %zu of %s, which thread %u of %s wrote, and nothing orders them", lane->thread.x, act, offset + i,
                 where, c.write.lane, c.write.run == run ? "this block" : "another block");
        if (!writes) {
            add_read(c, lane);
            continue;
        }
        if (c.read.run && !read_ordered(c, lane))
            fail("a race: thread %u writes byte %zu of %s, which thread %u of %s reads, and nothing orders them", lane->thread.x, offset + i,
                 where, c.read.lane, c.read.run == run ? "this block" : "another block");
        c.write = {run, block->barriers, lane->warp->syncs, static_cast<uint16_t>(lane->thread.x)};
        c.marked = true;
    }
}

void touch(const Lane *lane, const void *at, size_t bytes, bool writes) {
    const uint8_t *p = static_cast<const uint8_t *>(at);
    if (p >= block->memory && p < block->memory + sizeof block->memory) {
        static Cell *const shared = cells(sizeof block->memory);
        const size_t offset = p - block->memory;
        for (unsigned i = 0; i < block->array_count; ++i) {
            const Array &a = block->arrays[i];
            if (offset < a.at || offset >= a.at + a.bytes) continue;
            char where[40];
            snprintf(where, sizeof where, "shared array %u", i);
            first = run;
            return touch_cells(shared + offset, lane, where, offset - a.at, bytes, writes);
        }
        return;
    }
    if (p >= block->stacks && p < block->stacks + block->stack_count * STACK_BYTES) return;
    // The piece that was touched last; other threads take and give pieces meanwhile.
    static const uint8_t *begin, *end;
    static Cell *known;
    static uint64_t change;
    if (change != memory_changes() || p < begin || p >= end) {
        const std::lock_guard<std::mutex> lock(memory_guard);
        change = memory_changes();
        const Taken *taken = taken_at(p);
        begin = end = nullptr;
        if (!taken) return;
        if (!taken->cells) taken->cells = cells(taken->bytes);
        begin = taken->at, end = begin + taken->bytes, known = static_cast<Cell *>(taken->cells);
    }
    first = first_of_launch;
    touch_cells(known + (p - begin), lane, "device memory", p - begin, bytes, writes);
}
void forget(const Taken &taken) {
    if (taken.cells) munmap(taken.cells, taken.bytes * sizeof(Cell));
}

} // namespace emulated

// ---- what the compiler calls

#define TOUCHES(how, size)                                                                                                             \
    extern "C" void __tsan_##how##read##size(void *p) { emulated::touch(emulated::here, p, size, false); }                             \
    extern "C" void __tsan_##how##write##size(void *p) { emulated::touch(emulated::here, p, size, true); }
TOUCHES(, 1)
TOUCHES(, 2)
TOUCHES(, 4)
TOUCHES(, 8)
TOUCHES(, 16)
TOUCHES(unaligned_, 2)
TOUCHES(unaligned_, 4)
TOUCHES(unaligned_, 8)
TOUCHES(unaligned_, 16)
extern "C" void __tsan_read_range(void *p, size_t bytes) { emulated::touch(emulated::here, p, bytes, false); }
extern "C" void __tsan_write_range(void *p, size_t bytes) { emulated::touch(emulated::here, p, bytes, true); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void *, void *) {}
extern "C" void __tsan_vptr_read(void *) {}
#endif
