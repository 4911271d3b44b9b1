// Statistics over runs of contiguous memory: instance, group, batch and trailing layer norms.
//
// A statistic that fits in a core's cache is measured and applied by one thread, so that x is
// read from memory once. A larger one, or one of few, is shared out among all threads.
#pragma once
#include "activations.h"
#include "affine.h"
#include "moments.h"

namespace normwise { namespace NORMWISE_ISA {

constexpr i64 CACHE = 1 << 20;  // bytes that stay in a core's second cache between two passes

template <class S> class Runs {
  using R = typename Wide<S>::type;

  // One block of a run, read: x, and which of its elements are real, if not all are.
  struct Block {
    const R* x;
    const R* real;
  };
  struct Buffers {
    alignas(LINE) R x[BLOCK], real[BLOCK], z[BLOCK], g[BLOCK], residual[BLOCK];
  };

  const Form& form;
  const int threads;
  const Affine<R> affine;
  const std::uint8_t* mask;
  const S* x;
  const S* residual;

 public:
  template <class Call>
  Runs(const Form& form, const Call& call, int threads)
      : form(form), threads(threads), affine(form, call.weight, call.bias), mask(call.mask),
        x(static_cast<const S*>(call.x)), residual(static_cast<const S*>(call.residual)) {}

  void forward(const Forward& call) {
    S* y = static_cast<S*>(call.y);
    R* moments = static_cast<R*>(call.moments);
    if (form.given) {
      each_element([&](i64 o, i64 k, Share part, Buffers& buffers) {
        apply(o, k, part, recall<R>(form, call, nullptr, statistic(o, k)), y, buffers);
      });
      return;
    }
    Scratch<Moments<R>> partial(one_thread_each() ? 0 : form.O * form.K * threads);
    each_statistic([&](i64 o, i64 k, Share part, bool alone, Buffers& buffers) {
      Moments<R> own = measure(o, k, part, buffers);
      if (!alone) own = together(own, partial + (o * form.K + k) * threads);
      if (moments && (alone || thread_number() == 0))
        store(own, moments + statistic(o, k), form.statistics, mask != nullptr);
      apply(o, k, part, standard(own, form.eps), y, buffers);
    });
  }

  void backward(const Backward& call) {
    const AffineGradient gradient(form, call, threads);
    Scratch<Pair<double>> partial(one_thread_each() ? 0 : form.O * form.K * threads);
    each_statistic([&](i64 o, i64 k, Share part, bool alone, Buffers& buffers) {
      const Standard<R> by = recall<R>(form, call, call.moments, statistic(o, k));
      Pair<double> sums{0, 0};
      double count = double(form.A * form.P * form.Q);
      if (!form.given || gradient.wanted) sums = project(o, k, part, by, call, gradient, buffers);
      if (form.given) {
        sums = {0, 0};
      } else {
        if (!alone) sums = together(sums, partial + (o * form.K + k) * threads);
        if (mask) count = double(static_cast<const R*>(call.moments)[
            3 * form.statistics + statistic(o, k)]);
      }
      if (call.dx || call.dresidual)
        descend(o, k, part, by, call, R(form.centres ? sums.first / count : 0),
                R(sums.second / count), buffers);
    });
    gradient.finish();
  }

 private:
  // -- who does what ---------------------------------------------------------

  i64 elements_each() const { return form.A * form.P * form.Q; }
  bool one_thread_each() const {
    const i64 statistics = form.O * form.K;
    return threads == 1 || (statistics >= 4 * threads && elements_each() * i64(sizeof(S)) <= CACHE);
  }

  // f(o, k, part, alone) for every statistic: by one thread alone, or by all, each a part of it.
  template <class F> void each_statistic(F f) {
    const bool alone = one_thread_each();
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Buffers buffers;
      const int me = thread_number(), all = team_size();
      const i64 statistics = form.O * form.K;
      const Share mine = alone ? share(statistics, me, all) : Share{0, statistics};
      const Share part =
          alone ? Share{0, elements_each()} : share(elements_each(), me, all, 64 / sizeof(S));
      for (i64 s = mine.begin; s < mine.end; ++s) f(s / form.K, s % form.K, part, alone, buffers);
    }
  }

