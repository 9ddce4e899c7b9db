//! Maps in the kernel, pinned in a file system that only the test sees. Needs root.
#![expect(
    unsafe_code,
    reason = "mounts, mount namespaces and the making of maps have no safe binding here"
)]

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    thread,
};

use super::forge::{FlowTable, elf};
use crate::dataplane::layout::{
    LayoutError, MapLayout, expected, is_bpffs,
    kernel::{bpf, bpf_fd},
    pinned,
};

/// Runs `test` with a directory where BPF objects can be pinned. Both go with the end of the
/// test's thread, which has a mount namespace of its own.
fn with_bpffs(test: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    thread::scope(|scope| {
        let test = scope.spawn(|| {
            mount_bpffs(directory.path()).expect("a private bpf file system; run this as root");
            test(directory.path());
        });
        test.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn mount_bpffs(directory: &Path) -> io::Result<()> {
    let check = |result| {
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    let target = std::ffi::CString::new(directory.as_os_str().as_encoded_bytes())?;
    // SAFETY: changes the mount namespace of this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    let none = std::ptr::null();
    // SAFETY: all arguments are C strings or null, which mount(2) allows where it ignores them.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
    let bpf = c"bpf".as_ptr();
    // SAFETY: as above.
    check(unsafe { libc::mount(bpf, target.as_ptr(), bpf, 0, none.cast()) })
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_BTF_LOAD: libc::c_int = 18;

fn load_btf(types: &[u8]) -> OwnedFd {
    #[repr(C)]
    struct BtfLoad {
        bytes: u64,
        log: u64,
        size: u32,
        log_size: u32,
    }
    let mut attributes = BtfLoad {
        bytes: types.as_ptr() as u64,
        log: 0,
        size: types.len() as u32,
        log_size: 0,
    };
    // SAFETY: BtfLoad is what the command takes, and `types` outlives the call.
    unsafe { bpf_fd(BPF_BTF_LOAD, &mut attributes) }.expect("BPF_BTF_LOAD")
}

/// Makes the map that `layout` tells of, its types from `table` if there is one.
fn create(layout: &MapLayout, table: Option<&FlowTable>) -> OwnedFd {
    #[repr(C)]
    #[derive(Default)]
    struct MapCreate {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        inner: u32,
        numa_node: u32,
        name: [u8; 16],
        interface: u32,
        btf: u32,
        key_type: u32,
        value_type: u32,
    }
    let mut attributes = MapCreate {
        kind: layout.kind,
        key_size: layout.key_size,
        value_size: layout.value_size,
        max_entries: layout.max_entries,
        flags: layout.flags,
        ..MapCreate::default()
    };
    let btf = table.map(|table| load_btf(&table.types));
    if let (Some(btf), Some(table)) = (&btf, table) {
        attributes.btf = btf.as_raw_fd() as u32;
        attributes.key_type = table.key;
        attributes.value_type = table.value;
    }
    // SAFETY: MapCreate is what the command takes, and holds no addresses.
    unsafe { bpf_fd(BPF_MAP_CREATE, &mut attributes) }.expect("BPF_MAP_CREATE")
}

fn pin(object: &OwnedFd, path: &Path) {
    #[repr(C)]
    struct ObjPin {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no null");
    let mut attributes = ObjPin {
        path: path.as_ptr() as u64,
        fd: object.as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: ObjPin is what the command takes, and `path` outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attributes) }.expect("BPF_OBJ_PIN");
}

/// Loads the XDP program that passes every packet.
fn pass_program() -> OwnedFd {
    #[repr(C)]
    struct ProgLoad {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
    }
    const XDP: u32 = 6;
    // r0 = 2 (XDP_PASS); exit. Opcode and registers, offset, immediate value.
    let code: [[u32; 2]; 2] = [[0xb7, 2], [0x95, 0]];
    let mut attributes = ProgLoad {
        kind: XDP,
        instructions: 2,
        code: code.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
    };
    // SAFETY: ProgLoad is what the command takes; code and license outlive the call.
    unsafe { bpf_fd(BPF_PROG_LOAD, &mut attributes) }.expect("BPF_PROG_LOAD")
}

/// What the object that carries the table's types expects `flows` to be.
fn layout_of(table: &FlowTable) -> MapLayout {
    let mut maps = expected(&elf(&table.types)).expect("a sound object");
    maps.remove("flows").expect("its only map")
}

#[test]
fn a_pinned_map_is_what_its_object_says() {
    let table = FlowTable::new(8, &[("record", 4, 0), ("generation", 4, 4)]);
    let layout = layout_of(&table);
    with_bpffs(|directory| {
        let path = directory.join("flows");
        pin(&create(&layout, Some(&table)), &path);
        let found = pinned(&path).expect("a pinned map").expect("a pin");
        assert_eq!(found, layout);
        assert_eq!(layout.differences(&found), [""; 0]);
    });
}

#[test]
fn a_map_of_another_version_is_told_from_ours() {
    let ours = layout_of(&FlowTable::new(
        16,
        &[("record", 4, 0), ("last_seen", 8, 8)],
    ));
    let theirs = FlowTable::new(
        12,
        &[("record", 4, 0), ("colour", 4, 4), ("last_seen", 4, 8)],
    );
    let no_prealloc = 1;
    let made = MapLayout {
        max_entries: 32,
        flags: no_prealloc,
        ..layout_of(&theirs)
    };
    with_bpffs(|directory| {
        let path = directory.join("flows");
        pin(&create(&made, Some(&theirs)), &path);
        let found = pinned(&path).expect("a pinned map").expect("a pin");
        assert_eq!(
            ours.differences(&found),
            [
                "value size is 12, expected 16",
                "capacity is 32, expected 64",
                "flags are 0x1, expected 0x0",
                r#"value field "last_seen" is u32 at 8, expected u64 at 8"#,
                r#"value field "colour" is u32 at 4, expected none"#,
            ]
        );
    });
}

#[test]
fn a_map_without_type_information_is_told_from_ours() {
    let ours = layout_of(&FlowTable::new(4, &[("record", 4, 0)]));
    with_bpffs(|directory| {
        let path = directory.join("flows");
        pin(&create(&ours, None), &path);
        let found = pinned(&path).expect("a pinned map").expect("a pin");
        assert_eq!(
            ours.differences(&found),
            [
                "key has no type information",
                "value has no type information"
            ]
        );
    });
}

#[test]
fn no_pin_is_no_map() {
    with_bpffs(|directory| {
        assert_eq!(pinned(&directory.join("flows")).expect("nothing"), None);
        assert_eq!(pinned(&directory.join("no/flows")).expect("nothing"), None);
    });
}

#[test]
fn whatever_is_not_a_map_is_refused() {
    with_bpffs(|directory| {
        let program = directory.join("program");
        pin(&pass_program(), &program);
        let folder = directory.join("folder");
        std::fs::create_dir(&folder).expect("a directory among the pins");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let null = Path::new("/sys/fs/bpf/\0");
        for path in [&program, &folder, file.path(), null] {
            let error = pinned(path).expect_err("not a map");
            assert!(
                matches!(error, LayoutError::NotAMap(_)),
                "{}: {error}",
                path.display()
            );
        }
    });
}

#[test]
fn a_bpf_file_system_is_told_from_others() {
    let ordinary = tempfile::tempdir().expect("a temporary directory");
    assert!(!is_bpffs(ordinary.path()));
    assert!(!is_bpffs(Path::new("/\0")));
    with_bpffs(|directory| {
        assert!(is_bpffs(directory));
        assert!(!is_bpffs(&directory.join("nowhere")));
    });
}
