//! Steps in a stream that is being captured, as a caller's graph captures them. Without a GPU nothing is captured, and the test says so.
//!
//! A capture in the global mode, PyTorch's, forbids every thread of the process to allocate and to wait. So it has a process of its own.

use std::process::Command;
use std::{env, ptr};

use cudarc::driver::result;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::super::{Layer, Step};
use super::layers::{ROWS, layers};
use super::sample::HIDDEN_SIZE;
use super::*;

/// Set in the process that captures.
const ALONE: &str = "MLA_CAPTURES_ALONE";

#[test]
fn a_step_is_captured_and_a_call_is_not() {
    if CudaDevice::gpu(0).is_err() {
        println!("skipped: no GPU");
        return;
    }
    if env::var_os(ALONE).is_some() {
        return capture();
    }
    let test = "c_abi::tests::capture::a_step_is_captured_and_a_call_is_not";
    let output = Command::new(env::current_exe().expect("a path"))
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("the process runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn capture() {
    let device = Device::open();
    let (_, layer): (_, *const Layer<Exported>) = layers(&device);
    let shape = [ROWS, HIDDEN_SIZE];
    let x = device.put(&numbers(ROWS * HIDDEN_SIZE, 1));
    let out = device.put(&[0_f32; ROWS * HIDDEN_SIZE]);
    let (given, into) = (tight(&x, &shape), tight(&out, &shape));
    let positions: Vec<u32> = (0..ROWS as u32).collect();
    let positions = positions.as_ptr();
    let mut step: *const Step = ptr::null();
    // SAFETY: everything is as it is described
    worked(unsafe {
        let (x, y) = (&given.tensor, &into.tensor);
        mla_step_forward(layer, x, positions, ptr::null(), 0, y, &mut step)
    });
    // SAFETY: as above; what the step runs on is there until the test ends
    unsafe {
        worked(mla_step_run(step, STREAM));
        let wanted = device.get(&out);
        device.overwrite(&out, &[0_f32; ROWS * HIDDEN_SIZE]);

        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).expect("a stream");
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        result::stream::begin_capture(stream, mode).expect("capturing");
        let status = mla_step_run(step, stream.cast());
        let (x, y) = (&given.tensor, &into.tensor);
        let call = mla_forward(layer, stream.cast(), x, positions, ptr::null(), 0, y);
        let said = message();
        let graph = result::stream::end_capture(stream).expect("a graph");
        worked(status);
        assert!(
            call != 0 && said.contains("is being captured"),
            "{call}: {said}"
        );

        let run = result::graph::instantiate(graph, CUgraphInstantiate_flags(0)).expect("a graph");
        result::graph::launch(run, stream).expect("a launch");
        result::stream::synchronize(stream).expect("a run");
        assert_eq!(device.get(&out), wanted);

        result::graph::exec_destroy(run).expect("destroyed");
        result::graph::destroy(graph).expect("destroyed");
        result::stream::destroy(stream).expect("destroyed");
        worked(mla_step_free(step));
        worked(mla_layer_free(layer));
    }
}
