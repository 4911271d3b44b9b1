// Memory that nobody has touched yet: large tensors get it anew from the system each time.
#pragma once
#include "call.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace normwise {

// Asks for pages of 2 MB where a result of `bytes` goes. A page costs the system more to hand
// over than a kernel needs to fill it, and a large result has 512 times as many small ones.
// Memory that has its pages already keeps them.
inline void want_large_pages(void* result, i64 bytes) {
#ifdef MADV_HUGEPAGE
  constexpr i64 WORTHWHILE = 32 << 20;  // from here glibc has memory mapped anew for each tensor
  constexpr std::uintptr_t SMALL = 4096;
  if (!result || bytes < WORTHWHILE) return;
  const auto begin = (reinterpret_cast<std::uintptr_t>(result) + SMALL - 1) / SMALL * SMALL;
  const auto end = (reinterpret_cast<std::uintptr_t>(result) + bytes) / SMALL * SMALL;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // or it has small ones
#else
  (void)result, (void)bytes;
#endif
}

}  // namespace normwise
