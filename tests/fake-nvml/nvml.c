/* A stand-in for libnvidia-ml.so that plays a script, so that GPU faults can be tested without a GPU.
 *
 * It is responsible for every NVML function that the program calls through nvml-wrapper, with the ABI of nvml.h. It must
 * not know anything about the program: what it answers comes from the script alone.
 *
 * Build: cc -shared -fPIC -O1 -o libnvidia-ml.so nvml.c -ldl -lpthread
 *
 * The script is a text file, read anew at each call, so that a test changes it (by renaming a new one into place) while
 * the program runs. Its path is in FAKE_NVML_SCRIPT, or else the path of this library with ".script" behind it. Each
 * line is a key, a space and a value; of a key that comes twice the last line counts. N is a GPU's index, M that of a
 * MIG instance in it. "# ..." is a comment.
 *
 *   driver 550.54.15           the driver's version
 *   init 0                     what nvmlInit returns, as a number of nvmlReturn_t: 9 is "driver not loaded"
 *   gpus 2                     how many there are; "gpus error 999": nobody can tell
 *   N.uuid N.name N.serial N.pci N.capability (9.0) N.numa (a node) N.cpus (a mask, hexadecimal)
 *   N.memory TOTAL USED        bytes
 *   N.utilization GPU MEMORY   per cent
 *   N.temperature N.slowdown   degrees
 *   N.power (mW) N.energy (mJ) N.clock.sm N.clock.memory (MHz) N.throttle (bits, hexadecimal)
 *   N.ecc.volatile CORRECTED UNCORRECTED      N.ecc.aggregate CORRECTED UNCORRECTED
 *   N.retired SINGLE DOUBLE PENDING           N.remapped CORRECTED UNCORRECTED PENDING FAILED
 *   N.replays 3
 *   N.processes PID:BYTES PID:BYTES ...
 *   N.migs 2                   MIG is on, with so many instances
 *   N.mig.M.uuid  N.mig.M.name  N.mig.M.ids GPU_INSTANCE COMPUTE_INSTANCE  N.mig.M.memory TOTAL USED
 *   N.error 15                 every call about the GPU returns that: 15 is "lost", 16 "needs a reset", 999 "unknown"
 *   N.xids 0                   the GPU has no events
 *   xid.1 0 79                 the first Xid event: GPU 0, Xid 79; then xid.2 and so on; each comes once
 *   events 15                  what the wait for events returns at once
 *   hang 1                     every call about a GPU waits until the line is gone; "hang 2": the wait for events too
 *   hang.tell.1 PATH           a named pipe that is opened when a call about a GPU waits; hang.tell.2: one for events
 *
 * A value "error CODE" makes that one query fail; a missing line makes it "not supported" (3).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10 };
enum { XID_EVENT = 8, MOST_GPUS = 16, MOST_MIGS = 8, LONGEST = 512, NO_INSTANCE = -1 };

typedef int nvmlReturn_t;
typedef struct device {
    int gpu, mig;
} *nvmlDevice_t;
typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;
typedef struct {
    unsigned gpu, memory;
} nvmlUtilization_t;
typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpuInstance, computeInstance;
} nvmlProcessInfo_t;
typedef struct {
    nvmlDevice_t device;
    unsigned long long type, data;
    unsigned gpuInstance, computeInstance;
} nvmlEventData_t;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct device devices[MOST_GPUS], instances[MOST_GPUS][MOST_MIGS];
static char script[4096];
static pthread_mutex_t events = PTHREAD_MUTEX_INITIALIZER;
static int delivered;

static void set_up(void) {
    Dl_info self;
    const char *path = getenv("FAKE_NVML_SCRIPT");
    if (path)
        snprintf(script, sizeof script, "%s", path);
    else if (dladdr((void *)set_up, &self))
        snprintf(script, sizeof script, "%s.script", self.dli_fname);
    for (int gpu = 0; gpu < MOST_GPUS; gpu++) {
        devices[gpu] = (struct device){gpu, NO_INSTANCE};
        for (int mig = 0; mig < MOST_MIGS; mig++)
            instances[gpu][mig] = (struct device){gpu, mig};
    }
}

/* The value of a key; 0 when there is none. */
static int find(const char *key, char *value) {
    char line[LONGEST];
    int found = 0;
    pthread_once(&once, set_up);
    FILE *file = fopen(script, "r");
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) || line[length] != ' ')
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(value, LONGEST, "%s", line + length + 1);
        found = 1;
    }
    fclose(file);
    return found;
}

static int number(const char *key, int otherwise) {
    char value[LONGEST];
    return find(key, value) ? atoi(value) : otherwise;
}

/* Whether someone reads the pipe who now knows. */
static int tell(int from) {
    char key[LONGEST], path[LONGEST];
    snprintf(key, sizeof key, "hang.tell.%d", from);
    if (!find(key, path))
        return 0;
    int pipe = open(path, O_WRONLY | O_NONBLOCK);
    if (pipe >= 0)
        close(pipe);
    return pipe >= 0;
}

