// Columns, forward: measured in panels of rows, then standardised and scaled.
#pragma once
#include "columns.h"

namespace normwise { namespace NORMWISE_ISA {

template <class S> class ColumnsForward : Columns<S> {
  using Base = Columns<S>;
  using R = typename Base::R;
  using Tile = typename Base::Tile;
  using Partial = typename Base::Partial;
  using Read = typename Base::Read;
  using Written = typename Base::Written;
  using Base::form, Base::mask, Base::alone, Base::ahead, Base::each_tile, Base::each_rows,
      Base::together, Base::as_moments, Base::statistic, Base::gather,
      Base::spread, Base::find, Base::read_rows, Base::which_are_real, Base::place_rows,
      Base::recall_tile, Base::take_root, Base::standardise;

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
        merge<false>(tile, double((panel.end - panel.begin) * form.Q));
      }
    }
  }

  // A first mean to measure from. That of a few rows will do: where it lies far off, compared
  // with the deviation, these rows do so too, and make the deviation large.
  void guess(Tile& tile, Share rows) const {
    R* mean = tile.mean;
    std::memset(mean, 0, tile.size * sizeof(R));
    std::memset(tile.centre, 0, tile.size * sizeof(R));
    if (!form.centres) return;
    const R per = R(1) / R((rows.end - rows.begin) * form.Q);
    each_rows(rows, [&](auto which) {
      constexpr int M = which.size;
      const Read v = this->read_rows(tile, which);
      walk<R>(tile.size, [=](auto at) {
        auto sum = at(v[0]);
        for (int m = 1; m < M; ++m) sum += at(v[m]);
        at.put(mean, at(mean) + sum * per);
      });
    });
    gather(tile, mean);
    std::memcpy(tile.centre, mean, tile.statistics * sizeof(R));
    spread(tile, tile.centre, mean);
  }

  // The sums over the rows of x - mean, and of its square.
  template <bool centres> void measure_panel(Tile& tile, Share rows) const {
    const i64 size = tile.size;
    R *mean = tile.mean, *residue = tile.residue, *squares = tile.squares;
    std::memset(residue, 0, size * sizeof(R));
    std::memset(squares, 0, size * sizeof(R));
    each_rows(rows, [&](auto which) {
      constexpr int M = which.size;
      const Read v = this->read_rows(tile, which);
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
      const Read v = this->read_rows(tile, which);
      const Read real = which_are_real(tile);
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
    gather(tile, counts);
    gather(tile, mean);
#pragma omp simd
    for (i64 k = 0; k < tile.statistics; ++k)
      tile.centre[k] = form.centres && counts[k] > R(0) ? mean[k] / counts[k] : R(0);
    spread(tile, tile.centre, mean);
    each_rows(rows, [&](auto which) {
      constexpr int M = which.size;
      const Read v = this->read_rows(tile, which);
      const Read real = which_are_real(tile);
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

  // A panel's sums added to the moments: n elements or, with a mask, as many as are real.
  // Chan, Golub and LeVeque 1979, as Moments::append, for all statistics at a time. Columns that
  // share one were measured from the same mean, so their sums are added up first.
  template <bool masked> void merge(Tile& tile, double n) const {
    const R *counts = tile.g, *residue = tile.residue, *squares = tile.squares;
    for (R* sums : {tile.residue, tile.squares}) gather(tile, sums);
    R *mean = tile.centre, *shift = tile.shift;
    double *offset = tile.first, *sum = tile.second, *count = tile.count;
    const double all_before = count[0];
    const bool centres = form.centres;
#pragma omp simd
    for (i64 i = 0; i < tile.statistics; ++i) {
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
    if (!masked) spread(tile, mean, tile.mean);
  }

  // From moments to what `apply` reads.
  void settle(Tile& tile, R* moments) const {
    double *offset = tile.first, *sum = tile.second, *count = tile.count;
    R *shift = tile.shift, *high = tile.high, *low = tile.low, *rate = tile.rate;
#pragma omp simd
    for (i64 k = 0; k < tile.statistics; ++k) {
      const Moments<R> own = as_moments(shift[k], offset[k], sum[k], count[k]);
      high[k] = own.high();
      low[k] = own.low();
      rate[k] = R(own.variance());
    }
    if (moments && (alone || thread_number() == 0)) {
      for (i64 k = 0; k < tile.statistics; ++k) {
        R* to = moments + statistic(tile, k);
        to[0] = high[k];
        to[form.statistics] = low[k];
        to[2 * form.statistics] = rate[k];
        if (mask) to[3 * form.statistics] = R(count[k]);
      }
    }
    take_root(tile);
  }

  template <int M> NORMWISE_INLINE void apply(const Tile& tile, Rows<M> which, S* y) const {
    const Read v = this->read_rows(tile, which);
    const auto to = find(tile, which, y, form.y);
    const Written z = place_rows(tile, to, tile.z);
    standardise(tile, which, v, z);
    this->template each_piece<M>(tile, [&](int m, i64 n) { activate(form.activation, z[m], n); });
    this->template keep_real<M>(tile, z);
    this->template narrow_rows<M>(tile, z, to);
  }
};

}}  // namespace normwise::NORMWISE_ISA
