/* A stand-in for CUDA's runtime on a machine without a GPU: torch's real CUDA code runs over it when it is preloaded.
 *
 * Kernels do nothing and copies to the host bring zeros, unless asked for, so no number means anything. What it shows is
 * how the API is used. As CUDA does, it refuses
 *   - any use in a process forked from one that used it,
 *   - calls that are unsafe while a stream is captured, which also spoils the capture,
 *   - more memory than the device has.
 *
 * A function that neither this file nor `fake_cuda.HARMLESS` knows ends in `fake_cuda_unknown` and fails. Those of
 * cuBLAS and the driver are declared by hand, without the arguments that do not matter here, which C's calling
 * convention allows.
 *
 * Environment:
 *   FAKE_CUDA_LOG           file to which a line "PID EVENT DETAIL" is appended for each event that a test may ask for
 *   FAKE_CUDA_BYTES         memory of the device, for each process; 4 GiB unless given
 *   FAKE_CUDA_CAPTURE_FULL  if set, no memory is left while a stream is captured
 *   FAKE_CUDA_COPIES        if set, copies to the host bring what was copied to the device; the rest is arbitrary
 */
#include <cuda_runtime_api.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct stream {
    int is_capturing;
    int is_spoilt;
    int is_exhausted; /* which may end the capture with an error that hides the lack of memory: here it always does */
    int nodes;
};

static pid_t owner; /* the process that used CUDA first */
static size_t used_bytes;
static struct stream default_stream;
static struct stream *captured;
static __thread cudaError_t last_error;
static __thread enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

/* ---- events and errors ---- */

static void report(const char *event, const char *detail) {
    const char *path = getenv("FAKE_CUDA_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (!log) return;
    fprintf(log, "%d %s %s\n", (int)getpid(), event, detail);
    fclose(log);
}

static void report_nodes(const char *event, int nodes) {
    char text[16];
    snprintf(text, sizeof text, "%d", nodes);
    report(event, text);
}

static cudaError_t fail(cudaError_t error) { return last_error = error; }

int fake_cuda_unknown(const char *name) {
    report("unknown", name);
    return fail(cudaErrorNotSupported); /* no status of cuBLAS, which takes it for an error all the same */
}

static int is_forked(const char *function) {
    if (!owner) owner = getpid();
    if (owner == getpid()) return 0;
    report("forked", function);
    return 1;
}

static int is_unsafe(const char *function) {
    if (!captured || thread_mode == cudaStreamCaptureModeRelaxed) return 0;
    captured->is_spoilt = 1;
    report("unsafe", function);
    return 1;
}

/* First in every function that needs the device, and in every one that a capture does not allow. */
#define NEEDS_DEVICE() if (is_forked(__func__)) return fail(cudaErrorInitializationError)
#define UNSAFE_IN_CAPTURE() NEEDS_DEVICE(); if (is_unsafe(__func__)) return fail(cudaErrorStreamCaptureUnsupported)

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorName(cudaError_t error) { return "cudaError of the fake"; }

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInitializationError: return "initialization error";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNotSupported: return "operation not supported by the fake CUDA runtime";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return "error of the fake CUDA runtime";
    }
}

/* ---- the device ---- */

static size_t device_bytes(void) {
    const char *text = getenv("FAKE_CUDA_BYTES");
    return text ? strtoull(text, NULL, 10) : (size_t)4 << 30;
}

cudaError_t cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *count) { NEEDS_DEVICE(); *count = 1; return cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { *device = 0; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) { NEEDS_DEVICE(); return device ? fail(cudaErrorInvalidDevice) : cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *most) { *least = *most = 0; return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { UNSAFE_IN_CAPTURE(); return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    NEEDS_DEVICE();
    if (device) return fail(cudaErrorInvalidDevice);
    *properties = (struct cudaDeviceProp){
        .name = "Fake H100", .totalGlobalMem = device_bytes(), .major = 9, .minor = 0, .multiProcessorCount = 132,
        .warpSize = 32, .regsPerBlock = 65536, .regsPerMultiprocessor = 65536, .maxThreadsPerBlock = 1024,
        .maxThreadsPerMultiProcessor = 2048, .maxBlocksPerMultiProcessor = 32, .maxThreadsDim = {1024, 1024, 64},
        .maxGridSize = {2147483647, 65535, 65535}, .sharedMemPerBlock = 49152, .sharedMemPerBlockOptin = 232448,
        .sharedMemPerMultiprocessor = 233472, .l2CacheSize = 50 << 20, .textureAlignment = 512, .unifiedAddressing = 1,
    };
    memset(properties->uuid.bytes, 0x11, sizeof properties->uuid.bytes);
    return cudaSuccess;
}

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0;
    *active = owner == getpid();
    return 0;
}

int cuCtxGetCurrent(void **context) { *context = owner == getpid() ? &owner : NULL; return 0; }

static int unheard_logs(void) { return 0; }
static int unknown_of_driver(void) { return fake_cuda_unknown("a driver's function looked up by its name"); }

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             unsigned long long flags, enum cudaDriverEntryPointQueryResult *result) {
    *function = unknown_of_driver; /* torch looks up many that it never calls */
    if (!strcmp(name, "cuCtxGetCurrent")) *function = cuCtxGetCurrent;
    if (!strncmp(name, "cuLogs", strlen("cuLogs"))) *function = unheard_logs;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

/* ---- memory ---- */

static void *allocate(size_t bytes) { return aligned_alloc(512, (bytes + 511) / 512 * 512); }

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    UNSAFE_IN_CAPTURE();
    int is_full = used_bytes + bytes > device_bytes() || (captured && getenv("FAKE_CUDA_CAPTURE_FULL"));
    *memory = is_full ? NULL : allocate(bytes);
    if (!*memory) {
        report("exhausted", captured ? "in a capture" : "");
        if (captured) captured->is_exhausted = 1;
        return fail(cudaErrorMemoryAllocation);
    }
    used_bytes += malloc_usable_size(*memory);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory) {
    UNSAFE_IN_CAPTURE();
    used_bytes -= malloc_usable_size(memory);
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *all) {
    NEEDS_DEVICE();
    *all = device_bytes();
    *unused = *all > used_bytes ? *all - used_bytes : 0;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags) {
    UNSAFE_IN_CAPTURE();
    *memory = allocate(bytes);
    return *memory ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *memory) {
    UNSAFE_IN_CAPTURE();
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *memory) {
    *attributes = (struct cudaPointerAttributes){.type = cudaMemoryTypeUnregistered};
    return cudaSuccess;
}

