// Runs, backward: sums over a statistic of the gradient * weight and of that * xhat, then
//
//     dx = (g * weight - mean(g * weight) - xhat * mean(g * weight * xhat)) / deviation
#pragma once
#include "runs.h"

namespace normwise { namespace NORMWISE_ISA {

template <class S> class RunsBackward : Runs<S> {
  using Base = Runs<S>;
  using R = typename Base::R;
  using Block = typename Base::Block;
  using Buffers = typename Base::Buffers;
  template <int M> using Read = Several<const R*, M>;
  template <int M> using Written = Several<R*, M>;
  using Base::form, Base::threads, Base::affine, Base::mask, Base::along, Base::elements_each,
      Base::one_thread_each, Base::each_statistics, Base::each_block, Base::statistic,
      Base::at_y, Base::at_weight, Base::each_piece, Base::standardise, Base::keep_real;

 public:
  using Base::Base;

  void backward(const Backward& call) {
    const AffineGradient<R> gradient(form, call, threads);
    const bool alone = one_thread_each();
    Scratch<Pair<double>> partial(alone ? 0 : form.O * form.K * threads);
    this->template each_statistics<true>(
        [&](i64 o, i64 k, Share part, auto among, Buffers& buffers) {
      constexpr int M = among.runs;
      Standard<R> by[among.most];
      Pair<double> sums[among.most];
      Pair<R> means[among.most];
      for (int m = 0; m < among.size(); ++m) {
        by[m] = recall<R>(form, call, call.moments, statistic(o, k + m * among.apart));
        sums[m] = {0, 0};
      }
      if (!form.given || gradient.wanted) {
        if (gradient.wanted && form.weight.q && (buffers.pending += among.size()) > FLUSH) {
          gradient.flush(thread_number());
          buffers.pending = among.size();
        }
        each_block(o, k, part, among, [&](Block b) NORMWISE_INLINED {
          project<M>(b, by, call, gradient, sums, buffers);
        });
      }
      for (int m = 0; m < among.size(); ++m) {
        double count = double(elements_each());
        if (!alone && !form.given) sums[m] = together(sums[m], partial + (o * form.K + k) * threads);
        if (mask && !form.given) count = double(static_cast<const R*>(call.moments)[
            3 * form.statistics + statistic(o, k)]);
        means[m] = {form.centres && !form.given ? R(sums[m].first / count) : R(0),
                    form.given ? R(0) : R(sums[m].second / count)};
      }
      if (!call.dx && !call.dresidual) return;
      each_block(o, k, part, among, [&](Block b) NORMWISE_INLINED {
        descend<M>(b, by, call, means, buffers);
      });
    });
    gradient.finish();
  }

 private:
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

  // The gradient of z, the activation's and the mask's share in it taken.
  template <int M>
  NORMWISE_INLINE Read<M> read_gradients(Block b, Read<M> v, const Standard<R>* by,
                                         const S* from, Buffers& buffers) const {
    Read<M> g;
    for (int m = 0; m < M; ++m) g[m] = read(from + at_y(b, m), b.n, buffers.g[m].at);
    if (form.activation == Activation::none && !mask) return g;
    Written<M> z;
    for (int m = 0; m < M; ++m) z[m] = buffers.z[m].at;
    if (form.activation != Activation::none) this->template standardise<M>(b, v, by, z, buffers);
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
  NORMWISE_INLINE void project(Block b, const Standard<R>* by, const Backward& call,
                               const AffineGradient<R>& gradient, Pair<double>* sums,
                               Buffers& buffers) const {
    const S* from = static_cast<const S*>(call.gradient);
    const Read<M> v = this->template read_blocks<M>(b, buffers);
    const Read<M> g = read_gradients<M>(b, v, by, from, buffers);
    along ? project_along<M>(b, by, v, g, gradient, sums)
                                   : project_across<M>(b, by, v, g, gradient, sums);
  }

  // Likewise, where weights lie along the run.
  template <int M>
  NORMWISE_INLINE void project_along(Block b, const Standard<R>* by, Read<M> v, Read<M> g,
                                     const AffineGradient<R>& gradient, Pair<double>* sums) const {
    R s[2 * M];
    Several<Standard<R>, M> of;
    for (int m = 0; m < M; ++m) of[m] = by[m];
    const i64 here = at_weight(b, 0);
    const R* weight = affine.weight + here;
    if (!gradient.wanted) {
      walk(b.n, s, [=](auto at, auto* terms) {
        const auto w = at(weight);
        for (int m = 0; m < M; ++m) {
          terms[m] = at(g[m]) * w;
          terms[M + m] = terms[m] * (((at(v[m]) - of[m].high) - of[m].low) * of[m].rate);
        }
      });
    } else {
      const int me = thread_number();
      R *dw = gradient.weight_part(me) + here, *db = gradient.bias_part(me) + here;
      walk(b.n, s, [=](auto at, auto* terms) {
        const auto w = at(weight);
        auto first = at(db), second = at(dw);
        for (int m = 0; m < M; ++m) {
          const auto plain = at(g[m]);
          const auto along = plain * (((at(v[m]) - of[m].high) - of[m].low) * of[m].rate);
          first += plain;
          second += along;
          terms[m] = plain * w;
          terms[M + m] = along * w;
        }
        at.put(db, first);
        at.put(dw, second);
      });
    }
    for (int m = 0; m < M; ++m) {
      sums[m].first += double(s[m]);
      sums[m].second += double(s[M + m]);
    }
  }

  // Likewise, where all of a run has one weight, or none.
  template <int M>
  NORMWISE_INLINE void project_across(Block b, const Standard<R>* by, Read<M> v, Read<M> g,
                                      const AffineGradient<R>& gradient, Pair<double>* sums) const {
    double *dw = nullptr, *db = nullptr;
    if (gradient.wanted) {
      dw = gradient.weight(thread_number());
      db = gradient.bias(thread_number());
    }
    for (int m = 0; m < M; ++m) {
      each_piece(b, m, by, [&](Standard<R> of, i64 s, i64 i, i64 n, i64 w) NORMWISE_INLINED {
        const R *here = v[m] + i, *there = g[m] + i;
        R both[2];
        reduce(n, both, [=](auto at, auto* terms) {
          terms[0] = at(there);
          terms[1] = terms[0] * (((at(here) - of.high) - of.low) * of.rate);
        });
        if (dw) {
          db[w] += double(both[0]);
          dw[w] += double(both[1]);
        }
        const double weight = affine.weight ? double(affine.weight[w]) : 1.;
        sums[s].first += weight * double(both[0]);
        sums[s].second += weight * double(both[1]);
      });
    }
  }

  template <int M>
  NORMWISE_INLINE void descend(Block b, const Standard<R>* by, const Backward& call,
                               const Pair<R>* means, Buffers& buffers) const {
    const Read<M> v = this->template read_blocks<M>(b, buffers);
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
    for (int m = 0; m < M; ++m) d[m] = place(dx + at_y(b, m), buffers.z[m].at);
    if (along) {
      Several<Standard<R>, M> of;
      Several<R, M> first, second;
      for (int m = 0; m < M; ++m) {
        of[m] = by[m];
        first[m] = by[m].rate * means[m].first;
        second[m] = by[m].rate * by[m].rate * means[m].second;
      }
      const R* weight = affine.weight + at_weight(b, 0);
      map<R>(b.n, [=](auto at) {
        const auto w = at(weight);
        for (int m = 0; m < M; ++m)
          at.put(d[m], at(g[m]) * w * of[m].rate - first[m] -
                           ((at(v[m]) - of[m].high) - of[m].low) * second[m]);
      });
    } else {
      for (int m = 0; m < M; ++m) {
        each_piece(b, m, by, [&](Standard<R> of, i64 s, i64 i, i64 n, i64 w) NORMWISE_INLINED {
          const R *here = v[m] + i, *there = g[m] + i;
          R* to = d[m] + i;
          const R first = of.rate * means[s].first, second = of.rate * of.rate * means[s].second;
          const R scale = affine.weight ? of.rate * affine.weight[w] : of.rate;
          map<R>(n, [=](auto at) {
            at.put(to, at(there) * scale - first - ((at(here) - of.high) - of.low) * second);
          });
        });
      }
    }
    for (int m = 0; m < M; ++m) {
      keep_real(b, d[m], buffers);
      write(d[m], b.n, dx + at_y(b, m));
    }
  }
};

}}  // namespace normwise::NORMWISE_ISA
