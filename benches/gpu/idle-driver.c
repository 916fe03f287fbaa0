/* A CUDA driver of a GPU that is not there: memory is the host's, copies are made, kernels are
 * loaded and launched, and do nothing.
 *
 * With NVIDIA's real run-time compiler beside it, which needs no GPU, a CUDA build runs its whole
 * path on any machine: kernels are generated and compiled for the architecture, launches are
 * checked against its limits, memory is reserved and given back. What comes out is zeros.
 *
 *   cc -shared -fPIC -O1 -Wl,-soname,libcuda.so.1 -o libcuda.so.1 idle-driver.c
 *
 * IDLE_PTX     a folder that every loaded module is written to
 * IDLE_MEMORY  bytes of the GPU's memory; 80e9 unless given
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int CUresult;
typedef uint64_t CUdeviceptr;
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500, NOT_SUPPORTED = 801 };

/* An H100. */
enum { MAJOR = 9, MINOR = 0, SHARED = 227 * 1024, THREADS = 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t used;
static int modules;
static uint64_t launches;

static uint64_t capacity(void) {
    const char *text = getenv("IDLE_MEMORY");
    return (uint64_t)(text ? strtod(text, NULL) : 80e9);
}

/* The run-time compiler asks, and goes on without. */
CUresult cuGetExportTable(const void **table, const void *id) {
    (void)id;
    *table = NULL;
    return NOT_FOUND;
}

CUresult cuInit(unsigned flags) { (void)flags; return OK; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return OK; }
CUresult cuDeviceGetCount(int *count) { *count = 1; return OK; }
CUresult cuDeviceGet(int *device, int index) { *device = index; return index == 0 ? OK : INVALID; }
CUresult cuDeviceGetName(char *name, int len, int device) {
    (void)device;
    snprintf(name, (size_t)len, "NVIDIA H100 (idle driver)");
    return OK;
}
CUresult cuDeviceGetUuid_v2(char *uuid, int device) { (void)device; memset(uuid, 7, 16); return OK; }
CUresult cuDeviceGetLuid(char *luid, unsigned *mask, int device) {
    (void)luid; (void)mask; (void)device;
    return NOT_SUPPORTED;
}
CUresult cuDeviceGetPCIBusId(char *id, int len, int device) {
    (void)device;
    snprintf(id, (size_t)len, "0000:01:00.0");
    return OK;
}
CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = capacity(); return OK; }
CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    *total = capacity();
    *free_bytes = *total - used;
    return OK;
}
CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 1: case 2: case 3: *value = THREADS; break;
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break;
    case 6: case 7: *value = 65535; break;
    case 8: *value = 48 * 1024; break;
    case 10: *value = 32; break;
    case 13: *value = 1980000; break;
    case 16: *value = 132; break;
    case 36: *value = 2619000; break;
    case 37: *value = 5120; break;
    case 38: *value = 50 << 20; break;
    case 41: case 115: *value = 1; break;
    case 75: *value = MAJOR; break;
    case 76: *value = MINOR; break;
    case 81: *value = 228 * 1024; break;
    case 82: *value = 65536; break;
    case 97: *value = SHARED; break;
    default: *value = 0;
    }
    return OK;
}

CUresult cuDevicePrimaryCtxRetain(void **ctx, int device) { (void)device; *ctx = &lock; return OK; }
CUresult cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return OK; }
CUresult cuCtxSetCurrent(void *ctx) { (void)ctx; return OK; }
CUresult cuCtxGetCurrent(void **ctx) { *ctx = &lock; return OK; }
CUresult cuCtxSynchronize(void) { return OK; }
CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return OK; }

CUresult cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = malloc(1); return OK; }
CUresult cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    (void)priority;
    return cuStreamCreate(stream, flags);
}
CUresult cuStreamDestroy_v2(void *stream) { free(stream); return OK; }
CUresult cuStreamSynchronize(void *stream) { (void)stream; return OK; }
CUresult cuStreamQuery(void *stream) { (void)stream; return OK; }
CUresult cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    (void)stream; (void)event; (void)flags;
    return OK;
}
CUresult cuStreamIsCapturing(void *stream, int *status) { (void)stream; *status = 0; return OK; }
/* An event holds how many kernels were launched before it; each takes 10 microseconds. */
CUresult cuEventCreate(void **event, unsigned flags) {
    (void)flags;
    *event = calloc(1, sizeof launches);
    return OK;
}
CUresult cuEventRecord(void *event, void *stream) {
    (void)stream;
    *(uint64_t *)event = launches;
    return OK;
}
CUresult cuEventSynchronize(void *event) { (void)event; return OK; }
CUresult cuEventQuery(void *event) { (void)event; return OK; }
CUresult cuEventDestroy_v2(void *event) { free(event); return OK; }
CUresult cuEventElapsedTime(float *ms, void *start, void *end) {
    uint64_t between = *(uint64_t *)end - *(uint64_t *)start;
    *ms = 0.01f * (float)(between ? between : 1);
    return OK;
}
CUresult cuEventElapsedTime_v2(float *ms, void *start, void *end) { return cuEventElapsedTime(ms, start, end); }

