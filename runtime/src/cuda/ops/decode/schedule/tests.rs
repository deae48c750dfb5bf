//! What the scheduler cuts: on a GPU where there is one, otherwise on the host emulating one.

use half::bf16;

use super::*;
use crate::Visibility;
use crate::cuda::tests::{Dice, device};
use crate::cuda::{CudaGraph, CudaOptions};
use crate::segments::{Segment, Segments};

/// An `Item` of `decoding.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Item {
    group: i32,
    first: i32,
    end: i32,
    part: i32,
    parts: i32,
    slot: i32,
    unused: [i32; 2],
}

/// Keys of a tile.
const KEYS: i32 = 64;

/// `Group` of `decoding.cuh`, of which the scheduler reads what some queries see.
fn group([first, end]: [i32; 2]) -> [i32; 8] {
    [0, 1, 0, first, end, 0, first, end]
}

/// Tiles that a group has: one to write zeros by, where it sees nothing.
fn tiles([first, end]: [i32; 2]) -> std::ops::Range<i32> {
    if end > first {
        first / KEYS..(end + KEYS - 1) / KEYS
    } else {
        first / KEYS..first / KEYS + 1
    }
}

/// The items of each team.
fn scheduled(seen: &[[i32; 2]], teams: usize, team: usize) -> Vec<Vec<Item>> {
    let device = device();
    let groups: Vec<i32> = seen.iter().copied().flat_map(group).collect();
    let groups = device.upload(&groups).expect("room");
    cut(&device, &groups, None, teams, team)
}

/// The items of each team, of groups on the device, whose entries are counted there perhaps.
fn cut(
    device: &CudaDevice,
    groups: &CudaBuffer<i32>,
    counts: Option<&CudaBuffer<i32>>,
    teams: usize,
    team: usize,
) -> Vec<Vec<Item>> {
    let count = groups.len() * size_of::<i32>() / size_of::<Group>();
    let items = device
        .upload(&vec![Item::zeroed(); count + teams])
        .expect("room");
    let words = |len: usize| device.upload(&vec![-1_i32; len]).expect("room");
    let (starts, arrived, before) = (words(teams + 1), words(count * team), words(count + 1));
    let args = Scheduling {
        groups: groups.at(),
        items: items.at(),
        starts: starts.at(),
        arrived: arrived.at(),
        before: before.at(),
        counts: counts.map_or(0, CudaBuffer::at),
        count: count as i32,
        teams: teams as i32,
        team: team as i32,
        unused: 0,
    };
    let kernel = Kernel::of::<bf16>(SCHEDULE, SCHEDULE, &[]);
    device
        .launch(&kernel, [1; 3], Work::default(), &args)
        .expect("it runs");
    let arrived = device.download(&arrived).expect("values");
    assert!(arrived.iter().all(|&count| count == 0), "{arrived:?}");
    let starts = device.download(&starts).expect("values");
    let items = device.download(&items).expect("values");
    assert_eq!(starts[0], 0);
    let own = starts.windows(2).map(|pair| {
        assert!(pair[0] <= pair[1], "{starts:?}");
        items[pair[0] as usize..pair[1] as usize].to_vec()
    });
    own.collect()
}

/// That each group's tiles are those of its parts, one behind the other, which teams in a row have; and that no two parts of a team share
/// a slot.
fn check(seen: &[[i32; 2]], teams: &[Vec<Item>]) {
    let mut parts: Vec<Vec<(usize, Item)>> = vec![Vec::new(); seen.len()];
    for (team, items) in teams.iter().enumerate() {
        for item in items {
            parts[item.group as usize].push((team, *item));
        }
        let begun = |item: &&Item| item.parts > 1 && item.part == 0;
        let gone_on = |item: &&Item| item.part > 0;
        assert!(items.iter().filter(begun).count() <= 1, "{items:?}");
        assert!(items.iter().filter(gone_on).count() <= 1, "{items:?}");
    }
    for (seen, parts) in seen.iter().zip(parts) {
        let tiles = tiles(*seen);
        let mut next = tiles.start;
        let first_team = parts.first().map_or(0, |(team, _)| *team);
        for (number, (team, item)) in parts.iter().enumerate() {
            assert_eq!((item.first, item.part), (next, number as i32), "{parts:?}");
            assert!(item.first < item.end, "{parts:?}");
            assert_eq!(item.parts, parts.len() as i32, "{parts:?}");
            assert_eq!(*team, first_team + number, "{parts:?}");
            if parts.len() > 1 {
                let slot = item.slot + 2 * item.part + i32::from(item.part == 0);
                assert_eq!(slot, 2 * *team as i32 + i32::from(item.part == 0));
            }
            next = item.end;
        }
        assert_eq!(next, tiles.end, "{seen:?} {parts:?}");
    }
}

#[test]
fn every_tile_is_in_one_item() {
    let dice = &mut Dice::new();
    for round in 0..60 {
        let teams = [1, 2, 4, 33, 66, 132, 256][dice.below(7)];
        let team = 1 + dice.below(4);
        let count = [1, 2, 5, 64, 200, 700][dice.below(6)];
        let longest = [1, 64, 300, 5000, 100_000][dice.below(5)];
        let seen: Vec<[i32; 2]> = (0..count)
            .map(|_| {
                let end = dice.below(longest + 1);
                // Windows, nothing at all, and all from the first
                let first = [0, 0, dice.below(end + 1), end][dice.below(4)];
                [first as i32, end as i32]
            })
            .collect();
        let items = scheduled(&seen, teams, team);
        assert_eq!(items.len(), teams, "round {round}");
        check(&seen, &items);
    }
}

