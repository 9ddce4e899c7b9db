//! Reading type information and definitions, sound and damaged.

use proptest::prelude::*;

use super::forge::{FlowTable, Forge, elf};
use crate::dataplane::layout::{
    BtfError, LayoutError,
    btf::{Btf, kind},
    expected,
};

/// Describes type `id` of what was forged.
fn describe(forge: &Forge, id: u32) -> Result<String, BtfError> {
    let bytes = forge.finish();
    let shape = Btf::parse(&bytes)?.shape(id)?;
    Ok(shape.to_string())
}

#[test]
fn a_struct_is_described_by_its_fields() {
    let mut forge = Forge::new();
    let byte = forge.unsigned("u8", 1);
    let address = forge.array(byte, 4);
    let port = forge.unsigned("u16", 2);
    let key = forge.structure(
        "Key",
        6,
        &[("client", address, 0), ("client_port", port, 4)],
    );
    let outer = forge.structure("Outer", 8, &[("key", key, 0), ("slot", port, 6)]);

    assert_eq!(
        describe(&forge, outer).as_deref(),
        Ok("{key: {client: [u8; 4] @0, client_port: u16 @4} 6 bytes @0, slot: u16 @6} 8 bytes")
    );
}

#[test]
fn every_kind_of_type_is_described() {
    let mut forge = Forge::new();
    let signed = forge.of(kind::INT, "i64", 8, &[1 << 24 | 64]);
    let boolean = forge.of(kind::INT, "bool", 1, &[4 << 24 | 8]);
    let partial = forge.of(kind::INT, "part", 4, &[3 << 16 | 5]);
    let float = forge.of(kind::FLOAT, "f32", 4, &[]);
    let small = forge.raw("e", u32::from(kind::ENUM) << 24 | 1, 4, &[0, 7]);
    let large = forge.raw(
        "e",
        1 << 31 | u32::from(kind::ENUM64) << 24 | 1,
        8,
        &[0, 7, 0],
    );
    let pointer = forge.pointer(signed);
    let forward = forge.of(kind::FORWARD, "later", 0, &[]);
    let prototype = forge.raw(
        "",
        u32::from(kind::FUNCTION_PROTOTYPE) << 24 | 1,
        0,
        &[0, signed],
    );
    let function = forge.of(kind::FUNCTION, "call", prototype, &[]);
    let tag = forge.of(kind::DECLARATION_TAG, "tag", signed, &[u32::MAX]);
    let fields = forge.raw("u", u32::from(kind::UNION) << 24 | 1, 8, &[0, signed, 0]);
    let bits = 1 << 31 | u32::from(kind::STRUCT) << 24 | 1;
    let bit_field = forge.raw("b", bits, 4, &[0, small, 5 << 24 | 11]);

    for (id, text) in [
        (0, "opaque"),
        (signed, "i64"),
        (boolean, "bool"),
        (partial, "u5 from bit 3 of 4 bytes"),
        (float, "f32"),
        (small, "enum u32"),
        (large, "enum i64"),
        (pointer, "pointer"),
        (forward, "opaque"),
        (prototype, "opaque"),
        (function, "opaque"),
        (tag, "opaque"),
        (fields, "union {: i64 @0} 8 bytes"),
        (bit_field, "{: enum u32 @1.3 (5 bits)} 4 bytes"),
    ] {
        assert_eq!(describe(&forge, id).as_deref(), Ok(text), "type {id}");
    }
}

#[test]
fn names_and_qualifiers_of_types_make_no_difference() {
    let mut forge = Forge::new();
    let plain = forge.unsigned("u32", 4);
    let mut id = forge.unsigned("__u32", 4);
    for kind in [
        kind::TYPEDEF,
        kind::CONST,
        kind::VOLATILE,
        kind::RESTRICT,
        kind::TYPE_TAG,
    ] {
        id = forge.of(kind, "other", id, &[]);
    }
    assert_eq!(describe(&forge, id), describe(&forge, plain));
}

#[test]
fn a_type_within_itself_is_refused() {
    let mut forge = Forge::new();
    let next = 2;
    let first = forge.structure("A", 4, &[("b", next, 0)]);
    forge.structure("B", 4, &[("a", first, 0)]);
    let loops = forge.of(kind::TYPEDEF, "loop", 3, &[]);

    assert!(matches!(describe(&forge, first), Err(BtfError::TooDeep(_))));
    assert!(matches!(describe(&forge, loops), Err(BtfError::TooDeep(_))));
    let bytes = forge.finish();
    let btf = Btf::parse(&bytes).expect("sound but for the loop");
    assert_eq!(btf.array_length(loops), Err(BtfError::TooDeep(loops)));
}

#[test]
fn a_type_that_doubles_with_each_level_is_refused() {
    let mut forge = Forge::new();
    let mut id = forge.unsigned("u8", 1);
    for _ in 0..30 {
        id = forge.structure("Twice", 1, &[("a", id, 0), ("b", id, 0)]);
    }
    assert!(matches!(describe(&forge, id), Err(BtfError::TooLarge(_))));
}

