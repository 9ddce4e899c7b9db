//! The real object, driven: loaded once, its maps filled for each sequence, run on single frames by
//! the kernel, and compared with the model after each step.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, sync::Arc, thread, time::Duration};

use aya::{
    maps::{Array, HashMap, Map, MapData, MapInfo, PerCpuArray},
    programs::ProgramInfo,
};
use lb_common::{
    affinity::{Affinity, AffinityKey},
    backend::Backend,
    flow::{Flow as FlowValue, FlowKey, FlowKey6},
    fragment::{Fragment, FragmentKey},
    hash,
    limits::{cache_sets, exact_sets},
    map_names,
    record::Record,
    settings::{Settings, reciprocal},
    stats::Counters,
    verdict::DropReason,
};
use lb_userspace::dataplane::{
    Dataplane as _,
    attach::Mode,
    image::MapOp,
    kernel::{Kernel, Options},
};
use memmap2::{MmapMut, MmapOptions};

use crate::{
    generate::{
        Generator, MAX_AFFINITY, MAX_FLOWS, POOLS, Random, Step, UNREPLIED_TIMEOUT_S, table,
    },
    model::{
        Flow, FlowId, Model, Observed, Outcome, Tables, XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX,
    },
    wire::{self, Address, UDP, is_v4, mapped},
};

/// How a sequence ended.
pub(crate) enum End {
    /// Every step was as the model says; it had as many.
    Good(u64),
    /// The clock's second changed under a step, so nobody knows which one the program saw.
    Unclear,
    /// In words, with all that is needed to see it again.
    Bad(String),
}

/// The object and its maps.
pub(crate) struct Site {
    options: Options,
    kernel: Option<Kernel>,
    /// The settings that the data path was made with.
    made: Settings,
    maps: Maps,
    model: Model,
    /// Counters at the start of the sequence, by index in `stats`.
    counted_before: BTreeMap<u32, Counters>,
    /// Drops after the step before, by reason.
    dropped_before: Vec<u64>,
    /// What the kernel's maps draw their seeds from: never the same twice.
    seeds: Random,
    log: Vec<String>,
}

/// The pinned maps, with handles of our own.
struct Maps {
    records: MmapMut,
    flows: HashMap<MapData, FlowKey, FlowValue>,
    flows6: HashMap<MapData, FlowKey6, FlowValue>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    fragments: HashMap<MapData, FragmentKey, Fragment>,
    stats: PerCpuArray<MapData, Counters>,
    drops: PerCpuArray<MapData, u64>,
    /// Of the program that runs: they are not pinned.
    buckets: Array<MapData, u64>,
}

impl Site {
    /// Loads the program, with room for small sites, under a BPF file system.
    pub(crate) fn open(bpffs: &Path, number: u64) -> Self {
        let options = Options {
            pin_directory: bpffs.join("vipd"),
            max_flows: MAX_FLOWS,
            max_affinity: MAX_AFFINITY,
            snat_port_first: 0,
            snat_port_count: 0,
            mode: Mode::Generic,
            interfaces: Vec::new(),
        };
        let mut kernel = Kernel::open(options.clone()).expect("the data path");
        // Tables take long to write, so they stay for all sequences.
        let mut random = Random::new(number);
        let mut model = Model {
            max_flows: MAX_FLOWS as usize,
            max_affinity: MAX_AFFINITY as usize,
            ..Model::default()
        };
        for pool in POOLS {
            for half in [0, 1] {
                let table: Arc<[u32]> = table(pool, &mut random);
                let operation = MapOp::Table {
                    pool,
                    half,
                    table: table.clone(),
                };
                kernel.apply(&[operation]).expect("a table");
                model.tables.insert((pool, half), table);
            }
        }
        Self {
            maps: Maps::open(&options.pin_directory),
            options,
            made: kernel.image().expect("an image").settings,
            kernel: Some(kernel),
            model,
            counted_before: BTreeMap::new(),
            dropped_before: Vec::new(),
            seeds: Random::new(wire_clock().0 ^ number << 32),
            log: Vec::new(),
        }
    }

