// A libcuda.so that runs kernels on the emulated device: the driver calls that cudarc makes, and the ways a driver refuses.
//
// A module must be a real image for the emulated architecture (a cubin, or PTX for no newer one) and must name the function that is
// asked of it; what runs is the same kernel compiled for the host. A capture records and a graph replays. What is put on a stream is
// done at once, or, where the driver is late, only when somebody waits for it: the latest moment that CUDA allows. Who reads, reuses or
// frees too early then gets poison, and a stream that does not wait for another's event runs before it.
//
//   MIEN_EMULATED_ARCH     compute capability, 87 (an Orin); 0: the driver finds no device
//   MIEN_EMULATED_MULTIPROCESSORS  8
//   MIEN_EMULATED_DRIVER   CUDA version of the driver, 12060
//   MIEN_EMULATED_MEMORY   bytes of device memory, 8 GiB
//   MIEN_EMULATED_TELL     1: what is said of the context stands on stderr
//   MIEN_EMULATED_LOST     launches after which the device is lost
//   MIEN_EMULATED_LATE     1: the driver is late; emulated_late(0 or 1) says so for what the calling thread submits
//   emulated_counts()      launches, copies and waits that the calling thread has asked for so far
//   MIEN_EMULATED_PTX      1: the PTX of the image is executed (ptx.h), not the kernels compiled for the host; a path: the PTX in that file
//   MIEN_EMULATED_DRY      a file: launches are written there, a line each (kernel, blocks, instructions of a block, arguments in hex),
//                          and not run, but for one block where PTX is executed, whose instructions are counted; copies and memory
//                          stay, all zeros; emulated_mark(name) begins a stage there
//   MIEN_EMULATED_ORDER, MIEN_EMULATED_THREADS: device.cpp
#include "ptx.h"
#include "runtime.h"
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    NO_BINARY_FOR_GPU = 209,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
};
typedef unsigned long long Address;
#define CALL extern "C" __attribute__((visibility("default"))) int

static long long setting(const char *name, long long otherwise) {
    const char *text = getenv(name);
    return text ? atoll(text) : otherwise;
}
static int arch() {
    static const int value = setting("MIEN_EMULATED_ARCH", 87);
    return value;
}
static size_t memory() {
    static const size_t value = setting("MIEN_EMULATED_MEMORY", 8ll << 30);
    return value;
}

static std::atomic<size_t> used{0};
static std::atomic<long long> launches{0};
static thread_local long long counts[3];
enum { LAUNCHES, COPIES, WAITS };
static std::atomic<bool> lost{false};
extern "C" __attribute__((visibility("default"))) const long long *emulated_counts() { return counts; }

typedef std::function<int()> Work;
struct Graph { std::vector<Work> work; };
struct Stream {
    std::unique_ptr<Graph> recording;
    std::deque<Work> waiting; // only of a late driver
    uint64_t submitted = 0, done = 0;
};
struct Event {
    std::chrono::steady_clock::time_point at;
    Stream *stream = nullptr;
    uint64_t place = 0; // how much of the stream must be done
};
// A kernel of a module: what the host's compiler made of it, and what stands in the image.
struct Function {
    const emulated::Kernel *kernel;
    std::shared_ptr<const emulated::Program> program;
};
struct Module {
    std::string image;
    std::map<std::string, Function> functions;
};

static thread_local int late = setting("MIEN_EMULATED_LATE", 0);
extern "C" __attribute__((visibility("default"))) void emulated_late(int is) { late = is; }

