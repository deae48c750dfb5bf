// What threads ask for and don't wait for: copies, and products of warpgroups. All is done at once; or, where chance decides, only when somebody waits for
// it, so that who does not wait finds that nothing has come.

namespace simt {

// By whom it is waited for: barriers' phases, a thread that has copied out, one that has copied in, a warpgroup.
enum class Kind { Bring, Send, Fetch, Multiply };

// Something that has been asked for; what it takes lies behind it.
struct alignas(64) Late {
  Late* next;
  Kind kind;
  int who;         // a thread, or a warpgroup
  unsigned group;  // how many had been ended before
  void (*act)(const void*);
};

// How many groups this thread has ended.
inline unsigned& groups(Kind kind) { return running().groups[int(kind)]; }

inline int who(Kind kind) { return self.block->running / (kind == Kind::Multiply ? WARPGROUP : 1); }

// Does something, now or later.
template <class Act>
void ask(Kind kind, const Act& act) {
  Block& block = *self.block;
  if (!block.dice) return act();
  void* room = nullptr;
  if (posix_memalign(&room, alignof(Late), sizeof(Late) + sizeof(Act)) != 0) mistaken("asks for more than there is room for");
  const auto does = [](const void* what) { (*static_cast<const Act*>(what))(); };
  Late* late = static_cast<Late*>(room);
  *late = {nullptr, kind, who(kind), groups(kind), does};
  memcpy(reinterpret_cast<char*>(late + 1), &act, sizeof(Act));
  Late** end = &block.late;
  while (*end) end = &(*end)->next;
  *end = late;
}

inline void act(Late*& at) {
  Late* late = at;
  at = late->next;
  late->act(late + 1);
  free(late);
}

// What this thread has asked for as one kind, and then something more, from now on is one thing of another kind.
template <class Act>
void hand_over(Kind from, Kind to, const Act& act_last) {
  Block& block = *self.block;
  if (!block.dice) return act_last();
  Late* first = nullptr;
  Late** end = &first;
  const int own = who(from);
  for (Late** at = &block.late; *at;) {
    if ((*at)->kind != from || (*at)->who != own) {
      at = &(*at)->next;
      continue;
    }
    *end = *at;
    *at = (*at)->next;
    end = &(*end)->next;
    *end = nullptr;
  }
  ask(to, [=] {
    for (Late* rest = first; rest;) act(rest);
    act_last();
  });
}

// Waits until no more than `left` of the groups that this thread has ended are under way.
inline void catch_up(Kind kind, unsigned left) {
  const int own = who(kind);
  const unsigned ended = groups(kind);
  for (Late** at = &self.block->late; *at;) {
    if ((*at)->kind == kind && (*at)->who == own && (*at)->group + left < ended) act(*at);
    else at = &(*at)->next;
  }
}

// Does one of the things that barriers wait for; whether there was one.
inline bool bring_one(Block& block) {
  unsigned count = 0;
  for (Late* late = block.late; late; late = late->next) count += late->kind == Kind::Bring;
  if (count == 0) return false;
  unsigned which = roll(block, count);
  for (Late** at = &block.late;; at = &(*at)->next) {
    if ((*at)->kind != Kind::Bring || which-- > 0) continue;
    act(*at);
    return true;
  }
}

}  // namespace simt