    /// Returns how often each thing happened, over all sequences.
    pub(crate) fn coverage(&self) -> &BTreeMap<&'static str, u64> {
        &self.model.coverage
    }

    /// Runs the sequence of a seed, and compares.
    pub(crate) fn run(&mut self, seed: u64) -> End {
        let mut generator = Generator::new(seed);
        self.begin(&mut generator);
        for number in 0..generator.steps() {
            wait_for_room_in_the_second();
            let step = generator.step(&self.model);
            let is_last = number + 1 == generator.steps();
            let result = self
                .step(&step)
                .and_then(|()| self.compare(is_last || number % 16 == 15));
            match result {
                Ok(()) => {}
                Err(Trouble::Unclear) => {
                    // The model does not know which tokens that step has taken.
                    self.reload();
                    return End::Unclear;
                }
                Err(Trouble::Difference(difference)) => {
                    return End::Bad(self.story(seed, number, &step, &difference));
                }
            }
        }
        End::Good(generator.steps())
    }

    fn kernel(&mut self) -> &mut Kernel {
        self.kernel.as_mut().expect("a data path")
    }

    /// Empties the maps, and fills them with the site of a sequence.
    fn begin(&mut self, generator: &mut Generator) {
        self.clear();
        let mut plan = generator.plan();
        let settings = &mut plan.settings;
        // What the data path knows of itself stays as it is.
        settings.layout_version = self.made.layout_version;
        // A flow cache of one set is soon full.
        settings.cache_mask = match self.seeds.below(3) {
            0 => 0,
            1 => 3,
            _ => cache_sets(MAX_FLOWS) - 1,
        };
        settings.exact_mask = match self.seeds.below(3) {
            0 => 0,
            1 => 3,
            _ => exact_sets(MAX_FLOWS) - 1,
        };
        settings.slot_reciprocal = reciprocal(settings.snat_port_count);
        // The program's caches outlive a sequence; under another seed nothing is found in them.
        settings.seed = self.seeds.next();
        self.options.snat_port_first = settings.snat_port_first;
        self.options.snat_port_count = settings.snat_port_count;
        let mut operations = vec![MapOp::Settings(Box::new(*settings))];
        operations.append(&mut plan.operations);
        self.model.records = vec![EMPTY; MAX_FLOWS as usize];
        self.apply(&operations);
        self.dropped_before = self.maps.dropped();
        self.counted_before.clear();
        let indices = self.counter_indices();
        self.counted_before = indices
            .map(|index| (index, self.maps.counters(index)))
            .collect();
        self.log.clear();
    }

    fn clear(&mut self) {
        let model = &mut self.model;
        let mut operations = Vec::new();
        operations.extend(model.services.keys().map(|key| MapOp::RemoveService(*key)));
        operations.extend(
            model
                .endpoints
                .keys()
                .map(|key| MapOp::RemoveEndpoint(*key)),
        );
        operations.extend(model.backends.keys().map(|id| MapOp::RemoveBackend(*id)));
        operations.extend(model.pools.keys().map(|id| MapOp::RemovePool(*id)));
        let mut buckets = std::mem::take(&mut model.buckets);
        // Under the next seed others would find them empty.
        for (service, source) in buckets.sources() {
            self.maps
                .fill_buckets(model.settings.seed, service, &source);
        }
        buckets.forget_sources();
        *model = Model {
            tables: std::mem::take(&mut model.tables),
            coverage: std::mem::take(&mut model.coverage),
            max_flows: model.max_flows,
            max_affinity: model.max_affinity,
            buckets,
            ..Model::default()
        };
        self.kernel().apply(&operations).expect("empty maps");
        self.maps.clear();
    }

    /// Carries out changes of the maps that the daemon owns, in both worlds.
    fn apply(&mut self, operations: &[MapOp]) {
        self.kernel().apply(operations).expect("changed maps");
        let model = &mut self.model;
        for operation in operations.iter().cloned() {
            match operation {
                MapOp::Settings(settings) => model.settings = *settings,
                MapOp::Backend(id, backend) => {
                    model.backends.insert(id, *backend);
                }
                MapOp::RemoveBackend(id) => {
                    model.backends.remove(&id);
                }
                MapOp::Table { pool, half, table } => {
                    model.tables.insert((pool, half), table);
                }
                MapOp::Pool(id, pool) => {
                    model.pools.insert(id, *pool);
                }
                MapOp::Endpoint(key, endpoint) => {
                    model.endpoints.insert(key, endpoint.slot);
                }
                MapOp::RemoveEndpoint(key) => {
                    model.endpoints.remove(&key);
                }
                MapOp::Service(key, service) => {
                    model.services.insert(key, *service);
                }
                MapOp::RemoveService(key) => {
                    model.services.remove(&key);
                }
                MapOp::Ranges { half, entries } => model.ranges[half as usize] = entries,
                other => panic!("no sequence has {other:?}"),
            }
        }
    }

    fn counter_indices(&self) -> impl Iterator<Item = u32> + use<> {
        let services = self.model.services.iter().filter(|(key, _)| key.port != 0);
        let services = services.map(|(_, service)| u32::from(service.id));
        let backends = self.model.backends.keys().map(|id| 256 + u32::from(*id));
        services.chain(backends).collect::<Vec<_>>().into_iter()
    }

    fn step(&mut self, step: &Step) -> Result<(), Trouble> {
        match step {
            Step::Frame(frame) => self.receive(frame)?,
            Step::Change(operations) => {
                self.log.push(format!("change {}", said(operations)));
                self.apply(operations);
            }
            Step::Age(seconds) => {
                self.log.push(format!("{seconds} s pass"));
                self.model.age(*seconds);
                self.maps.age(&self.model);
                self.kernel().begin_epoch();
            }
            Step::Sweep => {
                self.log.push("sweep".to_owned());
                let before = self.model.clone();
                let (_, now) = wire_clock();
                self.model.sweep(now, UNREPLIED_TIMEOUT_S);
                self.maps.sweep(&before, &self.model);
                self.kernel().begin_epoch();
            }
            Step::Reload => {
                self.log.push("reload".to_owned());
                self.reload();
                self.model.saw("reload");
            }
            Step::Fill(table, full) => {
                self.log.push(format!("table {table} full: {full}"));
                self.model.filled[*table] = self.maps.fill(*table, *full, &self.model);
            }
        }
        Ok(())
    }

    /// Loads the program anew, with token buckets that are full.
    fn reload(&mut self) {
        drop(self.kernel.take());
        let kernel = Kernel::open(self.options.clone()).expect("the data path again");
        assert!(kernel.adopted());
        self.kernel = Some(kernel);
        self.maps.buckets = buckets(&self.options.pin_directory);
        self.model.buckets.clear();
        self.model.numbered.clear();
    }

    /// Runs the program on a frame, and compares what became of it.
    fn receive(&mut self, frame: &[u8]) -> Result<(), Trouble> {
        let (before_ns, now) = wire_clock();
        let (action, out) = self.kernel().test_run(frame).expect("a run");
        let (after_ns, second) = wire_clock();
        if second != now {
            return Err(Trouble::Unclear);
        }
        let dropped = self.maps.dropped();
        let counted = DropReason::ALL
            .iter()
            .zip(dropped.iter().zip(&self.dropped_before))
            .flat_map(|(reason, (after, before))| vec![*reason; (after - before) as usize])
            .collect();
        self.dropped_before = dropped;
        let observed = Observed {
            action,
            frame: out,
            counted,
            between_ns: (before_ns - tick_ns(), after_ns),
        };
        let outcome = self.model.receive(frame, now, &observed, &self.maps);
        self.log.push(format!(
            "{} => {}",
            described(frame),
            names(action, &observed.counted)
        ));
        let outcome = outcome.map_err(Trouble::Difference)?;
        agree(frame, &outcome, &observed).map_err(Trouble::Difference)
    }

    /// Compares counters and records; `thoroughly`: every table.
    fn compare(&mut self, thoroughly: bool) -> Result<(), Trouble> {
        let mut differences = String::new();
        // What the step counts at once, everything else with the tables: each look is a system call.
        let counted = std::mem::take(&mut self.model.just_counted);
        for (index, before) in &self.counted_before {
            if !thoroughly && !counted.contains(index) {
                continue;
            }
            let mut expected = *before;
            expected += self.model.counters.get(index).copied().unwrap_or_default();
            let found = self.maps.counters(*index);
            if found != expected {
                differences +=
                    &format!("counters {index}: expected {expected:?}, found {found:?}\n");
            }
        }
        if bytes_of_all(&self.model.records) != &self.maps.records[..] {
            let records = self.model.records.iter().zip(self.maps.records());
            for (index, (expected, found)) in records.enumerate() {
                if expected != found {
                    differences +=
                        &format!("record {index}: expected {expected:?}, found {found:?}\n");
                }
            }
        }
        if thoroughly {
            self.compare_tables(&mut differences);
        }
        if differences.is_empty() {
            Ok(())
        } else {
            Err(Trouble::Difference(differences))
        }
    }

    fn compare_tables(&self, differences: &mut String) {
        let (model, maps) = (&self.model, &self.maps);
        tell(differences, "flows", &model.flows, &maps.all_flows());
        let affinity: BTreeMap<(Address, u32), [u32; 2]> = model
            .affinity
            .iter()
            .map(|(key, entry)| (*key, affinity_words(entry)))
            .collect();
        tell(differences, "affinity", &affinity, &maps.all_affinity());
        tell(
            differences,
            "fragments",
            &model.fragments,
            &maps.all_fragments(),
        );
    }

    /// Tells what led to a difference.
    fn story(&self, seed: u64, number: u64, step: &Step, difference: &str) -> String {
        let mut story = format!("LB_MODEL_SEED={seed}, step {number}\n");
        for (number, line) in self.log.iter().enumerate() {
            writeln!(story, "  {number:3} {line}").expect("a string");
        }
        if let Step::Frame(frame) = step {
            writeln!(story, "frame {}", hex(frame)).expect("a string");
        }
        writeln!(story, "{:?}", self.model.settings).expect("a string");
        for (key, service) in &self.model.services {
            let name = [0; 64];
            let service = lb_common::service::Service { name, ..*service };
            writeln!(story, "{key:?} {}", short(&format!("{service:?}"))).expect("a string");
        }
        for (id, backend) in &self.model.backends {
            let backend = Backend {
                name: [0; 64],
                ..*backend
            };
            writeln!(story, "{id} {}", short(&format!("{backend:?}"))).expect("a string");
        }
        story + difference
    }
}