static std::recursive_mutex streams_guard;
static std::set<Stream *> streams;
static Stream &stream_of(void *s) {
    static Stream first;
    return s ? *static_cast<Stream *>(s) : first;
}
// Does what waits on the stream, up to a place in it.
static int finish(Stream &stream, uint64_t place = ~0ull) {
    std::lock_guard<std::recursive_mutex> lock(streams_guard);
    while (!stream.waiting.empty() && stream.done < place) {
        const Work work = std::move(stream.waiting.front());
        stream.waiting.pop_front();
        ++stream.done;
        if (int status = lost ? LAUNCH_FAILED : work()) return status;
    }
    return lost ? LAUNCH_FAILED : SUCCESS;
}
static int submit(void *stream, Work work) {
    if (lost) return LAUNCH_FAILED;
    Stream &to = stream_of(stream);
    if (to.recording) return to.recording->work.push_back(std::move(work)), SUCCESS;
    if (!late && to.waiting.empty()) return work();
    std::lock_guard<std::recursive_mutex> lock(streams_guard);
    to.waiting.push_back(std::move(work));
    ++to.submitted;
    return SUCCESS;
}

CALL cuInit(unsigned) { return arch() ? SUCCESS : NO_DEVICE; }
CALL cuDriverGetVersion(int *v) { return *v = setting("MIEN_EMULATED_DRIVER", 12060), SUCCESS; }
CALL cuDeviceGetCount(int *n) { return *n = 1, SUCCESS; }
CALL cuDeviceGet(int *d, int ordinal) { return *d = 0, ordinal ? INVALID_DEVICE : SUCCESS; }
CALL cuDeviceGetName(char *name, int size, int) { return snprintf(name, size, "emulated device"), SUCCESS; }
CALL cuDeviceTotalMem_v2(size_t *n, int) { return *n = memory(), SUCCESS; }
CALL cuDeviceGetAttribute(int *v, int what, int) {
    switch (what) {
    case 75: *v = arch() / 10; break;
    case 76: *v = arch() % 10; break;
    case 16: *v = setting("MIEN_EMULATED_MULTIPROCESSORS", 8); break;
    case 18: *v = 1; break;  // integrated
    case 10: *v = 32; break; // warp
    case 13: *v = 1020000; break; // clock, kHz
    case 36: *v = 3199000; break; // memory clock, kHz
    case 37: *v = 128; break; // bus width, bits
    case 38: *v = 4 << 20; break; // L2
    default: *v = 0;
    }
    return SUCCESS;
}
static int the_context;
static thread_local void *current;
// How to wait is said before the context is made.
static std::atomic<bool> retained{false};
CALL cuDevicePrimaryCtxRetain(void **c, int) { return *c = &the_context, retained = true, SUCCESS; }
CALL cuDevicePrimaryCtxSetFlags_v2(int, unsigned flags) {
    if (setting("MIEN_EMULATED_TELL", 0)) fprintf(stderr, "emulated driver: context flags %u\n", flags);
    return retained ? ILLEGAL_STATE : SUCCESS;
}
CALL cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
CALL cuCtxSetCurrent(void *c) { return current = c, SUCCESS; }
CALL cuCtxGetCurrent(void **c) { return *c = current, SUCCESS; }
CALL cuCtxSynchronize() {
    std::lock_guard<std::recursive_mutex> lock(streams_guard);
    int status = finish(stream_of(nullptr));
    for (Stream *s : streams)
        if (!status) status = finish(*s);
    return status;
}