  // f(o, k, part) for every statistic, where none is measured: by memory, in equal parts.
  template <class F> void each_element(F f) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Buffers buffers;
      const i64 each = elements_each();
      const Share mine =
          share(form.O * form.K * each, thread_number(), team_size(), 64 / sizeof(S));
      for (i64 at = mine.begin; at < mine.end;) {
        const i64 s = at / each, begin = at - s * each;
        const i64 end = least(each, mine.end - s * each);
        f(s / form.K, s % form.K, Share{begin, end}, buffers);
        at += end - begin;
      }
    }
  }

  // The moments of all threads' parts, merged in their order by each of them.
  Moments<R> together(const Moments<R>& own, Moments<R>* partial) const {
    partial[thread_number()] = own;
#pragma omp barrier
    Moments<R> all;
    for (int t = 0; t < team_size(); ++t) all.merge(partial[t]);
    return all;
  }
  Pair<double> together(const Pair<double>& own, Pair<double>* partial) const {
    partial[thread_number()] = own;
#pragma omp barrier
    Pair<double> all{0, 0};
    for (int t = 0; t < team_size(); ++t) {
      all.first += partial[t].first;
      all.second += partial[t].second;
    }
    return all;
  }

  i64 statistic(i64 o, i64 k) const { return o * form.statistic_o + k * form.statistic_k; }

  // -- one statistic's elements ----------------------------------------------

  Block read_block(i64 o, i64 a, i64 k, i64 p, i64 q, i64 n, Buffers& buffers) const {
    const S* from = x + form.x.at(o, a, k, p) + q;
    if (!mask) return {read(from, n, buffers.x), nullptr};
    const std::uint8_t* m = mask + form.mask.at(o, a, k, p) + q * form.mask.q;
    const i64 step = form.mask.q;
#pragma omp simd
    for (i64 i = 0; i < n; ++i) buffers.real[i] = m[i * step] ? R(1) : R(0);
    const R* wide = read(from, n, buffers.x);
#pragma omp simd
    for (i64 i = 0; i < n; ++i) buffers.x[i] = buffers.real[i] != R(0) ? wide[i] : R(0);
    return {buffers.x, buffers.real};
  }

  Moments<R> measure(i64 o, i64 k, Share part, Buffers& buffers) const {
    Moments<R> own;
    blocks(form, part.begin, part.end, BLOCK, [&](i64 a, i64 p, i64 q, i64 n) {
      const Block block = read_block(o, a, k, p, q, n, buffers);
      own.add(block.x, block.real, n, form.centres);
    });
    return own;
  }

  // z = (x - mean) / deviation * weight + bias + residual, before the activation.
  void standardise(i64 o, i64 a, i64 k, i64 p, i64 q, i64 n, const R* from, Standard<R> by, R* z,
                   Buffers& buffers) const {
    const i64 at = form.weight.at(o, a, k, p) + q * form.weight.q;
    if (affine.weight && form.weight.q) {
      const R *w = affine.weight + at, *b = affine.bias + at;
#pragma omp simd
      for (i64 i = 0; i < n; ++i) z[i] = ((from[i] - by.high) - by.low) * by.rate * w[i] + b[i];
    } else {
      const R w = affine.weight ? by.rate * affine.weight[at] : by.rate;
      const R b = affine.weight ? affine.bias[at] : R(0);
#pragma omp simd
      for (i64 i = 0; i < n; ++i) z[i] = ((from[i] - by.high) - by.low) * w + b;
    }
    if (residual) {
      const R* more = read(residual + form.y.at(o, a, k, p) + q, n, buffers.residual);
#pragma omp simd
      for (i64 i = 0; i < n; ++i) z[i] += more[i];
    }
  }

  void apply(i64 o, i64 k, Share part, Standard<R> by, S* y, Buffers& buffers) const {
    blocks(form, part.begin, part.end, BLOCK, [&](i64 a, i64 p, i64 q, i64 n) {
      const Block block = read_block(o, a, k, p, q, n, buffers);
      S* to = y + form.y.at(o, a, k, p) + q;
      R* z = place(to, buffers.z);
      standardise(o, a, k, p, q, n, block.x, by, z, buffers);
      activate(form.activation, z, n);
      if (block.real) {
#pragma omp simd
        for (i64 i = 0; i < n; ++i) z[i] = block.real[i] != R(0) ? z[i] : R(0);
      }
      write(z, n, to);
    });
  }

  // The gradient of z, the activation's and the mask's share in it taken.
  const R* read_gradient(i64 o, i64 a, i64 k, i64 p, i64 q, i64 n, const Block& block,
                         Standard<R> by, const S* from, Buffers& buffers) const {
    const R* g = read(from + form.y.at(o, a, k, p) + q, n, buffers.g);
    if (form.activation == Activation::none && !block.real) return g;
    if (g != buffers.g) std::memcpy(buffers.g, g, n * sizeof(R));
    if (form.activation != Activation::none) {
      standardise(o, a, k, p, q, n, block.x, by, buffers.z, buffers);
      chain(form.activation, buffers.z, buffers.g, n);
    }
    if (block.real) {
#pragma omp simd
      for (i64 i = 0; i < n; ++i) buffers.g[i] = block.real[i] != R(0) ? buffers.g[i] : R(0);
    }
    return buffers.g;
  }

  // The sums over the statistic of g * weight and of g * weight * xhat; and, on the way, those
  // for the gradients of weight and bias.
  Pair<double> project(i64 o, i64 k, Share part, Standard<R> by, const Backward& call,
                       const AffineGradient& gradient, Buffers& buffers) const {
    Pair<double> sums{0, 0};
    double* dw = gradient.wanted ? gradient.weight(thread_number()) : nullptr;
    double* db = gradient.wanted ? gradient.bias(thread_number()) : nullptr;
    const S* from = static_cast<const S*>(call.gradient);
    blocks(form, part.begin, part.end, BLOCK, [&](i64 a, i64 p, i64 q, i64 n) {
      const Block block = read_block(o, a, k, p, q, n, buffers);
      const R* g = read_gradient(o, a, k, p, q, n, block, by, from, buffers);
      const i64 at = form.weight.at(o, a, k, p) + q * form.weight.q;
      const R* v = block.x;
      if (affine.weight && form.weight.q) {
        const R* w = affine.weight + at;
        R s0 = 0, s1 = 0;
        if (dw) {
#pragma omp simd reduction(+ : s0, s1)
          for (i64 i = 0; i < n; ++i) {
            const R hat = ((v[i] - by.high) - by.low) * by.rate, t = g[i] * w[i];
            s0 += t;
            s1 += t * hat;
            dw[at + i] += double(g[i] * hat);
            db[at + i] += double(g[i]);
          }
        } else {
#pragma omp simd reduction(+ : s0, s1)
          for (i64 i = 0; i < n; ++i) {
            const R t = g[i] * w[i];
            s0 += t;
            s1 += t * (((v[i] - by.high) - by.low) * by.rate);
          }
        }
        sums.first += s0;
        sums.second += s1;
      } else {
        const Pair<R> d = products(g, v, n, by);
        const double w = affine.weight ? double(affine.weight[at]) : 1.;
        sums.first += w * d.first;
        sums.second += w * d.second;
        if (dw) {
          dw[at] += d.second;
          db[at] += d.first;
        }
      }
    });
    return sums;
  }

  // The sums of g and of g * xhat.
  static Pair<R> products(const R* g, const R* v, i64 n, Standard<R> by) {
    const i64 half = n / 2;
    R s0 = 0, s1 = 0, t0 = 0, t1 = 0;
#pragma omp simd reduction(+ : s0, s1, t0, t1)
    for (i64 i = 0; i < half; ++i) {
      const R g0 = g[i], g1 = g[half + i];
      s0 += g0;
      s1 += g1;
      t0 += g0 * (((v[i] - by.high) - by.low) * by.rate);
      t1 += g1 * (((v[half + i] - by.high) - by.low) * by.rate);
    }
    if (n % 2) {
      s0 += g[n - 1];
      t0 += g[n - 1] * (((v[n - 1] - by.high) - by.low) * by.rate);
    }
    return {s0 + s1, t0 + t1};
  }

  // dx = (g * weight - mean(g * weight) - xhat * mean(g * weight * xhat)) / deviation
  void descend(i64 o, i64 k, Share part, Standard<R> by, const Backward& call, R first, R second,
               Buffers& buffers) const {
    const S* from = static_cast<const S*>(call.gradient);
    blocks(form, part.begin, part.end, BLOCK, [&](i64 a, i64 p, i64 q, i64 n) {
      const Block block = read_block(o, a, k, p, q, n, buffers);
      const R* g = read_gradient(o, a, k, p, q, n, block, by, from, buffers);
      const i64 there = form.y.at(o, a, k, p) + q;
      if (call.dresidual) {
        S* to = static_cast<S*>(call.dresidual) + there;
        R* d = place(to, buffers.residual);
        std::memcpy(d, g, n * sizeof(R));
        write(d, n, to);
      }
      if (!call.dx) return;
      S* to = static_cast<S*>(call.dx) + there;
      R* d = place(to, buffers.z);
      const R* v = block.x;
      const i64 at = form.weight.at(o, a, k, p) + q * form.weight.q;
      const R c0 = by.rate * first, c1 = by.rate * by.rate * second;
      if (affine.weight && form.weight.q) {
        const R* w = affine.weight + at;
#pragma omp simd
        for (i64 i = 0; i < n; ++i)
          d[i] = g[i] * w[i] * by.rate - c0 - ((v[i] - by.high) - by.low) * c1;
      } else {
        const R w = affine.weight ? by.rate * affine.weight[at] : by.rate;
#pragma omp simd
        for (i64 i = 0; i < n; ++i) d[i] = g[i] * w - c0 - ((v[i] - by.high) - by.low) * c1;
      }
      if (block.real) {
#pragma omp simd
        for (i64 i = 0; i < n; ++i) d[i] = block.real[i] != R(0) ? d[i] : R(0);
      }
      write(d, n, to);
    });
  }
};

}}  // namespace normwise::NORMWISE_ISA
