// Statistics over runs of contiguous memory: instance, group, batch and trailing layer norms.
//
// A statistic that fits in a core's cache is measured and applied by one thread, so that x is
// read from memory once. A larger one, or one of few, is shared out among all threads. Short ones
// that lie beside each other are one block, as what has to be done once for each block, or to
// wait for, would take longer than they do.
//
// This file is what both ways have in common; the formulas are in runs_forward.h and
// runs_backward.h.
#pragma once
#include "activations.h"
#include "affine.h"
#include "moments.h"

namespace normwise { namespace NORMWISE_ISA {

constexpr i64 CACHE = 1 << 20;  // bytes that stay in a core's second cache between two passes

constexpr int SHORT = 16;   // statistics that are worked on at a time where they are short
constexpr int RUNS = 4;     // that are worked on at a time where weights lie along them
constexpr i64 STRIP = 260;  // runs among which these are taken, far from each other

template <class S> class Runs {
 protected:
  using R = typename Wide<S>::type;

  // n neighbours from q on, of M runs: k, k + apart, ... All that a piece has is of one statistic
  // and has one weight, or one row of them.
  struct Block {
    i64 o, a, k, p, q, n, piece, apart;
  };
  // The statistics that are worked on together: of M runs, k, k + apart, ...
  template <int M> struct Apart {
    i64 apart;
    static constexpr int runs = M, most = M;
    static constexpr int size() { return M; }
  };
  // Or `count` from k on, whose neighbours are one run.
  struct Beside {
    i64 count;
    static constexpr int runs = 1, most = SHORT;
    static constexpr i64 apart = 1;
    i64 size() const { return count; }
  };
  template <int M> using Read = Several<const R*, M>;
  template <int M> using Written = Several<R*, M>;

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
  const bool along;   // whether weights lie along runs
  const bool joined;  // whether blocks go on from one run to the next, and each has its weight
  const i64 beside;   // how many statistics are in a block, which has all their neighbours; or 0

 public:
  template <class Call>
  Runs(const Form& form, const Call& call, int threads)
      : form(form), threads(threads), affine(form, call.weight, call.bias), mask(call.mask),
        x(static_cast<const S*>(call.x)), residual(static_cast<const S*>(call.residual)),
        along(affine.weight && form.weight.q),
        joined(form.P > 1 && form.x.p == form.Q && form.y.p == form.Q && !along &&
               2 * form.Q <= BLOCK && !mask),
        beside(in_a_block()) {}

 protected:
  // -- who does what ---------------------------------------------------------

  i64 elements_each() const { return form.A * form.P * form.Q; }
  bool one_thread_each() const {
    const i64 statistics = form.O * form.K;
    return threads == 1 || (statistics >= 4 * threads && elements_each() * i64(sizeof(S)) <= CACHE);
  }

  // How many statistics go into a block: none where one of them does not, or is not one run.
  i64 in_a_block() const {
    const bool one_run = form.A == 1 && (form.P == 1 || joined) && !mask;
    if (!one_run || elements_each() > BLOCK || !one_thread_each()) return 0;
    return touch() ? least(SHORT, BLOCK / elements_each()) : 1;
  }

  // Whether all runs of (k, p) lie beside each other, and so do their weights.
  bool touch() const {
    const bool weights = !affine.weight || form.P == 1 || form.weight.k == form.P * form.weight.p;
    const auto runs = [&](const Strides& of) {
      return of.k == form.P * form.Q && (form.P == 1 || of.p == form.Q);
    };
    return runs(form.x) && runs(form.y) && weights;
  }

  // f(o, k, part, among, buffers) for all statistics, as they are worked on together: by one
  // thread alone, or one after the other by all threads, each a part of it. `shared`: runs along
  // which the same weights lie are taken together, so that the gradients of these are read and
  // written once for all.
  template <bool shared, class F> void each_statistics(F f) {
    const bool alone = one_thread_each(), one_run = form.A == 1 && form.P == 1 && !mask;
    const bool few = elements_each() * i64(2 * RUNS * sizeof(S)) <= CACHE;
    const bool several = shared && along && !form.weight.k && alone && one_run && few;
    const bool side_by_side = beside && !(shared && along);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Buffers buffers;
      const int me = thread_number(), all = team_size();
      const i64 statistics = form.O * form.K;
      const Share mine = alone ? share(statistics, me, all) : Share{0, statistics};
      // A part is of whole lines of memory or, where a block is of several runs, of whole runs.
      const i64 unit = joined ? form.Q : LINE / i64(sizeof(S));
      const Share part = alone ? Share{0, elements_each()} : share(elements_each(), me, all, unit);
      const i64 most = side_by_side ? beside : STRIP;
      for (i64 s = mine.begin; s < mine.end;) {
        const i64 o = s / form.K, k = s % form.K;
        const i64 strip = least(least(most, form.K - k), mine.end - s);
        if (side_by_side) {
          f(o, k, part, Beside{strip}, buffers);
        } else {
          const i64 apart = several ? strip / RUNS : 0;
          if constexpr (shared) {
            for (i64 i = 0; i < apart; ++i) f(o, k + i, part, Apart<RUNS>{apart}, buffers);
          }
          for (i64 i = RUNS * apart; i < strip; ++i) f(o, k + i, part, Apart<1>{0}, buffers);
        }
        s += strip;
      }
    }
  }

