// Every kernel by four threads, under a checker that sees two of them at one place: `make
// sanitize-threads`. With the argument `race` it has them meet, which the checker has to see.
#include "kernels.cpp"
#include <cmath>
#include <cstdio>
#include <vector>

using namespace normwise;

namespace {

constexpr int THREADS = 4;

struct Case {
  const char* name;
  i64 O, A, K, P, Q;
  Index weight;
  i64 weights;
};

// Statistics that are one thread's, and some that all share; neighbours, and columns.
const Case CASES[] = {
    {"instance, short", 8, 1, 16, 1, 100, {0, 0, 1, 0, 0}, 16},
    {"instance, several blocks", 8, 1, 16, 1, 3000, {0, 0, 1, 0, 0}, 16},
    {"instance, few", 1, 1, 2, 1, 9000, {0, 0, 1, 0, 0}, 2},
    {"group", 4, 1, 4, 3, 500, {0, 0, 3, 1, 0}, 12},
    {"group, few", 1, 1, 2, 3, 5000, {0, 0, 3, 1, 0}, 6},
    {"group, short", 6, 1, 4, 40, 13, {0, 0, 40, 1, 0}, 160},
    {"group, short, few", 1, 1, 2, 410, 7, {0, 0, 410, 1, 0}, 820},
    {"batch", 1, 8, 32, 1, 70, {0, 0, 1, 0, 0}, 32},
    {"batch, short", 1, 40, 16, 1, 20, {0, 0, 1, 0, 0}, 16},
    {"batch, few", 1, 8, 3, 1, 900, {0, 0, 1, 0, 0}, 3},
    {"layer, trailing", 1, 1, 700, 1, 65, {0, 0, 0, 0, 1}, 65},
    {"layer, trailing, long", 1, 1, 40, 1, 3000, {0, 0, 0, 0, 1}, 3000},
    {"layer, trailing, few", 1, 1, 3, 1, 5000, {0, 0, 0, 0, 1}, 5000},
    {"layer over channels", 8, 24, 700, 1, 1, {0, 1, 0, 0, 0}, 24},
    {"layer over channels, one tile", 1, 300, 500, 1, 1, {0, 1, 0, 0, 0}, 300},
    {"batch, channels last", 1, 4000, 32, 1, 1, {0, 0, 1, 0, 0}, 32},
    {"group, channels last", 6, 900, 4, 1, 40, {0, 0, 40, 0, 1}, 160},
};

template <class T> std::vector<T> numbers(i64 n, Number kind) {
  std::vector<T> all(n * (sizeof(T) == 1 ? 8 : 1));
  std::uint32_t state = 1;
  for (i64 i = 0; i < n; ++i) {
    state = state * 1664525u + 1013904223u;
    const float x = float(state >> 8) / float(1 << 24) + 0.5f;
    void* at = all.data();
    switch (kind) {
      case Number::float32: static_cast<float*>(at)[i] = x; break;
      case Number::float64: static_cast<double*>(at)[i] = x; break;
      case Number::bfloat16:
        NORMWISE_ISA::narrow(x, static_cast<NORMWISE_ISA::bfloat16*>(at)[i]);
        break;
      case Number::float16:
        NORMWISE_ISA::narrow(x, static_cast<NORMWISE_ISA::float16*>(at)[i]);
        break;
    }
  }
  return all;
}

void run(const Case& c, Number number, bool masked, bool given, bool centres, Activation after) {
  const i64 q = c.Q, p = c.P * q, k = c.K * p, a = c.A * k;
  const Number wide = number == Number::float64 ? Number::float64 : Number::float32;
  const i64 statistics = c.O * c.K;
  const Form form{c.O, c.A, c.K, c.P, c.Q, {a, k, p, q}, {a, k, p, q}, c.weight,
                  {a, k, p, q, 1}, c.K, 1, c.weights, statistics, centres, given, 1e-5, after,
                  number, wide};
  const i64 n = form.elements();
  using Bytes = std::vector<std::uint8_t>;
  const Bytes x = numbers<std::uint8_t>(n, number), gradient = x, residual = x;
  const Bytes weight = numbers<std::uint8_t>(c.weights, wide), bias = weight;
  const Bytes var = numbers<std::uint8_t>(statistics, wide), mean = var;
  Bytes mask(n, 1), y(8 * n), dx(8 * n), dresidual(8 * n), moments(8 * 4 * statistics);
  Bytes dweight(8 * c.weights), dbias(8 * c.weights);
  for (i64 i = 0; i < n; i += 3) mask[i] = 0;
  const std::uint8_t* marks = masked ? mask.data() : nullptr;
  const void* more = after == Activation::none ? nullptr : residual.data();
  const void *m = given ? mean.data() : nullptr, *v = given ? var.data() : nullptr;
  const Kernels kernels = NORMWISE_ISA::kernels();
  kernels.forward(form, {x.data(), weight.data(), bias.data(), more, marks, m, v, y.data(),
                         given ? nullptr : moments.data()}, THREADS);
  kernels.backward(form, {gradient.data(), x.data(), weight.data(), bias.data(), more, marks, m, v,
                          moments.data(), dx.data(), dweight.data(), dbias.data(),
                          more ? dresidual.data() : nullptr}, THREADS);
}

int race() {
  int met = 0;
#pragma omp parallel num_threads(THREADS)
  for (int i = 0; i < 1000; ++i) ++met;
  return met;
}

}  // namespace

int main(int count, char**) {
  if (count > 1) return race() < 0;
  int runs = 0;
  for (const Case& c : CASES)
    for (const Number number : {Number::float32, Number::float64, Number::bfloat16, Number::float16})
      for (const bool masked : {false, true})
        for (const bool given : {false, true})
          for (const bool centres : {true, false})
            for (const Activation after : {Activation::none, Activation::silu}) {
              run(c, number, masked, given, centres, after);
              ++runs;
            }
  std::printf("%d calls by %d threads, forward and backward\n", 2 * runs, THREADS);
}
