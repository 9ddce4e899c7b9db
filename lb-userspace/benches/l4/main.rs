//! scratch
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, ProgramArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    backend::{self, Backend},
    endpoint::*,
    flow::*,
    maglev,
    measure::*,
    pool::Pool,
    record::*,
    service::*,
    settings::*,
    *,
};
use lb_userspace::dataplane::{
    Dataplane as _,
    attach::Mode,
    image::MapOp,
    kernel::{Kernel, Options},
    sweep::SweepSettings,
};
use std::path::Path;

static BENCH: &[u8] = aya::include_bytes_aligned!(env!("VIPD_BENCH_OBJECT"));
const FIRST: u16 = 1024;
const PORTS: u16 = 64000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];

fn main() {
    let dir = tempfile::tempdir().unwrap();
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET), 0);
        let none: *const libc::c_char = std::ptr::null();
        assert_eq!(
            libc::mount(
                none,
                c"/".as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                none.cast()
            ),
            0
        );
        let t = std::ffi::CString::new(dir.path().to_str().unwrap()).unwrap();
        assert_eq!(
            libc::mount(c"bpf".as_ptr(), t.as_ptr(), c"bpf".as_ptr(), 0, none.cast()),
            0
        );
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(1, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
    for n in std::env::args()
        .skip(1)
        .filter_map(|a| a.parse::<u32>().ok())
    {
        run(&dir.path().join(format!("d{n}")), n);
    }
}

fn shuffled(n: u32) -> Vec<u32> {
    let mut v: Vec<u32> = (0..n).collect();
    let mut s = 0x1234_5678_9abc_def1u64;
    for i in (1..n as usize).rev() {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        v.swap(i, (s % (i as u64 + 1)) as usize);
    }
    v
}

fn frame(src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16) -> [u8; 42] {
    let mut f = [0u8; 42];
    f[..6].copy_from_slice(&MAC);
    f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    f[12] = 8;
    f[14] = 0x45;
    f[17] = 46;
    f[22] = 64;
    f[23] = 17;
    f[24] = 1;
    f[25] = 2;
    f[26..30].copy_from_slice(&src);
    f[30..34].copy_from_slice(&dst);
    f[34..36].copy_from_slice(&sport.to_be_bytes());
    f[36..38].copy_from_slice(&dport.to_be_bytes());
    f[39] = 26;
    f[40] = 0x12;
    f[41] = 0x34;
    f
}

