// Columns, backward: sums over the rows of the gradient and of gradient * xhat, then
//
//     dx = (g * weight - mean(g * weight) - xhat * mean(g * weight * xhat)) / deviation
#pragma once
#include "columns.h"

namespace normwise { namespace NORMWISE_ISA {

template <class S> class ColumnsBackward : Columns<S> {
  using Base = Columns<S>;
  using R = typename Base::R;
  using Tile = typename Base::Tile;
  using Partial = typename Base::Partial;
  using Read = typename Base::Read;
  using Written = typename Base::Written;
  using Base::form, Base::threads, Base::mask, Base::alone, Base::ahead, Base::by_row,
      Base::each_tile, Base::each_rows, Base::together, Base::weight_at, Base::row_weight,
      Base::gather, Base::spread, Base::find, Base::read_rows, Base::place_rows,
      Base::recall_tile, Base::standardise, Base::of_rows;

 public:
  using Base::Base;

  void backward(const Backward& call) {
    const AffineGradient<R> gradient(form, call, threads);
    const Partial partial(*this);
    each_tile([&](Tile& tile, Share rows) {
      recall_tile(tile, call, call.moments);
      if (!form.given || gradient.wanted) {
        project(tile, rows, call, gradient);
        weigh(tile, gradient);
        if (!alone && !form.given) together(tile, partial, false);
      }
      average(tile);
      if (call.dx || call.dresidual)
        each_rows(rows, [&](auto several) { descend(tile, several, call); });
    });
    gradient.finish();
  }

 private:
  // The gradient of z, the activation's and the mask's share in it taken.
  template <int M>
  NORMWISE_INLINE Read read_gradients(const Tile& tile, Rows<M> which, Read v,
                                      const S* from) const {
    const Read rows = this->template widen_rows<M>(tile, find(tile, which, from, form.y), tile.g);
    if (form.activation == Activation::none && !mask) return rows;
    const Written z{tile.z, tile.apart}, g{tile.g, tile.apart};
    if (form.activation != Activation::none) standardise(tile, which, v, z);
    this->template each_piece<M>(tile, [&](int m, i64 n) {
      if (rows.first != g.first) std::memcpy(g[m], rows[m], n * sizeof(R));
      chain(form.activation, z[m], g[m], n);
    });
    this->template keep_real<M>(tile, g);
    return {tile.g, tile.apart};
  }

  // The sums over the rows of g and g * xhat, each times weight where weight belongs to rows.
  void project(Tile& tile, Share rows, const Backward& call,
               const AffineGradient<R>& gradient) const {
    const S* from = static_cast<const S*>(call.gradient);
    R *s = tile.residue, *t = tile.squares;
    for (i64 begin = rows.begin; begin < rows.end; begin += PANEL) {
      std::memset(s, 0, tile.size * sizeof(R));
      std::memset(t, 0, tile.size * sizeof(R));
      each_rows({begin, least(begin + PANEL, rows.end)}, [&](auto which) {
        constexpr int M = which.size;
        const auto v = this->read_rows(tile, which), g = read_gradients(tile, which, v, from);
        by_row ? project_rows(tile, which, v, g, gradient) : project_columns<M>(tile, v, g);
      });
#pragma omp simd
      for (i64 i = 0; i < tile.size; ++i) {
        tile.first[i] += double(s[i]);
        tile.second[i] += double(t[i]);
      }
    }
  }

  template <int M> NORMWISE_INLINE void project_columns(const Tile& tile, Read v, Read g) const {
    const R *high = tile.high, *low = tile.low, *rate = tile.rate;
    R *s = tile.residue, *t = tile.squares;
    walk<R>(tile.size, [=](auto at) {
      const auto h = at(high), l = at(low);
      auto first = at(g[0]), second = first * ((at(v[0]) - h) - l);
      for (int m = 1; m < M; ++m) {
        const auto plain = at(g[m]);
        first += plain;
        second += plain * ((at(v[m]) - h) - l);
      }
      at.put(s, at(s) + first);
      at.put(t, at(t) + second * at(rate));
    });
  }

  template <int M>
  NORMWISE_INLINE void project_rows(const Tile& tile, Rows<M> which, Read v, Read g,
                    const AffineGradient<R>& gradient) const {
    const R *high = tile.high, *low = tile.low, *rate = tile.rate;
    R *s = tile.residue, *t = tile.squares;
    const auto of = of_rows(tile, which);
    R sums[2 * M];
    const i64 next_x = ahead(form.x), next_g = ahead(form.y);
    walk(tile.size, sums, [=](auto at, auto* terms) {
      const auto h = at(high), l = at(low), r = at(rate);
      auto first = at(s), second = at(t);
      for (int m = 0; m < M; ++m) {
        at.fetch(v[m] + next_x);
        at.fetch(g[m] + next_g);
        const auto plain = at(g[m]), along = plain * (((at(v[m]) - h) - l) * r);
        terms[m] = plain;
        terms[M + m] = along;
        first += plain * of.weight(m);
        second += along * of.weight(m);
      }
      at.put(s, first);
      at.put(t, second);
    });
    if (!gradient.wanted) return;
    const i64 first = row_weight(tile, which.first), apart = which.apart * form.weight.a;
    double *db = gradient.bias(thread_number()) + first;
    double *dw = gradient.weight(thread_number()) + first;
    for (int m = 0; m < M; ++m) {
      db[m * apart] += sums[m];
      dw[m * apart] += sums[M + m];
    }
  }

  // The sums times weight, a pair for each statistic, and without it for the weights' gradients.
  void weigh(Tile& tile, const AffineGradient<R>& gradient) const {
    const bool each = form.weight.q != 0;  // whether neighbours have a weight each
    const i64 size = each ? tile.size : tile.statistics, run = each ? form.Q : 1;
    if (!each) gather_sums(tile);
    if (!by_row && gradient.wanted) {
      for (i64 k = 0, i = 0; k < tile.statistics; ++k) {
        double* db = gradient.bias(thread_number()) + weight_at(tile, k);
        double* dw = gradient.weight(thread_number()) + weight_at(tile, k);
        for (i64 q = 0; q < run; ++q, ++i) {
          db[q * form.weight.q] += tile.first[i];
          dw[q * form.weight.q] += tile.second[i];
        }
      }
    }
    const i64 step = each ? 1 : form.Q;
    for (i64 i = 0; i < size; ++i) {
      tile.first[i] *= tile.weight[i * step];
      tile.second[i] *= tile.weight[i * step];
    }
    if (each) gather_sums(tile);
  }
  void gather_sums(Tile& tile) const {
    for (double* sums : {tile.first, tile.second}) gather(tile, sums);
  }

  // From sums to what `descend` subtracts: their means, with the factors of dx in them.
  void average(Tile& tile) const {
    const double *first = tile.first, *second = tile.second, *count = tile.count;
    R *c0 = tile.residue, *c1 = tile.squares;
    const R* rate = tile.rate;
    const double per = 1 / double(form.A * form.Q);
    const bool measured = !form.given, centred = measured && form.centres;
    const bool counts = measured && mask;
#pragma omp simd
    for (i64 k = 0; k < tile.statistics; ++k) {
      const double share = counts ? 1 / count[k] : per;
      const R r = rate[k * form.Q];
      c0[k] = centred ? R(first[k] * share) * r : R(0);
      c1[k] = measured ? R(second[k] * share) * r * r : R(0);
    }
    for (R* one : {c0, c1}) spread(tile, one, one);
  }

  template <int M>
  NORMWISE_INLINE void descend(const Tile& tile, Rows<M> which, const Backward& call) const {
    const Read v = this->read_rows(tile, which);
    const Read g = read_gradients(tile, which, v, static_cast<const S*>(call.gradient));
    if (S* all = static_cast<S*>(call.dresidual)) {
      const auto to = find(tile, which, all, form.y);
      const Written d = place_rows(tile, to, tile.more);
      this->template each_piece<M>(tile, [&](int m, i64 n) {
        std::memcpy(d[m], g[m], n * sizeof(R));
      });
      this->template narrow_rows<M>(tile, d, to);
    }
    if (!call.dx) return;
    const auto to = find(tile, which, static_cast<S*>(call.dx), form.y);
    const Written d = place_rows(tile, to, tile.z);
    const R *high = tile.high, *low = tile.low, *scale = tile.scale;
    const R *c0 = tile.residue, *c1 = tile.squares;
    const auto rows = of_rows(tile, which);
    walk<R>(tile.size, [=](auto at) {
      const auto h = at(high), l = at(low), s = at(scale), first = at(c0), second = at(c1);
      for (int m = 0; m < M; ++m)
        at.put(d[m], at(g[m]) * (s * rows.weight(m)) - first - ((at(v[m]) - h) - l) * second);
    });
    this->template keep_real<M>(tile, d);
    this->template narrow_rows<M>(tile, d, to);
  }
};

}}  // namespace normwise::NORMWISE_ISA