/// Debug text without the names, which are of no use.
fn short(text: &str) -> &str {
    text.split(", name:").next().unwrap_or(text)
}

/// Why a step is not as it should be.
enum Trouble {
    Unclear,
    Difference(String),
}

/// Compares what became of a frame with what should have.
fn agree(frame: &[u8], outcome: &Outcome, observed: &Observed) -> Result<(), String> {
    let (action, out, counted) = match outcome {
        Outcome::Pass => (XDP_PASS, Some(frame), None),
        Outcome::Drop(reason) => (XDP_DROP, None, Some(*reason)),
        Outcome::Leave {
            action,
            frame,
            counted,
        } => (*action, Some(&frame[..]), *counted),
    };
    let counted: Vec<_> = counted.into_iter().collect();
    if (action, &counted) != (observed.action, &observed.counted) {
        return Err(format!(
            "expected {}, got {}; {}",
            names(action, &counted),
            names(observed.action, &observed.counted),
            hex(&observed.frame),
        ));
    }
    if let Some(out) = out
        && out != observed.frame
    {
        let place = out.iter().zip(&observed.frame).position(|(a, b)| a != b);
        return Err(format!(
            "frames differ at byte {place:?}:\nexpected {}\ngot      {}",
            hex(out),
            hex(&observed.frame)
        ));
    }
    // The model's own arithmetic is updated as well; here everything is summed up anew.
    if matches!(observed.action, XDP_TX | XDP_REDIRECT) && wire::faults(frame).is_empty() {
        let faults = wire::faults(&observed.frame);
        if !faults.is_empty() {
            return Err(format!("wrong: {faults:?} in {}", hex(&observed.frame)));
        }
    }
    Ok(())
}

