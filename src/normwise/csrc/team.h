// Who works on what: threads and their scratch memory.
#pragma once
#include "numbers.h"
#include <cstdlib>
#include <cstring>
#include <new>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace normwise { namespace NORMWISE_ISA {

inline int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

inline int team_size() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

// The part of `size` that falls to thread `i` of `n`, in whole units.
struct Share { i64 begin, end; };
inline Share share(i64 size, int i, int n, i64 unit = 1) {
  const i64 units = (size + unit - 1) / unit;
  const i64 begin = units * i / n * unit, end = units * (i + 1) / n * unit;
  return {begin < size ? begin : size, end < size ? end : size};
}

// Memory for one call, zeroed, at the start of a cache line: a vector that lies across two
// lines costs twice, and more where it was only just stored.
constexpr i64 LINE = 64;

template <class T> class Scratch {
 public:
  explicit Scratch(i64 n) {
    if (n == 0) return;
    memory_ = std::calloc(n * sizeof(T) + LINE, 1);
    if (!memory_) throw std::bad_alloc();
    data_ = reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(memory_) + LINE - 1) / LINE *
                                 LINE);
  }
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  operator T*() const { return data_; }

 private:
  void* memory_ = nullptr;
  T* data_ = nullptr;
};

// Calls f(a, p, q, n) for blocks of at most `most` elements of a part, which counts the elements
// of one statistic in the order a, p, q; a block lies within one run of Q.
template <class F> NORMWISE_INLINE void blocks(i64 P, i64 Q, Share part, i64 most, F f) {
  i64 begin = part.begin;
  const i64 end = part.end;
  if (end <= Q) {  // within the first run: most often there is one
    for (; begin < end; begin += most) f(0, 0, begin, end - begin < most ? end - begin : most);
    return;
  }
  i64 q = begin % Q, run = begin / Q;
  i64 p = run % P, a = run / P;
  while (begin < end) {
    i64 n = Q - q;
    n = n < end - begin ? n : end - begin;
    n = n < most ? n : most;
    f(a, p, q, n);
    begin += n;
    q += n;
    if (q == Q) {
      q = 0;
      if (++p == P) {
        p = 0;
        ++a;
      }
    }
  }
}

}}  // namespace normwise::NORMWISE_ISA
