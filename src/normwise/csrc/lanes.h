// Sums over neighbours, a vector register at a time.
//
// `#pragma omp simd reduction` adds up the lanes one after the other, which takes longer than
// the sum of a short run; so the registers are named here, with the compilers' vector types.
#pragma once
#include "numbers.h"
#include <type_traits>
#include <utility>

namespace normwise { namespace NORMWISE_ISA {

#if defined(__AVX512F__)
constexpr int REGISTER = 64;  // bytes
#elif defined(__AVX__)
constexpr int REGISTER = 32;
#else
constexpr int REGISTER = 16;
#endif

constexpr int LEAST = 16;  // bytes of the smallest register, which all machines have

#ifdef __GNUC__  // and Clang
template <class R, int BYTES = REGISTER> struct Lanes {
  typedef R Vector __attribute__((vector_size(BYTES)));
  typedef std::conditional_t<sizeof(R) == 8, std::int64_t, std::int32_t> Count
      __attribute__((vector_size(BYTES)));
};
#else
template <class R, int BYTES = REGISTER> struct Lanes { using Vector = R; using Count = R; };
#endif

// M of a kind, in registers where they can be.
template <class T, int M> struct Several {
  T all[M];
  T& operator[](int m) { return all[m]; }
  const T& operator[](int m) const { return all[m]; }
};

// What lies at an index: one element, or a register full. `fetch` has it come nearer.
template <class R> struct One {
  using Value = R;
  i64 i;
  Value operator()(const R* p) const { return p[i]; }
  void put(R* p, Value v) const { p[i] = v; }
  void fetch(const R*) const {}
};
template <class R, int BYTES = REGISTER> struct Full {
  using Value = typename Lanes<R, BYTES>::Vector;
  i64 i;
  Value operator()(const R* p) const {
    Value v;
    std::memcpy(&v, p + i, sizeof(v));
    return v;
  }
  void put(R* p, Value v) const { std::memcpy(p + i, &v, sizeof(v)); }
#ifdef __GNUC__
  void fetch(const R* p) const { __builtin_prefetch(p + i, 0, 2); }
#else
  void fetch(const R*) const {}
#endif
};

#ifdef __GNUC__
// Two registers in one, each with half as many lanes: neighbours added.
template <class Vector, std::size_t... I>
inline Vector fold(const Vector& a, const Vector& b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, 2 * I...) + __builtin_shufflevector(a, b, 2 * I + 1 ...);
}

// Each lane with the sum of `group` neighbours, those that are its own.
template <int group, class Vector, std::size_t... I>
inline Vector spread(const Vector& v, std::index_sequence<I...> lanes) {
  if constexpr (group == 1) {
    return v;
  } else {
    const Vector w = spread<group / 2>(v, lanes);
    return w + __builtin_shufflevector(w, w, I ^ (group / 2)...);
  }
}

// The sum of the lanes of each of M registers: two become one, until there is one left.
template <class R, int M, class Vector>
NORMWISE_INLINE void across(Vector (&v)[M], R (&sums)[M]) {
  constexpr int N = sizeof(v[0]) / sizeof(R), W = M < N ? M : N;
  static_assert(M % W == 0 && (W & (W - 1)) == 0, "registers are folded in pairs");
  constexpr auto lanes = std::make_index_sequence<N>();
  for (int begin = 0; begin < M; begin += W) {
    auto* w = v + begin;
    for (int n = W; n > 1; n /= 2)
      for (int i = 0; i < n / 2; ++i) w[i] = fold(w[2 * i], w[2 * i + 1], lanes);
    const auto all = spread<N / W>(w[0], lanes);
    for (int m = 0; m < W; ++m) sums[begin + m] = all[m * (N / W)];
  }
}
#endif

// Sums of K terms over n indices; f(at, terms) computes the terms from at(pointer).
template <int K, class R, class F> NORMWISE_INLINE void reduce(i64 n, R (&sums)[K], F f) {
  i64 i = 0;
#ifdef __GNUC__
  using Vector = typename Lanes<R>::Vector;
  using Count = typename Lanes<R>::Count;
  constexpr i64 N = sizeof(Vector) / sizeof(R);
  if (n >= N) {
    Vector even[K] = {}, odd[K] = {}, terms[K];
    for (; i + 2 * N <= n; i += 2 * N) {  // two chains of additions, as one waits for itself
      f(Full<R>{i}, terms);
      for (int k = 0; k < K; ++k) even[k] += terms[k];
      f(Full<R>{i + N}, terms);
      for (int k = 0; k < K; ++k) odd[k] += terms[k];
    }
    if (i + N <= n) {
      f(Full<R>{i}, terms);
      for (int k = 0; k < K; ++k) even[k] += terms[k];
      i += N;
    }
    if (i < n) {  // the last register once more, without what it has in common with the others
      Count place;
      for (int j = 0; j < N; ++j) place[j] = j;
      f(Full<R>{n - N}, terms);
      const Count fresh = place >= decltype(place[0] + 0)(N - (n - i));
      for (int k = 0; k < K; ++k) odd[k] += fresh ? terms[k] : Vector{};
    }
    for (int k = 0; k < K; ++k) even[k] += odd[k];
    across<R>(even, sums);
    return;
  }
#endif
  for (int k = 0; k < K; ++k) sums[k] = R(0);
  for (; i < n; ++i) {
    R terms[K];
    f(One<R>{i}, terms);
    for (int k = 0; k < K; ++k) sums[k] += terms[k];
  }
}

// f(at) at each of the indices from i to n once, a register at a time and what is left by halves
// of one. What is captured by value stays in registers; by reference, it is read again each time.
template <class R, int BYTES = REGISTER, class F>
NORMWISE_INLINE void walk_from(i64 i, i64 n, const F& f) {
#ifdef __GNUC__
  constexpr i64 N = BYTES / sizeof(R);
  for (; i + N <= n; i += N) f(Full<R, BYTES>{i});
  if constexpr (BYTES > LEAST) return walk_from<R, BYTES / 2>(i, n, f);
#endif
  for (; i < n; ++i) f(One<R>{i});
}
template <class R, class F> NORMWISE_INLINE void walk(i64 n, F f) { walk_from<R>(0, n, f); }

// The same where f may see an index twice, as it reads nothing that it writes: the last register
// full lies over the one before.
template <class R, class F> NORMWISE_INLINE void map(i64 n, F f) {
#ifdef __GNUC__
  constexpr i64 N = sizeof(typename Lanes<R>::Vector) / sizeof(R);
  if (n >= N) {
    for (i64 i = 0; i + N <= n; i += N) f(Full<R>{i});
    if (n % N) f(Full<R>{n - N});
    return;
  }
#endif
  for (i64 i = 0; i < n; ++i) f(One<R>{i});
}

// The same, and the sums of K terms on the way, added to `sums`: those of many, each a chain of
// its own.
template <int K, class R, int BYTES = REGISTER, class F>
NORMWISE_INLINE void walk_from(i64 i, i64 n, R (&sums)[K], const F& f) {
#ifdef __GNUC__
  constexpr i64 N = BYTES / sizeof(R);
  if (i + N <= n) {
    typename Lanes<R, BYTES>::Vector totals[K], terms[K];
    for (int k = 0; k < K; ++k) totals[k] = typename Lanes<R, BYTES>::Vector{};
    for (; i + N <= n; i += N) {
      f(Full<R, BYTES>{i}, terms);
      for (int k = 0; k < K; ++k) totals[k] += terms[k];
    }
    R more[K];
    across<R>(totals, more);
    for (int k = 0; k < K; ++k) sums[k] += more[k];
  }
  if constexpr (BYTES > LEAST) return walk_from<K, R, BYTES / 2>(i, n, sums, f);
#endif
  for (R terms[K]; i < n; ++i) {
    f(One<R>{i}, terms);
    for (int k = 0; k < K; ++k) sums[k] += terms[k];
  }
}
template <int K, class R, class F> NORMWISE_INLINE void walk(i64 n, R (&sums)[K], F f) {
  for (int k = 0; k < K; ++k) sums[k] = R(0);
  walk_from(0, n, sums, f);
}

}}  // namespace normwise::NORMWISE_ISA
