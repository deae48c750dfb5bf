use std::process;

use super::super::{Axis, Begins, NumberType, Swizzle, Work};
use super::*;

const REVERSED: &str = r#"
struct Reversed { int* at; };
extern "C" __global__ void __launch_bounds__(128) reversed(const Reversed args) {
  __shared__ int all[128];
  int* own = args.at + blockIdx.x * 128;
  all[threadIdx.x] = own[threadIdx.x];
  __syncthreads();
  int x = all[127 - threadIdx.x];
  // Lanes of a warp swapped twice are where they were
  x = __shfl_xor_sync(0xffffffffu, __shfl_xor_sync(0xffffffffu, x, 5), 5);
  own[threadIdx.x] = x + (__ballot_sync(0xffffffffu, threadIdx.x % 2) == 0xaaaaaaaau ? 0 : 1000);
}
"#;

/// How many blocks there are, and how they run.
enum Blocks {
    InOrder(u32),
    Together(u32),
}

/// Compiles a kernel and runs it.
fn run(emulator: &Emulator, text: &str, kernel: &str, blocks: Blocks, args: &[u64]) {
    let source = Source {
        name: "test.cu",
        text,
        defines: &[],
        checked: false,
    };
    let function = emulator
        .load(&source)
        .and_then(|module| module.function(kernel))
        .expect("the kernel compiles");
    let (count, together) = match blocks {
        Blocks::InOrder(count) => (count, false),
        Blocks::Together(count) => (count, true),
    };
    let command = Command::Launch(Launch {
        function,
        grid: [count, 1, 1],
        shared: 0,
        together,
        begins: Begins::AtOnce,
        args: bytemuck::cast_slice(args).to_vec(),
        work: Work::default(),
    });
    // SAFETY: kernels read and write no more than what tests hand them
    unsafe { emulator.run(&command) }.expect("it runs");
}

#[test]
fn threads_of_a_block_and_lanes_of_a_warp_exchange_values() {
    let mut values: Vec<i32> = (0..256).collect();
    run(
        &Emulator::default(),
        REVERSED,
        "reversed",
        Blocks::InOrder(2),
        &[values.as_mut_ptr() as u64],
    );
    let wanted: Vec<i32> = (0..128).rev().chain((128..256).rev()).collect();
    assert_eq!(values, wanted);
}

/// Blocks of three warpgroups that all have to be there: each waits for all that come after it.
const RELAY: &str = r#"
#ifndef MLA_EMULATED
#error "the host has its own instructions"
#endif
using u8 = unsigned char;
struct Relay { u32* flags; u32* seen; };
extern "C" __global__ void __launch_bounds__(384, 1) relay(const Relay args) {
  alignas(1024) extern __shared__ u8 room[];
  __shared__ u32 mine;
  __shared__ alignas(8) u64 barrier;
  const u32 at = shared_address(&barrier), next = blockIdx.x + 1;
  if (threadIdx.x == 0) {
    mine = shared_address(room) % 1024 == 0 && room[0] == 0xff && room[232447] == 0xff ? blockIdx.x : 1000;
    barrier_init(at, 1);
  }
  __syncthreads();
  if (threadIdx.x == 383) {
    if (next < gridDim.x) while (load_acquire(args.flags + next) == 0) {}
    room[0] = u8(mine);
    barrier_arrive(at);
    __threadfence();
    atomicAdd(args.flags + blockIdx.x, 1u);
  }
  if (threadIdx.x / 128 == 1) barrier_wait(at, 0);
  else if (threadIdx.x < 128) named_wait(3, 256);
  if (threadIdx.x / 128 == 1) named_arrive(3, 256);
  args.seen[blockIdx.x * 384 + threadIdx.x] = threadIdx.x < 256 ? room[0] : mine;
}
"#;

