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

constexpr int RUNS = 4;     // that are worked on at a time where weights lie along them
constexpr i64 STRIP = 260;  // runs among which these are taken, far from each other
constexpr int SHORT = 16;   // runs that are measured before they are applied: no one waits long

template <class S> class Runs {
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

 public:
  template <class Call>
  Runs(const Form& form, const Call& call, int threads)
      : form(form), threads(threads), affine(form, call.weight, call.bias), mask(call.mask),
        x(static_cast<const S*>(call.x)), residual(static_cast<const S*>(call.residual)) {}

  void forward(const Forward& call) {
    S* y = static_cast<S*>(call.y);
    R* moments = static_cast<R*>(call.moments);
    if (form.given) {
      apply_given(call, y);
      return;
    }
    if (is_short()) {
      each_strip([&](i64 o, i64 k, i64 n, Buffers& buffers) {
        Several<Standard<R>, SHORT> by;
        for (i64 i = 0; i < n; ++i) by[i] = measure_short(o, k + i, moments, buffers);
        const Share all{0, elements_each()};
        for (i64 i = 0; i < n; ++i) {
          each_block(o, k + i, all, 0, [&](Block b) { apply(b, {{by[i]}}, y, buffers); });
        }
      });
      return;
    }
    const bool alone = one_thread_each();
    Scratch<Moments<R>> partial(alone ? 0 : form.O * form.K * threads);
    each_statistic([&](i64 o, i64 k, Share part, Buffers& buffers) {
      Moments<R> own;
      each_block(o, k, part, 0, [&](Block b) {
        const R* v = read_blocks<1>(b, buffers)[0];
        own.add(v, mask ? buffers.real.at : nullptr, b.n, form.centres);
      });
      if (!alone) own = together(own, partial + (o * form.K + k) * threads);
      if (moments && (alone || thread_number() == 0))
        store(own, moments + statistic(o, k), form.statistics, mask != nullptr);
      const Statistics<1> by{{standard(own, form.eps)}};
      each_block(o, k, part, 0, [&](Block b) { apply(b, by, y, buffers); });
    });
  }

  void backward(const Backward& call) {
    const AffineGradient<R> gradient(form, call, threads);
    const bool alone = one_thread_each();
    Scratch<Pair<double>> partial(alone ? 0 : form.O * form.K * threads);
    each_statistics(gradient.wanted, [&](i64 o, i64 k, Share part, auto among, Buffers& buffers) {
      constexpr int M = among.size;
      Statistics<M> by;
      Several<Pair<double>, M> sums;
      for (int m = 0; m < M; ++m) {
        by[m] = recall<R>(form, call, call.moments, statistic(o, k + m * among.apart));
        sums[m] = {0, 0};
      }
      if (!form.given || gradient.wanted) {
        if (gradient.wanted && form.weight.q && (buffers.pending += M) > FLUSH) {
          gradient.flush(thread_number());
          buffers.pending = M;
        }
        each_block(o, k, part, among.apart, [&](Block b) {
          project<M>(b, by, call, gradient, sums, buffers);
        });
      }
      Several<Pair<R>, M> means;
      for (int m = 0; m < M; ++m) {
        double count = double(elements_each());
        if (!alone && !form.given) sums[m] = together(sums[m], partial + (o * form.K + k) * threads);
        if (mask && !form.given) count = double(static_cast<const R*>(call.moments)[
            3 * form.statistics + statistic(o, k)]);
        means[m] = {form.centres && !form.given ? R(sums[m].first / count) : R(0),
                    form.given ? R(0) : R(sums[m].second / count)};
      }
      if (!call.dx && !call.dresidual) return;
      each_block(o, k, part, among.apart, [&](Block b) { descend<M>(b, by, call, means, buffers); });
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

  // Whether a statistic is of one block of neighbours, without a mask: the most frequent kind,
  // for which merging blocks would take longer than measuring them.
  bool is_short() const {
    const bool neighbours = form.A == 1 && (form.P == 1 || form.x.p == form.Q);
    return neighbours && !mask && elements_each() <= BLOCK && one_thread_each();
  }

  // f(o, k, n, buffers) for all statistics, n from k on at a time, each by one thread alone.
  template <class F> void each_strip(F f) {
    const i64 most = BLOCK / elements_each();  // so that x stays in the first cache
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Buffers buffers;
      const Share mine = share(form.O * form.K, thread_number(), team_size());
      for (i64 s = mine.begin; s < mine.end;) {
        const i64 o = s / form.K, k = s % form.K;
        const i64 n = least(least(least(SHORT, most), form.K - k), mine.end - s);
        f(o, k, n, buffers);
        s += n;
      }
    }
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
      const Share part =
          alone ? Share{0, elements_each()} : share(elements_each(), me, all, 64 / sizeof(S));
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

  // y where no statistic is measured: each thread has an equal part of memory, as those have that
  // compute what comes before and after, so that it finds x in its own cache and leaves y there.
  void apply_given(const Forward& call, S* y) {
    const i64 statistics = form.O * form.K;
    Scratch<Standard<R>> by(statistics);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Buffers buffers;
      const int me = thread_number(), all = team_size();
      const Share own = share(statistics, me, all);
      for (i64 s = own.begin; s < own.end; ++s)
        by[s] = recall<R>(form, call, nullptr, statistic(s / form.K, s % form.K));
#pragma omp barrier
      const Share mine = share(form.elements(), me, all, LINE / sizeof(S));
      const i64 run = mine.begin / form.Q;
      i64 q = mine.begin % form.Q, p = run % form.P, k = run / form.P % form.K;
      i64 a = run / form.P / form.K % form.A, o = run / form.P / form.K / form.A;
      for (i64 left = mine.end - mine.begin, n; left > 0; left -= n) {
        n = least(least(form.Q - q, left), BLOCK);
        apply(Block{o, a, k, p, q, n, 0}, Statistics<1>{{by[o * form.K + k]}}, y, buffers);
        if ((q += n) < form.Q) continue;
        q = 0;
        if (++p < form.P) continue;
        p = 0;
        if (++k < form.K) continue;
        k = 0;
        if (++a < form.A) continue;
        a = 0;
        ++o;
      }
    }
  }

  template <class F> void each_block(i64 o, i64 k, Share part, i64 apart, F f) const {
    blocks(form, part.begin, part.end, BLOCK, [&](i64 a, i64 p, i64 q, i64 n) {
      f(Block{o, a, k, p, q, n, apart});
    });
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

  // -- blocks ----------------------------------------------------------------

  i64 at_x(Block b, int m) const { return form.x.at(b.o, b.a, b.k + m * b.apart, b.p) + b.q; }
  i64 at_y(Block b, int m) const { return form.y.at(b.o, b.a, b.k + m * b.apart, b.p) + b.q; }
  i64 at_weight(Block b, int m) const {
    return form.weight.at(b.o, b.a, b.k + m * b.apart, b.p) + b.q * form.weight.q;
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

  // The mean of a short run, and what is left of it, are the mean in two numbers.
  NORMWISE_INLINE Standard<R> measure_short(i64 o, i64 k, R* moments, Buffers& buffers) const {
    const i64 n = elements_each();
    const R* v = read_blocks<1>({o, 0, k, 0, 0, n, 0}, buffers)[0];
    const R per = R(1) / R(n), mean = form.centres ? sum(v, n) * per : R(0);
    const Pair<R> d = deviations(v, n, mean);
    const R rest = form.centres ? d.first * per : R(0);
    const R variance = (d.second - (form.centres ? d.first * rest : R(0))) * per;
    if (moments) {
      R* to = moments + statistic(o, k);
      to[0] = mean;
      to[form.statistics] = rest;
      to[2 * form.statistics] = variance;
    }
    return {mean, rest, reciprocal_root(variance, form.eps)};
  }

  // z = (x - mean) / deviation * weight + bias + residual, before the activation.
  template <int M>
  NORMWISE_INLINE void standardise(Block b, Read<M> v, const Statistics<M>& by, Written<M> z, Buffers& buffers) const {
    if (affine.weight && form.weight.q) {
      const R *weight = affine.weight + at_weight(b, 0), *bias = affine.bias + at_weight(b, 0);
      map<R>(b.n, [=](auto at) {
        const auto w = at(weight), c = at(bias);
        for (int m = 0; m < M; ++m)
          at.put(z[m], ((at(v[m]) - by[m].high) - by[m].low) * by[m].rate * w + c);
      });
    } else {
      Several<R, M> scale, bias;
      for (int m = 0; m < M; ++m) {
        const i64 at = at_weight(b, m);
        scale[m] = affine.weight ? by[m].rate * affine.weight[at] : by[m].rate;
        bias[m] = affine.weight ? affine.bias[at] : R(0);
      }
      map<R>(b.n, [=](auto at) {
        for (int m = 0; m < M; ++m)
          at.put(z[m], ((at(v[m]) - by[m].high) - by[m].low) * scale[m] + bias[m]);
      });
    }
    for (int m = 0; m < M && residual; ++m) {
      const R* more = read(residual + at_y(b, m), b.n, buffers.residual.at);
      walk<R>(b.n, [=](auto at) { at.put(z[m], at(z[m]) + at(more)); });
    }
  }

  NORMWISE_INLINE void apply(Block b, const Statistics<1>& by, S* y, Buffers& buffers) const {
    S* to = y + at_y(b, 0);
    R* z = place(to, buffers.z[0].at);
    standardise<1>(b, read_blocks<1>(b, buffers), by, {{z}}, buffers);
    activate(form.activation, z, b.n);
    keep_real(b, z, buffers);
    write(z, b.n, to);
  }

  // The gradient of z, the activation's and the mask's share in it taken.
  template <int M>
  NORMWISE_INLINE Read<M> read_gradients(Block b, Read<M> v, const Statistics<M>& by, const S* from,
                         Buffers& buffers) const {
    Read<M> g;
    for (int m = 0; m < M; ++m) g[m] = read(from + at_y(b, m), b.n, buffers.g[m].at);
    if (form.activation == Activation::none && !mask) return g;
    Written<M> z;
    for (int m = 0; m < M; ++m) z[m] = buffers.z[m].at;
    if (form.activation != Activation::none) standardise<M>(b, v, by, z, buffers);
    for (int m = 0; m < M; ++m) {
      R* to = buffers.g[m].at;
      if (g[m] != to) std::memcpy(to, g[m], b.n * sizeof(R));
      chain(form.activation, z[m], to, b.n);
      keep_real(b, to, buffers);
      g[m] = to;
    }
    return g;
  }

  // Adds the sums over the block of g * weight and of g * weight * xhat; and, on the way, those
  // for the gradients of weight and bias.
  template <int M>
  NORMWISE_INLINE void project(Block b, const Statistics<M>& by, const Backward& call, const AffineGradient<R>& gradient,
               Several<Pair<double>, M>& sums, Buffers& buffers) const {
    const int me = thread_number();
    const S* from = static_cast<const S*>(call.gradient);
    const Read<M> v = read_blocks<M>(b, buffers);
    const Read<M> g = read_gradients<M>(b, v, by, from, buffers);
    R s[2 * M];
    if (affine.weight && form.weight.q) {
      const i64 here = at_weight(b, 0);
      const R* weight = affine.weight + here;
      if (!gradient.wanted) {
        walk(b.n, s, [=](auto at, auto* terms) {
          const auto w = at(weight);
          for (int m = 0; m < M; ++m) {
            terms[m] = at(g[m]) * w;
            terms[M + m] = terms[m] * (((at(v[m]) - by[m].high) - by[m].low) * by[m].rate);
          }
        });
      } else {
        R *dw = gradient.weight_part(me) + here, *db = gradient.bias_part(me) + here;
        walk(b.n, s, [=](auto at, auto* terms) {
          const auto w = at(weight);
          auto first = at(db), second = at(dw);
          for (int m = 0; m < M; ++m) {
            const auto plain = at(g[m]);
            const auto along = plain * (((at(v[m]) - by[m].high) - by[m].low) * by[m].rate);
            first += plain;
            second += along;
            terms[m] = plain * w;
            terms[M + m] = along * w;
          }
          at.put(db, first);
          at.put(dw, second);
        });
      }
    } else {
      reduce(b.n, s, [=](auto at, auto* terms) {
        for (int m = 0; m < M; ++m) {
          terms[m] = at(g[m]);
          terms[M + m] = terms[m] * (((at(v[m]) - by[m].high) - by[m].low) * by[m].rate);
        }
      });
    }
    for (int m = 0; m < M; ++m) {
      double w = 1;
      if (!form.weight.q) {
        const i64 at = at_weight(b, m);
        if (affine.weight) w = double(affine.weight[at]);
        if (gradient.wanted) {
          gradient.bias(me)[at] += s[m];
          gradient.weight(me)[at] += s[M + m];
        }
      }
      sums[m].first += w * s[m];
      sums[m].second += w * s[M + m];
    }
  }

  // dx = (g * weight - mean(g * weight) - xhat * mean(g * weight * xhat)) / deviation
  template <int M>
  NORMWISE_INLINE void descend(Block b, const Statistics<M>& by, const Backward& call, const Several<Pair<R>, M>& means,
               Buffers& buffers) const {
    const Read<M> v = read_blocks<M>(b, buffers);
    const S* from = static_cast<const S*>(call.gradient);
    const Read<M> g = read_gradients<M>(b, v, by, from, buffers);
    for (int m = 0; m < M && call.dresidual; ++m) {
      S* to = static_cast<S*>(call.dresidual) + at_y(b, m);
      R* d = place(to, buffers.residual.at);
      std::memcpy(d, g[m], b.n * sizeof(R));
      write(d, b.n, to);
    }
    if (!call.dx) return;
    S* dx = static_cast<S*>(call.dx);
    Written<M> d;
    Several<R, M> scale, c0, c1;
    const bool along = affine.weight && form.weight.q;
    for (int m = 0; m < M; ++m) {
      d[m] = place(dx + at_y(b, m), buffers.z[m].at);
      const R rate = by[m].rate;
      scale[m] = affine.weight && !along ? rate * affine.weight[at_weight(b, m)] : rate;
      c0[m] = rate * means[m].first;
      c1[m] = rate * rate * means[m].second;
    }
    if (along) {
      const R* weight = affine.weight + at_weight(b, 0);
      walk<R>(b.n, [=](auto at) {
        const auto w = at(weight);
        for (int m = 0; m < M; ++m)
          at.put(d[m], at(g[m]) * w * scale[m] - c0[m] -
                           ((at(v[m]) - by[m].high) - by[m].low) * c1[m]);
      });
    } else {
      map<R>(b.n, [=](auto at) {
        for (int m = 0; m < M; ++m)
          at.put(d[m], at(g[m]) * scale[m] - c0[m] -
                           ((at(v[m]) - by[m].high) - by[m].low) * c1[m]);
      });
    }
    for (int m = 0; m < M; ++m) {
      keep_real(b, d[m], buffers);
      write(d[m], b.n, dx + at_y(b, m));
    }
  }
};

}}  // namespace normwise::NORMWISE_ISA