/* Every block begins with its length. */
CUresult cuMemAlloc_v2(CUdeviceptr *ptr, size_t bytes) {
    pthread_mutex_lock(&lock);
    int fits = used + bytes <= capacity();
    if (fits) used += bytes;
    pthread_mutex_unlock(&lock);
    char *block = fits ? calloc(1, bytes + 512) : NULL;
    if (!block) return NO_MEMORY;
    char *start = (char *)(((uintptr_t)block + 511) & ~(uintptr_t)255);
    ((size_t *)start)[-1] = bytes;
    ((void **)start)[-2] = block;
    *ptr = (CUdeviceptr)(uintptr_t)start;
    return OK;
}
CUresult cuMemFree_v2(CUdeviceptr ptr) {
    char *start = (char *)(uintptr_t)ptr;
    if (!start) return OK;
    pthread_mutex_lock(&lock);
    used -= ((size_t *)start)[-1];
    pthread_mutex_unlock(&lock);
    free(((void **)start)[-2]);
    return OK;
}
CUresult cuMemAllocAsync(CUdeviceptr *ptr, size_t bytes, void *stream) { (void)stream; return cuMemAlloc_v2(ptr, bytes); }
CUresult cuMemFreeAsync(CUdeviceptr ptr, void *stream) { (void)stream; return cuMemFree_v2(ptr); }
CUresult cuMemAllocHost_v2(void **ptr, size_t bytes) { *ptr = calloc(1, bytes); return *ptr ? OK : NO_MEMORY; }
CUresult cuMemFreeHost(void *ptr) { free(ptr); return OK; }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    memcpy((void *)(uintptr_t)to, from, bytes);
    return OK;
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, void *stream) {
    (void)stream;
    memcpy(to, (void *)(uintptr_t)from, bytes);
    return OK;
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void *stream) {
    (void)stream;
    memmove((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
    return OK;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    memset((void *)(uintptr_t)to, value, bytes);
    return OK;
}

/* CUDA_MEMCPY2D */
typedef struct {
    size_t src_x, src_y;
    int src_type;
    const void *src_host;
    CUdeviceptr src_device;
    void *src_array;
    size_t src_pitch, dst_x, dst_y;
    int dst_type;
    void *dst_host;
    CUdeviceptr dst_device;
    void *dst_array;
    size_t dst_pitch, width, height;
} Copy2d;
CUresult cuMemcpy2DAsync_v2(const Copy2d *copy, void *stream) {
    (void)stream;
    const char *src = copy->src_type == 1 ? copy->src_host : (const char *)(uintptr_t)copy->src_device;
    char *dst = copy->dst_type == 1 ? copy->dst_host : (char *)(uintptr_t)copy->dst_device;
    for (size_t row = 0; row < copy->height; row++)
        memcpy(dst + (copy->dst_y + row) * copy->dst_pitch + copy->dst_x,
               src + (copy->src_y + row) * copy->src_pitch + copy->src_x, copy->width);
    return OK;
}

/* A module is the name of its kernel, for messages. */
CUresult cuModuleLoadData(void **module, const void *image) {
    const char *dir = getenv("IDLE_PTX");
    if (dir) {
        char path[4096];
        pthread_mutex_lock(&lock);
        int number = modules++;
        pthread_mutex_unlock(&lock);
        snprintf(path, sizeof path, "%s/%d-%04d.ptx", dir, (int)getpid(), number);
        FILE *file = fopen(path, "w");
        if (!file) return INVALID;
        fputs(image, file);
        fclose(file);
    }
    *module = malloc(1);
    return OK;
}
CUresult cuModuleUnload(void *module) { free(module); return OK; }
CUresult cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    *function = strdup(name);
    return OK;
}
CUresult cuFuncSetAttribute(void *function, int attribute, int value) {
    /* 8: dynamic shared memory. */
    if (attribute == 8 && value > SHARED) {
        fprintf(stderr, "idle driver: %s wants %d bytes of shared memory\n", (char *)function, value);
        return INVALID;
    }
    return OK;
}
CUresult cuFuncGetAttribute(int *value, int attribute, void *function) {
    (void)function;
    *value = attribute == 0 ? THREADS : 0;
    return OK;
}
CUresult cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, void *stream, void **params, void **extra) {
    (void)stream; (void)params; (void)extra;
    uint64_t threads = (uint64_t)bx * by * bz;
    if (!gx || !gy || !gz || !threads || threads > THREADS || gy > 65535 || gz > 65535 || shared > SHARED) {
        fprintf(stderr, "idle driver: %s: grid %u %u %u, block %u %u %u, %u bytes shared\n",
                (char *)function, gx, gy, gz, bx, by, bz, shared);
        return INVALID;
    }
    __atomic_add_fetch(&launches, 1, __ATOMIC_RELAXED);
    return OK;
}
typedef struct {
    unsigned grid[3], block[3], shared;
} LaunchConfig;
CUresult cuLaunchKernelEx(const LaunchConfig *config, void *function, void **params, void **extra) {
    return cuLaunchKernel(function, config->grid[0], config->grid[1], config->grid[2], config->block[0],
                          config->block[1], config->block[2], config->shared, NULL, params, extra);
}
CUresult cuTensorMapEncodeTiled(void *map) { (void)map; return OK; }

CUresult cuGetErrorName(CUresult error, const char **text) {
    *text = error == NO_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_VALUE";
    return OK;
}
CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == NO_MEMORY ? "out of memory" : "invalid argument";
    return OK;
}
