//! What a room of the house may know. `ARCHITECTURE.md` draws the map; this reads it off the manifests.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The workspace crates that each room may depend on outside of its tests.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("mla-spec", &[]),
    ("mla-codegen", &["mla-spec", "mla-tuned"]),
    ("mla-nvrtc", &[]),
    ("mla-tuned", &[]),
    ("mla-macros", &["mla-spec", "mla-codegen"]),
    (
        "mla-gen",
        &["mla-spec", "mla-codegen", "mla-nvrtc", "mla-tuned"],
    ),
    // The re-export of the macros, behind a feature, is all the runtime knows of the compiler.
    ("mla-runtime", &["mla-macros", "mla-nvrtc", "mla-tuned"]),
    ("mla-generated", &["mla-runtime"]),
    ("xtask", &[]),
    (
        "mla-tests",
        &["mla-spec", "mla-codegen", "mla-runtime", "mla-generated"],
    ),
];

/// Direct dependencies that belong to one room alone.
const KEPT_TO: &[(&str, &[&str])] = &[
    ("serde-saphyr", &["mla-spec"]),
    ("serde_yaml", &["mla-spec"]),
    ("annotate-snippets", &["mla-spec"]),
    ("tera", &["mla-codegen"]),
    ("clap", &["mla-gen"]),
    ("quote", &["mla-macros"]),
    ("gemm", &["mla-runtime"]),
    ("rayon", &["mla-runtime"]),
    ("memmap2", &["mla-runtime"]),
    ("cudarc", &["mla-runtime"]),
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .other_options(["--locked", "--filter-platform", &host()].map(str::to_owned))
        .exec()
        .expect("`cargo metadata` reads the workspace")
}

/// This machine's target triple. Packages of other platforms need not have been downloaded.
fn host() -> String {
    let version = std::process::Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let version = String::from_utf8(version.stdout).expect("rustc prints text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc names its host").to_owned()
}

fn members(metadata: &Metadata) -> BTreeMap<String, &Package> {
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| (package.name.to_string(), package))
        .collect()
}

/// Names as the manifest spells them, so that a renamed crate counts under the name the code uses.
fn direct(package: &Package) -> BTreeSet<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal)
        .map(|dependency| {
            dependency
                .rename
                .clone()
                .unwrap_or_else(|| dependency.name.clone())
        })
        .collect()
}

#[test]
fn every_room_knows_only_what_it_may() {
    let metadata = metadata();
    let members = members(&metadata);
    let rooms: BTreeSet<&str> = MAY_KNOW.iter().map(|(room, _)| *room).collect();
    assert_eq!(
        rooms,
        members.keys().map(String::as_str).collect(),
        "a room is missing from the map"
    );
    for (room, may_know) in MAY_KNOW {
        for known in direct(members[*room])
            .iter()
            .filter(|name| members.contains_key(*name))
        {
            assert!(
                may_know.contains(&known.as_str()),
                "`{room}` must not know `{known}`"
            );
        }
    }
}

#[test]
fn outside_crates_stay_in_their_room() {
    let metadata = metadata();
    let members = members(&metadata);
    for (outside, rooms) in KEPT_TO {
        for (room, package) in &members {
            if direct(package).contains(*outside) {
                assert!(
                    rooms.contains(&room.as_str()),
                    "`{room}` must not depend on `{outside}`"
                );
            }
        }
    }
}

#[test]
fn one_file_knows_the_yaml_parser() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/src");
    let mut knowing = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the sources of mla-spec are readable") {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(&path)
                .expect("a source file")
                .contains("serde_saphyr")
            {
                knowing.push(path.strip_prefix(root).expect("below the root").to_owned());
            }
        }
    }
    assert_eq!(knowing, [std::path::PathBuf::from("read/yaml.rs")]);
}

/// `rust-version` is a promise: nothing the shipped crates link to may ask for a newer compiler.
#[test]
fn rust_version_covers_every_dependency() {
    let metadata = metadata();
    let promised = members(&metadata)["mla-spec"]
        .rust_version
        .clone()
        .expect("`rust-version` is stated");
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut seen = BTreeSet::new();
    let mut open: Vec<_> = members(&metadata)
        .values()
        .map(|package| package.id.clone())
        .collect();
    while let Some(id) = open.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        for dependency in &nodes[&id].deps {
            if dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind != DependencyKind::Development)
            {
                open.push(dependency.pkg.clone());
            }
        }
        let package = &metadata[&id];
        if let Some(asked) = &package.rust_version {
            assert!(
                *asked <= promised,
                "`{}` asks for Rust {asked}, we promise {promised}",
                package.name
            );
        }
    }
    assert!(seen.len() > 20, "the walk reached the graph");
}

#[test]
fn every_direct_dependency_is_justified() {
    let map = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md"))
        .expect("the map is there");
    let (_, table) = map
        .split_once("## Direct dependencies")
        .expect("the map lists dependencies");
    let listed: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|names| names.split([',', ' ', '(', ')']))
        .filter(|name| !name.is_empty())
        .collect();
    let metadata = metadata();
    let members = members(&metadata);
    for package in members.values() {
        for dependency in &package.dependencies {
            let name = dependency.rename.as_deref().unwrap_or(&dependency.name);
            assert!(
                members.contains_key(name) || listed.contains(name),
                "`{name}` of `{}` stands in no line of ARCHITECTURE.md",
                package.name
            );
        }
    }
}
