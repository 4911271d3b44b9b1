// The number formats x may be stored in, and the wider ones it is computed in.
#pragma once
#include "call.h"
#include <cstring>

// For what is called for every few numbers: a call, and arguments in memory, would cost more.
#ifdef __GNUC__
#define NORMWISE_INLINE inline __attribute__((always_inline))
#define NORMWISE_INLINED __attribute__((always_inline))  // after the parameters of a lambda
#else
#define NORMWISE_INLINE inline
#define NORMWISE_INLINED
#endif

namespace normwise { namespace NORMWISE_ISA {

struct bfloat16 { std::uint16_t bits; };
struct float16 { std::uint16_t bits; };

template <class S> struct Wide { using type = float; };
template <> struct Wide<double> { using type = double; };

template <class To, class From> inline To cast_bits(From from) {
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(bfloat16 x) { return cast_bits<float>(std::uint32_t(x.bits) << 16); }
inline float widen(float16 x) {
  const std::uint32_t sign = std::uint32_t(x.bits & 0x8000) << 16;
  const std::uint32_t magnitude = std::uint32_t(x.bits & 0x7fff) << 13;
  // The exponent's bias is 15 here and 127 there: 112 more, which a product adds for
  // subnormal numbers, too. Infinity and NaN keep the largest exponent.
  const std::uint32_t finite = cast_bits<std::uint32_t>(cast_bits<float>(magnitude) * 0x1p112f);
  const std::uint32_t other = magnitude | 0x7f800000u;
  return cast_bits<float>(sign | ((x.bits & 0x7c00) == 0x7c00 ? other : finite));
}

inline void narrow(float x, float& to) { to = x; }
inline void narrow(double x, double& to) { to = x; }
inline void narrow(float x, bfloat16& to) {  // to the nearest, ties to even
  const std::uint32_t bits = cast_bits<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  to.bits = std::uint16_t(nan ? (bits >> 16) | 0x40 : rounded);
}
inline void narrow(float x, float16& to) {  // to the nearest, ties to even
  const std::uint32_t bits = cast_bits<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  // Below 2^-14 the last bit is worth 2^-24, which adding 0.5 rounds to.
  const std::uint32_t small =
      cast_bits<std::uint32_t>(cast_bits<float>(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1)) >> 13;
  const std::uint32_t huge = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
  const std::uint32_t half =
      magnitude >= 0x47800000 ? huge : magnitude < 0x38800000 ? small : normal;
  to.bits = std::uint16_t((bits >> 16 & 0x8000) | half);
}

// `n` numbers from `from`, wide: where they lie if they are, else in `buffer`.
template <class S> inline const typename Wide<S>::type* read(
    const S* from, i64 n, typename Wide<S>::type* buffer) {
#pragma omp simd
  for (i64 i = 0; i < n; ++i) buffer[i] = widen(from[i]);
  return buffer;
}
inline const float* read(const float* from, i64, float*) { return from; }
inline const double* read(const double* from, i64, double*) { return from; }

// Where to put `n` wide numbers that `write` will move to `to`.
template <class S> inline typename Wide<S>::type* place(S*, typename Wide<S>::type* buffer) {
  return buffer;
}
inline float* place(float* to, float*) { return to; }
inline double* place(double* to, double*) { return to; }

template <class S> inline void write(const typename Wide<S>::type* from, i64 n, S* to) {
#pragma omp simd
  for (i64 i = 0; i < n; ++i) narrow(from[i], to[i]);
}
inline void write(const float*, i64, float*) {}  // `place` had them written there
inline void write(const double*, i64, double*) {}

}}  // namespace normwise::NORMWISE_ISA
