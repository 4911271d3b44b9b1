// Columns in tiles: which thread works on what, and what it knows of it.
//
// The rows are worked on in tiles, each as wide as a cache allows: a tile is measured and applied
// by one thread, or, where there are few, by all of them.
#pragma once
#include "affine.h"
#include "moments.h"
#include <algorithm>
#include <type_traits>

namespace normwise { namespace NORMWISE_ISA {

constexpr i64 TILE = 1 << 19;   // bytes of x that stay in a core's second cache
constexpr i64 NARROW = 512, WIDE = 1024, VAST = 4096;  // columns of a tile
constexpr i64 SLIM = 128;     // columns up to which rows are taken in the order of memory
constexpr i64 NEAR = 8 << 20;  // bytes of x that may be in a cache
constexpr int ROWS = 8;       // that are worked on at a time: what belongs to columns is read once
constexpr i64 PANEL = 260;    // rows that are summed in R before they are added to a double
constexpr i64 FEW = 8;        // rows whose mean the others are measured from

// M rows that are worked on at a time.
template <int M> struct Rows {
  i64 first, apart;
  static constexpr int size = M;
};

template <class S> class Tiles {
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
  bool touch;  // whether each row begins where the one before ends, in memory and in buffers

  // What a thread knows of its tile. Of arrays whose name is a statistic's, or a sum's over rows,
  // the first elements are for one statistic each, until they are spread to its columns.
  struct Tile {
    i64 o, begin, size;  // which: size columns from `begin`
    i64 k, statistics;   // and which statistics these are
    i64 apart;           // from one row of a buffer to the next
    R *high, *low, *rate;
    R *weight, *bias, *scale;        // of columns: 1 and 0 where they are rows'; rate * weight
    R *mean, *residue, *squares;     // of a panel
    R *shift, *centre;               // of statistics: what `offset` is from; the panel's mean
    R *x, *real, *z, *g, *more;      // ROWS rows each
    double *first, *second;          // sums over all rows
    double* count;
  };

 public:
  template <class Call>
  Tiles(const Form& form, const Call& call, int threads)
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
    // From memory, other than from a cache, slim rows come as fast only if they are a line or two.
    const bool slim = width <= SLIM && (form.bytes() <= NEAR || width * i64(sizeof(S)) <= 2 * LINE);
    touch = slim && form.x.a == width && form.y.a == width;
    const i64 tiles = form.O * ((all + width - 1) / width);
    alone = threads == 1 || form.given || (tiles >= threads && form.A * width <= 4 * TILE);
  }

