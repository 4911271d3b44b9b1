// Statistics across a stride: channel norms on (N, C, T), and everything on channels-last.
//
// Here (k, q) is one row of neighbours in memory and a counts the rows; a statistic is a column,
// or Q columns side by side. The rows are worked on in tiles, each as wide as a cache allows: a
// tile is measured and applied by one thread, or, where there are few, by all of them.
//
// This file is what both ways have in common; the formulas are in columns_forward.h and
// columns_backward.h.
#pragma once
#include "activations.h"
#include "affine.h"
#include "moments.h"
#include <algorithm>
#include <type_traits>

namespace normwise { namespace NORMWISE_ISA {

constexpr i64 TILE = 1 << 19;   // bytes of x that stay in a core's second cache
constexpr i64 NARROW = 512, WIDE = 1024, VAST = 4096;  // columns of a tile
constexpr int ROWS = 8;       // that are worked on at a time: what belongs to columns is read once
constexpr i64 PANEL = 260;    // rows that are summed in R before they are added to a double
constexpr i64 FEW = 8;        // rows whose mean the others are measured from

// M rows that are worked on at a time.
template <int M> struct Rows {
  i64 first, apart;
  i64 operator[](int m) const { return first + m * apart; }
  static constexpr int size = M;
};

template <class S> class Columns {
 protected:
  using R = typename Wide<S>::type;

  const Form& form;
  const int threads;
  const Affine<R> affine;
  const std::uint8_t* mask;
  const S* x;
  const S* residual;
  i64 width;   // of a tile, a multiple of Q
  bool alone;  // whether a tile is one thread's
  bool by_row; // whether weight and bias belong to rows, or to columns

  // What a thread knows of the columns of its tile.
  struct Tile {
    i64 o, begin, size;  // which: size columns from `begin`
    i64 apart;           // from one row of a buffer to the next
    R *high, *low, *rate;            // their statistics
    R *weight, *bias, *scale;        // 1 and 0 where they belong to rows; rate * weight
    R *mean, *residue, *squares;     // of a panel
    R* shift;
    R *x, *real, *z, *g, *more;      // ROWS rows each
    double *first, *second;          // sums over all rows
    double* count;
  };
  template <int M> using Read = Several<const R*, M>;
  template <int M> using Written = Several<R*, M>;

 public:
  template <class Call>
  Columns(const Form& form, const Call& call, int threads)
      : form(form), threads(threads), affine(form, call.weight, call.bias), mask(call.mask),
        x(static_cast<const S*>(call.x)), residual(static_cast<const S*>(call.residual)),
        by_row(form.weight.a != 0) {
    // Narrow tiles walk memory in small steps, which costs more than a second pass over x. Where a
    // wide one does not stay in the cache, steps of pages are best, if x is read where it lies:
    // elsewhere rows of buffers, as long as these, would take the cache.
    const i64 all = form.K * form.Q;
    const i64 fits = TILE / i64(sizeof(S)) / (form.A > 0 ? form.A : 1);
    const bool steps_of_pages = in_place() || all <= VAST;
    const i64 wish = fits >= WIDE ? WIDE : steps_of_pages ? VAST : fits < NARROW ? NARROW : fits;
    width = least((wish + form.Q - 1) / form.Q * form.Q, all);
    const i64 tiles = form.O * ((all + width - 1) / width);
    alone = threads == 1 || form.given || (tiles >= threads && form.A * width <= 4 * TILE);
  }

 protected:
  // Whether rows are read where they lie, and not from a buffer.
  bool in_place() const { return std::is_same<S, R>::value && !mask; }
  // How far the row after one lies, which comes nearer meanwhile.
  i64 ahead(const Strides& strides) const { return in_place() ? strides.a : 0; }

  // -- who does what ---------------------------------------------------------

  // f(tile, rows) for every tile: by one thread, or by all, each some of its rows.
  template <class F> void each_tile(F f) {
    const i64 all = form.K * form.Q, across = (all + width - 1) / width;
    // Given statistics need no whole column: rows and tiles are shared out alike.
    const i64 tiles = form.O * across;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const int me = thread_number(), team = team_size();
      const bool split_rows = !alone || (form.given && tiles < 4 * team);
      const Share mine = split_rows ? Share{0, tiles} : share(tiles, me, team);
      const Share rows = split_rows ? share(form.A, me, team) : Share{0, form.A};
      const i64 apart = (width + 15) / 16 * 16 + 16;  // lines of their own, in sets of their own
      Scratch<R> numbers((10 + 5 * ROWS) * apart);
      Scratch<double> sums(3 * apart);
      Tile tile;
      tile.apart = apart;
      R* next = numbers;
      for (R** one : {&tile.high, &tile.low, &tile.rate, &tile.weight, &tile.bias, &tile.scale,
                      &tile.mean, &tile.residue, &tile.squares, &tile.shift}) {
        *one = next;
        next += apart;
      }
      for (R** several : {&tile.x, &tile.real, &tile.z, &tile.g, &tile.more}) {
        *several = next;
        next += ROWS * apart;
      }
      tile.first = sums;
      tile.second = sums + apart;
      tile.count = sums + 2 * apart;
      for (i64 t = mine.begin; t < mine.end; ++t) {
        tile.o = t / across;
        tile.begin = t % across * width;
        tile.size = least(width, all - tile.begin);
        std::memset(static_cast<double*>(sums), 0, 3 * apart * sizeof(double));
        std::memset(tile.shift, 0, apart * sizeof(R));  // the mean where nothing is real
        each_column(tile, [&](i64 i, i64 k, i64 q) {
          const bool here = !by_row && affine.weight;
          const i64 at = weight_at(tile, k, q);
          tile.weight[i] = here ? affine.weight[at] : R(1);
          tile.bias[i] = here ? affine.bias[at] : R(0);
        });
        f(tile, rows);
      }
    }
  }

