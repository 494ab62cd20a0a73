// Python's view of the CPU backend: addresses and sizes in, nothing copied, the GIL released.
// native.py is the only caller and answers for shapes, dtypes, contiguity and lifetimes.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "circuit.h"

namespace py = pybind11;
using namespace cerebsim;

namespace {

using Address = uintptr_t;

template <class T = const float>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

// Learns, asking Python from time to time: `tick(done)` shows progress, and Ctrl-C stops after the
// batch at hand. Returns how many pictures were learned whole and whether it was interrupted.
std::pair<int64_t, bool> learn_(const Wiring& J, Address x, Address t, Address order, int64_t N, int64_t batch,
                                Address W, int64_t c, Address mu, Address square_avg, const Rule& rule, Address y,
                                int threads, const py::object& tick) {
    std::exception_ptr raised;
    const Tick ask = [&](int64_t done) {
        if (raised) return false;
        py::gil_scoped_acquire gil;
        try {
            if (PyErr_CheckSignals() != 0) throw py::error_already_set();
            if (!tick.is_none()) tick(done);
        } catch (...) {
            raised = std::current_exception();
        }
        return !raised;
    };
    int64_t done;
    {
        py::gil_scoped_release released;
        done = learn(J, at(x), at(t), at<const int64_t>(order), N, batch, at<float>(W), c, at<float>(mu),
                     at<float>(square_avg), rule, at<float>(y), threads, ask);
    }
    if (!raised) return {done, false};
    try {
        std::rethrow_exception(raised);
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_KeyboardInterrupt)) throw;
    }
    return {done, true};
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
    module.doc() = "Native CPU kernels of cerebsim; use cerebsim.ops, not this.";
    py::register_exception<NotFinite>(module, "NotFinite", PyExc_ValueError);

    py::class_<Wiring>(module, "Wiring")
        .def(py::init([](int64_t d, int64_t m, int64_t k, Address indices, bool wide, Address weights,
                         Address thresholds) {
            return Wiring{d, m, k, at<const void>(indices), wide, at(weights), at(thresholds)};
        }));
    py::class_<Rule>(module, "Rule")
        .def(py::init([](float error_factor, float learning_rate, float decay, float rms_eps, float ltd_decay,
                         bool ltd_before) {
            return Rule{error_factor, learning_rate, decay, rms_eps, ltd_decay, ltd_before};
        }));

    const auto release = py::call_guard<py::gil_scoped_release>();
    module.def(
        "granule",
        [](const Wiring& J, Address x, int64_t B, Address h, int threads) {
            granule(J, at(x), B, at<float>(h), threads);
        },
        release);
    module.def(
        "granule_backward",
        [](const Wiring& J, Address x, int64_t B, Address grad_h, Address grad_x, int threads) {
            granule_backward(J, at(x), B, at(grad_h), at<float>(grad_x), threads);
        },
        release);
    module.def(
        "circuit",
        [](const Wiring& J, Address x, int64_t B, Address W, Address mu, int64_t c, Address fired, Address y,
           int threads) {
            circuit(J, at(x), B, at(W), at(mu), c, at<uint32_t>(fired), at<float>(y), threads);
        },
        release);
    module.def(
        "circuit_backward_x",
        [](const Wiring& J, Address x, int64_t B, Address W, int64_t c, Address grad_y, Address fired, Address grad_x,
           int threads) {
            circuit_backward_x(J, at(x), B, at(W), c, at(grad_y), at<const uint32_t>(fired), at<float>(grad_x),
                               threads);
        },
        release);
    module.def(
        "circuit_backward_W",
        [](const Wiring& J, Address x, int64_t B, Address mu, int64_t c, Address grad_y, Address grad_W, int threads) {
            circuit_backward_W(J, at(x), B, at(mu), c, at(grad_y), at<float>(grad_W), threads);
        },
        release);
    module.def("learn", &learn_);
    module.def("instruction_set", &instruction_set);
    module.def("instruction_sets", &instruction_sets);
    module.def("use_instruction_set", &use_instruction_set);
}