 protected:
  // Whether rows are read where they lie, and not from a buffer.
  bool in_place() const { return std::is_same<S, R>::value && !mask; }
  // Whether rows pass through buffers on their way.
  bool buffered() const { return !in_place() || form.activation != Activation::none; }
  // How far the row after one lies, which comes nearer meanwhile.
  i64 ahead(const Strides& strides) const { return in_place() ? strides.a : 0; }

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
      Scratch<R> numbers(11 * apart), rows_of(buffered() ? 5 * ROWS * apart : 0);
      Scratch<double> sums(3 * apart);
      Tile tile;
      tile.apart = touch ? width : apart;
      R* next = numbers;
      for (R** one : {&tile.high, &tile.low, &tile.rate, &tile.weight, &tile.bias, &tile.scale,
                      &tile.mean, &tile.residue, &tile.squares, &tile.shift, &tile.centre}) {
        *one = next;
        next += apart;
      }
      next = rows_of;
      for (R** several : {&tile.x, &tile.real, &tile.z, &tile.g, &tile.more}) {
        *several = next;
        next += buffered() ? ROWS * apart : 0;
      }
      tile.first = sums;
      tile.second = sums + apart;
      tile.count = sums + 2 * apart;
      for (i64 t = mine.begin; t < mine.end; ++t) {
        tile.o = t / across;
        tile.begin = t % across * width;
        tile.size = least(width, all - tile.begin);
        tile.k = tile.begin / form.Q;
        tile.statistics = tile.size / form.Q;
        for (double* sum : {tile.first, tile.second, tile.count})
          std::memset(sum, 0, tile.size * sizeof(double));
        std::memset(tile.shift, 0, tile.size * sizeof(R));  // the mean where nothing is real
        read_weights(tile);
        f(tile, rows);
      }
    }
  }

  void read_weights(const Tile& tile) const {
    const bool here = !by_row && affine.weight;
    for (i64 k = 0, i = 0; k < tile.statistics; ++k) {
      const i64 first = weight_at(tile, k);
      for (i64 q = 0; q < form.Q; ++q, ++i) {
        tile.weight[i] = here ? affine.weight[first + q * form.weight.q] : R(1);
        tile.bias[i] = here ? affine.bias[first + q * form.weight.q] : R(0);
      }
    }
  }
  // Of a tile's statistic k, whose columns begin at k * Q.
  i64 weight_at(const Tile& tile, i64 k) const {
    return form.weight.at(tile.o, 0, tile.k + k, 0);
  }
  i64 statistic(const Tile& tile, i64 k) const {
    return tile.o * form.statistic_o + (tile.k + k) * form.statistic_k;
  }

  // Sums over columns become sums over statistics; what belongs to statistics goes to all columns.
  template <class T> void gather(const Tile& tile, T* sums) const {
    for (i64 k = 0; k < tile.statistics && form.Q > 1; ++k)
      sums[k] = sum(sums + k * form.Q, form.Q);
  }
  void spread(const Tile& tile, const R* from, R* to) const {
    if (form.Q == 1 && from != to) std::memcpy(to, from, tile.size * sizeof(R));
    for (i64 k = tile.statistics - 1; k >= 0 && form.Q > 1; --k) {
      const R one = from[k];
      R* columns = to + k * form.Q;
#pragma omp simd
      for (i64 q = 0; q < form.Q; ++q) columns[q] = one;
    }
  }

  // f for all rows, ROWS at a time. Unless they are short, they lie apart, each on a page of its
  // own if it can be, as the machine fetches ahead along few lines of memory, and only one in a
  // page.
  template <class F> void each_rows(Share rows, F f) const {
    if (touch) {
      i64 a = rows.begin;
      for (; a + ROWS <= rows.end; a += ROWS) f(Rows<ROWS>{a, 1});
      for (; a < rows.end; ++a) f(Rows<1>{a, 1});
      return;
    }
    for (i64 begin = rows.begin; begin < rows.end; begin += PANEL) {
      const i64 end = least(begin + PANEL, rows.end), apart = (end - begin) / ROWS;
      for (i64 a = begin; a < begin + apart; ++a) f(Rows<ROWS>{a, apart});
      for (i64 a = begin + ROWS * apart; a < end; ++a) f(Rows<1>{a, 0});
    }
  }

  // What the threads that share a tile tell each other: shift, two sums and count per statistic.
  struct Partial {
    explicit Partial(const Tiles& c)
        : each(c.width / c.form.Q), team(c.threads),
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
    const i64 n = partial.each;
    for (i64 i = 0; i < tile.statistics; ++i) {
      mine[i] = double(tile.shift[i]);
      mine[n + i] = tile.first[i];
      mine[2 * n + i] = tile.second[i];
      mine[3 * n + i] = tile.count[i];
    }
#pragma omp barrier
    for (i64 i = 0; i < tile.statistics; ++i) {
      Moments<R> moments;
      double first = 0, second = 0;
      for (int thread = 0; thread < team_size(); ++thread) {
        const double* other = partial.at(t, thread);
        moments.merge(as_moments(R(other[i]), other[n + i], other[2 * n + i], other[3 * n + i]));
        first += other[n + i];
        second += other[2 * n + i];
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
};

}}  // namespace normwise::NORMWISE_ISA
