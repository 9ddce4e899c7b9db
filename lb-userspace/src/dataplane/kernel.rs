//! The data path in the kernel: program, links and maps, pinned so that they outlive the daemon.
//!
//! [`Kernel::open`] adopts what a former daemon left, or makes it; the program is replaced
//! atomically on each link. The sweeper ([`super::sweep`]) works beside it on its own handles.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    programs::{Program, TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    LAYOUT_VERSION,
    addr::{address, bytes},
    affinity::{Affinity, AffinityKey},
    backend::Backend,
    endpoint::{Endpoint, EndpointKey},
    limits::{self, MAGLEV_SLOTS, MAX_BACKENDS, MAX_POOLS, MAX_SERVICES},
    map_names,
    pool::Pool,
    record::{Claim, State},
    service::{Service, ServiceKey},
    settings::{Settings, reciprocal},
    stats::{Counters, backend_index, service_index},
    verdict::DropReason,
};

use super::{
    Attachment, CounterSnapshot, Dataplane, DataplaneError, FlowView,
    attach::{self, Mode},
    audit::Auditor,
    clock,
    image::{Image, MapOp, PoolImage, RangesImage},
    layout,
    records::{Epoch, Maglev, Ranges, Records},
    sweep,
};

/// The compiled XDP program.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("VIPD_BPF_OBJECT"));

/// Name of the program in the object.
const PROGRAM: &str = "vipd";
/// Maps of the program that are not pinned.
const CACHE: &str = "cache";
const EXACT: &str = "exact";
const EPOCH: &str = "epoch";
const IDENTIFICATION: &str = "identification";
/// Name of its pin.
pub(super) const PROGRAM_PIN: &str = "program";

/// What the data path needs to know before it is loaded. None of it can change while maps live.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on a bpffs where everything is pinned.
    pub pin_directory: PathBuf,
    /// Capacity of each flow table.
    pub max_flows: u32,
    /// Capacity of the affinity table.
    pub max_affinity: u32,
    /// Lowest SNAT port.
    pub snat_port_first: u16,
    /// SNAT ports of each endpoint.
    pub snat_port_count: u16,
    /// How to attach.
    pub mode: Mode,
    /// Names of the interfaces to attach to; an interface that vipd is attached to and that is
    /// not named is detached.
    pub interfaces: Vec<String>,
}

impl Options {
    /// Returns how many endpoint slots the flow table has room for.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.max_flows / u32::from(self.snat_port_count.max(1))
    }
}

/// The data path in the kernel.
pub struct Kernel {
    options: Options,
    /// Holds the program and its log; dropping it detaches nothing, as links are pinned.
    ebpf: Ebpf,
    attachments: Vec<Attachment>,
    adopted: bool,
    settings: Array<MapData, Settings>,
    services: HashMap<MapData, ServiceKey, Service>,
    pools: Array<MapData, Pool>,
    backends: Array<MapData, Backend>,
    endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    slots: Array<MapData, EndpointKey>,
    affinity: HashMap<MapData, AffinityKey, Affinity>,
    stats: PerCpuArray<MapData, Counters>,
    drops: PerCpuArray<MapData, u64>,
    maglev: Maglev,
    ranges: Ranges,
    records: Records,
    epoch: Epoch,
    given: Given,
}

/// How many numbers have been given to anybody; those from there on have counted nothing.
#[derive(Default)]
struct Given {
    services: u32,
    backends: u32,
}

impl Given {
    /// Returns those that an image has.
    fn in_image(image: &Image) -> Self {
        let mut given = Self::default();
        for service in image.services.values() {
            given.service(service.id);
        }
        for backend in image.backends.keys() {
            given.backend(*backend);
        }
        given
    }

    fn service(&mut self, id: u16) {
        self.services = self.services.max(u32::from(id) + 1);
    }

    fn backend(&mut self, id: u16) {
        self.backends = self.backends.max(u32::from(id) + 1);
    }
}

