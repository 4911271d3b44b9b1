// Columns, forward: measured in panels of rows, then standardised and scaled.
#pragma once
#include "columns.h"

namespace normwise { namespace NORMWISE_ISA {

template <class S> class ColumnsForward : Columns<S> {
  using Base = Columns<S>;
  using R = typename Base::R;
  using Tile = typename Base::Tile;
  using Partial = typename Base::Partial;
  template <int M> using Read = Several<const R*, M>;
  template <int M> using Written = Several<R*, M>;
  using Base::form, Base::mask, Base::alone, Base::ahead, Base::each_tile, Base::each_column,
      Base::each_rows, Base::together, Base::as_moments, Base::statistic, Base::read_rows,
      Base::recall_tile, Base::take_root, Base::standardise, Base::keep_real;

 public:
  using Base::Base;

  void forward(const Forward& call) {
    S* y = static_cast<S*>(call.y);
    R* moments = static_cast<R*>(call.moments);
    const Partial partial(*this);
    each_tile([&](Tile& tile, Share rows) {
      if (form.given) {
        recall_tile(tile, call, nullptr);
      } else {
        measure(tile, rows);
        if (!alone) together(tile, partial, true);
        settle(tile, moments);
      }
      each_rows(rows, [&](auto several) { apply(tile, several, y); });
    });
  }

 private:
  // Moments of the rows, into shift, first (the offset), second (the squares) and count.
  void measure(Tile& tile, Share rows) const {
    if (!mask) guess(tile, {rows.begin, least(rows.begin + FEW, rows.end)});
    i64 most = 4 * FEW;
    for (i64 a = rows.begin; a < rows.end; a += most, most = mask ? most : least(4 * most, PANEL)) {
      const Share panel{a, least(a + most, rows.end)};
      if (mask) {
        measure_masked(tile, panel);
        merge<true>(tile, 0);
      } else {
        form.centres ? measure_panel<true>(tile, panel) : measure_panel<false>(tile, panel);
        merge<false>(tile, double(panel.end - panel.begin));
      }
    }
  }

  // A first mean to measure from. That of a few rows will do: where it lies far off, compared
  // with the deviation, these rows do so too, and make the deviation large.
  void guess(Tile& tile, Share rows) const {
    R* mean = tile.mean;
    std::memset(mean, 0, tile.size * sizeof(R));
    if (!form.centres) return;
    const R per = R(1) / R(rows.end - rows.begin);
    each_rows(rows, [&](auto which) {
      constexpr int M = which.size;
      const Read<M> v = this->read_rows(tile, which);
      walk<R>(tile.size, [=](auto at) {
        auto sum = at(v[0]);
        for (int m = 1; m < M; ++m) sum += at(v[m]);
        at.put(mean, at(mean) + sum * per);
      });
    });
  }

  // The sums over the rows of x - mean, and of its square.
  template <bool centres> void measure_panel(Tile& tile, Share rows) const {
    const i64 size = tile.size;
    R *mean = tile.mean, *residue = tile.residue, *squares = tile.squares;
    std::memset(residue, 0, size * sizeof(R));
    std::memset(squares, 0, size * sizeof(R));
    each_rows(rows, [&](auto which) {
      constexpr int M = which.size;
      const Read<M> v = this->read_rows(tile, which);
      const i64 next = ahead(form.x);
      walk<R>(size, [=](auto at) {
        using Value = typename decltype(at)::Value;
        const Value centre = at(mean);
        Value sum = {}, more = {};
        for (int m = 0; m < M; ++m) {
          at.fetch(v[m] + next);
          const Value d = centres ? at(v[m]) - centre : at(v[m]);
          sum += d;
          more += d * d;
        }
        if (centres) at.put(residue, at(residue) + sum);
        at.put(squares, at(squares) + more);
      });
    });
  }

  void measure_masked(Tile& tile, Share rows) const {
    const i64 size = tile.size;
    R *mean = tile.mean, *residue = tile.residue, *squares = tile.squares, *counts = tile.g;
    for (i64 i = 0; i < size; ++i) mean[i] = residue[i] = squares[i] = counts[i] = R(0);
    each_rows(rows, [&](auto which) {
      constexpr int M = which.size;
      const Read<M> v = this->read_rows(tile, which);
      const Read<M> real = this->template which_are_real<M>(tile);
      walk<R>(size, [=](auto at) {
        auto count = at(real[0]), sum = at(v[0]);
        for (int m = 1; m < M; ++m) {
          count += at(real[m]);
          sum += at(v[m]);
        }
        at.put(counts, at(counts) + count);
        at.put(mean, at(mean) + sum);
      });
    });
#pragma omp simd
    for (i64 i = 0; i < size; ++i)
      mean[i] = form.centres && counts[i] > R(0) ? mean[i] / counts[i] : R(0);
    each_rows(rows, [&](auto which) {
      constexpr int M = which.size;
      const Read<M> v = this->read_rows(tile, which);
      const Read<M> real = this->template which_are_real<M>(tile);
      walk<R>(size, [=](auto at) {
        using Value = typename decltype(at)::Value;
        const Value centre = at(mean);
        Value sum = {}, more = {};
        for (int m = 0; m < M; ++m) {
          const Value d = (at(v[m]) - centre) * at(real[m]);
          sum += d;
          more += d * d;
        }
        at.put(residue, at(residue) + sum);
        at.put(squares, at(squares) + more);
      });
    });
  }

  // A panel's sums added to the moments: n rows or, with a mask, as many as each column has.
  // Chan, Golub and LeVeque 1979, as Moments::append, for all columns at a time.
  template <bool masked> void merge(Tile& tile, double n) const {
    const R *counts = tile.g, *residue = tile.residue, *squares = tile.squares;
    R *mean = tile.mean, *shift = tile.shift;
    double *offset = tile.first, *sum = tile.second, *count = tile.count;
    const double all_before = count[0];
    const bool centres = form.centres;
#pragma omp simd
    for (i64 i = 0; i < tile.size; ++i) {
      const double before = masked ? count[i] : all_before;
      const double more = masked ? double(counts[i]) : n;
      const double total = before + more;
      const double share = total > 0 ? more / total : 0., per = more > 0 ? 1 / more : 0.;
      const double r = centres ? double(residue[i]) : 0.;
      const R from = before > 0 ? shift[i] : mean[i];
      const double apart = (double(mean[i]) - double(from)) + r * per - offset[i];
      sum[i] += (double(squares[i]) - r * r * per) + apart * apart * (before * share);
      offset[i] += apart * share;
      shift[i] = from;
      count[i] = total;
      mean[i] = R(double(from) + offset[i]);  // the next panel is measured from there
    }
  }

  // The moments of Q columns that share a statistic, merged, go to each of them. As all lie beside
  // each other, it takes two passes: their mean, then the squares about it.
  void merge_neighbours(Tile& tile) const {
    const i64 n = form.Q;
    for (i64 i = 0; i < tile.size; i += n) {
      R* shift = tile.shift + i;
      double *offset = tile.first + i, *squares = tile.second + i, *count = tile.count + i;
      const double* any = std::find_if(count, count + n, [](double c) { return c > 0; });
      if (any == count + n) continue;
      const R from = shift[any - count];
#pragma omp simd
      for (i64 q = 0; q < n; ++q) offset[q] += double(shift[q]) - double(from);
      double sums[2], more[1];
      reduce(n, sums, [=](auto at, auto* terms) {
        terms[0] = at(count);
        terms[1] = at(count) * at(offset);
      });
      const double all = sums[0], mean = sums[1] / all;
      reduce(n, more, [=](auto at, auto* terms) {
        const auto apart = at(offset) - mean;
        terms[0] = at(squares) + at(count) * apart * apart;
      });
      for (i64 q = 0; q < n; ++q) {
        shift[q] = from;
        offset[q] = mean;
        squares[q] = more[0];
        count[q] = all;
      }
    }
  }

  // From moments per column to what `apply` reads.
  void settle(Tile& tile, R* moments) const {
    if (form.Q > 1) merge_neighbours(tile);
    double *offset = tile.first, *sum = tile.second, *count = tile.count;
    R *shift = tile.shift, *high = tile.high, *low = tile.low, *rate = tile.rate;
#pragma omp simd
    for (i64 i = 0; i < tile.size; ++i) {
      const Moments<R> own = as_moments(shift[i], offset[i], sum[i], count[i]);
      high[i] = own.high();
      low[i] = own.low();
      rate[i] = R(own.variance());
    }
    if (moments && (alone || thread_number() == 0)) {
      each_column(tile, [&](i64 i, i64 k, i64 q) {
        if (q == 0) {
          R* to = moments + statistic(tile, k);
          to[0] = high[i];
          to[form.statistics] = low[i];
          to[2 * form.statistics] = rate[i];
          if (mask) to[3 * form.statistics] = R(count[i]);
        }
      });
    }
    take_root(tile);
  }

  template <int M> void apply(const Tile& tile, Rows<M> which, S* y) const {
    const Read<M> v = this->read_rows(tile, which);
    S* to[M];
    Written<M> z;
    for (int m = 0; m < M; ++m) {
      to[m] = y + form.y.at(tile.o, which[m], 0, 0) + tile.begin;
      z[m] = place(to[m], tile.z + m * tile.apart);
    }
    standardise(tile, which, v, z);
    for (int m = 0; m < M; ++m) {
      activate(form.activation, z[m], tile.size);
      keep_real(tile, m, z[m]);
      write(z[m], tile.size, to[m]);
    }
  }
};

}}  // namespace normwise::NORMWISE_ISA
