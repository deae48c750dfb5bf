// The best keys of each of few queries: blocks have multiprocessors of their own, and several of them one query where it has many keys.

#include "topk_choose.cuh"

template <class Cfg>
__device__ void topk_few(const Choosing& args) {
  choose_best<Crew<1024, sizeof(Accum) == 4 ? 8 : 4, 2, true>>(args);
}