/* ---- streams and captures ---- */

static struct stream *stream_of(cudaStream_t stream) { /* 0 to 2 are CUDA's names of default streams */
    return (size_t)stream <= 2 ? &default_stream : (struct stream *)stream;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    NEEDS_DEVICE();
    *stream = calloc(1, sizeof(struct stream));
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { UNSAFE_IN_CAPTURE(); return cudaSuccess; }

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    enum cudaStreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    NEEDS_DEVICE();
    if (mode != cudaStreamCaptureModeGlobal) return fake_cuda_unknown("a capture in another mode than the global one");
    if (captured || stream_of(stream) == &default_stream) return fail(cudaErrorStreamCaptureUnsupported);
    captured = stream_of(stream);
    *captured = (struct stream){.is_capturing = 1};
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    struct stream *asked = stream_of(stream);
    *status = asked->is_capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    if (asked->is_capturing && asked->is_spoilt) *status = cudaStreamCaptureStatusInvalidated;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
    if (id) *id = (size_t)stream;
    if (graph) *graph = (cudaGraph_t)stream;
    if (nodes) *nodes = NULL;
    if (edges) *edges = NULL;
    if (count) *count = 0;
    return cudaStreamIsCapturing(stream, status);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    if (!captured || captured != stream_of(stream)) return fail(cudaErrorIllegalState);
    struct stream *ended = captured;
    ended->is_capturing = 0;
    captured = NULL;
    *graph = NULL;
    if (ended->is_spoilt || ended->is_exhausted) return fail(cudaErrorStreamCaptureInvalidated);
    report_nodes("capture", ended->nodes);
    int *nodes = malloc(sizeof *nodes); /* all that is known of a graph: how many they are */
    *nodes = ended->nodes;
    *graph = (cudaGraph_t)nodes;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    UNSAFE_IN_CAPTURE();
    *executable = (cudaGraphExec_t)graph;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    *count = *(int *)graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    UNSAFE_IN_CAPTURE();
    report_nodes("replay", *(int *)executable);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { is_unsafe(__func__); return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { is_unsafe(__func__); return cudaSuccess; }

/* ---- work: copies, kernels, products ---- */

static int is_recorded(cudaStream_t stream) { /* into a graph, instead of being carried out */
    struct stream *target = stream_of(stream);
    if (captured && captured != target) report("beside", "work that the capture misses, on another stream");
    target->nodes += target->is_capturing;
    return target->is_capturing;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    NEEDS_DEVICE();
    if (is_recorded(stream)) return cudaSuccess;
    if (kind == cudaMemcpyDeviceToHost && !getenv("FAKE_CUDA_COPIES")) memset(to, 0, bytes);
    else memmove(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    NEEDS_DEVICE();
    if (!is_recorded(stream)) memset(memory, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                             cudaStream_t stream) {
    NEEDS_DEVICE();
    is_recorded(stream);
    return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared_bytes,
                               cudaStream_t stream) {
    return cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream);
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) { *kernel = (cudaKernel_t)function; return 0; }

static __thread void *pushed_stream; /* of kernel<<<...>>>(...), which compilers turn into these two and the launch */

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, void *stream) {
    pushed_stream = stream;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared_bytes, void *stream) {
    *grid = *block = (dim3){1, 1, 1};
    *shared_bytes = 0;
    *(void **)stream = pushed_stream;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int threads,
                                                                   size_t shared_bytes, unsigned flags) {
    *blocks = 4;
    return cudaSuccess;
}

struct products { /* a cublasHandle_t */
    cudaStream_t stream;
    int math;
};

int cublasCreate_v2(struct products **handle) {
    if (is_forked(__func__) || is_unsafe(__func__)) return 1; /* CUBLAS_STATUS_NOT_INITIALIZED */
    *handle = calloc(1, sizeof **handle);
    return 0;
}

int cublasSetStream_v2(struct products *handle, cudaStream_t stream) { handle->stream = stream; return 0; }
int cublasGetMathMode(struct products *handle, int *math) { *math = handle->math; return 0; }
int cublasSetMathMode(struct products *handle, int math) { handle->math = math; return 0; }
int cublasGemmEx(struct products *handle) { is_recorded(handle->stream); return 0; }

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *product, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, void *algorithms, int *found) {
    memset(algorithms, 0, 96); /* sizeof(cublasLtMatmulHeuristicResult_t) */
    *found = 1;
    return 0;
}

int cublasLtMatmul(void *handle, void *product, void *alpha, void *a, void *a_layout, void *b, void *b_layout,
                   void *beta, void *c, void *c_layout, void *d, void *d_layout, void *algorithm, void *workspace,
                   size_t workspace_bytes, cudaStream_t stream) {
    is_recorded(stream);
    return 0;
}
