//! Without a GPU these tests say so and pass.

use super::super::{Begins, Function, NumberType, Operand, Work};
use super::*;
use crate::narrow::E4m3;

/// The first GPU, if there are one and a compiler.
fn gpu() -> Option<Gpu> {
    let gpu = Gpu::open(0, false);
    match gpu {
        Ok(gpu) if mla_nvrtc::present() => Some(gpu),
        Ok(_) => {
            eprintln!("no NVRTC here: skipped");
            None
        }
        Err(reason) => {
            eprintln!("{reason}: skipped");
            None
        }
    }
}

const TEXT: &str = r#"
struct Args { float* x; float by; int len; };
extern "C" __device__ int counted;
__device__ int counted;
extern "C" __global__ void __launch_bounds__(128) scale(const Args args) {
  int i = blockIdx.x * 128 + threadIdx.x;
  if (i < args.len) args.x[i] *= args.by;
  if (i == 0) atomicAdd(&counted, 1);
}
extern "C" __global__ void nothing() {}
"#;

fn source() -> Source<'static> {
    Source {
        name: "scale.cu",
        text: TEXT,
        defines: &[],
        checked: false,
    }
}

fn args(x: Address, by: f32, len: i32) -> Vec<u8> {
    let mut args = x.to_le_bytes().to_vec();
    args.extend_from_slice(&by.to_le_bytes());
    args.extend_from_slice(&len.to_le_bytes());
    args
}

fn scale(function: &Function, x: Address, by: f32, len: i32) -> Command {
    Command::Launch(Launch {
        function: function.clone(),
        grid: [len.unsigned_abs().div_ceil(function.threads), 1, 1],
        shared: 0,
        together: false,
        begins: Begins::AtOnce,
        args: args(x, by, len),
        work: Work::default(),
    })
}

/// Memory of the GPU that holds these numbers.
fn upload<T: bytemuck::Pod>(gpu: &Gpu, values: &[T]) -> Address {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let pinned = gpu.pin(bytes.len()).unwrap();
    let to = gpu.allocate(bytes.len()).unwrap().unwrap();
    assert_eq!(to % 256, 0);
    // SAFETY: pinned memory is as long, and the upload is waited for before it goes
    unsafe {
        pinned
            .at
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        gpu.run(&Command::Upload {
            from: pinned.clone(),
            to,
            bytes: bytes.len(),
        })
        .unwrap();
    }
    gpu.synchronize().unwrap();
    to
}

fn download<T: bytemuck::Pod>(gpu: &Gpu, from: Address, len: usize) -> Vec<T> {
    let mut values = vec![T::zeroed(); len];
    // SAFETY: callers put as much there
    unsafe { gpu.download(from, bytemuck::cast_slice_mut(&mut values)) }.unwrap();
    values
}

#[test]
fn a_missing_gpu_is_an_error() {
    match Gpu::count() {
        Err(reason) => assert!(reason.to_string().contains("driver"), "{reason}"),
        Ok(count) => {
            let reason = Gpu::open(count, false).unwrap_err().to_string();
            assert!(reason.contains("GPU"), "{reason}");
        }
    }
    assert!(Gpu::open(usize::MAX, false).is_err());
}

#[test]
fn architectures_are_named_as_compilers_do() {
    assert_eq!(arch(9, 0), "sm_90a");
    assert_eq!(arch(8, 6), "sm_86");
    assert_eq!(arch(12, 1), "sm_121");
}