static void wait_while_hanging(int from) {
    for (int told = 0; number("hang", 0) >= from; usleep(1000))
        told = told || tell(from);
}

/* What a query about a device returns, and the value that the script has for it. */
static nvmlReturn_t ask(nvmlDevice_t device, const char *what, char *value) {
    char key[LONGEST];
    wait_while_hanging(1);
    snprintf(key, sizeof key, "%d.error", device->gpu);
    nvmlReturn_t error = number(key, SUCCESS);
    if (error)
        return error;
    if (device->mig == NO_INSTANCE)
        snprintf(key, sizeof key, "%d.%s", device->gpu, what);
    else
        snprintf(key, sizeof key, "%d.mig.%d.%s", device->gpu, device->mig, what);
    if (!find(key, value))
        return NOT_SUPPORTED;
    return sscanf(value, "error %d", &error) == 1 ? error : SUCCESS;
}

static nvmlReturn_t ask_text(nvmlDevice_t device, const char *what, char *text, unsigned length) {
    char value[LONGEST];
    nvmlReturn_t error = ask(device, what, value);
    if (!error)
        snprintf(text, length, "%s", value);
    return error;
}

/* Up to four numbers. */
static nvmlReturn_t ask_numbers(nvmlDevice_t device, const char *what, unsigned long long numbers[4]) {
    char value[LONGEST];
    nvmlReturn_t error = ask(device, what, value);
    memset(numbers, 0, 4 * sizeof *numbers);
    if (!error)
        sscanf(value, "%llu %llu %llu %llu", &numbers[0], &numbers[1], &numbers[2], &numbers[3]);
    return error;
}

static nvmlReturn_t ask_number(nvmlDevice_t device, const char *what, unsigned *found) {
    unsigned long long numbers[4];
    nvmlReturn_t error = ask_numbers(device, what, numbers);
    *found = (unsigned)numbers[0];
    return error;
}

static nvmlReturn_t ask_mask(nvmlDevice_t device, const char *what, unsigned long long *mask) {
    char value[LONGEST];
    nvmlReturn_t error = ask(device, what, value);
    if (!error)
        *mask = strtoull(value, NULL, 16);
    return error;
}

nvmlReturn_t nvmlInit_v2(void) {
    wait_while_hanging(1);
    return number("init", SUCCESS);
}

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return nvmlInit_v2();
}

nvmlReturn_t nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(nvmlReturn_t error) {
    (void)error;
    return "an error of the script";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned length) {
    char value[LONGEST];
    snprintf(text, length, "%s", find("driver", value) ? value : "550.54.15");
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    wait_while_hanging(1);
    char value[LONGEST];
    nvmlReturn_t error;
    if (find("gpus", value) && sscanf(value, "error %d", &error) == 1)
        return error;
    *count = (unsigned)number("gpus", 0);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    if (index >= (unsigned)number("gpus", 0) || index >= MOST_GPUS)
        return INVALID_ARGUMENT;
    *device = &devices[index];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *text, unsigned length) {
    return ask_text(device, "uuid", text, length);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned length) {
    return ask_text(device, "name", text, length);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *text, unsigned length) {
    return ask_text(device, "serial", text, length);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index) {
    *index = (unsigned)(device->mig == NO_INSTANCE ? device->gpu : device->mig);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info) {
    memset(info, 0, sizeof *info);
    return ask_text(device, "pci", info->busId, sizeof info->busId);
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    char value[LONGEST];
    nvmlReturn_t error = ask(device, "capability", value);
    if (!error)
        sscanf(value, "%d.%d", major, minor);
    return error;
}

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned size, unsigned long *set) {
    unsigned long long mask = 0;
    nvmlReturn_t error = ask_mask(device, "cpus", &mask);
    for (unsigned at = 0; at < size; at++)
        set[at] = at ? 0 : (unsigned long)mask;
    return error;
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned size, unsigned long *set, unsigned scope) {
    unsigned node = 0;
    (void)scope;
    nvmlReturn_t error = ask_number(device, "numa", &node);
    for (unsigned at = 0; at < size; at++)
        set[at] = !error && node / 64 == at ? 1ul << node % 64 : 0;
    return error;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    unsigned long long numbers[4];
    nvmlReturn_t error = ask_numbers(device, "memory", numbers);
    memory->total = numbers[0];
    memory->used = numbers[1];
    memory->free = numbers[0] - numbers[1];
    memory->reserved = 0;
    return error;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
    unsigned long long numbers[4];
    nvmlReturn_t error = ask_numbers(device, "utilization", numbers);
    *rates = (nvmlUtilization_t){(unsigned)numbers[0], (unsigned)numbers[1]};
    return error;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *degrees) {
    (void)sensor;
    return ask_number(device, "temperature", degrees);
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, unsigned kind, unsigned *degrees) {
    return kind == 1 ? ask_number(device, "slowdown", degrees) : NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts) {
    return ask_number(device, "power", milliwatts);
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
    unsigned long long numbers[4];
    nvmlReturn_t error = ask_numbers(device, "energy", numbers);
    *millijoules = numbers[0];
    return error;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned kind, unsigned *megahertz) {
    return kind == 1   ? ask_number(device, "clock.sm", megahertz)
           : kind == 2 ? ask_number(device, "clock.memory", megahertz)
                       : NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    return ask_mask(device, "throttle", reasons);
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned type, unsigned counter,
                                         unsigned long long *count) {
    unsigned long long numbers[4];
    nvmlReturn_t error = ask_numbers(device, counter ? "ecc.aggregate" : "ecc.volatile", numbers);
    *count = numbers[type ? 1 : 0];
    return error;
}