impl Kernel {
    /// Adopts the pinned data path, or makes it, and attaches the program.
    ///
    /// The caller holds the lock that keeps two daemons from the same pins.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] in words that say what to do: no bpffs, a layout of another version,
    /// other sizes than the maps were made with, a program or interface that the kernel refuses.
    pub fn open(options: Options) -> Result<Self, DataplaneError> {
        let directory = options.pin_directory.clone();
        let fresh = is_empty(&directory);
        let result = Self::open_or_make(options);
        if result.is_err() && fresh {
            // A start that failed leaves nothing; its own error is the one to tell.
            let _ = remove_pins(&directory);
        }
        result
    }

    fn open_or_make(options: Options) -> Result<Self, DataplaneError> {
        let directory = options.pin_directory.clone();
        prepare_directory(&directory)?;
        check_layout(&directory, &options)?;
        let mut ebpf = load(&directory, &options)?;
        begin_identifications(&mut ebpf)?;
        let settings = Array::try_from(take(&mut ebpf, map_names::SETTINGS)?)
            .map_err(|e| failed("open the map settings", e))?;
        let services = HashMap::try_from(take(&mut ebpf, map_names::SERVICES)?)
            .map_err(|e| failed("open the map services", e))?;
        let pools = Array::try_from(take(&mut ebpf, map_names::POOLS)?)
            .map_err(|e| failed("open the map pools", e))?;
        let backends = Array::try_from(take(&mut ebpf, map_names::BACKENDS)?)
            .map_err(|e| failed("open the map backends", e))?;
        let endpoints = HashMap::try_from(take(&mut ebpf, map_names::ENDPOINTS)?)
            .map_err(|e| failed("open the map endpoints", e))?;
        let slots = Array::try_from(take(&mut ebpf, map_names::SLOTS)?)
            .map_err(|e| failed("open the map slots", e))?;
        let affinity = HashMap::try_from(take(&mut ebpf, map_names::AFFINITY)?)
            .map_err(|e| failed("open the map affinity", e))?;
        let stats = PerCpuArray::try_from(take(&mut ebpf, map_names::STATS)?)
            .map_err(|e| failed("open the map stats", e))?;
        let drops = PerCpuArray::try_from(take(&mut ebpf, map_names::DROPS)?)
            .map_err(|e| failed("open the map drops", e))?;
        let mut kernel = Self {
            maglev: Maglev::map(&directory.join(map_names::MAGLEV))?,
            ranges: Ranges::map(&directory.join(map_names::RANGES))?,
            records: Records::map(&directory.join(map_names::RECORDS), options.max_flows)?,
            epoch: epoch(&mut ebpf)?,
            options,
            ebpf,
            attachments: Vec::new(),
            adopted: false,
            settings,
            services,
            pools,
            backends,
            endpoints,
            slots,
            affinity,
            stats,
            drops,
            given: Given::default(),
        };
        kernel.adopt_settings()?;
        if kernel.adopted {
            kernel.given = Given::in_image(&kernel.image()?);
        }
        kernel.attach_all()?;
        Ok(kernel)
    }

    /// Returns whether the maps of a former daemon were adopted.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Returns a sweeper of this data path, with handles of its own.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when a pinned map cannot be opened again.
    pub fn sweeper(&mut self) -> Result<sweep::Sweeper, DataplaneError> {
        let log = aya_log::EbpfLogger::init(&mut self.ebpf).ok();
        sweep::Sweeper::open(&self.options, self.records.clone(), self.epoch.clone(), log)
    }

    /// Lets the program forget translations that it keeps for some moments. Whoever changes maps
    /// by other means than [`Dataplane::apply`] says so by this.
    pub fn begin_epoch(&self) {
        self.epoch.begin();
    }