#[test]
fn blocks_that_wait_for_each_other_run_side_by_side_with_memory_of_their_own() {
    let wanted: Vec<u32> = (0..5 * 384).map(|i| i / 384).collect();
    for seed in 0..4 {
        let (mut flags, mut seen) = (vec![0_u32; 5], vec![u32::MAX; 5 * 384]);
        let args = [flags.as_mut_ptr() as u64, seen.as_mut_ptr() as u64];
        let emulator = Emulator::of_late_hopper(seed);
        run(&emulator, RELAY, "relay", Blocks::Together(5), &args);
        assert_eq!(seen, wanted);
        assert_eq!(flags, [1; 5]);
    }
}

/// Products of 24 columns, for which no kernel asks, and of a warp.
const PRODUCTS: &str = r#"
// MLA_EMULATED
struct Products { const u32* a; const u32* b; f32* c; f32* by_warp; };
extern "C" __global__ void __launch_bounds__(128) products(const Products args) {
  __shared__ alignas(1024) u32 left[64 * 32], right[24 * 32];
  const auto place = [](int row, int word) { return row * 32 + (word ^ row % 8 * 4); };
  for (int i = threadIdx.x; i < 64 * 32; i += 128) left[place(i / 32, i % 32)] = args.a[i];
  for (int i = threadIdx.x; i < 24 * 32; i += 128) right[place(i / 32, i % 32)] = args.b[i];
  __syncthreads();
  const auto rows_at = [](u32 address) { return u64(1) << 62 | u64(64) << 32 | address >> 4; };
  f32 d[12];
  for (int k = 0; k < 4; k++)
    wgmma_bf16<0, 0>(d, rows_at(shared_address(left) + k * 32), rows_at(shared_address(right) + k * 32), k > 0);
  wgmma_commit();
  wgmma_wait<0>();
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  for (int i = 0; i < 12; i++) args.c[(row + i / 2 % 2 * 8) * 24 + i / 4 * 8 + column + i % 2] = d[i];
  // The first 16 rows and 8 columns again
  if (threadIdx.x >= 32) return;
  f32 e[4] = {};
  for (int k = 0; k < 4; k++) {
    const int word = k * 8 + threadIdx.x % 4;
    const u32* from = args.a + row * 32 + word;
    const u32 a[4] = {from[0], from[8 * 32], from[4], from[8 * 32 + 4]};
    mma_bf16(e, a, args.b[row * 32 + word], args.b[row * 32 + word + 4]);
  }
  for (int i = 0; i < 4; i++) args.by_warp[(row + i / 2 * 8) * 8 + column + i % 2] = e[i];
}
"#;

#[test]
fn products_of_any_number_of_columns_and_of_a_warp_are_right() {
    let integer = |i: usize, by: usize| (i * by % 9) as f32 - 4.0;
    let a: Vec<f32> = (0..64 * 64).map(|i| integer(i, 7)).collect();
    let b: Vec<f32> = (0..24 * 64).map(|i| integer(i / 64 + 3 * i, 5)).collect();
    let wide = |values: &[f32]| -> Vec<half::bf16> {
        values.iter().map(|&x| half::bf16::from_f32(x)).collect()
    };
    let (of_a, of_b) = (wide(&a), wide(&b));
    let (mut c, mut by_warp) = (vec![0.0_f32; 64 * 24], vec![0.0_f32; 16 * 8]);
    let args = [
        of_a.as_ptr() as u64,
        of_b.as_ptr() as u64,
        c.as_mut_ptr() as u64,
        by_warp.as_mut_ptr() as u64,
    ];
    run(
        &Emulator::of_late_hopper(1),
        PRODUCTS,
        "products",
        Blocks::InOrder(1),
        &args,
    );
    let wanted = |row: usize, column: usize| -> f32 {
        (0..64).map(|k| a[row * 64 + k] * b[column * 64 + k]).sum()
    };
    let found = |i: usize| wanted(i / 24, i % 24);
    assert_eq!(c, (0..64 * 24).map(found).collect::<Vec<_>>());
    let found = |i: usize| wanted(i / 8, i % 8);
    assert_eq!(by_warp, (0..16 * 8).map(found).collect::<Vec<_>>());
}

