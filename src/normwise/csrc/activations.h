// What may follow a normalization in the same pass, and its derivative.
#pragma once
#include "numbers.h"
#include <cmath>

namespace normwise { namespace NORMWISE_ISA {

// exp(x) to 1 unit in the last place of float, without a branch, so that loops vectorize.
inline float exponential(float x) {
  x = x < -87.3f ? -87.3f : x > 88.7f ? 88.7f : x;
  const float shifted = x * 1.44269504f + 12582912.f;  // rounds to a whole number: 1.5 * 2^23
  const float n = shifted - 12582912.f;
  const float r = x - n * 0.693145752f - n * 1.42860677e-6f;
  const float tail = 0.499999881f + r * (0.166665182f + r * (0.0416695327f + r * (
      0.00836891592f + r * 0.00137514074f)));
  const float power = cast_bits<float>((cast_bits<std::uint32_t>(shifted) << 23) + 0x3f800000u);
  return (1.f + r + r * r * tail) * power;
}
inline double exponential(double x) { return std::exp(x); }

// The share of a normal distribution that lies beyond |x|, given exp(-x² / 2).
//   erfc(t) exp(t²) is smooth: a polynomial in (t - 3.5) / (t + 3.5), from tools/fit_erfc.py,
//   has it to 2e-8, so that far from 0 no digits are lost, as they are in 1 + erf.
inline float beyond(float x, float gaussian) {
  const float t = std::fabs(x) * 0.707106781f;
  const float u = (t - 3.5f) / (t + 3.5f);
  float s = 0.000417397736f;
  s = s * u + 0.000254081795f;
  s = s * u - 0.00431887805f;
  s = s * u + 0.0169644933f;
  s = s * u - 0.0454202853f;
  s = s * u + 0.0944306776f;
  s = s * u - 0.161339998f;
  s = s * u + 0.233130336f;
  s = s * u - 0.289265007f;
  s = s * u + 0.155293658f;
  return 0.5f * s * gaussian;
}
inline double beyond(double x, double) { return 0.5 * std::erfc(std::fabs(x) * 0.7071067811865476); }

// The normal distribution at x: the share below x, and the density.
template <class R> struct Normal { R below, density; };
template <class R> inline Normal<R> normal(R x) {
  const R gaussian = exponential(R(-0.5) * x * x);
  const R outside = beyond(x, gaussian);
  return {x > R(0) ? R(1) - outside : outside, gaussian * R(0.3989422804014327)};
}

template <class R> inline R logistic(R x) { return R(1) / (R(1) + exponential(-x)); }

// z becomes activation(z).
template <class R> inline void activate(Activation activation, R* z, i64 n) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::relu:
#pragma omp simd
      for (i64 i = 0; i < n; ++i) z[i] = z[i] < R(0) ? R(0) : z[i];
      return;
    case Activation::leaky_relu:
#pragma omp simd
      for (i64 i = 0; i < n; ++i) z[i] = z[i] < R(0) ? z[i] * R(0.01) : z[i];
      return;
    case Activation::gelu:
#pragma omp simd
      for (i64 i = 0; i < n; ++i) z[i] *= normal(z[i]).below;
      return;
    case Activation::silu:
#pragma omp simd
      for (i64 i = 0; i < n; ++i) z[i] *= logistic(z[i]);
      return;
  }
}

// g becomes g * activation'(z).
template <class R> inline void chain(Activation activation, const R* z, R* g, i64 n) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::relu:
#pragma omp simd
      for (i64 i = 0; i < n; ++i) g[i] = z[i] > R(0) ? g[i] : R(0);
      return;
    case Activation::leaky_relu:
#pragma omp simd
      for (i64 i = 0; i < n; ++i) g[i] = z[i] > R(0) ? g[i] : g[i] * R(0.01);
      return;
    case Activation::gelu:
#pragma omp simd
      for (i64 i = 0; i < n; ++i) {
        const Normal<R> at = normal(z[i]);
        g[i] *= at.below + z[i] * at.density;
      }
      return;
    case Activation::silu:
#pragma omp simd
      for (i64 i = 0; i < n; ++i) {
        const R s = logistic(z[i]);
        g[i] *= s * (R(1) + z[i] * (R(1) - s));
      }
      return;
  }
}

}}  // namespace normwise::NORMWISE_ISA