CALL cuStreamCreate(void **s, unsigned) {
    Stream *made = new Stream;
    std::lock_guard<std::recursive_mutex> lock(streams_guard);
    streams.insert(made);
    return *s = made, SUCCESS;
}
CALL cuStreamDestroy_v2(void *s) {
    finish(stream_of(s));
    std::lock_guard<std::recursive_mutex> lock(streams_guard);
    streams.erase(static_cast<Stream *>(s));
    return delete static_cast<Stream *>(s), SUCCESS;
}
CALL cuStreamSynchronize(void *s) {
    ++counts[WAITS];
    return lost ? LAUNCH_FAILED : stream_of(s).recording ? CAPTURE_UNSUPPORTED : finish(stream_of(s));
}
static int finish(const Event &e) { return e.stream ? finish(*e.stream, e.place) : SUCCESS; }
CALL cuStreamWaitEvent(void *s, void *e, unsigned) {
    const Event event = *static_cast<Event *>(e);
    return event.stream == &stream_of(s) ? SUCCESS : submit(s, [=] { return finish(event); });
}
CALL cuStreamIsCapturing(void *s, int *status) { return *status = stream_of(s).recording ? 1 : 0, SUCCESS; }
CALL cuStreamBeginCapture_v2(void *s, int) {
    if (!s || stream_of(s).recording) return ILLEGAL_STATE;
    stream_of(s).recording.reset(new Graph);
    return SUCCESS;
}
CALL cuStreamEndCapture(void *s, void **g) {
    if (!stream_of(s).recording) return ILLEGAL_STATE;
    *g = stream_of(s).recording.release();
    return SUCCESS;
}
CALL cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long) { return *e = new Graph(*static_cast<Graph *>(g)), SUCCESS; }
CALL cuGraphUpload(void *, void *) { return SUCCESS; }
CALL cuGraphLaunch(void *e, void *stream) {
    for (const Work &work : static_cast<Graph *>(e)->work)
        if (int status = submit(stream, work)) return status;
    return SUCCESS;
}
CALL cuGraphDestroy(void *g) { return delete static_cast<Graph *>(g), SUCCESS; }
CALL cuGraphExecDestroy(void *g) { return delete static_cast<Graph *>(g), SUCCESS; }

CALL cuEventCreate(void **e, unsigned) { return *e = new Event, SUCCESS; }
CALL cuEventDestroy_v2(void *e) { return delete static_cast<Event *>(e), SUCCESS; }
CALL cuEventRecord(void *e, void *s) {
    Event &event = *static_cast<Event *>(e);
    event = {std::chrono::steady_clock::now(), &stream_of(s), stream_of(s).submitted};
    return SUCCESS;
}
CALL cuEventSynchronize(void *e) { return finish(*static_cast<Event *>(e)); }
CALL cuEventQuery(void *e) {
    const Event &event = *static_cast<Event *>(e);
    return event.stream && event.stream->done < event.place ? NOT_READY : SUCCESS;
}
CALL cuEventElapsedTime(float *ms, void *a, void *b) {
    *ms = std::chrono::duration<float, std::milli>(static_cast<Event *>(b)->at - static_cast<Event *>(a)->at).count();
    return SUCCESS;
}

CALL cuMemGetInfo_v2(size_t *free, size_t *total) { return *total = memory(), *free = memory() - used, SUCCESS; }
CALL cuMemAlloc_v2(Address *p, size_t bytes) {
    if (!bytes) return INVALID_VALUE;
    if (lost) return LAUNCH_FAILED;
    if (used + bytes > memory()) return OUT_OF_MEMORY;
    *p = reinterpret_cast<Address>(emulated::take(bytes));
    if (!*p) return OUT_OF_MEMORY;
    used += bytes;
    return SUCCESS;
}
CALL cuMemFree_v2(Address p) {
    const size_t bytes = emulated::give(reinterpret_cast<void *>(p));
    used -= bytes;
    return bytes ? SUCCESS : INVALID_VALUE;
}
CALL cuMemHostAlloc(void **p, size_t bytes, unsigned) { return *p = emulated::take(bytes), *p ? SUCCESS : OUT_OF_MEMORY; }
CALL cuMemFreeHost(void *p) { return emulated::give(p) ? SUCCESS : INVALID_VALUE; }
CALL cuMemHostGetDevicePointer_v2(Address *d, void *p, unsigned) { return *d = reinterpret_cast<Address>(p), SUCCESS; }