fn run(dir: &Path, n: u32) {
    let max = n
        .next_power_of_two()
        .max(1024 * 1024)
        .max(PORTS as u32 * 17);
    let mut k = Kernel::open(Options {
        pin_directory: dir.to_owned(),
        max_flows: max,
        max_affinity: max,
        snat_port_first: FIRST,
        snat_port_count: PORTS,
        mode: Mode::Generic,
        interfaces: vec![],
    })
    .unwrap();
    let mut settings = k.image().unwrap().settings;
    settings.flow_timeout_s = 300;
    settings.cache_mask = lb_common::limits::cache_sets(n.max(1024) * 2) - 1;
    settings.snat_address_count = 1;
    settings.snat_addresses[0] = addr::mapped([10, 11, 20, 5]);
    settings.interfaces[0] = Interface {
        index: 1,
        mac: MAC,
        mtu: 1500,
    };
    let mut ops = vec![MapOp::Settings(Box::new(settings))];
    let nb = 17u16;
    let mut members = [0u16; limits::MAX_POOL_MEMBERS];
    let mut cands = vec![];
    for b in 0..nb {
        let be = Backend {
            address: addr::mapped([10, 200, 0, b as u8]),
            interface: 1,
            mac: [2, 0, 0, 0, 1, b as u8],
            source_mac: MAC,
            mtu: 1500,
            port: 443,
            pool: 0,
            snat_mask: 1,
            health: 1,
            admin: 0,
            reachable: 1,
            present: 1,
            ..Backend::FREE
        };
        ops.push(MapOp::Endpoint(
            EndpointKey::new(addr::mapped([10, 11, 20, 5]), be.address, 443, 17),
            Endpoint { slot: b as u32 },
        ));
        ops.push(MapOp::Backend(b, Box::new(be)));
        members[b as usize] = b;
        cands.push(maglev::Candidate {
            seed: hash::bytes(&[b as u8]),
            backend: b as u32,
            weight: 100,
        });
    }
    ops.push(MapOp::Table {
        pool: 0,
        half: 0,
        table: maglev::table(&cands).into(),
    });
    let mut name = [0u8; 64];
    name[0] = b'p';
    ops.push(MapOp::Pool(
        0,
        Box::new(Pool {
            half: 0,
            eligible: nb as u32,
            member_count: nb as u32,
            members,
            name,
        }),
    ));
    let vip = addr::mapped([10, 20, 90, 105]);
    ops.push(MapOp::Service(
        ServiceKey::new(vip, 443, 17),
        Box::new(Service {
            id: 0,
            pool: 0,
            backend_port: 443,
            flags: Service::AFFINITY,
            group: 1,
            affinity_timeout_s: 3600,
            ipv4_prefix: 128,
            ipv6_prefix: 128,
            _reserved: [0; 2],
            ranges_first: 0,
            ranges_count: 0,
            new_flows_per_second: 0,
            new_flows_per_source: 0,
            name,
        }),
    ));
    k.apply(&ops).unwrap();

    let mut loader = EbpfLoader::new();
    loader.map_max_entries("table", max);
    let mut e: Ebpf = loader.load(BENCH).unwrap();
    for p in ["generate", "reflect", "lookup", "discard"] {
        let x: &mut Xdp = e.program_mut(p).unwrap().try_into().unwrap();
        x.load().unwrap();
    }
    let mut target = ProgramArray::try_from(e.take_map("target").unwrap()).unwrap();
    let mut generator: Array<_, Generator> =
        Array::try_from(e.take_map("generator").unwrap()).unwrap();
    let mut order: Array<_, u32> = Array::try_from(e.take_map("order").unwrap()).unwrap();
    let mut table: HashMap<_, FlowKey, Flow> =
        HashMap::try_from(e.take_map("table").unwrap()).unwrap();
    let g: &Xdp = e.program("generate").unwrap().try_into().unwrap();
    let vipd = k.program_fd().unwrap();
    let order_v = shuffled(n);
    for (i, v) in order_v.iter().enumerate() {
        order.set(i as u32, v, 0).unwrap();
    }
    let fw = Generator {
        position: 0,
        count: n,
        replies: 0,
        ports: PORTS as u32,
        first_port: FIRST as u32,
        interface: 0,
        frame: frame([10, 64, 0, 0], [10, 20, 90, 105], 0, 443),
        _reserved: [0; 2],
    };
    let data = [0u8; 60];
    let mut out = [0u8; 128];
    let mut go = |g: &Xdp, gen_: Generator, generator: &mut Array<_, Generator>, repeat: u32| {
        generator.set(0, gen_, 0).unwrap();
        let mut o = TestRunOptions::new();
        o.data_in = Some(&data);
        o.data_out = Some(&mut out);
        o.repeat = repeat;
        let r = g.test_run(o).unwrap();
        (r.return_value, r.duration.as_nanos())
    };
    let fd = |e: &Ebpf, p: &str| {
        let x: &Xdp = e.program(p).unwrap().try_into().unwrap();
        x.fd().unwrap().try_clone().unwrap()
    };
    let flow = Flow::NONE;
    for v in 0..n {
        let c = u32::from_be_bytes([10, 64, 0, 0])
            .wrapping_add(v)
            .to_be_bytes();
        table
            .insert(
                FlowKey::new(c, 1024 + (v as u16 & 0x7fff), [10, 20, 90, 105], 443, 17),
                flow,
                0,
            )
            .unwrap();
    }
    // new flows
    target.set(0, &vipd, 0).unwrap();
    let g_ = g;
    let (rv, ns) = go(g_, fw, &mut generator, n);
    println!("{n} flows: new flow rv {rv} {ns} ns");
    // collect records
    let records: Vec<u32> = {
        let r: Array<_, Record> = Array::try_from(Map::Array(
            aya::maps::MapData::from_pin(dir.join("records")).unwrap(),
        ))
        .unwrap();
        (0..max)
            .filter(|i| Claim::unpack(r.get(i, 0).unwrap().claim).state == State::Live)
            .collect()
    };
    println!("  records {}", records.len());
    let rep = Generator {
        replies: 1,
        frame: frame([10, 200, 0, 0], [10, 11, 20, 5], 443, 0),
        ..fw
    };
    let reps = std::env::var("REPS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(200_000u32);
    let rounds = std::env::var("ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(15usize);
    let mut res: std::collections::BTreeMap<&str, Vec<u128>> = Default::default();
    for _ in 0..rounds {
        for (what, gen_) in [
            ("0reflect", fw),
            ("1discard", fw),
            ("2lookup", fw),
            ("3vipd forward", fw),
        ] {
            match what[1..].split(' ').next().unwrap() {
                "vipd" => target.set(0, &vipd, 0).unwrap(),
                p => target.set(0, &fd(&e, p), 0).unwrap(),
            }
            let (rv, ns) = go(g_, gen_, &mut generator, reps);
            assert!(rv == 3 || rv == 1);
            res.entry(what).or_default().push(ns);
        }
    }
    let sh = shuffled(n);
    for (i, v) in sh.iter().enumerate() {
        if let Some(r) = records.get(*v as usize) {
            order.set(i as u32, r, 0).unwrap();
        }
    }
    target.set(0, &vipd, 0).unwrap();
    for _ in 0..rounds {
        let (rv, ns) = go(g_, rep, &mut generator, reps);
        assert!(rv == 3);
        res.entry("4vipd reply").or_default().push(ns);
    }
    for (k, v) in &mut res {
        v.sort();
        println!("  {k:14} min {} median {}", v[0], v[v.len() / 2]);
    }
    if std::env::var("PAUSE").is_ok() {
        std::thread::sleep(std::time::Duration::from_secs(20));
    }
    let mut sw = k.sweeper().unwrap();
    let ss = SweepSettings {
        flow_timeout_s: 300,
        flow_timeout_unreplied_s: 300,
        affinity_timeouts_s: [(1, 3600)].into(),
        backends: (0..nb).collect(),
        ranges: Default::default(),
    };
    for _ in 0..3 {
        let r = sw.sweep(&ss).unwrap();
        println!("  sweep took {:?} entries {}", r.took, r.affinity_entries);
    }
}