  template <int M, class F>
  NORMWISE_INLINE void each_block(i64 o, i64 k, Share part, Apart<M> among, F f) const {
    const i64 most = joined ? BLOCK / form.Q * form.Q : BLOCK;
    const bool pieces = joined && affine.weight;
    blocks(joined ? 1 : form.P, joined ? form.P * form.Q : form.Q, part, most,
           [&](i64 a, i64 p, i64 q, i64 n) NORMWISE_INLINED {
             f(Block{o, a, k, p, q, n, pieces ? form.Q : n, among.apart});
           });
  }
  template <class F>
  NORMWISE_INLINE void each_block(i64 o, i64 k, Share part, Beside among, F f) const {
    f(Block{o, 0, k, 0, 0, among.count * part.end, affine.weight ? form.Q : part.end, 0});
  }

  // f(of, s, i, n, w) for each piece of a block, n elements from i on: `of` is the s-th of the
  // statistics, and a copy, as one in memory might change with each element that is written.
  // One call of f, and all inlined: a Block handed over in memory waits for what is being stored.
  template <class F>
  NORMWISE_INLINE void each_piece(Block b, int m, const Standard<R>* by, F f) const {
    const bool are_runs = b.piece == form.Q;
    const i64 pieces = are_runs ? form.P : 1;  // of a statistic
    const i64 step = form.P > 1 ? form.weight.p : form.weight.k;
    i64 i = 0, end = (are_runs ? form.P - b.p : 1) * b.piece, w = at_weight(b, m);
    for (i64 s = m; i < b.n; ++s, end += pieces * b.piece) {
      const Standard<R> of = by[s];
      for (const i64 last = least(end, b.n); i < last; i += b.piece, w += step)
        f(of, s, i, b.piece, w);
    }
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
  NORMWISE_INLINE void standardise(Block b, Read<M> v, const Standard<R>* by, Written<M> z,
                                   Buffers& buffers) const {
    for (int m = 0; m < M; ++m) {
      each_piece(b, m, by, [&](Standard<R> of, i64, i64 i, i64 n, i64 w) NORMWISE_INLINED {
        const R* from = v[m] + i;
        R* to = z[m] + i;
        if (along) {
          const R *weight = affine.weight + w, *bias = affine.bias + w;
          map<R>(n, [=](auto at) {
            at.put(to, ((at(from) - of.high) - of.low) * of.rate * at(weight) + at(bias));
          });
        } else {
          const R scale = affine.weight ? of.rate * affine.weight[w] : of.rate;
          const R bias = affine.weight ? affine.bias[w] : R(0);
          map<R>(n, [=](auto at) { at.put(to, ((at(from) - of.high) - of.low) * scale + bias); });
        }
      });
    }
    for (int m = 0; m < M && residual; ++m) {
      const R* more = read(residual + at_y(b, m), b.n, buffers.residual.at);
      walk<R>(b.n, [=](auto at) { at.put(z[m], at(z[m]) + at(more)); });
    }
  }
};

}}  // namespace normwise::NORMWISE_ISA