/* Addresses and times of retired pages are of no interest: they stay as they are. */
static nvmlReturn_t retired(nvmlDevice_t device, unsigned cause, unsigned *count) {
    unsigned long long numbers[4];
    nvmlReturn_t error = ask_numbers(device, "retired", numbers);
    unsigned room = *count;
    *count = (unsigned)numbers[cause ? 1 : 0];
    return !error && *count > room ? INSUFFICIENT_SIZE : error;
}

nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned cause, unsigned *count, void *addresses) {
    (void)addresses;
    return retired(device, cause, count);
}

nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned cause, unsigned *count, void *addresses,
                                          void *times) {
    (void)addresses, (void)times;
    return retired(device, cause, count);
}

nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, unsigned *pending) {
    unsigned long long numbers[4];
    nvmlReturn_t error = ask_numbers(device, "retired", numbers);
    *pending = (unsigned)numbers[2];
    return error;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned *corrected, unsigned *uncorrected,
                                       unsigned *pending, unsigned *failed) {
    unsigned long long numbers[4];
    nvmlReturn_t error = ask_numbers(device, "remapped", numbers);
    *corrected = (unsigned)numbers[0];
    *uncorrected = (unsigned)numbers[1];
    *pending = (unsigned)numbers[2];
    *failed = (unsigned)numbers[3];
    return error;
}

nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t device, unsigned *count) {
    return ask_number(device, "replays", count);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *list) {
    char value[LONGEST], *rest = value;
    unsigned found = 0, room = *count;
    nvmlReturn_t error = ask(device, "processes", value);
    if (error)
        return error;
    for (char *word; (word = strsep(&rest, " "));) {
        nvmlProcessInfo_t one = {0, 0, -1u, -1u};
        if (sscanf(word, "%u:%llu", &one.pid, &one.used) != 2)
            continue;
        if (list && found < room)
            list[found] = one;
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending) {
    unsigned count = 0;
    nvmlReturn_t error = device->mig == NO_INSTANCE ? ask_number(device, "migs", &count) : NOT_SUPPORTED;
    *current = *pending = !error;
    return error;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count) {
    nvmlReturn_t error = ask_number(device, "migs", count);
    /* there may be room for more than there are */
    *count = error ? 0 : MOST_MIGS;
    return error;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index, nvmlDevice_t *instance) {
    unsigned count = 0;
    nvmlReturn_t error = ask_number(device, "migs", &count);
    if (!error && index >= count)
        error = NOT_FOUND;
    if (!error)
        *instance = &instances[device->gpu][index];
    return error;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t instance, nvmlDevice_t *device) {
    *device = &devices[instance->gpu];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *is) {
    *is = device->mig != NO_INSTANCE;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *id) { return ask_number(device, "ids", id); }

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned *id) {
    unsigned long long numbers[4];
    nvmlReturn_t error = ask_numbers(device, "ids", numbers);
    *id = (unsigned)numbers[1];
    return error;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types) {
    char key[LONGEST];
    snprintf(key, sizeof key, "%d.xids", device->gpu);
    *types = number(key, 1) ? XID_EVENT : 0;
    return SUCCESS;
}

nvmlReturn_t nvmlEventSetCreate(void **set) {
    *set = &delivered;
    return SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(void *set) {
    (void)set;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, void *set) {
    (void)device, (void)set;
    return types & ~(unsigned long long)XID_EVENT ? INVALID_ARGUMENT : SUCCESS;
}

/* The next event, if the script has it already. */
static int next_event(nvmlEventData_t *event) {
    char key[LONGEST], value[LONGEST];
    int gpu = 0, found = 0;
    pthread_mutex_lock(&events);
    snprintf(key, sizeof key, "xid.%d", delivered + 1);
    if (find(key, value) && sscanf(value, "%d %llu", &gpu, &event->data) == 2 && gpu >= 0 && gpu < MOST_GPUS) {
        event->device = &devices[gpu];
        event->type = XID_EVENT;
        event->gpuInstance = event->computeInstance = -1u;
        delivered++;
        found = 1;
    }
    pthread_mutex_unlock(&events);
    return found;
}

nvmlReturn_t nvmlEventSetWait_v2(void *set, nvmlEventData_t *event, unsigned milliseconds) {
    (void)set;
    for (unsigned waited = 0;; waited++) {
        wait_while_hanging(2);
        nvmlReturn_t error = number("events", SUCCESS);
        if (error)
            return error;
        if (next_event(event))
            return SUCCESS;
        if (waited >= milliseconds)
            return TIMEOUT;
        usleep(1000);
    }
}