    /// Runs the program on one frame, as if it had come in by the first interface of this network
    /// namespace (its loopback), and returns the XDP action and the frame that came out.
    ///
    /// Source: `BPF_PROG_TEST_RUN`, kernel Documentation/bpf/bpf_prog_run.rst.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the kernel refuses the run.
    pub fn test_run(&self, frame: &[u8]) -> Result<(u32, Vec<u8>), DataplaneError> {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let program: &Xdp = self
            .program()?
            .try_into()
            .map_err(|e| failed("use the program as XDP", e))?;
        let result = program
            .test_run(options)
            .map_err(|e| failed("run the program on a frame", e))?;
        let (action, length) = (result.return_value, result.data_size_out as usize);
        out.truncate(length);
        Ok((action, out))
    }

    /// Returns a descriptor of the program: for a benchmark that runs it behind another one.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the descriptor cannot be copied.
    pub fn program_fd(&mut self) -> Result<aya::programs::ProgramFd, DataplaneError> {
        program(&mut self.ebpf)?
            .fd()
            .map_err(|e| failed("use the program", e))?
            .try_clone()
            .map_err(|e| failed("copy the program's descriptor", e))
    }

    /// Iterates over the records: the index and the claim of each.
    pub fn records(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (0..self.records.len()).map(|index| (index, self.records.claim(index)))
    }

    /// Returns the kernel memory that the pinned maps and the program's own take, by name, in
    /// bytes as the kernel reckons them.
    ///
    /// # Errors
    ///
    /// [`DataplaneError`] when the kernel does not say.
    pub fn memory(&self) -> Result<BTreeMap<String, u64>, DataplaneError> {
        let info = self
            .program()?
            .info()
            .map_err(|e| failed("ask for the program", e))?;
        let ids = info
            .map_ids()
            .map_err(|e| failed("ask for the program's maps", e))?
            .unwrap_or_default();
        let mut memory = BTreeMap::new();
        for id in ids {
            let map = aya::maps::MapInfo::from_id(id).map_err(|e| failed("ask for a map", e))?;
            let fd = map.fd().map_err(|e| failed("open a map", e))?;
            let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
            let text =
                std::fs::read_to_string(&path).map_err(|e| failed(&format!("read {path}"), e))?;
            let bytes = text
                .lines()
                .find_map(|line| line.strip_prefix("memlock:"))
                .and_then(|bytes| bytes.trim().parse().ok())
                .unwrap_or_default();
            memory.insert(map.name_as_str().unwrap_or_default().to_owned(), bytes);
        }
        Ok(memory)
    }

    fn program(&self) -> Result<&Program, DataplaneError> {
        self.ebpf.program(PROGRAM).ok_or_else(no_program)
    }

    /// Writes the parts of the settings that no plan changes, or checks that they still hold.
    fn adopt_settings(&mut self) -> Result<(), DataplaneError> {
        let mut settings = self.read_settings()?;
        let options = &self.options;
        if settings.layout_version == 0 {
            settings = Settings {
                layout_version: LAYOUT_VERSION,
                seed: random(),
                quarantine_s: limits::SNAT_QUARANTINE_S,
                slots: options.slots(),
                snat_port_first: options.snat_port_first,
                snat_port_count: options.snat_port_count,
                slot_reciprocal: reciprocal(options.snat_port_count),
                ..Settings::default()
            };
            return self
                .settings
                .set(0, settings, 0)
                .map_err(|e| failed("write settings", e));
        }
        self.adopted = true;
        let pinned = (settings.snat_port_first, settings.snat_port_count);
        let wanted = (options.snat_port_first, options.snat_port_count);
        if pinned == wanted {
            return Ok(());
        }
        let range = |(first, count): (u16, u16)| {
            format!(
                "{first}-{}",
                u32::from(first) + u32::from(count).saturating_sub(1)
            )
        };
        Err(message(format!(
            "node.snat_ports = \"{}\", but the flows of the running data path use {}; keep that \
             range, or run \"vipd detach\" (it ends every flow) and start again",
            range(wanted),
            range(pinned),
        )))
    }