/// What a thread sees before it waits and after: of bytes that the copy engine brings, of those that it has sent, and of a product.
const WAITING: &str = r#"
// MLA_EMULATED
struct Waiting { const u32* from; u32* sent; u32* seen; };
extern "C" __global__ void __launch_bounds__(128) waiting(const Waiting args) {
  __shared__ alignas(1024) u32 tile[64 * 32];
  __shared__ alignas(16) u32 brought[4];
  __shared__ u64 barrier;
  const u32 at = shared_address(&barrier);
  u32* seen = args.seen;
  for (int i = threadIdx.x; i < 64 * 32; i += 128) tile[i] = 0x3f803f80;
  __syncthreads();
  if (threadIdx.x == 0) {
    barrier_init(at, 1);
    barrier_expect(at, 16);
    copy_bulk(shared_address(brought), args.from, 16, at);
    seen[0] = brought[0];
    barrier_wait(at, 0);
    seen[1] = brought[0];
    copy_out(args.sent, shared_address(brought), 16);
    seen[2] = args.sent[0];
    copies_out_wait();
    seen[3] = args.sent[0];
    copy_word(shared_address(brought), args.from + 1);
    seen[4] = brought[0];
    copies_wait_all();
    seen[5] = brought[0];
  }
  const u64 all = u64(1) << 62 | u64(64) << 32 | shared_address(tile) >> 4;
  f32 d[4] = {};
  wgmma_bf16<0, 0>(d, all, all, true);
  wgmma_commit();
  if (threadIdx.x == 0) seen[6] = u32(d[0]);
  wgmma_wait<0>();
  if (threadIdx.x == 0) seen[7] = u32(d[0]);
}
"#;

#[test]
fn who_does_not_wait_sees_nothing_where_all_is_done_late() {
    let seen_by = |emulator: &Emulator| {
        let (from, mut sent, mut seen) = ([5_u32, 7, 0, 0], [1_u32; 4], [0_u32; 8]);
        // Copies want multiples of 16
        let room: Vec<[u64; 2]> = vec![[0; 2]; 4];
        let at = (room.as_ptr() as u64).next_multiple_of(16);
        let from_at = at as *mut [u32; 4];
        let sent_at = (at + 16) as *mut [u32; 4];
        // SAFETY: there is room for both
        unsafe {
            from_at.write(from);
            sent_at.write(sent);
        }
        let args = [at, at + 16, seen.as_mut_ptr() as u64];
        run(emulator, WAITING, "waiting", Blocks::InOrder(1), &args);
        // SAFETY: as above
        sent = unsafe { sent_at.read() };
        assert_eq!(sent, from);
        seen
    };
    assert_eq!(seen_by(&Emulator::default()), [5, 5, 5, 5, 7, 7, 16, 16]);
    assert_eq!(
        seen_by(&Emulator::of_late_hopper(1)),
        [u32::MAX, 5, 1, 5, 5, 7, 0, 16]
    );
}

/// Bodies of kernels that can't go on, with `flags` in memory, and what is said of them.
const MISTAKES: [(&str, &str, &str); 9] = [
    (
        "a phase that never ends",
        "if (threadIdx.x == 0) { barrier_init(at, 2); barrier_expect(at, 64); barrier_wait(at, 0); }",
        "threads 0 to 0 wait for the end of a phase of parity 0 of the barrier at",
    ),
    (
        "lanes that meet elsewhere",
        "if (threadIdx.x < 16) __syncthreads(); else __syncwarp();",
        "threads 16 to 31 wait for others to come to __syncwarp: 16 of 32 have",
    ),
    (
        "different instructions",
        "if (threadIdx.x % 2) __shfl_sync(~0u, 1, 0); else __syncwarp();",
        "comes to exchange values with 32 threads, where others have come to __syncwarp with 32",
    ),
    (
        "too few at a barrier",
        "if (threadIdx.x < 64) named_wait(2, 128);",
        "threads 0 to 63 wait for others to come to bar of barrier 2: 64 of 128 have",
    ),
    (
        "a block that nobody else frees",
        "if (threadIdx.x == 5) while (load_acquire(args.flags) == 0) {}",
        "or for blocks that don't run at the same time",
    ),
    (
        "one too many",
        "barrier_init(at, 1); barrier_expect(at, 16); barrier_arrive(at);",
        "where all 1 have",
    ),
    (
        "an address beyond the end",
        "share(1 << 20, 1.0f);",
        "4 bytes of shared memory at 0x100000",
    ),
    (
        "a tile of no tensor",
        "barrier_init(at, 1); copy_tile(0, TensorMap(), at, 0, 0);",
        "copies by a map that there is not",
    ),
    (
        "nobody waits",
        "if (threadIdx.x == 0) copy_word(0, args.flags);",
        "what it has asked for is not",
    ),
];