#[test]
fn damage_is_named() {
    let whole = {
        let mut forge = Forge::new();
        forge.unsigned("u8", 1);
        forge.finish()
    };
    let damage = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        Btf::parse(&bytes).and_then(|btf| btf.shape(1)).err()
    };
    let wrong_magic = u16::from_ne_bytes([whole[0] ^ 0xff, whole[1]]);
    assert_eq!(
        damage(0, whole[0] ^ 0xff),
        Some(BtfError::Magic(wrong_magic))
    );
    assert_eq!(damage(2, 9), Some(BtfError::Version(9)));
    // The kind is the fourth byte of the type's second word where bytes are in little order.
    if cfg!(target_endian = "little") {
        assert_eq!(damage(24 + 7, 31), Some(BtfError::UnknownKind(31)));
    }
    let cut = Btf::parse(&whole[..30]).err();
    assert_eq!(cut, Some(BtfError::CutShort));

    let btf = Btf::parse(&whole).expect("undamaged");
    assert_eq!(btf.shape(2), Err(BtfError::NoType(2)));
    assert_eq!(btf.shape(u32::MAX), Err(BtfError::NoType(u32::MAX)));
}

#[test]
fn a_field_with_a_name_outside_of_the_strings_is_refused() {
    let mut forge = Forge::new();
    let byte = forge.unsigned("u8", 1);
    let info = u32::from(kind::STRUCT) << 24 | 1;
    let id = forge.raw("s", info, 1, &[1_000_000, byte, 0]);
    assert_eq!(describe(&forge, id), Err(BtfError::NoName(1_000_000)));
}

#[test]
fn definitions_of_maps_are_read_from_an_object() {
    let flows = FlowTable::new(
        16,
        &[("record", 4, 0), ("generation", 4, 4), ("seen", 8, 8)],
    );
    let maps = expected(&elf(&flows.types)).expect("a sound object");

    assert_eq!(maps.keys().collect::<Vec<_>>(), ["flows"]);
    let flows = &maps["flows"];
    assert_eq!((flows.kind, flows.key_size, flows.value_size), (1, 8, 16));
    assert_eq!((flows.max_entries, flows.flags), (64, 0));
    assert_eq!(
        flows.key.as_ref().map(ToString::to_string).as_deref(),
        Some("{client: [u8; 4] @0, client_port: u16 @4, vip_port: u16 @6} 8 bytes")
    );
    assert_eq!(
        flows.value.as_ref().map(ToString::to_string).as_deref(),
        Some("{record: u32 @0, generation: u32 @4, seen: u64 @8} 16 bytes")
    );
}

#[test]
fn sizes_may_be_given_without_types() {
    let mut forge = Forge::new();
    let members = [
        ("type", forge.number(6)),
        ("key_size", forge.number(4)),
        ("value_size", forge.number(24)),
        ("max_entries", forge.number(3)),
        ("map_flags", forge.number(0x400)),
    ];
    let map = forge.map("stats", &members);
    forge.maps(&[map]);
    let maps = expected(&elf(&forge.finish())).expect("a sound object");
    let stats = &maps["stats"];
    assert_eq!((stats.kind, stats.key_size, stats.value_size), (6, 4, 24));
    assert_eq!((stats.max_entries, stats.flags), (3, 0x400));
    assert_eq!((&stats.key, &stats.value), (&None, &None));
}

#[test]
fn unusable_objects_are_refused_with_the_reason() {
    let said = |object: &[u8]| {
        let error = expected(object).expect_err("an unusable object");
        error.to_string()
    };
    assert_eq!(
        said(b"#!/bin/sh"),
        "the kernel object cannot be read as an ELF file; build it again"
    );
    let no_maps = Forge::new();
    assert!(said(&elf(&no_maps.finish())).starts_with("the kernel object has no section .maps"));
    assert_eq!(
        said(&elf(b"BTF")),
        "the type information of the kernel object is damaged"
    );

    let mut no_type = Forge::new();
    let members = [("key", no_type.number(4)), ("value", no_type.number(4))];
    let map = no_type.map("flows", &members);
    no_type.maps(&[map]);
    assert_eq!(
        said(&elf(&no_type.finish())),
        r#"map flows of the kernel object is defined without a usable "type""#
    );

    let mut endless = Forge::new();
    let pointer = endless.number(1);
    let sizeless = endless.pointer(0);
    let members = [("type", pointer), ("key", sizeless), ("value", pointer)];
    let map = endless.map("flows", &members);
    endless.maps(&[map]);
    let error = expected(&elf(&endless.finish())).expect_err("a key of void");
    assert!(matches!(
        error,
        LayoutError::Definition { member: "key", .. }
    ));
}

/// Reads everything that there is to read.
fn exhaust(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    let _variables = btf.variables(".maps");
    for id in (0..64).chain([u32::MAX]) {
        let _answers = (btf.members(id), btf.pointee(id), btf.array_length(id));
        if let Ok(shape) = btf.shape(id) {
            let _sizes = (shape.bytes(), shape.to_string());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        exhaust(&bytes);
        let _answer = expected(&bytes);
    }

    #[test]
    fn any_types_end_in_a_result(
        words in prop::collection::vec(
            prop_oneof![0..40_u32, any::<u32>(), (0..20_u32, 0..4_u32).prop_map(|(k, n)| k << 24 | n)],
            3..120,
        ),
    ) {
        let mut forge = Forge::new();
        forge.raw(".maps", words[1], words[2], &words[3..]);
        exhaust(&forge.finish());
        let _answer = expected(&elf(&forge.finish()));
    }

    #[test]
    fn any_damage_ends_in_a_result(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = FlowTable::new(8, &[("record", 4, 0), ("generation", 4, 4)]).types;
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        exhaust(&bytes);
        let _answer = expected(&elf(&bytes));
    }
}