    fn attach_all(&mut self) -> Result<(), DataplaneError> {
        let directory = self.options.pin_directory.clone();
        let program = program(&mut self.ebpf)?;
        attach::forget_others(&directory, &self.options.interfaces)?;
        for interface in &self.options.interfaces {
            let attachment = attach::attach(program, &directory, interface, self.options.mode)?;
            self.attachments.push(attachment);
        }
        attach::pin_program(program, &directory.join(PROGRAM_PIN))
    }

    fn read_settings(&self) -> Result<Settings, DataplaneError> {
        self.settings
            .get(&0, 0)
            .map_err(|e| failed("read settings", e))
    }

    fn apply_one(&mut self, operation: &MapOp) -> Result<(), MapError> {
        match operation {
            MapOp::Settings(settings) => self.settings.set(0, **settings, 0),
            MapOp::Backend(id, backend) => {
                self.given.backend(*id);
                self.backends.set(u32::from(*id), **backend, 0)
            }
            MapOp::RemoveBackend(id) => self.backends.set(u32::from(*id), Backend::FREE, 0),
            MapOp::Table { pool, half, table } => {
                self.maglev.write(*pool, *half, table);
                Ok(())
            }
            MapOp::Ranges { half, entries } => {
                self.ranges.write(*half, entries);
                Ok(())
            }
            MapOp::Pool(id, pool) => self.pools.set(u32::from(*id), **pool, 0),
            MapOp::RemovePool(id) => self.pools.set(u32::from(*id), FREE_POOL, 0),
            // A slot says nothing while no endpoint leads to it.
            MapOp::Endpoint(key, endpoint) => self
                .slots
                .set(endpoint.slot, *key, 0)
                .and_then(|()| self.endpoints.insert(key, endpoint, 0)),
            MapOp::RemoveEndpoint(key) => self.remove_endpoint(key),
            MapOp::Service(key, service) => {
                self.given.service(service.id);
                self.services.insert(key, **service, 0)
            }
            MapOp::RemoveService(key) => absent_is_fine(self.services.remove(key)),
            MapOp::ClearServiceCounters(id) => self.clear(service_index(u32::from(*id))),
            MapOp::ClearBackendCounters(id) => self.clear(backend_index(u32::from(*id))),
        }
    }

    fn remove_endpoint(&mut self, key: &EndpointKey) -> Result<(), MapError> {
        if let Ok(endpoint) = self.endpoints.get(key, 0) {
            let nobody = EndpointKey::new([0; 16], [0; 16], 0, 0);
            self.slots.set(endpoint.slot, nobody, 0)?;
        }
        absent_is_fine(self.endpoints.remove(key))
    }

    fn clear(&mut self, index: u32) -> Result<(), MapError> {
        let zeros = vec![Counters::default(); self.stats.get(&index, 0)?.len()];
        self.stats.set(
            index,
            aya::maps::PerCpuValues::try_from(zeros).map_err(MapError::IoError)?,
            0,
        )
    }
}

impl Dataplane for Kernel {
    fn image(&self) -> Result<Image, DataplaneError> {
        let mut image = Image {
            settings: self.read_settings()?,
            ..Image::default()
        };
        for entry in self.services.iter() {
            let (key, service) = entry.map_err(|e| failed("read services", e))?;
            image.services.insert(key, service);
        }
        image.ranges =
            RangesImage::named(&image.services, |half, count| self.ranges.read(half, count));
        for entry in self.endpoints.iter() {
            let (key, endpoint) = entry.map_err(|e| failed("read endpoints", e))?;
            image.endpoints.insert(key, endpoint);
        }
        for id in 0..MAX_BACKENDS as u16 {
            let backend = self
                .backends
                .get(&u32::from(id), 0)
                .map_err(|e| failed("read backends", e))?;
            if backend.present != 0 {
                image.backends.insert(id, backend);
            }
        }
        for id in 0..MAX_POOLS as u16 {
            let pool = self
                .pools
                .get(&u32::from(id), 0)
                .map_err(|e| failed("read pools", e))?;
            if pool.name[0] != 0 {
                let table = self.maglev.read(id, pool.half).into();
                image.pools.insert(id, PoolImage { pool, table });
            }
        }
        Ok(image)
    }

