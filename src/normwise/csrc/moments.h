// Count, mean and squares about the mean, of blocks that are merged.
#pragma once
#include "numbers.h"

namespace normwise { namespace NORMWISE_ISA {

constexpr i64 BLOCK = 1024;  // elements that are worked on at a time: 4 kB, in the first cache

inline i64 least(i64 a, i64 b) { return a < b ? a : b; }

// Sums in four streams, because one would wait for each addition before the next.
template <class R> inline R sum(const R* x, i64 n) {
  const i64 quarter = n / 4;
  const R *a = x, *b = x + quarter, *c = b + quarter, *d = c + quarter;
  R s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (i64 i = 0; i < quarter; ++i) {
    s0 += a[i];
    s1 += b[i];
    s2 += c[i];
    s3 += d[i];
  }
  for (i64 i = 4 * quarter; i < n; ++i) s0 += x[i];
  return (s0 + s1) + (s2 + s3);
}

template <class R> struct Pair { R first, second; };

// The sums of x - m and of its squares.
template <class R> inline Pair<R> deviations(const R* x, i64 n, R m) {
  const i64 half = n / 2;
  const R *a = x, *b = x + half;
  R r0 = 0, r1 = 0, q0 = 0, q1 = 0;
#pragma omp simd reduction(+ : r0, r1, q0, q1)
  for (i64 i = 0; i < half; ++i) {
    const R d = a[i] - m, e = b[i] - m;
    r0 += d;
    r1 += e;
    q0 += d * d;
    q1 += e * e;
  }
  if (n % 2) {
    const R d = x[n - 1] - m;
    r0 += d;
    q0 += d * d;
  }
  return {r0 + r1, q0 + q1};
}

template <class R> inline Pair<R> deviations(const R* x, const R* real, i64 n, R m) {
  R r = 0, q = 0;
#pragma omp simd reduction(+ : r, q)
  for (i64 i = 0; i < n; ++i) {
    const R d = (x[i] - m) * real[i];
    r += d;
    q += d * d;
  }
  return {r, q};
}

// The moments of what was added. The mean is shift + offset: one number of x's precision
// cannot hold the mean of a signal that lies 1e6 standard deviations from 0 closely enough.
template <class R> struct Moments {
  R shift = 0;
  double offset = 0, squares = 0, count = 0;

  // n elements whose deviations from m sum to r, and their squares to q.
  void add(R m, double r, double q, double n) {
    if (count == 0) shift = m;
    append((double(m) - double(shift)) + r / n, q - r * (r / n), n);
  }
  // Elements x, where `real` is 1, or all of them; x is 0 where it is not.
  void add(const R* x, const R* real, i64 size, bool centres) {
    const R n = real ? sum(real, size) : R(size);
    if (n == 0) return;
    const R m = centres ? sum(x, size) / n : R(0);
    const Pair<R> d = real ? deviations(x, real, size, m) : deviations(x, size, m);
    if (centres) {
      add(m, d.first, d.second, n);
    } else {
      squares += d.second;
      count += n;
    }
  }
  void merge(const Moments& other) {
    if (other.count == 0) return;
    if (count == 0) shift = other.shift;
    append((double(other.shift) - double(shift)) + other.offset, other.squares, other.count);
  }

  // The mean as two numbers of R, the variance, and what divides by the deviation.
  R high() const { return R(shift + offset); }
  R low() const { return R((double(shift) - double(high())) + offset); }
  double variance() const { return count == 0 ? 1 : squares / count; }

 private:
  // Chan, Golub and LeVeque 1979: n more elements with mean `other` and squares `more` about it.
  void append(double other, double more, double n) {
    const double total = count + n, apart = other - offset;
    squares += more + apart * apart * (count * n / total);
    offset += apart * (n / total);
    count = total;
  }
};

// What an element needs to know of the statistic it belongs to.
template <class R> struct Standard {
  R high, low, rate;  // the mean, and 1 / sqrt(var + eps)
};

template <class R> inline R reciprocal_root(double variance, double eps) {
  return R(1 / std::sqrt(variance + eps));
}

template <class R> inline Standard<R> standard(const Moments<R>& m, double eps) {
  return {m.high(), m.low(), reciprocal_root<R>(m.variance(), eps)};
}

// Moments in memory: shift, offset, var and, where it is asked for, count.
template <class R> inline void store(const Moments<R>& m, R* to, i64 stride, bool counts) {
  to[0] = m.high();
  to[stride] = m.low();
  to[2 * stride] = R(m.variance());
  if (counts) to[3 * stride] = R(m.count);
}

// The statistic at index `s`, as forward stored it or as it was given.
template <class R, class Call>
inline Standard<R> recall(const Form& form, const Call& call, const void* moments, i64 s) {
  if (form.given) {
    const R mean = call.mean ? static_cast<const R*>(call.mean)[s] : R(0);
    return {mean, R(0), reciprocal_root<R>(static_cast<const R*>(call.var)[s], form.eps)};
  }
  const R* from = static_cast<const R*>(moments) + s;
  const i64 stride = form.statistics;
  return {from[0], from[stride], reciprocal_root<R>(from[2 * stride], form.eps)};
}

}}  // namespace normwise::NORMWISE_ISA
