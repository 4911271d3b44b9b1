// Statistics across a stride: channel norms on (N, C, T), and everything on channels-last.
//
// Here (k, q) is one row of neighbours in memory and a counts the rows; a statistic is a column,
// or Q columns side by side. The rows are worked on in tiles, each as wide as a cache allows: a
// tile is measured and applied by one thread, or, where there are few, by all of them.
#pragma once
#include "activations.h"
#include "affine.h"
#include "moments.h"

namespace normwise { namespace NORMWISE_ISA {

constexpr i64 TILE = 1 << 19;   // bytes of x that stay in a core's second cache
constexpr i64 PANEL = 1 << 14;  // bytes of x that stay in its first
constexpr i64 NARROW = 512, WIDE = 1024;  // columns of a tile

template <class S> class Columns {
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
    R *high, *low, *rate;            // their statistics
    R *weight, *bias;                // along the row, where they belong to columns
    R *mean, *residue, *squares;     // of a panel
    R *x, *real, *z, *g, *more;      // one row each
    double *first, *second;          // sums over all rows
    double* count;
    i64* masks;                      // where each column's mask lies
    R* shift;
  };

 public:
  template <class Call>
  Columns(const Form& form, const Call& call, int threads)
      : form(form), threads(threads), affine(form, call.weight, call.bias), mask(call.mask),
        x(static_cast<const S*>(call.x)), residual(static_cast<const S*>(call.residual)),
        by_row(form.weight.a != 0) {
    // Narrow tiles walk memory in small steps, which costs more than a second pass over x.
    const i64 all = form.K * form.Q;
    const i64 fits = TILE / i64(sizeof(S)) / (form.A > 0 ? form.A : 1);
    const i64 wish = fits < NARROW ? NARROW : fits < WIDE ? fits : WIDE;
    width = least((wish + form.Q - 1) / form.Q * form.Q, all);
    const i64 tiles = form.O * ((all + width - 1) / width);
    alone = threads == 1 || form.given || (tiles >= threads && form.A * width <= 4 * TILE);
  }

  void forward(const Forward& call) {
    S* y = static_cast<S*>(call.y);
    R* moments = static_cast<R*>(call.moments);
    Partial partial(*this);
    each_tile([&](Tile& tile, Share rows) {
      if (form.given) {
        recall_tile(tile, call, nullptr);
      } else {
        measure(tile, rows);
        if (!alone) together(tile, partial, true);
        settle(tile, moments);
      }
      for (i64 a = rows.begin; a < rows.end; ++a) apply(tile, a, y);
    });
  }

  void backward(const Backward& call) {
    const AffineGradient<R> gradient(form, call, threads);
    Partial partial(*this);
    each_tile([&](Tile& tile, Share rows) {
      recall_tile(tile, call, call.moments);
      if (!form.given || gradient.wanted) {
        project(tile, rows, call, gradient);
        if (!by_row && gradient.wanted) column_gradients(tile, gradient);
        if (!by_row && affine.weight) {
          for (i64 i = 0; i < tile.size; ++i) {
            tile.first[i] *= tile.weight[i];
            tile.second[i] *= tile.weight[i];
          }
        }
        if (!alone && !form.given) together(tile, partial, false);
      }
      average(tile, call);
      if (call.dx || call.dresidual)
        for (i64 a = rows.begin; a < rows.end; ++a) descend(tile, a, call);
    });
    gradient.finish();
  }

 private:
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
      const i64 apart = (width + 15) / 16 * 16;  // so that each array starts a cache line
      Scratch<R> numbers(14 * apart);
      Scratch<double> sums(3 * apart);
      Scratch<i64> masks(mask ? width : 0);
      Tile tile;
      R** const arrays[] = {&tile.high, &tile.low, &tile.rate, &tile.weight, &tile.bias,
                            &tile.mean, &tile.residue, &tile.squares, &tile.x, &tile.real,
                            &tile.z, &tile.g, &tile.more, &tile.shift};
      for (int i = 0; i < 14; ++i) *arrays[i] = numbers + i * apart;
      tile.first = sums;
      tile.second = sums + apart;
      tile.count = sums + 2 * apart;
      tile.masks = masks;
      for (i64 t = mine.begin; t < mine.end; ++t) {
        tile.o = t / across;
        tile.begin = t % across * width;
        tile.size = least(width, all - tile.begin);
        std::memset(static_cast<double*>(sums), 0, 3 * apart * sizeof(double));
        std::memset(tile.shift, 0, apart * sizeof(R));  // the mean where nothing is real
        for (i64 i = 0; i < tile.size; ++i) {
          const i64 k = (tile.begin + i) / form.Q, q = (tile.begin + i) % form.Q;
          if (mask) tile.masks[i] = k * form.mask.k + q * form.mask.q;
          if (!by_row && affine.weight) {
            const i64 at = form.weight.at(tile.o, 0, k, 0) + q * form.weight.q;
            tile.weight[i] = affine.weight[at];
            tile.bias[i] = affine.bias[at];
          }
        }
        f(tile, rows);
      }
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

