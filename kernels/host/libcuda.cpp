// A stand-in for NVIDIA's libcuda.so.1, for tests: as much of the driver as speckled calls, over the host build of its
// kernels. Nothing that is asynchronous is done before somebody waits for it, so that whoever forgets to wait computes
// something else; what is copied out of pinned memory is read as late as that.
//
// Environment:
//   FAKE_CUDA_GPUS=1
//   FAKE_CUDA_MEMORY=BYTES        of each GPU, 1 GiB
//   FAKE_CUDA_PINNED=BYTES        of the host's memory that may be pinned, 1 GiB
//   FAKE_CUDA_CAPABILITY=90       major and minor in one number
//   FAKE_CUDA_REFUSES=CODE        machine code is refused with this error, as by a driver that is too old for it
//   FAKE_CUDA_CONTEXTS=FILE       each GPU whose context is made adds its number, a line each
//   FAKE_CUDA_FAULT=KERNEL:CODE   that kernel ends with that error, which every later call then has, as on a GPU
//   FAKE_CUDA_HANG=KERNEL         that kernel never ends

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <unistd.h>

extern "C" int speckled_arguments(const char *name);
extern "C" int speckled_launch(const char *name, unsigned int seed, unsigned int blocks, unsigned int threads,
                               size_t shared_bytes, void **arguments);

namespace {

const int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
          NO_BINARY_FOR_GPU = 209, NOT_FOUND = 500;

// Attributes of a device.
const int MAJOR = 75, MINOR = 76;

struct Event;

// What a stream has still to do.
struct Stream {
    std::deque<std::function<void()>> waiting;
};

struct Event {
    Stream *stream = nullptr;
    bool done = true;
};

struct Function {
    std::string name;
    int arguments;
};

std::mutex lock;
std::set<Stream *> streams;
std::map<uint64_t, size_t> memory;
std::set<std::pair<const unsigned char *, const unsigned char *>> pinned;
std::map<std::string, std::unique_ptr<Function>> functions;
size_t used = 0, used_pinned = 0;
unsigned int launches = 0;
int sticky = SUCCESS;

size_t setting(const char *name, size_t usual) {
    const char *text = getenv(name);
    return text == nullptr ? usual : strtoull(text, nullptr, 10);
}

int gpus() { return int(setting("FAKE_CUDA_GPUS", 1)); }
size_t limit() { return setting("FAKE_CUDA_MEMORY", size_t(1) << 30); }
int capability() { return int(setting("FAKE_CUDA_CAPABILITY", 90)); }

void drain(Stream *stream) {
    while (!stream->waiting.empty()) {
        auto next = std::move(stream->waiting.front());
        stream->waiting.pop_front();
        next();
    }
}

void reach(Event *event) {
    while (!event->done && event->stream != nullptr && !event->stream->waiting.empty()) {
        auto next = std::move(event->stream->waiting.front());
        event->stream->waiting.pop_front();
        next();
    }
}

// Adds work that takes time; after a fault nothing more of it happens.
void later(Stream *stream, std::function<void()> work) {
    stream->waiting.push_back([work = std::move(work)] {
        if (sticky == SUCCESS) work();
    });
}

void drain_all() {
    for (Stream *stream : streams) drain(stream);
}

bool is_pinned(const void *from, size_t bytes) {
    const unsigned char *start = static_cast<const unsigned char *>(from);
    for (auto &[first, end] : pinned) {
        if (start >= first && start + bytes <= end) return true;
    }
    return false;
}

// Whether all of it is memory that was allocated.
bool is_device(uint64_t at, size_t bytes) {
    auto after = memory.upper_bound(at);
    if (after == memory.begin()) return false;
    --after;
    return at + bytes <= after->first + after->second;
}

void fault_of(const std::string &name) {
    const char *wanted = getenv("FAKE_CUDA_FAULT");
    if (wanted == nullptr) return;
    const char *colon = strchr(wanted, ':');
    if (colon != nullptr && name == std::string(wanted, colon)) sticky = atoi(colon + 1);
}

// The process waits for the GPU until somebody ends it.
void hang_in(const std::string &name) {
    const char *wanted = getenv("FAKE_CUDA_HANG");
    while (wanted != nullptr && name == wanted) pause();
}

}  // namespace

#define GUARD std::lock_guard<std::mutex> guard(lock)
#define CALL extern "C" int

