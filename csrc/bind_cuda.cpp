// Python's view of the CUDA backend: addresses, sizes and a stream in, nothing copied, the GIL released.
// native_cuda.py is the only caller and answers for shapes, dtypes, contiguity, lifetimes and the device.
#include <pybind11/pybind11.h>

#include "cuda.h"

namespace py = pybind11;
using namespace cerebsim;

namespace {

using Address = uintptr_t;

template <class T = const float>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "Native CUDA kernels of cerebsim; use cerebsim.ops, not this.";
    module.attr("INVERSE_CELLS") = cuda::INVERSE_CELLS;
    module.attr("MOST_FIBERS") = cuda::MOST_FIBERS;
    module.attr("MOST_CELLS") = cuda::MOST_CELLS;

    // _cpu has classes of the same C++ types: each module keeps its own to itself.
    py::class_<Wiring>(module, "Wiring", py::module_local())
        .def(py::init([](int64_t d, int64_t m, int64_t k, Address indices, bool wide, Address weights,
                         Address thresholds) {
            return Wiring{d, m, k, at<const void>(indices), wide, at(weights), at(thresholds)};
        }));
    py::class_<cuda::Inverse>(module, "Inverse", py::module_local()).def(py::init([](Address starts, Address cells, Address weights) {
        return cuda::Inverse{at<const int64_t>(starts), at<const int32_t>(cells), at(weights)};
    }));
    py::class_<Rule>(module, "Rule", py::module_local())
        .def(py::init([](float error_factor, float learning_rate, float decay, float rms_eps, float ltd_decay,
                         bool ltd_before) {
            return Rule{error_factor, learning_rate, decay, rms_eps, ltd_decay, ltd_before};
        }));

    module.def("granule_bytes", &cuda::granule_bytes);
    module.def("granule_backward_bytes", &cuda::granule_backward_bytes);
    module.def("circuit_bytes", &cuda::circuit_bytes);
    module.def("circuit_backward_x_bytes", &cuda::circuit_backward_x_bytes);
    module.def("learn_bytes", &cuda::learn_bytes);
    module.def("learns_in_one_kernel", &cuda::learns_in_one_kernel);

    const auto release = py::call_guard<py::gil_scoped_release>();
    module.def(
        "granule",
        [](const Wiring& J, Address x, int64_t B, Address h, Address workspace, Address stream) {
            cuda::granule(J, at(x), B, at<float>(h), at<void>(workspace), at<void>(stream));
        },
        release);
    module.def(
        "granule_backward",
        [](const Wiring& J, const cuda::Inverse& inverse, Address x, int64_t B, Address grad_h, Address grad_x,
           Address workspace, Address stream) {
            cuda::granule_backward(J, inverse, at(x), B, at(grad_h), at<float>(grad_x), at<void>(workspace),
                                   at<void>(stream));
        },
        release);
    module.def(
        "circuit",
        [](const Wiring& J, Address x, int64_t B, Address W, Address mu, int64_t c, Address y, Address workspace,
           Address stream) {
            cuda::circuit(J, at(x), B, at(W), at(mu), c, at<float>(y), at<void>(workspace), at<void>(stream));
        },
        release);
    module.def(
        "circuit_backward_x",
        [](const Wiring& J, const cuda::Inverse& inverse, Address x, int64_t B, Address W, int64_t c, Address grad_y,
           Address grad_x, Address workspace, Address stream) {
            cuda::circuit_backward_x(J, inverse, at(x), B, at(W), c, at(grad_y), at<float>(grad_x),
                                     at<void>(workspace), at<void>(stream));
        },
        release);
    module.def(
        "circuit_backward_W",
        [](const Wiring& J, Address x, int64_t B, Address mu, int64_t c, Address grad_y, Address grad_W,
           Address stream) {
            cuda::circuit_backward_W(J, at(x), B, at(mu), c, at(grad_y), at<float>(grad_W), at<void>(stream));
        },
        release);
    module.def(
        "learn",
        [](const Wiring& J, Address x, Address t, Address order, Address counter, int64_t N, int64_t batch, Address W,
           int64_t c, Address mu, Address square_avg, const Rule& rule, Address y, Address workspace,
           Address stream) {
            cuda::learn(J, at(x), at(t), at<const int64_t>(order), at<int64_t>(counter), N, batch, at<float>(W), c,
                        at<float>(mu), at<float>(square_avg), rule, at<float>(y), at<void>(workspace),
                        at<void>(stream));
        },
        release);
}
