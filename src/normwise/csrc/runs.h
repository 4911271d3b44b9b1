// Statistics over runs of contiguous memory: instance, group, batch and trailing layer norms.
//
// A statistic that fits in a core's cache is measured and applied by one thread, so that x is
// read from memory once. A larger one, or one of few, is shared out among all threads.
//
// This file is what both ways have in common; the formulas are in runs_forward.h and
// runs_backward.h.
#pragma once
#include "activations.h"
#include "affine.h"
#include "moments.h"

namespace normwise { namespace NORMWISE_ISA {

constexpr i64 CACHE = 1 << 20;  // bytes that stay in a core's second cache between two passes

constexpr int RUNS = 4;     // that are worked on at a time where weights lie along them
constexpr i64 STRIP = 260;  // runs among which these are taken, far from each other

template <class S> class Runs {
 protected:
  using R = typename Wide<S>::type;

  // n neighbours from q on, of M runs: k, k + apart, ...
  struct Block {
    i64 o, a, k, p, q, n, apart;
  };
  template <int M> struct Among {
    i64 apart;
    static constexpr int size = M;
  };
  template <int M> using Read = Several<const R*, M>;
  template <int M> using Written = Several<R*, M>;
  template <int M> using Statistics = Several<Standard<R>, M>;

  struct alignas(LINE) Line {
    R at[BLOCK];
  };
  struct Buffers {
    Line x[RUNS], z[RUNS], g[RUNS], real, residual;
    i64 pending = 0;  // runs whose share in the gradient of weight and bias is not yet flushed
  };

  const Form& form;
  const int threads;
  const Affine<R> affine;
  const std::uint8_t* mask;
  const S* x;
  const S* residual;
  const bool joined;  // whether blocks go on from one run to the next, and each has its weight

 public:
  template <class Call>
  Runs(const Form& form, const Call& call, int threads)
      : form(form), threads(threads), affine(form, call.weight, call.bias), mask(call.mask),
        x(static_cast<const S*>(call.x)), residual(static_cast<const S*>(call.residual)),
        joined(form.P > 1 && form.x.p == form.Q && form.y.p == form.Q && !form.weight.q &&
               2 * form.Q <= BLOCK && !mask) {}

 protected:
  // -- who does what ---------------------------------------------------------

  i64 elements_each() const { return form.A * form.P * form.Q; }
  bool one_thread_each() const {
    const i64 statistics = form.O * form.K;
    return threads == 1 || (statistics >= 4 * threads && elements_each() * i64(sizeof(S)) <= CACHE);
  }

  // f(o, k, part, buffers) for every statistic: by one thread alone, or by all, each a part of it.
  template <class F> void each_statistic(F f) {
    each_statistics(false, [&](i64 o, i64 k, Share part, auto, Buffers& buffers) {
      f(o, k, part, buffers);
    });
  }

  // f(o, k, part, among, buffers) likewise, for several at a time where `shared` and the same
  // weights lie along several runs: so that their gradients are read and written once for all.
  template <class F> void each_statistics(bool shared, F f) {
    const bool alone = one_thread_each(), one_run = form.A == 1 && form.P == 1 && !mask;
    const bool few = elements_each() * i64(2 * RUNS * sizeof(S)) <= CACHE;
    const bool several = shared && alone && one_run && few && form.weight.q && !form.weight.k;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Buffers buffers;
      const int me = thread_number(), all = team_size();
      const i64 statistics = form.O * form.K;
      const Share mine = alone ? share(statistics, me, all) : Share{0, statistics};
      // A part is of whole lines of memory or, where a block is of several runs, of whole runs.
      const i64 unit = joined ? form.Q : LINE / i64(sizeof(S));
      const Share part = alone ? Share{0, elements_each()} : share(elements_each(), me, all, unit);
      for (i64 s = mine.begin; s < mine.end;) {
        const i64 o = s / form.K, k = s % form.K;
        const i64 strip = least(least(STRIP, form.K - k), mine.end - s);
        const i64 apart = several ? strip / RUNS : 0;
        for (i64 i = 0; i < apart; ++i) f(o, k + i, part, Among<RUNS>{apart}, buffers);
        for (i64 i = RUNS * apart; i < strip; ++i) f(o, k + i, part, Among<1>{0}, buffers);
        s += strip;
      }
    }
  }