impl Maps {
    fn open(directory: &Path) -> Self {
        let data = |name| MapData::from_pin(directory.join(name)).expect("a pinned map");
        let hash = |name| Map::HashMap(data(name));
        let records = data(map_names::RECORDS);
        Self {
            records: map(&records, MAX_FLOWS as usize * size_of::<Record>()),
            flows: hash(map_names::FLOWS).try_into().expect("flows"),
            flows6: hash(map_names::FLOWS6).try_into().expect("flows6"),
            affinity: hash(map_names::AFFINITY).try_into().expect("affinity"),
            fragments: Map::LruHashMap(data(map_names::FRAGMENTS))
                .try_into()
                .expect("fragments"),
            stats: Map::PerCpuArray(data(map_names::STATS))
                .try_into()
                .expect("stats"),
            drops: Map::PerCpuArray(data(map_names::DROPS))
                .try_into()
                .expect("drops"),
            buckets: buckets(directory),
        }
    }

    /// Fills the token buckets of a source that has taken some.
    fn fill_buckets(&mut self, seed: u64, service: u16, source: &Address) {
        let (high, low) = source.split_at(8);
        let half = if is_v4(source) { low } else { high };
        let number = u64::from_ne_bytes(half.try_into().expect("eight bytes"));
        let places = hash::source_buckets(seed, number, u32::from(service));
        let full_at = places.map(|place| self.buckets.get(&place, 0).expect("a bucket"));
        // One may be full already, if it was another source's as well.
        assert_ne!(full_at, [0, 0], "the buckets of {source:?} lie elsewhere");
        for place in places {
            self.buckets.set(place, 0, 0).expect("a full bucket");
        }
    }