CALL cuInit(unsigned int) { return gpus() == 0 ? NO_DEVICE : SUCCESS; }

CALL cuGetErrorName(int error, const char **text) {
    static thread_local std::string name;
    name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_" + std::to_string(error);
    *text = name.c_str();
    return SUCCESS;
}

CALL cuGetErrorString(int, const char **text) {
    *text = "played by a test";
    return SUCCESS;
}

CALL cuDeviceGetCount(int *count) {
    *count = gpus();
    return SUCCESS;
}

CALL cuDeviceGet(int *device, int ordinal) {
    if (ordinal < 0 || ordinal >= gpus()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

CALL cuDeviceGetName(char *name, int length, int) {
    snprintf(name, size_t(length), "Imaginary GPU");
    return SUCCESS;
}

CALL cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    for (int k = 0; k < 16; ++k) uuid[k] = (unsigned char)(k == 15 ? device : 0x11 * k);
    return SUCCESS;
}

CALL cuDeviceGetAttribute(int *value, int attribute, int) {
    if (attribute != MAJOR && attribute != MINOR) return INVALID_VALUE;
    *value = attribute == MAJOR ? capability() / 10 : capability() % 10;
    return SUCCESS;
}

CALL cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = reinterpret_cast<void *>(uintptr_t(device) + 1);
    if (const char *path = getenv("FAKE_CUDA_CONTEXTS")) {
        FILE *file = fopen(path, "a");
        if (file != nullptr) {
            fprintf(file, "%d\n", device);
            fclose(file);
        }
    }
    return SUCCESS;
}

CALL cuDevicePrimaryCtxRelease_v2(int) {
    GUARD;
    drain_all();
    return SUCCESS;
}

CALL cuCtxSetCurrent(void *) { return SUCCESS; }

CALL cuStreamCreate(Stream **stream, unsigned int) {
    GUARD;
    *stream = new Stream;
    streams.insert(*stream);
    return SUCCESS;
}

CALL cuStreamDestroy_v2(Stream *stream) {
    GUARD;
    drain(stream);
    streams.erase(stream);
    delete stream;
    return SUCCESS;
}

CALL cuStreamSynchronize(Stream *stream) {
    GUARD;
    drain(stream);
    return sticky;
}

CALL cuStreamWaitEvent(Stream *stream, Event *event, unsigned int) {
    GUARD;
    // the event may be destroyed before it is waited for
    auto kept = *reinterpret_cast<std::shared_ptr<Event> *>(event);
    stream->waiting.push_back([kept] { reach(kept.get()); });
    return sticky;
}

CALL cuEventCreate(Event **event, unsigned int) {
    *event = reinterpret_cast<Event *>(new std::shared_ptr<Event>(new Event));
    return SUCCESS;
}

CALL cuEventRecord(Event *event, Stream *stream) {
    GUARD;
    auto kept = *reinterpret_cast<std::shared_ptr<Event> *>(event);
    kept->stream = stream;
    kept->done = false;
    stream->waiting.push_back([kept] { kept->done = true; });
    return sticky;
}

CALL cuEventElapsedTime(float *milliseconds, Event *, Event *) {
    *milliseconds = 0.5f;
    return SUCCESS;
}

CALL cuEventSynchronize(Event *event) {
    GUARD;
    reach(reinterpret_cast<std::shared_ptr<Event> *>(event)->get());
    return sticky;
}

CALL cuEventDestroy_v2(Event *event) {
    delete reinterpret_cast<std::shared_ptr<Event> *>(event);
    return SUCCESS;
}

// Machine code is an ELF file whose flags begin with what it is for: 90 for sm_90. It runs on GPUs of its generation from
// its own on.
int load_code(const unsigned char *image) {
    const size_t FLAGS = 48;
    int made_for = image[FLAGS], gpu = capability();
    if (int refused = int(setting("FAKE_CUDA_REFUSES", 0))) return refused;
    return made_for / 10 == gpu / 10 && made_for <= gpu ? SUCCESS : NO_BINARY_FOR_GPU;
}

CALL cuModuleLoadData(void **module, const void *image) {
    *module = const_cast<void *>(image);
    if (memcmp(image, "\x7f" "ELF", 4) == 0) return load_code(static_cast<const unsigned char *>(image));
    // a text of PTX
    return strstr(static_cast<const char *>(image), ".target sm_70") == nullptr ? INVALID_IMAGE : SUCCESS;
}

