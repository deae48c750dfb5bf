use super::*;

fn key(text: &str) -> Key {
    let source = Source {
        name: "k.cu",
        text,
        defines: &[("MLA_ELEM", "bf16")],
        checked: false,
    };
    Key::new(&source, "sm_90a", (13, 0))
}

fn compiled(byte: u8, len: usize) -> Compiled {
    Compiled {
        cubin: vec![byte; len],
        log: format!("log of {byte}"),
    }
}

/// Says that an entry was last used so many seconds ago.
fn age(folder: &Path, key: &Key, seconds: u64) {
    File::options()
        .write(true)
        .open(folder.join(key.file_name()))
        .unwrap()
        .set_modified(SystemTime::now() - Duration::from_secs(seconds))
        .unwrap();
}

#[test]
fn what_is_put_is_got() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(folder.path().join("made/when/needed"), LIMIT);
    assert_eq!(cache.get(&key("a")), None);
    cache.put(&key("a"), &compiled(7, 100));
    cache.put(&key("b"), &compiled(8, 0));
    assert_eq!(cache.get(&key("a")), Some(compiled(7, 100)));
    assert_eq!(cache.get(&key("b")), Some(compiled(8, 0)));
    assert_eq!(cache.get(&key("c")), None);
}

#[test]
fn everything_that_a_cubin_depends_on_is_in_the_key() {
    let source = Source {
        name: "k.cu",
        text: "text",
        defines: &[("A", "1"), ("B", "2")],
        checked: false,
    };
    let of = |source: &Source<'_>| Key::new(source, "sm_90a", (13, 0));
    let others = [
        of(&Source {
            name: "other.cu",
            ..source
        }),
        of(&Source {
            text: "texts",
            ..source
        }),
        of(&Source {
            defines: &[("A", "1"), ("B", "3")],
            ..source
        }),
        of(&Source {
            checked: true,
            ..source
        }),
        Key::new(&source, "sm_80", (13, 0)),
        Key::new(&source, "sm_90a", (13, 1)),
    ];
    for (index, other) in others.iter().enumerate() {
        assert_ne!(*other, of(&source), "{index}");
    }
    assert_eq!(of(&source), of(&source.clone()));
}

#[test]
fn a_file_that_is_not_whole_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(folder.path(), LIMIT);
    let key = key("a");
    cache.put(&key, &compiled(7, 100));
    let path = folder.path().join(key.file_name());
    let whole = fs::read(&path).unwrap();
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(cache.get(&key), None, "{len} bytes");
    }
    for at in 0..whole.len() {
        let mut corrupt = whole.clone();
        corrupt[at] ^= 0x10;
        fs::write(&path, &corrupt).unwrap();
        assert_eq!(cache.get(&key), None, "byte {at}");
    }
    fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
    assert_eq!(cache.get(&key), None);
    // Another's content under this name
    fs::write(&path, encode(&compiled(7, 100), &self::key("b"))).unwrap();
    assert_eq!(cache.get(&key), None);
    cache.put(&key, &compiled(7, 100));
    assert_eq!(cache.get(&key), Some(compiled(7, 100)));
}

#[test]
fn the_longest_unused_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let len = encode(&compiled(0, 100), &key("a")).len() as u64;
    let cache = CubinCache::at(folder.path(), 3 * len);
    let keys = ["a", "b", "c", "d"].map(key);
    for (at, key) in keys[..3].iter().enumerate() {
        cache.put(key, &compiled(0, 100));
        age(folder.path(), key, 100 - at as u64);
    }
    // `a` is the oldest, but used just now
    assert!(cache.get(&keys[0]).is_some());
    cache.put(&keys[3], &compiled(0, 100));
    let held = keys.each_ref().map(|key| cache.get(key).is_some());
    assert_eq!(held, [true, false, true, true]);

    // What can't fit pushes nothing out
    cache.put(&key("large"), &compiled(0, 1000));
    assert_eq!(cache.get(&key("large")), None);
    assert!(cache.get(&keys[0]).is_some());
}

