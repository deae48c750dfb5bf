//! The program that measures kernels of absorbed decode, as it is started.

use super::super::tune::{Answer, TuneFile, Wanted, answer};
use crate::CudaDevice;

fn file(folder: &std::path::Path) -> TuneFile {
    TuneFile {
        answer: folder.join("answer.json"),
        digest: "0123456789abcdef".to_owned(),
        kernels: Vec::new(),
        shapes: vec![Wanted {
            heads: 16,
            new: 1,
            latent: 512,
            rope: 64,
            model: 16,
            blocks: vec![16, 32],
        }],
    }
}

#[test]
fn an_answer_is_a_table_or_says_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = file(folder.path());
    let path = folder.path().join("shapes.json");
    std::fs::write(&path, serde_json::to_vec(&file).expect("JSON")).expect("written");
    answer(&path).expect("answers");
    let text = std::fs::read(&file.answer).expect("an answer");
    let answer: Answer = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(answer.table, None);
    let error = answer.error.expect("there is no kernel");
    // No driver, another GPU, or a Hopper to which no kernels were given
    let wanted = match CudaDevice::gpu(0) {
        Err(missing) => missing.to_string(),
        Ok(device) if device.arch() == "sm_90a" => "no kernels `".to_owned(),
        Ok(_) => "is no Hopper GPU".to_owned(),
    };
    assert!(error.contains(&wanted), "{error}");
}

#[test]
fn what_asks_for_nothing_known_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shapes.json");
    let error = answer(&path).expect_err("no file");
    assert!(error.to_string().contains("shapes.json"), "{error}");
    std::fs::write(&path, r#"{"summary": "x", "jobs": []}"#).expect("written");
    let error = answer(&path).expect_err("another program's jobs");
    assert!(error.to_string().contains("is no job file"), "{error}");
    assert!(!folder.path().join("answer.json").exists());
}
