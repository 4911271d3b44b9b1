// Runs, forward: measured in blocks that are merged, then standardised and scaled.
#pragma once
#include "runs.h"

namespace normwise { namespace NORMWISE_ISA {

constexpr int SHORT = 16;  // runs that are measured before they are applied: no one waits long

template <class S> class RunsForward : Runs<S> {
  using Base = Runs<S>;
  using R = typename Base::R;
  using Block = typename Base::Block;
  using Buffers = typename Base::Buffers;
  template <int M> using Statistics = typename Base::template Statistics<M>;
  using Base::form, Base::threads, Base::mask, Base::elements_each, Base::one_thread_each,
      Base::each_statistic, Base::each_block, Base::statistic, Base::at_y, Base::standardise,
      Base::keep_real;

 public:
  using Base::Base;

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
          each_block(o, k + i, all, 0, [&](Block b) NORMWISE_INLINED {
            apply(b, {{by[i]}}, y, buffers);
          });
        }
      });
      return;
    }
    const bool alone = one_thread_each();
    Scratch<Moments<R>> partial(alone ? 0 : form.O * form.K * threads);
    each_statistic([&](i64 o, i64 k, Share part, Buffers& buffers) {
      Moments<R> own;
      each_block(o, k, part, 0, [&](Block b) NORMWISE_INLINED {
        const R* v = this->template read_blocks<1>(b, buffers)[0];
        own.add(v, mask ? buffers.real.at : nullptr, b.n, form.centres);
      });
      if (!alone) own = together(own, partial + (o * form.K + k) * threads);
      if (moments && (alone || thread_number() == 0))
        store(own, moments + statistic(o, k), form.statistics, mask != nullptr);
      const Statistics<1> by{{standard(own, form.eps)}};
      each_block(o, k, part, 0, [&](Block b) NORMWISE_INLINED { apply(b, by, y, buffers); });
    });
  }

 private:
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

  // The moments of all threads' parts, merged in their order by each of them.
  Moments<R> together(const Moments<R>& own, Moments<R>* partial) const {
    partial[thread_number()] = own;
#pragma omp barrier
    Moments<R> all;
    for (int t = 0; t < team_size(); ++t) all.merge(partial[t]);
    return all;
  }

  // The mean of a short run, and what is left of it, are the mean in two numbers.
  NORMWISE_INLINE Standard<R> measure_short(i64 o, i64 k, R* moments, Buffers& buffers) const {
    const i64 n = elements_each();
    const R* v = this->template read_blocks<1>({o, 0, k, 0, 0, n, 0}, buffers)[0];
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

  NORMWISE_INLINE void apply(Block b, const Statistics<1>& by, S* y, Buffers& buffers) const {
    S* to = y + at_y(b, 0);
    R* z = place(to, buffers.z[0].at);
    this->template standardise<1>(b, this->template read_blocks<1>(b, buffers), by, {{z}}, buffers);
    activate(form.activation, z, b.n);
    keep_real(b, z, buffers);
    write(z, b.n, to);
  }
};

}}  // namespace normwise::NORMWISE_ISA
