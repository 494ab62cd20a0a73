// The one place where kernels start, with every return code checked. The tests put an emulator in the place
// of all this (tests/cuda_on_host.h, compiled with -include), so that the kernels run on a CPU too.
#pragma once

#ifndef CUDA_ON_HOST
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace cerebsim {
namespace cuda {

inline void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // forget it: the next call is judged by itself
    std::string said = std::string(what) + ": " + cudaGetErrorString(error) + ".";
    size_t left = 0, whole = 0;
    if (error == cudaErrorMemoryAllocation && cudaMemGetInfo(&left, &whole) == cudaSuccess)
        said += " Free: " + std::to_string(left >> 20) + " MiB of " + std::to_string(whole >> 20) +
                " MiB; use smaller batches or fewer granule cells.";
    throw std::runtime_error(said);
}

// What a plan depends on. No result does.
struct Device {
    int64_t processors;    // multiprocessors
    int64_t shared_bytes;  // shared memory that a block can ask for
};
inline Device device() {
    int number = 0, processors = 0, shared_bytes = 0;
    check(cudaGetDevice(&number), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, number), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, number),
          "cudaDeviceGetAttribute");
    return {processors, shared_bytes};
}

// The block's shared memory, as many bytes as it was launched with.
__device__ __forceinline__ float* shared_memory() {
    extern __shared__ float4 memory[];
    return reinterpret_cast<float*>(memory);
}

// All threads of all blocks meet: each calls arrive and later wait, with the same number of meetings so far.
// *arrived counts blocks and starts at 0; an integer, so that the order of arrival changes nothing. What a
// block wrote before it arrived can be read after the wait, by loads that bypass the L1 cache (__ldcg).
__device__ __forceinline__ void grid_arrive(unsigned* arrived) {
    __syncthreads();
    if (threadIdx.x > 0) return;
    __threadfence();
    atomicAdd(arrived, 1u);
}
__device__ __forceinline__ void grid_wait(unsigned* arrived, unsigned meetings) {
    if (threadIdx.x == 0) {
        while (*static_cast<volatile unsigned*>(arrived) - meetings * gridDim.x >= 1u << 31) {
        }
        __threadfence();
    }
    __syncthreads();
}

// `together`: all blocks run at the same time, so that they can meet.
template <class... Parameters, class... Arguments>
void launch_as(bool together, void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared_bytes, void* stream,
               const Arguments&... arguments) {
    const auto function = reinterpret_cast<const void*>(kernel);
    if (shared_bytes > (48 << 10))
        check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared_bytes)),
              "cudaFuncSetAttribute");
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = together ? 1 : 0;
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "cudaLaunchKernelEx");
}
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared_bytes, void* stream,
            const Arguments&... arguments) {
    launch_as(false, kernel, grid, threads, shared_bytes, stream, arguments...);
}

}  // namespace cuda
}  // namespace cerebsim
#endif