    fn apply(&mut self, operations: &[MapOp]) -> Result<(), DataplaneError> {
        let done = operations.iter().try_for_each(|operation| {
            self.apply_one(operation)
                .map_err(|e| failed(&format!("carry out {}", describe(operation)), e))
        });
        self.epoch.begin();
        done
    }

    fn counters(&self) -> Result<CounterSnapshot, DataplaneError> {
        let sum = |index: u32| -> Result<Counters, DataplaneError> {
            let values = self
                .stats
                .get(&index, 0)
                .map_err(|e| failed("read stats", e))?;
            let mut total = Counters::default();
            for counters in values.iter() {
                total += *counters;
            }
            Ok(total)
        };
        // Each costs a call of the kernel, and most numbers are nobody's.
        let sums = |most: u32, given: u32, index: fn(u32) -> u32| {
            (0..most)
                .map(|id| match id < given {
                    true => sum(index(id)),
                    false => Ok(Counters::default()),
                })
                .collect::<Result<_, _>>()
        };
        Ok(CounterSnapshot {
            services: sums(MAX_SERVICES, self.given.services, service_index)?,
            backends: sums(MAX_BACKENDS, self.given.backends, backend_index)?,
            drops: DropReason::ALL
                .iter()
                .map(|&reason| {
                    let values = self
                        .drops
                        .get(&(reason as u32), 0)
                        .map_err(|e| failed("read drops", e))?;
                    Ok((reason, values.iter().sum()))
                })
                .collect::<Result<_, DataplaneError>>()?,
        })
    }

    fn affinity(&self, client: IpAddr, group: u32) -> Result<Option<(u16, u32)>, DataplaneError> {
        let key = AffinityKey {
            client: bytes(client),
            group,
        };
        match self.affinity.get(&key, 0) {
            Ok(entry) => Ok(Some((
                entry.backend,
                clock::seconds().saturating_sub(entry.last_seen),
            ))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read affinity", error)),
        }
    }

    fn flows(&self, limit: usize, filter: &dyn Fn(&FlowView) -> bool) -> Vec<FlowView> {
        let Ok(settings) = self.read_settings() else {
            return Vec::new();
        };
        let endpoints: BTreeMap<u32, EndpointKey> = self
            .endpoints
            .iter()
            .filter_map(Result::ok)
            .map(|(key, endpoint)| (endpoint.slot, key))
            .collect();
        let now = clock::seconds();
        let count = u32::from(settings.snat_port_count).max(1);
        (0..self.records.len())
            .filter_map(|index| {
                let record = self.records.copy(index);
                let claim = Claim::unpack(record.claim);
                if !matches!(claim.state, State::Live | State::Closing) {
                    return None;
                }
                let endpoint = endpoints.get(&(index / count))?;
                Some(FlowView {
                    client: (address(record.client), record.client_port),
                    vip: (address(record.vip), record.vip_port),
                    snat: (
                        address(endpoint.snat),
                        settings
                            .snat_port_first
                            .wrapping_add((index % count) as u16),
                    ),
                    endpoint: (address(endpoint.backend), endpoint.port),
                    service: record.service,
                    backend: claim.backend,
                    idle: Duration::from_secs(u64::from(now.saturating_sub(record.last_seen))),
                    replied: record.replied != 0,
                })
            })
            .filter(|flow| filter(flow))
            .take(limit)
            .collect()
    }

    fn attachments(&self) -> Vec<Attachment> {
        self.attachments.clone()
    }

    fn reattach(&mut self, interface: &str) -> Result<Attachment, DataplaneError> {
        let directory = self.options.pin_directory.clone();
        let program = program(&mut self.ebpf)?;
        attach::forget_others(&directory, &self.options.interfaces)?;
        let attachment = attach::attach(program, &directory, interface, self.options.mode)?;
        self.attachments.retain(|a| a.interface != interface);
        self.attachments.push(attachment.clone());
        Ok(attachment)
    }

    fn auditor(&self) -> Result<Auditor, DataplaneError> {
        Auditor::open(&self.options, self.records.clone())
    }
}

/// Returns a number that nobody outside can know: the standard library draws the keys of its hash
/// tables from the system's random numbers.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// Removes everything that is pinned under `directory`: the program is detached, every flow and
/// every remembered client is forgotten. Returns whether there was anything.
///
/// # Errors
///
/// [`DataplaneError`] when a pin cannot be removed.
pub fn remove_pins(directory: &Path) -> Result<bool, DataplaneError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(&format!("list {}", directory.display()), error)),
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|e| e.path()).collect();
    // Links first: with the last of them the program lets go of the maps.
    paths.sort_by_key(|path| !attach::is_link(path));
    for path in &paths {
        std::fs::remove_file(path)
            .map_err(|e| failed(&format!("remove the pin {}", path.display()), e))?;
    }
    std::fs::remove_dir(directory)
        .map_err(|e| failed(&format!("remove {}", directory.display()), e))?;
    Ok(true)
}