#[test]
fn kernels_copies_and_fills_run_in_order() {
    let Some(gpu) = gpu() else { return };
    eprintln!("{} {} {}", gpu.name(), gpu.arch(), gpu.multiprocessors());
    let module = gpu.load(&source()).unwrap();
    let (counted, bytes) = module.variable("counted").unwrap();
    assert_eq!(bytes, 4);
    assert_eq!(module.variable("absent"), None);
    let function = module.clone().function("scale").unwrap();
    let nothing = module.clone().function("nothing").unwrap();
    let absent = module.clone().function("absent").unwrap_err().to_string();
    assert!(
        absent.contains("absent") && absent.contains("scale.cu"),
        "{absent}"
    );
    drop(module);

    let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let x = upload(&gpu, &values);
    let y = gpu.allocate(4000).unwrap().unwrap();
    // SAFETY: all of it is within both
    unsafe {
        gpu.run(&scale(&function, x, 2.0, 1000)).unwrap();
        gpu.run(&Command::Copy {
            from: x,
            to: y,
            bytes: 4000,
        })
        .unwrap();
        gpu.run(&Command::Fill {
            at: x,
            bytes: 2000,
            byte: 0,
        })
        .unwrap();
        gpu.run(&Command::Fill {
            at: x,
            bytes: 0,
            byte: 1,
        })
        .unwrap();
        gpu.run(&Command::Launch(Launch {
            function: nothing,
            grid: [1; 3],
            shared: 0,
            together: false,
            begins: Begins::AtOnce,
            args: vec![],
            work: Work::default(),
        }))
        .unwrap();
    }
    let doubled: Vec<f32> = values.iter().map(|x| 2.0 * x).collect();
    assert_eq!(download::<f32>(&gpu, y, 1000), doubled);
    assert_eq!(download::<f32>(&gpu, x, 500), vec![0.0; 500]);
    assert_eq!(download::<f32>(&gpu, x + 2000, 500), doubled[500..]);
    assert_eq!(download::<i32>(&gpu, counted, 1), [1]);
    // SAFETY: nobody uses them any more
    unsafe {
        gpu.free(x);
        gpu.free(y);
    }
}

#[test]
fn what_is_refused_leaves_the_gpu_usable() {
    let Some(gpu) = gpu() else { return };
    assert_eq!(gpu.allocate(1 << 50).unwrap(), None);
    let function = gpu.load(&source()).unwrap().function("scale").unwrap();
    let x = upload(&gpu, &[1_f32, 2.0]);
    let short = Command::Launch(Launch {
        function: function.clone(),
        grid: [1; 3],
        shared: 0,
        together: false,
        begins: Begins::AtOnce,
        args: vec![0; 8],
        work: Work::default(),
    });
    let empty = Command::Launch(Launch {
        function: function.clone(),
        grid: [0, 1, 1],
        shared: 0,
        together: false,
        begins: Begins::AtOnce,
        args: args(x, 2.0, 2),
        work: Work::default(),
    });
    // SAFETY: neither runs
    unsafe {
        let refused = gpu.run(&short).unwrap_err().to_string();
        assert!(refused.contains("16 bytes"), "{refused}");
        let refused = gpu.run(&empty).unwrap_err().to_string();
        assert!(refused.contains("CUDA_ERROR_INVALID_VALUE"), "{refused}");
        // In the midst of a recording, too
        let good = scale(&function, x, 2.0, 2);
        assert!(gpu.record(&[good.clone(), empty]).is_err());
        gpu.record(&[good]).unwrap().launch().unwrap();
    }
    assert_eq!(download::<f32>(&gpu, x, 2), [2.0, 4.0]);
    let broken = Source {
        text: "broken",
        ..source()
    };
    assert!(gpu.load(&broken).is_err());
    // SAFETY: nobody uses it any more
    unsafe { gpu.free(x) };
}

#[test]
fn a_graph_runs_what_was_recorded_and_a_clock_times_it() {
    let Some(gpu) = gpu() else { return };
    let function = gpu.load(&source()).unwrap().function("scale").unwrap();
    let len = 1 << 20;
    let pinned = gpu.pin(4 * len).unwrap();
    let x = gpu.allocate(4 * len).unwrap().unwrap();
    let commands = [
        Command::Upload {
            from: pinned.clone(),
            to: x,
            bytes: 4 * len,
        },
        scale(&function, x, 3.0, len as i32),
    ];
    // SAFETY: all of it is within both, and only written while nothing runs
    unsafe {
        let graph = gpu.record(&commands).unwrap();
        // The graph alone keeps the kernel loaded and the memory pinned
        drop((commands, function));
        let clock = gpu.clock().unwrap();
        for round in 1..4_u8 {
            let host = std::slice::from_raw_parts_mut(pinned.at.cast::<f32>(), len);
            host.fill(f32::from(round));
            let from = clock.mark().unwrap();
            graph.launch().unwrap();
            let to = clock.mark().unwrap();
            let milliseconds = clock.between(from, to).unwrap();
            assert!(
                milliseconds > 0.0 && milliseconds < 1000.0,
                "{milliseconds}"
            );
            assert_eq!(
                download::<f32>(&gpu, x, len),
                vec![3.0 * f32::from(round); len]
            );
        }
        assert!(clock.between(0, 100).is_err());
        drop(graph);
        gpu.free(x);
    }
}

