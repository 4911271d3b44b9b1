// Count, mean and squares about the mean, of blocks that are merged.
#pragma once
#include "lanes.h"

namespace normwise { namespace NORMWISE_ISA {

constexpr i64 BLOCK = 1024;  // elements that are worked on at a time: 4 kB, in the first cache
constexpr i64 FLUSH = 64;    // rows that are summed in R before they are added to a double

inline i64 least(i64 a, i64 b) { return a < b ? a : b; }

template <class R> NORMWISE_INLINE R sum(const R* x, i64 n) {
  R total[1];
  reduce(n, total, [=](auto at, auto* term) { term[0] = at(x); });
  return total[0];
}

template <class R> struct Pair { R first, second; };

// The sums of x - m and of its squares, of all elements or of those where `real` is 1. What
// follows x is read next, most often, and comes nearer meanwhile: machines see to that themselves
// along a page of memory, and a block is as long as a page.
template <class R> NORMWISE_INLINE Pair<R> deviations(const R* x, i64 n, R m) {
  R sums[2];
  reduce(n, sums, [=](auto at, auto* terms) {
    at.fetch(x + n);
    const auto d = at(x) - m;
    terms[0] = d;
    terms[1] = d * d;
  });
  return {sums[0], sums[1]};
}
template <class R> NORMWISE_INLINE Pair<R> deviations(const R* x, const R* real, i64 n, R m) {
  R sums[2];
  reduce(n, sums, [=](auto at, auto* terms) {
    const auto d = (at(x) - m) * at(real);
    terms[0] = d;
    terms[1] = d * d;
  });
  return {sums[0], sums[1]};
}

// The moments of what was added. The mean is shift + offset: one number of x's precision
// cannot hold the mean of a signal that lies 1e6 standard deviations from 0 closely enough.
template <class R> struct Moments {
  R shift = 0;
  double offset = 0, squares = 0, count = 0;

  // n elements whose deviations from m sum to r, and their squares to q.
  void add(R m, double r, double q, double n) {
    if (count == 0) shift = m;
    const double mean = r / n;
    append((double(m) - double(shift)) + mean, q - r * mean, n);
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
    if (count == 0) {
      offset = other;
      squares = more;
      count = n;
      return;
    }
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

template <class R> inline R reciprocal_root(R variance, double eps) {
  return R(1) / std::sqrt(variance + R(eps));
}

template <class R> inline Standard<R> standard(const Moments<R>& m, double eps) {
  return {m.high(), m.low(), reciprocal_root(R(m.variance()), eps)};
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
    return {mean, R(0), reciprocal_root(static_cast<const R*>(call.var)[s], form.eps)};
  }
  const R* from = static_cast<const R*>(moments) + s;
  const i64 stride = form.statistics;
  return {from[0], from[stride], reciprocal_root(from[2 * stride], form.eps)};
}

}}  // namespace normwise::NORMWISE_ISA
