// CUDA's threads on the CPU: those of a block are fibers that run one at a time, in a chosen
// order, to the next barrier or shuffle. The compiler calls the __tsan_ and __ubsan_ functions
// below at every access to memory, so that each is watched.
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "include/cuda_runtime.h"

namespace {

constexpr int WARP = 32, MOST_THREADS = 1024;
constexpr size_t STACK = 64 << 10, SLACK = 4 << 10, MOST_SHARED = 48 << 10;
enum Order { FORWARD, REVERSE, SHUFFLED };
enum State { READY, AT_BARRIER, AT_SHUFFLE, DONE };

struct Fiber {
  ucontext_t context;
  State state;
  int line;  // of the barrier or shuffle that it waits at
  uint32_t value;
  unsigned members;
  int lanes;
};

// Who touched two bytes last in a launch, or, in shared memory, in one block's run. A thread's
// number is unique in the launch, and not 0.
struct Mark {
  uint32_t run = 0, writer = 0, written_at = 0, reader = 0, read_at = 0;
  bool several = false;  // readers since the last write
};

constexpr uintptr_t PAGE = 4096;
typedef Mark Marks[PAGE / 2];

struct World {
  std::unique_ptr<Fiber[]> fibers{new Fiber[MOST_THREADS]};
  char* stacks = reserved(MOST_THREADS * STACK);
  char* arena = reserved(MOST_SHARED + 2 * SLACK);  // shared memory, with room on both sides
  bool is_ready = false, is_stopped = false;
  ucontext_t scheduler;

  emulation::Place place;
  const char* kernel;
  const std::function<void()>* body;
  size_t shared_size = 0;
  int current = -1;
  uint32_t launch = 0, block_runs = 0;
  uint32_t epoch = 0;  // barriers that the block has passed
  Order order = FORWARD;
  cudaError_t error = cudaSuccess;

  std::unordered_map<uintptr_t, std::unique_ptr<Marks>> pages;
  uintptr_t last_page = 0;
  Marks* last_marks = nullptr;
  std::vector<Mark> shared_marks{MOST_SHARED / 2 + 1};
  std::vector<std::string> found;

  static char* reserved(size_t size) {
    void* made = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return static_cast<char*>(made);
  }

  // The page behind shared memory, which nobody may touch: for what the compiler does not watch,
  // such as memcpy of many bytes.
  char* guard_page() { return arena + SLACK + MOST_SHARED; }

  char* shared() { return arena + SLACK + MOST_SHARED - shared_size; }

  unsigned threads() const { return place.threads.x * place.threads.y * place.threads.z; }

  uint32_t block() const {
    return (place.block.z * place.blocks.y + place.block.y) * place.blocks.x + place.block.x;
  }

  uint32_t number() const { return block() * threads() + current + 1; }

  bool concurrent(uint32_t other, uint32_t at) const {
    return other && ((other - 1) / threads() != block() || at == epoch);
  }

  std::string who(uint32_t number) const {
    return "thread " + std::to_string((number - 1) % threads()) + " of block " +
           std::to_string((number - 1) / threads());
  }

  void report(const std::string& what, const std::string& where = "") {  // the first of a kind
    std::string line = std::string(kernel) + ": " + what;
    auto is_known = [&](const std::string& known) { return known.rfind(line, 0) == 0; };
    if (std::none_of(found.begin(), found.end(), is_known)) found.push_back(line + where);
  }

  Mark& mark(uintptr_t address) {
    uintptr_t page = address / PAGE;
    if (page != last_page || !last_marks) {
      auto& slot = pages[page];
      if (!slot) slot.reset(new Marks[1]);
      last_page = page, last_marks = slot.get();
    }
    return (*last_marks)[address % PAGE / 2];
  }

  void watch(void* pointer, size_t size, bool writes) {
    auto at = static_cast<char*>(pointer);
    if (current < 0 || (at >= stacks && at < stacks + MOST_THREADS * STACK)) return;
    if (at >= (char*)this && at < (char*)(this + 1)) return;  // threadIdx and the like
    bool is_shared = at >= arena && at < arena + MOST_SHARED + 2 * SLACK;
    if (is_shared && (at < shared() || at + size > shared() + shared_size)) {
      report(std::string(writes ? "writes" : "reads") + " outside of its " +
             std::to_string(shared_size) + " bytes of shared memory");
      stop();
    }
    for (size_t i = 0; i < size; i += 2) {
      Mark& m = is_shared ? shared_marks[(at - shared() + i) / 2] : mark(uintptr_t(at) + i);
      uint32_t run = is_shared ? block_runs : launch;
      if (m.run != run) m = Mark(), m.run = run;
      if (is_shared && !writes && !m.writer)
        report("reads shared memory that nobody wrote", ": " + who(number()));
      touch(m, writes, is_shared ? "shared memory" : "global memory");
    }
  }