#[test]
fn other_threads_may_work_while_one_records() {
    let Some(gpu) = gpu() else { return };
    let function = gpu.load(&source()).unwrap().function("scale").unwrap();
    let x = upload(&gpu, &[1_f32; 256]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (gpu, function) = (&gpu, &function);
            scope.spawn(move || {
                for _ in 0..20 {
                    let own = upload(gpu, &[1_f32; 64]);
                    // SAFETY: all of it is within both
                    unsafe {
                        let commands = vec![scale(function, own, 2.0, 64); 8];
                        gpu.record(&commands).unwrap().launch().unwrap();
                        gpu.run(&scale(function, x, 1.0, 256)).unwrap();
                    }
                    assert_eq!(download::<f32>(gpu, own, 64), [256.0; 64]);
                    // SAFETY: nobody uses it any more
                    unsafe { gpu.free(own) };
                }
            });
        }
    });
    assert_eq!(download::<f32>(&gpu, x, 256), [1.0; 256]);
    // SAFETY: nobody uses it any more
    unsafe { gpu.free(x) };
}

/// Numbers that every type holds, and whose products sum up exactly.
fn whole(len: usize, seed: usize) -> Vec<f64> {
    (0..len)
        .map(|i| ((i * 7 + seed * 3 + i / 13) % 9) as f64 - 4.0)
        .collect()
}

fn stored(gpu: &Gpu, number: NumberType, values: &[f64]) -> Address {
    match number {
        NumberType::E4m3 => upload(
            gpu,
            &values
                .iter()
                .map(|&x| E4m3::encode(x as f32).0)
                .collect::<Vec<_>>(),
        ),
        NumberType::Bf16 => upload(
            gpu,
            &values
                .iter()
                .map(|&x| half::bf16::from_f64(x))
                .collect::<Vec<_>>(),
        ),
        NumberType::F16 => upload(
            gpu,
            &values
                .iter()
                .map(|&x| half::f16::from_f64(x))
                .collect::<Vec<_>>(),
        ),
        NumberType::F32 => upload(gpu, &values.iter().map(|&x| x as f32).collect::<Vec<_>>()),
        NumberType::F64 => upload(gpu, values),
    }
}

fn loaded(gpu: &Gpu, number: NumberType, at: Address, len: usize) -> Vec<f64> {
    match number {
        NumberType::E4m3 => download::<u8>(gpu, at, len)
            .iter()
            .map(|&x| f64::from(E4m3(x).decode()))
            .collect(),
        NumberType::Bf16 => download::<half::bf16>(gpu, at, len)
            .iter()
            .map(|x| x.to_f64())
            .collect(),
        NumberType::F16 => download::<half::f16>(gpu, at, len)
            .iter()
            .map(|x| x.to_f64())
            .collect(),
        NumberType::F32 => download::<f32>(gpu, at, len)
            .iter()
            .map(|&x| f64::from(x))
            .collect(),
        NumberType::F64 => download(gpu, at, len),
    }
}

/// The first GPU, if there are one and cuBLASLt.
fn multiplying() -> Option<Gpu> {
    let gpu = gpu()?;
    if gpu.blas.is_none() {
        eprintln!("{}: skipped", Blas::missing());
        return None;
    }
    Some(gpu)
}

#[test]
fn products_are_those_of_the_strides() {
    let Some(gpu) = multiplying() else { return };
    assert!(gpu.tuned().is_err(), "nobody asked for it");
    multiply_by_strides(&gpu);
}

#[test]
fn products_that_are_timed_are_the_same_and_their_algorithms_are_told() {
    let Some(gpu) = multiplying() else { return };
    gpu.tune().unwrap();
    multiply_by_strides(&gpu);
    let table = gpu.tuned().unwrap();
    assert!(table.contains(&gpu.name), "{table}");
    for types in ["bf16\tbf16\t", "bf16\tf32\t", "f32\tf32\t"] {
        assert!(table.lines().any(|line| line.starts_with(types)), "{table}");
    }
}