    fn clear(&mut self) {
        self.records.fill(0);
        clear(&mut self.flows);
        clear(&mut self.flows6);
        clear(&mut self.affinity);
        clear(&mut self.fragments);
    }

    fn records(&self) -> &[Record] {
        records(&self.records)
    }

    fn counters(&self, index: u32) -> Counters {
        let values = self.stats.get(&index, 0).expect("counters");
        let mut sum = Counters::default();
        for value in values.iter() {
            sum += *value;
        }
        sum
    }

    fn dropped(&self) -> Vec<u64> {
        (0..DropReason::ALL.len() as u32)
            .map(|reason| self.drops.get(&reason, 0).expect("drops").iter().sum())
            .collect()
    }

    fn all_flows(&self) -> BTreeMap<FlowId, Flow> {
        let flows = self.flows.iter().map(|entry| entry.expect("a flow"));
        let flows = flows.map(|(key, value)| {
            let (client, vip) = (mapped(&key.client), mapped(&key.vip));
            ((client, key.client_port, vip, key.vip_port), flow(value))
        });
        let flows6 = self.flows6.iter().map(|entry| entry.expect("a flow"));
        let flows6 = flows6.map(|(key, value)| {
            (
                (key.client, key.client_port, key.vip, key.vip_port),
                flow(value),
            )
        });
        flows
            .chain(flows6)
            .filter(|((client, ..), _)| !is_filler(client))
            .collect()
    }

