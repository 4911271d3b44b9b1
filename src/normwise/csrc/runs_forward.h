// Runs, forward: measured in blocks that are merged, then standardised and scaled.
#pragma once
#include "runs.h"

namespace normwise { namespace NORMWISE_ISA {

template <class S> class RunsForward : Runs<S> {
  using Base = Runs<S>;
  using R = typename Base::R;
  using Block = typename Base::Block;
  using Buffers = typename Base::Buffers;
  using Apart = typename Base::template Apart<1>;
  using Beside = typename Base::Beside;
  using Base::form, Base::threads, Base::mask, Base::elements_each, Base::one_thread_each,
      Base::touch, Base::each_statistics, Base::each_block, Base::statistic, Base::at_y,
      Base::standardise, Base::keep_real;

 public:
  using Base::Base;

  void forward(const Forward& call) {
    S* y = static_cast<S*>(call.y);
    R* moments = static_cast<R*>(call.moments);
    if (form.given) {
      apply_given(call, y);
      return;
    }
    Scratch<Moments<R>> partial(one_thread_each() ? 0 : form.O * form.K * threads);
    this->template each_statistics<false>(
        [&](i64 o, i64 k, Share part, auto among, Buffers& buffers) {
      Standard<R> by[among.most];
      measure(o, k, part, among, by, moments, partial, buffers);
      each_block(o, k, part, among, [&](Block b) NORMWISE_INLINED { apply(b, by, y, buffers); });
    });
  }

 private:
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
      const bool short_runs = 2 * form.Q <= BLOCK && touch() && !mask;
      const i64 unit = short_runs ? form.Q : LINE / i64(sizeof(S));
      const i64 most = short_runs ? BLOCK / form.Q * form.Q : BLOCK;
      const Share mine = share(form.elements(), me, all, unit);
      const i64 run = mine.begin / form.Q;
      i64 q = mine.begin % form.Q, p = run % form.P, k = run / form.P % form.K;
      i64 a = run / form.P / form.K % form.A, o = run / form.P / form.K / form.A;
      for (i64 left = mine.end - mine.begin, n; left > 0; left -= n) {
        const i64 runs = short_runs ? (form.K - k) * form.P - p : 1;
        n = least(least(runs * form.Q - q, left), most);
        const Block b{o, a, k, p, q, n, short_runs ? form.Q : n, 0};
        apply(b, by + (o * form.K + k), y, buffers);
        if ((q += n) < form.Q) continue;
        p += q / form.Q;
        q = 0;
        if (p < form.P) continue;
        k += p / form.P;
        p %= form.P;
        if (k < form.K) continue;
        k = 0;
        if (++a < form.A) continue;
        a = 0;
        ++o;
      }
    }
  }

  // One statistic: the moments of its blocks and, if they share it, of all threads.
  NORMWISE_INLINE void measure(i64 o, i64 k, Share part, Apart among, Standard<R>* by, R* moments,
                               Moments<R>* partial, Buffers& buffers) const {
    Moments<R> own;
    each_block(o, k, part, among, [&](Block b) NORMWISE_INLINED {
      const R* v = this->template read_blocks<1>(b, buffers)[0];
      own.add(v, mask ? buffers.real.at : nullptr, b.n, form.centres);
    });
    const bool alone = one_thread_each();
    if (!alone) own = together(own, partial + (o * form.K + k) * threads);
    if (moments && (alone || thread_number() == 0))
      store(own, moments + statistic(o, k), form.statistics, mask != nullptr);
    by[0] = standard(own, form.eps);
  }

  // The moments of all threads' parts, merged in their order by each of them.
  Moments<R> together(const Moments<R>& own, Moments<R>* partial) const {
    partial[thread_number()] = own;
#pragma omp barrier
    Moments<R> all;
    for (int t = 0; t < team_size(); ++t) all.merge(partial[t]);
    return all;
  }

  // Those of a block: all means, all deviations from them, then all roots, so that none waits for
  // another. The mean of a short run, and what is left of it, are the mean in two numbers.
  NORMWISE_INLINE void measure(i64 o, i64 k, Share, Beside among, Standard<R>* by, R* moments,
                               Moments<R>*, Buffers& buffers) const {
    const i64 count = among.count;
    const i64 n = elements_each();
    const R* v = this->template read_blocks<1>({o, 0, k, 0, 0, count * n, n, 0}, buffers)[0];
    const R per = R(1) / R(n);
    R mean[SHORT] = {}, rest[SHORT], variance[SHORT], rate[SHORT];
    for (i64 i = 0; i < count && form.centres; ++i) mean[i] = sum(v + i * n, n) * per;
    for (i64 i = 0; i < count; ++i) {
      const Pair<R> d = deviations(v + i * n, n, mean[i]);
      rest[i] = d.first;
      variance[i] = d.second;
    }
    const R centred = form.centres ? per : R(0);
#pragma omp simd
    for (i64 i = 0; i < count; ++i) {
      const R residue = rest[i] * centred;
      variance[i] = (variance[i] - rest[i] * residue) * per;
      rest[i] = residue;
      rate[i] = reciprocal_root(variance[i], form.eps);
    }
    for (i64 i = 0; i < count; ++i) {
      by[i] = {mean[i], rest[i], rate[i]};
      if (!moments) continue;
      R* to = moments + statistic(o, k + i);
      to[0] = mean[i];
      to[form.statistics] = rest[i];
      to[2 * form.statistics] = variance[i];
    }
  }

  NORMWISE_INLINE void apply(Block b, const Standard<R>* by, S* y, Buffers& buffers) const {
    S* to = y + at_y(b, 0);
    R* z = place(to, buffers.z[0].at);
    this->template standardise<1>(b, this->template read_blocks<1>(b, buffers), by, {{z}}, buffers);
    activate(form.activation, z, b.n);
    keep_real(b, z, buffers);
    write(z, b.n, to);
  }
};

}}  // namespace normwise::NORMWISE_ISA
