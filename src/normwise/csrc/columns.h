// Statistics across a stride: channel norms on (N, C, T), and everything on channels-last.
//
// Here (k, q) is one row of neighbours in memory and a counts the rows; a statistic is a column,
// or Q columns side by side. Tiles of them are shared out in tiles.h.
//
// This file is what both ways have in common; the formulas are in columns_forward.h and
// columns_backward.h.
#pragma once
#include "activations.h"
#include "tiles.h"

namespace normwise { namespace NORMWISE_ISA {

// Where rows begin in memory.
template <class T> struct Begins {
  T* first;
  i64 apart;
  T* operator[](int m) const { return first + m * apart; }
};

template <class S> class Columns : protected Tiles<S> {
  using Base = Tiles<S>;

 protected:
  using R = typename Base::R;
  using Tile = typename Base::Tile;
  using Read = Begins<const R>;
  using Written = Begins<R>;
  using Base::form, Base::affine, Base::mask, Base::x, Base::residual, Base::by_row, Base::touch,
      Base::statistic, Base::spread;

  using Base::Base;

  // f(m, n) for what lies in one piece: n numbers of a row m, or all from there on.
  template <int M, class F> NORMWISE_INLINE void each_piece(const Tile& tile, F f) const {
    if (touch) return f(0, M * tile.size);
    for (int m = 0; m < M; ++m) f(m, tile.size);
  }
  template <int M, class T>
  NORMWISE_INLINE Begins<T> find(const Tile& tile, Rows<M> which, T* all, const Strides& by) const {
    return {all + by.at(tile.o, which.first, 0, 0) + tile.begin, which.apart * by.a};
  }

  // Rows of what is stored, wide: where they lie if they are, else in `buffer`.
  template <int M>
  NORMWISE_INLINE Read widen_rows(const Tile& tile, Begins<const S> from, R* buffer) const {
    if constexpr (std::is_same<S, R>::value) {
      return from;
    } else {
      each_piece<M>(tile, [&](int m, i64 n) { read(from[m], n, buffer + m * tile.apart); });
      return {buffer, tile.apart};
    }
  }
  // Where to put wide rows that `narrow_rows` will move to `to`.
  NORMWISE_INLINE Written place_rows(const Tile& tile, Begins<S> to, R* buffer) const {
    if constexpr (std::is_same<S, R>::value) {
      return to;
    } else {
      return {buffer, tile.apart};
    }
  }
  template <int M>
  NORMWISE_INLINE void narrow_rows(const Tile& tile, Written from, Begins<S> to) const {
    each_piece<M>(tile, [&](int m, i64 n) { write(from[m], n, to[m]); });
  }

  template <int M> NORMWISE_INLINE Read read_rows(const Tile& tile, Rows<M> which) const {
    const Read rows = widen_rows<M>(tile, find(tile, which, x, form.x), tile.x);
    if (!mask) return rows;
    for (int m = 0; m < M; ++m)
      read_marks(tile, which.first + m * which.apart, tile.real + m * tile.apart);
    each_piece<M>(tile, [&](int m, i64 n) {
      const R *real = tile.real + m * tile.apart, *row = rows[m];
      R* to = tile.x + m * tile.apart;
#pragma omp simd
      for (i64 i = 0; i < n; ++i) to[i] = real[i] != R(0) ? row[i] : R(0);
    });
    return {tile.x, tile.apart};
  }

  // What `read_rows` found of the mask.
  static Read which_are_real(const Tile& tile) { return {tile.real, tile.apart}; }

  // 1 where an element of a row is real, else 0.
  void read_marks(const Tile& tile, i64 row, R* real) const {
    const Index& by = form.mask;
    const bool one = form.Q == 1 || by.k == form.Q * by.q;  // step from each column to the next
    const i64 step = form.Q == 1 ? by.k : by.q, n = one ? tile.size : form.Q;
    const i64 first = tile.begin / form.Q;
    for (i64 i = 0; i < tile.size; i += n) {
      const std::uint8_t* marks = mask + by.at(tile.o, row, first + i / form.Q, 0);
      if (step == 0) {
        std::fill(real + i, real + i + n, marks[0] ? R(1) : R(0));
      } else if (step == 1) {
#pragma omp simd
        for (i64 j = 0; j < n; ++j) real[i + j] = marks[j] ? R(1) : R(0);
      } else {
        for (i64 j = 0; j < n; ++j) real[i + j] = marks[j * step] ? R(1) : R(0);
      }
      if (by.k != 0) continue;
      for (i64 have = n; have < tile.size; have *= 2)  // every statistic has the same marks
        std::copy_n(real, least(have, tile.size - have), real + have);
      return;
    }
  }

  // The statistics of the columns, as they were given or as forward left them.
  template <class Call>
  void recall_tile(Tile& tile, const Call& call, const void* moments) const {
    const R* from = static_cast<const R*>(moments);
    const R *mean = static_cast<const R*>(call.mean), *var = static_cast<const R*>(call.var);
    for (i64 k = 0; k < tile.statistics; ++k) {
      const i64 s = statistic(tile, k);
      tile.high[k] = !form.given ? from[s] : mean ? mean[s] : R(0);
      tile.low[k] = form.given ? R(0) : from[form.statistics + s];
      tile.rate[k] = form.given ? var[s] : from[2 * form.statistics + s];
      if (mask && !form.given) tile.count[k] = from[3 * form.statistics + s];
    }
    take_root(tile);
  }

  // From variances to rates, for all columns.
  void take_root(Tile& tile) const {
    R *rate = tile.rate, *scale = tile.scale;
    const R* weight = tile.weight;
    const double eps = form.eps;
#pragma omp simd
    for (i64 k = 0; k < tile.statistics; ++k) rate[k] = reciprocal_root(rate[k], eps);
    for (R* one : {tile.high, tile.low, rate}) spread(tile, one, one);
#pragma omp simd
    for (i64 i = 0; i < tile.size; ++i) scale[i] = rate[i] * weight[i];
  }

  // Weight and bias of rows, 1 and 0 where they belong to columns.
  struct OfRows {
    const R *first_weight, *first_bias;
    i64 apart;
    R weight(int m) const { return first_weight[m * apart]; }
    R bias(int m) const { return first_bias[m * apart]; }
  };
  template <int M> NORMWISE_INLINE OfRows of_rows(const Tile& tile, Rows<M> which) const {
    static constexpr R one = 1, zero = 0;
    if (!by_row || !affine.weight) return {&one, &zero, 0};
    const i64 first = row_weight(tile, which.first);
    return {affine.weight + first, affine.bias + first, which.apart * form.weight.a};
  }
  i64 row_weight(const Tile& tile, i64 row) const { return form.weight.at(tile.o, row, 0, 0); }

  // z = (x - mean) / deviation * weight + bias + residual, before the activation.
  template <int M>
  NORMWISE_INLINE void standardise(const Tile& tile, Rows<M> which, Read v, Written z) const {
    const R *high = tile.high, *low = tile.low, *scale = tile.scale, *bias = tile.bias;
    const OfRows rows = of_rows(tile, which);
    walk<R>(tile.size, [=](auto at) {
      const auto h = at(high), l = at(low), s = at(scale), b = at(bias);
      for (int m = 0; m < M; ++m)
        at.put(z[m], ((at(v[m]) - h) - l) * s * rows.weight(m) + (b + rows.bias(m)));
    });
    if (!residual) return;
    const Read more = widen_rows<M>(tile, find(tile, which, residual, form.y), tile.more);
    for (int m = 0; m < M; ++m)
      walk<R>(tile.size, [=](auto at) { at.put(z[m], at(z[m]) + at(more[m])); });
  }

  template <int M> NORMWISE_INLINE void keep_real(const Tile& tile, Written z) const {
    if (!mask) return;
    each_piece<M>(tile, [&](int m, i64 n) {
      const R* real = tile.real + m * tile.apart;
      R* to = z[m];
#pragma omp simd
      for (i64 i = 0; i < n; ++i) to[i] = real[i] != R(0) ? to[i] : R(0);
    });
  }
};

}}  // namespace normwise::NORMWISE_ISA