  // f(i, k, q) for every column i of a tile, which begins with a statistic; without a division.
  template <class F> void each_column(const Tile& tile, F f) const {
    const i64 first = tile.begin / form.Q;
    if (form.Q == 1) {
      for (i64 i = 0; i < tile.size; ++i) f(i, first + i, 0);
      return;
    }
    for (i64 i = 0, k = first; i < tile.size; ++k)
      for (i64 q = 0; q < form.Q; ++q, ++i) f(i, k, q);
  }
  i64 weight_at(const Tile& tile, i64 k, i64 q) const {
    return form.weight.at(tile.o, 0, k, 0) + q * form.weight.q;
  }
  i64 statistic(const Tile& tile, i64 k) const {
    return tile.o * form.statistic_o + k * form.statistic_k;
  }

  // f for all rows, ROWS at a time. They lie apart, each on a page of its own if it can be, as
  // the machine fetches ahead along few lines of memory, and only one in a page.
  template <class F> static void each_rows(Share rows, F f) {
    for (i64 begin = rows.begin; begin < rows.end; begin += PANEL) {
      const i64 end = least(begin + PANEL, rows.end), apart = (end - begin) / ROWS;
      for (i64 a = begin; a < begin + apart; ++a) f(Rows<ROWS>{a, apart});
      for (i64 a = begin + ROWS * apart; a < end; ++a) f(Rows<1>{a, 0});
    }
  }

  // What the threads that share a tile tell each other: shift, two sums and count per column.
  struct Partial {
    explicit Partial(const Columns& c)
        : each(c.width), team(c.threads),
          tiles(c.alone ? 0 : c.form.O * ((c.form.K * c.form.Q + c.width - 1) / c.width)),
          numbers(tiles ? 2 * 4 * each * team : 0) {}
    double* at(i64 tile, int thread) const {  // two sets in turn: a fast thread may be one ahead
      return numbers + ((tile % 2) * team + thread) * 4 * each;
    }
    i64 each, team, tiles;
    Scratch<double> numbers;
  };

  // Every thread adds up all parts, in the threads' order.
  void together(Tile& tile, const Partial& partial, bool are_moments) const {
    const i64 across = (form.K * form.Q + width - 1) / width;
    const i64 t = tile.o * across + tile.begin / width;
    double* mine = partial.at(t, thread_number());
    for (i64 i = 0; i < tile.size; ++i) {
      mine[i] = double(tile.shift[i]);
      mine[width + i] = tile.first[i];
      mine[2 * width + i] = tile.second[i];
      mine[3 * width + i] = tile.count[i];
    }
#pragma omp barrier
    for (i64 i = 0; i < tile.size; ++i) {
      Moments<R> moments;
      double first = 0, second = 0;
      for (int thread = 0; thread < team_size(); ++thread) {
        const double* other = partial.at(t, thread);
        moments.merge(as_moments(R(other[i]), other[width + i], other[2 * width + i],
                                 other[3 * width + i]));
        first += other[width + i];
        second += other[2 * width + i];
      }
      if (are_moments) {
        tile.shift[i] = moments.shift;
        tile.first[i] = moments.offset;
        tile.second[i] = moments.squares;
        tile.count[i] = moments.count;
      } else {
        tile.first[i] = first;
        tile.second[i] = second;
      }
    }
  }

