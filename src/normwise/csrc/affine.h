// Weight and bias as the kernels read them, and the gradients that belong to them.
#pragma once
#include "numbers.h"
#include "team.h"

namespace normwise { namespace NORMWISE_ISA {

// Weight and bias, wide, and filled up with 1 and 0 where one is missing; both null if both are.
template <class R> class Affine {
 public:
  Affine(const Form& form, const void* weight, const void* bias)
      : scratch_(size(form, weight, bias)) {
    if (!weight && !bias) return;
    this->weight = widened(form, weight, R(1), scratch_);
    this->bias = widened(form, bias, R(0), scratch_ ? scratch_ + form.weights : nullptr);
  }
  const R* weight = nullptr;
  const R* bias = nullptr;

 private:
  static bool fits(const Form& form) {
    return form.weight_number == (sizeof(R) == 8 ? Number::float64 : Number::float32);
  }
  static i64 size(const Form& form, const void* weight, const void* bias) {
    const bool as_they_are = (weight && bias && fits(form)) || (!weight && !bias);
    return as_they_are ? 0 : 2 * form.weights;
  }
  static const R* widened(const Form& form, const void* from, R otherwise, R* to) {
    if (from && fits(form)) return static_cast<const R*>(from);
    for (i64 i = 0; i < form.weights; ++i) {
      to[i] = otherwise;
      if (!from) continue;
      switch (form.weight_number) {
        case Number::float32: to[i] = R(static_cast<const float*>(from)[i]); break;
        case Number::float64: to[i] = R(static_cast<const double*>(from)[i]); break;
        case Number::bfloat16: to[i] = R(widen(static_cast<const bfloat16*>(from)[i])); break;
        case Number::float16: to[i] = R(widen(static_cast<const float16*>(from)[i])); break;
      }
    }
    return to;
  }
  Scratch<R> scratch_;
};

// Sums for the gradients of weight and bias, one pair of arrays for each thread; they are added
// up in the threads' order, so that the same number of threads gives the same result.
template <class R> class AffineGradient {
 public:
  AffineGradient(const Form& form, const Backward& call, int threads)
      : form_(form), call_(call), wanted(call.dweight || call.dbias), threads_(threads),
        sums_(wanted ? 2 * form.weights * threads : 0),
        parts_(wanted && form.weight.q ? 2 * form.weights * threads : 0) {}
  double* weight(int thread) const { return sums_ + 2 * form_.weights * thread; }
  double* bias(int thread) const { return weight(thread) + form_.weights; }

  // Sums of a few rows in R, which are quicker to add to; `flush` brings them to the others.
  R* weight_part(int thread) const { return parts_ + 2 * form_.weights * thread; }
  R* bias_part(int thread) const { return weight_part(thread) + form_.weights; }
  void flush(int thread) const {
    R* part = weight_part(thread);
    double* sum = weight(thread);
#pragma omp simd
    for (i64 i = 0; i < 2 * form_.weights; ++i) {
      sum[i] += double(part[i]);
      part[i] = R(0);
    }
  }

  void finish() const {
    if (!wanted) return;
    for (int t = 0; t < threads_ && form_.weight.q; ++t) flush(t);
    for (i64 i = 0; i < form_.weights; ++i) {
      double dw = 0, db = 0;
      for (int t = 0; t < threads_; ++t) {
        dw += weight(t)[i];
        db += bias(t)[i];
      }
      put(call_.dweight, i, dw);
      put(call_.dbias, i, db);
    }
  }

 private:
  void put(void* to, i64 i, double sum) const {
    if (!to) return;
    switch (form_.weight_number) {
      case Number::float32: static_cast<float*>(to)[i] = float(sum); break;
      case Number::float64: static_cast<double*>(to)[i] = sum; break;
      case Number::bfloat16: narrow(float(sum), static_cast<bfloat16*>(to)[i]); break;
      case Number::float16: narrow(float(sum), static_cast<float16*>(to)[i]); break;
    }
  }
  const Form& form_;
  const Backward& call_;

 public:
  const bool wanted;

 private:
  int threads_;
  Scratch<double> sums_;
  Scratch<R> parts_;
};

}}  // namespace normwise::NORMWISE_ISA
