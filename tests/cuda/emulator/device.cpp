// Fibers, warps, barriers, shared and device memory of the emulated device.
//
// A block runs on one operating system thread. By default a warp is taken as far as it can go before the next is touched, first warp
// first: the largest skew there can be, which is what shows a missing barrier. MIEN_EMULATED_ORDER = reverse turns that around,
// shuffled steps single lanes in a random order.
#include "block.h"
#include "runtime.h"
#include <atomic>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <map>
#include <memory>
#include <thread>
#include <unistd.h>
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

// ---- switching stacks: saves what a callee must keep, leaves the stack pointer at *from, goes on at `to`.

extern "C" void emulated_switch(void **from, void *to);
#if defined(__x86_64__)
enum { SAVED_WORDS = 6, RETURN_AT = 6 };
asm(R"(
    .text
    .globl emulated_switch
    .hidden emulated_switch
    .type emulated_switch, @function
emulated_switch:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    .size emulated_switch, . - emulated_switch
)");
#elif defined(__aarch64__)
enum { SAVED_WORDS = 20, RETURN_AT = 1 };
asm(R"(
    .text
    .globl emulated_switch
    .hidden emulated_switch
    .type emulated_switch, %function
emulated_switch:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
    .size emulated_switch, . - emulated_switch
)");
#else
#error "no stack switch for this processor"
#endif