#[test]
fn foreign_files_stay_and_abandoned_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(folder.path(), 200);
    fs::write(folder.path().join("notes.cubin"), vec![0; 1000]).unwrap();
    let unfinished = format!("{}.1.0{UNFINISHED}", key("x").file_name());
    let abandoned = format!("{}.1.1{UNFINISHED}", key("x").file_name());
    for name in [&unfinished, &abandoned] {
        fs::write(folder.path().join(name), "half").unwrap();
    }
    File::options()
        .write(true)
        .open(folder.path().join(&abandoned))
        .unwrap()
        .set_modified(SystemTime::now() - 2 * ABANDONED)
        .unwrap();
    cache.put(&key("a"), &compiled(0, 10));
    assert!(cache.get(&key("a")).is_some());
    assert!(folder.path().join("notes.cubin").exists());
    assert!(folder.path().join(unfinished).exists());
    assert!(!folder.path().join(abandoned).exists());
}

#[test]
fn writers_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let len = encode(&compiled(0, 50_000), &key("a")).len() as u64;
    // Room for half of the keys, so that entries vanish while others read and write them
    let cache = CubinCache::at(folder.path(), 4 * len);
    let keys: Vec<_> = (0..8).map(|k| key(&k.to_string())).collect();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (cache, keys) = (&cache, &keys);
            scope.spawn(move || {
                for round in 0..50 {
                    let at = (writer * 3 + round) % keys.len();
                    cache.put(&keys[at], &compiled(at as u8, 50_000));
                    for (at, key) in keys.iter().enumerate() {
                        if let Some(found) = cache.get(key) {
                            assert_eq!(found, compiled(at as u8, 50_000));
                        }
                    }
                }
            });
        }
    });
    let mut held = 0;
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(name.ends_with(ENTRY), "{name}");
        held += entry.metadata().unwrap().len();
    }
    assert!(held <= 4 * len);
}

#[test]
fn a_folder_that_cannot_be_used_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for cache in [
        CubinCache::at(file.join("below"), LIMIT),
        CubinCache {
            folder: None,
            limit: LIMIT,
        },
    ] {
        cache.put(&key("a"), &compiled(0, 1));
        assert_eq!(cache.get(&key("a")), None);
    }
}

#[test]
fn the_environment_names_the_folder() {
    let of = |set: &[(&str, &str)]| {
        default_folder(|name| {
            set.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        })
    };
    let home = ("HOME", "/home/u");
    assert_eq!(of(&[home]), Some("/home/u/.cache/mla-gen/cubins".into()));
    assert_eq!(
        of(&[home, ("XDG_CACHE_HOME", "/x"), ("MLA_CACHE_DIR", "")]),
        Some("/x/mla-gen/cubins".into())
    );
    assert_eq!(
        of(&[home, ("XDG_CACHE_HOME", "/x"), ("MLA_CACHE_DIR", "/m")]),
        Some("/m".into())
    );
    assert_eq!(of(&[]), None);
}

#[test]
fn what_is_cached_is_not_compiled_again() {
    if !compiler::present() {
        eprintln!("no NVRTC here: skipped");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(folder.path(), LIMIT);
    let source = Source {
        name: "k.cu",
        text: "extern \"C\" __global__ void k(float* x) { *x = 1; }",
        defines: &[],
        checked: false,
    };
    let first = cache.compile(&source, "sm_90a").unwrap();
    assert_eq!(cache.compile(&source, "sm_90a").unwrap(), first);
    // Only the cache can know of a cubin that no compiler made
    let key = Key::new(&source, "sm_90a", compiler::version().unwrap());
    cache.put(&key, &compiled(3, 3));
    assert_eq!(cache.compile(&source, "sm_90a").unwrap(), compiled(3, 3));
}
