// What `Running.update` does, for statistics in memory: see running.py.
#pragma once
#include "call.h"
#include <cmath>

namespace normwise {

enum class Nonfinite : int { ignore, skip, refuse };

struct Policy {
  bool cumulative, from_first_batch;
  Nonfinite nonfinite;
  double momentum;
};

// Statistics of `samples` x `features`, R as the kernels stored them, B as they are remembered.
struct Batch {
  const void* moments;
  i64 statistics;               // the distance from shift to offset to var to count
  i64 samples, features;
  i64 sample_stride, feature_stride;
  double elements;              // in each statistic; below 0: `count` is stored
};

struct Buffers {
  void *mean, *var;  // mean is null where nothing is centred
  i64* batches;      // null where nobody counts
};

// Whether the batch was not refused; a refused one changes nothing.
template <class R, class B> bool remember(const Policy& policy, const Batch& batch, Buffers to) {
  const R* shift = static_cast<const R*>(batch.moments);
  const R *offset = shift + batch.statistics, *var = offset + batch.statistics;
  const R* count = var + batch.statistics;

  struct Taken { double mean, var, seen; };
  const auto take = [&](i64 feature) {
    Taken t{0, 0, 0};
    for (i64 n = 0; n < batch.samples; ++n) {
      const i64 s = n * batch.sample_stride + feature * batch.feature_stride;
      const double elements = batch.elements < 0 ? double(count[s]) : batch.elements;
      if (elements == 0) continue;
      const double more = elements > 1 ? elements - 1 : 1;
      t.mean += double(shift[s]) + double(offset[s]);
      t.var += double(var[s]) * (to.mean ? elements / more : 1);
      t.seen += 1;
    }
    const double seen = t.seen > 0 ? t.seen : 1;
    t.mean /= seen;
    t.var /= seen;
    return t;
  };

  bool counts = false, finite = true;
  for (i64 c = 0; c < batch.features; ++c) {
    const Taken t = take(c);
    counts = counts || t.seen > 0;
    finite = finite && std::isfinite(t.mean) && std::isfinite(t.var);
  }
  if (policy.nonfinite == Nonfinite::refuse && !finite) return false;
  if (!counts || (policy.nonfinite == Nonfinite::skip && !finite)) return true;

  double factor = policy.momentum;
  if (to.batches) {
    const i64 batches = ++*to.batches;
    if (policy.cumulative) {
      factor = 1. / double(batches > 1 ? batches : 1);
    } else if (policy.from_first_batch && batches <= 1) {
      factor = 1;
    }
  }
  const auto follow = [&](void* buffer, i64 i, double now) {
    B& old = static_cast<B*>(buffer)[i];
    old = B(double(old) + (now - double(old)) * factor);
  };
  for (i64 c = 0; c < batch.features; ++c) {
    const Taken t = take(c);
    if (to.mean) follow(to.mean, c, t.mean);
    follow(to.var, c, t.var);
  }
  return true;
}

}  // namespace normwise