/// Products of every kind of matrix.
fn multiply_by_strides(gpu: &Gpu) {
    use NumberType::{Bf16, F16, F32, F64};
    for (factors, sum) in [
        (Bf16, Bf16),
        (Bf16, F32),
        (F16, F16),
        (F16, F32),
        (F32, F32),
        (F64, F64),
    ] {
        for (m, n, k, batch) in [
            (64, 48, 32, 1),
            (1, 128, 24, 1),
            (17, 5, 9, 3),
            (8, 1, 64, 2),
        ] {
            for flipped in 0..8_u8 {
                let operand = |number, rows: usize, columns: usize, flip: bool, seed| {
                    let [row_stride, column_stride] = if flip {
                        [1, rows + 8]
                    } else {
                        [columns + 8, 1]
                    };
                    let batch_stride =
                        row_stride * column_stride * if flip { columns } else { rows };
                    let values = whole(batch * batch_stride, seed);
                    let operand = Operand {
                        at: stored(gpu, number, &values),
                        number,
                        row_stride,
                        column_stride,
                        batch_stride,
                    };
                    (operand, values)
                };
                let (a, a_values) = operand(factors, m, k, flipped & 1 != 0, 1);
                let (b, b_values) = operand(factors, k, n, flipped & 2 != 0, 2);
                let (c, mut expected) = operand(sum, m, n, flipped & 4 != 0, 3);
                let matmul = Matmul {
                    m,
                    n,
                    k,
                    batch,
                    a,
                    b,
                    c,
                    accumulate: m == 17,
                };
                let at = |x: &Operand, z, row, column| {
                    z * x.batch_stride + row * x.row_stride + column * x.column_stride
                };
                for z in 0..batch {
                    for row in 0..m {
                        for column in 0..n {
                            let total: f64 = (0..k)
                                .map(|k| {
                                    a_values[at(&a, z, row, k)] * b_values[at(&b, z, k, column)]
                                })
                                .sum();
                            let to = &mut expected[at(&c, z, row, column)];
                            *to = total + if matmul.accumulate { *to } else { 0.0 };
                            if sum == Bf16 {
                                *to = half::bf16::from_f64(*to).to_f64();
                            }
                        }
                    }
                }
                assert!(gpu.multiplies(&matmul), "{matmul:?}");
                // SAFETY: the operands are as large as their strides say
                unsafe { gpu.run(&Command::Matmul(matmul)) }.unwrap();
                let once = loaded(gpu, sum, c.at, expected.len());
                assert_eq!(once, expected, "{matmul:?}");
                if !matmul.accumulate {
                    // SAFETY: as above
                    unsafe {
                        gpu.record(&[Command::Matmul(matmul)])
                            .unwrap()
                            .launch()
                            .unwrap()
                    };
                    assert_eq!(loaded(gpu, sum, c.at, expected.len()), expected);
                }
                for operand in [a, b, c] {
                    // SAFETY: nobody uses it any more
                    unsafe { gpu.free(operand.at) };
                }
            }
        }
    }
}

#[test]
fn products_of_fp8_sum_in_singles() {
    let Some(gpu) = gpu() else { return };
    let (m, n, k) = (64, 48, 128);
    let (a_values, b_values) = (whole(m * k, 1), whole(n * k, 2));
    // The library takes factors whose terms lie side by side
    let operand = |at, number, row_stride, column_stride| Operand {
        at,
        number,
        row_stride,
        column_stride,
        batch_stride: 0,
    };
    let matmul = Matmul {
        m,
        n,
        k,
        batch: 1,
        a: operand(
            stored(&gpu, NumberType::E4m3, &a_values),
            NumberType::E4m3,
            k,
            1,
        ),
        b: operand(
            stored(&gpu, NumberType::E4m3, &b_values),
            NumberType::E4m3,
            1,
            k,
        ),
        c: operand(
            stored(&gpu, NumberType::F32, &whole(m * n, 3)),
            NumberType::F32,
            n,
            1,
        ),
        accumulate: false,
    };
    if gpu.multiplies(&matmul) {
        // SAFETY: the operands are as large as their strides say
        unsafe { gpu.run(&Command::Matmul(matmul)) }.unwrap();
        let expected: Vec<f64> = (0..m * n)
            .map(|i| {
                let (row, column) = (i / n, i % n);
                (0..k)
                    .map(|term| a_values[row * k + term] * b_values[column * k + term])
                    .sum()
            })
            .collect();
        assert_eq!(loaded(&gpu, NumberType::F32, matmul.c.at, m * n), expected);
    } else {
        eprintln!("no products of fp8 here: skipped");
    }
    for operand in [matmul.a, matmul.b, matmul.c] {
        // SAFETY: nobody uses it any more
        unsafe { gpu.free(operand.at) };
    }
}