  static Moments<R> as_moments(R shift, double offset, double squares, double count) {
    Moments<R> moments;
    moments.shift = shift;
    moments.offset = offset;
    moments.squares = squares;
    moments.count = count;
    return moments;
  }

  // -- one tile --------------------------------------------------------------

  template <int M> Read<M> read_rows(const Tile& tile, Rows<M> which) const {
    Read<M> rows;
    for (int m = 0; m < M; ++m) {
      const S* from = x + form.x.at(tile.o, which[m], 0, 0) + tile.begin;
      R* buffer = tile.x + m * tile.apart;
      rows[m] = read(from, tile.size, buffer);
      if (!mask) continue;
      R* real = tile.real + m * tile.apart;
      read_marks(tile, which[m], real);
      const R* row = rows[m];
#pragma omp simd
      for (i64 i = 0; i < tile.size; ++i) buffer[i] = real[i] != R(0) ? row[i] : R(0);
      rows[m] = buffer;
    }
    return rows;
  }

  // What `read_rows` found of the mask.
  template <int M> static Read<M> which_are_real(const Tile& tile) {
    Read<M> real;
    for (int m = 0; m < M; ++m) real[m] = tile.real + m * tile.apart;
    return real;
  }

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
    each_column(tile, [&](i64 i, i64 k, i64) {
      const i64 s = statistic(tile, k);
      tile.high[i] = !form.given ? from[s] : mean ? mean[s] : R(0);
      tile.low[i] = form.given ? R(0) : from[form.statistics + s];
      tile.rate[i] = form.given ? var[s] : from[2 * form.statistics + s];
      if (mask && !form.given) tile.count[i] = from[3 * form.statistics + s];
    });
    take_root(tile);
  }

  // From variances to rates.
  void take_root(Tile& tile) const {
    R *rate = tile.rate, *scale = tile.scale;
    const R* weight = tile.weight;
    const double eps = form.eps;
#pragma omp simd
    for (i64 i = 0; i < tile.size; ++i) {
      rate[i] = reciprocal_root(rate[i], eps);
      scale[i] = rate[i] * weight[i];
    }
  }

  // Weight and bias of rows, 1 and 0 where they belong to columns.
  template <int M> struct OfRows {
    R weight[M], bias[M];
    i64 at[M];
  };
  template <int M> OfRows<M> of_rows(const Tile& tile, Rows<M> which) const {
    OfRows<M> rows;
    for (int m = 0; m < M; ++m) {
      const bool here = by_row && affine.weight;
      rows.at[m] = form.weight.at(tile.o, which[m], 0, 0);
      rows.weight[m] = here ? affine.weight[rows.at[m]] : R(1);
      rows.bias[m] = here ? affine.bias[rows.at[m]] : R(0);
    }
    return rows;
  }

  // z = (x - mean) / deviation * weight + bias + residual, before the activation.
  template <int M>
  void standardise(const Tile& tile, Rows<M> which, Read<M> v, Written<M> z) const {
    const R *high = tile.high, *low = tile.low, *scale = tile.scale, *bias = tile.bias;
    const OfRows<M> rows = of_rows(tile, which);
    walk<R>(tile.size, [=](auto at) {
      const auto h = at(high), l = at(low), s = at(scale), b = at(bias);
      for (int m = 0; m < M; ++m)
        at.put(z[m], ((at(v[m]) - h) - l) * s * rows.weight[m] + (b + rows.bias[m]));
    });
    for (int m = 0; m < M && residual; ++m) {
      const S* from = residual + form.y.at(tile.o, which[m], 0, 0) + tile.begin;
      const R* more = read(from, tile.size, tile.more);
      walk<R>(tile.size, [=](auto at) { at.put(z[m], at(z[m]) + at(more)); });
    }
  }

  void keep_real(const Tile& tile, int m, R* z) const {
    if (!mask) return;
    const R* real = tile.real + m * tile.apart;
#pragma omp simd
    for (i64 i = 0; i < tile.size; ++i) z[i] = real[i] != R(0) ? z[i] : R(0);
  }
};

}}  // namespace normwise::NORMWISE_ISA