  const R* read_row(const Tile& tile, i64 a) const {
    const S* from = x + form.x.at(tile.o, a, 0, 0) + tile.begin;
    const R* row = read(from, tile.size, tile.x);
    if (!mask) return row;
    read_mask(tile, a);
#pragma omp simd
    for (i64 i = 0; i < tile.size; ++i) tile.x[i] = tile.real[i] != R(0) ? row[i] : R(0);
    return tile.x;
  }

  void read_mask(const Tile& tile, i64 a) const {
    const std::uint8_t* m = mask + form.mask.at(tile.o, a, 0, 0);
    for (i64 i = 0; i < tile.size; ++i) tile.real[i] = m[tile.masks[i]] ? R(1) : R(0);
  }

  // Moments of the rows, into shift, first (the offset), second (the squares) and count.
  void measure(Tile& tile, Share rows) const {
    const i64 size = tile.size;
    const i64 tall = PANEL / i64(sizeof(S)) / size < 8 ? 8 : PANEL / i64(sizeof(S)) / size;
    const i64 most = tall < 256 ? tall : 256;
    for (i64 begin = rows.begin; begin < rows.end; begin += most) {
      const i64 end = least(begin + most, rows.end);
      if (mask) {
        measure_masked(tile, begin, end);
      } else {
        measure_panel(tile, begin, end, begin == rows.begin);
      }
    }
  }

  void measure_panel(Tile& tile, i64 begin, i64 end, bool is_first) const {
    const i64 size = tile.size;
    R *mean = tile.mean, *residue = tile.residue, *squares = tile.squares;
    const double n = double(end - begin);
    const R one = R(1 / n);
    for (i64 i = 0; i < size; ++i) mean[i] = residue[i] = squares[i] = R(0);
    if (form.centres) {
      for (i64 a = begin; a < end; ++a) {
        const R* v = read_row(tile, a);
#pragma omp simd
        for (i64 i = 0; i < size; ++i) mean[i] += v[i];
      }
#pragma omp simd
      for (i64 i = 0; i < size; ++i) mean[i] *= one;
    }
    for (i64 a = begin; a < end; ++a) {
      const R* v = read_row(tile, a);
#pragma omp simd
      for (i64 i = 0; i < size; ++i) {
        const R d = v[i] - mean[i];
        residue[i] += d;
        squares[i] += d * d;
      }
    }
    const double before = tile.count[0], total = before + n;
    const double f1 = before * (n / total), f2 = n / total, per = 1 / n;
    R* shift = tile.shift;
    double *offset = tile.first, *sum = tile.second;
    if (!form.centres) {
#pragma omp simd
      for (i64 i = 0; i < size; ++i) sum[i] += double(squares[i]);
    } else if (is_first) {
#pragma omp simd
      for (i64 i = 0; i < size; ++i) {
        const double r = residue[i];
        shift[i] = mean[i];
        offset[i] = r * per;
        sum[i] = double(squares[i]) - r * r * per;
      }
    } else {
#pragma omp simd
      for (i64 i = 0; i < size; ++i) {
        const double r = residue[i];
        const double apart = (double(mean[i]) - double(shift[i])) + r * per - offset[i];
        sum[i] += (double(squares[i]) - r * r * per) + apart * apart * f1;
        offset[i] += apart * f2;
      }
    }
    for (i64 i = 0; i < size; ++i) tile.count[i] = total;
  }

  void measure_masked(Tile& tile, i64 begin, i64 end) const {
    const i64 size = tile.size;
    R *mean = tile.mean, *residue = tile.residue, *squares = tile.squares, *counts = tile.g;
    for (i64 i = 0; i < size; ++i) mean[i] = residue[i] = squares[i] = counts[i] = R(0);
    for (i64 a = begin; a < end; ++a) {
      const R* v = read_row(tile, a);
#pragma omp simd
      for (i64 i = 0; i < size; ++i) {
        counts[i] += tile.real[i];
        mean[i] += v[i];
      }
    }
#pragma omp simd
    for (i64 i = 0; i < size; ++i)
      mean[i] = form.centres && counts[i] > R(0) ? mean[i] / counts[i] : R(0);
    for (i64 a = begin; a < end; ++a) {
      const R* v = read_row(tile, a);
#pragma omp simd
      for (i64 i = 0; i < size; ++i) {
        const R d = (v[i] - mean[i]) * tile.real[i];
        residue[i] += d;
        squares[i] += d * d;
      }
    }
    for (i64 i = 0; i < size; ++i) {
      const double n = counts[i];
      if (n == 0) continue;
      Moments<R> own = as_moments(tile.shift[i], tile.first[i], tile.second[i], tile.count[i]);
      if (form.centres) {
        own.add(mean[i], residue[i], squares[i], n);
      } else {
        own.squares += squares[i];
        own.count += n;
      }
      tile.shift[i] = own.shift;
      tile.first[i] = own.offset;
      tile.second[i] = own.squares;
      tile.count[i] = own.count;
    }
  }