namespace emulated {

thread_local Lane *here;
thread_local uint3 block_index;
thread_local const Shape *shape;
thread_local Block *block;
static thread_local void *scheduler;
static thread_local void **arguments;
static thread_local const Kernel *kernel;
static thread_local char failure[400];

const char shuffle_to = 0, shuffle_xor = 0;

static Kernel *&registered() {
    static Kernel *first;
    return first;
}
Kernel::Kernel(const char *name, void (*call)(void **), const size_t *sizes, size_t count)
    : name(name), call(call), sizes(sizes), count(count), next(registered()) {
    registered() = this;
}
const Kernel *find(const char *name) {
    for (const Kernel *k = registered(); k; k = k->next)
        if (!strcmp(k->name, name)) return k;
    return nullptr;
}
const char *name_of(const Kernel *k) { return k->name; }
size_t argument_count(const Kernel *k) { return k->count; }
size_t argument_size(const Kernel *k, size_t i) { return k->sizes[i]; }

static int place(char *to, size_t size) {
    return snprintf(to, size, "kernel %s, block (%u, %u, %u), thread %u: ", kernel->name, block_index.x, block_index.y, block_index.z,
                    here->thread.x);
}
static void pause() { emulated_switch(&here->stack, scheduler); }
void fail(const char *format, ...) {
    const int used = place(failure, sizeof failure);
    va_list rest;
    va_start(rest, format);
    vsnprintf(failure + used, sizeof failure - used, format, rest);
    va_end(rest);
    for (;;) pause();
}

// ---- what threads do together

static void open_barrier() {
    block->at_barrier = 0;
    ++block->barriers;
    for (Lane &lane : block->lanes)
        if (lane.state == State::AtBarrier) lane.state = State::Ready;
}
void barrier() {
    if (++block->at_barrier + block->done == block->lanes.size()) return open_barrier();
    here->state = State::AtBarrier;
    pause();
}
void together(const void *site, void *operand, void (*act)(Lane *const *)) {
    Warp &warp = *here->warp;
    if (warp.done) fail("a warp's common instruction after %u of its lanes have left the kernel", warp.done);
    if (warp.arrived && warp.site != site) fail("the lanes of a warp wait at different instructions");
    warp.site = site;
    here->operand = operand;
    if (++warp.arrived < WARP) {
        here->state = State::InWarp;
        return pause();
    }
    warp.arrived = 0;
    act(warp.lanes);
    for (Lane *lane : warp.lanes) lane->state = State::Ready;
}
void shuffle(Lane *const *lanes) {
    for (int i = 0; i < WARP; ++i) {
        Shuffle *mine = static_cast<Shuffle *>(lanes[i]->operand);
        mine->result = static_cast<Shuffle *>(lanes[mine->lane & 31]->operand)->value;
    }
}

struct Halves {
    float value[1 << 16];
    Halves() {
        for (unsigned i = 0; i < 1 << 16; ++i) {
            const uint16_t bits = i;
            _Float16 h;
            memcpy(&h, &bits, 2);
            value[i] = static_cast<float>(h);
        }
    }
};
static const Halves halves;
float half_to_float(uint16_t h) { return halves.value[h]; }

void multiply_matrices(const Product (&lanes)[WARP]) {
    float a[16][16], b[8][16];
    for (int i = 0; i < WARP; ++i) {
        const Product *p = &lanes[i];
        const int row = i / 4, pair = i % 4 * 2;
        for (int part = 0; part < 4; ++part)
            for (int e = 0; e < 2; ++e) a[row + part % 2 * 8][pair + part / 2 * 8 + e] = halves.value[p->a[part] >> (16 * e) & 0xffff];
        for (int part = 0; part < 2; ++part)
            for (int e = 0; e < 2; ++e) b[row][pair + part * 8 + e] = halves.value[p->b[part] >> (16 * e) & 0xffff];
    }
    for (int i = 0; i < WARP; ++i) {
        float *d = lanes[i].d;
        for (int e = 0; e < 4; ++e) {
            const float *x = a[i / 4 + e / 2 * 8], *y = b[i % 4 * 2 + e % 2];
            float sum = 0;
            for (int k = 0; k < 16; ++k) sum += x[k] * y[k];
            d[e] += sum;
        }
    }
}
static void product(Lane *const *lanes) {
    Product all[WARP];
    for (int i = 0; i < WARP; ++i) all[i] = *static_cast<Product *>(lanes[i]->operand);
    multiply_matrices(all);
}

struct Rows { unsigned *r; const void *row; };
template <bool transposed> static void matrices(Lane *const *lanes) {
    for (int j = 0; j < 4; ++j) {
        uint16_t m[8][8];
        for (int r = 0; r < 8; ++r) {
            const void *row = static_cast<Rows *>(lanes[j * 8 + r]->operand)->row;
            touch(lanes[j * 8 + r], row, 16, false);
            if (reinterpret_cast<uintptr_t>(row) % 16) fail("a matrix row that is not aligned to 16 bytes");
            memcpy(m[r], row, 16);
        }
        for (int i = 0; i < WARP; ++i) {
            const int r = i / 4, c = i % 4 * 2;
            const unsigned low = transposed ? m[c][r] : m[r][c], high = transposed ? m[c + 1][r] : m[r][c + 1];
            static_cast<Rows *>(lanes[i]->operand)->r[j] = low | high << 16;
        }
    }
}

// ---- memory of the block

void *shared(const void *key, size_t bytes) {
    size_t at = 0, used = bytes;
    for (unsigned i = 0; i < block->array_count; ++i) {
        const Array &a = block->arrays[i];
        if (a.key == key) return block->memory + a.at;
        at = (a.at + a.bytes + FENCE + 63) / 64 * 64;
        used += a.bytes;
    }
    if (used > SHARED_BYTES || block->array_count == ARRAYS_MAX) fail("%zu bytes of shared memory", used);
    block->arrays[block->array_count++] = {key, at, bytes};
    memset(block->memory + at, POISON, bytes + FENCE);
    return block->memory + at;
}
static bool fences_hold() {
    for (unsigned i = 0; i < block->array_count; ++i)
        for (int f = 0; f < FENCE; ++f)
            if (block->memory[block->arrays[i].at + block->arrays[i].bytes + f] != POISON) return false;
    return true;
}

// ---- running a block

static void enter() {
    kernel->call(arguments);
    here->state = State::Done;
    ++here->warp->done;
    // Threads that have left no longer count at barriers.
    if (++block->done < block->lanes.size() && block->at_barrier + block->done == block->lanes.size()) open_barrier();
    for (;;) pause();
}

static void prepare() {
    const size_t count = shape->block.x;
    if (block->stack_count < count) {
        if (block->stacks) munmap(block->stacks, block->stack_count * STACK_BYTES);
        block->stacks = static_cast<uint8_t *>(
            mmap(nullptr, count * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        block->stack_count = count;
    }
    if (block->lanes.size() != count) {
        block->lanes.resize(count);
        block->warps.resize(count / WARP);
    }
    block->at_barrier = block->done = block->array_count = block->barriers = 0;
    for (size_t i = 0; i < count; ++i) {
        Lane &lane = block->lanes[i];
        lane.thread = {static_cast<unsigned>(i), 0, 0};
        lane.index = i % WARP;
        lane.warp = &block->warps[i / WARP];
        lane.state = State::Ready;
        lane.copy_count = lane.copy_group = 0;
        lane.warp->lanes[lane.index] = &lane;
        lane.warp->arrived = lane.warp->done = lane.warp->syncs = 0;
        // Different offsets, or the tops of all stacks fall into one set of the cache.
        const uintptr_t top = reinterpret_cast<uintptr_t>(block->stacks + (i + 1) * STACK_BYTES) - i % 60 * 64;
        // x86-64 begins a function 8 off a multiple of 16, as after a call; here that follows from popping the saved words and `enter`.
        void **words = reinterpret_cast<void **>(top) - 2 - SAVED_WORDS;
        memset(words, 0, (SAVED_WORDS + 1) * sizeof(void *));
        words[RETURN_AT] = reinterpret_cast<void *>(enter);
        lane.stack = words;
    }
}

static void step(Lane &lane) {
    here = &lane;
    emulated_switch(&scheduler, lane.stack);
}

enum class Order { Forward, Reverse, Shuffled };
static Order order() {
    static const Order chosen = [] {
        const char *name = getenv("MIEN_EMULATED_ORDER");
        return !name || !strcmp(name, "forward") ? Order::Forward : !strcmp(name, "reverse") ? Order::Reverse : Order::Shuffled;
    }();
    return chosen;
}

// One pass over the block: every warp as far as it goes, or every lane one step. False where nobody could move.
static bool pass(std::vector<uint16_t> &lanes, uint64_t &seed) {
    bool ran = false;
    if (order() == Order::Shuffled) {
        for (size_t i = lanes.size(); i > 1; --i) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            std::swap(lanes[i - 1], lanes[(seed >> 33) % i]);
        }
        for (uint16_t i : lanes) {
            if (block->lanes[i].state != State::Ready) continue;
            step(block->lanes[i]);
            ran = true;
            if (failure[0]) break;
        }
        return ran;
    }
    const size_t warps = block->warps.size();
    for (size_t w = 0; w < warps; ++w) {
        Warp &warp = block->warps[order() == Order::Forward ? w : warps - 1 - w];
        for (bool again = true; again;) {
            again = false;
            for (int l = 0; l < WARP; ++l) {
                Lane &lane = *warp.lanes[order() == Order::Forward ? l : WARP - 1 - l];
                if (lane.state != State::Ready) continue;
                step(lane);
                ran = again = true;
                if (failure[0]) return true;
            }
        }
    }
    return ran;
}

static bool run_block(uint64_t seed) {
    prepare();
    begin_run();
    failure[0] = 0;
    std::vector<uint16_t> lanes(block->lanes.size());
    for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = i;
    while (block->done < lanes.size()) {
        const bool ran = pass(lanes, seed);
        if (failure[0]) return false;
        if (ran) continue;
        unsigned waiting = 0;
        for (Lane &lane : block->lanes)
            if (lane.state != State::Done) here = &lane, ++waiting;
        const int used = place(failure, sizeof failure);
        snprintf(failure + used, sizeof failure - used, "deadlock: %u threads wait, %u of them at a barrier", waiting, block->at_barrier);
        return false;
    }
    if (fences_hold()) return true;
    const int used = place(failure, sizeof failure);
    snprintf(failure + used, sizeof failure - used, "somebody wrote behind a shared array");
    return false;
}

bool over_blocks(const unsigned (&grid)[3], const std::function<bool(const uint3 &, uint64_t)> &run) {
    const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
    std::atomic<uint64_t> next{0};
    std::atomic<bool> good{true};
    auto work = [&] {
        for (uint64_t i; good && (i = next++) < blocks;) {
            const uint64_t at = order() == Order::Reverse ? blocks - 1 - i : i;
            const uint3 index = {unsigned(at % grid[0]), unsigned(at / grid[0] % grid[1]), unsigned(at / grid[0] / grid[1])};
            if (!run(index, at)) good = false;
        }
    };
    const char *wanted = getenv("MIEN_EMULATED_THREADS");
    const uint64_t threads = RACES ? 1 : wanted ? atoi(wanted) : std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::thread> others;
    // A new thread costs about as much as a dozen small blocks.
    for (uint64_t t = 1; t < std::min(threads, blocks / 16); ++t) others.emplace_back(work);
    work();
    for (std::thread &t : others) t.join();
    return good;
}

bool launch(const Kernel *k, const unsigned (&grid)[3], const unsigned (&size)[3], void **args, std::string &message) {
    const Shape s = {{grid[0], grid[1], grid[2]}, {size[0], size[1], size[2]}};
    std::mutex guard;
    const Launching now;
    return over_blocks(grid, [&](const uint3 &index, uint64_t at) {
        static thread_local std::unique_ptr<Block> mine;
        if (!mine) mine.reset(new Block());
        block = mine.get(), shape = &s, kernel = k, arguments = args, block_index = index;
        const bool good = run_block(at + 1);
        here = nullptr;
        if (good) return true;
        std::lock_guard<std::mutex> lock(guard);
        message = failure;
        return false;
    });
}

// ---- device memory

std::mutex memory_guard;
static std::map<const uint8_t *, Taken> taken;
static std::atomic<uint64_t> changes;
uint64_t memory_changes() { return changes; }
const Taken *taken_at(const uint8_t *p) {
    auto next = taken.upper_bound(p);
    if (next == taken.begin()) return nullptr;
    const Taken &t = std::prev(next)->second;
    return p < t.at + t.bytes ? &t : nullptr;
}

static void on_fault(int, siginfo_t *info, void *) {
    char text[300];
    int used = 0;
    if (here) used = place(text, sizeof text);
    used += snprintf(text + used, sizeof text - used, "access outside device memory at %p\n", info->si_addr);
    if (write(2, text, used) < 0) _exit(138);
    _exit(139);
}

void *take(size_t bytes) {
    static const bool watching = [] {
        static uint8_t stack[64 << 10];
        stack_t s = {};
        s.ss_sp = stack, s.ss_size = sizeof stack;
        sigaltstack(&s, nullptr);
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        return sigaction(SIGSEGV, &action, nullptr) == 0;
    }();
    const size_t page = 4096, body = (bytes + page - 1) / page * page, all = body + 2 * page;
    uint8_t *map = static_cast<uint8_t *>(mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (!watching || map == MAP_FAILED) return nullptr;
    mprotect(map, page, PROT_NONE);
    mprotect(map + page + body, page, PROT_NONE);
    uint8_t *p = map + page + body - (bytes + 15) / 16 * 16;
    static const bool dry = getenv("MIEN_EMULATED_DRY");
    if (!dry) memset(p, POISON, bytes);
    std::lock_guard<std::mutex> lock(memory_guard);
    taken[p] = {map, all, p, bytes, nullptr};
    ++changes;
    return p;
}
size_t give(void *p) {
    std::lock_guard<std::mutex> lock(memory_guard);
    auto found = taken.find(static_cast<uint8_t *>(p));
    if (found == taken.end()) return 0;
    const Taken t = found->second;
    forget(t);
    ++changes;
    munmap(t.map, t.mapped);
    taken.erase(found);
    return t.bytes;
}
bool ours(const void *p) {
    std::lock_guard<std::mutex> lock(memory_guard);
    return taken_at(static_cast<const uint8_t *>(p));
}

} // namespace emulated

using namespace emulated;

void __syncwarp() {
    static const char site = 0;
    together(&site, nullptr, [](Lane *const *lanes) { ++lanes[0]->warp->syncs; });
}
unsigned warp_highest(unsigned x) {
    static const char site = 0;
    together(&site, &x, [](Lane *const *lanes) {
        unsigned highest = 0;
        for (int i = 0; i < WARP; ++i) highest = std::max(highest, *static_cast<unsigned *>(lanes[i]->operand));
        for (int i = 0; i < WARP; ++i) *static_cast<unsigned *>(lanes[i]->operand) = highest;
    });
    return x;
}
void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    static const char site = 0;
    const unsigned b[2] = {b0, b1};
    Product p = {d, a, b};
    together(&site, &p, product);
}
void load_matrix(unsigned (&r)[4], const void *row) {
    static const char site = 0;
    Rows rows = {r, row};
    together(&site, &rows, matrices<false>);
}
void load_matrix_transposed(unsigned (&r)[4], const void *row) {
    static const char site = 0;
    Rows rows = {r, row};
    together(&site, &rows, matrices<true>);
}
void prefetch(const void *p) {
    if (!ours(p)) fail("a prefetch of %p, which is no device memory", p);
}
void __threadfence() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    fenced(here);
}
unsigned atomicInc(unsigned *at, unsigned most) {
    if (!ours(at)) fail("an atomic of %p, which is no device memory", static_cast<void *>(at));
    unsigned old = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(at, &old, old >= most ? 0 : old + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    met(here, at);
    return old;
}
void copy_async(void *to, const void *from, bool valid) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16) fail("a copy that is not aligned to 16 bytes");
    if (here->copy_count == 96) fail("more copies on their way than the emulator keeps");
    if (valid) touch(here, from, 16, false);
    touch(here, to, 16, true);
    memset(to, POISON, 16);
    here->copies[here->copy_count++] = {to, from, valid, here->copy_group};
}
void copy_commit() { ++here->copy_group; }
void copy_wait_for(unsigned pending) {
    unsigned kept = 0;
    for (unsigned i = 0; i < here->copy_count; ++i) {
        const Copy &c = here->copies[i];
        if (c.group + pending >= here->copy_group) {
            here->copies[kept++] = c;
            continue;
        }
        touch(here, c.to, 16, true);
        if (c.valid) memcpy(c.to, c.from, 16);
        else memset(c.to, 0, 16);
    }
    here->copy_count = kept;
}