static int copy(void *stream, void *to, const void *from, size_t bytes) {
    return submit(stream, [=] { return ++counts[COPIES], memmove(to, from, bytes), SUCCESS; });
}
// Memory of the program that is not pinned is read before the call returns.
static int copy_in(void *stream, Address to, const void *from, size_t bytes) {
    if (emulated::ours(from) || stream_of(stream).recording) return copy(stream, reinterpret_cast<void *>(to), from, bytes);
    auto held = std::make_shared<std::string>(static_cast<const char *>(from), bytes);
    return submit(stream, [=] { return ++counts[COPIES], memcpy(reinterpret_cast<void *>(to), held->data(), bytes), SUCCESS; });
}
static int copy_out(void *stream, void *to, Address from, size_t bytes) {
    if (late && !stream_of(stream).recording) memset(to, 0xff, bytes);
    return copy(stream, to, reinterpret_cast<void *>(from), bytes);
}
CALL cuMemcpyHtoD_v2(Address to, const void *from, size_t n) {
    const int status = copy_in(nullptr, to, from, n);
    return status ? status : finish(stream_of(nullptr));
}
CALL cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t n, void *s) { return copy_in(s, to, from, n); }
CALL cuMemcpyDtoH_v2(void *to, Address from, size_t n) {
    const int status = (++counts[WAITS], copy_out(nullptr, to, from, n));
    return status ? status : finish(stream_of(nullptr));
}
CALL cuMemcpyDtoHAsync_v2(void *to, Address from, size_t n, void *s) { return copy_out(s, to, from, n); }
CALL cuMemcpyDtoDAsync_v2(Address to, Address from, size_t n, void *s) {
    return copy(s, reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), n);
}
CALL cuMemsetD8_v2(Address p, unsigned char value, size_t n) {
    const int status = submit(nullptr, [=] { return memset(reinterpret_cast<void *>(p), value, n), SUCCESS; });
    return status ? status : finish(stream_of(nullptr));
}
CALL cuMemsetD8Async(Address p, unsigned char value, size_t n, void *s) {
    return submit(s, [=] { return memset(reinterpret_cast<void *>(p), value, n), SUCCESS; });
}

// How long an image is cannot be asked, so its own headers say: sections of an ELF file, the zero behind PTX.
CALL cuModuleLoadData(void **m, const void *image) {
    const char *bytes = static_cast<const char *>(image);
    if (memcmp(bytes, "\177ELF", 4)) {
        const char *target = strstr(bytes, ".target sm_");
        if (!target) return INVALID_IMAGE;
        if (atoi(target + 11) > arch()) return NO_BINARY_FOR_GPU;
        return *m = new Module{bytes, {}}, SUCCESS;
    }
    uint16_t machine, section_size, sections;
    uint32_t flags;
    uint64_t sections_at;
    memcpy(&machine, bytes + 18, 2);
    memcpy(&sections_at, bytes + 40, 8);
    memcpy(&flags, bytes + 48, 4);
    memcpy(&section_size, bytes + 58, 2);
    memcpy(&sections, bytes + 60, 2);
    // Where the architecture stands in the flags depends on the version of the format, 7 or 8.
    const unsigned made_for = bytes[8] == 8 ? flags >> 8 & 0xff : flags & 0xff;
    if (machine != 190) return INVALID_IMAGE;
    if (made_for != static_cast<unsigned>(arch())) return NO_BINARY_FOR_GPU;
    uint64_t end = sections_at + uint64_t(section_size) * sections;
    for (uint16_t i = 0; i < sections; ++i) {
        const char *section = bytes + sections_at + uint64_t(section_size) * i;
        uint32_t type;
        uint64_t at, size;
        memcpy(&type, section + 4, 4);
        memcpy(&at, section + 24, 8);
        memcpy(&size, section + 32, 8);
        if (type != 8 && at + size > end) end = at + size;
    }
    return *m = new Module{std::string(bytes, end), {}}, SUCCESS;
}
CALL cuModuleUnload(void *m) { return delete static_cast<Module *>(m), SUCCESS; }
static std::string file(const char *path) {
    std::ifstream from(path);
    return {std::istreambuf_iterator<char>(from), {}};
}
CALL cuModuleGetFunction(void **f, void *m, const char *name) {
    const std::string &image = static_cast<Module *>(m)->image;
    const std::string whole = image[0] == '\177' ? std::string(".text.") + name + '\0' : std::string(".entry ") + name + '(';
    const emulated::Kernel *k = emulated::find(name);
    if (!k || image.find(whole) == std::string::npos) return NOT_FOUND;
    Function &function = static_cast<Module *>(m)->functions[name];
    function.kernel = k;
    const char *wanted = getenv("MIEN_EMULATED_PTX");
    if (wanted && !function.program) {
        static const bool own = !strcmp(wanted, "1");
        static const std::string other = own ? "" : file(wanted);
        const std::string &text = own ? image : other;
        std::string message = "there is machine code for this architecture, no PTX (try MIEN_EMULATED_ARCH=86)";
        if (!own && text.empty()) message = std::string("nothing to read in ") + wanted;
        else if (text[0] != '\177') function.program = emulated::read_program(text, name, message);
        if (!function.program) return fprintf(stderr, "emulated driver: %s\n", message.c_str()), INVALID_IMAGE;
    }
    return *f = &function, SUCCESS;
}
CALL cuFuncGetAttribute(int *v, int, void *) { return *v = 0, SUCCESS; }
CALL cuFuncSetAttribute(void *, int, int) { return SUCCESS; }

