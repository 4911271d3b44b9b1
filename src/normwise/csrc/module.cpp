// The Python module: sizes and strides in, and tensors, of which kernels are told the address.
#include "calls.h"
#include "pages.h"
#include "remember.h"

#include <array>
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace normwise {

#define DECLARE(isa) namespace isa { Kernels kernels(); }
DECLARE(plain)
#ifdef NORMWISE_X86
DECLARE(avx2)
DECLARE(avx512)
#endif
#undef DECLARE

namespace {

#ifdef NORMWISE_X86
#ifdef _MSC_VER
#include <immintrin.h>
#include <intrin.h>
bool has(int leaf, int reg, int bit) {
  int info[4];
  __cpuidex(info, leaf, 0);
  return info[reg] >> bit & 1;
}
bool has_avx2() {
  return has(1, 2, 27) && (_xgetbv(0) & 6) == 6 && has(7, 1, 5) && has(1, 2, 12);
}
bool has_avx512() {
  return has_avx2() && (_xgetbv(0) & 0xe6) == 0xe6 && has(7, 1, 16) && has(7, 1, 17) &&
         has(7, 1, 30) && has(7, 1, 31);
}
#else
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif
#endif

Kernels chosen = plain::kernels();

// Takes the kernels of this name, or the best the machine runs; says which they are.
std::string use(const std::string& name) {
  Kernels best = plain::kernels();
  bool found = name == best.name;
#ifdef NORMWISE_X86
  const bool runs[] = {has_avx2(), has_avx512()};
  const Kernels more[] = {avx2::kernels(), avx512::kernels()};
  for (int i = 0; i < 2; ++i) {
    if (!runs[i] || found) continue;
    best = more[i];
    found = name == best.name;
  }
#endif
  if (!name.empty() && !found)
    throw std::invalid_argument("this machine has no instruction set named " + name);
  chosen = best;
  return best.name;
}

// The address of a tensor's first element; null for None.
void* address(nb::handle tensor) {
  if (tensor.is_none()) return nullptr;
  static PyObject* const name = PyUnicode_InternFromString("data_ptr");
  const nb::object number = nb::steal(PyObject_CallMethodNoArgs(tensor.ptr(), name));
  void* const found = number.is_valid() ? PyLong_AsVoidPtr(number.ptr()) : nullptr;
  if (PyErr_Occurred()) throw nb::python_error();
  return found;
}

template <std::size_t count> std::array<void*, count> addresses(const nb::tuple& tensors) {
  if (tensors.size() != count) throw std::invalid_argument("a tuple of another size");
  std::array<void*, count> found;
  for (std::size_t i = 0; i < count; ++i) found[i] = address(tensors[i]);
  return found;
}

// A form, and its two calls. All checks are done in Python: a tensor is believed to fit.
struct Plan {
  Form form;

  Plan(std::array<i64, 5> sizes, std::array<i64, 4> x, std::array<i64, 4> y,
       std::array<i64, 5> weight, std::array<i64, 5> mask, std::array<i64, 2> statistic,
       i64 weights, i64 statistics, bool centres, bool given, double eps, int activation,
       int number, int weight_number)
      : form{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],
             {x[0], x[1], x[2], x[3]},
             {y[0], y[1], y[2], y[3]},
             {weight[0], weight[1], weight[2], weight[3], weight[4]},
             {mask[0], mask[1], mask[2], mask[3], mask[4]},
             statistic[0], statistic[1], weights, statistics, centres, given, eps,
             Activation(activation), Number(number), Number(weight_number)} {}

  // `operands` are those of ops/operands.py, in their order.
  void forward(const nb::tuple& operands, nb::handle y, nb::handle moments, int threads) const {
    const auto [x, weight, bias, residual, mask, mean, var] = addresses<7>(operands);
    const Forward call{x, weight, bias, residual, static_cast<std::uint8_t*>(mask),
                       mean, var, address(y), address(moments)};
    nb::gil_scoped_release release;
    want_large_pages(call.y, form.bytes());
    chosen.forward(form, call, threads);
  }

  // Writes what there is of `found`: the gradients of x, weight, bias and residual.
  void backward(nb::handle gradient, const nb::tuple& operands, nb::handle moments,
                const nb::tuple& found, int threads) const {
    const auto [x, weight, bias, residual, mask, mean, var] = addresses<7>(operands);
    const auto [dx, dweight, dbias, dresidual] = addresses<4>(found);
    const Backward call{address(gradient), x, weight, bias, residual,
                        static_cast<std::uint8_t*>(mask), mean, var, address(moments),
                        dx, dweight, dbias, dresidual};
    nb::gil_scoped_release release;
    want_large_pages(call.dx, form.bytes());
    want_large_pages(call.dresidual, form.bytes());
    chosen.backward(form, call, threads);
  }
};

// How the moments of batches go into running statistics of the same kind.
struct Taking {
  Policy policy;
  Batch batch;
  bool wide_moments, wide_buffers;

  Taking(std::array<i64, 5> where, bool cumulative, bool from_first_batch, int nonfinite,
         double momentum, double elements, bool wide_moments, bool wide_buffers)
      : policy{cumulative, from_first_batch, Nonfinite(nonfinite), momentum},
        batch{nullptr, where[0], where[1], where[2], where[3], where[4], elements},
        wide_moments(wide_moments), wide_buffers(wide_buffers) {}

  bool take(nb::handle moments, const nb::tuple& remembered) const {
    Batch now = batch;
    now.moments = address(moments);
    const auto [mean, var, batches] = addresses<3>(remembered);
    const Buffers buffers{mean, var, static_cast<i64*>(batches)};
    const auto run = wide_moments
                         ? (wide_buffers ? remember<double, double> : remember<double, float>)
                         : (wide_buffers ? remember<float, double> : remember<float, float>);
    return run(policy, now, buffers);
  }
};

}  // namespace

NB_MODULE(_native, module) {
  nb::set_leak_warnings(false);  // plans live in a cache until the interpreter ends
  use("");
  nb::class_<Plan>(module, "Plan", "One way through memory, and the calls that go it.")
      .def(nb::init<std::array<i64, 5>, std::array<i64, 4>, std::array<i64, 4>, std::array<i64, 5>,
                    std::array<i64, 5>, std::array<i64, 2>, i64, i64, bool, bool, double, int, int,
                    int>())
      .def("forward", &Plan::forward, nb::arg("operands"), nb::arg("y"), nb::arg("moments").none(),
           nb::arg("threads"))
      .def("backward", &Plan::backward, nb::arg("gradient"), nb::arg("operands"),
           nb::arg("moments").none(), nb::arg("found"), nb::arg("threads"))
      .def("is_across", [](const Plan& plan) { return chosen.is_across(plan.form); });
  nb::class_<Taking>(module, "Taking", "How moments go into running statistics.")
      .def(nb::init<std::array<i64, 5>, bool, bool, int, double, double, bool, bool>())
      .def("take", &Taking::take, nb::arg("moments"), nb::arg("remembered"));
  nb::class_<Calls>(module, "Calls", "The calls that a layer has made, and what each came to.")
      .def(nb::init<>())
      .def("find", &Calls::find, nb::arg("tensors"))
      .def("note", &Calls::note, nb::arg("tensors"), nb::arg("outcome"))
      .def("__len__", &Calls::size);
  module.doc() = "The CPU kernels: sizes, strides and addresses of tensors in, nothing of torch.";
  module.def("use", &use, nb::arg("name") = "",
             "Take the kernels for this instruction set, or the best the machine runs.");
  module.def("in_use", [] { return std::string(chosen.name); }, "The instruction set in use.");
}

}  // namespace normwise
