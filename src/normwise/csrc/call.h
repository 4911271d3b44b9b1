// One normalization of one tensor, as every kernel sees it.
//
// x is read as x[o][a][k][p][q]: a statistic belongs to each (o, k) and averages over
// (a, p, q). Every norm is one choice of the five sizes; `ops/form.py` makes it.
//
//     instance norm of (N, C, T)       o = N          k = C          q = T
//     group norm of (N, C, T)          o = N          k = G   p = C/G   q = T
//     batch norm of (N, C, T)          a = N          k = C          q = T
//     layer norm over C of (N, C, T)   o = N   a = C   k = T
//     layer norm over the last of x                   k = the rest   q = C
#pragma once
#include <cstdint>

namespace normwise {

using i64 = std::int64_t;

enum class Number : int { float32, float64, bfloat16, float16 };
enum class Activation : int { none, relu, leaky_relu, gelu, silu };

// Distances between neighbours, in elements; along q they are 1.
struct Strides {
  i64 o, a, k, p;
  i64 at(i64 io, i64 ia, i64 ik, i64 ip) const { return io * o + ia * a + ik * k + ip * p; }
};

// The same for what x is broadcast with: 0 where it is the same for all.
struct Index {
  i64 o, a, k, p, q;
  i64 at(i64 io, i64 ia, i64 ik, i64 ip) const { return io * o + ia * a + ik * k + ip * p; }
};

struct Form {
  i64 O, A, K, P, Q;
  Strides x;        // of x
  Strides y;        // of y and all that is laid out like it: residual and gradients
  Index weight;     // which element of weight and bias belongs to an element of x
  Index mask;       // which element of the mask
  i64 statistic_o, statistic_k;  // which statistic, of `statistics`
  i64 weights, statistics;       // how many there are
  bool centres;     // whether the mean is removed
  bool given;       // whether the statistics are given, not x's own
  double eps;
  Activation activation;
  Number number, weight_number;

  i64 elements() const { return O * A * K * P * Q; }
  i64 size() const {  // of an element of x
    return number == Number::float64 ? 8 : number == Number::float32 ? 4 : 2;
  }
  i64 bytes() const { return elements() * size(); }
};

// What a call reads and writes; null where there is none.
struct Forward {
  const void *x, *weight, *bias, *residual;
  const std::uint8_t* mask;
  const void *mean, *var;  // given statistics
  void* y;
  void* moments;  // shift, offset, var and, with a mask, count: `statistics` of each
};

struct Backward {
  const void *gradient, *x, *weight, *bias, *residual;
  const std::uint8_t* mask;
  const void *mean, *var;  // given statistics
  const void* moments;     // as forward wrote them
  void *dx, *dweight, *dbias, *dresidual;
};

struct Kernels {
  void (*forward)(const Form&, const Forward&, int threads);
  void (*backward)(const Form&, const Backward&, int threads);
  bool (*is_across)(const Form&);  // whether statistics lie across rows of neighbours
  const char* name;
};

}  // namespace normwise
