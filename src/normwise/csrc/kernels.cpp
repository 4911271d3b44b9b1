// The kernels for one instruction set: this file is compiled once for each, as NORMWISE_ISA.
//
// Nothing here may be shared with the other sets: all is in a namespace of its own, and no
// function of the standard library that is not inlined is instantiated.
#include "columns_backward.h"
#include "columns_forward.h"
#include "runs_backward.h"
#include "runs_forward.h"

namespace normwise { namespace NORMWISE_ISA {

namespace {

// Bytes up to which runs are worked on beside each other, in the order of memory, where they have
// at most four times as many neighbours as there are rows, or twice if they are many of 16 bits:
// one by one, each touches a bit of many pages. Where nothing is summed, as statistics are given,
// all go in the order of memory.
constexpr i64 BIT = 1024, MANY = 128;

// Whether the neighbours in memory belong to different statistics, or to runs too short to
// be worked on one by one.
bool is_across(const Form& form, bool sums) {
  const bool one_row = form.P == 1 && form.x.k == form.Q && form.y.k == form.Q;
  const bool several = form.A > 1 && (form.K > 1 || form.A > form.Q);
  const i64 times = form.size() == 2 && form.Q > MANY ? 2 : 4;
  const bool bits = sums && form.Q <= times * form.A && form.Q * form.size() <= BIT;
  return one_row && several && (form.Q < 32 || bits);
}

template <class S> void forward_of(const Form& form, const Forward& call, int threads) {
  if (is_across(form, !form.given)) {
    ColumnsForward<S>(form, call, threads).forward(call);
  } else {
    RunsForward<S>(form, call, threads).forward(call);
  }
}

template <class S> void backward_of(const Form& form, const Backward& call, int threads) {
  if (is_across(form, true)) {
    ColumnsBackward<S>(form, call, threads).backward(call);
  } else {
    RunsBackward<S>(form, call, threads).backward(call);
  }
}

bool is_across(const Form& form) { return is_across(form, !form.given); }

void forward(const Form& form, const Forward& call, int threads) {
  switch (form.number) {
    case Number::float32: return forward_of<float>(form, call, threads);
    case Number::float64: return forward_of<double>(form, call, threads);
    case Number::bfloat16: return forward_of<bfloat16>(form, call, threads);
    case Number::float16: return forward_of<float16>(form, call, threads);
  }
}

void backward(const Form& form, const Backward& call, int threads) {
  switch (form.number) {
    case Number::float32: return backward_of<float>(form, call, threads);
    case Number::float64: return backward_of<double>(form, call, threads);
    case Number::bfloat16: return backward_of<bfloat16>(form, call, threads);
    case Number::float16: return backward_of<float16>(form, call, threads);
  }
}

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

}  // namespace

Kernels kernels() { return {forward, backward, is_across, TEXT(NORMWISE_ISA)}; }

}}  // namespace normwise::NORMWISE_ISA