  // From moments per column to what `apply` reads; Q columns that share a statistic are merged.
  void settle(Tile& tile, R* moments) const {
    const bool stores = moments && (alone || thread_number() == 0);
    for (i64 i = 0; i < tile.size; i += form.Q) {
      Moments<R> own = as_moments(tile.shift[i], tile.first[i], tile.second[i], tile.count[i]);
      for (i64 q = 1; q < form.Q; ++q)
        own.merge(as_moments(tile.shift[i + q], tile.first[i + q], tile.second[i + q],
                             tile.count[i + q]));
      const Standard<R> by = standard(own, form.eps);
      spread(tile, i, by);
      if (stores)
        store(own, moments + statistic(tile, i), form.statistics, mask != nullptr);
    }
  }

  template <class Call>
  void recall_tile(Tile& tile, const Call& call, const void* moments) const {
    for (i64 i = 0; i < tile.size; i += form.Q)
      spread(tile, i, recall<R>(form, call, moments, statistic(tile, i)));
  }

  void spread(Tile& tile, i64 i, Standard<R> by) const {
    for (i64 q = 0; q < form.Q; ++q) {
      tile.high[i + q] = by.high;
      tile.low[i + q] = by.low;
      tile.rate[i + q] = by.rate;
    }
  }

  i64 statistic(const Tile& tile, i64 i) const {
    return tile.o * form.statistic_o + (tile.begin + i) / form.Q * form.statistic_k;
  }

  void standardise(const Tile& tile, i64 a, const R* v, R* z) const {
    const R *high = tile.high, *low = tile.low, *rate = tile.rate;
    const i64 size = tile.size;
    if (!affine.weight) {
#pragma omp simd
      for (i64 i = 0; i < size; ++i) z[i] = ((v[i] - high[i]) - low[i]) * rate[i];
    } else if (by_row) {
      const i64 at = form.weight.at(tile.o, a, 0, 0);
      const R w = affine.weight[at], b = affine.bias[at];
#pragma omp simd
      for (i64 i = 0; i < size; ++i) z[i] = ((v[i] - high[i]) - low[i]) * rate[i] * w + b;
    } else {
      const R *w = tile.weight, *b = tile.bias;
#pragma omp simd
      for (i64 i = 0; i < size; ++i) z[i] = ((v[i] - high[i]) - low[i]) * rate[i] * w[i] + b[i];
    }
    if (residual) {
      const R* more = read(residual + form.y.at(tile.o, a, 0, 0) + tile.begin, size, tile.more);
#pragma omp simd
      for (i64 i = 0; i < size; ++i) z[i] += more[i];
    }
  }

  void keep_real(const Tile& tile, R* z) const {
    if (!mask) return;
#pragma omp simd
    for (i64 i = 0; i < tile.size; ++i) z[i] = tile.real[i] != R(0) ? z[i] : R(0);
  }

  void apply(const Tile& tile, i64 a, S* y) const {
    const R* v = read_row(tile, a);
    S* to = y + form.y.at(tile.o, a, 0, 0) + tile.begin;
    R* z = place(to, tile.z);
    standardise(tile, a, v, z);
    activate(form.activation, z, tile.size);
    keep_real(tile, z);
    write(z, tile.size, to);
  }

  const R* read_gradient(const Tile& tile, i64 a, const R* v, const S* from) const {
    const R* g = read(from + form.y.at(tile.o, a, 0, 0) + tile.begin, tile.size, tile.g);
    if (form.activation == Activation::none && !mask) return g;
    if (g != tile.g) std::memcpy(tile.g, g, tile.size * sizeof(R));
    if (form.activation != Activation::none) {
      standardise(tile, a, v, tile.z);
      chain(form.activation, tile.z, tile.g, tile.size);
    }
    keep_real(tile, tile.g);
    return tile.g;
  }

