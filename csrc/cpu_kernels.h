// Everything that is compiled once per instruction set.
#include "cpu_vectors.h"
#include "cpu_cells.h"
#include "cpu_circuit.h"
#include "cpu_learn.h"

namespace cerebsim {
namespace ISA {
static const Kernels kernels{granule, granule_backward, circuit, circuit_backward_x, circuit_backward_W, learn};
}
}  // namespace cerebsim