#[test]
fn as_much_for_everyone_is_not_cut() {
    for (count, teams) in [(132, 132), (33, 33), (264, 132), (66, 66)] {
        let seen = vec![[0, 4096]; count];
        let items = scheduled(&seen, teams, 1);
        check(&seen, &items);
        for own in &items {
            assert_eq!(own.len(), count / teams);
            assert!(own.iter().all(|item| item.parts == 1), "{own:?}");
        }
    }
}

#[test]
fn one_long_group_is_shared_by_all() {
    let seen = [[0, 131_072]];
    let items = scheduled(&seen, 132, 1);
    check(&seen, &items);
    let lengths: Vec<i32> = items
        .iter()
        .flatten()
        .map(|item| item.end - item.first)
        .collect();
    let (least, most) = (lengths.iter().min(), lengths.iter().max());
    assert!(lengths.len() > 120 && most <= Some(&18), "{lengths:?}");
    assert!(least >= Some(&14), "{lengths:?}");
}

/// A request's tables: so many keys, and one new token.
fn tables(keys: usize) -> Tables {
    let segment = Segment {
        queries: 0..1,
        keys: 0..keys,
        first_query: keys - 1,
        first_key: 0,
        sequence: 0,
        shift: 0,
        line: (0, 0),
    };
    let segments = Segments::new(vec![segment], Visibility::CAUSAL, 1, 10_000);
    Tables::new(&segments, None, 16, 64)
}

/// The last tile that a schedule names.
fn last_tile(device: &CudaDevice, schedule: &Schedule) -> i32 {
    let bytes = device.download(&schedule.cut).expect("values");
    let [items, starts, ..] = schedule.of.parts();
    let count: i32 = bytemuck::pod_read_unaligned(&bytes[items + starts - 4..items + starts]);
    // Behind the last team's are those of a run before
    let items = bytes[..items].chunks(ITEM).take(count as usize);
    let ends = items.map(|item| bytemuck::pod_read_unaligned::<Item>(item).end);
    ends.max().unwrap_or(0)
}

#[test]
fn lists_end_where_entries_cease_to_count() {
    let device = device();
    let lists: Vec<[i32; 2]> = [300, 300, 130, 0, 300].map(|entries| [0, entries]).into();
    let groups = lists.iter().enumerate().flat_map(|(query, &seen)| {
        let [_, rest @ ..] = group(seen);
        [[query as i32].as_slice(), &rest].concat()
    });
    let groups = device.upload(&groups.collect::<Vec<_>>()).expect("room");
    // The same groups again and again: that one was short ends no later one
    for (counts, ends) in [
        ([1, 65, 0, 0, 300], [1, 65, 0, 0, 300]),
        ([300, -5, 999, 3, 64], [300, 0, 130, 0, 64]),
    ] {
        let counts = device.upload(&counts).expect("room");
        let teams = cut(&device, &groups, Some(&counts), 4, 2);
        check(&ends.map(|end| [0, end]), &teams);
        let told = device.download(&groups).expect("values");
        let told: Vec<i32> = told.chunks(8).map(|group| group[4]).collect();
        assert_eq!(told, ends);
    }
}

#[test]
fn layers_that_are_told_the_same_share_a_schedule() {
    let device = CudaDevice::emulated(CudaOptions::default());
    device.provide(mla_codegen::cuda::kernel_text);
    let launches = || device.statistics().commands;
    let asked = |keys: usize| {
        let before = launches();
        let schedule = Schedule::of::<bf16>(&device, &tables(keys), 4).expect("it runs");
        assert_eq!(last_tile(&device, &schedule), keys.div_ceil(64) as i32);
        schedule.keep(&device);
        launches() - before
    };
    // Tables are sent, and a kernel is launched
    let new = asked(1000);
    assert_eq!(new, 2);
    assert_eq!(
        (asked(1000), asked(700), asked(1000), asked(700)),
        (0, new, 0, 0)
    );
    for other in [1, 2, 3, 4] {
        asked(other);
    }
    assert_eq!(asked(1000), new, "so many are not kept");
    // One that is in use is nobody else's
    let first = Schedule::of::<bf16>(&device, &tables(50), 4).expect("it runs");
    let second = Schedule::of::<bf16>(&device, &tables(50), 4).expect("it runs");
    assert_ne!(first.told.at(), second.told.at());
}

#[test]
fn a_graph_makes_schedules_of_its_own_whenever_it_runs() {
    let device = CudaDevice::emulated(CudaOptions::default());
    device.provide(mla_codegen::cuda::kernel_text);
    let layer = |keys: usize| Schedule::of::<bf16>(&device, &tables(keys), 4);
    // What was made outside is not there inside
    layer(1000).expect("it runs").keep(&device);
    let mut graph = CudaGraph::new(&device);
    for keys in [1000, 1001, 3000, 70] {
        let step = || {
            layer(keys)?.keep(&device);
            layer(keys)
        };
        let schedule = graph.run(step).expect("it runs");
        assert_eq!(last_tile(&device, &schedule), keys.div_ceil(64) as i32);
    }
    assert_eq!(graph.recordings(), 1, "lengths are in tables");
    assert_eq!(graph.commands().expect("a step").len(), 1);
}