/// Which of [`MISTAKES`] a process is to make.
const MISTAKE: &str = "MLA_EMULATOR_MISTAKE";

#[test]
fn a_mistake_that_the_environment_names_is_made() {
    let Ok(name) = std::env::var(MISTAKE) else {
        return;
    };
    let of_name = |(known, ..): &&(&str, &str, &str)| *known == name;
    let (_, body, _) = MISTAKES.iter().find(of_name).expect("a mistake");
    let text = format!(
        "// MLA_EMULATED\nstruct Args {{ const u32* flags; }};\n\
         extern \"C\" __global__ void __launch_bounds__(128) mistake(const Args args) {{\n\
           __shared__ u64 barrier;\n  const u32 at = shared_address(&barrier);\n  {body}\n}}\n"
    );
    let args = [[0_u32; 2].as_ptr() as u64];
    run(
        &Emulator::of_late_hopper(1),
        &text,
        "mistake",
        Blocks::InOrder(1),
        &args,
    );
}

#[test]
fn what_has_no_meaning_or_no_end_ends_the_process_and_says_why() {
    for (name, _, reason) in MISTAKES {
        let itself = std::env::current_exe().expect("tests are a program");
        let output = process::Command::new(itself)
            .args([
                "--exact",
                "cuda::driver::emulator::tests::a_mistake_that_the_environment_names_is_made",
                "--nocapture",
            ])
            .env(MISTAKE, name)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{name} goes unnoticed");
        assert!(said.contains(reason), "{name}: {said}");
    }
}

#[test]
fn what_a_gpu_refuses_is_refused() {
    let axis = |len| Axis {
        len,
        stride: 1,
        tile: 8,
    };
    let tiling = |len: usize| {
        Emulator::default().tensor_map(&Tiling {
            at: 4096,
            number: NumberType::Bf16,
            axes: &[axis(len)],
            swizzle: Swizzle::None,
        })
    };
    assert!(tiling(8).is_ok());
    assert!(tiling(0).is_err());
    assert!(tiling(1 << 33).is_err());
    let module = Emulator::default().load(&Source {
        name: "test.cu",
        text: REVERSED,
        defines: &[],
        checked: false,
    });
    let function = module
        .and_then(|module| module.function("reversed"))
        .expect("the kernel compiles");
    assert_eq!((function.threads, function.parameter), (128, 8));
    let good = Launch {
        function,
        grid: [1; 3],
        shared: SHARED_BYTES,
        together: true,
        begins: Begins::AtOnce,
        args: vec![0; 8],
        work: Work::default(),
    };
    assert!(check(&good).is_ok());
    let refused = |change: &dyn Fn(&mut Launch), reason: &str| {
        let mut launch = good.clone();
        change(&mut launch);
        let error = check(&launch).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    };
    refused(&|launch| launch.args.push(0), "launched with 9");
    refused(&|launch| launch.shared += 1, "232449 bytes");
    refused(&|launch| launch.grid[1] = 2, "launched together");
}

#[test]
fn what_does_not_compile_is_an_error() {
    let source = Source {
        name: "broken.cu",
        text: "int broken( {",
        defines: &[],
        checked: false,
    };
    let error = Emulator::default()
        .load(&source)
        .map(|_| ())
        .expect_err("no C++");
    assert!(error.to_string().contains("broken.cu:1"), "{error}");
}
