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
  template <int M> using Read = Several<const R*, M>;
  template <int M> using Written = Several<R*, M>;
  using Base::form, Base::threads, Base::mask, Base::alone, Base::ahead, Base::by_row,
      Base::each_tile, Base::each_column, Base::each_rows, Base::together, Base::weight_at,
      Base::read_rows, Base::recall_tile, Base::standardise, Base::keep_real, Base::of_rows;

 public:
  using Base::Base;

  void backward(const Backward& call) {
    const AffineGradient<R> gradient(form, call, threads);
    const Partial partial(*this);
    each_tile([&](Tile& tile, Share rows) {
      recall_tile(tile, call, call.moments);
      if (!form.given || gradient.wanted) {
        project(tile, rows, call, gradient);
        if (!by_row && gradient.wanted) column_gradients(tile, gradient);
        for (i64 i = 0; i < tile.size; ++i) {
          tile.first[i] *= tile.weight[i];
          tile.second[i] *= tile.weight[i];
        }
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
  Read<M> read_gradients(const Tile& tile, Rows<M> which, Read<M> v, const S* from) const {
    Read<M> rows;
    for (int m = 0; m < M; ++m) {
      const S* row = from + form.y.at(tile.o, which[m], 0, 0) + tile.begin;
      rows[m] = read(row, tile.size, tile.g + m * tile.apart);
    }
    if (form.activation == Activation::none && !mask) return rows;
    Written<M> z;
    for (int m = 0; m < M; ++m) z[m] = tile.z + m * tile.apart;
    if (form.activation != Activation::none) standardise(tile, which, v, z);
    for (int m = 0; m < M; ++m) {
      R* g = tile.g + m * tile.apart;
      if (rows[m] != g) std::memcpy(g, rows[m], tile.size * sizeof(R));
      chain(form.activation, z[m], g, tile.size);
      keep_real(tile, m, g);
      rows[m] = g;
    }
    return rows;
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
        const auto v = this->read_rows(tile, which), g = read_gradients(tile, which, v, from);
        by_row ? project_rows(tile, which, v, g, gradient) : project_columns(tile, v, g);
      });
#pragma omp simd
      for (i64 i = 0; i < tile.size; ++i) {
        tile.first[i] += double(s[i]);
        tile.second[i] += double(t[i]);
      }
    }
  }

  template <int M> void project_columns(const Tile& tile, Read<M> v, Read<M> g) const {
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
  void project_rows(const Tile& tile, Rows<M> which, Read<M> v, Read<M> g,
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
        first += plain * of.weight[m];
        second += along * of.weight[m];
      }
      at.put(s, first);
      at.put(t, second);
    });
    for (int m = 0; m < M && gradient.wanted; ++m) {
      gradient.bias(thread_number())[of.at[m]] += sums[m];
      gradient.weight(thread_number())[of.at[m]] += sums[M + m];
    }
  }

  void column_gradients(const Tile& tile, const AffineGradient<R>& gradient) const {
    double* dw = gradient.weight(thread_number());
    double* db = gradient.bias(thread_number());
    each_column(tile, [&](i64 i, i64 k, i64 q) {
      const i64 at = weight_at(tile, k, q);
      dw[at] += tile.second[i];
      db[at] += tile.first[i];
    });
  }

  // From sums to what `descend` subtracts: their means, with the factors of dx in them.
  void average(Tile& tile) const {
    double *first = tile.first, *second = tile.second, *count = tile.count;
    const i64 n = form.Q;
    for (i64 i = 0; i < tile.size && n > 1; i += n) {  // columns that share a statistic
      double *one = first + i, *two = second + i, sums[2];
      reduce(n, sums, [=](auto at, auto* terms) {
        terms[0] = at(one);
        terms[1] = at(two);
      });
      std::fill(one, one + n, sums[0]);
      std::fill(two, two + n, sums[1]);
    }
    R *c0 = tile.residue, *c1 = tile.squares;
    const R* rate = tile.rate;
    const double per = 1 / double(form.A * form.Q);
    const bool measured = !form.given, centred = measured && form.centres;
    const bool counts = measured && mask;
#pragma omp simd
    for (i64 i = 0; i < tile.size; ++i) {
      const double share = counts ? 1 / count[i] : per;
      c0[i] = centred ? R(first[i] * share) * rate[i] : R(0);
      c1[i] = measured ? R(second[i] * share) * rate[i] * rate[i] : R(0);
    }
  }

  template <int M> void descend(const Tile& tile, Rows<M> which, const Backward& call) const {
    const Read<M> v = this->read_rows(tile, which);
    const Read<M> g = read_gradients(tile, which, v, static_cast<const S*>(call.gradient));
    const i64 size = tile.size;
    for (int m = 0; m < M && call.dresidual; ++m) {
      S* to = static_cast<S*>(call.dresidual) + form.y.at(tile.o, which[m], 0, 0) + tile.begin;
      R* d = place(to, tile.more);
      std::memcpy(d, g[m], size * sizeof(R));
      write(d, size, to);
    }
    if (!call.dx) return;
    S* to[M];
    Written<M> d;
    for (int m = 0; m < M; ++m) {
      to[m] = static_cast<S*>(call.dx) + form.y.at(tile.o, which[m], 0, 0) + tile.begin;
      d[m] = place(to[m], tile.z + m * tile.apart);
    }
    const R *high = tile.high, *low = tile.low, *scale = tile.scale;
    const R *c0 = tile.residue, *c1 = tile.squares;
    const auto rows = of_rows(tile, which);
    walk<R>(size, [=](auto at) {
      const auto h = at(high), l = at(low), s = at(scale), first = at(c0), second = at(c1);
      for (int m = 0; m < M; ++m)
        at.put(d[m], at(g[m]) * (s * rows.weight[m]) - first - ((at(v[m]) - h) - l) * second);
    });
    for (int m = 0; m < M; ++m) {
      keep_real(tile, m, d[m]);
      write(d[m], size, to[m]);
    }
  }
};

}}  // namespace normwise::NORMWISE_ISA
