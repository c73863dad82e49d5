// Group norm, scale and shift, SiLU on channels-last maps [B, S, C], forward and backward.
#include "backward.h"
#include "forward.h"

namespace {

template <template <bool, typename> class Work>
int run(const Call& call) {
    auto with = [&](auto value) {
        using T = decltype(value);
        if (call.silu) {
            Work<true, T> work{call};
            for_each_sample(work);
        } else {
            Work<false, T> work{call};
            for_each_sample(work);
        }
    };
    if (call.type == FLOAT32) with(float());
    if (call.type == BFLOAT16) with(Bfloat());
    if (call.type == FLOAT16) with(Half());
    return 0;
}

}  // namespace

extern "C" int ddiff_group_norm_silu(const Call* call) { return run<Forward>(*call); }

extern "C" int ddiff_group_norm_silu_backward(const Call* call) { return run<Backward>(*call); }