    fn all_affinity(&self) -> BTreeMap<(Address, u32), [u32; 2]> {
        let entries = self.affinity.iter().map(|entry| entry.expect("a client"));
        entries
            .filter(|(key, _)| !is_filler(&key.client))
            .map(|(key, entry)| ((key.client, key.group), affinity_words(&entry)))
            .collect()
    }

    fn all_fragments(&self) -> BTreeMap<(Address, Address, u32), Fragment> {
        let entries = self.fragments.iter().map(|entry| entry.expect("a piece"));
        entries
            .map(|(key, entry)| ((key.source, key.destination, key.identification), entry))
            .collect()
    }

    /// Takes over the times of an aged model.
    fn age(&mut self, model: &Model) {
        self.write_records(model);
        for ((client, group), entry) in &model.affinity {
            let key = AffinityKey {
                client: *client,
                group: *group,
            };
            self.affinity.insert(key, entry, 0).expect("a client");
        }
        for ((source, destination, identification), entry) in &model.fragments {
            let key = FragmentKey::new(*source, *destination, *identification);
            self.fragments.insert(key, entry, 0).expect("a piece");
        }
    }

    fn write_records(&mut self, model: &Model) {
        self.records.copy_from_slice(bytes_of_all(&model.records));
    }

    /// Takes over what a sweep of the model has ended.
    fn sweep(&mut self, before: &Model, after: &Model) {
        for id in before
            .flows
            .keys()
            .filter(|id| !after.flows.contains_key(*id))
        {
            match keys(id) {
                Keys::V4(key) => self.flows.remove(&key),
                Keys::V6(key) => self.flows6.remove(&key),
            }
            .expect("a flow to end");
        }
        for (client, group) in before.affinity.keys() {
            if !after.affinity.contains_key(&(*client, *group)) {
                let key = AffinityKey {
                    client: *client,
                    group: *group,
                };
                self.affinity.remove(&key).expect("a client to forget");
            }
        }
        self.write_records(after);
    }

    /// Fills a table with entries of nobody, or removes them; returns how many there are.
    fn fill(&mut self, table: usize, full: bool, model: &Model) -> usize {
        let v4 = table == 0;
        let own = model.flows.keys().filter(|id| is_v4(&id.0) == v4).count();
        let room = match table {
            2 => model.max_affinity - model.affinity.len(),
            _ => model.max_flows - own,
        };
        let count = if full { room } else { model.filled[table] };
        for number in 0..count as u16 {
            let [high, low] = number.to_be_bytes();
            let (v4, v6) = ([FILLER, 0, high, low], filler6(number));
            let nobody = Flow {
                record: u32::MAX,
                generation: 0,
                backend: 0,
                snat_port: 0,
                backend_port: 0,
                snat_address: 0,
                service: 0,
            };
            let key = FlowKey::new(v4, 1, v4, 1, UDP);
            let key6 = FlowKey6::new(v6, 1, v6, 1, UDP);
            let client = AffinityKey {
                client: mapped(&v4),
                group: 0,
            };
            let entry = Affinity {
                last_seen: 0,
                backend: 0,
                _reserved: 0,
            };
            match (table, full) {
                (0, true) => self.flows.insert(key, flow_value(&nobody), 0),
                (1, true) => self.flows6.insert(key6, flow_value(&nobody), 0),
                (_, true) => self.affinity.insert(client, entry, 0),
                (0, false) => self.flows.remove(&key),
                (1, false) => self.flows6.remove(&key6),
                (_, false) => self.affinity.remove(&client),
            }
            .expect("room for what fills the table");
        }
        if full { count } else { 0 }
    }
}