  template <class F>
  NORMWISE_INLINE void each_block(i64 o, i64 k, Share part, i64 apart, F f) const {
    const i64 most = joined ? BLOCK / form.Q * form.Q : BLOCK;
    blocks(joined ? 1 : form.P, joined ? form.P * form.Q : form.Q, part, most,
           [&](i64 a, i64 p, i64 q, i64 n) NORMWISE_INLINED {
             f(Block{o, a, k, p, q, n, apart});
           });
  }

  // f(i, n, w) for the n elements from i on of a block that have one weight, or one row of them.
  // One call of f, and all inlined: a Block handed over in memory waits for what is being stored.
  template <class F> NORMWISE_INLINE void each_weight(Block b, int m, F f) const {
    const i64 run = joined && affine.weight ? form.Q : b.n;
    for (i64 i = 0, w = at_weight(b, m); i < b.n; i += run, w += form.weight.p)
      f(i, least(run, b.n - i), w);
  }

  i64 statistic(i64 o, i64 k) const { return o * form.statistic_o + k * form.statistic_k; }

  // -- blocks ----------------------------------------------------------------

  i64 at_x(Block b, int m) const { return form.x.at(b.o, b.a, b.k + m * b.apart, b.p) + b.q; }
  i64 at_y(Block b, int m) const { return form.y.at(b.o, b.a, b.k + m * b.apart, b.p) + b.q; }
  i64 at_weight(Block b, int m) const {
    const i64 first = form.weight.at(b.o, b.a, b.k + m * b.apart, b.p) + b.q * form.weight.q;
    return joined ? first + b.q / form.Q * form.weight.p : first;
  }

  // x; with a mask, which of it is real goes to buffers.real, and what is not reads as 0.
  template <int M> NORMWISE_INLINE Read<M> read_blocks(Block b, Buffers& buffers) const {
    Read<M> v;
    for (int m = 0; m < M; ++m) v[m] = read(x + at_x(b, m), b.n, buffers.x[m].at);
    if (!mask) return v;
    const std::uint8_t* marks = mask + form.mask.at(b.o, b.a, b.k, b.p) + b.q * form.mask.q;
    const i64 step = form.mask.q;
    R *real = buffers.real.at, *to = buffers.x[0].at;
    const R* from = v[0];
#pragma omp simd
    for (i64 i = 0; i < b.n; ++i) real[i] = marks[i * step] ? R(1) : R(0);
#pragma omp simd
    for (i64 i = 0; i < b.n; ++i) to[i] = real[i] != R(0) ? from[i] : R(0);
    v[0] = to;
    return v;
  }

  NORMWISE_INLINE void keep_real(Block b, R* z, const Buffers& buffers) const {
    if (!mask) return;
    const R* real = buffers.real.at;
#pragma omp simd
    for (i64 i = 0; i < b.n; ++i) z[i] = real[i] != R(0) ? z[i] : R(0);
  }

  // z = (x - mean) / deviation * weight + bias + residual, before the activation.
  template <int M>
  NORMWISE_INLINE void standardise(Block b, Read<M> v, const Statistics<M>& by, Written<M> z,
                                   Buffers& buffers) const {
    if (affine.weight && form.weight.q) {
      const R *weight = affine.weight + at_weight(b, 0), *bias = affine.bias + at_weight(b, 0);
      map<R>(b.n, [=](auto at) {
        const auto w = at(weight), c = at(bias);
        for (int m = 0; m < M; ++m)
          at.put(z[m], ((at(v[m]) - by[m].high) - by[m].low) * by[m].rate * w + c);
      });
    } else {
      for (int m = 0; m < M; ++m) {
        const Standard<R> of = by[m];
        each_weight(b, m, [&](i64 i, i64 n, i64 w) NORMWISE_INLINED {
          const R* from = v[m] + i;
          R* to = z[m] + i;
          const R scale = affine.weight ? of.rate * affine.weight[w] : of.rate;
          const R bias = affine.weight ? affine.bias[w] : R(0);
          map<R>(n, [=](auto at) { at.put(to, ((at(from) - of.high) - of.low) * scale + bias); });
        });
      }
    }
    for (int m = 0; m < M && residual; ++m) {
      const R* more = read(residual + at_y(b, m), b.n, buffers.residual.at);
      walk<R>(b.n, [=](auto at) { at.put(z[m], at(z[m]) + at(more)); });
    }
  }
};

}}  // namespace normwise::NORMWISE_ISA
