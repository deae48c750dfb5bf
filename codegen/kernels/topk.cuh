// The best keys of each of many queries: a block for each, several of which a multiprocessor holds, so that one's choice runs beside another's reads.

#include "topk_choose.cuh"

template <class Cfg>
__device__ void topk(const Choosing& args) {
  choose_best<Crew<512, 4, 1, false>>(args);
}