impl Tables for Maps {
    fn record(&self, index: u32) -> Record {
        self.records()[index as usize]
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.get(key, 0).ok()
    }
}

/// First byte of the addresses of nobody: no client of a sequence has it.
const FILLER: u8 = 240;

fn filler6(number: u16) -> Address {
    let mut address = [0xff; 16];
    address[14..].copy_from_slice(&number.to_be_bytes());
    address
}

fn is_filler(address: &Address) -> bool {
    if is_v4(address) {
        address[12] == FILLER
    } else {
        address[0] == 0xff
    }
}

enum Keys {
    V4(FlowKey),
    V6(FlowKey6),
}

fn keys((client, client_port, vip, vip_port): &FlowId) -> Keys {
    if !is_v4(client) {
        return Keys::V6(FlowKey6::new(*client, *client_port, *vip, *vip_port, UDP));
    }
    let v4 = |address: &Address| [address[12], address[13], address[14], address[15]];
    Keys::V4(FlowKey::new(
        v4(client),
        *client_port,
        v4(vip),
        *vip_port,
        UDP,
    ))
}

fn flow(value: FlowValue) -> Flow {
    Flow {
        record: value.record,
        generation: value.generation,
        backend: value.backend,
        snat_port: value.snat_port,
        backend_port: value.backend_port,
        snat_address: value.snat_address,
        service: value.service,
    }
}

fn flow_value(flow: &Flow) -> FlowValue {
    FlowValue {
        record: flow.record,
        generation: flow.generation,
        backend: flow.backend,
        snat_port: flow.snat_port,
        backend_port: flow.backend_port,
        snat_address: flow.snat_address,
        service: flow.service,
    }
}

fn affinity_words(entry: &Affinity) -> [u32; 2] {
    [entry.last_seen, u32::from(entry.backend)]
}

fn clear<K: aya::Pod, V: aya::Pod>(map: &mut HashMap<MapData, K, V>) {
    let keys: Vec<K> = map.keys().map(|key| key.expect("a key")).collect();
    for key in keys {
        map.remove(&key).expect("an entry to remove");
    }
}

/// Tells in what two tables differ.
fn tell<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    differences: &mut String,
    name: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) {
    for (key, value) in expected {
        if found.get(key) != Some(value) {
            writeln!(
                differences,
                "{name}: expected {key:?} {value:?}, found {:?}",
                found.get(key)
            )
            .expect("a string");
        }
    }
    for (key, value) in found.iter().filter(|(key, _)| !expected.contains_key(key)) {
        writeln!(differences, "{name}: nobody expects {key:?} {value:?}").expect("a string");
    }
}

const EMPTY: Record = Record {
    claim: 0,
    client: [0; 16],
    vip: [0; 16],
    client_port: 0,
    vip_port: 0,
    last_seen: 0,
    client_mac: [0; 6],
    vlan: lb_common::backend::VlanTags {
        outer_protocol: 0,
        control: [0; 2],
    },
    service: 0,
    interface: 0,
    replied: 0,
    _reserved: 0,
};

fn names(action: u32, counted: &[DropReason]) -> String {
    let action = match action {
        XDP_DROP => "drop",
        XDP_PASS => "pass",
        XDP_TX => "out",
        XDP_REDIRECT => "redirect",
        _ => "?",
    };
    let counted: Vec<_> = counted.iter().map(|reason| reason.label()).collect();
    [vec![action], counted].concat().join(" ")
}

/// Says in a line what a frame is.
fn described(frame: &[u8]) -> String {
    let Some(ip) = wire::read(frame) else {
        return format!("{} B of something", frame.len());
    };
    let port = |at| wire::u16_at(frame, ip.l4 + at).unwrap_or(0);
    let who = |address: Address| lb_common::addr::address(address);
    format!(
        "{} B {} {}.{} > {}.{} ttl {} tags {:?} piece {:?}",
        frame.len(),
        if ip.protocol == UDP { "UDP" } else { "ICMP" },
        who(ip.source),
        port(0),
        who(ip.destination),
        port(2),
        ip.ttl,
        ip.tags,
        ip.piece.map(|piece| (piece.offset, piece.identification)),
    )
}