  // The sums over the rows of g and g * xhat, each times weight where weight belongs to rows.
  void project(Tile& tile, Share rows, const Backward& call,
               const AffineGradient<R>& gradient) const {
    const S* from = static_cast<const S*>(call.gradient);
    const i64 size = tile.size;
    const R *high = tile.high, *low = tile.low, *rate = tile.rate;
    R *s = tile.residue, *t = tile.squares;
    for (i64 begin = rows.begin; begin < rows.end; begin += FLUSH) {
      for (i64 i = 0; i < size; ++i) s[i] = t[i] = R(0);
      for (i64 a = begin; a < least(begin + FLUSH, rows.end); ++a) {
        const R* v = read_row(tile, a);
        const R* g = read_gradient(tile, a, v, from);
        if (!by_row) {
#pragma omp simd
          for (i64 i = 0; i < size; ++i) {
            s[i] += g[i];
            t[i] += g[i] * (((v[i] - high[i]) - low[i]) * rate[i]);
          }
          continue;
        }
        const i64 at = form.weight.at(tile.o, a, 0, 0);
        const R w = affine.weight ? affine.weight[at] : R(1);
#pragma omp simd
        for (i64 i = 0; i < size; ++i) {
          s[i] += g[i] * w;
          t[i] += g[i] * w * (((v[i] - high[i]) - low[i]) * rate[i]);
        }
        if (gradient.wanted) {
          R sums[2];
          reduce(size, sums, [=](auto at, auto* terms) {
            const auto plain = at(g);
            terms[0] = plain;
            terms[1] = plain * (((at(v) - at(high)) - at(low)) * at(rate));
          });
          gradient.bias(thread_number())[at] += sums[0];
          gradient.weight(thread_number())[at] += sums[1];
        }
      }
#pragma omp simd
      for (i64 i = 0; i < size; ++i) {
        tile.first[i] += double(s[i]);
        tile.second[i] += double(t[i]);
      }
    }
  }

  void column_gradients(const Tile& tile, const AffineGradient<R>& gradient) const {
    double* dw = gradient.weight(thread_number());
    double* db = gradient.bias(thread_number());
    for (i64 i = 0; i < tile.size; ++i) {
      const i64 k = (tile.begin + i) / form.Q, q = (tile.begin + i) % form.Q;
      const i64 at = form.weight.at(tile.o, 0, k, 0) + q * form.weight.q;
      dw[at] += tile.second[i];
      db[at] += tile.first[i];
    }
  }

  // From sums to what `descend` subtracts: their means, with the factors of dx in them.
  void average(Tile& tile, const Backward& call) const {
    const i64 columns = form.Q;
    for (i64 i = 0; i < tile.size; i += columns) {
      double first = 0, second = 0, count = double(form.A * form.Q);
      if (!form.given) {
        for (i64 q = 0; q < columns; ++q) {
          first += tile.first[i + q];
          second += tile.second[i + q];
        }
        if (mask) count = double(static_cast<const R*>(call.moments)[
            3 * form.statistics + statistic(tile, i)]);
      }
      const R rate = tile.rate[i];
      for (i64 q = 0; q < columns; ++q) {
        tile.residue[i + q] = form.centres ? rate * R(first / count) : R(0);
        tile.squares[i + q] = rate * rate * R(second / count);
      }
    }
  }

  void descend(const Tile& tile, i64 a, const Backward& call) const {
    const R* v = read_row(tile, a);
    const R* g = read_gradient(tile, a, v, static_cast<const S*>(call.gradient));
    const i64 there = form.y.at(tile.o, a, 0, 0) + tile.begin, size = tile.size;
    if (call.dresidual) {
      S* to = static_cast<S*>(call.dresidual) + there;
      R* d = place(to, tile.more);
      std::memcpy(d, g, size * sizeof(R));
      write(d, size, to);
    }
    if (!call.dx) return;
    S* to = static_cast<S*>(call.dx) + there;
    R* d = place(to, tile.z);
    const R *high = tile.high, *low = tile.low, *rate = tile.rate;
    const R *c0 = tile.residue, *c1 = tile.squares;
    if (by_row || !affine.weight) {
      const R w = affine.weight ? affine.weight[form.weight.at(tile.o, a, 0, 0)] : R(1);
#pragma omp simd
      for (i64 i = 0; i < size; ++i)
        d[i] = g[i] * w * rate[i] - c0[i] - ((v[i] - high[i]) - low[i]) * c1[i];
    } else {
      const R* w = tile.weight;
#pragma omp simd
      for (i64 i = 0; i < size; ++i)
        d[i] = g[i] * w[i] * rate[i] - c0[i] - ((v[i] - high[i]) - low[i]) * c1[i];
    }
    keep_real(tile, d);
    write(d, size, to);
  }
};

}}  // namespace normwise::NORMWISE_ISA