CALL cuModuleUnload(void *) { return SUCCESS; }

CALL cuModuleGetFunction(Function **function, void *, const char *name) {
    GUARD;
    int arguments = speckled_arguments(name);
    if (arguments < 0) return NOT_FOUND;
    auto &own = functions[name];
    if (!own) own.reset(new Function{name, arguments});
    *function = own.get();
    return SUCCESS;
}

CALL cuLaunchKernel(Function *function, unsigned int blocks, unsigned int, unsigned int, unsigned int threads,
                    unsigned int, unsigned int, unsigned int shared, Stream *stream, void **arguments, void **) {
    GUARD;
    if (blocks == 0 || threads == 0 || threads > 1024 || shared > 48 * 1024) return INVALID_VALUE;
    // a driver knows the size of each; speckled gives 16 bytes to all
    std::vector<std::array<uint64_t, 2>> values(size_t(function->arguments));
    for (size_t k = 0; k < values.size(); ++k) memcpy(values[k].data(), arguments[k], sizeof(values[k]));
    unsigned int seed = ++launches;
    later(stream, [=]() mutable {
        std::vector<void *> pointers;
        for (auto &value : values) pointers.push_back(value.data());
        hang_in(function->name);
        fault_of(function->name);
        if (sticky == SUCCESS) speckled_launch(function->name.c_str(), seed, blocks, threads, shared, pointers.data());
    });
    return sticky;
}

CALL cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    GUARD;
    *total = limit();
    *free_bytes = limit() - used;
    return sticky;
}

CALL cuMemAlloc_v2(uint64_t *start, size_t bytes) {
    GUARD;
    if (sticky != SUCCESS) return sticky;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > limit() - used) return OUT_OF_MEMORY;
    void *found = malloc(bytes);
    memset(found, 0xa5, bytes);
    *start = uint64_t(found);
    memory[*start] = bytes;
    used += bytes;
    return SUCCESS;
}

CALL cuMemFree_v2(uint64_t start) {
    GUARD;
    drain_all();
    auto found = memory.find(start);
    if (found == memory.end()) return INVALID_VALUE;
    used -= found->second;
    memory.erase(found);
    free(reinterpret_cast<void *>(start));
    return SUCCESS;
}

CALL cuMemHostAlloc(void **start, size_t bytes, unsigned int) {
    GUARD;
    if (sticky != SUCCESS) return sticky;
    if (bytes > setting("FAKE_CUDA_PINNED", size_t(1) << 30) - used_pinned) return OUT_OF_MEMORY;
    unsigned char *found = static_cast<unsigned char *>(malloc(bytes));
    used_pinned += bytes;
    pinned.insert({found, found + bytes});
    *start = found;
    return SUCCESS;
}

CALL cuMemFreeHost(void *start) {
    GUARD;
    drain_all();
    for (auto own = pinned.begin(); own != pinned.end(); ++own) {
        if (own->first == start) {
            used_pinned -= size_t(own->second - own->first);
            pinned.erase(own);
            free(start);
            return SUCCESS;
        }
    }
    return INVALID_VALUE;
}

CALL cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream) {
    GUARD;
    if (!is_device(to, bytes)) return INVALID_VALUE;
    void *target = reinterpret_cast<void *>(to);
    if (is_pinned(from, bytes)) {
        later(stream, [=] { memcpy(target, from, bytes); });
    } else {
        std::string kept(static_cast<const char *>(from), bytes);
        later(stream, [=] { memcpy(target, kept.data(), bytes); });
    }
    return sticky;
}

CALL cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream) {
    GUARD;
    if (!is_device(from, bytes)) return INVALID_VALUE;
    later(stream, [=] { memcpy(to, reinterpret_cast<const void *>(from), bytes); });
    return sticky;
}

CALL cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream *stream) {
    GUARD;
    if (!is_device(to, bytes) || !is_device(from, bytes)) return INVALID_VALUE;
    later(stream, [=] { memcpy(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), bytes); });
    return sticky;
}

CALL cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream *stream) {
    GUARD;
    if (!is_device(to, bytes)) return INVALID_VALUE;
    later(stream, [=] { memset(reinterpret_cast<void *>(to), value, bytes); });
    return sticky;
}