static FILE *dry_run() {
    static FILE *const file = [] {
        const char *name = getenv("MIEN_EMULATED_DRY");
        return name ? fopen(name, "w") : nullptr;
    }();
    return file;
}
extern "C" __attribute__((visibility("default"))) void emulated_mark(const char *stage) {
    if (FILE *dry = dry_run()) fprintf(dry, "= %s\n", stage), fflush(dry);
}
CALL cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream,
                    void **arguments, void **) {
    const Function *function = static_cast<Function *>(f);
    const emulated::Kernel *k = function->kernel;
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535 || !bx || bx > 1024 || bx % 32 || by != 1 || bz != 1 || shared) {
        fprintf(stderr, "emulated driver: a launch of %u x %u x %u blocks of %u x %u x %u\n", gx, gy, gz, bx, by, bz);
        return INVALID_VALUE;
    }
    auto held = std::make_shared<std::vector<std::string>>();
    for (size_t i = 0; i < emulated::argument_count(k); ++i)
        held->emplace_back(static_cast<char *>(arguments[i]), emulated::argument_size(k, i));
    return submit(stream, [=] {
        static const long long last = setting("MIEN_EMULATED_LOST", -1);
        ++counts[LAUNCHES];
        if (FILE *dry = dry_run()) {
            uint64_t issued = 0;
            try {
                if (function->program) issued = emulated::issued_by_a_block(*function->program, {gx, gy, gz}, {bx, by, bz}, *held);
            } catch (const std::string &why) {
                return fprintf(stderr, "emulated device: %s\n", why.c_str()), LAUNCH_FAILED;
            }
            fprintf(dry, "%s %u %u %u %llu", emulated::name_of(k), gx, gy, gz, static_cast<unsigned long long>(issued));
            for (const std::string &argument : *held) {
                fputc(' ', dry);
                for (unsigned char byte : argument) fprintf(dry, "%02x", byte);
            }
            return fputc('\n', dry), fflush(dry), SUCCESS;
        }
        if (++launches > last && last >= 0) lost = true;
        if (lost) return LAUNCH_FAILED;
        std::vector<void *> at;
        for (std::string &argument : *held) at.push_back(&argument[0]);
        std::string message;
        const bool good = function->program ? emulated::launch(*function->program, {gx, gy, gz}, {bx, by, bz}, *held, message)
                                            : emulated::launch(k, {gx, gy, gz}, {bx, by, bz}, at.data(), message);
        if (good) return SUCCESS;
        fprintf(stderr, "emulated device: %s\n", message.c_str());
        lost = true;
        return LAUNCH_FAILED;
    });
}

CALL cuGetErrorName(int status, const char **name) {
    switch (status) {
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case NO_BINARY_FOR_GPU: *name = "CUDA_ERROR_NO_BINARY_FOR_GPU"; break;
    case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; break;
    default: *name = "CUDA_ERROR"; break;
    }
    return SUCCESS;
}
CALL cuGetErrorString(int status, const char **text) { return cuGetErrorName(status, text); }