  void touch(Mark& m, bool writes, const char* memory) {
    uint32_t me = number();
    if (m.writer != me && concurrent(m.writer, m.written_at))
      report(std::string("a race in ") + memory,
             ": " + who(me) + (writes ? " writes" : " reads") + " what " + who(m.writer) + " wrote");
    if (!writes) {
      bool others = m.reader && m.reader != me && concurrent(m.reader, m.read_at);
      m.several = others || (m.several && m.read_at == epoch);
      m.reader = me, m.read_at = epoch;
      return;
    }
    if (concurrent(m.reader, m.read_at) && (m.reader != me || m.several))
      report(std::string("a race in ") + memory,
             ": " + who(me) + " writes what " + (m.reader != me ? who(m.reader) : "another") +
                 " read");
    m.writer = me, m.written_at = epoch;
  }

  // Ends the launch in place of an access that would end the process.
  void stop() {
    is_stopped = true;
    wait(DONE, 0);
  }

  void wait(State state, int line) {
    Fiber& fiber = fibers[current];
    fiber.state = state, fiber.line = line;
    swapcontext(&fiber.context, &scheduler);
  }

  void exchange(int first) {  // a warp whose members may all be at one shuffle
    Fiber* warp = &fibers[first];
    for (int lane = 0; lane < WARP; ++lane) {
      if (warp[lane].state != AT_SHUFFLE) continue;
      for (int other = 0; other < WARP; ++other) {
        if (!(warp[lane].members >> other & 1)) continue;
        bool there = first + other < int(threads()) && warp[other].state == AT_SHUFFLE &&
                     warp[other].line == warp[lane].line &&
                     warp[other].members == warp[lane].members;
        if (!there) return;
      }
    }
    uint32_t values[WARP];
    for (int lane = 0; lane < WARP; ++lane) values[lane] = warp[lane].value;
    for (int lane = 0; lane < WARP; ++lane) {
      if (warp[lane].state != AT_SHUFFLE) continue;
      warp[lane].value = values[lane ^ warp[lane].lanes];
      warp[lane].state = READY;
    }
  }

  // False where threads wait for what will not come.
  bool release() {
    int count = int(threads()), waiting = 0, line = -1;
    bool same = true, stuck = false;
    for (int i = 0; i < count; i += WARP) exchange(i);
    for (int i = 0; i < count; ++i) {
      const Fiber& fiber = fibers[i];
      if (fiber.state == READY) return true;
      stuck |= fiber.state == AT_SHUFFLE;
      if (fiber.state != AT_BARRIER) continue;
      same &= line < 0 || line == fiber.line;
      line = fiber.line;
      ++waiting;
    }
    if (stuck) {
      report("a shuffle that not all of its members reach");
      return false;
    }
    if (waiting && (waiting < count || !same)) {
      report("a barrier in line " + std::to_string(line) + " that not all threads reach");
      return false;
    }
    ++epoch;
    for (int i = 0; i < count; ++i)
      if (waiting) fibers[i].state = READY;
    return true;
  }

  bool is_done() const {
    return std::all_of(&fibers[0], &fibers[threads()],
                       [](const Fiber& fiber) { return fiber.state == DONE; });
  }

  bool run_block(const std::vector<int>& order) {
    epoch = 0, ++block_runs;
    if (shared_size) memset(shared(), 0xff, shared_size);  // not a number
    for (unsigned i = 0; i < threads(); ++i) fibers[i].state = READY;
    while (!is_done()) {
      for (int i : order) {
        if (fibers[i].state != READY) continue;
        current = i;
        place.thread = dim3(i % place.threads.x, i / place.threads.x % place.threads.y,
                            i / place.threads.x / place.threads.y);
        swapcontext(&scheduler, &fibers[i].context);
        current = -1;
        if (std::exchange(is_stopped, false)) return false;
      }
      if (!is_done() && !release()) return false;
    }
    return true;
  }

  std::vector<int> ordered(int count, std::mt19937& random) const {
    std::vector<int> made(count);
    std::iota(made.begin(), made.end(), 0);
    if (order == REVERSE) std::reverse(made.begin(), made.end());
    if (order == SHUFFLED) std::shuffle(made.begin(), made.end(), random);
    return made;
  }
} world;

void live() {
  for (;;) {
    (*world.body)();
    world.wait(DONE, 0);
  }
}

void at_fault(int, siginfo_t* info, void*);

// Takes faults of the guard page, as long as it lives.
struct Guard {
  struct sigaction own = {}, before;