/// Returns whether nothing is pinned under `directory`.
fn is_empty(directory: &Path) -> bool {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// A pool's number that is not in use.
const FREE_POOL: Pool = Pool {
    half: 0,
    eligible: 0,
    member_count: 0,
    members: [0; limits::MAX_POOL_MEMBERS],
    name: [0; limits::NAME_BYTES],
};

fn prepare_directory(directory: &Path) -> Result<(), DataplaneError> {
    let parent = directory.parent().unwrap_or(directory);
    if !layout::is_bpffs(parent) {
        return Err(message(format!(
            "{0} is no BPF file system; mount one: mount -t bpf bpf {0}",
            parent.display()
        )));
    }
    std::fs::create_dir_all(directory)
        .map_err(|e| failed(&format!("make the directory {}", directory.display()), e))
}

/// Compares every pinned map with what this version would make.
fn check_layout(directory: &Path, options: &Options) -> Result<(), DataplaneError> {
    let mut expected =
        layout::expected(OBJECT).map_err(|e| failed("read the layout of the program's maps", e))?;
    let sizes = sizes(options);
    let mut faults = Vec::new();
    for name in map_names::ALL {
        let Some(layout) = expected.get_mut(name) else {
            return Err(message(format!("the program has no map called {name}")));
        };
        if let Some((_, entries)) = sizes.iter().find(|(sized, _)| *sized == name) {
            layout.max_entries = *entries;
        }
        let path = directory.join(name);
        let pinned = layout::pinned(&path)
            .map_err(|e| failed(&format!("inspect the pinned map {}", path.display()), e))?;
        if let Some(pinned) = pinned {
            faults.extend(
                layout
                    .differences(&pinned)
                    .into_iter()
                    .map(|difference| format!("{name}: {difference}")),
            );
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(message(format!(
        "the maps pinned under {} were made by another version or with other sizes ({}); start \
         the version and configuration that made them, or run \"vipd detach\" (it ends every \
         flow) and start again",
        directory.display(),
        faults.join("; ")
    )))
}

/// Returns the capacity of each map that is sized by the configuration.
fn sizes(options: &Options) -> [(&'static str, u32); 4] {
    [
        (map_names::FLOWS, options.max_flows),
        (map_names::FLOWS6, options.max_flows),
        (map_names::RECORDS, options.max_flows),
        (map_names::AFFINITY, options.max_affinity),
    ]
}

fn load(directory: &Path, options: &Options) -> Result<Ebpf, DataplaneError> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(CACHE, limits::cache_sets(options.max_flows));
    loader.map_max_entries(EXACT, limits::exact_sets(options.max_flows));
    for (name, entries) in sizes(options) {
        loader.map_max_entries(name, entries);
    }
    for name in map_names::ALL {
        loader.map_pin_path(name, directory.join(name));
    }
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|e| failed("load the XDP program and its maps", e))?;
    program(&mut ebpf)?
        .load()
        .map_err(|e| failed("have the kernel verify the XDP program", e))?;
    Ok(ebpf)
}

/// Lets the identifications of fragmented datagrams begin anywhere: those of a former program may
/// still be on their way.
fn begin_identifications(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    let mut next: Array<MapData, u64> = Array::try_from(take(ebpf, IDENTIFICATION)?)
        .map_err(|e| failed("open the map identification", e))?;
    next.set(0, random(), 0)
        .map_err(|e| failed("write the map identification", e))
}

fn epoch(ebpf: &mut Ebpf) -> Result<Epoch, DataplaneError> {
    match take(ebpf, EPOCH)? {
        Map::Array(data) => Epoch::map(&data),
        _ => Err(message(format!("the map {EPOCH} is no array"))),
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DataplaneError> {
    ebpf.program_mut(PROGRAM)
        .ok_or_else(no_program)?
        .try_into()
        .map_err(|e| failed("use the program as XDP", e))
}

fn no_program() -> DataplaneError {
    message(format!("the object has no program called {PROGRAM}"))
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, DataplaneError> {
    ebpf.take_map(name)
        .ok_or_else(|| message(format!("the program has no map called {name}")))
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn describe(operation: &MapOp) -> String {
    match operation {
        MapOp::Settings(_) => "the change of settings".to_owned(),
        MapOp::Backend(id, _) => format!("the change of backend {id}"),
        MapOp::RemoveBackend(id) => format!("the removal of backend {id}"),
        MapOp::Table { pool, half, table } => {
            debug_assert_eq!(table.len(), MAGLEV_SLOTS as usize);
            format!("the change of half {half} of pool {pool}'s table")
        }
        MapOp::Ranges { half, entries } => {
            format!(
                "the change of half {half} of ranges, {} entries",
                entries.len()
            )
        }
        MapOp::Pool(id, _) => format!("the change of pool {id}"),
        MapOp::RemovePool(id) => format!("the removal of pool {id}"),
        MapOp::Endpoint(_, endpoint) => format!("the change of endpoint slot {}", endpoint.slot),
        MapOp::RemoveEndpoint(_) => "the removal of an endpoint".to_owned(),
        MapOp::Service(_, service) => format!("the change of service {}", service.id),
        MapOp::RemoveService(_) => "the removal of a service".to_owned(),
        MapOp::ClearServiceCounters(id) => format!("the reset of service {id}'s counters"),
        MapOp::ClearBackendCounters(id) => format!("the reset of backend {id}'s counters"),
    }
}

/// Returns the error for `what`, which failed because of `source`.
pub(super) fn failed(
    what: &str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> DataplaneError {
    DataplaneError {
        what: format!("cannot {what}"),
        source: Some(Box::new(source)),
    }
}

/// Returns an error that has no other cause.
pub(super) fn message(what: String) -> DataplaneError {
    DataplaneError { what, source: None }
}

/// Opens a pinned map with these key and value types, whose layout has been compared.
pub(super) fn pinned_hash<K: Pod, V: Pod>(
    path: &Path,
) -> Result<HashMap<MapData, K, V>, DataplaneError> {
    let data = MapData::from_pin(path)
        .map_err(|e| failed(&format!("open the pinned map {}", path.display()), e))?;
    HashMap::try_from(Map::HashMap(data))
        .map_err(|e| failed(&format!("use the pinned map {}", path.display()), e))
}

/// Opens a pinned array with this value type, whose layout has been compared.
pub(super) fn pinned_array<V: Pod>(path: &Path) -> Result<Array<MapData, V>, DataplaneError> {
    let data = MapData::from_pin(path)
        .map_err(|e| failed(&format!("open the pinned map {}", path.display()), e))?;
    Array::try_from(Map::Array(data))
        .map_err(|e| failed(&format!("use the pinned map {}", path.display()), e))
}
