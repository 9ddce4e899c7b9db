//! Makes type information, and objects that carry it.

use object::{
    Architecture, BinaryFormat, Endianness, SectionKind,
    write::{Object, StandardSegment},
};

use crate::dataplane::layout::btf::kind;

/// Type information in the making. Types are numbered in the order of the calls.
pub(super) struct Forge {
    types: Vec<u8>,
    count: u32,
    strings: Vec<u8>,
}

impl Forge {
    pub(super) fn new() -> Self {
        Self {
            types: Vec::new(),
            count: 0,
            strings: vec![0],
        }
    }

    /// Adds a type of any kind, `extra` behind its three words, and returns its number.
    pub(super) fn raw(&mut self, name: &str, info: u32, size: u32, extra: &[u32]) -> u32 {
        let name = self.string(name);
        for word in [name, info, size].iter().chain(extra) {
            self.types.extend(word.to_ne_bytes());
        }
        self.count += 1;
        self.count
    }

    pub(super) fn of(&mut self, kind: u8, name: &str, size: u32, extra: &[u32]) -> u32 {
        self.raw(name, u32::from(kind) << 24, size, extra)
    }

    pub(super) fn unsigned(&mut self, name: &str, bytes: u32) -> u32 {
        self.of(kind::INT, name, bytes, &[bytes * 8])
    }

    pub(super) fn array(&mut self, element: u32, length: u32) -> u32 {
        let index = self.unsigned("index", 4);
        self.of(kind::ARRAY, "", 0, &[element, index, length])
    }

    pub(super) fn pointer(&mut self, to: u32) -> u32 {
        self.of(kind::POINTER, "", to, &[])
    }

    /// Adds a struct: name, type and offset in bytes of each field.
    pub(super) fn structure(&mut self, name: &str, bytes: u32, fields: &[(&str, u32, u32)]) -> u32 {
        let mut extra = Vec::new();
        for (name, ty, offset) in fields {
            extra.extend([self.string(name), *ty, offset * 8]);
        }
        let info = u32::from(kind::STRUCT) << 24 | fields.len() as u32;
        self.raw(name, info, bytes, &extra)
    }

    /// Adds the definition of a map and its variable, which it returns.
    pub(super) fn map(&mut self, name: &str, members: &[(&str, u32)]) -> u32 {
        let members: Vec<_> = members
            .iter()
            .zip(0..)
            .map(|((name, ty), index)| (*name, *ty, index * 8))
            .collect();
        let definition = self.structure("definition", members.len() as u32 * 8, &members);
        self.of(kind::VARIABLE, name, definition, &[1])
    }

    /// Adds a number as definitions of maps have it.
    pub(super) fn number(&mut self, number: u32) -> u32 {
        let int = self.unsigned("int", 4);
        let array = self.array(int, number);
        self.pointer(array)
    }

    /// Adds section `.maps`. All variables in it must have five members.
    pub(super) fn maps(&mut self, variables: &[u32]) {
        let mut extra = Vec::new();
        for (variable, index) in variables.iter().zip(0..) {
            extra.extend([*variable, index * 40, 40]);
        }
        let count = variables.len() as u32;
        let info = u32::from(kind::SECTION) << 24 | count;
        self.raw(".maps", info, count * 40, &extra);
    }

    pub(super) fn finish(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xeb9f_u16.to_ne_bytes());
        bytes.extend([1, 0]);
        let types = self.types.len() as u32;
        for word in [24, 0, types, types, self.strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }
}

/// Returns an object for the kernel with `types` as its type information.
pub(super) fn elf(types: &[u8]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let segment = object.segment_name(StandardSegment::Debug).to_vec();
    let section = object.add_section(segment, b".BTF".to_vec(), SectionKind::Other);
    object.append_section_data(section, types, 4);
    object.write().expect("an object with one section")
}

/// The flow table in small: a struct for a key, and a value that `fields` make.
pub(super) struct FlowTable {
    pub(super) types: Vec<u8>,
    pub(super) key: u32,
    pub(super) value: u32,
}

impl FlowTable {
    /// Makes `flows`, a hash of 64 entries without flags; `fields` are the name, bytes and offset
    /// of the value's fields.
    pub(super) fn new(value_size: u32, fields: &[(&str, u32, u32)]) -> Self {
        let mut forge = Forge::new();
        let byte = forge.unsigned("u8", 1);
        let address = forge.array(byte, 4);
        let port = forge.unsigned("u16", 2);
        let key = forge.structure(
            "FlowKey",
            8,
            &[
                ("client", address, 0),
                ("client_port", port, 4),
                ("vip_port", port, 6),
            ],
        );
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, bytes, offset)| (*name, forge.unsigned("number", *bytes), *offset))
            .collect();
        let value = forge.structure("Flow", value_size, &fields);
        let members = [
            ("type", forge.number(1)),
            ("key", forge.pointer(key)),
            ("value", forge.pointer(value)),
            ("max_entries", forge.number(64)),
            ("map_flags", forge.number(0)),
        ];
        let flows = forge.map("flows", &members);
        forge.maps(&[flows]);
        Self {
            types: forge.finish(),
            key,
            value,
        }
    }
}