fn said(operations: &[MapOp]) -> String {
    let said: Vec<_> = operations
        .iter()
        .map(|operation| match operation {
            MapOp::Backend(id, backend) => format!(
                "backend {id} health {} admin {} reachable {} full {} mask {:#x} down for {:x?}",
                backend.health,
                backend.admin,
                backend.reachable,
                backend.full,
                backend.snat_mask,
                backend.services_down
            ),
            MapOp::Table { pool, half, .. } => format!("table {pool} {half}"),
            MapOp::Pool(id, pool) => format!(
                "pool {id} half {} members {:?}",
                pool.half,
                &pool.members[..pool.member_count as usize]
            ),
            MapOp::Service(key, service) => format!("{key:?} is service {}", service.id),
            MapOp::Ranges { half, entries } => format!("ranges {half} {entries:?}"),
            MapOp::Settings(settings) => format!("interfaces {:?}", settings.interfaces),
            other => format!("{other:?}"),
        })
        .collect();
    said.join("; ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the clock that the program reads (`CLOCK_MONOTONIC_COARSE`), in nanoseconds and in whole
/// seconds.
#[expect(unsafe_code, reason = "the standard library does not show this clock")]
fn wire_clock() -> (u64, u32) {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes into the given structure only, and the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    let nanoseconds = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    (nanoseconds, time.tv_sec as u32)
}

/// Returns the length of a timer tick, in nanoseconds. The program may be so far behind the clock: it
/// asks once in a tick, and the kernel counts a tick a moment before it tells the time.
#[expect(unsafe_code, reason = "the standard library does not show this clock")]
fn tick_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: as in `wire_clock`.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_nsec as u64
}

/// Waits for the next second where the present one is about to end, and for its first tick to end.
fn wait_for_room_in_the_second() {
    while !(tick_ns()..985_000_000).contains(&(wire_clock().0 % 1_000_000_000)) {
        thread::sleep(Duration::from_millis(2));
    }
}

/// Opens the token buckets of the program that is pinned in a directory.
fn buckets(directory: &Path) -> Array<MapData, u64> {
    let program = ProgramInfo::from_pin(directory.join("program")).expect("a pinned program");
    let ids = program.map_ids().expect("its maps").expect("some");
    let named = |id: &u32| {
        let info = MapInfo::from_id(*id).expect("a map");
        info.name_as_str() == Some("buckets")
    };
    let id = ids.into_iter().find(named).expect("token buckets");
    Map::Array(MapData::from_id(id).expect("token buckets"))
        .try_into()
        .expect("token buckets")
}

#[expect(
    unsafe_code,
    reason = "memory shared with the kernel has no safe interface"
)]
fn map(data: &MapData, bytes: usize) -> MmapMut {
    use std::os::fd::AsFd as _;
    // SAFETY: the map is ours alone: its program runs only when this thread has it run.
    unsafe { MmapOptions::new().len(bytes).map_mut(&data.fd().as_fd()) }.expect("mapped records")
}

#[expect(unsafe_code, reason = "records are compared as bytes")]
fn records(mapping: &MmapMut) -> &[Record] {
    // SAFETY: the mapping holds records and is aligned to a page; every bit pattern is a record.
    unsafe {
        std::slice::from_raw_parts(mapping.as_ptr().cast(), mapping.len() / size_of::<Record>())
    }
}

#[expect(unsafe_code, reason = "records are compared as bytes")]
fn bytes_of_all(records: &[Record]) -> &[u8] {
    // SAFETY: a record has no padding.
    unsafe { std::slice::from_raw_parts(records.as_ptr().cast(), size_of_val(records)) }
}