  Guard() {
    mprotect(world.guard_page(), SLACK, PROT_NONE);
    own.sa_sigaction = at_fault, own.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &own, &before);
  }

  ~Guard() { sigaction(SIGSEGV, &before, nullptr); }
};

Guard* guard = nullptr;

void at_fault(int, siginfo_t* info, void*) {
  auto at = static_cast<char*>(info->si_addr);
  if (world.current < 0 || at < world.guard_page() || at >= world.guard_page() + SLACK) {
    sigaction(SIGSEGV, &guard->before, nullptr);  // a fault of another kind: it comes again
    return;
  }
  world.report("runs into the page behind its " + std::to_string(world.shared_size) +
               " bytes of shared memory");
  world.stop();
}

void make_fibers() {
  for (int i = 0; i < MOST_THREADS; ++i) {
    ucontext_t& context = world.fibers[i].context;
    getcontext(&context);
    context.uc_stack.ss_sp = world.stacks + i * STACK;
    context.uc_stack.ss_size = STACK;
    makecontext(&context, live, 0);
  }
}

}  // namespace

namespace emulation {

const Place& here() { return world.place; }
void* shared_memory() { return world.shared(); }
void barrier(int line) { world.wait(AT_BARRIER, line); }

uint32_t shuffled(uint32_t value, unsigned members, int lanes, int line) {
  Fiber& fiber = world.fibers[world.current];
  fiber.value = value, fiber.members = members, fiber.lanes = lanes;
  if (!(members >> (world.current % WARP) & 1)) world.report("a shuffle by a thread not named");
  world.wait(AT_SHUFFLE, line);
  return fiber.value;
}

cudaError_t last_error() { return std::exchange(world.error, cudaSuccess); }

const char* words(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
  }
  return "unrecognized error code";
}

void run(const char* kernel, dim3 blocks, dim3 threads, size_t shared,
         const std::function<void()>& thread) {
  uint64_t count = uint64_t(threads.x) * threads.y * threads.z;
  bool fits = count && count <= MOST_THREADS && blocks.x && blocks.y && blocks.z &&
              blocks.x <= 0x7fffffff && blocks.y <= 65535 && blocks.z <= 65535;
  if (!fits || shared > MOST_SHARED) {
    world.error = fits ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration;
    return;
  }
  if (!std::exchange(world.is_ready, true)) make_fibers();
  world.place.threads = threads, world.place.blocks = blocks;
  world.kernel = kernel, world.body = &thread, world.shared_size = shared;
  ++world.launch;
  Guard of_this_launch;
  guard = &of_this_launch;
  std::mt19937 random(world.launch);
  for (int block : world.ordered(int(blocks.x * blocks.y * blocks.z), random)) {
    world.place.block =
        dim3(block % blocks.x, block / blocks.x % blocks.y, block / blocks.x / blocks.y);
    if (world.run_block(world.ordered(int(count), random))) continue;
    make_fibers();  // those that wait will not go on
    return;
  }
}

}  // namespace emulation

extern "C" {

void emulation_order(int order) { world.order = static_cast<Order>(order); }
int emulation_launches() { return int(world.launch); }

// What was found since the last call, a line each.
const char* emulation_found() {
  static std::string text;
  text.clear();
  for (const std::string& line : world.found) text += line + "\n";
  world.found.clear();
  return text.c_str();
}

#define WATCHED(size)                                                            \
  void __tsan_read##size(void* at) { world.watch(at, size, false); }             \
  void __tsan_write##size(void* at) { world.watch(at, size, true); }             \
  void __tsan_unaligned_read##size(void* at) { world.watch(at, size, false); }   \
  void __tsan_unaligned_write##size(void* at) { world.watch(at, size, true); }
WATCHED(1)
WATCHED(2)
WATCHED(4)
WATCHED(8)
WATCHED(16)
void __tsan_read_range(void* at, size_t size) { world.watch(at, size, false); }
void __tsan_write_range(void* at, size_t size) { world.watch(at, size, true); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}

struct Access {  // as the compiler describes one to libubsan
  const char* file;
  uint32_t line, column;
  const void* type;
  unsigned char log_alignment, kind;
};

void __ubsan_handle_type_mismatch_v1(Access* access, uintptr_t at) {
  uintptr_t alignment = uintptr_t(1) << access->log_alignment;
  if (world.current < 0 || at % alignment == 0) return;
  world.report("an address that is no multiple of " + std::to_string(alignment),
               ", in line " + std::to_string(access->line));
  world.stop();
}

void __ubsan_handle_pointer_overflow(void*, uintptr_t, uintptr_t) {}
}
